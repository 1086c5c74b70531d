/* SPDX-License-Identifier: Apache-2.0
 * presets: openpi's train configs as far as inference needs them (openpi
 * src/openpi/training/config.py and misc/polaris_config.py). Checkpoints do not say which one they
 * were trained with; pi0.json or an option does. Those that PyTorch checkpoints cannot exist for
 * (π0-FAST, "debug", the stale paligemma_diffusion_droid) are left out. */
#include "model/config.h"

#include <string.h>

#define PI0(horizon, tokens)                                                   \
    .variant = PI0_VARIANT_PI0, .action_dim = 32, .action_horizon = (horizon), \
    .max_token_len = (tokens), .norm = NORM_ZSCORE
#define PI05(horizon, discrete)                                                 \
    .variant = PI0_VARIANT_PI05, .action_dim = 32, .action_horizon = (horizon), \
    .max_token_len = 200, .norm = NORM_QUANTILE, .discrete_state = (discrete)
/* Both arms' joints are relative to the state, both grippers absolute. */
#define ALOHA_DELTA .n_delta_mask = 14, .delta_mask = { 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0 }
#define ALOHA .robot = ROBOT_ALOHA, .adapt_to_pi = 1, .out_dim = 14
#define TROSSEN ALOHA, ALOHA_DELTA, .asset_id = "trossen"
#define DROID .robot = ROBOT_DROID, .asset_id = "droid", .out_dim = 8
#define DROID_DELTA .n_delta_mask = 8, .delta_mask = { 1, 1, 1, 1, 1, 1, 1, 0 }
#define LIBERO .robot = ROBOT_LIBERO, .asset_id = "physical-intelligence/libero", .out_dim = 7
#define LIBERO_DELTA .n_delta_mask = 7, .delta_mask = { 1, 1, 1, 1, 1, 1, 0 }

#define FOLD "fold the towel"
#define TUPPERWARE "open the tupperware and put the food on the plate"

static const struct train_config presets[] = {
    { .name = "pi0_aloha", PI0(50, 48), TROSSEN, .has_reset_pose = 1 },
    { .name = "pi05_aloha", PI05(50, 1), TROSSEN, .has_reset_pose = 1 },
    { .name = "pi0_aloha_towel",
      PI0(50, 48),
      TROSSEN,
      .default_prompt = FOLD,
      .has_reset_pose = 1 },
    { .name = "pi0_aloha_tupperware",
      PI0(50, 48),
      TROSSEN,
      .default_prompt = TUPPERWARE,
      .has_reset_pose = 1 },
    { .name = "pi0_aloha_pen_uncap", PI0(50, 48), TROSSEN, .default_prompt = "uncap the pen" },
    { .name = "pi05_aloha_pen_uncap", PI05(50, 1), TROSSEN, .default_prompt = "uncap the pen" },
    { .name = "pi0_aloha_sim",
      PI0(50, 48),
      ALOHA,
      .asset_id = "lerobot/aloha_sim_transfer_cube_human",
      .default_prompt = "Transfer cube" },
    { .name = "pi0_droid", PI0(10, 48), DROID },
    { .name = "pi05_droid", PI05(15, 1), DROID },
    { .name = "pi05_full_droid_finetune", PI05(16, 1), DROID, DROID_DELTA },
    { .name = "pi05_droid_finetune", PI05(16, 1), DROID },
    { .name = "pi05_droid_jointpos_polaris", PI05(15, 1), DROID, DROID_DELTA },
    { .name = "pi0_droid_jointpos_polaris", PI0(10, 100), DROID, DROID_DELTA },
    { .name = "pi0_droid_jointpos_100k_polaris", PI0(10, 100), DROID, DROID_DELTA },
    { .name = "pi0_libero", PI0(50, 48), LIBERO, LIBERO_DELTA },
    { .name = "pi0_libero_low_mem_finetune", PI0(50, 48), LIBERO, LIBERO_DELTA },
    { .name = "pi05_libero", PI05(10, 0), LIBERO },
};

const struct train_config *train_config_at(int i)
{
    return i >= 0 && (size_t)i < sizeof presets / sizeof presets[0] ? &presets[i] : NULL;
}

const struct train_config *train_config_named(const char *name)
{
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        if (strcmp(presets[i].name, name) == 0)
            return &presets[i];
    return NULL;
}
