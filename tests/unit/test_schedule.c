/* SPDX-License-Identifier: Apache-2.0
 * Times of the Euler loop and their sinusoidal embedding, against the worked examples of
 * docs/model.md (values of openpi's PyTorch code). */
#include "model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

static void ten_steps(void **state)
{
    (void)state;
    static const float want[10] = { 1,
                                    0.899999976f,
                                    0.799999952f,
                                    0.699999928f,
                                    0.599999905f,
                                    0.499999911f,
                                    0.399999917f,
                                    0.299999923f,
                                    0.199999928f,
                                    0.099999927f };
    float t[10];
    schedule_times(10, SCHEDULE_ACCUMULATED, t);
    for (int k = 0; k < 10; k++)
        assert_true(t[k] == want[k]);
}

static void ten_direct_steps(void **state)
{
    (void)state;
    static const float want[10] = { 1,    0.899999976f, 0.800000012f, 0.699999988f, 0.600000024f,
                                    0.5f, 0.400000006f, 0.300000012f, 0.200000003f, 0.100000001f };
    float t[10];
    schedule_times(10, SCHEDULE_DIRECT, t);
    for (int k = 0; k < 10; k++)
        assert_true(t[k] == want[k]);
}

/* Whose rounding a model gets. */
static void form_of_a_model(void **state)
{
    (void)state;
    struct pi0_model m = { .config = { .source = PI0_SOURCE_OPENPI } };
    assert_int_equal(model_schedule(&m), SCHEDULE_ACCUMULATED);
    m.config.said.dims.vision_width = 96; /* explicit dimensions: a golden case */
    assert_int_equal(model_schedule(&m), SCHEDULE_DIRECT);
    m = (struct pi0_model){ .config = { .source = PI0_SOURCE_LEROBOT } };
    assert_int_equal(model_schedule(&m), SCHEDULE_DIRECT);
    m.config.source = PI0_SOURCE_SYNTHETIC;
    assert_int_equal(model_schedule(&m), SCHEDULE_DIRECT);
}

/* openpi runs while t >= -dt/2. That is n iterations for every n a call may ask for. */
static void exactly_n_steps(void **state)
{
    (void)state;
    float t[1000];
    for (int n = 1; n <= 1000; n++) {
        float dt = (float)(-1.0 / n);
        schedule_times(n, SCHEDULE_ACCUMULATED, t);
        for (int k = 0; k < n; k++) {
            assert_true(t[k] >= -dt / 2);
            assert_true(fabs((double)t[k] - (1.0 - (double)k / n)) < 2e-5);
        }
        assert_true(t[n - 1] + dt < -dt / 2);
    }
}

static void expect_sinusoid(float t, const float want[8])
{
    float emb[8];
    schedule_sinusoid(t, 8, emb);
    for (int i = 0; i < 8; i++)
        if (fabsf(emb[i] - want[i]) > 2e-7f) /* printed with seven digits */
            fail_msg("t %g: emb[%d] is %.9g, expected %.9g", (double)t, i, (double)emb[i],
                     (double)want[i]);
}

static void worked_example(void **state)
{
    (void)state;
    expect_sinusoid(0.5f, (const float[8]){ 0, 0, 1, 0.7071068f, 1, -1, 0, 0.7071068f });
}

/* t = 0.3 is no float32: the phases of the short periods shift by up to 1.9e-5 rad. */
static void unrounded_time(void **state)
{
    (void)state;
    const double pi = 3.14159265358979323846, t = (double)0.3f;
    float emb[8];
    schedule_sinusoid(0.3f, 8, emb);
    const double period[4] = { 0.004, 0.04, 0.4, 4 };
    for (int i = 0; i < 4; i++) {
        assert_true(fabs((double)emb[i] - sin(2 * pi * t / period[i])) < 1e-7);
        assert_true(fabs((double)emb[4 + i] - cos(2 * pi * t / period[i])) < 1e-7);
    }
    const float rounded[8] = { 0, 0, -1, 0.4539905f, 1, -1, 0, 0.8910065f };
    for (int i = 0; i < 8; i++)
        assert_true(fabsf(emb[i] - rounded[i]) < 3e-5f);
    assert_true(fabsf(emb[0]) > 1e-5f); /* an embedding of the double 0.3 would be 0 here */
}

static void full_width(void **state)
{
    (void)state;
    float emb[1024];
    schedule_sinusoid(1.0f, 1024, emb);
    for (int i = 0; i < 512; i++)
        assert_true(fabsf(emb[i] * emb[i] + emb[512 + i] * emb[512 + i] - 1) < 1e-6f);
    assert_true(fabsf(emb[0]) < 1e-6f);       /* period 0.004: 250 turns */
    assert_true(fabsf(emb[511] - 1) < 1e-6f); /* period 4: a quarter turn */
    assert_true(fabsf(emb[512 + 511]) < 1e-6f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ten_steps),       cmocka_unit_test(ten_direct_steps),
        cmocka_unit_test(form_of_a_model), cmocka_unit_test(exactly_n_steps),
        cmocka_unit_test(worked_example),  cmocka_unit_test(unrounded_time),
        cmocka_unit_test(full_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
