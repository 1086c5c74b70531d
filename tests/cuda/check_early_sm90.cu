/* SPDX-License-Identifier: Apache-2.0
 * check_early_sm90: one layer of the first denoising step on four processors against plain kernels: every
 * form of the weights, row counts at the edges, with and without state and adaRMS, prefixes with holes,
 * twice for the same bits, outputs poisoned, everything around them looked at. The state's bits must not
 * depend on the actions. --bench: time of a layer over 18 sets of weights, alone and beside a kernel
 * that reads memory on the other processors. */
#include "backend/cuda/kernels/denoise_sm90.h"
#include "backend/cuda/kernels/early_sm90.h"

#include "device_check.cuh"

#include <algorithm>
#include <string.h>
#include <vector>

typedef __nv_bfloat16 bf16;
static int n_passed, n_failed;
static cudaStream_t stream;
static const int W = 1024, CACHE = 1200;

/* ---------------------------------------------------------------- the plain layer */

__global__ void ref_norm(bf16 *xg, float *inv, float *part, const float *x, const float *gain)
{
    const float *r = x + (size_t)blockIdx.x * W;
    for (int i = threadIdx.x; i < W; i += blockDim.x)
        xg[(size_t)blockIdx.x * W + i] = __float2bfloat16(r[i] * (1.f + gain[i]));
    if (threadIdx.x == 0) {
        double all = 0;
        for (int p = 0; p < 16; p++) {
            double s = 0;
            for (int i = 0; i < 64; i++)
                s += (double)r[p * 64 + i] * r[p * 64 + i];
            part[blockIdx.x * 16 + p] = (float)s;
            all += s;
        }
        inv[blockIdx.x] = (float)(1 / sqrt(all / W + 1e-6));
    }
}
/* y = inv · (x·wᵀ) + shift */
__global__ void ref_gemm(float *y, const bf16 *x, const bf16 *w, const float *inv,
                         const float *shift, int n, int k)
{
    int f = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    double s = 0;
    for (int i = 0; i < k; i += 64) {
        float part = 0;
        for (int j = i; j < i + 64; j++)
            part +=
                __bfloat162float(x[(size_t)row * k + j]) * __bfloat162float(w[(size_t)f * k + j]);
        s += part;
    }
    y[(size_t)row * n + f] = (float)s * (inv ? inv[row] : 1.f) + (shift ? shift[f] : 0.f);
}
__global__ void ref_rope(float *y, const struct cu_row *rows, const float *cs, bf16 *q, bf16 *k,
                         bf16 *v)
{
    int i = threadIdx.x, h = blockIdx.x, row = blockIdx.y, pos = rows[row].pos;
    float lo = y[(size_t)row * 2560 + h * 256 + i], hi = y[(size_t)row * 2560 + h * 256 + i + 128];
    float c = h == 9 ? 1 : cs[(pos * 128 + i) * 2], s = h == 9 ? 0 : cs[(pos * 128 + i) * 2 + 1];
    bf16 *to =
        h < 8 ? q + (size_t)row * 2048 + h * 256 : (h == 8 ? k : v) + (size_t)rows[row].cache * 256;
    to[i] = __float2bfloat16(lo * c - hi * s);
    to[i + 128] = __float2bfloat16(hi * c + lo * s);
}
__global__ void ref_attention(bf16 *o, const bf16 *q, const bf16 *k, const bf16 *v,
                              const struct cu_sample *sample, int rows, int n_state, float scale)
{
    __shared__ float p[2048];
    int row = blockIdx.x / 8, state = n_state && row == rows - 1;
    struct cu_sample s = *sample;
    int keys = s.n_rows + (state ? 1 : rows);
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
    for (int j = 0; j < keys; j++)
        if (p[j] > -INFINITY) {
            float w = expf(p[j] - m);
            l += w;
            acc += w * __bfloat162float(v[(size_t)(s.kv_row + j) * 256 + threadIdx.x]);
        }
    o[(size_t)blockIdx.x * 256 + threadIdx.x] = __float2bfloat16(acc / l);
}
__global__ void ref_geglu(bf16 *h, const float *gu)
{
    int u = blockIdx.x * blockDim.x + threadIdx.x;
    const float *p = gu + (size_t)blockIdx.y * 8192 + u / 8 * 16 + u % 8;
    float z = p[0];
    h[(size_t)blockIdx.y * 4096 + u] = __float2bfloat16(
        0.5f * z * (1.0f + tanhf(0.7978845608f * (z + 0.044715f * z * z * z))) * p[8]);
}
__global__ void ref_add(float *x, const float *y, const float *gate)
{
    size_t i = (size_t)blockIdx.x * W + threadIdx.x;
    x[i] += (gate ? gate[threadIdx.x] : 1.f) * y[i];
}
/* shift of qkv from matrix order to tile order */
__global__ void tile_order(float *to, const float *from)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x, tile = i / 16, r = i % 16;
    to[i] = i < 2560 ? from[tile / 16 * 256 + tile % 16 * 8 + r % 8 + r / 8 * 128] : from[i];
}

/* ---------------------------------------------------------------- one layer */

struct layer {
    bf16 *wqkv, *wo, *wgu, *wdown;
    void *packed;
    float *norm1, *norm2, *shift, *shift_tiles, *gate1, *gate2, *gain, *cs;
};
static struct layer layer_make(uint64_t seed)
{
    struct layer l;
    l.wqkv = make16((size_t)2560 * 1024, seed + 1, 1.7f / 32);
    l.wo = make16((size_t)1024 * 2048, seed + 2, 1.7f / 45);
    l.wgu = make16((size_t)8192 * 1024, seed + 3, 1.7f / 32);
    l.wdown = make16((size_t)1024 * 4096, seed + 4, 1.7f / 64);
    struct dn90_shape s = { 1, 1024, 4096, 8, 256, 32, 15, 1024, 0 };
    l.packed = get<uint8_t>(dn90_weights_bytes(&s));
    struct dn90_layer r = {};
    uint16_t *w = (uint16_t *)l.wqkv, *gu = (uint16_t *)l.wgu;
    r.q = w, r.k = w + 2048 * 1024, r.v = w + 2304 * 1024, r.o = (uint16_t *)l.wo, r.gate = gu;
    r.up = gu + 8 * 1024, r.down = (uint16_t *)l.wdown, r.gu_stride = 1024, r.gu_group = 8;
    CK(cudaDeviceSynchronize());
    CK(dn90_pack_layer(&s, l.packed, 0, &r, stream));
    l.norm1 = make32(1024, seed + 5, 0.4f, 0), l.norm2 = make32(1024, seed + 6, 0.4f, 0);
    l.shift = make32(10752, seed + 7, 0.3f, 0), l.shift_tiles = get<float>(10752);
    tile_order<<<42, 256>>>(l.shift_tiles, l.shift);
    l.gate1 = make32(1024, seed + 8, 0.5f, 1), l.gate2 = make32(1024, seed + 9, 0.5f, 1);
    l.gain = make32(1024, seed + 10, 0.4f, 0);
    l.cs = get<float>((size_t)CACHE * 256);
    std::vector<float> t((size_t)CACHE * 256);
    for (int p = 0; p < CACHE; p++)
        for (int i = 0; i < 128; i++) {
            double a = p * pow(10000., -i / 128.);
            t[(size_t)(p * 128 + i) * 2] = (float)cos(a),
                                      t[(size_t)(p * 128 + i) * 2 + 1] = (float)sin(a);
        }
    CK(cudaMemcpy(l.cs, t.data(), t.size() * 4, cudaMemcpyHostToDevice));
    CK(cudaDeviceSynchronize());
    return l;
}

static cudaError_t launch(const struct early90 *p)
{
    static tensor_map_encode_fn encode = find_encode();
    struct early90_maps m;
    if (early90_plan(&m, encode, p) != CUDA_SUCCESS)
        return cudaErrorInvalidValue;
    return early90_launch(p, &m, stream);
}

/* From the kernel's scratch to rows: blocks of 8 columns, or of 32 in the order of act_at. */
static std::vector<float> unblock(const std::vector<uint16_t> &v, int rows, int cols, int by8)
{
    std::vector<float> f((size_t)rows * cols);
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < cols; c++) {
            int block = by8 ? c / 8 : c / 32 * 4 + c % 8 / 2,
                at = by8 ? c % 8 : c / 8 % 4 * 2 + c % 2;
            f[(size_t)r * cols + c] = widen(v[((size_t)block * rows + r) * 8 + at]);
        }
    return f;
}

struct buffers {
    float *x, *part;
    uint16_t *k, *v, *q, *o, *h, *xg;
};
static struct buffers buffers_make(void)
{
    struct buffers b;
    b.x = get<float>(57 * 1024), b.part = get<float>(57 * 16);
    b.k = get<uint16_t>((size_t)CACHE * 256), b.v = get<uint16_t>((size_t)CACHE * 256);
    b.q = get<uint16_t>(57 * 2048), b.o = get<uint16_t>(57 * 2048), b.h = get<uint16_t>(57 * 4096);
    b.xg = get<uint16_t>(57 * 1024);
    return b;
}
/* prefix keys and values [0, kv_row + n_rows), NaN where nothing may be read, x, the rest poisoned */
static void buffers_fill(const struct buffers *b, const struct cu_sample *s, int rows,
                         uint64_t seed)
{
    CK(cudaMemset(b->k, 0xff, (size_t)CACHE * 512));
    CK(cudaMemset(b->v, 0xff, (size_t)CACHE * 512));
    fill<<<512, 256>>>((bf16 *)b->k + (size_t)s->kv_row * 256, (size_t)s->n_valid * 256, 21, 2.f);
    fill<<<512, 256>>>((bf16 *)b->v + (size_t)s->kv_row * 256, (size_t)s->n_valid * 256, 22, 1.f);
    CK(cudaMemset(b->x, 0xff, 57 * 4096));
    fill32<<<512, 256>>>(b->x, (size_t)rows * 1024, seed, 2.f, 0.1f);
    CK(cudaMemset(b->q, 0xff, 57 * 4096));
    CK(cudaMemset(b->o, 0xff, 57 * 4096));
    CK(cudaMemset(b->h, 0xff, 57 * 8192));
    CK(cudaMemset(b->xg, 0xff, 57 * 2048));
    CK(cudaMemset(b->part, 0xff, 57 * 64));
    CK(cudaDeviceSynchronize());
}

static void check(const struct layer *l, int rows, int n_state, int packed, int ada, int valid,
                  int hole, int kv_row)
{
    struct buffers b = buffers_make(), r = buffers_make();
    struct cu_sample s = { 0, valid + hole, valid, kv_row };
    std::vector<struct cu_row> hr(rows);
    for (int i = 0; i < rows; i++) {
        int n = n_state ? (i == rows - 1 ? 0 : i + 1) : i;
        hr[i] = { 0, kv_row + s.n_rows + n, valid + n, 0 };
    }
    struct cu_row *dr = up(hr);
    struct cu_sample *ds = up(std::vector<struct cu_sample>(1, s));
    struct early90 p = {};
    p.rows = rows, p.n_state = n_state, p.packed = packed, p.cache_rows = CACHE;
    p.wqkv = packed ? l->packed : l->wqkv, p.wo = l->wo, p.wgu = l->wgu, p.wdown = l->wdown;
    if (packed)
        p.wo = p.wgu = p.wdown = NULL;
    p.norm1 = l->norm1, p.norm2 = l->norm2;
    p.shift = ada ? packed ? l->shift_tiles : l->shift : NULL;
    p.gate1 = ada ? l->gate1 : NULL, p.gate2 = ada ? l->gate2 : NULL;
    p.sample = ds, p.suffix_rows = dr, p.cos_sin = l->cs, p.k = b.k, p.v = b.v, p.x = b.x;
    p.q = b.q, p.o = b.o, p.h = b.h, p.next_gain = l->gain, p.scale = 1.f / 16;
    int same = 1, guard = 1, alone = 1;
    std::vector<float> x[2], part[2];
    std::vector<uint16_t> k[2], v[2], q, o, h, xg[2];
    for (int run = 0; run < 2; run++) {
        buffers_fill(&b, &s, rows, 31);
        p.xg = b.xg, p.part = b.part;
        CK(launch(&p));
        CK(cudaDeviceSynchronize());
        x[run] = down(b.x, 57 * 1024), part[run] = down(b.part, 57 * 16);
        k[run] = down(b.k, (size_t)CACHE * 256), v[run] = down(b.v, (size_t)CACHE * 256);
        xg[run] = down(b.xg, 57 * 1024);
        q = down(b.q, 57 * 2048), o = down(b.o, 57 * 2048), h = down(b.h, 57 * 4096);
    }
    same = !memcmp(x[0].data(), x[1].data(), x[0].size() * 4) && k[0] == k[1] && v[0] == v[1] &&
           xg[0] == xg[1] && !memcmp(part[0].data(), part[1].data(), part[0].size() * 4);
    /* the plain one */
    buffers_fill(&r, &s, rows, 31);
    std::vector<float> x0 = down(r.x, (size_t)rows * 1024);
    bf16 *n = get<bf16>((size_t)rows * 1024), *rq = (bf16 *)r.q, *ro = (bf16 *)r.o,
         *rh = (bf16 *)r.h;
    float *inv = get<float>(rows), *y = get<float>((size_t)rows * 8192);
    ref_norm<<<rows, 128>>>(n, inv, r.part, r.x, l->norm1);
    ref_gemm<<<dim3(20, rows), 128>>>(y, n, l->wqkv, inv, ada ? l->shift : NULL, 2560, 1024);
    ref_rope<<<dim3(10, rows), 128>>>(y, dr, l->cs, rq, (bf16 *)r.k, (bf16 *)r.v);
    ref_attention<<<rows * 8, 256>>>(ro, rq, (bf16 *)r.k, (bf16 *)r.v, ds, rows, n_state, 1.f / 16);
    ref_gemm<<<dim3(8, rows), 128>>>(y, ro, l->wo, NULL, NULL, 1024, 2048);
    ref_add<<<rows, 1024>>>(r.x, y, p.gate1);
    ref_norm<<<rows, 128>>>(n, inv, r.part, r.x, l->norm2);
    ref_gemm<<<dim3(64, rows), 128>>>(y, n, l->wgu, inv, ada ? l->shift + 2560 : NULL, 8192, 1024);
    ref_geglu<<<dim3(32, rows), 128>>>(rh, y);
    ref_gemm<<<dim3(8, rows), 128>>>(y, rh, l->wdown, NULL, NULL, 1024, 4096);
    ref_add<<<rows, 1024>>>(r.x, y, p.gate2);
    ref_norm<<<rows, 128>>>((bf16 *)r.xg, inv, r.part, r.x, l->gain);
    CK(cudaDeviceSynchronize());
    size_t at = (size_t)(kv_row + s.n_rows) * 256, n_kv = (size_t)rows * 256;
    auto cut = [](const std::vector<uint16_t> &a, size_t from, size_t count) {
        return wide(
            std::vector<uint16_t>(a.begin() + (long)from, a.begin() + (long)(from + count)));
    };
    double e[8];
    e[0] = rel(cut(k[0], at, n_kv), cut(down(r.k, (size_t)CACHE * 256), at, n_kv));
    e[1] = rel(cut(v[0], at, n_kv), cut(down(r.v, (size_t)CACHE * 256), at, n_kv));
    e[2] = rel(unblock(q, rows, 2048, 1), wide(down(r.q, (size_t)rows * 2048)));
    e[3] = rel(unblock(o, rows, 2048, rows > EARLY90_NARROW_ROWS),
               wide(down(r.o, (size_t)rows * 2048)));
    e[4] = rel(unblock(h, rows, 4096, rows > EARLY90_NARROW_ROWS),
               wide(down(r.h, (size_t)rows * 4096)));
    std::vector<float> dx((size_t)rows * 1024), rx = down(r.x, (size_t)rows * 1024);
    for (size_t i = 0; i < dx.size(); i++)
        dx[i] = x[0][i] - x0[i], rx[i] -= x0[i];
    e[5] = rel(dx, rx);
    e[6] = rel(cut(xg[0], 0, (size_t)rows * 1024), wide(down(r.xg, (size_t)rows * 1024)));
    e[7] = rel(std::vector<float>(part[0].begin(), part[0].begin() + rows * 16),
               down(r.part, (size_t)rows * 16));
    /* everything around the results is as it was */
    struct buffers f = buffers_make();
    buffers_fill(&f, &s, rows, 31);
    std::vector<uint16_t> k0 = down(f.k, (size_t)CACHE * 256), v0 = down(f.v, (size_t)CACHE * 256);
    for (size_t i = 0; i < k0.size(); i++)
        if (i < at || i >= at + n_kv)
            guard &= k0[i] == k[0][i] && v0[i] == v[0][i];
    for (size_t i = (size_t)rows * 1024; i < 57 * 1024; i++)
        guard &= isnan(x[0][i]) && xg[0][i] == 0xffff;
    for (size_t i = (size_t)rows * 16; i < 57 * 16; i++)
        guard &= isnan(part[0][i]);
    for (size_t i = (size_t)rows * 2048; i < 57 * 2048; i++)
        guard &= q[i] == 0xffff && o[i] == 0xffff;
    for (size_t i = (size_t)rows * 4096; i < 57 * 4096; i++)
        guard &= h[i] == 0xffff;
    if (n_state) { /* other actions, and no xg: the state's row is the same */
        buffers_fill(&b, &s, rows, 77);
        CK(cudaMemcpy(b.x + (size_t)(rows - 1) * 1024, x0.data() + (size_t)(rows - 1) * 1024, 4096,
                      cudaMemcpyHostToDevice));
        p.xg = NULL;
        CK(launch(&p));
        std::vector<float> other = down(b.x, (size_t)rows * 1024);
        alone = !memcmp(other.data() + (size_t)(rows - 1) * 1024,
                        x[0].data() + (size_t)(rows - 1) * 1024, 4096);
        alone &= down(b.xg, 1)[0] == 0xffff;
    }
    int ok = same && guard && alone;
    for (int i = 0; i < 8; i++)
        ok &= e[i] < 4e-3;
    if (!ok || getenv("VERBOSE"))
        printf(
            "%s rows=%d state=%d packed=%d ada=%d valid=%d hole=%d: k %.1e v %.1e q %.1e o %.1e h "
            "%.1e x %.1e xg %.1e part %.1e same=%d guard=%d alone=%d\n",
            ok ? "pass" : "FAIL", rows, n_state, packed, ada, valid, hole, e[0], e[1], e[2], e[3],
            e[4], e[5], e[6], e[7], same, guard, alone);
    ok ? n_passed++ : n_failed++;
    for (const struct buffers *t : { &b, &r, &f })
        for (void *m : { (void *)t->x, (void *)t->part, (void *)t->k, (void *)t->v, (void *)t->q,
                         (void *)t->o, (void *)t->h, (void *)t->xg })
            CK(cudaFree(m));
    for (void *m : { (void *)dr, (void *)ds, (void *)n, (void *)inv, (void *)y })
        CK(cudaFree(m));
}

static void check_all(void)
{
    struct layer l = layer_make(100);
    for (int packed = 1; packed >= 0; packed--)
        for (int rows : { 1, 2, 8, 11, 16, 17, 51, 56 }) {
            if (packed && rows > EARLY90_NARROW_ROWS)
                continue;
            for (int ada = 0; ada < 2; ada++) {
                int state = !ada;
                check(&l, rows, state, packed, ada, 788, 0, 0);
                check(&l, rows, state, packed, ada, 532, 256, 7);
            }
            check(&l, rows, 0, packed, 0, 1, 0, 0);
            check(&l, rows, rows > 1, packed, 1, 117, 40, 100);
            check(&l, rows, 1, packed, 0, 1024 - rows, 0, 0);
        }
}

/* ---------------------------------------------------------------- time */

/* Reads memory on as many processors as it has blocks, for some ns. */
__global__ void __launch_bounds__(512, 1)
    reader(const uint4 *p, size_t n, unsigned long long ns, int *rounds, int pause)
{
    extern __shared__ unsigned room[];
    unsigned long long end = 0, now = 0;
    unsigned s = 0;
    size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x, step = (size_t)gridDim.x * blockDim.x;
    int round = 0;
    for (; now <= end; round++) {
        uint4 v[8];
#pragma unroll
        for (int j = 0; j < 8; j++, i = i + step < n ? i + step : i + step - n)
            v[j] = __ldcs(p + i);
#pragma unroll
        for (int j = 0; j < 8; j++)
            s ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
        if (!end)
            end = now + ns;
        if (pause)
            __nanosleep((unsigned)pause);
    }
    room[threadIdx.x] = s;
    if (threadIdx.x == 0)
        atomicAdd(rounds, round);
}

static void bench(int rows, int n_state, int packed, int valid)
{
    const int L = 18;
    struct buffers b = buffers_make();
    struct cu_sample s = { 0, valid, valid, 0 };
    std::vector<struct cu_row> hr(rows);
    for (int i = 0; i < rows; i++) {
        int n = n_state ? (i == rows - 1 ? 0 : i + 1) : i;
        hr[i] = { 0, valid + n, valid + n, 0 };
    }
    struct layer l = layer_make(100);
    const size_t layer = (size_t)1056 * 32768;
    bf16 *w = make16(layer / 2 * L, 5, 0.03f);
    struct early90 p = {};
    p.rows = rows, p.n_state = n_state, p.packed = packed, p.cache_rows = CACHE;
    p.norm1 = l.norm1, p.norm2 = l.norm2, p.suffix_rows = up(hr);
    p.sample = up(std::vector<struct cu_sample>(1, s)), p.cos_sin = l.cs;
    p.k = b.k, p.v = b.v, p.x = b.x, p.q = b.q, p.o = b.o, p.h = b.h, p.scale = 1.f / 16;
    buffers_fill(&b, &s, rows, 31);
    CK(cudaMemset(b.x, 0, 57 * 4096));
    auto run = [&]() {
        for (int i = 0; i < L; i++) {
            uint8_t *at = (uint8_t *)w + i * layer;
            p.wqkv = at, p.wo = at + 2560 * 2048, p.wgu = at + 2560 * 2048 + 4194304;
            p.wdown = at + 2560 * 2048 + 4194304 + 16777216;
            CK(launch(&p));
        }
    };
    cudaGraph_t g;
    cudaGraphExec_t ge;
    CK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    run();
    CK(cudaStreamEndCapture(stream, &g));
    CK(cudaGraphInstantiate(&ge, g, 0));
    cudaEvent_t e[2];
    CK(cudaEventCreate(&e[0]));
    CK(cudaEventCreate(&e[1]));
    auto time = [&]() {
        std::vector<float> t;
        for (int i = 0; i < 6; i++) {
            CK(cudaEventRecord(e[0], stream));
            CK(cudaGraphLaunch(ge, stream));
            CK(cudaEventRecord(e[1], stream));
            CK(cudaEventSynchronize(e[1]));
            float ms;
            CK(cudaEventElapsedTime(&ms, e[0], e[1]));
            t.push_back(ms * 1000 / L);
        }
        std::sort(t.begin(), t.end());
        return t[2];
    };
    printf("rows %d, packed %d, %d keys: alone %.1f µs a layer", rows, packed, valid + rows,
           time());
    fflush(stdout);
    int *rounds = get<int>(1);
    cudaStream_t side;
    CK(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
    CK(cudaFuncSetAttribute(reader, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 << 10));
    for (int pause : { 4000, 1500, 0 }) {
        const unsigned long long ns = 60000000;
        CK(cudaMemset(rounds, 0, 4));
        CK(cudaDeviceSynchronize());
        reader<<<128, 512, 200 << 10, side>>>((const uint4 *)w, layer / 16 * L, ns, rounds, pause);
        CK(cudaGetLastError());
        float t = time();
        CK(cudaStreamSynchronize(side));
        printf(", beside %.1f TB/s %.1f", down(rounds, 1)[0] * 512. * 128 / (ns * 1e3), t);
    }
    printf("\n");
    CK(cudaGraphExecDestroy(ge));
    CK(cudaGraphDestroy(g));
    CK(cudaFree(w));
}

int main(int argc, char **argv)
{
    cudaDeviceProp p;
    if (no_hopper(&p))
        return 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    CK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CK(early90_prepare());
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        bench(11, 1, 1, 532);
        bench(11, 1, 1, 788);
        bench(10, 0, 1, 968);
        bench(16, 0, 1, 788);
        bench(11, 1, 0, 788);
        bench(51, 1, 0, 799);
        bench(50, 0, 0, 968);
        return 0;
    }
    check_all();
    printf("%d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed != 0;
}
