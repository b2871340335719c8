/* SPDX-License-Identifier: MIT */
/* dl_log_stats(), dl_vcpu_stats(). */

#include "api/abi.h"
#include "throttle.h"

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

/* Rates, pauses and limits of one vCPU. */
static void add_limit(struct dl_stats *stats, const struct dl_vcpu *vcpu)
{
	const struct dli_limit *limit = &vcpu->limit;
	double page_bytes = vcpu->log->caps.page_bytes;

	stats->limited_vcpus += dli_limits_hold(vcpu->log, vcpu);
	stats->paused_ns += get(&limit->paused_ns);
	stats->dirty_bytes_per_s += (uint64_t)(dli_window_new_per_s(&limit->window) * page_bytes);
	stats->written_bytes_per_s +=
		(uint64_t)(dli_window_written_per_s(&limit->window) * page_bytes);
}

/* In bitmap mode: of the whole VM. */
static void add_bitmaps(struct dl_stats *stats, const struct dl_log *log)
{
	double page_bytes = log->caps.page_bytes;

	stats->new_pages += get(&log->bitmap_new_pages);
	stats->dirty_bytes_per_s += (uint64_t)(dli_window_new_per_s(&log->window) * page_bytes);
	stats->written_bytes_per_s +=
		(uint64_t)(dli_window_written_per_s(&log->window) * page_bytes);
}

static void add_vcpu(struct dl_stats *stats, const struct dl_vcpu *vcpu)
{
	add_ring(stats, vcpu->ring);
	add_limit(stats, vcpu);
}

int dl_log_stats(const struct dl_log *log, struct dl_stats *out)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	if (!log)
		return -EINVAL;
	if (!out)
		return dli_log_fail(log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(log))
		return -EIO;
	if (dli_log_is_ring(log))
		for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));)
			add_vcpu(&stats, vcpu);
	add_bitmaps(&stats, log);
	stats.resets = get(&log->reset.resets);
	stats.short_resets = get(&log->reset.short_resets);
	stats.ioctl_ns = get(&log->reset.ioctl_ns) + get(&log->vm.slot_ioctl_ns);
	stats.repairs = get(&log->repairs);
	stats.repair_bytes = get(&log->repair_pages) * log->caps.page_bytes;
	stats.watched_bytes = get(&log->watcher.found_pages) * log->caps.page_bytes;
	stats.missed_bytes = get(&log->watcher.missed_pages) * log->caps.page_bytes;
	stats.late_marks = get(&log->late_marks);
	stats.failed_marks = get(&log->failed_marks);
	return dli_abi_report(log, out, &stats, sizeof(stats));
}

int dl_vcpu_stats(const struct dl_vcpu *vcpu, struct dl_stats *out)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	if (!vcpu)
		return -EINVAL;
	if (!out)
		return dli_log_fail(vcpu->log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(vcpu->log))
		return -EIO;
	if (dli_log_is_closed(vcpu->log))
		return dli_log_fail(vcpu->log, DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED);
	if (vcpu->ring) {
		add_vcpu(&stats, vcpu);
		stats.resets = get(&dli_ring_stats(vcpu->ring)->resets);
		stats.short_resets = get(&dli_ring_stats(vcpu->ring)->short_resets);
	}
	return dli_abi_report(vcpu->log, out, &stats, sizeof(stats));
}
