/* SPDX-License-Identifier: Apache-2.0
 * tensor_map: tensor maps of row-major bf16 matrices as the wgmma kernels load them. */
#ifndef PI0_CUDA_TENSOR_MAP_H
#define PI0_CUDA_TENSOR_MAP_H

#include <cuda.h>
#include <stdint.h>

/* cuTensorMapEncodeTiled, looked up by the caller: nothing here links against the driver. */
typedef CUresult (*tensor_map_encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                         const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                         const cuuint32_t *, CUtensorMapInterleave,
                                         CUtensorMapSwizzle, CUtensorMapL2promotion,
                                         CUtensorMapFloatOOBfill);

/* base [rows, k], row r at base + r · ld elements; a box is box_rows rows of 64 values, 128-byte swizzle.
 * What lies outside reads as zero and is not written. Returns the driver's status. */
static inline CUresult tensor_map_2d(tensor_map_encode_fn encode, CUtensorMap *map,
                                     const void *base, long rows, int k, int ld, int box_rows)
{
    cuuint64_t dims[2] = { (cuuint64_t)k, (cuuint64_t)rows }, stride[1] = { (cuuint64_t)ld * 2 };
    cuuint32_t box[2] = { 64, (cuuint32_t)box_rows }, step[2] = { 1, 1 };
    return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)(uintptr_t)base, dims, stride,
                  box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

#endif
