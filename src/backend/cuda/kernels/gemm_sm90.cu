/* SPDX-License-Identifier: Apache-2.0
 * geglu_bf16_sm90: h[M,F] = gelu_tanh(x·gateᵀ) ⊙ (x·upᵀ)    x, weights bf16, sums f32, h bf16
 * Called by: prefix MLP (M = 532 … 968, F = 16384, K = 2048).
 * Tiling:    weights on the wgmma M side: a CTA owns 256 weight rows (128 hidden units), two consumer
 *            warpgroups of 128 rows each, T tokens on the N side. Two producer threads fill two rings of
 *            K = 64 stages by tensor-map copies. A cluster of two CTAs shares its weights: each loads
 *            half and multicasts it, for two neighbouring token tiles. Of an odd number of tiles the last
 *            is shared the other way round, by CTAs with weights of their own:
 *
 *                            t0   t1   t2          a pair of row blocks, three tiles: three turns of the
 *              row block a  [ turn 0 ][ tu ]       cluster. Shared are the weights of a, those of b, the
 *              row block b  [ turn 1 ][ rn 2 ]     tokens of t2
 *
 *            Persistent, tokens fastest, so that a weight slice is read from memory once; a batch in
 *            groups of some 3000 tokens.
 *
 *              weight rows of a CTA, turns of 8 gates    accumulators of a thread
 *              and 8 ups: warpgroup q, block b, warp w   d[4j+0,1]: gate, tokens 8j+2t, +1
 *              r < 8: gate, r ≥ 8: up                    d[4j+2,3]: up, the same tokens
 *              unit = 64q + 32b + 8w + r % 8
 *
 *            so gelu(gate)·up needs no exchange. stmatrix turns the fragments into rows of tokens in
 *            shared memory, and a tensor-map copy takes them to h while the next tile begins.
 * Budget:    M = 788: 105.8 GFLOP, 134 MB of weights → bound by arithmetic: 137 µs at 773 TFLOP/s.
 * Now:       M = 788: 134 µs in a call (787 TFLOP/s, GeGLU in it; CUPTI). Launches back to back over six
 *            weight sets: 532: 100, 560: 105, 788: 139, 968: 172; cuBLASLt without the GeGLU 94, 136,
 *            166 at 536, 792, 968 (bench_gemm). Bound by power: the clock falls to 1.4 … 1.55 GHz in it,
 *            in single launches too, and the cycles are those of the products. 16384 rows back to back
 *            3.09 … 3.21 ms (T = 168; 3.44 … 3.51 in one group). NVIDIA H200, 2026-11-22.
 * Rounding:  one, at the store; gelu in float32 through exp. */
#include "gemm_sm90.h"
#include "wgmma_sm90.cuh"

#include <string.h>

using namespace wg90;

namespace
{

constexpr int BLOCK_ROWS = 256; /* weight rows of a CTA */
constexpr int BLOCK_K = 64;     /* one 128-byte swizzle row of bf16 */
constexpr int CLUSTER = 2;
constexpr int THREADS = 384; /* producer warpgroup + two consumers */

/* Two rings: a stage of weights is free when both CTAs have read it, one of tokens when this CTA has,
 * so weights get the deeper one. */
template <int T> struct tile {
    static constexpr int w_bytes = BLOCK_ROWS * BLOCK_K * 2;
    static constexpr int x_bytes = T * BLOCK_K * 2;
    static constexpr int out_bytes = T * 128; /* a warpgroup's results: 64 units of T tokens */
    static constexpr int room = 232448 - 1024 - 256 - 2 * out_bytes;
    static constexpr int w_stages = (room - 3 * x_bytes) / w_bytes;
    static constexpr int x_stages = (room - w_stages * w_bytes) / x_bytes;
    static constexpr int smem =
        w_stages * w_bytes + x_stages * x_bytes + 2 * out_bytes + 1024 + 256;
};

/* A place in a ring of N stages. */
template <int N> struct turn {
    int at = 0;
    uint32_t phase = 0;
    __device__ __forceinline__ void next(void)
    {
        if (++at == N) {
            at = 0;
            phase ^= 1;
        }
    }
};

template <int T> struct rings {
    using S = tile<T>;
    unsigned char *w, *x, *out;
    uint64_t *w_full, *w_empty, *x_full, *x_empty;

    __device__ __forceinline__ rings(unsigned char *base)
        : w(base), x(base + S::w_stages * S::w_bytes), out(x + S::x_stages * S::x_bytes),
          w_full((uint64_t *)(out + 2 * S::out_bytes)), w_empty(w_full + S::w_stages),
          x_full(w_empty + S::w_stages), x_empty(x_full + S::x_stages)
    {
    }
};

/* gelu_tanh(g)·u of two units of one token, with tanh through its exponential: 0.5(1 + tanh z) =
 * 1 / (1 + exp(-2z)), z = sqrt(2/π)(g + 0.044715 g³). The factor folds -2·sqrt(2/π)·log2(e). The two
 * share one reciprocal (the special-function unit is what an epilogue waits for); 2^40 bounds their
 * product: past it the result is below 1e-12 of g·u. Never two tokens: a row's bits must not depend on
 * its neighbour, which may be padding. */
static __device__ __forceinline__ float2 geglu(float g0, float u0, float g1, float u1)
{
    float e0 = ex2(fminf(g0 * (-2.302208198f - 0.102943240f * g0 * g0), 40.0f));
    float e1 = ex2(fminf(g1 * (-2.302208198f - 0.102943240f * g1 * g1), 40.0f));
    float a0 = 1.0f + e0, a1 = 1.0f + e1, r = rcp(a0 * a1);
    return make_float2(g0 * u0 * (r * a1), g1 * u1 * (r * a0));
}

/* The order of a cluster's turns: `group` token tiles at a time (an even number, but for the last) meet
 * all weights, so that their rows of x stay in L2; inside a group two neighbouring row blocks meet all
 * tiles in turns that follow each other, so that a weight slice is read from memory once. */
struct order {
    int row_pairs, tiles, group, k_blocks;

    __device__ __forceinline__ int n_turns(void) const { return row_pairs * tiles; }
};

/* Where CTA `rank` of a cluster works in turn t: one row block and two neighbouring token tiles, or, for
 * the last tile of an odd number, two neighbouring row blocks and one token tile. */
struct patch {
    int row0, token0;
    bool same_tokens;

    __device__ __forceinline__ patch(int t, const order &o, int tile_tokens, uint32_t rank)
    {
        int first = t / (o.group * o.row_pairs) * o.group, n = o.tiles - first;
        n = n < o.group ? n : o.group;
        t -= first * o.row_pairs;
        int pair = t / n, j = t % n, half = n / 2;
        same_tokens = j == 2 * half;
        row0 = (2 * pair + (same_tokens ? (int)rank : j >= half)) * BLOCK_ROWS;
        token0 = (first + (same_tokens ? j : (j < half ? j : j - half) * CLUSTER + (int)rank)) *
                 tile_tokens;
    }
};

/* One thread: this CTA's half of every stage of weights, to both; or all of its own. The first ring is
 * asked for before the predecessor has finished: weights are nobody's output. */
template <int T>
static __device__ __forceinline__ void produce_weights(const CUtensorMap *map, const rings<T> &r,
                                                       const order &o, uint32_t rank)
{
    using S = tile<T>;
    constexpr int HALF = BLOCK_ROWS / 2;
    turn<S::w_stages> at;
    int own = (int)rank * HALF;
    for (int t = (int)(blockIdx.x / CLUSTER); t < o.n_turns(); t += (int)(gridDim.x / CLUSTER)) {
        patch p(t, o, T, rank);
        for (int k = 0; k < o.k_blocks; k++, at.next()) {
            unsigned char *to = r.w + at.at * S::w_bytes;
            uint64_t *full = &r.w_full[at.at];
            mbar_wait(&r.w_empty[at.at], at.phase ^ 1);
            mbar_expect(full, S::w_bytes);
            if (p.same_tokens) {
                tma_load_2d(to, map, full, k * BLOCK_K, p.row0);
                tma_load_2d(to + HALF * 128, map, full, k * BLOCK_K, p.row0 + HALF);
            } else {
                tma_load_2d_multicast(to + own * 128, map, full, k * BLOCK_K, p.row0 + own, 3);
            }
        }
    }
}

/* One thread: this CTA's tokens; or half of both CTAs' tokens, to both. */
template <int T>
static __device__ __forceinline__ void produce_tokens(const CUtensorMap *map, const rings<T> &r,
                                                      const order &o, uint32_t rank)
{
    using S = tile<T>;
    constexpr int HALF = T / 2;
    turn<S::x_stages> at;
    int own = (int)rank * HALF;
    pdl_wait();
    for (int t = (int)(blockIdx.x / CLUSTER); t < o.n_turns(); t += (int)(gridDim.x / CLUSTER)) {
        patch p(t, o, T, rank);
        for (int k = 0; k < o.k_blocks; k++, at.next()) {
            unsigned char *to = r.x + at.at * S::x_bytes;
            uint64_t *full = &r.x_full[at.at];
            mbar_wait(&r.x_empty[at.at], at.phase ^ 1);
            mbar_expect(full, S::x_bytes);
            if (p.same_tokens) {
                tma_load_2d_multicast(to + own * 128, map, full, k * BLOCK_K, p.token0 + own, 3);
            } else {
                tma_load_2d(to, map, full, k * BLOCK_K, p.token0);
                tma_load_2d(to + HALF * 128, map, full, k * BLOCK_K, p.token0 + HALF);
            }
        }
    }
}

/* A warpgroup's results, 64 hidden units of T tokens, through shared memory to h. Rows of 128 bytes in
 * the swizzle of the tensor map: 16-byte chunk c of token r lies at c ^ r % 8. Block b of warp w holds
 * chunk 4b + w; stmatrix turns a fragment, units by tokens, into rows of tokens. */
template <int T>
static __device__ __forceinline__ void store(const float (&d)[2][T / 2], unsigned char *out,
                                             const CUtensorMap *map, int q, int unit0, int token0)
{
    int lane = threadIdx.x % 32, warp = (int)threadIdx.x / 32 % 4, row = lane % 8;
    int chunk = lane / 8 % 2 * 4 + warp;
    uint32_t at = smem_u32(out) + (lane / 16 * 8 + row) * 128 + ((chunk ^ row) * 16);
    if (threadIdx.x % 128 == 0)
        bulk_wait_read(); /* the tile before has left */
    bar_sync(1 + q, 128);
    constexpr int GROUP = 4; /* tokens · 8 whose arithmetic overlaps; more would spill */
#pragma unroll
    for (int j0 = 0; j0 < T / 8; j0 += GROUP) {
        uint32_t v[GROUP][2];
#pragma unroll
        for (int i = 0; i < GROUP && j0 + i < T / 8; i++) {
            const float *x = &d[0][4 * (j0 + i)], *y = &d[1][4 * (j0 + i)];
            float2 even = geglu(x[0], x[2], y[0], y[2]), odd = geglu(x[1], x[3], y[1], y[3]);
            v[i][0] = pack_bf16(even.x, odd.x);
            v[i][1] = pack_bf16(even.y, odd.y);
        }
#pragma unroll
        for (int i = 0; i < GROUP && j0 + i < T / 8; i += 2) {
            if (j0 + i + 1 < T / 8)
                stmatrix4_trans(at + (j0 + i) * 1024, v[i][0], v[i][1], v[i + 1][0], v[i + 1][1]);
            else
                stmatrix2_trans(at + (j0 + i) * 1024, v[i][0], v[i][1]);
        }
    }
    fence_proxy_async();
    bar_sync(1 + q, 128);
    if (threadIdx.x % 128 == 0)
        tma_store_2d(map, out, unit0, token0);
}

/* Tells both writers of this CTA's weights, and the one of its tokens, that a stage is free; both writers
 * of tokens too where some turn shares them. Nobody is told who waits for no stage any more and may have
 * left: `left` stages are still to be released. */
template <int T>
static __device__ __forceinline__ void release(const rings<T> &r, int w_stage, int x_stage,
                                               bool x_shared, uint32_t rank, int left)
{
    int i = (int)threadIdx.x % 128;
    if (i < CLUSTER && left >= tile<T>::w_stages)
        mbar_arrive_cluster(&r.w_empty[w_stage], (uint32_t)i);
    if (i >= 32 && i < 33 + x_shared && left >= tile<T>::x_stages)
        mbar_arrive_cluster(&r.x_empty[x_stage], rank ^ (uint32_t)(i - 32));
}

template <int T>
static __device__ __forceinline__ void consume(const rings<T> &r, const order &o, uint32_t rank,
                                               const CUtensorMap *h_map)
{
    using S = tile<T>;
    int q = (int)threadIdx.x / 128 - 1;
    bool x_shared = o.tiles % 2;
    turn<S::w_stages> w;
    turn<S::x_stages> x;
    int w_last = -1, x_last = 0, turns = 0;
    for (int t = (int)(blockIdx.x / CLUSTER); t < o.n_turns(); t += (int)(gridDim.x / CLUSTER))
        turns++;
    int left = turns * o.k_blocks; /* stages that are still to be released */
    float d[2][T / 2];
    for (int t = (int)(blockIdx.x / CLUSTER); t < o.n_turns(); t += (int)(gridDim.x / CLUSTER)) {
        for (int k = 0; k < o.k_blocks; k++) {
            mbar_wait(&r.x_full[x.at], x.phase);
            mbar_wait(&r.w_full[w.at], w.phase);
            uint64_t a = desc_k128(r.w + w.at * S::w_bytes + q * 128 * 128);
            uint64_t b = desc_k128(r.x + x.at * S::x_bytes);
            wgmma_fence();
#pragma unroll
            for (int kk = 0; kk < BLOCK_K / 16; kk++) { /* 32 bytes a step inside the swizzle row */
                mma<T>(d[0], a + 2 * kk, b + 2 * kk, k | kk);
                mma<T>(d[1], a + 2 * kk + (64 * 128 >> 4), b + 2 * kk, k | kk);
            }
            wgmma_commit();
            wgmma_wait<1>(); /* the stage before this one has been read */
            if (w_last >= 0)
                release<T>(r, w_last, x_last, x_shared, rank, --left);
            w_last = w.at;
            x_last = x.at;
            w.next();
            x.next();
        }
        wgmma_wait<0>();
        release<T>(r, w_last, x_last, x_shared, rank, --left);
        w_last = -1;
        patch p(t, o, T, rank);
        store<T>(d, r.out + q * S::out_bytes, h_map, q, p.row0 / 2 + q * 64, p.token0);
    }
    if (threadIdx.x % 128 == 0)
        bulk_wait_read();
}

template <int T>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    geglu_bf16_sm90(const __grid_constant__ CUtensorMap w_map,
                    const __grid_constant__ CUtensorMap x_map,
                    const __grid_constant__ CUtensorMap h_map, const order o)
{
    using S = tile<T>;
    extern __shared__ unsigned char raw[];
    rings<T> r((unsigned char *)(((uintptr_t)raw + 1023) & ~(uintptr_t)1023));
    uint32_t rank = cluster_ctarank();
    if (threadIdx.x == 0) {
        prefetch_tensormap(&w_map);
        prefetch_tensormap(&x_map);
        prefetch_tensormap(&h_map);
        for (int i = 0; i < S::w_stages; i++) {
            mbar_init(&r.w_full[i], 1);
            mbar_init(&r.w_empty[i], 2 * CLUSTER); /* two consumers in each CTA */
        }
        for (int i = 0; i < S::x_stages; i++) {
            mbar_init(&r.x_full[i], 1);
            mbar_init(&r.x_empty[i], o.tiles % 2 ? 2 * CLUSTER : 2);
        }
        fence_mbar_init();
    }
    cluster_sync_relaxed(); /* the peers' barriers exist before anything is sent to them */
    if (threadIdx.x < 128) {
        setmaxnreg_dec<40>();
        if (threadIdx.x == 0)
            produce_weights<T>(&w_map, r, o, rank);
        else if (threadIdx.x == 32)
            produce_tokens<T>(&x_map, r, o, rank);
    } else {
        setmaxnreg_inc<232>();
        pdl_wait(); /* h may still be read by the kernel before */
        consume<T>(r, o, rank, &h_map);
    }
    pdl_launch();
    /* Nobody is left behind: stages are released only to producers that wait for them, and every CTA
     * waits for all that is sent to it. */
}

template <int T> cudaError_t configure(cudaLaunchConfig_t *cfg)
{
    *cfg = cudaLaunchConfig_t{};
    cfg->blockDim = dim3(THREADS);
    cfg->gridDim = dim3(CLUSTER);
    cfg->dynamicSmemBytes = tile<T>::smem;
    return cudaFuncSetAttribute(geglu_bf16_sm90<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                tile<T>::smem);
}

template <int T>
cudaError_t launch(const struct geglu90 *p, int n_sms, int pdl, cudaStream_t stream)
{
    cudaLaunchConfig_t cfg;
    cudaError_t e = configure<T>(&cfg);
    if (e != cudaSuccess)
        return e;
    order o = {};
    o.row_pairs = p->f / BLOCK_ROWS;
    o.tiles = (p->m + T - 1) / T;
    o.group = geglu90_group(p->m, p->k, T);
    o.k_blocks = p->k / BLOCK_K;
    int n_turns = o.row_pairs * o.tiles;
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cfg.gridDim =
        dim3((unsigned)((n_sms / CLUSTER < n_turns ? n_sms / CLUSTER : n_turns) * CLUSTER));
    cfg.stream = stream;
    cfg.attrs = &attr;
    cfg.numAttrs = pdl ? 1 : 0;
    return cudaLaunchKernelEx(&cfg, geglu_bf16_sm90<T>, p->w, p->x, p->h, o);
}

} // namespace

extern "C" int geglu90_supported(int compute_major, int compute_minor, int m, int f, int k)
{
    return compute_major == 9 && compute_minor == 0 && m > 0 && f % 256 == 0 && k % BLOCK_K == 0;
}

extern "C" long geglu90_cost(int m, int f, int n_sms, int *tile_tokens)
{
    static const int sizes[] = { 136, 168, 192, 200 };
    int best = 0;
    long best_cost = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        long turns = (long)((m + sizes[i] - 1) / sizes[i]) * (f / BLOCK_ROWS);
        long waves = (turns + n_sms / CLUSTER - 1) / (n_sms / CLUSTER);
        long cost = waves * (sizes[i] + 16); /* 16: what a tile costs besides its tokens */
        if (!best || cost < best_cost) {
            best = sizes[i];
            best_cost = cost;
        }
    }
    *tile_tokens = best;
    return best_cost;
}

extern "C" int geglu90_tile_tokens(int m, int f, int n_sms)
{
    int tokens;
    (void)geglu90_cost(m, f, n_sms, &tokens);
    return tokens;
}

extern "C" int geglu90_group(int m, int k, int tile_tokens)
{
    long pair = (long)CLUSTER * tile_tokens, pairs = (m + pair - 1) / pair;
    long most = ((long)14 << 20) / (pair * k * 2);
    long groups = most > 0 ? (pairs + most - 1) / most : pairs;
    return (int)((pairs + groups - 1) / groups) * CLUSTER;
}

extern "C" CUresult geglu90_plan(struct geglu90 *plan, tensor_map_encode_fn encode, const void *x,
                                 const void *w, void *h, int m, int f, int k, int tile_tokens)
{
    memset(plan, 0, sizeof *plan);
    plan->m = m;
    plan->f = f;
    plan->k = k;
    plan->tile_tokens = tile_tokens;
    CUresult r = tensor_map_2d(encode, &plan->w, w, 2 * f, k, k, BLOCK_ROWS / CLUSTER);
    if (r == CUDA_SUCCESS)
        r = tensor_map_2d(encode, &plan->x, x, m, k, k, tile_tokens / 2);
    return r != CUDA_SUCCESS ? r : tensor_map_2d(encode, &plan->h, h, m, f, f, tile_tokens);
}

extern "C" cudaError_t geglu90_launch(const struct geglu90 *plan, int n_sms, int pdl,
                                      cudaStream_t stream)
{
    switch (plan->tile_tokens) {
    case 136: return launch<136>(plan, n_sms, pdl, stream);
    case 168: return launch<168>(plan, n_sms, pdl, stream);
    case 192: return launch<192>(plan, n_sms, pdl, stream);
    case 200: return launch<200>(plan, n_sms, pdl, stream);
    }
    return cudaErrorInvalidValue;
}
