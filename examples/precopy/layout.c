/* SPDX-License-Identifier: MIT */
#include "layout.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* Arm guests look for their memory above what belongs to devices; the doorbell is below 1 GiB. */
#ifdef __aarch64__
#define SYSTEM_GPA GIB
#else
#define SYSTEM_GPA 0
#endif
#define HALVES_GPA (4 * GIB)

static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

/* Two upper levels, and a table of 2 MiB entries for each GiB that has memory. More than arm64 needs. */
static uint64_t page_tables_bytes(uint64_t memory_bytes)
{
	return (2 + 1 + 2 + memory_bytes / GIB + 2) * 4096;
}

/* Places what is in the system's slot. Returns the end of it. */
static uint64_t place_system(struct layout *layout, uint64_t page_bytes)
{
	uint64_t at =
		page_bytes; /* page 0 stays empty: a stray null pointer shows as a zero page */

	layout->code_offset = at;
	at += page_bytes;
	layout->control_offset = at;
	at += layout->vcpus * page_bytes;
	layout->page_tables_offset = at;
	layout->page_tables_bytes = page_tables_bytes(layout->memory_bytes);
	at = round_up(at + layout->page_tables_bytes, page_bytes);
	layout->device_offset = at;
	at += (1 + LAYOUT_DEVICE_PAGES) * page_bytes;
	layout->generations_offset = at;
	layout->generations_bytes = round_up(layout->share_pages * 8, page_bytes);
	at += layout->vcpus * layout->generations_bytes;
	/* Large pages need guest and host addresses that agree modulo 2 MiB. */
	return round_up(at, 2 * MIB);
}

static void place_slots(struct layout *layout, uint64_t system_bytes)
{
	uint64_t rest = layout->memory_bytes - system_bytes;
	uint64_t half = round_up(rest / 2, 2 * MIB);
	struct layout_slot *slot = layout->slots;

	slot[0] = (struct layout_slot){ SYSTEM_GPA, 0, system_bytes };
	slot[1] = (struct layout_slot){ HALVES_GPA, system_bytes, half };
	slot[2] = (struct layout_slot){ HALVES_GPA + round_up(half, GIB) + GIB, system_bytes + half,
					rest - half };
}

static int refuse(char *why, size_t why_bytes, const char *what, uint64_t is, uint64_t limit)
{
	snprintf(why, why_bytes, "%" PRIu64 " %s: the limit is %" PRIu64, is, what, limit);
	return -EINVAL;
}

int layout_make(struct layout *layout, uint64_t memory_bytes, uint64_t working_set_bytes,
		uint32_t vcpus, uint32_t page_bytes, char *why, size_t why_bytes)
{
	uint64_t system_bytes, rest, working_bytes, low;

	memset(layout, 0, sizeof(*layout));
	if (page_bytes < 4096 || page_bytes > 65536 || (page_bytes & (page_bytes - 1)))
		return refuse(why, why_bytes, "bytes in a page", page_bytes, 65536);
	if (!vcpus || vcpus > LAYOUT_MAX_VCPUS)
		return refuse(why, why_bytes, "vCPUs", vcpus, LAYOUT_MAX_VCPUS);
	if (memory_bytes < LAYOUT_MIN_BYTES)
		return refuse(why, why_bytes, "bytes of memory, which is too little", memory_bytes,
			      LAYOUT_MIN_BYTES);
	if (memory_bytes > LAYOUT_MAX_BYTES)
		return refuse(why, why_bytes, "bytes of memory, which is too much", memory_bytes,
			      LAYOUT_MAX_BYTES);
	if (memory_bytes % page_bytes)
		return refuse(why, why_bytes, "bytes of memory, which is no multiple of the page",
			      memory_bytes, page_bytes);
	if (working_set_bytes > memory_bytes)
		return refuse(why, why_bytes, "bytes of working set", working_set_bytes,
			      memory_bytes);

	layout->page_bytes = page_bytes;
	layout->vcpus = vcpus;
	layout->memory_bytes = memory_bytes;
	layout->share_pages = working_set_bytes / page_bytes / vcpus;
	if (!layout->share_pages)
		layout->share_pages = 1;
	system_bytes = place_system(layout, page_bytes);
	rest = memory_bytes - system_bytes;
	working_bytes = layout->share_pages * vcpus * page_bytes;
	if (system_bytes > memory_bytes || working_bytes > rest) {
		/* As much as fits: the system's part only becomes smaller with it. */
		rest = system_bytes > memory_bytes ? 0 : rest;
		layout->share_pages = rest / page_bytes / vcpus;
		if (!layout->share_pages)
			return refuse(why, why_bytes, "bytes of memory are needed", system_bytes,
				      memory_bytes);
		system_bytes = place_system(layout, page_bytes);
		working_bytes = layout->share_pages * vcpus * page_bytes;
	}
	place_slots(layout, system_bytes);
	low = layout->slots[2].offset_bytes - layout->slots[1].offset_bytes;
	if (low > working_bytes / 2)
		low = working_bytes / 2 / page_bytes * page_bytes;
	if (working_bytes - low > layout->slots[2].bytes)
		low = working_bytes - layout->slots[2].bytes;
	layout->working_offset = layout->slots[2].offset_bytes - low;
	return 0;
}

uint64_t layout_gpa(const struct layout *layout, uint64_t offset_bytes)
{
	unsigned slot = LAYOUT_SLOTS;

	while (slot-- > 1)
		if (offset_bytes >= layout->slots[slot].offset_bytes)
			break;
	return layout->slots[slot].gpa + (offset_bytes - layout->slots[slot].offset_bytes);
}

void layout_control(const struct layout *layout, uint32_t vcpu, struct guest_control *control)
{
	const struct layout_slot *low = &layout->slots[1], *high = &layout->slots[2];
	uint64_t first = layout->working_offset + vcpu * layout->share_pages * layout->page_bytes;
	uint64_t table = layout->generations_offset + vcpu * layout->generations_bytes;

	memset(control, 0, sizeof(*control));
	/* Counted on from the lower half, as if there were no gap: the guest adds it. */
	control->first_address = low->gpa + (first - low->offset_bytes);
	control->gap_at = low->gpa + low->bytes;
	control->gap_bytes = high->gpa - (low->gpa + low->bytes);
	control->page_bytes = layout->page_bytes;
	control->share_pages = layout->share_pages;
	control->hot_pages = (layout->share_pages + 15) / 16;
	control->table_address = layout_gpa(layout, table);
	control->vcpu = vcpu;
	control->random = (vcpu + 1) * RECORD_FACTOR;
}
