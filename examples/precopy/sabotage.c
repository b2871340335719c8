/* SPDX-License-Identifier: MIT */
#include "sabotage.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum { ACK_EVERY_PAGES = 61 };

int saboteur_init(struct saboteur *saboteur, enum sabotage kind, const struct machine *machine)
{
	void *copy;

	memset(saboteur, 0, sizeof(*saboteur));
	saboteur->kind = kind;
	saboteur->machine = machine;
	if (kind != SABOTAGE_READ_EARLY)
		return 0;
	copy = mmap(NULL, machine->layout.memory_bytes, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (copy == MAP_FAILED)
		return -ENOMEM;
	saboteur->copy = copy;
	return 0;
}

void saboteur_free(struct saboteur *saboteur)
{
	if (saboteur->copy)
		munmap(saboteur->copy, saboteur->machine->layout.memory_bytes);
}

void saboteur_snapshot(struct saboteur *saboteur)
{
	const struct machine *machine = saboteur->machine;

	if (saboteur->kind == SABOTAGE_READ_EARLY)
		memcpy(saboteur->copy, machine->memory, machine->layout.memory_bytes);
}

const uint8_t *saboteur_contents(const struct saboteur *saboteur, uint64_t offset_bytes)
{
	if (saboteur->kind == SABOTAGE_READ_EARLY)
		return saboteur->copy + offset_bytes;
	return saboteur->machine->memory + offset_bytes;
}

bool saboteur_skips_page(const struct saboteur *saboteur, uint64_t offset_bytes, bool final)
{
	const struct layout *layout = &saboteur->machine->layout;
	uint64_t page = offset_bytes / layout->page_bytes;
	uint64_t state_page = layout->device_offset / layout->page_bytes;

	if (saboteur->kind == SABOTAGE_ACK)
		return page % ACK_EVERY_PAGES == state_page % ACK_EVERY_PAGES;
	return saboteur->kind == SABOTAGE_DROP && final && page == state_page;
}
