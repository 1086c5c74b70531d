/* SPDX-License-Identifier: Apache-2.0
 * Memory that runs out at the nth request while a policy opens, for every n: an error, no half-open
 * policy, and nothing kept. Every malloc of the process goes through the functions below, jansson's
 * too. Not under sanitizers, which do the same. No tokenizer is read: the protobuf code inside
 * libsentencepiece does not survive a failed allocation, which is out of reach here.
 * jansson 2.14 may lose a byte of a token whose text it cannot grow and finish nevertheless, so an
 * open that succeeds in spite of the failed request is accepted. */
#include "pi0.h"

#include "scratch_dir.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define REPLACED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define REPLACED 0
#endif
#endif
#if !defined(REPLACED) && defined(__GLIBC__)
#define REPLACED 1
#endif
#ifndef REPLACED
#define REPLACED 0
#endif

#if REPLACED
static int counting, fail_at, n_requests, n_held; /* one thread while counting */

static int refuse(void)
{
    if (!counting)
        return 0;
    n_requests++;
    return fail_at > 0 && --fail_at == 0;
}

/* The libraries must find these, so they cannot be hidden as all else is. */
#pragma GCC visibility push(default)

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void __libc_free(void *p);

static void *held(void *p)
{
    n_held += counting && p;
    return p;
}

void *malloc(size_t n)
{
    if (refuse()) {
        errno = ENOMEM;
        return NULL;
    }
    return held(__libc_malloc(n));
}

void *calloc(size_t n, size_t size)
{
    if (refuse()) {
        errno = ENOMEM;
        return NULL;
    }
    return held(__libc_calloc(n, size));
}

void *realloc(void *p, size_t n)
{
    if (refuse()) {
        errno = ENOMEM;
        return NULL;
    }
    void *q = __libc_realloc(p, n);
    n_held += counting && !p && q;
    return q;
}

void free(void *p)
{
    n_held -= counting && p;
    __libc_free(p);
}

#pragma GCC visibility pop

/* Opens with request n failing (0: none); returns how many requests there were. */
static int open_with(const struct scratch_dir *d, const pi0_model *m, pi0_engine *e, int n)
{
    struct pi0_policy_config cfg;
    struct pi0_error err = { PI0_OK, "" };
    pi0_policy *p = NULL;
    pi0_policy_defaults(&cfg);
    cfg.norm_stats = scratch_path(d, "norm_stats.json");
    n_requests = n_held = 0;
    fail_at = n;
    counting = 1;
    pi0_status st = pi0_policy_open(&p, m, e, &cfg, &err);
    if (st == PI0_OK)
        pi0_policy_close(p);
    counting = fail_at = 0;
    if (n == 0 && st)
        fail_msg("%s", err.message);
    if (st && p)
        fail_msg("request %d failed: a policy was returned", n);
    if (st && (st != err.status || (st != PI0_E_NOMEM && st != PI0_E_FORMAT)))
        fail_msg("request %d failed: %s, %s", n, pi0_status_name(st), err.message);
    if (n_held)
        fail_msg("request %d failed: %d blocks kept", n, n_held);
    return n_requests;
}

static void open_short_of_memory(void **state)
{
    (void)state;
    struct scratch_dir d;
    struct pi0_dims dims;
    struct pi0_error err;
    pi0_model *m = NULL;
    pi0_engine *e = NULL;
    struct pi0_engine_config cfg;
    pi0_engine_defaults(&cfg);
    cfg.backend = "cpu";
    cfg.n_threads = 1;
    scratch_make(&d);
    scratch_text(&d, "norm_stats.json",
                 "{\"norm_stats\":{\"state\":{\"mean\":[0,1],\"std\":[1,1]},"
                 "\"actions\":{\"mean\":[0.5],\"std\":[2],\"q01\":null}}}");
    assert_int_equal(pi0_dims_named(&dims, "pi0_tiny", NULL), PI0_OK);
    dims.vocab_size = 2048;
    if (pi0_model_open_synthetic(&m, &dims, 1, &err) || pi0_engine_open(&e, m, &cfg, &err))
        fail_msg("%s", err.message);
    int n = open_with(&d, m, e, 0);
    assert_true(n > 30); /* the injection does reach the parser */
    for (int i = 1; i <= n; i++)
        open_with(&d, m, e, i);
    pi0_engine_close(e);
    pi0_model_close(m);
    scratch_remove(&d);
}

#else

static void open_short_of_memory(void **state)
{
    (void)state;
    print_message("skipped: allocations cannot be refused under a sanitizer\n");
    skip();
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(open_short_of_memory) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
