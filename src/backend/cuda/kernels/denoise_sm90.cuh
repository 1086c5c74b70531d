/* SPDX-License-Identifier: Apache-2.0
 * denoise_sm90: layouts shared by the loop (denoise_sm90.cu) and by what prepares its data
 * (denoise_sm90_pack.cu), and the order of the weights that early_sm90.cu reads too.
 *
 * Every product is out^T[rows × tokens] = W[rows × K] · act^T[K × tokens] by mma.m16n8k16: weights
 * are the A operand, tokens are N. In a lane, g = lane / 4 and t = lane % 4.
 *
 * A order (weights, K and V tiles): a tile is 16 rows. Element (row r, k) of a tile is at
 *     k/32 · 512 + (k%8)/4 · 256 + lane · 8 + reg · 2 + k%2,
 *     lane = (r%8) · 4 + (k%32)/8,  reg = r/8 + (k & 2):
 * a lane's 16 bytes are the four A registers of one k16 step whose k are, for lane t, 32·kb + 8t +
 * 4j + {0, 1 | 2, 3}, j = 0, 1. B registers of the two steps are then 8 neighbours of one token.
 * B order (activations): element (token, k) is at ((k/32)·N8 + token/8)·256 + lane·8 + k%8 with
 *     lane = (token%8)·4 + (k%32)/8: 16 bytes of a lane feed two k16 steps.
 * A unit of weights is 16 rows × 1024 k in A order, 32 KB; warp w of 8 takes k 128w … +127, 4 KB.
 * Row pairs r, r+8 of a tile: q, k, v: head dims i, i+128 (RoPE pairs); gate·up: gate, up of a unit;
 * keys 2r, 2r+1 of a K tile, dims 2r, 2r+1 of a V^T tile, so that a lane's results are neighbours.
 * V^T tile of 16 keys: A order of one k16 step, rows = dims: 16 dim tiles of 512 bytes, lane's keys
 *     4t … 4t+3.
 * sc, for two tiles of 16 keys: [token][t][tile] weights of keys 4t … +3 as bf16, then [token % 8]
 * [token / 8][tile] what they are relative to. */
#ifndef PI0_CUDA_DENOISE_SM90_CUH
#define PI0_CUDA_DENOISE_SM90_CUH

#include "backend/cuda/kernels/denoise_sm90.h"
#include "backend/cuda/kernels/ptx_sm90.cuh"

namespace dn90
{
typedef __nv_bfloat16 bf16;

constexpr int W = 1024, E = 256, H = 8, QD = 2048, F = 4096, A = 32;
constexpr int CTAS = 128, SPLITS = 16;    /* CTAs of the loop; key splits of a head */
constexpr int N8 = 2, T16 = N8 * 8;       /* tiles of 8 tokens; tokens with padding */
constexpr int UNIT = 32768, SLOT = 16384; /* bytes */
constexpr int U_QKV = 160, U_O = 128, U_GU = 512, U_D = 256;
constexpr int U_LAYER = U_QKV + U_O + U_GU + U_D;
constexpr int U_OUT = 4, U_MLP = 128;         /* heads; their weights are two bf16 each */
constexpr int MAX_TILES = 64;                 /* of 16 keys */
constexpr int KV_TILE = 16384;                /* K 8 KB, V^T 8 KB */
constexpr int KV_LAYER = MAX_TILES * KV_TILE; /* K [tile][8 KB], then V^T [dim tile][tile][512] */
constexpr int SC_PAIRS = MAX_TILES / 2 + 1, SC_PAIR = T16 * 72; /* the suffix tile is one more */

/* Workspace, byte offsets. [0, poison) is exchanged between CTAs and holds 0xff when empty. What a
 * layer exchanges is there twice, SET bytes apart: layers take turns. */
struct ws {
    size_t x1, x2, q, ob, hb, ks, sc, ssq1, ssq2, xf, ub, ssqf, poison, rope, kv, neff, status,
        total;
};
constexpr int SET =
    T16 * (2 * W + 2 * QD + F) * 2 + KV_TILE + H * SC_PAIRS * SC_PAIR + 2 * CTAS * T16 * 4;
inline struct ws ws_of(int n_layers)
{
    struct ws w;
    size_t o = 0;
    w.x1 = o, o += (size_t)T16 * W * 2;
    w.x2 = o, o += (size_t)T16 * W * 2;
    w.q = o, o += (size_t)T16 * QD * 2;
    w.ob = o, o += (size_t)T16 * QD * 2;
    w.hb = o, o += (size_t)T16 * F * 2;
    w.ks = o, o += KV_TILE;
    w.sc = o, o += (size_t)H * SC_PAIRS * SC_PAIR;
    w.ssq1 = o, o += (size_t)CTAS * T16 * 4;
    w.ssq2 = o, o += (size_t)CTAS * T16 * 4;
    o += SET;
    w.xf = o, o += (size_t)T16 * W * 2;
    w.ub = o, o += (size_t)T16 * W * 2;
    w.ssqf = o, o += (size_t)CTAS * T16 * 4;
    w.poison = o;
    w.rope = o, o += (size_t)T16 * 128 * 8;
    w.kv = o, o += (size_t)n_layers * MAX_TILES * KV_TILE;
    w.neff = o, o += 256;
    w.status = o, o += 256;
    w.total = o;
    return w;
}

/* B order, in elements */
__device__ __forceinline__ int b_off(int k, int tok)
{
    return ((k >> 5) * N8 + (tok >> 3)) * 256 + ((tok & 7) * 4 + ((k >> 3) & 3)) * 8 + (k & 7);
}
/* K tile (rows = keys, k = dims) and V^T tile (rows = dims, k = keys), in elements of a tile */
__device__ __forceinline__ int k_off(int dim, int key)
{
    return (dim >> 5) * 512 + ((dim & 7) >> 2) * 256 + ((key >> 1) * 4 + ((dim >> 3) & 3)) * 8 +
           ((key & 1) + (dim & 2)) * 2 + (dim & 1);
}
__device__ __forceinline__ int v_off(int dim, int key)
{
    return ((dim >> 1 & 7) * 4 + (key >> 2)) * 8 + ((dim & 1) + (key & 2)) * 2 + (key & 1);
}

__device__ __forceinline__ uint32_t pack2(float lo, float hi)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    return *(uint32_t *)&v;
}
/* 0.5 z (1 + tanh(sqrt(2/π)(z + 0.044715 z³))) */
__device__ __forceinline__ float gelu(float z)
{
    float u = 0.7978845608f * (z + 0.044715f * z * z * z);
    return __fdividef(z, 1.f + exp2_approx(-2.885390082f * u));
}

/* Before the loop, in its stream: empties the exchange buffers, packs the prefix keys without the
 * hole, fills the RoPE table. */
cudaError_t setup(const struct dn90_args *a, const struct ws *w, cudaStream_t stream);
} // namespace dn90
#endif
