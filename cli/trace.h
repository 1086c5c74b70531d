/* SPDX-License-Identifier: Apache-2.0
 * trace: the launches that a GPU really ran, from CUPTI's activity records: kernels, copies and fills
 * with their start and end on the device's clock, also those that a graph replays. libcupti is loaded
 * at run time; without it there is no trace, and a reason. One trace at a time in a process. */
#ifndef PI0_CLI_TRACE_H
#define PI0_CLI_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct launch {
    char name[200]; /* as the compiler mangled it, "memcpy" or "memset" */
    uint64_t start_ns, end_ns;
    uint32_t graph; /* 0: not in a graph */
    int grid[3], block[3];
    int registers, shared_bytes;
};

/* To be called before the engine is opened. false: `reason` says why. */
bool trace_open(char *reason, size_t bytes);
/* Forgets what came so far. */
void trace_reset(void);
/* Everything since, sorted by start; the array lives until the next call. `lost`: records that CUPTI
 * dropped or that found no room. */
const struct launch *trace_take(size_t *n, size_t *lost);
void trace_close(void);

#endif
