/* SPDX-License-Identifier: Apache-2.0
 * The face on libsentencepiece: ids equal to the reference library's, buffers of any size, files that
 * are no tokenizer. */
#include "policy/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char model_path[] = "tests/golden/pipeline/tokenizer.model";
static struct tokenizer *tokenizer;

static int setup(void **state)
{
    (void)state;
    return (int)tokenizer_open(&tokenizer, model_path, NULL);
}

static int teardown(void **state)
{
    (void)state;
    tokenizer_close(tokenizer);
    return 0;
}

static void ids_equal_the_reference(void **state)
{
    (void)state;
    json_t *records = json_load_file("tests/golden/pipeline/tokens.json", 0, NULL);
    assert_int_equal(json_array_size(records), 20);
    size_t i;
    json_t *r;
    json_array_foreach(records, i, r)
    {
        const json_t *prompt = json_object_get(r, "prompt"), *want = json_object_get(r, "raw_ids");
        int32_t ids[1024];
        int n = -1, count = (int)json_array_size(want);
        assert_int_equal(tokenizer_encode(tokenizer, json_string_value(prompt),
                                          json_string_length(prompt), ids, 1024, &n, NULL),
                         PI0_OK);
        assert_int_equal(n, count);
        for (int k = 0; k < n; k++)
            assert_int_equal(ids[k], json_integer_value(json_array_get(want, (size_t)k)));
    }
    json_decref(records);
}

static void small_buffers(void **state)
{
    (void)state;
    static const char text[] = "pick up the red block"; /* 5 tokens */
    int32_t ids[8];
    for (int max = 0; max <= 6; max++) {
        int n = 0;
        memset(ids, 0x55, sizeof ids);
        assert_int_equal(tokenizer_encode(tokenizer, text, sizeof text - 1, ids, max, &n, NULL),
                         PI0_OK);
        assert_int_equal(n, 5);
        for (int k = max < 5 ? max : 5; k < 8; k++)
            assert_int_equal(ids[k], 0x55555555);
    }
}

static void bytes_without_terminator(void **state)
{
    (void)state;
    int32_t ids[16], whole[16];
    int n, n_whole;
    char text[] = { 'p', 'i', 'c', 'k', 'X' };
    assert_int_equal(tokenizer_encode(tokenizer, "pick", 4, whole, 16, &n_whole, NULL), PI0_OK);
    assert_int_equal(tokenizer_encode(tokenizer, text, 4, ids, 16, &n, NULL), PI0_OK);
    assert_int_equal(n, n_whole);
    assert_memory_equal(ids, whole, (size_t)n * sizeof *ids);
    /* a NUL is a character like any other */
    assert_int_equal(tokenizer_encode(tokenizer, "a\0b", 3, ids, 16, &n, NULL), PI0_OK);
    assert_true(n >= 3);
    assert_int_equal(tokenizer_encode(tokenizer, "", 0, ids, 16, &n, NULL), PI0_OK);
    assert_int_equal(n, 0);
}

static void known_pieces(void **state)
{
    (void)state;
    assert_int_equal(tokenizer_bos(tokenizer), 2);
    assert_true(tokenizer_n_pieces(tokenizer) > 1000);
}

static void refuses_what_is_no_tokenizer(void **state)
{
    (void)state;
    struct tokenizer *t = (struct tokenizer *)&tokenizer;
    struct pi0_error err;
    assert_int_equal(tokenizer_open(&t, "tests/golden/pipeline/absent.model", &err), PI0_E_IO);
    assert_non_null(strstr(err.message, "absent.model"));
    assert_int_equal(tokenizer_open(&t, "tests/golden/pipeline", &err), PI0_E_IO);
    assert_int_equal(tokenizer_open(&t, "tests/golden/pipeline/tokens.json", &err), PI0_E_FORMAT);
    assert_non_null(strstr(err.message, "tokens.json: not a SentencePiece model"));
    assert_int_equal(tokenizer_parse(&t, "", 0, "empty", &err), PI0_E_FORMAT);
    assert_ptr_equal(t, &tokenizer); /* written only on success */
}

/* A model file cut anywhere, or with a byte changed: an error or a tokenizer, never a crash. */
static void damaged_models(void **state)
{
    (void)state;
    FILE *f = fopen(model_path, "rb");
    assert_non_null(f);
    static unsigned char bytes[20000], bad[20000];
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    assert_int_equal(n, 16615);
    for (size_t cut = 0; cut < n; cut += 97) {
        struct tokenizer *t = NULL;
        if (tokenizer_parse(&t, bytes, cut, "cut", NULL) == PI0_OK)
            tokenizer_close(t);
    }
    for (size_t at = 0; at < n; at += 131) {
        struct tokenizer *t = NULL;
        memcpy(bad, bytes, n);
        bad[at] ^= 0xFF;
        int32_t ids[64];
        int count;
        if (tokenizer_parse(&t, bad, n, "damaged", NULL) != PI0_OK)
            continue;
        (void)tokenizer_encode(t, "pick up the red block 12", 24, ids, 64, &count, NULL);
        tokenizer_close(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_equal_the_reference),      cmocka_unit_test(small_buffers),
        cmocka_unit_test(bytes_without_terminator),     cmocka_unit_test(known_pieces),
        cmocka_unit_test(refuses_what_is_no_tokenizer), cmocka_unit_test(damaged_models),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
