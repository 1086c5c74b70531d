/* SPDX-License-Identifier: Apache-2.0
 *
 * norm_body: layer norm, RMS norm and RoPE by rows, for every vector instruction set; included by
 * norm_<isa>.c. A row's sums run over four vectors in turn, then over their lanes, then over what is
 * left of the width: the order depends on the width alone. */
#ifndef PI0_BACKEND_CPU_NORM_BODY_H
#define PI0_BACKEND_CPU_NORM_BODY_H

#include "backend/cpu/ops.h"
#include "backend/cpu/vec.h"

#include <math.h>

#define NORM_SUMS 4

/* Σ x, and Σ (x - mean)². */
VEC_INLINE float norm_sum(const float *x, int width)
{
    vf s[NORM_SUMS] = { vf_zero(), vf_zero(), vf_zero(), vf_zero() };
    int i = 0;
    for (; i + NORM_SUMS * VEC_LANES <= width; i += NORM_SUMS * VEC_LANES)
        for (int j = 0; j < NORM_SUMS; j++)
            s[j] = vf_add(s[j], vf_load(x + i + j * VEC_LANES));
    for (; i + VEC_LANES <= width; i += VEC_LANES)
        s[0] = vf_add(s[0], vf_load(x + i));
    float total = vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
    for (; i < width; i++)
        total += x[i];
    return total;
}

VEC_INLINE float norm_sum_squares(const float *x, float mean, int width)
{
    vf s[NORM_SUMS] = { vf_zero(), vf_zero(), vf_zero(), vf_zero() }, m = vf_set(mean);
    int i = 0;
    for (; i + NORM_SUMS * VEC_LANES <= width; i += NORM_SUMS * VEC_LANES)
        for (int j = 0; j < NORM_SUMS; j++) {
            vf d = vf_sub(vf_load(x + i + j * VEC_LANES), m);
            s[j] = vf_fma(d, d, s[j]);
        }
    for (; i + VEC_LANES <= width; i += VEC_LANES) {
        vf d = vf_sub(vf_load(x + i), m);
        s[0] = vf_fma(d, d, s[0]);
    }
    float total = vf_sum(vf_add(vf_add(s[0], s[1]), vf_add(s[2], s[3])));
    for (; i < width; i++)
        total += (x[i] - mean) * (x[i] - mean);
    return total;
}

/* (x - mean) · inv · gain + shift of one row. */
VEC_INLINE void norm_apply(const struct norm_args *a, int row, float mean, float inv)
{
    const float *x = a->x + (size_t)row * (size_t)a->x_stride;
    float *y = (float *)a->y + (size_t)row * (size_t)a->y_stride;
    uint16_t *half = (uint16_t *)a->y + (size_t)row * (size_t)a->y_stride;
    int i = 0, bf16 = a->y_dtype == DT_BF16;
    vf m = vf_set(mean), s = vf_set(inv);
    for (; i + VEC_LANES <= a->width; i += VEC_LANES) {
        vf z = vf_mul(vf_mul(vf_sub(vf_load(x + i), m), s), vf_load(a->gain + i));
        if (a->shift)
            z = vf_add(z, vf_load(a->shift + i));
        if (bf16)
            vf_store_bf16(half + i, z);
        else
            vf_store(y + i, z);
    }
    for (; i < a->width; i++) {
        float z = (x[i] - mean) * inv * a->gain[i] + (a->shift ? a->shift[i] : 0.0f);
        if (bf16)
            half[i] = bf16_from_f32(z);
        else
            y[i] = z;
    }
}

static void layernorm_run(const struct norm_args *a, int begin, int end)
{
    for (int r = begin; r < end; r++) {
        const float *x = a->x + (size_t)r * (size_t)a->x_stride;
        float mean = norm_sum(x, a->width) / (float)a->width;
        float var = norm_sum_squares(x, mean, a->width) / (float)a->width;
        norm_apply(a, r, mean, 1.0f / sqrtf(var + CPU_NORM_EPS));
    }
}

static void rmsnorm_run(const struct norm_args *a, int begin, int end)
{
    for (int r = begin; r < end; r++) {
        const float *x = a->x + (size_t)r * (size_t)a->x_stride;
        float mean_square = norm_sum_squares(x, 0.0f, a->width) / (float)a->width;
        norm_apply(a, r, 0.0f, 1.0f / sqrtf(mean_square + CPU_NORM_EPS));
    }
}

static void rope_run(const struct rope_args *a, int begin, int end)
{
    int half = a->head_dim / 2;
    for (int r = begin; r < end; r++) {
        const float *cos_r = a->cos + (size_t)r * (size_t)half;
        const float *sin_r = a->sin + (size_t)r * (size_t)half;
        float *x = a->x + (size_t)r * (size_t)a->x_stride;
        for (int head = 0; head < a->n_heads; head++, x += a->head_dim) {
            int i = 0;
            for (; i + VEC_LANES <= half; i += VEC_LANES) {
                vf lo = vf_load(x + i), hi = vf_load(x + i + half);
                vf c = vf_load(cos_r + i), s = vf_load(sin_r + i);
                vf_store(x + i, vf_sub(vf_mul(lo, c), vf_mul(hi, s)));
                vf_store(x + i + half, vf_add(vf_mul(hi, c), vf_mul(lo, s)));
            }
            for (; i < half; i++) {
                float lo = x[i], hi = x[i + half];
                x[i] = lo * cos_r[i] - hi * sin_r[i];
                x[i + half] = hi * cos_r[i] + lo * sin_r[i];
            }
        }
    }
}

#endif
