/* SPDX-License-Identifier: MIT */
#ifndef DLI_ALIASES_H
#define DLI_ALIASES_H

#include "cursor.h"

/*
 * Memory that several slots map has one home for each cursor, page by page: the oldest slot that
 * the cursor covers. Pages that are found dirty in another slot move to their home when a pass or a
 * take begins, so that no page is handed out twice in a pass.
 *
 * All functions are called with the log's lock held.
 */

/* Part of a slot that an older slot maps too. */
struct dli_alias {
	struct dli_slot *older;
	uint64_t first_page, pages; /* of the younger slot */
	uint64_t older_page;	    /* first_page, as the older slot counts */
};

/* Goes through the slots of the table that map memory of this one, which may be among them. */
static inline struct dli_slot_hva_walk dli_alias_walk(const struct dl_log *log,
						      const struct dli_slot *slot)
{
	return dli_slot_hva_walk(dli_slots_table(&log->slots), slot->hva, slot->bytes);
}

/* Finds the older slots that map memory of a new one. Does not change anything visible. */
int dli_aliases_find(const struct dl_log *log, struct dli_slot *slot);

/* Counts a new slot that is in the table, and a slot before it leaves the table. */
void dli_aliases_add(struct dl_log *log, const struct dli_slot *slot);

/*
 * The slot leaves the table: forgets it in all younger slots that map its memory too. Those leave
 * the open passes, and are wholly pending.
 */
void dli_aliases_remove(struct dl_log *log, struct dli_slot *slot);

/* A cursor covers a slot no more: likewise, of its younger aliases, for that cursor. */
void dli_aliases_uncover(struct dl_log *log, struct dl_cursor *cursor, const struct dli_slot *slot);

/*
 * A slot leaves the table, or a cursor covers it no more, while older slots still map its memory:
 * what was written through it is pending there. known: that is all in the cursor's set of the slot;
 * otherwise all that they share counts as written.
 */
void dli_aliases_inherit(const struct dl_cursor *cursor, const struct dli_slot *slot, bool known);

/* True if the slot maps memory of the older one. */
bool dli_alias_shares(const struct dli_slot *slot, const struct dli_slot *older);

/* True if no page of the slot has its home there. */
bool dli_alias_is_whole(const struct dl_cursor *cursor, const struct dli_slot *slot);

/*
 * Takes the pages out of an extracted batch whose home is another slot: they were marked since
 * dli_aliases_move(), and are pending again.
 */
void dli_alias_exclude(const struct dl_cursor *cursor, struct dli_view *view,
		       struct dli_batch *batch);

/* Like dli_alias_exclude(), for a batch in flight: what it takes out is no longer in flight. */
void dli_alias_strip(const struct dl_cursor *cursor, struct dli_view *view,
		     struct dli_batch *batch);

/*
 * Moves the pending pages of a cursor to their homes, and clears them where they are owed: the home
 * knows nothing of another slot's bitmap. Returns the error of KVM_CLEAR_DIRTY_LOG; what it
 * concerns stays where it was.
 */
int dli_aliases_move(struct dl_cursor *cursor);

/* Distributes, and moves like dli_aliases_move(), what can have its home in one slot. */
int dli_aliases_gather(struct dl_cursor *cursor, const struct dli_slot *home);

#endif
