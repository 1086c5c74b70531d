/* SPDX-License-Identifier: Apache-2.0
 * report_calls: engines of the report, repeated blocks of calls, and the two tables made of nothing
 * else: the headline and the batches. */
#include "report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_SECONDS 1.0 /* without --n and --block-seconds: about this long a block */
#define BLOCK_MIN 3
#define BLOCK_MAX 200
#define ROW_SECONDS 90.0 /* a batch that would take longer than this for one block is left out */

/* ---------------------------------------------------------------- engines and calls */

static pi0_status open_model(const struct report *r, struct session *s, const struct workload *w,
                             struct pi0_error *err)
{
    const char *name = r->a->synthetic ? r->a->synthetic : w->dims;
    struct pi0_dims dims;
    if (r->a->model) {
        struct pi0_model_options options = { .preset = r->a->preset };
        return pi0_model_open(&s->model, r->a->model, &options, err);
    }
    pi0_status st = pi0_dims_named(&dims, name, err);
    return st ? st : pi0_model_open_synthetic(&s->model, &dims, r->a->seed, err);
}

pi0_status report_open(const struct report *r, struct session *s, const struct workload *w,
                       int max_batch, const struct variant *v, struct pi0_error *err)
{
    struct pi0_engine_config cfg;
    struct pi0_model_info m;
    pi0_status st = s->model ? PI0_OK : open_model(r, s, w, err);
    if (st)
        return st;
    pi0_model_info(s->model, &m);
    if (m.dims.n_cameras < w->n_cameras) {
        snprintf(err->message, sizeof err->message, "%s: the model has %d cameras, expected %d",
                 w->name, m.dims.n_cameras, w->n_cameras);
        return err->status = PI0_E_ARGUMENT;
    }
    session_config(&cfg, r->a);
    cfg.masked_cameras = w->masked;
    cfg.action_horizon = r->a->horizon ? r->a->horizon : w->horizon;
    cfg.max_token_len = w->max_token_len;
    cfg.max_batch = max_batch;
    if (v) {
        cfg.measure_without = v->without;
        cfg.isa_mask &= ~v->isa_off;
    }
    interrupts_poll_begin();
    st = pi0_engine_open(&s->engine, s->model, &cfg, err);
    interrupts_poll_end();
    if (interrupted())
        end_interrupted();
    if (!st)
        pi0_engine_info(s->engine, &s->engine_info);
    return st;
}

void report_close_engine(struct session *s)
{
    pi0_engine_close(s->engine);
    s->engine = NULL;
}

pi0_status report_inputs(const struct session *s, const struct workload *w, int batch,
                         struct inputs *p, struct pi0_error *err)
{
    struct pi0_dims d;
    pi0_engine_dims(s->engine, &d);
    if (inputs_make(p, w, &d, &s->engine_info, batch) == EXIT_DONE)
        return PI0_OK;
    snprintf(err->message, sizeof err->message, "inputs of batch %d: no memory", batch);
    return err->status = PI0_E_NOMEM;
}

/* Calls of a block: as asked for, else what fits the time. */
static int block_calls(const struct report *r, double call_ms)
{
    double seconds = r->a->block_seconds > 0 ? r->a->block_seconds : BLOCK_SECONDS;
    double fit = seconds * 1e3 / (call_ms > 0.001 ? call_ms : 0.001);
    if (r->a->n)
        return r->a->n;
    return fit < BLOCK_MIN ? BLOCK_MIN : fit > BLOCK_MAX ? BLOCK_MAX : (int)fit;
}

static void summarize(struct measured *out, double *all, int per_block)
{
    double *block = all + (size_t)N_TIMES * (size_t)out->n; /* room for one more row */
    for (int b = 0; b < out->n_blocks; b++) {
        memcpy(block, all + (size_t)b * (size_t)per_block, (size_t)per_block * sizeof *block);
        qsort(block, (size_t)per_block, sizeof *block, by_value);
        out->block_p50[b] = percentile(block, per_block, 0.5);
    }
    for (int k = 0; k < N_TIMES; k++) {
        double *v = all + (size_t)k * (size_t)out->n;
        qsort(v, (size_t)out->n, sizeof *v, by_value);
        out->p50[k] = percentile(v, out->n, 0.50);
        out->p95[k] = percentile(v, out->n, 0.95);
        out->p99[k] = percentile(v, out->n, 0.99);
        out->min[k] = v[0];
    }
}

static pi0_status run_blocks(struct report *r, const struct session *s, struct inputs *p, int batch,
                             struct measured *out, double *all, struct pi0_error *err)
{
    double times[N_TIMES];
    char extra[64];
    for (int i = 0; i < out->n; i++) {
        pi0_status st = infer_timed(s, p, batch, r->steps, i, times, err);
        if (st)
            return st;
        for (int k = 0; k < N_TIMES; k++)
            all[(size_t)k * (size_t)out->n + (size_t)i] = times[k];
        snprintf(extra, sizeof extra, "%d of %d, %.1f ms", i + 1, out->n, times[WHOLE]);
        report_bar(r, (double)(i + 1) / out->n, extra);
    }
    return PI0_OK;
}

pi0_status report_measure(struct report *r, const struct session *s, const struct workload *w,
                          int batch, struct power *power, struct measured *out,
                          struct pi0_error *err)
{
    struct inputs p = { 0 };
    struct power_window window;
    double times[N_TIMES] = { 1 }, *all = NULL;
    *out = (struct measured){ .n_blocks = r->blocks };
    pi0_status st = report_inputs(s, w, batch, &p, err);
    for (int i = 0; !st && i < (r->warmup > 0 ? r->warmup : 1); i++)
        st = infer_timed(s, &p, batch, r->steps, i, times, err);
    if (!st) {
        int per_block = block_calls(r, times[WHOLE]);
        out->n = per_block * r->blocks;
        all = malloc((size_t)out->n * (N_TIMES + 1) * sizeof *all); /* [N_TIMES + 1][n] */
        if (!all) {
            snprintf(err->message, sizeof err->message, "%d measurements: no memory", out->n);
            st = err->status = PI0_E_NOMEM;
        }
        if (!st && power)
            power_begin(power, &window);
        if (!st && !(st = run_blocks(r, s, &p, batch, out, all, err))) {
            if (power)
                power_end(power, &window, &out->power);
            summarize(out, all, per_block);
        }
    }
    free(all);
    inputs_free(&p);
    return st;
}

/* ---------------------------------------------------------------- JSON of a measurement */

int workload_cameras(const struct workload *w, enum pi0_masked_cameras masked)
{
    return masked == PI0_MASKED_COMPUTE ? w->n_cameras : w->n_valid_cameras;
}

static void put_percentiles(json_t *o, const struct measured *m, int k)
{
    json_object_set_new(o, "p50_ms", json_number(m->p50[k], 6));
    json_object_set_new(o, "p95_ms", json_number(m->p95[k], 6));
    json_object_set_new(o, "p99_ms", json_number(m->p99[k], 6));
    json_object_set_new(o, "min_ms", json_number(m->min[k], 6));
}

static json_t *number_or_null(double v, int digits)
{
    return v > 0 ? json_number(v, digits) : json_null();
}

json_t *report_stages(const struct report *r, const struct measured *m,
                      const struct pi0_stage_work work[PI0_N_STAGES])
{
    json_t *list = json_array();
    for (int g = 0; g < PI0_N_STAGES; g++) {
        int k = VISION + g;
        double bytes = work[g].weight_bytes + work[g].activation_bytes, s = m->p50[k] / 1e3;
        double compute = r->peak.flops > 0 ? work[g].flops / r->peak.flops * 1e3 : 0;
        double memory = r->peak.bytes > 0 ? bytes / r->peak.bytes * 1e3 : 0;
        double floor = compute > 0 && memory > 0 ? fmax(compute, memory) : 0;
        json_t *o = json_object();
        json_object_set_new(o, "name", json_string(work[g].name));
        put_percentiles(o, m, k);
        json_object_set_new(o, "flops", json_number(work[g].flops, 8));
        json_object_set_new(o, "bytes", json_number(bytes, 8));
        json_object_set_new(o, "flops_per_s", number_or_null(s > 0 ? work[g].flops / s : 0, 6));
        json_object_set_new(o, "bytes_per_s", number_or_null(s > 0 ? bytes / s : 0, 6));
        json_object_set_new(o, "floor_ms", number_or_null(floor, 6));
        json_object_set_new(o, "bound",
                            floor > 0 ? json_string(compute > memory ? "arithmetic" : "memory")
                                      : json_null());
        json_array_append_new(list, o);
    }
    return list;
}

#define ENERGY_SECONDS 0.5 /* the counters step: a shorter window says nothing */

static json_t *energy_json(const struct measured *m, int batch)
{
    json_t *o = json_object();
    double samples = (double)m->n * batch;
    if (m->power.seconds < ENERGY_SECONDS) {
        json_object_set_new(o, "mean_w", json_null());
        json_object_set_new(o, "j_per_sample", json_null());
        json_object_set_new(o, "samples_per_j", json_null());
        return o;
    }
    json_object_set_new(o, "mean_w", json_number(m->power.mean_w, 5));
    json_object_set_new(o, "j_per_sample", json_number(m->power.energy_j / samples, 5));
    json_object_set_new(o, "samples_per_j", json_number(samples / m->power.energy_j, 5));
    return o;
}

/* ---------------------------------------------------------------- headline */

static json_t *headline_row(struct report *r, const struct session *s, const struct workload *w,
                            const struct power *power, const struct measured *m)
{
    struct pi0_error err = { 0 };
    struct pi0_dims d;
    struct pi0_stage_work work[PI0_N_STAGES];
    int cameras = workload_cameras(w, w->masked);
    pi0_engine_dims(s->engine, &d);
    int side = d.image_size / d.patch_size;
    if (pi0_engine_work(s->engine, 1, cameras, w->n_tokens, r->steps, work, &err))
        return NULL;
    json_t *o = json_object(), *blocks = json_array(), *memory = json_object();
    double lo = m->block_p50[0], hi = lo;
    for (int b = 0; b < m->n_blocks; b++) {
        lo = fmin(lo, m->block_p50[b]);
        hi = fmax(hi, m->block_p50[b]);
        json_array_append_new(blocks, json_number(m->block_p50[b], 6));
    }
    json_object_set_new(o, "workload", json_string(w->name));
    json_object_set_new(o, "about", json_string(w->about));
    json_object_set_new(o, "prefix_tokens", json_integer(cameras * side * side + w->n_tokens));
    json_object_set_new(o, "horizon", json_integer(d.action_horizon));
    json_object_set_new(o, "calls", json_integer(m->n));
    put_percentiles(o, m, WHOLE);
    json_object_set_new(o, "hz", json_number(1e3 / m->p50[WHOLE], 6));
    json_object_set_new(o, "block_p50_ms", blocks);
    json_object_set_new(o, "spread_percent", json_number((hi - lo) / m->p50[WHOLE] * 100, 3));
    json_object_set_new(o, "stages", report_stages(r, m, work));
    json_object_set_new(memory, "weight_bytes",
                        json_integer((json_int_t)s->engine_info.weight_bytes));
    json_object_set_new(memory, "cache_bytes",
                        json_integer((json_int_t)s->engine_info.cache_bytes));
    json_object_set_new(memory, "scratch_bytes",
                        json_integer((json_int_t)s->engine_info.scratch_bytes));
    json_object_set_new(o, "memory", memory);
    json_object_set_new(o, "open_ms", json_number(s->engine_info.open_ms, 5));
    json_object_set_new(o, "conditions", power_conditions(power, &m->power));
    json_object_set_new(o, "energy",
                        power_source(power) ? energy_json(m, 1)
                                            : report_reason("%s", power_reason(power)));
    return o;
}

json_t *report_headline(struct report *r, struct session *first, struct power *power)
{
    json_t *rows = json_array();
    for (int i = 0; i < r->n_list; i++) {
        struct pi0_error err = { 0 };
        struct session own = { 0 }, *s = i == 0 && first->engine ? first : &own;
        struct measured m;
        report_task(r, "%s", r->list[i]->name);
        report_bar(r, 0, "opening");
        pi0_status st = s->engine ? PI0_OK : report_open(r, s, r->list[i], 1, NULL, &err);
        if (!st)
            st = report_measure(r, s, r->list[i], 1, power, &m, &err);
        json_t *row = st ? NULL : headline_row(r, s, r->list[i], power, &m);
        session_close(&own);
        if (row && i == 0)
            report_partial(r, "headline", rows);
        if (!row) {
            json_decref(rows);
            (void)fail_library(&err);
            return NULL;
        }
        json_array_append_new(rows, row);
        report_tick(r);
    }
    return rows;
}

/* ---------------------------------------------------------------- batches */

/* Bytes that this machine could still give; 0 where it does not say. */
static double memory_available(void)
{
    FILE *f = fopen("/proc/meminfo", "r");
    char line[256];
    double kb = 0;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "MemAvailable:", 13) == 0)
            kb = strtod(line + 13, NULL);
    if (f)
        fclose(f);
    return kb * 1024;
}

struct batch_walk {
    json_t *rows;
    const struct workload *w;
    int last_batch;      /* last one measured */
    double last_ms;      /* its median */
    double last_working; /* its cache and scratch bytes */
    double weights;
};

/* Why a batch is not tried: on a CPU the kernel would end the process that takes too much, and a row
 * should not take all day. NULL: try. */
static json_t *batch_forecast(const struct report *r, const struct batch_walk *k, int batch,
                              bool on_cpu)
{
    if (k->last_batch == 0)
        return NULL;
    double scale = (double)batch / k->last_batch;
    double bytes = k->weights + k->last_working * scale, there = memory_available();
    if (on_cpu && there > 0 && bytes > there) {
        json_t *o =
            report_reason("about %.3g GB needed, %.3g GB available", bytes / 1e9, there / 1e9);
        json_object_set_new(o, "status", json_string("out of memory"));
        return o;
    }
    double seconds = k->last_ms * scale / 1e3 * (block_calls(r, k->last_ms * scale) + 2);
    if (!r->a->n_batches && seconds > ROW_SECONDS) {
        json_t *o = report_reason("a block would take about %.0f s; --batch %d measures it anyway",
                                  seconds, batch);
        json_object_set_new(o, "status", json_string("left out"));
        return o;
    }
    return NULL;
}

static json_t *batch_failure(const struct pi0_error *err)
{
    json_t *o = report_reason("%s", err->message);
    json_object_set_new(o, "status",
                        json_string(err->status == PI0_E_NOMEM         ? "out of memory"
                                    : err->status == PI0_E_UNSUPPORTED ? "not supported"
                                                                       : "failed"));
    return o;
}

static json_t *batch_row(struct report *r, struct session *s, struct batch_walk *k, int batch,
                         struct power *power)
{
    struct pi0_error err = { 0 };
    struct measured m;
    const struct pi0_engine_info *e = &s->engine_info;
    bool on_cpu = power && strcmp(e->backend ? e->backend : "", "cpu") == 0;
    json_t *o = batch_forecast(r, k, batch, on_cpu);
    if (o)
        return o;
    pi0_status st = report_open(r, s, k->w, batch, NULL, &err);
    if (!st)
        st = report_measure(r, s, k->w, batch, power, &m, &err);
    double used = power_memory_used(power);
    if (!st) {
        o = json_object();
        json_object_set_new(o, "status", json_string("ok"));
        json_object_set_new(o, "calls", json_integer(m.n));
        put_percentiles(o, &m, WHOLE);
        json_object_set_new(o, "vision_ms", json_number(m.p50[VISION], 6));
        json_object_set_new(o, "prefix_ms", json_number(m.p50[PREFIX], 6));
        json_object_set_new(o, "denoise_ms", json_number(m.p50[DENOISE], 6));
        json_object_set_new(o, "samples_per_s", json_number(batch / m.p50[WHOLE] * 1e3, 6));
        k->last_batch = batch;
        k->last_ms = m.p50[WHOLE];
        k->weights = (double)e->weight_bytes;
        k->last_working = (double)e->cache_bytes + (double)e->scratch_bytes;
        json_object_set_new(o, "memory_bytes", json_number(k->weights + k->last_working, 12));
        if (used > 0)
            json_object_set_new(o, "device_memory_used_bytes", json_number(used, 12));
        if (power_source(power))
            json_object_update_new(o, energy_json(&m, batch));
        else
            json_object_set_new(o, "j_per_sample", json_null());
    }
    report_close_engine(s);
    return st ? batch_failure(&err) : o;
}

json_t *report_batch(struct report *r, struct power *power)
{
    static const int32_t usual[] = { 1, 2, 4, 8, 16, 32, 64, 128 };
    const int32_t *batches = r->a->n_batches ? r->a->batches : usual;
    int n = r->a->n_batches ? r->a->n_batches : (int)(sizeof usual / sizeof usual[0]);
    struct session s = { 0 };
    struct batch_walk k = { .rows = json_array(), .w = r->list[0] };
    json_t *o = json_object();
    json_object_set_new(o, "workload", json_string(k.w->name));
    json_object_set_new(o, "rows", k.rows);
    for (int i = 0; i < n; i++) {
        report_task(r, "%s ×%d", k.w->name, (int)batches[i]);
        report_bar(r, 0, "opening");
        json_t *row = batch_row(r, &s, &k, batches[i], power);
        json_object_set_new(row, "batch", json_integer(batches[i]));
        json_array_append_new(k.rows, row);
        report_partial(r, "batch", o);
        report_tick(r);
    }
    session_close(&s);
    return o;
}
