/* SPDX-License-Identifier: MIT */
/* Marking one page, against one atomic OR on a word that no other thread uses. */
#include "bench.h"
#include "figures.h"
#include "kernel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#define PAGES (UINT64_C(1) << 20)

enum { MARKS = 200000, THREADS = 2, APART_PAGES = 1 << 18, PLACES = 4096 };

static struct kernel kernel;
static struct {
	_Alignas(128) _Atomic uint64_t words[PLACES / 64];
} own[THREADS];
static unsigned int threads;

static void *mark_pages(void *which)
{
	uint64_t first = (uint64_t)(uintptr_t)which * APART_PAGES;

	for (uint32_t i = 0; i < MARKS; i++)
		bench_check(dl_mark_slot(kernel.log, 0,
					 (first + i * 67u % PLACES) * KERNEL_PAGE_BYTES,
					 KERNEL_PAGE_BYTES),
			    "dl_mark_slot");
	return NULL;
}

static void *set_bits(void *which)
{
	_Atomic uint64_t *words = own[(uintptr_t)which].words;

	for (uint32_t i = 0; i < MARKS; i++) {
		uint32_t page = i * 67u % PLACES;

		bench_keep(atomic_fetch_or_explicit(&words[page / 64], UINT64_C(1) << page % 64,
						    memory_order_acq_rel));
	}
	return NULL;
}

static void in_threads(void *(*work)(void *))
{
	pthread_t others[THREADS];

	for (uintptr_t i = 1; i < threads; i++)
		if (pthread_create(&others[i], NULL, work, (void *)i))
			bench_die("pthread_create", 0);
	work(NULL);
	for (uintptr_t i = 1; i < threads; i++)
		pthread_join(others[i], NULL);
}

static void mark_all(void *unused)
{
	(void)unused;
	in_threads(mark_pages);
}

static void set_all(void *unused)
{
	(void)unused;
	in_threads(set_bits);
}

static void empty(void *unused)
{
	(void)unused;
	kernel_empty(&kernel);
}

void mark_figures(void)
{
	char name[80];
	const struct bench_pair pair = {
		.name = name,
		.against = "an atomic OR on the thread's own word",
		.unit = "mark",
		.units = MARKS,
		.bar = 4,
		.is_floor = true,
		.prepare = empty,
		.measured = mark_all,
		.other = set_all,
	};

	for (threads = 1; threads <= THREADS; threads++) {
		snprintf(name, sizeof(name), "mark: one page, %u thread%s", threads,
			 threads > 1 ? "s" : "");
		if (!bench_wants(name))
			continue;
		kernel_open(&kernel, 1, 4096, PAGES);
		bench_compare(&pair);
		kernel_close(&kernel);
	}
}
