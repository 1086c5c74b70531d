/* SPDX-License-Identifier: Apache-2.0
 * attention: which of the portable kernels, and the attention that is not fused: scores and weights as
 * matrices in memory, two products of the library and a softmax (attn_plain.cu). That one is there to
 * be measured against (PI0_WITHOUT_FUSED_ATTENTION) and takes one sample a call. */
#include "backend/cuda/state.h"

/* Rows of q (of a head where heads side by side have keys of their own) and keys of one matrix of
 * scores; columns on a multiple of 8, as the library's fast products want them. */
static struct cu_softmax plain_shape(const struct cu_attn *a)
{
    struct cu_softmax s = { .mode = a->mode, .heads = a->heads, .scale = a->scale };
    s.n_keys = a->mode == CU_ATTN_SUFFIX                              ? a->max_keys
               : a->mode == CU_ATTN_PREFIX && a->tokens > a->max_keys ? a->max_keys
                                                                      : a->tokens;
    s.rows = (a->mode == CU_ATTN_SUFFIX ? a->horizon + a->query_state : a->tokens) * a->heads;
    s.ld = (s.n_keys + 7) / 8 * 8;
    s.sample = a->samples;
    s.horizon = a->horizon;
    s.n_state = a->n_state;
    return s;
}

/* One sample, or one image: scores = q · kᵀ, softmax, o = weights · v. In prefix and suffix a row is
 * a (token, head) and all share their keys; in vision the heads are products side by side. */
static pi0_status plain_one(struct cuda_engine *c, const struct cu_attn *a, struct pi0_error *err)
{
    struct cu_softmax s = plain_shape(a);
    int heads = a->mode == CU_ATTN_VISION ? a->heads : 1, m = s.rows / heads, E = a->head_dim;
    struct cu_gemm g = cu_product(m, s.n_keys, E, a->q, a->k, c->b.scores);
    g.ldy = s.ld;
    g.ldx = heads > 1 ? a->ldq : E;
    g.ldw = a->ldk;
    g.batch = heads;
    g.step_x = g.step_w = E;
    g.step_y = (int64_t)m * s.ld;
    TRY(cu_matmul(c, g, err));
    s.scores = c->b.scores;
    s.weights = c->b.weights;
    CU_TRY(cu_softmax(&s, c->dev.stream), err);
    struct cu_gemm o = cu_bf16(cu_product(m, E, s.n_keys, c->b.weights, a->v, a->o));
    o.ldx = s.ld;
    o.ldw = a->ldk;
    o.w_kn = 1;
    o.ldy = heads > 1 ? a->heads * E : E;
    o.batch = heads;
    o.step_x = (int64_t)m * s.ld;
    o.step_w = o.step_y = E;
    return cu_matmul(c, o, err);
}

static pi0_status attend_plain(struct cuda_engine *c, const struct cu_attn *a,
                               struct pi0_error *err)
{
    struct cu_attn one = *a;
    for (int i = 0; i < a->n; i++) { /* prefix and suffix: n is 1 (open_sizes) */
        TRY(plain_one(c, &one, err));
        one.q += (size_t)a->tokens * (size_t)a->ldq;
        one.k += (size_t)a->tokens * (size_t)a->ldk;
        one.v += (size_t)a->tokens * (size_t)a->ldk;
        one.o += (size_t)a->tokens * (size_t)(a->heads * a->head_dim);
    }
    return PI0_OK;
}

pi0_status cu_attend(struct cuda_engine *c, enum cu_attn_kernel k, const struct cu_attn *a,
                     struct pi0_error *err)
{
    if (k == CU_ATTN_KERNEL_PLAIN)
        return attend_plain(c, a, err);
    CU_TRY(k == CU_ATTN_KERNEL_MMA ? cu_attn_mma(a, c->dev.stream) : cu_attn_any(a, c->dev.stream),
           err);
    return PI0_OK;
}
