/* SPDX-License-Identifier: Apache-2.0
 * check: runs the inputs of a golden file through an engine and measures how far every stage that
 * the file holds is from the reference. Uses the public taps alone, so every backend is judged by
 * the same code. Rows that no valid token reads (masked cameras, padding) are left out. */
#include "base/status.h"
#include "io/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bounds on relative L2 (docs/numerics.md, "Tolerances"). float32: a correct implementation lands
 * near 1e-6; 2e-5 leaves room for summation order, the single K components of prefixes of several
 * hundred tokens for a RoPE frequency one unit off in the reference. bf16: the actions' bar is the
 * reference's own distance between its bf16 and float32 modes; the stages before them carry more
 * error than the actions, which sum N small steps onto exact noise. */
struct bound {
    const char *name;
    double f32, bf16;
};
static const struct bound bounds[] = {
    { "prefix_embs", 2e-5, 1e-2 },
    { "prefix_embs_head", 2e-5, 1e-2 },
    { "prefix_embs_norm", 2e-5, 5e-3 },
    { "prefix_k", 2e-5, 1e-2 },
    { "prefix_k_head", 5e-5, 1e-2 },
    { "prefix_k_norm", 2e-5, 5e-3 },
    { "prefix_v", 2e-5, 1e-2 },
    { "prefix_v_norm", 2e-5, 5e-3 },
    { "suffix_embs_step0", 2e-5, 5e-3 },
    { "adarms_cond", 2e-5, 5e-3 },
    { "v_t", 2e-5, 1e-2 },
    { "x_t", 2e-5, 5e-3 },
    { "actions", 2e-5, 5e-3 },
};

struct run {
    pi0_engine *engine;
    struct pi0_engine_info info;
    const struct pi0_check_options *options;
    struct st_set *file;
    size_t n_cameras, n_tokens, rows_per_camera, n_rows; /* of the public prefix layout */
    uint8_t *row_valid;                                  /* [n_rows] */
    float *actions, *got;                                /* got: room for the largest tap */
    size_t got_n;
    int n_steps;
    struct pi0_check_stage *stages;
    int *n_stages;
};

/* Sums that give relative L2, cosine and the largest difference. */
struct sums {
    double dd, rr, gg, gr, max;
    size_t n;
};

static void sums_add(struct sums *s, const float *got, const float *ref, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double g = (double)got[i], r = (double)ref[i], d = g - r;
        s->dd += d * d;
        s->rr += r * r;
        s->gg += g * g;
        s->gr += g * r;
        if (!(fabs(d) <= s->max) && !isnan(s->max)) /* a NaN enters, and sticks */
            s->max = fabs(d);
    }
    s->n += n;
}

static void finish_stage(const struct run *r, const char *name, const struct sums *s)
{
    if (*r->n_stages == PI0_CHECK_MAX_STAGES)
        return;
    struct pi0_check_stage *out = &r->stages[(*r->n_stages)++];
    *out = (struct pi0_check_stage){ .n_values = s->n };
    size_t len = strlen(name);
    memcpy(out->name, name, len < sizeof out->name ? len : sizeof out->name - 1);
    int finite = isfinite(s->dd) && isfinite(s->gg);
    out->rel_l2 = !finite ? INFINITY : s->rr > 0 ? sqrt(s->dd / s->rr) : s->dd > 0 ? INFINITY : 0;
    out->cosine = finite && s->gg > 0 && s->rr > 0 ? s->gr / sqrt(s->gg * s->rr) : 0;
    out->max_abs = finite ? s->max : INFINITY;
    int f32 = r->info.precision == PI0_PRECISION_F32;
    for (size_t i = 0; i < sizeof bounds / sizeof bounds[0]; i++)
        if (!strcmp(bounds[i].name, name))
            out->tolerance = f32 ? bounds[i].f32 : bounds[i].bf16;
    if (r->options && r->options->tolerance > 0)
        out->tolerance = r->options->tolerance;
    double min_cosine = r->options && r->options->min_cosine > 0 ? r->options->min_cosine : 0.9999;
    out->pass = finite && s->n > 0 && out->rel_l2 <= out->tolerance &&
                (strcmp(name, "actions") != 0 || out->cosine >= min_cosine);
}

/* A tensor of the file with this dtype and shape; PI0_E_FORMAT names what differs. */
static pi0_status want(const struct run *r, const char *name, enum st_dtype dtype, int rank,
                       const uint64_t *shape, const struct st_tensor **out, struct pi0_error *err)
{
    const struct st_tensor *t = st_find(r->file, name);
    if (!t)
        return pi0_fail(err, PI0_E_FORMAT, "golden file: tensor %s is missing", name);
    int same = t->dtype == dtype && t->rank == rank;
    for (int i = 0; same && i < rank; i++)
        same = t->shape[i] == shape[i];
    if (!same) {
        char found[96] = "", expected[96] = "";
        for (int i = 0; i < t->rank && i < 4; i++)
            snprintf(found + strlen(found), sizeof found - strlen(found), "%s%llu", i ? ", " : "",
                     (unsigned long long)t->shape[i]);
        for (int i = 0; i < rank && i < 4; i++)
            snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%s%llu",
                     i ? ", " : "", (unsigned long long)shape[i]);
        return pi0_fail(err, PI0_E_FORMAT, "golden file: %s is %s [%s], expected %s [%s]", name,
                        st_dtype_name(t->dtype), found, st_dtype_name(dtype), expected);
    }
    *out = t;
    return PI0_OK;
}

/* A float32 tensor copied out of the mapping (which may be unaligned); the caller frees. */
static pi0_status copy_f32(const struct st_tensor *t, float **out, struct pi0_error *err)
{
    float *p = calloc(1, t->bytes ? t->bytes : 1);
    if (!p)
        return pi0_fail(err, PI0_E_NOMEM, "check: %zu bytes cannot be had", t->bytes);
    memcpy(p, t->data, t->bytes);
    *out = p;
    return PI0_OK;
}

/* Reads the inputs, runs the call, marks the valid rows. */
static pi0_status run_inputs(struct run *r, const struct pi0_dims *d, struct pi0_error *err)
{
    const struct st_tensor *images, *mask, *tokens, *token_mask, *state, *noise;
    uint64_t c = (uint64_t)d->n_cameras, s = (uint64_t)d->image_size;
    uint64_t h = (uint64_t)r->info.action_horizon, a = (uint64_t)d->action_dim;
    const struct st_tensor *any = st_find(r->file, "tokens");
    uint64_t t = any && any->rank == 1 ? any->shape[0] : 0;
    pi0_status st;
    if (st_find(r->file, "prev_chunk"))
        return pi0_fail(err, PI0_E_UNSUPPORTED,
                        "golden file: it asks for a hard action prefix (prev_chunk), which this "
                        "version does not do");
    if ((st = want(r, "images_u8", ST_U8, 4, (uint64_t[]){ c, s, s, 3 }, &images, err)) ||
        (st = want(r, "image_mask", ST_U8, 1, (uint64_t[]){ c }, &mask, err)) ||
        (st = want(r, "tokens", ST_I32, 1, (uint64_t[]){ t }, &tokens, err)) ||
        (st = want(r, "token_mask", ST_U8, 1, (uint64_t[]){ t }, &token_mask, err)) ||
        (st = want(r, "state", ST_F32, 1, (uint64_t[]){ a }, &state, err)) ||
        (st = want(r, "noise", ST_F32, 2, (uint64_t[]){ h, a }, &noise, err)))
        return st;
    if (t > (uint64_t)r->info.max_token_len)
        return pi0_fail(err, PI0_E_ARGUMENT, "golden file: %llu prompt tokens, the engine takes %d",
                        (unsigned long long)t, r->info.max_token_len);
    unsigned char *block = malloc(tokens->bytes + state->bytes + noise->bytes);
    if (!block)
        return pi0_fail(err, PI0_E_NOMEM, "check: inputs do not fit in memory");
    memcpy(block, noise->data, noise->bytes);
    memcpy(block + noise->bytes, state->data, state->bytes);
    memcpy(block + noise->bytes + state->bytes, tokens->data, tokens->bytes);
    struct pi0_input in = {
        .tokens = (const int32_t *)(const void *)(block + noise->bytes + state->bytes),
        .token_mask = token_mask->data,
        .n_tokens = (int)t,
        .state = (const float *)(const void *)(block + noise->bytes),
        .noise = (const float *)(const void *)block,
    };
    for (uint64_t i = 0; i < c; i++) {
        in.pixels[i] = images->data + i * s * s * 3;
        in.camera_mask[i] = mask->data[i];
        memset(r->row_valid + i * r->rows_per_camera, mask->data[i] != 0, r->rows_per_camera);
    }
    memset(r->row_valid + c * r->rows_per_camera, 0, r->n_tokens);
    for (uint64_t i = 0; i < t; i++)
        r->row_valid[c * r->rows_per_camera + i] = token_mask->data[i] != 0;
    st = pi0_engine_infer(r->engine, &in, 1, r->n_steps, r->actions, NULL, err);
    free(block);
    return st;
}

/* How a stored tensor relates to a tap. */
enum shape_of { WHOLE, HEAD, NORM }; /* all components; the first few; the L2 norm of a row */

/* Compares `count` reads of a prefix tap, valid rows only, with a stored tensor whose rows beyond
 * the engine's own prefix length do not exist. */
static pi0_status compare_prefix(struct run *r, const char *name, enum pi0_tap tap, int count,
                                 enum shape_of how, struct pi0_error *err)
{
    const struct st_tensor *t = st_find(r->file, name);
    if (!t)
        return PI0_OK;
    size_t n = pi0_engine_tap_size(r->engine, tap), width = n / r->n_rows;
    size_t stored_rows = r->n_cameras * r->rows_per_camera;
    const struct st_tensor *tokens = st_find(r->file, "tokens");
    stored_rows += (size_t)tokens->shape[0];
    size_t stored_width = how == NORM    ? 1
                          : how == WHOLE ? width
                          : t->rank > 0  ? (size_t)t->shape[t->rank - 1]
                                         : 0;
    if (t->dtype != ST_F32 || t->rank < 1 || stored_width > width ||
        t->n != (uint64_t)stored_rows * stored_width * (uint64_t)count)
        return pi0_fail(err, PI0_E_FORMAT,
                        "golden file: %s has %llu %s values, expected %zu float32 (%d x %zu rows "
                        "x %zu)",
                        name, (unsigned long long)t->n, st_dtype_name(t->dtype),
                        stored_rows * stored_width * (size_t)count, count, stored_rows,
                        stored_width);
    float *ref = NULL;
    pi0_status st = copy_f32(t, &ref, err);
    struct sums s = { 0 };
    for (int i = 0; !st && i < count; i++) {
        if ((st = pi0_engine_read(r->engine, tap, i, 0, r->got, n, err)))
            break;
        const float *want_row = ref + (size_t)i * stored_rows * stored_width;
        for (size_t row = 0; row < stored_rows; row++, want_row += stored_width) {
            if (!r->row_valid[row])
                continue;
            const float *got = r->got + row * width;
            float norm;
            if (how == NORM) {
                double sum = 0;
                for (size_t j = 0; j < width; j++)
                    sum += (double)got[j] * (double)got[j];
                norm = (float)sqrt(sum);
                got = &norm;
            }
            sums_add(&s, got, want_row, stored_width);
        }
    }
    if (!st)
        finish_stage(r, name, &s);
    free(ref);
    return st;
}

/* Compares the first `count` indices of a per-step tap with a stored tensor [count, tap size]. */
static pi0_status compare_steps(struct run *r, const char *name, enum pi0_tap tap, int count,
                                struct pi0_error *err)
{
    const struct st_tensor *t = st_find(r->file, name);
    if (!t)
        return PI0_OK;
    size_t n = pi0_engine_tap_size(r->engine, tap);
    if (t->dtype != ST_F32 || t->n != (uint64_t)n * (uint64_t)count)
        return pi0_fail(err, PI0_E_FORMAT,
                        "golden file: %s has %llu %s values, expected %zu float32", name,
                        (unsigned long long)t->n, st_dtype_name(t->dtype), n * (size_t)count);
    float *ref = NULL;
    pi0_status st = copy_f32(t, &ref, err);
    struct sums s = { 0 };
    for (int i = 0; !st && i < count; i++)
        if (!(st = pi0_engine_read(r->engine, tap, i, 0, r->got, n, err)))
            sums_add(&s, r->got, ref + (size_t)i * n, n);
    if (!st)
        finish_stage(r, name, &s);
    free(ref);
    return st;
}

static pi0_status compare_actions(struct run *r, struct pi0_error *err)
{
    const struct st_tensor *t;
    uint64_t h = (uint64_t)r->info.action_horizon, a = (uint64_t)r->info.action_dim;
    float *ref = NULL;
    pi0_status st = want(r, "actions", ST_F32, 2, (uint64_t[]){ h, a }, &t, err);
    if (st || (st = copy_f32(t, &ref, err)))
        return st;
    struct sums s = { 0 };
    sums_add(&s, r->actions, ref, (size_t)t->n);
    finish_stage(r, "actions", &s);
    free(ref);
    return PI0_OK;
}

static pi0_status run_all(struct run *r, const struct pi0_dims *d, struct pi0_error *err)
{
    pi0_status st;
    if ((st = run_inputs(r, d, err)) ||
        (st = compare_prefix(r, "prefix_embs", PI0_TAP_PREFIX_EMBS, 1, WHOLE, err)) ||
        (st = compare_prefix(r, "prefix_embs_head", PI0_TAP_PREFIX_EMBS, 1, HEAD, err)) ||
        (st = compare_prefix(r, "prefix_embs_norm", PI0_TAP_PREFIX_EMBS, 1, NORM, err)) ||
        (st = compare_prefix(r, "prefix_k", PI0_TAP_PREFIX_K, d->depth, WHOLE, err)) ||
        (st = compare_prefix(r, "prefix_k_head", PI0_TAP_PREFIX_K, d->depth, HEAD, err)) ||
        (st = compare_prefix(r, "prefix_k_norm", PI0_TAP_PREFIX_K, d->depth, NORM, err)) ||
        (st = compare_prefix(r, "prefix_v", PI0_TAP_PREFIX_V, d->depth, WHOLE, err)) ||
        (st = compare_prefix(r, "prefix_v_norm", PI0_TAP_PREFIX_V, d->depth, NORM, err)) ||
        (st = compare_steps(r, "suffix_embs_step0", PI0_TAP_SUFFIX_EMBS, 1, err)) ||
        (st = compare_steps(r, "adarms_cond", PI0_TAP_ADARMS_COND, r->n_steps, err)) ||
        (st = compare_steps(r, "v_t", PI0_TAP_V, r->n_steps, err)) ||
        (st = compare_steps(r, "x_t", PI0_TAP_X, r->n_steps, err)))
        return st;
    return compare_actions(r, err);
}

PI0_API pi0_status pi0_check_file(pi0_engine *engine, const char *io_path, int n_steps,
                                  const struct pi0_check_options *options,
                                  struct pi0_check_stage stages[PI0_CHECK_MAX_STAGES],
                                  int *n_stages, struct pi0_error *err)
{
    if (!engine || !io_path || !stages || !n_stages)
        return pi0_fail(err, PI0_E_ARGUMENT, "pi0_check_file: a NULL argument");
    struct run r = { .engine = engine, .options = options, .n_steps = n_steps, .stages = stages };
    struct pi0_dims dims;
    int count = 0;
    r.n_stages = &count;
    pi0_engine_info(engine, &r.info);
    pi0_engine_dims(engine, &dims);
    size_t side = (size_t)(dims.image_size / dims.patch_size);
    r.n_cameras = (size_t)dims.n_cameras;
    r.n_tokens = (size_t)dims.max_token_len;
    r.rows_per_camera = side * side;
    r.n_rows = r.n_cameras * r.rows_per_camera + r.n_tokens;
    for (int tap = PI0_TAP_PREFIX_EMBS; tap <= PI0_TAP_X; tap++) {
        size_t n = pi0_engine_tap_size(engine, (enum pi0_tap)tap);
        if (n > r.got_n)
            r.got_n = n;
    }
    pi0_status st = st_open_file(&r.file, io_path, err);
    if (st)
        return st;
    r.row_valid = malloc(r.n_rows);
    r.got = malloc(r.got_n * sizeof *r.got);
    r.actions = malloc((size_t)dims.action_horizon * (size_t)dims.action_dim * sizeof *r.actions);
    if (!r.row_valid || !r.got || !r.actions)
        st = pi0_fail(err, PI0_E_NOMEM, "check: buffers do not fit in memory");
    else
        st = run_all(&r, &dims, err);
    free(r.row_valid);
    free(r.got);
    free(r.actions);
    st_close(r.file);
    if (!st)
        *n_stages = count;
    return st;
}
