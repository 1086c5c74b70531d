/* SPDX-License-Identifier: Apache-2.0
 * attn_sm90: launcher of the Hopper prefix attention, in plain C. Allocates nothing. */
#ifndef PI0_CUDA_ATTN_SM90_H
#define PI0_CUDA_ATTN_SM90_H

#include "tensor_map.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One sample of a launch, in device memory: read at run time, so that lengths change without a new
 * graph. Read before the wait for the preceding kernel, so no kernel that may still run writes it. */
struct attn90_segment {
    int q_row;   /* first token row in q and o */
    int n_rows;  /* tokens, and keys that are looked at */
    int n_valid; /* keys [n_valid, n_rows) get probability 0; at least 1 */
    int kv_row;  /* first row in k and v, before kv_row_offset */
};

/* o = softmax(q·kᵀ · scale) · v for heads·tokens query rows against one K/V head of 256.
 * q, o [tokens, heads, 256] bf16; k, v [rows, 256] bf16, every value finite, rows past the last key
 * included. */
struct attn90 {
    CUtensorMap q, k, v;
    void *o;
    const struct attn90_segment *segments; /* device, [n_segments] */
    const float *angles;                   /* see attn90_turn; or NULL */
    int heads, n_segments, max_rows, split;
    float scale;
};

/* 1: the warpgroups of a CTA share rows' tiles; 2: they share keys, and a cluster of two CTAs the tiles.
 * For n_segments samples of max_rows tokens. Pure. */
int attn90_split(int max_rows, int heads, int n_segments, int n_sms);

CUresult attn90_plan(struct attn90 *plan, tensor_map_encode_fn encode, const void *q, int q_rows,
                     const void *k, const void *v, int kv_rows, void *o,
                     const struct attn90_segment *segments, int n_segments, int max_rows, int heads,
                     float scale, int split);

/* Makes a plan of 8 heads take queries that RoPE has not turned: q [tokens, 8, 256] bf16, ldq values a
 * token; angles [positions, 128, 2] float32, cos and sin, no kernel's output. A token's position is its
 * row in its segment. Turned in float32 and rounded to bf16. */
CUresult attn90_turn(struct attn90 *plan, tensor_map_encode_fn encode, const void *q, int q_rows,
                     int ldq, const float *angles);

/* kv_row_offset is added to every segment's kv_row (a layer's place in one cache). */
cudaError_t attn90_launch(const struct attn90 *plan, int kv_row_offset, int pdl,
                          cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
