/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_{bf16,f32,f32_wbf16}_avx512: y = epilogue(x[M,K] · w[N,K]ᵀ + b[N]), f32 arithmetic
 * Called by: every product in precision F32, the small ones of precision BF16 (patch embedding,
 *            projector, last prefix layer's K and V, action and state heads), and the large ones too
 *            where the processor has no bf16 instructions: x is then widened, a row block at a time.
 * Tiling:    12 rows × 2 panels of 16; K blocks of 512 (linear_body.h). */
#include "backend/cpu/linear_body.h"

MICRO_TABLE(micro_table_f32, micro_f32)
MICRO_TABLE(micro_table_wbf16, micro_wbf16)

static const struct linear_kernel kernel_bf16 = { .micro = micro_table_wbf16,
                                                  .rows = MICRO_ROWS,
                                                  .panels = MICRO_PANELS,
                                                  .k_block = 512,
                                                  .k_inner = 1024,
                                                  .group = 8,
                                                  .block_bytes = (size_t)256 << 10,
                                                  .k_step = 2,
                                                  .x_bytes = 4,
                                                  .widen = 1 };
static const struct linear_kernel kernel_f32_wbf16 = { .micro = micro_table_wbf16,
                                                       .rows = MICRO_ROWS,
                                                       .panels = MICRO_PANELS,
                                                       .k_block = 512,
                                                       .k_inner = 1024,
                                                       .group = 8,
                                                       .block_bytes = (size_t)256 << 10,
                                                       .k_step = 2,
                                                       .x_bytes = 4 };
static const struct linear_kernel kernel_f32 = { .micro = micro_table_f32,
                                                 .rows = MICRO_ROWS,
                                                 .panels = MICRO_PANELS,
                                                 .k_block = 512,
                                                 .k_inner = 1024,
                                                 .group = 8,
                                                 .block_bytes = (size_t)256 << 10,
                                                 .k_step = 1,
                                                 .x_bytes = 4 };

static void linear_bf16_avx512(const struct linear_args *a, int begin, int end)
{
    linear_run(&kernel_bf16, a, begin, end);
}

static void linear_f32_avx512(const struct linear_args *a, int begin, int end)
{
    linear_run(&kernel_f32, a, begin, end);
}

static void linear_f32_wbf16_avx512(const struct linear_args *a, int begin, int end)
{
    linear_run(&kernel_f32_wbf16, a, begin, end);
}

void cpu_linear_avx512(struct cpu_ops *o)
{
    o->linear[LINEAR_BF16].run = linear_bf16_avx512;
    o->linear[LINEAR_BF16].name = "linear_bf16_avx512";
    o->linear[LINEAR_F32].run = linear_f32_avx512;
    o->linear[LINEAR_F32].name = "linear_f32_avx512";
    o->linear[LINEAR_F32_WBF16].run = linear_f32_wbf16_avx512;
    o->linear[LINEAR_F32_WBF16].name = "linear_f32_wbf16_avx512";
}
