/* SPDX-License-Identifier: Apache-2.0
 * How errors are formatted: cut to fit, one line, always valid UTF-8. */
#include "base/status.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static void fills_and_returns(void **state)
{
    (void)state;
    struct pi0_error err;
    assert_int_equal(pi0_fail(&err, PI0_E_MODEL, "%s: shape %d", "wq", 7), PI0_E_MODEL);
    assert_int_equal(err.status, PI0_E_MODEL);
    assert_string_equal(err.message, "wq: shape 7");
    assert_int_equal(pi0_fail(NULL, PI0_E_IO, "nobody listens %d", 1), PI0_E_IO);
}

static void control_bytes_are_replaced(void **state)
{
    (void)state;
    struct pi0_error err;
    (void)pi0_fail(&err, PI0_E_FORMAT, "a\nb\tc\x1b[31m\x7f");
    assert_string_equal(err.message, "a?b?c?[31m?");
}

static void utf8_is_kept_and_the_rest_replaced(void **state)
{
    (void)state;
    static const struct {
        const char *in, *out;
    } cases[] = {
        { "π0 · 1 ≥ 0", "π0 · 1 ≥ 0" }, { "\xF0\x9F\xA4\x96", "\xF0\x9F\xA4\x96" }, /* four bytes */
        { "\x80 \xBF", "? ?" },                               /* continuation alone */
        { "\xC0\xAF", "??" },                                 /* overlong */
        { "\xE0\x9F\xBF", "???" },                            /* overlong */
        { "\xED\xA0\x80", "???" },                            /* surrogate */
        { "\xF4\x90\x80\x80", "????" },                       /* past U+10FFFF */
        { "\xF5\x80\x80\x80", "????" }, { "\xE2\x82", "??" }, /* cut */
        { "\xFF\xFE", "??" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct pi0_error err;
        (void)pi0_fail(&err, PI0_E_FORMAT, "%s", cases[i].in);
        assert_string_equal(err.message, cases[i].out);
    }
}

static void long_messages_are_cut(void **state)
{
    (void)state;
    struct pi0_error err;
    char text[2 * sizeof err.message];
    const size_t room = sizeof err.message - 1;
    memset(text, 'x', sizeof text);
    for (size_t n = room - 1; n <= room + 1; n++) {
        text[n] = '\0';
        (void)pi0_fail(&err, PI0_E_FORMAT, "%s", text);
        assert_int_equal(strlen(err.message), n < room ? n : room);
        text[n] = 'x';
    }
    /* a sequence that the cut divides does not survive as half of one */
    memset(text, 'x', sizeof text);
    memcpy(text + room - 1, "π", 3);
    (void)pi0_fail(&err, PI0_E_FORMAT, "%s", text);
    assert_int_equal(strlen(err.message), room);
    assert_int_equal(err.message[room - 1], '?');
}

static void every_status_has_its_name(void **state)
{
    (void)state;
    for (int i = PI0_OK; i <= PI0_E_INTERNAL; i++) {
        const char *name = pi0_status_name((pi0_status)i);
        assert_non_null(name);
        assert_string_not_equal(name, "unknown status");
        for (int j = PI0_OK; j < i; j++)
            assert_string_not_equal(name, pi0_status_name((pi0_status)j));
    }
    assert_string_equal(pi0_status_name((pi0_status)99), "unknown status");
}

static void version_is_that_of_the_header(void **state)
{
    (void)state;
    char want[32];
    snprintf(want, sizeof want, "%d.%d.%d", PI0_VERSION_MAJOR, PI0_VERSION_MINOR,
             PI0_VERSION_PATCH);
    assert_string_equal(pi0_version(), want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_and_returns),
        cmocka_unit_test(control_bytes_are_replaced),
        cmocka_unit_test(utf8_is_kept_and_the_rest_replaced),
        cmocka_unit_test(long_messages_are_cut),
        cmocka_unit_test(every_status_has_its_name),
        cmocka_unit_test(version_is_that_of_the_header),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
