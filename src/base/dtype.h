/* SPDX-License-Identifier: Apache-2.0
 * dtype: the three element types a checkpoint may hold, their sizes and conversions. bf16 and f16
 * travel as uint16_t bit patterns. Rounding is to nearest, ties to even; NaN stays NaN. */
#ifndef PI0_BASE_DTYPE_H
#define PI0_BASE_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype { DT_F32 = 0, DT_BF16 = 1, DT_F16 = 2 };

static inline size_t dtype_bytes(enum dtype t) { return t == DT_F32 ? 4 : 2; }

static inline const char *dtype_name(enum dtype t)
{
    return t == DT_F32 ? "F32" : t == DT_BF16 ? "BF16" : "F16";
}

static inline uint32_t f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float f32_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static inline float bf16_to_f32(uint16_t h) { return f32_from_bits((uint32_t)h << 16); }

static inline uint16_t bf16_from_f32(float x)
{
    uint32_t u = f32_bits(x);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u)
        return (uint16_t)((u >> 16) | 0x40u); /* quiet NaN, sign kept */
    return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1u)) >> 16);
}

/* x rounded to the nearest bf16 and back. */
static inline float bf16_round(float x) { return bf16_to_f32(bf16_from_f32(x)); }

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 0x1Fu, man = h & 0x3FFu;
    if (exp == 31)
        return f32_from_bits(sign | 0x7F800000u | (man << 13));
    if (exp == 0) { /* zero or subnormal: man · 2^-24, exact in float32 */
        float m = (float)man * 0x1p-24f;
        return f32_from_bits(sign | f32_bits(m));
    }
    return f32_from_bits(sign | ((exp + 112u) << 23) | (man << 13));
}

#endif
