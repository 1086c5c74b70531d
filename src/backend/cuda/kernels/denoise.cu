/* SPDX-License-Identifier: Apache-2.0
 * denoise: the small float32 parts of a denoising step (action and state projections, final norm
 * with velocity and Euler update) and the linear maps that fill the tables of a step count. */
#include "backend/cuda/kernels/kernels.h"
#include "backend/cuda/kernels/ptx_sm80.cuh"

__device__ __forceinline__ float activate(float v, int act)
{
    return act == CU_ACT_SILU ? v / (1.f + expf(-v)) : v;
}

#define LINEAR_ROWS 8

/* One warp a column n, LINEAR_ROWS rows at a time: the weights are read once for them. */
template <typename T>
__global__ void __launch_bounds__(128) linear_kernel(struct cu_linear a, const T *w)
{
    int n = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
    int s0 = blockIdx.y * LINEAR_ROWS, rows = min(LINEAR_ROWS, a.rows - s0);
    if (n >= a.n)
        return;
    const T *wr = w + (size_t)n * a.ldw + a.k0;
    size_t ldx = a.ldx ? a.ldx : a.k;
    float acc[LINEAR_ROWS] = {};
    for (int k = lane; k < a.k; k += 32) {
        float wv = (float)wr[k];
#pragma unroll
        for (int s = 0; s < LINEAR_ROWS; s++)
            if (s < rows)
                acc[s] = fmaf(wv, a.x[(size_t)(s0 + s) * ldx + k], acc[s]);
    }
#pragma unroll
    for (int s = 0; s < LINEAR_ROWS; s++) {
        float v = warp_sum(acc[s]);
        if (lane == 0 && s < rows)
            a.y[(size_t)(s0 + s) * a.ldy + n] = activate(v + (a.bias ? a.bias[n] : 0.f), a.act);
    }
}

extern "C" cudaError_t cu_linear(const struct cu_linear *a, cudaStream_t s)
{
    dim3 grid((unsigned)((a->n + 3) / 4), (unsigned)((a->rows + LINEAR_ROWS - 1) / LINEAR_ROWS));
    if (a->w_bf16)
        linear_kernel<<<grid, 128, 0, s>>>(*a, (const __nv_bfloat16 *)a->w);
    else
        linear_kernel<<<grid, 128, 0, s>>>(*a, (const float *)a->w);
    return cudaGetLastError();
}

__global__ void suffix_in_kernel(struct cu_suffix_in a)
{
    extern __shared__ float xs[]; /* [A] */
    for (int i = threadIdx.x; i < a.A; i += blockDim.x)
        xs[i] = a.x[(size_t)blockIdx.y * a.A + i];
    __syncthreads();
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= a.n)
        return;
    float acc = 0.f;
#pragma unroll 8
    for (int i = 0; i < a.A; i++)
        acc = fmaf(a.wt[(size_t)i * a.n + n], xs[i], acc);
    a.y[(size_t)blockIdx.y * a.n + n] = activate(acc + a.c[n], a.act);
}

extern "C" cudaError_t cu_suffix_in(const struct cu_suffix_in *a, cudaStream_t s)
{
    dim3 grid((unsigned)((a->n + 127) / 128), (unsigned)a->rows);
    suffix_in_kernel<<<grid, 128, sizeof(float) * (size_t)a->A, s>>>(*a);
    return cudaGetLastError();
}

#define VEL_THREADS 256

/* One block a row: the row goes through shared memory, then a warp takes every eighth output. */
__global__ void __launch_bounds__(VEL_THREADS) velocity_kernel(struct cu_velocity a)
{
    extern __shared__ float ys[]; /* [width] */
    __shared__ float part[VEL_THREADS / 32];
    size_t r = blockIdx.x;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sum = 0.f;
    for (int i = threadIdx.x; i < a.width; i += VEL_THREADS) {
        float v = a.x[r * a.width + i];
        if (a.delta)
            v += (a.gate ? a.gate[i] : 1.f) * a.delta[r * a.width + i];
        ys[i] = v;
        sum += v * v;
    }
    sum = warp_sum(sum);
    if (lane == 0)
        part[warp] = sum;
    __syncthreads();
    float total = 0.f;
#pragma unroll
    for (int i = 0; i < VEL_THREADS / 32; i++)
        total += part[i];
    float inv = rsqrtf(total / a.width + 1e-6f);
    for (int i = threadIdx.x; i < a.width; i += VEL_THREADS)
        ys[i] = ys[i] * inv * (1.f + a.scale[i]) + (a.shift ? a.shift[i] : 0.f);
    __syncthreads();
    for (int n = warp; n < a.A; n += VEL_THREADS / 32) {
        const float *w = a.out_w + (size_t)n * a.width;
        float acc = 0.f;
#pragma unroll 8
        for (int i = lane; i < a.width; i += 32)
            acc = fmaf(w[i], ys[i], acc);
        acc = warp_sum(acc);
        if (lane == 0) {
            size_t at = r * a.A + n;
            float v = acc + a.out_b[n], x = a.actions[at];
            if (a.rec_x)
                a.rec_x[at] = x;
            if (a.rec_v)
                a.rec_v[at] = v;
            a.actions[at] = x + a.dt * v;
        }
    }
}

extern "C" cudaError_t cu_velocity(const struct cu_velocity *a, cudaStream_t s)
{
    velocity_kernel<<<a->rows, VEL_THREADS, sizeof(float) * (size_t)a->width, s>>>(*a);
    return cudaGetLastError();
}
