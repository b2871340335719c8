/* SPDX-License-Identifier: MIT */
/* dl_cursor_new(), dl_cursor_free(), dl_cursor_stats(): consumers come and go. */

#include "api/abi.h"
#include "call.h"
#include "coverage.h"
#include "pages/rcu.h"

#include <errno.h>

#define CURSOR_FLAGS                                                                            \
	(uint32_t)(DL_CURSOR_CLEAN | DL_CURSOR_WANTED | DL_CURSOR_ONE_SLOT | DL_CURSOR_MISSED | \
		   DL_CURSOR_SKIP_REWRITTEN)

#define OPTIONS_FIRST_BYTES sizeof(struct dl_cursor_options)

static int read_options(struct dl_log *log, const struct dl_cursor_options *from,
			struct dl_cursor_options *o)
{
	int r;

	memset(o, 0, sizeof(*o));
	if (!from)
		return 0;
	r = dli_abi_read(o, sizeof(*o), OPTIONS_FIRST_BYTES, from);
	if (r)
		return dli_log_fail(log, DLI_BAD_STRUCT, DLI_NO_NUMBER, r);
	if (o->flags & ~CURSOR_FLAGS ||
	    (o->flags & DL_CURSOR_WANTED && o->flags & (DL_CURSOR_ONE_SLOT | DL_CURSOR_MISSED)))
		return dli_log_fail(log, DLI_BAD_FLAGS, DLI_NO_NUMBER, -EINVAL);
	if (o->flags & DL_CURSOR_ONE_SLOT &&
	    (o->slot >> 16 >= log->caps.address_spaces || (o->slot & 0xffff) >= log->caps.slot_ids))
		return dli_log_fail(log, DLI_BAD_NUMBER, o->slot, -EINVAL);
	return 0;
}

static int join(struct dl_log *log, const struct dl_cursor_options *o, struct dl_cursor **out)
{
	struct dl_cursor *cursor;
	int r = dli_cursor_new(log, o, &cursor);

	if (r)
		return dli_log_fail(log, DLI_NO_MEMORY, DLI_NO_NUMBER, r);
	pthread_mutex_lock(&log->changes);
	pthread_mutex_lock(&log->lock);
	r = dli_join(cursor, o->vcpus);
	pthread_mutex_unlock(&log->lock);
	pthread_mutex_unlock(&log->changes);
	if (r)
		dli_cursor_delete(cursor);
	else
		*out = cursor;
	return r;
}

int dl_cursor_new(struct dl_log *log, const struct dl_cursor_options *options,
		  struct dl_cursor **out)
{
	struct dl_cursor_options o;
	struct dli_call call;
	int r;

	if (out)
		*out = NULL;
	if (!log)
		return -EINVAL;
	if (!out)
		return dli_log_fail(log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	r = dli_call_begin(&call, log);
	if (!r) {
		r = read_options(log, options, &o);
		if (!r)
			r = join(log, &o, out);
	}
	dli_call_end(&call);
	return r;
}

void dl_cursor_free(struct dl_cursor *cursor)
{
	struct dli_call call;
	struct dl_log *log;

	if (!cursor || dli_log_in_child(cursor->log))
		return;
	log = cursor->log;
	(void)dli_call_begin(&call, log);
	pthread_mutex_lock(&log->changes);
	pthread_mutex_lock(&log->lock);
	if (cursor->attached)
		dli_leave(cursor);
	pthread_mutex_unlock(&log->lock);
	pthread_mutex_unlock(&log->changes);
	dli_call_end(&call);
	dli_cursor_delete(cursor);
}

static uint64_t get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

int dl_cursor_stats(const struct dl_cursor *cursor, struct dl_cursor_stats *out)
{
	struct dl_cursor_stats stats = { .size = sizeof(stats) };

	if (!cursor)
		return -EINVAL;
	if (!out)
		return dli_log_fail(cursor->log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(cursor->log))
		return -EIO;
	if (dli_log_is_closed(cursor->log))
		return dli_log_fail(cursor->log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	dli_rcu_read_lock();
	stats.pending_bytes = dli_cursor_pending_pages(cursor) << cursor->page_shift;
	stats.unacked_bytes = dli_cursor_in_flight_pages(cursor) << cursor->page_shift;
	dli_rcu_read_unlock();
	stats.read_bytes = get(&cursor->read_pages) << cursor->page_shift;
	stats.acked_bytes = get(&cursor->acked_pages) << cursor->page_shift;
	stats.passes = get(&cursor->passes);
	return dli_abi_report(cursor->log, out, &stats, sizeof(stats));
}
