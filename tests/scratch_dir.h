/* SPDX-License-Identifier: Apache-2.0
 * scratch_dir: a directory under /tmp that a test fills and that is removed with all it holds.
 * Failures end the test. */
#ifndef PI0_TESTS_SCRATCH_DIR_H
#define PI0_TESTS_SCRATCH_DIR_H

#include <stddef.h>

struct scratch_dir {
    char path[64];
};

void scratch_make(struct scratch_dir *d);
void scratch_remove(struct scratch_dir *d);

/* "<dir>/<name>"; the buffer is static, four calls deep. */
const char *scratch_path(const struct scratch_dir *d, const char *name);
/* Writes a file, and the folders its name asks for. */
void scratch_put(const struct scratch_dir *d, const char *name, const void *bytes, size_t n);
void scratch_text(const struct scratch_dir *d, const char *name, const char *text);
void scratch_copy(const struct scratch_dir *d, const char *name, const char *from);
void scratch_drop(const struct scratch_dir *d, const char *name);

/* A safetensors file of float32 vectors: names[i] has n values from values[i]. */
void scratch_vectors(const struct scratch_dir *d, const char *name, const char *const *names,
                     const float *const *values, int n_vectors, int n);

#endif
