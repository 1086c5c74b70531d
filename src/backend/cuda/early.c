/* SPDX-License-Identifier: Apache-2.0
 * early: the first denoising step beside the prefix. A layer of the action expert needs the prefix's K
 * and V of that layer and nothing further, and the prefix's two large products leave four processors
 * without a tile; so step 0 follows the prefix layer by layer on those four (early_sm90.h), and the
 * denoise stage begins in the layer where it stopped.
 *
 *   stream  qkv 0 ─► attention … down 0 ─► qkv 1 ─► …              ─► K, V of the last layer ─┬─►
 *             └─ K, V ─┐                     └─ K, V ─┐                                       │
 *   side    noise ─► embedding ─► layer 0 ──────────► layer 1 ─► … ─► layer n - 1 ────────────┘
 *
 * One sample a call; how many layers is cu_early_layers(). In a captured graph the side is a branch: it
 * ends up right, if later, on a device that runs one branch after the other. */
#include "backend/cuda/state.h"

#include <math.h>

int early_layers(const struct cuda_engine *c, int batch, int rows)
{
    const struct pi0_dims *d = &c->plan.dims;
    return c->choice.early_sm90 && batch == 1
               ? cu_early_layers(&c->facts, rows, d->action_horizon + c->plan.n_state, d->depth,
                                 d->vlm_mlp_dim)
               : 0;
}

pi0_status early_open(struct cuda_engine *c, struct pi0_error *err)
{
    if (!c->choice.early_sm90)
        return PI0_OK;
    CU_TRY(early90_prepare(), err);
    CU_TRY(cudaStreamCreateWithFlags(&c->side, cudaStreamNonBlocking), err);
    CU_TRY(cudaEventCreateWithFlags(&c->side_event, cudaEventDisableTiming), err);
    return PI0_OK;
}

void early_close(struct cuda_engine *c)
{
    if (c->side_event)
        (void)cudaEventDestroy(c->side_event);
    if (c->side) {
        (void)cudaStreamSynchronize(c->side); /* a call that failed may have left work there */
        (void)cudaStreamDestroy(c->side);
    }
}

/* What `to` is given from here on waits for what `from` has been given. */
static pi0_status wait_for(struct cuda_engine *c, cudaStream_t to, cudaStream_t from,
                           struct pi0_error *err)
{
    CU_TRY(cudaEventRecord(c->side_event, from), err);
    CU_TRY(cudaStreamWaitEvent(to, c->side_event, 0), err);
    return PI0_OK;
}

pi0_status early_begin(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err)
{
    if (!k->early)
        return PI0_OK;
    cudaStream_t s = c->dev.stream;
    TRY(wait_for(c, c->side, s, err));
    c->dev.stream = c->side; /* the chain's launchers know one stream */
    pi0_status st = denoise_begin(c, k, err);
    c->dev.stream = s;
    return st;
}

pi0_status early_layer(struct cuda_engine *c, const struct cu_key *k, int l, struct pi0_error *err)
{
    const struct pi0_dims *d = &c->plan.dims;
    const struct cu_buffers *b = &c->b;
    const struct cu_tables *t = &c->tables[k->table];
    const struct cu_layer *w = &c->w.expert[l];
    size_t W = (size_t)d->expert_width;
    int pi05 = d->variant == PI0_VARIANT_PI05, loop = c->has_loop;
    if (l >= k->early)
        return PI0_OK;
    /* norms of layer l and the one behind it: pi05's scale | shift | gate, or the weights' */
    const float *norm = pi05 ? t->mod + 2 * (size_t)l * 3 * W : NULL;
    struct early90 e = { .rows = d->action_horizon + c->plan.n_state,
                         .n_state = c->plan.n_state,
                         .packed = loop,
                         .cache_rows = c->plan.max_batch * c->plan.max_keys,
                         .norm1 = pi05 ? norm : w->n1,
                         .norm2 = pi05 ? norm + 3 * W : w->n2,
                         .gate1 = pi05 ? norm + 2 * W : NULL,
                         .gate2 = pi05 ? norm + 5 * W : NULL,
                         .sample = b->samples,
                         .suffix_rows = b->suffix_rows,
                         .cos_sin = c->w.rope,
                         .k = b->k + cache_layer(c, l),
                         .v = b->v + cache_layer(c, l),
                         .x = b->sx,
                         .q = b->sq,
                         .o = b->so,
                         .h = b->sact,
                         .scale = 1.0f / sqrtf((float)d->head_dim) };
    if (loop) {
        e.wqkv = dn90_layer_weights(c->w.loop, l);
        e.shift = t->shift ? dn90_layer_shift(t->shift, l) : NULL;
    } else {
        e.wqkv = w->wqkv;
        e.wo = w->wo;
        e.wgu = w->wgu;
        e.wdown = w->wdown;
        e.shift = t->products ? t->products + (size_t)l * (size_t)(c->plan.q_dim + 2 * d->head_dim +
                                                                   2 * d->expert_mlp_dim)
                              : NULL;
        if (l == k->early - 1) { /* the chain goes on */
            e.next_gain = pi05 ? norm + 6 * W : c->w.expert[l + 1].n1;
            e.xg = b->sh;
            e.part = b->spart;
        }
    }
    struct early90_maps m;
    TRY(device_map_status(early90_plan(&m, c->encode, &e), err));
    TRY(wait_for(c, c->side, c->dev.stream, err));
    CU_TRY(early90_launch(&e, &m, c->side), err);
    return PI0_OK;
}

pi0_status early_end(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err)
{
    return k->early ? wait_for(c, c->dev.stream, c->side, err) : PI0_OK;
}
