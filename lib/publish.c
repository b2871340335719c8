/* SPDX-License-Identifier: MIT */
/* What rings named becomes pending pages. */

#include "publish.h"

#include "rcu.h"

/* Words of one slot. */
static void publish_slot(struct dli_slot *slot, const struct dli_dirty_word *words, uint32_t n,
			 struct dli_sunk *sum)
{
	struct dli_sunk sunk;

	if (!slot) {
		for (uint32_t i = 0; i < n; i++)
			sum->stale += (uint32_t)__builtin_popcountll(words[i].bits);
		return;
	}
	sunk = dli_pageset_mark_words(slot->set, words, n);
	sum->new_pages += sunk.new_pages;
	sum->stale += sunk.stale;
	sum->outside |= sunk.stale != 0;
}

struct dli_sunk dli_publish(void *opaque, const struct dli_dirty_word *words, uint32_t n)
{
	struct dl_log *log = opaque;
	struct dli_sunk sum = { 0 };

	dli_rcu_read_lock();
	/*
	 * Looked at inside the read section: a stop waits for it before it discards. When logging
	 * is off nothing is noted, and what was recorded before a start does not matter to it.
	 */
	if (dli_log_is_on(log)) {
		const struct dli_slot_table *table = dli_slots_table(&log->slots);

		for (uint32_t i = 0, end; i < n; i = end) {
			for (end = i + 1; end < n && words[end].slot == words[i].slot; end++)
				;
			publish_slot(dli_slot_find(table, words[i].slot), &words[i], end - i, &sum);
		}
	}
	dli_rcu_read_unlock();
	return sum;
}
