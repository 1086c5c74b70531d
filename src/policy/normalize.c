/* SPDX-License-Identifier: Apache-2.0
 * normalize: the formulas; see normalize.h. The order of the operations is that of the Python
 * expressions, so results agree in every bit. */
#include "policy/normalize.h"

/* openpi adds it to std and to q99 - q01, both ways. */
static const double openpi_eps = 1e-6;

/* lerobot: a range of exactly 0 is replaced. */
static float range_of(const struct feature_stats *s, int i)
{
    float range = (float)s->b[i] - (float)s->a[i];
    return range == 0.0f ? (float)s->eps : range;
}

void normalize(const struct feature_stats *s, const double *x, int n, double *out)
{
    for (int i = 0; i < n; i++) {
        float f = (float)x[i], a = (float)s->a[i];
        switch (s->kind) {
        case STAT_NONE: out[i] = x[i]; break;
        case STAT_OPENPI_ZSCORE: out[i] = (x[i] - s->a[i]) / (s->b[i] + openpi_eps); break;
        case STAT_OPENPI_QUANTILE:
            out[i] = (x[i] - s->a[i]) / (s->b[i] - s->a[i] + openpi_eps) * 2.0 - 1.0;
            break;
        case STAT_MEAN_STD: out[i] = (f - a) / ((float)s->b[i] + (float)s->eps); break;
        case STAT_MIN_MAX:
        case STAT_QUANTILES: out[i] = 2.0f * (f - a) / range_of(s, i) - 1.0f; break;
        }
    }
}

void unnormalize_actions(const struct feature_stats *s, const float *x, int n, double *out)
{
    for (int i = 0; i < n; i++) {
        float f = x[i];
        int inside = i < s->n;
        double a = inside ? s->a[i] : 0.0, b = inside ? s->b[i] : 1.0;
        switch (s->kind) {
        case STAT_NONE: out[i] = f; break;
        case STAT_OPENPI_ZSCORE: out[i] = f * (b + openpi_eps) + a; break;
        case STAT_OPENPI_QUANTILE: {
            float half = (f + 1.0f) / 2.0f;
            out[i] = inside ? half * (b - a + openpi_eps) + a : f;
            break;
        }
        case STAT_MEAN_STD: out[i] = f * (float)b + (float)a; break;
        case STAT_MIN_MAX: out[i] = (f + 1.0f) / 2.0f * range_of(s, i) + (float)a; break;
        case STAT_QUANTILES: out[i] = (f + 1.0f) * range_of(s, i) / 2.0f + (float)a; break;
        }
    }
}

void unnormalize_state(const struct feature_stats *s, const double *x, int n, double *out)
{
    for (int i = 0; i < n; i++) {
        int inside = i < s->n;
        double a = inside ? s->a[i] : 0.0, b = inside ? s->b[i] : 1.0;
        if (s->kind == STAT_OPENPI_ZSCORE)
            out[i] = x[i] * (b + openpi_eps) + a;
        else if (s->kind == STAT_OPENPI_QUANTILE && inside)
            out[i] = (x[i] + 1.0) / 2.0 * (b - a + openpi_eps) + a;
        else
            out[i] = x[i];
    }
}
