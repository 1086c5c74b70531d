/* SPDX-License-Identifier: Apache-2.0
 * vision: pixels → image features [images · tokens, W_vlm]: SigLIP over all images of the call at
 * once, then the projector. The residual stream vx is float32; products add into it (beta = 1).
 *
 * plain_layers() is the stage in the words of docs/model.md; fused_layers() the same in five kernels a
 * layer for a robot's few images on Hopper (vision_sm90.h). */
#include "backend/cuda/state.h"

#include <math.h>

#define PIXEL_SCALE (2.0f / 255.0f) /* of the products of patches */

/* pdl: the kernels before and after are launched programmatically. */
static pi0_status vision_attention(struct cuda_engine *c, int images, int pdl,
                                   struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    int D = d->vision_width, E = D / d->vision_heads;
    cu_mark(c, CU_OP_VISION_ATTENTION, "");
    if (c->choice.attn_vision == CU_ATTN_KERNEL_SM90) {
        struct attn_vision90 v;
        TRY(device_map_status(attn_vision90_plan(&v, c->encode, c->b.vqkv, c->b.vo, images,
                                                 d->vision_heads, 1.0f / sqrtf((float)E)),
                              err));
        CU_TRY(attn_vision90_launch(&v, pdl, c->dev.stream), err);
        return PI0_OK;
    }
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
    return cu_attend(c, c->choice.attn_vision, &a, err);
}

static pi0_status plain_layers(struct cuda_engine *c, int images, int M, struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_buffers *b = &c->b;
    cudaStream_t s = c->dev.stream;
    int D = d->vision_width, F = d->vision_mlp_dim;
    int ld = c->choice.vision_sm90 ? CU_VISION_MLP_LD(F) : F;
    /* What fc1's rows of zeros give, gelu(0), is not read. */
    int rows = cu_padded_rows(&c->facts, M, F, ld, D);
    for (int l = 0; l < d->vision_depth; l++) {
        const struct cu_vision_layer *w = &c->w.vision[l];
        struct cu_gemm fc1 =
            cu_gelu(cu_bias(cu_bf16(cu_product(M, rows, D, b->vh, w->w1, b->vmlp)), w->b1));
        struct cu_gemm fc2 = cu_bias(cu_add(cu_product(M, D, F, b->vmlp, w->w2, b->vx)), w->b2);
        fc1.ldy = fc2.ldx = ld;
        cu_mark(c, CU_OP_VISION_NORM, "");
        CU_TRY(cu_layernorm(b->vx, w->ln1_g, w->ln1_b, b->vh, M, D, s), err);
        cu_mark(c, CU_OP_VISION_QKV, "bias");
        TRY(cu_qkv(c, cu_bias(cu_bf16(cu_product(M, 3 * D, D, b->vh, w->wqkv, b->vqkv)), w->bqkv),
                   D, err));
        TRY(vision_attention(c, images, 0, err));
        cu_mark(c, CU_OP_VISION_O, "bias, residual");
        TRY(cu_matmul(c, cu_bias(cu_add(cu_product(M, D, D, b->vo, w->wo, b->vx)), w->bo), err));
        cu_mark(c, CU_OP_VISION_NORM, "");
        CU_TRY(cu_layernorm(b->vx, w->ln2_g, w->ln2_b, b->vh, M, D, s), err);
        cu_mark(c, CU_OP_VISION_FC1, "bias, GELU");
        TRY(cu_matmul(c, fc1, err));
        cu_mark(c, CU_OP_VISION_FC2, "bias, residual");
        TRY(cu_matmul(c, fc2, err));
    }
    return PI0_OK;
}

/* ---------------------------------------------------------------- Hopper, few images */

static pi0_status fused_run(struct cuda_engine *c, struct vis90_gemm *g, const void *x,
                            const void *w, struct pi0_error *err)
{
    TRY(device_map_status(vis90_gemm_plan(g, c->encode, x, w), err));
    CU_TRY(vis90_gemm_launch(g, 1, c->dev.stream), err);
    return PI0_OK;
}

static struct vis90_parts parts_of(const struct cuda_engine *c, int width)
{
    return (struct vis90_parts){ c->b.vparts, c->plan.dims.vision_width / width, width };
}

/* A norm finished behind its product: y = act(norm(x) · wᵀ + bias), n features. */
static struct vis90_gemm fused_norm(const struct cuda_engine *c, enum vis90_mode mode, int M, int n,
                                    struct vis90_parts parts, const float *wg, const float *wb,
                                    void *y)
{
    int D = c->plan.dims.vision_width;
    return (struct vis90_gemm){ .mode = mode,
                                .tile = vis90_tile(mode, M, n, D, c->dev.n_sm),
                                .m = M,
                                .n = n,
                                .k = D,
                                .parts = parts,
                                .a = wg,
                                .b = wb,
                                .y = y };
}

/* vx += x · wᵀ + bias, k columns; vh and the parts become those of the norm with gain `gamma`. */
static struct vis90_gemm fused_add(const struct cuda_engine *c, int M, int k, const float *bias,
                                   const float *gamma)
{
    int D = c->plan.dims.vision_width, tile = vis90_tile(VIS90_ADD, M, D, k, c->dev.n_sm);
    return (struct vis90_gemm){ .mode = VIS90_ADD,
                                .tile = tile,
                                .m = M,
                                .n = D,
                                .k = k,
                                .parts = parts_of(c, vis90_part_width(tile)),
                                .a = bias,
                                .b = gamma,
                                .y = c->b.vh,
                                .x = c->b.vx };
}

/* The product of the patches, five kernels a layer, and the projector; each launched before the one in
 * front has ended (programmatic dependent launch): it waits by itself for what it reads. */
static pi0_status fused_layers(struct cuda_engine *c, int images, int M, struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_buffers *b = &c->b;
    int D = d->vision_width, F = d->vision_mlp_dim, L = d->vision_depth;
    int ld = CU_VISION_MLP_LD(F);
    struct vis90_gemm patches = fused_add(c, M, c->k_pad, NULL, c->w.vision[0].ln1_g);
    patches.scale = PIXEL_SCALE;
    TRY(fused_run(c, &patches, b->patches, c->w.patch_w, err));
    struct vis90_parts parts = patches.parts;
    for (int l = 0; l < L; l++) {
        const struct cu_vision_layer *w = &c->w.vision[l], *after = w + 1;
        struct vis90_gemm qkv =
            fused_norm(c, VIS90_NORM, M, 3 * D, parts, w->qkv_g, w->qkv_b, b->vqkv);
        cu_mark(c, CU_OP_VISION_QKV, "LayerNorm, bias");
        TRY(fused_run(c, &qkv, b->vh, w->wqkv, err));
        TRY(vision_attention(c, images, 1, err));
        struct vis90_gemm o = fused_add(c, M, D, w->bo, w->ln2_g);
        cu_mark(c, CU_OP_VISION_O, "bias, residual, sums of the next norm");
        TRY(fused_run(c, &o, b->vo, w->wo, err));
        struct vis90_gemm fc1 =
            fused_norm(c, VIS90_GELU, M, F, o.parts, w->fc1_g, w->fc1_b, b->vmlp);
        fc1.ldy = ld;
        cu_mark(c, CU_OP_VISION_FC1, "LayerNorm, bias, GELU");
        TRY(fused_run(c, &fc1, b->vh, w->w1, err));
        int last = l == L - 1;
        struct vis90_gemm fc2 = fused_add(c, M, F, w->b2, last ? c->w.post_g : after->ln1_g);
        fc2.ldx = ld;
        cu_mark(c, CU_OP_VISION_FC2, "bias, residual, sums of the next norm");
        TRY(fused_run(c, &fc2, b->vmlp, w->w2, err));
        parts = fc2.parts;
    }
    cu_mark(c, CU_OP_REST, "");
    struct vis90_gemm project =
        fused_norm(c, VIS90_F32, M, d->vlm_width, parts, c->w.proj_wg, c->w.proj_wb, b->features);
    return fused_run(c, &project, b->vh, c->w.proj_w, err);
}

pi0_status vision_enqueue(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_buffers *b = &c->b;
    cudaStream_t s = c->dev.stream;
    int D = d->vision_width, M = k->images * c->plan.tokens_per_camera;
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
    if (c->choice.vision_sm90 && M <= CU_VISION_FUSED_ROWS)
        return fused_layers(c, k->images, M, err);
    TRY(cu_matmul(
        c,
        cu_scaled(cu_add(cu_product(M, D, c->k_pad, b->patches, c->w.patch_w, b->vx)), PIXEL_SCALE),
        err));
    TRY(plain_layers(c, k->images, M, err));
    cu_mark(c, CU_OP_REST, "");
    CU_TRY(cu_layernorm(b->vx, c->w.post_g, c->w.post_b, b->vh, M, D, s), err);
    return cu_matmul(
        c, cu_bias(cu_product(M, d->vlm_width, D, b->vh, c->w.proj_w, b->features), c->w.proj_b),
        err);
}
