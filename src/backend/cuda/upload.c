/* SPDX-License-Identifier: Apache-2.0
 * upload: host weights → device layout, and the tables of a step count. Values are exactly the
 * checkpoint's (bf16 matrices; norm gains, heads and biases of float32 outputs in float32).
 *
 * A tensor goes up in chunks of whole rows: all threads convert a chunk into one of the pinned slots,
 * one copy (strided where rows are interleaved or padded) takes it to its place while the next chunk
 * is read. Synthetic tensors are computed on the device, where they are.
 *
 *     fused:   wqkv = [q; k; v]        wgu = g0…g7 u0…u7 g8…g15 u8…u15 …  (select.h, cu_glu_group)
 *
 * A kernel family that wants another order repacks on the device, from these rows. */
#include "backend/cuda/state.h"
#include "base/threads.h"
#include "model/schedule.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS 3
#define SLOT_BYTES ((size_t)48 << 20)
#define MAX_THREADS 16

struct upload {
    struct cuda_engine *c;
    struct pi0_error *err;
    pi0_status st;           /* first failure; later pieces are skipped */
    int measure;             /* 1: pieces are only counted */
    struct dev_arena *arena; /* where the next pieces go */
    struct dev_arena temp;   /* one expert layer on its way into the loop's layout */
    struct threads *threads;
    unsigned char *pinned; /* SLOTS · SLOT_BYTES; NULL for a synthetic model */
    cudaEvent_t free_at[SLOTS];
    int slot;
    size_t slot_used;
    uint64_t done, total;
    int *first_bad; /* on the device: number of the first tensor that is not finite */
    int n_sent;
    int find; /* ≥ 0: nothing is moved, `found` becomes tensor number `find` */
    const struct tensor *found;
};

/* Where a tensor goes. Row r of `cols` values lies at (r / group)·stride + r % group, `ld` apart. */
struct place {
    void *dst;
    int to_f32;
    int64_t rows;
    int cols, ld, group, stride;
};

/* ---------------------------------------------------------------- moving one tensor */

struct read_job {
    const struct tensor *t;
    size_t first, n;
    int to_f32;
    void *dst;
};

static void read_part(void *arg, int index, int count)
{
    const struct read_job *j = arg;
    size_t each = (j->n / (size_t)count + 63) & ~(size_t)63;
    size_t begin = each * (size_t)index, end = begin + each;
    begin = begin < j->n ? begin : j->n;
    end = end < j->n && index + 1 < count ? end : j->n;
    if (begin >= end)
        return;
    if (j->to_f32)
        tensor_read_f32(j->t, j->first + begin, end - begin, (float *)j->dst + begin);
    else
        tensor_read_bf16(j->t, j->first + begin, end - begin, (uint16_t *)j->dst + begin);
}

static pi0_status next_slot(struct upload *u)
{
    cudaStream_t s = u->c->dev.stream;
    CU_TRY(cudaEventRecord(u->free_at[u->slot], s), u->err);
    u->slot = (u->slot + 1) % SLOTS;
    u->slot_used = 0;
    CU_TRY(cudaEventSynchronize(u->free_at[u->slot]), u->err);
    return PI0_OK;
}

static pi0_status report(struct upload *u, uint64_t bytes)
{
    const struct cuda_engine *c = u->c;
    u->done += bytes;
    if (c->progress && c->progress(c->progress_user, "uploading weights", u->done, u->total))
        return pi0_fail(u->err, PI0_E_ARGUMENT,
                        "stopped while uploading weights, %llu of %llu MB done",
                        (unsigned long long)(u->done >> 20), (unsigned long long)(u->total >> 20));
    return PI0_OK;
}

/* Rows [row, row + n) of a tensor through a slot. */
static pi0_status send_rows(struct upload *u, const struct tensor *t, const struct place *p,
                            int64_t row, int64_t n)
{
    size_t elem = p->to_f32 ? 4 : 2, bytes = (size_t)n * (size_t)p->cols * elem;
    if (u->slot_used + bytes > SLOT_BYTES)
        TRY(next_slot(u));
    unsigned char *src = u->pinned + (size_t)u->slot * SLOT_BYTES + u->slot_used;
    u->slot_used += (bytes + 255) & ~(size_t)255;
    struct read_job job = { t, (size_t)row * (size_t)p->cols, (size_t)n * (size_t)p->cols,
                            p->to_f32, src };
    if (job.n < 65536)
        read_part(&job, 0, 1);
    else
        threads_run(u->threads, read_part, &job);
    size_t at = (size_t)(row / p->group * p->stride + row % p->group) * (size_t)p->ld * elem;
    unsigned char *dst = (unsigned char *)p->dst + at;
    cudaStream_t s = u->c->dev.stream;
    if (p->ld != p->cols) /* padded rows: never interleaved */
        CU_TRY(cudaMemcpy2DAsync(dst, (size_t)p->ld * elem, src, (size_t)p->cols * elem,
                                 (size_t)p->cols * elem, (size_t)n, cudaMemcpyHostToDevice, s),
               u->err);
    else if (p->group < n)
        CU_TRY(cudaMemcpy2DAsync(dst, (size_t)p->stride * (size_t)p->ld * elem, src,
                                 (size_t)p->group * (size_t)p->cols * elem,
                                 (size_t)p->group * (size_t)p->cols * elem, (size_t)(n / p->group),
                                 cudaMemcpyHostToDevice, s),
               u->err);
    else
        CU_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, s), u->err);
    return report(u, bytes);
}

static pi0_status send(struct upload *u, const struct tensor *t, const struct place *p)
{
    u->n_sent++;
    if (!t->data) {
        struct cu_synth a = { .base = t->synth_base,
                              .a = t->synth_a,
                              .b = t->synth_b,
                              .rows = p->rows,
                              .cols = p->cols,
                              .ld = p->ld,
                              .group = p->group,
                              .group_stride = p->stride,
                              .to_f32 = p->to_f32,
                              .dst = p->dst };
        CU_TRY(cu_synth(&a, u->c->dev.stream), u->err);
        return report(u, t->n * (p->to_f32 ? 4 : 2));
    }
    size_t row_bytes = (size_t)p->cols * (p->to_f32 ? 4 : 2);
    int64_t step = (int64_t)(SLOT_BYTES / 2 / row_bytes);
    if (step > p->group && p->group < p->rows)
        step = step / p->group * p->group;
    if (step < 1)
        return pi0_fail(u->err, PI0_E_UNSUPPORTED, "cuda: a weight row of %d values is too long",
                        p->cols);
    for (int64_t r = 0; r < p->rows; r += step)
        TRY(send_rows(u, t, p, r, p->rows - r < step ? p->rows - r : step));
    tensor_release(t);
    struct cu_scan a = { .src = p->dst,
                         .is_f32 = p->to_f32,
                         .cols = p->cols,
                         .ld = p->ld,
                         .group = p->group,
                         .group_stride = p->stride,
                         .value = u->n_sent - 1,
                         .rows = p->rows,
                         .first = u->first_bad };
    CU_TRY(cu_scan(&a, u->c->dev.stream), u->err);
    return PI0_OK;
}

static void put(struct upload *u, const struct tensor *t, const struct place *p)
{
    if (u->find >= 0) {
        if (u->n_sent++ == u->find)
            u->found = t;
    } else if (u->measure)
        u->total += t->n * (p->to_f32 ? 4 : 2);
    else if (!u->st)
        u->st = send(u, t, p);
}

/* ---------------------------------------------------------------- layouts */

static float *vec_f32(struct upload *u, const struct tensor *t)
{
    float *dst = dev_take(u->arena, t->n, sizeof *dst);
    put(u, t, &(struct place){ dst, 1, 1, (int)t->n, (int)t->n, 1, 1 });
    return dst;
}

/* n tensors of one row length, one behind the other; a vector counts as one row. */
static void *stack(struct upload *u, const struct tensor *const *t, int n, int to_f32)
{
    size_t total = 0, at = 0, elem = to_f32 ? 4 : 2;
    for (int i = 0; i < n; i++)
        total += t[i]->n;
    unsigned char *dst = dev_take(u->arena, total, elem);
    for (int i = 0; i < n; i++) {
        int rows = t[i]->rank > 1 ? t[i]->shape[0] : 1, cols = (int)(t[i]->n / (size_t)rows);
        put(u, t[i],
            &(struct place){ dst ? dst + at * elem : NULL, to_f32, rows, cols, cols, rows, rows });
        at += t[i]->n;
    }
    return dst;
}

static uint16_t *mat(struct upload *u, const struct tensor *t) { return stack(u, &t, 1, 0); }

/* One in bf16 with room for n values; those behind its own stay zero, as the arena was made. */
static uint16_t *padded(struct upload *u, const struct tensor *t, size_t n)
{
    int rows = t->rank > 1 ? t->shape[0] : 1, cols = (int)(t->n / (size_t)rows);
    uint16_t *dst = dev_take(u->arena, n, sizeof *dst);
    put(u, t, &(struct place){ dst, 0, rows, cols, cols, rows, rows });
    return dst;
}

/* Gate and up rows in turns of `group`. */
static uint16_t *gate_up(struct upload *u, const struct tensor *gate, const struct tensor *up,
                         int group)
{
    int m = gate->shape[0], w = gate->shape[1];
    uint16_t *dst = dev_take(u->arena, gate->n + up->n, sizeof *dst);
    uint16_t *second = dst ? dst + (size_t)group * (size_t)w : NULL;
    put(u, gate, &(struct place){ dst, 0, m, w, w, group, 2 * group });
    put(u, up, &(struct place){ second, 0, m, w, w, group, 2 * group });
    return dst;
}

static void place_vision(struct upload *u)
{
    struct cuda_engine *c = u->c;
    const struct weights *w = &c->model->weights;
    const struct pi0_dims *d = &c->plan.dims;
    struct dev_arena *a = &c->weights_mem;
    c->w.patch_w = dev_take(a, (size_t)d->vision_width * (size_t)c->k_pad, sizeof(uint16_t));
    put(u, &w->patch_w,
        &(struct place){ c->w.patch_w, 0, d->vision_width, c->plan.patch_dim, c->k_pad,
                         d->vision_width, d->vision_width });
    c->w.patch_b = vec_f32(u, &w->patch_b);
    c->w.pos = stack(u, (const struct tensor *const[]){ &w->pos }, 1, 1);
    c->w.patch_table = dev_take(a, w->pos.n, sizeof(float));
    int F = d->vision_mlp_dim;
    size_t D = (size_t)d->vision_width;
    size_t fc1_rows = (size_t)(c->choice.vision_sm90 ? CU_VISION_MLP_LD(F) : F);
    for (int i = 0; i < d->vision_depth; i++) {
        const struct vision_layer *s = &w->vision[i];
        c->w.vision[i] = (struct cu_vision_layer){
            .ln1_g = vec_f32(u, &s->ln1_w),
            .ln1_b = vec_f32(u, &s->ln1_b),
            .wqkv = stack(u, (const struct tensor *const[]){ &s->q_w, &s->k_w, &s->v_w }, 3, 0),
            .bqkv = stack(u, (const struct tensor *const[]){ &s->q_b, &s->k_b, &s->v_b }, 3, 0),
            .wo = mat(u, &s->o_w),
            .bo = vec_f32(u, &s->o_b),
            .ln2_g = vec_f32(u, &s->ln2_w),
            .ln2_b = vec_f32(u, &s->ln2_b),
            .w1 = padded(u, &s->fc1_w, fc1_rows * D),
            .b1 = padded(u, &s->fc1_b, fc1_rows),
            .w2 = mat(u, &s->fc2_w),
            .b2 = vec_f32(u, &s->fc2_b),
        };
        if (c->choice.vision_sm90) {
            c->w.vision[i].qkv_g = dev_take(a, 3 * D, sizeof(float));
            c->w.vision[i].qkv_b = dev_take(a, 3 * D, sizeof(float));
            c->w.vision[i].fc1_g = dev_take(a, (size_t)F, sizeof(float));
            c->w.vision[i].fc1_b = dev_take(a, (size_t)F, sizeof(float));
        }
    }
    c->w.post_g = vec_f32(u, &w->post_ln_w);
    c->w.post_b = vec_f32(u, &w->post_ln_b);
    c->w.proj_w = mat(u, &w->proj_w);
    c->w.proj_b = vec_f32(u, &w->proj_b);
    if (c->choice.vision_sm90) {
        c->w.proj_wg = dev_take(a, (size_t)d->vlm_width, sizeof(float));
        c->w.proj_wb = dev_take(a, (size_t)d->vlm_width, sizeof(float));
    }
}

static void put_vector(struct upload *u, const struct tensor *t, float *dst)
{
    put(u, t, &(struct place){ dst, 1, 1, (int)t->n, (int)t->n, 1, 1 });
}

/* The rows just placed → the loop's layout. */
static void pack_layer(struct upload *u, int l)
{
    struct cuda_engine *c = u->c;
    struct cu_layer *t = &c->w.expert[l];
    size_t W = (size_t)c->plan.dims.expert_width, E = (size_t)c->plan.dims.head_dim;
    size_t Q = (size_t)c->plan.q_dim, group = (size_t)c->choice.glu_group_expert;
    struct dn90_layer rows = { .q = t->wqkv,
                               .k = t->wqkv + Q * W,
                               .v = t->wqkv + (Q + E) * W,
                               .o = t->wo,
                               .gate = t->wgu,
                               .up = t->wgu + group * W,
                               .down = t->wdown,
                               .gu_stride = (int64_t)W,
                               .gu_group = (int)group };
    cudaError_t e = dn90_pack_layer(&c->loop_shape, c->w.loop, l, &rows, c->dev.stream);
    if (e != cudaSuccess)
        u->st = device_fail(u->err, e, "packing the expert");
}

/* The expert's layers. With the loop each goes into its layout; the rows themselves are kept only
 * where batches are to be had, which the loop does not take. */
static void place_expert(struct upload *u)
{
    struct cuda_engine *c = u->c;
    const struct weights *w = &c->model->weights;
    size_t W = (size_t)c->plan.dims.expert_width;
    int L = c->plan.dims.depth, pi05 = c->plan.dims.variant == PI0_VARIANT_PI05;
    int through = c->has_loop && c->plan.max_batch == 1;
    if (!pi05) {
        float *n = dev_take(u->arena, (2 * (size_t)L + 1) * W, sizeof *n);
        c->w.norms = n;
        c->w.final_w = n ? n + 2 * (size_t)L * W : NULL;
        put_vector(u, &w->final_w, c->w.final_w);
    }
    if (c->has_loop)
        c->w.loop = dev_take(u->arena, dn90_weights_bytes(&c->loop_shape), 1);
    for (int l = 0; l < L; l++) {
        const struct gemma_layer *s = &w->expert[l];
        struct cu_layer *t = &c->w.expert[l];
        if (!pi05) {
            t->n1 = c->w.norms ? c->w.norms + 2 * (size_t)l * W : NULL;
            t->n2 = c->w.norms ? t->n1 + W : NULL;
            put_vector(u, &s->norm1_w, t->n1);
            put_vector(u, &s->norm2_w, t->n2);
        }
        if (through) {
            u->arena = &u->temp;
            u->temp.used = 0;
        }
        t->wqkv = stack(u, (const struct tensor *const[]){ &s->q_w, &s->k_w, &s->v_w }, 3, 0);
        t->wo = mat(u, &s->o_w);
        t->wgu = gate_up(u, &s->gate_w, &s->up_w, c->choice.glu_group_expert);
        t->wdown = mat(u, &s->down_w);
        u->arena = &c->weights_mem;
        if (c->has_loop && !u->measure && !u->st && u->find < 0)
            pack_layer(u, l);
        if (through)
            t->wqkv = t->wo = t->wgu = t->wdown = NULL;
    }
}

static void place_layers(struct upload *u)
{
    struct cuda_engine *c = u->c;
    const struct weights *w = &c->model->weights;
    int L = c->plan.dims.depth;
    c->w.table = mat(u, &w->table);
    for (int l = 0; l < L; l++) {
        const struct gemma_layer *s = &w->vlm[l];
        struct cu_layer *t = &c->w.vlm[l];
        int last = l == L - 1; /* only its K and V are used */
        t->n1 = vec_f32(u, &s->norm1_w);
        if (last) {
            t->wqkv = stack(u, (const struct tensor *const[]){ &s->k_w, &s->v_w }, 2, 0);
            break;
        }
        t->wqkv = stack(u, (const struct tensor *const[]){ &s->q_w, &s->k_w, &s->v_w }, 3, 0);
        t->wo = mat(u, &s->o_w);
        t->n2 = vec_f32(u, &s->norm2_w);
        t->wgu = gate_up(u, &s->gate_w, &s->up_w, c->choice.glu_group_vlm);
        t->wdown = mat(u, &s->down_w);
    }
}

/* The 2L + 1 modulations in one matrix, so that one launch fills a table. bf16 only where that is
 * what the checkpoint holds: they are few and their error would be systematic. */
static void place_modulation(struct upload *u)
{
    struct cuda_engine *c = u->c;
    const struct weights *w = &c->model->weights;
    int L = c->plan.dims.depth, n = 2 * L + 1;
    size_t W = (size_t)c->plan.dims.expert_width, rows = 3 * W;
    c->w.mod_bf16 = tensor_is_bf16(&w->final_mod_w);
    for (int l = 0; l < L; l++)
        c->w.mod_bf16 = c->w.mod_bf16 && tensor_is_bf16(&w->expert[l].norm1_mod_w) &&
                        tensor_is_bf16(&w->expert[l].norm2_mod_w);
    size_t elem = c->w.mod_bf16 ? 2 : 4;
    unsigned char *m = dev_take(&c->weights_mem, (size_t)n * rows * W, elem);
    float *b = dev_take(&c->weights_mem, (size_t)n * rows, sizeof *b);
    c->w.mod_w = m;
    c->w.mod_b = b;
    for (int i = 0; i < n; i++) {
        const struct gemma_layer *s = &w->expert[i / 2 < L ? i / 2 : 0];
        const struct tensor *tw = i == 2 * L ? &w->final_mod_w
                                  : i % 2    ? &s->norm2_mod_w
                                             : &s->norm1_mod_w;
        const struct tensor *tb = i == 2 * L ? &w->final_mod_b
                                  : i % 2    ? &s->norm2_mod_b
                                             : &s->norm1_mod_b;
        size_t at = (size_t)i * rows;
        put(u, tw,
            &(struct place){ m ? m + at * W * elem : NULL, !c->w.mod_bf16, (int64_t)rows, (int)W,
                             (int)W, (int)rows, (int)rows });
        put(u, tb, &(struct place){ b ? b + at : NULL, 1, 1, (int)rows, (int)rows, 1, 1 });
    }
}

static void place_heads(struct upload *u)
{
    struct cuda_engine *c = u->c;
    const struct weights *w = &c->model->weights;
    const struct pi0_dims *d = &c->plan.dims;
    struct dev_arena *a = &c->weights_mem;
    size_t W = (size_t)d->expert_width, A = (size_t)d->action_dim;
#define F32(t) stack(u, (const struct tensor *const[]){ t }, 1, 1)
    if (d->variant == PI0_VARIANT_PI05) {
        place_modulation(u);
    } else {
        c->w.state_w = F32(&w->state_w);
        c->w.state_b = vec_f32(u, &w->state_b);
    }
    c->w.out_w = F32(&w->action_out_w);
    c->w.out_b = vec_f32(u, &w->action_out_b);
    c->w.time_in_w = F32(&w->time_in_w);
    c->w.time_in_b = vec_f32(u, &w->time_in_b);
    c->w.time_out_w = F32(&w->time_out_w);
    c->w.time_out_b = vec_f32(u, &w->time_out_b);
#undef F32
    if (c->choice.suffix_sm90 && c->plan.n_state)
        c->w.time_out_w3 = dev_take(a, 3 * W * W, sizeof(uint16_t));
    c->w.suffix_wt = dev_take(a, A * W, sizeof(float));
    c->w.suffix_c = dev_take(a, W, sizeof(float));
    if (c->has_loop)
        c->w.suffix_w = dev_take(a, A * W, sizeof(float));
    c->w.rope =
        dev_take(a, (size_t)c->plan.max_keys * (size_t)(d->head_dim / 2) * 2, sizeof(float));
}

static void place_all(struct upload *u)
{
    place_vision(u);
    place_layers(u);
    place_expert(u);
    place_heads(u);
}

/* ---------------------------------------------------------------- derived */

/* cos and sin of pos · f_i, f_i = 10000^(-2i/E) rounded once, the angle in float32 as openpi's
 * apply_rope has it. */
static void fill_rope(float *dst, int n, int head_dim)
{
    int half = head_dim / 2;
    for (int i = 0; i < half; i++) {
        float f = (float)pow(10000.0, -2.0 * i / head_dim);
        for (int p = 0; p < n; p++) {
            double angle = (double)((float)p * f);
            dst[((size_t)p * (size_t)half + (size_t)i) * 2] = (float)cos(angle);
            dst[((size_t)p * (size_t)half + (size_t)i) * 2 + 1] = (float)sin(angle);
        }
    }
}

/* action_in transposed on the host; π0 then folds it through the action half of the time MLP:
 * wt[a] = W_in[:, :W]·A_in[:, a], c = W_in[:, :W]·b_in + b (algebra of docs/model.md, float32). */
static pi0_status derive_heads(struct upload *u, float *tmp)
{
    struct cuda_engine *c = u->c;
    const struct weights *w = &c->model->weights;
    const struct pi0_dims *d = &c->plan.dims;
    size_t W = (size_t)d->expert_width, A = (size_t)d->action_dim;
    cudaStream_t s = c->dev.stream;
    float *raw = tmp, *turned = tmp + A * W, *bias = tmp + 2 * A * W;
    tensor_read_f32(&w->action_in_w, 0, A * W, raw);
    tensor_read_f32(&w->action_in_b, 0, W, bias);
    for (size_t a = 0; a < A; a++)
        for (size_t i = 0; i < W; i++)
            turned[a * W + i] = raw[i * A + a];
    if (d->variant == PI0_VARIANT_PI05) {
        CU_TRY(cudaMemcpyAsync(c->w.suffix_wt, turned, A * W * 4, cudaMemcpyHostToDevice, s),
               u->err);
        CU_TRY(cudaMemcpyAsync(c->w.suffix_c, bias, W * 4, cudaMemcpyHostToDevice, s), u->err);
        if (c->has_loop)
            CU_TRY(cudaMemcpyAsync(c->w.suffix_w, raw, A * W * 4, cudaMemcpyHostToDevice, s),
                   u->err);
        CU_TRY(cudaStreamSynchronize(s), u->err);
        return PI0_OK;
    }
    float *room = (float *)c->b.workspace; /* (A + 1)·W floats of 32 MB */
    if ((A + 1) * W * 4 > GEMM_LT_WORKSPACE)
        return pi0_fail(u->err, PI0_E_UNSUPPORTED, "cuda: %zu actions × width %zu do not fit", A,
                        W);
    CU_TRY(cudaMemcpyAsync(room, turned, (A * W + W) * 4, cudaMemcpyHostToDevice, s), u->err);
    struct cu_linear fold = { .w = c->w.time_in_w,
                              .ldw = 2 * (int)W,
                              .x = room,
                              .y = c->w.suffix_wt,
                              .rows = (int)A,
                              .n = (int)W,
                              .k = (int)W,
                              .ldy = (int)W };
    CU_TRY(cu_linear(&fold, s), u->err);
    fold.x = room + A * W;
    fold.y = c->w.suffix_c;
    fold.rows = 1;
    fold.bias = c->w.time_in_b;
    CU_TRY(cu_linear(&fold, s), u->err);
    CU_TRY(cudaStreamSynchronize(s), u->err);
    if (!c->has_loop)
        return PI0_OK;
    CU_TRY(cudaMemcpy(turned, c->w.suffix_wt, A * W * 4, cudaMemcpyDeviceToHost), u->err);
    for (size_t a = 0; a < A; a++)
        for (size_t i = 0; i < W; i++)
            raw[i * A + a] = turned[a * W + i];
    CU_TRY(cudaMemcpy(c->w.suffix_w, raw, A * W * 4, cudaMemcpyHostToDevice), u->err);
    return PI0_OK;
}

/* q, k, v rows in the order that attn_vision90 reads: 64 of each head, then 8 of each (vision_sm90.h). */
static pi0_status cut_heads(struct cuda_engine *c, uint16_t *qkv, size_t cols,
                            struct pi0_error *err)
{
    size_t heads = (size_t)c->plan.dims.vision_heads, row = cols * sizeof *qkv;
    unsigned char *temp = c->b.workspace, *to = (unsigned char *)qkv;
    enum cudaMemcpyKind kind = cudaMemcpyDeviceToDevice;
    cudaStream_t s = c->dev.stream;
    for (int i = 0; i < 3; i++, to += heads * 72 * row) {
        CU_TRY(cudaMemcpyAsync(temp, to, heads * 72 * row, kind, s), err);
        CU_TRY(cudaMemcpy2DAsync(to, 64 * row, temp, 72 * row, 64 * row, heads, kind, s), err);
        CU_TRY(cudaMemcpy2DAsync(to + heads * 64 * row, 8 * row, temp + 64 * row, 72 * row, 8 * row,
                                 heads, kind, s),
               err);
    }
    return PI0_OK;
}

/* What the tower's own kernels need: heads cut in two, the norms in front of fused products. */
static pi0_status derive_vision(struct upload *u)
{
    struct cuda_engine *c = u->c;
    int D = c->plan.dims.vision_width, F = c->plan.dims.vision_mlp_dim;
    cudaStream_t s = c->dev.stream;
    for (int l = 0; l < c->plan.dims.vision_depth; l++) {
        const struct cu_vision_layer *w = &c->w.vision[l];
        if (c->choice.attn_vision == CU_ATTN_KERNEL_SM90) {
            TRY(cut_heads(c, w->wqkv, (size_t)D, u->err));
            TRY(cut_heads(c, w->bqkv, 1, u->err));
        }
        if (!c->choice.vision_sm90)
            continue;
        CU_TRY(vis90_fold(w->wqkv, w->ln1_g, w->ln1_b, w->bqkv, 0, w->qkv_g, w->qkv_b, 3 * D, D, s),
               u->err);
        CU_TRY(vis90_fold(w->w1, w->ln2_g, w->ln2_b, w->b1, 0, w->fc1_g, w->fc1_b, F, D, s),
               u->err);
    }
    if (c->choice.vision_sm90)
        CU_TRY(vis90_fold(c->w.proj_w, c->w.post_g, c->w.post_b, c->w.proj_b, 1, c->w.proj_wg,
                          c->w.proj_wb, c->plan.dims.vlm_width, D, s),
               u->err);
    return PI0_OK;
}

static pi0_status derive(struct upload *u)
{
    struct cuda_engine *c = u->c;
    const struct pi0_dims *d = &c->plan.dims;
    cudaStream_t s = c->dev.stream;
    if (c->has_loop)
        CU_TRY(dn90_pack_heads(&c->loop_shape, c->w.loop, c->w.out_w,
                               c->plan.n_state ? c->w.time_out_w : NULL, s),
               u->err);
    if (c->w.time_out_w3)
        CU_TRY(sfx90_split(c->w.time_out_w, c->w.time_out_w3, s), u->err);
    CU_TRY(cu_patch_table(c->w.patch_table, c->w.pos, c->w.patch_b, c->w.patch_w,
                          c->plan.tokens_per_camera, d->vision_width, c->k_pad, s),
           u->err);
    TRY(derive_vision(u));
    size_t rope = (size_t)c->plan.max_keys * (size_t)d->head_dim;
    size_t heads = (2 * (size_t)d->action_dim + 1) * (size_t)d->expert_width;
    size_t n = rope > heads ? rope : heads;
    float *tmp = malloc(n * sizeof *tmp);
    if (!tmp)
        return pi0_fail(u->err, PI0_E_NOMEM, "cuda tables: %zu bytes cannot be had",
                        n * sizeof *tmp);
    fill_rope(tmp, c->plan.max_keys, d->head_dim);
    cudaError_t e = cudaMemcpy(c->w.rope, tmp, rope * sizeof *tmp, cudaMemcpyHostToDevice);
    pi0_status st = e ? device_fail(u->err, e, "RoPE table") : derive_heads(u, tmp);
    free(tmp);
    return st;
}

/* ---------------------------------------------------------------- values that are not finite */

struct name_search {
    const struct tensor *t;
    const char *name;
};

static pi0_status match_name(void *user, const struct weight_entry *e, struct pi0_error *err)
{
    (void)err;
    struct name_search *s = user;
    if (e->field->data == s->t->data)
        s->name = e->name;
    return PI0_OK;
}

/* The tensor that first_bad names: the pieces are placed once more, without moving anything. */
static pi0_status check_finite(struct upload *u)
{
    int bad;
    struct cuda_engine *c = u->c;
    cudaStream_t s = c->dev.stream;
    CU_TRY(cudaMemcpyAsync(&bad, u->first_bad, sizeof bad, cudaMemcpyDeviceToHost, s), u->err);
    CU_TRY(cudaStreamSynchronize(s), u->err);
    if (bad == INT_MAX)
        return PI0_OK;
    size_t used = c->weights_mem.used;
    u->find = bad;
    u->n_sent = 0;
    c->weights_mem.used = 0;
    place_all(u);
    c->weights_mem.used = used;
    struct name_search n = { .t = u->found, .name = "a weight" };
    struct weights table = c->model->weights; /* a copy: the walk may write to its table */
    if (n.t)
        (void)weights_walk(&table, &c->model->config.dims, match_name, &n, NULL);
    return pi0_fail(u->err, PI0_E_MODEL,
                    "%s: holds NaN, infinity or a value out of range, expected finite numbers",
                    n.name);
}

/* ---------------------------------------------------------------- open */

static pi0_status upload_begin(struct upload *u)
{
    if (!u->c->model->weights.patch_w.data)
        return PI0_OK; /* synthetic: nothing passes through the host */
    int n = threads_available();
    TRY(threads_open(&u->threads, n < MAX_THREADS ? n : MAX_THREADS, u->err));
    void *p = NULL;
    CU_TRY(cudaHostAlloc(&p, SLOTS * SLOT_BYTES, cudaHostAllocDefault), u->err);
    u->pinned = p;
    for (int i = 0; i < SLOTS; i++)
        CU_TRY(cudaEventCreateWithFlags(&u->free_at[i], cudaEventDisableTiming), u->err);
    int none = INT_MAX;
    u->first_bad = u->c->b.workspace;
    CU_TRY(cudaMemcpy(u->first_bad, &none, sizeof none, cudaMemcpyHostToDevice), u->err);
    return PI0_OK;
}

static void upload_end(struct upload *u)
{
    (void)cudaStreamSynchronize(u->c->dev.stream); /* copies still read the slots */
    for (int i = 0; i < SLOTS; i++)
        if (u->free_at[i])
            (void)cudaEventDestroy(u->free_at[i]);
    if (u->pinned)
        (void)cudaFreeHost(u->pinned);
    threads_close(u->threads);
}

pi0_status upload_weights(struct cuda_engine *c, struct pi0_error *err)
{
    struct upload u = { .c = c, .err = err, .measure = 1, .arena = &c->weights_mem, .find = -1 };
    const struct pi0_dims *d = &c->plan.dims;
    c->w.vision = calloc((size_t)d->vision_depth, sizeof *c->w.vision);
    c->w.vlm = calloc((size_t)d->depth, sizeof *c->w.vlm);
    c->w.expert = calloc((size_t)d->depth, sizeof *c->w.expert);
    if (!c->w.vision || !c->w.vlm || !c->w.expert)
        return pi0_fail(err, PI0_E_NOMEM, "cuda: layer tables cannot be had");
    place_all(&u);
    c->weight_bytes = u.total;
    TRY(dev_arena_alloc(&c->weights_mem, "weights", err));
    u.measure = 0;
    if (u.temp.peak)
        TRY(dev_arena_alloc(&u.temp, "one layer of weights", err));
    u.st = upload_begin(&u);
    if (!u.st)
        place_all(&u);
    if (!u.st && u.first_bad)
        u.st = check_finite(&u);
    if (!u.st)
        u.st = derive(&u);
    upload_end(&u);
    dev_arena_free(&u.temp);
    if (!u.st) {
        cudaError_t e = cudaGetLastError();
        if (e != cudaSuccess)
            u.st = device_fail(err, e, "uploading weights");
    }
    return u.st;
}

/* ---------------------------------------------------------------- tables of a step count */

/* W · shift of every adaRMS in front of a product, all steps. */
static pi0_status fill_products(struct cuda_engine *c, struct cu_tables *t, int n_steps,
                                struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    int W = d->expert_width, qkv = c->plan.q_dim + 2 * d->head_dim, gu = 2 * d->expert_mlp_dim;
    for (int i = 0; i < 2 * d->depth; i++) {
        struct cu_linear p = { .w = i % 2 ? c->w.expert[i / 2].wgu : c->w.expert[i / 2].wqkv,
                               .w_bf16 = 1,
                               .ldw = W,
                               .x = t->mod + (size_t)i * 3 * (size_t)W + W,
                               .y = t->products + (size_t)(i / 2) * (size_t)(qkv + gu) +
                                    (i % 2 ? qkv : 0),
                               .rows = n_steps,
                               .n = i % 2 ? gu : qkv,
                               .k = W,
                               .ldx = (2 * d->depth + 1) * 3 * W,
                               .ldy = d->depth * (qkv + gu) };
        CU_TRY(cu_linear(&p, c->dev.stream), err);
    }
    return PI0_OK;
}

static pi0_status fill_table(struct cuda_engine *c, struct cu_tables *t, int n_steps,
                             struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    cudaStream_t s = c->dev.stream;
    int W = d->expert_width, pi05 = d->variant == PI0_VARIANT_PI05;
    float *times = c->host_emb + (size_t)c->plan.max_steps * (size_t)W;
    schedule_times(n_steps, model_schedule(c->model), times);
    for (int k = 0; k < n_steps; k++)
        schedule_sinusoid(times[k], W, c->host_emb + (size_t)k * (size_t)W);
    CU_TRY(cudaMemcpyAsync(t->emb, c->host_emb, (size_t)n_steps * (size_t)W * sizeof(float),
                           cudaMemcpyHostToDevice, s),
           err);
    CU_TRY(cudaStreamSynchronize(s), err); /* host_emb is free again */
    struct cu_linear in = { .w = c->w.time_in_w,
                            .ldw = pi05 ? W : 2 * W,
                            .k0 = pi05 ? 0 : W,
                            .x = t->emb,
                            .bias = pi05 ? c->w.time_in_b : c->w.suffix_c,
                            .y = t->c,
                            .rows = n_steps,
                            .n = W,
                            .k = W,
                            .ldy = W,
                            .act = pi05 ? CU_ACT_SILU : CU_ACT_NONE };
    CU_TRY(cu_linear(&in, s), err);
    if (!pi05)
        return PI0_OK;
    struct cu_linear out = { .w = c->w.time_out_w,
                             .ldw = W,
                             .x = t->c,
                             .bias = c->w.time_out_b,
                             .y = t->cond,
                             .rows = n_steps,
                             .n = W,
                             .k = W,
                             .ldy = W,
                             .act = CU_ACT_SILU };
    CU_TRY(cu_linear(&out, s), err);
    int n = (2 * d->depth + 1) * 3 * W;
    struct cu_linear mod = { .w = c->w.mod_w,
                             .w_bf16 = c->w.mod_bf16,
                             .ldw = W,
                             .x = t->cond,
                             .bias = c->w.mod_b,
                             .y = t->mod,
                             .rows = n_steps,
                             .n = n,
                             .k = W,
                             .ldy = n };
    CU_TRY(cu_linear(&mod, s), err);
    if (t->products && c->w.expert[0].wqkv) /* an engine of one sample keeps no rows */
        TRY(fill_products(c, t, n_steps, err));
    if (c->has_loop)
        CU_TRY(dn90_shift(&c->loop_shape, t->shift, n_steps, c->w.loop, t->mod, c->w.out_w,
                          c->w.out_b, s),
               err);
    return PI0_OK;
}

pi0_status upload_tables(struct cuda_engine *c, int n_steps, int *index, struct pi0_error *err)
{
    int oldest = 0;
    for (int i = 0; i < c->n_tables; i++) {
        if (c->tables[i].n_steps == n_steps) {
            c->tables[i].used_at = ++c->tick;
            *index = i;
            return PI0_OK;
        }
        if (c->tables[i].used_at < c->tables[oldest].used_at)
            oldest = i;
    }
    struct cu_tables *t = &c->tables[oldest];
    t->n_steps = 0;
    TRY(fill_table(c, t, n_steps, err));
    t->n_steps = n_steps;
    t->used_at = ++c->tick;
    *index = oldest;
    return PI0_OK;
}
