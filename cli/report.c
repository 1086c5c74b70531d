/* SPDX-License-Identifier: Apache-2.0
 * report: `pi0 bench --report DIR`: the order of work, the document's head, the ceilings, and the
 * files that come of it. */
#include "report.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#ifndef PI0_COMMIT
#define PI0_COMMIT "unknown"
#endif

double number_at(const json_t *o, const char *key, double missing)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : missing;
}

const char *text_at(const json_t *o, const char *key)
{
    const char *t = json_string_value(json_object_get(o, key));
    return t ? t : "";
}

json_t *report_reason(const char *format, ...)
{
    char line[600];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    json_t *o = json_object();
    json_object_set_new(o, "reason", json_string(line));
    return o;
}

/* ---------------------------------------------------------------- progress */

void report_task(struct report *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(r->task, sizeof r->task, format, args);
    va_end(args);
}

void report_bar(const struct report *r, double fraction, const char *extra)
{
    char text[120];
    double done = (r->unit + fraction) / (r->n_units > 0 ? r->n_units : 1);
    snprintf(text, sizeof text, "%.40s %.50s", r->task, extra);
    term_bar("report", (uint64_t)(done * 1e4), 10000, text);
}

/* ---------------------------------------------------------------- ceilings */

/* Dense bf16 with float32 sums, and memory, from the makers' data sheets. The first name that the
 * device's begins with counts. */
static const struct {
    const char *device;
    double flops, bytes;
} known[] = {
    { "NVIDIA H200", 989.5e12, 4.8e12 },
    { "NVIDIA H100 PCIe", 756e12, 2.0e12 },
    { "NVIDIA H100 80GB HBM3", 989.5e12, 3.35e12 },
    { "NVIDIA B200", 2250e12, 8.0e12 },
    { "NVIDIA A100-SXM4-80GB", 312e12, 2.039e12 },
    { "NVIDIA A100-SXM4-40GB", 312e12, 1.555e12 },
    { "NVIDIA L40S", 362e12, 0.864e12 },
    { "NVIDIA GeForce RTX 4090", 165.2e12, 1.008e12 },
};

#define STREAM_BYTES ((size_t)256 << 20)

/* Bytes a second of one thread that reads memory past every cache: the best of a few passes. More
 * threads may reach more: the source says what was measured. */
static double measure_reading(void)
{
    size_t n = STREAM_BYTES / sizeof(uint64_t);
    uint64_t *v = malloc(STREAM_BYTES), sum = 0;
    double best = 0;
    if (!v)
        return 0;
    for (size_t i = 0; i < n; i++)
        v[i] = i;
    for (int pass = 0; pass < 5; pass++) {
        double start = now_ms();
        uint64_t s[8] = { 0 };
        for (size_t i = 0; i + 8 <= n; i += 8)
            for (size_t k = 0; k < 8; k++)
                s[k] += v[i + k];
        double rate = (double)STREAM_BYTES / ((now_ms() - start) / 1e3);
        for (size_t k = 0; k < 8; k++)
            sum += s[k];
        best = rate > best ? rate : best;
    }
    free(v);
    return sum ? best : 0;
}

/* Floating-point operations a core can start in a cycle, by what the kernels use: two fused
 * multiply-adds a cycle in the vector's width; bf16 dot products do twice a float32's, AMX tiles
 * 16·16·32·2 in 16 cycles. */
static double flops_per_cycle(const char *isa)
{
    return strstr(isa, "amx")           ? 1024
           : strstr(isa, "avx512_bf16") ? 128
           : strstr(isa, "avx512")      ? 64
           : strstr(isa, "avx2")        ? 32
                                        : 4;
}

void ceilings_find(struct ceilings *c, const struct args *a, const struct pi0_engine_info *e,
                   double clock_mhz)
{
    char flops_from[120] = "", bytes_from[120] = "";
    for (size_t i = 0; i < sizeof known / sizeof known[0] && !c->flops; i++)
        if (strncmp(e->device, known[i].device, strlen(known[i].device)) == 0) {
            c->flops = known[i].flops;
            c->bytes = known[i].bytes;
            snprintf(flops_from, sizeof flops_from, "data sheet, dense bf16");
            snprintf(bytes_from, sizeof bytes_from, "data sheet");
        }
    if (!c->flops && strcmp(e->backend, "cpu") == 0) {
        c->bytes = measure_reading();
        snprintf(bytes_from, sizeof bytes_from, "measured, one thread reading");
        if (isfinite(clock_mhz)) {
            c->flops = flops_per_cycle(e->isa) * clock_mhz * 1e6 * e->n_threads;
            snprintf(flops_from, sizeof flops_from, "%d threads × %.0f MHz × %.0f a cycle (%s)",
                     e->n_threads, clock_mhz, flops_per_cycle(e->isa), e->isa);
        }
    }
    if (a->peak_flops > 0) {
        c->flops = a->peak_flops;
        snprintf(flops_from, sizeof flops_from, "given");
    }
    if (a->peak_bytes > 0) {
        c->bytes = a->peak_bytes;
        snprintf(bytes_from, sizeof bytes_from, "given");
    }
    snprintf(c->source, sizeof c->source, "arithmetic: %s; memory: %s",
             flops_from[0] ? flops_from : "not known (--peak-flops gives it)",
             bytes_from[0] ? bytes_from : "not known (--peak-bytes gives it)");
}

double ceilings_floor_ms(const struct ceilings *c, double flops, double bytes)
{
    if (!(c->flops > 0) || !(c->bytes > 0) || !(flops + bytes > 0))
        return 0;
    return fmax(flops / c->flops, bytes / c->bytes) * 1e3;
}

json_t *ceilings_json(const struct ceilings *c)
{
    json_t *o = json_object();
    json_object_set_new(o, "flops_per_s", c->flops > 0 ? json_number(c->flops, 6) : json_null());
    json_object_set_new(o, "bytes_per_s", c->bytes > 0 ? json_number(c->bytes, 6) : json_null());
    json_object_set_new(o, "source", json_string(c->source));
    return o;
}

/* ---------------------------------------------------------------- the document */

static json_t *machine_json(const struct session *s, const struct power *power)
{
    const struct pi0_engine_info *e = &s->engine_info;
    struct utsname u;
    json_t *o = json_object();
    json_object_set_new(o, "device", json_string(e->device));
    json_object_set_new(o, "backend", json_string(e->backend));
    json_object_set_new(o, "isa", json_string(e->isa));
    json_object_set_new(o, "precision", json_string(precision_name(e->precision)));
    json_object_set_new(o, "threads", json_integer(e->n_threads));
    json_object_set_new(o, "processors", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    if (uname(&u) == 0)
        json_object_set_new(o, "system", json_sprintf("%s %s %s", u.sysname, u.release, u.machine));
    json_object_update_new(o, power_facts(power));
    return o;
}

static json_t *settings_json(const struct report *r)
{
    json_t *o = json_object();
    json_object_set_new(o, "steps", json_integer(r->steps));
    json_object_set_new(o, "blocks", json_integer(r->blocks));
    json_object_set_new(o, "warmup", json_integer(r->warmup));
    json_object_set_new(o, "load_seconds", json_number(r->load_seconds, 4));
    json_object_set_new(o, "weights",
                        r->a->model
                            ? json_string(r->a->model)
                            : json_sprintf("synthetic, seed %llu", (unsigned long long)r->a->seed));
    return o;
}

static json_t *head_json(const struct report *r)
{
    char date[32];
    time_t now = time(NULL);
    struct tm utc;
    json_t *o = json_object();
    gmtime_r(&now, &utc);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", &utc);
    json_object_set_new(o, "format", json_string("pi0-report"));
    json_object_set_new(o, "version", json_integer(REPORT_VERSION));
    json_object_set_new(o, "date", json_string(date));
    json_object_set_new(o, "commit", json_string(PI0_COMMIT));
    json_object_set_new(o, "pi0", json_string(pi0_version()));
    json_object_set_new(o, "command", json_string(r->a->command_line));
    json_object_set_new(o, "settings", settings_json(r));
    return o;
}

static int sections_parse(unsigned *out, const char *list)
{
    static const char *const names[] = {
        "headline", "batch", "power", "ladder", "breakdown", NULL
    };
    *out = 0;
    for (const char *p = list; p;) {
        size_t n = strcspn(p, ",");
        int i = 0;
        while (names[i] && !(strlen(names[i]) == n && strncmp(names[i], p, n) == 0))
            i++;
        if (!names[i])
            return fail("--sections: found \"%.*s\"; expected a list of headline, batch, power, "
                        "ladder, breakdown",
                        (int)(n > 40 ? 40 : n), p);
        *out |= 1u << i;
        p = p[n] ? p + n + 1 : NULL;
    }
    return EXIT_DONE;
}

static int report_settings(struct report *r, const struct args *a)
{
    *r = (struct report){ .a = a, .sections = SECTION_ALL };
    r->steps = a->steps ? a->steps : 10;
    r->blocks = a->blocks ? a->blocks : 5;
    r->warmup = a->warmup >= 0 ? a->warmup : 3;
    r->load_seconds = a->load_seconds > 0 ? a->load_seconds : 2;
    r->n_list = workload_list(a, r->list, MAX_WORKLOADS);
    if (a->sections)
        return sections_parse(&r->sections, a->sections);
    return EXIT_DONE;
}

/* ---------------------------------------------------------------- files */

static int write_file(const char *dir, const char *name, const char *text)
{
    char path[4096], temporary[4120];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return fail("--report: a path of %zu bytes", strlen(dir));
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    interrupts_guard(temporary);
    FILE *f = fopen(temporary, "w");
    bool ok = f && fputs(text, f) >= 0;
    if (f && fclose(f))
        ok = false;
    if (ok && rename(temporary, path))
        ok = false;
    int why = errno;
    if (!ok)
        (void)unlink(temporary);
    interrupts_guard(NULL);
    return ok ? EXIT_DONE : fail("--report %s: cannot be written: %s", path, strerror(why));
}

static int write_json(const char *dir, const char *name, const json_t *doc, size_t flags)
{
    char *text = json_dumps(doc, flags | JSON_REAL_PRECISION(15));
    if (!text)
        return fail("no memory for %s", name);
    int code = write_file(dir, name, text);
    free(text);
    return code;
}

static int write_report(const char *dir, const json_t *doc, const json_t *chrome)
{
    const char *name;
    char *text = NULL;
    int code = write_json(dir, "report.json", doc, JSON_INDENT(1));
    if (!code && chrome)
        code = write_json(dir, "trace.json", chrome, JSON_COMPACT);
    if (!code) {
        text = report_markdown(doc);
        code = text ? write_file(dir, "report.md", text) : fail("no memory for report.md");
        free(text);
    }
    for (int i = 0; !code && report_chart(doc, i, &name, &text); i++) {
        code = text ? write_file(dir, name, text) : fail("no memory for %s", name);
        free(text);
        text = NULL;
    }
    return code;
}

void report_tick(struct report *r)
{
    if (r->unit < r->n_units)
        r->unit++;
    (void)write_json(r->a->report, "report.json", r->doc, JSON_INDENT(1));
    report_bar(r, 0, "");
}

void report_partial(struct report *r, const char *name, json_t *section)
{
    json_object_set(r->doc, name, section);
}

/* The folder is made before anything is measured. */
static int make_folder(const char *dir)
{
    struct stat st;
    if (mkdir(dir, 0777) && errno != EEXIST)
        return fail("--report %s: cannot be made: %s", dir, strerror(errno));
    if (stat(dir, &st) || !S_ISDIR(st.st_mode))
        return fail("--report %s: is not a folder", dir);
    if (access(dir, W_OK))
        return fail("--report %s: cannot be written: %s", dir, strerror(errno));
    return EXIT_DONE;
}

/* ---------------------------------------------------------------- the command */

static void count_units(struct report *r)
{
    r->n_units = (r->sections & SECTION_HEADLINE ? r->n_list : 0) +
                 (r->sections & SECTION_BATCH ? (r->a->n_batches ? r->a->n_batches : 8) : 0) +
                 (r->sections & SECTION_POWER ? 6 : 0) + (r->sections & SECTION_LADDER ? 14 : 0) +
                 (r->sections & SECTION_BREAKDOWN ? 1 : 0);
}

static int set_section(json_t *doc, const char *name, json_t *section)
{
    if (!section)
        return EXIT_BAD;
    json_object_set_new(doc, name, section);
    return EXIT_DONE;
}

static int measure_all(struct report *r, struct session *first, struct power *power, json_t *doc,
                       json_t **chrome)
{
    static const char *const names[] = { "headline", "batch", "power", "ladder", "breakdown" };
    json_t *no = report_reason("not asked for");
    unsigned on = r->sections;
    int code = EXIT_DONE;
    for (int i = 0; i < 5; i++)
        json_object_set_new(doc, names[i],
                            on >> i & 1u ? report_reason("the run ended before this section")
                                         : json_incref(no));
    if (on & SECTION_HEADLINE)
        code = set_section(doc, "headline", report_headline(r, first, power));
    session_close(first);
    if (!code && on & SECTION_BATCH)
        code = set_section(doc, "batch", report_batch(r, power));
    if (!code && on & SECTION_POWER)
        code = set_section(doc, "power", report_power(r, power));
    if (!code && on & SECTION_LADDER)
        code = set_section(doc, "ladder", report_ladder(r));
    if (!code && on & SECTION_BREAKDOWN)
        code = set_section(doc, "breakdown", report_breakdown(r, chrome));
    json_decref(no);
    return code;
}

int cmd_report(const struct args *a)
{
    struct report r;
    struct session s = { 0 };
    struct pi0_error err = { 0 };
    struct power *power = NULL;
    json_t *doc = NULL, *chrome = NULL;
    int code = report_settings(&r, a);
    if (code || (code = make_folder(a->report)))
        return code;
    count_units(&r);
    if (report_open(&r, &s, r.list[0], 1, NULL, &err)) {
        session_close(&s);
        return fail_library(&err);
    }
    r.on_gpu = strcmp(s.engine_info.backend, "cuda") == 0;
    power = power_open(r.on_gpu, a->device, s.engine_info.device);
    doc = head_json(&r);
    if (!power || !doc) {
        code = fail("no memory for the report");
    } else {
        struct power_window w;
        struct power_reading now;
        power_begin(power, &w);
        struct timespec pause = { .tv_nsec = 150000000 }; /* one sample at least */
        nanosleep(&pause, NULL);
        power_end(power, &w, &now);
        r.doc = doc;
        ceilings_find(&r.peak, a, &s.engine_info, now.clock_max);
        json_object_set_new(doc, "machine", machine_json(&s, power));
        json_object_set_new(doc, "ceilings", ceilings_json(&r.peak));
        code = measure_all(&r, &s, power, doc, &chrome);
    }
    session_close(&s);
    power_close(power);
    term_bar_clear();
    if (!code)
        code = write_report(a->report, doc, chrome);
    if (!code && a->json)
        code = print_json(doc, true);
    else if (!code)
        printf("%s/report.md\n", a->report);
    json_decref(doc);
    json_decref(chrome);
    return code;
}

static int load_report(json_t **out, const char *path)
{
    char *text = NULL;
    size_t n = 0;
    json_error_t e;
    int code = slurp(&text, &n, "--compare", path, (size_t)64 << 20);
    if (code)
        return code;
    json_t *doc = json_loadb(text, n, JSON_REJECT_DUPLICATES, &e);
    free(text);
    if (!doc)
        return fail("--compare %s: line %d: %s", path, e.line, e.text);
    if (strcmp(text_at(doc, "format"), "pi0-report") != 0 ||
        number_at(doc, "version", 0) != REPORT_VERSION) {
        json_decref(doc);
        return fail("--compare %s: expected \"format\": \"pi0-report\", \"version\": %d", path,
                    REPORT_VERSION);
    }
    *out = doc;
    return EXIT_DONE;
}

int cmd_compare(const struct args *a)
{
    json_t *one = NULL, *two = NULL;
    char *text = NULL;
    if (!a->compare_with)
        return fail("--compare: expected two files, A.json B.json");
    int code = load_report(&one, a->compare);
    if (!code)
        code = load_report(&two, a->compare_with);
    if (!code && !(text = report_compare(one, two, a->compare, a->compare_with)))
        code = fail("no memory to compare");
    if (!code && a->report && !(code = make_folder(a->report)))
        code = write_file(a->report, "compare.md", text);
    if (!code)
        fputs(text, stdout);
    free(text);
    json_decref(one);
    json_decref(two);
    return code;
}
