/* SPDX-License-Identifier: MIT */
/* A whole pass, against that of a straightforward reaper. */
#include "../unit/random.h"
#include "bench.h"
#include "figures.h"
#include "reference.h"

#include <stdlib.h>

enum { VCPUS = 16 };

static struct {
	struct kernel ours, theirs;
	struct reference reference;
	uint64_t *pages, n, run_pages;
} scene;

/* Runs of pages, each at a location of its own. */
static void scatter(uint64_t guest_pages)
{
	uint64_t run_pages = scene.run_pages, stride = guest_pages / (scene.n / run_pages);
	struct random generator = { 1 };

	for (uint64_t i = 0; i < scene.n; i += run_pages) {
		uint64_t first =
			i / run_pages * stride + random_below(&generator, stride - run_pages + 1);

		for (uint64_t page = 0; page < run_pages; page++)
			scene.pages[i + page] = first + page;
	}
}

static void fill(struct kernel *kernel)
{
	uint32_t n = (uint32_t)(scene.n / VCPUS);

	for (uint32_t v = 0; v < VCPUS; v++)
		kernel_fill(kernel, v, scene.pages + v * (uint64_t)n, n);
}

static void fill_ours(void *unused)
{
	(void)unused;
	fill(&scene.ours);
}

static void fill_theirs(void *unused)
{
	(void)unused;
	fill(&scene.theirs);
}

static void our_pass(void *unused)
{
	(void)unused;
	kernel_harvest(&scene.ours);
	if (kernel_iterate(&scene.ours) != scene.n)
		bench_die("pages are missing", 0);
}

static void their_pass(void *unused)
{
	(void)unused;
	if (reference_pass(&scene.reference) != scene.n)
		bench_die("the reference misses pages", 0);
}

static void figure(const char *name, uint64_t guest_pages, uint64_t dirty_pages, uint64_t run_pages,
		   uint32_t entries, double bar)
{
	const struct bench_pair pair = {
		.name = name,
		.against = "a straightforward reaper",
		.unit = "pass",
		.units = 1,
		.bar = bar,
		.prepare = fill_ours,
		.measured = our_pass,
		.prepare_other = fill_theirs,
		.other = their_pass,
	};

	if (!bench_wants(name))
		return;
	scene.run_pages = run_pages;
	scene.n = dirty_pages / (VCPUS * run_pages) * (VCPUS * run_pages);
	scene.pages = malloc(scene.n * sizeof(scene.pages[0]));
	scatter(guest_pages);
	kernel_open(&scene.ours, VCPUS, entries, guest_pages);
	kernel_open(&scene.theirs, VCPUS, entries, guest_pages);
	reference_open(&scene.reference, &scene.theirs);
	bench_compare(&pair);
	reference_close(&scene.reference);
	kernel_close(&scene.theirs);
	kernel_close(&scene.ours);
	free(scene.pages);
}

void pass_figures(void)
{
	const uint64_t pages = UINT64_C(1) << 24, dirty = pages / 100;

	figure("pass: 1% of 64 GiB dirty", pages, dirty, 16, 16384, 5);
	figure("pass: as above, runs of 1", pages, dirty, 1, 16384, 0);
	figure("pass: as above, runs of 512", pages, dirty, 512, 16384, 0);
	figure("pass: 10,000 pages of 1 TiB dirty", UINT64_C(1) << 28, 10000, 16, 4096, 50);
}
