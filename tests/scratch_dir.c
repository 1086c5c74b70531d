/* SPDX-License-Identifier: Apache-2.0
 * scratch_dir: see scratch_dir.h. */
#include "scratch_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void scratch_make(struct scratch_dir *d)
{
    snprintf(d->path, sizeof d->path, "/tmp/pi0-test-XXXXXX");
    assert_non_null(mkdtemp(d->path));
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *where)
{
    (void)info;
    (void)type;
    (void)where;
    return remove(path);
}

void scratch_remove(struct scratch_dir *d)
{
    if (d->path[0])
        assert_int_equal(nftw(d->path, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
    d->path[0] = '\0';
}

const char *scratch_path(const struct scratch_dir *d, const char *name)
{
    static char paths[4][512];
    static int next;
    char *p = paths[next++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", d->path, name);
    return p;
}

void scratch_put(const struct scratch_dir *d, const char *name, const void *bytes, size_t n)
{
    char path[512];
    snprintf(path, sizeof path, "%s", scratch_path(d, name));
    for (char *p = path + strlen(d->path) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(path, 0700);
        *p = '/';
    }
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

void scratch_text(const struct scratch_dir *d, const char *name, const char *text)
{
    scratch_put(d, name, text, strlen(text));
}

void scratch_copy(const struct scratch_dir *d, const char *name, const char *from)
{
    static unsigned char bytes[1 << 16];
    FILE *f = fopen(from, "rb");
    assert_non_null(f);
    size_t n = fread(bytes, 1, sizeof bytes, f);
    assert_true(n < sizeof bytes);
    fclose(f);
    scratch_put(d, name, bytes, n);
}

void scratch_drop(const struct scratch_dir *d, const char *name)
{
    assert_int_equal(remove(scratch_path(d, name)), 0);
}

void scratch_vectors(const struct scratch_dir *d, const char *name, const char *const *names,
                     const float *const *values, int n_vectors, int n)
{
    static char file[1 << 16];
    size_t bytes = (size_t)n * sizeof(float), at = 8;
    at += (size_t)sprintf(file + at, "{");
    for (int i = 0; i < n_vectors; i++)
        at += (size_t)sprintf(
            file + at, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%zu,%zu]}",
            i ? "," : "", names[i], n, (size_t)i * bytes, (size_t)(i + 1) * bytes);
    at += (size_t)sprintf(file + at, "}");
    uint64_t header = at - 8;
    memcpy(file, &header, sizeof header);
    for (int i = 0; i < n_vectors; i++, at += bytes)
        memcpy(file + at, values[i], bytes);
    scratch_put(d, name, file, at);
}
