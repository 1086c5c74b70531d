/* SPDX-License-Identifier: Apache-2.0
 * geglu_bf16_sm90: h[M,F] = gelu_tanh(x·gateᵀ) ⊙ (x·upᵀ)    x, weights bf16, sums f32, h bf16
 * Called by: prefix MLP (M = 532 … 968, F = 16384, K = 2048).
 * Tiling:    weights on the wgmma M side: a CTA owns 256 packed rows (128 hidden units), two consumer
 *            warpgroups of 128 rows each, T tokens on the N side. One producer thread fills a ring of
 *            K = 64 stages by tensor-map copies. A cluster of two CTAs shares its weights: each loads
 *            half and multicasts it, for two neighbouring token tiles. Persistent, tokens fastest, so
 *            that a weight slice is read from memory once.
 *
 *              packed rows of a CTA                     accumulators of a thread
 *              warpgroup q, block b, warp w, row r       d[4j+0,1]: gate, tokens 8j+2t, +1
 *              r < 8: gate, r ≥ 8: up                    d[4j+2,3]: up, the same tokens
 *              unit = 64q + 16w + 4((r%8)/2) + 2b + (r%2)
 *
 *            so gelu(gate)·up needs no exchange, and after an 8×8 transpose in registers a thread
 *            holds four neighbouring units of one token: 8-byte stores, whole 32-byte sectors.
 * Budget:    M = 788: 105.8 GFLOP, 134 MB of weights → bound by arithmetic: 137 µs at 773 TFLOP/s.
 * Now:       M = 788: 135 µs in a call (782 TFLOP/s, GeGLU in it; CUPTI, commit c035dca, NVIDIA H200,
 *            2026-11-22). Launches back to back, at the card's power limit, with the epilogue before
 *            this one (4b9ca83): 532: 109, 788: 158, 968: 205, 1576: 333; cuBLASLt without the GeGLU
 *            101, 147, 184, 281 in the same run.
 * Rounding:  one, at the store; gelu in float32 through exp. */
#include "gemm_sm90.h"
#include "wgmma_sm90.cuh"

#include <string.h>

using namespace wg90;

namespace
{

constexpr int BLOCK_ROWS = 256; /* packed weight rows of a CTA */
constexpr int BLOCK_K = 64;     /* one 128-byte swizzle row of bf16 */
constexpr int CLUSTER = 2;
constexpr int THREADS = 384; /* producer warpgroup + two consumers */

template <int T> struct tile {
    static constexpr int w_bytes = BLOCK_ROWS * BLOCK_K * 2;
    static constexpr int x_bytes = T * BLOCK_K * 2;
    static constexpr int stage_bytes = w_bytes + x_bytes;
    static constexpr int stages = (232448 - 2048) / stage_bytes;
    static constexpr int smem = stages * stage_bytes + 1024 + 256;
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
MMA(136)
MMA(168)
MMA(200)
#undef MMA

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

/* Where CTA `rank` of a cluster works in step t: one row block, neighbouring token tiles. */
struct patch {
    int row0, token0;

    __device__ __forceinline__ patch(int t, int token_pairs, int tile_tokens, uint32_t rank)
        : row0(t / token_pairs * BLOCK_ROWS),
          token0((t % token_pairs * CLUSTER + (int)rank) * tile_tokens)
    {
    }
};

template <int T> struct producer {
    using S = tile<T>;
    const CUtensorMap *w_map, *x_map;
    unsigned char *ring;
    uint64_t *full;
    uint32_t rank;

    __device__ __forceinline__ void weights(int stage, int k, const patch &p) const
    {
        int half = (int)rank * (BLOCK_ROWS / CLUSTER);
        tma_load_2d_multicast(ring + stage * S::stage_bytes + half * 128, w_map, &full[stage],
                              k * BLOCK_K, p.row0 + half, 3);
    }
    __device__ __forceinline__ void tokens(int stage, int k, const patch &p) const
    {
        tma_load_2d(ring + stage * S::stage_bytes + S::w_bytes, x_map, &full[stage], k * BLOCK_K,
                    p.token0);
    }
};

template <int T>
static __device__ __forceinline__ void produce(const producer<T> &load, uint64_t *empty,
                                               int n_tiles, int token_pairs, int k_blocks)
{
    using S = tile<T>;
    int stage = 0;
    uint32_t phase = 0;
    int early = 1; /* the first ring of weights is asked for before the predecessor has finished */
    for (int t = (int)(blockIdx.x / CLUSTER); t < n_tiles; t += (int)(gridDim.x / CLUSTER)) {
        patch p(t, token_pairs, T, load.rank);
        int done = 0;
        if (early) {
            early = 0;
            done = k_blocks < S::stages ? k_blocks : S::stages;
            for (int k = 0; k < done; k++) {
                mbar_expect(&load.full[k], S::stage_bytes);
                load.weights(k, k, p);
            }
            pdl_wait();
            for (int k = 0; k < done; k++)
                load.tokens(k, k, p);
            stage = done % S::stages;
            phase = done / S::stages;
        }
        for (int k = done; k < k_blocks; k++) {
            mbar_wait(&empty[stage], phase ^ 1);
            mbar_expect(&load.full[stage], S::stage_bytes);
            load.weights(stage, k, p);
            load.tokens(stage, k, p);
            if (++stage == S::stages) {
                stage = 0;
                phase ^= 1;
            }
        }
    }
}

/* Stores one warp's part of a tile: hidden units unit0 … unit0+15, T tokens. */
template <int T>
static __device__ __forceinline__ void store(const float (&d)[2][T / 2], __nv_bfloat16 *h, int f,
                                             int unit0, int token0, int m)
{
    int lane = threadIdx.x % 32;
    __nv_bfloat16 *p = h + (size_t)(token0 + lane / 4) * f + unit0 + lane % 4 * 4;
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
        for (int i = 0; i < GROUP && j0 + i < T / 8; i++)
            store_v2_if(token0 + 8 * (j0 + i) + lane / 4 < m, p + (size_t)(8 * (j0 + i)) * f,
                        movmatrix(v[i][0]), movmatrix(v[i][1]));
    }
}

/* Tells both producers that write this CTA's ring that a stage is free. */
static __device__ __forceinline__ void release(uint64_t *empty)
{
    if (threadIdx.x % 128 < CLUSTER)
        mbar_arrive_cluster(empty, threadIdx.x % 128);
}

template <int T>
static __device__ __forceinline__ void consume(unsigned char *ring, uint64_t *full, uint64_t *empty,
                                               int n_tiles, int token_pairs, int k_blocks,
                                               uint32_t rank, __nv_bfloat16 *h, int m, int f)
{
    using S = tile<T>;
    int q = (int)threadIdx.x / 128 - 1, warp = (int)threadIdx.x / 32 % 4;
    int stage = 0, last = -1;
    uint32_t phase = 0;
    float d[2][T / 2];
    for (int t = (int)(blockIdx.x / CLUSTER); t < n_tiles; t += (int)(gridDim.x / CLUSTER)) {
        for (int k = 0; k < k_blocks; k++) {
            mbar_wait(&full[stage], phase);
            unsigned char *s = ring + stage * S::stage_bytes;
            uint64_t a = desc_k128(s + q * 128 * 128), b = desc_k128(s + S::w_bytes);
            wgmma_fence();
#pragma unroll
            for (int kk = 0; kk < BLOCK_K / 16; kk++) { /* 32 bytes a step inside the swizzle row */
                mma<T>(d[0], a + 2 * kk, b + 2 * kk, k | kk);
                mma<T>(d[1], a + 2 * kk + (64 * 128 >> 4), b + 2 * kk, k | kk);
            }
            wgmma_commit();
            wgmma_wait<1>(); /* the stage before this one has been read */
            if (last >= 0)
                release(&empty[last]);
            last = stage;
            if (++stage == S::stages) {
                stage = 0;
                phase ^= 1;
            }
        }
        wgmma_wait<0>();
        release(&empty[last]);
        last = -1;
        patch p(t, token_pairs, T, rank);
        store<T>(d, h, f, p.row0 / 2 + q * 64 + warp * 16, p.token0, m);
    }
}

template <int T>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    geglu_bf16_sm90(const __grid_constant__ CUtensorMap w_map,
                    const __grid_constant__ CUtensorMap x_map, __nv_bfloat16 *h, int m, int f,
                    int k_blocks, int n_tiles, int token_pairs)
{
    using S = tile<T>;
    extern __shared__ unsigned char raw[];
    unsigned char *ring = (unsigned char *)(((uintptr_t)raw + 1023) & ~(uintptr_t)1023);
    uint64_t *full = (uint64_t *)(ring + S::stages * S::stage_bytes), *empty = full + S::stages;
    uint32_t rank = cluster_ctarank();
    if (threadIdx.x == 0) {
        prefetch_tensormap(&w_map);
        prefetch_tensormap(&x_map);
        for (int i = 0; i < S::stages; i++) {
            mbar_init(&full[i], 1);
            mbar_init(&empty[i], 2 * CLUSTER); /* two consumers in each CTA */
        }
        fence_mbar_init();
    }
    cluster_sync(); /* the peers' barriers exist before anything is sent to them */
    if (threadIdx.x < 128) {
        setmaxnreg_dec<40>();
        if (threadIdx.x == 0)
            produce<T>({ &w_map, &x_map, ring, full, rank }, empty, n_tiles, token_pairs, k_blocks);
    } else {
        setmaxnreg_inc<232>();
        pdl_wait(); /* h may still be read by the kernel before */
        consume<T>(ring, full, empty, n_tiles, token_pairs, k_blocks, rank, h, m, f);
    }
    __syncwarp();
    pdl_launch();
    cluster_sync(); /* nobody leaves while a peer may still arrive at its barriers */
}

/* One block: 256 rows × 64 columns, from turns of 8 gates and 8 ups to the packed order, in place. */
__global__ void repack_rows(uint4 *w, int row_vecs)
{
    __shared__ uint4 part[256][9]; /* 8 vectors of 8 values; a ninth against bank conflicts */
    int row = (int)threadIdx.x;
    uint4 *at = w + ((size_t)blockIdx.x * 256 + row) * row_vecs + blockIdx.y * 8;
#pragma unroll
    for (int i = 0; i < 8; i++)
        part[row][i] = at[i];
    __syncthreads();
    int q = row / 128, b = row / 64 % 2, warp = row / 16 % 4, r = row % 16, c = r % 8;
    int unit = q * 64 + warp * 16 + c / 2 * 4 + 2 * b + c % 2; /* inverse of geglu90_packed_row */
    int from = unit / 8 * 16 + unit % 8 + (r < 8 ? 0 : 8);
#pragma unroll
    for (int i = 0; i < 8; i++)
        at[i] = part[from][i];
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
    int token_pairs = (p->m + CLUSTER * T - 1) / (CLUSTER * T);
    int n_tiles = 2 * p->f / BLOCK_ROWS * token_pairs;
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cfg.gridDim =
        dim3((unsigned)((n_sms / CLUSTER < n_tiles ? n_sms / CLUSTER : n_tiles) * CLUSTER));
    cfg.stream = stream;
    cfg.attrs = &attr;
    cfg.numAttrs = pdl ? 1 : 0;
    return cudaLaunchKernelEx(&cfg, geglu_bf16_sm90<T>, p->w, p->x, (__nv_bfloat16 *)p->h, p->m,
                              p->f, p->k / BLOCK_K, n_tiles, token_pairs);
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

} // namespace

extern "C" int geglu90_supported(int compute_major, int compute_minor, int m, int f, int k)
{
    return compute_major == 9 && compute_minor == 0 && m > 0 && f % 256 == 0 && k % BLOCK_K == 0;
}

extern "C" int geglu90_tile_tokens(int m, int f, int n_sms)
{
    static const int sizes[] = { 136, 168, 200 };
    int best = 0;
    long best_cost = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int pair = CLUSTER * sizes[i];
        long tiles = (long)((m + pair - 1) / pair) * (2 * f / BLOCK_ROWS);
        long waves = (tiles + n_sms / CLUSTER - 1) / (n_sms / CLUSTER);
        long cost = waves * (sizes[i] + 8); /* 8: what a tile costs besides its tokens */
        if (!best || cost < best_cost) {
            best = sizes[i];
            best_cost = cost;
        }
    }
    return best;
}

extern "C" int geglu90_packed_row(int unit, int up)
{
    int in = unit % 128, q = in / 64, w = in / 16 % 4, u = in % 16;
    int c = u / 4 * 2 + u % 2, b = u / 2 % 2;
    return unit / 128 * 256 + q * 128 + b * 64 + w * 16 + (up ? 8 : 0) + c;
}

extern "C" cudaError_t geglu90_pack(void *w, int f, int k, cudaStream_t stream)
{
    repack_rows<<<dim3((unsigned)(2 * f / 256), (unsigned)(k / 64)), 256, 0, stream>>>((uint4 *)w,
                                                                                       k / 8);
    return cudaGetLastError();
}

extern "C" CUresult geglu90_plan(struct geglu90 *plan, tensor_map_encode_fn encode, const void *x,
                                 const void *packed, void *h, int m, int f, int k, int tile_tokens)
{
    memset(plan, 0, sizeof *plan);
    plan->h = h;
    plan->m = m;
    plan->f = f;
    plan->k = k;
    plan->tile_tokens = tile_tokens;
    CUresult r = encode_2d(encode, &plan->w, packed, 2 * f, k, BLOCK_ROWS / CLUSTER);
    return r != CUDA_SUCCESS ? r : encode_2d(encode, &plan->x, x, m, k, tile_tokens);
}

extern "C" cudaError_t geglu90_launch(const struct geglu90 *plan, int n_sms, int pdl,
                                      cudaStream_t stream)
{
    switch (plan->tile_tokens) {
    case 136: return launch<136>(plan, n_sms, pdl, stream);
    case 168: return launch<168>(plan, n_sms, pdl, stream);
    case 200: return launch<200>(plan, n_sms, pdl, stream);
    }
    return cudaErrorInvalidValue;
}
