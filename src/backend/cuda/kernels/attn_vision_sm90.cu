/* SPDX-License-Identifier: Apache-2.0
 * attn_vision_bf16_sm90: o = softmax(q·kᵀ·scale)·v inside an image and a head; head size 72, 256
 * tokens an image    bf16 in and out, f32 inside
 * Called by: vision attention (16 heads, 1 … 3 images a robot).
 * Tasks:     64 queries of one (image, head) where all run at once (attn_vision_halves_bf16_sm90), or
 *            128; else all 256, so that keys and values are copied once. A CTA takes one task after
 *            another where there are more than processors, the next one's copies under this one's
 *            arithmetic (two buffers).
 * Tiling:    64 queries a warpgroup, all 256 keys in shared memory: the whole row of scores lies in
 *            registers, so there is one pass and no rescaling. Of 64 queries in all, each of two
 *            warpgroups takes 128 keys; both are joined in shared memory at the end. A head's 72
 *            columns are cut in two, because no swizzle fits 144 bytes; in memory too, so that no row of 128
 *            bytes straddles a line:
 *
 *              columns 0 … 63    rows of 128 bytes, 128-byte swizzle
 *              columns 64 … 71   rows of 16 bytes, no swizzle; q and k have as many zeros behind them
 *
 *            q·kᵀ is four steps over the first and one over the second; p·v one product of 64 and one
 *            of 8 columns a step. Everything comes by tensor-map copies (cp.async costs 4 µs here).
 * Budget:    3 images: 0.9 GFLOP, 7 MB: a CTA needs 2432 tensor cycles and 2048 of exponentials (half of
 *            that with 64 queries), so latency decides; 5 µs, 4 for 2 images.
 * Now:       5.1 µs a launch for 3 images, 4.3 for 2, in chains apart from each other, NVIDIA H200,
 *            2026-11-23; 23.9 for 24, 159 for 192, 2026-11-22. check_vision_sm90 --bench.
 * Rounding:  P to bf16, o to bf16. */
#include "vision_sm90.h"
#include "wgmma_sm90.cuh"

#include <string.h>

using namespace wg90;

namespace
{

constexpr int E = 72, CHUNKS = E / 8, KEYS = 256, THREADS = 256;
constexpr int WIDE = 64 * 2, NARROW = 8 * 2; /* bytes a row */

/* Barriers of a buffer: q and keys 0 … 127, their narrow columns, the other keys, theirs, values, the
 * other q. */
enum { Q_K, QX_KX, K2, KX2, V, Q2, BARS };

/* Offsets in shared memory for tasks of TURNS · 128 queries; the wide parts at multiples of 1024. Two
 * buffers, so that the next task's copies run under this one's arithmetic. */
template <int TURNS> struct layout {
    static constexpr int rows = TURNS * 128;
    static constexpr int q = 0, k = q + rows * WIDE, v = k + KEYS * WIDE;
    static constexpr int qx = v + KEYS * WIDE, kx = qx + rows * NARROW, vx = kx + KEYS * NARROW;
    static constexpr int buffer = vx + KEYS * NARROW;
    static constexpr int zero = 2 * buffer; /* columns 72 … 79 of 128 rows */
    static constexpr int bars = zero + 128 * NARROW, smem = bars + 128 + 1024;
    static_assert(buffer % 1024 == 0 && smem <= 232448, "");
};

/* Matrix descriptor without swizzle: core matrices of 8 × 16 bytes; `lead` bytes between those that
 * follow each other along K, `stride` along M or N. */
static __device__ __forceinline__ uint64_t desc_plain(uint32_t at, int lead, int stride)
{
    return (uint64_t)((at & 0x3FFFF) >> 4) | ((uint64_t)(lead >> 4) << 16) |
           ((uint64_t)(stride >> 4) << 32);
}

/* s[64 queries][128 keys] = q·kᵀ over the wide columns; then += over the narrow ones. A group each. */
static __device__ __forceinline__ void issue_wide(float (&s)[64], const unsigned char *q,
                                                  const unsigned char *k)
{
    uint64_t dq = desc_k128(q), dk = desc_k128(k);
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < 4; kk++)
        wgmma_ss_n128(s, dq + 2 * kk, dk + 2 * kk, kk);
    wgmma_commit();
}
static __device__ __forceinline__ void issue_narrow(float (&s)[64], const unsigned char *qx,
                                                    const unsigned char *kx,
                                                    const unsigned char *zero)
{
    wgmma_fence();
    wgmma_ss_n128(s, desc_plain(smem_u32(qx), (int)(zero - qx), 128),
                  desc_plain(smem_u32(kx), (int)(zero - kx), 128), 1);
    wgmma_commit();
}

/* o += p·v over 128 keys. */
static __device__ __forceinline__ void issue_values(float (&o)[32], float (&ox)[4],
                                                    const uint32_t (&p)[8][4],
                                                    const unsigned char *values,
                                                    const unsigned char *narrow, int half)
{
    /* V as it lies: the MN-major operand, groups of 8 keys 1024 (128) bytes apart */
    uint64_t v = desc_k128(values + half * 128 * WIDE);
    uint64_t vx = desc_plain(smem_u32(narrow) + half * 128 * NARROW, 128, 128);
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < 8; kk++) {
        wgmma_rs_n64<1>(o, p[kk], v + kk * (16 * WIDE >> 4), kk | half);
        wgmma_rs_n8<1>(ox, p[kk], vx + kk * (16 * NARROW >> 4), kk | half);
    }
    wgmma_commit();
}

static __device__ __forceinline__ void row_max(float (&m)[2], const float (&s)[64])
{
#pragma unroll
    for (int j = 0; j < 64; j++)
        m[j / 2 % 2] = fmaxf(m[j / 2 % 2], s[j]);
}

/* p = exp2(s·scale − base) in fragment order; sum takes the unrounded values. */
static __device__ __forceinline__ void exponentials(uint32_t (&p)[8][4], float (&sum)[2],
                                                    const float (&s)[64], const float (&base)[2],
                                                    float scale_log2)
{
#pragma unroll
    for (int kk = 0; kk < 8; kk++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float x = ex2(fmaf(s[8 * kk + 2 * i], scale_log2, -base[i % 2]));
            float y = ex2(fmaf(s[8 * kk + 2 * i + 1], scale_log2, -base[i % 2]));
            sum[i % 2] += x + y;
            p[kk][i] = pack_bf16(x, y);
        }
}

/* Where task t lies. */
template <int TURNS> struct task {
    int q0, head, image;
    __device__ __forceinline__ task(int t, int heads)
        : q0(t % (2 / TURNS) * 128), head(t / (2 / TURNS) % heads), image(t / (2 / TURNS) / heads)
    {
    }
};

/* A task's copies: first column of q, wide and narrow, of k and v with `step` more; the image's first row
 * and the task's first query. Known before the predecessor has ended. */
template <int TURNS> struct copies {
    using L = layout<TURNS>;
    const CUtensorMap *wide, *narrow;
    uint32_t smem, bars;
    int heads, col, colx, step, row, q0;

    __device__ __forceinline__ void find(int t)
    {
        task<TURNS> at(t, heads);
        col = at.head * 64;
        colx = heads * 64 + at.head * 8;
        step = heads * E;
        row = at.image * KEYS;
        q0 = row + at.q0;
    }
    /* 128 rows of one part; which: q, k, v. */
    __device__ __forceinline__ void rows(uint32_t to, uint32_t bar, int which, int from) const
    {
        tma_load_2d(to, wide, bar, col + which * step, from);
    }
    __device__ __forceinline__ void rows_x(uint32_t to, uint32_t bar, int which, int from) const
    {
        tma_load_2d(to, narrow, bar, colx + which * step, from);
    }
    /* In the order of use. A row costs the same wide or narrow, so products start on what is there. */
    __device__ __forceinline__ void load(int buffer) const
    {
        uint32_t to = smem + (uint32_t)(buffer * L::buffer),
                 bar = bars + (uint32_t)buffer * BARS * 8;
        constexpr int W = 128 * WIDE, N = 128 * NARROW;
        mbar_expect(bar + Q_K * 8, 2 * W);
        rows(to + L::q, bar + Q_K * 8, 0, q0);
        rows(to + L::k, bar + Q_K * 8, 1, row);
        mbar_expect(bar + QX_KX * 8, 2 * N);
        rows_x(to + L::qx, bar + QX_KX * 8, 0, q0);
        rows_x(to + L::kx, bar + QX_KX * 8, 1, row);
        mbar_expect(bar + K2 * 8, W);
        rows(to + L::k + W, bar + K2 * 8, 1, row + 128);
        mbar_expect(bar + KX2 * 8, N);
        rows_x(to + L::kx + N, bar + KX2 * 8, 1, row + 128);
        mbar_expect(bar + V * 8, 2 * (W + N));
        rows(to + L::v, bar + V * 8, 2, row);
        rows_x(to + L::vx, bar + V * 8, 2, row);
        rows(to + L::v + W, bar + V * 8, 2, row + 128);
        rows_x(to + L::vx + N, bar + V * 8, 2, row + 128);
        if (TURNS == 2) {
            mbar_expect(bar + Q2 * 8, W + N);
            rows(to + L::q + W, bar + Q2 * 8, 0, row + 128);
            rows_x(to + L::qx + N, bar + Q2 * 8, 0, row + 128);
        }
    }
};

template <int TURNS>
__global__ void __launch_bounds__(THREADS, 1)
    attn_vision_bf16_sm90(const __grid_constant__ CUtensorMap wide,
                          const __grid_constant__ CUtensorMap narrow, __nv_bfloat16 *out, int heads,
                          int tasks, float scale_log2)
{
    using L = layout<TURNS>;
    extern __shared__ unsigned char raw[];
    unsigned char *smem = raw + (-smem_u32(raw) & 1023), *zero = smem + L::zero;
    uint64_t *bar = (uint64_t *)(smem + L::bars); /* BARS a buffer */
    int width = heads * E, warp = warp_uniform((int)threadIdx.x / 32), group = warp / 4;
    int lane = threadIdx.x % 32;
    copies<TURNS> in_flight = { &wide, &narrow, smem_u32(smem), smem_u32(bar), heads };
    pdl_launch();
    if (warp == 0) {
        if (elect_one()) {
            prefetch_tensormap(&wide);
            prefetch_tensormap(&narrow);
            for (int i = 0; i < 2 * BARS; i++)
                mbar_init(&bar[i], 1);
            fence_mbar_init();
            in_flight.find((int)blockIdx.x);
            pdl_wait();
            in_flight.load(0);
        }
    } else if (threadIdx.x >= 128) {
        *(uint4 *)(zero + (threadIdx.x - 128) * NARROW) = make_uint4(0, 0, 0, 0);
        fence_proxy_async();
    }
    __syncthreads();
#pragma unroll 1
    for (int t = (int)blockIdx.x, i = 0; t < tasks; t += (int)gridDim.x, i++) {
        /* The other buffer has been read by all: the barrier at the end of the turn before. */
        if (warp == 0 && t + (int)gridDim.x < tasks)
            if (elect_one()) {
                in_flight.find(t + (int)gridDim.x);
                in_flight.load((i + 1) % 2);
            }
        unsigned char *in = smem + i % 2 * L::buffer;
        uint64_t *here = bar + i % 2 * BARS;
        uint32_t phase = (uint32_t)i / 2 & 1;
#pragma unroll 1
        for (int turn = 0; turn < TURNS; turn++) {
            int row = turn * 128 + group * 64; /* of this group's queries in the buffer */
            unsigned char *q = in + L::q + row * WIDE, *qx = in + L::qx + row * NARROW;
            unsigned char *k = in + L::k, *kx = in + L::kx;
            mbar_wait(&here[turn ? Q2 : Q_K], phase);

            float s[2][64], o[32], ox[4], m[2] = { -INFINITY, -INFINITY }, sum[2] = { 0.f, 0.f };
            uint32_t p[2][8][4];
            issue_wide(s[0], q, k);
            mbar_wait(&here[QX_KX], phase);
            issue_narrow(s[0], qx, kx, zero);
            mbar_wait(&here[K2], phase);
            issue_wide(s[1], q, k + 128 * WIDE);
            mbar_wait(&here[KX2], phase);
            issue_narrow(s[1], qx, kx + 128 * NARROW, zero);
            wgmma_wait<2>();
            row_max(m, s[0]);
            wgmma_wait<0>();
            row_max(m, s[1]);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                m[h] = fmaxf(m[h], __shfl_xor_sync(~0u, m[h], 1));
                m[h] = fmaxf(m[h], __shfl_xor_sync(~0u, m[h], 2)) * scale_log2;
            }
            exponentials(p[0], sum, s[0], m, scale_log2);
            mbar_wait(&here[V], phase);
            issue_values(o, ox, p[0], in + L::v, in + L::vx, 0);
            exponentials(p[1], sum, s[1], m, scale_log2);
            issue_values(o, ox, p[1], in + L::v, in + L::vx, 1);
            float inv[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
                sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
                inv[h] = 1.0f / sum[h];
            }
            wgmma_wait<0>();

            /* The group's rows leave through the place of its q, which all of it have read: columns
             * 0 … 63 where the wide rows were, 16-byte pieces turned by the row, the others where the
             * narrow ones were. */
            bar_sync(1 + group, 128);
            int r16 = warp % 4 * 16;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int r = lane / 4 + 8 * h;
#pragma unroll
                for (int j = 0; j < CHUNKS; j++) {
                    uint32_t v =
                        pack_bf16((j < 8 ? o[4 * (j % 8) + 2 * h] : ox[2 * h]) * inv[h],
                                  (j < 8 ? o[4 * (j % 8) + 2 * h + 1] : ox[2 * h + 1]) * inv[h]);
                    unsigned char *at =
                        j < 8 ? q + (r16 + r) * WIDE + (j ^ r % 8) * 16 : qx + (r16 + r) * NARROW;
                    *(uint32_t *)(at + lane % 4 * 4) = v;
                }
            }
            __syncwarp();
            task<TURNS> at(t, heads);
            __nv_bfloat16 *to =
                out + ((size_t)at.image * KEYS + at.q0 + row + r16) * width + (size_t)at.head * E;
            for (int c = lane; c < 16 * CHUNKS; c += 32) {
                int r = c / CHUNKS, j = c % CHUNKS;
                *(uint4 *)(to + (size_t)r * width + j * 8) =
                    *(const uint4 *)(j < 8 ? q + (r16 + r) * WIDE + (j ^ r % 8) * 16
                                           : qx + (r16 + r) * NARROW);
            }
        }
        if (t + 2 * (int)gridDim.x < tasks) { /* copies come here in the next turn */
            fence_proxy_async();
            __syncthreads();
        }
    }
}

/* ---------------------------------------------------------------- 64 queries, keys in two halves */

struct halves {
    static constexpr int q = 0, k = q + 64 * WIDE, v = k + KEYS * WIDE;
    static constexpr int qx = v + KEYS * WIDE, kx = qx + 128 * NARROW, vx = kx + KEYS * NARROW;
    static constexpr int zero = vx + KEYS * NARROW;   /* columns 72 … 79 of 128 rows */
    static constexpr int sums = zero + 128 * NARROW;  /* five float4 a thread */
    static constexpr int facts = sums + THREADS * 80; /* of a half and row: maximum, sum */
    static constexpr int bars = facts + 2 * 64 * 8, smem = bars + 64 + 1024;
    static_assert(smem <= 232448, "");
};

/* The half that finishes columns 8·OWN … 8·OWN + 31 (and 64 … 71 with OWN = 0) sends the others. */
template <int OWN>
static __device__ __forceinline__ void send_sums(float4 *to, const float (&o)[32],
                                                 const float (&ox)[4])
{
#pragma unroll
    for (int j = 0; j < 4; j++) {
        int c = 4 * (4 - OWN + j);
        to[j * 128] = make_float4(o[c], o[c + 1], o[c + 2], o[c + 3]);
    }
    if (OWN)
        to[4 * 128] = make_float4(ox[0], ox[1], ox[2], ox[3]);
}

/* o · mine + what the other half sent · theirs, and a warp's 16 rows leave through the place of q. */
template <int OWN>
static __device__ __forceinline__ void
finish(const float (&o)[32], const float (&ox)[4], const float4 *from, const float (&mine)[2],
       const float (&theirs)[2], unsigned char *q, unsigned char *qx, __nv_bfloat16 *to, int width)
{
    constexpr int N = OWN ? 4 : 5; /* pieces of 8 columns */
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < N; j++) {
        float4 t = from[j * 128];
        float v[4], u[4] = { t.x, t.y, t.z, t.w };
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] =
                fmaf(j < 4 ? o[4 * (OWN + j % 4) + i] : ox[i], mine[i / 2], u[i] * theirs[i / 2]);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int r = lane / 4 + 8 * h;
            unsigned char *at = j < 4 ? q + r * WIDE + ((OWN + j) ^ r % 8) * 16 : qx + r * NARROW;
            *(uint32_t *)(at + lane % 4 * 4) = pack_bf16(v[2 * h], v[2 * h + 1]);
        }
    }
    __syncwarp();
#pragma unroll
    for (int c = lane; c < 16 * N; c += 32) {
        int r = c / N, j = c % N;
        *(uint4 *)(to + (size_t)r * width + (j < 4 ? OWN + j : 8) * 8) =
            *(const uint4 *)(j < 4 ? q + r * WIDE + ((OWN + j) ^ r % 8) * 16 : qx + r * NARROW);
    }
}

/* 64 queries of a head, 128 keys a warpgroup: each has its own maximum and sums; joined through shared
 * memory, where each finishes half of the columns. */
__global__ void __launch_bounds__(THREADS, 1)
    attn_vision_halves_bf16_sm90(const __grid_constant__ CUtensorMap wide,
                                 const __grid_constant__ CUtensorMap wide64,
                                 const __grid_constant__ CUtensorMap narrow, __nv_bfloat16 *out,
                                 int heads, float scale_log2)
{
    using L = halves;
    extern __shared__ unsigned char raw[];
    unsigned char *smem = raw + (-smem_u32(raw) & 1023);
    int warp = warp_uniform((int)threadIdx.x / 32), half = warp / 4, lane = threadIdx.x % 32;
    int head = (int)blockIdx.x / 4 % heads, image = (int)blockIdx.x / 4 / heads;
    int width = heads * E, row = image * KEYS, query = row + (int)blockIdx.x % 4 * 64;
    unsigned char *q = smem + L::q, *qx = smem + L::qx, *zero = smem + L::zero;
    unsigned char *k = smem + L::k + half * 128 * WIDE, *kx = smem + L::kx + half * 128 * NARROW;
    unsigned char *v = smem + L::v + half * 128 * WIDE, *vx = smem + L::vx + half * 128 * NARROW;
    /* q, its narrow columns, then of each half: keys, their narrow columns, values */
    uint64_t *bar = (uint64_t *)(smem + L::bars), *mine = bar + 2 + 3 * half;
    if (threadIdx.x == 0) {
        prefetch_tensormap(&wide);
        prefetch_tensormap(&wide64);
        prefetch_tensormap(&narrow);
        for (int i = 0; i < 8; i++)
            mbar_init(&bar[i], 1);
        fence_mbar_init();
    } else if (threadIdx.x >= 128) {
        *(uint4 *)(zero + (threadIdx.x - 128) * NARROW) = make_uint4(0, 0, 0, 0);
        fence_proxy_async();
    }
    pdl_launch();
    __syncthreads();
    if (warp % 4 == 0)
        if (elect_one()) { /* in the order of use */
            int col = head * 64, colx = heads * 64 + head * 8, keys = row + half * 128;
            pdl_wait();
            if (half == 0) {
                mbar_expect(&bar[0], 64 * WIDE);
                tma_load_2d(q, &wide64, &bar[0], col, query);
            }
            mbar_expect(&mine[0], 128 * WIDE);
            tma_load_2d(k, &wide, &mine[0], width + col, keys);
            if (half == 0) { /* 128 rows, of which 64 are used: there is one map */
                mbar_expect(&bar[1], 128 * NARROW);
                tma_load_2d(qx, &narrow, &bar[1], colx, query);
            }
            mbar_expect(&mine[1], 128 * NARROW);
            tma_load_2d(kx, &narrow, &mine[1], width + colx, keys);
            mbar_expect(&mine[2], 128 * (WIDE + NARROW));
            tma_load_2d(v, &wide, &mine[2], 2 * width + col, keys);
            tma_load_2d(vx, &narrow, &mine[2], 2 * width + colx, keys);
        }
    float s[64], o[32], ox[4], m[2] = { -INFINITY, -INFINITY }, sum[2] = { 0.f, 0.f };
    uint32_t p[8][4];
    mbar_wait(&bar[0], 0);
    mbar_wait(&mine[0], 0);
    issue_wide(s, q, k);
    mbar_wait(&bar[1], 0);
    mbar_wait(&mine[1], 0);
    issue_narrow(s, qx, kx, zero);
    wgmma_wait<0>();
    row_max(m, s);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        m[h] = fmaxf(m[h], __shfl_xor_sync(~0u, m[h], 1));
        m[h] = fmaxf(m[h], __shfl_xor_sync(~0u, m[h], 2)) * scale_log2;
    }
    exponentials(p, sum, s, m, scale_log2);
    mbar_wait(&mine[2], 0);
    issue_values(o, ox, p, v, vx, 0);
    int r16 = warp % 4 * 16;
    float2 *facts = (float2 *)(smem + L::facts) + r16 + lane / 4;
    float4 *sums = (float4 *)(smem + L::sums) + threadIdx.x % 128;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
        sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
        if (lane % 4 == 0)
            facts[half * 64 + 8 * h] = make_float2(m[h], sum[h]);
    }
    wgmma_wait<0>();
    if (half)
        send_sums<4>(sums + 5 * 128, o, ox);
    else
        send_sums<0>(sums, o, ox);
    __syncthreads(); /* q has been read, too */
    const float4 *from = sums + (1 - half) * 5 * 128;
    float own[2], other[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float2 t = facts[(1 - half) * 64 + 8 * h];
        float most = fmaxf(m[h], t.x);
        own[h] = ex2(m[h] - most);
        other[h] = ex2(t.x - most);
        float inv = 1.0f / (sum[h] * own[h] + t.y * other[h]);
        own[h] *= inv;
        other[h] *= inv;
    }
    q += r16 * WIDE;
    qx += r16 * NARROW;
    out += (size_t)(query + r16) * width + (size_t)head * E;
    if (half)
        finish<4>(o, ox, from, own, other, q, qx, out, width);
    else
        finish<0>(o, ox, from, own, other, q, qx, out, width);
}

/* rest: the kernel's arguments. */
template <class... P, class... A>
cudaError_t start(void (*kernel)(P...), int ctas, int smem, int pdl, cudaStream_t stream,
                  const A &...rest)
{
    cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
    if (e != cudaSuccess)
        return e;
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = dim3((unsigned)ctas);
    cfg.blockDim = dim3(THREADS);
    cfg.dynamicSmemBytes = (size_t)smem;
    cfg.stream = stream;
    cfg.attrs = &attr;
    cfg.numAttrs = pdl ? 1 : 0;
    return cudaLaunchKernelEx(&cfg, kernel, rest...);
}

template <int TURNS>
cudaError_t launch(const struct attn_vision90 *a, int n_sm, int pdl, cudaStream_t stream)
{
    int tasks = 2 / TURNS * a->heads * a->images;
    return start(attn_vision_bf16_sm90<TURNS>, tasks < n_sm ? tasks : n_sm, layout<TURNS>::smem,
                 pdl, stream, a->wide, a->narrow, (__nv_bfloat16 *)a->o, a->heads, tasks,
                 a->scale * 1.4426950408889634f);
}

} // namespace

extern "C" CUresult attn_vision90_plan(struct attn_vision90 *a, tensor_map_encode_fn encode,
                                       const void *qkv, void *o, int images, int heads, float scale)
{
    memset(a, 0, sizeof *a);
    a->o = o;
    a->images = images;
    a->heads = heads;
    a->scale = scale;
    cuuint64_t dims[2] = { (cuuint64_t)(3 * heads * E), (cuuint64_t)images * KEYS };
    cuuint64_t stride[1] = { dims[0] * 2 };
    cuuint32_t step[2] = { 1, 1 };
    CUresult r = CUDA_SUCCESS;
    CUtensorMap *maps[3] = { &a->wide, &a->wide64, &a->narrow };
    for (int i = 0; i < 3 && r == CUDA_SUCCESS; i++) {
        cuuint32_t box[2] = { i == 2 ? 8u : 64u, i == 1 ? 64u : 128u };
        r = encode(maps[i], CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)(uintptr_t)qkv, dims,
                   stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                   i == 2 ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    }
    return r;
}

extern "C" int attn_vision90_queries(int images, int heads, int n_sm)
{
    return 4 * images * heads <= n_sm ? 64 : 2 * images * heads <= n_sm ? 128 : 256;
}

extern "C" cudaError_t attn_vision90_launch(const struct attn_vision90 *a, int pdl,
                                            cudaStream_t stream)
{
    int device, n_sm;
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&n_sm, cudaDevAttrMultiProcessorCount, device);
    if (e != cudaSuccess)
        return e;
    switch (attn_vision90_queries(a->images, a->heads, n_sm)) {
    case 64:
        return start(attn_vision_halves_bf16_sm90, 4 * a->heads * a->images, halves::smem, pdl,
                     stream, a->wide, a->wide64, a->narrow, (__nv_bfloat16 *)a->o, a->heads,
                     a->scale * 1.4426950408889634f);
    case 128: return launch<1>(a, n_sm, pdl, stream);
    default: return launch<2>(a, n_sm, pdl, stream);
    }
}
