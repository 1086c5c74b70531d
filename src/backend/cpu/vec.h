/* SPDX-License-Identifier: Apache-2.0
 *
 * vec: one vector of f32 under one spelling, so that a kernel family is written once and compiled
 * for AVX2 (8 lanes) and for AVX-512 (16 lanes); and the functions that the kernels need of it: exp,
 * gelu, silu, rounding to bf16. Included by kernel files only (<family>_<isa>.c): the Makefile gives
 * each its instruction set, and what is compiled here follows from that. */
#ifndef PI0_BACKEND_CPU_VEC_H
#define PI0_BACKEND_CPU_VEC_H

#include <immintrin.h>
#include <stdint.h>

/* Full unrolling of loops with a constant count, so that arrays of vectors live in registers. */
#if defined(__clang__)
#define VEC_UNROLL _Pragma("unroll")
#else
#define VEC_UNROLL _Pragma("GCC unroll 16")
#endif
#define VEC_INLINE static inline __attribute__((always_inline, unused))

#if defined(__AVX512F__)

#define VEC_LANES 16
typedef __m512 vf;

VEC_INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
VEC_INLINE vf vf_set(float x) { return _mm512_set1_ps(x); }
VEC_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
VEC_INLINE void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
VEC_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
VEC_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
VEC_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
VEC_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
VEC_INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
VEC_INLINE vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
VEC_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a·b + c */
VEC_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a·b */
VEC_INLINE vf vf_round(vf x) { return _mm512_roundscale_ps(x, 8); } /* to nearest, quietly */

/* x · 2^n, n whole and at least -126. */
VEC_INLINE vf vf_scale2(vf x, vf n) { return _mm512_scalef_ps(x, n); }

/* bf16 → f32, of one vector's worth. */
VEC_INLINE vf vf_load_bf16(const uint16_t *p)
{
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}

/* f32 → bf16, to nearest, ties to even, NaN stays NaN (base/dtype.h). */
VEC_INLINE void vf_store_bf16(uint16_t *p, vf x)
{
    __m512i u = _mm512_castps_si512(x), high = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7FFF)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    __m512i r = _mm512_mask_or_epi32(_mm512_srli_epi32(up, 16), nan, high, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(r));
}

VEC_INLINE float vf_sum(vf x)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

VEC_INLINE float vf_top(vf x)
{
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

#else

#define VEC_LANES 8
typedef __m256 vf;

VEC_INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
VEC_INLINE vf vf_set(float x) { return _mm256_set1_ps(x); }
VEC_INLINE vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
VEC_INLINE void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
VEC_INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
VEC_INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
VEC_INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
VEC_INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
VEC_INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
VEC_INLINE vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
VEC_INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
VEC_INLINE vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
VEC_INLINE vf vf_round(vf x) { return _mm256_round_ps(x, 8); }

VEC_INLINE vf vf_scale2(vf x, vf n)
{
    /* In two steps: 2^128 is no f32, but exp has use for n = 128. */
    __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1);
    __m256i rest = _mm256_sub_epi32(i, half), bias = _mm256_set1_epi32(127);
    vf a = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    vf b = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(x, a), b);
}

VEC_INLINE vf vf_load_bf16(const uint16_t *p)
{
    __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}

VEC_INLINE void vf_store_bf16(uint16_t *p, vf x)
{
    __m256i u = _mm256_castps_si256(x), high = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7FFF)), odd);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i r = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, nan);
    __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_castsi256_si128(words));
}

VEC_INLINE float vf_sum(vf x)
{
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

VEC_INLINE float vf_top(vf x)
{
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}

#endif

/* exp(x), within 2 units in the last place; below -87 it stays at exp(-87) = 1.6e-38, above 88.7 at
 * 3.3e38. Split x = n·ln2 + r, |r| ≤ ln2/2; polynomial and the two halves of ln2: Cephes expf. */
VEC_INLINE vf vf_exp(vf x)
{
    x = vf_min(vf_max(x, vf_set(-87.0f)), vf_set(88.7f));
    vf n = vf_round(vf_mul(x, vf_set(1.44269504088896341f)));
    vf r = vf_fnma(n, vf_set(0.693359375f), x);
    r = vf_fnma(n, vf_set(-2.12194440e-4f), r);
    vf p = vf_set(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set(5.0000001201e-1f));
    p = vf_fma(p, vf_mul(r, r), vf_add(r, vf_set(1.0f)));
    return vf_scale2(p, n);
}

/* z · sigmoid(z). */
VEC_INLINE vf vf_silu(vf z)
{
    return vf_div(z, vf_add(vf_set(1.0f), vf_exp(vf_sub(vf_zero(), z))));
}

/* 0.5 z (1 + tanh(u)) = z · sigmoid(2u), u = sqrt(2/π) (z + 0.044715 z³) (docs/model.md §1): no
 * difference of nearly equal numbers, so that small results keep their digits. */
VEC_INLINE vf vf_gelu(vf z)
{
    vf inner = vf_fma(vf_mul(vf_set(0.044715f), vf_mul(z, z)), z, z);
    vf e = vf_exp(vf_mul(vf_set(-2.0f * 0.79788456f), inner));
    return vf_div(z, vf_add(vf_set(1.0f), e));
}

#endif
