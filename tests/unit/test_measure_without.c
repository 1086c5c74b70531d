/* SPDX-License-Identifier: Apache-2.0
 * test_measure_without: an engine with an optimisation taken out gives the same actions on the CPU,
 * and what a backend cannot do without is refused by name. */
#include "pi0.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CAMERAS 3
#define TOKENS 5
#define IMAGE (56 * 56 * 3) /* of the small networks */

static pi0_status open_without(pi0_engine **out, const pi0_model *m, unsigned without,
                               struct pi0_error *err)
{
    struct pi0_engine_config cfg;
    pi0_engine_defaults(&cfg);
    cfg.backend = "cpu";
    cfg.n_threads = 1;
    cfg.measure_without = without;
    return pi0_engine_open(out, m, &cfg, err);
}

/* The same chunk twice on one engine: tables made anew must not spoil the next call. */
static void infer(const pi0_model *m, unsigned without, float *actions, size_t bytes)
{
    static uint8_t pixels[CAMERAS * IMAGE];
    static float state[64], noise[8192];
    const int32_t tokens[TOKENS] = { 2, 17, 4, 9, 1 };
    struct pi0_error err = { 0 };
    struct pi0_input in = { .tokens = tokens, .n_tokens = TOKENS, .state = state, .noise = noise };
    pi0_engine *e = NULL;
    for (size_t i = 0; i < sizeof pixels; i++)
        pixels[i] = (uint8_t)(i * 2654435761U >> 13);
    for (int i = 0; i < 64; i++)
        state[i] = 0.01F * (float)i;
    pi0_noise(noise, 8192, 3);
    for (int c = 0; c < CAMERAS; c++) {
        in.pixels[c] = pixels + (size_t)c * IMAGE;
        in.camera_mask[c] = c != 1;
    }
    assert_int_equal(open_without(&e, m, without, &err), PI0_OK);
    float *again = malloc(bytes);
    assert_non_null(again);
    assert_int_equal(pi0_engine_infer(e, &in, 1, 10, actions, NULL, &err), PI0_OK);
    assert_int_equal(pi0_engine_infer(e, &in, 1, 10, again, NULL, &err), PI0_OK);
    assert_memory_equal(actions, again, bytes);
    free(again);
    pi0_engine_close(e);
}

static void same_actions(const char *name)
{
    const unsigned bits[] = { PI0_WITHOUT_FOLDED_TABLES, PI0_WITHOUT_STATE_REUSE,
                              PI0_WITHOUT_CAMERA_SKIP,
                              PI0_WITHOUT_FOLDED_TABLES | PI0_WITHOUT_STATE_REUSE |
                                  PI0_WITHOUT_CAMERA_SKIP };
    struct pi0_dims d;
    pi0_model *m = NULL;
    assert_int_equal(pi0_dims_named(&d, name, NULL), PI0_OK);
    assert_int_equal(pi0_model_open_synthetic(&m, &d, 1, NULL), PI0_OK);
    size_t n = (size_t)d.action_horizon * (size_t)d.action_dim;
    float *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);
    assert_non_null(want);
    assert_non_null(got);
    infer(m, 0, want, n * sizeof *want);
    for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
        double error = 0, norm = 0;
        infer(m, bits[i], got, n * sizeof *got);
        for (size_t k = 0; k < n; k++) {
            error += ((double)got[k] - want[k]) * ((double)got[k] - want[k]);
            norm += (double)want[k] * want[k];
        }
        /* docs/numerics.md: two orders of the same bf16 sums lie within the golden tolerance. */
        assert_true(error <= 5e-3 * 5e-3 * norm);
        if (!(bits[i] & PI0_WITHOUT_CAMERA_SKIP)) /* the same sums in the same order */
            assert_memory_equal(got, want, n * sizeof *want);
    }
    free(want);
    free(got);
    pi0_model_close(m);
}

static void pi0_same_actions(void **unused)
{
    (void)unused;
    same_actions("pi0_tiny");
}

static void pi05_same_actions(void **unused)
{
    (void)unused;
    same_actions("pi05_tiny");
}

static void refused(void **unused)
{
    (void)unused;
    struct pi0_error err = { 0 };
    struct pi0_dims d;
    pi0_model *m = NULL;
    pi0_engine *e = NULL;
    assert_int_equal(pi0_dims_named(&d, "pi0_tiny", NULL), PI0_OK);
    assert_int_equal(pi0_model_open_synthetic(&m, &d, 1, NULL), PI0_OK);
    assert_int_equal(open_without(&e, m, PI0_WITHOUT_GRAPH, &err), PI0_E_UNSUPPORTED);
    assert_null(e);
    assert_non_null(strstr(err.message, "cpu"));
    assert_non_null(strstr(err.message, "graph replay"));
    assert_int_equal(open_without(&e, m, PI0_WITHOUT_LOOP_KERNEL, &err), PI0_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "loop kernel"));
    assert_int_equal(open_without(&e, m, PI0_WITHOUT_FOLDED_TABLES | 1U << 10, &err),
                     PI0_E_ARGUMENT);
    assert_non_null(strstr(err.message, "0x420"));
    assert_null(e);
    pi0_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(pi0_same_actions),
                                        cmocka_unit_test(pi05_same_actions),
                                        cmocka_unit_test(refused) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
