/* SPDX-License-Identifier: Apache-2.0
 * plan: the one place where shapes are worked out. Config + limits → token counts, row layout of a
 * sample, FLOPs and bytes of a stage. No memory, no arithmetic on tensors.
 *
 * Row layout of one sample's prefix, the same in every backend:
 *
 *     0                                                   n_valid                          n_rows
 *     | valid cameras in slot order | valid prompt tokens | masked cameras (MASKED_COMPUTE) |
 *
 * A row's index is its position (RoPE): positions are dense over valid tokens, so row r < n_valid
 * has position r; the position of a masked row is never seen by a valid one. Prompt padding is
 * always dropped. Keys in [n_valid, n_rows) are masked out (they get probability 0).
 * The suffix follows in the K/V cache: row n_rows + i holds suffix token i, whose position is
 * n_valid + i. π0: suffix token 0 is the state token, computed once a call; the rest are actions.
 * π0.5 has no state token. */
#ifndef PI0_MODEL_PLAN_H
#define PI0_MODEL_PLAN_H

#include "base/status.h"

#define PLAN_MAX_BATCH 1024
#define PLAN_MAX_STEPS 1000

struct plan {
    struct pi0_dims
        dims; /* action_horizon and max_token_len are the engine's, not the checkpoint's */
    int max_batch;
    int max_steps;
    enum pi0_masked_cameras masked_cameras;
    int record_steps;
    int tokens_per_camera; /* (image_size / patch_size)² */
    int patch_dim;         /* 3 · patch_size² */
    int n_state;           /* 1 for π0, 0 for π0.5 */
    int n_suffix;          /* n_state + action_horizon */
    int max_prefix; /* n_cameras · tokens_per_camera + max_token_len: rows of a sample at most; also
                       P of the taps */
    int max_keys;   /* max_prefix + n_suffix */
    int q_dim;      /* heads · head_dim */
};

pi0_status plan_make(struct plan *out, const struct pi0_dims *dims,
                     const struct pi0_engine_config *cfg, struct pi0_error *err);

/* One sample of a call, checked and laid out. Pointers are borrowed from the caller's pi0_input for
 * the call, except tokens, which are compacted into the engine's own buffer. */
struct sample {
    int n_images; /* cameras computed: valid ones, then masked ones */
    int n_valid_images;
    int camera[PI0_MAX_CAMERAS]; /* slot of computed image i */
    const uint8_t
        *pixels[PI0_MAX_CAMERAS]; /* of computed image i: [image_size, image_size, 3] u8 */
    const int32_t *tokens;        /* [n_tokens] valid ids */
    int n_tokens;
    int n_valid;        /* n_valid_images · tokens_per_camera + n_tokens */
    int n_rows;         /* n_images · tokens_per_camera + n_tokens */
    const float *state; /* [A]; NULL for π0.5 */
    const float *noise; /* [H, A] */
};

struct batch {
    const struct sample *samples; /* [n] */
    int n;
    int n_steps;
    int n_images; /* sum over samples */
    int n_rows;   /* sum over samples */
};

/* Row where image i (of the computed ones) of a sample starts: the valid ones come first, the
 * masked ones behind the prompt. Prompt tokens start at n_valid_images · tokens_per_camera. */
static inline int sample_image_row(const struct plan *p, const struct sample *s, int i)
{
    int row = i * p->tokens_per_camera;
    return i < s->n_valid_images ? row : row + s->n_tokens;
}

/* Checks one pi0_input against the plan (ids, NaN, masks, counts; message starts with "sample i: ")
 * and lays it out. `tokens` [max_token_len] receives the compacted ids; `black` is an image of
 * zeros for masked cameras given as NULL. */
pi0_status plan_sample(const struct plan *p, const struct pi0_input *in, int i, int32_t *tokens,
                       const uint8_t *black, struct sample *out, struct pi0_error *err);

/* Work of a call whose n samples each have n_images computed cameras and n_tokens valid tokens;
 * exact skips counted; weights are the matrices at two bytes a value. */
void plan_work(const struct plan *p, int n, int n_images, int n_tokens, int n_steps,
               struct pi0_stage_work out[PI0_N_STAGES]);

/* float32 values of a tap, 0 if the variant has no such tensor. */
size_t plan_tap_size(const struct plan *p, enum pi0_tap tap);

#endif
