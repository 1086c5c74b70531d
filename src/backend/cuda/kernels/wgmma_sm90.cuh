/* SPDX-License-Identifier: Apache-2.0
 * wgmma_sm90: the raw Hopper instructions that the big products use: tensor-map copies, mbarriers,
 * clusters, wgmma. One instruction a function; no policy. PTX ISA 8.x, sections named at each. */
#ifndef PI0_CUDA_WGMMA_SM90_CUH
#define PI0_CUDA_WGMMA_SM90_CUH

#include <cuda.h>
#include <cuda_bf16.h>
#include <stdint.h>

namespace wg90
{

static __device__ __forceinline__ uint32_t smem_u32(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* mbarrier.init / .arrive.expect_tx / .try_wait.parity */
static __device__ __forceinline__ void mbar_init(uint64_t *bar, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_u32(bar)), "r"(count));
}

/* Barriers and copies by shared address; behind them the same by pointer. */
static __device__ __forceinline__ void mbar_expect(uint32_t bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void mbar_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

static __device__ __forceinline__ void mbar_wait(uint32_t bar, uint32_t parity)
{
    asm volatile("{\n.reg .pred p;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\n"
                 "bra again;\n"
                 "done:\n}\n" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

static __device__ __forceinline__ void mbar_expect(uint64_t *bar, uint32_t bytes)
{
    mbar_expect(smem_u32(bar), bytes);
}
static __device__ __forceinline__ void mbar_arrive(uint64_t *bar) { mbar_arrive(smem_u32(bar)); }
static __device__ __forceinline__ void mbar_wait(uint64_t *bar, uint32_t parity)
{
    mbar_wait(smem_u32(bar), parity);
}

/* Arrives at the barrier at the same offset in CTA `rank` of the cluster (mapa + mbarrier.arrive). It
 * says "these shared-memory reads are done" and publishes no data, so it must stay at the default
 * scope: .release.cluster becomes a fence to the whole GPU, a third of a microsecond each time. */
static __device__ __forceinline__ void mbar_arrive_cluster(uint64_t *bar, uint32_t rank)
{
    asm volatile("{\n.reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}\n" ::"r"(smem_u32(bar)),
                 "r"(rank)
                 : "memory");
}

static __device__ __forceinline__ void fence_mbar_init(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void fence_proxy_async(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* One lane of a whole warp. A branch on it is the form of "one thread" under which the compiler takes
 * operands of copies from uniform registers as they are. */
static __device__ __forceinline__ int elect_one(void)
{
    uint32_t yes;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(yes)::"memory");
    return (int)yes;
}

static __device__ __forceinline__ int warp_uniform(int v) { return __shfl_sync(~0u, v, 0); }

/* cp.async.bulk.tensor: box at (c0, c1) of a 2-D map into shared memory, bytes reported to bar. */
static __device__ __forceinline__ void tma_load_2d(uint32_t dst, const CUtensorMap *map,
                                                   uint32_t bar, int c0, int c1)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(c0), "r"(c1)
                 : "memory");
}
static __device__ __forceinline__ void tma_load_2d(void *dst, const CUtensorMap *map, uint64_t *bar,
                                                   int c0, int c1)
{
    tma_load_2d(smem_u32(dst), map, smem_u32(bar), c0, c1);
}

static __device__ __forceinline__ void tma_load_3d(uint32_t dst, const CUtensorMap *map,
                                                   uint32_t bar, int c0, int c1, int c2)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2)
                 : "memory");
}

/* The same into the same offset of every CTA in `mask`, each told at its own barrier. */
static __device__ __forceinline__ void tma_load_2d_multicast(uint32_t dst, const CUtensorMap *map,
                                                             uint32_t bar, int c0, int c1,
                                                             uint16_t mask)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(dst),
                 "l"(map), "r"(bar), "r"(c0), "r"(c1), "h"(mask)
                 : "memory");
}
static __device__ __forceinline__ void tma_load_2d_multicast(void *dst, const CUtensorMap *map,
                                                             uint64_t *bar, int c0, int c1,
                                                             uint16_t mask)
{
    tma_load_2d_multicast(smem_u32(dst), map, smem_u32(bar), c0, c1, mask);
}

/* What is copied with this leaves L2 before anything else: weights, used once a call. */
static __device__ __forceinline__ uint64_t policy_evict_first(void)
{
    uint64_t p;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(p));
    return p;
}

/* tma_load_2d_multicast with a policy. */
static __device__ __forceinline__ void tma_load_2d_multicast(uint32_t dst, const CUtensorMap *map,
                                                             uint32_t bar, int c0, int c1,
                                                             uint16_t mask, uint64_t policy)
{
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
        ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(dst),
        "l"(map), "r"(bar), "r"(c0), "r"(c1), "h"(mask), "l"(policy)
        : "memory");
}

static __device__ __forceinline__ void prefetch_tensormap(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

static __device__ __forceinline__ uint32_t cluster_ctarank(void)
{
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

static __device__ __forceinline__ void cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
}

/* For barriers alone: their initialisation has its own fence, and no other data is published. The
 * releasing form is a fence to the whole GPU. */
static __device__ __forceinline__ void cluster_sync_relaxed(void)
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\n"
                 "barrier.cluster.wait.aligned;" ::
                     : "memory");
}

/* mapa: the same place in the shared memory of CTA `rank` of the cluster. */
static __device__ __forceinline__ uint32_t mapa(uint32_t at, uint32_t rank)
{
    uint32_t r;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(at), "r"(rank));
    return r;
}

static __device__ __forceinline__ uint32_t mapa(const void *p, uint32_t rank)
{
    return mapa(smem_u32(p), rank);
}

/* 16 bytes to a peer's shared memory, counted by the peer's barrier; both addresses mapped (mapa). */
static __device__ __forceinline__ void st_async(uint32_t to, float a, float b, float c, float d,
                                                uint32_t bar)
{
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 "
                 "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
                 "f"(a), "f"(b), "f"(c), "f"(d), "r"(bar)
                 : "memory");
}

/* Waits for data that peers sent by st.async. */
static __device__ __forceinline__ void mbar_wait_cluster(uint64_t *bar, uint32_t parity)
{
    asm volatile("{\n.reg .pred p;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%0], %1;\n"
                 "@p bra done;\n"
                 "bra again;\n"
                 "done:\n}\n" ::"r"(smem_u32(bar)),
                 "r"(parity)
                 : "memory");
}

/* movmatrix: transposes an 8×8 tile of 16-bit values held one row of 8 by four lanes. */
static __device__ __forceinline__ uint32_t movmatrix(uint32_t a)
{
    uint32_t d;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(a));
    return d;
}

/* One try: has this phase ended? */
static __device__ __forceinline__ int mbar_try(uint64_t *bar, uint32_t parity)
{
    uint32_t ok;
    asm volatile("{\n.reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(ok)
                 : "r"(smem_u32(bar)), "r"(parity)
                 : "memory");
    return (int)ok;
}

/* griddepcontrol: programmatic dependent launch. */
static __device__ __forceinline__ void pdl_wait(void)
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

static __device__ __forceinline__ void pdl_launch(void)
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

template <int N> static __device__ __forceinline__ void setmaxnreg_inc(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> static __device__ __forceinline__ void setmaxnreg_dec(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

static __device__ __forceinline__ void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int N> static __device__ __forceinline__ void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* Matrix descriptor of a K-major tile whose rows are 128 bytes, 128-byte swizzle: atoms of 8 rows
 * (1024 bytes) follow each other. PTX ISA, "matrix descriptor format"; the leading offset is not
 * used by this layout. */
static __device__ __forceinline__ uint64_t desc_k128(const void *p)
{
    uint64_t a = smem_u32(p);
    return ((a & 0x3FFFF) >> 4) | ((uint64_t)1 << 16) | ((uint64_t)(1024 >> 4) << 32) |
           ((uint64_t)1 << 62);
}

/* Two float32 rounded to bf16, `lo` in the low half. */
static __device__ __forceinline__ uint32_t pack_bf16(float lo, float hi)
{
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo));
    return d;
}

static __device__ __forceinline__ float ex2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

static __device__ __forceinline__ float rcp(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* stmatrix.trans: fragments held one row of 8 by four lanes go out column by column. Lane l gives the
 * address of row l % 8 of matrix l / 8. */
static __device__ __forceinline__ void stmatrix4_trans(uint32_t at, uint32_t a, uint32_t b,
                                                       uint32_t c, uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at),
                 "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}
static __device__ __forceinline__ void stmatrix2_trans(uint32_t at, uint32_t a, uint32_t b)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(at), "r"(a),
                 "r"(b)
                 : "memory");
}

/* Without a branch: one would stand between products. */
static __device__ __forceinline__ void store_u32_if(int yes, void *p, uint32_t v)
{
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %0, 0;\n"
                 "@p st.global.b32 [%1], %2;\n}" ::"r"(yes),
                 "l"(p), "r"(v)
                 : "memory");
}

static __device__ __forceinline__ void bar_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Shared memory → box at (c0, c1), a group of its own; what lies outside the tensor is left out. */
static __device__ __forceinline__ void tma_store_2d(const CUtensorMap *map, const void *src, int c0,
                                                    int c1)
{
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];\n"
                 "cp.async.bulk.commit_group;" ::"l"(map),
                 "r"(smem_u32(src)), "r"(c0), "r"(c1)
                 : "memory");
}
/* This thread's stores have read their source; are done. */
static __device__ __forceinline__ void bulk_wait_read(void)
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}
static __device__ __forceinline__ void bulk_wait(void)
{
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

#include "wgmma_sm90.inc"

/* d = 64 rows of weights · T tokens, a warpgroup: rows 64q … of the W_BYTES of weights that begin a stage of
 * the ring, tokens behind them; n blocks of 64 columns of K, rows of 128 bytes swizzled. release(i): stage
 * i has been read, and somebody waits for it. */
template <int T, int STAGES, int STAGE_BYTES, int W_BYTES, class F>
static __device__ __forceinline__ void ring_product(float (&d)[T / 2], unsigned char *ring,
                                                    uint64_t *full, int q, int n, F release)
{
    int stage = 0, last = 0;
    uint32_t phase = 0;
    for (int k = 0; k < n; k++) {
        mbar_wait(&full[stage], phase);
        unsigned char *s = ring + stage * STAGE_BYTES;
        uint64_t a = desc_k128(s + q * 64 * 128), b = desc_k128(s + W_BYTES);
        wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < 4; kk++) /* 32 bytes a step inside the swizzle row */
            mma<T>(d, a + 2 * kk, b + 2 * kk, k | kk);
        wgmma_commit();
        wgmma_wait<1>(); /* the stage before this one has been read */
        if (k > 0 && k - 1 + STAGES < n)
            release(last);
        last = stage;
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
    wgmma_wait<0>();
}

} // namespace wg90

#endif
