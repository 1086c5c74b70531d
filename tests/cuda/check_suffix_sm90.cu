/* SPDX-License-Identifier: Apache-2.0
 * check_suffix_sm90: the action expert's fused kernels for batches against plain kernels: every tile
 * and split on model shapes and edges, twice for the same bits, outputs poisoned, a guard row behind
 * each, and a row's bits when all other rows change. --bench [actions] times each kernel and the chain
 * of all layers as a graph under programmatic dependent launch. */
#include "backend/cuda/kernels/suffix_sm90.h"

#include "device_check.cuh"

#include <algorithm>
#include <string.h>
#include <vector>

typedef __nv_bfloat16 bf16;
static int n_passed, n_failed, n_sms;
static tensor_map_encode_fn encode;
static cudaStream_t stream;

/* ---------------------------------------------------------------- references */

/* y = inv · (x·wᵀ) + shift; inv from Σ part, or 1. */
__global__ void ref_gemm(float *y, const bf16 *x, const bf16 *w, const float *part,
                         const float *shift, int n, int k)
{
    int f = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (f >= n)
        return;
    float s = 0, q = 0;
    for (int i = 0; i < k; i++)
        s += __bfloat162float(x[(size_t)row * k + i]) * __bfloat162float(w[(size_t)f * k + i]);
    for (int i = 0; part && i < SFX90_PARTS; i++)
        q += part[(size_t)row * SFX90_PARTS + i];
    y[(size_t)row * n + f] =
        (part ? s / sqrtf(q / SFX90_WIDTH + 1e-6f) : s) + (shift ? shift[f] : 0.f);
}

__global__ void ref_rope(float *y, const struct cu_row *rows, const float *cs)
{
    int i = threadIdx.x, h = blockIdx.x;
    float *p = y + (size_t)blockIdx.y * 2560 + h * 256 + i;
    float lo = p[0], hi = p[128], c = cs[((size_t)rows[blockIdx.y].pos * 128 + i) * 2],
          s = cs[((size_t)rows[blockIdx.y].pos * 128 + i) * 2 + 1];
    p[0] = lo * c - hi * s;
    p[128] = hi * c + lo * s;
}

__global__ void ref_geglu(float *h, const float *gu)
{
    int u = blockIdx.x * blockDim.x + threadIdx.x;
    const float *p = gu + (size_t)blockIdx.y * 8192 + u / 8 * 16 + u % 8;
    float z = p[0];
    h[(size_t)blockIdx.y * 4096 + u] =
        0.5f * z * (1.0f + tanhf(0.7978845608f * (z + 0.044715f * z * z * z))) * p[8];
}

/* One block a row (token, head). */
__global__ void ref_attention(float *o, const bf16 *q, const bf16 *k, const bf16 *v,
                              const struct cu_sample *samples, int n, int horizon, int n_state,
                              float scale)
{
    __shared__ float p[2048];
    int row = blockIdx.x / 8, state = row >= n * horizon;
    int b = state ? row - n * horizon : row / horizon;
    struct cu_sample s = samples[b];
    int keys = s.n_rows + (state ? 1 : n_state + horizon);
    const bf16 *qr = q + (size_t)blockIdx.x * 256;
    for (int j = threadIdx.x; j < keys; j += blockDim.x) {
        float d = 0;
        for (int e = 0; e < 256; e++)
            d += __bfloat162float(qr[e]) * __bfloat162float(k[(size_t)(s.kv_row + j) * 256 + e]);
        p[j] = j >= s.n_valid && j < s.n_rows ? -INFINITY : d * scale;
    }
    __syncthreads();
    float m = -INFINITY, l = 0, acc = 0;
    for (int j = 0; j < keys; j++)
        m = fmaxf(m, p[j]);
    for (int j = 0; j < keys; j++) {
        float w = expf(p[j] - m);
        l += w;
        acc += w * __bfloat162float(v[(size_t)(s.kv_row + j) * 256 + threadIdx.x]);
    }
    o[(size_t)blockIdx.x * 256 + threadIdx.x] = acc / l;
}

/* ---------------------------------------------------------------- verdicts */

static void verdict(const char *what, struct sfx90_tile t, int m, int k, double r, int same,
                    int guard, int alone)
{
    int ok = r < 4e-3 && same && guard && alone;
    if (!ok || getenv("VERBOSE"))
        printf("%s %-10s T=%d split=%d share=%d groups=%d turns=%d M=%d K=%d rel_l2=%.2e same=%d "
               "guard=%d alone=%d\n",
               ok ? "pass" : "FAIL", what, t.tokens, t.split, t.share, t.groups, t.turns, m, k, r,
               same, guard, alone);
    ok ? n_passed++ : n_failed++;
}

/* ---------------------------------------------------------------- one product */

struct set { /* everything a product may touch, for m rows and a guard row */
    int m, keys;
    bf16 *x, *w;
    float *part, *shift, *cs, *gate, *gain, *res;
    struct cu_row *rows;
    uint16_t *q, *kc, *vc, *y;
};

static void check_gemm(enum sfx90_mode mode, struct sfx90_tile t, int m, int k, int with_shift)
{
    int n = mode == SFX90_QKV ? 2560 : mode == SFX90_GEGLU ? 8192 : 1024;
    int keys = 1024, cache = keys * 8;
    set s = {};
    s.x = make16((size_t)m * k, 1, 2.0f);
    s.w = make16((size_t)n * k, 2, 1.0f / sqrtf((float)k));
    s.part = make32((size_t)(m + 1) * SFX90_PARTS, 3, 60.f, 80.f);
    s.shift = make32(n, 4, 0.3f, 0.f);
    s.cs = make32((size_t)keys * 256, 5, 1.f, 0.f);
    s.gate = make32(1024, 6, 0.5f, 1.f);
    s.gain = make32(1024, 7, 0.5f, 0.f);
    std::vector<struct cu_row> rows(m);
    for (int i = 0; i < m; i++)
        rows[i] = { 0, i % 8 * keys + 700 + i / 8, 700 + i, i % 8 };
    s.rows = up(rows);
    s.q = get<uint16_t>((size_t)(m + 1) * 4096);
    s.kc = get<uint16_t>((size_t)cache * 256);
    s.vc = get<uint16_t>((size_t)cache * 256);
    s.y = get<uint16_t>((size_t)(m + 1) * 4096);
    s.res = get<float>((size_t)(m + 1) * 1024);
    struct sfx90_gemm g = {};
    g.mode = mode, g.tile = t, g.m = m, g.n = n, g.k = k;
    g.part = s.part, g.shift = with_shift ? s.shift : NULL, g.rows = s.rows, g.cos_sin = s.cs;
    g.q = s.q, g.kc = s.kc, g.vc = s.vc, g.y = s.y, g.x = s.res;
    g.gate = with_shift ? s.gate : NULL, g.gain = s.gain;
    if (sfx90_gemm_plan(&g, encode, s.x, s.w) != CUDA_SUCCESS) {
        printf("plan failed\n");
        exit(1);
    }
    int width = mode == SFX90_QKV ? 2048 : mode == SFX90_GEGLU ? 4096 : 1024;
    uint16_t *out = mode == SFX90_QKV ? s.q : s.y;
    std::vector<uint16_t> got[3], k16, v16;
    std::vector<float> res, part;
    int guard = 1;
    for (int run = 0; run < 3; run++) {
        CK(cudaMemset(s.q, 0xFF, (size_t)(m + 1) * 8192));
        CK(cudaMemset(s.y, 0xFF, (size_t)(m + 1) * 8192));
        CK(cudaMemset(s.kc, 0xFF, (size_t)cache * 512));
        CK(cudaMemset(s.vc, 0xFF, (size_t)cache * 512));
        fill32<<<512, 256>>>(s.res, (size_t)(m + 1) * 1024, 8, 2.f, 0.f);
        if (mode == SFX90_ADD)
            CK(cudaMemset(s.part, 0xFF, (size_t)(m + 1) * SFX90_PARTS * 4));
        if (run == 2) { /* all rows but one change */
            std::vector<bf16> keep = down(s.x + (size_t)(m / 2) * k, k);
            fill<<<512, 256>>>(s.x, (size_t)m * k, 99, 5.0f);
            CK(cudaDeviceSynchronize());
            CK(cudaMemcpy(s.x + (size_t)(m / 2) * k, keep.data(), (size_t)k * 2,
                          cudaMemcpyHostToDevice));
        }
        CK(cudaDeviceSynchronize());
        CK(sfx90_gemm_launch(&g, stream));
        CK(cudaDeviceSynchronize());
        got[run] = down(out, (size_t)m * width);
        std::vector<uint16_t> behind = down(out + (size_t)m * width, width);
        for (uint16_t b : behind)
            guard &= b == 0xFFFF;
        if (run == 1 && mode == SFX90_QKV) {
            k16 = down(s.kc, (size_t)cache * 256);
            v16 = down(s.vc, (size_t)cache * 256);
        }
        if (run == 1 && mode == SFX90_ADD) {
            res = down(s.res, (size_t)m * 1024);
            part = down(s.part, (size_t)(m + 1) * SFX90_PARTS);
            for (int i = 0; i < SFX90_PARTS; i++)
                guard &= isnan(part[(size_t)m * SFX90_PARTS + i]);
        }
        if (run == 1) { /* the reference, before x changes */
            float *ref = get<float>((size_t)m * n);
            ref_gemm<<<dim3(n / 128, m), 128>>>(ref, s.x, s.w, mode == SFX90_ADD ? NULL : s.part,
                                                mode == SFX90_ADD ? NULL : g.shift, n, k);
            std::vector<float> all, want;
            if (mode == SFX90_QKV) {
                ref_rope<<<dim3(9, m), 128>>>(ref, s.rows, s.cs);
                want = down(ref, (size_t)m * n);
                for (int i = 0; i < m; i++) {
                    for (int j = 0; j < 2048; j++)
                        all.push_back(widen(got[1][(size_t)i * 2048 + j]));
                    for (int j = 0; j < 256; j++)
                        all.push_back(widen(k16[(size_t)rows[i].cache * 256 + j]));
                    for (int j = 0; j < 256; j++)
                        all.push_back(widen(v16[(size_t)rows[i].cache * 256 + j]));
                }
                size_t written = 0;
                for (size_t i = 0; i < k16.size(); i++)
                    written += (k16[i] != 0xFFFF) + (v16[i] != 0xFFFF);
                guard &= written <= (size_t)m * 512;
            } else if (mode == SFX90_GEGLU) {
                float *h = get<float>((size_t)m * 4096);
                ref_geglu<<<dim3(32, m), 128>>>(h, ref);
                want = down(h, (size_t)m * 4096);
                all = wide(got[1]);
                CK(cudaFree(h));
            } else {
                want = down(ref, (size_t)m * n);
                std::vector<float> gate = down(s.gate, 1024), gain = down(s.gain, 1024), xr, xw;
                float *x0 = make32((size_t)(m + 1) * 1024, 8, 2.f, 0.f);
                std::vector<float> before = down(x0, (size_t)m * 1024);
                CK(cudaFree(x0));
                double worst = 0;
                for (int i = 0; i < m; i++)
                    for (int p = 0; p < SFX90_PARTS; p++) {
                        double sum = 0;
                        for (int j = 0; j < 64; j++)
                            sum += pow(res[(size_t)i * 1024 + p * 64 + j], 2);
                        worst = fmax(worst, fabs(sum - part[(size_t)i * SFX90_PARTS + p]) / sum);
                    }
                guard &= worst < 1e-5;
                for (size_t i = 0; i < want.size(); i++) {
                    float x = before[i] + want[i] * (with_shift ? gate[i % 1024] : 1.f);
                    guard &= fabsf(x - res[i]) < 1e-4f * (1.f + fabsf(x));
                    want[i] = x * (1.f + gain[i % 1024]);
                }
                all = wide(got[1]);
            }
            double r = rel(all, want);
            int same = got[0] == got[1];
            CK(cudaFree(ref));
            res.clear();
            part.assign(1, (float)r);
            k16.assign(1, (uint16_t)same);
        }
    }
    int alone = !memcmp(&got[1][(size_t)(m / 2) * width], &got[2][(size_t)(m / 2) * width],
                        (size_t)width * 2);
    verdict(mode == SFX90_QKV     ? "qkv"
            : mode == SFX90_GEGLU ? "gate·up"
                                  : "add",
            t, m, k, part[0], k16[0], guard, alone);
    for (void *p : { (void *)s.x, (void *)s.w, (void *)s.part, (void *)s.shift, (void *)s.cs,
                     (void *)s.gate, (void *)s.gain, (void *)s.rows, (void *)s.q, (void *)s.kc,
                     (void *)s.vc, (void *)s.y, (void *)s.res })
        CK(cudaFree(p));
}

/* ---------------------------------------------------------------- attention */

static void check_attention(int n, int horizon, int n_state, int query_state, int keys, int split)
{
    int max_keys = keys + n_state + horizon, rows = n * (horizon + query_state);
    long cache = (long)n * max_keys;
    bf16 *q = make16((size_t)(rows + 20) * 2048, 1, 3.0f);
    bf16 *k = make16((size_t)cache * 256, 2, 1.0f), *v = make16((size_t)cache * 256, 3, 1.0f);
    uint16_t *o = get<uint16_t>((size_t)(rows + 1) * 2048);
    std::vector<struct cu_sample> samples(n);
    for (int b = 0; b < n; b++) {
        int n_rows = b % 3 == 1 && keys > 300 ? keys - 257 : keys;
        samples[b] = { 0, n_rows, b % 2 && n_rows > 70 ? n_rows - 70 : n_rows, b * max_keys };
    }
    struct cu_sample *ds = up(samples);
    struct sfx90_attn a = {};
    a.o = o, a.samples = ds, a.n = n, a.horizon = horizon, a.n_state = n_state;
    a.query_state = query_state, a.split = split, a.scale = 1.f / 16;
    if (sfx90_attn_plan(&a, encode, q, rows + 20, k, v, cache) != CUDA_SUCCESS) {
        printf("plan failed\n");
        exit(1);
    }
    float *ref = get<float>((size_t)rows * 2048);
    std::vector<uint16_t> got[3];
    std::vector<float> want;
    int guard = 1, pick = n / 2 * horizon; /* a row of sample n/2 */
    for (int run = 0; run < 3; run++) {
        CK(cudaMemset(o, 0xFF, (size_t)(rows + 1) * 4096));
        if (run == 1) {
            ref_attention<<<rows * 8, 256>>>(ref, q, k, v, ds, n, horizon, n_state, 1.f / 16);
            want = down(ref, (size_t)rows * 2048);
        }
        if (run == 2) { /* only sample n/2 keeps its rows and keys */
            size_t qn = (size_t)horizon * 2048, kn = (size_t)max_keys * 256;
            std::vector<bf16> kq = down(q + (size_t)pick * 2048, qn), kk = down(k + n / 2 * kn, kn),
                              kv = down(v + n / 2 * kn, kn);
            fill<<<512, 256>>>(q, (size_t)(rows + 20) * 2048, 91, 5.f);
            fill<<<512, 256>>>(k, (size_t)cache * 256, 92, 5.f);
            fill<<<512, 256>>>(v, (size_t)cache * 256, 93, 5.f);
            CK(cudaDeviceSynchronize());
            CK(cudaMemcpy(q + (size_t)pick * 2048, kq.data(), qn * 2, cudaMemcpyHostToDevice));
            CK(cudaMemcpy(k + n / 2 * kn, kk.data(), kn * 2, cudaMemcpyHostToDevice));
            CK(cudaMemcpy(v + n / 2 * kn, kv.data(), kn * 2, cudaMemcpyHostToDevice));
        }
        CK(cudaDeviceSynchronize());
        CK(sfx90_attn_launch(&a, stream));
        CK(cudaDeviceSynchronize());
        got[run] = down(o, (size_t)rows * 2048);
        for (uint16_t b : down(o + (size_t)rows * 2048, 2048))
            guard &= b == 0xFFFF;
    }
    int alone =
        !memcmp(&got[1][(size_t)pick * 2048], &got[2][(size_t)pick * 2048], (size_t)horizon * 4096);
    struct sfx90_tile t = { horizon, split, query_state, 1, 1 };
    verdict("attention", t, n, keys, rel(wide(got[1]), want), got[0] == got[1], guard, alone);
    for (void *p : { (void *)q, (void *)k, (void *)v, (void *)o, (void *)ds, (void *)ref })
        CK(cudaFree(p));
}

/* ---------------------------------------------------------------- between the steps */

static double rel_of(const std::vector<double> &got, const std::vector<double> &ref)
{
    double d = 0, r = 0;
    for (size_t i = 0; i < ref.size(); i++) {
        if (!isfinite(got[i]))
            return NAN;
        d += (got[i] - ref[i]) * (got[i] - ref[i]);
        r += ref[i] * ref[i];
    }
    return sqrt(d / (r > 0 ? r : 1));
}

/* The end of a step and the beginning of the next, or one of them; against double on the host. */
static void check_step(int rows, int pi05, int with_end, int with_begin)
{
    enum { W = SFX90_WIDTH, A = SFX90_ACTION_DIM };
    float *x = make32((size_t)rows * W, 1, 2.f, 0.f), *scale = make32(W, 2, 0.5f, 0.f);
    float *shift = make32(W, 3, 0.5f, 0.f), *out_w = make32((size_t)A * W, 4, 0.05f, 0.f);
    float *out_b = make32(A, 5, 0.2f, 0.f), *wt = make32((size_t)A * W, 6, 0.3f, 0.f);
    float *c = make32(W, 7, 0.3f, 0.f), *gain = make32(W, 8, 0.5f, 0.f);
    float *actions = get<float>((size_t)(rows + 1) * A), *y = get<float>((size_t)(rows + 1) * W);
    float *part = get<float>((size_t)(rows + 1) * SFX90_PARTS), *rec = get<float>((size_t)rows * A);
    uint16_t *u3 = get<uint16_t>((size_t)(rows + 1) * 3 * W),
             *xg = get<uint16_t>((size_t)(rows + 1) * W);
    struct sfx90_step a = {};
    a.actions = actions, a.rows = rows, a.dt = -0.1f;
    if (with_end)
        a.x = x, a.scale = scale, a.shift = pi05 ? shift : NULL, a.out_w = out_w, a.out_b = out_b,
        a.rec_v = rec;
    if (with_begin)
        a.wt = wt, a.c = c, a.u3 = pi05 ? NULL : u3, a.y = y, a.gain = gain, a.xg = xg,
        a.part = part;
    std::vector<float> act[2], before, hy[2], hp;
    std::vector<uint16_t> hu[2], hx;
    for (int run = 0; run < 2; run++) {
        fill32<<<64, 256>>>(actions, (size_t)(rows + 1) * A, 9, 1.f, 0.f);
        CK(cudaMemset(y, 0xFF, (size_t)(rows + 1) * W * 4));
        CK(cudaMemset(u3, 0xFF, (size_t)(rows + 1) * W * 6));
        CK(cudaMemset(xg, 0xFF, (size_t)(rows + 1) * W * 2));
        CK(cudaMemset(part, 0xFF, (size_t)(rows + 1) * SFX90_PARTS * 4));
        before = down(actions, (size_t)(rows + 1) * A);
        CK(sfx90_step_launch(&a, n_sms, stream));
        act[run] = down(actions, (size_t)(rows + 1) * A);
        hy[run] = down(y, (size_t)(rows + 1) * W);
        hu[run] = down(u3, (size_t)(rows + 1) * W * 3);
        hx = down(xg, (size_t)(rows + 1) * W);
        hp = down(part, (size_t)(rows + 1) * SFX90_PARTS);
    }
    std::vector<float> fx = down(x, (size_t)rows * W), fs = down(scale, W), fh = down(shift, W),
                       fw = down(out_w, (size_t)A * W), fb = down(out_b, A),
                       ft = down(wt, (size_t)A * W), fc = down(c, W), fg = down(gain, W);
    std::vector<double> want, got, uw, ug;
    double worst = 0;
    int guard = 1;
    for (int r = 0; r < rows; r++) {
        double s = 0, now[A];
        for (int i = 0; i < W; i++)
            s += (double)fx[(size_t)r * W + i] * fx[(size_t)r * W + i];
        for (int n = 0; n < A; n++) {
            double v = fb[n];
            for (int i = 0; i < W; i++)
                v += fw[n * W + i] * (fx[(size_t)r * W + i] / sqrt(s / W + 1e-6) * (1 + fs[i]) +
                                      (pi05 ? fh[i] : 0));
            now[n] = before[r * A + n] + (with_end ? a.dt * v : 0);
            want.push_back(now[n]);
            got.push_back(act[1][r * A + n]);
        }
        for (int i = 0; with_begin && i < W; i++) {
            double u = fc[i];
            for (int n = 0; n < A; n++)
                u += ft[n * W + i] * now[n];
            size_t at = (size_t)r * 3 * W + i;
            uw.push_back(pi05 ? u : u / (1 + exp(-u)));
            ug.push_back(pi05 ? hy[1][(size_t)r * W + i]
                              : (double)widen(hu[1][at]) + widen(hu[1][at + 2 * W]));
            guard &= pi05 || hu[1][at] == hu[1][at + W];
            if (pi05)
                worst = fmax(worst, fabs(widen(hx[(size_t)r * W + i]) - u * (1 + fg[i])) /
                                        (0.1 + fabs(u)));
        }
        for (int p = 0; with_begin && pi05 && p < SFX90_PARTS; p++) {
            double q = 0;
            for (int i = 0; i < 64; i++)
                q += pow(hy[1][(size_t)r * W + p * 64 + i], 2);
            guard &= fabs(q - hp[r * SFX90_PARTS + p]) < 1e-5 * q;
        }
    }
    for (int i = 0; i < A; i++)
        guard &= act[1][(size_t)rows * A + i] == before[(size_t)rows * A + i];
    guard &= hu[1][(size_t)rows * 3 * W] == 0xFFFF && hx[(size_t)rows * W] == 0xFFFF;
    int same =
        act[0] == act[1] && hu[0] == hu[1] && !memcmp(hy[0].data(), hy[1].data(), hy[0].size() * 4);
    double r = fmax(rel_of(got, want), uw.empty() ? 0 : rel_of(ug, uw));
    guard &= r < 2e-5 && worst < 8e-3; /* float32, and two bf16 for u */
    struct sfx90_tile t = { pi05, with_end, with_begin, 1, 1 };
    verdict("step", t, rows, W, r, same, guard, 1);
    for (void *p : { (void *)x, (void *)scale, (void *)shift, (void *)out_w, (void *)out_b,
                     (void *)wt, (void *)c, (void *)gain, (void *)actions, (void *)y, (void *)part,
                     (void *)rec, (void *)u3, (void *)xg })
        CK(cudaFree(p));
}

static void check_all(void)
{
    for (int rows : { 1, 20, 132, 133, 265, 640 })
        for (int pi05 : { 0, 1 })
            for (int end : { 0, 1 })
                for (int begin : { 0, 1 })
                    if (end || begin)
                        check_step(rows, pi05, end, begin);
    static const int m[] = { 1,   7,   20,  22,  24,  40,  51,  80,  81,  88,
                             100, 128, 160, 176, 200, 250, 255, 320, 400, 640 };
    for (int rows : m) {
        int tokens = sfx90_tile(SFX90_QKV, rows, n_sms).tokens;
        for (int split : { 1, 2 })
            check_gemm(SFX90_QKV, { tokens, split, 1, 1, 1 }, rows, 1024, split - 1);
        if (tokens <= 104) {
            check_gemm(SFX90_QKV, { tokens, 1, 1, 1, 2 }, rows, 1024, 1);
            for (int k : { 2048, 3072, 4096 })
                check_gemm(SFX90_ADD, { tokens, 4, 1, 1, 2 }, rows, k, k == 4096);
        }
        for (int share : { 1, 2 }) {
            if (tokens >= 104)
                check_gemm(SFX90_QKV, { tokens, 1, share, 2, 1 }, rows, 1024, share - 1);
            check_gemm(SFX90_GEGLU, { tokens, 1, share, 2, 1 }, rows, 1024, share - 1);
        }
        for (int share : { 1, 2, 4 })
            check_gemm(SFX90_GEGLU, { tokens, 1, share, 1, 1 }, rows, 1024, share > 1);
        for (int k : { 2048, 3072, 4096 })
            for (int split : { 2, 4, 8 })
                if (split < 8 || tokens <= 104)
                    check_gemm(SFX90_ADD, { tokens, split, split == 2 ? 2 : 1, 1, 1 }, rows, k,
                               split == 4);
    }
    for (int split : { 1, 2, 3, 4, 5, 6, 8 })
        for (int keys : { 1, 62, 64, 130, 532, 788, 968 })
            for (int horizon : { 10, 50, 7 }) {
                check_attention(3, horizon, 1, 1, keys, split);
                check_attention(2, horizon, 0, 0, keys, split);
            }
}

/* ---------------------------------------------------------------- time */

/* Median time of a graph of what `enqueue` enqueues. */
template <class F> static double graph_us(F enqueue)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    enqueue();
    CK(cudaStreamEndCapture(stream, &graph));
    CK(cudaGraphInstantiate(&exec, graph, 0));
    cudaEvent_t a, b;
    CK(cudaEventCreate(&a));
    CK(cudaEventCreate(&b));
    std::vector<float> t;
    for (int i = 0; i < 12; i++) {
        CK(cudaEventRecord(a, stream));
        CK(cudaGraphLaunch(exec, stream));
        CK(cudaEventRecord(b, stream));
        CK(cudaStreamSynchronize(stream));
        float ms;
        CK(cudaEventElapsedTime(&ms, a, b));
        if (i > 2)
            t.push_back(ms);
    }
    std::sort(t.begin(), t.end());
    CK(cudaGraphExecDestroy(exec));
    CK(cudaGraphDestroy(graph));
    return t[t.size() / 2] * 1e3;
}

static void bench(int batch, int horizon, int n_state, int prefix)
{
    const int L = 18, m = batch * horizon, max_keys = 1024;
    const size_t size[4] = { 2560 * 1024, 1024 * 2048, 8192 * 1024, 4096 * 1024 };
    size_t off[4], total = 0;
    for (int i = 0; i < 4; i++)
        off[i] = total, total += size[i];
    bf16 *w = make16(total * L, 1, 0.03f);
    long layer_kv = (long)batch * max_keys;
    bf16 *k = make16((size_t)layer_kv * 256 * L, 2, 1.f),
         *v = make16((size_t)layer_kv * 256 * L, 3, 1.f);
    bf16 *xg = make16((size_t)m * 1024, 4, 1.f), *q = make16((size_t)m * 2048, 5, 1.f),
         *o = make16((size_t)m * 2048, 6, 1.f), *h = make16((size_t)m * 4096, 7, 1.f);
    float *x = make32((size_t)m * 1024, 8, 1.f, 0.f), *part = make32((size_t)m * 16, 9, 10.f, 64.f);
    float *cs = make32((size_t)max_keys * 256, 10, 1.f, 0.f), *gain = make32(1024, 11, 0.1f, 0.f);
    std::vector<struct cu_row> rows(m);
    std::vector<struct cu_sample> samples(batch);
    for (int i = 0; i < m; i++)
        rows[i] = { 0, i / horizon * max_keys + prefix + n_state + i % horizon,
                    prefix + n_state + i % horizon, i / horizon };
    for (int b = 0; b < batch; b++)
        samples[b] = { 0, prefix, prefix, b * max_keys };
    struct cu_row *dr = up(rows);
    struct cu_sample *ds = up(samples);
    std::vector<struct sfx90_gemm> g(L * 4);
    for (int l = 0; l < L; l++)
        for (int i = 0; i < 4; i++) {
            struct sfx90_gemm &p = g[l * 4 + i];
            p.mode = i == 0 ? SFX90_QKV : i == 2 ? SFX90_GEGLU : SFX90_ADD;
            p.m = m;
            p.n = i == 0 ? 2560 : i == 2 ? 8192 : 1024;
            p.k = i == 1 ? 2048 : i == 3 ? 4096 : 1024;
            p.tile = sfx90_tile(p.mode, m, n_sms);
            const char *e = getenv(i == 0 ? "QKV" : i == 1 ? "O" : i == 2 ? "GU" : "DOWN");
            if (e)
                sscanf(e, "%d,%d,%d,%d,%d", &p.tile.tokens, &p.tile.split, &p.tile.share,
                       &p.tile.groups, &p.tile.turns);
            p.part = part, p.rows = dr, p.cos_sin = cs;
            p.q = (uint16_t *)q;
            p.kc = (uint16_t *)k + (size_t)l * layer_kv * 256;
            p.vc = (uint16_t *)v + (size_t)l * layer_kv * 256;
            p.y = (uint16_t *)(i == 2 ? h : xg);
            p.x = x, p.gain = gain;
            if (sfx90_gemm_plan(&p, encode,
                                i == 1   ? o
                                : i == 3 ? h
                                         : xg,
                                w + total * l + off[i]) != CUDA_SUCCESS)
                exit(1);
        }
    struct sfx90_attn a = {};
    a.o = (uint16_t *)o, a.samples = ds, a.n = batch, a.horizon = horizon, a.n_state = n_state;
    a.split = sfx90_attn_split(max_keys, horizon, batch, n_sms), a.scale = 1.f / 16;
    if (getenv("ATTN"))
        a.split = atoi(getenv("ATTN"));
    if (sfx90_attn_plan(&a, encode, q, m, k, v, layer_kv * L) != CUDA_SUCCESS)
        exit(1);
    uint16_t *u3 = (uint16_t *)make16((size_t)m * 3072, 12, 1.f);
    float *actions = make32((size_t)m * 32, 13, 1.f, 0.f), *bias = make32(1024, 14, 1.f, 0.f);
    float *out_w = make32(32 * 1024, 15, 0.03f, 0.f), *wt = make32(32 * 1024, 16, 0.1f, 0.f);
    struct sfx90_step step = {};
    step.x = x, step.scale = gain, step.out_w = out_w, step.out_b = bias, step.actions = actions;
    step.dt = -0.1f, step.rows = m, step.wt = wt, step.c = bias, step.u3 = u3;
    struct sfx90_gemm in = g[1];
    in.k = 3072, in.bias = bias, in.tile = sfx90_tile(SFX90_ADD, m, n_sms);
    if (sfx90_gemm_plan(&in, encode, u3, w) != CUDA_SUCCESS)
        exit(1);
    auto layers = [&](const std::vector<int> &what) {
        for (int l = 0; l < L; l++)
            for (int i : what) {
                a.kv_row0 = (int)(l * layer_kv);
                CK(i == 4 ? sfx90_attn_launch(&a, stream)
                          : sfx90_gemm_launch(&g[l * 4 + i], stream));
            }
    };
    auto heads = [&]() {
        CK(sfx90_step_launch(&step, n_sms, stream));
        CK(sfx90_gemm_launch(&in, stream));
    };
    printf("batch %d x %d, %d keys, µs a layer:", batch, horizon, prefix + n_state + horizon);
    static const char *const name[] = { "qkv", "o", "gate·up", "down", "attention" };
    for (int i : { 0, 4, 1, 2, 3 }) {
        double t = graph_us([&]() {
            for (int r = 0; r < 3; r++)
                layers({ i });
        });
        if (i == 4)
            printf("  %s (%d) %.2f", name[i], a.split, t / (3 * L));
        else
            printf("  %s (%d,%d,%d,%d,%d) %.2f", name[i], g[i].tile.tokens, g[i].tile.split,
                   g[i].tile.share, g[i].tile.groups, g[i].tile.turns, t / (3 * L));
    }
    auto all = [&](int with) {
        return graph_us([&]() {
            for (int r = 0; r < 10; r++) {
                if (with)
                    heads();
                layers({ 0, 4, 1, 2, 3 });
            }
        });
    };
    double bare = all(0), whole = all(1);
    printf("  all %.2f; heads %.1f a step; ten steps %.3f ms\n", bare / 180, (whole - bare) / 10,
           whole * 1e-3);
    for (void *p : { (void *)u3, (void *)actions, (void *)bias, (void *)out_w, (void *)wt })
        CK(cudaFree(p));
    for (void *p : { (void *)w, (void *)k, (void *)v, (void *)xg, (void *)q, (void *)o, (void *)h,
                     (void *)x, (void *)part, (void *)cs, (void *)gain, (void *)dr, (void *)ds })
        CK(cudaFree(p));
}

int main(int argc, char **argv)
{
    cudaDeviceProp p;
    if (no_hopper(&p))
        return 0;
    n_sms = p.multiProcessorCount;
    encode = find_encode();
    CK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        if (argc > 3) {
            bench(atoi(argv[2]), atoi(argv[3]), 1, 788);
            return 0;
        }
        for (int b : { 2, 4, 8, 16, 32, 64 })
            bench(b, 10, 1, 788);
        for (int b : { 1, 2, 4, 8 })
            bench(b, 50, 1, 799);
        return 0;
    }
    check_all();
    printf("%d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed != 0;
}
