/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_WATCH_H
#define PRECOPY_WATCH_H

#include "../status/status.h"
#include "report.h"
#include "timeline.h"

/* Publishes the migration: --status while it runs, --report when it is over. */
struct watch {
	const struct options *options;
	struct status *status; /* NULL: not asked for */
	struct activity activity;
	uint64_t copied[HEAT_CELLS]; /* the map when all memory had been sent once */
	bool has_copied;
	struct timeline timeline; /* for --report */
	bool reported;
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

/* The first pass, which sends everything, is over. */
void watch_copied(struct watch *watch);

/* The migration begins; it has ended, well or not. */
void watch_timeline(struct watch *watch, const struct dl_log *log);
void watch_timeline_end(struct watch *watch);

/* Writes the page of --report. If it cannot, it prints why and notes that in the report. */
void watch_report(struct watch *watch, struct report *report);

/* The migration is over, with this exit status. Call it while the guest's handles live. */
void watch_end(struct watch *watch, int status);

/* status is the program's exit status. Returns the one to exit with. */
int watch_close(struct watch *watch, int status);

#endif
