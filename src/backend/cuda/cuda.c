/* SPDX-License-Identifier: Apache-2.0
 * cuda: the backend's life, the host side of a call and the graphs.
 *
 *   vision():  inputs → pinned block → one or two copies up; graph of the vision bucket
 *   prefix():  graph of the prefix bucket                       (nothing waits here)
 *   denoise(): graph of the denoise bucket; actions down; one wait
 *
 * A graph is captured for a shape bucket (select.c); what varies inside it (ids, lengths, masks) lies
 * in device memory. A bucket seen for the first time is run once without a graph, which loads every
 * kernel it uses, and then captured. Scratch is carved once, for the largest bucket. */
#include "backend/cuda/state.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- shared by the stages */

pi0_status cu_matmul(struct cuda_engine *c, struct cu_gemm g, struct pi0_error *err)
{
    g.pick = cu_gemm_pick(&c->facts, (int)g.type, g.m, g.n, g.k);
    return gemm_lt_run(c->gemm, &g, c->dev.stream, err);
}

pi0_status cu_qkv(struct cuda_engine *c, struct cu_gemm g, int kv, struct pi0_error *err)
{
    if (!(c->without & PI0_WITHOUT_FUSED_PROJECTIONS))
        return cu_matmul(c, g, err);
    const char *w = g.w, *bias = g.bias;
    char *y = g.y;
    size_t value = g.type == CU_GEMM_BF16_BF16 ? 2 : 4;
    int widths[3] = { g.n - 2 * kv, kv, kv };
    g.ldy = g.n;
    for (int i = 0; i < 3; i++) {
        g.n = widths[i];
        g.w = w;
        g.bias = bias;
        g.y = y;
        if (g.n > 0)
            TRY(cu_matmul(c, g, err));
        w += (size_t)g.n * (size_t)g.k * 2;
        y += (size_t)g.n * value;
        bias = bias ? bias + (size_t)g.n * value : NULL;
    }
    return PI0_OK;
}

/* ---------------------------------------------------------------- memory */

static void carve_inputs(struct cuda_engine *c)
{
    const struct plan *p = &c->plan;
    struct dev_arena *a = &c->mem;
    struct cu_buffers *b = &c->b;
    size_t B = (size_t)p->max_batch, H = (size_t)p->dims.action_horizon;
    size_t A = (size_t)p->dims.action_dim, S = (size_t)p->dims.image_size;
    size_t start = a->used;
    b->samples = dev_take(a, B, sizeof *b->samples);
    b->suffix_rows = dev_take(a, B * (H + 1), sizeof *b->suffix_rows);
    b->state = dev_take(a, B * A, sizeof *b->state);
    b->noise = dev_take(a, B * H * A, sizeof *b->noise);
    b->rows = dev_take(a, (size_t)c->rows_max, sizeof *b->rows);
    c->head_bytes = (int)(a->used - start);
    b->pixels = dev_take(a, (size_t)c->images_max * S * S * 3, 1);
    b->in = a->base ? a->base + start : NULL;
}

static void carve_kept(struct cuda_engine *c, int record)
{
    const struct plan *p = &c->plan;
    const struct pi0_dims *d = &p->dims;
    struct dev_arena *a = &c->mem;
    struct cu_buffers *b = &c->b;
    size_t B = (size_t)p->max_batch, n = B * (size_t)d->action_horizon * (size_t)d->action_dim;
    size_t steps = (size_t)p->max_steps, W = (size_t)d->expert_width;
    size_t images = (size_t)c->images_max * (size_t)p->tokens_per_camera;
    size_t cache = (size_t)d->depth * B * (size_t)p->max_keys * (size_t)d->head_dim;
    b->features = dev_take(a, images * (size_t)d->vlm_width, sizeof *b->features);
    size_t before = a->used;
    b->k = dev_take(a, cache, sizeof *b->k);
    b->v = dev_take(a, cache, sizeof *b->v);
    c->cache_bytes = a->used - before;
    b->actions = dev_take(a, n, sizeof *b->actions);
    b->rec_x = record ? dev_take(a, (steps + 1) * n, sizeof *b->rec_x) : NULL;
    b->rec_v = record ? dev_take(a, (steps + 1) * n, sizeof *b->rec_v) : NULL;
    b->workspace = dev_take(a, GEMM_LT_WORKSPACE, 1);
    if (c->without & PI0_WITHOUT_FUSED_ATTENTION) { /* one sample, or one image */
        size_t T = (size_t)p->tokens_per_camera, K = ((size_t)p->max_keys + 7) / 8 * 8;
        size_t rows = (size_t)(c->rows_max + d->action_horizon + 1) * (size_t)d->heads;
        size_t vision = T * (size_t)d->vision_heads * ((T + 7) / 8 * 8);
        size_t most = rows * K > vision ? rows * K : vision;
        b->scores = dev_take(a, most, sizeof *b->scores);
        b->weights = dev_take(a, most, sizeof *b->weights);
    }
    for (int i = 0; i < c->n_tables; i++) {
        struct cu_tables *t = &c->tables[i];
        t->emb = dev_take(a, steps * W, sizeof *t->emb);
        t->c = dev_take(a, steps * W, sizeof *t->c);
        if (d->variant == PI0_VARIANT_PI05) {
            t->cond = dev_take(a, steps * W, sizeof *t->cond);
            t->mod = dev_take(a, steps * (2 * (size_t)d->depth + 1) * 3 * W, sizeof *t->mod);
            if (c->choice.suffix_sm90)
                t->products =
                    dev_take(a,
                             steps * (size_t)d->depth *
                                 (size_t)(p->q_dim + 2 * d->head_dim + 2 * d->expert_mlp_dim),
                             sizeof *t->products);
            if (c->has_loop)
                t->shift = dev_take(a, dn90_shift_bytes(&c->loop_shape, p->max_steps), 1);
        }
    }
}

/* The stages take turns on the same scratch. */
static void carve_scratch(struct cuda_engine *c)
{
    const struct plan *p = &c->plan;
    const struct pi0_dims *d = &p->dims;
    struct dev_arena *a = &c->mem;
    struct cu_buffers *b = &c->b;
    size_t mark = a->used, E = (size_t)d->head_dim, Q = (size_t)p->q_dim;

    size_t V = (size_t)c->images_max * (size_t)p->tokens_per_camera, D = (size_t)d->vision_width;
    b->vx = dev_take(a, V * D, sizeof *b->vx);
    b->vh = dev_take(a, V * D, sizeof *b->vh);
    b->vqkv = dev_take(a, V * 3 * D, sizeof *b->vqkv);
    b->vo = dev_take(a, V * D, sizeof *b->vo);
    b->vmlp = dev_take(a, V * (size_t)CU_VISION_MLP_LD(d->vision_mlp_dim), sizeof *b->vmlp);
    b->vparts = dev_take(a, V * VIS90_MAX_PARTS * 2, sizeof *b->vparts);
    b->patches = dev_take(a, V * (size_t)c->k_pad, sizeof *b->patches);

    a->used = mark;
    size_t R = (size_t)c->rows_max, W = (size_t)d->vlm_width, F = (size_t)d->vlm_mlp_dim;
    b->x = dev_take(a, R * W, sizeof *b->x);
    b->h = dev_take(a, R * W, sizeof *b->h);
    b->qkv = dev_take(a, R * (Q + 2 * E), sizeof *b->qkv);
    b->q = dev_take(a, R * Q, sizeof *b->q);
    b->o = dev_take(a, R * Q, sizeof *b->o);
    b->gu = dev_take(a, (size_t)c->mlp_rows * 2 * F, sizeof *b->gu);
    b->act = dev_take(a, (size_t)c->mlp_rows * F, sizeof *b->act);

    if (!c->choice.early_sm90) /* else its first layers run beside the prefix */
        a->used = mark;
    size_t S = (size_t)p->max_batch * (size_t)(d->action_horizon + 1);
    size_t We = (size_t)d->expert_width, Fe = (size_t)d->expert_mlp_dim;
    size_t parts = 0; /* rows of partial attention results: fewest samples, most pieces */
    for (int n = 1; n <= p->max_batch && !c->choice.suffix_sm90; n++) {
        int rows = (d->action_horizon + 1) * d->heads;
        int splits = cu_suffix_splits(p->max_keys, d->action_horizon * d->heads, n, c->facts.n_sm);
        size_t need = (size_t)n * (size_t)splits * (size_t)rows;
        if (splits > 1 && need > parts)
            parts = need;
    }
    b->sx = dev_take(a, S * We, sizeof *b->sx);
    b->su = dev_take(a, S * We, sizeof *b->su);
    b->sdelta = dev_take(a, S * We, sizeof *b->sdelta);
    b->sqkv = dev_take(a, S * (Q + 2 * E), sizeof *b->sqkv);
    b->sh = dev_take(a, S * We, sizeof *b->sh);
    b->sq = dev_take(a, S * Q, sizeof *b->sq);
    b->so = dev_take(a, S * Q, sizeof *b->so);
    b->sgu = dev_take(a, S * 2 * Fe, sizeof *b->sgu);
    b->sact = dev_take(a, S * Fe, sizeof *b->sact);
    b->part_o = dev_take(a, parts * E, sizeof *b->part_o);
    b->part_ml = dev_take(a, parts * 2, sizeof *b->part_ml);
    if (c->choice.suffix_sm90) {
        b->spart = dev_take(a, S * SFX90_PARTS, sizeof *b->spart);
        b->su3 = dev_take(a, S * 3 * We, sizeof *b->su3);
    }
    if (c->has_loop)
        b->loop_ws = dev_take(a, dn90_workspace_bytes(&c->loop_shape), 1);
    a->used = a->peak;
}

static void carve(struct cuda_engine *c, int record)
{
    carve_inputs(c);
    carve_kept(c, record);
    carve_scratch(c);
}

/* ---------------------------------------------------------------- open, close */

static pi0_status cuda_probe(const struct pi0_engine_config *cfg, struct pi0_error *err)
{
    struct device d;
    if (cfg->precision != PI0_PRECISION_BF16)
        return pi0_fail(err, PI0_E_UNSUPPORTED,
                        "cuda: float32 precision is for the CPU backend only");
    return device_probe(&d, cfg->device, err);
}

static pi0_status open_sizes(struct cuda_engine *c, struct pi0_error *err)
{
    const struct plan *p = &c->plan;
    const struct pi0_dims *d = &p->dims;
    double rows = (double)p->max_batch * p->max_prefix;
    if (rows * 2 > INT_MAX || (double)p->max_batch * (d->action_horizon + 1) * d->heads > INT_MAX)
        return pi0_fail(err, PI0_E_UNSUPPORTED, "cuda: %d samples of %d rows are too many",
                        p->max_batch, p->max_prefix);
    /* a row a block of a grid's second dimension (denoise.cu) */
    if ((double)p->max_batch * d->action_horizon > 65535)
        return pi0_fail(
            err, PI0_E_UNSUPPORTED,
            "cuda: %d samples of %d actions are too many, expected at most 65535 actions",
            p->max_batch, d->action_horizon);
    if (d->expert_width % 8 || d->vlm_width % 8 || d->vision_width % 8 || d->vision_mlp_dim % 8 ||
        d->head_dim % 8 || (d->vision_width / d->vision_heads) % 8)
        return pi0_fail(err, PI0_E_UNSUPPORTED,
                        "cuda: widths and head sizes must be multiples of 8");
    c->k_pad = (p->patch_dim + 7) / 8 * 8;
    c->images_max = cu_bucket_images(p->max_batch * d->n_cameras);
    c->rows_max = cu_bucket_rows(p->max_batch * p->max_prefix);
    c->mlp_rows = cu_mlp_chunk(c->rows_max);
    c->n_tables = p->max_steps <= 32 ? CU_MAX_TABLES : 1;
    c->loop_shape = (struct dn90_shape){ .n_layers = d->depth,
                                         .width = d->expert_width,
                                         .mlp = d->expert_mlp_dim,
                                         .heads = d->heads,
                                         .head_dim = d->head_dim,
                                         .action_dim = d->action_dim,
                                         .n_tokens = d->action_horizon,
                                         .max_keys = p->max_prefix + p->n_state,
                                         .pi05 = d->variant == PI0_VARIANT_PI05 };
    if (c->without & PI0_WITHOUT_FUSED_ATTENTION && p->max_batch > 1)
        return pi0_fail(
            err, PI0_E_UNSUPPORTED,
            "cuda: attention that is not fused takes one sample a call, max_batch is %d",
            p->max_batch);
    unsigned no_loop = PI0_WITHOUT_FUSED_ATTENTION | PI0_WITHOUT_LOOP_KERNEL |
                       PI0_WITHOUT_OWN_KERNELS | PI0_WITHOUT_STATE_REUSE;
    c->has_loop = !(c->without & no_loop) && cu_loop_batch(d->action_horizon) > 0 &&
                  dn90_supported(c->dev.cc, c->dev.n_sm, &c->loop_shape, 1);
    return PI0_OK;
}

static pi0_status open_host(struct cuda_engine *c, struct pi0_error *err)
{
    const struct plan *p = &c->plan;
    size_t S = (size_t)p->dims.image_size;
    size_t in = (size_t)c->head_bytes + (size_t)c->images_max * S * S * 3;
    size_t out = (size_t)p->max_batch * (size_t)p->dims.action_horizon *
                 (size_t)p->dims.action_dim * sizeof(float);
    void *a = NULL, *b = NULL;
    CU_TRY(cudaHostAlloc(&a, in, cudaHostAllocDefault), err);
    c->host_in = a;
    memset(a, 0, in);
    size_t status = (size_t)p->max_batch * sizeof *c->host_status;
    CU_TRY(cudaHostAlloc(&b, out + status, cudaHostAllocDefault), err);
    c->host_out = b;
    c->host_status = (int32_t *)(void *)((unsigned char *)b + out);
    memset(c->host_status, 0, status);
    c->host_emb =
        malloc(((size_t)p->max_steps * ((size_t)p->dims.expert_width + 1)) * sizeof(float));
    if (!c->host_emb)
        return pi0_fail(err, PI0_E_NOMEM, "cuda: time embedding cannot be had");
    for (int i = 0; i < 4; i++)
        CU_TRY(cudaEventCreate(&c->event[i]), err);
    return PI0_OK;
}

static pi0_status cuda_open(void **self, const pi0_model *m, const struct plan *p,
                            const struct pi0_engine_config *cfg, struct pi0_error *err)
{
    struct cuda_engine *c = calloc(1, sizeof *c);
    if (!c)
        return pi0_fail(err, PI0_E_NOMEM, "cuda: %zu bytes cannot be had", sizeof *c);
    *self = c;
    c->model = m;
    c->plan = *p;
    c->log = cfg->log;
    c->log_user = cfg->log_user;
    c->without = cfg->measure_without;
    c->progress = cfg->progress;
    c->progress_user = cfg->progress_user;
    TRY(device_probe(&c->dev, cfg->device, err));
    TRY(device_use(&c->dev, err));
    c->facts = (struct cu_facts){ c->dev.cc, c->dev.n_sm, c->dev.smem_limit };
    struct cu_facts choose = c->facts;
    if (c->without & PI0_WITHOUT_OWN_KERNELS)
        choose.cc = 80; /* the portable path, on any card */
    cu_select(&c->choice, &choose, p);
    if (c->without & PI0_WITHOUT_FUSED_ATTENTION)
        c->choice.attn_vision = c->choice.attn_prefix = c->choice.attn_suffix =
            CU_ATTN_KERNEL_PLAIN;
    if (c->without & (PI0_WITHOUT_FUSED_PROJECTIONS | PI0_WITHOUT_FUSED_ATTENTION))
        c->choice.suffix_sm90 = 0; /* it has one product for q, k, v, and one attention */
    if (!c->choice.suffix_sm90 ||
        c->without & (PI0_WITHOUT_OVERLAP | PI0_WITHOUT_FOLDED_TABLES | PI0_WITHOUT_STATE_REUSE))
        c->choice.early_sm90 = 0; /* tables come before the prefix, the state in step 0 alone */
    TRY(open_sizes(c, err));
    carve(c, cfg->record_steps);
    TRY(dev_arena_alloc(&c->mem, "K/V cache and activations", err));
    carve(c, cfg->record_steps);
    c->scratch_bytes = c->mem.size - c->cache_bytes;
    TRY(open_host(c, err));
    TRY(early_open(c, err));
    TRY(gemm_lt_open(&c->gemm, c->b.workspace, err));
    CU_TRY(cu_attn_mma_prepare(p->dims.head_dim, c->dev.smem_limit), err);
    CU_TRY(cu_attn_mma_prepare(p->dims.vision_width / p->dims.vision_heads, c->dev.smem_limit),
           err);
    if (c->has_loop)
        CU_TRY(dn90_prepare(&c->loop_shape), err);
    if (c->dev.cc == 90) {
        void *fn = NULL;
        enum cudaDriverEntryPointQueryResult found;
        CU_TRY(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &fn, 12000,
                                                cudaEnableDefault, &found),
               err);
        c->encode = (tensor_map_encode_fn)fn;
    }
    TRY(upload_weights(c, err));
    int index;
    TRY(upload_tables(c, p->max_steps < 10 ? p->max_steps : 10, &index, err));
    CU_TRY(cudaStreamSynchronize(c->dev.stream), err);
    return PI0_OK;
}

static void cuda_close(void *self)
{
    struct cuda_engine *c = self;
    if (!c)
        return;
    if (c->dev.stream) {
        (void)cudaSetDevice(c->dev.ordinal);
        (void)cudaStreamSynchronize(c->dev.stream);
    }
    for (int i = 0; i < CU_MAX_GRAPHS; i++)
        if (c->graphs[i].exec)
            (void)cudaGraphExecDestroy(c->graphs[i].exec);
    for (int i = 0; i < 4; i++)
        if (c->event[i])
            (void)cudaEventDestroy(c->event[i]);
    early_close(c);
    gemm_lt_close(c->gemm);
    if (c->host_in)
        (void)cudaFreeHost(c->host_in);
    if (c->host_out)
        (void)cudaFreeHost(c->host_out);
    free(c->host_emb);
    free(c->w.vision);
    free(c->w.vlm);
    free(c->w.expert);
    dev_arena_free(&c->weights_mem);
    dev_arena_free(&c->mem);
    device_close(&c->dev);
    free(c);
}

/* ---------------------------------------------------------------- graphs */

/* Without camera batching: the tower over each image by itself. */
static pi0_status vision_one_by_one(struct cuda_engine *c, const struct cu_key *k,
                                    struct pi0_error *err)
{
    size_t S = (size_t)c->plan.dims.image_size;
    size_t image = S * S * 3;
    size_t tokens = (size_t)c->plan.tokens_per_camera * (size_t)c->plan.dims.vlm_width;
    uint8_t *pixels = c->b.pixels;
    float *features = c->b.features;
    struct cu_key one = *k;
    pi0_status st = PI0_OK;
    one.images = 1;
    for (size_t i = 0; !st && i < (size_t)k->images; i++) {
        c->b.pixels = pixels + i * image;
        c->b.features = features + i * tokens;
        st = vision_enqueue(c, &one, err);
    }
    c->b.pixels = pixels;
    c->b.features = features;
    return st;
}

pi0_status stage_enqueue(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err)
{
    if (k->stage == CU_STAGE_VISION && c->without & PI0_WITHOUT_CAMERA_BATCHING)
        return vision_one_by_one(c, k, err);
    return k->stage == CU_STAGE_VISION   ? vision_enqueue(c, k, err)
           : k->stage == CU_STAGE_PREFIX ? prefix_enqueue(c, k, err)
                                         : denoise_enqueue(c, k, err);
}

#if CUDART_VERSION < 13000 /* the later signatures under their earlier names */
#define cudaGraphGetEdges cudaGraphGetEdges_v2
#define cudaGraphAddDependencies cudaGraphAddDependencies_v2
#define cudaGraphRemoveDependencies cudaGraphRemoveDependencies_v2
#endif

/* Without dependent launches: programmatic edges become full ones, so that each kernel starts when
 * those it waits for have ended. */
static pi0_status full_edges(cudaGraph_t graph, struct pi0_error *err)
{
    size_t n = 0;
    cudaError_t e = cudaGraphGetEdges(graph, NULL, NULL, NULL, &n);
    cudaGraphNode_t *from = calloc(n + 1, sizeof(cudaGraphNode_t));
    cudaGraphNode_t *to = calloc(n + 1, sizeof(cudaGraphNode_t));
    cudaGraphEdgeData *data = calloc(n + 1, sizeof *data);
    if (!from || !to || !data)
        e = cudaErrorMemoryAllocation;
    if (e == cudaSuccess)
        e = cudaGraphGetEdges(graph, from, to, data, &n);
    static const cudaGraphEdgeData full;
    for (size_t i = 0; e == cudaSuccess && i < n; i++) {
        if (data[i].type != cudaGraphDependencyTypeProgrammatic)
            continue;
        e = cudaGraphRemoveDependencies(graph, &from[i], &to[i], &data[i], 1);
        if (e == cudaSuccess)
            e = cudaGraphAddDependencies(graph, &from[i], &to[i], &full, 1);
    }
    free(from);
    free(to);
    free(data);
    return e == cudaSuccess ? PI0_OK : device_fail(err, e, "making a graph's edges full");
}

static pi0_status capture(struct cuda_engine *c, const struct cu_key *k, cudaGraphExec_t *exec,
                          struct pi0_error *err)
{
    cudaStream_t s = c->dev.stream;
    cudaGraph_t graph = NULL;
    CU_TRY(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), err);
    pi0_status st = stage_enqueue(c, k, err);
    cudaError_t e = cudaStreamEndCapture(s, &graph);
    if (!st && e != cudaSuccess)
        st = device_fail(err, e, "capturing a stage");
    if (!st && c->without & PI0_WITHOUT_DEPENDENT_LAUNCH)
        st = full_edges(graph, err);
    if (!st) {
        e = cudaGraphInstantiate(exec, graph, 0);
        if (e != cudaSuccess)
            st = device_fail(err, e, "cudaGraphInstantiate");
    }
    if (graph)
        (void)cudaGraphDestroy(graph);
    return st;
}

/* Runs a stage: its graph if the bucket is known, else once as it is, and a graph for next time. */
pi0_status stage_run(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err)
{
    struct cu_graph *slot = &c->graphs[0];
    if (c->without & PI0_WITHOUT_GRAPH)
        return stage_enqueue(c, k, err);
    for (int i = 0; i < CU_MAX_GRAPHS; i++) {
        struct cu_graph *g = &c->graphs[i];
        if (g->exec && !memcmp(&g->key, k, sizeof *k)) {
            g->used_at = ++c->tick;
            CU_TRY(cudaGraphLaunch(g->exec, c->dev.stream), err);
            return PI0_OK;
        }
        if (!g->exec ? slot->exec != NULL : slot->exec && g->used_at < slot->used_at)
            slot = g;
    }
    TRY(stage_enqueue(c, k, err));
    CU_TRY(cudaStreamSynchronize(c->dev.stream), err);
    if (slot->exec) {
        (void)cudaGraphExecDestroy(slot->exec);
        slot->exec = NULL;
    }
    TRY(capture(c, k, &slot->exec, err));
    slot->key = *k;
    slot->used_at = ++c->tick;
    return PI0_OK;
}

/* ---------------------------------------------------------------- the host side of a call */

static void lay_prefix_rows(const struct cuda_engine *c, const struct batch *in,
                            struct cu_row *rows, int padded)
{
    int T = c->plan.tokens_per_camera, r = 0, image0 = 0;
    for (int b = 0; b < in->n; b++) {
        const struct sample *s = &in->samples[b];
        struct cu_row *mine = rows + r;
        for (int i = 0; i < s->n_images; i++) {
            int at = sample_image_row(&c->plan, s, i);
            for (int t = 0; t < T; t++)
                mine[at + t].src = (image0 + i) * T + t;
        }
        for (int i = 0; i < s->n_tokens; i++)
            mine[s->n_valid_images * T + i].src = -1 - s->tokens[i];
        for (int i = 0; i < s->n_rows; i++) {
            mine[i].cache = b * c->plan.max_keys + i;
            mine[i].pos = i;
            mine[i].sample = b;
        }
        r += s->n_rows;
        image0 += s->n_images;
    }
    for (; r < padded; r++)
        rows[r] = (struct cu_row){ CU_ROW_PAD, -1, 0, 0 };
}

static void lay_suffix_rows(const struct cuda_engine *c, const struct batch *in)
{
    struct cu_row *rows = HOST(c, suffix_rows);
    int H = c->plan.dims.action_horizon, n_state = c->plan.n_state;
    for (int b = 0; b < in->n; b++) {
        const struct sample *s = &in->samples[b];
        int first = b * c->plan.max_keys + s->n_rows;
        for (int j = 0; j < H; j++)
            rows[b * H + j] =
                (struct cu_row){ 0, first + n_state + j, s->n_valid + n_state + j, b };
        if (n_state)
            rows[in->n * H + b] = (struct cu_row){ 0, first, s->n_valid, b };
    }
}

static void lay_inputs(const struct cuda_engine *c, const struct batch *in)
{
    const struct pi0_dims *d = &c->plan.dims;
    size_t A = (size_t)d->action_dim, noise = (size_t)d->action_horizon * A;
    size_t image = (size_t)d->image_size * (size_t)d->image_size * 3;
    struct cu_sample *samples = HOST(c, samples);
    float *state = HOST(c, state), *eps = HOST(c, noise);
    uint8_t *pixels = HOST(c, pixels);
    int row0 = 0;
    for (int b = 0; b < in->n; b++) {
        const struct sample *s = &in->samples[b];
        samples[b] = (struct cu_sample){ row0, s->n_rows, s->n_valid, b * c->plan.max_keys };
        row0 += s->n_rows;
        if (s->state && c->plan.n_state)
            memcpy(state + (size_t)b * A, s->state, A * sizeof *state);
        memcpy(eps + (size_t)b * noise, s->noise, noise * sizeof *eps);
        for (int i = 0; i < s->n_images; i++, pixels += image)
            memcpy(pixels, s->pixels[i], image);
    }
}

/* Small heads travel with the pixels in one copy; a large batch's unused rows do not. */
static pi0_status send_inputs(struct cuda_engine *c, const struct batch *in, int rows,
                              struct pi0_error *err)
{
    size_t image = (size_t)c->plan.dims.image_size * (size_t)c->plan.dims.image_size * 3;
    size_t pixels = (size_t)in->n_images * image, head = (size_t)c->head_bytes;
    cudaStream_t s = c->dev.stream;
    if (head <= 65536) {
        CU_TRY(cudaMemcpyAsync(c->b.in, c->host_in, head + pixels, cudaMemcpyHostToDevice, s), err);
        return PI0_OK;
    }
    size_t used = (size_t)((unsigned char *)(c->b.rows + rows) - c->b.in);
    CU_TRY(cudaMemcpyAsync(c->b.in, c->host_in, used, cudaMemcpyHostToDevice, s), err);
    CU_TRY(cudaMemcpyAsync(c->b.pixels, c->host_in + head, pixels, cudaMemcpyHostToDevice, s), err);
    return PI0_OK;
}

struct cu_key prefix_key(const struct batch *in)
{
    int most = 0;
    for (int b = 0; b < in->n; b++)
        most = in->samples[b].n_rows > most ? in->samples[b].n_rows : most;
    struct cu_key k;
    memset(&k, 0, sizeof k);
    k.stage = CU_STAGE_PREFIX;
    k.batch = in->n;
    k.rows = cu_bucket_rows(in->n_rows);
    k.sample_rows = cu_bucket_sample_rows(most, in->n, k.rows);
    return k;
}

static pi0_status cuda_vision(void *self, const struct batch *in, struct pi0_error *err)
{
    struct cuda_engine *c = self;
    TRY(device_use(&c->dev, err));
    struct cu_key prefix = prefix_key(in), k;
    lay_prefix_rows(c, in, HOST(c, rows), prefix.rows);
    lay_suffix_rows(c, in);
    lay_inputs(c, in);
    CU_TRY(cudaEventRecord(c->event[0], c->dev.stream), err);
    TRY(send_inputs(c, in, prefix.rows, err));
    memset(&k, 0, sizeof k);
    k.stage = CU_STAGE_VISION;
    k.images = cu_bucket_images(in->n_images);
    if (in->n_images > 0)
        TRY(stage_run(c, &k, err));
    CU_TRY(cudaEventRecord(c->event[1], c->dev.stream), err);
    return PI0_OK;
}

static pi0_status cuda_prefix(void *self, const struct batch *in, struct pi0_error *err)
{
    struct cuda_engine *c = self;
    struct cu_key k = prefix_key(in);
    k.early = early_layers(c, in->n, k.rows);
    if (k.early) {
        k.n_steps = in->n_steps;
        TRY(upload_tables(c, in->n_steps, &k.table, err));
    }
    TRY(stage_run(c, &k, err));
    CU_TRY(cudaEventRecord(c->event[2], c->dev.stream), err);
    return PI0_OK;
}

static pi0_status cuda_denoise(void *self, const struct batch *in, float *actions,
                               struct pi0_error *err)
{
    struct cuda_engine *c = self;
    const struct pi0_dims *d = &c->plan.dims;
    struct cu_key k;
    memset(&k, 0, sizeof k);
    k.stage = CU_STAGE_DENOISE;
    k.batch = in->n;
    k.n_steps = in->n_steps;
    k.loop = c->has_loop && in->n <= cu_loop_batch(d->action_horizon);
    k.early = early_layers(c, in->n, prefix_key(in).rows);
    int most = 0;
    for (int b = 0; b < in->n; b++)
        most = in->samples[b].n_rows > most ? in->samples[b].n_rows : most;
    k.splits = k.loop || c->choice.suffix_sm90
                   ? 0
                   : cu_suffix_splits(most + c->plan.n_suffix, d->action_horizon * d->heads, in->n,
                                      c->facts.n_sm);
    for (int i = 0; i < c->n_tables && c->without & PI0_WITHOUT_FOLDED_TABLES; i++)
        if (c->tables[i].n_steps == in->n_steps) /* the next to be filled, in the same place */
            c->tables[i].n_steps = 0, c->tables[i].used_at = 0;
    TRY(upload_tables(c, in->n_steps, &k.table, err));
    TRY(stage_run(c, &k, err));
    size_t bytes =
        (size_t)in->n * (size_t)d->action_horizon * (size_t)d->action_dim * sizeof(float);
    CU_TRY(cudaEventRecord(c->event[3], c->dev.stream), err);
    CU_TRY(cudaMemcpyAsync(c->host_out, c->b.actions, bytes, cudaMemcpyDeviceToHost, c->dev.stream),
           err);
    CU_TRY(cudaStreamSynchronize(c->dev.stream), err);
    for (int i = 0; i < in->n; i++)
        if (c->host_status[i])
            return pi0_fail(err, PI0_E_DEVICE, "cuda: the denoising loop gave up waiting (%d)",
                            (int)c->host_status[i]);
    memcpy(actions, c->host_out, bytes);
    c->last = k;
    return PI0_OK;
}

const struct backend backend_cuda = {
    .name = "cuda",
    .measure_without = PI0_WITHOUT_GRAPH | PI0_WITHOUT_FUSED_ATTENTION |
                       PI0_WITHOUT_FUSED_PROJECTIONS | PI0_WITHOUT_CAMERA_BATCHING |
                       PI0_WITHOUT_OWN_KERNELS | PI0_WITHOUT_FOLDED_TABLES |
                       PI0_WITHOUT_STATE_REUSE | PI0_WITHOUT_LOOP_KERNEL |
                       PI0_WITHOUT_DEPENDENT_LAUNCH | PI0_WITHOUT_OVERLAP,
    .probe = cuda_probe,
    .open = cuda_open,
    .close = cuda_close,
    .vision = cuda_vision,
    .prefix = cuda_prefix,
    .denoise = cuda_denoise,
    .read = cuda_read,
    .timing = cuda_timing,
    .info = cuda_info,
    .kernel = cuda_kernel,
    .time_kernel = cuda_time_kernel,
};
