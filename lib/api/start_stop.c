/* SPDX-License-Identifier: MIT */
/* dl_log_start, dl_log_stop: the span in which writes are logged. */

#include "api/start_stop.h"

#include "kvm/uapi.h"
#include "pages/rcu.h"
#include "ring/drain.h"
#include "slot_logging.h"

#include <errno.h>

/* Publishes nothing while logging is off: the rings are emptied, that is all. */
static int drain_rings(struct dl_log *log)
{
	return dli_drain_all(&log->vcpus, &log->reset, false, &log->slots);
}

static void discard_pages(struct dl_log *log)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);

	for (uint32_t i = 0; i < table->n; i++)
		dli_page_set_clear(table->ranges[i].slot->set);
	dli_slots_sweep(&log->slots, true);
}

/*
 * Pairs with dli_log_session() and dli_log_is_on(). A start needs no more than that: an entry that is
 * pushed because of the flags that it sets is read behind an acquire of the cell. A stop waits for a
 * grace period for those who saw logging on.
 */
static void set_logging(struct dl_log *log, bool on)
{
	atomic_fetch_add_explicit(&log->session, 1, memory_order_release);
	dli_slots_set_logging(&log->slots, on);
}

/*
 * INITIALLY_SET spares the start the protection of every page and leaves it to the CLEAR that comes
 * before a page is handed out; it also has the kernel report every page, so only where all is
 * dirty. It stays for the whole session: CLEAR protects huge mappings only while it is on.
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
	uint64_t most = 0;

	if (dli_log_is_ring(log) && !log->caps.backup)
		return 0;
	for (uint32_t i = 0; i < table->n; i++)
		if (table->ranges[i].slot->pages > most)
			most = table->ranges[i].slot->pages;
	return most ? dli_bitmap_reserve(&log->buffer, log->vm.os, most) : 0;
}

static int switch_on(struct dl_log *log, uint32_t flags)
{
	int r;

	/* What was owed before is paid by the flags below: they protect every page. */
	(void)dli_reset_repair_needed(&log->reset);
	/* From now on entries are noted; whatever is pushed is pushed after a flag is set below. */
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
	/* Left over from a stop that failed. */
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
	int r;

	if (!log || flags & ~(uint32_t)DL_START_CLEAN)
		return -EINVAL;
	pthread_mutex_lock(&log->lock);
	r = start(log, flags);
	pthread_mutex_unlock(&log->lock);
	return r;
}

int dli_stop_logging(struct dl_log *log)
{
	bool was_on = dli_log_is_on(log);
	int r, drained = 0;

	if (was_on)
		set_logging(log, false);
	r = dli_slot_logging_set_all(log, false);
	/* After the flags, or rings would fill again behind the drain. */
	if (dli_log_is_ring(log))
		drained = drain_rings(log);
	if (was_on) {
		/* Marks and drains that saw logging on are over. */
		dli_rcu_synchronize();
		discard_pages(log);
	}
	return r ? r : drained;
}

int dl_log_stop(struct dl_log *log)
{
	int r = -ECANCELED;

	if (!log)
		return -EINVAL;
	pthread_mutex_lock(&log->reading);
	pthread_mutex_lock(&log->lock);
	if (!dli_log_is_closed(log))
		r = dli_stop_logging(log);
	pthread_mutex_unlock(&log->lock);
	pthread_mutex_unlock(&log->reading);
	return r;
}
