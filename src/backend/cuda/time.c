/* SPDX-License-Identifier: Apache-2.0
 * time: the kernels of the last call one op at a time (pi0_engine_time_kernel). The stage is captured
 * as for its graph; of the captured nodes those of one op stay, in their order and with the kind of
 * edge that each had, so that what is timed is what a call runs, layer after layer, each with its own
 * weights. cuBLASLt's plain product of the same shape over the same layers takes turns with it.
 *
 * Bursts stand apart: one behind the other they would heat the card into its power cap and be slower
 * than in a call. */
#include "backend/cuda/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if CUDART_VERSION < 13000 /* the later signatures under their earlier names */
#define cudaGraphGetEdges cudaGraphGetEdges_v2
#define cudaGraphAddDependencies cudaGraphAddDependencies_v2
#define cudaStreamGetCaptureInfo cudaStreamGetCaptureInfo_v3
#endif

#define MAX_BURSTS 25
#define MIN_BURSTS 5
#define OP_MS 300.0   /* bursts of one op, pauses left out */
#define MIN_PAUSE 3.0 /* ms */

/* ---------------------------------------------------------------- whose launches */

struct cu_mark_at {
    cudaGraphNode_t after; /* the last node before; NULL: none */
    enum cu_op op;
    const char *also;
};
struct cu_marks {
    struct cu_mark_at *at;
    size_t n, room;
    cudaError_t failed;
};

void cu_marked(struct cuda_engine *c, enum cu_op op, const char *also)
{
    struct cu_marks *m = c->marks;
    enum cudaStreamCaptureStatus status;
    const cudaGraphNode_t *last = NULL;
    const cudaGraphEdgeData *edges = NULL;
    size_t n = 0;
    if (m->n == m->room) {
        size_t room = m->room ? m->room * 2 : 256;
        struct cu_mark_at *at = realloc(m->at, room * sizeof *at);
        if (!at) {
            m->failed = cudaErrorMemoryAllocation;
            return;
        }
        m->at = at;
        m->room = room;
    }
    cudaError_t e = cudaStreamGetCaptureInfo(c->dev.stream, &status, NULL, NULL, &last, &edges, &n);
    if (e == cudaSuccess && n > 1)
        e = cudaErrorNotSupported; /* a stage is one chain of launches */
    if (e != cudaSuccess)
        m->failed = e;
    m->at[m->n++] = (struct cu_mark_at){ n ? last[0] : NULL, op, also };
}

/* ---------------------------------------------------------------- what an op is */

struct op_facts {
    const char *name;
    enum cu_stage stage;
    int m, n, k;
    double flops, bytes;
    const uint16_t *x; /* a product: its input, a place for bf16 results */
    void *y;
};

static struct op_facts product(const char *name, enum cu_stage stage, int m, int n, int k,
                               double out_bytes, const uint16_t *x, void *y)
{
    double M = m, N = n, K = k;
    return (struct op_facts){
        name, stage, m, n, k, 2 * M * N * K, 2 * N * K + 2 * M * K + out_bytes * M * N, x, y
    };
}

/* `bytes` a value of m rows of n. */
static struct op_facts pass(const char *name, enum cu_stage stage, int m, int n, double bytes)
{
    return (struct op_facts){ name, stage, m, n, 0, 0, bytes * m * n, NULL, NULL };
}

/* q and o of every row, k and v of `keys` rows in kv heads; `pairs` of a row and a key. */
static struct op_facts attention(const char *name, enum cu_stage stage, int m, int keys, int e,
                                 int heads, double kv_rows, double pairs)
{
    return (struct op_facts){
        name, stage, m, keys, e, 4 * pairs * heads * e, 4.0 * m * heads * e + 4 * kv_rows * e,
        NULL, NULL
    };
}

static void suffix_facts(const struct cuda_engine *c, const struct batch *in, double prefix_rows,
                         struct op_facts *f)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_buffers *b = &c->b;
    int W = d->expert_width, F = d->expert_mlp_dim, Q = c->plan.q_dim, E = d->head_dim;
    int S = in->n * d->action_horizon, keys = in->samples[0].n_rows + c->plan.n_suffix;
    enum cu_stage s = CU_STAGE_DENOISE;
    double all_keys = prefix_rows + in->n * c->plan.n_suffix;
    struct pi0_stage_work work[PI0_N_STAGES];
    plan_work(&c->plan, in->n, in->n_images / in->n, in->samples[0].n_tokens, in->n_steps, work);
    f[CU_OP_LOOP] = (struct op_facts){ "denoising",
                                       s,
                                       S,
                                       keys,
                                       in->n_steps,
                                       work[2].flops,
                                       work[2].weight_bytes + work[2].activation_bytes,
                                       NULL,
                                       NULL };
    f[CU_OP_SUFFIX_NORM] = pass("suffix norm", s, S, W, 6);
    f[CU_OP_SUFFIX_QKV] = product("suffix qkv", s, S, Q + 2 * E, W, 4, b->sh, b->sqkv);
    f[CU_OP_SUFFIX_ROPE] = pass("suffix RoPE", s, S, Q + 2 * E, 6);
    f[CU_OP_SUFFIX_ATTENTION] = attention("suffix attention", s, S, keys, E, d->heads, all_keys,
                                          (double)d->action_horizon * all_keys);
    f[CU_OP_SUFFIX_O] = product("suffix o", s, S, W, Q, 8, b->so, b->su);
    f[CU_OP_SUFFIX_GATE_UP] = product("suffix gate\xC2\xB7up", s, S, 2 * F, W, 1, b->sh, b->sgu);
    f[CU_OP_SUFFIX_DOWN] = product("suffix down", s, S, W, F, 8, b->sact, b->su);
}

/* Every op at the shapes of a call. out_bytes of a product: what its result costs as the engine
 * stores it (a residual is read and written; GeGLU halves the columns). */
static void op_facts(const struct cuda_engine *c, const struct batch *in, struct op_facts *f)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_buffers *b = &c->b;
    int D = d->vision_width, Fv = d->vision_mlp_dim, T = c->plan.tokens_per_camera;
    int V = in->n_images * T, P = in->n_rows, most = 0;
    int W = d->vlm_width, F = d->vlm_mlp_dim, Q = c->plan.q_dim, E = d->head_dim;
    enum cu_stage v = CU_STAGE_VISION, p = CU_STAGE_PREFIX;
    double pairs = 0;
    for (int i = 0; i < in->n; i++) {
        int rows = in->samples[i].n_rows;
        pairs += (double)rows * rows;
        most = rows > most ? rows : most;
    }
    memset(f, 0, CU_N_OPS * sizeof *f);
    f[CU_OP_VISION_NORM] = pass("vision norm", v, V, D, 6);
    f[CU_OP_VISION_QKV] = product("vision qkv", v, V, 3 * D, D, 2, b->vh, b->vqkv);
    f[CU_OP_VISION_ATTENTION] =
        attention("vision attention", v, V, T, D / d->vision_heads, d->vision_heads,
                  (double)V * d->vision_heads, (double)V * T);
    f[CU_OP_VISION_O] = product("vision o", v, V, D, D, 8, b->vo, b->vh);
    f[CU_OP_VISION_FC1] = product("vision fc1", v, V, Fv, D, 2, b->vh, b->vmlp);
    f[CU_OP_VISION_FC2] = product("vision fc2", v, V, D, Fv, 8, b->vmlp, b->vh);
    f[CU_OP_PREFIX_NORM] = pass("prefix norm", p, P, W, 6);
    int late = prefix_late_rope(c, cu_bucket_rows(P)); /* k and v alone, from bf16 */
    f[CU_OP_PREFIX_QKV] = product("prefix qkv", p, P, Q + 2 * E, W, late ? 2 : 4, b->h, b->qkv);
    f[CU_OP_PREFIX_ROPE] = pass("prefix RoPE", p, P, late ? 2 * E : Q + 2 * E, late ? 4 : 6);
    f[CU_OP_PREFIX_ATTENTION] =
        attention("prefix attention", p, P, most, E, d->heads, (double)P, pairs);
    f[CU_OP_PREFIX_O] = product("prefix o", p, P, W, Q, 8, b->o, b->qkv);
    f[CU_OP_PREFIX_GATE_UP] = product("prefix gate\xC2\xB7up", p, P, 2 * F, W, 1, b->h, b->gu);
    f[CU_OP_PREFIX_DOWN] = product("prefix down", p, P, W, F, 8, b->act, b->qkv);
    suffix_facts(c, in, P, f);
}

/* The weights of a product in layer l; NULL: none, or past the last layer. Their order in memory is
 * the engine's own: a plain product of them is as fast, and nobody reads its result. */
static const uint16_t *op_weights(const struct cuda_engine *c, enum cu_op op, int l)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_vision_layer *v = c->w.vision + l;
    const struct cu_layer *p = c->w.vlm + l, *s = c->w.expert + l;
    if (op <= CU_OP_VISION_FC2)
        return l >= d->vision_depth     ? NULL
               : op == CU_OP_VISION_QKV ? v->wqkv
               : op == CU_OP_VISION_O   ? v->wo
               : op == CU_OP_VISION_FC1 ? v->w1
               : op == CU_OP_VISION_FC2 ? v->w2
                                        : NULL;
    if (op < CU_OP_LOOP)
        return l >= d->depth - 1            ? NULL
               : op == CU_OP_PREFIX_QKV     ? p->wqkv
               : op == CU_OP_PREFIX_O       ? p->wo
               : op == CU_OP_PREFIX_GATE_UP ? p->wgu
               : op == CU_OP_PREFIX_DOWN    ? p->wdown
                                            : NULL;
    return l >= d->depth                ? NULL
           : op == CU_OP_SUFFIX_QKV     ? s->wqkv
           : op == CU_OP_SUFFIX_O       ? s->wo
           : op == CU_OP_SUFFIX_GATE_UP ? s->wgu
           : op == CU_OP_SUFFIX_DOWN    ? s->wdown
                                        : NULL;
}

/* ---------------------------------------------------------------- the nodes of one op */

struct chain {
    cudaGraph_t graph;
    cudaGraphNode_t *node; /* [n] in their order */
    cudaGraphEdgeData *in; /* [n] the edge that leads to each */
    size_t n;
};

static void chain_free(struct chain *g)
{
    if (g->graph)
        (void)cudaGraphDestroy(g->graph);
    free(g->node);
    free(g->in);
}

/* Nodes from the first to the last. */
static cudaError_t chain_walk(struct chain *g)
{
    size_t edges = 0;
    cudaError_t e = cudaGraphGetNodes(g->graph, NULL, &g->n);
    if (e == cudaSuccess)
        e = cudaGraphGetEdges(g->graph, NULL, NULL, NULL, &edges);
    if (e != cudaSuccess || g->n == 0)
        return e != cudaSuccess ? e : cudaErrorNotSupported;
    cudaGraphNode_t *from = calloc(g->n + 1, sizeof(cudaGraphNode_t));
    cudaGraphNode_t *to = calloc(g->n + 1, sizeof(cudaGraphNode_t));
    cudaGraphEdgeData *data = calloc(g->n + 1, sizeof *data);
    g->node = calloc(g->n, sizeof(cudaGraphNode_t));
    g->in = calloc(g->n, sizeof *g->in);
    size_t roots = 1;
    if (!from || !to || !data || !g->node || !g->in)
        e = cudaErrorMemoryAllocation;
    else if (edges != g->n - 1)
        e = cudaErrorNotSupported; /* not one chain */
    if (e == cudaSuccess && edges)
        e = cudaGraphGetEdges(g->graph, from, to, data, &edges);
    if (e == cudaSuccess)
        e = cudaGraphGetRootNodes(g->graph, g->node, &roots);
    for (size_t i = 1; e == cudaSuccess && i < g->n; i++) {
        size_t k = i - 1; /* where the edge is if they come in order */
        if (from[k] != g->node[i - 1])
            for (k = 0; k < edges && from[k] != g->node[i - 1]; k++)
                ;
        if (k == edges)
            e = cudaErrorNotSupported;
        else
            g->node[i] = to[k], g->in[i] = data[k];
    }
    free(from);
    free(to);
    free(data);
    return e;
}

/* Leaves op's nodes alone, in a chain of their own, with the edges' kinds as they were. */
static cudaError_t chain_keep(struct chain *g, const struct cu_marks *m, enum cu_op op)
{
    size_t next = 0, kept = 0;
    int mine = 0, broken = 0;
    cudaError_t e = cudaSuccess;
    for (size_t i = 0; e == cudaSuccess && i < g->n; i++) {
        for (; next < m->n && m->at[next].after == (i ? g->node[i - 1] : NULL); next++)
            mine = m->at[next].op == op;
        if (!mine) {
            e = cudaGraphDestroyNode(g->node[i]);
            broken = 1;
            continue;
        }
        if (broken && kept)
            e = cudaGraphAddDependencies(g->graph, &g->node[kept - 1], &g->node[i], &g->in[i], 1);
        g->node[kept++] = g->node[i];
        broken = 0;
    }
    g->n = kept;
    return e;
}

/* "_ZN12_GLOBAL__N_115geglu_bf16_sm90E14CUtensorMap…" → "geglu_bf16_sm90". */
static void plain_name(char *out, size_t room, const char *name)
{
    const char *p = name, *best = name;
    int n = (int)strlen(name);
    if (!strncmp(p, "_Z", 2)) {
        int nested = p[2] == 'N'; /* else what follows the name is its arguments */
        for (p += 2; *p == 'N' || *p == 'L'; p++)
            ;
        for (int parts = 0; *p >= '1' && *p <= '9' && (nested || !parts); parts++) {
            char *end;
            long len = strtol(p, &end, 10);
            if (len < 0 || (size_t)len > strlen(end))
                break;
            if (strncmp(end, "_GLOBAL", 7) != 0)
                best = end, n = (int)len;
            for (p = end + len; *p == 'L'; p++)
                ;
        }
    }
    snprintf(out, room, "%.*s", n, best);
}

static void add_name(char *list, size_t room, const char *name)
{
    size_t used = strlen(list);
    if (!strstr(list, name) && used + strlen(name) + 4 < room)
        snprintf(list + used, room - used, "%s%s", used ? " + " : "", name);
}

/* Different kernels of the chain by name; one that is not of this library is cuBLASLt's. */
static void chain_names(const struct chain *g, char *out, size_t room)
{
    for (size_t i = 0; i < g->n; i++) {
        enum cudaGraphNodeType type;
        struct cudaKernelNodeParams p;
        const char *name = NULL;
        char plain[64] = "cuBLASLt";
        if (cudaGraphNodeGetType(g->node[i], &type) != cudaSuccess ||
            type != cudaGraphNodeTypeKernel)
            continue;
#if CUDART_VERSION >= 12030
        if (cudaGraphKernelNodeGetParams(g->node[i], &p) == cudaSuccess &&
            cudaFuncGetName(&name, p.func) == cudaSuccess && name)
            plain_name(plain, sizeof plain, name);
#else
        (void)p, (void)name;
#endif
        (void)cudaGetLastError(); /* a library's kernel has no name here */
        add_name(out, room,
                 strstr(plain, "nvjet") || strstr(plain, "cutlass") ? "cuBLASLt" : plain);
    }
}

/* ---------------------------------------------------------------- bursts */

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void pause_ms(double ms)
{
    struct timespec t = { .tv_sec = (time_t)(ms / 1e3) };
    t.tv_nsec = (long)((ms - (double)t.tv_sec * 1e3) * 1e6);
    nanosleep(&t, NULL);
}

static pi0_status burst(struct cuda_engine *c, cudaGraphExec_t exec, float *ms,
                        struct pi0_error *err)
{
    CU_TRY(cudaEventRecord(c->event[0], c->dev.stream), err);
    CU_TRY(cudaGraphLaunch(exec, c->dev.stream), err);
    CU_TRY(cudaEventRecord(c->event[1], c->dev.stream), err);
    CU_TRY(cudaEventSynchronize(c->event[1]), err);
    CU_TRY(cudaEventElapsedTime(ms, c->event[0], c->event[1]), err);
    pause_ms(*ms * 3 > MIN_PAUSE ? (double)*ms * 3 : MIN_PAUSE);
    return PI0_OK;
}

/* a and b (may be NULL) in turns; medians of both, least of a, milliseconds. */
static pi0_status bursts(struct cuda_engine *c, cudaGraphExec_t a, cudaGraphExec_t b, float out[3],
                         struct pi0_error *err)
{
    float one[MAX_BURSTS], two[MAX_BURSTS] = { 0 }, first = 0;
    for (int i = 0; i < 2; i++) { /* kernels loaded, clocks up */
        TRY(burst(c, a, &first, err));
        if (b)
            TRY(burst(c, b, &two[0], err));
    }
    int n = (int)(OP_MS / (double)(first + two[0] + 0.001f));
    n = n < MIN_BURSTS ? MIN_BURSTS : n > MAX_BURSTS ? MAX_BURSTS : n;
    for (int i = 0; i < n; i++) {
        TRY(burst(c, a, &one[i], err));
        if (b)
            TRY(burst(c, b, &two[i], err));
    }
    qsort(one, (size_t)n, sizeof *one, by_value);
    qsort(two, (size_t)n, sizeof *two, by_value);
    out[0] = one[n / 2], out[1] = two[n / 2], out[2] = one[0];
    return PI0_OK;
}

/* ---------------------------------------------------------------- the library beside it */

/* The plain product over all layers, rows in the pieces that the engine takes. */
static pi0_status library_enqueue(struct cuda_engine *c, enum cu_op op, const struct op_facts *f,
                                  int pick, struct pi0_error *err)
{
    int piece = f->stage == CU_STAGE_PREFIX ? c->mlp_rows : f->m;
    const uint16_t *w;
    for (int l = 0; (w = op_weights(c, op, l)) != NULL; l++)
        for (int r = 0; r < f->m; r += piece) {
            int m = f->m - r < piece ? f->m - r : piece;
            struct cu_gemm g = cu_bf16(cu_product(m, f->n, f->k, f->x, w, f->y));
            g.pick = pick;
            TRY(gemm_lt_run(c->gemm, &g, c->dev.stream, err));
        }
    return PI0_OK;
}

static pi0_status library_graph(struct cuda_engine *c, enum cu_op op, const struct op_facts *f,
                                int pick, cudaGraphExec_t *exec, struct pi0_error *err)
{
    cudaGraph_t graph = NULL;
    TRY(library_enqueue(c, op, f, pick, err)); /* loads the kernel */
    CU_TRY(cudaStreamBeginCapture(c->dev.stream, cudaStreamCaptureModeThreadLocal), err);
    pi0_status st = library_enqueue(c, op, f, pick, err);
    cudaError_t e = cudaStreamEndCapture(c->dev.stream, &graph);
    if (!st && e == cudaSuccess)
        e = cudaGraphInstantiate(exec, graph, 0);
    if (graph)
        (void)cudaGraphDestroy(graph);
    return st ? st : e == cudaSuccess ? PI0_OK : device_fail(err, e, "capturing the library");
}

/* The fastest of the candidates by two bursts each; *exec NULL: this op is no product. */
static pi0_status library_best(struct cuda_engine *c, enum cu_op op, const struct op_facts *f,
                               cudaGraphExec_t *exec, struct pi0_error *err)
{
    if (!f->x || !op_weights(c, op, 0))
        return PI0_OK;
    struct cu_gemm g = cu_bf16(cu_product(f->m, f->n, f->k, f->x, op_weights(c, op, 0), f->y));
    int found = gemm_lt_candidates(c->gemm, &g);
    float best = 0;
    for (int i = 0; i < found; i++) {
        cudaGraphExec_t one = NULL;
        float ms[3] = { 0 };
        pi0_status st = library_graph(c, op, f, i, &one, err);
        for (int k = 0; !st && k < 3; k++)
            st = burst(c, one, &ms[k], err);
        float least = ms[1] < ms[2] ? ms[1] : ms[2];
        if (!st && (!*exec || least < best)) {
            cudaGraphExec_t worse = *exec;
            best = least;
            *exec = one;
            one = worse;
        }
        if (one)
            (void)cudaGraphExecDestroy(one);
        TRY(st);
    }
    return PI0_OK;
}

/* ---------------------------------------------------------------- one op */

/* The call's three stages once more: the buffers hold what a call leaves there. */
static pi0_status run_stages(struct cuda_engine *c, const struct cu_key keys[3],
                             struct pi0_error *err)
{
    for (int i = 0; i < 3; i++)
        if (i || keys[0].images)
            TRY(stage_run(c, &keys[i], err));
    CU_TRY(cudaStreamSynchronize(c->dev.stream), err);
    return PI0_OK;
}

static pi0_status op_chain(struct cuda_engine *c, const struct cu_key *k, enum cu_op op,
                           struct cu_marks *marks, struct chain *g, struct pi0_error *err)
{
    CU_TRY(cudaStreamBeginCapture(c->dev.stream, cudaStreamCaptureModeThreadLocal), err);
    c->marks = marks;
    pi0_status st = stage_enqueue(c, k, err);
    c->marks = NULL;
    cudaError_t e = cudaStreamEndCapture(c->dev.stream, &g->graph);
    if (st)
        return st;
    if (e == cudaSuccess)
        e = marks->failed;
    if (e == cudaSuccess)
        e = chain_walk(g);
    if (e == cudaSuccess)
        e = chain_keep(g, marks, op);
    return e == cudaSuccess ? PI0_OK : device_fail(err, e, "capturing the launches of one op");
}

static pi0_status time_chain(struct cuda_engine *c, enum cu_op op, const struct op_facts *f,
                             const struct chain *g, struct pi0_kernel_time *out,
                             struct pi0_error *err)
{
    cudaGraphExec_t ours = NULL, theirs = NULL;
    float ms[3] = { 0 };
    cudaError_t e = cudaGraphInstantiate(&ours, g->graph, 0);
    pi0_status st = e == cudaSuccess ? library_best(c, op, f, &theirs, err)
                                     : device_fail(err, e, "cudaGraphInstantiate");
    if (!st)
        st = bursts(c, ours, theirs, ms, err);
    int layers = 0;
    while (op_weights(c, op, layers))
        layers++;
    if (!st) {
        out->us = (double)ms[0] * 1e3 / out->count;
        out->us_min = (double)ms[2] * 1e3 / out->count;
        out->library_us = theirs ? (double)ms[1] * 1e3 / layers : 0;
        snprintf(out->library, sizeof out->library, "%s", theirs ? "cuBLASLt" : "");
    }
    if (ours)
        (void)cudaGraphExecDestroy(ours);
    if (theirs)
        (void)cudaGraphExecDestroy(theirs);
    return st;
}

pi0_status cuda_time_kernel(void *self, const struct batch *last, int i,
                            struct pi0_kernel_time *out, struct pi0_error *err)
{
    struct cuda_engine *c = self;
    struct op_facts facts[CU_N_OPS];
    struct cu_marks marks = { 0 };
    struct chain g = { 0 };
    struct cu_key keys[3];
    enum cu_op op = (enum cu_op)(i + 1);
    if (i >= CU_N_OPS - 1)
        return PI0_OK;
    TRY(device_use(&c->dev, err));
    op_facts(c, last, facts);
    const struct op_facts *f = &facts[op];
    memset(keys, 0, sizeof keys);
    keys[0].stage = CU_STAGE_VISION;
    keys[0].images = cu_bucket_images(last->n_images);
    keys[1] = prefix_key(last);
    keys[2] = c->last;
    keys[2].early = 0; /* as keys[1]: one op at a time is asked for */
    snprintf(out->op, sizeof out->op, "%s", f->name);
    out->m = f->m, out->n = f->n, out->k = f->k;
    out->flops = f->flops, out->bytes = f->bytes;
    if (f->stage == CU_STAGE_VISION && !last->n_images)
        return PI0_OK;
    TRY(run_stages(c, keys, err));
    pi0_status st = op_chain(c, &keys[f->stage], op, &marks, &g, err);
    int chunks = op == CU_OP_PREFIX_GATE_UP || op == CU_OP_PREFIX_DOWN
                     ? (keys[1].rows + c->mlp_rows - 1) / c->mlp_rows
                     : 1;
    for (size_t k = 0; !st && k < marks.n; k++)
        if (marks.at[k].op == op) {
            out->count++;
            if (strlen(marks.at[k].also) > strlen(out->also))
                snprintf(out->also, sizeof out->also, "%s", marks.at[k].also);
        }
    out->count /= chunks;
    if (!st && g.n > 0) {
        chain_names(&g, out->kernel, sizeof out->kernel);
        st = time_chain(c, op, f, &g, out, err);
    } else {
        out->count = 0;
    }
    chain_free(&g);
    free(marks.at);
    return st;
}
