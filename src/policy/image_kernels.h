/* SPDX-License-Identifier: Apache-2.0
 * image_kernels: the three inner loops of Pillow's resampling, in plain C (image.c) and AVX2
 * (image_avx2.c). Integer arithmetic: both give the same bytes. */
#ifndef PI0_POLICY_IMAGE_KERNELS_H
#define PI0_POLICY_IMAGE_KERNELS_H

#include "policy/image.h"

/* Pillow keeps 32 - 8 - 2 bits behind the point (src/libImaging/Resample.c, PRECISION_BITS). */
#define COEF_BITS 22
#define COEF_HALF ((int32_t)1 << (COEF_BITS - 1))

/* The inputs that one output looks at: indices first … first + count - 1. */
struct image_tap {
    int first, count;
    int at;        /* Pillow, columns: index of the first coefficient in k */
    int group;     /* Pillow, columns: index of the first group in packed */
    double centre; /* of the filter, in input pixels */
    double sum;    /* of the unnormalised weights */
    float next;    /* PyTorch: weight of input first + count - 1 */
};

/* Four taps as AVX2 multiplies them, k = high · 2^11 + low, so that 16-bit products do: lanes
 * k0 k1 k0 k1 k0 k1 0 0 | k2 k3 k2 k3 k2 k3 0 0, against pixels R0 R1 G0 G1 B0 B1 … */
#define GROUP_TAPS 4
#define GROUP_SHIFT 11
struct image_group {
    int16_t high[16], low[16];
};

struct image_kernels {
    /* One row: src [width, 3] u8 → dst [out, 3] u8, with the taps s->x. */
    void (*resize_row)(const struct image_scratch *s, const uint8_t *src, int out, uint8_t *dst);
    /* sum[i] += row[i] · k; row [n] u8 */
    void (*add_row)(int32_t *sum, const uint8_t *row, int32_t k, size_t n);
    /* dst[i] = sum[i] rounded to a byte */
    void (*close_row)(uint8_t *dst, const int32_t *sum, size_t n);
    int packed;  /* resize_row reads s->packed and, behind a window's first pixel, … */
    int overrun; /* … 12 bytes for each group but the last and this many for the last */
};

extern const struct image_kernels image_kernels_scalar, image_kernels_avx2;

/* v / 2^COEF_BITS rounded, clipped to a byte. */
static inline uint8_t image_clip8(int32_t sum)
{
    int32_t v = (sum + COEF_HALF) >> COEF_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

#endif
