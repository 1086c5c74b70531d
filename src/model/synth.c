/* SPDX-License-Identifier: Apache-2.0
 * synth: values computed from name, seed and index. They are the golden cases' (docs/model.md
 * "Synthetic weights"), to the last bit. synth_write.c makes files of them. */
#include "model/synth.h"

#include <math.h>
#include <string.h>

/* FNV-1a, 64 bits. */
static uint64_t hash_name(const char *name)
{
    uint64_t h = 0xCBF29CE484222325u;
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 0x100000001B3u;
    return h;
}

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* value = bf16(u·a + b), u uniform in [-1, 1): biases ±0.05, gains within 0.2 of their neutral
 * value (1 for a LayerNorm, 0 for an RMSNorm that stores the offset from 1), matrices of variance
 * 1 / fan_in. */
void synth_tensor(const struct weight_entry *e, uint64_t seed)
{
    struct tensor *t = e->field;
    *t = (struct tensor){ .dtype = DT_BF16, .rank = e->rank, .n = 1 };
    for (int i = 0; i < e->rank; i++) {
        t->shape[i] = e->shape[i];
        t->n *= (size_t)e->shape[i];
    }
    t->synth_base = hash_name(e->name) ^ (seed * 0xD1B54A32D192ED03u);
    if (ends_with(e->name, ".bias")) {
        t->synth_a = 0.05f;
    } else if (e->rank == 1) {
        t->synth_a = 0.2f;
        t->synth_b = e->group == WEIGHTS_VISION ? 1.0f : 0.0f;
    } else {
        size_t fan_in = t->n / (size_t)e->shape[0];
        t->synth_a = (float)sqrt(3.0 / (double)fan_in);
    }
}

/* splitmix64 of the index; the upper 24 bits make u. */
void synth_fill(const struct tensor *t, size_t first, size_t n, uint16_t *dst)
{
    const float a = t->synth_a, b = t->synth_b;
    uint64_t at = t->synth_base + (first + 1) * 0x9E3779B97F4A7C15u;
    for (size_t i = 0; i < n; i++, at += 0x9E3779B97F4A7C15u) {
        uint64_t z = at;
        z ^= z >> 30;
        z *= 0xBF58476D1CE4E5B9u;
        z ^= z >> 27;
        z *= 0x94D049BB133111EBu;
        z ^= z >> 31;
        float u = (float)(int32_t)(z >> 40) * 0x1p-23f - 1.0f;
        uint32_t bits = f32_bits(u * a + b); /* finite: no NaN to keep */
        dst[i] = (uint16_t)((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
    }
}

static pi0_status visit_synth(void *user, const struct weight_entry *e, struct pi0_error *err)
{
    (void)err;
    synth_tensor(e, *(const uint64_t *)user);
    return PI0_OK;
}

pi0_status synth_weights(struct weights *w, const struct pi0_dims *d, uint64_t seed,
                         struct pi0_error *err)
{
    pi0_status st = weights_alloc(w, d, err);
    if (!st)
        st = weights_walk(w, d, visit_synth, &seed, err);
    return st;
}
