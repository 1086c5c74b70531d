/* SPDX-License-Identifier: Apache-2.0
 * qkv_bf16_sm90: q, k, v = x·wqkvᵀ, q and k turned by RoPE, k and v into the cache    bf16, sums f32
 * Called by: prefix layers but the last (M = 532 … 968, N = 10 heads of 256, K = 2048).
 * Tiling:    weights on the wgmma M side: a CTA owns half a head, 64 values e and their partners
 *            e + 128 in turns of 8 rows, two consumer warpgroups of 64 rows each, T tokens on the N side.
 *            A cluster of two: two token tiles that share the weights, each fetching half of them for
 *            both. One tile a CTA, all of them at once; 60 clusters leave room for four processors' work.
 *
 *              packed rows of a CTA                     accumulators of a thread
 *              warpgroup q, warp w, row r               d[4j+0,1]: value e, tokens 8j+2t, +1
 *              r < 8: e = 64·half + 32q + 8w + r        d[4j+2,3]: value e + 128, the same tokens
 *              r ≥ 8: e + 128
 *
 *            so a pair turns inside a thread. The tensor map has five dimensions (K, row of 8, half,
 *            turn, head), so the weights stay as they are. The angles of a thread's tokens are fetched
 *            to registers before the product; what is stored leaves through shared memory in whole lines.
 * Budget:    M = 788: 8.3 GFLOP, 10.5 MB of weights → bound by arithmetic: 11 µs at 773 TFLOP/s.
 * Now:       15.1 µs at 792 tokens, 12.7 at 536, 18.1 at 968, weights from memory (check_qkv_sm90 --bench,
 *            NVIDIA H200, 2026-11-22); cuBLASLt without RoPE and the write 14.4, 10.7, 17.3 (bench_gemm).
 * Rounding:  one, at the store. */
#include "qkv_sm90.h"
#include "wgmma_sm90.cuh"

#include <string.h>

using namespace wg90;

namespace
{

constexpr int E = 256, BLOCK_ROWS = 128, BLOCK_K = 64, THREADS = 384, CLUSTER = 2;
constexpr int EARLY = 2; /* stages of weights asked for before the predecessor has finished */

template <int T> struct tile {
    static constexpr int w_bytes = BLOCK_ROWS * BLOCK_K * 2, x_bytes = T * BLOCK_K * 2;
    static constexpr int stage_bytes = w_bytes + x_bytes;
    static constexpr int stores = (T * 16 + 255) / 256; /* of 16 bytes a thread */
    static constexpr int stages = (232448 - 1280) / stage_bytes;
    static constexpr int smem = stages * stage_bytes + 1024 + 256;
};

struct args {
    const struct cu_row *rows;
    const float2 *cos_sin; /* [positions, E/2] */
    __nv_bfloat16 *q, *k, *v;
    int m, heads, k_blocks;
};

static __device__ __forceinline__ void tma_load_5d_multicast(void *dst, const CUtensorMap *map,
                                                             uint64_t *bar, int c0, int c3, int c4,
                                                             uint16_t mask)
{
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster [%0], [%1, {%3, %4, %4, %5, %6}], [%2], %7;" ::"r"(smem_u32(dst)),
        "l"(map), "r"(smem_u32(bar)), "r"(c0), "r"(0), "r"(c3), "r"(c4), "h"(mask)
        : "memory");
}

/* CTA `rank` of a cluster: half a head, one of two neighbouring token tiles. Halves of heads are fastest. */
struct place {
    int head, half, token0;
    uint32_t rank;

    __device__ __forceinline__ place(int heads, int tile_tokens) : rank(cluster_ctarank())
    {
        int c = (int)blockIdx.x / CLUSTER, n = 2 * (heads + 2);
        head = c % n / 2;
        half = c % 2;
        token0 = (c / n * CLUSTER + (int)rank) * tile_tokens;
    }
};

template <int T> struct producer {
    using S = tile<T>;
    const CUtensorMap *w_map, *x_map;
    unsigned char *ring;
    uint64_t *full, *empty;

    /* Half of the rows, to both. */
    __device__ __forceinline__ void weights(int stage, int k, const place &p) const
    {
        tma_load_5d_multicast(ring + stage * S::stage_bytes + (int)p.rank * 64 * 128, w_map,
                              &full[stage], k * BLOCK_K, p.half * 8 + (int)p.rank * 4, p.head, 3);
    }
    __device__ __forceinline__ void tokens(int stage, int k, const place &p) const
    {
        tma_load_2d(ring + stage * S::stage_bytes + S::w_bytes, x_map, &full[stage], k * BLOCK_K,
                    p.token0);
    }
    __device__ __forceinline__ void run(const place &p, int n) const
    {
        int early = n < EARLY ? n : EARLY, stage = 0;
        uint32_t phase = 0;
        for (int k = 0; k < early; k++) {
            mbar_expect(&full[k], S::stage_bytes);
            weights(k, k, p);
        }
        pdl_wait();
        for (int k = 0; k < n; k++) {
            mbar_wait(&empty[stage], phase ^ 1);
            if (k >= early) {
                mbar_expect(&full[stage], S::stage_bytes);
                weights(stage, k, p);
            }
            tokens(stage, k, p);
            if (++stage == S::stages) {
                stage = 0;
                phase ^= 1;
            }
        }
    }
};

/* Positions of this thread's tokens 8j + 2t and + 1, then the angles of value e there: two steps, so that
 * a whole row of loads is on its way at once, twice. Rows past m take the last one's. v is not turned. */
template <int T>
static __device__ __forceinline__ void load_positions(int (&pos)[T / 4], const args &g,
                                                      const place &p)
{
    int t0 = p.token0 + (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < T / 4; i++)
        pos[i] = __ldg(&g.rows[min(t0 + i / 2 * 8 + i % 2, g.m - 1)].pos);
}
template <int T>
static __device__ __forceinline__ void load_angles(float2 (&c)[T / 4], const int (&pos)[T / 4],
                                                   const args &g, const place &p, int e)
{
    if (p.head > g.heads) {
#pragma unroll
        for (int i = 0; i < T / 4; i++)
            c[i] = make_float2(1.f, 0.f);
        return;
    }
#pragma unroll
    for (int i = 0; i < T / 4; i++)
        c[i] = __ldg(g.cos_sin + (size_t)pos[i] * (E / 2) + e);
}

/* Turns the pairs and leaves them in shared memory: values e … of 64, then their partners, a token a
 * row of 128 bytes, 16-byte chunk c of token r at c ^ r % 8. stmatrix turns a fragment, values by
 * tokens, into rows of tokens. */
template <int T>
static __device__ __forceinline__ void turn(const float (&d)[T / 2], const float2 (&c)[T / 4],
                                            unsigned char *out)
{
    int lane = threadIdx.x % 32, chunk = (int)threadIdx.x / 32 - 4, row = lane % 8;
    uint32_t at = smem_u32(out) + lane / 8 % 2 * (T * 128) + (lane / 16 * 8 + row) * 128 +
                  ((chunk ^ row) * 16);
    uint32_t v[T / 8][2];
#pragma unroll
    for (int j = 0; j < T / 8; j++) {
        float lo[2], hi[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float x = d[4 * j + i], y = d[4 * j + 2 + i];
            float2 a = c[2 * j + i];
            lo[i] = x * a.x - y * a.y;
            hi[i] = y * a.x + x * a.y;
        }
        v[j][0] = pack_bf16(lo[0], lo[1]);
        v[j][1] = pack_bf16(hi[0], hi[1]);
    }
#pragma unroll
    for (int j = 0; j < T / 8; j += 2) {
        if (j + 1 < T / 8)
            stmatrix4_trans(at + j * 1024, v[j][0], v[j][1], v[j + 1][0], v[j + 1][1]);
        else
            stmatrix2_trans(at + j * 1024, v[j][0], v[j][1]);
    }
}

/* The rows that this thread stores, of q or of the cache; -1: none. */
template <int T>
static __device__ __forceinline__ void load_places(int (&to)[tile<T>::stores], const args &g,
                                                   const place &p)
{
#pragma unroll
    for (int n = 0; n < tile<T>::stores; n++) {
        int r = n * 32 + ((int)threadIdx.x - 128) / 8, row = p.token0 + r % T;
        to[n] = r < 2 * T && row < g.m ? row : -1;
        if (to[n] >= 0 && p.head >= g.heads)
            to[n] = __ldg(&g.rows[row].cache);
    }
}

/* Shared memory → q, or k and v in the cache, whole lines. */
template <int T>
static __device__ __forceinline__ void
store(const unsigned char *out, const int (&to)[tile<T>::stores], const args &g, const place &p)
{
    __nv_bfloat16 *base = p.head < g.heads ? g.q + p.head * E : p.head == g.heads ? g.k : g.v;
    size_t pitch = (size_t)(p.head < g.heads ? g.heads : 1) * E;
    int i = (int)threadIdx.x - 128, chunk = i % 8;
#pragma unroll
    for (int n = 0; n < tile<T>::stores; n++) {
        int r = n * 32 + i / 8;
        if (to[n] >= 0)
            *(uint4 *)(base + to[n] * pitch + r / T * (E / 2) + p.half * 64 + chunk * 8) =
                *(const uint4 *)(out + r * 128 + ((chunk ^ r % T % 8) * 16));
    }
}

template <int T>
__global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1)
    qkv_bf16_sm90(const __grid_constant__ CUtensorMap w_map,
                  const __grid_constant__ CUtensorMap x_map, const args g)
{
    using S = tile<T>;
    extern __shared__ unsigned char raw[];
    unsigned char *ring = raw + (-smem_u32(raw) & 1023);
    uint64_t *full = (uint64_t *)(ring + S::stages * S::stage_bytes), *empty = full + S::stages;
    place p(g.heads, T);
    int pos[T / 4];
    load_positions<T>(pos, g, p); /* no kernel before this one writes them */
    if (threadIdx.x == 0) {
        prefetch_tensormap(&w_map);
        prefetch_tensormap(&x_map);
        for (int i = 0; i < S::stages; i++) {
            mbar_init(&full[i], 1);
            mbar_init(&empty[i], 2 * CLUSTER); /* two consumers in each CTA */
        }
        fence_mbar_init();
    }
    cluster_sync_relaxed(); /* the peers' barriers exist before anything is sent to them */
    if (threadIdx.x < 128) {
        setmaxnreg_dec<40>();
        if (threadIdx.x == 0)
            producer<T>{ &w_map, &x_map, ring, full, empty }.run(p, g.k_blocks);
    } else {
        setmaxnreg_inc<232>();
        int q = (int)threadIdx.x / 128 - 1;
        int e = p.half * 64 + q * 32 + (int)threadIdx.x / 32 % 4 * 8;
        float d[T / 2];
        float2 c[T / 4];
        int to[tile<T>::stores];
        load_angles<T>(c, pos, g, p, e + (int)threadIdx.x % 32 / 4);
        load_places<T>(to, g, p);
        /* to both writers of this CTA's weights */
        auto release = [&](int stage) {
            int i = (int)threadIdx.x % 128;
            if (i < CLUSTER)
                mbar_arrive_cluster(&empty[stage], (uint32_t)i);
        };
        ring_product<T, S::stages, S::stage_bytes, S::w_bytes>(d, ring, full, q, g.k_blocks,
                                                               release);
        bar_sync(1, 256); /* both are done with the ring */
        turn<T>(d, c, ring);
        pdl_wait(); /* q may still be read by an earlier kernel */
        pdl_launch();
        bar_sync(1, 256);
        store<T>(ring, to, g, p);
    }
    /* Nobody is left behind: stages are released only to producers that wait for them, and every CTA
     * waits for all that is sent to it. */
}

template <int T> cudaError_t launch(const struct qkv90 *p, int pdl, cudaStream_t stream)
{
    cudaError_t e = cudaFuncSetAttribute(
        qkv_bf16_sm90<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, tile<T>::smem);
    if (e != cudaSuccess)
        return e;
    args g = {};
    g.rows = p->out.rows;
    g.cos_sin = (const float2 *)p->out.cos_sin;
    g.q = (__nv_bfloat16 *)p->out.q;
    g.k = (__nv_bfloat16 *)p->out.k;
    g.v = (__nv_bfloat16 *)p->out.v;
    g.m = p->m;
    g.heads = p->out.heads;
    g.k_blocks = p->k / BLOCK_K;
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    int pairs = (p->m + CLUSTER * T - 1) / (CLUSTER * T);
    cfg.gridDim = dim3((unsigned)(pairs * (p->out.heads + 2) * 2 * CLUSTER));
    cfg.blockDim = dim3(THREADS);
    cfg.dynamicSmemBytes = tile<T>::smem;
    cfg.stream = stream;
    cfg.attrs = &attr;
    cfg.numAttrs = pdl ? 1 : 0;
    return cudaLaunchKernelEx(&cfg, qkv_bf16_sm90<T>, p->w, p->x, g);
}

} // namespace

extern "C" int qkv90_tile_tokens(int m, int heads, int n_sms)
{
    static const int sizes[] = { 96, 136, 168 };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int pairs = (m + CLUSTER * sizes[i] - 1) / (CLUSTER * sizes[i]);
        if (pairs * (heads + 2) * 2 * CLUSTER <= n_sms)
            return sizes[i];
    }
    return 0;
}

extern "C" CUresult qkv90_plan(struct qkv90 *plan, tensor_map_encode_fn encode, const void *x,
                               const void *w, const struct cu_rope *out, int k, int tile_tokens)
{
    memset(plan, 0, sizeof *plan);
    plan->out = *out;
    plan->m = out->n_rows;
    plan->k = k;
    plan->tile_tokens = tile_tokens;
    cuuint64_t row = (cuuint64_t)k * 2, heads = (cuuint64_t)out->heads + 2;
    cuuint32_t step[5] = { 1, 1, 1, 1, 1 };
    cuuint64_t w_dims[5] = { (cuuint64_t)k, 8, 2, E / 16, heads };
    cuuint64_t w_stride[4] = { row, row * (E / 2), row * 8, row * E };
    cuuint32_t w_box[5] = { BLOCK_K, 8, 2, 4, 1 };
    CUresult r =
        encode(&plan->w, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, (void *)(uintptr_t)w, w_dims,
               w_stride, w_box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    cuuint64_t x_dims[2] = { (cuuint64_t)k, (cuuint64_t)plan->m }, x_stride[1] = { row };
    cuuint32_t x_box[2] = { BLOCK_K, (cuuint32_t)tile_tokens };
    return r != CUDA_SUCCESS
               ? r
               : encode(&plan->x, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)(uintptr_t)x, x_dims,
                        x_stride, x_box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

extern "C" cudaError_t qkv90_launch(const struct qkv90 *plan, int pdl, cudaStream_t stream)
{
    switch (plan->tile_tokens) {
    case 96: return launch<96>(plan, pdl, stream);
    case 136: return launch<136>(plan, pdl, stream);
    case 168: return launch<168>(plan, pdl, stream);
    }
    return cudaErrorInvalidValue;
}
