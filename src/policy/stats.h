/* SPDX-License-Identifier: Apache-2.0
 * stats: openpi's norm_stats.json: finding it in a checkpoint's directory, reading it, refusing
 * what cannot be used. Formulas are normalize.h's. */
#ifndef PI0_POLICY_STATS_H
#define PI0_POLICY_STATS_H

#include "base/status.h"
#include "model/config.h"
#include "policy/normalize.h"

#include <stddef.h>

#define STATS_MAX_BYTES ((size_t)4 << 20) /* of the file; real ones hold some 10 KB */
#define STATS_PATH_BYTES 1024

/* {"norm_stats": {"state": {"mean", "std", "q01", "q99"}, "actions": {…}}}: both keys, mean and std
 * always, q01 and q99 only for NORM_QUANTILE (else they may be null or absent). All vectors of a
 * key have one length, 1 to STATS_MAX_DIM; every number is finite, no std is negative. `label`
 * names the file in messages. Fuzzed. */
pi0_status stats_parse(struct norm_stats *out, const void *bytes, size_t n_bytes,
                       enum norm_mode mode, const char *label, struct pi0_error *err);

pi0_status stats_load(struct norm_stats *out, const char *path, enum norm_mode mode,
                      struct pi0_error *err);

/* The first of DIR/assets/<asset_id>/norm_stats.json (if asset_id is not ""), DIR/norm_stats.json,
 * and the only norm_stats.json below DIR/assets. `path` is "" when there is none. PI0_E_ARGUMENT
 * when there are several to choose from: the message lists them. */
pi0_status stats_find(char path[STATS_PATH_BYTES], const char *dir, const char *asset_id,
                      struct pi0_error *err);

#endif
