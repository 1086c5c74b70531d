/* SPDX-License-Identifier: Apache-2.0
 * The whole policy over a small synthetic openpi checkpoint on the CPU: what the model is fed, what
 * comes back, batches, priorities, and every observation or directory that must be refused. */
#include "policy/image.h"
#include "policy/prompt.h"
#include "policy/stats.h"
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

#define SIDE 56
#define H 6
#define A 32
#define STEPS 2
#define TOKENIZER "tests/golden/pipeline/tokenizer.model"

static struct scratch_dir dirs[2]; /* π0, π0.5 */
static struct pi0_error err;
static uint8_t picture[3][40 * 80 * 3];

static struct pi0_dims dims_of(int pi05)
{
    struct pi0_dims d;
    assert_int_equal(pi0_dims_named(&d, pi05 ? "pi05_tiny" : "pi0_tiny", NULL), PI0_OK);
    d.vocab_size = 2048; /* holds the test tokenizer's pieces */
    d.action_dim = A;
    d.action_horizon = H;
    d.max_token_len = 48;
    return d;
}

/* Statistics of n state and m action numbers: mean i/10, std 1 + i/10, q01 -1 - i/10, q99 2. */
static void put_stats(const struct scratch_dir *d, const char *name, int n, int m)
{
    static const char *const keys[] = { "mean", "std", "q01", "q99" };
    static const double start[] = { 0, 1, -1, 2 }, step[] = { 0.1, 0.1, -0.1, 0 };
    static char text[16384];
    size_t at = (size_t)sprintf(text, "{\"norm_stats\":{");
    for (int f = 0; f < 2; f++) {
        at += (size_t)sprintf(text + at, f ? ",\"actions\":{" : "\"state\":{");
        for (int k = 0; k < 4; k++) {
            at += (size_t)sprintf(text + at, "%s\"%s\":[", k ? "," : "", keys[k]);
            for (int i = 0; i < (f ? m : n); i++)
                at += (size_t)sprintf(text + at, "%s%.17g", i ? "," : "", start[k] + i * step[k]);
            at += (size_t)sprintf(text + at, "]");
        }
        at += (size_t)sprintf(text + at, "}");
    }
    sprintf(text + at, "}}");
    scratch_text(d, name, text);
}

static const char libero_json[] =
    "{\"robot\": \"libero\", \"delta_mask\": [true, true, true, true, "
    "true, true, false], \"asset_id\": \"a/libero\"}";

static int setup(void **state)
{
    (void)state;
    for (int v = 0; v < 2; v++) {
        struct pi0_dims d = dims_of(v);
        scratch_make(&dirs[v]);
        if (pi0_synth_write(dirs[v].path, &d, 5, NULL, NULL, &err))
            fail_msg("%s", err.message);
        scratch_text(&dirs[v], "pi0.json", libero_json);
        scratch_copy(&dirs[v], "tokenizer.model", TOKENIZER);
        put_stats(&dirs[v], "assets/a/libero/norm_stats.json", 8, 7);
    }
    for (int i = 0; i < 3; i++)
        for (size_t k = 0; k < sizeof picture[i]; k++)
            picture[i][k] = (uint8_t)(k * (size_t)(7 + 4 * i) % 251);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    scratch_remove(&dirs[0]);
    scratch_remove(&dirs[1]);
    return 0;
}

/* ---------------------------------------------------------------- a policy and an observation */

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
    *r = (struct rig){ 0 };
}

static pi0_status rig_open(struct rig *r, const struct scratch_dir *d, int max_batch,
                           const struct pi0_policy_config *cfg)
{
    struct pi0_engine_config e;
    *r = (struct rig){ 0 };
    if (pi0_model_open(&r->model, d->path, NULL, &err))
        fail_msg("%s", err.message);
    pi0_engine_defaults(&e);
    e.backend = "cpu";
    e.n_threads = 1;
    e.max_batch = max_batch;
    if (pi0_engine_open(&r->engine, r->model, &e, &err))
        fail_msg("%s", err.message);
    return pi0_policy_open(&r->policy, r->model, r->engine, cfg, &err);
}

static void rig_must_open(struct rig *r, const struct scratch_dir *d, int max_batch,
                          const struct pi0_policy_config *cfg)
{
    if (rig_open(r, d, max_batch, cfg))
        fail_msg("%s", err.message);
}

static void refused_at_open(const struct scratch_dir *d, const struct pi0_policy_config *cfg,
                            pi0_status want, const char *message)
{
    struct rig r;
    assert_int_equal(rig_open(&r, d, 1, cfg), want);
    assert_null(r.policy);
    if (!strstr(err.message, message))
        fail_msg("\"%s\" lacks \"%s\"", err.message, message);
    rig_close(&r);
}

static const double state8[8] = { 0.1, -0.2, 0.9, -0.1, 0.05, 0.6, -0.3, -0.25 };

static struct pi0_named_image images[3];

static struct pi0_observation observation(void)
{
    images[0] = (struct pi0_named_image){ "observation/image", picture[0], 40, 80 };
    images[1] = (struct pi0_named_image){ "left_wrist_0_rgb", picture[1], 80, 40 };
    static const char text[] = "  pick_up the red block\n";
    return (struct pi0_observation){ .images = images,
                                     .n_images = 2,
                                     .state = state8,
                                     .n_state = 8,
                                     .prompt = text,
                                     .prompt_bytes = sizeof text - 1,
                                     .seed = 11,
                                     .n_steps = STEPS };
}

static void must_infer(struct rig *r, const struct pi0_observation *o, int n, double *actions)
{
    struct pi0_timing timing = { 0 };
    if (pi0_policy_infer(r->policy, o, n, actions, &timing, &err))
        fail_msg("%s", err.message);
    assert_true(timing.total_ms > 0);
}

static void refused(struct rig *r, const struct pi0_observation *o, pi0_status want,
                    const char *message)
{
    double actions[H * A];
    actions[0] = 1234;
    assert_int_equal(pi0_policy_infer(r->policy, o, 1, actions, NULL, &err), want);
    assert_true(actions[0] == 1234);
    if (!strstr(err.message, message))
        fail_msg("\"%s\" lacks \"%s\"", err.message, message);
}

/* ---------------------------------------------------------------- the way in and out */

static void check_tokens(const struct pi0_policy_trace *t, const char *text, int pi05,
                         const double *normalized)
{
    struct tokenizer *k;
    assert_int_equal(tokenizer_open(&k, TOKENIZER, NULL), PI0_OK);
    struct prompt p = { .form = pi05 ? PROMPT_STATE : PROMPT_PLAIN,
                        .text = text,
                        .n = strlen(text),
                        .state = normalized,
                        .n_state = 8 };
    char *buf = malloc(prompt_buffer_bytes(A));
    int32_t ids[48];
    int n, cut;
    assert_int_equal(prompt_tokens(k, &p, buf, ids, 48, &n, &cut, NULL), PI0_OK);
    assert_int_equal(t->n_tokens, n);
    assert_memory_equal(t->tokens, ids, (size_t)n * sizeof *ids);
    assert_int_equal(t->n_tokens_cut, cut);
    free(buf);
    tokenizer_close(k);
}

static void check_pixels(const struct pi0_policy_trace *t)
{
    struct arena a = { 0 };
    struct image_scratch s;
    static uint8_t want[SIDE * SIDE * 3];
    image_scratch_take(&s, &a, SIDE, 0);
    assert_int_equal(arena_alloc(&a, "test", NULL), PI0_OK);
    image_scratch_take(&s, &a, SIDE, 0);
    assert_int_equal(image_resize_with_pad(&s, IMAGE_PILLOW, picture[0], 40, 80, want, NULL),
                     PI0_OK);
    assert_memory_equal(t->pixels[0], want, sizeof want);
    assert_int_equal(image_resize_with_pad(&s, IMAGE_PILLOW, picture[1], 80, 40, want, NULL),
                     PI0_OK);
    assert_memory_equal(t->pixels[1], want, sizeof want);
    memset(want, 0, sizeof want);
    assert_memory_equal(t->pixels[2], want, sizeof want);
    assert_true(t->camera_mask[0] && t->camera_mask[1] && !t->camera_mask[2]);
    arena_free(&a);
}

/* LIBERO's transform with the statistics of put_stats, as the policy must have it. */
static struct transform *libero_transform(int pi05)
{
    struct transform *t = calloc(1, sizeof *t);
    struct config c = { .dims = dims_of(pi05) };
    c.train.robot = ROBOT_LIBERO;
    c.train.out_dim = 7;
    c.train.n_delta_mask = 7;
    for (int i = 0; i < 6; i++)
        c.train.delta_mask[i] = 1;
    assert_non_null(t);
    t->action_dim = A;
    assert_int_equal(robot_open(&t->map, ROBOT_LIBERO, &c, NULL), PI0_OK);
    assert_int_equal(stats_load(&t->stats,
                                scratch_path(&dirs[pi05], "assets/a/libero/norm_stats.json"),
                                pi05 ? NORM_QUANTILE : NORM_ZSCORE, NULL),
                     PI0_OK);
    return t;
}

static void whole_way(int pi05)
{
    struct rig r;
    double actions[H][7], want[7], normalized[A], base[A], scratch[A];
    float noise[H * A], direct[H * A];
    struct pi0_policy_trace t;
    rig_must_open(&r, &dirs[pi05], 1, NULL);
    struct pi0_observation o = observation();
    must_infer(&r, &o, 1, actions[0]);
    pi0_policy_trace(r.policy, &t);

    struct transform *libero = libero_transform(pi05);
    transform_state(libero, state8, 8, normalized, base);
    check_tokens(&t, "pick up the red block", pi05, normalized);
    check_pixels(&t);
    for (int i = 0; i < A; i++)
        assert_true(t.state[i] == (float)normalized[i]);
    pi0_noise(noise, H * A, 11);
    assert_memory_equal(t.noise, noise, sizeof noise);
    for (int h = 0; h < H; h++) {
        transform_action(libero, t.model_actions + h * A, base, scratch, want);
        assert_memory_equal(actions[h], want, sizeof want);
    }
    free(libero);
    assert_true(t.preprocess_ms >= 0 && t.postprocess_ms >= 0);

    /* the engine, given the same by hand, says the same */
    struct pi0_input in = { .tokens = t.tokens,
                            .n_tokens = t.n_tokens,
                            .state = t.state,
                            .noise = noise,
                            .camera_mask = { 1, 1, 0 },
                            .pixels = { t.pixels[0], t.pixels[1], NULL } };
    assert_int_equal(pi0_engine_infer(r.engine, &in, 1, STEPS, direct, NULL, &err), PI0_OK);
    assert_memory_equal(direct, t.model_actions, sizeof direct);
    rig_close(&r);
}

static void from_observation_to_actions_pi0(void **state)
{
    (void)state;
    whole_way(0);
}

static void from_observation_to_actions_pi05(void **state)
{
    (void)state;
    whole_way(1);
}

static void what_is_said_of_it(void **state)
{
    (void)state;
    struct rig r;
    struct pi0_policy_info info;
    struct pi0_policy_trace t;
    rig_must_open(&r, &dirs[1], 1, NULL);
    pi0_policy_info(r.policy, &info);
    assert_int_equal(info.action_horizon, H);
    assert_int_equal(info.robot_action_dim, 7);
    assert_int_equal(info.robot_state_dim, 8);
    assert_string_equal(info.robot, "libero");
    assert_string_equal(info.normalization, "quantile");
    assert_string_equal(info.default_prompt, "");
    assert_true(info.has_tokenizer && info.has_stats && info.discrete_state);
    assert_int_equal(info.n_steps, 10);
    pi0_policy_trace(r.policy, &t); /* before any call: nothing */
    assert_null(t.tokens);
    assert_null(t.model_actions);
    rig_close(&r);
    struct pi0_policy_config cfg;
    pi0_policy_defaults(&cfg);
    cfg.robot = "none";
    cfg.default_prompt = "wave";
    rig_must_open(&r, &dirs[0], 1, &cfg);
    pi0_policy_info(r.policy, &info);
    assert_int_equal(info.robot_action_dim, A);
    assert_int_equal(info.robot_state_dim, 0);
    assert_string_equal(info.normalization, "z-score");
    assert_string_equal(info.default_prompt, "wave");
    assert_false(info.discrete_state);
    rig_close(&r);
    pi0_policy_close(NULL);
}

/* A batch gives each observation what it gets alone. */
static void batches(void **state)
{
    (void)state;
    struct rig r;
    double one[2][H * 7], both[2 * H * 7];
    static const double other[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    rig_must_open(&r, &dirs[1], 2, NULL);
    struct pi0_observation o[2] = { observation(), observation() };
    struct pi0_named_image three[3] = { { "base_0_rgb", picture[2], 56, 56 },
                                        { "observation/wrist_image", picture[1], 40, 80 },
                                        { "right_wrist_0_rgb", picture[0], 10, 10 } };
    o[1].images = three;
    o[1].n_images = 3;
    o[1].state = other;
    o[1].prompt = "wave";
    o[1].prompt_bytes = 4;
    o[1].seed = 12;
    for (int i = 0; i < 2; i++)
        must_infer(&r, &o[i], 1, one[i]);
    must_infer(&r, o, 2, both);
    assert_memory_equal(both, one[0], sizeof one[0]);
    assert_memory_equal(both + H * 7, one[1], sizeof one[1]);
    assert_true(memcmp(one[0], one[1], sizeof one[0]) != 0);

    /* one bad observation: named, and nothing is returned */
    double actions[2 * H * 7] = { 99 };
    o[1].n_state = 7;
    assert_int_equal(pi0_policy_infer(r.policy, o, 2, actions, NULL, &err), PI0_E_INPUT);
    assert_string_equal(err.message, "observation 1: state of 7 numbers, expected 8 (end effector "
                                     "position 3, axis-angle 3, gripper 2)");
    assert_true(actions[0] == 99);
    o[1].n_state = 8;
    o[1].n_steps = STEPS + 1;
    assert_int_equal(pi0_policy_infer(r.policy, o, 2, actions, NULL, &err), PI0_E_INPUT);
    assert_string_equal(err.message,
                        "observation 1 asks for 3 denoising steps, observation 0 for 2");
    assert_int_equal(pi0_policy_infer(r.policy, o, 3, actions, NULL, &err), PI0_E_ARGUMENT);
    assert_string_equal(err.message, "3 observations, expected 1 to 2 (max_batch)");
    assert_int_equal(pi0_policy_infer(r.policy, o, 0, actions, NULL, &err), PI0_E_ARGUMENT);
    rig_close(&r);
}

/* Token ids stand for the prompt; given noise for the seed; 0 steps for the checkpoint's number. */
static void given_instead(void **state)
{
    (void)state;
    struct rig r;
    double a[H * 7], b[H * 7];
    static const int32_t ids[] = { 2, 474, 473, 268, 420, 421, 4 };
    float noise[H * A];
    struct pi0_policy_trace t;
    rig_must_open(&r, &dirs[0], 1, NULL);
    struct pi0_observation o = observation();
    o.n_steps = 0;
    must_infer(&r, &o, 1, a);
    o.n_steps = 10;
    pi0_noise(noise, H * A, o.seed);
    o.noise = noise;
    o.tokens = ids;
    o.n_tokens = 7;
    o.prompt = NULL;
    must_infer(&r, &o, 1, b);
    assert_memory_equal(a, b, sizeof a); /* the ids are those of this prompt */
    pi0_policy_trace(r.policy, &t);
    assert_int_equal(t.n_tokens, 7);
    noise[5] += 1;
    must_infer(&r, &o, 1, b);
    assert_true(memcmp(a, b, sizeof a) != 0);
    rig_close(&r);
}

/* Request over caller's default over the checkpoint's default. */
static void prompt_priority(void **state)
{
    (void)state;
    struct rig r;
    double actions[H * 7];
    struct pi0_policy_trace t;
    struct pi0_policy_config cfg;
    pi0_policy_defaults(&cfg);
    scratch_text(&dirs[0], "pi0.json",
                 "{\"robot\": \"libero\", \"default_prompt\": \"fold the towel\"}");
    for (int k = 0; k < 4; k++) {
        static const char *const used[] = { "fold the towel", "pick up", "red block", "" };
        struct pi0_observation o = observation();
        cfg.default_prompt = k == 0 ? NULL : "pick up";
        o.prompt = k == 2 ? "red block" : k == 3 ? "" : NULL;
        o.prompt_bytes = k == 2 ? 9 : 0;
        rig_must_open(&r, &dirs[0], 1, &cfg);
        must_infer(&r, &o, 1, actions);
        pi0_policy_trace(r.policy, &t);
        check_tokens(&t, used[k], 0, NULL); /* "" is a prompt; NULL is none */
        rig_close(&r);
    }
    scratch_text(&dirs[0], "pi0.json", libero_json);
}

static void long_prompts_are_cut(void **state)
{
    (void)state;
    struct rig r;
    double actions[H * 7];
    struct pi0_policy_trace t;
    char text[1000];
    memset(text, 'q', sizeof text);
    rig_must_open(&r, &dirs[0], 1, NULL);
    struct pi0_observation o = observation();
    o.prompt = text;
    o.prompt_bytes = sizeof text;
    must_infer(&r, &o, 1, actions);
    pi0_policy_trace(r.policy, &t);
    assert_int_equal(t.n_tokens, 48);
    assert_true(t.n_tokens_cut > 0);
    rig_close(&r);
}

/* ---------------------------------------------------------------- refused observations */

static void wrong_observations(void **state)
{
    (void)state;
    struct rig r;
    double bad[9] = { 0 };
    struct pi0_observation o;
    rig_must_open(&r, &dirs[1], 1, NULL);

    o = observation();
    bad[3] = NAN;
    o.state = bad;
    refused(&r, &o, PI0_E_INPUT, "state[3] is nan, expected a number");
    bad[3] = -INFINITY;
    refused(&r, &o, PI0_E_INPUT, "state[3] is -inf, expected a number");
    bad[3] = 1e300;
    refused(&r, &o, PI0_E_INPUT, "state[3] = 1e+300 is normalised to inf");
    o.n_state = 9;
    refused(&r, &o, PI0_E_INPUT, "state of 9 numbers, expected 8");
    o.n_state = -1;
    refused(&r, &o, PI0_E_ARGUMENT, "state numbers announced");
    o.n_state = 8;
    o.state = NULL;
    refused(&r, &o, PI0_E_ARGUMENT, "8 state numbers announced, none given");

    o = observation();
    o.n_images = 1;
    refused(&r, &o, PI0_E_INPUT,
            "missing camera: found observation/image, robot libero needs base_0_rgb "
            "(observation/image), left_wrist_0_rgb (observation/wrist_image)");
    o.n_images = 0;
    refused(&r, &o, PI0_E_INPUT, "missing camera: found none");
    o = observation();
    images[1].name = "cam_high";
    refused(&r, &o, PI0_E_INPUT,
            "unknown camera \"cam_high\", expected one of base_0_rgb, left_wrist_0_rgb, "
            "right_wrist_0_rgb, observation/image, observation/wrist_image");
    images[1].name = "base_0_rgb";
    refused(&r, &o, PI0_E_INPUT, "camera \"base_0_rgb\" is given twice");
    images[1].name = NULL;
    refused(&r, &o, PI0_E_ARGUMENT, "image 1 has no name");
    o = observation();
    images[0].pixels = NULL;
    refused(&r, &o, PI0_E_ARGUMENT, "image 0 has no pixels");
    o = observation();
    images[0].width = 0;
    refused(&r, &o, PI0_E_INPUT, "camera \"observation/image\": image of 0 × 40 pixels");
    o = observation();
    o.images = NULL;
    refused(&r, &o, PI0_E_ARGUMENT, "2 images announced, none given");

    o = observation();
    o.prompt = NULL;
    refused(&r, &o, PI0_E_INPUT, "no prompt: the observation has none");
    o.prompt = "ab\xFF";
    o.prompt_bytes = 3;
    refused(&r, &o, PI0_E_INPUT, "prompt is not UTF-8: byte 0xFF at offset 2");
    char *huge = calloc(1, 20u << 20);
    assert_non_null(huge);
    o.prompt = huge;
    o.prompt_bytes = 20u << 20;
    refused(&r, &o, PI0_E_INPUT, "prompt of 20971520 bytes, expected at most 65536");
    free(huge);
    static const int32_t ids[49] = { 0 }, outside[] = { 2, 2048 }, negative[] = { -1 };
    o = observation();
    o.tokens = ids;
    o.n_tokens = 49;
    refused(&r, &o, PI0_E_INPUT, "49 token ids, expected 0 to 48");
    o.n_tokens = -1;
    refused(&r, &o, PI0_E_INPUT, "-1 token ids");
    o.tokens = outside;
    o.n_tokens = 2;
    refused(&r, &o, PI0_E_INPUT, "token 1 has id 2048");
    o.tokens = negative;
    o.n_tokens = 1;
    refused(&r, &o, PI0_E_INPUT, "token 0 has id -1");

    o = observation();
    float noise[H * A] = { 0 };
    noise[33] = NAN;
    o.noise = noise;
    refused(&r, &o, PI0_E_INPUT, "noise[1][1] is nan");
    o = observation();
    o.n_steps = -1;
    refused(&r, &o, PI0_E_INPUT, "-1 denoising steps, expected 1 to 10 (max_steps)");
    o.n_steps = 11;
    refused(&r, &o, PI0_E_INPUT, "11 denoising steps, expected 1 to 10 (max_steps)");

    /* after all that the policy still works */
    double actions[H * 7];
    o = observation();
    must_infer(&r, &o, 1, actions);
    assert_int_equal(pi0_policy_infer(NULL, &o, 1, actions, NULL, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_policy_infer(r.policy, NULL, 1, actions, NULL, NULL), PI0_E_ARGUMENT);
    rig_close(&r);
}

/* The generic mapping: any state up to the statistics, any camera, optional ones black. */
static void generic_robot(void **state)
{
    (void)state;
    struct rig r;
    double actions[H * A];
    struct pi0_policy_config cfg;
    struct pi0_policy_trace t;
    pi0_policy_defaults(&cfg);
    cfg.robot = "none";
    rig_must_open(&r, &dirs[0], 1, &cfg);
    struct pi0_observation o = observation();
    o.images = images + 1;
    o.n_images = 1;
    o.n_state = 3;
    must_infer(&r, &o, 1, actions);
    pi0_policy_trace(r.policy, &t);
    assert_true(!t.camera_mask[0] && t.camera_mask[1] && !t.camera_mask[2]);
    assert_true(t.state[3] == 0 && t.state[31] == 0);
    o.n_state = 0;
    refused(&r, &o, PI0_E_INPUT, "state of 0 numbers, expected 1 to 32");
    double many[33] = { 0 };
    o.state = many;
    o.n_state = 33;
    refused(&r, &o, PI0_E_INPUT, "state of 33 numbers, expected 1 to 32");
    o.n_state = 9;
    refused(&r, &o, PI0_E_INPUT, "state of 9 numbers, expected at most 8, as the statistics hold");
    o = observation();
    refused(&r, &o, PI0_E_INPUT, "unknown camera \"observation/image\"");
    o.n_images = 0;
    refused(&r, &o, PI0_E_INPUT,
            "robot none needs base_0_rgb, left_wrist_0_rgb, right_wrist_0_rgb");
    rig_close(&r);
}

static void aloha_robot(void **state)
{
    (void)state;
    struct rig r;
    double actions[H * 14], state14[14] = { 0 };
    struct pi0_policy_config cfg;
    struct pi0_policy_trace t;
    pi0_policy_defaults(&cfg);
    cfg.robot = "aloha";
    put_stats(&dirs[0], "other.json", 14, 14);
    cfg.norm_stats = scratch_path(&dirs[0], "other.json");
    rig_must_open(&r, &dirs[0], 1, &cfg);
    struct pi0_observation o = observation();
    images[0].name = "cam_low"; /* accepted, and not used */
    images[1].name = "cam_high";
    o.state = state14;
    o.n_state = 14;
    must_infer(&r, &o, 1, actions);
    pi0_policy_trace(r.policy, &t);
    assert_true(t.camera_mask[0] && !t.camera_mask[1] && !t.camera_mask[2]);
    images[1].name = "cam_left_wrist";
    refused(&r, &o, PI0_E_INPUT,
            "missing camera: found cam_low, cam_left_wrist, robot aloha needs "
            "base_0_rgb (cam_high)");
    rig_close(&r);
}

/* ---------------------------------------------------------------- refused directories */

static void statistics_at_open(void **state)
{
    (void)state;
    struct pi0_policy_config cfg;
    struct rig r;
    struct pi0_policy_info info;
    const struct scratch_dir *d = &dirs[1];
    pi0_policy_defaults(&cfg);
    put_stats(d, "assets/a/libero/norm_stats.json", 7, 7);
    refused_at_open(d, &cfg, PI0_E_FORMAT, "statistics of state hold 7 numbers, expected 8 to 32");
    put_stats(d, "assets/a/libero/norm_stats.json", 8, 6);
    refused_at_open(d, &cfg, PI0_E_FORMAT,
                    "statistics of actions hold 6 numbers, expected 7 to 32");
    put_stats(d, "assets/a/libero/norm_stats.json", 8, 33);
    refused_at_open(d, &cfg, PI0_E_FORMAT,
                    "statistics of actions hold 33 numbers, expected 7 to 32");
    put_stats(d, "assets/a/libero/norm_stats.json", 32, 32);
    rig_must_open(&r, d, 1, &cfg);
    rig_close(&r);
    scratch_text(
        d, "assets/a/libero/norm_stats.json",
        "{\"norm_stats\":{\"state\":{\"mean\":[0],\"std\":[1],\"q01\":null,\"q99\":null}}}");
    refused_at_open(d, &cfg, PI0_E_FORMAT,
                    "norm_stats.json: norm_stats.state.q01 is null, expected a list of numbers");

    scratch_drop(d, "assets/a/libero/norm_stats.json");
    refused_at_open(d, &cfg, PI0_E_MODEL, "expected assets/a/libero/norm_stats.json");
    assert_non_null(strstr(err.message, "allow_no_stats"));
    cfg.norm_stats = "/nowhere/norm_stats.json";
    refused_at_open(d, &cfg, PI0_E_IO, "/nowhere/norm_stats.json");
    cfg.norm_stats = NULL;
    cfg.allow_no_stats = 1;
    rig_must_open(&r, d, 1, &cfg);
    pi0_policy_info(r.policy, &info);
    assert_string_equal(info.normalization, "none");
    assert_false(info.has_stats);
    double actions[H * 7];
    struct pi0_observation o = observation();
    struct pi0_policy_trace t;
    must_infer(&r, &o, 1, actions);
    pi0_policy_trace(r.policy, &t);
    for (int i = 0; i < 8; i++)
        assert_true(t.state[i] == (float)state8[i]);
    for (int i = 0; i < H * 7; i++)
        assert_true(actions[i] ==
                    t.model_actions[i / 7 * A + i % 7] + (i % 7 < 6 ? state8[i % 7] : 0));
    rig_close(&r);
    cfg.allow_no_stats = 0;
    put_stats(d, "assets/one/norm_stats.json", 8, 7);
    put_stats(d, "assets/two/norm_stats.json", 8, 7);
    refused_at_open(d, &cfg, PI0_E_ARGUMENT, "holds 2 norm_stats.json");
    scratch_drop(d, "assets/one/norm_stats.json");
    scratch_drop(d, "assets/two/norm_stats.json");
    put_stats(d, "assets/a/libero/norm_stats.json", 8, 7);
}

static void tokenizer_at_open(void **state)
{
    (void)state;
    struct pi0_policy_config cfg;
    struct rig r;
    double actions[H * 7];
    const struct scratch_dir *d = &dirs[0];
    pi0_policy_defaults(&cfg);
    cfg.tokenizer = scratch_path(d, "pi0.json");
    refused_at_open(d, &cfg, PI0_E_FORMAT, "pi0.json: not a SentencePiece model");
    cfg.tokenizer = "/nowhere/t.model";
    refused_at_open(d, &cfg, PI0_E_IO, "/nowhere/t.model");
    cfg.tokenizer = NULL;
    scratch_drop(d, "tokenizer.model");
    rig_must_open(&r, d, 1, &cfg); /* its absence matters only when text must be tokenised */
    struct pi0_observation o = observation();
    refused(&r, &o, PI0_E_INPUT, "no tokenizer: the prompt is text");
    assert_non_null(strstr(err.message, "give token ids"));
    static const int32_t ids[] = { 2, 4 };
    o.tokens = ids;
    o.n_tokens = 2;
    must_infer(&r, &o, 1, actions);
    rig_close(&r);
    scratch_copy(d, "paligemma_tokenizer.model", TOKENIZER);
    rig_must_open(&r, d, 1, &cfg);
    o.tokens = NULL;
    must_infer(&r, &o, 1, actions);
    rig_close(&r);
    scratch_drop(d, "paligemma_tokenizer.model");
    scratch_copy(d, "tokenizer.model", TOKENIZER);

    /* a tokenizer of more pieces than the model has rows */
    struct pi0_dims dims = dims_of(0);
    pi0_model *model;
    pi0_policy *policy = NULL;
    dims.vocab_size = 512;
    assert_int_equal(pi0_model_open_synthetic(&model, &dims, 1, NULL), PI0_OK);
    pi0_engine *engine;
    struct pi0_engine_config e;
    pi0_engine_defaults(&e);
    e.backend = "cpu";
    assert_int_equal(pi0_engine_open(&engine, model, &e, NULL), PI0_OK);
    cfg.tokenizer = TOKENIZER;
    cfg.allow_no_stats = 1;
    assert_int_equal(pi0_policy_open(&policy, model, engine, &cfg, &err), PI0_E_MODEL);
    assert_non_null(strstr(err.message, "pieces, expected at most the 512 rows"));
    cfg.tokenizer = NULL;
    cfg.allow_no_stats = 0;
    assert_int_equal(pi0_policy_open(&policy, model, engine, &cfg, &err), PI0_E_MODEL);
    assert_non_null(strstr(err.message, "no norm_stats.json with a synthetic model"));
    assert_null(policy);
    pi0_engine_close(engine);
    pi0_model_close(model);
}

static void options_at_open(void **state)
{
    (void)state;
    struct pi0_policy_config cfg;
    pi0_policy *policy = NULL;
    pi0_policy_defaults(&cfg);
    cfg.robot = "ur5e";
    refused_at_open(&dirs[0], &cfg, PI0_E_ARGUMENT, "robot \"ur5e\", expected aloha, droid");
    cfg.robot = "aloha"; /* 14 numbers, the statistics hold 8 */
    refused_at_open(&dirs[0], &cfg, PI0_E_FORMAT, "statistics of state hold 8 numbers");
    cfg.robot = NULL;
    cfg.default_prompt = "a\xFF";
    refused_at_open(&dirs[0], &cfg, PI0_E_ARGUMENT, "default prompt is not UTF-8: byte 0xFF at");
    assert_int_equal(pi0_policy_open(&policy, NULL, NULL, NULL, &err), PI0_E_ARGUMENT);
    struct rig r, other;
    rig_must_open(&r, &dirs[0], 1, NULL);
    rig_must_open(&other, &dirs[1], 1, NULL);
    assert_int_equal(pi0_policy_open(&policy, r.model, other.engine, NULL, &err), PI0_E_ARGUMENT);
    assert_non_null(strstr(err.message, "the engine was opened with another model"));
    rig_close(&r);
    rig_close(&other);
    assert_null(policy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_observation_to_actions_pi0),
        cmocka_unit_test(from_observation_to_actions_pi05),
        cmocka_unit_test(what_is_said_of_it),
        cmocka_unit_test(batches),
        cmocka_unit_test(given_instead),
        cmocka_unit_test(prompt_priority),
        cmocka_unit_test(long_prompts_are_cut),
        cmocka_unit_test(wrong_observations),
        cmocka_unit_test(generic_robot),
        cmocka_unit_test(aloha_robot),
        cmocka_unit_test(statistics_at_open),
        cmocka_unit_test(tokenizer_at_open),
        cmocka_unit_test(options_at_open),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
