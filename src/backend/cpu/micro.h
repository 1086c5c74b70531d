/* SPDX-License-Identifier: Apache-2.0
 *
 * micro: the innermost product, the same for weights, scores and probabilities: `rows` rows of x by
 * two vectors of columns, sums in registers.
 *
 *      acc[i][r] += Σ_k x[r][k] · w[i][k]        r < rows,  i < 2,  w[i][k] one vector
 *
 * AVX-512: 12 rows × 2 panels of 16 = 24 sums, 2 vectors of w, 1 of x: 27 of 32 registers, and 14
 * loads for 24 products, so that the arithmetic is the limit. AVX2: 6 rows × 1 panel (two halves) =
 * 12 sums of 16 registers. Sums run from k = 0 upwards, whatever the number of rows, and go on from
 * memory where a product is cut in K: an element's bits depend on neither.
 *
 * Included by kernel files only. Each makes the instances it needs (MICRO_TABLE). */
#ifndef PI0_BACKEND_CPU_MICRO_H
#define PI0_BACKEND_CPU_MICRO_H

#include "backend/cpu/ops.h"
#include "backend/cpu/vec.h"

struct micro {
    const unsigned char *x; /* [rows][n steps] */
    long x_stride;          /* bytes from row to row */
    int rows;
    const unsigned char *w[2];
    long w_step;     /* bytes from step to step */
    int n;           /* steps: of one k, or of two (bf16 pairs) */
    int keep;        /* go on from acc; else from zero */
    float *acc[2];   /* [rows], one vector each */
    long acc_stride; /* floats from row to row */
    /* Fetched meanwhile: w so many bytes in front, into L1; and what is needed after this call, into
     * L2, far_step bytes from either pointer on with every step. */
    long ahead;
    const unsigned char *far[2];
    long far_step;
};
typedef void (*micro_fn)(const struct micro *m);

#define MICRO_ROWS (VEC_LANES == 16 ? 12 : 6)
#define MICRO_PANELS (VEC_LANES / 8) /* panels of 16 columns that the two vectors cover */
#define MICRO_BASES 4                /* one pointer for three rows: 12 of them do not fit */

struct micro_sums {
    vf v[12][2];
};

VEC_INLINE void micro_open(struct micro_sums *s, const struct micro *m, int rows, int nv)
{
    VEC_UNROLL
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < nv; i++)
            s->v[r][i] = m->keep ? vf_load(m->acc[i] + r * m->acc_stride) : vf_zero();
}

VEC_INLINE void micro_close(const struct micro_sums *s, const struct micro *m, int rows, int nv)
{
    VEC_UNROLL
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < nv; i++)
            vf_store(m->acc[i] + r * m->acc_stride, s->v[r][i]);
}

/* x_stride is added from a register; a compiler left alone makes twelve pointers and spills them. */
VEC_INLINE void micro_bases(const unsigned char *base[MICRO_BASES], const struct micro *m, int rows)
{
    VEC_UNROLL
    for (int i = 0; i < MICRO_BASES; i++)
        base[i] = m->x + (3 * i < rows ? 3 * i : 0) * m->x_stride;
}

VEC_INLINE void micro_advance(const unsigned char *base[MICRO_BASES], int rows, int bytes)
{
    VEC_UNROLL
    for (int i = 0; i < MICRO_BASES; i++)
        if (3 * i < rows) {
            base[i] += bytes;
            __asm__("" : "+r"(base[i]));
        }
}

VEC_INLINE void micro_fetch(const unsigned char **f0, const unsigned char **f1, long step)
{
    _mm_prefetch((const char *)*f0, _MM_HINT_T1);
    _mm_prefetch((const char *)*f1, _MM_HINT_T1);
    *f0 += step;
    *f1 += step;
}

/* f32 by f32; a step is one k. */
VEC_INLINE void micro_f32(const struct micro *m, int rows, int nv)
{
    struct micro_sums s;
    const unsigned char *base[MICRO_BASES], *w0 = m->w[0], *w1 = m->w[1];
    const unsigned char *f0 = m->far[0], *f1 = m->far[1];
    long stride = m->x_stride, step = m->w_step, ahead = m->ahead, far_step = m->far_step;
    micro_open(&s, m, rows, nv);
    micro_bases(base, m, rows);
    for (int k = m->n; k > 0; k--) {
        vf a = vf_load((const float *)(const void *)w0), b = a;
        _mm_prefetch((const char *)w0 + ahead, _MM_HINT_T0);
        micro_fetch(&f0, &f1, far_step);
        w0 += step;
        if (nv == 2) {
            b = vf_load((const float *)(const void *)w1);
            w1 += step;
        }
        VEC_UNROLL
        for (int r = 0; r < rows; r++) {
            vf x = vf_set(*(const float *)(const void *)(base[r / 3] + r % 3 * stride));
            s.v[r][0] = vf_fma(x, a, s.v[r][0]);
            if (nv == 2)
                s.v[r][1] = vf_fma(x, b, s.v[r][1]);
        }
        micro_advance(base, rows, 4);
    }
    micro_close(&s, m, rows, nv);
}

/* The even and the odd k of a vector of bf16 pairs, as f32. */
VEC_INLINE vf micro_even(const unsigned char *w)
{
#if VEC_LANES == 16
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_load_si512((const void *)w), 16));
#else
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_load_si256((const void *)w), 16));
#endif
}

VEC_INLINE vf micro_odd(const unsigned char *w)
{
#if VEC_LANES == 16
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_load_si512((const void *)w), _mm512_set1_epi32(-0x10000)));
#else
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_load_si256((const void *)w), _mm256_set1_epi32(-0x10000)));
#endif
}

/* f32 by bf16 pairs; a step is two k. */
VEC_INLINE void micro_wbf16(const struct micro *m, int rows, int nv)
{
    struct micro_sums s;
    const unsigned char *base[MICRO_BASES], *w0 = m->w[0], *w1 = m->w[1];
    const unsigned char *f0 = m->far[0], *f1 = m->far[1];
    long stride = m->x_stride, step = m->w_step, ahead = m->ahead, far_step = m->far_step;
    micro_open(&s, m, rows, nv);
    micro_bases(base, m, rows);
    for (int k = m->n; k > 0; k--) {
        _mm_prefetch((const char *)w0 + ahead, _MM_HINT_T0);
        micro_fetch(&f0, &f1, far_step);
        for (int odd = 0; odd < 2; odd++) {
            vf a = odd ? micro_odd(w0) : micro_even(w0), b = a;
            if (nv == 2)
                b = odd ? micro_odd(w1) : micro_even(w1);
            VEC_UNROLL
            for (int r = 0; r < rows; r++) {
                vf x = vf_set(((const float *)(const void *)(base[r / 3] + r % 3 * stride))[odd]);
                s.v[r][0] = vf_fma(x, a, s.v[r][0]);
                if (nv == 2)
                    s.v[r][1] = vf_fma(x, b, s.v[r][1]);
            }
        }
        w0 += step;
        w1 += step;
        micro_advance(base, rows, 8);
    }
    micro_close(&s, m, rows, nv);
}

/* name[rows][vectors]: one instance of `body` for every count of rows. */
#define MICRO_ONE(name, body, rows, nv) \
    static void name##_##rows##_##nv(const struct micro *m) { body(m, rows, nv); }
#define MICRO_BOTH(name, body, rows) MICRO_ONE(name, body, rows, 1) MICRO_ONE(name, body, rows, 2)
#define MICRO_ENTRY(name, rows)                 \
    {                                           \
        0, name##_##rows##_1, name##_##rows##_2 \
    }

#if VEC_LANES == 16
#define MICRO_TABLE(name, body)                                  \
    MICRO_BOTH(name, body, 1)                                    \
    MICRO_BOTH(name, body, 2)                                    \
    MICRO_BOTH(name, body, 3)                                    \
    MICRO_BOTH(name, body, 4)                                    \
    MICRO_BOTH(name, body, 5)                                    \
    MICRO_BOTH(name, body, 6)                                    \
    MICRO_BOTH(name, body, 7)                                    \
    MICRO_BOTH(name, body, 8)                                    \
    MICRO_BOTH(name, body, 9)                                    \
    MICRO_BOTH(name, body, 10)                                   \
    MICRO_BOTH(name, body, 11)                                   \
    MICRO_BOTH(name, body, 12)                                   \
    static const micro_fn name[13][3] = { { 0 },                 \
                                          MICRO_ENTRY(name, 1),  \
                                          MICRO_ENTRY(name, 2),  \
                                          MICRO_ENTRY(name, 3),  \
                                          MICRO_ENTRY(name, 4),  \
                                          MICRO_ENTRY(name, 5),  \
                                          MICRO_ENTRY(name, 6),  \
                                          MICRO_ENTRY(name, 7),  \
                                          MICRO_ENTRY(name, 8),  \
                                          MICRO_ENTRY(name, 9),  \
                                          MICRO_ENTRY(name, 10), \
                                          MICRO_ENTRY(name, 11), \
                                          MICRO_ENTRY(name, 12) };
#else
#define MICRO_TABLE(name, body)                                \
    MICRO_BOTH(name, body, 1)                                  \
    MICRO_BOTH(name, body, 2)                                  \
    MICRO_BOTH(name, body, 3)                                  \
    MICRO_BOTH(name, body, 4)                                  \
    MICRO_BOTH(name, body, 5)                                  \
    MICRO_BOTH(name, body, 6)                                  \
    static const micro_fn name[7][3] = { { 0 },                \
                                         MICRO_ENTRY(name, 1), \
                                         MICRO_ENTRY(name, 2), \
                                         MICRO_ENTRY(name, 3), \
                                         MICRO_ENTRY(name, 4), \
                                         MICRO_ENTRY(name, 5), \
                                         MICRO_ENTRY(name, 6) };
#endif

#endif
