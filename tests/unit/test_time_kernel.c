/* SPDX-License-Identifier: Apache-2.0
 * test_time_kernel: pi0_engine_time_kernel on the CPU: what it needs, what it says of every op, and
 * that it leaves no taps of a call that it has written over. No time is judged. */
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

static float actions[2][8192];

static pi0_status infer(pi0_engine *e, float *out)
{
    static uint8_t pixels[CAMERAS * IMAGE];
    static float state[64], noise[8192];
    const int32_t tokens[TOKENS] = { 2, 17, 4, 9, 1 };
    struct pi0_input in = { .tokens = tokens, .n_tokens = TOKENS, .state = state, .noise = noise };
    pi0_noise(noise, 8192, 3);
    for (int c = 0; c < CAMERAS; c++) {
        in.pixels[c] = pixels;
        in.camera_mask[c] = c != 1;
    }
    return pi0_engine_infer(e, &in, 1, 10, out, NULL, NULL);
}

static void every_op(void **state)
{
    const char *name = *state;
    struct pi0_error err = { 0 };
    struct pi0_dims d;
    struct pi0_engine_config cfg;
    struct pi0_kernel_time k;
    pi0_model *m = NULL;
    pi0_engine *e = NULL;
    assert_int_equal(pi0_dims_named(&d, name, NULL), PI0_OK);
    assert_int_equal(pi0_model_open_synthetic(&m, &d, 1, NULL), PI0_OK);
    pi0_engine_defaults(&cfg);
    cfg.backend = "cpu";
    cfg.n_threads = 2;
    assert_int_equal(pi0_engine_open(&e, m, &cfg, NULL), PI0_OK);

    assert_int_equal(pi0_engine_time_kernel(NULL, 0, &k, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_engine_time_kernel(e, 0, NULL, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_engine_time_kernel(e, -1, &k, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_engine_time_kernel(e, 0, &k, &err), PI0_E_ARGUMENT);
    assert_non_null(strstr(err.message, "no finished call"));

    assert_int_equal(infer(e, actions[0]), PI0_OK);
    int n = 0, images = 2 * (d.image_size / d.patch_size) * (d.image_size / d.patch_size);
    double flops = 0;
    struct pi0_stage_work work[PI0_N_STAGES];
    for (;; n++) {
        assert_int_equal(pi0_engine_time_kernel(e, n, &k, &err), PI0_OK);
        if (!k.op[0])
            break;
        assert_true(k.count > 0 && k.m > 0 && k.n > 0 && k.k > 0);
        assert_true(k.us > 0 && k.us_min > 0 && k.us_min <= k.us);
        assert_true(k.flops > 0 && k.bytes > 0 && k.kernel[0]);
        assert_true(k.library_us == 0 && !k.library[0]);
        flops += k.flops * k.count;
        if (strcmp(k.op, "vision fc1") == 0) {
            assert_int_equal(k.count, d.vision_depth);
            assert_int_equal(k.m, images);
            assert_int_equal(k.n, d.vision_mlp_dim);
            assert_int_equal(k.k, d.vision_width);
            assert_string_equal(k.also, "bias, GELU");
        }
    }
    assert_int_equal(n, 12);
    /* Most of a call's arithmetic, and no more than it. */
    assert_int_equal(pi0_engine_work(e, 1, 2, TOKENS, 10, work, NULL), PI0_OK);
    double all = work[0].flops + work[1].flops + work[2].flops;
    assert_true(flops > 0.5 * all && flops < all);

    size_t size = pi0_engine_tap_size(e, PI0_TAP_PREFIX_EMBS);
    float *tap = malloc(size * sizeof *tap);
    assert_non_null(tap);
    assert_int_equal(pi0_engine_read(e, PI0_TAP_PREFIX_EMBS, 0, 0, tap, size, &err),
                     PI0_E_ARGUMENT);
    assert_int_equal(infer(e, actions[1]), PI0_OK);
    assert_int_equal(pi0_engine_read(e, PI0_TAP_PREFIX_EMBS, 0, 0, tap, size, &err), PI0_OK);
    assert_memory_equal(actions[0], actions[1], sizeof actions[0]);
    free(tap);
    pi0_engine_close(e);
    pi0_model_close(m);
}

int main(void)
{
    static char pi0[] = "pi0_tiny", pi05[] = "pi05_tiny";
    const struct CMUnitTest tests[] = {
        { "every op, π0", every_op, NULL, NULL, pi0 },
        { "every op, π0.5", every_op, NULL, NULL, pi05 },
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
