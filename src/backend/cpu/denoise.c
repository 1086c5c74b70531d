/* SPDX-License-Identifier: Apache-2.0
 *
 * denoise: state and noise → actions. The Euler loop over the action expert (docs/model.md §3, §7,
 * §8), reading the prefix K/V and appending the suffix's behind it.
 *
 *   x(t) ─ embed ─► s ─┬─ norm1 → q|k|v → RoPE → attention → Wo ─┬─ norm2 → gate·up → down ─┐ × layers
 *                      └────────◄ += gate · ─────────────────────┴──────◄ += gate · ────────┘
 *   v = action_out(final norm(s)),  x(t + dt) = x(t) + dt · v,  dt = -1/N, from t = 1 to 0
 *
 * Rows: the actions of all samples, then (π0, first step only) the state tokens of all samples:
 *
 *     | sample 0: H actions | sample 1: H actions | … | state 0 | state 1 | … |
 *
 * A state token sees the prefix and itself, and depends neither on x nor on t: it rides along with
 * the first step, which streams the same weights, and its K/V stay in the cache for the others. */
#include "backend/cpu/cpu.h"

#include "base/clock.h"

#include <math.h>
#include <string.h>

void cpu_denoise_carve(struct cpu *c)
{
    const struct pi0_dims *d = &c->plan.dims;
    long actions = (long)c->plan.max_batch * d->action_horizon;
    long rows = (long)c->plan.max_batch * c->plan.n_suffix;
    c->n_recorded = c->plan.record_steps ? c->plan.max_steps : 1;
    c->s = (struct stage_buffers){
        .x = cpu_mat(&c->work, rows, d->expert_width, DT_F32),
        .n = cpu_mat(&c->work, rows, d->expert_width, c->act),
        .qkv = cpu_mat(&c->work, rows, c->plan.q_dim + 2 * d->head_dim, DT_F32),
        .o = cpu_mat(&c->work, rows, c->plan.q_dim, c->act),
        .hidden = cpu_mat(&c->work, rows, d->expert_mlp_dim, c->act),
    };
    c->state = cpu_mat(&c->work, c->plan.max_batch, d->action_dim, DT_F32);
    c->xt = cpu_mat(&c->work, actions, d->action_dim, DT_F32);
    c->vt = cpu_mat(&c->work, actions, d->action_dim, DT_F32);
    c->head_in = cpu_mat(&c->work, actions, d->expert_width, DT_F32);
    c->x_log = cpu_mat(&c->work, actions * c->n_recorded, d->action_dim, DT_F32);
    c->v_log = cpu_mat(&c->work, actions * c->n_recorded, d->action_dim, DT_F32);
}

/* What one thread needs to know of a step. */
struct step {
    int k;
    int n;         /* samples */
    int n_actions; /* rows [0, n_actions): n · H */
    int n_states;  /* rows behind them: n at π0's first step, else 0 */
};

/* Suffix embeddings of xt's rows, and of `state`'s behind them, into s.x. */
static void embed(const struct worker *w, const struct step *s, struct mat xt, struct mat state)
{
    const struct cpu *c = w->c;
    if (c->plan.dims.variant == PI0_VARIANT_PI05) {
        cpu_linear(w, c->s.x, EPI_STORE, xt, &c->action_in, s->n_actions);
        return;
    }
    struct packed action_in = c->action_in;
    action_in.bias = mat_f32(c->step_bias, s->k); /* where the time enters */
    cpu_linear(w, c->head_in, EPI_SILU, xt, &action_in, s->n_actions);
    cpu_linear(w, c->s.x, EPI_STORE, c->head_in, &c->time_out, s->n_actions);
    cpu_linear(w, mat_at(c->s.x, s->n_actions, 0), EPI_STORE, state, &c->state_in, s->n_states);
}

/* RoPE, and the suffix's K and V behind the prefix's. */
static void append(const struct worker *w, const struct step *s, int layer)
{
    const struct cpu *c = w->c;
    int horizon = c->plan.dims.action_horizon, n_state = c->plan.n_state;
    struct share rows = cpu_share(w, s->n_actions + s->n_states);
    for (int i = 0; i < s->n + s->n_states; i++) {
        int is_state = i >= s->n, b = is_state ? i - s->n : i, begin, end;
        const struct sample *sample = &c->samples[b];
        struct append a = {
            .qkv = mat_at(c->s.qkv, is_state ? s->n_actions + b : (long)b * horizon, 0),
            .q_heads = c->plan.dims.heads,
            .position = sample->n_valid + (is_state ? 0 : n_state),
            .first_key = sample->n_rows + (is_state ? 0 : n_state),
            .keys = cpu_keys(c, layer, b),
            .values = cpu_values(c, layer, b),
        };
        share_next(&rows, is_state ? 1 : horizon, &begin, &end);
        cpu_append(w, &a, begin, end);
    }
    cpu_barrier(w);
}

/* Actions see the valid prefix, the state token and all actions; a state token the valid prefix and
 * itself. */
static void attend(const struct worker *w, const struct step *s, int layer)
{
    const struct cpu *c = w->c;
    int horizon = c->plan.dims.action_horizon, heads = c->plan.dims.heads;
    struct share items = cpu_share(w, s->n * cpu_attn_items(horizon, heads) +
                                          s->n_states * cpu_attn_items(1, heads));
    for (int i = 0; i < s->n + s->n_states; i++) {
        int is_state = i >= s->n, b = is_state ? i - s->n : i;
        const struct sample *sample = &c->samples[b];
        long row = is_state ? s->n_actions + b : (long)b * horizon;
        struct attn_group g = {
            .args = { .q = mat_f32(c->s.qkv, row),
                      .q_stride = c->s.qkv.stride,
                      .keys = cpu_keys(c, layer, b),
                      .v = cpu_values(c, layer, b),
                      .v_stride = cpu_value_stride(c),
                      .head_dim = c->plan.dims.head_dim,
                      .n_keys = sample->n_rows + (is_state ? 1 : c->plan.n_suffix),
                      .hole_begin = sample->n_valid,
                      .hole_end = sample->n_rows,
                      .scale = 1.0f / sqrtf((float)c->plan.dims.head_dim),
                      .o = mat_at(c->s.o, row, 0).at,
                      .o_dtype = c->s.o.dtype,
                      .o_stride = c->s.o.stride },
            .m = is_state ? 1 : horizon,
            .heads = heads,
        };
        cpu_attention(w, &items, &g);
    }
    cpu_barrier(w);
}

/* x += dt · v over the action rows, keeping both for the taps. */
static void euler(const struct worker *w, const struct step *s, float dt)
{
    const struct cpu *c = w->c;
    int a = c->plan.dims.action_dim;
    size_t bytes = (size_t)a * sizeof(float);
    long log_row = (long)s->k * c->plan.max_batch * c->plan.dims.action_horizon;
    struct share rows = cpu_share(w, s->n_actions);
    for (int r = rows.begin; r < rows.end; r++) {
        float *x = mat_f32(c->xt, r);
        const float *v = mat_f32(c->vt, r);
        if (s->k < c->n_recorded) {
            memcpy(mat_f32(c->x_log, log_row + r), x, bytes);
            memcpy(mat_f32(c->v_log, log_row + r), v, bytes);
        }
        for (int i = 0; i < a; i++)
            x[i] += dt * v[i];
    }
    cpu_barrier(w);
}

struct job {
    struct cpu *c;
    int n, n_steps;
};

static void run(void *arg, int index, int count)
{
    const struct job *job = arg;
    struct cpu *c = job->c;
    struct worker w = cpu_worker(c, index, count);
    const struct stage_buffers *b = &c->s;
    int depth = c->plan.dims.depth;
    int again = (c->without & PI0_WITHOUT_STATE_REUSE) != 0; /* the state token in every step */

    for (int k = 0; k < job->n_steps; k++) {
        struct step s = { .k = k,
                          .n = job->n,
                          .n_actions = job->n * c->plan.dims.action_horizon,
                          .n_states = k == 0 || again ? job->n * c->plan.n_state : 0 };
        int m = s.n_actions + s.n_states;
        embed(&w, &s, c->xt, c->state);
        for (int i = 0; i < depth; i++) {
            const struct cpu_gemma_layer *l = &c->expert[i];
            struct norm norm1 = cpu_expert_norm(c, 2 * i, k);
            cpu_rmsnorm(&w, b->n, b->x, &norm1, m);
            cpu_linear(&w, b->qkv, EPI_STORE, b->n, &l->qkv, m);
            append(&w, &s, i);
            attend(&w, &s, i);
            cpu_add(&w, b->x, norm1.gate, b->o, &l->o, m);

            struct norm norm2 = cpu_expert_norm(c, 2 * i + 1, k);
            cpu_rmsnorm(&w, b->n, b->x, &norm2, m);
            cpu_linear(&w, b->hidden, EPI_GEGLU, b->n, &l->gate_up, m);
            cpu_add(&w, b->x, norm2.gate, b->hidden, &l->down, m);
        }
        struct norm final = cpu_expert_norm(c, 2 * depth, k);
        cpu_rmsnorm(&w, c->head_in, b->x, &final, s.n_actions);
        cpu_linear(&w, c->vt, EPI_STORE, c->head_in, &c->action_out, s.n_actions);
        euler(&w, &s, -1.0f / (float)job->n_steps);
    }
}

pi0_status cpu_denoise(void *self, const struct batch *in, float *actions, struct pi0_error *err)
{
    struct cpu *c = self;
    double start = clock_ms();
    long horizon = c->plan.dims.action_horizon, a = c->plan.dims.action_dim;
    size_t bytes = (size_t)a * sizeof(float);
    (void)err;
    if (c->without & PI0_WITHOUT_FOLDED_TABLES)
        c->steps_ready = 0;
    cpu_steps_prepare(c, in->n_steps);
    for (int b = 0; b < in->n; b++) {
        if (c->plan.n_state)
            memcpy(mat_f32(c->state, b), in->samples[b].state, bytes);
        for (long j = 0; j < horizon; j++)
            memcpy(mat_f32(c->xt, b * horizon + j), in->samples[b].noise + j * a, bytes);
    }
    threads_run(c->pool, run, &(struct job){ c, in->n, in->n_steps });
    for (long r = 0; r < in->n * horizon; r++)
        memcpy(actions + r * a, mat_f32(c->xt, r), bytes);
    c->timing.denoise_ms = clock_ms() - start;
    return PI0_OK;
}

/* ---------------------------------------------------------------- tap */

struct tap_job {
    struct cpu *c;
    int sample, step;
};

static void embed_again(void *arg, int index, int count)
{
    const struct tap_job *job = arg;
    struct cpu *c = job->c;
    struct worker w = cpu_worker(c, index, count);
    int horizon = c->plan.dims.action_horizon;
    struct step s = { .k = job->step, .n = 1, .n_actions = horizon, .n_states = c->plan.n_state };
    long row = ((long)job->step * c->plan.max_batch + job->sample) * horizon;
    embed(&w, &s, mat_at(c->x_log, row, 0), mat_at(c->state, job->sample, 0));
}

void cpu_suffix_embs(struct cpu *c, int b, int step, float *dst)
{
    size_t width = (size_t)c->plan.dims.expert_width;
    int n_state = c->plan.n_state, horizon = c->plan.dims.action_horizon;
    threads_run(c->pool, embed_again, &(struct tap_job){ c, b, step });
    for (int i = 0; i < n_state; i++, dst += width)
        memcpy(dst, mat_f32(c->s.x, horizon + i), width * sizeof *dst);
    for (int j = 0; j < horizon; j++, dst += width)
        memcpy(dst, mat_f32(c->s.x, j), width * sizeof *dst);
}
