/* SPDX-License-Identifier: Apache-2.0
 * The resize against Pillow's own bytes (golden data), both sets of loops; lerobot's filter; sizes
 * at the limits and one past. */
#include "backend/cpu/cpuid.h"
#include "base/rng.h"
#include "io/safetensors.h"
#include "policy/image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIDE 224
#define OUT_BYTES ((size_t)SIDE * SIDE * 3)

static struct arena arenas[2];
static struct image_scratch scratch[2]; /* 0: plain C, 1: what this machine has */
static uint8_t out[OUT_BYTES];

static void open_scratch(struct image_scratch *s, struct arena *a, int size, uint32_t isa)
{
    image_scratch_take(s, a, size, isa);
    assert_int_equal(arena_alloc(a, "test", NULL), PI0_OK);
    image_scratch_take(s, a, size, isa);
}

static int setup(void **state)
{
    (void)state;
    open_scratch(&scratch[0], &arenas[0], SIDE, 0);
    open_scratch(&scratch[1], &arenas[1], SIDE, cpuid_isa(PI0_ISA_ALL));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_free(&arenas[0]);
    arena_free(&arenas[1]);
    return 0;
}

/* A picture in a block of exactly its size, so that a sanitizer sees a read past it. */
static uint8_t *picture(int height, int width)
{
    size_t n = (size_t)height * (size_t)width * 3;
    uint8_t *p = malloc(n);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)rng_u64((uint64_t)height * 10007 + (uint64_t)width, i);
    return p;
}

static void equals_pillow(void **state)
{
    (void)state;
    struct st_set *set;
    struct pi0_error err = { PI0_OK, "" };
    assert_int_equal(st_open_file(&set, "tests/golden/pipeline/resize.safetensors", &err), PI0_OK);
    int n_cases = 0;
    for (size_t i = 0; i < set->n_tensors; i++) {
        const char *name = set->tensors[i].name;
        int h, w;
        if (sscanf(name, "out_%dx%d", &h, &w) != 2)
            continue;
        char key[64];
        snprintf(key, sizeof key, "in_%dx%d", h, w);
        const struct st_tensor *in = st_find(set, key);
        if (!in) {
            snprintf(key, sizeof key, "tile_%dx%d", h, w);
            in = st_find(set, key);
        }
        assert_non_null(in);
        /* in_ tensors are the picture; tile_ ones are repeated over it and cropped */
        uint8_t *src = malloc((size_t)h * (size_t)w * 3);
        assert_non_null(src);
        size_t th = in->shape[0], tw = in->shape[1];
        for (size_t y = 0; y < (size_t)h; y++)
            for (size_t x = 0; x < (size_t)w; x++)
                memcpy(src + 3 * (y * (size_t)w + x), in->data + 3 * (y % th * tw + x % tw), 3);
        for (int k = 0; k < 2; k++) {
            memset(out, 0xA5, sizeof out);
            assert_int_equal(image_resize_with_pad(&scratch[k], IMAGE_PILLOW, src, h, w, out, &err),
                             PI0_OK);
            if (memcmp(out, set->tensors[i].data, sizeof out) != 0)
                fail_msg("%s differs from Pillow (loops %d)", name, k);
        }
        free(src);
        n_cases++;
    }
    st_close(set);
    assert_int_equal(n_cases, 9);
}

/* Every small size, and odd ones: the vector loops give the plain loops' bytes, and stay inside. */
static void loops_agree(void **state)
{
    (void)state;
    static const int sizes[] = { 1, 2, 3, 4, 5, 7, 16, 61, 223, 224, 225, 300, 449, 1000 };
    static uint8_t other[OUT_BYTES];
    int n = (int)(sizeof sizes / sizeof sizes[0]);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            int h = sizes[i], w = sizes[j], fh, fw;
            image_fit(h, w, SIDE, &fh, &fw);
            if (fh < 1 || fw < 1)
                continue;
            uint8_t *src = picture(h, w);
            assert_int_equal(image_resize_with_pad(&scratch[0], IMAGE_PILLOW, src, h, w, out, NULL),
                             PI0_OK);
            assert_int_equal(
                image_resize_with_pad(&scratch[1], IMAGE_PILLOW, src, h, w, other, NULL), PI0_OK);
            if (memcmp(out, other, sizeof out) != 0)
                fail_msg("%d x %d: loops differ", h, w);
            free(src);
        }
}

static void fits_as_openpi_does(void **state)
{
    (void)state;
    static const int cases[][4] = { /* h, w → resized h, w */
                                    { 480, 640, 168, 224 }, { 720, 1280, 126, 224 },
                                    { 256, 320, 179, 224 }, { 224, 300, 167, 224 },
                                    { 100, 333, 67, 224 },  { 256, 256, 224, 224 },
                                    { 128, 128, 224, 224 }, { 640, 480, 224, 168 }
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int h, w;
        image_fit(cases[i][0], cases[i][1], SIDE, &h, &w);
        assert_int_equal(h, cases[i][2]);
        assert_int_equal(w, cases[i][3]);
    }
}

/* A square of 4 × 4: rows of 8 pixels and of 4, the worked examples of docs/model.md. */
static void worked_examples(void **state)
{
    (void)state;
    struct arena a[2] = { { 0 }, { 0 } };
    struct image_scratch s[2];
    uint8_t src[8 * 8 * 3], dst[4 * 4 * 3];
    static const uint8_t pillow[] = { 17, 35, 55, 73 }, torch[] = { 15, 35, 55, 75 };
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++)
            memset(src + 3 * (8 * y + x), 10 * (x + 1), 3);
    open_scratch(&s[0], &a[0], 4, 0);
    open_scratch(&s[1], &a[1], 4, cpuid_isa(PI0_ISA_ALL));
    for (int k = 0; k < 2; k++) {
        assert_int_equal(image_resize_with_pad(&s[k], IMAGE_PILLOW, src, 8, 8, dst, NULL), PI0_OK);
        for (int i = 0; i < 16; i++)
            assert_int_equal(dst[3 * i + 1], pillow[i % 4]);
        assert_int_equal(image_resize_with_pad(&s[k], IMAGE_TORCH, src, 8, 8, dst, NULL), PI0_OK);
        for (int i = 0; i < 16; i++)
            assert_int_equal(dst[3 * i + 2], torch[i % 4]);
        arena_free(&a[k]);
    }
}

/* PyTorch's filter when enlarging 2 → 4: weights 1, 3/4·1/4, 1/4·3/4, 1; black above and below. */
static void torch_filter_and_padding(void **state)
{
    (void)state;
    struct arena a = { 0 };
    struct image_scratch s;
    static const uint8_t src[] = { 0, 0, 0, 200, 100, 40 };
    static const int red[] = { 0, 50, 150, 200 }, blue[] = { 0, 10, 30, 40 };
    uint8_t dst[4 * 4 * 3];
    open_scratch(&s, &a, 4, 0);
    assert_int_equal(image_resize_with_pad(&s, IMAGE_TORCH, src, 1, 2, dst, NULL), PI0_OK);
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 4; x++) {
            int inside = y == 1 || y == 2;
            assert_int_equal(dst[3 * (4 * y + x)], inside ? red[x] : 0);
            assert_int_equal(dst[3 * (4 * y + x) + 2], inside ? blue[x] : 0);
        }
    arena_free(&a);
}

static void same_size_is_copied(void **state)
{
    (void)state;
    uint8_t *src = picture(SIDE, SIDE);
    for (int f = 0; f < 2; f++) {
        memset(out, 0, sizeof out);
        assert_int_equal(
            image_resize_with_pad(&scratch[1], (enum image_filter)f, src, SIDE, SIDE, out, NULL),
            PI0_OK);
        assert_memory_equal(out, src, OUT_BYTES);
    }
    free(src);
}

static void limits(void **state)
{
    (void)state;
    struct pi0_error err;
    uint8_t *src = picture(IMAGE_MAX_SIDE, 100);
    static const int bad[][2] = {
        { 0, 10 }, { 10, 0 }, { -1, 10 }, { IMAGE_MAX_SIDE + 1, 100 }, { 100, IMAGE_MAX_SIDE + 1 }
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(
            image_resize_with_pad(&scratch[1], IMAGE_PILLOW, src, bad[i][0], bad[i][1], out, &err),
            PI0_E_INPUT);
        assert_non_null(strstr(err.message, "expected 1 to 16384 a side"));
    }
    for (int f = 0; f < 2; f++) {
        /* the longest side there is, either way round, fills the square from side to side */
        assert_int_equal(image_resize_with_pad(&scratch[1], (enum image_filter)f, src,
                                               IMAGE_MAX_SIDE, 100, out, &err),
                         PI0_OK);
        assert_true(out[3 * 111] > 0 && out[OUT_BYTES - 3 * (SIDE - 111)] > 0);
        assert_int_equal(image_resize_with_pad(&scratch[1], (enum image_filter)f, src, 100,
                                               IMAGE_MAX_SIDE, out, &err),
                         PI0_OK);
        /* 224 : 1 is the thinnest that leaves a pixel */
        assert_int_equal(
            image_resize_with_pad(&scratch[1], (enum image_filter)f, src, 224, 1, out, &err),
            PI0_OK);
        assert_int_equal(
            image_resize_with_pad(&scratch[1], (enum image_filter)f, src, 1, 225, out, &err),
            PI0_E_INPUT);
        assert_non_null(
            strstr(err.message, "225 × 1 pixels (width × height) is too long and thin"));
    }
    free(src);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_pillow),
        cmocka_unit_test(loops_agree),
        cmocka_unit_test(fits_as_openpi_does),
        cmocka_unit_test(worked_examples),
        cmocka_unit_test(torch_filter_and_padding),
        cmocka_unit_test(same_size_is_copied),
        cmocka_unit_test(limits),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
