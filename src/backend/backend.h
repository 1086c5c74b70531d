/* SPDX-License-Identifier: Apache-2.0
 * backend: the line between the engine and a processor. Three stages, because between them exactly
 * three things exist whatever the hardware does: image tokens, the prefix K/V, actions. Inside a
 * stage anything may be fused.
 *
 * Contract
 *   1. `open` does everything that is slow once; after it a call allocates nothing (CUDA: a new
 * shape bucket may build a graph, once). `close` accepts what a failed open left behind.
 *   2. Calls come in the order vision, prefix, denoise, on one thread. vision and prefix may only
 * enqueue; denoise and read are where the host waits. Inputs are borrowed until denoise returns.
 *   3. Shapes come from the plan and the batch (model/plan.h), already checked. A backend checks
 * nothing twice.
 *   4. Same inputs, same bits. What no tap shows may be skipped.
 *   5. No CUDA type, stream, packed layout or kernel name above this line. */
#ifndef PI0_BACKEND_BACKEND_H
#define PI0_BACKEND_BACKEND_H

#include "model/model.h"
#include "model/plan.h"

struct backend {
    const char *name;         /* "cpu", "cuda" */
    unsigned measure_without; /* PI0_WITHOUT_ bits it can honour, beside the camera skip */
    /* PI0_OK if this machine can run it; otherwise the reason is in *err ("no NVIDIA driver …"). */
    pi0_status (*probe)(const struct pi0_engine_config *cfg, struct pi0_error *err);
    /* *self is set even on failure if something must be closed; the engine always calls close. */
    pi0_status (*open)(void **self, const pi0_model *m, const struct plan *p,
                       const struct pi0_engine_config *cfg, struct pi0_error *err);
    void (*close)(void *self);
    /* pixels → image tokens, kept by the backend */
    pi0_status (*vision)(void *self, const struct batch *in, struct pi0_error *err);
    /* image tokens + prompt ids → K and V of every layer, kept by the backend */
    pi0_status (*prefix)(void *self, const struct batch *in, struct pi0_error *err);
    /* state, noise → actions [n, H, A] f32 */
    pi0_status (*denoise)(void *self, const struct batch *in, float *actions,
                          struct pi0_error *err);
    /* One intermediate of sample `sample` of the last call as f32, in the backend's row layout
     * (plan.h): PREFIX_EMBS [n_rows, W], PREFIX_K/V [n_rows, E]; suffix taps as in pi0.h. n is the
     * exact size. The engine spreads prefix rows into the public layout. Unknown taps answer
     * PI0_E_UNSUPPORTED. */
    pi0_status (*read)(void *self, enum pi0_tap tap, int index, int sample, float *dst, size_t n,
                       struct pi0_error *err);
    /* Stage times of the last call (total_ms is the engine's). */
    void (*timing)(void *self, struct pi0_timing *out);
    /* Fills backend, device, isa, n_threads and the byte counts. */
    void (*info)(void *self, struct pi0_engine_info *out);
    /* Kernel choice i; 0 past the last. */
    int (*kernel)(void *self, int i, struct pi0_kernel_choice *out);
    /* pi0_engine_time_kernel at the shapes of `last`, the call before; its borrowed inputs are gone.
     * May overwrite everything but weights. NULL: this backend has no such thing. */
    pi0_status (*time_kernel)(void *self, const struct batch *last, int i,
                              struct pi0_kernel_time *out, struct pi0_error *err);
};

extern const struct backend backend_cpu;
#ifdef PI0_CUDA
extern const struct backend backend_cuda;
#endif

/* Resolves "auto", "cpu" or "cuda". "auto" takes CUDA if its probe succeeds and precision is bf16,
 * else the CPU, and says through cfg->log why CUDA was not taken. NULL and *err when the name is
 * unknown or that backend cannot run. */
const struct backend *backend_select(const struct pi0_engine_config *cfg, struct pi0_error *err);

#endif
