/* SPDX-License-Identifier: Apache-2.0
 * prompt: a sentence (and, for π0.5, the state) → the text the model was trained on → token ids.
 * openpi: models/tokenizer.py PaligemmaTokenizer.tokenize; lerobot: processor_pi0.py,
 * processor_pi05.py. */
#ifndef PI0_POLICY_PROMPT_H
#define PI0_POLICY_PROMPT_H

#include "policy/tokenizer.h"

/* Longest prompt accepted, bytes. A model reads at most some hundred tokens. */
#define PROMPT_MAX_BYTES 65536

enum prompt_form {
    PROMPT_PLAIN = 0, /* openpi π0, π0.5 without state: bos, cleaned text, then "\n" on its own */
    PROMPT_STATE,     /* π0.5 with state: bos, "Task: <cleaned>, State: <bins>;\nAction: " */
    PROMPT_LINE       /* lerobot π0: bos, text as it is, made to end in "\n" */
};

struct prompt {
    enum prompt_form form;
    const char *text; /* UTF-8, [n] */
    size_t n;
    const double *state; /* [n_state] normalised; PROMPT_STATE only */
    int n_state;
};

/* Offset of the first byte that is not valid UTF-8, or n. */
size_t prompt_utf8_end(const char *text, size_t n);

/* Python's text.strip().replace("_", " ").replace("\n", " ") into out [n]; returns its length. */
size_t prompt_clean(const char *text, size_t n, char *out);

/* Which of 256 equal bins of [-1, 1) a state value falls into: 0 … 255, above the range 255, below
 * it -1. numpy.digitize(v, linspace(-1, 1, 257)[:-1]) - 1. v is not NaN. */
int prompt_bin(double v);

/* Bytes that prompt_write and prompt_tokens need for a state of up to n_state numbers. */
size_t prompt_buffer_bytes(int n_state);

/* The text that is tokenised (PROMPT_PLAIN: without its "\n"). Returns its length; the prompt has
 * been checked. */
size_t prompt_write(const struct prompt *p, char *buf);

/* The whole way: checks the text (PI0_E_INPUT: too long, not UTF-8), writes it, tokenises it into
 * ids [max_ids]. *n_cut: tokens that did not fit and were cut off, as openpi does. */
pi0_status prompt_tokens(const struct tokenizer *t, const struct prompt *p, char *buf, int32_t *ids,
                         int max_ids, int *n_ids, int *n_cut, struct pi0_error *err);

#endif
