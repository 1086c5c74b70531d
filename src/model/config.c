/* SPDX-License-Identifier: Apache-2.0
 * config: the ranges of dimensions, and what the files said held against what the tensors say.
 * config_files.c reads the files. */
#include "model/config.h"
#include "io/mapfile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define JSON_MAX_BYTES ((size_t)16 << 20)

/* ---------------------------------------------------------------- dimensions */

/* Every integer of struct pi0_dims: its name in messages and its range. */
static const struct {
    const char *name;
    size_t offset;
    int min, max;
} fields[] = {
#define FIELD(f, min, max)                         \
    {                                              \
#f, offsetof(struct pi0_dims, f), min, max \
    }
    FIELD(image_size, 1, CONFIG_MAX_IMAGE),
    FIELD(patch_size, 1, CONFIG_MAX_IMAGE),
    FIELD(n_cameras, 1, PI0_MAX_CAMERAS),
    FIELD(vision_width, 1, CONFIG_MAX_WIDTH),
    FIELD(vision_depth, 1, CONFIG_MAX_DEPTH),
    FIELD(vision_mlp_dim, 1, CONFIG_MAX_MLP),
    FIELD(vision_heads, 1, CONFIG_MAX_HEADS),
    FIELD(vlm_width, 1, CONFIG_MAX_WIDTH),
    FIELD(vlm_mlp_dim, 1, CONFIG_MAX_MLP),
    FIELD(vocab_size, 1, CONFIG_MAX_VOCAB),
    FIELD(expert_width, 4, CONFIG_MAX_WIDTH), /* ≥ 4: two frequencies of the time embedding */
    FIELD(expert_mlp_dim, 1, CONFIG_MAX_MLP),
    FIELD(depth, 1, CONFIG_MAX_DEPTH),
    FIELD(heads, 1, CONFIG_MAX_HEADS),
    FIELD(kv_heads, 1, 1),
    FIELD(head_dim, 2, CONFIG_MAX_HEAD_DIM),
    FIELD(action_dim, 1, CONFIG_MAX_ACTION_DIM),
    FIELD(action_horizon, 1, CONFIG_MAX_HORIZON),
    FIELD(max_token_len, 1, CONFIG_MAX_TOKEN_LEN),
#undef FIELD
};
#define N_FIELDS (sizeof fields / sizeof fields[0])

static int get_field(const struct pi0_dims *d, size_t i)
{
    int v;
    memcpy(&v, (const char *)d + fields[i].offset, sizeof v);
    return v;
}

static void set_field(struct pi0_dims *d, size_t i, int v)
{
    memcpy((char *)d + fields[i].offset, &v, sizeof v);
}

pi0_status config_check(const struct pi0_dims *d, struct pi0_error *err)
{
    if (d->variant != PI0_VARIANT_PI0 && d->variant != PI0_VARIANT_PI05)
        return pi0_fail(err, PI0_E_MODEL, "model: variant %d, expected 0 (pi0) or 1 (pi05)",
                        (int)d->variant);
    for (size_t i = 0; i < N_FIELDS; i++) {
        int v = get_field(d, i);
        if (v < fields[i].min || v > fields[i].max)
            return pi0_fail(err, PI0_E_MODEL, "model: %s %d, expected %d to %d", fields[i].name, v,
                            fields[i].min, fields[i].max);
    }
    int grid = d->image_size / d->patch_size;
    if (d->image_size % d->patch_size)
        return pi0_fail(err, PI0_E_MODEL, "model: image_size %d is not a multiple of patch_size %d",
                        d->image_size, d->patch_size);
    if (grid * grid > CONFIG_MAX_CAMERA_TOKENS)
        return pi0_fail(err, PI0_E_MODEL, "model: %d x %d patches a camera, expected at most %d",
                        grid, grid, CONFIG_MAX_CAMERA_TOKENS);
    if (d->vision_width % d->vision_heads)
        return pi0_fail(err, PI0_E_MODEL,
                        "model: vision_width %d is not a multiple of vision_heads %d",
                        d->vision_width, d->vision_heads);
    if (d->head_dim % 2 || d->expert_width % 2)
        return pi0_fail(err, PI0_E_MODEL, "model: head_dim %d and expert_width %d, expected even",
                        d->head_dim, d->expert_width);
    if (d->heads * d->head_dim > CONFIG_MAX_WIDTH)
        return pi0_fail(err, PI0_E_MODEL, "model: %d heads of %d, expected at most %d values",
                        d->heads, d->head_dim, CONFIG_MAX_WIDTH);
    return PI0_OK;
}

void config_default_cameras(char names[PI0_MAX_CAMERAS][CONFIG_NAME_BYTES])
{
    static const char *const openpi[] = { "base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb" };
    for (int i = 0; i < PI0_MAX_CAMERAS; i++) {
        if (i < 3)
            snprintf(names[i], CONFIG_NAME_BYTES, "%s", openpi[i]);
        else
            snprintf(names[i], CONFIG_NAME_BYTES, "camera_%d", i);
    }
}

/* ---------------------------------------------------------------- files */

pi0_status config_read(unsigned char **out, size_t *size, const char *dir, const char *name,
                       struct pi0_error *err)
{
    char path[4096];
    struct stat sb;
    pi0_status st = path_join(path, sizeof path, dir, name, err);
    if (st)
        return st;
    if (stat(path, &sb) != 0) {
        if (errno != ENOENT)
            return pi0_fail(err, PI0_E_IO, "%s: %s", path, strerror(errno));
        *out = NULL;
        *size = 0;
        return PI0_OK;
    }
    return file_read(out, size, path, JSON_MAX_BYTES, err);
}

pi0_status config_load(struct config *out, const char *dir, const char *preset,
                       struct pi0_error *err)
{
    unsigned char *theirs = NULL, *ours = NULL;
    size_t n_theirs = 0, n_ours = 0;
    memset(out, 0, sizeof *out);
    pi0_status st = config_read(&theirs, &n_theirs, dir, "config.json", err);
    if (!st)
        st = config_read(&ours, &n_ours, dir, "pi0.json", err);
    if (!st)
        st = config_parse(out, (struct config_file){ (const char *)theirs, n_theirs },
                          (struct config_file){ (const char *)ours, n_ours }, preset, err);
    free(theirs);
    free(ours);
    return st;
}

static const char *variant_name(enum pi0_variant v)
{
    return v == PI0_VARIANT_PI05 ? "pi05" : "pi0";
}

pi0_status config_finish(struct config *c, struct pi0_error *err)
{
    struct pi0_dims *d = &c->dims;
    struct train_config *t = &c->train;
    int is_pi05 = d->variant == PI0_VARIANT_PI05;
    if (t->name[0] && t->variant != d->variant)
        return pi0_fail(err, PI0_E_MODEL, "preset \"%s\" is for %s, the tensors are those of %s",
                        t->name, variant_name(t->variant), variant_name(d->variant));
    for (size_t i = 0; i < N_FIELDS; i++) {
        int tensors = get_field(d, i), said = get_field(&c->said.dims, i);
        if (tensors && said && tensors != said)
            return pi0_fail(err, PI0_E_MODEL, "config.json: %s is %d, the tensors say %d",
                            fields[i].name, said, tensors);
        if (!tensors)
            set_field(d, i, said);
    }
    if (!d->vision_heads && d->vision_width != 1152)
        return pi0_fail(err, PI0_E_MODEL,
                        "config.json: vision.heads is missing; no tensor tells it, and only for a "
                        "vision width of 1152 is it known (16); this one is %d",
                        d->vision_width);
    if (!d->vision_heads)
        d->vision_heads = 16;
    if (!d->n_cameras) {
        d->n_cameras = 3;
        config_default_cameras(c->camera_names);
    }
    if (!d->action_horizon)
        d->action_horizon = 50;
    if (!d->max_token_len)
        d->max_token_len = is_pi05 ? 200 : 48;
    /* openpi: quantiles unless the model is π0; the state goes into π0.5's prompt unless told. */
    if (!c->said.norm)
        t->norm = is_pi05 ? NORM_QUANTILE : NORM_ZSCORE;
    if (!c->said.discrete_state)
        t->discrete_state = is_pi05;
    t->variant = d->variant;
    t->action_dim = d->action_dim;
    t->action_horizon = d->action_horizon;
    t->max_token_len = d->max_token_len;
    if (!t->out_dim)
        t->out_dim = d->action_dim;
    if (t->out_dim > d->action_dim || t->n_delta_mask > d->action_dim)
        return pi0_fail(err, PI0_E_MODEL,
                        "pi0.json: out_dim %d and %d entries of delta_mask, expected at most the "
                        "model's action size %d",
                        t->out_dim, t->n_delta_mask, d->action_dim);
    return config_check(d, err);
}

pi0_status config_dims(const struct config *c, struct pi0_dims *out, struct pi0_error *err)
{
    struct pi0_dims d = c->said.dims;
    if (!c->said.variant)
        return pi0_fail(err, PI0_E_MODEL,
                        "config.json: model is missing, expected \"pi0\" or "
                        "\"pi05\"");
    d.variant = (enum pi0_variant)(c->said.variant - 1);
    for (size_t i = 0; i < N_FIELDS; i++)
        if (!get_field(&d, i))
            return pi0_fail(err, PI0_E_MODEL, "config.json: %s is missing", fields[i].name);
    pi0_status st = config_check(&d, err);
    if (!st)
        *out = d;
    return st;
}

void config_free(struct config *c)
{
    if (!c)
        return;
    json_decref(c->lerobot);
    memset(c, 0, sizeof *c);
}
