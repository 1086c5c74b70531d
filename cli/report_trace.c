/* SPDX-License-Identifier: Apache-2.0
 * report_trace: where the time of one call goes: every launch of its stages, summed by kernel and by
 * category, with the gaps between them. Products and attention get the arithmetic and bytes of their
 * place in the model where the launches of a stage can be told apart by their order; others only
 * their time. Without a GPU, or without CUPTI, the stages' own clocks are all there is. */
#include "report.h"
#include "trace.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TRACED_CALLS 5
#define MAX_OPS 512

enum category {
    FUSED_GEMM,
    PLAIN_GEMM,
    ATTENTION,
    LOOP,
    NORM,
    ELEMENTWISE,
    COPY,
    BESIDE,
    N_CATEGORIES
};
static const char *const category_names[N_CATEGORIES] = { "GEMM with fused epilogue",
                                                          "plain GEMM",
                                                          "attention",
                                                          "denoising loop",
                                                          "norm",
                                                          "elementwise",
                                                          "copies",
                                                          "beside the prefix" };

static bool has(const char *text, const char *part) { return strstr(text, part) != NULL; }

/* The second kernel of a cuBLASLt product whose K is split. */
static bool is_reduction(const char *name) { return has(name, "splitKreduce"); }

/* Runs on processors of its own while a stage goes on: the first denoising step beside the prefix. */
static bool beside(const char *name) { return has(name, "early_bf16"); }

/* Our kernels are called by name; the rest is cuBLASLt's. A product of ours carries its epilogue
 * (gate·up with GeGLU, vision with bias, GELU or residual); cuBLASLt says in the name when it does. */
static enum category category_of(const char *name)
{
    if (has(name, "memcpy") || has(name, "memset"))
        return COPY;
    if (beside(name))
        return BESIDE;
    if (has(name, "attn"))
        return ATTENTION;
    if (has(name, "loop"))
        return LOOP;
    if (has(name, "norm") || has(name, "vision_enter"))
        return NORM;
    if (has(name, "geglu_bf16") || has(name, "qkv_bf16") || has(name, "vision_bf16") ||
        has(name, "suffix_bf16") || has(name, "proj_bf16"))
        return FUSED_GEMM;
    if (is_reduction(name))
        return PLAIN_GEMM;
    if (has(name, "nvjet") || has(name, "gemm") || has(name, "cutlass") || has(name, "xmma"))
        return has(name, "bias") || has(name, "gelu") || has(name, "relu") || has(name, "epilogue")
                   ? FUSED_GEMM
                   : PLAIN_GEMM;
    return ELEMENTWISE;
}

/* "_ZN12_GLOBAL__N_115geglu_bf16_sm90E14CUtensorMap…" → "geglu_bf16_sm90": the last plain component
 * of a mangled name. Others stay, shortened. */
static void readable(char out[64], const char *name)
{
    const char *p = name;
    char best[64] = "";
    if (strncmp(p, "_Z", 2) == 0) {
        bool nested = p[2] == 'N'; /* else what follows the name is its arguments */
        p += 2;
        while (*p == 'N' || *p == 'L' || *p == 'K')
            p++;
        for (int parts = 0; *p >= '1' && *p <= '9' && (nested || !parts); parts++) {
            char *end;
            long n = strtol(p, &end, 10);
            if ((size_t)n > strlen(end))
                break;
            snprintf(best, sizeof best, "%.*s", (int)(n > 60 ? 60 : n), end);
            p = end + n;
            while (*p == 'L')
                p++;
        }
    }
    snprintf(out, 64, "%.60s", best[0] && strncmp(best, "_GLOBAL", 7) != 0 ? best : name);
}

/* ---------------------------------------------------------------- what an op asks for */

struct op {
    const char *name;
    double flops, bytes;
};
struct ops {
    struct op v[MAX_OPS];
    int n;
};

/* Weights and activations of two bytes; the residual stream of four where it is added to. */
static void product(struct ops *o, const char *name, double m, double n, double k, double out_bytes)
{
    if (o->n < MAX_OPS)
        o->v[o->n++] =
            (struct op){ name, 2 * m * n * k, 2 * n * k + 2 * m * k + out_bytes * m * n };
}

static void attend(struct ops *o, const char *name, double m, double keys, double heads, double kv,
                   double e)
{
    if (o->n < MAX_OPS)
        o->v[o->n++] = (struct op){ name, 4 * m * keys * heads * e,
                                    2 * (2 * m * heads * e + 2 * keys * kv * e) };
}

/* The products (attention: 0) or the attentions (1) of a stage in the order of their launches, as
 * docs/model.md has them; the last prefix layer stops at its K and V. */
static void stage_ops(struct ops *o, int stage, int attention, const struct pi0_dims *d,
                      int cameras, int prefix)
{
    int side = d->image_size / d->patch_size, D = d->vision_width, E = d->head_dim;
    int W = d->vlm_width, Q = d->heads * E;
    double m = cameras * side * side;
    o->n = 0;
    if (stage == 0) {
        if (!attention)
            product(o, "vision patches", m, D, 3.0 * d->patch_size * d->patch_size, 8);
        for (int l = 0; l < d->vision_depth; l++) {
            if (attention) {
                attend(o, "vision attention", m, side * side, d->vision_heads, d->vision_heads,
                       (double)D / d->vision_heads);
                continue;
            }
            product(o, "vision qkv", m, 3.0 * D, D, 2);
            product(o, "vision o", m, D, D, 8);
            product(o, "vision fc1", m, d->vision_mlp_dim, D, 2);
            product(o, "vision fc2", m, D, d->vision_mlp_dim, 8);
        }
        if (!attention)
            product(o, "vision projector", m, W, D, 4);
    } else if (stage == 1) {
        for (int l = 0; l < d->depth - 1; l++) {
            if (attention) {
                attend(o, "prefix attention", prefix, prefix, d->heads, d->kv_heads, E);
                continue;
            }
            product(o, "prefix qkv", prefix, Q + 2 * E, W, 4);
            product(o, "prefix o", prefix, W, Q, 8);
            product(o, "prefix gate·up", prefix, 2.0 * d->vlm_mlp_dim, W, 1); /* GeGLU halves it */
            product(o, "prefix down", prefix, W, d->vlm_mlp_dim, 8);
        }
        if (!attention)
            product(o, "prefix qkv, last", prefix, 2.0 * E, W, 4);
    }
}

/* ---------------------------------------------------------------- launches of one call */

struct traced {
    struct launch *l; /* [n] of the first call; end − start is replaced by ns */
    double *ns;       /* [n] mean over the calls */
    int *stage;       /* [n] 0…2, −1: outside the graphs */
    struct op *op;    /* [n] name NULL: not told apart */
    size_t n, lost;
    /* mean of a call: first start to last end; union of the launches, those beside others left out */
    double span_ns, busy_ns;
    int calls;
};

static void traced_free(struct traced *t)
{
    free(t->l);
    free(t->ns);
    free(t->stage);
    free(t->op);
    memset(t, 0, sizeof *t);
}

static bool traced_first(struct traced *t, const struct launch *l, size_t n)
{
    t->n = n;
    t->l = malloc((n + 1) * sizeof *t->l);
    t->ns = calloc(n + 1, sizeof *t->ns);
    t->stage = calloc(n + 1, sizeof *t->stage);
    t->op = calloc(n + 1, sizeof *t->op);
    if (!t->l || !t->ns || !t->stage || !t->op)
        return false;
    memcpy(t->l, l, n * sizeof *l);
    return true;
}

static void traced_add(struct traced *t, const struct launch *l)
{
    uint64_t reached = l[0].start_ns;
    for (size_t i = 0; i < t->n; i++) {
        uint64_t from = l[i].start_ns > reached ? l[i].start_ns : reached;
        t->ns[i] += (double)(l[i].end_ns - l[i].start_ns);
        if (l[i].end_ns > from && !beside(l[i].name)) {
            t->busy_ns += (double)(l[i].end_ns - from);
            reached = l[i].end_ns;
        }
    }
    t->span_ns += (double)(reached - l[0].start_ns);
    t->calls++;
}

/* Stages are graphs: the n-th graph id to appear is the n-th stage. */
static void find_stages(struct traced *t)
{
    uint32_t seen[3] = { 0 };
    for (size_t i = 0; i < t->n; i++) {
        t->stage[i] = -1;
        for (int g = 0; g < 3 && t->l[i].graph; g++) {
            if (!seen[g])
                seen[g] = t->l[i].graph;
            if (seen[g] == t->l[i].graph) {
                t->stage[i] = g;
                break;
            }
        }
    }
}

/* Of vision or prefix; the suffix's first, on its way in, runs beside them. */
static bool is_product(const char *name)
{
    enum category c = category_of(name);
    return (c == FUSED_GEMM || c == PLAIN_GEMM) && !is_reduction(name) && !has(name, "suffix_bf16");
}

/* Passes over rows in memory, by the kernel's name: `bytes` a value of `rows` rows of `width`. */
static void assign_passes(struct traced *t, const struct pi0_dims *d, int cameras, int prefix)
{
    int side = d->image_size / d->patch_size, E = d->head_dim;
    double m = (double)cameras * side * side;
    size_t last_rope = t->n;
    for (size_t i = 0; i < t->n; i++) {
        const char *name = t->l[i].name;
        if (t->stage[i] == 0 && (has(name, "layernorm") || has(name, "vision_enter")))
            t->op[i] = (struct op){ "vision norm", 0, 6 * m * d->vision_width };
        else if (t->stage[i] == 1 && has(name, "rmsnorm"))
            t->op[i] = (struct op){ "prefix norm", 0, 6.0 * prefix * d->vlm_width };
        else if (t->stage[i] == 1 && has(name, "rope")) {
            t->op[i] = (struct op){ "prefix RoPE", 0, 6.0 * prefix * (d->heads + 2) * E };
            last_rope = i;
        } else if (is_reduction(name) && i > 0 && t->op[i - 1].name)
            t->op[i] = (struct op){ t->op[i - 1].name, 0, 0 };
    }
    if (last_rope < t->n) /* of k and v alone: nothing reads further */
        t->op[last_rope] = (struct op){ "prefix RoPE", 0, 12.0 * prefix * E };
}

static void assign_ops(struct traced *t, const struct pi0_dims *d, int cameras, int prefix)
{
    static struct ops ops;
    for (int stage = 0; stage < 2; stage++)
        for (int attention = 0; attention < 2; attention++) {
            int found = 0, next = 0;
            stage_ops(&ops, stage, attention, d, cameras, prefix);
            for (size_t i = 0; i < t->n; i++) {
                const char *name = t->l[i].name;
                found += t->stage[i] == stage &&
                         (attention ? category_of(name) == ATTENTION : is_product(name));
            }
            if (found != ops.n)
                continue; /* launches and ops do not match one to one: only times are known */
            for (size_t i = 0; i < t->n; i++) {
                const char *name = t->l[i].name;
                if (t->stage[i] == stage &&
                    (attention ? category_of(name) == ATTENTION : is_product(name)))
                    t->op[i] = ops.v[next++];
            }
        }
}

/* One kernel that is nearly all of a stage carries the work of the stage, less the layers that ran
 * beside the prefix: `layers` in all steps. */
static void assign_loop(struct traced *t, const struct pi0_stage_work *work, int layers)
{
    double flops = work->flops / layers, left = layers;
    double bytes = (work->weight_bytes + work->activation_bytes) / layers;
    for (size_t i = 0; i < t->n; i++)
        if (beside(t->l[i].name)) {
            t->op[i] = (struct op){ "denoise, a layer of step 0", flops, bytes };
            left--;
        }
    for (size_t i = 0; i < t->n; i++)
        if (category_of(t->l[i].name) == LOOP)
            t->op[i] = (struct op){ "denoise, all steps", flops * left, bytes * left };
}

/* ---------------------------------------------------------------- sums */

struct row {
    char name[64];
    const char *op;
    enum category category;
    int stage, launches;
    double ns, flops, bytes;
};

static int by_time(const void *a, const void *b)
{
    double x = ((const struct row *)a)->ns, y = ((const struct row *)b)->ns;
    return (x < y) - (x > y);
}

static void put_rates(json_t *o, const struct report *r, double ns, double flops, double bytes)
{
    double floor = ceilings_floor_ms(&r->peak, flops, bytes);
    bool known = flops + bytes > 0 && ns > 0;
    json_object_set_new(o, "flops", known && flops > 0 ? json_number(flops, 6) : json_null());
    json_object_set_new(o, "bytes", known ? json_number(bytes, 6) : json_null());
    json_object_set_new(o, "flops_per_s",
                        known && flops > 0 ? json_number(flops / ns * 1e9, 5) : json_null());
    json_object_set_new(o, "bytes_per_s", known ? json_number(bytes / ns * 1e9, 5) : json_null());
    json_object_set_new(o, "floor_percent",
                        floor > 0 ? json_number(floor / (ns / 1e6) * 100, 4) : json_null());
}

/* Rows of equal kernel, stage and op; returns their count. */
static size_t sum_rows(const struct traced *t, struct row *rows)
{
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) {
        struct row row = { .op = t->op[i].name,
                           .stage = t->stage[i],
                           .category = category_of(t->l[i].name) };
        size_t k = 0;
        readable(row.name, t->l[i].name);
        while (k < n && !(strcmp(rows[k].name, row.name) == 0 && rows[k].stage == row.stage &&
                          (rows[k].op == row.op ||
                           (rows[k].op && row.op && strcmp(rows[k].op, row.op) == 0))))
            k++;
        if (k == n)
            rows[n++] = row;
        rows[k].launches++;
        rows[k].ns += t->ns[i] / t->calls;
        rows[k].flops += t->op[i].flops;
        rows[k].bytes += t->op[i].bytes;
    }
    qsort(rows, n, sizeof *rows, by_time);
    return n;
}

static json_t *kernels_json(const struct report *r, const struct row *rows, size_t n,
                            double span_ns)
{
    static const char *const stages[] = { "vision", "prefix", "denoise" };
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        const struct row *k = &rows[i];
        json_t *o = json_object();
        json_object_set_new(o, "kernel", json_string(k->name));
        json_object_set_new(o, "category", json_string(category_names[k->category]));
        json_object_set_new(o, "stage",
                            k->stage >= 0 ? json_string(stages[k->stage]) : json_null());
        json_object_set_new(o, "op", k->op ? json_string(k->op) : json_null());
        json_object_set_new(o, "launches", json_integer(k->launches));
        json_object_set_new(o, "ms", json_number(k->ns / 1e6, 5));
        json_object_set_new(o, "share_percent", json_number(k->ns / span_ns * 100, 4));
        put_rates(o, r, k->ns, k->flops, k->bytes);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *categories_json(const struct report *r, const struct row *rows, size_t n,
                               double span_ns, double gap_ns)
{
    json_t *list = json_array();
    for (int c = 0; c < N_CATEGORIES; c++) {
        double ns = 0, flops = 0, bytes = 0, unknown = 0;
        int launches = 0;
        for (size_t i = 0; i < n; i++) {
            if ((int)rows[i].category != c)
                continue;
            ns += rows[i].ns;
            flops += rows[i].flops;
            bytes += rows[i].bytes;
            launches += rows[i].launches;
            unknown += rows[i].op ? 0 : rows[i].ns;
        }
        if (launches == 0)
            continue;
        json_t *o = json_object();
        json_object_set_new(o, "category", json_string(category_names[c]));
        json_object_set_new(o, "launches", json_integer(launches));
        json_object_set_new(o, "ms", json_number(ns / 1e6, 5));
        json_object_set_new(o, "share_percent", json_number(ns / span_ns * 100, 4));
        put_rates(o, r, ns, unknown > 0 ? 0 : flops, unknown > 0 ? 0 : bytes);
        json_array_append_new(list, o);
    }
    json_t *gap = json_object();
    json_object_set_new(gap, "category", json_string("gaps"));
    json_object_set_new(gap, "launches", json_integer(0));
    json_object_set_new(gap, "ms", json_number(gap_ns / 1e6, 5));
    json_object_set_new(gap, "share_percent", json_number(gap_ns / span_ns * 100, 4));
    put_rates(gap, r, 0, 0, 0);
    json_array_append_new(list, gap);
    return list;
}

/* Complete events of the Trace Event format, microseconds: one call. */
static json_t *chrome_json(const struct traced *t)
{
    static const char *const rows[] = { "outside of the graphs", "vision", "prefix", "denoise" };
    json_t *events = json_array(), *o = json_object();
    char name[64];
    for (int i = 0; i < 4; i++)
        json_array_append_new(events,
                              json_pack("{s:s, s:s, s:i, s:i, s:{s:s}}", "name", "thread_name",
                                        "ph", "M", "pid", 0, "tid", i, "args", "name", rows[i]));
    for (size_t i = 0; i < t->n; i++) {
        const struct launch *l = &t->l[i];
        readable(name, l->name);
        json_t *e = json_object();
        json_object_set_new(e, "name", json_string(name));
        json_object_set_new(e, "cat", json_string(category_names[category_of(l->name)]));
        json_object_set_new(e, "ph", json_string("X"));
        json_object_set_new(e, "ts", json_real((double)(l->start_ns - t->l[0].start_ns) / 1e3));
        json_object_set_new(e, "dur", json_real((double)(l->end_ns - l->start_ns) / 1e3));
        json_object_set_new(e, "pid", json_integer(0));
        json_object_set_new(e, "tid", json_integer(t->stage[i] + 1));
        json_object_set_new(e, "args",
                            json_pack("{s:s, s:[i,i,i], s:[i,i,i], s:i, s:i}", "op",
                                      t->op[i].name ? t->op[i].name : "", "grid", l->grid[0],
                                      l->grid[1], l->grid[2], "block", l->block[0], l->block[1],
                                      l->block[2], "registers", l->registers, "shared_bytes",
                                      l->shared_bytes));
        json_array_append_new(events, e);
    }
    json_object_set_new(o, "displayTimeUnit", json_string("ms"));
    json_object_set_new(o, "traceEvents", events);
    return o;
}

/* ---------------------------------------------------------------- the section */

static pi0_status trace_calls(struct report *r, const struct session *s, struct inputs *p,
                              struct traced *t, struct pi0_error *err)
{
    double times[N_TIMES];
    pi0_status st = PI0_OK;
    for (int i = 0; !st && i < 4; i++)
        st = infer_timed(s, p, 1, r->steps, i, times, err);
    for (int i = 0; !st && i < TRACED_CALLS; i++) {
        size_t n = 0, lost = 0;
        trace_reset();
        if ((st = infer_timed(s, p, 1, r->steps, i, times, err)))
            break;
        const struct launch *l = trace_take(&n, &lost);
        t->lost += lost;
        if (n == 0)
            continue;
        if (!t->l && !traced_first(t, l, n))
            return err->status = PI0_E_NOMEM;
        if (n == t->n)
            traced_add(t, l);
        report_bar(r, (i + 1.0) / TRACED_CALLS, "");
    }
    return st;
}

static json_t *traced_json(struct report *r, const struct session *s, struct traced *t,
                           const struct workload *w, json_t **chrome)
{
    struct pi0_error err = { 0 };
    struct pi0_dims d;
    struct pi0_stage_work work[PI0_N_STAGES];
    struct row *rows = calloc(t->n + 1, sizeof *rows);
    int cameras = workload_cameras(w, w->masked);
    pi0_engine_dims(s->engine, &d);
    int side = d.image_size / d.patch_size;
    if (!rows || pi0_engine_work(s->engine, 1, cameras, w->n_tokens, r->steps, work, &err)) {
        free(rows);
        return report_reason("no memory for %zu launches", t->n);
    }
    find_stages(t);
    assign_ops(t, &d, cameras, cameras * side * side + w->n_tokens);
    assign_passes(t, &d, cameras, cameras * side * side + w->n_tokens);
    assign_loop(t, &work[2], r->steps * d.depth);
    size_t n = sum_rows(t, rows);
    double span = t->span_ns / t->calls, gap = span - t->busy_ns / t->calls;
    json_t *o = json_object();
    json_object_set_new(o, "source", json_string("CUPTI activity records of the graph replay"));
    json_object_set_new(o, "calls", json_integer(t->calls));
    json_object_set_new(o, "launches", json_integer((json_int_t)t->n));
    json_object_set_new(o, "lost", json_integer((json_int_t)t->lost));
    json_object_set_new(o, "span_ms", json_number(span / 1e6, 5));
    json_object_set_new(o, "kernels", kernels_json(r, rows, n, span));
    json_object_set_new(o, "categories", categories_json(r, rows, n, span, gap));
    *chrome = chrome_json(t);
    free(rows);
    return o;
}

/* The stages by their own clocks, in the tables' form. */
static json_t *timed_json(struct report *r, const struct session *s, const struct workload *w,
                          const char *why, struct pi0_error *err)
{
    struct measured m;
    struct pi0_stage_work work[PI0_N_STAGES];
    int cameras = workload_cameras(w, w->masked);
    if (report_measure(r, s, w, 1, NULL, &m, err) ||
        pi0_engine_work(s->engine, 1, cameras, w->n_tokens, r->steps, work, err))
        return NULL;
    json_t *o = json_object(), *list = json_array();
    double rest = m.p50[WHOLE];
    for (int g = 0; g <= PI0_N_STAGES; g++) {
        json_t *row = json_object();
        double ms = g < PI0_N_STAGES ? m.p50[VISION + g] : rest > 0 ? rest : 0;
        rest -= ms;
        json_object_set_new(row, "category", json_string(g < PI0_N_STAGES ? work[g].name : "host"));
        json_object_set_new(row, "launches", json_integer(0));
        json_object_set_new(row, "ms", json_number(ms, 5));
        json_object_set_new(row, "share_percent", json_number(ms / m.p50[WHOLE] * 100, 4));
        put_rates(row, r, ms * 1e6, g < PI0_N_STAGES ? work[g].flops : 0,
                  g < PI0_N_STAGES ? work[g].weight_bytes + work[g].activation_bytes : 0);
        json_array_append_new(list, row);
    }
    json_object_set_new(o, "source", json_string("stage clocks of the engine"));
    json_object_set_new(o, "reason", json_string(why));
    json_object_set_new(o, "calls", json_integer(m.n));
    json_object_set_new(o, "launches", json_integer(0));
    json_object_set_new(o, "span_ms", json_number(m.p50[WHOLE], 6));
    json_object_set_new(o, "kernels", json_array());
    json_object_set_new(o, "categories", list);
    return o;
}

json_t *report_breakdown(struct report *r, json_t **chrome)
{
    const struct workload *w = r->list[0];
    struct pi0_error err = { 0 };
    struct session s = { 0 };
    struct inputs p = { 0 };
    struct traced t = { 0 };
    char why[200] = "the engine runs on the CPU";
    json_t *o = NULL;
    report_task(r, "breakdown");
    report_bar(r, 0, "");
    bool traced =
        r->on_gpu && trace_open(why, sizeof why); /* before the engine makes its context */
    pi0_status st = report_open(r, &s, w, 1, NULL, &err);
    if (!st && traced && !(st = report_inputs(&s, w, 1, &p, &err)))
        st = trace_calls(r, &s, &p, &t, &err);
    if (!st && t.calls > 0)
        o = traced_json(r, &s, &t, w, chrome);
    else if (!st)
        o = timed_json(r, &s, w, traced ? "CUPTI recorded no launch" : why, &err);
    if (traced)
        trace_close();
    traced_free(&t);
    inputs_free(&p);
    session_close(&s);
    report_tick(r);
    if (!o) {
        (void)fail_library(&err);
        return NULL;
    }
    json_object_set_new(o, "workload", json_string(w->name));
    return o;
}
