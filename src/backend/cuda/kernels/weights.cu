/* SPDX-License-Identifier: Apache-2.0
 * weights: what is done to weights on the device at open. The values of a synthetic tensor, bit for
 * bit those of model/synth.c (integer hash, one float32 multiply, one add, one rounding; no fused
 * multiply-add); the search for values that are not finite in those that came from a file. */
#include "backend/cuda/kernels/kernels.h"
#include "backend/cuda/kernels/ptx_sm80.cuh"

__global__ void synth_kernel(struct cu_synth a)
{
    size_t total = (size_t)a.rows * a.cols, step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        uint64_t z = a.base + (a.first + i + 1) * 0x9E3779B97F4A7C15ull;
        z ^= z >> 30;
        z *= 0xBF58476D1CE4E5B9ull;
        z ^= z >> 27;
        z *= 0x94D049BB133111EBull;
        z ^= z >> 31;
        float u = (float)(uint32_t)(z >> 40) * 0x1p-23f - 1.f; /* both exact */
        __nv_bfloat16 v = __float2bfloat16_rn(__fadd_rn(__fmul_rn(u, a.a), a.b));
        size_t r = i / a.cols, c = i % a.cols;
        size_t at = (r / a.group * a.group_stride + r % a.group) * a.ld + c;
        if (a.to_f32)
            ((float *)a.dst)[at] = __bfloat162float(v);
        else
            ((__nv_bfloat16 *)a.dst)[at] = v;
    }
}

extern "C" cudaError_t cu_synth(const struct cu_synth *a, cudaStream_t s)
{
    size_t blocks = ((size_t)a->rows * a->cols + 1023) / 1024;
    synth_kernel<<<(unsigned)(blocks < 16384 ? blocks : 16384), 256, 0, s>>>(*a);
    return cudaGetLastError();
}

__global__ void scan_kernel(struct cu_scan a)
{
    size_t total = (size_t)a.rows * a.cols, step = (size_t)gridDim.x * blockDim.x;
    bool bad = false;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < total; i += step) {
        size_t r = i / a.cols, c = i % a.cols;
        size_t at = (r / a.group * a.group_stride + r % a.group) * a.ld + c;
        uint32_t bits = a.is_f32 ? ((const uint32_t *)a.src)[at]
                                 : (uint32_t)((const uint16_t *)a.src)[at] << 16;
        bad = bad || (bits & 0x7F800000u) == 0x7F800000u;
    }
    if (bad)
        atomicMin(a.first, a.value);
}

extern "C" cudaError_t cu_scan(const struct cu_scan *a, cudaStream_t s)
{
    size_t blocks = ((size_t)a->rows * a->cols + 2047) / 2048;
    scan_kernel<<<(unsigned)(blocks < 8192 ? blocks : 8192), 256, 0, s>>>(*a);
    return cudaGetLastError();
}
