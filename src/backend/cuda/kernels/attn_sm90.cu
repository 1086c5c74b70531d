/* SPDX-License-Identifier: Apache-2.0
 * attn_bf16_sm90: o = softmax(q·kᵀ·scale)·v, head size 256, one K/V head   bf16 in and out, f32 inside
 * Called by: prefix attention (rows = tokens · 8 heads against 532 … 968 keys).
 * Tiling:    128 query rows a CTA, 64 a consumer warpgroup; keys in blocks of 64 through a ring of
 *            two K and two V blocks that both warpgroups read. S = q·kᵀ from shared memory; P stays in
 *            registers; V is the MN-major operand, so it is used as it lies. A cluster of 1 … 4 CTAs
 *            splits the keys of one row tile; each finishes a share of the columns from its own sums
 *            and those that its peers send (st.async), in a fixed order: the same bits every run.
 *
 *              block i:   S_i = q·k_i ──► softmax_i ──────────┐
 *              tensor:    [ S_i ][ O += P_{i-1}·v_{i-1}  ]     the product runs under the softmax
 *
 * Budget:    788 tokens: 5.1 GFLOP, 7.3 MB → bound by arithmetic; 6.6 µs at 773 TFLOP/s.
 * Now:       16.6 µs at 788 tokens (keys over 2 CTAs), 12.9 at 532 (3), 18.2 at 968 (2), 84.4 at 8 × 788
 *            (482 TFLOP/s): check_attn_sm90 --bench, NVIDIA H200, 2026-11-22.
 * Rounding:  P to bf16, o to bf16. */
#include "attn_sm90.h"
#include "wgmma_sm90.cuh"

#include <string.h>

using namespace wg90;

namespace
{

constexpr int E = 256, ROWS = 128, KEYS = 64, RING = 2, THREADS = 384;
constexpr int Q_BYTES = ROWS * E * 2, KV_BYTES = KEYS * E * 2;
constexpr int RING_BYTES = Q_BYTES + 2 * RING * KV_BYTES;
constexpr int SMEM = RING_BYTES + 1024;

struct bars {
    uint64_t q, k_full[RING], k_empty[RING], v_full[RING], v_empty[RING];
    uint64_t free, parts; /* the peers' rings; what they send */
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

/* A warpgroup without rows lets the blocks pass. */
static __device__ __forceinline__ void pass(bars *b, int blocks)
{
    for (int i = 0; i < blocks; i++) {
        int slot = i % RING;
        mbar_wait(&b->k_full[slot], i / RING & 1);
        release(&b->k_empty[slot]);
        mbar_wait(&b->v_full[slot], i / RING & 1);
        release(&b->v_empty[slot]);
    }
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

/* stmatrix: fragments held one row of 8 by four lanes, to memory. Lane l gives the address of row l % 8
 * of matrix l / 8. */
static __device__ __forceinline__ void stmatrix4(uint32_t at, uint32_t a, uint32_t b, uint32_t c,
                                                 uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}

/* Without a split a warp's own 16 rows are complete: through the place of their queries, which nobody
 * reads any more, to whole lines. 16-byte chunk c of a row of 64 values lies at c ^ row % 8. */
static __device__ __forceinline__ void store_rows(const float (&o)[128], const rows &r,
                                                  unsigned char *smem, int row_in_tile,
                                                  __nv_bfloat16 *out, int row0, int n_rows)
{
    int lane = threadIdx.x % 32;
    unsigned char *mine = smem + row_in_tile * 128; /* of the warp's first row */
    float inv[2] = { 1.0f / r.l[0], 1.0f / r.l[1] };
    uint32_t at = smem_u32(mine) + lane % 16 * 128;
#pragma unroll
    for (int j = 0; j < 32; j += 2) {
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *x = &o[4 * (j + i / 2) + 2 * (i % 2)];
            v[i] = pack_bf16(x[0] * inv[i % 2], x[1] * inv[i % 2]);
        }
        stmatrix4(at + j / 8 * (ROWS * 128) + (((j % 8 + lane / 16) ^ lane % 8) * 16), v[0], v[1],
                  v[2], v[3]);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16; i++)
        if (row0 + row_in_tile + i < n_rows)
            ((uint4 *)(out + (size_t)(row0 + row_in_tile + i) * E))[lane] =
                *(const uint4 *)(mine + lane / 8 * (ROWS * 128) + i * 128 +
                                 ((lane % 8 ^ i % 8) * 16));
}

/* How S CTAs share a tile's sums: CTA c finishes column groups (of 8) begin(c) … begin(c + 1). What it
 * gets lies in a slot for each sender, a plane of 256 threads · 16 bytes for each group, and one more
 * for the rows' maxima and sums. */
template <int S> struct parts {
    static constexpr int most = (32 + S - 1) / S;
    static constexpr int plane = 256 * 16, slot = plane * (1 + most);
    static constexpr int staging = 131072, pitch = 272; /* an odd number of 16-byte chunks */
    static_assert((S - 1) * slot <= staging && staging + ROWS * pitch <= RING_BYTES, "room");
    static constexpr __host__ __device__ int begin(int c) { return 32 * c / S; }
    static constexpr __host__ __device__ int width(int c) { return begin(c + 1) - begin(c); }
};

/* Sends each peer the columns that it finishes and waits for this CTA's. A peer's memory is written
 * once it has said that its ring is free. */
template <int S>
static __device__ __forceinline__ void exchange(const float (&o)[128], const float4 &ml,
                                                unsigned char *smem, bars *b, int rank)
{
    using P = parts<S>;
    int i = (int)threadIdx.x - 128;
    if (i < S - 1)
        mbar_arrive_cluster(&b->free, (uint32_t)(i + (i >= rank)));
    mbar_wait(&b->free, 0);
#pragma unroll
    for (int c = 0; c < S; c++)
        if (c != rank) {
            int slot = rank < c ? rank : rank - 1;
            uint32_t at = mapa(smem_u32(smem) + slot * P::slot + i * 16, c);
            uint32_t bar = mapa(smem_u32(&b->parts), c);
            st_async(at, ml.x, ml.y, ml.z, ml.w, bar);
#pragma unroll
            for (int j = 0; j < P::most; j++)
                if (j < P::width(c)) {
                    const float *x = &o[4 * (P::begin(c) + j)];
                    st_async(at + (1 + j) * P::plane, x[0], x[1], x[2], x[3], bar);
                }
        }
    mbar_wait_cluster(&b->parts, 0);
}

/* Parts of all CTAs of the cluster → the columns of this one, all rows. */
template <int S>
static __device__ __forceinline__ void combine(const float (&o)[128], const float4 &ml,
                                               unsigned char *smem, __nv_bfloat16 *out,
                                               int row_in_tile, int row0, int n_rows, int rank)
{
    using P = parts<S>;
    int i = (int)threadIdx.x - 128, lane = i % 32;
    const unsigned char *in = smem + i * 16;
    float4 got[S - 1];
    float top[2] = { ml.x, ml.z }, w[2][S], sum[2] = { 0, 0 };
#pragma unroll
    for (int s = 0; s < S - 1; s++) {
        got[s] = *(const float4 *)(in + s * P::slot);
        top[0] = fmaxf(top[0], got[s].x);
        top[1] = fmaxf(top[1], got[s].z);
    }
#pragma unroll
    for (int s = 0; s < S; s++) { /* the last is this CTA */
        float4 t = s < S - 1 ? got[s < S - 1 ? s : 0] : ml;
        w[0][s] = t.x == -INFINITY ? 0.0f : ex2(t.x - top[0]);
        w[1][s] = t.z == -INFINITY ? 0.0f : ex2(t.z - top[1]);
        sum[0] += t.y * w[0][s];
        sum[1] += t.w * w[1][s];
    }
#pragma unroll
    for (int s = 0; s < S; s++) {
        w[0][s] *= 1.0f / sum[0];
        w[1][s] *= 1.0f / sum[1];
    }
    unsigned char *mine = smem + P::staging + row_in_tile * P::pitch;
    unsigned char *to = mine + lane / 4 * P::pitch + lane % 4 * 4;
#pragma unroll
    for (int c = 0; c < S; c++)
        if (c == rank) {
#pragma unroll
            for (int j = 0; j < P::most; j++) {
                if (j >= P::width(c))
                    break;
                const float *x = &o[4 * (P::begin(c) + j)];
                float4 a = make_float4(x[0] * w[0][S - 1], x[1] * w[0][S - 1], x[2] * w[1][S - 1],
                                       x[3] * w[1][S - 1]);
#pragma unroll
                for (int s = 0; s < S - 1; s++) {
                    float4 t = *(const float4 *)(in + s * P::slot + (1 + j) * P::plane);
                    a.x += t.x * w[0][s];
                    a.y += t.y * w[0][s];
                    a.z += t.z * w[1][s];
                    a.w += t.w * w[1][s];
                }
                *(uint32_t *)(to + j * 16) = pack_bf16(a.x, a.y);
                *(uint32_t *)(to + 8 * P::pitch + j * 16) = pack_bf16(a.z, a.w);
            }
            __syncwarp();
#pragma unroll
            for (int k = 0; k < (16 * P::most + 31) / 32; k++) {
                int at = k * 32 + lane, r = at / P::width(c), j = at % P::width(c);
                int row = row0 + row_in_tile + r;
                if (r < 16 && row < n_rows)
                    ((uint4 *)(out + (size_t)row * E))[P::begin(c) + j] =
                        *(const uint4 *)(mine + r * P::pitch + j * 16);
            }
        }
}

template <int S>
static __device__ __forceinline__ void
finish(const float (&o)[128], const rows &r, unsigned char *smem, bars *b, __nv_bfloat16 *out,
       int row_in_tile, int row0, int n_rows, int rank, float scale_log2)
{
    float4 ml = make_float4(r.m[0] * scale_log2, r.l[0], r.m[1] * scale_log2, r.l[1]);
    exchange<S>(o, ml, smem, b, rank);
    combine<S>(o, ml, smem, out, row_in_tile, row0, n_rows, rank);
}

/* Barriers alone: their initialisation has its own fence, and no other data is published. */
static __device__ __forceinline__ void cluster_arrive_relaxed(void)
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
static __device__ __forceinline__ void cluster_wait(void)
{
    asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
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
        if (split > 1) {
            mbar_init(&b.free, (uint32_t)split - 1);
            mbar_init(&b.parts, 1);
            int width = 32 * ((int)rank + 1) / split - 32 * (int)rank / split;
            mbar_expect(&b.parts, (uint32_t)((split - 1) * (1 + width) * 4096));
        }
        fence_mbar_init();
    }
    __syncthreads();
    attn90_segment seg = segments[(int)blockIdx.x / split];
    pdl_wait();
    int row0 = (int)blockIdx.y * ROWS, n_rows = seg.n_rows * heads;
    if (row0 >= n_rows)
        return; /* the whole cluster leaves */
    if (split > 1)
        cluster_arrive_relaxed(); /* waited for before anything is sent to a peer */
    int blocks = (seg.n_rows + KEYS - 1) / KEYS;
    int first = blocks * (int)rank / split, last = blocks * ((int)rank + 1) / split;
    __nv_bfloat16 *out = o_all + (size_t)seg.q_row * heads * E;
    if (threadIdx.x < 128) {
        setmaxnreg_dec<40>();
        if (threadIdx.x == 0)
            produce(q_map, k_map, v_map, smem, &b, seg.q_row * heads + row0,
                    seg.kv_row + kv_row_offset, first, last);
        __syncwarp();
        if (split > 1)
            cluster_wait();
    } else {
        setmaxnreg_inc<232>();
        int q = (int)threadIdx.x / 128 - 1;
        int lane = (int)threadIdx.x % 32;
        int row = q * 64 + (int)threadIdx.x / 32 % 4 * 16 + lane / 4;
        float o[128];
#pragma unroll
        for (int j = 0; j < 128; j++)
            o[j] = 0;
        rows r = { { -INFINITY, -INFINITY }, { 0, 0 }, { 0, 0 } };
        if (row0 + q * 64 < n_rows)
            attend(o, r, smem, &b, q, first, last, seg.n_valid, scale_log2);
        else
            pass(&b, last - first);
        pdl_launch();
        int first_row = row - lane / 4; /* of the warp */
        if (split == 1) {
            store_rows(o, r, smem, first_row, out, row0, n_rows);
        } else {
            asm volatile("bar.sync 1, 256;" ::: "memory"); /* both are done with the ring */
            cluster_wait();
            if (split == 2)
                finish<2>(o, r, smem, &b, out, first_row, row0, n_rows, (int)rank, scale_log2);
            else if (split == 3)
                finish<3>(o, r, smem, &b, out, first_row, row0, n_rows, (int)rank, scale_log2);
            else
                finish<4>(o, r, smem, &b, out, first_row, row0, n_rows, (int)rank, scale_log2);
        }
    }
    /* Nobody is left behind: a CTA waits for all that is sent to it. */
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
    CUresult r = tensor_map_2d(encode, &plan->q, q, (long)q_rows * heads, E, E, ROWS);
    if (r == CUDA_SUCCESS)
        r = tensor_map_2d(encode, &plan->k, k, kv_rows, E, E, KEYS);
    if (r == CUDA_SUCCESS)
        r = tensor_map_2d(encode, &plan->v, v, kv_rows, E, E, KEYS);
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
    /* Samples fastest: their last tiles, which may be half empty, come last. */
    cfg.gridDim = dim3((unsigned)(plan->n_segments * plan->split), (unsigned)tiles);
    cfg.blockDim = dim3(THREADS);
    cfg.dynamicSmemBytes = SMEM;
    cfg.stream = stream;
    cfg.attrs = attr;
    cfg.numAttrs = pdl ? 2 : 1;
    return cudaLaunchKernelEx(&cfg, attn_bf16_sm90, plan->q, plan->k, plan->v,
                              (__nv_bfloat16 *)plan->o, plan->segments, plan->heads, plan->split,
                              kv_row_offset, plan->scale * 1.4426950408889634f);
}
