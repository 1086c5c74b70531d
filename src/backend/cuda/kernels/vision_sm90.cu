/* SPDX-License-Identifier: Apache-2.0
 * vision_bf16_sm90: the four products of a SigLIP layer with everything between them fused in:
 *     qkv, fc1:  y = bf16(act(rstd · (xg·wᵀ − μ·a) + b))     LayerNorm finished in the epilogue
 *     o, fc2:    x += xin·wᵀ + a; xg = bf16(x ⊙ b); parts of the next LayerNorm
 * Called by: vision_enqueue, M = 256 · images tokens, D = 1152, F = 4304. Long because it is one kernel:
 *            one main loop and three epilogues that share its registers and ring.
 * Tiling:    128 tokens on the wgmma M side (two consumer warpgroups of 64), T features on N, K in
 *            stages of 64 through a ring of tensor-map copies. A cluster of CT × CF × KS CTAs: CT
 *            token tiles share their weights and CF feature tiles their tokens by multicast, KS pieces
 *            of K are added through distributed shared memory in rank order. One tile a CTA.
 *
 *              warps 0: producer · 1-3: row facts and bias to shared memory · 4-11: consumers
 *              ring     k0 k1 … kn | old x, rows 0-63 | old x, rows 64-127     (o, fc2)
 *              KS = 2:  CTA r keeps columns [r·T/2, (r+1)·T/2) and sends the others to their owner
 *
 * Budget:    768 tokens, one layer: 23.4 GFLOP, 30 MB of weights → bound by arithmetic, 30 µs at
 *            773 TFLOP/s. A k16 step is T tensor cycles, which main loops take within 4 %.
 * Now:       µs a launch, chains apart from each other, NVIDIA H200, 2026-11-23: qkv 10.2, o 7.1, fc1
 *            13.3, fc2 15.0 at 768 tokens; 7.9, 6.2, 10.1, 11.9 at 512; docs/worklog-vision.md.
 * Rounding:  one at each bf16 store; statistics, residual, bias and GELU in float32. */
#include "vision_sm90.h"
#include "wgmma_sm90.cuh"

#include <string.h>

using namespace wg90;

namespace
{

constexpr int TOKENS = 128, BLOCK_K = 64, THREADS = 384, HELPERS = 96;
constexpr int OLD_PANEL = 64 * 16 * 4; /* 64 rows of 16 columns of x */
constexpr float EPS = 1e-6f;
/* Stages whose weights are asked for before the predecessor has ended. More would be in front of the
 * first tokens in the queue. */
constexpr int EARLY = 2;

template <int T, int CT, int CF, int KS> struct shape {
    static constexpr int ctas = CT * CF * KS;
    static constexpr int x_bytes = TOKENS * BLOCK_K * 2, w_bytes = T * BLOCK_K * 2;
    static constexpr int stage_bytes = x_bytes + w_bytes;
    static constexpr int facts_bytes = (2 * TOKENS + 2 * T) * 4;
    static constexpr int width = T / KS; /* columns a CTA finishes */
    static constexpr int parts_bytes = (KS - 1) * width * TOKENS * 4;
    static constexpr int fit = (232448 - 1024 - 256 - facts_bytes - parts_bytes) / stage_bytes;
    static constexpr int stages = fit < 8 ? fit : 8;
    static constexpr int smem = 1024 + 256 + facts_bytes + parts_bytes + stages * stage_bytes;
    static constexpr int writers = CT + CF - 1; /* CTAs that fill one CTA's ring */
};

struct args {
    int m, n, ldy, k_blocks, parts_n, parts_width;
    float *part;
    const float *a, *b;
    void *y;
    float *x, scale;
};

/* No clobber of memory, so that loads pass it: a barrier stands before what it wrote is read. */
static __device__ __forceinline__ void stmatrix4(uint32_t at, uint32_t a, uint32_t b, uint32_t c,
                                                 uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                 "r"(a), "r"(b), "r"(c), "r"(d));
}

/* Where this CTA works. */
struct place {
    int ct, cf, kt, token0, feature0, k0, k1;
    uint32_t rank;

    template <int T, int CT, int CF, int KS> __device__ __forceinline__ void find(const args &g)
    {
        rank = CT * CF * KS > 1 ? cluster_ctarank() : 0;
        ct = (int)rank % CT;
        cf = (int)rank / CT % CF;
        kt = (int)rank / (CT * CF);
        token0 = ((int)blockIdx.y * CT + ct) * TOKENS;
        feature0 = ((int)blockIdx.x / (CT * CF * KS) * CF + cf) * T;
        k0 = g.k_blocks * kt / KS;
        k1 = g.k_blocks * (kt + 1) / KS;
    }
};

/* ---------------------------------------------------------------- producer */

/* One lane of a warp that is one branch: the form whose copies take their operands from uniform
 * registers as they are. Shared addresses. */
template <int T, int CT, int CF, int KS> struct producer {
    using S = shape<T, CT, CF, KS>;
    const CUtensorMap *x_map, *w_map, *r_map;
    uint32_t ring, full, empty;
    uint64_t once;
    place p;

    /* This CTA's share of the weight tile, to every token tile of the cluster. */
    __device__ __forceinline__ void weights(int stage, int k) const
    {
        constexpr int rows = T / CT;
        uint32_t to = ring + (uint32_t)(stage * S::stage_bytes + S::x_bytes + p.ct * rows * 128);
        int r = p.feature0 + p.ct * rows;
        tma_load_2d_multicast(to, w_map, full + stage * 8, (p.k0 + k) * BLOCK_K, r,
                              (uint16_t)(((1 << CT) - 1) << (p.rank - p.ct)), once);
    }
    __device__ __forceinline__ void tokens(int stage, int k) const
    {
        constexpr int rows = TOKENS / CF;
        uint32_t to = ring + (uint32_t)(stage * S::stage_bytes + p.cf * rows * 128);
        int r = p.token0 + p.cf * rows;
        if (CF == 1) {
            tma_load_2d(to, x_map, full + stage * 8, (p.k0 + k) * BLOCK_K, r);
        } else {
            uint32_t mask = 0;
#pragma unroll
            for (int i = 0; i < CF; i++)
                mask |= 1u << (p.kt * CT * CF + i * CT + p.ct);
            tma_load_2d_multicast(to, x_map, full + stage * 8, (p.k0 + k) * BLOCK_K, r,
                                  (uint16_t)mask);
        }
    }
    /* ADD: the residual follows the last stage, 64 rows a stage, one for each consumer. */
    template <int MODE> __device__ __forceinline__ void run() const
    {
        int n = p.k1 - p.k0;
#pragma unroll
        for (int k = 0; k < EARLY; k++)
            if (k < n) {
                mbar_expect(full + k * 8, S::stage_bytes);
                weights(k, k);
            }
        pdl_wait();
#pragma unroll
        for (int k = 0; k < EARLY; k++)
            if (k < n)
                tokens(k, k);
        int stage = n < EARLY ? n : EARLY;
        uint32_t phase = 1; /* a barrier's phase before its first counts as complete */
#pragma unroll 1
        for (int k = EARLY; k < n; k++) {
            mbar_wait(empty + stage * 8, phase);
            mbar_expect(full + stage * 8, S::stage_bytes);
            tokens(stage, k);
            weights(stage, k);
            if (++stage == S::stages) {
                stage = 0;
                phase ^= 1;
            }
        }
        if (MODE == VIS90_ADD)
#pragma unroll 1
            for (int q = 0; q < 2; q++) {
                mbar_wait(empty + stage * 8, phase);
                mbar_expect(full + stage * 8, 64 * S::width * 4);
#pragma unroll
                for (int i = 0; i < S::width / 16; i++)
                    tma_load_2d(ring + (uint32_t)(stage * S::stage_bytes + i * OLD_PANEL), r_map,
                                full + stage * 8, p.feature0 + p.kt * S::width + 16 * i,
                                p.token0 + 64 * q);
                if (++stage == S::stages) {
                    stage = 0;
                    phase ^= 1;
                }
            }
    }
};

/* ---------------------------------------------------------------- row facts */

/* Warps 1-3: the two vectors of this tile's features, as { a, a of the next, b, b of the next }. */
template <int T>
static __device__ __forceinline__ void gather_vectors(const args &g, const place &p, float *vab)
{
    constexpr int N = (T + HELPERS - 1) / HELPERS;
    float a[N], b[N];
    int i = (int)threadIdx.x - 32;
#pragma unroll
    for (int j = 0; j < N; j++) { /* all loads before the first use: they come from memory */
        int c = i + j * HELPERS, f = p.feature0 + c;
        int in = c < T && f < g.n;
        a[j] = in && g.a ? g.a[f] : 0.f;
        b[j] = in ? g.b[f] : 0.f;
    }
#pragma unroll
    for (int j = 0; j < N; j++)
        if (i + j * HELPERS < T) { /* pairs lie side by side: one load in the epilogue */
            int c = i + j * HELPERS;
            vab[c / 2 * 4 + c % 2] = a[j];
            vab[c / 2 * 4 + c % 2 + 2] = b[j];
        }
}

/* Warps 1-3: 1/σ and −μ/σ of the CTA's tokens from their parts, two threads a token. All parts of a
 * token are loaded before the first is used. */
static __device__ __forceinline__ void gather_rows(const args &g, const place &p, float2 *row_facts)
{
    int i = (int)threadIdx.x - 32;
    float w = (float)g.parts_width, inv_n = __fdividef(1.f, w * (float)g.parts_n);
#pragma unroll 1
    for (int r = i / 2; r < (TOKENS + 15) / 16 * 16; r += HELPERS / 2) { /* whole warps */
        int row = p.token0 + r;
        const float4 *at = (const float4 *)(g.part + (size_t)row * VIS90_MAX_PARTS * 2) + i % 2;
        float sum = 0.f, m2 = 0.f, d2 = 0.f;
        float4 v[VIS90_MAX_PARTS / 4]; /* parts 4j + 2(i%2) and the next */
#pragma unroll
        for (int j = 0; j < VIS90_MAX_PARTS / 4; j++) {
            int part = 4 * j + i % 2 * 2;
            v[j] = make_float4(0.f, 0.f, 0.f, 0.f);
            if (row < g.m && part < g.parts_n)
                v[j] = __ldcg(at + 2 * j);
        }
#pragma unroll
        for (int j = 0; j < VIS90_MAX_PARTS / 4; j++) {
            int part = 4 * j + i % 2 * 2;
            if (part + 1 >= g.parts_n)
                v[j].z = v[j].w = 0.f; /* never written */
            sum += v[j].x + v[j].z;
            m2 += v[j].y + v[j].w;
        }
        sum += __shfl_xor_sync(~0u, sum, 1);
        float mean = sum * inv_n;
#pragma unroll
        for (int j = 0; j < VIS90_MAX_PARTS / 4; j++) {
            int part = 4 * j + i % 2 * 2;
            float a = v[j].x - w * mean, b = v[j].z - w * mean;
            d2 += part < g.parts_n ? a * a : 0.f;
            d2 += part + 1 < g.parts_n ? b * b : 0.f;
        }
        m2 += __fdividef(d2, w);
        m2 += __shfl_xor_sync(~0u, m2, 1);
        float rstd = rsqrtf(m2 * inv_n + EPS);
        if (i % 2 == 0)
            row_facts[r] = make_float2(rstd, -mean * rstd);
    }
}

/* ---------------------------------------------------------------- consumers */

/* mbar_arrive_cluster at a mapped address without a branch: one here would stand between products. */
static __device__ __forceinline__ void arrive_mapped_if(int yes, uint32_t bar)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n"
                 "@p mbarrier.arrive.shared::cluster.b64 _, [%1];\n}" ::"r"(yes),
                 "r"(bar)
                 : "memory");
}

/* `after`: stages that the producer fills behind the products'. Every piece of K has a stage. A turn of
 * the ring is unrolled; descriptors are a warpgroup's low word and a constant, so that they stay in
 * uniform registers. `meanwhile` runs beside the last block's products, the one block that is still
 * being read. */
template <int T, int CT, int CF, int KS, class F>
static __device__ __forceinline__ void main_loop(float (&d)[T / 2], uint32_t ring, uint32_t full,
                                                 uint32_t empty, const place &p, int after,
                                                 const F &meanwhile)
{
    using S = shape<T, CT, CF, KS>;
    const uint64_t high = desc_k128(nullptr) & 0xFFFFFFFF00000000u;
    int q = warp_uniform((int)threadIdx.x / 128) - 1, n = p.k1 - p.k0;
    uint32_t a0 = (ring + (uint32_t)q * 64 * 128) >> 4 | 1u << 16;
    uint32_t b0 = (ring + S::x_bytes) >> 4 | 1u << 16;
    /* Every CTA that writes this ring is told that a stage is free, if it waits for it. */
    int i = (int)threadIdx.x % 128, first = p.kt * CT * CF;
    int to =
        i < CT ? first + p.cf * CT + i : first + (i - CT + (i - CT >= p.cf ? 1 : 0)) * CT + p.ct;
    uint32_t writer = mapa(empty, (uint32_t)(i < S::writers ? to : first));
    int told = i < S::writers ? n + after - S::stages : 0;
    uint32_t phase = 0;
    for (int k0 = 0;; k0 += S::stages) {
#pragma unroll
        for (int s = 0; s < S::stages; s++) {
            int k = k0 + s;
            if (k >= n) {
                meanwhile();
                wgmma_wait<0>();
                return;
            }
            mbar_wait(full + s * 8, phase);
            wgmma_fence();
#pragma unroll
            for (int kk = 0; kk < BLOCK_K / 16; kk++)
                mma<T>(d, high | (a0 + s * (S::stage_bytes / 16) + 2 * kk),
                       high | (b0 + s * (S::stage_bytes / 16) + 2 * kk), k | kk);
            wgmma_commit();
            wgmma_wait<1>(); /* the stage before this one has been read */
            arrive_mapped_if(k > 0 && k <= told, writer + (s ? s - 1 : S::stages - 1) * 8);
        }
        phase ^= 1;
    }
}

/* v · 1 / (1 + exp(-2z)), z = sqrt(2/π)(v + 0.044715 v³). Two features share a reciprocal; 2^40 bounds
 * their product: past it the result is below 1e-12 of v. Never two tokens: a row's bits must not
 * depend on its neighbour. */
static __device__ __forceinline__ float2 gelu2(float v, float w)
{
    float a = 1.0f + ex2(fminf(v * fmaf(-0.102943240f, v * v, -2.302208198f), 40.0f));
    float b = 1.0f + ex2(fminf(w * fmaf(-0.102943240f, w * w, -2.302208198f), 40.0f));
    float r = rcp(a * b);
    return make_float2(v * (r * b), w * (r * a));
}

/* A warp's 16 rows of COLUMNS 16-byte pieces from shared memory (PITCH) to memory: 32 / COLUMNS rows at
 * a time, so that only the row moves. */
template <int COLUMNS, int PITCH>
static __device__ __forceinline__ void store_rows(const unsigned char *from, void *to, size_t pitch,
                                                  int rows, int columns)
{
    constexpr int R = 32 / COLUMNS;
    int lane = threadIdx.x % 32, r = lane / COLUMNS, c = lane % COLUMNS;
    from += r * PITCH + c * 16;
    unsigned char *at = (unsigned char *)to + (size_t)r * pitch + c * 16;
    rows = r < R && c < columns ? rows - r : 0;
#pragma unroll
    for (int i = 0; i < 16; i += R) {
        if (i < rows && (16 % R == 0 || i + r < 16))
            *(uint4 *)at = *(const uint4 *)(from + i * PITCH);
        at += R * pitch;
    }
}

/* What the end of NORM and GELU needs before its first products. */
template <int T> struct norm_end {
    /* Bytes a row: an odd number of 16-byte pieces. */
    static constexpr int PITCH = 2 * T + (T / 8 % 2 ? 0 : 16);
    float2 f[2];
    float4 next[2];

    __device__ __forceinline__ void load(const float2 *row_facts, const float *vab)
    {
        int warp = (int)threadIdx.x / 32 - 4, lane = threadIdx.x % 32;
        f[0] = row_facts[warp * 16 + lane / 4];
        f[1] = row_facts[warp * 16 + lane / 4 + 8];
        next[0] = ((const float4 *)vab)[lane % 4];
        next[1] = ((const float4 *)vab)[lane % 4 + 4];
    }
};

/* bf16 rows through shared memory: fragments in by stmatrix, 16-byte pieces out. */
template <int T, int MODE>
static __device__ __forceinline__ void store_norm(const float (&d)[T / 2], const norm_end<T> &e,
                                                  unsigned char *staging, const float *vab,
                                                  const args &g, const place &p)
{
    constexpr int PITCH = norm_end<T>::PITCH;
    int warp = (int)threadIdx.x / 32 - 4, lane = threadIdx.x % 32, r0 = warp * 16;
    const float2(&f)[2] = e.f;
    unsigned char *mine = staging + r0 * PITCH;
    uint32_t at = smem_u32(mine + lane % 16 * PITCH + lane / 16 * 16);
    const float4 *ab = (const float4 *)vab + lane % 4;
    float4 next[2] = { e.next[0], e.next[1] };
    int row = p.token0 + r0, columns = (g.n - p.feature0) / 8;
    __nv_bfloat16 *y = (__nv_bfloat16 *)g.y + (size_t)row * g.ldy + p.feature0;
#pragma unroll
    for (int j = 0; j < T / 8; j += 2) {
        uint32_t v[4];
        float4 now[2] = { next[0], next[1] };
        if (j + 2 < T / 8) { /* loads do not pass the stores below */
            next[0] = ab[4 * (j + 2)];
            next[1] = ab[4 * (j + 3)];
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float4 c = now[i];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float2 t = { fmaf(d[4 * (j + i) + 2 * h], f[h].x, fmaf(f[h].y, c.x, c.z)),
                             fmaf(d[4 * (j + i) + 2 * h + 1], f[h].x, fmaf(f[h].y, c.y, c.w)) };
                if (MODE == VIS90_GELU)
                    t = gelu2(t.x, t.y);
                v[2 * i + h] = pack_bf16(t.x, t.y);
            }
        }
        stmatrix4(at + j * 16, v[0], v[1], v[2], v[3]);
        /* 64 columns leave while the next are worked out */
        constexpr int LAST = T / 8 % 8 ? T / 8 % 8 : 8;
        if (j % 8 == 6) {
            __syncwarp();
            store_rows<8, PITCH>(mine + (j - 6) * 16, y + (j - 6) * 8, (size_t)g.ldy * 2, g.m - row,
                                 columns - (j - 6));
        } else if (j + 2 == T / 8) {
            __syncwarp();
            store_rows<LAST, PITCH>(mine + (T / 8 - LAST) * 16, y + T - 8 * LAST, (size_t)g.ldy * 2,
                                    g.m - row, columns - (T / 8 - LAST));
        }
    }
}

template <int T>
static __device__ __forceinline__ void store_f32(const float (&d)[T / 2], const float2 *row_facts,
                                                 const float *vab, const args &g, const place &p)
{
    int r0 = ((int)threadIdx.x / 32 - 4) * 16 + (int)threadIdx.x % 32 / 4;
    int c0 = (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = p.token0 + r0 + 8 * h;
        float2 f = row_facts[r0 + 8 * h];
#pragma unroll
        for (int j = 0; j < T / 8; j++) {
            int c = 8 * j + c0;
            float4 v = *(const float4 *)(vab + 2 * c);
            if (row < g.m && p.feature0 + c < g.n)
                *(float2 *)((float *)g.y + (size_t)row * g.ldy + p.feature0 + c) =
                    make_float2(fmaf(d[4 * j + 2 * h], f.x, fmaf(f.y, v.x, v.z)),
                                fmaf(d[4 * j + 2 * h + 1], f.x, fmaf(f.y, v.y, v.w)));
        }
    }
}

/* Sends the columns that other CTAs finish: slot s of a receiver is the s-th other sender. */
template <int T, int CT, int CF, int KS>
static __device__ __forceinline__ void send_parts(const float (&d)[T / 2], unsigned char *parts,
                                                  uint64_t *parts_here, const place &p)
{
    constexpr int W = T / KS;
    int i = (int)threadIdx.x - 128;
#pragma unroll
    for (int o = 0; o < KS; o++) {
        if (o == p.kt)
            continue;
        uint32_t at =
            smem_u32(parts) + (p.kt < o ? p.kt : p.kt - 1) * (W / 2) * 256 * 4 + (uint32_t)i * 16;
        uint32_t rank = (uint32_t)(o * CT * CF + p.cf * CT + p.ct);
        uint32_t to = mapa(at, rank), bar = mapa(smem_u32(parts_here), rank);
#pragma unroll
        for (int v = 0; v < W / 8; v++)
            st_async(to + v * 4096, d[o * W / 2 + 4 * v], d[o * W / 2 + 4 * v + 1],
                     d[o * W / 2 + 4 * v + 2], d[o * W / 2 + 4 * v + 3], bar);
    }
}

static __device__ __forceinline__ float quad_sum(float v)
{
    v += __shfl_xor_sync(~0u, v, 1);
    return v + __shfl_xor_sync(~0u, v, 2);
}

/* The residual of 64 rows as it was copied, panels of 16 columns, to fragment order. */
template <int W>
static __device__ __forceinline__ void load_old(float2 (&x)[W / 4], const unsigned char *old)
{
    int lane = threadIdx.x % 32;
    old += ((int)threadIdx.x / 32 % 4 * 16 + lane / 4) * 64 + lane % 4 * 8;
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < W / 8; j++)
            x[h * (W / 8) + j] =
                *(const float2 *)(old + j / 2 * OLD_PANEL + h * 8 * 64 + j % 2 * 32);
}

/* x += scale · the sums of this CTA's columns + bias, then what the others sent, in their order. */
template <int T, int KS>
static __device__ __forceinline__ void add_sums(float2 (&x)[T / KS / 4], const float (&d)[T / 2],
                                                const float *vab, const unsigned char *parts,
                                                uint64_t *parts_here, float scale, const place &p)
{
    constexpr int W = T / KS;
#pragma unroll
    for (int o = 0; o < KS; o++)
        if (o == p.kt)
#pragma unroll
            for (int j = 0; j < W / 8; j++) {
                float4 c = ((const float4 *)vab)[4 * j + threadIdx.x % 4];
                x[j].x += fmaf(d[o * W / 2 + 4 * j], scale, c.x);
                x[j].y += fmaf(d[o * W / 2 + 4 * j + 1], scale, c.y);
                x[W / 8 + j].x += fmaf(d[o * W / 2 + 4 * j + 2], scale, c.x);
                x[W / 8 + j].y += fmaf(d[o * W / 2 + 4 * j + 3], scale, c.y);
            }
    if (KS == 1)
        return;
    mbar_wait_cluster(parts_here, 0);
    const float4 *at = (const float4 *)parts + ((int)threadIdx.x - 128);
#pragma unroll
    for (int s = 0; s < KS - 1; s++)
#pragma unroll
        for (int j = 0; j < W / 8; j++) {
            float4 t = at[(s * (W / 8) + j) * 256];
            x[j].x = fmaf(t.x, scale, x[j].x);
            x[j].y = fmaf(t.y, scale, x[j].y);
            x[W / 8 + j].x = fmaf(t.z, scale, x[W / 8 + j].x);
            x[W / 8 + j].y = fmaf(t.w, scale, x[W / 8 + j].y);
        }
}

/* The new x, xg and the parts of its norm. Rows leave through shared memory, 16 of a warp's own:
 * fragments would touch eight lines a store. */
template <int W>
static __device__ __forceinline__ void store_add(const float2 (&x)[W / 4], const float *vab,
                                                 const args &g, int row0, int col0,
                                                 unsigned char *staging)
{
    constexpr int PX = 4 * W + 32, PG = 2 * W + 16; /* bytes a row: few bank conflicts */
    int lane = threadIdx.x % 32, c0 = lane % 4 * 2, rows = g.m - row0;
    unsigned char *xs = staging + ((int)threadIdx.x / 32 - 4) * 16 * (PX + PG), *gs = xs + 16 * PX;
#pragma unroll
    for (int j = 0; j < W / 8; j++) {
        float4 c = ((const float4 *)vab)[4 * j + lane % 4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int r = lane / 4 + 8 * h;
            float2 v = x[h * (W / 8) + j];
            *(float2 *)(xs + r * PX + (8 * j + c0) * 4) = v;
            *(uint32_t *)(gs + r * PG + (8 * j + c0) * 2) = pack_bf16(v.x * c.z, v.y * c.w);
        }
    }
    __syncwarp();
    if (col0 >= g.n) /* N is a multiple of W: all columns or none */
        return;
    store_rows<W / 8, PG>(gs, (__nv_bfloat16 *)g.y + (size_t)row0 * g.n + col0, (size_t)g.n * 2,
                          rows, W / 8);
    store_rows<W / 4, PX>(xs, g.x + (size_t)row0 * g.n + col0, (size_t)g.n * 4, rows, W / 4);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = 0.f, m2 = 0.f;
#pragma unroll
        for (int j = 0; j < W / 8; j++)
            sum += x[h * (W / 8) + j].x + x[h * (W / 8) + j].y;
        sum = quad_sum(sum);
        float mean = sum / W;
#pragma unroll
        for (int j = 0; j < W / 8; j++) {
            float2 v = x[h * (W / 8) + j];
            m2 += (v.x - mean) * (v.x - mean) + (v.y - mean) * (v.y - mean);
        }
        m2 = quad_sum(m2);
        int r = lane / 4 + 8 * h;
        if (lane % 4 == 0 && r < rows)
            *(float2 *)(g.part + ((size_t)(row0 + r) * VIS90_MAX_PARTS + col0 / W) * 2) =
                make_float2(sum, m2);
    }
}

/* Consumers wait for the helpers' facts and for each other: the ring is free after it. */
static __device__ __forceinline__ void facts_wait(void)
{
    asm volatile("bar.sync 1, 352;" ::: "memory");
}
static __device__ __forceinline__ void facts_ready(void)
{
    asm volatile("bar.arrive 1, 352;" ::: "memory");
}

template <int T, int CT, int CF, int KS, int MODE>
__global__ void __launch_bounds__(THREADS, 1)
    vision_bf16_sm90(const __grid_constant__ CUtensorMap x_map,
                     const __grid_constant__ CUtensorMap w_map,
                     const __grid_constant__ CUtensorMap r_map, const args g)
{
    using S = shape<T, CT, CF, KS>;
    extern __shared__ unsigned char raw[];
    unsigned char *ring = raw + (-smem_u32(raw) & 1023);
    unsigned char *parts = ring + S::stages * S::stage_bytes;
    float *vab = (float *)(parts + S::parts_bytes);
    float2 *row_facts = (float2 *)(vab + 2 * T);
    uint64_t *full = (uint64_t *)(row_facts + TOKENS), *empty = full + S::stages;
    uint64_t *parts_here = empty + S::stages;
    place p = {};
    p.find<T, CT, CF, KS>(g);
    if (threadIdx.x == 0) {
        prefetch_tensormap(&x_map);
        prefetch_tensormap(&w_map);
        for (int i = 0; i < S::stages; i++) {
            mbar_init(&full[i], 1);
            mbar_init(&empty[i], 2 * S::writers);
        }
        if (KS > 1) {
            mbar_init(parts_here, 1);
            mbar_expect(parts_here, S::parts_bytes);
        }
        fence_mbar_init();
    }
    cluster_sync_relaxed(); /* the peers' barriers exist before anything is sent to them */
    if (threadIdx.x < 128) {
        setmaxnreg_dec<56>();
        if (warp_uniform((int)threadIdx.x / 32) == 0) {
            if (elect_one())
                producer<T, CT, CF, KS>{ &x_map,
                                         &w_map,
                                         &r_map,
                                         smem_u32(ring),
                                         smem_u32(full),
                                         smem_u32(empty),
                                         policy_evict_first(),
                                         p }
                    .template run<MODE>();
        } else {
            gather_vectors<T>(g, p, vab);
            if (MODE != VIS90_ADD) {
                pdl_wait();
                gather_rows(g, p, row_facts);
            }
            facts_ready();
        }
    } else {
        setmaxnreg_inc<224>();
        float d[T / 2];
        if constexpr (MODE == VIS90_ADD) {
            constexpr int W = S::width;
            /* Stages that the rows on their way out need, beside the two of the old x. */
            constexpr int OUT = (TOKENS * (6 * W + 48) + S::stage_bytes - 1) / S::stage_bytes;
            static_assert(S::stages > 2 * OUT && 64 * W * 4 <= S::stage_bytes, "");
            int warp = (int)threadIdx.x / 32 - 4, n = p.k1 - p.k0;
            float2 x[W / 4];
            main_loop<T, CT, CF, KS>(d, smem_u32(ring), smem_u32(full), smem_u32(empty), p, 2,
                                     [] {});
            pdl_launch();
            if (KS > 1)
                send_parts<T, CT, CF, KS>(d, parts, parts_here, p);
            facts_wait();
            int old = (n + warp / 4) % S::stages, after = n % S::stages;
            mbar_wait(&full[old], (uint32_t)((n + warp / 4) / S::stages) & 1);
            load_old<W>(x, ring + old * S::stage_bytes);
            add_sums<T, KS>(x, d, vab + p.kt * W * 2, parts, parts_here, g.scale, p);
            int out = after == S::stages - 1 ? 1 : after >= OUT ? 0 : after + 2;
            store_add<W>(x, vab + p.kt * W * 2, g, p.token0 + warp * 16, p.feature0 + p.kt * W,
                         ring + out * S::stage_bytes);
        } else {
            /* What these warps write and read was ordered by the producer's wait. */
            norm_end<T> e;
            main_loop<T, CT, CF, KS>(d, smem_u32(ring), smem_u32(full), smem_u32(empty), p, 0, [&] {
                facts_wait();
                pdl_launch();
                e.load(row_facts, vab);
            });
            /* Rows leave through two stages that do not hold the last block. */
            int from = p.k1 % S::stages == S::stages - 1 ? 0 : p.k1 % S::stages;
            static_assert(S::stages >= 4 && TOKENS * norm_end<T>::PITCH <= 2 * S::stage_bytes, "");
            if constexpr (MODE == VIS90_F32)
                store_f32<T>(d, row_facts, vab, g, p);
            else
                store_norm<T, MODE>(d, e, ring + from * S::stage_bytes, vab, g, p);
        }
    }
    /* Nobody is left behind: a CTA waits for all that is sent into its ring, and stages are released
     * only to producers that wait for them. */
}

/* ---------------------------------------------------------------- once a weight */

/* A warp a feature. */
__global__ void __launch_bounds__(256)
    vision_fold_sm90(const __nv_bfloat16 *w, const float *gamma, const float *beta,
                     const void *bias, int bias_f32, float *wg, float *wb, int n, int k)
{
    int f = (int)(blockIdx.x * 8 + threadIdx.x / 32), lane = threadIdx.x % 32;
    if (f >= n)
        return;
    float g = 0.f, b = 0.f;
    for (int i = lane; i < k; i += 32) {
        float v = __bfloat162float(w[(size_t)f * k + i]);
        g += v * gamma[i];
        b += v * beta[i];
    }
    for (int i = 16; i > 0; i /= 2) {
        g += __shfl_xor_sync(~0u, g, i);
        b += __shfl_xor_sync(~0u, b, i);
    }
    if (lane == 0) {
        wg[f] = g;
        wb[f] = b + (bias_f32 ? ((const float *)bias)[f]
                              : __bfloat162float(((const __nv_bfloat16 *)bias)[f]));
    }
}

/* ---------------------------------------------------------------- launchers */

struct tile_info {
    int t, ct, cf, ks, modes;
    const char *name;
};
#define NORMS (1 << VIS90_NORM | 1 << VIS90_GELU)
#define ADDS (1 << VIS90_ADD)
/* One line a tile: T, CT, CF, KS, modes. The kernels are instantiated from the same list. */
#define TILES(X)                                       \
    X(0, 176, 2, 2, 1, NORMS, "128x176 2x2")           \
    X(1, 160, 2, 1, 1, NORMS, "128x160 2x1")           \
    X(2, 224, 2, 2, 1, NORMS, "128x224 2x2")           \
    X(3, 208, 2, 1, 1, NORMS, "128x208 2x1")           \
    X(4, 128, 2, 2, 1, NORMS, "128x128 2x2")           \
    X(5, 144, 2, 1, 1, NORMS, "128x144 2x1")           \
    X(6, 128, 2, 1, 2, ADDS, "128x128 2x1x2")          \
    X(7, 96, 2, 2, 2, ADDS, "128x96 2x2x2")            \
    X(8, 64, 2, 2, 1, ADDS, "128x64 2x2")              \
    X(9, 48, 2, 2, 1, ADDS, "128x48 2x2")              \
    X(10, 144, 2, 1, 1, 1 << VIS90_F32, "128x144 2x1") \
    X(11, 192, 2, 2, 1, NORMS, "128x192 2x2")          \
    X(12, 112, 2, 1, 1, NORMS, "128x112 2x1")

constexpr tile_info tiles[] = {
#define X(i, t, ct, cf, ks, modes, name) { t, ct, cf, ks, modes, name },
    TILES(X)
#undef X
};
constexpr int N_TILES = sizeof tiles / sizeof tiles[0];

template <int T, int CT, int CF, int KS, int MODE>
cudaError_t launch(const struct vis90_gemm *g, int pdl, cudaStream_t stream)
{
    using S = shape<T, CT, CF, KS>;
    if ((g->k + BLOCK_K - 1) / BLOCK_K < KS)
        return cudaErrorInvalidValue;
    cudaError_t e = cudaFuncSetAttribute(vision_bf16_sm90<T, CT, CF, KS, MODE>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, S::smem);
    if (e != cudaSuccess)
        return e;
    args a = {};
    a.m = g->m;
    a.n = g->n;
    a.ldy = g->ldy ? g->ldy : g->n;
    a.k_blocks = (g->k + BLOCK_K - 1) / BLOCK_K;
    a.parts_n = g->parts.n;
    a.parts_width = g->parts.width;
    a.part = g->parts.part;
    a.a = g->a;
    a.b = g->b;
    a.y = g->y;
    a.x = g->x;
    a.scale = g->scale != 0.f ? g->scale : 1.f;
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeClusterDimension;
    attr[0].val.clusterDim.x = S::ctas;
    attr[0].val.clusterDim.y = attr[0].val.clusterDim.z = 1;
    attr[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    /* Features first: the last CTAs, which start when the predecessor's last have ended, find weights
     * in L2 that others have asked for. */
    cfg.gridDim = dim3((unsigned)((g->n + CF * T - 1) / (CF * T) * S::ctas),
                       (unsigned)((g->m + CT * TOKENS - 1) / (CT * TOKENS)));
    cfg.blockDim = dim3(THREADS);
    cfg.dynamicSmemBytes = S::smem;
    cfg.stream = stream;
    cfg.attrs = attr;
    cfg.numAttrs = pdl ? 2 : 1;
    return cudaLaunchKernelEx(&cfg, vision_bf16_sm90<T, CT, CF, KS, MODE>, g->x_map, g->w_map,
                              g->r_map, a);
}

template <int MODE, int T, int CT, int CF, int KS, int MODES> struct pick {
    static cudaError_t go(const struct vis90_gemm *g, int pdl, cudaStream_t s)
    {
        if constexpr ((MODES >> MODE & 1) != 0)
            return launch<T, CT, CF, KS, MODE>(g, pdl, s);
        else
            return cudaErrorInvalidValue;
    }
};

template <int MODE> cudaError_t dispatch(const struct vis90_gemm *g, int pdl, cudaStream_t s)
{
    switch (g->tile) {
#define X(i, t, ct, cf, ks, modes, name) \
    case i: return pick<MODE, t, ct, cf, ks, modes>::go(g, pdl, s);
        TILES(X)
#undef X
    }
    return cudaErrorInvalidValue;
}

} // namespace

extern "C" int vis90_tiles(void) { return N_TILES; }
extern "C" int vis90_tile_has(int tile, enum vis90_mode mode)
{
    return tile >= 0 && tile < N_TILES && (tiles[tile].modes >> mode & 1);
}
extern "C" const char *vis90_tile_name(int tile) { return tiles[tile].name; }
extern "C" int vis90_part_width(int tile) { return tiles[tile].t / tiles[tile].ks; }

extern "C" int vis90_tile(enum vis90_mode mode, int m, int n, int k, int n_sm)
{
    int best = -1;
    long best_cost = 0;
    for (int i = 0; i < N_TILES; i++) {
        const tile_info &t = tiles[i];
        int size = t.ct * t.cf * t.ks;
        /* Clusters that fit at once on 132 processors, by size: GPCs are not multiples of all. */
        static const int at_once[] = { 0, 132, 66, 39, 30, 24, 17, 15, 15 };
        int slots = n_sm * at_once[size] / 132;
        if (!vis90_tile_has(i, mode) || (mode == VIS90_ADD && n % t.t) || slots < 1)
            continue;
        if (mode == VIS90_ADD && n / (t.t / t.ks) > VIS90_MAX_PARTS)
            continue;
        if ((k + BLOCK_K - 1) / BLOCK_K < t.ks) /* every piece of K has a block */
            continue;
        long clusters = (long)((m + t.ct * TOKENS - 1) / (t.ct * TOKENS)) *
                        ((n + t.cf * t.t - 1) / (t.cf * t.t));
        long waves = (clusters + slots - 1) / slots;
        /* Cycles of 16 columns of K: tensor cores, what a processor takes in at 68 bytes a cycle, L2
         * (weights come from memory and count twice). Then the sums that a peer is sent at 14 bytes
         * a cycle, and the columns that a CTA finishes. */
        long step = t.t, in = (TOKENS + t.t) * 15 / 32, l2 = TOKENS / t.cf / 2 + t.t / t.ct;
        step = step > in ? step : in;
        step = step > l2 ? step : l2;
        long sums = t.t * (t.ks - 1) / t.ks * 36, end = t.t / t.ks * 20;
        long cost = waves * ((k / t.ks + 15) / 16 * step + 2500 + sums + end + size * 20);
        if (best < 0 || cost < best_cost) {
            best = i;
            best_cost = cost;
        }
    }
    return best;
}

extern "C" CUresult vis90_gemm_plan(struct vis90_gemm *g, tensor_map_encode_fn encode,
                                    const void *xin, const void *w)
{
    const tile_info &t = tiles[g->tile];
    if (g->mode == VIS90_ADD) {
        cuuint64_t dims[2] = { (cuuint64_t)g->n, (cuuint64_t)g->m };
        cuuint64_t stride[1] = { (cuuint64_t)g->n * 4 };
        cuuint32_t box[2] = { 16, 64 }, step[2] = { 1, 1 };
        CUresult e = encode(&g->r_map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, g->x, dims, stride, box,
                            step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
        if (e != CUDA_SUCCESS)
            return e;
    }
    CUresult r =
        tensor_map_2d(encode, &g->x_map, xin, g->m, g->k, g->ldx ? g->ldx : g->k, TOKENS / t.cf);
    return r != CUDA_SUCCESS ? r
                             : tensor_map_2d(encode, &g->w_map, w, g->n, g->k,
                                             g->ldw ? g->ldw : g->k, t.t / t.ct);
}

extern "C" cudaError_t vis90_gemm_launch(const struct vis90_gemm *g, int pdl, cudaStream_t s)
{
    switch (g->mode) {
    case VIS90_NORM: return dispatch<VIS90_NORM>(g, pdl, s);
    case VIS90_GELU: return dispatch<VIS90_GELU>(g, pdl, s);
    case VIS90_ADD: return dispatch<VIS90_ADD>(g, pdl, s);
    case VIS90_F32: return dispatch<VIS90_F32>(g, pdl, s);
    }
    return cudaErrorInvalidValue;
}

extern "C" cudaError_t vis90_fold(const void *w, const float *gamma, const float *beta,
                                  const void *bias, int bias_f32, float *wg, float *wb, int n,
                                  int k, cudaStream_t stream)
{
    vision_fold_sm90<<<(unsigned)((n + 7) / 8), 256, 0, stream>>>(
        (const __nv_bfloat16 *)w, gamma, beta, bias, bias_f32, wg, wb, n, k);
    return cudaGetLastError();
}
