/* SPDX-License-Identifier: Apache-2.0
 * arena: see arena.h. The block comes from mmap, so that huge pages can be asked for and that it
 * starts zeroed. */
#include "base/arena.h"

#include "base/checked.h"

#include <string.h>
#include <sys/mman.h>

#define ARENA_ALIGN ((size_t)64)
#define HUGE_PAGE ((size_t)2 << 20)

void *arena_take(struct arena *a, size_t n, size_t elem)
{
    size_t bytes, end;
    if (checked_mul(n, elem, &bytes) || checked_add(bytes, ARENA_ALIGN - 1, &bytes) ||
        checked_add(a->used, bytes & ~(ARENA_ALIGN - 1), &end) || (a->base && end > a->size)) {
        a->overflowed = 1;
        return NULL;
    }
    void *p = a->base ? a->base + a->used : NULL;
    a->used = end;
    return p;
}

pi0_status arena_alloc(struct arena *a, const char *what, struct pi0_error *err)
{
    if (a->overflowed || a->used > (size_t)-1 - HUGE_PAGE)
        return pi0_fail(err, PI0_E_NOMEM, "%s: the size does not fit in memory", what);
    size_t size = (a->used + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    if (size == 0)
        size = HUGE_PAGE;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return pi0_fail(err, PI0_E_NOMEM, "%s: %zu bytes cannot be had", what, size);
    (void)madvise(p, size, MADV_HUGEPAGE); /* a wish: refusal only costs speed */
    memset(p, 0, a->used);                 /* first touch belongs to open, not to the first call */
    a->base = p;
    a->size = size;
    a->used = 0;
    return PI0_OK;
}

void arena_free(struct arena *a)
{
    if (a->base)
        munmap(a->base, a->size);
    *a = (struct arena){ 0 };
}
