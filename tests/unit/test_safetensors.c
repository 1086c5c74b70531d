/* SPDX-License-Identifier: Apache-2.0
 * The safetensors reader: what a good file gives, and one test for each way in which a file can be
 * wrong, with the words of its message. Sharded sets are written into a temporary directory. */
#include "io/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---------------------------------------------------------------- files in memory */

struct bytes {
    unsigned char *data;
    size_t n;
};

/* A file with this header and n_values bytes 0, 1, 2 … behind it. */
static struct bytes file_of(const char *header, size_t n_values)
{
    size_t n = strlen(header);
    struct bytes b = { malloc(8 + n + n_values), 8 + n + n_values };
    assert_non_null(b.data);
    for (size_t i = 0; i < 8; i++)
        b.data[i] = (unsigned char)((uint64_t)n >> (8 * i));
    memcpy(b.data + 8, header, n);
    for (size_t i = 0; i < n_values; i++)
        b.data[8 + n + i] = (unsigned char)i;
    return b;
}

static void expect_bad_bytes(struct bytes b, const char *why)
{
    struct st_set *s = NULL;
    struct pi0_error err = { 0 };
    assert_int_equal(st_parse(&s, b.data, b.n, "file", &err), PI0_E_FORMAT);
    if (!strstr(err.message, why) || strncmp(err.message, "file: ", 6) != 0)
        fail_msg("message \"%s\", expected \"file: … %s …\"", err.message, why);
    assert_null(s);
    assert_int_equal(st_parse(&s, b.data, b.n, "file", NULL), PI0_E_FORMAT);
    free(b.data);
}

static void expect_bad(const char *header, size_t n_values, const char *why)
{
    expect_bad_bytes(file_of(header, n_values), why);
}

static struct st_set *expect_good(const char *header, size_t n_values, struct bytes *b)
{
    struct st_set *s = NULL;
    struct pi0_error err = { 0 };
    *b = file_of(header, n_values);
    if (st_parse(&s, b->data, b->n, "file", &err))
        fail_msg("%s", err.message);
    assert_int_equal(s->file_bytes, b->n);
    return s;
}

#define ENTRY(name, dtype, shape, begin, end)                                                      \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end \
    "]}"

/* ---------------------------------------------------------------- good files */

static void good_file(void **state)
{
    (void)state;
    struct bytes b;
    struct st_set *s = expect_good(
        "{\"__metadata__\":{\"format\":\"pt\"}," ENTRY("b", "F32", "[2,1]", 4, 12) "," ENTRY(
            "a", "BF16", "[2]", 0, 4) "," ENTRY("scalar", "U8", "[]", 12, 13) "}",
        13, &b);
    assert_int_equal(s->n_tensors, 3);
    assert_string_equal(s->tensors[0].name, "a"); /* sorted */
    assert_string_equal(s->tensors[1].name, "b");
    assert_string_equal(s->tensors[2].name, "scalar");
    const struct st_tensor *t = st_find(s, "b");
    assert_non_null(t);
    assert_int_equal(t->dtype, ST_F32);
    assert_int_equal(t->rank, 2);
    assert_int_equal(t->shape[0], 2);
    assert_int_equal(t->shape[1], 1);
    assert_int_equal(t->n, 2);
    assert_int_equal(t->bytes, 8);
    assert_int_equal(t->data[0], 4);
    t = st_find(s, "scalar");
    assert_int_equal(t->rank, 0);
    assert_int_equal(t->n, 1);
    assert_null(st_find(s, "c"));
    assert_null(st_find(s, ""));
    assert_null(st_find(s, "__metadata__"));
    st_close(s);
    st_close(NULL);
    free(b.data);
}

static void empty_and_padded_files(void **state)
{
    (void)state;
    static const char *const headers[] = { "{}", "{}      ", "  {}", "{\"__metadata__\":null}",
                                           "{\"__metadata__\":{}}\n\t " };
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        struct bytes b;
        struct st_set *s = expect_good(headers[i], 0, &b);
        assert_int_equal(s->n_tensors, 0);
        assert_null(st_find(s, "a"));
        st_close(s);
        free(b.data);
    }
}

static void zero_size_tensors(void **state)
{
    (void)state;
    struct bytes b;
    struct st_set *s = expect_good(
        "{" ENTRY("z", "F32", "[0,5]", 2, 2) "," ENTRY("y", "F16", "[1]", 0, 2) "," ENTRY(
            "x", "I8", "[3]", 2, 5) "," ENTRY("w", "I8", "[0]", 5, 5) "}",
        5, &b);
    assert_int_equal(st_find(s, "z")->n, 0);
    assert_int_equal(st_find(s, "z")->bytes, 0);
    assert_int_equal(st_find(s, "x")->data[0], 2);
    st_close(s);
    free(b.data);
}

static void every_dtype(void **state)
{
    (void)state;
    static const size_t want[] = { 8, 4, 2, 2, 8, 4, 2, 1, 8, 4, 2, 1, 1 };
    for (int t = ST_F64; t <= ST_BOOL; t++) {
        char header[200];
        struct bytes b;
        const size_t n = want[t] * 3;
        assert_int_equal(st_dtype_bytes((enum st_dtype)t), want[t]);
        snprintf(header, sizeof header,
                 "{\"t\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%zu]}}",
                 st_dtype_name((enum st_dtype)t), n);
        struct st_set *s = expect_good(header, n, &b);
        assert_int_equal(s->tensors[0].dtype, t);
        st_close(s);
        free(b.data);
    }
    assert_int_equal(st_dtype_bytes((enum st_dtype)99), 0);
    assert_string_equal(st_dtype_name((enum st_dtype)99), "unknown");
}

static void rank_limit(void **state)
{
    (void)state;
    struct bytes b;
    struct st_set *s = expect_good("{" ENTRY("t", "U8", "[1,1,1,1,1,1,1,2]", 0, 2) "}", 2, &b);
    assert_int_equal(s->tensors[0].rank, ST_MAX_RANK);
    assert_int_equal(s->tensors[0].shape[7], 2);
    st_close(s);
    free(b.data);
    expect_bad("{" ENTRY("t", "U8", "[1,1,1,1,1,1,1,1,2]", 0, 2) "}", 2,
               "tensor t: rank 9, expected at most 8");
}

/* ---------------------------------------------------------------- bad lengths */

static void truncated_anywhere(void **state)
{
    (void)state;
    struct bytes b = file_of("{" ENTRY("a", "F32", "[4]", 0, 16) "}", 16);
    for (size_t n = 0; n < b.n; n++) {
        struct st_set *s = NULL;
        struct pi0_error err = { 0 };
        unsigned char *exact = malloc(n ? n : 1); /* so that a sanitizer sees a read past it */
        assert_non_null(exact);
        memcpy(exact, b.data, n);
        assert_int_equal(st_parse(&s, exact, n, "file", &err), PI0_E_FORMAT);
        assert_true(err.message[0] != '\0');
        assert_null(s);
        free(exact);
    }
    free(b.data);
}

static void header_length(void **state)
{
    (void)state;
    struct bytes b = file_of("{}", 0);
    b.data[0] = 3;
    expect_bad_bytes(b, "header of 3 bytes, but only 2 follow: truncated");
    b = file_of("{}", 0);
    memset(b.data, 0xFF, 8);
    expect_bad_bytes(b, "header of 18446744073709551615 bytes, expected at most 100000000");
    b = file_of("{}", 0);
    b.n = 7;
    expect_bad_bytes(b, "7 bytes, expected at least 8");
    expect_bad("", 0, "not valid JSON");
}

static void header_limit_and_one_past(void **state)
{
    (void)state;
    char *text = malloc(ST_MAX_HEADER_BYTES + 2);
    assert_non_null(text);
    memset(text, ' ', ST_MAX_HEADER_BYTES + 1);
    memcpy(text, "{}", 2);
    text[ST_MAX_HEADER_BYTES] = '\0';
    struct bytes b;
    st_close(expect_good(text, 0, &b));
    free(b.data);
    text[ST_MAX_HEADER_BYTES] = ' ';
    text[ST_MAX_HEADER_BYTES + 1] = '\0';
    expect_bad(text, 0, "header of 100000001 bytes, expected at most 100000000");
    free(text);
}

static void oversized_file(void **state)
{
    (void)state;
    expect_bad("{" ENTRY("a", "F32", "[1]", 0, 4) "}", 5, "5 bytes of values, expected 4");
    expect_bad("{}", 1, "1 bytes of values, expected 0");
    expect_bad("{" ENTRY("a", "F32", "[1]", 0, 4) "}", 3,
               "tensor a: offsets 0 to 4, expected ascending and within the file's 3 bytes");
}

/* ---------------------------------------------------------------- bad places */

static void overlaps_and_holes(void **state)
{
    (void)state;
    expect_bad("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[4]", 3, 7) "}", 7,
               "tensor b begins at offset 3 and overlaps a, which ends at 4");
    expect_bad("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[4]", 0, 4) "}", 4,
               "overlaps");
    expect_bad("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[0]", 2, 2) "}", 4,
               "tensor b begins at offset 2 and overlaps a");
    expect_bad("{" ENTRY("a", "U8", "[4]", 0, 4) "," ENTRY("b", "U8", "[4]", 5, 9) "}", 9,
               "hole of 1 bytes before tensor b: it begins at offset 5, expected 4");
    expect_bad("{" ENTRY("a", "U8", "[4]", 2, 6) "}", 6, "hole of 2 bytes before tensor a");
}

static void offsets(void **state)
{
    (void)state;
    static const char *const not_pairs[] = { "[0]",      "[0,4,4]", "[]",        "[-4,0]",
                                             "[0,-4]",   "[0.0,4]", "[0,4.0]",   "[\"0\",4]",
                                             "[0,true]", "null",    "{\"0\":4}", "4" };
    for (size_t i = 0; i < sizeof not_pairs / sizeof not_pairs[0]; i++) {
        char header[200];
        snprintf(header, sizeof header,
                 "{\"t\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":%s}}", not_pairs[i]);
        expect_bad(header, 4, "tensor t: \"data_offsets\" is not a pair of integers");
    }
    expect_bad("{\"t\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "is not a pair");
    expect_bad("{" ENTRY("t", "F32", "[1]", 4, 0) "}", 4, "tensor t: offsets 4 to 0");
    expect_bad("{" ENTRY("t", "F32", "[1]", 0, 9223372036854775807) "}", 4,
               "offsets 0 to 9223372036854775807");
    expect_bad("{" ENTRY("t", "F32", "[1]", 0, 9223372036854775808) "}", 4, "not valid JSON");
    expect_bad("{" ENTRY("t", "F32", "[2]", 0, 4) "}", 4,
               "tensor t: 4 bytes between its offsets, expected 8 (2 values of F32)");
}

/* ---------------------------------------------------------------- bad entries */

static void shapes(void **state)
{
    (void)state;
    static const char *const not_sizes[] = { "[-1]", "[1.5]", "[\"1\"]", "[null]", "[[1]]" };
    for (size_t i = 0; i < sizeof not_sizes / sizeof not_sizes[0]; i++) {
        char header[200];
        snprintf(header, sizeof header,
                 "{\"t\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[0,4]}}", not_sizes[i]);
        expect_bad(header, 4, "tensor t: dimension 0 is not an integer");
    }
    expect_bad("{" ENTRY("t", "F32", "1", 0, 4) "}", 4, "tensor t: no \"shape\" array");
    expect_bad("{\"t\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "no \"shape\" array");
    expect_bad("{" ENTRY("t", "F32", "[4294967296,4294967296]", 0, 4) "}", 4,
               "the product of its shape overflows at dimension 1 (4294967296)");
    expect_bad("{" ENTRY("t", "F32", "[9223372036854775807,4,0]", 0, 0) "}", 0, "overflows");
    expect_bad("{" ENTRY("t", "F64", "[4611686018427387904]", 0, 0) "}", 0,
               "4611686018427387904 values of F64 overflow");
}

static void dtypes(void **state)
{
    (void)state;
    static const char *const names[] = { "F8_E4M3", "F8_E5M2", "f32", "F32 ", "", "C64", "F4" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char header[200], why[64];
        snprintf(header, sizeof header,
                 "{\"t\":{\"dtype\":\"%s\",\"shape\":[4],\"data_offsets\":[0,4]}}", names[i]);
        snprintf(why, sizeof why, "tensor t: dtype %s, expected F64, F32", names[i]);
        expect_bad(header, 4, why);
    }
    expect_bad("{\"t\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
               "tensor t: no \"dtype\" string");
    expect_bad("{\"t\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "no \"dtype\" string");
}

static void duplicate_names(void **state)
{
    (void)state;
    expect_bad("{" ENTRY("t", "U8", "[4]", 0, 4) "," ENTRY("t", "U8", "[4]", 4, 8) "}", 8,
               "duplicate object key");
    expect_bad("{" ENTRY("t", "U8", "[4]", 0, 4) "," ENTRY("\\u0074", "U8", "[4]", 4, 8) "}", 8,
               "duplicate object key"); /* the same name, spelt otherwise */
}

static void not_json(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "x",        "{",     "{\"a\"}",       "{\"a\":}",           "{}x", "{},{}", "{\"a\":{}",
        "{'a':{}}", "\"a\"", "{\"a\xFF\":1}", "{\"a\\u0000b\":{}}", "1"
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        expect_bad(texts[i], 0, "the header is not valid JSON: ");
    expect_bad("[]", 0, "the header is a JSON array, expected an object");
    expect_bad("{\"t\":[]}", 0, "tensor t: not a JSON object");
    expect_bad("{\"t\":null}", 0, "tensor t: not a JSON object");
    expect_bad("{\"__metadata__\":[]}", 0, "__metadata__ is not an object");
    expect_bad("{\"__metadata__\":{\"k\":1}}", 0, "__metadata__: k is not a string");
}

static void json_depth_limit(void **state)
{
    (void)state;
    /* an unknown member of an entry is ignored; its depth is not: 2 levels stand above it */
    for (int deep = ST_MAX_DEPTH - 2; deep <= ST_MAX_DEPTH - 1; deep++) {
        char header[300] =
            "{\"t\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"more\":";
        for (int i = 0; i < deep; i++)
            strcat(header, "[");
        for (int i = 0; i < deep; i++)
            strcat(header, "]");
        strcat(header, "}}");
        if (deep == ST_MAX_DEPTH - 2) {
            struct bytes b;
            st_close(expect_good(header, 1, &b));
            free(b.data);
        } else {
            expect_bad(header, 1, "nests deeper than 16 levels");
        }
    }
    char *deep = malloc(1000001);
    assert_non_null(deep);
    memset(deep, '[', 1000000);
    deep[1000000] = '\0';
    expect_bad(deep, 0, "nests deeper than 16 levels");
    free(deep);
    expect_bad("{\"[[[[[[[[[[[[[[[[[[[[\\\"[[[[\":1}", 0,
               "not a JSON object"); /* inside a string */
}

/* A header of n tensors without values. */
static char *many_tensors(int n)
{
    const size_t room = 64;
    char *text = malloc((size_t)n * room + 3), *p = text;
    assert_non_null(text);
    *p++ = '{';
    for (int i = 0; i < n; i++)
        p += sprintf(p, "%s\"t%06d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                     i ? "," : "", i);
    memcpy(p, "}", 2);
    return text;
}

static void tensor_count_limit(void **state)
{
    (void)state;
    struct bytes b;
    char *text = many_tensors(ST_MAX_TENSORS);
    struct st_set *s = expect_good(text, 0, &b);
    assert_int_equal(s->n_tensors, ST_MAX_TENSORS);
    assert_non_null(st_find(s, "t099999"));
    st_close(s);
    free(b.data);
    free(text);
    text = many_tensors(ST_MAX_TENSORS + 1);
    expect_bad(text, 0, "100001 tensors, expected at most 100000");
    free(text);
}

static void json_value_limit(void **state)
{
    (void)state;
    /* refused from the text alone, before the parser builds a tree of it */
    const size_t n = (size_t)ST_MAX_TENSORS * 16;
    char *text = malloc(2 * n + 32), *p = text;
    assert_non_null(text);
    p += sprintf(p, "{\"t\":[0");
    for (size_t i = 0; i < n; i++) {
        *p++ = ',';
        *p++ = '0';
    }
    memcpy(p, "]}", 3);
    expect_bad(text, 0, "the header has up to 1600003 JSON values, expected at most 1600000");
    text[2 * (n - 3) + 7] = '\0'; /* three values less: the count passes, the rest is looked at */
    strcat(text, "]}");
    expect_bad(text, 0, "tensor t: not a JSON object");
    free(text);
}

/* ---------------------------------------------------------------- golden files */

static void golden_files(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        size_t n;
    } files[] = {
        { "pi0_tiny/model.safetensors", 122 },  { "pi0_tiny/io.safetensors", 14 },
        { "pi05_tiny/model.safetensors", 127 }, { "pi05_tiny/io.safetensors", 15 },
        { "pi0_tiny_3cam/io.safetensors", 14 }, { "pi05_tiny_rtc/io.safetensors", 9 },
        { "pi0_h10/io.safetensors", 15 },       { "pi0_full/io.safetensors", 15 },
        { "pi05_full/io.safetensors", 16 },     { "pipeline/resize.safetensors", 18 },
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[256];
        struct pi0_error err;
        struct st_set *s;
        snprintf(path, sizeof path, "tests/golden/%s", files[i].path);
        if (st_open_file(&s, path, &err))
            fail_msg("%s", err.message);
        if (s->n_tensors != files[i].n)
            fail_msg("%s: %zu tensors, expected %zu", path, s->n_tensors, files[i].n);
        st_close(s);
    }
}

/* names.txt beside the weights was written by the reference: every line is a name and its shape. */
static void golden_names_and_shapes(void **state)
{
    (void)state;
    static const char *const cases[] = { "tests/golden/pi0_tiny", "tests/golden/pi05_tiny" };
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        char path[256], line[512], name[256];
        struct st_set *s;
        assert_int_equal(st_open_dir(&s, cases[c], NULL), PI0_OK);
        snprintf(path, sizeof path, "%s/names.txt", cases[c]);
        FILE *f = fopen(path, "r");
        assert_non_null(f);
        size_t n = 0;
        while (fgets(line, sizeof line, f)) {
            int at = 0;
            assert_int_equal(sscanf(line, "%255s %n", name, &at), 1);
            const struct st_tensor *t = st_find(s, name);
            if (!t && strstr(name, "paligemma.lm_head.weight")) /* the tied table's other name */
                t = st_find(s, "paligemma_with_expert.paligemma.model.language_model.embed_tokens"
                               ".weight");
            if (!t)
                fail_msg("%s is missing", name);
            char *p = line + at;
            for (int i = 0; i < t->rank; i++) {
                assert_true(*p == '[' || *p == ',');
                assert_int_equal(strtoull(p + 1, &p, 10), t->shape[i]);
            }
            assert_int_equal(*p, ']');
            n++;
        }
        fclose(f);
        assert_int_equal(n, s->n_tensors);
        st_close(s);
    }
}

/* ---------------------------------------------------------------- directories */

static char dir[] = "/tmp/pi0-st-XXXXXX";
static const char *const dir_files[] = { "model.safetensors", "model.safetensors.index.json",
                                         "1.safetensors", "2.safetensors" };

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int empty_dir(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof dir_files / sizeof dir_files[0]; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", dir, dir_files[i]);
        unlink(path);
    }
    return 0;
}

static int remove_dir(void **state)
{
    (void)empty_dir(state);
    return rmdir(dir);
}

static void put(const char *name, const void *bytes, size_t n)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void put_shard(const char *name, const char *header, size_t n_values)
{
    struct bytes b = file_of(header, n_values);
    put(name, b.data, b.n);
    free(b.data);
}

static void put_index(const char *text) { put("model.safetensors.index.json", text, strlen(text)); }

static void expect_bad_dir(pi0_status status, const char *why)
{
    struct st_set *s = NULL;
    struct pi0_error err = { 0 };
    assert_int_equal(st_open_dir(&s, dir, &err), status);
    if (!strstr(err.message, why))
        fail_msg("message \"%s\", expected \"… %s …\"", err.message, why);
    assert_null(s);
}

static void put_two_shards(void)
{
    put_shard("1.safetensors", "{" ENTRY("b", "U8", "[4]", 0, 4) "}", 4);
    put_shard("2.safetensors",
              "{" ENTRY("a", "U8", "[2]", 0, 2) "," ENTRY("c", "U8", "[3]", 2, 5) "}", 5);
}

static void sharded_set(void **state)
{
    (void)state;
    struct st_set *s;
    struct pi0_error err = { 0 };
    put_two_shards();
    put_index("{\"metadata\":{\"total_size\":9},\"weight_map\":{\"a\":\"2.safetensors\","
              "\"b\":\"1.safetensors\",\"c\":\"2.safetensors\"}}");
    if (st_open_dir(&s, dir, &err))
        fail_msg("%s", err.message);
    assert_int_equal(s->n_tensors, 3);
    assert_string_equal(s->tensors[0].name, "a");
    assert_string_equal(s->tensors[1].name, "b");
    assert_string_equal(s->tensors[2].name, "c");
    assert_int_equal(st_find(s, "c")->data[0], 2);
    assert_int_equal(st_find(s, "b")->data[3], 3);
    assert_true(s->file_bytes > 9);
    st_close(s);
    /* one file, if it is there, is the checkpoint */
    put_shard("model.safetensors", "{" ENTRY("x", "U8", "[1]", 0, 1) "}", 1);
    assert_int_equal(st_open_dir(&s, dir, NULL), PI0_OK);
    assert_int_equal(s->n_tensors, 1);
    st_close(s);
}

static void sharded_set_without_tensors(void **state)
{
    (void)state;
    struct st_set *s;
    put_index("{\"weight_map\":{}}");
    assert_int_equal(st_open_dir(&s, dir, NULL), PI0_OK);
    assert_int_equal(s->n_tensors, 0);
    assert_null(st_find(s, "a"));
    st_close(s);
}

static void bad_shards(void **state)
{
    (void)state;
    put_two_shards();
    put_index("{\"weight_map\":{\"a\":\"2.safetensors\",\"d\":\"2.safetensors\"}}");
    expect_bad_dir(PI0_E_FORMAT, "tensor d is not in 2.safetensors as listed");
    put_index("{\"weight_map\":{\"a\":\"1.safetensors\",\"c\":\"2.safetensors\"}}");
    expect_bad_dir(PI0_E_FORMAT, "tensor a is not in 1.safetensors as listed");
    put_index("{\"weight_map\":{\"a\":\"3.safetensors\"}}");
    expect_bad_dir(PI0_E_IO, "3.safetensors: cannot be opened: No such file");
    put_shard("1.safetensors", "{" ENTRY("c", "U8", "[4]", 0, 4) "}", 4);
    put_index("{\"weight_map\":{\"c\":\"1.safetensors\",\"a\":\"2.safetensors\"}}");
    expect_bad_dir(PI0_E_FORMAT, "tensor c is in both 1.safetensors and 2.safetensors");
    put("1.safetensors", "short", 5);
    expect_bad_dir(PI0_E_FORMAT, "1.safetensors: 5 bytes, expected at least 8");
}

static void shard_names_stay_in_the_directory(void **state)
{
    (void)state;
    static const char *const names[] = { "\"../1.safetensors\"",
                                         "\"/etc/passwd\"",
                                         "\"a/b\"",
                                         "\"..\"",
                                         "\".\"",
                                         "\"\"",
                                         "\"a..b\"",
                                         "1",
                                         "null" };
    put_two_shards();
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"weight_map\":{\"b\":%s}}", names[i]);
        put_index(text);
        expect_bad_dir(PI0_E_FORMAT, "expected a plain file name");
    }
}

static void bad_index(void **state)
{
    (void)state;
    put_index("{");
    expect_bad_dir(PI0_E_FORMAT, "the index is not valid JSON");
    put_index("{}");
    expect_bad_dir(PI0_E_FORMAT, "no \"weight_map\" object");
    put_index("{\"weight_map\":[]}");
    expect_bad_dir(PI0_E_FORMAT, "no \"weight_map\" object");
    put_index("{\"weight_map\":{\"a\":\"1\",\"a\":\"2\"}}");
    expect_bad_dir(PI0_E_FORMAT, "duplicate object key");
    put_index("[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]");
    expect_bad_dir(PI0_E_FORMAT, "nests deeper");
}

/* An index of n tensors, each in a file of its own or all in "1.safetensors". */
static void put_long_index(int n, int own_files)
{
    char *text = malloc((size_t)n * 32 + 32), *p = text;
    assert_non_null(text);
    p += sprintf(p, "{\"weight_map\":{");
    for (int i = 0; i < n; i++)
        p += own_files ? sprintf(p, "%s\"%d\":\"f%d\"", i ? "," : "", i, i)
                       : sprintf(p, "%s\"%d\":\"1.safetensors\"", i ? "," : "", i);
    memcpy(p, "}}", 3);
    put_index(text);
    free(text);
}

static void index_limits(void **state)
{
    (void)state;
    put_long_index(ST_MAX_SHARDS, 1);
    expect_bad_dir(PI0_E_IO, "f0: cannot be opened"); /* counted as acceptable, then looked for */
    put_long_index(ST_MAX_SHARDS + 1, 1);
    expect_bad_dir(PI0_E_FORMAT, "1025 files, expected at most 1024");
    put_two_shards();
    put_long_index(ST_MAX_TENSORS, 0);
    expect_bad_dir(PI0_E_FORMAT, "tensor 0 is not in 1.safetensors as listed");
    put_long_index(ST_MAX_TENSORS + 1, 0);
    expect_bad_dir(PI0_E_FORMAT, "100001 tensors, expected at most 100000");
}

static void bad_directories(void **state)
{
    (void)state;
    struct st_set *s = NULL;
    struct pi0_error err;
    expect_bad_dir(PI0_E_IO, "holds neither model.safetensors nor model.safetensors.index.json");
    assert_int_equal(st_open_dir(&s, "/nonexistent/pi0", &err), PI0_E_IO);
    assert_string_equal(err.message, "/nonexistent/pi0: No such file or directory");
    assert_int_equal(st_open_dir(&s, "tests/golden/README.md", &err), PI0_E_IO);
    assert_non_null(strstr(err.message, "Not a directory"));
    char *too_long = malloc(5001);
    assert_non_null(too_long);
    memset(too_long, 'd', 5000);
    too_long[5000] = '\0';
    assert_int_equal(st_open_dir(&s, too_long, &err), PI0_E_ARGUMENT);
    free(too_long);
    put("model.safetensors", "", 0);
    expect_bad_dir(PI0_E_FORMAT, "model.safetensors: 0 bytes, expected at least 8");
    assert_null(s);
}

static void unreadable_directory(void **state)
{
    (void)state;
    int root = geteuid() == 0; /* who reads everything: become nobody for a moment */
    put("model.safetensors", "", 0);
    if (root && seteuid(65534) != 0) {
        print_message("skipped: root cannot become another user here\n");
        skip();
    }
    if (!root)
        assert_int_equal(chmod(dir, 0), 0);
    expect_bad_dir(PI0_E_IO, "Permission denied");
    if (root)
        assert_int_equal(seteuid(0), 0);
    else
        assert_int_equal(chmod(dir, 0700), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_file),
        cmocka_unit_test(empty_and_padded_files),
        cmocka_unit_test(zero_size_tensors),
        cmocka_unit_test(every_dtype),
        cmocka_unit_test(rank_limit),
        cmocka_unit_test(truncated_anywhere),
        cmocka_unit_test(header_length),
        cmocka_unit_test(header_limit_and_one_past),
        cmocka_unit_test(oversized_file),
        cmocka_unit_test(overlaps_and_holes),
        cmocka_unit_test(offsets),
        cmocka_unit_test(shapes),
        cmocka_unit_test(dtypes),
        cmocka_unit_test(duplicate_names),
        cmocka_unit_test(not_json),
        cmocka_unit_test(json_depth_limit),
        cmocka_unit_test(tensor_count_limit),
        cmocka_unit_test(json_value_limit),
        cmocka_unit_test(golden_files),
        cmocka_unit_test(golden_names_and_shapes),
        cmocka_unit_test_teardown(sharded_set, empty_dir),
        cmocka_unit_test_teardown(sharded_set_without_tensors, empty_dir),
        cmocka_unit_test_teardown(bad_shards, empty_dir),
        cmocka_unit_test_teardown(shard_names_stay_in_the_directory, empty_dir),
        cmocka_unit_test_teardown(bad_index, empty_dir),
        cmocka_unit_test_teardown(index_limits, empty_dir),
        cmocka_unit_test_teardown(bad_directories, empty_dir),
        cmocka_unit_test_teardown(unreadable_directory, empty_dir),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
