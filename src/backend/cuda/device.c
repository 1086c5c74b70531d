/* SPDX-License-Identifier: Apache-2.0
 * device: probe, memory block, error translation. The CUDA runtime is linked statically and loads
 * the driver itself, so a machine without either still runs this far and gets a reason. */
#include "backend/cuda/device.h"

#include <stdio.h>
#include <string.h>

pi0_status device_fail(struct pi0_error *err, cudaError_t e, const char *what)
{
    (void)cudaGetLastError(); /* clears what can be cleared */
    return pi0_fail(err, e == cudaErrorMemoryAllocation ? PI0_E_NOMEM : PI0_E_DEVICE,
                    "cuda: %s: %s (%s)", what, cudaGetErrorString(e), cudaGetErrorName(e));
}

pi0_status device_probe(struct device *out, int ordinal, struct pi0_error *err)
{
    int n = 0, driver = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e == cudaErrorInsufficientDriver) {
        (void)cudaDriverGetVersion(&driver);
        (void)cudaGetLastError();
        if (driver == 0)
            return pi0_fail(err, PI0_E_UNSUPPORTED, "cuda: no NVIDIA driver on this machine");
        return pi0_fail(err, PI0_E_UNSUPPORTED,
                        "cuda: the NVIDIA driver is for CUDA %d.%d, expected %d.%d or newer",
                        driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                        CUDART_VERSION % 1000 / 10);
    }
    if (e == cudaErrorNoDevice || (e == cudaSuccess && n == 0)) {
        (void)cudaGetLastError();
        return pi0_fail(err, PI0_E_UNSUPPORTED, "cuda: no NVIDIA GPU on this machine");
    }
    if (e != cudaSuccess) {
        (void)cudaGetLastError();
        return pi0_fail(err, PI0_E_UNSUPPORTED, "cuda: %s", cudaGetErrorString(e));
    }
    if (ordinal < 0 || ordinal >= n)
        return pi0_fail(err, PI0_E_ARGUMENT, "cuda: device %d, this machine has 0 to %d", ordinal,
                        n - 1);
    struct cudaDeviceProp p;
    CU_TRY(cudaGetDeviceProperties(&p, ordinal), err);
    int cc = p.major * 10 + p.minor;
    if (cc < 80)
        return pi0_fail(err, PI0_E_UNSUPPORTED,
                        "cuda: %s has compute capability %d.%d, expected 8.0 or newer", p.name,
                        p.major, p.minor);
    struct device d = { .ordinal = ordinal,
                        .cc = cc,
                        .n_sm = p.multiProcessorCount,
                        .smem_limit = (int)p.sharedMemPerBlockOptin,
                        .total_bytes = p.totalGlobalMem };
    snprintf(d.name, sizeof d.name, "%.*s", (int)sizeof d.name - 1, p.name);
    snprintf(d.isa, sizeof d.isa, "sm_%d%s", cc, cc == 90 ? "a" : "");
    *out = d;
    return PI0_OK;
}

pi0_status device_use(struct device *d, struct pi0_error *err)
{
    CU_TRY(cudaSetDevice(d->ordinal), err);
    if (!d->stream)
        CU_TRY(cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking), err);
    return PI0_OK;
}

void device_close(struct device *d)
{
    if (d->stream)
        (void)cudaStreamDestroy(d->stream);
    d->stream = NULL;
}

void *dev_take(struct dev_arena *a, size_t n, size_t elem)
{
    size_t bytes = (n * elem + 255) & ~(size_t)255;
    void *p = a->base ? a->base + a->used : NULL;
    a->used += bytes;
    if (a->used > a->peak)
        a->peak = a->used;
    return p;
}

pi0_status dev_arena_alloc(struct dev_arena *a, const char *what, struct pi0_error *err)
{
    size_t free_bytes = 0, total = 0, bytes = a->peak ? a->peak : 256;
    CU_TRY(cudaMemGetInfo(&free_bytes, &total), err);
    void *p = NULL;
    cudaError_t e = cudaMalloc(&p, bytes);
    if (e == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        return pi0_fail(err, PI0_E_NOMEM,
                        "cuda: %s need %.2f GB of device memory, %.2f of %.2f GB are free", what,
                        (double)bytes * 1e-9, (double)free_bytes * 1e-9, (double)total * 1e-9);
    }
    if (e != cudaSuccess)
        return device_fail(err, e, what);
    a->base = p;
    a->size = bytes;
    a->used = a->peak = 0;
    CU_TRY(cudaMemset(p, 0, bytes), err);
    return PI0_OK;
}

void dev_arena_free(struct dev_arena *a)
{
    if (a->base)
        (void)cudaFree(a->base);
    memset(a, 0, sizeof *a);
}

pi0_status device_map_status(CUresult r, struct pi0_error *err)
{
    return r == CUDA_SUCCESS
               ? PI0_OK
               : pi0_fail(err, PI0_E_DEVICE, "cuTensorMapEncodeTiled: status %d", (int)r);
}
