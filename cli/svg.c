/* SPDX-License-Identifier: Apache-2.0
 * svg: writes what svg.h offers. Numbers have two decimals; the text is valid XML whatever the labels
 * hold. */
#include "svg.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FONT "Helvetica, Arial, 'DejaVu Sans', sans-serif"

/* ---------------------------------------------------------------- text */

static void put_bytes(struct svg *s, const char *text, size_t n)
{
    if (s->failed)
        return;
    if (s->n + n + 1 > s->room) {
        size_t room = (s->n + n + 1) * 2;
        char *bigger = realloc(s->text, room);
        if (!bigger) {
            s->failed = true;
            return;
        }
        s->text = bigger;
        s->room = room;
    }
    memcpy(s->text + s->n, text, n);
    s->n += n;
    s->text[s->n] = '\0';
}

__attribute__((format(printf, 2, 3))) static void put(struct svg *s, const char *format, ...)
{
    char line[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n > 0)
        put_bytes(s, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

/* Bytes of the UTF-8 character at p, 0 where there is none that XML may hold. */
static size_t character(const unsigned char *p)
{
    size_t n = *p < 0x80             ? 1
               : (*p & 0xE0) == 0xC0 ? 2
               : (*p & 0xF0) == 0xE0 ? 3
               : (*p & 0xF8) == 0xF0 ? 4
                                     : 0;
    if (n == 1)
        return *p >= 0x20 && *p != 0x7F;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    bool overlong = (n == 2 && *p < 0xC2) || (n == 3 && *p == 0xE0 && p[1] < 0xA0) ||
                    (n == 4 && *p == 0xF0 && p[1] < 0x90);
    bool outside = (n == 3 && *p == 0xED && p[1] >= 0xA0) || /* surrogates */
                   (n == 3 && *p == 0xEF && p[1] == 0xBF && p[2] >= 0xBE) ||
                   (n == 4 && (*p > 0xF4 || (*p == 0xF4 && p[1] >= 0x90)));
    return overlong || outside ? 0 : n;
}

static void put_escaped(struct svg *s, const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        size_t n = character(p);
        const char *name = *p == '<'   ? "&lt;"
                           : *p == '>' ? "&gt;"
                           : *p == '&' ? "&amp;"
                           : *p == '"' ? "&quot;"
                                       : NULL;
        if (n == 0)
            put(s, "?");
        else if (name)
            put(s, "%s", name);
        else
            put_bytes(s, (const char *)p, n);
        p += n ? n : 1;
    }
}

double svg_text_width(const char *text, int size)
{
    int n = 0;
    for (const char *p = text; *p; p++)
        n += ((unsigned char)*p & 0xC0) != 0x80;
    return 0.56 * size * n;
}

/* ---------------------------------------------------------------- primitives */

void svg_begin(struct svg *s, int width, int height, const char *title, const char *subtitle)
{
    *s = (struct svg){ .width = width, .height = height };
    put(s,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
        "viewBox=\"0 0 %d %d\" role=\"img\" font-family=\"" FONT "\">\n<title>",
        width, height, width, height);
    put_escaped(s, title);
    put(s, "</title>\n");
    svg_rect(s, 0, 0, width, height, "#FFFFFF", "");
    put(s, "<text x=\"20\" y=\"28\" font-size=\"17\" font-weight=\"bold\" fill=\"" SVG_INK "\">");
    put_escaped(s, title);
    put(s, "</text>\n");
    svg_text(s, 20, 47, "start", 12, SVG_MUTED, "%s", subtitle);
}

void svg_end(struct svg *s) { put(s, "</svg>\n"); }

void svg_rect(struct svg *s, double x, double y, double w, double h, const char *fill,
              const char *more)
{
    put(s, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\" %s/>\n", x, y,
        w > 0 ? w : 0, h > 0 ? h : 0, fill, more);
}

void svg_line(struct svg *s, double x0, double y0, double x1, double y1, const char *stroke,
              double width, const char *more)
{
    put(s,
        "<line x1=\"%.2f\" y1=\"%.2f\" x2=\"%.2f\" y2=\"%.2f\" stroke=\"%s\" "
        "stroke-width=\"%.2f\" %s/>\n",
        x0, y0, x1, y1, stroke, width, more);
}

void svg_circle(struct svg *s, double x, double y, double r, const char *fill, const char *more)
{
    put(s, "<circle cx=\"%.2f\" cy=\"%.2f\" r=\"%.2f\" fill=\"%s\" %s/>\n", x, y, r, fill, more);
}

void svg_path(struct svg *s, const double *x, const double *y, int n, const char *stroke,
              double width)
{
    put(s, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"%.2f\" points=\"", stroke, width);
    for (int i = 0; i < n; i++)
        put(s, "%.2f,%.2f ", x[i], y[i]);
    put(s, "\"/>\n");
}

void svg_text(struct svg *s, double x, double y, const char *anchor, int size, const char *fill,
              const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    put(s, "<text x=\"%.2f\" y=\"%.2f\" text-anchor=\"%s\" font-size=\"%d\" fill=\"%s\">", x, y,
        anchor, size, fill);
    put_escaped(s, line);
    put(s, "</text>\n");
}

void svg_text_up(struct svg *s, double x, double y, const char *text)
{
    put(s,
        "<text transform=\"translate(%.2f %.2f) rotate(-90)\" text-anchor=\"middle\" "
        "font-size=\"12\" fill=\"" SVG_INK "\">",
        x, y);
    put_escaped(s, text);
    put(s, "</text>\n");
}

double svg_key(struct svg *s, double x, double y, const char *fill, const char *name)
{
    svg_rect(s, x, y - 10, 12, 12, fill, "");
    svg_text(s, x + 17, y, "start", 12, SVG_INK, "%s", name);
    return x + 17 + svg_text_width(name, 12) + 18;
}

/* ---------------------------------------------------------------- axes */

double axis_at(const struct axis *a, double v)
{
    double f = a->log ? log10(v / a->lo) / log10(a->hi / a->lo) : (v - a->lo) / (a->hi - a->lo);
    return a->from + f * (a->to - a->from);
}

/* 1, 2 or 5 times a power of ten: about `n` steps up to `most`. */
static double tick_step(double most, int n)
{
    double raw = most / n, ten = pow(10, floor(log10(raw))), part = raw / ten;
    return ten * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
}

struct axis axis_linear(double most, double from, double to, const char *label)
{
    if (!(most > 0) || !isfinite(most))
        most = 1;
    double step = tick_step(most, 6);
    return (struct axis){
        .hi = ceil(most / step - 1e-9) * step, .from = from, .to = to, .label = label
    };
}

struct axis axis_log(double lo, double hi, double from, double to, const char *label)
{
    if (!(lo > 0) || !isfinite(lo))
        lo = 1;
    if (!(hi > lo) || !isfinite(hi))
        hi = lo * 10;
    return (struct axis){
        .lo = lo / 1.15, .hi = hi * 1.15, .from = from, .to = to, .log = true, .label = label
    };
}

/* "0.5", "20", "3 k", "1.2 T": short enough for a tick. */
static void tick_text(char buf[32], double v)
{
    static const char *const prefixes[] = { "", "k", "M", "G", "T", "P" };
    int i = 0;
    if (v < 9999.5 && v > -9999.5) {
        snprintf(buf, 32, v >= 1000 ? "%.0f" : "%.3g", v);
        return;
    }
    while (v >= 999.5 && i < 5) {
        v /= 1000;
        i++;
    }
    snprintf(buf, 32, "%.3g %s", v, prefixes[i]);
}

/* Tick i of an axis; false past the last. Logarithmic: decades, with 2 and 5 where there are few. */
static bool tick(const struct axis *a, int i, double *v)
{
    *v = 0;
    if (!a->log) {
        *v = tick_step(a->hi, 6) * i;
        return *v <= a->hi * (1 + 1e-9);
    }
    static const double fine[] = { 1, 2, 5 };
    double decades = log10(a->hi / a->lo);
    int per = decades < 3 ? 3 : 1, first = (int)floor(log10(a->lo)) * per, k = first - 1, seen = -1;
    while (seen < i) {
        k++;
        int decade = k >= 0 ? k / per : -((per - 1 - k) / per);
        *v = pow(10, decade) * (per == 3 ? fine[(k % 3 + 3) % 3] : 1);
        if (*v > a->hi * (1 + 1e-9))
            return false;
        if (*v >= a->lo * (1 - 1e-9))
            seen++;
    }
    return true;
}

void svg_axis_x(struct svg *s, const struct axis *a, double y0, double y1)
{
    char text[32];
    double v, last = -1e9;
    for (int i = 0; tick(a, i, &v); i++) {
        double x = axis_at(a, v);
        svg_line(s, x, y0, x, y1, SVG_GRID, 1, "");
        tick_text(text, v);
        if (x - last < svg_text_width(text, 11) + 8)
            continue;
        last = x;
        svg_text(s, x, y1 + 16, "middle", 11, SVG_MUTED, "%s", text);
    }
    svg_line(s, a->from, y1, a->to, y1, SVG_INK, 1, "");
    svg_text(s, (a->from + a->to) / 2, y1 + 36, "middle", 12, SVG_INK, "%s", a->label);
}

void svg_axis_y(struct svg *s, const struct axis *a, double x0, double x1)
{
    char text[32];
    double v, last = 1e9;
    for (int i = 0; tick(a, i, &v); i++) {
        double y = axis_at(a, v);
        svg_line(s, x0, y, x1, y, SVG_GRID, 1, "");
        if (fabs(last - y) < 14)
            continue;
        last = y;
        tick_text(text, v);
        svg_text(s, x0 - 6, y + 4, "end", 11, SVG_MUTED, "%s", text);
    }
    svg_line(s, x0, a->from, x0, a->to, SVG_INK, 1, "");
    svg_text_up(s, x0 - 48, (a->from + a->to) / 2, a->label);
}
