/* SPDX-License-Identifier: Apache-2.0
 * image: resizing with padding; see image.h.
 *
 * Pillow's resampling is two passes with an 8-bit image between them: columns first, then rows. Here
 * the input is read once, row by row: each row is resized horizontally into `row`, then added into
 * the sums of the output rows that look at it (downscaling: about two of them). Integer sums do not
 * depend on the order, so the result is Pillow's. */
#include "policy/image.h"

#include "policy/image_kernels.h"

#include <math.h>
#include <string.h>

#define COEF_ONE ((int32_t)1 << COEF_BITS)

void image_scratch_take(struct image_scratch *s, struct arena *a, int size, uint32_t isa)
{
    size_t n = (size_t)size;
    s->size = size;
    s->kernels = isa & PI0_ISA_AVX2 ? &image_kernels_avx2 : &image_kernels_scalar;
    /* A window holds at most 2·scale + 1 inputs (3 when enlarging), so a row of windows holds at
     * most 2·in + out, or 3·out. */
    size_t n_taps = 2 * (size_t)IMAGE_MAX_SIDE + 3 * n;
    s->k = arena_take(a, n_taps, sizeof *s->k);
    s->packed = arena_take(a, s->kernels->packed ? n_taps / GROUP_TAPS + n : 0, sizeof *s->packed);
    s->x = arena_take(a, n, sizeof *s->x);
    s->y = arena_take(a, n, sizeof *s->y);
    s->sums = arena_take(a, n * n * 3, sizeof *s->sums);
    s->row = arena_take(a, n * 3, 1);
}

void image_fit(int height, int width, int size, int *fit_height, int *fit_width)
{
    double rw = (double)width / size, rh = (double)height / size;
    double ratio = rw > rh ? rw : rh;
    *fit_height = (int)((double)height / ratio);
    *fit_width = (int)((double)width / ratio);
}

/* Triangle filter at input j: 1 at the centre, 0 at `stretch` pixels from it. */
static double triangle(const struct image_tap *t, int j, double inverse_stretch)
{
    double x = fabs((j - t->centre + 0.5) * inverse_stretch);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double inverse_stretch_of(int in, int out)
{
    double scale = (double)in / out;
    return 1.0 / (scale < 1.0 ? 1.0 : scale);
}

static int32_t coefficient(const struct image_tap *t, int j, double inverse_stretch)
{
    double w = triangle(t, j, inverse_stretch) / t->sum;
    return (int32_t)(0.5 + w * COEF_ONE);
}

/* Windows of `out` outputs over `in` inputs (precompute_coeffs of Pillow). Columns get their
 * coefficients, end to end in k; rows compute theirs when met. */
static void pillow_taps(struct image_tap *taps, int32_t *k, int in, int out)
{
    double scale = (double)in / out, support = scale < 1.0 ? 1.0 : scale;
    double inverse = inverse_stretch_of(in, out);
    int at = 0;
    for (int i = 0; i < out; i++) {
        struct image_tap *t = &taps[i];
        t->centre = (i + 0.5) * scale;
        int first = (int)(t->centre - support + 0.5), end = (int)(t->centre + support + 0.5);
        t->first = first < 0 ? 0 : first;
        t->count = (end > in ? in : end) - t->first;
        t->at = at;
        t->sum = 0.0;
        for (int j = t->first; j < t->first + t->count; j++)
            t->sum += triangle(t, j, inverse);
        if (k)
            for (int j = t->first; j < t->first + t->count; j++)
                k[at++] = coefficient(t, j, inverse);
    }
}

/* The coefficients k of s->x, packed in groups; returns how many bytes behind a row's start the
 * kernel reads. */
static size_t pack_groups(struct image_scratch *s, int out)
{
    size_t reach = 0;
    int group = 0;
    for (int i = 0; i < out; i++) {
        struct image_tap *t = &s->x[i];
        int n = (t->count + GROUP_TAPS - 1) / GROUP_TAPS;
        t->group = group;
        for (int g = 0; g < n; g++, group++) {
            struct image_group *p = &s->packed[group];
            memset(p, 0, sizeof *p);
            for (int j = 0; j < GROUP_TAPS && g * GROUP_TAPS + j < t->count; j++) {
                int32_t k = s->k[t->at + g * GROUP_TAPS + j];
                for (int c = 0; c < 3; c++) {
                    int lane = j / 2 * 8 + 2 * c + j % 2;
                    p->high[lane] = (int16_t)(k >> GROUP_SHIFT);
                    p->low[lane] = (int16_t)(k & ((1 << GROUP_SHIFT) - 1));
                }
            }
        }
        size_t end = 3 * ((size_t)t->first + (size_t)(n - 1) * GROUP_TAPS);
        end += (size_t)s->kernels->overrun;
        reach = end > reach ? end : reach;
    }
    return reach;
}

static void resize_row(const struct image_scratch *s, const uint8_t *src, int out, uint8_t *dst)
{
    for (int x = 0; x < out; x++) {
        const struct image_tap *t = &s->x[x];
        const uint8_t *p = src + 3 * (size_t)t->first;
        const int32_t *k = s->k + t->at;
        int32_t r = 0, g = 0, b = 0;
        for (int j = 0; j < t->count; j++, p += 3) {
            r += p[0] * k[j];
            g += p[1] * k[j];
            b += p[2] * k[j];
        }
        dst[3 * x] = image_clip8(r);
        dst[3 * x + 1] = image_clip8(g);
        dst[3 * x + 2] = image_clip8(b);
    }
}

static void add_row(int32_t *sum, const uint8_t *row, int32_t k, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum[i] += row[i] * k;
}

static void close_row(uint8_t *dst, const int32_t *sum, size_t n)
{
    for (size_t i = 0; i < n; i++)
        dst[i] = image_clip8(sum[i]);
}

const struct image_kernels image_kernels_scalar = {
    .resize_row = resize_row,
    .add_row = add_row,
    .close_row = close_row,
};

/* dst: top left of the picture inside the square, rows `stride` bytes apart. */
static void resize_pillow(struct image_scratch *s, const uint8_t *src, int height, int width,
                          int fit_height, int fit_width, uint8_t *dst, size_t stride)
{
    const struct image_kernels *op = s->kernels;
    size_t n = (size_t)fit_width * 3, src_stride = (size_t)width * 3;
    size_t src_bytes = src_stride * (size_t)height, reach = 0;
    double inverse = inverse_stretch_of(height, fit_height);
    int same_width = fit_width == width, same_height = fit_height == height;
    if (!same_width)
        pillow_taps(s->x, s->k, width, fit_width);
    if (!same_width && op->packed)
        reach = pack_groups(s, fit_width);
    pillow_taps(s->y, NULL, height, fit_height);
    int first = 0, opened = 0; /* output rows [first, opened) are being summed */
    for (int in = 0; in < height; in++) {
        const uint8_t *row = src + (size_t)in * src_stride;
        uint8_t *final = dst + (size_t)in * stride; /* where it goes if the height stays */
        if (!same_width) {
            uint8_t *to = same_height ? final : s->row;
            if ((size_t)in * src_stride + reach <= src_bytes)
                op->resize_row(s, row, fit_width, to);
            else /* the kernel would read past the picture's end */
                resize_row(s, row, fit_width, to);
            row = to;
        }
        if (same_height) {
            if (same_width)
                memcpy(final, row, n);
            continue;
        }
        for (; opened < fit_height && s->y[opened].first <= in; opened++)
            memset(s->sums + (size_t)opened * n, 0, n * sizeof *s->sums);
        for (int y = first; y < opened; y++) {
            int32_t *sum = s->sums + (size_t)y * n;
            op->add_row(sum, row, coefficient(&s->y[y], in, inverse), n);
            if (in + 1 < s->y[y].first + s->y[y].count)
                continue;
            op->close_row(dst + (size_t)y * stride, sum, n);
            first = y + 1; /* windows end in order */
        }
    }
}

/* Source positions of PyTorch's upsample_bilinear2d in float32: (i + 0.5)·scale - 0.5, not below
 * 0. */
static void torch_taps(struct image_tap *taps, int in, int out)
{
    float scale = (float)in / (float)out;
    for (int i = 0; i < out; i++) {
        float at = scale * ((float)i + 0.5f) - 0.5f;
        at = at < 0.0f ? 0.0f : at;
        int first = (int)at;
        first = first > in - 1 ? in - 1 : first;
        taps[i].first = first;
        taps[i].count = first + 1 < in ? 2 : 1;
        taps[i].next = at - (float)first;
    }
}

static void resize_torch(struct image_scratch *s, const uint8_t *src, int width, int height,
                         int fit_height, int fit_width, uint8_t *dst, size_t stride)
{
    torch_taps(s->x, width, fit_width);
    torch_taps(s->y, height, fit_height);
    for (int y = 0; y < fit_height; y++) {
        const struct image_tap *ty = &s->y[y];
        const uint8_t *top = src + (size_t)ty->first * (size_t)width * 3;
        const uint8_t *bottom = top + (size_t)(ty->count - 1) * (size_t)width * 3;
        for (int x = 0; x < fit_width; x++) {
            const struct image_tap *tx = &s->x[x];
            size_t left = 3 * (size_t)tx->first, right = left + 3 * (size_t)(tx->count - 1);
            for (size_t c = 0; c < 3; c++) {
                float up =
                    (float)top[left + c] * (1.0f - tx->next) + (float)top[right + c] * tx->next;
                float down = (float)bottom[left + c] * (1.0f - tx->next) +
                             (float)bottom[right + c] * tx->next;
                float v = up * (1.0f - ty->next) + down * ty->next;
                dst[(size_t)y * stride + 3 * (size_t)x + c] = (uint8_t)(v + 0.5f);
            }
        }
    }
}

pi0_status image_resize_with_pad(struct image_scratch *s, enum image_filter filter,
                                 const uint8_t *src, int height, int width, uint8_t *dst,
                                 struct pi0_error *err)
{
    if (height < 1 || width < 1 || height > IMAGE_MAX_SIDE || width > IMAGE_MAX_SIDE)
        return pi0_fail(err, PI0_E_INPUT,
                        "image of %d × %d pixels (width × height), expected 1 to %d a side", width,
                        height, IMAGE_MAX_SIDE);
    size_t stride = (size_t)s->size * 3;
    if (height == s->size && width == s->size) {
        memcpy(dst, src, stride * (size_t)s->size);
        return PI0_OK;
    }
    int fit_height, fit_width;
    image_fit(height, width, s->size, &fit_height, &fit_width);
    if (fit_height < 1 || fit_width < 1)
        return pi0_fail(err, PI0_E_INPUT,
                        "image of %d × %d pixels (width × height) is too long and thin to be "
                        "resized to %d × %d",
                        width, height, s->size, s->size);
    size_t top = (size_t)((s->size - fit_height) / 2), left = (size_t)((s->size - fit_width) / 2);
    memset(dst, 0, stride * (size_t)s->size);
    uint8_t *corner = dst + top * stride + 3 * left;
    if (filter == IMAGE_PILLOW)
        resize_pillow(s, src, height, width, fit_height, fit_width, corner, stride);
    else
        resize_torch(s, src, width, height, fit_height, fit_width, corner, stride);
    return PI0_OK;
}
