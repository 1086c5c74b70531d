/* SPDX-License-Identifier: Apache-2.0
 * golden_case: a golden case opened for a test: its model and its stored inputs as a pi0_input. */
#ifndef PI0_TESTS_GOLDEN_CASE_H
#define PI0_TESTS_GOLDEN_CASE_H

#include "io/safetensors.h"
#include "model/model.h"

struct golden {
    struct pi0_case c;
    char io_path[512];
    pi0_model *model;
    struct st_set *io;
    struct pi0_input in; /* points into `io` and `aligned` */
    unsigned char *aligned;
};

/* tests/golden/<name>; the working directory is the repository's root. */
pi0_status golden_open(struct golden *g, const char *name, struct pi0_error *err);
void golden_close(struct golden *g);

/* Instruction-set masks that this machine can run in full, oldest first: i from 0, 0 returned past
 * the last one. The first is 0, the scalar code. */
int golden_isa(int i, uint32_t *mask, const char **name);

#endif
