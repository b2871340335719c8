/* SPDX-License-Identifier: MIT */
/* dl_mark(), dl_slot_mark(): pages that the VMM wrote itself. */

#include "log.h"
#include "pages/rcu.h"

#include <errno.h>

/* Marks bytes [from, to) of a slot. */
static void mark_bytes(const struct dl_log *log, struct dli_slot *slot, uint64_t from, uint64_t to)
{
	uint32_t page_shift = (uint32_t)__builtin_ctz(log->caps.page_bytes);
	uint64_t first = from >> page_shift, last = (to - 1) >> page_shift;
	uint64_t bits = ~UINT64_C(0) << first % 64 & ~UINT64_C(0) >> (63 - last % 64);

	if (first / 64 == last / 64)
		dli_page_set_count(slot->set, dli_page_set_mark_word(slot->set, first / 64, bits));
	else
		dli_page_set_mark_range(slot->set, first, last - first + 1);
}

/* Marks the parts of [gpa, end) that exist. False if some do not. */
static bool mark_ranges(const struct dl_log *log, uint32_t as_id, uint64_t gpa, uint64_t end)
{
	struct dli_slot_walk walk = dli_slot_walk_from(dli_slots_table(&log->slots), as_id, gpa);
	const struct dli_index_entry *range;
	uint64_t reached = gpa;

	while ((range = dli_slot_next_range(&walk)) && range->key.as_id == as_id) {
		uint64_t from = gpa > range->key.address ? gpa : range->key.address;
		uint64_t to = end < range->end ? end : range->end;

		if (from >= end)
			break;
		mark_bytes(log, range->slot, from - range->key.address, to - range->key.address);
		if (from == reached)
			reached = to;
	}
	return reached == end;
}

int dl_mark(struct dl_log *log, uint32_t as_id, uint64_t gpa, uint64_t bytes)
{
	int r = 0;

	if (!log || gpa + bytes < gpa)
		return -EINVAL;
	if (dli_log_in_child(log))
		return -EIO;
	dli_rcu_read_lock();
	if (!dli_log_is_on(log))
		r = -ECANCELED;
	else if (bytes && !mark_ranges(log, as_id, gpa, gpa + bytes))
		r = -ENOENT;
	dli_rcu_read_unlock();
	return r;
}

static int mark_slot(const struct dl_log *log, uint32_t number, uint64_t offset_bytes,
		     uint64_t bytes)
{
	struct dli_slot *slot = dli_slot_find(dli_slots_table(&log->slots), number);
	uint64_t end = offset_bytes + bytes;

	if (!slot)
		return -ENOENT;
	if (!bytes)
		return 0;
	if (offset_bytes >= slot->bytes)
		return -ENOENT;
	mark_bytes(log, slot, offset_bytes, end < slot->bytes ? end : slot->bytes);
	return end > slot->bytes ? -ENOENT : 0;
}

int dl_slot_mark(struct dl_log *log, uint32_t slot, uint64_t offset_bytes, uint64_t bytes)
{
	int r;

	if (!log || offset_bytes + bytes < offset_bytes)
		return -EINVAL;
	if (dli_log_in_child(log))
		return -EIO;
	dli_rcu_read_lock();
	r = dli_log_is_on(log) ? mark_slot(log, slot, offset_bytes, bytes) : -ECANCELED;
	dli_rcu_read_unlock();
	return r;
}
