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

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: embed CHECKPOINT [PROMPT]\n");
        return 2;
    }
    struct pi0_error err = { 0 };
    pi0_model *model = NULL;
    pi0_engine *engine = NULL;
    pi0_policy *policy = NULL;
    unsigned char *frame[PI0_MAX_CAMERAS] = { NULL };
    double *state = NULL, *actions = NULL;
    int code = 1;

    /* Once, at start: map the weights, let an engine pack them for this machine, put the robot's
     * conventions (statistics, tokenizer, cameras) round it. */
    struct pi0_policy_config config;
    pi0_policy_defaults(&config);
    config.allow_no_stats = 1; /* so that a synthetic checkpoint runs, too */
    if (pi0_model_open(&model, argv[1], NULL, &err) ||
        pi0_engine_open(&engine, model, NULL, &err) ||
        pi0_policy_open(&policy, model, engine, &config, &err))
        goto done;

    struct pi0_model_info m;
    struct pi0_policy_info p;
    pi0_model_info(model, &m);
    pi0_policy_info(policy, &p);
    int n_state = p.robot_state_dim ? p.robot_state_dim : m.dims.action_dim;
    int H = p.action_horizon, D = p.robot_action_dim;
    state = calloc((size_t)n_state, sizeof *state);
    actions = calloc((size_t)H * (size_t)D, sizeof *actions); /* [H, D] */
    struct pi0_named_image images[PI0_MAX_CAMERAS];
    for (int c = 0; c < m.dims.n_cameras; c++) {
        frame[c] = malloc((size_t)WIDTH * HEIGHT * 3);
        images[c] = (struct pi0_named_image){ m.camera_names[c], frame[c], HEIGHT, WIDTH };
    }
    if (!state || !actions || !frame[m.dims.n_cameras - 1]) {
        snprintf(err.message, sizeof err.message, "out of memory");
        goto done;
    }

    /* For ever, here three times: look, think, move. Nothing is allocated in this loop. */
    for (int time = 0; time < 3; time++) {
        static const int32_t ids[] = { 2, 17, 35, 4 };
        struct pi0_observation look = {
            .images = images,
            .n_images = m.dims.n_cameras,
            .state = state,
            .n_state = n_state,
            .seed = (uint64_t)time,
        };
        for (int c = 0; c < m.dims.n_cameras; c++)
            grab_frame(frame[c], c, time);
        if (p.has_tokenizer) {
            look.prompt = argc > 2 ? argv[2] : "pick up the red block";
            look.prompt_bytes = strlen(look.prompt);
        } else { /* ids of a prompt that was tokenised elsewhere */
            look.tokens = ids;
            look.n_tokens = 4;
        }
        if (pi0_policy_infer(policy, &look, 1, actions, NULL, &err))
            goto done;
        for (int i = 0; i < H && i < CONTROL_STEPS; i++) {
            printf("chunk %d action %d:", time, i);
            for (int d = 0; d < D; d++)
                printf(" %.4f", actions[(size_t)i * (size_t)D + (size_t)d]);
            putchar('\n'); /* a robot would move here */
        }
    }
    code = 0;
done:
    if (code)
        fprintf(stderr, "embed: %s\n", err.message);
    for (int c = 0; c < PI0_MAX_CAMERAS; c++)
        free(frame[c]);
    free(state);
    free(actions);
    pi0_policy_close(policy);
    pi0_engine_close(engine);
    pi0_model_close(model);
    return code;
}
