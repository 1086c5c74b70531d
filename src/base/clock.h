/* SPDX-License-Identifier: Apache-2.0
 * clock: monotonic wall time. */
#ifndef PI0_BASE_CLOCK_H
#define PI0_BASE_CLOCK_H

#include <time.h>

/* Milliseconds since some fixed moment. Needs POSIX (_GNU_SOURCE or _POSIX_C_SOURCE in the
 * including file). */
static inline double clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

#endif
