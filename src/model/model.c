/* SPDX-License-Identifier: Apache-2.0
 * model: opening and closing a pi0_model, and the two places dimensions come from without one:
 * names and golden cases. */
#include "model/model.h"
#include "io/mapfile.h"
#include "io/safetensors.h"
#include "model/bind.h"
#include "model/synth.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---------------------------------------------------------------- dimensions by name */

#define FULL                                                                                       \
    .image_size = 224, .patch_size = 14, .n_cameras = 3, .vision_width = 1152, .vision_depth = 27, \
    .vision_mlp_dim = 4304, .vision_heads = 16, .vlm_width = 2048, .vlm_mlp_dim = 16384,           \
    .vocab_size = 257152, .expert_width = 1024, .expert_mlp_dim = 4096, .depth = 18, .heads = 8,   \
    .kv_heads = 1, .head_dim = 256, .action_dim = 32, .action_horizon = 50
#define TINY                                                                                   \
    .image_size = 56, .patch_size = 14, .n_cameras = 3, .vision_width = 96, .vision_depth = 3, \
    .vision_mlp_dim = 200, .vision_heads = 4, .vlm_width = 128, .vlm_mlp_dim = 320,            \
    .vocab_size = 512, .expert_width = 64, .expert_mlp_dim = 160, .depth = 3, .heads = 4,      \
    .kv_heads = 1, .head_dim = 32, .action_dim = 8, .action_horizon = 6

static const struct {
    const char *name;
    struct pi0_dims dims;
} named[] = {
    { "pi0", { .variant = PI0_VARIANT_PI0, FULL, .max_token_len = 48 } },
    { "pi05", { .variant = PI0_VARIANT_PI05, FULL, .max_token_len = 200 } },
    { "pi0_tiny", { .variant = PI0_VARIANT_PI0, TINY, .max_token_len = 12 } },
    { "pi05_tiny", { .variant = PI0_VARIANT_PI05, TINY, .max_token_len = 20 } },
};

pi0_status pi0_dims_named(struct pi0_dims *out, const char *name, struct pi0_error *err)
{
    if (!out || !name)
        return pi0_fail(err, PI0_E_ARGUMENT, "pi0_dims_named: NULL argument");
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
        if (strcmp(named[i].name, name) == 0) {
            *out = named[i].dims;
            return PI0_OK;
        }
    }
    return pi0_fail(err, PI0_E_ARGUMENT,
                    "model \"%s\" is not known, expected pi0, pi05, pi0_tiny or pi05_tiny", name);
}

/* ---------------------------------------------------------------- open and close */

static pi0_status count_params(void *user, const struct weight_entry *e, struct pi0_error *err)
{
    uint64_t *group = user;
    (void)err;
    group[e->group] += e->field->rank ? e->field->n : 0;
    return PI0_OK;
}

static void fill_info(struct pi0_model *m, struct bind_count count)
{
    struct pi0_model_info *info = &m->info;
    uint64_t group[N_WEIGHT_GROUPS] = { 0 };
    weights_walk(&m->weights, &m->config.dims, count_params, group, NULL);
    *info = (struct pi0_model_info){ .dims = m->config.dims,
                                     .source = m->config.source,
                                     .dir = m->dir,
                                     .preset = m->config.train.name,
                                     .n_params_vision = group[WEIGHTS_VISION],
                                     .n_params_projector = group[WEIGHTS_PROJECTOR],
                                     .n_params_table = group[WEIGHTS_TABLE],
                                     .n_params_vlm = group[WEIGHTS_VLM],
                                     .n_params_expert = group[WEIGHTS_EXPERT],
                                     .n_params_heads = group[WEIGHTS_HEADS],
                                     .file_bytes = m->files ? m->files->file_bytes : 0,
                                     .n_tensors = count.used,
                                     .n_unused = count.unused };
    for (int i = 0; i < N_WEIGHT_GROUPS; i++)
        info->n_params += group[i];
    for (int i = 0; i < m->config.dims.n_cameras; i++)
        info->camera_names[i] = m->config.camera_names[i];
}

pi0_status pi0_model_open(pi0_model **out, const char *dir, const struct pi0_model_options *options,
                          struct pi0_error *err)
{
    struct bind_count count = { 0, 0 };
    pi0_status st;
    if (!out || !dir)
        return pi0_fail(err, PI0_E_ARGUMENT, "pi0_model_open: NULL argument");
    struct pi0_model *m = calloc(1, sizeof *m);
    if (!m || !(m->dir = strdup(dir))) {
        st = pi0_fail(err, PI0_E_NOMEM, "model: %zu bytes", sizeof *m);
        goto fail;
    }
    if ((st = config_load(&m->config, dir, options ? options->preset : NULL, err)) ||
        (st = st_open_dir(&m->files, dir, err)) ||
        (st = weights_bind(&m->weights, &m->config, m->files, &count, err)))
        goto fail;
    fill_info(m, count);
    *out = m;
    return PI0_OK;
fail:
    pi0_model_close(m);
    return st;
}

static pi0_status count_tensor(void *user, const struct weight_entry *e, struct pi0_error *err)
{
    (void)e;
    (void)err;
    ++*(int *)user;
    return PI0_OK;
}

pi0_status pi0_model_open_synthetic(pi0_model **out, const struct pi0_dims *dims, uint64_t seed,
                                    struct pi0_error *err)
{
    struct bind_count count = { 0, 0 };
    pi0_status st;
    if (!out || !dims)
        return pi0_fail(err, PI0_E_ARGUMENT, "pi0_model_open_synthetic: NULL argument");
    struct pi0_model *m = calloc(1, sizeof *m);
    if (!m || !(m->dir = strdup(""))) {
        st = pi0_fail(err, PI0_E_NOMEM, "model: %zu bytes", sizeof *m);
        goto fail;
    }
    struct config *c = &m->config;
    c->num_steps = 10;
    c->source = PI0_SOURCE_SYNTHETIC;
    c->dims = *dims;
    if ((st = config_check(dims, err)) || (st = config_finish(c, err)))
        goto fail;
    config_default_cameras(c->camera_names);
    if ((st = synth_weights(&m->weights, dims, seed, err)))
        goto fail;
    weights_walk(&m->weights, dims, count_tensor, &count.used, NULL);
    fill_info(m, count);
    *out = m;
    return PI0_OK;
fail:
    pi0_model_close(m);
    return st;
}

void pi0_model_info(const pi0_model *model, struct pi0_model_info *out) { *out = model->info; }

void pi0_model_close(pi0_model *m)
{
    if (!m)
        return;
    weights_free(&m->weights);
    config_free(&m->config);
    st_close(m->files);
    free(m->dir);
    free(m);
}

/* ---------------------------------------------------------------- golden cases */

static int file_exists(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0;
}

/* A sibling folder's name: no separators, not ".." */
static int is_plain_name(const char *s)
{
    return *s && strlen(s) < 64 && !strchr(s, '/') && strcmp(s, ".") != 0 && strcmp(s, "..") != 0;
}

static pi0_status find_weights(struct pi0_case *c, const char *dir, const char *sibling,
                               struct pi0_error *err)
{
    char path[sizeof c->weights_dir + 32];
    pi0_status st;
    if (sibling) {
        if (!is_plain_name(sibling))
            return pi0_fail(err, PI0_E_FORMAT,
                            "config.json: weights is \"%s\", expected the name "
                            "of a folder beside this one",
                            sibling);
        size_t n = strlen(dir);
        int len = snprintf(c->weights_dir, sizeof c->weights_dir, "%s%s../%s", dir,
                           n && dir[n - 1] == '/' ? "" : "/", sibling);
        if (len < 0 || (size_t)len >= sizeof c->weights_dir)
            return pi0_fail(err, PI0_E_ARGUMENT, "path too long: %s", dir);
        return PI0_OK;
    }
    if ((st = path_join(path, sizeof path, dir, "model.safetensors", err)))
        return st;
    if (!file_exists(path))
        return PI0_OK;
    if (strlen(dir) >= sizeof c->weights_dir)
        return pi0_fail(err, PI0_E_ARGUMENT, "path too long: %s", dir);
    snprintf(c->weights_dir, sizeof c->weights_dir, "%s", dir);
    return PI0_OK;
}

/* What a case says beyond a model's config. */
static pi0_status read_case_fields(struct pi0_case *c, const json_t *j, const char *dir,
                                   struct pi0_error *err)
{
    const json_t *name = json_object_get(j, "name"), *seed = json_object_get(j, "seed"),
                 *weights = json_object_get(j, "weights");
    if (name && !json_is_string(name))
        return pi0_fail(err, PI0_E_FORMAT, "config.json: name, expected a string");
    if (seed && (!json_is_integer(seed) || json_integer_value(seed) < 0))
        return pi0_fail(err, PI0_E_FORMAT, "config.json: seed, expected an integer of at least 0");
    if (weights && !json_is_string(weights))
        return pi0_fail(err, PI0_E_FORMAT, "config.json: weights, expected a string");
    if (json_integer_value(json_object_get(j, "rtc_prefix_len")) > 0)
        return pi0_fail(err, PI0_E_UNSUPPORTED,
                        "config.json: rtc_prefix_len is there: a chunk that starts with given "
                        "actions is not done");
    snprintf(c->name, sizeof c->name, "%s", name ? json_string_value(name) : "");
    c->seed = (uint64_t)json_integer_value(seed);
    return find_weights(c, dir, weights ? json_string_value(weights) : NULL, err);
}

pi0_status pi0_case_read(struct pi0_case *out, const char *dir, struct pi0_error *err)
{
    unsigned char *text = NULL;
    size_t size = 0;
    struct config config;
    struct pi0_case c = { .n_steps = 0 };
    json_t *j = NULL;
    pi0_status st;
    if (!out || !dir)
        return pi0_fail(err, PI0_E_ARGUMENT, "pi0_case_read: NULL argument");
    memset(&config, 0, sizeof config);
    if ((st = config_read(&text, &size, dir, "config.json", err)))
        return st;
    if (!text)
        return pi0_fail(err, PI0_E_IO, "%s/config.json: no such file", dir);
    struct config_file file = { (const char *)text, size }, none = { NULL, 0 };
    if ((st = config_parse(&config, file, none, NULL, err)) ||
        (st = config_dims(&config, &c.dims, err)))
        goto done;
    c.n_steps = config.num_steps;
    j = json_loadb(file.data, file.size, JSON_REJECT_DUPLICATES, NULL);
    if (!j) {
        st = pi0_fail(err, PI0_E_NOMEM, "%s/config.json: read twice, understood once", dir);
        goto done;
    }
    st = read_case_fields(&c, j, dir, err);
    if (!st)
        *out = c;
done:
    json_decref(j);
    config_free(&config);
    free(text);
    return st;
}
