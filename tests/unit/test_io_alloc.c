/* SPDX-License-Identifier: Apache-2.0
 * Memory that runs out at the nth request, for every n until none is left: each time the call must
 * say PI0_E_NOMEM, leave its out-parameters alone and keep nothing. The sources of io/ are compiled
 * in here with malloc and calloc replaced; libpng's memory comes through ours, and jansson takes its
 * own through the same door. libjpeg's requests are out of reach.
 *
 * Two kinds of request fare worse in jansson 2.14: one that fails inside a token is reported as a
 * syntax error, and one that fails while a token's text grows loses a byte of it, unreported. So
 * where jansson asks, a malformed file and a finished parse are accepted too; nothing may be kept. */
#include <stdlib.h>

static int fail_at; /* 1: the next request fails; 0: none does */
static int n_requests, n_held;

static int refuse(void)
{
    n_requests++;
    return fail_at > 0 && --fail_at == 0;
}

static void *short_malloc(size_t n)
{
    void *p = refuse() ? NULL : malloc(n);
    n_held += p != NULL;
    return p;
}

static void *short_calloc(size_t n, size_t each)
{
    void *p = refuse() ? NULL : calloc(n, each);
    n_held += p != NULL;
    return p;
}

static void counted_free(void *p)
{
    n_held -= p != NULL;
    free(p);
}

#define malloc short_malloc
#define calloc short_calloc
#define free counted_free
#include "src/io/image_file.c"
#include "src/io/mapfile.c"
#include "src/io/safetensors.c"
#undef malloc
#undef calloc
#undef free

#include <stdarg.h>

#include <cmocka.h>

static int in_jansson; /* the request that failed was jansson's */

static void *jansson_malloc(size_t n)
{
    int before = fail_at;
    void *p = short_malloc(n);
    in_jansson |= before == 1;
    return p;
}

static void expect_short(pi0_status st, struct st_set *s, const struct pi0_error *err, int request)
{
    if (in_jansson && st == PI0_OK) {
        st_close(s);
    } else {
        if (st != PI0_E_NOMEM && !(in_jansson && st == PI0_E_FORMAT))
            fail_msg("request %d failed: %s, %s", request, pi0_status_name(st), err->message);
        assert_int_equal(err->status, st);
        assert_null(s);
    }
    in_jansson = 0;
    assert_int_equal(n_held, 0);
}

static void parse_file(void **state)
{
    (void)state;
    int n = 0;
    for (;; n++) {
        struct st_set *s = NULL;
        struct pi0_error err = { 0 };
        fail_at = n + 1;
        pi0_status st = st_open_dir(&s, "tests/golden/pi0_tiny", &err);
        int ran_out = fail_at == 0;
        fail_at = 0;
        if (!ran_out) {
            assert_int_equal(st, PI0_OK);
            st_close(s);
            assert_int_equal(n_held, 0);
            break;
        }
        expect_short(st, s, &err, n + 1);
    }
    assert_true(n > 500); /* 122 tensors: the injection did reach the parser */
}

static char dir[] = "/tmp/pi0-alloc-XXXXXX";

static void put(const char *name, const char *header, int with_length)
{
    char path[PATH_BYTES];
    size_t n = strlen(header);
    assert_int_equal(path_join(path, sizeof path, dir, name, NULL), PI0_OK);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    unsigned char length[8] = { (unsigned char)n };
    if (with_length)
        assert_int_equal(fwrite(length, 1, 8, f), 8);
    assert_int_equal(fwrite(header, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void sharded_set(void **state)
{
    (void)state;
    static const char *const files[] = { "1", "2", "model.safetensors.index.json" };
    assert_non_null(mkdtemp(dir));
    put("1", "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 1);
    put("2", "{\"b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 1);
    put(files[2], "{\"weight_map\":{\"a\":\"1\",\"b\":\"2\"}}", 0);
    int n = 0;
    for (;; n++) {
        struct st_set *s = NULL;
        struct pi0_error err = { 0 };
        fail_at = n + 1;
        pi0_status st = st_open_dir(&s, dir, &err);
        int ran_out = fail_at == 0;
        fail_at = 0;
        if (!ran_out) {
            assert_int_equal(st, PI0_OK);
            assert_int_equal(s->n_tensors, 2);
            st_close(s);
            assert_int_equal(n_held, 0);
            break;
        }
        expect_short(st, s, &err, n + 1);
    }
    assert_true(n > 40);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[PATH_BYTES];
        assert_int_equal(path_join(path, sizeof path, dir, files[i], NULL), PI0_OK);
        unlink(path);
    }
    rmdir(dir);
}

static void images(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        int at_least; /* requests that are ours */
    } files[] = {
        { "tests/fuzz/corpus/image/rgb.jpg", 2 },
        { "tests/fuzz/corpus/image/rgb.png", 6 },
        { "tests/fuzz/corpus/image/palette_trns.png", 6 },
        { "tests/fuzz/corpus/image/grey16_interlaced.png", 6 },
    };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        int n = 0;
        for (;; n++) {
            uint8_t *pixels = NULL;
            int h = 0, w = 0;
            struct pi0_error err = { 0 };
            fail_at = n + 1;
            pi0_status st = pi0_image_load(files[i].path, &pixels, &h, &w, &err);
            int ran_out = fail_at == 0;
            fail_at = 0;
            if (!ran_out) {
                assert_int_equal(st, PI0_OK);
                pi0_free(pixels);
                assert_int_equal(n_held, 0);
                break;
            }
            if (st != PI0_E_NOMEM)
                fail_msg("%s: request %d failed: %s, %s", files[i].path, n + 1, pi0_status_name(st),
                         err.message);
            assert_null(pixels);
            assert_int_equal(n_held, 0);
        }
        assert_true(n >= files[i].at_least);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parse_file),
        cmocka_unit_test(sharded_set),
        cmocka_unit_test(images),
    };
    json_set_alloc_funcs(jansson_malloc, counted_free);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
