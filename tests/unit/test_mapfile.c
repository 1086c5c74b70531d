/* SPDX-License-Identifier: Apache-2.0
 * Files as bytes: what is read and mapped, limits at the limit and one past, and everything that is
 * not a regular file refused without waiting on it. */
#include "io/mapfile.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static char dir[] = "/tmp/pi0-mapfile-XXXXXX";
static char path[256];

static const char *in_dir(const char *name)
{
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void write_file(const char *p, const void *bytes, size_t n)
{
    FILE *f = fopen(p, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static int make_dir(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    (void)state;
    static const char *const names[] = { "f", "fifo", "socket" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        unlink(in_dir(names[i]));
    return rmdir(dir);
}

static void reads_and_maps_the_same(void **state)
{
    (void)state;
    unsigned char *text;
    size_t n;
    struct mapfile m;
    write_file(in_dir("f"), "a\0b\xFF", 4);
    assert_int_equal(file_read(&text, &n, path, 4, NULL), PI0_OK);
    assert_int_equal(n, 4);
    assert_memory_equal(text, "a\0b\xFF\0", 5); /* the fifth is the NUL behind it */
    assert_int_equal(mapfile_open(&m, path, NULL), PI0_OK);
    assert_int_equal(m.size, 4);
    assert_memory_equal(m.data, text, 4);
    free(text);
    mapfile_close(&m);
    assert_null(m.data);
    mapfile_close(&m);
    mapfile_close(NULL);
}

static void empty_file(void **state)
{
    (void)state;
    unsigned char *text;
    size_t n;
    struct mapfile m;
    write_file(in_dir("f"), "", 0);
    assert_int_equal(file_read(&text, &n, path, 0, NULL), PI0_OK);
    assert_int_equal(n, 0);
    assert_int_equal(text[0], 0);
    free(text);
    assert_int_equal(mapfile_open(&m, path, NULL), PI0_OK);
    assert_null(m.data);
    assert_int_equal(m.size, 0);
    mapfile_close(&m);
}

static void limit_and_one_past(void **state)
{
    (void)state;
    struct pi0_error err;
    unsigned char *text = NULL;
    size_t n = 99;
    write_file(in_dir("f"), "12345", 5);
    assert_int_equal(file_read(&text, &n, path, 5, &err), PI0_OK);
    free(text);
    text = NULL;
    n = 99;
    assert_int_equal(file_read(&text, &n, path, 4, &err), PI0_E_FORMAT);
    assert_non_null(strstr(err.message, "5 bytes, expected at most 4"));
    assert_null(text); /* untouched on failure */
    assert_int_equal(n, 99);
}

static void expect_refused(const char *p, const char *why)
{
    struct pi0_error err = { 0 };
    unsigned char *text = NULL;
    size_t n = 0;
    struct mapfile m = { 0 };
    assert_int_equal(mapfile_open(&m, p, &err), PI0_E_IO);
    assert_non_null(strstr(err.message, p));
    assert_non_null(strstr(err.message, why));
    assert_null(m.data);
    err = (struct pi0_error){ 0 };
    assert_int_equal(file_read(&text, &n, p, 100, &err), PI0_E_IO);
    assert_non_null(strstr(err.message, why));
    assert_null(text);
}

static void only_regular_files(void **state)
{
    (void)state;
    expect_refused(in_dir("absent"), "No such file");
    expect_refused(dir, "is a directory");
    expect_refused("/dev/zero", "is a device");
    expect_refused("/dev/null", "is a device");
    assert_int_equal(mkfifo(in_dir("fifo"), 0600), 0);
    expect_refused(path, "is a FIFO"); /* and does not wait for a writer */
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s/socket", dir);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof addr), 0);
    expect_refused(in_dir("socket"), "cannot be opened");
    close(fd);
}

static void unreadable_file(void **state)
{
    (void)state;
    write_file(in_dir("f"), "x", 1);
    assert_int_equal(chmod(path, 0), 0);
    int root = geteuid() == 0; /* who reads everything: become nobody for a moment */
    if (root && seteuid(65534) != 0) {
        print_message("skipped: root cannot become another user here\n");
        skip();
    }
    expect_refused(path, "Permission denied");
    if (root)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(path, 0600), 0);
}

static void joins_paths(void **state)
{
    (void)state;
    char buf[8] = "?";
    struct pi0_error err;
    assert_int_equal(path_join(buf, sizeof buf, "ab", "cdef", NULL), PI0_OK); /* 7 and the NUL */
    assert_string_equal(buf, "ab/cdef");
    assert_int_equal(path_join(buf, sizeof buf, "ab", "cdefg", &err), PI0_E_ARGUMENT);
    assert_non_null(strstr(err.message, "path of 8 bytes, expected less than 8"));
    assert_string_equal(buf, "ab/cdef"); /* untouched on failure */
    assert_int_equal(path_join(buf, sizeof buf, "ab/", "cdef", NULL), PI0_OK);
    assert_string_equal(buf, "ab/cdef");
    assert_int_equal(path_join(buf, sizeof buf, "/", "x", NULL), PI0_OK);
    assert_string_equal(buf, "/x");
    assert_int_equal(path_join(buf, sizeof buf, "12345678", "", NULL), PI0_E_ARGUMENT);
    assert_int_equal(path_join(buf, sizeof buf, "", "12345678", NULL), PI0_E_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_and_maps_the_same), cmocka_unit_test(empty_file),
        cmocka_unit_test(limit_and_one_past),      cmocka_unit_test(only_regular_files),
        cmocka_unit_test(unreadable_file),         cmocka_unit_test(joins_paths),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
