/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_THROTTLE_H
#define PRECOPY_THROTTLE_H

#include "duty.h"
#include "machine.h"
#include "options.h"
#include "outlets.h"
#include "reaper.h"
#include "report.h"

/*
 * --throttle: holds vCPUs back so that the live passes end. A thread takes the decisions; the
 * vCPUs' threads ask for their pauses.
 *
 *	throttle_measure(); throttle_start(); throttle_pass_done() after each live pass;
 *	throttle_note_end() before the guest is stopped, throttle_stop() after that.
 */

struct throttle;

struct throttle_kind {
	/* Called with the lock held. start and stop are optional. */
	int (*start)(struct throttle *throttle); /* returns 0 or a negative errno value */
	void (*stop)(struct throttle *throttle);
	uint64_t (*step)(struct throttle *throttle); /* returns the time until the next step */
	/* Called when the guest dirties more than half of what was sent: QEMU's rule. Optional. */
	void (*harder)(struct throttle *throttle);

	/* Finds out whether to stop the guest: outlets->enough. NULL: it does not decide that. */
	void (*ask)(struct throttle *throttle);

	/* For machine_set_pauses(). */
	uint64_t (*pause_due)(void *throttle, struct vcpu *vcpu);

	/* The vCPUs that are limited now: a bit each. */
	uint32_t (*limited)(const struct throttle *throttle);
};

extern const struct throttle_kind throttle_auto_converge, throttle_dirty_limit, throttle_plan;

struct throttle {
	const struct options *options;
	const struct throttle_kind *kind; /* NULL: vCPUs are only observed */
	struct machine *machine;
	struct dl_log *log;
	struct dl_cursor *cursor;
	struct outlets *outlets;
	struct reaper *reaper;
	struct report *report; /* its throttling is the result */
	struct activity *activity;
	bool started;

	pthread_mutex_t lock;
	pthread_t thread;
	bool has_thread;
	int stop_fd; /* an eventfd */

	/* Since when the result counts, and what had been counted before. */
	uint64_t start_ns;
	struct machine_reads first_reads;
	uint64_t pass_ns; /* end of the last pass */
	uint64_t pass_held_ns[LAYOUT_MAX_VCPUS];

	/* Dirtied and sent since the last look. */
	uint64_t period_ns, period_new_pages, period_wire_bytes;
	uint32_t passes, excesses;

	/* plan */
	struct dl_plan *plan;
	uint32_t verdict;
	uint64_t again_ns; /* when to ask it again */

	/* auto-converge, and a plan in bitmap mode */
	struct duty duty;

	/* dirty-limit */
	bool in_service;
	_Atomic uint64_t ns_per_full[LAYOUT_MAX_VCPUS]; /* sleep after each full ring */
	uint64_t entries[LAYOUT_MAX_VCPUS], rated_ns;
	double fastest; /* MiB/s */
};

/* Finds out how fast the readers of the running guest are while nothing is logged. */
void throttle_measure(struct throttle *throttle);

/* Begins. The cursor and the reaper have started. Returns 0 or a negative errno value. */
int throttle_start(struct throttle *throttle, struct dl_log *log, struct dl_cursor *cursor);

/* Whether to stop the guest now. False where that does not decide. */
bool throttle_enough(struct throttle *throttle);

/* Notes in the row who was held, and how hard. */
void throttle_pass_done(struct throttle *throttle, struct pass_row *row);

/* The guest is about to be stopped: the result is what has happened until now. */
void throttle_note_end(struct throttle *throttle);

/* Lifts all limits. Does nothing if it has not begun. */
void throttle_stop(struct throttle *throttle);

#endif
