/* SPDX-License-Identifier: Apache-2.0
 * weights: the table of tensors (names of openpi's PyTorch checkpoints, shapes in terms of the
 * dimensions) and the reading of their values. bind.c ties it to files, synth.c to a formula. */
#include "model/weights.h"
#include "model/synth.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---------------------------------------------------------------- the table */

/* What a shape is made of; the values for one model are in struct walk. */
enum dim {
    D_NONE = 0,
    D_RGB, /* 3 */
    D_PATCH,
    D_TOKENS, /* a camera's */
    D_VISION,
    D_VISION_MLP,
    D_VLM,
    D_VLM_MLP,
    D_VOCAB,
    D_EXPERT,
    D_EXPERT_2, /* 2 · expert width */
    D_EXPERT_3, /* 3 · expert width */
    D_EXPERT_MLP,
    D_Q, /* heads · head_dim */
    D_KV,
    D_ACTION,
    N_DIMS
};

enum {
    ONLY_PI0 = 1,
    ONLY_PI05 = 2,
    DEAD_LAST = 4, /* not needed in the last layer: only that layer's K and V are read */
    DEAD = 8       /* never needed for actions */
};

struct row {
    const char *name; /* behind the part's prefix */
    size_t offset;    /* of the field in the part's struct */
    unsigned char dims[4];
    unsigned char flags;
    const char *alias; /* whole name, or NULL */
};

#define PW "paligemma_with_expert."
#define VISION PW "paligemma.model.vision_tower.vision_model."
#define PROJECTOR PW "paligemma.model.multi_modal_projector.linear."
#define VLM PW "paligemma.model.language_model."
#define EXPERT PW "gemma_expert.model."

#define STEM(field) offsetof(struct weights, field)
#define VL(field) offsetof(struct vision_layer, field)
#define GL(field) offsetof(struct gemma_layer, field)

static const struct row stem_rows[] = {
    { "embeddings.patch_embedding.weight",
      STEM(patch_w),
      { D_VISION, D_RGB, D_PATCH, D_PATCH },
      0,
      NULL },
    { "embeddings.patch_embedding.bias", STEM(patch_b), { D_VISION }, 0, NULL },
    { "embeddings.position_embedding.weight", STEM(pos), { D_TOKENS, D_VISION }, 0, NULL },
};
static const struct row vision_rows[] = {
    { "layer_norm1.weight", VL(ln1_w), { D_VISION }, 0, NULL },
    { "layer_norm1.bias", VL(ln1_b), { D_VISION }, 0, NULL },
    { "self_attn.k_proj.weight", VL(k_w), { D_VISION, D_VISION }, 0, NULL },
    { "self_attn.k_proj.bias", VL(k_b), { D_VISION }, 0, NULL },
    { "self_attn.v_proj.weight", VL(v_w), { D_VISION, D_VISION }, 0, NULL },
    { "self_attn.v_proj.bias", VL(v_b), { D_VISION }, 0, NULL },
    { "self_attn.q_proj.weight", VL(q_w), { D_VISION, D_VISION }, 0, NULL },
    { "self_attn.q_proj.bias", VL(q_b), { D_VISION }, 0, NULL },
    { "self_attn.out_proj.weight", VL(o_w), { D_VISION, D_VISION }, 0, NULL },
    { "self_attn.out_proj.bias", VL(o_b), { D_VISION }, 0, NULL },
    { "layer_norm2.weight", VL(ln2_w), { D_VISION }, 0, NULL },
    { "layer_norm2.bias", VL(ln2_b), { D_VISION }, 0, NULL },
    { "mlp.fc1.weight", VL(fc1_w), { D_VISION_MLP, D_VISION }, 0, NULL },
    { "mlp.fc1.bias", VL(fc1_b), { D_VISION_MLP }, 0, NULL },
    { "mlp.fc2.weight", VL(fc2_w), { D_VISION, D_VISION_MLP }, 0, NULL },
    { "mlp.fc2.bias", VL(fc2_b), { D_VISION }, 0, NULL },
};
static const struct row post_rows[] = {
    { "post_layernorm.weight", STEM(post_ln_w), { D_VISION }, 0, NULL },
    { "post_layernorm.bias", STEM(post_ln_b), { D_VISION }, 0, NULL },
};
static const struct row projector_rows[] = {
    { "weight", STEM(proj_w), { D_VLM, D_VISION }, 0, NULL },
    { "bias", STEM(proj_b), { D_VLM }, 0, NULL },
};
static const struct row table_rows[] = {
    { "paligemma.lm_head.weight", STEM(table), { D_VOCAB, D_VLM }, 0, VLM "embed_tokens.weight" },
};
static const struct row vlm_rows[] = {
    { "self_attn.q_proj.weight", GL(q_w), { D_Q, D_VLM }, DEAD_LAST, NULL },
    { "self_attn.k_proj.weight", GL(k_w), { D_KV, D_VLM }, 0, NULL },
    { "self_attn.v_proj.weight", GL(v_w), { D_KV, D_VLM }, 0, NULL },
    { "self_attn.o_proj.weight", GL(o_w), { D_VLM, D_Q }, DEAD_LAST, NULL },
    { "mlp.gate_proj.weight", GL(gate_w), { D_VLM_MLP, D_VLM }, DEAD_LAST, NULL },
    { "mlp.up_proj.weight", GL(up_w), { D_VLM_MLP, D_VLM }, DEAD_LAST, NULL },
    { "mlp.down_proj.weight", GL(down_w), { D_VLM, D_VLM_MLP }, DEAD_LAST, NULL },
    { "input_layernorm.weight", GL(norm1_w), { D_VLM }, 0, NULL },
    { "post_attention_layernorm.weight", GL(norm2_w), { D_VLM }, DEAD_LAST, NULL },
};
static const struct row vlm_norm_rows[] = {
    { "norm.weight", STEM(vlm_final_w), { D_VLM }, DEAD, NULL },
};
static const struct row expert_rows[] = {
    { "self_attn.q_proj.weight", GL(q_w), { D_Q, D_EXPERT }, 0, NULL },
    { "self_attn.k_proj.weight", GL(k_w), { D_KV, D_EXPERT }, 0, NULL },
    { "self_attn.v_proj.weight", GL(v_w), { D_KV, D_EXPERT }, 0, NULL },
    { "self_attn.o_proj.weight", GL(o_w), { D_EXPERT, D_Q }, 0, NULL },
    { "mlp.gate_proj.weight", GL(gate_w), { D_EXPERT_MLP, D_EXPERT }, 0, NULL },
    { "mlp.up_proj.weight", GL(up_w), { D_EXPERT_MLP, D_EXPERT }, 0, NULL },
    { "mlp.down_proj.weight", GL(down_w), { D_EXPERT, D_EXPERT_MLP }, 0, NULL },
    { "input_layernorm.weight", GL(norm1_w), { D_EXPERT }, ONLY_PI0, NULL },
    { "post_attention_layernorm.weight", GL(norm2_w), { D_EXPERT }, ONLY_PI0, NULL },
    { "input_layernorm.dense.weight", GL(norm1_mod_w), { D_EXPERT_3, D_EXPERT }, ONLY_PI05, NULL },
    { "input_layernorm.dense.bias", GL(norm1_mod_b), { D_EXPERT_3 }, ONLY_PI05, NULL },
    { "post_attention_layernorm.dense.weight",
      GL(norm2_mod_w),
      { D_EXPERT_3, D_EXPERT },
      ONLY_PI05,
      NULL },
    { "post_attention_layernorm.dense.bias", GL(norm2_mod_b), { D_EXPERT_3 }, ONLY_PI05, NULL },
};
static const struct row expert_norm_rows[] = {
    { "norm.weight", STEM(final_w), { D_EXPERT }, ONLY_PI0, NULL },
    { "norm.dense.weight", STEM(final_mod_w), { D_EXPERT_3, D_EXPERT }, ONLY_PI05, NULL },
    { "norm.dense.bias", STEM(final_mod_b), { D_EXPERT_3 }, ONLY_PI05, NULL },
};
/* lerobot's loader accepts the other variant's name for a time MLP; so does this table. */
static const struct row head_rows[] = {
    { "action_in_proj.weight", STEM(action_in_w), { D_EXPERT, D_ACTION }, 0, NULL },
    { "action_in_proj.bias", STEM(action_in_b), { D_EXPERT }, 0, NULL },
    { "action_out_proj.weight", STEM(action_out_w), { D_ACTION, D_EXPERT }, 0, NULL },
    { "action_out_proj.bias", STEM(action_out_b), { D_ACTION }, 0, NULL },
    { "state_proj.weight", STEM(state_w), { D_EXPERT, D_ACTION }, ONLY_PI0, NULL },
    { "state_proj.bias", STEM(state_b), { D_EXPERT }, ONLY_PI0, NULL },
    { "action_time_mlp_in.weight",
      STEM(time_in_w),
      { D_EXPERT, D_EXPERT_2 },
      ONLY_PI0,
      "time_mlp_in.weight" },
    { "action_time_mlp_in.bias", STEM(time_in_b), { D_EXPERT }, ONLY_PI0, "time_mlp_in.bias" },
    { "action_time_mlp_out.weight",
      STEM(time_out_w),
      { D_EXPERT, D_EXPERT },
      ONLY_PI0,
      "time_mlp_out.weight" },
    { "action_time_mlp_out.bias", STEM(time_out_b), { D_EXPERT }, ONLY_PI0, "time_mlp_out.bias" },
    { "time_mlp_in.weight",
      STEM(time_in_w),
      { D_EXPERT, D_EXPERT },
      ONLY_PI05,
      "action_time_mlp_in.weight" },
    { "time_mlp_in.bias", STEM(time_in_b), { D_EXPERT }, ONLY_PI05, "action_time_mlp_in.bias" },
    { "time_mlp_out.weight",
      STEM(time_out_w),
      { D_EXPERT, D_EXPERT },
      ONLY_PI05,
      "action_time_mlp_out.weight" },
    { "time_mlp_out.bias", STEM(time_out_b), { D_EXPERT }, ONLY_PI05, "action_time_mlp_out.bias" },
};

/* ---------------------------------------------------------------- walking it */

struct walk {
    int value[N_DIMS];
    unsigned char skip; /* flag of the other variant */
    weight_visit_fn visit;
    void *user;
    struct pi0_error *err;
};

/* A run of rows that share a prefix and a struct. */
struct part {
    const char *prefix;
    const struct row *rows;
    size_t n_rows;
    enum weight_group group;
};
#define PART(prefix, rows, group) \
    (&(const struct part){ prefix, rows, sizeof(rows) / sizeof(rows)[0], group })

/* `base` holds the fields; layer < 0: the part is not repeated. */
static pi0_status walk_part(const struct walk *k, const struct part *p, void *base, int layer,
                            int is_last)
{
    for (size_t i = 0; i < p->n_rows; i++) {
        const struct row *r = &p->rows[i];
        char name[192];
        if (r->flags & k->skip)
            continue;
        if (layer < 0)
            snprintf(name, sizeof name, "%s%s", p->prefix, r->name);
        else
            snprintf(name, sizeof name, "%s%d.%s", p->prefix, layer, r->name);
        struct weight_entry e = { .name = name,
                                  .alias = r->alias,
                                  .group = p->group,
                                  .field = (void *)((char *)base + r->offset),
                                  .needed =
                                      !(r->flags & DEAD) && !((r->flags & DEAD_LAST) && is_last) };
        while (e.rank < 4 && r->dims[e.rank] != D_NONE) {
            e.shape[e.rank] = k->value[r->dims[e.rank]];
            e.rank++;
        }
        pi0_status st = k->visit(k->user, &e, k->err);
        if (st)
            return st;
    }
    return PI0_OK;
}

pi0_status weights_walk(struct weights *w, const struct pi0_dims *d, weight_visit_fn visit,
                        void *user, struct pi0_error *err)
{
    int grid = d->image_size / d->patch_size;
    struct walk k = { .value = { [D_RGB] = 3,
                                 [D_PATCH] = d->patch_size,
                                 [D_TOKENS] = grid * grid,
                                 [D_VISION] = d->vision_width,
                                 [D_VISION_MLP] = d->vision_mlp_dim,
                                 [D_VLM] = d->vlm_width,
                                 [D_VLM_MLP] = d->vlm_mlp_dim,
                                 [D_VOCAB] = d->vocab_size,
                                 [D_EXPERT] = d->expert_width,
                                 [D_EXPERT_2] = 2 * d->expert_width,
                                 [D_EXPERT_3] = 3 * d->expert_width,
                                 [D_EXPERT_MLP] = d->expert_mlp_dim,
                                 [D_Q] = d->heads * d->head_dim,
                                 [D_KV] = d->kv_heads * d->head_dim,
                                 [D_ACTION] = d->action_dim },
                      .skip = d->variant == PI0_VARIANT_PI0 ? ONLY_PI05 : ONLY_PI0,
                      .visit = visit,
                      .user = user,
                      .err = err };
    const struct part *vision = PART(VISION "encoder.layers.", vision_rows, WEIGHTS_VISION);
    const struct part *vlm = PART(VLM "layers.", vlm_rows, WEIGHTS_VLM);
    const struct part *expert = PART(EXPERT "layers.", expert_rows, WEIGHTS_EXPERT);
    pi0_status st = walk_part(&k, PART(VISION, stem_rows, WEIGHTS_VISION), w, -1, 0);
    for (int i = 0; i < d->vision_depth && !st; i++)
        st = walk_part(&k, vision, &w->vision[i], i, 0);
    if (!st)
        st = walk_part(&k, PART(VISION, post_rows, WEIGHTS_VISION), w, -1, 0);
    if (!st)
        st = walk_part(&k, PART(PROJECTOR, projector_rows, WEIGHTS_PROJECTOR), w, -1, 0);
    if (!st)
        st = walk_part(&k, PART(PW, table_rows, WEIGHTS_TABLE), w, -1, 0);
    for (int i = 0; i < d->depth && !st; i++)
        st = walk_part(&k, vlm, &w->vlm[i], i, i == d->depth - 1);
    if (!st)
        st = walk_part(&k, PART(VLM, vlm_norm_rows, WEIGHTS_VLM), w, -1, 0);
    for (int i = 0; i < d->depth && !st; i++)
        st = walk_part(&k, expert, &w->expert[i], i, 0);
    if (!st)
        st = walk_part(&k, PART(EXPERT, expert_norm_rows, WEIGHTS_EXPERT), w, -1, 0);
    if (!st)
        st = walk_part(&k, PART("", head_rows, WEIGHTS_HEADS), w, -1, 0);
    return st;
}

pi0_status weights_alloc(struct weights *w, const struct pi0_dims *d, struct pi0_error *err)
{
    memset(w, 0, sizeof *w);
    w->vision = calloc((size_t)d->vision_depth, sizeof *w->vision);
    w->vlm = calloc((size_t)d->depth, sizeof *w->vlm);
    w->expert = calloc((size_t)d->depth, sizeof *w->expert);
    if (!w->vision || !w->vlm || !w->expert) {
        weights_free(w);
        return pi0_fail(err, PI0_E_NOMEM, "weights: table of %d vision and 2 x %d layers",
                        d->vision_depth, d->depth);
    }
    return PI0_OK;
}

void weights_free(struct weights *w)
{
    if (!w)
        return;
    free(w->vision);
    free(w->vlm);
    free(w->expert);
    memset(w, 0, sizeof *w);
}

/* ---------------------------------------------------------------- values */

int tensor_is_bf16(const struct tensor *t) { return !t->data || t->dtype == DT_BF16; }

static uint16_t load_u16(const unsigned char *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static float load_f32(const unsigned char *p)
{
    float v;
    memcpy(&v, p, sizeof v);
    return v;
}

static const unsigned char *value_at(const struct tensor *t, size_t first)
{
    return (const unsigned char *)t->data + first * dtype_bytes(t->dtype);
}

void tensor_read_bf16(const struct tensor *t, size_t first, size_t n, uint16_t *dst)
{
    if (n == 0)
        return;
    if (!t->data) {
        synth_fill(t, first, n, dst);
        return;
    }
    const unsigned char *p = value_at(t, first);
    switch (t->dtype) {
    case DT_BF16: memcpy(dst, p, 2 * n); break;
    case DT_F16:
        for (size_t i = 0; i < n; i++)
            dst[i] = bf16_from_f32(f16_to_f32(load_u16(p + 2 * i)));
        break;
    case DT_F32:
        for (size_t i = 0; i < n; i++)
            dst[i] = bf16_from_f32(load_f32(p + 4 * i));
        break;
    }
}

void tensor_read_f32(const struct tensor *t, size_t first, size_t n, float *dst)
{
    if (n == 0)
        return;
    if (!t->data) {
        uint16_t piece[1024];
        for (size_t done = 0, m; done < n; done += m) {
            m = n - done < 1024 ? n - done : 1024;
            synth_fill(t, first + done, m, piece);
            for (size_t i = 0; i < m; i++)
                dst[done + i] = bf16_to_f32(piece[i]);
        }
        return;
    }
    const unsigned char *p = value_at(t, first);
    switch (t->dtype) {
    case DT_BF16:
        for (size_t i = 0; i < n; i++)
            dst[i] = bf16_to_f32(load_u16(p + 2 * i));
        break;
    case DT_F16:
        for (size_t i = 0; i < n; i++)
            dst[i] = f16_to_f32(load_u16(p + 2 * i));
        break;
    case DT_F32: memcpy(dst, p, 4 * n); break;
    }
}

int tensor_all_finite(const struct tensor *t, size_t first, size_t n)
{
    if (!t->data || n == 0)
        return 1;
    const unsigned char *p = value_at(t, first);
    unsigned bad = 0; /* no early exit: the loop vectorises, and finite is the usual answer */
    switch (t->dtype) {
    case DT_BF16:
        for (size_t i = 0; i < n; i++)
            bad |= (load_u16(p + 2 * i) & 0x7F80u) == 0x7F80u;
        break;
    case DT_F16:
        for (size_t i = 0; i < n; i++)
            bad |= (load_u16(p + 2 * i) & 0x7C00u) == 0x7C00u;
        break;
    case DT_F32:
        for (size_t i = 0; i < n; i++)
            bad |= (f32_bits(load_f32(p + 4 * i)) & 0x7F800000u) == 0x7F800000u;
        break;
    }
    return bad == 0;
}

void tensor_release(const struct tensor *t)
{
    long page = sysconf(_SC_PAGESIZE);
    if (!t->data || page <= 0)
        return;
    uintptr_t mask = (uintptr_t)page - 1;
    uintptr_t begin = ((uintptr_t)t->data + mask) & ~mask;
    uintptr_t end = ((uintptr_t)t->data + t->n * dtype_bytes(t->dtype)) & ~mask;
    if (end > begin)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}
