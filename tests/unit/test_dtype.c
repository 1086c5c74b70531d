/* SPDX-License-Identifier: Apache-2.0
 * The conversions of dtype.h, each over all 65536 bit patterns, against independent arithmetic. */
#include "base/dtype.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

static void bf16_goes_round(void **state)
{
    (void)state;
    for (uint32_t h = 0; h <= 0xFFFF; h++) {
        float x = bf16_to_f32((uint16_t)h);
        if (isnan(x)) {
            assert_true(isnan(bf16_round(x)));
            assert_int_equal(bf16_from_f32(x) & 0x8000u, h & 0x8000u);
        } else {
            assert_int_equal(bf16_from_f32(x), h);
        }
    }
}

/* Between each pair of neighbours: below the middle down, above it up, in the middle to even. */
static void bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7F80; h++) {
        uint32_t low = h << 16, even = h + (h & 1);
        for (uint32_t sign = 0; sign <= 0x8000; sign += 0x8000) {
            uint32_t s = sign << 16;
            assert_int_equal(bf16_from_f32(f32_from_bits(s | low | 0x7FFF)), sign | h);
            assert_int_equal(bf16_from_f32(f32_from_bits(s | low | 0x8000)), sign | even);
            assert_int_equal(bf16_from_f32(f32_from_bits(s | low | 0x8001)), sign | (h + 1));
        }
    }
    assert_int_equal(bf16_from_f32(3.402823466e38f), 0x7F80); /* the largest float rounds to inf */
    assert_int_equal(bf16_from_f32(INFINITY), 0x7F80);
    assert_int_equal(bf16_from_f32(-INFINITY), 0xFF80);
}

static void nan_never_becomes_infinity(void **state)
{
    (void)state;
    static const uint32_t nans[] = { 0x7F800001u, 0x7F807FFFu, 0x7FFFFFFFu, 0xFF800001u,
                                     0xFFFFFFFFu };
    for (size_t i = 0; i < sizeof nans / sizeof nans[0]; i++) {
        uint16_t h = bf16_from_f32(f32_from_bits(nans[i]));
        assert_true((h & 0x7FFFu) > 0x7F80u);
        assert_int_equal(h >> 15, nans[i] >> 31);
    }
}

static void f16_is_what_its_bits_say(void **state)
{
    (void)state;
    for (uint32_t h = 0; h <= 0xFFFF; h++) {
        int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
        float got = f16_to_f32((uint16_t)h);
        double want = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
        if (exponent == 31 && mantissa) {
            assert_true(isnan(got));
            continue;
        }
        if (exponent == 31)
            want = (double)INFINITY;
        assert_true((double)got == (h >> 15 ? -want : want));
        assert_int_equal(signbit(got) != 0, h >> 15);
    }
}

static void sizes_and_names(void **state)
{
    (void)state;
    assert_int_equal(dtype_bytes(DT_F32), 4);
    assert_int_equal(dtype_bytes(DT_BF16), 2);
    assert_int_equal(dtype_bytes(DT_F16), 2);
    assert_string_equal(dtype_name(DT_F32), "F32");
    assert_string_equal(dtype_name(DT_BF16), "BF16");
    assert_string_equal(dtype_name(DT_F16), "F16");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_goes_round),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(nan_never_becomes_infinity),
        cmocka_unit_test(f16_is_what_its_bits_say),
        cmocka_unit_test(sizes_and_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
