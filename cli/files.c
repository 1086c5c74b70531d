/* SPDX-License-Identifier: Apache-2.0
 * files: arrays of numbers in and out: .npy (numpy.lib.format), JSON, CSV. Every byte read is
 * hostile: sizes are bounded, a parser takes (pointer, length). Every file written appears whole
 * or not at all: a temporary name in the same directory, then rename. */
#include "cli.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_LIMIT \
    ((size_t)256 << 20) /* a chunk of noise is 6.4 kB; this is no limit in practice */
#define MAX_VALUES ((size_t)16 << 20)

/* ---------------------------------------------------------------- reading */

int slurp(char **out, size_t *n, const char *what, const char *path, size_t limit)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail("%s %s: cannot be opened: %s", what, path, strerror(errno));
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        close(fd);
        return fail("%s %s: is a directory, expected a file", what, path);
    }
    size_t used = 0, room = 1 << 16;
    char *buf = malloc(room + 1);
    int code = EXIT_DONE;
    while (buf) {
        ssize_t got = read(fd, buf + used, room - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            code = fail("%s %s: cannot be read: %s", what, path, strerror(errno));
        if (got <= 0)
            break;
        used += (size_t)got;
        if (used > limit) {
            code = fail("%s %s: more than %zu bytes", what, path, limit);
            break;
        }
        if (used == room) {
            char *more = realloc(buf, 2 * room + 1);
            if (!more) {
                free(buf);
                buf = NULL;
                break;
            }
            buf = more;
            room *= 2;
        }
    }
    close(fd);
    if (!buf)
        return fail("%s %s: no memory for its content", what, path);
    if (code) {
        free(buf);
        return code;
    }
    buf[used] = '\0';
    *out = buf;
    *n = used;
    return EXIT_DONE;
}

const char *shape_text(char *buf, size_t bytes, const size_t *shape, int n_dims)
{
    size_t used = (size_t)snprintf(buf, bytes, "[");
    for (int i = 0; i < n_dims && used < bytes; i++)
        used += (size_t)snprintf(buf + used, bytes - used, "%s%zu", i ? ", " : "", shape[i]);
    if (used < bytes)
        snprintf(buf + used, bytes - used, "]");
    return buf;
}

void array_free(struct array *a)
{
    free(a->v);
    memset(a, 0, sizeof *a);
}

/* The text between the quotes behind 'key': in a .npy header, which is a Python dict of three known
 * keys. NULL if it is not there. */
static const char *npy_field(const char *header, const char *key)
{
    char quoted[32];
    snprintf(quoted, sizeof quoted, "'%s'", key);
    const char *p = strstr(header, quoted);
    if (!p)
        return NULL;
    p += strlen(quoted);
    p += strspn(p, " ");
    if (*p++ != ':')
        return NULL;
    return p + strspn(p, " ");
}

static int npy_shape(struct array *a, const char *p)
{
    if (!p || *p++ != '(')
        return -1;
    a->n = 1;
    for (;;) {
        p += strspn(p, " ");
        if (*p == ')')
            return 0;
        char *end;
        errno = 0;
        if (*p < '0' || *p > '9' || a->n_dims == ARRAY_MAX_DIMS)
            return -1;
        unsigned long long d = strtoull(p, &end, 10);
        if (errno || d > MAX_VALUES || (d && a->n > MAX_VALUES / d))
            return -1;
        a->shape[a->n_dims++] = (size_t)d;
        a->n *= (size_t)d;
        p = end + strspn(end, " ");
        if (*p == ',')
            p++;
        else if (*p != ')')
            return -1;
    }
}

/* numpy.lib.format: "\x93NUMPY", version, header length (2 bytes in version 1, else 4), header,
 * values. */
static int parse_npy(struct array *a, const char *what, const char *path, const char *bytes,
                     size_t n)
{
    const unsigned char *b = (const unsigned char *)bytes;
    if (n < 12 || memcmp(b, "\x93NUMPY", 6) != 0 || b[6] < 1 || b[6] > 3)
        return fail("%s %s: is no .npy file (numpy format 1 to 3)", what, path);
    size_t at = b[6] == 1 ? 10 : 12;
    size_t len = (size_t)b[8] | (size_t)b[9] << 8;
    if (b[6] > 1)
        len |= (size_t)b[10] << 16 | (size_t)b[11] << 24;
    if (len > n - at || len > 65536)
        return fail("%s %s: .npy header of %zu bytes in a file of %zu", what, path, len, n);
    char *header = malloc(len + 1);
    if (!header)
        return fail("%s %s: no memory", what, path);
    memcpy(header, bytes + at, len);
    header[len] = '\0';
    const char *descr = npy_field(header, "descr");
    const char *order = npy_field(header, "fortran_order");
    size_t width = descr && strncmp(descr, "'<f4'", 5) == 0   ? 4
                   : descr && strncmp(descr, "'<f8'", 5) == 0 ? 8
                                                              : 0;
    bool rows_first = order && strncmp(order, "False", 5) == 0;
    int bad = npy_shape(a, npy_field(header, "shape"));
    char found[24];
    snprintf(found, sizeof found, "%.*s", descr ? (int)strcspn(descr, ",}") : 4,
             descr ? descr : "none");
    free(header);
    if (!width)
        return fail("%s %s: dtype %s, expected '<f4' or '<f8'", what, path, found);
    if (bad || (!rows_first && a->n_dims > 1))
        return fail("%s %s: expected a C-ordered shape of at most %d dimensions and %zu values",
                    what, path, ARRAY_MAX_DIMS, MAX_VALUES);
    at += len;
    if (n - at != a->n * width)
        return fail("%s %s: %zu bytes of values, expected %zu", what, path, n - at, a->n * width);
    if (!(a->v = malloc((a->n ? a->n : 1) * sizeof *a->v)))
        return fail("%s %s: no memory for %zu values", what, path, a->n);
    for (size_t i = 0; i < a->n; i++) {
        if (width == 4) {
            float f;
            memcpy(&f, bytes + at + 4 * i, 4);
            a->v[i] = (double)f;
        } else {
            memcpy(&a->v[i], bytes + at + 8 * i, 8);
        }
    }
    return EXIT_DONE;
}

bool parse_double(const char *text, double *out)
{
    if (text[0] == '\0' || isspace((unsigned char)text[0]))
        return false;
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (*end || end == text || (errno == ERANGE && fabs(v) > 1.0))
        return false;
    *out = v;
    return true;
}

/* Appends one value, growing by doubling; false when memory or MAX_VALUES is at its end. */
static bool push(struct array *a, double x)
{
    if ((a->n & (a->n - 1)) == 0) {
        double *more =
            a->n < MAX_VALUES ? realloc(a->v, (a->n ? 2 * a->n : 1) * sizeof *more) : NULL;
        if (!more)
            return false;
        a->v = more;
    }
    a->v[a->n++] = x;
    return true;
}

/* Depth first; the first branch fixes the shape, the others must agree. 0 if they do. */
static int flatten_json(struct array *a, const json_t *j, int depth, bool first)
{
    if (json_is_number(j)) {
        if (first)
            a->n_dims = depth;
        return depth == a->n_dims && push(a, json_number_value(j)) ? 0 : -1;
    }
    if (!json_is_array(j) || depth == ARRAY_MAX_DIMS)
        return -1;
    size_t n = json_array_size(j);
    if (first)
        a->shape[depth] = n;
    else if (depth >= a->n_dims || a->shape[depth] != n)
        return -1;
    if (first && n == 0)
        a->n_dims = depth + 1;
    for (size_t i = 0; i < n; i++)
        if (flatten_json(a, json_array_get(j, i), depth + 1, first && i == 0))
            return -1;
    return 0;
}

static int parse_json(struct array *a, const char *what, const char *path, const char *key,
                      const char *bytes, size_t n)
{
    json_error_t e;
    json_t *root = json_loadb(bytes, n, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &e);
    if (!root)
        return fail("%s %s: line %d: %s", what, path, e.line, e.text);
    const json_t *j = json_is_object(root) ? json_object_get(root, key) : root;
    int bad = !j || !json_is_array(j) || flatten_json(a, j, 0, true);
    json_decref(root);
    if (bad)
        return fail("%s %s: expected an array of numbers (rows of equal length), or an object with "
                    "one under \"%s\"",
                    what, path, key);
    return EXIT_DONE;
}

/* Rows of numbers between commas; blank lines and lines that start with # are skipped. */
static int parse_csv(struct array *a, const char *what, const char *path, const char *text,
                     size_t n)
{
    size_t rows = 0, columns = 0, at = 0;
    for (int line = 1; at < n; line++) {
        const char *newline = memchr(text + at, '\n', n - at);
        size_t end = newline ? (size_t)(newline - text) : n, next = end + 1;
        while (end > at && (text[end - 1] == '\r' || text[end - 1] == ' '))
            end--;
        if (end == at || text[at] == '#') {
            at = next;
            continue;
        }
        size_t row = 0;
        for (size_t p = at; p <= end; row++) {
            const char *comma = memchr(text + p, ',', end - p);
            size_t stop = comma ? (size_t)(comma - text) : end;
            while (p < stop && text[p] == ' ')
                p++;
            char item[64];
            double x;
            size_t len = stop - p < sizeof item ? stop - p : sizeof item - 1;
            memcpy(item, text + p, len);
            while (len && item[len - 1] == ' ')
                len--;
            item[len] = '\0';
            if (stop - p >= sizeof item || !parse_double(item, &x))
                return fail("%s %s: line %d, column %zu: found \"%s\", expected a number", what,
                            path, line, row + 1, item);
            if (!push(a, x))
                return fail("%s %s: more than %zu values", what, path, MAX_VALUES);
            p = stop + 1;
        }
        if (rows && row != columns)
            return fail("%s %s: line %d has %zu numbers, the lines above %zu", what, path, line,
                        row, columns);
        columns = row;
        rows++;
        at = next;
    }
    a->n_dims = rows == 1 || columns == 1 ? 1 : 2;
    a->shape[0] = a->n_dims == 1 ? a->n : rows;
    a->shape[1] = columns;
    return EXIT_DONE;
}

enum file_format format_of_path(const char *path)
{
    const char *dot = strrchr(path, '.');
    if (!dot || strchr(dot, '/'))
        return 0;
    return strcmp(dot, ".json") == 0  ? FORMAT_JSON
           : strcmp(dot, ".csv") == 0 ? FORMAT_CSV
           : strcmp(dot, ".npy") == 0 ? FORMAT_NPY
                                      : 0;
}

int array_load(struct array *out, const char *what, const char *path, const char *key)
{
    char *bytes;
    size_t n;
    enum file_format format = format_of_path(path);
    if (!format)
        return fail("%s %s: expected a file that ends in .npy, .json or .csv", what, path);
    int code = slurp(&bytes, &n, what, path, FILE_LIMIT);
    if (code)
        return code;
    struct array a = { 0 };
    code = format == FORMAT_NPY    ? parse_npy(&a, what, path, bytes, n)
           : format == FORMAT_JSON ? parse_json(&a, what, path, key, bytes, n)
                                   : parse_csv(&a, what, path, bytes, n);
    free(bytes);
    if (!code && a.n == 0)
        code = fail("%s %s: holds no numbers", what, path);
    if (code) {
        array_free(&a);
        return code;
    }
    *out = a;
    return EXIT_DONE;
}

int array_parse(struct array *out, const char *what, const char *text, const char *key)
{
    if (format_of_path(text))
        return array_load(out, what, text, key);
    struct array a = { .n_dims = 1 };
    for (const char *p = text;;) {
        char item[64];
        double x;
        size_t len = strcspn(p, ","), keep = len < sizeof item ? len : sizeof item - 1;
        memcpy(item, p, keep);
        item[keep] = '\0';
        if (len >= sizeof item || !parse_double(item, &x) || !push(&a, x)) {
            size_t at = a.n + 1;
            array_free(&a);
            return fail("%s: number %zu is \"%s\"; expected numbers between commas (0.1,-0.2,…) or "
                        "a file that ends in .json, .npy or .csv",
                        what, at, item);
        }
        if (!p[len])
            break;
        p += len + 1;
    }
    a.shape[0] = a.n;
    *out = a;
    return EXIT_DONE;
}

/* ---------------------------------------------------------------- writing */

json_t *json_number(double value, int digits)
{
    if (!isfinite(value))
        return json_null();
    char text[40];
    snprintf(text, sizeof text, "%.*g", digits, value);
    return json_real(strtod(text, NULL));
}

json_t *json_seed(uint64_t seed)
{
    if (seed <= INT64_MAX)
        return json_integer((json_int_t)seed);
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)seed);
    return json_string(text);
}

#define JSON_EXACT JSON_REAL_PRECISION(17)

int print_json(const json_t *document, bool pretty)
{
    if (!document || json_dumpf(document, stdout,
                                JSON_REAL_PRECISION(15) | (pretty ? JSON_INDENT(1) : JSON_COMPACT)))
        return fail("stdout: cannot write the JSON result");
    putchar('\n');
    return EXIT_DONE;
}

static bool write_npy(FILE *f, const double *v, int rows, int columns)
{
    char header[128];
    int n =
        snprintf(header, sizeof header,
                 "{'descr': '<f8', 'fortran_order': False, 'shape': (%d, %d), }", rows, columns);
    while ((10 + n + 1) % 64) /* the values start at a multiple of 64 */
        header[n++] = ' ';
    header[n++] = '\n';
    const unsigned char head[10] = { 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)n, 0 };
    size_t count = (size_t)rows * (size_t)columns;
    return fwrite(head, 1, 10, f) == 10 && fwrite(header, 1, (size_t)n, f) == (size_t)n &&
           fwrite(v, sizeof *v, count, f) == count;
}

static bool write_values(FILE *f, enum file_format format, const json_t *document, const double *v,
                         int rows, int columns)
{
    if (format == FORMAT_NPY)
        return write_npy(f, v, rows, columns);
    if (format == FORMAT_JSON)
        return json_dumpf(document, f, JSON_EXACT | JSON_INDENT(1)) == 0 && fputc('\n', f) != EOF;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++)
            if (fprintf(f, "%.17g%c", v[(size_t)i * (size_t)columns + (size_t)j],
                        j + 1 < columns ? ',' : '\n') < 0)
                return false;
    return true;
}

/* Length of the directory part of a path, 0 when there is none. */
static size_t directory_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

int output_check(const char *what, const char *path)
{
    char dir[4096];
    struct stat st;
    size_t n = directory_length(path);
    if (strcmp(path, "-") == 0)
        return EXIT_DONE;
    if (n >= sizeof dir - 1)
        return fail("%s: a path of %zu bytes; at most %zu", what, n, sizeof dir - 2);
    memcpy(dir, n ? path : "./", n ? n : 2);
    dir[n ? n : 2] = '\0';
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return fail("%s %s: is a directory, expected a file name", what, path);
    if (access(dir, W_OK | X_OK))
        return fail("%s %s: its directory cannot be written: %s", what, path, strerror(errno));
    return EXIT_DONE;
}

int output_write(const char *path, enum file_format format, const json_t *document,
                 const double *values, int rows, int columns)
{
    if (strcmp(path, "-") == 0) {
        if (!write_values(stdout, format, document, values, rows, columns))
            return fail("stdout: cannot be written");
        return EXIT_DONE;
    }
    char temporary[4096 + 16];
    int n = snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    if (n < 0 || (size_t)n >= sizeof temporary)
        return fail("-o: a path of %zu bytes", strlen(path));
    int fd = mkstemp(temporary);
    if (fd < 0)
        return fail("-o %s: cannot be written: %s", path, strerror(errno));
    interrupts_guard(temporary);
    mode_t mask = umask(0);
    umask(mask);
    FILE *f = fdopen(fd, "wb");
    bool ok = f && fchmod(fd, 0666 & ~mask) == 0 &&
              write_values(f, format, document, values, rows, columns) && fflush(f) == 0 &&
              fsync(fd) == 0;
    int why = errno;
    if (f ? fclose(f) : close(fd)) {
        if (ok)
            why = errno;
        ok = false;
    }
    if (ok && rename(temporary, path)) {
        why = errno;
        ok = false;
    }
    if (!ok)
        unlink(temporary);
    interrupts_guard(NULL);
    return ok ? EXIT_DONE : fail("-o %s: cannot be written: %s", path, strerror(why));
}
