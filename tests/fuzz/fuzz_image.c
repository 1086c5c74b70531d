/* SPDX-License-Identifier: Apache-2.0
 * Fuzz target: pi0_image_decode on arbitrary bytes, and, for a PNG, on the same bytes with right
 * checksums, without which no change would get past them. What is accepted must have every pixel
 * written. Huge images are left to the unit tests: they are slow, not interesting. */
#include "io/image_file.h"
#include "pi0.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int holds)
{
    if (!holds)
        abort();
}

static unsigned char sink;

/* A PNG's sides, before libpng reads them: two big-endian words at a fixed place. */
static int is_large_png(const uint8_t *d, size_t size)
{
    if (size < 24 || d[0] != 0x89)
        return 0;
    return d[16] || d[17] || d[18] > 3 || d[20] || d[21] || d[22] > 3; /* a side ≥ 1024 */
}

static uint32_t big_endian(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* CRC-32 of the PNG specification, annex D; bit by bit, the files are small. */
static uint32_t crc_of(const uint8_t *p, size_t n)
{
    uint32_t c = 0xFFFFFFFFu;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int bit = 0; bit < 8; bit++)
            c = (c & 1) ? c >> 1 ^ 0xEDB88320u : c >> 1;
    }
    return ~c;
}

/* Each whole chunk (length, type, data, checksum) gets the checksum that it should have. */
static void mend_checksums(uint8_t *d, size_t size)
{
    for (size_t at = 8; size - at >= 12;) {
        size_t n = big_endian(d + at);
        if (n > size - at - 12)
            return;
        uint32_t c = crc_of(d + at + 4, n + 4);
        for (int i = 0; i < 4; i++)
            d[at + 8 + n + (size_t)i] = (uint8_t)(c >> (24 - 8 * i));
        at += n + 12;
    }
}

static void decode(const uint8_t *data, size_t size)
{
    uint8_t *pixels = NULL;
    int h = 0, w = 0;
    struct pi0_error err = { 0 };
    pi0_status st = pi0_image_decode(data, size, &pixels, &h, &w, &err);
    if (st) {
        require((st == PI0_E_FORMAT || st == PI0_E_NOMEM) && err.status == st && err.message[0]);
        require(!pixels && h == 0 && w == 0);
        return;
    }
    require(h >= 1 && h <= IMAGE_MAX_SIDE && w >= 1 && w <= IMAGE_MAX_SIDE);
    for (size_t i = 0; i < (size_t)h * (size_t)w * 3; i++)
        sink ^= pixels[i];
    pi0_free(pixels);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 8192 || is_large_png(data, size)) /* a JPEG's size limits its pixels */
        return 0;
    decode(data, size);
    uint8_t *mended = size >= 8 && data[0] == 0x89 ? malloc(size) : NULL;
    if (mended) {
        memcpy(mended, data, size);
        mend_checksums(mended, size);
        decode(mended, size);
        free(mended);
    }
    return 0;
}
