/* SPDX-License-Identifier: Apache-2.0
 *
 * ref/ops: the executable specification. Every op of π0 and π0.5 as a loop a student can read:
 * scalar C, float32, row-major, no padding, no threads, no tricks. docs/model.md gives each formula;
 * the tests hold these loops against its worked examples, and everything faster against these loops.
 *
 * Letters: M rows (tokens), N output features, K input features, D or W width, H heads, E head size.
 */
#ifndef PI0_REF_OPS_H
#define PI0_REF_OPS_H

#include <stdint.h>

#define REF_NORM_EPS 1e-6f /* LayerNorm and RMSNorm, at every size */

/* 0.5 z (1 + tanh(sqrt(2/π) (z + 0.044715 z³))): the tanh form, not erf (docs/model.md §1). */
float ref_gelu_tanh(float z);
/* z · sigmoid(z). */
float ref_silu(float z);

/* y[M, N] = x[M, K] · w[N, K]ᵀ + b[N]; b may be NULL. Sums run from k = 0 upwards. */
struct ref_mnk {
    int m, n, k;
};
void ref_linear(float *y, const float *x, const float *w, const float *b, struct ref_mnk size);

/* y[M, D] = (x - mean) / sqrt(var + eps) · w + b, over D; biased variance. */
void ref_layernorm(float *y, const float *x, const float *w, const float *b, int m, int d);

/* y[M, D] = x / sqrt(mean(x²) + eps) · (1 + w): the stored weight is an offset from 1. */
void ref_rmsnorm(float *y, const float *x, const float *w, int m, int d);

/* adaRMS: y[M, D] = x / sqrt(mean(x²) + eps) · (1 + scale) + shift; scale, shift [D] the same for all
 * rows. */
void ref_adarms(float *y, const float *x, const float *scale, const float *shift, int m, int d);

/* cos and sin of pos · 10000^(-2i/E), i = 0 … E/2-1. Frequencies in float64 and rounded once, angles
 * in float32 (docs/model.md §3.3). */
void ref_rope_angles(int pos, int e, float *cos_out, float *sin_out);

/* Rotates x[M, H, E] in place; row r stands at pos[r]. Element i pairs with i + E/2. */
void ref_rope(float *x, const int *pos, int m, int h, int e);

/* o[M, H, E] = softmax_j(scale · q[M, H, E] · k[N, G, E]ᵀ) · v[N, G, E], where query i sees key j iff
 * mask[i · N + j]. G is H (vision) or 1 (all heads share one). mask NULL: all see all. */
struct ref_attention {
    const float *q, *k, *v;
    const uint8_t *mask;
    int m, n, h, g, e;
    float scale;
};
void ref_attention(float *o, const struct ref_attention *a);

/* x[tokens, 3p²] = u8/255·2 - 1 of a [size, size, 3] image; tokens row-major over the grid, inside a
 * patch c·p² + ky·p + kx. */
void ref_patches(float *x, const uint8_t *pixels, int image_size, int patch_size);

#endif
