/* SPDX-License-Identifier: Apache-2.0
 * The arena: measuring and carving agree, pieces are aligned and apart, overflow is reported. */
#include "base/arena.h"
#include "base/checked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

static const size_t sizes[] = { 1, 63, 64, 65, 0, 1000, 4096 };
#define N_SIZES (sizeof sizes / sizeof sizes[0])

static void carves_what_it_measured(void **state)
{
    (void)state;
    struct arena a = { 0 };
    unsigned char *p[N_SIZES];
    for (size_t i = 0; i < N_SIZES; i++)
        assert_null(arena_take(&a, sizes[i], 4));
    size_t measured = a.used;
    assert_int_equal(arena_alloc(&a, "test", NULL), PI0_OK);
    assert_int_equal(a.used, 0);
    assert_true(a.size >= measured);
    for (size_t i = 0; i < N_SIZES; i++) {
        p[i] = arena_take(&a, sizes[i], 4);
        assert_non_null(p[i]);
        assert_int_equal((uintptr_t)p[i] % 64, 0);
        for (size_t k = 0; k < sizes[i] * 4; k++)
            assert_int_equal(p[i][k], 0);
        memset(p[i], (int)i + 1, sizes[i] * 4);
    }
    for (size_t i = 0; i < N_SIZES; i++) /* nobody wrote into a neighbour */
        for (size_t k = 0; k < sizes[i] * 4; k++)
            assert_int_equal(p[i][k], i + 1);
    assert_int_equal(a.used, measured);
    assert_false(a.overflowed);
    arena_free(&a);
    assert_null(a.base);
    arena_free(&a); /* twice is fine */
}

static void a_full_arena_says_so(void **state)
{
    (void)state;
    struct arena a = { 0 };
    (void)arena_take(&a, 64, 1);
    assert_int_equal(arena_alloc(&a, "test", NULL), PI0_OK);
    assert_non_null(arena_take(&a, a.size, 1));
    assert_false(a.overflowed);
    assert_null(arena_take(&a, 1, 1));
    assert_true(a.overflowed);
    arena_free(&a);
}

static void sizes_that_wrap_are_refused(void **state)
{
    (void)state;
    static const size_t wrapping[][2] = {
        { SIZE_MAX, 2 },
        { SIZE_MAX, 1 }, /* fits, but not once rounded up */
        { SIZE_MAX / 2 + 1, 2 },
    };
    for (size_t i = 0; i < sizeof wrapping / sizeof wrapping[0]; i++) {
        struct arena a = { 0 };
        struct pi0_error err;
        assert_null(arena_take(&a, wrapping[i][0], wrapping[i][1]));
        assert_true(a.overflowed);
        assert_int_equal(arena_alloc(&a, "weights", &err), PI0_E_NOMEM);
        assert_string_equal(err.message, "weights: the size does not fit in memory");
        assert_null(a.base);
    }
    struct arena sum = { 0 };
    (void)arena_take(&sum, SIZE_MAX / 2, 1);
    (void)arena_take(&sum, SIZE_MAX / 2, 1);
    (void)arena_take(&sum, 64, 1);
    assert_true(sum.overflowed);
}

static void memory_that_cannot_be_had(void **state)
{
    (void)state;
    struct arena a = { 0 };
    struct pi0_error err;
    (void)arena_take(&a, (size_t)1 << 60, 1); /* beyond any address space */
    assert_false(a.overflowed);
    assert_int_equal(arena_alloc(&a, "cache", &err), PI0_E_NOMEM);
    assert_non_null(strstr(err.message, "cache: "));
}

static void checked_arithmetic(void **state)
{
    (void)state;
    size_t r = 7;
    assert_int_equal(checked_add(SIZE_MAX, 0, &r), 0);
    assert_true(r == SIZE_MAX);
    assert_int_equal(checked_add(SIZE_MAX, 1, &r), -1);
    assert_true(r == SIZE_MAX);
    assert_int_equal(checked_mul(SIZE_MAX, 1, &r), 0);
    assert_int_equal(checked_mul(SIZE_MAX / 3, 3, &r), 0);
    assert_int_equal(checked_mul(SIZE_MAX / 3 + 1, 3, &r), -1);
    assert_int_equal(checked_mul(SIZE_MAX, 0, &r), 0);
    assert_int_equal(r, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(carves_what_it_measured),     cmocka_unit_test(a_full_arena_says_so),
        cmocka_unit_test(sizes_that_wrap_are_refused), cmocka_unit_test(memory_that_cannot_be_had),
        cmocka_unit_test(checked_arithmetic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
