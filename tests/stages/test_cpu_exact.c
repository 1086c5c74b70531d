/* SPDX-License-Identifier: Apache-2.0
 * What must not change the result on the CPU (docs/model.md §9): the company of other samples in a
 * batch, pixels of a masked camera, ids under the padding, computing masked cameras or skipping
 * them, an earlier call with another step count. And what must. Through every instruction set. */
#include "golden_case.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_VALUES 1024 /* actions of the tiny cases: 6 · 8 a sample, and prefix embeddings' rows */

struct setting {
    struct golden g;
    uint32_t isa;
    enum pi0_precision precision;
    enum pi0_masked_cameras masked;
    int max_batch, n_threads;
};

static pi0_engine *engine_of(const struct setting *s)
{
    struct pi0_engine_config cfg;
    struct pi0_error err;
    pi0_engine *e = NULL;
    pi0_engine_defaults(&cfg);
    cfg.backend = "cpu";
    cfg.precision = s->precision;
    cfg.isa_mask = s->isa;
    cfg.n_threads = s->n_threads;
    cfg.max_batch = s->max_batch;
    cfg.masked_cameras = s->masked;
    if (pi0_engine_open(&e, s->g.model, &cfg, &err))
        fail_msg("%s", err.message);
    return e;
}

static size_t n_actions(const struct setting *s)
{
    return (size_t)s->g.c.dims.action_horizon * (size_t)s->g.c.dims.action_dim;
}

static void infer(pi0_engine *e, const struct pi0_input *in, int n, int n_steps, float *actions)
{
    struct pi0_error err;
    if (pi0_engine_infer(e, in, n, n_steps, actions, NULL, &err))
        fail_msg("%s", err.message);
}

static double rel_l2(const float *got, const float *want, size_t n)
{
    double d = 0, r = 0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        r += (double)want[i] * (double)want[i];
    }
    return sqrt(d / r);
}

/* Runs `body` for π0 and π0.5, both precisions, every instruction set. */
static void everywhere(void (*body)(struct setting *s))
{
    static const char *const cases[] = { "pi0_tiny", "pi05_tiny" };
    for (int i = 0; i < 2; i++)
        for (int precision = 0; precision < 2; precision++) {
            struct setting s = { .precision = (enum pi0_precision)precision,
                                 .max_batch = 1,
                                 .n_threads = 2 };
            struct pi0_error err;
            const char *name;
            if (golden_open(&s.g, cases[i], &err))
                fail_msg("%s: %s", cases[i], err.message);
            for (int k = 0; golden_isa(k, &s.isa, &name); k++)
                body(&s);
            golden_close(&s.g);
        }
}

/* ---------------------------------------------------------------- batches */

#define N_RAGGED 4

/* Samples that differ in cameras, prompt length, state, noise and pixels. */
struct ragged {
    struct pi0_input in[N_RAGGED];
    float noise[N_RAGGED][MAX_VALUES], state[N_RAGGED][64];
    uint8_t *pixels;
};

static void make_ragged(struct ragged *r, const struct setting *s)
{
    const struct pi0_dims *d = &s->g.c.dims;
    size_t image = (size_t)d->image_size * (size_t)d->image_size * 3;
    static const uint8_t masks[N_RAGGED][3] = {
        { 1, 1, 0 }, { 1, 0, 1 }, { 0, 1, 0 }, { 1, 1, 1 }
    };
    static const int tokens[N_RAGGED] = { 9, 1, 12, 0 };
    r->pixels = malloc(N_RAGGED * 3 * image);
    assert_non_null(r->pixels);
    for (size_t i = 0; i < N_RAGGED * 3 * image; i++)
        r->pixels[i] = (uint8_t)((i * 2654435761u) >> 13);
    for (int b = 0; b < N_RAGGED; b++) {
        r->in[b] = s->g.in;
        pi0_noise(r->noise[b], n_actions(s), 100u + (unsigned)b);
        pi0_noise(r->state[b], (size_t)d->action_dim, 200u + (unsigned)b);
        r->in[b].noise = r->noise[b];
        r->in[b].state = r->state[b];
        r->in[b].token_mask = NULL;
        r->in[b].n_tokens = tokens[b];
        for (int c = 0; c < 3; c++) {
            r->in[b].camera_mask[c] = masks[b][c];
            r->in[b].pixels[c] = r->pixels + (size_t)(b * 3 + c) * image;
        }
    }
}

/* Bit for bit: no element's arithmetic depends on its row's place in the batch. */
static void batch_equals_singles_for(struct setting *s)
{
    static struct ragged r;
    float together[N_RAGGED * MAX_VALUES], alone[MAX_VALUES];
    size_t n = n_actions(s);
    make_ragged(&r, s);
    for (int masked = 0; masked < 2; masked++) {
        s->masked = (enum pi0_masked_cameras)masked;
        s->max_batch = N_RAGGED;
        pi0_engine *e = engine_of(s);
        infer(e, r.in, N_RAGGED, 3, together);
        s->max_batch = 1;
        pi0_engine *single = engine_of(s);
        for (int b = 0; b < N_RAGGED; b++) {
            infer(e, &r.in[b], 1, 3, alone);
            assert_memory_equal(alone, together + (size_t)b * n, n * sizeof *alone);
            infer(single, &r.in[b], 1, 3, alone);
            assert_memory_equal(alone, together + (size_t)b * n, n * sizeof *alone);
        }
        pi0_engine_close(single);
        pi0_engine_close(e);
    }
    s->masked = PI0_MASKED_SKIP;
    free(r.pixels);
}

static void batch_equals_singles(void **state)
{
    (void)state;
    everywhere(batch_equals_singles_for);
}

/* More threads than some ops have items: idle ones change nothing. */
static void many_threads(void **state)
{
    (void)state;
    struct setting s = { .max_batch = 1, .n_threads = 1, .isa = PI0_ISA_ALL };
    struct pi0_error err;
    float want[MAX_VALUES], got[MAX_VALUES];
    if (golden_open(&s.g, "pi0_tiny", &err))
        fail_msg("%s", err.message);
    pi0_engine *one = engine_of(&s);
    s.n_threads = 17;
    pi0_engine *many = engine_of(&s);
    infer(one, &s.g.in, 1, 2, want);
    infer(many, &s.g.in, 1, 2, got);
    assert_memory_equal(got, want, n_actions(&s) * sizeof *got);
    pi0_engine_close(many);
    pi0_engine_close(one);
    golden_close(&s.g);
}

/* ---------------------------------------------------------------- masks */

/* The golden case's third camera is masked and its prompt is padded. */
static void masked_inputs_change_nothing_for(struct setting *s)
{
    const struct pi0_dims *d = &s->g.c.dims;
    size_t image = (size_t)d->image_size * (size_t)d->image_size * 3, n = n_actions(s);
    float want[MAX_VALUES], got[MAX_VALUES];
    int32_t tokens[64];
    uint8_t *noise = malloc(image);
    assert_non_null(noise);
    for (size_t i = 0; i < image; i++)
        noise[i] = (uint8_t)((i * 2246822519u) >> 11);
    for (int masked = 0; masked < 2; masked++) {
        s->masked = (enum pi0_masked_cameras)masked;
        pi0_engine *e = engine_of(s);
        infer(e, &s->g.in, 1, s->g.c.n_steps, want);
        struct pi0_input in = s->g.in;
        assert_int_equal(in.camera_mask[2], 0);
        in.pixels[2] = noise;
        memcpy(tokens, in.tokens, (size_t)in.n_tokens * sizeof *tokens);
        int padded = 0;
        for (int i = 0; i < in.n_tokens; i++)
            if (!in.token_mask[i]) {
                tokens[i] = (i * 37 + 11) % d->vocab_size;
                padded++;
            }
        assert_true(padded > 0);
        in.tokens = tokens;
        infer(e, &in, 1, s->g.c.n_steps, got);
        assert_memory_equal(got, want, n * sizeof *got);
        in.pixels[2] = NULL; /* allowed where masked */
        infer(e, &in, 1, s->g.c.n_steps, got);
        assert_memory_equal(got, want, n * sizeof *got);
        pi0_engine_close(e);
    }
    s->masked = PI0_MASKED_SKIP;
    free(noise);
}

static void masked_inputs_change_nothing(void **state)
{
    (void)state;
    everywhere(masked_inputs_change_nothing_for);
}

/* Computing masked cameras gives the same actions to 1e-6 (float32 sums over the same keys, grouped
 * differently), and does compute them: their image tokens are those of the same pixels unmasked. */
static void computing_equals_skipping_for(struct setting *s)
{
    const struct pi0_dims *d = &s->g.c.dims;
    size_t n = n_actions(s);
    float skipped[MAX_VALUES], computed[MAX_VALUES];
    struct pi0_error err;
    pi0_engine *skip = engine_of(s);
    s->masked = PI0_MASKED_COMPUTE;
    pi0_engine *compute = engine_of(s);
    s->masked = PI0_MASKED_SKIP;
    infer(skip, &s->g.in, 1, s->g.c.n_steps, skipped);
    infer(compute, &s->g.in, 1, s->g.c.n_steps, computed);
    assert_true(rel_l2(computed, skipped, n) <= 1e-6);

    size_t size = pi0_engine_tap_size(skip, PI0_TAP_PREFIX_EMBS), width = (size_t)d->vlm_width;
    size_t side = (size_t)(d->image_size / d->patch_size), tokens = side * side;
    float *masked = malloc(size * sizeof *masked), *valid = malloc(size * sizeof *valid);
    assert_true(masked && valid);
    assert_int_equal(pi0_engine_read(compute, PI0_TAP_PREFIX_EMBS, 0, 0, masked, size, &err),
                     PI0_OK);
    assert_int_equal(pi0_engine_read(skip, PI0_TAP_PREFIX_EMBS, 0, 0, valid, size, &err), PI0_OK);
    for (size_t i = 2 * tokens * width; i < 3 * tokens * width; i++)
        assert_true(valid[i] == 0.0f); /* rows that were not computed read as 0 */
    struct pi0_input in = s->g.in;
    in.camera_mask[2] = 1;
    infer(skip, &in, 1, s->g.c.n_steps, skipped);
    assert_int_equal(pi0_engine_read(skip, PI0_TAP_PREFIX_EMBS, 0, 0, valid, size, &err), PI0_OK);
    assert_memory_equal(masked, valid, 3 * tokens * width * sizeof *masked);
    assert_true(rel_l2(computed, skipped, n) > 1e-4); /* an unmasked camera does matter */
    free(masked);
    free(valid);
    pi0_engine_close(skip);
    pi0_engine_close(compute);
}

static void computing_equals_skipping(void **state)
{
    (void)state;
    everywhere(computing_equals_skipping_for);
}

/* ---------------------------------------------------------------- calls and steps */

/* Tables of another step count are made in place; going back gives the first bits again. */
static void step_counts_do_not_mix_for(struct setting *s)
{
    size_t n = n_actions(s);
    float ten[MAX_VALUES], four[MAX_VALUES], got[MAX_VALUES];
    pi0_engine *e = engine_of(s), *fresh = engine_of(s);
    infer(e, &s->g.in, 1, 10, ten);
    infer(e, &s->g.in, 1, 4, four);
    infer(fresh, &s->g.in, 1, 4, got);
    assert_memory_equal(got, four, n * sizeof *got);
    infer(e, &s->g.in, 1, 10, got);
    assert_memory_equal(got, ten, n * sizeof *got);
    assert_true(rel_l2(four, ten, n) > 1e-4);
    infer(e, &s->g.in, 1, 1, got);
    pi0_engine_close(fresh);
    pi0_engine_close(e);
}

static void step_counts_do_not_mix(void **state)
{
    (void)state;
    everywhere(step_counts_do_not_mix_for);
}

/* π0's actions depend on the state, π0.5's do not (its state is in the prompt); both depend on noise
 * in the last action dimension, which is padding for most robots (docs/model.md §9, item 17). */
static void what_matters_for(struct setting *s)
{
    const struct pi0_dims *d = &s->g.c.dims;
    size_t n = n_actions(s);
    float want[MAX_VALUES], got[MAX_VALUES], state[64], noise[MAX_VALUES];
    pi0_engine *e = engine_of(s);
    infer(e, &s->g.in, 1, s->g.c.n_steps, want);
    struct pi0_input in = s->g.in;
    memcpy(state, in.state, (size_t)d->action_dim * sizeof *state);
    state[0] += 1.0f;
    in.state = state;
    infer(e, &in, 1, s->g.c.n_steps, got);
    if (d->variant == PI0_VARIANT_PI0)
        assert_true(rel_l2(got, want, n) > 1e-4);
    else
        assert_memory_equal(got, want, n * sizeof *got);
    in = s->g.in;
    memcpy(noise, in.noise, n * sizeof *noise);
    for (int j = 0; j < d->action_horizon; j++)
        noise[(j + 1) * d->action_dim - 1] += 1.0f;
    in.noise = noise;
    infer(e, &in, 1, s->g.c.n_steps, got);
    double moved = 0;
    for (int j = 0; j < d->action_horizon; j++)
        moved += fabs((double)got[j * d->action_dim] - (double)want[j * d->action_dim]);
    assert_true(moved > 1e-4);
    pi0_engine_close(e);
}

static void what_matters(void **state)
{
    (void)state;
    everywhere(what_matters_for);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batch_equals_singles),         cmocka_unit_test(many_threads),
        cmocka_unit_test(masked_inputs_change_nothing), cmocka_unit_test(computing_equals_skipping),
        cmocka_unit_test(step_counts_do_not_mix),       cmocka_unit_test(what_matters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
