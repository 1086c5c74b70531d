/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_bf16_avx512bf16: y = epilogue(x[M,K] · w[N,K]ᵀ + b[N])      x, w bf16, sums f32, y bf16 or f32
 * Called by: every large product in precision BF16: vision (M=512, K=1152), prefix gate·up (M=532,
 *            N=32768, K=2048), prefix down (N=2048, K=16384), expert (M=10…51, N=8192, K=1024), …
 * Tiling:    12 rows × 2 panels of 16, vdpbf16ps; K blocks of 1024, groups of 8 panels (256 KB of
 *            weights), see micro.h and linear_body.h.
 * Budget:    prefix gate·up: 71.4 GFLOP, 134 MB → bound by arithmetic; floor 305 ms a core at the
 *            234 GFLOP/s of a loop over registers. Expert gate·up, M=10: 168 MFLOP, 16.8 MB → floor
 *            0.72 ms by arithmetic, 0.70 ms by memory (24 GB/s a core).
 * Now:       95 % of the loop over registers at M=532, 91 % at M=51, 92 % at M=10 with weights in
 *            memory; AMD EPYC (Zen 4, 2 cores, shared), 2026-11-22, check_linear --bench.
 * Rounding:  one rounding to bf16, at the store. vdpbf16ps takes subnormal inputs as zero. */
#include "backend/cpu/linear_body.h"

/* bf16 pairs by bf16 pairs; a step is two k. */
VEC_INLINE void micro_bf16(const struct micro *m, int rows, int nv)
{
    struct micro_sums s;
    const unsigned char *base[MICRO_BASES], *w0 = m->w[0], *w1 = m->w[1];
    const unsigned char *f0 = m->far[0], *f1 = m->far[1];
    long stride = m->x_stride, step = m->w_step, ahead = m->ahead, far_step = m->far_step;
    micro_open(&s, m, rows, nv);
    micro_bases(base, m, rows);
    for (int k = m->n; k > 0; k--) {
        __m512bh a = (__m512bh)_mm512_load_si512((const void *)w0), b = a;
        _mm_prefetch((const char *)w0 + ahead, _MM_HINT_T0);
        micro_fetch(&f0, &f1, far_step);
        w0 += step;
        if (nv == 2) {
            b = (__m512bh)_mm512_load_si512((const void *)w1);
            _mm_prefetch((const char *)w1 + ahead, _MM_HINT_T0);
            w1 += step;
        }
        VEC_UNROLL
        for (int r = 0; r < rows; r++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32(
                *(const int *)(const void *)(base[r / 3] + r % 3 * stride));
            s.v[r][0] = _mm512_dpbf16_ps(s.v[r][0], a, x);
            if (nv == 2)
                s.v[r][1] = _mm512_dpbf16_ps(s.v[r][1], b, x);
        }
        micro_advance(base, rows, 4);
    }
    micro_close(&s, m, rows, nv);
}

MICRO_TABLE(micro_table_bf16, micro_bf16)

static const struct linear_kernel kernel_bf16 = { .micro = micro_table_bf16,
                                                  .rows = 12,
                                                  .panels = 2,
                                                  .k_block = 1024,
                                                  .k_inner = 2048,
                                                  .group = 8,
                                                  .block_bytes = (size_t)256 << 10,
                                                  .k_step = 2,
                                                  .x_bytes = 2 };

static void linear_bf16_avx512bf16(const struct linear_args *a, int begin, int end)
{
    linear_run(&kernel_bf16, a, begin, end);
}

void cpu_linear_avx512bf16(struct cpu_ops *o)
{
    o->linear[LINEAR_BF16].run = linear_bf16_avx512bf16;
    o->linear[LINEAR_BF16].name = "linear_bf16_avx512bf16";
}
