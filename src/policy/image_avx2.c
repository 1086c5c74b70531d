/* SPDX-License-Identifier: Apache-2.0
 * image_avx2: Pillow's resampling loops with AVX2; see image_kernels.h. Called through the table
 * that image_scratch_take was given.
 *
 * resize_row: 4 taps × 3 channels a step. 16 bytes hold 5 pixels, of which 4 are used:
 *     bytes  R0 G0 B0 R1 G1 B1 R2 G2 B2 R3 G3 B3 …
 *     shuffle → R0 R1 G0 G1 B0 B1 0 0 | R2 R3 G2 G3 B2 B3 0 0, widened to 16 bits
 *     multiply-add of pairs with (k0 k1 …| k2 k3 …) → R G B 0 | R G B 0 in 32 bits
 * A coefficient has 23 bits, a factor of the multiply-add 15: two of them, high and low part.
 * The sums are those of the plain loop, exactly. 640 × 480 → 224 × 168 on Zen 4: 0.37 ms, plain C
 * 1.3 ms. */
#include "policy/image_kernels.h"

#include <immintrin.h>
#include <string.h>

static void resize_row(const struct image_scratch *s, const uint8_t *src, int out, uint8_t *dst)
{
    const __m128i pairs = _mm_setr_epi8(0, 3, 1, 4, 2, 5, -1, -1, 6, 9, 7, 10, 8, 11, -1, -1);
    const __m128i half = _mm_set1_epi32(COEF_HALF);
    for (int x = 0; x < out; x++) {
        const struct image_tap *t = &s->x[x];
        const struct image_group *g = s->packed + t->group;
        const uint8_t *p = src + 3 * (size_t)t->first;
        __m256i high = _mm256_setzero_si256(), low = high;
        for (int left = t->count; left > 0; left -= GROUP_TAPS, g++, p += 3 * GROUP_TAPS) {
            __m128i bytes = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i_u *)p), pairs);
            __m256i v = _mm256_cvtepu8_epi16(bytes);
            __m256i kh = _mm256_loadu_si256((const __m256i_u *)g->high);
            __m256i kl = _mm256_loadu_si256((const __m256i_u *)g->low);
            high = _mm256_add_epi32(high, _mm256_madd_epi16(v, kh));
            low = _mm256_add_epi32(low, _mm256_madd_epi16(v, kl));
        }
        __m256i both = _mm256_add_epi32(_mm256_slli_epi32(high, GROUP_SHIFT), low);
        __m128i sum =
            _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
        sum = _mm_srai_epi32(_mm_add_epi32(sum, half), COEF_BITS);
        sum = _mm_packus_epi16(_mm_packus_epi32(sum, sum), sum);
        uint32_t rgb = (uint32_t)_mm_cvtsi128_si32(sum);
        memcpy(dst + 3 * (size_t)x, &rgb,
               x + 1 < out ? 4 : 3); /* the next pixel covers the fourth */
    }
}

static void add_row(int32_t *sum, const uint8_t *row, int32_t k, size_t n)
{
    const __m256i factor = _mm256_set1_epi32(k);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i_u *)(row + i)));
        __m256i_u *to = (__m256i_u *)(sum + i);
        _mm256_storeu_si256(
            to, _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_mullo_epi32(v, factor)));
    }
    for (; i < n; i++)
        sum[i] += row[i] * k;
}

static void close_row(uint8_t *dst, const int32_t *sum, size_t n)
{
    const __m128i half = _mm_set1_epi32(COEF_HALF);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        __m128i v[4];
        for (int j = 0; j < 4; j++) {
            __m128i four = _mm_loadu_si128((const __m128i_u *)(sum + i + 4 * (size_t)j));
            v[j] = _mm_srai_epi32(_mm_add_epi32(four, half), COEF_BITS);
        }
        __m128i bytes =
            _mm_packus_epi16(_mm_packus_epi32(v[0], v[1]), _mm_packus_epi32(v[2], v[3]));
        _mm_storeu_si128((__m128i_u *)(dst + i), bytes);
    }
    for (; i < n; i++)
        dst[i] = image_clip8(sum[i]);
}

const struct image_kernels image_kernels_avx2 = {
    .resize_row = resize_row,
    .add_row = add_row,
    .close_row = close_row,
    .packed = 1,
    .overrun = 16,
};
