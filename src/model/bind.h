/* SPDX-License-Identifier: Apache-2.0
 * bind: a set of mapped tensors → the table of weights.h. Tells the variant and the dimensions from
 * names and shapes, holds them against the config, and checks every tensor. */
#ifndef PI0_MODEL_BIND_H
#define PI0_MODEL_BIND_H

#include "io/safetensors.h"
#include "model/config.h"
#include "model/weights.h"

struct bind_count {
    int used;   /* tensors of the file that the table holds */
    int unused; /* the others */
};

/* Fills c->dims (config_finish included) and *w, which is left empty on failure. Views stay valid
 * as long as `files`. */
pi0_status weights_bind(struct weights *w, struct config *c, const struct st_set *files,
                        struct bind_count *count, struct pi0_error *err);

#endif
