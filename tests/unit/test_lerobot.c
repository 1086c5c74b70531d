/* SPDX-License-Identifier: Apache-2.0
 * lerobot's pipeline: its processor files and the statistics behind them, features and relative
 * actions, and the whole policy over a small synthetic lerobot checkpoint. */
#include "policy/image.h"
#include "policy/lerobot.h"
#include "policy/prompt.h"
#include "policy/transform.h"
#include "scratch_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIDE 28
#define H 4
#define A 8
#define N 3 /* the robot's own state and action numbers */
#define TOKENIZER "tests/golden/pipeline/tokenizer.model"
#define PRE "policy_preprocessor.json"
#define POST "policy_postprocessor.json"

static struct scratch_dir dirs[2]; /* π0, π0.5 */
static struct pi0_error err;
static struct lerobot_processor processor;

/* ---------------------------------------------------------------- processor files */

static pi0_status parse(const char *text)
{
    return lerobot_parse(&processor, text, strlen(text), "p.json", &err);
}

#define STEPS_OF(steps) "{\"name\":\"policy_preprocessor\",\"steps\":[" steps "]}"
#define NORMALIZER(map, more)                                                                  \
    "{\"registry_name\":\"normalizer_processor\",\"config\":{\"norm_map\":{" map "}" more "}," \
    "\"state_file\":\"s.safetensors\"}"

static void reads_processors(void **state)
{
    (void)state;
    assert_int_equal(
        parse(STEPS_OF(
            "{\"registry_name\":\"to_batch_processor\",\"config\":{}},"
            "{\"class\":\"my.Step\"},"
            "{\"registry_name\":\"relative_actions_processor\",\"config\":{\"enabled\":true,"
            "\"exclude_joints\":[\"gripper\",\"\"],\"action_names\":[\"a.pos\",\"Left_Gripper."
            "pos\",\"c\"]}}," NORMALIZER(
                "\"STATE\":\"QUANTILES\",\"ACTION\":\"QUANTILE10\",\"VISUAL\":\"IDENTITY\"",
                ",\"eps\":1e-6"))),
        PI0_OK);
    assert_int_equal(processor.has_normalizer, 1);
    assert_int_equal(processor.state_mode, LEROBOT_QUANTILES);
    assert_int_equal(processor.action_mode, LEROBOT_QUANTILE10);
    assert_true(processor.eps == 1e-6);
    assert_string_equal(processor.state_file, "s.safetensors");
    assert_true(processor.has_relative && processor.relative_enabled);
    assert_int_equal(processor.n_relative, 3);
    assert_true(processor.relative[0] && !processor.relative[1] && processor.relative[2]);

    assert_int_equal(parse(STEPS_OF(NORMALIZER("\"STATE\":\"MEAN_STD\"", ""))), PI0_OK);
    assert_int_equal(processor.action_mode, LEROBOT_IDENTITY); /* not in the map */
    assert_true(processor.eps == 1e-8);
    assert_int_equal(parse(STEPS_OF(NORMALIZER("\"STATE\":\"MEAN_STD\"",
                                               ",\"normalize_observation_keys\":[\"x\"]"))),
                     PI0_OK);
    assert_int_equal(processor.state_mode, LEROBOT_IDENTITY); /* the state is left out */
    assert_int_equal(parse(STEPS_OF("")), PI0_OK);
    assert_false(processor.has_normalizer);
}

static void wrong_processors(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        pi0_status status;
        const char *message;
    } cases[] = {
        { "{", PI0_E_FORMAT, "p.json: line 1" },
        { "{}", PI0_E_FORMAT, "p.json: no list \"steps\"" },
        { "[]", PI0_E_FORMAT, "no list \"steps\"" },
        { STEPS_OF("{\"registry_name\":\"normalizer_processor\"}"), PI0_E_FORMAT, "no norm_map" },
        { STEPS_OF(NORMALIZER("\"STATE\":\"LOG\"", "")), PI0_E_UNSUPPORTED,
          "norm_map.STATE is LOG, expected MEAN_STD, MIN_MAX" },
        { STEPS_OF(NORMALIZER("\"STATE\":3", "")), PI0_E_UNSUPPORTED, "(not a string)" },
        { STEPS_OF(NORMALIZER("\"VISUAL\":\"MEAN_STD\"", "")), PI0_E_UNSUPPORTED,
          "norm_map.VISUAL is MEAN_STD, expected IDENTITY" },
        { STEPS_OF(NORMALIZER("", ",\"eps\":\"x\"")), PI0_E_FORMAT, "eps is not a number" },
        { STEPS_OF(NORMALIZER("", ",\"eps\":-1")), PI0_E_FORMAT,
          "eps is not a number of 0 or more" },
        { STEPS_OF("{\"registry_name\":\"unnormalizer_processor\",\"config\":{\"norm_map\":{}},"
                   "\"state_file\":\"../x\"}"),
          PI0_E_FORMAT, "state_file \"../x\" is not the name of a file beside it" },
        { STEPS_OF("{\"registry_name\":\"unnormalizer_processor\",\"config\":{\"norm_map\":{}},"
                   "\"state_file\":7}"),
          PI0_E_FORMAT, "is not the name of a file" },
        { STEPS_OF(
              "{\"registry_name\":\"relative_actions_processor\",\"config\":{\"action_names\":[1]}"
              "}"),
          PI0_E_FORMAT, "action_names[0] is not a string" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(parse(cases[i].text), cases[i].status);
        if (!strstr(err.message, cases[i].message))
            fail_msg("case %zu: \"%s\" lacks \"%s\"", i, err.message, cases[i].message);
    }
}

/* ---------------------------------------------------------------- a checkpoint */

static const float stat_values[4][N] = { { 0.1f, -0.2f, 0.3f }, /* mean, or q01 */
                                         { 1.5f, 0.5f, 2.0f },  /* std, or q99 */
                                         { -1, -2, -3 },
                                         { 1, 2, 3.5f } };

static void put_stats(const struct scratch_dir *d, const char *file, const char *feature,
                      const char *a, const char *b, int n)
{
    char names[2][64];
    const char *const list[] = { names[0], names[1] };
    const float *const values[] = { stat_values[0], stat_values[1] };
    snprintf(names[0], sizeof names[0], "%s.%s", feature, a);
    snprintf(names[1], sizeof names[1], "%s.%s", feature, b);
    scratch_vectors(d, file, list, values, 2, n);
}

static void put_processors(const struct scratch_dir *d, const char *mode, int relative)
{
    char text[1024];
    snprintf(
        text, sizeof text,
        "{\"steps\":[{\"registry_name\":\"relative_actions_processor\",\"config\":{\"enabled\":%s,"
        "\"exclude_joints\":[\"grip\"],\"action_names\":[\"x\",\"y\",\"gripper\"]}},"
        "{\"registry_name\":\"normalizer_processor\",\"config\":{\"eps\":1e-8,\"norm_map\":"
        "{\"VISUAL\":\"IDENTITY\",\"STATE\":\"%s\",\"ACTION\":\"%s\"}},"
        "\"state_file\":\"pre.safetensors\"}]}",
        relative ? "true" : "false", mode, mode);
    scratch_text(d, PRE, text);
    snprintf(text, sizeof text,
             "{\"steps\":[{\"registry_name\":\"unnormalizer_processor\",\"config\":{\"eps\":1e-8,"
             "\"norm_map\":{\"ACTION\":\"%s\"}},\"state_file\":\"post.safetensors\"},"
             "{\"registry_name\":\"absolute_actions_processor\",\"config\":{\"enabled\":%s}}]}",
             mode, relative ? "true" : "false");
    scratch_text(d, POST, text);
}

static void put_checkpoint(const struct scratch_dir *d, int pi05)
{
    struct pi0_dims dims;
    assert_int_equal(pi0_dims_named(&dims, pi05 ? "pi05_tiny" : "pi0_tiny", NULL), PI0_OK);
    dims.image_size = SIDE;
    dims.vision_width = 1152; /* the only width whose number of heads lerobot's files imply */
    dims.vision_heads = 16;
    dims.vision_depth = 1;
    dims.vision_mlp_dim = 64;
    dims.vocab_size = 2048;
    dims.action_dim = A;
    if (pi0_synth_write(d->path, &dims, 3, NULL, NULL, &err))
        fail_msg("%s", err.message);
    char text[1024];
    snprintf(
        text, sizeof text,
        "{\"type\":\"%s\",\"input_features\":{"
        "\"observation.images.top\":{\"type\":\"VISUAL\",\"shape\":[3,48,64]},"
        "\"observation.state\":{\"type\":\"STATE\",\"shape\":[%d]},"
        "\"observation.images.wrist\":{\"type\":\"VISUAL\",\"shape\":[3,48,64]}},"
        "\"output_features\":{\"action\":{\"type\":\"ACTION\",\"shape\":[%d]}},"
        "\"chunk_size\":%d,\"max_action_dim\":%d,\"num_inference_steps\":2,\"empty_cameras\":1,"
        "\"tokenizer_max_length\":64}",
        pi05 ? "pi05" : "pi0", N, N, H, A);
    scratch_text(d, "config.json", text);
    scratch_copy(d, "tokenizer.model", TOKENIZER);
    put_processors(d, pi05 ? "QUANTILES" : "MEAN_STD", 0);
    put_stats(d, "pre.safetensors", "observation.state", pi05 ? "q01" : "mean",
              pi05 ? "q99" : "std", N);
    put_stats(d, "post.safetensors", "action", pi05 ? "q01" : "mean", pi05 ? "q99" : "std", N);
}

static int setup(void **state)
{
    (void)state;
    for (int v = 0; v < 2; v++) {
        scratch_make(&dirs[v]);
        put_checkpoint(&dirs[v], v);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_remove(&dirs[0]);
    scratch_remove(&dirs[1]);
    return 0;
}

struct rig {
    pi0_model *model;
    pi0_engine *engine;
    pi0_policy *policy;
};

static void rig_close(struct rig *r)
{
    pi0_policy_close(r->policy);
    pi0_engine_close(r->engine);
    pi0_model_close(r->model);
}

static pi0_status rig_open(struct rig *r, const struct scratch_dir *d,
                           const struct pi0_policy_config *cfg)
{
    struct pi0_engine_config e;
    *r = (struct rig){ 0 };
    if (pi0_model_open(&r->model, d->path, NULL, &err))
        fail_msg("%s", err.message);
    pi0_engine_defaults(&e);
    e.backend = "cpu";
    e.n_threads = 1;
    if (pi0_engine_open(&r->engine, r->model, &e, &err))
        fail_msg("%s", err.message);
    return pi0_policy_open(&r->policy, r->model, r->engine, cfg, &err);
}

static void refused_at_open(const struct scratch_dir *d, const struct pi0_policy_config *cfg,
                            pi0_status want, const char *message)
{
    struct rig r;
    pi0_status st = rig_open(&r, d, cfg);
    if (st != want || !strstr(err.message, message))
        fail_msg("status %d, \"%s\" lacks \"%s\"", (int)st, err.message, message);
    rig_close(&r);
}

static uint8_t picture[48 * 64 * 3];
static const double raw_state[N] = { 0.25, -0.7, 1.9 };

static struct pi0_observation observation(struct pi0_named_image images[2])
{
    for (size_t i = 0; i < sizeof picture; i++)
        picture[i] = (uint8_t)(i * 31 % 249);
    /* given in the other order, by short and by full name */
    images[0] = (struct pi0_named_image){ "wrist", picture, 48, 64 };
    images[1] = (struct pi0_named_image){ "observation.images.top", picture + 9, 28, 28 };
    return (struct pi0_observation){ .images = images,
                                     .n_images = 2,
                                     .state = raw_state,
                                     .n_state = N,
                                     .prompt = " Pick_up\nit",
                                     .prompt_bytes = 11,
                                     .seed = 4 };
}

static void check_prompt(const struct pi0_policy_trace *t, const char *text)
{
    struct tokenizer *k;
    int32_t ids[64];
    int n;
    assert_int_equal(tokenizer_open(&k, TOKENIZER, NULL), PI0_OK);
    assert_int_equal(tokenizer_encode(k, text, strlen(text), ids, 64, &n, NULL), PI0_OK);
    assert_int_equal(t->n_tokens, n + 1);
    assert_int_equal(t->tokens[0], tokenizer_bos(k));
    assert_memory_equal(t->tokens + 1, ids, (size_t)n * sizeof *ids);
    tokenizer_close(k);
}

/* What lerobot computes, written out in float32. */
static void check_numbers(const struct pi0_policy_trace *t, const double *actions, int pi05,
                          const signed char relative[N])
{
    const float *a = stat_values[0], *b = stat_values[1];
    for (int i = 0; i < N; i++) {
        float x = (float)raw_state[i];
        float want = pi05 ? 2.0f * (x - a[i]) / (b[i] - a[i]) - 1.0f : (x - a[i]) / (b[i] + 1e-8f);
        assert_true(t->state[i] == want);
    }
    for (int i = N; i < A; i++)
        assert_true(t->state[i] == 0);
    for (int h = 0; h < H; h++)
        for (int i = 0; i < N; i++) {
            float x = t->model_actions[h * A + i];
            float y = pi05 ? (x + 1.0f) * (b[i] - a[i]) / 2.0f + a[i] : x * b[i] + a[i];
            float want = relative[i] ? y + (float)raw_state[i] : y;
            assert_true(actions[h * N + i] == want);
        }
}

static void whole_way(int pi05, int relative)
{
    struct rig r;
    struct pi0_named_image images[2];
    struct pi0_policy_trace t;
    struct pi0_policy_info info;
    double actions[H * N];
    static const signed char none[N] = { 0 }, all_but_grip[N] = { 1, 1, 0 };
    put_processors(&dirs[pi05], pi05 ? "QUANTILES" : "MEAN_STD", relative);
    if (rig_open(&r, &dirs[pi05], NULL))
        fail_msg("%s", err.message);
    pi0_policy_info(r.policy, &info);
    assert_int_equal(info.robot_action_dim, N);
    assert_int_equal(info.robot_state_dim, N);
    assert_int_equal(info.n_steps, 2);
    assert_int_equal(info.discrete_state, pi05);
    assert_true(info.has_stats);
    assert_string_equal(info.normalization, pi05 ? "lerobot quantiles" : "lerobot mean and std");
    struct pi0_observation o = observation(images);
    if (pi0_policy_infer(r.policy, &o, 1, actions, NULL, &err))
        fail_msg("%s", err.message);
    pi0_policy_trace(r.policy, &t);
    check_numbers(&t, actions, pi05, relative ? all_but_grip : none);
    /* cameras in feature order; the empty one masked; a picture of the right size is untouched */
    assert_true(t.camera_mask[0] && t.camera_mask[1] && !t.camera_mask[2]);
    assert_memory_equal(t.pixels[0], picture + 9, SIDE * SIDE * 3);
    /* normalised state: 0.1 → (0.25 - 0.1) / 1.4 · 2 - 1 = -0.786: bin 27; (1.9 - 0.3) / 1.7 · 2 - 1 = 0.882: 240 */
    check_prompt(&t, pi05 ? "Task: Pick up it, State: 27 -1 240;\nAction: " : " Pick_up\nit\n");
    rig_close(&r);
    put_processors(&dirs[pi05], pi05 ? "QUANTILES" : "MEAN_STD", 0);
}

static void pi0_pipeline(void **state)
{
    (void)state;
    whole_way(0, 0);
    whole_way(0, 1);
}

static void pi05_pipeline(void **state)
{
    (void)state;
    whole_way(1, 0);
    whole_way(1, 1);
}

/* Old releases padded the state before writing it down. */
static void padded_prompt_state(void **state)
{
    (void)state;
    struct rig r;
    struct pi0_named_image images[2];
    struct pi0_policy_trace t;
    struct pi0_policy_config cfg;
    double actions[H * N];
    pi0_policy_defaults(&cfg);
    cfg.lerobot_padded_state = 1;
    if (rig_open(&r, &dirs[1], &cfg))
        fail_msg("%s", err.message);
    struct pi0_observation o = observation(images);
    if (pi0_policy_infer(r.policy, &o, 1, actions, NULL, &err))
        fail_msg("%s", err.message);
    pi0_policy_trace(r.policy, &t);
    check_prompt(&t, "Task: Pick up it, State: 27 -1 240 128 128 128 128 128;\nAction: ");
    rig_close(&r);
}

static void what_is_missing(void **state)
{
    (void)state;
    struct pi0_policy_config cfg;
    struct rig r;
    const struct scratch_dir *d = &dirs[0];
    pi0_policy_defaults(&cfg);
    put_stats(d, "pre.safetensors", "observation.state", "mean", "q99", N);
    refused_at_open(d, &cfg, PI0_E_MODEL, "pre.safetensors: no tensor observation.state.std");
    put_stats(d, "pre.safetensors", "observation.state", "mean", "std", N - 1);
    refused_at_open(d, &cfg, PI0_E_FORMAT, "observation.state.mean has 2 numbers, expected 3");
    static const float nan_values[N] = { 0, NAN, 0 };
    static const char *const names[] = { "observation.state.mean", "observation.state.std" };
    const float *const values[] = { nan_values, stat_values[1] };
    scratch_vectors(d, "pre.safetensors", names, values, 2, N);
    refused_at_open(d, &cfg, PI0_E_FORMAT, "observation.state.mean[1] is not finite");
    scratch_text(d, "pre.safetensors", "short");
    refused_at_open(d, &cfg, PI0_E_FORMAT, "pre.safetensors");
    scratch_drop(d, "pre.safetensors");
    refused_at_open(d, &cfg, PI0_E_IO, "pre.safetensors");
    scratch_text(d, PRE,
                 STEPS_OF("{\"registry_name\":\"normalizer_processor\",\"config\":{\"norm_map\":{"
                          "\"STATE\":\"MEAN_STD\"}}}"));
    refused_at_open(d, &cfg, PI0_E_MODEL,
                    "observation.state is normalised (MEAN_STD) and no state_file is named");
    scratch_drop(d, PRE);
    refused_at_open(d, &cfg, PI0_E_IO, PRE);

    /* without statistics, if the caller says so */
    cfg.allow_no_stats = 1;
    struct pi0_policy_info info;
    if (rig_open(&r, d, &cfg))
        fail_msg("%s", err.message);
    pi0_policy_info(r.policy, &info);
    assert_false(info.has_stats);
    assert_string_equal(info.normalization, "none");
    rig_close(&r);
    cfg.allow_no_stats = 0;

    /* or with openpi's, named by the caller */
    scratch_text(d, "mine.json",
                 "{\"norm_stats\":{\"state\":{\"mean\":[0,0,0],\"std\":[1,1,1]},"
                 "\"actions\":{\"mean\":[0,0,0],\"std\":[1,1,1]}}}");
    cfg.norm_stats = scratch_path(d, "mine.json");
    if (rig_open(&r, d, &cfg))
        fail_msg("%s", err.message);
    pi0_policy_info(r.policy, &info);
    assert_string_equal(info.normalization, "z-score");
    rig_close(&r);
    cfg.norm_stats = NULL;

    put_processors(d, "MEAN_STD", 0);
    put_stats(d, "pre.safetensors", "observation.state", "mean", "std", N);
    cfg.robot = "libero";
    refused_at_open(d, &cfg, PI0_E_ARGUMENT, "robot libero is a mapping of openpi's pipeline");
    cfg.robot = "none";
    if (rig_open(&r, d, &cfg))
        fail_msg("%s", err.message);
    rig_close(&r);
}

/* The remaining modes, and a step that leaves values alone. */
static void other_modes(void **state)
{
    (void)state;
    static const char *const modes[][3] = { { "MIN_MAX", "min", "max" },
                                            { "QUANTILE10", "q10", "q90" },
                                            { "IDENTITY", "mean", "std" } };
    const struct scratch_dir *d = &dirs[0];
    const float *a = stat_values[0], *b = stat_values[1];
    for (int k = 0; k < 3; k++) {
        struct rig r;
        struct pi0_named_image images[2];
        struct pi0_policy_trace t;
        double actions[H * N];
        put_processors(d, modes[k][0], 0);
        put_stats(d, "pre.safetensors", "observation.state", modes[k][1], modes[k][2], N);
        put_stats(d, "post.safetensors", "action", modes[k][1], modes[k][2], N);
        if (rig_open(&r, d, NULL))
            fail_msg("%s", err.message);
        struct pi0_observation o = observation(images);
        if (pi0_policy_infer(r.policy, &o, 1, actions, NULL, &err))
            fail_msg("%s", err.message);
        pi0_policy_trace(r.policy, &t);
        for (int i = 0; i < N; i++) {
            float x = (float)raw_state[i], y = t.model_actions[i];
            float in = k == 2 ? x : 2.0f * (x - a[i]) / (b[i] - a[i]) - 1.0f;
            float out = k == 2   ? y
                        : k == 0 ? (y + 1.0f) / 2.0f * (b[i] - a[i]) + a[i]
                                 : (y + 1.0f) * (b[i] - a[i]) / 2.0f + a[i];
            assert_true(t.state[i] == in);
            assert_true(actions[i] == out);
        }
        rig_close(&r);
    }
    put_processors(d, "MEAN_STD", 0);
    put_stats(d, "pre.safetensors", "observation.state", "mean", "std", N);
    put_stats(d, "post.safetensors", "action", "mean", "std", N);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_processors),    cmocka_unit_test(wrong_processors),
        cmocka_unit_test(pi0_pipeline),        cmocka_unit_test(pi05_pipeline),
        cmocka_unit_test(padded_prompt_state), cmocka_unit_test(what_is_missing),
        cmocka_unit_test(other_modes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
