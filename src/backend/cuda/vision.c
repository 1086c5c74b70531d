/* SPDX-License-Identifier: Apache-2.0
 * vision: pixels → image features [images · tokens, W_vlm]: SigLIP over all images of the call at
 * once, then the projector. The residual stream vx is float32; products add into it (beta = 1). */
#include "backend/cuda/state.h"

#include <math.h>

static pi0_status vision_attention(struct cuda_engine *c, int images, struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    int D = d->vision_width, E = D / d->vision_heads;
    struct cu_attn a = { .mode = CU_ATTN_VISION,
                         .head_dim = E,
                         .heads = d->vision_heads,
                         .n = images,
                         .q = c->b.vqkv,
                         .k = c->b.vqkv + D,
                         .v = c->b.vqkv + 2 * D,
                         .ldq = 3 * D,
                         .ldk = 3 * D,
                         .o = c->b.vo,
                         .scale = 1.0f / sqrtf((float)E),
                         .tokens = c->plan.tokens_per_camera,
                         .n_splits = 1,
                         .smem_limit = c->dev.smem_limit };
    CU_TRY(cu_attend(c->choice.attn_vision, &a, c->dev.stream), err);
    return PI0_OK;
}

pi0_status vision_enqueue(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_buffers *b = &c->b;
    cudaStream_t s = c->dev.stream;
    int D = d->vision_width, F = d->vision_mlp_dim, M = k->images * c->plan.tokens_per_camera;
    struct cu_patches p = { .pixels = b->pixels,
                            .n_images = k->images,
                            .image = d->image_size,
                            .patch = d->patch_size,
                            .k_pad = c->k_pad,
                            .table = c->w.patch_table,
                            .patches = b->patches,
                            .x = b->vx,
                            .width = D };
    CU_TRY(cu_patches(&p, s), err);
    TRY(cu_matmul(c,
                  cu_scaled(cu_add(cu_product(M, D, c->k_pad, b->patches, c->w.patch_w, b->vx)),
                            2.0f / 255.0f),
                  err));
    for (int l = 0; l < d->vision_depth; l++) {
        const struct cu_vision_layer *w = &c->w.vision[l];
        CU_TRY(cu_layernorm(b->vx, w->ln1_g, w->ln1_b, b->vh, M, D, s), err);
        TRY(cu_matmul(
            c, cu_bias(cu_bf16(cu_product(M, 3 * D, D, b->vh, w->wqkv, b->vqkv)), w->bqkv), err));
        TRY(vision_attention(c, k->images, err));
        TRY(cu_matmul(c, cu_bias(cu_add(cu_product(M, D, D, b->vo, w->wo, b->vx)), w->bo), err));
        CU_TRY(cu_layernorm(b->vx, w->ln2_g, w->ln2_b, b->vh, M, D, s), err);
        TRY(cu_matmul(
            c, cu_gelu(cu_bias(cu_bf16(cu_product(M, F, D, b->vh, w->w1, b->vmlp)), w->b1)), err));
        TRY(cu_matmul(c, cu_bias(cu_add(cu_product(M, D, F, b->vmlp, w->w2, b->vx)), w->b2), err));
    }
    CU_TRY(cu_layernorm(b->vx, c->w.post_g, c->w.post_b, b->vh, M, D, s), err);
    return cu_matmul(
        c, cu_bias(cu_product(M, d->vlm_width, D, b->vh, c->w.proj_w, b->features), c->w.proj_b),
        err);
}
