/* SPDX-License-Identifier: Apache-2.0
 * synth_write: a synthetic checkpoint as files (model.safetensors, config.json) that pi0_model_open
 * reads back. Several threads each make and write their own pieces of the value area, so memory is
 * a few MiB whatever the model. Files get their names only when both are complete; whatever a
 * failure left is removed. */
#include "base/threads.h"
#include "io/mapfile.h"
#include "model/config.h"
#include "model/synth.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define PIECE_VALUES ((size_t)2 << 20) /* 4 MiB of bf16 */
#define MAX_THREADS 8                  /* past this the disk is the limit */
#define PATH_BYTES 4096

/* One tensor of the file; offsets are those of safetensors, from the end of the header. */
struct entry {
    struct tensor tensor;
    char *name;
    uint64_t begin;
};

struct writer {
    struct entry *entries;
    size_t n, capacity;
    uint64_t value_bytes;
    char *header; /* length prefix, JSON, padding */
    size_t header_bytes;
    int fd;
    uint16_t *buffers; /* [threads][PIECE_VALUES] */
    size_t n_pieces;
    atomic_size_t done;
    atomic_int error; /* errno of the first failed write */
    atomic_int stop;  /* the caller asked for it */
    uint64_t seed;
    pi0_progress_fn progress;
    void *progress_user;
};

struct paths {
    char dir[PATH_BYTES];
    char model[PATH_BYTES], model_part[PATH_BYTES];
    char config[PATH_BYTES], config_part[PATH_BYTES];
    int made_dir;
};

/* ---------------------------------------------------------------- header */

static pi0_status add_entry(void *user, const struct weight_entry *e, struct pi0_error *err)
{
    struct writer *w = user;
    if (w->n == w->capacity) {
        size_t capacity = w->capacity ? 2 * w->capacity : 1024;
        struct entry *more = realloc(w->entries, capacity * sizeof *more);
        if (!more)
            return pi0_fail(err, PI0_E_NOMEM, "synth: list of %zu tensors", capacity);
        w->entries = more;
        w->capacity = capacity;
    }
    struct entry *t = &w->entries[w->n];
    struct weight_entry own = *e;
    own.field = &t->tensor;
    synth_tensor(&own, w->seed);
    t->name = strdup(e->name);
    if (!t->name)
        return pi0_fail(err, PI0_E_NOMEM, "synth: a name");
    t->begin = w->value_bytes;
    w->value_bytes += 2 * (uint64_t)t->tensor.n;
    w->n++;
    return PI0_OK;
}

static pi0_status make_header(struct writer *w, struct pi0_error *err)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return pi0_fail(err, PI0_E_NOMEM, "synth: header");
    for (int i = 0; i < 8; i++)
        putc(0, f);
    fputs("{\"__metadata__\":{\"format\":\"pt\"}", f);
    for (size_t i = 0; i < w->n; i++) {
        const struct entry *t = &w->entries[i];
        fprintf(f, ",\"%s\":{\"dtype\":\"BF16\",\"shape\":[", t->name);
        for (int k = 0; k < t->tensor.rank; k++)
            fprintf(f, "%s%d", k ? "," : "", t->tensor.shape[k]);
        fprintf(f, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", t->begin,
                t->begin + 2 * (uint64_t)t->tensor.n);
    }
    putc('}', f);
    fflush(f);                                            /* sets size */
    for (size_t pad = (8 - size % 8) % 8; pad > 0; pad--) /* values start on 8 bytes */
        putc(' ', f);
    int bad = ferror(f);
    if (fclose(f) || bad) {
        free(text);
        return pi0_fail(err, PI0_E_NOMEM, "synth: header of %zu bytes", size);
    }
    uint64_t n = size - 8;
    for (int i = 0; i < 8; i++)
        text[i] = (char)(unsigned char)(n >> (8 * i));
    w->header = text;
    w->header_bytes = size;
    return PI0_OK;
}

/* ---------------------------------------------------------------- values */

/* The entry that byte `at` of the value area lies in. */
static size_t entry_at(const struct writer *w, uint64_t at)
{
    size_t low = 0, high = w->n;
    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;
        if (w->entries[mid].begin <= at)
            low = mid;
        else
            high = mid;
    }
    return low;
}

static void fill_piece(const struct writer *w, uint64_t first, size_t n, uint16_t *dst)
{
    size_t i = entry_at(w, 2 * first);
    while (n > 0) {
        const struct entry *t = &w->entries[i++];
        size_t skip = (size_t)(first - t->begin / 2);
        size_t m = t->tensor.n - skip < n ? t->tensor.n - skip : n;
        synth_fill(&t->tensor, skip, m, dst);
        first += m;
        dst += m;
        n -= m;
    }
}

static int write_at(int fd, const void *data, size_t n, uint64_t at)
{
    const char *p = data;
    while (n > 0) {
        ssize_t wrote = pwrite(fd, p, n, (off_t)at);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return wrote < 0 ? errno : EIO;
        p += wrote;
        n -= (size_t)wrote;
        at += (uint64_t)wrote;
    }
    return 0;
}

/* Thread `index` of `count` takes every count-th piece; thread 0 also reports. */
static void write_pieces(void *arg, int index, int count)
{
    struct writer *w = arg;
    uint16_t *buffer = w->buffers + (size_t)index * PIECE_VALUES;
    uint64_t total = w->value_bytes / 2;
    for (size_t i = (size_t)index; i < w->n_pieces; i += (size_t)count) {
        if (atomic_load(&w->error) || atomic_load(&w->stop))
            return;
        uint64_t first = (uint64_t)i * PIECE_VALUES;
        size_t n = total - first < PIECE_VALUES ? (size_t)(total - first) : PIECE_VALUES;
        fill_piece(w, first, n, buffer);
        int e = write_at(w->fd, buffer, 2 * n, w->header_bytes + 2 * first);
        if (e) {
            int none = 0;
            atomic_compare_exchange_strong(&w->error, &none, e);
            return;
        }
        uint64_t done = 2 * (uint64_t)(atomic_fetch_add(&w->done, n) + n);
        if (index == 0 && w->progress &&
            w->progress(w->progress_user, "writing", done, w->value_bytes))
            atomic_store(&w->stop, 1);
    }
}

/* ---------------------------------------------------------------- files */

static pi0_status io_fail(struct pi0_error *err, const char *path, int e)
{
    return pi0_fail(err, e == ENOMEM ? PI0_E_NOMEM : PI0_E_IO, "%s: %s", path, strerror(e));
}

static pi0_status short_of_space(struct pi0_error *err, const char *dir, uint64_t need,
                                 uint64_t free_bytes)
{
    return pi0_fail(err, PI0_E_IO,
                    "%s: not enough space: %" PRIu64 " bytes needed, %" PRIu64 " free", dir, need,
                    free_bytes);
}

static uint64_t free_space(const char *dir)
{
    struct statvfs v;
    return statvfs(dir, &v) == 0 ? (uint64_t)v.f_bavail * v.f_frsize : UINT64_MAX;
}

static pi0_status make_paths(struct paths *p, const char *dir, struct pi0_error *err)
{
    char part[64];
    pi0_status st;
    memset(p, 0, sizeof *p);
    if (strlen(dir) >= sizeof p->dir)
        return pi0_fail(err, PI0_E_ARGUMENT, "path of %zu bytes is too long", strlen(dir));
    snprintf(p->dir, sizeof p->dir, "%s", dir);
    snprintf(part, sizeof part, ".model.safetensors.%ld", (long)getpid());
    if ((st = path_join(p->model, PATH_BYTES, dir, "model.safetensors", err)) ||
        (st = path_join(p->config, PATH_BYTES, dir, "config.json", err)) ||
        (st = path_join(p->model_part, PATH_BYTES, dir, part, err)))
        return st;
    snprintf(part, sizeof part, ".config.json.%ld", (long)getpid());
    if ((st = path_join(p->config_part, PATH_BYTES, dir, part, err)))
        return st;
    if (mkdir(dir, 0777) == 0)
        p->made_dir = 1;
    else if (errno != EEXIST)
        return io_fail(err, dir, errno);
    return PI0_OK;
}

static pi0_status write_values(struct writer *w, const struct paths *p, struct pi0_error *err)
{
    uint64_t need = w->header_bytes + w->value_bytes, room = free_space(p->dir);
    struct threads *pool = NULL;
    pi0_status st;
    if (room < need)
        return short_of_space(err, p->dir, need, room);
    w->n_pieces = (size_t)((w->value_bytes / 2 + PIECE_VALUES - 1) / PIECE_VALUES);
    int n = threads_available();
    n = n > MAX_THREADS ? MAX_THREADS : n;
    n = (size_t)n > w->n_pieces ? (int)w->n_pieces : n;
    w->buffers = malloc((size_t)n * PIECE_VALUES * sizeof *w->buffers);
    if (!w->buffers)
        return pi0_fail(err, PI0_E_NOMEM, "synth: %d buffers", n);
    w->fd = open(p->model_part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (w->fd < 0)
        return io_fail(err, p->model_part, errno);
    int e = write_at(w->fd, w->header, w->header_bytes, 0);
    if (e)
        return io_fail(err, p->model_part, e);
    if ((st = threads_open(&pool, n, err)))
        return st;
    threads_run(pool, write_pieces, w);
    threads_close(pool);
    e = atomic_load(&w->error);
    if (e == ENOSPC || e == EDQUOT)
        return short_of_space(err, p->dir, need, free_space(p->dir) + 2 * atomic_load(&w->done));
    if (e)
        return io_fail(err, p->model_part, e);
    if (atomic_load(&w->stop))
        return pi0_fail(err, PI0_E_IO, "%s: stopped by the caller", p->model);
    if (w->progress) /* thread 0 need not have had the last piece */
        w->progress(w->progress_user, "writing", w->value_bytes, w->value_bytes);
    int fd = w->fd;
    w->fd = -1;
    return close(fd) ? io_fail(err, p->model_part, errno) : PI0_OK;
}

/* The form of explicit dimensions (config.c read_explicit), which is also a golden case's. */
static pi0_status write_config(const struct paths *p, const struct pi0_dims *d, uint64_t seed,
                               struct pi0_error *err)
{
    char cameras[PI0_MAX_CAMERAS][CONFIG_NAME_BYTES];
    FILE *f = fopen(p->config_part, "we");
    if (!f)
        return io_fail(err, p->config_part, errno);
    config_default_cameras(cameras);
    fprintf(f, "{\n \"name\": \"synthetic\",\n \"model\": \"%s\",\n \"image_size\": %d,\n",
            d->variant == PI0_VARIANT_PI05 ? "pi05" : "pi0", d->image_size);
    fprintf(f, " \"cameras\": [");
    for (int i = 0; i < d->n_cameras; i++)
        fprintf(f, "%s\"%s\"", i ? ", " : "", cameras[i]);
    fprintf(f,
            "],\n \"max_token_len\": %d,\n \"action_dim\": %d,\n \"action_horizon\": %d,\n"
            " \"num_steps\": 10,\n",
            d->max_token_len, d->action_dim, d->action_horizon);
    fprintf(f,
            " \"vision\": {\"width\": %d, \"depth\": %d, \"mlp_dim\": %d, \"heads\": %d, "
            "\"patch_size\": %d},\n",
            d->vision_width, d->vision_depth, d->vision_mlp_dim, d->vision_heads, d->patch_size);
    fprintf(f,
            " \"vlm\": {\"width\": %d, \"depth\": %d, \"mlp_dim\": %d, \"heads\": %d, "
            "\"kv_heads\": %d, \"head_dim\": %d, \"vocab_size\": %d},\n",
            d->vlm_width, d->depth, d->vlm_mlp_dim, d->heads, d->kv_heads, d->head_dim,
            d->vocab_size);
    fprintf(f,
            " \"expert\": {\"width\": %d, \"depth\": %d, \"mlp_dim\": %d, \"heads\": %d, "
            "\"kv_heads\": %d, \"head_dim\": %d}",
            d->expert_width, d->depth, d->expert_mlp_dim, d->heads, d->kv_heads, d->head_dim);
    if (seed <= INT64_MAX) /* JSON integers are read as int64 */
        fprintf(f, ",\n \"seed\": %" PRIu64, seed);
    fputs("\n}\n", f);
    int bad = ferror(f);
    if (fclose(f) || bad)
        return io_fail(err, p->config_part, errno ? errno : EIO);
    return PI0_OK;
}

static void writer_free(struct writer *w)
{
    for (size_t i = 0; i < w->n; i++)
        free(w->entries[i].name);
    free(w->entries);
    free(w->header);
    free(w->buffers);
    if (w->fd >= 0)
        close(w->fd);
}

/* Both files get their names, or neither stays. */
static pi0_status give_names(const struct paths *p, struct pi0_error *err)
{
    if (rename(p->model_part, p->model) != 0)
        return io_fail(err, p->model, errno);
    if (rename(p->config_part, p->config) != 0) {
        pi0_status st = io_fail(err, p->config, errno);
        unlink(p->model);
        return st;
    }
    return PI0_OK;
}

pi0_status pi0_synth_write(const char *dir, const struct pi0_dims *dims, uint64_t seed,
                           pi0_progress_fn progress, void *progress_user, struct pi0_error *err)
{
    struct writer w = {
        .fd = -1, .seed = seed, .progress = progress, .progress_user = progress_user
    };
    struct weights table = { .vision = NULL };
    struct paths *p = NULL;
    pi0_status st;
    if (!dir || !*dir || !dims)
        return pi0_fail(err, PI0_E_ARGUMENT, "pi0_synth_write: NULL or empty argument");
    atomic_init(&w.done, 0);
    atomic_init(&w.error, 0);
    atomic_init(&w.stop, 0);
    if ((st = config_check(dims, err)) || (st = weights_alloc(&table, dims, err)))
        return st;
    if ((st = weights_walk(&table, dims, add_entry, &w, err)) || (st = make_header(&w, err)))
        goto done;
    p = calloc(1, sizeof *p);
    if (!p) {
        st = pi0_fail(err, PI0_E_NOMEM, "synth: %zu bytes", sizeof *p);
        goto done;
    }
    if ((st = make_paths(p, dir, err)))
        goto done;
    if ((st = write_values(&w, p, err)) || (st = write_config(p, dims, seed, err)) ||
        (st = give_names(p, err))) {
        unlink(p->model_part);
        unlink(p->config_part);
        if (p->made_dir)
            rmdir(dir);
    }
done:
    free(p);
    writer_free(&w);
    weights_free(&table);
    return st;
}
