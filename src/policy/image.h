/* SPDX-License-Identifier: Apache-2.0
 * image: a camera's picture → the model's square. Keeps the aspect ratio, centres, pads with black.
 * Two filters: openpi's (Pillow's BILINEAR: triangle with antialiasing, 8-bit fixed point; equal to
 * Pillow in every byte) and lerobot's (PyTorch's half-pixel bilinear without antialiasing). All
 * scratch is sized by the output and IMAGE_MAX_SIDE, so nothing is allocated for a picture of any
 * size. */
#ifndef PI0_POLICY_IMAGE_H
#define PI0_POLICY_IMAGE_H

#include "base/arena.h"
#include "base/status.h"

/* Longest side accepted, pixels; that of the image decoders too. It bounds the coefficient table. */
#define IMAGE_MAX_SIDE 16384

enum image_filter {
    IMAGE_PILLOW = 0, /* openpi_client/image_tools.py: resize_with_pad */
    IMAGE_TORCH /* lerobot resize_with_pad_torch: F.interpolate(bilinear, align_corners=False); its
                   float result is rounded to the nearest u8, an error of at most 1/510 of full
                   scale. Exact where the size already fits */
};

/* Scratch for one picture at a time. The memory belongs to the arena. */
struct image_scratch {
    int size;                            /* output side, pixels */
    const struct image_kernels *kernels; /* image_kernels.h */
    int32_t *k;                          /* horizontal coefficients, all outputs in a row */
    struct image_group *packed;          /* the same as vector kernels want them */
    struct image_tap *x;                 /* [size] where output column x looks */
    struct image_tap *y;                 /* [size] where output row y looks */
    int32_t *sums;                       /* [size][size * 3] vertical sums */
    unsigned char *row;                  /* [size * 3] one input row, resized horizontally */
};

/* Takes the scratch for pictures of size × size out of the arena (measuring or not). `isa`: PI0_ISA_
 * bits that may be used. */
void image_scratch_take(struct image_scratch *s, struct arena *a, int size, uint32_t isa);

/* Size of the picture inside the square: ratio = max(w, h) / size, truncated as openpi does. */
void image_fit(int height, int width, int size, int *fit_height, int *fit_width);

/* src [height, width, 3] u8 → dst [size, size, 3] u8. A picture of size × size is copied.
 * PI0_E_INPUT: a side below 1 or above IMAGE_MAX_SIDE, or so long and thin that a side vanishes. */
pi0_status image_resize_with_pad(struct image_scratch *s, enum image_filter filter,
                                 const uint8_t *src, int height, int width, uint8_t *dst,
                                 struct pi0_error *err);

#endif
