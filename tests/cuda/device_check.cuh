/* SPDX-License-Identifier: Apache-2.0
 * device_check: what the checks of single Hopper kernels share: errors, random data, comparison, the
 * driver's tensor-map call. For .cu programs that are one file each. */
#ifndef PI0_TESTS_DEVICE_CHECK_CUH
#define PI0_TESTS_DEVICE_CHECK_CUH

#include "backend/cuda/kernels/gemm_sm90.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#define CK(call)                                                                         \
    do {                                                                                 \
        cudaError_t e_ = (call);                                                         \
        if (e_ != cudaSuccess) {                                                         \
            printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_)); \
            exit(1);                                                                     \
        }                                                                                \
    } while (0)

/* 0, and its properties, where a Hopper GPU is; else says so as a check's result. */
static inline int no_hopper(cudaDeviceProp *prop)
{
    if (cudaGetDeviceProperties(prop, 0) == cudaSuccess && prop->major == 9 && prop->minor == 0)
        return 0;
    printf("skipped: no Hopper GPU\n0 passed, 0 failed, 1 skipped\n");
    return 1;
}

/* Uniform in ±1, a function of (seed, i). */
static __device__ __forceinline__ float uniform(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    return (float)(z >> 40) * 0x1p-23f - 1.0f;
}

/* bf16 values uniform in ±scale, a function of (seed, index). */
__global__ void fill(__nv_bfloat16 *p, size_t n, uint64_t seed, float scale)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        p[i] = __float2bfloat16(uniform(seed, i) * scale);
    }
}

/* float32 values uniform in add ± scale, a function of (seed, index). */
__global__ void fill32(float *p, size_t n, uint64_t seed, float scale, float add)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x)
        p[i] = uniform(seed, i) * scale + add;
}

/* Device memory of n values: as it comes, by the two kernels above, from the host; and back. */
template <class T> static T *get(size_t n)
{
    T *p;
    CK(cudaMalloc(&p, n * sizeof(T)));
    return p;
}
static inline __nv_bfloat16 *make16(size_t n, uint64_t seed, float scale)
{
    __nv_bfloat16 *p = get<__nv_bfloat16>(n);
    fill<<<512, 256>>>(p, n, seed, scale);
    return p;
}
static inline float *make32(size_t n, uint64_t seed, float scale, float add)
{
    float *p = get<float>(n);
    fill32<<<512, 256>>>(p, n, seed, scale, add);
    return p;
}
template <class T> static T *up(const std::vector<T> &h)
{
    T *p = get<T>(h.size());
    CK(cudaMemcpy(p, h.data(), h.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}
template <class T> static std::vector<T> down(const T *p, size_t n)
{
    std::vector<T> h(n);
    CK(cudaDeviceSynchronize());
    CK(cudaMemcpy(h.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
    return h;
}

/* out[0] += Σ(got-ref)², out[1] += Σref², out[2]: count of NaN; out as double. */
__global__ void compare(double *out, const __nv_bfloat16 *got, const float *ref, size_t n)
{
    double d2 = 0, r2 = 0, bad = 0;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        double g = __bfloat162float(got[i]), r = ref[i];
        bad += !isfinite(g);
        d2 += (g - r) * (g - r);
        r2 += r * r;
    }
    atomicAdd(&out[0], d2);
    atomicAdd(&out[1], r2);
    atomicAdd(&out[2], bad);
}

/* bf16 bits as float32; ‖got − ref‖ / ‖ref‖ of what came back. */
static inline float widen(uint16_t v)
{
    uint32_t u = (uint32_t)v << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline std::vector<float> wide(const std::vector<uint16_t> &v)
{
    std::vector<float> f(v.size());
    for (size_t i = 0; i < v.size(); i++)
        f[i] = widen(v[i]);
    return f;
}
static inline double rel(const std::vector<float> &got, const std::vector<float> &ref)
{
    double d = 0, r = 0;
    for (size_t i = 0; i < ref.size(); i++) {
        if (!isfinite(got[i]))
            return INFINITY;
        d += ((double)got[i] - ref[i]) * ((double)got[i] - ref[i]);
        r += (double)ref[i] * ref[i];
    }
    return sqrt(d / (r > 0 ? r : 1));
}

static inline tensor_map_encode_fn find_encode(void)
{
    void *fn = NULL;
    cudaDriverEntryPointQueryResult q;
    CK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000, cudaEnableDefault,
                                        &q));
    return (tensor_map_encode_fn)fn;
}

#endif
