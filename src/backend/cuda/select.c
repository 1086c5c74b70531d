/* SPDX-License-Identifier: Apache-2.0
 * select: the rules behind select.h. */
#include "backend/cuda/select.h"

#include "backend/cuda/kernels/early_sm90.h"
#include "backend/cuda/kernels/gemm_sm90.h"
#include "backend/cuda/kernels/proj_sm90.h"
#include "backend/cuda/kernels/suffix_sm90.h"

static int round_up(int n, int to) { return (n + to - 1) / to * to; }

const char *cu_attn_kernel_name(enum cu_attn_kernel k)
{
    return k == CU_ATTN_KERNEL_SM90    ? "attn_bf16_sm90"
           : k == CU_ATTN_KERNEL_MMA   ? "attn_bf16_sm80"
           : k == CU_ATTN_KERNEL_PLAIN ? "attn_plain"
                                       : "attn_bf16_any";
}

int cu_glu_group(int n) { return n % 8 == 0 ? 8 : n; }

static enum cu_attn_kernel attn_for(int has)
{
    return has ? CU_ATTN_KERNEL_MMA : CU_ATTN_KERNEL_ANY;
}

void cu_select(struct cu_choice *out, const struct cu_facts *f, const struct plan *p)
{
    const struct pi0_dims *d = &p->dims;
    int vision_head = d->vision_width / d->vision_heads;
    /* head_dim 256 needs 96 KB a block at the least (attn_sm80.cu, 32 keys a tile). */
    int room = d->head_dim != 256 || f->smem_limit >= 98304;
    *out = (struct cu_choice){
        .attn_vision = attn_for(vision_head == 72 || vision_head == 24),
        .attn_prefix = attn_for((d->head_dim == 256 && room) || d->head_dim == 32),
        .attn_suffix = attn_for((d->head_dim == 256 && room) || d->head_dim == 32),
        .glu_group_vlm = cu_glu_group(d->vlm_mlp_dim),
        .glu_group_expert = cu_glu_group(d->expert_mlp_dim),
        .qkv_sm90 = f->cc == 90 && d->head_dim == 256 && d->vlm_width % 64 == 0,
        .geglu_sm90 = f->cc == 90 && d->vlm_mlp_dim % 256 == 0 && d->vlm_width % 64 == 0,
        .proj_sm90 = f->cc == 90 && proj90_supported(d->vlm_width, d->heads * d->head_dim, 1) &&
                     proj90_supported(d->vlm_width, d->vlm_mlp_dim, 2),
    };
    if (f->cc == 90 && vision_head == 72 && p->tokens_per_camera == 256)
        out->attn_vision = CU_ATTN_KERNEL_SM90;
    /* 120 processors hold the clusters of every tile in one wave. Tiles of the residual's products
     * are 128 or 144 columns of whole width. */
    out->vision_sm90 = out->attn_vision == CU_ATTN_KERNEL_SM90 && f->n_sm >= 120 &&
                       d->vision_width % 128 == 0 && d->vision_width % 144 == 0 &&
                       d->vision_width <= 1152;
    if (f->cc == 90 && d->head_dim == 256)
        out->attn_prefix = CU_ATTN_KERNEL_SM90;
    out->late_rope = out->attn_prefix == CU_ATTN_KERNEL_SM90 && d->heads == 8;
    /* Its widths are fixed. Clusters of 8 are in one wave from 120 processors on. */
    out->suffix_sm90 = f->cc == 90 && f->n_sm >= 120 && d->expert_width == SFX90_WIDTH &&
                       d->expert_mlp_dim == SFX90_MLP && d->heads == SFX90_HEADS &&
                       d->head_dim == SFX90_HEAD_DIM && d->action_dim == SFX90_ACTION_DIM;
    out->early_sm90 = out->suffix_sm90 && out->geglu_sm90 && out->qkv_sm90 &&
                      d->action_horizon + p->n_state <= EARLY90_MAX_ROWS;
}

/* Nothing is padded up to 16 images; past that at most one part in 8. */
int cu_bucket_images(int n) { return n <= 16 ? n : n <= 64 ? round_up(n, 4) : round_up(n, 8); }

/* 8 rows up to 1024 (under 2 % of the shortest real prefix), then one part in 64. */
int cu_bucket_rows(int n)
{
    int step = 8;
    while (n > step * 128)
        step *= 2;
    return round_up(n, step);
}

int cu_bucket_sample_rows(int most, int batch, int rows)
{
    int bucket = round_up(most, 64);
    return batch == 1 && rows < bucket ? rows : bucket;
}

int cu_suffix_splits(int n_keys, int query_rows, int batch, int n_sm)
{
    int tiles = (n_keys + 63) / 64, blocks = (query_rows + 63) / 64 * batch;
    int splits = n_sm / blocks;
    splits = splits < tiles ? splits : tiles;
    splits = splits < CU_MAX_SPLITS ? splits : CU_MAX_SPLITS;
    return splits < 1 ? 1 : splits;
}

/* H200, 799 keys, ms: one sample of 10 actions 2.2 by the loop, two 3.5 by suffix_sm90's chain; one of 50
 * actions 4.1 by the chain. */
int cu_loop_batch(int horizon) { return horizon < 16 ? 1 : 0; }

int cu_early_layers(const struct cu_facts *f, int rows, int tokens, int depth, int mlp)
{
    /* µs a layer of each, H200, side by side */
    int prefix = 20 + rows * 3 / 10, early = tokens <= EARLY90_NARROW_ROWS ? 160 : 210;
    int n = (depth - 1) * prefix / early, tile;
    if (geglu90_cost(rows, mlp, f->n_sm - EARLY90_CTAS, &tile) >
        geglu90_cost(rows, mlp, f->n_sm, &tile))
        return 0; /* they are not free */
    n = n < depth - 1 ? n : depth - 1;
    return n > 1 ? n : 0;
}

int cu_mlp_chunk(int max_rows) { return max_rows < 16384 ? max_rows : 16384; }

/* Two, where all their tiles run at once: cuBLASLt's choice is then 128 × 200 (measured on an H200:
 * 532 … 799 rows gain 5 µs a layer; at 968 nothing is gained). */
int cu_split_k(const struct cu_facts *f, int m, int n, int k)
{
    int tiles = (n + 127) / 128 * ((m + 199) / 200);
    return f->cc == 90 && k % 128 == 0 && k / n >= 4 && 2 * tiles <= f->n_sm ? 2 : 0;
}

/* Where another candidate than the first was faster on an H200 by 3 µs or more, bench_gemm over the
 * products of batches of 2 … 64 samples with three images. n = 4352: fc1 with its rows of zeros. */
static int measured_pick(int m, int n, int k)
{
    static const struct {
        int m, n, k, pick;
    } measured[] = {
        { 1536, 1152, 4304, 1 },
        { 3072, 1152, 1152, 1 },
        { 6144, 1152, 1152, 3 },
        { 3072, 4352, 1152, 6 },
        { 6144, 3456, 1152, 5 },
        { 6144, 4352, 1152, 6 },
        { 12288, 3456, 1152, 7 },
        { 12288, 1152, 1152, 5 },
        { 12288, 4304, 1152, 1 },
        { 24576, 1152, 1152, 7 },
        { 49152, 1152, 1152, 7 },
        /* the prefix's qkv, o and down, 8 … 64 samples of 788 rows */
        { 6336, 2560, 2048, 1 },
        { 6336, 2048, 2048, 3 },
        { 6336, 2048, 16384, 1 },
        { 12672, 2560, 2048, 4 },
        { 12672, 2048, 2048, 6 },
        { 25344, 2560, 2048, 6 },
        { 25344, 2048, 2048, 6 },
        { 50688, 2560, 2048, 7 },
        { 50688, 2048, 2048, 7 },
    };
    for (size_t i = 0; i < sizeof measured / sizeof measured[0]; i++)
        if (measured[i].m == m && measured[i].n == n && measured[i].k == k)
            return measured[i].pick;
    return -1;
}

int cu_gemm_pick(const struct cu_facts *f, int type, int m, int n, int k)
{
    int pick = f->cc == 90 ? measured_pick(m, n, k) : -1;
    (void)type;
    return pick < 0 ? 0 : pick;
}

int cu_padded_rows(const struct cu_facts *f, int m, int n, int padded, int k)
{
    return f->cc == 90 && measured_pick(m, padded, k) >= 0 ? padded : n;
}
