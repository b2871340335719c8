/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_WATCH_H
#define PRECOPY_WATCH_H

#include "../status/status.h"
#include "report.h"

/* What others see of a migration: --status while it runs, and --report when it is over. */
struct watch {
	const struct options *options;
	struct status *status; /* NULL: not asked for */
	struct activity activity;
};

/*
 * Makes the socket, and checks that the report can be written: before there is a guest. Returns 0,
 * or -1 after it has printed the reason.
 */
int watch_open(struct watch *watch, const struct options *options);

/* The guest is about to move. Returns 0 or a negative errno value. */
int watch_begin(struct watch *watch, const struct machine *machine, const struct dl_log *log);

/* The consumer of the migration; NULL before it is freed. */
void watch_cursor(struct watch *watch, const struct dl_cursor *cursor);

void watch_state(struct watch *watch, enum activity_state state);

/* The migration is over, with this exit status. Call it while the guest's handles live. */
void watch_end(struct watch *watch, int status);

/* status is the program's exit status. Returns the one to exit with. */
int watch_close(struct watch *watch, int status);

#endif
