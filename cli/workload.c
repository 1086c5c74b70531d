/* SPDX-License-Identifier: Apache-2.0
 * workload: the named workloads of `pi0 bench`, their random inputs, and one timed call over them.
 * Leaves the choice of what to measure, and what is made of it, to bench.c and report.c. */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct workload workloads[] = {
    { "pi0-788", "pi0", "3 cameras computed, one of them masked; horizon 10", 3, 2,
      PI0_MASKED_COMPUTE, 20, 20, 10 },
    { "pi0-532", "pi0", "the same, the masked camera skipped", 3, 2, PI0_MASKED_SKIP, 20, 20, 10 },
    { "pi0-799-h50", "pi0", "3 cameras, prompt 31 of 48, horizon 50", 3, 3, PI0_MASKED_SKIP, 31, 48,
      50 },
    { "pi05-968-h50", "pi05", "3 cameras, 200 prompt tokens, horizon 50", 3, 3, PI0_MASKED_SKIP,
      200, 200, 50 },
    { "tiny", "pi0_tiny", "the golden cases' small network; seconds in all", 3, 2, PI0_MASKED_SKIP,
      9, 12, 6 },
};
#define N_WORKLOADS ((int)(sizeof workloads / sizeof workloads[0]))

const struct workload *workload_at(int i) { return i < N_WORKLOADS ? &workloads[i] : NULL; }

const struct workload *workload_named(const char *name)
{
    for (int i = 0; i < N_WORKLOADS; i++)
        if (strcmp(workloads[i].name, name) == 0)
            return &workloads[i];
    return NULL;
}

int workload_list(const struct args *a, const struct workload **out, int max)
{
    int n = 0;
    for (int i = 0; i < a->n_workloads; i++)
        for (int k = 0; k < N_WORKLOADS && n < max; k++)
            if (strcmp(a->workloads[i], "all") == 0 ||
                strcmp(a->workloads[i], workloads[k].name) == 0)
                out[n++] = &workloads[k];
    if (n == 0)
        out[n++] = workload_named("tiny");
    return n;
}

/* ---------------------------------------------------------------- inputs */

/* xorshift64*: pixels and ids need no better. */
static uint64_t next_random(uint64_t *x)
{
    *x ^= *x >> 12;
    *x ^= *x << 25;
    *x ^= *x >> 27;
    return *x * 0x2545F4914F6CDD1DULL;
}

void inputs_free(struct inputs *p)
{
    free(p->in);
    free(p->pixels);
    free(p->tokens);
    free(p->floats);
    free(p->actions);
    memset(p, 0, sizeof *p);
}

int inputs_make(struct inputs *p, const struct workload *w, const struct pi0_dims *d,
                const struct pi0_engine_info *e, int batch)
{
    size_t n = (size_t)N_ROTATED * (size_t)batch, A = (size_t)d->action_dim;
    size_t image = (size_t)d->image_size * (size_t)d->image_size * 3;
    size_t chunk = (size_t)e->action_horizon * A, cameras = (size_t)w->n_cameras;
    size_t n_pixels = n * cameras * image, n_tokens = (size_t)w->n_tokens;
    uint64_t x = 0x9E3779B97F4A7C15ULL;
    p->in = calloc(n, sizeof *p->in);
    p->pixels = malloc(n_pixels);
    p->tokens = malloc((n * n_tokens + 1) * sizeof *p->tokens);
    p->floats = malloc(n * (A + chunk) * sizeof *p->floats);
    p->actions = malloc((size_t)batch * chunk * sizeof *p->actions);
    if (!p->in || !p->pixels || !p->tokens || !p->floats || !p->actions)
        return fail("no memory for the inputs of batch %d", batch);
    for (size_t i = 0; i < n_pixels; i += 8) {
        uint64_t r = next_random(&x);
        memcpy(p->pixels + i, &r, n_pixels - i < 8 ? n_pixels - i : 8);
    }
    for (size_t i = 0; i < n * n_tokens; i++)
        p->tokens[i] = (int32_t)(next_random(&x) % (uint64_t)d->vocab_size);
    for (size_t i = 0; i < n; i++) {
        struct pi0_input *in = &p->in[i];
        float *state = p->floats + i * (A + chunk), *noise = state + A;
        for (size_t k = 0; k < A; k++)
            state[k] = (float)(next_random(&x) >> 40) * 0x1p-23F - 1.0F;
        pi0_noise(noise, chunk, i + 1);
        for (size_t c = 0; c < cameras; c++) {
            in->pixels[c] = p->pixels + (i * cameras + c) * image;
            in->camera_mask[c] = (int)c < w->n_valid_cameras;
        }
        in->tokens = p->tokens + i * n_tokens;
        in->n_tokens = w->n_tokens;
        in->state = state;
        in->noise = noise;
    }
    return EXIT_DONE;
}

/* ---------------------------------------------------------------- one call */

int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double percentile(const double *sorted, int n, double p)
{
    int rank = (int)ceil(p * n);
    return sorted[(rank < 1 ? 1 : rank) - 1];
}

pi0_status infer_timed(const struct session *s, struct inputs *p, int batch, int steps, int turn,
                       double times[N_TIMES], struct pi0_error *err)
{
    struct pi0_timing t = { 0 };
    double start = now_ms();
    pi0_status st = pi0_engine_infer(s->engine, p->in + (size_t)(turn % N_ROTATED) * (size_t)batch,
                                     batch, steps, p->actions, &t, err);
    if (st)
        return st;
    times[WHOLE] = now_ms() - start;
    times[VISION] = t.vision_ms;
    times[PREFIX] = t.prefix_ms;
    times[DENOISE] = t.denoise_ms;
    return PI0_OK;
}
