/* SPDX-License-Identifier: Apache-2.0
 * linear_{bf16,f32,f32_wbf16}_avx512: linear_float.h's products for this instruction set.
 * Tiling:    12 rows × 2 panels of 16; K blocks of 512 (linear_body.h). */
#include "backend/cpu/linear_float.h"

LINEAR_FLOAT(avx512)
