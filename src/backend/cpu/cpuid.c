/* SPDX-License-Identifier: Apache-2.0
 *
 * cpuid: see cpuid.h. Bits: Intel SDM vol. 2A, CPUID leaves 1, 7.0, 7.1, 0xD, 0x80000002…4; vol. 1
 * §13.3 (XCR0). Compiler extensions are needed here: cpuid and xgetbv have no C spelling. */
#include "backend/cpu/cpuid.h"

#include "pi0.h"

#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define XCR0_AVX 0x6u             /* SSE and AVX registers */
#define XCR0_AVX512 0xE6u         /* and opmask, the upper halves, registers 16…31 */
#define XCR0_AMX 0x60000u         /* tile configuration and tile data */
#define REQUEST_PERMISSION 0x1023 /* arch_prctl: ARCH_REQ_XCOMP_PERM */
#define TILE_DATA 18              /* XFEATURE_XTILEDATA */

static int has(uint32_t reg, int bit) { return (int)(reg >> bit & 1); }

static uint32_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int tiles_allowed(void)
{
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

uint32_t cpuid_isa(uint32_t mask)
{
    uint32_t a, b, c, d, a7 = 0, b7 = 0, c7 = 0, d7 = 0, isa = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, 27)) /* OSXSAVE */
        return 0;
    uint32_t xcr0 = read_xcr0();
    int fma = has(c, 12), avx = has(c, 28), f16c = has(c, 29);
    if (!__get_cpuid_count(7, 0, &a7, &b7, &c7, &d7))
        return 0;
    int avx2 = has(b7, 5);
    int avx512 = has(b7, 16) && has(b7, 17) && has(b7, 30) && has(b7, 31); /* F, DQ, BW, VL */
    int amx = has(d7, 22) && has(d7, 24);                                  /* BF16, TILE */
    int avx512_bf16 = a7 >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && has(a, 5);

    if ((mask & PI0_ISA_AVX2) && avx && avx2 && fma && f16c && (xcr0 & XCR0_AVX) == XCR0_AVX)
        isa |= PI0_ISA_AVX2;
    if ((mask & PI0_ISA_AVX512) && isa && avx512 && (xcr0 & XCR0_AVX512) == XCR0_AVX512)
        isa |= PI0_ISA_AVX512;
    if ((mask & PI0_ISA_AVX512_BF16) && (isa & PI0_ISA_AVX512) && avx512_bf16)
        isa |= PI0_ISA_AVX512_BF16;
    if ((mask & PI0_ISA_AMX_BF16) && (isa & PI0_ISA_AVX512_BF16) && amx &&
        (xcr0 & XCR0_AMX) == XCR0_AMX && tiles_allowed())
        isa |= PI0_ISA_AMX_BF16;
    return isa;
}

void cpuid_brand(char *dst, size_t dst_bytes)
{
    uint32_t regs[12] = { 0 };
    char name[sizeof regs + 1] = { 0 };
    if ((uint32_t)__get_cpuid_max(0x80000000u, NULL) >= 0x80000004u)
        for (uint32_t i = 0; i < 3; i++)
            __get_cpuid(0x80000002u + i, regs + 4 * i, regs + 4 * i + 1, regs + 4 * i + 2,
                        regs + 4 * i + 3);
    memcpy(name, regs, sizeof regs);
    size_t first = strspn(name, " "), last = strlen(name);
    while (last > first && name[last - 1] == ' ')
        name[--last] = '\0';
    snprintf(dst, dst_bytes, "%s", name[first] ? name + first : "CPU");
}

#else

uint32_t cpuid_isa(uint32_t mask)
{
    (void)mask;
    return 0;
}

void cpuid_brand(char *dst, size_t dst_bytes) { snprintf(dst, dst_bytes, "CPU"); }

#endif

const char *cpuid_isa_name(uint32_t isa)
{
    return isa & PI0_ISA_AMX_BF16      ? "amx_bf16"
           : isa & PI0_ISA_AVX512_BF16 ? "avx512_bf16"
           : isa & PI0_ISA_AVX512      ? "avx512"
           : isa & PI0_ISA_AVX2        ? "avx2"
                                       : "scalar";
}
