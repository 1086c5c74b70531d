/* SPDX-License-Identifier: Apache-2.0
 * noise: the standard normal values that a denoising starts from, a function of the seed alone.
 * Values 2j and 2j+1 are one Box–Muller pair of the uniform values 2j and 2j+1 (base/rng.h), so a
 * shorter chunk is the beginning of a longer one. Computed in double and rounded once to float32:
 * libm's last bit, the only thing that may differ between machines, is 29 bits below the result's,
 * so a float32 differs at most about once in 10^8 values. */
#include "base/rng.h"
#include "pi0.h"

#include <math.h>

PI0_API void pi0_noise(float *dst, size_t n, uint64_t seed)
{
    static const double two_pi = 6.283185307179586476925286766559;
    for (size_t i = 0; i < n; i += 2) {
        double radius = sqrt(-2.0 * log(rng_unit(seed, i)));
        double angle = two_pi * rng_unit(seed, i + 1);
        dst[i] = (float)(radius * cos(angle));
        if (i + 1 < n)
            dst[i + 1] = (float)(radius * sin(angle));
    }
}
