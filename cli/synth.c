/* SPDX-License-Identifier: Apache-2.0
 * synth: writes a seeded random checkpoint of a named variant, of a golden case's dimensions, or of
 * either with single dimensions changed. The values and the writing are the library's. */
#include "cli.h"

#include <string.h>
#include <sys/stat.h>

static int apply_setting(struct pi0_dims *dims, const char *text)
{
    const char *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : strlen(text);
    const char *names[N_DIMS + 1] = { NULL };
    long v = 0;
    for (int i = 0; i < N_DIMS; i++) {
        names[i] = dim_name(i);
        if (strlen(names[i]) != n || strncmp(names[i], text, n) != 0)
            continue;
        if (!equals || !parse_int(equals + 1, 1, 10000000, &v))
            return fail("--set %s: expected %s=N, N from 1 to 10000000", text, names[i]);
        *dim_at(dims, i) = (int)v;
        return EXIT_DONE;
    }
    char word[64];
    snprintf(word, sizeof word, "%.*s", (int)(n < 60 ? n : 60), text);
    const char *near = nearest_name(word, names);
    return fail("--set %s: no such dimension%s%s%s", text, near ? "; did you mean " : "",
                near ? near : "; pi0 inspect --synthetic pi0 --no-engine --json lists them",
                near ? "?" : "");
}

static int choose_dims(struct pi0_dims *dims, uint64_t *seed, const struct args *a)
{
    struct pi0_error err = { 0 };
    if (a->dims && a->case_dir)
        return fail("--dims and --case exclude each other; expected one of them");
    if (!a->dims && !a->case_dir)
        return fail("no dimensions: expected --dims pi0|pi05|pi0_tiny|pi05_tiny or --case DIR");
    *seed = a->seed;
    if (a->case_dir) {
        static struct pi0_case c;
        if (pi0_case_read(&c, a->case_dir, &err))
            return fail_library(&err);
        *dims = c.dims;
        if (*seed == 0)
            *seed = c.seed;
    } else if (pi0_dims_named(dims, a->dims, &err)) {
        return fail_library(&err);
    }
    for (int i = 0; i < a->n_sets; i++)
        if (apply_setting(dims, a->sets[i]))
            return EXIT_BAD;
    return EXIT_DONE;
}

int cmd_synth(const struct args *a)
{
    struct pi0_dims dims;
    struct pi0_error err = { 0 };
    struct stat st;
    char file[4096];
    uint64_t seed = 0;
    int code = choose_dims(&dims, &seed, a);
    if (code)
        return code;
    if (!a->output)
        return fail("no place to write: expected -o DIR");
    int n = snprintf(file, sizeof file, "%s/model.safetensors", a->output);
    if (n < 0 || (size_t)n >= sizeof file)
        return fail("-o: a path of %zu bytes", strlen(a->output));
    if (stat(file, &st) == 0 && !a->force)
        return fail("%s exists (%lld bytes); expected a new directory, or --force to replace it",
                    file, (long long)st.st_size);
    double start = now_ms();
    interrupts_poll_begin();
    pi0_status status = pi0_synth_write(a->output, &dims, seed, term_progress, NULL, &err);
    interrupts_poll_end();
    term_bar_clear();
    if (interrupted())
        return end_interrupted();
    if (status)
        return fail_library(&err);
    double seconds = (now_ms() - start) / 1e3;
    if (stat(file, &st))
        return fail("%s: written, and now cannot be found", file);
    if (a->json) {
        json_t *doc = json_object();
        json_object_set_new(doc, "dir", json_string(a->output));
        json_object_set_new(doc, "variant", json_string(variant_name(dims.variant)));
        json_object_set_new(doc, "seed", json_seed(seed));
        json_object_set_new(doc, "file_bytes", json_integer((json_int_t)st.st_size));
        json_object_set_new(doc, "seconds", json_number(seconds, 4));
        code = print_json(doc, false);
        json_decref(doc);
        return code;
    }
    char size[32], rate[32];
    printf("%s: %s checkpoint, seed %llu, %s in %.1f s (%s)\n", a->output,
           variant_name(dims.variant), (unsigned long long)seed,
           human(size, (double)st.st_size, "B"), seconds,
           human(rate, (double)st.st_size / (seconds > 0 ? seconds : 1), "B/s"));
    return EXIT_DONE;
}
