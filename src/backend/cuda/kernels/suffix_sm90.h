/* SPDX-License-Identifier: Apache-2.0
 * suffix_sm90: launchers of the action expert's layer on Hopper for a batch, in plain C. They choose
 * no tile and allocate nothing. Every kernel takes part in programmatic dependent launch: it asks for
 * weights and prefix keys before its predecessor has finished, so within a chain of these kernels
 * nothing may write either.
 *
 * RMSNorm has no kernel of its own. Whoever writes the float32 residual x also writes
 *     xg = bf16(x ⊙ (1 + g))     g: gain of the norm that follows (adaRMS: the step's scale), and
 *     part[row][p] = Σ x²        over each piece p of 64 features,
 * and the product behind the norm multiplies its rows by 1/rms (and adds W · shift for adaRMS). */
#ifndef PI0_CUDA_SUFFIX_SM90_H
#define PI0_CUDA_SUFFIX_SM90_H

#include "kernels.h" /* cu_row, cu_sample */
#include "tensor_map.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum sfx90_mode {
    SFX90_QKV = 0,   /* q, K, V: 1/rms, RoPE, K and V into the cache   [2560, 1024] */
    SFX90_GEGLU = 1, /* h = bf16(gelu(gate) · up), 1/rms first         [8192, 1024] */
    SFX90_ADD = 2    /* x += gate · acc; xg, part of the new x         [1024, 2048 … 4096] */
};

/* Fixed by the kernels: the expert of π0 and π0.5. */
#define SFX90_WIDTH 1024
#define SFX90_PARTS 16
#define SFX90_MLP 4096
#define SFX90_ACTION_DIM 32
#define SFX90_HEADS 8
#define SFX90_HEAD_DIM 256

/* How a product is cut: tokens of a tile, pieces of K (a cluster), CTAs that share tokens by
 * multicast, groups of 64 weight rows a CTA (2: QKV of 104 tokens or more and GEGLU, unsplit), warpgroups
 * that take turns at the blocks of K (2: up to 104 tokens, QKV unsplit, ADD split in 4). */
struct sfx90_tile {
    int tokens, split, share, groups, turns;
};
/* Pure; host-tested. rows ≥ 1. */
struct sfx90_tile sfx90_tile(enum sfx90_mode mode, int rows, int n_sm);

struct sfx90_gemm {
    CUtensorMap w_map, x_map;
    enum sfx90_mode mode;
    struct sfx90_tile tile;
    int m, n, k;        /* tokens, weight rows, inner size */
    float *part;        /* [m, SFX90_PARTS] of the input (QKV, GEGLU) or of the output (ADD) */
    const float *shift; /* QKV, GEGLU: [n] added after 1/rms, or NULL */
    /* QKV */
    const struct cu_row *rows; /* [m] */
    const float *cos_sin;      /* [positions, 128, 2] */
    uint16_t *q, *kc, *vc;     /* [m, 2048]; row rows[i].cache of [·, 256] */
    /* GEGLU: h [m, n / 2]. ADD: xg [m, 1024] */
    uint16_t *y;
    /* ADD */
    float *x;          /* [m, 1024] */
    const float *bias; /* [1024]: x = bias + acc instead, or NULL */
    const float *gate; /* [1024] or NULL: 1 */
    const float *gain; /* [1024]: offset from 1 of the next norm; NULL: 0 */
};
/* Fills the maps: xin bf16 [≥ m, k], w bf16 [n, k]. The rest is the caller's. GEGLU: gate and up rows in
 * turns of 8. */
CUresult sfx90_gemm_plan(struct sfx90_gemm *g, tensor_map_encode_fn encode, const void *xin,
                         const void *w);
cudaError_t sfx90_gemm_launch(const struct sfx90_gemm *g, cudaStream_t stream);

/* suffix_heads_sm90.cu: the end of a step and the beginning of the next. */
struct sfx90_step {
    /* The end: v = out_w · norm(x) + out_b, actions += dt · v. x NULL: this is the first step */
    const float *x;             /* [rows, 1024] */
    const float *scale, *shift; /* final norm: offset from 1 [1024]; adaRMS, or NULL */
    const float *out_w, *out_b; /* [32, 1024], [32] */
    float *actions;             /* [rows, 32], read and written */
    float *rec_x, *rec_v;       /* [rows, 32] of this step, or NULL */
    float dt;
    int rows;
    /* The beginning. wt NULL: that was the last step */
    const float *wt, *c; /* [32, 1024], [1024] */
    uint16_t *u3;        /* π0: [rows, 3072], hi | hi | lo of silu; NULL: π0.5 */
    float *y;            /* π0.5: x, xg, part of the first layer; gain of its norm */
    const float *gain;
    uint16_t *xg;
    float *part;
};
cudaError_t sfx90_step_launch(const struct sfx90_step *a, int n_sm, cudaStream_t stream);
/* π0's state rows: x = w · state + b and what the first norm needs; w [1024, 32], state [rows, 32]. */
cudaError_t sfx90_state(const float *state, const float *w, const float *b, const float *gain,
                        float *x, uint16_t *xg, float *part, int rows, cudaStream_t stream);
/* w [1024, 1024] → w3 [1024, 3072] bf16: hi | lo | hi, so that a product with u3 is one with u. */
cudaError_t sfx90_split(const float *w, uint16_t *w3, cudaStream_t stream);

/* suffix_attn_sm90.cu: o = softmax(q·kᵀ · scale) · v of the action rows (and state rows) of every
 * sample against its prefix and suffix keys. q, o [rows · 8, 256]; k, v [cache rows, 256], finite
 * everywhere. */
struct sfx90_attn {
    CUtensorMap q_map, k_map, v_map;
    uint16_t *o;
    const struct cu_sample *samples; /* [n] */
    int n, horizon, n_state, query_state, kv_row0, split;
    float scale;
};
/* CTAs of a cluster that share a tile's keys: 1 … 8. Pure. */
int sfx90_attn_split(int max_keys, int horizon, int batch, int n_sm);
CUresult sfx90_attn_plan(struct sfx90_attn *a, tensor_map_encode_fn encode, const void *q,
                         int q_rows, const void *k, const void *v, long kv_rows);
cudaError_t sfx90_attn_launch(const struct sfx90_attn *a, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
