/* SPDX-License-Identifier: Apache-2.0
 * check_kernels: every kernel of the portable CUDA path against ref/ops.h, on shapes of the model
 * and of its edges, outputs poisoned, each run twice for the same bits. Needs a GPU: without one,
 * everything is skipped, in words. Bounds are on ‖got − ref‖ / ‖ref‖: one rounding of a tensor to
 * bf16 costs 1.7e-3 at most, so 3e-3 for one rounding, 4e-3 where inputs (P of an attention) are
 * rounded too; 2e-6 for float32. */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels/gemm_lt.h"
#include "backend/cuda/kernels/kernels.h"
#include "base/dtype.h"
#include "model/synth.h"
#include "ref/ops.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int n_passed, n_failed;
static struct device dev;
static uint64_t seed = 1;

static void die(const char *what)
{
    printf("check_kernels: %s: %s\n", what, cudaGetErrorString(cudaGetLastError()));
    exit(1);
}
#define CK(call)                   \
    do {                           \
        if ((call) != cudaSuccess) \
            die(#call);            \
    } while (0)

/* ---------------------------------------------------------------- tensors on both sides */

struct buf {
    size_t n;
    int bf16;
    float *host; /* values; bf16 tensors hold rounded ones */
    void *dev;
};

static float uniform(void)
{
    uint64_t z = (seed += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (float)(z >> 40) * 0x1p-23f - 1.0f;
}

static void upload(struct buf *b)
{
    if (!b->bf16) {
        CK(cudaMemcpy(b->dev, b->host, b->n * 4, cudaMemcpyHostToDevice));
        return;
    }
    uint16_t *t = malloc(b->n * 2);
    for (size_t i = 0; i < b->n; i++)
        t[i] = bf16_from_f32(b->host[i]);
    CK(cudaMemcpy(b->dev, t, b->n * 2, cudaMemcpyHostToDevice));
    free(t);
}

static struct buf make(size_t n, int bf16, float scale)
{
    struct buf b = { n, bf16, malloc(n * sizeof(float)), NULL };
    for (size_t i = 0; i < n; i++) {
        float v = uniform() * scale;
        b.host[i] = bf16 ? bf16_round(v) : v;
    }
    CK(cudaMalloc(&b.dev, n * (bf16 ? 2 : 4)));
    upload(&b);
    return b;
}

/* Output: NaN everywhere until something is written. */
static struct buf poisoned(size_t n, int bf16)
{
    struct buf b = { n, bf16, malloc(n * sizeof(float)), NULL };
    CK(cudaMalloc(&b.dev, n * (bf16 ? 2 : 4)));
    CK(cudaMemset(b.dev, 0xFF, n * (bf16 ? 2 : 4)));
    return b;
}

static void drop(struct buf *b)
{
    free(b->host);
    CK(cudaFree(b->dev));
}

static void download(const struct buf *b, float *dst)
{
    if (!b->bf16) {
        CK(cudaMemcpy(dst, b->dev, b->n * 4, cudaMemcpyDeviceToHost));
        return;
    }
    uint16_t *t = malloc(b->n * 2);
    CK(cudaMemcpy(t, b->dev, b->n * 2, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < b->n; i++)
        dst[i] = bf16_to_f32(t[i]);
    free(t);
}

__attribute__((format(printf, 4, 5))) static void expect(const struct buf *got, const float *ref,
                                                         double bound, const char *name, ...)
{
    float *g = malloc(got->n * sizeof *g);
    CK(cudaDeviceSynchronize());
    download(got, g);
    double d2 = 0, r2 = 0;
    size_t bad = 0;
    for (size_t i = 0; i < got->n; i++) {
        double d = (double)g[i] - (double)ref[i];
        if (!(fabs((double)g[i]) < 1e30))
            bad++;
        else
            d2 += d * d, r2 += (double)ref[i] * (double)ref[i];
    }
    free(g);
    double rel = r2 > 0 ? sqrt(d2 / r2) : sqrt(d2);
    int pass = bad == 0 && rel <= bound;
    char label[128];
    va_list va;
    va_start(va, name);
    vsnprintf(label, sizeof label, name, va);
    va_end(va);
    printf("%s %-52s rel_l2 %.2e (bound %.0e)%s\n", pass ? "pass" : "FAIL", label, rel, bound,
           bad ? " not finite" : "");
    n_passed += pass;
    n_failed += !pass;
}

static void expect_same(const struct buf *b, const float *before, const char *name)
{
    float *g = malloc(b->n * sizeof *g);
    CK(cudaDeviceSynchronize());
    download(b, g);
    int same = !memcmp(g, before, b->n * sizeof *g);
    free(g);
    if (!same)
        printf("FAIL %s: a second run gave other bits\n", name);
    n_passed += same;
    n_failed += !same;
}

/* ---------------------------------------------------------------- attention */

struct attn_case {
    enum cu_attn_mode mode;
    int E, heads, n, tokens, n_rows, n_valid, horizon, n_state, query_state, splits;
};

static void ref_attend(const struct attn_case *t, const struct buf *q, const struct buf *k,
                       const struct buf *v, int max_keys, float scale, float *o)
{
    int HE = t->heads * t->E;
    for (int b = 0; b < t->n; b++) {
        int n_rows = t->n_rows - (t->n > 1 ? b : 0), n_valid = t->n_valid - (t->n > 1 ? b : 0);
        int m = t->mode == CU_ATTN_VISION   ? t->tokens
                : t->mode == CU_ATTN_PREFIX ? n_rows
                                            : t->horizon + t->query_state;
        int keys = t->mode == CU_ATTN_VISION   ? t->tokens
                   : t->mode == CU_ATTN_PREFIX ? n_rows
                                               : n_rows + t->n_state + t->horizon;
        int g = t->mode == CU_ATTN_VISION ? t->heads : 1;
        float *qs = malloc((size_t)m * HE * 4), *os = malloc((size_t)m * HE * 4);
        float *ks = malloc((size_t)keys * g * t->E * 4), *vs = malloc((size_t)keys * g * t->E * 4);
        uint8_t *mask = malloc((size_t)m * keys);
        size_t row0 = 0;
        if (t->mode == CU_ATTN_PREFIX)
            for (int i = 0; i < b; i++)
                row0 += (size_t)(t->n_rows - i);
        for (int i = 0; i < m; i++) {
            size_t row = t->mode == CU_ATTN_VISION   ? (size_t)b * t->tokens + i
                         : t->mode == CU_ATTN_PREFIX ? row0 + i
                         : i < t->horizon            ? (size_t)b * t->horizon + i
                                                     : (size_t)t->n * t->horizon + b;
            size_t ld = t->mode == CU_ATTN_VISION ? 3 * (size_t)HE : (size_t)HE;
            memcpy(qs + (size_t)i * HE, q->host + row * ld, (size_t)HE * 4);
            for (int j = 0; j < keys; j++) {
                int see = t->mode == CU_ATTN_VISION || j < n_valid || j >= n_rows;
                if (t->mode == CU_ATTN_SUFFIX && i >= t->horizon && j > n_rows)
                    see = 0;
                mask[(size_t)i * keys + j] = (uint8_t)see;
            }
        }
        for (int j = 0; j < keys; j++) {
            size_t at = t->mode == CU_ATTN_VISION ? ((size_t)b * t->tokens + j) * 3 * HE
                                                  : ((size_t)b * max_keys + j) * t->E;
            size_t n = (size_t)g * t->E;
            memcpy(ks + j * n, k->host + at + (t->mode == CU_ATTN_VISION ? HE : 0), n * 4);
            memcpy(vs + j * n, v->host + at + (t->mode == CU_ATTN_VISION ? 2 * HE : 0), n * 4);
        }
        struct ref_attention a = { qs, ks, vs, mask, m, keys, t->heads, g, t->E, scale };
        ref_attention(os, &a);
        for (int i = 0; i < m; i++) {
            size_t row = t->mode == CU_ATTN_VISION   ? (size_t)b * t->tokens + i
                         : t->mode == CU_ATTN_PREFIX ? row0 + i
                         : i < t->horizon            ? (size_t)b * t->horizon + i
                                                     : (size_t)t->n * t->horizon + b;
            memcpy(o + row * HE, os + (size_t)i * HE, (size_t)HE * 4);
        }
        free(qs), free(os), free(ks), free(vs), free(mask);
    }
}

static void check_attention(const struct attn_case *t)
{
    int HE = t->heads * t->E, max_keys = t->n_rows + t->n_state + t->horizon + 5;
    size_t rows = t->mode == CU_ATTN_VISION   ? (size_t)t->n * t->tokens
                  : t->mode == CU_ATTN_PREFIX ? 0
                                              : (size_t)t->n * (t->horizon + t->query_state);
    struct cu_sample sm[8] = { 0 };
    for (int b = 0, row = 0; b < t->n && t->mode != CU_ATTN_VISION; b++) {
        int less = t->n > 1 ? b : 0;
        sm[b] = (struct cu_sample){ row, t->n_rows - less, t->n_valid - less, b * max_keys };
        row += t->n_rows - less;
        if (t->mode == CU_ATTN_PREFIX)
            rows = (size_t)row;
    }
    void *samples;
    CK(cudaMalloc(&samples, sizeof sm));
    CK(cudaMemcpy(samples, sm, sizeof sm, cudaMemcpyHostToDevice));
    int vis = t->mode == CU_ATTN_VISION;
    struct buf q = make(rows * (size_t)HE * (vis ? 3 : 1), 1, 2.0f);
    struct buf k = make(vis ? 1 : (size_t)t->n * max_keys * t->E, 1, 2.0f);
    struct buf v = make(vis ? 1 : (size_t)t->n * max_keys * t->E, 1, 1.0f);
    size_t part = (size_t)t->n * 32 * (size_t)((t->horizon + 1) * t->heads);
    struct buf po = poisoned(part * (size_t)t->E, 0), pm = poisoned(part * 2, 0);
    float *ref = malloc(rows * (size_t)HE * 4), scale = 1.0f / sqrtf((float)t->E);
    ref_attend(t, &q, vis ? &q : &k, vis ? &q : &v, max_keys, scale, ref);
    for (int any = 0; any < 2; any++) {
        if (!any && !cu_attn_mma_has(t->mode, t->E))
            continue;
        struct buf o = poisoned(rows * (size_t)HE, 1);
        struct cu_attn a = { .mode = t->mode,
                             .head_dim = t->E,
                             .heads = t->heads,
                             .n = t->n,
                             .q = q.dev,
                             .k = vis ? (uint16_t *)q.dev + HE : k.dev,
                             .v = vis ? (uint16_t *)q.dev + 2 * HE : v.dev,
                             .ldq = vis ? 3 * HE : HE,
                             .ldk = vis ? 3 * HE : t->E,
                             .o = o.dev,
                             .scale = scale,
                             .tokens = vis ? t->tokens : t->n_rows,
                             .samples = samples,
                             .max_keys = max_keys,
                             .horizon = t->horizon,
                             .n_state = t->n_state,
                             .query_state = t->query_state,
                             .n_splits = t->splits,
                             .part_o = po.dev,
                             .part_ml = pm.dev,
                             .smem_limit = dev.smem_limit };
        for (int small = 0; small < (t->E == 256 && !any ? 2 : 1); small++) {
            if (small)
                a.smem_limit = 99 * 1024; /* the 32-key tiles of smaller cards */
            CK(cu_attn_mma_prepare(t->E, a.smem_limit));
            CK(cudaMemset(o.dev, 0xFF, o.n * 2));
            CK((any ? cu_attn_any : cu_attn_mma)(&a, NULL));
            static const char *const modes[] = { "vision", "prefix", "suffix" };
            expect(&o, ref, 4e-3, "attn_%s/%s%s E=%d n=%d rows=%d keys=%d/%d splits=%d",
                   any     ? "any"
                   : small ? "mma32"
                           : "mma",
                   modes[t->mode], t->query_state ? "+state" : "", t->E, t->n, (int)rows,
                   t->n_valid, t->n_rows, t->splits);
            float *first = malloc(o.n * 4);
            download(&o, first);
            CK((any ? cu_attn_any : cu_attn_mma)(&a, NULL));
            expect_same(&o, first, "attention");
            free(first);
        }
        drop(&o);
    }
    free(ref);
    drop(&q), drop(&k), drop(&v), drop(&po), drop(&pm);
    CK(cudaFree(samples));
}

static void all_attention(void)
{
    static const struct attn_case cases[] = {
        { CU_ATTN_VISION, 72, 16, 2, 256, 0, 0, 0, 0, 0, 1 },
        { CU_ATTN_VISION, 72, 2, 1, 65, 0, 0, 0, 0, 0, 1 },
        { CU_ATTN_VISION, 24, 4, 3, 16, 0, 0, 0, 0, 0, 1 },
        { CU_ATTN_VISION, 40, 2, 1, 33, 0, 0, 0, 0, 0, 1 },
        { CU_ATTN_PREFIX, 256, 8, 1, 0, 276, 276, 0, 0, 0, 1 },
        { CU_ATTN_PREFIX, 256, 8, 1, 0, 788, 532, 0, 0, 0, 1 },
        { CU_ATTN_PREFIX, 256, 8, 3, 0, 130, 65, 0, 0, 0, 1 },
        { CU_ATTN_PREFIX, 256, 8, 1, 0, 1, 1, 0, 0, 0, 1 },
        { CU_ATTN_PREFIX, 32, 4, 2, 0, 57, 41, 0, 0, 0, 1 },
        { CU_ATTN_PREFIX, 16, 8, 2, 0, 57, 41, 0, 0, 0, 1 },
        { CU_ATTN_SUFFIX, 256, 8, 1, 0, 788, 532, 10, 1, 0, 13 },
        { CU_ATTN_SUFFIX, 256, 8, 1, 0, 532, 532, 10, 1, 1, 9 },
        { CU_ATTN_SUFFIX, 256, 8, 2, 0, 300, 190, 50, 0, 0, 5 },
        { CU_ATTN_SUFFIX, 256, 8, 1, 0, 64, 1, 1, 1, 1, 2 },
        { CU_ATTN_SUFFIX, 256, 8, 3, 0, 100, 90, 7, 1, 1, 1 },
        { CU_ATTN_SUFFIX, 32, 4, 2, 0, 57, 41, 6, 1, 1, 1 },
        { CU_ATTN_SUFFIX, 32, 4, 1, 0, 200, 200, 6, 0, 0, 4 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_attention(&cases[i]);
}

/* ---------------------------------------------------------------- norms, elementwise */

static void check_norms(int rows, int width, float scale)
{
    size_t n = (size_t)rows * (size_t)width;
    struct buf x = make(n, 0, scale), g = make((size_t)width, 0, 1.0f);
    struct buf b = make((size_t)width, 0, 1.0f), y = poisoned(n, 1);
    struct buf d = make(n, 0, scale), gate = make((size_t)width, 0, 1.0f);
    float *ref = malloc(n * 4);
    ref_layernorm(ref, x.host, g.host, b.host, rows, width);
    CK(cu_layernorm(x.dev, g.dev, b.dev, y.dev, rows, width, NULL));
    expect(&y, ref, 3e-3, "layernorm %dx%d scale %g", rows, width, (double)scale);
    ref_rmsnorm(ref, x.host, g.host, rows, width);
    struct cu_rmsnorm r = { .x = x.dev, .scale = g.dev, .y = y.dev, .rows = rows, .width = width };
    CK(cudaMemset(y.dev, 0xFF, n * 2));
    CK(cu_rmsnorm(&r, NULL));
    expect(&y, ref, 3e-3, "rmsnorm %dx%d scale %g", rows, width, (double)scale);
    for (size_t i = 0; i < n; i++)
        x.host[i] += gate.host[i % (size_t)width] * d.host[i];
    ref_adarms(ref, x.host, g.host, b.host, rows, width);
    r.delta = d.dev, r.gate = gate.dev, r.shift = b.dev;
    CK(cudaMemset(y.dev, 0xFF, n * 2));
    CK(cu_rmsnorm(&r, NULL));
    expect(&y, ref, 3e-3, "adarms+residual %dx%d scale %g", rows, width, (double)scale);
    expect(&x, x.host, 2e-7, "residual %dx%d scale %g", rows, width, (double)scale);
    free(ref);
    drop(&x), drop(&g), drop(&b), drop(&y), drop(&d), drop(&gate);
}

/* A residual that comes in parts. */
static void check_norm_parts(int rows, int width, int parts)
{
    size_t n = (size_t)rows * (size_t)width;
    struct buf x = make(n, 0, 1.0f), g = make((size_t)width, 0, 1.0f), y = poisoned(n, 1);
    struct buf d = make(n * (size_t)parts, 0, 1.0f);
    float *ref = malloc(n * 4);
    struct cu_rmsnorm r = { .x = x.dev,
                            .delta = d.dev,
                            .parts = parts,
                            .scale = g.dev,
                            .y = y.dev,
                            .rows = rows,
                            .width = width };
    for (size_t i = 0; i < n; i++) {
        float sum = 0.0f;
        for (int p = 0; p < parts; p++)
            sum += d.host[(size_t)p * n + i];
        x.host[i] += sum;
    }
    ref_rmsnorm(ref, x.host, g.host, rows, width);
    CK(cu_rmsnorm(&r, NULL));
    expect(&y, ref, 3e-3, "rmsnorm %dx%d, residual in %d parts", rows, width, parts);
    expect(&x, x.host, 2e-7, "residual %dx%d in %d parts", rows, width, parts);
    free(ref);
    drop(&x), drop(&g), drop(&y), drop(&d);
}

static void check_geglu(int rows, int n, int group)
{
    size_t total = (size_t)rows * (size_t)n;
    struct buf gu = make(2 * total, 1, 4.0f), h = poisoned(total, 1);
    float *ref = malloc(total * 4);
    for (int r = 0; r < rows; r++)
        for (int f = 0; f < n; f++) {
            const float *row = gu.host + (size_t)r * 2 * n + f / group * 2 * group + f % group;
            ref[(size_t)r * n + f] = ref_gelu_tanh(row[0]) * row[group];
        }
    CK(cu_geglu(gu.dev, h.dev, rows, n, group, NULL));
    expect(&h, ref, 3e-3, "geglu %dx%d groups of %d", rows, n, group);
    free(ref);
    drop(&gu), drop(&h);
}

static void check_bias_act(int rows, int n, int bf16, enum cu_act act)
{
    size_t total = (size_t)rows * (size_t)n;
    struct buf y = make(total, bf16, 4.0f), b = make((size_t)n, bf16, 1.0f);
    float *ref = malloc(total * 4);
    for (size_t i = 0; i < total; i++) {
        float v = y.host[i] + b.host[i % (size_t)n];
        ref[i] = act == CU_ACT_GELU ? ref_gelu_tanh(v) : act == CU_ACT_SILU ? ref_silu(v) : v;
    }
    CK(cu_bias_act(y.dev, b.dev, bf16, rows, n, act, NULL));
    expect(&y, ref, bf16 ? 3e-3 : 2e-6, "bias_act %dx%d %s act %d", rows, n,
           bf16 ? "bf16" : "float32", (int)act);
    free(ref);
    drop(&y), drop(&b);
}

/* late: a bf16 product, of which k and v alone are wanted. */
static void check_rope(int rows, int heads, int E, int late)
{
    int ld = (heads + 2) * E, half = E / 2;
    struct buf qkv = make((size_t)rows * ld, late, 2.0f);
    struct buf q = poisoned((size_t)rows * (heads ? heads : 1) * E, 1);
    struct buf k = poisoned((size_t)rows * E, 1), v = poisoned((size_t)rows * E, 1);
    struct cu_row *row = malloc((size_t)rows * sizeof *row);
    float *cs = malloc((size_t)(rows * 3 + 1) * E * 4), *c = malloc((size_t)E * 4);
    int *pos = malloc((size_t)rows * sizeof *pos);
    for (int p = 0; p <= rows * 3; p++) {
        ref_rope_angles(p, E, c, c + half);
        for (int i = 0; i < half; i++)
            cs[(size_t)p * E + 2 * i] = c[i], cs[(size_t)p * E + 2 * i + 1] = c[half + i];
    }
    for (int r = 0; r < rows; r++) { /* the cache backwards, positions apart */
        row[r] = (struct cu_row){ 0, rows - 1 - r, r * 3, 0 };
        pos[r] = r * 3;
    }
    void *drow, *dcs;
    CK(cudaMalloc(&drow, (size_t)rows * sizeof *row));
    CK(cudaMemcpy(drow, row, (size_t)rows * sizeof *row, cudaMemcpyHostToDevice));
    CK(cudaMalloc(&dcs, (size_t)(rows * 3 + 1) * E * 4));
    CK(cudaMemcpy(dcs, cs, (size_t)(rows * 3 + 1) * E * 4, cudaMemcpyHostToDevice));
    float *rq = malloc((size_t)rows * (heads + 1) * E * 4);
    float *rk = malloc((size_t)rows * E * 4), *rv = malloc((size_t)rows * E * 4);
    for (int r = 0; r < rows; r++) {
        const float *src = qkv.host + (size_t)r * ld;
        memcpy(rq + (size_t)r * (heads + 1) * E, src, (size_t)(heads + 1) * E * 4);
        memcpy(rv + (size_t)(rows - 1 - r) * E, src + (heads + 1) * E, (size_t)E * 4);
    }
    ref_rope(rq, pos, rows, heads + 1, E);
    float *rqq = malloc((size_t)rows * (heads + 1) * E * 4);
    for (int r = 0; r < rows; r++) {
        memcpy(rqq + (size_t)r * heads * E, rq + (size_t)r * (heads + 1) * E,
               (size_t)heads * E * 4);
        memcpy(rk + (size_t)(rows - 1 - r) * E, rq + ((size_t)r * (heads + 1) + heads) * E,
               (size_t)E * 4);
    }
    struct cu_rope a = { qkv.dev, drow, dcs, q.dev, k.dev, v.dev, rows, heads, E, NULL };
    if (late)
        a.qkv = NULL, a.qkv16 = qkv.dev;
    CK(cu_rope(&a, NULL));
    if (heads && !late)
        expect(&q, rqq, 3e-3, "rope q rows=%d heads=%d E=%d", rows, heads, E);
    expect(&k, rk, 3e-3, "rope k rows=%d heads=%d E=%d late=%d", rows, heads, E, late);
    expect(&v, rv, 3e-3, "rope v rows=%d heads=%d E=%d late=%d", rows, heads, E, late);
    free(row), free(cs), free(c), free(pos), free(rq), free(rqq), free(rk), free(rv);
    drop(&qkv), drop(&q), drop(&k), drop(&v);
    CK(cudaFree(drow));
    CK(cudaFree(dcs));
}

static void check_patches(int images, int size, int patch, int width, int k_pad)
{
    int side = size / patch, T = side * side, kk = 3 * patch * patch;
    size_t bytes = (size_t)images * size * size * 3;
    uint8_t *px = malloc(bytes);
    for (size_t i = 0; i < bytes; i++)
        px[i] = (uint8_t)((uniform() + 1.0f) * 127.99f);
    void *dpx;
    CK(cudaMalloc(&dpx, bytes));
    CK(cudaMemcpy(dpx, px, bytes, cudaMemcpyHostToDevice));
    struct buf table = make((size_t)T * width, 0, 1.0f);
    struct buf out = poisoned((size_t)images * T * k_pad, 1);
    struct buf x = poisoned((size_t)images * T * width, 0);
    float *ref = calloc(out.n, 4), *one = malloc((size_t)T * kk * 4), *rx = malloc(x.n * 4);
    for (int i = 0; i < images; i++) {
        ref_patches(one, px + (size_t)i * size * size * 3, size, patch);
        for (int t = 0; t < T; t++)
            for (int k = 0; k < kk; k++) /* (x + 1)·255/2 − 128, exact */
                ref[((size_t)i * T + t) * k_pad + k] =
                    roundf((one[(size_t)t * kk + k] + 1.0f) * 127.5f) - 128.0f;
        memcpy(rx + (size_t)i * T * width, table.host, (size_t)T * width * 4);
    }
    struct cu_patches a = { dpx, images, size, patch, k_pad, table.dev, out.dev, x.dev, width };
    CK(cu_patches(&a, NULL));
    expect(&out, ref, 0.0, "patches %d of %d/%d", images, size, patch);
    expect(&x, rx, 0.0, "patches table %d of %d/%d", images, size, patch);
    free(px), free(ref), free(one), free(rx);
    drop(&table), drop(&out), drop(&x);
    CK(cudaFree(dpx));
}

static void check_linear(int rows, int n, int k, int bf16, enum cu_act act)
{
    struct buf x = make((size_t)rows * k, 0, 1.0f), w = make((size_t)n * k, bf16, 0.1f);
    struct buf b = make((size_t)n, 0, 1.0f), y = poisoned((size_t)rows * n, 0);
    float *ref = malloc(y.n * 4);
    ref_linear(ref, x.host, w.host, b.host, (struct ref_mnk){ rows, n, k });
    for (size_t i = 0; i < y.n && act == CU_ACT_SILU; i++)
        ref[i] = ref_silu(ref[i]);
    struct cu_linear a = { .w = w.dev,
                           .w_bf16 = bf16,
                           .ldw = k,
                           .x = x.dev,
                           .bias = b.dev,
                           .y = y.dev,
                           .rows = rows,
                           .n = n,
                           .k = k,
                           .ldy = n,
                           .act = act };
    CK(cu_linear(&a, NULL));
    expect(&y, ref, 2e-6, "linear %dx%dx%d %s", rows, n, k, bf16 ? "bf16" : "float32");
    free(ref);
    drop(&x), drop(&w), drop(&b), drop(&y);
}

static void check_velocity(int rows, int width, int A)
{
    size_t n = (size_t)rows * width;
    struct buf x = make(n, 0, 3.0f), d = make(n, 0, 1.0f), g = make((size_t)width, 0, 1.0f);
    struct buf sc = make((size_t)width, 0, 0.3f), sh = make((size_t)width, 0, 0.3f);
    struct buf w = make((size_t)A * width, 0, 0.05f), b = make((size_t)A, 0, 0.1f);
    struct buf act = make((size_t)rows * A, 0, 1.0f), rv = poisoned((size_t)rows * A, 0);
    struct buf rx = poisoned((size_t)rows * A, 0);
    float *y = malloc(n * 4), *v = malloc(rv.n * 4), *next = malloc(rv.n * 4);
    for (size_t i = 0; i < n; i++)
        x.host[i] += g.host[i % (size_t)width] * d.host[i];
    ref_adarms(y, x.host, sc.host, sh.host, rows, width);
    ref_linear(v, y, w.host, b.host, (struct ref_mnk){ rows, A, width });
    for (size_t i = 0; i < rv.n; i++)
        next[i] = act.host[i] - 0.1f * v[i];
    struct cu_velocity a = { x.dev,   d.dev,  g.dev,  sc.dev, sh.dev, w.dev, b.dev,
                             act.dev, rx.dev, rv.dev, -0.1f,  rows,   width, A };
    CK(cu_velocity(&a, NULL));
    expect(&rv, v, 2e-6, "velocity %dx%d -> %d", rows, width, A);
    expect(&rx, act.host, 0.0, "velocity x kept %dx%d", rows, A);
    expect(&act, next, 2e-6, "euler %dx%d", rows, A);
    free(y), free(v), free(next);
    drop(&x), drop(&d), drop(&g), drop(&sc), drop(&sh), drop(&w), drop(&b), drop(&act), drop(&rv),
        drop(&rx);
}

/* Device values equal the host's, to the bit, interleaved or not. */
static void check_synth(int rows, int cols, int group)
{
    struct tensor t = { .dtype = DT_BF16, .rank = 2, .shape = { rows, cols } };
    t.n = (size_t)rows * cols;
    t.synth_base = 0x123456789ABCDEF0u + (uint64_t)rows;
    t.synth_a = 0.0383f;
    t.synth_b = 0.0f;
    uint16_t *want = malloc(t.n * 2), *got = malloc(t.n * 4);
    synth_fill(&t, 0, t.n, want);
    void *dst;
    CK(cudaMalloc(&dst, t.n * 4));
    CK(cudaMemset(dst, 0xFF, t.n * 4));
    struct cu_synth a = { .base = t.synth_base,
                          .a = t.synth_a,
                          .b = t.synth_b,
                          .rows = rows,
                          .cols = cols,
                          .ld = cols,
                          .group = group,
                          .group_stride = 2 * group,
                          .dst = dst };
    CK(cu_synth(&a, NULL));
    CK(cudaMemcpy(got, dst, t.n * 4, cudaMemcpyDeviceToHost));
    int same = 1;
    for (int r = 0; r < rows; r++)
        same = same && !memcmp(got + (size_t)(r / group * 2 * group + r % group) * cols,
                               want + (size_t)r * cols, (size_t)cols * 2);
    printf("%s synth %dx%d in groups of %d\n", same ? "pass" : "FAIL", rows, cols, group);
    n_passed += same;
    n_failed += !same;
    free(want), free(got);
    CK(cudaFree(dst));
}

static void check_gemm(struct gemm_lt *lt, enum cu_gemm_type type, int m, int n, int k, int bias,
                       float beta, enum cu_act act)
{
    int in16 = type != CU_GEMM_F32, out16 = type == CU_GEMM_BF16_BF16;
    struct buf x = make((size_t)m * k, in16, 1.0f), w = make((size_t)n * k, in16, 0.1f);
    struct buf b = make((size_t)n, out16, 1.0f), y = make((size_t)m * n, out16, 1.0f);
    float *ref = malloc(y.n * 4), *first = malloc(y.n * 4);
    ref_linear(ref, x.host, w.host, bias ? b.host : NULL, (struct ref_mnk){ m, n, k });
    for (size_t i = 0; i < y.n; i++) {
        ref[i] += beta * y.host[i];
        ref[i] = act == CU_ACT_GELU ? ref_gelu_tanh(ref[i]) : ref[i];
    }
    struct cu_gemm a = { .type = type,
                         .m = m,
                         .n = n,
                         .k = k,
                         .x = x.dev,
                         .w = w.dev,
                         .bias = bias ? b.dev : NULL,
                         .y = y.dev,
                         .alpha = 1.0f,
                         .beta = beta,
                         .act = act };
    struct pi0_error err = { 0 };
    for (int run = 0; run < 2; run++) {
        upload(&y);
        if (gemm_lt_run(lt, &a, NULL, &err)) {
            printf("FAIL gemm_lt %dx%dx%d: %s\n", m, n, k, err.message);
            n_failed++;
            break;
        }
        if (run == 0) {
            expect(&y, ref, out16 ? 3e-3 : 1e-5, "gemm_lt type %d %dx%dx%d bias %d beta %g act %d",
                   (int)type, m, n, k, bias, (double)beta, (int)act);
            download(&y, first);
        } else {
            expect_same(&y, first, "gemm_lt");
        }
    }
    free(ref), free(first);
    drop(&x), drop(&w), drop(&b), drop(&y);
}

/* K in parts, the product of each by itself. */
static void check_gemm_parts(struct gemm_lt *lt, int m, int n, int k, int parts)
{
    int piece = k / parts;
    struct buf x = make((size_t)m * k, 1, 1.0f), w = make((size_t)n * k, 1, 0.1f);
    struct buf y = poisoned((size_t)parts * m * n, 0);
    float *ref = malloc(y.n * 4), *px = malloc((size_t)m * piece * 4);
    float *pw = malloc((size_t)n * piece * 4);
    for (int p = 0; p < parts; p++) {
        for (int r = 0; r < m; r++)
            memcpy(px + (size_t)r * piece, x.host + (size_t)r * k + p * piece, (size_t)piece * 4);
        for (int r = 0; r < n; r++)
            memcpy(pw + (size_t)r * piece, w.host + (size_t)r * k + p * piece, (size_t)piece * 4);
        ref_linear(ref + (size_t)p * m * n, px, pw, NULL, (struct ref_mnk){ m, n, piece });
    }
    struct cu_gemm a = { .type = CU_GEMM_BF16_F32,
                         .m = m,
                         .n = n,
                         .k = piece,
                         .x = x.dev,
                         .w = w.dev,
                         .y = y.dev,
                         .alpha = 1.0f,
                         .ldx = k,
                         .ldw = k,
                         .batch = parts,
                         .step_x = piece,
                         .step_w = piece,
                         .step_y = (int64_t)m * n };
    struct pi0_error err = { 0 };
    if (gemm_lt_run(lt, &a, NULL, &err)) {
        printf("FAIL gemm_lt %dx%dx%d in %d parts: %s\n", m, n, k, parts, err.message);
        n_failed++;
    } else {
        expect(&y, ref, 1e-5, "gemm_lt %dx%dx%d in %d parts", m, n, k, parts);
    }
    free(ref), free(px), free(pw);
    drop(&x), drop(&w), drop(&y);
}

static void all_gemm(void)
{
    void *ws;
    struct gemm_lt *lt = NULL;
    struct pi0_error err = { 0 };
    CK(cudaMalloc(&ws, GEMM_LT_WORKSPACE));
    if (gemm_lt_open(&lt, ws, &err)) {
        printf("FAIL %s\n", err.message);
        n_failed++;
        return;
    }
    check_gemm(lt, CU_GEMM_BF16_F32, 51, 2560, 1024, 0, 0.0f, CU_ACT_NONE);
    check_gemm(lt, CU_GEMM_BF16_F32, 10, 1024, 4096, 0, 1.0f, CU_ACT_NONE);
    check_gemm(lt, CU_GEMM_BF16_F32, 64, 1152, 4304, 1, 1.0f, CU_ACT_NONE);
    check_gemm(lt, CU_GEMM_BF16_BF16, 64, 3456, 1152, 1, 0.0f, CU_ACT_NONE);
    check_gemm(lt, CU_GEMM_BF16_BF16, 64, 4304, 1152, 1, 0.0f, CU_ACT_GELU);
    check_gemm(lt, CU_GEMM_BF16_BF16, 17, 320, 64, 0, 0.0f, CU_ACT_NONE);
    check_gemm(lt, CU_GEMM_F32, 50, 1024, 1024, 1, 0.0f, CU_ACT_NONE);
    check_gemm(lt, CU_GEMM_F32, 1, 64, 64, 1, 0.0f, CU_ACT_NONE);
    check_gemm_parts(lt, 51, 256, 4096, 2);
    check_gemm_parts(lt, 9, 64, 512, 4);
    gemm_lt_close(lt);
    CK(cudaFree(ws));
}

int main(void)
{
    struct pi0_error err = { 0 };
    if (device_probe(&dev, 0, &err)) {
        printf("skipped: %s\n0 passed, 0 failed, 1 skipped\n", err.message);
        return 0;
    }
    printf("%s, %s, seed %llu\n", dev.name, dev.isa, (unsigned long long)seed);
    all_attention();
    static const int widths[] = { 64, 96, 128, 1024, 1152, 2048, 4096, 24 };
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        check_norms(3, widths[i], 1.0f);
        check_norms(1, widths[i], 1e-4f);
        check_norms(17, widths[i], 1e4f);
    }
    check_norm_parts(17, 2048, 1);
    check_norm_parts(17, 2048, 2);
    check_norm_parts(3, 1024, 2);
    check_norm_parts(3, 2048, 3);
    check_norm_parts(3, 30, 2);
    check_geglu(3, 16384, 8);
    check_geglu(51, 4096, 8);
    check_geglu(5, 20, 20);
    check_bias_act(5, 37, 1, CU_ACT_GELU);
    check_bias_act(5, 37, 0, CU_ACT_SILU);
    check_bias_act(5, 37, 0, CU_ACT_NONE);
    check_rope(33, 8, 256, 0);
    check_rope(33, 0, 256, 0);
    check_rope(33, 8, 256, 1);
    check_rope(33, 0, 256, 1);
    check_rope(7, 4, 32, 0);
    check_rope(7, 3, 10, 0);
    check_patches(2, 224, 14, 1152, 592);
    check_patches(1, 56, 14, 96, 592);
    check_patches(1, 8, 4, 20, 48);
    check_linear(10, 3072, 1024, 1, CU_ACT_NONE);
    check_linear(17, 65, 33, 0, CU_ACT_SILU);
    check_linear(1, 1, 1, 0, CU_ACT_NONE);
    check_velocity(50, 1024, 32);
    check_velocity(1, 64, 7);
    check_synth(64, 1024, 64);
    check_synth(64, 40, 8);
    all_gemm();
    printf("%d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed != 0;
}
