/* SPDX-License-Identifier: Apache-2.0
 *
 * time: the products of the last call one op at a time, by all threads as in a call
 * (pi0_engine_time_kernel): every layer in turn with its own weights. Attention, norms and RoPE are
 * timed by tests/kernels. No vendor's library stands beside them. */
#include "backend/cpu/cpu.h"

#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BURSTS 15
#define OP_MS 1500.0 /* bursts of one op */

struct op {
    const char *name, *also;
    int layers, calls; /* calls: times a call does each */
    int m;
    const struct packed *first; /* layer 0's */
    size_t step;                /* bytes to the next layer's */
    struct mat x, y;
    enum epilogue epilogue;
};

struct job {
    struct cpu *c;
    const struct op *op;
};

static void run(void *arg, int index, int count)
{
    const struct job *job = arg;
    const struct op *o = job->op;
    struct worker w = cpu_worker(job->c, index, count);
    for (int l = 0; l < o->layers; l++) {
        const void *at = (const unsigned char *)o->first + (size_t)l * o->step;
        if (o->epilogue == EPI_ADD)
            cpu_add(&w, o->y, NULL, o->x, at, o->m);
        else
            cpu_linear(&w, o->y, o->epilogue, o->x, at, o->m);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void time_op(struct cpu *c, const struct op *o, struct pi0_kernel_time *out)
{
    double ms[MAX_BURSTS], spent = 0;
    int n = 0;
    threads_run(c->pool, run, &(struct job){ c, o });
    while (n < MAX_BURSTS && (n == 0 || spent < OP_MS)) {
        double start = clock_ms();
        threads_run(c->pool, run, &(struct job){ c, o });
        spent += ms[n++] = clock_ms() - start;
    }
    qsort(ms, (size_t)n, sizeof *ms, by_value);
    out->us = ms[n / 2] * 1e3 / o->layers;
    out->us_min = ms[0] * 1e3 / o->layers;
}

pi0_status cpu_time_kernel(void *self, const struct batch *last, int i, struct pi0_kernel_time *out,
                           struct pi0_error *err)
{
    struct cpu *c = self;
    const struct pi0_dims *d = &c->plan.dims;
    const struct cpu_vision_layer *v = c->vision;
    const struct cpu_gemma_layer *p = c->vlm, *e = c->expert;
    const struct stage_buffers *bv = &c->v, *bp = &c->p, *bs = &c->s;
    int V = d->vision_depth, L = d->depth - 1, D = d->depth, steps = last->n_steps;
    int mv = last->n_images * c->plan.tokens_per_camera, mp = last->n_rows;
    int ms = last->n * d->action_horizon;
    size_t sv = sizeof *v, sg = sizeof *p;
    const char *add = "residual", *bias = "bias", *both = "bias, residual";
    const struct op ops[] = {
        { "vision q|k|v", bias, V, 1, mv, &v->qkv, sv, bv->n, bv->qkv, EPI_STORE },
        { "vision o", both, V, 1, mv, &v->o, sv, bv->o, bv->x, EPI_ADD },
        { "vision fc1", "bias, GELU", V, 1, mv, &v->fc1, sv, bv->n, bv->hidden, EPI_GELU },
        { "vision fc2", both, V, 1, mv, &v->fc2, sv, bv->hidden, bv->x, EPI_ADD },
        { "prefix q|k|v", "", L, 1, mp, &p->qkv, sg, bp->n, bp->qkv, EPI_STORE },
        { "prefix o", add, L, 1, mp, &p->o, sg, bp->o, bp->x, EPI_ADD },
        { "prefix gate\xC2\xB7up", "GeGLU", L, 1, mp, &p->gate_up, sg, bp->n, bp->hidden,
          EPI_GEGLU },
        { "prefix down", add, L, 1, mp, &p->down, sg, bp->hidden, bp->x, EPI_ADD },
        { "denoise q|k|v", "", D, steps, ms, &e->qkv, sg, bs->n, bs->qkv, EPI_STORE },
        { "denoise o", add, D, steps, ms, &e->o, sg, bs->o, bs->x, EPI_ADD },
        { "denoise gate\xC2\xB7up", "GeGLU", D, steps, ms, &e->gate_up, sg, bs->n, bs->hidden,
          EPI_GEGLU },
        { "denoise down", add, D, steps, ms, &e->down, sg, bs->hidden, bs->x, EPI_ADD },
    };
    (void)err;
    if ((size_t)i >= sizeof ops / sizeof *ops)
        return PI0_OK;
    const struct op *o = &ops[i];
    double m = o->m;
    snprintf(out->op, sizeof out->op, "%s", o->name);
    snprintf(out->also, sizeof out->also, "%s", o->also);
    out->m = o->m;
    if (o->m == 0 || o->layers == 0)
        return PI0_OK;
    double n = o->first->n, k = o->first->k, values = o->first->dtype == DT_BF16 ? 2 : 4;
    double x_bytes = (double)dtype_bytes(o->x.dtype), y_bytes = (double)dtype_bytes(o->y.dtype);
    double stored = o->epilogue == EPI_GEGLU ? 0.5 : o->epilogue == EPI_ADD ? 2 : 1;
    out->n = o->first->n;
    out->k = o->first->k;
    out->count = o->layers * o->calls;
    out->flops = 2 * m * n * k;
    out->bytes = n * k * values + m * k * x_bytes + m * n * y_bytes * stored;
    enum linear_kind kind = o->x.dtype == DT_BF16        ? LINEAR_BF16
                            : o->first->dtype == DT_BF16 ? LINEAR_F32_WBF16
                                                         : LINEAR_F32;
    snprintf(out->kernel, sizeof out->kernel, "%s", c->ops.linear[kind].name);
    time_op(c, o, out);
    return PI0_OK;
}
