/* SPDX-License-Identifier: Apache-2.0
 * linear_{bf16,f32,f32_wbf16}_avx2: linear_float.h's products for this instruction set.
 * Tiling:    6 rows × 1 panel of 16 (two vectors); K blocks of 512 (linear_body.h). */
#include "backend/cpu/linear_float.h"

LINEAR_FLOAT(avx2)
