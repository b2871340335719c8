/* SPDX-License-Identifier: MIT */
#include "device.h"
#include "clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { WRITER = 0x100, BURST_WRITES = 4 };

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

/* Write first, then mark. A real device would notify the guest only after that. */
static int write_and_mark(struct device *device, uint64_t offset, const void *data, size_t bytes,
			  bool by_slot)
{
	struct machine *machine = device->machine;

	memcpy(machine->memory + offset, data, bytes);
	if (!device->log || device->skip_marks)
		return 0;
	/* Slot 0 begins at offset 0. A VMM uses whichever of the two addresses it has at hand. */
	if (by_slot)
		return dl_mark_slot(device->log, 0, offset, bytes);
	return dl_mark_gpa(device->log, 0, layout_gpa(&machine->layout, offset), bytes);
}

static int write_record(struct device *device)
{
	uint64_t number = device->state.writes++;
	uint64_t offset = page_offset(device->machine, number);
	struct record record;

	record = record_make(layout_gpa(&device->machine->layout, offset), WRITER, number + 1);
	return write_and_mark(device, offset, &record, sizeof(record), number & 1);
}

static void *device_main(void *arg)
{
	struct device *device = arg;
	struct timespec due;
	int i, r;

	pthread_mutex_lock(&device->lock);
	while (!device->stopping) {
		for (i = 0; i < BURST_WRITES; i++) {
			r = write_record(device);
			if (r)
				device->failure = r;
		}
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

int device_save(struct device *device, struct device_state *state)
{
	const struct layout *layout = &device->machine->layout;
	struct record record;
	int r;

	record = record_make(layout_gpa(layout, layout->device_offset), WRITER,
			     device->state.writes);
	*state = device->state;
	r = write_and_mark(device, layout->device_offset, &record, sizeof(record), true);
	return device->failure ? device->failure : r;
}

static bool record_matches(const struct machine *machine, uint64_t offset, uint64_t generation,
			   char *why, size_t why_bytes)
{
	uint64_t gpa = layout_gpa(&machine->layout, offset);
	struct record expected = record_make(gpa, WRITER, generation), found;

	memcpy(&found, machine->memory + offset, sizeof(found));
	if (!memcmp(&found, &expected, sizeof(found)))
		return true;
	snprintf(why, why_bytes,
		 "the device found damage at %#" PRIx64 ": generation %" PRIu64
		 ", expected %" PRIu64,
		 gpa, found.generation, generation);
	return false;
}

/* The number of writes determines which write was the last one to each page. */
bool device_load(struct device *device, const struct device_state *state, char *why,
		 size_t why_bytes)
{
	const struct machine *machine = device->machine;
	uint64_t page, number;

	device->state = *state;
	if (!record_matches(machine, machine->layout.device_offset, state->writes, why, why_bytes))
		return false;
	for (page = 0; page < LAYOUT_DEVICE_PAGES && page < state->writes; page++) {
		number = state->writes - 1 - page;
		if (!record_matches(machine, page_offset(machine, number), number + 1, why,
				    why_bytes))
			return false;
	}
	return true;
}
