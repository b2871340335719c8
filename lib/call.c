/* SPDX-License-Identifier: MIT */
/* The beginning and the end of every public call that takes locks. */

#include "call.h"

#include <errno.h>

int dli_call_begin(struct dli_call *call, const struct dl_log *log)
{
	int r;

	call->os = log->vm.os;
	call->blocked = false;
	if (dli_log_in_child(log))
		return -EIO;
	r = dli_os_block_async_signals(call->os, &call->signals);
	call->blocked = !r;
	return r ? dli_log_fail(log, DLI_SIGNALS_NOT_BLOCKED, DLI_NO_NUMBER, r) : 0;
}

void dli_call_end(const struct dli_call *call)
{
	if (call->blocked)
		dli_os_restore_signals(call->os, &call->signals);
}

int dli_cursor_enter(struct dli_call *call, struct dl_cursor *cursor)
{
	int r = dli_call_begin(call, cursor->log);

	if (!r)
		pthread_mutex_lock(&cursor->lock);
	return r;
}

void dli_cursor_leave(const struct dli_call *call, struct dl_cursor *cursor)
{
	pthread_mutex_unlock(&cursor->lock);
	dli_call_end(call);
}
