/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_float: y = epilogue(x[M,K] · w[N,K]ᵀ + b[N]) in f32 arithmetic: the kernel descriptions and
 * table entries that linear_avx2.c and linear_avx512.c share. An instance includes this and says
 * LINEAR_FLOAT(its ISA's name); micro.h brings its tile, linear_body.h the blocks.
 * Called by: every product in precision F32, the small ones of precision BF16 (patch embedding,
 *            projector, last prefix layer's K and V, action and state heads), and the large ones too
 *            where the processor has no bf16 instructions: x is then widened, a row block at a time. */
#ifndef PI0_BACKEND_CPU_LINEAR_FLOAT_H
#define PI0_BACKEND_CPU_LINEAR_FLOAT_H

#include "backend/cpu/linear_body.h"

MICRO_TABLE(micro_table_f32, micro_f32)
MICRO_TABLE(micro_table_wbf16, micro_wbf16)

/* What the three have in common; K blocks of 512. */
#define FLOAT_BLOCKS                                                                         \
    .rows = MICRO_ROWS, .panels = MICRO_PANELS, .k_block = 512, .k_inner = 1024, .group = 8, \
    .block_bytes = (size_t)256 << 10, .x_bytes = 4

static const struct linear_kernel kernel_bf16 = {
    .micro = micro_table_wbf16, .k_step = 2, .widen = 1, FLOAT_BLOCKS
};
static const struct linear_kernel kernel_f32_wbf16 = { .micro = micro_table_wbf16,
                                                       .k_step = 2,
                                                       FLOAT_BLOCKS };
static const struct linear_kernel kernel_f32 = { .micro = micro_table_f32,
                                                 .k_step = 1,
                                                 FLOAT_BLOCKS };

static void run_bf16(const struct linear_args *a, int begin, int end)
{
    linear_run(&kernel_bf16, a, begin, end);
}

static void run_f32(const struct linear_args *a, int begin, int end)
{
    linear_run(&kernel_f32, a, begin, end);
}

static void run_f32_wbf16(const struct linear_args *a, int begin, int end)
{
    linear_run(&kernel_f32_wbf16, a, begin, end);
}

#define LINEAR_FLOAT(isa)                                            \
    void cpu_linear_##isa(struct cpu_ops *o)                         \
    {                                                                \
        o->linear[LINEAR_BF16].run = run_bf16;                       \
        o->linear[LINEAR_BF16].name = "linear_bf16_" #isa;           \
        o->linear[LINEAR_F32].run = run_f32;                         \
        o->linear[LINEAR_F32].name = "linear_f32_" #isa;             \
        o->linear[LINEAR_F32_WBF16].run = run_f32_wbf16;             \
        o->linear[LINEAR_F32_WBF16].name = "linear_f32_wbf16_" #isa; \
    }

#endif
