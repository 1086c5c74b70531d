/* SPDX-License-Identifier: Apache-2.0
 * vision_bf16_sm90: the four products of a SigLIP layer with everything between them fused in:
 *     qkv, fc1:  y = bf16(act(rstd · (xg·wᵀ − μ·a) + b))     LayerNorm finished in the epilogue
 *     o, fc2:    x += xin·wᵀ + a; xg = bf16(x ⊙ b); parts of the next LayerNorm
 * Called by: vision_enqueue, M = 256 · images tokens, D = 1152, F = 4304.
 * Tiling:    128 tokens on the wgmma M side (two consumer warpgroups of 64), T features on N, K in
 *            stages of 64 through a ring of tensor-map copies. A cluster of CT × CF × KS CTAs: CT
 *            token tiles share their weights and CF feature tiles their tokens by multicast, KS pieces
 *            of K are added through distributed shared memory in rank order. One tile a CTA.
 *
 *              warps 0: producer · 1-3: row facts and bias to shared memory · 4-11: consumers
 *              KS = 3:  CTA r keeps columns [r·T/3, (r+1)·T/3) and sends the others to their owners
 *
 * Budget:    768 tokens, one layer: 23.4 GFLOP, 30 MB of weights → bound by arithmetic, 30 µs at
 *            773 TFLOP/s. Per k16 step a CTA needs T tensor cycles and 64 + 3T/4 of shared memory, so
 *            T ≥ 176 where it can be had.
 * Now:       µs a launch in a chain under programmatic launch, weights from memory: qkv 12.2, o 10.5,
 *            fc1 15.6, fc2 19.2 at 768 tokens; 10.2, 9.5, 12.1, 15.1 at 512. NVIDIA H200, 2026-11-22.
 *            The main loops are 6.7, 2.6, 9, 10.5 of these: docs/worklog-vision.md has the rest.
 * Rounding:  one at each bf16 store; statistics, residual and bias in float32.
 * Long because the four products are one kernel: they share the main loop, the tiles and the choice. */
#include "vision_sm90.h"
#include "wgmma_sm90.cuh"

#include <string.h>

using namespace wg90;

namespace
{

constexpr int TOKENS = 128, BLOCK_K = 64, THREADS = 384, HELPERS = 96;
constexpr float EPS = 1e-6f;

template <int T, int CT, int CF, int KS> struct shape {
    static constexpr int ctas = CT * CF * KS;
    static constexpr int x_bytes = TOKENS * BLOCK_K * 2, w_bytes = T * BLOCK_K * 2;
    static constexpr int stage_bytes = x_bytes + w_bytes;
    static constexpr int facts_bytes = (2 * TOKENS + 2 * T) * 4;
    static constexpr int fit = (232448 - 1024 - 256 - facts_bytes) / stage_bytes;
    static constexpr int stages = fit < 8 ? fit : 8;
    static constexpr int smem = 1024 + 256 + facts_bytes + stages * stage_bytes;
    static constexpr int writers = CT + CF - 1; /* CTAs that fill one CTA's ring */
    static constexpr int width = T / KS;        /* columns a CTA finishes */
    /* Bytes between rows of the bf16 staging: an odd number of 16-byte chunks, mod 128. */
    static constexpr int pitch = 2 * T + (T / 8 % 2 ? 0 : 16);
};

struct args {
    int m, n, k_blocks, token_groups, parts_n, parts_width;
    float *part;
    const float *a, *b;
    void *y;
    float *x;
    const unsigned char *next;
    uint32_t next_slice, next_bytes;
};

template <int T>
static __device__ __forceinline__ void mma(float (&d)[T / 2], uint64_t a, uint64_t b,
                                           int accumulate);
#define MMA(N)                                                                       \
    template <>                                                                      \
    __device__ __forceinline__ void mma<N>(float(&d)[N / 2], uint64_t a, uint64_t b, \
                                           int accumulate)                           \
    {                                                                                \
        wgmma_ss_n##N(d, a, b, accumulate);                                          \
    }
MMA(128)
MMA(144)
MMA(160)
MMA(176)
MMA(192)
MMA(208)
MMA(224)
#undef MMA

static __device__ __forceinline__ void stmatrix4(uint32_t at, uint32_t a, uint32_t b, uint32_t c,
                                                 uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}

/* For barriers alone: their initialisation has its own fence, and no other data is published. The
 * releasing form is a fence to the whole GPU. */
static __device__ __forceinline__ void cluster_sync_relaxed(void)
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n"
                 "barrier.cluster.wait.aligned;" ::
                     : "memory");
}

/* Waits for data that peers sent by st.async. */
static __device__ __forceinline__ void mbar_wait_cluster(uint64_t *bar, uint32_t parity)
{
    asm volatile("{\n.reg .pred p;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\n"
                 "bra again;\n"
                 "done:\n}\n" ::"r"(smem_u32(bar)),
                 "r"(parity)
                 : "memory");
}

static __device__ __forceinline__ void prefetch_l2(const void *p, uint32_t bytes)
{
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
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
        int c = (int)blockIdx.x / (CT * CF * KS);
        token0 = (c % g.token_groups * CT + ct) * TOKENS;
        feature0 = (c / g.token_groups * CF + cf) * T;
        k0 = g.k_blocks * kt / KS;
        k1 = g.k_blocks * (kt + 1) / KS;
    }
};

/* ---------------------------------------------------------------- producer */

template <int T, int CT, int CF, int KS> struct producer {
    using S = shape<T, CT, CF, KS>;
    const CUtensorMap *x_map, *w_map;
    unsigned char *ring;
    uint64_t *full, *empty;
    place p;
    const unsigned char *next; /* this CTA's share of the next product's weights */
    uint32_t next_bytes, next_step;

    /* A piece of them into L2 with each stage, so that memory works while the tensor cores do. */
    __device__ __forceinline__ void prefetch(int k) const
    {
        uint32_t at = (uint32_t)k * next_step;
        if (at < next_bytes)
            prefetch_l2(next + at, next_bytes - at < next_step ? next_bytes - at : next_step);
    }

    /* This CTA's share of the weight tile, to every token tile of the cluster. */
    __device__ __forceinline__ void weights(int stage, int k) const
    {
        constexpr int rows = T / CT;
        unsigned char *to = ring + stage * S::stage_bytes + S::x_bytes + p.ct * rows * 128;
        int r = p.feature0 + p.ct * rows;
        if (CT == 1)
            tma_load_2d(to, w_map, &full[stage], k * BLOCK_K, r);
        else
            tma_load_2d_multicast(to, w_map, &full[stage], k * BLOCK_K, r,
                                  (uint16_t)(((1 << CT) - 1) << (p.rank - p.ct)));
    }
    __device__ __forceinline__ void tokens(int stage, int k) const
    {
        constexpr int rows = TOKENS / CF;
        unsigned char *to = ring + stage * S::stage_bytes + p.cf * rows * 128;
        int r = p.token0 + p.cf * rows;
        if (CF == 1) {
            tma_load_2d(to, x_map, &full[stage], k * BLOCK_K, r);
        } else {
            uint32_t mask = 0;
#pragma unroll
            for (int i = 0; i < CF; i++)
                mask |= 1u << (p.kt * CT * CF + i * CT + p.ct);
            tma_load_2d_multicast(to, x_map, &full[stage], k * BLOCK_K, r, (uint16_t)mask);
        }
    }
    /* The first ring of weights is asked for before the predecessor has finished. */
    __device__ __forceinline__ void run() const
    {
        int n = p.k1 - p.k0, first = n < S::stages ? n : S::stages;
        for (int k = 0; k < first; k++) {
            mbar_expect(&full[k], S::stage_bytes);
            weights(k, p.k0 + k);
        }
        pdl_wait();
        for (int k = 0; k < first; k++)
            tokens(k, p.k0 + k);
        for (int k = 0; k < first; k++)
            prefetch(k);
        int stage = 0;
        uint32_t phase = 0;
        for (int k = first; k < n; k++) {
            mbar_wait(&empty[stage], phase);
            mbar_expect(&full[stage], S::stage_bytes);
            weights(stage, p.k0 + k);
            tokens(stage, p.k0 + k);
            prefetch(k);
            if (++stage == S::stages) {
                stage = 0;
                phase ^= 1;
            }
        }
    }
};

/* ---------------------------------------------------------------- row facts */

/* Warps 1-3: the two vectors of this tile's features. */
template <int T>
static __device__ __forceinline__ void gather_vectors(const args &g, const place &p, float *va,
                                                      float *vb)
{
    constexpr int N = (T + HELPERS - 1) / HELPERS;
    float a[N], b[N];
    int i = (int)threadIdx.x - 32;
#pragma unroll
    for (int j = 0; j < N; j++) { /* all loads before the first use: they come from memory */
        int c = i + j * HELPERS, f = p.feature0 + c;
        int in = c < T && f < g.n;
        a[j] = in ? g.a[f] : 0.f;
        b[j] = in ? g.b[f] : 0.f;
    }
#pragma unroll
    for (int j = 0; j < N; j++)
        if (i + j * HELPERS < T) {
            va[i + j * HELPERS] = a[j];
            vb[i + j * HELPERS] = b[j];
        }
}

/* Consumers, while the first tiles are on their way: 1/σ and −μ/σ of the CTA's tokens from their
 * parts, two threads a token. All parts are loaded before the first is used. */
static __device__ __forceinline__ void gather_rows(const args &g, const place &p, float2 *row_facts)
{
    int i = (int)threadIdx.x - 128, r = i / 2, row = p.token0 + r;
    const float4 *at = (const float4 *)(g.part + (size_t)row * VIS90_MAX_PARTS * 2) + i % 2;
    float w = (float)g.parts_width, sum = 0.f, m2 = 0.f;
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
    float inv_n = __fdividef(1.f, w * (float)g.parts_n), mean = sum * inv_n, d2 = 0.f;
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

/* ---------------------------------------------------------------- consumers */

/* Tells every CTA that writes this ring that a stage is free. */
template <int CT, int CF>
static __device__ __forceinline__ void release(uint64_t *empty, const place &p)
{
    int i = (int)threadIdx.x % 128;
    if (i < CT + CF - 1) {
        int base = p.kt * CT * CF;
        int to =
            i < CT ? base + p.cf * CT + i : base + (i - CT + (i - CT >= p.cf ? 1 : 0)) * CT + p.ct;
        if (CT * CF == 1)
            mbar_arrive(empty);
        else
            mbar_arrive_cluster(empty, (uint32_t)to);
    }
}

template <int T, int CT, int CF, int KS>
static __device__ __forceinline__ void main_loop(float (&d)[T / 2], unsigned char *ring,
                                                 uint64_t *full, uint64_t *empty, const place &p)
{
    using S = shape<T, CT, CF, KS>;
    int q = (int)threadIdx.x / 128 - 1, stage = 0, last = -1, n = p.k1 - p.k0;
    uint32_t phase = 0;
    if (n == 0) /* a short K leaves pieces empty */
#pragma unroll
        for (int i = 0; i < T / 2; i++)
            d[i] = 0.f;
    for (int k = 0; k < n; k++) {
        mbar_wait(&full[stage], phase);
        unsigned char *s = ring + stage * S::stage_bytes;
        uint64_t a = desc_k128(s + q * 64 * 128), b = desc_k128(s + S::x_bytes);
        wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < BLOCK_K / 16; kk++)
            mma<T>(d, a + 2 * kk, b + 2 * kk, k | kk);
        wgmma_commit();
        wgmma_wait<1>();                        /* the stage before this one has been read */
        if (last >= 0 && k - 1 + S::stages < n) /* somebody waits for it */
            release<CT, CF>(&empty[last], p);
        last = stage;
        if (++stage == S::stages) {
            stage = 0;
            phase ^= 1;
        }
    }
    wgmma_wait<0>();
}

/* 0.5 v (1 + tanh z), z = sqrt(2/π)(v + 0.044715 v³). tanh.approx is good to 2^-11, so the result to
 * 2^-12 of v: an eighth of what the bf16 store rounds away. One special-function operation a value,
 * where exp and a reciprocal are two and twice the instructions. */
static __device__ __forceinline__ float gelu(float v)
{
    float z = v * fmaf(0.0356774081f, v * v, 0.7978845608f), t, h = 0.5f * v;
    asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(z));
    return fmaf(h, t, h);
}

/* bf16 rows through shared memory: fragments in by stmatrix, 16-byte pieces out. */
template <int T, int MODE, int PITCH>
static __device__ __forceinline__ void store_norm(const float (&d)[T / 2], unsigned char *staging,
                                                  const float2 *row_facts, const float *va,
                                                  const float *vb, const args &g, const place &p)
{
    int warp = (int)threadIdx.x / 32 - 4, lane = threadIdx.x % 32, r0 = warp * 16;
    float2 f[2] = { row_facts[r0 + lane / 4], row_facts[r0 + lane / 4 + 8] };
    unsigned char *mine = staging + r0 * PITCH;
    uint32_t at = smem_u32(mine + lane % 16 * PITCH + lane / 16 * 16);
#pragma unroll
    for (int j = 0; j < T / 8; j += 2) {
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float2 a = *(const float2 *)(va + 8 * (j + i) + lane % 4 * 2);
            float2 b = *(const float2 *)(vb + 8 * (j + i) + lane % 4 * 2);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float s = fmaf(d[4 * (j + i) + 2 * h], f[h].x, fmaf(f[h].y, a.x, b.x));
                float t = fmaf(d[4 * (j + i) + 2 * h + 1], f[h].x, fmaf(f[h].y, a.y, b.y));
                if (MODE == VIS90_GELU)
                    s = gelu(s), t = gelu(t);
                v[2 * i + h] = pack_bf16(s, t);
            }
        }
        stmatrix4(at + j * 16, v[0], v[1], v[2], v[3]);
    }
    __syncwarp();
    __nv_bfloat16 *y = (__nv_bfloat16 *)g.y;
    for (int i = lane; i < 16 * (T / 8); i += 32) {
        int r = i / (T / 8), c = i % (T / 8), row = p.token0 + r0 + r, col = p.feature0 + 8 * c;
        if (row < g.m && col < g.n)
            *(uint4 *)(y + (size_t)row * g.n + col) = *(const uint4 *)(mine + r * PITCH + c * 16);
    }
}

template <int T>
static __device__ __forceinline__ void store_f32(const float (&d)[T / 2], const float2 *row_facts,
                                                 const float *va, const float *vb, const args &g,
                                                 const place &p)
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
            if (row < g.m && p.feature0 + c < g.n)
                *(float2 *)((float *)g.y + (size_t)row * g.n + p.feature0 + c) =
                    make_float2(fmaf(d[4 * j + 2 * h], f.x, fmaf(f.y, va[c], vb[c])),
                                fmaf(d[4 * j + 2 * h + 1], f.x, fmaf(f.y, va[c + 1], vb[c + 1])));
        }
    }
}

/* Rows and columns of x that this thread finishes, two rows of W/4 values. */
template <int W>
static __device__ __forceinline__ void load_x(float2 (&x)[W / 4], const args &g, int row0, int col0)
{
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < W / 8; j++)
            x[h * (W / 8) + j] =
                row0 + 8 * h < g.m && col0 < g.n
                    ? __ldcg((const float2 *)(g.x + (size_t)(row0 + 8 * h) * g.n + col0 + 8 * j))
                    : make_float2(0.f, 0.f);
}

static __device__ __forceinline__ float quad_sum(float v)
{
    v += __shfl_xor_sync(~0u, v, 1);
    return v + __shfl_xor_sync(~0u, v, 2);
}

/* acc [W/2] in fragment order, x as load_x left it. */
template <int W>
static __device__ __forceinline__ void store_add(const float (&acc)[W / 2], float2 (&x)[W / 4],
                                                 const float *va, const float *vb, const args &g,
                                                 int row0, int col0)
{
    int lane = threadIdx.x % 32, c0 = lane % 4 * 2;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = 0.f, m2 = 0.f;
#pragma unroll
        for (int j = 0; j < W / 8; j++) {
            float2 bias = *(const float2 *)(va + 8 * j + c0);
            float2 &v = x[h * (W / 8) + j];
            v.x += acc[4 * j + 2 * h] + bias.x;
            v.y += acc[4 * j + 2 * h + 1] + bias.y;
            sum += v.x + v.y;
        }
        sum = quad_sum(sum);
        float mean = sum / W;
#pragma unroll
        for (int j = 0; j < W / 8; j++) {
            float2 v = x[h * (W / 8) + j];
            m2 += (v.x - mean) * (v.x - mean) + (v.y - mean) * (v.y - mean);
        }
        m2 = quad_sum(m2);
        int row = row0 + 8 * h;
        if (row >= g.m || col0 >= g.n) /* N is a multiple of W: all columns or none */
            continue;
        float *to = g.x + (size_t)row * g.n + col0 + c0;
        __nv_bfloat16 *xg = (__nv_bfloat16 *)g.y + (size_t)row * g.n + col0 + c0;
#pragma unroll
        for (int j = 0; j < W / 8; j++) {
            float2 v = x[h * (W / 8) + j], gamma = *(const float2 *)(vb + 8 * j + c0);
            *(float2 *)(to + 8 * j) = v;
            *(uint32_t *)(xg + 8 * j) = pack_bf16(v.x * gamma.x, v.y * gamma.y);
        }
        if (lane % 4 == 0)
            *(float2 *)(g.part + ((size_t)row * VIS90_MAX_PARTS + col0 / W) * 2) =
                make_float2(sum, m2);
    }
}

/* Sends the columns that other CTAs finish and waits for this CTA's: slot s of a receiver is the s-th
 * other sender. A ring is written once its owner has said that it is free. */
template <int T, int CT, int CF, int KS>
static __device__ __forceinline__ void exchange(const float (&d)[T / 2], unsigned char *ring,
                                                uint64_t *free_ring, uint64_t *parts_here,
                                                const place &p)
{
    constexpr int W = T / KS;
    int i = (int)threadIdx.x - 128;
    if (i < KS - 1)
        mbar_arrive_cluster(free_ring, (uint32_t)((i + (i >= p.kt)) * CT * CF + p.cf * CT + p.ct));
    mbar_wait(free_ring, 0);
#pragma unroll
    for (int o = 0; o < KS; o++) {
        if (o == p.kt)
            continue;
        uint32_t at =
            smem_u32(ring) + (p.kt < o ? p.kt : p.kt - 1) * (W / 2) * 256 * 4 + (uint32_t)i * 16;
        uint32_t to, bar, rank = (uint32_t)(o * CT * CF + p.cf * CT + p.ct);
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(at), "r"(rank));
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                     : "=r"(bar)
                     : "r"(smem_u32(parts_here)), "r"(rank));
#pragma unroll
        for (int v = 0; v < W / 8; v++)
            asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 "
                         "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(to + v * 4096),
                         "f"(d[o * W / 2 + 4 * v]), "f"(d[o * W / 2 + 4 * v + 1]),
                         "f"(d[o * W / 2 + 4 * v + 2]), "f"(d[o * W / 2 + 4 * v + 3]), "r"(bar)
                         : "memory");
    }
    mbar_wait_cluster(parts_here, 0);
}

template <int T, int KS>
static __device__ __forceinline__ void add_parts(float (&acc)[T / KS / 2], const float (&d)[T / 2],
                                                 const unsigned char *ring, const place &p)
{
    constexpr int W = T / KS;
#pragma unroll
    for (int o = 0; o < KS; o++)
        if (o == p.kt)
#pragma unroll
            for (int v = 0; v < W / 2; v++)
                acc[v] = d[o * W / 2 + v];
    const float4 *at = (const float4 *)ring + ((int)threadIdx.x - 128);
#pragma unroll
    for (int s = 0; s < KS - 1; s++)
#pragma unroll
        for (int v = 0; v < W / 8; v++) {
            float4 t = at[(s * (W / 8) + v) * 256];
            acc[4 * v] += t.x;
            acc[4 * v + 1] += t.y;
            acc[4 * v + 2] += t.z;
            acc[4 * v + 3] += t.w;
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
                     const __grid_constant__ CUtensorMap w_map, const args g)
{
    using S = shape<T, CT, CF, KS>;
    extern __shared__ unsigned char raw[];
    unsigned char *ring = raw + (-smem_u32(raw) & 1023);
    float2 *row_facts = (float2 *)(ring + S::stages * S::stage_bytes);
    float *va = (float *)(row_facts + TOKENS), *vb = va + T;
    uint64_t *full = (uint64_t *)(vb + T), *empty = full + S::stages;
    uint64_t *free_ring = empty + S::stages, *parts_here = free_ring + 1;
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
            mbar_init(free_ring, KS - 1);
            mbar_init(parts_here, 1);
            mbar_expect(parts_here, (KS - 1) * S::width * TOKENS * 4);
        }
        fence_mbar_init();
    }
    cluster_sync_relaxed(); /* the peers' barriers exist before anything is sent to them */
    pdl_launch();
    if (threadIdx.x < 128) {
        setmaxnreg_dec<40>();
        if (threadIdx.x == 0) {
            uint32_t at = blockIdx.x * g.next_slice, n = at < g.next_bytes ? g.next_bytes - at : 0;
            n = n < g.next_slice ? n : g.next_slice;
            uint32_t step = p.k1 > p.k0 ? (n / (uint32_t)(p.k1 - p.k0) + 16) & ~15u : 16;
            producer<T, CT, CF, KS>{ &x_map, &w_map, ring, full, empty, p, g.next + at, n, step }
                .run();
        } else if (threadIdx.x >= 32) {
            gather_vectors<T>(g, p, va, vb);
            facts_ready();
        }
    } else {
        setmaxnreg_inc<232>();
        float d[T / 2];
        if (MODE == VIS90_ADD) {
            constexpr int W = S::width;
            int row0 = p.token0 + ((int)threadIdx.x / 32 - 4) * 16 + (int)threadIdx.x % 32 / 4;
            int col0 = p.feature0 + p.kt * W;
            float2 x[W / 4];
            float acc[W / 2];
            pdl_wait();
            load_x<W>(x, g, row0, col0 + (int)threadIdx.x % 4 * 2);
            main_loop<T, CT, CF, KS>(d, ring, full, empty, p);
            facts_wait();
            if (KS > 1) {
                exchange<T, CT, CF, KS>(d, ring, free_ring, parts_here, p);
            }
            add_parts<T, KS>(acc, d, ring, p);
            store_add<W>(acc, x, va + p.kt * W, vb + p.kt * W, g, row0, col0);
        } else {
            pdl_wait(); /* y may still be read by the kernel before */
            gather_rows(g, p, row_facts);
            main_loop<T, CT, CF, KS>(d, ring, full, empty, p);
            facts_wait();
            if (MODE == VIS90_F32)
                store_f32<T>(d, row_facts, va, vb, g, p);
            else
                store_norm<T, MODE, S::pitch>(d, ring, row_facts, va, vb, g, p);
        }
    }
    /* Nobody is left behind: a CTA waits for all that is sent into its ring, and stages are released
     * only to producers that wait for them. */
}

/* ---------------------------------------------------------------- around the layers */

/* A block a row: parts, then xg. */
__global__ void __launch_bounds__(128)
    vision_enter_sm90(const float *x, const float *gamma, __nv_bfloat16 *xg, float *part, int width,
                      int parts, int part_width)
{
    pdl_launch();
    pdl_wait();
    int row = blockIdx.x, warp = (int)threadIdx.x / 32, lane = threadIdx.x % 32;
    const float *in = x + (size_t)row * width;
    for (int p = warp; p < parts; p += 4) {
        float sum = 0.f, m2 = 0.f;
        for (int c = lane; c < part_width; c += 32)
            sum += __ldcg(in + p * part_width + c);
        for (int i = 16; i > 0; i /= 2)
            sum += __shfl_xor_sync(~0u, sum, i);
        float mean = sum / (float)part_width;
        for (int c = lane; c < part_width; c += 32) {
            int at = p * part_width + c;
            float v = __ldcg(in + at);
            m2 += (v - mean) * (v - mean);
            xg[(size_t)row * width + at] = __float2bfloat16_rn(v * gamma[at]);
        }
        for (int i = 16; i > 0; i /= 2)
            m2 += __shfl_xor_sync(~0u, m2, i);
        if (lane == 0)
            *(float2 *)(part + ((size_t)row * VIS90_MAX_PARTS + p) * 2) = make_float2(sum, m2);
    }
}

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
    X(5, 144, 2, 2, 1, NORMS, "128x144 2x2")           \
    X(6, 192, 2, 1, 3, ADDS, "128x192 2x1x3")          \
    X(7, 144, 2, 1, 3, ADDS, "128x144 2x1x3")          \
    X(8, 192, 2, 1, 4, ADDS, "128x192 2x1x4")          \
    X(9, 128, 2, 1, 2, ADDS, "128x128 2x1x2")          \
    X(10, 144, 2, 1, 1, 1 << VIS90_F32, "128x144 2x1") \
    X(11, 192, 2, 2, 2, ADDS, "128x192 2x2x2")         \
    X(12, 144, 2, 1, 2, ADDS, "128x144 2x1x2")         \
    X(13, 192, 1, 1, 3, ADDS, "128x192 1x1x3")         \
    X(14, 144, 2, 2, 2, ADDS, "128x144 2x2x2")         \
    X(15, 192, 2, 2, 1, NORMS, "128x192 2x2")          \
    X(16, 160, 2, 2, 1, NORMS, "128x160 2x2")

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
    cudaError_t e = cudaFuncSetAttribute(vision_bf16_sm90<T, CT, CF, KS, MODE>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, S::smem);
    if (e != cudaSuccess)
        return e;
    args a = {};
    a.m = g->m;
    a.n = g->n;
    a.k_blocks = (g->k + BLOCK_K - 1) / BLOCK_K;
    a.token_groups = (g->m + CT * TOKENS - 1) / (CT * TOKENS);
    a.parts_n = g->parts.n;
    a.parts_width = g->parts.width;
    a.part = g->parts.part;
    a.a = g->a;
    a.b = g->b;
    a.y = g->y;
    a.x = g->x;
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeClusterDimension;
    attr[0].val.clusterDim.x = S::ctas;
    attr[0].val.clusterDim.y = attr[0].val.clusterDim.z = 1;
    attr[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = dim3((unsigned)(a.token_groups * ((g->n + CF * T - 1) / (CF * T)) * S::ctas));
    a.next = (const unsigned char *)g->next;
    a.next_bytes = (uint32_t)(g->next_bytes & ~(size_t)15);
    a.next_slice = (a.next_bytes / cfg.gridDim.x + 256) & ~127u;
    cfg.blockDim = dim3(THREADS);
    cfg.dynamicSmemBytes = S::smem;
    cfg.stream = stream;
    cfg.attrs = attr;
    cfg.numAttrs = pdl ? 2 : 1;
    return cudaLaunchKernelEx(&cfg, vision_bf16_sm90<T, CT, CF, KS, MODE>, g->x_map, g->w_map, a);
}

CUresult encode_2d(tensor_map_encode_fn encode, CUtensorMap *map, const void *base, int rows, int k,
                   int box_rows)
{
    cuuint64_t dims[2] = { (cuuint64_t)k, (cuuint64_t)rows }, stride[1] = { (cuuint64_t)k * 2 };
    cuuint32_t box[2] = { BLOCK_K, (cuuint32_t)box_rows }, step[2] = { 1, 1 };
    return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)(uintptr_t)base, dims, stride,
                  box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
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
        long clusters = (long)((m + t.ct * TOKENS - 1) / (t.ct * TOKENS)) *
                        ((n + t.cf * t.t - 1) / (t.cf * t.t));
        long waves = (clusters + slots - 1) / slots;
        /* Cycles of 16 columns of K: tensor cores, shared memory, L2 at 36 bytes a cycle. */
        long step = t.t, shared = 64 + t.t * 3 / 4, l2 = (TOKENS / t.cf + t.t / t.ct) * 8 / 9;
        step = step > shared ? step : shared;
        step = step > l2 ? step : l2;
        long cost = waves * ((k / t.ks + 15) / 16 * step + 3000 + (t.ks - 1) * 2000);
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
    CUresult r = encode_2d(encode, &g->x_map, xin, g->m, g->k, TOKENS / t.cf);
    return r != CUDA_SUCCESS ? r : encode_2d(encode, &g->w_map, w, g->n, g->k, t.t / t.ct);
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

extern "C" cudaError_t vis90_enter(const float *x, const float *gamma, void *xg,
                                   struct vis90_parts parts, int rows, int width, int pdl,
                                   cudaStream_t stream)
{
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = dim3((unsigned)rows);
    cfg.blockDim = dim3(128);
    cfg.stream = stream;
    cfg.attrs = &attr;
    cfg.numAttrs = pdl ? 1 : 0;
    return cudaLaunchKernelEx(&cfg, vision_enter_sm90, x, gamma, (__nv_bfloat16 *)xg, parts.part,
                              width, parts.n, parts.width);
}

extern "C" cudaError_t vis90_fold(const void *w, const float *gamma, const float *beta,
                                  const void *bias, int bias_f32, float *wg, float *wb, int n,
                                  int k, cudaStream_t stream)
{
    vision_fold_sm90<<<(unsigned)((n + 7) / 8), 256, 0, stream>>>(
        (const __nv_bfloat16 *)w, gamma, beta, bias, bias_f32, wg, wb, n, k);
    return cudaGetLastError();
}
