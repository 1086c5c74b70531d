/* SPDX-License-Identifier: Apache-2.0
 *
 * split: one op, all threads. Work is divided by (index, count) alone, columns of a product, rows of
 * a norm, (head, row block) of attention; no element's arithmetic depends on the division (ops.h,
 * rule 2), so the bits do not depend on the number of threads. */
#include "backend/cpu/cpu.h"

#include <string.h>

struct worker cpu_worker(struct cpu *c, int index, int count)
{
    return (struct worker){ .c = c,
                            .index = index,
                            .count = count,
                            .scratch = c->scratch + (size_t)index * c->scratch_stride };
}

struct mat cpu_mat(struct arena *a, long rows, int width, enum dtype dtype)
{
    struct mat m = { .dtype = dtype, .stride = cpu_stride(width, dtype) };
    m.at = arena_take(a, (size_t)rows * (size_t)m.stride, dtype_bytes(dtype));
    return m;
}

struct mat mat_at(struct mat m, long row, int col)
{
    m.at = (unsigned char *)m.at + (size_t)(row * m.stride + col) * dtype_bytes(m.dtype);
    return m;
}

void cpu_barrier(const struct worker *w) { threads_barrier(w->c->pool); }

/* ---------------------------------------------------------------- products and norms */

static void product(const struct worker *w, struct mat x, struct linear_args a)
{
    enum linear_kind kind = x.dtype == DT_BF16      ? LINEAR_BF16
                            : a.w->dtype == DT_BF16 ? LINEAR_F32_WBF16
                                                    : LINEAR_F32;
    int begin, end;
    a.x = x.at;
    a.x_stride = x.stride;
    a.scratch = w->scratch;
    split_range(a.w->n_panels, 2, w->index, w->count, &begin, &end); /* gate and up stay together */
    if (begin < end && a.m > 0)
        w->c->ops.linear[kind].run(&a, begin, end);
    cpu_barrier(w);
}

void cpu_linear(const struct worker *w, struct mat y, enum epilogue e, struct mat x,
                const struct packed *p, int m)
{
    product(
        w, x,
        (struct linear_args){
            .m = m, .w = p, .epilogue = e, .y = y.at, .y_dtype = y.dtype, .y_stride = y.stride });
}

void cpu_add(const struct worker *w, struct mat y, const float *gate, struct mat x,
             const struct packed *p, int m)
{
    product(w, x,
            (struct linear_args){ .m = m,
                                  .w = p,
                                  .epilogue = EPI_ADD,
                                  .gate = gate,
                                  .y = y.at,
                                  .y_dtype = y.dtype,
                                  .y_stride = y.stride });
}

static void normalise(const struct worker *w, norm_fn run, struct mat y, struct mat x,
                      const struct norm *norm, int m)
{
    struct share rows = cpu_share(w, m);
    struct norm_args a = { .x = x.at,
                           .x_stride = x.stride,
                           .width = norm->width,
                           .gain = norm->gain,
                           .shift = norm->shift,
                           .y = y.at,
                           .y_dtype = y.dtype,
                           .y_stride = y.stride };
    if (rows.begin < rows.end)
        run(&a, rows.begin, rows.end);
    cpu_barrier(w);
}

void cpu_layernorm(const struct worker *w, struct mat y, struct mat x, const struct norm *norm,
                   int m)
{
    normalise(w, w->c->ops.layernorm.run, y, x, norm, m);
}

void cpu_rmsnorm(const struct worker *w, struct mat y, struct mat x, const struct norm *norm, int m)
{
    normalise(w, w->c->ops.rmsnorm.run, y, x, norm, m);
}

/* ---------------------------------------------------------------- items */

struct share cpu_share(const struct worker *w, int total)
{
    struct share s = { 0 };
    split_range(total, 1, w->index, w->count, &s.begin, &s.end);
    return s;
}

void share_next(struct share *s, int count, int *begin, int *end)
{
    int first = s->begin - s->at, last = s->end - s->at;
    *begin = first < 0 ? 0 : first > count ? count : first;
    *end = last < 0 ? 0 : last > count ? count : last;
    s->at += count;
}

/* ---------------------------------------------------------------- attention */

static int row_blocks(int m) { return (m + CPU_ATTN_ROWS - 1) / CPU_ATTN_ROWS; }

int cpu_attn_items(int m, int heads) { return row_blocks(m) * heads; }

void cpu_attention(const struct worker *w, struct share *s, const struct attn_group *g)
{
    int begin, end, blocks = row_blocks(g->m);
    share_next(s, cpu_attn_items(g->m, g->heads), &begin, &end);
    for (int item = begin; item < end; item++) {
        int head = item / blocks, row = item % blocks * CPU_ATTN_ROWS;
        int last = row + CPU_ATTN_ROWS < g->m ? row + CPU_ATTN_ROWS : g->m;
        struct attn_args a = g->args;
        a.q += (size_t)head * (size_t)a.head_dim;
        a.keys += (size_t)head * g->keys_step;
        a.v += (size_t)head * g->v_step;
        a.o = (unsigned char *)a.o + (size_t)head * (size_t)a.head_dim * dtype_bytes(a.o_dtype);
        a.scratch = w->scratch;
        w->c->ops.attn.run(&a, row, last);
    }
}

void cpu_append(const struct worker *w, const struct append *a, int begin, int end)
{
    const struct cpu *c = w->c;
    int e = c->plan.dims.head_dim, half = e / 2, k_col = a->q_heads * e;
    struct rope_args rope = { .x = a->qkv.at, /* q heads, then the one k head, side by side */
                              .x_stride = a->qkv.stride,
                              .n_heads = a->q_heads + 1,
                              .head_dim = e,
                              .cos = c->rope_cos + (size_t)a->position * (size_t)half,
                              .sin = c->rope_sin + (size_t)a->position * (size_t)half };
    struct keys_args keys = { .k = mat_f32(a->qkv, 0) + k_col,
                              .k_stride = a->qkv.stride,
                              .head_dim = e,
                              .panels = a->keys,
                              .first_key = a->first_key };
    if (begin >= end)
        return;
    c->ops.rope.run(&rope, begin, end);
    c->ops.keys.run(&keys, begin, end);
    for (int r = begin; r < end; r++)
        memcpy(a->values + (size_t)(a->first_key + r) * (size_t)cpu_value_stride(c),
               mat_f32(a->qkv, r) + k_col + e, (size_t)e * sizeof(float));
}
