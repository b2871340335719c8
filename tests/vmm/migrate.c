/* SPDX-License-Identifier: MIT */
/* Migrations. The big lock is held for syncs, and never while memory is read and sent. */
#include "vmm.h"

#include <string.h>

enum { BLOCKS = sizeof(((struct vmm *)0)->blocks) / sizeof(void *) };

static struct vmm_consumer *consumer(struct vmm *vmm)
{
	return vmm->config.shared ? &vmm->shared : &vmm->migration;
}

void vmm_migrate_start(struct vmm *vmm)
{
	vmm_lock(vmm);
	vmm->migrating = true;
	if (vmm->config.shared) {
		vmm_want(vmm);
	} else {
		vmm->migration.clients = RAM_BIT(RAM_MIGRATION);
		vmm->migration.cursor = vmm_cursor(vmm, 0, 0);
	}
	for (unsigned int i = 0; i < BLOCKS; i++)
		ram_dirty(vmm->blocks[i], RAM_BIT(RAM_MIGRATION), 0, vmm->blocks[i]->pages);
	vmm_unlock(vmm);
}

static void clear_chunk(struct vmm *vmm, struct ram_block *block, uint64_t page)
{
	uint64_t chunk = page / RAM_CHUNK_PAGES;

	if (!ram_test_and_clear(block->unclear, chunk) || vmm_misuses(vmm, MISUSE_FORGET_CLEAR))
		return;
	vmm_clear(vmm, block, chunk * RAM_CHUNK_PAGES, RAM_CHUNK_PAGES);
}

static void send_page(struct vmm *vmm, struct ram_block *block, uint64_t page)
{
	uint64_t at = page * block->page_bytes;
	bool read_first = vmm_misuses(vmm, MISUSE_READ_FIRST);

	if (read_first)
		model_copy(block->copy + at, block->host + at, block->page_bytes);
	else
		clear_chunk(vmm, block, page);
	if (vmm->between)
		vmm->between(vmm, block, page);
	if (read_first)
		clear_chunk(vmm, block, page);
	else
		model_copy(block->copy + at, block->host + at, block->page_bytes);
	vmm->pages_sent++;
}

static void send_block(struct vmm *vmm, struct ram_block *block)
{
	uint64_t *dirty = block->dirty[RAM_MIGRATION];

	for (uint64_t page = 0; (page = ram_next(block, dirty, page)) < block->pages; page++) {
		pthread_mutex_lock(&vmm->send_lock);
		if (ram_test_and_clear(dirty, page))
			send_page(vmm, block, page);
		pthread_mutex_unlock(&vmm->send_lock);
	}
}

static void send_all(struct vmm *vmm)
{
	for (unsigned int i = 0; i < BLOCKS; i++)
		send_block(vmm, vmm->blocks[i]);
}

static uint64_t sync_all(struct vmm *vmm, uint32_t flags)
{
	uint64_t pages;

	vmm_lock(vmm);
	pages = vmm_sync(vmm, consumer(vmm), NULL, flags);
	vmm_unlock(vmm);
	return pages;
}

void vmm_migrate_round(struct vmm *vmm)
{
	sync_all(vmm, 0);
	send_all(vmm);
	vmm->rounds++;
}

/* Memory that is mapped nowhere when the migration ends goes with its block. */
static void send_kept(struct vmm *vmm)
{
	for (unsigned int i = 0; i < BLOCKS; i++) {
		struct ram_block *block = vmm->blocks[i];

		for (uint64_t page = 0; page < block->pages; page++)
			if (ram_test(block->kept, page) && !vmm_misuses(vmm, MISUSE_KEEP_WORDS))
				ram_set(block->dirty[RAM_MIGRATION], page);
	}
}

/* Devices complete what is in flight, and the kernel saves state into guest memory. */
static void save_state(struct vmm *vmm)
{
	vmm_lock(vmm);
	for (uint64_t page = MARKED_PAGE; page < 64; page += 8)
		vmm_device_store(vmm, &vmm->ram, page);
	vmm_kernel_store(vmm, 64 + MARKED_PAGE);
	vmm_unlock(vmm);
}

void vmm_migrate_last(struct vmm *vmm)
{
	uint64_t pages = 1;

	vmm_pause(vmm);
	send_kept(vmm);
	if (vmm_misuses(vmm, MISUSE_NO_LAST_TAKE))
		return;
	for (int takes = 0; pages; takes++) {
		if (takes == VMM_LAST_TAKES) {
			vmm->endless = true;
			return;
		}
		pages = sync_all(vmm, DL_TAKE_PAUSED);
		send_all(vmm);
		if (!takes) {
			save_state(vmm);
			pages = 1;
		}
		if (vmm_misuses(vmm, MISUSE_LAST_TAKE))
			return;
	}
	send_all(vmm);
}

void vmm_migrate_end(struct vmm *vmm)
{
	vmm_lock(vmm);
	vmm->migrating = false;
	if (vmm->config.shared) {
		vmm_want(vmm);
	} else {
		dl_cursor_free(vmm->migration.cursor);
		vmm->migration.cursor = NULL;
	}
	vmm_unlock(vmm);
}

uint64_t vmm_differing_pages(const struct vmm *vmm)
{
	uint64_t differing = 0;

	for (unsigned int i = 0; i < BLOCKS; i++) {
		const struct ram_block *block = vmm->blocks[i];

		for (uint64_t page = 0; page < block->pages; page++)
			differing += memcmp(block->host + page * block->page_bytes,
					    block->copy + page * block->page_bytes,
					    block->page_bytes) != 0;
	}
	return differing;
}
