/* SPDX-License-Identifier: Apache-2.0
 * state_sm90: π0's state token through the action expert, once a call, on the weights that the
 * denoising loop uses (denoise_sm90.h): leaves the token's K and V of every layer in the cache. */
#ifndef PI0_CUDA_STATE_SM90_H
#define PI0_CUDA_STATE_SM90_H

#include "backend/cuda/kernels/denoise_sm90.h"

#ifdef __cplusplus
extern "C" {
#endif

size_t st90_workspace_bytes(void);

struct st90_args {
    struct dn90_shape shape;
    void *workspace;                 /* st90_workspace_bytes, 256-byte aligned */
    const void *weights;             /* dn90_pack_layer's */
    const float *norm;               /* f32 [2L+1][W], offsets from 1 */
    float *x;                        /* [W] state embedding in; overwritten */
    const float *cos_sin;            /* f32 [positions, E/2, 2] */
    uint16_t *k, *v;                 /* cache; row r of layer l is k + l·layer_stride + r·E */
    int64_t layer_stride;            /* elements */
    const int32_t *n_valid, *n_rows; /* on the device: keys [0, n_valid), own row n_rows */
};
/* 5 kernels a layer, each launched to overlap the end of the one before; the last layer stops at its
 * K and V. May run under stream capture. */
cudaError_t st90_enqueue(const struct st90_args *a, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
