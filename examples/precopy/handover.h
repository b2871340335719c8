/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_HANDOVER_H
#define PRECOPY_HANDOVER_H

#include "audit.h"
#include "device_process.h"
#include "host.h"
#include "../guest/reaper.h" /* lib/ has one too */
#include "report.h"
#include "outlets.h"
#include "throttle.h"
#include "watch.h"

struct source {
	const struct options *options;
	struct machine *machine;
	struct dl_log *log;
	struct dl_cursor *cursor; /* of the migration */
	struct reaper reaper;
	struct device device;
	struct audit audit;
	struct device_process device_process;
	struct device_state device_state;
	struct wire wire; /* for all but the contents of pages */
	struct outlets outlets;
	struct saboteur saboteur;
	struct report report;
	struct watch *watch;
	struct throttle throttle;
	struct dl_stats pass_stats; /* at the start of the pass */
	double bytes_per_ns;	    /* measured on the wire */
	uint64_t stopped_ns;	    /* when the guest was stopped */
};

/*
 * The source's side of the protocol, except for the contents of pages. All functions return 0, or a
 * negative errno value with the reason in the wire's why or the report's error.
 */

/* Describes the guest; waits until the destination has created a machine for it. */
int handover_hello(struct source *source);

/*
 * Called after the final pass: sends the state of the vCPUs and devices. After a success the
 * destination has everything that it needs to run the guest.
 */
int handover_state(struct source *source);

/* Has every page compared. Differing pages are no error; the report lists them. */
int handover_prove(struct source *source);

/*
 * Lets the destination run the guest. If this fails, the guest has not run there and never will:
 * the destination was not told in whole, or has refused. After 0 it must not run here again; the
 * report says whether the destination has answered.
 */
int handover_run(struct source *source);

/* Copies a failure of the wire into the report, unless the report has an error already. */
void source_wire_error(struct source *source);

/* Reports damage that the guest found on the source, or the failure of a vCPU. */
int source_guest_failure(struct source *source);

#endif
