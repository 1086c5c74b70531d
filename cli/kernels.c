/* SPDX-License-Identifier: Apache-2.0
 * kernels: `pi0 bench --kernels`: every kernel of one call by itself, op by op: what the engine runs,
 * the vendor library's plain product of the same shape, and the floor. The library's product has no
 * epilogue: the table says what ours does besides. Everything is made from the row's JSON. */
#include "bench.h"
#include "power.h"

#include <math.h>
#include <string.h>

static json_t *kernel_json(const struct pi0_kernel_time *k)
{
    double s = k->us / 1e6;
    json_t *o = json_object();
    json_object_set_new(o, "op", json_string(k->op));
    json_object_set_new(o, "kernel", json_string(k->kernel));
    json_object_set_new(o, "also", json_string(k->also));
    json_object_set_new(o, "count", json_integer(k->count));
    json_object_set_new(o, "m", json_integer(k->m));
    json_object_set_new(o, "n", json_integer(k->n));
    json_object_set_new(o, "k", json_integer(k->k));
    json_object_set_new(o, "us", json_number(k->us, 5));
    json_object_set_new(o, "min_us", json_number(k->us_min, 5));
    json_object_set_new(o, "library", k->library[0] ? json_string(k->library) : json_null());
    json_object_set_new(o, "library_us",
                        k->library_us > 0 ? json_number(k->library_us, 5) : json_null());
    json_object_set_new(o, "flops", json_number(k->flops, 8));
    json_object_set_new(o, "bytes", json_number(k->bytes, 8));
    json_object_set_new(o, "flops_per_s", s > 0 ? json_number(k->flops / s, 5) : json_null());
    json_object_set_new(o, "bytes_per_s", s > 0 ? json_number(k->bytes / s, 5) : json_null());
    return o;
}

int bench_kernels(const struct session *s, const struct workload *w, struct inputs *p, int batch,
                  int steps, const struct args *a, json_t **row)
{
    struct pi0_error err = { 0 };
    struct pi0_kernel_time k;
    char what[64];
    double times[N_TIMES];
    int warmup = a->warmup >= 1 ? a->warmup : 3, code = EXIT_DONE;
    json_t *list = json_array();
    snprintf(what, sizeof what, "%s ×%d", w->name, batch);
    for (int i = 0; !code && i < warmup; i++)
        if (infer_timed(s, p, batch, steps, i, times, &err))
            code = fail_library(&err);
    for (int i = 0; !code; i++) {
        term_bar(what, (uint64_t)i, 24, "kernels");
        if (pi0_engine_time_kernel(s->engine, i, &k, &err))
            code = fail_library(&err);
        if (code || !k.op[0])
            break;
        if (k.count > 0)
            json_array_append_new(list, kernel_json(&k));
    }
    term_bar_clear();
    if (code) {
        json_decref(list);
        return code;
    }
    *row = bench_row_head(s, w, batch, steps);
    json_object_set_new(*row, "call_ms", json_number(times[WHOLE], 6));
    json_object_set_new(*row, "kernels", list);
    return EXIT_DONE;
}

void kernels_finish(json_t *row, const struct session *s, const struct args *a,
                    const struct power *power, const struct power_reading *seen)
{
    struct ceilings peak = { 0 };
    size_t i;
    json_t *k;
    ceilings_find(&peak, a, &s->engine_info, seen->clock_max);
    json_object_set_new(row, "precision", json_string(precision_name(s->engine_info.precision)));
    json_object_set_new(row, "isa", json_string(s->engine_info.isa));
    json_object_update_new(row, power_facts(power));
    json_object_set_new(row, "conditions", power_conditions(power, seen));
    json_object_set_new(row, "ceilings", ceilings_json(&peak));
    json_array_foreach(json_object_get(row, "kernels"), i, k)
    {
        double us = json_number_value(json_object_get(k, "us"));
        double floor =
            1e3 * ceilings_floor_ms(&peak, json_number_value(json_object_get(k, "flops")),
                                    json_number_value(json_object_get(k, "bytes")));
        json_object_set_new(k, "floor_us", floor > 0 ? json_number(floor, 5) : json_null());
        json_object_set_new(k, "floor_percent",
                            floor > 0 ? json_number(floor / us * 100, 4) : json_null());
    }
}

/* ---------------------------------------------------------------- the table */

/* A number, or a dash, right-aligned in `width` columns. */
static void print_number(const json_t *o, const char *key, int width, int digits)
{
    const json_t *v = json_object_get(o, key);
    if (json_is_number(v))
        printf(" %*.*f", width, digits, json_number_value(v));
    else
        printf(" %*s", width, "-");
}

static void print_rate(const json_t *o, const char *key, int width)
{
    char buf[32];
    double v = json_number_value(json_object_get(o, key));
    printf(" %*s", width, v > 0 ? human(buf, v, "") : "-");
}

/* Columns that a text takes: characters, not bytes. */
static void print_text(const char *text, int width)
{
    int n = 0;
    for (const char *p = text; *p; p++)
        n += ((unsigned char)*p & 0xC0U) != 0x80U;
    printf("%s%*s", text, n < width ? width - n : 0, "");
}

void kernels_show(const json_t *row)
{
    size_t i;
    json_t *k;
    const json_t *c = json_object_get(row, "ceilings");
    double sum = 0;
    printf("%s%s%s · batch %d · %s · floors: %s\n", ink(BOLD),
           json_string_value(json_object_get(row, "workload")), ink(PLAIN),
           (int)json_integer_value(json_object_get(row, "batch")),
           json_string_value(json_object_get(row, "device")),
           json_string_value(json_object_get(c, "source")));
    printf("%s  %-18s %21s %5s %9s %9s %8s %8s %9s %6s  %s%s\n", ink(DIM), "op", "m x n x k",
           "times", "µs ", "library", "FLOP/s", "B/s", "floor µs ", "floor%",
           "kernel (and what it does besides)", ink(PLAIN));
    json_array_foreach(json_object_get(row, "kernels"), i, k)
    {
        char shape[64];
        int n = (int)json_integer_value(json_object_get(k, "k"));
        const char *also = json_string_value(json_object_get(k, "also"));
        snprintf(shape, sizeof shape, n ? "%d x %d x %d" : "%d x %d",
                 (int)json_integer_value(json_object_get(k, "m")),
                 (int)json_integer_value(json_object_get(k, "n")), n);
        printf("  ");
        print_text(json_string_value(json_object_get(k, "op")), 18);
        printf(" %21s %5d", shape, (int)json_integer_value(json_object_get(k, "count")));
        print_number(k, "us", 8, 2);
        print_number(k, "library_us", 9, 2);
        print_rate(k, "flops_per_s", 8);
        print_rate(k, "bytes_per_s", 8);
        print_number(k, "floor_us", 8, 2);
        print_number(k, "floor_percent", 6, 0);
        printf("  %s%s%s%s\n", json_string_value(json_object_get(k, "kernel")),
               also && also[0] ? " (" : "", also ? also : "", also && also[0] ? ")" : "");
        sum += json_number_value(json_object_get(k, "us")) *
               json_number_value(json_object_get(k, "count")) / 1e3;
    }
    printf("  these take %.3f ms of a call of %.3f ms\n\n", sum,
           json_number_value(json_object_get(row, "call_ms")));
}
