/* SPDX-License-Identifier: Apache-2.0
 * prefix: image features + prompt ids → K (after RoPE) and V of every layer, in the cache. All rows
 * of all samples form one matrix; row and sample tables on the device say whose they are. The last
 * layer stops at its K and V: nothing reads further. Behind each layer's K and V the first denoising
 * step may follow on processors of its own (early.c). */
#include "backend/cuda/state.h"

#include <math.h>

pi0_status prefix_embed(struct cuda_engine *c, int rows, float *x, uint16_t *o,
                        struct pi0_error *err)
{
    struct cu_prefix_embed e = { .rows = c->b.rows,
                                 .n_rows = rows,
                                 .width = c->plan.dims.vlm_width,
                                 .features = c->b.features,
                                 .table = c->w.table,
                                 .scale = (float)sqrt((double)c->plan.dims.vlm_width),
                                 .x = x,
                                 .o = o,
                                 .o_width = c->plan.q_dim };
    CU_TRY(cu_prefix_embed(&e, c->dev.stream), err);
    return PI0_OK;
}

/* `parts` > 0: x gets so many pieces of a product from the MLP's scratch first. */
static pi0_status prefix_norm(struct cuda_engine *c, const float *w, int rows, int parts,
                              struct pi0_error *err)
{
    struct cu_rmsnorm n = { .x = c->b.x,
                            .delta = parts ? (const void *)c->b.gu : NULL,
                            .parts = parts,
                            .scale = w,
                            .y = c->b.h,
                            .rows = rows,
                            .width = c->plan.dims.vlm_width };
    CU_TRY(cu_rmsnorm(&n, c->dev.stream), err);
    return PI0_OK;
}

/* Tokens a tile of the one kernel for projection, RoPE and cache; 0: not by it. */
static int own_qkv(const struct cuda_engine *c, int rows, int heads)
{
    int own = c->choice.qkv_sm90 && !(c->without & PI0_WITHOUT_FUSED_PROJECTIONS) && heads > 0;
    return own ? qkv90_tile_tokens(rows, heads, c->dev.n_sm) : 0;
}

int prefix_late_rope(const struct cuda_engine *c, int rows)
{
    return c->choice.late_rope && c->choice.attn_prefix == CU_ATTN_KERNEL_SM90 &&
           !own_qkv(c, rows, c->plan.dims.heads);
}

/* Projection, RoPE and the cache; `heads` 0 for the last layer. */
static pi0_status prefix_qkv(struct cuda_engine *c, int l, int heads, int rows, int parts,
                             struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    int W = d->vlm_width, E = d->head_dim;
    cu_mark(c, CU_OP_PREFIX_NORM, parts ? "residual" : "");
    TRY(prefix_norm(c, c->w.vlm[l].n1, rows, parts, err));
    struct cu_rope r = { .qkv = c->b.qkv,
                         .rows = c->b.rows,
                         .cos_sin = c->w.rope,
                         .q = c->b.q,
                         .k = c->b.k + cache_layer(c, l),
                         .v = c->b.v + cache_layer(c, l),
                         .n_rows = rows,
                         .heads = heads,
                         .head_dim = E };
    int tile = own_qkv(c, rows, heads);
    if (tile) {
        struct qkv90 p;
        cu_mark(c, CU_OP_PREFIX_QKV, "RoPE, write into the K/V cache");
        TRY(device_map_status(qkv90_plan(&p, c->encode, c->b.h, c->w.vlm[l].wqkv, &r, W, tile),
                              err));
        CU_TRY(qkv90_launch(&p, 1, c->dev.stream), err);
        return PI0_OK;
    }
    cu_mark(c, heads ? CU_OP_PREFIX_QKV : CU_OP_REST, "");
    struct cu_gemm g = cu_product(rows, (heads + 2) * E, W, c->b.h, c->w.vlm[l].wqkv, c->b.qkv);
    if (heads > 0 && prefix_late_rope(c, rows)) {
        g = cu_bf16(g);
        r.qkv16 = g.y;
    }
    TRY(cu_qkv(c, g, E, err));
    cu_mark(c, heads ? CU_OP_PREFIX_ROPE : CU_OP_REST, "write into the K/V cache");
    CU_TRY(cu_rope(&r, c->dev.stream), err);
    return PI0_OK;
}

static pi0_status prefix_attention_sm90(struct cuda_engine *c, int l, const struct cu_key *k,
                                        struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    int cache_rows = c->plan.max_batch * c->plan.max_keys;
    struct attn90 a;
    TRY(device_map_status(
        attn90_plan(&a, c->encode, c->b.q, k->rows, c->b.k, c->b.v, d->depth * cache_rows, c->b.o,
                    (const struct attn90_segment *)c->b.samples, k->batch, k->sample_rows, d->heads,
                    1.0f / sqrtf((float)d->head_dim),
                    attn90_split(k->sample_rows, d->heads, k->batch, c->dev.n_sm)),
        err));
    if (prefix_late_rope(c, k->rows))
        TRY(device_map_status(attn90_turn(&a, c->encode, c->b.qkv, k->rows,
                                          c->plan.q_dim + 2 * d->head_dim, c->w.rope),
                              err));
    CU_TRY(attn90_launch(&a, l * cache_rows, 1, c->dev.stream), err);
    return PI0_OK;
}

static pi0_status prefix_attention(struct cuda_engine *c, int l, const struct cu_key *k,
                                   struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    if (c->choice.attn_prefix == CU_ATTN_KERNEL_SM90)
        return prefix_attention_sm90(c, l, k, err);
    struct cu_attn a = { .mode = CU_ATTN_PREFIX,
                         .head_dim = d->head_dim,
                         .heads = d->heads,
                         .n = k->batch,
                         .q = c->b.q,
                         .k = c->b.k + cache_layer(c, l),
                         .v = c->b.v + cache_layer(c, l),
                         .ldq = c->plan.q_dim,
                         .ldk = d->head_dim,
                         .o = c->b.o,
                         .scale = 1.0f / sqrtf((float)d->head_dim),
                         .tokens = k->sample_rows,
                         .samples = c->b.samples,
                         .max_keys = c->plan.max_keys,
                         .n_splits = 1,
                         .smem_limit = c->dev.smem_limit };
    return cu_attend(c, c->choice.attn_prefix, &a, err);
}

/* gelu(gate)·up of n rows of h into act. */
static pi0_status prefix_gate_up(struct cuda_engine *c, const struct cu_key *k, const uint16_t *wgu,
                                 const uint16_t *h, int n, struct pi0_error *err)
{
    const struct cu_buffers *b = &c->b;
    int W = c->plan.dims.vlm_width, F = c->plan.dims.vlm_mlp_dim;
    if (c->choice.geglu_sm90) {
        struct geglu90 p;
        int n_sm = c->dev.n_sm - (k->early ? EARLY90_CTAS : 0);
        TRY(device_map_status(
            geglu90_plan(&p, c->encode, h, wgu, b->act, n, F, W, geglu90_tile_tokens(n, F, n_sm)),
            err));
        CU_TRY(geglu90_launch(&p, n_sm, 1, c->dev.stream), err);
        return PI0_OK;
    }
    TRY(cu_matmul(c, cu_bf16(cu_product(n, 2 * F, W, h, wgu, b->gu)), err));
    CU_TRY(cu_geglu(b->gu, b->act, n, F, c->choice.glu_group_vlm, c->dev.stream), err);
    return PI0_OK;
}

/* Tokens a tile of proj_sm90's kernel, K in `parts` (0: whole); 0: the product is cuBLASLt's. */
static int project_tile(const struct cuda_engine *c, const struct cu_key *k, int rows, int parts)
{
    int n_sm = c->dev.n_sm - (k->early ? EARLY90_CTAS : 0);
    return c->choice.proj_sm90
               ? proj90_tile_tokens(rows, c->plan.dims.vlm_width, parts ? parts : 1, n_sm)
               : 0;
}

/* x [rows, width] += a·wᵀ, or, where K is in `parts`, some of it: what then is left for the next norm to
 * add is in the MLP's scratch. a [rows, depth]. */
static pi0_status prefix_project(struct cuda_engine *c, const struct cu_key *k, const uint16_t *a,
                                 const uint16_t *w, float *x, int rows, int depth, int parts,
                                 struct pi0_error *err)
{
    int W = c->plan.dims.vlm_width, tile = project_tile(c, k, rows, parts);
    if (tile) {
        struct proj90 p;
        TRY(device_map_status(proj90_plan(&p, c->encode, a, w, x, (void *)c->b.gu, rows, W, depth,
                                          parts ? parts : 1, tile),
                              err));
        CU_TRY(proj90_launch(&p, 1, c->dev.stream), err);
        return PI0_OK;
    }
    if (!parts)
        return cu_matmul(c, cu_add(cu_product(rows, W, depth, a, w, x)), err);
    struct cu_gemm g = cu_product(rows, W, depth / parts, a, w, c->b.gu);
    g.ldx = g.ldw = depth;
    g.batch = parts;
    g.step_x = g.step_w = depth / parts;
    g.step_y = (int64_t)rows * W;
    return cu_matmul(c, g, err);
}

/* In pieces of rows: gate·up of a large batch would not fit otherwise. `parts`: of down's K. */
static pi0_status prefix_mlp(struct cuda_engine *c, const struct cu_key *k,
                             const struct cu_layer *w, int parts, struct pi0_error *err)
{
    const struct cu_buffers *b = &c->b;
    int W = c->plan.dims.vlm_width, F = c->plan.dims.vlm_mlp_dim, rows = k->rows;
    for (int r = 0; r < rows; r += c->mlp_rows) {
        int n = rows - r < c->mlp_rows ? rows - r : c->mlp_rows;
        size_t at = (size_t)r * (size_t)W;
        cu_mark(c, CU_OP_PREFIX_GATE_UP, "GeGLU");
        TRY(prefix_gate_up(c, k, w->wgu, b->h + at, n, err));
        cu_mark(c, CU_OP_PREFIX_DOWN, parts && !project_tile(c, k, n, parts) ? "" : "residual");
        TRY(prefix_project(c, k, b->act, w->wdown, b->x + at, n, F, parts, err));
    }
    return PI0_OK;
}

pi0_status prefix_enqueue(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    int W = d->vlm_width, rows = k->rows;
    int parts = rows <= c->mlp_rows ? cu_split_k(&c->facts, rows, W, d->vlm_mlp_dim) : 0;
    int left = parts - (project_tile(c, k, rows, parts) > 0); /* of them for the norm */
    left = left > 0 ? left : 0;
    TRY(early_begin(c, k, err));
    TRY(prefix_embed(c, rows, c->b.x, c->b.o, err));
    for (int l = 0; l < d->depth - 1; l++) {
        const struct cu_layer *w = &c->w.vlm[l];
        TRY(prefix_qkv(c, l, d->heads, rows, l > 0 ? left : 0, err));
        TRY(early_layer(c, k, l, err));
        cu_mark(c, CU_OP_PREFIX_ATTENTION, "");
        TRY(prefix_attention(c, l, k, err));
        cu_mark(c, CU_OP_PREFIX_O, "residual");
        TRY(prefix_project(c, k, c->b.o, w->wo, c->b.x, rows, c->plan.q_dim, 0, err));
        cu_mark(c, CU_OP_PREFIX_NORM, "");
        TRY(prefix_norm(c, w->n2, rows, 0, err));
        TRY(prefix_mlp(c, k, w, parts, err));
    }
    TRY(prefix_qkv(c, d->depth - 1, 0, rows, left, err));
    return early_end(c, k, err);
}
