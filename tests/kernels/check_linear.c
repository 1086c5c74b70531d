/* SPDX-License-Identifier: Apache-2.0
 * check_linear: every product of struct cpu_ops that this machine can run against the plain C one:
 * the model's shapes (their M and K; a few panels of N) and edge shapes, all epilogues, all fills;
 * and rule 2 of ops.h: an element's bits depend on its own inputs alone. Under --bench the model's
 * shapes with all their columns, on one thread, beside the rate of a loop over registers. */
#include "backend/cpu/ops.h"
#include "check.h"
#include "peak.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const kind_name[N_LINEAR] = { "linear_bf16", "linear_f32", "linear_f32_wbf16" };
static const char *const epilogue_name[] = { "store", "add", "gelu", "silu", "geglu" };

struct shape {
    int m, n, k;
    enum epilogue epilogue;
    enum dtype y;
    enum fill fill;
    int bias, gate;
};

/* One product: its inputs, and what its result is to be. */
struct problem {
    struct shape s;
    enum linear_kind kind;
    struct packed w;
    struct linear_args args;
    int width;     /* columns that are stored */
    void *y_start; /* what y holds before (EPI_ADD) */
};

/* ---------------------------------------------------------------- data */

static int features_of_panel(const struct problem *p, int panel)
{
    int pair = p->s.epilogue == EPI_GEGLU, n = pair ? p->s.n / 2 : p->s.n;
    int left = n - (pair ? panel / 2 : panel) * CPU_PANEL;
    return left < 0 ? 0 : left < CPU_PANEL ? left : CPU_PANEL;
}

/* Random, with the padding that the packer leaves: zeros past K and past N. */
static void make_weights(struct problem *p)
{
    enum dtype t = p->kind == LINEAR_F32 ? DT_F32 : DT_BF16;
    int pair = p->s.epilogue == EPI_GEGLU;
    p->w = (struct packed){ .dtype = t, .n = p->s.n, .k = p->s.k };
    p->w.k_pad = cpu_round_up(p->s.k, CPU_K_GRAIN);
    p->w.n_panels = pair ? 2 * ((p->s.n / 2 + CPU_PANEL - 1) / CPU_PANEL)
                         : (p->s.n + CPU_PANEL - 1) / CPU_PANEL;
    size_t per_panel = (size_t)p->w.k_pad * CPU_PANEL;
    void *w = check_random((size_t)p->w.n_panels * per_panel, t, p->s.fill);
    float *bias = check_random((size_t)p->w.n_panels * CPU_PANEL, DT_F32, p->s.fill);
    for (int panel = 0; panel < p->w.n_panels; panel++)
        for (int c = 0; c < CPU_PANEL; c++)
            for (int k = 0; k < p->w.k_pad; k++) {
                if (c < features_of_panel(p, panel) && k < p->s.k)
                    continue;
                size_t at = (size_t)panel * per_panel;
                if (t == DT_BF16)
                    ((uint16_t *)
                         w)[at + ((size_t)(k / 2) * CPU_PANEL + (size_t)c) * 2 + (size_t)(k % 2)] =
                        0;
                else
                    ((float *)w)[at + (size_t)k * CPU_PANEL + (size_t)c] = 0;
                if (c >= features_of_panel(p, panel))
                    bias[panel * CPU_PANEL + c] = 0;
            }
    p->w.w = w;
    p->w.bias = p->s.bias ? bias : NULL;
}

static void *make_x(const struct problem *p, int stride)
{
    enum dtype t = p->kind == LINEAR_BF16 ? DT_BF16 : DT_F32;
    unsigned char *x = check_random((size_t)p->s.m * (size_t)stride, t, p->s.fill);
    size_t e = dtype_bytes(t);
    for (int r = 0; r < p->s.m; r++)
        memset(x + ((size_t)r * (size_t)stride + (size_t)p->s.k) * e, 0,
               (size_t)(stride - p->s.k) * e);
    return x;
}

static struct problem make(enum linear_kind kind, const struct shape *s)
{
    struct problem p = { .s = *s, .kind = kind };
    make_weights(&p);
    p.width = p.w.n_panels * CPU_PANEL / (s->epilogue == EPI_GEGLU ? 2 : 1);
    int x_stride = cpu_stride(p.w.k_pad, kind == LINEAR_BF16 ? DT_BF16 : DT_F32);
    p.args = (struct linear_args){ .x = make_x(&p, x_stride),
                                   .x_stride = x_stride,
                                   .m = s->m,
                                   .epilogue = s->epilogue,
                                   .y_dtype = s->epilogue == EPI_ADD ? DT_F32 : s->y,
                                   .scratch = check_poisoned(cpu_scratch_bytes(0) / 4, DT_F32) };
    p.args.y_stride = cpu_stride(p.width, p.args.y_dtype);
    if (s->gate)
        p.args.gate = check_random((size_t)p.w.n_panels * CPU_PANEL, DT_F32, FILL_NORMAL);
    size_t n = (size_t)s->m * (size_t)p.args.y_stride;
    if (s->epilogue == EPI_ADD) {
        float *start = check_poisoned(n, DT_F32);
        for (int r = 0; r < s->m; r++)
            for (int c = 0; c < p.width; c++)
                start[(size_t)r * (size_t)p.args.y_stride + (size_t)c] = (float)check_uniform();
        p.y_start = start;
    }
    return p;
}

static void *fresh_y(const struct problem *p)
{
    size_t n = (size_t)p->s.m * (size_t)p->args.y_stride;
    void *y = check_poisoned(n, p->args.y_dtype);
    if (p->y_start)
        memcpy(y, p->y_start, n * dtype_bytes(p->args.y_dtype));
    return y;
}

static struct check_mat y_mat(const struct problem *p, const void *y)
{
    return (struct check_mat){ y, p->args.y_dtype, p->s.m, p->width, p->args.y_stride };
}

static void call(const struct problem *p, linear_fn run, void *y, int begin, int end)
{
    struct linear_args a = p->args;
    a.w = &p->w;
    a.y = y;
    if (begin < end)
        run(&a, begin, end);
}

/* ---------------------------------------------------------------- checks */

static struct check_bound bound(const struct problem *p)
{
    /* Sums in another order, K up to 16384: some 1e-6 of the rms. bf16 results: the same sums, now
     * and then rounded to the other neighbour, 2^-8 away. */
    return p->args.y_dtype == DT_BF16 ? (struct check_bound){ 4e-3, 8e-3 }
                                      : (struct check_bound){ 1e-5, 5e-5 };
}

/* The same bits from two ranges of columns, and from single rows by themselves. */
static void check_parts(const struct problem *p, linear_fn run, const void *whole)
{
    int cut = p->w.n_panels / 4 * 2, rows[] = { 0, p->s.m / 2, p->s.m - 1 };
    void *y = fresh_y(p);
    call(p, run, y, cut, p->w.n_panels);
    call(p, run, y, 0, cut);
    check_same(y_mat(p, y), y_mat(p, whole), "two ranges of columns");
    for (int i = 0; i < 3; i++) {
        struct problem one = *p;
        size_t x_e = dtype_bytes(p->kind == LINEAR_BF16 ? DT_BF16 : DT_F32);
        size_t y_e = dtype_bytes(p->args.y_dtype);
        size_t y_at = (size_t)rows[i] * (size_t)p->args.y_stride * y_e;
        one.s.m = one.args.m = 1;
        one.args.x =
            (const unsigned char *)p->args.x + (size_t)rows[i] * (size_t)p->args.x_stride * x_e;
        if (p->y_start)
            one.y_start = (unsigned char *)p->y_start + y_at;
        y = fresh_y(&one);
        call(&one, run, y, 0, one.w.n_panels);
        check_same(y_mat(&one, y), y_mat(&one, (const unsigned char *)whole + y_at), "one row");
    }
}

struct variant {
    linear_fn run, plain;
    const char *isa;
    enum linear_kind kind;
    uint32_t mask;
};

static void check_shape(const struct variant *v, const struct shape *s)
{
    if (!check_begin("%s/%s M=%d N=%d K=%d %s%s%s → %s, %s", kind_name[v->kind], v->isa, s->m, s->n,
                     s->k, epilogue_name[s->epilogue], s->bias ? " bias" : "",
                     s->gate ? " gate" : "", dtype_name(s->epilogue == EPI_ADD ? DT_F32 : s->y),
                     fill_name[s->fill]))
        return;
    struct problem p = make(v->kind, s);
    void *want = fresh_y(&p), *got = fresh_y(&p), *again = fresh_y(&p);
    call(&p, v->plain, want, 0, p.w.n_panels);
    call(&p, v->run, got, 0, p.w.n_panels);
    call(&p, v->run, again, 0, p.w.n_panels);
    check_close(y_mat(&p, got), y_mat(&p, want), bound(&p));
    check_untouched(y_mat(&p, got), "past the last panel");
    check_same(y_mat(&p, again), y_mat(&p, got), "two runs");
    check_parts(&p, v->run, got);
    check_end();
}

/* ---------------------------------------------------------------- functions */

/* A product with one weight of 1 gives x back: the epilogue's functions on a sweep of arguments. */
static void sweep(const struct variant *v, enum epilogue e, enum dtype y_dtype, float *x, void *y,
                  int m)
{
    float *w = check_zeros((size_t)CPU_K_GRAIN * CPU_PANEL * sizeof *w);
    struct packed p = {
        .w = w, .dtype = DT_F32, .n = 1, .k = 1, .n_panels = 1, .k_pad = CPU_K_GRAIN
    };
    struct linear_args a = { .x = x,
                             .x_stride = CPU_K_GRAIN,
                             .m = m,
                             .w = &p,
                             .epilogue = e,
                             .y = y,
                             .y_dtype = y_dtype,
                             .y_stride = CPU_K_GRAIN,
                             .scratch = check_poisoned(cpu_scratch_bytes(0) / 4, DT_F32) };
    w[0] = 1.0f;
    v->run(&a, 0, 1);
}

/* Against float64. exp turns an error of its argument into one of its result: hence 1 + |argument|. */
static void check_function(const struct variant *v, enum epilogue e)
{
    enum { ROWS = 8001 };
    if (!check_begin("%s/%s %s over [-20, 20]", kind_name[v->kind], v->isa, epilogue_name[e]))
        return;
    float *x = check_zeros((size_t)ROWS * CPU_K_GRAIN * sizeof *x);
    float *y = check_poisoned((size_t)ROWS * CPU_K_GRAIN, DT_F32);
    for (int r = 0; r < ROWS; r++)
        x[(size_t)r * CPU_K_GRAIN] = -20.0f + (float)r * (40.0f / (ROWS - 1));
    sweep(v, e, DT_F32, x, y, ROWS);
    for (int r = 0; r < ROWS; r++) {
        double z = x[(size_t)r * CPU_K_GRAIN], got = y[(size_t)r * CPU_K_GRAIN];
        double inner = e == EPI_SILU ? z : 2 * 0.79788456080286536 * (z + 0.044715 * z * z * z);
        double want = z / (1 + exp(-inner)), bound = 3e-7 * (1 + fabs(inner)) * fabs(want) + 1e-36;
        if (inner > -85 && !(fabs(got - want) <= bound)) {
            check_fail("of %.9g is %.9g, expected %.9g", z, got, want);
            break;
        }
        if (inner <= -85 && !(fabs(got) < 1e-34)) { /* no more than the smallest exp there is */
            check_fail("of %.9g is %.9g, expected nearly 0", z, got);
            break;
        }
    }
    check_end();
}

/* The store to bf16, bit for bit: ties, the largest numbers, infinity, NaN. */
static void check_rounding(const struct variant *v)
{
    static const uint32_t bits[] = { 0x3F800000, 0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001,
                                     0xBF808000, 0xBF818000, 0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF,
                                     0x00800000, 0x80000000, 0x7F800000, 0xFF800000, 0x00808000,
                                     0x7FC00000, 0x7F800001, 0x7FFFFFFF };
    enum { ROWS = sizeof bits / sizeof *bits };
    if (!check_begin("%s/%s rounding to bf16", kind_name[v->kind], v->isa))
        return;
    float *x = check_zeros((size_t)ROWS * CPU_K_GRAIN * sizeof *x);
    uint16_t *y = check_poisoned((size_t)ROWS * CPU_K_GRAIN, DT_BF16);
    for (int r = 0; r < ROWS; r++)
        x[(size_t)r * CPU_K_GRAIN] = f32_from_bits(bits[r]);
    sweep(v, EPI_STORE, DT_BF16, x, y, ROWS);
    for (int r = 0; r < ROWS; r++) {
        float f = x[(size_t)r * CPU_K_GRAIN];
        uint16_t want = bf16_from_f32(f + 0.0f), got = y[(size_t)r * CPU_K_GRAIN];
        if (got != want)
            check_fail("%08X becomes %04X, expected %04X", bits[r], got, want);
    }
    check_end();
}

/* ---------------------------------------------------------------- shapes */

static void edge_shapes(const struct variant *v)
{
    static const int rows[] = { 1, 2, 5, 6, 7, 11, 12, 13, 25, 31, 32, 33, 70 };
    static const struct {
        int n, k;
    } nk[] = { { 1, 1 },    { 15, 2 },   { 16, 32 },  { 17, 33 },   { 33, 31 },
               { 48, 513 }, { 160, 96 }, { 272, 64 }, { 96, 1056 }, { 64, 2080 } };
    int turn = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t j = 0; j < sizeof nk / sizeof *nk; j++, turn++) {
            struct shape s = { rows[i], nk[j].n, nk[j].k, .bias = turn % 3 != 0 };
            s.epilogue = (enum epilogue)((turn + turn / 10) % 5);
            s.fill = (enum fill)((turn + turn / 5) % N_FILL);
            s.y = turn / 2 % 2 ? DT_F32 : DT_BF16;
            s.gate = s.epilogue == EPI_ADD && turn % 2;
            if (s.epilogue == EPI_GEGLU) {
                s.n += s.n % 2;
                if (s.fill == FILL_HUGE) /* gelu(z) · up would leave the range of f32 */
                    s.fill = FILL_MIXED;
            }
            check_shape(v, &s);
        }
}

static const struct {
    const char *op;
    struct shape s;
    enum linear_kind kind;
} model[] = {
    { "vision patches", { 512, 1152, 588, EPI_ADD, DT_F32, FILL_NORMAL, 1, 0 }, LINEAR_F32_WBF16 },
    { "vision q|k|v", { 512, 3456, 1152, EPI_STORE, DT_F32, FILL_MIXED, 1, 0 }, LINEAR_BF16 },
    { "vision fc1", { 512, 4304, 1152, EPI_GELU, DT_BF16, FILL_NORMAL, 1, 0 }, LINEAR_BF16 },
    { "vision fc2", { 512, 1152, 4304, EPI_ADD, DT_F32, FILL_NORMAL, 1, 0 }, LINEAR_BF16 },
    { "projector", { 512, 2048, 1152, EPI_STORE, DT_F32, FILL_NORMAL, 1, 0 }, LINEAR_F32_WBF16 },
    { "prefix q|k|v", { 532, 2560, 2048, EPI_STORE, DT_F32, FILL_MIXED, 0, 0 }, LINEAR_BF16 },
    { "prefix o", { 532, 2048, 2048, EPI_ADD, DT_F32, FILL_NORMAL, 0, 0 }, LINEAR_BF16 },
    { "prefix gate·up", { 532, 32768, 2048, EPI_GEGLU, DT_BF16, FILL_NORMAL, 0, 0 }, LINEAR_BF16 },
    { "prefix down", { 532, 2048, 16384, EPI_ADD, DT_F32, FILL_NORMAL, 0, 0 }, LINEAR_BF16 },
    { "prefix gate·up", { 968, 32768, 2048, EPI_GEGLU, DT_BF16, FILL_NORMAL, 0, 0 }, LINEAR_BF16 },
    { "prefix down", { 532, 2048, 16384, EPI_ADD, DT_F32, FILL_NORMAL, 0, 0 }, LINEAR_F32_WBF16 },
    { "prefix down", { 532, 2048, 16384, EPI_ADD, DT_F32, FILL_NORMAL, 0, 0 }, LINEAR_F32 },
    { "expert gate·up", { 10, 8192, 1024, EPI_GEGLU, DT_BF16, FILL_NORMAL, 0, 0 }, LINEAR_BF16 },
    { "expert down", { 10, 1024, 4096, EPI_ADD, DT_F32, FILL_NORMAL, 0, 1 }, LINEAR_BF16 },
    { "expert gate·up", { 51, 8192, 1024, EPI_GEGLU, DT_BF16, FILL_NORMAL, 0, 0 }, LINEAR_BF16 },
    { "expert gate·up",
      { 10, 8192, 1024, EPI_GEGLU, DT_F32, FILL_NORMAL, 0, 0 },
      LINEAR_F32_WBF16 },
    { "action out", { 50, 32, 1024, EPI_STORE, DT_F32, FILL_NORMAL, 1, 0 }, LINEAR_F32 },
};

/* The plain loops take their time: 3 panels of N, or 10 (more than a group) for few rows. */
static void model_shapes(const struct variant *v)
{
    for (size_t i = 0; i < sizeof model / sizeof *model; i++) {
        struct shape s = model[i].s;
        int n = s.m <= 64 ? 160 : s.epilogue == EPI_GEGLU ? 64 : 48;
        if (model[i].kind != v->kind)
            continue;
        s.n = n < s.n ? n : s.n;
        if (CHECK_SLOW && s.m > 40)
            s.m = 40;
        check_shape(v, &s);
    }
}

/* ---------------------------------------------------------------- time */

struct timed {
    const struct problem *p;
    linear_fn run;
    void *y;
};

static void run_timed(void *arg)
{
    const struct timed *t = arg;
    call(t->p, t->run, t->y, 0, t->p->w.n_panels);
}

static void bench_shapes(const struct variant *v)
{
    for (size_t i = 0; check_benching() && i < sizeof model / sizeof *model; i++) {
        const struct shape *s = &model[i].s;
        if (model[i].kind != v->kind || !check_begin("%s/%s %s M=%d N=%d K=%d", kind_name[v->kind],
                                                     v->isa, model[i].op, s->m, s->n, s->k))
            continue;
        struct problem p = make(v->kind, s);
        struct timed t = { &p, v->run, fresh_y(&p) };
        check_bench(2.0 * s->m * s->n * s->k, (double)s->n * s->k * (double)dtype_bytes(p.w.dtype),
                    peak_gflops(v->kind == LINEAR_BF16 ? PEAK_BF16 : PEAK_F32, v->mask), run_timed,
                    &t);
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
    for (int kind = 0; kind < N_LINEAR; kind++) {
        linear_fn before = plain.linear[kind].run;
        for (int i = 1; check_isa(i, &mask, &isa, &have); i++) {
            cpu_ops_fill(&ops, mask);
            struct variant v = { ops.linear[kind].run, plain.linear[kind].run, isa,
                                 (enum linear_kind)kind, mask };
            if (v.run == before)
                continue; /* this set brings nothing new */
            before = v.run;
            if (!have) {
                check_skip("%s: this processor has no %s", ops.linear[kind].name, isa);
                continue;
            }
            if (kind == LINEAR_F32) { /* the epilogues are the same for all kinds */
                check_function(&v, EPI_GELU);
                check_function(&v, EPI_SILU);
                check_rounding(&v);
            }
            edge_shapes(&v);
            model_shapes(&v);
            bench_shapes(&v);
        }
    }
}

int main(int argc, char **argv) { return check_main(argc, argv, cases); }
