/* SPDX-License-Identifier: Apache-2.0
 * run: one observation from files and options to one chunk of actions: read everything, check what
 * the command itself can check, infer, show. What an observation must hold is the policy's
 * knowledge (pi0_policy_infer says what is missing). */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PROMPT_FILE_LIMIT ((size_t)64 << 20) /* the library has its own, lower limit and says so */

struct job {
    struct session s;
    struct pi0_named_image images[MAX_IMAGES];
    struct array state;
    char *prompt;
    size_t prompt_bytes;
    float *noise;
    int steps;       /* as used */
    double *actions; /* [H, D] */
    struct pi0_policy_info info;
    struct pi0_policy_trace trace;
    struct pi0_timing timing;
    struct pi0_model_info model;
};

/* ---------------------------------------------------------------- reading */

static int load_images(struct job *j, const struct args *a)
{
    struct pi0_error err = { 0 };
    for (int i = 0; i < a->n_images; i++) {
        struct pi0_named_image *im = &j->images[i];
        uint8_t *pixels;
        if (pi0_image_load(a->images[i].path, &pixels, &im->height, &im->width, &err))
            return fail_library(&err);
        im->name = a->images[i].name;
        im->pixels = pixels;
    }
    return EXIT_DONE;
}

static int load_prompt(struct job *j, const struct args *a)
{
    if ((a->prompt != NULL) + (a->prompt_file != NULL) + (a->n_tokens >= 0) > 1)
        return fail(
            "--prompt, --prompt-file and --tokens exclude each other; expected one of them");
    if (a->prompt_file)
        return slurp(&j->prompt, &j->prompt_bytes, "--prompt-file", a->prompt_file,
                     PROMPT_FILE_LIMIT);
    if (a->prompt) {
        j->prompt = strdup(a->prompt);
        if (!j->prompt)
            return fail("--prompt: no memory");
        j->prompt_bytes = strlen(a->prompt);
    }
    return EXIT_DONE;
}

/* Shape [H, A] with dimensions of 1 left out on both sides. */
static int load_noise(struct job *j, const struct args *a)
{
    struct array n;
    if (array_load(&n, "--noise", a->noise, "noise"))
        return EXIT_BAD;
    size_t expected[2] = { (size_t)j->s.engine_info.action_horizon,
                           (size_t)j->s.engine_info.action_dim };
    size_t squeezed[ARRAY_MAX_DIMS] = { 0 }, wanted[2] = { 0 };
    int n_squeezed = 0, n_wanted = 0, code = EXIT_DONE;
    char text[128], want[64];
    for (int i = 0; i < n.n_dims; i++)
        if (n.shape[i] != 1)
            squeezed[n_squeezed++] = n.shape[i];
    for (int i = 0; i < 2; i++)
        if (expected[i] != 1)
            wanted[n_wanted++] = expected[i];
    if (n_squeezed != n_wanted ||
        memcmp(squeezed, wanted, (size_t)n_wanted * sizeof wanted[0]) != 0)
        code = fail("--noise %s: shape %s, expected %s", a->noise,
                    shape_text(text, sizeof text, n.shape, n.n_dims),
                    shape_text(want, sizeof want, expected, 2));
    if (!code && !(j->noise = malloc(n.n * sizeof *j->noise)))
        code = fail("--noise: no memory");
    for (size_t i = 0; !code && i < n.n; i++) {
        j->noise[i] = (float)n.v[i];
        if (!isfinite(j->noise[i]))
            code =
                fail("--noise %s: value %zu is %g, expected a finite number", a->noise, i, n.v[i]);
    }
    array_free(&n);
    return code;
}

static int open_all(struct job *j, const struct args *a)
{
    int code = session_open_model(&j->s, a);
    if (code)
        return code;
    pi0_model_info(j->s.model, &j->model);
    struct pi0_engine_config cfg;
    session_config(&cfg, a);
    for (;;) {
        if ((code = session_open_engine(&j->s, &cfg)) || (code = session_open_policy(&j->s, a)))
            return code;
        pi0_policy_info(j->s.policy, &j->info);
        j->steps = a->steps ? a->steps : j->info.n_steps;
        if (j->steps <= cfg.max_steps || j->steps > 1000)
            return EXIT_DONE;
        cfg.max_steps = j->steps; /* the checkpoint asks for more than the default */
        pi0_policy_close(j->s.policy);
        pi0_engine_close(j->s.engine);
        j->s.policy = NULL;
        j->s.engine = NULL;
    }
}

static int infer(struct job *j, const struct args *a)
{
    struct pi0_observation obs = {
        .images = j->images,
        .n_images = a->n_images,
        .state = j->state.v,
        .n_state = j->state.n > 1 << 20 ? 1 << 20 : (int)j->state.n,
        .prompt = j->prompt,
        .prompt_bytes = j->prompt_bytes,
        .tokens = a->n_tokens >= 0 ? a->tokens : NULL,
        .n_tokens = a->n_tokens >= 0 ? a->n_tokens : 0,
        .noise = j->noise,
        .seed = a->seed,
        .n_steps = a->steps,
    };
    struct pi0_error err = { 0 };
    size_t n = (size_t)j->info.action_horizon * (size_t)j->info.robot_action_dim;
    j->actions = calloc(n ? n : 1, sizeof *j->actions);
    if (!j->actions)
        return fail("no memory for %zu actions", n);
    term_status("running");
    if (pi0_policy_infer(j->s.policy, &obs, 1, j->actions, &j->timing, &err))
        return fail_library(&err);
    term_bar_clear();
    pi0_policy_trace(j->s.policy, &j->trace);
    if (j->trace.n_tokens_cut)
        note("the prompt has %d tokens, this model reads %d: the rest is cut off",
             j->trace.n_tokens + j->trace.n_tokens_cut, j->trace.n_tokens);
    return EXIT_DONE;
}

/* ---------------------------------------------------------------- showing */

static const char *const libero_names[] = { "x", "y", "z", "roll", "pitch", "yaw", "gripper" };
static const char *const droid_names[] = { "joint 1", "joint 2", "joint 3", "joint 4",
                                           "joint 5", "joint 6", "joint 7", "gripper" };
static const char *const aloha_names[] = { "L waist",    "L shoulder", "L elbow",   "L forearm",
                                           "L wrist",    "L rotate",   "L grip",    "R waist",
                                           "R shoulder", "R elbow",    "R forearm", "R wrist",
                                           "R rotate",   "R grip" };

static void robot_dim_name(char buf[24], const struct job *j, int d)
{
    const char *robot = j->info.robot ? j->info.robot : "";
    const char *const *names = NULL;
    int n = 0;
    if (strcmp(robot, "libero") == 0)
        names = libero_names, n = 7;
    else if (strcmp(robot, "droid") == 0)
        names = droid_names, n = 8;
    else if (strcmp(robot, "aloha") == 0)
        names = aloha_names, n = 14;
    if (names && d < n)
        snprintf(buf, 24, "%s", names[d]);
    else
        snprintf(buf, 24, "dim %d", d);
    for (char *p = buf; *p && !term_is_tty(); p++)
        if (*p == ' ')
            *p = '_'; /* columns of a pipe are split at blanks */
}

static void print_row(const struct job *j, int row, int columns)
{
    int D = j->info.robot_action_dim;
    printf("%s%6d%s", ink(DIM), row, ink(PLAIN));
    for (int d = 0; d < columns; d++)
        printf(" %10.4f", j->actions[row * D + d]);
    putchar('\n');
}

/* On a terminal the table is cut to the window: the first and last rows, the dims that fit. */
static void print_table(const struct job *j)
{
    int H = j->info.action_horizon, D = j->info.robot_action_dim;
    int columns = D, head = H, tail = 0;
    if (term_is_tty()) {
        int fit = (term_width() - 6) / 11;
        columns = D < fit ? D : fit < 1 ? 1 : fit;
        if (H > 12) {
            head = 7;
            tail = 2;
        }
    }
    printf("%s%6s", ink(BOLD), "action");
    for (int d = 0; d < columns; d++) {
        char name[24];
        robot_dim_name(name, j, d);
        printf(" %10.10s", name);
    }
    printf("%s\n", ink(PLAIN));
    for (int i = 0; i < head; i++)
        print_row(j, i, columns);
    if (tail)
        printf("%s     %s  %d more rows%s\n", ink(DIM), term_utf8() ? "…" : ":", H - head - tail,
               ink(PLAIN));
    for (int i = H - tail; i < H; i++)
        print_row(j, i, columns);
    if (columns < D)
        printf("%s%6s %d more dimensions to the right (below; all of them with -o or --json)%s\n",
               ink(DIM), "", D - columns, ink(PLAIN));
}

static void print_plot(const struct job *j)
{
    int H = j->info.action_horizon, D = j->info.robot_action_dim;
    int width = term_width() - 12 - 2 - 24;
    width = width > 64 ? 64 : width < 8 ? 8 : width;
    printf("\n%sover the chunk%s\n", ink(BOLD), ink(PLAIN));
    for (int d = 0; d < D; d++) {
        char name[24];
        double lo = INFINITY, hi = -INFINITY;
        for (int i = 0; i < H; i++) {
            double v = j->actions[i * D + d];
            lo = v < lo ? v : lo;
            hi = v > hi ? v : hi;
        }
        robot_dim_name(name, j, d);
        printf("  %-10.10s  %s", name, ink(CYAN));
        print_sparkline(stdout, j->actions + d, (size_t)H, (size_t)D, lo, hi, width);
        printf("%s", ink(PLAIN));
        printf("%*s %s%9.4f … %.4f%s\n", H < width ? width - H : 0, "", ink(DIM), lo, hi,
               ink(PLAIN));
    }
}

static void print_timing(const struct job *j)
{
    double whole = j->trace.preprocess_ms + j->timing.total_ms + j->trace.postprocess_ms;
    const struct {
        const char *name;
        double ms;
    } rows[] = { { "preprocess", j->trace.preprocess_ms },
                 { "vision", j->timing.vision_ms },
                 { "prefix", j->timing.prefix_ms },
                 { "denoise", j->timing.denoise_ms },
                 { "postprocess", j->trace.postprocess_ms } };
    printf("\n%stime%s\n", ink(BOLD), ink(PLAIN));
    for (int i = 0; i < 5; i++) {
        printf("  %-12s %10.2f ms", rows[i].name, rows[i].ms);
        if (term_is_tty()) {
            printf("  %s", ink(BLUE));
            print_bar(stdout, whole > 0 ? rows[i].ms / whole : 0, 30);
            printf("%s", ink(PLAIN));
        }
        putchar('\n');
    }
    printf("  %s%-12s %10.2f ms%s\n", ink(BOLD), "whole", whole, ink(PLAIN));
}

static void show(const struct job *j, const struct args *a)
{
    const struct pi0_engine_info *e = &j->s.engine_info;
    int cameras = 0, slots = j->model.dims.n_cameras;
    for (int c = 0; c < slots; c++)
        cameras += j->trace.camera_mask[c] != 0;
    printf("%s%s%s %s\n", ink(BOLD), variant_name(j->model.dims.variant), ink(PLAIN),
           a->model ? a->model : "(synthetic)");
    printf("%s on %s, %s, %s, %d thread%s, opened in %.1f s\n", e->backend, e->device, e->isa,
           precision_name(e->precision), e->n_threads, e->n_threads == 1 ? "" : "s",
           e->open_ms / 1e3);
    printf("robot %s: %d of %d cameras, %zu state values (%s), %d prompt tokens\n", j->info.robot,
           cameras, slots, j->state.n, j->info.has_stats ? j->info.normalization : "not normalised",
           j->trace.n_tokens);
    printf("%d steps from ", j->steps);
    if (a->noise)
        printf("the noise in %s: ", a->noise);
    else
        printf("the noise of seed %llu: ", (unsigned long long)a->seed);
    printf("%d actions of %d numbers\n\n", j->info.action_horizon, j->info.robot_action_dim);
    print_table(j);
    if (term_is_tty())
        print_plot(j);
    print_timing(j);
}

static json_t *document(const struct job *j, const struct args *a)
{
    int H = j->info.action_horizon, D = j->info.robot_action_dim;
    json_t *rows = json_array();
    for (int i = 0; i < H; i++) {
        json_t *row = json_array();
        for (int d = 0; d < D; d++)
            json_array_append_new(row, json_real(j->actions[i * D + d]));
        json_array_append_new(rows, row);
    }
    json_t *doc = json_object();
    json_object_set_new(doc, "model", json_string(a->model ? a->model : a->synthetic));
    json_object_set_new(doc, "variant", json_string(variant_name(j->model.dims.variant)));
    json_object_set_new(doc, "robot", json_string(j->info.robot));
    json_object_set_new(doc, "backend", json_string(j->s.engine_info.backend));
    json_object_set_new(doc, "device", json_string(j->s.engine_info.device));
    json_object_set_new(doc, "precision", json_string(precision_name(j->s.engine_info.precision)));
    json_object_set_new(doc, "horizon", json_integer(H));
    json_object_set_new(doc, "action_dim", json_integer(D));
    json_object_set_new(doc, "steps", json_integer(j->steps));
    json_object_set_new(doc, "seed", a->noise ? json_null() : json_seed(a->seed));
    json_object_set_new(doc, "n_tokens", json_integer(j->trace.n_tokens));
    json_t *t = json_object();
    json_object_set_new(t, "preprocess", json_number(j->trace.preprocess_ms, 6));
    json_object_set_new(t, "vision", json_number(j->timing.vision_ms, 6));
    json_object_set_new(t, "prefix", json_number(j->timing.prefix_ms, 6));
    json_object_set_new(t, "denoise", json_number(j->timing.denoise_ms, 6));
    json_object_set_new(t, "postprocess", json_number(j->trace.postprocess_ms, 6));
    json_object_set_new(t, "total", json_number(j->timing.total_ms, 6));
    json_object_set_new(doc, "timing_ms", t);
    json_object_set_new(doc, "actions", rows);
    return doc;
}

static int output(const struct job *j, const struct args *a, enum file_format format)
{
    int code = EXIT_DONE;
    bool to_stdout = a->output && strcmp(a->output, "-") == 0;
    json_t *doc = document(j, a);
    if (a->output)
        code = output_write(a->output, format, doc, j->actions, j->info.action_horizon,
                            j->info.robot_action_dim);
    if (!code && !to_stdout) {
        if (a->json)
            code = print_json(doc, false);
        else
            show(j, a);
        fflush(stdout); /* the line on stderr comes behind the table, in one pipe too */
        if (!code && a->output)
            note("actions written to %s", a->output);
    }
    json_decref(doc);
    return code;
}

static int run(struct job *j, const struct args *a)
{
    enum file_format format = a->format ? (enum file_format)a->format : 0;
    int code;
    if (a->output) {
        if (!format)
            format = format_of_path(a->output);
        if (!format && strcmp(a->output, "-") == 0)
            format = FORMAT_JSON;
        if (!format)
            return fail("-o %s: expected a name that ends in .json, .csv or .npy, or --format",
                        a->output);
        if ((code = output_check("-o", a->output)))
            return code;
    }
    if (a->n_images == 0)
        return fail("no image: expected --image NAME=FILE for at least one camera");
    if ((code = load_images(j, a)) || (code = load_prompt(j, a)))
        return code;
    if (a->state && (code = array_parse(&j->state, "--state", a->state, "state")))
        return code;
    if ((code = open_all(j, a)))
        return code;
    if (a->noise && (code = load_noise(j, a)))
        return code;
    if ((code = infer(j, a)))
        return code;
    return output(j, a, format);
}

int cmd_run(const struct args *a)
{
    struct job j = { 0 };
    int code = run(&j, a);
    session_close(&j.s);
    for (int i = 0; i < MAX_IMAGES; i++) {
        union {
            const uint8_t *borrowed;
            void *owned;
        } pixels = { j.images[i].pixels }; /* pi0_named_image holds what we own as const */
        pi0_free(pixels.owned);
    }
    array_free(&j.state);
    free(j.prompt);
    free(j.noise);
    free(j.actions);
    return code;
}
