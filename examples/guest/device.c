/* SPDX-License-Identifier: MIT */
#include "device.h"
#include "../clock.h"
#include "device_alias.h"
#include "device_slot.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { WRITER = 0x100, BALLOON = 0x101, BURST_WRITES = 4 };

#define BURST_NS (2 * NS_PER_MS)

void device_init(struct device *device, struct machine *machine, struct dl_log *log)
{
	pthread_condattr_t attr;

	memset(device, 0, sizeof(*device));
	device->machine = machine;
	device->log = log;
	pthread_mutex_init(&device->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&device->changed, &attr);
	pthread_condattr_destroy(&attr);
}

static uint64_t page_offset(const struct machine *machine, uint64_t number)
{
	return machine->layout.device_offset +
	       (1 + number % LAYOUT_DEVICE_PAGES) * machine->layout.page_bytes;
}

static uint64_t balloon_offset(const struct machine *machine, uint64_t step)
{
	return machine->layout.device_offset +
	       (1 + LAYOUT_DEVICE_PAGES + step % LAYOUT_BALLOON_PAGES) * machine->layout.page_bytes;
}

/* Marks what was written. A real device would notify the guest only after that. */
static int mark(struct device *device, uint64_t offset, size_t bytes, bool by_slot)
{
	uint64_t in_slot = offset - device->machine->layout.device_offset;

	if (!device->log)
		return 0;
	/* A VMM uses whichever of the two addresses it has at hand. */
	if (by_slot)
		return dl_mark_slot(device->log, LAYOUT_DEVICE_SLOT, in_slot, bytes);
	return dl_mark_gpa(device->log, 0, device_slot_gpa(device) + in_slot, bytes);
}

static int write_and_mark(struct device *device, uint64_t offset, const void *data, size_t bytes,
			  bool by_slot)
{
	device_store(device, offset, data, bytes);
	return device->skip_marks ? 0 : mark(device, offset, bytes, by_slot);
}

static int write_record(struct device *device)
{
	uint64_t number = device->state.writes++;
	uint64_t offset = page_offset(device->machine, number);
	struct record record;

	record = record_make(layout_gpa(&device->machine->layout, offset), WRITER, number + 1);
	return write_and_mark(device, offset, &record, sizeof(record), number & 1);
}

/* Odd rounds through the balloon's pages discard what even ones have written. */
static bool discards(uint64_t step)
{
	return step / LAYOUT_BALLOON_PAGES % 2;
}

static int step_balloon(struct device *device)
{
	struct machine *machine = device->machine;
	uint64_t step = device->state.balloon_steps++, offset = balloon_offset(machine, step);
	bool is_marked = !device->skip_discards && (device->alias || !device->skip_marks);
	struct record record = record_make(layout_gpa(&machine->layout, offset), BALLOON, step + 1);
	int r;

	if (!discards(step))
		return write_and_mark(device, offset, &record, sizeof(record), step & 1);
	r = device_drop_page(device, offset);
	if (r || !is_marked)
		return r;
	return mark(device, offset, machine->layout.page_bytes, step & 1);
}

static void note_failure(struct device *device, int r)
{
	if (r && !device->failure)
		device->failure = r;
}

static void *device_main(void *arg)
{
	struct device *device = arg;
	struct timespec due;
	int i;

	pthread_mutex_lock(&device->lock);
	while (!device->stopping) {
		for (i = 0; i < BURST_WRITES; i++)
			note_failure(device, write_record(device));
		note_failure(device, step_balloon(device));
		if (device->log && device->moves_slot)
			note_failure(device, device_slot_change(device));
		due = clock_timespec(clock_ns() + BURST_NS);
		pthread_cond_timedwait(&device->changed, &device->lock, &due);
	}
	pthread_mutex_unlock(&device->lock);
	return NULL;
}

int device_start(struct device *device)
{
	int r = pthread_create(&device->thread, NULL, device_main, device);

	device->has_thread = !r;
	return -r;
}

void device_stop(struct device *device)
{
	if (!device->has_thread)
		return;
	pthread_mutex_lock(&device->lock);
	device->stopping = true;
	pthread_cond_signal(&device->changed);
	pthread_mutex_unlock(&device->lock);
	pthread_join(device->thread, NULL);
	device->has_thread = false;
}

/* The thread works under the lock, and waits without it. */
void device_pause(struct device *device)
{
	pthread_mutex_lock(&device->lock);
}

void device_resume(struct device *device)
{
	pthread_mutex_unlock(&device->lock);
}

void device_discard(struct device *device)
{
	while (!discards(device->state.balloon_steps))
		note_failure(device, step_balloon(device));
	note_failure(device, step_balloon(device));
}

int device_save(struct device *device, struct device_state *state)
{
	const struct layout *layout = &device->machine->layout;
	struct record record;
	int r;

	note_failure(device, device_slot_home(device));
	record = record_make(layout_gpa(layout, layout->device_offset), WRITER,
			     device->state.writes);
	*state = device->state;
	r = write_and_mark(device, layout->device_offset, &record, sizeof(record), true);
	return device->failure ? device->failure : r;
}

static bool record_matches(const struct machine *machine, uint64_t offset, uint64_t writer,
			   uint64_t generation, char *why, size_t why_bytes)
{
	uint64_t gpa = layout_gpa(&machine->layout, offset);
	struct record expected = record_make(gpa, writer, generation), found;

	memcpy(&found, machine->memory + offset, sizeof(found));
	if (!memcmp(&found, &expected, sizeof(found)))
		return true;
	snprintf(why, why_bytes,
		 "the device found damage at %#" PRIx64 ": generation %" PRIu64
		 ", expected %" PRIu64,
		 gpa, found.generation, generation);
	return false;
}

/* The last step that concerned a page of the balloon has written a record, or discarded it. */
static bool balloon_matches(const struct machine *machine, uint64_t steps, char *why,
			    size_t why_bytes)
{
	static const struct record discarded;
	uint64_t left = steps < LAYOUT_BALLOON_PAGES ? steps : LAYOUT_BALLOON_PAGES;

	while (left--) {
		uint64_t step = --steps, offset = balloon_offset(machine, step);

		if (!discards(step)) {
			if (!record_matches(machine, offset, BALLOON, step + 1, why, why_bytes))
				return false;
		} else if (memcmp(machine->memory + offset, &discarded, sizeof(discarded))) {
			snprintf(why, why_bytes,
				 "a page that was discarded has contents at %#" PRIx64,
				 layout_gpa(&machine->layout, offset));
			return false;
		}
	}
	return true;
}

/* The number of writes determines which write was the last one to each page. */
bool device_load(struct device *device, const struct device_state *state, char *why,
		 size_t why_bytes)
{
	const struct machine *machine = device->machine;
	uint64_t page, number;

	device->state = *state;
	if (!record_matches(machine, machine->layout.device_offset, WRITER, state->writes, why,
			    why_bytes))
		return false;
	for (page = 0; page < LAYOUT_DEVICE_PAGES && page < state->writes; page++) {
		number = state->writes - 1 - page;
		if (!record_matches(machine, page_offset(machine, number), WRITER, number + 1, why,
				    why_bytes))
			return false;
	}
	return balloon_matches(machine, state->balloon_steps, why, why_bytes);
}
