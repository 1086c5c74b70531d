/* SPDX-License-Identifier: Apache-2.0
 * report: what the files of `pi0 bench --report` share. The sections measure into one JSON document
 * (bench/report.schema.json); tables and pictures are made from that document alone, so that a saved
 * report and two compared ones are shown by the same code.
 *
 *   report.c          order of work, document's head, files
 *   report_calls.c    engines, repeated blocks of calls, headline, batch table
 *   report_load.c     power and efficiency against offered load
 *   report_ladder.c   each optimisation switched off, outputs checked
 *   report_trace.c    kernels and categories of the launches seen by trace.c
 *   report_table.c    report.md, --compare
 *   chart.c chart_*.c pictures */
#ifndef PI0_CLI_REPORT_H
#define PI0_CLI_REPORT_H

#include "bench.h"
#include "power.h"

#define REPORT_VERSION 1
#define MAX_BLOCKS 32

enum section {
    SECTION_HEADLINE = 1,
    SECTION_BATCH = 2,
    SECTION_POWER = 4,
    SECTION_LADDER = 8,
    SECTION_BREAKDOWN = 16,
    SECTION_ALL = 31
};

struct report {
    const struct args *a;
    const struct workload *list[MAX_WORKLOADS];
    int n_list, steps, blocks, warmup;
    unsigned sections;
    double load_seconds;
    bool on_gpu;
    struct ceilings peak;
    int unit, n_units; /* progress: whole measurements done, and in all */
    char task[64];
    json_t *doc; /* the document as far as it is; its owner is cmd_report */
};

/* What is switched off in one engine; all zero for the engine as it is. */
struct variant {
    unsigned without; /* PI0_WITHOUT_… */
    uint32_t isa_off; /* instruction sets taken away */
};

/* Percentiles of repeated blocks of calls. */
struct measured {
    int n, n_blocks; /* calls in all */
    double p50[N_TIMES], p95[N_TIMES], p99[N_TIMES], min[N_TIMES];
    double block_p50[MAX_BLOCKS]; /* of the whole call */
    struct power_reading power;
};

/* The model of a workload, unless it is open; an engine over it. Nothing is printed: *err says why. */
pi0_status report_open(const struct report *r, struct session *s, const struct workload *w,
                       int max_batch, const struct variant *v, struct pi0_error *err);
/* Closes the engine and keeps the model. */
void report_close_engine(struct session *s);
/* Warm-up, then r->blocks blocks. `power` may be NULL. */
pi0_status report_measure(struct report *r, const struct session *s, const struct workload *w,
                          int batch, struct power *power, struct measured *out,
                          struct pi0_error *err);
pi0_status report_inputs(const struct session *s, const struct workload *w, int batch,
                         struct inputs *p, struct pi0_error *err);
/* Moves the bar: `fraction` of the measurement that runs. */
void report_bar(const struct report *r, double fraction, const char *extra);
void report_task(struct report *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The measurement that ran is done: report.json is written as far as it is, so that a run that is
 * ended keeps what it had. */
void report_tick(struct report *r);
/* Shows a section that is still being measured in the document. */
void report_partial(struct report *r, const char *name, json_t *section);
/* {"reason": …}: what stands in place of a section, or a row, that was not measured. */
json_t *report_reason(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Work of one call by stage, with its floor where the ceilings are known. */
json_t *report_stages(const struct report *r, const struct measured *m,
                      const struct pi0_stage_work work[PI0_N_STAGES]);
int workload_cameras(const struct workload *w, enum pi0_masked_cameras masked);

/* Sections: each returns a new document, or NULL after a message. */
json_t *report_headline(struct report *r, struct session *first, struct power *power);
json_t *report_batch(struct report *r, struct power *power);
json_t *report_power(struct report *r, struct power *power);
json_t *report_ladder(struct report *r);
json_t *report_breakdown(struct report *r, json_t **chrome);

/* report_table.c: both return a text that the caller frees, NULL without memory. */
char *report_markdown(const json_t *doc);
char *report_compare(const json_t *a, const json_t *b, const char *name_a, const char *name_b);

/* chart.c: picture i of a document and its file name; false past the last. The caller frees *text. */
bool report_chart(const json_t *doc, int i, const char **name, char **text);

/* Numbers of a document; `missing` where there is none. */
double number_at(const json_t *o, const char *key, double missing);
const char *text_at(const json_t *o, const char *key);

#endif
