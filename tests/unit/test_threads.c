/* SPDX-License-Identifier: Apache-2.0
 * test_threads: the pool runs a job once on each thread, its barrier holds, and the static split
 * covers every item once. Under ThreadSanitizer the same programs look for races. */
#include "base/threads.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define MAX_THREADS 9
#define N_JOBS 2000

struct tally {
    int runs[MAX_THREADS]; /* by index; each thread writes its own */
    int count[MAX_THREADS];
};

static void tally_job(void *arg, int index, int count)
{
    struct tally *t = arg;
    t->runs[index]++;
    t->count[index] = count;
}

static void every_thread_runs_every_job_once(void **state)
{
    (void)state;
    for (int n = 1; n <= MAX_THREADS; n++) {
        struct pi0_error err;
        struct threads *pool;
        struct tally t = { 0 };
        assert_int_equal(threads_open(&pool, n, &err), PI0_OK);
        assert_int_equal(threads_count(pool), n);
        for (int job = 1; job <= N_JOBS / n; job++) {
            threads_run(pool, tally_job, &t);
            for (int i = 0; i < n; i++) /* threads_run has waited for all: plain reads are safe */
                if (t.runs[i] != job || t.count[i] != n)
                    fail_msg("%d threads, job %d: thread %d ran %d times", n, job, i, t.runs[i]);
        }
        threads_close(pool);
    }
}

/* Each phase reads what all threads wrote in the one before. */
struct relay {
    struct threads *pool;
    int value[2][MAX_THREADS];
    int wrong;
};

static void relay_job(void *arg, int index, int count)
{
    struct relay *r = arg;
    for (int phase = 0; phase < 200; phase++) {
        const int *old = r->value[phase & 1];
        int sum = 0;
        for (int i = 0; i < count; i++)
            sum += old[i];
        if (sum != phase * count && index == 0)
            r->wrong++;
        r->value[~phase & 1][index] = phase + 1;
        threads_barrier(r->pool);
    }
}

static void the_barrier_holds(void **state)
{
    (void)state;
    for (int n = 1; n <= 5; n++) {
        struct pi0_error err;
        struct relay r = { 0 };
        assert_int_equal(threads_open(&r.pool, n, &err), PI0_OK);
        for (int round = 0; round < 5; round++) {
            memset(r.value, 0, sizeof r.value);
            threads_run(r.pool, relay_job, &r);
        }
        assert_int_equal(r.wrong, 0);
        threads_close(r.pool);
    }
}

static void two_pools_do_not_meet(void **state)
{
    (void)state;
    struct pi0_error err;
    struct threads *a, *b;
    struct tally ta = { 0 }, tb = { 0 };
    assert_int_equal(threads_open(&a, 3, &err), PI0_OK);
    assert_int_equal(threads_open(&b, 2, &err), PI0_OK);
    for (int i = 0; i < 100; i++) {
        threads_run(a, tally_job, &ta);
        threads_run(b, tally_job, &tb);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(ta.runs[i], 100);
    for (int i = 0; i < 2; i++)
        assert_int_equal(tb.runs[i], 100);
    threads_close(a);
    threads_close(b);
}

static void a_pool_that_never_worked_closes(void **state)
{
    (void)state;
    struct pi0_error err;
    struct threads *pool;
    assert_int_equal(threads_open(&pool, 4, &err), PI0_OK);
    threads_close(pool);
    threads_close(NULL);
}

static void the_split_covers_every_item_once(void **state)
{
    (void)state;
    static const int totals[] = { 0, 1, 2, 15, 16, 17, 100, 4304 }, grains[] = { 1, 2, 16, 48 };
    for (size_t a = 0; a < sizeof totals / sizeof *totals; a++)
        for (size_t g = 0; g < sizeof grains / sizeof *grains; g++)
            for (int n = 1; n <= 17; n++) {
                int at = 0, least = totals[a], most = 0;
                for (int i = 0; i < n; i++) {
                    int begin, end;
                    split_range(totals[a], grains[g], i, n, &begin, &end);
                    assert_int_equal(begin, at);
                    assert_true(end >= begin && end <= totals[a]);
                    assert_true(begin % grains[g] == 0 || begin == totals[a]);
                    least = end - begin < least ? end - begin : least;
                    most = end - begin > most ? end - begin : most;
                    at = end;
                }
                assert_int_equal(at, totals[a]);
                assert_true(most - least < 2 * grains[g]); /* nearly equal */
            }
}

static void at_least_one_processor(void **state)
{
    (void)state;
    assert_true(threads_available() >= 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_thread_runs_every_job_once),
        cmocka_unit_test(the_barrier_holds),
        cmocka_unit_test(two_pools_do_not_meet),
        cmocka_unit_test(a_pool_that_never_worked_closes),
        cmocka_unit_test(the_split_covers_every_item_once),
        cmocka_unit_test(at_least_one_processor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
