/* SPDX-License-Identifier: Apache-2.0
 * inspect: looking inside an engine: the values behind a tap, the stages' times, sizes, and which
 * kernel does what. */
#include "backend/cuda/state.h"

#include <stdio.h>
#include <string.h>

static pi0_status read_f32(float *dst, const float *src, size_t n, cudaStream_t s,
                           struct pi0_error *err)
{
    CU_TRY(cudaMemcpyAsync(dst, src, n * sizeof *dst, cudaMemcpyDeviceToHost, s), err);
    CU_TRY(cudaStreamSynchronize(s), err);
    return PI0_OK;
}

/* bf16 values into the upper half of dst, then widened in place from the front. */
static pi0_status read_bf16(float *dst, const uint16_t *src, size_t n, cudaStream_t s,
                            struct pi0_error *err)
{
    uint16_t *half = (uint16_t *)(void *)dst + n;
    CU_TRY(cudaMemcpyAsync(half, src, n * sizeof *src, cudaMemcpyDeviceToHost, s), err);
    CU_TRY(cudaStreamSynchronize(s), err);
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, half + i, sizeof h);
        dst[i] = bf16_to_f32(h);
    }
    return PI0_OK;
}

static pi0_status read_suffix_embs(struct cuda_engine *c, int step, int sample, float *dst,
                                   size_t n, struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    size_t W = (size_t)d->expert_width, H = (size_t)d->action_horizon;

    if (!c->b.rec_x && step > 0)
        return pi0_fail(err, PI0_E_UNSUPPORTED,
                        "tap: suffix embeddings past step 0 need record_steps");
    const float *x = c->b.noise;
    if (c->b.rec_x) { /* all samples, together again: the call's actions are not needed any more */
        size_t one = H * (size_t)d->action_dim;
        x = c->b.actions;
        for (int i = 0; i < c->last.batch; i++)
            CU_TRY(cudaMemcpyAsync(c->b.actions + (size_t)i * one,
                                   c->b.rec_x + rec_at(c, &c->last, step, i), one * sizeof *x,
                                   cudaMemcpyDeviceToDevice, c->dev.stream),
                   err);
    }
    TRY(suffix_embed(c, &c->last, step, x, c->plan.n_state, err));
    if (c->plan.n_state) {
        size_t row = (size_t)c->last.batch * H + (size_t)sample;
        TRY(read_f32(dst, c->b.sx + row * W, W, c->dev.stream, err));
        dst += W;
        n -= W;
    }
    return read_f32(dst, c->b.sx + (size_t)sample * H * W, n, c->dev.stream, err);
}

pi0_status cuda_read(void *self, enum pi0_tap tap, int index, int sample, float *dst, size_t n,
                     struct pi0_error *err)
{
    struct cuda_engine *c = self;
    const struct pi0_dims *d = &c->plan.dims;
    cudaStream_t s = c->dev.stream;
    TRY(device_use(&c->dev, err));
    const struct cu_sample *samples = HOST(c, samples);
    size_t step = rec_at(c, &c->last, index, sample);
    size_t kv = (size_t)samples[sample].kv_row * (size_t)d->head_dim;
    switch (tap) {
    case PI0_TAP_PREFIX_EMBS: {
        int rows = samples[sample].row0 + samples[sample].n_rows;
        TRY(prefix_embed(c, rows, c->b.x, NULL, err));
        return read_f32(dst, c->b.x + (size_t)samples[sample].row0 * (size_t)d->vlm_width, n, s,
                        err);
    }
    case PI0_TAP_PREFIX_K: return read_bf16(dst, c->b.k + cache_layer(c, index) + kv, n, s, err);
    case PI0_TAP_PREFIX_V: return read_bf16(dst, c->b.v + cache_layer(c, index) + kv, n, s, err);
    case PI0_TAP_SUFFIX_EMBS: return read_suffix_embs(c, index, sample, dst, n, err);
    case PI0_TAP_ADARMS_COND:
        return read_f32(dst, c->tables[c->last.table].cond + (size_t)index * n, n, s, err);
    case PI0_TAP_V:
        if (c->b.rec_v)
            return read_f32(dst, c->b.rec_v + step, n, s, err);
        break;
    case PI0_TAP_X:
        if (c->b.rec_x)
            return read_f32(dst, c->b.rec_x + step, n, s, err);
        break;
    }
    return pi0_fail(err, PI0_E_UNSUPPORTED, "cuda: tap %d is not kept", (int)tap);
}

void cuda_timing(void *self, struct pi0_timing *out)
{
    struct cuda_engine *c = self;
    float ms[3] = { 0 };
    for (int i = 0; i < 3; i++)
        (void)cudaEventElapsedTime(&ms[i], c->event[i], c->event[i + 1]);
    out->vision_ms = (double)ms[0];
    out->prefix_ms = (double)ms[1];
    out->denoise_ms = (double)ms[2];
}

void cuda_info(void *self, struct pi0_engine_info *out)
{
    const struct cuda_engine *c = self;
    out->device = c->dev.name;
    out->isa = c->dev.isa;
    out->n_threads = 0;
    out->weight_bytes = c->weight_bytes;
    out->cache_bytes = c->cache_bytes;
    out->scratch_bytes = c->scratch_bytes;
}

int cuda_kernel(void *self, int i, struct pi0_kernel_choice *out)
{
    const struct cuda_engine *c = self;
    const struct pi0_dims *d = &c->plan.dims;
    int D = d->vision_width, W = d->vlm_width, We = d->expert_width, E = d->head_dim;
    int Q = c->plan.q_dim, V = d->n_cameras * c->plan.tokens_per_camera, P = c->plan.max_prefix;
    int S = d->action_horizon;
    const char *lt = "gemm_bf16_cublaslt";
    const struct pi0_kernel_choice list[] = {
        { "vision patches", "", V, D, c->k_pad },
        { "vision qkv", "", V, 3 * D, D },
        { "vision attention", "", V, c->plan.tokens_per_camera, D / d->vision_heads },
        { "vision o", "", V, D, D },
        { "vision fc1", "", V, d->vision_mlp_dim, D },
        { "vision fc2", "", V, D, d->vision_mlp_dim },
        { "prefix qkv", "", P, Q + 2 * E, W },
        { "prefix attention", "", P, P, E },
        { "prefix o", "", P, W, Q },
        { "prefix gate·up", "", P, 2 * d->vlm_mlp_dim, W },
        { "prefix down", "", P, W, d->vlm_mlp_dim },
        { "suffix qkv", "", S, Q + 2 * E, We },
        { "suffix attention", "", S, c->plan.max_keys, E },
        { "suffix o", "", S, We, Q },
        { "suffix gate·up", "", S, 2 * d->expert_mlp_dim, We },
        { "suffix down", "", S, We, d->expert_mlp_dim },
        { "step 0 beside the prefix", "", S + c->plan.n_state, 0, 0 },
    };
    int n = (int)(sizeof list / sizeof list[0]) - !early_layers(c, 1, P);
    if (i < 0 || i >= n)
        return 0;
    *out = list[i];
    int fused = c->choice.vision_sm90 && V <= CU_VISION_FUSED_ROWS;
    const char *name = fused && i != 2 && i < 6 ? "vision_bf16_sm90"
                       : i == 2                 ? cu_attn_kernel_name(c->choice.attn_vision)
                       : i == 6 && c->choice.qkv_sm90 && qkv90_tile_tokens(P, d->heads, c->dev.n_sm)
                           ? "qkv_bf16_sm90"
                       : i == 7 ? cu_attn_kernel_name(c->choice.attn_prefix)
                       : i == 8 && c->choice.proj_sm90 && proj90_tile_tokens(P, W, 1, c->dev.n_sm)
                           ? "proj_bf16_sm90"
                       : i == 10 && c->choice.proj_sm90 && proj90_tile_tokens(P, W, 2, c->dev.n_sm)
                           ? "proj_bf16_sm90"
                       : i == 9 && c->choice.geglu_sm90 ? "geglu_bf16_sm90"
                       : i == 16 && S + c->plan.n_state > EARLY90_NARROW_ROWS
                           ? "early_wide_bf16_sm90"
                       : i == 16                                          ? "early_bf16_sm90"
                       : i >= 11 && c->has_loop && c->plan.max_batch == 1 ? "denoise_bf16_sm90"
                       : i == 12 && c->choice.suffix_sm90                 ? "suffix_attn_bf16_sm90"
                       : i >= 11 && c->choice.suffix_sm90                 ? "suffix_bf16_sm90"
                       : i == 12 ? cu_attn_kernel_name(c->choice.attn_suffix)
                                 : lt;
    snprintf(out->kernel, sizeof out->kernel, "%s", name);
    return 1;
}
