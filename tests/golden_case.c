/* SPDX-License-Identifier: Apache-2.0
 * golden_case: see golden_case.h. */
#include "golden_case.h"

#include "backend/cpu/cpuid.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Copies a tensor behind *used, so that it is aligned whatever the file's offsets are. */
static const void *keep(struct golden *g, size_t *used, const char *name)
{
    const struct st_tensor *t = st_find(g->io, name);
    if (!t)
        return NULL;
    void *dst = g->aligned + *used;
    memcpy(dst, t->data, t->bytes);
    *used += (t->bytes + 63) & ~(size_t)63;
    return dst;
}

pi0_status golden_open(struct golden *g, const char *name, struct pi0_error *err)
{
    char dir[256];
    pi0_status st;
    memset(g, 0, sizeof *g);
    snprintf(dir, sizeof dir, "tests/golden/%s", name);
    snprintf(g->io_path, sizeof g->io_path, "%s/io.safetensors", dir);
    if ((st = pi0_case_read(&g->c, dir, err)))
        return st;
    if ((st = g->c.weights_dir[0]
                  ? pi0_model_open(&g->model, g->c.weights_dir, NULL, err)
                  : pi0_model_open_synthetic(&g->model, &g->c.dims, g->c.seed, err)) ||
        (st = st_open_file(&g->io, g->io_path, err)))
        return st;
    size_t used = 0, bytes = 64;
    for (size_t i = 0; i < g->io->n_tensors; i++)
        bytes += (g->io->tensors[i].bytes + 63) & ~(size_t)63;
    if (!(g->aligned = malloc(bytes)))
        return pi0_fail(err, PI0_E_NOMEM, "golden case: %zu bytes", bytes);
    const struct st_tensor *tokens = st_find(g->io, "tokens"), *mask = st_find(g->io, "image_mask");
    const unsigned char *images = keep(g, &used, "images_u8");
    if (!tokens || !mask || !images)
        return pi0_fail(err, PI0_E_FORMAT, "%s: inputs are missing", g->io_path);
    g->in = (struct pi0_input){
        .tokens = keep(g, &used, "tokens"),
        .token_mask = keep(g, &used, "token_mask"),
        .n_tokens = (int)tokens->n,
        .state = keep(g, &used, "state"),
        .noise = keep(g, &used, "noise"),
    };
    size_t image_bytes = (size_t)g->c.dims.image_size * (size_t)g->c.dims.image_size * 3;
    for (int i = 0; i < g->c.dims.n_cameras; i++) {
        g->in.pixels[i] = images + (size_t)i * image_bytes;
        g->in.camera_mask[i] = mask->data[i];
    }
    return PI0_OK;
}

void golden_close(struct golden *g)
{
    pi0_model_close(g->model);
    if (g->io)
        st_close(g->io);
    free(g->aligned);
    memset(g, 0, sizeof *g);
}

int golden_isa(int i, uint32_t *mask, const char **name)
{
    static const uint32_t sets[] = { 0, PI0_ISA_AVX2, PI0_ISA_AVX512, PI0_ISA_AVX512_BF16,
                                     PI0_ISA_AMX_BF16 };
    uint32_t all = 0;
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) {
        all |= sets[s];
        if (cpuid_isa(all) != all)
            continue;
        if (i-- == 0) {
            *mask = all;
            *name = cpuid_isa_name(all);
            return 1;
        }
    }
    return 0;
}
