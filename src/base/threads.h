/* SPDX-License-Identifier: Apache-2.0
 * threads: a fixed pool. A job is one function run once by every thread with its index; threads_run
 * returns when all are done. Work is split by the caller from (index, count) alone, so a result
 * never depends on timing. */
#ifndef PI0_BASE_THREADS_H
#define PI0_BASE_THREADS_H

#include "base/status.h"

struct threads;

/* n ≥ 1 threads in all; the caller of threads_run is thread 0, n - 1 are started. */
pi0_status threads_open(struct threads **out, int n, struct pi0_error *err);
void threads_close(struct threads *t);
int threads_count(const struct threads *t);

typedef void (*thread_fn)(void *arg, int index, int count);
/* Runs fn(arg, i, count) for i = 0 … count-1, one a thread, and waits for all. Allocates nothing.
 * Workers spin briefly for the next job, then sleep: an idle engine costs no processor. */
void threads_run(struct threads *t, thread_fn fn, void *arg);

/* Inside a job: waits until every thread of the job has arrived. */
void threads_barrier(struct threads *t);

/* Piece i of n when `total` items are split into contiguous, nearly equal pieces of a multiple of
 * `grain`. */
static inline void split_range(int total, int grain, int i, int n, int *begin, int *end)
{
    int units = (total + grain - 1) / grain, each = units / n, more = units % n;
    int first = each * i + (i < more ? i : more), count = each + (i < more);
    *begin = first * grain < total ? first * grain : total;
    *end = (first + count) * grain < total ? (first + count) * grain : total;
}

/* Processors this process may run on, at least 1. */
int threads_available(void);

#endif
