/* SPDX-License-Identifier: Apache-2.0
 * robot: what is particular to a robot: the names of its cameras, how many numbers its state and
 * actions have, ALOHA's joint and gripper conventions, which action dims are relative to the state.
 * openpi: policies/{aloha,droid,libero}_policy.py, transforms.py AbsoluteActions. */
#ifndef PI0_POLICY_ROBOT_H
#define PI0_POLICY_ROBOT_H

#include "base/status.h"
#include "model/config.h"
#include "policy/normalize.h"

/* robot_slot's answers that are not a slot. */
#define ROBOT_CAMERA_UNKNOWN (-1)
#define ROBOT_CAMERA_IGNORED (-2) /* a name the robot sends and the model does not use */

#define ROBOT_CAMERA_BYTES 128

struct robot_camera {
    char key[ROBOT_CAMERA_BYTES];  /* the robot's own name; "" = none */
    char slot[ROBOT_CAMERA_BYTES]; /* the model's */
    int required;
};

struct robot_map {
    enum robot robot;
    const char *name;
    int n_cameras; /* the model's slots */
    struct robot_camera cameras[PI0_MAX_CAMERAS];
    int adapt_to_pi;                     /* ALOHA only */
    int state_dim;                       /* numbers expected; 0 = any up to the model's A */
    const char *state_parts;             /* what they are; "" when unknown */
    int action_dim;                      /* D returned */
    signed char relative[STATS_MAX_DIM]; /* 1: state is added to this action dim */
    int n_relative;
};

/* "none", "aloha" … and back. PI0_E_ARGUMENT for another name. */
const char *robot_name(enum robot r);
pi0_status robot_named(enum robot *out, const char *name, struct pi0_error *err);

/* The mapping of `robot` over this model. adapt_to_pi and the number of returned dims are the train
 * config's if it is about this robot, else the robot's own; the relative dims always are the train
 * config's. PI0_E_MODEL when the model is too small for it. */
pi0_status robot_open(struct robot_map *out, enum robot robot, const struct config *config,
                      struct pi0_error *err);

/* Slot of a camera by the robot's name or the model's, or one of the answers above. */
int robot_slot(const struct robot_map *m, const char *name);
/* All accepted camera names, "a, b, c", cut to fit. */
void robot_camera_list(const struct robot_map *m, char *buf, size_t buf_bytes);
/* The same for what is needed: "cam_high (base_0_rgb)". */
void robot_required_list(const struct robot_map *m, char *buf, size_t buf_bytes);

/* state [n] in robot units → model space, in place. */
void robot_encode_state(const struct robot_map *m, double *state, int n);
/* One action [A] in model units → robot units, in place: adds state [A] (model space, robot units)
 * to the relative dims, then undoes what robot_encode_state did. */
void robot_decode_action(const struct robot_map *m, double *action, const double *state);

#endif
