/* SPDX-License-Identifier: Apache-2.0
 * schedule: Euler times and their sinusoidal embedding. What is made of the embedding (time MLPs)
 * belongs to the backends. */
#include "model/schedule.h"

#include <math.h>

/* openpi: models_pytorch/pi0_pytorch.py sample_actions. dt is rounded to float32 first and the time
 * accumulates in float32: after ten steps it is 7e-8 off 1 - k/10, which the highest frequency of
 * the embedding shows. lerobot: modeling_pi0.py sample_actions, time = 1.0 + step * dt. */
void schedule_times(int n_steps, enum schedule_form form, float *t)
{
    const double dt = -1.0 / n_steps;
    float now = 1.0f;
    for (int k = 0; k < n_steps; k++) {
        t[k] = form == SCHEDULE_DIRECT ? (float)(1.0 + k * dt) : now;
        now += (float)dt;
    }
}

/* openpi: create_sinusoidal_pos_embedding(time, width, 4e-3, 4.0). Arguments reach 1571 rad, so
 * float64 to the end. */
void schedule_sinusoid(float t, int width, float *emb)
{
    const double min_period = 4e-3, max_period = 4.0, pi = 3.14159265358979323846;
    const int half = width / 2;
    for (int i = 0; i < half; i++) {
        double fraction = (double)i / (half - 1);
        double period = min_period * pow(max_period / min_period, fraction);
        double arg = 1.0 / period * 2.0 * pi * (double)t;
        emb[i] = (float)sin(arg);
        emb[half + i] = (float)cos(arg);
    }
}
