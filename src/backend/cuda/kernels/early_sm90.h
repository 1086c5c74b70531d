/* SPDX-License-Identifier: Apache-2.0
 * early_sm90: launchers of one layer of one sample's first denoising step on four processors, for the
 * time in which the prefix's large products leave them idle. Chooses nothing, allocates nothing. */
#ifndef PI0_CUDA_EARLY_SM90_H
#define PI0_CUDA_EARLY_SM90_H

#include "kernels.h" /* cu_row, cu_sample */
#include "tensor_map.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EARLY90_CTAS 4 /* processors that a launch takes */
#define EARLY90_MAX_ROWS 56
#define EARLY90_NARROW_ROWS 16 /* more have a kernel of their own, with tensor maps */

/* Step 0 of one sample: its action rows, then π0's state row. Device pointers, 16-byte aligned; the
 * expert of π0 and π0.5 (width 1024, 8 heads of 256, 4096 hidden units). */
struct early90 {
    int rows;       /* tokens, the state's included: 1 … 56 */
    int n_state;    /* 1: the last row is the state's; it sees the prefix and itself */
    int packed;     /* 1: weights in denoise_sm90.h's units, rows ≤ 16. 0: row-major */
    int cache_rows; /* of a layer; > 16 tokens */
    /* row-major bf16: q, k, v [2560, 1024], [1024, 2048], gate and up rows in turns of 8 [8192, 1024],
     * [1024, 4096]. packed: wqkv is the layer's first unit, the others are not read */
    const void *wqkv, *wo, *wgu, *wdown;
    const float *norm1, *norm2; /* [1024] offsets from 1; adaRMS: the step's scale */
    /* adaRMS: [10752] W · shift of qkv, then of gate·up, added behind 1/rms; rows in the order of the
     * weights' form: cu_tables.products, or a layer of dn90_shift's table. NULL: none */
    const float *shift;
    const float *gate1, *gate2;       /* adaRMS: [1024], behind o and down; NULL: 1 */
    const struct cu_sample *sample;   /* read on the device, as are the rows */
    const struct cu_row *suffix_rows; /* [rows] */
    const float *cos_sin;             /* [positions, 128, 2] */
    uint16_t *k, *v; /* the layer's cache, rows of 256: those of the suffix are written here */
    float *x;        /* [rows, 1024] residual stream, read and written */
    /* Scratch bf16 [rows · 2048], the same, [rows · 4096], in orders of the kernel's own */
    uint16_t *q, *o, *h;
    /* What suffix_sm90's chain goes on with: xg = bf16(x · (1 + next_gain)) [rows, 1024] and part
     * [rows, 16], Σx² of 64 features each. xg NULL: not wanted */
    const float *next_gain;
    uint16_t *xg;
    float *part;
    float scale; /* on the logits */
};

/* Tensor maps of a launch with more than EARLY90_NARROW_ROWS tokens. */
struct early90_maps {
    CUtensorMap qkv, o, gu, down, k, v;
};

/* Pure. */
int early90_supported(int compute_major, int compute_minor, int rows, int packed);
/* Once a process and device, outside capture: shared memory. */
cudaError_t early90_prepare(void);
/* Returns the driver's status. Up to EARLY90_NARROW_ROWS tokens need no maps: nothing is written. */
CUresult early90_plan(struct early90_maps *m, tensor_map_encode_fn encode, const struct early90 *p);
cudaError_t early90_launch(const struct early90 *p, const struct early90_maps *m,
                           cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
