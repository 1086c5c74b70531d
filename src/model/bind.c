/* SPDX-License-Identifier: Apache-2.0
 * bind: see bind.h. Names come as openpi writes them, or with one leading "model." (lerobot's
 * wrapper); the inner "model." of "paligemma_with_expert.paligemma.model…" stays. Values are not
 * looked at. */
#include "model/bind.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VISION "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
#define VLM_LAYERS "paligemma_with_expert.paligemma.model.language_model.layers."
#define VLM_TABLE "paligemma_with_expert.paligemma.lm_head.weight"
#define VLM_EMBED "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
#define EXPERT "paligemma_with_expert.gemma_expert.model."

/* Tensors by their name without the wrapper's "model.". */
struct named {
    const char *name;
    const struct st_tensor *tensor;
};

struct binder {
    struct named *index; /* [n], sorted by name */
    size_t n;
    int used;
};

/* ---------------------------------------------------------------- names */

static int starts_with(const char *s, const char *start)
{
    return strncmp(s, start, strlen(start)) == 0;
}

static const char *strip(const char *name)
{
    static const char *const roots[] = { "paligemma_with_expert.", "action_in_proj.",
                                         "action_out_proj.",       "state_proj.",
                                         "action_time_mlp_in.",    "action_time_mlp_out.",
                                         "time_mlp_in.",           "time_mlp_out." };
    if (!starts_with(name, "model."))
        return name;
    for (size_t i = 0; i < sizeof roots / sizeof roots[0]; i++)
        if (starts_with(name + 6, roots[i]))
            return name + 6;
    return name;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

static pi0_status index_names(struct binder *b, const struct st_set *files, struct pi0_error *err)
{
    b->n = files->n_tensors;
    b->index = calloc(b->n ? b->n : 1, sizeof *b->index);
    if (!b->index)
        return pi0_fail(err, PI0_E_NOMEM, "model: index of %zu tensors", b->n);
    for (size_t i = 0; i < b->n; i++)
        b->index[i] = (struct named){ strip(files->tensors[i].name), &files->tensors[i] };
    qsort(b->index, b->n, sizeof *b->index, by_name);
    for (size_t i = 1; i < b->n; i++)
        if (strcmp(b->index[i - 1].name, b->index[i].name) == 0)
            return pi0_fail(err, PI0_E_MODEL,
                            "%s: stored twice, with and without a leading "
                            "\"model.\"",
                            b->index[i].name);
    return PI0_OK;
}

static const struct st_tensor *find(const struct binder *b, const char *name)
{
    struct named key = { name, NULL };
    const struct named *hit = bsearch(&key, b->index, b->n, sizeof *b->index, by_name);
    return hit ? hit->tensor : NULL;
}

/* 1 + the largest i of names "<prefix><i>.…"; 0 if there is none. */
static int layer_count(const struct binder *b, const char *prefix)
{
    int count = 0;
    for (size_t i = 0; i < b->n; i++) {
        const char *s = b->index[i].name;
        int layer = 0;
        if (!starts_with(s, prefix))
            continue;
        for (s += strlen(prefix); *s >= '0' && *s <= '9' && layer <= CONFIG_MAX_DEPTH; s++)
            layer = layer * 10 + (*s - '0');
        if (*s == '.' && layer >= count)
            count = layer + 1;
    }
    return count;
}

/* ---------------------------------------------------------------- dimensions */

/* Only one variant has a state projection, only the other a time MLP of its own. lerobot also reads
 * files where the time MLP has the other variant's name: there config.json's type decides, if the
 * expert's norms agree with it. */
static pi0_status detect_variant(const struct binder *b, struct config *c, struct pi0_error *err)
{
    int pi05 = find(b, "time_mlp_in.weight") != NULL, pi0 = find(b, "state_proj.weight") != NULL;
    int adaptive = find(b, EXPERT "norm.dense.weight") != NULL;
    int said = c->said.variant - 1;
    if (c->source == PI0_SOURCE_LEROBOT && said >= 0 && adaptive == (said == PI0_VARIANT_PI05)) {
        c->dims.variant = (enum pi0_variant)said;
        return PI0_OK;
    }
    if (pi0 && pi05)
        return pi0_fail(err, PI0_E_MODEL,
                        "tensors: both state_proj.weight (pi0) and time_mlp_in.weight (pi05) are "
                        "there, expected one of them");
    if (!pi0 && !pi05)
        return pi0_fail(err, PI0_E_MODEL,
                        "tensors: neither state_proj.weight (pi0) nor time_mlp_in.weight (pi05) is "
                        "there: not a pi0 or pi05 checkpoint");
    c->dims.variant = pi05 ? PI0_VARIANT_PI05 : PI0_VARIANT_PI0;
    if (said >= 0 && said != (int)c->dims.variant)
        return pi0_fail(err, PI0_E_MODEL,
                        "config.json: the model is %s, the tensors are those of "
                        "%s",
                        said == PI0_VARIANT_PI05 ? "pi05" : "pi0", pi05 ? "pi05" : "pi0");
    return PI0_OK;
}

/* Two dimensions of a tensor, as ints; last: of a rank-4 tensor the first and the last. */
static pi0_status two_dims(const struct binder *b, const char *name, int rank, int *first,
                           int *last, struct pi0_error *err)
{
    const struct st_tensor *t = find(b, name);
    if (!t)
        return pi0_fail(err, PI0_E_MODEL, "%s: missing", name);
    if (t->rank != rank)
        return pi0_fail(err, PI0_E_MODEL, "%s: %d dimensions, expected %d", name, t->rank, rank);
    if (t->shape[0] < 1 || t->shape[0] > CONFIG_MAX_VOCAB || t->shape[rank - 1] < 1 ||
        t->shape[rank - 1] > CONFIG_MAX_VOCAB)
        return pi0_fail(err, PI0_E_MODEL, "%s: a dimension out of range, expected 1 to %d", name,
                        CONFIG_MAX_VOCAB);
    *first = (int)t->shape[0];
    *last = (int)t->shape[rank - 1];
    return PI0_OK;
}

static pi0_status derive_dims(const struct binder *b, struct pi0_dims *d, struct pi0_error *err)
{
    const char *table = find(b, VLM_EMBED) ? VLM_EMBED : VLM_TABLE;
    int tokens, ignored, q;
    pi0_status st;
    if ((st = two_dims(b, VISION "embeddings.patch_embedding.weight", 4, &d->vision_width,
                       &d->patch_size, err)) ||
        (st = two_dims(b, VISION "embeddings.position_embedding.weight", 2, &tokens, &ignored,
                       err)) ||
        (st = two_dims(b, VISION "encoder.layers.0.mlp.fc1.weight", 2, &d->vision_mlp_dim, &ignored,
                       err)) ||
        (st = two_dims(b, table, 2, &d->vocab_size, &d->vlm_width, err)) ||
        (st =
             two_dims(b, VLM_LAYERS "0.self_attn.k_proj.weight", 2, &d->head_dim, &ignored, err)) ||
        (st =
             two_dims(b, VLM_LAYERS "0.mlp.gate_proj.weight", 2, &d->vlm_mlp_dim, &ignored, err)) ||
        (st = two_dims(b, EXPERT "layers.0.self_attn.q_proj.weight", 2, &q, &d->expert_width,
                       err)) ||
        (st = two_dims(b, EXPERT "layers.0.mlp.gate_proj.weight", 2, &d->expert_mlp_dim, &ignored,
                       err)) ||
        (st = two_dims(b, "action_in_proj.weight", 2, &ignored, &d->action_dim, err)))
        return st;
    int grid = 1;
    while (grid * grid < tokens && grid < CONFIG_MAX_IMAGE)
        grid++;
    if (grid * grid != tokens || tokens > CONFIG_MAX_CAMERA_TOKENS)
        return pi0_fail(err, PI0_E_MODEL,
                        VISION "embeddings.position_embedding.weight: %d rows, expected a square "
                               "of at most %d",
                        tokens, CONFIG_MAX_CAMERA_TOKENS);
    if (q % d->head_dim)
        return pi0_fail(err, PI0_E_MODEL,
                        EXPERT "layers.0.self_attn.q_proj.weight: %d rows, expected a multiple of "
                               "the head size %d",
                        q, d->head_dim);
    if (d->patch_size > CONFIG_MAX_IMAGE / grid)
        return pi0_fail(err, PI0_E_MODEL, "model: image of %d patches of %d pixels a side", grid,
                        d->patch_size);
    d->image_size = grid * d->patch_size;
    d->heads = q / d->head_dim;
    d->kv_heads = 1;
    d->vision_depth = layer_count(b, VISION "encoder.layers.");
    d->depth = layer_count(b, VLM_LAYERS);
    int expert_depth = layer_count(b, EXPERT "layers.");
    if (d->depth != expert_depth)
        return pi0_fail(err, PI0_E_MODEL,
                        "tensors: %d layers of the language model and %d of the expert, expected "
                        "equal numbers",
                        d->depth, expert_depth);
    return PI0_OK;
}

/* ---------------------------------------------------------------- the table */

static void print_shape(char *buf, size_t bytes, const uint64_t *shape, int rank)
{
    size_t at = 0;
    buf[0] = 0;
    for (int i = 0; i < rank && at < bytes; i++) {
        int n =
            snprintf(buf + at, bytes - at, "%s%llu", i ? ", " : "", (unsigned long long)shape[i]);
        at += n > 0 ? (size_t)n : 0;
    }
}

static pi0_status bind_one(void *user, const struct weight_entry *e, struct pi0_error *err)
{
    struct binder *b = user;
    /* A file with both spellings of the token table has untied them: embed_tokens is the one that
     * is looked up. */
    int alias_first = e->group == WEIGHTS_TABLE;
    const char *first = alias_first ? e->alias : e->name,
               *second = alias_first ? e->name : e->alias;
    const char *name = first;
    const struct st_tensor *t = find(b, first);
    if (!t && second)
        t = find(b, name = second);
    if (!t && !e->needed)
        return PI0_OK;
    if (!t)
        return pi0_fail(err, PI0_E_MODEL, "%s: missing", e->name);

    int same = t->rank == e->rank;
    uint64_t want[4];
    for (int i = 0; i < e->rank; i++) {
        want[i] = (uint64_t)e->shape[i];
        same = same && t->shape[i] == want[i];
    }
    if (!same) {
        char found[192], expected[96];
        print_shape(found, sizeof found, t->shape, t->rank);
        print_shape(expected, sizeof expected, want, e->rank);
        return pi0_fail(err, PI0_E_MODEL, "%s: shape [%s], expected [%s]", name, found, expected);
    }
    if (t->dtype != ST_BF16 && t->dtype != ST_F16 && t->dtype != ST_F32)
        return pi0_fail(err, PI0_E_MODEL, "%s: dtype %s, expected BF16, F16 or F32", name,
                        st_dtype_name(t->dtype));
    struct tensor *f = e->field;
    *f = (struct tensor){ .data = t->data,
                          .dtype = t->dtype == ST_BF16  ? DT_BF16
                                   : t->dtype == ST_F16 ? DT_F16
                                                        : DT_F32,
                          .rank = e->rank,
                          .n = (size_t)t->n };
    for (int i = 0; i < e->rank; i++)
        f->shape[i] = e->shape[i];
    b->used++;
    return PI0_OK;
}

pi0_status weights_bind(struct weights *w, struct config *c, const struct st_set *files,
                        struct bind_count *count, struct pi0_error *err)
{
    struct binder b = { 0 };
    pi0_status st;
    memset(w, 0, sizeof *w);
    if ((st = index_names(&b, files, err)) || (st = detect_variant(&b, c, err)) ||
        (st = derive_dims(&b, &c->dims, err)) || (st = config_finish(c, err)) ||
        (st = weights_alloc(w, &c->dims, err)) ||
        (st = weights_walk(w, &c->dims, bind_one, &b, err)))
        goto done;
    *count = (struct bind_count){ b.used, (int)b.n - b.used };
done:
    if (st)
        weights_free(w);
    free(b.index);
    return st;
}
