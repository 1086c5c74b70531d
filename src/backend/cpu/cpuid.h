/* SPDX-License-Identifier: Apache-2.0
 * cpuid: what this processor and its kernel offer, AND the mask that the caller allows. */
#ifndef PI0_BACKEND_CPU_CPUID_H
#define PI0_BACKEND_CPU_CPUID_H

#include <stddef.h>
#include <stdint.h>

/* PI0_ISA_ bits that may be used: the processor has them, the operating system saves their
 * registers, `mask` allows them, and every older set they build on is there too (AVX-512 kernels use
 * AVX2, AMX kernels use AVX-512). Asks the kernel for AMX tile state if AMX is allowed; a refusal
 * clears the bit and is no error. */
uint32_t cpuid_isa(uint32_t mask);

/* "scalar", "avx2", "avx512", "avx512_bf16", "amx_bf16": the newest set of `isa`. Static string. */
const char *cpuid_isa_name(uint32_t isa);

/* The processor's own name ("AMD EPYC 9R14"), NUL-terminated, cut to fit; "CPU" where it has none. */
void cpuid_brand(char *dst, size_t dst_bytes);

#endif
