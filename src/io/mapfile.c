/* SPDX-License-Identifier: Apache-2.0
 * mapfile: see mapfile.h. Only regular files are taken: a FIFO, device or directory is refused
 * before anything could block on it. What the bytes mean belongs to the callers. A file that
 * shrinks while it is mapped cannot be guarded against here: the kernel then ends the process on
 * access (SIGBUS), as for every mapped file. */
#include "io/mapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *kind_name(mode_t mode)
{
    if (S_ISDIR(mode))
        return "a directory";
    if (S_ISFIFO(mode))
        return "a FIFO";
    if (S_ISSOCK(mode))
        return "a socket";
    return "a device";
}

static pi0_status io_fail(struct pi0_error *err, const char *path, const char *doing, int e)
{
    return pi0_fail(err, e == ENOMEM ? PI0_E_NOMEM : PI0_E_IO, "%s: %s: %s", path, doing,
                    strerror(e));
}

/* A descriptor of a regular file and its size. */
static pi0_status open_regular(int *fd_out, size_t *size, const char *path, struct pi0_error *err)
{
    /* O_NONBLOCK: opening a FIFO that nobody writes to must not wait. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return io_fail(err, path, "cannot be opened", errno);
    struct stat sb;
    if (fstat(fd, &sb) != 0) {
        pi0_status st = io_fail(err, path, "cannot be examined", errno);
        close(fd);
        return st;
    }
    if (!S_ISREG(sb.st_mode)) {
        close(fd);
        return pi0_fail(err, PI0_E_IO, "%s: is %s, expected a regular file", path,
                        kind_name(sb.st_mode));
    }
    if (sb.st_size < 0 || (uintmax_t)sb.st_size > SIZE_MAX / 2) {
        close(fd);
        return pi0_fail(err, PI0_E_IO, "%s: %jd bytes do not fit in the address space", path,
                        (intmax_t)sb.st_size);
    }
    *fd_out = fd;
    *size = (size_t)sb.st_size;
    return PI0_OK;
}

pi0_status mapfile_open(struct mapfile *out, const char *path, struct pi0_error *err)
{
    int fd;
    size_t size;
    pi0_status st = open_regular(&fd, &size, path, err);
    if (st)
        return st;
    void *data = NULL;
    if (size > 0) { /* mmap refuses a length of 0 */
        data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            st = io_fail(err, path, "cannot be mapped", errno);
    }
    close(fd); /* the mapping outlives the descriptor */
    if (st)
        return st;
    *out = (struct mapfile){ .data = data, .size = size };
    return PI0_OK;
}

void mapfile_close(struct mapfile *m)
{
    if (!m)
        return;
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->size);
    *m = (struct mapfile){ 0 };
}

/* Exactly `size` bytes of fd into dst. */
static pi0_status read_exactly(int fd, unsigned char *dst, size_t size, const char *path,
                               struct pi0_error *err)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, dst + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return io_fail(err, path, "cannot be read", errno);
        if (n == 0)
            return pi0_fail(err, PI0_E_IO, "%s: ended after %zu bytes, expected %zu", path, done,
                            size);
        done += (size_t)n;
    }
    return PI0_OK;
}

pi0_status file_read(unsigned char **out, size_t *size_out, const char *path, size_t limit,
                     struct pi0_error *err)
{
    int fd;
    size_t size;
    pi0_status st = open_regular(&fd, &size, path, err);
    if (st)
        return st;
    unsigned char *data = NULL;
    if (size > limit) {
        st = pi0_fail(err, PI0_E_FORMAT, "%s: %zu bytes, expected at most %zu", path, size, limit);
        goto done;
    }
    data = malloc(size + 1);
    if (!data) {
        st = pi0_fail(err, PI0_E_NOMEM, "%s: %zu bytes cannot be had", path, size + 1);
        goto done;
    }
    if ((st = read_exactly(fd, data, size, path, err)))
        goto done;
    data[size] = '\0';
    *out = data;
    *size_out = size;
    data = NULL;
done:
    free(data);
    close(fd);
    return st;
}

pi0_status path_join(char *buf, size_t buf_bytes, const char *dir, const char *name,
                     struct pi0_error *err)
{
    size_t n_dir = strlen(dir), n_name = strlen(name);
    size_t slash = n_dir > 0 && dir[n_dir - 1] == '/' ? 0 : 1;
    if (n_dir >= buf_bytes || n_name >= buf_bytes - n_dir ||
        n_dir + slash + n_name >= buf_bytes) /* the first two keep the sum from wrapping */
        return pi0_fail(err, PI0_E_ARGUMENT, "path of %zu bytes, expected less than %zu: %.200s",
                        n_dir + slash + n_name, buf_bytes, dir);
    memcpy(buf, dir, n_dir);
    if (slash)
        buf[n_dir] = '/';
    memcpy(buf + n_dir + slash, name, n_name + 1);
    return PI0_OK;
}
