/* SPDX-License-Identifier: Apache-2.0
 * image_file: see image_file.h. Both libraries report errors by longjmp, so each decoder is a job
 * struct (everything that must survive the jump), one function that runs it in a straight line, and
 * one that catches and cleans up.
 *
 * A picture steers a robot: what a viewer would show with a grey lower half is an error here. Every
 * libjpeg warning (premature end, bad Huffman code …) and every wrong PNG checksum fails. Colour
 * profiles, gamma and the EXIF orientation are not applied, as in openpi's own image reading. */
#include "io/image_file.h"

#include "io/mapfile.h"

#include <stddef.h>
#include <stdio.h> /* jpeglib.h needs it first */

#include <jpeglib.h>

#include <jerror.h>
#include <png.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

struct image {
    uint8_t *pixels; /* [height, width, 3] */
    int height, width;
};

/* Memory for an image whose sides were checked: at most 16384 · 16384 · 3 bytes. */
static uint8_t *image_alloc(struct image *im, int height, int width)
{
    im->height = height;
    im->width = width;
    im->pixels = malloc((size_t)height * (size_t)width * 3);
    return im->pixels;
}

static pi0_status fail_alloc(const struct image *im, struct pi0_error *err)
{
    return pi0_fail(err, PI0_E_NOMEM, "image: no memory for %d × %d pixels", im->width, im->height);
}

/* ---------------------------------------------------------------- JPEG */

struct jpeg_job {
    struct jpeg_decompress_struct d;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    char message[JMSG_LENGTH_MAX];
    int no_memory;
    struct image image;
};

static _Noreturn void jpeg_stop(j_common_ptr d)
{
    struct jpeg_job *job = d->client_data;
    d->err->format_message(d, job->message);
    job->no_memory = d->err->msg_code == JERR_OUT_OF_MEMORY;
    longjmp(job->jump, 1);
}

/* Level -1 is a warning: the data is damaged and the library would guess. The rest is tracing. */
static void jpeg_message(j_common_ptr d, int level)
{
    if (level < 0)
        jpeg_stop(d);
}

static _Noreturn void jpeg_refuse(struct jpeg_job *job, const char *why)
{
    strncpy(job->message, why, sizeof job->message - 1);
    longjmp(job->jump, 1);
}

/* A progressive file may repeat scans, each a pass over the whole image, for a few bytes each. */
static void jpeg_progress(j_common_ptr d)
{
    struct jpeg_job *job = d->client_data;
    if (job->d.input_scan_number > IMAGE_MAX_SCANS)
        jpeg_refuse(job, "more than 100 scans");
}
_Static_assert(IMAGE_MAX_SCANS == 100, "the message above names the limit");

static void jpeg_check_header(struct jpeg_job *job, size_t n_bytes)
{
    const struct jpeg_decompress_struct *d = &job->d;
    if (d->image_width > IMAGE_MAX_SIDE || d->image_height > IMAGE_MAX_SIDE)
        jpeg_refuse(job, "more than 16384 pixels a side");
    if (d->arith_code)
        jpeg_refuse(job, "arithmetic coding, expected Huffman coding");
    if (d->jpeg_color_space == JCS_CMYK || d->jpeg_color_space == JCS_YCCK)
        jpeg_refuse(job, "four colour components (CMYK), expected grey, YCbCr or RGB");
    if ((size_t)d->image_width * d->image_height / IMAGE_JPEG_MAX_PIXELS_A_BYTE > n_bytes)
        jpeg_refuse(job, "fewer bytes than an image of its size can have: truncated");
}
_Static_assert(IMAGE_MAX_SIDE == 16384, "messages name the limit");

static void jpeg_run(struct jpeg_job *job, const unsigned char *bytes, size_t n_bytes)
{
    struct jpeg_decompress_struct *d = &job->d;
    jpeg_create_decompress(d);
    job->progress.progress_monitor = jpeg_progress;
    d->progress = &job->progress;
    jpeg_mem_src(d, bytes, (unsigned long)n_bytes);
    (void)jpeg_read_header(d, TRUE);
    jpeg_check_header(job, n_bytes);
    d->out_color_space = JCS_RGB;
    if (!image_alloc(&job->image, (int)d->image_height, (int)d->image_width)) {
        job->no_memory = 1;
        longjmp(job->jump, 1);
    }
    (void)jpeg_start_decompress(d); /* a memory source never suspends */
    size_t row_bytes = (size_t)d->output_width * 3;
    while (d->output_scanline < d->output_height) {
        JSAMPROW row = job->image.pixels + d->output_scanline * row_bytes;
        (void)jpeg_read_scanlines(d, &row, 1);
    }
    (void)jpeg_finish_decompress(d); /* reads on to the end-of-image marker */
}

static pi0_status jpeg_decode(struct image *out, const unsigned char *bytes, size_t n_bytes,
                              struct pi0_error *err)
{
    struct jpeg_job job;
    memset(&job, 0, sizeof job);
    job.d.err = jpeg_std_error(&job.errors);
    job.d.client_data = &job;
    job.errors.error_exit = jpeg_stop;
    job.errors.emit_message = jpeg_message;
    if (setjmp(job.jump) == 0) {
        jpeg_run(&job, bytes, n_bytes);
        jpeg_destroy_decompress(&job.d);
        *out = job.image;
        return PI0_OK;
    }
    jpeg_destroy_decompress(&job.d);
    free(job.image.pixels);
    if (job.no_memory)
        return fail_alloc(&job.image, err);
    return pi0_fail(err, PI0_E_FORMAT, "JPEG: %s", job.message);
}

/* ---------------------------------------------------------------- PNG */

struct png_job {
    png_structp png;
    png_infop info;
    jmp_buf jump;
    char message[200];
    int no_memory;
    const unsigned char *bytes; /* not yet read */
    size_t n_bytes;
    struct image image;
    png_bytep *rows;
};

static _Noreturn void png_stop(png_structp png, png_const_charp text)
{
    struct png_job *job = png_get_error_ptr(png);
    strncpy(job->message, text, sizeof job->message - 1);
    longjmp(job->jump, 1);
}

static void png_note(png_structp png, png_const_charp text)
{
    (void)png;
    (void)text;
}

static void png_take(png_structp png, png_bytep dst, size_t n)
{
    struct png_job *job = png_get_io_ptr(png);
    if (n > job->n_bytes)
        png_error(png, "ends before the image does: truncated");
    memcpy(dst, job->bytes, n);
    job->bytes += n;
    job->n_bytes -= n;
}

static png_voidp png_get_memory(png_structp png, png_alloc_size_t n)
{
    struct png_job *job = png_get_mem_ptr(png);
    void *p = malloc(n);
    if (!p)
        job->no_memory = 1;
    return p;
}

static void png_free_memory(png_structp png, png_voidp p)
{
    (void)png;
    free(p);
}

/* Whatever the file holds → 8-bit RGB. Sixteen bits are rounded, not cut. */
static void png_ask_rgb(struct png_job *job)
{
    png_structp png = job->png;
    png_set_scale_16(png);
    png_set_expand(png); /* palette → RGB, 1-, 2-, 4-bit grey → 8, transparent colour → alpha */
    png_set_strip_alpha(png);
    png_set_gray_to_rgb(png);
    (void)png_set_interlace_handling(png); /* png_read_image makes the passes */
    png_read_update_info(png, job->info);
}

static void png_run(struct png_job *job)
{
    job->png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, job, png_stop, png_note, job,
                                        png_get_memory, png_free_memory);
    if (job->png)
        job->info = png_create_info_struct(job->png);
    if (!job->info) {
        job->no_memory = 1;
        longjmp(job->jump, 1);
    }
    png_structp png = job->png;
    png_set_read_fn(png, job, png_take);
    png_set_user_limits(png, IMAGE_MAX_SIDE, IMAGE_MAX_SIDE);
    /* Text, profiles and times are stepped over unread; what is left must be right. */
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_benign_errors(png, 0);
    png_read_info(png, job->info);
    png_ask_rgb(job);
    int height = (int)png_get_image_height(png, job->info);
    int width = (int)png_get_image_width(png, job->info);
    if (png_get_rowbytes(png, job->info) != (size_t)width * 3)
        png_error(png, "does not convert to 8-bit RGB");
    job->rows = malloc((size_t)height * sizeof *job->rows);
    if (!job->rows || !image_alloc(&job->image, height, width)) {
        job->no_memory = 1;
        longjmp(job->jump, 1);
    }
    for (int y = 0; y < height; y++)
        job->rows[y] = job->image.pixels + (size_t)y * (size_t)width * 3;
    png_read_image(png, job->rows);
    png_read_end(png, NULL);
}

static void png_release(struct png_job *job)
{
    png_destroy_read_struct(&job->png, &job->info, NULL);
    free(job->rows);
}

static pi0_status png_decode(struct image *out, const unsigned char *bytes, size_t n_bytes,
                             struct pi0_error *err)
{
    struct png_job job;
    memset(&job, 0, sizeof job);
    job.bytes = bytes;
    job.n_bytes = n_bytes;
    if (setjmp(job.jump) == 0) {
        png_run(&job);
        png_release(&job);
        *out = job.image;
        return PI0_OK;
    }
    png_release(&job);
    free(job.image.pixels);
    if (job.no_memory)
        return fail_alloc(&job.image, err);
    return pi0_fail(err, PI0_E_FORMAT, "PNG: %s", job.message);
}

/* ---------------------------------------------------------------- public */

PI0_API pi0_status pi0_image_decode(const void *bytes, size_t n_bytes, uint8_t **pixels,
                                    int *height, int *width, struct pi0_error *err)
{
    static const unsigned char jpeg_start[] = { 0xFF, 0xD8, 0xFF };
    static const unsigned char png_start[] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n' };
    if ((!bytes && n_bytes) || !pixels || !height || !width)
        return pi0_fail(err, PI0_E_ARGUMENT, "image: NULL where a pointer is needed");
    const unsigned char *b = bytes;
    struct image im = { 0 };
    pi0_status st;
    if (n_bytes >= sizeof jpeg_start && memcmp(b, jpeg_start, sizeof jpeg_start) == 0)
        st = jpeg_decode(&im, b, n_bytes, err);
    else if (n_bytes >= sizeof png_start && memcmp(b, png_start, sizeof png_start) == 0)
        st = png_decode(&im, b, n_bytes, err);
    else if (n_bytes < sizeof png_start)
        st = pi0_fail(err, PI0_E_FORMAT, "%zu bytes, expected a JPEG or PNG image", n_bytes);
    else
        st = pi0_fail(err, PI0_E_FORMAT,
                      "begins with bytes %02x %02x %02x %02x, expected a JPEG (ff d8 ff) or PNG "
                      "(89 50 4e 47) image",
                      b[0], b[1], b[2], b[3]);
    if (st)
        return st;
    *pixels = im.pixels;
    *height = im.height;
    *width = im.width;
    return PI0_OK;
}

PI0_API pi0_status pi0_image_load(const char *path, uint8_t **pixels, int *height, int *width,
                                  struct pi0_error *err)
{
    unsigned char *bytes;
    size_t n_bytes;
    if (!path)
        return pi0_fail(err, PI0_E_ARGUMENT, "image: NULL where a path is needed");
    pi0_status st = file_read(&bytes, &n_bytes, path, IMAGE_MAX_FILE_BYTES, err);
    if (st)
        return st;
    struct pi0_error inner;
    st = pi0_image_decode(bytes, n_bytes, pixels, height, width, &inner);
    free(bytes);
    if (st)
        return pi0_fail(err, st, "%s: %s", path, inner.message);
    return PI0_OK;
}

PI0_API void pi0_free(void *pointer) { free(pointer); }
