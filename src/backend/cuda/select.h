/* SPDX-License-Identifier: Apache-2.0
 * select: which kernel, tiles and shape bucket, as pure functions of (architecture, shape). No CUDA
 * call, no state: tested on machines without a GPU. */
#ifndef PI0_CUDA_SELECT_H
#define PI0_CUDA_SELECT_H

#include "model/plan.h"

enum cu_attn_kernel {
    CU_ATTN_KERNEL_MMA = 0,   /* attn_sm80.cu, mma.sync */
    CU_ATTN_KERNEL_ANY = 1,   /* attn_sm80.cu, plain loops: a head size without mma code */
    CU_ATTN_KERNEL_PLAIN = 3, /* scores and weights in memory, cuBLASLt: for measurement alone */
    CU_ATTN_KERNEL_SM90 = 2   /* wgmma, Hopper: attn_sm90.cu (prefix), attn_vision_sm90.cu */
};
const char *cu_attn_kernel_name(enum cu_attn_kernel k);

/* What a device is, as far as the choice depends on it. */
struct cu_facts {
    int cc;         /* 80, 86, 87, 89, 90 … */
    int n_sm;       /* multiprocessors */
    int smem_limit; /* bytes of shared memory a block may have */
};

/* The choices that hold for the life of an engine. */
struct cu_choice {
    enum cu_attn_kernel attn_vision, attn_prefix, attn_suffix;
    int glu_group_vlm, glu_group_expert; /* gate and up rows in turns of this many */
    int vision_sm90; /* 1: the tower's layers are vision_sm90.cu's fused products, up to
                        CU_VISION_FUSED_ROWS rows */
    int qkv_sm90;    /* 1: q, k, v of the prefix with RoPE are qkv_sm90.cu's one kernel, up to the
                        rows that it takes at once */
    int late_rope;   /* 1: of more rows than that, attn_sm90.cu turns the queries that it loads */
    int suffix_sm90; /* 1: batches are denoised by suffix_sm90.h's chain */
    int geglu_sm90;  /* 1: the prefix's gate·up and GeGLU are gemm_sm90.cu's one kernel */
    int proj_sm90;   /* 1: the prefix's o and down are proj_sm90.cu's kernel, up to the rows that it
                        takes at once */
    int early_sm90;  /* 1: one sample's first denoising step begins beside the prefix (early.c) */
};
void cu_select(struct cu_choice *out, const struct cu_facts *f, const struct plan *p);

/* From here on cuBLASLt's products are ahead of the fused ones by more than the norms cost. */
#define CU_VISION_FUSED_ROWS 1024

/* Gate and up rows alternate in groups of 8 (a tensor-core fragment then holds a unit's gate and up
 * in one thread, whichever side the weights are on); all gates first where 8 does not divide n. */
int cu_glu_group(int n);

/* Shape buckets: a graph is captured for the bucket, the true counts are in device memory. */
int cu_bucket_images(int n);
int cu_bucket_rows(int n);
/* Most rows of a sample, for the grid of the prefix attention; ≤ `rows` for a batch of one. */
int cu_bucket_sample_rows(int most, int batch, int rows);
/* Pieces that the keys of the suffix attention are cut into: enough blocks to fill the device, no
 * piece under a tile of 64 keys, at most 32. */
int cu_suffix_splits(int n_keys, int query_rows, int batch, int n_sm);
/* Samples of a call up to which the denoising loop, one sample after the other, beats the chain of
 * layers on all of them at once; 0: never. */
int cu_loop_batch(int horizon);
#define CU_MAX_SPLITS 32

/* Layers of the first denoising step of one sample, `tokens` rows with the state's, that keep pace with a
 * prefix of `rows` rows on the processors that its large products leave free; 0: none. `mlp`: the
 * prefix's hidden width. */
int cu_early_layers(const struct cu_facts *f, int rows, int tokens, int depth, int mlp);

/* Rows of the prefix MLP taken at a time: bounds its scratch at large batches. */
int cu_mlp_chunk(int max_rows);
/* Pieces of K whose products are kept apart, for the norm that follows to add up with the residual;
 * 0: the product adds to the residual itself. The pieces of [m, n] fit where k values a row do. */
int cu_split_k(const struct cu_facts *f, int m, int n, int k);
/* Candidate of cuBLASLt's list for a product (best guess first; 0 unless measured). type: enum
 * cu_gemm_type. */
int cu_gemm_pick(const struct cu_facts *f, int type, int m, int n, int k);
/* How many of a weight's rows to multiply, n of its own and zeros up to `padded`: all where cuBLASLt
 * was measured to be faster with them. */
int cu_padded_rows(const struct cu_facts *f, int m, int n, int padded, int k);

#endif
