/* SPDX-License-Identifier: Apache-2.0
 * session: opens what the options name (model, engine, policy), in that order, and closes it in
 * the other. Leaves the options' meaning for one command to that command. */
#include "cli.h"

#include <stddef.h>
#include <string.h>
#include <time.h>

double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

const char *variant_name(enum pi0_variant v) { return v == PI0_VARIANT_PI05 ? "pi05" : "pi0"; }
const char *precision_name(enum pi0_precision p) { return p == PI0_PRECISION_F32 ? "f32" : "bf16"; }

static const struct {
    const char *name;
    size_t offset;
} dims[N_DIMS] = {
    { "image_size", offsetof(struct pi0_dims, image_size) },
    { "patch_size", offsetof(struct pi0_dims, patch_size) },
    { "n_cameras", offsetof(struct pi0_dims, n_cameras) },
    { "vision_width", offsetof(struct pi0_dims, vision_width) },
    { "vision_depth", offsetof(struct pi0_dims, vision_depth) },
    { "vision_mlp_dim", offsetof(struct pi0_dims, vision_mlp_dim) },
    { "vision_heads", offsetof(struct pi0_dims, vision_heads) },
    { "vlm_width", offsetof(struct pi0_dims, vlm_width) },
    { "vlm_mlp_dim", offsetof(struct pi0_dims, vlm_mlp_dim) },
    { "vocab_size", offsetof(struct pi0_dims, vocab_size) },
    { "expert_width", offsetof(struct pi0_dims, expert_width) },
    { "expert_mlp_dim", offsetof(struct pi0_dims, expert_mlp_dim) },
    { "depth", offsetof(struct pi0_dims, depth) },
    { "heads", offsetof(struct pi0_dims, heads) },
    { "kv_heads", offsetof(struct pi0_dims, kv_heads) },
    { "head_dim", offsetof(struct pi0_dims, head_dim) },
    { "action_dim", offsetof(struct pi0_dims, action_dim) },
    { "action_horizon", offsetof(struct pi0_dims, action_horizon) },
    { "max_token_len", offsetof(struct pi0_dims, max_token_len) },
};

const char *dim_name(int i) { return dims[i].name; }
int *dim_at(struct pi0_dims *d, int i) { return (int *)((char *)d + dims[i].offset); }

int session_open_model(struct session *s, const struct args *a)
{
    struct pi0_error err = { 0 };
    if (a->model && a->synthetic)
        return fail("--model and --synthetic exclude each other; expected one of them");
    if (!a->model && !a->synthetic)
        return fail("no model: expected --model DIR or --synthetic pi0|pi05|pi0_tiny|pi05_tiny");
    if (a->synthetic) {
        struct pi0_dims named;
        if (a->preset)
            return fail("--preset needs --model; a synthetic model has no train config (--robot "
                        "chooses a mapping)");
        if (pi0_dims_named(&named, a->synthetic, &err))
            return fail_library(&err);
        if (pi0_model_open_synthetic(&s->model, &named, a->seed, &err))
            return fail_library(&err);
        return EXIT_DONE;
    }
    struct pi0_model_options options = { .preset = a->preset };
    if (pi0_model_open(&s->model, a->model, &options, &err))
        return fail_library(&err);
    return EXIT_DONE;
}

void session_config(struct pi0_engine_config *cfg, const struct args *a)
{
    pi0_engine_defaults(cfg);
    cfg->backend = a->backend;
    cfg->precision = a->precision ? PI0_PRECISION_F32 : PI0_PRECISION_BF16;
    cfg->isa_mask = a->isa;
    cfg->n_threads = a->threads;
    cfg->device = a->device;
    cfg->masked_cameras = a->masked_cameras ? PI0_MASKED_COMPUTE : PI0_MASKED_SKIP;
    cfg->action_horizon = a->horizon;
    if (a->steps > cfg->max_steps)
        cfg->max_steps = a->steps;
    cfg->log = term_log;
    cfg->progress = term_progress;
}

int session_open_engine(struct session *s, const struct pi0_engine_config *cfg)
{
    struct pi0_error err = { 0 };
    interrupts_poll_begin();
    pi0_status st = pi0_engine_open(&s->engine, s->model, cfg, &err);
    interrupts_poll_end();
    term_bar_clear();
    if (interrupted()) /* also when the engine opened before it saw the flag */
        return end_interrupted();
    if (st)
        return fail_library(&err);
    pi0_engine_info(s->engine, &s->engine_info);
    return EXIT_DONE;
}

int session_open_policy(struct session *s, const struct args *a)
{
    struct pi0_error err = { 0 };
    struct pi0_policy_config cfg;
    pi0_policy_defaults(&cfg);
    cfg.tokenizer = a->tokenizer;
    cfg.norm_stats = a->norm_stats;
    cfg.default_prompt = a->default_prompt;
    cfg.robot = a->robot;
    cfg.allow_no_stats = a->no_stats || (a->synthetic && !a->norm_stats);
    if (pi0_policy_open(&s->policy, s->model, s->engine, &cfg, &err))
        return fail_library(&err);
    return EXIT_DONE;
}

void session_close(struct session *s)
{
    pi0_policy_close(s->policy);
    pi0_engine_close(s->engine);
    pi0_model_close(s->model);
    memset(s, 0, sizeof *s);
}
