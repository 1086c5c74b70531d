/* SPDX-License-Identifier: Apache-2.0
 * stats: norm_stats.json; see stats.h. */
#include "policy/stats.h"

#include "io/mapfile.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Reads one vector of numbers. */
static pi0_status read_vector(double *out, int *n, const json_t *feature, const char *key,
                              const char *name, const char *label, struct pi0_error *err)
{
    const json_t *v = json_object_get(feature, name);
    if (!v || json_is_null(v))
        return pi0_fail(err, PI0_E_FORMAT,
                        "%s: norm_stats.%s.%s is %s, expected a list of numbers%s", label, key,
                        name, v ? "null" : "absent",
                        name[0] == 'q' ? ": this model normalises by quantiles" : "");
    if (!json_is_array(v))
        return pi0_fail(err, PI0_E_FORMAT, "%s: norm_stats.%s.%s is not a list of numbers", label,
                        key, name);
    size_t count = json_array_size(v);
    if (count < 1 || count > STATS_MAX_DIM)
        return pi0_fail(err, PI0_E_FORMAT, "%s: norm_stats.%s.%s has %zu numbers, expected 1 to %d",
                        label, key, name, count, STATS_MAX_DIM);
    for (size_t i = 0; i < count; i++) {
        const json_t *x = json_array_get(v, i);
        if (!json_is_number(x))
            return pi0_fail(err, PI0_E_FORMAT, "%s: norm_stats.%s.%s[%zu] is not a number", label,
                            key, name, i);
        out[i] = json_number_value(x);
        if (!isfinite(out[i]))
            return pi0_fail(err, PI0_E_FORMAT, "%s: norm_stats.%s.%s[%zu] is not finite", label,
                            key, name, i);
        if (strcmp(name, "std") == 0 && out[i] < 0.0)
            return pi0_fail(err, PI0_E_FORMAT,
                            "%s: norm_stats.%s.std[%zu] is %g, expected 0 or more", label, key, i,
                            out[i]);
    }
    *n = (int)count;
    return PI0_OK;
}

/* All four vectors are checked, also those that this mode does not use: a file that is half wrong is
 * wrong. */
static pi0_status read_feature(struct feature_stats *out, const json_t *stats, const char *key,
                               enum norm_mode mode, const char *label, struct pi0_error *err)
{
    static const char *const names[] = { "mean", "std", "q01", "q99" };
    const json_t *feature = json_object_get(stats, key);
    if (!json_is_object(feature))
        return pi0_fail(err, PI0_E_FORMAT, "%s: norm_stats.%s is %s, expected an object", label,
                        key, feature ? "not an object" : "absent");
    int quantile = mode == NORM_QUANTILE, n_mean = 0;
    out->kind = quantile ? STAT_OPENPI_QUANTILE : STAT_OPENPI_ZSCORE;
    double unused[STATS_MAX_DIM] = { 0 };
    for (int i = 0; i < 4; i++) {
        const json_t *v = json_object_get(feature, names[i]);
        if (i >= 2 && !quantile && (!v || json_is_null(v)))
            continue;
        int used = quantile == (i >= 2), n = 0;
        double *to = !used ? unused : i % 2 == 0 ? out->a : out->b;
        pi0_status st = read_vector(to, &n, feature, key, names[i], label, err);
        if (st)
            return st;
        if (i == 0)
            n_mean = n;
        if (n != n_mean)
            return pi0_fail(err, PI0_E_FORMAT,
                            "%s: norm_stats.%s.%s has %d numbers, expected %d, as many as mean",
                            label, key, names[i], n, n_mean);
    }
    out->n = n_mean;
    return PI0_OK;
}

pi0_status stats_parse(struct norm_stats *out, const void *bytes, size_t n_bytes,
                       enum norm_mode mode, const char *label, struct pi0_error *err)
{
    json_error_t why;
    json_t *root = json_loadb(bytes, n_bytes, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return pi0_fail(err, PI0_E_FORMAT, "%s: line %d, column %d: %s", label, why.line,
                        why.column, why.text);
    pi0_status st;
    const json_t *stats = json_object_get(root, "norm_stats");
    struct norm_stats *s = calloc(1, sizeof *s);
    if (!s)
        st = pi0_fail(err, PI0_E_NOMEM, "%s: %zu bytes cannot be had", label, sizeof *s);
    else if (!json_is_object(stats))
        st = pi0_fail(err, PI0_E_FORMAT, "%s: no object \"norm_stats\"", label);
    else if (!(st = read_feature(&s->state, stats, "state", mode, label, err)) &&
             !(st = read_feature(&s->actions, stats, "actions", mode, label, err)))
        *out = *s;
    free(s);
    json_decref(root);
    return st;
}

pi0_status stats_load(struct norm_stats *out, const char *path, enum norm_mode mode,
                      struct pi0_error *err)
{
    unsigned char *bytes;
    size_t n;
    pi0_status st = file_read(&bytes, &n, path, STATS_MAX_BYTES, err);
    if (st)
        return st;
    st = stats_parse(out, bytes, n, mode, path, err);
    free(bytes);
    return st;
}

/* ---------------------------------------------------------------- finding the file */

/* openpi's asset ids are at most two folders deep ("physical-intelligence/libero"). */
#define FIND_MAX_DEPTH 4
#define FIND_MAX_ENTRIES 10000

struct search {
    char found[STATS_PATH_BYTES]; /* the first one */
    char all[384];                /* all, for the message: "assets/droid, assets/trossen, …" */
    size_t root_bytes;            /* length of the directory's name, left out of `all` */
    int n_found, n_entries;
};

static int is_file(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

/* path (of length n) + "/" + name, in place; 0 when it does not fit. */
static int extend(char *path, size_t n, const char *name)
{
    int more = snprintf(path + n, STATS_PATH_BYTES - n, "/%s", name);
    return more > 0 && (size_t)more < STATS_PATH_BYTES - n;
}

static void note_found(struct search *s, const char *path, size_t folder_bytes)
{
    if (s->n_found++ == 0)
        snprintf(s->found, sizeof s->found, "%s", path);
    size_t used = strlen(s->all);
    snprintf(s->all + used, sizeof s->all - used, "%s%.*s", used ? ", " : "",
             (int)(folder_bytes - s->root_bytes - 1), path + s->root_bytes + 1);
}

/* Looks for norm_stats.json in the folder `path` (n bytes, a buffer of STATS_PATH_BYTES) and below.
 * What cannot be read is as good as absent. */
static void search_folder(struct search *s, char *path, size_t n, int depth)
{
    if (extend(path, n, "norm_stats.json") && is_file(path))
        note_found(s, path, n);
    path[n] = '\0';
    DIR *dir = depth < FIND_MAX_DEPTH ? opendir(path) : NULL;
    if (!dir)
        return;
    const struct dirent *e;
    while ((e = readdir(dir)) && ++s->n_entries <= FIND_MAX_ENTRIES) {
        struct stat info;
        if (e->d_name[0] != '.' && extend(path, n, e->d_name) && stat(path, &info) == 0 &&
            S_ISDIR(info.st_mode))
            search_folder(s, path, strlen(path), depth + 1);
        path[n] = '\0';
    }
    closedir(dir);
}

/* 1 if an asset id stays below assets/: no empty, "." or ".." component. */
static int asset_id_is_plain(const char *id)
{
    for (;;) {
        size_t n = strcspn(id, "/");
        if (n == 0 || (n == 1 && id[0] == '.') || (n == 2 && id[0] == '.' && id[1] == '.'))
            return 0;
        if (id[n] == '\0')
            return 1;
        id += n + 1;
    }
}

pi0_status stats_find(char path[STATS_PATH_BYTES], const char *dir, const char *asset_id,
                      struct pi0_error *err)
{
    char p[STATS_PATH_BYTES];
    size_t n = strlen(dir);
    path[0] = '\0';
    if (n + sizeof "/assets/norm_stats.json" > sizeof p)
        return pi0_fail(err, PI0_E_ARGUMENT, "checkpoint directory's name is too long: %zu bytes",
                        n);
    if (asset_id[0] != '\0') {
        if (!asset_id_is_plain(asset_id))
            return pi0_fail(err, PI0_E_FORMAT,
                            "asset_id \"%s\" does not name a folder below assets", asset_id);
        int used = snprintf(p, sizeof p, "%s/assets/%s/norm_stats.json", dir, asset_id);
        if (used > 0 && (size_t)used < sizeof p && is_file(p)) {
            memcpy(path, p, sizeof p);
            return PI0_OK;
        }
    }
    memcpy(p, dir, n);
    if (extend(p, n, "norm_stats.json") && is_file(p)) {
        memcpy(path, p, sizeof p);
        return PI0_OK;
    }
    struct search s = { .root_bytes = n };
    if (extend(p, n, "assets"))
        search_folder(&s, p, strlen(p), 0);
    if (s.n_found > 1)
        return pi0_fail(
            err, PI0_E_ARGUMENT,
            "%s holds %d norm_stats.json and no preset or pi0.json says which one holds: "
            "%s; name one",
            dir, s.n_found, s.all);
    memcpy(path, s.found, sizeof s.found);
    return PI0_OK;
}
