/* SPDX-License-Identifier: Apache-2.0
 * check_norm: layer norm, RMS norm and RoPE of every instruction set against the plain ones: the
 * model's widths and edge widths, f32 and bf16 results, in place, rows alone and rows together. */
#include "backend/cpu/ops.h"
#include "check.h"

#include <math.h>
#include <string.h>

enum op { OP_LAYERNORM, OP_RMSNORM, N_NORM };
static const char *const op_name[] = { "layernorm_f32", "rmsnorm_f32" };

static norm_fn entry(const struct cpu_ops *o, enum op op)
{
    return op == OP_LAYERNORM ? o->layernorm.run : o->rmsnorm.run;
}

struct shape {
    int m, width, shift, in_place;
    enum dtype y;
    enum fill fill;
};

struct timed {
    norm_fn norm;
    rope_fn rope;
    struct norm_args norm_args;
    struct rope_args rope_args;
    int m;
};

static void run_timed(void *arg)
{
    const struct timed *t = arg;
    if (t->norm)
        t->norm(&t->norm_args, 0, t->m);
    else
        t->rope(&t->rope_args, 0, t->m);
}

static void check_norm(enum op op, norm_fn run, norm_fn plain, const char *isa,
                       const struct shape *s)
{
    if (!check_begin("%s/%s M=%d D=%d%s%s → %s, %s", op_name[op], isa, s->m, s->width,
                     s->shift ? " shift" : "", s->in_place ? " in place" : "", dtype_name(s->y),
                     fill_name[s->fill]))
        return;
    int xs = cpu_stride(s->width, DT_F32), ys = s->in_place ? xs : cpu_stride(s->width, s->y);
    size_t n = (size_t)s->m * (size_t)ys;
    float *x = check_random((size_t)s->m * (size_t)xs, DT_F32, s->fill);
    void *out[4];
    struct norm_args a = { .x = x,
                           .x_stride = xs,
                           .width = s->width,
                           .gain =
                               (float *)check_random((size_t)s->width + 1, DT_F32, FILL_NORMAL) + 1,
                           .y_dtype = s->y,
                           .y_stride = ys };
    if (s->shift)
        a.shift = (float *)check_random((size_t)s->width + 3, DT_F32, FILL_NORMAL) + 3;
    for (int i = 0; i < 4; i++) { /* plain, fast, fast again, fast row by row */
        struct norm_args b = a;
        out[i] = check_poisoned(n, s->y);
        if (s->in_place) {
            for (int r = 0; r < s->m; r++)
                memcpy((float *)out[i] + (size_t)r * (size_t)ys, x + (size_t)r * (size_t)xs,
                       (size_t)s->width * sizeof *x);
            b.x = out[i];
        }
        b.y = out[i];
        if (i < 3)
            (i ? run : plain)(&b, 0, s->m);
        for (int r = 0; i == 3 && r < s->m; r++)
            run(&b, r, r + 1);
    }
    struct check_mat want = { out[0], s->y, s->m, s->width, ys }, got = want, again = want,
                     alone = want;
    got.at = out[1];
    again.at = out[2];
    alone.at = out[3];
    check_close(got, want,
                s->y == DT_BF16 ? (struct check_bound){ 4e-3, 8e-3 }
                                : (struct check_bound){ 2e-6, 1e-5 });
    check_untouched(got, "past the width");
    check_same(again, got, "two runs");
    check_same(alone, got, "row by row");
    a.y = out[1];
    struct timed t = { .norm = run, .norm_args = a, .m = s->m };
    if (s->m > 200)
        check_bench(8.0 * s->m * s->width, (4.0 + (double)dtype_bytes(s->y)) * s->m * s->width, 0,
                    run_timed, &t);
    check_end();
}

static void norms(enum op op, const struct cpu_ops *ops, const struct cpu_ops *plain,
                  const char *isa)
{
    static const int widths[] = { 1, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 72, 127, 128, 200 };
    static const struct shape model[] = {
        { 512, 1152, 1, 0, DT_BF16, FILL_MIXED }, { 512, 1152, 1, 1, DT_F32, FILL_MIXED },
        { 532, 2048, 0, 0, DT_BF16, FILL_MIXED }, { 532, 2048, 0, 1, DT_F32, FILL_MIXED },
        { 10, 1024, 1, 0, DT_BF16, FILL_NORMAL }, { 50, 1024, 0, 0, DT_F32, FILL_NORMAL },
    };
    for (int i = 0; i < (int)(sizeof widths / sizeof *widths) * N_FILL; i++) {
        struct shape s = { 1 + i % 3, widths[i / N_FILL],           i % 2,
                           0,         i / 2 % 2 ? DT_F32 : DT_BF16, (enum fill)(i % N_FILL) };
        s.in_place = s.y == DT_F32 && i % 3 == 0;
        if (s.fill == FILL_TINY || (op == OP_LAYERNORM && s.width == 1))
            s.fill = FILL_ZERO; /* below eps only cancellation is left, in either order */
        check_norm(op, entry(ops, op), entry(plain, op), isa, &s);
    }
    for (size_t i = 0; i < sizeof model / sizeof *model; i++)
        check_norm(op, entry(ops, op), entry(plain, op), isa, &model[i]);
}

static void check_rope(rope_fn run, rope_fn plain, const char *isa, int m, int heads, int e)
{
    if (!check_begin("rope_f32/%s M=%d H=%d E=%d", isa, m, heads, e))
        return;
    int stride = cpu_stride(heads * e + 3, DT_F32), half = e / 2;
    float *angle_cos = check_random((size_t)m * (size_t)half, DT_F32, FILL_NORMAL);
    float *angle_sin = check_random((size_t)m * (size_t)half, DT_F32, FILL_NORMAL);
    float *x = check_random((size_t)m * (size_t)stride, DT_F32, FILL_NORMAL), *out[3];
    struct rope_args a = {
        .x_stride = stride, .n_heads = heads, .head_dim = e, .cos = angle_cos, .sin = angle_sin
    };
    for (int i = 0; i < 3; i++) {
        out[i] = check_poisoned((size_t)m * (size_t)stride, DT_F32);
        for (int r = 0; r < m; r++)
            memcpy(out[i] + (size_t)r * (size_t)stride, x + (size_t)r * (size_t)stride,
                   (size_t)(heads * e) * sizeof *x);
        a.x = out[i];
        if (i < 2)
            (i ? run : plain)(&a, 0, m);
        for (int r = 0; i == 2 && r < m; r++)
            run(&a, r, r + 1);
    }
    struct check_mat want = { out[0], DT_F32, m, heads * e, stride }, got = want, alone = want;
    got.at = out[1];
    alone.at = out[2];
    check_close(got, want, (struct check_bound){ 1e-6, 1e-6 });
    check_untouched(got, "past the heads");
    check_same(alone, got, "row by row");
    a.x = out[1];
    struct timed t = { .rope = run, .rope_args = a, .m = m };
    if (m > 200)
        check_bench(6.0 * m * heads * half, 8.0 * m * heads * e, 0, run_timed, &t);
    check_end();
}

static void cases(void)
{
    static const int heads[] = { 2, 8, 16, 18, 24, 32, 34, 72, 256 };
    struct cpu_ops plain, ops;
    uint32_t mask;
    const char *isa;
    int have;
    cpu_ops_fill(&plain, 0);
    rope_fn before = plain.rope.run;
    for (int i = 1; check_isa(i, &mask, &isa, &have); i++) {
        cpu_ops_fill(&ops, mask);
        if (ops.rope.run == before)
            continue; /* this set brings nothing new: one file has all three */
        before = ops.rope.run;
        if (!have) {
            check_skip("%s, %s, %s: this processor has no %s", ops.layernorm.name, ops.rmsnorm.name,
                       ops.rope.name, isa);
            continue;
        }
        norms(OP_LAYERNORM, &ops, &plain, isa);
        norms(OP_RMSNORM, &ops, &plain, isa);
        for (size_t j = 0; j < sizeof heads / sizeof *heads; j++)
            check_rope(ops.rope.run, plain.rope.run, isa, 1 + (int)j % 4, 1 + (int)j % 3, heads[j]);
        check_rope(ops.rope.run, plain.rope.run, isa, 532, 9, 256);
    }
}

int main(int argc, char **argv) { return check_main(argc, argv, cases); }
