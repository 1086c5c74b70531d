/* SPDX-License-Identifier: Apache-2.0
 * early_bf16_sm90: one layer of the first denoising step of one sample in one launch on four processors
 * (a cluster of 4 CTAs), beside the prefix's large products, which leave four idle.
 *     qkv (1/rms, + W·shift, RoPE, K and V into the cache) | attention | x += o | gate·up | x += down
 * Tiling:    every product is out^T = W · act^T by mma.m16n8k16, weights on M. A CTA owns a quarter of a
 *            product's rows, a warp whole tiles of 16 rows with all of K (5 of qkv, 2 of o, 16 of gate·up, 2 of
 *            down), so nothing is added up between warps. A warp's weights come by cp.async into a ring
 *            of its own, each lane's 16 bytes to where the same lane takes them: no barrier, no wait but
 *            for the lane's own copies, and the ring runs on through the ends of products. Activations
 *            lie in shared memory as [32 k][token][32]; between the products they go through L2
 *            and the cluster's barrier. A CTA's attention is two heads: scores K · qT with K from L2
 *            to registers, 16 keys a warp; values VT · PT, 32 dims a warp.
 * Budget:    34.6 MB of weights through four processors; one takes 99 bytes a nanosecond: 88 µs.
 * Now:       139 µs for 11 tokens on 543 keys, 154 on 799 (packed), 162 (row-major): check_early_sm90 --bench,
 *            NVIDIA H200, 2026-11-22.
 * Rounding:  as in the loop (denoise_sm90.cu): bf16(x · gain) in, 1/rms on the sum; q, k, v, weights of keys,
 *            o, h bf16; residual, sums, softmax float32. Fixed order everywhere. */
#include "early_sm90.h"
#include "ptx_sm90.cuh"

namespace
{
typedef __nv_bfloat16 bf16;

constexpr int W = 1024, E = 256, QD = 2048, F = 4096;
constexpr int CTAS = 4, WARPS = 8, THREADS = WARPS * 32;
constexpr int UNIT = 32768; /* bytes: 16 rows × 1024 k of the packed form */
constexpr int GROUP = 2048; /* bytes of weights a warp asks for and multiplies at a time */
constexpr int KEYS = 128;   /* of a round of attention: 16 a warp */
constexpr int BLOCKS = 8;   /* of 32 k in a chunk of activations */
constexpr int SEGMENTS = 13;

#ifdef EARLY_PROF
__device__ unsigned long long prof[4][16];
#define STAMP(i)                                  \
    do {                                          \
        if (threadIdx.x == 0)                     \
            prof[blockIdx.x][i] = global_timer(); \
    } while (0)
#else
#define STAMP(i) (void)0
#endif

template <int N8> struct shape {
    static constexpr int T = N8 * 8, NR = 2 * N8; /* tokens; tiles of 8 (head, token) of a CTA */
#ifdef EARLY_DEPTH
    static constexpr int depth = EARLY_DEPTH;
#else
    static constexpr int depth = N8 <= 2 ? 8 : 4; /* groups of a warp on their way */
#endif
    static constexpr int ring = WARPS * depth * GROUP;
    static constexpr int chunk = T * BLOCKS * 64; /* 256 k of all tokens */
    static constexpr int q_bytes = NR * 8 * E * 2, p_bytes = NR * 8 * KEYS * 2;
    static constexpr int v_bytes = KEYS * E * 2;
    static constexpr int act = q_bytes + p_bytes + v_bytes;
    static constexpr int slots = act / chunk;
    static constexpr int k_piece = N8 <= 2 ? 4 : 2; /* blocks of 32 dims of K asked for ahead */
    static_assert(slots >= 4, "x does not fit");
};

template <int N8> struct smem {
    using S = shape<N8>;
    alignas(128) uint8_t ring[S::ring];
    alignas(128) uint8_t act[S::act];
    float top[WARPS][S::NR * 8], sum[WARPS][S::NR * 8]; /* attention: of a warp's keys */
    float most[S::NR * 8], rescale[S::NR * 8];
    float inv[S::T]; /* 1 / rms */
    float sq[WARPS][S::T];
    int2 where[S::T]; /* row of the cache, position */
    uint64_t full[S::slots];
    int done[S::slots]; /* warps that have read the chunk */
};

#define AT(field) (uint32_t) offsetof(smem<N8>, field)

PTX_INLINE uint32_t movmatrix(uint32_t a)
{
    uint32_t d;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(a));
    return d;
}
PTX_INLINE void ldmatrix4_trans(uint4 &r, uint32_t at)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
                 : "r"(at)
                 : "memory");
}
PTX_INLINE void cp16(uint32_t to, const void *from, uint64_t pol)
{
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to),
                 "l"(from), "l"(pol)
                 : "memory");
}
PTX_INLINE void cp16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
PTX_INLINE void cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> PTX_INLINE void cp_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
/* Without a branch: what follows is for whole warps. */
PTX_INLINE void store_if(bool yes, void *to, uint32_t v)
{
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n@p st.global.b32 [%1], %2;\n}" ::"r"((int)yes),
        "l"(to), "r"(v)
        : "memory");
}
PTX_INLINE void sts_u32(uint32_t a, uint32_t v)
{
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(a), "r"(v) : "memory");
}
PTX_INLINE void sts_u64(uint32_t a, uint32_t x, uint32_t y)
{
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(a), "r"(x), "r"(y) : "memory");
}
PTX_INLINE uint32_t pack2(float lo, float hi)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&v;
}
/* 0.5 z (1 + tanh(sqrt(2/π)(z + 0.044715 z³))) */
PTX_INLINE float gelu(float z)
{
    float u = 0.7978845608f * (z + 0.044715f * z * z * z);
    return __fdividef(z, 1.f + exp2_approx(-2.885390082f * u));
}
PTX_INLINE float warp_sum(float v)
{
#pragma unroll
    for (int o = 16; o; o /= 2)
        v += __shfl_xor_sync(~0u, v, o);
    return v;
}
/* Over the eight lanes that hold the same columns. */
PTX_INLINE float rows_sum(float v)
{
#pragma unroll
    for (int o = 4; o < 32; o *= 2)
        v += __shfl_xor_sync(~0u, v, o);
    return v;
}
PTX_INLINE float rows_max(float v)
{
#pragma unroll
    for (int o = 4; o < 32; o *= 2)
        v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
    return v;
}

/* Row r (0 … 15) of a tile of 16 is row first(tile) + r % 8 + r / 8 · step of the matrix. */
__device__ __forceinline__ int qkv_row(int tile) { return tile / 16 * E + tile % 16 * 8; }

/* A warp's weights, in the order in which it multiplies them: 5 tiles of qkv (two pairs and one), two
 * of o, 16 of gate·up, two of down, 2 KB at a time, a lane's 16 bytes by itself: nobody else reads
 * them, so nothing but the copies' own count is waited for. */
template <bool PACKED> struct weights {
    const uint8_t *p;
    int d1, d2, d3; /* the group's other three pieces of 16 bytes a lane */
    int step, left, seg;
    uint64_t pol;

    __device__ __forceinline__ void next(const struct early90 &a, int gw, int lane)
    {
        const int s = ++seg, g = lane >> 2, t = lane & 3;
        const int kind = s < 3 ? 0 : s == 3 ? 1 : s < 12 ? 2 : 3;
        const int tile = kind == 0 ? gw * 5 + s * 2 : kind == 2 ? gw * 16 + (s - 4) * 2 : gw * 2;
        const int k = kind == 1 ? QD : kind == 3 ? F : W;
        const bool one = s == 2;
        left = s >= SEGMENTS ? 0 : one ? k / 64 : k / 32;
        if (PACKED) {
            const int unit = kind == 0   ? tile
                             : kind == 1 ? 160 + tile * 2
                             : kind == 2 ? 288 + tile
                                         : 800 + tile * 4;
            p = (const uint8_t *)a.wqkv + (size_t)unit * UNIT + lane * 16;
            d1 = 512, d2 = one ? 1024 : k * 32, d3 = d2 + 512;
            step = one ? 2048 : 1024;
        } else {
            const int row = kind == 0 ? qkv_row(tile) : tile * 16;
            const int row2 = kind == 0 ? qkv_row(tile + 1) : tile * 16 + 16;
            p = (const uint8_t *)(kind == 0   ? a.wqkv
                                  : kind == 1 ? a.wo
                                  : kind == 2 ? a.wgu
                                              : a.wdown) +
                (size_t)(row + g) * (k * 2) + t * 16;
            d1 = (kind == 0 ? 128 : 8) * k * 2, d2 = one ? 64 : (row2 - row) * k * 2, d3 = d1 + d2;
            step = one ? 128 : 64;
        }
    }
    __device__ __forceinline__ void push(uint32_t to, const struct early90 &a, int gw, int lane)
    {
        if (left == 0 && seg < SEGMENTS)
            next(a, gw, lane);
        if (left > 0) {
            cp16(to, p, pol), cp16(to + 512, p + d1, pol);
            cp16(to + 1024, p + d2, pol), cp16(to + 1536, p + d3, pol);
            p += step, left--;
        }
        cp_commit();
    }
};

/* The A registers of k16 step j of 32 k, from a lane's two pieces. */
template <bool PACKED> __device__ __forceinline__ uint4 fragment(uint4 a, uint4 b, int j)
{
    if (PACKED)
        return j ? b : a;
    return j ? make_uint4(a.z, b.z, a.w, b.w) : make_uint4(a.x, b.x, a.y, b.y);
}

template <int N8, bool PACKED> struct ctx {
    using S = shape<N8>;
    smem<N8> *sm;
    uint32_t base, mine; /* shared memory: all, this lane's place in its warp's ring */
    int tid, warp, lane, g, t, rank, gw, rows;
    uint32_t stride;  /* bytes of a block of 32 k of all tokens */
    uint32_t tok[N8]; /* where this lane's 16 bytes of a token tile are in a block */
    weights<PACKED> w;

    /* acc += weights · activations over n groups; NT tiles of 16 rows, block 0 at b. n: a multiple of
     * depth. */
    template <int NT>
    __device__ __forceinline__ void multiply(float (&acc)[NT][N8][4], uint32_t b, int n,
                                             const struct early90 &p)
    {
#pragma unroll 1
        for (int i = 0; i < n; i += S::depth) {
#pragma unroll
            for (int s = 0; s < S::depth; s++) {
                cp_wait<S::depth - 1>();
                uint4 a[4];
#pragma unroll
                for (int j = 0; j < 4; j++)
                    a[j] = lds128(mine + s * GROUP + j * 512);
                w.push(mine + s * GROUP, p, gw, lane);
#pragma unroll
                for (int kb = 0; kb < 3 - NT; kb++) {
                    const uint4 f[2] = { fragment<PACKED>(a[2 * kb], a[2 * kb + 1], 0),
                                         fragment<PACKED>(a[2 * kb], a[2 * kb + 1], 1) };
                    const uint4 f2[2] = { fragment<PACKED>(a[2], a[3], 0),
                                          fragment<PACKED>(a[2], a[3], 1) };
#pragma unroll
                    for (int m = 0; m < N8; m++) {
                        const uint4 v = lds128(b + tok[m]);
                        mma_bf16(acc[0][m], f[0], v.x, v.y);
                        if (NT == 2)
                            mma_bf16(acc[NT - 1][m], f2[0], v.x, v.y);
                        mma_bf16(acc[0][m], f[1], v.z, v.w);
                        if (NT == 2)
                            mma_bf16(acc[NT - 1][m], f2[1], v.z, v.w);
                    }
                    b += stride;
                }
            }
        }
    }
};

template <int NT, int N8> __device__ __forceinline__ void zero(float (&acc)[NT][N8][4])
{
#pragma unroll
    for (int i = 0; i < NT; i++)
#pragma unroll
        for (int n = 0; n < N8; n++)
            acc[i][n][0] = acc[i][n][1] = acc[i][n][2] = acc[i][n][3] = 0.f;
}

/* What was written is read by the other CTAs. */
__device__ __forceinline__ void exchange()
{
    cluster_arrive();
    cluster_wait();
}

/* act = bf16(x · (1 + norm)), inv = 1/rms: every CTA all of it. */
template <int N8, bool PACKED>
__device__ __forceinline__ void stage_x(ctx<N8, PACKED> &c, const struct early90 &p,
                                        const float *norm)
{
    constexpr int TWO = 2;
    float4 gain[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        gain[i] = __ldg((const float4 *)norm + i * 32 + c.lane);
        gain[i].x += 1.f, gain[i].y += 1.f, gain[i].z += 1.f, gain[i].w += 1.f;
    }
    const uint32_t to = c.base + AT(act) + (c.lane >> 3) * c.stride + (c.lane & 7) * 8;
#pragma unroll 1
    for (int t0 = c.warp; t0 < c.rows; t0 += WARPS * TWO) {
        float4 x[TWO][8];
#pragma unroll
        for (int j = 0; j < TWO; j++)
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (t0 + j * WARPS < c.rows)
                    x[j][i] = __ldcg((const float4 *)(p.x + (size_t)(t0 + j * WARPS) * W) + i * 32 +
                                     c.lane);
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
                sts_u64(to + i * 4 * c.stride + tok * 64, pack2(v.x * gain[i].x, v.y * gain[i].y),
                        pack2(v.z * gain[i].z, v.w * gain[i].w));
            }
            s = warp_sum(s);
            if (c.lane == 0)
                c.sm->inv[tok] = rsqrtf(s * (1.f / W) + 1e-6f);
        }
    }
    __syncthreads();
}

/* ---- q, k, v: 1/rms, shift, RoPE; q to its scratch, k and v to the cache ---- */
template <int NT, int N8, bool PACKED>
__device__ __forceinline__ void qkv(ctx<N8, PACKED> &c, const struct early90 &p, int tile0)
{
    float acc[NT][N8][4];
    zero(acc);
    c.template multiply<NT>(acc, c.base + AT(act), NT == 2 ? W / 32 : W / 64, p);
#pragma unroll
    for (int a = 0; a < NT; a++) {
        const int tile = tile0 + a, head = tile >> 4, i0 = (tile & 15) * 8, i = i0 + c.g;
        float b0 = 0.f, b1 = 0.f;
        if (p.shift) {
            const float *s = p.shift + (PACKED ? tile * 16 + c.g : qkv_row(tile) + c.g);
            b0 = __ldg(s), b1 = __ldg(s + (PACKED ? 8 : 128));
        }
#pragma unroll
        for (int n = 0; n < N8; n++) {
            float lo[2], hi[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int tok = min(n * 8 + 2 * c.t + e, c.rows - 1);
                const float r = c.sm->inv[tok];
                const float u = fmaf(acc[a][n][e], r, b0), v = fmaf(acc[a][n][2 + e], r, b1);
                float2 cs = make_float2(1.f, 0.f);
                if (head < 9)
                    cs = __ldg((const float2 *)p.cos_sin + (size_t)c.sm->where[tok].y * 128 + i);
                lo[e] = u * cs.x - v * cs.y;
                hi[e] = v * cs.x + u * cs.y;
            }
            const uint32_t l = movmatrix(pack2(lo[0], lo[1])), h = movmatrix(pack2(hi[0], hi[1]));
            const int tok = n * 8 + c.g, d = i0 + 2 * c.t, at = min(tok, c.rows - 1);
            uint16_t *to;
            if (head < 8)
                to = p.q + ((size_t)(head * 8 + (d >> 5)) * c.rows + at) * 32 + (d & 31);
            else
                to = (head == 8 ? p.k : p.v) + (size_t)c.sm->where[at].x * E + d;
            store_if(tok < c.rows, to, l);
            store_if(tok < c.rows, to + (head < 8 ? 4 * c.rows * 32 : 128), h);
        }
    }
}

/* ---- attention of heads 2·rank, 2·rank + 1 ----
 * Rounds of 128 keys, online softmax. Scores are K · qᵀ, keys on M: a warp has 16 keys. Values are
 * Vᵀ · Pᵀ: a warp has 32 dims of all keys of the round, its part of V by copies of its own. */
template <int N8, bool PACKED>
__device__ __forceinline__ void attention(ctx<N8, PACKED> &c, const struct early90 &p)
{
    using S = shape<N8>;
    constexpr int NR = S::NR, ROWS = NR * 8, KP = S::k_piece;
    const struct cu_sample sample = *p.sample;
    const int valid = sample.n_valid, n_keys = valid + c.rows, skip = sample.n_rows - valid;
    const uint16_t *ck = p.k + (size_t)sample.kv_row * E, *cv = p.v + (size_t)sample.kv_row * E;
    const float scale = p.scale * 1.44269504f;
    const uint32_t qs = c.base + AT(act), ps = qs + S::q_bytes,
                   vs = ps + S::p_bytes + c.warp * 8192;
    const int rounds = (n_keys + KEYS - 1) / KEYS;
    const int state = p.n_state ? c.rows - 1 : -1; /* sees the prefix and the suffix's first key */
    /* key number → row: those behind the hole follow those before it; behind the last one it again */
    auto row = [&](int key) {
        key = min(key, n_keys - 1);
        return (size_t)(key + (key >= valid ? skip : 0)) * E;
    };
    auto ask_v = [&](int round) {
        const uint16_t *from = cv + c.warp * 32 + c.t * 8;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const int key = i * 8 + c.g;
            cp16(vs + key * 64 + ((c.t ^ (i & 3)) << 4), from + row(round * KEYS + key));
        }
        cp_commit();
    };
    uint4 k[2][KP][2];
    auto ask_k = [&](uint4(&to)[KP][2], int round, int piece) {
        const int key = round * KEYS + c.warp * 16 + c.g;
        const uint16_t *lo = ck + row(key) + piece * KP * 32 + c.t * 8;
        const uint16_t *hi = ck + row(key + 8) + piece * KP * 32 + c.t * 8;
#pragma unroll
        for (int i = 0; i < KP; i++) {
            to[i][0] = __ldcg((const uint4 *)(lo + i * 32));
            to[i][1] = __ldcg((const uint4 *)(hi + i * 32));
        }
    };
    ask_v(0);
    ask_k(k[0], 0, 0);
    { /* q of the two heads: [head][block of 32 dims][token][32] as it lies */
        const uint4 *from = (const uint4 *)(p.q + (size_t)c.rank * 2 * E * c.rows);
        for (int i = c.tid; i < c.rows * 64; i += THREADS) {
            const uint4 v = __ldcg(from + i);
            asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(qs + i * 16), "r"(v.x),
                         "r"(v.y), "r"(v.z), "r"(v.w)
                         : "memory");
        }
        for (int i = c.tid; i < ROWS; i += THREADS)
            c.sm->most[i] = -1e30f;
        for (int i = c.tid; i < WARPS * ROWS; i += THREADS)
            (&c.sm->sum[0][0])[i] = 0.f;
    }
    __syncthreads();
    float o[2][NR][4];
    zero(o);
    /* ldmatrix: lanes 0-7, 8-15, … have the rows of matrices 0, 1, …: keys 8a + b of a pair, dims */
    const int r = c.lane & 7, m = c.lane >> 3;
    const int v_key = (r >> 1) * 8 + (r & 1) + (m >> 1) * 2;
    const uint32_t v_at = vs + v_key * 64;
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
        float s[NR][4];
#pragma unroll
        for (int n = 0; n < NR; n++)
            s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.f;
#pragma unroll
        for (int i = 0; i < 8 / KP; i++) {
            const bool last = i == 8 / KP - 1;
            ask_k(k[(i + 1) & 1], last ? round + 1 : round, last ? 0 : i + 1);
#pragma unroll
            for (int b = 0; b < KP; b++) {
                const uint4 lo = k[i & 1][b][0], hi = k[i & 1][b][1];
                const uint4 a0 = fragment<false>(lo, hi, 0), a1 = fragment<false>(lo, hi, 1);
#pragma unroll
                for (int n = 0; n < NR; n++) {
                    const uint4 v =
                        lds128(qs + (n / N8 * 8 + i * KP + b) * c.stride + c.tok[n % N8]);
                    mma_bf16(s[n], a0, v.x, v.y);
                    mma_bf16(s[n], a1, v.z, v.w);
                }
            }
        }
        const int key = round * KEYS + c.warp * 16 + c.g;
#pragma unroll
        for (int n = 0; n < NR; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int tok = n % N8 * 8 + 2 * c.t + e;
                const int end = tok == state ? valid + 1 : n_keys;
                s[n][e] = key < end ? s[n][e] * scale : -INFINITY;
                s[n][2 + e] = key + 8 < end ? s[n][2 + e] * scale : -INFINITY;
                const float v = rows_max(fmaxf(s[n][e], s[n][2 + e]));
                if (c.g == 0)
                    c.sm->top[c.warp][n * 8 + 2 * c.t + e] = v;
            }
        __syncthreads();
        if (c.tid < ROWS) {
            const float old = c.sm->most[c.tid];
            float v = old;
#pragma unroll
            for (int w = 0; w < WARPS; w++)
                v = fmaxf(v, c.sm->top[w][c.tid]);
            c.sm->most[c.tid] = v;
            c.sm->rescale[c.tid] = exp2_approx(old - v);
        }
        __syncthreads();
        const uint32_t p_to = ps + ((c.warp >> 1) * ROWS + c.g) * 64 + (c.warp & 1) * 32 + c.t * 4;
#pragma unroll
        for (int n = 0; n < NR; n++) {
            const float2 top = *(const float2 *)&c.sm->most[n * 8 + 2 * c.t];
            const float2 f = *(const float2 *)&c.sm->rescale[n * 8 + 2 * c.t];
            const float e0 = exp2_approx(s[n][0] - top.x), e1 = exp2_approx(s[n][1] - top.y);
            const float e2 = exp2_approx(s[n][2] - top.x), e3 = exp2_approx(s[n][3] - top.y);
            sts_u32(p_to + n * 512, movmatrix(pack2(e0, e1)));
            sts_u32(p_to + n * 512 + 16, movmatrix(pack2(e2, e3)));
            const float l0 = rows_sum(e0 + e2), l1 = rows_sum(e1 + e3);
            if (c.g == 0) {
                float2 *l = (float2 *)&c.sm->sum[c.warp][n * 8 + 2 * c.t];
                *l = make_float2(fmaf(l->x, f.x, l0), fmaf(l->y, f.y, l1));
            }
#pragma unroll
            for (int a = 0; a < 2; a++)
                o[a][n][0] *= f.x, o[a][n][1] *= f.y, o[a][n][2] *= f.x, o[a][n][3] *= f.y;
        }
        cp_wait<0>();
        __syncthreads(); /* P of all warps, and V of this one */
#pragma unroll
        for (int kb = 0; kb < KEYS / 32; kb++) {
            uint4 a[2][2]; /* [tile of 16 dims][k16 step] */
#pragma unroll
            for (int d = 0; d < 2; d++)
#pragma unroll
                for (int j = 0; j < 2; j++)
                    ldmatrix4_trans(a[d][j], v_at + (kb * 32 + j * 4) * 64 +
                                                 (((d * 2 + (m & 1)) ^ (r >> 1)) << 4));
#pragma unroll
            for (int n = 0; n < NR; n++) {
                const uint4 v = lds128(ps + (kb * ROWS + n * 8) * 64 + c.lane * 16);
                mma_bf16(o[0][n], a[0][0], v.x, v.y);
                mma_bf16(o[1][n], a[1][0], v.x, v.y);
                mma_bf16(o[0][n], a[0][1], v.z, v.w);
                mma_bf16(o[1][n], a[1][1], v.z, v.w);
            }
        }
        __syncwarp();
        if (round + 1 < rounds)
            ask_v(round + 1);
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < NR; n++) {
        float f[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float l = 0.f;
#pragma unroll
            for (int w = 0; w < WARPS; w++)
                l += c.sm->sum[w][n * 8 + 2 * c.t + e];
            f[e] = __fdividef(1.f, l);
        }
        const int tok = n % N8 * 8 + c.g, block = (c.rank * 2 + n / N8) * 8 + c.warp;
        uint16_t *to = p.o + ((size_t)block * c.rows + tok) * 32 + 2 * c.t;
#pragma unroll
        for (int a = 0; a < 2; a++) {
            const uint32_t l = movmatrix(pack2(o[a][n][0] * f[0], o[a][n][1] * f[1]));
            const uint32_t h = movmatrix(pack2(o[a][n][2] * f[0], o[a][n][3] * f[1]));
            store_if(tok < c.rows, to + a * 16, l);
            store_if(tok < c.rows, to + a * 16 + 8, h);
        }
    }
}

/* ---- gate·up of two tiles: h = gelu(gate) · up ---- */
template <int N8, bool PACKED>
__device__ __forceinline__ void gate_up(ctx<N8, PACKED> &c, const struct early90 &p, int tile0)
{
    float acc[2][N8][4];
    zero(acc);
    c.template multiply<2>(acc, c.base + AT(act), W / 32, p);
#pragma unroll
    for (int a = 0; a < 2; a++) {
        const int tile = tile0 + a;
        float b0 = 0.f, b1 = 0.f;
        if (p.shift) {
            const float *s = p.shift + 2560 + tile * 16 + c.g;
            b0 = __ldg(s), b1 = __ldg(s + 8);
        }
#pragma unroll
        for (int n = 0; n < N8; n++) {
            float h[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float r = c.sm->inv[min(n * 8 + 2 * c.t + e, c.rows - 1)];
                h[e] = gelu(fmaf(acc[a][n][e], r, b0)) * fmaf(acc[a][n][2 + e], r, b1);
            }
            const uint32_t v = movmatrix(pack2(h[0], h[1]));
            const int tok = n * 8 + c.g, u = tile * 8 + 2 * c.t;
            store_if(tok < c.rows, p.h + ((size_t)(u >> 5) * c.rows + tok) * 32 + (u & 31), v);
        }
    }
}

/* ---- o and down: x += gate · acc. Chunks of 256 k come into the slots in turn: number `first` and on,
 * counted over both products ---- */
template <int N8, bool PACKED>
__device__ __forceinline__ void residual(ctx<N8, PACKED> &c, const struct early90 &p,
                                         const uint16_t *in, const float *gate, int first, int end,
                                         bool last)
{
    using S = shape<N8>;
    const uint32_t bytes = BLOCKS * c.stride;
    auto ask = [&](int i) {
        const uint32_t bar = c.base + AT(full) + i % S::slots * 8;
        mbar_expect(bar, bytes);
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], "
            "%2, [%3];" ::"r"(c.base + AT(act) + i % S::slots * S::chunk),
            "l"((const uint8_t *)in + (size_t)(i - first) * bytes), "r"(bytes), "r"(bar)
            : "memory");
    };
    if (c.tid == 0) {
        fence_proxy_async_all(); /* between what the CTAs have stored and bulk copies of it */
        for (int i = first; i < end && i < first + S::slots; i++)
            ask(i);
    }
    float acc[2][N8][4];
    zero(acc);
#pragma unroll 1
    for (int i = first; i < end; i++) {
        const int slot = i % S::slots;
        mbar_wait(c.base + AT(full) + slot * 8, i / S::slots & 1);
        c.template multiply<2>(acc, c.base + AT(act) + slot * S::chunk, BLOCKS, p);
        if (i + S::slots < end) { /* the last of the warps asks for the slot's next chunk */
            __syncwarp();
            if (c.lane == 0) {
                __threadfence_block();
                if ((atomicAdd(&c.sm->done[slot], 1) & (WARPS - 1)) == WARPS - 1) {
                    __threadfence_block();
                    ask(i + S::slots);
                }
            }
        }
    }
    float sq[N8][2];
#pragma unroll
    for (int a = 0; a < 2; a++) {
        const int row = c.gw * 32 + a * 16 + c.g;
        float gt[2] = { 1.f, 1.f }, gain[2] = { 1.f, 1.f };
        if (gate)
            gt[0] = __ldg(gate + row), gt[1] = __ldg(gate + row + 8);
        if (last && p.xg)
            gain[0] += __ldg(p.next_gain + row), gain[1] += __ldg(p.next_gain + row + 8);
        float x[N8][4];
#pragma unroll
        for (int n = 0; n < N8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int tok = n * 8 + 2 * c.t + (i & 1);
                x[n][i] = tok < c.rows ? __ldcg(p.x + (size_t)tok * W + row + (i >> 1) * 8) : 0.f;
            }
#pragma unroll
        for (int n = 0; n < N8; n++) {
            float v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int tok = n * 8 + 2 * c.t + (i & 1);
                v[i] = fmaf(gt[i >> 1], acc[a][n][i], x[n][i]);
                if (tok < c.rows)
                    p.x[(size_t)tok * W + row + (i >> 1) * 8] = v[i];
            }
            if (last && p.xg) {
#pragma unroll
                for (int e = 0; e < 2; e++)
                    sq[n][e] = rows_sum(v[e] * v[e] + v[2 + e] * v[2 + e]) + (a ? sq[n][e] : 0.f);
                const uint32_t l = movmatrix(pack2(v[0] * gain[0], v[1] * gain[0]));
                const uint32_t h = movmatrix(pack2(v[2] * gain[1], v[3] * gain[1]));
                const int tok = n * 8 + c.g;
                uint16_t *to = p.xg + (size_t)tok * W + c.gw * 32 + a * 16 + 2 * c.t;
                store_if(tok < c.rows, to, l);
                store_if(tok < c.rows, to + 8, h);
            }
        }
    }
    if (last && p.xg) {
        if (c.g == 0)
#pragma unroll
            for (int n = 0; n < N8; n++)
                *(float2 *)&c.sm->sq[c.warp][n * 8 + 2 * c.t] = make_float2(sq[n][0], sq[n][1]);
        __syncthreads();
        for (int i = c.tid; i < c.rows * 4; i += THREADS) {
            const int tok = i >> 2, piece = i & 3;
            p.part[tok * 16 + c.rank * 4 + piece] =
                c.sm->sq[2 * piece][tok] + c.sm->sq[2 * piece + 1][tok];
        }
    }
}

template <int N8, bool PACKED>
__global__ void __cluster_dims__(CTAS, 1, 1) __launch_bounds__(THREADS, 1)
    early_bf16_sm90(const __grid_constant__ struct early90 p)
{
    using S = shape<N8>;
    extern __shared__ __align__(128) uint8_t raw[];
    ctx<N8, PACKED> c;
    c.sm = (smem<N8> *)raw, c.base = smem_addr(raw);
    c.tid = threadIdx.x, c.warp = c.tid >> 5, c.lane = c.tid & 31, c.g = c.lane >> 2,
    c.t = c.lane & 3;
    c.rank = blockIdx.x, c.gw = c.rank * WARPS + c.warp, c.rows = p.rows, c.stride = p.rows * 64;
    c.mine = c.base + c.warp * (S::depth * GROUP) + c.lane * 16;
#pragma unroll
    for (int n = 0; n < N8; n++)
        c.tok[n] = min(n * 8 + c.g, c.rows - 1) * 64 + c.t * 16;
    c.w.left = 0, c.w.seg = -1, c.w.pol = policy_evict_first();
#pragma unroll
    for (int i = 0; i < S::depth; i++)
        c.w.push(c.mine + i * GROUP, p, c.gw, c.lane);
    if (c.tid == 0) {
        for (int i = 0; i < S::slots; i++) {
            mbar_init(c.base + AT(full) + i * 8, 1);
            c.sm->done[i] = 0;
        }
        mbar_init_fence();
    }
    STAMP(0);
    for (int i = c.tid; i < c.rows; i += THREADS)
        c.sm->where[i] = make_int2(p.suffix_rows[i].cache, p.suffix_rows[i].pos);
    stage_x(c, p, p.norm1);
    STAMP(1);
    qkv<2>(c, p, c.gw * 5);
    qkv<2>(c, p, c.gw * 5 + 2);
    qkv<1>(c, p, c.gw * 5 + 4);
    STAMP(2);
    exchange();
    STAMP(3);
    attention(c, p);
    STAMP(4);
    exchange();
    STAMP(5);
    residual(c, p, p.o, p.gate1, 0, QD / 256, false);
    STAMP(6);
    exchange();
    STAMP(7);
    stage_x(c, p, p.norm2);
    STAMP(8);
#pragma unroll 1
    for (int i = 0; i < 8; i++)
        gate_up(c, p, c.gw * 16 + i * 2);
    STAMP(9);
    exchange();
    STAMP(10);
    residual(c, p, p.h, p.gate2, QD / 256, QD / 256 + F / 256, true);
    STAMP(11);
}

template <int N8, bool PACKED> cudaError_t prepare()
{
    const void *kernel = (const void *)early_bf16_sm90<N8, PACKED>;
    cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)sizeof(smem<N8>));
    if (e != cudaSuccess)
        return e;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared);
}
template <int N8, bool PACKED> cudaError_t launch(const struct early90 *p, cudaStream_t stream)
{
    early_bf16_sm90<N8, PACKED><<<CTAS, THREADS, sizeof(smem<N8>), stream>>>(*p);
    return cudaGetLastError();
}
static_assert(sizeof(smem<2>) <= 232448 && sizeof(smem<7>) <= 232448, "shared memory");
} // namespace

#ifdef EARLY_PROF
extern "C" void early_prof_read(unsigned long long *to)
{
    cudaMemcpyFromSymbol(to, prof, sizeof prof);
}
#endif
extern "C" int early90_supported(int compute_major, int compute_minor, int rows, int packed)
{
    return compute_major == 9 && compute_minor == 0 && rows >= 1 &&
           rows <= (packed ? EARLY90_PACKED_ROWS : EARLY90_MAX_ROWS);
}

extern "C" cudaError_t early90_prepare(void)
{
    cudaError_t e = prepare<2, true>();
    if (e == cudaSuccess)
        e = prepare<2, false>();
    return e == cudaSuccess ? prepare<7, false>() : e;
}

extern "C" cudaError_t early90_launch(const struct early90 *p, cudaStream_t stream)
{
    if (p->rows < 1 || p->rows > (p->packed ? EARLY90_PACKED_ROWS : EARLY90_MAX_ROWS))
        return cudaErrorInvalidValue;
    if (p->packed)
        return launch<2, true>(p, stream);
    return p->rows <= 16 ? launch<2, false>(p, stream) : launch<7, false>(p, stream);
}
