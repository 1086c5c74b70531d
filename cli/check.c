/* SPDX-License-Identifier: Apache-2.0
 * check: runs a golden case through an engine and shows, stage by stage, how far it lies from the
 * stored values. The comparison is the library's (pi0_check_file); here the case is found, the
 * limits of the engine are taken from the file's shapes, and the verdict becomes the exit code. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

struct target {
    char name[256]; /* what the JSON calls the case */
    char io[2048];
    int n_steps, horizon, max_token_len;
};

#define HEADER_LIMIT ((size_t)16 << 20)

/* Dimension `axis` of a tensor that a safetensors header describes; 0 when it is not there. */
static int header_dim(const json_t *header, const char *tensor, size_t axis)
{
    const json_t *shape = json_object_get(json_object_get(header, tensor), "shape");
    json_int_t d = json_integer_value(json_array_get(shape, axis));
    return d > 0 && d < 100000 ? (int)d : 0;
}

/* Reads only the header of the file: 8 bytes of length, then JSON. The library checks the file
 * fully when it runs the case. */
static int read_header(json_t **out, const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return fail("--io %s: cannot be opened", path);
    unsigned char head[8];
    uint64_t len = 0;
    int code = EXIT_DONE;
    char *text = NULL;
    if (fread(head, 1, 8, f) != 8)
        code = fail("%s: shorter than the 8 bytes that start a safetensors file", path);
    for (int i = 7; i >= 0; i--)
        len = len << 8 | head[i];
    if (!code && (len == 0 || len > HEADER_LIMIT))
        code = fail("%s: header of %llu bytes, expected 1 to %zu", path, (unsigned long long)len,
                    HEADER_LIMIT);
    if (!code && (!(text = malloc((size_t)len)) || fread(text, 1, (size_t)len, f) != len))
        code = fail("%s: truncated header, expected %llu bytes", path, (unsigned long long)len);
    fclose(f);
    if (!code) {
        json_error_t e;
        *out = json_loadb(text, (size_t)len, JSON_REJECT_DUPLICATES, &e);
        if (!*out)
            code = fail("%s: safetensors header: %s", path, e.text);
    }
    free(text);
    return code;
}

/* Steps, horizon and prompt length as the stored tensors have them. */
static int limits_of_file(struct target *t, const struct args *a)
{
    json_t *header = NULL;
    int code = read_header(&header, t->io);
    if (code)
        return code;
    int rows = header_dim(header, "v_t", 0);
    if (t->n_steps == 0)
        t->n_steps = a->steps ? a->steps : rows ? rows : 10;
    t->horizon = header_dim(header, "noise", 0);
    t->max_token_len = header_dim(header, "tokens", 0);
    json_decref(header);
    if (t->n_steps > 1000)
        return fail("%s: v_t holds %d steps, expected at most 1000", t->io, t->n_steps);
    return EXIT_DONE;
}

int check_limits(const char *io, int *n_steps, int *horizon, int *max_token_len)
{
    static const struct args none;
    static struct target t;
    t = (struct target){ .n_steps = *n_steps };
    snprintf(t.io, sizeof t.io, "%s", io);
    int code = limits_of_file(&t, &none);
    *n_steps = t.n_steps;
    *horizon = t.horizon;
    *max_token_len = t.max_token_len;
    return code;
}

static int open_case(struct session *s, struct target *t, const struct args *a)
{
    struct pi0_error err = { 0 };
    static struct pi0_case c;
    if (pi0_case_read(&c, a->case_dir, &err))
        return fail_library(&err);
    snprintf(t->name, sizeof t->name, "%s", c.name[0] ? c.name : a->case_dir);
    int n = snprintf(t->io, sizeof t->io, "%s/io.safetensors", a->case_dir);
    if (n < 0 || (size_t)n >= sizeof t->io)
        return fail("--case: a path of %zu bytes", strlen(a->case_dir));
    t->n_steps = a->steps ? a->steps : c.n_steps;
    pi0_status st = c.weights_dir[0] ? pi0_model_open(&s->model, c.weights_dir, NULL, &err)
                                     : pi0_model_open_synthetic(&s->model, &c.dims, c.seed, &err);
    return st ? fail_library(&err) : EXIT_DONE;
}

static int open_model_and_io(struct session *s, struct target *t, const struct args *a)
{
    if (!a->io)
        return fail("--model needs --io FILE with the inputs and the expected outputs");
    int n = snprintf(t->io, sizeof t->io, "%s", a->io);
    if (n < 0 || (size_t)n >= sizeof t->io)
        return fail("--io: a path of %zu bytes", strlen(a->io));
    snprintf(t->name, sizeof t->name, "%s", a->io);
    return session_open_model(s, a);
}

static void show(const struct target *t, const struct session *s,
                 const struct pi0_check_stage *stages, int n, bool pass)
{
    const struct pi0_engine_info *e = &s->engine_info;
    printf("%s%s%s on %s (%s, %s, %s, %d thread%s), %d steps\n\n", ink(BOLD), t->name, ink(PLAIN),
           e->backend, e->device, e->isa, precision_name(e->precision), e->n_threads,
           e->n_threads == 1 ? "" : "s", t->n_steps);
    printf("%s%-20s %8s %9s %12s %9s %9s%s\n", ink(BOLD), "stage", "values", "rel L2", "cosine",
           "max error", "tolerance", ink(PLAIN));
    for (int i = 0; i < n; i++) {
        const struct pi0_check_stage *g = &stages[i];
        char bound[24];
        snprintf(bound, sizeof bound, g->tolerance > 0 ? "%.1e" : "-", g->tolerance);
        printf("%-20s %8zu %9.2e %12.9f %9.2e %9s  %s%s%s\n", g->name, g->n_values, g->rel_l2,
               g->cosine, g->max_abs, bound,
               ink(!g->pass           ? RED
                   : g->tolerance > 0 ? GREEN
                                      : DIM),
               !g->pass           ? "FAIL"
               : g->tolerance > 0 ? "ok"
                                  : "shown",
               ink(PLAIN));
    }
    printf("\n%s%s%s\n", ink(pass ? GREEN : RED),
           pass ? "every judged stage is within its tolerance" : "a stage is above its tolerance",
           ink(PLAIN));
}

static int show_json(const struct target *t, const struct session *s,
                     const struct pi0_check_stage *stages, int n, bool pass)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        const struct pi0_check_stage *g = &stages[i];
        json_t *o = json_object();
        json_object_set_new(o, "name", json_string(g->name));
        json_object_set_new(o, "rel_l2", json_number(g->rel_l2, 6));
        json_object_set_new(o, "cosine", json_number(g->cosine, 12));
        json_object_set_new(o, "max_abs", json_number(g->max_abs, 6));
        json_object_set_new(o, "pass", json_boolean(g->pass));
        json_array_append_new(list, o);
    }
    json_t *doc = json_object();
    json_object_set_new(doc, "case", json_string(t->name));
    json_object_set_new(doc, "backend", json_string(s->engine_info.backend));
    json_object_set_new(doc, "stages", list);
    json_object_set_new(doc, "pass", json_boolean(pass));
    int code = print_json(doc, false);
    json_decref(doc);
    return code;
}

static int check(struct session *s, const struct args *a)
{
    struct target t = { { 0 }, { 0 }, 0, 0, 0 };
    struct pi0_error err = { 0 };
    if (a->case_dir && (a->model || a->synthetic || a->io))
        return fail("--case brings its own weights and values; it excludes --model, --synthetic "
                    "and --io");
    if (!a->case_dir && !a->model && !a->synthetic)
        return fail("nothing to check: expected --case DIR, or --model DIR with --io FILE");
    int code = a->case_dir ? open_case(s, &t, a) : open_model_and_io(s, &t, a);
    if (code || (code = limits_of_file(&t, a)))
        return code;
    struct pi0_engine_config cfg;
    session_config(&cfg, a);
    cfg.action_horizon = t.horizon;
    cfg.max_token_len = t.max_token_len;
    cfg.max_steps = t.n_steps;
    cfg.record_steps = 1;
    if ((code = session_open_engine(s, &cfg)))
        return code;
    struct pi0_check_options options = { .tolerance = a->tolerance, .min_cosine = a->min_cosine };
    struct pi0_check_stage stages[PI0_CHECK_MAX_STAGES];
    int n = 0;
    term_status("running");
    if (pi0_check_file(s->engine, t.io, t.n_steps, &options, stages, &n, &err))
        return fail_library(&err);
    term_bar_clear();
    if (n == 0)
        return fail("%s: holds no stage that can be compared", t.io);
    bool pass = true;
    for (int i = 0; i < n; i++)
        pass = pass && stages[i].pass;
    if (a->json)
        code = show_json(&t, s, stages, n, pass);
    else
        show(&t, s, stages, n, pass);
    return code ? code : pass ? EXIT_DONE : EXIT_DIFFERS;
}

int cmd_check(const struct args *a)
{
    struct session s = { 0 };
    int code = check(&s, a);
    session_close(&s);
    return code;
}
