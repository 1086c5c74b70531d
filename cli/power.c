/* SPDX-License-Identifier: Apache-2.0
 * power: what power.h promises. One thread samples; a window adds up what lies between its ends, the
 * energy by the difference of a counter where there is one, else by the mean of the samples. */
#include "power.h"

#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_SAMPLES 32768
#define MAX_PACKAGES 16
#define PERIOD_GPU_MS 25.0
#define PERIOD_CPU_MS 100.0

struct sample {
    double t_ms, watts, clock, memory_clock, temperature; /* NaN: not read */
    uint64_t throttle;
};

/* nvml.h's nvmlFieldValue_t and the constants used of it; its ABI is kept by the driver. */
struct nvml_field {
    unsigned field, scope;
    long long timestamp, latency_us;
    int type, status;
    union {
        double d;
        unsigned u;
        unsigned long long ull;
    } value;
};
#define NVML_POWER_INSTANT 186 /* NVML_FI_DEV_POWER_INSTANT, mW */
#define NVML_CLOCK_SM 1
#define NVML_CLOCK_MEMORY 2

struct nvml_memory {
    unsigned long long total, free, used;
};

struct nvml {
    void *lib, *device;
    int (*init)(void);
    int (*shutdown)(void);
    int (*by_index)(unsigned, void **);
    int (*by_uuid)(const char *, void **);
    int (*name)(void *, char *, unsigned);
    int (*driver)(char *, unsigned);
    int (*energy)(void *, unsigned long long *);
    int (*watts)(void *, unsigned *);
    int (*fields)(void *, int, struct nvml_field *);
    int (*clock)(void *, int, unsigned *);
    int (*max_clock)(void *, int, unsigned *);
    int (*temperature)(void *, int, unsigned *);
    int (*reasons)(void *, unsigned long long *);
    int (*limit)(void *, unsigned *);
    int (*memory)(void *, struct nvml_memory *);
    bool has_energy, has_power, has_instant;
};

struct package {
    char energy[300];
    double range_j, last_j, sum_j;
};

struct power {
    bool gpu;
    struct nvml nv;
    struct package packages[MAX_PACKAGES];
    int n_packages;
    char temperature[300]; /* hwmon file of the processor */
    const char *source;
    char reason[256];
    pthread_t thread;
    pthread_mutex_t lock;
    bool has_thread, has_lock;
    atomic_bool stop;
    struct sample *samples;
    size_t n;
};

static const struct {
    uint64_t bit;
    const char *name;
} throttle_names[] = {

    { 0x2, "application clocks" }, { 0x4, "power cap" },          { 0x8, "hardware" },
    { 0x10, "sync boost" },        { 0x20, "thermal, software" }, { 0x40, "thermal, hardware" },
    { 0x80, "power brake" },       { 0x100, "display clocks" },
};

/* ---------------------------------------------------------------- NVML */

/* ISO C has no cast from an object pointer to a function pointer; POSIX does it through memory. */
static bool symbol(void *lib, const char *name, void *function)
{
    void *p = dlsym(lib, name);
    memcpy(function, &p, sizeof p);
    return p != NULL;
}

static bool nvml_load(struct nvml *v)
{
    v->lib = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!v->lib)
        return false;
    symbol(v->lib, "nvmlDeviceGetTotalEnergyConsumption", &v->energy);
    symbol(v->lib, "nvmlDeviceGetFieldValues", &v->fields);
    symbol(v->lib, "nvmlDeviceGetMaxClockInfo", &v->max_clock);
    symbol(v->lib, "nvmlDeviceGetEnforcedPowerLimit", &v->limit);
    symbol(v->lib, "nvmlDeviceGetMemoryInfo", &v->memory);
    symbol(v->lib, "nvmlSystemGetDriverVersion", &v->driver);
    symbol(v->lib, "nvmlDeviceGetPowerUsage", &v->watts);
    if (!symbol(v->lib, "nvmlDeviceGetCurrentClocksEventReasons", &v->reasons))
        symbol(v->lib, "nvmlDeviceGetCurrentClocksThrottleReasons", &v->reasons);
    return symbol(v->lib, "nvmlInit_v2", &v->init) &&
           symbol(v->lib, "nvmlShutdown", &v->shutdown) &&
           symbol(v->lib, "nvmlDeviceGetHandleByIndex_v2", &v->by_index) &&
           symbol(v->lib, "nvmlDeviceGetHandleByUUID", &v->by_uuid) &&
           symbol(v->lib, "nvmlDeviceGetName", &v->name) &&
           symbol(v->lib, "nvmlDeviceGetClockInfo", &v->clock) &&
           symbol(v->lib, "nvmlDeviceGetTemperature", &v->temperature);
}

/* NVML's device for CUDA's ordinal: CUDA_VISIBLE_DEVICES renumbers CUDA's, not NVML's. */
static int nvml_find(const struct nvml *v, int device, void **out)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    char item[96];
    long index = device;
    for (int i = 0; visible && *visible && i < device; i++) {
        const char *comma = strchr(visible, ',');
        visible = comma ? comma + 1 : "";
    }
    if (visible && *visible) {
        snprintf(item, sizeof item, "%.*s", (int)strcspn(visible, ","), visible);
        if (!parse_int(item, 0, 255, &index))
            return v->by_uuid(item, out);
    }
    return v->by_index((unsigned)index, out);
}

static double nvml_watts(const struct nvml *v)
{
    unsigned mw = 0;
    if (v->has_instant) {
        struct nvml_field f = { .field = NVML_POWER_INSTANT };
        if (v->fields(v->device, 1, &f) == 0 && f.status == 0)
            return f.value.u / 1e3;
    }
    return v->has_power && v->watts(v->device, &mw) == 0 ? mw / 1e3 : (double)NAN;
}

static void open_nvml(struct power *p, int device, const char *device_name)
{
    struct nvml *v = &p->nv;
    char name[96] = "";
    unsigned long long mj;
    unsigned mw;
    if (!nvml_load(v)) {
        snprintf(p->reason, sizeof p->reason, "libnvidia-ml.so.1 is not there or lacks functions");
    } else if (v->init()) {
        snprintf(p->reason, sizeof p->reason, "NVML does not start");
    } else if (nvml_find(v, device, &v->device) || v->name(v->device, name, sizeof name)) {
        v->device = NULL;
        snprintf(p->reason, sizeof p->reason, "NVML does not know GPU %d", device);
    } else if (strcmp(name, device_name) != 0) {
        v->device = NULL;
        snprintf(p->reason, sizeof p->reason, "NVML's GPU %d is %.60s, the engine runs on %.60s",
                 device, name, device_name);
    } else {
        struct nvml_field f = { .field = NVML_POWER_INSTANT };
        v->has_energy = v->energy && v->energy(v->device, &mj) == 0;
        v->has_power = v->watts && v->watts(v->device, &mw) == 0;
        v->has_instant = v->fields && v->fields(v->device, 1, &f) == 0 && f.status == 0;
        p->source = v->has_energy                    ? "NVML energy counter"
                    : v->has_power || v->has_instant ? "NVML power samples"
                                                     : NULL;
        if (!p->source)
            snprintf(p->reason, sizeof p->reason, "NVML gives no power for this GPU");
    }
}

static void sample_nvml(const struct power *p, struct sample *s)
{
    const struct nvml *v = &p->nv;
    unsigned u;
    unsigned long long bits = 0;
    if (!v->device)
        return;
    s->watts = nvml_watts(v);
    if (v->clock(v->device, NVML_CLOCK_SM, &u) == 0)
        s->clock = u;
    if (v->clock(v->device, NVML_CLOCK_MEMORY, &u) == 0)
        s->memory_clock = u;
    if (v->temperature(v->device, 0, &u) == 0)
        s->temperature = u;
    if (v->reasons && v->reasons(v->device, &bits) == 0)
        s->throttle = bits;
}

/* ---------------------------------------------------------------- the processor */

static bool read_number(const char *path, double *out)
{
    FILE *f = fopen(path, "r");
    char line[64];
    bool ok = f && fgets(line, sizeof line, f);
    if (f)
        fclose(f);
    if (!ok)
        return false;
    line[strcspn(line, "\n")] = '\0';
    return parse_double(line, out);
}

static void open_rapl(struct power *p)
{
    int seen = 0;
    for (int i = 0; i < MAX_PACKAGES; i++) {
        struct package *k = &p->packages[p->n_packages];
        char range[300];
        double uj = 0, max_uj = 0;
        snprintf(k->energy, sizeof k->energy, "/sys/class/powercap/intel-rapl:%d/energy_uj", i);
        snprintf(range, sizeof range, "/sys/class/powercap/intel-rapl:%d/max_energy_range_uj", i);
        seen += read_number(range, &max_uj);
        if (!read_number(k->energy, &uj))
            continue;
        k->range_j = max_uj / 1e6;
        k->last_j = uj / 1e6;
        p->n_packages++;
    }
    if (p->n_packages)
        p->source = "RAPL package energy counters";
    else
        snprintf(p->reason, sizeof p->reason,
                 seen ? "RAPL counters are there, and may not be read by this user"
                      : "this machine shows no RAPL counters");
}

static void find_temperature(struct power *p)
{
    for (int i = 0; i < 16; i++) {
        char path[300], name[64] = "";
        snprintf(path, sizeof path, "/sys/class/hwmon/hwmon%d/name", i);
        FILE *f = fopen(path, "r");
        if (!f)
            continue;
        if (!fgets(name, sizeof name, f))
            name[0] = '\0';
        fclose(f);
        if (strncmp(name, "k10temp", 7) != 0 && strncmp(name, "coretemp", 8) != 0)
            continue;
        snprintf(p->temperature, sizeof p->temperature, "/sys/class/hwmon/hwmon%d/temp1_input", i);
        return;
    }
}

/* Mean of the clocks that the kernel reports, MHz; NaN where it reports none. */
static double cpu_clock(void)
{
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[512];
    double sum = 0, mhz;
    int n = 0;
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "cpu MHz", 7) != 0 || !colon)
            continue;
        line[strcspn(line, "\n")] = '\0';
        if (parse_double(colon + 2, &mhz)) {
            sum += mhz;
            n++;
        }
    }
    if (f)
        fclose(f);
    return n ? sum / n : (double)NAN;
}

static long cpu_throttled(void)
{
    double n;
    return read_number("/sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count", &n)
               ? (long)n
               : -1;
}

/* Joules since open, over all packages; the counters wrap. Called under the lock. */
static double rapl_energy(struct power *p)
{
    double sum = 0;
    for (int i = 0; i < p->n_packages; i++) {
        struct package *k = &p->packages[i];
        double uj;
        if (read_number(k->energy, &uj)) {
            double step = uj / 1e6 - k->last_j;
            k->sum_j += step < 0 ? step + k->range_j : step;
            k->last_j = uj / 1e6;
        }
        sum += k->sum_j;
    }
    return sum;
}

/* ---------------------------------------------------------------- sampling */

/* A counter's joules; NaN without one. Called under the lock. */
static double energy_now(struct power *p)
{
    unsigned long long mj;
    if (p->gpu)
        return p->nv.has_energy && p->nv.energy(p->nv.device, &mj) == 0 ? (double)mj / 1e3
                                                                        : (double)NAN;
    return p->n_packages ? rapl_energy(p) : (double)NAN;
}

static void sample_cpu(struct power *p, struct sample *s, double *last_j, double *last_ms)
{
    double milli, joules = energy_now(p);
    s->clock = cpu_clock();
    if (p->temperature[0] && read_number(p->temperature, &milli))
        s->temperature = milli / 1e3;
    if (*last_ms > 0 && s->t_ms > *last_ms)
        s->watts = (joules - *last_j) / (s->t_ms - *last_ms) * 1e3;
    *last_j = joules;
    *last_ms = s->t_ms;
}

static void *sample_loop(void *arg)
{
    struct power *p = arg;
    double period = p->gpu ? PERIOD_GPU_MS : PERIOD_CPU_MS, last_j = NAN, last_ms = 0;
    while (!atomic_load(&p->stop)) {
        struct sample s = {
            .t_ms = now_ms(), .watts = NAN, .clock = NAN, .memory_clock = NAN, .temperature = NAN
        };
        if (p->gpu)
            sample_nvml(p, &s);
        pthread_mutex_lock(&p->lock);
        if (!p->gpu)
            sample_cpu(p, &s, &last_j, &last_ms);
        if (p->n < MAX_SAMPLES)
            p->samples[p->n++] = s;
        pthread_mutex_unlock(&p->lock);
        struct timespec pause = { .tv_nsec = (long)(period * 1e6) };
        nanosleep(&pause, NULL);
    }
    return NULL;
}

struct power *power_open(bool gpu, int device, const char *device_name)
{
    struct power *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->gpu = gpu;
    p->samples = malloc(MAX_SAMPLES * sizeof *p->samples);
    p->has_lock = pthread_mutex_init(&p->lock, NULL) == 0;
    if (!p->samples || !p->has_lock) {
        power_close(p);
        return NULL;
    }
    if (gpu) {
        open_nvml(p, device, device_name);
    } else {
        open_rapl(p);
        find_temperature(p);
    }
    p->has_thread = pthread_create(&p->thread, NULL, sample_loop, p) == 0;
    return p;
}

void power_close(struct power *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    if (p->has_thread)
        pthread_join(p->thread, NULL);
    if (p->nv.lib && p->nv.shutdown)
        (void)p->nv.shutdown();
    if (p->nv.lib)
        dlclose(p->nv.lib);
    if (p->has_lock)
        pthread_mutex_destroy(&p->lock);
    free(p->samples);
    free(p);
}

const char *power_source(const struct power *p) { return p->source; }
const char *power_reason(const struct power *p) { return p->reason; }

const char *power_conditions_source(const struct power *p)
{
    return p->gpu ? (p->nv.device ? "NVML" : "") : "/proc/cpuinfo and hwmon";
}

double power_memory_used(const struct power *p)
{
    struct nvml_memory m;
    return p->nv.device && p->nv.memory && p->nv.memory(p->nv.device, &m) == 0 ? (double)m.used : 0;
}

json_t *power_facts(const struct power *p)
{
    const struct nvml *v = &p->nv;
    json_t *o = json_object();
    char text[96];
    unsigned u;
    if (!v->device)
        return o;
    if (v->driver && v->driver(text, sizeof text) == 0)
        json_object_set_new(o, "driver", json_string(text));
    if (v->limit && v->limit(v->device, &u) == 0)
        json_object_set_new(o, "power_limit_w", json_number(u / 1e3, 6));
    if (v->max_clock && v->max_clock(v->device, NVML_CLOCK_SM, &u) == 0)
        json_object_set_new(o, "max_clock_mhz", json_integer(u));
    if (v->max_clock && v->max_clock(v->device, NVML_CLOCK_MEMORY, &u) == 0)
        json_object_set_new(o, "max_memory_clock_mhz", json_integer(u));
    return o;
}

/* ---------------------------------------------------------------- windows */

void power_begin(struct power *p, struct power_window *w)
{
    pthread_mutex_lock(&p->lock);
    w->start_ms = now_ms();
    w->energy_j = energy_now(p);
    w->sample = p->n;
    w->throttled = p->gpu ? 0 : cpu_throttled();
    pthread_mutex_unlock(&p->lock);
}

struct mean {
    double sum, lo, hi;
    int n;
};

static void mean_add(struct mean *m, double v)
{
    if (!isfinite(v))
        return;
    m->lo = m->n && m->lo < v ? m->lo : v;
    m->hi = m->n && m->hi > v ? m->hi : v;
    m->sum += v;
    m->n++;
}
static double mean_of(const struct mean *m) { return m->n ? m->sum / m->n : (double)NAN; }

void power_end(struct power *p, const struct power_window *w, struct power_reading *out)
{
    struct mean watts = { 0 }, clock = { 0 }, memory = { 0 }, temperature = { 0 };
    *out = (struct power_reading){ 0 };
    pthread_mutex_lock(&p->lock);
    double energy = energy_now(p);
    out->seconds = (now_ms() - w->start_ms) / 1e3;
    for (size_t i = w->sample; i < p->n; i++) {
        const struct sample *s = &p->samples[i];
        mean_add(&watts, s->watts);
        mean_add(&clock, s->clock);
        mean_add(&memory, s->memory_clock);
        mean_add(&temperature, s->temperature);
        out->throttle |= s->throttle;
        out->n_samples++;
    }
    if (!p->gpu && cpu_throttled() > w->throttled)
        out->throttle |= 0x40;
    pthread_mutex_unlock(&p->lock);
    out->mean_w = mean_of(&watts);
    out->energy_j = energy - w->energy_j;
    if (isfinite(out->energy_j) && out->seconds > 0)
        out->mean_w = out->energy_j / out->seconds;
    else
        out->energy_j = out->mean_w * out->seconds;
    out->clock_min = clock.n ? clock.lo : (double)NAN;
    out->clock_max = clock.n ? clock.hi : (double)NAN;
    out->clock_mean = mean_of(&clock);
    out->memory_clock = mean_of(&memory);
    out->temperature_min = temperature.n ? temperature.lo : (double)NAN;
    out->temperature_max = temperature.n ? temperature.hi : (double)NAN;
}

json_t *power_conditions(const struct power *p, const struct power_reading *r)
{
    json_t *o = json_object(), *clock = json_object(), *reasons = json_array();
    json_object_set_new(clock, "min", json_number(r->clock_min, 5));
    json_object_set_new(clock, "mean", json_number(r->clock_mean, 5));
    json_object_set_new(clock, "max", json_number(r->clock_max, 5));
    for (size_t i = 0; i < sizeof throttle_names / sizeof throttle_names[0]; i++)
        if (r->throttle & throttle_names[i].bit)
            json_array_append_new(reasons, json_string(throttle_names[i].name));
    json_object_set_new(o, "source", json_string(power_conditions_source(p)));
    json_object_set_new(o, "samples", json_integer(r->n_samples));
    json_object_set_new(o, "clock_mhz", clock);
    json_object_set_new(o, "memory_clock_mhz", json_number(r->memory_clock, 5));
    json_object_set_new(o, "temperature_min_c", json_number(r->temperature_min, 4));
    json_object_set_new(o, "temperature_max_c", json_number(r->temperature_max, 4));
    json_object_set_new(o, "throttle", reasons);
    return o;
}

json_t *power_series(struct power *p, double from_ms, int most)
{
    json_t *o = json_object(), *t = json_array(), *w = json_array();
    pthread_mutex_lock(&p->lock);
    size_t first = 0;
    while (first < p->n && p->samples[first].t_ms < from_ms)
        first++;
    size_t n = p->n - first, points = n < (size_t)most ? n : (size_t)most;
    for (size_t i = 0; i < points; i++) { /* means of runs of samples */
        struct mean m = { 0 }, at = { 0 };
        for (size_t k = first + i * n / points; k < first + (i + 1) * n / points; k++) {
            mean_add(&m, p->samples[k].watts);
            mean_add(&at, (p->samples[k].t_ms - from_ms) / 1e3);
        }
        if (m.n == 0)
            continue;
        json_array_append_new(t, json_number(mean_of(&at), 6));
        json_array_append_new(w, json_number(mean_of(&m), 5));
    }
    pthread_mutex_unlock(&p->lock);
    json_object_set_new(o, "t_s", t);
    json_object_set_new(o, "w", w);
    return o;
}
