/* SPDX-License-Identifier: Apache-2.0
 * plan: shapes, row layout of a sample, work of a stage. The only place that checks a pi0_input;
 * backends trust what comes out. */
#include "model/plan.h"
#include "model/config.h"

#include <math.h>
#include <string.h>

/* ---------------------------------------------------------------- shapes */

static pi0_status limit(const char *what, int value, int min, int max, struct pi0_error *err)
{
    if (value < min || value > max)
        return pi0_fail(err, PI0_E_ARGUMENT, "engine: %s %d, expected %d to %d", what, value, min,
                        max);
    return PI0_OK;
}

pi0_status plan_make(struct plan *out, const struct pi0_dims *dims,
                     const struct pi0_engine_config *cfg, struct pi0_error *err)
{
    struct plan p = { .dims = *dims,
                      .max_batch = cfg->max_batch,
                      .max_steps = cfg->max_steps,
                      .masked_cameras = cfg->masked_cameras,
                      .record_steps = cfg->record_steps != 0 };
    pi0_status st;
    if ((st = limit("max_batch", cfg->max_batch, 1, PLAN_MAX_BATCH, err)) ||
        (st = limit("max_steps", cfg->max_steps, 1, PLAN_MAX_STEPS, err)) ||
        (st = limit("action_horizon", cfg->action_horizon, 0, CONFIG_MAX_HORIZON, err)) ||
        (st = limit("max_token_len", cfg->max_token_len, 0, CONFIG_MAX_TOKEN_LEN, err)))
        return st;
    if (cfg->masked_cameras != PI0_MASKED_SKIP && cfg->masked_cameras != PI0_MASKED_COMPUTE)
        return pi0_fail(err, PI0_E_ARGUMENT, "engine: masked_cameras %d, expected 0 or 1",
                        (int)cfg->masked_cameras);
    if (cfg->action_horizon)
        p.dims.action_horizon = cfg->action_horizon;
    if (cfg->max_token_len)
        p.dims.max_token_len = cfg->max_token_len;
    if ((st = config_check(&p.dims, err)))
        return st;

    int grid = dims->image_size / dims->patch_size;
    p.tokens_per_camera = grid * grid;
    p.patch_dim = 3 * dims->patch_size * dims->patch_size;
    p.n_state = dims->variant == PI0_VARIANT_PI0 ? 1 : 0;
    p.n_suffix = p.n_state + p.dims.action_horizon;
    p.max_prefix = dims->n_cameras * p.tokens_per_camera + p.dims.max_token_len;
    p.max_keys = p.max_prefix + p.n_suffix;
    p.q_dim = dims->heads * dims->head_dim;
    *out = p;
    return PI0_OK;
}

size_t plan_tap_size(const struct plan *p, enum pi0_tap tap)
{
    const struct pi0_dims *d = &p->dims;
    switch (tap) {
    case PI0_TAP_PREFIX_EMBS: return (size_t)p->max_prefix * (size_t)d->vlm_width;
    case PI0_TAP_PREFIX_K:
    case PI0_TAP_PREFIX_V: return (size_t)p->max_prefix * (size_t)d->head_dim;
    case PI0_TAP_SUFFIX_EMBS: return (size_t)p->n_suffix * (size_t)d->expert_width;
    case PI0_TAP_ADARMS_COND: return d->variant == PI0_VARIANT_PI05 ? (size_t)d->expert_width : 0;
    case PI0_TAP_V:
    case PI0_TAP_X: return (size_t)d->action_horizon * (size_t)d->action_dim;
    }
    return 0;
}

/* ---------------------------------------------------------------- a sample */

static pi0_status check_finite(const float *x, size_t n, size_t row, const char *what, int i,
                               struct pi0_error *err)
{
    for (size_t k = 0; k < n; k++) {
        if (isfinite(x[k]))
            continue;
        if (row)
            return pi0_fail(err, PI0_E_INPUT, "sample %d: %s[%zu][%zu] is %f, expected a number", i,
                            what, k / row, k % row, (double)x[k]);
        return pi0_fail(err, PI0_E_INPUT, "sample %d: %s[%zu] is %f, expected a number", i, what, k,
                        (double)x[k]);
    }
    return PI0_OK;
}

/* Valid cameras first, then (MASKED_COMPUTE) the masked ones, each group in slot order. */
static pi0_status place_cameras(const struct plan *p, const struct pi0_input *in, int i,
                                const uint8_t *black, struct sample *s, struct pi0_error *err)
{
    for (int c = 0; c < p->dims.n_cameras; c++) {
        if (!in->camera_mask[c])
            continue;
        if (!in->pixels[c])
            return pi0_fail(err, PI0_E_INPUT, "sample %d: camera %d is valid but has no pixels", i,
                            c);
        s->camera[s->n_images] = c;
        s->pixels[s->n_images++] = in->pixels[c];
    }
    s->n_valid_images = s->n_images;
    for (int c = 0; c < p->dims.n_cameras && p->masked_cameras == PI0_MASKED_COMPUTE; c++) {
        if (in->camera_mask[c])
            continue;
        s->camera[s->n_images] = c;
        s->pixels[s->n_images++] = in->pixels[c] ? in->pixels[c] : black;
    }
    return PI0_OK;
}

/* Ids under the padding are never looked at: they may be anything. */
static pi0_status compact_tokens(const struct plan *p, const struct pi0_input *in, int i,
                                 int32_t *tokens, struct sample *s, struct pi0_error *err)
{
    if (in->n_tokens < 0 || in->n_tokens > p->dims.max_token_len)
        return pi0_fail(err, PI0_E_INPUT, "sample %d: %d tokens, expected 0 to %d", i, in->n_tokens,
                        p->dims.max_token_len);
    if (in->n_tokens > 0 && !in->tokens)
        return pi0_fail(err, PI0_E_INPUT, "sample %d: %d tokens announced, none given", i,
                        in->n_tokens);
    for (int k = 0; k < in->n_tokens; k++) {
        if (in->token_mask && !in->token_mask[k])
            continue;
        if (in->tokens[k] < 0 || in->tokens[k] >= p->dims.vocab_size)
            return pi0_fail(err, PI0_E_INPUT, "sample %d: token %d has id %d, expected 0 to %d", i,
                            k, (int)in->tokens[k], p->dims.vocab_size - 1);
        tokens[s->n_tokens++] = in->tokens[k];
    }
    s->tokens = tokens;
    return PI0_OK;
}

pi0_status plan_sample(const struct plan *p, const struct pi0_input *in, int i, int32_t *tokens,
                       const uint8_t *black, struct sample *out, struct pi0_error *err)
{
    const struct pi0_dims *d = &p->dims;
    struct sample s = { .noise = in->noise };
    pi0_status st;
    if ((st = place_cameras(p, in, i, black, &s, err)) ||
        (st = compact_tokens(p, in, i, tokens, &s, err)))
        return st;
    s.n_valid = s.n_valid_images * p->tokens_per_camera + s.n_tokens;
    s.n_rows = s.n_images * p->tokens_per_camera + s.n_tokens;
    if (s.n_valid == 0)
        return pi0_fail(err, PI0_E_INPUT,
                        "sample %d: no valid camera and no valid token, expected at least one", i);
    if (p->n_state) {
        if (!in->state)
            return pi0_fail(err, PI0_E_INPUT, "sample %d: no state, expected %d numbers", i,
                            d->action_dim);
        if ((st = check_finite(in->state, (size_t)d->action_dim, 0, "state", i, err)))
            return st;
        s.state = in->state;
    }
    if (!in->noise)
        return pi0_fail(err, PI0_E_INPUT, "sample %d: no noise, expected %d x %d numbers", i,
                        d->action_horizon, d->action_dim);
    if ((st = check_finite(in->noise, (size_t)d->action_horizon * (size_t)d->action_dim,
                           (size_t)d->action_dim, "noise", i, err)))
        return st;
    *out = s;
    return PI0_OK;
}

/* ---------------------------------------------------------------- work */

static const double BF16_BYTES = 2.0;

/* Values in the matrices of one transformer layer: q, k, v, o, gate, up, down. */
static double layer_values(const struct plan *p, double width, double mlp)
{
    double q = p->q_dim, kv = (double)p->dims.kv_heads * p->dims.head_dim;
    return width * (2 * q + 2 * kv) + 3 * width * mlp;
}

static void work_vision(const struct plan *p, double n_images, struct pi0_stage_work *out)
{
    const struct pi0_dims *d = &p->dims;
    double t = p->tokens_per_camera, w = d->vision_width, side = d->image_size;
    double patch = p->patch_dim * w, layer = 4 * w * w + 2 * w * d->vision_mlp_dim;
    double values = patch + d->vision_depth * layer + w * d->vlm_width;
    if (n_images == 0)
        return; /* nothing is read either */
    out->n_rows = (int)(n_images * t);
    out->flops = n_images * (2 * t * values + d->vision_depth * 4 * t * t * w);
    out->weight_bytes = (values + t * w) * BF16_BYTES; /* t·w: the position table */
    out->activation_bytes = n_images * (3 * side * side + t * d->vlm_width * BF16_BYTES);
}

/* The last layer is needed up to its K and V only. */
static void work_prefix(const struct plan *p, double n, int n_images, int n_tokens,
                        struct pi0_stage_work *out)
{
    const struct pi0_dims *d = &p->dims;
    double rows = (double)n_images * p->tokens_per_camera + n_tokens;
    double kv = (double)d->kv_heads * d->head_dim;
    double values =
        (d->depth - 1) * layer_values(p, d->vlm_width, d->vlm_mlp_dim) + 2 * kv * d->vlm_width;
    out->n_rows = (int)(n * rows);
    out->flops = n * (2 * rows * values + (d->depth - 1) * 4 * rows * rows * p->q_dim);
    out->weight_bytes = (values + n * n_tokens * d->vlm_width) * BF16_BYTES;
    out->activation_bytes =
        n * (4.0 * n_tokens +
             ((double)n_images * p->tokens_per_camera * d->vlm_width + rows * d->depth * 2 * kv) *
                 BF16_BYTES);
}

/* Made once at open and not counted: everything that depends on time alone (π0: the time half of
 * action_time_mlp_in; π0.5: the time MLP and all modulations). π0's state token sees neither time
 * nor actions and goes through the layers once a call. */
static void work_denoise(const struct plan *p, double n, int n_images, int n_tokens, double steps,
                         struct pi0_stage_work *out)
{
    const struct pi0_dims *d = &p->dims;
    double h = d->action_horizon, w = d->expert_width, a = d->action_dim;
    double kv = (double)d->kv_heads * d->head_dim;
    double layer = layer_values(p, w, d->expert_mlp_dim);
    double prefix = (double)n_images * p->tokens_per_camera + n_tokens;
    double keys = prefix + p->n_suffix;
    double heads = 2 * a * w + (p->n_state ? 2 * w * w : 0);
    double step = 2 * h * (d->depth * layer + heads) + d->depth * 4 * h * keys * p->q_dim;
    double state = 0;
    if (p->n_state)
        state = 2 * (a * w + (d->depth - 1) * layer + 2 * kv * w) +
                (d->depth - 1) * 4 * (prefix + 1) * p->q_dim;
    out->n_rows = (int)(n * h);
    out->flops = n * (steps * step + state);
    out->weight_bytes = (steps * (d->depth * layer + heads) + p->n_state * a * w) * BF16_BYTES;
    out->activation_bytes = n * (steps * (prefix + p->n_state) * d->depth * 2 * kv * BF16_BYTES +
                                 4 * (2 * h * a + p->n_state * a));
}

void plan_work(const struct plan *p, int n, int n_images, int n_tokens, int n_steps,
               struct pi0_stage_work out[PI0_N_STAGES])
{
    memset(out, 0, PI0_N_STAGES * sizeof *out);
    out[0].name = "vision";
    out[1].name = "prefix";
    out[2].name = "denoise";
    work_vision(p, (double)n * n_images, &out[0]);
    work_prefix(p, n, n_images, n_tokens, &out[1]);
    work_denoise(p, n, n_images, n_tokens, n_steps, &out[2]);
}
