/* SPDX-License-Identifier: Apache-2.0
 * early_wide_bf16_sm90: early_sm90.h's layer for 17 to 56 tokens (a cluster of 4 CTAs), row-major weights.
 *     qkv (1/rms, + W·shift, RoPE, K and V into the cache) | attention | x += o | gate·up | x += down
 * Tiling:    every product is out^T = W · act^T by wgmma with both operands in shared memory: 64 rows of
 *            weights a warpgroup, tokens on N (56). A CTA owns a quarter of a product's rows. One stream of
 *            16 KB slots, filled by one thread with tensor maps, has all that two warpgroups consume, in
 *            order: 128 rows × 64 k of weights, in attention 64 keys × 128 dims of K or of V. It runs on
 *            through the ends of products; a second thread brings what the cluster has exchanged (q, o, h). A
 *            warpgroup has one head: 64 keys a round, scores K · qT, values VT · PT, a round's values
 *            under the next one's scores.
 * Budget:    34.6 MB of weights through four processors at some 97 bytes a nanosecond each: 90 µs.
 * Now:       161 µs for 51 tokens on 850 keys, 169 for 50 on 1018, the same beside 128 processors that read
 *            4.3 TB/s: check_early_sm90 --bench, NVIDIA H200, 2026-11-23.
 * Rounding:  as early_sm90.cu. Fixed order everywhere. */
#include "early_sm90.cuh"

namespace
{
using dn90::E, dn90::F, dn90::gelu, dn90::pack2, dn90::QD, dn90::W;
using wg90::store_u32_if;

constexpr int CTAS = EARLY90_CTAS, THREADS = 384, FED = 256; /* of them consume */
constexpr int T = EARLY90_MAX_ROWS, J = T / 8, N = T / 2;    /* tokens with padding */
constexpr int SLOT = 16384, HALF = SLOT / 2, RING = 6;
constexpr int SLAB = 64, KEYS = 64; /* k of a slot; keys of a round */
constexpr int CHUNK_K = 256, CHUNK = T * CHUNK_K * 2, CHUNKS = 4;
constexpr int P_BYTES = T * KEYS * 2, Q_BYTES = 2 * T * E * 2;
static_assert(CHUNKS * CHUNK == T * W * 2 && Q_BYTES + 4 * P_BYTES <= CHUNKS * CHUNK, "x, q and p");

struct smem {
    alignas(1024) uint8_t ring[RING * SLOT];
    uint8_t
        act[CHUNKS * CHUNK]; /* x, or chunks of o and h, or q of two heads and weights of keys */
    float top[2][4][T], sum[2][4][T]; /* attention: of a warp's keys */
    float sq[2][2][4][T];
    float inv[T];  /* 1 / rms */
    int2 where[T]; /* row of the cache, position */
    uint64_t full[RING], empty[RING], act_full[CHUNKS], act_empty[CHUNKS], q;
    uint64_t exchanged[4]; /* all CTAs have written q, k, v; o; x; h */
};
static_assert(sizeof(smem) <= 232448, "shared memory");
#define AT(field) (uint32_t) offsetof(smem, field)

PTX_INLINE void load(uint32_t to, const CUtensorMap *map, uint32_t bar, int c0, int c1)
{
    wg90::tma_load_2d(to, map, bar, c0, c1);
}
/* Weights leave L2 first: their next use is a step away. */
PTX_INLINE void load_once(uint32_t to, const CUtensorMap *map, uint32_t bar, int c0, int c1,
                          uint64_t pol)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
                 "l"(map), "r"(bar), "r"(c0), "r"(c1), "l"(pol)
                 : "memory");
}
PTX_INLINE void load_once_5d(uint32_t to, const CUtensorMap *map, uint32_t bar, int c0, int c3,
                             int c4, uint64_t pol)
{
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%3, %6, %6, %4, %5}], [%2], %7;" ::"r"(to),
                 "l"(map), "r"(bar), "r"(c0), "r"(c3), "r"(c4), "r"(0), "l"(pol)
                 : "memory");
}
/* Without a branch: one would stand between products. */
PTX_INLINE void arrive_if(bool yes, uint32_t bar)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n"
                 "@p mbarrier.arrive.shared::cta.b64 _, [%1];\n}" ::"r"((int)yes),
                 "r"(bar)
                 : "memory");
}
PTX_INLINE void sts_u64(uint32_t a, uint32_t lo, uint32_t hi)
{
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(a), "r"(lo), "r"(hi) : "memory");
}
/* A half slot, rows of 128 bytes with 128-byte swizzle; k or the rows along M. */
PTX_INLINE uint64_t desc_slot(uint32_t at)
{
    return ((at & 0x3FFFF) >> 4) | (uint64_t)1 << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

/* Both sides of the ring go through it in the same order. */
struct turn {
    int slot;
    uint32_t phase;
    __device__ __forceinline__ void next()
    {
        slot = slot + 1 == RING ? 0 : slot + 1;
        phase ^= slot == 0;
    }
};

struct keys {
    int kv_row, n_rows, valid, rounds; /* the last round is the suffix's */
};
__device__ __forceinline__ struct keys keys_of(const struct early90 &p)
{
    const struct cu_sample s = *p.sample;
    return { s.kv_row, s.n_rows, s.n_valid, (s.n_valid + KEYS - 1) / KEYS + 1 };
}

/* ---- one thread: the stream ---- */
__device__ __forceinline__ void feed(const struct early90 &p, const struct early90_maps &m,
                                     uint32_t base, int rank)
{
    const uint64_t pol = policy_evict_first();
    const struct keys n = keys_of(p);
    struct turn t = { 0, 0 };
    auto slot = [&](uint32_t &bar) {
        bar = base + AT(full) + t.slot * 8;
        mbar_wait(base + AT(empty) + t.slot * 8, t.phase ^ 1);
        mbar_expect(bar, SLOT);
        const uint32_t at = base + AT(ring) + t.slot * SLOT;
        t.next();
        return at;
    };
    uint32_t bar;
#pragma unroll 1
    for (int i = 0; i < 5; i++)
#pragma unroll 1
        for (int k = 0; k < W; k += SLAB) {
            const uint32_t at = slot(bar);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int tile = rank * 10 + i * 2 + h;
                load_once_5d(at + h * HALF, &m.qkv, bar, k, (tile & 3) * 4, tile >> 2, pol);
            }
        }
    auto block = [&](const CUtensorMap *map, int r) {
        const int row = n.kv_row + (r + 1 == n.rounds ? n.n_rows : r * KEYS);
#pragma unroll 1
        for (int h = 0; h < 2; h++) {
            const uint32_t at = slot(bar);
            load(at, map, bar, h * 128, row), load(at + HALF, map, bar, h * 128 + 64, row);
        }
    };
#pragma unroll 1
    for (int r = 0; r <= n.rounds; r++) { /* keys a round before their values */
        if (r + 1 == n.rounds) {
            wg90::mbar_wait_cluster((uint64_t *)__cvta_shared_to_generic(base + AT(exchanged)), 0);
            fence_proxy_async_all();
        }
        if (r < n.rounds)
            block(&m.k, r);
        if (r > 0)
            block(&m.v, r - 1);
    }
    auto tile = [&](const CUtensorMap *map, int k, int row) {
        const uint32_t at = slot(bar);
        load_once(at, map, bar, k, row, pol);
    };
#pragma unroll 1
    for (int k = 0; k < QD; k += SLAB)
        tile(&m.o, k, rank * 256), tile(&m.o, k, rank * 256 + 128);
#pragma unroll 1
    for (int i = 0; i < 16; i++)
#pragma unroll 1
        for (int k = 0; k < W; k += SLAB)
            tile(&m.gu, k, rank * 2048 + i * 128);
#pragma unroll 1
    for (int k = 0; k < F; k += SLAB)
        tile(&m.down, k, rank * 256), tile(&m.down, k, rank * 256 + 128);
}

/* ---- one thread: what the CTAs have exchanged ---- */
__device__ __forceinline__ void fetch(const struct early90 &p, uint32_t base, int rank)
{
    const uint32_t bytes = (uint32_t)p.rows * CHUNK_K * 2;
    auto wait = [&](int i) {
        wg90::mbar_wait_cluster((uint64_t *)__cvta_shared_to_generic(base + AT(exchanged) + i * 8),
                                0);
        fence_proxy_async_all();
    };
    wait(0);
    mbar_expect(base + AT(q), (uint32_t)p.rows * 2 * E * 2);
    bulk(base + AT(act), p.q + (size_t)rank * 2 * E * p.rows, (uint32_t)p.rows * 2 * E * 2,
         base + AT(q));
#pragma unroll 1
    for (int i = 0; i < QD / CHUNK_K + F / CHUNK_K; i++) {
        const int first = i < QD / CHUNK_K ? 0 : QD / CHUNK_K, slot = i % CHUNKS;
        const uint16_t *in = first ? p.h : p.o;
        if (i == first)
            wait(first ? 3 : 1);
        if (i >= CHUNKS)
            mbar_wait(base + AT(act_empty) + slot * 8, (i / CHUNKS & 1) ^ 1);
        const uint32_t bar = base + AT(act_full) + slot * 8;
        mbar_expect(bar, bytes);
        bulk(base + AT(act) + slot * CHUNK, (const uint8_t *)in + (size_t)(i - first) * bytes,
             bytes, bar);
    }
}

/* ---- two warpgroups ---- */
struct ctx {
    smem *sm;
    uint32_t base, ring; /* shared memory: all, this warpgroup's half of the first slot */
    int tid, warp, lane, g, t, wg, w4, rank, rows;
    uint32_t stride; /* bytes of 8 k of all tokens */
    struct turn at;
    int chunk;

    /* Hides from the compiler that these do not change: or it makes the addresses of all phases at once,
     * and spills them. */
    __device__ __forceinline__ void forget() { pin(rows), pin(lane), pin(g), pin(t), pin(stride); }
    __device__ __forceinline__ void wait_full(struct turn s) const
    {
        mbar_wait(base + AT(full) + s.slot * 8, s.phase);
    }
    __device__ __forceinline__ void release(bool yes, int slot) const
    {
        arrive_if(yes && lane == 0, base + AT(empty) + slot * 8);
    }
    /* acc += a slot of weights · 64 k of activations: even and odd steps have sums of their own. */
    __device__ __forceinline__ void step(float (&acc)[2][N], uint64_t b)
    {
        const uint32_t next = stride >> 3; /* two cores of k on, in units of 16 bytes */
        wait_full(at);
        const uint64_t a = desc_slot(ring + at.slot * SLOT);
        wg90::wgmma_fence();
#pragma unroll
        for (int j = 0; j < 4; j++)
            wg90::mma<T>(acc[j & 1], a + 2 * j, b + j * next, 1);
        wg90::wgmma_commit();
    }
};

__device__ __forceinline__ void zero(float (&acc)[2][N])
{
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int n = 0; n < N; n++)
            acc[i][n] = 0.f;
}

/* acc[0] = the next tile of weights · x. */
__device__ __forceinline__ void multiply(ctx &c, float (&acc)[2][N])
{
    uint64_t b = desc(c.base + AT(act), c.stride, 128);
    int before = c.at.slot;
    zero(acc);
#pragma unroll 2
    for (int i = 0; i < W / SLAB; i++) {
        c.step(acc, b);
        b += c.stride >> 1;
        wg90::wgmma_wait<1>();
        c.release(i > 0, before);
        before = c.at.slot;
        c.at.next();
    }
    wg90::wgmma_wait<0>();
    c.release(true, before);
#pragma unroll
    for (int n = 0; n < N; n++)
        acc[0][n] += acc[1][n];
}

/* What this CTA has written is there for the others. */
__device__ __forceinline__ void publish(const ctx &c, int i)
{
    bar_sync(1, FED);
    if (c.tid < CTAS) { /* the fence covers all; a releasing form would be one more a peer */
        fence_gpu();
        fence_proxy_async_all();
        asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(
                         map_rank(c.base + AT(exchanged) + i * 8, (uint32_t)c.tid))
                     : "memory");
    }
}
__device__ __forceinline__ void await(const ctx &c, int i)
{
    wg90::mbar_wait_cluster(&c.sm->exchanged[i], 0);
}

/* act = bf16(x · (1 + norm)), inv = 1/rms: every CTA all of it. */
__device__ __forceinline__ void stage_x(ctx &c, const struct early90 &p, const float *norm)
{
    constexpr int TWO = 2, WARPS = FED / 32;
    c.forget();
    float4 gain[8];
    load_gains(gain, norm, c.lane);
    const uint32_t to = c.base + AT(act) + (c.lane >> 1) * c.stride + (c.lane & 1) * 8;
#pragma unroll 1
    for (int t0 = c.warp; t0 < c.rows; t0 += WARPS * TWO) {
        float4 x[TWO][8];
        load_rows(x, p.x, t0, WARPS, c.rows, c.lane);
#pragma unroll
        for (int j = 0; j < TWO; j++) {
            const int tok = t0 + j * WARPS;
            if (tok >= c.rows)
                break;
            float s = 0.f;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float4 v = x[j][i];
                s += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
                sts_u64(to + i * 16 * c.stride + tok * 16, pack2(v.x * gain[i].x, v.y * gain[i].y),
                        pack2(v.z * gain[i].z, v.w * gain[i].w));
            }
            s = warp_sum(s);
            if (c.lane == 0)
                c.sm->inv[tok] = rsqrtf(s * (1.f / W) + 1e-6f);
        }
    }
    fence_proxy_async();
    bar_sync(1, FED);
}

/* ---- q, k, v: 1/rms, shift, RoPE; q to its scratch, [dim/8][token][8], k and v to the cache. Tile t is
 * rows 8t … 8t + 7 of a head and those 128 on ---- */
__device__ __forceinline__ void qkv(ctx &c, const struct early90 &p, int i)
{
    c.forget();
    const int tile = (c.rank * 10 + i * 2 + c.wg) * 4 + c.w4, head = tile >> 4;
    const int i0 = (tile & 15) * 8, dim = i0 + c.g;
    float b0 = 0.f, b1 = 0.f;
    float2 cs[J][2]; /* asked for before the product */
    if (p.shift) {
        const float *s = p.shift + head * E + dim;
        b0 = __ldg(s), b1 = __ldg(s + 128);
    }
#pragma unroll
    for (int n = 0; n < J; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const int tok = min(n * 8 + 2 * c.t + e, c.rows - 1);
            cs[n][e] = make_float2(1.f, 0.f);
            if (head < 9)
                cs[n][e] =
                    __ldg((const float2 *)p.cos_sin + (size_t)c.sm->where[tok].y * 128 + dim);
        }
    float acc2[2][N], (&acc)[N] = acc2[0];
    multiply(c, acc2);
#pragma unroll
    for (int n = 0; n < J; n++) {
        float lo[2], hi[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float r = c.sm->inv[min(n * 8 + 2 * c.t + e, c.rows - 1)];
            const float u = fmaf(acc[4 * n + e], r, b0), v = fmaf(acc[4 * n + 2 + e], r, b1);
            lo[e] = u * cs[n][e].x - v * cs[n][e].y;
            hi[e] = v * cs[n][e].x + u * cs[n][e].y;
        }
        const uint32_t l = wg90::movmatrix(pack2(lo[0], lo[1])),
                       h = wg90::movmatrix(pack2(hi[0], hi[1]));
        const int tok = n * 8 + c.g, at = min(tok, c.rows - 1);
        uint16_t *to;
        if (head < 8)
            to = p.q + ((size_t)(head * 32 + (i0 >> 3)) * c.rows + at) * 8 + 2 * c.t;
        else
            to = (head == 8 ? p.k : p.v) + (size_t)c.sm->where[at].x * E + i0 + 2 * c.t;
        store_u32_if(tok < c.rows, to, l);
        store_u32_if(tok < c.rows, to + (head < 8 ? 16 * c.rows * 8 : 128), h);
    }
}

/* ---- attention: warpgroup g of CTA r has head 2r + g ----
 * Rounds of 64 keys, online softmax: the prefix's, the last one not full, then the suffix's. A thread's
 * columns of both products are the same tokens, so it keeps their maxima and sums. */
struct softmax {
    float most[J][2], sum[J][2], f[J][2]; /* f: what the sums so far are to be multiplied by */
};
__device__ __forceinline__ void weigh(const ctx &c, struct softmax &m, float (&s)[N], int end,
                                      int state, float scale, uint32_t to)
{
    const int key = c.w4 * 16 + c.g;
    {
        float v[16];
        v[14] = v[15] = -INFINITY;
#pragma unroll
        for (int n = 0; n < J; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int last = n * 8 + 2 * c.t + e == state ? 1 : end;
                s[4 * n + e] = key < last ? s[4 * n + e] * scale : -INFINITY;
                s[4 * n + 2 + e] = key + 8 < last ? s[4 * n + 2 + e] * scale : -INFINITY;
                v[2 * n + e] = fmaxf(s[4 * n + e], s[4 * n + 2 + e]);
            }
        rows_max<J>(c.sm->top[c.wg][c.w4], v, c.lane);
    }
    bar_sync(2 + c.wg, 128);
#pragma unroll
    for (int n = 0; n < J; n++) {
        float2 top = make_float2(m.most[n][0], m.most[n][1]);
#pragma unroll
        for (int w = 0; w < 4; w++) {
            const float2 v = *(const float2 *)&c.sm->top[c.wg][w][n * 8 + 2 * c.t];
            top.x = fmaxf(top.x, v.x), top.y = fmaxf(top.y, v.y);
        }
        m.f[n][0] = exp2_approx(m.most[n][0] - top.x);
        m.f[n][1] = exp2_approx(m.most[n][1] - top.y);
        const float x0 = exp2_approx(s[4 * n] - top.x), x1 = exp2_approx(s[4 * n + 1] - top.y);
        const float x2 = exp2_approx(s[4 * n + 2] - top.x);
        const float x3 = exp2_approx(s[4 * n + 3] - top.y);
        m.most[n][0] = top.x, m.most[n][1] = top.y;
        m.sum[n][0] = fmaf(m.sum[n][0], m.f[n][0], x0 + x2);
        m.sum[n][1] = fmaf(m.sum[n][1], m.f[n][1], x1 + x3);
        sts_u32(to + n * 128, wg90::movmatrix(pack2(x0, x1)));
        sts_u32(to + n * 128 + T * 16, wg90::movmatrix(pack2(x2, x3)));
    }
}

__device__ __forceinline__ void attention(ctx &c, const struct early90 &p)
{
    c.forget();
    const struct keys n = keys_of(p);
    const float scale = p.scale * 1.44269504f;
    const int state = p.n_state ? c.rows - 1 : -1; /* sees the prefix and the suffix's first key */
    const uint32_t qs = c.base + AT(act), ps = qs + Q_BYTES + c.wg * 2 * P_BYTES;
    const uint64_t bq = desc(qs + c.wg * E * 2 * c.rows, c.stride, 128);
    const uint64_t bp = desc(ps, T * 16, 128);
    const uint32_t to = ps + (c.w4 * 2 * T + c.g) * 16 + c.t * 4, next = c.stride >> 3;
    const uint32_t ring = c.base + AT(ring);
    float o[4][N];
    struct softmax m;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
            o[i][j] = 0.f;
#pragma unroll
    for (int i = 0; i < J; i++)
        m.most[i][0] = m.most[i][1] = -1e30f, m.sum[i][0] = m.sum[i][1] = 0.f;
    mbar_wait(c.base + AT(q), 0);
    /* the order of the stream: k0 k1 v0 k2 v1 … */
    auto scores = [&](float(&s)[N], struct turn k0, struct turn k1) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint64_t a = desc_slot(ring + (i < 2 ? k0 : k1).slot * SLOT + (i & 1) * HALF);
#pragma unroll
            for (int j = 0; j < 4; j++)
                wg90::mma<T>(s, a + 2 * j, bq + (4 * i + j) * next, i + j > 0);
        }
        wg90::wgmma_commit();
    };
    auto values = [&](struct turn v0, struct turn v1, int r) {
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                wg90::wgmma_ss_ta_n56(
                    o[i],
                    desc_slot(ring + (i < 2 ? v0 : v1).slot * SLOT + (i & 1) * HALF + k * 2048),
                    bp + (r & 1) * (P_BYTES / 16) + k * (T * 2), 1);
        wg90::wgmma_commit();
    };
    /* What lies behind the last key is anything, and 0 · anything may not be 0. */
    auto clear = [&](struct turn v0, struct turn v1, int end) {
        const int i = c.tid & 127;
        for (int at = end * 128 + i * 16; at < HALF; at += 128 * 16)
#pragma unroll
            for (int h = 0; h < 4; h++)
                sts128(ring + (h < 2 ? v0 : v1).slot * SLOT + (h & 1) * HALF + at, 0.f, 0.f, 0.f,
                       0.f);
        fence_proxy_async();
        bar_sync(2 + c.wg, 128);
    };
    struct turn k0 = c.at, k1, v0, v1;
    {
        float s[N];
        k1 = k0, k1.next();
        c.at = k1, c.at.next();
        c.wait_full(k0), c.wait_full(k1);
        wg90::wgmma_fence();
        scores(s, k0, k1);
        wg90::wgmma_wait<0>();
        c.release(true, k0.slot), c.release(true, k1.slot);
        weigh(c, m, s, n.valid, -1, scale, to);
        fence_proxy_async();
        bar_sync(2 + c.wg, 128);
    }
#pragma unroll 1
    for (int r = 1; r < n.rounds; r++) {
        float s[N];
        const bool last = r + 1 == n.rounds;
        k0 = c.at, k1 = k0, k1.next();
        v0 = k1, v0.next(), v1 = v0, v1.next();
        c.at = v1, c.at.next();
        c.wait_full(k0), c.wait_full(k1), c.wait_full(v0), c.wait_full(v1);
        if (last && n.valid % KEYS)
            clear(v0, v1, n.valid % KEYS);
        wg90::wgmma_fence();
        scores(s, k0, k1);
        values(v0, v1, r - 1);
        wg90::wgmma_wait<1>();
        c.release(true, k0.slot), c.release(true, k1.slot);
        weigh(c, m, s, last ? c.rows : n.valid - r * KEYS, last ? state : -1, scale,
              to + (r & 1) * P_BYTES);
        wg90::wgmma_wait<0>();
        c.release(true, v0.slot), c.release(true, v1.slot);
#pragma unroll
        for (int i = 0; i < J; i++)
#pragma unroll
            for (int a = 0; a < 4; a++)
                o[a][4 * i] *= m.f[i][0], o[a][4 * i + 1] *= m.f[i][1],
                    o[a][4 * i + 2] *= m.f[i][0], o[a][4 * i + 3] *= m.f[i][1];
        fence_proxy_async();
        bar_sync(2 + c.wg, 128);
    }
    v0 = c.at, v1 = v0, v1.next();
    c.at = v1, c.at.next();
    c.wait_full(v0), c.wait_full(v1);
    clear(v0, v1, c.rows);
    wg90::wgmma_fence();
    values(v0, v1, n.rounds - 1);
    wg90::wgmma_wait<0>();
    c.release(true, v0.slot), c.release(true, v1.slot);
#pragma unroll
    for (int i = 0; i < J; i++) {
        const float l0 = rows_sum(m.sum[i][0]), l1 = rows_sum(m.sum[i][1]);
        if (c.g == 0)
            *(float2 *)&c.sm->sum[c.wg][c.w4][i * 8 + 2 * c.t] = make_float2(l0, l1);
    }
    bar_sync(2 + c.wg, 128);
#pragma unroll
    for (int i = 0; i < J; i++) {
        float f[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float l = 0.f;
#pragma unroll
            for (int w = 0; w < 4; w++)
                l += c.sm->sum[c.wg][w][i * 8 + 2 * c.t + e];
            f[e] = __fdividef(1.f, l);
        }
        const int tok = i * 8 + c.g, at = min(tok, c.rows - 1);
#pragma unroll
        for (int a = 0; a < 4; a++) {
            const int col8 = (c.rank * 2 + c.wg) * 32 + a * 8 + c.w4 * 2;
            const uint32_t l = wg90::movmatrix(pack2(o[a][4 * i] * f[0], o[a][4 * i + 1] * f[1]));
            const uint32_t h =
                wg90::movmatrix(pack2(o[a][4 * i + 2] * f[0], o[a][4 * i + 3] * f[1]));
            uint16_t *to8 = p.o + ((size_t)col8 * c.rows + at) * 8 + 2 * c.t;
            store_u32_if(tok < c.rows, to8, l);
            store_u32_if(tok < c.rows, to8 + c.rows * 8, h);
        }
    }
}

/* ---- gate·up of 64 rows: h = gelu(gate) · up ---- */
__device__ __forceinline__ void gate_up(ctx &c, const struct early90 &p, int i)
{
    c.forget();
    const int tile = c.rank * 128 + i * 8 + c.wg * 4 + c.w4;
    float b0 = 0.f, b1 = 0.f;
    if (p.shift) {
        const float *s = p.shift + 2560 + tile * 16 + c.g;
        b0 = __ldg(s), b1 = __ldg(s + 8);
    }
    float acc2[2][N], (&acc)[N] = acc2[0];
    multiply(c, acc2);
#pragma unroll
    for (int n = 0; n < J; n++) {
        float h[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float r = c.sm->inv[min(n * 8 + 2 * c.t + e, c.rows - 1)];
            h[e] = gelu(fmaf(acc[4 * n + e], r, b0)) * fmaf(acc[4 * n + 2 + e], r, b1);
        }
        const uint32_t v = wg90::movmatrix(pack2(h[0], h[1]));
        const int tok = n * 8 + c.g, at = min(tok, c.rows - 1);
        store_u32_if(tok < c.rows, p.h + ((size_t)tile * c.rows + at) * 8 + 2 * c.t, v);
    }
}

/* ---- o and down: x += gate · acc of two tiles ---- */
__device__ __forceinline__ void residual(ctx &c, const struct early90 &p, int chunks,
                                         const float *gate, bool last)
{
    float x[2][J][4]; /* asked for before the products */
#pragma unroll
    for (int a = 0; a < 2; a++)
#pragma unroll
        for (int n = 0; n < J; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int tok = n * 8 + 2 * c.t + (i & 1);
                const int row = c.rank * 256 + a * 128 + c.wg * 64 + c.w4 * 16 + c.g;
                x[a][n][i] =
                    tok < c.rows ? __ldcg(p.x + (size_t)tok * W + row + (i >> 1) * 8) : 0.f;
            }
    float acc[2][2][N];
    zero(acc[0]), zero(acc[1]);
    int before = c.at.slot;
#pragma unroll 1
    for (int i = 0; i < chunks; i++) {
        const int chunk = c.chunk % CHUNKS, done = (chunk + CHUNKS - 1) % CHUNKS;
        mbar_wait(c.base + AT(act_full) + chunk * 8, c.chunk / CHUNKS & 1);
        uint64_t b = desc(c.base + AT(act) + chunk * CHUNK, c.stride, 128);
#pragma unroll
        for (int s = 0; s < CHUNK_K / SLAB; s++) {
#pragma unroll
            for (int a = 0; a < 2; a++) {
                c.step(acc[a], b);
                wg90::wgmma_wait<1>();
                c.release(i + s + a > 0, before);
                before = c.at.slot;
                c.at.next();
                if (s + a == 0)
                    arrive_if(i > 0 && c.lane == 0, c.base + AT(act_empty) + done * 8);
            }
            b += c.stride >> 1;
        }
        c.chunk++;
    }
    wg90::wgmma_wait<0>();
    c.release(true, before);
    arrive_if(c.lane == 0, c.base + AT(act_empty) + (c.chunk - 1) % CHUNKS * 8);
#pragma unroll
    for (int a = 0; a < 2; a++) {
        c.forget();
        const int row = c.rank * 256 + a * 128 + c.wg * 64 + c.w4 * 16 + c.g;
        float gt[2] = { 1.f, 1.f }, gain[2] = { 1.f, 1.f };
        if (gate)
            gt[0] = __ldg(gate + row), gt[1] = __ldg(gate + row + 8);
        if (last && p.xg)
            gain[0] += __ldg(p.next_gain + row), gain[1] += __ldg(p.next_gain + row + 8);
#pragma unroll
        for (int n = 0; n < J; n++) {
            float v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int tok = n * 8 + 2 * c.t + (i & 1);
                v[i] = fmaf(gt[i >> 1], acc[a][0][4 * n + i] + acc[a][1][4 * n + i], x[a][n][i]);
                if (tok < c.rows)
                    p.x[(size_t)tok * W + row + (i >> 1) * 8] = v[i];
            }
            if (last && p.xg) {
                float sq[2];
#pragma unroll
                for (int e = 0; e < 2; e++)
                    sq[e] = rows_sum(v[e] * v[e] + v[2 + e] * v[2 + e]);
                if (c.g == 0)
                    *(float2 *)&c.sm->sq[a][c.wg][c.w4][n * 8 + 2 * c.t] =
                        make_float2(sq[0], sq[1]);
                const uint32_t l = wg90::movmatrix(pack2(v[0] * gain[0], v[1] * gain[0]));
                const uint32_t h = wg90::movmatrix(pack2(v[2] * gain[1], v[3] * gain[1]));
                const int tok = n * 8 + c.g;
                uint16_t *to = p.xg + (size_t)tok * W + row - c.g + 2 * c.t;
                store_u32_if(tok < c.rows, to, l);
                store_u32_if(tok < c.rows, to + 8, h);
            }
        }
    }
    if (last && p.xg) {
        bar_sync(1, FED);
        for (int i = c.tid; i < c.rows * 4; i += FED) {
            const int tok = i >> 2, piece = i & 3;
            const float(&s)[4][T] = c.sm->sq[piece >> 1][piece & 1];
            p.part[tok * 16 + c.rank * 4 + piece] =
                (s[0][tok] + s[1][tok]) + (s[2][tok] + s[3][tok]);
        }
    }
}

__global__ void __cluster_dims__(CTAS, 1, 1) __launch_bounds__(THREADS, 1)
    early_wide_bf16_sm90(const __grid_constant__ struct early90 p,
                         const __grid_constant__ struct early90_maps m)
{
    extern __shared__ __align__(1024) uint8_t raw[];
    smem *sm = (smem *)raw;
    const uint32_t base = smem_addr(raw);
    const int rank = (int)blockIdx.x, warp = wg90::warp_uniform((int)threadIdx.x >> 5);
    if (threadIdx.x == 0) {
        for (int i = 0; i < RING; i++)
            mbar_init(base + AT(full) + i * 8, 1), mbar_init(base + AT(empty) + i * 8, FED / 32);
        for (int i = 0; i < CHUNKS; i++) {
            mbar_init(base + AT(act_full) + i * 8, 1);
            mbar_init(base + AT(act_empty) + i * 8, FED / 32);
        }
        mbar_init(base + AT(q), 1);
        for (int i = 0; i < 4; i++)
            mbar_init(base + AT(exchanged) + i * 8, CTAS);
        mbar_init_fence();
    }
    for (int i = (int)threadIdx.x; i < p.rows; i += THREADS)
        sm->where[i] = make_int2(p.suffix_rows[i].cache, p.suffix_rows[i].pos);
    wg90::cluster_sync_relaxed();
    __syncthreads();
    if (warp >= FED / 32) {
        reg_dealloc<24>();
        if (warp == FED / 32 && wg90::elect_one())
            feed(p, m, base, rank);
        if (warp == FED / 32 + 1 && wg90::elect_one())
            fetch(p, base, rank);
        return;
    }
    reg_alloc<240>();
    ctx c;
    c.sm = sm, c.base = base, c.tid = (int)threadIdx.x, c.warp = warp, c.lane = c.tid & 31;
    c.g = c.lane >> 2, c.t = c.lane & 3, c.wg = warp >> 2, c.w4 = warp & 3, c.rank = rank;
    c.rows = p.rows, c.stride = (uint32_t)p.rows * 16, c.at = { 0, 0 }, c.chunk = 0;
    c.ring = base + AT(ring) + c.wg * HALF;
    stage_x(c, p, p.norm1);
#pragma unroll 1
    for (int i = 0; i < 5; i++)
        qkv(c, p, i);
    publish(c, 0);
    await(c, 0);
    attention(c, p);
    publish(c, 1);
    await(c, 1);
    residual(c, p, QD / CHUNK_K, p.gate1, false);
    publish(c, 2);
    await(c, 2);
    stage_x(c, p, p.norm2);
#pragma unroll 1
    for (int i = 0; i < 16; i++)
        gate_up(c, p, i);
    publish(c, 3);
    await(c, 3);
    residual(c, p, F / CHUNK_K, p.gate2, true);
}
} // namespace

CUresult early90_wide_plan(struct early90_maps *m, tensor_map_encode_fn encode,
                           const struct early90 *p)
{
    /* a head's rows i and i + 128 in turns of 8: k, row of 8, half, eight, head */
    const cuuint64_t dims[5] = { W, 8, 2, 16, 10 };
    const cuuint64_t stride[4] = { W * 2, 128 * W * 2, 8 * W * 2, 256 * W * 2 };
    const cuuint32_t box[5] = { SLAB, 8, 2, 4, 1 }, one[5] = { 1, 1, 1, 1, 1 };
    CUresult r =
        encode(&m->qkv, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, (void *)(uintptr_t)p->wqkv, dims,
               stride, box, one, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (r == CUDA_SUCCESS)
        r = tensor_map_2d(encode, &m->o, p->wo, W, QD, QD, 128);
    if (r == CUDA_SUCCESS)
        r = tensor_map_2d(encode, &m->gu, p->wgu, 2 * F, W, W, 128);
    if (r == CUDA_SUCCESS)
        r = tensor_map_2d(encode, &m->down, p->wdown, W, F, F, 128);
    if (r == CUDA_SUCCESS)
        r = tensor_map_2d(encode, &m->k, p->k, p->cache_rows, E, E, KEYS);
    return r == CUDA_SUCCESS ? tensor_map_2d(encode, &m->v, p->v, p->cache_rows, E, E, KEYS) : r;
}

cudaError_t early90_wide_prepare(void)
{
    const void *kernel = (const void *)early_wide_bf16_sm90;
    cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)sizeof(smem));
    if (e != cudaSuccess)
        return e;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared);
}

cudaError_t early90_wide_launch(const struct early90 *p, const struct early90_maps *m,
                                cudaStream_t stream)
{
    early_wide_bf16_sm90<<<CTAS, THREADS, sizeof(smem), stream>>>(*p, *m);
    return cudaGetLastError();
}
