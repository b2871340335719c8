/* SPDX-License-Identifier: MIT */
/* Ring entries to pending pages: the hot path of a harvest. */

#include "publish.h"

#include "rcu.h"

/* The word being gathered: adjacent entries cost one store. */
struct gather {
	const struct dli_slot_table *table;
	uint32_t slot_number;
	struct dli_slot *slot;
	uint64_t word, bits;
	uint64_t slot_new;
	struct dli_sunk sunk;
};

static void put_word(struct gather *g)
{
	if (g->bits)
		g->slot_new += dli_pageset_mark_word(g->slot->set, g->word, g->bits);
	g->bits = 0;
}

static void leave_slot(struct gather *g)
{
	put_word(g);
	if (g->slot)
		dli_pageset_count(g->slot->set, g->slot_new);
	g->sunk.new_pages += (uint32_t)g->slot_new;
	g->slot_new = 0;
}

static void enter_slot(struct gather *g, uint32_t slot_number)
{
	leave_slot(g);
	g->slot_number = slot_number;
	g->slot = dli_slot_find(g->table, slot_number);
}

static void gather_entries(struct gather *g, const struct kvm_dirty_gfn *entries, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t page = entries[i].offset;

		if (entries[i].slot != g->slot_number)
			enter_slot(g, entries[i].slot);
		if (!g->slot || page >= g->slot->pages) {
			g->sunk.stale++;
			g->sunk.outside |= g->slot != NULL;
			continue;
		}
		if (page / PAGESET_WORD_PAGES != g->word) {
			put_word(g);
			g->word = page / PAGESET_WORD_PAGES;
		}
		g->bits |= UINT64_C(1) << page % PAGESET_WORD_PAGES;
	}
	leave_slot(g);
}

struct dli_sunk dli_publish(void *opaque, const struct kvm_dirty_gfn *entries, uint32_t n)
{
	struct dl_log *log = opaque;
	struct gather g = { 0 };

	dli_rcu_read_lock();
	/*
	 * Looked at inside the read section: a stop waits for it before it discards. When logging
	 * is off nothing is noted, and what was recorded before a start does not matter to it.
	 */
	if (dli_log_is_on(log)) {
		g.table = dli_slots_table(&log->slots);
		g.slot_number = entries[0].slot;
		g.slot = dli_slot_find(g.table, g.slot_number);
		gather_entries(&g, entries, n);
	}
	dli_rcu_read_unlock();
	return g.sunk;
}
