/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_body: how a product is cut into blocks, and what becomes of the sums (struct linear_args),
 * for every vector instruction set; included by linear_<isa>.c, which brings the innermost product.
 *
 *           K block                 group: up to 8 or 12 panels
 *          ┌────────┐              ┌──┬──┬──┬──┐
 *   x      │ rows   │ L1      w    │  │  │  │  │ K block: stays in L2 while all rows of x pass by;
 *          ├────────┤              └──┴──┴──┴──┘ the next block's is fetched meanwhile, a line or
 *          │  …     │                            less with every step of the innermost product
 *
 *   for each group of panels: for each K block: for each block of rows:
 *       for each inner K block (of x in L1): for each pair of panels: micro
 *
 *   sums [row block][panel][rows][16] f32 stay in `scratch` between K blocks, and are turned into y
 *   by the epilogue after the last one.
 *
 * Few rows (one block of them): K is not cut, and the weights stream through once, fetched one group
 * ahead: the loads that the processor starts by itself stop at every end of a page and of a panel. */
#ifndef PI0_BACKEND_CPU_LINEAR_BODY_H
#define PI0_BACKEND_CPU_LINEAR_BODY_H

#include "backend/cpu/micro.h"

#define LINEAR_SCRATCH ((size_t)512 << 10) /* cpu_scratch_bytes() */
#define LINEAR_AHEAD 2048                  /* bytes: L2 → L1 */

/* One kind of product of one instruction set. */
struct linear_kernel {
    const micro_fn (*micro)[3]; /* [rows][panels or, in AVX2, 2] */
    int rows, panels;           /* of one call of micro */
    int k_block;                /* of weights that stay in L2: multiple of 32 */
    int k_inner; /* of x that stays in L1 while a group passes by; above 1.5 k_block: uncut */
    int group;   /* panels at most, even */
    size_t block_bytes;         /* of weights at most */
    int k_step;                 /* k's in a step of micro: 1 or 2 */
    int x_bytes;                /* of an element of x as micro wants it: 2 (bf16) or 4 (f32) */
    int widen;                  /* x is bf16 and micro wants f32 */
    void (*set_rows)(int rows); /* before calls with another count of rows; 0 = no more calls */
};

/* Block of a product: everything the loops below share. */
struct linear_block {
    const struct linear_kernel *kern;
    const struct linear_args *a;
    int panel, n_panels, group; /* group: panels of a full one */
    int k, n_k, k_block;
    int first_row, n_rows;     /* rows of this pass, in blocks of kern->rows */
    const unsigned char *next; /* weights of the group and K block after this one */
    int next_panels, next_k;   /* next_panels 0: this is the last one */
    int rows_set;              /* what kern->set_rows was last told */
    float *acc;
    float *wide; /* [kern->rows][n_k + CPU_PANEL] where x is widened */
};

VEC_INLINE size_t linear_w_bytes(const struct packed *w)
{
    return CPU_PANEL * dtype_bytes(w->dtype);
}

/* ---------------------------------------------------------------- epilogue */

VEC_INLINE void linear_put(const struct linear_args *a, long at, vf z)
{
    if (a->y_dtype == DT_BF16)
        vf_store_bf16((uint16_t *)a->y + at, z);
    else
        vf_store((float *)a->y + at, z);
}

/* One vector of sums of `panel`, lanes from `lane` on; `up` of the panel beside it (EPI_GEGLU). */
VEC_INLINE void linear_finish(const struct linear_args *a, int row, int panel, int lane, vf z,
                              vf up)
{
    int col = panel * CPU_PANEL + lane;
    long y = (long)row * a->y_stride + col;
    const float *bias = a->w->bias;
    if (bias)
        z = vf_add(z, vf_load(bias + col));
    switch (a->epilogue) {
    case EPI_STORE: linear_put(a, y, z); break;
    case EPI_ADD: {
        float *to = (float *)a->y + y;
        vf_store(to,
                 a->gate ? vf_fma(vf_load(a->gate + col), z, vf_load(to)) : vf_add(vf_load(to), z));
        break;
    }
    case EPI_GELU: linear_put(a, y, vf_gelu(z)); break;
    case EPI_SILU: linear_put(a, y, vf_silu(z)); break;
    case EPI_GEGLU:
        if (bias)
            up = vf_add(up, vf_load(bias + col + CPU_PANEL));
        y -= panel / 2 * CPU_PANEL;
        linear_put(a, y, vf_mul(vf_gelu(z), up));
        break;
    }
}

static void linear_epilogue(const struct linear_block *b, int row, int rows, const float *acc)
{
    int pair = b->a->epilogue == EPI_GEGLU;
    long panel_floats = (long)b->kern->rows * CPU_PANEL;
    for (int p = 0; p < b->n_panels; p += 1 + pair, acc += (1 + pair) * panel_floats)
        for (int r = 0; r < rows; r++)
            for (int lane = 0; lane < CPU_PANEL; lane += VEC_LANES) {
                const float *z = acc + r * CPU_PANEL + lane;
                linear_finish(b->a, row + r, b->panel + p, lane, vf_load(z),
                              vf_load(z + (pair ? panel_floats : 0)));
            }
}

/* ---------------------------------------------------------------- blocks */

/* x of a row block as f32. */
static void linear_widen(const struct linear_block *b, int row, int rows)
{
    for (int r = 0; r < rows; r++) {
        const uint16_t *x = (const uint16_t *)b->a->x + (long)(row + r) * b->a->x_stride + b->k;
        float *to = b->wide + (long)r * (b->n_k + CPU_PANEL);
        for (int k = 0; k < b->n_k; k += VEC_LANES)
            vf_store(to + k, vf_load_bf16(x + k));
    }
}

/* The share of row block `i` of `n` in fetching the panels of the next block that lie where panels p
 * and on lie in this one. A step of micro reads 64 bytes of a panel, whatever its dtype. */
VEC_INLINE void linear_far(struct micro *m, const struct linear_block *b, int p, int i, int n)
{
    size_t k_bytes = linear_w_bytes(b->a->w), panel_bytes = k_bytes * (size_t)b->a->w->k_pad;
    m->far[0] = m->w[0]; /* nothing to fetch: what is there already */
    m->far[1] = m->w[1];
    m->far_step = 0;
    if (p >= b->next_panels)
        return;
    m->far_step = (64 + n - 1) / n;
    m->far[0] =
        b->next + (size_t)p * panel_bytes + k_bytes * (size_t)b->next_k * (size_t)i / (size_t)n;
    m->far[1] = p + 1 < b->next_panels ? m->far[0] + panel_bytes : m->far[0];
}

/* The group's panels, K from b->k + k on, one row block; m holds all but the pointers. */
static void linear_panels(const struct linear_block *b, struct micro *m, int k, float *acc, int i,
                          int n)
{
    const struct linear_kernel *kern = b->kern;
    const struct packed *w = b->a->w;
    size_t k_bytes = linear_w_bytes(w), panel_bytes = k_bytes * (size_t)w->k_pad;
    size_t half = kern->panels == 2 ? panel_bytes : 32; /* AVX2: the halves of one panel */
    for (int p = 0; p < b->n_panels; p += kern->panels) {
        int count = b->n_panels - p < kern->panels ? b->n_panels - p : kern->panels;
        m->w[0] = (const unsigned char *)w->w + (size_t)(b->panel + p) * panel_bytes +
                  (size_t)(b->k + k) * k_bytes;
        m->w[1] = count == 2 || kern->panels == 1 ? m->w[0] + half : m->w[0];
        m->acc[0] = acc + (long)p * kern->rows * CPU_PANEL;
        m->acc[1] = m->acc[0] + (kern->panels == 2 ? (long)kern->rows * CPU_PANEL : CPU_PANEL / 2);
        linear_far(m, b, p, i, n);
        kern->micro[m->rows][kern->panels == 1 ? 2 : count](m);
    }
}

/* All panels of the group, one K block, one row block. */
static void linear_rows(struct linear_block *b, int row, int rows, float *acc)
{
    const struct linear_kernel *kern = b->kern;
    int block = (row - b->first_row) / kern->rows;
    int n_blocks = (b->n_rows + kern->rows - 1) / kern->rows;
    int inner = n_blocks == 1 ? b->n_k : kern->k_inner, n_inner = (b->n_k + inner - 1) / inner;
    struct micro m = { .rows = rows,
                       .w_step = (long)linear_w_bytes(b->a->w) * kern->k_step,
                       .acc_stride = CPU_PANEL,
                       .ahead = LINEAR_AHEAD };
    if (kern->widen) {
        linear_widen(b, row, rows);
        m.x = (const unsigned char *)b->wide;
        m.x_stride = (long)(b->n_k + CPU_PANEL) * 4;
    } else {
        m.x_stride = (long)b->a->x_stride * kern->x_bytes;
        m.x = (const unsigned char *)b->a->x + row * m.x_stride + (long)b->k * kern->x_bytes;
    }
    if (kern->set_rows && b->rows_set != rows)
        kern->set_rows(rows);
    b->rows_set = rows;
    for (int k = 0; k < b->n_k; k += inner, m.x += (long)inner * kern->x_bytes) {
        m.n = (b->n_k - k < inner ? b->n_k - k : inner) / kern->k_step;
        m.keep = b->k + k > 0;
        linear_panels(b, &m, k, acc, block * n_inner + k / inner, n_blocks * n_inner);
    }
}

/* One group and one K block, all rows of the pass; the epilogue where the sums are complete. */
static void linear_columns(struct linear_block *b)
{
    int last = b->k + b->n_k == b->a->w->k_pad, whole = b->n_k == b->a->w->k_pad;
    float *acc = b->acc;
    for (int r = 0; r < b->n_rows; r += b->kern->rows) {
        int row = b->first_row + r;
        int rows = b->n_rows - r < b->kern->rows ? b->n_rows - r : b->kern->rows;
        linear_rows(b, row, rows, acc);
        if (last)
            linear_epilogue(b, row, rows, acc);
        if (!whole)
            acc += (long)b->kern->rows * CPU_PANEL * b->group;
    }
}

/* Which weights come after this block: the group's next K block, else the next group's first. */
VEC_INLINE void linear_look_ahead(struct linear_block *b, int end)
{
    const struct packed *w = b->a->w;
    size_t k_bytes = linear_w_bytes(w), panel_bytes = k_bytes * (size_t)w->k_pad;
    int panel = b->panel, k = b->k + b->n_k, block = b->k_block;
    b->next_panels = 0;
    if (k == w->k_pad) {
        k = 0;
        panel += b->n_panels;
    }
    if (panel >= end)
        return;
    b->next = (const unsigned char *)w->w + (size_t)panel * panel_bytes + (size_t)k * k_bytes;
    b->next_panels = end - panel < b->group ? end - panel : b->group;
    b->next_k = w->k_pad - k < block ? w->k_pad - k : block;
}

/* K in equal blocks of about kern->k_block; few rows leave it whole. Widened rows must fit their room. */
VEC_INLINE int linear_k_block(const struct linear_kernel *kern, const struct linear_args *a)
{
    int k_pad = a->w->k_pad, blocks = (k_pad + kern->k_block / 2) / kern->k_block;
    if (a->m <= kern->rows && !kern->widen)
        blocks = 1;
    return blocks <= 1 ? k_pad : cpu_round_up((k_pad + blocks - 1) / blocks, CPU_K_GRAIN);
}

/* Panels of a group: an even number, so that gate and up stay together. */
VEC_INLINE int linear_group(const struct linear_kernel *kern, const struct packed *w, int k_block)
{
    int n = (int)(kern->block_bytes / (linear_w_bytes(w) * (size_t)k_block)) / 2 * 2;
    return n < 2 ? 2 : n > kern->group ? kern->group : n;
}

/* Panels [begin, end) of the rows of `a`: passes of as many rows as the sums have room for. */
static void linear_run(const struct linear_kernel *kern, const struct linear_args *a, int begin,
                       int end)
{
    int k_pad = a->w->k_pad, k_block = linear_k_block(kern, a);
    size_t wide_bytes = kern->widen ? (size_t)kern->rows * (size_t)(k_block + CPU_PANEL) * 4 : 0;
    size_t row_bytes = (size_t)kern->group * CPU_PANEL * sizeof(float);
    int room = (int)((LINEAR_SCRATCH - wide_bytes) / row_bytes) / kern->rows * kern->rows;
    int passes = k_block == k_pad ? 1 : (a->m + room - 1) / room,
        blocks = (a->m + kern->rows - 1) / kern->rows;
    int pass_rows = (blocks + passes - 1) / passes * kern->rows;
    struct linear_block b = { .kern = kern,
                              .a = a,
                              .k_block = k_block,
                              .group = linear_group(kern, a->w, k_block),
                              .wide = a->scratch,
                              .acc = (float *)a->scratch + wide_bytes / sizeof(float) };
    for (b.first_row = 0; b.first_row < a->m; b.first_row += pass_rows) {
        b.n_rows = a->m - b.first_row < pass_rows ? a->m - b.first_row : pass_rows;
        for (b.panel = begin; b.panel < end; b.panel += b.n_panels) {
            b.n_panels = end - b.panel < b.group ? end - b.panel : b.group;
            for (b.k = 0; b.k < k_pad; b.k += b.n_k) {
                b.n_k = k_pad - b.k < k_block ? k_pad - b.k : k_block;
                linear_look_ahead(&b, end);
                linear_columns(&b);
            }
        }
    }
    if (kern->set_rows)
        kern->set_rows(0);
}

#endif
