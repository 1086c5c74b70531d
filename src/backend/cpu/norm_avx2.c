/* SPDX-License-Identifier: Apache-2.0
 *
 * {layernorm,rmsnorm,rope}_f32_avx2: rows of the residual stream → the input of the next product, and
 * the rotation of q and k. Bound by reading L2: nothing to tile.
 * Called by: every layer (M=512, D=1152; M=532…968, D=2048; M=10…51, D=1024).
 * Rounding:  one rounding to bf16, at the store. */
#include "backend/cpu/norm_body.h"

static void layernorm_f32_avx2(const struct norm_args *a, int begin, int end)
{
    layernorm_run(a, begin, end);
}

static void rmsnorm_f32_avx2(const struct norm_args *a, int begin, int end)
{
    rmsnorm_run(a, begin, end);
}

static void rope_f32_avx2(const struct rope_args *a, int begin, int end)
{
    rope_run(a, begin, end);
}

void cpu_norm_avx2(struct cpu_ops *o)
{
    o->layernorm.run = layernorm_f32_avx2;
    o->layernorm.name = "layernorm_f32_avx2";
    o->rmsnorm.run = rmsnorm_f32_avx2;
    o->rmsnorm.name = "rmsnorm_f32_avx2";
    o->rope.run = rope_f32_avx2;
    o->rope.name = "rope_f32_avx2";
}
