/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target: st_parse on arbitrary bytes. What it accepts must keep every promise of
 * safetensors.h, and every value of every tensor must be readable. */
#include "io/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
    if (!holds)
        abort();
}

static unsigned char sink;

static void check_tensor(const struct st_set *s, size_t i, const uint8_t *data, size_t size)
{
    const struct st_tensor *t = &s->tensors[i];
    uint64_t n = 1;
    require(t->rank >= 0 && t->rank <= ST_MAX_RANK);
    for (int d = 0; d < t->rank; d++)
        n *= t->shape[d];
    require(t->n == n && t->bytes == n * st_dtype_bytes(t->dtype));
    require(t->data >= data + 8 && t->bytes <= (size_t)(data + size - t->data));
    require(i == 0 || strcmp(s->tensors[i - 1].name, t->name) < 0);
    require(st_find(s, t->name) == t);
    for (size_t k = 0; k < t->bytes; k++)
        sink ^= t->data[k];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_set *s = NULL;
    struct pi0_error err = { 0 };
    pi0_status st = st_parse(&s, data, size, "fuzz", &err);
    if (st) {
        require(st == PI0_E_FORMAT && err.status == st && err.message[0] && !s);
        return 0;
    }
    size_t bytes = 0;
    for (size_t i = 0; i < s->n_tensors; i++) {
        check_tensor(s, i, data, size);
        bytes += s->tensors[i].bytes;
    }
    require(s->file_bytes == size && bytes <= size - 8);
    st_close(s);
    return 0;
}
