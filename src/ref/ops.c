/* SPDX-License-Identifier: Apache-2.0
 *
 * ref/ops: see ops.h. Written to be read beside docs/model.md; speed does not matter here. */
#include "ref/ops.h"

#include <math.h>
#include <stddef.h>

float ref_gelu_tanh(float z)
{
    const float sqrt_2_over_pi = 0.79788456f;
    return 0.5f * z * (1.0f + tanhf(sqrt_2_over_pi * (z + 0.044715f * z * z * z)));
}

float ref_silu(float z) { return z / (1.0f + expf(-z)); }

void ref_linear(float *y, const float *x, const float *w, const float *b, struct ref_mnk size)
{
    for (int m = 0; m < size.m; m++)
        for (int n = 0; n < size.n; n++) {
            const float *xm = x + (long)m * size.k, *wn = w + (long)n * size.k;
            float sum = 0;
            for (int k = 0; k < size.k; k++)
                sum += xm[k] * wn[k];
            y[(long)m * size.n + n] = sum + (b ? b[n] : 0.0f);
        }
}

void ref_layernorm(float *y, const float *x, const float *w, const float *b, int m, int d)
{
    for (int r = 0; r < m; r++, x += d, y += d) {
        float mean = 0, var = 0;
        for (int i = 0; i < d; i++)
            mean += x[i];
        mean /= (float)d;
        for (int i = 0; i < d; i++)
            var += (x[i] - mean) * (x[i] - mean);
        float inv = 1.0f / sqrtf(var / (float)d + REF_NORM_EPS);
        for (int i = 0; i < d; i++)
            y[i] = (x[i] - mean) * inv * w[i] + b[i];
    }
}

/* 1 / sqrt(mean(x²) + eps) of one row. */
static float inverse_rms(const float *x, int d)
{
    float sum = 0;
    for (int i = 0; i < d; i++)
        sum += x[i] * x[i];
    return 1.0f / sqrtf(sum / (float)d + REF_NORM_EPS);
}

void ref_rmsnorm(float *y, const float *x, const float *w, int m, int d)
{
    for (int r = 0; r < m; r++, x += d, y += d) {
        float inv = inverse_rms(x, d);
        for (int i = 0; i < d; i++)
            y[i] = x[i] * inv * (1.0f + w[i]);
    }
}

void ref_adarms(float *y, const float *x, const float *scale, const float *shift, int m, int d)
{
    for (int r = 0; r < m; r++, x += d, y += d) {
        float inv = inverse_rms(x, d);
        for (int i = 0; i < d; i++)
            y[i] = x[i] * inv * (1.0f + scale[i]) + shift[i];
    }
}

void ref_rope_angles(int pos, int e, float *cos_out, float *sin_out)
{
    for (int i = 0; i < e / 2; i++) {
        float frequency = (float)pow(10000.0, -2.0 * i / e);
        float angle = (float)pos * frequency;
        cos_out[i] = (float)cos((double)angle);
        sin_out[i] = (float)sin((double)angle);
    }
}

void ref_rope(float *x, const int *pos, int m, int h, int e)
{
    for (int r = 0; r < m; r++)
        for (int head = 0; head < h; head++, x += e)
            for (int i = 0; i < e / 2; i++) {
                float angle = (float)pos[r] * (float)pow(10000.0, -2.0 * i / e);
                float c = (float)cos((double)angle), s = (float)sin((double)angle);
                float a = x[i], b = x[i + e / 2];
                x[i] = a * c - b * s;
                x[i + e / 2] = b * c + a * s;
            }
}

/* Key j of query i's head: its logit. */
static float logit(const struct ref_attention *a, int i, int head, int j)
{
    const float *q = a->q + ((long)i * a->h + head) * a->e;
    const float *k = a->k + ((long)j * a->g + head % a->g) * a->e;
    float sum = 0;
    for (int d = 0; d < a->e; d++)
        sum += q[d] * k[d];
    return sum * a->scale;
}

void ref_attention(float *o, const struct ref_attention *a)
{
    for (int i = 0; i < a->m; i++)
        for (int head = 0; head < a->h; head++, o += a->e) {
            const uint8_t *sees = a->mask ? a->mask + (long)i * a->n : NULL;
            float top = -INFINITY, total = 0;
            for (int j = 0; j < a->n; j++)
                if (!sees || sees[j])
                    top = fmaxf(top, logit(a, i, head, j));
            for (int d = 0; d < a->e; d++)
                o[d] = 0;
            for (int j = 0; j < a->n; j++) {
                if (sees && !sees[j])
                    continue;
                float p = expf(logit(a, i, head, j) - top);
                const float *v = a->v + ((long)j * a->g + head % a->g) * a->e;
                total += p;
                for (int d = 0; d < a->e; d++)
                    o[d] += p * v[d];
            }
            for (int d = 0; d < a->e && total > 0; d++)
                o[d] /= total; /* a query that sees nothing stays 0: nobody reads it */
        }
}

void ref_patches(float *x, const uint8_t *pixels, int image_size, int patch_size)
{
    int grid = image_size / patch_size, p = patch_size;
    for (int row = 0; row < grid; row++)
        for (int col = 0; col < grid; col++)
            for (int c = 0; c < 3; c++)
                for (int ky = 0; ky < p; ky++)
                    for (int kx = 0; kx < p; kx++) {
                        long at = (long)(row * p + ky) * image_size + (col * p + kx);
                        *x++ = (float)pixels[at * 3 + c] / 255.0f * 2.0f - 1.0f;
                    }
}
