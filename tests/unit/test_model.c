/* SPDX-License-Identifier: Apache-2.0
 * Opening checkpoints: the golden ones, the spellings that openpi and lerobot use, sharded sets, and
 * the message of every way a checkpoint can be wrong. Small variations of a tiny synthetic
 * checkpoint are written into a temporary directory. */
#include "io/safetensors.h"
#include "model/model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PI0_TINY "tests/golden/pi0_tiny"
#define PI05_TINY "tests/golden/pi05_tiny"
#define VISION "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
#define VLM "paligemma_with_expert.paligemma.model.language_model."
#define EXPERT "paligemma_with_expert.gemma_expert.model."
#define LM_HEAD "paligemma_with_expert.paligemma.lm_head.weight"
#define EMBED VLM "embed_tokens.weight"
#define POS VISION "embeddings.position_embedding.weight"

/* ---------------------------------------------------------------- writing variations */

/* What is done to one tensor of a golden checkpoint on its way into a new file. */
struct change {
    const char *name;
    const char *rename; /* new name; "" leaves the tensor out */
    const char *shape;  /* the new shape as JSON, values cut or padded to fit */
    const char *dtype;  /* "F16" or "F32" convert nothing: the bytes are zeros */
    size_t n;           /* values of the new shape; 0 = as before */
};

static char temp[64];

static int make_temp(void **state)
{
    (void)state;
    snprintf(temp, sizeof temp, "/tmp/pi0_model_XXXXXX");
    return mkdtemp(temp) ? 0 : -1;
}

static int remove_temp(void **state)
{
    (void)state;
    char path[512];
    chmod(temp, 0700);
    DIR *d = opendir(temp);
    if (!d)
        return 0;
    for (struct dirent *e; (e = readdir(d));) {
        snprintf(path, sizeof path, "%s/%s", temp, e->d_name);
        unlink(path);
    }
    closedir(d);
    return rmdir(temp);
}

static void put_file(const char *name, const void *data, size_t n)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", temp, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

static void put_text(const char *name, const char *s) { put_file(name, s, strlen(s)); }

static const struct change *change_of(const struct change *changes, const char *name)
{
    for (; changes && changes->name; changes++)
        if (strcmp(changes->name, name) == 0)
            return changes;
    return NULL;
}

/* Tensors of `from` with index in [first, last) into temp/file, changed, each name behind `prefix`,
 * and an extra tensor if `extra` names one. */
struct variation {
    const char *from, *file, *prefix, *extra;
    const struct change *changes;
    size_t first, last;
};

static void write_variation(const struct variation *v)
{
    char path[256], *header = NULL, *values = NULL;
    size_t header_n = 0, values_n = 0, at = 0;
    struct st_set *s = NULL;
    snprintf(path, sizeof path, "%s/model.safetensors", v->from);
    assert_int_equal(st_open_file(&s, path, NULL), PI0_OK);
    FILE *h = open_memstream(&header, &header_n), *data = open_memstream(&values, &values_n);
    assert_true(h && data);
    fputs("{\"__metadata__\":{}", h);
    for (size_t i = v->first; i < s->n_tensors && i < v->last; i++) {
        const struct st_tensor *t = &s->tensors[i];
        const struct change *c = change_of(v->changes, t->name);
        if (c && c->rename && !*c->rename)
            continue;
        const char *dtype = c && c->dtype ? c->dtype : st_dtype_name(t->dtype);
        size_t each = strchr(dtype, '6') && dtype[0] != 'I' ? 2 : strcmp(dtype, "I64") ? 4 : 8;
        size_t bytes = (c && c->n ? c->n : (size_t)t->n) * each;
        fprintf(h, ",\"%s%s\":{\"dtype\":\"%s\",\"shape\":", v->prefix ? v->prefix : "",
                c && c->rename ? c->rename : t->name, dtype);
        if (c && c->shape)
            fputs(c->shape, h);
        else
            for (int k = 0; k < t->rank; k++)
                fprintf(h, "%s%llu%s", k ? "," : "[", (unsigned long long)t->shape[k],
                        k == t->rank - 1 ? "]" : "");
        fprintf(h, ",\"data_offsets\":[%zu,%zu]}", at, at + bytes);
        for (size_t k = 0; k < bytes; k++)
            putc(k < t->bytes && !(c && c->dtype) ? t->data[k] : 0, data);
        at += bytes;
    }
    if (v->extra) {
        fprintf(h, ",\"%s\":{\"dtype\":\"BF16\",\"shape\":[512,128],\"data_offsets\":[%zu,%zu]}",
                v->extra, at, at + 131072);
        for (int k = 0; k < 131072; k++)
            putc(0x40, data);
    }
    putc('}', h);
    fclose(h);
    fclose(data);
    char *all = malloc(8 + header_n + values_n);
    assert_non_null(all);
    for (int i = 0; i < 8; i++)
        all[i] = (char)(unsigned char)((uint64_t)header_n >> (8 * i));
    memcpy(all + 8, header, header_n);
    memcpy(all + 8 + header_n, values, values_n);
    put_file(v->file ? v->file : "model.safetensors", all, 8 + header_n + values_n);
    free(all);
    free(header);
    free(values);
    st_close(s);
}

/* config.json of a golden case into temp. */
static void copy_config(const char *from)
{
    char path[256], text[4096];
    snprintf(path, sizeof path, "%s/config.json", from);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text, f);
    fclose(f);
    put_file("config.json", text, n);
}

static pi0_model *expect_open(const char *dir)
{
    pi0_model *m = NULL;
    struct pi0_error err;
    if (pi0_model_open(&m, dir, NULL, &err))
        fail_msg("%s", err.message);
    return m;
}

static void expect_closed(pi0_status want, const char *why)
{
    pi0_model *m = NULL;
    struct pi0_error err = { 0 };
    pi0_status st = pi0_model_open(&m, temp, NULL, &err);
    if (st != want || !strstr(err.message, why))
        fail_msg("%s: \"%s\", expected %s: \"%s\"", pi0_status_name(st), err.message,
                 pi0_status_name(want), why);
    assert_null(m);
    assert_int_equal(pi0_model_open(&m, temp, NULL, NULL), want);
}

/* One change to a golden checkpoint, and what opening it says. */
static void expect_fault(const char *from, struct change c, pi0_status want, const char *why)
{
    const struct change changes[] = { c, { 0 } };
    copy_config(from);
    write_variation(&(struct variation){ .from = from, .changes = changes, .last = 999 });
    expect_closed(want, why);
}

/* ---------------------------------------------------------------- good checkpoints */

static void golden(void **state)
{
    (void)state;
    static const struct {
        const char *dir, *dims;
        int n;
    } t[] = { { PI0_TINY, "pi0_tiny", 122 }, { PI05_TINY, "pi05_tiny", 127 } };
    for (int i = 0; i < 2; i++) {
        struct pi0_dims d;
        struct pi0_model_info info;
        pi0_model *m = expect_open(t[i].dir);
        pi0_model_info(m, &info);
        assert_int_equal(pi0_dims_named(&d, t[i].dims, NULL), PI0_OK);
        assert_memory_equal(&info.dims, &d, sizeof d);
        assert_int_equal(info.n_tensors, t[i].n);
        assert_int_equal(info.n_unused, 0);
        assert_int_equal(info.source, PI0_SOURCE_OPENPI);
        assert_string_equal(info.dir, t[i].dir);
        assert_string_equal(info.preset, "");
        assert_string_equal(info.camera_names[0], "base_0_rgb");
        assert_int_equal(info.n_params, info.n_params_vision + info.n_params_projector +
                                            info.n_params_table + info.n_params_vlm +
                                            info.n_params_expert + info.n_params_heads);
        assert_int_equal(info.n_params_table, 512 * 128);
        assert_true(info.file_bytes > 2 * info.n_params);
        pi0_model_close(m);
    }
    pi0_model_close(NULL);
}

/* Reading through a released page gives the same values: they come from the file again. */
static void values_stay(void **state)
{
    (void)state;
    pi0_model *m = expect_open(PI0_TINY);
    const struct tensor *t = &m->weights.table;
    float *before = malloc(2 * t->n * sizeof(float)), *after = before + t->n;
    assert_non_null(before);
    tensor_read_f32(t, 0, t->n, before);
    tensor_release(t);
    tensor_read_f32(t, 0, t->n, after);
    assert_memory_equal(before, after, t->n * sizeof(float));
    assert_true(tensor_all_finite(t, 0, t->n));
    free(before);
    pi0_model_close(m);
}

/* The lerobot wrapper's "model." in front of every name; the inner "model." stays. */
static void leading_model(void **state)
{
    (void)state;
    struct pi0_model_info info;
    copy_config(PI0_TINY);
    write_variation(&(struct variation){ .from = PI0_TINY, .prefix = "model.", .last = 999 });
    pi0_model *m = expect_open(temp);
    pi0_model_info(m, &info);
    assert_int_equal(info.n_tensors, 122);
    assert_int_equal(info.n_unused, 0);
    pi0_model_close(m);
    write_variation(&(struct variation){ .from = PI0_TINY, .prefix = "model.model.", .last = 999 });
    expect_closed(PI0_E_MODEL, "neither state_proj.weight");
}

/* embed_tokens alone, lm_head alone, and both: embed_tokens is looked up. */
static void token_table(void **state)
{
    (void)state;
    const struct change rename[] = { { LM_HEAD, .rename = EMBED }, { 0 } };
    struct pi0_model_info info;
    float v;
    copy_config(PI0_TINY);
    write_variation(&(struct variation){ .from = PI0_TINY, .changes = rename, .last = 999 });
    pi0_model *m = expect_open(temp);
    pi0_model_close(m);
    write_variation(&(struct variation){ .from = PI0_TINY, .extra = EMBED, .last = 999 });
    m = expect_open(temp);
    pi0_model_info(m, &info);
    assert_int_equal(info.n_tensors, 122);
    assert_int_equal(info.n_unused, 1);
    tensor_read_f32(&m->weights.table, 77, 1, &v);
    assert_true(v == bf16_to_f32(0x4040));
    pi0_model_close(m);
    const struct change none[] = { { LM_HEAD, .rename = "" }, { 0 } };
    write_variation(&(struct variation){ .from = PI0_TINY, .changes = none, .last = 999 });
    expect_closed(PI0_E_MODEL, LM_HEAD ": missing");
}

/* Tensors that no action depends on may be there or not; unknown ones are counted. */
static void dead_tensors(void **state)
{
    (void)state;
    const struct change dead[] = { { VLM "layers.2.self_attn.q_proj.weight", .rename = "" },
                                   { VLM "layers.2.self_attn.o_proj.weight", .rename = "" },
                                   { VLM "layers.2.mlp.gate_proj.weight", .rename = "" },
                                   { VLM "layers.2.mlp.up_proj.weight", .rename = "" },
                                   { VLM "layers.2.mlp.down_proj.weight", .rename = "" },
                                   { VLM "layers.2.post_attention_layernorm.weight", .rename = "" },
                                   { VLM "norm.weight", .rename = "" },
                                   { 0 } };
    struct pi0_model_info info;
    copy_config(PI0_TINY);
    write_variation(
        &(struct variation){ .from = PI0_TINY,
                             .changes = dead,
                             .extra = "paligemma_with_expert.gemma_expert.lm_head.weight",
                             .last = 999 });
    pi0_model *m = expect_open(temp);
    pi0_model_info(m, &info);
    assert_int_equal(info.n_tensors, 122 - 7);
    assert_int_equal(info.n_unused, 1);
    assert_int_equal(m->weights.vlm[2].q_w.rank, 0);
    assert_int_equal(m->weights.vlm[2].k_w.rank, 2);
    pi0_model_close(m);
}

/* lerobot reads files in which the time MLP has the other variant's name; config.json then says
 * which it is. */
static void time_mlp_names(void **state)
{
    (void)state;
    const struct change rename[] = {
        { "time_mlp_in.weight", .rename = "action_time_mlp_in.weight" },
        { "time_mlp_in.bias", .rename = "action_time_mlp_in.bias" },
        { "time_mlp_out.weight", .rename = "action_time_mlp_out.weight" },
        { "time_mlp_out.bias", .rename = "action_time_mlp_out.bias" },
        { 0 }
    };
    struct variation v = {
        .from = PI05_TINY, .changes = rename, .extra = "state_proj.weight", .last = 999
    };
    put_text("config.json", "{\"type\": \"pi05\", \"image_resolution\": [56, 56]}");
    write_variation(&v);
    expect_closed(PI0_E_MODEL, "vision.heads is missing"); /* the variant was found */
    const struct change old_names[] = { { "action_time_mlp_in.weight",
                                          .rename = "time_mlp_in.weight" },
                                        { "action_time_mlp_in.bias", .rename = "time_mlp_in.bias" },
                                        { 0 } };
    put_text("config.json", "{}");
    v = (struct variation){ .from = PI0_TINY, .changes = old_names, .last = 999 };
    write_variation(&v);
    expect_closed(PI0_E_MODEL, "both state_proj.weight (pi0) and time_mlp_in.weight (pi05)");
    put_text("config.json", "{\"type\": \"pi0\"}");
    expect_closed(PI0_E_MODEL, "vision.heads is missing");
    put_text("config.json", "{\"type\": \"pi05\"}");
    expect_closed(PI0_E_MODEL, "both state_proj.weight (pi0) and time_mlp_in.weight (pi05)");
}

static void sharded(void **state)
{
    (void)state;
    struct pi0_model_info info;
    struct st_set *s = NULL;
    char *index = NULL;
    size_t n = 0;
    copy_config(PI0_TINY);
    write_variation(&(struct variation){ .from = PI0_TINY, .file = "a.safetensors", .last = 50 });
    write_variation(
        &(struct variation){ .from = PI0_TINY, .file = "b.safetensors", .first = 50, .last = 999 });
    assert_int_equal(st_open_file(&s, PI0_TINY "/model.safetensors", NULL), PI0_OK);
    FILE *f = open_memstream(&index, &n);
    assert_non_null(f);
    fputs("{\"metadata\": {}, \"weight_map\": {", f);
    for (size_t i = 0; i < s->n_tensors; i++)
        fprintf(f, "%s\"%s\": \"%s.safetensors\"", i ? ", " : "", s->tensors[i].name,
                i < 50 ? "a" : "b");
    fputs("}}", f);
    fclose(f);
    put_file("model.safetensors.index.json", index, n);
    free(index);
    st_close(s);
    pi0_model *m = expect_open(temp);
    pi0_model_info(m, &info);
    assert_int_equal(info.n_tensors, 122);
    pi0_model_close(m);
}

/* Any mix of the three dtypes. */
static void dtypes(void **state)
{
    (void)state;
    const struct change mix[] = { { POS, .dtype = "F32" },
                                  { "action_in_proj.weight", .dtype = "F16" },
                                  { 0 } };
    copy_config(PI0_TINY);
    write_variation(&(struct variation){ .from = PI0_TINY, .changes = mix, .last = 999 });
    pi0_model *m = expect_open(temp);
    assert_int_equal(m->weights.pos.dtype, DT_F32);
    assert_int_equal(m->weights.action_in_w.dtype, DT_F16);
    assert_int_equal(m->weights.patch_w.dtype, DT_BF16);
    pi0_model_close(m);
}

static void preset_option(void **state)
{
    (void)state;
    struct pi0_model_options o = { .preset = "pi0_libero" };
    struct pi0_model_info info;
    struct pi0_error err;
    pi0_model *m = NULL;
    assert_int_equal(pi0_model_open(&m, PI05_TINY, &o, &err), PI0_E_MODEL);
    assert_non_null(strstr(err.message, "\"pi0_libero\" is for pi0"));
    o.preset = "nothing";
    assert_int_equal(pi0_model_open(&m, PI0_TINY, &o, &err), PI0_E_ARGUMENT);
    o.preset = NULL;
    assert_int_equal(pi0_model_open(&m, PI0_TINY, &o, &err), PI0_OK);
    pi0_model_close(m);
    copy_config(PI0_TINY);
    write_variation(&(struct variation){ .from = PI0_TINY, .last = 999 });
    put_text("pi0.json", "{\"preset\": \"pi0_libero\", \"out_dim\": 7, \"cameras\": [\"a\"]}");
    m = expect_open(temp);
    pi0_model_info(m, &info);
    assert_string_equal(info.preset, "pi0_libero");
    assert_int_equal(info.dims.action_horizon, 6); /* config.json is stronger than a preset */
    assert_int_equal(info.dims.n_cameras, 1);
    pi0_model_close(m);
}

/* ---------------------------------------------------------------- faults */

static void missing(void **state)
{
    (void)state;
    static const char *const names[] = { VISION "embeddings.patch_embedding.weight",
                                         VISION "encoder.layers.1.mlp.fc2.bias",
                                         VISION "encoder.layers.0.mlp.fc1.weight",
                                         VLM "layers.1.self_attn.q_proj.weight",
                                         VLM "layers.0.self_attn.k_proj.weight",
                                         VLM "layers.2.self_attn.v_proj.weight",
                                         EXPERT "layers.2.mlp.up_proj.weight",
                                         EXPERT "norm.weight",
                                         "action_in_proj.weight",
                                         "action_out_proj.bias",
                                         "state_proj.bias",
                                         "action_time_mlp_out.weight" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char why[192];
        snprintf(why, sizeof why, "%s: missing", names[i]);
        expect_fault(PI0_TINY, (struct change){ names[i], .rename = "" }, PI0_E_MODEL, why);
    }
    expect_fault(PI05_TINY,
                 (struct change){ EXPERT "layers.0.input_layernorm.dense.bias", .rename = "" },
                 PI0_E_MODEL, EXPERT "layers.0.input_layernorm.dense.bias: missing");
    expect_fault(PI0_TINY, (struct change){ "state_proj.weight", .rename = "" }, PI0_E_MODEL,
                 "neither state_proj.weight (pi0) nor time_mlp_in.weight (pi05)");
    copy_config(PI0_TINY);
    write_variation(
        &(struct variation){ .from = PI0_TINY, .extra = "time_mlp_in.weight", .last = 999 });
    expect_closed(PI0_E_MODEL, "both state_proj.weight");
    write_variation(
        &(struct variation){ .from = PI0_TINY, .extra = "model." LM_HEAD, .last = 999 });
    expect_closed(PI0_E_MODEL, LM_HEAD ": stored twice");
}

static void wrong_shape(void **state)
{
    (void)state;
    expect_fault(PI0_TINY,
                 (struct change){ VISION "encoder.layers.2.self_attn.q_proj.weight",
                                  .shape = "[96,95]", .n = 96 * 95 },
                 PI0_E_MODEL,
                 VISION "encoder.layers.2.self_attn.q_proj.weight: shape [96, 95], expected [96, "
                        "96]");
    expect_fault(PI0_TINY, (struct change){ "action_in_proj.bias", .shape = "[64,1]", .n = 64 },
                 PI0_E_MODEL, "action_in_proj.bias: shape [64, 1], expected [64]");
    expect_fault(PI0_TINY,
                 (struct change){ VISION "embeddings.patch_embedding.weight", .shape = "[96,588]",
                                  .n = 96 * 588 },
                 PI0_E_MODEL, "patch_embedding.weight: 2 dimensions, expected 4");
    expect_fault(PI0_TINY, (struct change){ POS, .shape = "[15,96]", .n = 15 * 96 }, PI0_E_MODEL,
                 POS ": 15 rows, expected a square");
    expect_fault(PI0_TINY, (struct change){ POS, .shape = "[9,96]", .n = 9 * 96 }, PI0_E_MODEL,
                 "config.json: image_size is 56, the tensors say 42");
    expect_fault(PI0_TINY, (struct change){ "action_in_proj.weight", .shape = "[64,0]", .n = 0 },
                 PI0_E_FORMAT, "action_in_proj.weight"); /* does not fit its bytes */
    expect_fault(PI0_TINY,
                 (struct change){ "action_in_proj.weight", .shape = "[64,7]", .n = 64 * 7 },
                 PI0_E_MODEL, "config.json: action_dim is 8, the tensors say 7");
    expect_fault(PI0_TINY,
                 (struct change){ EXPERT "layers.0.self_attn.q_proj.weight", .shape = "[100,64]",
                                  .n = 6400 },
                 PI0_E_MODEL, "100 rows, expected a multiple of the head size 32");
    expect_fault(PI0_TINY, (struct change){ "state_proj.weight", .shape = "[64,4,2]", .n = 512 },
                 PI0_E_MODEL, "state_proj.weight: shape [64, 4, 2], expected [64, 8]");
}

static void wrong_layers(void **state)
{
    (void)state;
    expect_fault(PI0_TINY,
                 (struct change){ EXPERT "layers.2.mlp.up_proj.weight",
                                  .rename = EXPERT "layers.3.mlp.up_proj.weight" },
                 PI0_E_MODEL, "3 layers of the language model and 4 of the expert");
    expect_fault(PI0_TINY,
                 (struct change){ VISION "encoder.layers.2.mlp.fc2.bias",
                                  .rename = VISION "encoder.layers.299.mlp.fc2.bias" },
                 PI0_E_MODEL, "vision_depth is 3, the tensors say 300");
}

/* A number that is no layer's does not count as one. */
static void absurd_layer(void **state)
{
    (void)state;
    expect_fault(PI0_TINY,
                 (struct change){ VISION "encoder.layers.2.mlp.fc2.bias",
                                  .rename = VISION "encoder.layers.99999999999.mlp.fc2.bias" },
                 PI0_E_MODEL, VISION "encoder.layers.2.mlp.fc2.bias: missing");
}

static void wrong_dtype(void **state)
{
    (void)state;
    expect_fault(PI0_TINY, (struct change){ POS, .dtype = "I32" }, PI0_E_MODEL,
                 POS ": dtype I32, expected BF16, F16 or F32");
    expect_fault(PI0_TINY, (struct change){ "state_proj.bias", .dtype = "I64" }, PI0_E_MODEL,
                 "state_proj.bias: dtype I64");
}

static void contradictions(void **state)
{
    (void)state;
    copy_config(PI05_TINY);
    write_variation(&(struct variation){ .from = PI0_TINY, .last = 999 });
    expect_closed(PI0_E_MODEL, "config.json: the model is pi05, the tensors are those of pi0");
    put_text("config.json", "{\"action_dim\": 32}");
    expect_closed(PI0_E_MODEL, "action_dim is 32, the tensors say 8");
    put_text("config.json", "{\"action_dim\": }");
    expect_closed(PI0_E_FORMAT, "config.json: line 1");
    copy_config(PI0_TINY);
    put_text("pi0.json", "{\"prompt\": \"x\"}");
    expect_closed(PI0_E_FORMAT, "pi0.json: unknown key \"prompt\"");
}

static void no_files(void **state)
{
    (void)state;
    pi0_model *m = NULL;
    struct pi0_error err;
    expect_closed(PI0_E_IO, "model.safetensors");
    assert_int_equal(pi0_model_open(&m, "/no/such/place", NULL, &err), PI0_E_IO);
    assert_non_null(strstr(err.message, "/no/such/place"));
    assert_int_equal(pi0_model_open(&m, NULL, NULL, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_model_open(NULL, temp, NULL, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_model_open(&m, "README.md/x", NULL, &err), PI0_E_IO);
    put_text("model.safetensors", "{}");
    expect_closed(PI0_E_FORMAT, "model.safetensors");
    if (geteuid() != 0) {
        assert_int_equal(chmod(temp, 0), 0);
        expect_closed(PI0_E_IO, temp);
        assert_int_equal(chmod(temp, 0700), 0);
    }
}

/* ---------------------------------------------------------------- cases and names */

static void cases(void **state)
{
    (void)state;
    struct pi0_case c;
    struct pi0_error err;
    struct pi0_dims d;
    assert_int_equal(pi0_case_read(&c, PI0_TINY, &err), PI0_OK);
    assert_string_equal(c.name, "pi0_tiny");
    assert_string_equal(c.weights_dir, PI0_TINY);
    assert_int_equal(c.seed, 7);
    assert_int_equal(c.n_steps, 10);
    assert_int_equal(pi0_case_read(&c, "tests/golden/pi0_tiny_3cam", &err), PI0_OK);
    assert_string_equal(c.weights_dir, "");
    assert_int_equal(c.seed, 9);
    assert_int_equal(c.n_steps, 4);
    assert_int_equal(pi0_dims_named(&d, "pi0_tiny", &err), PI0_OK);
    assert_memory_equal(&c.dims, &d, sizeof d);
    assert_int_equal(pi0_case_read(&c, "tests/golden/pi05_full", &err), PI0_OK);
    assert_int_equal(pi0_dims_named(&d, "pi05", &err), PI0_OK);
    assert_memory_equal(&c.dims, &d, sizeof d);
    assert_int_equal(pi0_case_read(&c, "tests/golden/pi0_h10", &err), PI0_OK);
    assert_int_equal(c.dims.action_horizon, 10);
    assert_int_equal(c.dims.max_token_len, 20);

    assert_int_equal(pi0_case_read(&c, "tests/golden/pi05_tiny_rtc", &err), PI0_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "rtc_prefix_len"));
    assert_int_equal(pi0_case_read(&c, "tests/golden/none", &err), PI0_E_IO);
    assert_int_equal(pi0_case_read(&c, NULL, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_dims_named(&d, "pi1", &err), PI0_E_ARGUMENT);
    assert_non_null(strstr(err.message, "\"pi1\""));
}

#define CASE(more)                                                                               \
    "{\"model\": \"pi0\", \"image_size\": 56, \"cameras\": [\"a\"], \"max_token_len\": 12, "     \
    "\"action_dim\": 8, \"action_horizon\": 6, \"vision\": {\"width\": 96, \"depth\": 3, "       \
    "\"mlp_dim\": 200, \"heads\": 4, \"patch_size\": 14}, \"vlm\": {\"width\": 128, \"depth\": " \
    "3, "                                                                                        \
    "\"mlp_dim\": 320, \"heads\": 4, \"kv_heads\": 1, \"head_dim\": 32, \"vocab_size\": 512}, "  \
    "\"expert\": {\"width\": 64, \"mlp_dim\": 160}" more "}"

static void case_fields(void **state)
{
    (void)state;
    struct pi0_case c;
    struct pi0_error err;
    char want[128];
    put_text("config.json", CASE(", \"weights\": \"other\""));
    assert_int_equal(pi0_case_read(&c, temp, &err), PI0_OK);
    snprintf(want, sizeof want, "%s/../other", temp);
    assert_string_equal(c.weights_dir, want);
    static const struct {
        const char *json, *why;
        pi0_status status;
    } t[] = { { CASE(", \"weights\": \"../../etc\""), "weights is", PI0_E_FORMAT },
              { CASE(", \"weights\": \"..\""), "weights is", PI0_E_FORMAT },
              { CASE(", \"weights\": 3"), "weights, expected a string", PI0_E_FORMAT },
              { CASE(", \"seed\": -1"), "seed, expected an integer", PI0_E_FORMAT },
              { CASE(", \"seed\": 1.5"), "seed, expected an integer", PI0_E_FORMAT },
              { CASE(", \"name\": 5"), "name, expected a string", PI0_E_FORMAT },
              { CASE(", \"num_steps\": 0"), "num_steps is 0", PI0_E_MODEL },
              { "{\"vision\": {}}", "model is missing", PI0_E_MODEL },
              { "[]", "expected an object", PI0_E_FORMAT } };
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        put_text("config.json", t[i].json);
        assert_int_equal(pi0_case_read(&c, temp, &err), t[i].status);
        if (!strstr(err.message, t[i].why))
            fail_msg("\"%s\", expected \"%s\"", err.message, t[i].why);
    }
}

static void synthetic_faults(void **state)
{
    (void)state;
    struct pi0_dims d;
    struct pi0_error err;
    pi0_model *m = NULL;
    assert_int_equal(pi0_dims_named(&d, "pi0", NULL), PI0_OK);
    assert_int_equal(pi0_model_open_synthetic(&m, NULL, 0, &err), PI0_E_ARGUMENT);
    assert_int_equal(pi0_model_open_synthetic(NULL, &d, 0, &err), PI0_E_ARGUMENT);
    d.kv_heads = 2;
    assert_int_equal(pi0_model_open_synthetic(&m, &d, 0, &err), PI0_E_MODEL);
    assert_non_null(strstr(err.message, "kv_heads 2, expected 1"));
    assert_null(m);
    assert_int_equal(pi0_dims_named(&d, "pi05", NULL), PI0_OK);
    struct pi0_model_info info;
    assert_int_equal(pi0_model_open_synthetic(&m, &d, 0, &err), PI0_OK); /* no memory is taken */
    pi0_model_info(m, &info);
    assert_int_equal(info.n_params, 3353433872u);
    assert_int_equal(info.n_tensors, 811);
    assert_int_equal(info.file_bytes, 0);
    pi0_model_close(m);
}

#define IN_TEMP(f) cmocka_unit_test_setup_teardown(f, make_temp, remove_temp)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden),
        cmocka_unit_test(values_stay),
        IN_TEMP(leading_model),
        IN_TEMP(token_table),
        IN_TEMP(dead_tensors),
        IN_TEMP(time_mlp_names),
        IN_TEMP(sharded),
        IN_TEMP(dtypes),
        IN_TEMP(preset_option),
        IN_TEMP(missing),
        IN_TEMP(wrong_shape),
        IN_TEMP(wrong_layers),
        IN_TEMP(absurd_layer),
        IN_TEMP(wrong_dtype),
        IN_TEMP(contradictions),
        IN_TEMP(no_files),
        cmocka_unit_test(cases),
        IN_TEMP(case_fields),
        cmocka_unit_test(synthetic_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
