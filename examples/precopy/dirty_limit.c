/* SPDX-License-Identifier: MIT */
#include "throttle.h"
#include "../clock.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>

/*
 * --throttle dirty-limit: what QEMU's migration capability of that name does by default. Once the
 * guest dirties too much, every vCPU has a limit of 1 MiB/s. One that dirties notably more sleeps
 * whenever its ring is full; how long is adjusted once a second. The rings are not emptied before
 * they fill meanwhile, or there would be no such moments.
 */

#define LIMIT_MIB_PER_S	    1.0
#define TOLERANCE_MIB_PER_S 25.0
#define LINEAR_PERCENT	    50.0
#define MOST_PERCENT	    99.0
#define ADJUST_SHARE	    0.1
#define ADJUST_NS	    NS_PER_S

/* How long a vCPU takes at least to fill its ring. */
static double ns_to_fill(const struct throttle *throttle)
{
	const struct report *report = throttle->report;
	double mib = (double)report->config.ring_entries * report->layout.page_bytes / (1 << 20);

	return throttle->fastest > 0 ? mib / throttle->fastest * 1e9 : 0;
}

/* The sleep per full ring of a vCPU that dirties so much. */
static double adjusted(const struct throttle *throttle, double ns, double mib_per_s)
{
	double full_ns = ns_to_fill(throttle), change_ns = full_ns * ADJUST_SHARE, percent, most;
	double sign = mib_per_s > LIMIT_MIB_PER_S ? 1 : -1;

	if (fabs(mib_per_s - LIMIT_MIB_PER_S) <= TOLERANCE_MIB_PER_S)
		return ns;
	if (mib_per_s == 0)
		return 0;
	most = fmax(mib_per_s, LIMIT_MIB_PER_S);
	percent = floor(fabs(mib_per_s - LIMIT_MIB_PER_S) * 100 / most);
	if (percent > LINEAR_PERCENT) {
		percent = fmin(percent, MOST_PERCENT);
		change_ns = full_ns * percent / (100 - percent);
	}
	return fmax(0, fmin(ns + sign * change_ns, full_ns * MOST_PERCENT));
}

static void rate_vcpu(struct throttle *throttle, uint32_t id, uint64_t over_ns)
{
	struct dl_stats stats = { .size = sizeof(stats) };
	uint64_t page_bytes = throttle->machine->layout.page_bytes;
	double mib_per_s;

	if (dl_vcpu_stats(throttle->machine->vcpus[id].log_vcpu, &stats))
		return;
	mib_per_s = floor((double)((stats.entries - throttle->entries[id]) * page_bytes) * 1e9 /
			  (double)over_ns / (1 << 20));
	throttle->entries[id] = stats.entries;
	throttle->fastest = fmax(throttle->fastest, mib_per_s);
	if (throttle->in_service)
		throttle->ns_per_full[id] =
			(uint64_t)adjusted(throttle, (double)throttle->ns_per_full[id], mib_per_s);
}

/* QEMU measures over a second, with all rings emptied at its end. */
static uint64_t step(struct throttle *throttle)
{
	uint64_t now_ns;

	/* After an error, what is in the rings counts in the next second. */
	(void)!dl_log_reap(throttle->log, DL_REAP_NOW, NULL);
	now_ns = clock_ns();
	if (throttle->rated_ns)
		for (uint32_t id = 0; id < throttle->machine->layout.vcpus; id++)
			rate_vcpu(throttle, id, now_ns - throttle->rated_ns);
	throttle->rated_ns = now_ns;
	return ADJUST_NS;
}

static int start(struct throttle *throttle)
{
	struct report *report = throttle->report;

	if (report->config.ring_entries)
		return 0;
	snprintf(report->error, sizeof(report->error), "--throttle dirty-limit needs rings");
	return -EOPNOTSUPP;
}

static void harder(struct throttle *throttle)
{
	throttle->in_service = true;
	reaper_rest(throttle->reaper, true);
}

static void stop(struct throttle *throttle)
{
	reaper_rest(throttle->reaper, false);
}

static uint64_t pause_due(void *opaque, struct vcpu *vcpu)
{
	struct throttle *throttle = opaque;

	return vcpu->was_full ? throttle->ns_per_full[vcpu->id] : 0;
}

static uint32_t limited(const struct throttle *throttle)
{
	uint32_t mask = 0;

	for (uint32_t id = 0; id < throttle->machine->layout.vcpus; id++)
		if (throttle->ns_per_full[id])
			mask |= 1u << id;
	return mask;
}

const struct throttle_kind throttle_dirty_limit = {
	.start = start,
	.step = step,
	.stop = stop,
	.harder = harder,
	.pause_due = pause_due,
	.limited = limited,
};
