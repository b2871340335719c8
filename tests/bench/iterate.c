/* SPDX-License-Identifier: MIT */
/* Reading runs, against finding them in the words of a plain bitmap. */
#include "bench.h"
#include "figures.h"
#include "kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGES (UINT64_C(1) << 22)
#define WORDS (PAGES / 64)

enum { RUNS = 64 };

static struct {
	struct kernel kernel;
	uint64_t words[WORDS];
	uint64_t run_pages;
} scene;

static void set_runs(void *unused)
{
	(void)unused;
	bench_check(dl_cursor_end(scene.kernel.cursor, DL_END_COMMIT), "dl_cursor_end");
	for (uint64_t page = 0; page < PAGES; page += 2 * scene.run_pages)
		bench_check(dl_mark_slot(scene.kernel.log, 0, page * KERNEL_PAGE_BYTES,
					 scene.run_pages * KERNEL_PAGE_BYTES),
			    "dl_mark_slot");
	kernel_harvest(&scene.kernel);
}

static void read_runs(void *unused)
{
	struct dl_extent runs[RUNS];
	uint64_t sum = 0;
	int n;

	(void)unused;
	while ((n = dl_cursor_read(scene.kernel.cursor, runs, RUNS)) > 0)
		for (int i = 0; i < n; i++)
			sum += runs[i].bytes;
	bench_check(n, "dl_cursor_read");
	if (sum != PAGES / 2 * KERNEL_PAGE_BYTES)
		bench_die("pages are missing", 0);
}

static void set_words(void *unused)
{
	(void)unused;
	memset(scene.words, 0, sizeof(scene.words));
	for (uint64_t page = 0; page < PAGES; page++)
		if (page / scene.run_pages % 2 == 0)
			scene.words[page / 64] |= UINT64_C(1) << page % 64;
}

/* Finds each run's first page and length, word by word. */
static inline void find(bool take)
{
	uint64_t sum = 0, open = 0;

	for (uint64_t i = 0; i < WORDS; i++) {
		uint64_t bits = scene.words[i];

		if (bits && take)
			bits = __atomic_exchange_n(&scene.words[i], 0, __ATOMIC_ACQ_REL);
		if (!bits) {
			sum += open;
			open = 0;
			continue;
		}
		while (bits) {
			uint64_t first = (uint64_t)__builtin_ctzll(bits);
			uint64_t rest = ~(bits >> first);
			uint64_t length = rest ? (uint64_t)__builtin_ctzll(rest) : 64;

			if (length > 64 - first)
				length = 64 - first;
			if (first) {
				sum += open;
				open = 0;
			}
			open += length;
			if (first + length >= 64)
				break;
			bench_keep(i * 64 + first);
			sum += open;
			open = 0;
			bits &= ~UINT64_C(0) << (first + length);
		}
	}
	if (sum + open != PAGES / 2)
		bench_die("the floor misses pages", 0);
}

static void find_runs(void *unused)
{
	(void)unused;
	find(false);
}

/* The minimum while other threads mark pages at the same time. */
static void take_runs(void *unused)
{
	(void)unused;
	find(true);
}

static void say_speed(const struct bench_pair *pair)
{
	double run_ns = bench_last_ns();

	bench_say("%.1f million runs a second, %.3g ns a page", 1e3 / run_ns,
		  run_ns * (double)pair->units / (double)(PAGES / 2));
}

static void figure(uint64_t run_pages, bool only_found)
{
	char name[80];
	const struct bench_pair pair = {
		.name = name,
		.against = only_found ? "find the runs in a plain bitmap"
				      : "find them, with an exchange of each nonzero word",
		.unit = "run",
		.units = PAGES / 2 / run_pages,
		.bar = only_found ? 2 : 0,
		.is_floor = true,
		.prepare = set_runs,
		.measured = read_runs,
		.prepare_other = set_words,
		.other = only_found ? find_runs : take_runs,
	};

	snprintf(name, sizeof(name), "iterator: %sruns of %llu", only_found ? "" : "as above, ",
		 (unsigned long long)run_pages);
	if (!bench_wants(name))
		return;
	scene.run_pages = run_pages;
	kernel_open(&scene.kernel, 1, 4096, PAGES);
	bench_compare(&pair);
	if (only_found)
		say_speed(&pair);
	kernel_close(&scene.kernel);
}

void iterator_figures(void)
{
	figure(1, true);
	figure(8, true);
	figure(512, true);
	figure(512, false);
}
