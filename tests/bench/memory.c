/* SPDX-License-Identifier: MIT */
/*
 * Memory that becomes resident in a whole pass over 10,000 dirty pages of 16 TiB, against the pages
 * of one plain bitmap that contain their bits. What the log allocates when it is opened (the copies
 * of the rings, the slots) is excluded, as it does not depend on what is dirty.
 */
#include "bench.h"
#include "figures.h"
#include "kernel.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#define GUEST_PAGES (UINT64_C(1) << 32)

enum { PAGES = 10000, VCPUS = 4, ENTRIES = 4096 };

static struct kernel kernel;
static uint64_t pages[PAGES];

/* Not statm, which is inexact. */
static double resident_bytes(void)
{
	FILE *file = fopen("/proc/self/smaps_rollup", "r");
	unsigned long kib = 0;
	char line[200];

	if (!file)
		bench_die("/proc/self/smaps_rollup", errno);
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "Rss: %lu", &kib) == 1)
			break;
	fclose(file);
	return (double)kib * 1024;
}

static double must_bytes(void)
{
	const uint64_t each = (uint64_t)sysconf(_SC_PAGESIZE) * 8;
	uint64_t n = 0, last = UINT64_MAX;

	for (uint32_t i = 0; i < PAGES; i++) {
		n += pages[i] / each != last;
		last = pages[i] / each;
	}
	return (double)n * (double)each / 8;
}

static void pass(uint32_t expected)
{
	kernel_harvest(&kernel);
	if (kernel_iterate(&kernel) != expected)
		bench_die("pages are missing", 0);
}

static void figure(const char *name, uint64_t cluster_pages)
{
	const struct bench_pair pair = {
		.name = name,
		.against = "the touched pages of one bitmap",
		.unit = "",
		.units = 1,
		.bar = 2,
		.is_floor = true,
	};
	uint64_t stride = GUEST_PAGES / (PAGES / cluster_pages) / 64 * 64;
	double must, bytes;

	if (!bench_wants(name))
		return;
	for (uint64_t i = 0; i < PAGES; i++)
		pages[i] = i / cluster_pages * stride + i % cluster_pages;
	kernel_open(&kernel, VCPUS, ENTRIES, GUEST_PAGES);
	/* A first pass over one page, so that only what grows with the pages is counted. */
	kernel_fill(&kernel, 0, pages, 1);
	pass(1);
	must = must_bytes();
	bytes = resident_bytes();
	for (uint32_t v = 0; v < VCPUS; v++)
		kernel_fill(&kernel, v, pages + v * (PAGES / VCPUS), PAGES / VCPUS);
	pass(PAGES);
	bytes = resident_bytes() - bytes;
	bench_note(&pair, &bytes, &must, 1);
	bench_say("%.2f MiB against %.2f", bytes / (1 << 20), must / (1 << 20));
	kernel_close(&kernel);
}

void memory_figures(void)
{
	figure("memory: 16 TiB, 10,000 pages in 100 clusters", 100);
	figure("memory: 16 TiB, 10,000 scattered pages", 1);
}
