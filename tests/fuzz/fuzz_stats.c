/* SPDX-License-Identifier: Apache-2.0
 * Statistics and processor files: any bytes give an error or checked numbers. The first byte chooses
 * the reader: norm_stats.json by z-score or by quantile, or a lerobot processor. */
#include "policy/lerobot.h"
#include "policy/stats.h"

#include <math.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct norm_stats stats;
static struct lerobot_processor processor;

static void expect(int condition)
{
    if (!condition)
        abort();
}

static void check_feature(const struct feature_stats *s)
{
    expect(s->n >= 1 && s->n <= STATS_MAX_DIM);
    for (int i = 0; i < s->n; i++)
        expect(isfinite(s->a[i]) && isfinite(s->b[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pi0_error err = { PI0_OK, "" };
    pi0_status st;
    if (size < 1)
        return 0;
    int reader = data[0] % 3;
    if (reader == 2) {
        st = lerobot_parse(&processor, data + 1, size - 1, "fuzz", &err);
        if (st == PI0_OK)
            expect(isfinite(processor.eps) && processor.eps >= 0 && processor.n_relative >= 0 &&
                   processor.n_relative <= STATS_MAX_DIM);
    } else {
        st = stats_parse(&stats, data + 1, size - 1, reader ? NORM_QUANTILE : NORM_ZSCORE, "fuzz",
                         &err);
        if (st == PI0_OK) {
            check_feature(&stats.state);
            check_feature(&stats.actions);
        }
    }
    expect(st == err.status);
    expect((st == PI0_OK) == (err.message[0] == '\0'));
    return 0;
}
