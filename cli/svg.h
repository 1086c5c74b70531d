/* SPDX-License-Identifier: Apache-2.0
 * svg: a picture as text: primitives, escaped labels, and axes that place their own ticks. Leaves
 * what is drawn to chart.c. Units are pixels, y downwards. */
#ifndef PI0_CLI_SVG_H
#define PI0_CLI_SVG_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

/* Okabe and Ito's palette (jfly.uni-koeln.de/color): told apart with any colour vision. */
#define SVG_BLUE "#0072B2"
#define SVG_ORANGE "#E69F00"
#define SVG_GREEN "#009E73"
#define SVG_VERMILION "#D55E00"
#define SVG_SKY "#56B4E9"
#define SVG_PURPLE "#CC79A7"
#define SVG_INK "#222222"
#define SVG_MUTED "#666666"
#define SVG_GRID "#DDDDDD"

struct svg {
    char *text; /* the owner frees it */
    size_t n, room;
    bool failed; /* memory ran out: the rest was dropped */
    int width, height;
};

/* `title` names the picture for readers of the XML and screen readers, and stands on top of it. */
void svg_begin(struct svg *s, int width, int height, const char *title, const char *subtitle);
void svg_end(struct svg *s);
/* `more`: further attributes, or "". */
void svg_rect(struct svg *s, double x, double y, double w, double h, const char *fill,
              const char *more);
void svg_line(struct svg *s, double x0, double y0, double x1, double y1, const char *stroke,
              double width, const char *more);
void svg_circle(struct svg *s, double x, double y, double r, const char *fill, const char *more);
void svg_path(struct svg *s, const double *x, const double *y, int n, const char *stroke,
              double width);
/* anchor: "start", "middle" or "end". The text is escaped. */
void svg_text(struct svg *s, double x, double y, const char *anchor, int size, const char *fill,
              const char *format, ...) __attribute__((format(printf, 7, 8)));
/* Read from below to above, centred on (x, y). */
void svg_text_up(struct svg *s, double x, double y, const char *text);
/* A square and a name; returns where the next one begins. */
double svg_key(struct svg *s, double x, double y, const char *fill, const char *name);

struct axis {
    double lo, hi;     /* values */
    double from, to;   /* pixels of lo and hi */
    bool log;          /* decades; lo and hi above 0 */
    const char *label; /* with its unit */
};
double axis_at(const struct axis *a, double v);
/* A linear axis from 0 that holds `most`, its end on a tick. */
struct axis axis_linear(double most, double from, double to, const char *label);
/* A logarithmic axis that holds lo…hi, with a little room. */
struct axis axis_log(double lo, double hi, double from, double to, const char *label);
/* Ticks, their grid lines across the other axis's pixels, and the label. */
void svg_axis_x(struct svg *s, const struct axis *a, double y0, double y1);
void svg_axis_y(struct svg *s, const struct axis *a, double x0, double x1);

/* Pixels that a text takes, about: no fonts are at hand. */
double svg_text_width(const char *text, int size);

#endif
