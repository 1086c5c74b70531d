/* SPDX-License-Identifier: Apache-2.0
 * proj_bf16_sm90: y += x·wᵀ, or parts of it over pieces of K    x, w bf16, y and sums f32
 * Called by: prefix o (M = 532 … 800, N = K = 2048, added to the residual) and down (K = 16384 in two
 *            parts: the first is added to the residual, the second is left to the next RMSNorm).
 * Tiling:    weights on the wgmma M side: a CTA owns 64 weight rows a consumer warpgroup (o one, down
 *            two), T tokens on the N side, K in stages of 64 through a ring of tensor-map copies. A
 *            cluster of two token tiles shares the weights: each fetches half of them for both. One
 *            tile a CTA, all of them at once, at most 128 of them: four processors are left to others.
 *
 *            The ring is full of weights before the predecessor has ended: they are nobody's output.
 *
 *              accumulators of a thread, warp w           in shared memory, 32 rows a panel
 *              d[4j+0,1]: row 16w + lane / 4,             token t at t · 128 bytes, 16-byte chunk c (4
 *                         tokens 8j + 2·(lane % 4), + 1   rows) at c ^ t % 8: no two lanes of a store
 *              d[4j+2,3]: row + 8, the same tokens        meet in a bank
 *
 *            and a tensor-map copy takes a panel to y, or adds it there: one addition to every value.
 * Budget:    M = 532: o 4.5 GFLOP, 8.4 MB of weights; down 36 GFLOP, 67 MB → bound by arithmetic: 5.8
 *            and 46 µs at 773 TFLOP/s.
 * Now:       o 10.6 µs at 536 tokens, 12.7 at 792; down in two parts 51.0 and 71.4 (chains of 18, weights
 *            from memory, values uniform in ±1.7: check_proj_sm90 --bench, NVIDIA H200, 2026-11-23). A k16
 *            step of down takes 136 cycles for T = 136, of o 88 for 68; the clock is 1.53 GHz in it, which
 *            is the card's power limit.
 * Rounding:  none. */
#include "proj_sm90.h"
#include "wgmma_sm90.cuh"

#include <string.h>

using namespace wg90;

namespace
{

constexpr int BLOCK_K = 64, CLUSTER = 2;

template <int GROUPS, int T> struct tile {
    static constexpr int rows = 64 * GROUPS, threads = 128 * (GROUPS + 1);
    static constexpr int w_bytes = rows * BLOCK_K * 2, x_bytes = T * BLOCK_K * 2;
    static constexpr int stage_bytes = w_bytes + x_bytes;
    static constexpr int fit = (232448 - 1280) / stage_bytes;
    static constexpr int stages = fit < 8 ? fit : 8;
    static constexpr int smem = stages * stage_bytes + 1024 + 256;
    static_assert(2 * smem > 233472, "one CTA a processor");
    static_assert(stages * stage_bytes >= rows * T * 4, "room for the results");
};

/* CTA `rank` of a cluster: one of two neighbouring token tiles. Row blocks are fastest. */
struct place {
    int row0, token0, part;
    uint32_t rank;

    __device__ __forceinline__ place(int rows, int row_blocks, int pairs, int tile_tokens)
        : rank(cluster_ctarank())
    {
        int c = (int)blockIdx.x / CLUSTER;
        row0 = c % row_blocks * rows;
        c /= row_blocks;
        token0 = (c % pairs * CLUSTER + (int)rank) * tile_tokens;
        part = c / pairs;
    }
};

template <int GROUPS, int T>
static __device__ __forceinline__ void produce(const CUtensorMap *w_map, const CUtensorMap *x_map,
                                               unsigned char *ring, uint64_t *full, uint64_t *empty,
                                               const place &p, int n)
{
    using S = tile<GROUPS, T>;
    constexpr int HALF = S::rows / 2;
    int own = (int)p.rank * HALF, k0 = p.part * n, stage = 0;
    int early = n < S::stages ? n : S::stages;
    uint32_t phase = 0;
    for (int k = 0; k < early; k++) {
        mbar_expect(&full[k], S::stage_bytes);
        tma_load_2d_multicast(ring + k * S::stage_bytes + own * 128, w_map, &full[k],
                              (k0 + k) * BLOCK_K, p.row0 + own, 3);
    }
    pdl_wait();
    for (int k = 0; k < n; k++) {
        unsigned char *s = ring + stage * S::stage_bytes;
        mbar_wait(&empty[stage], phase ^ 1);
        if (k >= early) {
            mbar_expect(&full[stage], S::stage_bytes);
            tma_load_2d_multicast(s + own * 128, w_map, &full[stage], (k0 + k) * BLOCK_K,
                                  p.row0 + own, 3);
        }
        tma_load_2d(s + S::w_bytes, x_map, &full[stage], (k0 + k) * BLOCK_K, p.token0);
        if (++stage == S::stages) {
            stage = 0;
            phase ^= 1;
        }
    }
}

/* A warpgroup's 64 rows of T tokens: two panels in shared memory. */
template <int T>
static __device__ __forceinline__ void lay_out(const float (&d)[T / 2], unsigned char *out)
{
    int lane = threadIdx.x % 32, warp = (int)threadIdx.x / 32 % 4, t = lane % 4 * 2;
    uint32_t base = smem_u32(out) + warp / 2 * (T * 128) + t * 128 + lane / 4 % 4 * 4, at[4];
#pragma unroll
    for (int i = 0; i < 4; i++) { /* token t + i % 2, row + 8 · (i / 2) */
        int chunk = warp % 2 * 4 + lane / 16 + i / 2 * 2;
        at[i] = base + i % 2 * 128 + (chunk ^ (t + i % 2)) * 16;
    }
#pragma unroll
    for (int j = 0; j < T / 8; j++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            asm volatile("st.shared.f32 [%0], %1;" ::"r"(at[i] + j * 1024), "f"(d[4 * j + i])
                         : "memory");
}

/* tma_store_2d that adds float32. */
static __device__ __forceinline__ void tma_add_2d(const CUtensorMap *map, const void *src, int c0,
                                                  int c1)
{
    asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.bulk_group "
                 "[%0, {%2, %3}], [%1];\n"
                 "cp.async.bulk.commit_group;" ::"l"(map),
                 "r"(smem_u32(src)), "r"(c0), "r"(c1)
                 : "memory");
}

template <int GROUPS, int T>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(tile<GROUPS, T>::threads, 1)
    proj_bf16_sm90(const __grid_constant__ CUtensorMap w_map,
                   const __grid_constant__ CUtensorMap x_map,
                   const __grid_constant__ CUtensorMap y_map,
                   const __grid_constant__ CUtensorMap rest_map, int row_blocks, int pairs,
                   int k_blocks)
{
    using S = tile<GROUPS, T>;
    extern __shared__ unsigned char raw[];
    unsigned char *ring = raw + (-smem_u32(raw) & 1023);
    uint64_t *full = (uint64_t *)(ring + S::stages * S::stage_bytes), *empty = full + S::stages;
    place p(S::rows, row_blocks, pairs, T);
    if (threadIdx.x == 0) {
        prefetch_tensormap(&w_map);
        prefetch_tensormap(&x_map);
        prefetch_tensormap(p.part ? &rest_map : &y_map);
        for (int i = 0; i < S::stages; i++) {
            mbar_init(&full[i], 1);
            mbar_init(&empty[i], GROUPS * CLUSTER);
        }
        fence_mbar_init();
    }
    cluster_sync_relaxed(); /* the peer's barriers exist before anything is sent to them */
    if (threadIdx.x < 128) {
        if (GROUPS > 1)
            setmaxnreg_dec<40>();
        if (threadIdx.x == 0)
            produce<GROUPS, T>(&w_map, &x_map, ring, full, empty, p, k_blocks);
    } else {
        if (GROUPS > 1)
            setmaxnreg_inc<232>();
        int q = (int)threadIdx.x / 128 - 1;
        unsigned char *out = ring + q * (2 * T * 128);
        float d[T / 2];
        int lane = (int)threadIdx.x % 128;
        /* to both writers of this CTA's weights */
        auto release = [&](int stage) {
            if (lane < CLUSTER)
                mbar_arrive_cluster(&empty[stage], (uint32_t)lane);
        };
        ring_product<T, S::stages, S::stage_bytes, S::w_bytes>(d, ring, full, q, k_blocks, release);
        pdl_launch();
        bar_sync(1, 128 * GROUPS); /* all are done with the ring */
        lay_out<T>(d, out);
        fence_proxy_async();
        bar_sync(2 + q, 128);
        if (threadIdx.x % 128 == 0) {
            pdl_wait(); /* y may still be in use by an earlier kernel */
            for (int i = 0; i < 2; i++) {
                int row = p.row0 + q * 64 + i * 32;
                if (p.part == 0)
                    tma_add_2d(&y_map, out + i * (T * 128), row, p.token0);
                else
                    tma_store_2d(&rest_map, out + i * (T * 128), row, p.token0);
            }
            bulk_wait_read();
        }
    }
    /* Nobody is left behind: stages are released only to producers that wait for them, and every CTA
     * waits for all that is sent to it. */
}

template <int GROUPS, int T>
cudaError_t launch(const struct proj90 *p, int pdl, cudaStream_t stream)
{
    using S = tile<GROUPS, T>;
    cudaError_t e = cudaFuncSetAttribute(proj_bf16_sm90<GROUPS, T>,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, S::smem);
    if (e != cudaSuccess)
        return e;
    int row_blocks = p->n / S::rows, pairs = (p->m + CLUSTER * T - 1) / (CLUSTER * T);
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = dim3((unsigned)(row_blocks * pairs * CLUSTER * p->parts));
    cfg.blockDim = dim3(S::threads);
    cfg.dynamicSmemBytes = S::smem;
    cfg.stream = stream;
    cfg.attrs = &attr;
    cfg.numAttrs = pdl ? 1 : 0;
    return cudaLaunchKernelEx(&cfg, proj_bf16_sm90<GROUPS, T>, p->w, p->x, p->y, p->rest,
                              row_blocks, pairs, p->k / p->parts / BLOCK_K);
}

template <int T> cudaError_t launch(const struct proj90 *p, int pdl, cudaStream_t stream)
{
    return p->parts > 1 ? launch<2, T>(p, pdl, stream) : launch<1, T>(p, pdl, stream);
}

/* Weight rows of a CTA. */
int block_rows(int parts) { return 64 * parts; }

CUresult float_map(tensor_map_encode_fn encode, CUtensorMap *map, float *y, int m, int n,
                   int tile_tokens)
{
    cuuint64_t dims[2] = { (cuuint64_t)n, (cuuint64_t)m }, stride[1] = { (cuuint64_t)n * 4 };
    cuuint32_t box[2] = { 32, (cuuint32_t)tile_tokens }, step[2] = { 1, 1 };
    return encode(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, y, dims, stride, box, step,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

} // namespace

extern "C" int proj90_supported(int n, int k, int parts)
{
    return (parts == 1 || parts == 2) && n % block_rows(parts) == 0 && k % (BLOCK_K * parts) == 0;
}

extern "C" int proj90_tile_tokens(int m, int n, int parts, int n_sms)
{
    static const int sizes[] = { 136, 168, 200 };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int pairs = (m + CLUSTER * sizes[i] - 1) / (CLUSTER * sizes[i]);
        if (n / block_rows(parts) * pairs * CLUSTER * parts <= n_sms)
            return sizes[i];
    }
    return 0;
}

extern "C" CUresult proj90_plan(struct proj90 *plan, tensor_map_encode_fn encode, const void *x,
                                const void *w, float *y, float *rest, int m, int n, int k,
                                int parts, int tile_tokens)
{
    memset(plan, 0, sizeof *plan);
    plan->m = m;
    plan->n = n;
    plan->k = k;
    plan->parts = parts;
    plan->tile_tokens = tile_tokens;
    CUresult r = tensor_map_2d(encode, &plan->w, w, n, k, k, block_rows(parts) / CLUSTER);
    if (r == CUDA_SUCCESS)
        r = tensor_map_2d(encode, &plan->x, x, m, k, k, tile_tokens);
    if (r == CUDA_SUCCESS)
        r = float_map(encode, &plan->y, y, m, n, tile_tokens);
    plan->rest = plan->y;
    return r != CUDA_SUCCESS || parts == 1
               ? r
               : float_map(encode, &plan->rest, rest, m, n, tile_tokens);
}

extern "C" cudaError_t proj90_launch(const struct proj90 *plan, int pdl, cudaStream_t stream)
{
    switch (plan->tile_tokens) {
    case 136: return launch<136>(plan, pdl, stream);
    case 168: return launch<168>(plan, pdl, stream);
    case 200: return launch<200>(plan, pdl, stream);
    }
    return cudaErrorInvalidValue;
}
