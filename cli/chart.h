/* SPDX-License-Identifier: Apache-2.0
 * chart: what chart.c (bars) and chart_plot.c (axes) share. Each function draws one whole picture
 * of a report. */
#ifndef PI0_CLI_CHART_H
#define PI0_CLI_CHART_H

#include "report.h"
#include "svg.h"

void chart_batch(struct svg *s, const json_t *doc);
void chart_power(struct svg *s, const json_t *doc);
void chart_load(struct svg *s, const json_t *doc);
void chart_roofline(struct svg *s, const json_t *doc);

/* A picture that says why there is none. */
void chart_reason(struct svg *s, const char *title, const char *reason);
/* Device, precision, commit and day: the subtitle. Static, until the next call. */
const char *chart_device(const json_t *doc);
void chart_ms(char buf[32], double ms);

#endif
