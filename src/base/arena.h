/* SPDX-License-Identifier: Apache-2.0
 * arena: one block of host memory, carved once at open, freed once at close. Two passes over the
 * same carving code: a measuring arena (base NULL) adds up sizes, arena_alloc() then takes the
 * block, and the second pass hands out pointers. Every piece starts on a 64-byte line. Not
 * thread-safe. */
#ifndef PI0_BASE_ARENA_H
#define PI0_BASE_ARENA_H

#include "base/status.h"

struct arena {
    unsigned char *base; /* NULL while measuring */
    size_t size;         /* bytes of the block; while measuring, unlimited */
    size_t used;         /* bytes handed out; after the measuring pass, what arena_alloc takes */
    int overflowed;      /* a size did not fit in size_t, or the block was too small */
};

/* A piece of n · elem bytes, 64-byte aligned, contents undefined. While measuring it returns NULL
 * and counts. */
void *arena_take(struct arena *a, size_t n, size_t elem);

/* Ends the measuring pass: takes a block of a->used bytes (zeroed, touched, on huge pages where
 * offered) and rewinds. */
pi0_status arena_alloc(struct arena *a, const char *what, struct pi0_error *err);
void arena_free(struct arena *a);

#endif
