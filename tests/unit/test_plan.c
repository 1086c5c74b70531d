/* SPDX-License-Identifier: Apache-2.0
 * The plan: shapes and limits, the layout of a sample with masked cameras and ragged prompts, every
 * way an input can be refused, and the work of the named workloads. */
#include "model/plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

/* What pi0_engine_defaults gives, as far as a plan reads it. */
static struct pi0_engine_config defaults(void)
{
    return (struct pi0_engine_config){ .max_batch = 1, .max_steps = 10 };
}

static struct plan plan_of(const char *name, const struct pi0_engine_config *cfg)
{
    struct pi0_dims d;
    struct plan p;
    struct pi0_error err;
    assert_int_equal(pi0_dims_named(&d, name, &err), PI0_OK);
    if (plan_make(&p, &d, cfg, &err))
        fail_msg("%s", err.message);
    return p;
}

/* ---------------------------------------------------------------- shapes */

static void shapes(void **state)
{
    (void)state;
    struct pi0_engine_config cfg = defaults();
    struct plan p = plan_of("pi0", &cfg);
    assert_int_equal(p.tokens_per_camera, 256);
    assert_int_equal(p.patch_dim, 588);
    assert_int_equal(p.n_suffix, 51);
    assert_int_equal(p.max_prefix, 3 * 256 + 48);
    assert_int_equal(p.max_keys, 816 + 51);
    assert_int_equal(p.q_dim, 2048);
    assert_int_equal(plan_tap_size(&p, PI0_TAP_PREFIX_EMBS), 816 * 2048);
    assert_int_equal(plan_tap_size(&p, PI0_TAP_PREFIX_K), 816 * 256);
    assert_int_equal(plan_tap_size(&p, PI0_TAP_PREFIX_V), 816 * 256);
    assert_int_equal(plan_tap_size(&p, PI0_TAP_SUFFIX_EMBS), 51 * 1024);
    assert_int_equal(plan_tap_size(&p, PI0_TAP_ADARMS_COND), 0);
    assert_int_equal(plan_tap_size(&p, PI0_TAP_V), 50 * 32);
    assert_int_equal(plan_tap_size(&p, PI0_TAP_X), 50 * 32);

    cfg.action_horizon = 10;
    cfg.max_token_len = 77;
    p = plan_of("pi05", &cfg);
    assert_int_equal(p.n_suffix, 10);
    assert_int_equal(p.max_prefix, 3 * 256 + 77);
    assert_int_equal(p.dims.action_horizon, 10);
    assert_int_equal(plan_tap_size(&p, PI0_TAP_SUFFIX_EMBS), 10 * 1024);
    assert_int_equal(plan_tap_size(&p, PI0_TAP_ADARMS_COND), 1024);
}

static void expect_no_plan(const struct pi0_engine_config *cfg, const char *why)
{
    struct pi0_dims d;
    struct plan p;
    struct pi0_error err;
    assert_int_equal(pi0_dims_named(&d, "pi0_tiny", &err), PI0_OK);
    assert_int_equal(plan_make(&p, &d, cfg, &err), PI0_E_ARGUMENT);
    if (!strstr(err.message, why))
        fail_msg("message \"%s\", expected \"%s\"", err.message, why);
}

static void limits(void **state)
{
    (void)state;
    static const struct {
        size_t offset;
        const char *name;
        int min, max;
    } l[] = { { offsetof(struct pi0_engine_config, max_batch), "max_batch", 1, 1024 },
              { offsetof(struct pi0_engine_config, max_steps), "max_steps", 1, 1000 },
              { offsetof(struct pi0_engine_config, action_horizon), "action_horizon", 0, 1024 },
              { offsetof(struct pi0_engine_config, max_token_len), "max_token_len", 0, 4096 } };
    for (size_t i = 0; i < sizeof l / sizeof l[0]; i++) {
        struct pi0_engine_config cfg = defaults();
        int *field = (int *)(void *)((char *)&cfg + l[i].offset);
        *field = l[i].min;
        plan_of("pi0_tiny", &cfg);
        *field = l[i].max;
        plan_of("pi0_tiny", &cfg);
        *field = l[i].min - 1;
        expect_no_plan(&cfg, l[i].name);
        *field = l[i].max + 1;
        expect_no_plan(&cfg, l[i].name);
    }
    struct pi0_engine_config cfg = defaults();
    int other = 2;
    memcpy(&cfg.masked_cameras, &other, sizeof other);
    expect_no_plan(&cfg, "masked_cameras 2");
}

/* ---------------------------------------------------------------- a sample */

static uint8_t image[3][4], black[4];
static float state8[8], noise48[48];
static int32_t ids[12];

static struct pi0_input good_input(void)
{
    struct pi0_input in = { .pixels = { image[0], image[1], image[2] },
                            .camera_mask = { 1, 1, 1 },
                            .tokens = ids,
                            .n_tokens = 9,
                            .state = state8,
                            .noise = noise48 };
    for (int i = 0; i < 12; i++)
        ids[i] = 100 + i;
    return in;
}

static struct sample lay_out(const struct plan *p, const struct pi0_input *in, int32_t *tokens)
{
    struct sample s;
    struct pi0_error err;
    if (plan_sample(p, in, 0, tokens, black, &s, &err))
        fail_msg("%s", err.message);
    return s;
}

static void all_cameras(void **state)
{
    (void)state;
    struct pi0_engine_config cfg = defaults();
    struct plan p = plan_of("pi0_tiny", &cfg);
    struct pi0_input in = good_input();
    int32_t tokens[12];
    struct sample s = lay_out(&p, &in, tokens);
    assert_int_equal(s.n_images, 3);
    assert_int_equal(s.n_valid_images, 3);
    assert_int_equal(s.n_tokens, 9);
    assert_int_equal(s.n_valid, 3 * 16 + 9);
    assert_int_equal(s.n_rows, 3 * 16 + 9);
    assert_ptr_equal(s.tokens, tokens);
    assert_memory_equal(tokens, ids, 9 * sizeof *ids);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(s.camera[i], i);
        assert_ptr_equal(s.pixels[i], image[i]);
        assert_int_equal(sample_image_row(&p, &s, i), 16 * i);
    }
    assert_ptr_equal(s.state, state8);
    assert_ptr_equal(s.noise, noise48);
}

/* A masked first camera leaves the plan; with MASKED_COMPUTE it goes behind the prompt. */
static void masked_cameras(void **state)
{
    (void)state;
    struct pi0_engine_config cfg = defaults();
    struct plan p = plan_of("pi0_tiny", &cfg);
    struct pi0_input in = good_input();
    int32_t tokens[12];
    in.camera_mask[0] = 0;
    in.pixels[0] = NULL;
    struct sample s = lay_out(&p, &in, tokens);
    assert_int_equal(s.n_images, 2);
    assert_int_equal(s.camera[0], 1);
    assert_int_equal(s.camera[1], 2);
    assert_ptr_equal(s.pixels[0], image[1]);
    assert_int_equal(s.n_rows, 2 * 16 + 9);

    cfg.masked_cameras = PI0_MASKED_COMPUTE;
    p = plan_of("pi0_tiny", &cfg);
    s = lay_out(&p, &in, tokens);
    assert_int_equal(s.n_images, 3);
    assert_int_equal(s.n_valid_images, 2);
    assert_int_equal(s.camera[2], 0);
    assert_ptr_equal(s.pixels[2], black);
    assert_int_equal(s.n_valid, 2 * 16 + 9);
    assert_int_equal(s.n_rows, 3 * 16 + 9);
    assert_int_equal(sample_image_row(&p, &s, 0), 0);
    assert_int_equal(sample_image_row(&p, &s, 1), 16);
    assert_int_equal(sample_image_row(&p, &s, 2), 2 * 16 + 9);

    in.pixels[0] = image[0]; /* given pixels of a masked camera are used */
    s = lay_out(&p, &in, tokens);
    assert_ptr_equal(s.pixels[2], image[0]);
}

static void ragged_prompt(void **state)
{
    (void)state;
    struct pi0_engine_config cfg = defaults();
    struct plan p = plan_of("pi0_tiny", &cfg);
    struct pi0_input in = good_input();
    static const uint8_t mask[12] = { 1, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0 };
    int32_t tokens[12];
    in.token_mask = mask;
    in.n_tokens = 12;
    ids[1] = -5; /* under the padding anything goes */
    ids[11] = 1 << 30;
    struct sample s = lay_out(&p, &in, tokens);
    assert_int_equal(s.n_tokens, 4);
    assert_int_equal(tokens[0], 100);
    assert_int_equal(tokens[1], 102);
    assert_int_equal(tokens[2], 103);
    assert_int_equal(tokens[3], 106);
    assert_int_equal(s.n_valid, 3 * 16 + 4);

    in = good_input(); /* no prompt at all is a prefix of images */
    in.n_tokens = 0;
    in.tokens = NULL;
    s = lay_out(&p, &in, tokens);
    assert_int_equal(s.n_rows, 48);

    in = good_input(); /* and no image one of words */
    memset(in.camera_mask, 0, sizeof in.camera_mask);
    s = lay_out(&p, &in, tokens);
    assert_int_equal(s.n_images, 0);
    assert_int_equal(s.n_rows, 9);
}

static void pi05_needs_no_state(void **state)
{
    (void)state;
    struct pi0_engine_config cfg = defaults();
    struct plan p = plan_of("pi05_tiny", &cfg);
    struct pi0_input in = good_input();
    int32_t tokens[20];
    in.state = NULL;
    assert_null(lay_out(&p, &in, tokens).state);
    float nan8[8] = { NAN };
    in.state = nan8; /* not read */
    assert_null(lay_out(&p, &in, tokens).state);
}

static void expect_refused(const struct pi0_input *in, const char *why)
{
    struct pi0_engine_config cfg = defaults();
    struct plan p = plan_of("pi0_tiny", &cfg);
    struct sample s;
    struct pi0_error err = { 0 };
    int32_t tokens[12];
    assert_int_equal(plan_sample(&p, in, 3, tokens, black, &s, &err), PI0_E_INPUT);
    if (strncmp(err.message, "sample 3: ", 10) != 0 || !strstr(err.message, why))
        fail_msg("message \"%s\", expected \"sample 3: … %s\"", err.message, why);
    assert_int_equal(plan_sample(&p, in, 3, tokens, black, &s, NULL), PI0_E_INPUT);
}

static void refused(void **state)
{
    (void)state;
    float bad_state[8] = { 0, 0, 0, 0, 0, NAN }, bad_noise[48] = { 0 };
    struct pi0_input in = good_input();
    in.pixels[1] = NULL;
    expect_refused(&in, "camera 1 is valid but has no pixels");

    in = good_input();
    in.n_tokens = 13;
    expect_refused(&in, "13 tokens, expected 0 to 12");
    in.n_tokens = -1;
    expect_refused(&in, "-1 tokens");
    in = good_input();
    in.tokens = NULL;
    expect_refused(&in, "none given");
    in = good_input();
    ids[4] = 512;
    expect_refused(&in, "token 4 has id 512, expected 0 to 511");
    ids[4] = -1;
    expect_refused(&in, "token 4 has id -1");

    in = good_input();
    memset(in.camera_mask, 0, sizeof in.camera_mask);
    in.n_tokens = 0;
    expect_refused(&in, "no valid camera and no valid token");
    static const uint8_t none[12];
    in.n_tokens = 12;
    in.token_mask = none;
    expect_refused(&in, "no valid camera and no valid token");

    in = good_input();
    in.state = NULL;
    expect_refused(&in, "no state, expected 8");
    in.state = bad_state;
    expect_refused(&in, "state[5] is nan");
    bad_state[5] = -INFINITY;
    expect_refused(&in, "state[5] is -inf");

    in = good_input();
    in.noise = NULL;
    expect_refused(&in, "no noise, expected 6 x 8");
    in.noise = bad_noise;
    bad_noise[47] = INFINITY;
    expect_refused(&in, "noise[5][7] is inf");
}

/* ---------------------------------------------------------------- work */

static void close_to(double got, double want, double relative)
{
    if (fabs(got - want) > relative * want)
        fail_msg("%.6g, expected %.6g", got, want);
}

/* docs/model.md "Sizes and work": the figures there have two or three digits. */
static void work_of_pi0(void **state)
{
    (void)state;
    struct pi0_engine_config cfg = defaults();
    struct pi0_stage_work w[PI0_N_STAGES];
    cfg.action_horizon = 10;
    struct plan p = plan_of("pi0", &cfg);
    plan_work(&p, 1, 3, 20, 10, w); /* pi0-788 */
    assert_string_equal(w[0].name, "vision");
    assert_string_equal(w[1].name, "prefix");
    assert_string_equal(w[2].name, "denoise");
    assert_int_equal(w[0].n_rows, 768);
    assert_int_equal(w[1].n_rows, 788);
    assert_int_equal(w[2].n_rows, 10);
    close_to(w[0].flops, 0.66e12, 0.01);
    close_to(w[1].flops, 3.04e12, 0.005);
    close_to(w[0].weight_bytes, 0.82e9, 0.02);

    plan_work(&p, 1, 2, 20, 10, w); /* pi0-532 */
    assert_int_equal(w[1].n_rows, 532);
    close_to(w[0].flops, 0.44e12, 0.01);
    close_to(w[1].flops, 2.03e12, 0.005);
    close_to(w[2].flops, 0.071e12, 0.02);
    /* 622.9 MB of layers a step, and the heads: action in and out, both time matrices' action part */
    double heads = 10 * 2.0 * (2 * 32 * 1024 + 2 * 1024 * 1024) + 2.0 * 32 * 1024;
    close_to(w[2].weight_bytes - heads, 6.229e9, 0.0005);
    /* K and V of 533 keys, ten times, in bf16 */
    close_to(w[2].activation_bytes, 10 * 533 * 18432.0, 0.001);
}

static void work_scales(void **state)
{
    (void)state;
    struct pi0_engine_config cfg = defaults();
    struct pi0_stage_work one[PI0_N_STAGES], four[PI0_N_STAGES];
    struct plan p = plan_of("pi05", &cfg);
    plan_work(&p, 1, 3, 200, 10, one);
    plan_work(&p, 4, 3, 200, 10, four);
    for (int i = 0; i < PI0_N_STAGES; i++) {
        close_to(four[i].flops, 4 * one[i].flops, 1e-12);
        close_to(four[i].activation_bytes, 4 * one[i].activation_bytes, 1e-12);
        assert_int_equal(four[i].n_rows, 4 * one[i].n_rows);
    }
    close_to(four[2].weight_bytes, one[2].weight_bytes, 1e-12); /* each weight once */
    assert_int_equal(one[1].n_rows, 968);
    plan_work(&p, 1, 0, 200, 10, one);
    assert_true(one[0].flops == 0 && one[0].weight_bytes == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes),        cmocka_unit_test(limits),
        cmocka_unit_test(all_cameras),   cmocka_unit_test(masked_cameras),
        cmocka_unit_test(ragged_prompt), cmocka_unit_test(pi05_needs_no_state),
        cmocka_unit_test(refused),       cmocka_unit_test(work_of_pi0),
        cmocka_unit_test(work_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
