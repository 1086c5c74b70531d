/* SPDX-License-Identifier: Apache-2.0
 * Statistics: the formulas' worked examples, norm_stats.json and everything wrong with one, where it
 * is looked for. */
#include "policy/stats.h"

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

static struct norm_stats stats;
static struct pi0_error err;

static double in(enum stat_kind kind, double a, double b, double x)
{
    struct feature_stats *s = &stats.state;
    *s = (struct feature_stats){ .kind = kind, .n = 1, .eps = 1e-8, .a = { a }, .b = { b } };
    double out = -99;
    normalize(s, &x, 1, &out);
    return out;
}

static double back(enum stat_kind kind, double a, double b, float x)
{
    struct feature_stats *s = &stats.state;
    *s = (struct feature_stats){ .kind = kind, .n = 1, .eps = 1e-8, .a = { a }, .b = { b } };
    double out = -99;
    unnormalize_actions(s, &x, 1, &out);
    return out;
}

/* Exact comparison on purpose: these are the bits of the Python expressions. */
static void worked_examples(void **state)
{
    (void)state;
    float m = 0.1f, d = 0.2f, lo = -0.5f, x = 0.35f;
    assert_true(in(STAT_OPENPI_ZSCORE, 0.1, 0.2, 0.35) == 1.2499937500312497);
    assert_true(in(STAT_OPENPI_QUANTILE, -0.5, 1.0, 0.35) == 0.13333257777828145);
    assert_true(in(STAT_NONE, 3, 4, 0.35) == 0.35);
    /* lerobot: float32, so near the float64 values 1.249999937500003 and 0.1333333333333333 */
    assert_true(in(STAT_MEAN_STD, m, d, 0.35) == (x - m) / (d + 1e-8f));
    assert_true(in(STAT_QUANTILES, lo, 1, 0.35) == 2.0f * (x - lo) / 1.5f - 1.0f);
    assert_true(in(STAT_MIN_MAX, lo, 1, 0.35) == in(STAT_QUANTILES, lo, 1, 0.35));
    /* and back: openpi halves in float32, then goes on in float64 */
    assert_true(back(STAT_OPENPI_ZSCORE, 0.1, 0.2, 1.25f) == 1.25 * (0.2 + 1e-6) + 0.1);
    assert_true(back(STAT_OPENPI_QUANTILE, -0.5, 1.0, 0.3f) ==
                (double)((0.3f + 1.0f) / 2.0f) * (1.0 - -0.5 + 1e-6) + -0.5);
    assert_true(back(STAT_MEAN_STD, m, d, 1.25f) == 1.25f * d + m);
    assert_true(back(STAT_MIN_MAX, lo, 1, 0.3f) == (0.3f + 1.0f) / 2.0f * 1.5f + lo);
    assert_true(back(STAT_QUANTILES, lo, 1, 0.3f) == (0.3f + 1.0f) * 1.5f / 2.0f + lo);
    assert_true(back(STAT_NONE, 3, 4, 0.3f) == 0.3f);
    /* lerobot: a range of exactly 0 becomes eps */
    assert_true(in(STAT_MIN_MAX, 1, 1, 1) == -1.0);
    assert_true(in(STAT_QUANTILES, 0, 0, 1) == 2.0f / 1e-8f - 1.0f);
}

static void past_the_statistics(void **state)
{
    (void)state;
    struct feature_stats *s = &stats.actions;
    double out[3], x[3] = { 0.5, 0.5, 0.5 };
    static const float f[3] = { 0.5f, 0.5f, 0.5f };
    *s = (struct feature_stats){ .kind = STAT_OPENPI_ZSCORE, .n = 1, .a = { 1 }, .b = { 2 } };
    unnormalize_actions(s, f, 3, out);
    assert_true(out[0] == 0.5 * (2 + 1e-6) + 1 && out[1] == 0.5 * (1 + 1e-6) && out[2] == out[1]);
    unnormalize_state(s, x, 3, out);
    assert_true(out[0] == 0.5 * (2 + 1e-6) + 1 && out[1] == 0.5 * (1 + 1e-6));
    *s = (struct feature_stats){ .kind = STAT_OPENPI_QUANTILE, .n = 1, .a = { 1 }, .b = { 2 } };
    unnormalize_actions(s, f, 3, out);
    assert_true(out[1] == 0.5 && out[2] == 0.5);
    unnormalize_state(s, x, 3, out);
    assert_true(out[0] == 0.75 * (1 + 1e-6) + 1 && out[1] == 0.5);
}

static pi0_status parse(const char *text, enum norm_mode mode)
{
    return stats_parse(&stats, text, strlen(text), mode, "s.json", &err);
}

#define GOOD "\"mean\":[1,2],\"std\":[3,4],\"q01\":[5,6],\"q99\":[7,8]"
#define STATS(state, actions) \
    "{\"norm_stats\":{\"state\":{" state "},\"actions\":{" actions "},\"more\":1}}"

static void reads_a_file(void **state)
{
    (void)state;
    assert_int_equal(
        parse(STATS(GOOD, "\"mean\":[0.5],\"std\":[0],\"q01\":[1e-3],\"q99\":[-1]"), NORM_ZSCORE),
        PI0_OK);
    assert_int_equal(stats.state.n, 2);
    assert_int_equal(stats.actions.n, 1);
    assert_int_equal(stats.state.kind, STAT_OPENPI_ZSCORE);
    assert_true(stats.state.a[1] == 2 && stats.state.b[0] == 3 && stats.actions.a[0] == 0.5);
    assert_int_equal(parse(STATS(GOOD, GOOD), NORM_QUANTILE), PI0_OK);
    assert_int_equal(stats.actions.kind, STAT_OPENPI_QUANTILE);
    assert_true(stats.actions.a[0] == 5 && stats.actions.b[1] == 8);
    /* null and absent quantiles are fine where they are not used */
    assert_int_equal(parse(STATS("\"mean\":[1],\"std\":[3],\"q01\":null,\"q99\":null",
                                 "\"mean\":[1],\"std\":[3]"),
                           NORM_ZSCORE),
                     PI0_OK);
}

static void wrong_files(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum norm_mode mode;
        const char *message;
    } cases[] = {
        { STATS("\"mean\":[1],\"std\":[3],\"q01\":null,\"q99\":null", GOOD), NORM_QUANTILE,
          "s.json: norm_stats.state.q01 is null, expected a list of numbers: this model normalises "
          "by quantiles" },
        { STATS(GOOD, "\"mean\":[1],\"std\":[3],\"q01\":[1]"), NORM_QUANTILE,
          "norm_stats.actions.q99 is absent" },
        { STATS("\"std\":[3]", GOOD), NORM_ZSCORE,
          "norm_stats.state.mean is absent, expected a list of numbers" },
        { STATS("\"mean\":[1,2],\"std\":[3]", GOOD), NORM_ZSCORE,
          "norm_stats.state.std has 1 numbers, expected 2, as many as mean" },
        { STATS(GOOD, "\"mean\":[1],\"std\":[3],\"q01\":[1,2],\"q99\":[1]"), NORM_ZSCORE,
          "norm_stats.actions.q01 has 2 numbers, expected 1" },
        { STATS("\"mean\":[],\"std\":[]", GOOD), NORM_ZSCORE,
          "norm_stats.state.mean has 0 numbers, expected 1 to 1024" },
        { STATS("\"mean\":[1],\"std\":[-0.5]", GOOD), NORM_ZSCORE,
          "norm_stats.state.std[0] is -0.5, expected 0 or more" },
        { STATS("\"mean\":[1,\"x\"],\"std\":[1,1]", GOOD), NORM_ZSCORE,
          "norm_stats.state.mean[1] is not a number" },
        { STATS("\"mean\":[1,null],\"std\":[1,1]", GOOD), NORM_ZSCORE,
          "norm_stats.state.mean[1] is not a number" },
        { STATS("\"mean\":{},\"std\":[1]", GOOD), NORM_ZSCORE,
          "norm_stats.state.mean is not a list of numbers" },
        { STATS("\"mean\":[NaN],\"std\":[1]", GOOD), NORM_ZSCORE, "s.json: line 1, column" },
        { STATS("\"mean\":[1e999],\"std\":[1]", GOOD), NORM_ZSCORE, "real number overflow" },
        { STATS("\"mean\":[Infinity],\"std\":[1]", GOOD), NORM_ZSCORE, "s.json: line 1, column" },
        { "{\"norm_stats\":{\"state\":{" GOOD "}}}", NORM_ZSCORE,
          "norm_stats.actions is absent, expected an object" },
        { "{\"norm_stats\":{\"state\":3}}", NORM_ZSCORE, "norm_stats.state is not an object" },
        { "{\"state\":{" GOOD "}}", NORM_ZSCORE, "s.json: no object \"norm_stats\"" },
        { "[]", NORM_ZSCORE, "no object \"norm_stats\"" },
        { "{\"norm_stats\":", NORM_ZSCORE, "s.json: line 1" },
        { "", NORM_ZSCORE, "s.json: line 1" },
        { "{\"norm_stats\":1,\"norm_stats\":2}", NORM_ZSCORE, "duplicate" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        stats.state.n = 77;
        assert_int_equal(parse(cases[i].text, cases[i].mode), PI0_E_FORMAT);
        if (!strstr(err.message, cases[i].message))
            fail_msg("case %zu: \"%s\" lacks \"%s\"", i, err.message, cases[i].message);
        assert_int_equal(stats.state.n, 77); /* untouched on failure */
    }
}

/* STATS_MAX_DIM numbers are read, one more is refused. */
static void longest_vectors(void **state)
{
    (void)state;
    char *text = malloc(64 * 1024);
    assert_non_null(text);
    for (int n = STATS_MAX_DIM; n <= STATS_MAX_DIM + 1; n++) {
        size_t at = (size_t)sprintf(text, "{\"norm_stats\":{");
        for (int f = 0; f < 2; f++)
            for (int v = 0; v < 2; v++) {
                at += (size_t)sprintf(text + at, "%s\"%s\":[",
                                      v   ? ","
                                      : f ? ",\"actions\":{"
                                          : "\"state\":{",
                                      v ? "std" : "mean");
                for (int i = 0; i < n; i++)
                    at += (size_t)sprintf(text + at, i ? ",%d" : "%d", i % 10);
                at += (size_t)sprintf(text + at, v ? "]}" : "]");
            }
        sprintf(text + at, "}}");
        assert_int_equal(parse(text, NORM_ZSCORE), n > STATS_MAX_DIM ? PI0_E_FORMAT : PI0_OK);
    }
    assert_non_null(strstr(err.message, "has 1025 numbers, expected 1 to 1024"));
    free(text);
}

/* ---------------------------------------------------------------- finding the file */

static char dir[] = "/tmp/pi0-stats-XXXXXX";

static void at(char path[512], const char *name) { snprintf(path, 512, "%s/%s", dir, name); }

static void put(const char *name)
{
    char path[512];
    at(path, name);
    for (char *p = path + strlen(dir) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(path, 0700);
        *p = '/';
    }
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(STATS(GOOD, GOOD), f);
    fclose(f);
}

static void drop(const char *name)
{
    char path[512];
    at(path, name);
    assert_int_equal(remove(path), 0);
}

static void expect_found(const char *asset_id, const char *want)
{
    char path[STATS_PATH_BYTES], full[512];
    assert_int_equal(stats_find(path, dir, asset_id, &err), PI0_OK);
    if (want)
        at(full, want);
    assert_string_equal(path, want ? full : "");
}

static void finds_the_file(void **state)
{
    (void)state;
    char path[STATS_PATH_BYTES];
    assert_non_null(mkdtemp(dir));
    expect_found("", NULL);
    expect_found("droid", NULL);
    put("assets/physical-intelligence/libero/norm_stats.json");
    expect_found("", "assets/physical-intelligence/libero/norm_stats.json");
    expect_found("droid", "assets/physical-intelligence/libero/norm_stats.json"); /* the only one */
    put("assets/droid/norm_stats.json");
    expect_found("droid", "assets/droid/norm_stats.json");
    expect_found("physical-intelligence/libero",
                 "assets/physical-intelligence/libero/norm_stats.json");
    assert_int_equal(stats_find(path, dir, "", &err), PI0_E_ARGUMENT);
    assert_non_null(strstr(err.message, "holds 2 norm_stats.json"));
    assert_non_null(strstr(err.message, "assets/droid"));
    assert_non_null(strstr(err.message, "assets/physical-intelligence/libero"));
    put("norm_stats.json");
    expect_found("", "norm_stats.json");
    expect_found("trossen", "norm_stats.json");
    expect_found("droid", "assets/droid/norm_stats.json");
    static const char *const outside[] = {
        "../droid", "..", "/droid", "droid/", "a//b", "./droid"
    };
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++) {
        assert_int_equal(stats_find(path, dir, outside[i], &err), PI0_E_FORMAT);
        assert_non_null(strstr(err.message, "does not name a folder below assets"));
    }
    drop("norm_stats.json");
    drop("assets/droid/norm_stats.json");
    drop("assets/droid");
    drop("assets/physical-intelligence/libero/norm_stats.json");
    drop("assets/physical-intelligence/libero");
    drop("assets/physical-intelligence");
    drop("assets");
    assert_int_equal(rmdir(dir), 0);
    expect_found("x", NULL); /* no such directory: nothing found there */
}

static void unreadable_files(void **state)
{
    (void)state;
    assert_int_equal(stats_load(&stats, "tests/golden/absent.json", NORM_ZSCORE, &err), PI0_E_IO);
    assert_non_null(strstr(err.message, "tests/golden/absent.json"));
    assert_int_equal(stats_load(&stats, "tests/golden", NORM_ZSCORE, &err), PI0_E_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(worked_examples),  cmocka_unit_test(past_the_statistics),
        cmocka_unit_test(reads_a_file),     cmocka_unit_test(wrong_files),
        cmocka_unit_test(longest_vectors),  cmocka_unit_test(finds_the_file),
        cmocka_unit_test(unreadable_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
