/* SPDX-License-Identifier: Apache-2.0
 * report_load: what a call costs in energy, and what it costs when calls come at a rate instead of
 * back to back: 10 Hz … the most this device does. No clock and no power limit is touched. */
#include "report.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

#define MAX_LOAD_CALLS 100000
#define SERIES_POINTS 600

static void sleep_until(double at_ms)
{
    double left = at_ms - now_ms();
    if (left <= 0)
        return;
    struct timespec t = { .tv_sec = (time_t)(left / 1e3),
                          .tv_nsec = (long)(fmod(left, 1e3) * 1e6) };
    nanosleep(&t, NULL);
}

struct load {
    double hz; /* 0: back to back */
    int calls, late;
    double p50, p99, achieved;
    struct power_reading power;
};

/* Calls due every 1/hz seconds; a call's latency counts from when it was due, as a robot would see
 * it. Late: begun after it was due by more than one period. The load ends on
 * time even when calls are behind. */
static pi0_status run_load(struct report *r, const struct session *s, struct inputs *p,
                           struct power *power, struct load *l, double *latency,
                           struct pi0_error *err)
{
    double times[N_TIMES], start = now_ms(), end = start + r->load_seconds * 1e3;
    double period = l->hz > 0 ? 1e3 / l->hz : 0;
    char extra[48];
    struct power_window window;
    power_begin(power, &window);
    for (l->calls = 0; l->calls < MAX_LOAD_CALLS; l->calls++) {
        double due = period > 0 ? start + l->calls * period : now_ms();
        if ((due >= end || now_ms() >= end) && l->calls > 0)
            break;
        sleep_until(due);
        double begun = now_ms();
        l->late += period > 0 && begun - due > period;
        pi0_status st = infer_timed(s, p, 1, r->steps, l->calls, times, err);
        if (st)
            return st;
        latency[l->calls] = now_ms() - due;
        snprintf(extra, sizeof extra, "%.1f s", (now_ms() - start) / 1e3);
        report_bar(r, (now_ms() - start) / (end - start), extra);
    }
    sleep_until(end);
    power_end(power, &window, &l->power);
    l->achieved = l->calls / l->power.seconds;
    qsort(latency, (size_t)l->calls, sizeof *latency, by_value);
    l->p50 = percentile(latency, l->calls, 0.50);
    l->p99 = percentile(latency, l->calls, 0.99);
    return PI0_OK;
}

static json_t *load_json(const struct load *l, double idle_w)
{
    json_t *o = json_object();
    double net = l->power.energy_j - idle_w * l->power.seconds;
    json_object_set_new(o, "offered_hz", l->hz > 0 ? json_number(l->hz, 5) : json_null());
    json_object_set_new(o, "achieved_hz", json_number(l->achieved, 5));
    json_object_set_new(o, "calls", json_integer(l->calls));
    json_object_set_new(o, "late", json_integer(l->late));
    json_object_set_new(o, "p50_ms", json_number(l->p50, 6));
    json_object_set_new(o, "p99_ms", json_number(l->p99, 6));
    json_object_set_new(o, "mean_w", json_number(l->power.mean_w, 5));
    json_object_set_new(o, "j_per_sample", json_number(l->power.energy_j / l->calls, 5));
    json_object_set_new(o, "j_per_sample_net", json_number(net / l->calls, 5));
    json_object_set_new(o, "samples_per_j", json_number(l->calls / l->power.energy_j, 5));
    json_object_set_new(o, "clock_mhz", json_number(l->power.clock_mean, 5));
    json_object_set_new(o, "temperature_c", json_number(l->power.temperature_max, 4));
    return o;
}

/* Offered rates: 10, 20, 50, 100 … below nine tenths of what a call's time allows, then back to
 * back. */
static int load_rates(double rates[8], double call_ms)
{
    static const double steps[] = { 10, 20, 50, 100, 200, 500 };
    int n = 0;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && n < 5; i++)
        if (steps[i] < 900 / call_ms)
            rates[n++] = steps[i];
    rates[n++] = 0;
    return n;
}

static json_t *idle_json(struct report *r, struct power *power, double *idle_w)
{
    struct power_window window;
    struct power_reading idle;
    report_task(r, "idle");
    report_bar(r, 0, "");
    sleep_until(now_ms() + fmin(r->load_seconds, 1) * 1e3); /* opening the engine dies away */
    power_begin(power, &window);
    sleep_until(now_ms() + r->load_seconds * 1e3);
    power_end(power, &window, &idle);
    *idle_w = idle.mean_w;
    return json_number(idle.mean_w, 5);
}

static pi0_status run_loads(struct report *r, const struct session *s, struct power *power,
                            json_t *o, struct pi0_error *err)
{
    struct inputs p = { 0 };
    double idle_w, rates[8], times[N_TIMES] = { 0 }, began = now_ms();
    double *latency = malloc(MAX_LOAD_CALLS * sizeof *latency);
    json_t *rows = json_array(), *marks = json_array();
    pi0_status st = report_inputs(s, r->list[0], 1, &p, err);
    json_object_set_new(o, "rows", rows);
    json_object_set_new(o, "idle_w", idle_json(r, power, &idle_w));
    if (!st && !latency)
        st = err->status = PI0_E_NOMEM;
    for (int i = 0; !st && i < 2 + r->warmup; i++)
        st = infer_timed(s, &p, 1, r->steps, i, times, err);
    int n = st ? 0 : load_rates(rates, times[WHOLE]);
    for (int i = 0; !st && i < n; i++) {
        struct load l = { .hz = rates[i] };
        json_t *mark = json_object();
        if (rates[i] > 0)
            report_task(r, "load %.0f Hz", rates[i]);
        else
            report_task(r, "back to back");
        json_object_set_new(mark, "t_s", json_number((now_ms() - began) / 1e3, 5));
        json_object_set_new(mark, "offered_hz",
                            rates[i] > 0 ? json_number(rates[i], 5) : json_null());
        json_array_append_new(marks, mark);
        if (!(st = run_load(r, s, &p, power, &l, latency, err)))
            json_array_append_new(rows, load_json(&l, idle_w));
        report_tick(r);
    }
    json_t *series = power_series(power, began, SERIES_POINTS);
    json_object_set_new(series, "marks", marks);
    json_object_set_new(o, "series", series);
    free(latency);
    inputs_free(&p);
    return st;
}

json_t *report_power(struct report *r, struct power *power)
{
    struct pi0_error err = { 0 };
    struct session s = { 0 };
    json_t *o = json_object();
    json_object_set_new(o, "workload", json_string(r->list[0]->name));
    json_object_set_new(o, "source",
                        power_source(power) ? json_string(power_source(power)) : json_null());
    if (!power_source(power))
        json_object_set_new(o, "reason", json_string(power_reason(power)));
    pi0_status st = report_open(r, &s, r->list[0], 1, NULL, &err);
    if (!st)
        st = run_loads(r, &s, power, o, &err);
    session_close(&s);
    if (!st)
        return o;
    json_decref(o);
    (void)fail_library(&err);
    return NULL;
}
