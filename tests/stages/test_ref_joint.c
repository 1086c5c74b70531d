/* SPDX-License-Identifier: Apache-2.0
 * The whole policy out of ref/ops.c alone, in the form training uses (docs/model.md §11): prefix and
 * suffix in one pass, one attention with the full mask, masked cameras and padded tokens computed
 * like all others, no cache, nothing skipped, folded or precomputed. The engine must agree, in both
 * precisions, through every instruction set, at the golden cases' sizes and at sizes that divide by
 * nothing: it proves the skips, the cache, the state token's single pass, the folds and the padding
 * at once. */
#include "golden_case.h"

#include "ref/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Blocks that live until the test ends. */
#define MAX_BLOCKS 16384
#define MAX_ROWS 96
static void *blocks[MAX_BLOCKS];
static int n_blocks;

static float *room(size_t n)
{
    assert_true(n_blocks < MAX_BLOCKS);
    float *p = calloc(n ? n : 1, sizeof *p);
    assert_non_null(p);
    blocks[n_blocks++] = p;
    return p;
}

static void free_blocks(void)
{
    while (n_blocks > 0)
        free(blocks[--n_blocks]);
}

static float *values(const struct tensor *t)
{
    float *p = room(t->n);
    tensor_read_f32(t, 0, t->n, p);
    return p;
}

/* x · wᵀ + b into a new block; bias NULL where there is none. */
static float *dense(const float *x, int m, const struct tensor *w, const struct tensor *b)
{
    int n = w->shape[0], k = (int)(w->n / (size_t)n);
    float *y = room((size_t)m * (size_t)n);
    ref_linear(y, x, values(w), b ? values(b) : NULL, (struct ref_mnk){ m, n, k });
    return y;
}

static void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

/* ---------------------------------------------------------------- vision */

static float *image_tokens(const struct weights *w, const struct pi0_dims *d, const uint8_t *pixels)
{
    int grid = d->image_size / d->patch_size, t = grid * grid, width = d->vision_width;
    int h = d->vision_heads, e = width / h;
    size_t n = (size_t)t * (size_t)width;
    float *patches = room((size_t)t * 3 * (size_t)(d->patch_size * d->patch_size));
    ref_patches(patches, pixels, d->image_size, d->patch_size);
    float *x = dense(patches, t, &w->patch_w, &w->patch_b);
    add(x, values(&w->pos), n);
    for (int i = 0; i < d->vision_depth; i++) {
        const struct vision_layer *l = &w->vision[i];
        float *a = room(n), *o = room(n);
        ref_layernorm(a, x, values(&l->ln1_w), values(&l->ln1_b), t, width);
        struct ref_attention at = { .q = dense(a, t, &l->q_w, &l->q_b),
                                    .k = dense(a, t, &l->k_w, &l->k_b),
                                    .v = dense(a, t, &l->v_w, &l->v_b),
                                    .m = t,
                                    .n = t,
                                    .h = h,
                                    .g = h,
                                    .e = e,
                                    .scale = 1.0f / sqrtf((float)e) };
        ref_attention(o, &at);
        add(x, dense(o, t, &l->o_w, &l->o_b), n);
        ref_layernorm(a, x, values(&l->ln2_w), values(&l->ln2_b), t, width);
        float *hidden = dense(a, t, &l->fc1_w, &l->fc1_b);
        for (long j = 0; j < (long)t * d->vision_mlp_dim; j++)
            hidden[j] = ref_gelu_tanh(hidden[j]);
        add(x, dense(hidden, t, &l->fc2_w, &l->fc2_b), n);
    }
    float *out = room(n);
    ref_layernorm(out, x, values(&w->post_ln_w), values(&w->post_ln_b), t, width);
    return dense(out, t, &w->proj_w, &w->proj_b);
}

/* ---------------------------------------------------------------- joint transformer */

/* One side of the joint pass: the prefix with the VLM's weights, or the suffix with the expert's. */
struct side {
    const struct gemma_layer *layers;
    float *x;          /* [m][width] */
    const float *cond; /* adaRMS, or NULL */
    int m, width;
};

/* Norm of one side; the gate is returned where there is one. */
static float *normed(const struct side *s, const struct tensor *w, const struct tensor *mod_w,
                     const struct tensor *mod_b, const float **gate)
{
    float *y = room((size_t)s->m * (size_t)s->width);
    *gate = NULL;
    if (!s->cond) {
        ref_rmsnorm(y, s->x, values(w), s->m, s->width);
        return y;
    }
    const float *mod = dense(s->cond, 1, mod_w, mod_b);
    ref_adarms(y, s->x, mod, mod + s->width, s->m, s->width);
    *gate = mod + 2 * s->width;
    return y;
}

static void add_gated(const struct side *s, const float *y, const float *gate)
{
    for (int r = 0; r < s->m; r++)
        for (int i = 0; i < s->width; i++)
            s->x[r * s->width + i] += y[r * s->width + i] * (gate ? gate[i] : 1.0f);
}

/* a, then b; m = 0: a copy of a. */
static float *concat(const float *a, size_t n, const float *b, size_t m)
{
    float *c = room(n + m);
    memcpy(c, a, n * sizeof *c);
    if (m)
        memcpy(c + n, b, m * sizeof *c);
    return c;
}

struct joint {
    struct side side[2]; /* prefix, suffix */
    const int *pos;      /* [m] */
    const uint8_t *mask; /* [m][m] */
    int heads, e;
    float **k, **v; /* of each layer, all rows: kept for the comparison */
};

static void joint_layer(const struct joint *j, int layer)
{
    int m[2] = { j->side[0].m, j->side[1].m }, all = m[0] + m[1], q_dim = j->heads * j->e;
    float *q[2], *k[2], *v[2];
    const float *gate[2];
    for (int i = 0; i < 2; i++) {
        const struct side *s = &j->side[i];
        const struct gemma_layer *l = &s->layers[layer];
        float *n = normed(s, &l->norm1_w, &l->norm1_mod_w, &l->norm1_mod_b, &gate[i]);
        q[i] = dense(n, s->m, &l->q_w, NULL);
        k[i] = dense(n, s->m, &l->k_w, NULL);
        v[i] = dense(n, s->m, &l->v_w, NULL);
        ref_rope(q[i], j->pos + (i ? m[0] : 0), s->m, j->heads, j->e);
        ref_rope(k[i], j->pos + (i ? m[0] : 0), s->m, 1, j->e);
    }
    size_t e = (size_t)j->e, qn = (size_t)q_dim;
    j->k[layer] = concat(k[0], (size_t)m[0] * e, k[1], (size_t)m[1] * e);
    j->v[layer] = concat(v[0], (size_t)m[0] * e, v[1], (size_t)m[1] * e);
    struct ref_attention at = { .q = concat(q[0], (size_t)m[0] * qn, q[1], (size_t)m[1] * qn),
                                .k = j->k[layer],
                                .v = j->v[layer],
                                .mask = j->mask,
                                .m = all,
                                .n = all,
                                .h = j->heads,
                                .g = 1,
                                .e = j->e,
                                .scale = 1.0f / sqrtf((float)j->e) };
    float *o = room((size_t)all * qn);
    ref_attention(o, &at);
    for (int i = 0; i < 2; i++) {
        const struct side *s = &j->side[i];
        const struct gemma_layer *l = &s->layers[layer];
        if (!l->o_w.rank)
            continue;
        add_gated(s, dense(o + (i ? (size_t)m[0] * qn : 0), s->m, &l->o_w, NULL), gate[i]);
        float *n = normed(s, &l->norm2_w, &l->norm2_mod_w, &l->norm2_mod_b, &gate[i]);
        float *hidden = dense(n, s->m, &l->gate_w, NULL);
        const float *up = dense(n, s->m, &l->up_w, NULL);
        for (long c = 0; c < (long)s->m * l->gate_w.shape[0]; c++)
            hidden[c] = ref_gelu_tanh(hidden[c]) * up[c];
        add_gated(s, dense(hidden, s->m, &l->down_w, NULL), gate[i]);
    }
}

/* ---------------------------------------------------------------- one evaluation of v */

struct model {
    const struct golden *g;
    const struct weights *w;
    const struct pi0_dims *d;
    int p, s, n_state; /* prefix and suffix rows */
    float *prefix;     /* [p][W_vlm] embeddings of all cameras and all prompt tokens */
    uint8_t *valid;    /* [p + s] */
    uint8_t *mask;
    int *pos;
    float **k, **v; /* of the last evaluation */
};

static void embed_prefix(struct model *m)
{
    const struct pi0_dims *d = m->d;
    int side = d->image_size / d->patch_size, t = side * side;
    size_t width = (size_t)d->vlm_width;
    m->prefix = room((size_t)m->p * width);
    for (int c = 0; c < d->n_cameras; c++) {
        memcpy(m->prefix + (size_t)(c * t) * width, image_tokens(m->w, d, m->g->in.pixels[c]),
               (size_t)t * width * sizeof(float));
        memset(m->valid + c * t, m->g->in.camera_mask[c], (size_t)t);
    }
    for (int i = 0; i < m->g->in.n_tokens; i++) {
        float *row = m->prefix + (size_t)(d->n_cameras * t + i) * width;
        tensor_read_f32(&m->w->table, (size_t)m->g->in.tokens[i] * width, width, row);
        for (size_t j = 0; j < width; j++)
            row[j] *= (float)sqrt((double)d->vlm_width);
        m->valid[d->n_cameras * t + i] = m->g->in.token_mask[i];
    }
}

/* The mask and the positions of docs/model.md §4 and §5, from `valid` and `ar` alone. */
static void make_mask(struct model *m)
{
    int all = m->p + m->s, seen = -1, c[MAX_ROWS], sum = 0;
    for (int i = 0; i < all; i++) {
        int ar = i >= m->p && (i == m->p || (m->n_state && i == m->p + 1));
        if (i >= m->p)
            m->valid[i] = 1;
        c[i] = sum += ar;
        m->pos[i] = seen += m->valid[i] != 0;
    }
    for (int i = 0; i < all; i++)
        for (int j = 0; j < all; j++)
            m->mask[i * all + j] = (uint8_t)(c[j] <= c[i] && m->valid[i] && m->valid[j]);
}

/* Suffix tokens at time t; sets *cond for π0.5. */
static float *embed_suffix(const struct model *m, const float *x, float t, const float **cond)
{
    const struct pi0_dims *d = m->d;
    int width = d->expert_width, h = d->action_horizon;
    float *emb = room((size_t)width);
    schedule_sinusoid(t, width, emb);
    float *a = dense(x, h, &m->w->action_in_w, &m->w->action_in_b);
    *cond = NULL;
    if (d->variant == PI0_VARIANT_PI05) {
        float *c = dense(emb, 1, &m->w->time_in_w, &m->w->time_in_b);
        for (int i = 0; i < width; i++)
            c[i] = ref_silu(c[i]);
        c = dense(c, 1, &m->w->time_out_w, &m->w->time_out_b);
        for (int i = 0; i < width; i++)
            c[i] = ref_silu(c[i]);
        *cond = c;
        return a;
    }
    float *pair = room(2 * (size_t)h * (size_t)width); /* the action first, the time second */
    for (int j = 0; j < h; j++) {
        memcpy(pair + (size_t)(2 * j) * (size_t)width, a + (size_t)j * (size_t)width,
               (size_t)width * sizeof *a);
        memcpy(pair + (size_t)(2 * j + 1) * (size_t)width, emb, (size_t)width * sizeof *a);
    }
    float *u = dense(pair, h, &m->w->time_in_w, &m->w->time_in_b);
    for (int i = 0; i < h * width; i++)
        u[i] = ref_silu(u[i]);
    return concat(dense(m->g->in.state, 1, &m->w->state_w, &m->w->state_b), (size_t)width,
                  dense(u, h, &m->w->time_out_w, &m->w->time_out_b), (size_t)(h * width));
}

static float *velocity(struct model *m, const float *x, float t)
{
    const struct pi0_dims *d = m->d;
    const float *cond, *gate;
    float *suffix = embed_suffix(m, x, t, &cond);
    size_t prefix_n = (size_t)m->p * (size_t)d->vlm_width;
    float *prefix = concat(m->prefix, prefix_n, NULL, 0);
    struct joint j = { .side = { { m->w->vlm, prefix, NULL, m->p, d->vlm_width },
                                 { m->w->expert, suffix, cond, m->s, d->expert_width } },
                       .pos = m->pos,
                       .mask = m->mask,
                       .heads = d->heads,
                       .e = d->head_dim,
                       .k = m->k,
                       .v = m->v };
    for (int layer = 0; layer < d->depth; layer++)
        joint_layer(&j, layer);
    const float *y =
        normed(&j.side[1], &m->w->final_w, &m->w->final_mod_w, &m->w->final_mod_b, &gate);
    return dense(y + m->n_state * d->expert_width, d->action_horizon, &m->w->action_out_w,
                 &m->w->action_out_b);
}

/* ---------------------------------------------------------------- comparison */

/* Relative L2. float32: sums in another order, 1e-6 is usual. bf16: rounding gives 5e-3 here; a
 * mistake in padding or masks gives 1e-1 and more. */
static const double bounds[] = { [PI0_PRECISION_BF16] = 2e-2, [PI0_PRECISION_F32] = 1e-5 };

static void expect_close(const char *what, const float *got, const float *want, size_t n,
                         double bound)
{
    double diff = 0, ref = 0;
    for (size_t i = 0; i < n; i++) {
        diff += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        ref += (double)want[i] * (double)want[i];
    }
    if (!(sqrt(diff) <= bound * sqrt(ref)))
        fail_msg("%s: relative L2 %.3g, bound %.0e", what, sqrt(diff / ref), bound);
}

/* Valid rows of a prefix tap against rows of the joint pass. */
static void compare_rows(const struct model *m, pi0_engine *e, enum pi0_tap tap, int index,
                         const float *want, size_t width, double bound)
{
    struct pi0_error err;
    size_t n = pi0_engine_tap_size(e, tap);
    float *got = room(n);
    assert_int_equal(n, (size_t)m->p * width);
    assert_int_equal(pi0_engine_read(e, tap, index, 0, got, n, &err), PI0_OK);
    for (int r = 0; r < m->p; r++)
        if (m->valid[r])
            expect_close("prefix row", got + (size_t)r * width, want + (size_t)r * width, width,
                         bound);
}

/* The engine's stages against the joint pass, with the instruction sets of `isa`. */
static void compare_engine(const struct model *m, uint32_t isa, enum pi0_precision precision)
{
    const struct golden *g = m->g;
    const struct pi0_dims *d = m->d;
    struct pi0_error err;
    struct pi0_engine_config cfg;
    pi0_engine *e = NULL;
    float times[16];
    struct model now = *m;
    double bound = bounds[precision];
    pi0_engine_defaults(&cfg);
    cfg.backend = "cpu";
    cfg.precision = precision;
    cfg.isa_mask = isa;
    cfg.n_threads = 2;
    cfg.record_steps = 1;
    if (pi0_engine_open(&e, g->model, &cfg, &err))
        fail_msg("%s", err.message);
    size_t n = (size_t)(d->action_horizon * d->action_dim);
    float *actions = room(n), *got = room(n), *x = concat(g->in.noise, n, NULL, 0);
    assert_int_equal(pi0_engine_infer(e, &g->in, 1, g->c.n_steps, actions, NULL, &err), PI0_OK);

    compare_rows(m, e, PI0_TAP_PREFIX_EMBS, 0, m->prefix, (size_t)d->vlm_width, bound);
    schedule_times(g->c.n_steps, model_schedule(g->model), times);
    for (int step = 0; step < g->c.n_steps; step++) {
        const float *want = velocity(&now, x, times[step]);
        assert_int_equal(pi0_engine_read(e, PI0_TAP_V, step, 0, got, n, &err), PI0_OK);
        expect_close("velocity", got, want, n, bound);
        for (size_t i = 0; i < n; i++)
            x[i] += -1.0f / (float)g->c.n_steps * want[i];
        for (int layer = 0; step == 0 && layer < d->depth; layer++) {
            compare_rows(m, e, PI0_TAP_PREFIX_K, layer, m->k[layer], (size_t)d->head_dim, bound);
            compare_rows(m, e, PI0_TAP_PREFIX_V, layer, m->v[layer], (size_t)d->head_dim, bound);
        }
    }
    expect_close("actions", actions, x, n, bound);
    pi0_engine_close(e);
}

static void engine_equals_joint_pass(const struct golden *g)
{
    const struct pi0_dims *d = &g->c.dims;
    int side = d->image_size / d->patch_size;
    struct model m = { .g = g, .w = &g->model->weights, .d = d };
    m.n_state = d->variant == PI0_VARIANT_PI0;
    m.p = d->n_cameras * side * side + g->in.n_tokens;
    m.s = m.n_state + d->action_horizon;
    uint8_t valid[MAX_ROWS], mask[MAX_ROWS * MAX_ROWS];
    int pos[MAX_ROWS];
    float *k[8], *v[8];
    assert_true(m.p + m.s <= MAX_ROWS && d->depth <= 8 && g->c.n_steps <= 16);
    m.valid = valid;
    m.mask = mask;
    m.pos = pos;
    m.k = k;
    m.v = v;
    embed_prefix(&m);
    make_mask(&m);
    uint32_t isa;
    const char *name;
    for (int i = 0; golden_isa(i, &isa, &name); i++) {
        compare_engine(&m, isa, PI0_PRECISION_F32);
        compare_engine(&m, isa, PI0_PRECISION_BF16);
    }
    free_blocks();
}

static void golden_case(const char *name)
{
    struct golden g;
    struct pi0_error err;
    if (golden_open(&g, name, &err))
        fail_msg("%s: %s", name, err.message);
    engine_equals_joint_pass(&g);
    golden_close(&g);
}

static void pi0_case(void **state)
{
    (void)state;
    golden_case("pi0_tiny");
}

static void pi05_case(void **state)
{
    (void)state;
    golden_case("pi05_tiny");
}

static void all_cameras(void **state)
{
    (void)state;
    golden_case("pi0_tiny_3cam");
}

/* Sizes that divide by nothing: every padding and every ragged edge is in play. */
static void odd_sizes(void **state)
{
    (void)state;
    struct pi0_dims d = { .image_size = 30,
                          .patch_size = 10,
                          .n_cameras = 2,
                          .vision_width = 57,
                          .vision_depth = 2,
                          .vision_mlp_dim = 83,
                          .vision_heads = 3,
                          .vlm_width = 71,
                          .vlm_mlp_dim = 101,
                          .vocab_size = 97,
                          .expert_width = 46,
                          .expert_mlp_dim = 77,
                          .heads = 3,
                          .kv_heads = 1,
                          .head_dim = 18,
                          .action_dim = 5,
                          .action_horizon = 7,
                          .max_token_len = 6 };
    for (int i = 0; i < 4; i++) {
        struct golden g = { .c = { .n_steps = 3 } };
        struct pi0_error err;
        uint8_t pixels[2][30 * 30 * 3];
        int32_t tokens[6] = { 5, 96, 0, 41, 7, 8 };
        uint8_t token_mask[6] = { 1, 1, 0, 1, 0, 1 }; /* padding anywhere */
        float noise[35], state_in[5];
        d.variant = i % 2 ? PI0_VARIANT_PI05 : PI0_VARIANT_PI0;
        d.depth = i < 2 ? 3 : 1;
        for (int j = 0; j < 2 * 30 * 30 * 3; j++)
            pixels[j / 2700][j % 2700] = (uint8_t)(((unsigned)j * 2654435761u) >> 15);
        pi0_noise(noise, 35, 4);
        pi0_noise(state_in, 5, 5);
        g.c.dims = d;
        g.in = (struct pi0_input){ .pixels = { pixels[0], pixels[1] },
                                   .camera_mask = { i != 1, 1 },
                                   .tokens = tokens,
                                   .token_mask = token_mask,
                                   .n_tokens = 6,
                                   .state = state_in,
                                   .noise = noise };
        if (pi0_model_open_synthetic(&g.model, &d, 11, &err))
            fail_msg("%s", err.message);
        engine_equals_joint_pass(&g);
        pi0_model_close(g.model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pi0_case),
        cmocka_unit_test(pi05_case),
        cmocka_unit_test(all_cameras),
        cmocka_unit_test(odd_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
