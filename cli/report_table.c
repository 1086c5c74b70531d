/* SPDX-License-Identifier: Apache-2.0
 * report_table: report.md and the comparison of two reports, from their JSON alone. */
#include "report.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------- text that grows */

struct text {
    char *at;
    size_t n, room;
    bool failed;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *t, const char *format, ...)
{
    char line[2048];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    size_t put = n < 0 ? 0 : (size_t)n < sizeof line ? (size_t)n : sizeof line - 1;
    if (t->failed)
        return;
    if (t->n + put + 1 > t->room) {
        size_t room = (t->n + put + 1) * 2;
        char *bigger = realloc(t->at, room);
        if (!bigger) {
            t->failed = true;
            return;
        }
        t->at = bigger;
        t->room = room;
    }
    memcpy(t->at + t->n, line, put);
    t->n += put;
    t->at[t->n] = '\0';
}

static char *taken(struct text *t)
{
    if (!t->failed)
        return t->at;
    free(t->at);
    return NULL;
}

/* A cell: the number with its digits, or "–". */
static void cell(struct text *t, const json_t *o, const char *key, int digits)
{
    double v = number_at(o, key, NAN);
    if (isfinite(v))
        add(t, " %.*f |", digits, v);
    else
        add(t, " – |");
}

static void cell_si(struct text *t, const json_t *o, const char *key, const char *unit)
{
    char buf[32];
    double v = number_at(o, key, NAN);
    add(t, " %s |", isfinite(v) ? human(buf, v, unit) : "–");
}

/* A reason in place of rows. */
static bool absent(struct text *t, const json_t *section)
{
    const char *why = text_at(section, "reason");
    if (why[0])
        add(t, "%s\n\n", why);
    return why[0] != '\0';
}

/* ---------------------------------------------------------------- sections */

static void head(struct text *t, const json_t *doc)
{
    const json_t *m = json_object_get(doc, "machine"), *s = json_object_get(doc, "settings");
    const json_t *c = json_object_get(doc, "ceilings");
    char flops[32], bytes[32];
    double f = number_at(c, "flops_per_s", NAN), b = number_at(c, "bytes_per_s", NAN);
    add(t, "# %s, %s\n\n", text_at(m, "device"), text_at(doc, "date"));
    add(t, "    %s\n\n", text_at(doc, "command"));
    add(t, "pi0 %s, commit %s. Backend %s, %s, %s, %.0f CPU threads", text_at(doc, "pi0"),
        text_at(doc, "commit"), text_at(m, "backend"), text_at(m, "isa"), text_at(m, "precision"),
        number_at(m, "threads", 0));
    if (text_at(m, "driver")[0])
        add(t, ", driver %s, power limit %.0f W", text_at(m, "driver"),
            number_at(m, "power_limit_w", 0));
    add(t, ". Weights: %s. %.0f denoising steps, %.0f blocks.\n\n", text_at(s, "weights"),
        number_at(s, "steps", 0), number_at(s, "blocks", 0));
    add(t, "Ceilings: %s, %s (%s).\n\n", isfinite(f) ? human(flops, f, "FLOP/s") : "unknown FLOP/s",
        isfinite(b) ? human(bytes, b, "B/s") : "unknown B/s", text_at(c, "source"));
}

static void conditions(struct text *t, const json_t *row)
{
    const json_t *c = json_object_get(row, "conditions"), *k = json_object_get(c, "clock_mhz");
    const json_t *reasons = json_object_get(c, "throttle");
    add(t, "| %s |", text_at(row, "workload"));
    cell(t, k, "min", 0);
    cell(t, k, "mean", 0);
    cell(t, k, "max", 0);
    cell(t, c, "temperature_min_c", 0);
    cell(t, c, "temperature_max_c", 0);
    add(t, " ");
    for (size_t i = 0; i < json_array_size(reasons); i++)
        add(t, "%s%s", i ? ", " : "", json_string_value(json_array_get(reasons, i)));
    add(t, "%s |", json_array_size(reasons) ? "" : "none");
    cell(t, json_object_get(row, "energy"), "mean_w", 0);
    cell(t, json_object_get(row, "energy"), "j_per_sample", 3);
    add(t, "\n");
}

static void headline(struct text *t, const json_t *rows)
{
    size_t i, k;
    json_t *row, *stage;
    add(t, "## Headline\n\n");
    if (absent(t, rows))
        return;
    add(t,
        "One sample a call, milliseconds; the spread is that of the blocks' medians.\n\n"
        "| workload | prefix tokens | horizon | calls | p50 | p95 | p99 | min | Hz | spread %% |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n");
    json_array_foreach(rows, i, row)
    {
        add(t, "| %s | %.0f | %.0f | %.0f |", text_at(row, "workload"),
            number_at(row, "prefix_tokens", 0), number_at(row, "horizon", 0),
            number_at(row, "calls", 0));
        cell(t, row, "p50_ms", 3);
        cell(t, row, "p95_ms", 3);
        cell(t, row, "p99_ms", 3);
        cell(t, row, "min_ms", 3);
        cell(t, row, "hz", 2);
        cell(t, row, "spread_percent", 2);
        add(t, "\n");
    }
    add(t, "\n![latency by stage](stages.svg)\n\n### Stages and their floor\n\n"
           "The floor is the larger of FLOP and bytes over the ceilings.\n\n"
           "| workload | stage | p50 ms | p99 ms | FLOP | bytes | FLOP/s | B/s | floor ms | bound "
           "by | floor %% |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
    json_array_foreach(rows, i, row)
    {
        json_array_foreach(json_object_get(row, "stages"), k, stage)
        {
            double floor = number_at(stage, "floor_ms", NAN);
            add(t, "| %s | %s |", text_at(row, "workload"), text_at(stage, "name"));
            cell(t, stage, "p50_ms", 3);
            cell(t, stage, "p99_ms", 3);
            cell_si(t, stage, "flops", "");
            cell_si(t, stage, "bytes", "B");
            cell_si(t, stage, "flops_per_s", "");
            cell_si(t, stage, "bytes_per_s", "B/s");
            cell(t, stage, "floor_ms", 4);
            add(t, " %s |", text_at(stage, "bound"));
            if (isfinite(floor))
                add(t, " %.0f |\n", floor / number_at(stage, "p50_ms", NAN) * 100);
            else
                add(t, " – |\n");
        }
    }
    add(t,
        "\n### Conditions during the calls\n\n| workload | MHz min | mean | max | °C min | max | "
        "throttled by | W | J per sample |\n|---|---|---|---|---|---|---|---|---|\n");
    json_array_foreach(rows, i, row) { conditions(t, row); }
    add(t, "\n");
}

static void batch(struct text *t, const json_t *section)
{
    size_t i;
    json_t *row;
    add(t, "## Batch\n\n");
    if (absent(t, section))
        return;
    add(t,
        "%s.\n\n| batch | p50 ms | p99 ms | samples/s | ms per sample | memory | J per sample | |\n"
        "|---|---|---|---|---|---|---|---|\n",
        text_at(section, "workload"));
    json_array_foreach(json_object_get(section, "rows"), i, row)
    {
        double n = number_at(row, "batch", 1), ms = number_at(row, "p50_ms", NAN);
        bool ok = strcmp(text_at(row, "status"), "ok") == 0;
        add(t, "| %.0f |", n);
        cell(t, row, "p50_ms", 3);
        cell(t, row, "p99_ms", 3);
        cell(t, row, "samples_per_s", 2);
        if (ok)
            add(t, " %.3f |", ms / n);
        else
            add(t, " – |");
        cell_si(t, row, "memory_bytes", "B");
        cell(t, row, "j_per_sample", 4);
        add(t, " %s%s%s |\n", ok ? "" : text_at(row, "status"), ok ? "" : ": ",
            text_at(row, "reason"));
    }
    add(t, "\n![throughput and latency by batch](batch.svg)\n\n");
}

static void power(struct text *t, const json_t *section)
{
    size_t i;
    json_t *row;
    const json_t *rows = json_object_get(section, "rows");
    add(t, "## Power and offered load\n\n");
    if (!rows && absent(t, section))
        return;
    add(t, "%s, one sample a call; latency counts from when a call was due. ",
        text_at(section, "workload"));
    if (text_at(section, "source")[0])
        add(t, "Energy: %s; idle with the engine open %.1f W.", text_at(section, "source"),
            number_at(section, "idle_w", NAN));
    else
        add(t, "No energy: %s.", text_at(section, "reason"));
    add(t, "\n\n| offered Hz | achieved Hz | calls | late | p50 ms | p99 ms | W | J per sample | "
           "above "
           "idle | samples per J |\n|---|---|---|---|---|---|---|---|---|---|\n");
    json_array_foreach(rows, i, row)
    {
        double hz = number_at(row, "offered_hz", NAN);
        if (isfinite(hz))
            add(t, "| %.0f |", hz);
        else
            add(t, "| back to back |");
        cell(t, row, "achieved_hz", 2);
        cell(t, row, "calls", 0);
        cell(t, row, "late", 0);
        cell(t, row, "p50_ms", 3);
        cell(t, row, "p99_ms", 3);
        cell(t, row, "mean_w", 1);
        cell(t, row, "j_per_sample", 4);
        cell(t, row, "j_per_sample_net", 4);
        cell(t, row, "samples_per_j", 4);
        add(t, "\n");
    }
    add(t, "\n![power over time](power.svg)\n\n![offered load](load.svg)\n\n");
}

static void ladder(struct text *t, const json_t *section)
{
    size_t i;
    json_t *row;
    add(t, "## Ladder\n\n");
    if (absent(t, section))
        return;
    add(t,
        "%s; each rung is added to those above it, its actions checked against a golden case.\n\n"
        "| rung | p50 ms | change ms | speed-up | actions' error | check "
        "|\n|---|---|---|---|---|---|\n",
        text_at(section, "workload"));
    json_array_foreach(json_object_get(section, "rows"), i, row)
    {
        const json_t *check = json_object_get(row, "check");
        if (strcmp(text_at(row, "status"), "ok") != 0) {
            add(t, "| %s | – | – | – | – | not measured: %s |\n", text_at(row, "name"),
                text_at(row, "reason"));
            continue;
        }
        add(t, "| %s |", text_at(row, "name"));
        cell(t, row, "p50_ms", 3);
        add(t, " %+.3f | %.2f× |", number_at(row, "delta_ms", 0), number_at(row, "speedup", 1));
        if (json_is_number(json_object_get(check, "rel_l2")))
            add(t, " %.2e | %s, %s |\n", number_at(check, "rel_l2", NAN),
                json_is_true(json_object_get(check, "pass")) ? "within tolerance" : "FAILED",
                text_at(check, "case"));
        else
            add(t, " – | not checked: %s |\n", text_at(check, "reason"));
    }
    add(t, "\n![ladder](ladder.svg)\n\n");
}

static void breakdown_rows(struct text *t, const json_t *rows, bool kernels)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        if (kernels)
            add(t, "| `%s` | %s | %s |", text_at(row, "kernel"), text_at(row, "stage"),
                text_at(row, "op")[0] ? text_at(row, "op") : text_at(row, "category"));
        else
            add(t, "| %s |", text_at(row, "category"));
        cell(t, row, "launches", 0);
        cell(t, row, "ms", 4);
        cell(t, row, "share_percent", 1);
        cell_si(t, row, "flops", "");
        cell_si(t, row, "bytes", "B");
        cell_si(t, row, "flops_per_s", "");
        cell_si(t, row, "bytes_per_s", "B/s");
        cell(t, row, "floor_percent", 0);
        add(t, "\n");
    }
    add(t, "\n");
}

static void breakdown(struct text *t, const json_t *section)
{
    const json_t *kernels = json_object_get(section, "kernels");
    add(t, "## Breakdown\n\n");
    if (!kernels && absent(t, section))
        return;
    add(t, "%s, %s%s%s; one call takes %.3f ms here.\n\n", text_at(section, "workload"),
        text_at(section, "source"), text_at(section, "reason")[0] ? ": " : "",
        text_at(section, "reason"), number_at(section, "span_ms", NAN));
    add(t, "| category | launches | ms | share %% | FLOP | bytes | FLOP/s | B/s | floor %% |\n"
           "|---|---|---|---|---|---|---|---|---|\n");
    breakdown_rows(t, json_object_get(section, "categories"), false);
    if (json_array_size(kernels)) {
        add(t, "| kernel | stage | op | launches | ms | share %% | FLOP | bytes | FLOP/s | B/s | "
               "floor %% |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
        breakdown_rows(t, kernels, true);
        add(t, "Every launch of one call: trace.json, for chrome://tracing or Perfetto.\n\n");
    }
    add(t, "![breakdown](breakdown.svg)\n\n![roofline](roofline.svg)\n");
}

char *report_markdown(const json_t *doc)
{
    struct text t = { 0 };
    head(&t, doc);
    headline(&t, json_object_get(doc, "headline"));
    batch(&t, json_object_get(doc, "batch"));
    power(&t, json_object_get(doc, "power"));
    ladder(&t, json_object_get(doc, "ladder"));
    breakdown(&t, json_object_get(doc, "breakdown"));
    return taken(&t);
}

/* ---------------------------------------------------------------- two reports */

/* The row of a list whose `key` is equal to that of `row`. */
static const json_t *partner(const json_t *rows, const json_t *row, const char *key)
{
    size_t i;
    json_t *other;
    json_array_foreach(rows, i, other) if (json_equal(json_object_get(other, key),
                                                      json_object_get(row, key))) return other;
    return NULL;
}

static void pair(struct text *t, const json_t *a, const json_t *b, const char *key, int digits)
{
    double x = number_at(a, key, NAN), y = number_at(b, key, NAN);
    cell(t, a, key, digits);
    cell(t, b, key, digits);
    if (isfinite(x) && isfinite(y) && x != 0)
        add(t, " %.3f |", y / x);
    else
        add(t, " – |");
}

/* A section's rows of both reports; false, with a line, where they are of different workloads. */
static bool same_workload(struct text *t, const json_t *a, const json_t *b, const char *section)
{
    const char *x = text_at(json_object_get(a, section), "workload");
    const char *y = text_at(json_object_get(b, section), "workload");
    if (strcmp(x, y) == 0)
        return true;
    if (x[0] && y[0])
        add(t, "Section %s: A measured %s, B %s; not compared.\n\n", section, x, y);
    return false;
}

static void compare_list(struct text *t, const json_t *a, const json_t *b, const char *title,
                         const char *key, const char *values[][2], int n)
{
    size_t i;
    json_t *row;
    if (!json_is_array(a) || !json_is_array(b))
        return;
    bool any = false;
    json_array_foreach(a, i, row) any |= partner(b, row, key) != NULL;
    if (!any) {
        add(t, "Section %s: no row is in both.\n\n", title);
        return;
    }
    add(t, "## %s\n\n| %s |", title, key);
    for (int k = 0; k < n; k++)
        add(t, " %s A | B | B/A |", values[k][1]);
    add(t, "\n|---|");
    for (int k = 0; k < n; k++)
        add(t, "---|---|---|");
    add(t, "\n");
    json_array_foreach(a, i, row)
    {
        const json_t *other = partner(b, row, key), *name = json_object_get(row, key);
        if (!other)
            continue;
        if (json_is_string(name))
            add(t, "| %s |", json_string_value(name));
        else if (json_is_number(name))
            add(t, "| %.0f |", json_number_value(name));
        else
            add(t, "| back to back |");
        for (int k = 0; k < n; k++)
            pair(t, row, other, values[k][0], 3);
        add(t, "\n");
    }
    add(t, "\n");
}

static void compare_stages(struct text *t, const json_t *a, const json_t *b)
{
    size_t i, k;
    json_t *row, *stage;
    if (!json_is_array(a) || !json_is_array(b))
        return;
    bool any = false;
    json_array_foreach(a, i, row)
    {
        const json_t *other = json_object_get(partner(b, row, "workload"), "stages");
        json_array_foreach(json_object_get(row, "stages"), k, stage)
        {
            const json_t *twin = partner(other, stage, "name");
            if (!twin)
                continue;
            if (!any)
                add(t, "## Stages\n\n| workload | stage | p50 ms A | B | B/A | floor ms A | B | "
                       "B/A |\n"
                       "|---|---|---|---|---|---|---|---|\n");
            any = true;
            add(t, "| %s | %s |", text_at(row, "workload"), text_at(stage, "name"));
            pair(t, stage, twin, "p50_ms", 3);
            pair(t, stage, twin, "floor_ms", 4);
            add(t, "\n");
        }
    }
    if (any)
        add(t, "\n");
}

static const json_t *in(const json_t *doc, const char *section, const char *list)
{
    return json_object_get(json_object_get(doc, section), list);
}

char *report_compare(const json_t *a, const json_t *b, const char *name_a, const char *name_b)
{
    static const char *latency[][2] = { { "p50_ms", "p50 ms" },
                                        { "p99_ms", "p99 ms" },
                                        { "hz", "Hz" } };
    static const char *by_batch[][2] = { { "p50_ms", "p50 ms" },
                                         { "samples_per_s", "samples/s" },
                                         { "j_per_sample", "J per sample" } };
    static const char *by_load[][2] = { { "p99_ms", "p99 ms" },
                                        { "mean_w", "W" },
                                        { "j_per_sample", "J per sample" } };
    static const char *by_rung[][2] = { { "p50_ms", "p50 ms" }, { "speedup", "speed-up" } };
    static const char *by_category[][2] = { { "ms", "ms" }, { "share_percent", "share %" } };
    struct text t = { 0 };
    const json_t *docs[] = { a, b };
    const char *names[] = { name_a, name_b };
    add(&t, "# Two reports\n\n| | file | device | backend | commit | date "
            "|\n|---|---|---|---|---|---|\n");
    for (int i = 0; i < 2; i++) {
        const json_t *m = json_object_get(docs[i], "machine");
        add(&t, "| %c | %s | %s | %s | %s | %s |\n", 'A' + i, names[i], text_at(m, "device"),
            text_at(m, "backend"), text_at(docs[i], "commit"), text_at(docs[i], "date"));
    }
    add(&t, "\n");
    for (int i = 0; i < 2; i++) {
        const char *notes = text_at(json_object_get(docs[i], "settings"), "notes");
        if (notes[0])
            add(&t, "%c: %s; %s.\n\n", 'A' + i,
                text_at(json_object_get(docs[i], "machine"), "precision"), notes);
    }
    const json_t *ha = json_object_get(a, "headline"), *hb = json_object_get(b, "headline");
    compare_list(&t, ha, hb, "Headline", "workload", latency, 3);
    compare_stages(&t, ha, hb);
    if (same_workload(&t, a, b, "batch"))
        compare_list(&t, in(a, "batch", "rows"), in(b, "batch", "rows"), "Batch", "batch", by_batch,
                     3);
    if (same_workload(&t, a, b, "power"))
        compare_list(&t, in(a, "power", "rows"), in(b, "power", "rows"), "Offered load",
                     "offered_hz", by_load, 3);
    if (same_workload(&t, a, b, "ladder"))
        compare_list(&t, in(a, "ladder", "rows"), in(b, "ladder", "rows"), "Ladder", "name",
                     by_rung, 2);
    if (same_workload(&t, a, b, "breakdown"))
        compare_list(&t, in(a, "breakdown", "categories"), in(b, "breakdown", "categories"),
                     "Categories", "category", by_category, 2);
    return taken(&t);
}
