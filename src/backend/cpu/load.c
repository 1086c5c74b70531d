/* SPDX-License-Identifier: Apache-2.0
 *
 * load: every weight that actions depend on, from the checkpoint into the packed arena. One walk
 * over the model runs twice: the first adds up sizes, the second hands out memory and fills it.
 * Packing is split over the threads; a tensor's file pages are released once it is packed, so that
 * the checkpoint and its packed copy are never both in memory.
 *
 * ROUNDED or EXACT. The large matrices may be rounded to bf16 (precision BF16 and a checkpoint in
 * F32) and meet activations that are rounded too. The small ones keep the checkpoint's exact values
 * and are multiplied in f32, since everything after them depends on them: the patch embedding, the
 * heads and time MLPs, and those whose output a stage ends with and that cost 0.1 % of the work
 * together: the projector and the last prefix layer's k | v. Norm gains are applied to activations,
 * never folded into weights (docs/numerics.md). */
#include "backend/cpu/cpu.h"
#include "backend/cpu/pack.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum keep { ROUNDED, EXACT }; /* may be rounded to the activations' dtype, or never */

struct loader {
    struct cpu *c;
    uint64_t done, total; /* bytes packed */
    struct pi0_error *err;
};

static int measuring(const struct loader *l) { return !l->c->weights.base; }

/* ---------------------------------------------------------------- errors */

/* The tensor's name, found again by where its values lie. */
struct name_search {
    const struct tensor *t;
    char name[256];
};

static pi0_status match_name(void *user, const struct weight_entry *e, struct pi0_error *err)
{
    struct name_search *s = user;
    (void)err;
    if (e->field->rank && e->field->n == s->t->n && e->field->data == s->t->data &&
        e->field->synth_base == s->t->synth_base)
        strncpy(s->name, e->name, sizeof s->name - 1);
    return PI0_OK;
}

static pi0_status not_finite(const struct loader *l, const struct tensor *t)
{
    struct name_search s = { .t = t, .name = "a weight" };
    struct weights table = l->c->model->weights; /* a copy: the walk may write to its table */
    weights_walk(&table, &l->c->model->config.dims, match_name, &s, NULL);
    return pi0_fail(l->err, PI0_E_MODEL,
                    "%s: holds NaN, infinity or a value out of range, expected "
                    "finite numbers",
                    s.name);
}

static pi0_status progress(struct loader *l, size_t bytes)
{
    const struct cpu *c = l->c;
    l->done += bytes;
    if (c->progress && c->progress(c->progress_user, "packing weights", l->done, l->total))
        return pi0_fail(l->err, PI0_E_ARGUMENT,
                        "stopped while packing weights, %llu of %llu MB done",
                        (unsigned long long)(l->done >> 20), (unsigned long long)(l->total >> 20));
    return PI0_OK;
}

/* ---------------------------------------------------------------- vectors */

/* Values of `t` + offset → dst, in f32. */
static pi0_status read_vector(const struct loader *l, float *dst, const struct tensor *t,
                              float offset)
{
    tensor_read_f32(t, 0, t->n, dst);
    for (size_t i = 0; i < t->n; i++) {
        if (!isfinite(dst[i]))
            return not_finite(l, t);
        dst[i] += offset;
    }
    tensor_release(t);
    return PI0_OK;
}

static pi0_status vector(const struct loader *l, const float **out, const struct tensor *t,
                         float offset)
{
    float *dst = arena_take(&l->c->weights, t->n, sizeof *dst);
    *out = dst;
    return measuring(l) ? PI0_OK : read_vector(l, dst, t, offset);
}

/* LayerNorm: weight and bias. */
static pi0_status layernorm(const struct loader *l, struct norm *out, const struct tensor *weight,
                            const struct tensor *bias)
{
    out->width = weight->shape[0];
    pi0_status st = vector(l, &out->gain, weight, 0.0f);
    return st ? st : vector(l, &out->shift, bias, 0.0f);
}

/* RMSNorm: the factor is 1 + weight. */
static pi0_status rmsnorm(const struct loader *l, struct norm *out, const struct tensor *weight)
{
    out->width = weight->shape[0];
    return vector(l, &out->gain, weight, 1.0f);
}

/* ---------------------------------------------------------------- matrices */

struct pack_job {
    struct cpu *c;
    void *dst;
    const struct packed *p;
    const struct pack_source *src;
    atomic_int bad; /* 1 + part that holds a value which is not finite; 0 = none */
};

static void pack_share(void *arg, int index, int count)
{
    struct pack_job *job = arg;
    struct worker w = cpu_worker(job->c, index, count);
    struct share panels = cpu_share(&w, job->p->n_panels);
    int bad = pack_panels(job->dst, job->p, job->src, panels.begin, panels.end, w.scratch);
    if (bad >= 0)
        atomic_store(&job->bad, bad + 1);
}

static enum dtype packed_dtype(const struct loader *l, const struct pack_source *src,
                               enum keep keep)
{
    int all_bf16 = 1;
    for (int i = 0; i < src->n_parts; i++)
        all_bf16 = all_bf16 && tensor_is_bf16(src->part[i]);
    return all_bf16 || (keep == ROUNDED && l->c->act == DT_BF16) ? DT_BF16 : DT_F32;
}

/* Takes room for a matrix and fills it. */
static pi0_status matrix(struct loader *l, struct packed *out, const struct pack_source *src,
                         enum keep keep)
{
    pack_shape(out, src, packed_dtype(l, src, keep));
    size_t bytes = pack_bytes(out);
    struct pack_job job = { .c = l->c, .p = out, .src = src };
    out->w = job.dst = arena_take(&l->c->weights, bytes, 1);
    if (measuring(l)) {
        l->total += bytes;
        return PI0_OK;
    }
    threads_run(l->c->pool, pack_share, &job);
    int bad = atomic_load(&job.bad);
    if (bad)
        return not_finite(l, src->part[bad - 1]);
    for (int i = 0; i < src->n_parts; i++)
        tensor_release(src->part[i]);
    return progress(l, bytes);
}

/* Biases of the parts, one after another, zeros behind. */
static pi0_status biases(const struct loader *l, struct packed *out, const struct tensor *const *b,
                         int n)
{
    float *dst = arena_take(&l->c->weights, (size_t)out->n_panels * CPU_PANEL, sizeof *dst);
    out->bias = dst;
    for (int i = 0; i < n && !measuring(l); i++) {
        pi0_status st = read_vector(l, dst, b[i], 0.0f);
        if (st)
            return st;
        dst += b[i]->n;
    }
    return PI0_OK;
}

static pi0_status dense(struct loader *l, struct packed *out, const struct tensor *weight,
                        const struct tensor *bias, enum keep keep)
{
    struct pack_source src = { .part = { weight }, .n_parts = 1 };
    pi0_status st = matrix(l, out, &src, keep);
    return st || !bias ? st : biases(l, out, &bias, 1);
}

/* ---------------------------------------------------------------- parts of the model */

static pi0_status vision_layer(struct loader *l, struct cpu_vision_layer *out,
                               const struct vision_layer *t)
{
    struct pack_source qkv = { .part = { &t->q_w, &t->k_w, &t->v_w }, .n_parts = 3 };
    const struct tensor *qkv_b[] = { &t->q_b, &t->k_b, &t->v_b };
    pi0_status st;
    if ((st = layernorm(l, &out->ln1, &t->ln1_w, &t->ln1_b)) ||
        (st = matrix(l, &out->qkv, &qkv, ROUNDED)) || (st = biases(l, &out->qkv, qkv_b, 3)) ||
        (st = dense(l, &out->o, &t->o_w, &t->o_b, ROUNDED)) ||
        (st = layernorm(l, &out->ln2, &t->ln2_w, &t->ln2_b)) ||
        (st = dense(l, &out->fc1, &t->fc1_w, &t->fc1_b, ROUNDED)))
        return st;
    return dense(l, &out->fc2, &t->fc2_w, &t->fc2_b, ROUNDED);
}

/* Norm 1 or 2 of a Gemma layer, whichever kind this model has. */
static pi0_status gemma_norm(struct loader *l, struct norm *plain, struct packed *mod,
                             const struct tensor *weight, const struct tensor *mod_w,
                             const struct tensor *mod_b)
{
    return mod_w->rank ? dense(l, mod, mod_w, mod_b, EXACT) : rmsnorm(l, plain, weight);
}

static pi0_status gemma_layer(struct loader *l, struct cpu_gemma_layer *out,
                              const struct gemma_layer *t, int only_kv)
{
    struct pack_source qkv = { .part = { &t->q_w, &t->k_w, &t->v_w }, .n_parts = 3 };
    struct pack_source kv = { .part = { &t->k_w, &t->v_w }, .n_parts = 2 };
    struct pack_source gate_up = { .part = { &t->gate_w, &t->up_w },
                                   .n_parts = 2,
                                   .join = PACK_INTERLEAVED };
    pi0_status st;
    if ((st =
             gemma_norm(l, &out->norm1, &out->mod1, &t->norm1_w, &t->norm1_mod_w, &t->norm1_mod_b)))
        return st;
    if (only_kv)
        return matrix(l, &out->qkv, &kv, EXACT);
    if ((st = matrix(l, &out->qkv, &qkv, ROUNDED)) ||
        (st = dense(l, &out->o, &t->o_w, NULL, ROUNDED)) ||
        (st = gemma_norm(l, &out->norm2, &out->mod2, &t->norm2_w, &t->norm2_mod_w,
                         &t->norm2_mod_b)) ||
        (st = matrix(l, &out->gate_up, &gate_up, ROUNDED)))
        return st;
    return dense(l, &out->down, &t->down_w, NULL, ROUNDED);
}

/* π0: action_time_mlp_in · concat(action_in · x + b_in, emb) + b is linear in x. Its action half
 * times action_in is one [W, A] matrix, and Wa · b_in + b joins the time half as a bias
 * (docs/model.md §9, items 6 and 7). Float64 sums, one rounding. */
struct fold_job {
    struct cpu *c;
    float *dst;             /* packed f32 [panels][k_pad][16] */
    float *bias;            /* [W] */
    const float *in, *in_b; /* action_in [W][A], [W] */
};

static void fold_share(void *arg, int index, int count)
{
    struct fold_job *job = arg;
    const struct weights *t = &job->c->model->weights;
    struct worker w = cpu_worker(job->c, index, count);
    int width = t->time_in_w.shape[0], a = t->action_in_w.shape[1];
    struct share rows = cpu_share(&w, width);
    for (int n = rows.begin; n < rows.end; n++) {
        const struct packed *p = &job->c->action_in;
        float *lane =
            job->dst + (size_t)(n / CPU_PANEL) * (size_t)p->k_pad * CPU_PANEL + n % CPU_PANEL;
        float one;
        tensor_read_f32(&t->time_in_b, (size_t)n, 1, &one);
        double bias = (double)one;
        double *sum = w.scratch; /* [a] */
        memset(sum, 0, (size_t)a * sizeof *sum);
        for (int j = 0; j < width; j++) { /* the row's action columns come first */
            tensor_read_f32(&t->time_in_w, (size_t)n * 2 * (size_t)width + (size_t)j, 1, &one);
            bias += (double)one * (double)job->in_b[j];
            for (int i = 0; i < a; i++)
                sum[i] += (double)one * (double)job->in[(size_t)j * (size_t)a + (size_t)i];
        }
        for (int i = 0; i < a; i++)
            lane[(size_t)i * CPU_PANEL] = (float)sum[i];
        job->bias[n] = (float)bias;
    }
}

static pi0_status fold_action_in(struct loader *l)
{
    struct cpu *c = l->c;
    const struct weights *t = &c->model->weights;
    struct pack_source in = { .part = { &t->action_in_w }, .n_parts = 1 };
    struct fold_job job = { .c = c };
    pack_shape(&c->action_in, &in, DT_F32);
    c->action_in.w = job.dst = arena_take(&c->weights, pack_bytes(&c->action_in), 1);
    c->time_bias = job.bias =
        arena_take(&c->weights, (size_t)c->action_in.n_panels * CPU_PANEL, sizeof(float));
    if (measuring(l))
        return PI0_OK;
    float *values = malloc((t->action_in_w.n + t->action_in_b.n) * sizeof *values);
    if (!values)
        return pi0_fail(l->err, PI0_E_NOMEM, "weights: action_in_proj does not fit in memory");
    job.in = values;
    job.in_b = values + t->action_in_w.n;
    pi0_status st;
    if (!(st = read_vector(l, values, &t->action_in_w, 0.0f)) &&
        !(st = read_vector(l, values + t->action_in_w.n, &t->action_in_b, 0.0f)))
        threads_run(c->pool, fold_share, &job);
    free(values);
    for (int i = 0; !st && i < c->action_in.n; i++)
        if (!isfinite(job.bias[i]))
            st = not_finite(l, tensor_all_finite(&t->time_in_b, 0, t->time_in_b.n) ? &t->time_in_w
                                                                                   : &t->time_in_b);
    return st;
}

static pi0_status heads(struct loader *l)
{
    struct cpu *c = l->c;
    const struct weights *t = &c->model->weights;
    int width = t->time_out_w.shape[0];
    pi0_status st;
    if ((st = dense(l, &c->action_out, &t->action_out_w, &t->action_out_b, EXACT)) ||
        (st = dense(l, &c->time_out, &t->time_out_w, &t->time_out_b, EXACT)))
        return st;
    if (c->plan.dims.variant == PI0_VARIANT_PI05) {
        if ((st = dense(l, &c->time_in, &t->time_in_w, &t->time_in_b, EXACT)))
            return st;
        return dense(l, &c->action_in, &t->action_in_w, &t->action_in_b, EXACT);
    }
    struct pack_source time_half = {
        .part = { &t->time_in_w }, .n_parts = 1, .col = width, .k = width
    };
    if ((st = dense(l, &c->state_in, &t->state_w, &t->state_b, EXACT)) ||
        (st = fold_action_in(l)) || (st = matrix(l, &c->time_in, &time_half, EXACT)))
        return st;
    c->time_in.bias = c->time_bias;
    return PI0_OK;
}

static pi0_status walk(struct loader *l)
{
    struct cpu *c = l->c;
    const struct weights *t = &c->model->weights;
    const struct pi0_dims *d = &c->plan.dims;
    pi0_status st;
    if ((st = dense(l, &c->patch, &t->patch_w, &t->patch_b, EXACT)) ||
        (st = vector(l, &c->pos, &t->pos, 0.0f)))
        return st;
    for (int i = 0; i < d->vision_depth; i++)
        if ((st = vision_layer(l, &c->vision[i], &t->vision[i])))
            return st;
    if ((st = layernorm(l, &c->post_ln, &t->post_ln_w, &t->post_ln_b)) ||
        (st = dense(l, &c->projector, &t->proj_w, &t->proj_b, EXACT)))
        return st;
    for (int i = 0; i < d->depth; i++)
        if ((st = gemma_layer(l, &c->vlm[i], &t->vlm[i], i == d->depth - 1)))
            return st;
    for (int i = 0; i < d->depth; i++)
        if ((st = gemma_layer(l, &c->expert[i], &t->expert[i], 0)))
            return st;
    if ((st = gemma_norm(l, &c->final, &c->final_mod, &t->final_w, &t->final_mod_w,
                         &t->final_mod_b)))
        return st;
    return heads(l);
}

pi0_status cpu_load(struct cpu *c, struct pi0_error *err)
{
    struct loader l = { .c = c, .err = err };
    pi0_status st = walk(&l);
    if (st || (st = arena_alloc(&c->weights, "packed weights", err)))
        return st;
    st = walk(&l);
    c->weight_bytes = c->weights.used;
    return st;
}
