/* SPDX-License-Identifier: Apache-2.0
 * attn_vision_bf16_sm90: o = softmax(q·kᵀ·scale)·v inside an image and a head; head size 72, 256
 * tokens an image    bf16 in and out, f32 inside
 * Called by: vision attention (16 heads, 1 … 3 images a robot).
 * Tasks:     128 queries of one (image, head); all 256 where the halves would not run at once, so that
 *            keys and values are copied once. A CTA takes one task after another where there are more
 *            than processors, the next one's copies under this one's arithmetic (two buffers).
 * Tiling:    64 queries a warpgroup, all 256 keys in shared memory: the
 *            whole row of scores lies in registers, so there is one pass and no rescaling. A head's 72
 *            columns are cut in two, because no swizzle fits 144 bytes; in memory too, so that no row of 128
 *            bytes straddles a line:
 *
 *              columns 0 … 63    rows of 128 bytes, 128-byte swizzle
 *              columns 64 … 71   rows of 16 bytes, no swizzle; q and k have as many zeros behind them
 *
 *            q·kᵀ is four steps over the first and one over the second; p·v one product of 64 and one
 *            of 8 columns a step. Everything comes by tensor-map copies (cp.async costs 4 µs here).
 * Budget:    3 images: 0.9 GFLOP, 7 MB: a CTA needs 2432 tensor cycles and 2048 of exponentials, so
 *            latency decides; 5 µs.
 * Now:       5.3 µs a launch for 3 images, 5.0 for 2, 23.9 for 24, 159 for 192, in chains apart from each
 *            other; check_vision_sm90 --bench, NVIDIA H200, 2026-11-22.
 * Rounding:  P to bf16, o to bf16. */
#include "vision_sm90.h"
#include "wgmma_sm90.cuh"

#include <string.h>

using namespace wg90;

namespace
{

constexpr int E = 72, CHUNKS = E / 8, KEYS = 256, THREADS = 256;
constexpr int WIDE = 64 * 2, NARROW = 8 * 2; /* bytes a row */

/* Offsets in shared memory for tasks of TURNS · 128 queries; the wide parts at multiples of 1024. Two
 * buffers, so that the next task's copies run under this one's arithmetic. */
template <int TURNS> struct layout {
    static constexpr int rows = TURNS * 128;
    static constexpr int q = 0, k = q + rows * WIDE, v = k + KEYS * WIDE;
    static constexpr int qx = v + KEYS * WIDE, kx = qx + rows * NARROW, vx = kx + KEYS * NARROW;
    static constexpr int buffer = vx + KEYS * NARROW;
    static constexpr int zero = 2 * buffer; /* columns 72 … 79 of 128 rows */
    static constexpr int bars = zero + 128 * NARROW, smem = bars + 64 + 1024;
    static_assert(buffer % 1024 == 0 && smem <= 232448, "");
};

/* Matrix descriptor without swizzle: core matrices of 8 × 16 bytes; `lead` bytes between those that
 * follow each other along K, `stride` along M or N. */
static __device__ __forceinline__ uint64_t desc_plain(uint32_t at, int lead, int stride)
{
    return (uint64_t)((at & 0x3FFFF) >> 4) | ((uint64_t)(lead >> 4) << 16) |
           ((uint64_t)(stride >> 4) << 32);
}

/* 128 rows of a head from `row`, both parts; which: q, k, v. */
static __device__ __forceinline__ void load_rows(unsigned char *wide, unsigned char *narrow,
                                                 const CUtensorMap &wide_map,
                                                 const CUtensorMap &narrow_map, uint64_t *bar,
                                                 int which, int head, int heads, int row)
{
    int col = which * heads * E;
    tma_load_2d(wide, &wide_map, bar, col + head * 64, row);
    tma_load_2d(narrow, &narrow_map, bar, col + heads * 64 + head * 8, row);
}

/* s[64 queries][128 keys] = q·kᵀ, committed as one group; q and k: wide and narrow rows. */
static __device__ __forceinline__ void issue_scores(float (&s)[64], const unsigned char *q,
                                                    const unsigned char *qx, const unsigned char *k,
                                                    const unsigned char *kx,
                                                    const unsigned char *zero)
{
    uint64_t dq = desc_k128(q), dk = desc_k128(k);
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < 4; kk++)
        wgmma_ss_n128(s, dq + 2 * kk, dk + 2 * kk, kk);
    wgmma_ss_n128(s, desc_plain(smem_u32(qx), (int)(zero - qx), 128),
                  desc_plain(smem_u32(kx), (int)(zero - kx), 128), 1);
    wgmma_commit();
}

/* o += p·v over 128 keys. */
static __device__ __forceinline__ void issue_values(float (&o)[32], float (&ox)[4],
                                                    const uint32_t (&p)[8][4],
                                                    const unsigned char *values,
                                                    const unsigned char *narrow, int half)
{
    /* V as it lies: the MN-major operand, groups of 8 keys 1024 (128) bytes apart */
    uint64_t v = desc_k128(values + half * 128 * WIDE);
    uint64_t vx = desc_plain(smem_u32(narrow) + half * 128 * NARROW, 128, 128);
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < 8; kk++) {
        wgmma_rs_n64<1>(o, p[kk], v + kk * (16 * WIDE >> 4), kk | half);
        wgmma_rs_n8<1>(ox, p[kk], vx + kk * (16 * NARROW >> 4), kk | half);
    }
    wgmma_commit();
}

static __device__ __forceinline__ void row_max(float (&m)[2], const float (&s)[64])
{
#pragma unroll
    for (int j = 0; j < 64; j++)
        m[j / 2 % 2] = fmaxf(m[j / 2 % 2], s[j]);
}

/* p = exp2(s·scale − base) in fragment order; sum takes the unrounded values. */
static __device__ __forceinline__ void exponentials(uint32_t (&p)[8][4], float (&sum)[2],
                                                    const float (&s)[64], const float (&base)[2],
                                                    float scale_log2)
{
#pragma unroll
    for (int kk = 0; kk < 8; kk++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float x = ex2(fmaf(s[8 * kk + 2 * i], scale_log2, -base[i % 2]));
            float y = ex2(fmaf(s[8 * kk + 2 * i + 1], scale_log2, -base[i % 2]));
            sum[i % 2] += x + y;
            p[kk][i] = pack_bf16(x, y);
        }
}

/* Where task t lies. */
template <int TURNS> struct task {
    int q0, head, image;
    __device__ __forceinline__ task(int t, int heads)
        : q0(t % (2 / TURNS) * 128), head(t / (2 / TURNS) % heads), image(t / (2 / TURNS) / heads)
    {
    }
};

/* Everything of a task, in the order of its use: q and keys 0 … 127, the other keys, values, the other q. */
template <int TURNS>
static __device__ __forceinline__ void load_task(unsigned char *to, const CUtensorMap &wide,
                                                 const CUtensorMap &narrow, uint64_t *bar, int t,
                                                 int heads)
{
    using L = layout<TURNS>;
    task<TURNS> at(t, heads);
    int row = at.image * KEYS;
    mbar_expect(&bar[0], 2 * 128 * (WIDE + NARROW));
    mbar_expect(&bar[1], 128 * (WIDE + NARROW));
    mbar_expect(&bar[2], 2 * 128 * (WIDE + NARROW));
    load_rows(to + L::q, to + L::qx, wide, narrow, &bar[0], 0, at.head, heads, row + at.q0);
    load_rows(to + L::k, to + L::kx, wide, narrow, &bar[0], 1, at.head, heads, row);
    load_rows(to + L::k + 128 * WIDE, to + L::kx + 128 * NARROW, wide, narrow, &bar[1], 1, at.head,
              heads, row + 128);
    for (int half = 0; half < 2; half++)
        load_rows(to + L::v + half * 128 * WIDE, to + L::vx + half * 128 * NARROW, wide, narrow,
                  &bar[2], 2, at.head, heads, row + half * 128);
    if (TURNS == 2) {
        mbar_expect(&bar[3], 128 * (WIDE + NARROW));
        load_rows(to + L::q + 128 * WIDE, to + L::qx + 128 * NARROW, wide, narrow, &bar[3], 0,
                  at.head, heads, row + 128);
    }
}

template <int TURNS>
__global__ void __launch_bounds__(THREADS, 1)
    attn_vision_bf16_sm90(const __grid_constant__ CUtensorMap wide,
                          const __grid_constant__ CUtensorMap narrow, __nv_bfloat16 *out, int heads,
                          int tasks, float scale_log2)
{
    using L = layout<TURNS>;
    extern __shared__ unsigned char raw[];
    unsigned char *smem = raw + (-smem_u32(raw) & 1023), *zero = smem + L::zero;
    uint64_t *bar = (uint64_t *)(smem + L::bars); /* four a buffer: load_task */
    int width = heads * E, group = (int)threadIdx.x / 128, warp = (int)threadIdx.x / 32;
    int lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        prefetch_tensormap(&wide);
        prefetch_tensormap(&narrow);
        for (int i = 0; i < 8; i++)
            mbar_init(&bar[i], 1);
        fence_mbar_init();
        pdl_wait();
        load_task<TURNS>(smem, wide, narrow, bar, (int)blockIdx.x, heads);
    } else if (threadIdx.x >= 128) {
        *(uint4 *)(zero + (threadIdx.x - 128) * NARROW) = make_uint4(0, 0, 0, 0);
        fence_proxy_async();
    }
    pdl_launch();
    __syncthreads();
#pragma unroll 1
    for (int t = (int)blockIdx.x, i = 0; t < tasks; t += (int)gridDim.x, i++) {
        /* The other buffer has been read by all: the barrier at the end of the turn before. */
        if (threadIdx.x == 0 && t + (int)gridDim.x < tasks)
            load_task<TURNS>(smem + (i + 1) % 2 * L::buffer, wide, narrow, bar + (i + 1) % 2 * 4,
                             t + (int)gridDim.x, heads);
        unsigned char *in = smem + i % 2 * L::buffer;
        uint64_t *here = bar + i % 2 * 4;
        uint32_t phase = (uint32_t)i / 2 & 1;
#pragma unroll 1
        for (int turn = 0; turn < TURNS; turn++) {
            int row = turn * 128 + group * 64; /* of this group's queries in the buffer */
            unsigned char *q = in + L::q + row * WIDE, *qx = in + L::qx + row * NARROW;
            unsigned char *k = in + L::k, *kx = in + L::kx;
            mbar_wait(&here[turn ? 3 : 0], phase);

            float s[2][64], o[32], ox[4], m[2] = { -INFINITY, -INFINITY }, sum[2] = { 0.f, 0.f };
            uint32_t p[2][8][4];
            issue_scores(s[0], q, qx, k, kx, zero);
            mbar_wait(&here[1], phase);
            issue_scores(s[1], q, qx, k + 128 * WIDE, kx + 128 * NARROW, zero);
            wgmma_wait<1>();
            row_max(m, s[0]);
            wgmma_wait<0>();
            row_max(m, s[1]);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                m[h] = fmaxf(m[h], __shfl_xor_sync(~0u, m[h], 1));
                m[h] = fmaxf(m[h], __shfl_xor_sync(~0u, m[h], 2)) * scale_log2;
            }
            exponentials(p[0], sum, s[0], m, scale_log2);
            mbar_wait(&here[2], phase);
            issue_values(o, ox, p[0], in + L::v, in + L::vx, 0);
            exponentials(p[1], sum, s[1], m, scale_log2);
            issue_values(o, ox, p[1], in + L::v, in + L::vx, 1);
            float inv[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
                sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
                inv[h] = 1.0f / sum[h];
            }
            wgmma_wait<0>();

            /* The group's rows leave through the place of its q, which all of it have read: columns
             * 0 … 63 where the wide rows were, 16-byte pieces turned by the row, the others where the
             * narrow ones were. */
            bar_sync(1 + group, 128);
            int r16 = warp % 4 * 16;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int r = lane / 4 + 8 * h;
#pragma unroll
                for (int j = 0; j < CHUNKS; j++) {
                    uint32_t v =
                        pack_bf16((j < 8 ? o[4 * (j % 8) + 2 * h] : ox[2 * h]) * inv[h],
                                  (j < 8 ? o[4 * (j % 8) + 2 * h + 1] : ox[2 * h + 1]) * inv[h]);
                    unsigned char *at =
                        j < 8 ? q + (r16 + r) * WIDE + (j ^ r % 8) * 16 : qx + (r16 + r) * NARROW;
                    *(uint32_t *)(at + lane % 4 * 4) = v;
                }
            }
            __syncwarp();
            task<TURNS> at(t, heads);
            __nv_bfloat16 *to =
                out + ((size_t)at.image * KEYS + at.q0 + row + r16) * width + (size_t)at.head * E;
            for (int c = lane; c < 16 * CHUNKS; c += 32) {
                int r = c / CHUNKS, j = c % CHUNKS;
                *(uint4 *)(to + (size_t)r * width + j * 8) =
                    *(const uint4 *)(j < 8 ? q + (r16 + r) * WIDE + (j ^ r % 8) * 16
                                           : qx + (r16 + r) * NARROW);
            }
        }
        if (t + 2 * (int)gridDim.x < tasks) { /* copies come here in the next turn */
            fence_proxy_async();
            __syncthreads();
        }
    }
}

template <int TURNS>
cudaError_t launch(const struct attn_vision90 *a, int n_sm, int pdl, cudaStream_t stream)
{
    cudaError_t e =
        cudaFuncSetAttribute(attn_vision_bf16_sm90<TURNS>,
                             cudaFuncAttributeMaxDynamicSharedMemorySize, layout<TURNS>::smem);
    if (e != cudaSuccess)
        return e;
    e = cudaFuncSetAttribute(attn_vision_bf16_sm90<TURNS>,
                             cudaFuncAttributePreferredSharedMemoryCarveout, 100);
    if (e != cudaSuccess)
        return e;
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    int tasks = 2 / TURNS * a->heads * a->images;
    cfg.gridDim = dim3((unsigned)(tasks < n_sm ? tasks : n_sm));
    cfg.blockDim = dim3(THREADS);
    cfg.dynamicSmemBytes = layout<TURNS>::smem;
    cfg.stream = stream;
    cfg.attrs = &attr;
    cfg.numAttrs = pdl ? 1 : 0;
    return cudaLaunchKernelEx(&cfg, attn_vision_bf16_sm90<TURNS>, a->wide, a->narrow,
                              (__nv_bfloat16 *)a->o, a->heads, tasks,
                              a->scale * 1.4426950408889634f);
}

} // namespace

extern "C" CUresult attn_vision90_plan(struct attn_vision90 *a, tensor_map_encode_fn encode,
                                       const void *qkv, void *o, int images, int heads, float scale)
{
    memset(a, 0, sizeof *a);
    a->o = o;
    a->images = images;
    a->heads = heads;
    a->scale = scale;
    cuuint64_t dims[2] = { (cuuint64_t)(3 * heads * E), (cuuint64_t)images * KEYS };
    cuuint64_t stride[1] = { dims[0] * 2 };
    cuuint32_t step[2] = { 1, 1 };
    CUresult r = CUDA_SUCCESS;
    for (int i = 0; i < 2 && r == CUDA_SUCCESS; i++) {
        cuuint32_t box[2] = { i ? 8u : 64u, 128 };
        r = encode(i ? &a->narrow : &a->wide, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
                   (void *)(uintptr_t)qkv, dims, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                   i ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    }
    return r;
}

extern "C" int attn_vision90_queries(int images, int heads, int n_sm)
{
    return 2 * images * heads <= n_sm ? 128 : 256;
}

extern "C" cudaError_t attn_vision90_launch(const struct attn_vision90 *a, int pdl,
                                            cudaStream_t stream)
{
    int device, n_sm;
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&n_sm, cudaDevAttrMultiProcessorCount, device);
    if (e != cudaSuccess)
        return e;
    return attn_vision90_queries(a->images, a->heads, n_sm) == 256
               ? launch<2>(a, n_sm, pdl, stream)
               : launch<1>(a, n_sm, pdl, stream);
}
