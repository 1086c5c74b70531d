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

struct power;
struct power_reading;

/* What the device could do at best, for floors. */
struct ceilings {
    double flops, bytes; /* a second; 0: not known */
    char source[300];
};
/* By the options, the makers' data sheets or, on a CPU, a measurement; clock_mhz NaN: not known. */
void ceilings_find(struct ceilings *c, const struct args *a, const struct pi0_engine_info *e,
                   double clock_mhz);
json_t *ceilings_json(const struct ceilings *c);
/* Milliseconds at least; 0 where a ceiling is not known. */
double ceilings_floor_ms(const struct ceilings *c, double flops, double bytes);

/* Date, commit, device, workload and batch: what every kept row begins with. */
json_t *bench_row_head(const struct session *s, const struct workload *w, int batch, int steps);
/* kernels.c, `pi0 bench --kernels`: every kernel of a call by itself, beside the library's product.
 * The row is measured, then finished with floors and conditions, then shown as a table. */
int bench_kernels(const struct session *s, const struct workload *w, struct inputs *p, int batch,
                  int steps, const struct args *a, json_t **row);
void kernels_finish(json_t *row, const struct session *s, const struct args *a,
                    const struct power *power, const struct power_reading *seen);
void kernels_show(const json_t *row);

enum { WHOLE, VISION, PREFIX, DENOISE, N_TIMES };

/* One call on input `turn` mod N_ROTATED; milliseconds of the call and of its stages. */
pi0_status infer_timed(const struct session *s, struct inputs *p, int batch, int steps, int turn,
                       double times[N_TIMES], struct pi0_error *err);
/* qsort's comparison of two double. */
int by_value(const void *a, const void *b);
/* Nearest rank: the smallest value with at least p of the values at or below it. */
double percentile(const double *sorted, int n, double p);

#endif
