/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_bf16_amx: y = epilogue(x[M,K] · w[N,K]ᵀ + b[N])      x, w bf16, sums f32, y bf16 or f32
 * Called by: every large product in precision BF16 (see linear_avx512bf16.c).
 * Tiling:    2×2 tiles of 16×16 sums: 32 rows × 2 panels; K in steps of 32. The packed pairs of a
 *            panel are tiles as they lie ([16 pairs][16 features][2]); rows of x are tiles by stride.
 *            Four loads for four products a step; K blocks and the rest: linear_body.h.
 *
 *                 tiles     B 6 │ B 7       w, 1 KB each
 *                    ───────────┼──────
 *                    A 4    C 0 │ C 1       16 rows of x
 *                    A 5    C 2 │ C 3       16 more, or fewer, or none
 *
 * Budget:    prefix gate·up: 71.4 GFLOP, 134 MB → bound by arithmetic; floor 27 ms a core at the 2.6
 *            TFLOP/s of a loop over tiles. Expert gate·up, M=10: 16.8 MB → bound by memory.
 * Now:       0.5 TFLOP/s (20 %) at prefix gate·up, 0.8 (31 %) at prefix q|k|v, 0.96 (41 %) at vision
 *            q|k|v: tile loads wait for L2, and x comes from L3 with every group. Intel Xeon with
 *            AMX (16 of its cores, shared), 2026-11-22, check_linear --bench.
 * Rounding:  one rounding to bf16, at the store. tdpbf16ps takes subnormal inputs as zero. */
#include "backend/cpu/linear_body.h"

#define AMX_ROWS 16
#define AMX_STEPS 16 /* steps of two k in a tile */

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t column_bytes[16];
    uint8_t rows[16];
};

/* Tiles for this many rows of x, 1 to 32; 0 gives the tiles back. */
static void amx_set_rows(int rows)
{
    if (rows == 0) {
        _tile_release();
        return;
    }
    uint8_t upper = (uint8_t)(rows < AMX_ROWS ? rows : AMX_ROWS), lower = (uint8_t)(rows - upper);
    struct tile_config c = { .palette = 1,
                             .column_bytes = { 64, 64, 64, 64, 64, 64, 64, 64 },
                             .rows = { upper, upper, lower, lower, upper, lower, 16, 16 } };
    if (!lower) /* a tile of no rows has no columns either */
        c.column_bytes[2] = c.column_bytes[3] = c.column_bytes[5] = 0;
    __asm__ volatile("" : : "r"(&c) : "memory"); /* gcc believes that 8 bytes are read */
    _tile_loadconfig(&c);
}

/* What the next block needs, into L2: as many lines as this step reads of w, or fewer. */
VEC_INLINE void amx_fetch(const struct micro *m, int step)
{
    const char *f0 = (const char *)m->far[0] + step * m->far_step;
    const char *f1 = (const char *)m->far[1] + step * m->far_step;
    for (long i = 0; i < AMX_STEPS * m->far_step; i += 64) {
        _mm_prefetch(f0 + i, _MM_HINT_T1);
        _mm_prefetch(f1 + i, _MM_HINT_T1);
    }
}

#define AMX_OPEN(tile, at)                  \
    do {                                    \
        if (m->keep)                        \
            _tile_loadd(tile, at, acc_row); \
        else                                \
            _tile_zero(tile);               \
    } while (0)

/* 17 to 32 rows by two panels. */
static void micro_amx_22(const struct micro *m)
{
    long acc_row = m->acc_stride * 4, lower = AMX_ROWS * m->acc_stride;
    const unsigned char *x0 = m->x, *x1 = m->x + AMX_ROWS * m->x_stride;
    const unsigned char *w0 = m->w[0], *w1 = m->w[1];
    AMX_OPEN(0, m->acc[0]);
    AMX_OPEN(1, m->acc[1]);
    AMX_OPEN(2, m->acc[0] + lower);
    AMX_OPEN(3, m->acc[1] + lower);
    for (int k = 0; k < m->n; k += AMX_STEPS) {
        amx_fetch(m, k);
        _tile_loadd(6, w0, 64);
        _tile_loadd(4, x0, m->x_stride);
        _tile_loadd(7, w1, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, x1, m->x_stride);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        x0 += 64;
        x1 += 64;
        w0 += 1024;
        w1 += 1024;
    }
    _tile_stored(0, m->acc[0], acc_row);
    _tile_stored(1, m->acc[1], acc_row);
    _tile_stored(2, m->acc[0] + lower, acc_row);
    _tile_stored(3, m->acc[1] + lower, acc_row);
}

/* 17 to 32 rows by one panel. */
static void micro_amx_21(const struct micro *m)
{
    long acc_row = m->acc_stride * 4, lower = AMX_ROWS * m->acc_stride;
    const unsigned char *x0 = m->x, *x1 = m->x + AMX_ROWS * m->x_stride, *w0 = m->w[0];
    AMX_OPEN(0, m->acc[0]);
    AMX_OPEN(2, m->acc[0] + lower);
    for (int k = 0; k < m->n; k += AMX_STEPS) {
        amx_fetch(m, k);
        _tile_loadd(6, w0, 64);
        _tile_loadd(4, x0, m->x_stride);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, x1, m->x_stride);
        _tile_dpbf16ps(2, 5, 6);
        x0 += 64;
        x1 += 64;
        w0 += 1024;
    }
    _tile_stored(0, m->acc[0], acc_row);
    _tile_stored(2, m->acc[0] + lower, acc_row);
}

/* 1 to 16 rows by two panels: bound by reading w. */
static void micro_amx_12(const struct micro *m)
{
    long acc_row = m->acc_stride * 4;
    const unsigned char *x0 = m->x, *w0 = m->w[0], *w1 = m->w[1];
    AMX_OPEN(0, m->acc[0]);
    AMX_OPEN(1, m->acc[1]);
    for (int k = 0; k < m->n; k += AMX_STEPS) {
        amx_fetch(m, k);
        _tile_loadd(4, x0, m->x_stride);
        _tile_loadd(6, w0, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, w1, 64);
        _tile_dpbf16ps(1, 4, 7);
        x0 += 64;
        w0 += 1024;
        w1 += 1024;
    }
    _tile_stored(0, m->acc[0], acc_row);
    _tile_stored(1, m->acc[1], acc_row);
}

/* 1 to 16 rows by one panel. */
static void micro_amx_11(const struct micro *m)
{
    long acc_row = m->acc_stride * 4;
    const unsigned char *x0 = m->x, *w0 = m->w[0];
    AMX_OPEN(0, m->acc[0]);
    for (int k = 0; k < m->n; k += AMX_STEPS) {
        amx_fetch(m, k);
        _tile_loadd(4, x0, m->x_stride);
        _tile_loadd(6, w0, 64);
        _tile_dpbf16ps(0, 4, 6);
        x0 += 64;
        w0 += 1024;
    }
    _tile_stored(0, m->acc[0], acc_row);
}

static const micro_fn micro_table_amx[2 * AMX_ROWS + 1][3] = {
    [1 ... AMX_ROWS] = { 0, micro_amx_11, micro_amx_12 },
    [AMX_ROWS + 1 ... 2 * AMX_ROWS] = { 0, micro_amx_21, micro_amx_22 },
};

static const struct linear_kernel kernel_amx = { .micro = micro_table_amx,
                                                 .set_rows = amx_set_rows,
                                                 .rows = 2 * AMX_ROWS,
                                                 .panels = 2,
                                                 .k_block = 1024,
                                                 .k_inner = 2048,
                                                 .group = 8,
                                                 .block_bytes = (size_t)256 << 10,
                                                 .k_step = 2,
                                                 .x_bytes = 2 };

static void linear_bf16_amx(const struct linear_args *a, int begin, int end)
{
    linear_run(&kernel_amx, a, begin, end);
}

void cpu_linear_amx(struct cpu_ops *o)
{
    o->linear[LINEAR_BF16].run = linear_bf16_amx;
    o->linear[LINEAR_BF16].name = "linear_bf16_amx";
}
