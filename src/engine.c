/* SPDX-License-Identifier: Apache-2.0
 * engine: one inference, top to bottom. Checks and lays out the inputs, runs the three stages of a
 * backend, spreads taps into the public row layout. No arithmetic on tensors, no hardware.
 *
 *              open                infer                        infer fails in the backend
 *   (nothing) ──────► READY ◄─────────────────► READY,HAS_CALL ──────────────────────────► FAILED
 *                       │ bad input: status, state unchanged                                  │
 *                       └─────────────────────────── close ◄──────────────────────────────────┘
 *
 * Invariants
 *   1. Inputs are checked completely before the backend sees any of them: PI0_E_INPUT changes nothing.
 *   2. A backend status other than PI0_OK leaves the engine FAILED: later calls repeat that error.
 *   3. Taps answer for the last call that ended well, and only then (HAS_CALL).
 *   4. After open, infer and read allocate nothing here. */
#include "backend/backend.h"
#include "base/arena.h"
#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

struct pi0_engine {
    const struct backend *backend;
    void *self; /* the backend's */
    const pi0_model *model;
    struct pi0_engine_config cfg;
    struct plan plan;
    struct arena arena;
    struct sample *samples; /* [max_batch] */
    int32_t *tokens;        /* [max_batch][max_token_len] compacted ids */
    uint8_t *black;         /* an image of zeros */
    uint8_t *camera_mask;   /* [max_batch][PI0_MAX_CAMERAS] of the last call */
    uint8_t *token_mask;    /* [max_batch][max_token_len] of the last call, as given */
    float *rows;            /* [max_prefix][max(W, E)] for spreading a tap */
    struct batch last;
    int has_call;
    int spoilt;              /* kernels were timed since: the taps are gone */
    struct pi0_error failed; /* status PI0_OK while the engine works */
    double open_ms;
};

PI0_API void pi0_engine_defaults(struct pi0_engine_config *config)
{
    *config = (struct pi0_engine_config){
        .backend = "auto",
        .precision = PI0_PRECISION_BF16,
        .isa_mask = PI0_ISA_ALL,
        .max_batch = 1,
        .max_steps = 10,
        .masked_cameras = PI0_MASKED_SKIP,
    };
}

static void engine_carve(pi0_engine *e)
{
    const struct plan *p = &e->plan;
    size_t n = (size_t)p->max_batch, t = (size_t)p->dims.max_token_len;
    size_t width =
        (size_t)(p->dims.vlm_width > p->dims.head_dim ? p->dims.vlm_width : p->dims.head_dim);
    size_t image = (size_t)p->dims.image_size * (size_t)p->dims.image_size * 3;
    e->samples = arena_take(&e->arena, n, sizeof *e->samples);
    e->tokens = arena_take(&e->arena, n * t, sizeof *e->tokens);
    e->black = arena_take(&e->arena, image, 1);
    e->camera_mask = arena_take(&e->arena, n * PI0_MAX_CAMERAS, 1);
    e->token_mask = arena_take(&e->arena, n * t, 1);
    e->rows = arena_take(&e->arena, (size_t)p->max_prefix * width, sizeof *e->rows);
}

/* Refuses what this backend cannot do without. The camera skip is the plan's, for every backend. */
static pi0_status engine_without(const struct pi0_engine_config *cfg, const struct backend *b,
                                 struct pi0_error *err)
{
    static const char *const names[] = { "graph replay",      "fused attention",
                                         "fused projections", "camera skip",
                                         "camera batching",   "folded tables",
                                         "state-token reuse", "own kernels",
                                         "loop kernel",       "dependent launches" };
    unsigned n = sizeof names / sizeof names[0];
    unsigned refused = cfg->measure_without & ~(b->measure_without | PI0_WITHOUT_CAMERA_SKIP);
    for (unsigned i = 0; i < n; i++)
        if (refused >> i & 1u)
            return pi0_fail(err, PI0_E_UNSUPPORTED,
                            "the %s backend has no way to run without \"%s\"", b->name, names[i]);
    if (refused)
        return pi0_fail(err, PI0_E_ARGUMENT, "engine: measure_without 0x%x holds unknown bits",
                        cfg->measure_without);
    return PI0_OK;
}

PI0_API pi0_status pi0_engine_open(pi0_engine **out, const pi0_model *model,
                                   const struct pi0_engine_config *config, struct pi0_error *err)
{
    if (!out || !model)
        return pi0_fail(err, PI0_E_ARGUMENT, "pi0_engine_open: out and model must not be NULL");
    double start = clock_ms();
    pi0_status st = PI0_OK;
    pi0_engine *e = calloc(1, sizeof *e);
    if (!e)
        return pi0_fail(err, PI0_E_NOMEM, "engine: %zu bytes cannot be had", sizeof *e);
    e->model = model;
    if (config)
        e->cfg = *config;
    else
        pi0_engine_defaults(&e->cfg);
    if (e->cfg.measure_without & PI0_WITHOUT_CAMERA_SKIP)
        e->cfg.masked_cameras = PI0_MASKED_COMPUTE;
    if ((st = plan_make(&e->plan, &model->config.dims, &e->cfg, err)))
        goto fail;
    struct pi0_error why = { PI0_E_INTERNAL, "backend: no reason given" };
    if (!(e->backend = backend_select(&e->cfg, &why))) {
        st = pi0_fail(err, why.status, "%s", why.message);
        goto fail;
    }
    if ((st = engine_without(&e->cfg, e->backend, err)))
        goto fail;
    engine_carve(e);
    if ((st = arena_alloc(&e->arena, "engine buffers", err)))
        goto fail;
    engine_carve(e);
    if ((st = e->backend->open(&e->self, model, &e->plan, &e->cfg, err)))
        goto fail;
    e->open_ms = clock_ms() - start;
    *out = e;
    return PI0_OK;
fail:
    pi0_engine_close(e);
    return st;
}

PI0_API void pi0_engine_close(pi0_engine *engine)
{
    if (!engine)
        return;
    if (engine->backend && engine->self)
        engine->backend->close(engine->self);
    arena_free(&engine->arena);
    free(engine);
}

/* Remembers which rows of the public prefix layout sample i fills (invariant 3). */
static void remember_masks(pi0_engine *e, const struct pi0_input *in, int i)
{
    size_t t = (size_t)e->plan.dims.max_token_len;
    memcpy(e->camera_mask + (size_t)i * PI0_MAX_CAMERAS, in->camera_mask, PI0_MAX_CAMERAS);
    uint8_t *mask = e->token_mask + (size_t)i * t;
    memset(mask, 0, t);
    for (int j = 0; j < in->n_tokens; j++)
        mask[j] = !in->token_mask || in->token_mask[j];
}

/* Checks the arguments and every sample, and lays the batch out (invariant 1). */
static pi0_status engine_batch(pi0_engine *e, const struct pi0_input *in, int n, int n_steps,
                               struct batch *out, struct pi0_error *err)
{
    const struct plan *p = &e->plan;
    if (n < 1 || n > p->max_batch)
        return pi0_fail(err, PI0_E_ARGUMENT, "%d samples in a call, expected 1 to %d (max_batch)",
                        n, p->max_batch);
    if (n_steps < 1 || n_steps > p->max_steps)
        return pi0_fail(err, PI0_E_ARGUMENT, "%d denoising steps, expected 1 to %d (max_steps)",
                        n_steps, p->max_steps);
    *out = (struct batch){ .samples = e->samples, .n = n, .n_steps = n_steps };
    e->has_call = 0; /* the samples of the last call are overwritten now */
    for (int i = 0; i < n; i++) {
        pi0_status st =
            plan_sample(p, &in[i], i, e->tokens + (size_t)i * (size_t)p->dims.max_token_len,
                        e->black, &e->samples[i], err);
        if (st)
            return st;
        out->n_images += e->samples[i].n_images;
        out->n_rows += e->samples[i].n_rows;
    }
    for (int i = 0; i < n; i++)
        remember_masks(e, &in[i], i);
    return PI0_OK;
}

static pi0_status engine_fail(pi0_engine *e, const struct pi0_error *why, struct pi0_error *err)
{
    e->failed = *why;
    if (e->failed.status == PI0_OK)
        e->failed.status = PI0_E_INTERNAL;
    if (err)
        *err = e->failed;
    return e->failed.status;
}

PI0_API pi0_status pi0_engine_infer(pi0_engine *engine, const struct pi0_input *in, int n,
                                    int n_steps, float *actions, struct pi0_timing *timing,
                                    struct pi0_error *err)
{
    if (!engine || !in || !actions)
        return pi0_fail(err, PI0_E_ARGUMENT,
                        "pi0_engine_infer: engine, in and actions must not be NULL");
    if (engine->failed.status)
        return pi0_fail(err, engine->failed.status, "the engine failed before: %s",
                        engine->failed.message);
    double start = clock_ms();
    const struct backend *b = engine->backend;
    struct batch batch;
    pi0_status st = engine_batch(engine, in, n, n_steps, &batch, err);
    if (st)
        return st;
    struct pi0_error why = { PI0_E_INTERNAL, "backend: no reason given" };
    if (b->vision(engine->self, &batch, &why) || b->prefix(engine->self, &batch, &why) ||
        b->denoise(engine->self, &batch, actions, &why))
        return engine_fail(engine, &why, err);
    engine->last = batch;
    engine->has_call = 1;
    engine->spoilt = 0;
    if (timing) {
        b->timing(engine->self, timing);
        timing->total_ms = clock_ms() - start;
    }
    return PI0_OK;
}

PI0_API size_t pi0_engine_tap_size(const pi0_engine *engine, enum pi0_tap tap)
{
    return plan_tap_size(&engine->plan, tap);
}

/* Rows of one sample in the backend's layout → rows of the public layout; dst was zeroed. */
static void spread_prefix(const pi0_engine *e, int sample, const float *rows, size_t width,
                          float *dst)
{
    const struct plan *p = &e->plan;
    const struct sample *s = &e->samples[sample];
    size_t per_camera = (size_t)p->tokens_per_camera;
    for (int i = 0; i < s->n_images; i++)
        memcpy(dst + (size_t)s->camera[i] * per_camera * width,
               rows + (size_t)sample_image_row(p, s, i) * width, per_camera * width * sizeof *dst);
    const uint8_t *mask = e->token_mask + (size_t)sample * (size_t)p->dims.max_token_len;
    const float *token = rows + (size_t)s->n_valid_images * per_camera * width;
    float *text = dst + (size_t)p->dims.n_cameras * per_camera * width;
    for (int j = 0; j < p->dims.max_token_len; j++, text += width)
        if (mask[j]) {
            memcpy(text, token, width * sizeof *dst);
            token += width;
        }
}

static pi0_status check_tap(const pi0_engine *e, enum pi0_tap tap, int index, int sample, size_t n,
                            struct pi0_error *err)
{
    size_t size = plan_tap_size(&e->plan, tap);
    if (e->failed.status)
        return pi0_fail(err, e->failed.status, "the engine failed before: %s", e->failed.message);
    if (!e->has_call || e->spoilt)
        return pi0_fail(err, PI0_E_ARGUMENT, "tap: no finished call to read from");
    if (size == 0)
        return pi0_fail(err, PI0_E_UNSUPPORTED, "tap %d: this model has no such tensor", (int)tap);
    if (n != size)
        return pi0_fail(err, PI0_E_ARGUMENT, "tap %d: room for %zu values, expected %zu", (int)tap,
                        n, size);
    if (sample < 0 || sample >= e->last.n)
        return pi0_fail(err, PI0_E_ARGUMENT, "tap: sample %d, the last call had %d", sample,
                        e->last.n);
    int count = tap == PI0_TAP_PREFIX_EMBS                           ? 1
                : tap == PI0_TAP_PREFIX_K || tap == PI0_TAP_PREFIX_V ? e->plan.dims.depth
                                                                     : e->last.n_steps;
    if (index < 0 || index >= count)
        return pi0_fail(err, PI0_E_ARGUMENT, "tap %d: index %d, expected 0 to %d", (int)tap, index,
                        count - 1);
    if ((tap == PI0_TAP_V || tap == PI0_TAP_X) && !e->cfg.record_steps)
        return pi0_fail(err, PI0_E_UNSUPPORTED,
                        "tap: x and v of the steps are kept only when the "
                        "engine is opened with record_steps");
    return PI0_OK;
}

PI0_API pi0_status pi0_engine_read(pi0_engine *engine, enum pi0_tap tap, int index, int sample,
                                   float *dst, size_t n, struct pi0_error *err)
{
    if (!engine || !dst)
        return pi0_fail(err, PI0_E_ARGUMENT, "pi0_engine_read: engine and dst must not be NULL");
    pi0_status st = check_tap(engine, tap, index, sample, n, err);
    if (st)
        return st;
    const struct backend *b = engine->backend;
    if (tap != PI0_TAP_PREFIX_EMBS && tap != PI0_TAP_PREFIX_K && tap != PI0_TAP_PREFIX_V)
        return b->read(engine->self, tap, index, sample, dst, n, err);
    size_t width = n / (size_t)engine->plan.max_prefix;
    size_t n_rows = (size_t)engine->samples[sample].n_rows;
    if ((st = b->read(engine->self, tap, index, sample, engine->rows, n_rows * width, err)))
        return st;
    memset(dst, 0, n * sizeof *dst);
    spread_prefix(engine, sample, engine->rows, width, dst);
    return PI0_OK;
}

PI0_API pi0_status pi0_engine_time_kernel(pi0_engine *engine, int i, struct pi0_kernel_time *out,
                                          struct pi0_error *err)
{
    if (!engine || !out || i < 0)
        return pi0_fail(err, PI0_E_ARGUMENT,
                        "pi0_engine_time_kernel: engine and out must not be NULL, i not below 0");
    if (engine->failed.status)
        return pi0_fail(err, engine->failed.status, "the engine failed before: %s",
                        engine->failed.message);
    if (!engine->backend->time_kernel)
        return pi0_fail(err, PI0_E_UNSUPPORTED, "the %s backend has no kernels to time one by one",
                        engine->backend->name);
    if (!engine->has_call)
        return pi0_fail(err, PI0_E_ARGUMENT, "timing a kernel: no finished call gives its shapes");
    struct pi0_error why = { PI0_E_INTERNAL, "backend: no reason given" };
    struct pi0_kernel_time found = { 0 };
    engine->spoilt = 1;
    if (engine->backend->time_kernel(engine->self, &engine->last, i, &found, &why))
        return engine_fail(engine, &why, err);
    *out = found;
    return PI0_OK;
}

PI0_API void pi0_engine_info(const pi0_engine *engine, struct pi0_engine_info *out)
{
    const struct plan *p = &engine->plan;
    *out = (struct pi0_engine_info){
        .model = engine->model,
        .backend = engine->backend->name,
        .device = "",
        .isa = "",
        .precision = engine->cfg.precision,
        .max_batch = p->max_batch,
        .action_horizon = p->dims.action_horizon,
        .action_dim = p->dims.action_dim,
        .max_token_len = p->dims.max_token_len,
        .max_steps = p->max_steps,
        .open_ms = engine->open_ms,
    };
    engine->backend->info(engine->self, out);
}

PI0_API void pi0_engine_dims(const pi0_engine *engine, struct pi0_dims *out)
{
    *out = engine->plan.dims;
}

PI0_API pi0_status pi0_engine_work(const pi0_engine *engine, int n, int n_cameras, int n_tokens,
                                   int n_steps, struct pi0_stage_work out[PI0_N_STAGES],
                                   struct pi0_error *err)
{
    const struct plan *p = &engine->plan;
    if (n < 1 || n > p->max_batch || n_cameras < 0 || n_cameras > p->dims.n_cameras ||
        n_tokens < 0 || n_tokens > p->dims.max_token_len || n_cameras + n_tokens == 0 ||
        n_steps < 1 || n_steps > p->max_steps)
        return pi0_fail(err, PI0_E_ARGUMENT,
                        "work of %d samples, %d cameras, %d tokens, %d steps: expected at most "
                        "%d, %d, %d, %d",
                        n, n_cameras, n_tokens, n_steps, p->max_batch, p->dims.n_cameras,
                        p->dims.max_token_len, p->max_steps);
    plan_work(p, n, n_cameras, n_tokens, n_steps, out);
    return PI0_OK;
}

PI0_API int pi0_engine_kernel(const pi0_engine *engine, int i, struct pi0_kernel_choice *out)
{
    return engine->backend->kernel(engine->self, i, out);
}
