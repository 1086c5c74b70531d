/* SPDX-License-Identifier: Apache-2.0
 * config: what is known of a checkpoint besides its weights: dimensions, camera slots, which
 * pipeline it was trained with. Read from config.json (openpi's converter, lerobot, or a golden
 * case's explicit dimensions), pi0.json (ours) and the built-in train configs; range-checked here.
 * What only the policy needs is carried, not interpreted. */
#ifndef PI0_MODEL_CONFIG_H
#define PI0_MODEL_CONFIG_H

#include "base/status.h"

#include <jansson.h>

enum robot { ROBOT_NONE = 0, ROBOT_ALOHA, ROBOT_DROID, ROBOT_LIBERO };
enum norm_mode { NORM_ZSCORE = 0, NORM_QUANTILE };

/* Largest values config_check lets through; with them no row or size below overflows an int. */
#define CONFIG_MAX_IMAGE 4096 /* pixels a side */
#define CONFIG_MAX_CAMERA_TOKENS 4096
#define CONFIG_MAX_WIDTH 32768 /* of a layer, and of heads · head_dim */
#define CONFIG_MAX_MLP 262144
#define CONFIG_MAX_DEPTH 256
#define CONFIG_MAX_HEADS 256
#define CONFIG_MAX_HEAD_DIM 1024
#define CONFIG_MAX_VOCAB 4194304
#define CONFIG_MAX_ACTION_DIM 1024
#define CONFIG_MAX_HORIZON 1024
#define CONFIG_MAX_TOKEN_LEN 4096
#define CONFIG_MAX_STEPS 1000

#define CONFIG_NAME_BYTES 64
#define CONFIG_PROMPT_BYTES 512
#define CONFIG_MAX_MASK 64

/* The conventions of one openpi train config (docs/model.md; openpi src/openpi/training/config.py).
 */
struct train_config {
    char name[CONFIG_NAME_BYTES]; /* "pi0_libero"; "" = none */
    enum pi0_variant variant;
    int action_dim, action_horizon, max_token_len;
    enum norm_mode norm;
    int discrete_state; /* π0.5: state written into the prompt */
    enum robot robot;
    int adapt_to_pi;                          /* ALOHA: flips and gripper conversion */
    signed char delta_mask[CONFIG_MAX_MASK];  /* 1: action dim is relative to the state */
    int n_delta_mask;                         /* 0 = no delta step */
    char asset_id[2 * CONFIG_NAME_BYTES];     /* "physical-intelligence/libero":
                                                 assets/<asset_id>/norm_stats.json */
    char default_prompt[CONFIG_PROMPT_BYTES]; /* "" = none */
    int out_dim;                              /* robot action dims returned */
    int has_reset_pose;                       /* server metadata */
};

/* Built-in train configs, i from 0; NULL past the last. */
const struct train_config *train_config_at(int i);
const struct train_config *train_config_named(const char *name);

struct config {
    struct pi0_dims dims;
    enum pi0_source source;
    char camera_names[PI0_MAX_CAMERAS][CONFIG_NAME_BYTES]; /* lerobot: without the leading
                                                              "observation.images." */
    struct train_config
        train;       /* preset, then pi0.json's own fields over it; name "" if no preset */
    int num_steps;   /* 10, or the checkpoint's own number */
    json_t *lerobot; /* lerobot's config.json, owned; NULL otherwise. policy/ reads its features */
    /* What the files said, to be held against what the tensors say; 0 = silent. */
    struct {
        struct pi0_dims dims;     /* its variant: see `variant` */
        int variant;              /* 1 + enum pi0_variant */
        int norm, discrete_state; /* the fields of train were given */
    } said;
};

/* Reads DIR/config.json and DIR/pi0.json (each optional) and applies `preset` (may be NULL). What
 * stronger sources say replaces what weaker ones say: train config < config.json < pi0.json.
 * `dims` is left 0: bind.c fills it from the tensors, and config_finish does the rest. config_free
 * accepts what a failure left. */
pi0_status config_load(struct config *out, const char *dir, const char *preset,
                       struct pi0_error *err);

/* A JSON file's bytes; data NULL = there is no such file. */
struct config_file {
    const char *data;
    size_t size;
};
/* config_load without the files: pure, hostile input. */
pi0_status config_parse(struct config *c, struct config_file config_json,
                        struct config_file pi0_json, const char *preset, struct pi0_error *err);

/* c->dims holds what the tensors tell (0 where they cannot: vision_heads, n_cameras,
 * action_horizon, max_token_len). Holds it against what the files said, fills the rest from them
 * and from defaults, and checks the whole. */
pi0_status config_finish(struct config *c, struct pi0_error *err);

/* Dimensions that a config.json of explicit objects gives (a golden case, a synthetic
 * checkpoint). PI0_E_MODEL when one is missing. */
pi0_status config_dims(const struct config *c, struct pi0_dims *out, struct pi0_error *err);

/* Every dimension in range, and consistent. */
pi0_status config_check(const struct pi0_dims *d, struct pi0_error *err);
void config_free(struct config *c);

/* Camera slot names of a model that does not name its own: openpi's three, then "camera_3" … */
void config_default_cameras(char names[PI0_MAX_CAMERAS][CONFIG_NAME_BYTES]);

/* DIR/name into a block the caller frees; NULL when there is no such file. At most 16 MB. */
pi0_status config_read(unsigned char **out, size_t *size, const char *dir, const char *name,
                       struct pi0_error *err);

#endif
