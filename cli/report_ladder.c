/* SPDX-License-Identifier: Apache-2.0
 * report_ladder: what each optimisation is worth. The engine starts with all of them off that its
 * backend can switch off, and gets them back one at a time; every rung runs a golden case too, and
 * is judged by its tolerance. What a backend cannot do without is listed with the reason. */
#include "report.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A CPU call of more arithmetic than this would take minutes in scalar code. */
#define SCALAR_FLOPS 2e10

/* A case that takes the kernels that are measured: on a GPU the small networks' head sizes have only the
 * portable ones, and a network of full size is made there in seconds. */
static const char *default_case(bool on_gpu, bool pi05, const char *dims)
{
    bool small = strstr(dims, "tiny") != NULL;
    if (on_gpu && !small)
        return pi05 ? "tests/golden/pi05_full" : "tests/golden/pi0_h10";
    return pi05 ? "tests/golden/pi05_tiny" : "tests/golden/pi0_tiny";
}

static const struct rung {
    const char *name;
    unsigned without; /* switched off until this rung */
    uint32_t isa;     /* taken away until this rung */
} rungs[] = {
    { "AVX2", 0, PI0_ISA_AVX2 },
    { "AVX-512", 0, PI0_ISA_AVX512 },
    { "AVX-512 BF16", 0, PI0_ISA_AVX512_BF16 },
    { "AMX BF16", 0, PI0_ISA_AMX_BF16 },
    { "graph replay", PI0_WITHOUT_GRAPH, 0 },
    { "fused attention", PI0_WITHOUT_FUSED_ATTENTION, 0 },
    { "fused projections", PI0_WITHOUT_FUSED_PROJECTIONS, 0 },
    { "masked camera skipped", PI0_WITHOUT_CAMERA_SKIP, 0 },
    { "cameras in one batch", PI0_WITHOUT_CAMERA_BATCHING, 0 },
    { "own kernels", PI0_WITHOUT_OWN_KERNELS, 0 },
    { "folded tables", PI0_WITHOUT_FOLDED_TABLES, 0 },
    { "state token once", PI0_WITHOUT_STATE_REUSE, 0 },
    { "dependent launches", PI0_WITHOUT_DEPENDENT_LAUNCH, 0 },
    { "one denoising kernel", PI0_WITHOUT_LOOP_KERNEL, 0 },
    { "first step beside the prefix", PI0_WITHOUT_OVERLAP, 0 },
};
#define N_RUNGS ((int)(sizeof rungs / sizeof rungs[0]))

struct ladder {
    const struct workload *w;
    struct session model, probe, golden;
    struct variant now;
    const char *case_dir;
    bool has_case; /* false: outputs are not checked */
    char reason[N_RUNGS][300];
    double first_ms, last_ms;
    char isa[64]; /* of the last rung */
};

/* An engine that skips a masked camera shows what that is worth. */
static const struct workload *ladder_workload(const struct report *r)
{
    for (int i = 0; i < r->n_list; i++)
        if (r->list[i]->n_valid_cameras < r->list[i]->n_cameras &&
            r->list[i]->masked == PI0_MASKED_SKIP)
            return r->list[i];
    return r->list[0];
}

/* ---------------------------------------------------------------- golden check */

static json_t *check_failed(const struct pi0_error *err)
{
    return report_reason("%s", err->message[0] ? err->message : pi0_status_name(err->status));
}

static json_t *check_case(const struct report *r, struct ladder *l)
{
    static struct pi0_case c;
    struct pi0_error err = { 0 };
    struct pi0_engine_config cfg;
    struct pi0_check_stage stages[PI0_CHECK_MAX_STAGES];
    char io[2048];
    int n = 0, steps, horizon, tokens;
    if (!l->has_case)
        return report_reason("no golden case at %s; --case names one", l->case_dir);
    if (pi0_case_read(&c, l->case_dir, &err))
        return check_failed(&err);
    steps = c.n_steps;
    snprintf(io, sizeof io, "%s/io.safetensors", l->case_dir);
    if (check_limits(io, &steps, &horizon, &tokens))
        return report_reason("%s cannot be read", io);
    if (!l->golden.model &&
        (c.weights_dir[0] ? pi0_model_open(&l->golden.model, c.weights_dir, NULL, &err)
                          : pi0_model_open_synthetic(&l->golden.model, &c.dims, c.seed, &err)))
        return check_failed(&err);
    session_config(&cfg, r->a);
    cfg.action_horizon = horizon;
    cfg.max_token_len = tokens;
    cfg.max_steps = steps;
    cfg.record_steps = 1;
    cfg.measure_without = l->now.without;
    cfg.isa_mask &= ~l->now.isa_off;
    pi0_status st = pi0_engine_open(&l->golden.engine, l->golden.model, &cfg, &err);
    if (!st)
        st = pi0_check_file(l->golden.engine, io, steps, NULL, stages, &n, &err);
    report_close_engine(&l->golden);
    if (st)
        return check_failed(&err);
    json_t *o = json_object();
    bool pass = n > 0;
    json_object_set_new(o, "case", json_string(c.name[0] ? c.name : l->case_dir));
    for (int i = 0; i < n; i++) {
        pass = pass && stages[i].pass;
        if (strcmp(stages[i].name, "actions") == 0) {
            json_object_set_new(o, "rel_l2", json_number(stages[i].rel_l2, 5));
            json_object_set_new(o, "cosine", json_number(stages[i].cosine, 12));
        }
    }
    json_object_set_new(o, "pass", json_boolean(pass));
    return o;
}

/* ---------------------------------------------------------------- rungs */

static json_t *not_measured(const char *name, const char *reason)
{
    json_t *o = report_reason("%s", reason);
    json_object_set_new(o, "name", json_string(name));
    json_object_set_new(o, "status", json_string("not measured"));
    return o;
}

static json_t *measure_rung(struct report *r, struct ladder *l, const char *name)
{
    struct pi0_error err = { 0 };
    struct measured m;
    report_task(r, "%s", name);
    report_bar(r, 0, "opening");
    pi0_status st = report_open(r, &l->model, l->w, 1, &l->now, &err);
    if (!st)
        st = report_measure(r, &l->model, l->w, 1, NULL, &m, &err);
    snprintf(l->isa, sizeof l->isa, "%s", st ? "" : l->model.engine_info.isa);
    report_close_engine(&l->model);
    if (st)
        return not_measured(name, err.message);
    json_t *o = json_object();
    double ms = m.p50[WHOLE];
    l->first_ms = l->first_ms > 0 ? l->first_ms : ms;
    json_object_set_new(o, "name", json_string(name));
    json_object_set_new(o, "status", json_string("ok"));
    json_object_set_new(o, "calls", json_integer(m.n));
    json_object_set_new(o, "isa", json_string(l->isa));
    json_object_set_new(o, "p50_ms", json_number(ms, 6));
    json_object_set_new(o, "min_ms", json_number(m.min[WHOLE], 6));
    json_object_set_new(o, "delta_ms", json_number(l->last_ms > 0 ? ms - l->last_ms : 0, 6));
    json_object_set_new(o, "speedup", json_number(l->first_ms / ms, 5));
    l->last_ms = ms;
    json_object_set_new(o, "check", check_case(r, l));
    return o;
}

static const char *dims_of(const struct report *r, const struct workload *w)
{
    return r->a->synthetic ? r->a->synthetic : w->dims;
}

static bool is_pi05(const struct report *r, const struct workload *w)
{
    return strncmp(dims_of(r, w), "pi05", 4) == 0;
}

/* Which switches this backend honours, tried on a small model of the same variant. */
static void probe(const struct report *r, struct ladder *l)
{
    struct workload small = *l->w;
    struct pi0_error err = { 0 };
    struct pi0_dims d;
    bool pi05 = is_pi05(r, l->w);
    small.horizon = 6;
    small.max_token_len = small.n_tokens = 9;
    if (pi0_dims_named(&d, pi05 ? "pi05_tiny" : "pi0_tiny", &err) ||
        pi0_model_open_synthetic(&l->probe.model, &d, 1, &err))
        return;
    for (int i = 0; i < N_RUNGS; i++) {
        struct variant v = { .without = rungs[i].without };
        struct pi0_error why = { 0 };
        if (!v.without)
            continue;
        if (v.without == PI0_WITHOUT_CAMERA_SKIP &&
            (l->w->masked == PI0_MASKED_COMPUTE || l->w->n_valid_cameras == l->w->n_cameras))
            snprintf(l->reason[i], sizeof l->reason[i], "%s skips no camera", l->w->name);
        else if (pi05 && v.without == PI0_WITHOUT_STATE_REUSE)
            snprintf(l->reason[i], sizeof l->reason[i], "π0.5 has no state token");
        else if (report_open(r, &l->probe, &small, 1, &v, &why))
            snprintf(l->reason[i], sizeof l->reason[i], "%.290s", why.message);
        report_close_engine(&l->probe);
    }
}

/* CPU: instruction sets are rungs where scalar code is done in time. */
static void isa_rungs(const struct report *r, struct ladder *l)
{
    struct pi0_error err = { 0 };
    struct pi0_stage_work work[PI0_N_STAGES];
    double flops = 0;
    const char *why = "these kernels run on a GPU";
    if (!report_open(r, &l->model, l->w, 1, NULL, &err)) {
        if (!pi0_engine_work(l->model.engine, 1, workload_cameras(l->w, l->w->masked),
                             l->w->n_tokens, r->steps, work, &err))
            flops = work[0].flops + work[1].flops + work[2].flops;
        if (strcmp(l->model.engine_info.backend, "cpu") == 0)
            why = flops > SCALAR_FLOPS
                      ? "scalar code would take minutes a call: --isa measures each"
                      : NULL;
    }
    report_close_engine(&l->model);
    for (int i = 0; i < N_RUNGS; i++)
        if (rungs[i].isa && why)
            snprintf(l->reason[i], sizeof l->reason[i], "%s", why);
}

json_t *report_ladder(struct report *r)
{
    static struct ladder l;
    l = (struct ladder){ .w = ladder_workload(r) };
    l.case_dir =
        r->a->case_dir ? r->a->case_dir : default_case(r->on_gpu, is_pi05(r, l.w), dims_of(r, l.w));
    l.has_case = r->a->case_dir || access(l.case_dir, R_OK) == 0;
    json_t *rows = json_array(), *o = json_object();
    report_task(r, "ladder");
    report_bar(r, 0, "");
    probe(r, &l);
    isa_rungs(r, &l);
    for (int i = 0; i < N_RUNGS; i++)
        if (!l.reason[i][0]) {
            l.now.without |= rungs[i].without;
            l.now.isa_off |= rungs[i].isa;
        }
    json_object_set_new(o, "workload", json_string(l.w->name));
    json_object_set_new(o, "rows", rows);
    json_array_append_new(rows, measure_rung(r, &l, "plain baseline"));
    for (int i = 0; i < N_RUNGS; i++) {
        if (rungs[i].isa && r->on_gpu)
            continue;
        char before[64];
        double last_ms = l.last_ms;
        snprintf(before, sizeof before, "%s", l.isa);
        l.now.without &= ~rungs[i].without;
        l.now.isa_off &= ~rungs[i].isa;
        json_t *row = l.reason[i][0] ? not_measured(rungs[i].name, l.reason[i])
                                     : measure_rung(r, &l, rungs[i].name);
        if (rungs[i].isa && !l.reason[i][0] && strcmp(before, l.isa) == 0) {
            json_decref(row);
            l.last_ms = last_ms;
            row = not_measured(rungs[i].name, "this processor, or --isa, does not have it");
        }
        json_array_append_new(rows, row);
        report_partial(r, "ladder", o);
        report_tick(r);
    }
    session_close(&l.model);
    session_close(&l.probe);
    session_close(&l.golden);
    return o;
}
