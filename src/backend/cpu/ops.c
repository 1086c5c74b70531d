/* SPDX-License-Identifier: Apache-2.0
 *
 * ops: the table of ops.h in plain C, over packed weights, and the choice of instruction sets. The
 * arithmetic is that of ref/ops.c, in the same order of summation: the scalar engine is the
 * reference engine. Owns no memory; the fast entries are in <family>_<isa>.c. */
#include "backend/cpu/ops.h"

#include "pi0.h"
#include "ref/ops.h"

#include <math.h>

/* ---------------------------------------------------------------- products */

static void store(void *y, enum dtype t, long at, float value)
{
    if (t == DT_BF16)
        ((uint16_t *)y)[at] = bf16_from_f32(value);
    else
        ((float *)y)[at] = value;
}

/* z[16] of one row and one panel → y. `up` is the panel beside it (EPI_GEGLU), else NULL. */
static void epilogue(const struct linear_args *a, int row, int panel, const float *z,
                     const float *up)
{
    long at = (long)row * a->y_stride + (up ? panel / 2 : panel) * CPU_PANEL;
    for (int c = 0; c < CPU_PANEL; c++) {
        switch (a->epilogue) {
        case EPI_STORE: store(a->y, a->y_dtype, at + c, z[c]); break;
        case EPI_ADD:
            ((float *)a->y)[at + c] += a->gate ? a->gate[panel * CPU_PANEL + c] * z[c] : z[c];
            break;
        case EPI_GELU: store(a->y, a->y_dtype, at + c, ref_gelu_tanh(z[c])); break;
        case EPI_SILU: store(a->y, a->y_dtype, at + c, ref_silu(z[c])); break;
        case EPI_GEGLU: store(a->y, a->y_dtype, at + c, ref_gelu_tanh(z[c]) * up[c]); break;
        }
    }
}

static void add_bias(const struct packed *w, int panel, float z[CPU_PANEL])
{
    for (int c = 0; w->bias && c < CPU_PANEL; c++)
        z[c] += w->bias[panel * CPU_PANEL + c];
}

/* Sums of one row (a function of the kind of product), for all panels of a call. */
typedef void (*row_fn)(const struct linear_args *a, int row, int panel, float z[CPU_PANEL]);

static void linear(const struct linear_args *a, int begin, int end, row_fn row)
{
    int pair = a->epilogue == EPI_GEGLU;
    for (int panel = begin; panel < end; panel += 1 + pair)
        for (int r = 0; r < a->m; r++) {
            float z[CPU_PANEL], up[CPU_PANEL];
            row(a, r, panel, z);
            add_bias(a->w, panel, z);
            if (pair) {
                row(a, r, panel + 1, up);
                add_bias(a->w, panel + 1, up);
            }
            epilogue(a, r, panel, z, pair ? up : NULL);
        }
}

static void row_bf16(const struct linear_args *a, int row, int panel, float z[CPU_PANEL])
{
    const uint16_t *x = (const uint16_t *)a->x + (long)row * a->x_stride;
    const uint16_t *w = (const uint16_t *)a->w->w + (long)panel * a->w->k_pad * CPU_PANEL;
    float sum[CPU_PANEL] = { 0 };
    for (int k = 0; k < a->w->k_pad; k += 2, w += 2 * CPU_PANEL) {
        float x0 = bf16_to_f32(x[k]), x1 = bf16_to_f32(x[k + 1]);
        for (int c = 0; c < CPU_PANEL; c++) {
            sum[c] += x0 * bf16_to_f32(w[2 * c]);
            sum[c] += x1 * bf16_to_f32(w[2 * c + 1]);
        }
    }
    for (int c = 0; c < CPU_PANEL; c++)
        z[c] = sum[c];
}

static void row_f32(const struct linear_args *a, int row, int panel, float z[CPU_PANEL])
{
    const float *x = (const float *)a->x + (long)row * a->x_stride;
    const float *w = (const float *)a->w->w + (long)panel * a->w->k_pad * CPU_PANEL;
    float sum[CPU_PANEL] = { 0 };
    for (int k = 0; k < a->w->k_pad; k++, w += CPU_PANEL)
        for (int c = 0; c < CPU_PANEL; c++)
            sum[c] += x[k] * w[c];
    for (int c = 0; c < CPU_PANEL; c++)
        z[c] = sum[c];
}

static void row_f32_wbf16(const struct linear_args *a, int row, int panel, float z[CPU_PANEL])
{
    const float *x = (const float *)a->x + (long)row * a->x_stride;
    const uint16_t *w = (const uint16_t *)a->w->w + (long)panel * a->w->k_pad * CPU_PANEL;
    float sum[CPU_PANEL] = { 0 };
    for (int k = 0; k < a->w->k_pad; k += 2, w += 2 * CPU_PANEL)
        for (int c = 0; c < CPU_PANEL; c++) {
            sum[c] += x[k] * bf16_to_f32(w[2 * c]);
            sum[c] += x[k + 1] * bf16_to_f32(w[2 * c + 1]);
        }
    for (int c = 0; c < CPU_PANEL; c++)
        z[c] = sum[c];
}

static void linear_bf16_scalar(const struct linear_args *a, int begin, int end)
{
    linear(a, begin, end, row_bf16);
}

static void linear_f32_scalar(const struct linear_args *a, int begin, int end)
{
    linear(a, begin, end, row_f32);
}

static void linear_f32_wbf16_scalar(const struct linear_args *a, int begin, int end)
{
    linear(a, begin, end, row_f32_wbf16);
}

/* ---------------------------------------------------------------- norms, positions */

static void layernorm_scalar(const struct norm_args *a, int begin, int end)
{
    for (int r = begin; r < end; r++) {
        const float *x = a->x + (long)r * a->x_stride;
        float mean = 0, var = 0;
        for (int i = 0; i < a->width; i++)
            mean += x[i];
        mean /= (float)a->width;
        for (int i = 0; i < a->width; i++)
            var += (x[i] - mean) * (x[i] - mean);
        float inv = 1.0f / sqrtf(var / (float)a->width + CPU_NORM_EPS);
        for (int i = 0; i < a->width; i++) {
            float y = (x[i] - mean) * inv * a->gain[i] + (a->shift ? a->shift[i] : 0.0f);
            store(a->y, a->y_dtype, (long)r * a->y_stride + i, y);
        }
    }
}

static void rmsnorm_scalar(const struct norm_args *a, int begin, int end)
{
    for (int r = begin; r < end; r++) {
        const float *x = a->x + (long)r * a->x_stride;
        float sum = 0;
        for (int i = 0; i < a->width; i++)
            sum += x[i] * x[i];
        float inv = 1.0f / sqrtf(sum / (float)a->width + CPU_NORM_EPS);
        for (int i = 0; i < a->width; i++) {
            float y = x[i] * inv * a->gain[i] + (a->shift ? a->shift[i] : 0.0f);
            store(a->y, a->y_dtype, (long)r * a->y_stride + i, y);
        }
    }
}

static void rope_scalar(const struct rope_args *a, int begin, int end)
{
    int half = a->head_dim / 2;
    for (int r = begin; r < end; r++) {
        const float *cos_r = a->cos + (long)r * half, *sin_r = a->sin + (long)r * half;
        float *x = a->x + (long)r * a->x_stride;
        for (int head = 0; head < a->n_heads; head++, x += a->head_dim)
            for (int i = 0; i < half; i++) {
                float lo = x[i], hi = x[i + half];
                x[i] = lo * cos_r[i] - hi * sin_r[i];
                x[i + half] = hi * cos_r[i] + lo * sin_r[i];
            }
    }
}

/* ---------------------------------------------------------------- attention */

static void keys_scalar(const struct keys_args *a, int begin, int end)
{
    for (int r = begin; r < end; r++) {
        int key = a->first_key + r;
        const float *k = a->k + (long)r * a->k_stride;
        float *lane =
            a->panels + (long)(key / CPU_PANEL) * a->head_dim * CPU_PANEL + key % CPU_PANEL;
        for (int i = 0; i < a->head_dim; i++)
            lane[(long)i * CPU_PANEL] = k[i];
    }
}

/* Probabilities of one query, not yet divided by their sum, into p[n_keys]; returns the sum. Keys in
 * the hole get 0. */
static float softmax_row(const struct attn_args *a, const float *q, float *p)
{
    float top = -INFINITY, total = 0;
    for (int j = 0; j < a->n_keys; j += CPU_PANEL) {
        const float *k = a->keys + (long)j * a->head_dim;
        float dot[CPU_PANEL] = { 0 };
        for (int i = 0; i < a->head_dim; i++, k += CPU_PANEL)
            for (int c = 0; c < CPU_PANEL; c++)
                dot[c] += q[i] * k[c];
        for (int c = 0; c < CPU_PANEL && j + c < a->n_keys; c++)
            p[j + c] = dot[c] * a->scale;
    }
    for (int j = 0; j < a->n_keys; j++)
        if (j < a->hole_begin || j >= a->hole_end)
            top = fmaxf(top, p[j]);
    for (int j = 0; j < a->n_keys; j++) {
        p[j] = j < a->hole_begin || j >= a->hole_end ? expf(p[j] - top) : 0.0f;
        total += p[j];
    }
    return total;
}

static void attn_f32_scalar(const struct attn_args *a, int begin, int end)
{
    float *p = a->scratch; /* [n_keys] */
    for (int r = begin; r < end; r++) {
        float total = softmax_row(a, a->q + (long)r * a->q_stride, p);
        for (int e = 0; e < a->head_dim; e += CPU_PANEL) {
            int width = a->head_dim - e < CPU_PANEL ? a->head_dim - e : CPU_PANEL;
            float sum[CPU_PANEL] = { 0 };
            for (int j = 0; j < a->n_keys; j++) {
                const float *v = a->v + (long)j * a->v_stride + e;
                if (j == a->hole_begin && a->hole_end > j) { /* masked values are not read */
                    j = a->hole_end - 1;
                    continue;
                }
                for (int c = 0; c < width; c++)
                    sum[c] += p[j] * v[c];
            }
            for (int c = 0; c < width; c++)
                store(a->o, a->o_dtype, (long)r * a->o_stride + e + c, sum[c] / total);
        }
    }
}

/* ---------------------------------------------------------------- pixels */

static void patches_scalar(const struct patches_args *a, int begin, int end)
{
    int p = a->patch_size, grid = a->image_size / p;
    for (int token = begin; token < end; token++) {
        float *x = a->x + (long)token * a->x_stride;
        const uint8_t *corner =
            a->pixels + ((long)(token / grid) * p * a->image_size + (long)(token % grid) * p) * 3;
        for (int c = 0; c < 3; c++)
            for (int ky = 0; ky < p; ky++)
                for (int kx = 0; kx < p; kx++)
                    *x++ = (float)corner[((long)ky * a->image_size + kx) * 3 + c] / 255.0f * 2.0f -
                           1.0f;
    }
}

/* ---------------------------------------------------------------- choice */

static void fill_scalar(struct cpu_ops *o)
{
    *o = (struct cpu_ops){
        .linear = { [LINEAR_BF16] = { linear_bf16_scalar, "linear_bf16_scalar" },
                    [LINEAR_F32] = { linear_f32_scalar, "linear_f32_scalar" },
                    [LINEAR_F32_WBF16] = { linear_f32_wbf16_scalar, "linear_f32_wbf16_scalar" } },
        .layernorm = { layernorm_scalar, "layernorm_f32_scalar" },
        .rmsnorm = { rmsnorm_scalar, "rmsnorm_f32_scalar" },
        .rope = { rope_scalar, "rope_f32_scalar" },
        .keys = { keys_scalar, "keys_f32_scalar" },
        .attn = { attn_f32_scalar, "attn_f32_scalar" },
        .patches = { patches_scalar, "patches_u8_scalar" },
    };
}

/* Kernel files that are built, from the oldest instruction set to the newest. */
static const struct {
    uint32_t isa;
    void (*fill)(struct cpu_ops *o);
} overrides[] = {
    { 0, fill_scalar },
#if defined(__x86_64__)
    { PI0_ISA_AVX2, cpu_linear_avx2 },
    { PI0_ISA_AVX2, cpu_attn_avx2 },
    { PI0_ISA_AVX2, cpu_norm_avx2 },
    { PI0_ISA_AVX512, cpu_linear_avx512 },
    { PI0_ISA_AVX512, cpu_attn_avx512 },
    { PI0_ISA_AVX512, cpu_norm_avx512 },
    { PI0_ISA_AVX512_BF16, cpu_linear_avx512bf16 },
    { PI0_ISA_AMX_BF16, cpu_linear_amx },
#endif
};

void cpu_ops_fill(struct cpu_ops *o, uint32_t isa)
{
    for (size_t i = 0; i < sizeof overrides / sizeof *overrides; i++)
        if ((overrides[i].isa & isa) == overrides[i].isa)
            overrides[i].fill(o);
}
