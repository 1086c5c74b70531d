/* SPDX-License-Identifier: Apache-2.0
 * embed: bytes and ids → the first rows of a residual stream. Patches straight from u8 pixels, and
 * the gather of image features and token embeddings into the prefix.
 *
 * The image fed to the tower is x = p/255·2 − 1 for a byte p (openpi: Observation.from_dict). With
 * c = p − 128, exact in bf16, conv(x) = 2/255 · Σ w·c + 1/255 · Σ w: the product runs on exact
 * inputs, the second term is a constant a channel and sits in the position table. */
#include "backend/cuda/kernels/kernels.h"
#include "backend/cuda/kernels/ptx_sm80.cuh"

/* One block a patch. K order of a row is (c, y, x): the checkpoint's [D, 3, p, p]. */
__global__ void patches_kernel(struct cu_patches a)
{
    extern __shared__ uint8_t tile[]; /* [patch][patch·3] */
    int side = a.image / a.patch, tokens = side * side;
    int img = blockIdx.x / tokens, t = blockIdx.x % tokens;
    int p = a.patch, line = p * 3, py = (t / side) * p, px = (t % side) * p;
    const uint8_t *src = a.pixels + ((size_t)img * a.image + py) * a.image * 3 + (size_t)px * 3;
    for (int i = threadIdx.x; i < p * line; i += blockDim.x)
        tile[i] = src[(size_t)(i / line) * a.image * 3 + i % line];
    __syncthreads();
    __nv_bfloat16 *dst = (__nv_bfloat16 *)a.patches + (size_t)blockIdx.x * a.k_pad;
    for (int k = threadIdx.x; k < a.k_pad; k += blockDim.x) {
        float v = 0.f;
        if (k < 3 * p * p) {
            int c = k / (p * p), r = k % (p * p);
            v = (float)tile[(r / p) * line + (r % p) * 3 + c] - 128.f;
        }
        dst[k] = __float2bfloat16_rn(v);
    }
    const float *row = a.table + (size_t)t * a.width;
    float *x = a.x + (size_t)blockIdx.x * a.width;
    for (int d = threadIdx.x; d < a.width; d += blockDim.x)
        x[d] = row[d];
}

extern "C" cudaError_t cu_patches(const struct cu_patches *a, cudaStream_t s)
{
    int side = a->image / a->patch;
    patches_kernel<<<a->n_images * side * side, 128, 3 * a->patch * a->patch, s>>>(*a);
    return cudaGetLastError();
}

/* One warp a channel d. */
__global__ void patch_table_kernel(float *table, const float *pos, const float *bias,
                                   const __nv_bfloat16 *w, int tokens, int width, int k_pad)
{
    int d = blockIdx.x, lane = threadIdx.x;
    float sum = 0.f;
    for (int k = lane; k < k_pad; k += 32)
        sum += __bfloat162float(w[(size_t)d * k_pad + k]);
    sum = warp_sum(sum);
    float c = bias[d] + sum * (1.f / 255.f);
    for (int t = lane; t < tokens; t += 32)
        table[(size_t)t * width + d] = pos[(size_t)t * width + d] + c;
}

extern "C" cudaError_t cu_patch_table(float *table, const float *pos, const float *bias,
                                      const uint16_t *w, int tokens, int width, int k_pad,
                                      cudaStream_t s)
{
    patch_table_kernel<<<width, 32, 0, s>>>(table, pos, bias, (const __nv_bfloat16 *)w, tokens,
                                            width, k_pad);
    return cudaGetLastError();
}

__global__ void prefix_embed_kernel(struct cu_prefix_embed a)
{
    struct cu_row row = a.rows[blockIdx.x];
    float *x = a.x + (size_t)blockIdx.x * a.width;
    if (row.src >= 0) {
        const float *f = a.features + (size_t)row.src * a.width;
        for (int i = threadIdx.x; i < a.width; i += blockDim.x)
            x[i] = f[i];
    } else if (row.src == CU_ROW_PAD) {
        for (int i = threadIdx.x; i < a.width; i += blockDim.x)
            x[i] = 0.f;
        uint32_t *o = (uint32_t *)a.o + (size_t)blockIdx.x * (a.o_width / 2);
        for (int i = threadIdx.x; a.o && i < a.o_width / 2; i += blockDim.x)
            o[i] = 0;
    } else {
        const __nv_bfloat16 *e = (const __nv_bfloat16 *)a.table + (size_t)(-1 - row.src) * a.width;
        for (int i = threadIdx.x; i < a.width; i += blockDim.x)
            x[i] = __bfloat162float(e[i]) * a.scale;
    }
}

extern "C" cudaError_t cu_prefix_embed(const struct cu_prefix_embed *a, cudaStream_t s)
{
    prefix_embed_kernel<<<a->n_rows, 256, 0, s>>>(*a);
    return cudaGetLastError();
}
