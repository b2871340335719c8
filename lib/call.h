/* SPDX-License-Identifier: MIT */
#ifndef DLI_CALL_H
#define DLI_CALL_H

#include "cursor.h"

/*
 * Every public call that takes locks blocks asynchronous signals from begin to end: a VMM may park
 * a vCPU's thread in a signal handler, and a thread that is parked with a lock held would stop
 * every other thread that needs the lock. Signals that the thread raises itself (SIGSEGV and the
 * like) stay open, and so do the two that the C library keeps for itself.
 */
struct dli_call {
	const struct dl_os *os;
	sigset_t signals;
	bool blocked;
};

/* -EIO in a child of fork(2). Otherwise an error is that of blocking the signals. */
int dli_call_begin(struct dli_call *call, const struct dl_log *log);

/* Restores the signals, if they were blocked. */
void dli_call_end(const struct dli_call *call);

/* Like dli_call_begin() and dli_call_end(), and takes the cursor's lock. */
int dli_cursor_enter(struct dli_call *call, struct dl_cursor *cursor);
void dli_cursor_leave(const struct dli_call *call, struct dl_cursor *cursor);

#endif
