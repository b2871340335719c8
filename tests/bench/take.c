/* SPDX-License-Identifier: MIT */
/*
 * A VMM that has a bitmap of its own: dl_cursor_take() into it, against a straightforward reaper
 * that fills its rings' bitmap and merges it into the shared one and the migration's. Then a VMM
 * that serves its consumers from one take: into words of the slot, and from there into the
 * migration's bitmap.
 */
#include "../unit/random.h"
#include "bench.h"
#include "figures.h"
#include "reference.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define GUEST_PAGES (UINT64_C(1) << 24)
#define WORDS	    (GUEST_PAGES / 64)

enum { VCPUS = 16, ENTRIES = 4096, MOST_PAGES = 20000 };

static struct {
	struct kernel ours, theirs;
	struct reference reference;
	uint64_t words[WORDS];
	_Atomic uint64_t migration_bitmap[WORDS];
	uint64_t pages[MOST_PAGES], n;
} scene;

/* Runs of pages, each at a location of its own. */
static void scatter(uint64_t n, uint64_t run_pages)
{
	struct random generator = { 1 };
	uint64_t stride = GUEST_PAGES / (n / run_pages);

	scene.n = n;
	for (uint64_t i = 0; i < n; i += run_pages) {
		uint64_t first =
			i / run_pages * stride + random_below(&generator, stride - run_pages + 1);

		for (uint64_t page = 0; page < run_pages; page++)
			scene.pages[i + page] = first + page;
	}
}

static void fill(struct kernel *kernel)
{
	uint64_t each = (scene.n + VCPUS - 1) / VCPUS;

	for (uint32_t v = 0; v * each < scene.n; v++) {
		uint64_t rest = scene.n - v * each;

		kernel_fill(kernel, v, scene.pages + v * each,
			    (uint32_t)(rest < each ? rest : each));
	}
}

static void fill_ours(void *unused)
{
	(void)unused;
	memset(scene.words, 0, sizeof(scene.words));
	memset(scene.migration_bitmap, 0, sizeof(scene.migration_bitmap));
	fill(&scene.ours);
}

static void fill_theirs(void *unused)
{
	(void)unused;
	memset(scene.reference.migration_bitmap, 0, GUEST_PAGES / 8);
	fill(&scene.theirs);
}

static void take(void *unused)
{
	uint64_t bytes;

	(void)unused;
	bench_check(
		dl_cursor_take(scene.ours.cursor, 0, DL_TAKE_HARVEST, scene.words, WORDS, &bytes),
		"dl_cursor_take");
	if (bytes != scene.n * KERNEL_PAGE_BYTES)
		bench_die("pages are missing", 0);
}

/* The words are the VMM's alone, and empty between syncs; devices set bits of the migration's. */
static void take_and_fan_out(void *unused)
{
	take(unused);
	for (uint64_t i = 0; i < WORDS; i++) {
		if (!scene.words[i])
			continue;
		atomic_fetch_or_explicit(&scene.migration_bitmap[i], scene.words[i],
					 memory_order_relaxed);
		scene.words[i] = 0;
	}
}

static void sync_theirs(void *unused)
{
	(void)unused;
	if (reference_sync(&scene.reference) != scene.n)
		bench_die("the reference misses pages", 0);
}

static void figure(const char *name, uint64_t n, uint64_t run_pages, void (*measured)(void *))
{
	const struct bench_pair pair = {
		.name = name,
		.against = "a straightforward reaper's sync",
		.unit = "sync",
		.units = 1,
		.bar = 1,
		.prepare = fill_ours,
		.measured = measured,
		.prepare_other = fill_theirs,
		.other = sync_theirs,
	};

	if (!bench_wants(name))
		return;
	scatter(n, run_pages);
	kernel_open(&scene.ours, VCPUS, ENTRIES, GUEST_PAGES);
	kernel_open(&scene.theirs, VCPUS, ENTRIES, GUEST_PAGES);
	reference_open(&scene.reference, &scene.theirs);
	bench_compare(&pair);
	reference_close(&scene.reference);
	kernel_close(&scene.theirs);
	kernel_close(&scene.ours);
}

void take_figures(void)
{
	figure("take: 20,000 pages of 64 GiB, dense", MOST_PAGES, MOST_PAGES, take);
	figure("take: 20,000 pages of 64 GiB, runs of 16", MOST_PAGES, 16, take);
	figure("take: 20,000 pages of 64 GiB, single", MOST_PAGES, 1, take);
	figure("take: 10 pages of 64 GiB", 10, 1, take);
	figure("fan-out: 20,000 pages of 64 GiB, dense", MOST_PAGES, MOST_PAGES, take_and_fan_out);
	figure("fan-out: 20,000 pages of 64 GiB, runs of 16", MOST_PAGES, 16, take_and_fan_out);
	figure("fan-out: 20,000 pages of 64 GiB, single", MOST_PAGES, 1, take_and_fan_out);
	figure("fan-out: 10 pages of 64 GiB", 10, 1, take_and_fan_out);
}
