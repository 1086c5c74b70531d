/* SPDX-License-Identifier: Apache-2.0
 * attn_vision_bf16_sm90: o = softmax(q·kᵀ·scale)·v inside an image and a head; head size 72, 256
 * tokens an image    bf16 in and out, f32 inside
 * Called by: vision attention (16 heads, 1 … 3 images a robot).
 * Tiling:    a CTA owns 128 queries of one (image, head), 64 a warpgroup, and holds all 256 keys: the
 *            whole row of scores lies in registers, so there is one pass and no rescaling. Rows of a
 *            head are 144 bytes, which no swizzle fits: they go to shared memory as 16-byte chunks,
 *
 *              [chunk c][row r][8 values]     chunk stride = rows · 16 + 16 bytes
 *
 *            which is wgmma's layout without swizzle for q and k (K-major, tenth chunk zero: 80
 *            columns) and for v (MN-major) alike; the 16 bytes more keep the copies free of bank
 *            conflicts. v arrives under the scores.
 * Budget:    3 images: 0.9 GFLOP, 7 MB: a CTA needs 2432 tensor cycles and 2048 of exponentials, so
 *            latency decides; 5 µs.
 * Now:       8.7 µs a launch for 3 images, 7.4 for 2, NVIDIA H200, 2026-11-22, with the copies unrolled,
 *            which were 4.6 … 6.4 of it; as loops they have been timed only inside the whole stage.
 * Rounding:  P to bf16, o to bf16. */
#include "vision_sm90.h"
#include "wgmma_sm90.cuh"

using namespace wg90;

namespace
{

constexpr int E = 72, CHUNKS = E / 8, KEYS = 256, ROWS = 128, THREADS = 256;
constexpr int Q_CHUNK = ROWS * 16 + 16, K_CHUNK = KEYS * 16 + 16;
constexpr int Q_BYTES = (CHUNKS + 1) * Q_CHUNK, K_BYTES = (CHUNKS + 1) * K_CHUNK;
constexpr int SMEM = Q_BYTES + K_BYTES + CHUNKS * K_CHUNK;

/* Matrix descriptor without swizzle: core matrices of 8 × 16 bytes, `lead` and `stride` bytes apart
 * (PTX ISA, "strides": K-major lead along K, MN-major lead along K too, stride along MN). */
static __device__ __forceinline__ uint64_t desc_plain(uint32_t at, int lead, int stride)
{
    return (uint64_t)((at & 0x3FFFF) >> 4) | ((uint64_t)(lead >> 4) << 16) |
           ((uint64_t)(stride >> 4) << 32);
}

static __device__ __forceinline__ void copy16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
static __device__ __forceinline__ void copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> static __device__ __forceinline__ void copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* N rows of one head into chunks. */
template <int N>
static __device__ __forceinline__ void load_rows(uint32_t to, const __nv_bfloat16 *from, int ld)
{
    constexpr int chunk = N * 16 + 16;
#pragma unroll 1
    for (int i = 0; i < N * CHUNKS; i += THREADS) {
        int at = i + (int)threadIdx.x, r = at / CHUNKS, c = at % CHUNKS;
        if (N * CHUNKS % THREADS == 0 || at < N * CHUNKS)
            copy16(to + c * chunk + r * 16, from + (size_t)r * ld + c * 8);
    }
}

/* s[64 rows][128 keys] = q·kᵀ, committed as one group. */
static __device__ __forceinline__ void issue_scores(float (&s)[64], uint32_t q, uint32_t k)
{
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < 5; kk++)
        wgmma_ss_n128(s, desc_plain(q + 2 * kk * Q_CHUNK, Q_CHUNK, 128),
                      desc_plain(k + 2 * kk * K_CHUNK, K_CHUNK, 128), kk);
    wgmma_commit();
}

/* o += p·v over 128 keys. */
static __device__ __forceinline__ void issue_values(float (&o)[36], const uint32_t (&p)[8][4],
                                                    uint32_t v, int first)
{
    wgmma_fence();
#pragma unroll
    for (int kk = 0; kk < 8; kk++)
        wgmma_rs_n72<1>(o, p[kk], desc_plain(v + kk * 16 * 16, 128, K_CHUNK), kk || !first);
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

__global__ void __launch_bounds__(THREADS, 1)
    attn_vision_bf16_sm90(const __nv_bfloat16 *qkv, __nv_bfloat16 *out, int heads, float scale_log2,
                          const unsigned char *next, uint32_t next_bytes, uint32_t next_slice)
{
    extern __shared__ __align__(128) unsigned char smem[];
    int head = (int)blockIdx.y, image = (int)blockIdx.z, q0 = (int)blockIdx.x * ROWS;
    int width = heads * E, ld = 3 * width;
    int group = (int)threadIdx.x / 128, warp = (int)threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t qs = smem_u32(smem), ks = qs + Q_BYTES, vs = ks + K_BYTES;
    const __nv_bfloat16 *base = qkv + (size_t)image * KEYS * ld + head * E;
    for (int r = (int)threadIdx.x; r < ROWS + KEYS; r += THREADS) /* columns 72 … 79 */
        *(uint4 *)(smem + (r < ROWS ? CHUNKS * Q_CHUNK + r * 16
                                    : Q_BYTES + CHUNKS * K_CHUNK + (r - ROWS) * 16)) =
            make_uint4(0, 0, 0, 0);
    pdl_launch();
    pdl_wait();
    load_rows<ROWS>(qs, base + (size_t)q0 * ld, ld);
    load_rows<KEYS>(ks, base + width, ld);
    copy_commit();
    load_rows<KEYS>(vs, base + 2 * width, ld);
    copy_commit();
    if (threadIdx.x == 0) {
        uint32_t cta = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        uint32_t at = cta * next_slice;
        for (int i = 0; i < 16 && at < next_bytes && at < (cta + 1) * next_slice; i++) {
            uint32_t n = (next_slice / 16 + 16) & ~15u;
            n = n < next_bytes - at ? n : next_bytes - at;
            asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(next + at), "r"(n)
                         : "memory");
            at += n;
        }
    }
    copy_wait<1>();
    fence_proxy_async();
    __syncthreads();

    float s[2][64], o[36], m[2] = { -INFINITY, -INFINITY }, sum[2] = { 0.f, 0.f };
    uint32_t p[2][8][4];
    uint32_t mine = qs + group * 64 * 16;
    issue_scores(s[0], mine, ks);
    issue_scores(s[1], mine, ks + 128 * 16);
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
    copy_wait<0>();
    fence_proxy_async();
    __syncthreads(); /* v is there; q and k have been read */
    issue_values(o, p[0], vs, 1);
    exponentials(p[1], sum, s[1], m, scale_log2);
    issue_values(o, p[1], vs + 128 * 16, 0);
    float inv[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
        sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
        inv[h] = 1.0f / sum[h];
    }
    wgmma_wait<0>();

    /* A warp's 16 rows of 144 bytes through shared memory, where q and k were. */
    unsigned char *rows = smem + warp * 16 * E * 2;
#pragma unroll
    for (int j = 0; j < CHUNKS; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            *(uint32_t *)(rows + (lane / 4 + 8 * h) * E * 2 + j * 16 + lane % 4 * 4) =
                pack_bf16(o[4 * j + 2 * h] * inv[h], o[4 * j + 2 * h + 1] * inv[h]);
    __syncwarp();
    __nv_bfloat16 *to = out + ((size_t)image * KEYS + q0 + warp * 16) * width + (size_t)head * E;
    for (int i = lane; i < 16 * CHUNKS; i += 32) {
        int r = i / CHUNKS, c = i % CHUNKS;
        *(uint4 *)(to + (size_t)r * width + c * 8) = *(const uint4 *)(rows + i * 16);
    }
}

} // namespace

extern "C" cudaError_t attn_vision90_launch(const struct attn_vision90 *a, int pdl,
                                            cudaStream_t stream)
{
    cudaError_t e = cudaFuncSetAttribute(attn_vision_bf16_sm90,
                                         cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM);
    if (e != cudaSuccess)
        return e;
    cudaLaunchAttribute attr = {};
    attr.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t cfg = {};
    cfg.gridDim = dim3(KEYS / ROWS, (unsigned)a->heads, (unsigned)a->images);
    cfg.blockDim = dim3(THREADS);
    cfg.dynamicSmemBytes = SMEM;
    cfg.stream = stream;
    cfg.attrs = &attr;
    cfg.numAttrs = pdl ? 1 : 0;
    uint32_t bytes = (uint32_t)(a->next_bytes & ~(size_t)15);
    uint32_t slice = (bytes / (2u * (unsigned)a->heads * (unsigned)a->images) + 256) & ~127u;
    return cudaLaunchKernelEx(&cfg, attn_vision_bf16_sm90, (const __nv_bfloat16 *)a->qkv,
                              (__nv_bfloat16 *)a->o, a->heads, a->scale * 1.4426950408889634f,
                              (const unsigned char *)a->next, bytes, slice);
}
