/* SPDX-License-Identifier: MIT */
/* dl_harvest(): collects, and begins a pass. */

#include "aliases.h"
#include "call.h"
#include "collect.h"

#include <errno.h>

#define HARVEST_FLAGS (uint32_t)(DL_HARVEST_PAUSED | DL_HARVEST_ALL)

/* Whether the cursor can begin a pass. Under the cursor's lock. */
static int check_state(const struct dl_cursor *cursor)
{
	if (dli_log_is_closed(cursor->log))
		return dli_log_fail(cursor->log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	if (dli_cursor_pass(cursor))
		return dli_log_fail(cursor->log, DLI_PASS_OPEN, DLI_NO_NUMBER, -EBUSY);
	return 0;
}

static bool covers_something(const struct dl_cursor *cursor)
{
	return !(cursor->flags & DL_CURSOR_ONE_SLOT) ||
	       dli_slot_find(dli_slots_table(&cursor->log->slots), cursor->slot);
}

static void make_all_pending(struct dl_cursor *cursor)
{
	for (uint32_t i = 0, n = dli_cursor_count(cursor); i < n; i++) {
		struct dli_view *view = dli_cursor_view_at(cursor, i);

		if (view)
			dli_page_set_mark_all(view->set);
	}
}

/* Under both locks. rings: the result of draining them. */
static int begin_pass(struct dl_cursor *cursor, uint32_t flags, int rings)
{
	const struct dli_scope scope = { .cursor = cursor };
	bool last = flags & DL_HARVEST_PAUSED;
	int r;

	if (!covers_something(cursor))
		return dli_log_fail(cursor->log, DLI_NO_SLOT, cursor->slot, -ENOENT);
	r = dli_collect(cursor->log, &scope, last, rings);
	if (r)
		return r;
	if (flags & DL_HARVEST_ALL)
		make_all_pending(cursor);
	dli_cursor_distribute(cursor);
	r = dli_aliases_move(cursor);
	if (!r)
		dli_pass_begin(cursor, last);
	return r;
}

/* Under the cursor's lock. */
static int harvest(struct dl_cursor *cursor, uint32_t flags, uint64_t *pending_bytes)
{
	struct dl_log *log = cursor->log;
	int r = check_state(cursor), rings;

	if (r)
		return r;
	rings = dli_collect_rings(log, flags & DL_HARVEST_PAUSED);
	pthread_mutex_lock(&log->lock);
	r = begin_pass(cursor, flags, rings);
	if (!r && pending_bytes)
		*pending_bytes = dli_cursor_pending_pages(cursor) << cursor->page_shift;
	pthread_mutex_unlock(&log->lock);
	return r;
}

int dl_harvest(struct dl_cursor *cursor, uint32_t flags, uint64_t *pending_bytes)
{
	struct dli_call call;
	int r;

	if (!cursor)
		return -EINVAL;
	if (flags & ~HARVEST_FLAGS)
		return dli_log_fail(cursor->log, DLI_BAD_FLAGS, DLI_NO_NUMBER, -EINVAL);
	r = dli_cursor_enter(&call, cursor);
	if (r)
		return r;
	r = harvest(cursor, flags, pending_bytes);
	dli_cursor_leave(&call, cursor);
	return r;
}
