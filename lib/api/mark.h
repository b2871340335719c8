/* SPDX-License-Identifier: MIT */
#ifndef DLI_MARK_H
#define DLI_MARK_H

/* Helpers shared by the dl_mark_*() calls. */

#include "log.h"

/* Counts marks of a device that is not quiet yet. Only a counter hangs on the order of the two. */
static inline void dli_mark_note_late(struct dl_log *log, uint64_t pages)
{
	if (atomic_load_explicit(&log->paused_passes, memory_order_relaxed))
		atomic_fetch_add_explicit(&log->late_marks, pages, memory_order_relaxed);
}

/* Callers often ignore the result of a mark, so failures are counted too. */
static inline int dli_mark_finish(struct dl_log *log, int r)
{
	if (!r)
		return 0;
	atomic_fetch_add_explicit(&log->failed_marks, 1, memory_order_relaxed);
	return dli_log_fail(log, DLI_NO_MEMORY_THERE, DLI_NO_NUMBER, r);
}

#endif
