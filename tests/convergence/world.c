/* SPDX-License-Identifier: MIT */
/* Opens and closes a run: guest, kernel, log, cursor. */

#include "run.h"

#include <math.h>
#include <stdlib.h>

enum {
	DEFAULT_RING = 16384,
	RESERVED_ENTRIES = 64 + 512, /* above the soft limit: the kernel's own, and PML's buffer */
	/* The library takes a ring for out of step that is full with less than a quarter. */
	LEAST_FULL = KERNEL_LEAST_RING / 4,
	LEAST_SLOT_SHIFT = 8,
	/* The library reads ahead within a slot, as much as one batch holds. */
	BATCH_SHIFT = 15,
};

/* How many of the guest's pages one of the library's stands for, as a power of two. */
static uint32_t unit_shift(const struct guest *guest)
{
	return (uint32_t)lround(log2(guest->unit_bytes / KERNEL_PAGE_BYTES));
}

static uint32_t next_power(uint32_t n)
{
	uint32_t power = KERNEL_LEAST_RING;

	while (power < n)
		power *= 2;
	return power;
}

static struct kernel *new_kernel(const struct run *run)
{
	uint32_t shift = unit_shift(&run->guest);
	uint32_t real = run->place->ring_entries ? run->place->ring_entries : DEFAULT_RING;
	uint32_t full = (real - RESERVED_ENTRIES) >> shift;
	uint32_t slot_shift =
		shift + LEAST_SLOT_SHIFT < BATCH_SHIFT ? BATCH_SHIFT - shift : LEAST_SLOT_SHIFT;

	if (full < LEAST_FULL)
		full = LEAST_FULL;
	return kernel_new(run->guest.pages, run->guest.vcpu_count, next_power(full), full,
			  slot_shift);
}

static void set_slots(struct run *run)
{
	uint64_t bytes = (uint64_t)KERNEL_PAGE_BYTES << run->kernel->slot_shift;
	struct dl_slot slot = { .size = sizeof(slot), .bytes = bytes };

	for (uint64_t gpa = 0; gpa < run->kernel->pages * KERNEL_PAGE_BYTES; gpa += bytes) {
		slot.slot = (uint32_t)(gpa / bytes);
		slot.gpa = gpa;
		slot.hva = (UINT64_C(1) << 46) + gpa; /* never accessed */
		check(dl_slot_set(run->log, &slot), "dl_slot_set");
	}
}

static struct dl_cursor *new_cursor(struct run *run)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = run->options.law == LAW_PLAN_SKIP ? DL_CURSOR_SKIP_REWRITTEN : 0,
		.vcpus = run->kernel->vcpu_count,
		/* One read of the sender returns no more than a slot. */
		.max_extent_bytes =
			((uint64_t)KERNEL_PAGE_BYTES << run->kernel->slot_shift) / SENDER_EXTENTS,
	};
	struct dl_cursor *cursor;

	check(dl_cursor_new(run->log, &options, &cursor), "dl_cursor_new");
	return cursor;
}

static void open_log(struct run *run)
{
	bool bitmaps = run->options.law == LAW_PLAN_BITMAP;
	const struct dl_options options = {
		.size = sizeof(options),
		.mode = bitmaps ? DL_MODE_BITMAP : DL_MODE_RING,
		.ring_entries = bitmaps ? 0 : run->kernel->ring_entries,
		.os = &run->kernel->os,
	};

	check(dl_log_open(KERNEL_VM_FD, &options, &run->log, NULL, 0), "dl_log_open");
	set_slots(run);
	for (uint32_t i = 0; i < run->kernel->vcpu_count; i++) {
		run->threads[i].worst_second = 1;
		check(dl_vcpu_add(run->log, KERNEL_VCPU_FD + (int)i, i, 0, &run->threads[i].handle),
		      "dl_vcpu_add");
	}
	/* Switches the timer on. */
	check(dl_log_fd(run->log), "dl_log_fd");
	sender_init(&run->sender, run->kernel, new_cursor(run), run->load->takes_all);
}

struct run *run_new(const struct run_options *options)
{
	struct run *run = calloc(1, sizeof(*run));

	check(run ? 0 : -12, "memory for a run");
	run->options = *options;
	run->load = load_find(options->load);
	run->place = load_guest(run->load, options->seed);
	run->random = random_new(options->seed);
	guest_init(&run->guest, run->place, &run->random);
	run->kernel = new_kernel(run);
	guest_place(&run->guest, run->place, run->kernel);
	wire_init(&run->wire, run->place, run->guest.unit_bytes, &run->random);
	open_log(run);
	run->began_ns = run->step_ns = run->kernel->now_ns;
	run->measured.limited_s = run->measured.diverging_s = -1;
	if (run->load->least_run > 0)
		run->least_run =
			random_between(&run->random, run->load->least_run, run->load->least_most);
	planner_begin(run);
	return run;
}

void run_free(struct run *run)
{
	planner_end(run);
	dl_cursor_free(run->sender.cursor);
	sender_fini(&run->sender);
	for (uint32_t i = 0; i < run->kernel->vcpu_count; i++)
		dl_vcpu_remove(run->threads[i].handle);
	dl_log_close(run->log);
	kernel_free(run->kernel);
	free(run);
}
