/* SPDX-License-Identifier: Apache-2.0
 * After pi0_engine_open nothing is allocated: this program counts every malloc, calloc, realloc,
 * aligned allocation, mmap and brk-growing call made while calls run, by defining those functions
 * itself (glibc resolves its own and everybody's calls to them). Not under sanitizers, which do the
 * same. */
#include "golden_case.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTING 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define COUNTING 0
#endif
#endif
#if !defined(COUNTING) && defined(__GLIBC__)
#define COUNTING 1
#endif
#ifndef COUNTING
#define COUNTING 0
#endif

#if COUNTING
static atomic_int counting, count;

static void counted(void)
{
    if (atomic_load(&counting))
        atomic_fetch_add(&count, 1);
}

/* Shared libraries must find these, so they cannot be hidden as all else is. */
#pragma GCC visibility push(default)

void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t align, size_t n);

void *malloc(size_t n)
{
    counted();
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    counted();
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    counted();
    return __libc_realloc(p, n);
}

void *aligned_alloc(size_t align, size_t n)
{
    counted();
    return __libc_memalign(align, n);
}

void *memalign(size_t align, size_t n);
void *memalign(size_t align, size_t n)
{
    counted();
    return __libc_memalign(align, n);
}

void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset)
{
    counted();
    return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
}

#pragma GCC visibility pop

/* The counter itself: an allocation is seen. */
static void the_counter_counts(void **state)
{
    (void)state;
    atomic_store(&count, 0);
    atomic_store(&counting, 1);
    void *volatile p = malloc(10);
    void *volatile q = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    atomic_store(&counting, 0);
    assert_true(p && q != MAP_FAILED);
    assert_int_equal(atomic_load(&count), 2);
    free(p);
    munmap(q, 4096);
}

static void no_call_allocates_for(const char *name, enum pi0_precision precision, uint32_t isa)
{
    struct golden g;
    struct pi0_error err;
    struct pi0_engine_config cfg;
    static float actions[2 * 1024], tap[1 << 16];
    pi0_engine *e = NULL;
    if (golden_open(&g, name, &err))
        fail_msg("%s: %s", name, err.message);
    pi0_engine_defaults(&cfg);
    cfg.backend = "cpu";
    cfg.precision = precision;
    cfg.isa_mask = isa;
    cfg.n_threads = 2;
    cfg.max_batch = 2;
    cfg.record_steps = 1;
    if (pi0_engine_open(&e, g.model, &cfg, &err))
        fail_msg("%s", err.message);
    struct pi0_input in[2] = { g.in, g.in };
    in[1].camera_mask[0] = 0;
    in[1].n_tokens = 3;
    int bad = 0;
    atomic_store(&count, 0);
    atomic_store(&counting, 1);
    bad |= pi0_engine_infer(e, in, 1, 10, actions, NULL, &err); /* the first call, too */
    bad |= pi0_engine_infer(e, in, 2, 7, actions, NULL, &err);  /* tables of another step count */
    bad |= pi0_engine_infer(e, in + 1, 1, 1, actions, NULL, &err);
    for (int t = PI0_TAP_PREFIX_EMBS; t <= PI0_TAP_X; t++) {
        size_t n = pi0_engine_tap_size(e, (enum pi0_tap)t);
        if (n)
            bad |= pi0_engine_read(e, (enum pi0_tap)t, 0, 0, tap, n, &err);
    }
    atomic_store(&counting, 0);
    if (bad)
        fail_msg("%s", err.message);
    assert_int_equal(atomic_load(&count), 0);
    pi0_engine_close(e);
    golden_close(&g);
}

static void no_call_allocates(void **state)
{
    (void)state;
    uint32_t isa;
    const char *name;
    for (int k = 0; golden_isa(k, &isa, &name); k++)
        for (int precision = 0; precision < 2; precision++) {
            no_call_allocates_for("pi0_tiny", (enum pi0_precision)precision, isa);
            no_call_allocates_for("pi05_tiny", (enum pi0_precision)precision, isa);
        }
}

/* The same for a policy: images of any size, state, noise from a seed, token ids for the prompt (a
 * text would be tokenised by libsentencepiece, which allocates). */
static void no_policy_call_allocates(void **state)
{
    (void)state;
    struct pi0_error err;
    struct pi0_dims dims;
    struct pi0_engine_config cfg;
    struct pi0_policy_config policy_cfg;
    static uint8_t pixels[480 * 640 * 3];
    static double actions[2 * 6 * 8];
    static const double state8[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    static const int32_t ids[] = { 2, 17, 4 };
    pi0_model *m = NULL;
    pi0_engine *e = NULL;
    pi0_policy *p = NULL;
    pi0_engine_defaults(&cfg);
    cfg.backend = "cpu";
    cfg.max_batch = 2;
    pi0_policy_defaults(&policy_cfg);
    policy_cfg.allow_no_stats = 1;
    if (pi0_dims_named(&dims, "pi05_tiny", &err) || pi0_model_open_synthetic(&m, &dims, 1, &err) ||
        pi0_engine_open(&e, m, &cfg, &err) || pi0_policy_open(&p, m, e, &policy_cfg, &err))
        fail_msg("%s", err.message);
    const struct pi0_named_image big = { "base_0_rgb", pixels, 480, 640 };
    const struct pi0_named_image small = { "left_wrist_0_rgb", pixels, 7, 5 };
    const struct pi0_observation o[2] = { { .images = &big,
                                            .n_images = 1,
                                            .state = state8,
                                            .n_state = 8,
                                            .tokens = ids,
                                            .n_tokens = 3 },
                                          { .images = &small,
                                            .n_images = 1,
                                            .state = state8,
                                            .n_state = 1,
                                            .tokens = ids,
                                            .n_tokens = 1,
                                            .seed = 5 } };
    atomic_store(&count, 0);
    atomic_store(&counting, 1);
    int bad = pi0_policy_infer(p, o, 1, actions, NULL, &err);
    bad |= pi0_policy_infer(p, o, 2, actions, NULL, &err);
    atomic_store(&counting, 0);
    if (bad)
        fail_msg("%s", err.message);
    assert_int_equal(atomic_load(&count), 0);
    pi0_policy_close(p);
    pi0_engine_close(e);
    pi0_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_counter_counts),
        cmocka_unit_test(no_call_allocates),
        cmocka_unit_test(no_policy_call_allocates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

static void no_call_allocates(void **state)
{
    (void)state;
    print_message("skipped: allocations cannot be counted under a sanitizer\n");
    skip();
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(no_call_allocates) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
