/* SPDX-License-Identifier: MIT */
/* Watches of slots: the VMM's writes through its second mapping. */

#include "watch.h"

#include "missed.h"
#include "pages/rcu.h"
#include "pages/view.h"

#include <errno.h>

/* So many regions one scan reports, as one page of them would be read at once by the kernel. */
enum { MAX_REGIONS = 1024 };

static const enum dli_failure lacks[] = {
	[DLI_UFFD_NO_TABLE] = DLI_WATCH_NO_TABLE,
	[DLI_UFFD_NO_SCAN] = DLI_WATCH_NO_SCAN,
	[DLI_UFFD_NO_FD] = DLI_WATCH_NO_UFFD,
	[DLI_UFFD_NO_WPASYNC] = DLI_WATCH_NO_WPASYNC,
};

/* Opens what all watches share. */
static int acquire(struct dl_log *log, uint32_t number)
{
	struct dli_watcher *watcher = &log->watcher;
	enum dli_uffd_lack lack;
	void *regions;
	int r;

	if (watcher->regions)
		return 0;
	r = dli_uffd_open(&watcher->uffd, log->vm.os, &lack);
	if (r)
		return dli_log_fail(log, lacks[lack], number, r);
	r = dli_os_reserve(log->vm.os, MAX_REGIONS * sizeof(watcher->regions[0]), &regions);
	if (r) {
		dli_uffd_close(&watcher->uffd);
		return dli_log_fail(log, DLI_NO_MEMORY, number, r);
	}
	watcher->regions = regions;
	return 0;
}

/* Closes it after the last watch. */
static void release(struct dl_log *log)
{
	struct dli_watcher *watcher = &log->watcher;

	if (watcher->watches || !watcher->regions)
		return;
	dli_os_unmap(log->vm.os, watcher->regions, MAX_REGIONS * sizeof(watcher->regions[0]));
	watcher->regions = NULL;
	dli_uffd_close(&watcher->uffd);
}

static void count_audit(struct dl_log *log, bool begins)
{
	log->watcher.audits += begins ? 1 : -1u;
	/* Pairs with dli_log_wants_marks(). */
	atomic_store_explicit(&log->watcher.audit, log->watcher.audits != 0, memory_order_release);
}

static void set_audit(struct dli_slot *slot, struct dli_audit *audit)
{
	/* Pairs with dli_slot_audit(). */
	atomic_store_explicit(&slot->audit, audit, memory_order_release);
}

static void publish(struct dl_log *log, struct dli_slot *slot, const struct dli_page_region *region)
{
	struct dli_page_set *target = dli_slot_target(slot);
	struct dli_audit *audit = dli_slot_audit(slot);
	uint64_t first = (region->start - slot->watched_at) / log->caps.page_bytes;
	uint64_t pages = (region->end - region->start) / log->caps.page_bytes;

	if (target)
		dli_page_set_mark_range(target, first, pages);
	if (audit)
		dli_audit_found(audit, first, pages);
	atomic_fetch_add_explicit(&log->watcher.found_pages, pages, memory_order_relaxed);
}

/* Protects and, unless it is the first time, publishes. */
static int scan(struct dl_log *log, struct dli_slot *slot, uint64_t start, uint64_t end, bool first)
{
	struct dli_watcher *watcher = &log->watcher;

	while (start < end) {
		int n = dli_uffd_scan(&watcher->uffd, &start, end, watcher->regions, MAX_REGIONS);

		if (n < 0)
			return n;
		for (int i = 0; i < n && !first; i++)
			publish(log, slot, &watcher->regions[i]);
	}
	return 0;
}

static uint64_t lower(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/*
 * Protects everything for the first time. A huge mapping stays one if it is protected as a whole,
 * and would show a write in all its pages; in two parts it is split. The guest's own mapping stays
 * huge.
 */
static int arm(struct dl_log *log, struct dli_slot *slot)
{
	uint64_t page = log->caps.page_bytes, huge = page * page / sizeof(uint64_t);
	uint64_t at = slot->watched_at, end = at + slot->bytes;
	int r = 0;

	while (!r && at < end) {
		uint64_t part = lower(at + page, end), next = lower((at | (huge - 1)) + 1, end);

		r = scan(log, slot, at, part, true);
		if (!r)
			r = scan(log, slot, part, next, true);
		at = next;
	}
	return r;
}

/* Marks are recorded from now on. What was found before they were is not judged. */
static int begin_audit(struct dl_log *log, struct dli_slot *slot)
{
	struct dli_audit *audit;
	int r = dli_audit_new(log->vm.os, slot->pages, &audit);

	if (r)
		return dli_log_fail(log, DLI_NO_MEMORY, slot->slot, r);
	set_audit(slot, audit);
	count_audit(log, true);
	r = dli_missed_cover(log, slot);
	return r ? dli_log_fail(log, DLI_NO_MEMORY, slot->slot, r) : 0;
}

static void end_audit(struct dl_log *log, struct dli_slot *slot)
{
	struct dli_audit *audit = dli_slot_audit(slot);

	if (!audit)
		return;
	set_audit(slot, NULL);
	count_audit(log, false);
	dli_missed_uncover(log, slot);
	/* Marks that still use it. */
	dli_rcu_synchronize();
	dli_audit_free(audit);
}

/* Ends a scan: what the scan before found and nobody marked is missed. */
static void judge(struct dl_log *log, struct dli_slot *slot, struct dli_audit *audit)
{
	uint64_t pages = 0;

	for (uint64_t cell = 0; cell < audit->n; cell++) {
		uint64_t missed = dli_audit_judge(audit, cell);

		if (missed)
			pages += dli_missed_show(slot, cell, missed);
	}
	atomic_fetch_add_explicit(&log->watcher.missed_pages, pages, memory_order_relaxed);
}

static int scan_slot(struct dl_log *log, struct dli_slot *slot)
{
	int r = scan(log, slot, slot->watched_at, slot->watched_at + slot->bytes, false);

	if (!r)
		return 0;
	/* Pages may be protected that nobody was told of. */
	(void)dli_slot_mark_all(slot);
	return dli_log_fail(log, DLI_WATCH_NOT_SCANNED, slot->slot, r);
}

int dli_watch_scan(struct dl_log *log, struct dli_slot *slot)
{
	struct dli_audit *audit = dli_slot_audit(slot);
	int r;

	/* Before: a mark of what this scan finds may come while it runs. */
	if (audit)
		dli_audit_begin(audit);
	r = scan_slot(log, slot);
	if (audit && r)
		dli_audit_abandon(audit);
	else if (audit)
		judge(log, slot, audit);
	return r;
}

int dli_watch_set_audit(struct dl_log *log, struct dli_slot *slot, bool wanted)
{
	int r;

	if (!dli_slot_audit(slot) == !wanted)
		return 0;
	if (!wanted) {
		end_audit(log, slot);
		return 0;
	}
	r = begin_audit(log, slot);
	if (!r)
		r = scan_slot(log, slot);
	if (r)
		end_audit(log, slot);
	else
		dli_audit_abandon(dli_slot_audit(slot));
	return r;
}

/* Ends what dli_watch_begin() has begun, in whatever state. */
static void drop(struct dl_log *log, struct dli_slot *slot)
{
	end_audit(log, slot);
	dli_uffd_unregister(&log->watcher.uffd, slot->watched_at, slot->bytes);
	slot->watched_at = 0;
	log->watcher.watches--;
	release(log);
}

static int refused(struct dl_log *log, uint32_t number, int r)
{
	if (r == -EBUSY)
		return dli_log_fail(log, DLI_WATCH_TAKEN, number, r);
	/* Nothing is mapped there, or something else than memory. */
	if (r == -EINVAL)
		return dli_log_fail(log, DLI_BAD_ALIAS, number, r);
	return dli_log_fail(log, DLI_WATCH_NOT_BEGUN, number, r);
}

static int begin(struct dl_log *log, struct dli_slot *slot, bool audit)
{
	int r;

	/*
	 * PAGEMAP_SCAN makes no progress at a part of a huge page of hugetlb, whatever its size (a
	 * page of 1 GiB is one to it, always), and can deadlock in the kernel where none is mapped.
	 */
	if (slot->watched_huge)
		return dli_log_fail(log, DLI_WATCH_HUGE, slot->slot, -EOPNOTSUPP);
	r = dli_uffd_check(&log->watcher.uffd, slot->watched_at, slot->bytes);
	if (r)
		return refused(log, slot->slot, r);
	/* Before: a mark of what the next scan finds may come as soon as this one has passed. */
	r = audit ? begin_audit(log, slot) : 0;
	if (r)
		return r;
	r = arm(log, slot);
	if (audit)
		dli_audit_abandon(dli_slot_audit(slot));
	return r ? refused(log, slot->slot, r) : 0;
}

int dli_watch_begin(struct dl_log *log, struct dli_slot *slot, uint64_t alias, bool audit)
{
	int r = acquire(log, slot->slot);

	if (r)
		return r;
	r = dli_uffd_register(&log->watcher.uffd, alias, slot->bytes, &slot->watched_huge);
	if (r) {
		release(log);
		return refused(log, slot->slot, r);
	}
	slot->watched_at = alias;
	log->watcher.watches++;
	r = begin(log, slot, audit);
	if (r)
		drop(log, slot);
	return r;
}

void dli_watch_end(struct dl_log *log, struct dli_slot *slot, bool last)
{
	if (!slot->watched_at)
		return;
	/* A failure is noted, and has made everything pending. */
	if (last)
		(void)dli_watch_scan(log, slot);
	drop(log, slot);
}

void dli_watch_end_all(struct dl_log *log)
{
	struct dli_slot_walk walk = dli_slot_walk(dli_slots_table(&log->slots));
	struct dli_slot *slot;

	while ((slot = dli_slot_next(&walk)))
		dli_watch_end(log, slot, false);
}
