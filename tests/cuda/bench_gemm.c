/* SPDX-License-Identifier: Apache-2.0
 * bench_gemm: every candidate that cuBLASLt offers for each product of the model, timed in a graph
 * whose launches take their weights from different places in memory, so that nothing is warm in L2
 * that would not be in a call. What select.c's table of picks is made from.
 *   bench_gemm [ROWS…]            rows of the prefix to time (default 532 788 800 968)
 *   bench_gemm --vision ROWS…     rows of the vision tower, batches: fc1 as it is and with padded rows */
#include "backend/cuda/device.h"
#include "backend/cuda/kernels/gemm_lt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POOL ((size_t)1 << 30)
#define IN ((size_t)1 << 29) /* x and y of the largest product */
#define OUT ((size_t)1 << 29)

static struct device dev;
static struct gemm_lt *lt;
static unsigned char *pool, *x, *y;

#define CK(call)                                               \
    do {                                                       \
        cudaError_t e_ = (call);                               \
        if (e_) {                                              \
            printf("%s: %s\n", #call, cudaGetErrorString(e_)); \
            exit(1);                                           \
        }                                                      \
    } while (0)

/* Microseconds of one product; < 0: the candidate does not run. */
static double time_one(struct cu_gemm *a)
{
    size_t bytes = (size_t)a->n * (size_t)a->ldw * (a->type == CU_GEMM_F32 ? 4 : 2);
    size_t places = POOL / bytes, reps = places < 24 ? 24 : 48;
    cudaGraph_t g;
    cudaGraphExec_t ge;
    a->x = x, a->y = y, a->w = pool;
    if (a->bias)
        a->bias = pool;
    if (gemm_lt_run(lt, a, dev.stream, NULL))
        return -1;
    CK(cudaStreamBeginCapture(dev.stream, cudaStreamCaptureModeRelaxed));
    for (size_t i = 0; i < reps; i++) {
        a->w = pool + i % places * bytes;
        (void)gemm_lt_run(lt, a, dev.stream, NULL);
    }
    CK(cudaStreamEndCapture(dev.stream, &g));
    CK(cudaGraphInstantiate(&ge, g, 0));
    cudaEvent_t t0, t1;
    CK(cudaEventCreate(&t0));
    CK(cudaEventCreate(&t1));
    float best = 1e30f;
    for (int i = 0; i < 5; i++) {
        float ms;
        CK(cudaEventRecord(t0, dev.stream));
        CK(cudaGraphLaunch(ge, dev.stream));
        CK(cudaEventRecord(t1, dev.stream));
        CK(cudaEventSynchronize(t1));
        CK(cudaEventElapsedTime(&ms, t0, t1));
        best = i > 0 && ms < best ? ms : best;
    }
    CK(cudaGraphExecDestroy(ge));
    CK(cudaGraphDestroy(g));
    CK(cudaEventDestroy(t0));
    CK(cudaEventDestroy(t1));
    return (double)best * 1e3 / (double)reps;
}

static int parts;    /* of the next product */
static int ldx, ldy; /* of the next products, if not 0 */
static void product(const char *name, enum cu_gemm_type type, int m, int n, int k, int bias,
                    float beta, enum cu_act act)
{
    struct cu_gemm a = { .type = type,
                         .m = m,
                         .n = n,
                         .k = parts ? k / parts : k,
                         .bias = bias ? pool : NULL,
                         .alpha = 1.0f,
                         .beta = beta,
                         .act = act,
                         .ldx = ldx ? ldx : k,
                         .ldw = k,
                         .ldy = ldy,
                         .batch = parts,
                         .step_x = parts ? k / parts : 0,
                         .step_w = parts ? k / parts : 0,
                         .step_y = (int64_t)m * n };
    int found = gemm_lt_candidates(lt, &a), best = 0;
    double us[GEMM_LT_CANDIDATES] = { 0 };
    for (int i = 0; i < found; i++) {
        a.pick = i;
        us[i] = time_one(&a);
        if (us[i] > 0 && us[i] < us[best])
            best = i;
    }
    printf(
        "GEMM %-14s parts %d type %d %5d x %5d x %5d best %d (%.2f us, %.0f TFLOP/s, first %.2f):",
        name, parts, (int)type, m, n, k, best, us[best], 2e-6 * m * n * k / us[best], us[0]);
    for (int i = 0; i < found; i++)
        printf(" %.2f", us[i]);
    printf("\n");
    fflush(stdout);
}

static void prefix(int m)
{
    product("prefix qkv", CU_GEMM_BF16_F32, m, 2560, 2048, 0, 0.0f, CU_ACT_NONE);
    product("prefix o", CU_GEMM_BF16_F32, m, 2048, 2048, 0, 1.0f, CU_ACT_NONE);
    if ((size_t)m * 32768 * 2 > OUT) /* the engine takes an MLP of so many rows in pieces */
        return;
    product("prefix gate-up", CU_GEMM_BF16_BF16, m, 32768, 2048, 0, 0.0f, CU_ACT_NONE);
    product("prefix down", CU_GEMM_BF16_F32, m, 2048, 16384, 0, 1.0f, CU_ACT_NONE);
    for (parts = 2; parts <= 8; parts *= 2) {
        product("prefix down", CU_GEMM_BF16_F32, m, 2048, 16384, 0, 0.0f, CU_ACT_NONE);
        if (parts == 2)
            product("prefix o", CU_GEMM_BF16_F32, m, 2048, 2048, 0, 0.0f, CU_ACT_NONE);
    }
    parts = 0;
    product("prefix o", CU_GEMM_BF16_F32, m, 2048, 2048, 0, 0.0f, CU_ACT_NONE);
    product("prefix kv", CU_GEMM_BF16_F32, m, 512, 2048, 0, 0.0f, CU_ACT_NONE);
}

static void vision(int m)
{
    product("vision patch", CU_GEMM_BF16_F32, m, 1152, 592, 0, 1.0f, CU_ACT_NONE);
    product("vision qkv", CU_GEMM_BF16_BF16, m, 3456, 1152, 1, 0.0f, CU_ACT_NONE);
    product("vision o", CU_GEMM_BF16_F32, m, 1152, 1152, 1, 1.0f, CU_ACT_NONE);
    product("vision fc1", CU_GEMM_BF16_BF16, m, 4304, 1152, 1, 0.0f, CU_ACT_GELU);
    product("vision fc2", CU_GEMM_BF16_F32, m, 1152, 4304, 1, 1.0f, CU_ACT_NONE);
    product("projector", CU_GEMM_BF16_F32, m, 2048, 1152, 1, 0.0f, CU_ACT_NONE);
}

/* Hidden rows are 4352 values apart. */
static void vision_batch(int m)
{
    product("vision qkv", CU_GEMM_BF16_BF16, m, 3456, 1152, 1, 0.0f, CU_ACT_NONE);
    product("vision o", CU_GEMM_BF16_F32, m, 1152, 1152, 1, 1.0f, CU_ACT_NONE);
    ldy = 4352;
    product("vision fc1", CU_GEMM_BF16_BF16, m, 4304, 1152, 1, 0.0f, CU_ACT_GELU);
    ldy = 0;
    product("fc1, padded", CU_GEMM_BF16_BF16, m, 4352, 1152, 1, 0.0f, CU_ACT_GELU);
    ldx = 4352;
    product("vision fc2", CU_GEMM_BF16_F32, m, 1152, 4304, 1, 1.0f, CU_ACT_NONE);
    ldx = 0;
}

static void suffix(int m, float beta)
{
    product("suffix qkv", CU_GEMM_BF16_F32, m, 2560, 1024, 0, 0.0f, CU_ACT_NONE);
    product("suffix o", CU_GEMM_BF16_F32, m, 1024, 2048, 0, beta, CU_ACT_NONE);
    product("suffix gate-up", CU_GEMM_BF16_BF16, m, 8192, 1024, 0, 0.0f, CU_ACT_NONE);
    product("suffix down", CU_GEMM_BF16_F32, m, 1024, 4096, 0, beta, CU_ACT_NONE);
    product("time mlp", CU_GEMM_F32, m, 1024, 1024, 1, 0.0f, CU_ACT_NONE);
}

static void fill(void *to, size_t bytes)
{
    static uint16_t block[1 << 20];
    uint64_t z = 88172645463325252u;
    for (size_t i = 0; i < sizeof block / 2; i++) {
        z ^= z << 13, z ^= z >> 7, z ^= z << 17;
        block[i] = (uint16_t)(0x3C00 | (z & 0x80FF));
    }
    for (size_t at = 0; at < bytes; at += sizeof block)
        CK(cudaMemcpy((char *)to + at, block, sizeof block, cudaMemcpyHostToDevice));
}

int main(int argc, char **argv)
{
    struct pi0_error err = { 0 };
    void *ws, *p;
    if (device_probe(&dev, 0, &err) || device_use(&dev, &err)) {
        printf("skipped: %s\n", err.message);
        return 0;
    }
    CK(cudaMalloc(&ws, GEMM_LT_WORKSPACE));
    CK(cudaMalloc(&p, POOL));
    pool = p;
    CK(cudaMalloc(&p, IN));
    x = p;
    CK(cudaMalloc(&p, OUT));
    y = p;
    /* bf16 values of random sign and fraction near 0.01: their power is that of a call. */
    fill(pool, POOL);
    fill(x, IN);
    CK(cudaMemset(y, 0, OUT));
    if (gemm_lt_open(&lt, ws, &err)) {
        printf("%s\n", err.message);
        return 1;
    }
    printf("%s\n", dev.name);
    if (argc > 1 && !strcmp(argv[1], "--vision")) {
        for (int i = 2; i < argc; i++)
            vision_batch(atoi(argv[i]));
        gemm_lt_close(lt);
        return 0;
    }
    if (argc == 1) {
        vision(512);
        vision(768);
    }
    if (argc > 1)
        for (int i = 1; i < argc; i++)
            prefix(atoi(argv[i]));
    else
        prefix(536), prefix(792), prefix(800), prefix(968);
    if (argc > 1)
        return 0;
    suffix(10, 1.0f);
    suffix(11, 1.0f);
    suffix(50, 1.0f);
    suffix(51, 1.0f);
    suffix(50, 0.0f);
    gemm_lt_close(lt);
    return 0;
}
