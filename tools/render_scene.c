/* SPDX-License-Identifier: Apache-2.0
 * render_scene: draws the three camera images in assets/: a table with cubes and a bowl between the
 * two arms of an ALOHA-like robot, seen from above (JPEG) and from both wrists (JPEG, PNG). Distance
 * fields, marched; one lamp with a soft shadow, light from the sky, ambient occlusion. Not part of
 * the build; the images are checked in. To make them again:
 *
 *   gcc -O2 -o /tmp/render_scene tools/render_scene.c -ljpeg -lpng -lm && /tmp/render_scene assets
 *
 * Metres; x to the right of the high camera, y away from it, z up; the table top is z = 0. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>

struct v3 {
    float x, y, z;
};
static struct v3 v(float x, float y, float z) { return (struct v3){ x, y, z }; }
static struct v3 add(struct v3 a, struct v3 b) { return v(a.x + b.x, a.y + b.y, a.z + b.z); }
static struct v3 sub(struct v3 a, struct v3 b) { return v(a.x - b.x, a.y - b.y, a.z - b.z); }
static struct v3 mul(struct v3 a, float s) { return v(a.x * s, a.y * s, a.z * s); }
static struct v3 tint(struct v3 a, struct v3 b) { return v(a.x * b.x, a.y * b.y, a.z * b.z); }
static float dot(struct v3 a, struct v3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
static float len(struct v3 a) { return sqrtf(dot(a, a)); }
static struct v3 unit(struct v3 a) { return mul(a, 1 / len(a)); }
static struct v3 cross(struct v3 a, struct v3 b)
{
    return v(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x);
}
static float clampf(float x, float lo, float hi) { return x < lo ? lo : x > hi ? hi : x; }
static float mixf(float a, float b, float t) { return a + (b - a) * t; }

/* ---------------------------------------------------------------- shapes */

static float box(struct v3 p, struct v3 half, float round)
{
    float x = fabsf(p.x) - half.x + round, y = fabsf(p.y) - half.y + round,
          z = fabsf(p.z) - half.z + round;
    float out = len(v(fmaxf(x, 0), fmaxf(y, 0), fmaxf(z, 0)));
    return out + fminf(fmaxf(x, fmaxf(y, z)), 0) - round;
}
static float capsule(struct v3 p, struct v3 a, struct v3 b, float ra, float rb)
{
    struct v3 ap = sub(p, a), ab = sub(b, a);
    float t = clampf(dot(ap, ab) / dot(ab, ab), 0, 1);
    return len(sub(ap, mul(ab, t))) - mixf(ra, rb, t);
}
static struct v3 turn(struct v3 p, float angle)
{
    float c = cosf(angle), s = sinf(angle);
    return v(c * p.x + s * p.y, -s * p.x + c * p.y, p.z);
}
/* A cylinder standing on z = 0. */
static float disc(struct v3 p, float radius, float height, float round)
{
    float d = hypotf(p.x, p.y) - radius + round, h = fabsf(p.z - height / 2) - height / 2 + round;
    return hypotf(fmaxf(d, 0), fmaxf(h, 0)) + fminf(fmaxf(d, h), 0) - round;
}
/* Half a shell, open above; centre of the sphere at z = radius · 0.92. */
static float bowl(struct v3 p, float radius, float wall)
{
    struct v3 q = sub(p, v(0, 0, radius * 0.92F));
    float ring = hypotf(q.x, q.y);
    float rim = radius * 0.02F;
    float shell = fabsf(len(q) - radius) - wall;
    float cut = q.z - rim;
    float body = fmaxf(shell, cut);
    float lip = hypotf(ring - radius, q.z - rim) - wall * 1.25F;
    float base = disc(p, radius * 0.46F, 0.006F, 0.002F); /* the sphere dips below the table */
    return fminf(fminf(body, lip), base);
}

/* ---------------------------------------------------------------- the scene */

struct gripper {
    struct v3 at, side, up, ahead; /* wrist and its axes; the fingers point ahead */
    struct v3 elbow, base;
    float open;
};
static struct gripper left, right;

static struct gripper make_gripper(struct v3 at, struct v3 target, float roll, struct v3 elbow,
                                   struct v3 base, float open)
{
    struct gripper g = { .at = at, .elbow = elbow, .base = base, .open = open };
    g.ahead = unit(sub(target, at));
    struct v3 side = unit(cross(g.ahead, v(0, 0, 1)));
    struct v3 up = cross(side, g.ahead);
    g.side = add(mul(side, cosf(roll)), mul(up, sinf(roll)));
    g.up = cross(g.side, g.ahead);
    return g;
}

enum material { TABLE = 1, FLOOR, RED, BLUE, GREEN, YELLOW, BOWL, ARM, METAL, PAD, MAT, PLATE };
struct hit {
    float d;
    enum material m;
};
static void take(struct hit *h, float d, enum material m)
{
    if (d < h->d)
        *h = (struct hit){ d, m };
}

static void arm(struct hit *h, struct v3 p, const struct gripper *g)
{
    struct v3 r = sub(p, g->at), q = v(dot(r, g->side), dot(r, g->up), dot(r, g->ahead));
    if (len(r) < 0.35F) {
        take(h, box(sub(q, v(0, 0, 0.005F)), v(0.042F, 0.021F, 0.022F), 0.008F), ARM);
        take(h, box(sub(q, v(0, 0, 0.032F)), v(0.052F, 0.013F, 0.008F), 0.003F), METAL);
        for (int s = -1; s <= 1; s += 2) {
            struct v3 f = sub(q, v((float)s * g->open, 0, 0.078F));
            f.x += (float)s * 0.10F * (f.z - 0.01F); /* the fingers lean towards each other */
            take(h, box(f, v(0.0065F, 0.012F, 0.045F), 0.004F), ARM);
            take(h,
                 box(sub(f, v((float)-s * 0.0065F, 0, 0.024F)), v(0.003F, 0.010F, 0.019F), 0.002F),
                 PAD);
        }
        /* camera bracket above the wrist */
        take(h, box(sub(q, v(0, 0.035F, -0.012F)), v(0.022F, 0.008F, 0.010F), 0.004F), METAL);
    }
    struct v3 back = sub(g->at, mul(g->ahead, 0.06F));
    take(h, capsule(p, sub(g->at, mul(g->ahead, 0.015F)), back, 0.021F, 0.024F), METAL);
    take(h, capsule(p, back, g->elbow, 0.026F, 0.030F), ARM);
    take(h, len(sub(p, back)) - 0.031F, METAL);
    take(h, len(sub(p, g->elbow)) - 0.040F, METAL);
    take(h, capsule(p, g->elbow, g->base, 0.032F, 0.042F), ARM);
    take(h, disc(sub(p, v(g->base.x, g->base.y, 0)), 0.070F, 0.060F, 0.012F), METAL);
}

static struct hit scene(struct v3 p)
{
    struct hit h = { 1e9F, FLOOR };
    take(&h, p.z + 0.74F, FLOOR);
    take(&h, box(sub(p, v(0, 0.10F, -0.02F)), v(0.62F, 0.42F, 0.02F), 0.008F), TABLE);
    if (p.z < 0.4F) {
        take(&h, box(sub(p, v(0.02F, 0.10F, 0.001F)), v(0.30F, 0.215F, 0.002F), 0.001F), MAT);
        struct v3 half = v(0.025F, 0.025F, 0.025F);
        take(&h, box(turn(sub(p, v(-0.095F, 0.055F, 0.0275F)), 0.42F), half, 0.003F), RED);
        take(&h, box(turn(sub(p, v(0.045F, 0.005F, 0.0275F)), -0.25F), half, 0.003F), BLUE);
        take(
            &h,
            box(turn(sub(p, v(0.048F, 0.008F, 0.0725F)), 0.35F), v(0.020F, 0.020F, 0.020F), 0.003F),
            YELLOW);
        take(&h, box(turn(sub(p, v(-0.03F, 0.20F, 0.0275F)), 0.9F), half, 0.003F), GREEN);
        take(&h, bowl(sub(p, v(0.165F, 0.170F, 0.002F)), 0.066F, 0.0028F), BOWL);
        take(&h, disc(sub(p, v(-0.20F, 0.215F, 0.002F)), 0.035F, 0.095F, 0.004F), PLATE);
    }
    arm(&h, p, &left);
    arm(&h, p, &right);
    return h;
}

/* ---------------------------------------------------------------- light and colour */

static float hash(int x, int y)
{
    unsigned n = (unsigned)x * 374761393U + (unsigned)y * 668265263U;
    n = (n ^ (n >> 13)) * 1274126177U;
    return (float)((n ^ (n >> 16)) & 0xFFFFFF) / 16777216.0F;
}
static float noise(float x, float y)
{
    int xi = (int)floorf(x), yi = (int)floorf(y);
    float fx = x - (float)xi, fy = y - (float)yi;
    fx = fx * fx * (3 - 2 * fx);
    fy = fy * fy * (3 - 2 * fy);
    return mixf(mixf(hash(xi, yi), hash(xi + 1, yi), fx),
                mixf(hash(xi, yi + 1), hash(xi + 1, yi + 1), fx), fy);
}

static struct v3 wood(struct v3 p)
{
    int plank = (int)floorf((p.y + 5) / 0.14F);
    float shift = hash(plank, 7) * 9;
    float bend = noise(p.x * 2.2F + shift, p.y * 9) * 0.9F;
    float ring = sinf((p.y * 55 + bend * 6 + shift) * 2.0F) * 0.5F + 0.5F;
    float fine = noise(p.x * 14 + shift, p.y * 330);
    float t = 0.50F * ring + 0.28F * fine + 0.25F * hash(plank, 3);
    struct v3 c = v(mixf(0.50F, 0.34F, t), mixf(0.32F, 0.19F, t), mixf(0.17F, 0.085F, t));
    float seam = fabsf((p.y + 5) / 0.14F - (float)plank - 0.5F);
    return seam > 0.49F ? mul(c, 0.55F) : c;
}

static struct v3 albedo(enum material m, struct v3 p, float *gloss)
{
    *gloss = 0.25F;
    switch (m) {
    case TABLE: *gloss = 0.12F; return wood(p);
    case FLOOR: *gloss = 0; return v(0.26F, 0.27F, 0.29F);
    case RED: return v(0.68F, 0.055F, 0.045F);
    case BLUE: return v(0.04F, 0.16F, 0.62F);
    case GREEN: return v(0.06F, 0.42F, 0.11F);
    case YELLOW: return v(0.85F, 0.56F, 0.04F);
    case BOWL: *gloss = 0.5F; return v(0.80F, 0.79F, 0.74F);
    case ARM: *gloss = 0.35F; return v(0.045F, 0.047F, 0.052F);
    case METAL: *gloss = 0.6F; return v(0.19F, 0.195F, 0.21F);
    case PAD: *gloss = 0.05F; return v(0.75F, 0.30F, 0.05F);
    case PLATE: *gloss = 0.5F; return p.z > 0.09F ? v(0.04F, 0.16F, 0.17F) : v(0.10F, 0.40F, 0.42F);
    case MAT: {
        *gloss = 0.03F;
        float gx = fabsf(p.x / 0.05F - roundf(p.x / 0.05F)),
              gy = fabsf(p.y / 0.05F - roundf(p.y / 0.05F));
        return gx < 0.018F || gy < 0.018F ? v(0.50F, 0.56F, 0.53F) : v(0.115F, 0.235F, 0.205F);
    }
    }
    return v(1, 0, 1);
}

static struct v3 normal_at(struct v3 p)
{
    const float e = 0.0004F;
    float d = scene(p).d;
    return unit(v(scene(add(p, v(e, 0, 0))).d - d, scene(add(p, v(0, e, 0))).d - d,
                  scene(add(p, v(0, 0, e))).d - d));
}

static float march(struct v3 from, struct v3 dir, float far, enum material *m)
{
    float t = 0.002F;
    for (int i = 0; i < 220 && t < far; i++) {
        struct hit h = scene(add(from, mul(dir, t)));
        if (h.d < 0.00025F * (1 + t)) {
            *m = h.m;
            return t;
        }
        t += h.d * 0.9F;
    }
    return -1;
}

/* Penumbra from the nearest miss on the way to the lamp (I. Quilez, soft shadows in raymarching). */
static float shadow(struct v3 p, struct v3 dir, float far)
{
    float lit = 1, t = 0.004F;
    for (int i = 0; i < 90 && t < far; i++) {
        float d = scene(add(p, mul(dir, t))).d;
        lit = fminf(lit, 0.5F + 0.5F * d / (0.055F * t));
        if (lit <= 0)
            return 0;
        t += clampf(d, 0.004F, 0.06F);
    }
    lit = clampf(lit, 0, 1);
    return lit * lit * (3 - 2 * lit);
}

static float occlusion(struct v3 p, struct v3 n)
{
    float sum = 0, weight = 1;
    for (int i = 1; i <= 5; i++) {
        float d = 0.012F * (float)i;
        sum += weight * (d - scene(add(p, mul(n, d))).d);
        weight *= 0.75F;
    }
    return clampf(1 - 7.5F * sum, 0.15F, 1);
}

static struct v3 sky(struct v3 d)
{
    float t = clampf(0.5F + 0.5F * d.z, 0, 1);
    struct v3 c = v(mixf(0.30F, 0.72F, t), mixf(0.31F, 0.76F, t), mixf(0.33F, 0.82F, t));
    float window = clampf((d.y * 0.6F + d.z * 0.8F - 0.90F) * 18, 0, 1);
    return add(c, mul(v(1.3F, 1.25F, 1.15F), window));
}

static struct v3 shade(struct v3 from, struct v3 dir, int bounces)
{
    enum material m;
    float t = march(from, dir, 6, &m), gloss;
    if (t < 0)
        return mul(sky(dir), 0.55F);
    struct v3 p = add(from, mul(dir, t)), n = normal_at(p);
    struct v3 base = albedo(m, p, &gloss), lamp = v(-0.55F, -0.35F, 1.25F);
    struct v3 to = sub(lamp, p), l = unit(to), off = add(p, mul(n, 0.001F));
    float facing = fmaxf(dot(n, l), 0);
    float lit = facing > 0 ? facing * shadow(off, l, len(to)) : 0;
    float open = occlusion(p, n);
    struct v3 light = add(mul(v(2.05F, 1.93F, 1.74F), lit / (0.35F + 0.45F * dot(to, to))),
                          mul(v(0.40F, 0.45F, 0.52F), open * (0.6F + 0.4F * n.z)));
    light =
        add(light, mul(v(0.16F, 0.12F, 0.08F), open * (0.5F - 0.5F * n.z))); /* from the table */
    struct v3 c = tint(base, light);
    struct v3 half = unit(sub(l, dir));
    c = add(c, mul(v(1, 0.97F, 0.92F), gloss * lit * powf(fmaxf(dot(n, half), 0), 60)));
    float fresnel = gloss * (0.06F + 0.5F * powf(1 - fmaxf(-dot(n, dir), 0), 5));
    struct v3 mirror = sub(dir, mul(n, 2 * dot(n, dir)));
    if (bounces > 0 && fresnel > 0.01F)
        return add(mul(c, 1 - fresnel), mul(shade(off, mirror, bounces - 1), fresnel));
    return add(mul(c, 1 - fresnel), mul(sky(mirror), fresnel * 0.5F * open));
}

/* ---------------------------------------------------------------- cameras and files */

struct camera {
    struct v3 at, look, up;
    float field; /* half the vertical angle's tangent */
};

static void render(unsigned char *rgb, int width, int height, struct camera cam)
{
    struct v3 d = unit(sub(cam.look, cam.at)), r = unit(cross(d, cam.up)), u = cross(r, d);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            struct v3 sum = v(0, 0, 0);
            for (int s = 0; s < 9; s++) { /* 3 × 3 rays a pixel */
                float px =
                    ((float)x + ((float)(s % 3) + 0.5F) / 3 - (float)width / 2) / (float)height * 2;
                float py = 1 - ((float)y + ((float)(s / 3) + 0.5F) / 3) / (float)height * 2;
                struct v3 ray = unit(add(d, add(mul(r, px * cam.field), mul(u, py * cam.field))));
                struct v3 c = shade(cam.at, ray, 1);
                sum = add(sum, v(fminf(c.x, 1.4F), fminf(c.y, 1.4F), fminf(c.z, 1.4F)));
            }
            float edge = hypotf((float)x / (float)width - 0.5F, (float)y / (float)height - 0.5F);
            sum = mul(sum, (1 - 0.35F * edge * edge) / 9);
            const float part[3] = { sum.x, sum.y, sum.z };
            for (int k = 0; k < 3; k++) {
                float f = part[k] * 0.92F;
                f = f * (2.51F * f + 0.03F) /
                    (f * (2.43F * f + 0.59F) + 0.14F); /* ACES fit, Narkowicz 2015 */
                rgb[(y * width + x) * 3 + k] =
                    (unsigned char)(powf(clampf(f, 0, 1), 1 / 2.2F) * 255 + 0.5F);
            }
        }
}

static void write_jpeg(const char *path, const unsigned char *rgb, int width, int height,
                       int quality)
{
    FILE *f = fopen(path, "wb");
    if (!f) {
        perror(path);
        exit(1);
    }
    struct jpeg_compress_struct c;
    struct jpeg_error_mgr e;
    c.err = jpeg_std_error(&e);
    jpeg_create_compress(&c);
    jpeg_stdio_dest(&c, f);
    c.image_width = (JDIMENSION)width;
    c.image_height = (JDIMENSION)height;
    c.input_components = 3;
    c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, quality, TRUE);
    c.optimize_coding = TRUE;
    jpeg_start_compress(&c, TRUE);
    unsigned char *line = malloc((size_t)width * 3);
    for (int y = 0; line && y < height; y++) {
        memcpy(line, rgb + (size_t)y * (size_t)width * 3, (size_t)width * 3);
        jpeg_write_scanlines(&c, &line, 1);
    }
    free(line);
    jpeg_finish_compress(&c);
    jpeg_destroy_compress(&c);
    fclose(f);
}

static void write_png(const char *path, const unsigned char *rgb, int width, int height)
{
    png_image image = { .version = PNG_IMAGE_VERSION,
                        .width = (png_uint_32)width,
                        .height = (png_uint_32)height,
                        .format = PNG_FORMAT_RGB };
    if (!png_image_write_to_file(&image, path, 0, rgb, 0, NULL)) {
        fprintf(stderr, "%s: %s\n", path, image.message);
        exit(1);
    }
}

/* Just above and behind the fingers, looking where they point. */
static struct camera wrist(const struct gripper *g)
{
    struct camera c = { .up = g->up, .field = 0.62F };
    c.at = add(g->at, add(mul(g->up, 0.062F), mul(g->ahead, -0.012F)));
    c.look = add(add(g->at, mul(g->ahead, 0.20F)), mul(g->up, 0.012F));
    return c;
}

int main(int argc, char **argv)
{
    const char *dir = argc > 1 ? argv[1] : "assets";
    char path[1024];
    static unsigned char rgb[640 * 480 * 3];
    left = make_gripper(v(-0.215F, 0.010F, 0.185F), v(-0.095F, 0.055F, 0.02F), 0.2F,
                        v(-0.40F, 0.06F, 0.34F), v(-0.50F, 0.12F, 0.05F), 0.041F);
    right = make_gripper(v(0.255F, 0.045F, 0.205F), v(0.150F, 0.130F, 0.03F), -0.25F,
                         v(0.42F, 0.06F, 0.35F), v(0.50F, 0.12F, 0.05F), 0.033F);
    struct camera high = { v(0.0F, -0.62F, 0.78F), v(0.0F, 0.085F, 0.03F), v(0, 0, 1), 0.46F };
    render(rgb, 640, 480, high);
    snprintf(path, sizeof path, "%s/cam_high.jpg", dir);
    write_jpeg(path, rgb, 640, 480, 88);
    render(rgb, 640, 480, wrist(&left));
    snprintf(path, sizeof path, "%s/cam_left_wrist.jpg", dir);
    write_jpeg(path, rgb, 640, 480, 88);
    render(rgb, 424, 240, wrist(&right));
    snprintf(path, sizeof path, "%s/cam_right_wrist.png", dir);
    write_png(path, rgb, 424, 240);
    return 0;
}
