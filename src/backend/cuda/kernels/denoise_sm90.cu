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
 * Who owns what (c = CTA, r = c % 2): q tile c, of k and v kv_tile(c); head c/16, split c%16 of
 * the attention and dims 16·(c%16) … of its combination; k-half r of O and down for rows 16·(c/2) …,
 * of which rows 8r … +7 are its residual, kept in registers; hidden units 32c … +31.
 *
 * Clearing. A word is written (a) empty, (b) full, (a), … The clearing warp of its owner does (a),
 * fences, then completes an mbarrier `done` that every publisher named below has waited for.
 *   A  when x1 of the layer was seen whole (every CTA has left the layer before): clears x2, hb, xf,
 *      ub. Publishers of ob wait for it. A reader of x2 has been through O and its pair exchange,
 *      hence behind all 128 publications of ob; readers of hb and xf come later still.
 *   B  after the pair exchange of O (every CTA has published ob, so left QKV, attention, and, word
 *      by word, the combination): clears x1; publishers of hb wait for it. A reader of x1 of the next
 *      layer has been through down and its exchange, hence behind all of hb. Then clears q, ks, po,
 *      ml without a signal of its own: C's comes later.
 *   C  when x2 was seen whole (every CTA has left O): clears ob. Publishers after down wait for it;
 *      the next readers of q, ks, po, ml, ob have seen x1 whole.
 * So no reader can meet a value of the layer before. Both sides use relaxed gpu-scope accesses; the
 * release is the clearing warp's fence plus mbarrier, the readers' loads are ordered by the polls
 * they depend on. Polls give up after some seconds and say so in `status`; all CTAs are resident
 * (cooperative launch), so on a sound device they never do.
 *
 * π0's state token is token T of step 0: the actions attend to it, it to the prefix and itself. Its k
 * and v then stay behind the prefix keys for the later steps (docs/model.md §9, item 4).
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
#define DN90_IN_FLIGHT 2
#endif
constexpr int IN_FLIGHT = DN90_IN_FLIGHT; /* slots of 16 KB being copied */
constexpr uint32_t GIVE_UP = 1u << 22;    /* about two seconds of polling; a call has some 10^4 */
constexpr int PR_LD = 5 * 16 + 8;         /* columns of the probability matrix, padded */

struct params {
    const uint8_t *weights;
    uint8_t *kv;
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
    const float *state, *state_w, *state_b; /* π0: [A], [W, A], [W] */
    int in_b_step;
    float *x, *rec_v, *rec_x;
    int T, n_state, L, steps; /* T: action tokens; π0: one more, the state, in step 0 */
    float dt;
    unsigned long long *prof;
    int prof_layer;
};

template <int N8> struct smem {
    alignas(128) uint8_t ring[NS * SLOT];
    alignas(16) bf16 pr[N8 * 8 * PR_LD]; /* probabilities [token][key] */
    alignas(16) float xch[8 * N8 * 8];   /* the peer's sums of this CTA's rows: [row][token] */
    alignas(16) float ssq[WARPS * t8p_of(N8)];
    alignas(16) float xs[N8 * 8 * A];    /* Euler state, the same in every CTA */
    alignas(16) float inw[8 * A];        /* in_w of this CTA's rows */
    alignas(16) float2 rope[N8 * 8 * 8]; /* cos, sin [token][dim of the q tile] */
    float state[8];                      /* the state token's rows before layer 0 */
    uint64_t full[NS], empty[NS], xbar, ev[3], done[3];
};

/* Who computes the 32 tiles of k and v: the CTA whose q tile has the same dims, so one RoPE table
 * serves both. -1: none. */
__device__ __forceinline__ int kv_tile(int cta)
{
    const int part = cta & 15, head = cta >> 4;
    return head == (part & 7) ? 128 + part : head == ((part + 4) & 7) ? 144 + part : -1;
}

/* One computing warp's view. */
template <int N8> struct ctx {
    smem<N8> *sm;
    int tid, warp, lane, g, t, cta, rank;
    int s; /* ring position: slot (even) and parity */
    uint32_t ph;
    uint32_t n_layer, n_xch; /* parities of done[] and xbar */
    int nt, t0, st;          /* prefix tiles of this CTA's split: count, first; suffix tile or -1 */
    int n_eff, T;            /* prefix keys and tokens of this step */
    float r0, r1;            /* residual of rows 2·(tid%4), +1 of token tid/4 */
    uint32_t spins;          /* unanswered loads so far; past GIVE_UP nothing waits any more */

    __device__ __forceinline__ bool again() { return ++spins < GIVE_UP; }
    __device__ __forceinline__ int slot(int i) const { return s + i - (s + i >= NS ? NS : 0); }
    __device__ __forceinline__ uint8_t *ptr(int i) const { return sm->ring + slot(i) * SLOT; }
    __device__ __forceinline__ void full(int i)
    {
        mbar_wait(&sm->full[slot(i)], ph ^ (s + i >= NS));
    }
    /* The warp is done with slots [i, i + n): its writes to them come before the next copy. */
    __device__ __forceinline__ void release(int i, int n)
    {
        fence_proxy_async();
        __syncwarp();
        if (lane < n)
            mbar_arrive(&sm->empty[slot(i + lane)]);
    }
    __device__ __forceinline__ void advance(int n)
    {
        s += n;
        if (s >= NS)
            s -= NS, ph ^= 1;
    }
    __device__ __forceinline__ void sync() { bar_sync(1, WARPS * 32); }
    __device__ __forceinline__ void tell(int i)
    {
        __syncwarp();
        if (lane == 0)
            mbar_arrive(&sm->ev[i]);
    }
};

#ifdef DN90_PROF
#define STAMP(i)                                                    \
    do {                                                            \
        if (p.prof && c.tid == 0 && (int)c.n_layer == p.prof_layer) \
            p.prof[c.cta * DN90_STAMPS + (i)] = global_timer();     \
    } while (0)
#else
#define STAMP(i) (void)0
#endif

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

/* Four blocks of 32 k from B order (block kb at kb & mask), until no word of a real token is empty.
 * Polling loads the very L2 slices that the data has to reach: with many tokens 16 bytes of one
 * token from every 8 k (a CTA's share at least) are polled first. */
template <int N8>
__device__ __forceinline__ void poll_b(uint4 (&b)[4][N8], const bf16 *src, int mask, int T,
                                       ctx<N8> &c)
{
    src += c.lane * 8;
    if (N8 > 2) {
        const bf16 *first =
            src + (c.lane / 4 % 4 & mask) * N8 * 256 + (c.cta % min(T, 8) - c.g) * 32;
        while (__any_sync(~0u, max4(0, ld_relaxed(first)) == ~0u) && c.again())
            ;
    }
    uint32_t m;
    do {
        m = 0;
#pragma unroll
        for (int kb = 0; kb < 4; kb++)
#pragma unroll
            for (int n = 0; n < N8; n++)
                b[kb][n] = n * 8 + c.g < T ? ld_relaxed(src + (kb & mask) * N8 * 256 + n * 256)
                                           : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int kb = 0; kb < 4; kb++)
#pragma unroll
            for (int n = 0; n < N8; n++)
                m = max4(m, b[kb][n]);
    } while (__any_sync(~0u, m == ~0u) && c.again());
}

/* Sums of squares of this warp's 128 k, 16 CTAs × 8 rows, per token → sm->ssq. */
template <int N8> struct ssq_loads {
    static constexpr int TP = t8p_of(N8), PASS = 16 * TP / 128; /* passes of 32 lanes × 4 floats */
    uint4 v[PASS];
    __device__ __forceinline__ void load(const float *ssq, const ctx<N8> &c)
    {
        const float *src = ssq + c.warp * 16 * TP + c.lane * 4;
#pragma unroll
        for (int i = 0; i < PASS; i++)
            v[i] = ld_relaxed(src + i * 128);
    }
    __device__ __forceinline__ void finish(const float *ssq, ctx<N8> &c)
    {
        const int left = c.T - c.lane * 4 % TP; /* real tokens from this lane's first on */
        uint32_t m;
        for (;;) {
            m = 0;
#pragma unroll
            for (int i = 0; i < PASS; i++) {
                m = max(m, left > 0 ? v[i].x : 0), m = max(m, left > 1 ? v[i].y : 0);
                m = max(m, left > 2 ? v[i].z : 0), m = max(m, left > 3 ? v[i].w : 0);
            }
            if (!__any_sync(~0u, m == ~0u) || !c.again())
                break;
            load(ssq, c);
        }
        float a[4] = {};
#pragma unroll
        for (int i = 0; i < PASS; i++) {
            a[0] += __uint_as_float(v[i].x), a[1] += __uint_as_float(v[i].y);
            a[2] += __uint_as_float(v[i].z), a[3] += __uint_as_float(v[i].w);
        }
#pragma unroll
        for (int o = TP / 4; o < 32; o *= 2)
#pragma unroll
            for (int k = 0; k < 4; k++)
                a[k] += __shfl_xor_sync(~0u, a[k], o);
        if (c.lane < TP / 4)
            *(float4 *)(c.sm->ssq + c.warp * TP + c.lane * 4) = make_float4(a[0], a[1], a[2], a[3]);
    }
};
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

/* acc += 4 KB of weights · b: k16 steps in a fixed order. */
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
/* Sums of a warp take the place of the 4 KB they came from: [n][row 16][token 8]. */
template <int N8>
__device__ __forceinline__ void store_part(uint8_t *part, const float (&acc)[N8][4], int g, int t)
{
    __syncwarp();
    float *q = (float *)part + g * 8 + 2 * t;
#pragma unroll
    for (int n = 0; n < N8; n++) {
        *(float2 *)(q + n * 128) = make_float2(acc[n][0], acc[n][1]);
        *(float2 *)(q + n * 128 + 64) = make_float2(acc[n][2], acc[n][3]);
    }
}
template <int N8> __device__ __forceinline__ void zero(float (&acc)[N8][4])
{
#pragma unroll
    for (int n = 0; n < N8; n++)
        acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.f;
}
/* Adds the sums of all warps in unit `unit`: rows g (lo) and g + 8 (hi), tokens n·8 + 2t, +1. */
__device__ __forceinline__ void add_parts(const uint8_t *unit, int at, float2 &lo, float2 &hi)
{
    const float *q = (const float *)unit + at;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        float2 a = *(const float2 *)(q + w * 1024), b = *(const float2 *)(q + w * 1024 + 64);
        lo.x += a.x, lo.y += a.y, hi.x += b.x, hi.y += b.y;
    }
}
/* v: row g at tokens 2t, 2t+1. Gives rows g&~1, +1 at token 2t + (g&1), in one word. */
__device__ __forceinline__ uint32_t pair_rows(float2 v, int g)
{
    float r = __shfl_xor_sync(~0u, g & 1 ? v.x : v.y, 4);
    return g & 1 ? pack2(r, v.y) : pack2(v.x, r);
}

enum phase { QKV, GATE_UP, OUT, O, DOWN, MLP };

/* q, k, v of tokens tok, tok + 1 (lane's) of a tile: RoPE and store. */
template <int N8>
__device__ __forceinline__ void store_qkv(const ctx<N8> &c, const params &p, int layer, int tile,
                                          int tok, float2 lo, float2 hi)
{
    const int i = tile % 16 * 8 + c.g, key = c.n_eff & 15;
    /* the state's k and v: for the later steps among the prefix keys, as key number n_eff */
    bf16 *keep = (bf16 *)(p.kv + (size_t)(layer * MAX_TILES + (c.n_eff >> 4)) * KV_TILE);
    const bool state = c.T > p.T;
    if (tile >= 144) {
        if (tok >= c.T)
            return;
        bf16 *d = p.ks + (tok >> 4) * (KV_TILE / 2) + v_off(i, tok & 15);
        const bool two = tok + 1 < c.T; /* dim i + 128 lies 8 dim tiles on */
        st_relaxed_u32(d, pack2(lo.x, two ? lo.y : 0.f));
        st_relaxed_u32(d + 2048, pack2(hi.x, two ? hi.y : 0.f));
        if (state && (tok == p.T || tok + 1 == p.T)) {
            keep += v_off(i, key);
            keep[0] = __float2bfloat16(tok == p.T ? lo.x : lo.y);
            keep[2048] = __float2bfloat16(tok == p.T ? hi.x : hi.y);
            fence_proxy_async_all();
        }
        return;
    }
    const float2 e0 = c.sm->rope[tok * 8 + c.g], e1 = c.sm->rope[tok * 8 + 8 + c.g];
    const uint32_t wl =
        pair_rows(make_float2(lo.x * e0.x - hi.x * e0.y, lo.y * e1.x - hi.y * e1.y), c.g);
    const uint32_t wh =
        pair_rows(make_float2(hi.x * e0.x + lo.x * e0.y, hi.y * e1.x + lo.y * e1.y), c.g);
    const int tk = tok + (c.g & 1), k = i & ~1;
    if (tk >= c.T)
        return;
    if (tile < 128) {
        bf16 *d = p.q + b_off<N8>(tile / 16 * E + k, tk); /* dim + 128: 4 blocks on */
        st_relaxed_u32(d, wl);
        st_relaxed_u32(d + 4 * N8 * 256, wh);
    } else {
        bf16 *d = p.ks + (tk >> 4) * (KV_TILE / 2) + k_off(k, tk & 15);
        st_relaxed_u32(d, wl);
        st_relaxed_u32(d + 2048, wh);
        if (state && tk == p.T) {
            keep += k_off(k, key);
            st_relaxed_u32(keep, wl);
            st_relaxed_u32(keep + 2048, wh);
            fence_proxy_async_all();
        }
    }
}

/* v of the step that ends, Euler, in every CTA alike. a: the lane's first action. */
template <int N8>
__device__ __forceinline__ void euler(const ctx<N8> &c, const params &p, int step, int a, int tok,
                                      float2 lo, float2 hi)
{
    const float v[4] = { lo.x, hi.x, lo.y, hi.y };
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const int tk = tok + k / 2, ak = a + k % 2 * 8;
        if (tk >= p.T)
            continue;
        float *xs = c.sm->xs + tk * A + ak, x = fmaf(p.dt, v[k], *xs);
        *xs = x;
        if (c.cta == 0) {
            const size_t o = ((size_t)step * p.T + tk) * A + ak;
            if (p.rec_v)
                p.rec_v[o] = v[k];
            if (p.rec_x)
                p.rec_x[o] = x;
            if (step == p.steps - 1)
                p.x[tk * A + ak] = x;
        }
    }
}

/* A product of normed x: rows of up to four units, each this CTA's alone.
 *   QKV      x1 → q, suffix k and v     GATE_UP  x2 → hb     OUT  xf → v, Euler state */
template <int N8>
__device__ __forceinline__ void normed(ctx<N8> &c, const params &p, enum phase what, int step,
                                       int layer)
{
    const bf16 *x = what == QKV ? p.x1 : what == GATE_UP ? p.x2 : p.xf;
    const float *ssq = what == QKV ? p.ssq1 : what == GATE_UP ? p.ssq2 : p.ssqf;
    const int kv = kv_tile(c.cta), nu = what != QKV ? 4 : kv >= 0 ? 2 : 1;
    /* unit and first tokens of this warp's part of the epilogue. OUT: units 2i, 2i + 1 are one tile */
    const int per = what == OUT ? 4 : 8 / nu, u = c.warp / per * (what == OUT ? 2 : 1);
    const int tile = what == QKV ? (u ? kv : c.cta) : what == GATE_UP ? c.cta * 4 + u : u / 2;
    float b0 = 0.f, b1 = 0.f;
    if (p.shift || what == OUT) {
        const float *s = what == OUT
                             ? (p.shift ? p.shift_out + step * A : p.out_b)
                             : p.shift + ((size_t)step * p.L + layer) * ((U_QKV + U_GU) * 16) +
                                   (what == GATE_UP ? U_QKV * 16 : 0);
        s += tile * 16 + c.g;
        b0 = __ldg(s), b1 = __ldg(s + 8);
    }
    uint4 b[4][N8];
    ssq_loads<N8> q;
    poll_b<N8>(b, x + c.warp * 4 * N8 * 256, 3, what == OUT ? p.T : c.T, c);
    if (N8 == 2)
        q.load(ssq, c);
    if (what != OUT)
        c.tell(what == QKV ? 0 : 2);
    STAMP(what == QKV ? 1 : 13);
#pragma unroll 1
    for (int i = 0; i < nu; i++) {
        float acc[N8][4];
        zero<N8>(acc);
        c.full(2 * i + (c.warp >> 2));
        uint8_t *part = c.ptr(2 * i) + c.warp * 4096;
        mma_unit<N8>(acc, part, b, c.lane);
        store_part<N8>(part, acc, c.g, c.t);
    }
    STAMP(what == QKV ? 2 : 20);
    if (N8 > 2)
        q.load(ssq, c);
    q.finish(ssq, c);
    c.sync();
    STAMP(what == QKV ? 19 : 21);
    if (what == GATE_UP)
        mbar_wait(&c.sm->done[1], c.n_layer & 1);
#pragma unroll 1
    for (int n = c.warp % per; n * 8 < c.T; n += per) {
        const int tok = n * 8 + 2 * c.t, at = (n * 16 + c.g) * 8 + 2 * c.t;
        float2 lo = make_float2(0.f, 0.f), hi = lo;
        add_parts(c.ptr(2 * u), at, lo, hi);
        if (what == OUT)
            add_parts(c.ptr(2 * u + 2), at, lo, hi);
        const float2 r = inv_rms<N8>(c, tok);
        lo = make_float2(fmaf(lo.x, r.x, b0), fmaf(lo.y, r.y, b0));
        hi = make_float2(fmaf(hi.x, r.x, b1), fmaf(hi.y, r.y, b1));
        if (what == GATE_UP) {
            const int tk = tok + (c.g & 1);
            uint32_t w = pair_rows(make_float2(gelu(lo.x) * hi.x, gelu(lo.y) * hi.y), c.g);
            if (tk < c.T)
                st_relaxed_u32(p.hb + b_off<N8>(c.cta * 32 + u * 8 + (c.g & ~1), tk), w);
        } else if (what == QKV) {
            store_qkv<N8>(c, p, layer, tile, tok, lo, hi);
        } else {
            euler<N8>(c, p, step, tile * 16 + c.g, tok, lo, hi);
        }
    }
    STAMP(what == QKV ? 3 : 14);
    c.release(0, 2 * nu);
    c.advance(2 * nu);
}

/* ---- attention of head c/16 on key split c%16 → po, ml ---- */
template <int N8> __device__ __forceinline__ void attend(ctx<N8> &c, const params &p)
{
    const int head = c.cta >> 4, split = c.cta & 15, half = c.warp & 1, T = c.T;
    const int na = c.nt + (c.st >= 0);  /* the suffix tile comes last, in a slot of its own */
    const int sfx_keys = T - c.st * 16; /* of the suffix tile that are real */
    if (c.st >= 0) {
        /* the suffix tile, from L2 through registers: V by the warp that will use it (two dim
         * tiles), K by the two warps whose task it is (a half each) */
        const bool task = c.nt == c.warp >> 1 || (c.nt == 4 && c.warp < 2);
        const bf16 *src = p.ks + c.st * (KV_TILE / 2) + c.lane * 8;
        c.full(c.nt);
        uint8_t *dst = c.ptr(c.nt) + c.lane * 16;
#pragma unroll 1
        for (int i = task ? half * 8 : 16 + c.warp * 2, end = i + (task ? 8 : 2);;) {
            uint4 a[2];
            uint32_t m;
            do {
                const bool v = i >= 16;
                m = 0;
#pragma unroll
                for (int d = 0; d < 2; d++) {
                    a[d] = ld_relaxed(src + (i + d) * 256);
                    if (v ? 4 * c.t >= sfx_keys : c.g >= sfx_keys)
                        a[d].x = 0, (v ? a[d].y : a[d].z) = 0;
                    if (v ? 4 * c.t + 2 >= sfx_keys : c.g + 8 >= sfx_keys)
                        a[d].w = 0, (v ? a[d].z : a[d].y) = 0;
                    m = max4(m, a[d]);
                }
            } while (__any_sync(~0u, m == ~0u) && c.again());
            *(uint4 *)(dst + i * 512) = a[0];
            *(uint4 *)(dst + i * 512 + 512) = a[1];
            i += 2;
            if (i < end)
                continue;
            if (i > 16)
                break;
            i = 16 + c.warp * 2, end = i + 2;
        }
        __syncwarp();
    }
    uint4 b[4][N8];
    poll_b<N8>(b, p.q + (head * 8 + half * 4) * N8 * 256, 3, T, c);
    STAMP(4);
#pragma unroll 1
    for (int task = c.warp; task < 2 * na; task += WARPS) {
        float s[N8][4];
        zero<N8>(s);
        c.full(task >> 1);
        uint8_t *part = c.ptr(task >> 1) + half * 4096;
        mma_unit<N8>(s, part, b, c.lane);
        store_part<N8>(part, s, c.g, c.t);
    }
    STAMP(5);
    c.sync();
    /* softmax over this split's keys: a warp two tokens at a time, 16 lanes each, a key a tile */
#pragma unroll 1
    for (int tp = c.warp; 2 * tp < T; tp += WARPS) {
        const int tok = 2 * tp + (c.lane >> 4), j = c.lane & 15;
        const int off = ((tok >> 3) * 16 + j) * 8 + (tok & 7);
        float v[5], m = -1e30f, l = 0.f;
#pragma unroll
        for (int k = 0; k < 5; k++) {
            v[k] = -1e30f;
            if (k < na) {
                const float *q = (const float *)c.ptr(k) + off;
                const int key = k < c.nt ? (c.t0 + k) * 16 + j : c.st * 16 + j;
                /* the state (token p.T) does not see the actions */
                if (k < c.nt ? key < c.n_eff : key < T && (tok < p.T || key == p.T))
                    v[k] = (q[0] + q[1024]) * (0.0625f * 1.44269504f);
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
#pragma unroll 1
    for (int k = 0; k < na; k++) {
        c.full(k);
        const uint4 *a = (const uint4 *)(c.ptr(k) + 8192) + c.warp * 64 + c.lane;
        const uint4 a0 = a[0], a1 = a[32];
        const bf16 *pr = c.sm->pr + c.g * PR_LD + k * 16 + 4 * c.t;
#pragma unroll
        for (int n = 0; n < N8; n++) {
            uint2 pb = *(const uint2 *)(pr + n * 8 * PR_LD);
            mma_bf16(o[0][n], a0, pb.x, pb.y);
            mma_bf16(o[1][n], a1, pb.x, pb.y);
        }
    }
    /* po[head][dim tile][split][token][16 dims] */
    float *po = p.po +
                (size_t)(((head * 16 + c.warp * 2) * SPLITS + split) * (N8 * 8) + 2 * c.t) * 16 +
                c.g;
#pragma unroll
    for (int d = 0; d < 2; d++)
#pragma unroll
        for (int n = 0; n < N8; n++) {
            const int tok = n * 8 + 2 * c.t;
            float *q = po + (d * SPLITS * (N8 * 8) + n * 8) * 16;
            if (tok < T) {
                st_relaxed_f32(q, o[d][n][0]);
                st_relaxed_f32(q + 8, o[d][n][2]);
            }
            if (tok + 1 < T) {
                st_relaxed_f32(q + 16, o[d][n][1]);
                st_relaxed_f32(q + 24, o[d][n][3]);
            }
        }
    STAMP(7);
    const int slots = (na + 1) & ~1;
    c.release(0, slots);
    c.advance(slots);
}

/* ---- po, ml of all splits → ob, dims 16·(c%16) … of head c/16 ---- */
template <int N8> __device__ __forceinline__ void combine(ctx<N8> &c, const params &p)
{
    const int head = c.cta >> 4, dt = c.cta & 15, j = c.lane & 15;
#pragma unroll 1
    for (int tp = c.warp; 2 * tp < c.T; tp += WARPS) {
        /* an odd last token is computed twice */
        const int tok = min(2 * tp + (c.lane >> 4), c.T - 1);
        const float *ml = p.ml + (head * SPLITS + j) * 2 * (N8 * 8) + tok;
        const float *po = p.po + (size_t)((head * 16 + dt) * SPLITS * (N8 * 8) + tok) * 16 + j;
        uint32_t mw, lw, v[SPLITS], e;
        do {
            mw = ld_relaxed_u32(ml), lw = ld_relaxed_u32(ml + N8 * 8);
#pragma unroll
            for (int i = 0; i < SPLITS; i++)
                v[i] = ld_relaxed_u32(po + i * (N8 * 8) * 16);
            /* sums and maxima may be negative: compare each */
            e = mw == ~0u || lw == ~0u;
#pragma unroll
            for (int i = 0; i < SPLITS; i++)
                e |= v[i] == ~0u;
        } while (__any_sync(~0u, e) && c.again());
        const float m = __uint_as_float(mw);
        float mx = m, l, a = 0.f;
#pragma unroll
        for (int o = 1; o < 16; o *= 2)
            mx = fmaxf(mx, __shfl_xor_sync(~0u, mx, o));
        const float w = exp2_approx(m - mx);
        l = w * __uint_as_float(lw);
#pragma unroll
        for (int o = 1; o < 16; o *= 2)
            l += __shfl_xor_sync(~0u, l, o);
#pragma unroll
        for (int i = 0; i < SPLITS; i++)
            a = fmaf(__shfl_sync(~0u, w, (c.lane & 16) + i), __uint_as_float(v[i]), a);
        a = __fdividef(a, l);
        const float hi = __shfl_down_sync(~0u, a, 1);
        mbar_wait(&c.sm->done[0], c.n_layer & 1);
        if (!(j & 1))
            st_relaxed_u32(p.ob + b_off<N8>(head * E + dt * 16 + j, tok), pack2(a, hi));
    }
    mbar_wait(&c.sm->done[0], c.n_layer & 1);
    STAMP(8);
}

/* bf16(x·gain) of this thread's two rows and the sum of squares of the CTA's 8, to a reader of x */
template <int N8>
__device__ __forceinline__ void publish_x(const ctx<N8> &c, bf16 *x, float *ssq, float2 gain)
{
    const int tok = c.tid >> 2, rp = c.tid & 3;
    float s = c.r0 * c.r0 + c.r1 * c.r1;
    s += __shfl_xor_sync(~0u, s, 1);
    s += __shfl_xor_sync(~0u, s, 2);
    if (tok < c.T) {
        st_relaxed_u32(x + b_off<N8>((c.cta >> 1) * 16 + c.rank * 8 + rp * 2, tok),
                       pack2(c.r0 * gain.x, c.r1 * gain.y));
        if (rp == 0)
            st_relaxed_f32(ssq + c.cta * t8p_of(N8) + tok, s);
    }
}

/* A product whose k is split over the pair, into the residual: input (this CTA's half of k) → sums of
 * 16 rows; 8 of them go to the peer, 8 come from it. x += gate · sum, then bf16(x·(1 + scale)) goes
 * out. norm: scale of the norm that reads x; gate: or NULL.
 *   O  ob → x2     DOWN  hb → x1 (last layer: xf)     MLP  ub → x1, x set to its bias before */
template <int N8>
__device__ __forceinline__ void residual(ctx<N8> &c, const params &p, enum phase what,
                                         const float *norm, const float *gate, bool last)
{
    constexpr int T8 = N8 * 8;
    const int T = c.T, tok = c.tid >> 2, rp = c.tid & 3, nu = what == DOWN ? 2 : 1;
    const int row = (c.cta >> 1) * 16 + c.rank * 8 + rp * 2;
    const bf16 *in = what == O ? p.ob : what == DOWN ? p.hb : p.ub;
    in += (what == MLP ? c.rank * 16 + c.warp * 2 : c.rank * nu * 32 + c.warp * 4) * N8 * 256;
    float2 gain = __ldg((const float2 *)(norm + row)), gt = make_float2(1.f, 1.f);
    if (gate)
        gt = __ldg((const float2 *)(gate + row));
    if (c.tid == 0)
        mbar_expect(&c.sm->xbar, 8 * ((T + 3) / 4) * 16);
    float acc[N8][4];
    zero<N8>(acc);
#pragma unroll 1
    for (int u = 0; u < nu; u++) {
        uint4 b[4][N8];
        poll_b<N8>(b, in + u * 32 * N8 * 256, what == MLP ? 1 : 3, what == MLP ? p.T : T, c);
        STAMP(what == O ? 9 : 15);
        c.full(2 * u + (c.warp >> 2));
        mma_unit<N8>(acc, c.ptr(2 * u) + c.warp * 4096, b, c.lane);
        __syncwarp();
        if (u < nu - 1)
            c.release(2 * u, 2);
    }
    const uint8_t *unit = c.ptr(2 * nu - 2);
    store_part<N8>(c.ptr(2 * nu - 2) + c.warp * 4096, acc, c.g, c.t);
    c.sync();
    STAMP(what == O ? 10 : 16);
    const int i = 255 - c.tid, r = i / (N8 * 2), tg = i % (N8 * 2);
    if (i < 16 * N8 && tg * 4 < T) {
        const float *q =
            (const float *)unit + ((tg >> 1) * 16 + (c.rank ^ 1) * 8 + r) * 8 + (tg & 1) * 4;
        float4 s = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            float4 v = *(const float4 *)(q + w * 1024);
            s.x += v.x, s.y += v.y, s.z += v.z, s.w += v.w;
        }
        st_async(map_rank(smem_addr(c.sm->xch + r * T8 + tg * 4), c.rank ^ 1), s,
                 map_rank(smem_addr(&c.sm->xbar), c.rank ^ 1));
    }
    float s0 = 0.f, s1 = 0.f;
    if (tok < T) {
        const float *q =
            (const float *)unit + ((tok >> 3) * 16 + c.rank * 8 + rp * 2) * 8 + (tok & 7);
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            s0 += q[w * 1024], s1 += q[w * 1024 + 8];
    }
    /* every warp waits: who polls for the next exchange has to be behind the peer's inputs */
    mbar_wait_cluster(&c.sm->xbar, c.n_xch++ & 1);
    STAMP(what == O ? 11 : 17);
    if (what == DOWN)
        mbar_wait(&c.sm->done[2], c.n_layer & 1);
    if (c.tid < T8 * 4) {
        if (tok < T) {
            c.r0 = fmaf(gt.x, s0 + c.sm->xch[rp * 2 * T8 + tok], c.r0);
            c.r1 = fmaf(gt.y, s1 + c.sm->xch[(rp * 2 + 1) * T8 + tok], c.r1);
            if (what == MLP && tok == p.T)
                c.r0 = c.sm->state[rp * 2], c.r1 = c.sm->state[rp * 2 + 1];
        }
        publish_x<N8>(c,
                      what == O ? p.x2
                      : last    ? p.xf
                                : p.x1,
                      what == O ? p.ssq2
                      : last    ? p.ssqf
                                : p.ssq1,
                      make_float2(1.f + gain.x, 1.f + gain.y));
    }
    STAMP(what == O ? 12 : 18);
    if (what == O)
        c.tell(1);
    c.release(2 * (nu - 1), 2);
    c.advance(2 * nu);
}

/* ---- Euler state → suffix embedding: π0.5 x1, π0 the hidden layer ub ---- */
template <int N8> __device__ __forceinline__ void suffix(ctx<N8> &c, const params &p, int step)
{
    const int tok = c.tid >> 2, rp = c.tid & 3, row = (c.cta >> 1) * 16 + c.rank * 8 + rp * 2;
    if (c.tid >= N8 * 32)
        return;
    const float *w = c.sm->inw + rp * 2 * A, *in_b = p.in_b + (size_t)step * p.in_b_step + row;
    float s0 = __ldg(in_b), s1 = __ldg(in_b + 1);
    if (tok < p.T)
#pragma unroll 2
        for (int i = 0; i < A; i += 4) {
            float4 x = *(const float4 *)(c.sm->xs + tok * A + i);
            float4 w0 = *(const float4 *)(w + i), w1 = *(const float4 *)(w + A + i);
            s0 += x.x * w0.x + x.y * w0.y + x.z * w0.z + x.w * w0.w;
            s1 += x.x * w1.x + x.y * w1.y + x.z * w1.z + x.w * w1.w;
        }
    if (p.pi05) {
        c.r0 = s0, c.r1 = s1;
        float2 g = __ldg((const float2 *)(p.norm + step * p.norm_step + row));
        publish_x<N8>(c, p.x1, p.ssq1, make_float2(1.f + g.x, 1.f + g.y));
        return;
    }
    if (tok < p.T)
        st_relaxed_u32(p.ub + b_off<N8>(row, tok), pack2(silu(s0), silu(s1)));
    c.r0 = __ldg(p.mlp_b + row), c.r1 = __ldg(p.mlp_b + row + 1);
}

/* A step is 2L + 1 turns: 0: the heads, 2l + 1: attention of layer l, 2l + 2: its MLP. One turn is a
 * product of normed x and a product into the residual, so that each has its code once: what a layer
 * executes has to stay in the instruction cache. */
template <int N8> __device__ __forceinline__ void compute(ctx<N8> &c, const params &p)
{
    for (int i = c.tid; i < p.T * A; i += WARPS * 32)
        c.sm->xs[i] = p.x[i];
    for (int i = c.tid; i < 8 * A; i += WARPS * 32)
        c.sm->inw[i] = p.in_w[((c.cta >> 1) * 16 + c.rank * 8) * A + i];
    for (int i = c.tid; i < (p.T + p.n_state) * 8; i += WARPS * 32)
        c.sm->rope[i] = p.rope[i / 8 * 128 + (c.cta & 15) * 8 + i % 8];
    if (p.n_state && c.tid < 8) {
        const int row = (c.cta >> 1) * 16 + c.rank * 8 + c.tid;
        float v = p.state_b[row];
        for (int i = 0; i < A; i++)
            v = fmaf(p.state_w[row * A + i], p.state[i], v);
        c.sm->state[c.tid] = v;
    }
    c.sync();
    const int n_eff = c.n_eff;
#pragma unroll 1
    for (int step = 0;; step++) {
        const float *norm = p.norm + step * p.norm_step;
        c.T = p.T + (step == 0 ? p.n_state : 0);
        c.n_eff = n_eff - (step == 0 ? p.n_state : 0);
#pragma unroll 1
        for (int turn = 0; turn <= 2 * p.L; turn++) {
            const int layer = (turn - 1) >> 1;
            const enum phase first = turn == 0 ? OUT : turn & 1 ? QKV : GATE_UP;
            if (first == QKV)
                STAMP(0);
            if (turn || step)
                normed<N8>(c, p, first, turn ? step : step - 1, layer);
            if (turn == 0) {
                c.sync();
                if (step == p.steps)
                    break;
                suffix<N8>(c, p, step);
                if (p.pi05)
                    continue;
            } else if (first == QKV) {
                attend<N8>(c, p);
                combine<N8>(c, p);
            }
            /* turn reads norm `turn` next, and its gate is that of norm turn − 1 */
            const float *next = norm + (int64_t)turn * p.norm_inst;
            residual<N8>(c, p,
                         turn == 0  ? MLP
                         : turn & 1 ? O
                                    : DOWN,
                         next, p.pi05 ? next - p.norm_inst + 2 * W : nullptr, turn == 2 * p.L);
            if (turn && !(turn & 1))
                c.n_layer++;
        }
        if (step == p.steps)
            break;
    }
    if (c.spins >= GIVE_UP && c.lane == 0)
        *p.status = 1;
}

/* ---- the copying warp (one lane) ---- */
struct feeder {
    uint8_t *ring;
    uint64_t *full, *empty;
    int s;
    uint32_t ph, n;
    /* src NULL: an empty slot, there to keep units of two slots at even ones */
    __device__ __forceinline__ void slots(const uint8_t *src, int count, uint64_t pol)
    {
#pragma unroll 1
        for (; count > 0; count--) {
            if (n >= NS)
                mbar_wait(&empty[s], ph ^ 1);
            if (n >= IN_FLIGHT) {
                const int k = s - IN_FLIGHT;
                mbar_wait(&full[k < 0 ? k + NS : k], k < 0 ? ph ^ 1 : ph);
            }
            if (src) {
                mbar_expect(&full[s], SLOT);
                bulk_copy(ring + s * SLOT, src, SLOT, &full[s], pol);
                src += SLOT;
            } else {
                mbar_arrive(&full[s]);
            }
            n++;
            if (++s == NS)
                s = 0, ph ^= 1;
        }
    }
};

template <int N8>
__device__ __forceinline__ void feed(smem<N8> *sm, const params &p, int cta, int rank, int nt,
                                     int t0, int st)
{
    feeder f = {};
    f.ring = sm->ring, f.full = sm->full, f.empty = sm->empty;
    const uint64_t once = policy_evict_first(), keep = policy_evict_last();
    const uint8_t *heads = p.weights + (size_t)p.L * U_LAYER * UNIT;
    const int na = nt + (st >= 0);
#pragma unroll 1
    for (int step = 0; step < p.steps; step++) {
#pragma unroll 1
        for (int l = -1; l <= p.L; l++) {
            const uint8_t *w = p.weights + (size_t)l * U_LAYER * UNIT;
            /* in the order in which compute() takes them */
#pragma unroll 1
            for (int i = 0; i < 7; i++) {
                const uint8_t *src = nullptr;
                int n = 0;
                if (l == p.L) {
                    src = heads, n = i == 0 ? 2 * U_OUT : 0;
                } else if (l < 0) {
                    src = heads + (size_t)(U_OUT + cta) * UNIT, n = i == 0 && !p.pi05 ? 2 : 0;
                } else if (i == 0) {
                    src = w + (size_t)cta * UNIT, n = 2;
                } else if (i == 1) {
                    src = w + (size_t)kv_tile(cta) * UNIT, n = kv_tile(cta) >= 0 ? 2 : 0;
                } else if (i == 2) {
                    src = p.kv + (size_t)(l * MAX_TILES + t0) * KV_TILE, n = nt;
                } else if (i == 3) {
                    n = (st >= 0) + (na & 1);
                } else if (i == 4) {
                    src = w + (size_t)(U_QKV + cta) * UNIT, n = 2;
                } else if (i == 5) {
                    src = w + (size_t)(U_QKV + U_O + cta * 4) * UNIT, n = 8;
                } else {
                    src = w + (size_t)(U_QKV + U_O + U_GU + (cta >> 1) * 4 + rank * 2) * UNIT,
                    n = 4;
                }
                f.slots(src, n, l < 0 || l == p.L || i == 2 ? keep : once);
            }
        }
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
    const int row = (cta >> 1) * 16 + rank * 8, head = cta >> 4, part = cta & 15;
    const int kv = kv_tile(cta);
#pragma unroll 1
    for (uint32_t n = 0; n < (uint32_t)(p.steps * p.L); n++) {
        const int T = p.T + (n < (uint32_t)p.L ? p.n_state : 0);
        mbar_wait(&sm->ev[0], n & 1);
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

        mbar_wait(&sm->ev[1], n & 1);
#pragma unroll 1
        for (int tok = lane; tok < T; tok += 32) {
            st_relaxed(p.x1 + b_off<N8>(row, tok), e4);
            st_relaxed_u32(p.ssq1 + cta * t8p_of(N8) + tok, ~0u);
        }
        cleared(&sm->done[1], lane);

#pragma unroll 1
        for (int tok = lane; tok < T; tok += 32) {
            st_relaxed(p.q + b_off<N8>(head * E + part * 8, tok), e4);
            st_relaxed(p.q + b_off<N8>(head * E + part * 8 + 128, tok), e4);
            float *ml = p.ml + (head * SPLITS + part) * 2 * (N8 * 8) + tok;
            st_relaxed_u32(ml, ~0u);
            st_relaxed_u32(ml + N8 * 8, ~0u);
        }
        if (kv >= 0) {
#pragma unroll 1
            for (int i = lane; i < T * 8; i += 32) { /* words: K (token, dim pair); V (pair, dim) */
                const int tok = i / 8, dim = part * 8 + i / 4 % 2 * 128, d = i % 4;
                bf16 *t = p.ks + (tok >> 4) * (KV_TILE / 2);
                if (kv < 144) {
                    st_relaxed_u32(t + k_off(dim + d * 2, tok & 15), ~0u);
                } else if (!(tok & 1)) {
                    st_relaxed_u32(t + v_off(dim + d, tok & 15), ~0u);
                    st_relaxed_u32(t + v_off(dim + d + 4, tok & 15), ~0u);
                }
            }
        }
#pragma unroll 1
        for (int dt = 0; dt < 16; dt++) {
            float *d = p.po + (size_t)((head * 16 + dt) * SPLITS + part) * (N8 * 8) * 16;
#pragma unroll 1
            for (int i = lane; i < T * 4; i += 32)
                st_relaxed(d + i * 4, e4);
        }

        mbar_wait(&sm->ev[2], n & 1);
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
    const int ns = (p.T + p.n_state + 15) / 16; /* suffix tiles, to the last splits */
    const int st = split >= SPLITS - ns ? split - (SPLITS - ns) : -1;
    if (warp >= WARPS) {
        reg_dealloc<56>();
        if (warp == WARPS) {
            if (lane == 0)
                feed<N8>(sm, p, cta, rank, nt, t0, st);
        } else if (warp == WARPS + 1) {
            clear<N8>(sm, p, cta, rank, lane);
        }
    } else {
        reg_alloc<224>();
        ctx<N8> c = {};
        c.sm = sm, c.tid = tid, c.warp = warp, c.lane = lane, c.g = lane / 4, c.t = lane % 4;
        c.cta = cta, c.rank = rank, c.nt = nt, c.t0 = t0, c.n_eff = n_eff, c.st = st;
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
    p.n_state = !p.pi05, p.state = a->state, p.state_w = a->state_w, p.state_b = a->state_b;
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
    return n8_of(&a->shape) == 2 ? launch<2>(a, stream) : launch<7>(a, stream);
}
