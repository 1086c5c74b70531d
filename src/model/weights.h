/* SPDX-License-Identifier: Apache-2.0
 * weights: the one table that ties a checkpoint's tensor name to a field here, its expected shape
 * and where its values come from. Knows no arithmetic and no kernel layout: backends read from it
 * and pack or upload what they like.
 *
 * A tensor's values are a view into the mapped file, or (synthetic models) a function of name and
 * seed; both are read through tensor_read_*, so that nobody above cares. */
#ifndef PI0_MODEL_WEIGHTS_H
#define PI0_MODEL_WEIGHTS_H

#include "base/dtype.h"
#include "base/status.h"

struct tensor {
    const void *data; /* row-major, little-endian, in the mapping; any alignment. NULL: synthetic,
                         or absent if rank 0 */
    enum dtype dtype; /* BF16 for synthetic tensors */
    int rank;         /* 0: this variant has no such tensor */
    int shape[4];
    size_t n;               /* values */
    uint64_t synth_base;    /* synthetic: h(name) ^ (seed * 0xD1B54A32D192ED03) */
    float synth_a, synth_b; /* value = bf16(u·a + b) */
};

/* 1 if every value is a bf16 number by construction (stored BF16, or synthetic). */
int tensor_is_bf16(const struct tensor *t);

/* Values [first, first + n) in flat order, converted; first + n ≤ t->n. F32 and F16 are rounded to
 * nearest for bf16. Pure: may run on any number of threads at once. */
void tensor_read_f32(const struct tensor *t, size_t first, size_t n, float *dst);
void tensor_read_bf16(const struct tensor *t, size_t first, size_t n, uint16_t *dst);

/* Tells the kernel that the file pages under this tensor are not needed soon (packed already):
 * keeps peak memory down. A hint; reading again is always allowed. */
void tensor_release(const struct tensor *t);

/* 1 if none of values [first, first + n) is NaN or infinite. */
int tensor_all_finite(const struct tensor *t, size_t first, size_t n);

/* Shapes are [out, in] for matrices. Letters: D vision width, F its MLP, W layer width, M layer
 * MLP, Q = heads · E. */
struct vision_layer {
    struct tensor ln1_w, ln1_b;                           /* [D] */
    struct tensor q_w, q_b, k_w, k_b, v_w, v_b, o_w, o_b; /* [D, D], [D] */
    struct tensor ln2_w, ln2_b;                           /* [D] */
    struct tensor fc1_w, fc1_b;                           /* [F, D], [F] */
    struct tensor fc2_w, fc2_b;                           /* [D, F], [D] */
};

struct gemma_layer {
    struct tensor norm1_w; /* [W], stored as offset from 1. Plain norms only */
    struct tensor norm1_mod_w,
        norm1_mod_b;             /* [3W, W], [3W]: scale, shift, gate. adaRMS (π0.5 expert) only */
    struct tensor q_w, k_w, v_w; /* [Q, W], [E, W], [E, W] */
    struct tensor o_w;           /* [W, Q] */
    struct tensor norm2_w, norm2_mod_w, norm2_mod_b;
    struct tensor gate_w, up_w; /* [M, W] */
    struct tensor down_w;       /* [W, M] */
};

struct weights {
    struct tensor patch_w, patch_b;     /* [D, 3, p, p], [D] */
    struct tensor pos;                  /* [tokens per camera, D] */
    struct vision_layer *vision;        /* [vision_depth] */
    struct tensor post_ln_w, post_ln_b; /* [D] */
    struct tensor proj_w, proj_b;       /* [W_vlm, D], [W_vlm] */
    struct tensor table;                /* [vocab, W_vlm], unscaled */
    struct gemma_layer
        *vlm; /* [depth]; of the last one only norm1, k and v are needed for actions */
    struct tensor vlm_final_w;  /* [W_vlm], the VLM's final norm; no action depends on it */
    struct gemma_layer *expert; /* [depth] */
    struct tensor final_w, final_mod_w,
        final_mod_b; /* expert's final norm: [W] (π0) or [3W, W], [3W] (π0.5) */
    struct tensor action_in_w, action_in_b;   /* [W, A], [W] */
    struct tensor action_out_w, action_out_b; /* [A, W], [A] */
    struct tensor state_w, state_b;           /* π0: [W, A], [W] */
    struct tensor time_in_w, time_in_b;   /* π0: action_time_mlp_in [W, 2W] (action columns first);
                                             π0.5: time_mlp_in [W, W] */
    struct tensor time_out_w, time_out_b; /* [W, W], [W] */
};

/* Walks the table in a fixed order: for every tensor of `dims`' variant calls visit with its openpi
 * name (without any leading "model."), its expected rank and shape and the field it belongs to.
 * `alias` is the second accepted name, or NULL (token table: lm_head is the canonical name for
 * hashing, embed_tokens is preferred when a file has both; time MLPs: the other variant's name). `needed` is 0 for tensors that actions
 * do not depend on (last VLM layer's q, o, norm2, MLP; final VLM norm): absent ones are fine. Stops at the first
 * status that is not PI0_OK. w->vision, vlm and expert must be allocated. */
enum weight_group {
    WEIGHTS_VISION = 0,
    WEIGHTS_PROJECTOR,
    WEIGHTS_TABLE,
    WEIGHTS_VLM,
    WEIGHTS_EXPERT,
    WEIGHTS_HEADS
};
#define N_WEIGHT_GROUPS 6

struct weight_entry {
    const char *name, *alias; /* live for the visit */
    enum weight_group group;
    struct tensor *field;
    int rank;
    int shape[4];
    int needed;
};
typedef pi0_status (*weight_visit_fn)(void *user, const struct weight_entry *e,
                                      struct pi0_error *err);
pi0_status weights_walk(struct weights *w, const struct pi0_dims *dims, weight_visit_fn visit,
                        void *user, struct pi0_error *err);

/* Allocates the layer arrays. weights_free accepts a half-built object. */
pi0_status weights_alloc(struct weights *w, const struct pi0_dims *dims, struct pi0_error *err);
void weights_free(struct weights *w);

#endif
