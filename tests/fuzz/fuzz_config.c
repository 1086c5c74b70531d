/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target: config.json and pi0.json, as two pieces of the input with a zero byte between them
 * (no second piece: no pi0.json), then held against tensors of a tiny and of a full model. */
#include "model/config.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = { "pi0_tiny", "pi05" };
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    size_t first = zero ? (size_t)(zero - data) : size;
    struct config_file theirs = { (const char *)data, first }, ours = { NULL, 0 };
    if (zero)
        ours = (struct config_file){ (const char *)zero + 1, size - first - 1 };
    for (int i = 0; i < 2; i++) {
        struct config c;
        struct pi0_dims d;
        struct pi0_error err;
        if (config_parse(&c, theirs, ours, NULL, &err) == PI0_OK) {
            if (config_dims(&c, &d, &err) == PI0_OK && config_check(&d, &err) != PI0_OK)
                abort(); /* dimensions that were let through are in range */
            if (pi0_dims_named(&c.dims, names[i], &err) != PI0_OK)
                abort();
            c.dims.vision_heads = c.dims.n_cameras = 0;
            c.dims.action_horizon = c.dims.max_token_len = 0;
            if (config_finish(&c, &err) == PI0_OK && config_check(&c.dims, &err) != PI0_OK)
                abort();
        }
        config_free(&c);
    }
    return 0;
}
