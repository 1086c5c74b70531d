/* SPDX-License-Identifier: Apache-2.0
 * elementwise: GeGLU, bias + activation (where the GEMM's own epilogue cannot), RoPE with the K/V
 * write. Bound by memory; 16-byte accesses where the shapes allow. */
#include "backend/cuda/kernels/kernels.h"
#include "backend/cuda/kernels/launch.cuh"
#include "backend/cuda/kernels/ptx_sm80.cuh"

/* tanh form; openpi: nn.gelu(approximate=True). */
__device__ __forceinline__ float gelu_tanh(float z)
{
    float u = 0.7978845608028654f * (z + 0.044715f * z * z * z);
    return z / (1.f + __expf(-2.f * u)); /* 0.5·(1 + tanh u) = 1 / (1 + e^-2u) */
}

__device__ __forceinline__ float2 unpack2(uint32_t v)
{
    return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xFFFF0000u));
}

__device__ __forceinline__ uint32_t geglu2(uint32_t g, uint32_t u)
{
    float2 a = unpack2(g), b = unpack2(u);
    return pack_bf16(gelu_tanh(a.x) * b.x, gelu_tanh(a.y) * b.y);
}

/* Groups of 8: one thread reads 8 gates and the 8 ups behind them, 32 contiguous bytes. */
__global__ void geglu8_kernel(const uint4 *gu, uint4 *h, size_t n8)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n8)
        return;
    uint4 g = gu[2 * i], u = gu[2 * i + 1];
    h[i] = make_uint4(geglu2(g.x, u.x), geglu2(g.y, u.y), geglu2(g.z, u.z), geglu2(g.w, u.w));
}

__global__ void geglu_any_kernel(const __nv_bfloat16 *gu, __nv_bfloat16 *h, size_t total, int n,
                                 int group)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total)
        return;
    size_t r = i / n;
    int f = (int)(i % n), at = (f / group) * 2 * group + f % group;
    float g = __bfloat162float(gu[r * 2 * n + at]),
          u = __bfloat162float(gu[r * 2 * n + at + group]);
    h[i] = __float2bfloat16_rn(gelu_tanh(g) * u);
}

extern "C" cudaError_t cu_geglu(const uint16_t *gu, uint16_t *h, int rows, int n, int group,
                                cudaStream_t s)
{
    size_t total = (size_t)rows * n;
    if (group == 8)
        geglu8_kernel<<<(unsigned)((total / 8 + 255) / 256), 256, 0, s>>>((const uint4 *)gu,
                                                                          (uint4 *)h, total / 8);
    else
        geglu_any_kernel<<<(unsigned)((total + 255) / 256), 256, 0, s>>>(
            (const __nv_bfloat16 *)gu, (__nv_bfloat16 *)h, total, n, group);
    return cudaGetLastError();
}

__device__ __forceinline__ float activate(float v, int act)
{
    return act == CU_ACT_GELU ? gelu_tanh(v) : act == CU_ACT_SILU ? v / (1.f + __expf(-v)) : v;
}

__global__ void bias_act_kernel(void *y, const void *bias, int is_bf16, size_t total, int n,
                                int act)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= total)
        return;
    int c = (int)(i % n);
    if (is_bf16) {
        __nv_bfloat16 *p = (__nv_bfloat16 *)y + i;
        float b = bias ? __bfloat162float(((const __nv_bfloat16 *)bias)[c]) : 0.f;
        *p = __float2bfloat16_rn(activate(__bfloat162float(*p) + b, act));
    } else {
        float *p = (float *)y + i;
        *p = activate(*p + (bias ? ((const float *)bias)[c] : 0.f), act);
    }
}

extern "C" cudaError_t cu_bias_act(void *y, const void *bias, int is_bf16, int rows, int n,
                                   enum cu_act act, cudaStream_t s)
{
    size_t total = (size_t)rows * n;
    bias_act_kernel<<<(unsigned)((total + 255) / 256), 256, 0, s>>>(y, bias, is_bf16, total, n,
                                                                    act);
    return cudaGetLastError();
}

/* One block a row; thread i turns pairs (i, i + E/2) of every head, then of k, and copies v. */
__global__ void rope_kernel(struct cu_rope a)
{
    int r = blockIdx.x, E = a.head_dim, half = E / 2;
    struct cu_row row = a.rows[r];
    if (row.cache < 0)
        return;
    const float *src = a.qkv + (size_t)r * (a.heads + 2) * E;
    __nv_bfloat16 *q = (__nv_bfloat16 *)a.q + (size_t)r * a.heads * E;
    __nv_bfloat16 *k = (__nv_bfloat16 *)a.k + (size_t)row.cache * E;
    __nv_bfloat16 *v = (__nv_bfloat16 *)a.v + (size_t)row.cache * E;
    const float2 *cs = (const float2 *)a.cos_sin + (size_t)row.pos * half;
    for (int i = threadIdx.x; i < (a.heads + 1) * half; i += blockDim.x) {
        int h = i / half, e = i % half;
        float lo = src[h * E + e], hi = src[h * E + half + e];
        float2 c = cs[e];
        __nv_bfloat16 *dst = h < a.heads ? q + h * E : k;
        dst[e] = __float2bfloat16_rn(lo * c.x - hi * c.y);
        dst[half + e] = __float2bfloat16_rn(hi * c.x + lo * c.y);
    }
    for (int e = threadIdx.x; e < E; e += blockDim.x)
        v[e] = __float2bfloat16_rn(src[(a.heads + 1) * E + e]);
}

/* The same, four neighbouring pairs a thread: 16-byte loads, 8-byte stores. E a multiple of 8, threads
 * of E / 8, so that a thread's angles serve all its heads; they and the rows are no kernel's output. */
__global__ void rope8_kernel(struct cu_rope a)
{
    int r = blockIdx.x, E = a.head_dim, half = E / 2, each = E / 8;
    int e = (int)threadIdx.x % each, per = (int)blockDim.x / each;
    struct cu_row row = a.rows[r];
    const float4 *cs = (const float4 *)(a.cos_sin + (size_t)(row.cache < 0 ? 0 : row.pos) * E);
    float4 c0 = cs[2 * e], c1 = cs[2 * e + 1]; /* cos, sin, cos, sin */
    pdl_enter();
    if (row.cache < 0)
        return;
    const float *src = a.qkv + (size_t)r * (a.heads + 2) * E;
    for (int h = (int)threadIdx.x / each; h < a.heads + 2; h += per) {
        float4 lo = ((const float4 *)(src + h * E))[e];
        float4 hi = ((const float4 *)(src + h * E + half))[e];
        uint16_t *to = h < a.heads ? a.q + ((size_t)r * a.heads + h) * E
                                   : (h == a.heads ? a.k : a.v) + (size_t)row.cache * E;
        if (h <= a.heads) {
            float4 x = lo, y = hi;
            lo = make_float4(x.x * c0.x - y.x * c0.y, x.y * c0.z - y.y * c0.w,
                             x.z * c1.x - y.z * c1.y, x.w * c1.z - y.w * c1.w);
            hi = make_float4(y.x * c0.x + x.x * c0.y, y.y * c0.z + x.y * c0.w,
                             y.z * c1.x + x.z * c1.y, y.w * c1.z + x.w * c1.w);
        }
        ((uint2 *)to)[e] = make_uint2(pack_bf16(lo.x, lo.y), pack_bf16(lo.z, lo.w));
        ((uint2 *)(to + half))[e] = make_uint2(pack_bf16(hi.x, hi.y), pack_bf16(hi.z, hi.w));
    }
}

/* k turned and v as it is, out of a bf16 product of q, k and v: a warp a row, eight values of each a lane. */
__global__ void __launch_bounds__(256) rope_kv_kernel(struct cu_rope a)
{
    int r = (int)(blockIdx.x * 8 + threadIdx.x / 32), e = (int)threadIdx.x % 32;
    if (r >= a.n_rows)
        return;
    struct cu_row row = a.rows[r];
    const float4 *cs = (const float4 *)(a.cos_sin + (size_t)(row.cache < 0 ? 0 : row.pos) * 256);
    float4 c0 = cs[2 * e], c1 = cs[2 * e + 1]; /* cos, sin, cos, sin */
    pdl_enter();
    if (row.cache < 0)
        return;
    const uint16_t *k = a.qkv16 + ((size_t)r * (a.heads + 2) + a.heads) * 256;
    uint2 x = ((const uint2 *)k)[e], y = ((const uint2 *)(k + 128))[e];
    uint4 v = ((const uint4 *)(k + 256))[e];
    float2 x0 = unpack2(x.x), x1 = unpack2(x.y), y0 = unpack2(y.x), y1 = unpack2(y.y);
    uint16_t *to = a.k + (size_t)row.cache * 256;
    ((uint2 *)to)[e] = make_uint2(pack_bf16(x0.x * c0.x - y0.x * c0.y, x0.y * c0.z - y0.y * c0.w),
                                  pack_bf16(x1.x * c1.x - y1.x * c1.y, x1.y * c1.z - y1.y * c1.w));
    ((uint2 *)(to + 128))[e] =
        make_uint2(pack_bf16(y0.x * c0.x + x0.x * c0.y, y0.y * c0.z + x0.y * c0.w),
                   pack_bf16(y1.x * c1.x + x1.x * c1.y, y1.y * c1.z + x1.y * c1.w));
    ((uint4 *)(a.v + (size_t)row.cache * 256))[e] = v;
}

extern "C" cudaError_t cu_rope(const struct cu_rope *a, cudaStream_t s)
{
    if (a->qkv16)
        return a->head_dim == 256
                   ? launch_dependent(rope_kv_kernel, (a->n_rows + 7) / 8, 256, s, *a)
                   : cudaErrorInvalidValue;
    int each = a->head_dim / 8, heads = a->heads + 2;
    if (a->head_dim % 8 == 0 && each <= 320)
        return launch_dependent(rope8_kernel, a->n_rows,
                                each * (heads * each <= 320 ? heads : 320 / each), s, *a);
    rope_kernel<<<a->n_rows, 128, 0, s>>>(*a);
    return cudaGetLastError();
}
