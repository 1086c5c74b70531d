/* SPDX-License-Identifier: Apache-2.0
 * lerobot: what a lerobot checkpoint says about its pre- and postprocessing: policy_preprocessor.json
 * and policy_postprocessor.json, the statistics in the safetensors files that they name, and the
 * features of config.json. Formulas are normalize.h's; the walk through them is policy.c's. */
#ifndef PI0_POLICY_LEROBOT_H
#define PI0_POLICY_LEROBOT_H

#include "model/config.h"
#include "policy/normalize.h"
#include "policy/robot.h"

#include <stddef.h>

#define LEROBOT_MAX_BYTES ((size_t)4 << 20) /* of a processor file */
#define LEROBOT_FILE_BYTES 256              /* of a file name in it */

/* NormalizationMode of lerobot's configs/types.py. */
enum lerobot_mode {
    LEROBOT_IDENTITY = 0,
    LEROBOT_MEAN_STD,
    LEROBOT_MIN_MAX,
    LEROBOT_QUANTILES,
    LEROBOT_QUANTILE10
};

/* What inference needs of one processor file. */
struct lerobot_processor {
    int has_normalizer; /* a normalizer_processor or unnormalizer_processor step */
    enum lerobot_mode state_mode, action_mode;
    double eps;
    char state_file[LEROBOT_FILE_BYTES]; /* "" = the step has no statistics */
    int has_relative;     /* a relative_actions_processor or absolute_actions_processor step … */
    int relative_enabled; /* … that is on */
    signed char relative[STATS_MAX_DIM]; /* 1: the state is added to this action dim */
    int n_relative;                      /* dims named; those past them are relative */
};

/* `label` names the file in messages. Fuzzed. */
pi0_status lerobot_parse(struct lerobot_processor *out, const void *bytes, size_t n_bytes,
                         const char *label, struct pi0_error *err);

struct lerobot {
    struct robot_map map; /* cameras in feature order, dims, relative actions */
    struct norm_stats stats;
    int has_stats; /* 0: neither statistics nor a step that needs them */
};

/* Reads DIR. Statistics that a step needs and DIR lacks are PI0_E_MODEL, unless `need_stats` is 0:
 * then values pass as they are, as lerobot lets them. */
pi0_status lerobot_load(struct lerobot *out, const char *dir, const struct config *config,
                        int need_stats, struct pi0_error *err);

#endif
