/* SPDX-License-Identifier: Apache-2.0
 * replay: runs one fuzz target over its kept corpus (tests/fuzz/corpus/<thing>, the name taken from
 * the program's own: replay_<thing>), so that every crasher ever kept is a test of every build.
 * The search for new ones is libFuzzer's: `make fuzz`. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads a whole file into a block of exactly its size, so that a sanitizer sees a read past it. */
static uint8_t *read_all(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    uint8_t *data = NULL;
    long n = -1;
    if (fseek(f, 0, SEEK_END) == 0)
        n = ftell(f);
    if (n >= 0 && fseek(f, 0, SEEK_SET) == 0) {
        data = malloc(n ? (size_t)n : 1);
        if (data && fread(data, 1, (size_t)n, f) != (size_t)n) {
            free(data);
            data = NULL;
        }
    }
    fclose(f);
    *size = n < 0 ? 0 : (size_t)n;
    return data;
}

int main(int argc, char **argv)
{
    const char *thing = argc > 0 ? strstr(argv[0], "replay_") : NULL;
    char dir[512], path[1024];
    int passed = 0, failed = 0;
    if (!thing)
        return 2;
    snprintf(dir, sizeof dir, "tests/fuzz/corpus/%s", thing + strlen("replay_"));
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        size_t size;
        uint8_t *data = read_all(path, &size);
        if (data) {
            LLVMFuzzerTestOneInput(data, size);
            passed++;
        } else {
            printf("%s: cannot be read\n", path);
            failed++;
        }
        free(data);
    }
    if (d)
        closedir(d);
    if (passed == 0) {
        printf("%s: no seed\n", dir);
        failed++;
    }
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed != 0;
}
