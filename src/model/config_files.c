/* SPDX-License-Identifier: Apache-2.0
 * config_files: config.json (of openpi's converter, of lerobot, or of explicit dimensions),
 * pi0.json and a train config, put together in order of strength. What openpi's and lerobot's files
 * say beyond what is read here is ignored; pi0.json is ours, and a key that it does not know is an
 * error. Pure: bytes in, struct out. */
#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- JSON */

/* One object being read: "config.json", "vlm." */
struct object {
    const json_t *json;
    const char *file, *path;
    struct pi0_error *err;
};

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    default: return "null";
    }
}

static pi0_status wrong_type(const struct object *o, const char *key, const json_t *v,
                             const char *expected)
{
    return pi0_fail(o->err, PI0_E_FORMAT, "%s: %s%s is %s, expected %s", o->file, o->path, key,
                    type_name(v), expected);
}

/* NULL when absent or null: both mean "not said". */
static const json_t *member(const struct object *o, const char *key)
{
    const json_t *v = json_object_get(o->json, key);
    return v && !json_is_null(v) ? v : NULL;
}

/* The getters leave *out alone when the key is absent. */
static pi0_status get_int(const struct object *o, const char *key, int min, int max, int *out)
{
    const json_t *v = member(o, key);
    if (!v)
        return PI0_OK;
    if (!json_is_integer(v))
        return wrong_type(o, key, v, "an integer");
    json_int_t n = json_integer_value(v);
    if (n < min || n > max)
        return pi0_fail(o->err, PI0_E_MODEL,
                        "%s: %s%s is %" JSON_INTEGER_FORMAT ", expected %d to %d", o->file, o->path,
                        key, n, min, max);
    *out = (int)n;
    return PI0_OK;
}

static pi0_status get_bool(const struct object *o, const char *key, int *out)
{
    const json_t *v = member(o, key);
    if (!v)
        return PI0_OK;
    if (!json_is_boolean(v))
        return wrong_type(o, key, v, "true or false");
    *out = json_is_true(v);
    return PI0_OK;
}

static pi0_status get_string(const struct object *o, const char *key, char *out, size_t bytes)
{
    const json_t *v = member(o, key);
    if (!v)
        return PI0_OK;
    if (!json_is_string(v))
        return wrong_type(o, key, v, "a string");
    if (json_string_length(v) >= bytes)
        return pi0_fail(o->err, PI0_E_FORMAT, "%s: %s%s has %zu bytes, expected at most %zu",
                        o->file, o->path, key, json_string_length(v), bytes - 1);
    snprintf(out, bytes, "%s", json_string_value(v));
    return PI0_OK;
}

/* A dimension that may have been said before, and then must be the same. */
static pi0_status say(const struct object *o, const char *key, int *slot)
{
    int v = 0;
    pi0_status st = get_int(o, key, 1, CONFIG_MAX_VOCAB, &v);
    if (st || !v)
        return st;
    if (*slot && *slot != v)
        return pi0_fail(o->err, PI0_E_MODEL, "%s: %s%s is %d, expected %d as said elsewhere in it",
                        o->file, o->path, key, v, *slot);
    *slot = v;
    return PI0_OK;
}

static pi0_status add_camera(struct config *c, const struct object *o, const char *name)
{
    int n = c->said.dims.n_cameras;
    if (n == PI0_MAX_CAMERAS)
        return pi0_fail(o->err, PI0_E_MODEL, "%s: more than %d cameras", o->file, PI0_MAX_CAMERAS);
    if (!*name || strlen(name) >= CONFIG_NAME_BYTES)
        return pi0_fail(o->err, PI0_E_FORMAT, "%s: camera name of %zu bytes, expected 1 to %d",
                        o->file, strlen(name), CONFIG_NAME_BYTES - 1);
    for (int i = 0; i < n; i++)
        if (strcmp(c->camera_names[i], name) == 0)
            return pi0_fail(o->err, PI0_E_FORMAT, "%s: camera \"%s\" stands twice", o->file, name);
    snprintf(c->camera_names[n], CONFIG_NAME_BYTES, "%s", name);
    c->said.dims.n_cameras = n + 1;
    return PI0_OK;
}

static pi0_status get_cameras(struct config *c, const struct object *o)
{
    const json_t *v = member(o, "cameras");
    pi0_status st = PI0_OK;
    if (!v)
        return PI0_OK;
    if (!json_is_array(v))
        return wrong_type(o, "cameras", v, "an array of names");
    if (json_array_size(v) == 0)
        return pi0_fail(o->err, PI0_E_FORMAT, "%s: cameras is empty, expected 1 to %d names",
                        o->file, PI0_MAX_CAMERAS);
    c->said.dims.n_cameras = 0;
    for (size_t i = 0; i < json_array_size(v) && !st; i++) {
        const json_t *name = json_array_get(v, i);
        st = json_is_string(name) ? add_camera(c, o, json_string_value(name))
                                  : wrong_type(o, "cameras[]", name, "a string");
    }
    return st;
}

static pi0_status get_variant(struct config *c, const struct object *o, const char *key)
{
    char name[32] = "";
    pi0_status st = get_string(o, key, name, sizeof name);
    if (st || !*name)
        return st;
    if (strcmp(name, "pi0") != 0 && strcmp(name, "pi05") != 0)
        return pi0_fail(o->err, PI0_E_UNSUPPORTED, "%s: %s is \"%s\", expected \"pi0\" or \"pi05\"",
                        o->file, key, name);
    c->said.variant = 1 + (strcmp(name, "pi05") == 0 ? PI0_VARIANT_PI05 : PI0_VARIANT_PI0);
    return PI0_OK;
}

/* ---------------------------------------------------------------- config.json */

/* openpi: models/gemma.py get_config. */
static const struct transformer {
    const char *name;
    int width, depth, mlp_dim, heads, kv_heads, head_dim;
} transformers[] = {
    { "dummy", 64, 4, 128, 8, 1, 16 },
    { "gemma_300m", 1024, 18, 4096, 8, 1, 256 },
    { "gemma_2b", 2048, 18, 16384, 8, 1, 256 },
};

static pi0_status get_transformer(const struct object *o, const char *key,
                                  const struct transformer **out)
{
    char name[64] = "";
    pi0_status st = get_string(o, key, name, sizeof name);
    if (st || !*name)
        return st;
    for (size_t i = 0; i < sizeof transformers / sizeof transformers[0]; i++) {
        if (strcmp(transformers[i].name, name) == 0) {
            *out = &transformers[i];
            return PI0_OK;
        }
    }
    size_t n = strlen(name);
    if (n > 5 && strcmp(name + n - 5, "_lora") == 0)
        return pi0_fail(o->err, PI0_E_UNSUPPORTED,
                        "%s: %s is \"%s\": LoRA weights must be merged into the matrices first",
                        o->file, key, name);
    return pi0_fail(o->err, PI0_E_UNSUPPORTED,
                    "%s: %s is \"%s\", expected \"gemma_2b\", \"gemma_300m\" or \"dummy\"", o->file,
                    key, name);
}

static pi0_status read_transformers(struct config *c, const struct object *o)
{
    const struct transformer *vlm = NULL, *expert = NULL;
    struct pi0_dims *d = &c->said.dims;
    pi0_status st;
    if ((st = get_transformer(o, "paligemma_variant", &vlm)) ||
        (st = get_transformer(o, "action_expert_variant", &expert)))
        return st;
    if (vlm && expert && (vlm->depth != expert->depth || vlm->head_dim != expert->head_dim))
        return pi0_fail(o->err, PI0_E_MODEL,
                        "%s: paligemma_variant \"%s\" and action_expert_variant \"%s\" differ in "
                        "depth or head size",
                        o->file, vlm->name, expert->name);
    const struct transformer *any = vlm ? vlm : expert;
    if (any) {
        d->depth = any->depth;
        d->heads = any->heads;
        d->kv_heads = any->kv_heads;
        d->head_dim = any->head_dim;
    }
    if (vlm) {
        d->vlm_width = vlm->width;
        d->vlm_mlp_dim = vlm->mlp_dim;
    }
    if (expert) {
        d->expert_width = expert->width;
        d->expert_mlp_dim = expert->mlp_dim;
    }
    return PI0_OK;
}

/* openpi: examples/convert_jax_model_to_pytorch.py. `precision` tells how it was stored; the
 * tensors tell it better. */
static pi0_status read_openpi(struct config *c, const struct object *o)
{
    struct pi0_dims *d = &c->said.dims;
    pi0_status st;
    if ((st = get_int(o, "action_dim", 1, CONFIG_MAX_ACTION_DIM, &d->action_dim)) ||
        (st = get_int(o, "action_horizon", 1, CONFIG_MAX_HORIZON, &d->action_horizon)))
        return st;
    return read_transformers(c, o);
}

static pi0_status sub_object(const struct object *o, const char *key, struct object *out,
                             const char *path)
{
    const json_t *v = member(o, key);
    *out = (struct object){ v, o->file, path, o->err };
    return !v || json_is_object(v) ? PI0_OK : wrong_type(o, key, v, "an object");
}

/* Explicit vision, vlm and expert objects: the golden cases' and pi0_synth_write's form. */
static pi0_status read_explicit(struct config *c, const struct object *o)
{
    struct pi0_dims *d = &c->said.dims;
    struct object v, m, e;
    pi0_status st;
    if ((st = get_variant(c, o, "model")) || (st = read_openpi(c, o)) || (st = get_cameras(c, o)) ||
        (st = say(o, "image_size", &d->image_size)) ||
        (st = get_int(o, "max_token_len", 1, CONFIG_MAX_TOKEN_LEN, &d->max_token_len)) ||
        (st = get_int(o, "num_steps", 1, CONFIG_MAX_STEPS, &c->num_steps)) ||
        (st = sub_object(o, "vision", &v, "vision.")) || (st = sub_object(o, "vlm", &m, "vlm.")) ||
        (st = sub_object(o, "expert", &e, "expert.")))
        return st;
    if ((st = say(&v, "width", &d->vision_width)) || (st = say(&v, "depth", &d->vision_depth)) ||
        (st = say(&v, "mlp_dim", &d->vision_mlp_dim)) ||
        (st = say(&v, "heads", &d->vision_heads)) || (st = say(&v, "patch_size", &d->patch_size)))
        return st;
    const struct object *both[] = { &m, &e };
    for (int i = 0; i < 2; i++)
        if ((st = say(both[i], "depth", &d->depth)) || (st = say(both[i], "heads", &d->heads)) ||
            (st = say(both[i], "kv_heads", &d->kv_heads)) ||
            (st = say(both[i], "head_dim", &d->head_dim)))
            return st;
    if ((st = say(&m, "width", &d->vlm_width)) || (st = say(&m, "mlp_dim", &d->vlm_mlp_dim)) ||
        (st = say(&m, "vocab_size", &d->vocab_size)) || (st = say(&e, "width", &d->expert_width)) ||
        (st = say(&e, "mlp_dim", &d->expert_mlp_dim)))
        return st;
    return PI0_OK;
}

/* VISUAL entries of input_features in the file's order, then the empty cameras not yet among
 * them. lerobot: configuration_pi0.py validate_features, modeling_pi0.py _preprocess_images. */
static pi0_status read_lerobot_cameras(struct config *c, const struct object *o)
{
    static const char prefix[] = "observation.images.";
    const json_t *features = member(o, "input_features");
    int empty = 0;
    pi0_status st = get_int(o, "empty_cameras", 0, PI0_MAX_CAMERAS, &empty);
    if (st)
        return st;
    if (features && !json_is_object(features))
        return wrong_type(o, "input_features", features, "an object");
    void *it = features ? json_object_iter((json_t *)(uintptr_t)features) : NULL;
    for (; it; it = json_object_iter_next((json_t *)(uintptr_t)features, it)) {
        const char *name = json_object_iter_key(it);
        const json_t *value = json_object_iter_value(it);
        struct object f = { value, o->file, "input_features[].", o->err };
        char type[32] = "";
        if (!json_is_object(value))
            return wrong_type(o, "input_features[]", value, "an object");
        if ((st = get_string(&f, "type", type, sizeof type)))
            return st;
        if (strcmp(type, "VISUAL") != 0)
            continue;
        if (strncmp(name, prefix, sizeof prefix - 1) == 0)
            name += sizeof prefix - 1;
        if ((st = add_camera(c, o, name)))
            return st;
    }
    for (int i = 0; i < empty; i++) {
        char name[CONFIG_NAME_BYTES];
        int found = 0;
        snprintf(name, sizeof name, "empty_camera_%d", i);
        for (int k = 0; k < c->said.dims.n_cameras; k++)
            found |= strcmp(c->camera_names[k], name) == 0;
        if (!found && (st = add_camera(c, o, name)))
            return st;
    }
    return PI0_OK;
}

/* Switches that change the network or its inputs in ways that are not done here. */
static pi0_status refuse_extensions(const struct object *o)
{
    static const char *const switches[] = { "use_visual_memory", "use_proprioceptive_memory",
                                            "use_peft" };
    static const struct {
        const char *key;
        double value;
    } fixed[] = { { "min_period", 0.004 }, { "max_period", 4.0 } };
    pi0_status st;
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++) {
        int on = 0;
        if ((st = get_bool(o, switches[i], &on)))
            return st;
        if (on)
            return pi0_fail(o->err, PI0_E_UNSUPPORTED, "%s: %s is true, expected false", o->file,
                            switches[i]);
    }
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        const json_t *v = member(o, fixed[i].key);
        if (!v)
            continue;
        if (!json_is_number(v))
            return wrong_type(o, fixed[i].key, v, "a number");
        if (fabs(json_number_value(v) - fixed[i].value) > 1e-9)
            return pi0_fail(o->err, PI0_E_UNSUPPORTED, "%s: %s is %g, expected %g", o->file,
                            fixed[i].key, json_number_value(v), fixed[i].value);
    }
    return PI0_OK;
}

/* [height, width] of the model's images. */
static pi0_status read_resolution(struct config *c, const struct object *o)
{
    const json_t *v = member(o, "image_resolution");
    if (!v)
        return PI0_OK;
    const json_t *h = json_array_get(v, 0), *w = json_array_get(v, 1);
    if (!json_is_array(v) || json_array_size(v) != 2 || !json_is_integer(h) || !json_is_integer(w))
        return pi0_fail(o->err, PI0_E_FORMAT,
                        "%s: image_resolution, expected an array of two integers", o->file);
    json_int_t n = json_integer_value(h);
    if (n != json_integer_value(w) || n < 1 || n > CONFIG_MAX_IMAGE)
        return pi0_fail(o->err, PI0_E_UNSUPPORTED,
                        "%s: image_resolution is %" JSON_INTEGER_FORMAT " x %" JSON_INTEGER_FORMAT
                        ", expected a square of at most %d",
                        o->file, n, json_integer_value(w), CONFIG_MAX_IMAGE);
    c->said.dims.image_size = (int)n;
    return PI0_OK;
}

/* Robot action dims: shape[0] of the output feature "action". */
static pi0_status read_lerobot_action(struct config *c, const struct object *o)
{
    const json_t *out = member(o, "output_features");
    if (!out)
        return PI0_OK;
    if (!json_is_object(out))
        return wrong_type(o, "output_features", out, "an object");
    const json_t *action = json_object_get(out, "action");
    if (!action)
        return PI0_OK;
    const json_t *n = json_array_get(json_object_get(action, "shape"), 0);
    if (!json_is_integer(n) || json_integer_value(n) < 1 ||
        json_integer_value(n) > CONFIG_MAX_ACTION_DIM)
        return pi0_fail(o->err, PI0_E_FORMAT,
                        "%s: output_features.action.shape, expected one integer of 1 to %d",
                        o->file, CONFIG_MAX_ACTION_DIM);
    c->train.out_dim = (int)json_integer_value(n);
    return PI0_OK;
}

/* lerobot: policies/pi0/configuration_pi0.py, policies/pi05/configuration_pi05.py. */
static pi0_status read_lerobot(struct config *c, const struct object *o)
{
    struct pi0_dims *d = &c->said.dims;
    int state_dim = 0;
    pi0_status st;
    c->source = PI0_SOURCE_LEROBOT;
    if ((st = get_variant(c, o, "type")) || (st = refuse_extensions(o)) ||
        (st = get_int(o, "chunk_size", 1, CONFIG_MAX_HORIZON, &d->action_horizon)) ||
        (st = get_int(o, "max_action_dim", 1, CONFIG_MAX_ACTION_DIM, &d->action_dim)) ||
        (st = get_int(o, "max_state_dim", 1, CONFIG_MAX_ACTION_DIM, &state_dim)) ||
        (st = get_int(o, "num_inference_steps", 1, CONFIG_MAX_STEPS, &c->num_steps)) ||
        (st = get_int(o, "tokenizer_max_length", 1, CONFIG_MAX_TOKEN_LEN, &d->max_token_len)) ||
        (st = read_resolution(c, o)) || (st = read_transformers(c, o)) ||
        (st = read_lerobot_cameras(c, o)) || (st = read_lerobot_action(c, o)))
        return st;
    if (c->said.variant == 1 + PI0_VARIANT_PI0 && state_dim && d->action_dim &&
        state_dim != d->action_dim)
        return pi0_fail(o->err, PI0_E_UNSUPPORTED,
                        "%s: max_state_dim is %d, expected %d as max_action_dim", o->file,
                        state_dim, d->action_dim);
    return PI0_OK;
}

/* ---------------------------------------------------------------- pi0.json */

static pi0_status get_choice(const struct object *o, const char *key, const char *const *names,
                             int n, int *out)
{
    char name[64] = "", list[128] = "";
    pi0_status st = get_string(o, key, name, sizeof name);
    if (st || !*name)
        return st;
    for (int i = 0; i < n; i++) {
        if (strcmp(names[i], name) == 0) {
            *out = i;
            return PI0_OK;
        }
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s\"%s\"", i ? ", " : "", names[i]);
    }
    return pi0_fail(o->err, PI0_E_FORMAT, "%s: %s is \"%s\", expected one of %s", o->file, key,
                    name, list);
}

static pi0_status get_robot(struct train_config *t, const struct object *o)
{
    static const char *const names[] = { [ROBOT_NONE] = "none",
                                         [ROBOT_ALOHA] = "aloha",
                                         [ROBOT_DROID] = "droid",
                                         [ROBOT_LIBERO] = "libero" };
    static const int out_dims[] = { [ROBOT_ALOHA] = 14, [ROBOT_DROID] = 8, [ROBOT_LIBERO] = 7 };
    int robot = -1;
    pi0_status st = get_choice(o, "robot", names, 4, &robot);
    if (st || robot < 0)
        return st;
    t->robot = (enum robot)robot;
    t->adapt_to_pi = robot == ROBOT_ALOHA;
    t->out_dim = out_dims[robot]; /* 0: all of them */
    return PI0_OK;
}

static pi0_status get_delta_mask(struct train_config *t, const struct object *o)
{
    const json_t *v = member(o, "delta_mask");
    if (!v)
        return PI0_OK;
    if (!json_is_array(v))
        return wrong_type(o, "delta_mask", v, "an array of true and false");
    if (json_array_size(v) > CONFIG_MAX_MASK)
        return pi0_fail(o->err, PI0_E_FORMAT, "%s: delta_mask has %zu entries, expected at most %d",
                        o->file, json_array_size(v), CONFIG_MAX_MASK);
    memset(t->delta_mask, 0, sizeof t->delta_mask);
    t->n_delta_mask = (int)json_array_size(v);
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *e = json_array_get(v, i);
        if (!json_is_boolean(e))
            return wrong_type(o, "delta_mask[]", e, "true or false");
        t->delta_mask[i] = (signed char)json_is_true(e);
    }
    return PI0_OK;
}

/* A path below assets/: it must stay there. */
static pi0_status check_asset_id(const struct object *o, const char *id)
{
    for (const char *p = id; *p; p += strcspn(p, "/"), p += *p == '/') {
        size_t n = strcspn(p, "/");
        if (n == 0 || (n == 2 && p[0] == '.' && p[1] == '.'))
            return pi0_fail(o->err, PI0_E_FORMAT,
                            "%s: asset_id is \"%s\", expected a path below assets/", o->file, id);
    }
    return PI0_OK;
}

static pi0_status check_keys(const struct object *o)
{
    static const char *const known[] = { "preset",        "robot",          "norm",
                                         "max_token_len", "asset_id",       "action_horizon",
                                         "delta_mask",    "default_prompt", "discrete_state",
                                         "out_dim",       "adapt_to_pi",    "cameras",
                                         "num_steps" };
    void *it = json_object_iter((json_t *)(uintptr_t)o->json);
    for (; it; it = json_object_iter_next((json_t *)(uintptr_t)o->json, it)) {
        const char *key = json_object_iter_key(it);
        size_t i = 0, n = sizeof known / sizeof known[0];
        while (i < n && strcmp(known[i], key) != 0)
            i++;
        if (i == n)
            return pi0_fail(o->err, PI0_E_FORMAT, "%s: unknown key \"%s\"", o->file, key);
    }
    return PI0_OK;
}

static pi0_status read_pi0_json(struct config *c, const struct object *o)
{
    static const char *const norms[] = { [NORM_ZSCORE] = "z-score", [NORM_QUANTILE] = "quantile" };
    struct train_config *t = &c->train;
    struct pi0_dims *d = &c->said.dims;
    int norm = -1, discrete = -1;
    pi0_status st;
    if ((st = check_keys(o)) || (st = get_robot(t, o)) ||
        (st = get_choice(o, "norm", norms, 2, &norm)) ||
        (st = get_bool(o, "discrete_state", &discrete)) ||
        (st = get_bool(o, "adapt_to_pi", &t->adapt_to_pi)) || (st = get_delta_mask(t, o)) ||
        (st = get_int(o, "out_dim", 1, CONFIG_MAX_ACTION_DIM, &t->out_dim)) ||
        (st = get_int(o, "max_token_len", 1, CONFIG_MAX_TOKEN_LEN, &d->max_token_len)) ||
        (st = get_int(o, "action_horizon", 1, CONFIG_MAX_HORIZON, &d->action_horizon)) ||
        (st = get_int(o, "num_steps", 1, CONFIG_MAX_STEPS, &c->num_steps)) ||
        (st = get_string(o, "asset_id", t->asset_id, sizeof t->asset_id)) ||
        (st = get_string(o, "default_prompt", t->default_prompt, sizeof t->default_prompt)) ||
        (st = check_asset_id(o, t->asset_id)) || (st = get_cameras(c, o)))
        return st;
    if (norm >= 0) {
        t->norm = (enum norm_mode)norm;
        c->said.norm = 1;
    }
    if (discrete >= 0) {
        t->discrete_state = discrete;
        c->said.discrete_state = 1;
    }
    return PI0_OK;
}

/* ---------------------------------------------------------------- putting it together */

static pi0_status parse_object(json_t **out, struct config_file file, const char *name,
                               struct pi0_error *err)
{
    json_error_t e;
    json_t *j = json_loadb(file.data, file.size, JSON_REJECT_DUPLICATES, &e);
    if (!j && json_error_code(&e) == json_error_out_of_memory)
        return pi0_fail(err, PI0_E_NOMEM, "%s: %zu bytes of JSON", name, file.size);
    if (!j)
        return pi0_fail(err, PI0_E_FORMAT, "%s: line %d: %s", name, e.line, e.text);
    if (!json_is_object(j)) {
        pi0_status st =
            pi0_fail(err, PI0_E_FORMAT, "%s: is %s, expected an object", name, type_name(j));
        json_decref(j);
        return st;
    }
    *out = j;
    return PI0_OK;
}

/* The option wins over pi0.json's "preset". */
static pi0_status apply_preset(struct config *c, const struct object *pi0_json, const char *option)
{
    char name[CONFIG_NAME_BYTES] = "";
    pi0_status st;
    if (pi0_json->json && (st = get_string(pi0_json, "preset", name, sizeof name)))
        return st;
    const char *wanted = option ? option : name;
    if (!*wanted)
        return PI0_OK;
    const struct train_config *t = train_config_named(wanted);
    if (!t)
        return pi0_fail(pi0_json->err, option ? PI0_E_ARGUMENT : PI0_E_FORMAT,
                        "%s\"%s\" is no train config known here (pi0_libero, pi05_droid, …)",
                        option ? "preset " : "pi0.json: preset ", wanted);
    c->train = *t;
    c->said.norm = c->said.discrete_state = 1;
    c->said.dims.action_horizon = t->action_horizon;
    c->said.dims.max_token_len = t->max_token_len;
    return PI0_OK;
}

static pi0_status parse_both(struct config *c, struct config_file config_json, json_t *pi0_json,
                             const char *preset, struct pi0_error *err)
{
    struct object ours = { pi0_json, "pi0.json", "", err };
    pi0_status st = apply_preset(c, &ours, preset);
    if (!st && config_json.data) {
        json_t *j = NULL;
        if ((st = parse_object(&j, config_json, "config.json", err)))
            return st;
        struct object o = { j, "config.json", "", err };
        if (json_object_get(j, "type"))
            st = read_lerobot(c, &o);
        else if (json_object_get(j, "vision") || json_object_get(j, "vlm") ||
                 json_object_get(j, "expert"))
            st = read_explicit(c, &o);
        else
            st = read_openpi(c, &o);
        if (c->source == PI0_SOURCE_LEROBOT)
            c->lerobot = json_incref(j);
        json_decref(j);
    }
    if (!st && pi0_json)
        st = read_pi0_json(c, &ours);
    return st;
}

pi0_status config_parse(struct config *c, struct config_file config_json,
                        struct config_file pi0_json, const char *preset, struct pi0_error *err)
{
    json_t *ours = NULL;
    pi0_status st = PI0_OK;
    memset(c, 0, sizeof *c);
    c->num_steps = 10;
    if (pi0_json.data)
        st = parse_object(&ours, pi0_json, "pi0.json", err);
    if (!st)
        st = parse_both(c, config_json, ours, preset, err);
    json_decref(ours);
    return st;
}
