/* SPDX-License-Identifier: MIT */
/*
 * What a point costs the library in guests of up to 16 TiB and with up to eight cursors, on the
 * model kernel, whose slots have no memory. Prints a table of doc/snapshots.md.
 */
#include "../../examples/clock.h"
#include "model.h"

#include <dirtylog/dirtylog.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef KVM_EXIT_DIRTY_RING_FULL
#define KVM_EXIT_DIRTY_RING_FULL 31
#endif

enum { PAGES = 10000, CURSORS = 8, EXTENTS = 256, EPOCHS = 15, PAGE_BYTES = 4096 };

#define SLOT_BYTES (UINT64_C(4) << 40)

struct scene {
	struct model *model;
	struct dl_log *log;
	struct dl_vcpu *vcpu;
	int vcpu_fd;
	uint64_t bytes;
	uint64_t cluster; /* pages that are written side by side */
	struct dl_cursor *cursors[CURSORS];
	uint32_t n_cursors;
};

/* Times of each epoch, in microseconds. */
struct times {
	double harvest[EPOCHS], read[EPOCHS], end[EPOCHS];
};

static void check(int r, const char *what)
{
	if (r >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, strerror(-r));
	exit(1);
}

/* A slot has fewer than 2^31 pages. */
static void set_slots(struct scene *scene)
{
	struct dl_slot slot = { .size = sizeof(slot), .hva = SLOT_BYTES };

	for (; slot.gpa < scene->bytes; slot.slot++) {
		slot.bytes = scene->bytes - slot.gpa;
		if (slot.bytes > SLOT_BYTES)
			slot.bytes = SLOT_BYTES;
		check(dl_slot_set(scene->log, &slot), "dl_slot_set");
		slot.gpa += slot.bytes;
		slot.hva += slot.bytes;
	}
}

static void open_scene(struct scene *scene, uint64_t bytes, uint32_t cursors)
{
	const struct model_options model = { .no_memory = true };
	struct dl_cursor_options clean = { .size = sizeof(clean), .flags = DL_CURSOR_CLEAN };
	struct dl_options options = { .size = sizeof(options), .mode = DL_MODE_RING };
	int vm_fd;

	memset(scene, 0, sizeof(*scene));
	scene->model = model_new(&model);
	scene->bytes = bytes;
	vm_fd = model_vm_create(scene->model);
	options.os = model_os(scene->model);
	check(dl_log_open(vm_fd, &options, &scene->log, NULL, 0), "dl_log_open");
	set_slots(scene);
	scene->vcpu_fd = model_vcpu_create(scene->model, vm_fd);
	check(dl_vcpu_add(scene->log, scene->vcpu_fd, 0, 0, &scene->vcpu), "dl_vcpu_add");
	for (scene->n_cursors = 0; scene->n_cursors < cursors; scene->n_cursors++)
		check(dl_cursor_new(scene->log, &clean, &scene->cursors[scene->n_cursors]),
		      "dl_cursor_new");
}

static void close_scene(struct scene *scene)
{
	while (scene->n_cursors)
		dl_cursor_free(scene->cursors[--scene->n_cursors]);
	dl_log_close(scene->log);
	dl_vcpu_remove(scene->vcpu);
	model_free(scene->model);
}

/* Writes the same pages in each epoch, in clusters over the whole guest. */
static void write_pages(struct scene *scene)
{
	uint64_t clusters = PAGES / scene->cluster;
	uint64_t step = scene->bytes / PAGE_BYTES / clusters * PAGE_BYTES;
	int r;

	for (uint64_t i = 0; i < PAGES; i++)
		while ((r = model_vcpu_write(scene->model, scene->vcpu_fd, 0,
					     i / scene->cluster * step +
						     i % scene->cluster * PAGE_BYTES,
					     NULL, 8)))
			check(r == KVM_EXIT_DIRTY_RING_FULL ? dl_vcpu_drain(scene->vcpu, 0) : r,
			      "a write");
	model_vcpu_exit(scene->model, scene->vcpu_fd, KVM_EXIT_INTR);
}

static uint64_t read_all(struct dl_cursor *cursor)
{
	struct dl_extent extents[EXTENTS];
	uint64_t bytes = 0;
	int n;

	while ((n = dl_cursor_read(cursor, extents, EXTENTS)) > 0)
		for (int i = 0; i < n; i++)
			bytes += extents[i].bytes;
	check(n, "dl_cursor_read");
	return bytes;
}

static double us_since(uint64_t *start_ns)
{
	uint64_t now_ns = clock_ns();
	double us = (double)(now_ns - *start_ns) / 1e3;

	*start_ns = now_ns;
	return us;
}

/* The first cursor is the measured one; the others have a pass an epoch, too. */
static void epoch(struct scene *scene, struct times *times, int at)
{
	uint64_t start_ns;

	write_pages(scene);
	start_ns = clock_ns();
	check(dl_harvest(scene->cursors[0], DL_HARVEST_PAUSED, NULL), "dl_harvest");
	times->harvest[at] = us_since(&start_ns);
	if (read_all(scene->cursors[0]) != (uint64_t)PAGES * PAGE_BYTES)
		check(-EIO, "pages are missing");
	times->read[at] = us_since(&start_ns);
	check(dl_cursor_end(scene->cursors[0], DL_END_COMMIT), "dl_cursor_end");
	times->end[at] = us_since(&start_ns);
	for (uint32_t i = 1; i < scene->n_cursors; i++) {
		check(dl_harvest(scene->cursors[i], 0, NULL), "dl_harvest");
		read_all(scene->cursors[i]);
		check(dl_cursor_end(scene->cursors[i], DL_END_COMMIT), "dl_cursor_end");
	}
}

/* The cost without disturbances. */
static double least(const double *values)
{
	double best = values[0];

	for (int i = 1; i < EPOCHS; i++)
		best = values[i] < best ? values[i] : best;
	return best;
}

static void row(const char *name, uint64_t bytes, uint32_t cluster, uint32_t cursors)
{
	struct times times;
	struct scene scene;

	open_scene(&scene, bytes, cursors);
	scene.cluster = cluster;
	for (int i = 0; i < EPOCHS; i++)
		epoch(&scene, &times, i);
	printf("| %s | %s | %u | %.0f | %.0f | %.0f |\n", name,
	       cluster > 1 ? "100 clusters" : "scattered", cursors, least(times.harvest),
	       least(times.read), least(times.end));
	close_scene(&scene);
}

int main(void)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} guests[] = { { "8 GiB", UINT64_C(8) << 30 },
		       { "256 GiB", UINT64_C(256) << 30 },
		       { "16 TiB", UINT64_C(16) << 40 } };

	printf("| memory | 10,000 pages | cursors | harvest, us | read, us | commit, us |\n"
	       "|---|---|---|---|---|---|\n");
	for (size_t i = 0; i < sizeof(guests) / sizeof(guests[0]); i++)
		for (uint32_t cluster = 100; cluster; cluster = cluster > 1 ? 1 : 0)
			for (uint32_t cursors = 1; cursors <= CURSORS; cursors *= 2)
				if (cursors != 4)
					row(guests[i].name, guests[i].bytes, cluster, cursors);
	return 0;
}
