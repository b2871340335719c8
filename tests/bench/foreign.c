/* SPDX-License-Identifier: MIT */
/* Taking a foreign log, against plain loops over the same words. */
#include "../unit/random.h"
#include "bench.h"
#include "figures.h"
#include "kernel.h"

#include <stdatomic.h>
#include <string.h>

#define PAGES (UINT64_C(1) << 18) /* a GiB */
#define WORDS (PAGES / 64)

enum { CLEAN_CALLS = 200 };

static struct kernel kernel;
static _Atomic uint64_t words[WORDS], others[WORDS], merged[WORDS];
static uint64_t pattern[WORDS];

static void fill(void *unused)
{
	(void)unused;
	kernel_empty(&kernel);
	memcpy(words, pattern, sizeof(words));
}

static void fill_others(void *unused)
{
	(void)unused;
	memcpy(others, pattern, sizeof(others));
	memset(merged, 0, sizeof(merged));
}

static void mark(void *unused)
{
	const struct dl_bitmap bitmap = {
		.size = sizeof(bitmap),
		.flags = DL_BITMAP_TAKE,
		.bytes = PAGES * KERNEL_PAGE_BYTES,
		.page_bytes = KERNEL_PAGE_BYTES,
	};

	(void)unused;
	bench_check(dl_mark_bitmap(kernel.log, &bitmap, (uint64_t *)words, WORDS, NULL),
		    "dl_mark_bitmap");
}

static void mark_clean(void *unused)
{
	for (int i = 0; i < CLEAN_CALLS; i++)
		mark(unused);
}

/* Words that others may change are loaded one by one. */
static void look(void *unused)
{
	(void)unused;
	for (int i = 0; i < CLEAN_CALLS; i++) {
		uint64_t any = 0;

		for (uint64_t word = 0; word < WORDS; word++)
			any |= atomic_load_explicit(&others[word], memory_order_relaxed);
		bench_keep(any);
	}
}

/* The minimum beside a writer and other markers. */
static void take_and_merge(void *unused)
{
	(void)unused;
	for (uint64_t word = 0; word < WORDS; word++) {
		uint64_t bits = atomic_load_explicit(&others[word], memory_order_relaxed);

		if (!bits)
			continue;
		bits = atomic_fetch_and_explicit(&others[word], 0, memory_order_acquire);
		bench_keep(atomic_fetch_or_explicit(&merged[word], bits, memory_order_seq_cst));
	}
}

static void figure(const struct bench_pair *pair)
{
	if (!bench_wants(pair->name))
		return;
	kernel_open(&kernel, 1, 4096, PAGES);
	bench_compare(pair);
	kernel_close(&kernel);
}

static void clean_figure(void)
{
	const struct bench_pair pair = {
		.name = "foreign: a clean GiB",
		.against = "load each word",
		.unit = "GiB",
		.units = CLEAN_CALLS,
		.bar = 1.5,
		.is_floor = true,
		.prepare = fill,
		.measured = mark_clean,
		.prepare_other = fill_others,
		.other = look,
	};

	memset(pattern, 0, sizeof(pattern));
	figure(&pair);
}

static void dirty_figure(const char *name, uint64_t dirty_words)
{
	const struct bench_pair pair = {
		.name = name,
		.against = "take each word that is not 0, and OR it into a bitmap",
		.unit = "word",
		.units = dirty_words,
		.bar = 3,
		.is_floor = true,
		.prepare = fill,
		.measured = mark,
		.prepare_other = fill_others,
		.other = take_and_merge,
	};

	figure(&pair);
}

void foreign_figures(void)
{
	struct random generator = { 1 };

	clean_figure();
	for (uint64_t i = 0; i < WORDS; i++)
		pattern[i] = UINT64_C(1) << random_below(&generator, 64);
	dirty_figure("foreign: every word dirty, single pages", WORDS);
	memset(pattern, 0xff, sizeof(pattern));
	dirty_figure("foreign: every word dirty, all pages", WORDS);
}
