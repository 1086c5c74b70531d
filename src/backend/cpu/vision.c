/* SPDX-License-Identifier: Apache-2.0
 *
 * vision: pixels → image tokens. SigLIP So400m/14 and the projector (docs/model.md §1), all images of
 * the call as one batch of rows: image i has rows [i · T, (i + 1) · T).
 *
 *   pixels → patches → + position ─► x ─┬─ LN1 → q|k|v → attention → Wo ─┬─ LN2 → fc1 → gelu → fc2 ─┐
 *                                       └──────────────◄ += ─────────────┴───────────◄ += ──────────┘
 *   after the last layer: LN → projector → image tokens
 *
 * Called by engine.c first; leaves image_tokens to prefix.c. */
#include "backend/cpu/cpu.h"

#include "base/clock.h"

#include <math.h>
#include <string.h>

void cpu_vision_carve(struct cpu *c)
{
    const struct pi0_dims *d = &c->plan.dims;
    long n_images = (long)c->plan.max_batch * d->n_cameras;
    long rows = n_images * c->plan.tokens_per_camera;
    c->patches = cpu_mat(&c->work, rows, c->plan.patch_dim, DT_F32);
    c->v = (struct stage_buffers){
        .x = cpu_mat(&c->work, rows, d->vision_width, DT_F32),
        .n = cpu_mat(&c->work, rows, d->vision_width, c->act),
        .qkv = cpu_mat(&c->work, rows, 3 * d->vision_width, DT_F32),
        .o = cpu_mat(&c->work, rows, d->vision_width, c->act),
        .hidden = cpu_mat(&c->work, rows, d->vision_mlp_dim, c->act),
    };
    c->vision_keys_per_head = (size_t)cpu_round_up(c->plan.tokens_per_camera, CPU_PANEL) *
                              (size_t)(d->vision_width / d->vision_heads);
    c->vision_keys = arena_take(&c->work, (size_t)n_images * (size_t)d->vision_heads,
                                c->vision_keys_per_head * sizeof *c->vision_keys);
    c->image_tokens = cpu_mat(&c->work, rows, d->vlm_width, DT_F32);
}

/* x = conv(image) + bias + position: the convolution is a product, its stride being its size. */
static void embed_patches(const struct worker *w, const struct batch *in)
{
    struct cpu *c = w->c;
    int tokens = c->plan.tokens_per_camera, width = c->plan.dims.vision_width;
    struct share rows = cpu_share(w, in->n_images * tokens);
    long row = 0; /* of the image */
    for (int b = 0; b < in->n; b++)
        for (int i = 0; i < in->samples[b].n_images; i++, row += tokens) {
            int begin, end;
            struct patches_args a = { .pixels = in->samples[b].pixels[i],
                                      .image_size = c->plan.dims.image_size,
                                      .patch_size = c->plan.dims.patch_size,
                                      .x = mat_f32(c->patches, row),
                                      .x_stride = c->patches.stride };
            share_next(&rows, tokens, &begin, &end);
            c->ops.patches.run(&a, begin, end);
            for (int t = begin; t < end; t++)
                memcpy(mat_f32(c->v.x, row + t), c->pos + (size_t)t * (size_t)width,
                       (size_t)width * sizeof(float));
        }
    cpu_barrier(w);
    cpu_add(w, c->v.x, NULL, c->patches, &c->patch, in->n_images * tokens);
}

/* o = softmax(q · kᵀ / sqrt(E)) · v, every image and head by itself, all tokens seeing all. */
static void attend(const struct worker *w, int n_images)
{
    const struct cpu *c = w->c;
    int tokens = c->plan.tokens_per_camera, heads = c->plan.dims.vision_heads;
    int width = c->plan.dims.vision_width, e = width / heads;
    struct share packing = cpu_share(w, n_images * heads);
    for (int i = packing.begin; i < packing.end; i++) {
        struct keys_args a = {
            .k = mat_f32(c->v.qkv, (long)(i / heads) * tokens) + width + i % heads * e,
            .k_stride = c->v.qkv.stride,
            .head_dim = e,
            .panels = c->vision_keys + (size_t)i * c->vision_keys_per_head,
        };
        c->ops.keys.run(&a, 0, tokens);
    }
    cpu_barrier(w);
    struct share items = cpu_share(w, n_images * cpu_attn_items(tokens, heads));
    for (int i = 0; i < n_images; i++) {
        const float *q = mat_f32(c->v.qkv, (long)i * tokens);
        struct attn_group g = {
            .args = { .q = q,
                      .q_stride = c->v.qkv.stride,
                      .keys = c->vision_keys + (size_t)(i * heads) * c->vision_keys_per_head,
                      .v = q + 2 * width,
                      .v_stride = c->v.qkv.stride,
                      .head_dim = e,
                      .n_keys = tokens,
                      .scale = 1.0f / sqrtf((float)e),
                      .o = mat_at(c->v.o, (long)i * tokens, 0).at,
                      .o_dtype = c->v.o.dtype,
                      .o_stride = c->v.o.stride },
            .m = tokens,
            .heads = heads,
            .keys_step = c->vision_keys_per_head,
            .v_step = (size_t)e,
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
    const struct stage_buffers *b = &c->v;
    int m = job->in->n_images * c->plan.tokens_per_camera;

    embed_patches(&w, job->in);
    for (int i = 0; i < c->plan.dims.vision_depth; i++) {
        const struct cpu_vision_layer *l = &c->vision[i];
        cpu_layernorm(&w, b->n, b->x, &l->ln1, m);
        cpu_linear(&w, b->qkv, EPI_STORE, b->n, &l->qkv, m);
        attend(&w, job->in->n_images);
        cpu_add(&w, b->x, NULL, b->o, &l->o, m);

        cpu_layernorm(&w, b->n, b->x, &l->ln2, m);
        cpu_linear(&w, b->hidden, EPI_GELU, b->n, &l->fc1, m);
        cpu_add(&w, b->x, NULL, b->hidden, &l->fc2, m);
    }
    cpu_layernorm(&w, b->x, b->x, &c->post_ln, m); /* stays f32: see load.c */
    cpu_linear(&w, c->image_tokens, EPI_STORE, b->x, &c->projector, m);
}

pi0_status cpu_vision(void *self, const struct batch *in, struct pi0_error *err)
{
    struct cpu *c = self;
    double start = clock_ms();
    (void)err;
    if (in->n_images > 0)
        threads_run(c->pool, run, &(struct job){ c, in });
    c->timing.vision_ms = clock_ms() - start;
    return PI0_OK;
}
