/* SPDX-License-Identifier: Apache-2.0
 * device: one GPU: what it is, one block of its memory carved at open, a stream, and the way a CUDA
 * error becomes a pi0_status. */
#ifndef PI0_CUDA_DEVICE_H
#define PI0_CUDA_DEVICE_H

#include "base/status.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

struct device {
    int ordinal;
    int cc; /* compute capability · 10: 80, 86, 87, 89, 90, 100 … */
    int n_sm;
    int smem_limit; /* bytes of shared memory a block may have */
    size_t total_bytes;
    char name[128], isa[16]; /* "NVIDIA H200", "sm_90a" */
    cudaStream_t stream;
};

/* Fills everything but the stream. PI0_E_UNSUPPORTED with the reason: no driver, no GPU, an ordinal
 * past the last, a GPU older than compute capability 8.0. */
pi0_status device_probe(struct device *out, int ordinal, struct pi0_error *err);
/* Makes the device current in this thread; the first time also creates its stream. */
pi0_status device_use(struct device *d, struct pi0_error *err);
void device_close(struct device *d);

/* PI0_E_NOMEM or PI0_E_DEVICE with the call's text and CUDA's own words. */
pi0_status device_fail(struct pi0_error *err, cudaError_t e, const char *what);
/* The same for a tensor map that the driver refused; CUDA_SUCCESS is PI0_OK. */
pi0_status device_map_status(CUresult r, struct pi0_error *err);
#define CU_TRY(call, err)                              \
    do {                                               \
        cudaError_t cu_try_ = (call);                  \
        if (cu_try_ != cudaSuccess)                    \
            return device_fail((err), cu_try_, #call); \
    } while (0)

/* A block of device memory handed out piece by piece: the same two passes as base/arena.h. Pieces
 * start on 256 bytes; the block is zeroed. `mark` and `used` may be set back to share room between
 * stages: `peak` is what is taken. */
struct dev_arena {
    unsigned char *base;
    size_t used, peak, size;
};
void *dev_take(struct dev_arena *a, size_t n, size_t elem);
pi0_status dev_arena_alloc(struct dev_arena *a, const char *what, struct pi0_error *err);
void dev_arena_free(struct dev_arena *a);

#endif
