/* SPDX-License-Identifier: Apache-2.0
 *
 * ops: the table of arithmetic under the CPU backend. cpu_ops_fill() fills it with plain C first (so
 * with an ISA mask of 0 it is the reference engine) and lets each instruction set override entries.
 * The stage files (vision.c, prefix.c, denoise.c) call nothing else for arithmetic; how work is
 * split over threads is theirs. Kernels own no memory and know no layer.
 *
 * Rules for every entry
 *   1. A call covers the sub-range it is given and nothing else; calls on disjoint sub-ranges may
 *      run at the same time.
 *   2. The value of an output element depends on its own inputs alone: not on the sub-range, nor on
 *      how many rows the call has, nor on the row's place in it. So the same bits come out for any
 *      number of threads and any batch. (Same ISA, that is: two ISAs may differ in the last bits.)
 *   3. Shapes are checked by the plan; pointers are valid; entries return nothing and cannot fail.
 *      Bases of matrices are 64-byte aligned, row strides are multiples of 64 bytes. Vectors (bias,
 *      gate, gain, shift, cos, sin) need not be aligned.
 *   4. `scratch` is the calling thread's own, 64-byte aligned, cpu_scratch_bytes() long, contents
 *      undefined.
 *   5. Activations are f32 (precision F32) or bf16 (precision BF16), said by a dtype argument where
 *      both occur. bf16 is rounded to nearest even, once, at the store. Sums are f32.
 *
 * Padding
 *   Weights are padded with zeros to panels of 16 output features and to a K that is a multiple of
 *   32. Every matrix of activations has a row stride of at least its width rounded up to 32, and the
 *   columns past the width are zero before an op reads them as K. Bias vectors are padded with zeros
 *   to 16·n_panels; gates are readable that far (any finite value). So a kernel computes and stores
 *   whole panels without masks: padded outputs come out as 0, whatever the epilogue.
 */
#ifndef PI0_BACKEND_CPU_OPS_H
#define PI0_BACKEND_CPU_OPS_H

#include "base/dtype.h"

#include <stddef.h>
#include <stdint.h>

#define CPU_PANEL 16   /* output features (or keys) of a panel: one AVX-512 register, one tile */
#define CPU_K_GRAIN 32 /* K is padded to this: one row of a bf16 tile */
#define CPU_ATTN_ROWS \
    48 /* query rows of one attention call at most: divisible by 4, 6, 8, 12, 16 */
#define CPU_NORM_EPS 1e-6f /* both norms, every size (docs/model.md §1, §3.1) */

static inline int cpu_round_up(int n, int grain) { return (n + grain - 1) / grain * grain; }

/* A thread's scratch: half a megabyte for a product's partial sums or repacked rows (about half of a
 * core's L2), and the scores of CPU_ATTN_ROWS queries against all keys. */
static inline size_t cpu_scratch_bytes(int max_keys)
{
    return ((size_t)512 << 10) +
           (size_t)CPU_ATTN_ROWS * (size_t)cpu_round_up(max_keys, CPU_PANEL) * sizeof(float);
}

/* Row stride, in elements, of an activation matrix `width` wide: padded to 32 elements, and never a
 * multiple of 512 bytes, so that the rows of a tile do not fall into the same cache sets. */
static inline int cpu_stride(int width, enum dtype t)
{
    int n = cpu_round_up(width, CPU_K_GRAIN);
    return (size_t)n * dtype_bytes(t) % 512 == 0 ? n + CPU_K_GRAIN : n;
}

/* A matrix of N output features and K input features, packed (pack.h):
 *   bf16: [n_panels][k_pad / 2][16][2]    the pair (k, k+1) of feature n lies side by side (VNNI)
 *   f32:  [n_panels][k_pad][16]
 * Feature n is lane n % 16 of panel n / 16. A gate·up matrix has its panels interleaved: panel 2i is
 * panel i of gate, panel 2i+1 panel i of up. */
struct packed {
    const void *w;     /* 64-byte aligned */
    enum dtype dtype;  /* DT_BF16 or DT_F32 */
    int n, k;          /* as in the checkpoint (gate·up: n counts both) */
    int n_panels;      /* ceil(n / 16); gate·up: 2 · ceil(M / 16) */
    int k_pad;         /* k rounded up to 32 */
    const float *bias; /* [16 · n_panels], or NULL */
};

/* What becomes of a sum: z = x · wᵀ + bias. */
enum epilogue {
    EPI_STORE, /* y = z */
    EPI_ADD,   /* y += z, or y += gate[n] · z where gate is given; y is the f32 residual stream */
    EPI_GELU,  /* y = gelu_tanh(z) */
    EPI_SILU,  /* y = silu(z) */
    EPI_GEGLU  /* y[16·i + c] = gelu_tanh(z of panel 2i, lane c) · (z of panel 2i+1, lane c) */
};

/* y[M, N] = epilogue(x[M, K] · w[N, K]ᵀ + bias[N]). */
struct linear_args {
    const void *x; /* [m][x_stride], f32 or bf16 as the entry of the table says; k_pad columns are
                      read */
    int x_stride;  /* elements */
    int m;         /* rows, ≥ 1 */
    const struct packed *w;
    enum epilogue epilogue;
    const float *gate;  /* EPI_ADD only: [16 · n_panels], the same for all rows; NULL = 1 */
    void *y;            /* [m][y_stride]; for EPI_GEGLU half as wide as the panels */
    enum dtype y_dtype; /* EPI_ADD: DT_F32 */
    int y_stride;       /* elements */
    void *scratch;
};
/* Panels [begin, end) of w, and so columns [16·begin, 16·end) of y; for EPI_GEGLU begin and end are
 * even and the columns are [8·begin, 8·end). */
typedef void (*linear_fn)(const struct linear_args *a, int begin, int end);

/* y = (x - mean) · rsqrt(var + eps) · gain + shift over `width` columns; biased variance, two
 * passes. */
/* or, rmsnorm: y = x · rsqrt(mean(x²) + eps) · gain + shift. `gain` is the full factor (1 + w, or
 * 1 + scale of adaRMS). */
struct norm_args {
    const float *x; /* [m][x_stride] residual stream */
    int x_stride;
    int width;
    const float *gain;  /* [width] */
    const float *shift; /* [width], or NULL (plain RMSNorm) */
    void *y; /* [m][y_stride]; columns past width are left alone. May be x itself: in place */
    enum dtype y_dtype;
    int y_stride;
};
/* Rows [begin, end). */
typedef void (*norm_fn)(const struct norm_args *a, int begin, int end);

/* Rotates n_heads heads that lie side by side in each row, in place (docs/model.md §3.3): element i
 * of a head pairs with i + head_dim/2. Row r takes row r of cos and sin, [..][head_dim / 2] each. */
struct rope_args {
    float *x; /* [m][x_stride]; heads · head_dim columns from here */
    int x_stride;
    int n_heads, head_dim;
    const float *cos, *sin;
};
typedef void (*rope_fn)(const struct rope_args *a, int begin, int end);

/* Keys into the layout that attention reads: that of a packed f32 matrix whose features are keys and
 * whose K is head_dim, unpadded: [ceil(keys / 16)][head_dim][16]. Row r of k becomes key
 * first_key + r. */
struct keys_args {
    const float *k; /* [m][k_stride]; head_dim columns from here */
    int k_stride;
    int head_dim;
    float *panels;
    int first_key;
};
/* Rows [begin, end). Calls on disjoint rows may touch the same panel, never the same float. */
typedef void (*keys_fn)(const struct keys_args *a, int begin, int end);

/* o = softmax(scale · q·kᵀ over the keys [0, n_keys) without [hole_begin, hole_end)) · v, for one
 * sample and one head. Softmax is the stable one, in f32. One key outside the hole at least. Lanes of
 * the last panel past n_keys hold any finite value. */
struct attn_args {
    const float *q; /* [m][q_stride]; head_dim columns from here */
    int q_stride;
    const float *keys; /* panels, see keys_args */
    const float *v;    /* [n_keys][v_stride]; head_dim columns from here */
    int v_stride;
    int head_dim;                     /* even; 72 (vision), 256, 32 and 24 (tiny) … */
    int n_keys, hole_begin, hole_end; /* hole empty where hole_begin == hole_end */
    float scale;
    void *o; /* [m][o_stride]; head_dim columns from here */
    enum dtype o_dtype;
    int o_stride;
    void *scratch;
};
/* Rows [begin, end) of q and o, at most CPU_ATTN_ROWS of them. q, v and o start at a head's first
 * column, which need not be 64-byte aligned. */
typedef void (*attn_fn)(const struct attn_args *a, int begin, int end);

/* Patches of one image as rows: x[token][c·p² + ky·p + kx] = u8/255·2 - 1, each of the three
 * operations rounded to f32; token = row-major index in the grid. */
struct patches_args {
    const uint8_t *pixels; /* [image_size, image_size, 3] */
    int image_size, patch_size;
    float *x; /* [(image_size / patch_size)²][x_stride]; columns past 3·p² are left alone */
    int x_stride;
};
/* Tokens [begin, end). */
typedef void (*patches_fn)(const struct patches_args *a, int begin, int end);

/* Which product: the dtype of the activations and of the packed weights. */
enum linear_kind {
    LINEAR_BF16 = 0,  /* x bf16, w bf16: precision BF16 */
    LINEAR_F32,       /* x f32,  w f32:  precision F32, weights stored as F32 or F16 */
    LINEAR_F32_WBF16, /* x f32,  w bf16: precision F32, weights stored as BF16; small products of
                         both */
    N_LINEAR
};

/* An entry is a function and its name, <op>_<dtype>_<isa> ("linear_bf16_avx512bf16"). */
struct cpu_ops {
    struct {
        linear_fn run;
        const char *name;
    } linear[N_LINEAR];
    struct {
        norm_fn run;
        const char *name;
    } layernorm, rmsnorm;
    struct {
        rope_fn run;
        const char *name;
    } rope;
    struct {
        keys_fn run;
        const char *name;
    } keys;
    struct {
        attn_fn run;
        const char *name;
    } attn;
    struct {
        patches_fn run;
        const char *name;
    } patches;
};

/* Best entries for the instruction sets of `isa` (PI0_ISA_ bits that the machine has: cpuid.h). */
void cpu_ops_fill(struct cpu_ops *o, uint32_t isa);

/* Overrides, one function a kernel file; cpu_ops_fill calls them from the oldest set to the newest.
 * They are listed, and switched on, in ops.c. */
void cpu_linear_avx2(struct cpu_ops *o);
void cpu_attn_avx2(struct cpu_ops *o); /* attn and keys */
void cpu_norm_avx2(struct cpu_ops *o); /* layernorm, rmsnorm, rope */
void cpu_linear_avx512(struct cpu_ops *o);
void cpu_attn_avx512(struct cpu_ops *o);
void cpu_norm_avx512(struct cpu_ops *o);
void cpu_linear_avx512bf16(struct cpu_ops *o);
void cpu_linear_amx(struct cpu_ops *o);

#endif
