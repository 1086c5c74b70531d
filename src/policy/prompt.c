/* SPDX-License-Identifier: Apache-2.0
 * prompt: text forms; see prompt.h. */
#include "policy/prompt.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Decodes one sequence at s (n bytes left); 0 if it is not valid UTF-8 (surrogates and overlong
 * forms are not). Unicode standard, table 3-7. */
static int utf8_decode(const unsigned char *s, size_t n, uint32_t *out)
{
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };
    if (s[0] < 0x80) {
        *out = s[0];
        return 1;
    }
    int len = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : s[0] >= 0xC0 ? 2 : 0;
    if (len == 0 || s[0] > 0xF4 || (size_t)len > n)
        return 0;
    uint32_t c = s[0] & (0xFFu >> (len + 1));
    for (int i = 1; i < len; i++) {
        if ((s[i] & 0xC0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3Fu);
    }
    if (c < least[len] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
        return 0;
    *out = c;
    return len;
}

size_t prompt_utf8_end(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t at = 0;
    while (at < n) {
        uint32_t c;
        int len = utf8_decode(s + at, n - at, &c);
        if (len == 0)
            break;
        at += (size_t)len;
    }
    return at;
}

/* What Python's str.isspace says: the characters str.strip removes. */
static int is_space(uint32_t c)
{
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

size_t prompt_clean(const char *text, size_t n, char *out)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t begin = n, end = 0; /* of what is not space at either end */
    uint32_t c;
    for (size_t at = 0; at < n;) {
        int len = utf8_decode(s + at, n - at, &c);
        if (len == 0) { /* the text was checked; a stray byte is not a space */
            len = 1;
            c = 0;
        }
        if (!is_space(c)) {
            begin = at < begin ? at : begin;
            end = at + (size_t)len;
        }
        at += (size_t)len;
    }
    size_t length = end > begin ? end - begin : 0;
    for (size_t i = 0; i < length; i++) {
        char ch = text[begin + i];
        out[i] = ch == '_' || ch == '\n' ? ' ' : ch;
    }
    return length;
}

int prompt_bin(double v)
{
    /* Edge k is -1 + k/128, exactly; v + 1 may round up to the next edge. */
    int bin = v < -1.0 ? -1 : v >= 1.0 ? 255 : (int)floor((v + 1.0) * 128.0);
    bin = bin > 255 ? 255 : bin;
    return bin >= 0 && -1.0 + bin / 128.0 > v ? bin - 1 : bin;
}

static const char task[] = "Task: ", state_is[] = ", State: ", action_is[] = ";\nAction: ";

size_t prompt_buffer_bytes(int n_state)
{
    /* a bin is at most three digits or "-1", and a space */
    return PROMPT_MAX_BYTES + sizeof task + sizeof state_is + sizeof action_is +
           4 * (size_t)n_state;
}

static size_t put(char *buf, size_t at, const char *text)
{
    size_t n = strlen(text);
    memcpy(buf + at, text, n);
    return at + n;
}

size_t prompt_write(const struct prompt *p, char *buf)
{
    if (p->form == PROMPT_PLAIN)
        return prompt_clean(p->text, p->n, buf);
    if (p->form == PROMPT_LINE) {
        memcpy(buf, p->text, p->n);
        if (p->n > 0 && buf[p->n - 1] == '\n')
            return p->n;
        buf[p->n] = '\n';
        return p->n + 1;
    }
    size_t at = put(buf, 0, task);
    at += prompt_clean(p->text, p->n, buf + at);
    at = put(buf, at, state_is);
    for (int i = 0; i < p->n_state; i++) {
        char number[16];
        snprintf(number, sizeof number, i ? " %d" : "%d", prompt_bin(p->state[i]));
        at = put(buf, at, number);
    }
    return put(buf, at, action_is);
}

pi0_status prompt_tokens(const struct tokenizer *t, const struct prompt *p, char *buf, int32_t *ids,
                         int max_ids, int *n_ids, int *n_cut, struct pi0_error *err)
{
    if (p->n > PROMPT_MAX_BYTES)
        return pi0_fail(err, PI0_E_INPUT, "prompt of %zu bytes, expected at most %d", p->n,
                        PROMPT_MAX_BYTES);
    size_t valid = prompt_utf8_end(p->text, p->n);
    if (valid < p->n)
        return pi0_fail(err, PI0_E_INPUT, "prompt is not UTF-8: byte 0x%02X at offset %zu",
                        (unsigned char)p->text[valid], valid);
    size_t length = prompt_write(p, buf);
    int used = 0, total = 1, n = 0;
    if (max_ids > 0)
        ids[used++] = tokenizer_bos(t);
    pi0_status st = tokenizer_encode(t, buf, length, ids + used, max_ids - used, &n, err);
    if (st)
        return st;
    total += n;
    used = total < max_ids ? total : max_ids;
    if (p->form == PROMPT_PLAIN) { /* encoded apart, so it never merges with the text */
        if ((st = tokenizer_encode(t, "\n", 1, ids + used, max_ids - used, &n, err)))
            return st;
        total += n;
        used = total < max_ids ? total : max_ids;
    }
    *n_ids = used;
    *n_cut = total - used;
    return PI0_OK;
}
