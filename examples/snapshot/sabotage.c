/* SPDX-License-Identifier: MIT */
#include "sabotage.h"
#include "image.h"

#include <errno.h>
#include <string.h>

enum { SKIP_EVERY_PAGES = 61 };

int saboteur_init(struct saboteur *saboteur, enum sabotage kind, const struct machine *machine)
{
	*saboteur = (struct saboteur){ .kind = kind, .machine = machine };
	if (kind != SABOTAGE_READ_EARLY)
		return 0;
	saboteur->copy = image_map(machine->layout.memory_bytes);
	return saboteur->copy ? 0 : -ENOMEM;
}

void saboteur_free(struct saboteur *saboteur)
{
	if (saboteur->machine)
		image_unmap(saboteur->copy, saboteur->machine->layout.memory_bytes);
}

void saboteur_copy(struct saboteur *saboteur)
{
	if (saboteur->copy)
		memcpy(saboteur->copy, saboteur->machine->memory,
		       saboteur->machine->layout.memory_bytes);
}

const uint8_t *saboteur_memory(const struct saboteur *saboteur)
{
	return saboteur->copy ? saboteur->copy : saboteur->machine->memory;
}

bool saboteur_skips(const struct saboteur *saboteur, uint64_t image_bytes, bool paused)
{
	const struct layout *layout = &saboteur->machine->layout;
	uint64_t page = image_bytes / layout->page_bytes;
	uint64_t state_page = layout->device_offset / layout->page_bytes;

	if (saboteur->kind == SABOTAGE_ACK)
		return page % SKIP_EVERY_PAGES == state_page % SKIP_EVERY_PAGES;
	return saboteur->kind == SABOTAGE_DROP && paused && page == state_page;
}
