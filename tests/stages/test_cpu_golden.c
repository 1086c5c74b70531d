/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend against the golden cases: every stage that the files hold, both precisions, every
 * instruction set of this machine, and the bits for 1, 2 and 3 threads and from run to run.
 *
 * Bounds on relative L2: float32 2e-5 (a correct implementation lands near 1e-6; found here ≤ 1e-6),
 * bf16 5e-3 at every stage, the bar of the golden data for the actions. */
#include "golden_case.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static const char *const cases[] = { "pi0_tiny", "pi05_tiny", "pi0_tiny_3cam" };

static pi0_engine *engine_of(const struct golden *g, enum pi0_precision precision, uint32_t isa,
                             int n_threads)
{
    struct pi0_engine_config cfg;
    struct pi0_error err;
    pi0_engine *e = NULL;
    pi0_engine_defaults(&cfg);
    cfg.backend = "cpu";
    cfg.precision = precision;
    cfg.isa_mask = isa;
    cfg.n_threads = n_threads;
    cfg.record_steps = 1;
    if (pi0_engine_open(&e, g->model, &cfg, &err))
        fail_msg("%s", err.message);
    return e;
}

static void open_case(struct golden *g, const char *name)
{
    struct pi0_error err;
    if (golden_open(g, name, &err))
        fail_msg("%s: %s", name, err.message);
}

static void check_engine(const struct golden *g, pi0_engine *e, const char *isa, double tolerance)
{
    struct pi0_check_options options = { .tolerance = tolerance, .min_cosine = 0.9999 };
    struct pi0_check_stage stages[PI0_CHECK_MAX_STAGES];
    struct pi0_error err;
    int n = 0, actions = 0;
    if (pi0_check_file(e, g->io_path, g->c.n_steps, &options, stages, &n, &err))
        fail_msg("%s: %s", g->c.name, err.message);
    for (int i = 0; i < n; i++) {
        actions |= strcmp(stages[i].name, "actions") == 0;
        if (!stages[i].pass || !(stages[i].rel_l2 <= tolerance))
            fail_msg("%s/%s %s: relative L2 %.3g, bound %.3g; cosine %.7f", g->c.name, isa,
                     stages[i].name, stages[i].rel_l2, tolerance, stages[i].cosine);
    }
    assert_true(actions);
    assert_true(n >= 7); /* prefix_embs, _k, _v, suffix_embs_step0, v_t, x_t, actions */
}

static void every_stage(enum pi0_precision precision, double tolerance)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct golden g;
        uint32_t isa;
        const char *name;
        open_case(&g, cases[i]);
        for (int k = 0; golden_isa(k, &isa, &name); k++) {
            pi0_engine *e = engine_of(&g, precision, isa, 2);
            check_engine(&g, e, name, tolerance);
            pi0_engine_close(e);
        }
        golden_close(&g);
    }
}

static void float32_every_stage(void **state)
{
    (void)state;
    every_stage(PI0_PRECISION_F32, 2e-5);
}

static void bf16_every_stage(void **state)
{
    (void)state;
    every_stage(PI0_PRECISION_BF16, 5e-3);
}

static int tap_count(const struct golden *g, enum pi0_tap tap)
{
    return tap == PI0_TAP_PREFIX_EMBS                           ? 1
           : tap == PI0_TAP_PREFIX_K || tap == PI0_TAP_PREFIX_V ? g->c.dims.depth
                                                                : g->c.n_steps;
}

/* Everything a call leaves behind, as one block of floats: actions, then all taps at all indices. */
static float *all_of(const struct golden *g, pi0_engine *e, size_t *n)
{
    struct pi0_error err;
    size_t at = pi0_engine_tap_size(e, PI0_TAP_X);
    *n = at;
    for (int tap = PI0_TAP_PREFIX_EMBS; tap <= PI0_TAP_X; tap++)
        *n += pi0_engine_tap_size(e, (enum pi0_tap)tap) * (size_t)tap_count(g, (enum pi0_tap)tap);
    float *block = malloc(*n * sizeof *block);
    assert_non_null(block);
    if (pi0_engine_infer(e, &g->in, 1, g->c.n_steps, block, NULL, &err))
        fail_msg("%s", err.message);
    for (int tap = PI0_TAP_PREFIX_EMBS; tap <= PI0_TAP_X; tap++) {
        size_t size = pi0_engine_tap_size(e, (enum pi0_tap)tap);
        for (int i = 0; size && i < tap_count(g, (enum pi0_tap)tap); i++, at += size)
            if (pi0_engine_read(e, (enum pi0_tap)tap, i, 0, block + at, size, &err))
                fail_msg("tap %d[%d]: %s", tap, i, err.message);
    }
    return block;
}

static void same_bits_for(enum pi0_precision precision)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct golden g;
        uint32_t isa;
        const char *name;
        open_case(&g, cases[i]);
        for (int k = 0; golden_isa(k, &isa, &name); k++) {
            size_t n, m;
            pi0_engine *one = engine_of(&g, precision, isa, 1);
            float *want = all_of(&g, one, &n);
            for (int threads = 1; threads <= 3; threads++) { /* 1: the same engine, run again */
                pi0_engine *e = threads == 1 ? one : engine_of(&g, precision, isa, threads);
                float *got = all_of(&g, e, &m);
                assert_int_equal(n, m);
                for (size_t j = 0; j < n; j++)
                    if (memcmp(got + j, want + j, sizeof *got) != 0)
                        fail_msg("%s/%s, %d threads: value %zu is %a, was %a", g.c.name, name,
                                 threads, j, (double)got[j], (double)want[j]);
                free(got);
                pi0_engine_close(e);
            }
            free(want);
        }
        golden_close(&g);
    }
}

static void same_bits_float32(void **state)
{
    (void)state;
    same_bits_for(PI0_PRECISION_F32);
}

static void same_bits_bf16(void **state)
{
    (void)state;
    same_bits_for(PI0_PRECISION_BF16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_every_stage),
        cmocka_unit_test(bf16_every_stage),
        cmocka_unit_test(same_bits_float32),
        cmocka_unit_test(same_bits_bf16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
