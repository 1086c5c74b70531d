/* SPDX-License-Identifier: Apache-2.0
 *
 * cpu: what the files of this backend share: the packed model, the buffers of a call, and one op run
 * by all threads. Owner of everything is struct cpu (cpu.c); load.c fills the weights, steps.c the
 * tables of the step count, vision.c, prefix.c and denoise.c walk the layers. */
#ifndef PI0_BACKEND_CPU_CPU_H
#define PI0_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "backend/cpu/ops.h"
#include "base/arena.h"
#include "base/threads.h"

/* A matrix of activations: rows of `stride` elements. */
struct mat {
    void *at; /* 64-byte aligned */
    enum dtype dtype;
    int stride;
};

/* Factors of one norm, [width] each. Plain norms have no gate, plain RMSNorm no shift either. */
struct norm {
    const float *gain, *shift, *gate;
    int width;
};

struct cpu_vision_layer {
    struct norm ln1, ln2;
    struct packed qkv, o, fc1, fc2;
};

struct cpu_gemma_layer {
    struct norm norm1, norm2; /* plain only */
    struct packed mod1, mod2; /* adaRMS only: time conditioning → scale | shift | gate */
    struct packed qkv;        /* q | k | v; of the last VLM layer only k | v */
    struct packed o, gate_up, down;
};

/* Names of a stage's buffers; rows of all images or samples are concatenated. */
struct stage_buffers {
    struct mat x;      /* residual stream, f32 */
    struct mat n;      /* normed, activation dtype */
    struct mat qkv;    /* f32 */
    struct mat o;      /* attention output, activation dtype */
    struct mat hidden; /* inside the MLP, activation dtype */
};

struct cpu {
    const pi0_model *model;
    struct plan plan;
    enum dtype act; /* of what enters the large products: bf16 or f32 */
    struct cpu_ops ops;
    uint32_t isa;
    char brand[64];
    struct threads *pool;
    pi0_progress_fn progress;
    void *progress_user;
    struct arena weights, cache, work;
    uint64_t weight_bytes, cache_bytes, scratch_bytes; /* what the arenas hold */
    struct pi0_timing timing;

    /* weights (load.c) */
    struct packed patch, projector;
    const float *pos; /* [tokens per camera][D] */
    struct norm post_ln;
    struct cpu_vision_layer *vision;      /* [vision_depth] */
    struct cpu_gemma_layer *vlm, *expert; /* [depth] */
    struct norm final;                    /* π0 */
    struct packed final_mod;              /* π0.5 */
    struct packed action_in; /* π0: action half of action_time_mlp_in · action_in_proj, folded; its
                                bias is a step's row of `step_bias` */
    struct packed action_out, state_in, time_in, time_out;
    const float *time_bias; /* π0: what the step bias has besides the time, [W] padded */

    /* tables */
    float *rope_cos, *rope_sin;       /* [max_keys][E / 2] */
    unsigned without;                 /* PI0_WITHOUT_ bits, for measurement */
    int steps_ready;                  /* step count the four below are for; 0 = none yet */
    float *times;                     /* [max_steps] */
    struct mat sinusoid, time_hidden; /* [max_steps][W] f32 */
    struct mat cond;                  /* π0.5: [max_steps][W] f32 conditioning */
    struct mat step_bias;             /* π0: [max_steps][W] f32 */
    struct mat mod; /* π0.5: [2·depth + 1][max_steps][3W]: 1 + scale | shift | gate, f32 */

    /* K and V of every layer and sample (prefix rows, then suffix rows; model/plan.h) */
    float *keys, *values;
    size_t keys_per_sample, values_per_sample; /* floats */

    /* buffers of a call */
    struct stage_buffers v, p, s; /* vision, prefix, suffix */
    struct mat patches;           /* [images · tokens][3 p²] f32 */
    float *vision_keys;           /* [images][heads] panels of [tokens][D / heads] */
    size_t vision_keys_per_head;  /* floats */
    struct mat image_tokens;      /* [images · tokens][W_vlm] f32, kept for the tap */
    struct mat state;             /* [B][A] f32 */
    struct mat xt, vt;            /* [B · H][A] f32: Euler state, velocity */
    struct mat head_in;           /* [B · H][W] f32: final norm; inside π0's time MLP */
    struct mat x_log, v_log;      /* [recorded steps][B · H][A] f32 */
    int n_recorded;               /* steps that x_log and v_log hold: max_steps, or 1 */
    unsigned char *scratch;       /* [threads][scratch_stride] */
    size_t scratch_stride;

    /* the last call, for the taps */
    struct sample *samples; /* [max_batch]; pixels, state and noise are not valid any more */
    int32_t *tokens;        /* [max_batch][max_token_len] */
    int n, n_steps;
};

/* ---------------------------------------------------------------- load.c, steps.c, walks */

/* Packs every weight (two arenas' worth of carving, then filling). */
pi0_status cpu_load(struct cpu *c, struct pi0_error *err);

/* Tables that depend on weights and step count alone; nothing happens if they are there already. */
void cpu_steps_carve(struct cpu *c);
void cpu_steps_prepare(struct cpu *c, int n_steps);
/* Factors of an expert norm at a step: norm1 and norm2 of a layer are 2·layer and 2·layer + 1, the
 * final norm is 2·depth. */
struct norm cpu_expert_norm(const struct cpu *c, int norm, int step);

void cpu_vision_carve(struct cpu *c);
pi0_status cpu_vision(void *self, const struct batch *in, struct pi0_error *err);
void cpu_prefix_carve(struct cpu *c);
pi0_status cpu_prefix(void *self, const struct batch *in, struct pi0_error *err);
void cpu_denoise_carve(struct cpu *c);
pi0_status cpu_denoise(void *self, const struct batch *in, float *actions, struct pi0_error *err);

/* time.c: the backend's time_kernel. */
pi0_status cpu_time_kernel(void *self, const struct batch *last, int i, struct pi0_kernel_time *out,
                           struct pi0_error *err);

/* Prompt embeddings of a sample, table row · sqrt(W): [n_tokens][stride of dst] f32. */
pi0_status cpu_embed_prompt(const struct cpu *c, const int32_t *tokens, int n, struct mat dst,
                            struct pi0_error *err);
/* Suffix embeddings of sample b at a recorded step, computed again for the tap: dst
 * [n_suffix][W_expert]. */
void cpu_suffix_embs(struct cpu *c, int b, int step, float *dst);

/* ---------------------------------------------------------------- one op, all threads */

/* A thread inside a job. */
struct worker {
    struct cpu *c;
    int index, count;
    void *scratch;
};
struct worker cpu_worker(struct cpu *c, int index, int count);

struct mat cpu_mat(struct arena *a, long rows, int width, enum dtype dtype);
/* The matrix that starts at this row and column. */
struct mat mat_at(struct mat m, long row, int col);
static inline float *mat_f32(struct mat m, long row) { return (float *)m.at + row * m.stride; }

/* Each of these is called by every thread of the job with the same arguments, does its share, and
 * ends in a barrier: when it returns, the whole result can be read. m counts rows. */
void cpu_linear(const struct worker *w, struct mat y, enum epilogue e, struct mat x,
                const struct packed *p, int m);
/* y += gate · (x · pᵀ + bias); gate NULL = 1. */
void cpu_add(const struct worker *w, struct mat y, const float *gate, struct mat x,
             const struct packed *p, int m);
void cpu_layernorm(const struct worker *w, struct mat y, struct mat x, const struct norm *norm,
                   int m);
void cpu_rmsnorm(const struct worker *w, struct mat y, struct mat x, const struct norm *norm,
                 int m);
void cpu_barrier(const struct worker *w);

/* This thread's piece of `total` items. */
struct share {
    int begin, end;
    int at; /* items passed so far, where items are dealt in groups (cpu_attention) */
};
struct share cpu_share(const struct worker *w, int total);
/* The part of a share that falls on the next `count` items, as [*begin, *end) within them; moves on
 * past them. */
void share_next(struct share *s, int count, int *begin, int *end);

/* Attention of `m` rows over one set of keys, for `heads` heads: args are head 0's; head h is h ·
 * head_dim columns further in q and o, keys_step floats in keys, v_step in v (0: shared). */
struct attn_group {
    struct attn_args args;
    int m, heads;
    size_t keys_step, v_step;
};
/* Work items of such a group; shares are dealt over the sum of all groups' items. */
int cpu_attn_items(int m, int heads);
/* This thread's items of the next group. No barrier. */
void cpu_attention(const struct worker *w, struct share *s, const struct attn_group *g);

/* Rotates q and k of rows [begin, end), which stand at positions `position` onward (row 0's), and
 * appends their K and V to a sample's cache as keys first_key onward. q_heads 0: there is no q. */
struct append {
    struct mat qkv; /* row 0 */
    int q_heads;
    int position, first_key;
    float *keys, *values; /* the sample's, of one layer */
};
void cpu_append(const struct worker *w, const struct append *a, int begin, int end);

static inline float *cpu_keys(const struct cpu *c, int layer, int sample)
{
    return c->keys +
           ((size_t)layer * (size_t)c->plan.max_batch + (size_t)sample) * c->keys_per_sample;
}
static inline float *cpu_values(const struct cpu *c, int layer, int sample)
{
    return c->values +
           ((size_t)layer * (size_t)c->plan.max_batch + (size_t)sample) * c->values_per_sample;
}
/* Row stride of the V cache, floats. */
static inline int cpu_value_stride(const struct cpu *c)
{
    return cpu_round_up(c->plan.dims.head_dim, CPU_PANEL);
}

#endif
