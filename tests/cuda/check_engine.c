/* SPDX-License-Identifier: Apache-2.0
 * check_engine: the CUDA engine through pi0.h, on synthetic weights: batches of unlike samples
 * against the same samples alone, the same bits whatever ran between, step counts, masked cameras,
 * a checkpoint from a file against the same weights made on the device, weights that are not finite,
 * memory that is not there, what the device gives up for an engine, and that prompt lengths in turn
 * capture no graph again. Without a GPU everything is skipped, in words. */
#include "base/clock.h"
#include "pi0.h"

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_B 5

static int n_passed, n_failed;

static void result(int pass, const char *name, const char *detail)
{
    printf("%s %-58s %s\n", pass ? "pass" : "FAIL", name, detail);
    n_passed += pass;
    n_failed += !pass;
}

/* Graphs that the engine has made: the linker sends its calls here (--wrap, cuda.mk). */
static int n_graphs;
cudaError_t __real_cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                        unsigned long long flags);
cudaError_t __wrap_cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                        unsigned long long flags);
cudaError_t __wrap_cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                        unsigned long long flags)
{
    n_graphs++;
    return __real_cudaGraphInstantiate(exec, graph, flags);
}

/* ---------------------------------------------------------------- inputs */

struct inputs {
    struct pi0_input in[MAX_B];
    uint8_t *pixels[MAX_B][PI0_MAX_CAMERAS];
    int32_t tokens[MAX_B][256];
    uint8_t token_mask[MAX_B][256];
    float *state[MAX_B], *noise[MAX_B];
};

static uint64_t rng = 1;
static uint32_t next_u32(void)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(rng >> 33);
}

/* Sample i: camera 1 is missing in every second, camera 2 in every third; the prompt has 1 + 3i
 * valid tokens of 2 + 3i, the second one masked. */
static void fill(struct inputs *s, const struct pi0_dims *d, int H)
{
    size_t image = (size_t)d->image_size * (size_t)d->image_size * 3;
    memset(s, 0, sizeof *s);
    for (int i = 0; i < MAX_B; i++) {
        struct pi0_input *in = &s->in[i];
        for (int c = 0; c < d->n_cameras; c++) {
            s->pixels[i][c] = malloc(image);
            for (size_t k = 0; k < image; k++)
                s->pixels[i][c][k] = (uint8_t)next_u32();
            in->pixels[c] = s->pixels[i][c];
            in->camera_mask[c] = !((c == 1 && i % 2) || (c == 2 && i % 3 == 2));
        }
        in->n_tokens = 2 + 3 * i < d->max_token_len ? 2 + 3 * i : d->max_token_len;
        for (int t = 0; t < in->n_tokens; t++) {
            s->tokens[i][t] = (int32_t)(next_u32() % (uint32_t)d->vocab_size);
            s->token_mask[i][t] = t != 1;
        }
        in->tokens = s->tokens[i];
        in->token_mask = s->token_mask[i];
        s->state[i] = malloc((size_t)d->action_dim * sizeof(float));
        for (int a = 0; a < d->action_dim; a++)
            s->state[i][a] = (float)(next_u32() % 2000) * 1e-3f - 1.0f;
        s->noise[i] = malloc((size_t)H * (size_t)d->action_dim * sizeof(float));
        pi0_noise(s->noise[i], (size_t)H * (size_t)d->action_dim, (uint64_t)i + 7);
        in->state = s->state[i];
        in->noise = s->noise[i];
    }
}

static void drop(struct inputs *s)
{
    for (int i = 0; i < MAX_B; i++) {
        for (int c = 0; c < PI0_MAX_CAMERAS; c++)
            free(s->pixels[i][c]);
        free(s->state[i]);
        free(s->noise[i]);
    }
}

static double rel_l2(const float *a, const float *b, size_t n)
{
    double d2 = 0, r2 = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        d2 += d * d, r2 += (double)b[i] * (double)b[i];
    }
    return r2 > 0 ? sqrt(d2 / r2) : 1.0;
}

static int horizon; /* of the engines opened; 0 = the model's */
static unsigned without;

static pi0_engine *open_engine(const pi0_model *m, int batch, enum pi0_masked_cameras masked,
                               struct pi0_error *err)
{
    struct pi0_engine_config cfg;
    pi0_engine *e = NULL;
    pi0_engine_defaults(&cfg);
    cfg.backend = "cuda";
    cfg.max_batch = batch;
    cfg.masked_cameras = masked;
    cfg.action_horizon = horizon;
    cfg.measure_without = without;
    return pi0_engine_open(&e, m, &cfg, err) ? NULL : e;
}

/* Actions [n, H, A]; exits the program's check on failure. */
static int infer(pi0_engine *e, const struct pi0_input *in, int n, int steps, float *out)
{
    struct pi0_error err = { 0 };
    if (pi0_engine_infer(e, in, n, steps, out, NULL, &err) == PI0_OK)
        return 1;
    result(0, "infer", err.message);
    return 0;
}

/* ---------------------------------------------------------------- what must agree */

static void agree(const char *name, const pi0_model *m)
{
    struct pi0_model_info info;
    struct pi0_error err = { 0 };
    char label[128], text[640];
    static struct inputs s;
    pi0_model_info(m, &info);
    int H = horizon ? horizon : info.dims.action_horizon, A = info.dims.action_dim;
    size_t one = (size_t)H * (size_t)A;
    float *batch = malloc(MAX_B * one * 4), *again = malloc(MAX_B * one * 4);
    float *alone = malloc(one * 4), *other = malloc(one * 4);
    fill(&s, &info.dims, H);
    pi0_engine *many = open_engine(m, MAX_B, PI0_MASKED_SKIP, &err);
    pi0_engine *single = many ? open_engine(m, 1, PI0_MASKED_SKIP, &err) : NULL;
    pi0_engine *computing = single ? open_engine(m, 1, PI0_MASKED_COMPUTE, &err) : NULL;
    without = PI0_WITHOUT_OVERLAP;
    pi0_engine *apart = computing ? open_engine(m, 1, PI0_MASKED_SKIP, &err) : NULL;
    without = 0;
    if (!apart) {
        result(0, name, err.message);
        goto done;
    }
    if (!infer(many, s.in, MAX_B, 10, batch))
        goto done;
    double worst = 0, masked = 0, behind = 0;
    int alike = 1;
    for (int i = 0; i < MAX_B; i++) {
        if (!infer(single, &s.in[i], 1, 10, alone) || !infer(computing, &s.in[i], 1, 10, other))
            goto done;
        double d = rel_l2(batch + (size_t)i * one, alone, one), c = rel_l2(other, alone, one);
        worst = d > worst ? d : worst;
        masked = c > masked ? c : masked;
        if (!infer(apart, &s.in[i], 1, 10, other))
            goto done;
        c = rel_l2(other, alone, one);
        behind = c > behind ? c : behind;
        /* … and other things ran in between */
        if (!infer(single, &s.in[(i + 1) % MAX_B], 1, 3, other) ||
            !infer(single, &s.in[i], 1, 10, other))
            goto done;
        alike = alike && !memcmp(alone, other, one * 4);
    }
    snprintf(text, sizeof text, "rel_l2 %.1e (bound 4e-3)", worst);
    snprintf(label, sizeof label, "%s: a ragged batch is its samples alone", name);
    result(worst <= 4e-3, label, text);
    snprintf(text, sizeof text, "rel_l2 %.1e (bound 4e-3)", masked);
    snprintf(label, sizeof label, "%s: masked cameras computed or skipped", name);
    result(masked <= 4e-3, label, text);
    snprintf(text, sizeof text, "rel_l2 %.1e (bound 4e-3)", behind);
    snprintf(label, sizeof label, "%s: first step beside or behind the prefix", name);
    result(behind <= 4e-3, label, text);
    snprintf(label, sizeof label, "%s: one sample has the same bits again", name);
    result(alike, label, "");
    if (!infer(many, s.in + 1, 2, 10, again))
        goto done;
    worst = 0;
    for (int i = 0; i < 2; i++) {
        if (!infer(single, &s.in[1 + i], 1, 10, alone))
            goto done;
        double r = rel_l2(again + (size_t)i * one, alone, one);
        worst = r > worst ? r : worst;
    }
    snprintf(text, sizeof text, "rel_l2 %.1e (bound 4e-3)", worst);
    snprintf(label, sizeof label, "%s: two samples are themselves alone", name);
    result(worst <= 4e-3, label, text);
    if (!infer(many, s.in, 1, 5, again) || !infer(many, s.in, MAX_B, 10, again))
        goto done;
    snprintf(label, sizeof label, "%s: a batch has the same bits again", name);
    result(!memcmp(batch, again, MAX_B * one * 4), label, "");
done:
    pi0_engine_close(many);
    pi0_engine_close(single);
    pi0_engine_close(computing);
    pi0_engine_close(apart);
    drop(&s);
    free(batch), free(again), free(alone), free(other);
}

/* ---------------------------------------------------------------- GPU and CPU */

/* Dimensions that take the plain kernels: head sizes without mma code, groups that do not divide. */
static void odd_dims(enum pi0_variant variant, int which)
{
    struct pi0_dims d;
    struct pi0_error err = { 0 };
    static struct inputs s;
    char label[128], text[640];
    pi0_model *m = NULL;
    (void)pi0_dims_named(&d, variant == PI0_VARIANT_PI05 ? "pi05_tiny" : "pi0_tiny", &err);
    d.head_dim = which == 0 ? 16 : which == 1 ? 64 : 256;
    d.heads = which == 0 ? 8 : which == 1 ? 3 : 2;
    d.vision_heads = which == 0 ? 2 : which == 1 ? 3 : 4;
    d.expert_width = which == 1 ? 72 : d.expert_width;
    d.expert_mlp_dim = which == 1 ? 104 : d.expert_mlp_dim;
    d.vlm_mlp_dim = which == 1 ? 100 : d.vlm_mlp_dim; /* rows of 200 bytes */
    d.action_dim = which == 1 ? 7 : d.action_dim;
    snprintf(label, sizeof label, "%s, head size %d: GPU and CPU agree",
             variant == PI0_VARIANT_PI05 ? "pi05" : "pi0", d.head_dim);
    struct pi0_engine_config cfg;
    pi0_engine *gpu = NULL, *cpu = NULL;
    size_t n = 3 * (size_t)d.action_horizon * (size_t)d.action_dim;
    float *a = malloc(n * 4), *b = malloc(n * 4);
    fill(&s, &d, d.action_horizon);
    pi0_engine_defaults(&cfg);
    cfg.backend = "cpu";
    cfg.precision = PI0_PRECISION_F32;
    cfg.max_batch = 3;
    if (pi0_model_open_synthetic(&m, &d, 21, &err) || pi0_engine_open(&cpu, m, &cfg, &err) ||
        !(gpu = open_engine(m, 3, PI0_MASKED_COMPUTE, &err))) {
        result(0, label, err.message);
    } else if (infer(cpu, s.in, 3, 10, b) && infer(gpu, s.in, 3, 10, a)) {
        double r = rel_l2(a, b, n);
        snprintf(text, sizeof text, "rel_l2 %.1e (bound 1e-2)", r);
        result(r <= 1e-2, label, text);
    }
    pi0_engine_close(gpu);
    pi0_engine_close(cpu);
    pi0_model_close(m);
    drop(&s);
    free(a), free(b);
}

/* ---------------------------------------------------------------- files, faults */

static int stop_at_half(void *user, const char *what, uint64_t done, uint64_t total)
{
    (void)user, (void)what;
    return done > total / 2;
}

static void files(const char *dims_name)
{
    char dir[] = "/tmp/check_engine_XXXXXX", path[64];
    struct pi0_dims d;
    struct pi0_error err = { 0 };
    static struct inputs s;
    pi0_model *made = NULL, *read = NULL;
    if (!mkdtemp(dir) || pi0_dims_named(&d, dims_name, &err) ||
        pi0_model_open_synthetic(&made, &d, 11, &err) ||
        pi0_synth_write(dir, &d, 11, NULL, NULL, &err) || pi0_model_open(&read, dir, NULL, &err)) {
        result(0, "a checkpoint in a file", err.message);
        return;
    }
    size_t one = (size_t)d.action_horizon * (size_t)d.action_dim;
    float *a = malloc(one * 4), *b = malloc(one * 4);
    fill(&s, &d, d.action_horizon);
    pi0_engine *x = open_engine(made, 1, PI0_MASKED_SKIP, &err);
    pi0_engine *y = x ? open_engine(read, 1, PI0_MASKED_SKIP, &err) : NULL;
    if (!y)
        result(0, "a checkpoint in a file", err.message);
    else if (infer(x, s.in, 1, 10, a) && infer(y, s.in, 1, 10, b))
        result(!memcmp(a, b, one * 4), "weights of a file and made on the device: same bits",
               dims_name);
    pi0_engine_close(x);
    pi0_engine_close(y);

    struct pi0_engine_config cfg;
    pi0_engine *e = NULL;
    pi0_engine_defaults(&cfg);
    cfg.backend = "cuda";
    cfg.progress = stop_at_half;
    pi0_status st = pi0_engine_open(&e, read, &cfg, &err);
    result(st == PI0_E_ARGUMENT && !e, "upload stopped by the caller", err.message);
    pi0_model_close(read);

    /* the last weight of the file becomes infinite */
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    FILE *f = fopen(path, "r+b");
    unsigned char inf[2] = { 0x80, 0x7F };
    if (f && !fseek(f, -2, SEEK_END) && fwrite(inf, 1, 2, f) == 2 && !fclose(f) &&
        !pi0_model_open(&read, dir, NULL, &err)) {
        cfg.progress = NULL;
        st = pi0_engine_open(&e, read, &cfg, &err);
        result(st == PI0_E_MODEL && !e, "a weight that is infinite", err.message);
        pi0_model_close(read);
    } else {
        result(0, "a weight that is infinite", "the file could not be changed");
    }
    pi0_model_close(made);
    drop(&s);
    free(a), free(b);
    (void)remove(path);
    snprintf(path, sizeof path, "%s/config.json", dir);
    (void)remove(path);
    (void)rmdir(dir);
}

static void no_memory(const pi0_model *m)
{
    struct pi0_error err = { 0 };
    struct pi0_engine_config cfg;
    pi0_engine *e = NULL;
    pi0_engine_defaults(&cfg);
    cfg.backend = "cuda";
    cfg.max_batch = 1024;
    cfg.action_horizon = 1024;
    pi0_status st = pi0_engine_open(&e, m, &cfg, &err);
    result(st == PI0_E_UNSUPPORTED && !e, "more actions than a grid takes", err.message);
    pi0_engine_close(e);
    cfg.action_horizon = 60; /* some 160 GB of activations */
    cfg.max_token_len = 4096;
    st = pi0_engine_open(&e, m, &cfg, &err);
    result(st == PI0_E_NOMEM && !e, "more memory than the device has", err.message);
    pi0_engine_close(e);
    e = open_engine(m, 1, PI0_MASKED_SKIP, &err);
    result(e != NULL, "an engine opens after that", e ? "" : err.message);
    pi0_engine_close(e);
}

/* ---------------------------------------------------------------- full size: memory, graphs */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median of 60 calls that take sample pick[i % n]. */
static double median_ms(pi0_engine *e, const struct pi0_input *in, const int *pick, int n,
                        float *out)
{
    double ms[60];
    for (int i = 0; i < 60; i++) {
        double t = clock_ms();
        if (!infer(e, &in[pick[i % n]], 1, 10, out))
            return 1e9;
        ms[i] = clock_ms() - t;
    }
    qsort(ms, 60, sizeof ms[0], by_value);
    return ms[30];
}

static void full(const char *name)
{
    struct pi0_dims d;
    struct pi0_error err = { 0 };
    struct pi0_engine_info info;
    static struct inputs s;
    char text[256];
    pi0_model *m = NULL;
    if (pi0_dims_named(&d, name, &err) || pi0_model_open_synthetic(&m, &d, 3, &err)) {
        result(0, name, err.message);
        return;
    }
    (void)cudaFree(NULL);
    size_t before = 0, after = 0, total = 0;
    (void)cudaMemGetInfo(&before, &total);
    double t = clock_ms();
    pi0_engine *e = open_engine(m, 1, PI0_MASKED_SKIP, &err);
    t = clock_ms() - t;
    if (!e) {
        result(0, name, err.message);
        pi0_model_close(m);
        return;
    }
    float *out = malloc((size_t)d.action_horizon * (size_t)d.action_dim * 4);
    fill(&s, &d, d.action_horizon);
    for (int i = 0; i < MAX_B; i++) { /* two cameras, prompts of another bucket each */
        s.in[i].camera_mask[1] = 1;
        s.in[i].camera_mask[2] = 0;
        s.in[i].token_mask = NULL;
        s.in[i].n_tokens = 9 + 8 * i;
        for (int k = 0; k < s.in[i].n_tokens; k++)
            s.tokens[i][k] = 5 + k;
    }
    static const int all[] = { 0, 1, 2, 3, 4 }, one[] = { 2 };
    int none = n_graphs;
    (void)median_ms(e, s.in, all, 5, out);
    int first = n_graphs - none;
    double same = median_ms(e, s.in, one, 1, out), varied = median_ms(e, s.in, all, 5, out);
    int again = n_graphs - none - first;
    (void)cudaMemGetInfo(&after, &total);
    pi0_engine_info(e, &info);
    double taken = (double)(before - after) * 1e-9, weights = (double)info.weight_bytes * 1e-9;
    snprintf(text, sizeof text,
             "%.2f GB: weights %.2f, cache %.3f, scratch %.3f; opened in %.0f ms", taken, weights,
             (double)info.cache_bytes * 1e-9, (double)info.scratch_bytes * 1e-9, t);
    result(taken <= weights + 0.6, name, text);
    /* the times are for the reader: they differ with the rows, and with the card's clock */
    snprintf(text, sizeof text, "%d graphs, then %d more; %.3f ms, one length %.3f ms", first,
             again, varied, same);
    result(first >= 5 && again == 0, "five prompt lengths in turn capture nothing again", text);
    pi0_engine_close(e);
    no_memory(m);
    agree(name, m);
    horizon = 10; /* where two samples take the loop as well */
    snprintf(text, sizeof text, "%s, horizon 10", name);
    agree(text, m);
    horizon = 0;
    pi0_model_close(m);
    drop(&s);
    free(out);
}

int main(int argc, char **argv)
{
    struct pi0_dims d;
    struct pi0_error err = { 0 };
    pi0_model *m = NULL;
    static const char *const tiny[] = { "pi0_tiny", "pi05_tiny" };
    (void)argc, (void)argv;
    for (int i = 0; i < 2; i++) {
        if (pi0_dims_named(&d, tiny[i], &err) || pi0_model_open_synthetic(&m, &d, 5, &err)) {
            result(0, tiny[i], err.message);
            break;
        }
        pi0_engine *e = open_engine(m, 1, PI0_MASKED_SKIP, &err);
        if (!e && err.status == PI0_E_UNSUPPORTED) {
            printf("skipped: %s\n0 passed, 0 failed, 1 skipped\n", err.message);
            pi0_model_close(m);
            return 0;
        }
        pi0_engine_close(e);
        agree(tiny[i], m);
        pi0_model_close(m);
        files(tiny[i]);
    }
    for (int i = 0; i < 6; i++)
        odd_dims(i % 2 ? PI0_VARIANT_PI05 : PI0_VARIANT_PI0, i / 2);
    full("pi0");
    full("pi05");
    printf("%d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed != 0;
}
