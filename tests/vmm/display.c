/* SPDX-License-Identifier: MIT */
/* Mirrors: a display, and what was translated from guest code. */
#include "vmm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void vmm_mirror_open(struct vmm *vmm, struct vmm_mirror *mirror, struct ram_block *block,
		     enum ram_client client)
{
	memset(mirror, 0, sizeof(*mirror));
	mirror->client = client;
	mirror->block = block;
	mirror->shadow = calloc(block->max_pages, block->page_bytes);
	mirror->seen = calloc(block->max_pages * RAM_WRITERS, sizeof(*mirror->seen));
	hv_check(mirror->shadow && mirror->seen ? 0 : -ENOMEM, "a mirror");
	ram_dirty(block, RAM_BIT(client), 0, block->pages);
	if (vmm->config.shared)
		return;
	mirror->consumer.clients = RAM_BIT(client);
	mirror->consumer.cursor = client == RAM_DISPLAY
					  ? vmm_cursor(vmm, DL_CURSOR_ONE_SLOT, VMM_DISPLAY_SLOT)
					  : vmm_cursor(vmm, DL_CURSOR_WANTED, 0);
}

void vmm_mirror_close(struct vmm_mirror *mirror)
{
	dl_cursor_free(mirror->consumer.cursor);
	free(mirror->shadow);
	free(mirror->seen);
}

static void note_words(struct vmm *vmm, struct vmm_mirror *mirror)
{
	const struct ram_block *block = mirror->block;
	uint64_t *seen = mirror->seen;

	for (uint64_t page = 0; page < block->pages; page++)
		for (int writer = 0; writer < RAM_WRITERS; writer++)
			*seen++ = vmm_logged_value(vmm, block, page, (enum ram_writer)writer);
}

static void copy_dirty(struct vmm *vmm, struct vmm_mirror *mirror)
{
	struct ram_block *block = mirror->block;
	uint64_t *dirty = block->dirty[mirror->client];
	uint64_t page_bytes = block->page_bytes;

	for (uint64_t page = 0; (page = ram_next(block, dirty, page)) < block->pages; page++) {
		ram_test_and_clear(dirty, page);
		/* A migration's sync may have taken the page without clearing it. */
		if (vmm->config.no_clear && !vmm_misuses(vmm, MISUSE_FORGET_CLEAR))
			vmm_clear(vmm, block, page, 1);
		model_copy(mirror->shadow + page * page_bytes, block->host + page * page_bytes,
			   page_bytes);
	}
}

static unsigned long stale_words(const struct vmm_mirror *mirror)
{
	const struct ram_block *block = mirror->block;
	const uint64_t *seen = mirror->seen;
	unsigned long stale = 0;

	for (uint64_t page = 0; page < block->pages; page++)
		for (int writer = 0; writer < RAM_WRITERS; writer++)
			stale += ram_value(mirror->shadow, block, page, (enum ram_writer)writer) <
				 *seen++;
	return stale;
}

/* While nothing maps the memory, what is kept of it cannot be seen by a sync. */
static bool is_mapped(const struct vmm *vmm, const struct ram_block *block)
{
	return !vmm->config.give_marks || !ram_count(block->kept, block->pages);
}

static void sync_mirror(struct vmm *vmm, struct vmm_mirror *mirror)
{
	struct vmm_consumer asking = vmm->shared;

	if (!vmm->config.shared) {
		vmm_sync(vmm, &mirror->consumer, mirror->block, 0);
		return;
	}
	if (vmm_misuses(vmm, MISUSE_NO_FAN_OUT))
		asking.clients = RAM_BIT(mirror->client);
	vmm_sync(vmm, &asking, mirror->block, 0);
}

void vmm_mirror_refresh(struct vmm *vmm, struct vmm_mirror *mirror)
{
	/* Switched off. */
	if (!vmm->config.shared && !mirror->consumer.cursor)
		return;
	note_words(vmm, mirror);
	if (vmm_misuses(vmm, MISUSE_SHADOW_FIRST))
		copy_dirty(vmm, mirror);
	sync_mirror(vmm, mirror);
	if (!vmm_misuses(vmm, MISUSE_SHADOW_FIRST))
		copy_dirty(vmm, mirror);
	if (is_mapped(vmm, mirror->block))
		atomic_fetch_add(&mirror->stale_words, stale_words(mirror));
	atomic_fetch_add(&mirror->refreshes, 1);
}
