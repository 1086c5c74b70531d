/* SPDX-License-Identifier: Apache-2.0
 * embed: π0 inside a robot's program, in the seven calls that it takes. The cameras and the joints
 * are made up here; everything else is what a real program does.
 *
 *   cc embed.c $(pkg-config --cflags --libs pi0) -o embed
 *   ./embed CHECKPOINT ["what the robot shall do"]
 */
#include <pi0.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH 320
#define HEIGHT 240
#define FRAME_BYTES ((size_t)WIDTH * HEIGHT * 3)
#define CONTROL_STEPS 5 /* actions executed of a chunk before the robot looks again */

/* Stands in for a camera driver: a moving gradient, RGB, row by row. */
static void grab_frame(unsigned char *rgb, int camera, int time)
{
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++) {
            unsigned char *p = rgb + ((size_t)y * WIDTH + (size_t)x) * 3;
            p[0] = (unsigned char)(x + 8 * time);
            p[1] = (unsigned char)y;
            p[2] = (unsigned char)(80 * camera);
        }
}

struct robot {
    pi0_model *model;
    pi0_engine *engine;
    pi0_policy *policy;
    struct pi0_policy_info info;
    int n_cameras, n_state;
    unsigned char *frames; /* [n_cameras, HEIGHT, WIDTH, 3] */
    struct pi0_named_image images[PI0_MAX_CAMERAS];
    double *state;   /* [n_state], in the robot's units */
    double *actions; /* [action_horizon, robot_action_dim], in the robot's units */
};

/* Once, at start: map the weights, let an engine pack them for this machine, put the robot's
 * conventions (statistics, tokenizer, cameras) round it. */
static pi0_status robot_open(struct robot *r, const char *dir, struct pi0_error *err)
{
    pi0_status st;
    struct pi0_policy_config config;
    pi0_policy_defaults(&config);
    config.allow_no_stats = 1; /* so that a synthetic checkpoint runs, too */
    if ((st = pi0_model_open(&r->model, dir, NULL, err)) ||
        (st = pi0_engine_open(&r->engine, r->model, NULL, err)) ||
        (st = pi0_policy_open(&r->policy, r->model, r->engine, &config, err)))
        return st;

    struct pi0_model_info m;
    pi0_model_info(r->model, &m);
    pi0_policy_info(r->policy, &r->info);
    r->n_cameras = m.dims.n_cameras;
    r->n_state = r->info.robot_state_dim ? r->info.robot_state_dim : m.dims.action_dim;
    r->state = calloc((size_t)r->n_state, sizeof *r->state);
    r->actions = calloc((size_t)r->info.action_horizon * (size_t)r->info.robot_action_dim,
                        sizeof *r->actions);
    r->frames = calloc((size_t)r->n_cameras, FRAME_BYTES);
    if (!r->state || !r->actions || !r->frames) {
        snprintf(err->message, sizeof err->message, "out of memory");
        return PI0_E_NOMEM;
    }
    for (int c = 0; c < r->n_cameras; c++) /* the names live as long as the model */
        r->images[c] = (struct pi0_named_image){ .name = m.camera_names[c],
                                                 .pixels = r->frames + (size_t)c * FRAME_BYTES,
                                                 .height = HEIGHT,
                                                 .width = WIDTH };
    return PI0_OK;
}

/* Look, think, move. Nothing is allocated here. */
static pi0_status robot_step(struct robot *r, int time, const char *prompt, struct pi0_error *err)
{
    static const int32_t ids[] = { 2, 17, 35, 4 };
    for (int c = 0; c < r->n_cameras; c++)
        grab_frame(r->frames + (size_t)c * FRAME_BYTES, c, time);
    struct pi0_observation look = {
        .images = r->images,
        .n_images = r->n_cameras,
        .state = r->state,
        .n_state = r->n_state,
        .seed = (uint64_t)time,
    };
    if (r->info.has_tokenizer) {
        look.prompt = prompt;
        look.prompt_bytes = strlen(prompt);
    } else { /* a prompt that was tokenised elsewhere */
        look.tokens = ids;
        look.n_tokens = 4;
    }
    pi0_status st = pi0_policy_infer(r->policy, &look, 1, r->actions, NULL, err);
    if (st)
        return st;
    for (int i = 0; i < r->info.action_horizon && i < CONTROL_STEPS; i++) {
        printf("chunk %d action %d:", time, i); /* a robot would move here */
        for (int d = 0; d < r->info.robot_action_dim; d++)
            printf(" %.4f", r->actions[i * r->info.robot_action_dim + d]);
        putchar('\n');
    }
    return PI0_OK;
}

static void robot_close(struct robot *r)
{
    pi0_policy_close(r->policy); /* in the reverse order of opening; NULL is fine */
    pi0_engine_close(r->engine);
    pi0_model_close(r->model);
    free(r->frames);
    free(r->state);
    free(r->actions);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: embed CHECKPOINT [PROMPT]\n");
        return 2;
    }
    struct robot robot = { 0 };
    struct pi0_error err = { 0 };
    pi0_status st = robot_open(&robot, argv[1], &err);
    for (int time = 0; !st && time < 3; time++)
        st = robot_step(&robot, time, argc > 2 ? argv[2] : "pick up the red block", &err);
    if (st)
        fprintf(stderr, "embed: %s\n", err.message);
    robot_close(&robot);
    return st ? 1 : 0;
}
