/* SPDX-License-Identifier: MIT */
/* dl_vcpu_limit(), dl_vcpu_pause_due(), dl_log_kicks(): how fast vCPUs may dirty memory. */

#include "call.h"
#include "throttle.h"

#include <errno.h>

#define SECOND_NS 1e9

int dl_vcpu_limit(struct dl_vcpu *vcpu, uint64_t bytes_per_s)
{
	struct dli_call call;
	struct dl_log *log;
	int r;

	if (!vcpu)
		return -EINVAL;
	log = vcpu->log;
	if (dli_log_in_child(log))
		return -EIO;
	if (dli_log_is_closed(log))
		return dli_log_fail(log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	if (!vcpu->ring)
		return dli_log_fail(log, DLI_NO_RINGS, DLI_NO_NUMBER, -EOPNOTSUPP);
	/* The descriptor's timer has a lock. */
	r = dli_call_begin(&call, log);
	if (!r)
		dli_limits_set_own(log, vcpu,
				   (double)bytes_per_s / (SECOND_NS * log->caps.page_bytes));
	dli_call_end(&call);
	return r;
}

int dl_vcpu_pause_due(struct dl_vcpu *vcpu, uint64_t *pause_ns)
{
	if (!vcpu)
		return -EINVAL;
	if (!pause_ns)
		return dli_log_fail(vcpu->log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	*pause_ns = 0;
	if (dli_log_in_child(vcpu->log))
		return -EIO;
	/* A closed log is no reason for a vCPU to stop. */
	if (vcpu->ring && !dli_log_is_closed(vcpu->log))
		*pause_ns = dli_limits_ask(vcpu->log, vcpu);
	return 0;
}

int dl_log_kicks(struct dl_log *log, uint64_t *cookies, uint32_t max_cookies)
{
	if (!log)
		return -EINVAL;
	if (!cookies || !max_cookies || max_cookies > INT32_MAX)
		return dli_log_fail(log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(log))
		return -EIO;
	if (dli_log_is_closed(log))
		return dli_log_fail(log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	return dli_log_is_ring(log) ? (int)dli_limits_take_kicks(log, cookies, max_cookies) : 0;
}
