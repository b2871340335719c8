/* SPDX-License-Identifier: MIT */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

#include "guest.h"

#include <stdbool.h>

/*
 * The layout of guest memory. The host maps it in one piece and addresses it by offset, on the wire
 * and in files too. The guest sees four memslots with gaps between them: a small system slot, two
 * that hold half of the rest each, and one of a device, whose memory the guest never touches. The
 * working set straddles the two halves.
 *
 * A guest and its copy have the same layout, computed from the same few numbers.
 */

enum {
	LAYOUT_DEVICE_SLOT = 3, /* those below are RAM */
	LAYOUT_SLOTS = 4,
	LAYOUT_MAX_VCPUS = 8,
	LAYOUT_DEVICE_PAGES = 64,
	LAYOUT_BALLOON_PAGES = 16,
};

#define LAYOUT_MIN_BYTES (UINT64_C(16) << 20)
#define LAYOUT_MAX_BYTES (UINT64_C(256) << 30)

struct layout_slot {
	uint64_t gpa;
	uint64_t offset_bytes; /* in the host's mapping */
	uint64_t bytes;
};

struct layout {
	uint32_t page_bytes;
	uint32_t vcpus;
	uint64_t memory_bytes;
	struct layout_slot slots[LAYOUT_SLOTS]; /* indexed by slot id */
	/* In the system slot: */
	uint64_t code_offset;
	uint64_t control_offset;     /* struct guest_control, one page per vCPU */
	uint64_t page_tables_offset; /* of the guest, 4 KiB each */
	uint64_t page_tables_bytes;
	uint64_t generations_offset; /* one table per vCPU */
	uint64_t generations_bytes;  /* size of one table */
	/* In the next two: */
	uint64_t working_offset;
	uint64_t share_pages; /* per vCPU */
	/* A state page, then LAYOUT_DEVICE_PAGES and LAYOUT_BALLOON_PAGES: the device's slot. */
	uint64_t device_offset;
};

/* Computes the layout. Returns 0, or -EINVAL with the reason in why. */
int layout_make(struct layout *layout, uint64_t memory_bytes, uint64_t working_set_bytes,
		uint32_t vcpus, uint32_t page_bytes, char *why, size_t why_bytes);

/* The guest physical address of an offset. */
uint64_t layout_gpa(const struct layout *layout, uint64_t offset_bytes);

/* The other place of the device's slot, between which --slot-moves moves it. */
uint64_t layout_device_gpa(const struct layout *layout, bool other);

/* Fills in the vCPU's control page, except for the pattern and the quantum, which are 0. */
void layout_control(const struct layout *layout, uint32_t vcpu, struct guest_control *control);

static inline uint64_t layout_control_offset(const struct layout *layout, uint32_t vcpu)
{
	return layout->control_offset + (uint64_t)vcpu * layout->page_bytes;
}

#endif
