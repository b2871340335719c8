/* SPDX-License-Identifier: MIT */
/* dl_slot_watch(): the VMM's own writes, found through its second mapping. */

#include "watch.h"

#include "call.h"

#include <errno.h>

/* True if a slot's watch has a part of [start, start + bytes). */
static bool is_watched(const struct dl_log *log, uint64_t start, uint64_t bytes)
{
	struct dli_slot_walk walk = dli_slot_walk(dli_slots_table(&log->slots));
	const struct dli_slot *slot;

	while ((slot = dli_slot_next(&walk)))
		if (slot->watched_at && slot->watched_at < start + bytes &&
		    start < slot->watched_at + slot->bytes)
			return true;
	return false;
}

static int check_alias(const struct dl_log *log, const struct dli_slot *slot, uint64_t alias)
{
	if (slot->flags & DL_SLOT_NO_LOG)
		return dli_log_fail(log, DLI_BAD_WATCH, slot->slot, -EINVAL);
	/* A scan of memory that KVM maps would unmap it there, and find the guest's writes. */
	if (alias % log->caps.page_bytes || alias + slot->bytes < alias ||
	    dli_slot_hva_overlaps(dli_slots_table(&log->slots), NULL, alias, slot->bytes))
		return dli_log_fail(log, DLI_BAD_ALIAS, slot->slot, -EINVAL);
	if (slot->watched_at && slot->watched_at != alias)
		return dli_log_fail(log, DLI_ALIAS_CHANGED, slot->slot, -EBUSY);
	if (!slot->watched_at && is_watched(log, alias, slot->bytes))
		return dli_log_fail(log, DLI_WATCHED, slot->slot, -EEXIST);
	return 0;
}

/* Under log->changes and log->lock. */
static int watch(struct dl_log *log, uint32_t number, uint64_t alias, bool audit)
{
	struct dli_slot *slot = dli_slot_find(dli_slots_table(&log->slots), number);
	int r;

	if (dli_log_is_closed(log))
		return dli_log_fail(log, DLI_CLOSED, number, -ECANCELED);
	if (!slot)
		return dli_log_fail(log, DLI_NO_SLOT, number, -ENOENT);
	if (!alias) {
		dli_watch_end(log, slot, true);
		return 0;
	}
	r = check_alias(log, slot, alias);
	if (r)
		return r;
	return slot->watched_at ? dli_watch_set_audit(log, slot, audit)
				: dli_watch_begin(log, slot, alias, audit);
}

int dl_slot_watch(struct dl_log *log, uint32_t slot, void *alias, uint32_t flags)
{
	struct dli_call call;
	int r;

	if (!log)
		return -EINVAL;
	if (flags & ~(uint32_t)DL_WATCH_AUDIT || (flags && !alias))
		return dli_log_fail(log, DLI_BAD_FLAGS, slot, -EINVAL);
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	dli_changes_begin(log);
	r = watch(log, slot, (uintptr_t)alias, flags & DL_WATCH_AUDIT);
	dli_changes_end(log);
	dli_call_end(&call);
	return r;
}
