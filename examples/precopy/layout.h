/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_LAYOUT_H
#define PRECOPY_LAYOUT_H

#include "guest.h"

#include <stdbool.h>

/*
 * Where everything lies in the guest. The host has the guest's memory in one piece and speaks of
 * it by offset, on the wire too; the guest sees it as three memslots with gaps between them:
 * a small one with what belongs to the system, and the rest in two halves. The working set
 * straddles the halves.
 *
 * Both sides compute the same layout from the same few numbers.
 */

enum {
	LAYOUT_SLOTS = 3,
	LAYOUT_MAX_VCPUS = 8,
	LAYOUT_DEVICE_PAGES = 64,
};

#define LAYOUT_MIN_BYTES (UINT64_C(16) << 20)
#define LAYOUT_MAX_BYTES (UINT64_C(256) << 30)

struct layout_slot {
	uint64_t gpa;
	uint64_t offset_bytes; /* in the guest's memory as the host has it */
	uint64_t bytes;
};

struct layout {
	uint32_t page_bytes;
	uint32_t vcpus;
	uint64_t memory_bytes;
	struct layout_slot slots[LAYOUT_SLOTS]; /* the index is the slot's id */
	/* In the system's slot: */
	uint64_t code_offset;
	uint64_t control_offset;     /* struct guest_control, a page each vCPU */
	uint64_t page_tables_offset; /* of the guest, of 4 KiB each */
	uint64_t page_tables_bytes;
	uint64_t device_offset;	     /* the device's state page, then LAYOUT_DEVICE_PAGES pages */
	uint64_t generations_offset; /* the tables of all vCPUs, one after the other */
	uint64_t generations_bytes;  /* of one vCPU */
	/* In the others: */
	uint64_t working_offset;
	uint64_t share_pages; /* of each vCPU */
};

/*
 * Computes the layout. Returns 0, or -EINVAL with the reason in why.
 */
int layout_make(struct layout *layout, uint64_t memory_bytes, uint64_t working_set_bytes,
		uint32_t vcpus, uint32_t page_bytes, char *why, size_t why_bytes);

/* The guest physical address of an offset. */
uint64_t layout_gpa(const struct layout *layout, uint64_t offset_bytes);

/* Fills in what the host tells each vCPU's code; the pattern and the quantum are left at 0. */
void layout_control(const struct layout *layout, uint32_t vcpu, struct guest_control *control);

static inline uint64_t layout_control_offset(const struct layout *layout, uint32_t vcpu)
{
	return layout->control_offset + (uint64_t)vcpu * layout->page_bytes;
}

#endif
