/* SPDX-License-Identifier: Apache-2.0
 * The CPU backend's parts: processor features and their mask, the scalar table against the reference
 * ops (products with every epilogue, norms, positions, attention with its hole, patches), and every
 * way opening or reading can be refused. */
#include "backend/cpu/cpu.h"

#include "backend/cpu/cpuid.h"
#include "backend/cpu/pack.h"
#include "ref/ops.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- features */

static void mask_decides(void **state)
{
    (void)state;
    uint32_t all = cpuid_isa(PI0_ISA_ALL);
    assert_int_equal(cpuid_isa(0), 0);
    for (uint32_t mask = 0; mask < 16; mask++) {
        uint32_t isa = cpuid_isa(mask);
        assert_int_equal(isa & ~(mask & all), 0);
        /* a newer set is never there without those it builds on */
        assert_true(!(isa & PI0_ISA_AVX512) || (isa & PI0_ISA_AVX2));
        assert_true(!(isa & PI0_ISA_AVX512_BF16) || (isa & PI0_ISA_AVX512));
        assert_true(!(isa & PI0_ISA_AMX_BF16) || (isa & PI0_ISA_AVX512_BF16));
    }
    assert_int_equal(cpuid_isa(PI0_ISA_AVX512), 0);
    assert_string_equal(cpuid_isa_name(0), "scalar");
    assert_string_equal(cpuid_isa_name(PI0_ISA_AVX2), "avx2");
    assert_string_equal(cpuid_isa_name(PI0_ISA_AVX2 | PI0_ISA_AVX512), "avx512");
    assert_string_equal(cpuid_isa_name(7), "avx512_bf16");
    assert_string_equal(cpuid_isa_name(15), "amx_bf16");
    char brand[64], tiny[4];
    cpuid_brand(brand, sizeof brand);
    assert_true(brand[0] != '\0' && brand[0] != ' ');
    cpuid_brand(tiny, sizeof tiny);
    assert_true(strlen(tiny) <= 3);
}

/* Every entry of the table is filled and named after what it is. */
static void table_is_full(void **state)
{
    (void)state;
    for (uint32_t mask = 0; mask < 16; mask++) {
        struct cpu_ops o = { 0 };
        cpu_ops_fill(&o, cpuid_isa(mask));
        for (int i = 0; i < N_LINEAR; i++) {
            assert_non_null(o.linear[i].run);
            assert_memory_equal(o.linear[i].name, "linear_", 7);
        }
        assert_true(o.layernorm.run && o.rmsnorm.run && o.rope.run && o.keys.run && o.attn.run &&
                    o.patches.run);
        assert_memory_equal(o.layernorm.name, "layernorm_", 10);
        assert_memory_equal(o.rmsnorm.name, "rmsnorm_", 8);
        assert_memory_equal(o.rope.name, "rope_", 5);
        assert_memory_equal(o.keys.name, "keys_", 5);
        assert_memory_equal(o.attn.name, "attn_", 5);
        assert_memory_equal(o.patches.name, "patches_", 8);
        if (mask == 0)
            assert_string_equal(o.linear[LINEAR_BF16].name, "linear_bf16_scalar");
    }
}

/* ---------------------------------------------------------------- scalar table against ref */

static struct cpu_ops scalar(void)
{
    struct cpu_ops o;
    cpu_ops_fill(&o, 0);
    return o;
}

static float *aligned(size_t n)
{
    float *p = aligned_alloc(64, (n * sizeof *p + 63) & ~(size_t)63);
    assert_non_null(p);
    memset(p, 0, n * sizeof *p);
    return p;
}

/* n values that bf16 holds exactly. */
static void randomise(float *x, size_t n, uint64_t seed)
{
    pi0_noise(x, n, seed);
    for (size_t i = 0; i < n; i++)
        x[i] = bf16_round(x[i]);
}

static void near_all(const float *got, const float *want, size_t n, float bound)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - want[i]) <= bound * (1 + fabsf(want[i]))))
            fail_msg("value %zu: %.9g, expected %.9g", i, (double)got[i], (double)want[i]);
}

#define M 5
#define N 40 /* two panels and a half */
#define K 70 /* two grains and a bit */

struct product {
    float *x, *w, *bias, *gate, *y; /* y: [M][64] */
    uint16_t *x16;
    struct packed p;
    void *block;
    int stride;
};

static void open_product(struct product *t, enum linear_kind kind, int n_parts)
{
    static _Alignas(64) unsigned char scratch[PACK_SCRATCH_BYTES];
    struct tensor part[2];
    t->stride = cpu_stride(K, DT_F32);
    t->x = aligned((size_t)(M * t->stride));
    t->x16 = (uint16_t *)(void *)aligned((size_t)(M * t->stride));
    t->w = aligned((size_t)(n_parts * N) * K);
    t->bias = aligned(2 * 48);
    t->gate = aligned(48);
    t->y = aligned(M * 64);
    for (int r = 0; r < M; r++) {
        randomise(t->x + r * t->stride, K, 1000u + (unsigned)r);
        for (int k = 0; k < K; k++)
            t->x16[r * t->stride + k] = bf16_from_f32(t->x[r * t->stride + k]);
    }
    randomise(t->w, (size_t)(n_parts * N) * K, 7);
    randomise(t->gate, N, 9);
    for (int i = 0; i < n_parts; i++)
        part[i] = (struct tensor){ .data = t->w + i * N * K,
                                   .dtype = DT_F32,
                                   .rank = 2,
                                   .shape = { N, K },
                                   .n = (size_t)N * K };
    struct pack_source src = { .part = { &part[0], &part[1] },
                               .n_parts = n_parts,
                               .join = n_parts == 2 ? PACK_INTERLEAVED : PACK_STACKED };
    pack_shape(&t->p, &src, kind == LINEAR_F32 ? DT_F32 : DT_BF16);
    t->block = aligned(pack_bytes(&t->p) / sizeof(float));
    assert_int_equal(pack_panels(t->block, &t->p, &src, 0, t->p.n_panels, scratch), -1);
    t->p.w = t->block;
}

static void close_product(struct product *t)
{
    free(t->x);
    free(t->x16);
    free(t->w);
    free(t->bias);
    free(t->gate);
    free(t->y);
    free(t->block);
}

static void run_product(struct product *t, enum linear_kind kind, enum epilogue e,
                        const float *gate, enum dtype y_dtype)
{
    struct cpu_ops o = scalar();
    struct linear_args a = { .x = kind == LINEAR_BF16 ? (const void *)t->x16 : t->x,
                             .x_stride = t->stride,
                             .m = M,
                             .w = &t->p,
                             .epilogue = e,
                             .gate = gate,
                             .y = t->y,
                             .y_dtype = y_dtype,
                             .y_stride = 64 };
    int middle = e == EPI_GEGLU ? 2 : 1;
    o.linear[kind].run(&a, middle, t->p.n_panels); /* any split, any order */
    o.linear[kind].run(&a, 0, middle);
}

static void products(void **state)
{
    (void)state;
    for (int kind = 0; kind < N_LINEAR; kind++)
        for (int e = EPI_STORE; e <= EPI_SILU; e++)
            for (int gated = 0; gated <= (e == EPI_ADD); gated++) {
                struct product t = { 0 };
                float z[N], want[N];
                open_product(&t, (enum linear_kind)kind, 1);
                randomise(t.bias, N, 8);
                t.p.bias = t.bias;
                for (int i = 0; i < M * 64; i++)
                    t.y[i] = e == EPI_ADD ? 0.5f : 99.0f;
                run_product(&t, (enum linear_kind)kind, (enum epilogue)e, gated ? t.gate : NULL,
                            DT_F32);
                for (int r = 0; r < M; r++) {
                    ref_linear(z, t.x + r * t.stride, t.w, t.bias, (struct ref_mnk){ 1, N, K });
                    for (int n = 0; n < N; n++)
                        want[n] = e == EPI_ADD    ? 0.5f + (gated ? t.gate[n] : 1.0f) * z[n]
                                  : e == EPI_GELU ? ref_gelu_tanh(z[n])
                                  : e == EPI_SILU ? ref_silu(z[n])
                                                  : z[n];
                    near_all(t.y + r * 64, want, N, 1e-6f);
                    for (int n = N; n < 48; n++) /* padded features come out as 0 */
                        assert_true(t.y[r * 64 + n] == (e == EPI_ADD ? 0.5f : 0.0f));
                    for (int n = 48; n < 64; n++)
                        assert_true(t.y[r * 64 + n] == (e == EPI_ADD ? 0.5f : 99.0f));
                }
                close_product(&t);
            }
}

static void gate_times_up(void **state)
{
    (void)state;
    for (int kind = 0; kind < N_LINEAR; kind++) {
        struct product t = { 0 };
        float gate[N], up[N], want[N];
        open_product(&t, (enum linear_kind)kind, 2);
        run_product(&t, (enum linear_kind)kind, EPI_GEGLU, NULL, DT_F32);
        for (int r = 0; r < M; r++) {
            ref_linear(gate, t.x + r * t.stride, t.w, NULL, (struct ref_mnk){ 1, N, K });
            ref_linear(up, t.x + r * t.stride, t.w + N * K, NULL, (struct ref_mnk){ 1, N, K });
            for (int n = 0; n < N; n++)
                want[n] = ref_gelu_tanh(gate[n]) * up[n];
            near_all(t.y + r * 64, want, N, 2e-6f);
        }
        close_product(&t);
    }
}

/* Stored as bf16, a result is the float32 one rounded once. */
static void rounded_once(void **state)
{
    (void)state;
    struct product t = { 0 }, u = { 0 };
    open_product(&t, LINEAR_BF16, 1);
    open_product(&u, LINEAR_BF16, 1);
    run_product(&t, LINEAR_BF16, EPI_GELU, NULL, DT_F32);
    run_product(&u, LINEAR_BF16, EPI_GELU, NULL, DT_BF16);
    const uint16_t *y16 = (const uint16_t *)(const void *)u.y;
    for (int r = 0; r < M; r++)
        for (int n = 0; n < N; n++)
            assert_int_equal(y16[r * 64 + n], bf16_from_f32(t.y[r * 64 + n]));
    close_product(&t);
    close_product(&u);
}

static void norms(void **state)
{
    (void)state;
    enum { W = 37, S = 64 };
    struct cpu_ops o = scalar();
    float *x = aligned(3 * S), *y = aligned(3 * S), gain[W], shift[W], one_less[W], want[W];
    pi0_noise(x, 3 * S, 3);
    pi0_noise(gain, W, 4);
    pi0_noise(shift, W, 5);
    for (int i = 0; i < W; i++)
        one_less[i] = gain[i] - 1.0f;
    struct norm_args a = {
        .x = x, .x_stride = S, .width = W, .gain = gain, .shift = shift, .y = y, .y_stride = S
    };
    o.layernorm.run(&a, 1, 3);
    for (int i = 0; i < S; i++)
        assert_true(y[i] == 0.0f); /* row 0 was not asked for */
    o.layernorm.run(&a, 0, 1);
    for (int r = 0; r < 3; r++) {
        ref_layernorm(want, x + r * S, gain, shift, 1, W);
        near_all(y + r * S, want, W, 1e-6f);
        assert_true(y[r * S + W] == 0.0f);
    }
    o.rmsnorm.run(&a, 0, 3);
    for (int r = 0; r < 3; r++) {
        ref_adarms(want, x + r * S, one_less, shift, 1, W);
        near_all(y + r * S, want, W, 1e-6f);
    }
    a.shift = NULL;
    ref_rmsnorm(want, x, one_less, 1, W);
    a.y = x; /* in place */
    o.rmsnorm.run(&a, 0, 1);
    near_all(x, want, W, 1e-6f);
    free(x);
    free(y);
}

static void positions(void **state)
{
    (void)state;
    enum { E = 24, HEADS = 3, S = 96 };
    struct cpu_ops o = scalar();
    float *x = aligned(4 * S), want[HEADS * E], cos_t[4 * E / 2], sin_t[4 * E / 2];
    float copy[4 * S];
    pi0_noise(x, 4 * S, 6);
    memcpy(copy, x, sizeof copy);
    for (int r = 0; r < 4; r++)
        ref_rope_angles(10 + r, E, cos_t + r * E / 2, sin_t + r * E / 2);
    struct rope_args a = {
        .x = x, .x_stride = S, .n_heads = HEADS, .head_dim = E, .cos = cos_t, .sin = sin_t
    };
    o.rope.run(&a, 1, 4);
    assert_memory_equal(x, copy, S * sizeof *x);
    for (int r = 1; r < 4; r++) {
        int pos = 10 + r;
        memcpy(want, copy + r * S, sizeof want);
        ref_rope(want, &pos, 1, HEADS, E);
        near_all(x + r * S, want, HEADS * E, 1e-6f);
    }
    free(x);
}

/* Keys that arrive in pieces, a hole, a ragged last panel with rubbish in its unused lanes. */
static void attention(void **state)
{
    (void)state;
    enum { E = 24, ROWS = 5, KEYS = 37, S = 32 };
    struct cpu_ops o = scalar();
    float *q = aligned(ROWS * S), *k = aligned(KEYS * S), *v = aligned(KEYS * S);
    float *panels = aligned(48 * E), *out = aligned(ROWS * S), *scratch = aligned(1 << 18);
    static const int holes[][2] = { { 0, 0 }, { 5, 20 }, { 16, 32 }, { 0, 36 }, { 30, 37 } };
    pi0_noise(q, ROWS * S, 10);
    pi0_noise(k, KEYS * S, 11);
    pi0_noise(v, KEYS * S, 12);
    for (int i = 0; i < 48 * E; i++)
        panels[i] = 1e30f;
    struct keys_args put = { .k = k, .k_stride = S, .head_dim = E, .panels = panels };
    o.keys.run(&put, 0, 20);
    put.k = k + 20 * S;
    put.first_key = 20;
    o.keys.run(&put, 0, KEYS - 20);
    for (size_t h = 0; h < sizeof holes / sizeof *holes; h++) {
        float qc[ROWS * E], kc[KEYS * E], vc[KEYS * E], want[ROWS * E];
        uint8_t mask[ROWS * KEYS];
        for (int r = 0; r < KEYS; r++) {
            if (r < ROWS)
                memcpy(qc + r * E, q + r * S, E * sizeof *q);
            memcpy(kc + r * E, k + r * S, E * sizeof *k);
            memcpy(vc + r * E, v + r * S, E * sizeof *v);
            for (int i = 0; i < ROWS; i++)
                mask[i * KEYS + r] = r < holes[h][0] || r >= holes[h][1];
        }
        struct ref_attention ref = { .q = qc,
                                     .k = kc,
                                     .v = vc,
                                     .mask = mask,
                                     .m = ROWS,
                                     .n = KEYS,
                                     .h = 1,
                                     .g = 1,
                                     .e = E,
                                     .scale = 0.3f };
        ref_attention(want, &ref);
        struct attn_args a = { .q = q,
                               .q_stride = S,
                               .keys = panels,
                               .v = v,
                               .v_stride = S,
                               .head_dim = E,
                               .n_keys = KEYS,
                               .hole_begin = holes[h][0],
                               .hole_end = holes[h][1],
                               .scale = 0.3f,
                               .o = out,
                               .o_stride = S,
                               .scratch = scratch };
        o.attn.run(&a, 0, 2);
        o.attn.run(&a, 2, ROWS);
        for (int r = 0; r < ROWS; r++)
            near_all(out + r * S, want + r * E, E, 1e-6f);
    }
    free(q);
    free(k);
    free(v);
    free(panels);
    free(out);
    free(scratch);
}

static void patches(void **state)
{
    (void)state;
    enum { SIZE = 12, P = 4, TOKENS = 9, DIM = 48, S = 64 };
    struct cpu_ops o = scalar();
    uint8_t image[SIZE * SIZE * 3];
    float *x = aligned(TOKENS * S), want[TOKENS * DIM];
    for (size_t i = 0; i < sizeof image; i++)
        image[i] = (uint8_t)(i * 7);
    ref_patches(want, image, SIZE, P);
    struct patches_args a = {
        .pixels = image, .image_size = SIZE, .patch_size = P, .x = x, .x_stride = S
    };
    o.patches.run(&a, 0, 4);
    o.patches.run(&a, 4, TOKENS);
    for (int t = 0; t < TOKENS; t++)
        assert_memory_equal(x + t * S, want + t * DIM, DIM * sizeof *x);
    free(x);
}

/* ---------------------------------------------------------------- opening */

static struct pi0_engine_config config(void)
{
    struct pi0_engine_config cfg;
    pi0_engine_defaults(&cfg);
    cfg.backend = "cpu";
    cfg.n_threads = 2;
    return cfg;
}

static pi0_model *tiny(const char *name)
{
    struct pi0_dims dims;
    struct pi0_error err;
    pi0_model *m = NULL;
    assert_int_equal(pi0_dims_named(&dims, name, &err), PI0_OK);
    assert_int_equal(pi0_model_open_synthetic(&m, &dims, 3, &err), PI0_OK);
    return m;
}

static void refuse(const pi0_model *m, const struct pi0_engine_config *cfg, pi0_status want,
                   const char *word)
{
    struct pi0_error err = { 0 };
    pi0_engine *e = NULL;
    assert_int_equal(pi0_engine_open(&e, m, cfg, &err), want);
    assert_null(e);
    assert_int_equal(err.status, want);
    if (!strstr(err.message, word))
        fail_msg("\"%s\" does not say \"%s\"", err.message, word);
}

static void bad_settings(void **state)
{
    (void)state;
    pi0_model *m = tiny("pi0_tiny");
    struct pi0_engine_config cfg = config();
    cfg.n_threads = 257;
    refuse(m, &cfg, PI0_E_ARGUMENT, "n_threads 257, expected 0 to 256");
    cfg.n_threads = -1;
    refuse(m, &cfg, PI0_E_ARGUMENT, "n_threads -1");
    cfg = config();
    cfg.precision = (enum pi0_precision)7;
    refuse(m, &cfg, PI0_E_ARGUMENT, "precision 7");
    pi0_model_close(m);
}

/* A value that is not finite names its tensor, whichever kind of tensor it is. */
static void weights_not_finite(void **state)
{
    (void)state;
    static const struct {
        const char *what;
        size_t offset; /* of the tensor in struct weights; layer tensors: in the layer */
        int where;     /* 0 weights, 1 vision[1], 2 vlm[1], 3 expert[2], 4 the last vlm layer */
    } spots[] = {
        { "patch_embedding.weight", offsetof(struct weights, patch_w), 0 },
        { "position_embedding.weight", offsetof(struct weights, pos), 0 },
        { "layers.1.layer_norm1.bias", offsetof(struct vision_layer, ln1_b), 1 },
        { "layers.1.self_attn.v_proj.bias", offsetof(struct vision_layer, v_b), 1 },
        { "layers.1.mlp.fc2.weight", offsetof(struct vision_layer, fc2_w), 1 },
        { "layers.1.mlp.up_proj.weight", offsetof(struct gemma_layer, up_w), 2 },
        { "layers.1.input_layernorm.weight", offsetof(struct gemma_layer, norm1_w), 2 },
        { "layers.2.self_attn.v_proj.weight", offsetof(struct gemma_layer, v_w), 4 },
        { "layers.2.mlp.down_proj.weight", offsetof(struct gemma_layer, down_w), 3 },
        { "action_in_proj.weight", offsetof(struct weights, action_in_w), 0 },
        { "action_time_mlp_in.weight", offsetof(struct weights, time_in_w), 0 },
        { "action_time_mlp_in.bias", offsetof(struct weights, time_in_b), 0 },
        { "action_out_proj.bias", offsetof(struct weights, action_out_b), 0 },
        { "state_proj.weight", offsetof(struct weights, state_w), 0 },
    };
    pi0_model *m = tiny("pi0_tiny");
    for (size_t i = 0; i < sizeof spots / sizeof *spots; i++)
        for (int precision = 0; precision < 2; precision++) {
            struct weights *w = &m->weights;
            void *base = spots[i].where == 0   ? (void *)w
                         : spots[i].where == 1 ? (void *)&w->vision[1]
                         : spots[i].where == 3 ? (void *)&w->expert[2]
                                               : (void *)&w->vlm[spots[i].where == 2 ? 1 : 2];
            struct tensor *t = (struct tensor *)(void *)((char *)base + spots[i].offset);
            struct tensor before = *t;
            float *values = malloc(t->n * sizeof *values);
            assert_non_null(values);
            tensor_read_f32(t, 0, t->n, values);
            values[t->n / 3] = i % 2 ? NAN : INFINITY;
            t->data = values;
            t->dtype = DT_F32;
            struct pi0_engine_config cfg = config();
            cfg.precision = (enum pi0_precision)precision;
            refuse(m, &cfg, PI0_E_MODEL, spots[i].what);
            *t = before;
            free(values);
        }
    struct pi0_engine_config cfg = config();
    pi0_engine *e = NULL;
    struct pi0_error err;
    assert_int_equal(pi0_engine_open(&e, m, &cfg, &err), PI0_OK); /* whole again */
    pi0_engine_close(e);
    pi0_model_close(m);
}

struct progress_log {
    int calls, stop_at;
    uint64_t last, total;
};

static int on_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct progress_log *log = user;
    assert_string_equal(what, "packing weights");
    assert_true(done >= log->last && done <= total);
    log->last = done;
    log->total = total;
    return ++log->calls == log->stop_at;
}

static void progress(void **state)
{
    (void)state;
    pi0_model *m = tiny("pi05_tiny");
    struct progress_log log = { 0 };
    struct pi0_engine_config cfg = config();
    struct pi0_error err;
    pi0_engine *e = NULL;
    cfg.progress = on_progress;
    cfg.progress_user = &log;
    assert_int_equal(pi0_engine_open(&e, m, &cfg, &err), PI0_OK);
    assert_true(log.calls > 10 && log.last == log.total);
    pi0_engine_close(e);
    for (int stop = 1; stop < log.calls; stop += 7) {
        struct progress_log again = { .stop_at = stop };
        cfg.progress_user = &again;
        refuse(m, &cfg, PI0_E_ARGUMENT, "stopped");
        assert_int_equal(again.calls, stop);
    }
    pi0_model_close(m);
}

/* ---------------------------------------------------------------- looking inside */

static void inspection(void **state)
{
    (void)state;
    pi0_model *m = tiny("pi0_tiny");
    struct pi0_engine_config cfg = config();
    struct pi0_engine_info info;
    struct pi0_kernel_choice choice;
    struct pi0_error err;
    pi0_engine *e = NULL;
    cfg.isa_mask = 0;
    assert_int_equal(pi0_engine_open(&e, m, &cfg, &err), PI0_OK);
    pi0_engine_info(e, &info);
    assert_string_equal(info.backend, "cpu");
    assert_string_equal(info.isa, "scalar");
    assert_int_equal(info.n_threads, 2);
    assert_true(info.weight_bytes > 1000000 && info.cache_bytes > 10000 && info.scratch_bytes > 0);
    int n = 0, products_seen = 0;
    for (; pi0_engine_kernel(e, n, &choice); n++) {
        assert_true(choice.op[0] && choice.kernel[0] && choice.m > 0 && choice.n > 0);
        products_seen += strcmp(choice.kernel, "linear_bf16_scalar") == 0;
        if (strcmp(choice.op, "denoise down") == 0)
            assert_true(choice.m == 6 && choice.n == 64 && choice.k == 160);
    }
    assert_true(n > 15 && products_seen >= 10);
    assert_false(pi0_engine_kernel(e, -1, &choice));
    assert_false(pi0_engine_kernel(e, n, &choice));
    pi0_engine_close(e);
    pi0_model_close(m);
}

/* Without record_steps the suffix embeddings of the first step can be read, those of later ones
 * cannot; π0 has no time conditioning. */
static void taps(void **state)
{
    (void)state;
    pi0_model *m = tiny("pi0_tiny");
    struct pi0_engine_config cfg = config();
    struct pi0_error err;
    pi0_engine *e = NULL;
    int32_t tokens[3] = { 2, 3, 4 };
    float noise[48], state_in[8] = { 0 }, actions[48], *dst;
    pi0_noise(noise, 48, 1);
    struct pi0_input in = { .tokens = tokens, .n_tokens = 3, .state = state_in, .noise = noise };
    assert_int_equal(pi0_engine_open(&e, m, &cfg, &err), PI0_OK);
    assert_int_equal(pi0_engine_infer(e, &in, 1, 4, actions, NULL, &err), PI0_OK); /* no camera */
    for (int i = 0; i < 48; i++)
        assert_true(isfinite(actions[i]) && actions[i] != noise[i]);
    size_t n = pi0_engine_tap_size(e, PI0_TAP_SUFFIX_EMBS);
    dst = aligned(n);
    assert_int_equal(pi0_engine_read(e, PI0_TAP_SUFFIX_EMBS, 0, 0, dst, n, &err), PI0_OK);
    assert_int_equal(pi0_engine_read(e, PI0_TAP_SUFFIX_EMBS, 1, 0, dst, n, &err),
                     PI0_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "record_steps"));
    assert_int_equal(pi0_engine_tap_size(e, PI0_TAP_ADARMS_COND), 0);
    free(dst);
    pi0_engine_close(e);
    pi0_model_close(m);
}

/* A token row that is not finite is found when it is used. */
static void token_table_not_finite(void **state)
{
    (void)state;
    pi0_model *m = tiny("pi0_tiny");
    struct pi0_engine_config cfg = config();
    struct pi0_error err;
    pi0_engine *e = NULL;
    struct tensor *t = &m->weights.table;
    float *values = malloc(t->n * sizeof *values);
    assert_non_null(values);
    tensor_read_f32(t, 0, t->n, values);
    values[5 * 128 + 1] = NAN;
    t->data = values;
    t->dtype = DT_F32;
    int32_t tokens[2] = { 4, 5 };
    float noise[48] = { 0 }, state_in[8] = { 0 }, actions[48];
    struct pi0_input in = { .tokens = tokens, .n_tokens = 1, .state = state_in, .noise = noise };
    assert_int_equal(pi0_engine_open(&e, m, &cfg, &err), PI0_OK);
    assert_int_equal(pi0_engine_infer(e, &in, 1, 2, actions, NULL, &err), PI0_OK);
    in.n_tokens = 2;
    assert_int_equal(pi0_engine_infer(e, &in, 1, 2, actions, NULL, &err), PI0_E_MODEL);
    assert_non_null(strstr(err.message, "row 5"));
    pi0_engine_close(e);
    free(values);
    pi0_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mask_decides),
        cmocka_unit_test(table_is_full),
        cmocka_unit_test(products),
        cmocka_unit_test(gate_times_up),
        cmocka_unit_test(rounded_once),
        cmocka_unit_test(norms),
        cmocka_unit_test(positions),
        cmocka_unit_test(attention),
        cmocka_unit_test(patches),
        cmocka_unit_test(bad_settings),
        cmocka_unit_test(weights_not_finite),
        cmocka_unit_test(progress),
        cmocka_unit_test(inspection),
        cmocka_unit_test(taps),
        cmocka_unit_test(token_table_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
