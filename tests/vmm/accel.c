/* SPDX-License-Identifier: MIT */
/* The library's side of the VMM: takes into bitmaps, and clears before contents are read. */
#include "vmm.h"

#include <string.h>

struct dl_cursor *vmm_cursor(struct vmm *vmm, uint32_t flags, uint32_t slot)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = flags,
		.vcpus = vmm->n_vcpus,
		.slot = slot,
	};
	struct dl_cursor *cursor;

	hv_check(dl_cursor_new(vmm->log, &options, &cursor), "dl_cursor_new");
	return cursor;
}

static uint64_t sync_slot(struct vmm *vmm, struct vmm_consumer *consumer, struct vmm_slot *slot,
			  uint32_t flags)
{
	const struct flat_range *range = &slot->range;
	uint64_t n_words = ram_words(range->pages), taken_bytes;

	memset(slot->words, 0, n_words * sizeof(*slot->words));
	hv_check(dl_cursor_take(consumer->cursor, slot->number, flags, slot->words, n_words,
				&taken_bytes),
		 "dl_cursor_take");
	/* Before the bits: who finds a page dirty looks at its chunk. */
	if (flags & DL_TAKE_NO_CLEAR)
		ram_owe_clear(range->block, range->block_page, slot->words, range->pages);
	ram_fan_out(range->block, consumer->clients, range->block_page, slot->words, range->pages);
	return taken_bytes / vmm->hv.page_bytes;
}

uint64_t vmm_sync(struct vmm *vmm, struct vmm_consumer *consumer, const struct ram_block *block,
		  uint32_t flags)
{
	uint64_t pages = 0;

	flags |= DL_TAKE_HARVEST;
	if (vmm->config.no_clear)
		flags |= DL_TAKE_NO_CLEAR;
	pthread_mutex_lock(&vmm->slots_lock);
	for (unsigned int i = 0; i < VMM_SLOTS; i++) {
		struct vmm_slot *slot = &vmm->slots[i];

		if (slot->used && (!block || slot->range.block == block))
			pages += sync_slot(vmm, consumer, slot, flags);
	}
	pthread_mutex_unlock(&vmm->slots_lock);
	return pages;
}

static void clear_slot(struct vmm *vmm, const struct vmm_slot *slot, uint64_t first, uint64_t end)
{
	const struct flat_range *range = &slot->range;
	uint64_t page_bytes = vmm->hv.page_bytes;

	if (first < range->block_page)
		first = range->block_page;
	if (end > range->block_page + range->pages)
		end = range->block_page + range->pages;
	if (first >= end)
		return;
	/* Once it has failed for good the pages are dirty again; that they are sent is no harm. */
	if (dl_slot_clear(vmm->log, slot->number, (first - range->block_page) * page_bytes,
			  (end - first) * page_bytes))
		hv_check(dl_mark_slot(vmm->log, slot->number,
				      (first - range->block_page) * page_bytes,
				      (end - first) * page_bytes),
			 "dl_mark_slot");
}

void vmm_clear(struct vmm *vmm, struct ram_block *block, uint64_t first, uint64_t pages)
{
	pthread_mutex_lock(&vmm->slots_lock);
	for (unsigned int i = 0; i < VMM_SLOTS; i++)
		if (vmm->slots[i].used && vmm->slots[i].range.block == block)
			clear_slot(vmm, &vmm->slots[i], first, first + pages);
	pthread_mutex_unlock(&vmm->slots_lock);
}
