/* SPDX-License-Identifier: Apache-2.0
 * safetensors: see safetensors.h. A file is
 *
 *     0        8                  8 + n                              end of file
 *     | n u64le | n bytes of JSON  | values of all tensors, no gaps   |
 *
 * with one JSON member a tensor: {"dtype", "shape", "data_offsets": [begin, end)} counted from
 * 8 + n, and an optional "__metadata__" of strings. Every byte is hostile: nothing is allocated
 * from a number in the file before that number was held against the file's size or a limit. Which
 * tensors a model needs, and their shapes, is model/weights.c's business. */
#include "io/safetensors.h"

#include "base/checked.h"
#include "io/mapfile.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PREFIX_BYTES ((size_t)8)
#define PATH_BYTES 4096
#define VALUES_A_TENSOR 16 /* JSON values of one entry: 6, and 8 dimensions; 2 to spare */
#define METADATA_KEY "__metadata__"

/* What keeps the views of a set alive: one a file. */
struct st_file_ref {
    struct st_file_ref *next;
    struct mapfile map; /* empty when the caller owns the bytes */
    char *names;        /* all names of the file, each NUL-terminated */
};

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
    [ST_F64] = { "F64", 8 },   [ST_F32] = { "F32", 4 }, [ST_F16] = { "F16", 2 },
    [ST_BF16] = { "BF16", 2 }, [ST_I64] = { "I64", 8 }, [ST_I32] = { "I32", 4 },
    [ST_I16] = { "I16", 2 },   [ST_I8] = { "I8", 1 },   [ST_U64] = { "U64", 8 },
    [ST_U32] = { "U32", 4 },   [ST_U16] = { "U16", 2 }, [ST_U8] = { "U8", 1 },
    [ST_BOOL] = { "BOOL", 1 },
};
#define N_DTYPES (sizeof dtypes / sizeof dtypes[0])

const char *st_dtype_name(enum st_dtype t)
{
    return (size_t)t < N_DTYPES ? dtypes[t].name : "unknown";
}

size_t st_dtype_bytes(enum st_dtype t) { return (size_t)t < N_DTYPES ? dtypes[t].bytes : 0; }

/* The end of a long label: a path's last part says most, and the message has 512 bytes. */
static const char *tail(const char *label)
{
    size_t n = strlen(label);
    return n > 160 ? label + n - 160 : label;
}

/* ---------------------------------------------------------------- JSON */

/* How much a parsed text would hold, from the text alone: the parser builds a tree of everything
 * before we see any of it, so its size and depth are bounded first. Every value is the first in an
 * array or object or follows a comma. Malformed text is the parser's to refuse. */
static void json_measure(const char *text, size_t n, size_t *n_values, int *max_depth)
{
    size_t values = 1;
    int depth = 0, deepest = 0, in_string = 0;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = 0;
            continue;
        }
        switch (c) {
        case '"': in_string = 1; break;
        case ',': values++; break;
        case '[':
        case '{':
            values++;
            if (depth < ST_MAX_DEPTH + 1)
                depth++;
            if (depth > deepest)
                deepest = depth;
            break;
        case ']':
        case '}':
            if (depth > 0)
                depth--;
            break;
        default: break;
        }
    }
    *n_values = values;
    *max_depth = deepest;
}

/* Text → object, within the limits, without duplicate keys. */
static pi0_status json_object_read(json_t **out, const void *text, size_t n, const char *label,
                                   const char *what, struct pi0_error *err)
{
    size_t n_values;
    int depth;
    json_measure(text, n, &n_values, &depth);
    if (depth > ST_MAX_DEPTH)
        return pi0_fail(err, PI0_E_FORMAT, "%s: %s nests deeper than %d levels", tail(label), what,
                        ST_MAX_DEPTH);
    if (n_values > (size_t)ST_MAX_TENSORS * VALUES_A_TENSOR)
        return pi0_fail(err, PI0_E_FORMAT, "%s: %s has up to %zu JSON values, expected at most %d",
                        tail(label), what, n_values, ST_MAX_TENSORS * VALUES_A_TENSOR);
    json_error_t je;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES, &je);
    if (!root) {
        if (json_error_code(&je) == json_error_out_of_memory || je.text[0] == '\0')
            return pi0_fail(err, PI0_E_NOMEM, "%s: %s: no memory to parse it", tail(label), what);
        return pi0_fail(err, PI0_E_FORMAT, "%s: %s is not valid JSON: %s (byte %d)", tail(label),
                        what, je.text, je.position);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return pi0_fail(err, PI0_E_FORMAT, "%s: %s is a JSON array, expected an object",
                        tail(label), what);
    }
    *out = root;
    return PI0_OK;
}

/* A JSON integer ≥ 0. The parser already refused what does not fit in 63 bits. */
static int json_u64(const json_t *v, uint64_t *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return -1;
    *out = (uint64_t)json_integer_value(v);
    return 0;
}

/* ---------------------------------------------------------------- one file */

struct parse { /* one file being parsed; for messages and for the offsets */
    const char *label;
    const unsigned char *values; /* first byte behind the header */
    size_t values_bytes;
    struct pi0_error *err;
};

static pi0_status entry_dtype(const struct parse *p, struct st_tensor *t, const json_t *entry)
{
    const json_t *v = json_object_get(entry, "dtype");
    if (!json_is_string(v))
        return pi0_fail(p->err, PI0_E_FORMAT, "%s: tensor %.200s: no \"dtype\" string",
                        tail(p->label), t->name);
    const char *name = json_string_value(v);
    for (size_t i = 0; i < N_DTYPES; i++)
        if (strcmp(name, dtypes[i].name) == 0) {
            t->dtype = (enum st_dtype)i;
            return PI0_OK;
        }
    return pi0_fail(p->err, PI0_E_FORMAT,
                    "%s: tensor %.160s: dtype %.20s, expected F64, F32, F16, BF16, I64, I32, I16, "
                    "I8, U64, U32, U16, U8 or BOOL",
                    tail(p->label), t->name, name);
}

static pi0_status entry_shape(const struct parse *p, struct st_tensor *t, const json_t *entry)
{
    const json_t *v = json_object_get(entry, "shape");
    if (!json_is_array(v))
        return pi0_fail(p->err, PI0_E_FORMAT, "%s: tensor %.200s: no \"shape\" array",
                        tail(p->label), t->name);
    size_t rank = json_array_size(v);
    if (rank > ST_MAX_RANK)
        return pi0_fail(p->err, PI0_E_FORMAT, "%s: tensor %.200s: rank %zu, expected at most %d",
                        tail(p->label), t->name, rank, ST_MAX_RANK);
    t->rank = (int)rank;
    size_t n = 1, bytes;
    for (size_t i = 0; i < rank; i++) {
        if (json_u64(json_array_get(v, i), &t->shape[i]))
            return pi0_fail(p->err, PI0_E_FORMAT,
                            "%s: tensor %.200s: dimension %zu is not an integer ≥ 0",
                            tail(p->label), t->name, i);
        if (t->shape[i] > SIZE_MAX || checked_mul(n, (size_t)t->shape[i], &n))
            return pi0_fail(p->err, PI0_E_FORMAT,
                            "%s: tensor %.200s: the product of its shape overflows at dimension "
                            "%zu (%" PRIu64 ")",
                            tail(p->label), t->name, i, t->shape[i]);
    }
    if (checked_mul(n, dtypes[t->dtype].bytes, &bytes))
        return pi0_fail(p->err, PI0_E_FORMAT, "%s: tensor %.200s: %zu values of %s overflow",
                        tail(p->label), t->name, n, dtypes[t->dtype].name);
    t->n = n;
    t->bytes = bytes;
    return PI0_OK;
}

static pi0_status entry_offsets(const struct parse *p, struct st_tensor *t, const json_t *entry)
{
    const json_t *v = json_object_get(entry, "data_offsets");
    uint64_t begin, end;
    if (!json_is_array(v) || json_array_size(v) != 2 || json_u64(json_array_get(v, 0), &begin) ||
        json_u64(json_array_get(v, 1), &end))
        return pi0_fail(p->err, PI0_E_FORMAT,
                        "%s: tensor %.200s: \"data_offsets\" is not a pair of integers ≥ 0",
                        tail(p->label), t->name);
    if (begin > end || end > p->values_bytes)
        return pi0_fail(p->err, PI0_E_FORMAT,
                        "%s: tensor %.200s: offsets %" PRIu64 " to %" PRIu64
                        ", expected ascending and within the file's %zu bytes of values",
                        tail(p->label), t->name, begin, end, p->values_bytes);
    if (end - begin != t->bytes)
        return pi0_fail(p->err, PI0_E_FORMAT,
                        "%s: tensor %.200s: %" PRIu64 " bytes between its offsets, expected %zu "
                        "(%" PRIu64 " values of %s)",
                        tail(p->label), t->name, end - begin, t->bytes, t->n,
                        dtypes[t->dtype].name);
    t->data = p->values + begin;
    return PI0_OK;
}

static pi0_status check_metadata(const struct parse *p, json_t *v)
{
    const char *key;
    json_t *item;
    if (json_is_null(v))
        return PI0_OK;
    if (!json_is_object(v))
        return pi0_fail(p->err, PI0_E_FORMAT, "%s: " METADATA_KEY " is not an object",
                        tail(p->label));
    json_object_foreach(v, key, item) if (!json_is_string(item)) return pi0_fail(
        p->err, PI0_E_FORMAT, "%s: " METADATA_KEY ": %.200s is not a string", tail(p->label), key);
    return PI0_OK;
}

static int by_place(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    const unsigned char *xe = x->data + x->bytes, *ye = y->data + y->bytes;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return xe != ye ? (xe < ye ? -1 : 1) : strcmp(x->name, y->name);
}

static int by_name(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* The values of all tensors in order of place must cover the rest of the file exactly. */
static pi0_status check_cover(const struct parse *p, struct st_tensor *t, size_t n)
{
    qsort(t, n, sizeof *t, by_place);
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        size_t begin = (size_t)(t[i].data - p->values);
        if (begin < at)
            return pi0_fail(p->err, PI0_E_FORMAT,
                            "%s: tensor %.150s begins at offset %zu and overlaps %.150s, which "
                            "ends at %zu",
                            tail(p->label), t[i].name, begin, t[i - 1].name, at);
        if (begin > at)
            return pi0_fail(p->err, PI0_E_FORMAT,
                            "%s: hole of %zu bytes before tensor %.200s: it begins at offset %zu, "
                            "expected %zu",
                            tail(p->label), begin - at, t[i].name, begin, at);
        at = begin + t[i].bytes;
    }
    if (at != p->values_bytes)
        return pi0_fail(p->err, PI0_E_FORMAT,
                        "%s: %zu bytes of values, expected %zu as the header describes",
                        tail(p->label), p->values_bytes, at);
    return PI0_OK;
}

/* All entries of the header into the set's (allocated) tensors and names. */
static pi0_status read_entries(const struct parse *p, struct st_set *s, json_t *header)
{
    const char *key;
    json_t *entry;
    char *name = s->refs->names;
    size_t n = 0;
    pi0_status st;
    json_object_foreach(header, key, entry)
    {
        if (strcmp(key, METADATA_KEY) == 0) {
            if ((st = check_metadata(p, entry)))
                return st;
            continue;
        }
        struct st_tensor *t = &s->tensors[n++];
        size_t name_bytes = strlen(key) + 1;
        memcpy(name, key, name_bytes);
        t->name = name;
        name += name_bytes;
        if (!json_is_object(entry))
            return pi0_fail(p->err, PI0_E_FORMAT, "%s: tensor %.200s: not a JSON object",
                            tail(p->label), t->name);
        if ((st = entry_dtype(p, t, entry)) || (st = entry_shape(p, t, entry)) ||
            (st = entry_offsets(p, t, entry)))
            return st;
    }
    if ((st = check_cover(p, s->tensors, n)))
        return st;
    qsort(s->tensors, n, sizeof *s->tensors, by_name);
    s->n_tensors = n;
    return PI0_OK;
}

/* An empty set with room for n tensors whose names take names_bytes. */
static pi0_status set_alloc(struct st_set **out, size_t n, size_t names_bytes, const char *label,
                            struct pi0_error *err)
{
    struct st_set *s = calloc(1, sizeof *s);
    if (!s)
        goto fail;
    s->refs = calloc(1, sizeof *s->refs);
    s->tensors = calloc(n ? n : 1, sizeof *s->tensors);
    if (!s->refs || !s->tensors)
        goto fail;
    s->refs->names = malloc(names_bytes ? names_bytes : 1);
    if (!s->refs->names)
        goto fail;
    *out = s;
    return PI0_OK;
fail:
    st_close(s);
    return pi0_fail(err, PI0_E_NOMEM, "%s: no memory for %zu tensors", tail(label), n);
}

static pi0_status parse_header(struct st_set **out, const struct parse *p, const void *text,
                               size_t text_bytes)
{
    json_t *header = NULL;
    struct st_set *s = NULL;
    pi0_status st = json_object_read(&header, text, text_bytes, p->label, "the header", p->err);
    if (st)
        return st;
    size_t n = json_object_size(header) - (json_object_get(header, METADATA_KEY) ? 1 : 0);
    if (n > ST_MAX_TENSORS) {
        st = pi0_fail(p->err, PI0_E_FORMAT, "%s: %zu tensors, expected at most %d", tail(p->label),
                      n, ST_MAX_TENSORS);
        goto done;
    }
    size_t names_bytes = 0; /* fits: a name takes fewer bytes than its place in the header */
    const char *key;
    json_t *entry;
    json_object_foreach(header, key, entry) names_bytes += strlen(key) + 1;
    if ((st = set_alloc(&s, n, names_bytes, p->label, p->err)))
        goto done;
    if ((st = read_entries(p, s, header)))
        goto done;
    *out = s;
    s = NULL;
done:
    json_decref(header);
    st_close(s);
    return st;
}

pi0_status st_parse(struct st_set **out, const void *bytes, size_t n_bytes, const char *label,
                    struct pi0_error *err)
{
    const unsigned char *b = bytes;
    if (n_bytes < PREFIX_BYTES)
        return pi0_fail(err, PI0_E_FORMAT, "%s: %zu bytes, expected at least %zu of safetensors",
                        tail(label), n_bytes, PREFIX_BYTES);
    uint64_t header_bytes = 0;
    for (size_t i = PREFIX_BYTES; i-- > 0;)
        header_bytes = header_bytes << 8 | b[i];
    if (header_bytes > ST_MAX_HEADER_BYTES)
        return pi0_fail(err, PI0_E_FORMAT,
                        "%s: header of %" PRIu64 " bytes, expected at most %d (is it safetensors?)",
                        tail(label), header_bytes, ST_MAX_HEADER_BYTES);
    if (header_bytes > n_bytes - PREFIX_BYTES)
        return pi0_fail(err, PI0_E_FORMAT,
                        "%s: header of %" PRIu64 " bytes, but only %zu follow: truncated",
                        tail(label), header_bytes, n_bytes - PREFIX_BYTES);
    const unsigned char *text = b + PREFIX_BYTES;
    struct parse p = { .label = label,
                       .values = text + header_bytes,
                       .values_bytes = n_bytes - PREFIX_BYTES - (size_t)header_bytes,
                       .err = err };
    struct st_set *s = NULL;
    pi0_status st = parse_header(&s, &p, text, (size_t)header_bytes);
    if (st)
        return st;
    s->file_bytes = n_bytes;
    *out = s;
    return PI0_OK;
}

pi0_status st_open_file(struct st_set **out, const char *path, struct pi0_error *err)
{
    struct mapfile map;
    pi0_status st = mapfile_open(&map, path, err);
    if (st)
        return st;
    struct st_set *s = NULL;
    st = st_parse(&s, map.data, map.size, path, err);
    if (st) {
        mapfile_close(&map);
        return st;
    }
    s->refs->map = map;
    *out = s;
    return PI0_OK;
}

void st_close(struct st_set *s)
{
    if (!s)
        return;
    for (struct st_file_ref *r = s->refs; r;) {
        struct st_file_ref *next = r->next;
        mapfile_close(&r->map);
        free(r->names);
        free(r);
        r = next;
    }
    free(s->tensors);
    free(s);
}

const struct st_tensor *st_find(const struct st_set *s, const char *name)
{
    struct st_tensor key = { .name = name };
    return bsearch(&key, s->tensors, s->n_tensors, sizeof key, by_name);
}

/* ---------------------------------------------------------------- a sharded set */

struct shard {
    const char *file; /* in the index's tree */
    struct st_set *set;
};

static int by_file(const void *a, const void *b)
{
    const struct shard *x = a, *y = b;
    return strcmp(x->file, y->file);
}

/* The distinct files of a weight_map, sorted; each must be a plain name inside the directory. */
static pi0_status shards_list(struct shard **out, size_t *n_out, json_t *map, const char *label,
                              struct pi0_error *err)
{
    size_t n = 0, kept = 0, entries = json_object_size(map);
    const char *key;
    json_t *v;
    if (entries > ST_MAX_TENSORS)
        return pi0_fail(err, PI0_E_FORMAT, "%s: %zu tensors, expected at most %d", tail(label),
                        entries, ST_MAX_TENSORS);
    struct shard *all = calloc(entries ? entries : 1, sizeof *all);
    if (!all)
        return pi0_fail(err, PI0_E_NOMEM, "%s: no memory for %zu tensors", tail(label), entries);
    json_object_foreach(map, key, v)
    {
        const char *file = json_string_value(v);
        if (!file || !*file || strchr(file, '/') || strcmp(file, ".") == 0 || strstr(file, "..")) {
            free(all);
            return pi0_fail(err, PI0_E_FORMAT,
                            "%s: tensor %.120s is in \"%.120s\", expected a plain file name",
                            tail(label), key, file ? file : "(not a string)");
        }
        all[n++].file = file;
    }
    qsort(all, n, sizeof *all, by_file);
    for (size_t i = 0; i < n; i++)
        if (kept == 0 || strcmp(all[kept - 1].file, all[i].file) != 0)
            all[kept++] = all[i];
    if (kept > ST_MAX_SHARDS) {
        free(all);
        return pi0_fail(err, PI0_E_FORMAT, "%s: %zu files, expected at most %d", tail(label), kept,
                        ST_MAX_SHARDS);
    }
    *out = all;
    *n_out = kept;
    return PI0_OK;
}

/* Every tensor that the index lists must lie in the file it names. */
static pi0_status shards_check(const struct shard *shards, size_t n, json_t *map, const char *label,
                               struct pi0_error *err)
{
    const char *key;
    json_t *v;
    json_object_foreach(map, key, v)
    {
        struct shard want = { .file = json_string_value(v) };
        const struct shard *s = bsearch(&want, shards, n, sizeof want, by_file);
        if (!s || !st_find(s->set, key))
            return pi0_fail(err, PI0_E_FORMAT, "%s: tensor %.150s is not in %.150s as listed",
                            tail(label), key, want.file);
    }
    return PI0_OK;
}

/* Two tensors of one name: say which files hold them. */
static pi0_status fail_twice(const struct shard *shards, size_t n, const char *name,
                             const char *label, struct pi0_error *err)
{
    const char *files[2] = { "?", "?" };
    for (size_t i = 0, k = 0; i < n && k < 2; i++)
        if (st_find(shards[i].set, name))
            files[k++] = shards[i].file;
    return pi0_fail(err, PI0_E_FORMAT, "%s: tensor %.120s is in both %.80s and %.80s", tail(label),
                    name, files[0], files[1]);
}

/* The shards' tensors and mappings in one set; the shards' own sets are then empty. */
static pi0_status shards_merge(struct st_set **out, struct shard *shards, size_t n,
                               const char *label, struct pi0_error *err)
{
    struct st_set *s = NULL;
    size_t total = 0;
    for (size_t i = 0; i < n; i++)
        total += shards[i].set->n_tensors; /* both factors are bounded: no overflow */
    if (total > ST_MAX_TENSORS)
        return pi0_fail(err, PI0_E_FORMAT, "%s: %zu tensors in %zu files, expected at most %d",
                        tail(label), total, n, ST_MAX_TENSORS);
    pi0_status st = set_alloc(&s, total, 0, label, err);
    if (st)
        return st;
    for (size_t i = 0; i < n; i++) {
        const struct st_set *from = shards[i].set;
        if (from->n_tensors)
            memcpy(s->tensors + s->n_tensors, from->tensors,
                   from->n_tensors * sizeof *from->tensors);
        s->n_tensors += from->n_tensors;
        s->file_bytes += from->file_bytes;
    }
    qsort(s->tensors, total, sizeof *s->tensors, by_name);
    for (size_t i = 1; i < total; i++)
        if (strcmp(s->tensors[i - 1].name, s->tensors[i].name) == 0) {
            st = fail_twice(shards, n, s->tensors[i].name, label, err);
            st_close(s);
            return st;
        }
    for (size_t i = 0; i < n; i++) { /* nothing can fail any more: the mappings change owner */
        shards[i].set->refs->next = s->refs;
        s->refs = shards[i].set->refs;
        shards[i].set->refs = NULL;
    }
    *out = s;
    return PI0_OK;
}

static pi0_status open_shards(struct st_set **out, const char *dir, json_t *map, const char *label,
                              struct pi0_error *err)
{
    struct shard *shards = NULL;
    size_t n = 0;
    char path[PATH_BYTES];
    pi0_status st = shards_list(&shards, &n, map, label, err);
    if (st)
        return st;
    for (size_t i = 0; i < n; i++)
        if ((st = path_join(path, sizeof path, dir, shards[i].file, err)) ||
            (st = st_open_file(&shards[i].set, path, err)))
            goto done;
    if ((st = shards_check(shards, n, map, label, err)))
        goto done;
    st = shards_merge(out, shards, n, label, err);
done:
    for (size_t i = 0; i < n; i++)
        st_close(shards[i].set);
    free(shards);
    return st;
}

static pi0_status open_index(struct st_set **out, const char *dir, const char *path,
                             struct pi0_error *err)
{
    unsigned char *text;
    size_t n;
    json_t *root = NULL;
    pi0_status st = file_read(&text, &n, path, ST_MAX_HEADER_BYTES, err);
    if (st)
        return st;
    if ((st = json_object_read(&root, text, n, path, "the index", err)))
        goto done;
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map))
        st = pi0_fail(err, PI0_E_FORMAT, "%s: no \"weight_map\" object", tail(path));
    else
        st = open_shards(out, dir, map, path, err);
done:
    json_decref(root);
    free(text);
    return st;
}

pi0_status st_open_dir(struct st_set **out, const char *dir, struct pi0_error *err)
{
    char path[PATH_BYTES];
    pi0_status st = path_join(path, sizeof path, dir, "model.safetensors", err);
    if (st)
        return st;
    if (access(path, F_OK) == 0 || errno != ENOENT) /* other reasons: opening it says which */
        return st_open_file(out, path, err);
    if ((st = path_join(path, sizeof path, dir, "model.safetensors.index.json", err)))
        return st;
    if (access(path, F_OK) == 0 || errno != ENOENT)
        return open_index(out, dir, path, err);
    if (access(dir, F_OK) != 0)
        return pi0_fail(err, PI0_E_IO, "%s: %s", tail(dir), strerror(errno));
    return pi0_fail(err, PI0_E_IO,
                    "%s: holds neither model.safetensors nor model.safetensors.index.json",
                    tail(dir));
}
