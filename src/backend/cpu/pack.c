/* SPDX-License-Identifier: Apache-2.0
 * pack: see pack.h. Rows of a panel are read a stretch of K at a time, through tensor_read_*, and
 * transposed in cache. */
#include "backend/cpu/pack.h"

#include <string.h>

static int part_rows(const struct tensor *t) { return t->shape[0]; }
static int part_row_length(const struct tensor *t) { return (int)(t->n / (size_t)t->shape[0]); }

void pack_shape(struct packed *out, const struct pack_source *src, enum dtype dtype)
{
    out->dtype = dtype;
    out->k = src->k ? src->k : part_row_length(src->part[0]);
    out->k_pad = cpu_round_up(out->k, CPU_K_GRAIN);
    out->n = 0;
    for (int i = 0; i < src->n_parts; i++)
        out->n += part_rows(src->part[i]);
    if (src->join == PACK_STACKED)
        out->n_panels = cpu_round_up(out->n, CPU_PANEL) / CPU_PANEL;
    else
        out->n_panels = cpu_round_up(part_rows(src->part[0]), CPU_PANEL) / CPU_PANEL * src->n_parts;
}

size_t pack_bytes(const struct packed *p)
{
    return (size_t)p->n_panels * (size_t)p->k_pad * CPU_PANEL * dtype_bytes(p->dtype);
}

/* Where feature `lane` of a panel comes from; -1: padding. */
static int locate(const struct pack_source *src, int panel, int lane, int *row)
{
    if (src->join == PACK_INTERLEAVED) {
        int part = panel % src->n_parts;
        *row = panel / src->n_parts * CPU_PANEL + lane;
        return *row < part_rows(src->part[part]) ? part : -1;
    }
    *row = panel * CPU_PANEL + lane;
    for (int part = 0; part < src->n_parts; part++) {
        if (*row < part_rows(src->part[part]))
            return part;
        *row -= part_rows(src->part[part]);
    }
    return -1;
}

/* Values [k0, k0 + n) of one feature → lane `lane` of the panel at dst; 1 if all are finite. */
static int pack_lane_bf16(uint16_t *dst, int lane, const struct tensor *t, size_t first, int k0,
                          int n, void *scratch)
{
    uint16_t *row = scratch;
    int finite = 1;
    tensor_read_bf16(t, first, (size_t)n, row);
    for (int i = 0; i < n; i++) {
        int k = k0 + i;
        finite &= (row[i] & 0x7F80u) != 0x7F80u;
        dst[((long)(k / 2) * CPU_PANEL + lane) * 2 + k % 2] = row[i];
    }
    return finite;
}

static int pack_lane_f32(float *dst, int lane, const struct tensor *t, size_t first, int k0, int n,
                         void *scratch)
{
    float *row = scratch;
    int finite = 1;
    tensor_read_f32(t, first, (size_t)n, row);
    for (int i = 0; i < n; i++) {
        finite &= (f32_bits(row[i]) & 0x7F800000u) != 0x7F800000u;
        dst[(long)(k0 + i) * CPU_PANEL + lane] = row[i];
    }
    return finite;
}

int pack_panels(void *dst, const struct packed *p, const struct pack_source *src, int begin,
                int end, void *scratch)
{
    const int stretch = 512; /* 16 lanes · 512 values: the panel's stretch stays in L1 */
    size_t panel_bytes = (size_t)p->k_pad * CPU_PANEL * dtype_bytes(p->dtype);
    int bad = -1;
    for (int panel = begin; panel < end; panel++) {
        unsigned char *at = (unsigned char *)dst + (size_t)panel * panel_bytes;
        memset(at, 0, panel_bytes);
        for (int k0 = 0; k0 < p->k; k0 += stretch) {
            int n = p->k - k0 < stretch ? p->k - k0 : stretch;
            for (int lane = 0; lane < CPU_PANEL; lane++) {
                int row, part = locate(src, panel, lane, &row);
                if (part < 0)
                    continue;
                const struct tensor *t = src->part[part];
                size_t first = (size_t)row * (size_t)part_row_length(t) + (size_t)(src->col + k0);
                int finite =
                    p->dtype == DT_BF16
                        ? pack_lane_bf16((uint16_t *)(void *)at, lane, t, first, k0, n, scratch)
                        : pack_lane_f32((float *)(void *)at, lane, t, first, k0, n, scratch);
                if (!finite && (bad < 0 || part < bad))
                    bad = part;
            }
        }
    }
    return bad;
}
