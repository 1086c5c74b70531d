/* SPDX-License-Identifier: Apache-2.0
 * Prompts: cleaning, state bins, all forms of text, cutting, and what is refused; token for token
 * against openpi's wrapper. */
#include "policy/prompt.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct tokenizer *tokenizer;
static char *buf;

static int setup(void **state)
{
    (void)state;
    buf = malloc(prompt_buffer_bytes(32));
    return !buf || tokenizer_open(&tokenizer, "tests/golden/pipeline/tokenizer.model", NULL);
}

static int teardown(void **state)
{
    (void)state;
    tokenizer_close(tokenizer);
    free(buf);
    return 0;
}

static void check_row(const json_t *record, const char *key, const char *mask, int max,
                      const struct prompt *p)
{
    const json_t *want = json_object_get(record, key), *valid = json_object_get(record, mask);
    int32_t ids[200];
    int n, cut, n_valid = 0;
    struct pi0_error err = { PI0_OK, "" };
    assert_int_equal(json_array_size(want), max);
    for (size_t i = 0; i < (size_t)max; i++)
        n_valid += json_is_true(json_array_get(valid, i));
    assert_int_equal(prompt_tokens(tokenizer, p, buf, ids, max, &n, &cut, &err), PI0_OK);
    assert_int_equal(n, n_valid);
    for (int i = 0; i < n; i++)
        assert_int_equal(ids[i], json_integer_value(json_array_get(want, (size_t)i)));
    assert_true(cut == 0 || n == max);
}

static void tokens_equal_openpi(void **state)
{
    (void)state;
    json_t *records = json_load_file("tests/golden/pipeline/tokens.json", 0, NULL);
    assert_int_equal(json_array_size(records), 20);
    size_t i, k;
    json_t *r, *v;
    json_array_foreach(records, i, r)
    {
        const json_t *text = json_object_get(r, "prompt"),
                     *state_json = json_object_get(r, "state");
        double values[32];
        struct prompt p = { .text = json_string_value(text),
                            .n = json_string_length(text),
                            .state = values };
        json_array_foreach(state_json, k, v) values[p.n_state++] = json_number_value(v);
        p.form = PROMPT_PLAIN;
        check_row(r, "pi0_tokens", "pi0_mask", 48, &p);
        p.form = PROMPT_STATE;
        check_row(r, "pi05_tokens", "pi05_mask", 200, &p);
    }
    json_decref(records);
}

static void bins(void **state)
{
    (void)state;
    static const struct {
        double v;
        int bin;
    } cases[] = { { -1, 0 },          { -0.9921875, 1 }, { -0.5, 64 },      { -0.001, 127 },
                  { 0, 128 },         { 0.1333, 145 },   { 0.5, 192 },      { 0.99, 254 },
                  { 0.9921875, 255 }, { 1, 255 },        { 1.5, 255 },      { 1e300, 255 },
                  { -1.2, -1 },       { -1e300, -1 },    { HUGE_VAL, 255 }, { -HUGE_VAL, -1 } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(prompt_bin(cases[i].v), cases[i].bin);
    /* at every edge, one double below it, one above it */
    for (int k = 0; k < 256; k++) {
        double edge = -1.0 + 2.0 * k / 256.0;
        assert_int_equal(prompt_bin(edge), k);
        assert_int_equal(prompt_bin(nextafter(edge, -2)), k - 1);
        assert_int_equal(prompt_bin(nextafter(edge, 2)), k);
    }
}

static void assert_clean(const char *text, const char *want)
{
    char out[128];
    size_t n = prompt_clean(text, strlen(text), out);
    assert_int_equal(n, strlen(want));
    assert_memory_equal(out, want, n);
}

static void cleaning(void **state)
{
    (void)state;
    assert_clean("pick_up the cup\n", "pick up the cup");
    assert_clean(" \t\r\n\v\f\x1c\x1d\x1e\x1f put_down\nit ", "put down it");
    assert_clean("_a_", " a "); /* stripped before underscores become spaces */
    assert_clean("", "");
    assert_clean(" \n ", "");
    assert_clean("tab\tstays", "tab\tstays");
    /* U+00A0, U+3000, U+2003, U+0085 are Python's spaces too; U+200B and U+FEFF are not */
    assert_clean("\u00a0\u3000a\u2003\u2028", "a");
    assert_clean("\xC2\x85x\u205f", "x");
    assert_clean("\u200bx\ufeff", "\u200bx\ufeff");
}

static void written_forms(void **state)
{
    (void)state;
    static const double values[] = { 0.1333, -1.2, 0 };
    static const char text[] = "pick_up the cup\n";
    struct prompt p = { .text = text, .n = sizeof text - 1, .state = values, .n_state = 3 };
    static const char *const want[] = { "pick up the cup",
                                        "Task: pick up the cup, State: 145 -1 128;\nAction: ",
                                        "pick_up the cup\n" };
    for (int form = 0; form < 3; form++) {
        p.form = (enum prompt_form)form;
        size_t n = prompt_write(&p, buf);
        assert_int_equal(n, strlen(want[form]));
        assert_memory_equal(buf, want[form], n);
    }
    p.form = PROMPT_LINE; /* a newline is added where there is none */
    p.n -= 1;
    assert_int_equal(prompt_write(&p, buf), sizeof text - 1);
    assert_memory_equal(buf, text, sizeof text - 1);
    p.n = 0;
    assert_int_equal(prompt_write(&p, buf), 1);
    p.form = PROMPT_STATE;
    p.n_state = 0;
    assert_int_equal(prompt_write(&p, buf), strlen("Task: , State: ;\nAction: "));
}

/* What does not fit is cut off and counted, at every length. */
static void cutting(void **state)
{
    (void)state;
    static const char text[] = "pick up the red block";
    struct prompt p = { .form = PROMPT_PLAIN, .text = text, .n = sizeof text - 1 };
    int32_t all[8] = { 0 }, ids[8];
    int n, cut;
    assert_int_equal(prompt_tokens(tokenizer, &p, buf, all, 8, &n, &cut, NULL), PI0_OK);
    assert_int_equal(n, 7); /* bos, 5, newline */
    assert_int_equal(cut, 0);
    for (int max = 1; max < 8; max++) {
        memset(ids, 0x55, sizeof ids);
        assert_int_equal(prompt_tokens(tokenizer, &p, buf, ids, max, &n, &cut, NULL), PI0_OK);
        assert_int_equal(n, max < 7 ? max : 7);
        assert_int_equal(n + cut, 7);
        assert_memory_equal(ids, all, (size_t)n * sizeof *ids);
        assert_int_equal(ids[n], 0x55555555);
    }
}

static void refused(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n, bad_at;
    } cases[] = {
        { "abc\xFF", 4, 3 },
        { "\x80", 1, 0 },
        { "a\xC3", 2, 1 },
        { "\xC0\xAF", 2, 0 },
        { "\xE0\x80\xAF", 3, 0 },
        { "\xED\xA0\x80", 3, 0 },
        { "\xF4\x90\x80\x80", 4, 0 },
        { "\xF8\x88\x80\x80\x80", 5, 0 },
        { "ok \xE6\x9C", 5, 3 },
        { "\xF0\x9F\xA4", 3, 0 },
    };
    int32_t ids[8];
    int n, cut;
    struct pi0_error err;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char want[64];
        struct prompt p = { .form = PROMPT_PLAIN, .text = cases[i].text, .n = cases[i].n };
        assert_int_equal(prompt_tokens(tokenizer, &p, buf, ids, 8, &n, &cut, &err), PI0_E_INPUT);
        snprintf(want, sizeof want, "not UTF-8: byte 0x%02X at offset %zu",
                 (unsigned char)cases[i].text[cases[i].bad_at], cases[i].bad_at);
        assert_non_null(strstr(err.message, want));
    }
    assert_int_equal(prompt_utf8_end("\xF0\x9F\xA4\x96\xE2\x88\x91\xC3\xA9z", 10), 10);
}

static void longest_and_one_more(void **state)
{
    (void)state;
    size_t n_bytes = PROMPT_MAX_BYTES;
    char *text = malloc(n_bytes + 1);
    assert_non_null(text);
    memset(text, 'x', n_bytes + 1);
    double values[32] = { 0 };
    int32_t ids[200];
    int n, cut;
    struct pi0_error err;
    for (int form = 0; form < 3; form++) {
        struct prompt p = { .form = (enum prompt_form)form,
                            .text = text,
                            .n = n_bytes,
                            .state = values,
                            .n_state = 32 };
        assert_int_equal(prompt_tokens(tokenizer, &p, buf, ids, 200, &n, &cut, NULL), PI0_OK);
        assert_int_equal(n, 200);
        assert_true(cut > 0);
        p.n++;
        assert_int_equal(prompt_tokens(tokenizer, &p, buf, ids, 200, &n, &cut, &err), PI0_E_INPUT);
        assert_string_equal(err.message, "prompt of 65537 bytes, expected at most 65536");
        p.n = 20u << 20; /* refused by its length: the bytes are not looked at */
        assert_int_equal(prompt_tokens(tokenizer, &p, buf, ids, 200, &n, &cut, &err), PI0_E_INPUT);
    }
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_equal_openpi),
        cmocka_unit_test(bins),
        cmocka_unit_test(cleaning),
        cmocka_unit_test(written_forms),
        cmocka_unit_test(cutting),
        cmocka_unit_test(refused),
        cmocka_unit_test(longest_and_one_more),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
