/* SPDX-License-Identifier: MIT */
/* Counters, and when the next harvest is due. */

#include "abi.h"
#include "log.h"

/*
 * The part of what a ring holds that may be filled when a harvest is due. The rest is for what comes
 * while that one is made, and for a thread that is late.
 */
#define DUE_SHARE 2u

static uint64_t get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void add_ring(struct dl_stats *stats, struct dli_ring *ring)
{
	const struct dli_ring_stats *s = dli_ring_stats(ring);
	uint64_t entries = get(&s->entries), known = get(&s->new_pages) + get(&s->stale);
	uint64_t high_water = get(&s->high_water_entries);

	stats->entries += entries;
	stats->new_pages += get(&s->new_pages);
	stats->stale_entries += get(&s->stale);
	stats->duplicates += entries > known ? entries - known : 0;
	stats->overflows += get(&s->overflows);
	stats->full_exits += get(&s->full_exits);
	if (high_water > stats->high_water_entries)
		stats->high_water_entries = high_water;
}

static void add_sets(const struct dl_log *log, struct dl_stats *stats)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	uint64_t pending = 0, in_flight = 0;

	for (uint32_t i = 0; i < table->n; i++) {
		pending += dli_page_set_pending_pages(table->ranges[i].slot->set);
		in_flight += dli_page_set_in_flight_pages(table->ranges[i].slot->set);
	}
	for (const struct dli_slot *slot = log->slots.retired; slot; slot = slot->next_retired) {
		pending += dli_page_set_pending_pages(slot->set);
		in_flight += dli_page_set_in_flight_pages(slot->set);
	}
	stats->pending_bytes = pending * log->caps.page_bytes;
	stats->unacked_bytes = in_flight * log->caps.page_bytes;
}

int dl_log_stats(const struct dl_log *log, struct dl_stats *out)
{
	struct dl_stats stats = { .size = sizeof(stats) };
	pthread_mutex_t *lock;

	if (!log || !out)
		return -EINVAL;
	/* The lock is not part of what const promises. */
	lock = (pthread_mutex_t *)&log->lock;
	if (dli_log_is_ring(log))
		for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));)
			add_ring(&stats, vcpu->ring);
	stats.new_pages += get(&log->bitmap_new_pages);
	stats.resets = get(&log->reset.resets);
	stats.short_resets = get(&log->reset.short_resets);
	stats.ioctl_ns = get(&log->reset.ioctl_ns) + get(&log->slot_ioctl_ns);
	pthread_mutex_lock(lock);
	add_sets(log, &stats);
	pthread_mutex_unlock(lock);
	return dli_abi_write(out, sizeof(stats), &stats, sizeof(stats));
}

int dl_vcpu_stats(const struct dl_vcpu *vcpu, struct dl_stats *out)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	if (!vcpu || !out)
		return -EINVAL;
	if (dli_log_is_closed(vcpu->log))
		return -ECANCELED;
	if (vcpu->ring) {
		add_ring(&stats, vcpu->ring);
		stats.resets = get(&dli_ring_stats(vcpu->ring)->resets);
		stats.short_resets = get(&dli_ring_stats(vcpu->ring)->short_resets);
	}
	return dli_abi_write(out, sizeof(stats), &stats, sizeof(stats));
}

void dli_log_note_pace(struct dl_log *log, bool first)
{
	uint64_t now_ns = dli_os_now_ns();
	uint64_t span_ns = first ? 0 : now_ns - get(&log->harvested_at_ns);

	atomic_store_explicit(&log->span_entries, dli_vcpu_list_take_fastest(&log->vcpus),
			      memory_order_relaxed);
	atomic_store_explicit(&log->span_ns, span_ns, memory_order_relaxed);
	atomic_store_explicit(&log->harvested_at_ns, now_ns, memory_order_relaxed);
}

/*
 * Until the ring is as full as it may be, at the rate of the fastest vCPU before the last harvest or
 * at its own since then, whichever is the greater: so one that has just begun counts, and one that
 * pauses does too.
 */
static uint64_t until_due(struct dli_ring *ring, double before_per_ns, uint64_t since_ns)
{
	const struct dli_ring_pace pace = dli_ring_pace(ring);
	uint32_t may_fill = pace.room / DUE_SHARE;
	double per_ns = before_per_ns, until_ns;

	if (pace.filled >= may_fill)
		return 0;
	if (since_ns && (double)pace.since > per_ns * (double)since_ns)
		per_ns = (double)pace.since / (double)since_ns;
	if (!(per_ns > 0))
		return UINT64_MAX;
	until_ns = (may_fill - pace.filled) / per_ns;
	/* Of those of many years none is anybody's. */
	return until_ns < (double)(UINT64_MAX / 2) ? (uint64_t)until_ns : UINT64_MAX;
}

int dl_log_harvest_due(struct dl_log *log, uint64_t *from_now_ns)
{
	uint64_t due_ns = UINT64_MAX, harvested_ns, since_ns, span_ns;
	double before_per_ns = 0;

	if (!log || !from_now_ns)
		return -EINVAL;
	if (!dli_log_is_on(log))
		return -ECANCELED;
	/* In this order: another thread may be harvesting. */
	harvested_ns = get(&log->harvested_at_ns);
	since_ns = dli_os_now_ns() - harvested_ns;
	span_ns = get(&log->span_ns);
	if (span_ns)
		before_per_ns = (double)get(&log->span_entries) / (double)span_ns;
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));) {
		uint64_t until_ns =
			vcpu->ring ? until_due(vcpu->ring, before_per_ns, since_ns) : UINT64_MAX;

		if (until_ns < due_ns)
			due_ns = until_ns;
	}
	*from_now_ns = due_ns;
	return 0;
}
