/* SPDX-License-Identifier: MIT */
/* A pass over 10,000 dirty pages, whatever the size of the guest. */
#include "bench.h"
#include "figures.h"
#include "kernel.h"

#include <stdio.h>

enum { PAGES = 10000, CLUSTER = 100, VCPUS = 4, ENTRIES = 4096, SIZES = 4 };

static const struct {
	const char *name;
	uint64_t pages;
} guests[SIZES] = {
	{ "1 GiB", UINT64_C(1) << 18 },
	{ "64 GiB", UINT64_C(1) << 24 },
	{ "1 TiB", UINT64_C(1) << 28 },
	{ "16 TiB", UINT64_C(1) << 32 },
};

struct scene {
	struct kernel kernel;
	uint64_t pages[PAGES];
};

/* The others are compared with the first. */
static struct scene small, large;

static void spread(struct scene *scene, uint64_t guest_pages)
{
	for (uint64_t i = 0; i < PAGES; i++)
		scene->pages[i] =
			i / CLUSTER * (guest_pages / (PAGES / CLUSTER)) / 64 * 64 + i % CLUSTER;
}

static void fill(struct scene *scene)
{
	for (uint32_t v = 0; v < VCPUS; v++)
		kernel_fill(&scene->kernel, v, scene->pages + v * (PAGES / VCPUS), PAGES / VCPUS);
}

static void fill_large(void *unused)
{
	(void)unused;
	fill(&large);
}

static void fill_small(void *unused)
{
	(void)unused;
	fill(&small);
}

static void pass(struct scene *scene)
{
	kernel_harvest(&scene->kernel);
	if (kernel_iterate(&scene->kernel) != PAGES)
		bench_die("pages are missing", 0);
}

static void pass_large(void *unused)
{
	(void)unused;
	pass(&large);
}

static void pass_small(void *unused)
{
	(void)unused;
	pass(&small);
}

void scale_figures(void)
{
	char name[80];

	kernel_open(&small.kernel, VCPUS, ENTRIES, guests[0].pages);
	spread(&small, guests[0].pages);
	for (int i = 1; i < SIZES; i++) {
		const struct bench_pair pair = {
			.name = name,
			.against = "the same in a guest of 1 GiB",
			.unit = "pass",
			.units = 1,
			.bar = 1.3,
			.is_floor = true,
			.prepare = fill_large,
			.measured = pass_large,
			.prepare_other = fill_small,
			.other = pass_small,
		};

		snprintf(name, sizeof(name), "scale: a pass, 10,000 pages of %s", guests[i].name);
		if (!bench_wants(name))
			continue;
		kernel_open(&large.kernel, VCPUS, ENTRIES, guests[i].pages);
		spread(&large, guests[i].pages);
		bench_compare(&pair);
		kernel_close(&large.kernel);
	}
	kernel_close(&small.kernel);
}
