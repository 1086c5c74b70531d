/* SPDX-License-Identifier: Apache-2.0
 *
 * steps: everything in denoising that depends on weights and step count alone (docs/model.md §9,
 * items 6 and 8). Made at open for the largest step count and made again, into the same memory, when
 * a call asks for another one.
 *
 *   π0     step_bias[k] = time half of action_time_mlp_in · sinusoid(t_k) + bias
 *   π0.5   cond[k]      = silu(time_mlp_out · silu(time_mlp_in · sinusoid(t_k)))
 *          mod[norm][k] = scale, shift, gate of each of the 2 L + 1 norms; scale kept as 1 + scale */
#include "backend/cpu/cpu.h"

static int n_norms(const struct cpu *c) { return 2 * c->plan.dims.depth + 1; }

void cpu_steps_carve(struct cpu *c)
{
    const struct pi0_dims *d = &c->plan.dims;
    long steps = c->plan.max_steps;
    int width = d->expert_width;
    c->times = arena_take(&c->work, (size_t)steps, sizeof *c->times);
    c->sinusoid = cpu_mat(&c->work, steps, width, DT_F32);
    if (d->variant == PI0_VARIANT_PI0) {
        c->step_bias = cpu_mat(&c->work, steps, width, DT_F32);
        return;
    }
    c->time_hidden = cpu_mat(&c->work, steps, width, DT_F32);
    c->cond = cpu_mat(&c->work, steps, width, DT_F32);
    c->mod = cpu_mat(&c->work, steps * n_norms(c), 3 * width + CPU_PANEL, DT_F32);
}

/* Rows of norm i in the modulation table. */
static struct mat modulation(const struct cpu *c, int norm)
{
    return mat_at(c->mod, (long)norm * c->plan.max_steps, 0);
}

static const struct packed *modulation_weights(const struct cpu *c, int norm)
{
    if (norm == 2 * c->plan.dims.depth)
        return &c->final_mod;
    return norm % 2 ? &c->expert[norm / 2].mod2 : &c->expert[norm / 2].mod1;
}

struct norm cpu_expert_norm(const struct cpu *c, int norm, int step)
{
    int width = c->plan.dims.expert_width;
    if (c->plan.dims.variant == PI0_VARIANT_PI0)
        return norm == 2 * c->plan.dims.depth ? c->final
               : norm % 2                     ? c->expert[norm / 2].norm2
                                              : c->expert[norm / 2].norm1;
    const float *row = mat_f32(modulation(c, norm), step);
    return (
        struct norm){ .gain = row, .shift = row + width, .gate = row + 2 * width, .width = width };
}

struct job {
    struct cpu *c;
    int n_steps;
};

static void make_tables(void *arg, int index, int count)
{
    const struct job *job = arg;
    struct cpu *c = job->c;
    struct worker w = cpu_worker(c, index, count);
    int n = job->n_steps, width = c->plan.dims.expert_width;
    struct share steps = cpu_share(&w, n);
    for (int k = steps.begin; k < steps.end; k++)
        schedule_sinusoid(c->times[k], width, mat_f32(c->sinusoid, k));
    cpu_barrier(&w);
    if (c->plan.dims.variant == PI0_VARIANT_PI0) {
        cpu_linear(&w, c->step_bias, EPI_STORE, c->sinusoid, &c->time_in, n);
        return;
    }
    cpu_linear(&w, c->time_hidden, EPI_SILU, c->sinusoid, &c->time_in, n);
    cpu_linear(&w, c->cond, EPI_SILU, c->time_hidden, &c->time_out, n);
    for (int norm = 0; norm < n_norms(c); norm++) {
        struct mat mod = modulation(c, norm);
        cpu_linear(&w, mod, EPI_STORE, c->cond, modulation_weights(c, norm), n);
        for (int k = steps.begin; k < steps.end; k++)
            for (int i = 0; i < width; i++)
                mat_f32(mod, k)[i] += 1.0f;
    }
    cpu_barrier(&w);
}

void cpu_steps_prepare(struct cpu *c, int n_steps)
{
    if (c->steps_ready == n_steps)
        return;
    schedule_times(n_steps, model_schedule(c->model), c->times);
    threads_run(c->pool, make_tables, &(struct job){ c, n_steps });
    c->steps_ready = n_steps;
}
