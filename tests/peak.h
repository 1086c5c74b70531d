/* SPDX-License-Identifier: Apache-2.0
 * peak: what one core reaches when nothing but arithmetic is left: the yardstick of the benches. */
#ifndef PI0_TESTS_PEAK_H
#define PI0_TESTS_PEAK_H

#include <stdint.h>

enum peak_kind { PEAK_F32, PEAK_BF16 };

/* GFLOP/s of a loop of multiply-adds between registers (or tiles), with the newest instruction set of
 * `isa` (PI0_ISA_ bits that this machine has) that computes in this type; 0 without vectors. Takes
 * some 10 ms. In processor time of the calling thread. */
double peak_gflops(enum peak_kind kind, uint32_t isa);

/* Processor time of the calling thread, ms: on a shared machine wall time also counts others. */
double peak_cpu_ms(void);

#endif
