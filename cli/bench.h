/* SPDX-License-Identifier: Apache-2.0
 * bench: what the table of `pi0 bench` and its report share: random inputs of a workload and one
 * timed call. */
#ifndef PI0_CLI_BENCH_H
#define PI0_CLI_BENCH_H

#include "cli.h"

#define N_ROTATED 4 /* different inputs that take turns */

/* N_ROTATED × batch samples. */
struct inputs {
    struct pi0_input *in; /* [N_ROTATED × batch] */
    uint8_t *pixels;
    int32_t *tokens;
    float *floats; /* state and noise */
    float *actions;
};

/* Random inputs of a workload; freed by inputs_free, also after a failure. */
int inputs_make(struct inputs *p, const struct workload *w, const struct pi0_dims *d,
                const struct pi0_engine_info *e, int batch);
void inputs_free(struct inputs *p);

enum { WHOLE, VISION, PREFIX, DENOISE, N_TIMES };

/* One call on input `turn` mod N_ROTATED; milliseconds of the call and of its stages. */
pi0_status infer_timed(const struct session *s, struct inputs *p, int batch, int steps, int turn,
                       double times[N_TIMES], struct pi0_error *err);
/* qsort's comparison of two double. */
int by_value(const void *a, const void *b);
/* Nearest rank: the smallest value with at least p of the values at or below it. */
double percentile(const double *sorted, int n, double p);

#endif
