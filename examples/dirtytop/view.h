/* SPDX-License-Identifier: MIT */
#ifndef DIRTYTOP_VIEW_H
#define DIRTYTOP_VIEW_H

#include "snapshot.h"

/* Figures derived from several lines: rates, and the map of the last seconds. */

/*
 * A counter that grows in steps. Between two harvests of a ring nothing is known of it, so its rate
 * is that of the last step: over the time between the last two lines at which it had grown.
 */
struct rate {
	uint64_t value, at_ns;
	uint64_t step; /* the last one */
	double per_s;
	bool known;
};

struct view_vcpu {
	struct rate entries, new_pages;
};

enum { VIEW_HISTORY = 512 };

struct view {
	bool has_snapshot;
	struct snapshot now;
	struct rate new_pages, sent_pages, wire_bytes;
	struct view_vcpu vcpus[STATUS_VCPUS];
	double heat[HEAT_CELLS]; /* pages that were sent, fading */
	uint32_t n_history;
	double dirtied[VIEW_HISTORY], sent[VIEW_HISTORY]; /* per second, the newest last */
};

void view_update(struct view *view, const struct snapshot *snapshot);

#endif
