/* SPDX-License-Identifier: MIT */
/* dl_log_fd(), dl_log_reap(): rings are emptied before they fill. */

#include "call.h"
#include "throttle.h"
#include "ring/drain.h"

#include <errno.h>

int dl_log_fd(struct dl_log *log)
{
	struct dli_call call;
	int r;

	if (!log)
		return -EINVAL;
	if (dli_log_is_closed(log))
		return dli_log_fail(log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	r = dli_reaper_fd(&log->reaper);
	dli_call_end(&call);
	return r < 0 ? dli_log_fail(log, DLI_TIMER_NOT_SET, DLI_NO_NUMBER, r) : r;
}

/* Reaping never repairs: the next harvest does, as that needs the slots and hands out pages. */
static int empty_rings(struct dl_log *log)
{
	uint64_t began_ns = dli_os_now_ns(log->vm.os);
	int r = dli_drain_all(&log->vcpus, &log->reset, false, &log->slots);

	if (!r)
		dli_pace_note(&log->pace, &log->vcpus, began_ns, false);
	return r;
}

/* Entries of a drain that failed are in no ring's count any more, so it is tried again. */
static bool is_due(const struct dl_log *log)
{
	return atomic_load_explicit(&log->reaper.failed, memory_order_relaxed) ||
	       !dli_pace_look(&log->pace, &log->vcpus).until_due_ns;
}

static int rearm(struct dl_log *log, bool failed, uint64_t limits_ns, uint64_t requests,
		 uint64_t *again_ns)
{
	const struct dli_look look = dli_pace_look(&log->pace, &log->vcpus);
	const struct dli_reset *reset = &log->reset;
	const struct dli_reaped reaped = {
		.until_due_ns = look.until_due_ns,
		.activity = look.entries +
			    atomic_load_explicit(&reset->full_drains, memory_order_relaxed),
		.overflowed = atomic_load_explicit(&reset->overflowed, memory_order_relaxed),
		.failed = failed,
		.limits_ns = limits_ns,
		.requests = requests,
	};

	return dli_reaper_rearm(&log->reaper, &reaped, again_ns);
}

/* The log is in ring mode. Takes no lock of the log but the reaper's: see log.h. */
static int reap(struct dl_log *log, uint32_t flags, uint64_t *again_ns)
{
	struct dli_call call;
	/* A caller in an event loop would come back at once if this did not back off as well. */
	int r = dli_call_begin(&call, log), timer;
	bool drain = flags & DL_REAP_NOW || is_due(log) || dli_limits_are_due(log);
	uint64_t limits_ns, requests = dli_reaper_requests(&log->reaper);

	if (!r && drain)
		r = empty_rings(log);
	limits_ns = dli_limits_look(log, drain && !r);
	timer = rearm(log, r, limits_ns, requests, again_ns);
	dli_call_end(&call);
	if (r)
		return dli_log_fail(log, DLI_RINGS_NOT_RESET, DLI_NO_NUMBER, r);
	return timer ? dli_log_fail(log, DLI_TIMER_NOT_SET, DLI_NO_NUMBER, timer) : 0;
}

/*
 * The caller takes the kicks now for which the descriptor became readable. A vCPU that asked for
 * its pause at the moment when limits were lifted is found by this look.
 */
static int silence(struct dl_log *log)
{
	struct dli_call call;
	int r = dli_call_begin(&call, log);

	(void)dli_limits_look(log, false);
	dli_reaper_silence(&log->reaper);
	dli_call_end(&call);
	return r;
}

int dl_log_reap(struct dl_log *log, uint32_t flags, uint64_t *again_ns)
{
	uint64_t again = UINT64_MAX;
	int r = 0;

	if (!log)
		return -EINVAL;
	if (flags & ~(uint32_t)DL_REAP_NOW)
		return dli_log_fail(log, DLI_BAD_FLAGS, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(log))
		return -EIO;
	if (dli_log_is_closed(log))
		return dli_log_fail(log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	if (dli_log_is_ring(log) && (dli_log_is_on(log) || flags & DL_REAP_NOW))
		r = reap(log, flags, &again);
	else if (dli_reaper_is_announcing(&log->reaper))
		r = silence(log);
	if (again_ns)
		*again_ns = again;
	return r;
}
