/* SPDX-License-Identifier: Apache-2.0
 * check_vision_sm90: the Hopper vision kernels against plain kernels, every tile on model and edge
 * shapes, twice for the same bits, outputs poisoned, a guard row behind each. --bench times each
 * kernel and the chain of all layers as a graph under programmatic dependent launch, --tiles every
 * tile too. */
#include "backend/cuda/kernels/vision_sm90.h"

#include "device_check.cuh"

#include <string.h>

typedef __nv_bfloat16 bf16;
static int n_passed, n_failed, n_sms;
static tensor_map_encode_fn encode;

/* ---------------------------------------------------------------- references */

/* y[row] = (x − mean)·rstd·g + b, float32, one block a row. */
__global__ void ref_norm(float *y, const float *x, const float *g, const float *b, int k)
{
    const float *in = x + (size_t)blockIdx.x * k;
    double s = 0, v = 0;
    for (int i = 0; i < k; i++)
        s += in[i];
    double mean = s / k;
    for (int i = 0; i < k; i++)
        v += (in[i] - mean) * (in[i] - mean);
    double r = 1 / sqrt(v / k + 1e-6);
    for (int i = threadIdx.x; i < k; i += blockDim.x)
        y[(size_t)blockIdx.x * k + i] = (float)((in[i] - mean) * r * g[i] + b[i]);
}

/* What a kernel in front of a norm leaves: xg and the facts of each piece of a row, a thread a piece. */
__global__ void ref_enter(bf16 *xg, struct vis90_parts to, const float *x, const float *gamma,
                          int k)
{
    int first = threadIdx.x * to.width;
    if ((int)threadIdx.x >= to.n)
        return;
    const float *v = x + (size_t)blockIdx.x * k + first;
    double s = 0, m2 = 0;
    for (int i = 0; i < to.width; i++)
        s += v[i];
    for (int i = 0; i < to.width; i++) {
        m2 += (v[i] - s / to.width) * (v[i] - s / to.width);
        xg[(size_t)blockIdx.x * k + first + i] = __float2bfloat16_rn(v[i] * gamma[first + i]);
    }
    float *part = to.part + ((size_t)blockIdx.x * VIS90_MAX_PARTS + threadIdx.x) * 2;
    part[0] = (float)s;
    part[1] = (float)m2;
}

/* out = act(y·wᵀ + bias); y float32 or bf16. */
__global__ void ref_gemm(float *out, const float *y, const bf16 *y16, const bf16 *w,
                         const bf16 *bias, int n, int k, int gelu)
{
    int f = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (f >= n)
        return;
    float s = 0;
    for (int i = 0; i < k; i++)
        s += (y ? y[(size_t)row * k + i] : __bfloat162float(y16[(size_t)row * k + i])) *
             __bfloat162float(w[(size_t)f * k + i]);
    s += bias ? __bfloat162float(bias[f]) : 0.f;
    if (gelu)
        s = 0.5f * s * (1.0f + tanhf(0.7978845608f * (s + 0.044715f * s * s * s)));
    out[(size_t)row * n + f] = s;
}

__global__ void ref_add(float *x, float *xg, const float *acc, const float *bias,
                        const float *gamma, float scale, int n)
{
    for (int f = threadIdx.x; f < n; f += blockDim.x) {
        size_t i = (size_t)blockIdx.x * n + f;
        x[i] += scale != 0 ? scale * acc[i] : acc[i] + bias[f];
        xg[i] = x[i] * gamma[f];
    }
}

/* Column c of head h in each of q, k, v: heads are cut in two. */
static __device__ __forceinline__ int column(int c, int h, int heads)
{
    return c < 64 ? h * 64 + c : heads * 64 + h * 8 + c - 64;
}

/* One thread a query. */
__global__ void ref_attention(float *o, const bf16 *qkv, int heads, float scale)
{
    int q = threadIdx.x, h = blockIdx.x, image = blockIdx.y, ld = 3 * heads * 72;
    const bf16 *row = qkv + (size_t)image * 256 * ld;
    float m = -INFINITY, l = 0, acc[72] = { 0 };
    for (int pass = 0; pass < 2; pass++)
        for (int t = 0; t < 256; t++) {
            float s = 0;
            for (int c = 0; c < 72; c++)
                s += __bfloat162float(row[(size_t)q * ld + column(c, h, heads)]) *
                     __bfloat162float(row[(size_t)t * ld + heads * 72 + column(c, h, heads)]);
            s *= scale;
            if (!pass) {
                m = fmaxf(m, s);
                continue;
            }
            float p = expf(s - m);
            l += p;
            for (int c = 0; c < 72; c++)
                acc[c] += p * __bfloat162float(
                                  row[(size_t)t * ld + 2 * heads * 72 + column(c, h, heads)]);
        }
    for (int c = 0; c < 72; c++)
        o[((size_t)image * 256 + q) * heads * 72 + h * 72 + c] = acc[c] / l;
}

/* out[0] += Σ(got−ref)², out[1] += Σref², out[2]: values that are not finite. */
__global__ void compare(double *out, const bf16 *got16, const float *got32, const float *ref,
                        size_t n)
{
    double d2 = 0, r2 = 0, bad = 0;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x) {
        double g = got16 ? __bfloat162float(got16[i]) : got32[i], r = ref[i];
        bad += !isfinite(g);
        d2 += (g - r) * (g - r);
        r2 += r * r;
    }
    atomicAdd(&out[0], d2);
    atomicAdd(&out[1], r2);
    atomicAdd(&out[2], bad);
}

static double rel_l2(const bf16 *got16, const float *got32, const float *ref, size_t n)
{
    double *out, host[3];
    CK(cudaMalloc(&out, sizeof host));
    CK(cudaMemset(out, 0, sizeof host));
    compare<<<256, 256>>>(out, got16, got32, ref, n);
    CK(cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost));
    CK(cudaFree(out));
    return host[2] > 0 ? NAN : sqrt(host[0] / (host[1] > 0 ? host[1] : 1));
}

static void *download(const void *p, size_t bytes)
{
    void *h = malloc(bytes);
    CK(cudaDeviceSynchronize());
    CK(cudaMemcpy(h, p, bytes, cudaMemcpyDeviceToHost));
    return h;
}

static int poisoned(const void *p, size_t bytes)
{
    unsigned char *h = (unsigned char *)download(p, bytes);
    int ok = 1;
    for (size_t i = 0; i < bytes; i++)
        ok &= h[i] == 0xFF;
    free(h);
    return ok;
}

static void verdict(int ok, const char *what, int m, int n, int k, double rel, int same, int guard)
{
    printf("%s %-28s M=%d N=%d K=%d rel_l2=%.2e same=%d guard=%d\n", ok ? "pass" : "FAIL", what, m,
           n, k, rel, same, guard);
    ok ? n_passed++ : n_failed++;
}

static int part_width_of(int k)
{
    for (int w = 64; w > 0; w--)
        if (k % w == 0 && k / w <= VIS90_MAX_PARTS)
            return w;
    return k;
}

/* NORM, GELU, F32: x → xg, facts → product, against LayerNorm and a plain product. */
static void check_norm(enum vis90_mode mode, int tile, int m, int n, int k, int ld)
{
    float *x = make32((size_t)m * k, 1, 2.0f, 0.4f), *gamma = make32(k, 2, 0.5f, 1.0f);
    float *beta = make32(k, 3, 0.3f, 0.f), *y = make32((size_t)m * k, 4, 1, 0);
    bf16 *w = make16((size_t)n * k, 5, 1.7f / sqrtf((float)k)), *bias = make16(n, 6, 0.5f);
    bf16 *xg = make16((size_t)m * k, 7, 1);
    size_t elem = mode == VIS90_F32 ? 4 : 2, bytes = (size_t)m * n * elem,
           padded = (size_t)m * ld * elem;
    float *a = make32(n, 8, 1, 0), *b = make32(n, 9, 1, 0), *ref = make32((size_t)m * n, 10, 1, 0);
    float *part = make32((size_t)m * VIS90_MAX_PARTS * 2, 11, 1, 0);
    unsigned char *out, *dense;
    CK(cudaMalloc(&out, padded + n * elem));
    CK(cudaMalloc(&dense, bytes));
    struct vis90_gemm g = {};
    g.ldy = ld == n ? 0 : ld;
    g.mode = mode, g.tile = tile, g.m = m, g.n = n, g.k = k, g.a = a, g.b = b, g.y = out;
    g.parts.part = part;
    g.parts.width = part_width_of(k);
    g.parts.n = k / g.parts.width;
    ref_norm<<<m, 128>>>(y, x, gamma, beta, k);
    ref_gemm<<<dim3((n + 127) / 128, m), 128>>>(ref, y, NULL, w, bias, n, k, mode == VIS90_GELU);
    CK(vis90_fold(w, gamma, beta, bias, 0, a, b, n, k, 0));
    CUresult r = vis90_gemm_plan(&g, encode, xg, w);
    void *got[2];
    for (int run = 0; run < 2; run++) {
        CK(cudaMemset(out, 0xFF, padded + n * elem));
        CK(cudaMemset(xg, 0xFF, (size_t)m * k * 2));
        CK(cudaMemset(part, 0xFF, (size_t)m * VIS90_MAX_PARTS * 8));
        ref_enter<<<m, VIS90_MAX_PARTS>>>(xg, g.parts, x, gamma, k);
        CK(vis90_gemm_launch(&g, 1, 0));
        CK(cudaMemcpy2D(dense, n * elem, out, ld * elem, n * elem, m, cudaMemcpyDeviceToDevice));
        got[run] = download(dense, bytes);
    }
    double rel = rel_l2(elem == 2 ? (bf16 *)dense : NULL, elem == 2 ? NULL : (float *)dense, ref,
                        (size_t)m * n);
    int same = !memcmp(got[0], got[1], bytes), guard = poisoned(out + padded, n * elem);
    for (int row = 0; row < m && ld > n; row += m > 7 ? m / 7 : 1)
        guard &= poisoned(out + ((size_t)row * ld + n) * elem, (ld - n) * elem);
    char what[64];
    snprintf(what, sizeof what, "%s %s",
             mode == VIS90_NORM   ? "norm"
             : mode == VIS90_GELU ? "gelu"
                                  : "f32",
             vis90_tile_name(tile));
    /* xg and the output are each rounded once: 2^-9 / sqrt(3) each; two such and a margin. */
    verdict(r == CUDA_SUCCESS && rel < 3.2e-3 && same && guard, what, m, n, k, rel, same, guard);
    free(got[0]), free(got[1]);
    cudaFree(x), cudaFree(gamma), cudaFree(beta), cudaFree(y), cudaFree(w), cudaFree(bias);
    cudaFree(xg), cudaFree(a), cudaFree(b), cudaFree(ref), cudaFree(part), cudaFree(out),
        cudaFree(dense);
}

/* scale ≠ 0: and no bias, as the patches have it. */
static void check_add(int tile, int m, int n, int k, int ld, float scale = 0)
{
    size_t N = (size_t)m * n;
    float *x0 = make32(N, 1, 2.0f, 0.4f), *xr = make32(N, 1, 2.0f, 0.4f);
    float *xgr = make32(N, 2, 1, 0), *acc = make32(N, 3, 1, 0), *x;
    float *bias = make32(n, 4, 0.5f, 0), *gamma = make32(n, 5, 0.5f, 1.f);
    bf16 *in = make16((size_t)m * k, 6, 1.7f),
         *w = make16((size_t)n * k, 7, 1.7f / sqrtf((float)k));
    bf16 *xg;
    float *part;
    size_t pb = (size_t)m * VIS90_MAX_PARTS * 8;
    CK(cudaMalloc(&x, (N + n) * 4));
    CK(cudaMalloc(&xg, (N + n) * 2));
    CK(cudaMalloc(&part, pb));
    bf16 *rows; /* the same with other values between the rows */
    CK(cudaMalloc(&rows, (size_t)m * ld * 2));
    CK(cudaMemset(rows, 0xFF, (size_t)m * ld * 2));
    CK(cudaMemcpy2D(rows, ld * 2, in, k * 2, k * 2, m, cudaMemcpyDeviceToDevice));
    ref_gemm<<<dim3((n + 127) / 128, m), 128>>>(acc, NULL, in, w, NULL, n, k, 0);
    ref_add<<<m, 128>>>(xr, xgr, acc, bias, gamma, scale, n);
    struct vis90_gemm g = {};
    g.mode = VIS90_ADD, g.tile = tile, g.m = m, g.n = n, g.k = k, g.b = gamma;
    g.a = scale != 0 ? NULL : bias, g.scale = scale;
    g.y = xg, g.x = x, g.ldx = ld == k ? 0 : ld;
    g.parts.part = part;
    g.parts.width = vis90_part_width(tile);
    g.parts.n = n / g.parts.width;
    CUresult r = vis90_gemm_plan(&g, encode, rows, w);
    void *got[2], *got16[2];
    for (int run = 0; run < 2; run++) {
        CK(cudaMemset(x, 0xFF, (N + n) * 4));
        CK(cudaMemset(xg, 0xFF, (N + n) * 2));
        CK(cudaMemset(part, 0xFF, pb));
        CK(cudaMemcpy(x, x0, N * 4, cudaMemcpyDeviceToDevice));
        CK(vis90_gemm_launch(&g, 1, 0));
        got[run] = download(x, N * 4);
        got16[run] = download(xg, N * 2);
    }
    float *hp = (float *)download(part, pb), *hx = (float *)got[0];
    double worst = 0;
    for (int row = 0; row < m; row++)
        for (int q = 0; q < g.parts.n; q++) {
            double s = 0, m2 = 0;
            const float *v = hx + (size_t)row * n + q * g.parts.width;
            for (int i = 0; i < g.parts.width; i++)
                s += v[i];
            for (int i = 0; i < g.parts.width; i++)
                m2 += (v[i] - s / g.parts.width) * (v[i] - s / g.parts.width);
            const float *p = hp + ((size_t)row * VIS90_MAX_PARTS + q) * 2;
            worst = fmax(worst, fabs(p[0] - s) / sqrt(m2 * g.parts.width));
            worst = fmax(worst, fabs(p[1] - m2) / m2);
        }
    double rel = rel_l2(NULL, x, xr, N), rel16 = rel_l2(xg, NULL, xgr, N);
    int same = !memcmp(got[0], got[1], N * 4) && !memcmp(got16[0], got16[1], N * 2);
    int guard = poisoned(x + N, n * 4) && poisoned(xg + N, n * 2);
    char what[64];
    snprintf(what, sizeof what, "add %s", vis90_tile_name(tile));
    int ok = r == CUDA_SUCCESS && rel < 1e-5 && rel16 < 2e-3 && worst < 1e-4 && same && guard;
    verdict(ok, what, m, n, k, rel, same, guard);
    if (!ok)
        printf("     xg %.2e parts %.2e\n", rel16, worst);
    for (int i = 0; i < 2; i++)
        free(got[i]), free(got16[i]);
    free(hp);
    cudaFree(x0), cudaFree(xr), cudaFree(xgr), cudaFree(acc), cudaFree(x), cudaFree(bias);
    cudaFree(gamma), cudaFree(in), cudaFree(w), cudaFree(xg), cudaFree(part), cudaFree(rows);
}

static void check_attention(int images, int heads, float scale_in)
{
    size_t rows = (size_t)images * 256, n = rows * heads * 72;
    bf16 *qkv = make16(n * 3, 21, scale_in), *o;
    float *ref = make32(n, 22, 1, 0), scale = 1 / sqrtf(72.f);
    CK(cudaMalloc(&o, (n + heads * 72) * 2));
    ref_attention<<<dim3(heads, images), 256>>>(ref, qkv, heads, scale);
    void *got[2];
    for (int run = 0; run < 2; run++) {
        CK(cudaMemset(o, 0xFF, (n + heads * 72) * 2));
        struct attn_vision90 a;
        if (attn_vision90_plan(&a, encode, qkv, o, images, heads, scale) != CUDA_SUCCESS)
            printf("map refused\n");
        CK(attn_vision90_launch(&a, 1, 0));
        got[run] = download(o, n * 2);
    }
    double rel = rel_l2(o, NULL, ref, n);
    int same = !memcmp(got[0], got[1], n * 2), guard = poisoned(o + n, heads * 144);
    /* P and o are rounded once each */
    verdict(rel < 4e-3 && same && guard, "attention", images, heads, 72, rel, same, guard);
    free(got[0]), free(got[1]);
    cudaFree(qkv), cudaFree(o), cudaFree(ref);
}

/* ---------------------------------------------------------------- bench */

#define LAYERS 27
#define D 1152
#define F 4304
#ifndef LDH
#define LDH 4352
#endif
#ifndef LDW2
#define LDW2 0
#endif
struct stage {
    int m, images, pdl, qkv_tile, fc1_tile, add_tile, o_tile;
    bf16 *w[LAYERS][4], *xg, *qkv, *o, *h;
    float *x, *part, *va, *vb;
};

static void stage_kernel(struct stage *s, int l, int which, cudaStream_t st)
{
    struct vis90_gemm g = {};
    g.m = s->m, g.a = s->va, g.b = s->vb, g.x = s->x, g.parts.part = s->part;
    if (which == 1) {
        struct attn_vision90 a;
        if (attn_vision90_plan(&a, encode, s->qkv, s->o, s->images, 16, 0.1178511f) != CUDA_SUCCESS)
            printf("map refused\n");
        CK(attn_vision90_launch(&a, s->pdl, st));
        return;
    }
    int add = which == 2 || which == 4;
    g.mode = add ? VIS90_ADD : which == 0 ? VIS90_NORM : VIS90_GELU;
    g.tile = which == 0   ? s->qkv_tile
             : which == 3 ? s->fc1_tile
             : which == 2 ? s->o_tile
                          : s->add_tile;
    int from = which == 0 ? s->add_tile : s->o_tile;
    g.parts.width = vis90_part_width(add ? g.tile : from);
    g.parts.n = D / g.parts.width;
    g.n = which == 0 ? 3 * D : which == 3 ? F : D;
    g.k = which == 4 ? F : D;
    g.y = which == 0 ? s->qkv : which == 3 ? s->h : s->xg;
    if (which == 3)
        g.ldy = LDH;
    if (which == 4)
        g.ldx = LDH, g.ldw = LDW2;
    const void *in = which == 2 ? s->o : which == 4 ? s->h : s->xg;
    if (vis90_gemm_plan(&g, encode, in, s->w[l][which < 2 ? which : which - 1]) != CUDA_SUCCESS)
        printf("map refused\n");
    CK(vis90_gemm_launch(&g, s->pdl, st));
}

/* µs a layer of the kernels in `mask`, as a graph over all layers. */
static double stage_us(struct stage *s, int mask)
{
    cudaStream_t st;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t a, b;
    CK(cudaStreamCreate(&st));
    CK(cudaEventCreate(&a));
    CK(cudaEventCreate(&b));
    CK(cudaStreamBeginCapture(st, cudaStreamCaptureModeThreadLocal));
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < 5; i++)
            if (mask >> i & 1)
                stage_kernel(s, l, i, st);
    CK(cudaStreamEndCapture(st, &graph));
    CK(cudaGraphInstantiate(&exec, graph, 0));
    float t[60];
    int n = 40;
    for (int i = -10; i < n; i++) {
        CK(cudaEventRecord(a, st));
        CK(cudaGraphLaunch(exec, st));
        CK(cudaEventRecord(b, st));
        CK(cudaEventSynchronize(b));
        if (i >= 0)
            CK(cudaEventElapsedTime(&t[i], a, b));
    }
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && t[j] < t[j - 1]; j--) {
            float x = t[j];
            t[j] = t[j - 1];
            t[j - 1] = x;
        }
    CK(cudaGraphExecDestroy(exec));
    CK(cudaGraphDestroy(graph));
    CK(cudaStreamDestroy(st));
    return t[n / 2] * 1e3 / LAYERS;
}

static void bench(int images, int all_tiles)
{
    struct stage s = {};
    s.images = images;
    s.m = images * 256;
    s.pdl = 1;
    size_t M = (size_t)s.m, sizes[4] = { 3 * D * D, D * D, (size_t)F * D, (size_t)4352 * D };
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < 4; i++)
            s.w[l][i] = make16(sizes[i], 100 + l * 4 + i, i == 3 ? 0.02f : 0.05f);
    s.xg = make16(M * D, 1, 1), s.qkv = make16(M * 3 * D, 2, 1), s.o = make16(M * D, 3, 1);
    s.h = make16(M * 4352, 4, 1), s.x = make32(M * D, 5, 1, 0), s.va = make32(F, 6, 0.01f, 0);
    s.vb = make32(F, 7, 0.1f, 1), s.part = make32(M * VIS90_MAX_PARTS * 2, 8, 1, 2);
    s.qkv_tile = vis90_tile(VIS90_NORM, s.m, 3 * D, D, n_sms);
    s.fc1_tile = vis90_tile(VIS90_GELU, s.m, F, D, n_sms);
    s.add_tile = vis90_tile(VIS90_ADD, s.m, D, F, n_sms);
    s.o_tile = vis90_tile(VIS90_ADD, s.m, D, D, n_sms);
    struct stage best = s;
    printf("%d images: µs a launch in a chain of %d, weights rotated\n", images, LAYERS);
    double least[5] = { 1e9, 1e9, 1e9, 1e9, 1e9 };
    for (int which = 0; which < 5; which++)
        for (int t = 0; t < (which == 1 ? 1 : vis90_tiles()); t++) {
            enum vis90_mode mode = which == 0 ? VIS90_NORM : which == 3 ? VIS90_GELU : VIS90_ADD;
            if (which != 1 && !vis90_tile_has(t, mode))
                continue;
            int chosen = which == 0   ? s.qkv_tile
                         : which == 3 ? s.fc1_tile
                         : which == 2 ? s.o_tile
                                      : s.add_tile;
            if (which != 1 && !all_tiles && t != chosen)
                continue;
            struct stage v = s;
            if (which == 0)
                v.qkv_tile = t;
            else if (which == 3)
                v.fc1_tile = t;
            else
                v.add_tile = v.o_tile = t;
            double us = stage_us(&v, 1 << which);
            static const char *const names[5] = { "qkv", "attention", "o", "fc1", "fc2" };
            printf("  %-9s %-14s %6.2f%s\n", names[which], which == 1 ? "" : vis90_tile_name(t), us,
                   which != 1 && all_tiles && t == chosen ? " chosen" : "");
            if (us < least[which]) {
                least[which] = us;
                if (which == 0)
                    best.qkv_tile = t;
                else if (which == 2)
                    best.o_tile = t;
                else if (which == 3)
                    best.fc1_tile = t;
                else if (which == 4)
                    best.add_tile = t;
            }
        }
    for (int pdl = 1; pdl >= 0; pdl--) {
        s.pdl = best.pdl = pdl;
        double us = stage_us(&s, 31), us2 = stage_us(&best, 31);
        printf(
            "%d images, pdl %d: layer %.2f us, %d layers %.3f ms chosen; %.2f us, %.3f ms best\n",
            images, pdl, us, LAYERS, us * LAYERS * 1e-3, us2, us2 * LAYERS * 1e-3);
    }
    for (int l = 0; l < LAYERS; l++)
        for (int i = 0; i < 4; i++)
            cudaFree(s.w[l][i]);
    cudaFree(s.xg), cudaFree(s.qkv), cudaFree(s.o), cudaFree(s.h), cudaFree(s.x), cudaFree(s.va);
    cudaFree(s.vb), cudaFree(s.part);
}

/* Attention of a batch. */
static void bench_attention(int images)
{
    struct stage s = {};
    s.images = images;
    s.m = images * 256;
    s.pdl = 1;
    size_t n = (size_t)s.m * D;
    s.qkv = make16(n * 3, 2, 1), s.o = make16(n, 3, 1);
    printf("%d images: attention %.2f us\n", images, stage_us(&s, 2));
    cudaFree(s.qkv), cudaFree(s.o);
}

int main(int argc, char **argv)
{
    struct cudaDeviceProp prop;
    if (no_hopper(&prop))
        return 0;
    encode = find_encode();
    n_sms = prop.multiProcessorCount;
    printf("%s, %d SMs\n", prop.name, n_sms);
    check_attention(3, 16, 2.0f);
    check_attention(2, 16, 2.0f); /* 64 queries a task, keys in two halves */
    check_attention(2, 16, 8.0f);
    check_attention(1, 2, 6.0f);
    check_attention(1, 1, 0.001f);
    check_attention(5, 16, 2.0f); /* 256 queries a task; several tasks a CTA */
    check_attention(9, 16, 2.0f);
    check_attention(26, 16, 1.0f);
    for (int t = 0; t < vis90_tiles(); t++) {
        static const int edges[][3] = { { 1, 8, 72 },      { 128, 144, 64 },   { 129, 264, 200 },
                                        { 255, 712, 128 }, { 300, 1000, 840 }, { 257, 8, 1152 } };
        for (int mode = VIS90_NORM; mode <= VIS90_F32; mode++) {
            if (!vis90_tile_has(t, (enum vis90_mode)mode))
                continue;
            if (mode == VIS90_ADD) {
                int w = D, tile = atoi(vis90_tile_name(t) + 4); /* "128xT …" */
                check_add(t, 768, w, F, 4352);
                check_add(t, 512, w, D, D);
                check_add(t, 768, w, 592, 592, 2 / 255.f);
                check_add(t, 1, w, 136, 136);
                check_add(t, 129, w, 200, 200);
                check_add(t, 300, 3 * tile, 456, 456);
                check_add(t, 64, tile, 1152, 1152);
                continue;
            }
            int n = mode == VIS90_GELU ? F : 3 * D;
            check_norm((enum vis90_mode)mode, t, 768, n, D, mode == VIS90_GELU ? 4352 : n);
            for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++)
                check_norm((enum vis90_mode)mode, t, edges[i][0], edges[i][1], edges[i][2],
                           edges[i][1]);
        }
    }
    if (argc > 1 && (!strcmp(argv[1], "--bench") || !strcmp(argv[1], "--tiles")))
        for (int images = 3; images > 0; images--)
            bench(images, !strcmp(argv[1], "--tiles"));
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        bench_attention(24);
        bench_attention(192);
    }
    printf("%d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed != 0;
}
