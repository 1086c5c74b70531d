/* SPDX-License-Identifier: Apache-2.0
 * gemm_lt: y = act(alpha·x·wᵀ + beta·y + bias) by cuBLASLt.
 *
 * Row-major [M, K]·[N, K]ᵀ is column-major yᵀ[N, M] = (wᵀ)ᵀ·xᵀ: A = w transposed, B = x, so the
 * library's m is N, its n is M, and its bias (one value a row of D) is ours a column.
 *
 * Same bits in every run: the algorithm is the pick-th of the heuristic's list, never timed here,
 * and reductions over K are limited to float32 partial sums (NONE, COMPUTE_TYPE). Where no algorithm
 * offers the epilogue, the product runs without it and cu_bias_act follows. */
#include "backend/cuda/kernels/gemm_lt.h"

#include "backend/cuda/device.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define CACHE 512

struct entry {
    enum cu_gemm_type type;
    int m, n, k, pick, beta, bias, act, ldy;
    int ldx, ldw, w_kn, batch;
    int64_t step_x, step_w, step_y;
    int found;    /* candidates */
    int epilogue; /* 0: bias and activation come after */
    cublasLtMatmulAlgo_t algo;
};

struct gemm_lt {
    void *lib;
    cublasLtHandle_t handle;
    void *workspace;
    int n_entries;
    struct entry cache[CACHE];
    cublasStatus_t (*create)(cublasLtHandle_t *);
    cublasStatus_t (*destroy)(cublasLtHandle_t);
    cublasStatus_t (*desc_create)(cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t);
    cublasStatus_t (*desc_destroy)(cublasLtMatmulDesc_t);
    cublasStatus_t (*desc_set)(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *,
                               size_t);
    cublasStatus_t (*layout_create)(cublasLtMatrixLayout_t *, cudaDataType, uint64_t, uint64_t,
                                    int64_t);
    cublasStatus_t (*layout_set)(cublasLtMatrixLayout_t, cublasLtMatrixLayoutAttribute_t,
                                 const void *, size_t);
    cublasStatus_t (*layout_destroy)(cublasLtMatrixLayout_t);
    cublasStatus_t (*pref_create)(cublasLtMatmulPreference_t *);
    cublasStatus_t (*pref_destroy)(cublasLtMatmulPreference_t);
    cublasStatus_t (*pref_set)(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
                               const void *, size_t);
    cublasStatus_t (*heuristic)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                cublasLtMatmulHeuristicResult_t[], int *);
    cublasStatus_t (*matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *,
                             cublasLtMatrixLayout_t, const void *, cublasLtMatrixLayout_t,
                             const void *, const void *, cublasLtMatrixLayout_t, void *,
                             cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *, void *, size_t,
                             cudaStream_t);
};

static pi0_status lt_fail(struct pi0_error *err, cublasStatus_t s, const char *what,
                          const struct cu_gemm *a)
{
    return pi0_fail(err, PI0_E_DEVICE, "cublasLt: %s: status %d (M %d, N %d, K %d)", what, (int)s,
                    a ? a->m : 0, a ? a->n : 0, a ? a->k : 0);
}

/* dlsym gives a data pointer; POSIX lets it be a function. */
static int lookup(void *lib, const char *name, void *slot, size_t bytes)
{
    void *p = dlsym(lib, name);
    memcpy(slot, &p, bytes);
    return p != NULL;
}
#define LOOKUP(g, field, name) lookup((g)->lib, name, &(g)->field, sizeof(g)->field)

static int lookup_all(struct gemm_lt *g)
{
    return LOOKUP(g, create, "cublasLtCreate") && LOOKUP(g, destroy, "cublasLtDestroy") &&
           LOOKUP(g, desc_create, "cublasLtMatmulDescCreate") &&
           LOOKUP(g, desc_destroy, "cublasLtMatmulDescDestroy") &&
           LOOKUP(g, desc_set, "cublasLtMatmulDescSetAttribute") &&
           LOOKUP(g, layout_create, "cublasLtMatrixLayoutCreate") &&
           LOOKUP(g, layout_set, "cublasLtMatrixLayoutSetAttribute") &&
           LOOKUP(g, layout_destroy, "cublasLtMatrixLayoutDestroy") &&
           LOOKUP(g, pref_create, "cublasLtMatmulPreferenceCreate") &&
           LOOKUP(g, pref_destroy, "cublasLtMatmulPreferenceDestroy") &&
           LOOKUP(g, pref_set, "cublasLtMatmulPreferenceSetAttribute") &&
           LOOKUP(g, heuristic, "cublasLtMatmulAlgoGetHeuristic") &&
           LOOKUP(g, matmul, "cublasLtMatmul");
}

pi0_status gemm_lt_open(struct gemm_lt **out, void *workspace, struct pi0_error *err)
{
    static const char *const names[] = { "libcublasLt.so.13", "libcublasLt.so.12",
                                         "/usr/local/cuda/lib64/libcublasLt.so.13",
                                         "/usr/local/cuda/lib64/libcublasLt.so.12" };
    struct gemm_lt *g = calloc(1, sizeof *g);
    if (!g)
        return pi0_fail(err, PI0_E_NOMEM, "cublasLt: %zu bytes cannot be had", sizeof *g);
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !g->lib; i++)
        g->lib = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (!g->lib) {
        free(g);
        return pi0_fail(err, PI0_E_UNSUPPORTED,
                        "cuda: libcublasLt.so.13 (or .12) is not on the library path nor in "
                        "/usr/local/cuda/lib64; it comes with the CUDA toolkit");
    }
    cublasStatus_t s = CUBLAS_STATUS_NOT_INITIALIZED;
    g->workspace = workspace;
    if (!lookup_all(g) || (s = g->create(&g->handle)) != CUBLAS_STATUS_SUCCESS) {
        gemm_lt_close(g);
        return lt_fail(err, s, "cublasLtCreate", NULL);
    }
    *out = g;
    return PI0_OK;
}

void gemm_lt_close(struct gemm_lt *g)
{
    if (!g)
        return;
    if (g->handle)
        (void)g->destroy(g->handle);
    if (g->lib)
        (void)dlclose(g->lib);
    free(g);
}

struct ops {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulPreference_t pref;
};

static void ops_free(struct gemm_lt *g, struct ops *o)
{
    if (o->desc)
        (void)g->desc_destroy(o->desc);
    if (o->a)
        (void)g->layout_destroy(o->a);
    if (o->b)
        (void)g->layout_destroy(o->b);
    if (o->d)
        (void)g->layout_destroy(o->d);
    if (o->pref)
        (void)g->pref_destroy(o->pref);
}

/* Products side by side: how many, and how far apart this matrix's are. */
static cublasStatus_t side_by_side(struct gemm_lt *g, cublasLtMatrixLayout_t l, int32_t batch,
                                   int64_t step)
{
    cublasStatus_t s = g->layout_set(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch);
    if (!s)
        s = g->layout_set(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step);
    return s;
}

static cublasStatus_t ops_make(struct gemm_lt *g, const struct cu_gemm *p, int with_epilogue,
                               struct ops *o)
{
    cudaDataType_t in = p->type == CU_GEMM_F32 ? CUDA_R_32F : CUDA_R_16BF;
    cudaDataType_t out = p->type == CU_GEMM_BF16_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    cublasOperation_t t = p->w_kn ? CUBLAS_OP_N : CUBLAS_OP_T;
    cublasStatus_t s = g->desc_create(&o->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!s)
        s = g->desc_set(o->desc, CUBLASLT_MATMUL_DESC_TRANSA, &t, sizeof t);
    if (!s && with_epilogue && (p->bias || p->act == CU_ACT_GELU)) {
        cublasLtEpilogue_t e = p->act == CU_ACT_GELU
                                   ? p->bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU
                                   : CUBLASLT_EPILOGUE_BIAS;
        int32_t bias_type = (int32_t)out;
        s = g->desc_set(o->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &e, sizeof e);
        if (!s && p->bias)
            s = g->desc_set(o->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias, sizeof p->bias);
        if (!s && p->bias)
            s = g->desc_set(o->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias_type,
                            sizeof bias_type);
    }
    uint64_t m = (uint64_t)p->m, n = (uint64_t)p->n, k = (uint64_t)p->k;
    uint64_t rows = p->w_kn ? n : k, columns = p->w_kn ? k : n;
    if (!s)
        s = g->layout_create(&o->a, in, rows, columns, p->ldw ? p->ldw : (int64_t)rows);
    if (!s)
        s = g->layout_create(&o->b, in, k, m, p->ldx ? p->ldx : (int64_t)k);
    if (!s)
        s = g->layout_create(&o->d, out, n, m, p->ldy ? p->ldy : (int64_t)n);
    if (!s && p->batch > 1) {
        s = side_by_side(g, o->a, p->batch, p->step_w);
        if (!s)
            s = side_by_side(g, o->b, p->batch, p->step_x);
        if (!s)
            s = side_by_side(g, o->d, p->batch, p->step_y);
    }
    return s;
}

static cublasStatus_t ask(struct gemm_lt *g, const struct cu_gemm *p, struct ops *o,
                          cublasLtMatmulHeuristicResult_t *res, int *found)
{
    (void)p;
    size_t bytes = GEMM_LT_WORKSPACE;
    uint32_t mask = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* NONE is always allowed */
    *found = 0;
    cublasStatus_t s = g->pref_create(&o->pref);
    if (!s)
        s = g->pref_set(o->pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    if (!s)
        s = g->pref_set(o->pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &mask, sizeof mask);
    if (!s)
        s = g->heuristic(g->handle, o->desc, o->a, o->b, o->d, o->d, o->pref, GEMM_LT_CANDIDATES,
                         res, found);
    return s == CUBLAS_STATUS_NOT_SUPPORTED ? CUBLAS_STATUS_SUCCESS : s;
}

static struct entry *find(struct gemm_lt *g, const struct cu_gemm *p)
{
    int beta = p->beta != 0.f, bias = p->bias != NULL;
    for (int i = 0; i < g->n_entries; i++) {
        struct entry *e = &g->cache[i];
        if (e->m == p->m && e->n == p->n && e->k == p->k && e->type == p->type &&
            e->pick == p->pick && e->beta == beta && e->bias == bias && e->act == (int)p->act &&
            e->ldy == p->ldy && e->ldx == p->ldx && e->ldw == p->ldw && e->w_kn == p->w_kn &&
            e->batch == p->batch && e->step_x == p->step_x && e->step_w == p->step_w &&
            e->step_y == p->step_y)
            return e;
    }
    return NULL;
}

/* The entry of this product, made on first use; NULL and *st on failure. A full cache starts anew:
 * the choice is a function of the shape, so nothing changes. */
static struct entry *entry_of(struct gemm_lt *g, const struct cu_gemm *p, pi0_status *st,
                              struct pi0_error *err)
{
    struct entry *e = find(g, p);
    if (e)
        return e;
    struct entry made = { .type = p->type,
                          .m = p->m,
                          .n = p->n,
                          .k = p->k,
                          .pick = p->pick,
                          .beta = p->beta != 0.f,
                          .bias = p->bias != NULL,
                          .act = (int)p->act,
                          .ldy = p->ldy,
                          .ldx = p->ldx,
                          .ldw = p->ldw,
                          .w_kn = p->w_kn,
                          .batch = p->batch,
                          .step_x = p->step_x,
                          .step_w = p->step_w,
                          .step_y = p->step_y };
    for (int with = 1; with >= 0 && made.found == 0; with--) {
        cublasLtMatmulHeuristicResult_t res[GEMM_LT_CANDIDATES];
        struct ops o = { 0 };
        cublasStatus_t s = ops_make(g, p, with, &o);
        if (!s)
            s = ask(g, p, &o, res, &made.found);
        ops_free(g, &o);
        if (s) {
            *st = lt_fail(err, s, "choosing an algorithm", p);
            return NULL;
        }
        made.epilogue = with;
        if (made.found > 0)
            made.algo = res[p->pick < made.found ? p->pick : 0].algo;
    }
    if (made.found == 0) {
        *st = lt_fail(err, CUBLAS_STATUS_NOT_SUPPORTED, "no algorithm for this product", p);
        return NULL;
    }
    if (g->n_entries == CACHE)
        g->n_entries = 0;
    g->cache[g->n_entries] = made;
    return &g->cache[g->n_entries++];
}

int gemm_lt_candidates(struct gemm_lt *g, const struct cu_gemm *a)
{
    pi0_status st = PI0_OK;
    struct entry *e = entry_of(g, a, &st, NULL);
    return e ? e->found : 0;
}

pi0_status gemm_lt_run(struct gemm_lt *g, const struct cu_gemm *a, cudaStream_t stream,
                       struct pi0_error *err)
{
    pi0_status st = PI0_OK;
    struct entry *e = entry_of(g, a, &st, err);
    if (!e)
        return st;
    if (!e->epilogue && a->ldy && (a->bias || a->act != CU_ACT_NONE))
        return lt_fail(err, CUBLAS_STATUS_NOT_SUPPORTED, "no epilogue for rows apart", a);
    struct ops o = { 0 };
    cublasStatus_t s = ops_make(g, a, e->epilogue, &o);
    if (!s)
        s = g->matmul(g->handle, o.desc, &a->alpha, a->w, o.a, a->x, o.b, &a->beta, a->y, o.d, a->y,
                      o.d, &e->algo, g->workspace, GEMM_LT_WORKSPACE, stream);
    ops_free(g, &o);
    if (s)
        return lt_fail(err, s, "cublasLtMatmul", a);
    if (!e->epilogue && (a->bias || a->act != CU_ACT_NONE))
        CU_TRY(cu_bias_act(a->y, a->bias, a->type == CU_GEMM_BF16_BF16, a->m, a->n, a->act, stream),
               err);
    return PI0_OK;
}
