/* SPDX-License-Identifier: Apache-2.0
 * schedule: the times of the Euler loop and their sinusoidal embedding: all of the denoising that
 * depends on the step count alone. Host side, float64 where the formula asks for it. */
#ifndef PI0_MODEL_SCHEDULE_H
#define PI0_MODEL_SCHEDULE_H

/* How t[k] = 1 - k/n is rounded. The two differ by 1e-7 at most, which shows in float32 only (4e-5 on
 * the π0.5 conditioning); a checkpoint gets the form of the code it comes from. */
enum schedule_form {
    SCHEDULE_ACCUMULATED, /* openpi: t = 1; t += -1/n, in float32 */
    SCHEDULE_DIRECT       /* lerobot: 1 + k · (-1/n) in float64, rounded once */
};

/* t[k], k = 0 … n-1; docs/model.md "Euler loop". */
void schedule_times(int n_steps, enum schedule_form form, float *t);

/* emb[width] = sin(args), cos(args) with period 4e-3 … 4.0; t widened to double, all of it in
 * float64, one rounding. openpi: create_sinusoidal_pos_embedding. width is even and ≥ 4. */
void schedule_sinusoid(float t, int width, float *emb);

#endif
