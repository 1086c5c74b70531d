/* SPDX-License-Identifier: Apache-2.0
 *
 * attn_body: o = softmax(scale · q·kᵀ) · v of up to CPU_ATTN_ROWS queries against all keys, for every
 * vector instruction set; included by attn_<isa>.c. All in f32, the two products by micro.h.
 *
 *   scratch   512 KB: the last columns of V, where head_dim is no multiple of 16, padded to 16
 *             behind it: scores [rows][keys padded to 16], then probabilities in their place
 *
 * Keys are walked in the outer loop and rows in the inner one, so that K and V come once from L3 and
 * the block of either stays in L1 and L2 while the rows pass by. Masked keys get the lowest score,
 * and their V is not read. */
#ifndef PI0_BACKEND_CPU_ATTN_BODY_H
#define PI0_BACKEND_CPU_ATTN_BODY_H

#include "backend/cpu/micro.h"

#include <string.h>

#define ATTN_SCORES \
    ((size_t)512 << 10) /* offset of the scores in the scratch (cpu_scratch_bytes) */
#define ATTN_MASKED (-3e38f)

MICRO_TABLE(attn_micro, micro_f32)

struct attn_block {
    const struct attn_args *a;
    int begin, n_rows; /* queries */
    int n_pad;         /* keys padded to whole panels: stride of the scores */
    float *p;          /* [n_rows][n_pad] */
    float *tail;       /* [n_keys][16]: columns of V from tail_at on */
    float *sums;       /* [MICRO_ROWS][2 · CPU_PANEL] */
    int tail_at;
    float total[CPU_ATTN_ROWS]; /* sum of a row's probabilities */
};

/* ---------------------------------------------------------------- scores */

static void attn_scores(const struct attn_block *b)
{
    const struct attn_args *a = b->a;
    size_t panel = (size_t)a->head_dim * CPU_PANEL;
    struct micro m = { .x_stride = (long)a->q_stride * 4,
                       .w_step = CPU_PANEL * 4,
                       .n = a->head_dim,
                       .acc_stride = b->n_pad,
                       .ahead = 1024 };
    for (int j = 0; j < b->n_pad; j += CPU_PANEL * MICRO_PANELS) {
        int two = MICRO_PANELS == 1 || b->n_pad - j > CPU_PANEL;
        const float *keys = a->keys + (size_t)(j / CPU_PANEL) * panel;
        m.w[0] = m.far[0] = m.far[1] = (const unsigned char *)keys;
        m.w[1] = (const unsigned char *)(MICRO_PANELS == 1 ? keys + VEC_LANES
                                         : two             ? keys + panel
                                                           : keys);
        for (int r = 0; r < b->n_rows; r += MICRO_ROWS) {
            int rows = b->n_rows - r < MICRO_ROWS ? b->n_rows - r : MICRO_ROWS;
            m.x = (const unsigned char *)(a->q + (size_t)(b->begin + r) * (size_t)a->q_stride);
            m.acc[0] = b->p + (size_t)r * (size_t)b->n_pad + j;
            m.acc[1] = m.acc[0] + VEC_LANES;
            attn_micro[rows][1 + two](&m);
        }
    }
}

/* Scores of one row → exp(score - top), and their sum. */
static float attn_softmax(const struct attn_args *a, float *p, int n_pad)
{
    vf top = vf_set(ATTN_MASKED), total = vf_zero(), scale = vf_set(a->scale);
    for (int j = a->hole_begin; j < a->hole_end; j++)
        p[j] = ATTN_MASKED;
    for (int j = a->n_keys; j < n_pad; j++)
        p[j] = ATTN_MASKED;
    for (int j = 0; j < n_pad; j += VEC_LANES)
        top = vf_max(top, vf_load(p + j));
    top = vf_set(vf_top(top));
    for (int j = 0; j < n_pad; j += VEC_LANES) {
        vf e = vf_exp(vf_mul(vf_sub(vf_load(p + j), top), scale));
        vf_store(p + j, e);
        total = vf_add(total, e);
    }
    return vf_sum(total);
}

/* ---------------------------------------------------------------- values */

/* Columns of V past the last whole panel, padded with zeros: [n_keys][16]. */
static void attn_tail(const struct attn_block *b)
{
    int width = b->a->head_dim - b->tail_at;
    for (int j = 0; j < b->a->n_keys && width > 0; j++) {
        float *to = b->tail + (size_t)j * CPU_PANEL;
        if (j >= b->a->hole_begin && j < b->a->hole_end)
            continue;
        memset(to, 0, CPU_PANEL * sizeof *to);
        memcpy(to, b->a->v + (size_t)j * (size_t)b->a->v_stride + b->tail_at,
               (size_t)width * sizeof *to);
    }
}

/* Sums / total → o, columns [e, e + width) of row r; `width` at most 16. */
static void attn_store(const struct attn_block *b, int r, int e, int width, const float *sums)
{
    const struct attn_args *a = b->a;
    long at = (long)(b->begin + r) * a->o_stride + e;
    vf total = vf_set(b->total[r]);
    for (int i = 0; i < width; i += VEC_LANES) {
        vf y = vf_div(vf_load(sums + i), total);
        int n = width - i < VEC_LANES ? width - i : VEC_LANES;
        float part[VEC_LANES];
        uint16_t half[VEC_LANES];
        if (n == VEC_LANES && a->o_dtype == DT_F32) {
            vf_store((float *)a->o + at + i, y);
        } else if (n == VEC_LANES) {
            vf_store_bf16((uint16_t *)a->o + at + i, y);
        } else if (a->o_dtype == DT_F32) {
            vf_store(part, y);
            memcpy((float *)a->o + at + i, part, (size_t)n * sizeof *part);
        } else {
            vf_store_bf16(half, y);
            memcpy((uint16_t *)a->o + at + i, half, (size_t)n * sizeof *half);
        }
    }
}

/* Columns from e on, `panels` of 16: all rows, keys before and behind the hole. */
static void attn_columns(const struct attn_block *b, int e, int panels)
{
    const struct attn_args *a = b->a;
    int tail = e == b->tail_at, width = a->head_dim - e, hole = a->hole_begin < a->hole_end;
    const float *v = tail ? b->tail : a->v + e;
    size_t stride = tail ? CPU_PANEL : (size_t)a->v_stride;
    int first = hole ? a->hole_begin : a->n_keys, second = hole ? a->n_keys - a->hole_end : 0;
    for (int r = 0; r < b->n_rows; r += MICRO_ROWS) {
        int rows = b->n_rows - r < MICRO_ROWS ? b->n_rows - r : MICRO_ROWS;
        const float *p = b->p + (size_t)r * (size_t)b->n_pad;
        struct micro m = { .x = (const unsigned char *)p,
                           .x_stride = (long)b->n_pad * 4,
                           .w = { (const unsigned char *)v,
                                  (const unsigned char *)(v + VEC_LANES) },
                           .w_step = (long)stride * 4,
                           .n = first,
                           .acc = { b->sums, b->sums + VEC_LANES },
                           .acc_stride = 2 * CPU_PANEL,
                           .ahead = (long)stride * 16,
                           .far = { (const unsigned char *)v, (const unsigned char *)v } };
        micro_fn run = attn_micro[rows][MICRO_PANELS == 1 ? 2 : panels];
        run(&m);
        if (second > 0) {
            m.x += (size_t)a->hole_end * 4;
            m.w[0] += (size_t)a->hole_end * stride * 4;
            m.w[1] += (size_t)a->hole_end * stride * 4;
            m.n = second;
            m.keep = 1;
            run(&m);
        }
        for (int i = 0; i < rows; i++)
            for (int c = 0; c < panels && width > c * CPU_PANEL; c++) {
                int left = width - c * CPU_PANEL;
                attn_store(b, r + i, e + c * CPU_PANEL, left < CPU_PANEL ? left : CPU_PANEL,
                           b->sums + (size_t)i * 2 * CPU_PANEL + c * CPU_PANEL);
            }
    }
}

static void attn_run(const struct attn_args *a, int begin, int end)
{
    _Alignas(64) float sums[MICRO_ROWS * 2 * CPU_PANEL];
    struct attn_block b = { .a = a,
                            .begin = begin,
                            .n_rows = end - begin,
                            .n_pad = cpu_round_up(a->n_keys, CPU_PANEL),
                            .p = (float *)a->scratch + ATTN_SCORES / sizeof(float),
                            .tail = a->scratch,
                            .sums = sums,
                            .tail_at = a->head_dim / CPU_PANEL * CPU_PANEL };
    attn_scores(&b);
    for (int r = 0; r < b.n_rows; r++)
        b.total[r] = attn_softmax(a, b.p + (size_t)r * (size_t)b.n_pad, b.n_pad);
    attn_tail(&b);
    for (int e = 0; e < a->head_dim;) {
        int whole = (b.tail_at - e) / CPU_PANEL; /* whole panels left; 0: the tail */
        int panels = whole >= MICRO_PANELS ? MICRO_PANELS : 1;
        attn_columns(&b, e, panels);
        e += panels * CPU_PANEL;
    }
}

#endif
