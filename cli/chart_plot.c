/* SPDX-License-Identifier: Apache-2.0
 * chart_plot: the pictures with two axes: batches, power over time, offered load, roofline. */
#include "chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_POINTS 1024

struct points {
    double x[MAX_POINTS], y[MAX_POINTS];
    int n;
};

/* Rows that have both numbers, above 0. */
static void collect(struct points *p, const json_t *rows, const char *key_x, const char *key_y)
{
    size_t i;
    json_t *row;
    p->n = 0;
    json_array_foreach(rows, i, row)
    {
        double x = number_at(row, key_x, NAN), y = number_at(row, key_y, NAN);
        if (x > 0 && y > 0 && p->n < MAX_POINTS) {
            p->x[p->n] = x;
            p->y[p->n++] = y;
        }
    }
}

static double largest(const double *v, int n)
{
    double most = 0;
    for (int i = 0; i < n; i++)
        most = fmax(most, v[i]);
    return most;
}
static double smallest(const double *v, int n)
{
    double least = n ? v[0] : 1;
    for (int i = 0; i < n; i++)
        least = fmin(least, v[i]);
    return least;
}

enum labels { NO_LABELS, LABELS_ABOVE, LABELS_BELOW, LABELS_RIGHT };

static void curve(struct svg *s, const struct points *p, const struct axis *x, const struct axis *y,
                  const char *colour, enum labels labels)
{
    static double px[MAX_POINTS], py[MAX_POINTS];
    for (int i = 0; i < p->n; i++) {
        px[i] = axis_at(x, p->x[i]);
        py[i] = axis_at(y, p->y[i]);
    }
    svg_path(s, px, py, p->n, colour, 2);
    for (int i = 0; i < p->n; i++) {
        char text[32];
        svg_circle(s, px[i], py[i], 4, colour, "stroke=\"#FFFFFF\" stroke-width=\"1\"");
        snprintf(text, sizeof text, "%.*f", p->y[i] < 10 ? 2 : p->y[i] < 100 ? 1 : 0, p->y[i]);
        if (labels == LABELS_RIGHT)
            svg_text(s, px[i] + 7, py[i] - 7, "start", 11, colour, "%s", text);
        else if (labels != NO_LABELS)
            svg_text(s, px[i], py[i] + (labels == LABELS_ABOVE ? -9 : 18), "middle", 11, colour,
                     "%s", text);
    }
}

/* A tick a batch: a logarithmic axis of powers of two has none of its own. */
static void batch_axis(struct svg *s, const struct axis *x, const struct points *p, double y0,
                       double y1)
{
    double last = -1e9;
    for (int i = 0; i < p->n; i++) {
        double at = axis_at(x, p->x[i]);
        svg_line(s, at, y0, at, y1, SVG_GRID, 1, "");
        if (at - last < 26)
            continue;
        last = at;
        svg_text(s, at, y1 + 16, "middle", 11, SVG_MUTED, "%.0f", p->x[i]);
    }
    svg_line(s, x->from, y1, x->to, y1, SVG_INK, 1, "");
    svg_text(s, (x->from + x->to) / 2, y1 + 36, "middle", 12, SVG_INK, "%s", x->label);
}

void chart_batch(struct svg *s, const json_t *doc)
{
    static struct points rate, p50, p99;
    const json_t *section = json_object_get(doc, "batch"), *rows = json_object_get(section, "rows");
    char under[300];
    collect(&rate, rows, "batch", "samples_per_s");
    collect(&p50, rows, "batch", "p50_ms");
    collect(&p99, rows, "batch", "p99_ms");
    if (rate.n == 0) {
        chart_reason(s, "Batches", text_at(section, "reason"));
        return;
    }
    snprintf(under, sizeof under, "%s; %s", text_at(section, "workload"), chart_device(doc));
    svg_begin(s, 1000, 430, "Throughput and latency by batch", under);
    double hi = largest(rate.x, rate.n), top = 84, bottom = 370;
    struct axis x = axis_log(0.8, hi > 1 ? hi : 2, 80, 480, "samples in a call");
    struct axis y = axis_linear(largest(rate.y, rate.n) * 1.12, bottom, top, "samples/s");
    batch_axis(s, &x, &rate, top, bottom);
    svg_axis_y(s, &y, 80, 480);
    curve(s, &rate, &x, &y, SVG_BLUE, LABELS_ABOVE);
    struct axis x2 = axis_log(0.8, hi > 1 ? hi : 2, 580, 980, "samples in a call");
    struct axis y2 = axis_log(smallest(p50.y, p50.n) / 2, largest(p99.y, p99.n) * 1.2, bottom, top,
                              "ms of a call");
    batch_axis(s, &x2, &p50, top, bottom);
    svg_axis_y(s, &y2, 580, 980);
    curve(s, &p99, &x2, &y2, SVG_ORANGE, NO_LABELS);
    curve(s, &p50, &x2, &y2, SVG_BLUE, LABELS_BELOW);
    svg_key(s, svg_key(s, 600, 72, SVG_BLUE, "p50"), 72, SVG_ORANGE, "p99");
    svg_end(s);
}

/* ---------------------------------------------------------------- power */

static void power_marks(struct svg *s, const struct axis *x, const json_t *marks, double top,
                        double bottom)
{
    size_t i;
    json_t *mark;
    double last = x->from;
    svg_text(s, x->from + 4, top - 6, "start", 11, SVG_MUTED, "idle");
    json_array_foreach(marks, i, mark)
    {
        double at = axis_at(x, number_at(mark, "t_s", 0)), hz = number_at(mark, "offered_hz", NAN);
        svg_line(s, at, top, at, bottom, SVG_MUTED, 1, "stroke-dasharray=\"3 3\"");
        if (at - last < 30 && i > 0)
            continue;
        last = at;
        if (isfinite(hz))
            svg_text(s, at + 4, top - 6, "start", 11, SVG_MUTED, "%.0f Hz", hz);
        else
            svg_text(s, at + 4, top - 6, "start", 11, SVG_MUTED, "back to back");
    }
}

void chart_power(struct svg *s, const json_t *doc)
{
    static struct points p;
    const json_t *section = json_object_get(doc, "power");
    const json_t *series = json_object_get(section, "series"), *t = json_object_get(series, "t_s");
    const json_t *w = json_object_get(series, "w");
    char under[300];
    p.n = 0;
    for (size_t i = 0; i < json_array_size(t) && p.n < MAX_POINTS; i++) {
        p.x[p.n] = json_number_value(json_array_get(t, i));
        p.y[p.n++] = json_number_value(json_array_get(w, i));
    }
    if (p.n < 2) {
        chart_reason(s, "Power over time", text_at(section, "reason"));
        return;
    }
    snprintf(under, sizeof under, "%s, %s; %s", text_at(section, "workload"),
             text_at(section, "source"), chart_device(doc));
    double top = 92, bottom = 350,
           limit = number_at(json_object_get(doc, "machine"), "power_limit_w", 0);
    svg_begin(s, 900, 410, "Power over time, by offered load", under);
    struct axis x = axis_linear(largest(p.x, p.n), 80, 870, "s");
    struct axis y = axis_linear(fmax(largest(p.y, p.n), limit) * 1.08, bottom, top, "W");
    svg_axis_x(s, &x, top, bottom);
    svg_axis_y(s, &y, 80, 870);
    power_marks(s, &x, json_object_get(series, "marks"), top, bottom);
    if (limit > 0) {
        svg_line(s, 80, axis_at(&y, limit), 870, axis_at(&y, limit), SVG_VERMILION, 1.5,
                 "stroke-dasharray=\"6 4\"");
        svg_text(s, 86, axis_at(&y, limit) - 6, "start", 11, SVG_VERMILION, "power limit %.0f W",
                 limit);
    }
    static double px[MAX_POINTS], py[MAX_POINTS];
    for (int i = 0; i < p.n; i++) {
        px[i] = axis_at(&x, p.x[i]);
        py[i] = axis_at(&y, p.y[i]);
    }
    svg_path(s, px, py, p.n, SVG_BLUE, 1.8);
    svg_end(s);
}

void chart_load(struct svg *s, const json_t *doc)
{
    static struct points p50, p99, total, net;
    const json_t *section = json_object_get(doc, "power"), *rows = json_object_get(section, "rows");
    char under[300];
    collect(&p50, rows, "achieved_hz", "p50_ms");
    collect(&p99, rows, "achieved_hz", "p99_ms");
    collect(&total, rows, "achieved_hz", "j_per_sample");
    collect(&net, rows, "achieved_hz", "j_per_sample_net");
    if (p50.n == 0) {
        chart_reason(s, "Offered load", text_at(section, "reason"));
        return;
    }
    snprintf(under, sizeof under, "%s; %s", text_at(section, "workload"), chart_device(doc));
    svg_begin(s, 1000, 430, "Latency and energy against load", under);
    double most = largest(p50.x, p50.n), top = 84, bottom = 370;
    struct axis x = axis_linear(most, 80, 480, "calls/s (last: back to back)");
    struct axis y =
        axis_linear(largest(p99.y, p99.n) * 1.1, bottom, top, "ms from when a call was due");
    svg_axis_x(s, &x, top, bottom);
    svg_axis_y(s, &y, 80, 480);
    curve(s, &p99, &x, &y, SVG_ORANGE, NO_LABELS);
    curve(s, &p50, &x, &y, SVG_BLUE, NO_LABELS);
    svg_key(s, svg_key(s, 100, 72, SVG_BLUE, "p50"), 72, SVG_ORANGE, "p99");
    if (total.n == 0) {
        svg_text(s, 580, 200, "start", 13, SVG_INK, "no energy: %s", text_at(section, "reason"));
        svg_end(s);
        return;
    }
    struct axis x2 = axis_linear(most, 580, 980, "calls/s (last: back to back)");
    struct axis y2 = axis_linear(largest(total.y, total.n) * 1.1, bottom, top, "J per sample");
    svg_axis_x(s, &x2, top, bottom);
    svg_axis_y(s, &y2, 580, 980);
    curve(s, &total, &x2, &y2, SVG_VERMILION, LABELS_RIGHT);
    curve(s, &net, &x2, &y2, SVG_GREEN, NO_LABELS);
    svg_key(s, svg_key(s, 600, 72, SVG_VERMILION, "total"), 72, SVG_GREEN, "above idle");
    svg_end(s);
}

/* ---------------------------------------------------------------- roofline */

#define LIST_X 800.0 /* left edge of the roofline's list */
#define MAX_LISTED 26

struct dot {
    double x, y; /* FLOP per byte, FLOP/s */
    const char *colour, *name;
    double radius;
};

static int add_dots(struct dot *dots, int n, const json_t *rows, const char *name_key, bool stages)
{
    static const char *const colours[] = { SVG_BLUE, SVG_ORANGE, SVG_GREEN };
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        double flops = number_at(row, "flops", 0), bytes = number_at(row, "bytes", 0);
        double rate = number_at(row, "flops_per_s", 0);
        const char *stage = text_at(row, stages ? "name" : "stage");
        int c = strcmp(stage, "vision") == 0 ? 0 : strcmp(stage, "prefix") == 0 ? 1 : 2;
        if (!(flops > 0) || !(bytes > 0) || !(rate > 0) || n == MAX_POINTS)
            continue;
        dots[n++] = (struct dot){ flops / bytes, rate, colours[c], text_at(row, name_key),
                                  stages ? 7 : 4.5 };
    }
    return n;
}

/* Numbers beside the dots; those that would lie on each other move down, a line at a time. The list on
 * the right says what they are. */
static void label_dots(struct svg *s, const struct dot *dots, int n, const struct axis *x,
                       const struct axis *y)
{
    static double taken_x[MAX_POINTS], taken_y[MAX_POINTS];
    const double w = 18, h = 12;
    for (int i = 0; i < n; i++) {
        double at = axis_at(x, dots[i].x) + dots[i].radius + 3, line = axis_at(y, dots[i].y) + 4;
        for (int k = 0; k < i; k++)
            if (fabs(line - taken_y[k]) < h && fabs(at - taken_x[k]) < w) {
                line = taken_y[k] + h;
                k = -1;
            }
        taken_x[i] = at;
        taken_y[i] = line;
        svg_text(s, at, line, "start", 11, SVG_INK, "%d", i + 1);
        if (i >= MAX_LISTED)
            continue;
        char rate[32];
        double row = 96 + 17.0 * i;
        svg_circle(s, LIST_X, row - 4, dots[i].radius * 0.8, dots[i].colour, "");
        svg_text(s, LIST_X + 28, row, "end", 11, SVG_INK, "%d", i + 1);
        svg_text(s, LIST_X + 34, row, "start", 11, SVG_INK, "%s", dots[i].name);
        svg_text(s, LIST_X + 250, row, "end", 11, SVG_MUTED, "%s",
                 human(rate, dots[i].y, "FLOP/s"));
    }
}

static int by_rate(const void *a, const void *b)
{
    double x = ((const struct dot *)a)->y, y = ((const struct dot *)b)->y;
    return (x < y) - (x > y);
}

void chart_roofline(struct svg *s, const json_t *doc)
{
    static struct dot dots[MAX_POINTS];
    const json_t *c = json_object_get(doc, "ceilings");
    double flops = number_at(c, "flops_per_s", 0), bytes = number_at(c, "bytes_per_s", 0);
    const json_t *kernels = json_object_get(json_object_get(doc, "breakdown"), "kernels");
    const json_t *first = json_array_get(json_object_get(doc, "headline"), 0);
    int n = add_dots(dots, 0, json_object_get(first, "stages"), "name", true);
    n = add_dots(dots, n, kernels, "op", false);
    if (n == 0 || !(flops > 0) || !(bytes > 0)) {
        chart_reason(s, "Roofline",
                     n ? "the device's ceilings are not known: --peak-flops and "
                         "--peak-bytes give them"
                       : "no stage and no kernel was measured");
        return;
    }
    qsort(dots, (size_t)n, sizeof *dots, by_rate);
    double ridge = flops / bytes, x_lo = ridge / 8, x_hi = ridge * 8, y_lo = flops;
    for (int i = 0; i < n; i++) {
        x_lo = fmin(x_lo, dots[i].x);
        x_hi = fmax(x_hi, dots[i].x);
        y_lo = fmin(y_lo, dots[i].y);
    }
    char under[300], peak[32], stream[32];
    snprintf(under, sizeof under, "%s: stages (large) and kernels (small); %s",
             text_at(first ? first : json_object_get(doc, "breakdown"), "workload"),
             chart_device(doc));
    svg_begin(s, 1070, 560, "Roofline", under);
    struct axis x = axis_log(x_lo / 1.5, x_hi * 1.5, 90, 770, "FLOP per byte of memory traffic");
    struct axis y = axis_log(fmin(y_lo, flops / 30) / 2, flops * 1.6, 500, 84, "FLOP/s");
    svg_axis_x(s, &x, 84, 500);
    svg_axis_y(s, &y, 90, 770);
    double from = fmax(x.lo, y.lo / bytes);
    svg_line(s, axis_at(&x, from), axis_at(&y, from * bytes), axis_at(&x, ridge),
             axis_at(&y, flops), SVG_INK, 2, "");
    svg_line(s, axis_at(&x, ridge), axis_at(&y, flops), 770, axis_at(&y, flops), SVG_INK, 2, "");
    svg_text(s, 766, axis_at(&y, flops) - 7, "end", 12, SVG_INK, "%s",
             human(peak, flops, "FLOP/s"));
    double on = from * 2;
    svg_text(s, axis_at(&x, on) + 12, axis_at(&y, on * bytes) + 12, "start", 12, SVG_INK, "%s",
             human(stream, bytes, "B/s"));
    for (int i = 0; i < n; i++)
        svg_circle(s, axis_at(&x, dots[i].x), axis_at(&y, dots[i].y), dots[i].radius,
                   dots[i].colour, "fill-opacity=\"0.85\" stroke=\"#FFFFFF\" stroke-width=\"1\"");
    label_dots(s, dots, n, &x, &y);
    double key = svg_key(s, 100, 72, SVG_BLUE, "vision");
    key = svg_key(s, key, 72, SVG_ORANGE, "prefix");
    svg_key(s, key, 72, SVG_GREEN, "denoise");
    svg_end(s);
}
