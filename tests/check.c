/* SPDX-License-Identifier: Apache-2.0
 * check: see check.h. Memory of a case is a list of blocks; each has 4 KB of guard bytes on either
 * side, looked at when the case ends (and forbidden to AddressSanitizer while it runs). */
#include "check.h"

#include "backend/cpu/cpuid.h"
#include "base/clock.h"
#include "peak.h"
#include "pi0.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POISONS 1
#endif
#endif
#ifdef POISONS
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

#define GUARD ((size_t)4096)
#define GUARD_BYTE 0xA5
#define MAX_BLOCKS 64
#define MAX_FILTERS 16

const char *const fill_name[N_FILL] = { "normal", "huge", "tiny", "mixed", "zero" };

struct block {
    unsigned char *base;
    size_t bytes;
};

static struct {
    const char *filter[MAX_FILTERS];
    int n_filters, bench;
    uint64_t seed, state;
    int passed, failed, skipped;
    char name[256];
    int bad; /* the case in hand has failed */
    struct block block[MAX_BLOCKS];
    int n_blocks;
} run;

/* ---------------------------------------------------------------- cases */

static int usage(const char *program)
{
    fprintf(stderr, "usage: %s [--filter WORD]... [--bench] [--seed N]\n", program);
    return 2;
}

int check_main(int argc, char **argv, void (*cases)(void))
{
    run.seed = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--bench"))
            run.bench = 1;
        else if (!strcmp(argv[i], "--filter") && i + 1 < argc && run.n_filters < MAX_FILTERS)
            run.filter[run.n_filters++] = argv[++i];
        else if (!strcmp(argv[i], "--seed") && i + 1 < argc)
            run.seed = strtoull(argv[++i], NULL, 10);
        else
            return usage(argv[0]);
    }
    printf("seed %llu\n", (unsigned long long)run.seed);
    cases();
    printf("%d passed, %d failed, %d skipped\n", run.passed, run.failed, run.skipped);
    return run.failed ? 1 : 0;
}

int check_begin(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(run.name, sizeof run.name, format, args);
    va_end(args);
    int wanted = run.n_filters == 0;
    for (int i = 0; i < run.n_filters; i++)
        wanted |= strstr(run.name, run.filter[i]) != NULL;
    if (!wanted)
        return 0;
    run.bad = 0;
    run.state = run.seed;
    for (const char *c = run.name; *c; c++) /* the data of a case do not depend on the others */
        run.state = (run.state ^ (unsigned char)*c) * 0x100000001B3ULL;
    return 1;
}

void check_fail(const char *format, ...)
{
    va_list args;
    printf("FAIL %s: ", run.name);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf(" (--seed %llu)\n", (unsigned long long)run.seed);
    run.bad = 1;
}

static void check_guard(const unsigned char *at, const char *where)
{
    for (size_t i = 0; i < GUARD; i++)
        if (at[i] != GUARD_BYTE) {
            check_fail("byte %zu of the guard zone %s a buffer was written", i, where);
            return;
        }
}

void check_end(void)
{
    for (int i = 0; i < run.n_blocks; i++) {
        unsigned char *base = run.block[i].base, *after = base + GUARD + run.block[i].bytes;
        ASAN_UNPOISON_MEMORY_REGION(base, GUARD);
        ASAN_UNPOISON_MEMORY_REGION(after, GUARD);
        check_guard(base, "before");
        check_guard(after, "after");
        free(base);
    }
    run.n_blocks = 0;
    run.passed += !run.bad;
    run.failed += run.bad;
}

void check_skip(const char *format, ...)
{
    va_list args;
    printf("skipped: ");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    run.skipped++;
}

int check_benching(void) { return run.bench; }

int check_isa(int i, uint32_t *mask, const char **name, int *have)
{
    static const struct {
        uint32_t mask;
        const char *name;
    } sets[] = {
        { 0, "scalar" },
        { PI0_ISA_AVX2, "avx2" },
        { PI0_ISA_AVX2 | PI0_ISA_AVX512, "avx512" },
        { PI0_ISA_AVX2 | PI0_ISA_AVX512 | PI0_ISA_AVX512_BF16, "avx512bf16" },
        { PI0_ISA_AVX2 | PI0_ISA_AVX512 | PI0_ISA_AVX512_BF16 | PI0_ISA_AMX_BF16, "amx" },
    };
    if (i < 0 || (size_t)i >= sizeof sets / sizeof *sets)
        return 0;
    *mask = sets[i].mask;
    *name = sets[i].name;
    *have = cpuid_isa(*mask) == *mask;
    return 1;
}

/* ---------------------------------------------------------------- data */

static void *block_take(size_t bytes)
{
    bytes = (bytes + 63) / 64 * 64;
    unsigned char *base = aligned_alloc(4096, (2 * GUARD + bytes + 4095) / 4096 * 4096);
    if (!base || run.n_blocks == MAX_BLOCKS) {
        fprintf(stderr, "check: %zu bytes cannot be had\n", bytes);
        exit(2);
    }
    memset(base, GUARD_BYTE, GUARD);
    memset(base + GUARD + bytes, GUARD_BYTE, GUARD);
    ASAN_POISON_MEMORY_REGION(base, GUARD);
    ASAN_POISON_MEMORY_REGION(base + GUARD + bytes, GUARD);
    run.block[run.n_blocks++] = (struct block){ base, bytes };
    return base + GUARD;
}

void *check_zeros(size_t bytes)
{
    void *p = block_take(bytes);
    memset(p, 0, (bytes + 63) / 64 * 64);
    return p;
}

void *check_poisoned(size_t n, enum dtype t)
{
    void *p = block_take(n * dtype_bytes(t));
    memset(p, 0xFF, (n * dtype_bytes(t) + 63) / 64 * 64);
    return p;
}

/* splitmix64 */
static uint64_t next_u64(void)
{
    uint64_t z = run.state += 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return z ^ (z >> 31);
}

double check_uniform(void) { return (double)(next_u64() >> 40) * 0x1p-23 - 1.0; }

void *check_random(size_t n, enum dtype t, enum fill fill)
{
    static const double scale[N_FILL] = { 1.0, 1e15, 1e-15, 1.0, 0.0 };
    void *p = check_zeros(n * dtype_bytes(t));
    for (size_t i = 0; i < n; i++) {
        double x = check_uniform() * scale[fill];
        if (fill == FILL_MIXED && next_u64() % 37 == 0)
            x *= 64;
        if (t == DT_BF16)
            ((uint16_t *)p)[i] = bf16_from_f32((float)x);
        else
            ((float *)p)[i] = (float)x;
    }
    return p;
}

/* ---------------------------------------------------------------- comparing */

static double value(struct check_mat m, int r, int c)
{
    long at = (long)r * m.stride + c;
    return m.dtype == DT_BF16 ? bf16_to_f32(((const uint16_t *)m.at)[at])
                              : ((const float *)m.at)[at];
}

void check_close(struct check_mat got, struct check_mat want, struct check_bound bound)
{
    double error = 0, norm = 0, n = (double)want.rows * want.cols;
    for (int r = 0; r < want.rows; r++)
        for (int c = 0; c < want.cols; c++) {
            double w = value(want, r, c), d = value(got, r, c) - w;
            error += d * d;
            norm += w * w;
        }
    if (!isfinite(norm)) {
        check_fail("the reference itself is not finite");
        return;
    }
    double rms = sqrt(norm / n), relative = norm > 0 ? sqrt(error / norm) : sqrt(error);
    if (!(relative <= bound.norm)) {
        check_fail("relative error %.3g, at most %.3g", relative, bound.norm);
        return;
    }
    for (int r = 0; r < want.rows; r++)
        for (int c = 0; c < want.cols; c++) {
            double w = value(want, r, c), g = value(got, r, c);
            if (!(fabs(g - w) <= bound.worst * (rms + fabs(w)))) {
                check_fail("[%d][%d] is %.9g, expected %.9g (rms %.3g)", r, c, g, w, rms);
                return;
            }
        }
}

void check_same(struct check_mat a, struct check_mat b, const char *what)
{
    size_t e = dtype_bytes(a.dtype);
    for (int r = 0; r < a.rows; r++)
        for (int c = 0; c < a.cols; c++)
            if (memcmp((const unsigned char *)a.at + ((size_t)r * (size_t)a.stride + (size_t)c) * e,
                       (const unsigned char *)b.at + ((size_t)r * (size_t)b.stride + (size_t)c) * e,
                       e) != 0) {
                check_fail("%s: [%d][%d] is %.9g in one, %.9g in the other", what, r, c,
                           value(a, r, c), value(b, r, c));
                return;
            }
}

void check_untouched(struct check_mat got, const char *what)
{
    size_t e = dtype_bytes(got.dtype);
    for (int r = 0; r < got.rows; r++)
        for (size_t i = (size_t)got.cols * e; i < (size_t)got.stride * e; i++)
            if (((const unsigned char *)got.at)[(size_t)r * (size_t)got.stride * e + i] != 0xFF) {
                check_fail("%s: row %d, byte %zu was written", what, r, i);
                return;
            }
}

/* ---------------------------------------------------------------- time */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void check_bench(double flop, double bytes, double peak, void (*fn)(void *arg), void *arg)
{
    enum { MAX_RUNS = 1000, MIN_RUNS = 5 };
    static double ms[MAX_RUNS];
    int n = 0;
    if (!run.bench)
        return;
    fn(arg);
    for (double start = clock_ms(); n < MAX_RUNS && (n < MIN_RUNS || clock_ms() - start < 500);
         n++) {
        double t = peak_cpu_ms();
        fn(arg);
        ms[n] = peak_cpu_ms() - t;
    }
    qsort(ms, (size_t)n, sizeof *ms, by_value);
    printf("%-60s %9.3f ms (min %.3f) %7.1f GFLOP/s %6.2f GB/s", run.name, ms[n / 2], ms[0],
           flop / ms[n / 2] * 1e-6, bytes / ms[n / 2] * 1e-6);
    if (peak > 0)
        printf("  %3.0f %% of %.1f", flop / ms[n / 2] * 1e-4 / peak, peak);
    printf("\n");
    fflush(stdout);
}
