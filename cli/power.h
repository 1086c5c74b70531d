/* SPDX-License-Identifier: Apache-2.0
 * power: energy, clocks, temperature and throttling of the device that is measured, read beside the
 * calls by a thread of its own. GPU: NVML, loaded at run time, so that nothing is linked for it. CPU:
 * the RAPL package counters and what /proc and /sys tell. What cannot be read is absent, with the
 * reason; nothing is set or limited here. */
#ifndef PI0_CLI_POWER_H
#define PI0_CLI_POWER_H

#include "cli.h"

struct power;

/* Starts reading. `device_name` is the engine's: an NVML device of another name is not used. NULL
 * only without memory. */
struct power *power_open(bool gpu, int device, const char *device_name);
void power_close(struct power *p);

/* "NVML energy counter", "NVML power samples", "RAPL package energy counters", or NULL: no energy. */
const char *power_source(const struct power *p);
/* Why there is no energy, or "" */
const char *power_reason(const struct power *p);
/* Where clocks, temperature and throttling come from; "" for nowhere. */
const char *power_conditions_source(const struct power *p);
/* Driver, power limit, highest clocks: an object, {} where unknown. */
json_t *power_facts(const struct power *p);
/* Bytes in use on the device as the driver counts them, 0 where unknown. */
double power_memory_used(const struct power *p);

struct power_window {
    double start_ms, energy_j;
    size_t sample;
    long throttled;
};
/* What was read from power_begin to power_end. Quantities that could not be read are NaN. */
struct power_reading {
    double seconds, energy_j, mean_w;
    double clock_min, clock_mean, clock_max; /* MHz */
    double memory_clock;                     /* MHz, mean */
    double temperature_min, temperature_max; /* °C */
    uint64_t throttle;                       /* bits of NVML's clock event reasons */
    int n_samples;
};
void power_begin(struct power *p, struct power_window *w);
void power_end(struct power *p, const struct power_window *w, struct power_reading *out);
/* {"clock_mhz": {min, mean, max}, "temperature_c": …, "throttle": ["power cap", …] …} */
json_t *power_conditions(const struct power *p, const struct power_reading *r);
/* Watts over time since `from_ms`, at most `most` points: {"t_s": […], "w": […]}. */
json_t *power_series(struct power *p, double from_ms, int most);

#endif
