/* SPDX-License-Identifier: Apache-2.0
 *
 * cpu: the CPU backend's opening, closing and looking inside. Owns struct cpu: the thread pool, the
 * packed weights, the K/V cache and the buffers of a call, in three arenas that are sized by the plan
 * and never grow. The walks over the layers are in vision.c, prefix.c and denoise.c. */
#include "backend/cpu/cpu.h"

#include "backend/cpu/cpuid.h"
#include "backend/cpu/pack.h"
#include "ref/ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 256

/* ---------------------------------------------------------------- open, close */

static pi0_status check_config(const struct pi0_engine_config *cfg, struct pi0_error *err)
{
    if (cfg->n_threads < 0 || cfg->n_threads > MAX_THREADS)
        return pi0_fail(err, PI0_E_ARGUMENT, "engine: n_threads %d, expected 0 to %d",
                        cfg->n_threads, MAX_THREADS);
    if (cfg->precision != PI0_PRECISION_BF16 && cfg->precision != PI0_PRECISION_F32)
        return pi0_fail(err, PI0_E_ARGUMENT, "engine: precision %d, expected 0 (bf16) or 1 (f32)",
                        (int)cfg->precision);
    return PI0_OK;
}

static pi0_status cpu_probe(const struct pi0_engine_config *cfg, struct pi0_error *err)
{
    return check_config(cfg, err);
}

static void carve_cache(struct cpu *c)
{
    const struct plan *p = &c->plan;
    size_t caches = (size_t)p->dims.depth * (size_t)p->max_batch;
    c->keys_per_sample = (size_t)cpu_round_up(p->max_keys, CPU_PANEL) * (size_t)p->dims.head_dim;
    c->values_per_sample = (size_t)p->max_keys * (size_t)cpu_value_stride(c);
    c->keys = arena_take(&c->cache, caches, c->keys_per_sample * sizeof *c->keys);
    c->values = arena_take(&c->cache, caches, c->values_per_sample * sizeof *c->values);
}

static void carve_work(struct cpu *c)
{
    const struct plan *p = &c->plan;
    size_t threads = (size_t)threads_count(c->pool);
    size_t angles = (size_t)p->max_keys * (size_t)(p->dims.head_dim / 2);
    c->scratch_stride =
        (cpu_scratch_bytes(p->max_keys > p->tokens_per_camera ? p->max_keys
                                                              : p->tokens_per_camera) +
         63) &
        ~(size_t)63;
    c->scratch = arena_take(&c->work, threads, c->scratch_stride);
    c->rope_cos = arena_take(&c->work, angles, sizeof *c->rope_cos);
    c->rope_sin = arena_take(&c->work, angles, sizeof *c->rope_sin);
    c->samples = arena_take(&c->work, (size_t)p->max_batch, sizeof *c->samples);
    c->tokens = arena_take(&c->work, (size_t)p->max_batch * (size_t)p->dims.max_token_len,
                           sizeof *c->tokens);
    cpu_steps_carve(c);
    cpu_vision_carve(c);
    cpu_prefix_carve(c);
    cpu_denoise_carve(c);
}

static pi0_status allocate(struct cpu *c, struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    pi0_status st;
    c->vision = calloc((size_t)d->vision_depth, sizeof *c->vision);
    c->vlm = calloc((size_t)d->depth, sizeof *c->vlm);
    c->expert = calloc((size_t)d->depth, sizeof *c->expert);
    if (!c->vision || !c->vlm || !c->expert)
        return pi0_fail(err, PI0_E_NOMEM, "cpu: table of %d vision and 2 x %d layers",
                        d->vision_depth, d->depth);
    carve_cache(c);
    carve_work(c);
    if ((st = arena_alloc(&c->cache, "K/V cache", err)) ||
        (st = arena_alloc(&c->work, "activations", err)))
        return st;
    carve_cache(c);
    carve_work(c);
    c->cache_bytes = c->cache.used;
    c->scratch_bytes = c->work.used;
    return PI0_OK;
}

static pi0_status cpu_open(void **self, const pi0_model *m, const struct plan *p,
                           const struct pi0_engine_config *cfg, struct pi0_error *err)
{
    pi0_status st = check_config(cfg, err);
    if (st)
        return st;
    struct cpu *c = calloc(1, sizeof *c);
    if (!c)
        return pi0_fail(err, PI0_E_NOMEM, "cpu: %zu bytes", sizeof *c);
    *self = c;
    c->model = m;
    c->plan = *p;
    c->act = cfg->precision == PI0_PRECISION_BF16 ? DT_BF16 : DT_F32;
    c->without = cfg->measure_without;
    c->progress = cfg->progress;
    c->progress_user = cfg->progress_user;
    c->isa = cpuid_isa(cfg->isa_mask);
    cpuid_brand(c->brand, sizeof c->brand);
    cpu_ops_fill(&c->ops, c->isa);
    int n = cfg->n_threads ? cfg->n_threads : threads_available();
    if ((st = threads_open(&c->pool, n < MAX_THREADS ? n : MAX_THREADS, err)) ||
        (st = allocate(c, err)) || (st = cpu_load(c, err)))
        return st;
    size_t half = (size_t)p->dims.head_dim / 2;
    for (int pos = 0; pos < p->max_keys; pos++)
        ref_rope_angles(pos, p->dims.head_dim, c->rope_cos + (size_t)pos * half,
                        c->rope_sin + (size_t)pos * half);
    cpu_steps_prepare(c, p->max_steps);
    return PI0_OK;
}

static void cpu_close(void *self)
{
    struct cpu *c = self;
    if (!c)
        return;
    threads_close(c->pool);
    arena_free(&c->weights);
    arena_free(&c->cache);
    arena_free(&c->work);
    free(c->vision);
    free(c->vlm);
    free(c->expert);
    free(c);
}

/* ---------------------------------------------------------------- taps */

static pi0_status read_prefix_embs(const struct cpu *c, int b, float *dst, struct pi0_error *err)
{
    const struct plan *p = &c->plan;
    const struct sample *s = &c->samples[b];
    size_t width = (size_t)p->dims.vlm_width;
    long image = 0; /* the sample's first image in the batch */
    for (int i = 0; i < b; i++)
        image += c->samples[i].n_images;
    for (int i = 0; i < s->n_images; i++, image++)
        for (int t = 0; t < p->tokens_per_camera; t++)
            memcpy(dst + (size_t)(sample_image_row(p, s, i) + t) * width,
                   mat_f32(c->image_tokens, image * p->tokens_per_camera + t), width * sizeof *dst);
    struct mat text = { .at = dst + (size_t)(s->n_valid_images * p->tokens_per_camera) * width,
                        .dtype = DT_F32,
                        .stride = p->dims.vlm_width };
    return cpu_embed_prompt(c, s->tokens, s->n_tokens, text, err);
}

/* Keys out of their panels (ops.h, struct keys_args). */
static void read_keys(const struct cpu *c, int layer, int b, float *dst)
{
    const float *keys = cpu_keys(c, layer, b);
    int e = c->plan.dims.head_dim;
    for (int r = 0; r < c->samples[b].n_rows; r++)
        for (int i = 0; i < e; i++)
            *dst++ = keys[((size_t)(r / CPU_PANEL) * (size_t)e + (size_t)i) * CPU_PANEL +
                          (size_t)(r % CPU_PANEL)];
}

static void read_rows(struct mat m, long first, long rows, int width, float *dst)
{
    for (long r = 0; r < rows; r++, dst += width)
        memcpy(dst, mat_f32(m, first + r), (size_t)width * sizeof *dst);
}

static pi0_status cpu_read(void *self, enum pi0_tap tap, int index, int sample, float *dst,
                           size_t n, struct pi0_error *err)
{
    struct cpu *c = self;
    const struct pi0_dims *d = &c->plan.dims;
    long step_row =
        ((long)index * c->plan.max_batch + sample) * d->action_horizon; /* of x_log, v_log */
    int logged = tap == PI0_TAP_SUFFIX_EMBS || tap == PI0_TAP_X || tap == PI0_TAP_V;
    (void)n;
    if (logged && index >= c->n_recorded)
        return pi0_fail(err, PI0_E_UNSUPPORTED,
                        "step %d was not recorded: open the engine with record_steps", index);
    switch (tap) {
    case PI0_TAP_PREFIX_EMBS: return read_prefix_embs(c, sample, dst, err);
    case PI0_TAP_PREFIX_K: read_keys(c, index, sample, dst); return PI0_OK;
    case PI0_TAP_PREFIX_V:
        read_rows((struct mat){ .at = cpu_values(c, index, sample),
                                .dtype = DT_F32,
                                .stride = cpu_value_stride(c) },
                  0, c->samples[sample].n_rows, d->head_dim, dst);
        return PI0_OK;
    case PI0_TAP_SUFFIX_EMBS: cpu_suffix_embs(c, sample, index, dst); return PI0_OK;
    case PI0_TAP_ADARMS_COND:
        if (d->variant != PI0_VARIANT_PI05)
            break;
        read_rows(c->cond, index, 1, d->expert_width, dst);
        return PI0_OK;
    case PI0_TAP_V:
        read_rows(c->v_log, step_row, d->action_horizon, d->action_dim, dst);
        return PI0_OK;
    case PI0_TAP_X:
        read_rows(c->x_log, step_row, d->action_horizon, d->action_dim, dst);
        return PI0_OK;
    }
    return pi0_fail(err, PI0_E_UNSUPPORTED, "tap %d: the CPU backend keeps no such thing",
                    (int)tap);
}

/* ---------------------------------------------------------------- what it is */

static void cpu_timing(void *self, struct pi0_timing *out) { *out = ((struct cpu *)self)->timing; }

static void cpu_info(void *self, struct pi0_engine_info *out)
{
    const struct cpu *c = self;
    out->device = c->brand;
    out->isa = cpuid_isa_name(c->isa);
    out->n_threads = threads_count(c->pool);
    out->weight_bytes = c->weight_bytes;
    out->cache_bytes = c->cache_bytes;
    out->scratch_bytes = c->scratch_bytes;
}

static const char *linear_name(const struct cpu *c, const struct packed *p, enum dtype x)
{
    enum linear_kind kind = x == DT_BF16          ? LINEAR_BF16
                            : p->dtype == DT_BF16 ? LINEAR_F32_WBF16
                                                  : LINEAR_F32;
    return c->ops.linear[kind].name;
}

static int cpu_kernel(void *self, int i, struct pi0_kernel_choice *out)
{
    const struct cpu *c = self;
    const struct plan *p = &c->plan;
    const struct pi0_dims *d = &p->dims;
    const struct cpu_vision_layer *v = &c->vision[0];
    const struct cpu_gemma_layer *l = &c->vlm[0], *e = &c->expert[0];
    int images = d->n_cameras * p->tokens_per_camera, h = d->action_horizon;
    int ve = d->vision_width / d->vision_heads;
    const struct {
        const char *op;
        const struct packed *w; /* a product; else m, n, k and name below */
        enum dtype x;
        int m, n, k;
        const char *name;
    } list[] = {
        { "vision patches", NULL, DT_F32, images, p->patch_dim, 0, c->ops.patches.name },
        { "vision patch embedding", &c->patch, DT_F32, images, 0, 0, NULL },
        { "vision layer norm", NULL, DT_F32, images, d->vision_width, 0, c->ops.layernorm.name },
        { "vision q|k|v", &v->qkv, c->act, images, 0, 0, NULL },
        { "vision attention", NULL, DT_F32, images, p->tokens_per_camera, ve, c->ops.attn.name },
        { "vision o", &v->o, c->act, images, 0, 0, NULL },
        { "vision fc1", &v->fc1, c->act, images, 0, 0, NULL },
        { "vision fc2", &v->fc2, c->act, images, 0, 0, NULL },
        { "vision projector", &c->projector, DT_F32, images, 0, 0, NULL },
        { "prefix RMS norm", NULL, DT_F32, p->max_prefix, d->vlm_width, 0, c->ops.rmsnorm.name },
        { "prefix q|k|v", &l->qkv, c->act, p->max_prefix, 0, 0, NULL },
        { "prefix RoPE", NULL, DT_F32, p->max_prefix, p->q_dim + d->head_dim, 0, c->ops.rope.name },
        { "prefix keys", NULL, DT_F32, p->max_prefix, d->head_dim, 0, c->ops.keys.name },
        { "prefix attention", NULL, DT_F32, p->max_prefix, p->max_prefix, d->head_dim,
          c->ops.attn.name },
        { "prefix o", &l->o, c->act, p->max_prefix, 0, 0, NULL },
        { "prefix gate\xC2\xB7up", &l->gate_up, c->act, p->max_prefix, 0, 0, NULL },
        { "prefix down", &l->down, c->act, p->max_prefix, 0, 0, NULL },
        { "prefix k|v, last layer", &c->vlm[d->depth - 1].qkv, DT_F32, p->max_prefix, 0, 0, NULL },
        { "denoise action in", &c->action_in, DT_F32, h, 0, 0, NULL },
        { "denoise time MLP", &c->time_out, DT_F32, p->n_state ? h : p->max_steps, 0, 0, NULL },
        { "denoise RMS norm", NULL, DT_F32, h, d->expert_width, 0, c->ops.rmsnorm.name },
        { "denoise q|k|v", &e->qkv, c->act, h, 0, 0, NULL },
        { "denoise attention", NULL, DT_F32, h, p->max_keys, d->head_dim, c->ops.attn.name },
        { "denoise o", &e->o, c->act, h, 0, 0, NULL },
        { "denoise gate\xC2\xB7up", &e->gate_up, c->act, h, 0, 0, NULL },
        { "denoise down", &e->down, c->act, h, 0, 0, NULL },
        { "denoise action out", &c->action_out, DT_F32, h, 0, 0, NULL },
    };
    const size_t n_list = sizeof list / sizeof *list;
    size_t at = 0;
    for (int left = i < 0 ? 0 : i; at < n_list; at++) /* a VLM of one layer has no q, o and MLP */
        if (!(list[at].w && !list[at].w->w) && left-- == 0)
            break;
    if (i < 0 || at == n_list)
        return 0;
    const struct packed *w = list[at].w;
    *out = (struct pi0_kernel_choice){ .m = list[at].m,
                                       .n = w ? w->n : list[at].n,
                                       .k = w ? w->k : list[at].k };
    snprintf(out->op, sizeof out->op, "%s", list[at].op);
    snprintf(out->kernel, sizeof out->kernel, "%s",
             w ? linear_name(c, w, list[at].x) : list[at].name);
    return 1;
}

const struct backend backend_cpu = {
    .name = "cpu",
    .measure_without = PI0_WITHOUT_FOLDED_TABLES | PI0_WITHOUT_STATE_REUSE,
    .probe = cpu_probe,
    .open = cpu_open,
    .close = cpu_close,
    .vision = cpu_vision,
    .prefix = cpu_prefix,
    .denoise = cpu_denoise,
    .read = cpu_read,
    .timing = cpu_timing,
    .info = cpu_info,
    .kernel = cpu_kernel,
    .time_kernel = cpu_time_kernel,
};
