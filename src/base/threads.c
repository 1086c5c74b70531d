/* SPDX-License-Identifier: Apache-2.0
 * threads: the pool. One generation counter starts a job, one countdown ends it. Both are spun on
 * for a moment (a stage is hundreds of jobs of some 100 µs each) and then slept on.
 *
 * Invariants
 *   1. `fn`, `arg` are written before `generation` is raised (release) and read after it is seen
 *      (acquire); nobody writes them while `running` > 0.
 *   2. A worker runs generation g exactly once and then takes 1 from `running`; threads_run returns
 *      only when `running` is 0, so job g + 1 never overlaps job g.
 *   3. A sleeper registers under the lock and looks again before it waits: no wake-up is lost. */
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#define SPIN_ROUNDS \
    4000 /* some 50–100 µs of pauses: longer than the gap between two jobs of a stage */
#define MAX_THREADS 256

struct worker {
    struct threads *pool;
    int index;
};

struct threads {
    int count;
    int started; /* workers that exist, for close after a failed open */
    thread_fn fn;
    void *arg;
    _Alignas(64) atomic_uint generation;
    _Alignas(64) atomic_int running;
    _Alignas(64) atomic_uint barrier_arrived;
    atomic_uint barrier_round;
    atomic_int quit;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    pthread_t handles[MAX_THREADS];
    struct worker workers[MAX_THREADS];
};

static void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    sched_yield();
#endif
}

/* Waits until generation differs from `seen`; returns the new one. */
static unsigned wait_generation(struct threads *t, unsigned seen)
{
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        unsigned g = atomic_load_explicit(&t->generation, memory_order_acquire);
        if (g != seen)
            return g;
        spin_pause();
    }
    pthread_mutex_lock(&t->lock);
    unsigned g;
    while ((g = atomic_load_explicit(&t->generation, memory_order_acquire)) == seen)
        pthread_cond_wait(&t->work, &t->lock);
    pthread_mutex_unlock(&t->lock);
    return g;
}

static void *worker_main(void *arg)
{
    const struct worker *w = arg;
    struct threads *t = w->pool;
    unsigned seen = 0;
    for (;;) {
        seen = wait_generation(t, seen);
        if (atomic_load_explicit(&t->quit, memory_order_acquire))
            return NULL;
        t->fn(t->arg, w->index, t->count);
        if (atomic_fetch_sub_explicit(&t->running, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&t->lock);
            pthread_cond_signal(&t->done);
            pthread_mutex_unlock(&t->lock);
        }
    }
}

static void start_generation(struct threads *t)
{
    pthread_mutex_lock(&t->lock);
    atomic_fetch_add_explicit(&t->generation, 1, memory_order_release);
    pthread_cond_broadcast(&t->work);
    pthread_mutex_unlock(&t->lock);
}

pi0_status threads_open(struct threads **out, int n, struct pi0_error *err)
{
    if (n < 1 || n > MAX_THREADS)
        return pi0_fail(err, PI0_E_ARGUMENT, "threads: %d, expected 1 to %d", n, MAX_THREADS);
    struct threads *t = aligned_alloc(64, (sizeof *t + 63) / 64 * 64);
    if (!t)
        return pi0_fail(err, PI0_E_NOMEM, "thread pool: %zu bytes cannot be had", sizeof *t);
    t->count = n;
    t->started = 0;
    t->fn = NULL;
    t->arg = NULL;
    atomic_init(&t->generation, 0);
    atomic_init(&t->running, 0);
    atomic_init(&t->barrier_arrived, 0);
    atomic_init(&t->barrier_round, 0);
    atomic_init(&t->quit, 0);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->work, NULL);
    pthread_cond_init(&t->done, NULL);
    for (int i = 1; i < n; i++) {
        t->workers[i] = (struct worker){ t, i };
        if (pthread_create(&t->handles[i], NULL, worker_main, &t->workers[i])) {
            threads_close(t);
            return pi0_fail(err, PI0_E_NOMEM, "thread pool: thread %d of %d cannot be started", i,
                            n);
        }
        t->started = i;
    }
    *out = t;
    return PI0_OK;
}

void threads_close(struct threads *t)
{
    if (!t)
        return;
    atomic_store_explicit(&t->quit, 1, memory_order_release);
    start_generation(t);
    for (int i = 1; i <= t->started; i++)
        pthread_join(t->handles[i], NULL);
    pthread_cond_destroy(&t->done);
    pthread_cond_destroy(&t->work);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

int threads_count(const struct threads *t) { return t->count; }

void threads_run(struct threads *t, thread_fn fn, void *arg)
{
    if (t->count == 1) {
        fn(arg, 0, 1);
        return;
    }
    t->fn = fn;
    t->arg = arg;
    atomic_store_explicit(&t->running, t->count - 1, memory_order_relaxed);
    start_generation(t);
    fn(arg, 0, t->count);
    for (int i = 0; i < SPIN_ROUNDS; i++) {
        if (atomic_load_explicit(&t->running, memory_order_acquire) == 0)
            return;
        spin_pause();
    }
    pthread_mutex_lock(&t->lock);
    while (atomic_load_explicit(&t->running, memory_order_acquire) != 0)
        pthread_cond_wait(&t->done, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

void threads_barrier(struct threads *t)
{
    if (t->count == 1)
        return;
    unsigned round = atomic_load_explicit(&t->barrier_round, memory_order_acquire);
    unsigned n = atomic_fetch_add_explicit(&t->barrier_arrived, 1, memory_order_acq_rel) + 1;
    if (n == (unsigned)t->count) {
        atomic_store_explicit(&t->barrier_arrived, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&t->barrier_round, 1, memory_order_release);
        return;
    }
    for (int i = 0; atomic_load_explicit(&t->barrier_round, memory_order_acquire) == round; i++) {
        if (i < SPIN_ROUNDS)
            spin_pause();
        else
            sched_yield(); /* more threads than processors: let the others arrive */
    }
}

int threads_available(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set))
        return 1;
    int n = CPU_COUNT(&set);
    return n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
}
