/* SPDX-License-Identifier: Apache-2.0
 * attn_sm80: flash attention with mma.sync m16n8k16, for every GPU since compute capability 8.0.
 * One kernel, three row layouts:
 *   vision   rows = tokens of one head of one image (256 × 16 heads, E = 72), keys: the same image
 *   prefix   rows = tokens × heads of a sample (all heads share K and V, E = 256), keys: its prefix
 *   suffix   rows = (actions [+ state]) × heads, keys: prefix and suffix, cut into n_splits pieces
 *            whose partial results a second kernel adds up in fixed order
 *
 * Tiling: a block owns 64 rows: 4 row warps × 2 key halves, so 8 warps; a key tile is BN keys, of
 * which a warp takes BN/2. Q and two stages of K and V lie in shared memory; the two halves are
 * merged once at the end, always in the same order. Softmax in base 2 and float32, P in bf16.
 *
 *   shared memory:  Q [64][E]  |  K0 V0 K1 V1, each [BN][E]       (rows of 16-byte chunks: an odd
 *   number of them, or a multiple of 8 swizzled by row: eight rows of a chunk hit all banks)
 *
 * E is padded to a multiple of 16 with zeros on the way in. */
#include "backend/cuda/kernels/kernels.h"
#include "backend/cuda/kernels/ptx_sm80.cuh"

#define ATTN_BM 64
#define ATTN_THREADS 256

template <int E, int BN> struct tile_of {
    static constexpr int KS = (E + 15) / 16; /* k-steps of Q·K */
    static constexpr int NT = (E + 7) / 8;   /* n-tiles of P·V */
    static constexpr int CH = KS * 2;        /* chunks of a row */
    static constexpr bool SWIZZLE = CH % 8 == 0;
    static constexpr int LD = SWIZZLE ? CH : (CH | 1); /* chunks between rows */
    static constexpr int Q_BYTES = ATTN_BM * LD * 16;
    static constexpr int KV_BYTES = BN * LD * 16;
    static constexpr int BYTES = Q_BYTES + 4 * KV_BYTES;
    __device__ static __forceinline__ uint32_t at(int row, int chunk)
    {
        return (uint32_t)(row * LD + (SWIZZLE ? chunk ^ (row & 7) : chunk)) * 16u;
    }
};

/* Row r of the block's rows → its row of q and o, and head. */
struct rows_of {
    int n_rows;      /* logical rows of this block's sample or image */
    int heads, head; /* heads in the rows (1 for vision) and first head */
    int base;        /* matrix row of token 0 */
    int horizon, state_row;
};

template <int MODE>
__device__ __forceinline__ void row_of(const rows_of &m, int r, int &row, int &h)
{
    int t = MODE == CU_ATTN_VISION ? r : r / m.heads;
    h = MODE == CU_ATTN_VISION ? m.head : r - t * m.heads;
    row = m.base + t;
    if (MODE == CU_ATTN_SUFFIX && t >= m.horizon)
        row = m.state_row;
}

/* Copies a tile of `rows` K or V rows starting at key j0; rows from n on become zeros. */
template <int E, int BN>
__device__ __forceinline__ void load_keys(uint32_t dst, const uint16_t *src, int ld, int j0, int n)
{
    using T = tile_of<E, BN>;
    for (int i = threadIdx.x; i < BN * T::CH; i += ATTN_THREADS) {
        int r = i / T::CH, c = i % T::CH;
        bool in = j0 + r < n && c * 8 < E;
        cp_async16(dst + T::at(r, c), in ? src + (size_t)(j0 + r) * ld + c * 8 : src, in ? 16 : 0);
    }
}

template <int E, int BN, int MODE>
__global__ void __launch_bounds__(ATTN_THREADS, 1) attn_kernel(struct cu_attn a)
{
    using T = tile_of<E, BN>;
    constexpr int WK = BN / 2, NS = WK / 8; /* keys and n-tiles of a warp */
    extern __shared__ __align__(128) unsigned char smem[];
    uint32_t sq = smem_u32(smem), skv = sq + T::Q_BYTES;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, wr = warp % 4, half = warp / 4;
    int z = blockIdx.z, r0 = blockIdx.x * ATTN_BM;

    rows_of m;
    const uint16_t *k = a.k, *v = a.v;
    int n_keys, hole0, hole1; /* keys [hole0, hole1) are masked */
    if (MODE == CU_ATTN_VISION) {
        m = { a.tokens, 1, (int)blockIdx.y, z * a.tokens, 0, 0 };
        k += (size_t)z * a.tokens * a.ldk + blockIdx.y * E;
        v += (size_t)z * a.tokens * a.ldk + blockIdx.y * E;
        n_keys = a.tokens, hole0 = hole1 = 0;
    } else {
        struct cu_sample sm = a.samples[z];
        k += (size_t)z * a.max_keys * E;
        v += (size_t)z * a.max_keys * E;
        if (MODE == CU_ATTN_PREFIX) {
            m = { sm.n_rows * a.heads, a.heads, 0, sm.row0, 0, 0 };
            n_keys = sm.n_rows;
        } else {
            m = { (a.horizon + a.query_state) * a.heads,
                  a.heads,
                  0,
                  z * a.horizon,
                  a.horizon,
                  a.n * a.horizon + z };
            n_keys = sm.n_rows + a.n_state + a.horizon;
        }
        hole0 = sm.n_valid, hole1 = sm.n_rows;
    }
    if (r0 >= m.n_rows)
        return;
    int state_from = MODE == CU_ATTN_SUFFIX ? a.horizon * a.heads : 1 << 30; /* rows of the state */

    int n_tiles = (n_keys + BN - 1) / BN, t0 = 0, t1 = n_tiles;
    if (MODE == CU_ATTN_SUFFIX) {
        int per = (n_tiles + a.n_splits - 1) / a.n_splits;
        t0 = min((int)blockIdx.y * per, n_tiles), t1 = min(t0 + per, n_tiles);
    }

    for (int i = threadIdx.x; i < ATTN_BM * T::CH; i += ATTN_THREADS) {
        int r = i / T::CH, c = i % T::CH, row, h;
        row_of<MODE>(m, r0 + r, row, h);
        bool in = r0 + r < m.n_rows && c * 8 < E;
        cp_async16(sq + T::at(r, c), in ? a.q + (size_t)row * a.ldq + h * E + c * 8 : a.q,
                   in ? 16 : 0);
    }
    if (t0 < t1) {
        load_keys<E, BN>(skv, k, a.ldk, t0 * BN, n_keys);
        load_keys<E, BN>(skv + T::KV_BYTES, v, a.ldk, t0 * BN, n_keys);
    }
    cp_async_commit();

    float o[T::NT][4] = {};
    float mx[2] = { -INFINITY, -INFINITY }, sum[2] = { 0.f, 0.f };
    float scale = a.scale * 1.4426950408889634f;
    int ra = r0 + wr * 16 + lane / 4; /* this thread's rows: ra and ra + 8 */

    for (int t = t0; t < t1; t++) {
        uint32_t cur = skv + ((t - t0) & 1) * 2 * T::KV_BYTES;
        uint32_t nxt = skv + ((t - t0 + 1) & 1) * 2 * T::KV_BYTES;
        if (t + 1 < t1) {
            load_keys<E, BN>(nxt, k, a.ldk, (t + 1) * BN, n_keys);
            load_keys<E, BN>(nxt + T::KV_BYTES, v, a.ldk, (t + 1) * BN, n_keys);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();

        float s[NS][4] = {};
#pragma unroll
        for (int ks = 0; ks < T::KS; ks++) {
            uint32_t qa[4];
            ldmatrix_x4(qa, sq + T::at(wr * 16 + lane % 16, ks * 2 + lane / 16));
#pragma unroll
            for (int j = 0; j < NS; j += 2) {
                uint32_t kb[4]; /* keys j·8 … +15: two n-tiles × two k-halves */
                ldmatrix_x4(kb, cur + T::at(half * WK + j * 8 + lane % 8 + (lane / 16) * 8,
                                            ks * 2 + (lane / 8) % 2));
                mma_16816(s[j], qa, kb[0], kb[1]);
                mma_16816(s[j + 1], qa, kb[2], kb[3]);
            }
        }

        int key0 = t * BN + half * WK + (lane % 4) * 2;
        float top[2] = { mx[0], mx[1] };
#pragma unroll
        for (int j = 0; j < NS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = key0 + j * 8 + (e & 1), row = ra + (e >> 1) * 8;
                bool see = key < n_keys && !(key >= hole0 && key < hole1);
                if (MODE == CU_ATTN_SUFFIX && row >= state_from)
                    see = see && key < hole1 + 1; /* the state token: prefix and itself */
                s[j][e] = see ? s[j][e] * scale : -INFINITY;
                top[e >> 1] = fmaxf(top[e >> 1], s[j][e]);
            }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            top[i] = fmaxf(top[i], __shfl_xor_sync(0xFFFFFFFFu, top[i], 1));
            top[i] = fmaxf(top[i], __shfl_xor_sync(0xFFFFFFFFu, top[i], 2));
        }
        if (__any_sync(0xFFFFFFFFu, top[0] > mx[0] || top[1] > mx[1])) {
            float f[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                f[i] = top[i] == -INFINITY ? 1.f : exp2f(mx[i] - top[i]);
                mx[i] = top[i];
                sum[i] *= f[i];
            }
#pragma unroll
            for (int n = 0; n < T::NT; n++)
                o[n][0] *= f[0], o[n][1] *= f[0], o[n][2] *= f[1], o[n][3] *= f[1];
        }
        float base[2] = { mx[0] == -INFINITY ? 0.f : mx[0], mx[1] == -INFINITY ? 0.f : mx[1] };
#pragma unroll
        for (int j = 0; j < NS; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[j][e] = exp2f(s[j][e] - base[e >> 1]);
                sum[e >> 1] += s[j][e];
            }
#pragma unroll
        for (int kk = 0; kk < NS / 2; kk++) {
            uint32_t pa[4] = { pack_bf16(s[2 * kk][0], s[2 * kk][1]),
                               pack_bf16(s[2 * kk][2], s[2 * kk][3]),
                               pack_bf16(s[2 * kk + 1][0], s[2 * kk + 1][1]),
                               pack_bf16(s[2 * kk + 1][2], s[2 * kk + 1][3]) };
            uint32_t vrow = cur + T::KV_BYTES;
            int kr = half * WK + kk * 16 + lane % 16;
#pragma unroll
            for (int n = 0; n + 1 < T::NT; n += 2) {
                uint32_t vb[4];
                ldmatrix_x4_trans(vb, vrow + T::at(kr, n + lane / 16));
                mma_16816(o[n], pa, vb[0], vb[1]);
                mma_16816(o[n + 1], pa, vb[2], vb[3]);
            }
            if (T::NT % 2) {
                uint32_t b0, b1;
                ldmatrix_x2_trans(b0, b1, vrow + T::at(kr, T::NT - 1));
                mma_16816(o[T::NT - 1], pa, b0, b1);
            }
        }
        __syncthreads(); /* the stage is free for the copy after next */
    }
    cp_async_wait<0>();
    __syncthreads();

#pragma unroll
    for (int i = 0; i < 2; i++) {
        sum[i] += __shfl_xor_sync(0xFFFFFFFFu, sum[i], 1);
        sum[i] += __shfl_xor_sync(0xFFFFFFFFu, sum[i], 2);
    }
    /* Merge the two key halves: the second hands its max, sum and O over through shared memory
     * (K and V are dead: 4·BN·E bf16 hold 4 warps × 16 × E float32 and the statistics go where Q
     * was). */
    float *so = (float *)(smem + T::Q_BYTES) + (size_t)wr * 32 * T::NT * 4;
    float *sml = (float *)smem + (wr * 32 + lane) * 4;
    if (half == 1) {
        sml[0] = mx[0], sml[1] = mx[1], sml[2] = sum[0], sml[3] = sum[1];
#pragma unroll
        for (int n = 0; n < T::NT; n++)
            reinterpret_cast<float4 *>(so)[n * 32 + lane] =
                make_float4(o[n][0], o[n][1], o[n][2], o[n][3]);
    }
    __syncthreads();
    if (half == 1)
        return;
    float fa[2], fb[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float mb = sml[i], mm = fmaxf(mx[i], mb), ref = mm == -INFINITY ? 0.f : mm;
        fa[i] = exp2f(mx[i] - ref), fb[i] = exp2f(mb - ref);
        sum[i] = sum[i] * fa[i] + sml[2 + i] * fb[i];
        mx[i] = mm;
    }
    bool split = MODE == CU_ATTN_SUFFIX && a.n_splits > 1;
    if (!split) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float inv = sum[i] > 0.f ? 1.f / sum[i] : 0.f;
            fa[i] *= inv, fb[i] *= inv;
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int r = ra + i * 8;
        if (r >= m.n_rows)
            continue;
        int row, h;
        row_of<MODE>(m, r, row, h);
        size_t part = ((size_t)z * a.n_splits + blockIdx.y) * m.n_rows + r;
        if (split && lane % 4 == 0)
            reinterpret_cast<float2 *>(a.part_ml)[part] = make_float2(mx[i], sum[i]);
#pragma unroll
        for (int n = 0; n < T::NT; n++) {
            float4 b = reinterpret_cast<float4 *>(so)[n * 32 + lane];
            float lo = o[n][2 * i] * fa[i] + (i ? b.z : b.x) * fb[i];
            float hi = o[n][2 * i + 1] * fa[i] + (i ? b.w : b.y) * fb[i];
            int e = n * 8 + (lane % 4) * 2;
            if (split)
                *reinterpret_cast<float2 *>(a.part_o + part * E + e) = make_float2(lo, hi);
            else
                *reinterpret_cast<uint32_t *>(a.o + (size_t)row * a.heads * E + h * E + e) =
                    pack_bf16(lo, hi);
        }
    }
}

/* Adds the pieces of one row up, in order. One warp a row. */
template <int E> __global__ void __launch_bounds__(32) attn_combine_kernel(struct cu_attn a)
{
    rows_of m = {
        (a.horizon + a.query_state) * a.heads, a.heads,   0,
        (int)blockIdx.y * a.horizon,           a.horizon, a.n * a.horizon + (int)blockIdx.y
    };
    int r = blockIdx.x, lane = threadIdx.x, row, h;
    row_of<CU_ATTN_SUFFIX>(m, r, row, h);
    size_t p0 = (size_t)blockIdx.y * a.n_splits * m.n_rows + r;
    float top = -INFINITY;
    for (int s = lane; s < a.n_splits; s += 32)
        top = fmaxf(top, a.part_ml[2 * (p0 + (size_t)s * m.n_rows)]);
#pragma unroll
    for (int o = 16; o > 0; o >>= 1)
        top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, o));
    constexpr int NV = (E + 127) / 128;
    float4 acc[NV] = {};
    float total = 0.f;
#pragma unroll 4
    for (int s = 0; s < a.n_splits; s++) {
        size_t p = p0 + (size_t)s * m.n_rows;
        float2 ml = reinterpret_cast<const float2 *>(a.part_ml)[p];
        float f = exp2f(ml.x - top);
        total += ml.y * f;
#pragma unroll
        for (int j = 0; j < NV; j++) {
            int e = j * 128 + lane * 4;
            if (e < E) {
                float4 v = *reinterpret_cast<const float4 *>(a.part_o + p * E + e);
                acc[j].x += v.x * f, acc[j].y += v.y * f, acc[j].z += v.z * f, acc[j].w += v.w * f;
            }
        }
    }
    float inv = 1.f / total;
#pragma unroll
    for (int j = 0; j < NV; j++) {
        int e = j * 128 + lane * 4;
        if (e < E)
            *reinterpret_cast<uint2 *>(a.o + (size_t)row * a.heads * E + h * E + e) =
                make_uint2(pack_bf16(acc[j].x * inv, acc[j].y * inv),
                           pack_bf16(acc[j].z * inv, acc[j].w * inv));
    }
}

template <int E, int BN, int MODE>
static cudaError_t launch(const struct cu_attn *a, cudaStream_t s)
{
    using T = tile_of<E, BN>;
    int rows = MODE == CU_ATTN_SUFFIX   ? (a->horizon + a->query_state) * a->heads
               : MODE == CU_ATTN_PREFIX ? a->tokens * a->heads
                                        : a->tokens;
    dim3 grid((unsigned)((rows + ATTN_BM - 1) / ATTN_BM),
              MODE == CU_ATTN_VISION   ? (unsigned)a->heads
              : MODE == CU_ATTN_SUFFIX ? (unsigned)a->n_splits
                                       : 1u,
              (unsigned)a->n);
    attn_kernel<E, BN, MODE><<<grid, ATTN_THREADS, T::BYTES, s>>>(*a);
    if (MODE == CU_ATTN_SUFFIX && a->n_splits > 1)
        attn_combine_kernel<E><<<dim3((unsigned)rows, (unsigned)a->n), 32, 0, s>>>(*a);
    return cudaGetLastError();
}

template <int E, int BN, int MODE> static cudaError_t prepare()
{
    return cudaFuncSetAttribute(attn_kernel<E, BN, MODE>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, tile_of<E, BN>::BYTES);
}

extern "C" int cu_attn_mma_has(enum cu_attn_mode mode, int head_dim)
{
    return mode == CU_ATTN_VISION ? head_dim == 72 || head_dim == 24
                                  : head_dim == 256 || head_dim == 32;
}

extern "C" cudaError_t cu_attn_mma_prepare(int head_dim, int smem_limit)
{
    cudaError_t e = cudaSuccess;
    if (head_dim == 256) {
        if (tile_of<256, 64>::BYTES <= smem_limit) {
            e = prepare<256, 64, CU_ATTN_PREFIX>();
            return e ? e : prepare<256, 64, CU_ATTN_SUFFIX>();
        }
        e = prepare<256, 32, CU_ATTN_PREFIX>();
        return e ? e : prepare<256, 32, CU_ATTN_SUFFIX>();
    }
    if (head_dim == 72)
        return prepare<72, 64, CU_ATTN_VISION>();
    return e;
}

extern "C" cudaError_t cu_attn_mma(const struct cu_attn *a, cudaStream_t s)
{
    if (a->mode == CU_ATTN_VISION)
        return a->head_dim == 72   ? launch<72, 64, CU_ATTN_VISION>(a, s)
               : a->head_dim == 24 ? launch<24, 64, CU_ATTN_VISION>(a, s)
                                   : cudaErrorInvalidValue;
    if (a->head_dim == 32)
        return a->mode == CU_ATTN_PREFIX ? launch<32, 64, CU_ATTN_PREFIX>(a, s)
                                         : launch<32, 64, CU_ATTN_SUFFIX>(a, s);
    if (a->head_dim != 256)
        return cudaErrorInvalidValue;
    if (tile_of<256, 64>::BYTES <= a->smem_limit)
        return a->mode == CU_ATTN_PREFIX ? launch<256, 64, CU_ATTN_PREFIX>(a, s)
                                         : launch<256, 64, CU_ATTN_SUFFIX>(a, s);
    return a->mode == CU_ATTN_PREFIX ? launch<256, 32, CU_ATTN_PREFIX>(a, s)
                                     : launch<256, 32, CU_ATTN_SUFFIX>(a, s);
}

/* ---- any head size ---- */

/* One block of 128 threads a (row, head): logits in passes of 128 keys, online softmax. */
__global__ void __launch_bounds__(128) attn_any_kernel(struct cu_attn a)
{
    extern __shared__ float shared[]; /* q [E], o [E], p [128], red [4] */
    int E = a.head_dim, z = blockIdx.z, h = blockIdx.y, t = blockIdx.x, tid = threadIdx.x;
    float *qs = shared, *os = qs + E, *ps = os + E, *red = ps + 128;
    const __nv_bfloat16 *k = (const __nv_bfloat16 *)a.k, *v = (const __nv_bfloat16 *)a.v;
    int row, n_keys, hole0 = 0, hole1 = 0, last = 1 << 30;
    if (a.mode == CU_ATTN_VISION) {
        row = z * a.tokens + t, n_keys = a.tokens;
        k += (size_t)z * a.tokens * a.ldk + h * E, v += (size_t)z * a.tokens * a.ldk + h * E;
    } else {
        struct cu_sample sm = a.samples[z];
        k += (size_t)z * a.max_keys * a.ldk, v += (size_t)z * a.max_keys * a.ldk;
        hole0 = sm.n_valid, hole1 = sm.n_rows;
        if (a.mode == CU_ATTN_PREFIX) {
            if (t >= sm.n_rows)
                return;
            row = sm.row0 + t, n_keys = sm.n_rows;
        } else {
            row = t < a.horizon ? z * a.horizon + t : a.n * a.horizon + z;
            n_keys = sm.n_rows + a.n_state + a.horizon;
            last = t < a.horizon ? last : hole1 + 1;
        }
    }
    for (int e = tid; e < E; e += 128) {
        qs[e] = __bfloat162float(((const __nv_bfloat16 *)a.q)[(size_t)row * a.ldq + h * E + e]);
        os[e] = 0.f;
    }
    float top = -INFINITY, sum = 0.f;
    __syncthreads();
    for (int j0 = 0; j0 < n_keys; j0 += 128) {
        int j = j0 + tid;
        float s = -INFINITY;
        if (j < n_keys && j < last && !(j >= hole0 && j < hole1)) {
            s = 0.f;
            for (int e = 0; e < E; e++)
                s = fmaf(qs[e], __bfloat162float(k[(size_t)j * a.ldk + e]), s);
            s *= a.scale;
        }
        float mx = s;
#pragma unroll
        for (int o = 16; o > 0; o >>= 1)
            mx = fmaxf(mx, __shfl_xor_sync(0xFFFFFFFFu, mx, o));
        if (tid % 32 == 0)
            red[tid / 32] = mx;
        __syncthreads();
        mx = fmaxf(fmaxf(red[0], red[1]), fmaxf(red[2], red[3]));
        float next = fmaxf(top, mx), ref = next == -INFINITY ? 0.f : next;
        float f = expf(top - ref), p = expf(s - ref);
        top = next;
        ps[tid] = __bfloat162float(__float2bfloat16_rn(p));
        p = warp_sum(p);
        __syncthreads();
        if (tid % 32 == 0)
            red[tid / 32] = p;
        __syncthreads();
        sum = sum * f + (red[0] + red[1]) + (red[2] + red[3]);
        for (int e = tid; e < E; e += 128) {
            float acc = os[e] * f;
            for (int i = 0; i < 128 && j0 + i < n_keys; i++)
                acc = fmaf(ps[i], __bfloat162float(v[(size_t)(j0 + i) * a.ldk + e]), acc);
            os[e] = acc;
        }
        __syncthreads();
    }
    for (int e = tid; e < E; e += 128)
        ((__nv_bfloat16 *)a.o)[((size_t)row * a.heads + h) * E + e] =
            __float2bfloat16_rn(os[e] / sum);
}

extern "C" cudaError_t cu_attn_any(const struct cu_attn *a, cudaStream_t s)
{
    int rows = a->mode == CU_ATTN_SUFFIX ? a->horizon + a->query_state : a->tokens;
    attn_any_kernel<<<dim3((unsigned)rows, (unsigned)a->heads, (unsigned)a->n), 128,
                      sizeof(float) * (2 * (size_t)a->head_dim + 132), s>>>(*a);
    return cudaGetLastError();
}
