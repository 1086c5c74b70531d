/* SPDX-License-Identifier: Apache-2.0
 * check_attn_sm90: prefix attention against a plain float32 kernel: model lengths, edge lengths, key
 * holes, several samples, every split; twice for the same bits. --bench times it. */
#include "backend/cuda/kernels/attn_sm90.h"
#include "device_check.cuh"

#include <string.h>

enum { E = 256, HEADS = 8 };
static int n_passed, n_failed;

/* A block a query row, 256 threads; scores in shared memory. */
__global__ void reference(float *o, const __nv_bfloat16 *q, const __nv_bfloat16 *k,
                          const __nv_bfloat16 *v, struct attn90_segment s, float scale)
{
    extern __shared__ float p[];
    size_t row = (size_t)s.q_row * HEADS + blockIdx.x;
    for (int j = threadIdx.x; j < s.n_valid; j += blockDim.x) {
        float x = 0;
        for (int e = 0; e < E; e++)
            x += __bfloat162float(q[row * E + e]) *
                 __bfloat162float(k[(size_t)(s.kv_row + j) * E + e]);
        p[j] = x * scale;
    }
    __syncthreads();
    float m = -INFINITY, sum = 0, x = 0;
    for (int j = 0; j < s.n_valid; j++)
        m = fmaxf(m, p[j]);
    for (int j = 0; j < s.n_valid; j++) {
        float w = expf(p[j] - m);
        sum += w;
        x += w * __bfloat162float(v[(size_t)(s.kv_row + j) * E + threadIdx.x]);
    }
    o[row * E + threadIdx.x] = x / sum;
}

__global__ void fill_angles(float *a, int positions)
{
    for (int i = blockIdx.x; i < positions; i += gridDim.x) {
        float x = (float)i * exp2f(-0.1f * (float)threadIdx.x);
        a[i * E + 2 * threadIdx.x] = cosf(x);
        a[i * E + 2 * threadIdx.x + 1] = sinf(x);
    }
}

/* A block a token of a sample, 128 threads: RoPE of the queries in rows of 10 heads → q. */
__global__ void turn(__nv_bfloat16 *q, const __nv_bfloat16 *qkv, const float *angles, int q_row)
{
    size_t token = (size_t)q_row + blockIdx.x;
    int i = (int)threadIdx.x;
    float c = angles[blockIdx.x * E + 2 * i], s = angles[blockIdx.x * E + 2 * i + 1];
    for (int h = 0; h < HEADS; h++) {
        const __nv_bfloat16 *from = qkv + (token * (HEADS + 2) + h) * E;
        __nv_bfloat16 *to = q + (token * HEADS + h) * E;
        float x = __bfloat162float(from[i]), y = __bfloat162float(from[i + 128]);
        to[i] = __float2bfloat16_rn(x * c - y * s);
        to[i + 128] = __float2bfloat16_rn(y * c + x * s);
    }
}

/* n samples of these lengths; the caches of the samples lie `gap` rows apart from their ends. late: the
 * kernel turns its queries. */
static void run(tensor_map_encode_fn encode, int n, const int *rows, const int *valid, int gap,
                int split, int late, int bench)
{
    struct attn90_segment seg[8], *dev_seg;
    int q_rows = 0, kv_rows = 5, max_rows = 0;
    for (int i = 0; i < n; i++) {
        seg[i] = (struct attn90_segment){ q_rows, rows[i], valid[i], kv_rows };
        q_rows += rows[i];
        kv_rows += rows[i] + gap;
        max_rows = rows[i] > max_rows ? rows[i] : max_rows;
    }
    size_t nq = (size_t)q_rows * HEADS * E, nkv = (size_t)kv_rows * E;
    size_t nqkv = (size_t)q_rows * (HEADS + 2) * E;
    __nv_bfloat16 *q, *k, *v, *o, *qkv;
    float *ref, *angles;
    double *out, host[3];
    CK(cudaMalloc(&q, nq * 2));
    CK(cudaMalloc(&qkv, nqkv * 2));
    CK(cudaMalloc(&angles, (size_t)max_rows * E * 4));
    CK(cudaMalloc(&k, nkv * 2));
    CK(cudaMalloc(&v, nkv * 2));
    CK(cudaMalloc(&o, (nq + HEADS * E) * 2));
    CK(cudaMalloc(&ref, nq * 4));
    CK(cudaMalloc(&out, sizeof host));
    CK(cudaMalloc(&dev_seg, sizeof seg));
    CK(cudaMemcpy(dev_seg, seg, sizeof seg, cudaMemcpyHostToDevice));
    fill<<<512, 256>>>(q, nq, 1, 2.5f);
    fill<<<512, 256>>>(k, nkv, 2, 2.5f);
    fill<<<512, 256>>>(v, nkv, 3, 1.7f);
    if (late) {
        fill<<<512, 256>>>(qkv, nqkv, 1, 2.5f);
        fill_angles<<<512, 128>>>(angles, max_rows);
        for (int i = 0; i < n; i++)
            turn<<<rows[i], 128>>>(q, qkv, angles, seg[i].q_row);
    }
    struct attn90 plan;
    CUresult r = attn90_plan(&plan, encode, q, q_rows, k, v, kv_rows, o, dev_seg, n, max_rows,
                             HEADS, 0.0625f, split);
    if (r == CUDA_SUCCESS && late)
        r = attn90_turn(&plan, encode, qkv, q_rows, (HEADS + 2) * E, angles);
    if (r != CUDA_SUCCESS) {
        printf("FAIL plan: driver status %d\n", (int)r);
        n_failed++;
        return;
    }
    if (bench) {
        cudaEvent_t a, b;
        CK(cudaEventCreate(&a));
        CK(cudaEventCreate(&b));
        float best = 1e30f, ms;
        for (int i = 0; i < 12; i++) {
            CK(cudaEventRecord(a));
            for (int j = 0; j < 40; j++)
                CK(attn90_launch(&plan, 0, 1, 0));
            CK(cudaEventRecord(b));
            CK(cudaEventSynchronize(b));
            CK(cudaEventElapsedTime(&ms, a, b));
            best = ms < best ? ms : best;
        }
        double flop = 4.0 * q_rows * HEADS * rows[0] * E;
        printf("tokens %d x %d, split %d%s: %.1f us (%.0f TFLOP/s)\n", n, rows[0], split,
               late ? ", turning queries" : "", best * 25, flop / best / 25 * 1e-6);
    } else {
        for (int i = 0; i < n; i++)
            reference<<<rows[i] * HEADS, E, valid[i] * 4>>>(ref, q, k, v, seg[i], 0.0625f);
        CK(cudaDeviceSynchronize());
        uint16_t *first = (uint16_t *)malloc(nq * 2), *again = (uint16_t *)malloc((nq + E) * 2);
        for (int i = 0; i < 2; i++) {
            CK(cudaMemset(o, 0xFF, (nq + HEADS * E) * 2));
            CK(attn90_launch(&plan, 0, 1, 0));
            CK(cudaDeviceSynchronize());
            CK(cudaMemcpy(i ? again : first, o, nq * 2 + (i ? E * 2 : 0), cudaMemcpyDeviceToHost));
        }
        int same = !memcmp(first, again, nq * 2), guard = 1;
        for (int i = 0; i < E; i++)
            guard &= again[nq + i] == 0xFFFF;
        CK(cudaMemset(out, 0, sizeof host));
        compare<<<256, 256>>>(out, o, ref, nq);
        CK(cudaMemcpy(host, out, sizeof host, cudaMemcpyDeviceToHost));
        double rel = sqrt(host[0] / host[1]);
        int ok = rel < 4e-3 && host[2] == 0 && same && guard;
        printf("%s attn_bf16_sm90 samples=%d rows=%d valid=%d split=%d late=%d rel_l2=%.2e nan=%g "
               "same=%d guard=%d\n",
               ok ? "pass" : "FAIL", n, rows[0], valid[0], split, late, rel, host[2], same, guard);
        ok ? n_passed++ : n_failed++;
        free(first);
        free(again);
    }
    cudaFree(q);
    cudaFree(qkv);
    cudaFree(angles);
    cudaFree(k);
    cudaFree(v);
    cudaFree(o);
    cudaFree(ref);
    cudaFree(out);
    cudaFree(dev_seg);
}

int main(int argc, char **argv)
{
    cudaDeviceProp prop;
    if (no_hopper(&prop))
        return 0;
    tensor_map_encode_fn encode = find_encode();
    printf("%s\n", prop.name);
    static const int lengths[] = { 788, 532, 799, 968, 1, 7, 16, 17, 63, 64, 65, 129 };
    if (argc > 1 && !strcmp(argv[1], "--bench")) {
        for (int i = 0; i < 4; i++)
            for (int split = 1; split <= 2; split++)
                run(encode, 1, &lengths[i], &lengths[i], 60, split, 0, 1);
        int many[8] = { 788, 788, 788, 788, 788, 788, 788, 788 };
        for (int n = 2; n <= 8; n++)
            for (int split = 1; split <= 2; split++)
                for (int late = 0; late <= 1; late++)
                    run(encode, n, many, many, 60, split, late, 1);
        for (int i = 0; i < 4; i++)
            printf("%d tokens: chosen split %d\n", lengths[i],
                   attn90_split(lengths[i], HEADS, 1, prop.multiProcessorCount));
        return 0;
    }
    for (int way = 0; way < 4; way++) {
        int split = 1 + way % 2, late = way / 2;
        for (int i = 0; i < 12; i++) {
            run(encode, 1, &lengths[i], &lengths[i], 3, split, late, 0);
            int hole = lengths[i] * 2 / 3 > 0 ? lengths[i] * 2 / 3 : 1;
            run(encode, 1, &lengths[i], &hole, 3, split, late, 0);
        }
        int rows[4] = { 300, 17, 532, 65 }, valid[4] = { 270, 17, 20, 64 };
        run(encode, 4, rows, valid, 7, split, late, 0);
        int many[6] = { 788, 788, 788, 788, 788, 788 }; /* several turns a processor, out of L2 */
        run(encode, 6, many, many, 60, split, late, 0);
    }
    printf("%d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed != 0;
}
