/* SPDX-License-Identifier: Apache-2.0
 *
 * pi0.h: inference of the robot policies π0 and π0.5 (openpi), in C.
 *
 *   checkpoint directory ──► pi0_model    the network and where its weights lie (immutable, shareable)
 *   model + limits       ──► pi0_engine   pixels, token ids, state, noise → actions (one caller at a time)
 *   engine + statistics  ──► pi0_policy   camera images, joint state, a sentence → robot actions
 *
 * A robot's program needs the calls of examples/embed.c: pi0_model_open, pi0_engine_open,
 * pi0_policy_open, pi0_policy_infer and the three closes. Everything else is for looking inside.
 *
 * Rules that hold everywhere
 *   - A call that can fail returns pi0_status and takes, last, a nullable struct pi0_error that it
 * fills with what was found and what was expected. Out-parameters are written only on success.
 *   - Nothing is printed, no environment variable is read, the process is never ended, there are no
 * globals.
 *   - Every close accepts NULL. Pointers given to a call are borrowed for the call unless the
 * comment says longer.
 *   - After pi0_engine_open and pi0_policy_open nothing is allocated on the way to an action, with
 * two exceptions: libsentencepiece allocates while it tokenises a text (token ids given instead
 * avoid it), and a GPU engine that meets a new shape may build a launch graph, once.
 *   - Same inputs, same bits: from run to run, and for any number of threads.
 *
 * Dimension letters in comments: B samples, C cameras, T prompt tokens, H action horizon, A action
 * dim, P = C·tokens_per_camera + max_token_len prefix rows, W width, L layers, E head dim.
 */
#ifndef PI0_H
#define PI0_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#ifdef __GNUC__ /* pi0_model_info and others name a struct and a function, as C allows */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#endif
#endif

#define PI0_VERSION_MAJOR 0
#define PI0_VERSION_MINOR 1
#define PI0_VERSION_PATCH 0

#if defined(__GNUC__)
#define PI0_API __attribute__((visibility("default")))
#else
#define PI0_API
#endif

/* "0.1.0". Static string. */
PI0_API const char *pi0_version(void);

/* ---------------------------------------------------------------- errors */

typedef enum pi0_status {
    PI0_OK = 0,
    PI0_E_ARGUMENT, /* a caller's mistake: NULL, a count out of range, an unknown name */
    PI0_E_IO,       /* a file or directory cannot be opened, read or written */
    PI0_E_FORMAT,   /* a file is malformed: truncated, not JSON, offsets that overlap … */
    PI0_E_MODEL, /* a checkpoint does not describe a model: missing tensor, wrong shape or dtype */
    PI0_E_INPUT, /* an observation cannot be used: missing camera, NaN state, no prompt … */
    PI0_E_NOMEM, /* host or device memory is short */
    PI0_E_UNSUPPORTED, /* understood, and not done by this build, backend or machine */
    PI0_E_DEVICE,      /* the GPU or its driver reported a failure; the engine stays failed */
    PI0_E_INTERNAL     /* a broken invariant of ours */
} pi0_status;

struct pi0_error {
    pi0_status status;
    char message[512]; /* one line, UTF-8, NUL-terminated: what was found and what was expected */
};

/* "ok", "bad argument", "input/output" … Static string, never NULL. */
PI0_API const char *pi0_status_name(pi0_status status);

/* ---------------------------------------------------------------- model */

typedef struct pi0_model pi0_model;

#define PI0_MAX_CAMERAS 8

enum pi0_variant { PI0_VARIANT_PI0 = 0, PI0_VARIANT_PI05 = 1 };

/* Everything that sizes a network. Zero is never a valid value of a dimension. */
struct pi0_dims {
    enum pi0_variant variant;
    int image_size;     /* pixels a side, square; 224 */
    int patch_size;     /* 14; divides image_size */
    int n_cameras;      /* C: 3, at most PI0_MAX_CAMERAS */
    int vision_width;   /* 1152 */
    int vision_depth;   /* 27 */
    int vision_mlp_dim; /* 4304 */
    int vision_heads;   /* 16; divides vision_width */
    int vlm_width;      /* 2048 */
    int vlm_mlp_dim;    /* 16384 */
    int vocab_size;     /* 257152 rows of the token table */
    int expert_width;   /* 1024 */
    int expert_mlp_dim; /* 4096 */
    int depth;          /* L: 18 layers, in both the VLM and the expert */
    int heads;          /* 8 query heads */
    int kv_heads;       /* 1: the only value that these models use */
    int head_dim;       /* E: 256; even */
    int action_dim;     /* A: 32, of state and actions alike */
    int action_horizon; /* H: 50 actions in a chunk */
    int max_token_len;  /* longest prompt, in tokens: 48 (π0), 200 (π0.5) */
};

/* Dimensions by name: "pi0", "pi05" (the real ones) and "pi0_tiny", "pi05_tiny" (the golden
 * cases'). PI0_E_ARGUMENT for another name. */
PI0_API pi0_status pi0_dims_named(struct pi0_dims *out, const char *name, struct pi0_error *err);

struct pi0_model_options {
    const char *preset; /* openpi train config whose conventions hold ("pi0_libero" …); NULL: as the
                           checkpoint's pi0.json says, else none. Borrowed for the call. */
};

enum pi0_source { PI0_SOURCE_OPENPI = 0, PI0_SOURCE_LEROBOT = 1, PI0_SOURCE_SYNTHETIC = 2 };

struct pi0_model_info {
    struct pi0_dims dims;
    enum pi0_source source;
    const char *dir;    /* as given to open; "" when synthetic. Lives as long as the model. */
    const char *preset; /* name of the train config in force; "" when none */
    const char *camera_names[PI0_MAX_CAMERAS]; /* C model camera slots in prefix order. Live as long
                                                  as the model. */
    uint64_t n_params;                         /* values inference uses */
    uint64_t n_params_vision, n_params_projector, n_params_table, n_params_vlm, n_params_expert,
        n_params_heads;
    uint64_t file_bytes;     /* bytes of all mapped files */
    int n_tensors, n_unused; /* tensors used; tensors present and skipped */
};

/* Maps DIR/model.safetensors, or the files that DIR/model.safetensors.index.json names, in
 * openpi-PyTorch's or lerobot's layout; detects the variant from the tensors and checks every shape
 * and dtype (BF16, F16, F32). Reads DIR/config.json and DIR/pi0.json. `options` may be NULL.
 * Source: spec of the checkpoint in docs/model.md. */
PI0_API pi0_status pi0_model_open(pi0_model **out, const char *dir,
                                  const struct pi0_model_options *options, struct pi0_error *err);

/* A model of these dimensions whose weights are computed from (tensor name, seed) when an engine
 * asks for them: the values that pi0_synth_write would store. No file is read or written. */
PI0_API pi0_status pi0_model_open_synthetic(pi0_model **out, const struct pi0_dims *dims,
                                            uint64_t seed, struct pi0_error *err);

PI0_API void pi0_model_info(const pi0_model *model, struct pi0_model_info *out);

/* Engines and policies made from a model must be closed first. */
PI0_API void pi0_model_close(pi0_model *model);

/* ---------------------------------------------------------------- engine */

typedef struct pi0_engine pi0_engine;

enum pi0_precision {
    PI0_PRECISION_BF16 = 0, /* bf16 products, float32 sums, float32 residual stream */
    PI0_PRECISION_F32 = 1 /* float32 throughout (weights keep the checkpoint's values); CPU only */
};

/* What to do with a camera whose mask is 0. The actions are the same; only the work differs. */
enum pi0_masked_cameras { PI0_MASKED_SKIP = 0, PI0_MASKED_COMPUTE = 1 };

/* CPU instruction sets, as bits of isa_mask. The scalar code is always there. */
#define PI0_ISA_AVX2 1u   /* AVX2 + FMA + F16C */
#define PI0_ISA_AVX512 2u /* AVX-512 F, BW, DQ, VL */
#define PI0_ISA_AVX512_BF16 4u
#define PI0_ISA_AMX_BF16 8u
#define PI0_ISA_ALL 0xFFFFFFFFu

/* level: 0 information, 1 warning. `line` has no newline and lives for the call. */
typedef void (*pi0_log_fn)(void *user, int level, const char *line);
/* Long work (opening an engine, writing a checkpoint): done of total, in bytes. A non-zero return
 * asks to stop. */
typedef int (*pi0_progress_fn)(void *user, const char *what, uint64_t done, uint64_t total);

/* Optimisations that `measure_without` takes out of an engine, to see what each is worth. The
 * actions stay within the tolerance. A backend that has no such thing, or nothing to put in its
 * place, answers PI0_E_UNSUPPORTED. */
#define PI0_WITHOUT_GRAPH 1u             /* every launch enqueued anew in every call */
#define PI0_WITHOUT_FUSED_ATTENTION 2u   /* scores as matrices (one sample, no loop kernel) */
#define PI0_WITHOUT_FUSED_PROJECTIONS 4u /* q, k and v as products of their own */
#define PI0_WITHOUT_CAMERA_SKIP 8u       /* as PI0_MASKED_COMPUTE */
#define PI0_WITHOUT_CAMERA_BATCHING 16u  /* one camera image at a time */
#define PI0_WITHOUT_FOLDED_TABLES 32u    /* what depends on time alone, anew in every call */
#define PI0_WITHOUT_STATE_REUSE 64u      /* π0's state token anew in every step (no loop kernel) */
#define PI0_WITHOUT_OWN_KERNELS 128u /* products by the vendor's library alone (no loop kernel) */
#define PI0_WITHOUT_LOOP_KERNEL 256u /* denoising as launches in place of one kernel */
#define PI0_WITHOUT_DEPENDENT_LAUNCH 512u /* no kernel starts before the one ahead has ended */
#define PI0_WITHOUT_OVERLAP 1024u         /* no denoising step begins before the prefix has ended */

struct pi0_engine_config {
    const char *backend; /* "auto" (CUDA where a usable GPU is found, else CPU), "cpu", "cuda".
                            Default "auto" */
    enum pi0_precision precision; /* default PI0_PRECISION_BF16 */
    uint32_t isa_mask; /* instruction sets the CPU backend may use, if the machine has them. Default
                          all */
    int n_threads; /* CPU threads; 0 = one a processor this process may run on. Default 0; 1…256 */
    int max_batch;      /* most samples a call may hold. Default 1; 1…1024 */
    int action_horizon; /* actions a chunk; 0 = the model's. Default 0; 1…1024 */
    int max_token_len;  /* longest prompt in tokens; 0 = the model's. Default 0; 1…4096 */
    int max_steps;      /* most denoising steps a call may ask for. Default 10; 1…1000 */
    enum pi0_masked_cameras masked_cameras; /* default PI0_MASKED_SKIP */
    int device;                             /* CUDA device ordinal. Default 0 */
    int record_steps; /* non-zero keeps x and v of every step for PI0_TAP_X and PI0_TAP_V. Default 0
                       */
    unsigned measure_without; /* PI0_WITHOUT_ bits: for measurement alone, each makes the engine
                                 slower. Default 0 */
    pi0_log_fn log;           /* may be NULL */
    void *log_user;
    pi0_progress_fn progress; /* may be NULL */
    void *progress_user;
};

PI0_API void pi0_engine_defaults(struct pi0_engine_config *config);

/* Plans memory, packs or uploads the weights, builds the tables that depend on weights and step
 * count alone. Borrows `model` for its own lifetime; `config` may be NULL (defaults). An engine has
 * one caller at a time. */
PI0_API pi0_status pi0_engine_open(pi0_engine **out, const pi0_model *model,
                                   const struct pi0_engine_config *config, struct pi0_error *err);
PI0_API void pi0_engine_close(pi0_engine *engine);

/* One sample. */
struct pi0_input {
    const uint8_t *pixels[PI0_MAX_CAMERAS]; /* C × [image_size, image_size, 3] u8, RGB. NULL is
                                               allowed where masked */
    uint8_t camera_mask[PI0_MAX_CAMERAS];   /* 1: the camera is there */
    const int32_t *tokens;                  /* [n_tokens] ids below vocab_size */
    const uint8_t *token_mask;              /* [n_tokens], 1 = valid; NULL = all valid */
    int n_tokens;                           /* 0…max_token_len */
    const float *state; /* [A], normalised, padded with zeros. π0.5 does not read it: may be NULL */
    const float *noise; /* [H, A], standard normal */
};

/* Wall time of the last call, milliseconds. On a GPU the stages come from device events. */
struct pi0_timing {
    double total_ms, vision_ms, prefix_ms, denoise_ms;
};

/* actions [n, H, A] float32 in model (normalised) space: x after `n_steps` Euler steps from t = 1
 * (noise) to 0. 1 ≤ n ≤ max_batch, 1 ≤ n_steps ≤ max_steps. Samples may differ in cameras and
 * prompt length. `timing` may be NULL. PI0_E_INPUT when a value cannot be used (id out of range,
 * NaN, no valid camera or token …). */
PI0_API pi0_status pi0_engine_infer(pi0_engine *engine, const struct pi0_input *in, int n,
                                    int n_steps, float *actions, struct pi0_timing *timing,
                                    struct pi0_error *err);

/* Intermediates of the last call. Rows are those of the full prefix (C cameras, then max_token_len
 * tokens as given); rows that were not computed (masked camera, padding) read as 0. */
enum pi0_tap {
    PI0_TAP_PREFIX_EMBS =
        0, /* [P, W_vlm]: image tokens and scaled token embeddings, before layer 0. index: 0 */
    PI0_TAP_PREFIX_K,    /* [P, E] after RoPE. index: layer */
    PI0_TAP_PREFIX_V,    /* [P, E]. index: layer */
    PI0_TAP_SUFFIX_EMBS, /* [S, W_expert], S = H + 1 for π0 (row 0 the state token), H for π0.5.
                            index: step */
    PI0_TAP_ADARMS_COND, /* [W_expert], π0.5 only. index: step */
    PI0_TAP_V,           /* [H, A] velocity. index: step. Needs record_steps */
    PI0_TAP_X            /* [H, A] before the step. index: step. Needs record_steps */
};

/* Copies one intermediate of sample `sample` into dst [n] float32; n must be the tap's exact size.
 * PI0_E_UNSUPPORTED when this backend keeps no such thing. */
PI0_API pi0_status pi0_engine_read(pi0_engine *engine, enum pi0_tap tap, int index, int sample,
                                   float *dst, size_t n, struct pi0_error *err);

/* Number of float32 values of a tap; 0 for one that the model does not have. */
PI0_API size_t pi0_engine_tap_size(const pi0_engine *engine, enum pi0_tap tap);

struct pi0_engine_info {
    const pi0_model *model; /* that it was opened with */
    const char *backend;    /* "cpu", "cuda" */
    const char *device;     /* processor or GPU name */
    const char *isa;        /* "scalar", "avx512_bf16", "sm_90a" … what the kernels use */
    enum pi0_precision precision;
    int n_threads, max_batch, action_horizon, action_dim, max_token_len, max_steps;
    uint64_t weight_bytes;  /* packed or uploaded weights */
    uint64_t cache_bytes;   /* K/V cache */
    uint64_t scratch_bytes; /* activations and tables */
    double open_ms;         /* how long opening took */
};
/* Strings live as long as the engine. */
PI0_API void pi0_engine_info(const pi0_engine *engine, struct pi0_engine_info *out);
/* The model's dimensions with this engine's action_horizon and max_token_len. */
PI0_API void pi0_engine_dims(const pi0_engine *engine, struct pi0_dims *out);

/* Work of one call by stage: what the arithmetic asks for, whoever does it. */
struct pi0_stage_work {
    const char *name;        /* "vision", "prefix", "denoise" */
    int n_rows;              /* tokens through the stage (denoise: a step) */
    double flops;            /* 2 a multiply-add, matrix products and attention */
    double weight_bytes;     /* each weight once (denoise: once a step) */
    double activation_bytes; /* inputs and outputs of the stage, and the K/V it reads */
};
#define PI0_N_STAGES 3
/* For n samples that each have `n_cameras` computed cameras and `n_tokens` valid tokens. */
PI0_API pi0_status pi0_engine_work(const pi0_engine *engine, int n, int n_cameras, int n_tokens,
                                   int n_steps, struct pi0_stage_work out[PI0_N_STAGES],
                                   struct pi0_error *err);

struct pi0_kernel_choice {
    char op[48];     /* "prefix gate·up" */
    char kernel[64]; /* "linear_bf16_avx512bf16" */
    int m, n, k;     /* rows, output features, input features; 0 where it has no such meaning */
};
/* Kernel i of the engine, i from 0; 0 returned past the last one, else 1. */
PI0_API int pi0_engine_kernel(const pi0_engine *engine, int i, struct pi0_kernel_choice *out);

/* What one op of a call takes by itself. `us` is a layer's (the denoising loop's: a call's), the
 * median over bursts with pauses between them; a burst is the op of every layer in turn, each with
 * its own weights, so that these come from memory where they do in a call. */
struct pi0_kernel_time {
    char op[48];      /* "vision fc1"; "" past the last op */
    char kernel[64];  /* what ran, several joined by " + " */
    char also[96];    /* what it does beside the op's own arithmetic: "LayerNorm, bias"; "" */
    char library[32]; /* whose plain product stands beside it: "cuBLASLt"; "" where there is none */
    int count;        /* times in a call; 0: not in a call of this shape, and nothing was timed */
    int m, n, k;      /* rows, output features, input features; attention: rows, keys, head size */
    double flops, bytes; /* of one: arithmetic; weights, inputs and outputs once */
    double us, us_min;
    double library_us; /* median of the best algorithm that the library offers: the product alone,
                          bf16 in and out, bursts in turn with ours */
};
/* Times op i, from 0, at the shapes of the last call, which must have ended well. For measurement:
 * it takes a second or so, and taps cannot be read until the next call. PI0_E_UNSUPPORTED where the
 * backend cannot. */
PI0_API pi0_status pi0_engine_time_kernel(pi0_engine *engine, int i, struct pi0_kernel_time *out,
                                          struct pi0_error *err);

/* ---------------------------------------------------------------- policy */

typedef struct pi0_policy pi0_policy;

struct pi0_policy_config {
    const char *tokenizer;  /* SentencePiece model file; NULL = tokenizer.model or
                               paligemma_tokenizer.model beside  the checkpoint. Its absence matters
                               only when a text must be tokenised */
    const char *norm_stats; /* norm_stats.json; NULL = found in the checkpoint's directory */
    const char
        *default_prompt; /* used when an observation has none; NULL = the checkpoint's, if any */
    const char *robot;   /* "libero", "droid", "aloha", "none"; NULL = as preset and pi0.json say,
                            else "none" */
    int allow_no_stats; /* non-zero: without statistics state and actions pass unnormalised. Default
                           0 */
    int lerobot_padded_state; /* non-zero: a lerobot π0.5 prompt states A numbers, zeros behind the
                                 robot's own, as releases before transformers 5 trained. Default 0
                               */
};
PI0_API void pi0_policy_defaults(struct pi0_policy_config *config);

/* Borrows model and engine (which must be this model's) for its own lifetime; `config` may be NULL.
 */
PI0_API pi0_status pi0_policy_open(pi0_policy **out, const pi0_model *model, pi0_engine *engine,
                                   const struct pi0_policy_config *config, struct pi0_error *err);
PI0_API void pi0_policy_close(pi0_policy *policy);

struct pi0_named_image {
    const char *name;      /* a model slot ("base_0_rgb") or the robot's own key ("cam_high",
                              "observation/image") */
    const uint8_t *pixels; /* [height, width, 3] u8, RGB */
    int height, width;
};

struct pi0_observation {
    const struct pi0_named_image *images;
    int n_images;
    const double *state; /* [n_state] in the robot's units and order */
    int n_state;
    const char *prompt; /* UTF-8, prompt_bytes long, no terminator needed; NULL = default prompt */
    size_t prompt_bytes;
    const int32_t
        *tokens; /* token ids instead of a prompt, used as they are; NULL = tokenise the prompt */
    int n_tokens;
    const float *noise; /* [H, A]; NULL = drawn from seed */
    uint64_t seed;
    int n_steps; /* 0 = 10, or the checkpoint's own number */
};

struct pi0_policy_info {
    int action_horizon;         /* H */
    int robot_action_dim;       /* D: numbers an action has for this robot */
    int robot_state_dim;        /* expected n_state; 0 = any up to A */
    const char *robot;          /* mapping in force */
    const char *normalization;  /* "z-score", "quantile", … */
    const char *default_prompt; /* "" when none */
    int has_tokenizer, has_stats, discrete_state;
    int n_steps; /* used when an observation says 0 */
};
/* Strings live as long as the policy. */
PI0_API void pi0_policy_info(const pi0_policy *policy, struct pi0_policy_info *out);

/* actions [n, H, D] float64 in the robot's units, D = robot_action_dim. n ≤ the engine's max_batch;
 * all observations must ask for the same n_steps. */
PI0_API pi0_status pi0_policy_infer(pi0_policy *policy, const struct pi0_observation *obs, int n,
                                    double *actions, struct pi0_timing *timing,
                                    struct pi0_error *err);

/* What the model was fed for observation 0 of the last call, for inspection. Pointers live until
 * the next call. */
struct pi0_policy_trace {
    const uint8_t *pixels[PI0_MAX_CAMERAS]; /* [image_size, image_size, 3] */
    uint8_t camera_mask[PI0_MAX_CAMERAS];
    const int32_t *tokens; /* [n_tokens] valid ids */
    int n_tokens;
    const float *state;         /* [A] normalised, padded */
    const float *noise;         /* [H, A] */
    const float *model_actions; /* [H, A] */
    int n_tokens_cut; /* prompt tokens past max_token_len, cut off as openpi does: worth a warning */
    double preprocess_ms, postprocess_ms;
};
PI0_API void pi0_policy_trace(const pi0_policy *policy, struct pi0_policy_trace *out);

/* ---------------------------------------------------------------- tools */

/* Decodes a JPEG or PNG (any bit depth, grey or colour; alpha is dropped) to [height, width, 3] u8
 * RGB. The caller frees *pixels with pi0_free. PI0_E_FORMAT for anything else, at most 16384 pixels
 * a side. */
PI0_API pi0_status pi0_image_load(const char *path, uint8_t **pixels, int *height, int *width,
                                  struct pi0_error *err);
PI0_API pi0_status pi0_image_decode(const void *bytes, size_t n_bytes, uint8_t **pixels,
                                    int *height, int *width, struct pi0_error *err);
PI0_API void pi0_free(void *pointer);

/* Writes a synthetic checkpoint (model.safetensors, config.json) of these dimensions into DIR,
 * which is made if absent. Values: docs/model.md, "synthetic weights". Streams; nothing
 * half-written is left behind on failure. */
PI0_API pi0_status pi0_synth_write(const char *dir, const struct pi0_dims *dims, uint64_t seed,
                                   pi0_progress_fn progress, void *progress_user,
                                   struct pi0_error *err);

/* n float32 values with the distribution of noise (standard normal), a function of seed alone. */
PI0_API void pi0_noise(float *dst, size_t n, uint64_t seed);

struct pi0_check_stage {
    char name[32]; /* the tensor's name in the file: "prefix_k", "actions" … */
    double rel_l2, cosine, max_abs;
    double tolerance; /* bound on rel_l2 that was applied; 0: reported, not judged */
    size_t n_values;  /* values compared: valid rows only */
    int pass;
};
#define PI0_CHECK_MAX_STAGES 24
struct pi0_check_options {
    double tolerance;  /* on rel_l2 of the stages that are judged; 0 = 2e-5 in float32, 5e-3 on
                          actions in bf16 */
    double min_cosine; /* on actions; 0 = 0.9999 */
};
/* Runs the inputs stored in a golden file (io.safetensors) and compares every stage it holds.
 * The engine needs record_steps. `n_steps` is the case's; `options` may be NULL. *n_stages ≤
 * PI0_CHECK_MAX_STAGES. */
PI0_API pi0_status pi0_check_file(pi0_engine *engine, const char *io_path, int n_steps,
                                  const struct pi0_check_options *options,
                                  struct pi0_check_stage stages[PI0_CHECK_MAX_STAGES],
                                  int *n_stages, struct pi0_error *err);

/* Reads a golden case's config.json: its dimensions, weight seed, step count, and the folder that
 * holds its weights
 * ("" = synthetic from seed). Buffers are the caller's. */
struct pi0_case {
    char name[64];
    struct pi0_dims dims;
    uint64_t seed;
    int n_steps;
    char weights_dir[1024];
};
PI0_API pi0_status pi0_case_read(struct pi0_case *out, const char *dir, struct pi0_error *err);

#ifdef __cplusplus
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif
}
#endif
#endif
