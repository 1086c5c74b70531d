/* SPDX-License-Identifier: Apache-2.0
 * Config files: the three forms of config.json, pi0.json and the train configs, which of them wins,
 * and the message of every way to be wrong. */
#include "model/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct config_file text(const char *s)
{
    return (struct config_file){ s, s ? strlen(s) : 0 };
}

static struct config parse(const char *config_json, const char *pi0_json, const char *preset)
{
    struct config c;
    struct pi0_error err;
    if (config_parse(&c, text(config_json), text(pi0_json), preset, &err))
        fail_msg("%s", err.message);
    return c;
}

/* As bind.c leaves it for the tensors of a named model. */
static void take_tensors(struct config *c, const char *dims)
{
    assert_int_equal(pi0_dims_named(&c->dims, dims, NULL), PI0_OK);
    c->dims.vision_heads = c->dims.n_cameras = 0;
    c->dims.action_horizon = c->dims.max_token_len = 0;
}

static struct config finish(const char *config_json, const char *pi0_json, const char *preset,
                            const char *dims)
{
    struct config c = parse(config_json, pi0_json, preset);
    struct pi0_error err;
    take_tensors(&c, dims);
    if (config_finish(&c, &err))
        fail_msg("%s", err.message);
    return c;
}

static void expect_bad(pi0_status want, const char *config_json, const char *pi0_json,
                       const char *preset, const char *why)
{
    struct config c;
    struct pi0_error err = { 0 };
    pi0_status st = config_parse(&c, text(config_json), text(pi0_json), preset, &err);
    if (st != want || !strstr(err.message, why))
        fail_msg("%s: \"%s\", expected %s: \"%s\"", pi0_status_name(st), err.message,
                 pi0_status_name(want), why);
    config_free(&c);
}

static void expect_unfinished(const char *config_json, const char *pi0_json, const char *preset,
                              const char *dims, const char *why)
{
    struct config c = parse(config_json, pi0_json, preset);
    struct pi0_error err = { 0 };
    take_tensors(&c, dims);
    assert_int_equal(config_finish(&c, &err), PI0_E_MODEL);
    if (!strstr(err.message, why))
        fail_msg("\"%s\", expected \"%s\"", err.message, why);
    config_free(&c);
}

/* ---------------------------------------------------------------- forms */

#define CONVERTER                                                                        \
    "{\"action_dim\": 32, \"action_horizon\": 10, \"paligemma_variant\": \"gemma_2b\", " \
    "\"action_expert_variant\": \"gemma_300m\", \"precision\": \"bfloat16\"}"

static void nothing_said(void **state)
{
    (void)state;
    struct config c = finish(NULL, NULL, NULL, "pi0");
    assert_int_equal(c.source, PI0_SOURCE_OPENPI);
    assert_int_equal(c.dims.vision_heads, 16);
    assert_int_equal(c.dims.n_cameras, 3);
    assert_int_equal(c.dims.action_horizon, 50);
    assert_int_equal(c.dims.max_token_len, 48);
    assert_int_equal(c.num_steps, 10);
    assert_string_equal(c.camera_names[0], "base_0_rgb");
    assert_string_equal(c.camera_names[1], "left_wrist_0_rgb");
    assert_string_equal(c.camera_names[2], "right_wrist_0_rgb");
    assert_string_equal(c.train.name, "");
    assert_int_equal(c.train.norm, NORM_ZSCORE);
    assert_int_equal(c.train.discrete_state, 0);
    assert_int_equal(c.train.robot, ROBOT_NONE);
    assert_int_equal(c.train.out_dim, 32);
    config_free(&c);
    c = finish(NULL, NULL, NULL, "pi05");
    assert_int_equal(c.dims.max_token_len, 200);
    assert_int_equal(c.train.norm, NORM_QUANTILE);
    assert_int_equal(c.train.discrete_state, 1);
    config_free(&c);
}

static void converter(void **state)
{
    (void)state;
    struct config c = finish(CONVERTER, NULL, NULL, "pi0");
    assert_int_equal(c.source, PI0_SOURCE_OPENPI);
    assert_int_equal(c.dims.action_horizon, 10);
    assert_null(c.lerobot);
    config_free(&c);
    expect_unfinished(CONVERTER, NULL, NULL, "pi0_tiny",
                      "config.json: vlm_width is 2048, the "
                      "tensors say 128");
    expect_unfinished("{\"action_dim\": 8}", NULL, NULL, "pi0", "action_dim is 8");
    expect_bad(PI0_E_UNSUPPORTED, "{\"paligemma_variant\": \"gemma_2b_lora\"}", NULL, NULL,
               "LoRA weights must be merged");
    expect_bad(PI0_E_UNSUPPORTED, "{\"action_expert_variant\": \"gemma_9b\"}", NULL, NULL,
               "action_expert_variant is \"gemma_9b\"");
    expect_bad(PI0_E_MODEL,
               "{\"paligemma_variant\":\"gemma_2b\",\"action_expert_variant\":\"dummy\"}", NULL,
               NULL, "differ in depth");
}

#define EXPLICIT(more)                                                                             \
    "{\"model\": \"pi0\", \"image_size\": 56, \"cameras\": [\"top\", \"side\"], "                  \
    "\"max_token_len\": 12, \"action_dim\": 8, \"action_horizon\": 6, \"num_steps\": 4, "          \
    "\"vision\": {\"width\": 96, \"depth\": 3, \"mlp_dim\": 200, \"heads\": 4, \"patch_size\": "   \
    "14}, \"vlm\": {\"width\": 128, \"depth\": 3, \"mlp_dim\": 320, \"heads\": 4, \"kv_heads\": "  \
    "1, \"head_dim\": 32, \"vocab_size\": 512}, \"expert\": {\"width\": 64, \"mlp_dim\": 160" more \
    "}}"

static void explicit_dims(void **state)
{
    (void)state;
    struct pi0_dims want, got;
    struct pi0_error err;
    struct config c = finish(EXPLICIT(", \"depth\": 3"), NULL, NULL, "pi0_tiny");
    assert_int_equal(c.dims.vision_heads, 4);
    assert_int_equal(c.dims.n_cameras, 2);
    assert_int_equal(c.dims.action_horizon, 6);
    assert_int_equal(c.dims.max_token_len, 12);
    assert_int_equal(c.num_steps, 4);
    assert_string_equal(c.camera_names[1], "side");
    assert_int_equal(pi0_dims_named(&want, "pi0_tiny", NULL), PI0_OK);
    want.n_cameras = 2;
    assert_int_equal(config_dims(&c, &got, &err), PI0_OK);
    assert_memory_equal(&got, &want, sizeof got);
    config_free(&c);
    expect_bad(PI0_E_MODEL, EXPLICIT(", \"depth\": 4"), NULL, NULL,
               "config.json: expert.depth is 4, expected 3");
    expect_unfinished(EXPLICIT(""), NULL, NULL, "pi0", "image_size is 56, the tensors say 224");
    expect_unfinished(NULL, NULL, NULL, "pi0_tiny", "vision.heads is missing");
    expect_bad(PI0_E_FORMAT, "{\"vision\": 3}", NULL, NULL,
               "vision is an integer, expected an object");
    expect_bad(PI0_E_FORMAT, "{\"vlm\": {\"width\": 1.5}}", NULL, NULL,
               "vlm.width is a real number, expected an integer");
    expect_bad(PI0_E_MODEL, "{\"vlm\": {\"width\": 99999999999}}", NULL, NULL,
               "vlm.width is 99999999999, expected 1 to");
    c = parse("{\"vision\": {\"width\": 96}, \"model\": \"pi05\"}", NULL, NULL);
    assert_int_equal(config_dims(&c, &got, &err), PI0_E_MODEL);
    assert_non_null(strstr(err.message, "image_size is missing"));
    config_free(&c);
    c = parse("{\"vision\": {\"width\": 96}}", NULL, NULL);
    assert_int_equal(config_dims(&c, &got, &err), PI0_E_MODEL);
    assert_non_null(strstr(err.message, "model is missing"));
    config_free(&c);
}

#define LEROBOT(more)                                                                              \
    "{\"type\": \"pi0\", \"input_features\": {\"observation.images.top\": {\"type\": \"VISUAL\", " \
    "\"shape\": [3, 480, 640]}, \"observation.state\": {\"type\": \"STATE\", \"shape\": [14]}, "   \
    "\"observation.images.wrist\": {\"type\": \"VISUAL\"}}, \"output_features\": {\"action\": "    \
    "{\"type\": \"ACTION\", \"shape\": [14]}}, \"chunk_size\": 30, \"max_state_dim\": 32, "        \
    "\"max_action_dim\": 32, \"num_inference_steps\": 5, \"tokenizer_max_length\": 64, "           \
    "\"image_resolution\": [224, 224], \"empty_cameras\": 2, \"min_period\": 0.004, "              \
    "\"max_period\": 4.0, \"paligemma_variant\": \"gemma_2b\", \"rtc_config\": null, "             \
    "\"use_peft\": false" more "}"

static void lerobot(void **state)
{
    (void)state;
    struct config c = finish(LEROBOT(""), NULL, NULL, "pi0");
    assert_int_equal(c.source, PI0_SOURCE_LEROBOT);
    assert_non_null(c.lerobot);
    assert_int_equal(c.dims.n_cameras, 4);
    assert_string_equal(c.camera_names[0], "top");
    assert_string_equal(c.camera_names[1], "wrist");
    assert_string_equal(c.camera_names[2], "empty_camera_0");
    assert_string_equal(c.camera_names[3], "empty_camera_1");
    assert_int_equal(c.dims.action_horizon, 30);
    assert_int_equal(c.dims.max_token_len, 64);
    assert_int_equal(c.num_steps, 5);
    assert_int_equal(c.train.out_dim, 14);
    config_free(&c);
    c = finish(LEROBOT(", \"compile_model\": true, \"rtc_training_max_delay\": 3"), NULL, NULL,
               "pi0");
    config_free(&c);
    expect_bad(PI0_E_UNSUPPORTED, "{\"type\": \"pi0_fast\"}", NULL, NULL,
               "type is \"pi0_fast\", expected \"pi0\" or \"pi05\"");
    expect_bad(PI0_E_UNSUPPORTED, LEROBOT(", \"use_visual_memory\": true"), NULL, NULL,
               "use_visual_memory");
    expect_bad(PI0_E_UNSUPPORTED, LEROBOT(", \"use_proprioceptive_memory\": true"), NULL, NULL,
               "use_proprioceptive_memory");
    expect_bad(PI0_E_UNSUPPORTED, "{\"type\": \"pi05\", \"use_peft\": true}", NULL, NULL,
               "use_peft");
    expect_bad(PI0_E_UNSUPPORTED, "{\"type\": \"pi05\", \"min_period\": 0.01}", NULL, NULL,
               "min_period is 0.01, expected 0.004");
    expect_bad(PI0_E_UNSUPPORTED, "{\"type\": \"pi05\", \"image_resolution\": [224, 320]}", NULL,
               NULL, "224 x 320");
    expect_bad(PI0_E_FORMAT, "{\"type\": \"pi05\", \"image_resolution\": 224}", NULL, NULL,
               "image_resolution");
    expect_bad(PI0_E_UNSUPPORTED,
               "{\"type\": \"pi0\", \"max_state_dim\": 16, "
               "\"max_action_dim\": 32}",
               NULL, NULL, "max_state_dim is 16");
    expect_bad(PI0_E_FORMAT, "{\"type\": \"pi0\", \"input_features\": []}", NULL, NULL,
               "input_features is an array");
    expect_bad(PI0_E_FORMAT, "{\"type\": \"pi0\", \"input_features\": {\"x\": 1}}", NULL, NULL,
               "input_features[] is an integer");
    expect_bad(PI0_E_FORMAT, "{\"type\": 3}", NULL, NULL, "type is an integer, expected a string");
    expect_bad(PI0_E_MODEL, "{\"type\": \"pi0\", \"chunk_size\": 0}", NULL, NULL,
               "chunk_size is 0, expected 1 to 1024");
    expect_bad(PI0_E_FORMAT,
               "{\"type\": \"pi0\", \"output_features\": {\"action\": {\"shape\": []}}}", NULL,
               NULL, "output_features.action.shape");
}

/* ---------------------------------------------------------------- train configs */

static void presets(void **state)
{
    (void)state;
    int n = 0;
    for (const struct train_config *t; (t = train_config_at(n)); n++) {
        struct config c = finish(NULL, NULL, t->name, t->variant ? "pi05" : "pi0");
        assert_ptr_equal(train_config_named(t->name), t);
        assert_string_equal(c.train.name, t->name);
        assert_int_equal(c.dims.action_horizon, t->action_horizon);
        assert_int_equal(c.dims.max_token_len, t->max_token_len);
        assert_memory_equal(&c.train, t, sizeof *t);
        assert_int_equal(t->norm, t->variant ? NORM_QUANTILE : NORM_ZSCORE);
        assert_true(t->robot != ROBOT_NONE && t->asset_id[0]);
        config_free(&c);
    }
    assert_int_equal(n, 17);
    assert_null(train_config_at(-1));
    assert_null(train_config_named("debug"));

    const struct train_config *t = train_config_named("pi05_libero");
    assert_int_equal(t->action_horizon, 10);
    assert_int_equal(t->discrete_state, 0);
    assert_int_equal(t->n_delta_mask, 0);
    t = train_config_named("pi0_libero");
    assert_int_equal(t->n_delta_mask, 7);
    assert_int_equal(t->delta_mask[5], 1);
    assert_int_equal(t->delta_mask[6], 0);
    assert_string_equal(t->asset_id, "physical-intelligence/libero");
    t = train_config_named("pi0_aloha_sim");
    assert_int_equal(t->n_delta_mask, 0);
    assert_int_equal(t->adapt_to_pi, 1);
    assert_string_equal(t->default_prompt, "Transfer cube");
    t = train_config_named("pi05_aloha");
    assert_int_equal(t->n_delta_mask, 14);
    assert_int_equal(t->delta_mask[6] + t->delta_mask[13], 0);
    assert_int_equal(t->has_reset_pose, 1);
}

static void preset_faults(void **state)
{
    (void)state;
    expect_bad(PI0_E_ARGUMENT, NULL, NULL, "pi0_liberty", "\"pi0_liberty\"");
    expect_bad(PI0_E_FORMAT, NULL, "{\"preset\": \"pi0_liberty\"}", NULL, "pi0.json: preset");
    expect_unfinished(NULL, NULL, "pi05_libero", "pi0",
                      "preset \"pi05_libero\" is for pi05, the tensors are those of pi0");
    expect_unfinished(NULL, NULL, "pi0_aloha", "pi05", "the tensors are those of pi05");
}

/* train config < config.json < pi0.json; and the option's preset < pi0.json's other fields. */
static void who_wins(void **state)
{
    (void)state;
    struct config c = finish(CONVERTER, NULL, "pi0_libero", "pi0");
    assert_int_equal(c.dims.action_horizon, 10); /* pi0_libero says 50 */
    assert_int_equal(c.train.action_horizon, 10);
    config_free(&c);
    c = finish(CONVERTER, "{\"action_horizon\": 25, \"preset\": \"pi0_libero\"}", NULL, "pi0");
    assert_int_equal(c.dims.action_horizon, 25);
    assert_string_equal(c.train.name, "pi0_libero");
    config_free(&c);
    c = finish(NULL, "{\"preset\": \"pi0_libero\", \"out_dim\": 6}", "pi0_droid", "pi0");
    assert_string_equal(c.train.name, "pi0_droid");
    assert_int_equal(c.train.robot, ROBOT_DROID);
    assert_int_equal(c.train.out_dim, 6);
    config_free(&c);
}

/* ---------------------------------------------------------------- pi0.json */

static void every_field(void **state)
{
    (void)state;
    struct config c = finish(
        NULL,
        "{\"robot\": \"aloha\", \"norm\": \"quantile\", \"max_token_len\": 77, "
        "\"action_horizon\": 20, \"delta_mask\": [true, false, true], \"asset_id\": \"a/b\", "
        "\"default_prompt\": \"wave\", \"discrete_state\": true, \"out_dim\": 12, "
        "\"adapt_to_pi\": false, \"cameras\": [\"front\"], \"num_steps\": 7}",
        NULL, "pi0");
    assert_string_equal(c.train.name, "");
    assert_int_equal(c.train.robot, ROBOT_ALOHA);
    assert_int_equal(c.train.norm, NORM_QUANTILE);
    assert_int_equal(c.dims.max_token_len, 77);
    assert_int_equal(c.train.max_token_len, 77);
    assert_int_equal(c.dims.action_horizon, 20);
    assert_int_equal(c.train.n_delta_mask, 3);
    assert_int_equal(c.train.delta_mask[0], 1);
    assert_int_equal(c.train.delta_mask[1], 0);
    assert_string_equal(c.train.asset_id, "a/b");
    assert_string_equal(c.train.default_prompt, "wave");
    assert_int_equal(c.train.discrete_state, 1);
    assert_int_equal(c.train.out_dim, 12);
    assert_int_equal(c.train.adapt_to_pi, 0);
    assert_int_equal(c.dims.n_cameras, 1);
    assert_string_equal(c.camera_names[0], "front");
    assert_int_equal(c.num_steps, 7);
    config_free(&c);
    c = finish(NULL, "{\"robot\": \"aloha\"}", NULL, "pi0"); /* what a robot brings by itself */
    assert_int_equal(c.train.out_dim, 14);
    assert_int_equal(c.train.adapt_to_pi, 1);
    config_free(&c);
    c = finish(NULL, "{\"norm\": \"z-score\", \"discrete_state\": false, \"robot\": null}", NULL,
               "pi05");
    assert_int_equal(c.train.norm, NORM_ZSCORE);
    assert_int_equal(c.train.discrete_state, 0);
    config_free(&c);
}

static void field_faults(void **state)
{
    (void)state;
    static const struct {
        const char *json, *why;
        pi0_status status;
    } t[] = {
        { "{\"robt\": \"aloha\"}", "pi0.json: unknown key \"robt\"", PI0_E_FORMAT },
        { "{\"robot\": \"r2d2\"}", "\"none\", \"aloha\", \"droid\", \"libero\"", PI0_E_FORMAT },
        { "{\"robot\": 1}", "robot is an integer, expected a string", PI0_E_FORMAT },
        { "{\"norm\": \"minmax\"}", "\"z-score\", \"quantile\"", PI0_E_FORMAT },
        { "{\"max_token_len\": 4097}", "max_token_len is 4097, expected 1 to 4096", PI0_E_MODEL },
        { "{\"max_token_len\": \"48\"}", "is a string, expected an integer", PI0_E_FORMAT },
        { "{\"action_horizon\": -1}", "action_horizon is -1", PI0_E_MODEL },
        { "{\"num_steps\": 0}", "num_steps is 0, expected 1 to 1000", PI0_E_MODEL },
        { "{\"out_dim\": 0}", "out_dim is 0", PI0_E_MODEL },
        { "{\"delta_mask\": true}", "delta_mask is a boolean", PI0_E_FORMAT },
        { "{\"delta_mask\": [true, 1]}", "delta_mask[] is an integer", PI0_E_FORMAT },
        { "{\"asset_id\": \"../x\"}", "asset_id is \"../x\"", PI0_E_FORMAT },
        { "{\"asset_id\": \"a/../b\"}", "expected a path below assets/", PI0_E_FORMAT },
        { "{\"asset_id\": \"/etc\"}", "expected a path below assets/", PI0_E_FORMAT },
        { "{\"adapt_to_pi\": 1}", "adapt_to_pi is an integer, expected true or false",
          PI0_E_FORMAT },
        { "{\"cameras\": []}", "cameras is empty", PI0_E_FORMAT },
        { "{\"cameras\": \"x\"}", "cameras is a string", PI0_E_FORMAT },
        { "{\"cameras\": [\"a\", \"a\"]}", "camera \"a\" stands twice", PI0_E_FORMAT },
        { "{\"cameras\": [\"\"]}", "camera name of 0 bytes", PI0_E_FORMAT },
        { "{\"cameras\": [3]}", "cameras[] is an integer", PI0_E_FORMAT },
        { "{\"cameras\": [\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\"]}",
          "more than 8 cameras", PI0_E_MODEL },
        { "{\"robot\": \"aloha\", \"robot\": \"droid\"}", "pi0.json: line 1: duplicate",
          PI0_E_FORMAT },
        { "[]", "pi0.json: is an array, expected an object", PI0_E_FORMAT },
        { "{\"robot\": ", "pi0.json: line 1", PI0_E_FORMAT },
        { "", "pi0.json: line 1", PI0_E_FORMAT },
    };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++)
        expect_bad(t[i].status, NULL, t[i].json, NULL, t[i].why);
    expect_bad(PI0_E_FORMAT, "\xff{}", NULL, NULL, "config.json: line 1");
    expect_unfinished(NULL, "{\"out_dim\": 33}", NULL, "pi0", "out_dim 33");
}

/* Strings and masks at their limit, and one past it. */
static void string_limits(void **state)
{
    (void)state;
    char json[2048], prompt[CONFIG_PROMPT_BYTES + 1];
    memset(prompt, 'x', sizeof prompt);
    prompt[CONFIG_PROMPT_BYTES - 1] = 0;
    snprintf(json, sizeof json, "{\"default_prompt\": \"%s\"}", prompt);
    struct config c = parse(NULL, json, NULL);
    assert_string_equal(c.train.default_prompt, prompt);
    config_free(&c);
    snprintf(json, sizeof json, "{\"default_prompt\": \"%sx\"}", prompt);
    expect_bad(PI0_E_FORMAT, NULL, json, NULL,
               "default_prompt has 512 bytes, expected at most "
               "511");
    prompt[CONFIG_NAME_BYTES - 1] = 0;
    snprintf(json, sizeof json, "{\"cameras\": [\"%s\"]}", prompt);
    c = parse(NULL, json, NULL);
    assert_string_equal(c.camera_names[0], prompt);
    config_free(&c);
    snprintf(json, sizeof json, "{\"cameras\": [\"%sx\"]}", prompt);
    expect_bad(PI0_E_FORMAT, NULL, json, NULL, "camera name of 64 bytes");
    for (int n = CONFIG_MAX_MASK; n <= CONFIG_MAX_MASK + 1; n++) {
        size_t at = (size_t)snprintf(json, sizeof json, "{\"delta_mask\": [");
        for (int i = 0; i < n; i++)
            at += (size_t)snprintf(json + at, sizeof json - at, "%strue", i ? "," : "");
        snprintf(json + at, sizeof json - at, "]}");
        if (n == CONFIG_MAX_MASK) {
            c = parse(NULL, json, NULL);
            assert_int_equal(c.train.n_delta_mask, n);
            config_free(&c);
        } else {
            expect_bad(PI0_E_FORMAT, NULL, json, NULL, "delta_mask has 65 entries");
        }
    }
}

/* ---------------------------------------------------------------- ranges */

static void expect_out_of_range(struct pi0_dims d, const char *why)
{
    struct pi0_error err = { 0 };
    assert_int_equal(config_check(&d, &err), PI0_E_MODEL);
    if (!strstr(err.message, why))
        fail_msg("\"%s\", expected \"%s\"", err.message, why);
}

static void ranges(void **state)
{
    (void)state;
#define F(f, max)                             \
    {                                         \
        offsetof(struct pi0_dims, f), #f, max \
    }
    static const struct {
        size_t offset;
        const char *name;
        int max;
    } t[] = { F(image_size, CONFIG_MAX_IMAGE),
              F(patch_size, CONFIG_MAX_IMAGE),
              F(n_cameras, PI0_MAX_CAMERAS),
              F(vision_width, CONFIG_MAX_WIDTH),
              F(vision_depth, CONFIG_MAX_DEPTH),
              F(vision_mlp_dim, CONFIG_MAX_MLP),
              F(vision_heads, CONFIG_MAX_HEADS),
              F(vlm_width, CONFIG_MAX_WIDTH),
              F(vlm_mlp_dim, CONFIG_MAX_MLP),
              F(vocab_size, CONFIG_MAX_VOCAB),
              F(expert_width, CONFIG_MAX_WIDTH),
              F(expert_mlp_dim, CONFIG_MAX_MLP),
              F(depth, CONFIG_MAX_DEPTH),
              F(heads, CONFIG_MAX_HEADS),
              F(kv_heads, 1),
              F(head_dim, CONFIG_MAX_HEAD_DIM),
              F(action_dim, CONFIG_MAX_ACTION_DIM),
              F(action_horizon, CONFIG_MAX_HORIZON),
              F(max_token_len, CONFIG_MAX_TOKEN_LEN) };
    struct pi0_dims good, d;
    assert_int_equal(pi0_dims_named(&good, "pi0", NULL), PI0_OK);
    assert_int_equal(config_check(&good, NULL), PI0_OK);
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        int v;
        const int bad[] = { 0, -1, t[i].max + 1, INT32_MIN, INT32_MAX };
        for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
            d = good;
            memcpy((char *)&d + t[i].offset, &bad[k], sizeof v);
            expect_out_of_range(d, t[i].name);
        }
    }
    d = good;
    d.vocab_size = CONFIG_MAX_VOCAB;
    d.vlm_mlp_dim = CONFIG_MAX_MLP;
    d.action_horizon = CONFIG_MAX_HORIZON;
    d.max_token_len = CONFIG_MAX_TOKEN_LEN;
    d.n_cameras = PI0_MAX_CAMERAS;
    assert_int_equal(config_check(&d, NULL), PI0_OK);
}

static void consistency(void **state)
{
    (void)state;
    struct pi0_dims good, d;
    assert_int_equal(pi0_dims_named(&good, "pi0", NULL), PI0_OK);
    d = good;
    d.patch_size = 15;
    expect_out_of_range(d, "image_size 224 is not a multiple of patch_size 15");
    d = good;
    d.image_size = 130;
    d.patch_size = 2;
    expect_out_of_range(d, "65 x 65 patches");
    d.image_size = 128;
    assert_int_equal(config_check(&d, NULL), PI0_OK);
    d = good;
    d.vision_heads = 7;
    expect_out_of_range(d, "not a multiple of vision_heads 7");
    d = good;
    d.head_dim = 255;
    expect_out_of_range(d, "head_dim 255");
    d = good;
    d.expert_width = 1023;
    expect_out_of_range(d, "expert_width 1023");
    d.expert_width = 2;
    expect_out_of_range(d, "expert_width 2, expected 4");
    d = good;
    d.heads = 33;
    d.head_dim = 1000;
    expect_out_of_range(d, "33 heads of 1000");
    d = good;
    int other = 2;
    memcpy(&d.variant, &other, sizeof other);
    expect_out_of_range(d, "variant 2");
}

/* ---------------------------------------------------------------- files */

static void files(void **state)
{
    (void)state;
    char dir[] = "/tmp/pi0_config_XXXXXX", path[64];
    struct config c;
    struct pi0_error err;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(config_load(&c, dir, NULL, &err), PI0_OK); /* neither file */
    assert_int_equal(c.num_steps, 10);
    config_free(&c);
    snprintf(path, sizeof path, "%s/pi0.json", dir);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"preset\": \"pi0_libero\"}", f);
    fclose(f);
    assert_int_equal(config_load(&c, dir, NULL, &err), PI0_OK);
    assert_string_equal(c.train.name, "pi0_libero");
    config_free(&c);
    assert_int_equal(truncate(path, ((off_t)16 << 20) + 1), 0);
    assert_int_equal(config_load(&c, dir, NULL, &err), PI0_E_FORMAT);
    assert_non_null(strstr(err.message, "pi0.json"));
    config_free(&c);
    assert_int_equal(truncate(path, 0), 0); /* an empty file is not an absent one */
    assert_int_equal(config_load(&c, dir, NULL, &err), PI0_E_FORMAT);
    config_free(&c);
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(config_load(&c, dir, NULL, &err), PI0_E_IO);
    config_free(&c);
    rmdir(path);
    rmdir(dir);
}

/* ---------------------------------------------------------------- memory */

static long allocations_left;

static void *scarce_malloc(size_t n) { return allocations_left-- > 0 ? malloc(n) : NULL; }

/* Whichever allocation of the JSON reader fails: an error and no leak. */
static void no_memory(void **state)
{
    (void)state;
    pi0_status st = PI0_E_NOMEM;
    long n = 0;
    json_set_alloc_funcs(scarce_malloc, free);
    for (; st != PI0_OK && n < 10000; n++) {
        struct config c;
        struct pi0_error err = { 0 };
        allocations_left = n;
        st = config_parse(&c, text(LEROBOT("")), text("{\"robot\": \"aloha\"}"), NULL, &err);
        assert_true(st == PI0_OK || st == PI0_E_NOMEM || st == PI0_E_FORMAT);
        config_free(&c);
    }
    json_set_alloc_funcs(malloc, free);
    assert_int_equal(st, PI0_OK);
    assert_true(n > 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_said),  cmocka_unit_test(converter),
        cmocka_unit_test(explicit_dims), cmocka_unit_test(lerobot),
        cmocka_unit_test(presets),       cmocka_unit_test(preset_faults),
        cmocka_unit_test(who_wins),      cmocka_unit_test(every_field),
        cmocka_unit_test(field_faults),  cmocka_unit_test(string_limits),
        cmocka_unit_test(ranges),        cmocka_unit_test(consistency),
        cmocka_unit_test(files),         cmocka_unit_test(no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
