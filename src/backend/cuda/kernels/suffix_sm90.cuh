/* SPDX-License-Identifier: Apache-2.0
 * suffix_sm90: what the kernels of the batch's chain share. */
#ifndef PI0_CUDA_SUFFIX_SM90_CUH
#define PI0_CUDA_SUFFIX_SM90_CUH

#include "suffix_sm90.h"
#include "wgmma_sm90.cuh"

namespace sfx90
{

/* Shared memory of a kernel, and the same division of it for all kernels of the chain: a processor must
 * drain before it can change that. */
static inline cudaError_t prepare(const void *kernel, int smem)
{
    cudaError_t e =
        smem ? cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem)
             : cudaSuccess;
    if (e != cudaSuccess)
        return e;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared);
}

} // namespace sfx90

#endif
