/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_HANDOVER_H
#define PRECOPY_HANDOVER_H

#include "device.h"
#include "report.h"
#include "send.h"

struct source {
	const struct options *options;
	struct machine machine;
	struct dl_log *log;
	struct device device;
	struct device_state device_state;
	struct wire wire;
	struct sender sender;
	struct report report;
	struct dl_stats at_pass; /* when the pass began */
	double bytes_per_ns;	 /* on the wire */
	uint64_t stopped_ns;	 /* when the guest was stopped */
};

/*
 * What the source says to the destination beside the contents of pages. All return 0 or a
 * negative errno value; the reason is in the wire's why, or in the report's error.
 */

/* Describes the guest; the destination makes room for it. */
int handover_hello(struct source *source);

/* After the final pass: sends vCPUs and devices. 0: the other side could run the guest now. */
int handover_state(struct source *source);

/* Has every page compared. Differences are in the report, not an error. */
int handover_prove(struct source *source);

/* Lets the guest run there. After a failure nobody knows whether it does. */
void handover_run(struct source *source);

/* Takes the wire's failure into the report, if there is one and nothing else is there yet. */
void source_wire_error(struct source *source);

/* Notes damage that the guest found on this side, or a vCPU that stopped. */
int source_guest_failure(struct source *source);

#endif
