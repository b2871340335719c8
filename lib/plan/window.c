/* SPDX-License-Identifier: MIT */
/* Rates over the last second. */

#include "plan/window.h"

#define WINDOW_NS UINT64_C(1000000000)

_Static_assert(WINDOW_SAMPLES > WINDOW_NS / WINDOW_SPACING_NS,
	       "the window reaches back for a second");

static const struct dli_sample *sample_at(const struct dli_window *window, uint32_t index)
{
	return &window->samples[index % WINDOW_SAMPLES];
}

/* The newest sample that is a second older than the last one, or the oldest that is kept. */
static const struct dli_sample *beginning(const struct dli_window *window)
{
	uint32_t kept = window->n < WINDOW_SAMPLES ? window->n : WINDOW_SAMPLES;
	const struct dli_sample *last = sample_at(window, window->n - 1), *first = last;

	for (uint32_t back = 2; back <= kept && last->at_ns - first->at_ns < WINDOW_NS; back++)
		first = sample_at(window, window->n - back);
	return first;
}

static double per_second(uint64_t count, uint64_t ns)
{
	return ns ? (double)count * 1e9 / (double)ns : 0;
}

void dli_window_add(struct dli_window *window, const struct dli_sample *sample)
{
	const struct dli_sample *first;
	uint64_t ran_ns;

	if (window->n &&
	    sample->at_ns < sample_at(window, window->n - 1)->at_ns + WINDOW_SPACING_NS)
		return;
	window->samples[window->n++ % WINDOW_SAMPLES] = *sample;
	first = beginning(window);
	ran_ns = sample->ran_ns - first->ran_ns;
	atomic_store_explicit(&window->new_per_s,
			      per_second(sample->new_pages - first->new_pages, ran_ns),
			      memory_order_relaxed);
	atomic_store_explicit(&window->written_per_s,
			      per_second(sample->entries - first->entries, ran_ns),
			      memory_order_relaxed);
}
