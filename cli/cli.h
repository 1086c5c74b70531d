/* SPDX-License-Identifier: Apache-2.0
 * cli: what the files of the command share: the options, the terminal, array files, and the open
 * model. Of the project's headers only pi0.h is known here: the command is a user of the library
 * like any other.
 *
 * Exit codes: 0 done; 1 `pi0 check` found a stage above its tolerance; 2 bad usage or input, with
 * one line on stderr that says what was found and what was expected. Results go to stdout,
 * everything else to stderr. */
#ifndef PI0_CLI_H
#define PI0_CLI_H

#include "pi0.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#define EXIT_DONE 0
#define EXIT_DIFFERS 1
#define EXIT_BAD 2

/* ---------------------------------------------------------------- options */

enum command {
    CMD_RUN = 1,
    CMD_CHECK = 2,
    CMD_INSPECT = 4,
    CMD_BENCH = 8,
    CMD_SYNTH = 16,
    CMD_ALL = 31
};

#define MAX_IMAGES 16
#define MAX_BATCHES 16
#define MAX_WORKLOADS 16
#define MAX_SETS 32
#define MAX_TOKENS 4096

struct image_arg {
    char name[64];
    const char *path;
};

/* Every option of every command. Strings point into argv. A zero means "not given" unless the line
 * says otherwise. */
struct args {
    const char *model, *synthetic, *preset, *io, *case_dir;
    uint64_t seed;
    const char *tokenizer, *norm_stats, *default_prompt, *robot;
    int no_stats;
    struct image_arg images[MAX_IMAGES];
    int n_images;
    const char *state, *prompt, *prompt_file, *noise;
    int32_t tokens[MAX_TOKENS];
    int n_tokens; /* -1: not given */
    int steps, horizon;
    const char *backend;
    int precision, masked_cameras; /* index into the choices, which are the enums' order */
    uint32_t isa;                  /* PI0_ISA_ALL when not given */
    int threads, device;
    const char *output;
    int format; /* 0 by the file's name, else enum file_format */
    double tolerance, min_cosine;
    const char *workloads[MAX_WORKLOADS];
    int n_workloads;
    int n, warmup; /* warmup: -1 when not given */
    int batches[MAX_BATCHES];
    int n_batches;
    const char *append;
    const char *report, *compare, *compare_with, *sections;
    int kernels, blocks;
    double load_seconds, block_seconds, peak_flops, peak_bytes;
    const char *command_line; /* as typed, shortened */
    const char *dims;
    const char *sets[MAX_SETS];
    int n_sets;
    int force, no_engine, json, quiet, help;
};

/* Reads argv[1…] of one command into *out. EXIT_DONE or EXIT_BAD; the message has been printed. */
int args_parse(struct args *out, enum command command, int argc, char **argv);
/* Prints the options that `command` takes, for its help page. */
void args_print_options(FILE *f, enum command command);
/* Name of the candidate nearest to `word`, or NULL when none is near. `names` ends with NULL. */
const char *nearest_name(const char *word, const char *const *names);
/* The whole of `text` as a number in [lo, hi]; false for anything else. */
bool parse_int(const char *text, long lo, long hi, long *out);
bool parse_double(const char *text, double *out);

/* ---------------------------------------------------------------- terminal (term.c) */

enum colour { PLAIN, BOLD, DIM, RED, GREEN, YELLOW, CYAN, BLUE };

/* Looks at stdout, stderr, NO_COLOR, TERM and the locale once, at start. */
void term_init(bool quiet);
bool term_is_tty(void); /* stdout is a terminal: plots and shortened tables */
bool term_utf8(void);   /* the locale can show block characters */
int term_width(void);   /* columns of stdout; 80 when it is not a terminal */
/* The escape sequence that starts a colour on stdout; PLAIN ends it. "" where colour is off. */
const char *ink(enum colour c);

/* Prints "pi0: <message>" on stderr, control characters replaced, and returns EXIT_BAD. */
int fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same for a failure of the library. */
int fail_library(const struct pi0_error *err);
/* The analyzer sees one file at a time: this tells it what comes back. */
#ifdef __clang_analyzer__
#define fail(...) ((void)(fail)(__VA_ARGS__), EXIT_BAD)
#define fail_library(err) ((void)(fail_library)(err), EXIT_BAD)
#endif
/* A line on stderr unless --quiet. */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* pi0_progress_fn: a bar on stderr where that is a terminal. Returns non-zero once the user has
 * pressed Ctrl-C. */
int term_progress(void *user, const char *what, uint64_t done, uint64_t total);
/* The bar in units other than bytes. */
void term_bar(const char *what, uint64_t done, uint64_t total, const char *extra);
/* A word in place of the bar, while nothing reports how far it is. */
void term_status(const char *what);
void term_bar_clear(void);
/* pi0_log_fn: warnings go to stderr. */
void term_log(void *user, int level, const char *line);

/* `width` cells of a horizontal bar filled to `fraction`. */
void print_bar(FILE *f, double fraction, int width);
/* One block character a value, scaled to lo…hi. `n` values into `width` cells by their mean. */
void print_sparkline(FILE *f, const double *v, size_t n, size_t stride, double lo, double hi,
                     int width);
/* "6.98 GB", "3.24 G": decimal prefixes, three digits. buf holds 32 bytes; returned. */
const char *human(char buf[32], double value, const char *unit);

/* ---------------------------------------------------------------- signals (main.c) */

/* From here to interrupts_poll_end() Ctrl-C only sets a flag: the library is told through its
 * progress callback and cleans up. Elsewhere Ctrl-C removes the temporary file and ends. */
void interrupts_poll_begin(void);
void interrupts_poll_end(void);
bool interrupted(void);
/* The file to be removed when the command is ended; NULL for none. */
void interrupts_guard(const char *temporary);
/* Ends the process as the signal would have. */
int end_interrupted(void);

/* ---------------------------------------------------------------- array files (files.c) */

#define ARRAY_MAX_DIMS 8
struct array {
    double *v; /* row-major, [n]; the owner frees it with array_free */
    size_t n;
    int n_dims;
    size_t shape[ARRAY_MAX_DIMS];
};

/* Reads a .npy (float32 or float64), .json (nested arrays, or an object with `key`) or .csv file.
 * `what` names the option in messages. EXIT_DONE or EXIT_BAD. */
int array_load(struct array *out, const char *what, const char *path, const char *key);
/* A list "0.1,-2,3e-1", or a file as above when the text ends in .npy, .json or .csv. */
int array_parse(struct array *out, const char *what, const char *text, const char *key);
void array_free(struct array *a);
/* "[50, 32]" */
const char *shape_text(char *buf, size_t bytes, const size_t *shape, int n_dims);

/* The whole of a file, at most `limit` bytes, with a NUL behind it; the caller frees *out. */
int slurp(char **out, size_t *n, const char *what, const char *path, size_t limit);

enum file_format { FORMAT_JSON = 1, FORMAT_CSV, FORMAT_NPY };
/* By the name's ending; 0 when it is none of them. */
enum file_format format_of_path(const char *path);
/* Fails early where `path` cannot be written later; `what` is the option that names it. */
int output_check(const char *what, const char *path);
/* Writes rows × columns as `format`: JSON writes `document`, the others `values`. The file appears
 * whole, under its own name, or not at all; "-" is stdout. */
int output_write(const char *path, enum file_format format, const json_t *document,
                 const double *values, int rows, int columns);
/* Prints a document on stdout with a newline. Real numbers keep 17 digits. */
int print_json(const json_t *document, bool pretty);
/* A JSON number, or null for one that is not finite; rounded to `digits` significant digits. */
json_t *json_number(double value, int digits);
/* A seed as a JSON integer; as a string where it is past the integers of a JSON reader. */
json_t *json_seed(uint64_t seed);

/* ---------------------------------------------------------------- model (session.c) */

struct session {
    pi0_model *model;
    pi0_engine *engine;
    pi0_policy *policy;
    struct pi0_engine_info engine_info;
};

/* --model or --synthetic. */
int session_open_model(struct session *s, const struct args *a);
/* The options' part of an engine configuration: backend, precision, instruction sets, threads,
 * device, masked cameras, horizon, progress, log. */
void session_config(struct pi0_engine_config *cfg, const struct args *a);
int session_open_engine(struct session *s, const struct pi0_engine_config *cfg);
int session_open_policy(struct session *s, const struct args *a);
void session_close(struct session *s);
const char *variant_name(enum pi0_variant v);
const char *precision_name(enum pi0_precision p);
double now_ms(void);
/* Dimension i of pi0_dims by name, in the order of the struct: i from 0 to N_DIMS − 1. */
#define N_DIMS 19
const char *dim_name(int i);
int *dim_at(struct pi0_dims *d, int i);

/* ---------------------------------------------------------------- commands */

int cmd_run(const struct args *a);
int cmd_check(const struct args *a);
int cmd_inspect(const struct args *a);
int cmd_bench(const struct args *a);
int cmd_synth(const struct args *a);

/* Limits that an engine needs for a golden file, from its header; *n_steps is kept when above 0. */
int check_limits(const char *io, int *n_steps, int *horizon, int *max_token_len);

struct workload {
    const char *name;
    const char *dims; /* pi0_dims_named */
    const char *about;
    int n_cameras, n_valid_cameras; /* slots; the first valid ones are there */
    enum pi0_masked_cameras masked;
    int n_tokens, max_token_len; /* valid prompt tokens; engine's limit */
    int horizon;
};
/* Workload i of `pi0 bench`, NULL past the last. */
const struct workload *workload_at(int i);
const struct workload *workload_named(const char *name);
/* The workloads that the options ask for, at most `max`; tiny when none. Returns their count. */
int workload_list(const struct args *a, const struct workload **out, int max);
/* `pi0 bench --report DIR` and `pi0 bench --compare A.json B.json`. */
int cmd_report(const struct args *a);
int cmd_compare(const struct args *a);

void help_main(FILE *f);
void help_command(FILE *f, enum command command);

#endif
