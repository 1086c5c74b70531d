/* SPDX-License-Identifier: Apache-2.0
 * open: from a checkpoint's directory and the caller's options to a pi0_policy: which pipeline
 * (openpi's or lerobot's), which robot, statistics, tokenizer, default prompt, buffers. */
#include "backend/cpu/cpuid.h"
#include "io/mapfile.h"
#include "policy/lerobot.h"
#include "policy/policy.h"
#include "policy/stats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

PI0_API void pi0_policy_defaults(struct pi0_policy_config *config)
{
    *config = (struct pi0_policy_config){ 0 };
}

/* lerobot's checkpoints bring their own features and processors; a robot mapping is openpi's. */
static pi0_status open_lerobot(pi0_policy *p, const struct pi0_policy_config *cfg,
                               struct pi0_error *err)
{
    const struct config *c = &p->model->config;
    enum robot robot = c->train.robot;
    pi0_status st;
    if (cfg->robot && (st = robot_named(&robot, cfg->robot, err)))
        return st;
    if (robot != ROBOT_NONE)
        return pi0_fail(err, PI0_E_ARGUMENT,
                        "robot %s is a mapping of openpi's pipeline; this is a lerobot checkpoint, "
                        "whose own features and processors hold",
                        robot_name(robot));
    struct lerobot *l = calloc(1, sizeof *l);
    if (!l)
        return pi0_fail(err, PI0_E_NOMEM, "lerobot: %zu bytes cannot be had", sizeof *l);
    /* Statistics named by the caller take the place of the checkpoint's. */
    int need = !cfg->allow_no_stats && !cfg->norm_stats;
    if (!(st = lerobot_load(l, p->model->dir, c, need, err))) {
        p->transform.map = l->map;
        p->transform.stats = l->stats;
        p->transform.lerobot = 1;
        p->has_stats = l->has_stats;
        p->form = c->dims.variant == PI0_VARIANT_PI05 ? PROMPT_STATE : PROMPT_LINE;
        p->filter = IMAGE_TORCH;
        p->padded_prompt_state = cfg->lerobot_padded_state != 0;
        st = transform_check(&p->transform, "lerobot processors", err);
    }
    free(l);
    return st;
}

static pi0_status open_openpi(pi0_policy *p, const struct pi0_policy_config *cfg,
                              struct pi0_error *err)
{
    const struct config *c = &p->model->config;
    enum robot robot = c->train.robot;
    pi0_status st;
    if ((cfg->robot && (st = robot_named(&robot, cfg->robot, err))) ||
        (st = robot_open(&p->transform.map, robot, c, err)))
        return st;
    p->form = c->dims.variant == PI0_VARIANT_PI05 && c->train.discrete_state ? PROMPT_STATE
                                                                             : PROMPT_PLAIN;
    p->filter = IMAGE_PILLOW;
    return PI0_OK;
}

/* norm_stats.json: the caller's, or (openpi) the checkpoint's. */
static pi0_status open_stats(pi0_policy *p, const struct pi0_policy_config *cfg,
                             struct pi0_error *err)
{
    const struct train_config *t = &p->model->config.train;
    const char *dir = p->model->dir;
    char path[STATS_PATH_BYTES] = "";
    pi0_status st;
    if (!cfg->norm_stats && p->transform.lerobot)
        return PI0_OK;
    if (!cfg->norm_stats && dir[0] && (st = stats_find(path, dir, t->asset_id, err)))
        return st;
    const char *file = cfg->norm_stats ? cfg->norm_stats : path;
    if (file[0] == '\0' && cfg->allow_no_stats)
        return PI0_OK;
    if (file[0] == '\0')
        return pi0_fail(err, PI0_E_MODEL,
                        "no norm_stats.json %s%s, expected assets/%s/norm_stats.json or "
                        "norm_stats.json; name one (norm_stats), or accept unnormalised values "
                        "(allow_no_stats)",
                        dir[0] ? "in " : "with a synthetic model", dir,
                        t->asset_id[0] ? t->asset_id : "<asset id>");
    if ((st = stats_load(&p->transform.stats, file, t->norm, err)))
        return st;
    p->has_stats = 1;
    return transform_check(&p->transform, file, err);
}

static pi0_status open_tokenizer(pi0_policy *p, const struct pi0_policy_config *cfg,
                                 struct pi0_error *err)
{
    static const char *const names[] = { "tokenizer.model", "paligemma_tokenizer.model" };
    char path[STATS_PATH_BYTES] = "";
    const char *file = cfg->tokenizer;
    pi0_status st;
    for (int i = 0; i < 2 && !file && p->model->dir[0]; i++) {
        struct stat info;
        if ((st = path_join(path, sizeof path, p->model->dir, names[i], err)))
            return st;
        if (stat(path, &info) == 0)
            file = path;
    }
    if (!file)
        return PI0_OK;
    if ((st = tokenizer_open(&p->tokenizer, file, err)))
        return st;
    int pieces = tokenizer_n_pieces(p->tokenizer), rows = p->model->config.dims.vocab_size;
    if (pieces > rows)
        return pi0_fail(err, PI0_E_MODEL,
                        "%s: %d pieces, expected at most the %d rows of the model's token table",
                        file, pieces, rows);
    return PI0_OK;
}

static pi0_status open_prompt(pi0_policy *p, const struct pi0_policy_config *cfg,
                              struct pi0_error *err)
{
    const char *text =
        cfg->default_prompt ? cfg->default_prompt : p->model->config.train.default_prompt;
    size_t n = strlen(text), valid = prompt_utf8_end(text, n);
    if (n > PROMPT_MAX_BYTES)
        return pi0_fail(err, PI0_E_ARGUMENT, "default prompt of %zu bytes, expected at most %d", n,
                        PROMPT_MAX_BYTES);
    if (valid < n)
        return pi0_fail(err, PI0_E_ARGUMENT,
                        "default prompt is not UTF-8: byte 0x%02X at offset %zu",
                        (unsigned char)text[valid], valid);
    p->default_prompt = malloc(n + 1);
    if (!p->default_prompt)
        return pi0_fail(err, PI0_E_NOMEM, "default prompt: %zu bytes cannot be had", n + 1);
    memcpy(p->default_prompt, text, n + 1);
    return PI0_OK;
}

static void carve(pi0_policy *p)
{
    const struct pi0_dims *d = &p->model->config.dims;
    size_t b = (size_t)p->limits.max_batch, a = (size_t)d->action_dim;
    size_t image = (size_t)d->image_size * (size_t)d->image_size * 3;
    size_t chunk = (size_t)p->limits.action_horizon * a;
    struct arena *m = &p->arena;
    p->inputs = arena_take(m, b, sizeof *p->inputs);
    p->pixels = arena_take(m, b * (size_t)d->n_cameras, image);
    p->tokens = arena_take(m, b * (size_t)p->limits.max_token_len, sizeof *p->tokens);
    p->state = arena_take(m, b * a, sizeof *p->state);
    p->base = arena_take(m, b * a, sizeof *p->base);
    p->noise = arena_take(m, b * chunk, sizeof *p->noise);
    p->actions = arena_take(m, b * chunk, sizeof *p->actions);
    p->normalized = arena_take(m, a, sizeof *p->normalized);
    p->action = arena_take(m, a, sizeof *p->action);
    p->text = arena_take(m, prompt_buffer_bytes(d->action_dim), 1);
    image_scratch_take(&p->scratch, m, d->image_size, p->isa);
}

PI0_API pi0_status pi0_policy_open(pi0_policy **out, const pi0_model *model, pi0_engine *engine,
                                   const struct pi0_policy_config *config, struct pi0_error *err)
{
    if (!out || !model || !engine)
        return pi0_fail(err, PI0_E_ARGUMENT,
                        "pi0_policy_open: out, model and engine must not be NULL");
    struct pi0_engine_info limits;
    pi0_engine_info(engine, &limits);
    if (limits.model != model)
        return pi0_fail(err, PI0_E_ARGUMENT,
                        "pi0_policy_open: the engine was opened with another model");
    struct pi0_policy_config cfg;
    pi0_policy_defaults(&cfg);
    if (config)
        cfg = *config;
    pi0_policy *p = calloc(1, sizeof *p);
    if (!p)
        return pi0_fail(err, PI0_E_NOMEM, "policy: %zu bytes cannot be had", sizeof *p);
    p->model = model;
    p->engine = engine;
    p->limits = limits;
    p->transform.action_dim = model->config.dims.action_dim;
    p->isa = cpuid_isa(PI0_ISA_AVX2);
    int lerobot = model->config.source == PI0_SOURCE_LEROBOT;
    pi0_status st;
    if ((st = lerobot ? open_lerobot(p, &cfg, err) : open_openpi(p, &cfg, err)) ||
        (st = open_stats(p, &cfg, err)) || (st = open_tokenizer(p, &cfg, err)) ||
        (st = open_prompt(p, &cfg, err)))
        goto fail;
    carve(p);
    if ((st = arena_alloc(&p->arena, "policy buffers", err)))
        goto fail;
    carve(p);
    *out = p;
    return PI0_OK;
fail:
    pi0_policy_close(p);
    return st;
}

PI0_API void pi0_policy_close(pi0_policy *policy)
{
    if (!policy)
        return;
    tokenizer_close(policy->tokenizer);
    free(policy->default_prompt);
    arena_free(&policy->arena);
    free(policy);
}

static const char *normalization_name(const pi0_policy *p)
{
    static const char *const names[] = {
        [STAT_NONE] = "none",
        [STAT_OPENPI_ZSCORE] = "z-score",
        [STAT_OPENPI_QUANTILE] = "quantile",
        [STAT_MEAN_STD] = "lerobot mean and std",
        [STAT_MIN_MAX] = "lerobot min and max",
        [STAT_QUANTILES] = "lerobot quantiles",
    };
    return names[p->transform.stats.actions.kind];
}

PI0_API void pi0_policy_info(const pi0_policy *policy, struct pi0_policy_info *out)
{
    *out = (struct pi0_policy_info){
        .action_horizon = policy->limits.action_horizon,
        .robot_action_dim = policy->transform.map.action_dim,
        .robot_state_dim = policy->transform.map.state_dim,
        .robot = policy->transform.map.name,
        .normalization = normalization_name(policy),
        .default_prompt = policy->default_prompt,
        .has_tokenizer = policy->tokenizer != NULL,
        .has_stats = policy->has_stats,
        .discrete_state = policy->form == PROMPT_STATE,
        .n_steps = policy->model->config.num_steps,
    };
}

PI0_API void pi0_policy_trace(const pi0_policy *policy, struct pi0_policy_trace *out)
{
    *out = policy->trace;
}
