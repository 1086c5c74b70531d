/* SPDX-License-Identifier: Apache-2.0
 * Robots: openpi's own transforms (30 recorded observations) step for step, worked examples, camera
 * names, and models that are too small. */
#include "policy/stats.h"
#include "policy/transform.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define A 32

static int read_numbers(double *out, const json_t *list)
{
    size_t i;
    json_t *v;
    json_array_foreach(list, i, v) out[i] = json_number_value(v);
    return (int)json_array_size(list);
}

/* The bar is 1e-9 relative; what is reached is every bit, but for ALOHA's arcsine. */
static void same(double got, double want, int exact, const char *what, size_t record)
{
    double bound = exact ? 0 : 1e-14 * fmax(1.0, fabs(want));
    if (!(fabs(got - want) <= bound))
        fail_msg("record %zu, %s: %.17g, expected %.17g", record, what, got, want);
}

/* The record's robot, as config files would describe it. */
static void record_config(struct config *c, const json_t *r)
{
    static const struct {
        const char *name;
        enum robot robot;
        int adapt, out_dim;
    } robots[] = { { "libero", ROBOT_LIBERO, 0, 7 },
                   { "libero_delta", ROBOT_LIBERO, 0, 7 },
                   { "droid", ROBOT_DROID, 0, 8 },
                   { "aloha", ROBOT_ALOHA, 1, 14 },
                   { "aloha_sim_noadapt_1cam", ROBOT_ALOHA, 0, 14 } };
    const char *name = json_string_value(json_object_get(r, "robot"));
    memset(c, 0, sizeof *c);
    c->dims.action_dim = A;
    c->dims.n_cameras = 3;
    for (int i = 0; i < 3; i++)
        strcpy(c->camera_names[i],
               ((const char *[]){ "base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb" })[i]);
    for (size_t i = 0; i < sizeof robots / sizeof robots[0]; i++)
        if (strcmp(robots[i].name, name) == 0) {
            c->train.robot = robots[i].robot;
            c->train.adapt_to_pi = robots[i].adapt;
            c->train.out_dim = robots[i].out_dim;
        }
    c->train.norm = json_is_true(json_object_get(r, "quantile")) ? NORM_QUANTILE : NORM_ZSCORE;
    const json_t *mask = json_object_get(r, "delta_mask");
    c->train.n_delta_mask = (int)json_array_size(mask);
    for (int i = 0; i < c->train.n_delta_mask; i++)
        c->train.delta_mask[i] = (signed char)json_is_true(json_array_get(mask, (size_t)i));
}

static int record_state(double *state, const json_t *r)
{
    const json_t *in = json_object_get(r, "input");
    const json_t *whole = json_object_get(in, "state");
    if (!whole)
        whole = json_object_get(in, "observation/state");
    if (whole)
        return read_numbers(state, whole);
    int n = read_numbers(state, json_object_get(in, "observation/joint_position"));
    return n + read_numbers(state + n, json_object_get(in, "observation/gripper_position"));
}

static void check_record(const json_t *r, size_t i)
{
    struct config c;
    struct transform *t = calloc(1, sizeof *t);
    double state[A] = { 0 }, normalized[A], base[A], scratch[A], out[A], want[A];
    struct pi0_error err = { PI0_OK, "" };
    assert_non_null(t);
    record_config(&c, r);
    t->action_dim = A;
    assert_int_equal(robot_open(&t->map, c.train.robot, &c, &err), PI0_OK);
    json_t *wrapped = json_pack("{s:O}", "norm_stats", json_object_get(r, "norm_stats"));
    char *text = json_dumps(wrapped, JSON_REAL_PRECISION(17));
    json_decref(wrapped);
    assert_int_equal(stats_parse(&t->stats, text, strlen(text), c.train.norm, "record", &err),
                     PI0_OK);
    free(text);
    assert_int_equal(transform_check(t, "record", &err), PI0_OK);

    int exact = !t->map.adapt_to_pi, n = record_state(state, r);
    assert_int_equal(n, t->map.state_dim);
    transform_state(t, state, n, normalized, base);
    assert_int_equal(read_numbers(want, json_object_get(r, "state_normalized_padded32")), A);
    for (int k = 0; k < A; k++)
        same(normalized[k], want[k], exact, "normalised state", i);
    assert_int_equal(read_numbers(want, json_object_get(r, "state_unnormalized")), A);
    for (int k = 0; k < A; k++)
        same(base[k], want[k], exact, "un-normalised state", i);

    const json_t *model = json_object_get(r, "model_actions"),
                 *outs = json_object_get(r, "actions_out");
    assert_int_equal(json_array_size(model), json_array_size(outs));
    for (size_t row = 0; row < json_array_size(model); row++) {
        double m[A];
        float f[A];
        assert_int_equal(read_numbers(m, json_array_get(model, row)), A);
        for (int k = 0; k < A; k++)
            f[k] = (float)m[k];
        transform_action(t, f, base, scratch, out);
        assert_int_equal(read_numbers(want, json_array_get(outs, row)), t->map.action_dim);
        for (int k = 0; k < t->map.action_dim; k++)
            same(out[k], want[k], exact, "action", i);
    }
    free(t);
}

static void transforms_equal_openpi(void **state)
{
    (void)state;
    json_t *records = json_load_file("tests/golden/pipeline/transforms.json", 0, NULL), *r;
    assert_int_equal(json_array_size(records), 30);
    size_t i;
    json_array_foreach(records, i, r) check_record(r, i);
    json_decref(records);
}

static void base_config(struct config *c, int a, int cameras)
{
    memset(c, 0, sizeof *c);
    c->dims.action_dim = a;
    c->dims.n_cameras = cameras;
    strcpy(c->camera_names[0], "base_0_rgb");
    strcpy(c->camera_names[1], "left_wrist_0_rgb");
    strcpy(c->camera_names[2], "right_wrist_0_rgb");
}

static void aloha_grippers(void **state)
{
    (void)state;
    static const double in[][2] = { { 0, -1.079865548 },
                                    { 0.25, -0.513077607 },
                                    { 0.5, -0.140055922 },
                                    { 0.75, 0.223327580 },
                                    { 1, 0.945652797 } };
    static const double back[][2] = { { 0, 0.553377835 },
                                      { 0.5, 0.790086635 },
                                      { 1, 1.026795436 } };
    struct config c;
    struct robot_map m;
    base_config(&c, A, 3);
    assert_int_equal(robot_open(&m, ROBOT_ALOHA, &c, NULL), PI0_OK);
    assert_int_equal(m.adapt_to_pi, 1); /* the default where no train config is about ALOHA */
    for (size_t i = 0; i < sizeof in / sizeof in[0]; i++) {
        double s[14] = { 1, 1, 1, 1, 1, 1, in[i][0], 1, 1, 1, 1, 1, 1, in[i][0] };
        robot_encode_state(&m, s, 14);
        assert_true(fabs(s[6] - in[i][1]) < 1e-9 && fabs(s[13] - in[i][1]) < 1e-9);
        assert_true(s[0] == 1 && s[1] == -1 && s[2] == -1 && s[3] == 1 && s[8] == -1 && s[9] == -1);
    }
    for (size_t i = 0; i < sizeof back / sizeof back[0]; i++) {
        double a[A] = { 1, 1, 1, 1, 1, 1, back[i][0], 1, 1, 1, 1, 1, 1, back[i][0], 5 },
               s[A] = { 0 };
        robot_decode_action(&m, a, s);
        assert_true(fabs(a[6] - back[i][1]) < 1e-9 && fabs(a[13] - back[i][1]) < 1e-9);
        assert_true(a[0] == 1 && a[1] == -1 && a[9] == -1 && a[14] == 5);
    }
}

static void camera_names(void **state)
{
    (void)state;
    struct config c;
    struct robot_map m;
    char list[300];
    base_config(&c, A, 3);
    assert_int_equal(robot_open(&m, ROBOT_ALOHA, &c, NULL), PI0_OK);
    assert_int_equal(robot_slot(&m, "cam_high"), 0);
    assert_int_equal(robot_slot(&m, "base_0_rgb"), 0);
    assert_int_equal(robot_slot(&m, "cam_left_wrist"), 1);
    assert_int_equal(robot_slot(&m, "cam_right_wrist"), 2);
    assert_int_equal(robot_slot(&m, "cam_low"), ROBOT_CAMERA_IGNORED);
    assert_int_equal(robot_slot(&m, "cam_middle"), ROBOT_CAMERA_UNKNOWN);
    assert_int_equal(robot_slot(&m, ""), ROBOT_CAMERA_UNKNOWN);
    robot_required_list(&m, list, sizeof list);
    assert_string_equal(list, "base_0_rgb (cam_high)");
    robot_camera_list(&m, list, sizeof list);
    assert_string_equal(list, "base_0_rgb, left_wrist_0_rgb, right_wrist_0_rgb, cam_high, "
                              "cam_left_wrist, cam_right_wrist, cam_low");
    robot_camera_list(&m, list, 8); /* cut, terminated */
    assert_string_equal(list, "base_0_");

    assert_int_equal(robot_open(&m, ROBOT_DROID, &c, NULL), PI0_OK);
    assert_int_equal(robot_slot(&m, "observation/exterior_image_1_left"), 0);
    assert_int_equal(robot_slot(&m, "observation/wrist_image_left"), 1);
    assert_int_equal(m.cameras[0].required + m.cameras[1].required + m.cameras[2].required, 2);
    assert_int_equal(robot_open(&m, ROBOT_LIBERO, &c, NULL), PI0_OK);
    assert_int_equal(robot_slot(&m, "observation/image"), 0);
    assert_int_equal(robot_slot(&m, "observation/wrist_image"), 1);
    assert_int_equal(robot_slot(&m, "cam_low"), ROBOT_CAMERA_UNKNOWN);
    assert_int_equal(robot_open(&m, ROBOT_NONE, &c, NULL), PI0_OK);
    assert_int_equal(robot_slot(&m, "right_wrist_0_rgb"), 2);
    assert_int_equal(robot_slot(&m, ""), ROBOT_CAMERA_UNKNOWN);
    robot_required_list(&m, list, sizeof list);
    assert_string_equal(list, "");
}

static void dims_of_robots(void **state)
{
    (void)state;
    struct config c;
    struct robot_map m;
    struct pi0_error err;
    base_config(&c, A, 3);
    assert_int_equal(robot_open(&m, ROBOT_NONE, &c, NULL), PI0_OK);
    assert_int_equal(m.action_dim, A); /* all of them */
    assert_int_equal(m.state_dim, 0);
    c.train.out_dim = 9;
    assert_int_equal(robot_open(&m, ROBOT_NONE, &c, NULL), PI0_OK);
    assert_int_equal(m.action_dim, 9);
    assert_int_equal(robot_open(&m, ROBOT_LIBERO, &c, NULL), PI0_OK);
    assert_int_equal(m.action_dim, 7); /* the train config is not about LIBERO */

    base_config(&c, 8, 3);
    assert_int_equal(robot_open(&m, ROBOT_LIBERO, &c, NULL), PI0_OK);
    assert_int_equal(robot_open(&m, ROBOT_ALOHA, &c, &err), PI0_E_MODEL);
    assert_string_equal(err.message,
                        "robot aloha has 14 state numbers, this model has 8 state dims");
    base_config(&c, A, 1);
    assert_int_equal(robot_open(&m, ROBOT_ALOHA, &c, NULL), PI0_OK);
    assert_int_equal(robot_open(&m, ROBOT_DROID, &c, &err), PI0_E_MODEL);
    assert_string_equal(err.message, "robot droid has 2 required cameras, this model has 1 slots");
    base_config(&c, 4, 3);
    c.train.n_delta_mask = 5;
    assert_int_equal(robot_open(&m, ROBOT_NONE, &c, &err), PI0_E_MODEL);
    assert_non_null(strstr(err.message, "5 entries in its delta mask, this model has 4"));
}

static void names(void **state)
{
    (void)state;
    enum robot r = ROBOT_NONE;
    struct pi0_error err;
    static const char *const all[] = { "none", "aloha", "droid", "libero" };
    for (int i = 0; i < 4; i++) {
        assert_int_equal(robot_named(&r, all[i], NULL), PI0_OK);
        assert_string_equal(robot_name(r), all[i]);
    }
    assert_int_equal(robot_named(&r, "ur5e", &err), PI0_E_ARGUMENT);
    assert_string_equal(err.message, "robot \"ur5e\", expected aloha, droid, libero or none");
}

/* Relative dims take the state, others and those past the mask do not. */
static void relative_actions(void **state)
{
    (void)state;
    struct config c;
    struct robot_map m;
    base_config(&c, 5, 3);
    c.train.n_delta_mask = 3;
    c.train.delta_mask[0] = c.train.delta_mask[2] = 1;
    assert_int_equal(robot_open(&m, ROBOT_NONE, &c, NULL), PI0_OK);
    double a[5] = { 1, 2, 3, 4, 5 }, s[5] = { 10, 20, 30, 40, 50 };
    static const double want[5] = { 11, 2, 33, 4, 5 };
    robot_decode_action(&m, a, s);
    assert_memory_equal(a, want, sizeof a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transforms_equal_openpi),
        cmocka_unit_test(aloha_grippers),
        cmocka_unit_test(camera_names),
        cmocka_unit_test(dims_of_robots),
        cmocka_unit_test(names),
        cmocka_unit_test(relative_actions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
