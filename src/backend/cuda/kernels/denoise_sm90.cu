/* SPDX-License-Identifier: Apache-2.0
 * denoise_sm90: all Euler steps of one sample, heads included, as one persistent kernel: 128 CTAs of
 * 8 computing warps, a copying warp and a clearing warp, one CTA an SM, in clusters of two. Layouts
 * are in denoise_sm90.cuh, data preparation in denoise_sm90_pack.cu. Long because it is one kernel:
 * its phases share registers, shared memory and the protocol below.
 *
 * Weights never wait for activations: the copying warp streams the CTA's fixed share of every matrix
 * through a ring of 16 KB slots (cp.async.bulk), at most IN_FLIGHT slots at a time and at a steady
 * PACE, because a burst delays every small message. A slot is free as soon as the weights are in
 * registers, before the product's input comes.
 *
 * Activations are exchanged through L2 without barriers or flags: an empty word holds 0xffffffff,
 * which no result can be (arithmetic makes NaNs 0x7fff…), so a reader loads until no word is empty.
 * A layer is six such exchanges and two between the CTAs of a pair (st.async):
 *
 *   x1 → QKV → q, ks → scores of a head's key split → sc → values of all keys → ob → O ⇄ pair → x2
 *   x2 → gate·up, GeGLU → hb → down ⇄ pair → x1 (after the last layer: xf → v, Euler, suffix → x1)
 *
 * Who owns what (c = CTA, r = c % 2): q tile c, of k and v kv_tile(c); head c/16, of its keys split
 * c%16 (the last one has the suffix too) and of its values dims 16·(c%16) …; k-half r of O and down
 * for rows 16·(c/2) …, of which rows 8r … +7 are its residual, kept in shared memory; hidden units
 * 32c … +31.
 *
 * Attention: tokens are the rows of its products (A), so that a lane has four keys of a token. Each
 * warp has 32 dims of all of its CTA's key tiles, or every warp with a tile would ask for all of q. sc
 * holds exp2(s - m) as bf16, and m, the maximum of a tile's 16 keys rounded up to a whole number:
 * whoever adds them up rescales by powers of two, which is exact, so no maximum has to be agreed on
 * before the weights go out, and a score passes one exchange on its way to ob.
 *
 * Clearing. A word is written (a) empty, (b) full, (a), … What a layer exchanges is there twice and
 * layers take turns. When a CTA has seen x1 of layer n whole, every CTA has left layer n - 1: its
 * clearing warp empties its own words of that layer (of xf and ub too where a step begins), fences,
 * then completes the mbarrier `done` that every publisher of hb of layer n has waited for. The next
 * to read these words begin after layer n: they, or their CTA and its peer, have been through down
 * and its exchange, hence behind all of hb. So no reader can meet a value of the layer before the
 * last, and from the beginning of a layer on each of its words may be polled at any time. Both sides
 * use relaxed gpu-scope accesses; the release is the clearing warp's fence plus mbarrier, the
 * readers' loads are ordered by the polls they depend on. Polls give up after some seconds and say so
 * in `status`; all CTAs are resident (cooperative launch), so on a sound device they never do.
 *
 * π0's state token is token T of step 0: the actions attend to it, it to the prefix and itself. Its k
 * and v then stay behind the prefix keys for the later steps (docs/model.md §9, item 4).
 *
 * Between a wait and the store that the next wait is for there is nothing that could have come before:
 * addresses are made, pinned and the first weights in registers before a poll begins; that of O
 * begins before the weights, since it hardly ever finds everything at once. A poll that finds less than
 * all costs a round trip: see not_before().
 *
 * Same inputs, same bits: every sum has a fixed order.
 * For one sample of up to 15 actions (cu_loop_batch); with more, suffix_sm90's chain is faster.
 * Shape: 10 steps × 18 layers of 34.6 MB of bf16 weights; floor 1.36 ms at 4.6 TB/s.
 * Now: 2.06 ms for 10 actions on 533 keys, 2.10 on 789, π0.5 on 968 2.15; from layer 17 of step 0 on
 * 1.90 (check_denoise_sm90 bench, NVIDIA H200, 2026-11-23); where it goes is in docs/worklog-denoise.md.
 * Rounding: residual, softmax, norms, Euler in f32; products take bf16(x·gain), 1/rms on their
 * result (docs/numerics.md); exchanged activations and weights of keys bf16. */
#include "backend/cuda/kernels/denoise_sm90.cuh"

#include <stddef.h>

namespace dn90
{
/* Two warpgroups compute; the third is the copying warp, the clearing warp and two that sleep: roles
 * are whole warpgroups so that setmaxnreg can move its registers to those who compute. */
constexpr int WARPS = 8, THREADS = (WARPS + 4) * 32, NS = 12;
constexpr int IN_FLIGHT = 2;           /* slots of 16 KB being copied */
constexpr int PACE = 600;              /* cycles for 16 KB at least */
constexpr uint32_t GIVE_UP = 1u << 22; /* about two seconds of polling; a call has some 10^4 */

struct params {
    const uint8_t *weights;
    uint8_t *kv;
    bf16 *x1, *x2, *xf, *ub, *q, *ob, *hb, *ks;
    uint8_t *sc;
    float *ssq1, *ssq2, *ssqf;
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
    int first;                /* layer in which step 0 begins; > 0: with the residual x0 */
    const float *x0;
    float dt;
    unsigned long long *prof;
    int prof_layer;
};

/* Sums of the warps: [warp][n][row pair][token] of 16 rows. The slots that the weights came from are
 * free by then. Neighbours in a layer take different areas, since a warp may be a phase behind others
 * of its CTA, but not two: QKV 0, 2; scores where K was, the suffix's 1; values 0; O 1; gate·up 0, 2
 * and two units in the ring; down 1. */
constexpr int AREA = WARPS * T16 * 16 * 4, AREAS = 3;

struct smem {
    alignas(128) uint8_t ring[NS * SLOT];
    alignas(16) float4 part[AREAS * AREA / 16]; /* the warps' sums */
    alignas(
        16) float2 fact[WARPS * T16]; /* attention: what these are relative to, sum of weights */
    alignas(16) float xch[8 * T16];   /* the peer's sums of this CTA's rows: [row][token] */
    alignas(16) float ssq[WARPS * T16];
    float res[8 * T16];               /* residual of this CTA's rows: [row][token] */
    alignas(16) float xs[T16 * A];    /* Euler state, the same in every CTA */
    alignas(16) float inw[8 * A];     /* in_w of this CTA's rows */
    alignas(16) float2 rope[T16 * 8]; /* cos, sin [token][dim of the q tile] */
    float state[8];                   /* the state token's rows before layer 0 */
    int n_eff;                        /* prefix keys, the state's included */
    uint64_t full[NS], empty[NS], xbar, seen, done;
};

/* Who computes the 32 tiles of k and v: the CTA whose q tile has the same dims, so one RoPE table
 * serves both. -1: none. */
__device__ __forceinline__ int kv_tile(int cta)
{
    const int part = cta & 15, head = cta >> 4;
    return head == (part & 7) ? 128 + part : head == ((part + 4) & 7) ? 144 + part : -1;
}

/* Of a field of smem, from the block's own address of it */
#define AT(field) (uint32_t) offsetof(smem, field)

/* One computing warp's view. */
struct ctx {
    uint32_t sm; /* shared memory */
    int tid, cta;
    int warp, lane, g, t, rank; /* of tid and cta, made anew in each phase */
    int s;                      /* ring position: slot (even) and parity */
    uint32_t ph, n_layer;       /* parity of the ring; layers so far */
    uint32_t keys;  /* prefix tiles: all, this split's first and count; the suffix here? */
    int T;          /* tokens of this step */
    uint32_t begun; /* cycle in which the phase began */
    uint32_t spins; /* unanswered loads so far; past GIVE_UP nothing waits any more */

    /* Hides from the compiler that these do not change: or it computes every address of every phase
     * once, ahead of the loop, and spills them; a spilled register is a read from L2 here, since the
     * clearing warp's fences empty L1. */
    __device__ __forceinline__ void forget()
    {
        pin(sm), pin(tid), pin(cta), pin(keys);
        warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3, rank = cta & 1;
        begun = cycles();
    }
    /* A poll that comes too early costs a whole round trip: the first one of a phase waits until so
     * many cycles after it began. Chosen for 10 tokens on 789 keys; results do not depend on it. */
    __device__ __forceinline__ void not_before(int after) const
    {
        if (after)
            while ((int)(cycles() - begun) < after)
                ;
    }
    __device__ __forceinline__ int tiles() const { return keys & 255; }
    __device__ __forceinline__ int first() const { return keys >> 8 & 255; }
    __device__ __forceinline__ int count() const { return keys >> 16 & 255; }
    __device__ __forceinline__ bool suffix_here() const { return keys >> 24; }
    /* of a poll; m: ~0 if a word is empty */
    __device__ __forceinline__ bool all_there(uint32_t m)
    {
        return !__any_sync(~0u, m == ~0u) || ++spins >= GIVE_UP;
    }
    __device__ __forceinline__ int slot(int i) const { return s + i - (s + i >= NS ? NS : 0); }
    __device__ __forceinline__ uint32_t ptr(int i) const { return sm + slot(i) * SLOT; }
    __device__ __forceinline__ void full(int i)
    {
        mbar_wait(sm + AT(full) + slot(i) * 8, ph ^ (s + i >= NS));
    }
    /* The warp is done with slots [i, i + n). wrote: its writes to them come before the next copy. */
    __device__ __forceinline__ void release(int i, int n, bool wrote)
    {
        if (wrote)
            fence_proxy_async();
        __syncwarp();
        if (lane < n)
            mbar_arrive(sm + AT(empty) + slot(i + lane) * 8);
    }
    __device__ __forceinline__ void advance(int n)
    {
        s += n;
        if (s >= NS)
            s -= NS, ph ^= 1;
    }
    __device__ __forceinline__ void sync() { bar_sync(1, WARPS * 32); }
    __device__ __forceinline__ void tell()
    {
        __syncwarp();
        if (lane == 0)
            mbar_arrive(sm + AT(seen));
    }
    __device__ __forceinline__ void wait_done() { mbar_wait(sm + AT(done), n_layer & 1); }
};

/* Prefix keys of this step: the state is one in the later ones. */
__device__ __forceinline__ int prefix_keys(const ctx &c, const params &p)
{
    return __float_as_int(lds32(c.sm + AT(n_eff))) - (c.T - p.T);
}

/* Layer n's of two. */
template <class V> __device__ __forceinline__ V *of_layer(V *p, uint32_t n)
{
    return (V *)((uint8_t *)p + (n & 1) * SET);
}

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
__device__ __forceinline__ float silu(float z) { return z / (1.f + __expf(-z)); }

__device__ __forceinline__ void zero(float (&acc)[N8][4])
{
#pragma unroll
    for (int n = 0; n < N8; n++)
        acc[n][0] = acc[n][1] = acc[n][2] = acc[n][3] = 0.f;
}
/* Again, if a word of it is empty: what is there already is not asked for twice, since polls are what
 * keeps the L2 busy. */
__device__ __forceinline__ void ld_empty(uint4 &v, const void *p)
{
    const uint32_t e = max4(0, v);
    asm volatile("{.reg .pred p; setp.eq.u32 p, %4, -1;\n"
                 "@p ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%5];}"
                 : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
                 : "r"(e), "l"(p)
                 : "memory");
}
/* What is empty of some blocks of 32 k from B order; block kb at kb & mask. src: the lane's. */
template <int K>
__device__ __forceinline__ void load_b(uint4 (&b)[K][N8], const bf16 *src, int mask = K - 1)
{
#pragma unroll
    for (int kb = 0; kb < K; kb++)
#pragma unroll
        for (int n = 0; n < N8; n++)
            ld_empty(b[kb][n], src + (kb & mask) * N8 * 256 + n * 256);
}
/* The first poll; what is not real stays zero, and is so before the wait. */
__device__ __forceinline__ void zero_regs(uint4 &v)
{
    v = make_uint4(0, 0, 0, 0);
    pin(v.x), pin(v.y), pin(v.z), pin(v.w);
}
__device__ __forceinline__ void ld_if(uint4 &v, uint32_t real, const void *p)
{
    asm volatile("{.reg .pred p; setp.ne.u32 p, %4, 0;\n"
                 "@p ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%5];}"
                 : "+r"(v.x), "+r"(v.y), "+r"(v.z), "+r"(v.w)
                 : "r"(real), "l"(p)
                 : "memory");
}
template <int K> __device__ __forceinline__ void zero_b(uint4 (&b)[K][N8])
{
#pragma unroll
    for (int i = 0; i < K * N8; i++)
        zero_regs(b[i / N8][i % N8]);
}
template <int K>
__device__ __forceinline__ void first_b(uint4 (&b)[K][N8], const bf16 *src, int T, const ctx &c,
                                        int mask = K - 1)
{
#pragma unroll
    for (int kb = 0; kb < K; kb++)
#pragma unroll
        for (int n = 0; n < N8; n++)
            ld_if(b[kb][n], n * 8 + c.g < T, src + (kb & mask) * N8 * 256 + n * 256);
}
/* The largest word of these and m: ~0 if one is empty. In four chains. */
template <int K> __device__ __forceinline__ uint32_t max_b(uint32_t m, const uint4 (&b)[K][N8])
{
    uint32_t v[4] = { m, 0, 0, 0 };
#pragma unroll
    for (int i = 0; i < K * N8; i++)
        v[i & 3] = max4(v[i & 3], b[i / N8][i % N8]);
    return max(max(v[0], v[1]), max(v[2], v[3]));
}
/* 4 KB of weights: a lane's of unit i of the ring */
__device__ __forceinline__ void load_a(uint4 (&a)[8], ctx &c, int i)
{
    c.full(2 * i + (c.warp >> 2));
    const uint32_t part = c.ptr(2 * i) + c.warp * 4096 + c.lane * 16;
#pragma unroll
    for (int k = 0; k < 8; k++)
        a[k] = lds128(part + k * 512);
}
/* acc = weights · b (+ acc): k16 steps in a fixed order, in two chains. */
template <bool MORE = false>
__device__ __forceinline__ void mma_unit(float (&acc)[N8][4], const uint4 (&a)[8],
                                         const uint4 (&b)[4][N8])
{
    float odd[N8][4] = {};
    if (!MORE)
        zero(acc);
#pragma unroll
    for (int kb = 0; kb < 4; kb++) {
#pragma unroll
        for (int n = 0; n < N8; n++)
            mma_bf16(acc[n], a[2 * kb], b[kb][n].x, b[kb][n].y);
#pragma unroll
        for (int n = 0; n < N8; n++)
            mma_bf16(odd[n], a[2 * kb + 1], b[kb][n].z, b[kb][n].w);
    }
#pragma unroll
    for (int n = 0; n < N8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            acc[n][i] += odd[n][i];
}
/* Where unit i of a product puts its sums: [warp], so far apart. */
__device__ __forceinline__ uint32_t area(const ctx &c, int i) { return c.sm + AT(part) + i * AREA; }
constexpr int APART = AREA / WARPS;
/* Sums of a warp, row r + 8 beside row r: [n][r 8][token 8][r, r + 8]. at: the lane's. */
__device__ __forceinline__ void store_pairs(uint32_t at, const float (&acc)[N8][4])
{
#pragma unroll
    for (int n = 0; n < N8; n++)
        sts128(at + n * 512, acc[n][0], acc[n][2], acc[n][1], acc[n][3]);
}
/* Sum over the warps. */
__device__ __forceinline__ float2 sum_pairs(uint32_t at, uint32_t apart = APART)
{
    float2 v[WARPS], s;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        v[w] = lds64(at + w * apart);
    s = v[0];
#pragma unroll
    for (int w = 1; w < WARPS; w++)
        s.x += v[w].x, s.y += v[w].y;
    return s;
}
/* 1 / rms of a token; after the barrier. at: sums of squares of part lane / 8 and, 4 further on, of
 * another; lanes with the same lane % 8 ask for the same token. */
__device__ __forceinline__ float inv_rms(uint32_t at)
{
    float s = lds32(at) + lds32(at + 4 * T16 * 4);
    s += __shfl_xor_sync(~0u, s, 8);
    s += __shfl_xor_sync(~0u, s, 16);
    return rsqrtf(s * (1.f / W) + 1e-6f);
}
/* Two lanes `bit` apart hold neighbours v; lo and hi go into one word each: the lane with the bit
 * clear gets lo's, the other hi's. */
__device__ __forceinline__ uint32_t pair_words(float lo, float hi, int bit, int lane)
{
    const bool odd = lane & bit;
    const float r = __shfl_xor_sync(~0u, odd ? lo : hi, bit);
    return odd ? pack2(r, hi) : pack2(lo, r);
}

enum phase { QKV, GATE_UP, OUT, O, DOWN, MLP };

/* v of the step that ends, Euler, in every CTA alike: actions a and a + 8 of a token. */
__device__ __forceinline__ void euler(const ctx &c, const params &p, int step, int a, int tok,
                                      float2 v)
{
    const uint32_t xs = c.sm + AT(xs) + (tok * A + a) * 4;
    const float x0 = fmaf(p.dt, v.x, lds32(xs)), x1 = fmaf(p.dt, v.y, lds32(xs + 32));
    sts32(xs, x0), sts32(xs + 32, x1);
    if (c.cta)
        return;
    const size_t o = ((size_t)step * p.T + tok) * A + a;
    if (p.rec_v)
        p.rec_v[o] = v.x, p.rec_v[o + 8] = v.y;
    if (p.rec_x)
        p.rec_x[o] = x0, p.rec_x[o + 8] = x1;
    if (step == p.steps - 1)
        p.x[tok * A + a] = x0, p.x[tok * A + a + 8] = x1;
}

/* The state's k and v: for the later steps among the prefix keys, as key number n_eff. i: row of the
 * tile's matrix; w: what publishing stored. */
__device__ __forceinline__ void keep_state(bf16 *kv, int n_eff, int tile, int i, int odd,
                                           uint32_t w)
{
    const int key = n_eff & 15;
    if (tile >= 144) {
        i += odd & 1 ? 128 : 0;
        kv += KV_LAYER / 4 + ((i >> 4) * MAX_TILES + (n_eff >> 4)) * 256 + v_off(i, key);
        *kv = __ushort_as_bfloat16((uint16_t)(w >> (odd & 2) * 8));
    } else {
        st_relaxed_u32(kv + (n_eff >> 4) * (KV_TILE / 4) + k_off((i & ~1) + (odd ? 128 : 0), key),
                       w);
    }
    fence_proxy_async_all();
}

/* A product of normed x: rows of up to four units, each this CTA's alone.
 *   QKV      x1 → q, suffix k and v     GATE_UP  x2 → hb     OUT  xf → v, Euler state */
template <enum phase what>
__device__ __forceinline__ void normed(ctx &c, const params &p, int step, int layer)
{
    c.forget();
    const int kv = kv_tile(c.cta),
              nu = what != QKV ? 4
                   : kv >= 0   ? 2
                               : 1,
              T = what == OUT ? p.T : c.T;
    const bf16 *x = (what == QKV       ? of_layer(p.x1, c.n_layer)
                     : what == GATE_UP ? of_layer(p.x2, c.n_layer)
                                       : p.xf) +
                    c.warp * 4 * N8 * 256 + c.lane * 8;
    const float *ssq = (what == QKV       ? of_layer(p.ssq1, c.n_layer)
                        : what == GATE_UP ? of_layer(p.ssq2, c.n_layer)
                                          : p.ssqf) +
                       c.warp * 16 * T16 + c.lane * 4;
    /* A warp's part of the epilogue: half the row pairs of unit u (OUT: u and u + 1 are one tile),
     * lane = 8·(g % 4) + token % 8; GATE_UP: both token tiles, else tile n. */
    const int g = (c.warp & 1) * 4 + (c.lane >> 3), l8 = c.lane & 7;
    const int n = what == GATE_UP ? 0 : c.warp >> 1 & 1, tok = n * 8 + l8;
    const int u = what == GATE_UP ? c.warp >> 1 : what == QKV ? c.warp >> 2 : c.warp >> 2 << 1;
    const int tile = what == QKV ? (u ? kv : c.cta) : what == GATE_UP ? c.cta * 4 + u : u >> 1;
    const int i = tile % 16 * 8 + g; /* QKV: dims i, i + 128 of the head */
    float b0 = 0.f, b1 = 0.f;
    if (p.shift || what == OUT) {
        const float *s = what == OUT
                             ? (p.shift ? p.shift_out + step * A : p.out_b)
                             : p.shift + ((size_t)step * p.L + layer) * ((U_QKV + U_GU) * 16) +
                                   (what == GATE_UP ? U_QKV * 16 : 0);
        s += (what == QKV && tile < 0 ? 0 : tile) * 16 + g;
        b0 = __ldg(s), b1 = __ldg(s + 8);
    }
    /* where its word goes: of two lanes `bit` apart the odd one has the other half of the dims, or the
     * other token tile */
    int bit = 8, mine;
    float2 e = make_float2(1.f, 0.f);
    bf16 *out;
    if (what == GATE_UP) {
        out = of_layer(p.hb, c.n_layer) + b_off(c.cta * 32 + u * 8 + (g & ~1), l8) + (g & 1) * 256;
        mine = l8 + (g & 1) * 8 < T;
    } else if (tile >= 144) { /* v: tokens tok & ~1, + 1 of one dim */
        bit = 1;
        out = of_layer(p.ks, c.n_layer) + KV_TILE / 4 + ((i >> 4) + (l8 & 1) * 8) * 256 +
              v_off(i, tok & 14);
        mine = (tok & ~1) < T;
    } else {
        const int dim = (i & ~1) + (g & 1) * 128;
        out = of_layer(tile < 128 ? p.q + b_off(tile / 16 * E + dim, tok) : p.ks + k_off(dim, tok),
                       c.n_layer);
        mine = tok < T && u < nu;
        e = lds64(c.sm + AT(rope) + (tok * 8 + g) * 8);
    }
    /* sums of units 0, 1 go to areas 0, 2, of 2, 3 to where their weights were */
    const bool here = what == QKV || u < 2;
    uint32_t apart = here ? APART : 4096;
    uint32_t at = (here ? area(c, 2 * u) : c.ptr(2 * u)) + (n * 64 + g * 8 + l8) * 8;
    uint32_t low = (here ? area(c, 2) : c.ptr(6)) + (n * 64 + g * 8 + l8) * 8; /* OUT */
    uint32_t part = area(c, 0) + c.warp * APART + c.lane * 16;
    uint32_t part2 = c.ptr(4) + c.warp * 4096 + c.lane * 16;
    uint32_t part3 = c.ptr(6) + c.warp * 4096 + c.lane * 16;
    uint32_t rms = c.sm + AT(ssq) + ((c.lane >> 3) * T16 + tok) * 4;
    uint32_t ssq_out = c.sm + AT(ssq) + (c.warp * T16 + c.lane * 4) * 4;
    const int left = T - c.lane * 4 % T16; /* real tokens from this lane's first on */
    uint4 a[2][8], b[4][N8], q[2];
    load_a(a[0], c, 0);
    if (nu > 1)
        load_a(a[1], c, 1);
    c.release(0, nu > 1 ? 4 : 2, false);
    pin(b0), pin(b1), pin(mine), pin(e.x), pin(e.y), pin(out), pin(at), pin(rms), pin(ssq_out);
    pin(part);
    if (what == GATE_UP)
        pin(apart), pin(part2), pin(part3);
    zero_b(b);
    c.not_before(what == QKV ? 150 : what == GATE_UP ? 750 : 0);
    q[0] = ld_relaxed(ssq), q[1] = ld_relaxed(ssq + 128);
    first_b(b, x, T, c);
    while (1) {
        uint32_t m = 0;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            m = max(m, left > 0 ? q[k].x : 0), m = max(m, left > 1 ? q[k].y : 0);
            m = max(m, left > 2 ? q[k].z : 0), m = max(m, left > 3 ? q[k].w : 0);
        }
        m = max_b(m, b);
        if (c.all_there(m))
            break;
        q[0] = ld_relaxed(ssq), q[1] = ld_relaxed(ssq + 128);
        load_b(b, x);
    }
    if (what == QKV)
        c.tell();
    STAMP(what == QKV ? 1 : 13);
    float acc[2][N8][4];
    mma_unit(acc[0], a[0], b);
    if (nu > 1)
        mma_unit(acc[1], a[1], b);
    { /* sums of squares of this warp's 128 k, 16 CTAs × 8 rows, per token */
        float s[4] = { __uint_as_float(q[0].x) + __uint_as_float(q[1].x),
                       __uint_as_float(q[0].y) + __uint_as_float(q[1].y),
                       __uint_as_float(q[0].z) + __uint_as_float(q[1].z),
                       __uint_as_float(q[0].w) + __uint_as_float(q[1].w) };
#pragma unroll
        for (int o = T16 / 4; o < 32; o *= 2)
#pragma unroll
            for (int k = 0; k < 4; k++)
                s[k] += __shfl_xor_sync(~0u, s[k], o);
        if (c.lane < T16 / 4)
            sts128(ssq_out, s[0], s[1], s[2], s[3]);
    }
    if (nu > 2)
        load_a(a[0], c, 2), load_a(a[1], c, 3);
    store_pairs(part, acc[0]);
    if (nu > 1)
        store_pairs(part + 2 * AREA, acc[1]);
    if (nu > 2) {
        mma_unit(acc[0], a[0], b);
        mma_unit(acc[1], a[1], b);
        __syncwarp(); /* every lane has its weights */
        store_pairs(part2, acc[0]);
        store_pairs(part3, acc[1]);
    }
    STAMP(what == QKV ? 2 : 20);
    if (what == GATE_UP) {
        c.wait_done();
        STAMP(22);
    }
    c.sync();
    STAMP(what == QKV ? 19 : 21);
    if (what == GATE_UP) {
        const float2 v0 = sum_pairs(at, apart), v1 = sum_pairs(at + 512, apart);
        const float r0 = inv_rms(rms), r1 = inv_rms(rms + 32);
        const float h0 = gelu(fmaf(v0.x, r0, b0)) * fmaf(v0.y, r0, b1);
        const float h1 = gelu(fmaf(v1.x, r1, b0)) * fmaf(v1.y, r1, b1);
        const uint32_t w = pair_words(h0, h1, 8, c.lane);
        if (mine)
            st_relaxed_u32(out, w);
    } else if (u < nu && n * 8 < T) {
        float2 v = sum_pairs(at, what == QKV ? APART : apart);
        const float r = inv_rms(rms);
        if (what == OUT) {
            const float2 lo = sum_pairs(low, apart);
            v.x += lo.x, v.y += lo.y;
        }
        v.x = fmaf(v.x, r, b0), v.y = fmaf(v.y, r, b1);
        if (what == QKV) {
            const bool real = tok < T;
            const float lo = real ? v.x * e.x - v.y * e.y : 0.f;
            const float hi = real ? v.y * e.x + v.x * e.y : 0.f;
            const uint32_t w = pair_words(lo, hi, bit, c.lane);
            if (mine)
                st_relaxed_u32(out, w);
            if (c.T > p.T && tile >= 128 && (tile >= 144 ? (tok | 1) == (p.T | 1) : tok == p.T))
                keep_state((bf16 *)(p.kv + (size_t)layer * KV_LAYER), prefix_keys(c, p), tile, i,
                           tile >= 144 ? (tok & 1) + (p.T & 1) * 2 : g & 1, w);
        } else if (tok < T) {
            euler(c, p, step, tile * 16 + g, tok, v);
        }
    }
    STAMP(what == QKV ? 3 : 14);
    if (nu > 2)
        c.release(4, 4, true);
    c.advance(2 * nu);
}

/* ---- attention of head c/16: scores of this CTA's key tiles → sc; all of them → ob, dims 16·(c%16) … */

/* 2^(m - to), 0 if that is less than 2^-126, as bf16 twice; m ≤ to */
__device__ __forceinline__ uint32_t biased(uint32_t m, uint32_t to)
{
    return (uint32_t)max((int)(m - to) + 127, 0);
}
__device__ __forceinline__ uint32_t times(uint32_t pair, uint32_t f)
{
    __nv_bfloat162 v = __hmul2(*(__nv_bfloat162 *)&pair, *(__nv_bfloat162 *)&f);
    return *(uint32_t *)&v;
}

/* Up to four tiles of the prefix and, of the last split, the suffix. Warp w multiplies dims 32w … +31 of
 * all of them, so that q comes once to a CTA; its sums take the place of its part of K. Of the sums
 * over the warps, tiles go to pairs of warps in turn, tokens 0 … 7 to the first: lane = 4·token +
 * keys / 4. */
__device__ __forceinline__ void scores(ctx &c, const params &p)
{
    c.forget();
    const int head = c.cta >> 4, T = c.T, count = c.count();
    const bool sfx = c.suffix_here();
    const bf16 *q = of_layer(p.q, c.n_layer) + (head * 8 + c.warp) * N8 * 256 + c.lane * 8;
    const bf16 *ks = of_layer(p.ks, c.n_layer) + c.warp * 512 + c.lane * 8;
    const uint32_t ring = c.ptr(0), extra = area(c, 1);
    uint32_t part = ring + c.warp * 1024 + c.lane * 16, part2 = extra + c.warp * 1024 + c.lane * 16;
    const int tok = (c.warp & 1) * 8 + c.g;
    int pos = c.warp >> 1, key, end;
    uint32_t at;
    uint8_t *out, *rel;
    bool mine, last;
    auto place = [&]() {
        last = pos == count;
        const int tile = last ? c.tiles() : c.first() + pos;
        at = (last ? extra : ring + pos * 8192) + c.lane * 16 + (c.warp & 1) * 512;
        key = (last ? 0 : tile * 16) + 4 * c.t, end = last ? T : prefix_keys(c, p);
        out = of_layer(p.sc, c.n_layer) + (head * SC_PAIRS + (tile >> 1)) * SC_PAIR;
        rel = out + T16 * 64 + c.g * 16 + (c.warp & 1) * 8 + (tile & 1) * 4;
        out += tok * 64 + c.t * 16 + (tile & 1) * 8;
        mine = pos < count + sfx && tok < T;
    };
    place();
    c.full(0), c.full(1);
    uint4 a[4][2], k[2] = {}, b[1][N8];
#pragma unroll
    for (int i = 0; i < 4; i++) /* what is not there makes sums that nobody reads */
        a[i][0] = lds128(part + i * 8192), a[i][1] = lds128(part + i * 8192 + 512);
    pin(part), pin(part2), pin(at), pin(out), pin(rel), pin(key), pin(end);
    zero_b(b);
    c.not_before(900);
    first_b(b, q, T, c);
    if (sfx)
        k[0] = ld_relaxed(ks), k[1] = ld_relaxed(ks + 256);
    float s[4][2][4], few[2][4];
    while (1) {
        uint32_t m = max_b(0, b);
        if (sfx) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                m = max(m, 2 * c.g < T ? max(k[i].x, k[i].z) : 0);
                m = max(m, 2 * c.g + 1 < T ? max(k[i].y, k[i].w) : 0);
            }
        }
        if (c.all_there(m))
            break;
        load_b(b, q);
        if (sfx)
            k[0] = ld_relaxed(ks), k[1] = ld_relaxed(ks + 256);
    }
    STAMP(4);
    const uint4 lo = make_uint4(b[0][0].x, b[0][1].x, b[0][0].y, b[0][1].y);
    const uint4 hi = make_uint4(b[0][0].z, b[0][1].z, b[0][0].w, b[0][1].w);
    /* tokens are rows: s[i][r] is keys 2 · column + r of tile i */
#pragma unroll
    for (int i = 0; i < 4; i++) {
        zero(s[i]);
        mma_bf16(s[i][0], lo, a[i][0].x, a[i][0].z), mma_bf16(s[i][1], lo, a[i][0].y, a[i][0].w);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        mma_bf16(s[i][0], hi, a[i][1].x, a[i][1].z), mma_bf16(s[i][1], hi, a[i][1].y, a[i][1].w);
    }
    if (sfx) {
        zero(few);
        mma_bf16(few[0], lo, k[0].x, k[0].z), mma_bf16(few[1], lo, k[0].y, k[0].w);
        mma_bf16(few[0], hi, k[1].x, k[1].z), mma_bf16(few[1], hi, k[1].y, k[1].w);
    }
#pragma unroll
    for (int n = 0; n < 2; n++) { /* [tile][warp][token][key] */
#pragma unroll
        for (int i = 0; i < 4; i++)
            sts128(part + i * 8192 + n * 512, s[i][0][2 * n], s[i][1][2 * n], s[i][0][2 * n + 1],
                   s[i][1][2 * n + 1]);
        if (sfx)
            sts128(part2 + n * 512, few[0][2 * n], few[1][2 * n], few[0][2 * n + 1],
                   few[1][2 * n + 1]);
    }
    c.sync();
#pragma unroll 1
    while (pos < count + sfx) {
        float v[4] = {};
        {
            uint4 w[WARPS];
#pragma unroll
            for (int i = 0; i < WARPS; i++)
                w[i] = lds128(at + i * 1024);
#pragma unroll
            for (int i = 0; i < WARPS; i++) {
                v[0] += __uint_as_float(w[i].x), v[1] += __uint_as_float(w[i].y);
                v[2] += __uint_as_float(w[i].z), v[3] += __uint_as_float(w[i].w);
            }
        }
        /* the state (token p.T) does not see the actions */
        const int from = last && tok == p.T ? p.T : 0;
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = key + i >= from && key + i < end ? v[i] * (0.0625f * 1.44269504f) : -1e30f;
        float m = fmaxf(fmaxf(v[0], v[1]), fmaxf(v[2], v[3]));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        /* 2^m, a power of two, is exact to divide by: nobody has to know the others' maximum */
        const float r = ceilf(fminf(fmaxf(m, -0x1p29f), 0x1p29f));
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = exp2_approx(v[i] - r);
        if (mine) {
            st_relaxed(out, make_uint2(pack2(v[0], v[1]), pack2(v[2], v[3])));
            if (c.t == 0)
                st_relaxed_u32(rel, (uint32_t)((int)r + (1 << 29)));
            if (last && !(c.tiles() & 1)) { /* nothing is its neighbour */
                st_relaxed(out + 8, make_uint2(0, 0));
                if (c.t == 0)
                    st_relaxed_u32(rel + 4, 0);
            }
        }
        pos += 4;
        place();
    }
    STAMP(5);
    c.release(0, 2, true);
}

/* Warp w: pairs of tiles w, w + 8, … of all, the suffix tile behind the prefix's; then the warps'
 * sums. */
__device__ __forceinline__ void values(ctx &c, const params &p)
{
    c.forget();
    constexpr int MINE = (SC_PAIRS + WARPS - 1) / WARPS;
    const int head = c.cta >> 4, dt = c.cta & 15, T = c.T;
    const int mine = (c.tiles() / 2 + WARPS - c.warp) / WARPS; /* of tiles / 2 + 1 */
    const bool sfx = (c.tiles() >> 1 & 7) == c.warp;           /* its last one has the suffix */
    const uint32_t real0 = c.g < T, real1 = 8 + c.g < T;
    const uint8_t *sc = of_layer(p.sc, c.n_layer) + (head * SC_PAIRS + c.warp) * SC_PAIR;
    const uint8_t *rel = sc + T16 * 64 + c.g * 16;
    sc += c.lane * 16;
    const bf16 *vs = of_layer(p.ks, c.n_layer) + KV_TILE / 4 + dt * 256 + c.lane * 8;
    uint4 w[MINE][N8], f[MINE], last = make_uint4(0, 0, 0, 0);
    zero_b(w);
#pragma unroll
    for (int i = 0; i < MINE; i++)
        zero_regs(f[i]);
    c.not_before(450);
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        ld_if(w[i][0], i < mine & real0, sc + i * (WARPS * SC_PAIR));
        ld_if(w[i][1], i < mine & real1, sc + i * (WARPS * SC_PAIR) + 512);
        ld_if(f[i], i < mine & real0, rel + i * (WARPS * SC_PAIR));
    }
    if (sfx)
        last = ld_relaxed(vs);
    /* its part of the epilogue: two dims of a token */
    const int tok = c.warp * 4 + (c.lane >> 3), pair = c.lane & 7;
    uint32_t facts = c.sm + AT(fact) + tok * 8, sums = area(c, 0) + tok * 64 + pair * 8;
    uint32_t part = area(c, 0) + c.warp * APART + c.lane * 16;
    uint32_t fact = c.sm + AT(fact) + (c.warp * T16 + c.g) * 8;
    uint32_t v = c.ptr(2) + c.warp * 1024 + c.lane * 16;
    bf16 *out = of_layer(p.ob, c.n_layer) + b_off(head * E + dt * 16 + 2 * pair, tok);
    c.full(2);
    c.full(3);
    uint4 vt[MINE - 1][2]; /* what is not there is not used */
#pragma unroll
    for (int i = 0; i < MINE - 1; i++)
        vt[i][0] = lds128(v + i * (WARPS * 1024)), vt[i][1] = lds128(v + i * (WARPS * 1024) + 512);
    c.release(2, 2, false);
    pin(facts), pin(sums), pin(part), pin(fact), pin(out);
    uint32_t to[2];
    while (1) {
        uint32_t m = 0, z = 0;
        to[0] = to[1] = 0;
        if (4 * c.t >= T)
            last.x = last.y = 0;
        if (4 * c.t + 2 >= T)
            last.z = last.w = 0;
#pragma unroll
        for (int i = 0; i < MINE; i++) {
            if (!real1)
                f[i].z = f[i].w = 0;
            m = max4(m, w[i][0]), z = max4(z, w[i][1]);
            to[0] = max(to[0], max(f[i].x, f[i].y));
            to[1] = max(to[1], max(f[i].z, f[i].w));
        }
        m = max4(max(m, z), make_uint4(max(last.x, last.y), max(last.z, last.w), to[0], to[1]));
        if (c.all_there(m))
            break;
#pragma unroll
        for (int i = 0; i < MINE; i++) {
            ld_empty(w[i][0], sc + i * (WARPS * SC_PAIR));
            ld_empty(w[i][1], sc + i * (WARPS * SC_PAIR) + 512);
            ld_empty(f[i], rel + i * (WARPS * SC_PAIR));
        }
        if (sfx)
            last = ld_relaxed(vs);
    }
    STAMP(6);
    float o[2][2][4] = {},
          l[2][4] = {}; /* of the two tiles of a pair: even, odd dims; of weights */
#pragma unroll
    for (int i = 0; i < MINE; i++) {
        if (i < mine) {
            uint4 v0 = last, v1 = make_uint4(0, 0, 0, 0);
            if (i < MINE - 1) {
                if (!(sfx && i == mine - 1))
                    v0 = vt[i][0], v1 = vt[i][1];
                else if (c.tiles() & 1)
                    v0 = vt[i][0], v1 = last;
            }
            const uint32_t f0 = biased(f[i].x, to[0]) * 0x00800080u;
            const uint32_t f1 = biased(f[i].z, to[1]) * 0x00800080u;
            const uint32_t e0 = biased(f[i].y, to[0]) * 0x00800080u;
            const uint32_t e1 = biased(f[i].w, to[1]) * 0x00800080u;
            const uint4 a = make_uint4(times(w[i][0].x, f0), times(w[i][1].x, f1),
                                       times(w[i][0].y, f0), times(w[i][1].y, f1));
            const uint4 b = make_uint4(times(w[i][0].z, e0), times(w[i][1].z, e1),
                                       times(w[i][0].w, e0), times(w[i][1].w, e1));
            mma_bf16(o[0][0], a, v0.x, v0.z), mma_bf16(o[0][1], a, v0.y, v0.w);
            mma_bf16(l[0], a, 0x3f803f80u, 0x3f803f80u);
            mma_bf16(o[1][0], b, v1.x, v1.z), mma_bf16(o[1][1], b, v1.y, v1.w);
            mma_bf16(l[1], b, 0x3f803f80u, 0x3f803f80u);
        }
    }
#pragma unroll
    for (int n = 0; n < 2; n++) { /* [token][dim] */
        const int k = 2 * n;
        sts128(part + n * 512, o[0][0][k] + o[1][0][k], o[0][1][k] + o[1][1][k],
               o[0][0][k + 1] + o[1][0][k + 1], o[0][1][k + 1] + o[1][1][k + 1]);
        if (c.t == 0)
            sts64(fact + n * 64, __uint_as_float(to[n]), l[0][k] + l[1][k]);
    }
    c.sync();
    STAMP(7);
    if (tok < T) {
        float2 e[WARPS], a[WARPS];
        uint32_t top = 0;
#pragma unroll
        for (int i = 0; i < WARPS; i++) {
            e[i] = lds64(facts + i * T16 * 8);
            a[i] = lds64(sums + i * APART);
            top = max(top, __float_as_uint(e[i].x));
        }
        float sum = 0.f, x = 0.f, y = 0.f;
#pragma unroll
        for (int i = 0; i < WARPS; i++) {
            const float k = __uint_as_float(biased(__float_as_uint(e[i].x), top) << 23);
            sum = fmaf(k, e[i].y, sum);
            x = fmaf(k, a[i].x, x), y = fmaf(k, a[i].y, y);
        }
        sum = __fdividef(1.f, sum);
        st_relaxed_u32(out, pack2(x * sum, y * sum));
    }
    STAMP(8);
    c.advance(4);
}

/* The residual: rows 8·rank … +7 of tile c/2. Warps 0 … 3 hold four tokens of all 8 rows each:
 * lane = 4·row + token % 4. */
__device__ __forceinline__ int own_token(const ctx &c) { return c.warp * 4 + c.t; }
/* bf16(x·gain) of this lane's row and token to x, and the sum of squares of the 8 rows to ssq: the
 * lane's. By whole warps. */
__device__ __forceinline__ void publish_x(const ctx &c, bf16 *x, float *ssq, float gain, float r,
                                          bool real)
{
    float s = r * r;
    const uint32_t w = pair_words(r * gain, r * gain, 4, c.lane);
    s += __shfl_xor_sync(~0u, s, 4);
    if (real && !(c.g & 1))
        st_relaxed_u32(x, w);
    s += __shfl_xor_sync(~0u, s, 8);
    s += __shfl_xor_sync(~0u, s, 16);
    if (real && c.g == 0)
        st_relaxed_f32(ssq, s);
}

/* A product whose k is split over the pair, into the residual: input (this CTA's half of k) → sums of
 * 16 rows; 8 of them go to the peer, 8 come from it. x += gate · sum, then bf16(x·(1 + scale)) goes
 * out.
 *   O  ob → x2     DOWN  hb → x1 (last layer: xf)     MLP  ub → x1, x set to its bias before */
template <enum phase what>
__device__ __forceinline__ void residual(ctx &c, const params &p, int step, int layer)
{
    c.forget();
    const int nu = what == DOWN ? 2 : 1, T = what == MLP ? p.T : c.T, mask = what == MLP ? 1 : 3;
    const int row = (c.cta >> 1) * 16 + c.rank * 8 + c.g, tok = own_token(c);
    const bf16 *in =
        (what == O      ? of_layer(p.ob, c.n_layer)
         : what == DOWN ? of_layer(p.hb, c.n_layer)
                        : p.ub) +
        c.lane * 8 +
        (what == MLP ? c.rank * 16 + c.warp * 2 : c.rank * nu * 32 + c.warp * 4) * N8 * 256;
    const bool last = what == DOWN && layer == p.L - 1;
    /* norm 2l + 1, 2l + 2 comes next, and the gate is that of the one before */
    const float *norm = p.norm + step * p.norm_step +
                        (what == MLP ? 0 : 2 * layer + (what == O ? 1 : 2)) * p.norm_inst + row;
    float gain = 1.f + __ldg(norm);
    float gt = what != MLP && p.pi05 ? __ldg(norm - p.norm_inst + 2 * W) : 1.f;
    /* exchanges of the pair so far: a step is 2L of them and, for π0, one in its head, unless it
     * begins behind that */
    const uint32_t head = p.first ? step : step + 1;
    const uint32_t parity = what == MLP ? head - 1 : head * p.n_state + (what == DOWN);
    if (c.tid == 0)
        mbar_expect(c.sm + AT(xbar), 8 * ((c.T + 1) / 2) * 8);
    /* warps 0 … 3 add up this CTA's rows, warp 7 - n the peer's of token tile n, lane = 4·row +
     * token/2 */
    const int n = 7 - c.warp;
    uint32_t part = area(c, 1) + c.warp * APART + c.lane * 8;
    uint32_t at =
        area(c, 1) + (c.warp < 4 ? ((tok >> 3) * 16 + c.rank * 8 + c.g) * 32 + (tok & 7) * 4
                                 : (n * 16 + (c.rank ^ 1) * 8 + c.g) * 32 + c.t * 8);
    uint32_t to = map_rank(c.sm + AT(xch) + (c.g * T16 + n * 8 + 2 * c.t) * 4, c.rank ^ 1);
    uint32_t bar = map_rank(c.sm + AT(xbar), c.rank ^ 1);
    uint32_t own = c.sm + (c.g * T16 + tok) * 4;
    const uint32_t next = c.n_layer + (what == DOWN);
    bf16 *x = (last ? p.xf : of_layer(what == O ? p.x2 : p.x1, next)) + b_off(row, tok);
    float *ssq = (last ? p.ssqf : of_layer(what == O ? p.ssq2 : p.ssq1, next)) + c.cta * T16 + tok;
    uint4 a[2][8], b[2][4][N8];
    auto weights = [&]() {
        load_a(a[0], c, 0);
        if (nu == 2)
            load_a(a[1], c, 1);
        c.release(0, 2 * nu, false);
    };
    if (what != O)
        weights();
    float acc[N8][4];
    pin(gain), pin(gt), pin(part), pin(at), pin(to), pin(bar), pin(own), pin(x), pin(ssq);
    zero_b(b[0]);
    if (nu == 2)
        zero_b(b[1]);
    c.not_before(what == O ? 600 : 0);
    first_b(b[0], in, T, c, mask);
    if (nu == 2)
        first_b(b[1], in + 32 * N8 * 256, T, c);
    if (what == O)
        weights();
    while (1) {
        uint32_t m = max_b(0, b[0]);
        if (nu == 2)
            m = max_b(m, b[1]);
        if (c.all_there(m))
            break;
        load_b(b[0], in, mask);
        if (nu == 2)
            load_b(b[1], in + 32 * N8 * 256);
    }
    STAMP(what == O ? 9 : 15);
    mma_unit(acc, a[0], b[0]);
    if (nu == 2)
        mma_unit<true>(acc, a[1], b[1]);
#pragma unroll
    for (int k = 0; k < N8; k++) { /* [n][row 16][token 8] */
        sts64(part + k * 512, acc[k][0], acc[k][1]);
        sts64(part + k * 512 + 256, acc[k][2], acc[k][3]);
    }
    c.sync();
    STAMP(what == O ? 10 : 16);
    float s = 0.f;
    if (c.warp < 4) {
        float v[WARPS];
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            v[w] = lds32(at + w * APART);
#pragma unroll
        for (int w = 0; w < WARPS; w++)
            s += v[w];
    } else if (n < N8 && n * 8 + 2 * c.t < c.T) {
        st_async(to, sum_pairs(at), bar);
    }
    /* every warp waits: who polls for the next exchange has to be behind the peer's inputs */
    mbar_wait(c.sm + AT(xbar), parity & 1);
    STAMP(what == O ? 11 : 17);
    if (c.warp * 4 < c.T) {
        float v = 0.f;
        if (tok < c.T) {
            v = fmaf(gt, s + lds32(own + AT(xch)), lds32(own + AT(res)));
            if (what == MLP && tok == p.T)
                v = lds32(c.sm + AT(state) + c.g * 4);
            sts32(own + AT(res), v);
        }
        publish_x(c, x, ssq, gain, v, tok < c.T);
    }
    STAMP(what == O ? 12 : 18);
    c.advance(2 * nu);
}

/* ---- Euler state → suffix embedding: π0.5 x1, π0 the hidden layer ub ---- */
__device__ __forceinline__ void suffix(ctx &c, const params &p, int step)
{
    c.forget();
    const int row = (c.cta >> 1) * 16 + c.rank * 8 + c.g;
    const float bias = __ldg(p.in_b + (size_t)step * p.in_b_step + row);
    const float gain = p.pi05 ? 1.f + __ldg(p.norm + step * p.norm_step + row) : 1.f;
    const float after = p.pi05 ? 0.f : __ldg(p.mlp_b + row);
    if (c.warp * 4 < c.T) {
        const int tok = own_token(c);
        float s = bias;
        if (tok < p.T) {
            const uint32_t w = c.sm + AT(inw) + c.g * A * 4, x = c.sm + AT(xs) + tok * A * 4;
#pragma unroll 2
            for (int k = 0; k < A; k += 2) {
                const float2 a = lds64(x + k * 4), b = lds64(w + k * 4);
                s += a.x * b.x + a.y * b.y;
            }
        }
        if (p.pi05) {
            publish_x(c, of_layer(p.x1, c.n_layer) + b_off(row, tok),
                      of_layer(p.ssq1, c.n_layer) + c.cta * T16 + tok, gain, s, tok < c.T);
        } else {
            s = silu(s);
            const uint32_t w = pair_words(s, s, 4, c.lane);
            if (tok < p.T && !(c.g & 1))
                st_relaxed_u32(p.ub + b_off(row, tok), w);
            s = after;
        }
        if (tok < c.T)
            sts32(c.sm + AT(res) + (c.g * T16 + tok) * 4, s);
    }
}

/* The way into step 0 behind layers that ran elsewhere: their residual. */
__device__ __forceinline__ void resume(ctx &c, const params &p)
{
    c.forget();
    const int row = (c.cta >> 1) * 16 + c.rank * 8 + c.g;
    const float gain = 1.f + __ldg(p.norm + 2 * p.first * p.norm_inst + row);
    if (c.warp * 4 < c.T) {
        const int tok = own_token(c);
        const float v = tok < c.T ? p.x0[tok * W + row] : 0.f;
        publish_x(c, of_layer(p.x1, c.n_layer) + b_off(row, tok),
                  of_layer(p.ssq1, c.n_layer) + c.cta * T16 + tok, gain, v, tok < c.T);
        if (tok < c.T)
            sts32(c.sm + AT(res) + (c.g * T16 + tok) * 4, v);
    }
}

/* What a layer executes has to stay in the instruction cache: no phase has its code twice. */
__device__ __forceinline__ void compute(ctx &c, smem *sm, const params &p)
{
    c.forget();
    for (int i = c.tid; i < p.T * A; i += WARPS * 32)
        sm->xs[i] = p.x[i];
    for (int i = c.tid; i < 8 * A; i += WARPS * 32)
        sm->inw[i] = p.in_w[((c.cta >> 1) * 16 + c.rank * 8) * A + i];
    for (int i = c.tid; i < (p.T + p.n_state) * 8; i += WARPS * 32)
        sm->rope[i] = p.rope[i / 8 * 128 + (c.cta & 15) * 8 + i % 8];
    if (p.n_state && c.tid < 8) {
        const int row = (c.cta >> 1) * 16 + c.rank * 8 + c.tid;
        float v = p.state_b[row];
        for (int i = 0; i < A; i++)
            v = fmaf(p.state_w[row * A + i], p.state[i], v);
        sm->state[c.tid] = v;
    }
    c.sync();
#pragma unroll 1
    for (int step = 0;; step++) {
        c.T = p.T + (step == 0 ? p.n_state : 0);
        if (step) {
            normed<OUT>(c, p, step - 1, 0);
            c.sync();
            if (step == p.steps)
                break;
        }
        const int first = step ? 0 : p.first;
        if (first) {
            resume(c, p);
        } else {
            suffix(c, p, step);
            if (!p.pi05)
                residual<MLP>(c, p, step, 0);
        }
#pragma unroll 1
        for (int layer = first; layer < p.L; layer++, c.n_layer++) {
            STAMP(0);
            normed<QKV>(c, p, step, layer);
            scores(c, p);
            values(c, p);
            residual<O>(c, p, step, layer);
            normed<GATE_UP>(c, p, step, layer);
            residual<DOWN>(c, p, step, layer);
        }
    }
    if (c.spins >= GIVE_UP && c.lane == 0)
        *p.status = 1;
}

/* ---- the copying warp (one lane) ---- */
struct feeder {
    uint32_t ring, full, empty;
    int s;
    uint32_t ph, n;
    uint32_t last; /* cycle of the last copy */
    int pace, due; /* cycles from a copy of a slot, from the last one, to the next */
    /* count slots, bytes in all: what is left over stays empty */
    __device__ __forceinline__ void slots(const uint8_t *src, int count, int bytes, uint64_t pol)
    {
#pragma unroll 1
        for (; count > 0; count--) {
            if (n >= NS)
                mbar_wait(empty + s * 8, ph ^ 1);
            if (n >= IN_FLIGHT) {
                const int k = s - IN_FLIGHT;
                mbar_wait(full + (k < 0 ? k + NS : k) * 8, k < 0 ? ph ^ 1 : ph);
            }
            if (bytes > 0) {
                const uint32_t now = (uint32_t)min(bytes, SLOT);
                while ((int)(cycles() - last) < due)
                    ;
                last = cycles(), due = pace * (int)(now >> 9) / (SLOT >> 9);
                mbar_expect(full + s * 8, now);
                bulk_copy(ring + s * SLOT, src, now, full + s * 8, pol);
                src += SLOT, bytes -= SLOT;
            } else {
                mbar_arrive(full + s * 8);
            }
            n++;
            if (++s == NS)
                s = 0, ph ^= 1;
        }
    }
};

__device__ __forceinline__ void feed(smem *sm, const params &p, int cta, int rank, int nt, int t0,
                                     int tiles)
{
    feeder f = {};
    f.last = cycles();
    f.pace = kv_tile(cta) >= 0 ? PACE - PACE / 16 : PACE; /* two slots more a layer */
    f.ring = smem_addr(sm->ring), f.full = smem_addr(sm->full), f.empty = smem_addr(sm->empty);
    const uint64_t once = policy_evict_first(), keep = policy_evict_last();
    const uint8_t *heads = p.weights + (size_t)p.L * U_LAYER * UNIT;
#pragma unroll 1
    for (int step = 0; step < p.steps; step++) {
#pragma unroll 1
        for (int l = step || !p.first ? -1 : p.first; l <= p.L; l++) {
            const uint8_t *w = p.weights + (size_t)l * U_LAYER * UNIT;
            const uint8_t *kv = p.kv + (size_t)l * KV_LAYER;
            /* in the order in which compute() takes them */
#pragma unroll 1
            for (int i = 0; i < 7; i++) {
                const uint8_t *src = nullptr;
                int n = 0, bytes = 0;
                if (l == p.L) {
                    src = heads, n = i == 0 ? 2 * U_OUT : 0;
                } else if (l < 0) {
                    src = heads + (size_t)(U_OUT + cta) * UNIT, n = i == 0 && !p.pi05 ? 2 : 0;
                } else if (i == 0) {
                    src = w + (size_t)cta * UNIT, n = 2;
                } else if (i == 1) {
                    src = w + (size_t)kv_tile(cta) * UNIT, n = kv_tile(cta) >= 0 ? 2 : 0;
                } else if (i == 2) {
                    src = kv + t0 * (KV_TILE / 2), n = 2, bytes = nt * (KV_TILE / 2);
                } else if (i == 3) {
                    src = kv + KV_LAYER / 2 + (cta & 15) * (MAX_TILES * 512);
                    n = 2, bytes = tiles * 512;
                } else if (i == 4) {
                    src = w + (size_t)(U_QKV + cta) * UNIT, n = 2;
                } else if (i == 5) {
                    src = w + (size_t)(U_QKV + U_O + cta * 4) * UNIT, n = 8;
                } else {
                    src = w + (size_t)(U_QKV + U_O + U_GU + (cta >> 1) * 4 + rank * 2) * UNIT,
                    n = 4;
                }
                const bool is_kv = i == 2 || i == 3;
                f.slots(src, n, is_kv ? bytes : n * SLOT, l < 0 || l == p.L || is_kv ? keep : once);
            }
        }
    }
}

/* ---- the clearing warp ---- */
__device__ __forceinline__ void clear(smem *sm, const params &p, int cta, int rank, int lane,
                                      int nt, int t0, int tiles, int st)
{
    const uint4 e4 = make_uint4(~0u, ~0u, ~0u, ~0u);
    const int row = (cta >> 1) * 16 + rank * 8, head = cta >> 4, part = cta & 15;
    const int kv = kv_tile(cta);
#pragma unroll 1
    for (uint32_t n = 0; n < (uint32_t)(p.steps * p.L - p.first); n++) {
        const bool step_begins = (n + p.first) % p.L == 0;
        mbar_wait(smem_addr(&sm->seen), n & 1);
        if (step_begins) /* what led to x1 */
#pragma unroll 1
            for (int tok = lane; tok < p.T; tok += 32)
                st_relaxed(p.ub + b_off(row, tok), e4);
        if (n > 0) { /* what layer n - 1 left */
            const uint32_t o = (n - 1 & 1) * SET;
            const int T = p.T + (n <= (uint32_t)(p.L - p.first) ? p.n_state : 0);
#define OF(p) ((uint8_t *)(p) + o)
#pragma unroll 1
            for (int tok = lane; tok < T; tok += 32) {
                const int x = b_off(row, tok) * 2, s = (cta * T16 + tok) * 4;
                st_relaxed(OF(p.x1) + x, e4);
                st_relaxed(OF(p.x2) + x, e4);
                st_relaxed_u32(OF(p.ssq1) + s, ~0u);
                st_relaxed_u32(OF(p.ssq2) + s, ~0u);
                if (step_begins) {
                    st_relaxed((uint8_t *)p.xf + x, e4);
                    st_relaxed_u32((uint8_t *)p.ssqf + s, ~0u);
                }
                st_relaxed(OF(p.q + b_off(head * E + part * 8, tok)), e4);
                st_relaxed(OF(p.q + b_off(head * E + part * 8 + 128, tok)), e4);
                st_relaxed(OF(p.ob + b_off(head * E + part * 16, tok)), e4);
                st_relaxed(OF(p.ob + b_off(head * E + part * 16 + 8, tok)), e4);
            }
#pragma unroll 1
            for (int i = lane; i < T * 4; i += 32)
                st_relaxed(OF(p.hb + b_off(cta * 32 + i % 4 * 8, i / 4)), e4);
            if (kv >= 0) {
#pragma unroll 1
                for (int i = lane; i < T * 8;
                     i += 32) { /* words: K (token, dim pair); V (pair, dim) */
                    const int tok = i / 8, dim = part * 8 + i / 4 % 2 * 128, d = i % 4;
                    if (kv < 144) {
                        st_relaxed_u32(OF(p.ks + k_off(dim + d * 2, tok)), ~0u);
                    } else if (!(tok & 1)) {
                        const bf16 *t = p.ks + KV_TILE / 4 + (dim >> 4) * 256;
                        st_relaxed_u32(OF(t + v_off(dim + d, tok)), ~0u);
                        st_relaxed_u32(OF(t + v_off(dim + d + 4, tok)), ~0u);
                    }
                }
            }
#pragma unroll 1
            for (int k = 0; k < nt + (st ? 2 - (tiles & 1) : 0); k++) {
                const int tile = k < nt ? t0 + k : tiles + k - nt;
                uint8_t *d = OF(p.sc + (head * SC_PAIRS + (tile >> 1)) * SC_PAIR);
#pragma unroll 1
                for (int i = lane; i < T * 4; i += 32)
                    st_relaxed(d + i * 16 + (tile & 1) * 8, make_uint2(~0u, ~0u));
                d += T16 * 64 + (tile & 1) * 4;
#pragma unroll 1
                for (int i = lane; i < T; i += 32)
                    st_relaxed_u32(d + (i & 7) * 16 + (i >> 3) * 8, ~0u);
            }
#undef OF
        }
        fence_gpu();
        __syncwarp();
        if (lane == 0)
            mbar_arrive(smem_addr(&sm->done));
    }
}

__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(THREADS, 1)
    loop(const __grid_constant__ params p)
{
    extern __shared__ __align__(128) uint8_t raw[];
    smem *sm = (smem *)raw;
    const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, cta = blockIdx.x;
    const int rank = (int)cluster_rank();
    if (tid == 0) {
        for (int i = 0; i < NS; i++) {
            mbar_init(smem_addr(&sm->full[i]), 1);
            mbar_init(smem_addr(&sm->empty[i]), WARPS);
        }
        mbar_init(smem_addr(&sm->xbar), 1);
        mbar_init(smem_addr(&sm->seen), WARPS);
        mbar_init(smem_addr(&sm->done), 1);
        mbar_init_fence();
    }
    cluster_arrive();
    cluster_wait();
    const int n_eff = *p.neff, tiles = (n_eff + 15) / 16, split = cta & 15;
    const int nt = tiles / SPLITS + (split < tiles % SPLITS);
    const int t0 = split * (tiles / SPLITS) + min(split, tiles % SPLITS);
    const int st = split == SPLITS - 1; /* the suffix tile is the last split's */
    if (warp >= WARPS) {
        reg_dealloc<56>();
        if (warp == WARPS) {
            if (lane == 0)
                feed(sm, p, cta, rank, nt, t0, tiles);
        } else if (warp == WARPS + 1) {
            clear(sm, p, cta, rank, lane, nt, t0, tiles, st);
        }
    } else {
        reg_alloc<224>();
        ctx c = {};
        c.sm = smem_addr(sm), c.tid = tid, c.cta = cta;
        if (tid == 0)
            sm->n_eff = n_eff;
        c.keys = tiles | t0 << 8 | nt << 16 | st << 24;
        compute(c, sm, p);
    }
    __syncwarp();
    cluster_arrive();
    cluster_wait();
}
} // namespace dn90

using namespace dn90;

extern "C" cudaError_t dn90_prepare(const struct dn90_shape *s)
{
    (void)s;
    return cudaFuncSetAttribute(loop, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                (int)sizeof(smem));
}

extern "C" cudaError_t dn90_enqueue(const struct dn90_args *a, cudaStream_t stream)
{
    struct ws w = ws_of(a->shape.n_layers);
    cudaError_t e = setup(a, &w, stream);
    if (e)
        return e;
    uint8_t *b = (uint8_t *)a->workspace;
    struct params p = {};
    p.weights = (const uint8_t *)a->weights, p.kv = b + w.kv;
    p.x1 = (bf16 *)(b + w.x1), p.x2 = (bf16 *)(b + w.x2), p.xf = (bf16 *)(b + w.xf);
    p.ub = (bf16 *)(b + w.ub), p.q = (bf16 *)(b + w.q), p.ob = (bf16 *)(b + w.ob);
    p.hb = (bf16 *)(b + w.hb), p.ks = (bf16 *)(b + w.ks), p.sc = b + w.sc;
    p.ssq1 = (float *)(b + w.ssq1), p.ssq2 = (float *)(b + w.ssq2);
    p.ssqf = (float *)(b + w.ssqf), p.rope = (const float2 *)(b + w.rope);
    p.neff = (const int *)(b + w.neff), p.status = (int *)(b + w.status);
    p.norm = a->norm, p.pi05 = a->shape.pi05;
    p.L = a->shape.n_layers, p.T = a->shape.n_tokens, p.steps = a->n_steps;
    p.first = a->first_layer, p.x0 = a->x0;
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
    cfg.dynamicSmemBytes = sizeof(smem), cfg.attrs = at, cfg.numAttrs = 1;
    return cudaLaunchKernelEx(&cfg, loop, p);
}
