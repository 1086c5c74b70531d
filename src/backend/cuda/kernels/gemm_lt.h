/* SPDX-License-Identifier: Apache-2.0
 * gemm_lt: matrix products through cuBLASLt, the path that works on every GPU and the yardstick of
 * our own kernels. The library is opened at run time, so that a build with CUDA starts on a machine
 * without it. */
#ifndef PI0_CUDA_GEMM_LT_H
#define PI0_CUDA_GEMM_LT_H

#include "backend/cuda/kernels/kernels.h"
#include "base/status.h"

#define GEMM_LT_WORKSPACE (32u << 20) /* bytes; what NVIDIA advises for sm_90 */
#define GEMM_LT_CANDIDATES 8

struct gemm_lt;
/* `workspace` is device memory of GEMM_LT_WORKSPACE bytes, borrowed. PI0_E_UNSUPPORTED with the
 * names tried when the library is not there. */
pi0_status gemm_lt_open(struct gemm_lt **out, void *workspace, struct pi0_error *err);
void gemm_lt_close(struct gemm_lt *g);
/* Enqueues one product. The candidate is fixed by (shape, pick): the same in every run. */
pi0_status gemm_lt_run(struct gemm_lt *g, const struct cu_gemm *a, cudaStream_t s,
                       struct pi0_error *err);
/* Candidates cuBLASLt offers for this product, at most GEMM_LT_CANDIDATES. */
int gemm_lt_candidates(struct gemm_lt *g, const struct cu_gemm *a);

#endif
