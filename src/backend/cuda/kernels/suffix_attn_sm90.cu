/* SPDX-License-Identifier: Apache-2.0
 * suffix_attn_bf16_sm90: o = softmax(q·kᵀ·scale)·v, head size 256, one K/V head   bf16 in and out
 * Called by: denoise_enqueue, batches: 5 tokens · 8 heads = 40 query rows a tile against the sample's
 *            prefix and suffix keys.
 * Tiling:    both products are transposed, so that the 40 rows are wgmma's N and nothing is padded:
 *            Sᵀ = k·qᵀ, 64 keys a warpgroup, 128 keys a step; Oᵀ = vᵀ·P, 64 of 256 dims a product,
 *            two a warpgroup; v is the MN-major operand as it lies, P goes through shared memory. A
 *            cluster of 1 … 8 CTAs splits the keys of a tile, in blocks of 64; three blocks of K and of
 *            V are on their way at a time.
 *
 *              prefix keys ──► before the predecessor has finished: they do not change here
 *              S ► max over the CTA ► P ► Oᵀ += vᵀ·P; (max, sum) to all CTAs of the cluster
 *              ► Oᵀ to the CTA that owns these dims ► weighted sum, o
 *              warps 0 … 7: all of this · 8: q and K, 9: V, then the parts' weights, and they finish too
 *
 *            40 rows, not 80: what the cluster exchanges passes at some 25 bytes a nanosecond and CTA.
 * Budget:    8 samples, 800 keys: 0.5 GFLOP, 6.5 MB → bound by latency.
 * Now:       5.2 µs for 2 samples, 7.8 for 8 (keys over 4 CTAs), 25 for 64 (not split), 800 keys; 5.9 for 50 actions of
 *            one sample: check_suffix_sm90 --bench, NVIDIA H200, 2026-11-22.
 * Rounding:  P to bf16, o to bf16. Parts are added in rank order: the same bits every run. */
#include "suffix_sm90.cuh"

using namespace wg90;
using namespace sfx90;

namespace
{

constexpr int E = 256, N = 40, J = N / 8, KEYS = 64, SLOTS = 3, THREADS = 384;
constexpr int KV_BYTES = KEYS * E * 2, Q_BYTES = N * E * 2, P_BYTES = N * KEYS * 2;
constexpr int UNITS = 16,
              UNIT_BYTES = J * 512; /* 16 dims of all rows: what a warp holds of a product */

struct facts {
    uint64_t q, k_full[SLOTS], k_empty[SLOTS], v_full[SLOTS], v_empty[SLOTS];
    uint64_t stats_here, parts_here, dead;
    float warp[8][N]; /* each warp's maxima, then sums */
    float max[N], rescale[N];
    float2 stats[8][N]; /* (max, sum) of the CTAs of the cluster; then (weight, sum) */
};
/* The exchange lies over K, which is dead by then: at most 7 parts of 3 units. */
static_assert(21 * UNIT_BYTES <= SLOTS * KV_BYTES, "the exchange does not fit");
/* Shared memory starts at a multiple of 1024: none of it is static. */
constexpr int SMEM = 2 * SLOTS * KV_BYTES + Q_BYTES + 2 * P_BYTES + (int)sizeof(facts);
static_assert(SMEM <= 232448, "shared memory");

struct args {
    uint16_t *o;
    const struct cu_sample *samples;
    int n, horizon, n_state, tiles, kv_row0;
    float scale_log2;
};

static __device__ __forceinline__ void consumers_sync(void) { bar_sync(1, 256); }
/* Those who finish: the consumers and the two warps that have produced, so that ten pieces of eight rows
 * and 16 dims are one turn. */
constexpr int FINISHERS = 10;
static __device__ __forceinline__ void finishers_sync(void) { bar_sync(2, 320); }
/* What a tile looks at. */
struct tile {
    int q_row, n_rows;        /* first row of q and o, rows that exist */
    int n_keys, hole0, hole1; /* keys [hole0, hole1) are masked */
    int kv_row;               /* of block 0 */
    int first, every, blocks; /* this CTA's blocks of 64 keys */

    __device__ __forceinline__ void find(const args &g, int split, int rank)
    {
        int b = (int)blockIdx.y, t = (int)blockIdx.x / split;
        struct cu_sample s = g.samples[b];
        int state = t >= g.tiles;
        q_row = state ? (g.n * g.horizon + b) * 8 : b * g.horizon * 8 + t * N;
        n_rows = state ? 8 : g.horizon * 8 - t * N;
        /* the state token: prefix and itself */
        n_keys = s.n_rows + (state ? 1 : g.n_state + g.horizon);
        hole0 = s.n_valid, hole1 = s.n_rows;
        int all = (n_keys + KEYS - 1) / KEYS;
        /* In turns: the last blocks wait for the predecessor, and no CTA should have them all. */
        first = rank;
        every = split;
        blocks = (all - rank + split - 1) / split;
        kv_row = g.kv_row0 + s.kv_row;
    }
};

/* `rows` rows of 256 in one copy: four boxes of 64 columns. */
static __device__ __forceinline__ void load_rows(uint32_t dst, const CUtensorMap *map, uint32_t bar,
                                                 int row, int rows)
{
    mbar_expect(bar, (uint32_t)(rows * E * 2));
    tma_load_3d(dst, map, bar, 0, row, 0);
}

/* One of K and V. Blocks of the prefix alone do not wait for the predecessor; q (if any) does. */
template <int WITH_Q>
static __device__ __forceinline__ void
produce(const CUtensorMap *map, uint32_t ring, uint32_t full, uint32_t empty, const tile &t,
        const CUtensorMap *q_map, uint32_t qs, uint32_t q_bar)
{
    int waited = 0, slot = 0, row = t.kv_row + t.first * KEYS, end = (t.first + 1) * KEYS;
    uint32_t parity = 1;
#pragma unroll 1
    for (int i = 0; i <= t.blocks; i++) {
        if (!waited && (i == t.blocks || i == SLOTS || end > t.hole1)) {
            pdl_wait();
            waited = 1;
            if (WITH_Q && t.blocks > 0)
                load_rows(qs, q_map, q_bar, t.q_row, N);
        }
        if (i == t.blocks)
            break;
        if (i >= SLOTS)
            mbar_wait(empty + slot * 8, parity);
        load_rows(ring + slot * KV_BYTES, map, full + slot * 8, row, KEYS);
        row += t.every * KEYS, end += t.every * KEYS;
        if (++slot == SLOTS)
            slot = 0, parity ^= 1;
    }
}

/* 2J columns a thread (8j + lane%4·2 and the next, as v[2j], v[2j + 1]), eight lanes hold parts of the
 * same: combined over them in a fixed order. r[i] belongs to v's i, plus J in the upper half warp. */
template <int MAX>
static __device__ __forceinline__ void across_lanes(float (&r)[J], const float (&v)[2 * J])
{
    int up = (int)threadIdx.x >> 4 & 1;
#pragma unroll
    for (int i = 0; i < J; i++) {
        float keep = up ? v[J + i] : v[i], give = up ? v[i] : v[J + i];
        float got = __shfl_xor_sync(~0u, give, 16);
        float a = MAX ? fmaxf(keep, got) : keep + got;
        got = __shfl_xor_sync(~0u, a, 8);
        a = MAX ? fmaxf(a, got) : a + got;
        got = __shfl_xor_sync(~0u, a, 4);
        r[i] = MAX ? fmaxf(a, got) : a + got;
    }
}

static __device__ __forceinline__ void put_columns(float *to, const float (&r)[J])
{
    int lane = threadIdx.x % 32, first = (lane >> 4 & 1) * J;
    if (lane & 12)
        return;
#pragma unroll
    for (int i = 0; i < J; i++) {
        int v = first + i; /* column 8·(v/2) + lane%4·2 + v%2 */
        to[v / 2 * 8 + lane % 4 * 2 + v % 2] = r[i];
    }
}

/* A descriptor's words: the lower one has the address, the upper one does not change. */
static __device__ __forceinline__ uint32_t desc_low(const void *p)
{
    return (uint32_t)desc_k128(p);
}
static __device__ __forceinline__ uint64_t desc_high(void)
{
    return (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* One step's Sᵀ of this warpgroup's block, its softmax up to P; true columns' maxima in f->max. */
static __device__ __forceinline__ void scores(float (&s)[4 * J], uint32_t k, uint32_t q)
{
    wgmma_fence();
#pragma unroll
    for (int c = 0; c < 4; c++)
#pragma unroll
        for (int kk = 0; kk < 4; kk++)
            wgmma_ss_n40(s, desc_high() | (k + c * (KEYS * 8) + 2 * kk),
                         desc_high() | (q + c * (N * 8) + 2 * kk), c | kk);
    wgmma_commit();
    wgmma_wait<0>();
}

/* mbar_arrive_cluster without a branch: one here would serialize the products around it. */
static __device__ __forceinline__ void arrive_cluster_if(int yes, uint64_t *bar, uint32_t rank)
{
    asm volatile("{\n.reg .pred p;\n.reg .b32 remote;\nsetp.ne.b32 p, %0, 0;\n"
                 "@p mapa.shared::cluster.u32 remote, %1, %2;\n"
                 "@p mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(yes),
                 "r"(smem_u32(bar)), "r"(rank)
                 : "memory");
}

static __device__ __forceinline__ void st_async_pair_if(int yes, uint32_t to, float a, float b,
                                                        uint32_t bar)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n"
                 "@p st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%1], {%2, %3}, "
                 "[%4];\n}" ::"r"(yes),
                 "r"(to), "f"(a), "f"(b), "r"(bar)
                 : "memory");
}

/* (max, sum) of every column to all CTAs of the cluster, a warp each; each warp's sums are in f->warp. */
static __device__ __forceinline__ void send_stats(facts *f, int split, int rank)
{
    int warp = warp_uniform((int)threadIdx.x / 32), lane = threadIdx.x % 32;
    uint32_t to = mapa(&f->stats[rank][lane], (uint32_t)warp);
    uint32_t bar = mapa(&f->stats_here, (uint32_t)warp);
    if (warp < split)
#pragma unroll
        for (int c = 0; c < N; c += 32) {
            float sum = 0.f;
#pragma unroll
            for (int w = 0; w < 8; w++)
                sum += f->warp[w][(c + lane) % N];
            st_async_pair_if(c + lane < N, to + c * 8, f->max[(c + lane) % N], sum, bar);
        }
}

/* What each CTA's part of a column counts: by the warps that have produced, while the others send. */
static __device__ __forceinline__ void weigh(facts *f, int split)
{
    int c = (int)threadIdx.x - 256;
    if (c < N) {
        mbar_wait_cluster(&f->stats_here, 0);
        float top = -INFINITY, all = 0.f, s[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            s[i] = i < split ? f->stats[i][c].x : -INFINITY;
            top = fmaxf(top, s[i]);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            s[i] = ex2(s[i] - top);
            if (i < split)
                all = fmaf(f->stats[i][c].y, s[i], all);
        }
        all = rcp(all);
#pragma unroll
        for (int i = 0; i < 8; i++)
            f->stats[i][c].x = s[i] * all;
    }
}

static __device__ __forceinline__ void attend(float (&o)[2][4 * J], float (&l)[2 * J],
                                              const tile &t, unsigned char *ks, unsigned char *vs,
                                              unsigned char *qs, unsigned char *ps, facts *f,
                                              float scale, int split, int rank)
{
    int wg = warp_uniform((int)threadIdx.x / 128), warp = (int)threadIdx.x / 32,
        lane = threadIdx.x % 32;
    uint32_t k0 = desc_low(ks), q0 = desc_low(qs), v0d = desc_low(vs + 2 * wg * KEYS * 128),
             p0 = desc_low(ps);
    for (int i = 0; i < t.blocks; i += 2) {
        int two = i + 1 < t.blocks, slot = (i + wg) % SLOTS, v0 = i % SLOTS, v1 = (i + 1) % SLOTS;
        float s[4 * J];
        if (i == 0)
            mbar_wait(&f->q, 0);
        if (wg == 0 || two) /* else scores of what lies there, masked below */
            mbar_wait(&f->k_full[slot], (uint32_t)((i + wg) / SLOTS & 1));
        scores(s, k0 + (uint32_t)slot * (KV_BYTES / 16), q0);
        if (threadIdx.x % 128 == 0 && i + wg + SLOTS < t.blocks)
            mbar_arrive(&f->k_empty[slot]);
        int key = (t.first + (i + wg) * t.every) * KEYS + warp % 4 * 16 + lane / 4;
        float v[2 * J], r[J];
        bool see[2];
#pragma unroll
        for (int h = 0; h < 2; h++)
            see[h] = (wg == 0 || two) && key + 8 * h < t.n_keys &&
                     !(key + 8 * h >= t.hole0 && key + 8 * h < t.hole1);
#pragma unroll
        for (int j = 0; j < J; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                s[4 * j + e] = see[0] ? s[4 * j + e] : -INFINITY;
                s[4 * j + 2 + e] = see[1] ? s[4 * j + 2 + e] : -INFINITY;
                v[2 * j + e] = fmaxf(s[4 * j + e], s[4 * j + 2 + e]);
            }
        across_lanes<1>(r, v);
        put_columns(f->warp[warp], r);
        consumers_sync();
        if (threadIdx.x < N) {
            float old = f->max[threadIdx.x], m = old;
#pragma unroll
            for (int w = 0; w < 8; w++)
                m = fmaxf(m, f->warp[w][threadIdx.x] * scale);
            f->max[threadIdx.x] = m;
            f->rescale[threadIdx.x] = ex2(old - (m == -INFINITY ? 0.f : m));
        }
        consumers_sync();
        uint32_t row = (uint32_t)(lane % 8 + lane / 16 * 8); /* stmatrix: rows of j, j + 1 */
        uint32_t to = smem_u32(ps) + (uint32_t)(wg * P_BYTES) + row * 128 +
                      (((uint32_t)(warp % 4 * 2 + lane / 8 % 2) ^ (row & 7)) << 4);
#pragma unroll
        for (int j = 0; j < J; j += 2) {
            uint32_t p[4];
#pragma unroll
            for (int a = 0; a < 2 && j + a < J; a++) {
                float2 m = *(const float2 *)&f->max[8 * (j + a) + lane % 4 * 2];
                float2 w = *(const float2 *)&f->rescale[8 * (j + a) + lane % 4 * 2];
                float b0 = m.x == -INFINITY ? 0.f : m.x, b1 = m.y == -INFINITY ? 0.f : m.y;
                float *x = &s[4 * (j + a)];
                x[0] = ex2(fmaf(x[0], scale, -b0)), x[1] = ex2(fmaf(x[1], scale, -b1));
                x[2] = ex2(fmaf(x[2], scale, -b0)), x[3] = ex2(fmaf(x[3], scale, -b1));
                l[2 * (j + a)] = fmaf(l[2 * (j + a)], w.x, x[0] + x[2]);
                l[2 * (j + a) + 1] = fmaf(l[2 * (j + a) + 1], w.y, x[1] + x[3]);
                p[2 * a] = pack_bf16(x[0], x[1]);     /* keys lane/4 */
                p[2 * a + 1] = pack_bf16(x[2], x[3]); /* keys lane/4 + 8 */
            }
            if (j + 1 < J)
                stmatrix4_trans(to + (uint32_t)(j * 8 * 128), p[0], p[1], p[2], p[3]);
            else /* reads the addresses of lanes 0 … 15 */
                stmatrix2_trans(to + (uint32_t)(j * 8 * 128), p[0], p[1]);
        }
        fence_proxy_async();
        if (i + 2 >= t.blocks) { /* the last step */
            arrive_cluster_if((int)threadIdx.x < split, &f->dead, threadIdx.x);
            across_lanes<0>(r, l);
            put_columns(f->warp[warp], r);
        }
        if (i > 0)
#pragma unroll
            for (int j = 0; j < J; j++) {
                float2 w = *(const float2 *)&f->rescale[8 * j + lane % 4 * 2];
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    o[h][4 * j] *= w.x, o[h][4 * j + 1] *= w.y;
                    o[h][4 * j + 2] *= w.x, o[h][4 * j + 3] *= w.y;
                }
            }
        consumers_sync();
        mbar_wait(&f->v_full[v0], (uint32_t)(i / SLOTS & 1));
        if (two)
            mbar_wait(&f->v_full[v1], (uint32_t)((i + 1) / SLOTS & 1));
        wgmma_fence();
        for (int b = 0; b <= two; b++) {
            uint32_t v = v0d + (uint32_t)(b ? v1 : v0) * (KV_BYTES / 16),
                     pd = p0 + (uint32_t)b * (P_BYTES / 16);
#pragma unroll
            for (int kk = 0; kk < 4; kk++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    wgmma_ss_ta_n40(o[h], desc_high() | (v + h * (KEYS * 8) + kk * 128),
                                    desc_high() | (pd + 2 * kk), i | b | kk);
        }
        wgmma_commit();
        if (i + 2 >= t.blocks) /* under the product: it needs o no more than the others do */
            send_stats(f, split, rank);
        wgmma_wait<0>();
        if (threadIdx.x % 128 == 0) { /* told only to a producer that waits for it */
            if (i + SLOTS < t.blocks)
                mbar_arrive(&f->v_empty[v0]);
            if (i + 1 + SLOTS < t.blocks)
                mbar_arrive(&f->v_empty[v1]);
        }
    }
    if (t.blocks == 0) {
        arrive_cluster_if((int)threadIdx.x < split, &f->dead, threadIdx.x);
        if (threadIdx.x < N)
            for (int w = 0; w < 8; w++)
                f->warp[w][threadIdx.x] = 0.f;
        consumers_sync();
        send_stats(f, split, rank);
    }
}

/* 16 units of 16 dims, in turn to the CTAs of the cluster: CTA r owns per units from r · per on. */
static __device__ __forceinline__ int units_each(int split) { return (UNITS + split - 1) / split; }

static __device__ __forceinline__ void st_shared(uint32_t to, float a, float b, float c, float d)
{
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(a), "f"(b),
                 "f"(c), "f"(d)
                 : "memory");
}

/* Where a warp's two units go; made before there is anything to send. */
struct route {
    uint32_t to[2], bar[2]; /* at the owner */
    int own[2];             /* the owner is this CTA */

    __device__ __forceinline__ void find(facts *f, unsigned char *recv, int split, int rank)
    {
        int wg = (int)threadIdx.x / 128, warp = (int)threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
        int per = units_each(split);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int unit = (2 * wg + h) * 4 + warp;
            uint32_t owner = (uint32_t)(unit / per);
            uint32_t here =
                smem_u32(recv) + (uint32_t)((rank * per + unit % per) * UNIT_BYTES + lane * 16);
            own[h] = (int)owner == rank;
            to[h] = mapa(here, owner);
            bar[h] = mapa(&f->parts_here, owner);
            asm volatile("" : "+r"(to[h]), "+r"(bar[h]), "+r"(own[h]));
        }
    }
};

static __device__ __forceinline__ void send(const float (&o)[2][4 * J], facts *f, const route &way)
{
    mbar_wait(&f->dead, 0); /* nobody reads K any more: the parts go there */
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < J; j++) {
            const float *v = &o[h][4 * j];
            if (way.own[h])
                st_shared(way.to[h] + j * 512, v[0], v[1], v[2], v[3]);
            else
                st_async(way.to[h] + j * 512, v[0], v[1], v[2], v[3], way.bar[h]);
        }
}

static __device__ __forceinline__ void finish(uint16_t *o, const unsigned char *recv, const tile &t,
                                              facts *f, int split, int rank)
{
    int warp = (int)threadIdx.x / 32, lane = threadIdx.x % 32, per = units_each(split);
    finishers_sync(); /* the weights are there */
    if (split > 1)
        mbar_wait_cluster(&f->parts_here, 0);
    for (int i = warp; i < per * J && rank * per + i / J < UNITS; i += FINISHERS) {
        int unit = rank * per + i / J, j = i % J;
        const float4 *at = (const float4 *)recv + i * 32 + lane;
        float4 a = make_float4(0.f, 0.f, 0.f, 0.f), u[8];
#pragma unroll
        for (int s = 0; s < 8; s++)
            u[s] = s < split ? at[s * per * (UNIT_BYTES / 16)] : make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int s = 0; s < 8; s++) {
            float4 both = *(const float4 *)&f->stats[s][8 * j + lane % 4 * 2];
            float2 w = make_float2(both.x, both.z);
            a.x = fmaf(u[s].x, w.x, a.x), a.y = fmaf(u[s].y, w.y, a.y);
            a.z = fmaf(u[s].z, w.x, a.z), a.w = fmaf(u[s].w, w.y, a.w);
        }
        uint32_t lo = movmatrix(pack_bf16(a.x, a.y)), hi = movmatrix(pack_bf16(a.z, a.w));
        int row = 8 * j + lane / 4;
        if (row < t.n_rows) {
            uint32_t *to = (uint32_t *)(o + (size_t)(t.q_row + row) * E + unit * 16) + lane % 4;
            to[0] = lo;
            to[4] = hi;
        }
    }
}

__global__ void __launch_bounds__(THREADS, 1)
    suffix_attn_bf16_sm90(const __grid_constant__ CUtensorMap q_map,
                          const __grid_constant__ CUtensorMap k_map,
                          const __grid_constant__ CUtensorMap v_map, const args g, int split)
{
    extern __shared__ __align__(1024) unsigned char raw[];
    unsigned char *ks = raw, *vs = ks + SLOTS * KV_BYTES, *qs = vs + SLOTS * KV_BYTES;
    unsigned char *ps = qs + Q_BYTES;
    facts *f = (facts *)(ps + 2 * P_BYTES);
    int rank = split > 1 ? (int)cluster_ctarank() : 0;
    if (threadIdx.x == 256) {
        mbar_init(&f->dead, (uint32_t)split); /* among the others the compiler serializes wgmma */
        fence_mbar_init();
        prefetch_tensormap(&k_map);
        prefetch_tensormap(&q_map);
    }
    if (threadIdx.x == 288)
        prefetch_tensormap(&v_map);
    if (threadIdx.x == 0) {
        mbar_init(&f->q, 1);
        for (int i = 0; i < SLOTS; i++) {
            mbar_init(&f->k_full[i], 1);
            mbar_init(&f->v_full[i], 1);
            mbar_init(&f->k_empty[i], 1);
            mbar_init(&f->v_empty[i], 2);
        }
        mbar_init(&f->stats_here, 1);
        mbar_init(&f->parts_here, 1);
        mbar_expect(&f->stats_here, (uint32_t)(split * N * 8));
        int per = units_each(split), mine = UNITS - rank * per;
        mine = mine < 0 ? 0 : mine < per ? mine : per;
        mbar_expect(&f->parts_here, (uint32_t)((split - 1) * mine * UNIT_BYTES));
        fence_mbar_init();
    }
    if (threadIdx.x < N)
        f->max[threadIdx.x] = -INFINITY;
    if (split > 1)
        cluster_sync_relaxed(); /* the peers' barriers exist before anything is sent to them */
    __syncthreads();
    pdl_launch();
    tile t;
    t.find(g, split, rank);
    if (threadIdx.x >= 256) {
        setmaxnreg_dec<64>();
        int warp = warp_uniform((int)threadIdx.x / 32);
        if (warp == 8) {
            if (elect_one())
                produce<1>(&k_map, smem_u32(ks), smem_u32(f->k_full), smem_u32(f->k_empty), t,
                           &q_map, smem_u32(qs), smem_u32(&f->q));
        } else if (warp == 9) {
            if (elect_one())
                produce<0>(&v_map, smem_u32(vs), smem_u32(f->v_full), smem_u32(f->v_empty), t,
                           nullptr, 0, 0);
        }
        if (warp < FINISHERS) {
            __syncwarp();
            weigh(f, split);
            finish(g.o, ks, t, f, split, rank);
        }
    } else {
        setmaxnreg_inc<216>();
        float o[2][4 * J], l[2 * J];
        route way;
        way.find(f, ks, split, rank);
        pdl_wait(); /* o may still be read by the kernel before */
#pragma unroll
        for (int i = 0; i < 4 * J; i++)
            o[0][i] = o[1][i] = 0.f;
#pragma unroll
        for (int i = 0; i < 2 * J; i++)
            l[i] = 0.f;
        attend(o, l, t, ks, vs, qs, ps, f, g.scale_log2, split, rank);
        send(o, f, way);
        finish(g.o, ks, t, f, split, rank);
    }
    /* Nobody is left behind: a CTA waits for all that is sent to it. */
}

} // namespace

extern "C" int sfx90_attn_split(int max_keys, int horizon, int batch, int n_sm)
{
    int tiles = (horizon * 8 + N - 1) / N * batch, blocks = (max_keys + KEYS - 1) / KEYS, best = 1;
    long best_cost = 0;
    /* Clusters that fit at once on 132 processors, by size. */
    static const int at_once[] = { 0, 132, 66, 39, 30, 24, 17, 15, 15 };
    for (int i = 1; i <= 8 && i <= blocks; i++) {
        int slots = at_once[i] * n_sm / 132, pieces = (blocks + i - 1) / i;
        long waves = (tiles + slots - 1) / slots;
        long cost = waves * ((pieces + 1) / 2 + 2); /* steps; what is not keys costs two */
        if (i == 1 || cost < best_cost) {
            best = i;
            best_cost = cost;
        }
    }
    return best;
}

/* [rows, 256] bf16 as boxes of [4][box rows][64]. */
static CUresult rows_map(tensor_map_encode_fn encode, CUtensorMap *map, const void *base, long rows,
                         int box_rows)
{
    cuuint64_t dims[3] = { 64, (cuuint64_t)rows, E / 64 };
    cuuint64_t stride[2] = { E * 2, 128 };
    cuuint32_t box[3] = { 64, (cuuint32_t)box_rows, E / 64 }, step[3] = { 1, 1, 1 };
    return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, (void *)(uintptr_t)base, dims, stride,
                  box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

extern "C" CUresult sfx90_attn_plan(struct sfx90_attn *a, tensor_map_encode_fn encode,
                                    const void *q, int q_rows, const void *k, const void *v,
                                    long kv_rows)
{
    CUresult r = rows_map(encode, &a->q_map, q, (long)q_rows * 8, N);
    if (r == CUDA_SUCCESS)
        r = rows_map(encode, &a->k_map, k, kv_rows, KEYS);
    if (r == CUDA_SUCCESS)
        r = rows_map(encode, &a->v_map, v, kv_rows, KEYS);
    return r;
}

extern "C" cudaError_t sfx90_attn_launch(const struct sfx90_attn *a, cudaStream_t stream)
{
    cudaError_t e = prepare((const void *)suffix_attn_bf16_sm90, SMEM);
    if (e != cudaSuccess)
        return e;
    args g = {};
    g.o = a->o;
    g.samples = a->samples;
    g.n = a->n;
    g.horizon = a->horizon;
    g.n_state = a->n_state;
    g.tiles = (a->horizon * 8 + N - 1) / N;
    g.kv_row0 = a->kv_row0;
    g.scale_log2 = a->scale * 1.4426950408889634f;
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[0].val.programmaticStreamSerializationAllowed = 1;
    attr[1].id = cudaLaunchAttributeClusterDimension;
    attr[1].val.clusterDim.x = (unsigned)a->split;
    attr[1].val.clusterDim.y = attr[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = dim3((unsigned)((g.tiles + a->query_state) * a->split), (unsigned)a->n);
    cfg.blockDim = dim3(THREADS);
    cfg.dynamicSmemBytes = SMEM;
    cfg.stream = stream;
    cfg.attrs = attr;
    cfg.numAttrs = 2;
    return cudaLaunchKernelEx(&cfg, suffix_attn_bf16_sm90, a->q_map, a->k_map, a->v_map, g,
                              a->split);
}
