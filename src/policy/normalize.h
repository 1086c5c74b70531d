/* SPDX-License-Identifier: Apache-2.0
 * normalize: robot units ↔ what the model saw in training. Formulas and their arithmetic only;
 * where the statistics come from is stats.h (openpi) and lerobot.h. */
#ifndef PI0_POLICY_NORMALIZE_H
#define PI0_POLICY_NORMALIZE_H

/* Longest vector of statistics accepted; real ones hold 7 to 32 numbers. */
#define STATS_MAX_DIM 1024

enum stat_kind {
    STAT_NONE = 0,        /* values pass as they are */
    STAT_OPENPI_ZSCORE,   /* a mean, b std; float64, eps 1e-6 */
    STAT_OPENPI_QUANTILE, /* a q01, b q99; float64, eps 1e-6 */
    STAT_MEAN_STD,        /* lerobot, float32: a mean, b std */
    STAT_MIN_MAX,         /* lerobot, float32: a min, b max */
    STAT_QUANTILES        /* lerobot, float32: a q01, b q99, or q10 and q90 */
};

struct feature_stats {
    enum stat_kind kind;
    int n;                   /* numbers in a and b */
    double eps;              /* lerobot's; openpi's is a constant of the formula */
    double a[STATS_MAX_DIM]; /* of the lerobot kinds: float32 values */
    double b[STATS_MAX_DIM];
};

struct norm_stats {
    struct feature_stats state, actions;
};

/* x [n] in robot units → out [n]; n ≤ s->n unless the kind is STAT_NONE. May be done in place. The
 * lerobot kinds calculate in float32.
 * openpi: transforms.py Normalize; lerobot: normalize_processor.py _apply_transform. */
void normalize(const struct feature_stats *s, const double *x, int n, double *out);

/* The way back for the model's actions, x [n] float32 → out [n]. openpi: dims past the statistics
 * pass unchanged (z-score: mean 0, std 1, so times 1 + 1e-6). lerobot: n ≤ s->n.
 * openpi: transforms.py Unnormalize. Its (x + 1) / 2 stays in float32, as numpy keeps it. */
void unnormalize_actions(const struct feature_stats *s, const float *x, int n, double *out);

/* openpi only: the way back for the state that was given to the model, float64 throughout. */
void unnormalize_state(const struct feature_stats *s, const double *x, int n, double *out);

#endif
