/* SPDX-License-Identifier: Apache-2.0
 * The executable specification against the worked examples of docs/model.md and against properties
 * that the formulas have. */
#include "ref/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

static void near(float got, float want, float bound)
{
    if (!(fabsf(got - want) <= bound))
        fail_msg("%.9g, expected %.9g within %g", (double)got, (double)want, (double)bound);
}

static void activations(void **state)
{
    (void)state;
    near(ref_gelu_tanh(-3), -0.0036374f, 1e-7f);
    near(ref_gelu_tanh(-1), -0.1588080f, 1e-7f);
    near(ref_gelu_tanh(0.5f), 0.3457140f, 1e-7f);
    near(ref_gelu_tanh(1), 0.8411920f, 1e-7f);
    near(ref_gelu_tanh(2), 1.9545977f, 2e-7f);
    assert_true(fabsf(ref_gelu_tanh(1) - 0.8413447f) > 1e-4f); /* erf's value */
    assert_true(ref_gelu_tanh(0) == 0.0f);
    near(ref_gelu_tanh(-40), 0, 1e-30f);
    near(ref_gelu_tanh(40), 40, 0);
    near(ref_silu(1), 0.7310586f, 1e-7f);
    near(ref_silu(-1), -0.2689414f, 1e-7f);
    assert_true(ref_silu(0) == 0.0f);
    near(ref_silu(-200), 0, 1e-30f);
    near(ref_silu(200), 200, 0);
}

static void linear(void **state)
{
    (void)state;
    const float x[] = { 1, 2, 3, -1, 0, 1 }, w[] = { 1, 0, 0, 1, 1, 1 }, b[] = { 10, 20 };
    float y[4];
    ref_linear(y, x, w, b, (struct ref_mnk){ 2, 2, 3 });
    assert_memory_equal(y, ((float[]){ 11, 26, 9, 20 }), sizeof y);
    ref_linear(y, x, w, NULL, (struct ref_mnk){ 2, 2, 3 });
    assert_memory_equal(y, ((float[]){ 1, 6, -1, 0 }), sizeof y);
}

static void norms(void **state)
{
    (void)state;
    const float x[] = { 1, 2, 3, 4 }, w[] = { 0.5f, 0, -0.5f, 1 };
    const float rms[] = { 0.5477225f, 0.7302967f, 0.5477225f, 2.9211868f };
    const float scale[] = { 0.1f, 0.1f, 0.1f, 0.1f }, shift[] = { .01f, .02f, .03f, .04f };
    const float ada[] = { 0.4116632f, 0.8233264f, 1.2349895f, 1.6466527f };
    float y[4];
    ref_rmsnorm(y, x, w, 1, 4);
    for (int i = 0; i < 4; i++)
        near(y[i], rms[i], 3e-7f);
    ref_adarms(y, x, scale, shift, 1, 4);
    for (int i = 0; i < 4; i++)
        near(y[i], ada[i], 3e-7f);

    const float one[] = { 1, 1, 1, 1 }, b[] = { 0, 0, 0, 7 };
    ref_layernorm(y, x, one, b, 1, 4); /* mean 2.5, variance 1.25 */
    for (int i = 0; i < 4; i++)
        near(y[i], (x[i] - 2.5f) / sqrtf(1.25f + 1e-6f) + b[i], 1e-6f);
    const float flat[] = { 3, 3, 3, 3 };
    ref_layernorm(y, flat, one, b, 1, 4);
    assert_memory_equal(y, b, sizeof y);
    const float zero[4] = { 0 };
    ref_rmsnorm(y, zero, w, 1, 4); /* eps inside the root: no 0/0 */
    assert_memory_equal(y, zero, sizeof y);
}

static void rope(void **state)
{
    (void)state;
    const float want[] = { -1.4133525f, 1.8791181f, -2.8288575f, 4.0581911f };
    float x[8] = { 1, 2, 3, 4, 1, 2, 3, 4 };
    const int pos[2] = { 3, 0 };
    ref_rope(x, pos, 2, 1, 4); /* f = [1, 0.01]: pairs (0, 2) and (1, 3) */
    for (int i = 0; i < 4; i++)
        near(x[i], want[i], 5e-7f);
    assert_memory_equal(x + 4, ((float[]){ 1, 2, 3, 4 }), 4 * sizeof *x); /* position 0 */

    float c[2], s[2];
    ref_rope_angles(3, 4, c, s);
    near(c[0], cosf(3), 1e-7f);
    near(s[1], sinf(0.03f), 1e-8f);
}

/* Frequencies are computed in float64 and rounded once, angles are float32 products. */
static void rope_frequencies(void **state)
{
    (void)state;
    float c[128], s[128];
    for (int pos = 0; pos < 1000; pos += 333) {
        ref_rope_angles(pos, 256, c, s);
        for (int i = 0; i < 128; i++) {
            float f = (float)pow(10000.0, -2.0 * i / 256);
            assert_true(c[i] == (float)cos((double)((float)pos * f)));
            assert_true(s[i] == (float)sin((double)((float)pos * f)));
        }
    }
}

static void attention(void **state)
{
    (void)state;
    /* two queries, two heads of size 2 that share keys; values tell which key was seen */
    const float q[] = { 1, 0, 0, 1, 0, 0, 2, 2 };
    const float k[] = { 1, 0, 0, 1, 50, 50 }, v[] = { 1, 10, 2, 20, 900, 900 };
    const uint8_t mask[] = { 1, 1, 0, 1, 0, 0 };
    struct ref_attention a = {
        .q = q, .k = k, .v = v, .mask = mask, .m = 2, .n = 3, .h = 2, .g = 1, .e = 2, .scale = 0.5f
    };
    float o[8];
    ref_attention(o, &a);
    float p = 1 / (1 + expf(-0.5f)); /* logits 0.5 and 0 */
    near(o[0], p * 1 + (1 - p) * 2, 1e-6f);
    near(o[1], p * 10 + (1 - p) * 20, 1e-5f);
    near(o[2], p * 2 + (1 - p) * 1, 1e-6f); /* head 1 prefers key 1 */
    for (int i = 4; i < 8; i += 2) {        /* query 1 sees key 0 alone */
        near(o[i], 1, 0);
        near(o[i + 1], 10, 0);
    }
    const uint8_t none[6] = { 0 };
    a.mask = none;
    ref_attention(o, &a); /* finite, never read */
    for (int i = 0; i < 8; i++)
        assert_true(o[i] == 0.0f);
}

/* Without sharing, head h has its own keys and values. */
static void attention_per_head(void **state)
{
    (void)state;
    const float q[] = { 1, 1 }, k[] = { 0, 0, 0, 9 }, v[] = { 1, 2, 3, 4 };
    struct ref_attention a = {
        .q = q, .k = k, .v = v, .m = 1, .n = 2, .h = 2, .g = 2, .e = 1, .scale = 1
    };
    float o[2];
    ref_attention(o, &a);
    near(o[0], 2, 1e-6f);                                 /* the mean of 1 and 3 */
    near(o[1], (2 + 4 * expf(9)) / (1 + expf(9)), 1e-5f); /* almost key 1's 4 */
}

static void large_logits(void **state)
{
    (void)state;
    const float q[] = { 300 }, k[] = { 300, 299 }, v[] = { 1, 2 };
    struct ref_attention a = {
        .q = q, .k = k, .v = v, .m = 1, .n = 2, .h = 1, .g = 1, .e = 1, .scale = 1
    };
    float o[1];
    ref_attention(o, &a);
    near(o[0], 1, 1e-6f);
}

static void patches(void **state)
{
    (void)state;
    uint8_t image[4 * 4 * 3];
    float x[4 * 12];
    for (int i = 0; i < 48; i++)
        image[i] = (uint8_t)(5 * i);
    ref_patches(x, image, 4, 2);
    for (int row = 0; row < 2; row++) /* of the grid */
        for (int col = 0; col < 2; col++)
            for (int c = 0; c < 3; c++)
                for (int ky = 0; ky < 2; ky++)
                    for (int kx = 0; kx < 2; kx++) {
                        int at = ((row * 2 + ky) * 4 + col * 2 + kx) * 3 + c;
                        float want = (float)image[at] / 255.0f * 2.0f - 1.0f;
                        assert_true(x[(row * 2 + col) * 12 + c * 4 + ky * 2 + kx] == want);
                    }
    memset(image, 255, sizeof image);
    ref_patches(x, image, 4, 2);
    assert_true(x[0] == 1.0f);
    memset(image, 0, sizeof image);
    ref_patches(x, image, 4, 2);
    assert_true(x[0] == -1.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activations),
        cmocka_unit_test(linear),
        cmocka_unit_test(norms),
        cmocka_unit_test(rope),
        cmocka_unit_test(rope_frequencies),
        cmocka_unit_test(attention),
        cmocka_unit_test(attention_per_head),
        cmocka_unit_test(large_logits),
        cmocka_unit_test(patches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
