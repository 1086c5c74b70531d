/* SPDX-License-Identifier: Apache-2.0
 * peak: see peak.h. Twenty sums that do not depend on each other hide every latency. */
#include "peak.h"

#include "pi0.h"

#include <time.h>

double peak_cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

#if defined(__x86_64__)
#include <immintrin.h>

#define FOR_20(F) \
    F(0)          \
    F(1)          \
    F(2)          \
    F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14) F(15) F(16) F(17) F(18) F(19)
#define FOR_12(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)

__attribute__((target("avx2,fma"))) static void loop_avx2(long n)
{
    __m256 x = _mm256_set1_ps(1.0f);
#define DECLARE(i) __m256 s##i = _mm256_setzero_ps();
#define STEP(i)                         \
    s##i = _mm256_fmadd_ps(x, x, s##i); \
    __asm__ volatile("" : "+x"(s##i));
    FOR_12(DECLARE)
    for (long i = 0; i < n; i++) {
        FOR_12(STEP)
    }
#undef DECLARE
#undef STEP
}

__attribute__((target("avx512f"))) static void loop_avx512(long n)
{
    __m512 x = _mm512_set1_ps(1.0f);
#define DECLARE(i) __m512 s##i = _mm512_setzero_ps();
#define STEP(i)                         \
    s##i = _mm512_fmadd_ps(x, x, s##i); \
    __asm__ volatile("" : "+v"(s##i));
    FOR_20(DECLARE)
    for (long i = 0; i < n; i++) {
        FOR_20(STEP)
    }
#undef DECLARE
#undef STEP
}

__attribute__((target("avx512f,avx512bf16"))) static void loop_avx512bf16(long n)
{
    __m512bh x = (__m512bh)_mm512_set1_epi32(0x3F803F80);
#define DECLARE(i) __m512 s##i = _mm512_setzero_ps();
#define STEP(i)                          \
    s##i = _mm512_dpbf16_ps(s##i, x, x); \
    __asm__ volatile("" : "+v"(s##i));
    FOR_20(DECLARE)
    for (long i = 0; i < n; i++) {
        FOR_20(STEP)
    }
#undef DECLARE
#undef STEP
}

__attribute__((target("amx-tile,amx-bf16"))) static void loop_amx(long n)
{
    static const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t columns[16];
        uint8_t rows[16];
    } config = {
        1, 0, { 0 }, { 64, 64, 64, 64, 64, 64, 64, 64 }, { 16, 16, 16, 16, 16, 16, 16, 16 }
    };
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (long i = 0; i < n; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
}

double peak_gflops(enum peak_kind kind, uint32_t isa)
{
    int bf16 = kind == PEAK_BF16;
    void (*loop)(long) = NULL;
    double flop = 0; /* of one turn */
    if (isa & PI0_ISA_AVX2)
        loop = loop_avx2, flop = 12 * 16;
    if (isa & PI0_ISA_AVX512)
        loop = loop_avx512, flop = 20 * 32;
    if (bf16 && isa & PI0_ISA_AVX512_BF16)
        loop = loop_avx512bf16, flop = 20 * 64;
    if (bf16 && isa & PI0_ISA_AMX_BF16)
        loop = loop_amx, flop = 4 * 16 * 16 * 64;
    if (!loop)
        return 0;
    double best = 0;
    for (int i = 0; i < 5; i++) {
        long n = (long)(4e8 / flop);
        double t = peak_cpu_ms();
        loop(n);
        double rate = flop * (double)n / (peak_cpu_ms() - t) * 1e-6;
        best = rate > best ? rate : best;
    }
    return best;
}

#else

double peak_gflops(enum peak_kind kind, uint32_t isa)
{
    (void)kind;
    (void)isa;
    return 0;
}

#endif
