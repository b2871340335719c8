/* SPDX-License-Identifier: MIT */
#ifndef DLI_WINDOW_H
#define DLI_WINDOW_H

#include <stdatomic.h>
#include <stdint.h>

/*
 * Rates over the last second of counters that only rise; over a longer time where samples are rare.
 * One thread at a time adds samples; any thread reads the rates.
 */
enum { WINDOW_SAMPLES = 12 };

#define WINDOW_SPACING_NS UINT64_C(100000000)

struct dli_sample {
	uint64_t at_ns, ran_ns; /* the time, and how long the guest has run */
	uint64_t new_pages, entries;
};

struct dli_window {
	struct dli_sample samples[WINDOW_SAMPLES];
	uint32_t n;				 /* ever added */
	_Atomic double new_per_s, written_per_s; /* pages per second of running */
};

/* Adds a sample, if the last one is old enough. */
void dli_window_add(struct dli_window *window, const struct dli_sample *sample);

static inline double dli_window_new_per_s(const struct dli_window *window)
{
	return atomic_load_explicit(&window->new_per_s, memory_order_relaxed);
}

static inline double dli_window_written_per_s(const struct dli_window *window)
{
	return atomic_load_explicit(&window->written_per_s, memory_order_relaxed);
}

#endif
