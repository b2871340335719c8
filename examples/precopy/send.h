/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_SEND_H
#define PRECOPY_SEND_H

#include "report.h"
#include "sabotage.h"
#include "wire.h"

#include <signal.h>

/* Sends the contents of runs, at no more than the bandwidth that is allowed. */
struct sender {
	struct wire *wire;
	struct machine *machine;
	struct report *report;
	struct saboteur saboteur;
	bool zero_pages; /* tell of pages of zeros, do not send them */
	uint64_t bandwidth_bytes_per_s;
	volatile sig_atomic_t *cancelled;
	/* Of this pass: */
	struct pass_row *row;
	uint64_t start_ns;
	uint64_t start_bytes; /* on the wire until then */
};

void sender_begin_pass(struct sender *sender, struct pass_row *row);

/* All return 0 or a negative errno value; the wire's why tells of it. */
int sender_send_runs(struct sender *sender, const struct dl_run *runs, int n_runs);

/* Waits until the other side has all of the pass in place. */
int sender_end_pass(struct sender *sender);

#endif
