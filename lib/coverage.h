/* SPDX-License-Identifier: MIT */
#ifndef DLI_COVERAGE_H
#define DLI_COVERAGE_H

#include "cursor.h"

/*
 * Which cursor covers which slot: views come and go together, since each change that markers can
 * see costs a grace period. All functions are called with the log's changes and lock held.
 */

/* Views that are made or dropped together, linked by dli_view.link. */
struct dli_views {
	struct dli_view *first, *last;
};

/*
 * Makes a view of the slot for the cursor, with all memory that logging the slot needs. Nothing
 * changes for others.
 */
int dli_views_prepare(struct dli_views *views, struct dl_cursor *cursor, struct dli_slot *slot);

/*
 * The slots' pages are marked for these views from now on. The views have begun: what is marked
 * after this returns is theirs. live: markers can know the slots already.
 */
void dli_views_install(struct dli_views *views, bool live);

/* Frees prepared views that were not installed. */
void dli_views_abandon(struct dli_views *views);

/* Moves a cursor's view of a slot, if there is one, to a list of views to drop. */
void dli_views_collect(struct dli_views *views, struct dl_cursor *cursor, struct dli_slot *slot);

/* Takes installed views off their slots and frees them. */
void dli_views_drop(struct dli_views *views);

/* Adds a cursor to a log and logs what it covers. */
int dli_join(struct dl_cursor *cursor, uint32_t vcpus);

/* Takes it off, and switches logging off for slots that no other cursor covers. */
void dli_leave(struct dl_cursor *cursor);

#endif
