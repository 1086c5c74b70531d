/* SPDX-License-Identifier: Apache-2.0
 * policy: what a pi0_policy holds. Shared by open.c (finding and reading everything that stands
 * beside the weights) and policy.c (an observation's way to actions); nobody else looks inside. */
#ifndef PI0_POLICY_POLICY_H
#define PI0_POLICY_POLICY_H

#include "base/arena.h"
#include "model/model.h"
#include "policy/image.h"
#include "policy/prompt.h"
#include "policy/transform.h"

struct pi0_policy {
    const pi0_model *model; /* borrowed */
    pi0_engine *engine;     /* borrowed */
    struct pi0_engine_info limits;
    struct transform transform;
    int has_stats;
    enum prompt_form form;
    int padded_prompt_state; /* the prompt states all A numbers */
    enum image_filter filter;
    struct tokenizer *tokenizer; /* NULL: none was found */
    char *default_prompt;        /* "" = none */

    /* Buffers for one call, carved from the arena. B = max_batch. */
    uint32_t isa; /* PI0_ISA_ bits the image kernels may use */
    struct arena arena;
    struct image_scratch scratch;
    struct pi0_input *inputs; /* [B] */
    uint8_t *pixels;          /* [B][C][image_size, image_size, 3] */
    int32_t *tokens;          /* [B][max_token_len] */
    float *state;             /* [B][A] */
    double *base;             /* [B][A] what relative actions are relative to */
    float *noise;             /* [B][H, A] */
    float *actions;           /* [B][H, A] of the model */
    double *normalized;       /* [A] */
    double *action;           /* [A] */
    char *text;               /* the prompt as tokenised */
    struct pi0_policy_trace trace;
};

#endif
