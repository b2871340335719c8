/* SPDX-License-Identifier: MIT */
#ifndef DLI_VIEW_H
#define DLI_VIEW_H

#include "pages/slot_table.h"

/*
 * The dirty pages of one slot, as one cursor sees them. A slot has a view for each cursor that
 * covers it.
 *
 * Markers know no cursors: they mark the slot's target. With one view that is the view's own set,
 * so that a single consumer pays nothing for the others that there could be. With several it is the
 * slot's fresh set. Whoever takes pages from there adds them to the sets of the other views.
 *
 * The functions that have no other comment are called with the log's lock held.
 */
struct dli_view {
	struct dli_slot *slot;
	const struct dl_cursor *cursor;
	struct dli_page_set *set;
	struct dli_view *next; /* of the slot */
	struct dli_view *link; /* while views are made or dropped together */
	uint32_t index;	       /* in its cursor's registry */
	uint32_t position;     /* in the pass */
	uint64_t cookie;       /* of the slot, when the pass began */
	/* Number of the pass that hands out this view; 0: none. Also read by acknowledgements. */
	_Atomic uint64_t pass;
};

/* Makes a view with its set. shared: the slot has other views, or will; it gets its fresh set. */
int dli_view_new(struct dli_slot *slot, const struct dl_cursor *cursor, const struct dl_os *os,
		 bool shared, struct dli_view **view);

/* Frees a view that no reader can hold any more. */
void dli_view_free(struct dli_view *view);

/*
 * Has a slot with one view, or with none and two to come, marked in its fresh set from now on.
 * Markers that have begun before still use the view's set: the caller waits for a grace period
 * before dli_view_attach().
 */
void dli_slot_share(struct dli_slot *slot);

/* Adds a view to its slot. If the slot has others, or gets more, dli_slot_share() came before. */
void dli_view_attach(struct dli_view *view);

/*
 * Takes a view off its slot. After a grace period the caller calls dli_slot_distribute() once more,
 * for markers that had begun before, and may free the view.
 */
void dli_view_detach(struct dli_view *view);

/* The view's cursor has a plan now, or no more. */
void dli_view_set_planned(struct dli_view *view, bool planned);

struct dli_view *dli_slot_view(const struct dli_slot *slot, const struct dl_cursor *cursor);

/* The view of a cursor that logs nothing, in the list of those. */
struct dli_view *dli_slot_missed_view(const struct dli_slot *slot, const struct dl_cursor *cursor);

/* Moves pages from the fresh set into the set of every view. */
void dli_slot_distribute(struct dli_slot *slot);

/*
 * How many pages the view has to hand out: those of its own set, or, while that is empty, of the
 * fresh set. Exact after dli_view_catch_up(), until something is marked. Inside a read section, or
 * with the log's lock held.
 */
uint64_t dli_view_pending_pages(const struct dli_view *view);

/*
 * Begins a pass: while the view's own set is empty, the pass takes from the fresh set what is
 * there, and no page moves twice. Otherwise the fresh set is distributed.
 */
void dli_view_catch_up(struct dli_view *view);

/* Takes the next pages of a pass. Arguments and result as of dli_page_set_take(). */
bool dli_view_take(struct dli_view *view, uint64_t *block, bool one_chunk, struct dli_batch *batch);

/* Makes every page of the slot pending for all cursors that cover it. Returns how many were not. */
uint64_t dli_slot_mark_all(struct dli_slot *slot);

/* Ors every page that some cursor has not acknowledged into words, and forgets them. */
void dli_slot_move_to_words(struct dli_slot *slot, uint64_t *words);

#endif
