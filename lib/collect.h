/* SPDX-License-Identifier: MIT */
#ifndef DLI_COLLECT_H
#define DLI_COLLECT_H

#include "cursor.h"

/* Makes pending what was dirtied: the work of a harvest. */

/* The slots whose bitmaps and watches are read: all that the cursor covers, or one. */
struct dli_scope {
	const struct dl_cursor *cursor;
	struct dli_slot *slot; /* NULL: all */
};

/*
 * Drains every ring. Before the log's lock is taken, so that concurrent harvests share the rings.
 * last: no vCPU is in KVM_RUN.
 */
int dli_collect_rings(struct dl_log *log, bool last);

/*
 * Repairs if that is needed, reads bitmaps, and scans watches. rings is the result of the call
 * above. Continues after a failure and returns the first: nothing is lost, but the pass is not
 * complete. Under the log's lock.
 */
int dli_collect(struct dl_log *log, const struct dli_scope *scope, bool last, int rings);

/* Reads the bitmap of one slot. Under the log's lock. */
int dli_collect_bitmap(struct dl_log *log, struct dli_slot *slot);

/* True if the bitmaps of slots are read: always, only last, or never. */
static inline bool dli_collects_bitmaps(const struct dl_log *log, bool last)
{
	return !dli_log_is_ring(log) || (last && log->caps.backup);
}

#endif
