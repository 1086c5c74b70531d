/* SPDX-License-Identifier: Apache-2.0
 * vision_sm90: launchers of the Hopper vision stage, in plain C. They choose no tile and allocate
 * nothing; every kernel can take part in programmatic dependent launch (`pdl`).
 *
 * LayerNorm has no kernel of its own. Whoever writes the float32 residual x also writes
 *     xg = bf16(x ⊙ γ)        of the norm that follows, and
 *     part[row][p] = { Σ x, Σ (x − mean_p)² }   over each piece p of `width` features,
 * and the product behind the norm finishes it (μ, rstd of the row from the parts):
 *     W·LN(x) + b = rstd · (W·xg − μ · Wγ) + (Wβ + b)
 * with Wγ = Σ_k W[n,k] γ[k] and Wβ likewise in float32 (vis90_fold). The gain stays on the
 * activations: no weight is rounded again. */
#ifndef PI0_CUDA_VISION_SM90_H
#define PI0_CUDA_VISION_SM90_H

#include "tensor_map.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum vis90_mode {
    VIS90_NORM = 0, /* y = bf16(norm)                      QKV */
    VIS90_GELU = 1, /* y = bf16(gelu_tanh(norm))           fc1 */
    VIS90_ADD = 2,  /* x += acc + bias; xg, part of new x  o, fc2, patches */
    VIS90_F32 = 3   /* yf = norm, float32                  projector */
};

/* Facts of a row's pieces: part [rows, VIS90_MAX_PARTS, 2] float32. */
#define VIS90_MAX_PARTS 32
struct vis90_parts {
    float *part;
    int n, width; /* n · width = D */
};

/* acc[m, n] = xg[m, K] · w[n, K]ᵀ, then by mode. xg, w bf16; K, N multiples of 8. */
struct vis90_gemm {
    CUtensorMap x_map, w_map, r_map;
    enum vis90_mode mode;
    int tile; /* index, vis90_tile */
    int m, n, k;
    int ldx, ldw,
        ldy; /* values between rows of xin, w, y; 0: none but the row's. Not for ADD's y */
    struct vis90_parts parts; /* NORM, GELU, F32: of the input rows. ADD: of x, written */
    const float *a,
        *b;      /* [N]. NORM, GELU, F32: Wγ, Wβ + bias. ADD: bias or NULL, γ of the next norm */
    void *y;     /* NORM, GELU: bf16 [m, N]. F32: float32 [m, N]. ADD: xg bf16 [m, N] */
    float *x;    /* ADD: [m, N], read and written */
    float scale; /* ADD: of acc; 0: none */
};

/* The tile that wastes least time on n_sm processors, and the width of the parts it writes. Pure;
 * host-tested. −1: none fits (ADD needs N a multiple of the tile's width). */
int vis90_tile(enum vis90_mode mode, int m, int n, int k, int n_sm);
int vis90_part_width(int tile);
int vis90_tiles(void);
const char *vis90_tile_name(int tile);
/* 1 if this tile's kernel exists for the mode. */
int vis90_tile_has(int tile, enum vis90_mode mode);

/* Fills the maps from the fields above (ADD: x too); xin is bf16 [m, K], w bf16 [N, K], both 16-byte aligned. The rest is the caller's. */
CUresult vis90_gemm_plan(struct vis90_gemm *g, tensor_map_encode_fn encode, const void *xin,
                         const void *w);
cudaError_t vis90_gemm_launch(const struct vis90_gemm *g, int pdl, cudaStream_t stream);

/* wg[n] = Σ_k w[n,k] γ[k], wb[n] = Σ_k w[n,k] β[k] + bias[n]; w, bias bf16 (bias_f32: float32). */
cudaError_t vis90_fold(const void *w, const float *gamma, const float *beta, const void *bias,
                       int bias_f32, float *wg, float *wb, int n, int k, cudaStream_t stream);

/* attn_vision_sm90.cu: o = softmax(q·kᵀ · scale) · v inside each image and head, head size 72,
 * 256 tokens an image. qkv bf16 [images · 256, 3 · heads · 72], o bf16 [images · 256, heads · 72].
 * Heads are cut in two, so that rows of 128 bytes begin at a memory line: each of q, k, v is columns
 * 0 … 63 of every head, then columns 64 … 71 of every head. o has its heads whole. */
struct attn_vision90 {
    CUtensorMap wide, narrow; /* columns 0 … 63 and 64 … 71 of a head, 128 rows a copy */
    CUtensorMap wide64;       /* 64 rows */
    void *o;
    int images, heads;
    float scale;
};
CUresult attn_vision90_plan(struct attn_vision90 *a, tensor_map_encode_fn encode, const void *qkv,
                            void *o, int images, int heads, float scale);
/* Queries of a head that a CTA takes at a time: 64 or 128 where all run at once, else all 256. Pure. */
int attn_vision90_queries(int images, int heads, int n_sm);
cudaError_t attn_vision90_launch(const struct attn_vision90 *a, int pdl, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
