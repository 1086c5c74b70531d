/* SPDX-License-Identifier: Apache-2.0
 * gemm_sm90: launcher of the Hopper product with a fused GeGLU, in plain C. Allocates nothing. */
#ifndef PI0_CUDA_GEMM_SM90_H
#define PI0_CUDA_GEMM_SM90_H

#include "tensor_map.h"

#include <cuda_runtime_api.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* h[M, F] = gelu_tanh(x · gateᵀ) ⊙ (x · upᵀ)      x [M, K] bf16, h bf16; gate and up in one matrix
 * w [2F, K] bf16, rows in turns of 8. F a multiple of 256, K a multiple of 64. One plan holds the
 * tensor maps of one (x, w, h). */
struct geglu90 {
    CUtensorMap w, x, h;
    int m, f, k, tile_tokens;
};

/* 1 if the launcher takes this product: pure. */
int geglu90_supported(int compute_major, int compute_minor, int m, int f, int k);

/* Tokens a tile: the size that wastes least time on `n_sms` processors, and what it costs there, to be
 * compared with other m and n_sms. Pure; host-tested. */
int geglu90_tile_tokens(int m, int f, int n_sms);
long geglu90_cost(int m, int f, int n_sms, int *tile_tokens);

/* Token tiles, pairs of them, that meet all weights before the next ones do: groups of like size whose x
 * takes 14 MB at the most, over a quarter of L2, of which each half of the chip keeps its own copy. Pure;
 * host-tested. */
int geglu90_group(int m, int k, int tile_tokens);

/* Fills a plan. x must have room for m rows; rows past m are neither read nor written.
 * Returns the driver's status. */
CUresult geglu90_plan(struct geglu90 *plan, tensor_map_encode_fn encode, const void *x,
                      const void *w, void *h, int m, int f, int k, int tile_tokens);

/* Enqueues; `pdl` non-zero gives the kernel the programmatic-launch attribute (it waits for its
 * predecessor before it touches x or h). */
cudaError_t geglu90_launch(const struct geglu90 *plan, int n_sms, int pdl, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
