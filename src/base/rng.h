/* SPDX-License-Identifier: Apache-2.0
 * rng: a counter-based generator. Value i of stream `seed` is a hash of (seed, i), so any part of a
 * stream can be had without the rest and no state is kept. Not for secrets.
 * Mixing function: splitmix64's (Steele, Lea, Flood, OOPSLA 2014). */
#ifndef PI0_BASE_RNG_H
#define PI0_BASE_RNG_H

#include <stdint.h>

/* The finalizer of splitmix64: a bijection on 64 bits in which each input bit flips each output bit
 * about half of the time. */
static inline uint64_t rng_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Value i of stream `seed`. The seed is mixed first: neighbouring seeds give unrelated streams. */
static inline uint64_t rng_u64(uint64_t seed, uint64_t i)
{
    return rng_mix(rng_mix(seed ^ 0x6A09E667F3BCC909u) + (i + 1) * 0x9E3779B97F4A7C15u);
}

/* The same as a double in (0, 1): 52 random bits and a half unit, so never 0 and never 1. */
static inline double rng_unit(uint64_t seed, uint64_t i)
{
    return ((double)(rng_u64(seed, i) >> 12) + 0.5) * 0x1p-52;
}

#endif
