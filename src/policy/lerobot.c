/* SPDX-License-Identifier: Apache-2.0
 * lerobot: its processor files; see lerobot.h. lerobot: processor/pipeline.py (the file's form),
 * normalize_processor.py, relative_action_processor.py. */
#include "policy/lerobot.h"

#include "io/mapfile.h"
#include "io/safetensors.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char state_feature[] = "observation.state", action_feature[] = "action";

/* Modes: lerobot's name, the statistics it takes, our formula. */
static const struct {
    const char *name, *a, *b;
    enum stat_kind kind;
} modes[] = {
    [LEROBOT_IDENTITY] = { "IDENTITY", NULL, NULL, STAT_NONE },
    [LEROBOT_MEAN_STD] = { "MEAN_STD", "mean", "std", STAT_MEAN_STD },
    [LEROBOT_MIN_MAX] = { "MIN_MAX", "min", "max", STAT_MIN_MAX },
    [LEROBOT_QUANTILES] = { "QUANTILES", "q01", "q99", STAT_QUANTILES },
    [LEROBOT_QUANTILE10] = { "QUANTILE10", "q10", "q90", STAT_QUANTILES },
};
#define N_MODES ((int)(sizeof modes / sizeof modes[0]))

/* ---------------------------------------------------------------- processor files */

static pi0_status read_mode(enum lerobot_mode *out, const json_t *map, const char *type,
                            const char *label, struct pi0_error *err)
{
    const json_t *v = json_object_get(map, type);
    *out = LEROBOT_IDENTITY; /* what lerobot takes for a type the map does not name */
    if (!v)
        return PI0_OK;
    const char *name = json_is_string(v) ? json_string_value(v) : "(not a string)";
    for (int i = 0; i < N_MODES; i++)
        if (strcmp(name, modes[i].name) == 0) {
            *out = (enum lerobot_mode)i;
            return PI0_OK;
        }
    return pi0_fail(err, PI0_E_UNSUPPORTED,
                    "%s: norm_map.%s is %s, expected MEAN_STD, MIN_MAX, QUANTILES, QUANTILE10 or "
                    "IDENTITY",
                    label, type, name);
}

/* 1 if an array of strings holds `name`. */
static int holds(const json_t *list, const char *name)
{
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v)
    {
        if (json_is_string(v) && strcmp(json_string_value(v), name) == 0)
            return 1;
    }
    return 0;
}

static pi0_status read_normalizer(struct lerobot_processor *out, const json_t *step,
                                  const json_t *config, const char *label, struct pi0_error *err)
{
    const json_t *map = json_object_get(config, "norm_map"), *eps = json_object_get(config, "eps");
    const json_t *keys = json_object_get(config, "normalize_observation_keys");
    const json_t *file = json_object_get(step, "state_file");
    enum lerobot_mode visual;
    pi0_status st;
    if (!json_is_object(map))
        return pi0_fail(err, PI0_E_FORMAT, "%s: the normalising step has no norm_map", label);
    if ((st = read_mode(&out->state_mode, map, "STATE", label, err)) ||
        (st = read_mode(&out->action_mode, map, "ACTION", label, err)) ||
        (st = read_mode(&visual, map, "VISUAL", label, err)))
        return st;
    if (visual != LEROBOT_IDENTITY)
        return pi0_fail(err, PI0_E_UNSUPPORTED, "%s: norm_map.VISUAL is %s, expected IDENTITY",
                        label, modes[visual].name);
    if (json_is_array(keys) && !holds(keys, state_feature))
        out->state_mode = LEROBOT_IDENTITY;
    out->eps = eps ? json_number_value(eps) : 1e-8;
    if ((eps && !json_is_number(eps)) || !isfinite(out->eps) || out->eps < 0.0)
        return pi0_fail(err, PI0_E_FORMAT, "%s: eps is not a number of 0 or more", label);
    out->has_normalizer = 1;
    if (!file || json_is_null(file))
        return PI0_OK;
    const char *name = json_is_string(file) ? json_string_value(file) : "";
    if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') ||
        strlen(name) >= sizeof out->state_file)
        return pi0_fail(err, PI0_E_FORMAT,
                        "%s: state_file \"%s\" is not the name of a file beside it", label, name);
    snprintf(out->state_file, sizeof out->state_file, "%s", name);
    return PI0_OK;
}

static int contains_ignoring_case(const char *text, const char *part)
{
    return strcasestr(text, part) != NULL;
}

/* relative_action_processor.py _build_mask: a dim is absolute if its name contains an excluded one. */
static pi0_status read_relative(struct lerobot_processor *out, const json_t *config,
                                const char *label, struct pi0_error *err)
{
    const json_t *names = json_object_get(config, "action_names");
    const json_t *excluded = json_object_get(config, "exclude_joints");
    out->has_relative = 1;
    out->relative_enabled |= json_is_true(json_object_get(config, "enabled"));
    size_t n = json_array_size(names), i, j;
    if (n > STATS_MAX_DIM)
        return pi0_fail(err, PI0_E_FORMAT, "%s: %zu action_names, expected at most %d", label, n,
                        STATS_MAX_DIM);
    json_t *name, *part;
    json_array_foreach(names, i, name)
    {
        if (!json_is_string(name))
            return pi0_fail(err, PI0_E_FORMAT, "%s: action_names[%zu] is not a string", label, i);
        out->relative[i] = 1;
        json_array_foreach(excluded, j, part)
        {
            if (json_is_string(part) && json_string_length(part) > 0 &&
                contains_ignoring_case(json_string_value(name), json_string_value(part)))
                out->relative[i] = 0;
        }
    }
    if (n > 0)
        out->n_relative = (int)n;
    return PI0_OK;
}

pi0_status lerobot_parse(struct lerobot_processor *out, const void *bytes, size_t n_bytes,
                         const char *label, struct pi0_error *err)
{
    json_error_t why;
    json_t *root = json_loadb(bytes, n_bytes, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return pi0_fail(err, PI0_E_FORMAT, "%s: line %d, column %d: %s", label, why.line,
                        why.column, why.text);
    struct lerobot_processor p = { .eps = 1e-8 };
    pi0_status st = PI0_OK;
    const json_t *steps = json_object_get(root, "steps");
    if (!json_is_array(steps))
        st = pi0_fail(err, PI0_E_FORMAT, "%s: no list \"steps\"", label);
    size_t i;
    json_t *step;
    json_array_foreach(steps, i, step)
    {
        const json_t *name = json_object_get(step, "registry_name");
        const json_t *config = json_object_get(step, "config");
        if (st)
            break;
        if (!json_is_string(name)) /* steps of unregistered classes: none of those read here */
            continue;
        const char *s = json_string_value(name);
        if (strcmp(s, "normalizer_processor") == 0 || strcmp(s, "unnormalizer_processor") == 0)
            st = read_normalizer(&p, step, config, label, err);
        else if (strcmp(s, "relative_actions_processor") == 0 ||
                 strcmp(s, "delta_actions_processor") == 0 ||
                 strcmp(s, "absolute_actions_processor") == 0)
            st = read_relative(&p, config, label, err);
    }
    json_decref(root);
    if (!st)
        *out = p;
    return st;
}

/* ---------------------------------------------------------------- statistics */

/* One vector of n numbers out of the state file. */
static pi0_status read_stat(double *out, int n, const struct st_set *set, const char *feature,
                            const char *stat, const char *path, struct pi0_error *err)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%s", feature, stat);
    const struct st_tensor *t = st_find(set, name);
    if (!t)
        return pi0_fail(err, PI0_E_MODEL, "%s: no tensor %s", path, name);
    if (t->dtype != ST_F32 && t->dtype != ST_F64)
        return pi0_fail(err, PI0_E_FORMAT, "%s: %s: dtype %s, expected F32", path, name,
                        st_dtype_name(t->dtype));
    if (t->n != (uint64_t)n)
        return pi0_fail(err, PI0_E_FORMAT, "%s: %s has %llu numbers, expected %d", path, name,
                        (unsigned long long)t->n, n);
    for (int i = 0; i < n; i++) {
        float f;
        double d;
        if (t->dtype == ST_F32) {
            memcpy(&f, t->data + (size_t)i * sizeof f, sizeof f);
        } else {
            memcpy(&d, t->data + (size_t)i * sizeof d, sizeof d);
            f = (float)d;
        }
        if (!isfinite(f))
            return pi0_fail(err, PI0_E_FORMAT, "%s: %s[%d] is not finite", path, name, i);
        out[i] = f;
    }
    return PI0_OK;
}

/* Statistics of one feature. Those a state file lacks altogether are absent, not wrong. */
static pi0_status read_feature(struct feature_stats *out, int n, enum lerobot_mode mode, double eps,
                               const struct st_set *set, const char *feature, const char *path,
                               struct pi0_error *err)
{
    *out = (struct feature_stats){ .kind = modes[mode].kind, .n = n, .eps = eps };
    pi0_status st;
    if ((st = read_stat(out->a, n, set, feature, modes[mode].a, path, err)) ||
        (st = read_stat(out->b, n, set, feature, modes[mode].b, path, err)))
        return st;
    return PI0_OK;
}

static pi0_status load_processor(struct lerobot_processor *out, const char *dir, const char *name,
                                 struct pi0_error *err)
{
    char path[1024];
    unsigned char *bytes;
    size_t n;
    pi0_status st;
    if ((st = path_join(path, sizeof path, dir, name, err)) ||
        (st = file_read(&bytes, &n, path, LEROBOT_MAX_BYTES, err)))
        return st;
    st = lerobot_parse(out, bytes, n, path, err);
    free(bytes);
    return st;
}

/* One processor file and the statistics of one feature behind it. */
static pi0_status load_side(struct lerobot_processor *p, struct feature_stats *stats, int n,
                            const char *dir, const char *name, const char *feature,
                            struct pi0_error *err)
{
    char path[1024];
    pi0_status st = load_processor(p, dir, name, err);
    if (st)
        return st;
    enum lerobot_mode mode = feature == state_feature ? p->state_mode : p->action_mode;
    *stats = (struct feature_stats){ .kind = STAT_NONE };
    if (!p->has_normalizer || mode == LEROBOT_IDENTITY)
        return PI0_OK;
    if (p->state_file[0] == '\0')
        return pi0_fail(err, PI0_E_MODEL, "%s/%s: %s is normalised (%s) and no state_file is named",
                        dir, name, feature, modes[mode].name);
    struct st_set *set;
    if ((st = path_join(path, sizeof path, dir, p->state_file, err)) ||
        (st = st_open_file(&set, path, err)))
        return st;
    st = read_feature(stats, n, mode, p->eps, set, feature, path, err);
    st_close(set);
    return st;
}

/* ---------------------------------------------------------------- features */

static pi0_status read_features(struct lerobot *out, const struct config *config,
                                struct pi0_error *err)
{
    int a = config->dims.action_dim;
    out->map = (struct robot_map){
        .robot = ROBOT_NONE,
        .name = robot_name(ROBOT_NONE),
        .n_cameras = config->dims.n_cameras,
        .state_parts = "",
        .action_dim = config->train.out_dim > 0 ? config->train.out_dim : a,
    };
    for (int i = 0; i < config->dims.n_cameras; i++) {
        struct robot_camera *c = &out->map.cameras[i];
        snprintf(c->slot, sizeof c->slot, "%s", config->camera_names[i]);
        snprintf(c->key, sizeof c->key, "observation.images.%s", config->camera_names[i]);
    }
    const json_t *in = json_object_get(config->lerobot, "input_features");
    const json_t *state = json_object_get(in, state_feature);
    if (!state)
        return PI0_OK; /* any number of them */
    const json_t *n = json_array_get(json_object_get(state, "shape"), 0);
    if (!json_is_integer(n) || json_integer_value(n) < 1 || json_integer_value(n) > a)
        return pi0_fail(err, PI0_E_FORMAT,
                        "config.json: input_features.%s.shape, expected one integer of 1 to %d",
                        state_feature, a);
    out->map.state_dim = (int)json_integer_value(n);
    return PI0_OK;
}

/* The processors' own steps say which actions are relative; files from before those steps existed
 * leave it to config.json. */
static void read_relative_dims(struct lerobot *out, const struct lerobot_processor *pre,
                               const struct lerobot_processor *post, const json_t *config)
{
    int said = pre->has_relative || post->has_relative;
    int on = said ? post->relative_enabled || (!post->has_relative && pre->relative_enabled)
                  : json_is_true(json_object_get(config, "use_relative_actions"));
    if (!on)
        return;
    out->map.n_relative = out->map.action_dim;
    for (int i = 0; i < out->map.action_dim; i++)
        out->map.relative[i] = i < pre->n_relative ? pre->relative[i] : 1;
}

/* A preprocessor of config.json's own fields, for files that lack the step. */
static void relative_from_config(struct lerobot_processor *pre, const json_t *config)
{
    json_t *as_step =
        json_pack("{s:O?, s:O?}", "action_names", json_object_get(config, "action_feature_names"),
                  "exclude_joints", json_object_get(config, "relative_exclude_joints"));
    struct lerobot_processor p = { .n_relative = 0 };
    if (as_step && read_relative(&p, as_step, "config.json", NULL) == PI0_OK) {
        memcpy(pre->relative, p.relative, sizeof pre->relative);
        pre->n_relative = p.n_relative;
    }
    json_decref(as_step);
}

pi0_status lerobot_load(struct lerobot *out, const char *dir, const struct config *config,
                        int need_stats, struct pi0_error *err)
{
    struct lerobot_processor *p = calloc(2, sizeof *p); /* before, after */
    struct lerobot *l = calloc(1, sizeof *l);
    pi0_status st = PI0_OK;
    if (!p || !l) {
        st = pi0_fail(err, PI0_E_NOMEM, "lerobot: %zu bytes cannot be had", sizeof *l);
        goto done;
    }
    if ((st = read_features(l, config, err)))
        goto done;
    int n_state = l->map.state_dim > 0 ? l->map.state_dim : config->dims.action_dim;
    static const char before[] = "policy_preprocessor.json", after[] = "policy_postprocessor.json";
    if ((st = load_side(&p[0], &l->stats.state, n_state, dir, before, state_feature, err)) ||
        (st = load_side(&p[1], &l->stats.actions, l->map.action_dim, dir, after, action_feature,
                        err))) {
        /* Only absence is forgiven: PI0_E_IO for a file, PI0_E_MODEL for statistics. */
        if (need_stats || (st != PI0_E_MODEL && st != PI0_E_IO))
            goto done;
        l->stats.state.kind = l->stats.actions.kind = STAT_NONE;
        st = PI0_OK;
    } else {
        l->has_stats = 1;
    }
    if (!p[0].has_relative)
        relative_from_config(&p[0], config->lerobot);
    read_relative_dims(l, &p[0], &p[1], config->lerobot);
    *out = *l;
done:
    free(p);
    free(l);
    return st;
}
