/* SPDX-License-Identifier: MIT */
/* A dirty-rate meter: which pages were written between two moments. */
#include "vmm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = sizeof(((struct vmm *)0)->blocks) / sizeof(void *) };

/* logged: only values that a harvest must know of. */
static uint64_t *note_words(struct vmm *vmm, const struct ram_block *block, bool logged)
{
	uint64_t *words = calloc(block->max_pages * RAM_WRITERS, sizeof(*words)), *to = words;

	hv_check(words ? 0 : -ENOMEM, "words of a block");
	for (uint64_t page = 0; page < block->max_pages; page++)
		for (int writer = 0; writer < RAM_WRITERS; writer++)
			*to++ = logged ? vmm_logged_value(vmm, block, page, (enum ram_writer)writer)
				       : ram_value(block->host, block, page,
						   (enum ram_writer)writer);
	return words;
}

void vmm_meter_start(struct vmm *vmm)
{
	struct vmm_meter *meter = &vmm->meter;

	vmm_lock(vmm);
	for (unsigned int i = 0; i < BLOCKS; i++)
		memset(vmm->blocks[i]->dirty[RAM_RATE], 0,
		       ram_words(vmm->blocks[i]->max_pages) * sizeof(uint64_t));
	meter->cursor = vmm_cursor(vmm, DL_CURSOR_CLEAN, 0);
	meter->running = true;
	/* Writes from here on must be counted. */
	for (unsigned int i = 0; i < BLOCKS; i++)
		meter->before[i] = note_words(vmm, vmm->blocks[i], false);
	vmm_unlock(vmm);
}

static void count_extent(const struct vmm *vmm, const struct dl_extent *extent)
{
	const struct vmm_slot *slot = (const void *)(uintptr_t)extent->cookie;
	uint64_t page_bytes = vmm->hv.page_bytes;

	ram_dirty(slot->range.block, RAM_BIT(RAM_RATE),
		  slot->range.block_page + extent->offset_bytes / page_bytes,
		  extent->bytes / page_bytes);
}

static void collect(struct vmm *vmm)
{
	struct dl_cursor *cursor = vmm->meter.cursor;
	struct dl_extent extents[16];
	int n;

	hv_check(dl_harvest(cursor, 0, NULL), "dl_harvest");
	while ((n = dl_cursor_read(cursor, extents, 16)) > 0)
		for (int i = 0; i < n; i++)
			count_extent(vmm, &extents[i]);
	hv_check(n, "dl_cursor_read");
	hv_check(dl_cursor_end(cursor, DL_END_COMMIT), "dl_cursor_end");
}

static bool was_written(const uint64_t *before, const uint64_t *after)
{
	for (int writer = 0; writer < RAM_WRITERS; writer++)
		if (after[writer] > before[writer])
			return true;
	return false;
}

static void judge(struct vmm *vmm, struct ram_block *block, const uint64_t *before,
		  const uint64_t *after)
{
	struct vmm_meter *meter = &vmm->meter;

	for (uint64_t page = 0; page < block->max_pages; page++) {
		bool counted =
			ram_test(block->dirty[RAM_RATE], page) || ram_test(block->kept, page);

		meter->counted_pages += counted;
		if (!was_written(before + page * RAM_WRITERS, after + page * RAM_WRITERS))
			continue;
		meter->truth_pages++;
		meter->missed_pages += !counted;
	}
}

void vmm_meter_stop(struct vmm *vmm)
{
	struct vmm_meter *meter = &vmm->meter;
	uint64_t *after[BLOCKS];

	vmm_lock(vmm);
	/* Writes before this must be counted. */
	for (unsigned int i = 0; i < BLOCKS; i++)
		after[i] = note_words(vmm, vmm->blocks[i], true);
	collect(vmm);
	for (unsigned int i = 0; i < BLOCKS; i++) {
		judge(vmm, vmm->blocks[i], meter->before[i], after[i]);
		free(meter->before[i]);
		free(after[i]);
	}
	dl_cursor_free(meter->cursor);
	meter->cursor = NULL;
	meter->running = false;
	vmm_unlock(vmm);
}
