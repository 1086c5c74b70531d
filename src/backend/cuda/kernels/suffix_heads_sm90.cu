/* SPDX-License-Identifier: Apache-2.0
 * suffix_heads_sm90: what stands between the steps of a denoised batch, one kernel: final norm,
 * velocity and Euler update of a step, then the actions' way into the next step's first product.
 *     v = out_w · norm(x) + b;  actions += dt · v;  π0: u = silu(wtᵀ · actions + c) as bf16 parts
 *                                                   π0.5: x = wtᵀ · actions + c, xg, Σx²
 * π0's float32 product behind it, w_out · u, is suffix_sm90.cu's with three times the inner size:
 * u = hi + lo and w = hi + lo in bf16 make hi·hi + hi·lo + lo·hi, good to 2^-16.
 * Called by: denoise_enqueue, batches, once a step and once before the first.
 * Tiling:    R rows a block of 256 threads, 4 features a thread; each weight is read once for R rows,
 *            out_w before the predecessor has finished.
 * Now:       10 µs a step with the product behind it, 80 rows; 22 at 640: check_suffix_sm90 --bench, NVIDIA H200,
 *            2026-11-22.
 * Rounding:  float32; xg and the parts of u in bf16. */
#include "launch.cuh"
#include "suffix_sm90.cuh"

using namespace wg90;
using namespace sfx90;

namespace
{

constexpr int W = SFX90_WIDTH, A = SFX90_ACTION_DIM, THREADS = 256;

static __device__ __forceinline__ float warp_add(float v)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        v += __shfl_xor_sync(~0u, v, i);
    return v;
}

static __device__ __forceinline__ float dot4(float4 a, float4 b, float acc)
{
    return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, acc))));
}

static __device__ __forceinline__ float4 split_hi(float4 v, uint2 *bits)
{
    *bits = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
    return make_float4(__uint_as_float(bits->x << 16), __uint_as_float(bits->x & 0xFFFF0000u),
                       __uint_as_float(bits->y << 16), __uint_as_float(bits->y & 0xFFFF0000u));
}

/* Norm of the block's rows into ys; then v, the update and the new actions in xs. */
template <int R>
static __device__ __forceinline__ void update(const struct sfx90_step &a, int row0, float (*ys)[W],
                                              float (*xs)[A], float (*sums)[8])
{
    int warp = (int)threadIdx.x / 32, lane = threadIdx.x % 32, c = (int)threadIdx.x * 4;
    float4 w[4][8]; /* outputs 4·warp …, every 32nd float4 of a row */
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            w[n][i] = *(const float4 *)(a.out_w + (size_t)(warp * 4 + n) * W + (i * 32 + lane) * 4);
    float4 scale = *(const float4 *)(a.scale + c), shift = make_float4(0.f, 0.f, 0.f, 0.f);
    if (a.shift)
        shift = *(const float4 *)(a.shift + c);
    pdl_wait();
    float4 v[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        v[r] = make_float4(0.f, 0.f, 0.f, 0.f);
        if (row0 + r < a.rows)
            v[r] = __ldcg((const float4 *)(a.x + (size_t)(row0 + r) * W + c));
        float s =
            warp_add((v[r].x * v[r].x + v[r].y * v[r].y) + (v[r].z * v[r].z + v[r].w * v[r].w));
        if (lane == 0)
            sums[r][warp] = s;
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; r++) {
        float s = 0.f;
#pragma unroll
        for (int i = 0; i < 8; i++)
            s += sums[r][i];
        float inv = rsqrtf(s * (1.0f / W) + 1e-6f);
        *(float4 *)&ys[r][c] = make_float4(
            fmaf(v[r].x * inv, 1.f + scale.x, shift.x), fmaf(v[r].y * inv, 1.f + scale.y, shift.y),
            fmaf(v[r].z * inv, 1.f + scale.z, shift.z), fmaf(v[r].w * inv, 1.f + scale.w, shift.w));
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; r++) {
        float acc[4] = { 0.f, 0.f, 0.f, 0.f };
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float4 y = *(const float4 *)&ys[r][(i * 32 + lane) * 4];
#pragma unroll
            for (int n = 0; n < 4; n++)
                acc[n] = dot4(w[n][i], y, acc[n]);
        }
#pragma unroll
        for (int n = 0; n < 4; n++)
            acc[n] = warp_add(acc[n]);
        if (lane < 4 && row0 + r < a.rows) {
            int n = warp * 4 + lane;
            size_t at = (size_t)(row0 + r) * A + n;
            float vel = (lane == 0   ? acc[0]
                         : lane == 1 ? acc[1]
                         : lane == 2 ? acc[2]
                                     : acc[3]) +
                        a.out_b[n];
            float x = a.actions[at];
            if (a.rec_x)
                a.rec_x[at] = x;
            if (a.rec_v)
                a.rec_v[at] = vel;
            x += a.dt * vel;
            a.actions[at] = x;
            xs[r][n] = x;
        }
    }
}

template <int R> __global__ void __launch_bounds__(THREADS) suffix_step_sm90(struct sfx90_step a)
{
    __shared__ float ys[R][W];
    __shared__ float xs[R][A], sums[R][8];
    int row0 = (int)blockIdx.x * R, c = (int)threadIdx.x * 4, lane = threadIdx.x % 32;
    pdl_launch();
    if (a.x) {
        update<R>(a, row0, ys, xs, sums);
    } else {
        pdl_wait();
        for (int i = threadIdx.x; i < R * A; i += THREADS)
            xs[i / A][i % A] = row0 + i / A < a.rows ? a.actions[(size_t)row0 * A + i] : 0.f;
    }
    if (!a.wt)
        return;
    float4 w[A];
#pragma unroll
    for (int i = 0; i < A; i++)
        w[i] = *(const float4 *)(a.wt + (size_t)i * W + c);
    float4 bias = *(const float4 *)(a.c + c), gain = make_float4(0.f, 0.f, 0.f, 0.f);
    if (a.gain)
        gain = *(const float4 *)(a.gain + c);
    __syncthreads();
#pragma unroll
    for (int r = 0; r < R; r++) {
        float4 u = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int i = 0; i < A; i++) {
            float x = xs[r][i];
            u = make_float4(fmaf(w[i].x, x, u.x), fmaf(w[i].y, x, u.y), fmaf(w[i].z, x, u.z),
                            fmaf(w[i].w, x, u.w));
        }
        u = make_float4(u.x + bias.x, u.y + bias.y, u.z + bias.z, u.w + bias.w);
        size_t row = (size_t)(row0 + r);
        if (a.u3) {
            u = make_float4(u.x / (1.f + expf(-u.x)), u.y / (1.f + expf(-u.y)),
                            u.z / (1.f + expf(-u.z)), u.w / (1.f + expf(-u.w)));
            uint2 hi;
            float4 h = split_hi(u, &hi);
            uint2 lo = make_uint2(pack_bf16(u.x - h.x, u.y - h.y), pack_bf16(u.z - h.z, u.w - h.w));
            if (row0 + r < a.rows) {
                *(uint2 *)(a.u3 + row * 3 * W + c) = hi;
                *(uint2 *)(a.u3 + row * 3 * W + W + c) = hi;
                *(uint2 *)(a.u3 + row * 3 * W + 2 * W + c) = lo;
            }
            continue;
        }
        float s = (u.x * u.x + u.y * u.y) + (u.z * u.z + u.w * u.w);
#pragma unroll
        for (int i = 1; i < 16; i *= 2)
            s += __shfl_xor_sync(~0u, s, i);
        if (row0 + r < a.rows) {
            *(float4 *)(a.y + row * W + c) = u;
            *(uint2 *)(a.xg + row * W + c) =
                make_uint2(pack_bf16(u.x * (1.f + gain.x), u.y * (1.f + gain.y)),
                           pack_bf16(u.z * (1.f + gain.z), u.w * (1.f + gain.w)));
            if (lane % 16 == 0)
                a.part[row * SFX90_PARTS + threadIdx.x / 16] = s;
        }
    }
}

/* State rows of π0: x = w · state + b, xg, Σx². A block a row. */
__global__ void __launch_bounds__(THREADS)
    suffix_state_sm90(const float *state, const float *w, const float *b, const float *gain,
                      float *x, uint16_t *xg, float *part)
{
    __shared__ float xs[A];
    int c = (int)threadIdx.x * 4, lane = threadIdx.x % 32;
    size_t row = blockIdx.x;
    pdl_launch();
    if (threadIdx.x < A)
        xs[threadIdx.x] = state[row * A + threadIdx.x];
    __syncthreads();
    float u[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float s = 0.f;
#pragma unroll
        for (int i = 0; i < A / 4; i++)
            s = dot4(*(const float4 *)(w + (size_t)(c + j) * A + 4 * i),
                     *(const float4 *)&xs[4 * i], s);
        u[j] = s + b[c + j];
    }
    pdl_wait();
    float4 g = *(const float4 *)(gain + c);
    float s = (u[0] * u[0] + u[1] * u[1]) + (u[2] * u[2] + u[3] * u[3]);
#pragma unroll
    for (int i = 1; i < 16; i *= 2)
        s += __shfl_xor_sync(~0u, s, i);
    *(float4 *)(x + row * W + c) = make_float4(u[0], u[1], u[2], u[3]);
    *(uint2 *)(xg + row * W + c) = make_uint2(pack_bf16(u[0] * (1.f + g.x), u[1] * (1.f + g.y)),
                                              pack_bf16(u[2] * (1.f + g.z), u[3] * (1.f + g.w)));
    if (lane % 16 == 0)
        part[row * SFX90_PARTS + threadIdx.x / 16] = s;
}

/* w3[n] = hi | lo | hi of w[n], W values each. */
__global__ void split3_kernel(const float *w, uint16_t *w3)
{
    int c = (int)threadIdx.x * 4;
    const float4 v = *(const float4 *)(w + (size_t)blockIdx.x * W + c);
    uint2 hi;
    float4 h = split_hi(v, &hi);
    uint16_t *to = w3 + (size_t)blockIdx.x * 3 * W + c;
    *(uint2 *)to = *(uint2 *)(to + 2 * W) = hi;
    *(uint2 *)(to + W) =
        make_uint2(pack_bf16(v.x - h.x, v.y - h.y), pack_bf16(v.z - h.z, v.w - h.w));
}

template <class... P, class... V>
cudaError_t launch(void (*kernel)(P...), int blocks, cudaStream_t s, V... v)
{
    cudaError_t e = prepare((const void *)kernel, 0);
    if (e != cudaSuccess)
        return e;
    return launch_dependent(kernel, dim3((unsigned)blocks), dim3(THREADS), s, v...);
}

} // namespace

extern "C" cudaError_t sfx90_step_launch(const struct sfx90_step *a, int n_sm, cudaStream_t s)
{
    if (a->rows <= n_sm)
        return launch(suffix_step_sm90<1>, a->rows, s, *a);
    if (a->rows <= 2 * n_sm)
        return launch(suffix_step_sm90<2>, (a->rows + 1) / 2, s, *a);
    return launch(suffix_step_sm90<4>, (a->rows + 3) / 4, s, *a);
}

extern "C" cudaError_t sfx90_state(const float *state, const float *w, const float *b,
                                   const float *gain, float *x, uint16_t *xg, float *part, int rows,
                                   cudaStream_t s)
{
    return launch(suffix_state_sm90, rows, s, state, w, b, gain, x, xg, part);
}

extern "C" cudaError_t sfx90_split(const float *w, uint16_t *w3, cudaStream_t s)
{
    split3_kernel<<<W, THREADS, 0, s>>>(w, w3);
    return cudaGetLastError();
}
