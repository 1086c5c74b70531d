/* SPDX-License-Identifier: Apache-2.0
 * denoise_sm90: the denoising loop of one sample as a single persistent kernel for Hopper. Sizes,
 * packing of the weights, tables and the launch; which samples take this path is dn90_supported.
 * The loop itself is in denoise_sm90.cu, packing in denoise_sm90_pack.cu.
 *
 * Nothing here allocates or waits; dn90_enqueue may run under stream capture. Everything that
 * changes between two replays of a graph (noise, lengths, K/V) is read from device memory. */
#ifndef PI0_CUDA_DENOISE_SM90_H
#define PI0_CUDA_DENOISE_SM90_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct dn90_shape {
    int n_layers, width, mlp, heads, head_dim;
    int action_dim; /* A */
    int n_tokens;   /* action tokens of the sample, 1 … 16 (π0: 15) */
    int max_keys;   /* keys of a sample at most, π0's state token included: ≤ 1024 */
    int pi05;       /* 1: adaRMS and no state token */
};

/* Pure: can this device class and shape take the loop? arch = 10·major + minor. */
int dn90_supported(int arch, int n_sms, const struct dn90_shape *s, int batch);

/* ---- weights: one block on the device, 256-byte aligned ---- */
size_t dn90_weights_bytes(const struct dn90_shape *s);
/* One layer, row-major bf16 [out, in] on the device. Row u of gate is gate + u · gu_stride elements
 * and so for up (width: two separate matrices; 2 · width: rows in turns). */
struct dn90_layer {
    const uint16_t *q, *k, *v; /* [heads·E, W], [E, W], [E, W] */
    const uint16_t *o;         /* [W, heads·E] */
    const uint16_t *gate, *up; /* [F, W] */
    const uint16_t *down;      /* [W, F] */
    int64_t gu_stride;
    int gu_group; /* rows of gate in turn with as many of up; 0: gu_stride says it all */
};
/* Where dn90_pack_layer puts a layer; a layer's W·shift of step 0 in dn90_shift's table. */
const void *dn90_layer_weights(const void *weights, int layer);
const float *dn90_layer_shift(const void *shift, int layer);
cudaError_t dn90_pack_layer(const struct dn90_shape *s, void *weights, int layer,
                            const struct dn90_layer *w, cudaStream_t stream);
/* Heads, float32 row-major on the device: action_out [A, W] and, for π0, action_time_mlp_out [W, W]
 * (NULL for π0.5). Kept as the sum of two bf16 (relative error 2^-17). */
cudaError_t dn90_pack_heads(const struct dn90_shape *s, void *weights, const float *action_out,
                            const float *mlp_out, cudaStream_t stream);

/* ---- π0.5: what the shift of an adaRMS adds to a product, W · shift, for every step ---- */
size_t dn90_shift_bytes(const struct dn90_shape *s, int n_steps);
/* mod: f32 [n_steps][2L+1][3W], scale | shift | gate. action_out f32 [A, W], out_b f32 [A]. */
cudaError_t dn90_shift(const struct dn90_shape *s, void *shift, int n_steps, const void *weights,
                       const float *mod, const float *action_out, const float *out_b,
                       cudaStream_t stream);

/* ---- the loop ---- */
size_t dn90_workspace_bytes(const struct dn90_shape *s);
/* Once a process and device, outside capture: raises shared-memory limits. */
cudaError_t dn90_prepare(const struct dn90_shape *s);

struct dn90_args {
    struct dn90_shape shape;
    int n_steps;
    void *workspace;     /* dn90_workspace_bytes, 256-byte aligned */
    const void *weights; /* dn90_weights_bytes */
    /* Prefix cache, bf16 rows of E values: row r of layer l is k + l·layer_stride + r·E. Rows
     * [0, n_valid) are keys. */
    const uint16_t *k, *v;
    int64_t layer_stride;   /* elements */
    const int32_t *n_valid; /* on the device: read at each replay */
    /* Step 0 may begin in a later layer: first_layer 1 … L - 1 with the residual x0 that the layers
     * before it leave, f32 [n_tokens, W] and π0's state row behind them. The state's k and v of those
     * layers then stand in cache row *n_rows. first_layer 0: x0 and n_rows are not read. */
    int first_layer;
    const float *x0;
    const int32_t *n_rows;
    /* Norms. π0: gains f32 [2L+1][W], stored as offset from 1. π0.5: the mod table of dn90_shift. */
    const float *norm;
    const void *shift; /* π0.5: dn90_shift's result; NULL for π0 */
    /* Heads, f32. π0: in_w = W_mlp_in[:, :W] · W_action_in [W, A]; in_b [n_steps][W] the rest of
     * action_time_mlp_in at each step. π0.5: in_w = action_in_proj [W, A], in_b [W]. */
    const float *in_w, *in_b;
    const float *mlp_out_b; /* π0: [W] */
    const float *out_b;     /* π0: [A]; π0.5: it is in shift */
    /* π0's state token, f32: state [A], state_proj [W, A] and [W]; NULL for π0.5 */
    const float *state, *state_w, *state_b;
    float *x;                 /* [n_tokens, A]: noise in, actions out */
    float *rec_v, *rec_x;     /* [n_steps][n_tokens, A] or NULL: velocity, x after the step */
    unsigned long long *prof; /* NULL, or [128][DN90_STAMPS] ns time stamps of layer prof_layer */
    int prof_layer;           /* counted over all steps */
};
#define DN90_STAMPS 24
cudaError_t dn90_enqueue(const struct dn90_args *a, cudaStream_t stream);
/* Where the loop says that it gave up waiting (0: it did not): a device int in the workspace. */
const int32_t *dn90_status(const struct dn90_shape *s, const void *workspace);

#ifdef __cplusplus
}
#endif
#endif
