/* SPDX-License-Identifier: Apache-2.0
 * denoise: state and noise → actions: n_steps passes of the action expert over the suffix, attending
 * to the cached prefix and to itself.
 *
 * π0's state token sees neither time nor actions, so it is a row of step 0 only; its K and V stay in
 * the cache. Its bits do not depend on the step it shares.
 *
 * The residual stream sx is float32. π0 adds a product into it (beta = 1); π0.5 multiplies by a gate
 * first, so its products go to sdelta and the next norm adds gate · sdelta. */
#include "backend/cuda/state.h"

#include <math.h>

/* One pass: what the steps differ in. */
struct pass {
    const struct cu_key *k;
    const struct cu_tables *t;
    int step;
    int with_state; /* 1: a state row a sample behind the action rows */
    int rows;
};

static int is_pi05(const struct cuda_engine *c) { return c->plan.dims.variant == PI0_VARIANT_PI05; }

/* Modulation i of a step (2l, 2l + 1: norms of layer l; 2L: final): scale, shift, gate, W each. */
static const float *modulation(const struct cuda_engine *c, const struct pass *p, int i)
{
    size_t W = (size_t)c->plan.dims.expert_width, n = 2 * (size_t)c->plan.dims.depth + 1;
    return p->t->mod + ((size_t)p->step * n + (size_t)i) * 3 * W;
}

pi0_status suffix_embed(struct cuda_engine *c, const struct cu_key *k, int step,
                        const float *actions, int with_state, struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_tables *t = &c->tables[k->table];
    int W = d->expert_width, rows = k->batch * d->action_horizon;
    cudaStream_t s = c->dev.stream;
    struct cu_suffix_in in = { .x = actions,
                               .wt = c->w.suffix_wt,
                               .c = is_pi05(c) ? c->w.suffix_c : t->c + (size_t)step * (size_t)W,
                               .y = is_pi05(c) ? c->b.sx : c->b.su,
                               .rows = rows,
                               .n = W,
                               .A = d->action_dim,
                               .act = is_pi05(c) ? CU_ACT_NONE : CU_ACT_SILU };
    CU_TRY(cu_suffix_in(&in, s), err);
    if (is_pi05(c))
        return PI0_OK;
    TRY(cu_matmul(
        c,
        cu_bias(cu_f32(cu_product(rows, W, W, c->b.su, c->w.time_out_w, c->b.sx)), c->w.time_out_b),
        err));
    if (!with_state)
        return PI0_OK;
    struct cu_linear st = { .w = c->w.state_w,
                            .ldw = d->action_dim,
                            .x = c->b.state,
                            .bias = c->w.state_b,
                            .y = c->b.sx + (size_t)rows * (size_t)W,
                            .rows = k->batch,
                            .n = W,
                            .k = d->action_dim,
                            .ldy = W };
    CU_TRY(cu_linear(&st, s), err);
    return PI0_OK;
}

/* Norm i of the pass, with what the product before it left in sdelta (π0.5; not before the first). */
static pi0_status suffix_norm(struct cuda_engine *c, const struct pass *p, int i, const float *w,
                              struct pi0_error *err)
{
    int W = c->plan.dims.expert_width;
    struct cu_rmsnorm n = { .x = c->b.sx, .scale = w, .y = c->b.sh, .rows = p->rows, .width = W };
    if (is_pi05(c)) {
        const float *m = modulation(c, p, i);
        n.scale = m;
        n.shift = m + W;
        if (i > 0) {
            n.delta = c->b.sdelta;
            n.gate = modulation(c, p, i - 1) + 2 * W;
        }
    }
    CU_TRY(cu_rmsnorm(&n, c->dev.stream), err);
    return PI0_OK;
}

static pi0_status suffix_attention(struct cuda_engine *c, const struct pass *p, int l,
                                   struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_buffers *b = &c->b;
    struct cu_rope r = { .qkv = b->sqkv,
                         .rows = b->suffix_rows,
                         .cos_sin = c->w.rope,
                         .q = b->sq,
                         .k = b->k + cache_layer(c, l),
                         .v = b->v + cache_layer(c, l),
                         .n_rows = p->rows,
                         .heads = d->heads,
                         .head_dim = d->head_dim };
    cu_mark(c, CU_OP_SUFFIX_ROPE, "write into the K/V cache");
    CU_TRY(cu_rope(&r, c->dev.stream), err);
    cu_mark(c, CU_OP_SUFFIX_ATTENTION, "");
    struct cu_attn a = { .mode = CU_ATTN_SUFFIX,
                         .head_dim = d->head_dim,
                         .heads = d->heads,
                         .n = p->k->batch,
                         .q = b->sq,
                         .k = r.k,
                         .v = r.v,
                         .ldq = c->plan.q_dim,
                         .ldk = d->head_dim,
                         .o = b->so,
                         .scale = 1.0f / sqrtf((float)d->head_dim),
                         .samples = b->samples,
                         .max_keys = c->plan.max_keys,
                         .horizon = d->action_horizon,
                         .n_state = c->plan.n_state,
                         .query_state = p->with_state,
                         .n_splits = p->k->splits,
                         .part_o = b->part_o,
                         .part_ml = b->part_ml,
                         .smem_limit = c->dev.smem_limit };
    return cu_attend(c, c->choice.attn_suffix, &a, err);
}

/* Into the residual stream; π0.5: beside it, for its gate comes first. */
static struct cu_gemm onto_residual(const struct cuda_engine *c, struct cu_gemm g)
{
    g.y = is_pi05(c) ? c->b.sdelta : c->b.sx;
    return is_pi05(c) ? g : cu_add(g);
}

static pi0_status suffix_layer(struct cuda_engine *c, const struct pass *p, int l,
                               struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_buffers *b = &c->b;
    const struct cu_layer *w = &c->w.expert[l];
    int W = d->expert_width, F = d->expert_mlp_dim, Q = c->plan.q_dim, N = p->rows;
    cu_mark(c, CU_OP_SUFFIX_NORM, is_pi05(c) && l ? "gate, residual" : "");
    TRY(suffix_norm(c, p, 2 * l, w->n1, err));
    cu_mark(c, CU_OP_SUFFIX_QKV, "");
    TRY(cu_qkv(c, cu_product(N, Q + 2 * d->head_dim, W, b->sh, w->wqkv, b->sqkv), d->head_dim,
               err));
    TRY(suffix_attention(c, p, l, err));
    cu_mark(c, CU_OP_SUFFIX_O, is_pi05(c) ? "" : "residual");
    TRY(cu_matmul(c, onto_residual(c, cu_product(N, W, Q, b->so, w->wo, NULL)), err));
    cu_mark(c, CU_OP_SUFFIX_NORM, is_pi05(c) ? "gate, residual" : "");
    TRY(suffix_norm(c, p, 2 * l + 1, w->n2, err));
    cu_mark(c, CU_OP_SUFFIX_GATE_UP, "GeGLU");
    TRY(cu_matmul(c, cu_bf16(cu_product(N, 2 * F, W, b->sh, w->wgu, b->sgu)), err));
    CU_TRY(cu_geglu(b->sgu, b->sact, N, F, c->choice.glu_group_expert, c->dev.stream), err);
    cu_mark(c, CU_OP_SUFFIX_DOWN, is_pi05(c) ? "" : "residual");
    return cu_matmul(c, onto_residual(c, cu_product(N, W, F, b->sact, w->wdown, NULL)), err);
}

static pi0_status velocity(struct cuda_engine *c, const struct pass *p, struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    int W = d->expert_width, A = d->action_dim, rows = p->k->batch * d->action_horizon;
    size_t rec = rec_at(c, p->k, p->step, 0);
    struct cu_velocity v = { .x = c->b.sx,
                             .scale = c->w.final_w,
                             .out_w = c->w.out_w,
                             .out_b = c->w.out_b,
                             .actions = c->b.actions,
                             .rec_x = c->b.rec_x ? c->b.rec_x + rec : NULL,
                             .rec_v = c->b.rec_v ? c->b.rec_v + rec : NULL,
                             .dt = -1.0f / (float)p->k->n_steps,
                             .rows = rows,
                             .width = W,
                             .A = A };
    if (is_pi05(c)) {
        const float *m = modulation(c, p, 2 * d->depth);
        v.delta = c->b.sdelta;
        v.gate = modulation(c, p, 2 * d->depth - 1) + 2 * W;
        v.scale = m;
        v.shift = m + W;
    }
    CU_TRY(cu_velocity(&v, c->dev.stream), err);
    return PI0_OK;
}

/* All steps as one kernel, π0's state token included. x of step 0 is the noise; the loop records x
 * after each step. */
static pi0_status loop_sample(struct cuda_engine *c, const struct cu_key *k, int sample,
                              struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_tables *t = &c->tables[k->table];
    const struct cu_buffers *b = &c->b;
    cudaStream_t s = c->dev.stream;
    size_t A = (size_t)d->action_dim, n = (size_t)d->action_horizon * A, i = (size_t)sample;
    size_t kv = i * (size_t)c->plan.max_keys * (size_t)d->head_dim;
    float *rec_x = b->rec_x ? b->rec_x + rec_at(c, k, 0, sample) : NULL;
    CU_TRY(cudaMemcpyAsync(b->actions + i * n, b->noise + i * n, n * sizeof(float),
                           cudaMemcpyDeviceToDevice, s),
           err);
    if (rec_x)
        CU_TRY(cudaMemcpyAsync(rec_x, b->noise + i * n, n * sizeof(float), cudaMemcpyDeviceToDevice,
                               s),
               err);
    struct dn90_args a = { .shape = c->loop_shape,
                           .n_steps = k->n_steps,
                           .workspace = b->loop_ws,
                           .weights = c->w.loop,
                           .k = b->k + kv,
                           .v = b->v + kv,
                           .layer_stride = (int64_t)cache_layer(c, 1),
                           .n_valid = &b->samples[sample].n_valid,
                           .first_layer = k->early,
                           .x0 = b->sx,
                           .n_rows = &b->samples[sample].n_rows,
                           .norm = is_pi05(c) ? t->mod : c->w.norms,
                           .shift = t->shift,
                           .in_w = c->w.suffix_w,
                           .in_b = is_pi05(c) ? c->w.suffix_c : t->c,
                           .mlp_out_b = is_pi05(c) ? NULL : c->w.time_out_b,
                           .out_b = c->w.out_b,
                           .state = b->state + i * A,
                           .state_w = c->w.state_w,
                           .state_b = c->w.state_b,
                           .x = b->actions + i * n,
                           .rec_v = b->rec_v ? b->rec_v + rec_at(c, k, 0, sample) : NULL,
                           .rec_x = rec_x ? rec_x + n : NULL };
    CU_TRY(dn90_enqueue(&a, s), err);
    CU_TRY(cudaMemcpyAsync(c->host_status + i, dn90_status(&c->loop_shape, b->loop_ws),
                           sizeof(int32_t), cudaMemcpyDeviceToHost, s),
           err);
    return PI0_OK;
}

/* ---------------------------------------------------------------- Hopper: suffix_sm90.h's chain */

/* What norm i multiplies its input by, less 1; NULL behind the last product. */
static const float *chain_gain(const struct cuda_engine *c, const struct pass *p, int i)
{
    const struct cu_layer *w = &c->w.expert[i / 2 < c->plan.dims.depth ? i / 2 : 0];
    return i == 2 * c->plan.dims.depth ? NULL
           : is_pi05(c)                ? modulation(c, p, i)
           : i % 2                     ? w->n2
                                       : w->n1;
}

static pi0_status chain_product(struct cuda_engine *c, struct sfx90_gemm *g, const void *x,
                                const void *w, struct pi0_error *err)
{
    g->tile = sfx90_tile(g->mode, g->m, c->dev.n_sm);
    g->part = c->b.spart;
    TRY(device_map_status(sfx90_gemm_plan(g, c->encode, x, w), err));
    CU_TRY(sfx90_gemm_launch(g, c->dev.stream), err);
    return PI0_OK;
}

/* o and down: behind norm i + 1's product stands norm i + 1. */
static pi0_status chain_add(struct cuda_engine *c, const struct pass *p, int i, int k,
                            const void *x, const void *w, struct pi0_error *err)
{
    int W = c->plan.dims.expert_width;
    struct sfx90_gemm g = { .mode = SFX90_ADD,
                            .m = p->rows,
                            .n = W,
                            .k = k,
                            .y = c->b.sh,
                            .x = c->b.sx,
                            .gate = is_pi05(c) ? modulation(c, p, i) + 2 * W : NULL,
                            .gain = chain_gain(c, p, i + 1) };
    return chain_product(c, &g, x, w, err);
}

static pi0_status chain_layer(struct cuda_engine *c, const struct pass *p, int l,
                              struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_buffers *b = &c->b;
    const struct cu_layer *w = &c->w.expert[l];
    int W = d->expert_width, F = d->expert_mlp_dim, Q = c->plan.q_dim, qkv = Q + 2 * d->head_dim;
    int cache_rows = c->plan.max_batch * c->plan.max_keys;
    const float *shift = NULL;
    if (is_pi05(c))
        shift = p->t->products +
                ((size_t)p->step * (size_t)d->depth + (size_t)l) * (size_t)(qkv + 2 * F);
    struct sfx90_gemm q = { .mode = SFX90_QKV,
                            .m = p->rows,
                            .n = qkv,
                            .k = W,
                            .shift = shift,
                            .rows = b->suffix_rows,
                            .cos_sin = c->w.rope,
                            .q = b->sq,
                            .kc = b->k + cache_layer(c, l),
                            .vc = b->v + cache_layer(c, l) };
    cu_mark(c, CU_OP_SUFFIX_QKV, "1/rms, RoPE, write into the K/V cache");
    TRY(chain_product(c, &q, b->sh, w->wqkv, err));
    cu_mark(c, CU_OP_SUFFIX_ATTENTION, "");
    struct sfx90_attn a = { .o = b->so,
                            .samples = b->samples,
                            .n = p->k->batch,
                            .horizon = d->action_horizon,
                            .n_state = c->plan.n_state,
                            .query_state = p->with_state,
                            .kv_row0 = l * cache_rows,
                            .split = sfx90_attn_split(c->plan.max_keys, d->action_horizon,
                                                      p->k->batch, c->dev.n_sm),
                            .scale = 1.0f / sqrtf((float)d->head_dim) };
    TRY(device_map_status(
        sfx90_attn_plan(&a, c->encode, b->sq, p->rows, b->k, b->v, (long)d->depth * cache_rows),
        err));
    CU_TRY(sfx90_attn_launch(&a, c->dev.stream), err);
    cu_mark(c, CU_OP_SUFFIX_O, "residual, norm's sum");
    TRY(chain_add(c, p, 2 * l, Q, b->so, w->wo, err));
    struct sfx90_gemm g = { .mode = SFX90_GEGLU,
                            .m = p->rows,
                            .n = 2 * F,
                            .k = W,
                            .shift = shift ? shift + qkv : NULL,
                            .y = b->sact };
    cu_mark(c, CU_OP_SUFFIX_GATE_UP, "1/rms, GeGLU");
    TRY(chain_product(c, &g, b->sh, w->wgu, err));
    cu_mark(c, CU_OP_SUFFIX_DOWN, "residual, norm's sum");
    return chain_add(c, p, 2 * l + 1, F, b->sact, w->wdown, err);
}

/* The end of step `before` (unless −1) and the way into p's first layer (unless there is none). */
static pi0_status chain_heads(struct cuda_engine *c, const struct pass *p, int before,
                              struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_buffers *b = &c->b;
    int W = d->expert_width, rows = p->k->batch * d->action_horizon, pi05 = is_pi05(c);
    struct sfx90_step s = { .actions = b->actions, .rows = rows };
    if (before >= 0) {
        struct pass was = *p;
        was.step = before;
        const float *m = pi05 ? modulation(c, &was, 2 * d->depth) : NULL;
        size_t rec = rec_at(c, p->k, before, 0);
        s.x = b->sx;
        s.scale = pi05 ? m : c->w.final_w;
        s.shift = pi05 ? m + W : NULL;
        s.out_w = c->w.out_w;
        s.out_b = c->w.out_b;
        s.rec_x = b->rec_x ? b->rec_x + rec : NULL;
        s.rec_v = b->rec_v ? b->rec_v + rec : NULL;
        s.dt = -1.0f / (float)p->k->n_steps;
    }
    int more = p->step < p->k->n_steps;
    if (more) {
        s.wt = c->w.suffix_wt;
        s.c = pi05 ? c->w.suffix_c : p->t->c + (size_t)p->step * (size_t)W;
        s.u3 = pi05 ? NULL : b->su3;
        s.y = b->sx;
        s.gain = chain_gain(c, p, 0);
        s.xg = b->sh;
        s.part = b->spart;
    }
    CU_TRY(sfx90_step_launch(&s, c->dev.n_sm, c->dev.stream), err);
    if (!more || pi05)
        return PI0_OK;
    struct sfx90_gemm g = { .mode = SFX90_ADD,
                            .m = rows,
                            .n = W,
                            .k = 3 * W,
                            .y = b->sh,
                            .x = b->sx,
                            .bias = c->w.time_out_b,
                            .gain = s.gain };
    TRY(chain_product(c, &g, b->su3, c->w.time_out_w3, err));
    if (p->with_state)
        CU_TRY(sfx90_state(b->state, c->w.state_w, c->w.state_b, s.gain,
                           b->sx + (size_t)rows * (size_t)W, b->sh + (size_t)rows * (size_t)W,
                           b->spart + (size_t)rows * SFX90_PARTS, p->k->batch, c->dev.stream),
               err);
    return PI0_OK;
}

static struct pass pass_of(const struct cuda_engine *c, const struct cu_key *k, int step)
{
    int again = (c->without & PI0_WITHOUT_STATE_REUSE) != 0;
    int with_state = (step == 0 || again) && c->plan.n_state;
    return (struct pass){ .k = k,
                          .t = &c->tables[k->table],
                          .step = step,
                          .with_state = with_state,
                          .rows = k->batch * (c->plan.dims.action_horizon + with_state) };
}

pi0_status denoise_begin(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    size_t n = (size_t)k->batch * (size_t)d->action_horizon * (size_t)d->action_dim;
    CU_TRY(cudaMemcpyAsync(c->b.actions, c->b.noise, n * sizeof(float), cudaMemcpyDeviceToDevice,
                           c->dev.stream),
           err);
    struct pass p = pass_of(c, k, 0);
    return c->choice.suffix_sm90 ? chain_heads(c, &p, -1, err) : PI0_OK;
}

/* All steps by the chain; step 0 from the layer on where the side of the prefix stopped. */
static pi0_status chain_enqueue(struct cuda_engine *c, const struct cu_key *k,
                                struct pi0_error *err)
{
    cu_mark(c, CU_OP_REST, "");
    if (!k->early)
        TRY(denoise_begin(c, k, err));
    for (int step = 0; step < k->n_steps; step++) {
        struct pass p = pass_of(c, k, step), next = pass_of(c, k, step + 1);
        for (int l = step ? 0 : k->early; l < c->plan.dims.depth; l++)
            TRY(chain_layer(c, &p, l, err));
        cu_mark(c, CU_OP_REST, "");
        TRY(chain_heads(c, &next, step, err));
    }
    return PI0_OK;
}

pi0_status denoise_enqueue(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err)
{
    if (k->loop) {
        cu_mark(c, CU_OP_LOOP, "all layers, steps and heads");
        for (int i = 0; i < k->batch; i++)
            TRY(loop_sample(c, k, i, err));
        return PI0_OK;
    }
    if (c->choice.suffix_sm90)
        return chain_enqueue(c, k, err);
    TRY(denoise_begin(c, k, err));
    for (int step = 0; step < k->n_steps; step++) {
        struct pass p = pass_of(c, k, step);
        TRY(suffix_embed(c, k, step, c->b.actions, p.with_state, err));
        for (int l = 0; l < c->plan.dims.depth; l++)
            TRY(suffix_layer(c, &p, l, err));
        cu_mark(c, CU_OP_REST, "");
        TRY(velocity(c, &p, err));
    }
    return PI0_OK;
}
