/* SPDX-License-Identifier: Apache-2.0
 * geglu_bf16_sm90: h[M,F] = gelu_tanh(x·gateᵀ) ⊙ (x·upᵀ)    x, weights bf16, sums f32, h bf16
 * Called by: prefix MLP (M = 532 … 968, F = 16384, K = 2048).
 * Tiling:    weights on the wgmma M side: a CTA owns 256 packed rows (128 hidden units), two consumer
 *            warpgroups of 128 rows each, T tokens on the N side. One producer warp fills a ring of
 *            K = 64 stages by tensor-map copies. A cluster of two CTAs shares its token tile: each
 *            loads half and multicasts it. Persistent over tiles, tokens fastest, so that a weight
 *            slice is read from memory once.
 *
 *              packed rows of a CTA                     accumulators of a thread
 *              warpgroup q, block b, warp w, row r       d[4j+0,1]: gate, tokens 8j+2t, +1
 *              r < 8: gate, r ≥ 8: up                    d[4j+2,3]: up, the same tokens
 *              unit = 64q + 16w + 4((r%8)/2) + 2b + (r%2)
 *
 *            so gelu(gate)·up needs no exchange, and after an 8×8 transpose in registers a thread
 *            holds four neighbouring units of one token: 8-byte stores, whole 32-byte sectors.
 * Budget:    M = 788: 105.8 GFLOP, 134 MB of weights → bound by arithmetic.
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
    static constexpr int first_rows = (T / 2 + 7) / 8 * 8; /* CTA 0's part of the token tile */
    static constexpr int w_bytes = BLOCK_ROWS * BLOCK_K * 2;
    static constexpr int x_bytes = T * BLOCK_K * 2;
    static constexpr int stage_bytes = w_bytes + x_bytes;
    static constexpr int stages = (232448 - 2048) / stage_bytes;
    static constexpr int smem = stages * stage_bytes + 1024 + 256;
};

template <int T> static __device__ __forceinline__ void mma(float (&d)[T / 2], uint64_t a,
                                                            uint64_t b, int accumulate);
#define MMA(N)                                                                                     \
    template <>                                                                                    \
    __device__ __forceinline__ void mma<N>(float(&d)[N / 2], uint64_t a, uint64_t b,               \
                                           int accumulate)                                         \
    {                                                                                              \
        wgmma_ss_n##N(d, a, b, accumulate);                                                        \
    }
MMA(128)
MMA(136)
MMA(160)
MMA(184)
MMA(200)
#undef MMA

/* gelu_tanh(g)·u with tanh through its exponential: 0.5(1 + tanh z) = 1 / (1 + exp(-2z)),
 * z = sqrt(2/π)(g + 0.044715 g³). The factor folds -2·sqrt(2/π)·log2(e). */
static __device__ __forceinline__ float geglu(float g, float u)
{
    float z = g * (-2.302208198f - 0.102943240f * g * g);
    return __fdividef(g * u, 1.0f + ex2(z));
}

template <int T>
static __device__ __forceinline__ void produce(const CUtensorMap &w_map, const CUtensorMap &x_first,
                                               const CUtensorMap &x_second, unsigned char *ring,
                                               uint64_t *full, uint64_t *empty, int n_tiles,
                                               int token_tiles, int k_blocks, uint32_t rank)
{
    using S = tile<T>;
    int stage = 0;
    uint32_t phase = 0;
    int early = 1; /* the first ring of weights is asked for before the predecessor has finished */
    for (int t = (int)(blockIdx.x / CLUSTER); t < n_tiles; t += (int)(gridDim.x / CLUSTER)) {
        int row0 = ((t / token_tiles) * CLUSTER + (int)rank) * BLOCK_ROWS;
        int token0 = t % token_tiles * T;
        const CUtensorMap *x_map = rank ? &x_second : &x_first;
        int x_rows0 = rank ? S::first_rows : 0;
        int done = 0;
        if (early) {
            done = k_blocks < S::stages ? k_blocks : S::stages;
            for (int k = 0; k < done; k++) {
                mbar_expect(&full[k], S::stage_bytes);
                tma_load_2d(ring + k * S::stage_bytes, &w_map, &full[k], k * BLOCK_K, row0);
            }
            pdl_wait();
            for (int k = 0; k < done; k++)
                tma_load_2d_multicast(ring + k * S::stage_bytes + S::w_bytes + x_rows0 * 128, x_map,
                                      &full[k], k * BLOCK_K, token0 + x_rows0, 3);
            early = 0;
            stage = done % S::stages;
            phase = done / S::stages;
        }
        for (int k = done; k < k_blocks; k++) {
            mbar_wait_cluster(&empty[stage], phase ^ 1);
            unsigned char *s = ring + stage * S::stage_bytes;
            mbar_expect(&full[stage], S::stage_bytes);
            tma_load_2d(s, &w_map, &full[stage], k * BLOCK_K, row0);
            tma_load_2d_multicast(s + S::w_bytes + x_rows0 * 128, x_map, &full[stage], k * BLOCK_K,
                                  token0 + x_rows0, 3);
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
#pragma unroll
    for (int j = 0; j < T / 8; j++) {
        uint32_t v[2];
#pragma unroll
        for (int b = 0; b < 2; b++)
            v[b] = movmatrix(pack_bf16(geglu(d[b][4 * j], d[b][4 * j + 2]),
                                       geglu(d[b][4 * j + 1], d[b][4 * j + 3])));
        if (token0 + 8 * j + lane / 4 < m)
            *(uint2 *)(p + (size_t)(8 * j) * f) = make_uint2(v[0], v[1]);
    }
}

template <int T>
static __device__ __forceinline__ void consume(unsigned char *ring, uint64_t *full, uint64_t *empty,
                                               int n_tiles, int token_tiles, int k_blocks,
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
            if (last >= 0 && threadIdx.x % 128 < CLUSTER)
                mbar_arrive_cluster(&empty[last], threadIdx.x % 128);
            last = stage;
            if (++stage == S::stages) {
                stage = 0;
                phase ^= 1;
            }
        }
        wgmma_wait<0>();
        if (threadIdx.x % 128 < CLUSTER)
            mbar_arrive_cluster(&empty[last], threadIdx.x % 128);
        last = -1;
        int unit0 = ((t / token_tiles) * CLUSTER + (int)rank) * (BLOCK_ROWS / 2) + q * 64 + warp * 16;
        store<T>(d, h, f, unit0, t % token_tiles * T, m);
    }
}

template <int T>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    geglu_bf16_sm90(const __grid_constant__ CUtensorMap w_map,
                    const __grid_constant__ CUtensorMap x_first,
                    const __grid_constant__ CUtensorMap x_second, __nv_bfloat16 *h, int m, int f,
                    int k_blocks, int n_tiles, int token_tiles)
{
    using S = tile<T>;
    extern __shared__ unsigned char raw[];
    unsigned char *ring = (unsigned char *)(((uintptr_t)raw + 1023) & ~(uintptr_t)1023);
    uint64_t *full = (uint64_t *)(ring + S::stages * S::stage_bytes), *empty = full + S::stages;
    uint32_t rank = cluster_ctarank();
    if (threadIdx.x == 0) {
        prefetch_tensormap(&w_map);
        prefetch_tensormap(rank ? &x_second : &x_first);
        for (int i = 0; i < S::stages; i++) {
            mbar_init(&full[i], 1);
            mbar_init(&empty[i], 2 * CLUSTER);
        }
        fence_mbar_init();
    }
    cluster_sync(); /* the peer's barriers exist before anything is sent to it */
    if (threadIdx.x < 128) {
        setmaxnreg_dec<40>();
        if (threadIdx.x == 0)
            produce<T>(w_map, x_first, x_second, ring, full, empty, n_tiles, token_tiles, k_blocks,
                       rank);
    } else {
        setmaxnreg_inc<232>();
        pdl_wait(); /* h may still be read by the kernel before */
        consume<T>(ring, full, empty, n_tiles, token_tiles, k_blocks, rank, h, m, f);
    }
    __syncwarp();
    pdl_launch();
    cluster_sync(); /* nobody leaves while the peer may still arrive at its barriers */
}

__global__ void pack_rows(uint4 *packed, const uint4 *gate, const uint4 *up, int f, int vec)
{
    int row = (int)blockIdx.x; /* packed row; inverse of geglu90_packed_row */
    int in = row % 256, q = in / 128, b = in / 64 % 2, w = in / 16 % 4, r = in % 16, c = r % 8;
    int unit = row / 256 * 128 + q * 64 + w * 16 + c / 2 * 4 + 2 * b + c % 2;
    const uint4 *src = (r < 8 ? gate : up) + (size_t)unit * vec;
    for (int i = (int)threadIdx.x; i < vec; i += (int)blockDim.x)
        packed[(size_t)row * vec + i] = src[i];
}

template <int T> cudaError_t launch(const struct geglu90 *p, int n_sms, int pdl, cudaStream_t stream)
{
    auto kernel = geglu_bf16_sm90<T>;
    cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         tile<T>::smem);
    if (e != cudaSuccess)
        return e;
    int token_tiles = (p->m + T - 1) / T, n_tiles = 2 * p->f / (BLOCK_ROWS * CLUSTER) * token_tiles;
    int clusters = n_sms / CLUSTER < n_tiles ? n_sms / CLUSTER : n_tiles;
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = dim3((unsigned)(clusters * CLUSTER));
    cfg.blockDim = dim3(THREADS);
    cfg.dynamicSmemBytes = tile<T>::smem;
    cfg.stream = stream;
    cfg.attrs = &attr;
    cfg.numAttrs = pdl ? 1 : 0;
    return cudaLaunchKernelEx(&cfg, kernel, p->w, p->x_first, p->x_second, (__nv_bfloat16 *)p->h,
                              p->m, p->f, p->k / BLOCK_K, n_tiles, token_tiles);
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
    static const int sizes[] = { 128, 136, 160, 184, 200 };
    int best = 0;
    long best_cost = 0;
    for (int i = 0; i < 5; i++) {
        long tiles = (long)((m + sizes[i] - 1) / sizes[i]) * (2 * f / (BLOCK_ROWS * CLUSTER));
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

extern "C" cudaError_t geglu90_pack(void *packed, const void *gate, const void *up, int f, int k,
                                    cudaStream_t stream)
{
    pack_rows<<<2 * f, 128, 0, stream>>>((uint4 *)packed, (const uint4 *)gate, (const uint4 *)up, f,
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
    int first = (tile_tokens / 2 + 7) / 8 * 8;
    CUresult r = encode_2d(encode, &plan->w, packed, 2 * f, k, BLOCK_ROWS);
    if (r == CUDA_SUCCESS)
        r = encode_2d(encode, &plan->x_first, x, m, k, first);
    if (r == CUDA_SUCCESS)
        r = encode_2d(encode, &plan->x_second, x, m, k, tile_tokens - first);
    return r;
}

extern "C" cudaError_t geglu90_launch(const struct geglu90 *plan, int n_sms, int pdl,
                                      cudaStream_t stream)
{
    switch (plan->tile_tokens) {
    case 128: return launch<128>(plan, n_sms, pdl, stream);
    case 136: return launch<136>(plan, n_sms, pdl, stream);
    case 160: return launch<160>(plan, n_sms, pdl, stream);
    case 184: return launch<184>(plan, n_sms, pdl, stream);
    case 200: return launch<200>(plan, n_sms, pdl, stream);
    }
    return cudaErrorInvalidValue;
}
