/* SPDX-License-Identifier: Apache-2.0
 * state_sm90: one token through 18 expert layers: matrix-vector products on weights in A order
 * (layout: denoise_sm90.cuh). Bound by latency, so every kernel issues its weight loads before it
 * waits for the kernel in front of it (programmatic dependent launch), and what is cheap is done
 * again in every block: the norm, the combination of the attention's pieces.
 *
 *   qkv (160 blocks: norm1, product, RoPE, cache) → attend (16 key ranges, all heads) →
 *   out (64: combine, product, residual) → gate_up (512: norm2, product, GeGLU) → down (64)
 *
 * A block of a product owns one tile of 16 output rows; its 8 warps split K and are added up in
 * order. Rounding as elsewhere: activations to bf16 before a product, all else float32. */
#include "backend/cuda/kernels/denoise_sm90.cuh"
#include "backend/cuda/kernels/state_sm90.h"

namespace
{
using namespace dn90;

constexpr int THREADS = 256, WARPS = 8, PIECES = 16, MAX_PIECE = 72;

struct work { /* floats */
    float q[QD];
    float h[F];
    float po[PIECES][H][E];
    float ml[PIECES][H][2];
};

__device__ __forceinline__ float round_bf16(float v)
{
    return __bfloat162float(__float2bfloat16_rn(v));
}

__device__ __forceinline__ float sum_warp(float v)
{
#pragma unroll
    for (int o = 16; o > 0; o >>= 1)
        v += __shfl_xor_sync(~0u, v, o);
    return v;
}

/* This warp's part of the tile's weights: 8 loads of 16 bytes a unit. */
template <int UNITS>
__device__ __forceinline__ void load_tile(uint4 (&a)[8 * UNITS], const void *weights, int layer,
                                          int unit)
{
    const uint4 *w = (const uint4 *)weights + ((size_t)layer * U_LAYER + unit) * (UNIT / 16) +
                     threadIdx.x / 32 * 256 + threadIdx.x % 32;
#pragma unroll
    for (int u = 0; u < UNITS; u++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            a[u * 8 + i] = __ldcs(w + (size_t)u * (UNIT / 16) + i * 32);
}

/* out[16] = tile · act; act [1024 · UNITS] in shared memory. Ends with a barrier. */
template <int UNITS>
__device__ __forceinline__ void product(const uint4 (&a)[8 * UNITS], const float *act,
                                        float (*part)[16], float *out)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float lo = 0.f, hi = 0.f;
#pragma unroll
    for (int i = 0; i < 8 * UNITS; i++) {
        const float4 p =
            *(const float4 *)(act + i / 8 * 1024 + warp * 128 + t * 8 + i % 8 / 2 * 32 + i % 2 * 4);
        float2 f0 = __bfloat1622float2(*(const __nv_bfloat162 *)&a[i].x);
        float2 f1 = __bfloat1622float2(*(const __nv_bfloat162 *)&a[i].y);
        float2 f2 = __bfloat1622float2(*(const __nv_bfloat162 *)&a[i].z);
        float2 f3 = __bfloat1622float2(*(const __nv_bfloat162 *)&a[i].w);
        lo += (f0.x * p.x + f0.y * p.y) + (f2.x * p.z + f2.y * p.w);
        hi += (f1.x * p.x + f1.y * p.y) + (f3.x * p.z + f3.y * p.w);
    }
#pragma unroll
    for (int o = 1; o < 4; o *= 2)
        lo += __shfl_xor_sync(~0u, lo, o), hi += __shfl_xor_sync(~0u, hi, o);
    if (t == 0)
        part[warp][g] = lo, part[warp][g + 8] = hi;
    __syncthreads();
    if (threadIdx.x < 16) {
        float v = 0.f;
#pragma unroll
        for (int i = 0; i < WARPS; i++)
            v += part[i][threadIdx.x];
        out[threadIdx.x] = v;
    }
    __syncthreads();
}

/* act[W] = bf16(x / rms(x) · (1 + w)). Ends with a barrier. */
__device__ __forceinline__ void norm(const float *x, const float *w, float *act, float *red)
{
    int i = threadIdx.x;
    float4 v = __ldcg((const float4 *)x + i), c = ((const float4 *)w)[i];
    float s = sum_warp((v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w)), total = 0.f;
    if (i % 32 == 0)
        red[i / 32] = s;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < WARPS; j++)
        total += red[j];
    float r = rsqrtf(total / W + 1e-6f);
    ((float4 *)act)[i] =
        make_float4(round_bf16(v.x * r * (1.f + c.x)), round_bf16(v.y * r * (1.f + c.y)),
                    round_bf16(v.z * r * (1.f + c.z)), round_bf16(v.w * r * (1.f + c.w)));
    __syncthreads();
}

/* Tiles 0 … 127 q, 128 … 143 k, 144 … 159 v; rows r, r + 8 of a tile are a RoPE pair. */
__global__ void __launch_bounds__(THREADS) qkv_kernel(struct st90_args a, int layer, int first)
{
    __shared__ __align__(16) float act[W];
    __shared__ float part[WARPS][16], out[16], red[WARPS];
    int tile = blockIdx.x + first;
    uint4 w[8];
    load_tile<1>(w, a.weights, layer, tile);
    cudaTriggerProgrammaticLaunchCompletion();
    cudaGridDependencySynchronize();
    norm(a.x, a.norm + (size_t)layer * 2 * W, act, red);
    product<1>(w, act, part, out);
    if (threadIdx.x >= 8)
        return;
    int i = tile % 16 * 8 + threadIdx.x, valid = *a.n_valid;
    float lo = out[threadIdx.x], hi = out[threadIdx.x + 8];
    if (tile < 144) {
        float2 c = ((const float2 *)a.cos_sin)[(size_t)valid * (E / 2) + i];
        float t = lo * c.x - hi * c.y;
        hi = hi * c.x + lo * c.y;
        lo = t;
    }
    if (tile < 128) {
        float *q = ((struct work *)a.workspace)->q + tile / 16 * E;
        q[i] = round_bf16(lo), q[i + 128] = round_bf16(hi);
        return;
    }
    __nv_bfloat16 *dst =
        (__nv_bfloat16 *)(tile < 144 ? a.k : a.v) + layer * a.layer_stride + (size_t)*a.n_rows * E;
    dst[i] = __float2bfloat16_rn(lo), dst[i + 128] = __float2bfloat16_rn(hi);
}

/* Block: a range of the keys, all heads. Keys 0 … n_valid - 1, then the token itself. */
__global__ void __launch_bounds__(THREADS) attend_kernel(struct st90_args a, int layer)
{
    __shared__ __align__(16) float q[QD];
    __shared__ float p[H][MAX_PIECE];
    struct work *wk = (struct work *)a.workspace;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    cudaTriggerProgrammaticLaunchCompletion();
    cudaGridDependencySynchronize();
    int valid = *a.n_valid, own = *a.n_rows, n = valid + 1, per = (n + PIECES - 1) / PIECES;
    int j0 = min((int)blockIdx.x * per, n), count = min(per, n - j0);
    const uint16_t *k = a.k + layer * a.layer_stride, *v = a.v + layer * a.layer_stride;
    for (int i = threadIdx.x; i < QD; i += THREADS)
        q[i] = __ldcg(wk->q + i);
    __syncthreads();
    const float scale = 0.0625f * 1.4426950408889634f; /* 1/sqrt(256), base 2 */
    for (int j = warp; j < count; j += WARPS) {
        int row = j0 + j < valid ? j0 + j : own;
        uint4 kk = __ldcg((const uint4 *)(k + (size_t)row * E) + lane);
        float2 f[4] = { __bfloat1622float2(*(const __nv_bfloat162 *)&kk.x),
                        __bfloat1622float2(*(const __nv_bfloat162 *)&kk.y),
                        __bfloat1622float2(*(const __nv_bfloat162 *)&kk.z),
                        __bfloat1622float2(*(const __nv_bfloat162 *)&kk.w) };
#pragma unroll
        for (int h = 0; h < H; h++) {
            const float4 *qh = (const float4 *)(q + h * E + lane * 8);
            float4 x = qh[0], y = qh[1];
            float s = (f[0].x * x.x + f[0].y * x.y) + (f[1].x * x.z + f[1].y * x.w) +
                      (f[2].x * y.x + f[2].y * y.y) + (f[3].x * y.z + f[3].y * y.w);
            s = sum_warp(s);
            if (lane == 0)
                p[h][j] = s * scale;
        }
    }
    __syncthreads();
    float top = -INFINITY, sum = 0.f; /* warp h: head h */
    for (int j = lane; j < count; j += 32)
        top = fmaxf(top, p[warp][j]);
#pragma unroll
    for (int o = 16; o > 0; o >>= 1)
        top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
    for (int j = lane; j < count; j += 32) {
        float e = exp2f(p[warp][j] - top);
        p[warp][j] = e;
        sum += e;
    }
    sum = sum_warp(sum);
    if (lane == 0)
        wk->ml[blockIdx.x][warp][0] = top, wk->ml[blockIdx.x][warp][1] = sum;
    __syncthreads();
    float acc[H] = {};
#pragma unroll 4
    for (int j = 0; j < count; j++) {
        int row = j0 + j < valid ? j0 + j : own;
        uint32_t bits = __ldcg(v + (size_t)row * E + threadIdx.x);
        float x = __uint_as_float(bits << 16);
#pragma unroll
        for (int h = 0; h < H; h++)
            acc[h] = fmaf(p[h][j], x, acc[h]);
    }
#pragma unroll
    for (int h = 0; h < H; h++)
        wk->po[blockIdx.x][h][threadIdx.x] = acc[h];
}

__global__ void __launch_bounds__(THREADS) out_kernel(struct st90_args a, int layer)
{
    __shared__ __align__(16) float act[QD];
    __shared__ float part[WARPS][16], out[16], f[H][PIECES];
    struct work *wk = (struct work *)a.workspace;
    uint4 w[16];
    load_tile<2>(w, a.weights, layer, U_QKV + blockIdx.x * 2);
    cudaTriggerProgrammaticLaunchCompletion();
    cudaGridDependencySynchronize();
    if (threadIdx.x < H) {
        float m[PIECES], top = -INFINITY, sum = 0.f;
#pragma unroll
        for (int s = 0; s < PIECES; s++)
            m[s] = __ldcg(&wk->ml[s][threadIdx.x][0]), top = fmaxf(top, m[s]);
#pragma unroll
        for (int s = 0; s < PIECES; s++)
            m[s] = exp2f(m[s] - top), sum += m[s] * __ldcg(&wk->ml[s][threadIdx.x][1]);
#pragma unroll
        for (int s = 0; s < PIECES; s++)
            f[threadIdx.x][s] = m[s] / sum;
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < H; h++) {
        float v = 0.f;
#pragma unroll
        for (int s = 0; s < PIECES; s++)
            v = fmaf(__ldcg(&wk->po[s][h][threadIdx.x]), f[h][s], v);
        act[h * E + threadIdx.x] = round_bf16(v);
    }
    __syncthreads();
    product<2>(w, act, part, out);
    if (threadIdx.x < 16)
        a.x[blockIdx.x * 16 + threadIdx.x] += out[threadIdx.x];
}

__global__ void __launch_bounds__(THREADS) gate_up_kernel(struct st90_args a, int layer)
{
    __shared__ __align__(16) float act[W];
    __shared__ float part[WARPS][16], out[16], red[WARPS];
    uint4 w[8];
    load_tile<1>(w, a.weights, layer, U_QKV + U_O + blockIdx.x);
    cudaTriggerProgrammaticLaunchCompletion();
    cudaGridDependencySynchronize();
    norm(a.x, a.norm + ((size_t)layer * 2 + 1) * W, act, red);
    product<1>(w, act, part, out);
    if (threadIdx.x < 8) {
        float z = out[threadIdx.x], u = 0.7978845608028654f * (z + 0.044715f * z * z * z);
        float g = z / (1.f + __expf(-2.f * u)); /* gelu, tanh form */
        ((struct work *)a.workspace)->h[blockIdx.x * 8 + threadIdx.x] =
            round_bf16(g * out[threadIdx.x + 8]);
    }
}

__global__ void __launch_bounds__(THREADS) down_kernel(struct st90_args a, int layer)
{
    __shared__ __align__(16) float act[F];
    __shared__ float part[WARPS][16], out[16];
    uint4 w[32];
    load_tile<4>(w, a.weights, layer, U_QKV + U_O + U_GU + blockIdx.x * 4);
    cudaTriggerProgrammaticLaunchCompletion();
    cudaGridDependencySynchronize();
#pragma unroll
    for (int i = 0; i < F / 4 / THREADS; i++)
        ((float4 *)act)[i * THREADS + threadIdx.x] =
            __ldcg((const float4 *)((struct work *)a.workspace)->h + i * THREADS + threadIdx.x);
    __syncthreads();
    product<4>(w, act, part, out);
    if (threadIdx.x < 16)
        a.x[blockIdx.x * 16 + threadIdx.x] += out[threadIdx.x];
}

template <typename... P>
cudaError_t launch(void (*kernel)(P...), int blocks, cudaStream_t stream, P... args)
{
    cudaLaunchAttribute at = {};
    at.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    at.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3((unsigned)blocks);
    c.blockDim = dim3(THREADS);
    c.stream = stream;
    c.attrs = &at;
    c.numAttrs = 1;
    return cudaLaunchKernelEx(&c, kernel, args...);
}
} // namespace

extern "C" size_t st90_workspace_bytes(void) { return sizeof(struct work); }

extern "C" cudaError_t st90_enqueue(const struct st90_args *a, cudaStream_t stream)
{
    int L = a->shape.n_layers;
    cudaError_t e = cudaSuccess;
    for (int l = 0; l < L - 1 && !e; l++) {
        e = launch(qkv_kernel, U_QKV, stream, *a, l, 0);
        if (!e)
            e = launch(attend_kernel, PIECES, stream, *a, l);
        if (!e)
            e = launch(out_kernel, 64, stream, *a, l);
        if (!e)
            e = launch(gate_up_kernel, U_GU, stream, *a, l);
        if (!e)
            e = launch(down_kernel, 64, stream, *a, l);
    }
    return e ? e : launch(qkv_kernel, U_QKV - 128, stream, *a, L - 1, 128);
}
