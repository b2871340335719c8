/* SPDX-License-Identifier: MIT */
#ifndef UNIT_SESSION_H
#define UNIT_SESSION_H

/*
 * One cursor for a whole log, for tests that have a single consumer: it begins with dl_log_start()
 * and ends with dl_log_stop() or with the log. A harvest and the pass after it are two calls here,
 * so that a test can look at what lies between them.
 */

#include <dirtylog/dirtylog.h>

enum { DL_START_CLEAN = 1 };

int dl_log_start(struct dl_log *log, uint32_t flags);
int dl_log_stop(struct dl_log *log);
int dl_log_harvest(struct dl_log *log, uint32_t flags, uint64_t *pending_bytes);
int dl_log_begin(struct dl_log *log, struct dl_cursor **cursor);
int dl_log_harvest_due(struct dl_log *log, uint64_t *from_now_ns);
struct dl_cursor *dl_log_cursor(struct dl_log *log);
uint64_t dl_log_pending(struct dl_log *log);
uint64_t dl_log_unacked(struct dl_log *log);
void session_close(struct dl_log *log);

#define DL_HARVEST_FINAL  DL_HARVEST_PAUSED
#define dl_log_close(log) session_close(log)

#endif
