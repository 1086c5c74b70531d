/* SPDX-License-Identifier: Apache-2.0
 * model: what a pi0_model is to the code below the public header. Immutable after open. */
#ifndef PI0_MODEL_MODEL_H
#define PI0_MODEL_MODEL_H

#include "model/config.h"
#include "model/weights.h"

struct pi0_model {
    struct config config;
    struct weights weights;
    struct pi0_model_info info;
    struct st_set *files; /* io/safetensors.h; NULL when synthetic */
    char *dir;            /* "" when synthetic */
};

#endif
