/* SPDX-License-Identifier: Apache-2.0
 * JPEG and PNG decoding: every kind of file that a camera or a tool writes, made here by libjpeg
 * and libpng themselves, and every kind of damage, which must be an error and never half a picture. */
#include "io/image_file.h"
#include "pi0.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include <jpeglib.h>
#include <png.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct bytes {
    unsigned char *data;
    size_t n;
};

/* ---------------------------------------------------------------- writers */

struct jpeg_kind {
    J_COLOR_SPACE in;  /* of the samples given */
    J_COLOR_SPACE out; /* of the file; 0 = libjpeg's choice */
    int channels;
    int progressive;
    int arithmetic;
    int quality; /* 0 = 95 */
    int n_scans; /* of a progressive colour file: one DC, then one AC coefficient each; 0 = usual */
    int restart; /* MCU rows between restart markers */
};

/* A horizontal ramp in the first channel, a vertical one in the second, constants behind. */
static unsigned char sample(int y, int x, int c)
{
    return (unsigned char)(c == 0 ? x * 8 : c == 1 ? y * 8 : c == 2 ? 100 : 30);
}

static struct bytes jpeg_of(struct jpeg_kind k, int height, int width)
{
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr e;
    static jpeg_scan_info scans[200];
    unsigned long n = 0;
    struct bytes b = { NULL, 0 };
    c.err = jpeg_std_error(&e);
    jpeg_create_compress(&c);
    jpeg_mem_dest(&c, &b.data, &n);
    c.image_height = (JDIMENSION)height;
    c.image_width = (JDIMENSION)width;
    c.input_components = k.channels;
    c.in_color_space = k.in;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, k.quality ? k.quality : 95, TRUE);
    if (k.out)
        jpeg_set_colorspace(&c, k.out);
    if (k.progressive)
        jpeg_simple_progression(&c);
    if (k.n_scans) {
        scans[0] = (jpeg_scan_info){ .comps_in_scan = 3, .component_index = { 0, 1, 2 } };
        for (int i = 1; i < k.n_scans; i++)
            scans[i] = (jpeg_scan_info){ .comps_in_scan = 1,
                                         .component_index = { (i - 1) / 63 },
                                         .Ss = 1 + (i - 1) % 63,
                                         .Se = 1 + (i - 1) % 63 };
        c.scan_info = scans;
        c.num_scans = k.n_scans;
    }
    c.arith_code = k.arithmetic ? TRUE : FALSE;
    c.restart_in_rows = k.restart;
    jpeg_start_compress(&c, TRUE);
    unsigned char *row = malloc((size_t)width * (size_t)k.channels);
    assert_non_null(row);
    for (int y = 0; y < height; y++) {
        for (int x = 0; x < width; x++)
            for (int ch = 0; ch < k.channels; ch++)
                row[x * k.channels + ch] = sample(y, x, ch);
        JSAMPROW rows[1] = { row };
        (void)jpeg_write_scanlines(&c, rows, 1);
    }
    free(row);
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    b.n = (size_t)n;
    return b;
}

static const struct jpeg_kind jpeg_rgb = { .in = JCS_RGB, .channels = 3 };
static const struct jpeg_kind jpeg_progressive = { .in = JCS_RGB, .channels = 3, .progressive = 1 };

static void png_append(png_structp png, png_bytep data, size_t n)
{
    struct bytes *b = png_get_io_ptr(png);
    b->data = realloc(b->data, b->n + n);
    assert_non_null(b->data);
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void png_flush_nothing(png_structp png) { (void)png; }

struct png_kind {
    int type, depth, interlace;
    const png_color *palette; /* four colours */
    int transparent;          /* add a tRNS chunk */
    int text;                 /* add a text chunk */
};

/* rows: packed as PNG wants them, row_bytes each. */
static struct bytes png_of(struct png_kind k, int height, int width, const unsigned char *rows,
                           size_t row_bytes)
{
    struct bytes b = { NULL, 0 };
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    assert_non_null(info);
    png_set_write_fn(png, &b, png_append, png_flush_nothing);
    png_set_user_limits(png, 0x7FFFFFFF, 0x7FFFFFFF);
    png_set_IHDR(png, info, (png_uint_32)width, (png_uint_32)height, k.depth, k.type,
                 k.interlace ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_BASE,
                 PNG_FILTER_TYPE_BASE);
    if (k.palette)
        png_set_PLTE(png, info, k.palette, 4);
    if (k.transparent) {
        const png_byte alpha[4] = { 0, 128, 255, 1 };
        const png_color_16 key = { 0, 1, 1, 1, 1 };
        png_set_tRNS(png, info, k.palette ? alpha : NULL, 4, k.palette ? NULL : &key);
    }
    if (k.text) {
        char key[] = "Comment", value[] = "a table";
        png_text t = { .compression = PNG_TEXT_COMPRESSION_NONE, .key = key, .text = value };
        png_set_text(png, info, &t, 1);
    }
    png_write_info(png, info);
    unsigned char **p = malloc((size_t)height * sizeof *p), *copy;
    copy = malloc((size_t)height * row_bytes);
    assert_non_null(p);
    assert_non_null(copy);
    memcpy(copy, rows, (size_t)height * row_bytes);
    for (int y = 0; y < height; y++)
        p[y] = copy + (size_t)y * row_bytes;
    png_write_image(png, p);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    free(p);
    free(copy);
    return b;
}

static struct bytes png_rgb(int height, int width)
{
    size_t row_bytes = (size_t)width * 3;
    unsigned char *rows = malloc((size_t)height * row_bytes);
    assert_non_null(rows);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++)
                rows[(size_t)y * row_bytes + (size_t)(x * 3 + c)] = sample(y, x, c);
    struct bytes b = png_of((struct png_kind){ .type = PNG_COLOR_TYPE_RGB, .depth = 8 }, height,
                            width, rows, row_bytes);
    free(rows);
    return b;
}

/* ---------------------------------------------------------------- expectations */

/* Decodes a copy of exactly n bytes, so that a sanitizer sees a read past them. */
static pi0_status decode(const unsigned char *data, size_t n, uint8_t **pixels, int *h, int *w,
                         struct pi0_error *err)
{
    unsigned char *exact = malloc(n ? n : 1);
    assert_non_null(exact);
    if (n)
        memcpy(exact, data, n);
    pi0_status st = pi0_image_decode(exact, n, pixels, h, w, err);
    free(exact);
    return st;
}

static uint8_t *expect_good(struct bytes b, int height, int width)
{
    uint8_t *pixels = NULL;
    int h = 0, w = 0;
    struct pi0_error err = { 0 };
    if (decode(b.data, b.n, &pixels, &h, &w, &err))
        fail_msg("%s", err.message);
    assert_int_equal(h, height);
    assert_int_equal(w, width);
    free(b.data);
    return pixels;
}

static void expect_bad_part(const unsigned char *data, size_t n, const char *why)
{
    uint8_t *pixels = NULL;
    int h = -1, w = -2;
    struct pi0_error err = { 0 };
    pi0_status st = decode(data, n, &pixels, &h, &w, &err);
    if (st != PI0_E_FORMAT || !strstr(err.message, why))
        fail_msg("%s, message \"%s\", expected malformed file, \"… %s …\"", pi0_status_name(st),
                 err.message, why);
    assert_null(pixels); /* nothing half-written */
    assert_int_equal(h, -1);
    assert_int_equal(w, -2);
}

static void expect_bad(struct bytes b, const char *why)
{
    expect_bad_part(b.data, b.n, why);
    free(b.data);
}

static void expect_near(const uint8_t *got, int height, int width, int grey, int tolerance)
{
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++) {
                int have = got[(y * width + x) * 3 + c], want = sample(y, x, grey ? 0 : c);
                if (abs(have - want) > tolerance)
                    fail_msg("pixel (%d, %d) channel %d: %d, expected %d ± %d", y, x, c, have, want,
                             tolerance);
            }
}

/* ---------------------------------------------------------------- good files */

static void jpeg_kinds(void **state)
{
    (void)state;
    static const struct {
        struct jpeg_kind kind;
        int tolerance; /* quality 95 of a ramp; halved chroma smears the vertical ramp's green */
    } cases[] = {
        { { .in = JCS_RGB, .channels = 3 }, 8 },
        { { .in = JCS_RGB, .out = JCS_RGB, .channels = 3 }, 4 },
        { { .in = JCS_RGB, .channels = 3, .progressive = 1 }, 8 },
        { { .in = JCS_RGB, .channels = 3, .restart = 1 }, 8 },
        { { .in = JCS_GRAYSCALE, .channels = 1 }, 4 },
        { { .in = JCS_GRAYSCALE, .channels = 1, .progressive = 1 }, 4 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t *p = expect_good(jpeg_of(cases[i].kind, 24, 31), 24, 31);
        expect_near(p, 24, 31, cases[i].kind.channels == 1, cases[i].tolerance);
        pi0_free(p);
    }
    pi0_free(NULL);
}

static void png_colour(void **state)
{
    (void)state;
    uint8_t *p = expect_good(png_rgb(9, 31), 9, 31);
    expect_near(p, 9, 31, 0, 0);
    pi0_free(p);
}

/* Two pixels of each kind, what they are in RGB. */
static void png_kinds(void **state)
{
    (void)state;
    static const png_color palette[4] = {
        { 1, 2, 3 }, { 10, 20, 30 }, { 200, 100, 50 }, { 0, 0, 0 }
    };
    static const struct {
        struct png_kind kind;
        unsigned char row[16];
        size_t row_bytes;
        uint8_t want[6];
    } cases[] = {
        { { .type = PNG_COLOR_TYPE_GRAY, .depth = 8 }, { 7, 200 }, 2, { 7, 7, 7, 200, 200, 200 } },
        { { .type = PNG_COLOR_TYPE_GRAY, .depth = 8, .transparent = 1 },
          { 1, 200 },
          2,
          { 1, 1, 1, 200, 200, 200 } },
        { { .type = PNG_COLOR_TYPE_GRAY, .depth = 1 }, { 0x40 }, 1, { 0, 0, 0, 255, 255, 255 } },
        { { .type = PNG_COLOR_TYPE_GRAY, .depth = 2 }, { 0x60 }, 1, { 85, 85, 85, 170, 170, 170 } },
        { { .type = PNG_COLOR_TYPE_GRAY, .depth = 4 }, { 0x1F }, 1, { 17, 17, 17, 255, 255, 255 } },
        { { .type = PNG_COLOR_TYPE_GRAY, .depth = 16 },
          { 0x12, 0x00, 0x12, 0xFF },
          4,
          { 18, 18, 18, 19, 19, 19 } }, /* 18.0 and 18.9: rounded, not cut */
        { { .type = PNG_COLOR_TYPE_RGB, .depth = 16 },
          { 0xFF, 0xFF, 0x80, 0x80, 0, 0, 0x12, 0xFF, 0, 1, 0xFF, 0 },
          12,
          { 255, 128, 0, 19, 0, 254 } },
        { { .type = PNG_COLOR_TYPE_RGB, .depth = 8, .transparent = 1 },
          { 1, 1, 1, 4, 5, 6 },
          6,
          { 1, 1, 1, 4, 5, 6 } },
        { { .type = PNG_COLOR_TYPE_RGB_ALPHA, .depth = 8 },
          { 9, 8, 7, 0, 6, 5, 4, 255 },
          8,
          { 9, 8, 7, 6, 5, 4 } }, /* dropped, not blended */
        { { .type = PNG_COLOR_TYPE_RGB_ALPHA, .depth = 16 },
          { 9, 9, 8, 8, 7, 7, 0, 0, 6, 6, 5, 5, 4, 4, 1, 1 },
          16,
          { 9, 8, 7, 6, 5, 4 } },
        { { .type = PNG_COLOR_TYPE_GRAY_ALPHA, .depth = 8 },
          { 9, 0, 6, 255 },
          4,
          { 9, 9, 9, 6, 6, 6 } },
        { { .type = PNG_COLOR_TYPE_PALETTE, .depth = 8, .palette = palette },
          { 2, 1 },
          2,
          { 200, 100, 50, 10, 20, 30 } },
        { { .type = PNG_COLOR_TYPE_PALETTE, .depth = 2, .palette = palette },
          { 0x80 },
          1,
          { 200, 100, 50, 1, 2, 3 } },
        { { .type = PNG_COLOR_TYPE_PALETTE, .depth = 4, .palette = palette, .transparent = 1 },
          { 0x12 },
          1,
          { 10, 20, 30, 200, 100, 50 } },
        { { .type = PNG_COLOR_TYPE_RGB, .depth = 8, .text = 1 },
          { 1, 2, 3, 4, 5, 6 },
          6,
          { 1, 2, 3, 4, 5, 6 } },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int interlace = 0; interlace <= 1; interlace++) {
            struct png_kind k = cases[i].kind;
            k.interlace = interlace;
            uint8_t *p = expect_good(png_of(k, 1, 2, cases[i].row, cases[i].row_bytes), 1, 2);
            if (memcmp(p, cases[i].want, 6) != 0)
                fail_msg("case %zu: %d %d %d  %d %d %d", i, p[0], p[1], p[2], p[3], p[4], p[5]);
            pi0_free(p);
        }
}

static void bytes_behind_the_image(void **state)
{
    (void)state;
    for (int kind = 0; kind < 2; kind++) {
        struct bytes b = kind ? jpeg_of(jpeg_rgb, 8, 8) : png_rgb(8, 8);
        b.data = realloc(b.data, b.n + 5);
        assert_non_null(b.data);
        memcpy(b.data + b.n, "extra", 5);
        b.n += 5;
        pi0_free(expect_good(b, 8, 8));
    }
}

/* ---------------------------------------------------------------- damage */

static void truncated_anywhere(void **state)
{
    (void)state;
    struct bytes files[] = { jpeg_of(jpeg_rgb, 20, 20), jpeg_of(jpeg_progressive, 20, 20),
                             png_rgb(20, 20) };
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        for (size_t n = 0; n < files[i].n; n++)
            expect_bad_part(files[i].data, n, n < 8 ? "" : i < 2 ? "JPEG: " : "PNG: ");
        free(files[i].data);
    }
}

static void png_damaged_anywhere(void **state)
{
    (void)state;
    struct bytes b = png_rgb(6, 6);
    for (size_t i = 0; i < b.n; i++)
        for (int bit = 0; bit < 8; bit++) {
            b.data[i] ^= (unsigned char)(1 << bit);
            expect_bad_part(b.data, b.n, "");
            b.data[i] ^= (unsigned char)(1 << bit);
        }
    free(b.data);
}

/* A JPEG has no checksum: some damage only changes the picture. It must never crash, and what the
 * library can notice must fail. */
static void jpeg_damaged_anywhere(void **state)
{
    (void)state;
    struct bytes files[] = { jpeg_of(jpeg_rgb, 12, 12), jpeg_of(jpeg_progressive, 12, 12) };
    for (size_t f = 0; f < 2; f++) {
        int refused = 0;
        for (size_t i = 0; i < files[f].n; i++)
            for (int v = 0; v < 256; v += 15) {
                unsigned char kept = files[f].data[i];
                uint8_t *pixels = NULL;
                int h, w;
                struct pi0_error err;
                files[f].data[i] = (unsigned char)v;
                pi0_status st = decode(files[f].data, files[f].n, &pixels, &h, &w, &err);
                if (st)
                    assert_int_equal(st, PI0_E_FORMAT);
                refused += st != PI0_OK;
                pi0_free(pixels);
                files[f].data[i] = kept;
            }
        assert_true(refused > 1000);
        free(files[f].data);
    }
}

/* Where the entropy-coded bytes of the first scan begin. */
static size_t scan_start(struct bytes b)
{
    for (size_t i = 2; i + 4 < b.n;) {
        size_t length = (size_t)b.data[i + 2] << 8 | b.data[i + 3];
        if (b.data[i + 1] == 0xDA)
            return i + 2 + length;
        i += 2 + length;
    }
    fail_msg("no scan");
    return 0;
}

static void jpeg_corrupt_data(void **state)
{
    (void)state;
    struct bytes b = jpeg_of(jpeg_rgb, 64, 64);
    size_t at = scan_start(b) + 40;
    b.data[at] = 0xFF; /* end of image in the middle: viewers show the rest grey */
    b.data[at + 1] = 0xD9;
    expect_bad(b, "JPEG: ");
    b = jpeg_of(jpeg_rgb, 64, 64);
    for (size_t i = 0; i < 20; i += 2) /* all ones: a code that no Huffman table may assign */
        memcpy(b.data + scan_start(b) + i, "\xFF\0", 2);
    expect_bad(b, "JPEG: Corrupt JPEG data");
    b = jpeg_of(jpeg_rgb, 16, 16);
    b.data[scan_start(b) - 3] = 1; /* first coefficient of the scan */
    expect_bad(b, "JPEG: ");
    b = jpeg_of((struct jpeg_kind){ .in = JCS_RGB, .channels = 3, .restart = 1 }, 64, 16);
    for (at = scan_start(b); b.data[at] != 0xFF || b.data[at + 1] != 0xD0; at++)
        ;
    b.data[at + 1] = 0xD5; /* restart markers out of order */
    expect_bad(b, "JPEG: Corrupt JPEG data");
}

static void neither_jpeg_nor_png(void **state)
{
    (void)state;
    expect_bad_part((const unsigned char *)"GIF89a....", 10,
                    "begins with bytes 47 49 46 38, expected a JPEG (ff d8 ff) or PNG");
    expect_bad_part((const unsigned char *)"", 0, "0 bytes, expected a JPEG or PNG image");
    expect_bad_part((const unsigned char *)"\xFF\xD8", 2, "2 bytes, expected");
    expect_bad_part((const unsigned char *)"\xFF\xD8\xFF", 3, "JPEG: ");
    expect_bad_part((const unsigned char *)"\x89PNG\r\n\x1A\n", 8, "PNG: ends before");
}

static void jpeg_colours_not_done(void **state)
{
    (void)state;
    expect_bad(jpeg_of((struct jpeg_kind){ .in = JCS_CMYK, .channels = 4 }, 8, 8),
               "JPEG: four colour components (CMYK), expected grey, YCbCr or RGB");
    expect_bad(jpeg_of((struct jpeg_kind){ .in = JCS_CMYK, .out = JCS_YCCK, .channels = 4 }, 8, 8),
               "JPEG: four colour components (CMYK)");
    expect_bad(jpeg_of((struct jpeg_kind){ .in = JCS_UNKNOWN, .channels = 2 }, 8, 8), "JPEG: ");
}

static void jpeg_arithmetic_coding(void **state)
{
    (void)state;
    expect_bad(jpeg_of((struct jpeg_kind){ .in = JCS_RGB, .channels = 3, .arithmetic = 1 }, 8, 8),
               "JPEG: arithmetic coding, expected Huffman coding");
}

/* ---------------------------------------------------------------- limits */

static void sides_at_the_limit(void **state)
{
    (void)state;
    static const int sides[][2] = { { 1, IMAGE_MAX_SIDE }, { IMAGE_MAX_SIDE, 1 } };
    for (size_t i = 0; i < 2; i++) {
        int h = sides[i][0], w = sides[i][1];
        pi0_free(expect_good(jpeg_of(jpeg_rgb, h, w), h, w));
        pi0_free(expect_good(png_rgb(h, w), h, w));
        h += h > 1;
        w += w > 1;
        expect_bad(jpeg_of(jpeg_rgb, h, w), "JPEG: more than 16384 pixels a side");
        expect_bad(png_rgb(h, w), "PNG: ");
    }
}

static void small_file_that_claims_to_be_huge(void **state)
{
    (void)state;
    struct bytes b = jpeg_of(jpeg_progressive, 8, 8);
    for (size_t i = 2; i + 9 < b.n; i += 2 + ((size_t)b.data[i + 2] << 8 | b.data[i + 3]))
        if (b.data[i + 1] == 0xC2) {
            memcpy(b.data + i + 5, "\x40\x00\x40\x00", 4); /* 16384 × 16384 */
            break;
        }
    expect_bad(b, "JPEG: fewer bytes than an image of its size can have");
}

/* The flattest picture packs best: it must still be accepted, at the worst quality. */
static void flat_pictures_pass_the_size_check(void **state)
{
    (void)state;
    const int h = 1024, w = 1024;
    for (int progressive = 0; progressive <= 1; progressive++) {
        struct jpeg_compress_struct c;
        struct jpeg_error_mgr e;
        unsigned long n = 0;
        struct bytes b = { NULL, 0 };
        unsigned char row[1024] = { 0 };
        c.err = jpeg_std_error(&e);
        jpeg_create_compress(&c);
        jpeg_mem_dest(&c, &b.data, &n);
        c.image_height = (JDIMENSION)h;
        c.image_width = (JDIMENSION)w;
        c.input_components = 1;
        c.in_color_space = JCS_GRAYSCALE;
        jpeg_set_defaults(&c);
        jpeg_set_quality(&c, 1, TRUE);
        c.optimize_coding = TRUE;
        if (progressive)
            jpeg_simple_progression(&c);
        jpeg_start_compress(&c, TRUE);
        for (int y = 0; y < h; y++) {
            JSAMPROW rows[1] = { row };
            (void)jpeg_write_scanlines(&c, rows, 1);
        }
        jpeg_finish_compress(&c);
        jpeg_destroy_compress(&c);
        b.n = (size_t)n;
        pi0_free(expect_good(b, h, w));
    }
}

static void progressive_scans_limit(void **state)
{
    (void)state;
    struct jpeg_kind k = jpeg_rgb;
    k.n_scans = IMAGE_MAX_SCANS;
    pi0_free(expect_good(jpeg_of(k, 16, 16), 16, 16));
    k.n_scans = IMAGE_MAX_SCANS + 1;
    expect_bad(jpeg_of(k, 16, 16), "JPEG: more than 100 scans");
}

/* ---------------------------------------------------------------- files and arguments */

static void loads_files(void **state)
{
    (void)state;
    char path[] = "/tmp/pi0-image-XXXXXX";
    uint8_t *pixels = NULL;
    int h = 0, w = 0;
    struct pi0_error err;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    struct bytes b = jpeg_of(jpeg_rgb, 16, 24);
    assert_int_equal(write(fd, b.data, b.n), b.n);
    assert_int_equal(pi0_image_load(path, &pixels, &h, &w, &err), PI0_OK);
    assert_int_equal(h, 16);
    assert_int_equal(w, 24);
    pi0_free(pixels);
    pixels = NULL;
    assert_int_equal(ftruncate(fd, (off_t)b.n - 20), 0);
    free(b.data);
    assert_int_equal(pi0_image_load(path, &pixels, &h, &w, &err), PI0_E_FORMAT);
    assert_int_equal(err.status, PI0_E_FORMAT);
    assert_true(strncmp(err.message, path, strlen(path)) == 0);
    assert_non_null(strstr(err.message, ": JPEG: "));
    assert_int_equal(pi0_image_load(path, &pixels, &h, &w, NULL), PI0_E_FORMAT);
    assert_int_equal(ftruncate(fd, (off_t)IMAGE_MAX_FILE_BYTES + 1), 0); /* sparse */
    assert_int_equal(pi0_image_load(path, &pixels, &h, &w, &err), PI0_E_FORMAT);
    assert_non_null(strstr(err.message, "268435457 bytes, expected at most 268435456"));
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(pi0_image_load(path, &pixels, &h, &w, &err), PI0_E_FORMAT);
    assert_non_null(strstr(err.message, "0 bytes, expected a JPEG or PNG"));
    close(fd);
    unlink(path);
    assert_int_equal(pi0_image_load(path, &pixels, &h, &w, &err), PI0_E_IO);
    assert_int_equal(pi0_image_load("/tmp", &pixels, &h, &w, &err), PI0_E_IO);
    assert_null(pixels);
}

static void missing_arguments(void **state)
{
    (void)state;
    uint8_t *pixels = NULL;
    int h, w;
    struct pi0_error err;
    assert_int_equal(pi0_image_decode(NULL, 5, &pixels, &h, &w, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_image_decode("x", 1, NULL, &h, &w, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_image_decode("x", 1, &pixels, NULL, &w, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_image_decode("x", 1, &pixels, &h, NULL, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_image_load(NULL, &pixels, &h, &w, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_image_load("/dev/null", NULL, &h, &w, &err), PI0_E_IO);
    assert_int_equal(pi0_image_decode(NULL, 0, &pixels, &h, &w, &err), PI0_E_FORMAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jpeg_kinds),
        cmocka_unit_test(png_colour),
        cmocka_unit_test(png_kinds),
        cmocka_unit_test(bytes_behind_the_image),
        cmocka_unit_test(truncated_anywhere),
        cmocka_unit_test(png_damaged_anywhere),
        cmocka_unit_test(jpeg_damaged_anywhere),
        cmocka_unit_test(jpeg_corrupt_data),
        cmocka_unit_test(neither_jpeg_nor_png),
        cmocka_unit_test(jpeg_colours_not_done),
        cmocka_unit_test(jpeg_arithmetic_coding),
        cmocka_unit_test(sides_at_the_limit),
        cmocka_unit_test(small_file_that_claims_to_be_huge),
        cmocka_unit_test(flat_pictures_pass_the_size_check),
        cmocka_unit_test(progressive_scans_limit),
        cmocka_unit_test(loads_files),
        cmocka_unit_test(missing_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
