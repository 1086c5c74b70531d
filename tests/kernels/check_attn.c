/* SPDX-License-Identifier: Apache-2.0
 * check_attn: attention of every instruction set against the plain one: the model's shapes and edge
 * shapes, with and without a hole of masked keys; masked values are NaN (nobody may read them), the
 * lanes behind the last key are large. Rows alone and rows together give the same bits. */
#include "backend/cpu/ops.h"
#include "check.h"
#include "peak.h"

#include <math.h>
#include <string.h>

struct shape {
    const char *op;
    int m, keys, e, hole_begin, hole_end;
    int spread; /* q and v lie in rows of other heads too, at odd places (vision) */
    enum dtype o;
    enum fill fill;
};

struct problem {
    struct shape s;
    struct attn_args args;
};

/* A block of n rows of e values, `offset` into rows of `stride`. */
static float *rows_of(int n, int stride, int offset, enum fill fill)
{
    return (float *)check_random((size_t)n * (size_t)stride, DT_F32, fill) + offset;
}

static struct problem make(const struct shape *s)
{
    struct problem p = { .s = *s };
    int stride = s->spread ? 3 * s->e + 8 : cpu_round_up(s->e, CPU_PANEL);
    int offset = s->spread ? s->e : 0, panels = (s->keys + CPU_PANEL - 1) / CPU_PANEL;
    float *keys = check_random((size_t)panels * CPU_PANEL * (size_t)s->e, DT_F32, s->fill);
    for (int j = s->keys; j < panels * CPU_PANEL; j++)
        for (int i = 0; i < s->e; i++)
            keys[((size_t)(j / CPU_PANEL) * (size_t)s->e + (size_t)i) * CPU_PANEL +
                 (size_t)(j % CPU_PANEL)] = 1e6f;
    float *v = rows_of(s->keys, stride, offset, FILL_NORMAL);
    for (int j = s->hole_begin; j < s->hole_end; j++)
        for (int i = 0; i < s->e; i++)
            v[(size_t)j * (size_t)stride + (size_t)i] = NAN;
    p.args =
        (struct attn_args){ .q = rows_of(s->m, stride, offset, s->fill),
                            .q_stride = stride,
                            .keys = keys,
                            .v = v,
                            .v_stride = stride,
                            .head_dim = s->e,
                            .n_keys = s->keys,
                            .hole_begin = s->hole_begin,
                            .hole_end = s->hole_end,
                            .scale = 1.0f / sqrtf((float)s->e),
                            .o_dtype = s->o,
                            .o_stride = cpu_stride(s->e, s->o),
                            .scratch = check_poisoned(cpu_scratch_bytes(s->keys) / 4, DT_F32) };
    return p;
}

static void *fresh_o(const struct problem *p)
{
    return check_poisoned((size_t)p->s.m * (size_t)p->args.o_stride, p->s.o);
}

static struct check_mat o_mat(const struct problem *p, const void *o)
{
    return (struct check_mat){ o, p->s.o, p->s.m, p->s.e, p->args.o_stride };
}

/* All rows, `step` at a time. */
static void call(const struct problem *p, attn_fn run, void *o, int step)
{
    struct attn_args a = p->args;
    a.o = o;
    for (int r = 0; r < p->s.m; r += step)
        run(&a, r, r + step < p->s.m ? r + step : p->s.m);
}

static void check_shape(const struct shape *s, attn_fn run, attn_fn plain, const char *isa)
{
    if (!check_begin("attn_f32/%s M=%d N=%d E=%d hole %d-%d%s → %s, %s", isa, s->m, s->keys, s->e,
                     s->hole_begin, s->hole_end, s->spread ? " spread" : "", dtype_name(s->o),
                     fill_name[s->fill]))
        return;
    struct problem p = make(s);
    void *want = fresh_o(&p), *got = fresh_o(&p), *again = fresh_o(&p), *parts = fresh_o(&p);
    call(&p, plain, want, CPU_ATTN_ROWS);
    call(&p, run, got, CPU_ATTN_ROWS);
    call(&p, run, again, CPU_ATTN_ROWS);
    call(&p, run, parts, 5);
    /* exp amplifies: a score of 40 in another order of summation is off by 40 · 1e-7. */
    check_close(o_mat(&p, got), o_mat(&p, want),
                s->o == DT_BF16 ? (struct check_bound){ 4e-3, 8e-3 }
                                : (struct check_bound){ 1e-5, 1e-4 });
    check_untouched(o_mat(&p, got), "past the head");
    check_same(o_mat(&p, again), o_mat(&p, got), "two runs");
    check_same(o_mat(&p, parts), o_mat(&p, got), "five rows at a time");
    check_end();
}

static const struct shape model[] = {
    { "vision", 256, 256, 72, 0, 0, 1, DT_BF16, FILL_NORMAL },
    { "prefix", 532, 532, 256, 0, 0, 0, DT_BF16, FILL_NORMAL },
    { "prefix", 968, 968, 256, 0, 0, 0, DT_BF16, FILL_NORMAL },
    { "suffix", 10, 543, 256, 0, 0, 0, DT_BF16, FILL_NORMAL },
    { "suffix", 51, 839, 256, 532, 788, 0, DT_BF16, FILL_NORMAL },
};

static void edge_shapes(attn_fn run, attn_fn plain, const char *isa)
{
    static const int rows[] = { 1, 2, 5, 6, 7, 11, 12, 13, 47, 48, 49 };
    static const struct {
        int keys, hole_begin, hole_end;
    } keys[] = { { 1, 0, 0 },   { 2, 0, 1 },    { 15, 0, 0 },  { 16, 15, 16 }, { 17, 0, 0 },
                 { 33, 0, 16 }, { 48, 16, 32 }, { 70, 5, 69 }, { 97, 0, 96 },  { 100, 64, 64 } };
    static const int heads[] = { 2, 16, 24, 32, 40, 72, 256, 26 };
    int turn = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t j = 0; j < sizeof keys / sizeof *keys; j++, turn++) {
            struct shape s = { "edge",
                               rows[i],
                               keys[j].keys,
                               heads[(turn + turn / 8) % 8],
                               keys[j].hole_begin,
                               keys[j].hole_end,
                               turn / 3 % 2,
                               turn / 2 % 2 ? DT_F32 : DT_BF16,
                               turn % 5 == 4   ? FILL_ZERO
                               : turn % 5 == 3 ? FILL_TINY
                                               : FILL_NORMAL };
            check_shape(&s, run, plain, isa);
        }
}

struct timed {
    const struct problem *p;
    attn_fn run;
    void *o;
};

static void run_timed(void *arg)
{
    const struct timed *t = arg;
    call(t->p, t->run, t->o, CPU_ATTN_ROWS);
}

static void model_shapes(attn_fn run, attn_fn plain, const char *isa, uint32_t mask)
{
    for (size_t i = 0; i < sizeof model / sizeof *model; i++) {
        struct shape s = model[i];
        s.m = CHECK_SLOW && s.m > 20 ? 20 : s.m > 100 ? 100 : s.m;
        check_shape(&s, run, plain, isa);
        s = model[i];
        if (!check_benching() ||
            !check_begin("attn_f32/%s %s M=%d N=%d E=%d", isa, s.op, s.m, s.keys, s.e))
            continue;
        struct problem p = make(&s);
        struct timed t = { &p, run, fresh_o(&p) };
        int n = s.keys - (s.hole_end - s.hole_begin);
        check_bench(4.0 * s.m * n * s.e, 8.0 * n * s.e, peak_gflops(PEAK_F32, mask), run_timed, &t);
        check_end();
    }
}

static void cases(void)
{
    struct cpu_ops plain, ops;
    uint32_t mask;
    const char *isa;
    int have;
    cpu_ops_fill(&plain, 0);
    attn_fn before = plain.attn.run;
    for (int i = 1; check_isa(i, &mask, &isa, &have); i++) {
        cpu_ops_fill(&ops, mask);
        if (ops.attn.run == before)
            continue; /* this set brings nothing new */
        before = ops.attn.run;
        if (!have) {
            check_skip("%s: this processor has no %s", ops.attn.name, isa);
            continue;
        }
        edge_shapes(ops.attn.run, plain.attn.run, isa);
        model_shapes(ops.attn.run, plain.attn.run, isa, mask);
    }
}

int main(int argc, char **argv) { return check_main(argc, argv, cases); }
