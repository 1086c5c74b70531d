/* SPDX-License-Identifier: Apache-2.0
 * launch: a kernel as a programmatic dependent of the one before it in the stream (Hopper and later;
 * an ordinary launch elsewhere). Such a kernel starts while its predecessor drains, so it must call
 * pdl_enter() before it touches anything that an earlier kernel wrote or reads: pdl_enter returns when
 * all earlier kernels have finished and their writes are visible, and lets the next one start. */
#ifndef PI0_CUDA_LAUNCH_CUH
#define PI0_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

static __device__ __forceinline__ void pdl_enter(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <class... P, class... A>
static cudaError_t launch_dependent(void (*kernel)(P...), dim3 grid, dim3 block, cudaStream_t s,
                                    A... args)
{
    int device, major;
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (e != cudaSuccess)
        return e;
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = grid;
    cfg.blockDim = block;
    cfg.stream = s;
    cfg.attrs = &attr;
    cfg.numAttrs = major >= 9 ? 1 : 0;
    return cudaLaunchKernelEx(&cfg, kernel, P(args)...);
}

#endif
