/* SPDX-License-Identifier: Apache-2.0
 * norm: LayerNorm (SigLIP), RMSNorm (Gemma) and adaRMS (π0.5's expert), each float32 in, bf16 out,
 * the last two with the residual addition in front. Gains are applied to activations, never folded
 * into bf16 weights (docs/numerics.md). Statistics are two-pass over registers.
 *
 * One block of 128 threads a row: a row of 2048 is 4 float4 a thread, all loaded before the first
 * use. Rows wider than the registers hold (or not a multiple of 4) take the strided kernels. */
#include "backend/cuda/kernels/kernels.h"
#include "backend/cuda/kernels/launch.cuh"
#include "backend/cuda/kernels/ptx_sm80.cuh"

#define NORM_THREADS 128
#define NORM_EPS 1e-6f

/* Sum over the block, the same value and order in every thread. */
__device__ __forceinline__ float block_sum(float v, float *buf)
{
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0)
        buf[threadIdx.x / 32] = v;
    __syncthreads();
    float t = 0.f;
#pragma unroll
    for (int i = 0; i < NORM_THREADS / 32; i++)
        t += buf[i];
    return t;
}

__device__ __forceinline__ float4 load4(const float *p, int i)
{
    return reinterpret_cast<const float4 *>(p)[i];
}

__device__ __forceinline__ void store4(uint16_t *p, int i, float4 v)
{
    reinterpret_cast<uint2 *>(p)[i] = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
}

template <int NV>
__global__ void __launch_bounds__(NORM_THREADS)
    layernorm_kernel(const float *x, const float *g, const float *b, uint16_t *y, int width)
{
    __shared__ float buf[2][NORM_THREADS / 32];
    pdl_enter();
    const float *row = x + (size_t)blockIdx.x * width;
    int n4 = width / 4;
    float4 v[NV];
    float sum = 0.f;
#pragma unroll
    for (int j = 0; j < NV; j++) {
        int i = j * NORM_THREADS + threadIdx.x;
        v[j] = i < n4 ? load4(row, i) : make_float4(0.f, 0.f, 0.f, 0.f);
        sum += (v[j].x + v[j].y) + (v[j].z + v[j].w);
    }
    float mean = block_sum(sum, buf[0]) / width, var = 0.f;
#pragma unroll
    for (int j = 0; j < NV; j++) {
        if (j * NORM_THREADS + (int)threadIdx.x < n4) {
            float p = v[j].x - mean, q = v[j].y - mean, r = v[j].z - mean, t = v[j].w - mean;
            var += (p * p + q * q) + (r * r + t * t);
        }
    }
    float rstd = rsqrtf(block_sum(var, buf[1]) / width + NORM_EPS);
#pragma unroll
    for (int j = 0; j < NV; j++) {
        int i = j * NORM_THREADS + threadIdx.x;
        if (i < n4) {
            float4 gg = load4(g, i), bb = load4(b, i);
            store4(y + (size_t)blockIdx.x * width, i,
                   make_float4(
                       (v[j].x - mean) * rstd * gg.x + bb.x, (v[j].y - mean) * rstd * gg.y + bb.y,
                       (v[j].z - mean) * rstd * gg.z + bb.z, (v[j].w - mean) * rstd * gg.w + bb.w));
        }
    }
}

__global__ void __launch_bounds__(NORM_THREADS)
    layernorm_any_kernel(const float *x, const float *g, const float *b, uint16_t *y, int width)
{
    __shared__ float buf[2][NORM_THREADS / 32];
    pdl_enter();
    const float *row = x + (size_t)blockIdx.x * width;
    float sum = 0.f, var = 0.f;
    for (int i = threadIdx.x; i < width; i += NORM_THREADS)
        sum += row[i];
    float mean = block_sum(sum, buf[0]) / width;
    for (int i = threadIdx.x; i < width; i += NORM_THREADS)
        var += (row[i] - mean) * (row[i] - mean);
    float rstd = rsqrtf(block_sum(var, buf[1]) / width + NORM_EPS);
    __nv_bfloat16 *out = (__nv_bfloat16 *)y + (size_t)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += NORM_THREADS)
        out[i] = __float2bfloat16_rn((row[i] - mean) * rstd * g[i] + b[i]);
}

extern "C" cudaError_t cu_layernorm(const float *x, const float *g, const float *b, uint16_t *y,
                                    int rows, int width, cudaStream_t s)
{
    int per = width % 4 ? 99 : (width / 4 + NORM_THREADS - 1) / NORM_THREADS;
    if (per <= 1)
        return launch_dependent(layernorm_kernel<1>, rows, NORM_THREADS, s, x, g, b, y, width);
    if (per <= 3)
        return launch_dependent(layernorm_kernel<3>, rows, NORM_THREADS, s, x, g, b, y, width);
    return launch_dependent(layernorm_any_kernel, rows, NORM_THREADS, s, x, g, b, y, width);
}

/* Six blocks a processor: the rows of a call with one sample run at once. */
template <int NV, int PARTS>
__global__ void __launch_bounds__(NORM_THREADS, 6) rmsnorm_kernel(struct cu_rmsnorm a)
{
    __shared__ float buf[NORM_THREADS / 32];
    size_t at = (size_t)blockIdx.x * a.width;
    int n4 = a.width / 4;
    float4 v[NV], c[NV];
    float sum = 0.f;
#pragma unroll
    for (int j = 0; j < NV; j++) { /* no kernel before this one writes it */
        int i = j * NORM_THREADS + threadIdx.x;
        c[j] = i < n4 ? load4(a.scale, i) : make_float4(0.f, 0.f, 0.f, 0.f);
    }
    pdl_enter();
#pragma unroll
    for (int j = 0; j < NV; j++) {
        int i = j * NORM_THREADS + threadIdx.x;
        v[j] = i < n4 ? load4(a.x + at, i) : make_float4(0.f, 0.f, 0.f, 0.f);
    }
    if (PARTS > 0) {
        float4 d[PARTS > 0 ? PARTS : 1][NV]; /* all loads before the first sum */
#pragma unroll
        for (int p = 0; p < PARTS; p++)
#pragma unroll
            for (int j = 0; j < NV; j++) {
                int i = j * NORM_THREADS + threadIdx.x;
                d[p][j] = i < n4 ? load4(a.delta + (size_t)p * a.rows * a.width + at, i)
                                 : make_float4(0.f, 0.f, 0.f, 0.f);
            }
#pragma unroll
        for (int j = 0; j < NV; j++) {
            int i = j * NORM_THREADS + threadIdx.x;
            float4 t = d[0][j];
#pragma unroll
            for (int p = 1; p < PARTS; p++)
                t.x += d[p][j].x, t.y += d[p][j].y, t.z += d[p][j].z, t.w += d[p][j].w;
            if (i < n4) {
                float4 g = a.gate ? load4(a.gate, i) : make_float4(1.f, 1.f, 1.f, 1.f);
                v[j].x += g.x * t.x, v[j].y += g.y * t.y;
                v[j].z += g.z * t.z, v[j].w += g.w * t.w;
                reinterpret_cast<float4 *>(a.x + at)[i] = v[j];
            }
        }
    }
#pragma unroll
    for (int j = 0; j < NV; j++)
        sum += (v[j].x * v[j].x + v[j].y * v[j].y) + (v[j].z * v[j].z + v[j].w * v[j].w);
    float r = rsqrtf(block_sum(sum, buf) / a.width + NORM_EPS);
#pragma unroll
    for (int j = 0; j < NV; j++) {
        int i = j * NORM_THREADS + threadIdx.x;
        if (i < n4) {
            float4 h = a.shift ? load4(a.shift, i) : make_float4(0.f, 0.f, 0.f, 0.f);
            store4(a.y + at, i,
                   make_float4(v[j].x * r * (1.f + c[j].x) + h.x, v[j].y * r * (1.f + c[j].y) + h.y,
                               v[j].z * r * (1.f + c[j].z) + h.z,
                               v[j].w * r * (1.f + c[j].w) + h.w));
        }
    }
}

__global__ void __launch_bounds__(NORM_THREADS) rmsnorm_any_kernel(struct cu_rmsnorm a)
{
    __shared__ float buf[NORM_THREADS / 32];
    pdl_enter();
    size_t at = (size_t)blockIdx.x * a.width;
    float sum = 0.f;
    for (int i = threadIdx.x; i < a.width; i += NORM_THREADS) {
        float v = a.x[at + i];
        if (a.delta) {
            float d = a.delta[at + i];
            for (int p = 1; p < a.parts; p++)
                d += a.delta[(size_t)p * a.rows * a.width + at + i];
            v += (a.gate ? a.gate[i] : 1.f) * d;
            a.x[at + i] = v;
        }
        sum += v * v;
    }
    float r = rsqrtf(block_sum(sum, buf) / a.width + NORM_EPS);
    __nv_bfloat16 *out = (__nv_bfloat16 *)a.y + at;
    for (int i = threadIdx.x; i < a.width; i += NORM_THREADS)
        out[i] = __float2bfloat16_rn(a.x[at + i] * r * (1.f + a.scale[i]) +
                                     (a.shift ? a.shift[i] : 0.f));
}

template <int NV> cudaError_t rmsnorm(const struct cu_rmsnorm *a, cudaStream_t s)
{
    switch (a->delta == NULL ? 0 : a->parts > 1 ? a->parts : 1) {
    case 0: return launch_dependent(rmsnorm_kernel<NV, 0>, a->rows, NORM_THREADS, s, *a);
    case 1: return launch_dependent(rmsnorm_kernel<NV, 1>, a->rows, NORM_THREADS, s, *a);
    case 2: return launch_dependent(rmsnorm_kernel<NV, 2>, a->rows, NORM_THREADS, s, *a);
    }
    return launch_dependent(rmsnorm_any_kernel, a->rows, NORM_THREADS, s, *a);
}

extern "C" cudaError_t cu_rmsnorm(const struct cu_rmsnorm *a, cudaStream_t s)
{
    int per = a->width % 4 ? 99 : (a->width / 4 + NORM_THREADS - 1) / NORM_THREADS;
    if (per <= 1)
        return rmsnorm<1>(a, s);
    if (per <= 2)
        return rmsnorm<2>(a, s);
    if (per <= 4)
        return rmsnorm<4>(a, s);
    return launch_dependent(rmsnorm_any_kernel, a->rows, NORM_THREADS, s, *a);
}
