/* SPDX-License-Identifier: Apache-2.0
 * mapfile: a file's bytes, read-only: mapped (large) or read whole (small, with a limit). */
#ifndef PI0_IO_MAPFILE_H
#define PI0_IO_MAPFILE_H

#include "base/status.h"

struct mapfile {
    const unsigned char *data; /* NULL when the file is empty */
    size_t size;
};

pi0_status mapfile_open(struct mapfile *out, const char *path, struct pi0_error *err);
void mapfile_close(struct mapfile *m);

/* Whole file into a malloc'ed block with a NUL behind it (the caller frees); PI0_E_IO if it cannot
 * be read, PI0_E_FORMAT past `limit` bytes. */
pi0_status file_read(unsigned char **out, size_t *size, const char *path, size_t limit,
                     struct pi0_error *err);

/* dir + "/" + name into buf; PI0_E_ARGUMENT when it does not fit. */
pi0_status path_join(char *buf, size_t buf_bytes, const char *dir, const char *name,
                     struct pi0_error *err);

#endif
