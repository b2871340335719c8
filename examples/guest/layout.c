/* SPDX-License-Identifier: MIT */
#include "layout.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* On arm64, memory begins above the device range; the doorbell is below 1 GiB. */
#ifdef __aarch64__
#define SYSTEM_GPA GIB
#else
#define SYSTEM_GPA 0
#endif
#define HALVES_GPA (4 * GIB)

/* Above the system slot; below what KVM and firmware have under 4 GiB. Two places, one in use. */
#define DEVICE_GPA	 (3 * GIB)
#define OTHER_DEVICE_GPA (3 * GIB + 256 * MIB)

static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

/*
 * Two upper levels, and a table of 2 MiB entries for each GiB that has memory. arm64 needs less.
 */
static uint64_t page_tables_bytes(uint64_t memory_bytes)
{
	return (2 + 1 + 2 + memory_bytes / GIB + 2) * 4096;
}

/* Lays out the system slot. Returns its size. */
static uint64_t place_system(struct layout *layout, uint64_t page_bytes)
{
	/* Page 0 stays empty: a stray null pointer reads zeros. */
	uint64_t at = page_bytes;

	layout->code_offset = at;
	at += page_bytes;
	layout->control_offset = at;
	at += layout->vcpus * page_bytes;
	layout->page_tables_offset = at;
	layout->page_tables_bytes = page_tables_bytes(layout->memory_bytes);
	at = round_up(at + layout->page_tables_bytes, page_bytes);
	layout->generations_offset = at;
	layout->generations_bytes = round_up(layout->share_pages * 8, page_bytes);
	at += layout->vcpus * layout->generations_bytes;
	/* Huge pages need guest and host addresses that are equal modulo 2 MiB. */
	return round_up(at, 2 * MIB);
}

static uint64_t device_bytes(uint64_t page_bytes)
{
	return (1 + LAYOUT_DEVICE_PAGES + LAYOUT_BALLOON_PAGES) * page_bytes;
}

static void place_slots(struct layout *layout, uint64_t system_bytes)
{
	uint64_t device = device_bytes(layout->page_bytes);
	uint64_t rest = layout->memory_bytes - system_bytes - device;
	uint64_t half = round_up(rest / 2, 2 * MIB);
	struct layout_slot *slot = layout->slots;

	slot[0] = (struct layout_slot){ SYSTEM_GPA, 0, system_bytes };
	slot[1] = (struct layout_slot){ HALVES_GPA, system_bytes, half };
	slot[2] = (struct layout_slot){ HALVES_GPA + round_up(half, GIB) + GIB, system_bytes + half,
					rest - half };
	layout->device_offset = layout->memory_bytes - device;
	slot[LAYOUT_DEVICE_SLOT] =
		(struct layout_slot){ DEVICE_GPA, layout->device_offset, device };
}

static int reject(char *why, size_t why_bytes, const char *what, uint64_t value, const char *rule,
		  uint64_t limit)
{
	snprintf(why, why_bytes, "%s %" PRIu64 " %s %" PRIu64, what, value, rule, limit);
	return -EINVAL;
}

int layout_make(struct layout *layout, uint64_t memory_bytes, uint64_t working_set_bytes,
		uint32_t vcpus, uint32_t page_bytes, char *why, size_t why_bytes)
{
	uint64_t system_bytes, outside, rest, working_bytes, low;

	memset(layout, 0, sizeof(*layout));
	if (page_bytes < 4096 || page_bytes > 65536 || (page_bytes & (page_bytes - 1)))
		return reject(why, why_bytes, "page size", page_bytes,
			      "is not a power of two from 4096 to", 65536);
	if (!vcpus || vcpus > LAYOUT_MAX_VCPUS)
		return reject(why, why_bytes, "vCPU count", vcpus, "is not from 1 to",
			      LAYOUT_MAX_VCPUS);
	if (memory_bytes < LAYOUT_MIN_BYTES)
		return reject(why, why_bytes, "memory size", memory_bytes,
			      "is less than the minimum,", LAYOUT_MIN_BYTES);
	if (memory_bytes > LAYOUT_MAX_BYTES)
		return reject(why, why_bytes, "memory size", memory_bytes,
			      "is more than the maximum,", LAYOUT_MAX_BYTES);
	if (memory_bytes % page_bytes)
		return reject(why, why_bytes, "memory size", memory_bytes,
			      "is not a multiple of the page size,", page_bytes);
	if (working_set_bytes > memory_bytes)
		return reject(why, why_bytes, "working set size", working_set_bytes,
			      "is larger than the memory,", memory_bytes);

	layout->page_bytes = page_bytes;
	layout->vcpus = vcpus;
	layout->memory_bytes = memory_bytes;
	layout->share_pages = working_set_bytes / page_bytes / vcpus;
	if (!layout->share_pages)
		layout->share_pages = 1;
	system_bytes = place_system(layout, page_bytes);
	outside = system_bytes + device_bytes(page_bytes);
	rest = memory_bytes - outside;
	working_bytes = layout->share_pages * vcpus * page_bytes;
	if (outside > memory_bytes || working_bytes > rest) {
		/* Shrink the working set to what fits; the system slot can only shrink with it. */
		rest = outside > memory_bytes ? 0 : rest;
		layout->share_pages = rest / page_bytes / vcpus;
		if (!layout->share_pages)
			return reject(why, why_bytes, "memory size", memory_bytes,
				      "is too small: the guest needs more than", outside);
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

uint64_t layout_device_gpa(const struct layout *layout, bool other)
{
	return other ? OTHER_DEVICE_GPA : layout->slots[LAYOUT_DEVICE_SLOT].gpa;
}

void layout_control(const struct layout *layout, uint32_t vcpu, struct guest_control *control)
{
	const struct layout_slot *low = &layout->slots[1], *high = &layout->slots[2];
	uint64_t first = layout->working_offset + vcpu * layout->share_pages * layout->page_bytes;
	uint64_t table = layout->generations_offset + vcpu * layout->generations_bytes;

	memset(control, 0, sizeof(*control));
	/* As if there were no gap between the halves: the guest adds it. */
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
