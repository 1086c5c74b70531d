/* SPDX-License-Identifier: Apache-2.0
 * backend: the list of backends and the choice among them. The project's only #ifdef PI0_CUDA above
 * backend/cuda. */
#include "backend/backend.h"

#include <stdio.h>
#include <string.h>

static void say(const struct pi0_engine_config *cfg, const char *line)
{
    if (cfg->log)
        cfg->log(cfg->log_user, 0, line);
}

static const struct backend *find(const char *name)
{
    static const struct backend *const all[] = {
        &backend_cpu,
#ifdef PI0_CUDA
        &backend_cuda,
#endif
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (!strcmp(all[i]->name, name))
            return all[i];
    return NULL;
}

static const struct backend *select_auto(const struct pi0_engine_config *cfg)
{
    char line[640];
    struct pi0_error why = { PI0_OK, "this build has no CUDA backend" };
    const struct backend *cuda = find("cuda");
    if (cuda && cfg->precision != PI0_PRECISION_BF16)
        (void)pi0_fail(&why, PI0_E_UNSUPPORTED, "it computes in bf16, float32 was asked for");
    else if (cuda && cuda->probe(cfg, &why) == PI0_OK)
        return cuda;
    snprintf(line, sizeof line, "backend auto: cpu (cuda not taken: %s)", why.message);
    say(cfg, line);
    return &backend_cpu;
}

const struct backend *backend_select(const struct pi0_engine_config *cfg, struct pi0_error *err)
{
    const char *name = cfg->backend ? cfg->backend : "auto";
    if (!strcmp(name, "auto"))
        return select_auto(cfg);
    const struct backend *b = find(name);
    if (b)
        return b->probe(cfg, err) == PI0_OK ? b : NULL;
    if (!strcmp(name, "cuda"))
        (void)pi0_fail(err, PI0_E_UNSUPPORTED,
                       "backend cuda: this build has none (nvcc was not found, or CUDA=0)");
    else
        (void)pi0_fail(err, PI0_E_ARGUMENT, "backend \"%s\", expected auto, cpu or cuda", name);
    return NULL;
}
