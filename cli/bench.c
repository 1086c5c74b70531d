/* SPDX-License-Identifier: Apache-2.0
 * bench: latency of whole calls and of their stages, by workload and batch, beside the work that
 * the plan counts. Inputs are random and differ from call to call; weights are synthetic unless
 * --model is given. The clock runs round pi0_engine_infer; stage times are the engine's own. */
#include "bench.h"
#include "power.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef PI0_COMMIT
#define PI0_COMMIT "unknown"
#endif

#define AUTO_SECONDS 10.0 /* without --n: about this long a row */
#define AUTO_MIN 5
#define AUTO_MAX 200
#define DEFAULT_WARMUP 2

/* ---------------------------------------------------------------- measuring */

static const char *const time_names[N_TIMES] = { "whole", "vision", "prefix", "denoise" };

struct result {
    const struct workload *w;
    int batch, steps, n;
    double p50[N_TIMES], p95[N_TIMES], p99[N_TIMES], min[N_TIMES];
    struct pi0_stage_work work[PI0_N_STAGES];
    int n_cameras, n_prefix;
};

static int call(const struct session *s, struct inputs *p, int batch, int steps, int turn,
                double times[N_TIMES])
{
    struct pi0_error err = { 0 };
    return infer_timed(s, p, batch, steps, turn, times, &err) ? fail_library(&err) : EXIT_DONE;
}

static int measure(struct result *r, const struct session *s, struct inputs *p,
                   const struct args *a)
{
    char what[64], extra[64];
    double times[N_TIMES], last = 1;
    int warmup = a->warmup >= 0 ? a->warmup : DEFAULT_WARMUP, code;
    snprintf(what, sizeof what, "%s ×%d", r->w->name, r->batch);
    for (int i = 0; i < warmup; i++) {
        term_bar(what, 0, 1, "warm-up");
        if ((code = call(s, p, r->batch, r->steps, i, times)))
            return code;
        last = times[WHOLE];
    }
    r->n = a->n;
    if (r->n == 0) {
        if (warmup == 0) {
            if ((code = call(s, p, r->batch, r->steps, 0, times)))
                return code;
            last = times[WHOLE];
        }
        double fit = AUTO_SECONDS * 1e3 / (last > 0.001 ? last : 0.001);
        r->n = fit < AUTO_MIN ? AUTO_MIN : fit > AUTO_MAX ? AUTO_MAX : (int)fit;
    }
    double *all = malloc((size_t)r->n * N_TIMES * sizeof *all); /* [N_TIMES][n] */
    if (!all)
        return fail("no memory for %d measurements", r->n);
    for (int i = 0; i < r->n; i++) {
        if ((code = call(s, p, r->batch, r->steps, i, times))) {
            free(all);
            return code;
        }
        for (int k = 0; k < N_TIMES; k++)
            all[(size_t)k * (size_t)r->n + (size_t)i] = times[k];
        snprintf(extra, sizeof extra, "%d of %d, %.1f ms", i + 1, r->n, times[WHOLE]);
        term_bar(what, (uint64_t)i + 1, (uint64_t)r->n, extra);
    }
    for (int k = 0; k < N_TIMES; k++) {
        double *v = all + (size_t)k * (size_t)r->n;
        qsort(v, (size_t)r->n, sizeof *v, by_value);
        r->p50[k] = percentile(v, r->n, 0.50);
        r->p95[k] = percentile(v, r->n, 0.95);
        r->p99[k] = percentile(v, r->n, 0.99);
        r->min[k] = v[0];
    }
    free(all);
    term_bar_clear();
    return EXIT_DONE;
}

/* ---------------------------------------------------------------- showing */

/* Eight columns: three decimals below 100 ms, one above. */
static void print_ms(double ms) { printf(" %8.*f", ms < 100 ? 3 : 1, ms); }

static void show_stage(const struct result *r, int k, const struct pi0_stage_work *w)
{
    char buf[32];
    double s = r->p50[k] / 1e3, bytes = w->weight_bytes + w->activation_bytes;
    printf("  %s%-8s", k == WHOLE ? ink(BOLD) : "", time_names[k]);
    print_ms(r->p50[k]);
    print_ms(r->p95[k]);
    print_ms(r->p99[k]);
    print_ms(r->min[k]);
    printf(" %7s", human(buf, w->flops, ""));
    printf(" %7s", human(buf, s > 0 ? w->flops / s : 0, ""));
    printf(" %7s", human(buf, bytes, ""));
    printf(" %7s%s\n", human(buf, s > 0 ? bytes / s : 0, ""), k == WHOLE ? ink(PLAIN) : "");
}

static void show(const struct result *r, const struct session *s)
{
    const struct pi0_engine_info *e = &s->engine_info;
    struct pi0_stage_work whole = { .name = "whole" };
    printf("%s%s%s · batch %d · %d steps · horizon %d · %d prefix tokens, masked cameras %s\n"
           "%s on %s · %s · %s · %d thread%s · %d calls\n",
           ink(BOLD), r->w->name, ink(PLAIN), r->batch, r->steps, e->action_horizon, r->n_prefix,
           r->w->masked == PI0_MASKED_COMPUTE ? "computed" : "skipped", e->backend, e->device,
           e->isa, precision_name(e->precision), e->n_threads, e->n_threads == 1 ? "" : "s", r->n);
    printf("  %s%-8s %8s %8s %8s %8s %7s %7s %7s %7s%s\n", ink(DIM), "ms", "p50", "p95", "p99",
           "min", "FLOP", "FLOP/s", "B", "B/s", ink(PLAIN));
    for (int k = VISION; k < N_TIMES; k++) {
        const struct pi0_stage_work *w = &r->work[k - VISION];
        show_stage(r, k, w);
        whole.flops += w->flops;
        whole.weight_bytes += w->weight_bytes;
        whole.activation_bytes += w->activation_bytes;
    }
    show_stage(r, WHOLE, &whole);
    printf("  %.3g samples/s\n\n", r->batch / (r->p50[WHOLE] / 1e3));
    fflush(stdout);
}

json_t *bench_row_head(const struct session *s, const struct workload *w, int batch, int steps)
{
    const struct pi0_engine_info *e = &s->engine_info;
    char date[32];
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &utc);
    json_t *o = json_object();
    json_object_set_new(o, "date", json_string(date));
    json_object_set_new(o, "commit", json_string(PI0_COMMIT));
    json_object_set_new(o, "device", json_string(e->device));
    json_object_set_new(o, "backend", json_string(e->backend));
    json_object_set_new(o, "threads", json_integer(e->n_threads));
    json_object_set_new(o, "workload", json_string(w->name));
    json_object_set_new(o, "batch", json_integer(batch));
    json_object_set_new(o, "steps", json_integer(steps));
    return o;
}

/* The row of a result; driver, clocks, temperature and throttling seen while it ran included. */
static json_t *row(const struct result *r, const struct session *s, const struct args *a,
                   const struct power *power, const struct power_reading *seen)
{
    const struct pi0_engine_info *e = &s->engine_info;
    double flops = 0, bytes = 0;
    for (int g = 0; g < PI0_N_STAGES; g++) {
        flops += r->work[g].flops;
        bytes += r->work[g].weight_bytes + r->work[g].activation_bytes;
    }
    json_t *o = bench_row_head(s, r->w, r->batch, r->steps);
    json_object_set_new(o, "n", json_integer(r->n));
    json_object_set_new(o, "p50_ms", json_number(r->p50[WHOLE], 6));
    json_object_set_new(o, "p95_ms", json_number(r->p95[WHOLE], 6));
    json_object_set_new(o, "p99_ms", json_number(r->p99[WHOLE], 6));
    json_object_set_new(o, "min_ms", json_number(r->min[WHOLE], 6));
    json_object_set_new(o, "samples_per_s", json_number(r->batch / (r->p50[WHOLE] / 1e3), 6));
    json_object_set_new(o, "vision_ms", json_number(r->p50[VISION], 6));
    json_object_set_new(o, "prefix_ms", json_number(r->p50[PREFIX], 6));
    json_object_set_new(o, "denoise_ms", json_number(r->p50[DENOISE], 6));
    json_object_set_new(o, "precision", json_string(precision_name(e->precision)));
    json_object_set_new(o, "isa", json_string(e->isa));
    json_object_set_new(o, "prefix_tokens", json_integer(r->n_prefix));
    json_object_set_new(o, "prompt_tokens", json_integer(r->w->n_tokens));
    json_object_set_new(o, "cameras", json_integer(r->n_cameras));
    json_object_set_new(o, "horizon", json_integer(e->action_horizon));
    json_object_set_new(o, "dtype", json_string(precision_name(e->precision)));
    if (a->model)
        json_object_set_new(o, "weights", json_string(a->model));
    else
        json_object_set_new(o, "weights",
                            json_sprintf("synthetic %s", a->synthetic ? a->synthetic : r->w->dims));
    json_object_set_new(o, "flops", json_number(flops, 12));
    json_object_set_new(o, "bytes", json_number(bytes, 12));
    json_object_update_new(o, power_facts(power));
    json_object_set_new(o, "conditions", power_conditions(power, seen));
    return o;
}

/* One write to a file opened for appending: a line is there whole or not at all. */
static int append_line(const char *path, const json_t *o)
{
    char *text = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(15));
    size_t n = text ? strlen(text) : 0;
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666), code = EXIT_DONE;
    if (!text || fd < 0) {
        code = fail("--append %s: cannot be opened: %s", path, strerror(errno));
    } else {
        text[n] = '\n'; /* in place of the NUL: the length is known */
        ssize_t put = write(fd, text, n + 1);
        if (put != (ssize_t)(n + 1))
            code = fail("--append %s: cannot be written: %s", path,
                        put < 0 ? strerror(errno) : "no space");
    }
    if (fd >= 0)
        close(fd);
    free(text);
    return code;
}

/* ---------------------------------------------------------------- one workload */

static int bench_batch(struct session *s, const struct workload *w, const struct pi0_dims *d,
                       int batch, const struct args *a)
{
    struct pi0_error err = { 0 };
    struct inputs p = { 0 };
    int side = d->image_size / d->patch_size;
    struct result r = { .w = w, .batch = batch, .steps = a->steps ? a->steps : 10 };
    r.n_cameras = w->masked == PI0_MASKED_COMPUTE ? w->n_cameras : w->n_valid_cameras;
    r.n_prefix = r.n_cameras * side * side + w->n_tokens;
    if (pi0_engine_work(s->engine, batch, r.n_cameras, w->n_tokens, r.steps, r.work, &err))
        return fail_library(&err);
    struct power *power =
        power_open(!strcmp(s->engine_info.backend, "cuda"), a->device, s->engine_info.device);
    struct power_window window;
    struct power_reading seen;
    if (!power)
        return fail("no memory for the readings beside the calls");
    int code = inputs_make(&p, w, d, &s->engine_info, batch);
    json_t *o = NULL;
    power_begin(power, &window);
    if (!code)
        code = a->kernels ? bench_kernels(s, w, &p, batch, r.steps, a, &o) : measure(&r, s, &p, a);
    power_end(power, &window, &seen);
    inputs_free(&p);
    if (!code && a->kernels)
        kernels_finish(o, s, a, power, &seen);
    else if (!code)
        o = row(&r, s, a, power, &seen);
    power_close(power);
    if (!code && a->json)
        code = print_json(o, false);
    else if (!code && a->kernels)
        kernels_show(o);
    else if (!code)
        show(&r, s);
    fflush(stdout);
    if (!code && a->append)
        code = append_line(a->append, o);
    json_decref(o);
    return code;
}

static int bench_workload(struct session *s, const struct workload *w, const struct args *a)
{
    static const int one[] = { 1 };
    struct args named = *a;
    struct pi0_engine_config cfg;
    struct pi0_model_info m;
    if (!a->model && !a->synthetic)
        named.synthetic = w->dims;
    int code = session_open_model(s, &named);
    if (code)
        return code;
    pi0_model_info(s->model, &m);
    if (m.dims.n_cameras < w->n_cameras)
        return fail("%s: the model has %d cameras, expected at least %d", w->name, m.dims.n_cameras,
                    w->n_cameras);
    int n = a->n_batches ? a->n_batches : 1;
    const int32_t *batches = a->n_batches ? a->batches : one;
    session_config(&cfg, a);
    cfg.masked_cameras = w->masked;
    cfg.action_horizon = a->horizon ? a->horizon : w->horizon;
    cfg.max_token_len = w->max_token_len;
    for (int i = 0; i < n; i++)
        if (batches[i] > cfg.max_batch)
            cfg.max_batch = batches[i];
    code = session_open_engine(s, &cfg);
    for (int i = 0; !code && i < n; i++)
        code = bench_batch(s, w, &m.dims, batches[i], a);
    return code;
}

int cmd_bench(const struct args *a)
{
    const struct workload *list[MAX_WORKLOADS];
    int n = workload_list(a, list, MAX_WORKLOADS), code = EXIT_DONE;
    if (a->compare)
        return cmd_compare(a);
    if (a->preset && !a->model)
        return fail("--preset needs --model");
    if (a->kernels && (a->report || a->n))
        return fail("--kernels takes no --report and no --n: it has its own bursts");
    if (a->report)
        return cmd_report(a);
    if (a->append && (code = output_check("--append", a->append)))
        return code;
    if (a->append && access(a->append, W_OK) && errno != ENOENT)
        return fail("--append %s: cannot be written: %s", a->append, strerror(errno));
    for (int i = 0; !code && i < n; i++) {
        struct session s = { 0 };
        code = bench_workload(&s, list[i], a);
        session_close(&s);
    }
    return code;
}
