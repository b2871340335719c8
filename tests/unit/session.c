/* SPDX-License-Identifier: MIT */
/* One cursor for a whole log, for tests that have a single consumer. */

#include "session.h"

#include "aliases.h"
#include "call.h"
#include "collect.h"
#include "coverage.h"

#include <errno.h>

enum { MOST = 256 };

/* The open logs of the process and their cursors. */
static struct {
	struct dl_log *log;
	struct dl_cursor *cursor;
} sessions[MOST];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct dl_cursor *find(const struct dl_log *log)
{
	struct dl_cursor *cursor = NULL;

	pthread_mutex_lock(&lock);
	for (int i = 0; i < MOST && !cursor; i++)
		if (sessions[i].log == log)
			cursor = sessions[i].cursor;
	pthread_mutex_unlock(&lock);
	return cursor;
}

static void put(struct dl_log *log, struct dl_cursor *cursor)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < MOST; i++)
		if (cursor ? !sessions[i].log : sessions[i].log == log) {
			sessions[i].log = cursor ? log : NULL;
			sessions[i].cursor = cursor;
			break;
		}
	pthread_mutex_unlock(&lock);
}

int dl_log_start(struct dl_log *log, uint32_t flags)
{
	struct dl_cursor_options options = { .size = sizeof(options) };
	struct dl_cursor *cursor;
	int r;

	if (!log || flags & ~(uint32_t)DL_START_CLEAN)
		return -EINVAL;
	if (dli_log_in_child(log))
		return -EIO;
	if (find(log))
		return -EBUSY;
	options.flags = flags & DL_START_CLEAN ? DL_CURSOR_CLEAN : 0;
	r = dl_cursor_new(log, &options, &cursor);
	if (!r)
		put(log, cursor);
	return r;
}

int dl_log_stop(struct dl_log *log)
{
	struct dl_cursor *cursor;

	if (!log)
		return -EINVAL;
	if (dli_log_in_child(log))
		return -EIO;
	cursor = find(log);
	put(log, NULL);
	dl_cursor_free(cursor);
	return 0;
}

int dl_log_harvest(struct dl_log *log, uint32_t flags, uint64_t *pending_bytes)
{
	bool last = flags & DL_HARVEST_PAUSED;
	struct dl_cursor *cursor;
	struct dli_call call;
	int r, rings;

	if (!log || flags & ~(uint32_t)DL_HARVEST_PAUSED)
		return -EINVAL;
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	rings = dli_collect_rings(log, last);
	pthread_mutex_lock(&log->lock);
	cursor = find(log);
	if (!cursor || dli_log_is_closed(log)) {
		r = -ECANCELED;
	} else {
		const struct dli_scope scope = { .cursor = cursor };

		r = dli_collect(log, &scope, last, rings);
		dli_cursor_distribute(cursor);
		if (!r && pending_bytes)
			*pending_bytes = dli_cursor_pending_pages(cursor) << cursor->page_shift;
	}
	pthread_mutex_unlock(&log->lock);
	dli_call_end(&call);
	return r;
}

int dl_log_begin(struct dl_log *log, struct dl_cursor **out)
{
	struct dl_cursor *cursor;
	struct dli_call call;
	int r;

	if (!log || !out)
		return -EINVAL;
	*out = NULL;
	cursor = find(log);
	if (!cursor || dli_log_is_closed(log))
		return -ECANCELED;
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	pthread_mutex_lock(&cursor->lock);
	pthread_mutex_lock(&log->lock);
	r = dli_cursor_pass(cursor) ? -EBUSY : dli_aliases_move(cursor);
	if (!r)
		dli_pass_begin(cursor, false);
	pthread_mutex_unlock(&log->lock);
	pthread_mutex_unlock(&cursor->lock);
	dli_call_end(&call);
	if (!r)
		*out = cursor;
	return r;
}

struct dl_cursor *dl_log_cursor(struct dl_log *log)
{
	return find(log);
}

int dl_log_harvest_due(struct dl_log *log, uint64_t *from_now_ns)
{
	if (!log || !from_now_ns)
		return -EINVAL;
	if (dli_log_in_child(log))
		return -EIO;
	if (!dli_log_is_on(log))
		return -ECANCELED;
	*from_now_ns = dli_pace_until_due(&log->pace, &log->vcpus);
	return 0;
}

uint64_t dl_log_pending(struct dl_log *log)
{
	struct dl_cursor_stats stats = { .size = sizeof(stats) };

	return find(log) && !dl_cursor_stats(find(log), &stats) ? stats.pending_bytes : 0;
}

uint64_t dl_log_unacked(struct dl_log *log)
{
	struct dl_cursor_stats stats = { .size = sizeof(stats) };

	return find(log) && !dl_cursor_stats(find(log), &stats) ? stats.unacked_bytes : 0;
}

void session_close(struct dl_log *log)
{
	struct dl_cursor *cursor = log ? find(log) : NULL;

	if (cursor && !dli_log_in_child(log)) {
		put(log, NULL);
		dl_cursor_free(cursor);
	}
	(dl_log_close)(log);
}
