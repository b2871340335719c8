/* SPDX-License-Identifier: MIT */
#ifndef DLI_MISSED_H
#define DLI_MISSED_H

#include "cursor.h"

/*
 * Cursors that are shown what audits find (DL_CURSOR_MISSED). They log nothing, and their views are
 * in a list of their own: markers, aliases and changes of slots do not know them.
 *
 * All functions are called with the log's lock held, all but dli_missed_show() with its changes.
 */

/* Gives a new cursor its views of the slots that are audited. */
int dli_missed_join(struct dl_cursor *cursor);

/* Takes a cursor's views. */
void dli_missed_leave(struct dl_cursor *cursor);

/* An audit begins, and cursors get views of its slot. After an error some have one. */
int dli_missed_cover(struct dl_log *log, struct dli_slot *slot);

/* It ends: the slot's pages leave all passes, and the cursors. */
void dli_missed_uncover(struct dl_log *log, struct dli_slot *slot);

/* The slot has moved: it leaves the open passes, and the next ones hand its pages out. */
void dli_missed_restart(struct dl_log *log, struct dli_slot *slot);

/* Shows missed pages, of one word of the slot. Returns how many there are. */
uint32_t dli_missed_show(const struct dli_slot *slot, uint64_t word, uint64_t bits);

#endif
