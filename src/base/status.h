/* SPDX-License-Identifier: Apache-2.0
 * status: how a failure travels. A function that can fail returns pi0_status; the place that knows
 * the fault fills the nullable struct pi0_error once, through pi0_fail(); callers above only pass
 * the status on. */
#ifndef PI0_BASE_STATUS_H
#define PI0_BASE_STATUS_H

#include "pi0.h"

/* Fills *err (if not NULL) with `status` and the formatted message, cut to fit, and returns
 * `status`. Control characters and bytes that are not printable ASCII or valid UTF-8 come out as
 * '?': file contents reach it. */
pi0_status pi0_fail(struct pi0_error *err, pi0_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The analyzer sees one file at a time: this tells it that the result is the argument. */
#ifdef __clang_analyzer__
#define pi0_fail(err, status, ...) ((void)(pi0_fail)(err, status, __VA_ARGS__), (status))
#endif

#endif
