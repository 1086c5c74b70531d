/* SPDX-License-Identifier: Apache-2.0
 * suffix_sm90: what the kernels of the batch's chain share. */
#ifndef PI0_CUDA_SUFFIX_SM90_CUH
#define PI0_CUDA_SUFFIX_SM90_CUH

#include "suffix_sm90.h"
#include "wgmma_sm90.cuh"

namespace sfx90
{

/* For barriers alone: their initialisation has its own fence, and no other data is published. The
 * releasing form is a fence to the whole GPU. */
static __device__ __forceinline__ void cluster_sync_relaxed(void)
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n"
                 "barrier.cluster.wait.aligned;" ::
                     : "memory");
}

/* Waits for data that peers sent by st.async. */
static __device__ __forceinline__ void mbar_wait_cluster(uint64_t *bar, uint32_t parity)
{
    asm volatile("{\n.reg .pred p;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\n"
                 "bra again;\n"
                 "done:\n}\n" ::"r"(wg90::smem_u32(bar)),
                 "r"(parity)
                 : "memory");
}

/* movmatrix: transposes an 8×8 tile of 16-bit values held one row of 8 by four lanes. */
static __device__ __forceinline__ uint32_t movmatrix(uint32_t a)
{
    uint32_t d;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(a));
    return d;
}

/* One try: has this phase ended? */
static __device__ __forceinline__ int mbar_try(uint64_t *bar, uint32_t parity)
{
    uint32_t ok;
    asm volatile("{\n.reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(ok)
                 : "r"(wg90::smem_u32(bar)), "r"(parity)
                 : "memory");
    return (int)ok;
}

/* 16 bytes to a peer's shared memory, counted by the peer's barrier; both addresses mapped (mapa). */
static __device__ __forceinline__ void st_async(uint32_t to, float a, float b, float c, float d,
                                                uint32_t bar)
{
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 "
                 "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
                 "f"(a), "f"(b), "f"(c), "f"(d), "r"(bar)
                 : "memory");
}

static __device__ __forceinline__ uint32_t mapa(const void *p, uint32_t rank)
{
    uint32_t r;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(r)
                 : "r"(wg90::smem_u32(p)), "r"(rank));
    return r;
}

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
