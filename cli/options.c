/* SPDX-License-Identifier: Apache-2.0
 * options: the one table of options, the strict parser over it, and the lines that help prints of
 * it. An option that the table gives to another command is unknown here. Leaves what options mean
 * to the commands. */
#include "cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum kind {
    FLAG,    /* int, set to 1 */
    TEXT,    /* const char * */
    CHOICE,  /* int, index into choices */
    WORD,    /* const char *, one of choices */
    NUMBER,  /* int in lo…hi */
    SEED,    /* uint64_t */
    REAL,    /* double > 0 */
    ISA,     /* uint32_t mask */
    IMAGE,   /* NAME=FILE, repeated */
    IDS,     /* token ids */
    BATCHES, /* list of ints in lo…hi */
    NAMES,   /* bench workloads, a list */
    SETTING  /* NAME=VALUE, repeated */
};

struct option {
    const char *name, *value; /* value: its name in help; NULL for a flag */
    char letter;
    unsigned commands;
    enum kind kind;
    size_t offset;
    long lo, hi;
    const char *choices; /* "auto|cpu|cuda" */
    const char *group, *about;
};

#define AT(field) offsetof(struct args, field)
#define LOADS (CMD_RUN | CMD_CHECK | CMD_INSPECT | CMD_BENCH)

static const struct option options[] = {
    { "model", "DIR", 0, LOADS, TEXT, AT(model), 0, 0, NULL, "Model",
      "checkpoint directory: model.safetensors (or its index) of\n"
      "openpi-PyTorch or lerobot, config.json, pi0.json" },
    { "synthetic", "NAME", 0, LOADS, WORD, AT(synthetic), 0, 0, "pi0|pi05|pi0_tiny|pi05_tiny",
      "Model",
      "in place of --model: random weights made in memory;\n"
      "pi0, pi05, pi0_tiny or pi05_tiny" },
    { "preset", "NAME", 0, CMD_RUN | CMD_INSPECT | CMD_CHECK | CMD_BENCH, TEXT, AT(preset), 0, 0,
      NULL, "Model",
      "openpi train config whose conventions hold, such as\n"
      "pi0_libero; overrides the checkpoint's pi0.json" },
    { "case", "DIR", 0, CMD_CHECK, TEXT, AT(case_dir), 0, 0, NULL, "Model",
      "golden case: config.json (dimensions, seed, steps) and\n"
      "io.safetensors; weights from model.safetensors if there,\n"
      "else synthetic" },
    { "case", "DIR", 0, CMD_SYNTH, TEXT, AT(case_dir), 0, 0, NULL, "Model",
      "in place of --dims: dimensions and seed of a golden case's\n"
      "config.json" },
    { "io", "FILE", 0, CMD_CHECK, TEXT, AT(io), 0, 0, NULL, "Model",
      "inputs and expected outputs (safetensors), with --model" },
    { "dims", "NAME", 0, CMD_SYNTH, WORD, AT(dims), 0, 0, "pi0|pi05|pi0_tiny|pi05_tiny", "Model",
      "dimensions of a network: pi0, pi05, pi0_tiny or pi05_tiny" },
    { "set", "NAME=N", 0, CMD_SYNTH, SETTING, 0, 0, 0, NULL, "Model",
      "change one dimension of the variant (repeat): image_size,\n"
      "vision_width, vlm_width, depth, vocab_size …" },
    { "seed", "N", 0, CMD_RUN, SEED, AT(seed), 0, 0, NULL, "Model",
      "seed of the noise, and of synthetic weights (default 0)" },
    { "seed", "N", 0, (LOADS | CMD_SYNTH) & ~CMD_RUN, SEED, AT(seed), 0, 0, NULL, "Model",
      "seed of synthetic weights (default 0)" },

    { "image", "NAME=FILE", 0, CMD_RUN, IMAGE, 0, 0, 0, NULL, "Observation",
      "a camera's JPEG or PNG (repeat). NAME is a model slot\n"
      "(base_0_rgb, left_wrist_0_rgb, right_wrist_0_rgb) or the\n"
      "robot's own key (cam_high, observation/image …)" },
    { "state", "LIST|FILE", 0, CMD_RUN, TEXT, AT(state), 0, 0, NULL, "Observation",
      "robot state in its own units: 0.1,-0.2,… or a .json, .npy\n"
      "or .csv file" },
    { "prompt", "TEXT", 0, CMD_RUN, TEXT, AT(prompt), 0, 0, NULL, "Observation",
      "what the robot shall do" },
    { "prompt-file", "FILE", 0, CMD_RUN, TEXT, AT(prompt_file), 0, 0, NULL, "Observation",
      "the prompt is the content of FILE" },
    { "tokens", "IDS", 0, CMD_RUN, IDS, 0, 0, 0, NULL, "Observation",
      "token ids 2,474,… in place of a prompt; no tokenizer needed" },
    { "noise", "FILE", 0, CMD_RUN, TEXT, AT(noise), 0, 0, NULL, "Observation",
      "starting noise [horizon, action_dim]: .npy, .json or .csv" },

    { "tokenizer", "FILE", 0, CMD_RUN | CMD_INSPECT, TEXT, AT(tokenizer), 0, 0, NULL, "Robot",
      "SentencePiece model; default tokenizer.model or\n"
      "paligemma_tokenizer.model beside the checkpoint" },
    { "norm-stats", "FILE", 0, CMD_RUN | CMD_INSPECT, TEXT, AT(norm_stats), 0, 0, NULL, "Robot",
      "norm_stats.json; default the checkpoint's own" },
    { "no-stats", NULL, 0, CMD_RUN, FLAG, AT(no_stats), 0, 0, NULL, "Robot",
      "accept missing statistics: state and actions stay in the\n"
      "model's units (implied by --synthetic)" },
    { "robot", "NAME", 0, CMD_RUN | CMD_INSPECT, WORD, AT(robot), 0, 0, "libero|droid|aloha|none",
      "Robot",
      "mapping of cameras, state and actions: libero, droid,\n"
      "aloha or none; default the preset's" },
    { "default-prompt", "TEXT", 0, CMD_RUN | CMD_INSPECT, TEXT, AT(default_prompt), 0, 0, NULL,
      "Robot", "used when there is no --prompt; default the preset's" },

    { "steps", "N", 0, LOADS, NUMBER, AT(steps), 1, 1000, NULL, "Engine",
      "denoising steps (default 10, or the checkpoint's)" },
    { "horizon", "N", 0, CMD_RUN | CMD_INSPECT | CMD_BENCH, NUMBER, AT(horizon), 1, 1024, NULL,
      "Engine", "actions in a chunk (default the model's)" },
    { "backend", "NAME", 0, LOADS, WORD, AT(backend), 0, 0, "auto|cpu|cuda", "Engine",
      "auto, cpu or cuda; auto takes a usable GPU, else the CPU" },
    { "device", "N", 0, LOADS, NUMBER, AT(device), 0, 63, NULL, "Engine", "which GPU (default 0)" },
    { "threads", "N", 0, LOADS, NUMBER, AT(threads), 1, 256, NULL, "Engine",
      "CPU threads (default one a processor)" },
    { "precision", "TYPE", 0, LOADS, CHOICE, AT(precision), 0, 0, "bf16|f32", "Engine",
      "bf16 (default) or f32; f32 runs on the CPU" },
    { "isa", "LIST", 0, LOADS, ISA, 0, 0, 0, NULL, "Engine",
      "CPU instruction sets that may be used: all (default), scalar,\n"
      "avx2, avx512, avx512_bf16 or amx_bf16 (each with those\n"
      "before it), or a list of them" },
    { "masked-cameras", "HOW", 0, LOADS, CHOICE, AT(masked_cameras), 0, 0, "skip|compute", "Engine",
      "skip (default) or compute a camera that is not there;\n"
      "the actions are the same" },

    { "workload", "LIST", 0, CMD_BENCH, NAMES, 0, 0, 0, NULL, "Measurement",
      "workloads by name (default tiny); also without --workload" },
    { "batch", "LIST", 0, CMD_BENCH | CMD_INSPECT, BATCHES, 0, 1, 1024, NULL, "Measurement",
      "samples in a call, such as 1,2,4 (default 1)" },
    { "n", "N", 'n', CMD_BENCH, NUMBER, AT(n), 1, 1000000, NULL, "Measurement",
      "calls to measure (default about 10 s of them, 5 to 200)" },
    { "warmup", "N", 0, CMD_BENCH, NUMBER, AT(warmup), 0, 1000000, NULL, "Measurement",
      "calls before measuring (default 2)" },
    { "append", "FILE", 0, CMD_BENCH, TEXT, AT(append), 0, 0, NULL, "Measurement",
      "also append the JSON rows to this .jsonl file" },
    { "kernels", NULL, 0, CMD_BENCH, FLAG, AT(kernels), 0, 0, NULL, "Measurement",
      "every kernel of a call by itself: ours, the vendor\n"
      "library's plain product of the same shape, the floor" },
    { "report", "DIR", 0, CMD_BENCH, TEXT, AT(report), 0, 0, NULL, "Report",
      "write report.json, report.md and SVG charts into DIR: latency\n"
      "beside its floor, batches, power, ladder, breakdown" },
    { "sections", "LIST", 0, CMD_BENCH, TEXT, AT(sections), 0, 0, NULL, "Report",
      "of headline, batch, power, ladder, breakdown (default all)" },
    { "blocks", "N", 0, CMD_BENCH, NUMBER, AT(blocks), 1, 32, NULL, "Report",
      "times that --n calls are repeated (default 5): the spread" },
    { "block-seconds", "X", 0, CMD_BENCH, REAL, AT(block_seconds), 0, 0, NULL, "Report",
      "without --n: how long a block lasts (default 1)" },
    { "load-seconds", "X", 0, CMD_BENCH, REAL, AT(load_seconds), 0, 0, NULL, "Report",
      "how long each offered load lasts (default 2)" },
    { "peak-flops", "X", 0, CMD_BENCH, REAL, AT(peak_flops), 0, 0, NULL, "Report",
      "the device's bf16 operations a second, for the floor" },
    { "peak-bytes", "X", 0, CMD_BENCH, REAL, AT(peak_bytes), 0, 0, NULL, "Report",
      "the device's memory bytes a second, for the floor" },
    { "case", "DIR", 0, CMD_BENCH, TEXT, AT(case_dir), 0, 0, NULL, "Report",
      "golden case that checks every rung of the ladder (default\n"
      "one of tests/golden where those are there)" },
    { "compare", "A.json B.json", 0, CMD_BENCH, TEXT, AT(compare), 0, 0, NULL, "Report",
      "two reports side by side, with ratios; measures nothing" },
    { "tolerance", "X", 0, CMD_CHECK, REAL, AT(tolerance), 0, 0, NULL, "Measurement",
      "bound on the relative L2 error (default 2e-5 in f32;\n"
      "5e-3, on the actions, in bf16)" },
    { "min-cosine", "X", 0, CMD_CHECK, REAL, AT(min_cosine), 0, 0, NULL, "Measurement",
      "least cosine of the actions (default 0.9999)" },

    { "output", "FILE", 'o', CMD_RUN, TEXT, AT(output), 0, 0, NULL, "Output",
      "write the actions as .json, .csv or .npy; - is stdout" },
    { "output", "DIR", 'o', CMD_SYNTH, TEXT, AT(output), 0, 0, NULL, "Output",
      "directory to write; made if it is not there" },
    { "format", "TYPE", 0, CMD_RUN, CHOICE, AT(format), 0, 0, "auto|json|csv|npy", "Output",
      "json, csv or npy, where the name of -o does not say it" },
    { "force", NULL, 0, CMD_SYNTH, FLAG, AT(force), 0, 0, NULL, "Output",
      "replace a model.safetensors that is already there" },
    { "no-engine", NULL, 0, CMD_INSPECT, FLAG, AT(no_engine), 0, 0, NULL, "Output",
      "only what the files say: no plan, memory or kernels" },
    { "json", NULL, 0, CMD_ALL, FLAG, AT(json), 0, 0, NULL, "Output", "JSON on stdout" },
    { "quiet", NULL, 'q', CMD_ALL, FLAG, AT(quiet), 0, 0, NULL, "Output",
      "no progress bar, no notes; errors still show" },
    { "help", NULL, 'h', CMD_ALL, FLAG, AT(help), 0, 0, NULL, "Output", "this page" },
};
#define N_OPTIONS ((int)(sizeof options / sizeof options[0]))

/* ---------------------------------------------------------------- numbers and names */

bool parse_int(const char *text, long lo, long hi, long *out)
{
    if (!isdigit((unsigned char)text[0]) && !(text[0] == '-' && isdigit((unsigned char)text[1])))
        return false; /* strtol would skip blanks and take a plus */
    char *end;
    errno = 0;
    long v = strtol(text, &end, 10);
    if (errno || *end || v < lo || v > hi)
        return false;
    *out = v;
    return true;
}

static bool parse_seed(const char *text, uint64_t *out)
{
    if (!isdigit((unsigned char)text[0]))
        return false;
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || *end)
        return false;
    *out = v;
    return true;
}

/* Levenshtein distance, cut off at 31 characters. */
static int distance(const char *a, const char *b)
{
    int row[33];
    int n = (int)strnlen(b, 31);
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 1; i <= 31 && a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

const char *nearest_name(const char *word, const char *const *names)
{
    const char *best = NULL;
    int least = (int)strlen(word) / 3 + 2; /* farther than this is no typing mistake */
    for (int i = 0; names[i]; i++) {
        int d = distance(word, names[i]);
        if (strncmp(word, names[i], strlen(word)) == 0 && word[0])
            d = 0;
        if (d < least) {
            least = d;
            best = names[i];
        }
    }
    return best;
}

/* Index of `word` in "a|b|c", −1 if it is none of them. */
static int choice_index(const char *choices, const char *word)
{
    size_t n = strlen(word);
    int i = 0;
    for (const char *p = choices; p; i++) {
        const char *end = strchr(p, '|');
        size_t m = end ? (size_t)(end - p) : strlen(p);
        if (m == n && memcmp(p, word, n) == 0)
            return i;
        p = end ? end + 1 : NULL;
    }
    return -1;
}

/* ---------------------------------------------------------------- values of each kind */

/* Each set builds on the ones before it: a mask with a gap would mean less than its name. */
#define UP_TO_AVX512 (PI0_ISA_AVX2 | PI0_ISA_AVX512)

static int parse_isa(struct args *a, const char *value)
{
    static const struct {
        const char *name;
        uint32_t bits;
    } sets[] = { { "all", PI0_ISA_ALL },
                 { "scalar", 0 },
                 { "avx2", PI0_ISA_AVX2 },
                 { "avx512", UP_TO_AVX512 },
                 { "avx512_bf16", UP_TO_AVX512 | PI0_ISA_AVX512_BF16 },
                 { "amx_bf16", UP_TO_AVX512 | PI0_ISA_AVX512_BF16 | PI0_ISA_AMX_BF16 } };
    uint32_t mask = 0;
    const char *p = value;
    for (;;) {
        size_t n = strcspn(p, ","), i = 0, n_sets = sizeof sets / sizeof sets[0];
        while (i < n_sets && !(strlen(sets[i].name) == n && strncmp(p, sets[i].name, n) == 0))
            i++;
        if (i == n_sets)
            return fail("--isa %s: \"%.*s\" is not an instruction set; expected all, scalar, or a "
                        "list of avx2, avx512, avx512_bf16, amx_bf16",
                        value, (int)n, p);
        mask |= sets[i].bits;
        if (!p[n])
            break;
        p += n + 1;
    }
    a->isa = mask;
    return EXIT_DONE;
}

/* "1,2,4" into out; returns the count, −1 after a message. */
static int parse_list(const char *name, const char *value, long lo, long hi, int max, int32_t *out)
{
    int n = 0;
    const char *p = value;
    for (;;) {
        char item[24];
        size_t len = strcspn(p, ",");
        long v = 0;
        bool fits = len < sizeof item;
        if (fits) {
            memcpy(item, p, len);
            item[len] = '\0';
        }
        if (!fits || !parse_int(item, lo, hi, &v)) {
            fail("--%s: item %d is \"%.*s\"; expected a whole number from %ld to %ld", name, n + 1,
                 (int)(len > 40 ? 40 : len), p, lo, hi);
            return -1;
        }
        if (n == max) {
            fail("--%s: more than %d items", name, max);
            return -1;
        }
        out[n++] = (int32_t)v;
        if (!p[len])
            return n;
        p += len + 1;
    }
}

static int parse_image(struct args *a, const char *value)
{
    const char *equals = strchr(value, '=');
    if (!equals || equals == value || !equals[1])
        return fail("--image %s: expected NAME=FILE, such as base_0_rgb=camera.png", value);
    size_t n = (size_t)(equals - value);
    struct image_arg *im = &a->images[a->n_images];
    if (a->n_images == MAX_IMAGES)
        return fail("--image: more than %d images", MAX_IMAGES);
    if (n >= sizeof im->name)
        return fail("--image %s: a camera name of %zu bytes; at most %zu", value, n,
                    sizeof im->name - 1);
    memcpy(im->name, value, n);
    im->name[n] = '\0';
    im->path = equals + 1;
    for (int i = 0; i < a->n_images; i++)
        if (strcmp(a->images[i].name, im->name) == 0)
            return fail("--image %s: camera %s is given twice", value, im->name);
    a->n_images++;
    return EXIT_DONE;
}

static int add_workloads(struct args *a, char *value)
{
    for (char *p = value; p;) {
        char *comma = strchr(p, ',');
        if (comma)
            *comma = '\0';
        if (!workload_named(p) && strcmp(p, "all") != 0) {
            const char *names[MAX_WORKLOADS + 1] = { NULL };
            for (int i = 0; i < MAX_WORKLOADS && workload_at(i); i++)
                names[i] = workload_at(i)->name;
            const char *near = nearest_name(p, names);
            return fail("workload \"%s\" is unknown%s%s%s; expected pi0-788, pi0-532, pi0-799-h50, "
                        "pi05-968-h50, tiny or all",
                        p, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
        }
        if (a->n_workloads == MAX_WORKLOADS)
            return fail("more than %d workloads", MAX_WORKLOADS);
        a->workloads[a->n_workloads++] = p;
        p = comma ? comma + 1 : NULL;
    }
    return EXIT_DONE;
}

static int store(struct args *a, const struct option *o, char *value)
{
    void *field = (char *)a + o->offset;
    long v = 0;
    int n;
    switch (o->kind) {
    case FLAG: *(int *)field = 1; return EXIT_DONE;
    case TEXT: *(const char **)field = value; return EXIT_DONE;
    case WORD:
    case CHOICE:
        if ((n = choice_index(o->choices, value)) < 0)
            return fail("--%s: found \"%s\", expected one of %s", o->name, value, o->choices);
        if (o->kind == CHOICE)
            *(int *)field = n;
        else
            *(const char **)field = value;
        return EXIT_DONE;
    case NUMBER:
        if (!parse_int(value, o->lo, o->hi, &v))
            return fail("--%s: found \"%s\", expected a whole number from %ld to %ld", o->name,
                        value, o->lo, o->hi);
        *(int *)field = (int)v;
        return EXIT_DONE;
    case SEED:
        if (!parse_seed(value, field))
            return fail("--%s: found \"%s\", expected a whole number from 0 to "
                        "18446744073709551615",
                        o->name, value);
        return EXIT_DONE;
    case REAL: {
        double x;
        if (!parse_double(value, &x) || !(x > 0) || isinf(x))
            return fail("--%s: found \"%s\", expected a number above 0", o->name, value);
        *(double *)field = x;
        return EXIT_DONE;
    }
    case ISA: return parse_isa(a, value);
    case IMAGE: return parse_image(a, value);
    case IDS:
        n = parse_list(o->name, value, 0, INT32_MAX, MAX_TOKENS, a->tokens);
        a->n_tokens = n;
        return n < 0 ? EXIT_BAD : EXIT_DONE;
    case BATCHES:
        a->n_batches = parse_list(o->name, value, o->lo, o->hi, MAX_BATCHES, a->batches);
        return a->n_batches < 0 ? EXIT_BAD : EXIT_DONE;
    case NAMES: return add_workloads(a, value);
    case SETTING:
        if (a->n_sets == MAX_SETS)
            return fail("--set: more than %d of them", MAX_SETS);
        a->sets[a->n_sets++] = value;
        return EXIT_DONE;
    }
    return EXIT_BAD;
}

/* ---------------------------------------------------------------- the command line */

static const char *command_name(enum command c)
{
    return c == CMD_RUN       ? "run"
           : c == CMD_CHECK   ? "check"
           : c == CMD_INSPECT ? "inspect"
           : c == CMD_BENCH   ? "bench"
                              : "synth";
}

static const struct option *find(enum command command, const char *name, size_t n)
{
    for (int i = 0; i < N_OPTIONS; i++)
        if ((options[i].commands & command) && strlen(options[i].name) == n &&
            strncmp(options[i].name, name, n) == 0)
            return &options[i];
    return NULL;
}

static int unknown_option(enum command command, const char *given, const char *name)
{
    const char *names[N_OPTIONS + 1];
    int n = 0;
    for (int i = 0; i < N_OPTIONS; i++)
        if (options[i].commands & command)
            names[n++] = options[i].name;
    names[n] = NULL;
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)strcspn(name, "="), name);
    const char *near = nearest_name(word, names);
    const char *c = command_name(command);
    if (near)
        return fail("%s: unknown option %s; did you mean --%s? (pi0 %s --help lists them)", c,
                    given, near, c);
    return fail("%s: unknown option %s (pi0 %s --help lists the known ones)", c, given, c);
}

/* Finds the option that argv[*i] names and its value, moving *i past a value of its own. */
static int next_option(enum command command, int argc, char **argv, int *i,
                       const struct option **found, char **value)
{
    char *arg = argv[*i];
    const struct option *o = NULL;
    *value = NULL;
    if (arg[1] == '-') {
        size_t n = strcspn(arg + 2, "=");
        o = find(command, arg + 2, n);
        if (!o)
            return unknown_option(command, arg, arg + 2);
        if (arg[2 + n] == '=')
            *value = arg + 2 + n + 1;
    } else {
        for (int k = 0; k < N_OPTIONS; k++)
            if ((options[k].commands & command) && options[k].letter &&
                options[k].letter == arg[1] && !arg[2])
                o = &options[k];
        if (!o)
            return unknown_option(command, arg, arg + 1);
    }
    if (o->kind == FLAG && *value)
        return fail("--%s takes no value, found \"%s\"", o->name, *value);
    if (o->kind != FLAG && !*value) {
        if (*i + 1 >= argc)
            return fail("--%s: expected %s behind it, found nothing", o->name, o->value);
        char *next = argv[*i + 1];
        if (strncmp(next, "--", 2) == 0 && find(command, next + 2, strlen(next + 2)))
            return fail("--%s: expected %s, found the option %s (a value like that is written "
                        "--%s=%s)",
                        o->name, o->value, next, o->name, next);
        *value = next;
        (*i)++;
    }
    *found = o;
    return EXIT_DONE;
}

int args_parse(struct args *out, enum command command, int argc, char **argv)
{
    struct args a = { .n_tokens = -1, .warmup = -1, .isa = PI0_ISA_ALL, .backend = "auto" };
    bool seen[N_OPTIONS] = { false };
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] != '-' || !argv[i][1]) {
            if (command == CMD_BENCH) {
                if (a.compare && !a.compare_with) {
                    a.compare_with = argv[i];
                    continue;
                }
                if (add_workloads(&a, argv[i]))
                    return EXIT_BAD;
                continue;
            }
            return fail("%s: unexpected argument \"%s\"; options start with --",
                        command_name(command), argv[i]);
        }
        const struct option *o = NULL;
        char *value;
        if (next_option(command, argc, argv, &i, &o, &value) || !o)
            return EXIT_BAD;
        bool repeats = o->kind == IMAGE || o->kind == SETTING || o->kind == NAMES;
        if (seen[o - options] && !repeats && o->kind != FLAG)
            return fail("--%s is given twice", o->name);
        seen[o - options] = true;
        if (store(&a, o, value))
            return EXIT_BAD;
    }
    *out = a;
    return EXIT_DONE;
}

void args_print_options(FILE *f, enum command command)
{
    const char *group = "";
    for (int i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        if (!(o->commands & command))
            continue;
        if (strcmp(group, o->group) != 0)
            fprintf(f, "\n%s%s%s\n", ink(BOLD), o->group, ink(PLAIN));
        group = o->group;
        char left[48];
        snprintf(left, sizeof left, "%s%c%s--%s%s%s", o->letter ? "-" : "",
                 o->letter ? o->letter : ' ', o->letter ? ", " : "   ", o->name,
                 o->value ? " " : "", o->value ? o->value : "");
        fprintf(f, "  %s%-28s%s", ink(CYAN), left, ink(PLAIN));
        for (const char *p = o->about; *p;) {
            size_t n = strcspn(p, "\n");
            fprintf(f, "%s%.*s\n", p == o->about ? "" : "                              ", (int)n,
                    p);
            p += n + (p[n] == '\n');
        }
    }
}
