/* SPDX-License-Identifier: Apache-2.0
 * Kernel selection and shape buckets of the CUDA backend: pure functions, no GPU needed. */
#include "backend/cuda/kernels/attn_sm90.h"
#include "backend/cuda/kernels/gemm_sm90.h"
#include "backend/cuda/kernels/proj_sm90.h"
#include "backend/cuda/kernels/qkv_sm90.h"
#include "backend/cuda/kernels/suffix_sm90.h"
#include "backend/cuda/kernels/vision_sm90.h"
#include "backend/cuda/select.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct plan plan_of(const char *name)
{
    struct pi0_engine_config cfg;
    struct pi0_dims d;
    struct plan p;
    struct pi0_error err;
    pi0_engine_defaults(&cfg);
    assert_int_equal(pi0_dims_named(&d, name, &err), PI0_OK);
    assert_int_equal(plan_make(&p, &d, &cfg, &err), PI0_OK);
    return p;
}

static void kernels_by_device(void **state)
{
    (void)state;
    struct cu_choice c;
    struct plan full = plan_of("pi0"), tiny = plan_of("pi0_tiny");
    cu_select(&c, &(struct cu_facts){ 80, 108, 166912 }, &full);
    assert_int_equal(c.attn_prefix, CU_ATTN_KERNEL_MMA);
    assert_int_equal(c.attn_suffix, CU_ATTN_KERNEL_MMA);
    assert_int_equal(c.geglu_sm90, 0);
    assert_int_equal(c.qkv_sm90, 0);
    assert_int_equal(c.glu_group_vlm, 8);
    cu_select(&c, &(struct cu_facts){ 86, 82, 101376 }, &full); /* 99 KB: 32-key tiles fit */
    assert_int_equal(c.attn_prefix, CU_ATTN_KERNEL_MMA);
    cu_select(&c, &(struct cu_facts){ 86, 82, 65536 }, &full);
    assert_int_equal(c.attn_prefix, CU_ATTN_KERNEL_ANY);
    cu_select(&c, &(struct cu_facts){ 90, 132, 232448 }, &full);
    assert_int_equal(c.attn_prefix, CU_ATTN_KERNEL_SM90);
    assert_int_equal(c.geglu_sm90, 1);
    assert_int_equal(c.qkv_sm90, 1);
    assert_int_equal(c.late_rope, 1);
    cu_select(&c, &(struct cu_facts){ 90, 132, 232448 }, &tiny);
    assert_int_equal(c.attn_prefix, CU_ATTN_KERNEL_MMA); /* head size 32 */
    assert_int_equal(c.late_rope, 0);
    assert_int_equal(c.geglu_sm90, 0);
    assert_int_equal(c.qkv_sm90, 0);
    cu_select(&c, &(struct cu_facts){ 120, 170, 101376 }, &full);
    assert_int_equal(c.attn_prefix, CU_ATTN_KERNEL_MMA);
}

static void odd_heads_take_the_plain_kernel(void **state)
{
    (void)state;
    struct cu_choice c;
    struct plan p = plan_of("pi0_tiny");
    p.dims.head_dim = 16;
    p.dims.vision_heads = 2; /* 48 */
    cu_select(&c, &(struct cu_facts){ 90, 132, 232448 }, &p);
    assert_int_equal(c.attn_vision, CU_ATTN_KERNEL_ANY);
    assert_int_equal(c.attn_prefix, CU_ATTN_KERNEL_ANY);
    assert_int_equal(c.attn_suffix, CU_ATTN_KERNEL_ANY);
}

static void vision_by_device(void **state)
{
    (void)state;
    struct cu_choice c;
    struct plan full = plan_of("pi0"), tiny = plan_of("pi0_tiny");
    cu_select(&c, &(struct cu_facts){ 80, 108, 166912 }, &full);
    assert_int_equal(c.attn_vision, CU_ATTN_KERNEL_MMA);
    assert_int_equal(c.vision_sm90, 0);
    cu_select(&c, &(struct cu_facts){ 90, 132, 232448 }, &full);
    assert_int_equal(c.attn_vision, CU_ATTN_KERNEL_SM90);
    assert_int_equal(c.vision_sm90, 1);
    cu_select(&c, &(struct cu_facts){ 90, 114, 232448 }, &full); /* too few for one wave */
    assert_int_equal(c.attn_vision, CU_ATTN_KERNEL_SM90);
    assert_int_equal(c.vision_sm90, 0);
    cu_select(&c, &(struct cu_facts){ 90, 132, 232448 }, &tiny); /* head size 24 */
    assert_int_equal(c.attn_vision, CU_ATTN_KERNEL_MMA);
    assert_int_equal(c.vision_sm90, 0);
    full.tokens_per_camera = 64;
    cu_select(&c, &(struct cu_facts){ 90, 132, 232448 }, &full);
    assert_int_equal(c.attn_vision, CU_ATTN_KERNEL_MMA);
    assert_int_equal(c.vision_sm90, 0);
}

/* q, k, v in one kernel as long as all of its tiles run at once. */
static void qkv_tiles(void **state)
{
    (void)state;
    assert_int_equal(qkv90_tile_tokens(8, 8, 132), 96);
    assert_int_equal(qkv90_tile_tokens(536, 8, 132), 96);
    assert_int_equal(qkv90_tile_tokens(577, 8, 132), 136);
    assert_int_equal(qkv90_tile_tokens(800, 8, 132), 136);
    assert_int_equal(qkv90_tile_tokens(968, 8, 132), 168);
    assert_int_equal(qkv90_tile_tokens(1008, 8, 132), 168);
    assert_int_equal(qkv90_tile_tokens(1009, 8, 132), 0);
    assert_int_equal(qkv90_tile_tokens(968, 8, 120),
                     168); /* clusters of two fill any even number */
    assert_int_equal(qkv90_tile_tokens(968, 8, 78), 0);
}

/* o and down (in two parts) as long as all of their tiles run at once, in pairs of token tiles. */
static void proj_tiles(void **state)
{
    (void)state;
    assert_int_equal(proj90_supported(2048, 2048, 1), 1);
    assert_int_equal(proj90_supported(2048, 16384, 2), 1);
    assert_int_equal(proj90_supported(2048, 16384 + 64, 2), 0);
    assert_int_equal(proj90_supported(32, 2048, 1), 0);
    for (int parts = 1; parts <= 2; parts++) {
        assert_int_equal(proj90_tile_tokens(8, 2048, parts, 132), 136);
        assert_int_equal(proj90_tile_tokens(544, 2048, parts, 128), 136);
        assert_int_equal(proj90_tile_tokens(545, 2048, parts, 128), 168);
        assert_int_equal(proj90_tile_tokens(792, 2048, parts, 128), 200);
        assert_int_equal(proj90_tile_tokens(800, 2048, parts, 132), 200);
        assert_int_equal(proj90_tile_tokens(801, 2048, parts, 132), 0);
        assert_int_equal(proj90_tile_tokens(544, 2048, parts, 127), 0);
    }
}

/* x of a group stays in L2, and groups are even. */
static void geglu_groups(void **state)
{
    (void)state;
    assert_int_equal(geglu90_tile_tokens(532, 16384, 132), 136);
    assert_int_equal(geglu90_tile_tokens(560, 16384, 132), 192); /* three tiles */
    assert_int_equal(geglu90_tile_tokens(788, 16384, 132), 200);
    assert_int_equal(geglu90_tile_tokens(816, 16384, 132), 136);
    assert_int_equal(geglu90_tile_tokens(968, 16384, 132), 200); /* five */
    assert_int_equal(geglu90_tile_tokens(968, 16384, 128), 200);
    assert_int_equal(geglu90_group(788, 2048, 200), 4);
    assert_int_equal(geglu90_group(1, 2048, 136), 2);
    assert_int_equal(geglu90_tile_tokens(6336, 16384, 132), 192); /* 33 tiles, 32 full turns */
    assert_int_equal(geglu90_tile_tokens(12672, 16384, 132), 192);
    assert_int_equal(geglu90_group(6336, 2048, 192), 18);   /* 33 tiles in two */
    assert_int_equal(geglu90_group(16384, 2048, 168), 20);  /* 98 in five */
    assert_int_equal(geglu90_group(6336, 1 << 16, 200), 2); /* a pair alone is too much */
}

/* Keys over the warpgroups where that fills more processors. */
static void attention_splits(void **state)
{
    (void)state;
    assert_int_equal(attn90_split(532, 8, 1, 132), 2);
    assert_int_equal(attn90_split(788, 8, 1, 132), 2);
    assert_int_equal(attn90_split(968, 8, 1, 132), 2);
    assert_int_equal(attn90_split(788, 8, 2, 132), 1);
    assert_int_equal(attn90_split(788, 8, 3, 132), 1);
    assert_int_equal(attn90_split(788, 8, 4, 132), 1);
    assert_int_equal(attn90_split(788, 8, 6, 132), 1); /* 69.6 µs; 75.8 the other way */
    assert_int_equal(attn90_split(788, 8, 8, 132), 1);
    assert_int_equal(attn90_split(1, 8, 1, 132), 1);
}

static void down_in_parts(void **state)
{
    (void)state;
    struct cu_facts h200 = { 90, 132, 232448 }, a100 = { 80, 108, 166912 };
    assert_int_equal(cu_split_k(&h200, 536, 2048, 16384), 2);
    assert_int_equal(cu_split_k(&h200, 800, 2048, 16384), 2);
    assert_int_equal(cu_split_k(&h200, 808, 2048, 16384), 0); /* a second wave */
    assert_int_equal(cu_split_k(&h200, 6304, 2048, 16384), 0);
    assert_int_equal(cu_split_k(&h200, 800, 64, 128), 0); /* no room for the parts */
    assert_int_equal(cu_split_k(&a100, 536, 2048, 16384), 0);
}

static void picks(void **state)
{
    (void)state;
    struct cu_facts h200 = { 90, 132, 232448 }, a100 = { 80, 108, 166912 };
    assert_int_equal(cu_gemm_pick(&h200, 1, 6144, 3456, 1152), 5);
    assert_int_equal(cu_gemm_pick(&h200, 1, 6145, 3456, 1152), 0);
    assert_int_equal(cu_gemm_pick(&h200, 0, 6336, 2048, 16384), 1);
    assert_int_equal(cu_gemm_pick(&h200, 0, 788, 2048, 2048), 0);
    assert_int_equal(cu_gemm_pick(&a100, 1, 6144, 3456, 1152), 0);
    /* fc1 with its rows of zeros, where they were measured to help */
    assert_int_equal(cu_padded_rows(&h200, 6144, 4304, 4352, 1152), 4352);
    assert_int_equal(cu_padded_rows(&h200, 1536, 4304, 4352, 1152), 4304);
    assert_int_equal(attn_vision90_queries(2, 16, 132), 64);
    assert_int_equal(attn_vision90_queries(3, 16, 132), 128);
    assert_int_equal(attn_vision90_queries(5, 16, 132), 256);
    assert_int_equal(cu_padded_rows(&a100, 6144, 4304, 4352, 1152), 4304);
}

static const char *tile(enum vis90_mode mode, int m, int n, int k)
{
    int t = vis90_tile(mode, m, n, k, 132);
    assert_in_range(t, 0, vis90_tiles() - 1);
    assert_true(vis90_tile_has(t, mode));
    return vis90_tile_name(t);
}

/* The tiles that were fastest on an H200 for two and three cameras. */
static void vision_tiles(void **state)
{
    (void)state;
    assert_string_equal(tile(VIS90_NORM, 768, 3456, 1152), "128x160 2x1");
    assert_string_equal(tile(VIS90_GELU, 768, 4304, 1152), "128x208 2x1");
    assert_string_equal(tile(VIS90_ADD, 768, 1152, 1152), "128x64 2x2");
    assert_string_equal(tile(VIS90_ADD, 768, 1152, 4304), "128x128 2x1x2");
    assert_string_equal(tile(VIS90_NORM, 512, 3456, 1152), "128x112 2x1");
    assert_string_equal(tile(VIS90_GELU, 512, 4304, 1152), "128x144 2x1");
    assert_string_equal(tile(VIS90_ADD, 512, 1152, 1152), "128x96 2x2x2");
    assert_string_equal(tile(VIS90_ADD, 512, 1152, 4304), "128x96 2x2x2");
    assert_int_equal(vis90_tile(VIS90_ADD, 768, 1000, 1152, 132), -1); /* no whole tiles */
    for (int m = 1; m <= 1024; m++) { /* what a row's norm is made of fits its table */
        int t = vis90_tile(VIS90_ADD, m, 1152, 4304, 132), width = vis90_part_width(t);
        assert_int_equal(1152 % width, 0);
        assert_in_range(1152 / width, 1, VIS90_MAX_PARTS);
    }
}

static void suffix_by_device(void **state)
{
    (void)state;
    struct cu_choice c;
    struct plan full = plan_of("pi0"), tiny = plan_of("pi0_tiny"), other = plan_of("pi05");
    cu_select(&c, &(struct cu_facts){ 90, 132, 232448 }, &full);
    assert_int_equal(c.suffix_sm90, 1);
    cu_select(&c, &(struct cu_facts){ 90, 132, 232448 }, &other);
    assert_int_equal(c.suffix_sm90, 1);
    cu_select(&c, &(struct cu_facts){ 90, 114, 232448 }, &full);
    assert_int_equal(c.suffix_sm90, 0);
    cu_select(&c, &(struct cu_facts){ 90, 132, 232448 }, &tiny);
    assert_int_equal(c.suffix_sm90, 0);
    cu_select(&c, &(struct cu_facts){ 100, 148, 232448 }, &full);
    assert_int_equal(c.suffix_sm90, 0);
}

static void suffix_tiles(void **state)
{
    (void)state;
    struct sfx90_tile t = sfx90_tile(SFX90_ADD, 80, 132);
    assert_int_equal(t.tokens, 80);
    assert_int_equal(t.split, 4);
    assert_int_equal(t.turns, 2);
    t = sfx90_tile(SFX90_ADD, 20, 132);
    assert_int_equal(t.split, 8);
    assert_int_equal(t.turns, 1);
    t = sfx90_tile(SFX90_QKV, 51, 132);
    assert_int_equal(t.split, 1);
    assert_int_equal(t.turns, 2);
    t = sfx90_tile(SFX90_GEGLU, 51, 132);
    assert_int_equal(t.tokens, 56);
    assert_int_equal(t.groups, 2);
    assert_int_equal(t.share, 1);
    t = sfx90_tile(SFX90_GEGLU, 160, 132);
    assert_int_equal(t.groups, 2);
    t = sfx90_tile(SFX90_ADD, 640, 132);
    assert_int_equal(t.tokens, 160);
    assert_int_equal(t.split, 2);
    for (int rows = 1; rows <= 2000; rows++)
        for (int mode = 0; mode < 3; mode++) { /* pieces of K are a power of two of whole stages */
            t = sfx90_tile((enum sfx90_mode)mode, rows, 132);
            assert_in_range(t.tokens, 24, 208);
            assert_true(t.split == 1 || t.split == 2 || t.split == 4 || t.split == 8);
            assert_in_range(t.split * t.share, 1, 8);
            assert_true(t.split < 8 || t.tokens <= 104);
            assert_true(t.groups == 1 || t.groups == 2);
            assert_true(t.turns == 1 || t.turns == 2);
            if (t.groups == 2) { /* what the kernels are compiled for */
                assert_int_not_equal(mode, SFX90_ADD);
                assert_int_equal(t.split, 1);
                assert_int_equal(t.turns, 1);
                assert_in_range(t.tokens, mode == SFX90_QKV ? 104 : 24, 208);
            }
            if (t.turns == 2) {
                assert_int_not_equal(mode, SFX90_GEGLU);
                assert_int_equal(t.split, mode == SFX90_ADD ? 4 : 1);
                assert_int_equal(t.share, 1);
                assert_in_range(t.tokens, 24, 104);
            }
        }
    assert_int_equal(sfx90_attn_split(850, 10, 2, 132), 7); /* 14 blocks */
    assert_int_equal(sfx90_attn_split(850, 10, 8, 132), 4);
    assert_int_equal(sfx90_attn_split(850, 10, 64, 132), 1);
    assert_int_equal(sfx90_attn_split(100, 10, 1, 132), 1); /* one step of two blocks */
}

static void glu_groups(void **state)
{
    (void)state;
    assert_int_equal(cu_glu_group(16384), 8);
    assert_int_equal(cu_glu_group(200), 8);
    assert_int_equal(cu_glu_group(20), 20);
}

/* A bucket holds its count, is its own bucket, and grows with the count. */
static void buckets_hold(void **state)
{
    (void)state;
    for (int n = 1; n < 3000; n++) {
        int b = cu_bucket_images(n);
        assert_in_range(b, n, n + n / 4);
        assert_int_equal(cu_bucket_images(b), b);
        assert_true(b <= cu_bucket_images(n + 1));
    }
    for (int n = 1; n < 200000; n++) {
        int b = cu_bucket_rows(n);
        assert_in_range(b, n, n + (n < 512 ? 7 : n / 63));
        assert_int_equal(cu_bucket_rows(b), b);
        assert_true(b <= cu_bucket_rows(n + 1));
    }
    for (int n = 1; n < 2000; n++) {
        int rows = cu_bucket_rows(n);
        assert_in_range(cu_bucket_sample_rows(n, 1, rows), n, rows);
        assert_in_range(cu_bucket_sample_rows(n, 3, rows), n, n + 63);
    }
}

/* The workloads' prefixes are hardly padded. */
static void workloads_fit(void **state)
{
    (void)state;
    assert_int_equal(cu_bucket_rows(788), 792);
    assert_int_equal(cu_bucket_rows(532), 536);
    assert_int_equal(cu_bucket_rows(799), 800);
    assert_int_equal(cu_bucket_rows(968), 968);
    assert_int_equal(cu_bucket_images(3), 3);
    assert_int_equal(cu_bucket_images(192), 192);
}

static void splits(void **state)
{
    (void)state;
    assert_int_equal(cu_suffix_splits(543, 80, 1, 132), 9); /* a tile of keys each */
    assert_int_equal(cu_suffix_splits(840, 400, 64, 132), 1);
    for (int keys = 1; keys < 6000; keys += 7)
        for (int batch = 1; batch <= 128; batch *= 2) {
            int s = cu_suffix_splits(keys, 80, batch, 132);
            assert_in_range(s, 1, CU_MAX_SPLITS);
            assert_true(s <= (keys + 63) / 64);
            assert_true(s == 1 || s * batch * 2 <= 132);
        }
}

static void early_by_shape(void **state)
{
    (void)state;
    struct cu_choice c;
    struct cu_facts h200 = { 90, 132, 232448 }, a100 = { 80, 108, 166912 };
    struct plan full = plan_of("pi0"), pi05 = plan_of("pi05"), tiny = plan_of("pi0_tiny");
    cu_select(&c, &h200, &full);
    assert_int_equal(c.early_sm90, 1);
    cu_select(&c, &h200, &pi05);
    assert_int_equal(c.early_sm90, 1);
    cu_select(&c, &h200, &tiny);
    assert_int_equal(c.early_sm90, 0);
    cu_select(&c, &a100, &full);
    assert_int_equal(c.early_sm90, 0);
    full.dims.action_horizon = 56; /* and the state */
    cu_select(&c, &h200, &full);
    assert_int_equal(c.early_sm90, 0);
    /* the prefix's 256 clusters take four turns of 64 as of 66 */
    assert_int_equal(cu_early_layers(&h200, 792, 11, 18, 16384), 17);
    assert_int_equal(cu_early_layers(&h200, 968, 51, 18, 16384), 17);
    assert_int_equal(cu_early_layers(&h200, 800, 51, 18, 16384), 17);
    assert_int_equal(cu_early_layers(&h200, 280, 11, 18, 16384), 11); /* it is soon over */
    assert_int_equal(cu_early_layers(&h200, 8, 11, 18, 16384), 2);
    assert_int_equal(cu_early_layers(&h200, 792, 11, 2, 16384), 0);
    /* all 66 are needed */
    int tile;
    assert_true(geglu90_cost(6304, 16384, 128, &tile) > geglu90_cost(6304, 16384, 132, &tile));
    assert_int_equal(cu_early_layers(&h200, 6304, 11, 18, 16384), 0);
}

static void chunks(void **state)
{
    (void)state;
    assert_int_equal(cu_loop_batch(10), 1);
    assert_int_equal(cu_loop_batch(50), 0);
    assert_int_equal(cu_mlp_chunk(800), 800);
    assert_int_equal(cu_mlp_chunk(1 << 20), 16384);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_by_device), cmocka_unit_test(odd_heads_take_the_plain_kernel),
        cmocka_unit_test(vision_by_device),  cmocka_unit_test(qkv_tiles),
        cmocka_unit_test(proj_tiles),        cmocka_unit_test(geglu_groups),
        cmocka_unit_test(attention_splits),  cmocka_unit_test(down_in_parts),
        cmocka_unit_test(vision_tiles),      cmocka_unit_test(picks),
        cmocka_unit_test(suffix_by_device),  cmocka_unit_test(suffix_tiles),
        cmocka_unit_test(glu_groups),        cmocka_unit_test(buckets_hold),
        cmocka_unit_test(workloads_fit),     cmocka_unit_test(splits),
        cmocka_unit_test(early_by_shape),    cmocka_unit_test(chunks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
