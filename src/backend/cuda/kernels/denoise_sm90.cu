/* SPDX-License-Identifier: Apache-2.0
 * denoise_sm90: all Euler steps of one sample, heads included, as one persistent kernel: 128 CTAs of
 * 8 computing warps, a copying warp and a clearing warp, one CTA an SM, in clusters of two. Layouts
 * are in denoise_sm90.cuh, data preparation in denoise_sm90_pack.cu.
 *
 * Weights never wait for activations: the copying warp streams the CTA's fixed share of every matrix
 * through a ring of 16 KB slots (cp.async.bulk), at most IN_FLIGHT slots at a time because a burst
 * delays every small message.
 *
 * Activations are exchanged through L2 without barriers or flags: an empty word holds 0xffffffff,
 * which no result can be (arithmetic makes NaNs 0x7fff…), so a reader loads until no word is empty.
 * A layer is six such exchanges and two between the CTAs of a pair (st.async):
 *
 *   x1 → QKV → q, ks → attention of a head's key split → po, ml → combine → ob → O ⇄ pair → x2
 *   x2 → gate·up, GeGLU → hb → down ⇄ pair → x1 (after the last layer: xf → v, Euler, suffix → x1)
 *
 * Who owns what (c = CTA, r = c % 2): q tile c; k, v tile c/4 if c%4 = 0; head c/16, split c%16 of
 * the attention and dims 16·(c%16) … of its combination; k-half r of O and down for rows 16·(c/2) …,
 * of which rows 8r … +7 are its residual, kept in registers; hidden units 32c … +31.
 *
 * Clearing. A word is written (a) empty, (b) full, (a), … The clearing warp of its owner does (a),
 * fences, then completes an mbarrier `done` that every publisher named below has waited for.
 *   A  when x1 of the layer was seen whole (every CTA has left the layer before): clears x2, hb, xf,
 *      ub. Publishers of ob wait for it. A reader of x2 has been through O and its pair exchange,
 *      hence behind all 128 publications of ob; readers of hb and xf come later still.
 *   B  after the pair exchange of O (every CTA has published ob, so left QKV, attention, and, word
 *      by word, the combination): clears x1, q, ks, po, ml. Publishers of hb wait for it. A reader of
 *      x1 or q of the next layer has been through down and its exchange, hence behind all of hb.
 *   C  when x2 was seen whole (every CTA has left O): clears ob. Publishers after down wait for it;
 *      the next readers of ob have seen x1 whole.
 * So no reader can meet a value of the layer before. Both sides use relaxed gpu-scope accesses; the
 * release is the clearing warp's fence plus mbarrier, the readers' loads are ordered by the polls
 * they depend on. Waits give up after two seconds and say so in `status`; all CTAs are resident
 * (cooperative launch), so on a sound device they never do.
 *
 * Same inputs, same bits: every sum has a fixed order.
 * Shape: 10 steps × 18 layers of 34.6 MB of bf16 weights; floor 1.36 ms at 4.6 TB/s.
 * Rounding: residual, softmax, norms, Euler in f32; products take bf16(x·gain), 1/rms on their
 * result (docs/numerics.md); exchanged activations bf16, attention partials f32. */
#include "backend/cuda/kernels/denoise_sm90.cuh"

namespace dn90
{
/* Two warpgroups compute; the third is the copying warp, the clearing warp and two that sleep: roles
 * are whole warpgroups so that setmaxnreg can move its registers to those who compute. */
constexpr int WARPS = 8, THREADS = (WARPS + 4) * 32, NS = 12;
#ifndef DN90_IN_FLIGHT
#define DN90_IN_FLIGHT 3
#endif
constexpr int IN_FLIGHT = DN90_IN_FLIGHT; /* slots of 16 KB being copied */
constexpr int PR_LD = 5 * 16 + 8;         /* columns of the probability matrix, padded */

struct params {
    const uint8_t *weights, *kv;
    bf16 *x1, *x2, *xf, *ub, *q, *ob, *hb, *ks;
    float *po, *ml, *ssq1, *ssq2, *ssqf;
    const float2 *rope;
    const int *neff;
    int *status;
    const float *norm; /* scale of step s, norm i: norm + s·norm_step + i·norm_inst */
    int64_t norm_step;
    int norm_inst, pi05;
    const float *shift, *shift_out; /* [steps][L][10752], [steps][A], or NULL */
    const float *in_w, *in_b, *mlp_b, *out_b;
    int in_b_step;
    float *x, *rec_v, *rec_x;
    int T, L, steps;
    float dt;
    unsigned long long *prof;
    int prof_layer;
};

template <int N8> struct smem {
    alignas(128) uint8_t ring[NS * SLOT];
    alignas(16) float sfx[2 * N8 * 128]; /* scores of the suffix tile: [half][n][key 16][token 8] */
    alignas(16) bf16 pr[N8 * 8 * PR_LD]; /* probabilities [token][key] */
    alignas(16) float xch[8 * N8 * 8];   /* the peer's sums of this CTA's rows: [row][token] */
    alignas(16) float ssq[WARPS * t8p_of(N8)];
    alignas(16) float xs[N8 * 8 * A]; /* Euler state, the same in every CTA */
    alignas(16) float inw[8 * A];     /* in_w of this CTA's rows */
    uint64_t full[NS], empty[NS], xbar, ev[3], done[3];
};

struct watch {
    bool dead;
    unsigned n;
    unsigned long long t0;
    __device__ __forceinline__ void begin() { n = 0; }
    __device__ __forceinline__ bool give_up()
    {
        if (dead)
            return true;
        if ((++n & 4095) == 0) {
            unsigned long long now = global_timer();
            if (n == 4096)
                t0 = now;
            else if (now - t0 > 2000000000ull)
                dead = true;
        }
        return dead;
    }
};

__device__ __forceinline__ void wait(uint64_t *bar, uint32_t parity, watch &wd)
{
    if (mbar_try(bar, parity))
        return;
    wd.begin();
    while (!mbar_try(bar, parity))
        if (wd.give_up())
            return;
}

/* One computing warp's view. */
template <int N8> struct ctx {
    smem<N8> *sm;
    int tid, warp, lane, g, t, cta, rank;
    int s; /* ring position: slot and parity */
    uint32_t ph;
    uint32_t n_layer, n_xch; /* parities of done[] and xbar */
    int nt, t0, st;          /* prefix tiles of this CTA's split: count, first; suffix tile or -1 */
    int n_eff;
    float r0, r1; /* residual of rows 2·(tid%4), +1 of token tid/4 */
    watch wd;

    __device__ __forceinline__ int slot(int i) const { return s + i - (s + i >= NS ? NS : 0); }
    __device__ __forceinline__ uint8_t *ptr(int i) const { return sm->ring + slot(i) * SLOT; }
    __device__ __forceinline__ void full(int i)
    {
        wait(&sm->full[slot(i)], ph ^ (s + i >= NS), wd);
    }
    /* The warp is done with slots [i, i + n): earlier writes to them come before the next copy. */
    __device__ __forceinline__ void release(int i, int n)
    {
        fence_proxy_async();
        __syncwarp();
        if (lane == 0)
            for (int k = 0; k < n; k++)
                mbar_arrive(&sm->empty[slot(i + k)]);
    }
    __device__ __forceinline__ void advance(int n)
    {
        s += n;
        if (s >= NS)
            s -= NS, ph ^= 1;
    }
    __device__ __forceinline__ void sync() { bar_sync(1, WARPS * 32); }
    /* The warp's 4 KB of unit u (two slots), as weights and later as its partial sums. */
    __device__ __forceinline__ uint8_t *part(int u) const
    {
        return ptr(2 * u + (warp >> 2)) + (warp & 3) * 4096;
    }
    __device__ __forceinline__ const float *part_of(int u, int w) const
    {
        return (const float *)(ptr(2 * u + (w >> 2)) + (w & 3) * 4096);
    }
    __device__ __forceinline__ void tell(int i)
    {
        __syncwarp();
        if (lane == 0)
            mbar_arrive(&sm->ev[i]);
    }
};

#define STAMP(i)                                                    \
    do {                                                            \
        if (p.prof && c.tid == 0 && (int)c.n_layer == p.prof_layer) \
            p.prof[c.cta * DN90_STAMPS + (i)] = global_timer();     \
    } while (0)

__device__ __forceinline__ uint32_t max4(uint32_t m, uint4 v)
{
    return max(max(m, max(v.x, v.y)), max(v.z, v.w));
}
__device__ __forceinline__ uint32_t pack2(float lo, float hi)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&v;
}
/* 0.5 z (1 + tanh(sqrt(2/π)(z + 0.044715 z³))) */
__device__ __forceinline__ float gelu(float z)
{
    float u = 0.7978845608f * (z + 0.044715f * z * z * z);
    return __fdividef(z, 1.f + exp2_approx(-2.885390082f * u));
}
__device__ __forceinline__ float silu(float z) { return z / (1.f + __expf(-z)); }

/* Loads NKB blocks of 32 k from B order; true when no word of a real token is empty. */
template <int N8, int NKB>
__device__ __forceinline__ bool load_b(uint4 (&b)[NKB][N8], const bf16 *src, int lane, int T)
{
    uint32_t m = 0;
#pragma unroll
    for (int kb = 0; kb < NKB; kb++)
#pragma unroll
        for (int n = 0; n < N8; n++)
            b[kb][n] = n * 8 + lane / 4 < T ? ld_relaxed(src + (kb * N8 + n) * 256 + lane * 8)
                                            : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int kb = 0; kb < NKB; kb++)
#pragma unroll
        for (int n = 0; n < N8; n++)
            m = max4(m, b[kb][n]);
    return !__any_sync(~0u, m == ~0u);
}
template <int N8, int NKB>
__device__ __forceinline__ void poll_b(uint4 (&b)[NKB][N8], const bf16 *src, int T, ctx<N8> &c)
{
    c.wd.begin();
    while (!load_b<N8, NKB>(b, src, c.lane, T) && !c.wd.give_up())
        ;
}

/* Sums of squares of this warp's 128 k (16 CTAs × 8 rows) per token → sm->ssq[warp][token]. */
template <int N8> __device__ __forceinline__ void poll_ssq(const float *ssq, int T, ctx<N8> &c)
{
    constexpr int TP = t8p_of(N8), PASS = 16 * TP / 128; /* passes of 32 lanes × 4 floats */
    const float *src = ssq + c.warp * 16 * TP + c.lane * 4;
    int tok = c.lane * 4 % TP;
    float4 v[PASS];
    c.wd.begin();
    for (;;) {
        uint32_t m = 0;
#pragma unroll
        for (int i = 0; i < PASS; i++) {
            uint4 u = ld_relaxed(src + i * 128);
            v[i] = make_float4(__uint_as_float(u.x), __uint_as_float(u.y), __uint_as_float(u.z),
                               __uint_as_float(u.w));
            if (tok < T)
                m = max(m, u.x);
            if (tok + 1 < T)
                m = max(m, u.y);
            if (tok + 2 < T)
                m = max(m, u.z);
            if (tok + 3 < T)
                m = max(m, u.w);
        }
        if (!__any_sync(~0u, m == ~0u) || c.wd.give_up())
            break;
    }
    float4 a = v[0];
#pragma unroll
    for (int i = 1; i < PASS; i++)
        a.x += v[i].x, a.y += v[i].y, a.z += v[i].z, a.w += v[i].w;
#pragma unroll
    for (int o = TP / 4; o < 32; o *= 2) {
        a.x += __shfl_xor_sync(~0u, a.x, o), a.y += __shfl_xor_sync(~0u, a.y, o);
        a.z += __shfl_xor_sync(~0u, a.z, o), a.w += __shfl_xor_sync(~0u, a.w, o);
    }
    if (c.lane < TP / 4)
        *(float4 *)(c.sm->ssq + c.warp * TP + c.lane * 4) = a;
}
/* 1 / rms of tokens tok, tok + 1; after the barrier */
template <int N8> __device__ __forceinline__ float2 inv_rms(const ctx<N8> &c, int tok)
{
    float2 s = make_float2(0.f, 0.f);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        float2 v = *(const float2 *)(c.sm->ssq + w * t8p_of(N8) + tok);
        s.x += v.x, s.y += v.y;
    }
    return make_float2(rsqrtf(s.x * (1.f / W) + 1e-6f), rsqrtf(s.y * (1.f / W) + 1e-6f));
}

/* acc += this warp's 4 KB of weights · b: k16 steps in a fixed order. */
template <int N8>
__device__ __forceinline__ void mma_unit(float (&acc)[N8][4], const uint8_t *part,
                                         const uint4 (&b)[4][N8], int lane)
{
    const uint4 *a = (const uint4 *)part + lane;
#pragma unroll
    for (int kb = 0; kb < 4; kb++) {
        uint4 a0 = a[kb * 64], a1 = a[kb * 64 + 32];
#pragma unroll
        for (int n = 0; n < N8; n++)
            mma_bf16(acc[n], a0, b[kb][n].x, b[kb][n].y);
#pragma unroll
        for (int n = 0; n < N8; n++)
            mma_bf16(acc[n], a1, b[kb][n].z, b[kb][n].w);
    }
}
template <int N8>
__device__ __forceinline__ void store_part(uint8_t *part, const float (&acc)[N8][4], int g, int t)
{
#pragma unroll
    for (int n = 0; n < N8; n++) {
        float *q = (float *)part + (n * 16 + g) * 8 + 2 * t;
        *(float2 *)q = make_float2(acc[n][0], acc[n][1]);
        *(float2 *)(q + 64) = make_float2(acc[n][2], acc[n][3]);
    }
}
template <int N8> __device__ __forceinline__ void zero(float (&acc)[N8][4])
{
#pragma unroll
    for (int n = 0; n < N8; n++)
        acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.f;
}
/* Sum over the warps of rows g (lo) and g + 8 (hi), tokens n·8 + 2t, +1. */
template <int N8>
__device__ __forceinline__ void sum_parts(const ctx<N8> &c, int u, int n, float2 &lo, float2 &hi)
{
    lo = hi = make_float2(0.f, 0.f);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        const float *q = c.part_of(u, w) + (n * 16 + c.g) * 8 + 2 * c.t;
        float2 a = *(const float2 *)q, b = *(const float2 *)(q + 64);
        lo.x += a.x, lo.y += a.y, hi.x += b.x, hi.y += b.y;
    }
}
/* v: row g at tokens 2t, 2t+1. Gives rows g&~1, +1 at token 2t + (g&1), in one word. */
__device__ __forceinline__ uint32_t pair_rows(float2 v, int g)
{
    float r = __shfl_xor_sync(~0u, g & 1 ? v.x : v.y, 4);
    return g & 1 ? pack2(r, v.y) : pack2(v.x, r);
}

/* ---- x1 → q, suffix k and v ---- */
template <int N8>
__device__ __forceinline__ void qkv(ctx<N8> &c, const params &p, int step, int layer)
{
    const int nu = c.cta % 4 == 0 ? 2 : 1, per = 8 / nu, u = c.warp / per;
    const int tile = u ? 128 + c.cta / 4 : c.cta;
    float2 bias = make_float2(0.f, 0.f);
    if (p.shift) {
        const float *s = p.shift + ((size_t)step * p.L + layer) * ((U_QKV + U_GU) * 16) + tile * 16;
        bias = make_float2(__ldg(s + c.g), __ldg(s + c.g + 8));
    }
    uint4 b[4][N8];
    poll_b<N8, 4>(b, p.x1 + c.warp * 4 * N8 * 256, p.T, c);
    poll_ssq<N8>(p.ssq1, p.T, c);
    c.tell(0);
    STAMP(1);
    for (int i = 0; i < nu; i++) {
        float acc[N8][4];
        zero<N8>(acc);
        c.full(2 * i + (c.warp >> 2));
        mma_unit<N8>(acc, c.part(i), b, c.lane);
        __syncwarp();
        store_part<N8>(c.part(i), acc, c.g, c.t);
    }
    STAMP(2);
    c.sync();
    for (int n = c.warp % per; n < N8; n += per) {
        const int tok = n * 8 + 2 * c.t, i = tile % 16 * 8 + c.g;
        if (n * 8 >= p.T)
            break;
        float2 lo, hi;
        sum_parts<N8>(c, u, n, lo, hi);
        float2 r = inv_rms<N8>(c, tok);
        lo = make_float2(fmaf(lo.x, r.x, bias.x), fmaf(lo.y, r.y, bias.x));
        hi = make_float2(fmaf(hi.x, r.x, bias.y), fmaf(hi.y, r.y, bias.y));
        if (tile < 144) {
            const float4 *e = (const float4 *)(p.rope + 0);
            float2 e0 = __ldg((const float2 *)e + tok * 128 + i);
            float2 e1 = __ldg((const float2 *)e + (tok + 1) * 128 + i);
            float a = lo.x, d = hi.x;
            lo.x = a * e0.x - d * e0.y, hi.x = d * e0.x + a * e0.y;
            a = lo.y, d = hi.y;
            lo.y = a * e1.x - d * e1.y, hi.y = d * e1.x + a * e1.y;
            const uint32_t wl = pair_rows(lo, c.g), wh = pair_rows(hi, c.g);
            const int tk = tok + (c.g & 1), k = i & ~1;
            if (tk < p.T) {
                if (tile < 128) {
                    st_relaxed_u32(p.q + b_off<N8>(tile / 16 * E + k, tk), wl);
                    st_relaxed_u32(p.q + b_off<N8>(tile / 16 * E + k + 128, tk), wh);
                } else {
                    bf16 *d0 = p.ks + (tk >> 4) * (KV_TILE / 2);
                    st_relaxed_u32(d0 + k_off(k, tk & 15), wl);
                    st_relaxed_u32(d0 + k_off(k + 128, tk & 15), wh);
                }
            }
        } else if (tok < p.T) {
            const bool two = tok + 1 < p.T;
            bf16 *d0 = p.ks + (tok >> 4) * (KV_TILE / 2);
            st_relaxed_u32(d0 + v_off(i, tok & 15), pack2(lo.x, two ? lo.y : 0.f));
            st_relaxed_u32(d0 + v_off(i + 128, tok & 15), pack2(hi.x, two ? hi.y : 0.f));
        }
    }
    c.release(0, 2 * nu);
    c.advance(2 * nu);
    STAMP(3);
}

/* ---- attention of head c/16 on key split c%16 → po, ml ---- */
template <int N8> __device__ __forceinline__ void attend(ctx<N8> &c, const params &p)
{
    const int head = c.cta >> 4, split = c.cta & 15, half = c.warp & 1, T = p.T;
    const int na = c.nt + (c.st >= 0);
    const bf16 *ks = p.ks + (c.st < 0 ? 0 : c.st) * (KV_TILE / 2);
    const int sfx_keys = T - c.st * 16; /* of the suffix tile that are real */
    uint4 b[4][N8];
    poll_b<N8, 4>(b, p.q + (head * 8 + half * 4) * N8 * 256, T, c);
    STAMP(4);
    for (int task = c.warp; task < 2 * na; task += WARPS) {
        const int kt = task >> 1;
        float s[N8][4];
        uint8_t *dst;
        zero<N8>(s);
        if (kt < c.nt) {
            c.full(kt);
            dst = c.ptr(kt) + half * 4096;
            mma_unit<N8>(s, dst, b, c.lane);
        } else {
            uint4 a[8];
            c.wd.begin();
            for (;;) {
                uint32_t m = 0;
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    a[i] = ld_relaxed(ks + (half * 8 + i) * 256 + c.lane * 8);
                    if (c.g >= sfx_keys)
                        a[i].x = a[i].z = 0;
                    if (c.g + 8 >= sfx_keys)
                        a[i].y = a[i].w = 0;
                    m = max4(m, a[i]);
                }
                if (!__any_sync(~0u, m == ~0u) || c.wd.give_up())
                    break;
            }
            dst = (uint8_t *)(c.sm->sfx + half * N8 * 128);
#pragma unroll
            for (int i = 0; i < 8; i++)
#pragma unroll
                for (int n = 0; n < N8; n++)
                    mma_bf16(s[n], a[i], i & 1 ? b[i / 2][n].z : b[i / 2][n].x,
                             i & 1 ? b[i / 2][n].w : b[i / 2][n].y);
        }
        __syncwarp();
        store_part<N8>(dst, s, c.g, c.t);
    }
    STAMP(5);
    c.sync();
    /* softmax over this split's keys: a warp two tokens at a time, 16 lanes each, a key a tile */
    for (int tp = c.warp; 2 * tp < T; tp += WARPS) {
        const int tok = 2 * tp + (c.lane >> 4), j = c.lane & 15;
        const int off = ((tok >> 3) * 16 + j) * 8 + (tok & 7);
        float v[5], m = -1e30f, l = 0.f;
#pragma unroll
        for (int k = 0; k < 5; k++) {
            v[k] = -1e30f;
            if (k < na) {
                const bool pre = k < c.nt;
                const float *q = pre ? (const float *)c.ptr(k) : c.sm->sfx;
                float x = q[off] + q[off + (pre ? 1024 : N8 * 128)];
                if (pre ? (c.t0 + k) * 16 + j < c.n_eff : j < sfx_keys)
                    v[k] = x * (0.0625f * 1.44269504f);
            }
            m = fmaxf(m, v[k]);
        }
#pragma unroll
        for (int o = 1; o < 16; o *= 2)
            m = fmaxf(m, __shfl_xor_sync(~0u, m, o));
#pragma unroll
        for (int k = 0; k < 5; k++)
            if (k < na) {
                float e = v[k] > -1e29f ? exp2_approx(v[k] - m) : 0.f;
                l += e;
                c.sm->pr[tok * PR_LD + k * 16 + j] = __float2bfloat16(e);
            }
#pragma unroll
        for (int o = 1; o < 16; o *= 2)
            l += __shfl_xor_sync(~0u, l, o);
        if (j == 0 && tok < T) {
            float *d = p.ml + (head * SPLITS + split) * 2 * (N8 * 8) + tok;
            st_relaxed_f32(d, m);
            st_relaxed_f32(d + N8 * 8, l);
        }
    }
    c.sync();
    STAMP(6);
    float o[2][N8][4];
    zero<N8>(o[0]);
    zero<N8>(o[1]);
    uint4 vs[2] = { make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0) };
    if (c.st >= 0) {
        c.wd.begin();
        for (;;) {
            uint32_t m = 0;
#pragma unroll
            for (int d = 0; d < 2; d++) {
                vs[d] = ld_relaxed(ks + 4096 + (c.warp * 2 + d) * 256 + c.lane * 8);
                if (4 * c.t >= sfx_keys)
                    vs[d].x = vs[d].y = 0;
                if (4 * c.t + 2 >= sfx_keys)
                    vs[d].z = vs[d].w = 0;
                m = max4(m, vs[d]);
            }
            if (!__any_sync(~0u, m == ~0u) || c.wd.give_up())
                break;
        }
    }
    for (int k = 0; k < na; k++) {
        uint4 a0 = vs[0], a1 = vs[1];
        if (k < c.nt) {
            c.full(k);
            const uint4 *a = (const uint4 *)(c.ptr(k) + 8192) + c.warp * 64 + c.lane;
            a0 = a[0], a1 = a[32];
        }
#pragma unroll
        for (int n = 0; n < N8; n++) {
            uint2 pb = *(const uint2 *)(c.sm->pr + (n * 8 + c.g) * PR_LD + k * 16 + 4 * c.t);
            mma_bf16(o[0][n], a0, pb.x, pb.y);
            mma_bf16(o[1][n], a1, pb.x, pb.y);
        }
    }
    /* po[head][dim tile][split][token][16 dims] */
#pragma unroll
    for (int d = 0; d < 2; d++)
#pragma unroll
        for (int n = 0; n < N8; n++) {
            const int tok = n * 8 + 2 * c.t;
            float *q =
                p.po +
                (size_t)(((head * 16 + c.warp * 2 + d) * SPLITS + split) * (N8 * 8) + tok) * 16 +
                c.g;
            if (tok < T) {
                st_relaxed_f32(q, o[d][n][0]);
                st_relaxed_f32(q + 8, o[d][n][2]);
            }
            if (tok + 1 < T) {
                st_relaxed_f32(q + 16, o[d][n][1]);
                st_relaxed_f32(q + 24, o[d][n][3]);
            }
        }
    c.release(0, c.nt);
    c.advance(c.nt);
    STAMP(7);
}

/* ---- po, ml of all splits → ob, dims 16·(c%16) … of head c/16 ---- */
template <int N8> __device__ __forceinline__ void combine(ctx<N8> &c, const params &p)
{
    const int head = c.cta >> 4, dt = c.cta & 15, j = c.lane & 15;
    for (int tp = c.warp; 2 * tp < p.T; tp += WARPS) {
        const int tok = 2 * tp + (c.lane >> 4);
        const bool real = tok < p.T;
        const float *ml = p.ml + (head * SPLITS + j) * 2 * (N8 * 8) + tok;
        const float *po = p.po + (size_t)((head * 16 + dt) * SPLITS * (N8 * 8) + tok) * 16 + j;
        uint32_t mw, lw, v[SPLITS];
        c.wd.begin();
        for (;;) {
            mw = real ? ld_relaxed_u32(ml) : 0;
            lw = real ? ld_relaxed_u32(ml + N8 * 8) : 0;
#pragma unroll
            for (int i = 0; i < SPLITS; i++)
                v[i] = real ? ld_relaxed_u32(po + i * (N8 * 8) * 16) : 0;
            uint32_t m = max(mw, lw);
#pragma unroll
            for (int i = 0; i < SPLITS; i++)
                m = max(m, v[i] == ~0u ? ~0u : 0u);
            if (!__any_sync(~0u, mw == ~0u || lw == ~0u || m == ~0u) || c.wd.give_up())
                break;
        }
        float m = __uint_as_float(mw), mx = m, e, l;
#pragma unroll
        for (int o = 1; o < 16; o *= 2)
            mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, o));
        e = exp2_approx(m - mx);
        l = e * __uint_as_float(lw);
#pragma unroll
        for (int o = 1; o < 16; o *= 2)
            l += __shfl_xor_sync(~0u, l, o);
        float a = 0.f;
#pragma unroll
        for (int i = 0; i < SPLITS; i++)
            a = fmaf(__shfl_sync(~0u, e, (c.lane & 16) + i), __uint_as_float(v[i]), a);
        a = __fdividef(a, l);
        float hi = __shfl_down_sync(~0u, a, 1);
        if (tp == c.warp)
            wait(&c.sm->done[0], c.n_layer & 1, c.wd);
        if (real && !(j & 1))
            st_relaxed_u32(p.ob + b_off<N8>(head * E + dt * 16 + j, tok), pack2(a, hi));
    }
    wait(&c.sm->done[0], c.n_layer & 1, c.wd);
    STAMP(8);
}

/* bf16(x·gain) of this thread's two rows and the sum of squares of the CTA's 8, to a reader of x */
template <int N8>
__device__ __forceinline__ void publish_x(const ctx<N8> &c, const params &p, bf16 *x, float *ssq,
                                          float2 gain)
{
    const int tok = c.tid >> 2, rp = c.tid & 3;
    float s = c.r0 * c.r0 + c.r1 * c.r1;
    s += __shfl_xor_sync(~0u, s, 1);
    s += __shfl_xor_sync(~0u, s, 2);
    if (tok < p.T) {
        st_relaxed_u32(x + b_off<N8>((c.cta >> 1) * 16 + c.rank * 8 + rp * 2, tok),
                       pack2(c.r0 * gain.x, c.r1 * gain.y));
        if (rp == 0)
            st_relaxed_f32(ssq + c.cta * t8p_of(N8) + tok, s);
    }
}

enum res_mode { RES_O, RES_DOWN, RES_MLP };

/* A product whose k is split over the pair, into the residual: in (k-half of the CTA) → sums of 16
 * rows; 8 of them go to the peer, 8 come from it. Then x += gate · sum (MLP: x = sum + b), and
 * bf16(x · gain) goes to `out`. */
template <int N8, int MODE>
__device__ __forceinline__ void residual(ctx<N8> &c, const params &p, const bf16 *in,
                                         const float *norm, const float *gate, bf16 *out,
                                         float *ssq)
{
    constexpr int NU = MODE == RES_DOWN ? 2 : 1, T8 = N8 * 8;
    const int T = p.T, row = (c.cta >> 1) * 16 + c.rank * 8 + (c.tid & 3) * 2;
    float2 gain = make_float2(1.f, 1.f), gt = make_float2(1.f, 1.f);
    if (c.tid < T8 * 4) {
        float2 w = __ldg((const float2 *)(norm + row));
        gain = make_float2(1.f + w.x, 1.f + w.y);
        if (gate)
            gt = __ldg((const float2 *)(gate + row));
    }
    if (c.tid == 0)
        mbar_expect(&c.sm->xbar, 8 * ((T + 3) / 4) * 16);
    float acc[N8][4];
    zero<N8>(acc);
#pragma unroll
    for (int u = 0; u < NU; u++) {
        uint4 b[4][N8];
        if (MODE == RES_MLP) {
            uint4 h[2][N8];
            poll_b<N8, 2>(h, in + (c.rank * 16 + c.warp * 2) * N8 * 256, T, c);
#pragma unroll
            for (int n = 0; n < N8; n++)
                b[0][n] = b[2][n] = h[0][n], b[1][n] = b[3][n] = h[1][n];
        } else {
            poll_b<N8, 4>(b, in + ((c.rank * NU + u) * 32 + c.warp * 4) * N8 * 256, T, c);
        }
        if (u == NU - 1)
            STAMP(MODE == RES_O ? 9 : 15);
        c.full(2 * u + (c.warp >> 2));
        mma_unit<N8>(acc, c.part(u), b, c.lane);
        __syncwarp();
        if (u < NU - 1)
            c.release(2 * u, 2);
    }
    store_part<N8>(c.part(NU - 1), acc, c.g, c.t);
    c.sync();
    STAMP(MODE == RES_O ? 10 : 16);
    {
        const int i = 255 - c.tid, r = i / (N8 * 2), tg = i % (N8 * 2);
        if (i < 16 * N8 && tg * 4 < T) {
            float4 s = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
            for (int w = 0; w < WARPS; w++) {
                float4 v =
                    *(const float4 *)(c.part_of(NU - 1, w) +
                                      ((tg >> 1) * 16 + (c.rank ^ 1) * 8 + r) * 8 + (tg & 1) * 4);
                s.x += v.x, s.y += v.y, s.z += v.z, s.w += v.w;
            }
            const uint32_t peer = c.rank ^ 1;
            st_async(map_rank(smem_addr(c.sm->xch + r * T8 + tg * 4), peer), s,
                     map_rank(smem_addr(&c.sm->xbar), peer));
        }
    }
    const int tok = c.tid >> 2, rp = c.tid & 3;
    float s0 = 0.f, s1 = 0.f;
    if (tok < T) {
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float *q =
                c.part_of(NU - 1, w) + ((tok >> 3) * 16 + c.rank * 8 + rp * 2) * 8 + (tok & 7);
            s0 += q[0], s1 += q[8];
        }
    }
    c.release(2 * (NU - 1), 2);
    /* every warp waits: who polls for the next exchange has to be behind the peer's inputs */
    c.wd.begin();
    while (!mbar_try_cluster(&c.sm->xbar, c.n_xch & 1) && !c.wd.give_up())
        ;
    c.n_xch++;
    if (MODE == RES_O)
        c.tell(1);
    STAMP(MODE == RES_O ? 11 : 17);
    if (c.tid < T8 * 4) {
        if (tok < T) {
            s0 += c.sm->xch[(rp * 2) * T8 + tok];
            s1 += c.sm->xch[(rp * 2 + 1) * T8 + tok];
            if (MODE == RES_MLP) {
                c.r0 = s0 + __ldg(p.mlp_b + row), c.r1 = s1 + __ldg(p.mlp_b + row + 1);
            } else {
                c.r0 = fmaf(gt.x, s0, c.r0), c.r1 = fmaf(gt.y, s1, c.r1);
            }
        }
        if (MODE == RES_DOWN)
            wait(&c.sm->done[2], c.n_layer & 1, c.wd);
        publish_x<N8>(c, p, out, ssq, gain);
    }
    c.advance(2 * NU);
    STAMP(MODE == RES_O ? 12 : 18);
}

/* ---- x2 → gelu(gate) · up ---- */
template <int N8>
__device__ __forceinline__ void gate_up(ctx<N8> &c, const params &p, int step, int layer)
{
    const int u = c.warp >> 1;
    float2 bias = make_float2(0.f, 0.f);
    if (p.shift) {
        const float *s = p.shift + ((size_t)step * p.L + layer) * ((U_QKV + U_GU) * 16) +
                         U_QKV * 16 + (c.cta * 4 + u) * 16;
        bias = make_float2(__ldg(s + c.g), __ldg(s + c.g + 8));
    }
    uint4 b[4][N8];
    poll_b<N8, 4>(b, p.x2 + c.warp * 4 * N8 * 256, p.T, c);
    poll_ssq<N8>(p.ssq2, p.T, c);
    c.tell(2);
    STAMP(13);
    if (N8 == 2) { /* all units at once: independent chains */
        float acc[4][N8][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            zero<N8>(acc[i]);
            c.full(2 * i + (c.warp >> 2));
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
            mma_unit<N8>(acc[i], c.part(i), b, c.lane);
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; i++)
            store_part<N8>(c.part(i), acc[i], c.g, c.t);
    } else {
        for (int i = 0; i < 4; i++) {
            float acc[N8][4];
            zero<N8>(acc);
            c.full(2 * i + (c.warp >> 2));
            mma_unit<N8>(acc, c.part(i), b, c.lane);
            __syncwarp();
            store_part<N8>(c.part(i), acc, c.g, c.t);
        }
    }
    c.sync();
    wait(&c.sm->done[1], c.n_layer & 1, c.wd);
    for (int n = c.warp & 1; n * 8 < p.T; n += 2) {
        const int tok = n * 8 + 2 * c.t, tk = tok + (c.g & 1);
        float2 lo, hi;
        sum_parts<N8>(c, u, n, lo, hi);
        float2 r = inv_rms<N8>(c, tok);
        lo = make_float2(fmaf(lo.x, r.x, bias.x), fmaf(lo.y, r.y, bias.x));
        hi = make_float2(fmaf(hi.x, r.x, bias.y), fmaf(hi.y, r.y, bias.y));
        uint32_t w = pair_rows(make_float2(gelu(lo.x) * hi.x, gelu(lo.y) * hi.y), c.g);
        if (tk < p.T)
            st_relaxed_u32(p.hb + b_off<N8>(c.cta * 32 + u * 8 + (c.g & ~1), tk), w);
    }
    c.release(0, 8);
    c.advance(8);
    STAMP(14);
}

/* ---- end of step − 1 (xf → v → Euler, in every CTA alike), start of step: suffix → x1 ---- */
template <int N8> __device__ __forceinline__ void heads(ctx<N8> &c, const params &p, int step)
{
    float *xs = c.sm->xs;
    const int T = p.T;
    if (step > 0) {
        uint4 b[4][N8];
        poll_b<N8, 4>(b, p.xf + c.warp * 4 * N8 * 256, T, c);
        poll_ssq<N8>(p.ssqf, T, c);
#pragma unroll
        for (int i = 0; i < 2; i++) { /* 16 actions: high and low halves of the weights */
            float acc[N8][4];
            zero<N8>(acc);
            c.full(4 * i + (c.warp >> 2));
            mma_unit<N8>(acc, c.part(2 * i), b, c.lane);
            c.full(4 * i + 2 + (c.warp >> 2));
            mma_unit<N8>(acc, c.part(2 * i + 1), b, c.lane);
            __syncwarp();
            store_part<N8>(c.part(2 * i), acc, c.g, c.t);
        }
        c.sync();
        const int i = c.warp >> 2, a = i * 16 + c.g;
        const float *bs = p.shift ? p.shift_out + (step - 1) * A : p.out_b;
        const float b0 = __ldg(bs + a), b1 = __ldg(bs + a + 8);
        for (int n = c.warp & 3; n * 8 < T; n += 4) {
            const int tok = n * 8 + 2 * c.t;
            float2 lo, hi, r = inv_rms<N8>(c, tok);
            sum_parts<N8>(c, 2 * i, n, lo, hi);
            const float v[4] = { fmaf(lo.x, r.x, b0), fmaf(hi.x, r.x, b1), fmaf(lo.y, r.y, b0),
                                 fmaf(hi.y, r.y, b1) };
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int tk = tok + k / 2, ak = a + k % 2 * 8;
                if (tk < T) {
                    float x = fmaf(p.dt, v[k], xs[tk * A + ak]);
                    xs[tk * A + ak] = x;
                    if (c.cta == 0) {
                        const size_t o = ((size_t)(step - 1) * T + tk) * A + ak;
                        if (p.rec_v)
                            p.rec_v[o] = v[k];
                        if (p.rec_x)
                            p.rec_x[o] = x;
                        if (step == p.steps)
                            p.x[tk * A + ak] = x;
                    }
                }
            }
        }
        c.release(0, 8);
        c.advance(8);
        c.sync();
    }
    if (step == p.steps)
        return;
    const int tok = c.tid >> 2, rp = c.tid & 3;
    if (c.tid < N8 * 32) {
        const int row = (c.cta >> 1) * 16 + c.rank * 8 + rp * 2;
        const float *w = c.sm->inw + rp * 2 * A, *in_b = p.in_b + (size_t)step * p.in_b_step + row;
        float s0 = __ldg(in_b), s1 = __ldg(in_b + 1);
        if (tok < T)
#pragma unroll
            for (int i = 0; i < A; i += 4) {
                float4 x = *(const float4 *)(xs + tok * A + i);
                float4 w0 = *(const float4 *)(w + i), w1 = *(const float4 *)(w + A + i);
                s0 += x.x * w0.x + x.y * w0.y + x.z * w0.z + x.w * w0.w;
                s1 += x.x * w1.x + x.y * w1.y + x.z * w1.z + x.w * w1.w;
            }
        if (p.pi05) {
            c.r0 = s0, c.r1 = s1;
            float2 g = __ldg((const float2 *)(p.norm + step * p.norm_step + row));
            publish_x<N8>(c, p, p.x1, p.ssq1, make_float2(1.f + g.x, 1.f + g.y));
        } else if (tok < T) {
            st_relaxed_u32(p.ub + b_off<N8>(row, tok), pack2(silu(s0), silu(s1)));
        }
    }
    if (!p.pi05)
        residual<N8, RES_MLP>(c, p, p.ub, p.norm, nullptr, p.x1, p.ssq1);
}

template <int N8> __device__ __forceinline__ void compute(ctx<N8> &c, const params &p)
{
    for (int i = c.tid; i < p.T * A; i += WARPS * 32)
        c.sm->xs[i] = p.x[i];
    for (int i = c.tid; i < 8 * A; i += WARPS * 32)
        c.sm->inw[i] = p.in_w[((c.cta >> 1) * 16 + c.rank * 8) * A + i];
    c.sync();
    for (int step = 0;; step++) {
        heads<N8>(c, p, step);
        if (step == p.steps)
            break;
        const float *norm = p.norm + step * p.norm_step;
        for (int l = 0; l < p.L; l++) {
            const float *n1 = norm + (int64_t)(2 * l) * p.norm_inst, *n2 = n1 + p.norm_inst;
            const bool last = l == p.L - 1;
            STAMP(0);
            qkv<N8>(c, p, step, l);
            attend<N8>(c, p);
            combine<N8>(c, p);
            residual<N8, RES_O>(c, p, p.ob, n2, p.pi05 ? n1 + 2 * W : nullptr, p.x2, p.ssq2);
            gate_up<N8>(c, p, step, l);
            residual<N8, RES_DOWN>(c, p, p.hb, n2 + p.norm_inst, p.pi05 ? n2 + 2 * W : nullptr,
                                   last ? p.xf : p.x1, last ? p.ssqf : p.ssq1);
            c.n_layer++;
        }
    }
    if (c.wd.dead && c.lane == 0)
        *p.status = 1;
}

/* ---- the copying warp (one lane) ---- */
struct feeder {
    uint8_t *ring;
    uint64_t *full, *empty;
    int s;
    uint32_t ph, n;
    watch wd;
    __device__ __forceinline__ void slot(const uint8_t *src, uint64_t pol)
    {
        if (n >= NS)
            wait(&empty[s], ph ^ 1, wd);
        if (n >= IN_FLIGHT) {
            int k = s - IN_FLIGHT;
            wait(&full[k < 0 ? k + NS : k], k < 0 ? ph ^ 1 : ph, wd);
        }
        mbar_expect(&full[s], SLOT);
        bulk_copy(ring + s * SLOT, src, SLOT, &full[s], pol);
        n++;
        if (++s == NS)
            s = 0, ph ^= 1;
    }
    __device__ __forceinline__ void units(const uint8_t *src, int count, uint64_t pol)
    {
#pragma unroll 1
        for (int i = 0; i < 2 * count; i++)
            slot(src + (size_t)i * SLOT, pol);
    }
};

template <int N8>
__device__ __forceinline__ void feed(smem<N8> *sm, const params &p, int cta, int rank, int nt,
                                     int t0)
{
    feeder f = {};
    f.ring = sm->ring, f.full = sm->full, f.empty = sm->empty;
    const uint64_t once = policy_evict_first(), keep = policy_evict_last();
    const uint8_t *heads = p.weights + (size_t)p.L * U_LAYER * UNIT;
    for (int step = 0; step < p.steps; step++) {
        if (!p.pi05)
            f.units(heads + (size_t)(U_OUT + cta) * UNIT, 1, keep);
        for (int l = 0; l < p.L; l++) {
            const uint8_t *w = p.weights + (size_t)l * U_LAYER * UNIT;
            f.units(w + (size_t)cta * UNIT, 1, once);
            if (cta % 4 == 0)
                f.units(w + (size_t)(128 + cta / 4) * UNIT, 1, once);
            for (int i = 0; i < nt; i++)
                f.slot(p.kv + (size_t)(l * MAX_TILES + t0 + i) * KV_TILE, keep);
            w += (size_t)U_QKV * UNIT;
            f.units(w + (size_t)cta * UNIT, 1, once);
            w += (size_t)U_O * UNIT;
            f.units(w + (size_t)cta * 4 * UNIT, 4, once);
            w += (size_t)U_GU * UNIT;
            f.units(w + (size_t)((cta >> 1) * 4 + rank * 2) * UNIT, 2, once);
        }
        f.units(heads, U_OUT, keep);
    }
}

/* ---- the clearing warp ---- */
__device__ __forceinline__ void cleared(uint64_t *done, int lane)
{
    __threadfence();
    __syncwarp();
    if (lane == 0)
        mbar_arrive(done);
}

template <int N8>
__device__ __forceinline__ void clear(smem<N8> *sm, const params &p, int cta, int rank, int lane)
{
    const uint4 e4 = make_uint4(~0u, ~0u, ~0u, ~0u);
    const int T = p.T, row = (cta >> 1) * 16 + rank * 8, head = cta >> 4, part = cta & 15;
    watch wd = {};
    for (uint32_t n = 0; n < (uint32_t)(p.steps * p.L); n++) {
        wait(&sm->ev[0], n & 1, wd);
#pragma unroll 1
        for (int tok = lane; tok < T; tok += 32) {
            const int o = b_off<N8>(row, tok);
            st_relaxed(p.x2 + o, e4);
            st_relaxed(p.xf + o, e4);
            st_relaxed(p.ub + o, e4);
            st_relaxed_u32(p.ssq2 + cta * t8p_of(N8) + tok, ~0u);
            st_relaxed_u32(p.ssqf + cta * t8p_of(N8) + tok, ~0u);
        }
#pragma unroll 1
        for (int i = lane; i < T * 4; i += 32)
            st_relaxed(p.hb + b_off<N8>(cta * 32 + i % 4 * 8, i / 4), e4);
        cleared(&sm->done[0], lane);

        wait(&sm->ev[1], n & 1, wd);
#pragma unroll 1
        for (int tok = lane; tok < T; tok += 32) {
            st_relaxed(p.x1 + b_off<N8>(row, tok), e4);
            st_relaxed_u32(p.ssq1 + cta * t8p_of(N8) + tok, ~0u);
            st_relaxed(p.q + b_off<N8>(head * E + part * 8, tok), e4);
            st_relaxed(p.q + b_off<N8>(head * E + part * 8 + 128, tok), e4);
            float *ml = p.ml + (head * SPLITS + part) * 2 * (N8 * 8) + tok;
            st_relaxed_u32(ml, ~0u);
            st_relaxed_u32(ml + N8 * 8, ~0u);
        }
        if (cta % 4 == 0) {
            const int i0 = cta / 4 % 16 * 8;
#pragma unroll 1
            for (int i = lane; i < T * 8; i += 32) { /* words: K (token, dim pair); V (pair, dim) */
                const int tok = i / 8, hi = i / 4 % 2 * 128, d = i % 4;
                bf16 *t = p.ks + (tok >> 4) * (KV_TILE / 2);
                if (cta / 4 < 16) {
                    st_relaxed_u32(t + k_off(i0 + hi + d * 2, tok & 15), ~0u);
                } else if (!(tok & 1)) {
                    st_relaxed_u32(t + v_off(i0 + hi + d, tok & 15), ~0u);
                    st_relaxed_u32(t + v_off(i0 + hi + d + 4, tok & 15), ~0u);
                }
            }
        }
#pragma unroll 1
        for (int dt = 0; dt < 16; dt++) {
            float *d = p.po + (size_t)((head * 16 + dt) * SPLITS + part) * (N8 * 8) * 16;
#pragma unroll 4
            for (int i = lane; i < T * 4; i += 32)
                st_relaxed(d + i * 4, e4);
        }
        cleared(&sm->done[1], lane);

        wait(&sm->ev[2], n & 1, wd);
#pragma unroll 1
        for (int i = lane; i < 2 * T; i += 32)
            st_relaxed(p.ob + b_off<N8>(head * E + part * 16 + i % 2 * 8, i / 2), e4);
        cleared(&sm->done[2], lane);
    }
}

template <int N8>
__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(THREADS, 1)
    loop(const __grid_constant__ params p)
{
    extern __shared__ __align__(128) uint8_t raw[];
    smem<N8> *sm = (smem<N8> *)raw;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, cta = blockIdx.x;
    const int rank = (int)cluster_rank();
    if (tid == 0) {
        for (int i = 0; i < NS; i++) {
            mbar_init(&sm->full[i], 1);
            mbar_init(&sm->empty[i], WARPS);
        }
        mbar_init(&sm->xbar, 1);
        for (int i = 0; i < 3; i++) {
            mbar_init(&sm->ev[i], WARPS);
            mbar_init(&sm->done[i], 1);
        }
        mbar_init_fence();
    }
    cluster_arrive();
    cluster_wait();
    const int n_eff = *p.neff, tiles = (n_eff + 15) / 16, split = cta & 15;
    const int nt = tiles / SPLITS + (split < tiles % SPLITS);
    const int t0 = split * (tiles / SPLITS) + min(split, tiles % SPLITS);
    if (warp >= WARPS) {
        reg_dealloc<56>();
        if (warp == WARPS) {
            if (lane == 0)
                feed<N8>(sm, p, cta, rank, nt, t0);
        } else if (warp == WARPS + 1) {
            clear<N8>(sm, p, cta, rank, lane);
        }
    } else {
        reg_alloc<224>();
        ctx<N8> c = {};
        c.sm = sm, c.tid = tid, c.warp = warp, c.lane = lane, c.g = lane / 4, c.t = lane % 4;
        c.cta = cta, c.rank = rank, c.nt = nt, c.t0 = t0, c.n_eff = n_eff;
        const int ns = (p.T + 15) / 16;
        c.st = split >= SPLITS - ns ? split - (SPLITS - ns) : -1;
        compute<N8>(c, p);
    }
    __syncwarp();
    cluster_arrive();
    cluster_wait();
}

template <int N8> static cudaError_t launch(const struct dn90_args *a, cudaStream_t stream)
{
    struct ws w = ws_of(N8, a->shape.n_layers);
    cudaError_t e = setup(a, &w, stream);
    if (e)
        return e;
    uint8_t *b = (uint8_t *)a->workspace;
    struct params p = {};
    p.weights = (const uint8_t *)a->weights, p.kv = b + w.kv;
    p.x1 = (bf16 *)(b + w.x1), p.x2 = (bf16 *)(b + w.x2), p.xf = (bf16 *)(b + w.xf);
    p.ub = (bf16 *)(b + w.ub), p.q = (bf16 *)(b + w.q), p.ob = (bf16 *)(b + w.ob);
    p.hb = (bf16 *)(b + w.hb), p.ks = (bf16 *)(b + w.ks), p.po = (float *)(b + w.po);
    p.ml = (float *)(b + w.ml), p.ssq1 = (float *)(b + w.ssq1), p.ssq2 = (float *)(b + w.ssq2);
    p.ssqf = (float *)(b + w.ssqf), p.rope = (const float2 *)(b + w.rope);
    p.neff = (const int *)(b + w.neff), p.status = (int *)(b + w.status);
    p.norm = a->norm, p.pi05 = a->shape.pi05;
    p.L = a->shape.n_layers, p.T = a->shape.n_tokens, p.steps = a->n_steps;
    p.norm_inst = p.pi05 ? 3 * W : W;
    p.norm_step = p.pi05 ? (int64_t)(2 * p.L + 1) * 3 * W : 0;
    p.shift = (const float *)a->shift;
    p.shift_out = p.shift ? p.shift + (size_t)a->n_steps * p.L * (U_QKV + U_GU) * 16 : nullptr;
    p.in_w = a->in_w, p.in_b = a->in_b, p.in_b_step = p.pi05 ? 0 : W;
    p.mlp_b = a->mlp_out_b, p.out_b = a->out_b;
    p.x = a->x, p.rec_v = a->rec_v, p.rec_x = a->rec_x;
    p.dt = -1.f / (float)a->n_steps;
    p.prof = a->prof, p.prof_layer = a->prof_layer;

    cudaLaunchAttribute at[1];
    at[0].id = cudaLaunchAttributeCooperative;
    at[0].val.cooperative = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = dim3(CTAS), cfg.blockDim = dim3(THREADS), cfg.stream = stream;
    cfg.dynamicSmemBytes = sizeof(smem<N8>), cfg.attrs = at, cfg.numAttrs = 1;
    return cudaLaunchKernelEx(&cfg, loop<N8>, p);
}
} // namespace dn90

using namespace dn90;

extern "C" cudaError_t dn90_prepare(const struct dn90_shape *s)
{
    (void)s;
    cudaError_t e = cudaFuncSetAttribute(loop<2>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)sizeof(smem<2>));
    if (!e)
        e = cudaFuncSetAttribute(loop<7>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)sizeof(smem<7>));
    return e;
}

extern "C" cudaError_t dn90_enqueue(const struct dn90_args *a, cudaStream_t stream)
{
    return n8_of(a->shape.n_tokens) == 2 ? launch<2>(a, stream) : launch<7>(a, stream);
}
