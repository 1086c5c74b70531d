/* SPDX-License-Identifier: Apache-2.0
 * model: what a pi0_model is to the code below the public header. Immutable after open. */
#ifndef PI0_MODEL_MODEL_H
#define PI0_MODEL_MODEL_H

#include "model/config.h"
#include "model/schedule.h"
#include "model/weights.h"

struct pi0_model {
    struct config config;
    struct weights weights;
    struct pi0_model_info info;
    struct st_set *files; /* io/safetensors.h; NULL when synthetic */
    char *dir;            /* "" when synthetic */
};

/* Which rounding of the step times this model gets: openpi's own for an openpi checkpoint, lerobot's
 * for lerobot's and for those with explicit dimensions (the golden cases were made by lerobot's
 * code) and synthetic ones. */
static inline enum schedule_form model_schedule(const struct pi0_model *m)
{
    return m->config.source == PI0_SOURCE_OPENPI && !m->config.said.dims.vision_width
               ? SCHEDULE_ACCUMULATED
               : SCHEDULE_DIRECT;
}

#endif
