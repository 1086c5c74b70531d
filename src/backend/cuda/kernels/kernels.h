/* SPDX-License-Identifier: Apache-2.0
 * kernels: C prototypes of every launcher of the portable path. A launcher takes shapes, pointers
 * and a stream, chooses nothing (select.c has chosen) and returns the launch's status. Nothing here
 * allocates or waits, so all of it may run under stream capture.
 *
 * bf16 tensors are uint16_t on this side. Matrices are row-major [rows, columns]; a weight is
 * [N, K] (out, in). What changes from call to call inside one graph (lengths, masks, ids) is read
 * by the kernels from device memory: struct cu_row and struct cu_sample. */
#ifndef PI0_CUDA_KERNELS_H
#define PI0_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A row of the concatenated, ragged token matrix of a stage. */
struct cu_row {
    int32_t src;   /* prefix: ≥ 0 row of the image features, CU_ROW_PAD a row of padding, else
                       -1 - token id. Suffix: unused */
    int32_t cache; /* row of the K/V cache: sample · max_keys + index in the sample; -1: padding */
    int32_t pos;   /* RoPE position */
    int32_t sample; /* whose row it is */
};
#define CU_ROW_PAD INT32_MIN

/* A sample of the call. Keys [0, n_valid) are seen by all, [n_valid, n_rows) by nobody,
 * [n_rows, n_rows + n_suffix) by the suffix alone. */
struct cu_sample {
    int32_t row0; /* its first row in the prefix matrix */
    int32_t n_rows, n_valid;
    int32_t kv_row; /* its first row in the K/V cache of a layer: sample · max_keys */
};

/* ---- embed.cu ---- */
struct cu_patches {
    const uint8_t *pixels; /* [n_images, image, image, 3] */
    int n_images, image, patch;
    int k_pad;          /* columns of a patch row ≥ 3·patch² (the rest is 0) */
    const float *table; /* [tokens, width]: position + bias of the centred convolution */
    uint16_t *patches;  /* out bf16 [n_images·tokens, k_pad]: pixel − 128, exact in bf16 */
    float *x;           /* out [n_images·tokens, width]: the table, once an image */
    int width;
};
cudaError_t cu_patches(const struct cu_patches *a, cudaStream_t s);
/* table[t, d] = pos[t, d] + bias[d] + Σ_k w[d, k] / 255, with w bf16 [width, k_pad]. */
cudaError_t cu_patch_table(float *table, const float *pos, const float *bias, const uint16_t *w,
                           int tokens, int width, int k_pad, cudaStream_t s);
struct cu_prefix_embed {
    const struct cu_row *rows; /* [n_rows] */
    int n_rows, width;
    const float *features; /* [·, width] */
    const uint16_t *table; /* bf16 [vocab, width] */
    float scale;           /* sqrt(width) */
    float *x;              /* out [n_rows, width] */
    /* Rows of padding become zeros here too, or NULL: no attention writes them, and a product that
     * treats neighbouring rows together must not meet what an earlier call left there. */
    uint16_t *o; /* bf16 [n_rows, o_width], o_width a multiple of 2 */
    int o_width;
};
cudaError_t cu_prefix_embed(const struct cu_prefix_embed *a, cudaStream_t s);

/* ---- norm.cu ---- */
/* y = bf16((x − mean) · rstd · g + b), eps 1e-6, biased variance. */
cudaError_t cu_layernorm(const float *x, const float *g, const float *b, uint16_t *y, int rows,
                         int width, cudaStream_t s);
/* Before the norm, if delta: x += delta, or x += gate[w] · delta, written back to x. Then
 * y = bf16(x / rms(x) · (1 + scale) + shift). */
struct cu_rmsnorm {
    float *x;           /* [rows, width] */
    const float *delta; /* [parts, rows, width], added in that order, or NULL */
    int parts;          /* 0: one */
    const float *gate;  /* [width] or NULL */
    const float *scale; /* [width] */
    const float *shift; /* [width] or NULL */
    uint16_t *y;        /* out bf16 [rows, width] */
    int rows, width;
};
cudaError_t cu_rmsnorm(const struct cu_rmsnorm *a, cudaStream_t s);

/* ---- elementwise.cu ---- */
enum cu_act { CU_ACT_NONE = 0, CU_ACT_GELU = 1, CU_ACT_SILU = 2 };
/* h[r, f] = bf16(gelu(gate) · up). gu bf16 [rows, 2·n]: gate and up in turns of `group` columns. */
cudaError_t cu_geglu(const uint16_t *gu, uint16_t *h, int rows, int n, int group, cudaStream_t s);
/* y = act(y + bias) in place: y bf16 or float32 [rows, n], bias of y's type. */
cudaError_t cu_bias_act(void *y, const void *bias, int is_bf16, int rows, int n, enum cu_act act,
                        cudaStream_t s);
struct cu_rope {
    const float *qkv;          /* [n_rows, heads·E + 2E]; heads 0: k and v alone */
    const struct cu_row *rows; /* [n_rows] */
    const float *cos_sin;      /* [positions, E/2, 2] */
    uint16_t *q;               /* out bf16 [n_rows, heads·E] */
    uint16_t *k, *v;           /* out bf16 [·, E], row rows[r].cache */
    int n_rows, heads, head_dim;
    const uint16_t *qkv16; /* in place of qkv, head_dim 256: the product in bf16, q is left alone */
};
cudaError_t cu_rope(const struct cu_rope *a, cudaStream_t s);

/* ---- attn_sm80.cu ---- */
enum cu_attn_mode { CU_ATTN_VISION = 0, CU_ATTN_PREFIX = 1, CU_ATTN_SUFFIX = 2 };
struct cu_attn {
    enum cu_attn_mode mode;
    int head_dim, heads;
    int n; /* images (vision) or samples */
    /* Vision: q, k, v are columns of one matrix [n·tokens, 3·heads·E]. Prefix, suffix: q [rows,
     * heads·E], k and v rows sample·max_keys + index of [·, E], shared by all heads. */
    const uint16_t *q, *k, *v;
    int ldq, ldk; /* elements a row */
    uint16_t *o;  /* out bf16 [rows, heads·E] */
    float scale;  /* on the logits */
    int tokens;   /* vision: a image. Prefix: most rows of a sample (the grid's size) */
    const struct cu_sample *samples; /* [n]; prefix, suffix */
    int max_keys;                    /* prefix, suffix */
    int horizon;                     /* suffix: action rows a sample: rows b·horizon + i */
    int n_state;                     /* suffix: keys before the actions' */
    int query_state;                 /* suffix: 1 = the state row (n·horizon + b) asks too */
    int n_splits;                    /* suffix: pieces the keys are cut into; 1 = none */
    float *part_o;                   /* suffix, splits > 1: [n, n_splits, rows, E] */
    float *part_ml; /* [n, n_splits, rows, 2]: max (base 2) and sum; rows = queries · heads */
    int smem_limit; /* bytes of shared memory a block may have on this device */
};
cudaError_t cu_attn_mma(const struct cu_attn *a, cudaStream_t s);
/* Any head size, any device; slow. The mma kernels' reference. n_splits is not read. */
cudaError_t cu_attn_any(const struct cu_attn *a, cudaStream_t s);
/* Raises the shared-memory limit of the kernels `a` would use; once, before capture. */
cudaError_t cu_attn_mma_prepare(int head_dim, int smem_limit);
/* 1 if cu_attn_mma has code for this head size. */
int cu_attn_mma_has(enum cu_attn_mode mode, int head_dim);

/* ---- attn_plain.cu ---- */
/* Weights of attention from its scores, rows (query, head) of `ld` columns: softmax of scale · score
 * over the keys that the row sees (struct cu_attn), 0 elsewhere, and in rows of padding. */
struct cu_softmax {
    enum cu_attn_mode mode;
    const float *scores; /* [rows, ld] */
    uint16_t *weights;   /* out bf16 [rows, ld] */
    int rows, n_keys, ld, heads;
    float scale;
    const struct cu_sample *sample; /* on the device; prefix, suffix */
    int horizon, n_state;           /* suffix; rows past the horizon are the state's */
};
cudaError_t cu_softmax(const struct cu_softmax *a, cudaStream_t s);

/* ---- denoise.cu ---- */
/* y[s, n] = act(Σ_k w[n, k0 + k] · x[s, k] + bias[n]), float32; w float32 or bf16 [N, ldw]. Tables
 * and small projections; one warp a column n, all rows s. */
struct cu_linear {
    const void *w;
    int w_bf16, ldw, k0;
    const float *x; /* [rows, k], rows ldx apart (0: k) */
    const float *bias;
    float *y; /* [rows, ldy] */
    int rows, n, k, ldx, ldy;
    enum cu_act act;
};
cudaError_t cu_linear(const struct cu_linear *a, cudaStream_t s);
/* y[r, n] = act(Σ_a wt[a, n] · x[r, a] + c[n]), float32. */
struct cu_suffix_in {
    const float *x; /* [rows, A] */
    const float *wt, *c;
    float *y; /* [rows, n] */
    int rows, n, A;
    enum cu_act act;
};
cudaError_t cu_suffix_in(const struct cu_suffix_in *a, cudaStream_t s);
/* The end of a step: x += gate·delta (as in cu_rmsnorm), final norm in float32, v = out_w·y + out_b,
 * actions += dt · v. */
struct cu_velocity {
    const float *x, *delta, *gate, *scale, *shift; /* as in cu_rmsnorm; x is not written */
    const float *out_w, *out_b;                    /* [A, width], [A] */
    float *actions;                                /* [rows, A], read and written */
    float *rec_x, *rec_v;                          /* [rows, A] of this step, or NULL */
    float dt;
    int rows, width, A;
};
cudaError_t cu_velocity(const struct cu_velocity *a, cudaStream_t s);

/* ---- gemm_lt.c ---- */
enum cu_gemm_type {
    CU_GEMM_BF16_F32 = 0,  /* x, w bf16; y, bias float32 */
    CU_GEMM_BF16_BF16 = 1, /* x, w, y, bias bf16 */
    CU_GEMM_F32 = 2        /* all float32, no tensor cores */
};
/* y[M, N] = act(alpha · x[M, K] · w[N, K]ᵀ + beta · y + bias[N]), float32 sums. */
struct cu_gemm {
    enum cu_gemm_type type;
    int m, n, k;
    const void *x, *w, *bias; /* bias may be NULL */
    void *y;
    float alpha, beta; /* beta 0 or 1 */
    enum cu_act act;   /* NONE or GELU */
    int pick;          /* which of cuBLASLt's candidates, best guess first (select.c) */
    int ldy;           /* values from one row of y to the next; 0: n */
    int ldx, ldw;      /* the same of x and w; 0: k */
    int w_kn;          /* 1: w is [K, N], ldw 0: n */
    int batch;         /* products side by side; 0: one */
    int64_t step_x, step_w, step_y; /* values from one of them to the next */
};

/* ---- weights.cu ---- */
/* Values of a synthetic tensor (model/synth.h), first … first + n of its flat order, to rows of
 * `cols` values each at distance ld: dst[(i / cols) · ld + i % cols]. */
struct cu_synth {
    uint64_t base;
    float a, b;
    uint64_t first;
    int64_t rows;
    int cols, ld;
    int group, group_stride; /* destination row of row r: (r / group)·group_stride + r % group */
    int to_f32;              /* dst float32 instead of bf16 */
    void *dst;
};
cudaError_t cu_synth(const struct cu_synth *a, cudaStream_t s);
/* *first = min(*first, value) if any of these values is NaN or infinite. Places as in cu_synth. */
struct cu_scan {
    const void *src; /* float32 or bf16 */
    int is_f32, cols, ld, group, group_stride, value;
    int64_t rows;
    int *first; /* on the device */
};
cudaError_t cu_scan(const struct cu_scan *a, cudaStream_t s);

#ifdef __cplusplus
}
#endif
#endif
