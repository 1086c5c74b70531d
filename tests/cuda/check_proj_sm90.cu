/* SPDX-License-Identifier: Apache-2.0
 * check_proj_sm90: the product that is added to the residual, and its parts over K, against a plain
 * kernel on model and edge shapes, twice for the same bits; --bench times it, weights from memory. */
#include "backend/cuda/kernels/proj_sm90.h"
#include "device_check.cuh"

#include <unistd.h>

static int n_passed, n_failed;

/* y [parts, m, n]: y[0] += x·wᵀ over its piece of K, y[1] =; one thread a value. */
__global__ void reference(float *y, const __nv_bfloat16 *x, const __nv_bfloat16 *w, int m, int n,
                          int k, int parts)
{
    int col = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y, p = blockIdx.z;
    if (col >= n)
        return;
    float sum = 0;
    for (int i = p * (k / parts); i < (p + 1) * (k / parts); i++)
        sum += __bfloat162float(x[(size_t)row * k + i]) * __bfloat162float(w[(size_t)col * k + i]);
    float &to = y[((size_t)p * m + row) * n + col];
    to = p == 0 ? to + sum : sum;
}

static void check(tensor_map_encode_fn encode, int m, int n, int k, int parts, int tile)
{
    __nv_bfloat16 *x = make16((size_t)m * k, 3, 1.7f);
    __nv_bfloat16 *w = make16((size_t)n * k, 4, 1.7f / sqrtf((float)k));
    size_t values = (size_t)parts * m * n, all = values + (size_t)n; /* one guard row */
    float *start = make32(all, 5, 1.0f, 0.0f), *y = get<float>(all), *ref = get<float>(all);
    struct proj90 plan;
    CUresult r = proj90_plan(&plan, encode, x, w, y, y + (size_t)m * n, m, n, k, parts, tile);
    if (r != CUDA_SUCCESS) {
        printf("FAIL plan M=%d: driver status %d\n", m, (int)r);
        n_failed++;
        return;
    }
    CK(cudaMemcpy(ref, start, all * 4, cudaMemcpyDeviceToDevice));
    reference<<<dim3((n + 127) / 128, m, parts), 128>>>(ref, x, w, m, n, k, parts);
    std::vector<float> out[3];
    for (int run = 0; run < 3; run++) {
        CK(cudaMemcpy(y, start, all * 4, cudaMemcpyDeviceToDevice));
        if (run == 2) /* a row's bits must not depend on the row behind it */
            fill<<<64, 256>>>(x + (size_t)(m - 1) * k, (size_t)k, 77, 30.0f);
        CK(proj90_launch(&plan, 1, 0));
        out[run] = down(y, all);
    }
    std::vector<float> want = down(ref, all);
    int same = !memcmp(out[0].data(), out[1].data(), all * 4), alone = 1;
    for (int p = 0; p < parts; p++)
        alone &= !memcmp(&out[0][(size_t)p * m * n], &out[2][(size_t)p * m * n],
                         (size_t)(m - 1) * n * 4);
    int guard = !memcmp(&out[2][values], &want[values], (size_t)n * 4);
    double d = rel(out[0], want);
    int ok = d < 1e-5 && same && alone && guard;
    printf("%s proj_bf16_sm90 M=%d N=%d K=%d parts=%d T=%d rel_l2=%.2e same=%d alone=%d guard=%d\n",
           ok ? "pass" : "FAIL", m, n, k, parts, tile, d, same, alone, guard);
    ok ? n_passed++ : n_failed++;
    cudaFree(x);
    cudaFree(w);
    cudaFree(start);
    cudaFree(y);
    cudaFree(ref);
}

/* A chain of 18, weights of each from memory; apart from the next by a pause. */
static void bench(tensor_map_encode_fn encode, int n_sms, int m, int k, int parts)
{
    enum { LAYERS = 18, N = 2048, RUNS = 15 };
    __nv_bfloat16 *x = make16((size_t)m * k, 3, 1.7f);
    __nv_bfloat16 *w = make16((size_t)LAYERS * N * k, 4, 0.04f);
    float *y = make32((size_t)parts * m * N, 5, 1.0f, 0.0f), ms, t[RUNS];
    int tile = proj90_tile_tokens(m, N, parts, n_sms);
    struct proj90 plan[LAYERS];
    for (int l = 0; l < LAYERS; l++)
        if (proj90_plan(&plan[l], encode, x, w + (size_t)l * N * k, y, y + (size_t)m * N, m, N, k,
                        parts, tile))
            return;
    cudaEvent_t a, b;
    CK(cudaEventCreate(&a));
    CK(cudaEventCreate(&b));
    for (int i = 0; i < RUNS; i++) {
        usleep(6000);
        CK(cudaEventRecord(a));
        for (int l = 0; l < LAYERS; l++)
            CK(proj90_launch(&plan[l], 1, 0));
        CK(cudaEventRecord(b));
        CK(cudaEventSynchronize(b));
        CK(cudaEventElapsedTime(&ms, a, b));
        int j = i;
        for (; j > 0 && t[j - 1] > ms; j--)
            t[j] = t[j - 1];
        t[j] = ms;
    }
    double us = t[RUNS / 2] * 1e3 / LAYERS;
    printf("M=%d K=%d parts=%d T=%d: %.1f us (%.0f TFLOP/s)\n", m, k, parts, tile, us,
           2.0 * m * N * k / us * 1e-6);
    cudaFree(x);
    cudaFree(w);
    cudaFree(y);
}

int main(int argc, char **argv)
{
    cudaDeviceProp prop;
    if (no_hopper(&prop))
        return 0;
    tensor_map_encode_fn encode = find_encode();
    int n_sms = prop.multiProcessorCount;
    printf("%s, %d SMs\n", prop.name, n_sms);
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        static const int rows[] = { 536, 792 };
        for (int i = 0; i < 2; i++) {
            bench(encode, n_sms, rows[i], 2048, 1);
            bench(encode, n_sms, rows[i], 16384, 2);
        }
        return 0;
    }
    static const int tiles[] = { 136, 168, 200 };
    for (int i = 0; i < 3; i++) {
        int t = tiles[i];
        for (int parts = 1; parts <= 2; parts++) {
            check(encode, 4 * t - 3, 2048, 2048, parts, t);
            check(encode, 1, 256, 64 * parts, parts, t);
            check(encode, t - 1, 512, 128 * parts, parts, t);
            check(encode, t + 1, 256, 320 * parts, parts, t);
            check(encode, 2 * t, 768, 576 * parts, parts, t);
        }
    }
    check(encode, 536, 2048, 16384, 2, 136);
    check(encode, 792, 2048, 16384, 2, 200);
    printf("%d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed != 0;
}
