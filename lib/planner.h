/* SPDX-License-Identifier: MIT */
#ifndef DLI_PLANNER_H
#define DLI_PLANNER_H

#include "cursor.h"
#include "plan/law.h"

/*
 * The plan of one cursor: measures the migration, asks the law, and sets the vCPUs' limits.
 *
 * The lock is taken before the log's.
 */
struct dl_plan {
	struct dl_log *log;
	struct dl_cursor *cursor; /* under log->lock; NULL: it is gone */
	uint32_t flags;
	uint64_t longest_pause_ns;

	_Atomic uint64_t sent_bytes, busy_ns; /* reported since the last look */

	pthread_mutex_t lock;
	struct dli_law law;
	uint64_t begun_ns, looked_at_ns;
	uint64_t collected_ns;	 /* bitmaps and watches */
	uint64_t reported_ns;	 /* the last look that found a report of what was sent */
	uint64_t first_pages;	 /* pending when the plan began: the first pass */
	uint64_t first_consumed; /* read and acknowledged, or taken, before that */
	uint64_t first_passes;
	uint64_t first_new;	  /* found dirty before that */
	bool limiting;		  /* limits are set */
	uint32_t run_ppm;	  /* the last advice */
	struct dli_demand demand; /* in bitmap mode: of the whole VM */
	/* In bitmap mode: what was seen, and the time since the bitmaps were read. */
	uint64_t seen_new, read_until_ns;
	double unread_s, unread_run_s;
};

/* Makes the plan of a cursor. -EBUSY: the log has one; -ECANCELED: it is closed. */
int dli_plan_new(struct dl_cursor *cursor, const struct dl_goal *goal, struct dl_plan **plan);

/* Lifts the limits. */
void dli_plan_delete(struct dl_plan *plan);

/* One look: measures, sets limits, advises. */
int dli_plan_next(struct dl_plan *plan, uint64_t unsent_bytes, struct dl_advice *advice);

/* measure.c, under the log's lock. The cursor's first pass begins; one look. */
void dli_plan_begin_measuring(struct dl_plan *plan);
int dli_plan_measure(struct dl_plan *plan, uint64_t unsent_bytes, struct dli_law_look *look);

/* The cursor is freed, or the log is closed: the plan has no limits any more. Under log->lock. */
void dli_plan_forget_cursor(struct dl_cursor *cursor);

#endif
