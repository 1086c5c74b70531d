// SPDX-License-Identifier: Apache-2.0
// attn_plain: the softmax between the two products of an attention whose scores and weights are
// matrices in memory. For measurement alone: what the fused kernels are worth (pi0.h,
// PI0_WITHOUT_FUSED_ATTENTION). A block a row, float32, sums in a fixed order; any head count.
#include "backend/cuda/kernels/kernels.h"

#include <cuda_bf16.h>
#include <math.h>

namespace
{

constexpr int THREADS = 256;

// The value of all threads under `op`, to all of them.
template <class F> __device__ float over_block(float v, float *shared, F op)
{
#pragma unroll
    for (int o = 16; o > 0; o >>= 1)
        v = op(v, __shfl_xor_sync(0xFFFFFFFFu, v, o));
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = v;
    __syncthreads();
    v = shared[0];
#pragma unroll
    for (int i = 1; i < THREADS / 32; i++)
        v = op(v, shared[i]);
    return v;
}

__global__ void __launch_bounds__(THREADS) softmax_kernel(struct cu_softmax a)
{
    __shared__ float shared[THREADS / 32];
    int row = blockIdx.x, token = row / a.heads, n_keys = a.n_keys, hole0 = 0, hole1 = 0;
    const float *s = a.scores + (size_t)row * a.ld;
    __nv_bfloat16 *w = (__nv_bfloat16 *)a.weights + (size_t)row * a.ld;
    if (a.mode != CU_ATTN_VISION) {
        hole0 = a.sample->n_valid, hole1 = a.sample->n_rows;
        if (a.mode == CU_ATTN_PREFIX)
            n_keys = token < hole1 ? hole1 : 0;
        else
            n_keys = token < a.horizon ? hole1 + a.n_state + a.horizon : hole1 + 1;
    }
    float top = -INFINITY, sum = 0.f;
    for (int j = threadIdx.x; j < n_keys; j += THREADS)
        if (j < hole0 || j >= hole1)
            top = fmaxf(top, s[j]);
    top = over_block(top, shared, [](float x, float y) { return fmaxf(x, y); });
    for (int j = threadIdx.x; j < n_keys; j += THREADS)
        if (j < hole0 || j >= hole1)
            sum += expf((s[j] - top) * a.scale);
    sum = over_block(sum, shared, [](float x, float y) { return x + y; });
    for (int j = threadIdx.x; j < a.ld; j += THREADS) {
        bool seen = j < n_keys && (j < hole0 || j >= hole1);
        w[j] = __float2bfloat16_rn(seen ? expf((s[j] - top) * a.scale) / sum : 0.f);
    }
}

} // namespace

extern "C" cudaError_t cu_softmax(const struct cu_softmax *a, cudaStream_t s)
{
    softmax_kernel<<<(unsigned)a->rows, THREADS, 0, s>>>(*a);
    return cudaGetLastError();
}
