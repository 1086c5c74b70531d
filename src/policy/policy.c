/* SPDX-License-Identifier: Apache-2.0
 * policy: an observation's way to actions.
 *
 *   images  robot's names → slots → 224 × 224 u8 ─┐
 *   state   robot units → normalised, padded to A ─┤
 *           └► bins in π0.5's prompt               ├► pi0_engine_infer ─► un-normalise ─► robot units
 *   prompt  text → token ids ──────────────────────┤
 *   noise   given, or from the seed ───────────────┘
 *
 * Everything of every observation is checked before the engine runs. Which pipeline holds was
 * decided by open.c. */
#include "policy/policy.h"

#include "base/clock.h"

#include <math.h>
#include <string.h>

/* Names in a message; cut to fit. */
#define LIST_BYTES 320

static pi0_status missing_cameras(const pi0_policy *p, const struct pi0_observation *o,
                                  struct pi0_error *err)
{
    char needed[LIST_BYTES], found[LIST_BYTES] = "";
    robot_required_list(&p->transform.map, needed, sizeof needed);
    if (needed[0] == '\0')
        robot_camera_list(&p->transform.map, needed, sizeof needed);
    size_t at = 0;
    for (int i = 0; i < o->n_images && at + 1 < sizeof found; i++) {
        size_t n = strnlen(o->images[i].name, 48);
        if (at + n + 3 > sizeof found)
            break;
        if (i > 0) {
            memcpy(found + at, ", ", 2);
            at += 2;
        }
        memcpy(found + at, o->images[i].name, n);
        at += n;
        found[at] = '\0';
    }
    return pi0_fail(err, PI0_E_INPUT, "missing camera: found %s, robot %s needs %s",
                    found[0] ? found : "none", p->transform.map.name, needed);
}

/* Images into their slots; slots without one are masked and black. */
static pi0_status observe_images(pi0_policy *p, const struct pi0_observation *o,
                                 struct pi0_input *in, uint8_t *pixels, struct pi0_error *err)
{
    const struct robot_map *m = &p->transform.map;
    size_t image = (size_t)p->scratch.size * (size_t)p->scratch.size * 3;
    if (o->n_images < 0 || (o->n_images > 0 && !o->images))
        return pi0_fail(err, PI0_E_ARGUMENT, "%d images announced, none given", o->n_images);
    for (int i = 0; i < o->n_images; i++) {
        const struct pi0_named_image *v = &o->images[i];
        if (!v->name || !v->pixels)
            return pi0_fail(err, PI0_E_ARGUMENT, "image %d has no %s", i,
                            v->name ? "pixels" : "name");
        int slot = robot_slot(m, v->name);
        if (slot == ROBOT_CAMERA_IGNORED)
            continue;
        if (slot == ROBOT_CAMERA_UNKNOWN) {
            char names[LIST_BYTES];
            robot_camera_list(m, names, sizeof names);
            return pi0_fail(err, PI0_E_INPUT, "unknown camera \"%.64s\", expected one of %s",
                            v->name, names);
        }
        if (in->camera_mask[slot])
            return pi0_fail(err, PI0_E_INPUT, "camera \"%s\" is given twice (%s)", v->name,
                            m->cameras[slot].slot);
        struct pi0_error why = { PI0_OK, "" };
        pi0_status st = image_resize_with_pad(&p->scratch, p->filter, v->pixels, v->height,
                                              v->width, pixels + (size_t)slot * image, &why);
        if (st)
            return pi0_fail(err, st, "camera \"%s\": %s", v->name, why.message);
        in->camera_mask[slot] = 1;
    }
    int n_there = 0, n_missing = 0;
    for (int c = 0; c < m->n_cameras; c++) {
        in->pixels[c] = pixels + (size_t)c * image;
        if (!in->camera_mask[c])
            memset(pixels + (size_t)c * image, 0, image);
        n_there += in->camera_mask[c];
        n_missing += m->cameras[c].required && !in->camera_mask[c];
    }
    return n_there == 0 || n_missing > 0 ? missing_cameras(p, o, err) : PI0_OK;
}

static pi0_status check_state(const pi0_policy *p, const struct pi0_observation *o,
                              struct pi0_error *err)
{
    const struct transform *t = &p->transform;
    const struct robot_map *m = &t->map;
    int n = o->n_state,
        reads_state = p->model->config.dims.variant == PI0_VARIANT_PI0 || p->form == PROMPT_STATE;
    if (n < 0 || (n > 0 && !o->state))
        return pi0_fail(err, PI0_E_ARGUMENT, "%d state numbers announced, none given", n);
    if (m->state_dim > 0 && n != m->state_dim)
        return pi0_fail(err, PI0_E_INPUT, "state of %d numbers, expected %d%s%s%s", n, m->state_dim,
                        m->state_parts[0] ? " (" : "", m->state_parts,
                        m->state_parts[0] ? ")" : "");
    if (n > t->action_dim || (n == 0 && reads_state))
        return pi0_fail(err, PI0_E_INPUT, "state of %d numbers, expected 1 to %d", n,
                        t->action_dim);
    if (t->stats.state.kind != STAT_NONE && n > t->stats.state.n)
        return pi0_fail(err, PI0_E_INPUT,
                        "state of %d numbers, expected at most %d, as the statistics hold", n,
                        t->stats.state.n);
    for (int i = 0; i < n; i++)
        if (!isfinite(o->state[i]))
            return pi0_fail(err, PI0_E_INPUT, "state[%d] is %f, expected a number", i, o->state[i]);
    return PI0_OK;
}

/* Token ids as given, or of the request's prompt, or of the default prompt. */
static pi0_status observe_tokens(pi0_policy *p, const struct pi0_observation *o, int32_t *tokens,
                                 int *n_tokens, int *n_cut, struct pi0_error *err)
{
    int most = p->limits.max_token_len;
    *n_cut = 0;
    if (o->tokens) {
        if (o->n_tokens < 0 || o->n_tokens > most)
            return pi0_fail(err, PI0_E_INPUT, "%d token ids, expected 0 to %d", o->n_tokens, most);
        memcpy(tokens, o->tokens, (size_t)o->n_tokens * sizeof *tokens);
        *n_tokens = o->n_tokens;
        return PI0_OK;
    }
    const char *text = o->prompt ? o->prompt : p->default_prompt;
    size_t n = o->prompt ? o->prompt_bytes : strlen(text);
    if (!o->prompt && n == 0)
        return pi0_fail(err, PI0_E_INPUT,
                        "no prompt: the observation has none and there is no default prompt");
    if (!p->tokenizer)
        return pi0_fail(
            err, PI0_E_INPUT,
            "no tokenizer: the prompt is text, and neither tokenizer.model nor "
            "paligemma_tokenizer.model is %s%s; name one (tokenizer), or give token ids",
            p->model->dir[0] ? "in " : "beside a synthetic model", p->model->dir);
    struct prompt prompt = { .form = p->form,
                             .text = text,
                             .n = n,
                             .state = p->normalized,
                             .n_state =
                                 p->padded_prompt_state ? p->transform.action_dim : o->n_state };
    return prompt_tokens(p->tokenizer, &prompt, p->text, tokens, most, n_tokens, n_cut, err);
}

/* Observation o → inputs[i] and base[i]. */
static pi0_status observe(pi0_policy *p, const struct pi0_observation *o, int i,
                          struct pi0_error *err)
{
    const struct pi0_dims *d = &p->model->config.dims;
    size_t k = (size_t)i, a = (size_t)d->action_dim;
    size_t chunk = (size_t)p->limits.action_horizon * a;
    size_t images = (size_t)d->n_cameras * (size_t)d->image_size * (size_t)d->image_size * 3;
    float *state = p->state + k * a, *noise = p->noise + k * chunk;
    int32_t *tokens = p->tokens + k * (size_t)p->limits.max_token_len;
    struct pi0_input in = { .tokens = tokens, .state = state, .noise = noise };
    int n_cut;
    pi0_status st;
    if ((st = check_state(p, o, err)))
        return st;
    transform_state(&p->transform, o->state, o->n_state, p->normalized, p->base + k * a);
    for (size_t j = 0; j < a; j++) {
        state[j] = (float)p->normalized[j];
        if (!isfinite(state[j])) /* a range of 0 in the statistics, or past float32 */
            return pi0_fail(err, PI0_E_INPUT,
                            "state[%zu] = %g is normalised to %f, expected a number", j,
                            o->state[j], (double)state[j]);
    }
    if ((st = observe_tokens(p, o, tokens, &in.n_tokens, &n_cut, err)) ||
        (st = observe_images(p, o, &in, p->pixels + k * images, err)))
        return st;
    if (o->noise)
        memcpy(noise, o->noise, chunk * sizeof *noise);
    else
        pi0_noise(noise, chunk, o->seed);
    p->inputs[i] = in;
    if (i == 0)
        p->trace.n_tokens_cut = n_cut;
    return PI0_OK;
}

static pi0_status check_steps(const pi0_policy *p, const struct pi0_observation *obs, int n,
                              int *n_steps, struct pi0_error *err)
{
    int steps = 0;
    for (int i = 0; i < n; i++) {
        int s = obs[i].n_steps == 0 ? p->model->config.num_steps : obs[i].n_steps;
        if (s < 1 || s > p->limits.max_steps)
            return pi0_fail(err, PI0_E_INPUT, "%d denoising steps, expected 1 to %d (max_steps)", s,
                            p->limits.max_steps);
        if (i > 0 && s != steps)
            return pi0_fail(err, PI0_E_INPUT,
                            "observation %d asks for %d denoising steps, observation 0 for %d", i,
                            s, steps);
        steps = s;
    }
    *n_steps = steps;
    return PI0_OK;
}

static void fill_trace(pi0_policy *p, double preprocess_ms, double postprocess_ms)
{
    const struct pi0_input *in = &p->inputs[0];
    struct pi0_policy_trace *t = &p->trace;
    for (int c = 0; c < p->model->config.dims.n_cameras; c++) {
        t->pixels[c] = in->pixels[c];
        t->camera_mask[c] = in->camera_mask[c];
    }
    t->tokens = in->tokens;
    t->n_tokens = in->n_tokens;
    t->state = in->state;
    t->noise = in->noise;
    t->model_actions = p->actions;
    t->preprocess_ms = preprocess_ms;
    t->postprocess_ms = postprocess_ms;
}

PI0_API pi0_status pi0_policy_infer(pi0_policy *policy, const struct pi0_observation *obs, int n,
                                    double *actions, struct pi0_timing *timing,
                                    struct pi0_error *err)
{
    if (!policy || !obs || !actions)
        return pi0_fail(err, PI0_E_ARGUMENT,
                        "pi0_policy_infer: policy, obs and actions must not be NULL");
    pi0_policy *p = policy;
    if (n < 1 || n > p->limits.max_batch)
        return pi0_fail(err, PI0_E_ARGUMENT, "%d observations, expected 1 to %d (max_batch)", n,
                        p->limits.max_batch);
    double start = clock_ms();
    int n_steps = 0;
    pi0_status st = check_steps(p, obs, n, &n_steps, err);
    if (st)
        return st;
    p->trace = (struct pi0_policy_trace){ 0 };
    for (int i = 0; i < n; i++) {
        struct pi0_error why = { PI0_OK, "" };
        if ((st = observe(p, &obs[i], i, &why))) {
            p->trace = (struct pi0_policy_trace){ 0 };
            return n == 1 ? pi0_fail(err, st, "%s", why.message)
                          : pi0_fail(err, st, "observation %d: %s", i, why.message);
        }
    }
    double ready = clock_ms();
    if ((st = pi0_engine_infer(p->engine, p->inputs, n, n_steps, p->actions, timing, err)))
        return st;
    double inferred = clock_ms();
    size_t a = (size_t)p->transform.action_dim, d = (size_t)p->transform.map.action_dim;
    size_t h = (size_t)p->limits.action_horizon;
    for (size_t row = 0; row < (size_t)n * h; row++)
        transform_action(&p->transform, p->actions + row * a, p->base + row / h * a, p->action,
                         actions + row * d);
    fill_trace(p, ready - start, clock_ms() - inferred);
    return PI0_OK;
}
