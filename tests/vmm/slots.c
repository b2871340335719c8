/* SPDX-License-Identifier: MIT */
/* Memslots follow the flat views. */
#include "vmm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool is_taken(const struct vmm *vmm, uint32_t number)
{
	for (unsigned int i = 0; i < VMM_SLOTS; i++)
		if (vmm->slots[i].used && vmm->slots[i].number == number)
			return true;
	return false;
}

/* The display's memory has one slot number, whatever comes and goes: its cursor follows that. */
static uint32_t choose_number(const struct vmm *vmm, uint32_t as_id, const struct flat_range *range)
{
	uint32_t number = as_id << 16;

	if (range->block == &vmm->display_ram)
		return number | VMM_DISPLAY_SLOT;
	while ((number & 0xffff) == VMM_DISPLAY_SLOT || is_taken(vmm, number))
		number++;
	return number;
}

static bool is_wanted(const struct vmm *vmm, const struct vmm_slot *slot)
{
	if (slot->number >> 16 && vmm_misuses(vmm, MISUSE_FORGET_ALIAS))
		return false;
	if (slot->range.block == &vmm->firmware)
		return true;
	return vmm->config.shared && (vmm->migrating || slot->range.block == &vmm->display_ram);
}

static void set_slot(struct vmm *vmm, const struct vmm_slot *slot, uint32_t flags)
{
	const struct flat_range *range = &slot->range;
	const struct dl_slot set = {
		.size = sizeof(set),
		.flags = flags | (is_wanted(vmm, slot) ? (uint32_t)DL_SLOT_WANTED : 0),
		.slot = slot->number,
		.gpa = vmm->hv.base_gpa + range->gpa_page * vmm->hv.page_bytes,
		.bytes = range->pages * vmm->hv.page_bytes,
		.hva = (uintptr_t)range->block->host + range->block_page * vmm->hv.page_bytes,
		.cookie = (uintptr_t)slot,
	};

	hv_check(dl_slot_set(vmm->log, &set), "dl_slot_set");
}

void vmm_want(struct vmm *vmm)
{
	pthread_mutex_lock(&vmm->slots_lock);
	for (unsigned int i = 0; i < VMM_SLOTS; i++)
		if (vmm->slots[i].used)
			set_slot(vmm, &vmm->slots[i], 0);
	pthread_mutex_unlock(&vmm->slots_lock);
}

/* A slot is new over memory that the receivers have by now, except these pages. */
static void give_back(struct vmm *vmm, const struct vmm_slot *slot)
{
	const struct flat_range *range = &slot->range;

	for (uint64_t page = 0; page < range->pages; page++) {
		if (!ram_test_and_clear(range->block->kept, range->block_page + page))
			continue;
		if (!vmm_misuses(vmm, MISUSE_KEEP_WORDS))
			hv_check(dl_mark_slot(vmm->log, slot->number, page * vmm->hv.page_bytes, 1),
				 "dl_mark_slot");
	}
}

static struct vmm_slot *unused_slot(struct vmm *vmm)
{
	for (unsigned int i = 0; i < VMM_SLOTS; i++)
		if (!vmm->slots[i].used)
			return &vmm->slots[i];
	hv_check(-ENOSPC, "a slot");
	return NULL;
}

static void range_added(void *opaque, uint32_t as_id, const struct flat_range *range)
{
	struct vmm *vmm = opaque;
	uint32_t flags = DL_SLOT_CLEAN | (vmm->slots_paused ? (uint32_t)DL_SLOT_PAUSED : 0);
	struct vmm_slot *slot;

	if (as_id && !vmm->hv.has_second_space)
		return;
	pthread_mutex_lock(&vmm->slots_lock);
	slot = unused_slot(vmm);
	*slot = (struct vmm_slot){ .number = choose_number(vmm, as_id, range), .range = *range };
	slot->words = calloc(ram_words(range->pages), sizeof(*slot->words));
	hv_check(slot->words ? 0 : -ENOMEM, "words of a slot");
	slot->used = true;
	set_slot(vmm, slot, flags);
	if (vmm->config.give_marks)
		give_back(vmm, slot);
	pthread_mutex_unlock(&vmm->slots_lock);
}

static void keep(struct ram_block *block, uint64_t first, const uint64_t *words, uint64_t pages)
{
	for (uint64_t page = 0; page < pages; page++)
		if (words[page / 64] >> page % 64 & 1)
			ram_set(block->kept, first + page);
}

/* Passes the removed slot's words on to every consumer, or keeps them for the slots to come. */
static void take_words(struct vmm *vmm, const struct vmm_slot *slot)
{
	const struct flat_range *range = &slot->range;
	uint32_t clients = RAM_ALL;

	if (vmm->config.give_marks) {
		keep(range->block, range->block_page, slot->words, range->pages);
		return;
	}
	if (vmm_misuses(vmm, MISUSE_UNCOUNTED))
		clients &= ~RAM_BIT(RAM_RATE);
	if (!vmm_misuses(vmm, MISUSE_KEEP_WORDS))
		ram_fan_out(range->block, clients, range->block_page, slot->words, range->pages);
}

static struct vmm_slot *slot_of(struct vmm *vmm, uint32_t as_id, const struct flat_range *range)
{
	for (unsigned int i = 0; i < VMM_SLOTS; i++) {
		struct vmm_slot *slot = &vmm->slots[i];

		if (slot->used && slot->number >> 16 == as_id &&
		    slot->range.gpa_page == range->gpa_page)
			return slot;
	}
	hv_check(-ENOENT, "a slot");
	return NULL;
}

static void range_removed(void *opaque, uint32_t as_id, const struct flat_range *range)
{
	struct vmm *vmm = opaque;
	uint32_t flags = vmm->slots_paused ? DL_REMOVE_PAUSED : 0;
	uint64_t n_words = ram_words(range->pages);
	struct vmm_slot *slot;

	if (as_id && !vmm->hv.has_second_space)
		return;
	pthread_mutex_lock(&vmm->slots_lock);
	slot = slot_of(vmm, as_id, range);
	memset(slot->words, 0, n_words * sizeof(*slot->words));
	if (vmm_misuses(vmm, MISUSE_DROP_WORDS))
		hv_check(dl_slot_remove(vmm->log, slot->number, flags, NULL, 0), "dl_slot_remove");
	else
		hv_check(dl_slot_remove(vmm->log, slot->number, flags, slot->words, n_words),
			 "dl_slot_remove");
	take_words(vmm, slot);
	free(slot->words);
	slot->used = false;
	pthread_mutex_unlock(&vmm->slots_lock);
}

void vmm_commit(struct vmm *vmm)
{
	vmm->memory.listener = (struct memory_listener){ range_removed, range_added, vmm };
	vmm->slots_paused = atomic_load(&vmm->paused);
	memory_commit(&vmm->memory);
}
