/* SPDX-License-Identifier: Apache-2.0
 * Synthetic weights: the values of the golden checkpoints bit for bit, and pi0_synth_write: what it
 * writes, reads back as, and leaves behind when it fails. */
#include "io/safetensors.h"
#include "model/model.h"
#include "model/synth.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static char temp[64];

static int make_temp(void **state)
{
    (void)state;
    snprintf(temp, sizeof temp, "/tmp/pi0_synth_XXXXXX");
    return mkdtemp(temp) ? 0 : -1;
}

/* Entries of a directory, "." and ".." apart; -1 if it is not there. */
static int count_files(const char *dir)
{
    DIR *d = opendir(dir);
    int n = 0;
    if (!d)
        return -1;
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

static void empty_dir(const char *dir)
{
    char path[512];
    DIR *d = opendir(dir);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.' || strlen(e->d_name) > 2)
            unlink(path);
    }
    closedir(d);
    rmdir(dir);
}

static int remove_temp(void **state)
{
    (void)state;
    char inner[96];
    snprintf(inner, sizeof inner, "%s/m", temp);
    chmod(temp, 0700);
    empty_dir(inner);
    empty_dir(temp);
    return 0;
}

/* ---------------------------------------------------------------- values */

struct comparison {
    struct st_set *file;
    int n;
};

/* The stored tensor equals the computed one: BF16 to the bit, F32 as the same numbers. */
static pi0_status compare(void *user, const struct weight_entry *e, struct pi0_error *err)
{
    struct comparison *c = user;
    const struct st_tensor *t = st_find(c->file, e->name);
    (void)err;
    if (!t && e->alias)
        t = st_find(c->file, e->alias);
    if (!t)
        fail_msg("%s is not in the file", e->name);
    assert_int_equal(t->n, e->field->n);
    uint16_t *got = malloc(2 * e->field->n);
    assert_non_null(got);
    tensor_read_bf16(e->field, 0, e->field->n, got);
    for (size_t i = 0; i < e->field->n; i++) {
        uint32_t want = 0;
        memcpy(&want, t->data + i * (t->dtype == ST_F32 ? 4 : 2), t->dtype == ST_F32 ? 4 : 2);
        uint32_t have = t->dtype == ST_F32 ? (uint32_t)got[i] << 16 : got[i];
        if (have != want)
            fail_msg("%s[%zu]: %08x, expected %08x", e->name, i, have, want);
    }
    free(got);
    c->n++;
    return PI0_OK;
}

static void expect_values(const char *dims, uint64_t seed, const char *path)
{
    struct pi0_dims d;
    struct weights w;
    struct comparison c = { NULL, 0 };
    struct pi0_error err;
    if (st_open_file(&c.file, path, &err))
        fail_msg("%s", err.message);
    assert_int_equal(pi0_dims_named(&d, dims, NULL), PI0_OK);
    assert_int_equal(synth_weights(&w, &d, seed, NULL), PI0_OK);
    assert_int_equal(weights_walk(&w, &d, compare, &c, NULL), PI0_OK);
    assert_int_equal(c.n, c.file->n_tensors);
    weights_free(&w);
    st_close(c.file);
}

static void golden_values(void **state)
{
    (void)state;
    expect_values("pi0_tiny", 7, "tests/golden/pi0_tiny/model.safetensors");
    expect_values("pi05_tiny", 8, "tests/golden/pi05_tiny/model.safetensors");
}

/* Any piece of a tensor is the same as that piece of the whole. */
static void pieces(void **state)
{
    (void)state;
    struct tensor t = { .rank = 2 };
    struct weight_entry e = { .name = "a.weight", .field = &t, .rank = 2, .shape = { 50, 61 } };
    uint16_t whole[3050], part[100];
    float f[3050];
    synth_tensor(&e, 5);
    assert_int_equal(t.n, 3050);
    assert_true(tensor_is_bf16(&t));
    tensor_read_bf16(&t, 0, 3050, whole);
    tensor_read_f32(&t, 0, 3050, f);
    for (size_t i = 0; i < 3050; i++)
        assert_true(f[i] == bf16_to_f32(whole[i]));
    for (size_t first = 0; first + 100 <= 3050; first += 37) {
        tensor_read_bf16(&t, first, 100, part);
        assert_memory_equal(part, whole + first, sizeof part);
    }
}

/* ---------------------------------------------------------------- files */

static void expect_round_trip(const char *dims, uint64_t seed)
{
    struct pi0_dims d;
    struct pi0_error err;
    struct pi0_model_info info, synthetic;
    pi0_model *m = NULL, *s = NULL;
    char dir[96], path[128];
    snprintf(dir, sizeof dir, "%s/m", temp);
    assert_int_equal(pi0_dims_named(&d, dims, NULL), PI0_OK);
    if (pi0_synth_write(dir, &d, seed, NULL, NULL, &err))
        fail_msg("%s", err.message);
    assert_int_equal(count_files(dir), 2);
    if (pi0_model_open(&m, dir, NULL, &err))
        fail_msg("%s", err.message);
    assert_int_equal(pi0_model_open_synthetic(&s, &d, seed, &err), PI0_OK);
    pi0_model_info(m, &info);
    pi0_model_info(s, &synthetic);
    assert_memory_equal(&info.dims, &d, sizeof d);
    assert_memory_equal(&synthetic.dims, &d, sizeof d);
    assert_int_equal(info.n_params, synthetic.n_params);
    assert_int_equal(info.n_tensors, synthetic.n_tensors);
    assert_int_equal(info.n_unused, 0);
    assert_int_equal(synthetic.source, PI0_SOURCE_SYNTHETIC);
    assert_string_equal(synthetic.dir, "");
    assert_string_equal(info.camera_names[2], "right_wrist_0_rgb");
    assert_string_equal(synthetic.camera_names[2], "right_wrist_0_rgb");

    struct comparison c = { NULL, 0 };
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(st_open_file(&c.file, path, &err), PI0_OK);
    assert_int_equal(weights_walk(&s->weights, &d, compare, &c, NULL), PI0_OK);
    st_close(c.file);

    struct pi0_case as_case; /* what is written is also a case that `check` can read */
    assert_int_equal(pi0_case_read(&as_case, dir, &err), PI0_OK);
    assert_int_equal(as_case.seed, seed);
    assert_int_equal(as_case.n_steps, 10);
    assert_string_equal(as_case.weights_dir, dir);
    pi0_model_close(m);
    pi0_model_close(s);
}

static void round_trip(void **state)
{
    (void)state;
    expect_round_trip("pi0_tiny", 7);
    expect_round_trip("pi05_tiny", 123456789012345); /* over the other one */
}

/* 40 MB: several pieces, so that threads share tensors. */
static void large_round_trip(void **state)
{
    (void)state;
    struct pi0_dims d;
    struct pi0_error err;
    struct comparison c = { NULL, 0 };
    struct weights w;
    char dir[96], path[128];
    snprintf(dir, sizeof dir, "%s/m", temp);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(pi0_dims_named(&d, "pi0_tiny", NULL), PI0_OK);
    d.vocab_size = 140001;
    if (pi0_synth_write(dir, &d, 3, NULL, NULL, &err))
        fail_msg("%s", err.message);
    assert_int_equal(st_open_file(&c.file, path, &err), PI0_OK);
    assert_int_equal(synth_weights(&w, &d, 3, NULL), PI0_OK);
    assert_int_equal(weights_walk(&w, &d, compare, &c, NULL), PI0_OK);
    weights_free(&w);
    st_close(c.file);
}

struct watch {
    int calls;
    uint64_t last, total;
    int stop_at;
};

static int watch_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    struct watch *w = user;
    assert_string_equal(what, "writing");
    assert_true(done >= w->last && done <= total);
    w->last = done;
    w->total = total;
    return ++w->calls == w->stop_at;
}

static void progress(void **state)
{
    (void)state;
    struct pi0_dims d;
    struct pi0_error err;
    struct watch w = { 0 };
    char dir[96];
    snprintf(dir, sizeof dir, "%s/m", temp);
    assert_int_equal(pi0_dims_named(&d, "pi0_tiny", NULL), PI0_OK);
    d.vocab_size = 140001;
    assert_int_equal(pi0_synth_write(dir, &d, 3, watch_progress, &w, &err), PI0_OK);
    assert_true(w.calls >= 2);
    assert_int_equal(w.last, w.total);
    empty_dir(dir);

    w = (struct watch){ .stop_at = 1 };
    assert_int_equal(pi0_synth_write(dir, &d, 3, watch_progress, &w, &err), PI0_E_IO);
    assert_non_null(strstr(err.message, "stopped"));
    assert_int_equal(w.calls, 1);
    assert_int_equal(count_files(dir), -1); /* the directory it made is gone too */
}

/* ---------------------------------------------------------------- failures */

/* A write that fails half way: here for a limit on the size of files, as on a full disk. */
static void disk_full(void **state)
{
    (void)state;
    struct pi0_dims d;
    struct pi0_error err;
    struct rlimit was, small;
    char dir[96];
    snprintf(dir, sizeof dir, "%s/m", temp);
    assert_int_equal(pi0_dims_named(&d, "pi0_tiny", NULL), PI0_OK);
    d.vocab_size = 140001;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    small = was;
    small.rlim_cur = 20 << 20;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    pi0_status st = pi0_synth_write(dir, &d, 3, NULL, NULL, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(st, PI0_E_IO);
    assert_int_equal(count_files(dir), -1);

    assert_int_equal(mkdir(dir, 0755), 0); /* a directory that was there stays, and stays empty */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    handler = signal(SIGXFSZ, SIG_IGN);
    st = pi0_synth_write(dir, &d, 3, NULL, NULL, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(st, PI0_E_IO);
    assert_int_equal(count_files(dir), 0);
}

/* More than any disk holds is refused before a byte is written. */
static void too_large(void **state)
{
    (void)state;
    struct pi0_dims d;
    struct pi0_error err;
    char dir[96];
    snprintf(dir, sizeof dir, "%s/m", temp);
    assert_int_equal(pi0_dims_named(&d, "pi0", NULL), PI0_OK);
    d.vlm_width = 32768;
    d.vlm_mlp_dim = 262144;
    d.vocab_size = 4194304;
    d.depth = 256;
    assert_int_equal(pi0_synth_write(dir, &d, 3, NULL, NULL, &err), PI0_E_IO);
    if (!strstr(err.message, "bytes needed") || !strstr(err.message, "free"))
        fail_msg("message \"%s\"", err.message);
    assert_int_equal(count_files(dir), -1);
}

static void bad_arguments(void **state)
{
    (void)state;
    struct pi0_dims d;
    struct pi0_error err;
    char dir[128];
    assert_int_equal(pi0_dims_named(&d, "pi0_tiny", NULL), PI0_OK);
    assert_int_equal(pi0_synth_write(NULL, &d, 0, NULL, NULL, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_synth_write("", &d, 0, NULL, NULL, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_synth_write(temp, NULL, 0, NULL, NULL, &err), PI0_E_ARGUMENT);
    snprintf(dir, sizeof dir, "%s/no/such/place", temp);
    assert_int_equal(pi0_synth_write(dir, &d, 0, NULL, NULL, &err), PI0_E_IO);
    assert_non_null(strstr(err.message, dir));
    snprintf(dir, sizeof dir, "%s/file", temp); /* a file where the directory should be */
    FILE *f = fopen(dir, "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(pi0_synth_write(dir, &d, 0, NULL, NULL, &err), PI0_E_IO);
    unlink(dir);
    d.heads = 0;
    assert_int_equal(pi0_synth_write(temp, &d, 0, NULL, NULL, &err), PI0_E_MODEL);
    assert_non_null(strstr(err.message, "heads 0"));
    assert_int_equal(count_files(temp), 0);
}

static void unwritable(void **state)
{
    (void)state;
    struct pi0_dims d;
    struct pi0_error err;
    if (geteuid() == 0) { /* root writes everywhere: a directory in the file's place instead */
        char path[128];
        snprintf(path, sizeof path, "%s/config.json", temp);
        assert_int_equal(mkdir(path, 0755), 0);
        assert_int_equal(pi0_dims_named(&d, "pi0_tiny", NULL), PI0_OK);
        assert_int_equal(pi0_synth_write(temp, &d, 0, NULL, NULL, &err), PI0_E_IO);
        assert_int_equal(rmdir(path), 0);
        assert_int_equal(count_files(temp), 0); /* model.safetensors did not stay alone */
        return;
    }
    assert_int_equal(chmod(temp, 0500), 0);
    assert_int_equal(pi0_dims_named(&d, "pi0_tiny", NULL), PI0_OK);
    assert_int_equal(pi0_synth_write(temp, &d, 0, NULL, NULL, &err), PI0_E_IO);
    assert_int_equal(chmod(temp, 0700), 0);
    assert_int_equal(count_files(temp), 0);
}

#define IN_TEMP(f) cmocka_unit_test_setup_teardown(f, make_temp, remove_temp)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_values),
        cmocka_unit_test(pieces),
        IN_TEMP(round_trip),
        IN_TEMP(large_round_trip),
        IN_TEMP(progress),
        IN_TEMP(disk_full),
        IN_TEMP(too_large),
        IN_TEMP(bad_arguments),
        IN_TEMP(unwritable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
