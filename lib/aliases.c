/* SPDX-License-Identifier: MIT */
/* One home for memory that several slots map. */

#include "aliases.h"

#include "clear.h"
#include "pages/bits.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Both map some of the same memory. */
static struct dli_alias shared_part(const struct dl_log *log, const struct dli_slot *slot,
				    struct dli_slot *older)
{
	uint64_t begin = slot->hva > older->hva ? slot->hva : older->hva;
	uint64_t end = slot->hva + slot->bytes, older_end = older->hva + older->bytes;
	uint32_t page_bytes = log->caps.page_bytes;

	if (older_end < end)
		end = older_end;
	return (struct dli_alias){
		.older = older,
		.first_page = (begin - slot->hva) / page_bytes,
		.pages = (end - begin) / page_bytes,
		.older_page = (begin - older->hva) / page_bytes,
	};
}

static int by_age(const void *a, const void *b)
{
	const struct dli_alias *one = a, *other = b;

	return one->older->age < other->older->age ? -1 : one->older->age > other->older->age;
}

/* Twice: how many there are, then which. */
static uint32_t collect(const struct dl_log *log, const struct dli_slot *slot,
			struct dli_alias *aliases)
{
	struct dli_slot_hva_walk walk = dli_alias_walk(log, slot);
	struct dli_slot *older;
	uint32_t n = 0;

	for (; (older = dli_slot_hva_next(&walk)); n++)
		if (aliases)
			aliases[n] = shared_part(log, slot, older);
	return n;
}

int dli_aliases_find(const struct dl_log *log, struct dli_slot *slot)
{
	uint32_t n = collect(log, slot, NULL);

	if (!n)
		return 0;
	slot->aliases = dli_allocate(n, sizeof(slot->aliases[0]));
	if (!slot->aliases)
		return -ENOMEM;
	slot->n_aliases = collect(log, slot, slot->aliases);
	qsort(slot->aliases, n, sizeof(slot->aliases[0]), by_age);
	return 0;
}

void dli_aliases_add(struct dl_log *log, const struct dli_slot *slot)
{
	log->aliased += slot->n_aliases != 0;
}

/* The part of a younger slot that an older one maps too, or NULL. */
static struct dli_alias *alias_of(const struct dli_slot *slot, const struct dli_slot *older)
{
	for (uint32_t i = 0; i < slot->n_aliases; i++)
		if (slot->aliases[i].older == older)
			return &slot->aliases[i];
	return NULL;
}

bool dli_alias_shares(const struct dli_slot *slot, const struct dli_slot *older)
{
	return alias_of(slot, older);
}

static void forget_alias(struct dl_log *log, struct dli_slot *slot, struct dli_alias *alias)
{
	size_t rest = (size_t)(&slot->aliases[slot->n_aliases] - (alias + 1));

	memmove(alias, alias + 1, rest * sizeof(*alias));
	if (!--slot->n_aliases)
		log->aliased--;
}

void dli_aliases_remove(struct dl_log *log, struct dli_slot *older)
{
	struct dli_slot_hva_walk walk = dli_alias_walk(log, older);
	struct dli_slot *slot;

	log->aliased -= older->n_aliases != 0;
	while ((slot = dli_slot_hva_next(&walk))) {
		struct dli_alias *alias = alias_of(slot, older);

		if (!alias)
			continue;
		/*
		 * This slot is the next home of what they share. An open pass may have handed that
		 * out already, and hands out a page once.
		 */
		dli_pass_restart_slot(log, slot);
		forget_alias(log, slot, alias);
	}
}

void dli_aliases_uncover(struct dl_log *log, struct dl_cursor *cursor, const struct dli_slot *older)
{
	struct dli_slot_hva_walk walk = dli_alias_walk(log, older);
	struct dli_slot *slot;

	while ((slot = dli_slot_hva_next(&walk))) {
		struct dli_view *view = alias_of(slot, older) ? dli_slot_view(slot, cursor) : NULL;

		if (view)
			dli_pass_restart_view(cursor, view);
	}
}

/* The bits of a word of the slot whose home is an older slot. */
static uint64_t bits_elsewhere(const struct dl_cursor *cursor, const struct dli_slot *slot,
			       uint64_t word)
{
	uint64_t bits = 0;

	for (uint32_t i = 0; i < slot->n_aliases; i++) {
		const struct dli_alias *alias = &slot->aliases[i];
		uint64_t end_page = alias->first_page + alias->pages;

		if (word >= alias->first_page / 64 && word * 64 < end_page &&
		    dli_slot_view(alias->older, cursor))
			bits |= range_bits(word, alias->first_page, end_page);
	}
	return bits;
}

bool dli_alias_is_whole(const struct dl_cursor *cursor, const struct dli_slot *slot)
{
	uint64_t reached = 0;
	bool moved = true;

	/* Few of them, by age: look for one that goes on where the others end. */
	while (moved && reached < slot->pages) {
		moved = false;
		for (uint32_t i = 0; i < slot->n_aliases; i++) {
			const struct dli_alias *alias = &slot->aliases[i];

			if (alias->first_page > reached ||
			    alias->first_page + alias->pages <= reached ||
			    !dli_slot_view(alias->older, cursor))
				continue;
			reached = alias->first_page + alias->pages;
			moved = true;
		}
	}
	return reached >= slot->pages;
}

/* Moves the pages of a batch whose home is another slot to elsewhere. */
static void split(const struct dl_cursor *cursor, const struct dli_slot *slot,
		  struct dli_batch *batch, struct dli_batch *elsewhere)
{
	uint32_t kept = 0;

	elsewhere->n = 0;
	for (uint32_t i = 0; i < batch->n; i++) {
		uint32_t word = batch->word[i];
		uint64_t bits = batch->bits[i], out = bits_elsewhere(cursor, slot, word);

		elsewhere->word[elsewhere->n] = word;
		elsewhere->bits[elsewhere->n] = bits & out;
		elsewhere->n += (bits & out) != 0;
		batch->word[kept] = word;
		batch->bits[kept] = bits & ~out;
		kept += (bits & ~out) != 0;
	}
	batch->n = kept;
}

void dli_alias_exclude(const struct dl_cursor *cursor, struct dli_view *view,
		       struct dli_batch *batch)
{
	struct dli_batch elsewhere;

	if (!view->slot->n_aliases)
		return;
	split(cursor, view->slot, batch, &elsewhere);
	dli_page_set_mark_batch(view->set, &elsewhere);
}

void dli_alias_strip(const struct dl_cursor *cursor, struct dli_view *view, struct dli_batch *batch)
{
	struct dli_batch elsewhere;

	if (!view->slot->n_aliases)
		return;
	split(cursor, view->slot, batch, &elsewhere);
	dli_page_set_unclaim(view->set, &elsewhere);
}

/* Marks bits of one word of a slot in the set of an older one, run by run. */
static void mark_at_home(struct dli_page_set *home, const struct dli_alias *alias, uint64_t word,
			 uint64_t bits)
{
	while (bits) {
		uint32_t first = (uint32_t)__builtin_ctzll(bits), n = 64 - first;
		uint64_t rest = ~(bits >> first);

		if (rest && (uint32_t)__builtin_ctzll(rest) < n)
			n = (uint32_t)__builtin_ctzll(rest);
		dli_page_set_mark_range(
			home, alias->older_page + word * 64 + first - alias->first_page, n);
		bits &= first + n == 64 ? 0 : ~UINT64_C(0) << (first + n);
	}
}

/* Marks one word's pages at their homes. Returns the bits that are at home in the slot itself. */
static uint64_t move_word(const struct dl_cursor *cursor, const struct dli_slot *slot,
			  uint64_t word, uint64_t bits)
{
	for (uint32_t i = 0; i < slot->n_aliases; i++) {
		const struct dli_alias *alias = &slot->aliases[i];
		uint64_t end_page = alias->first_page + alias->pages, shared;
		struct dli_view *home = dli_slot_view(alias->older, cursor);

		if (!home || word < alias->first_page / 64 || word * 64 >= end_page)
			continue;
		shared = bits & range_bits(word, alias->first_page, end_page);
		mark_at_home(home->set, alias, word, shared);
		bits &= ~shared;
	}
	return bits;
}

/* Moves the pending pages of one slot to their homes. */
static int move_slot(struct dl_cursor *cursor, struct dli_slot *slot)
{
	struct dli_view *view = slot->n_aliases ? dli_slot_view(slot, cursor) : NULL;
	struct dli_batch batch;
	uint64_t block = 0;

	while (view && dli_page_set_extract(view->set, &block, true, &batch)) {
		uint32_t kept = 0;
		int r = dli_clear_batch(cursor->log, slot, &batch);

		if (r) {
			dli_page_set_mark_batch(view->set, &batch);
			return r;
		}
		for (uint32_t i = 0; i < batch.n; i++) {
			batch.bits[kept] = move_word(cursor, slot, batch.word[i], batch.bits[i]);
			batch.word[kept] = batch.word[i];
			kept += batch.bits[kept] != 0;
		}
		batch.n = kept;
		dli_page_set_mark_batch(view->set, &batch);
	}
	return 0;
}

/* The slot keeps its pages: they may go into the words of its removal too. */
static void copy_home(const struct dl_cursor *cursor, const struct dli_slot *slot,
		      struct dli_page_set *set)
{
	struct dli_batch batch;
	uint64_t block = 0;

	while (dli_page_set_extract(set, &block, true, &batch)) {
		for (uint32_t i = 0; i < batch.n; i++)
			(void)move_word(cursor, slot, batch.word[i], batch.bits[i]);
		dli_page_set_mark_batch(set, &batch);
	}
}

void dli_aliases_inherit(const struct dl_cursor *cursor, const struct dli_slot *slot, bool known)
{
	struct dli_view *view = slot->n_aliases ? dli_slot_view(slot, cursor) : NULL;

	if (!view)
		return;
	if (known) {
		copy_home(cursor, slot, view->set);
		return;
	}
	for (uint32_t i = 0; i < slot->n_aliases; i++) {
		const struct dli_alias *alias = &slot->aliases[i];
		struct dli_view *home = dli_slot_view(alias->older, cursor);

		if (home)
			dli_page_set_mark_range(home->set, alias->older_page, alias->pages);
	}
}

int dli_aliases_move(struct dl_cursor *cursor)
{
	const struct dli_slot_table *table = dli_slots_table(&cursor->log->slots);
	struct dli_slot *slot;

	if (!cursor->log->aliased)
		return 0;
	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));) {
		int r = move_slot(cursor, slot);

		if (r)
			return r;
	}
	return 0;
}

int dli_aliases_gather(struct dl_cursor *cursor, const struct dli_slot *home)
{
	struct dli_slot_hva_walk walk = dli_alias_walk(cursor->log, home);
	struct dli_slot *slot;

	while ((slot = dli_slot_hva_next(&walk))) {
		int r;

		dli_slot_distribute(slot);
		r = move_slot(cursor, slot);
		if (r)
			return r;
	}
	return 0;
}
