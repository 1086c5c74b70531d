/* SPDX-License-Identifier: Apache-2.0
 * trace: see trace.h. CUPTI's callbacks carry no pointer of the caller's, hence the state at file
 * level. The records are read through the head that CUPTI's kernel record has kept since version 4
 * (CUDA 9) and its graph id since version 7 (CUDA 12): later fields are appended. */
#include "trace.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUFFER_BYTES ((size_t)4 << 20)
#define MAX_LAUNCHES 200000
#define KIND_MEMCPY 1u
#define KIND_MEMSET 2u
#define KIND_KERNEL 10u /* CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL */

struct kernel_record {
    uint32_t kind;
    uint8_t cache_config, shared_config;
    uint16_t registers;
    uint32_t cache_requested, cache_executed;
    uint64_t start, end, completed;
    uint32_t device, context, stream;
    int32_t grid[3], block[3];
    int32_t static_shared, dynamic_shared;
    uint32_t local_thread, local_total, correlation;
    int64_t grid_id;
    const char *name;
    void *reserved;
    uint64_t queued, submitted;
    uint8_t launch_type, carveout_set, carveout, padding;
    uint32_t shared_executed;
    uint64_t graph_node;
    uint32_t limit_config, graph;
};

struct copy_record { /* memcpy and memset alike, as far as it is read */
    uint32_t kind, what;
    uint64_t bytes, start, end;
};

static struct {
    void *lib;
    int (*registers)(void (*)(uint8_t **, size_t *, size_t *),
                     void (*)(void *, uint32_t, uint8_t *, size_t, size_t));
    int (*enable)(uint32_t);
    int (*disable)(uint32_t);
    int (*flush)(uint32_t);
    int (*next)(uint8_t *, size_t, void **);
    int (*dropped)(void *, uint32_t, size_t *);
    pthread_mutex_t lock;
    struct launch *launches;
    size_t n, lost;
} trace = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void add(const void *record)
{
    struct kernel_record k;
    struct copy_record c;
    memcpy(&c, record, sizeof c);
    if (c.kind != KIND_KERNEL && c.kind != KIND_MEMCPY && c.kind != KIND_MEMSET)
        return;
    if (trace.n == MAX_LAUNCHES) {
        trace.lost++;
        return;
    }
    struct launch *l = &trace.launches[trace.n++];
    if (c.kind != KIND_KERNEL) {
        *l = (struct launch){ .start_ns = c.start, .end_ns = c.end };
        snprintf(l->name, sizeof l->name, c.kind == KIND_MEMCPY ? "memcpy" : "memset");
        return;
    }
    memcpy(&k, record, sizeof k);
    *l = (struct launch){ .start_ns = k.start,
                          .end_ns = k.end,
                          .graph = k.graph,
                          .grid = { k.grid[0], k.grid[1], k.grid[2] },
                          .block = { k.block[0], k.block[1], k.block[2] },
                          .registers = k.registers,
                          .shared_bytes = k.static_shared + k.dynamic_shared };
    snprintf(l->name, sizeof l->name, "%s", k.name ? k.name : "?");
}

static void buffer_wanted(uint8_t **buffer, size_t *bytes, size_t *most)
{
    *buffer = aligned_alloc(8, BUFFER_BYTES);
    *bytes = *buffer ? BUFFER_BYTES : 0;
    *most = 0;
}

static void buffer_full(void *context, uint32_t stream, uint8_t *buffer, size_t bytes, size_t valid)
{
    (void)bytes;
    void *record = NULL;
    size_t dropped = 0;
    pthread_mutex_lock(&trace.lock);
    while (buffer && valid > 0 && trace.next(buffer, valid, &record) == 0)
        add(record);
    if (trace.dropped(context, stream, &dropped) == 0)
        trace.lost += dropped;
    pthread_mutex_unlock(&trace.lock);
    free(buffer);
}

static bool symbol(const char *name, void *function)
{
    void *p = dlsym(trace.lib, name);
    memcpy(function, &p, sizeof p);
    return p != NULL;
}

bool trace_open(char *reason, size_t bytes)
{
    static const char *const names[] = { "libcupti.so.13", "libcupti.so.12", "libcupti.so",
                                         "/usr/local/cuda/lib64/libcupti.so",
                                         "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so" };
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !trace.lib; i++)
        trace.lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!trace.lib) {
        snprintf(reason, bytes, "libcupti.so.13 (or .12) is not there");
        return false;
    }
    trace.launches = malloc(MAX_LAUNCHES * sizeof *trace.launches);
    int status = -1;
    bool found = symbol("cuptiActivityRegisterCallbacks", &trace.registers) &&
                 symbol("cuptiActivityEnable", &trace.enable) &&
                 symbol("cuptiActivityDisable", &trace.disable) &&
                 symbol("cuptiActivityFlushAll", &trace.flush) &&
                 symbol("cuptiActivityGetNextRecord", &trace.next) &&
                 symbol("cuptiActivityGetNumDroppedRecords", &trace.dropped);
    if (found && trace.launches && (status = trace.registers(buffer_wanted, buffer_full)) == 0 &&
        (status = trace.enable(KIND_KERNEL)) == 0) {
        (void)trace.enable(KIND_MEMCPY);
        (void)trace.enable(KIND_MEMSET);
        return true;
    }
    if (found)
        snprintf(reason, bytes, "CUPTI refuses activity records (status %d)", status);
    else
        snprintf(reason, bytes, "libcupti lacks the activity functions");
    trace_close();
    return false;
}

void trace_reset(void)
{
    (void)trace.flush(1);
    pthread_mutex_lock(&trace.lock);
    trace.n = trace.lost = 0;
    pthread_mutex_unlock(&trace.lock);
}

static int by_start(const void *a, const void *b)
{
    uint64_t x = ((const struct launch *)a)->start_ns, y = ((const struct launch *)b)->start_ns;
    return (x > y) - (x < y);
}

const struct launch *trace_take(size_t *n, size_t *lost)
{
    (void)trace.flush(1);
    pthread_mutex_lock(&trace.lock);
    qsort(trace.launches, trace.n, sizeof *trace.launches, by_start);
    *n = trace.n;
    *lost = trace.lost;
    pthread_mutex_unlock(&trace.lock);
    return trace.launches;
}

/* The library stays loaded: CUPTI keeps hooks in the driver. */
void trace_close(void)
{
    if (trace.disable) {
        (void)trace.disable(KIND_KERNEL);
        (void)trace.disable(KIND_MEMCPY);
        (void)trace.disable(KIND_MEMSET);
        (void)trace.flush(1);
    }
    free(trace.launches);
    trace.launches = NULL;
    trace.n = 0;
}
