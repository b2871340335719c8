/* SPDX-License-Identifier: MIT */
/* Merging the bitmap of KVM_GET_DIRTY_LOG, against reading as much memory once. */
#include "../unit/random.h"
#include "bench.h"
#include "figures.h"
#include "kernel.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define PAGES (UINT64_C(1) << 24)
#define WORDS (PAGES / 64)

static struct kernel kernel;
static uint64_t bitmap[WORDS];
static _Atomic uint64_t merged[WORDS];

static void empty(void *unused)
{
	(void)unused;
	kernel_empty(&kernel);
}

static void harvest(void *unused)
{
	(void)unused;
	kernel_harvest(&kernel);
}

static void sum_words(void *unused)
{
	uint64_t sum = 0;

	(void)unused;
	for (uint64_t i = 0; i < WORDS; i++)
		sum += bitmap[i];
	bench_keep(sum);
}

/* The minimum while other threads mark pages at the same time. */
static void merge_words(void *unused)
{
	(void)unused;
	for (uint64_t i = 0; i < WORDS; i++)
		if (bitmap[i])
			bench_keep(atomic_fetch_or_explicit(&merged[i], bitmap[i],
							    memory_order_relaxed));
}

static void figure(const char *name, bool against_sum)
{
	const struct bench_pair pair = {
		.name = name,
		.against = against_sum ? "sum the bitmap's words"
				       : "an atomic OR of each nonzero word",
		.unit = "word",
		.units = WORDS,
		.bar = against_sum ? 1.3 : 0,
		.is_floor = true,
		.prepare = empty,
		.measured = harvest,
		.other = against_sum ? sum_words : merge_words,
	};

	if (!bench_wants(name))
		return;
	kernel_open(&kernel, 1, 0, PAGES);
	kernel.bitmap = bitmap;
	bench_compare(&pair);
	kernel_close(&kernel);
}

void bitmap_figures(void)
{
	struct random generator = { 1 };

	memset(bitmap, 0, sizeof(bitmap));
	figure("bitmap: merge 64 GiB, clean", true);
	for (uint64_t i = 0; i < WORDS / 100; i++)
		bitmap[random_below(&generator, WORDS)] = ~UINT64_C(0);
	figure("bitmap: merge 64 GiB, 1% dirty, whole words", true);
	figure("bitmap: as above, whole words", false);
	memset(bitmap, 0, sizeof(bitmap));
	for (uint64_t i = 0; i < PAGES / 100; i++) {
		uint64_t page = random_below(&generator, PAGES);

		bitmap[page / 64] |= UINT64_C(1) << page % 64;
	}
	figure("bitmap: merge 64 GiB, 1% dirty, single pages", true);
	figure("bitmap: as above, single pages", false);
}
