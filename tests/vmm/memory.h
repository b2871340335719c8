/* SPDX-License-Identifier: MIT */
#ifndef VMM_MEMORY_H
#define VMM_MEMORY_H

/*
 * What the guest sees at which address: regions with priorities, which the guest switches on, off
 * and elsewhere, rendered into a flat view for each address space. Listeners hear how a view
 * differs from the one before: first all ranges that are gone, then all that are new.
 */

#include "ram.h"

enum {
	MEMORY_SPACES = 2,
	MEMORY_REGIONS = 8,
	MEMORY_RANGES = 24,
};

struct region {
	struct ram_block *block; /* NULL: no memory is there */
	uint64_t block_page, gpa_page, pages;
	uint32_t spaces; /* a bit an address space */
	int priority;
	bool enabled;
};

struct flat_range {
	struct ram_block *block;
	uint64_t block_page, gpa_page, pages;
};

struct flat_view {
	struct flat_range ranges[MEMORY_RANGES];
	unsigned int n;
};

struct memory_listener {
	void (*removed)(void *opaque, uint32_t as_id, const struct flat_range *range);
	void (*added)(void *opaque, uint32_t as_id, const struct flat_range *range);
	void *opaque;
};

struct memory {
	struct region regions[MEMORY_REGIONS];
	unsigned int n_regions;
	struct flat_view views[MEMORY_SPACES];
	struct memory_listener listener;
};

struct region *memory_add(struct memory *memory, const struct region *region);

/* Makes changes of regions visible. */
void memory_commit(struct memory *memory);

/* The range at an address, or NULL. */
const struct flat_range *memory_find(const struct memory *memory, uint32_t as_id,
				     uint64_t gpa_page);

#endif
