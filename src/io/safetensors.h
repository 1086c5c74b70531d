/* SPDX-License-Identifier: Apache-2.0
 * safetensors: the container. Reads a header out of bytes (st_parse: pure, hostile input) and maps
 * one file or a sharded set (st_open_dir, st_open_file). Knows names, dtypes, shapes and where the
 * values lie; nothing of models. */
#ifndef PI0_IO_SAFETENSORS_H
#define PI0_IO_SAFETENSORS_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define ST_MAX_RANK 8
/* Limits on what a file may ask for; real checkpoints have some 800 tensors. They bound the memory
 * of the parsed header: at most 16 JSON values a tensor are accepted. */
#define ST_MAX_HEADER_BYTES 100000000 /* of the format's reference implementation */
#define ST_MAX_TENSORS 100000         /* of one file, and of a sharded set */
#define ST_MAX_DEPTH 16               /* nested JSON arrays and objects */
#define ST_MAX_SHARDS 1024

/* All dtypes that the format names and that the golden files or checkpoints use. */
enum st_dtype {
    ST_F64,
    ST_F32,
    ST_F16,
    ST_BF16,
    ST_I64,
    ST_I32,
    ST_I16,
    ST_I8,
    ST_U64,
    ST_U32,
    ST_U16,
    ST_U8,
    ST_BOOL
};
const char *st_dtype_name(enum st_dtype t);
size_t st_dtype_bytes(enum st_dtype t);

struct st_tensor {
    const char *name; /* UTF-8, owned by the set */
    enum st_dtype dtype;
    int rank;
    uint64_t shape[ST_MAX_RANK];
    uint64_t n;                /* product of shape */
    const unsigned char *data; /* n · bytes, in the mapping, possibly unaligned */
    size_t bytes;
};

struct st_set {
    struct st_tensor *tensors; /* sorted by name */
    size_t n_tensors;
    uint64_t file_bytes;
    struct st_file_ref *refs; /* mappings and headers; private */
};

/* One file. */
pi0_status st_open_file(struct st_set **out, const char *path, struct pi0_error *err);
/* DIR/model.safetensors, or else the shards of DIR/model.safetensors.index.json (weight_map: name →
 * file). */
pi0_status st_open_dir(struct st_set **out, const char *dir, struct pi0_error *err);
void st_close(struct st_set *s);
/* NULL if absent. */
const struct st_tensor *st_find(const struct st_set *s, const char *name);

/* The header of one file: `bytes` is the whole file. Checks: header length in the file and ≤ 100
 * MB; JSON; every entry's dtype, rank ≤ 8, shape product, offsets inside the file, ordered,
 * non-overlapping, without holes, size = n · bytes; no duplicate names. Fuzzed. `label` names the
 * file in messages. */
pi0_status st_parse(struct st_set **out, const void *bytes, size_t n_bytes, const char *label,
                    struct pi0_error *err);

#endif
