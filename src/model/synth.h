/* SPDX-License-Identifier: Apache-2.0
 * synth: the values of a synthetic checkpoint, a function of tensor name, seed and flat index
 * (docs/model.md "Synthetic weights"): the same numbers whether written to a file by
 * pi0_synth_write or computed when an engine reads them. */
#ifndef PI0_MODEL_SYNTH_H
#define PI0_MODEL_SYNTH_H

#include "model/weights.h"

/* Makes e->field the synthetic tensor of that entry. */
void synth_tensor(const struct weight_entry *e, uint64_t seed);

/* bf16 values [first, first + n) of a synthetic tensor. */
void synth_fill(const struct tensor *t, size_t first, size_t n, uint16_t *dst);

/* Weights of a whole model: allocates and fills the table. */
pi0_status synth_weights(struct weights *w, const struct pi0_dims *d, uint64_t seed,
                         struct pi0_error *err);

#endif
