/* SPDX-License-Identifier: Apache-2.0
 * chart: the pictures of a report, drawn from its JSON: latency by stage beside the floor, the ladder,
 * and the breakdown. The plots with two axes are chart_plot.c's. A section that was not measured is a
 * picture that says why. */
#include "chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const stage_colours[PI0_N_STAGES + 1] = { SVG_BLUE, SVG_ORANGE, SVG_GREEN,
                                                             "#999999" };
static const char *const stage_names[PI0_N_STAGES + 1] = { "vision", "prefix", "denoise", "host" };

void chart_reason(struct svg *s, const char *title, const char *reason)
{
    svg_begin(s, 760, 110, title, "not measured");
    svg_text(s, 20, 82, "start", 13, SVG_INK, "%s", reason[0] ? reason : "no rows");
    svg_end(s);
}

const char *chart_device(const json_t *doc)
{
    static char line[200];
    const json_t *m = json_object_get(doc, "machine");
    snprintf(line, sizeof line, "%.60s, %s, commit %.20s, %.10s", text_at(m, "device"),
             text_at(m, "precision"), text_at(doc, "commit"), text_at(doc, "date"));
    return line;
}

void chart_ms(char buf[32], double ms)
{
    snprintf(buf, 32, "%.*f", ms < 1 ? 3 : ms < 100 ? 2 : 0, ms);
}

/* ---------------------------------------------------------------- latency beside the floor */

static void stage_bar(struct svg *s, const struct axis *x, const json_t *stages, const char *key,
                      double whole, double y, double h, const char *more)
{
    size_t i;
    json_t *stage;
    double at = 0;
    char label[32];
    json_array_foreach(stages, i, stage)
    {
        double ms = number_at(stage, key, 0);
        double x0 = axis_at(x, at), x1 = axis_at(x, at + ms);
        svg_rect(s, x0, y, x1 - x0, h, stage_colours[i < 3 ? i : 3], more);
        chart_ms(label, ms);
        if (x1 - x0 > svg_text_width(label, 11) + 8)
            svg_text(s, (x0 + x1) / 2, y + h / 2 + 4, "middle", 11,
                     i == 1 || more[0] ? SVG_INK : "#FFFFFF", "%s", label);
        at += ms;
    }
    if (whole > at)
        svg_rect(s, axis_at(x, at), y, axis_at(x, whole) - axis_at(x, at), h, stage_colours[3],
                 more);
    chart_ms(label, whole > at ? whole : at);
    svg_text(s, axis_at(x, whole > at ? whole : at) + 6, y + h / 2 + 4, "start", 12, SVG_INK,
             "%s ms", label);
}

static void chart_stages(struct svg *s, const json_t *doc)
{
    const json_t *rows = json_object_get(doc, "headline");
    size_t i, n = json_array_size(rows);
    json_t *row;
    double most = 0, key = 170;
    if (n == 0) {
        chart_reason(s, "Latency by stage", text_at(rows, "reason"));
        return;
    }
    json_array_foreach(rows, i, row) most = fmax(most, number_at(row, "p50_ms", 0));
    int height = 150 + (int)n * 74;
    svg_begin(s, 860, height, "Latency of one call by stage, beside its floor", chart_device(doc));
    struct axis x =
        axis_linear(most * 1.02, 150, 770, "ms, median (faint: floor by arithmetic and memory)");
    svg_axis_x(s, &x, 92, height - 52);
    for (int k = 0; k <= PI0_N_STAGES; k++)
        key = svg_key(s, key, 76, stage_colours[k], stage_names[k]);
    json_array_foreach(rows, i, row)
    {
        const json_t *stages = json_object_get(row, "stages");
        double y = 104 + (double)i * 74;
        svg_text(s, 140, y + 22, "end", 13, SVG_INK, "%s", text_at(row, "workload"));
        svg_text(s, 140, y + 39, "end", 11, SVG_MUTED, "%.1f Hz", number_at(row, "hz", 0));
        stage_bar(s, &x, stages, "p50_ms", number_at(row, "p50_ms", 0), y, 28, "");
        if (json_is_number(json_object_get(json_array_get(stages, 0), "floor_ms")))
            stage_bar(s, &x, stages, "floor_ms", 0, y + 32, 20, "fill-opacity=\"0.42\"");
        else
            svg_text(s, 156, y + 46, "start", 11, SVG_MUTED, "floor unknown: no ceilings");
    }
    svg_end(s);
}

/* ---------------------------------------------------------------- ladder */

static void ladder_row(struct svg *s, const struct axis *x, const json_t *row, double before,
                       double y)
{
    char label[32];
    double ms = number_at(row, "p50_ms", 0), lo = fmin(ms, before), hi = fmax(ms, before);
    bool first = before <= 0, slower = ms > before;
    const json_t *check = json_object_get(row, "check");
    const char *fill = first ? SVG_MUTED : slower ? SVG_VERMILION : SVG_BLUE;
    if (first)
        lo = 0;
    svg_rect(s, axis_at(x, lo), y, fmax(axis_at(x, hi) - axis_at(x, lo), 1.5), 20, fill, "");
    if (!first)
        svg_line(s, axis_at(x, before), y - 10, axis_at(x, before), y, SVG_MUTED, 1,
                 "stroke-dasharray=\"2 2\"");
    chart_ms(label, ms);
    if (first)
        svg_text(s, axis_at(x, hi) + 6, y + 15, "start", 12, SVG_INK, "%s ms", label);
    else
        svg_text(s, axis_at(x, hi) + 6, y + 15, "start", 12, SVG_INK,
                 "%s ms (%s%.2f, %.2f× in all)", label, slower ? "+" : "−", fabs(ms - before),
                 number_at(row, "speedup", 1));
    if (json_is_false(json_object_get(check, "pass")))
        svg_text(s, axis_at(x, 0) + 4, y + 15, "start", 12, SVG_VERMILION, "check FAILED");
}

static void chart_ladder(struct svg *s, const json_t *doc)
{
    const json_t *section = json_object_get(doc, "ladder"),
                 *rows = json_object_get(section, "rows");
    size_t i, n = 0;
    json_t *row;
    double most = 0, before = 0;
    json_array_foreach(rows, i, row) if (strcmp(text_at(row, "status"), "ok") == 0)
    {
        n++;
        most = fmax(most, number_at(row, "p50_ms", 0));
    }
    if (n == 0) {
        chart_reason(s, "Ladder of optimisations", text_at(section, "reason"));
        return;
    }
    int height = 140 + (int)n * 30;
    char under[300];
    snprintf(under, sizeof under, "%s, each rung on top of those above it; %s",
             text_at(section, "workload"), chart_device(doc));
    svg_begin(s, 860, height, "Ladder of optimisations", under);
    /* Room on the right for the longest label. */
    struct axis x = axis_linear(most * 1.02, 200, 620, "ms, median of one call");
    svg_axis_x(s, &x, 66, height - 52);
    double y = 76;
    json_array_foreach(rows, i, row)
    {
        if (strcmp(text_at(row, "status"), "ok") != 0)
            continue;
        svg_text(s, 190, y + 15, "end", 12, SVG_INK, "%s", text_at(row, "name"));
        ladder_row(s, &x, row, before, y);
        before = number_at(row, "p50_ms", 0);
        y += 30;
    }
    svg_end(s);
}

/* ---------------------------------------------------------------- breakdown */

static void chart_breakdown(struct svg *s, const json_t *doc)
{
    const json_t *section = json_object_get(doc, "breakdown");
    const json_t *rows = json_object_get(section, "categories");
    size_t i, n = json_array_size(rows);
    json_t *row;
    double most = 0;
    char label[32], under[300];
    if (n == 0) {
        chart_reason(s, "Where the time goes", text_at(section, "reason"));
        return;
    }
    json_array_foreach(rows, i, row) most = fmax(most, number_at(row, "ms", 0));
    int height = 134 + (int)n * 30;
    snprintf(under, sizeof under, "%s, %s; %s", text_at(section, "workload"),
             text_at(section, "source"), chart_device(doc));
    svg_begin(s, 860, height, "Where the time of one call goes", under);
    struct axis x = axis_linear(most * 1.02, 200, 660, "ms of one call");
    svg_axis_x(s, &x, 66, height - 52);
    json_array_foreach(rows, i, row)
    {
        double ms = number_at(row, "ms", 0), y = 76 + (double)i * 30, x1 = axis_at(&x, ms);
        double floor = number_at(row, "floor_percent", NAN);
        svg_text(s, 190, y + 15, "end", 12, SVG_INK, "%s", text_at(row, "category"));
        svg_rect(s, 200, y, x1 - 200, 20,
                 strcmp(text_at(row, "category"), "gaps") ? SVG_BLUE : "#999999", "");
        if (isfinite(floor))
            svg_line(s, axis_at(&x, ms * floor / 100), y - 2, axis_at(&x, ms * floor / 100), y + 22,
                     SVG_VERMILION, 2.5, "");
        chart_ms(label, ms);
        svg_text(s, x1 + 6, y + 15, "start", 12, SVG_INK, "%s ms, %.1f %%", label,
                 number_at(row, "share_percent", 0));
    }
    svg_line(s, 690, height - 30, 690, height - 16, SVG_VERMILION, 2.5, "");
    svg_text(s, 698, height - 18, "start", 12, SVG_INK, "floor, where known");
    svg_end(s);
}

/* ---------------------------------------------------------------- all of them */

bool report_chart(const json_t *doc, int i, const char **name, char **text)
{
    static const struct {
        const char *name;
        void (*draw)(struct svg *s, const json_t *doc);
    } charts[] = {
        { "stages.svg", chart_stages },     { "batch.svg", chart_batch },
        { "power.svg", chart_power },       { "load.svg", chart_load },
        { "ladder.svg", chart_ladder },     { "breakdown.svg", chart_breakdown },
        { "roofline.svg", chart_roofline },
    };
    struct svg s = { 0 };
    if (i < 0 || (size_t)i >= sizeof charts / sizeof charts[0])
        return false;
    charts[i].draw(&s, doc);
    if (s.failed) {
        free(s.text);
        s.text = NULL;
    }
    *name = charts[i].name;
    *text = s.text;
    return true;
}
