/* SPDX-License-Identifier: Apache-2.0
 * tokenizer: libsentencepiece behind tokenizer.h. The only C++ of the host code; every entry catches
 * whatever the library throws. */
extern "C" {
#include "policy/tokenizer.h"

#include "io/mapfile.h"
}

#include <cstdlib>
#include <exception>
#include <new>
#include <sentencepiece_processor.h>
#include <string>
#include <vector>

struct tokenizer {
    sentencepiece::SentencePieceProcessor processor;
};

extern "C" {

pi0_status tokenizer_parse(struct tokenizer **out, const void *bytes, size_t n_bytes,
                           const char *label, struct pi0_error *err)
{
    tokenizer *t = nullptr;
    pi0_status st = PI0_OK;
    try {
        t = new tokenizer;
        auto status = t->processor.LoadFromSerializedProto(
            std::string(static_cast<const char *>(bytes), n_bytes));
        if (!status.ok())
            st = pi0_fail(err, PI0_E_FORMAT, "%s: not a SentencePiece model: %s", label,
                          status.ToString().c_str());
        else if (t->processor.bos_id() < 0)
            st = pi0_fail(err, PI0_E_FORMAT,
                          "%s: no begin-of-sequence piece, every prompt starts with it", label);
    } catch (const std::bad_alloc &) {
        st = pi0_fail(err, PI0_E_NOMEM, "%s: no memory for the tokenizer", label);
    } catch (const std::exception &e) {
        st = pi0_fail(err, PI0_E_FORMAT, "%s: not a SentencePiece model: %s", label, e.what());
    } catch (...) {
        st = pi0_fail(err, PI0_E_FORMAT, "%s: not a SentencePiece model", label);
    }
    if (st)
        tokenizer_close(t);
    else
        *out = t;
    return st;
}

pi0_status tokenizer_open(struct tokenizer **out, const char *path, struct pi0_error *err)
{
    unsigned char *bytes;
    size_t n;
    pi0_status st = file_read(&bytes, &n, path, TOKENIZER_MAX_BYTES, err);
    if (st)
        return st;
    st = tokenizer_parse(out, bytes, n, path, err);
    free(bytes);
    return st;
}

void tokenizer_close(struct tokenizer *t) { delete t; }

int tokenizer_n_pieces(const struct tokenizer *t) { return t->processor.GetPieceSize(); }

int32_t tokenizer_bos(const struct tokenizer *t) { return t->processor.bos_id(); }

pi0_status tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int32_t *ids,
                            int max_ids, int *n_ids, struct pi0_error *err)
{
    try {
        std::vector<int> found;
        auto status = t->processor.Encode({ text, n }, &found);
        if (!status.ok())
            return pi0_fail(err, PI0_E_INPUT, "prompt cannot be tokenised: %s",
                            status.ToString().c_str());
        int count = static_cast<int>(found.size());
        for (int i = 0; i < count && i < max_ids; i++)
            ids[i] = found[static_cast<size_t>(i)];
        *n_ids = count;
        return PI0_OK;
    } catch (const std::bad_alloc &) {
        return pi0_fail(err, PI0_E_NOMEM, "no memory to tokenise %zu bytes", n);
    } catch (const std::exception &e) {
        return pi0_fail(err, PI0_E_INPUT, "prompt cannot be tokenised: %s", e.what());
    } catch (...) {
        return pi0_fail(err, PI0_E_INPUT, "prompt cannot be tokenised");
    }
}
}
