/* SPDX-License-Identifier: Apache-2.0
 * proj_sm90: launcher of the Hopper products whose sum goes to the residual stream, in plain C.
 * Allocates nothing. */
#ifndef PI0_CUDA_PROJ_SM90_H
#define PI0_CUDA_PROJ_SM90_H

#include "tensor_map.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* y [M, N] += x·wᵀ, float32; x [M, K] and w [N, K] bf16. With two parts y gets the first half of K and
 * `rest` [M, N] is set to the second. N a multiple of 64 · parts, K too. */
struct proj90 {
    CUtensorMap w, x, y, rest;
    int m, n, k, parts, tile_tokens;
};

/* 1 if the launcher takes this product. Pure. */
int proj90_supported(int n, int k, int parts);

/* Tokens a tile: the smallest that lets every tile run at once on `n_sms` processors; 0: none does.
 * Pure; host-tested. */
int proj90_tile_tokens(int m, int n, int parts, int n_sms);

/* Fills a plan. Rows of y past m are not written. Returns the driver's status. */
CUresult proj90_plan(struct proj90 *plan, tensor_map_encode_fn encode, const void *x, const void *w,
                     float *y, float *rest, int m, int n, int k, int parts, int tile_tokens);

/* Enqueues; `pdl` non-zero gives the kernel the programmatic-launch attribute (it waits for its
 * predecessor before it touches x or y). */
cudaError_t proj90_launch(const struct proj90 *plan, int pdl, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
