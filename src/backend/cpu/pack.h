/* SPDX-License-Identifier: Apache-2.0
 *
 * pack: checkpoint tensors → the layout of struct packed (ops.h), panels of 16 output features. One
 * layout serves every instruction set:
 *
 *   bf16   panel p:  k=0,1           k=2,3           …       f32   panel p:  k=0      k=1      …
 *          f0 f0 f1 f1 … f15 f15 | f0 f0 f1 f1 …                   f0 … f15 | f0 … f15 | …
 *
 * Knows how features of several tensors are joined; not which tensors a layer has (load.c). */
#ifndef PI0_BACKEND_CPU_PACK_H
#define PI0_BACKEND_CPU_PACK_H

#include "backend/cpu/ops.h"
#include "model/weights.h"

#define PACK_MAX_PARTS 3
#define PACK_SCRATCH_BYTES ((size_t)CPU_PANEL * 1024 * sizeof(float))

enum pack_join {
    PACK_STACKED,    /* features of part 0, then of part 1, … (q | k | v) */
    PACK_INTERLEAVED /* panel by panel: 16 features of part 0, 16 of part 1, … (gate, up) */
};

/* Tensors that make one matrix: each [n, row length], columns [col, col + k) of every row. */
struct pack_source {
    const struct tensor *part[PACK_MAX_PARTS];
    int n_parts;
    enum pack_join join;
    int col, k; /* k = 0: whole rows */
};

/* Dimensions of `out` (w and bias are left alone). */
void pack_shape(struct packed *out, const struct pack_source *src, enum dtype dtype);
size_t pack_bytes(const struct packed *p);

/* Panels [begin, end) into dst, the block of p->w. Values are converted to p->dtype. Returns -1, or
 * the index of the first part in which a value of these panels is not finite once converted.
 * `scratch`: PACK_SCRATCH_BYTES. */
int pack_panels(void *dst, const struct packed *p, const struct pack_source *src, int begin,
                int end, void *scratch);

#endif
