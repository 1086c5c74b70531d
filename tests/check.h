/* SPDX-License-Identifier: Apache-2.0
 *
 * check: the runner of the kernel checks (tests/kernels/check_<op>.c). A case is one kernel on one
 * shape: fast results are held against the plain ones, buffers have guard zones and outputs start
 * poisoned; under --bench the same body is also timed. Owns the memory of a case.
 *
 *     check_linear [--filter WORD]… [--bench] [--seed N]
 *
 * --filter: only cases whose names have one of these words in them. The seed of the random data is printed first; the last line is "N passed, N failed, N skipped". */
#ifndef PI0_TESTS_CHECK_H
#define PI0_TESTS_CHECK_H

#include "base/dtype.h"

#include <stddef.h>
#include <stdint.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CHECK_SLOW 1 /* sanitizers: model shapes with fewer rows */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define CHECK_SLOW 1
#endif
#endif
#ifndef CHECK_SLOW
#define CHECK_SLOW 0
#endif

/* Runs `cases` and counts; the program's exit code. */
int check_main(int argc, char **argv, void (*cases)(void));

/* Starts a case of this name; 0 if it is filtered out. Buffers below live until check_end. */
int check_begin(const char *format, ...) __attribute__((format(printf, 1, 2)));
void check_end(void);
/* Counts one skipped test and says why. */
void check_skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The case has failed, for this reason. */
void check_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
int check_benching(void);

/* Instruction-set masks in the order of their age, from scalar on: i from 0, 0 past the last one.
 * `have`: whether this machine can run it in full. */
int check_isa(int i, uint32_t *mask, const char **name, int *have);

/* ---------------------------------------------------------------- data */

enum fill {
    FILL_NORMAL, /* uniform in [-1, 1) */
    FILL_HUGE,   /* ·1e15: sums of products stay finite */
    FILL_TINY,   /* ·1e-15: no product is subnormal by much */
    FILL_MIXED,  /* one value in 37 is 64 times as large, as in real activations */
    FILL_ZERO,
    N_FILL
};
extern const char *const fill_name[N_FILL];

/* n elements, 64-byte aligned between guard zones. Poisoned: every byte 0xFF, a NaN in either dtype. */
void *check_poisoned(size_t n, enum dtype t);
void *check_random(size_t n, enum dtype t, enum fill fill);
void *check_zeros(size_t bytes);
double check_uniform(void); /* [-1, 1) */

/* A matrix for comparing: rows of `stride` elements, `cols` of which count. */
struct check_mat {
    const void *at;
    enum dtype dtype;
    int rows, cols, stride;
};

/* ‖got - want‖/‖want‖ ≤ norm, and every |got - want| ≤ worst · (rms of want + |want|). NaN fails. */
struct check_bound {
    double norm, worst;
};
void check_close(struct check_mat got, struct check_mat want, struct check_bound bound);
/* The same bytes in both, over the columns that count. */
void check_same(struct check_mat a, struct check_mat b, const char *what);
/* Columns [cols, stride) of got still hold the poison. */
void check_untouched(struct check_mat got, const char *what);

/* ---------------------------------------------------------------- time */

/* Under --bench: calls fn(arg) for half a second and more, and prints the median and the least time,
 * the rates at the median, and their share of `peak` GFLOP/s (0: not shown). Processor time of this
 * thread. */
void check_bench(double flop, double bytes, double peak, void (*fn)(void *arg), void *arg);

#endif
