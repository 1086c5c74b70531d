/* SPDX-License-Identifier: Apache-2.0
 * transform: the numbers' way in and out: robot state → model state, model actions → robot actions.
 * The order of openpi's and of lerobot's steps; the steps are normalize.h's and robot.h's. */
#ifndef PI0_POLICY_TRANSFORM_H
#define PI0_POLICY_TRANSFORM_H

#include "policy/normalize.h"
#include "policy/robot.h"

struct transform {
    struct robot_map map;
    struct norm_stats stats;
    int action_dim; /* A, the model's */
    int lerobot;    /* non-zero: lerobot's order, in float32 */
};

/* Can these statistics serve this robot and this model? PI0_E_FORMAT with the lengths if not.
 * `label` names where they came from. */
pi0_status transform_check(const struct transform *t, const char *label, struct pi0_error *err);

/* state [n], n ≤ A, finite → normalized [A], zeros behind the first n, and base [A], the state that
 * relative actions are relative to. openpi: base is the un-normalised model input, in model space;
 * lerobot: the state as given. */
void transform_state(const struct transform *t, const double *state, int n, double *normalized,
                     double *base);

/* One action: model [A] float32 → out [map.action_dim] in robot units. scratch [A]. */
void transform_action(const struct transform *t, const float *model, const double *base,
                      double *scratch, double *out);

#endif
