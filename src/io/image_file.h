/* SPDX-License-Identifier: Apache-2.0
 * image_file: JPEG or PNG bytes → [height, width, 3] u8 RGB. The calls themselves (pi0_image_load,
 * pi0_image_decode, pi0_free) are public, in pi0.h; here stand the limits they keep to. Resizing
 * and padding belong to policy/image. */
#ifndef PI0_IO_IMAGE_FILE_H
#define PI0_IO_IMAGE_FILE_H

#define IMAGE_MAX_SIDE 16384                     /* pixels */
#define IMAGE_MAX_FILE_BYTES ((size_t)256 << 20) /* of a file that pi0_image_load reads */
#define IMAGE_MAX_SCANS 100                      /* of a progressive JPEG; usual: about 10 */
/* No Huffman-coded JPEG packs more: a block of 64 pixels takes at least one bit of a scan, and the
 * largest component holds at least a quarter of the blocks of the image's size. So a small file
 * that claims to be huge is refused before memory is taken for it. */
#define IMAGE_JPEG_MAX_PIXELS_A_BYTE (64 * 8 * 4)

#endif
