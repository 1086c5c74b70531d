/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target: the command's readers of numbers (--state, --noise): .npy, JSON and CSV, and the
 * list of the command line. The first byte chooses. What is accepted must agree with its shape and
 * be readable to the last value. The command is no library: its file is taken in whole. */
#include "cli/files.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The two functions that files.c wants of the rest of the command. */
static int n_failures;
int fail(const char *format, ...)
{
    (void)format;
    n_failures++;
    return EXIT_BAD;
}
void interrupts_guard(const char *temporary) { (void)temporary; }

static void require(int holds)
{
    if (!holds)
        abort();
}

static volatile double sink;

static void check(const struct array *a)
{
    size_t n = 1;
    require(a->n_dims >= 0 && a->n_dims <= ARRAY_MAX_DIMS);
    for (int i = 0; i < a->n_dims; i++)
        n *= a->shape[i];
    require(n == a->n && a->n <= MAX_VALUES);
    for (size_t i = 0; i < a->n; i++)
        sink = a->v[i];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct array a = { 0 };
    size_t n = size - 1;
    char *text = malloc(n + 1);
    if (!text)
        return 0;
    memcpy(text, data + 1, n);
    text[n] = '\0'; /* as slurp() leaves it */
    int kind = data[0] % 4, before = n_failures;
    int code = kind == 0              ? parse_npy(&a, "fuzz", "x.npy", text, n)
               : kind == 1            ? parse_json(&a, "fuzz", "x.json", "state", text, n)
               : kind == 2            ? parse_csv(&a, "fuzz", "x.csv", text, n)
               : format_of_path(text) ? EXIT_BAD /* would name a file */
                                      : array_parse(&a, "fuzz", text, "state");
    if (code == EXIT_DONE)
        check(&a);
    else
        require(n_failures > before || kind == 3);
    array_free(&a);
    free(text);
    return 0;
}
