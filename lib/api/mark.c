/* SPDX-License-Identifier: MIT */
/* dl_mark_*() of addresses: pages that the VMM or a device wrote. */

#include "api/mark.h"
#include "pages/rcu.h"

#include <errno.h>
#include <sys/uio.h>

static uint64_t lower(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t higher(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* For an audit, and for the cursors that cover the slot. Out of line: most marks are of a page. */
static __attribute__((noinline)) void mark_pages(struct dl_log *log, const struct dli_slot *slot,
						 uint64_t first, uint64_t pages)
{
	struct dli_page_set *target = dli_slot_target(slot);
	struct dli_audit *audit = dli_slot_audit(slot);

	if (audit)
		dli_audit_mark(audit, first, pages);
	if (!target)
		return;
	dli_page_set_mark_range(target, first, pages);
	dli_mark_note_late(log, pages);
}

/* Marks bytes [from, to) of a slot. */
static inline void mark_bytes(struct dl_log *log, const struct dli_slot *slot, uint64_t from,
			      uint64_t to)
{
	struct dli_page_set *target = dli_slot_target(slot);
	uint32_t page_shift = (uint32_t)__builtin_ctz(log->caps.page_bytes);
	uint64_t first = from >> page_shift, last = (to - 1) >> page_shift;
	uint64_t bits = ~UINT64_C(0) << first % 64 & ~UINT64_C(0) >> (63 - last % 64);

	if (dli_slot_audit(slot) || first / 64 != last / 64) {
		mark_pages(log, slot, first, last - first + 1);
	} else if (target) {
		dli_page_set_mark_and_count(target, first / 64, bits);
		dli_mark_note_late(log, last - first + 1);
	}
}

/* Marks the parts of [gpa, end) that exist. False if some do not. */
static bool mark_ranges(struct dl_log *log, uint32_t as_id, uint64_t gpa, uint64_t end)
{
	struct dli_slot_walk walk = dli_slot_walk_from(dli_slots_table(&log->slots), as_id, gpa);
	const struct dli_index_entry *range;
	uint64_t reached = gpa;

	while ((range = dli_slot_next_range(&walk)) && range->key.as_id == as_id) {
		uint64_t from = higher(gpa, range->key.address), to = lower(end, range->end);

		if (from >= end)
			break;
		mark_bytes(log, range->slot, from - range->key.address, to - range->key.address);
		if (from == reached)
			reached = to;
	}
	return reached == end;
}

int dl_mark_gpa(struct dl_log *log, uint32_t as_id, uint64_t gpa, uint64_t bytes)
{
	int r = 0;

	if (!log)
		return -EINVAL;
	if (gpa + bytes < gpa)
		return dli_log_fail(log, DLI_BAD_RANGE, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(log))
		return -EIO;
	dli_rcu_read_lock();
	if (bytes && dli_log_wants_marks(log) && !mark_ranges(log, as_id, gpa, gpa + bytes))
		r = -ENOENT;
	dli_rcu_read_unlock();
	return dli_mark_finish(log, r);
}

static int mark_slot(struct dl_log *log, uint32_t number, uint64_t offset_bytes, uint64_t bytes)
{
	struct dli_slot *slot = dli_slot_find(dli_slots_table(&log->slots), number);
	uint64_t end = offset_bytes + bytes;

	if (!slot)
		return -ENOENT;
	if (!bytes)
		return 0;
	if (offset_bytes >= slot->bytes)
		return -ENOENT;
	mark_bytes(log, slot, offset_bytes, lower(end, slot->bytes));
	return end > slot->bytes ? -ENOENT : 0;
}

int dl_mark_slot(struct dl_log *log, uint32_t slot, uint64_t offset_bytes, uint64_t bytes)
{
	int r;

	if (!log)
		return -EINVAL;
	if (offset_bytes + bytes < offset_bytes)
		return dli_log_fail(log, DLI_BAD_RANGE, slot, -EINVAL);
	if (dli_log_in_child(log))
		return -EIO;
	dli_rcu_read_lock();
	r = dli_log_wants_marks(log) ? mark_slot(log, slot, offset_bytes, bytes) : 0;
	dli_rcu_read_unlock();
	return dli_mark_finish(log, r);
}

/* Marks what slots map of [hva, end), which is not empty. False if no slot maps some of it. */
static bool mark_host_bytes(struct dl_log *log, uint64_t hva, uint64_t end)
{
	struct dli_slot_hva_walk walk =
		dli_slot_hva_walk(dli_slots_table(&log->slots), hva, end - hva);
	uint64_t reached = hva;
	struct dli_slot *slot;

	while ((slot = dli_slot_hva_next(&walk))) {
		uint64_t from = higher(hva, slot->hva), to = lower(end, slot->hva + slot->bytes);

		mark_bytes(log, slot, from - slot->hva, to - slot->hva);
		if (from <= reached)
			reached = higher(reached, to);
	}
	return reached == end;
}

int dl_mark_hva(struct dl_log *log, const void *address, uint64_t bytes)
{
	uint64_t hva = (uintptr_t)address;
	int r = 0;

	if (!log)
		return -EINVAL;
	if (hva + bytes < hva)
		return dli_log_fail(log, DLI_BAD_RANGE, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(log))
		return -EIO;
	dli_rcu_read_lock();
	if (bytes && dli_log_wants_marks(log) && !mark_host_bytes(log, hva, hva + bytes))
		r = -ENOENT;
	dli_rcu_read_unlock();
	return dli_mark_finish(log, r);
}

static bool valid_vectors(const struct iovec *iov, uint32_t n_iov)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < n_iov; i++) {
		uint64_t hva = (uintptr_t)iov[i].iov_base, bytes = iov[i].iov_len;

		if (hva + bytes < hva || total + bytes < total)
			return false;
		total += bytes;
	}
	return true;
}

/* False if some of the bytes are in no slot, or beyond the vectors. */
static bool mark_vectors(struct dl_log *log, const struct iovec *iov, uint32_t n_iov,
			 uint64_t offset_bytes, uint64_t bytes)
{
	bool all = true;

	for (uint32_t i = 0; i < n_iov && bytes; i++) {
		uint64_t skipped = lower(offset_bytes, iov[i].iov_len);
		uint64_t part = lower(bytes, iov[i].iov_len - skipped);
		uint64_t hva = (uintptr_t)iov[i].iov_base + skipped;

		offset_bytes -= skipped;
		bytes -= part;
		if (part && !mark_host_bytes(log, hva, hva + part))
			all = false;
	}
	return all && !bytes;
}

int dl_mark_iov(struct dl_log *log, const struct iovec *iov, uint32_t n_iov, uint64_t offset_bytes,
		uint64_t bytes)
{
	int r = 0;

	if (!log)
		return -EINVAL;
	if (n_iov && !iov)
		return dli_log_fail(log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	if (offset_bytes + bytes < offset_bytes || !valid_vectors(iov, n_iov))
		return dli_log_fail(log, DLI_BAD_RANGE, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(log))
		return -EIO;
	dli_rcu_read_lock();
	if (dli_log_wants_marks(log) && !mark_vectors(log, iov, n_iov, offset_bytes, bytes))
		r = -ENOENT;
	dli_rcu_read_unlock();
	return dli_mark_finish(log, r);
}
