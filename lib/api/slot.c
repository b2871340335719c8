/* SPDX-License-Identifier: MIT */
/* dl_slot_set(), dl_slot_remove(): change the memslots, also while logging. */

#include "api/abi.h"
#include "call.h"
#include "kvm/memslot.h"
#include "kvm/uapi.h"
#include "ring/drain.h"
#include "slot_logging.h"

/* KVM's own limit: a page number of a slot fits 31 bits. */
#define MAX_SLOT_PAGES ((UINT64_C(1) << 31) - 1)

#define SET_FLAGS    (uint32_t)(DL_SLOT_CLEAN | DL_SLOT_CALLER_IOCTL | DL_SLOT_NO_LOG)
#define REMOVE_FLAGS (uint32_t)(DL_SLOT_CALLER_IOCTL | DL_SLOT_DISCARD)

static bool valid_slot(const struct dl_log *log, const struct dl_slot *s)
{
	uint64_t page_mask = log->caps.page_bytes - 1;

	if (s->flags & ~SET_FLAGS || s->kvm_flags & KVM_MEM_LOG_DIRTY_PAGES)
		return false;
	if (s->slot >> 16 >= log->caps.address_spaces || (s->slot & 0xffff) >= log->caps.slot_ids)
		return false;
	if (!s->bytes || (s->gpa | s->bytes | s->hva) & page_mask)
		return false;
	/* Neither may end at 2^64: KVM allows no such slot, and an end in the table would be 0. */
	if (s->gpa + s->bytes < s->gpa || s->hva + s->bytes < s->hva)
		return false;
	return s->bytes / log->caps.page_bytes <= MAX_SLOT_PAGES;
}

static int set_in_kvm(struct dl_log *log, const struct dl_slot *s, bool logging)
{
	const struct dli_memslot memslot = {
		.slot = s->slot,
		.kvm_flags = s->kvm_flags | (logging ? KVM_MEM_LOG_DIRTY_PAGES : 0),
		.gpa = s->gpa,
		.bytes = s->bytes,
		.hva = s->hva,
	};
	int r = dli_memslot_set(&log->vm, &memslot);

	if (r < 0)
		dli_log_note_failure(log, "the memory region could not be set", s->slot, r);
	return r;
}

static int create_in_kvm(struct dl_log *log, const struct dl_slot *s, struct dli_slot *slot)
{
	bool logging = dli_log_is_on(log) && dli_slot_is_loggable(slot);
	int r;

	if (s->flags & DL_SLOT_CALLER_IOCTL)
		return logging ? dli_slot_logging_set(log, slot, true) : 0;
	r = set_in_kvm(log, s, logging);
	if (!r)
		slot->logged = logging;
	return r;
}

/* The table gets the slot before KVM does; otherwise its first ring entries could be stale. */
static int create_in_table(struct dl_log *log, const struct dl_slot *s, struct dli_slot *slot)
{
	struct dli_slot_table *table = dli_slots_prepare(&log->slots, NULL, slot, s->gpa);
	struct dli_slot_table *old;
	int r;

	if (!table)
		return -ENOMEM;
	old = dli_slots_publish(&log->slots, table);
	r = create_in_kvm(log, s, slot);
	if (r)
		old = dli_slots_publish(&log->slots, old);
	dli_slot_table_free(old);
	return r;
}

static bool needs_buffer(const struct dl_log *log)
{
	return dli_log_is_on(log) && (!dli_log_is_ring(log) || log->caps.backup);
}

static int create(struct dl_log *log, const struct dl_slot *s)
{
	struct dli_slot *slot;
	int r = dli_slot_new(log->vm.os, log->caps.page_bytes, s->slot, s->bytes, &slot);

	if (r)
		return r;
	slot->flags = s->flags & DL_SLOT_NO_LOG;
	slot->kvm_flags = s->kvm_flags;
	slot->hva = s->hva;
	atomic_init(&slot->gpa, s->gpa);
	if (needs_buffer(log))
		r = dli_bitmap_reserve(&log->buffer, log->vm.os, slot->pages);
	if (!r)
		r = create_in_table(log, s, slot);
	if (r) {
		dli_slot_put(slot);
		return r;
	}
	if (slot->logged && !(s->flags & DL_SLOT_CLEAN))
		dli_page_set_mark_all(slot->set);
	return 0;
}

/* KVM can change only the flags and the guest address of a slot. */
static bool can_change_to(const struct dli_slot *slot, const struct dl_slot *s)
{
	uint32_t differ = slot->kvm_flags ^ s->kvm_flags;

	return slot->bytes == s->bytes && slot->hva == s->hva && !(differ & KVM_MEM_READONLY) &&
	       slot->flags == (s->flags & DL_SLOT_NO_LOG);
}

static int change_in_kvm(struct dl_log *log, const struct dl_slot *s, struct dli_slot *slot)
{
	bool was_logged = slot->logged;

	if (!(s->flags & DL_SLOT_CALLER_IOCTL))
		return set_in_kvm(log, s, was_logged);
	/* The caller's ioctl carried no logging flag, so it switched logging off. */
	if (!was_logged)
		return 0;
	slot->logged = false;
	return dli_slot_logging_set(log, slot, true);
}

/*
 * The caller's ioctl has already moved the slot, without logging. There is no memory for a table
 * that says so, but the next harvest switches logging on for the slot and marks it whole.
 */
static void record_callers_change(const struct dl_slot *s, struct dli_slot *slot)
{
	slot->kvm_flags = s->kvm_flags;
	atomic_store_explicit(&slot->gpa, s->gpa, memory_order_relaxed);
	slot->logged = false;
}

static int change(struct dl_log *log, const struct dl_slot *s, struct dli_slot *slot)
{
	uint64_t gpa = atomic_load_explicit(&slot->gpa, memory_order_relaxed);
	uint32_t kvm_flags = slot->kvm_flags;
	bool moved = gpa != s->gpa, by_caller = s->flags & DL_SLOT_CALLER_IOCTL;
	struct dli_slot_table *table;
	int r;

	if (!can_change_to(slot, s))
		return -EINVAL;
	/* Even with unchanged flags, the caller's ioctl has switched logging off. */
	if (!moved && !by_caller && kvm_flags == s->kvm_flags)
		return 0;
	table = dli_slots_prepare(&log->slots, slot, slot, s->gpa);
	if (!table && by_caller)
		record_callers_change(s, slot);
	if (!table)
		return -ENOMEM;
	slot->kvm_flags = s->kvm_flags;
	atomic_store_explicit(&slot->gpa, s->gpa, memory_order_relaxed);
	r = change_in_kvm(log, s, slot);
	if (r && !by_caller) {
		slot->kvm_flags = kvm_flags;
		atomic_store_explicit(&slot->gpa, gpa, memory_order_relaxed);
		dli_slot_table_free(table);
		return r;
	}
	dli_slot_table_free(dli_slots_publish(&log->slots, table));
	/*
	 * Everything counts as dirty, DL_SLOT_CLEAN or not. After the caller's
	 * KVM_SET_USER_MEMORY_REGION logging was off until now. And if the slot has moved, a vCPU's
	 * PML buffer may still hold guest addresses of its old place, which no slot covers any
	 * more.
	 */
	if (dli_log_is_on(log) && (moved || by_caller) && dli_slot_is_loggable(slot))
		dli_page_set_mark_all(slot->set);
	return r;
}

static int set(struct dl_log *log, const struct dl_slot *s)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	struct dli_slot *slot = dli_slot_find(table, s->slot);

	if (dli_log_is_closed(log))
		return -ECANCELED;
	if (dli_slot_overlaps(table, slot, s->slot >> 16, s->gpa, s->bytes))
		return -EEXIST;
	return slot ? change(log, s, slot) : create(log, s);
}

int dl_slot_set(struct dl_log *log, const struct dl_slot *slot)
{
	struct dli_call call;
	struct dl_slot s;
	int r;

	if (!log || !slot)
		return -EINVAL;
	r = dli_abi_read(&s, sizeof(s), sizeof(s), slot);
	if (r)
		return r;
	if (!valid_slot(log, &s))
		return -EINVAL;
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	pthread_mutex_lock(&log->lock);
	r = set(log, &s);
	pthread_mutex_unlock(&log->lock);
	dli_call_end(&call);
	return r;
}

static int delete_from_kvm(struct dl_log *log, const struct dli_slot *slot)
{
	const struct dli_memslot memslot = {
		.slot = slot->slot,
		.kvm_flags = slot->kvm_flags,
		.gpa = atomic_load_explicit(&slot->gpa, memory_order_relaxed),
		.hva = slot->hva,
	};
	int r = dli_memslot_delete(&log->vm, &memslot);

	if (r < 0)
		dli_log_note_failure(log, "the memory region could not be deleted", slot->slot, r);
	return r;
}

/* Keeps a slot that is gone from KVM and the table until its pages are handed out. */
static void retire(struct dl_log *log, struct dli_slot *slot, bool discard)
{
	slot->deleted = true;
	if (!dli_log_is_on(log) || discard) {
		slot->discarded = true;
		dli_slot_put(slot);
		return;
	}
	if (dli_slot_is_loggable(slot))
		dli_page_set_mark_all(slot->set);
	slot->logged = false;
	slot->next_retired = log->slots.retired;
	log->slots.retired = slot;
}

static int remove_slot(struct dl_log *log, uint32_t number, uint32_t flags)
{
	struct dli_slot *slot = dli_slot_find(dli_slots_table(&log->slots), number);
	struct dli_slot_table *table;
	int r = 0;

	if (dli_log_is_closed(log))
		return -ECANCELED;
	if (!slot)
		return -ENOENT;
	table = dli_slots_prepare(&log->slots, slot, NULL, 0);
	if (!table && flags & DL_SLOT_CALLER_IOCTL) {
		/* Without this, the next change of its flags would create it in KVM again. */
		slot->deleted = true;
		slot->logged = false;
	}
	if (!table)
		return -ENOMEM;
	if (!(flags & DL_SLOT_CALLER_IOCTL))
		r = delete_from_kvm(log, slot);
	if (r) {
		dli_slot_table_free(table);
		return r;
	}
	/*
	 * Read entries that name this slot while the table still has it: the id may be reused for
	 * another slot. Entries that cannot be reset now are read again later, and then skipped or
	 * over-reported. No page is lost, because this slot is handed out whole.
	 */
	if (dli_log_is_ring(log))
		(void)dli_drain_all(&log->vcpus, &log->reset, false, &log->slots);
	dli_slot_table_free(dli_slots_publish(&log->slots, table));
	retire(log, slot, flags & DL_SLOT_DISCARD);
	return 0;
}

int dl_slot_remove(struct dl_log *log, uint32_t slot, uint32_t flags)
{
	struct dli_call call;
	int r;

	if (!log || flags & ~REMOVE_FLAGS)
		return -EINVAL;
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	/* Wait for a reader of the slot: the caller may free its memory when this returns. */
	pthread_mutex_lock(&log->reading);
	pthread_mutex_lock(&log->lock);
	r = remove_slot(log, slot, flags);
	pthread_mutex_unlock(&log->lock);
	pthread_mutex_unlock(&log->reading);
	dli_call_end(&call);
	return r;
}
