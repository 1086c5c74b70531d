/* SPDX-License-Identifier: Apache-2.0
 * suffix_bf16_sm90: the products of the action expert for a batch, everything between them fused in:
 *     qkv:       1/rms, (+ W·shift), RoPE, K and V into the cache
 *     gate·up:   1/rms, (+ W·shift), h = gelu(gate) · up
 *     o, down:   x += (gate ⊙) acc; xg = bf16(x ⊙ gain); Σx² of the next RMSNorm
 * Called by: denoise_enqueue, batches; M = 20 … 700 tokens, 180 times each a call of ten steps.
 * Tiling:    64 weight rows on the wgmma M side, T tokens on N, K in stages of 64: one ring for the
 *            weights, one for the tokens. A cluster of KS × CR CTAs: KS pieces of K are added through
 *            distributed shared memory in rank order, CR row tiles share their tokens by multicast.
 *
 *              warps 0-3: consumers · 4: weights · 5: tokens · 6, 7: 1/rms
 *              64 rows:  qkv      4 × (8 rows i …, 8 rows i + 128 …): a RoPE pair in one thread
 *                        gate·up  4 × (8 gates, 8 ups): a unit in one thread
 *              KS > 1:   CTA r finishes tokens [8·r·JP, 8·(r + 1)·JP) of the tile
 *
 * Budget:    a layer's four products read 34.6 MB of weights → bound by memory, 7.5 µs at 4.6 TB/s up
 *            to some 250 tokens; behind that by arithmetic.
 * Now:       µs a launch in a chain of its kind, weights from memory, qkv, o, gate·up, down: 3.7, 2.9, 5.7, 3.9 at 20
 *            tokens; 4.8, 3.6, 6.8, 4.7 at 50; 5.7, 5.1, 7.0, 6.3 at 80; 11.6, 9.4, 22, 13.9 at 640. A layer with its
 *            attention 22.4, 27.0, 33.3 and 82.7: check_suffix_sm90 --bench, NVIDIA H200, 2026-11-22.
 * Rounding:  one at each bf16 store; sums, residual, norms and RoPE in float32. A token's bits depend
 *            on the number of tokens of the call, not on the others' values nor its place. */
#include "suffix_sm90.cuh"

#include <string.h>

using namespace wg90;
using namespace sfx90;

namespace
{

constexpr int ROWS = 64, BLOCK_K = 64, HELPERS = 64, AHEAD = 2;
constexpr int BARS = 416; /* bytes */
constexpr float EPS = 1e-6f;

template <int T, int KS, int G> struct shape {
    static constexpr int consumers = G * 128, threads = consumers + 64 + HELPERS;
    static constexpr int w_bytes = G * ROWS * BLOCK_K * 2;
    static constexpr int J = T / 8,
                         JP = (J + KS - 1) / KS; /* groups of 8 tokens; a CTA finishes JP */
    static constexpr int x_bytes = T * BLOCK_K * 2;
    static constexpr int recv_bytes = KS > 1 ? G *KS *JP * 2048 : 0;
    static constexpr int facts_bytes = T * 4 + T * 8 + G * 4 * JP * 8 * 4; /* 1/rms, rows, sums */
    static constexpr int other = 1024 + BARS + facts_bytes + recv_bytes;
    /* Two CTAs of successive kernels on a processor, so that one's weights come while the other
     * works; a large tile takes the processor for itself. What is in flight sets the pace. */
    static constexpr int half = 115712 - other, pair = w_bytes + x_bytes;
    static constexpr bool fits = G == 1 && half >= 3 * pair;
    static constexpr int room = fits ? half : 232448 - other;
    static constexpr int x_most = T > 104 ? 4 : 8; /* more tokens at once come no sooner */
    static constexpr int x_stages = room / pair < x_most ? room / pair : x_most;
    static constexpr int w_fit = (room - x_stages * x_bytes) / w_bytes;
    static constexpr int w_most = T > 104 ? 8 : 16;
    static constexpr int w_stages = w_fit < w_most ? w_fit : w_most;
    static constexpr int smem = other + w_stages * w_bytes + x_stages * x_bytes;
    static_assert(w_stages >= 3 && smem <= 232448, "no ring");
};

struct args {
    int m, k_blocks, share;
    float *part;
    const float *shift;
    const struct cu_row *rows;
    const float2 *cos_sin;
    uint16_t *q, *kc, *vc, *y;
    int ldy;
    float *x;
    const float *bias, *gate, *gain;
};

static __device__ __forceinline__ void tma_load_5d(void *dst, const CUtensorMap *map, uint64_t *bar,
                                                   int c0, int c3, int c4)
{
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %6, %6, %4, %5}], [%2];" ::"r"(smem_u32(dst)),
                 "l"(map), "r"(smem_u32(bar)), "r"(c0), "r"(c3), "r"(c4), "r"(0)
                 : "memory");
}

/* Where this CTA works. */
struct place {
    int cr, kt, tile, token0, k0, k1;
    int end; /* tokens from here on are another tile's, or nobody's */

    template <int T, int KS> __device__ __forceinline__ void find(const args &g)
    {
        int size = g.share * KS, rank = size > 1 ? (int)cluster_ctarank() : 0;
        cr = rank % g.share;
        kt = rank / g.share;
        tile = (int)blockIdx.x / size * g.share + cr;
        token0 = (int)blockIdx.y * T;
        end = token0 + T < g.m ? token0 + T : g.m;
        k0 = g.k_blocks * kt / KS;
        k1 = g.k_blocks * (kt + 1) / KS;
    }
};

struct bars {
    uint64_t w_full[16], w_empty[16], x_full[8], x_empty[8], parts;
    int go; /* the predecessor has finished */
};
static_assert(sizeof(bars) <= BARS, "room for the barriers");

/* ---------------------------------------------------------------- producers */

/* Weights wait for nobody but the ring. Until the predecessor has finished, AHEAD stages are in flight
 * and no more: a burst would delay its own small reads. */
template <int MODE, int T, int KS, int G>
static __device__ __forceinline__ void produce_weights(const CUtensorMap *map, unsigned char *ring,
                                                       bars *b, const place &p)
{
    using S = shape<T, KS, G>;
    for (int k = 0; k < p.k1 - p.k0; k++) {
        int s = k % S::w_stages, round = k / S::w_stages;
        if (round)
            mbar_wait(&b->w_empty[s], (round - 1) & 1);
        else if (k >= AHEAD)
            while (!*(volatile int *)&b->go && !mbar_try(&b->w_full[k - AHEAD], 0))
                ;
        mbar_expect(&b->w_full[s], S::w_bytes);
#pragma unroll
        for (int q = 0; q < G; q++) {
            unsigned char *to = ring + s * S::w_bytes + q * (S::w_bytes / G);
            int tile = p.tile * G + q;
            if (MODE == SFX90_QKV)
                tma_load_5d(to, map, &b->w_full[s], (p.k0 + k) * BLOCK_K, tile % 4 * 4, tile / 4);
            else
                tma_load_2d(to, map, &b->w_full[s], (p.k0 + k) * BLOCK_K, tile * ROWS);
        }
    }
}

/* The CTAs that share tokens take turns: who has the turn fills the stage of all. */
template <int T, int KS, int G>
static __device__ __forceinline__ void produce_tokens(const CUtensorMap *map, unsigned char *ring,
                                                      bars *b, const place &p, int share)
{
    using S = shape<T, KS, G>;
    pdl_wait();
    *(volatile int *)&b->go = 1;
    for (int k = 0; k < p.k1 - p.k0; k++) {
        int s = k % S::x_stages, round = k / S::x_stages;
        if (round)
            mbar_wait(&b->x_empty[s], (round - 1) & 1);
        mbar_expect(&b->x_full[s], S::x_bytes);
        if (share == 1)
            tma_load_2d(ring + s * S::x_bytes, map, &b->x_full[s], (p.k0 + k) * BLOCK_K, p.token0);
        else if (k % share == p.cr)
            tma_load_2d_multicast(ring + s * S::x_bytes, map, &b->x_full[s], (p.k0 + k) * BLOCK_K,
                                  p.token0, (uint16_t)(((1 << share) - 1) << (p.kt * share)));
    }
}

/* ---------------------------------------------------------------- consumers */

template <int T, int KS, int G>
static __device__ __forceinline__ void main_loop(float (&d)[T / 2], const unsigned char *ws,
                                                 const unsigned char *xs, bars *b, const place &p,
                                                 int share)
{
    using S = shape<T, KS, G>;
    int n = p.k1 - p.k0, q = (int)threadIdx.x / 128, i = threadIdx.x % 128;
    for (int k = 0; k < n; k++) {
        int sw = k % S::w_stages, sx = k % S::x_stages;
        mbar_wait(&b->w_full[sw], k / S::w_stages & 1);
        mbar_wait(&b->x_full[sx], k / S::x_stages & 1);
        uint64_t a = desc_k128(ws + sw * S::w_bytes + q * (S::w_bytes / G)),
                 t = desc_k128(xs + sx * S::x_bytes);
        wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < BLOCK_K / 16; kk++)
            mma<T>(d, a + 2 * kk, t + 2 * kk, k | kk);
        wgmma_commit();
        wgmma_wait<1>(); /* the stages before these have been read */
        int done = k - 1;
        if (done >= 0) { /* told only to producers that wait for it */
            if (done + S::w_stages < n && i == 0)
                mbar_arrive(&b->w_empty[done % S::w_stages]);
            if (done + S::x_stages < n && i < share) {
                uint64_t *e = &b->x_empty[done % S::x_stages];
                if (share == 1)
                    mbar_arrive(e);
                else
                    mbar_arrive_cluster(e, (uint32_t)(p.kt * share + i));
            }
        }
    }
    wgmma_wait<0>();
}

/* The four warps of 64 weight rows. */
static __device__ __forceinline__ void group_sync(void)
{
    asm volatile("bar.sync %0, 128;" ::"r"((int)threadIdx.x / 128 + 3) : "memory");
}

/* Every CTA of the K split sends each group of 8 tokens to the CTA that finishes it, itself included. */
template <int T, int KS, int G>
static __device__ __forceinline__ void exchange(const float (&d)[T / 2], unsigned char *recv,
                                                uint64_t *bar, const place &p, int share)
{
    using S = shape<T, KS, G>;
#pragma unroll
    for (int o = 0; o < KS; o++) {
        uint32_t rank = (uint32_t)(o * share + p.cr), rb = mapa(bar, rank);
        uint32_t to = mapa(recv + p.kt * S::JP * G * 2048 + threadIdx.x * 16, rank);
#pragma unroll
        for (int j = o * S::JP; j < (o + 1) * S::JP && j < S::J; j++)
            st_async(to + (j - o * S::JP) * G * 2048, d[4 * j], d[4 * j + 1], d[4 * j + 2],
                     d[4 * j + 3], rb);
    }
    mbar_wait_cluster(bar, 0);
}

template <int T, int KS, int G>
static __device__ __forceinline__ void add_parts(float (&acc)[shape<T, KS, G>::JP * 4],
                                                 const unsigned char *recv)
{
    using S = shape<T, KS, G>;
    const float4 *at = (const float4 *)recv + threadIdx.x;
#pragma unroll
    for (int i = 0; i < S::JP; i++) {
        float4 s = at[i * G * 128];
#pragma unroll
        for (int r = 1; r < KS; r++) {
            float4 t = at[(r * S::JP + i) * G * 128];
            s.x += t.x, s.y += t.y, s.z += t.z, s.w += t.w;
        }
        acc[4 * i] = s.x, acc[4 * i + 1] = s.y, acc[4 * i + 2] = s.z, acc[4 * i + 3] = s.w;
    }
}

/* Consumers wait for the helpers' facts. */
static __device__ __forceinline__ void facts_wait(void)
{
    asm volatile("bar.sync 2, %0;" ::"r"((int)blockDim.x - 64) : "memory");
}
static __device__ __forceinline__ void facts_ready(void)
{
    asm volatile("bar.arrive 2, %0;" ::"r"((int)blockDim.x - 64) : "memory");
}

/* Helpers: 1/rms of the tile's tokens from their parts, one thread a token. */
template <int T>
static __device__ __forceinline__ void gather_rms(const args &g, const place &p, float *inv)
{
    for (int t = (int)threadIdx.x - (int)blockDim.x + HELPERS; t < T; t += HELPERS) {
        float v = 0.f;
        if (p.token0 + t < p.end) {
            const float4 *at = (const float4 *)(g.part + (size_t)(p.token0 + t) * SFX90_PARTS);
            float4 a[SFX90_PARTS / 4];
#pragma unroll
            for (int i = 0; i < SFX90_PARTS / 4; i++)
                a[i] = __ldcg(at + i);
#pragma unroll
            for (int i = 0; i < SFX90_PARTS / 4; i++)
                v += (a[i].x + a[i].y) + (a[i].z + a[i].w);
            v = rsqrtf(v * (1.0f / SFX90_WIDTH) + EPS);
        }
        inv[t] = v;
    }
}

static __device__ __forceinline__ void store_u32_if(int yes, void *p, uint32_t v)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n"
                 "@p st.global.b32 [%1], %2;\n}" ::"r"(yes),
                 "l"(p), "r"(v)
                 : "memory");
}

/* Angles of M groups of 8 tokens from `local` on: this thread's dims i and i + 128 (lane/4) of tokens
 * lane%4·2 and the next of each group. */
template <int M>
static __device__ __forceinline__ void load_angles(float2 (&cs)[M][2], const args &g,
                                                   const place &p, int local, const int2 *where,
                                                   int groups)
{
    int warp = (int)threadIdx.x / 32 % 4, lane = threadIdx.x % 32, head = p.tile / 4;
    int i = p.tile % 4 * 32 + warp * 8 + lane / 4;
#pragma unroll
    for (int a = 0; a < M && a < groups; a++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int t = local + 8 * a + lane % 4 * 2 + e;
            cs[a][e] = make_float2(1.f, 0.f);
            if (head < SFX90_HEADS + 1 && p.token0 + t < p.end)
                cs[a][e] = g.cos_sin[(size_t)where[t].y * 128 + i];
        }
}

/* Groups j0 … of d to q or the cache; stored after a transpose: token lane/4, dims lane%4·2 and the next. */
template <int M, int N>
static __device__ __forceinline__ void
finish_qkv(const float (&d)[N], int j0, const float2 (&cs)[M][2], const args &g, const place &p,
           int local, const float *inv, const int2 *where)
{
    int warp = (int)threadIdx.x / 32 % 4, lane = threadIdx.x % 32, head = p.tile / 4;
    int i0 = p.tile % 4 * 32 + warp * 8, i = i0 + lane / 4;
    float b0 = 0.f, b1 = 0.f;
    if (g.shift) {
        b0 = g.shift[head * 256 + i];
        b1 = g.shift[head * 256 + 128 + i];
    }
#pragma unroll
    for (int a = 0; a < M && j0 + a < N / 4; a++) {
        int x = 4 * (j0 + a), t = local + 8 * a + lane % 4 * 2;
        float lo[2], hi[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float u = fmaf(d[x + e], inv[t + e], b0), v = fmaf(d[x + 2 + e], inv[t + e], b1);
            float2 c = cs[a][e];
            lo[e] = u * c.x - v * c.y;
            hi[e] = v * c.x + u * c.y;
        }
        uint32_t l = movmatrix(pack_bf16(lo[0], lo[1]));
        uint32_t h = movmatrix(pack_bf16(hi[0], hi[1]));
        int mine = local + 8 * a + lane / 4, yes = p.token0 + mine < p.end;
        uint16_t *to;
        if (head < SFX90_HEADS)
            to = g.q + (size_t)(p.token0 + mine) * (SFX90_HEADS * 256) + head * 256;
        else
            to = (head == SFX90_HEADS ? g.kc : g.vc) + (size_t)(yes ? where[mine].x : 0) * 256;
        to += i0 + lane % 4 * 2;
        store_u32_if(yes, to, l);
        store_u32_if(yes, to + 128, h);
    }
}

/* A whole tile: angles of four groups at a time. */
template <int T>
static __device__ __forceinline__ void finish_qkv_tile(const float (&d)[T / 2], const args &g,
                                                       const place &p, const float *inv,
                                                       const int2 *where)
{
    constexpr int M = 4;
#pragma unroll
    for (int j = 0; j < T / 8; j += M) {
        float2 cs[M][2];
        load_angles<M>(cs, g, p, 8 * j, where, T / 8 - j);
        finish_qkv<M>(d, j, cs, g, p, 8 * j, inv, where);
    }
}

/* 0.5 z (1 + tanh u) = z / (1 + e^-2u), u = sqrt(2/π)(z + 0.044715 z³) */
static __device__ __forceinline__ float gelu(float z)
{
    float u = z * fmaf(0.044715f * 0.7978845608f, z * z, 0.7978845608f);
    return z * rcp(1.0f + ex2(-2.0f * 1.4426950409f * u));
}

template <int N>
static __device__ __forceinline__ void finish_geglu(const float (&d)[N], const args &g,
                                                    const place &p, const float *inv)
{
    int warp = (int)threadIdx.x / 32 % 4, lane = threadIdx.x % 32, row = p.tile * ROWS + warp * 16;
    float b0 = 0.f, b1 = 0.f;
    if (g.shift) {
        b0 = g.shift[row + lane / 4];
        b1 = g.shift[row + 8 + lane / 4];
    }
    uint16_t *y = g.y + (size_t)(p.token0 + lane / 4) * g.ldy + row / 2 + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
        float2 r = *(const float2 *)(inv + 8 * j + lane % 4 * 2);
        float a = gelu(fmaf(d[4 * j], r.x, b0)) * fmaf(d[4 * j + 2], r.x, b1);
        float b = gelu(fmaf(d[4 * j + 1], r.y, b0)) * fmaf(d[4 * j + 3], r.y, b1);
        store_u32_if(p.token0 + 8 * j + lane / 4 < p.end, y + (size_t)(8 * j) * g.ldy,
                     movmatrix(pack_bf16(a, b)));
    }
}

/* The residual of this thread's values: rows lane/4 and +8 of tokens 8j + lane%4·2 and the next. */
template <int N>
static __device__ __forceinline__ void load_x(float (&x)[N], const args &g, const place &p,
                                              int local0)
{
    int warp = (int)threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const float *at = g.x + p.tile * ROWS + warp * 16 + lane / 4;
#pragma unroll
    for (int j = 0; j < N / 4; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int t = p.token0 + local0 + 8 * j + lane % 4 * 2 + e;
            x[4 * j + e] = t < p.end ? __ldcg(at + (size_t)t * SFX90_WIDTH) : 0.f;
            x[4 * j + 2 + e] = t < p.end ? __ldcg(at + (size_t)t * SFX90_WIDTH + 8) : 0.f;
        }
}

template <int N>
static __device__ __forceinline__ void
finish_add(const float (&d)[N], const float (&x)[N], const float (&gate)[2], const float (&gain)[2],
           const args &g, const place &p, int local0, float *sums)
{
    int warp = (int)threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    int row = p.tile * ROWS + warp * 16;
    sums += threadIdx.x / 128 * (8 * N);
    float *at = g.x + row + lane / 4;
    uint16_t *y = g.y + row + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
        float v[4], s[2];
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = fmaf(d[4 * j + i], gate[i / 2], x[4 * j + i]);
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int t = p.token0 + local0 + 8 * j + lane % 4 * 2 + e;
            if (t < p.end) {
                at[(size_t)t * SFX90_WIDTH] = v[e];
                at[(size_t)t * SFX90_WIDTH + 8] = v[2 + e];
            }
            s[e] = fmaf(v[e], v[e], v[2 + e] * v[2 + e]);
#pragma unroll
            for (int i = 4; i < 32; i *= 2)
                s[e] += __shfl_xor_sync(~0u, s[e], i);
        }
        if (lane < 4)
            *(float2 *)(sums + warp * (2 * N) + 8 * j + lane * 2) = make_float2(s[0], s[1]);
        uint32_t lo = movmatrix(pack_bf16(v[0] * gain[0], v[1] * gain[0]));
        uint32_t hi = movmatrix(pack_bf16(v[2] * gain[1], v[3] * gain[1]));
        int t = p.token0 + local0 + 8 * j + lane / 4;
        uint16_t *to = y + (size_t)t * SFX90_WIDTH;
        store_u32_if(t < p.end, to, lo);
        store_u32_if(t < p.end, to + 8, hi);
    }
    group_sync();
    for (int i = threadIdx.x % 128; i < 2 * N; i += 128) {
        int t = p.token0 + local0 + i;
        float s = (sums[i] + sums[2 * N + i]) + (sums[4 * N + i] + sums[6 * N + i]);
        if (t < p.end)
            g.part[(size_t)t * SFX90_PARTS + p.tile] = s;
    }
}

template <int MODE, int T, int KS, int G>
__global__ void __launch_bounds__(shape<T, KS, G>::threads)
    suffix_bf16_sm90(const __grid_constant__ CUtensorMap w_map,
                     const __grid_constant__ CUtensorMap x_map, const args g)
{
    using S = shape<T, KS, G>;
    extern __shared__ unsigned char raw[];
    unsigned char *xs = raw + (-smem_u32(raw) & 1023), *ws = xs + S::x_stages * S::x_bytes;
    unsigned char *recv = ws + S::w_stages * S::w_bytes;
    bars *b = (bars *)(recv + S::recv_bytes);
    int2 *where = (int2 *)((unsigned char *)b + BARS);
    float *inv = (float *)(where + T), *sums = inv + T;
    place p = {};
    p.find<T, KS>(g);
    if (threadIdx.x == S::consumers)
        prefetch_tensormap(&w_map);
    if (threadIdx.x == S::consumers + 32)
        prefetch_tensormap(&x_map);
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::w_stages; i++) {
            mbar_init(&b->w_full[i], 1);
            mbar_init(&b->w_empty[i], G);
        }
        for (int i = 0; i < S::x_stages; i++) {
            mbar_init(&b->x_full[i], 1);
            mbar_init(&b->x_empty[i], (uint32_t)(g.share * G));
        }
        mbar_init(&b->parts, 1);
        b->go = 0;
        int mine = S::J - p.kt * S::JP;
        mine = mine < 0 ? 0 : mine < S::JP ? mine : S::JP;
        if (KS > 1)
            mbar_expect(&b->parts, (uint32_t)(G * KS * mine * 2048));
        fence_mbar_init();
    }
    if (g.share * KS > 1)
        cluster_sync_relaxed(); /* the peers' barriers exist before anything is sent to them */
    else
        __syncthreads();
    pdl_launch();
    if (threadIdx.x >= S::consumers) {
        if (threadIdx.x == S::consumers)
            produce_weights<MODE, T, KS, G>(&w_map, ws, b, p);
        else if (threadIdx.x == S::consumers + 32)
            produce_tokens<T, KS, G>(&x_map, xs, b, p, g.share);
        if (MODE != SFX90_ADD && threadIdx.x >= S::threads - HELPERS) {
            if (MODE == SFX90_QKV)
                for (int t = (int)threadIdx.x - (int)blockDim.x + HELPERS; t < T; t += HELPERS)
                    if (p.token0 + t < p.end)
                        where[t] = make_int2(g.rows[p.token0 + t].cache, g.rows[p.token0 + t].pos);
            pdl_wait();
            gather_rms<T>(g, p, inv);
            facts_ready();
        }
    } else {
        int local0 = p.kt * S::JP * 8, lane = threadIdx.x % 32;
        float d[T / 2], acc[S::JP * 4];
        p.tile = p.tile * G + (int)threadIdx.x / 128;
        if (MODE == SFX90_ADD) {
            float gate[2] = { 1.f, 1.f }, gain[2] = { 1.f, 1.f }, x[S::JP * 4];
            int row = p.tile * ROWS + (int)threadIdx.x / 32 % 4 * 16 + lane / 4;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                if (g.gate)
                    gate[i] = g.gate[row + 8 * i];
                if (g.gain)
                    gain[i] += g.gain[row + 8 * i];
            }
            pdl_wait();
            if (!g.bias) {
                load_x(x, g, p, local0);
            } else {
                float b0 = g.bias[row], b1 = g.bias[row + 8];
#pragma unroll
                for (int j = 0; j < S::JP; j++)
                    x[4 * j] = x[4 * j + 1] = b0, x[4 * j + 2] = x[4 * j + 3] = b1;
            }
            main_loop<T, KS, G>(d, ws, xs, b, p, g.share);
            exchange<T, KS, G>(d, recv, &b->parts, p, g.share);
            add_parts<T, KS, G>(acc, recv);
            finish_add(acc, x, gate, gain, g, p, local0, sums);
        } else {
            pdl_wait(); /* y may still be read by the kernel before */
            main_loop<T, KS, G>(d, ws, xs, b, p, g.share);
            facts_wait();
            if constexpr (MODE == SFX90_QKV && KS > 1) {
                float2 cs[S::JP][2];
                load_angles<S::JP>(cs, g, p, local0, where, S::JP);
                exchange<T, KS, G>(d, recv, &b->parts, p, g.share);
                add_parts<T, KS, G>(acc, recv);
                finish_qkv<S::JP>(acc, 0, cs, g, p, local0, inv, where);
            } else {
                static_assert(KS == 1 || MODE != SFX90_GEGLU, "gate and up are not split");
                if (MODE == SFX90_QKV)
                    finish_qkv_tile<T>(d, g, p, inv, where);
                else
                    finish_geglu(d, g, p, inv);
            }
        }
    }
}

/* ---------------------------------------------------------------- launchers */

template <int MODE, int T, int KS, int G>
cudaError_t launch(const struct sfx90_gemm *g, cudaStream_t s)
{
    using S = shape<T, KS, G>;
    cudaError_t e = prepare((const void *)suffix_bf16_sm90<MODE, T, KS, G>, S::smem);
    if (e != cudaSuccess)
        return e;
    args a = {};
    a.m = g->m;
    a.k_blocks = g->k / BLOCK_K;
    a.share = g->tile.share;
    a.part = g->part;
    a.shift = g->shift;
    a.rows = g->rows;
    a.cos_sin = (const float2 *)g->cos_sin;
    a.q = g->q;
    a.kc = g->kc;
    a.vc = g->vc;
    a.y = g->y;
    a.ldy = g->n / 2;
    a.x = g->x;
    a.bias = g->bias;
    a.gate = g->gate;
    a.gain = g->gain;
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[0].val.programmaticStreamSerializationAllowed = 1;
    attr[1].id = cudaLaunchAttributeClusterDimension;
    attr[1].val.clusterDim.x = (unsigned)(KS * a.share);
    attr[1].val.clusterDim.y = attr[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = dim3((unsigned)(g->n / (ROWS * G) * KS), (unsigned)((g->m + T - 1) / T));
    cfg.blockDim = dim3(S::threads);
    cfg.dynamicSmemBytes = S::smem;
    cfg.stream = s;
    cfg.attrs = attr;
    cfg.numAttrs = 2;
    return cudaLaunchKernelEx(&cfg, suffix_bf16_sm90<MODE, T, KS, G>, g->w_map, g->x_map, a);
}

template <int MODE, int T> cudaError_t by_split(const struct sfx90_gemm *g, cudaStream_t s)
{
    if (g->tile.groups == 2) {
        if constexpr ((MODE == SFX90_QKV && T >= 104) || (MODE == SFX90_GEGLU && T >= 80))
            return g->tile.split == 1 ? launch<MODE, T, 1, 2>(g, s) : cudaErrorInvalidValue;
        if constexpr (MODE == SFX90_ADD && T >= 80 && T <= 104)
            return g->tile.split == 8 ? launch<MODE, T, 8, 2>(g, s) : cudaErrorInvalidValue;
        return cudaErrorInvalidValue;
    }
    switch (g->tile.split) {
    case 1:
        if constexpr (MODE != SFX90_ADD)
            return launch<MODE, T, 1, 1>(g, s);
        break;
    case 2:
        if constexpr (MODE != SFX90_GEGLU)
            return launch<MODE, T, 2, 1>(g, s);
        break;
    case 4:
        if constexpr (MODE == SFX90_ADD)
            return launch<MODE, T, 4, 1>(g, s);
        break;
    case 8:
        if constexpr (MODE == SFX90_ADD && T <= 104)
            return launch<MODE, T, 8, 1>(g, s);
        break;
    }
    return cudaErrorInvalidValue;
}

template <int MODE> cudaError_t by_tokens(const struct sfx90_gemm *g, cudaStream_t s)
{
    switch (g->tile.tokens) {
    case 24: return by_split<MODE, 24>(g, s);
    case 48: return by_split<MODE, 48>(g, s);
    case 56: return by_split<MODE, 56>(g, s);
    case 80: return by_split<MODE, 80>(g, s);
    case 88: return by_split<MODE, 88>(g, s);
    case 104: return by_split<MODE, 104>(g, s);
    case 160: return by_split<MODE, 160>(g, s);
    case 176: return by_split<MODE, 176>(g, s);
    case 208: return by_split<MODE, 208>(g, s);
    }
    return cudaErrorInvalidValue;
}

/* wqkv as [head][group of 8 dims][half][8][k]: a box holds dims i … i + 31 and their RoPE partners. */
CUresult encode_qkv(tensor_map_encode_fn encode, CUtensorMap *map, const void *base, int n, int k)
{
    cuuint64_t row = (cuuint64_t)k * 2;
    cuuint64_t dims[5] = { (cuuint64_t)k, 8, 2, 16, (cuuint64_t)(n / 256) };
    cuuint64_t stride[4] = { row, 128 * row, 8 * row, 256 * row };
    cuuint32_t box[5] = { BLOCK_K, 8, 2, 4, 1 }, step[5] = { 1, 1, 1, 1, 1 };
    return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, (void *)(uintptr_t)base, dims, stride,
                  box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

} // namespace

extern "C" struct sfx90_tile sfx90_tile(enum sfx90_mode mode, int rows, int n_sm)
{
    static const int sizes[] = { 24, 48, 56, 80, 88, 104, 160, 176, 208 };
    struct sfx90_tile t = { 0, 1, 1, 1 };
    long best = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        long tiles = (rows + sizes[i] - 1) / sizes[i], cost = tiles * (sizes[i] + 24);
        if (!t.tokens || cost < best) {
            t.tokens = sizes[i];
            best = cost;
        }
    }
    int tiles = (rows + t.tokens - 1) / t.tokens;
    int rows_of = mode == SFX90_QKV ? 40 : mode == SFX90_GEGLU ? 128 : 16;
    if (mode == SFX90_QKV)
        t.split = rows_of * tiles * 2 <= n_sm ? 2 : 1;
    if (mode == SFX90_ADD) {
        t.split = t.tokens <= 104 ? 8 : 4;
        while (t.split > 2 && rows_of * tiles * t.split > n_sm)
            t.split /= 2;
    }
    /* Larger tiles of weights read their tokens once for 128 rows: what counts from 80 tokens on. */
    if (mode == SFX90_QKV && tiles > 1 && t.tokens >= 104) {
        t.groups = 2;
        t.split = 1;
    }
    if (mode == SFX90_GEGLU && (tiles > 1 ? t.tokens >= 104 : t.tokens >= 80))
        t.groups = 2;
    if (mode == SFX90_ADD && t.split == 8 && t.tokens >= 80)
        t.groups = 2;
    if (mode == SFX90_GEGLU && tiles > 1)
        t.share = 2;
    return t;
}

extern "C" CUresult sfx90_gemm_plan(struct sfx90_gemm *g, tensor_map_encode_fn encode,
                                    const void *xin, const void *w)
{
    CUresult r = tensor_map_2d(encode, &g->x_map, xin, g->m, g->k, g->k, g->tile.tokens);
    if (r != CUDA_SUCCESS)
        return r;
    return g->mode == SFX90_QKV ? encode_qkv(encode, &g->w_map, w, g->n, g->k)
                                : tensor_map_2d(encode, &g->w_map, w, g->n, g->k, g->k, ROWS);
}

extern "C" cudaError_t sfx90_gemm_launch(const struct sfx90_gemm *g, cudaStream_t s)
{
    switch (g->mode) {
    case SFX90_QKV: return by_tokens<SFX90_QKV>(g, s);
    case SFX90_GEGLU: return by_tokens<SFX90_GEGLU>(g, s);
    case SFX90_ADD: return by_tokens<SFX90_ADD>(g, s);
    }
    return cudaErrorInvalidValue;
}
