/* SPDX-License-Identifier: Apache-2.0
 * Which samples the persistent denoising loop takes, and what it asks for: pure functions, no GPU
 * needed. */
#include "backend/cuda/kernels/denoise_sm90.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static const struct dn90_shape pi0 = { .n_layers = 18,
                                       .width = 1024,
                                       .mlp = 4096,
                                       .heads = 8,
                                       .head_dim = 256,
                                       .action_dim = 32,
                                       .n_tokens = 10,
                                       .max_keys = 817 };

static void device_and_batch(void **state)
{
    (void)state;
    assert_true(dn90_supported(90, 132, &pi0, 1));
    assert_true(dn90_supported(90, 128, &pi0, 1));
    assert_false(dn90_supported(90, 127, &pi0, 1)); /* the CTAs wait for each other: all must fit */
    assert_false(dn90_supported(89, 142, &pi0, 1));
    assert_false(dn90_supported(100, 148, &pi0, 1));
    assert_false(dn90_supported(90, 132, &pi0, 2));
}

static void shapes(void **state)
{
    (void)state;
    struct dn90_shape s = pi0;
    s.n_tokens = 15; /* and the state */
    assert_true(dn90_supported(90, 132, &s, 1));
    s.n_tokens = 16;
    assert_false(dn90_supported(90, 132, &s, 1));
    s.pi05 = 1;
    assert_true(dn90_supported(90, 132, &s, 1));
    s.n_tokens = 17;
    assert_false(dn90_supported(90, 132, &s, 1));
    s.n_tokens = 0;
    assert_false(dn90_supported(90, 132, &s, 1));
    s = pi0;
    s.max_keys = 1024;
    assert_true(dn90_supported(90, 132, &s, 1));
    s.max_keys = 1025;
    assert_false(dn90_supported(90, 132, &s, 1));
    for (int i = 0; i < 6; i++) { /* any other dimension */
        s = pi0;
        int *field[] = { &s.n_layers, &s.width, &s.mlp, &s.heads, &s.head_dim, &s.action_dim };
        *field[i] = i ? *field[i] / 2 : 0;
        assert_false(dn90_supported(90, 132, &s, 1));
    }
}

static void sizes(void **state)
{
    (void)state;
    struct dn90_shape s = pi0;
    /* a layer: 2560·1024 + 1024·2048 + 2·4096·1024 + 1024·4096 bf16; heads twice as two bf16 */
    size_t layers = (size_t)18 * 17301504 * 2, out = 2 * 32 * 1024 * 2, mlp = 2 * 1024 * 1024 * 2;
    assert_true(dn90_weights_bytes(&s) == layers + out + mlp);
    s.pi05 = 1;
    assert_true(dn90_weights_bytes(&s) == layers + out);
    assert_true(dn90_shift_bytes(&s, 10) == (size_t)10 * (18 * (2560 + 8192) + 32) * 4);
    assert_true(dn90_workspace_bytes(&s) % 256 == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(device_and_batch),
        cmocka_unit_test(shapes),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
