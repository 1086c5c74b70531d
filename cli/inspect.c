/* SPDX-License-Identifier: Apache-2.0
 * inspect: what a checkpoint is and what an engine would do with it. The first part (variant,
 * dimensions, parameters) needs only the mapped files and is printed at once; the second (memory,
 * work of the named workloads, kernel of every op) opens an engine, unless --no-engine. */
#include "cli.h"

#include <string.h>

struct part {
    const char *name;
    uint64_t n;
};
#define N_PARTS 6
static void parts_of(const struct pi0_model_info *m, struct part out[N_PARTS])
{
    const struct part parts[N_PARTS] = {
        { "vision", m->n_params_vision },     { "projector", m->n_params_projector },
        { "token table", m->n_params_table }, { "vlm", m->n_params_vlm },
        { "expert", m->n_params_expert },     { "heads", m->n_params_heads },
    };
    memcpy(out, parts, sizeof parts);
}

static void heading(const char *text) { printf("\n%s%s%s\n", ink(BOLD), text, ink(PLAIN)); }

static const char *source_name(enum pi0_source s)
{
    return s == PI0_SOURCE_LEROBOT ? "lerobot" : s == PI0_SOURCE_SYNTHETIC ? "synthetic" : "openpi";
}

/* ---------------------------------------------------------------- the files' part */

static void show_model(const struct pi0_model_info *m, const struct args *a)
{
    struct pi0_dims dims = m->dims;
    const struct pi0_dims *d = &dims;
    char buf[32];
    printf("%s%s%s  %s, %s layout%s%s\n", ink(BOLD), variant_name(d->variant), ink(PLAIN),
           a->model ? a->model : "(weights made from a seed)", source_name(m->source),
           m->preset[0] ? ", preset " : "", m->preset);
    if (a->model)
        printf("  %d tensors used, %d skipped, %s in files\n", m->n_tensors, m->n_unused,
               human(buf, (double)m->file_bytes, "B"));
    printf("  cameras:");
    for (int c = 0; c < d->n_cameras; c++)
        printf(" %s", m->camera_names[c] ? m->camera_names[c] : "?");
    putchar('\n');

    heading("dimensions");
    for (int i = 0; i < N_DIMS; i++)
        printf("  %-16s %8d%s", dim_name(i), *dim_at(&dims, i),
               i % 3 == 2 || i + 1 == N_DIMS ? "\n" : "");

    struct part parts[N_PARTS];
    parts_of(m, parts);
    heading("parameters");
    for (int i = 0; i < N_PARTS; i++) {
        double share = m->n_params ? (double)parts[i].n / (double)m->n_params : 0;
        printf("  %-14s %14llu  %5.1f%%", parts[i].name, (unsigned long long)parts[i].n,
               share * 100);
        if (term_is_tty()) {
            printf("  %s", ink(BLUE));
            print_bar(stdout, share, 24);
            printf("%s", ink(PLAIN));
        }
        putchar('\n');
    }
    printf("  %s%-14s %14llu%s\n", ink(BOLD), "all", (unsigned long long)m->n_params, ink(PLAIN));
}

/* ---------------------------------------------------------------- the engine's part */

/* Workloads that this engine can hold: same variant, cameras and prompt within its limits. */
static bool fits(const struct workload *w, const struct pi0_model_info *m,
                 const struct pi0_engine_info *e)
{
    bool full = strcmp(w->dims, "pi0_tiny") != 0;
    return full && strcmp(w->dims, variant_name(m->dims.variant)) == 0 &&
           w->n_valid_cameras <= m->dims.n_cameras && w->n_tokens <= e->max_token_len;
}

struct plan_row {
    char name[32];
    int n_cameras, n_tokens, n_prefix;
    struct pi0_stage_work work[PI0_N_STAGES];
};
#define MAX_PLAN_ROWS 8

/* "full": every camera and the longest prompt; then the workloads of `pi0 bench`. */
static int plan_rows(const struct session *s, const struct pi0_model_info *m, const struct args *a,
                     struct plan_row rows[MAX_PLAN_ROWS], int *n)
{
    struct pi0_error err = { 0 };
    int per_side = m->dims.image_size / m->dims.patch_size;
    int batch = a->n_batches ? a->batches[0] : 1;
    *n = 0;
    for (int i = -1; *n < MAX_PLAN_ROWS && (i < 0 || workload_at(i)); i++) {
        const struct workload *w = i < 0 ? NULL : workload_at(i);
        if (w && !fits(w, m, &s->engine_info))
            continue;
        struct plan_row *r = &rows[(*n)++];
        snprintf(r->name, sizeof r->name, "%s", w ? w->name : "largest");
        r->n_cameras = !w                                ? m->dims.n_cameras
                       : w->masked == PI0_MASKED_COMPUTE ? w->n_cameras
                                                         : w->n_valid_cameras;
        r->n_tokens = w ? w->n_tokens : s->engine_info.max_token_len;
        r->n_prefix = r->n_cameras * per_side * per_side + r->n_tokens;
        if (pi0_engine_work(s->engine, batch, r->n_cameras, r->n_tokens, a->steps ? a->steps : 10,
                            r->work, &err))
            return fail_library(&err);
    }
    return EXIT_DONE;
}

static void show_engine(const struct session *s, const struct pi0_model_info *m,
                        const struct plan_row *rows, int n_rows, const struct args *a)
{
    const struct pi0_engine_info *e = &s->engine_info;
    char b1[32], b2[32], b3[32];
    heading("engine");
    printf("  %s on %s, %s, %s, %d thread%s, opened in %.2f s\n", e->backend, e->device, e->isa,
           precision_name(e->precision), e->n_threads, e->n_threads == 1 ? "" : "s",
           e->open_ms / 1e3);
    heading("memory");
    printf("  %-26s %10s\n", "mapped files", human(b1, (double)m->file_bytes, "B"));
    printf("  %-26s %10s\n", "weights, as kernels want", human(b1, (double)e->weight_bytes, "B"));
    printf("  %-26s %10s\n", "K/V cache", human(b1, (double)e->cache_bytes, "B"));
    printf("  %-26s %10s\n", "activations and tables", human(b1, (double)e->scratch_bytes, "B"));

    printf("\n%splan%s  %d sample%s, horizon %d, %d steps %s(--batch, --horizon, --steps)%s\n",
           ink(BOLD), ink(PLAIN), a->n_batches ? a->batches[0] : 1,
           a->n_batches && a->batches[0] > 1 ? "s" : "", e->action_horizon,
           a->steps ? a->steps : 10, ink(DIM), ink(PLAIN));
    printf("  %-13s %4s %6s %6s  %-7s %5s %7s %8s %8s\n", "workload", "cams", "prompt", "prefix",
           "stage", "rows", "FLOP", "weights", "in, out");
    for (int i = 0; i < n_rows; i++) {
        const struct plan_row *r = &rows[i];
        for (int g = 0; g < PI0_N_STAGES; g++) {
            const struct pi0_stage_work *w = &r->work[g];
            if (g == 0)
                printf("  %-13s %4d %6d %6d", r->name, r->n_cameras, r->n_tokens, r->n_prefix);
            else
                printf("  %32s", "");
            printf("  %-7s %5d %7s %8s %8s\n", w->name, w->n_rows, human(b1, w->flops, ""),
                   human(b2, w->weight_bytes, "B"), human(b3, w->activation_bytes, "B"));
        }
    }

    heading("kernels");
    struct pi0_kernel_choice k;
    for (int i = 0; pi0_engine_kernel(s->engine, i, &k); i++) {
        char shape[48] = "";
        const int sizes[3] = { k.m, k.n, k.k };
        for (int g = 0, used = 0; g < 3 && used < 40; g++)
            if (sizes[g] > 0)
                used += snprintf(shape + used, sizeof shape - (size_t)used, "%s%d", used ? "×" : "",
                                 sizes[g]);
        /* printf pads bytes: the two-byte signs in a cell are made up for */
        int wide = 0;
        for (const char *p = k.op; *p; p++)
            wide += (*p & 0xC0) == 0x80;
        printf("  %-*s %-30s %s\n", 25 + wide, k.op, k.kernel, shape);
    }
}

/* ---------------------------------------------------------------- JSON */

static void json_model(json_t *doc, const struct pi0_model_info *m, const struct args *a)
{
    struct pi0_dims copy = m->dims;
    struct part parts[N_PARTS];
    json_object_set_new(doc, "model", json_string(a->model ? a->model : a->synthetic));
    json_object_set_new(doc, "variant", json_string(variant_name(m->dims.variant)));
    json_object_set_new(doc, "source", json_string(source_name(m->source)));
    json_object_set_new(doc, "preset", json_string(m->preset));
    json_object_set_new(doc, "file_bytes", json_integer((json_int_t)m->file_bytes));
    json_object_set_new(doc, "tensors", json_integer(m->n_tensors));
    json_object_set_new(doc, "unused_tensors", json_integer(m->n_unused));
    json_t *cameras = json_array(), *dims = json_object(), *params = json_object();
    for (int c = 0; c < m->dims.n_cameras; c++)
        json_array_append_new(cameras, json_string(m->camera_names[c]));
    for (int i = 0; i < N_DIMS; i++)
        json_object_set_new(dims, dim_name(i), json_integer(*dim_at(&copy, i)));
    parts_of(m, parts);
    for (int i = 0; i < N_PARTS; i++)
        json_object_set_new(params, parts[i].name, json_integer((json_int_t)parts[i].n));
    json_object_set_new(params, "all", json_integer((json_int_t)m->n_params));
    json_object_set_new(doc, "cameras", cameras);
    json_object_set_new(doc, "dims", dims);
    json_object_set_new(doc, "parameters", params);
}

static void json_engine(json_t *doc, const struct session *s, const struct plan_row *rows,
                        int n_rows)
{
    const struct pi0_engine_info *e = &s->engine_info;
    json_t *o = json_object();
    json_object_set_new(o, "backend", json_string(e->backend));
    json_object_set_new(o, "device", json_string(e->device));
    json_object_set_new(o, "isa", json_string(e->isa));
    json_object_set_new(o, "precision", json_string(precision_name(e->precision)));
    json_object_set_new(o, "threads", json_integer(e->n_threads));
    json_object_set_new(o, "horizon", json_integer(e->action_horizon));
    json_object_set_new(o, "max_token_len", json_integer(e->max_token_len));
    json_object_set_new(o, "weight_bytes", json_integer((json_int_t)e->weight_bytes));
    json_object_set_new(o, "cache_bytes", json_integer((json_int_t)e->cache_bytes));
    json_object_set_new(o, "scratch_bytes", json_integer((json_int_t)e->scratch_bytes));
    json_object_set_new(o, "open_ms", json_number(e->open_ms, 6));
    json_object_set_new(doc, "engine", o);
    json_t *plans = json_array();
    for (int i = 0; i < n_rows; i++) {
        json_t *p = json_object(), *stages = json_array();
        json_object_set_new(p, "workload", json_string(rows[i].name));
        json_object_set_new(p, "cameras", json_integer(rows[i].n_cameras));
        json_object_set_new(p, "prompt_tokens", json_integer(rows[i].n_tokens));
        json_object_set_new(p, "prefix_tokens", json_integer(rows[i].n_prefix));
        for (int g = 0; g < PI0_N_STAGES; g++) {
            const struct pi0_stage_work *w = &rows[i].work[g];
            json_t *q = json_object();
            json_object_set_new(q, "name", json_string(w->name));
            json_object_set_new(q, "rows", json_integer(w->n_rows));
            json_object_set_new(q, "flops", json_number(w->flops, 15));
            json_object_set_new(q, "weight_bytes", json_number(w->weight_bytes, 15));
            json_object_set_new(q, "activation_bytes", json_number(w->activation_bytes, 15));
            json_array_append_new(stages, q);
        }
        json_object_set_new(p, "stages", stages);
        json_array_append_new(plans, p);
    }
    json_object_set_new(doc, "plan", plans);
    json_t *kernels = json_array();
    struct pi0_kernel_choice k;
    for (int i = 0; pi0_engine_kernel(s->engine, i, &k); i++) {
        json_t *q = json_object();
        json_object_set_new(q, "op", json_string(k.op));
        json_object_set_new(q, "kernel", json_string(k.kernel));
        json_object_set_new(q, "m", json_integer(k.m));
        json_object_set_new(q, "n", json_integer(k.n));
        json_object_set_new(q, "k", json_integer(k.k));
        json_array_append_new(kernels, q);
    }
    json_object_set_new(doc, "kernels", kernels);
}

/* ---------------------------------------------------------------- the pipeline's part */

/* Robot, statistics and tokenizer as `pi0 run` would find them. A checkpoint whose statistics are
 * missing can still be inspected: the reason is shown in place of the answer. */
static void show_pipeline(struct session *s, const struct args *a, json_t *doc)
{
    struct pi0_policy_config cfg;
    struct pi0_policy_info p;
    struct pi0_error err = { 0 };
    pi0_policy_defaults(&cfg);
    cfg.tokenizer = a->tokenizer;
    cfg.norm_stats = a->norm_stats;
    cfg.default_prompt = a->default_prompt;
    cfg.robot = a->robot;
    cfg.allow_no_stats = 1;
    pi0_status st = pi0_policy_open(&s->policy, s->model, s->engine, &cfg, &err);
    if (!doc)
        heading("pipeline");
    if (st) {
        if (doc)
            json_object_set_new(doc, "pipeline_error", json_string(err.message));
        else
            printf("  %s%s%s\n", ink(YELLOW), err.message, ink(PLAIN));
        return;
    }
    pi0_policy_info(s->policy, &p);
    if (doc) {
        json_t *o = json_object();
        json_object_set_new(o, "robot", json_string(p.robot));
        json_object_set_new(o, "state_dim", json_integer(p.robot_state_dim));
        json_object_set_new(o, "action_dim", json_integer(p.robot_action_dim));
        json_object_set_new(o, "statistics",
                            p.has_stats ? json_string(p.normalization) : json_null());
        json_object_set_new(o, "tokenizer", json_boolean(p.has_tokenizer));
        json_object_set_new(o, "discrete_state", json_boolean(p.discrete_state));
        json_object_set_new(o, "default_prompt", json_string(p.default_prompt));
        json_object_set_new(o, "steps", json_integer(p.n_steps));
        json_object_set_new(doc, "pipeline", o);
        return;
    }
    char state[32];
    snprintf(state, sizeof state, p.robot_state_dim ? "%d" : "any number of", p.robot_state_dim);
    printf("  robot %s: %s state values in, %d numbers an action out\n", p.robot, state,
           p.robot_action_dim);
    printf("  statistics: %s; tokenizer: %s%s\n", p.has_stats ? p.normalization : "none found",
           p.has_tokenizer ? "found" : "none found",
           p.discrete_state ? "; the state is written into the prompt" : "");
    printf("  default prompt: %s; %d steps\n", p.default_prompt[0] ? p.default_prompt : "none",
           p.n_steps);
}

static int inspect(struct session *s, const struct args *a, json_t *doc)
{
    struct pi0_model_info m;
    struct pi0_engine_config cfg;
    struct plan_row rows[MAX_PLAN_ROWS];
    int n_rows = 0, code = session_open_model(s, a);
    if (code)
        return code;
    pi0_model_info(s->model, &m);
    if (a->json)
        json_model(doc, &m, a);
    else
        show_model(&m, a);
    if (a->no_engine)
        return EXIT_DONE;
    fflush(stdout);
    session_config(&cfg, a);
    for (int i = 0; i < a->n_batches; i++)
        if (a->batches[i] > cfg.max_batch)
            cfg.max_batch = a->batches[i];
    if ((code = session_open_engine(s, &cfg)) || (code = plan_rows(s, &m, a, rows, &n_rows)))
        return code;
    if (a->json)
        json_engine(doc, s, rows, n_rows);
    else
        show_engine(s, &m, rows, n_rows, a);
    show_pipeline(s, a, doc);
    return EXIT_DONE;
}

int cmd_inspect(const struct args *a)
{
    struct session s = { 0 };
    json_t *doc = a->json ? json_object() : NULL;
    int code = inspect(&s, a, doc);
    if (!code && doc)
        code = print_json(doc, true);
    json_decref(doc);
    session_close(&s);
    return code;
}
