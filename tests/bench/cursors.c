/* SPDX-License-Identifier: MIT */
/* Cost of an idle second cursor to the first, compared with a single cursor. */
#include "../unit/random.h"
#include "bench.h"
#include "figures.h"
#include "kernel.h"

#include <stdlib.h>

#define PAGES (UINT64_C(1) << 20)

enum { ENTRIES = 16384, FILLED = 15000, MARKS = 200000, PLACES = 4096, RUN_PAGES = 16 };

struct scene {
	struct kernel kernel;
	struct dl_cursor *idle; /* NULL: one cursor */
	uint64_t pages[FILLED];
};

static struct scene one, two;

static void open_scene(struct scene *scene, bool with_idle)
{
	struct random generator = { 1 };
	uint64_t first = 0;

	for (uint32_t i = 0; i < FILLED; i++) {
		if (i % RUN_PAGES == 0)
			first = random_below(&generator, PAGES / RUN_PAGES) * RUN_PAGES;
		scene->pages[i] = first + i % RUN_PAGES;
	}
	kernel_open(&scene->kernel, 1, ENTRIES, PAGES);
	scene->idle = with_idle ? kernel_add_cursor(&scene->kernel, 0) : NULL;
}

static void close_scene(struct scene *scene)
{
	dl_cursor_free(scene->idle);
	kernel_close(&scene->kernel);
}

static void empty(void *opaque)
{
	struct scene *scene = opaque;

	kernel_empty(&scene->kernel);
}

static void fill(void *opaque)
{
	struct scene *scene = opaque;

	empty(scene);
	kernel_fill(&scene->kernel, 0, scene->pages, FILLED);
	scene->kernel.rings[0].run->exit_reason = KVM_EXIT_DIRTY_RING_FULL;
}

static void mark_pages(void *opaque)
{
	struct scene *scene = opaque;

	for (uint32_t i = 0; i < MARKS; i++)
		bench_check(dl_mark_slot(scene->kernel.log, 0,
					 (uint64_t)(i * 67u % PLACES) * KERNEL_PAGE_BYTES,
					 KERNEL_PAGE_BYTES),
			    "dl_mark_slot");
}

static void drain(void *opaque)
{
	struct scene *scene = opaque;

	bench_check(dl_vcpu_drain(scene->kernel.rings[0].vcpu, 0), "dl_vcpu_drain");
}

static void pass(void *opaque)
{
	struct scene *scene = opaque;

	kernel_harvest(&scene->kernel);
	if (!kernel_iterate(&scene->kernel))
		bench_die("pages are missing", 0);
}

/* The work that is done with two cursors, and with one. */
struct work {
	void (*prepare)(void *scene);
	void (*run)(void *scene);
};

static const struct work *work;

static void prepare_two(void *unused)
{
	(void)unused;
	work->prepare(&two);
}

static void run_two(void *unused)
{
	(void)unused;
	work->run(&two);
}

static void prepare_one(void *unused)
{
	(void)unused;
	work->prepare(&one);
}

static void run_one(void *unused)
{
	(void)unused;
	work->run(&one);
}

static void figure(const char *name, const char *unit, uint64_t units, double bar,
		   const struct work *of)
{
	const struct bench_pair pair = {
		.name = name,
		.against = "the same with one cursor",
		.unit = unit,
		.units = units,
		.bar = bar,
		.is_floor = true,
		.prepare = prepare_two,
		.measured = run_two,
		.prepare_other = prepare_one,
		.other = run_one,
	};

	if (!bench_wants(name))
		return;
	work = of;
	open_scene(&two, true);
	open_scene(&one, false);
	bench_compare(&pair);
	close_scene(&one);
	close_scene(&two);
}

void cursor_figures(void)
{
	static const struct work marks = { empty, mark_pages };
	static const struct work drains = { fill, drain };
	static const struct work passes = { fill, pass };

	figure("cursors: mark, beside an idle cursor", "mark", MARKS, 1.03, &marks);
	figure("cursors: drain, beside an idle cursor", "entry", FILLED, 1.03, &drains);
	figure("cursors: pass, beside an idle cursor", "pass", 1, 1.03, &passes);
}
