/* SPDX-License-Identifier: Apache-2.0
 * transform: see transform.h.
 *
 *   openpi   in   robot_encode_state → normalize → pad to A
 *            out  unnormalize → += state → robot_decode_action → first D dims
 *   lerobot  in   normalize → pad to A
 *            out  first D dims → unnormalize → += raw state */
#include "policy/transform.h"

#include <string.h>

static pi0_status check_length(const struct feature_stats *s, const char *what, int least, int most,
                               const char *label, struct pi0_error *err)
{
    if (s->kind == STAT_NONE || (s->n >= least && s->n <= most))
        return PI0_OK;
    return pi0_fail(err, PI0_E_FORMAT, "%s: statistics of %s hold %d numbers, expected %d to %d",
                    label, what, s->n, least, most);
}

pi0_status transform_check(const struct transform *t, const char *label, struct pi0_error *err)
{
    /* openpi pads statistics of actions that are too short; for a known robot that would return
     * normalised numbers as joint angles. */
    int known = t->lerobot || t->map.robot != ROBOT_NONE;
    int least_state = t->map.state_dim > 0 ? t->map.state_dim : 1;
    int least_actions = known ? t->map.action_dim : 1;
    pi0_status st = check_length(&t->stats.state, "state", least_state, t->action_dim, label, err);
    if (st)
        return st;
    return check_length(&t->stats.actions, "actions", least_actions, t->action_dim, label, err);
}

void transform_state(const struct transform *t, const double *state, int n, double *normalized,
                     double *base)
{
    size_t a = (size_t)t->action_dim;
    memset(normalized, 0, a * sizeof *normalized);
    memset(base, 0, a * sizeof *base);
    for (int i = 0; i < n; i++)
        normalized[i] = t->lerobot ? (double)(float)state[i] : state[i];
    if (t->lerobot) {
        memcpy(base, normalized, (size_t)n * sizeof *base);
        normalize(&t->stats.state, normalized, n, normalized);
        return;
    }
    robot_encode_state(&t->map, normalized, n);
    normalize(&t->stats.state, normalized, n, normalized);
    unnormalize_state(&t->stats.state, normalized, t->action_dim, base);
}

void transform_action(const struct transform *t, const float *model, const double *base,
                      double *scratch, double *out)
{
    int d = t->map.action_dim;
    unnormalize_actions(&t->stats.actions, model, t->lerobot ? d : t->action_dim, scratch);
    robot_decode_action(&t->map, scratch, base);
    for (int i = 0; i < d; i++) /* a sum of two float32 in double, rounded, is their float32 sum */
        out[i] = t->lerobot ? (double)(float)scratch[i] : scratch[i];
}
