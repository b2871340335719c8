/* SPDX-License-Identifier: MIT */
/* dl_log_start(), dl_log_stop(): switch logging on and off. */

#include "api/start_stop.h"

#include "call.h"
#include "kvm/uapi.h"
#include "pages/rcu.h"
#include "ring/drain.h"
#include "slot_logging.h"

#include <errno.h>

/* Called while logging is off, or to undo a start: the pages are not used. */
static int drain_rings(struct dl_log *log)
{
	return dli_drain_all(&log->vcpus, &log->reset, false, &log->slots);
}

static void discard_pages(struct dl_log *log)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	struct dli_slot *slot;

	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));)
		dli_page_set_clear(slot->set);
	dli_slots_sweep(&log->slots, true);
}

/*
 * Pairs with dli_log_session() and dli_log_is_on(). That is all a start needs: entries are pushed
 * only after it sets the slots' flags, and read after an acquire of their cell. A stop also waits
 * for a grace period, for readers that saw logging on.
 */
static void set_logging(struct dl_log *log, bool on)
{
	atomic_fetch_add_explicit(&log->session, 1, memory_order_release);
	dli_slots_set_logging(&log->slots, on);
}

/*
 * INITIALLY_SET saves the start from protecting every page: the CLEAR before a page is handed out
 * does it. The kernel then reports every page as dirty, so use it only if all pages are. It stays
 * on for the whole session: CLEAR protects huge mappings only while it is on.
 */
static int set_manual_protect(struct dl_log *log, uint32_t flags)
{
	struct kvm_enable_cap enable = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 };
	uint32_t has = log->caps.has;
	int r;

	log->clear_in_chunks = false;
	if (dli_log_is_ring(log) || !(has & DL_HAS_MANUAL_PROTECT))
		return 0;
	enable.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	if (!(flags & DL_START_CLEAN) && has & DL_HAS_INITIALLY_SET)
		enable.args[0] |= KVM_DIRTY_LOG_INITIALLY_SET;
	r = dli_os_ioctl(log->vm.os, log->vm.fd, KVM_ENABLE_CAP, &enable);
	if (!r)
		log->clear_in_chunks = true;
	return r;
}

static int reserve_buffer(struct dl_log *log)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	struct dli_slot *slot;
	uint64_t most = 0;

	if (dli_log_is_ring(log) && !log->caps.backup)
		return 0;
	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));)
		if (slot->pages > most)
			most = slot->pages;
	return most ? dli_bitmap_reserve(&log->buffer, log->vm.os, most) : 0;
}

static int switch_on(struct dl_log *log, uint32_t flags)
{
	int r;

	/* Enabling logging write-protects every page, which covers any pending repair. */
	(void)dli_reset_repair_needed(&log->reset);
	/* Record entries from here on; none is pushed before a flag is set below. */
	set_logging(log, true);
	r = dli_slot_logging_set_all(log, true);
	if (r) {
		set_logging(log, false);
		(void)dli_slot_logging_set_all(log, false);
		(void)drain_rings(log);
		dli_rcu_synchronize();
		discard_pages(log);
		return r;
	}
	if (dli_log_is_ring(log))
		dli_reset_repaired(&log->reset);
	if (!(flags & DL_START_CLEAN))
		dli_mark_all_slots(log);
	dli_pace_note(&log->pace, &log->vcpus, true);
	dli_reaper_arm(&log->reaper);
	return 0;
}

static int start(struct dl_log *log, uint32_t flags)
{
	int r;

	if (dli_log_is_closed(log))
		return -ECANCELED;
	if (dli_log_is_on(log))
		return -EBUSY;
	log->last_failure[0] = '\0';
	/* Switch off the slots that a failed stop left on. */
	r = dli_slot_logging_set_all(log, false);
	if (!r)
		r = reserve_buffer(log);
	if (!r)
		r = set_manual_protect(log, flags);
	if (!r && dli_log_is_ring(log))
		r = drain_rings(log);
	if (r)
		return r;
	return switch_on(log, flags);
}

int dl_log_start(struct dl_log *log, uint32_t flags)
{
	struct dli_call call;
	int r;

	if (!log || flags & ~(uint32_t)DL_START_CLEAN)
		return -EINVAL;
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	pthread_mutex_lock(&log->lock);
	r = start(log, flags);
	pthread_mutex_unlock(&log->lock);
	dli_call_end(&call);
	return r;
}

int dli_stop_logging(struct dl_log *log)
{
	bool was_on = dli_log_is_on(log);
	int r, drained = 0;

	if (was_on)
		set_logging(log, false);
	dli_reaper_disarm(&log->reaper);
	r = dli_slot_logging_set_all(log, false);
	/* Clear the flags first; otherwise the rings would fill again after the drain. */
	if (dli_log_is_ring(log))
		drained = drain_rings(log);
	if (was_on) {
		/* Wait for marks and drains that saw logging on. */
		dli_rcu_synchronize();
		discard_pages(log);
	}
	return r ? r : drained;
}

int dl_log_stop(struct dl_log *log)
{
	struct dli_call call;
	int r;

	if (!log)
		return -EINVAL;
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	pthread_mutex_lock(&log->reading);
	pthread_mutex_lock(&log->lock);
	r = dli_log_is_closed(log) ? -ECANCELED : dli_stop_logging(log);
	pthread_mutex_unlock(&log->lock);
	pthread_mutex_unlock(&log->reading);
	dli_call_end(&call);
	return r;
}
