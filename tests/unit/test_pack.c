/* SPDX-License-Identifier: Apache-2.0
 * The packed layout: where each value lands, padding, stacked and interleaved parts, column ranges,
 * dtypes, ragged sizes, and values that are not finite. */
#include "backend/cpu/pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct tensor f32_tensor(float *data, int rows, int cols)
{
    return (struct tensor){ .data = data,
                            .dtype = DT_F32,
                            .rank = 2,
                            .shape = { rows, cols },
                            .n = (size_t)rows * (size_t)cols };
}

/* Values are small integers: exact in every dtype. */
static float value(int part, int row, int col)
{
    return (float)((part * 37 + row * 5 + col) % 251);
}

static float *fill(int part, int rows, int cols)
{
    float *data = malloc((size_t)rows * (size_t)cols * sizeof *data);
    assert_non_null(data);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++)
            data[(long)r * cols + c] = value(part, r, c);
    return data;
}

/* The value at feature lane `lane` of a panel, by the layout of ops.h. */
static float packed_value(const void *w, const struct packed *p, int panel, int lane, int k)
{
    if (p->dtype == DT_BF16)
        return bf16_to_f32(
            ((const uint16_t *)
                 w)[(((long)panel * (p->k_pad / 2) + k / 2) * CPU_PANEL + lane) * 2 + k % 2]);
    return ((const float *)w)[((long)panel * p->k_pad + k) * CPU_PANEL + lane];
}

static void *pack_all(struct packed *p, const struct pack_source *src, enum dtype dtype, int *bad)
{
    static _Alignas(64) unsigned char scratch[PACK_SCRATCH_BYTES];
    pack_shape(p, src, dtype);
    unsigned char *w = malloc(pack_bytes(p));
    assert_non_null(w);
    memset(w, 0x7F, pack_bytes(p)); /* padding must be written, not found */
    *bad = -1;
    for (int panel = 0; panel < p->n_panels; panel++) { /* any split gives the same block */
        int b = pack_panels(w, p, src, panel, panel + 1, scratch);
        if (b >= 0)
            *bad = b;
    }
    return w;
}

static void stacked(void **state)
{
    (void)state;
    static const int rows[3] = { 20, 5, 7 };
    static const int cols[] = { 1, 2, 31, 32, 33, 64, 600, 1029 };
    for (size_t i = 0; i < sizeof cols / sizeof *cols; i++)
        for (int dtype = 0; dtype < 2; dtype++) {
            float *data[3];
            struct tensor t[3];
            for (int part = 0; part < 3; part++)
                t[part] =
                    f32_tensor(data[part] = fill(part, rows[part], cols[i]), rows[part], cols[i]);
            struct pack_source src = { .part = { &t[0], &t[1], &t[2] }, .n_parts = 3 };
            struct packed p = { 0 };
            int bad;
            void *w = pack_all(&p, &src, dtype ? DT_BF16 : DT_F32, &bad);
            assert_int_equal(bad, -1);
            assert_int_equal(p.n, 32);
            assert_int_equal(p.k, cols[i]);
            assert_int_equal(p.n_panels, 2);
            assert_int_equal(p.k_pad, (cols[i] + 31) / 32 * 32);
            for (int n = 0; n < 32; n++) {
                int part = n < 20   ? 0
                           : n < 25 ? 1
                                    : 2,
                    row = n - (part == 0   ? 0
                               : part == 1 ? 20
                                           : 25);
                for (int k = 0; k < p.k_pad; k++)
                    assert_true(packed_value(w, &p, n / 16, n % 16, k) ==
                                (k < cols[i] ? value(part, row, k) : 0.0f));
            }
            free(w);
            for (int part = 0; part < 3; part++)
                free(data[part]);
        }
}

static void padded_features(void **state)
{
    (void)state;
    float *data = fill(0, 17, 3);
    struct tensor t = f32_tensor(data, 17, 3);
    struct pack_source src = { .part = { &t }, .n_parts = 1 };
    struct packed p = { 0 };
    int bad;
    void *w = pack_all(&p, &src, DT_BF16, &bad);
    assert_int_equal(p.n, 17);
    assert_int_equal(p.n_panels, 2);
    for (int lane = 1; lane < 16; lane++)
        for (int k = 0; k < p.k_pad; k++)
            assert_true(packed_value(w, &p, 1, lane, k) == 0.0f);
    assert_true(packed_value(w, &p, 1, 0, 2) == value(0, 16, 2));
    free(w);
    free(data);
}

static void interleaved(void **state)
{
    (void)state;
    float *gate = fill(0, 24, 40), *up = fill(1, 24, 40);
    struct tensor t[2] = { f32_tensor(gate, 24, 40), f32_tensor(up, 24, 40) };
    struct pack_source src = { .part = { &t[0], &t[1] }, .n_parts = 2, .join = PACK_INTERLEAVED };
    for (int dtype = 0; dtype < 2; dtype++) {
        struct packed p = { 0 };
        int bad;
        void *w = pack_all(&p, &src, dtype ? DT_BF16 : DT_F32, &bad);
        assert_int_equal(p.n, 48);
        assert_int_equal(p.n_panels, 4);
        for (int panel = 0; panel < 4; panel++)
            for (int lane = 0; lane < 16; lane++)
                for (int k = 0; k < p.k_pad; k++) {
                    int row = panel / 2 * 16 + lane;
                    float want = row < 24 && k < 40 ? value(panel % 2, row, k) : 0.0f;
                    assert_true(packed_value(w, &p, panel, lane, k) == want);
                }
        free(w);
    }
    free(gate);
    free(up);
}

static void column_range(void **state)
{
    (void)state;
    float *data = fill(0, 16, 100);
    struct tensor t = f32_tensor(data, 16, 100);
    struct pack_source src = { .part = { &t }, .n_parts = 1, .col = 50, .k = 50 };
    struct packed p = { 0 };
    int bad;
    void *w = pack_all(&p, &src, DT_F32, &bad);
    assert_int_equal(p.k, 50);
    for (int n = 0; n < 16; n++)
        for (int k = 0; k < p.k_pad; k++)
            assert_true(packed_value(w, &p, 0, n, k) == (k < 50 ? value(0, n, 50 + k) : 0.0f));
    free(w);
    free(data);
}

/* A convolution kernel [n, 3, p, p] is a matrix [n, 3 p²]. */
static void more_than_two_dimensions(void **state)
{
    (void)state;
    float *data = fill(0, 16, 12);
    struct tensor t = f32_tensor(data, 16, 12);
    t.rank = 4;
    t.shape[1] = 3;
    t.shape[2] = t.shape[3] = 2;
    struct pack_source src = { .part = { &t }, .n_parts = 1 };
    struct packed p = { 0 };
    int bad;
    void *w = pack_all(&p, &src, DT_F32, &bad);
    assert_int_equal(p.k, 12);
    assert_true(packed_value(w, &p, 0, 3, 11) == value(0, 3, 11));
    free(w);
    free(data);
}

static void not_finite(void **state)
{
    (void)state;
    static const float evil[] = { NAN, INFINITY, -INFINITY };
    float *a = fill(0, 16, 8), *b = fill(1, 16, 8);
    struct tensor t[2] = { f32_tensor(a, 16, 8), f32_tensor(b, 16, 8) };
    struct pack_source src = { .part = { &t[0], &t[1] }, .n_parts = 2 };
    struct packed p = { 0 };
    int bad;
    for (int i = 0; i < 3; i++)
        for (int dtype = 0; dtype < 2; dtype++) {
            b[77] = evil[i];
            free(pack_all(&p, &src, dtype ? DT_BF16 : DT_F32, &bad));
            assert_int_equal(bad, 1);
            b[77] = 1;
        }
    a[3] = 3.4e38f; /* a number, and past the largest bf16 */
    free(pack_all(&p, &src, DT_F32, &bad));
    assert_int_equal(bad, -1);
    free(pack_all(&p, &src, DT_BF16, &bad));
    assert_int_equal(bad, 0);
    free(a);
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stacked),     cmocka_unit_test(padded_features),
        cmocka_unit_test(interleaved), cmocka_unit_test(column_range),
        cmocka_unit_test(not_finite),  cmocka_unit_test(more_than_two_dimensions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
