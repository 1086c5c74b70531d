/* SPDX-License-Identifier: Apache-2.0
 * attn_bf16_sm90: o = softmax(q·kᵀ·scale)·v, head size 256, one K/V head   bf16 in and out, f32 inside
 * Called by: prefix attention (rows = tokens · 8 heads against 532 … 968 keys).
 * Tiling:    two consumer warpgroups of 64 query rows; keys in blocks of 64 through a ring of K and V
 *            blocks. S = q·kᵀ from shared memory, with the second of the two ways below half of q from
 *            registers; P stays in registers; V is the MN-major operand, so it is used as it lies. Two
 *            ways to share the work (attn90_split):
 *              1  the warpgroups have different rows, 128 a CTA, and read the same blocks: batches;
 *              2  they have the same 64 rows and take the blocks in turns. A cluster of two row tiles
 *                 shares the blocks, each CTA fetching half of a block for both. At the end each
 *                 warpgroup finishes half of the columns from both sums, in a fixed order: the same
 *                 bits every run.
 *
 *              block i:   S_i = q·k_i ──► softmax_i ──────────┐
 *              tensor:    [ S_i ][ O += P_{i-1}·v_{i-1}  ]     the product runs under the softmax
 *
 * Budget:    788 tokens: 5.1 GFLOP, 7.3 MB → bound by arithmetic; 6.6 µs at 773 TFLOP/s.
 * Now:       14.9 µs at 788 tokens, 11.5 at 532, 17.0 at 968 (all S = 2), 86 at 8 × 788 (S = 1; 472
 *            TFLOP/s): check_attn_sm90 --bench, NVIDIA H200, 2026-11-23.
 *            Queries of a batch come as the product left them and are turned where they lie (RoPE), 92 µs at
 *            8 × 788 in place of 84.5 and a kernel of 26.
 * Rounding:  P to bf16, o to bf16; q turned in float32, to bf16. */
#include "attn_sm90.h"
#include "wgmma_sm90.cuh"

#include <string.h>

using namespace wg90;

/* CTAs that the rows of a sample take: pairs where they work in pairs. */
static int attn90_tiles(int max_rows, int heads, int split)
{
    return (max_rows * heads + 127) / 128 * split;
}

namespace
{

constexpr int E = 256, KEYS = 64, THREADS = 384;
constexpr int HEADS = 8; /* where queries are turned here */
constexpr int KV_BYTES = KEYS * E * 2;

/* What the two ways need: S as in attn90_split. */
template <int S> struct shape {
    static constexpr int rows = 128 / S, ring = 1 + S;
    static constexpr int q_steps = S == 1 ? 0 : 8; /* of 16 columns that stay in registers */
    static constexpr int q_bytes = rows * E * 2, smem = q_bytes + 2 * ring * KV_BYTES + 1024;
};

/* Block i lies in slot i % ring. Who waits for it must see every phase of its barrier, so with S = 2,
 * where the blocks of a slot belong to the warpgroups in turns, each has barriers of its own. */
template <int S> struct bars {
    static constexpr int ring = shape<S>::ring, fulls = S * ring;
    uint64_t q, k_full[fulls], v_full[fulls], k_empty[ring], v_empty[ring];

    __device__ __forceinline__ void wait_k(int i) { mbar_wait(&k_full[i % fulls], i / fulls & 1); }
    __device__ __forceinline__ void wait_v(int i) { mbar_wait(&v_full[i % fulls], i / fulls & 1); }
};

/* MN-major operand with 128-byte rows of 64 columns: blocks of 64 columns are KEYS · 128 bytes apart
 * (leading offset), groups of 8 keys 1024 bytes (stride offset). */
static __device__ __forceinline__ uint64_t desc_mn128(const void *p)
{
    uint64_t a = smem_u32(p);
    return ((a & 0x3FFFF) >> 4) | ((uint64_t)(KEYS * 128 >> 4) << 16) |
           ((uint64_t)(1024 >> 4) << 32) | ((uint64_t)1 << 62);
}

/* A block of K or V: all of it, or this CTA's half of the columns, to both CTAs. */
template <int S>
static __device__ __forceinline__ void load_block(unsigned char *dst, const CUtensorMap *map,
                                                  uint64_t *bar, int row, uint32_t rank)
{
    mbar_expect(bar, KV_BYTES);
#pragma unroll
    for (int i = 0; i < 4 / S; i++) {
        int c = S == 1 ? i : (int)rank * 2 + i;
        if (S == 1)
            tma_load_2d(dst + c * KEYS * 128, map, bar, c * 64, row);
        else
            tma_load_2d_multicast(dst + c * KEYS * 128, map, bar, c * 64, row, 3);
    }
}

/* Keys are S blocks ahead of their values: both warpgroups have scores to make first. */
template <int S, bool TURN>
static __device__ __forceinline__ void
produce(const CUtensorMap &q, const CUtensorMap &k, const CUtensorMap &v, unsigned char *smem,
        bars<S> *b, int q_row, int kv_row, int blocks, uint32_t rank)
{
    constexpr int RING = shape<S>::ring;
    unsigned char *ks = smem + shape<S>::q_bytes, *vs = ks + RING * KV_BYTES;
    mbar_expect(&b->q, shape<S>::q_bytes);
#pragma unroll
    for (int c = 0; c < 4; c++) {
        unsigned char *to = smem + c * shape<S>::rows * 128;
        if (TURN)
            tma_load_3d(smem_u32(to), &q, smem_u32(&b->q), c * 64, 0, q_row / HEADS);
        else
            tma_load_2d(to, &q, &b->q, c * 64, q_row);
    }
    for (int i = 0; i < blocks + S - 1; i++) {
        int j = i - (S - 1), slot = i % RING;
        if (i < blocks) {
            mbar_wait(&b->k_empty[slot], i / RING & 1 ^ 1);
            load_block<S>(ks + slot * KV_BYTES, &k, &b->k_full[i % b->fulls], kv_row + i * KEYS,
                          rank);
        }
        if (j >= 0) {
            slot = j % RING;
            mbar_wait(&b->v_empty[slot], j / RING & 1 ^ 1);
            load_block<S>(vs + slot * KV_BYTES, &v, &b->v_full[j % b->fulls], kv_row + j * KEYS,
                          rank);
        }
    }
}

/* The first columns of q, 16 a step, as the products take them from registers: they read shared memory
 * less, which is what binds with S = 2. */
template <int N> struct q_regs {
    uint32_t v[N > 0 ? N : 1][4];
};
template <int ROWS, int N>
static __device__ __forceinline__ void load_q(q_regs<N> &q, const unsigned char *at)
{
    int lane = threadIdx.x % 32, row = (int)threadIdx.x / 32 % 4 * 16 + lane % 16;
    uint32_t base = smem_u32(at) + row * 128;
#pragma unroll
    for (int i = 0; i < N; i++) {
        uint32_t a = base + i / 4 * (ROWS * 128) + (((i % 4 * 2 + lane / 16) ^ row % 8) * 16);
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(q.v[i][0]), "=r"(q.v[i][1]), "=r"(q.v[i][2]), "=r"(q.v[i][3])
                     : "r"(a)
                     : "memory");
    }
}

static __device__ __forceinline__ float2 unpack2(uint32_t v)
{
    return make_float2(__uint_as_float(v << 16), __uint_as_float(v & 0xFFFF0000u));
}

/* Two pairs (x, y) by their angles (cos, sin, cos, sin). */
static __device__ __forceinline__ void turn2(uint32_t &x, uint32_t &y, float4 c)
{
    float2 a = unpack2(x), b = unpack2(y);
    x = pack_bf16(a.x * c.x - b.x * c.y, a.y * c.z - b.y * c.w);
    y = pack_bf16(b.x * c.x + a.x * c.y, b.y * c.z + a.y * c.w);
}

/* RoPE of the tile's queries where they lie, row = token · HEADS + head: a thread has eight pairs of one
 * token, and with S = 1 all of its heads, else half of them. first: the tile's first token, below n. */
template <int S>
static __device__ __forceinline__ void turn_queries(unsigned char *smem, uint64_t *ready,
                                                    const float *angles, int first, int n)
{
    constexpr int ROWS = shape<S>::rows;
    int i = (int)threadIdx.x - 128, q = i / 128, e = i % 16;
    int token = (S == 1 ? i : i % 128) / 16, pos = first + token < n ? first + token : n - 1;
    const float4 *cs = (const float4 *)(angles + (size_t)pos * E) + 4 * e;
    float4 c[4] = { cs[0], cs[1], cs[2], cs[3] };
    unsigned char *lo = smem + e / 8 * (ROWS * 128) + token * (HEADS * 128);
    int head = S == 1 ? 0 : q * (HEADS / 2);
    uint4 x[HEADS / S], y[HEADS / S];
    mbar_wait(ready, 0);
#pragma unroll
    for (int j = 0; j < HEADS / S; j++) { /* all loads before the first store */
        const unsigned char *at = lo + (head + j) * 128 + ((e % 8 ^ (head + j)) * 16);
        x[j] = *(const uint4 *)at;
        y[j] = *(const uint4 *)(at + 2 * (ROWS * 128));
    }
#pragma unroll
    for (int j = 0; j < HEADS / S; j++) {
        unsigned char *at = lo + (head + j) * 128 + ((e % 8 ^ (head + j)) * 16);
        turn2(x[j].x, y[j].x, c[0]);
        turn2(x[j].y, y[j].y, c[1]);
        turn2(x[j].z, y[j].z, c[2]);
        turn2(x[j].w, y[j].w, c[3]);
        *(uint4 *)at = x[j];
        *(uint4 *)(at + 2 * (ROWS * 128)) = y[j];
    }
    fence_proxy_async();
    if (S == 2) /* both read all rows */
        bar_sync(1, 256);
    else if (q == 0)
        bar_sync(2, 128);
    else
        bar_sync(3, 128);
}

/* s[64 rows][64 keys] = q·kᵀ of one block, committed as one group. */
template <int ROWS, int N>
static __device__ __forceinline__ void issue_scores(float (&s)[32], const unsigned char *q,
                                                    const unsigned char *k, const q_regs<N> &r)
{
    wgmma_fence();
#pragma unroll
    for (int c = 0; c < 4; c++)
#pragma unroll
        for (int kk = 0; kk < 4; kk++) {
            uint64_t b = desc_k128(k + c * KEYS * 128) + 2 * kk;
            if (c * 4 + kk < N)
                wgmma_rs_n64<0>(s, r.v[c * 4 + kk], b, c | kk);
            else
                wgmma_ss_n64(s, desc_k128(q + c * ROWS * 128) + 2 * kk, b, c | kk);
        }
    wgmma_commit();
}

static __device__ __forceinline__ void issue_values(float (&o)[128], const uint32_t (&p)[4][4],
                                                    const unsigned char *v)
{
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < 4; kk++) /* 16 keys a step */
        wgmma_rs_n256<1>(o, p[kk], desc_mn128(v + kk * 16 * 128), 1);
    wgmma_commit();
}

/* Running softmax of two rows a thread (lane/4 and +8). m and l in units of log2. */
struct rows {
    float m[2], l[2], rescale[2];
};

static __device__ __forceinline__ void softmax(float (&s)[32], rows &r, int key0, int n_valid,
                                               float scale_log2)
{
    int lane = threadIdx.x % 32;
    if (key0 + KEYS > n_valid) {
#pragma unroll
        for (int j = 0; j < 32; j++)
            if (key0 + j / 4 * 8 + lane % 4 * 2 + j % 2 >= n_valid)
                s[j] = -INFINITY;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float m = r.m[h];
#pragma unroll
        for (int j = 0; j < 8; j++)
            m = fmaxf(m, fmaxf(s[4 * j + 2 * h], s[4 * j + 2 * h + 1]));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        float base = m == -INFINITY ? 0.0f : m * scale_log2; /* nothing valid yet */
        r.rescale[h] = ex2(r.m[h] * scale_log2 - base);
        r.m[h] = m;
        float sum = 0;
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &x = s[4 * j + 2 * h + i];
                x = ex2(fmaf(x, scale_log2, -base));
                sum += x;
            }
        r.l[h] = r.l[h] * r.rescale[h] + sum;
    }
}

static __device__ __forceinline__ void pack_p(uint32_t (&p)[4][4], const float (&s)[32])
{
#pragma unroll
    for (int kk = 0; kk < 4; kk++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            p[kk][i] = pack_bf16(s[8 * kk + 2 * i], s[8 * kk + 2 * i + 1]);
}

/* A slot is free: its next block, if there is one, may come. With S = 2 one warpgroup of each CTA has
 * read it, and both CTAs' producers write it; nobody is told who might have left. */
template <int S>
static __device__ __forceinline__ void release(uint64_t *bar, int block, int blocks)
{
    int i = (int)threadIdx.x % 128;
    if (block + shape<S>::ring >= blocks)
        return;
    if (S == 1 && i == 0)
        mbar_arrive(bar);
    if (S == 2 && i < 2)
        mbar_arrive_cluster(bar, (uint32_t)i);
}

/* A warpgroup without rows lets its blocks pass. */
template <int S> static __device__ __forceinline__ void pass(bars<S> *b, int first, int blocks)
{
    constexpr int RING = shape<S>::ring;
    mbar_wait(&b->q, 0); /* nobody leaves before what is sent to it has come */
    for (int i = first; i < blocks; i += S) {
        int slot = i % RING;
        b->wait_k(i);
        release<S>(&b->k_empty[slot], i, blocks);
        b->wait_v(i);
        release<S>(&b->v_empty[slot], i, blocks);
    }
}

/* One warpgroup's blocks: first, first + S, … */
template <int S>
static __device__ __forceinline__ void attend(float (&o)[128], rows &r, unsigned char *smem,
                                              bars<S> *b, const unsigned char *qs, int first,
                                              int blocks, int n_valid, float scale_log2)
{
    constexpr int RING = shape<S>::ring, ROWS = shape<S>::rows;
    const unsigned char *ks = smem + shape<S>::q_bytes, *vs = ks + RING * KV_BYTES;
    float s[32];
    uint32_t p[4][4];
    if (blocks <= first)
        return;
    mbar_wait(&b->q, 0);
    q_regs<shape<S>::q_steps> qr;
    load_q<ROWS>(qr, qs);
    b->wait_k(first);
    issue_scores<ROWS>(s, qs, ks + first * KV_BYTES, qr);
    wgmma_wait<0>();
    release<S>(&b->k_empty[first], first, blocks);
    softmax(s, r, first * KEYS, n_valid, scale_log2);
    pack_p(p, s);
    int last = first;
    for (int i = first + S; i < blocks; i += S) {
        int slot = i % RING, before = last % RING;
        b->wait_k(i);
        b->wait_v(last);
        issue_scores<ROWS>(s, qs, ks + slot * KV_BYTES, qr);
        issue_values(o, p, vs + before * KV_BYTES);
        wgmma_wait<1>();
        release<S>(&b->k_empty[slot], i, blocks);
        softmax(s, r, i * KEYS, n_valid, scale_log2);
        wgmma_wait<0>();
        release<S>(&b->v_empty[before], last, blocks);
#pragma unroll
        for (int j = 0; j < 128; j++)
            o[j] *= r.rescale[j / 2 % 2];
        pack_p(p, s);
        last = i;
    }
    b->wait_v(last);
    issue_values(o, p, vs + last % RING * KV_BYTES);
    wgmma_wait<0>();
#pragma unroll
    for (int h = 0; h < 2; h++) {
        r.l[h] += __shfl_xor_sync(~0u, r.l[h], 1);
        r.l[h] += __shfl_xor_sync(~0u, r.l[h], 2);
    }
}

/* stmatrix: fragments held one row of 8 by four lanes, to memory. Lane l gives the address of row l % 8
 * of matrix l / 8. */
static __device__ __forceinline__ void stmatrix4(uint32_t at, uint32_t a, uint32_t b, uint32_t c,
                                                 uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}

/* With S = 1 a warp's own 16 rows are complete: through the place of their queries, which nobody
 * reads any more, to whole lines. 16-byte chunk c of a row of 64 values lies at c ^ row % 8. */
static __device__ __forceinline__ void store_rows(const float (&o)[128], const rows &r,
                                                  unsigned char *smem, int row_in_tile,
                                                  __nv_bfloat16 *out, int row0, int n_rows)
{
    constexpr int ROWS = shape<1>::rows;
    int lane = threadIdx.x % 32;
    unsigned char *mine = smem + row_in_tile * 128; /* of the warp's first row */
    float inv[2] = { 1.0f / r.l[0], 1.0f / r.l[1] };
    uint32_t at = smem_u32(mine) + lane % 16 * 128;
#pragma unroll
    for (int j = 0; j < 32; j += 2) {
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *x = &o[4 * (j + i / 2) + 2 * (i % 2)];
            v[i] = pack_bf16(x[0] * inv[i % 2], x[1] * inv[i % 2]);
        }
        stmatrix4(at + j / 8 * (ROWS * 128) + (((j % 8 + lane / 16) ^ lane % 8) * 16), v[0], v[1],
                  v[2], v[3]);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16; i++)
        if (row0 + row_in_tile + i < n_rows)
            ((uint4 *)(out + (size_t)(row0 + row_in_tile + i) * E))[lane] =
                *(const uint4 *)(mine + lane / 8 * (ROWS * 128) + i * 128 +
                                 ((lane % 8 ^ i % 8) * 16));
}

/* With S = 2: what warpgroup Q gets from the other lies in its slot, a plane of 128 threads · 16 bytes
 * for each of its 16 groups of 8 columns, and one more for the rows' maxima and sums; then its rows,
 * 256 bytes each, on their way to whole lines. */
constexpr int PLANE = 128 * 16, SLOT = 17 * PLANE;
constexpr int PITCH = 272; /* an odd number of 16-byte chunks */
static_assert(2 * SLOT + 128 * PITCH <= shape<2>::smem - 1024, "room");

/* Both sums → the 128 columns from 128 · Q, all 64 rows. */
template <int Q>
static __device__ __forceinline__ void merge(const float (&o)[128], const rows &r,
                                             unsigned char *smem, __nv_bfloat16 *out, int row0,
                                             int n_rows, float scale_log2)
{
    int i = (int)threadIdx.x % 128, lane = i % 32;
    unsigned char *to = smem + (1 - Q) * SLOT + i * 16, *from = smem + Q * SLOT + i * 16;
    float4 mine = make_float4(r.m[0] * scale_log2, r.l[0], r.m[1] * scale_log2, r.l[1]);
    bar_sync(1, 256); /* both are done with queries and ring */
    *(float4 *)to = mine;
#pragma unroll
    for (int j = 0; j < 16; j++) {
        const float *x = &o[64 * (1 - Q) + 4 * j];
        *(float4 *)(to + (1 + j) * PLANE) = make_float4(x[0], x[1], x[2], x[3]);
    }
    bar_sync(1, 256);
    float4 other = *(const float4 *)from;
    float w[2][2]; /* row, own or other */
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float m0 = h ? mine.z : mine.x, m1 = h ? other.z : other.x, top = fmaxf(m0, m1);
        float w0 = m0 == -INFINITY ? 0.0f : ex2(m0 - top);
        float w1 = m1 == -INFINITY ? 0.0f : ex2(m1 - top);
        float sum = Q == 0 ? (h ? mine.w : mine.y) * w0 + (h ? other.w : other.y) * w1
                           : (h ? other.w : other.y) * w1 + (h ? mine.w : mine.y) * w0;
        w[h][0] = w0 * (1.0f / sum);
        w[h][1] = w1 * (1.0f / sum);
    }
    unsigned char *rows_at = smem + 2 * SLOT + (Q * 64 + i / 32 * 16) * PITCH; /* of the warp */
    unsigned char *at = rows_at + lane / 4 * PITCH + lane % 4 * 4;
#pragma unroll
    for (int j = 0; j < 16; j++) {
        const float *x = &o[64 * Q + 4 * j];
        float4 t = *(const float4 *)(from + (1 + j) * PLANE);
        *(uint32_t *)(at + j * 16) =
            pack_bf16(x[0] * w[0][0] + t.x * w[0][1], x[1] * w[0][0] + t.y * w[0][1]);
        *(uint32_t *)(at + 8 * PITCH + j * 16) =
            pack_bf16(x[2] * w[1][0] + t.z * w[1][1], x[3] * w[1][0] + t.w * w[1][1]);
    }
    __syncwarp();
#pragma unroll
    for (int k = 0; k < 8; k++) { /* two rows a step */
        int n = k * 2 + lane / 16, row = row0 + i / 32 * 16 + n;
        if (row < n_rows)
            ((uint4 *)(out + (size_t)row * E))[16 * Q + lane % 16] =
                *(const uint4 *)(rows_at + n * PITCH + lane % 16 * 16);
    }
}

/* TURN: queries come as the product left them. */
template <int S, bool TURN>
__global__ void __launch_bounds__(THREADS, 1)
    attn_bf16_sm90(const __grid_constant__ CUtensorMap q_map,
                   const __grid_constant__ CUtensorMap k_map,
                   const __grid_constant__ CUtensorMap v_map, __nv_bfloat16 *o_all,
                   const attn90_segment *segments, const float *angles, int heads,
                   int kv_row_offset, float scale_log2)
{
    constexpr int ROWS = shape<S>::rows;
    extern __shared__ unsigned char raw[];
    __shared__ bars<S> b;
    unsigned char *smem = (unsigned char *)(((uintptr_t)raw + 1023) & ~(uintptr_t)1023);
    uint32_t rank = S > 1 ? cluster_ctarank() : 0;
    attn90_segment seg = segments[blockIdx.x];
    if (threadIdx.x == 0) {
        prefetch_tensormap(&q_map);
        prefetch_tensormap(&k_map);
        prefetch_tensormap(&v_map);
        mbar_init(&b.q, 1);
        for (int i = 0; i < b.fulls; i++) {
            mbar_init(&b.k_full[i], 1);
            mbar_init(&b.v_full[i], 1);
        }
        for (int i = 0; i < b.ring; i++) {
            mbar_init(&b.k_empty[i], 2);
            mbar_init(&b.v_empty[i], 2);
        }
        fence_mbar_init();
    }
    if (S > 1)
        cluster_sync_relaxed(); /* the peer's barriers exist before anything is sent to it */
    else
        __syncthreads();
    pdl_wait();
    int row0 = (int)blockIdx.y * ROWS, n_rows = seg.n_rows * heads;
    if (row0 - (int)rank * ROWS >= n_rows)
        return; /* the whole cluster leaves; a CTA without rows of its own stays and fetches */
    int blocks = (seg.n_rows + KEYS - 1) / KEYS;
    __nv_bfloat16 *out = o_all + (size_t)seg.q_row * heads * E;
    if (threadIdx.x < 128) {
        setmaxnreg_dec<24>();
        if (threadIdx.x == 0)
            produce<S, TURN>(q_map, k_map, v_map, smem, &b, seg.q_row * heads + row0,
                             seg.kv_row + kv_row_offset, blocks, rank);
    } else {
        setmaxnreg_inc<240>();
        int q = (int)threadIdx.x / 128 - 1;
        int mine = S == 1 ? q * 64 : 0; /* first of the warpgroup's rows */
        if (TURN && row0 + mine < n_rows)
            turn_queries<S>(smem, &b.q, angles, row0 / HEADS, seg.n_rows);
        float o[128];
#pragma unroll
        for (int j = 0; j < 128; j++)
            o[j] = 0;
        rows r = { { -INFINITY, -INFINITY }, { 0, 0 }, { 0, 0 } };
        if (row0 + mine < n_rows)
            attend<S>(o, r, smem, &b, smem + mine * 128, S == 1 ? 0 : q, blocks, seg.n_valid,
                      scale_log2);
        else
            pass<S>(&b, S == 1 ? 0 : q, blocks);
        pdl_launch();
        if (S == 1)
            store_rows(o, r, smem, mine + (int)threadIdx.x / 32 % 4 * 16, out, row0, n_rows);
        else if (q == 0)
            merge<0>(o, r, smem, out, row0, n_rows, scale_log2);
        else
            merge<1>(o, r, smem, out, row0, n_rows, scale_log2);
    }
    /* Nobody is left behind: a CTA waits for all that is sent to it. */
}

template <int S, bool TURN>
cudaError_t launch(const struct attn90 *p, int kv_row_offset, int pdl, cudaStream_t stream)
{
    cudaError_t e = cudaFuncSetAttribute(
        attn_bf16_sm90<S, TURN>, cudaFuncAttributeMaxDynamicSharedMemorySize, shape<S>::smem);
    if (e != cudaSuccess)
        return e;
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeClusterDimension;
    attr[0].val.clusterDim.y = S;
    attr[0].val.clusterDim.x = attr[0].val.clusterDim.z = 1;
    attr[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    int tiles = attn90_tiles(p->max_rows, p->heads, S);
    /* Samples fastest: their last tiles, which may be half empty, come last. */
    cfg.gridDim = dim3((unsigned)p->n_segments, (unsigned)tiles);
    cfg.blockDim = dim3(THREADS);
    cfg.dynamicSmemBytes = shape<S>::smem;
    cfg.stream = stream;
    cfg.attrs = attr;
    cfg.numAttrs = pdl ? 2 : 1;
    return cudaLaunchKernelEx(&cfg, attn_bf16_sm90<S, TURN>, p->q, p->k, p->v,
                              (__nv_bfloat16 *)p->o, p->segments, p->angles, p->heads,
                              kv_row_offset, p->scale * 1.4426950408889634f);
}

} // namespace

extern "C" int attn90_split(int max_rows, int heads, int n_segments, int n_sms)
{
    int blocks = (max_rows + KEYS - 1) / KEYS, best = 1;
    long best_cost = 0;
    for (int s = 1; s <= 2; s++) {
        long ctas = (long)attn90_tiles(max_rows, heads, s) * n_segments;
        /* in key blocks: start, exchange and end of a CTA are worth five */
        long cost = (ctas + n_sms - 1) / n_sms * ((blocks + s - 1) / s + 5);
        if (s == 1 || cost < best_cost) {
            best = s;
            best_cost = cost;
        }
    }
    return best;
}

extern "C" CUresult attn90_plan(struct attn90 *plan, tensor_map_encode_fn encode, const void *q,
                                int q_rows, const void *k, const void *v, int kv_rows, void *o,
                                const struct attn90_segment *segments, int n_segments, int max_rows,
                                int heads, float scale, int split)
{
    memset(plan, 0, sizeof *plan);
    plan->o = o;
    plan->segments = segments;
    plan->heads = heads;
    plan->n_segments = n_segments;
    plan->max_rows = max_rows;
    plan->split = split;
    plan->scale = scale;
    CUresult r = tensor_map_2d(encode, &plan->q, q, (long)q_rows * heads, E, E, 128 / split);
    if (r == CUDA_SUCCESS)
        r = tensor_map_2d(encode, &plan->k, k, kv_rows, E, E, KEYS);
    if (r == CUDA_SUCCESS)
        r = tensor_map_2d(encode, &plan->v, v, kv_rows, E, E, KEYS);
    return r;
}

extern "C" CUresult attn90_turn(struct attn90 *plan, tensor_map_encode_fn encode, const void *q,
                                int q_rows, int ldq, const float *angles)
{
    cuuint64_t dims[3] = { E, HEADS, (cuuint64_t)q_rows };
    cuuint64_t stride[2] = { E * 2, (cuuint64_t)ldq * 2 };
    cuuint32_t box[3] = { 64, HEADS, (cuuint32_t)(128 / plan->split / HEADS) };
    cuuint32_t step[3] = { 1, 1, 1 };
    plan->angles = angles;
    return plan->heads != HEADS
               ? CUDA_ERROR_INVALID_VALUE
               : encode(&plan->q, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void *)(uintptr_t)q, dims,
                        stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

extern "C" cudaError_t attn90_launch(const struct attn90 *plan, int kv_row_offset, int pdl,
                                     cudaStream_t stream)
{
    if (plan->angles)
        return plan->split == 1 ? launch<1, true>(plan, kv_row_offset, pdl, stream)
                                : launch<2, true>(plan, kv_row_offset, pdl, stream);
    return plan->split == 1 ? launch<1, false>(plan, kv_row_offset, pdl, stream)
                            : launch<2, false>(plan, kv_row_offset, pdl, stream);
}
