/* SPDX-License-Identifier: Apache-2.0
 * denoise_sm90_pack: what the denoising loop reads is made here: weights in A order (once), the
 * tables W·shift of adaRMS (once a step count), and before each loop the prefix keys and values as
 * tiles, the RoPE table and the empty exchange buffers. The loop is in denoise_sm90.cu. */
#include "backend/cuda/kernels/denoise_sm90.cuh"

namespace dn90
{
struct rows {
    const uint16_t *q, *k, *v, *o, *gate, *up, *down;
    int64_t gu_stride;
    int gu_group;
};

__device__ __forceinline__ const uint16_t *source_row(const struct rows &s, int kind, int tile,
                                                      int row)
{
    if (kind == 0) {
        int m = tile < 128 ? 0 : tile < 144 ? 1 : 2, h = tile < 128 ? tile / 16 : 0;
        int i = tile % 16 * 8 + row % 8 + (row < 8 ? 0 : 128);
        return (m == 0 ? s.q : m == 1 ? s.k : s.v) + ((size_t)h * E + i) * W;
    }
    if (kind == 1)
        return s.o + (size_t)(tile * 16 + row) * QD;
    if (kind == 2) {
        int u = tile * 8 + row % 8;
        int64_t r = s.gu_group ? (int64_t)(u / s.gu_group) * 2 * s.gu_group + u % s.gu_group : u;
        return (row < 8 ? s.gate : s.up) + r * s.gu_stride;
    }
    return s.down + (size_t)(tile * 16 + row) * F;
}

/* One thread a lane's 16 bytes. dst: the layer's units. */
__global__ void pack_layer_kernel(struct rows s, uint4 *dst)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (size_t)U_LAYER * (UNIT / 16))
        return;
    int unit = (int)(i / (UNIT / 16)), in = (int)(i % (UNIT / 16));
    int kind = unit < U_QKV ? 0 : unit < U_QKV + U_O ? 1 : unit < U_QKV + U_O + U_GU ? 2 : 3;
    int u = unit - (kind == 0   ? 0
                    : kind == 1 ? U_QKV
                    : kind == 2 ? U_QKV + U_O
                                : U_QKV + U_O + U_GU);
    int per = kind == 1 ? 2 : kind == 3 ? 4 : 1; /* units a tile */
    int lane = in % 32, j = in / 32 % 2, kb = in / 64 + u % per * 32, g = lane / 4, t = lane % 4;
    uint32_t r[4];
#pragma unroll
    for (int a = 0; a < 4; a++)
        r[a] = *(const uint32_t *)(source_row(s, kind, u / per, g + 8 * (a & 1)) + kb * 32 + t * 8 +
                                   j * 4 + (a & 2));
    dst[i] = make_uint4(r[0], r[1], r[2], r[3]);
}

__device__ __forceinline__ uint16_t split_bf16(float v, int lo)
{
    bf16 hi = __float2bfloat16(v);
    if (lo)
        hi = __float2bfloat16(v - __bfloat162float(hi));
    return __bfloat16_as_ushort(hi);
}

/* U_OUT units: (tile, high or low). U_MLP units: (tile, half of k): a warp's four blocks of 32 k are
 * high, high, low, low of the same two. */
__global__ void pack_heads_kernel(const float *out_w, const float *mlp_w, uint16_t *dst,
                                  int n_units)
{
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (size_t)n_units * (UNIT / 16))
        return;
    int unit = (int)(i / (UNIT / 16)), in = (int)(i % (UNIT / 16));
    int lane = in % 32, j = in / 32 % 2, kb = in / 64, g = lane / 4, t = lane % 4, lo;
    const float *w;
    int row0;
    if (unit < U_OUT) {
        lo = unit % 2, row0 = unit / 2 * 16, w = out_w;
    } else {
        int u = unit - U_OUT;
        lo = kb % 4 >= 2, row0 = u / 2 * 16, w = mlp_w;
        kb = u % 2 * 16 + kb / 4 * 2 + kb % 2;
    }
    for (int a = 0; a < 8; a++) {
        int row = row0 + g + 8 * (a / 2 & 1), k = kb * 32 + t * 8 + j * 4 + (a / 2 & 2) + a % 2;
        dst[i * 8 + a] = split_bf16(w[(size_t)row * W + k], lo);
    }
}

/* W · shift for the rows of qkv (kind 0) and gate·up (kind 1), from packed weights. Block: a tile;
 * warp w: its 128 k. out: f32 [n_steps][L][2560 + 8192], rows in tile order. */
__global__ void __launch_bounds__(256)
    shift_kernel(const uint4 *weights, const float *mod, float *out, int n_steps, int n_layers)
{
    int tile = blockIdx.x, layer = blockIdx.y, kind = tile >= U_QKV;
    int unit = kind ? tile + U_O : tile;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    __shared__ float part[8][16];
    const uint4 *w = weights + ((size_t)layer * U_LAYER + unit) * (UNIT / 16) + warp * 256 + lane;
    uint4 a[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        a[i] = w[i * 32];
    for (int s = 0; s < n_steps; s++) {
        const float *sh = mod + (((size_t)s * (2 * n_layers + 1) + layer * 2 + kind) * 3 + 1) * W +
                          warp * 128 + t * 8;
        float lo = 0.f, hi = 0.f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const float *p = sh + i / 2 * 32 + i % 2 * 4;
            const uint32_t r[4] = { a[i].x, a[i].y, a[i].z, a[i].w };
#pragma unroll
            for (int c = 0; c < 4; c++) {
                float2 f = __bfloat1622float2(*(const __nv_bfloat162 *)&r[c]);
                float v = f.x * p[c & 2] + f.y * p[(c & 2) + 1];
                if (c & 1)
                    hi += v;
                else
                    lo += v;
            }
        }
        for (int o = 1; o < 4; o *= 2)
            lo += __shfl_xor_sync(~0u, lo, o), hi += __shfl_xor_sync(~0u, hi, o);
        if (t == 0)
            part[warp][g] = lo, part[warp][g + 8] = hi;
        __syncthreads();
        if (threadIdx.x < 16) {
            float v = 0.f;
            for (int i = 0; i < 8; i++)
                v += part[i][threadIdx.x];
            out[((size_t)s * n_layers + layer) * ((U_QKV + U_GU) * 16) + tile * 16 + threadIdx.x] =
                v;
        }
        __syncthreads();
    }
}

/* out: f32 [n_steps][A] = action_out · shift of the final norm + bias. One warp an output. */
__global__ void shift_out_kernel(const float *mod, const float *out_w, const float *out_b,
                                 float *out, int n_layers)
{
    int a = threadIdx.x / 32, lane = threadIdx.x % 32, s = blockIdx.x;
    const float *sh = mod + (((size_t)s * (2 * n_layers + 1) + 2 * n_layers) * 3 + 1) * W;
    float v = 0.f;
    for (int k = lane; k < W; k += 32)
        v = fmaf(out_w[(size_t)a * W + k], sh[k], v);
    for (int o = 16; o; o /= 2)
        v += __shfl_xor_sync(~0u, v, o);
    if (lane == 0)
        out[s * A + a] = v + out_b[a];
}

struct source {
    const uint16_t *k, *v;
    int64_t layer_stride;
    const int32_t *n_valid, *n_rows;
    int n_state, first_layer;
};

/* Blocks [0, L·64): a key tile each; the rest: exchange buffers and RoPE. */
__global__ void __launch_bounds__(256)
    setup_kernel(struct source s, uint8_t *base, struct ws w, int n_layers, int n_tokens)
{
    int tid = threadIdx.x, valid = *s.n_valid, n_state = s.n_state, n_eff = valid + n_state;
    if ((int)blockIdx.x >= n_layers * MAX_TILES) {
        int b = blockIdx.x - n_layers * MAX_TILES, nb = gridDim.x - n_layers * MAX_TILES;
        for (size_t i = (size_t)b * 256 + tid; i < w.poison / 16; i += (size_t)nb * 256)
            ((uint4 *)base)[i] = make_uint4(~0u, ~0u, ~0u, ~0u);
        float2 *rope = (float2 *)(base + w.rope);
        for (int i = b * 256 + tid; i < (n_tokens + n_state) * 128; i += nb * 256) {
            /* frequency in double, rounded once (docs/model.md, RoPE) */
            float f = (float)exp(-2.0 * (i % 128) / 256.0 * 9.210340371976184 /* ln 10000 */);
            int pos = i / 128 < n_tokens ? n_eff + i / 128 : valid; /* the state's is the first */
            float ang = (float)pos * f, sn, cs;
            sincosf(ang, &sn, &cs);
            rope[i] = make_float2(cs, sn);
        }
        if (b == 0 && tid == 0) {
            *(int *)(base + w.neff) = n_eff;
            *(int *)(base + w.status) = 0;
        }
        return;
    }
    int layer = blockIdx.x / MAX_TILES, tile = blockIdx.x % MAX_TILES;
    if (tile * 16 >= n_eff)
        return;
    const uint16_t *kl = s.k + layer * s.layer_stride, *vl = s.v + layer * s.layer_stride;
    int state_row = n_state && layer < s.first_layer ? *s.n_rows : -1; /* key `valid`, if there */
    auto row_of = [&](int key) { return key < valid ? key : key == valid ? state_row : -1; };
    uint4 *dst = (uint4 *)(base + w.kv + (size_t)layer * KV_LAYER) + tile * 512;
    uint4 *dst_v = (uint4 *)(base + w.kv + (size_t)layer * KV_LAYER + KV_LAYER / 2) + tile * 32;
#pragma unroll
    for (int c = tid; c < 512; c += 256) { /* K: (block of 32 dims, j, lane) */
        int lane = c % 32, j = c / 32 % 2, kb = c / 64;
        uint32_t r[4];
#pragma unroll
        for (int a = 0; a < 4; a++) {
            int row = row_of(tile * 16 + lane / 4 * 2 + (a & 1));
            r[a] = row >= 0 ? *(const uint32_t *)(kl + (size_t)row * E + kb * 32 + lane % 4 * 8 +
                                                  j * 4 + (a & 2))
                            : 0;
        }
        dst[c] = make_uint4(r[0], r[1], r[2], r[3]);
    }
#pragma unroll
    for (int c = tid; c < 512; c += 256) { /* V^T: (tile of 16 dims, lane) */
        int lane = c % 32, dt = c / 32;
        uint32_t r[4];
#pragma unroll
        for (int a = 0; a < 4; a++) {
            int dim = dt * 16 + lane / 4 * 2 + (a & 1), key = tile * 16 + lane % 4 * 4 + (a & 2);
            int row0 = row_of(key), row1 = row_of(key + 1);
            uint32_t x0 = row0 >= 0 ? vl[(size_t)row0 * E + dim] : 0;
            uint32_t x1 = row1 >= 0 ? vl[(size_t)row1 * E + dim] : 0;
            r[a] = x0 | x1 << 16;
        }
        dst_v[dt * (MAX_TILES * 32) + lane] = make_uint4(r[0], r[1], r[2], r[3]);
    }
}

cudaError_t setup(const struct dn90_args *a, const struct ws *w, cudaStream_t stream)
{
    int L = a->shape.n_layers;
    struct source s = { a->k,      a->v,           a->layer_stride, a->n_valid,
                        a->n_rows, !a->shape.pi05, a->first_layer };
    setup_kernel<<<L * MAX_TILES + 128, 256, 0, stream>>>(s, (uint8_t *)a->workspace, *w, L,
                                                          a->shape.n_tokens);
    return cudaGetLastError();
}
} // namespace dn90

using namespace dn90;

extern "C" int dn90_supported(int arch, int n_sms, const struct dn90_shape *s, int batch)
{
    return arch == 90 && n_sms >= CTAS && batch == 1 && s->width == W && s->mlp == F &&
           s->heads == H && s->head_dim == E && s->action_dim == A && s->n_layers >= 1 &&
           s->n_tokens >= 1 && s->n_tokens + !s->pi05 <= T16 && s->max_keys <= MAX_TILES * 16;
}

extern "C" size_t dn90_weights_bytes(const struct dn90_shape *s)
{
    return ((size_t)s->n_layers * U_LAYER + U_OUT + (s->pi05 ? 0 : U_MLP)) * UNIT;
}

extern "C" const void *dn90_layer_weights(const void *weights, int layer)
{
    return (const uint8_t *)weights + (size_t)layer * U_LAYER * UNIT;
}

extern "C" const float *dn90_layer_shift(const void *shift, int layer)
{
    return (const float *)shift + (size_t)layer * (U_QKV + U_GU) * 16;
}

extern "C" cudaError_t dn90_pack_layer(const struct dn90_shape *s, void *weights, int layer,
                                       const struct dn90_layer *w, cudaStream_t stream)
{
    (void)s;
    struct rows r = { w->q, w->k, w->v, w->o, w->gate, w->up, w->down, w->gu_stride, w->gu_group };
    pack_layer_kernel<<<U_LAYER *(UNIT / 16) / 256, 256, 0, stream>>>(
        r, (uint4 *)((uint8_t *)weights + (size_t)layer * U_LAYER * UNIT));
    return cudaGetLastError();
}

extern "C" cudaError_t dn90_pack_heads(const struct dn90_shape *s, void *weights,
                                       const float *action_out, const float *mlp_out,
                                       cudaStream_t stream)
{
    int n = U_OUT + (s->pi05 ? 0 : U_MLP);
    pack_heads_kernel<<<n *(UNIT / 16) / 256, 256, 0, stream>>>(
        action_out, mlp_out,
        (uint16_t *)((uint8_t *)weights + (size_t)s->n_layers * U_LAYER * UNIT), n);
    return cudaGetLastError();
}

extern "C" size_t dn90_shift_bytes(const struct dn90_shape *s, int n_steps)
{
    return (size_t)n_steps * ((size_t)s->n_layers * (U_QKV + U_GU) * 16 + A) * 4;
}

extern "C" cudaError_t dn90_shift(const struct dn90_shape *s, void *shift, int n_steps,
                                  const void *weights, const float *mod, const float *action_out,
                                  const float *out_b, cudaStream_t stream)
{
    float *f = (float *)shift;
    shift_kernel<<<dim3(U_QKV + U_GU, s->n_layers), 256, 0, stream>>>((const uint4 *)weights, mod,
                                                                      f, n_steps, s->n_layers);
    shift_out_kernel<<<n_steps, 1024, 0, stream>>>(
        mod, action_out, out_b, f + (size_t)n_steps * s->n_layers * (U_QKV + U_GU) * 16,
        s->n_layers);
    return cudaGetLastError();
}

extern "C" size_t dn90_workspace_bytes(const struct dn90_shape *s)
{
    return ws_of(s->n_layers).total;
}

extern "C" const int32_t *dn90_status(const struct dn90_shape *s, const void *workspace)
{
    return (const int32_t *)((const uint8_t *)workspace + ws_of(s->n_layers).status);
}
