/* SPDX-License-Identifier: Apache-2.0
 * tokenizer: a thin C face on libsentencepiece. No C++ exception crosses it. The library allocates
 * while it encodes; nothing else here does. */
#ifndef PI0_POLICY_TOKENIZER_H
#define PI0_POLICY_TOKENIZER_H

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#define TOKENIZER_MAX_BYTES ((size_t)64 << 20) /* of the model file; PaliGemma's holds 4.3 MB */

struct tokenizer;

/* Reads a SentencePiece model; it must have a begin-of-sequence piece. */
pi0_status tokenizer_open(struct tokenizer **out, const char *path, struct pi0_error *err);
/* The same from bytes; `label` names them in messages. */
pi0_status tokenizer_parse(struct tokenizer **out, const void *bytes, size_t n_bytes,
                           const char *label, struct pi0_error *err);
void tokenizer_close(struct tokenizer *t);

int tokenizer_n_pieces(const struct tokenizer *t);
int32_t tokenizer_bos(const struct tokenizer *t);

/* text [n] valid UTF-8 → ids, without bos or eos. Writes the first min(*n_ids, max_ids) of them;
 * *n_ids is how many the text has. */
pi0_status tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int32_t *ids,
                            int max_ids, int *n_ids, struct pi0_error *err);

#endif
