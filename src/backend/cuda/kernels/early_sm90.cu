/* SPDX-License-Identifier: Apache-2.0
 * early_bf16_sm90: one layer of the first denoising step of one sample, up to 16 tokens, in one launch on
 * four processors (a cluster of 4 CTAs), beside the prefix's large products, which leave four idle.
 *     qkv (1/rms, + W·shift, RoPE, K and V into the cache) | attention | x += o | gate·up | x += down
 * Tiling:    every product is out^T = W · act^T by wgmma, weights on M. A CTA owns a quarter of a product's
 *            rows, a warp whole tiles of 16 rows with all of K (5 of qkv, 2 of o, 16 of gate·up, 2 of down); the
 *            64 rows of a wgmma are one tile of each of four warps, its A operand registers. A warp's
 *            weights come by cp.async into a ring of its own, each lane's 16 bytes to where the same lane takes
 *            them: no barrier, no wait but for the lane's own copies, and the ring runs on through the
 *            ends of products. Activations lie in shared memory, tokens on N (16); between the products they
 *            go through L2 and the cluster's barrier. A warpgroup has one head: 64 keys a round, scores
 *            K · qT, values VT · PT.
 * Budget:    34.6 MB of weights through four processors; one takes some 97 bytes a nanosecond: 90 µs.
 * Now:       124 µs for 11 tokens on 543 keys, 135 on 799 (packed), 153 (row-major), the same beside 128
 *            processors that read 4.3 TB/s: check_early_sm90 --bench, NVIDIA H200, 2026-11-23.
 * Long because it is one kernel: its phases share shared memory, the stream of weights and their layouts.
 * Rounding:  as in the loop (denoise_sm90.cu): bf16(x · gain) in, 1/rms on the sum; q, k, v, weights of keys,
 *            o, h bf16; residual, sums, softmax float32. Fixed order everywhere. */
#include "early_sm90.cuh"

namespace
{
using dn90::bf16, dn90::E, dn90::F, dn90::gelu, dn90::pack2, dn90::QD, dn90::W;
using dn90::UNIT; /* bytes: 16 rows × 1024 k of the packed form */
using wg90::store_u32_if;

constexpr int CTAS = 4, WARPS = 8, THREADS = WARPS * 32;
constexpr int GROUP = 2048;        /* bytes of weights a warp asks for and multiplies at a time */
constexpr int TURN = 4;            /* groups between looks at where the weights go on */
constexpr int KEYS = 64;           /* of a round of attention */
constexpr int KV_ROW = E * 2 + 16; /* 16 bytes against bank conflicts */
constexpr int KV_BYTES = KEYS * KV_ROW;
constexpr int BLOCKS = 8; /* of 32 k in a chunk of activations */
constexpr int ALL = 13;   /* segments of a warp's weights */

constexpr int larger(int a, int b) { return a > b ? a : b; }

/* T: tokens with padding. Shared memory is the ring of weights and chunks of activations, or, in
 * attention, q of two heads, weights of a round's keys, two rounds of K and V. */
constexpr int T = EARLY90_NARROW_ROWS;
struct shape {
    static constexpr int J = T / 8, N = T / 2; /* tiles of 8 tokens; a thread's sums of a tile */
    static constexpr int depth = 2 * TURN;     /* groups of a warp on their way */
    static constexpr int ring = WARPS * depth * GROUP;
    static constexpr int chunk = T * BLOCKS * 64; /* 256 k of all tokens */
    static constexpr int slots = 8;
    static constexpr int q_bytes = 2 * T * E * 2, p_bytes = T * KEYS * 2;
    static constexpr int pool = larger(ring + slots * chunk, q_bytes + 2 * p_bytes + 4 * KV_BYTES);
    static_assert(slots * chunk >= T * W * 2, "x does not fit");
};

struct smem {
    using S = shape;
    alignas(128) uint8_t pool[S::pool];
    float top[2][4][T], sum[2][4][T]; /* attention: of a warp's keys */
    float inv[T];                     /* 1 / rms */
    float sq[WARPS][T];
    int2 where[T]; /* row of the cache, position */
    uint64_t full[S::slots], kv[2];
    int done[S::slots]; /* warps that have read the chunk */
};
static_assert(sizeof(smem) <= 232448, "shared memory");

#define AT(field) (uint32_t) offsetof(smem, field)

PTX_INLINE void cp16_if(bool yes, uint32_t to, const void *from, uint64_t pol)
{
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n"
        "@p cp.async.cg.shared.global.L2::cache_hint [%1], [%2], 16, %3;\n}" ::"r"((int)yes),
        "r"(to), "l"(from), "l"(pol)
        : "memory");
}
/* Without a branch, as store_u32_if: what follows is for whole warps. */
PTX_INLINE void sts_if(bool yes, uint32_t a, uint32_t v)
{
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n@p st.shared.u32 [%1], %2;\n}" ::"r"((int)yes),
        "r"(a), "r"(v)
        : "memory");
}
/* Row r (0 … 15) of a tile of qkv is row qkv_row(tile) + r % 8 + r / 8 · 128 of the matrix. */
__device__ __forceinline__ int qkv_row(int tile) { return tile / 16 * E + tile % 16 * 8; }

/* A warp's weights, in the order in which it multiplies them: 5 tiles of qkv (two pairs and one), two
 * of o, 16 of gate·up, two of down, a group at a time, a lane's 16 bytes by itself: nobody else reads
 * them, so nothing but the copies' own count is waited for. */
template <bool PACKED> struct weights {
    const uint8_t *p;
    int d1, d2, d3; /* the group's other three pieces of 16 bytes a lane */
    int step, left, seg, end;
    uint64_t pol;

    /* Before each TURN groups: segments are multiples of it. */
    __device__ __forceinline__ void turn(const struct early90 &a, int gw, int lane)
    {
        if (left > 0 || seg + 1 >= end)
            return;
        const int s = ++seg, g = lane >> 2, t = lane & 3;
        const int kind = s < 3 ? 0 : s == 3 ? 1 : s < 12 ? 2 : 3;
        const int tile = kind == 0 ? gw * 5 + s * 2 : kind == 2 ? gw * 16 + (s - 4) * 2 : gw * 2;
        const int k = kind == 1 ? QD : kind == 3 ? F : W;
        const bool one = s == 2;
        left = one ? k / 64 : k / 32;
        if (PACKED) {
            const int unit = kind == 0   ? tile
                             : kind == 1 ? dn90::U_QKV + tile * 2
                             : kind == 2 ? dn90::U_QKV + dn90::U_O + tile
                                         : dn90::U_QKV + dn90::U_O + dn90::U_GU + tile * 4;
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
    __device__ __forceinline__ void push(uint32_t to)
    {
        const bool yes = left > 0;
        cp16_if(yes, to, p, pol), cp16_if(yes, to + 512, p + d1, pol);
        cp16_if(yes, to + 1024, p + d2, pol), cp16_if(yes, to + 1536, p + d3, pol);
        cp_async_commit();
        p += step, left--;
    }
};

/* The A registers of k16 step j of 32 k, from a lane's two pieces. */
template <bool PACKED>
__device__ __forceinline__ void fragment(uint32_t (&f)[4], uint4 a, uint4 b, int j)
{
    if (PACKED) {
        const uint4 v = j ? b : a;
        f[0] = v.x, f[1] = v.y, f[2] = v.z, f[3] = v.w;
    } else {
        f[0] = j ? a.z : a.x, f[1] = j ? b.z : b.x, f[2] = j ? a.w : a.y, f[3] = j ? b.w : b.y;
    }
}

template <bool PACKED> struct ctx {
    using S = shape;
    smem *sm;
    uint32_t base, mine, act; /* shared memory: all, this lane's place in its warp's ring, chunks */
    int tid, warp, lane, g, t, rank, gw, rows;
    uint32_t stride; /* bytes of 8 k of all tokens */
    weights<PACKED> w;

    /* Hides from the compiler that these do not change: or it makes the addresses of all phases at once,
     * and spills them. */
    __device__ __forceinline__ void forget() { pin(rows), pin(lane), pin(g), pin(t), pin(stride); }
    __device__ __forceinline__ void fill(const struct early90 &p, int end)
    {
        w.end = end;
#pragma unroll
        for (int i = 0; i < S::depth; i++) {
            if (i % TURN == 0)
                w.turn(p, gw, lane);
            w.push(mine + i * GROUP);
        }
    }
    /* acc += weights · activations over n groups, n a multiple of 8; NT tiles of 16 rows a warp. */
    template <int NT>
    __device__ __forceinline__ void multiply(float (&acc)[NT][S::N], uint32_t at, int n,
                                             const struct early90 &p)
    {
        uint64_t b = desc(at, stride, 128);
        const uint32_t next = stride >> 3; /* two cores of k on, in units of 16 bytes */
        /* Half of a ring of 8 groups in turn. Not mine + (i & TURN) · GROUP: the compiler (13.0) makes a
         * uniform register of the second part, and of these copies illegal instructions. */
        uint32_t ring = mine;
#pragma unroll 1
        for (int i = 0; i < n; i += TURN) {
            w.turn(p, gw, lane);
            uint32_t f[2][4][4];
#pragma unroll
            for (int s = 0; s < TURN; s++) {
                cp_async_wait<S::depth - 1>();
                uint4 a[4];
#pragma unroll
                for (int j = 0; j < 4; j++)
                    a[j] = lds128(ring + s * GROUP + j * 512);
#pragma unroll
                for (int j = 0; j < 4; j++)
                    fragment<PACKED>(f[s & 1][j], a[j & 2], a[(j & 2) + 1], j & 1);
                w.push(ring + s * GROUP);
                wg90::wgmma_fence();
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int j = NT == 2 ? i / 2 + i % 2 * 2 : i;
                    wg90::wgmma_rs_n16<0>(acc[NT == 2 ? j >> 1 : 0], f[s & 1][j],
                                          b + (NT == 2 ? j & 1 : j) * next, 1);
                }
                wg90::wgmma_commit();
                if (s + 1 < TURN)
                    wg90::wgmma_wait<1>();
                else
                    wg90::wgmma_wait<0>();
                b += (NT == 2 ? 2 : 4) * next;
            }
            ring = 2 * mine + TURN * GROUP - ring;
        }
    }
};

template <int NT, int N> __device__ __forceinline__ void zero(float (&acc)[NT][N])
{
#pragma unroll
    for (int i = 0; i < NT; i++)
#pragma unroll
        for (int n = 0; n < N; n++)
            acc[i][n] = 0.f;
}

/* Activations of a product: [k/32][step j][half h][token][8]: element k % 32 = 8t + 4j + 2h + e of the
 * block is number 2t + e of its eight. The A registers of step j are these k in this order. In
 * elements, of columns 8·col8 + 2t and the next. */
__device__ __forceinline__ size_t act_at(int col8, int t, int tok, int rows)
{
    return ((size_t)((col8 >> 2) * 4 + t) * rows + tok) * 8 + (col8 & 3) * 2;
}

/* What was written is read by the other CTAs. */
__device__ __forceinline__ void exchange()
{
    cluster_arrive();
    cluster_wait();
}

/* act = bf16(x · (1 + norm)), inv = 1/rms: every CTA all of it. */
template <bool PACKED>
__device__ __forceinline__ void stage_x(ctx<PACKED> &c, const struct early90 &p, const float *norm)
{
    constexpr int TWO = 2;
    c.forget();
    float4 gain[8];
    load_gains(gain, norm, c.lane);
    const uint32_t to =
        c.act + ((c.lane >> 3) * 4 + (c.lane & 1) * 2) * c.stride + (c.lane >> 1 & 3) * 4;
#pragma unroll 1
    for (int t0 = c.warp; t0 < c.rows; t0 += WARPS * TWO) {
        float4 x[TWO][8];
        load_rows(x, p.x, t0, WARPS, c.rows, c.lane);
#pragma unroll
        for (int j = 0; j < TWO; j++) {
            const int tok = t0 + j * WARPS;
            const bool real = tok < c.rows;
            float s = 0.f;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float4 v = x[j][i];
                s += (v.x * v.x + v.y * v.y) + (v.z * v.z + v.w * v.w);
                const uint32_t a = to + i * 16 * c.stride + tok * 16;
                sts_if(real, a, pack2(v.x * gain[i].x, v.y * gain[i].y));
                sts_if(real, a + c.stride, pack2(v.z * gain[i].z, v.w * gain[i].w));
            }
            s = warp_sum(s);
            if (real && c.lane == 0)
                c.sm->inv[tok] = rsqrtf(s * (1.f / W) + 1e-6f);
        }
    }
    fence_proxy_async();
    __syncthreads();
}

/* ---- q, k, v: 1/rms, shift, RoPE; q to its scratch, [dim/8][token][8], k and v to the cache ---- */
template <int NT, bool PACKED>
__device__ __forceinline__ void qkv(ctx<PACKED> &c, const struct early90 &p, int tile0)
{
    using S = shape;
    float acc[NT][S::N];
    zero(acc);
    c.template multiply<NT>(acc, c.act, NT == 2 ? W / 32 : W / 64, p);
#pragma unroll
    for (int a = 0; a < NT; a++) {
        c.forget();
        const int tile = tile0 + a, head = tile >> 4, i0 = (tile & 15) * 8, i = i0 + c.g;
        float b0 = 0.f, b1 = 0.f;
        if (p.shift) {
            const float *s = p.shift + (PACKED ? tile * 16 + c.g : qkv_row(tile) + c.g);
            b0 = __ldg(s), b1 = __ldg(s + (PACKED ? 8 : 128));
        }
#pragma unroll
        for (int n = 0; n < S::J; n++) {
            float lo[2], hi[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const int tok = min(n * 8 + 2 * c.t + e, c.rows - 1);
                const float r = c.sm->inv[tok];
                const float u = fmaf(acc[a][4 * n + e], r, b0),
                            v = fmaf(acc[a][4 * n + 2 + e], r, b1);
                float2 cs = make_float2(1.f, 0.f);
                if (head < 9)
                    cs = __ldg((const float2 *)p.cos_sin + (size_t)c.sm->where[tok].y * 128 + i);
                lo[e] = u * cs.x - v * cs.y;
                hi[e] = v * cs.x + u * cs.y;
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
}

/* ---- attention: warpgroup g of CTA r has head 2r + g ----
 * Rounds of 64 keys, online softmax. Scores are K · qT, 16 keys a warp; values are VT · PT, 16 of each 64
 * dims a warp; K and V come to shared memory a row at a time, and by ldmatrix to registers. A thread's
 * columns of both products are the same tokens, so it keeps their maxima and sums. */
template <bool PACKED>
__device__ __forceinline__ void attention(ctx<PACKED> &c, const struct early90 &p)
{
    using S = shape;
    c.forget();
    const struct cu_sample sample = *p.sample;
    const int valid = sample.n_valid, n_keys = valid + c.rows, skip = sample.n_rows - valid;
    const float scale = p.scale * 1.44269504f;
    const int wg = c.warp >> 2, w4 = c.warp & 3;
    const uint32_t qs = c.base, ps = qs + S::q_bytes + wg * S::p_bytes;
    const uint32_t kv = qs + S::q_bytes + 2 * S::p_bytes;
    const int rounds = (n_keys + KEYS - 1) / KEYS;
    const int state = p.n_state ? c.rows - 1 : -1; /* sees the prefix and the suffix's first key */
    /* 16 lanes of a warp a row each: warps 0 … 3 of K, 4 … 7 of V. Keys behind the hole follow those before
     * it; behind the last one it again. */
    const int mine = w4 * 16 + (c.lane & 15);
    const uint16_t *from = (wg ? p.v : p.k) + (size_t)sample.kv_row * E;
    auto ask = [&](int round, int first, int end) {
        if (round >= rounds)
            return;
        const uint32_t bar = c.base + AT(kv) + (round & 1) * 8;
        const int key = min(round * KEYS + mine, n_keys - 1);
        if (first == 0 && c.tid == 0) {
            mbar_expect(bar, 2 * KEYS * E * 2 + (round ? 0 : c.rows * 2 * E * 2));
            if (round == 0)
                bulk(qs, p.q + (size_t)c.rank * 2 * E * c.rows, c.rows * 2 * E * 2, bar);
        }
        if (c.lane >= first && c.lane < end)
            bulk(kv + ((round & 1) * 2 + wg) * KV_BYTES + mine * KV_ROW,
                 from + (size_t)(key + (key >= valid ? skip : 0)) * E, E * 2, bar);
        __syncwarp();
    };
    fence_proxy_async_all(); /* between what the CTAs have stored and bulk copies of it */
    ask(0, 0, 16);
    float o[4][S::N], most[S::J][2], sum[S::J][2];
    zero(o);
#pragma unroll
    for (int n = 0; n < S::J; n++)
        most[n][0] = most[n][1] = -1e30f, sum[n][0] = sum[n][1] = 0.f;
    const uint64_t bq = desc(qs + wg * E * 2 * c.rows, c.stride, 128), bp = desc(ps, T * 16, 128);
    /* ldmatrix: lanes 0-7, 8-15, … have the rows (keys) of matrices 0, 1, … */
    const int r = c.lane & 7, m = c.lane >> 3;
    const uint32_t k_at = (w4 * 16 + (m & 1) * 8 + r) * KV_ROW + (m >> 1) * 16;
    const uint32_t v_at = KV_BYTES + ((m >> 1) * 8 + r) * KV_ROW + w4 * 32 + (m & 1) * 16;
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
        __syncthreads();      /* the other half of K and V has been read */
        ask(round + 1, 0, 6); /* in parts: a copy takes its warp 90 cycles */
        mbar_wait(c.base + AT(kv) + (round & 1) * 8, round >> 1 & 1);
        const uint32_t ks = kv + (round & 1) * (2 * KV_BYTES);
        float s2[2][S::N], (&s)[S::N] = s2[0];
        {
            uint32_t f[2][2][4];
#pragma unroll
            for (int k = 0; k < E / 16; k += 2) {
                uint32_t(&a)[2][4] = f[k >> 1 & 1];
                ldmatrix_x4(a[0], ks + k_at + k * 32);
                ldmatrix_x4(a[1], ks + k_at + k * 32 + 32);
                wg90::wgmma_fence();
                wg90::wgmma_rs_n16<0>(s2[0], a[0], bq + k * (c.stride >> 3), k > 0);
                wg90::wgmma_rs_n16<0>(s2[1], a[1], bq + (k + 1) * (c.stride >> 3), k > 0);
                wg90::wgmma_commit();
                wg90::wgmma_wait<1>();
            }
            wg90::wgmma_wait<0>();
        }
#pragma unroll
        for (int i = 0; i < S::N; i++)
            s[i] += s2[1][i];
        ask(round + 1, 6, 11);
        const int key = round * KEYS + w4 * 16 + c.g;
        {
            float v[2 * S::J];
#pragma unroll
            for (int n = 0; n < S::J; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const int end = n * 8 + 2 * c.t + e == state ? valid + 1 : n_keys;
                    s[4 * n + e] = key < end ? s[4 * n + e] * scale : -INFINITY;
                    s[4 * n + 2 + e] = key + 8 < end ? s[4 * n + 2 + e] * scale : -INFINITY;
                    v[2 * n + e] = fmaxf(s[4 * n + e], s[4 * n + 2 + e]);
                }
            rows_max<S::J>(c.sm->top[wg][w4], v, c.lane);
        }
        bar_sync(1 + wg, 128);
        const uint32_t to = ps + (w4 * 2 * T + c.g) * 16 + c.t * 4;
#pragma unroll
        for (int n = 0; n < S::J; n++) {
            float2 top = make_float2(most[n][0], most[n][1]);
#pragma unroll
            for (int w = 0; w < 4; w++) {
                const float2 v = *(const float2 *)&c.sm->top[wg][w][n * 8 + 2 * c.t];
                top.x = fmaxf(top.x, v.x), top.y = fmaxf(top.y, v.y);
            }
            const float f0 = exp2_approx(most[n][0] - top.x), f1 = exp2_approx(most[n][1] - top.y);
            const float x0 = exp2_approx(s[4 * n] - top.x), x1 = exp2_approx(s[4 * n + 1] - top.y);
            const float x2 = exp2_approx(s[4 * n + 2] - top.x);
            const float x3 = exp2_approx(s[4 * n + 3] - top.y);
            most[n][0] = top.x, most[n][1] = top.y;
            sum[n][0] = fmaf(sum[n][0], f0, x0 + x2), sum[n][1] = fmaf(sum[n][1], f1, x1 + x3);
            sts_u32(to + n * 128, wg90::movmatrix(pack2(x0, x1)));
            sts_u32(to + n * 128 + T * 16, wg90::movmatrix(pack2(x2, x3)));
#pragma unroll
            for (int a = 0; a < 4; a++)
                o[a][4 * n] *= f0, o[a][4 * n + 1] *= f1, o[a][4 * n + 2] *= f0,
                    o[a][4 * n + 3] *= f1;
        }
        ask(round + 1, 11, 16);
        fence_proxy_async();
        bar_sync(1 + wg, 128);
        uint32_t f[2][4][4];
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            uint32_t(&a)[4][4] = f[k & 1];
#pragma unroll
            for (int i = 0; i < 4; i++)
                ldmatrix_x4_trans(a[i], ks + v_at + k * (16 * KV_ROW) + i * 128);
            wg90::wgmma_fence();
#pragma unroll
            for (int i = 0; i < 4; i++)
                wg90::wgmma_rs_n16<0>(o[i], a[i], bp + k * (T * 2), 1);
            wg90::wgmma_commit();
            wg90::wgmma_wait<1>();
        }
        wg90::wgmma_wait<0>();
    }
#pragma unroll
    for (int n = 0; n < S::J; n++) {
        const float l0 = rows_sum(sum[n][0]), l1 = rows_sum(sum[n][1]);
        if (c.g == 0)
            *(float2 *)&c.sm->sum[wg][w4][n * 8 + 2 * c.t] = make_float2(l0, l1);
    }
    bar_sync(1 + wg, 128);
#pragma unroll
    for (int n = 0; n < S::J; n++) {
        float f[2];
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float l = 0.f;
#pragma unroll
            for (int w = 0; w < 4; w++)
                l += c.sm->sum[wg][w][n * 8 + 2 * c.t + e];
            f[e] = __fdividef(1.f, l);
        }
        const int tok = n * 8 + c.g, at = min(tok, c.rows - 1);
#pragma unroll
        for (int a = 0; a < 4; a++) {
            const int col8 = (c.rank * 2 + wg) * 32 + a * 8 + w4 * 2;
            const uint32_t l = wg90::movmatrix(pack2(o[a][4 * n] * f[0], o[a][4 * n + 1] * f[1]));
            const uint32_t h =
                wg90::movmatrix(pack2(o[a][4 * n + 2] * f[0], o[a][4 * n + 3] * f[1]));
            store_u32_if(tok < c.rows, p.o + act_at(col8, c.t, at, c.rows), l);
            store_u32_if(tok < c.rows, p.o + act_at(col8 + 1, c.t, at, c.rows), h);
        }
    }
}

/* ---- gate·up of two tiles: h = gelu(gate) · up ---- */
template <bool PACKED>
__device__ __forceinline__ void gate_up(ctx<PACKED> &c, const struct early90 &p, int tile0)
{
    using S = shape;
    float acc[2][S::N];
    zero(acc);
    c.template multiply<2>(acc, c.act, W / 32, p);
#pragma unroll
    for (int a = 0; a < 2; a++) {
        c.forget();
        const int tile = tile0 + a;
        float b0 = 0.f, b1 = 0.f;
        if (p.shift) {
            const float *s = p.shift + 2560 + tile * 16 + c.g;
            b0 = __ldg(s), b1 = __ldg(s + 8);
        }
#pragma unroll
        for (int n = 0; n < S::J; n++) {
            float h[2];
#pragma unroll
            for (int e = 0; e < 2; e++) {
                const float r = c.sm->inv[min(n * 8 + 2 * c.t + e, c.rows - 1)];
                h[e] = gelu(fmaf(acc[a][4 * n + e], r, b0)) * fmaf(acc[a][4 * n + 2 + e], r, b1);
            }
            const uint32_t v = wg90::movmatrix(pack2(h[0], h[1]));
            const int tok = n * 8 + c.g, at = min(tok, c.rows - 1);
            store_u32_if(tok < c.rows, p.h + act_at(tile, c.t, at, c.rows), v);
        }
    }
}

/* ---- o and down: x += gate · acc. Chunks of 256 k come into the slots in turn: number `first` and on,
 * counted over both products ---- */
template <bool PACKED>
__device__ __forceinline__ void residual(ctx<PACKED> &c, const struct early90 &p,
                                         const uint16_t *in, const float *gate, int first, int end,
                                         bool last)
{
    using S = shape;
    const uint32_t bytes = BLOCKS * 4 * c.stride;
    auto ask = [&](int i) {
        const uint32_t bar = c.base + AT(full) + i % S::slots * 8;
        mbar_expect(bar, bytes);
        bulk(c.act + i % S::slots * S::chunk, (const uint8_t *)in + (size_t)(i - first) * bytes,
             bytes, bar);
    };
    if (c.tid == 0) {
        fence_proxy_async_all(); /* between what the CTAs have stored and bulk copies of it */
        for (int i = first; i < end && i < first + S::slots; i++)
            ask(i);
    }
    float acc[2][S::N];
    zero(acc);
#pragma unroll 1
    for (int i = first; i < end; i++) {
        const int slot = i % S::slots;
        mbar_wait(c.base + AT(full) + slot * 8, i / S::slots & 1);
        c.template multiply<2>(acc, c.act + slot * S::chunk, BLOCKS, p);
        if (i + S::slots < end) { /* the last of the warps asks for the slot's next chunk */
            __syncwarp();
            if (c.lane == 0) {
                __threadfence_block();
                if ((atomicAdd(&c.sm->done[slot], 1) & (WARPS - 1)) == WARPS - 1) {
                    __threadfence_block();
                    ask(i + S::slots);
                }
            }
            __syncwarp();
        }
    }
    float sq[S::J][2];
#pragma unroll
    for (int a = 0; a < 2; a++) {
        c.forget();
        const int row = c.gw * 32 + a * 16 + c.g;
        float gt[2] = { 1.f, 1.f }, gain[2] = { 1.f, 1.f };
        if (gate)
            gt[0] = __ldg(gate + row), gt[1] = __ldg(gate + row + 8);
        if (last && p.xg)
            gain[0] += __ldg(p.next_gain + row), gain[1] += __ldg(p.next_gain + row + 8);
        float x[S::J][4];
#pragma unroll
        for (int n = 0; n < S::J; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int tok = n * 8 + 2 * c.t + (i & 1);
                x[n][i] = tok < c.rows ? __ldcg(p.x + (size_t)tok * W + row + (i >> 1) * 8) : 0.f;
            }
#pragma unroll
        for (int n = 0; n < S::J; n++) {
            float v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int tok = n * 8 + 2 * c.t + (i & 1);
                v[i] = fmaf(gt[i >> 1], acc[a][4 * n + i], x[n][i]);
                if (tok < c.rows)
                    p.x[(size_t)tok * W + row + (i >> 1) * 8] = v[i];
            }
            if (last && p.xg) {
#pragma unroll
                for (int e = 0; e < 2; e++)
                    sq[n][e] = rows_sum(v[e] * v[e] + v[2 + e] * v[2 + e]) + (a ? sq[n][e] : 0.f);
                const uint32_t l = wg90::movmatrix(pack2(v[0] * gain[0], v[1] * gain[0]));
                const uint32_t h = wg90::movmatrix(pack2(v[2] * gain[1], v[3] * gain[1]));
                const int tok = n * 8 + c.g;
                uint16_t *to = p.xg + (size_t)tok * W + c.gw * 32 + a * 16 + 2 * c.t;
                store_u32_if(tok < c.rows, to, l);
                store_u32_if(tok < c.rows, to + 8, h);
            }
        }
    }
    if (last && p.xg) {
        if (c.g == 0)
#pragma unroll
            for (int n = 0; n < S::J; n++)
                *(float2 *)&c.sm->sq[c.warp][n * 8 + 2 * c.t] = make_float2(sq[n][0], sq[n][1]);
        __syncthreads();
        for (int i = c.tid; i < c.rows * 4; i += THREADS) {
            const int tok = i >> 2, piece = i & 3;
            p.part[tok * 16 + c.rank * 4 + piece] =
                c.sm->sq[2 * piece][tok] + c.sm->sq[2 * piece + 1][tok];
        }
    }
}

template <bool PACKED>
__global__ void __cluster_dims__(CTAS, 1, 1) __launch_bounds__(THREADS, 1)
    early_bf16_sm90(const __grid_constant__ struct early90 p)
{
    using S = shape;
    extern __shared__ __align__(128) uint8_t raw[];
    ctx<PACKED> c;
    c.sm = (smem *)raw, c.base = smem_addr(raw), c.act = c.base + S::ring;
    c.tid = threadIdx.x, c.warp = c.tid >> 5, c.lane = c.tid & 31, c.g = c.lane >> 2,
    c.t = c.lane & 3;
    c.rank = blockIdx.x, c.gw = c.rank * WARPS + c.warp, c.rows = p.rows, c.stride = p.rows * 16;
    c.mine = c.base + c.warp * (S::depth * GROUP) + c.lane * 16;
    c.w.left = 0, c.w.seg = -1, c.w.pol = policy_evict_first();
    c.fill(p, 3);
    if (c.tid == 0) {
        for (int i = 0; i < S::slots; i++) {
            mbar_init(c.base + AT(full) + i * 8, 1);
            c.sm->done[i] = 0;
        }
        mbar_init(c.base + AT(kv), 1), mbar_init(c.base + AT(kv) + 8, 1);
        mbar_init_fence();
    }
    for (int i = c.tid; i < c.rows; i += THREADS)
        c.sm->where[i] = make_int2(p.suffix_rows[i].cache, p.suffix_rows[i].pos);
    stage_x(c, p, p.norm1);
    qkv<2>(c, p, c.gw * 5);
    qkv<2>(c, p, c.gw * 5 + 2);
    qkv<1>(c, p, c.gw * 5 + 4);
    exchange();
    attention(c, p);
    exchange();
    c.fill(p, ALL);
    residual(c, p, p.o, p.gate1, 0, QD / 256, false);
    exchange();
    stage_x(c, p, p.norm2);
#pragma unroll 1
    for (int i = 0; i < 8; i++)
        gate_up(c, p, c.gw * 16 + i * 2);
    exchange();
    residual(c, p, p.h, p.gate2, QD / 256, QD / 256 + F / 256, true);
}

template <bool PACKED> cudaError_t prepare()
{
    const void *kernel = (const void *)early_bf16_sm90<PACKED>;
    cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)sizeof(smem));
    if (e != cudaSuccess)
        return e;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared);
}
template <bool PACKED> cudaError_t launch(const struct early90 *p, cudaStream_t stream)
{
    early_bf16_sm90<PACKED><<<CTAS, THREADS, sizeof(smem), stream>>>(*p);
    return cudaGetLastError();
}
} // namespace

extern "C" int early90_supported(int compute_major, int compute_minor, int rows, int packed)
{
    return compute_major == 9 && compute_minor == 0 && rows >= 1 &&
           rows <= (packed ? EARLY90_NARROW_ROWS : EARLY90_MAX_ROWS);
}

extern "C" cudaError_t early90_prepare(void)
{
    cudaError_t e = prepare<true>();
    if (e == cudaSuccess)
        e = prepare<false>();
    return e == cudaSuccess ? early90_wide_prepare() : e;
}

extern "C" CUresult early90_plan(struct early90_maps *m, tensor_map_encode_fn encode,
                                 const struct early90 *p)
{
    return p->rows > EARLY90_NARROW_ROWS ? early90_wide_plan(m, encode, p) : CUDA_SUCCESS;
}

extern "C" cudaError_t early90_launch(const struct early90 *p, const struct early90_maps *m,
                                      cudaStream_t stream)
{
    if (p->rows < 1 || p->rows > (p->packed ? EARLY90_NARROW_ROWS : EARLY90_MAX_ROWS))
        return cudaErrorInvalidValue;
    if (p->rows > EARLY90_NARROW_ROWS)
        return early90_wide_launch(p, m, stream);
    return p->packed ? launch<true>(p, stream) : launch<false>(p, stream);
}
