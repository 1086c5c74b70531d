/* SPDX-License-Identifier: Apache-2.0
 * attn_bf16_sm90: o = softmax(q·kᵀ·scale)·v, head size 256, one K/V head   bf16 in and out, f32 inside
 * Called by: prefix attention (rows = tokens · 8 heads against 532 … 968 keys).
 * Tiling:    128 query rows a CTA, 64 a consumer warpgroup; keys in blocks of 64 through a ring of
 *            two K and two V blocks that both warpgroups read. S = q·kᵀ from shared memory; P stays in
 *            registers; V is the MN-major operand, so it is used as it lies. A cluster of 1 … 4 CTAs
 *            splits the keys of one row tile and adds its parts through distributed shared memory,
 *            in rank order: the same bits every run.
 *
 *              block i:   S_i = q·k_i ──► softmax_i ──────────┐
 *              tensor:    [ S_i ][ O += P_{i-1}·v_{i-1}  ]     the product runs under the softmax
 *
 * Budget:    788 tokens: 5.1 GFLOP, 7.3 MB → bound by arithmetic; 6.6 µs at 773 TFLOP/s.
 * Now:       18.8 µs at 788 tokens (keys over 2 CTAs), 13.8 at 532 (3), 20.3 at 968 (2), 100 at 8 × 788
 *            (407 TFLOP/s): check_attn_sm90 --bench, NVIDIA H200, 2026-11-22.
 * Rounding:  P to bf16, o to bf16. */
#include "attn_sm90.h"
#include "wgmma_sm90.cuh"

#include <string.h>

using namespace wg90;

namespace
{

constexpr int E = 256, ROWS = 128, KEYS = 64, RING = 2, THREADS = 384;
constexpr int Q_BYTES = ROWS * E * 2, KV_BYTES = KEYS * E * 2;
constexpr int O_STRIDE = 264; /* floats a row of the exchange: rows start 8 banks apart */
constexpr int RING_BYTES = Q_BYTES + 2 * RING * KV_BYTES;
constexpr int PARTS_BYTES = ROWS * O_STRIDE * 4 + 2 * ROWS * 4;
constexpr int SMEM = (RING_BYTES > PARTS_BYTES ? RING_BYTES : PARTS_BYTES) + 1024 + 256;

struct bars {
    uint64_t q, k_full[RING], k_empty[RING], v_full[RING], v_empty[RING];
};

/* MN-major operand with 128-byte rows of 64 columns: blocks of 64 columns are KEYS · 128 bytes apart
 * (leading offset), groups of 8 keys 1024 bytes (stride offset). */
static __device__ __forceinline__ uint64_t desc_mn128(const void *p)
{
    uint64_t a = smem_u32(p);
    return ((a & 0x3FFFF) >> 4) | ((uint64_t)(KEYS * 128 >> 4) << 16) |
           ((uint64_t)(1024 >> 4) << 32) | ((uint64_t)1 << 62);
}

static __device__ __forceinline__ void load_block(unsigned char *dst, const CUtensorMap *map,
                                                  uint64_t *bar, int row, int rows)
{
    mbar_expect(bar, (uint32_t)(rows * E * 2));
#pragma unroll
    for (int c = 0; c < 4; c++)
        tma_load_2d(dst + c * rows * 128, map, bar, c * 64, row);
}

static __device__ __forceinline__ void produce(const CUtensorMap &q, const CUtensorMap &k,
                                               const CUtensorMap &v, unsigned char *smem, bars *b,
                                               int q_row, int kv_row, int first, int last)
{
    unsigned char *ks = smem + Q_BYTES, *vs = ks + RING * KV_BYTES;
    if (last > first)
        load_block(smem, &q, &b->q, q_row, ROWS);
    for (int i = first; i < last; i++) {
        int s = (i - first) % RING, phase = (i - first) / RING & 1;
        mbar_wait(&b->k_empty[s], phase ^ 1);
        load_block(ks + s * KV_BYTES, &k, &b->k_full[s], kv_row + i * KEYS, KEYS);
        mbar_wait(&b->v_empty[s], phase ^ 1);
        load_block(vs + s * KV_BYTES, &v, &b->v_full[s], kv_row + i * KEYS, KEYS);
    }
}

/* s[64 rows][64 keys] = q·kᵀ of one block, committed as one group. */
static __device__ __forceinline__ void issue_scores(float (&s)[32], const unsigned char *q,
                                                    const unsigned char *k)
{
    wgmma_fence();
#pragma unroll
    for (int c = 0; c < 4; c++)
#pragma unroll
        for (int kk = 0; kk < 4; kk++)
            wgmma_ss_n64(s, desc_k128(q + c * ROWS * 128) + 2 * kk,
                         desc_k128(k + c * KEYS * 128) + 2 * kk, c | kk);
    wgmma_commit();
}

static __device__ __forceinline__ void issue_values(float (&o)[128], const uint32_t (&p)[4][4],
                                                    const unsigned char *v)
{
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < 4; kk++) /* 16 keys a step */
        wgmma_rs_n256<1>(o, p[kk], desc_mn128(v + kk * 16 * 128), 1);
    wgmma_commit();
}

/* Running softmax of two rows a thread (lane/4 and +8). m and l in units of log2. */
struct rows {
    float m[2], l[2], rescale[2];
};

static __device__ __forceinline__ void softmax(float (&s)[32], rows &r, int key0, int n_valid,
                                               float scale_log2)
{
    int lane = threadIdx.x % 32;
    if (key0 + KEYS > n_valid) {
#pragma unroll
        for (int j = 0; j < 32; j++)
            if (key0 + j / 4 * 8 + lane % 4 * 2 + j % 2 >= n_valid)
                s[j] = -INFINITY;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float m = r.m[h];
#pragma unroll
        for (int j = 0; j < 8; j++)
            m = fmaxf(m, fmaxf(s[4 * j + 2 * h], s[4 * j + 2 * h + 1]));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
        m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
        float base = m == -INFINITY ? 0.0f : m * scale_log2; /* nothing valid yet */
        r.rescale[h] = ex2(r.m[h] * scale_log2 - base);
        r.m[h] = m;
        float sum = 0;
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float &x = s[4 * j + 2 * h + i];
                x = ex2(fmaf(x, scale_log2, -base));
                sum += x;
            }
        r.l[h] = r.l[h] * r.rescale[h] + sum;
    }
}

static __device__ __forceinline__ void pack_p(uint32_t (&p)[4][4], const float (&s)[32])
{
#pragma unroll
    for (int kk = 0; kk < 4; kk++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            p[kk][i] = pack_bf16(s[8 * kk + 2 * i], s[8 * kk + 2 * i + 1]);
}

static __device__ __forceinline__ void release(uint64_t *bar)
{
    if (threadIdx.x % 128 == 0)
        mbar_arrive(bar);
}

static __device__ __forceinline__ void attend(float (&o)[128], rows &r, unsigned char *smem,
                                              bars *b, int q, int first, int last, int n_valid,
                                              float scale_log2)
{
    const unsigned char *qs = smem + q * 64 * 128, *ks = smem + Q_BYTES, *vs = ks + RING * KV_BYTES;
    float s[32];
    uint32_t p[4][4];
    if (last <= first)
        return;
    mbar_wait(&b->q, 0);
    mbar_wait(&b->k_full[0], 0);
    issue_scores(s, qs, ks);
    wgmma_wait<0>();
    release(&b->k_empty[0]);
    softmax(s, r, first * KEYS, n_valid, scale_log2);
    pack_p(p, s);
    for (int i = 1; i < last - first; i++) {
        int slot = i % RING, before = (i - 1) % RING;
        mbar_wait(&b->k_full[slot], i / RING & 1);
        mbar_wait(&b->v_full[before], (i - 1) / RING & 1);
        issue_scores(s, qs, ks + slot * KV_BYTES);
        issue_values(o, p, vs + before * KV_BYTES);
        wgmma_wait<1>();
        release(&b->k_empty[slot]);
        softmax(s, r, (first + i) * KEYS, n_valid, scale_log2);
        wgmma_wait<0>();
        release(&b->v_empty[before]);
#pragma unroll
        for (int j = 0; j < 128; j++)
            o[j] *= r.rescale[j / 2 % 2];
        pack_p(p, s);
    }
    int end = last - first - 1;
    mbar_wait(&b->v_full[end % RING], end / RING & 1);
    issue_values(o, p, vs + end % RING * KV_BYTES);
    wgmma_wait<0>();
#pragma unroll
    for (int h = 0; h < 2; h++) {
        r.l[h] += __shfl_xor_sync(~0u, r.l[h], 1);
        r.l[h] += __shfl_xor_sync(~0u, r.l[h], 2);
    }
}

/* Without a split a thread's own rows are complete. */
static __device__ __forceinline__ void store_rows(const float (&o)[128], const rows &r,
                                                  __nv_bfloat16 *out, int row, int n_rows)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (row + 8 * h >= n_rows)
            continue;
        float inv = 1.0f / r.l[h];
        uint32_t *p = (uint32_t *)(out + (size_t)(row + 8 * h) * E) + lane % 4;
#pragma unroll
        for (int j = 0; j < 32; j++)
            p[4 * j] = pack_bf16(o[4 * j + 2 * h] * inv, o[4 * j + 2 * h + 1] * inv);
    }
}

/* Parts of all CTAs of the cluster → rows of the output; CTA `rank` finishes every split-th row. */
static __device__ __forceinline__ void combine(unsigned char *smem, __nv_bfloat16 *out, int row0,
                                               int n_rows, int split, uint32_t rank)
{
    uint32_t base = smem_u32(smem), part[4];
#pragma unroll
    for (int c = 0; c < 4; c++)
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                     : "=r"(part[c])
                     : "r"(base), "r"(c < split ? c : 0));
    int warp = (int)threadIdx.x / 32 - 4,
        lane = threadIdx.x % 32; /* 8 consumer warps, a row each */
    for (int row = warp * split + (int)rank; row < ROWS; row += 8 * split) {
        if (row0 + row >= n_rows)
            continue;
        float m[4], l[4], top = -INFINITY, sum = 0;
        float acc[8] = { 0 };
#pragma unroll
        for (int c = 0; c < 4; c++)
            if (c < split) {
                uint32_t at = part[c] + ROWS * O_STRIDE * 4 + row * 8;
                asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];"
                             : "=f"(m[c]), "=f"(l[c])
                             : "r"(at));
                top = fmaxf(top, m[c]);
            }
#pragma unroll
        for (int c = 0; c < 4; c++)
            if (c < split) {
                float w = m[c] == -INFINITY ? 0.0f : ex2(m[c] - top);
                sum += l[c] * w;
                uint32_t at = part[c] + (row * O_STRIDE + lane * 4) * 4;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float x[4];
                    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                                 : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                                 : "r"(at + i * 512));
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        acc[4 * i + j] += x[j] * w;
                }
            }
        float inv = 1.0f / sum;
        uint2 *p = (uint2 *)(out + (size_t)(row0 + row) * E) + lane;
#pragma unroll
        for (int i = 0; i < 2; i++)
            p[32 * i] = make_uint2(pack_bf16(acc[4 * i] * inv, acc[4 * i + 1] * inv),
                                   pack_bf16(acc[4 * i + 2] * inv, acc[4 * i + 3] * inv));
    }
}

static __device__ __forceinline__ void write_part(const float (&o)[128], const rows &r,
                                                  unsigned char *smem, int row, float scale_log2)
{
    float *po = (float *)smem;
    float2 *ml = (float2 *)(smem + ROWS * O_STRIDE * 4);
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float *p = po + (row + 8 * h) * O_STRIDE + lane % 4 * 2;
#pragma unroll
        for (int j = 0; j < 32; j++)
            *(float2 *)(p + 8 * j) = make_float2(o[4 * j + 2 * h], o[4 * j + 2 * h + 1]);
        if (lane % 4 == 0)
            ml[row + 8 * h] = make_float2(r.m[h] * scale_log2, r.l[h]);
    }
}

__global__ void __launch_bounds__(THREADS, 1)
    attn_bf16_sm90(const __grid_constant__ CUtensorMap q_map,
                   const __grid_constant__ CUtensorMap k_map,
                   const __grid_constant__ CUtensorMap v_map, __nv_bfloat16 *o_all,
                   const attn90_segment *segments, int heads, int split, int kv_row_offset,
                   float scale_log2)
{
    extern __shared__ unsigned char raw[];
    __shared__ bars b;
    unsigned char *smem = (unsigned char *)(((uintptr_t)raw + 1023) & ~(uintptr_t)1023);
    uint32_t rank = split > 1 ? cluster_ctarank() : 0;
    if (threadIdx.x == 0) {
        prefetch_tensormap(&q_map);
        prefetch_tensormap(&k_map);
        prefetch_tensormap(&v_map);
        mbar_init(&b.q, 1);
        for (int i = 0; i < RING; i++) {
            mbar_init(&b.k_full[i], 1);
            mbar_init(&b.v_full[i], 1);
            mbar_init(&b.k_empty[i], 2);
            mbar_init(&b.v_empty[i], 2);
        }
        fence_mbar_init();
    }
    __syncthreads();
    pdl_wait(); /* segments may come from the kernel before */
    attn90_segment seg = segments[blockIdx.y];
    int row0 = (int)(blockIdx.x / split) * ROWS, n_rows = seg.n_rows * heads;
    if (row0 >= n_rows)
        return; /* the whole cluster leaves */
    int blocks = (seg.n_rows + KEYS - 1) / KEYS;
    int first = blocks * (int)rank / split, last = blocks * ((int)rank + 1) / split;
    __nv_bfloat16 *out = o_all + (size_t)seg.q_row * heads * E;
    if (threadIdx.x < 128) {
        setmaxnreg_dec<40>();
        if (threadIdx.x == 0)
            produce(q_map, k_map, v_map, smem, &b, seg.q_row * heads + row0,
                    seg.kv_row + kv_row_offset, first, last);
        __syncwarp();
        if (split > 1) {
            cluster_sync();
            cluster_sync();
        }
    } else {
        setmaxnreg_inc<232>();
        int q = (int)threadIdx.x / 128 - 1;
        int row = q * 64 + (int)threadIdx.x / 32 % 4 * 16 + (int)threadIdx.x % 32 / 4;
        float o[128];
#pragma unroll
        for (int j = 0; j < 128; j++)
            o[j] = 0;
        rows r = { { -INFINITY, -INFINITY }, { 0, 0 }, { 0, 0 } };
        attend(o, r, smem, &b, q, first, last, seg.n_valid, scale_log2);
        pdl_launch();
        if (split == 1) {
            store_rows(o, r, out, row0 + row, n_rows);
        } else {
            asm volatile("bar.sync 1, 256;" ::: "memory"); /* both are done with the ring */
            write_part(o, r, smem, row, scale_log2);
            cluster_sync();
            combine(smem, out, row0, n_rows, split, rank);
            cluster_sync(); /* parts stay until the peers have read them */
        }
    }
}

CUresult encode_rows(tensor_map_encode_fn encode, CUtensorMap *map, const void *base, long rows,
                     int box_rows)
{
    cuuint64_t dims[2] = { E, (cuuint64_t)rows }, stride[1] = { E * 2 };
    cuuint32_t box[2] = { 64, (cuuint32_t)box_rows }, step[2] = { 1, 1 };
    return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)(uintptr_t)base, dims, stride,
                  box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

} // namespace

extern "C" int attn90_split(int max_rows, int heads, int n_segments, int n_sms)
{
    int tiles = (max_rows * heads + ROWS - 1) / ROWS * n_segments;
    int blocks = (max_rows + KEYS - 1) / KEYS, best = 1;
    long best_cost = 0;
    for (int s = 1; s <= 4; s++) {
        long waves = ((long)tiles * s + n_sms - 1) / n_sms;
        long cost = waves * ((blocks + s - 1) / s + (s > 1 ? 2 : 1)); /* in key blocks */
        if (s == 1 || cost < best_cost) {
            best = s;
            best_cost = cost;
        }
    }
    return best;
}

extern "C" CUresult attn90_plan(struct attn90 *plan, tensor_map_encode_fn encode, const void *q,
                                int q_rows, const void *k, const void *v, int kv_rows, void *o,
                                const struct attn90_segment *segments, int n_segments, int max_rows,
                                int heads, float scale, int split)
{
    memset(plan, 0, sizeof *plan);
    plan->o = o;
    plan->segments = segments;
    plan->heads = heads;
    plan->n_segments = n_segments;
    plan->max_rows = max_rows;
    plan->split = split;
    plan->scale = scale;
    CUresult r = encode_rows(encode, &plan->q, q, (long)q_rows * heads, ROWS);
    if (r == CUDA_SUCCESS)
        r = encode_rows(encode, &plan->k, k, kv_rows, KEYS);
    if (r == CUDA_SUCCESS)
        r = encode_rows(encode, &plan->v, v, kv_rows, KEYS);
    return r;
}

extern "C" cudaError_t attn90_launch(const struct attn90 *plan, int kv_row_offset, int pdl,
                                     cudaStream_t stream)
{
    cudaError_t e =
        cudaFuncSetAttribute(attn_bf16_sm90, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM);
    if (e != cudaSuccess)
        return e;
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeClusterDimension;
    attr[0].val.clusterDim.x = (unsigned)plan->split;
    attr[0].val.clusterDim.y = attr[0].val.clusterDim.z = 1;
    attr[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    int tiles = (plan->max_rows * plan->heads + ROWS - 1) / ROWS;
    cfg.gridDim = dim3((unsigned)(tiles * plan->split), (unsigned)plan->n_segments);
    cfg.blockDim = dim3(THREADS);
    cfg.dynamicSmemBytes = SMEM;
    cfg.stream = stream;
    cfg.attrs = attr;
    cfg.numAttrs = pdl ? 2 : 1;
    return cudaLaunchKernelEx(&cfg, attn_bf16_sm90, plan->q, plan->k, plan->v,
                              (__nv_bfloat16 *)plan->o, plan->segments, plan->heads, plan->split,
                              kv_row_offset, plan->scale * 1.4426950408889634f);
}
