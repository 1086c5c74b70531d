/* SPDX-License-Identifier: Apache-2.0
 * checked: size arithmetic that reports overflow. Each returns 0 and sets *out, or returns -1 and
 * leaves it. */
#ifndef PI0_BASE_CHECKED_H
#define PI0_BASE_CHECKED_H

#include <stddef.h>

static inline int checked_add(size_t a, size_t b, size_t *out)
{
    size_t r = a + b;
    if (r < a)
        return -1;
    *out = r;
    return 0;
}

static inline int checked_mul(size_t a, size_t b, size_t *out)
{
    if (b != 0 && a > (size_t)-1 / b)
        return -1;
    *out = a * b;
    return 0;
}

#endif
