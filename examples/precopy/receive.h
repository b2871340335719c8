/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_RECEIVE_H
#define PRECOPY_RECEIVE_H

#include "machine.h"
#include "wire.h"

/* One connection's frames with the contents of pages, on the side of the destination. */
struct receiver {
	struct wire *wire;
	struct machine *machine;
	uint32_t passes;
	uint64_t pages;
};

/* These return 0, or a negative errno value with the reason in wire->why. */

/* Whether the range of a frame is whole pages of guest memory. Counts them. */
int receiver_check_range(struct receiver *receiver, uint64_t offset_bytes, uint64_t bytes);

/* Receives passes until a frame of type last, whose header is left in *header. */
int receiver_run(struct receiver *receiver, enum wire_type last, struct wire_header *header);

#endif
