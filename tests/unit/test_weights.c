/* SPDX-License-Identifier: Apache-2.0
 * The tensor table against the name lists of the golden cases (made by the reference
 * implementation), its parameter counts against docs/model.md, and the reading of values. */
#include "model/weights.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LINES 1024
#define LINE_BYTES 192

struct lines {
    char text[MAX_LINES][LINE_BYTES];
    int n;
    uint64_t values;
    uint64_t group[N_WEIGHT_GROUPS];
    int dead;
};

static int by_text(const void *a, const void *b) { return strcmp(a, b); }

/* "name [2, 3]", as names.txt writes it. */
static pi0_status collect(void *user, const struct weight_entry *e, struct pi0_error *err)
{
    struct lines *l = user;
    (void)err;
    char *line = l->text[l->n++];
    size_t at = (size_t)snprintf(line, LINE_BYTES, "%s [", e->name);
    uint64_t n = 1;
    for (int i = 0; i < e->rank; i++) {
        at += (size_t)snprintf(line + at, LINE_BYTES - at, "%s%d", i ? ", " : "", e->shape[i]);
        n *= (uint64_t)e->shape[i];
    }
    snprintf(line + at, LINE_BYTES - at, "]");
    l->values += n;
    l->group[e->group] += n;
    l->dead += !e->needed;
    return PI0_OK;
}

static struct lines *table_of(const char *dims)
{
    struct pi0_dims d;
    struct weights w;
    struct lines *l = calloc(1, sizeof *l);
    assert_non_null(l);
    assert_int_equal(pi0_dims_named(&d, dims, NULL), PI0_OK);
    assert_int_equal(weights_alloc(&w, &d, NULL), PI0_OK);
    assert_int_equal(weights_walk(&w, &d, collect, l, NULL), PI0_OK);
    weights_free(&w);
    qsort(l->text, (size_t)l->n, LINE_BYTES, by_text);
    return l;
}

static void expect_names(const char *dims, const char *path)
{
    struct lines *got = table_of(dims), *want = calloc(1, sizeof *want);
    assert_non_null(want);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (want->n < MAX_LINES && fgets(want->text[want->n], LINE_BYTES, f)) {
        char *line = want->text[want->n++];
        line[strcspn(line, "\n")] = 0;
    }
    fclose(f);
    qsort(want->text, (size_t)want->n, LINE_BYTES, by_text);
    for (int i = 0; i < got->n && i < want->n; i++)
        assert_string_equal(got->text[i], want->text[i]);
    assert_int_equal(got->n, want->n);
    free(got);
    free(want);
}

static void names(void **state)
{
    (void)state;
    expect_names("pi0_tiny", "tests/golden/pi0_tiny/names.txt");
    expect_names("pi05_tiny", "tests/golden/pi05_tiny/names.txt");
    expect_names("pi0", "tests/golden/pi0_h10/names.txt");
    expect_names("pi05", "tests/golden/pi05_full/names.txt");
}

static void expect_counts(const char *dims, int tensors, uint64_t expert, uint64_t heads,
                          uint64_t all)
{
    struct lines *l = table_of(dims);
    assert_int_equal(l->n, tensors);
    assert_int_equal(l->group[WEIGHTS_VISION], 412442352);
    assert_int_equal(l->group[WEIGHTS_PROJECTOR], 2361344);
    assert_int_equal(l->group[WEIGHTS_TABLE], 526647296);
    assert_int_equal(l->group[WEIGHTS_VLM], 1981884416);
    assert_int_equal(l->group[WEIGHTS_EXPERT], expert);
    assert_int_equal(l->group[WEIGHTS_HEADS], heads);
    assert_int_equal(l->values, all);
    /* Of the last VLM layer: q, o, gate, up, down, second norm; and the final norm. */
    assert_int_equal(l->dead, 7);
    free(l);
}

/* The files also hold the expert's dead lm_head, 257152 x 1024: 3 501 372 176 and 3 616 757 520. */
static void counts(void **state)
{
    (void)state;
    const uint64_t lm_head = 257152u * 1024u;
    expect_counts("pi0", 776, 311464960, 3248160, 3501372176u - lm_head);
    expect_counts("pi05", 811, 427932672, 2165792, 3616757520u - lm_head);
}

static pi0_status stop_at_third(void *user, const struct weight_entry *e, struct pi0_error *err)
{
    return ++*(int *)user == 3 ? pi0_fail(err, PI0_E_MODEL, "%s", e->name) : PI0_OK;
}

static void walk_stops(void **state)
{
    (void)state;
    struct pi0_dims d;
    struct weights w;
    struct pi0_error err;
    int n = 0;
    assert_int_equal(pi0_dims_named(&d, "pi0_tiny", NULL), PI0_OK);
    assert_int_equal(weights_alloc(&w, &d, NULL), PI0_OK);
    assert_int_equal(weights_walk(&w, &d, stop_at_third, &n, &err), PI0_E_MODEL);
    assert_int_equal(n, 3);
    assert_non_null(strstr(err.message, "position_embedding"));
    weights_free(&w);
    weights_free(&w); /* and of what is empty */
    weights_free(NULL);
}

/* ---------------------------------------------------------------- values */

static const float samples[] = { 0,     -0.0f,    1,     -1.5f,  0.1f, 3.14159274f,
                                 1e-3f, 65504.0f, 1e-7f, -2e-5f, 7e4f, 0.333333343f };
#define N_SAMPLES (sizeof samples / sizeof samples[0])

/* Every start and length; data at odd addresses, as files hold them. */
static void expect_reads(const struct tensor *t, const float *want)
{
    for (size_t first = 0; first <= t->n; first++) {
        for (size_t n = 0; first + n <= t->n; n++) {
            float f[N_SAMPLES + 1] = { 0 };
            uint16_t h[N_SAMPLES + 1] = { 0 };
            f[n] = 77;
            h[n] = 77;
            tensor_read_f32(t, first, n, f);
            tensor_read_bf16(t, first, n, h);
            for (size_t i = 0; i < n; i++) {
                assert_int_equal(f32_bits(f[i]), f32_bits(want[first + i]));
                assert_int_equal(h[i], bf16_from_f32(want[first + i]));
            }
            assert_true(f[n] == 77 && h[n] == 77);
        }
    }
}

static void reads(void **state)
{
    (void)state;
    unsigned char block[4 * N_SAMPLES + 1];
    float want[N_SAMPLES];
    struct tensor t = { .data = block + 1, .rank = 1, .n = N_SAMPLES };

    t.dtype = DT_F32;
    memcpy(block + 1, samples, sizeof samples);
    assert_false(tensor_is_bf16(&t));
    expect_reads(&t, samples);

    t.dtype = DT_BF16;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        uint16_t h = bf16_from_f32(samples[i]);
        memcpy(block + 1 + 2 * i, &h, 2);
        want[i] = bf16_to_f32(h);
    }
    assert_true(tensor_is_bf16(&t));
    expect_reads(&t, want);

    /* 1, -2, 65504, smallest subnormal, largest subnormal, 1/3, infinity */
    static const uint16_t half[] = { 0x3C00, 0xC000, 0x7BFF, 0x0001, 0x03FF, 0x3555, 0x7C00 };
    static const float value[] = { 1, -2, 65504, 0x1p-24f, 0x3FFp-24f, 0x1.554p-2f, INFINITY };
    t.dtype = DT_F16;
    t.n = 7;
    memcpy(block + 1, half, sizeof half);
    assert_false(tensor_is_bf16(&t));
    expect_reads(&t, value);
}

static void all_finite(void **state)
{
    (void)state;
    float f[5] = { 1, 3e38f, -3e38f, 0, 1e-45f };
    uint16_t h[5] = { 0x3F80, 0x7F7F, 0xFF7F, 0, 1 };
    struct tensor t = { .data = f, .dtype = DT_F32, .rank = 1, .n = 5 };
    struct tensor b = { .data = h, .dtype = DT_BF16, .rank = 1, .n = 5 };
    struct tensor synthetic = { .rank = 1, .n = 5, .synth_a = 1 };
    assert_true(tensor_all_finite(&t, 0, 5));
    assert_true(tensor_all_finite(&b, 0, 5));
    assert_true(tensor_all_finite(&synthetic, 0, 5));
    f[4] = NAN;
    h[4] = 0xFF80; /* -infinity */
    assert_false(tensor_all_finite(&t, 0, 5));
    assert_false(tensor_all_finite(&b, 0, 5));
    assert_true(tensor_all_finite(&t, 0, 4));
    assert_true(tensor_all_finite(&b, 1, 3));
    assert_true(tensor_all_finite(&b, 5, 0));
    b.dtype = DT_F16;
    for (int i = 0; i < 5; i++)
        h[i] = 0x7BFF; /* 65504 */
    assert_true(tensor_all_finite(&b, 0, 5));
    h[2] = 0x7E00; /* NaN */
    assert_false(tensor_all_finite(&b, 0, 5));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names), cmocka_unit_test(counts),     cmocka_unit_test(walk_stops),
        cmocka_unit_test(reads), cmocka_unit_test(all_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
