/* SPDX-License-Identifier: Apache-2.0
 *
 * attn_f32_avx512: o[M, E] = softmax(scale · q[M, E] · k[N, E]ᵀ) · v[N, E], one head, f32; o f32 or bf16
 * Called by: vision (M=N=256, E=72, 16 heads an image), prefix (M=N=532…968, E=256, 8 heads of one K
 *            and V), suffix (M=10…50, N=533…1019).
 * Tiling:    12 rows × 32 keys or columns (micro.h); up to 48 rows a call, scores in the scratch (attn_body.h).
 * Rounding:  one rounding to bf16, at the store. */
#include "backend/cpu/attn_body.h"

static void attn_f32_avx512(const struct attn_args *a, int begin, int end)
{
    attn_run(a, begin, end);
}

void cpu_attn_avx512(struct cpu_ops *o)
{
    o->attn.run = attn_f32_avx512;
    o->attn.name = "attn_f32_avx512";
}
