/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_HELD_H
#define SNAPSHOT_HELD_H

#include "file.h"

/*
 * Pages that were copied and are not written yet: those of the pause, which is over sooner so. The
 * memory is there from the start, as page faults would make the pause longer.
 */
struct held {
	uint8_t *memory;
	uint64_t room_bytes, used_bytes;
	struct held_range {
		uint64_t image_bytes, bytes;
	} * ranges;
	uint64_t n, room;
};

/* Returns 0 or -ENOMEM. No bytes: nothing can be held. */
int held_init(struct held *held, uint64_t room_bytes);
void held_free(struct held *held);

/* Copies the pages. Returns false if there is no room for them. */
bool held_add(struct held *held, const uint8_t *memory, uint64_t image_bytes, uint64_t bytes);

/* Adds them to the file. Returns as file_add(). */
int held_write(struct held *held, struct file *file);

void held_forget(struct held *held);

#endif
