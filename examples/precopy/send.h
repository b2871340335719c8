/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_SEND_H
#define PRECOPY_SEND_H

#include "../status/activity.h"
#include "report.h"
#include "sabotage.h"
#include "wire.h"

#include <signal.h>

/* Sends the pages of extents, limited to the configured bandwidth. */
struct sender {
	struct wire *wire;
	struct machine *machine;
	struct report *report;
	const struct saboteur *saboteur;
	bool zero_pages; /* send zero pages as ranges, without their contents */
	uint64_t bandwidth_bytes_per_s;
	const volatile sig_atomic_t *cancelled;
	struct pass_progress *progress;
	struct activity *activity; /* for those who look on */
	bool shows_progress;	   /* one of them does, for all */
	struct dl_plan *plan;	   /* NULL: none */
	/* The current pass: */
	struct pass_row *row;
	const struct dl_extent *extent;
	uint64_t start_ns;
	uint64_t start_bytes; /* wire->sent_bytes at its start */
};

void sender_begin_pass(struct sender *sender, struct pass_row *row);

/* These return 0, or a negative errno value with the reason in wire->why. */
int sender_send_extents(struct sender *sender, const struct dl_extent *extents, int n_extents);

/* Flushes the wire: waits until the destination has all of the pass in place. */
int sender_flush(struct sender *sender);

#endif
