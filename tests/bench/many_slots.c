/* SPDX-License-Identifier: MIT */
/*
 * Many memslots, by the library alone: a log that has all of them against logs that have a few,
 * each of them as often. What grows faster than the number of slots shows as a ratio above 1.
 */
#include "bench.h"
#include "figures.h"
#include "kernel.h"

#include <stdio.h>

enum { SLOT_PAGES = 2, RING_ENTRIES = 4096 };

/* The small size is for callgrind, which counts each instruction: see meson.build. */
static const struct size {
	uint32_t many, few;
	const char *name, *against;
} sizes[] = {
	{ 4000, 250, "4,000", "the same with 250, 16 times" },
	{ 32000, 1000, "32,000", "the same with 1,000, 32 times" },
};

static const struct size *size;
static struct kernel kernel;

static uint64_t gpa_of(uint32_t i)
{
	return i * (UINT64_C(1) << 20);
}

/* The memory is never accessed. Two neighbours share a page, so that aliases are looked for. */
static void set_slots(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		struct dl_slot slot = {
			.size = sizeof(slot),
			.slot = i,
			.gpa = gpa_of(i),
			.bytes = SLOT_PAGES * KERNEL_PAGE_BYTES,
			.hva = (UINT64_C(1) << 46) + i * (SLOT_PAGES - 1) * KERNEL_PAGE_BYTES,
		};

		bench_check(dl_slot_set(kernel.log, &slot), "dl_slot_set");
	}
}

static void remove_slots(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		bench_check(dl_slot_remove(kernel.log, i, 0, NULL, 0), "dl_slot_remove");
}

static void set_and_remove(uint32_t n)
{
	set_slots(n);
	remove_slots(n);
}

/* The only cursor, so that logging of all slots begins and ends with it. */
static void start_and_stop(uint32_t n)
{
	const struct dl_cursor_options options = { .size = sizeof(options), .vcpus = 1 };
	struct dl_cursor *cursor;

	(void)n;
	bench_check(dl_cursor_new(kernel.log, &options, &cursor), "dl_cursor_new");
	dl_cursor_free(cursor);
}

/* An entry past the end of its slot makes the library distrust all of them. */
static void repair(uint32_t n)
{
	const uint64_t outside = SLOT_PAGES;
	struct dl_stats before = { .size = sizeof(before) }, after = before;

	(void)n;
	bench_check(dl_log_stats(kernel.log, &before), "dl_log_stats");
	kernel_fill(&kernel, 0, &outside, 1);
	kernel_harvest(&kernel);
	bench_check(dl_cursor_end(kernel.cursor, 0), "dl_cursor_end");
	bench_check(dl_log_stats(kernel.log, &after), "dl_log_stats");
	if (after.repairs != before.repairs + 1)
		bench_die("the harvest repaired nothing", 0);
}

enum work { SET, START, REPAIR };

static const struct {
	const char *name;
	void (*run)(uint32_t n);
	bool has_slots, has_cursor;
} works[] = {
	[SET] = { "set and remove", set_and_remove, false, true },
	[START] = { "start and stop with", start_and_stop, true, false },
	[REPAIR] = { "repair with", repair, true, true },
};

static enum work work;

static void close_log(void)
{
	if (kernel.log)
		kernel_close(&kernel);
	kernel.log = NULL;
}

static void open_log(uint32_t n)
{
	close_log();
	kernel_open(&kernel, 1, RING_ENTRIES, 0);
	if (works[work].has_slots)
		set_slots(n);
	if (!works[work].has_cursor) {
		dl_cursor_free(kernel.cursor);
		kernel.cursor = NULL;
	}
}

static void open_many(void *unused)
{
	(void)unused;
	open_log(size->many);
}

static void open_few(void *unused)
{
	(void)unused;
	open_log(size->few);
}

static void run_many(void *unused)
{
	(void)unused;
	works[work].run(size->many);
}

static void run_few(void *unused)
{
	(void)unused;
	for (uint32_t i = 0; i < size->many / size->few; i++)
		works[work].run(size->few);
}

static void measure(void)
{
	char name[80];
	const struct bench_pair pair = {
		.name = name,
		.against = size->against,
		.unit = "slot",
		.units = size->many,
		.bar = 2,
		.is_floor = true,
		.prepare = open_many,
		.measured = run_many,
		.prepare_other = open_few,
		.other = run_few,
	};

	snprintf(name, sizeof(name), "many slots: %s %s", works[work].name, size->name);
	bench_compare(&pair);
	close_log();
}

void many_slots_figures(void)
{
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (work = SET; work <= REPAIR; work++) {
			size = &sizes[i];
			measure();
		}
}
