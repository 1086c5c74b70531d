/* SPDX-License-Identifier: Apache-2.0
 * early_sm90: what the two kernels of early_sm90.h share. */
#ifndef PI0_CUDA_EARLY_SM90_CUH
#define PI0_CUDA_EARLY_SM90_CUH

#include "denoise_sm90.cuh"
#include "early_sm90.h"
#include "ptx_sm80.cuh"
#include "ptx_sm90.cuh"
#include "wgmma_sm90.cuh"

/* early_wide_sm90.cu */
CUresult early90_wide_plan(struct early90_maps *m, tensor_map_encode_fn encode,
                           const struct early90 *p);
cudaError_t early90_wide_prepare(void);
cudaError_t early90_wide_launch(const struct early90 *p, const struct early90_maps *m,
                                cudaStream_t stream);

PTX_INLINE void sts_u32(uint32_t a, uint32_t v)
{
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(a), "r"(v) : "memory");
}
/* Over the eight lanes that hold the same columns. */
PTX_INLINE float rows_sum(float v)
{
#pragma unroll
    for (int o = 4; o < 32; o *= 2)
        v += __shfl_xor_sync(~0u, v, o);
    return v;
}
/* One step of a maximum over lanes `bit` apart: of N values each lane keeps a half. */
template <int N> PTX_INLINE void halve_max(float *v, int lane, int bit)
{
    const bool up = lane & bit;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        const float keep = up ? v[i + N / 2] : v[i], give = up ? v[i] : v[i + N / 2];
        v[i] = fmaxf(keep, __shfl_xor_sync(~0u, give, bit));
    }
}
/* Maxima over the eight lanes with the same columns 8n + 2t + e, v[2n + e], to `to`. */
template <int J> PTX_INLINE void rows_max(float *to, float *v, int lane)
{
    const int g = lane >> 2, t = lane & 3;
    if constexpr (J == 2) {
        halve_max<4>(v, lane, 16), halve_max<2>(v, lane, 8);
        v[0] = fmaxf(v[0], __shfl_xor_sync(~0u, v[0], 4));
        to[(g >> 2) * 8 + 2 * t + (g >> 1 & 1)] = v[0];
    } else {
        static_assert(J == 7, "8 lanes for 7 tiles");
        halve_max<16>(v, lane, 16), halve_max<8>(v, lane, 8), halve_max<4>(v, lane, 4);
        if (g < J)
            *(float2 *)(to + g * 8 + 2 * t) = make_float2(v[0], v[1]);
    }
}
/* A lane's columns 128i + 4 · lane … of a norm: 1 + gain; and of rows t0, t0 + step, … of x, of which there are
 * `rows`; past them the last. */
PTX_INLINE void load_gains(float4 (&gain)[8], const float *norm, int lane)
{
#pragma unroll
    for (int i = 0; i < 8; i++) {
        gain[i] = __ldg((const float4 *)norm + i * 32 + lane);
        gain[i].x += 1.f, gain[i].y += 1.f, gain[i].z += 1.f, gain[i].w += 1.f;
    }
}
template <int N>
PTX_INLINE void load_rows(float4 (&x)[N][8], const float *from, int t0, int step, int rows,
                          int lane)
{
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[j][i] =
                __ldcg((const float4 *)(from + (size_t)min(t0 + j * step, rows - 1) * dn90::W) +
                       i * 32 + lane);
}
PTX_INLINE void bulk(uint32_t to, const void *from, uint32_t bytes, uint32_t bar)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], "
                 "%2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(bar)
                 : "memory");
}

/* Descriptor of a matrix without swizzle: cores of 8 × 16 bytes, 128 bytes in a row; distances in bytes
 * between cores along k (or, of a matrix that is not k-major, along the other index) and across. */
PTX_INLINE uint64_t desc(uint32_t at, uint32_t along, uint32_t across)
{
    return ((at & 0x3FFFF) >> 4) | (uint64_t)(along >> 4) << 16 | (uint64_t)(across >> 4) << 32;
}
#endif
