/* SPDX-License-Identifier: Apache-2.0
 * robot: mappings; see robot.h. */
#include "policy/robot.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- the robots */

#define N_KEYS 3

static const struct {
    const char *name;
    int state_dim, action_dim; /* 0: the model's */
    const char *state_parts;
    const char *keys[N_KEYS]; /* of model slots 0, 1, 2: base, left wrist, right wrist */
    int n_required;           /* the first so many keys must be there */
    const char *ignored;      /* a camera that the robot may send and no slot takes */
} robots[] = {
    [ROBOT_NONE] = { "none", 0, 0, "", { NULL, NULL, NULL }, 0, NULL },
    [ROBOT_ALOHA] = { "aloha",
                      14,
                      14,
                      "6 joints and gripper of the left arm, then of the right arm",
                      { "cam_high", "cam_left_wrist", "cam_right_wrist" },
                      1,
                      "cam_low" },
    [ROBOT_DROID] = { "droid",
                      8,
                      8,
                      "7 joint positions and gripper position",
                      { "observation/exterior_image_1_left", "observation/wrist_image_left", NULL },
                      2,
                      NULL },
    [ROBOT_LIBERO] = { "libero",
                       8,
                       7,
                       "end effector position 3, axis-angle 3, gripper 2",
                       { "observation/image", "observation/wrist_image", NULL },
                       2,
                       NULL },
};
#define N_ROBOTS ((int)(sizeof robots / sizeof robots[0]))

const char *robot_name(enum robot r) { return robots[r].name; }

pi0_status robot_named(enum robot *out, const char *name, struct pi0_error *err)
{
    for (int i = 0; i < N_ROBOTS; i++)
        if (strcmp(name, robots[i].name) == 0) {
            *out = (enum robot)i;
            return PI0_OK;
        }
    return pi0_fail(err, PI0_E_ARGUMENT, "robot \"%s\", expected aloha, droid, libero or none",
                    name);
}

static pi0_status fits(const char *robot, const char *what, int n, int limit, const char *of_model,
                       struct pi0_error *err)
{
    if (n <= limit)
        return PI0_OK;
    return pi0_fail(err, PI0_E_MODEL, "robot %s has %d %s, this model has %d %s", robot, n, what,
                    limit, of_model);
}

pi0_status robot_open(struct robot_map *out, enum robot robot, const struct config *config,
                      struct pi0_error *err)
{
    const struct train_config *t = &config->train;
    const struct pi0_dims *d = &config->dims;
    int own = t->robot == robot; /* the train config is about this robot */
    *out = (struct robot_map){
        .robot = robot,
        .name = robots[robot].name,
        .n_cameras = d->n_cameras,
        .adapt_to_pi = robot == ROBOT_ALOHA && (own ? t->adapt_to_pi : 1),
        .state_dim = robots[robot].state_dim,
        .state_parts = robots[robot].state_parts,
        .action_dim = own && t->out_dim > 0 ? t->out_dim : robots[robot].action_dim,
        .n_relative = t->n_delta_mask,
    };
    if (out->action_dim == 0)
        out->action_dim = d->action_dim;
    for (int i = 0; i < t->n_delta_mask; i++)
        out->relative[i] = t->delta_mask[i];
    pi0_status st;
    if ((st = fits(out->name, "state numbers", out->state_dim, d->action_dim, "state dims", err)) ||
        (st = fits(out->name, "action numbers", out->action_dim, d->action_dim, "action dims",
                   err)) ||
        (st = fits(out->name, "entries in its delta mask", out->n_relative, d->action_dim,
                   "action dims", err)) ||
        (st = fits(out->name, "required cameras", robots[robot].n_required, d->n_cameras, "slots",
                   err)))
        return st;
    if (out->adapt_to_pi &&
        (st = fits(out->name, "action numbers", 14, d->action_dim, "action dims", err)))
        return st;
    for (int i = 0; i < d->n_cameras; i++) {
        struct robot_camera *c = &out->cameras[i];
        snprintf(c->slot, sizeof c->slot, "%s", config->camera_names[i]);
        const char *key = i < N_KEYS ? robots[robot].keys[i] : NULL;
        snprintf(c->key, sizeof c->key, "%s", key ? key : "");
        c->required = i < robots[robot].n_required;
    }
    return PI0_OK;
}

/* ---------------------------------------------------------------- cameras */

int robot_slot(const struct robot_map *m, const char *name)
{
    for (int i = 0; i < m->n_cameras; i++)
        if (strcmp(name, m->cameras[i].slot) == 0 ||
            (m->cameras[i].key[0] && strcmp(name, m->cameras[i].key) == 0))
            return i;
    const char *ignored = robots[m->robot].ignored;
    return ignored && strcmp(name, ignored) == 0 ? ROBOT_CAMERA_IGNORED : ROBOT_CAMERA_UNKNOWN;
}

static void append(char *buf, size_t buf_bytes, const char *between, const char *text)
{
    size_t n = strlen(buf);
    snprintf(buf + n, buf_bytes - n, "%s%s", n ? between : "", text);
}

void robot_camera_list(const struct robot_map *m, char *buf, size_t buf_bytes)
{
    buf[0] = '\0';
    for (int i = 0; i < m->n_cameras; i++)
        append(buf, buf_bytes, ", ", m->cameras[i].slot);
    for (int i = 0; i < m->n_cameras; i++)
        if (m->cameras[i].key[0])
            append(buf, buf_bytes, ", ", m->cameras[i].key);
    if (robots[m->robot].ignored)
        append(buf, buf_bytes, ", ", robots[m->robot].ignored);
}

void robot_required_list(const struct robot_map *m, char *buf, size_t buf_bytes)
{
    buf[0] = '\0';
    for (int i = 0; i < m->n_cameras; i++)
        if (m->cameras[i].required) {
            char one[2 * ROBOT_CAMERA_BYTES + 4];
            snprintf(one, sizeof one, "%s (%s)", m->cameras[i].slot, m->cameras[i].key);
            append(buf, buf_bytes, ", ", one);
        }
}

/* ---------------------------------------------------------------- ALOHA */

/* Signs between ALOHA's joint axes and those of the π0 training data (_joint_flip_mask). */
static const double aloha_flip[14] = { 1, -1, -1, 1, 1, 1, 1, 1, -1, -1, 1, 1, 1, 1 };
static const int aloha_grippers[2] = { 6, 13 };

static double unit_range(double x, double low, double high) { return (x - low) / (high - low); }

/* ALOHA's linear gripper position, 0 … 1, → the angle π0 saw, normalised (_gripper_to_angular). The
 * metres and radians are openpi's: range of the finger's travel, arm and horn length of the linkage,
 * range of the angle. */
static double gripper_to_angular(double v)
{
    double p = v * (0.05800 - 0.01844) + 0.01844;
    double horn = 0.022, arm = 0.036;
    double s = (horn * horn + p * p - arm * arm) / (2.0 * horn * p);
    s = s < -1.0 ? -1.0 : s > 1.0 ? 1.0 : s;
    return unit_range(asin(s), 0.5476, 1.6296);
}

/* π0's gripper action → ALOHA's motor position, normalised (_gripper_from_angular). Not the inverse
 * of the above: actions command the leader's gripper, whose range differs. */
static double gripper_from_angular(double v) { return unit_range(v + 0.5476, -0.6213, 1.4910); }

void robot_encode_state(const struct robot_map *m, double *state, int n)
{
    if (!m->adapt_to_pi)
        return;
    for (int i = 0; i < 14 && i < n; i++)
        state[i] = aloha_flip[i] * state[i];
    for (int i = 0; i < 2; i++)
        if (aloha_grippers[i] < n)
            state[aloha_grippers[i]] = gripper_to_angular(state[aloha_grippers[i]]);
}

void robot_decode_action(const struct robot_map *m, double *action, const double *state)
{
    for (int i = 0; i < m->n_relative; i++)
        if (m->relative[i])
            action[i] += state[i];
    if (!m->adapt_to_pi)
        return;
    for (int i = 0; i < 14; i++)
        action[i] = aloha_flip[i] * action[i];
    for (int i = 0; i < 2; i++)
        action[aloha_grippers[i]] = gripper_from_angular(action[aloha_grippers[i]]);
}
