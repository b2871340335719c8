/* SPDX-License-Identifier: MIT */
/* The memory of slot tables, in parts that several tables share. */

#include "pages/slot_parts.h"

#include "kvm/os.h"

#include <stdlib.h>

void *dli_part_new(struct dli_parts *parts, size_t bytes)
{
	struct dli_part *part = dli_allocate_dirty(1, bytes);

	if (!part)
		return NULL;
	part->version = parts->version;
	part->next = parts->fresh;
	parts->fresh = part;
	return part;
}

void dli_part_replace(struct dli_parts *parts, struct dli_part *part)
{
	part->next = parts->replaced;
	parts->replaced = part;
}

void dli_part_free_list(struct dli_part *part)
{
	while (part) {
		struct dli_part *next = part->next;

		free(part);
		part = next;
	}
}
