/* SPDX-License-Identifier: MIT */
#ifndef DLI_THROTTLE_H
#define DLI_THROTTLE_H

#include "log.h"

/*
 * The limits of all vCPUs: who must pause, and for how long.
 *
 * After a drain every vCPU's new pages are charged; one in debt is to be kicked out of KVM_RUN, and
 * gets its pause when it asks. Nobody waits for anybody: a vCPU's state is used by whoever finds it
 * free, and looked at again soon by the others.
 */

/* The vCPU asks, on its thread, how long to stay out of KVM_RUN. */
uint64_t dli_limits_ask(struct dl_log *log, struct dl_vcpu *vcpu);

/*
 * Charges every vCPU and decides who must pause; adds to the rates of the last second. drained: the
 * rings were emptied just now. Returns the time until the next look; UINT64_MAX if no vCPU is
 * limited.
 */
uint64_t dli_limits_look(struct dl_log *log, bool drained);

/* True if the rings are to be drained now for the sake of limits. */
bool dli_limits_are_due(const struct dl_log *log);

/* True if some vCPU must leave KVM_RUN or its pause, or the next look may find that. */
bool dli_limits_may_kick(const struct dl_log *log);

/* Takes the cookies of vCPUs that must leave KVM_RUN; returns how many. */
uint32_t dli_limits_take_kicks(struct dl_log *log, uint64_t *cookies, uint32_t max_cookies);

/* Sets the vCPU's own limit, in pages per nanosecond; 0: none. Effective at once. */
void dli_limits_set_own(struct dl_log *log, struct dl_vcpu *vcpu, double pages_per_ns);

/* A plan's limits: what all of them share. The limit of each vCPU is set in dl_vcpu.limit. */
struct dli_plan_terms {
	uint64_t until_ns; /* when they lapse; 0: now */
	uint64_t longest_pause_ns;
	double least_run;
};

void dli_limits_set_plan(struct dl_log *log, const struct dli_plan_terms *terms);

/* True if a vCPU was told to pause long ago and has not asked. */
bool dli_limits_are_ignored(const struct dl_log *log);

/* True if the vCPU is held back now. */
bool dli_limits_hold(const struct dl_log *log, const struct dl_vcpu *vcpu);

/* Logging is on: limits that were set before want looks. */
void dli_limits_begin(struct dl_log *log);

#endif
