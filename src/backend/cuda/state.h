/* SPDX-License-Identifier: Apache-2.0
 * state: what an engine on the GPU is made of. Shared by cuda.c (life, graphs, host side of a call),
 * upload.c (weights, tables) and the three stages; nobody else includes it.
 *
 * Layout of the K/V cache, the contract between prefix and denoise:
 *     k, v   bf16 [L][max_batch][max_keys][E]
 * Rows of a sample as in model/plan.h: prefix [0, n_rows), suffix token i at n_rows + i.
 *
 * Rows of the suffix matrix: actions first, sample · H + j; then, in step 0 of π0, one state row a
 * sample. (In steps 1 … the state's K and V are in the cache already.) */
#ifndef PI0_CUDA_STATE_H
#define PI0_CUDA_STATE_H

#include "backend/backend.h"
#include "backend/cuda/device.h"
#include "backend/cuda/kernels/attn_sm90.h"
#include "backend/cuda/kernels/denoise_sm90.h"
#include "backend/cuda/kernels/early_sm90.h"
#include "backend/cuda/kernels/gemm_lt.h"
#include "backend/cuda/kernels/gemm_sm90.h"
#include "backend/cuda/kernels/kernels.h"
#include "backend/cuda/kernels/proj_sm90.h"
#include "backend/cuda/kernels/qkv_sm90.h"
#include "backend/cuda/kernels/suffix_sm90.h"
#include "backend/cuda/kernels/vision_sm90.h"
#include "backend/cuda/select.h"

/* Weights on the device. uint16_t: bf16. All [out, in]; q, k, v rows follow each other in wqkv, the
 * tower's in the order of vision_sm90.h where its attention is. */
struct cu_vision_layer {
    float *ln1_g, *ln1_b, *ln2_g, *ln2_b; /* [D] */
    uint16_t *wqkv, *bqkv;                /* [3D, D], [3D] */
    uint16_t *wo;                         /* [D, D] */
    uint16_t *w1, *b1;                    /* [F, D], [F], behind them zeros (CU_VISION_MLP_LD) */
    uint16_t *w2;                         /* [D, F] */
    float *bo, *b2;                       /* [D] */
    float *qkv_g, *qkv_b, *fc1_g, *fc1_b; /* vis90_fold's: [3D], [3D], [F], [F]; or NULL */
};
struct cu_layer {
    float *n1, *n2;  /* [W] offsets from 1; adaRMS: NULL */
    uint16_t *wqkv;  /* [Q + 2E, W]; last VLM layer: [2E, W] */
    uint16_t *wo;    /* [W, Q] */
    uint16_t *wgu;   /* [2M, W], gate and up rows in turns (select.h) */
    uint16_t *wdown; /* [W, M] */
};
struct cu_weights {
    uint16_t *patch_w;              /* [D, k_pad] */
    float *patch_table;             /* [tokens, D]: cu_patch_table */
    float *pos, *patch_b;           /* its parts */
    struct cu_vision_layer *vision; /* host array [vision_depth] */
    float *post_g, *post_b;         /* [D] */
    float *proj_wg, *proj_wb;       /* vis90_fold's, [W_vlm]; or NULL */
    uint16_t *proj_w;               /* [W_vlm, D] */
    float *proj_b;                  /* [W_vlm] */
    uint16_t *table;                /* [vocab, W_vlm] */
    struct cu_layer *vlm, *expert;  /* host arrays [L] */
    void *mod_w;                    /* π0.5: [(2L + 1)·3W, W], bf16 if mod_bf16 else float32 */
    float *mod_b;                   /* [(2L + 1)·3W]: norm1, norm2 of each layer, then final */
    int mod_bf16;
    float *norms;                   /* π0: [2L + 1, W], norm1, norm2 of each layer, then final */
    float *final_w;                 /* π0: [W] */
    float *out_w, *out_b;           /* [A, W], [A] */
    float *state_w, *state_b;       /* π0: [W, A], [W] */
    float *time_in_w, *time_in_b;   /* π0: [W, 2W]; π0.5: [W, W] */
    float *time_out_w, *time_out_b; /* [W, W] */
    uint16_t *time_out_w3;          /* π0 with suffix_sm90: sfx90_split's form of it */
    float *suffix_wt;               /* [A, W]: actions → first layer of the suffix MLP (π0) or
                                          suffix embedding (π0.5), input major */
    float *suffix_c;                /* [W]: its bias (π0: without the time's part) */
    void *loop;                     /* denoise_sm90.h's layout of the expert, or NULL */
    float *suffix_w;                /* its form of suffix_wt: [W, A] */
    float *rope;                    /* [max_keys, E/2, 2] cos, sin */
};

/* What depends on weights and step count alone; filled once a step count. */
#define CU_MAX_TABLES 4
struct cu_tables {
    int n_steps; /* 0: empty */
    unsigned long used_at;
    float *emb;      /* [steps, W] sinusoid */
    float *c;        /* π0: [steps, W] bias of suffix_in. π0.5: hidden layer of the time MLP */
    float *cond;     /* π0.5: [steps, W] */
    float *mod;      /* π0.5: [steps, (2L + 1)·3W] */
    void *shift;     /* π0.5 with the loop: dn90_shift */
    float *products; /* π0.5 with suffix_sm90: [steps, L, 10752], W·shift of qkv and gate·up */
};

/* Device buffers. Sizes are those of the largest bucket. */
/* Values between rows of vmlp on the fused path: rows begin at a memory line. */
#define CU_VISION_MLP_LD(f) (((f) + 63) / 64 * 64)

struct cu_buffers {
    /* inputs, one block; the host's mirror has the same offsets */
    unsigned char *in;
    struct cu_sample *samples;  /* [B] */
    struct cu_row *suffix_rows; /* [B·(H + n_state)] */
    float *state, *noise;       /* [B, A], [B, H, A] */
    struct cu_row *rows;        /* [rows_max] */
    uint8_t *pixels;            /* [images_max, S, S, 3] */
    /* kept across stages */
    float *features; /* [images_max·T, W_vlm] */
    uint16_t *k, *v; /* K/V cache */
    float *actions;  /* [B, H, A] */
    /* x before and v of each step, at rec_at(). NULL: not kept */
    float *rec_x, *rec_v;
    void *workspace;   /* gemm_lt */
    float *scores;     /* attention by plain products: [scores_max], else NULL */
    uint16_t *weights; /* the same in bf16 */
    /* vision */
    uint16_t *patches, *vh, *vqkv, *vo, *vmlp;
    float *vx, *vparts; /* vparts: vision_sm90.h, struct vis90_parts */
    /* prefix */
    float *x, *qkv;
    uint16_t *h, *q, *o, *gu, *act;
    /* denoise */
    float *sx, *su, *sqkv, *sdelta;
    uint16_t *sh, *sq, *so, *sgu, *sact;
    float *part_o, *part_ml;
    float *spart;  /* suffix_sm90: [B·(H + 1), SFX90_PARTS] */
    uint16_t *su3; /* [B·H, 3·W] */
    /* denoise by the loop */
    void *loop_ws;
};

/* Whose launches follow, as time.c's table names them. */
enum cu_op {
    CU_OP_REST = 0, /* timed with the stage alone */
    CU_OP_VISION_NORM,
    CU_OP_VISION_QKV,
    CU_OP_VISION_ATTENTION,
    CU_OP_VISION_O,
    CU_OP_VISION_FC1,
    CU_OP_VISION_FC2,
    CU_OP_PREFIX_NORM,
    CU_OP_PREFIX_QKV,
    CU_OP_PREFIX_ROPE,
    CU_OP_PREFIX_ATTENTION,
    CU_OP_PREFIX_O,
    CU_OP_PREFIX_GATE_UP,
    CU_OP_PREFIX_DOWN,
    CU_OP_LOOP,
    CU_OP_SUFFIX_NORM,
    CU_OP_SUFFIX_QKV,
    CU_OP_SUFFIX_ROPE,
    CU_OP_SUFFIX_ATTENTION,
    CU_OP_SUFFIX_O,
    CU_OP_SUFFIX_GATE_UP,
    CU_OP_SUFFIX_DOWN,
    CU_N_OPS
};
struct cu_marks; /* time.c */

enum cu_stage { CU_STAGE_VISION = 0, CU_STAGE_PREFIX, CU_STAGE_DENOISE };
/* The bucket a graph was captured for. Unused fields are 0. */
struct cu_key {
    enum cu_stage stage;
    int batch, images, rows, sample_rows, n_steps, table, splits;
    int loop;  /* denoise: by denoise_sm90.h's loop */
    int early; /* prefix, denoise: layers of step 0 that run beside the prefix (early.c) */
};
#define CU_MAX_GRAPHS 48
struct cu_graph {
    struct cu_key key;
    cudaGraphExec_t exec; /* NULL: free slot */
    unsigned long used_at;
};

struct cuda_engine {
    struct device dev;
    struct plan plan;
    const pi0_model *model;
    pi0_log_fn log;
    void *log_user;
    pi0_progress_fn progress;
    void *progress_user;
    struct cu_facts facts;
    struct cu_choice choice;
    unsigned without; /* PI0_WITHOUT_ bits, for measurement */
    struct gemm_lt *gemm;
    int has_loop; /* small batches are denoised by one persistent kernel a sample */
    struct dn90_shape loop_shape;
    tensor_map_encode_fn encode; /* cuTensorMapEncodeTiled; NULL before Hopper */
    struct dev_arena weights_mem, mem;
    struct cu_weights w;
    struct cu_tables tables[CU_MAX_TABLES];
    int n_tables;
    struct cu_buffers b;
    int k_pad, images_max, rows_max, mlp_rows, head_bytes; /* head: inputs before the pixels */
    unsigned char *host_in;                                /* pinned, as b.in */
    float *host_out;                                       /* pinned [B, H, A] */
    int32_t *host_status; /* pinned, a sample: 0, or the loop gave up */
    float *host_emb;      /* [max_steps, W] */
    struct cu_graph graphs[CU_MAX_GRAPHS];
    unsigned long tick;
    cudaEvent_t event[4]; /* start, after vision, prefix, denoise */
    cudaStream_t side;    /* early.c: what runs beside the prefix, and how the two wait */
    cudaEvent_t side_event;
    struct cu_key last;     /* denoise bucket of the last call */
    struct cu_marks *marks; /* not NULL while a stage is captured to time its kernels */
    uint64_t weight_bytes, cache_bytes, scratch_bytes;
};

/* A field of cu_buffers' input block in the host's mirror of it. */
#define HOST(c, field) ((void *)((c)->host_in + ((unsigned char *)(c)->b.field - (c)->b.in)))

/* upload.c */
pi0_status upload_weights(struct cuda_engine *c, struct pi0_error *err);
/* Index of the filled table of this step count. */
pi0_status upload_tables(struct cuda_engine *c, int n_steps, int *index, struct pi0_error *err);

/* The stages: enqueue everything of one bucket on the stream. */
pi0_status vision_enqueue(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err);
pi0_status prefix_enqueue(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err);
pi0_status denoise_enqueue(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err);
/* Noise → actions, and step 0's way into its first layer. */
pi0_status denoise_begin(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err);

/* early.c. How many layers of step 0 run beside the prefix of this many rows; 0: none. */
int early_layers(const struct cuda_engine *c, int batch, int rows);
pi0_status early_open(struct cuda_engine *c, struct pi0_error *err);
void early_close(struct cuda_engine *c);
/* In front of the prefix, behind K and V of its layer l, and behind its end. */
pi0_status early_begin(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err);
pi0_status early_layer(struct cuda_engine *c, const struct cu_key *k, int l, struct pi0_error *err);
pi0_status early_end(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err);

/* Any of the three. */
pi0_status stage_enqueue(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err);
/* The same by its graph. */
pi0_status stage_run(struct cuda_engine *c, const struct cu_key *k, struct pi0_error *err);
struct cu_key prefix_key(const struct batch *in);

/* inspect.c: entries of struct backend. */
pi0_status cuda_read(void *self, enum pi0_tap tap, int index, int sample, float *dst, size_t n,
                     struct pi0_error *err);
void cuda_timing(void *self, struct pi0_timing *out);
void cuda_info(void *self, struct pi0_engine_info *out);
int cuda_kernel(void *self, int i, struct pi0_kernel_choice *out);

/* time.c: pi0_engine_time_kernel. The stages say whose launches follow, and what these do beside the
 * op's own arithmetic; nothing happens unless kernels are timed. */
pi0_status cuda_time_kernel(void *self, const struct batch *last, int i,
                            struct pi0_kernel_time *out, struct pi0_error *err);
void cu_marked(struct cuda_engine *c, enum cu_op op, const char *also);
static inline void cu_mark(struct cuda_engine *c, enum cu_op op, const char *also)
{
    if (c->marks)
        cu_marked(c, op, also);
}
/* 1: q, k and v of so many rows are one bf16 product, and attention turns its queries. */
int prefix_late_rope(const struct cuda_engine *c, int rows);
/* x [rows, W] before layer 0; o, if not NULL, becomes 0 in rows of padding. */
pi0_status prefix_embed(struct cuda_engine *c, int rows, float *x, uint16_t *o,
                        struct pi0_error *err);
/* Suffix embeddings of step `step` from actions [B, H, A] on the device into b.sx, in the row order
 * above; with_state: state rows too. */
pi0_status suffix_embed(struct cuda_engine *c, const struct cu_key *k, int step,
                        const float *actions, int with_state, struct pi0_error *err);

/* One product on the engine's stream; the candidate is chosen here. */
pi0_status cu_matmul(struct cuda_engine *c, struct cu_gemm g, struct pi0_error *err);
/* The projection of q, k and v: g.n = q's width (may be 0) + 2·kv; one product, or for measurement
 * three. bf16 weights; the bias has y's type. */
pi0_status cu_qkv(struct cuda_engine *c, struct cu_gemm g, int kv, struct pi0_error *err);

/* Products in words: y[m, n] = x·wᵀ from bf16 to float32, and what may be said of one. */
static inline struct cu_gemm cu_product(int m, int n, int k, const void *x, const void *w, void *y)
{
    return (struct cu_gemm){
        .type = CU_GEMM_BF16_F32, .m = m, .n = n, .k = k, .x = x, .w = w, .y = y, .alpha = 1.0f
    };
}
static inline struct cu_gemm cu_bf16(struct cu_gemm g) /* y and bias bf16 */
{
    g.type = CU_GEMM_BF16_BF16;
    return g;
}
static inline struct cu_gemm cu_f32(struct cu_gemm g) /* all of it float32 */
{
    g.type = CU_GEMM_F32;
    return g;
}
static inline struct cu_gemm cu_add(struct cu_gemm g) /* y += */
{
    g.beta = 1.0f;
    return g;
}
static inline struct cu_gemm cu_bias(struct cu_gemm g, const void *bias)
{
    g.bias = bias;
    return g;
}
static inline struct cu_gemm cu_gelu(struct cu_gemm g)
{
    g.act = CU_ACT_GELU;
    return g;
}
static inline struct cu_gemm cu_scaled(struct cu_gemm g, float alpha)
{
    g.alpha = alpha;
    return g;
}

/* attention.c: by the portable kernels, or by plain products. */
pi0_status cu_attend(struct cuda_engine *c, enum cu_attn_kernel k, const struct cu_attn *a,
                     struct pi0_error *err);

/* K or V cache of a layer. */
static inline size_t cache_layer(const struct cuda_engine *c, int layer)
{
    return (size_t)layer * (size_t)c->plan.max_batch * (size_t)c->plan.max_keys *
           (size_t)c->plan.dims.head_dim;
}

/* Where a sample's recorded values of a step are: the loop keeps a sample's steps together, the layers
 * a step's samples. */
static inline size_t rec_at(const struct cuda_engine *c, const struct cu_key *k, int step,
                            int sample)
{
    size_t steps = (size_t)c->plan.max_steps + 1, batch = (size_t)c->plan.max_batch;
    size_t at =
        k->loop ? (size_t)sample * steps + (size_t)step : (size_t)step * batch + (size_t)sample;
    return at * (size_t)c->plan.dims.action_horizon * (size_t)c->plan.dims.action_dim;
}

#define TRY(call)                 \
    do {                          \
        pi0_status try_ = (call); \
        if (try_)                 \
            return try_;          \
    } while (0)

#endif
