/* SPDX-License-Identifier: Apache-2.0
 *
 * prefix: image tokens and prompt ids → K and V of every layer. Gemma-2B over the prefix
 * (docs/model.md §2, §3, §6), rows of all samples one after another, each laid out as model/plan.h
 * draws it. A valid row's index in its sample is its position.
 *
 *   x ─┬─ RMS1 → q|k|v → RoPE(q, k) → K, V to the cache → attention → Wo ─┬─ RMS2 → gate·up → down ─┐
 *      └───────────────────────────◄ += ──────────────────────────────────┴───────────◄ += ─────────┘
 *
 * Of the last layer only K and V are needed. Between vision.c and denoise.c. */
#include "backend/cpu/cpu.h"

#include "base/clock.h"

#include <math.h>
#include <string.h>

void cpu_prefix_carve(struct cpu *c)
{
    const struct pi0_dims *d = &c->plan.dims;
    long rows = (long)c->plan.max_batch * c->plan.max_prefix;
    c->p = (struct stage_buffers){
        .x = cpu_mat(&c->work, rows, d->vlm_width, DT_F32),
        .n = cpu_mat(&c->work, rows, d->vlm_width, c->act),
        .qkv = cpu_mat(&c->work, rows, c->plan.q_dim + 2 * d->head_dim, DT_F32),
        .o = cpu_mat(&c->work, rows, c->plan.q_dim, c->act),
        .hidden = cpu_mat(&c->work, rows, d->vlm_mlp_dim, c->act),
    };
}

pi0_status cpu_embed_prompt(const struct cpu *c, const int32_t *tokens, int n, struct mat dst,
                            struct pi0_error *err)
{
    size_t width = (size_t)c->plan.dims.vlm_width;
    float scale = (float)sqrt((double)width);
    for (int j = 0; j < n; j++) {
        float *row = mat_f32(dst, j);
        tensor_read_f32(&c->model->weights.table, (size_t)tokens[j] * width, width, row);
        for (size_t i = 0; i < width; i++) {
            if (!isfinite(row[i]))
                return pi0_fail(err, PI0_E_MODEL,
                                "token table: row %d holds a value that is not finite",
                                (int)tokens[j]);
            row[i] *= scale;
        }
    }
    return PI0_OK;
}

/* Image tokens into their rows. Image features are not scaled. */
static void place_images(const struct worker *w, const struct batch *in)
{
    const struct cpu *c = w->c;
    const struct plan *p = &c->plan;
    size_t row_bytes = (size_t)p->dims.vlm_width * sizeof(float);
    struct share images = cpu_share(w, in->n_images);
    long first = 0, image = 0; /* row of the sample, image in the batch */
    for (int b = 0; b < in->n; first += in->samples[b].n_rows, b++) {
        const struct sample *s = &in->samples[b];
        for (int i = 0; i < s->n_images; i++, image++) {
            if (image < images.begin || image >= images.end)
                continue;
            for (int t = 0; t < p->tokens_per_camera; t++)
                memcpy(mat_f32(c->p.x, first + sample_image_row(p, s, i) + t),
                       mat_f32(c->image_tokens, image * p->tokens_per_camera + t), row_bytes);
        }
    }
    cpu_barrier(w);
}

/* RoPE, and the layer's K and V into the cache. */
static void append(const struct worker *w, const struct batch *in, int layer, int q_heads)
{
    const struct cpu *c = w->c;
    struct share rows = cpu_share(w, in->n_rows);
    long first = 0;
    for (int b = 0; b < in->n; first += in->samples[b].n_rows, b++) {
        struct append a = { .qkv = mat_at(c->p.qkv, first, 0),
                            .q_heads = q_heads,
                            .keys = cpu_keys(c, layer, b),
                            .values = cpu_values(c, layer, b) };
        int begin, end;
        share_next(&rows, in->samples[b].n_rows, &begin, &end);
        cpu_append(w, &a, begin, end);
    }
    cpu_barrier(w);
}

/* Every row sees the valid rows of its own sample; all query heads share the one K and V. */
static void attend(const struct worker *w, const struct batch *in, int layer)
{
    const struct cpu *c = w->c;
    int heads = c->plan.dims.heads, e = c->plan.dims.head_dim, total = 0;
    for (int b = 0; b < in->n; b++)
        total += cpu_attn_items(in->samples[b].n_rows, heads);
    struct share items = cpu_share(w, total);
    long first = 0;
    for (int b = 0; b < in->n; first += in->samples[b].n_rows, b++) {
        struct attn_group g = {
            .args = { .q = mat_f32(c->p.qkv, first),
                      .q_stride = c->p.qkv.stride,
                      .keys = cpu_keys(c, layer, b),
                      .v = cpu_values(c, layer, b),
                      .v_stride = cpu_value_stride(c),
                      .head_dim = e,
                      .n_keys = in->samples[b].n_valid,
                      .scale = 1.0f / sqrtf((float)e),
                      .o = mat_at(c->p.o, first, 0).at,
                      .o_dtype = c->p.o.dtype,
                      .o_stride = c->p.o.stride },
            .m = in->samples[b].n_rows,
            .heads = heads,
        };
        cpu_attention(w, &items, &g);
    }
    cpu_barrier(w);
}

struct job {
    struct cpu *c;
    const struct batch *in;
};

static void run(void *arg, int index, int count)
{
    const struct job *job = arg;
    struct cpu *c = job->c;
    struct worker w = cpu_worker(c, index, count);
    const struct batch *in = job->in;
    const struct stage_buffers *b = &c->p;
    int m = in->n_rows, last = c->plan.dims.depth - 1;

    place_images(&w, in);
    for (int i = 0; i < last; i++) {
        const struct cpu_gemma_layer *l = &c->vlm[i];
        cpu_rmsnorm(&w, b->n, b->x, &l->norm1, m);
        cpu_linear(&w, b->qkv, EPI_STORE, b->n, &l->qkv, m);
        append(&w, in, i, c->plan.dims.heads);
        attend(&w, in, i);
        cpu_add(&w, b->x, NULL, b->o, &l->o, m);

        cpu_rmsnorm(&w, b->n, b->x, &l->norm2, m);
        cpu_linear(&w, b->hidden, EPI_GEGLU, b->n, &l->gate_up, m);
        cpu_add(&w, b->x, NULL, b->hidden, &l->down, m);
    }
    cpu_rmsnorm(&w, b->x, b->x, &c->vlm[last].norm1, m);           /* in place, f32: see load.c */
    cpu_linear(&w, b->qkv, EPI_STORE, b->x, &c->vlm[last].qkv, m); /* k | v */
    append(&w, in, last, 0);
}

/* Copies the layout and the ids: the taps ask for them after the call. */
static void remember(struct cpu *c, const struct batch *in)
{
    size_t max_tokens = (size_t)c->plan.dims.max_token_len;
    for (int b = 0; b < in->n; b++) {
        const struct sample *s = &in->samples[b];
        c->samples[b] = *s;
        memcpy(c->tokens + (size_t)b * max_tokens, s->tokens,
               (size_t)s->n_tokens * sizeof *c->tokens);
        c->samples[b].tokens = c->tokens + (size_t)b * max_tokens;
    }
    c->n = in->n;
    c->n_steps = in->n_steps;
}

pi0_status cpu_prefix(void *self, const struct batch *in, struct pi0_error *err)
{
    struct cpu *c = self;
    double start = clock_ms();
    long first = 0;
    remember(c, in);
    for (int b = 0; b < in->n; first += in->samples[b].n_rows, b++) {
        const struct sample *s = &in->samples[b];
        long row = first + (long)s->n_valid_images * c->plan.tokens_per_camera;
        pi0_status st = cpu_embed_prompt(c, s->tokens, s->n_tokens, mat_at(c->p.x, row, 0), err);
        if (st)
            return st;
    }
    threads_run(c->pool, run, &(struct job){ c, in });
    c->timing.prefix_ms = clock_ms() - start;
    return PI0_OK;
}
