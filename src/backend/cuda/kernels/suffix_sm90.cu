/* SPDX-License-Identifier: Apache-2.0
 * suffix_bf16_sm90: the products of the action expert for a batch, everything between them fused in:
 *     qkv:       1/rms, (+ W·shift), RoPE, K and V into the cache
 *     gate·up:   1/rms, (+ W·shift), h = gelu(gate) · up
 *     o, down:   x += (gate ⊙) acc; xg = bf16(x ⊙ gain); Σx² of the next RMSNorm
 * Called by: denoise_enqueue, batches; M = 20 … 700 tokens, 180 times each a call of ten steps. Long
 *            because it is one kernel: one main loop and four epilogues that share its registers and rings.
 * Tiling:    64 weight rows on the wgmma M side, T tokens on N, K in stages of 64: one ring for the
 *            weights, one for the tokens. A cluster of KS × CR CTAs: KS pieces of K are added through
 *            distributed shared memory in rank order, CR row tiles share their tokens by multicast.
 *            G = 2: 128 weight rows a CTA, the tokens read once. H = 2: two warpgroups take turns at the
 *            blocks of K and add up through shared memory: half of what two CTAs would send.
 *
 *              warps 0 … 4·G·H - 1: consumers, then: weights, tokens, two of 1/rms
 *              64 rows:  qkv      4 × (8 rows i …, 8 rows i + 128 …): a RoPE pair in one thread
 *                        gate·up  4 × (8 gates, 8 ups): a unit in one thread
 *              KS > 1:   CTA r finishes tokens [8·r·JP, 8·(r + 1)·JP) of the tile
 *
 *            Copies come from a lane elected under a warp number that is the same in all lanes, stages are
 *            constants of an unrolled loop: what depends on a thread's number or on a remainder costs more
 *            than the products of few tokens.
 * Long because four products share rings, loop, exchange and launchers.
 * Budget:    a layer's four products read 34.6 MB of weights → bound by memory, 7.5 µs at 4.6 TB/s up
 *            to some 250 tokens; behind that by arithmetic.
 * Now:       µs a launch in a chain of its kind, weights from memory, qkv, o, gate·up, down: 2.8, 2.8, 4.6, 3.4 at 20
 *            tokens; 3.0, 3.4, 5.3, 4.5 at 50; 3.8, 4.0, 6.3, 5.2 at 80; 12.3, 9.3, 22, 13.7 at 640. A layer with its
 *            attention 19.0, 22.2, 27.5 and 82.7: check_suffix_sm90 --bench, NVIDIA H200, 2026-11-22.
 * Rounding:  one at each bf16 store; sums, residual, norms and RoPE in float32. A token's bits depend
 *            on the number of tokens of the call, not on the others' values nor its place. */
#include "suffix_sm90.cuh"

#include <stddef.h>
#include <string.h>

using namespace wg90;
using namespace sfx90;

namespace
{

/* Two warpgroups that take turns at K: the first one sends groups of 8 tokens before this one. */
static __host__ __device__ constexpr int half_of(int groups) { return (groups + 1) / 2; }

constexpr int ROWS = 64, BLOCK_K = 64, HELPERS = 64;
constexpr int BARS = 544; /* bytes */
constexpr float EPS = 1e-6f;

/* T tokens, K in KS pieces, G groups of 64 weight rows, H warpgroups that take turns at the blocks of K; KB
 * blocks of K a CTA if the loop over them is unrolled, or 0. */
template <int T, int KS, int G, int H, int KB> struct shape {
    static_assert(G == 1 || H == 1, "rows or turns");
    static constexpr int consumers = G * H * 128, threads = consumers + 64 + HELPERS;
    static constexpr int w_bytes = G * ROWS * BLOCK_K * 2;
    static constexpr int J = T / 8,
                         JP = (J + KS - 1) / KS; /* groups of 8 tokens; a CTA finishes JP */
    static constexpr int JF = (JP + H - 1) / H;  /* of those a warpgroup, with turns at K */
    static constexpr int x_bytes = T * BLOCK_K * 2;
    static constexpr int recv_bytes = KS > 1 ? G *KS *JP * 2048 : 0;
    /* Where tokens go and their angles: in registers, or their rows in shared memory. */
    static constexpr bool few = T <= 104 && KS * H > 1;
    static constexpr int where_bytes = few ? 0 : T * 8;
    static constexpr int swap_bytes = H > 1 ? J * 2048 : 0;
    static constexpr int facts_bytes =
        where_bytes + (T + 24) * 4 +
        G * H * 4 * JF * 8 * 4; /* 1/rms (read up to 24 beyond), sums */
    static constexpr int other = 1024 + BARS + facts_bytes + recv_bytes + swap_bytes;
    /* Two CTAs of successive kernels on a processor, so that one's weights come while the other
     * works; a large tile takes the processor for itself. What is in flight sets the pace. */
    static constexpr int half = 115712 - other, pair = w_bytes + x_bytes;
    static constexpr bool fits = G == 1 && H == 1 && half >= 3 * pair;
    static constexpr int room = fits ? half : 232448 - other;
    static constexpr int at_once = H > 1 ? 12 : T > 104 ? 4 : 8; /* more come no sooner */
    static constexpr int ahead = 2; /* stages of weights in flight beside the predecessor */
    static constexpr int x_cap = KB && KB < at_once ? KB : at_once;
    static constexpr int x_fit = room / pair < x_cap ? room / pair : x_cap;
    static constexpr int x_stages = x_fit / H * H;
    static constexpr int w_fit = (room - x_stages * x_bytes) / w_bytes;
    static constexpr int w_most = KB && KB < 16 ? KB : T > 104 ? 8 : 16;
    static constexpr int w_stages = (w_fit < w_most ? w_fit : w_most) / H * H;
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

static __device__ __forceinline__ void tma_load_5d(uint32_t dst, const CUtensorMap *map,
                                                   uint32_t bar, int c0, int c3, int c4)
{
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %6, %6, %4, %5}], [%2];" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(c0), "r"(c3), "r"(c4), "r"(0)
                 : "memory");
}

/* Where this CTA works: blocks k0 … k0 + n of K. */
struct place {
    int cr, kt, tile, token0, k0, n;
    int end; /* tokens from here on are another tile's, or nobody's */

    template <int T, int KS> __device__ __forceinline__ void find(const args &g)
    {
        int size = g.share * KS, rank = size > 1 ? (int)cluster_ctarank() : 0;
        cr = rank % g.share;
        kt = rank / g.share;
        tile = (int)blockIdx.x / size * g.share + cr;
        token0 = (int)blockIdx.y * T;
        end = token0 + T < g.m ? token0 + T : g.m;
        n = g.k_blocks / KS;
        k0 = n * kt;
    }
};

struct bars {
    uint64_t w_full[16], w_empty[16], x_full[16], x_empty[16], parts;
    int go; /* the predecessor has finished */
};
constexpr int W_EMPTY = offsetof(bars, w_empty) - offsetof(bars, w_full),
              X_EMPTY = offsetof(bars, x_empty) - offsetof(bars, x_full);
static_assert(sizeof(bars) <= BARS, "room for the barriers");

/* ---------------------------------------------------------------- producers */

/* Weights wait for nobody but the ring. Until the predecessor has finished, `ahead` stages are in flight
 * and no more: a burst would delay its own small reads. */
template <int MODE, int T, int KS, int G, int H, int KB>
static __device__ __forceinline__ void produce_weights(const CUtensorMap *map, uint32_t ring,
                                                       bars *b, const place &p)
{
    using S = shape<T, KS, G, H, KB>;
    uint32_t full = smem_u32(b->w_full), empty = smem_u32(b->w_empty);
    int c0 = p.k0 * BLOCK_K, stage = 0, parity = 1;
    for (int k = 0; k < p.n; k++) {
        if (k >= S::w_stages)
            mbar_wait(empty + stage * 8, (uint32_t)parity);
        else if (k >= S::ahead)
            while (!*(volatile int *)&b->go && !mbar_try(&b->w_full[k - S::ahead], 0))
                ;
        uint32_t to = ring + stage * S::w_bytes, bar = full + stage * 8;
        mbar_expect(bar, S::w_bytes);
#pragma unroll
        for (int q = 0; q < G; q++) {
            int tile = p.tile * G + q;
            if (MODE == SFX90_QKV)
                tma_load_5d(to + q * (S::w_bytes / G), map, bar, c0, tile % 4 * 4, tile / 4);
            else
                tma_load_2d(to + q * (S::w_bytes / G), map, bar, c0, tile * ROWS);
        }
        c0 += BLOCK_K;
        if (++stage == S::w_stages)
            stage = 0, parity ^= 1;
    }
}

/* The CTAs that share tokens take turns: who has the turn fills the stage of all. */
template <int T, int KS, int G, int H, int KB>
static __device__ __forceinline__ void produce_tokens(const CUtensorMap *map, uint32_t ring,
                                                      bars *b, const place &p, int share)
{
    using S = shape<T, KS, G, H, KB>;
    uint32_t full = smem_u32(b->x_full), empty = smem_u32(b->x_empty);
    int c0 = p.k0 * BLOCK_K, stage = 0, parity = 1, turn = 0;
    pdl_wait();
    *(volatile int *)&b->go = 1;
#pragma unroll 1
    for (int k = 0; k < p.n; k++) {
        if (k >= S::x_stages)
            mbar_wait(empty + stage * 8, (uint32_t)parity);
        uint32_t to = ring + stage * S::x_bytes, bar = full + stage * 8;
        mbar_expect(bar, S::x_bytes);
        if (share == 1)
            tma_load_2d(to, map, bar, c0, p.token0);
        else {
            if (turn == p.cr)
                tma_load_2d_multicast(to, map, bar, c0, p.token0,
                                      (uint16_t)(((1 << share) - 1) << (p.kt * share)));
            turn = turn + 1 == share ? 0 : turn + 1;
        }
        c0 += BLOCK_K;
        if (++stage == S::x_stages)
            stage = 0, parity ^= 1;
    }
}

/* ---------------------------------------------------------------- consumers */

template <int T, int KS, int G, int H, int KB>
static __device__ __forceinline__ void main_loop(float (&d)[T / 2], const unsigned char *ws,
                                                 const unsigned char *xs, bars *b, const place &p,
                                                 int share)
{
    using S = shape<T, KS, G, H, KB>;
    int group = G * H > 1 ? warp_uniform((int)threadIdx.x / 128) : 0, i = threadIdx.x % 128;
    int q = G > 1 ? group : 0, turn = H > 1 ? group : 0;
    /* Descriptors' low words: addresses of this warpgroup's first stage; the high words do not change. */
    uint32_t w0 = (uint32_t)desc_k128(ws + q * (S::w_bytes / G) + turn * S::w_bytes);
    uint32_t x0 = (uint32_t)desc_k128(xs + turn * S::x_bytes);
    const uint64_t high = desc_k128(nullptr) & 0xFFFFFFFF00000000u;
    uint32_t wf = smem_u32(&b->w_full[turn]), xf = smem_u32(&b->x_full[turn]);
    /* Block k of the first warpgroup, k + 1 of the second */
    auto block = [&](int k, int n, int sw, int pw, int sx, int px) {
        mbar_wait(wf + sw * 8, (uint32_t)pw);
        mbar_wait(xf + sx * 8, (uint32_t)px);
        uint32_t a = w0 + (uint32_t)sw * (S::w_bytes / 16),
                 t = x0 + (uint32_t)sx * (S::x_bytes / 16);
        wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < BLOCK_K / 16; kk++)
            mma<T>(d, high | (a + 2 * kk), high | (t + 2 * kk), k | kk);
        wgmma_commit();
        wgmma_wait<1>(); /* the stages before these have been read */
        if (k) {         /* told only to producers that wait for it */
            if (k - H + S::w_stages < n && i == 0)
                mbar_arrive(wf + (sw ? sw - H : S::w_stages - H) * 8 + W_EMPTY);
            if (k - H + S::x_stages < n && i < share) {
                int e = sx ? sx - H : S::x_stages - H;
                if (share == 1)
                    mbar_arrive(xf + e * 8 + X_EMPTY);
                else
                    mbar_arrive_cluster(&b->x_empty[turn + e], (uint32_t)(p.kt * share + i));
            }
        }
    };
    if constexpr (KB > 0) {
        static_assert(KB % H == 0, "whole turns");
#pragma unroll
        for (int k = 0; k < KB; k += H)
            block(k, KB, k % S::w_stages, k / S::w_stages & 1, k % S::x_stages,
                  k / S::x_stages & 1);
    } else {
        int sw = 0, sx = 0, pw = 0, px = 0;
#pragma unroll 1
        for (int k = 0; k < p.n; k += H) {
            block(k, p.n, sw, pw, sx, px);
            if ((sw += H) == S::w_stages)
                sw = 0, pw ^= 1;
            if ((sx += H) == S::x_stages)
                sx = 0, px ^= 1;
        }
    }
    wgmma_wait<0>();
}

/* What two warpgroups have added up of K, each its turns: the first one gets the sums of groups before J0,
 * the second one those of the others, at their places in d. */
template <int T, int KS, int G, int H, int KB>
static __device__ __forceinline__ void join_turns(float (&d)[T / 2], unsigned char *swap)
{
    using S = shape<T, KS, G, H, KB>;
    float4 *at = (float4 *)swap + threadIdx.x % 128;
    auto give = [&](int j) {
        at[j * 128] = make_float4(d[4 * j], d[4 * j + 1], d[4 * j + 2], d[4 * j + 3]);
    };
    auto take = [&](int j) {
        float4 v = at[j * 128];
        d[4 * j] += v.x, d[4 * j + 1] += v.y, d[4 * j + 2] += v.z, d[4 * j + 3] += v.w;
    };
    int turn = warp_uniform((int)threadIdx.x / 128);
    if (turn == 0) {
#pragma unroll
        for (int j = half_of(S::J); j < S::J; j++)
            give(j);
    } else {
#pragma unroll
        for (int j = 0; j < half_of(S::J); j++)
            give(j);
    }
    asm volatile("bar.sync 1, 256;" ::: "memory");
    if (turn == 0) {
#pragma unroll
        for (int j = 0; j < half_of(S::J); j++)
            take(j);
    } else {
#pragma unroll
        for (int j = half_of(S::J); j < S::J; j++)
            take(j);
    }
}

/* The four warps of 64 weight rows. */
static __device__ __forceinline__ void group_sync(void)
{
    asm volatile("bar.sync %0, 128;" ::"r"((int)threadIdx.x / 128 + 3) : "memory");
}

/* Every CTA of the K split sends each group of 8 tokens to the CTA that finishes it, itself included. */
template <int T, int KS, int G, int H, int KB>
static __device__ __forceinline__ void exchange(const float (&d)[T / 2], unsigned char *recv,
                                                uint64_t *bar, const place &p, int share)
{
    using S = shape<T, KS, G, H, KB>;
    auto send = [&](int first, int last) {
#pragma unroll
        for (int o = 0; o < KS; o++) {
            uint32_t rank = (uint32_t)(o * share + p.cr), rb = mapa(bar, rank);
            uint32_t to = mapa(recv + p.kt * S::JP * G * 2048 + threadIdx.x % (G * 128) * 16, rank);
#pragma unroll
            for (int j = o * S::JP; j < (o + 1) * S::JP && j < S::J; j++)
                if (j >= first && j < last)
                    st_async(to + (j - o * S::JP) * G * 2048, d[4 * j], d[4 * j + 1], d[4 * j + 2],
                             d[4 * j + 3], rb);
        }
    };
    if (H == 1)
        send(0, S::J);
    else if (warp_uniform((int)threadIdx.x / 128) == 0)
        send(0, half_of(S::J));
    else
        send(half_of(S::J), S::J);
    mbar_wait_cluster(bar, 0);
}

/* The JF groups that this warpgroup finishes. */
template <int T, int KS, int G, int H, int KB>
static __device__ __forceinline__ void add_parts(float (&acc)[shape<T, KS, G, H, KB>::JF * 4],
                                                 const unsigned char *recv)
{
    using S = shape<T, KS, G, H, KB>;
    int first = H > 1 ? (int)threadIdx.x / 128 * S::JF : 0;
    const float4 *at = (const float4 *)recv + threadIdx.x % (G * 128);
#pragma unroll
    for (int i = 0; i < S::JF; i++) {
        int j =
            H > 1 && first + i >= S::JP ? S::JP - 1 : first + i; /* the last one may have fewer */
        float4 s = at[j * G * 128];
#pragma unroll
        for (int r = 1; r < KS; r++) {
            float4 t = at[(r * S::JP + j) * G * 128];
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

/* (cache row, position) of token t of the call. */
static __device__ __forceinline__ int2 row_of(const args &g, int t)
{
    return make_int2(g.rows[t].cache, g.rows[t].pos);
}

/* What the end of QKV needs of M groups of 8 tokens from `local` on, none of it the predecessor's: angles
 * of this thread's dims i and i + 128 (lane/4) and tokens lane%4·2 and the next of each group; where token
 * lane/4 goes (0: nowhere), dims lane%4·2 and the next, after a transpose. */
template <int M> struct keep {
    float2 cs[M][2];
    uint16_t *to[M];
    float b0, b1;

    template <class F>
    __device__ __forceinline__ void find(const args &g, const place &p, int local, F where)
    {
        int warp = (int)threadIdx.x / 32 % 4, lane = threadIdx.x % 32, head = p.tile / 4;
        int i0 = p.tile % 4 * 32 + warp * 8, i = i0 + lane / 4;
        b0 = g.shift ? g.shift[head * 256 + i] : 0.f;
        b1 = g.shift ? g.shift[head * 256 + 128 + i] : 0.f;
#pragma unroll
        for (int a = 0; a < M; a++) {
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int t = p.token0 + local + 8 * a + lane % 4 * 2 + e;
                cs[a][e] = make_float2(1.f, 0.f);
                if (head < SFX90_HEADS + 1 && t < p.end)
                    cs[a][e] = g.cos_sin[(size_t)where(t).y * 128 + i];
            }
            int mine = p.token0 + local + 8 * a + lane / 4;
            to[a] = nullptr;
            if (mine < p.end) {
                uint16_t *at =
                    head < SFX90_HEADS
                        ? g.q + (size_t)mine * (SFX90_HEADS * 256) + head * 256
                        : (head == SFX90_HEADS ? g.kc : g.vc) + (size_t)where(mine).x * 256;
                to[a] = at + i0 + lane % 4 * 2;
            }
        }
    }
};

/* inv: of the first of d's tokens. */
template <int M, int N>
static __device__ __forceinline__ void finish_qkv(const float (&d)[N], const keep<M> &k,
                                                  const float *inv)
{
    int lane = threadIdx.x % 32;
    uint32_t out[M][2]; /* stores last: nothing moves past one */
#pragma unroll
    for (int a = 0; a < M; a++) {
        int x = 4 * a;
        float2 r = *(const float2 *)(inv + 8 * a + lane % 4 * 2);
        float lo[2], hi[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float n = e ? r.y : r.x;
            float u = fmaf(d[x + e], n, k.b0), v = fmaf(d[x + 2 + e], n, k.b1);
            float2 c = k.cs[a][e];
            lo[e] = u * c.x - v * c.y;
            hi[e] = v * c.x + u * c.y;
        }
        out[a][0] = pack_bf16(lo[0], lo[1]);
        out[a][1] = pack_bf16(hi[0], hi[1]);
    }
#pragma unroll
    for (int a = 0; a < M; a++)
        out[a][0] = movmatrix(out[a][0]), out[a][1] = movmatrix(out[a][1]);
#pragma unroll
    for (int a = 0; a < M; a++) {
        store_u32_if(k.to[a] != nullptr, k.to[a], out[a][0]);
        store_u32_if(k.to[a] != nullptr, k.to[a] + 128, out[a][1]);
    }
}

/* A whole tile: four groups at a time. */
template <int T>
static __device__ __forceinline__ void finish_qkv_tile(const float (&d)[T / 2], const args &g,
                                                       const place &p, const float *inv,
                                                       const int2 *where)
{
    constexpr int M = 4;
#pragma unroll
    for (int j = 0; j < T / 8; j += M) {
        keep<M> k;
        k.find(g, p, 8 * j, [&](int t) { return where[t - p.token0]; });
        float part[4 * M];
#pragma unroll
        for (int i = 0; i < 4 * M; i++)
            part[i] = 4 * j + i < T / 2 ? d[4 * j + i] : 0.f;
        finish_qkv<M>(part, k, inv + 8 * j);
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

template <int MODE, int T, int KS, int G, int H, int KB>
__global__ void __launch_bounds__(shape<T, KS, G, H, KB>::threads)
    suffix_bf16_sm90(const __grid_constant__ CUtensorMap w_map,
                     const __grid_constant__ CUtensorMap x_map, const args g)
{
    using S = shape<T, KS, G, H, KB>;
    extern __shared__ unsigned char raw[];
    unsigned char *xs = raw + (-smem_u32(raw) & 1023), *ws = xs + S::x_stages * S::x_bytes;
    unsigned char *recv = ws + S::w_stages * S::w_bytes;
    unsigned char *swap = recv + S::recv_bytes;
    bars *b = (bars *)(swap + S::swap_bytes);
    int2 *where = (int2 *)((unsigned char *)b + BARS);
    float *inv = (float *)((unsigned char *)where + S::where_bytes), *sums = inv + T + 24;
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
        int warp = warp_uniform(((int)threadIdx.x - S::consumers) / 32);
        if (warp == 0) {
            if (elect_one())
                produce_weights<MODE, T, KS, G, H, KB>(&w_map, smem_u32(ws), b, p);
        } else if (warp == 1) {
            if (elect_one())
                produce_tokens<T, KS, G, H, KB>(&x_map, smem_u32(xs), b, p, g.share);
        }
        if (MODE != SFX90_ADD && threadIdx.x >= S::threads - HELPERS) {
            if (MODE == SFX90_QKV && !S::few)
                for (int t = (int)threadIdx.x - (int)blockDim.x + HELPERS; t < T; t += HELPERS)
                    if (p.token0 + t < p.end)
                        where[t] = row_of(g, p.token0 + t);
            pdl_wait();
            gather_rms<T>(g, p, inv);
            facts_ready();
        }
    } else {
        int group = (int)threadIdx.x / 128, lane = threadIdx.x % 32;
        int local0 = (p.kt * S::JP + (H > 1 ? group * S::JF : 0)) * 8;
        float d[T / 2];
        p.tile = p.tile * G + (G > 1 ? group : 0);
        if (KS > 1 && p.token0 + (p.kt + 1) * S::JP * 8 < p.end)
            p.end = p.token0 + (p.kt + 1) * S::JP * 8; /* the others' from here on */
        if constexpr (MODE == SFX90_ADD) {
            float gate[2] = { 1.f, 1.f }, gain[2] = { 1.f, 1.f }, x[S::JF * 4], acc[S::JF * 4];
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
                for (int j = 0; j < S::JF; j++)
                    x[4 * j] = x[4 * j + 1] = b0, x[4 * j + 2] = x[4 * j + 3] = b1;
            }
            main_loop<T, KS, G, H, KB>(d, ws, xs, b, p, g.share);
            if constexpr (H > 1)
                join_turns<T, KS, G, H, KB>(d, swap);
            exchange<T, KS, G, H, KB>(d, recv, &b->parts, p, g.share);
            add_parts<T, KS, G, H, KB>(acc, recv);
            finish_add(acc, x, gate, gain, g, p, local0, sums);
        } else if constexpr (MODE == SFX90_QKV && KS * H > 1) {
            float acc[S::JF * 4];
            keep<S::JF> k;
            if (S::few)
                k.find(g, p, local0, [&](int t) { return row_of(g, t); });
            pdl_wait(); /* y may still be read by the kernel before */
            main_loop<T, KS, G, H, KB>(d, ws, xs, b, p, g.share);
            if constexpr (H > 1)
                join_turns<T, KS, G, H, KB>(d, swap);
            facts_wait();
            if (!S::few)
                k.find(g, p, local0, [&](int t) { return where[t - p.token0]; });
            if constexpr (KS > 1) {
                exchange<T, KS, G, H, KB>(d, recv, &b->parts, p, g.share);
                add_parts<T, KS, G, H, KB>(acc, recv);
            } else {
                int second = warp_uniform(group);
#pragma unroll
                for (int i = 0; i < S::JF * 4; i++)
                    acc[i] = second ? d[4 * half_of(S::J) + i < T / 2 ? 4 * half_of(S::J) + i : i]
                                    : d[i];
            }
            finish_qkv<S::JF>(acc, k, inv + local0);
        } else {
            static_assert(KS == 1 && H == 1, "gate and up are not split");
            pdl_wait();
            main_loop<T, KS, G, H, KB>(d, ws, xs, b, p, g.share);
            facts_wait();
            if constexpr (MODE == SFX90_QKV)
                finish_qkv_tile<T>(d, g, p, inv, where);
            else
                finish_geglu(d, g, p, inv);
        }
    }
}

/* ---------------------------------------------------------------- launchers */

template <int MODE, int T, int KS, int G, int H, int KB>
cudaError_t launch(const struct sfx90_gemm *g, cudaStream_t s)
{
    using S = shape<T, KS, G, H, KB>;
    cudaError_t e = prepare((const void *)suffix_bf16_sm90<MODE, T, KS, G, H, KB>, S::smem);
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
    return cudaLaunchKernelEx(&cfg, suffix_bf16_sm90<MODE, T, KS, G, H, KB>, g->w_map, g->x_map, a);
}

template <int MODE, int T> cudaError_t by_split(const struct sfx90_gemm *g, cudaStream_t s)
{
    /* Blocks of K of a product whose weights are 1024 wide, if the loop over them is unrolled */
    constexpr int few = T <= 104, all = few ? 16 : 0;
    int blocks = g->k / BLOCK_K;
    if (g->tile.turns == 2) {
        if constexpr (few && MODE == SFX90_QKV)
            return g->tile.split == 1 ? launch<MODE, T, 1, 1, 2, 16>(g, s) : cudaErrorInvalidValue;
        if constexpr (few && MODE == SFX90_ADD)
            return g->tile.split != 4 ? cudaErrorInvalidValue
                   : blocks == 32     ? launch<MODE, T, 4, 1, 2, 8>(g, s)
                   : blocks == 64     ? launch<MODE, T, 4, 1, 2, 16>(g, s)
                                      : launch<MODE, T, 4, 1, 2, 0>(g, s);
        return cudaErrorInvalidValue;
    }
    if (g->tile.groups == 2) {
        if constexpr ((MODE == SFX90_QKV && T >= 104) || MODE == SFX90_GEGLU)
            return g->tile.split == 1 ? launch<MODE, T, 1, 2, 1, all>(g, s) : cudaErrorInvalidValue;
        return cudaErrorInvalidValue;
    }
    switch (g->tile.split) {
    case 1:
        if constexpr (MODE != SFX90_ADD)
            return launch<MODE, T, 1, 1, 1, all>(g, s);
        break;
    case 2:
        if constexpr (MODE == SFX90_QKV)
            return launch<MODE, T, 2, 1, 1, all / 2>(g, s);
        if constexpr (MODE == SFX90_ADD)
            return launch<MODE, T, 2, 1, 1, 0>(g, s);
        break;
    case 4:
        if constexpr (MODE == SFX90_ADD)
            return launch<MODE, T, 4, 1, 1, 0>(g, s);
        break;
    case 8:
        if constexpr (MODE == SFX90_ADD && few)
            return blocks == 32   ? launch<MODE, T, 8, 1, 1, 4>(g, s)
                   : blocks == 64 ? launch<MODE, T, 8, 1, 1, 8>(g, s)
                                  : launch<MODE, T, 8, 1, 1, 0>(g, s);
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
    struct sfx90_tile t = { 0, 1, 1, 1, 1 };
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
    /* One tile of 48 to 104 tokens: two warpgroups that take turns at K do what two CTAs did. */
    int turns = tiles == 1 && t.tokens >= 48 && t.tokens <= 104;
    if (mode == SFX90_QKV && !turns)
        t.split = rows_of * tiles * 2 <= n_sm ? 2 : 1;
    if (mode == SFX90_ADD) {
        t.split = turns ? 4 : t.tokens <= 104 ? 8 : 4;
        while (t.split > 2 && rows_of * tiles * t.split > n_sm)
            t.split /= 2;
    }
    if (mode != SFX90_GEGLU && turns)
        t.turns = 2;
    /* Larger tiles of weights read their tokens once for 128 rows. */
    if (mode == SFX90_QKV && tiles > 1 && t.tokens >= 104) {
        t.groups = 2;
        t.split = 1;
    }
    if (mode == SFX90_GEGLU && (tiles == 1 || t.tokens >= 104))
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
