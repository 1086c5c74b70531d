/* SPDX-License-Identifier: Apache-2.0
 * qkv_sm90: launcher of the Hopper projection to q, k and v with RoPE, in plain C. Allocates nothing. */
#ifndef PI0_CUDA_QKV_SM90_H
#define PI0_CUDA_QKV_SM90_H

#include "kernels.h" /* struct cu_rope */
#include "tensor_map.h"

#ifdef __cplusplus
extern "C" {
#endif

/* x [M, K] bf16 times wqkv [(heads + 2) · 256, K] bf16 (q heads, k, v), turned and stored as cu_rope
 * does: `out` says where, its qkv is not read. K a multiple of 64. */
struct qkv90 {
    CUtensorMap w, x;
    struct cu_rope out;
    int m, k, tile_tokens;
};

/* Tokens a tile: the smallest that lets every tile run at once on `n_sms` processors; 0: none does.
 * Pure; host-tested. */
int qkv90_tile_tokens(int m, int heads, int n_sms);

/* Fills a plan; x and w as above. Returns the driver's status. */
CUresult qkv90_plan(struct qkv90 *plan, tensor_map_encode_fn encode, const void *x, const void *w,
                    const struct cu_rope *out, int k, int tile_tokens);

/* Enqueues; `pdl` non-zero gives the kernel the programmatic-launch attribute. The rows and the angles
 * must not be the output of a kernel that may still run. */
cudaError_t qkv90_launch(const struct qkv90 *plan, int pdl, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
