/* SPDX-License-Identifier: MIT */
/* Switches KVM_MEM_LOG_DIRTY_PAGES of slots. */

#include "slot_logging.h"

#include "kvm/memslot.h"
#include "kvm/uapi.h"

void dli_slot_logging_is(struct dl_log *log, struct dli_slot *slot, bool on)
{
	slot->logged = on;
	slot->in_doubt = false;
	slot->read_ns = dli_os_now_ns(log->vm.os);
	/* A slot that is switched on has a new bitmap in the kernel. */
	dli_owed_forget(&slot->owed);
	if (on && log->initially_set)
		dli_owed_add_all(&slot->owed);
}

int dli_slot_logging_set(struct dl_log *log, struct dli_slot *slot, bool on)
{
	const struct dli_memslot memslot = {
		.slot = slot->slot,
		.kvm_flags = slot->kvm_flags | (on ? KVM_MEM_LOG_DIRTY_PAGES : 0),
		.gpa = atomic_load_explicit(&slot->gpa, memory_order_relaxed),
		.bytes = slot->bytes,
		.hva = slot->hva,
	};
	int r = dli_memslot_set(&log->vm, &memslot);

	if (r < 0) {
		slot->in_doubt = true;
		return dli_log_fail(log, on ? DLI_LOGGING_NOT_ON : DLI_LOGGING_NOT_OFF, slot->slot,
				    r);
	}
	dli_slot_logging_is(log, slot, on);
	return 0;
}

int dli_slot_logging_on(struct dl_log *log, struct dli_slot *slot)
{
	int r;

	if (slot->logged && !slot->in_doubt)
		return 0;
	/* Only a slot that was off has all its pages protected when it is switched on. */
	r = slot->in_doubt ? dli_slot_logging_set(log, slot, false) : 0;
	return r ? r : dli_slot_logging_set(log, slot, true);
}

int dli_slot_logging_off(struct dl_log *log, struct dli_slot *slot)
{
	return slot->logged || slot->in_doubt ? dli_slot_logging_set(log, slot, false) : 0;
}

int dli_slot_logging_stop(struct dl_log *log)
{
	struct dli_slot_walk walk = dli_slot_walk(dli_slots_table(&log->slots));
	struct dli_slot *slot;
	int first = 0;

	while ((slot = dli_slot_next(&walk))) {
		int r = slot->views ? 0 : dli_slot_logging_off(log, slot);

		if (r && !first)
			first = r;
	}
	return first;
}

int dli_slot_logging_restart(struct dl_log *log)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	struct dli_slot *slot;
	int first = 0, r;

	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));) {
		r = dli_slot_logging_off(log, slot);
		if (r && !first)
			first = r;
	}
	/* Even if a slot failed to switch off or on, the others must not stay off. */
	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));) {
		r = slot->views ? dli_slot_logging_on(log, slot) : 0;
		if (r && !first)
			first = r;
	}
	return first;
}

uint64_t dli_mark_all_slots(struct dl_log *log)
{
	struct dli_slot_walk walk = dli_slot_walk(dli_slots_table(&log->slots));
	struct dli_slot *slot;
	uint64_t new_pages = 0;

	while ((slot = dli_slot_next(&walk)))
		new_pages += dli_slot_mark_all(slot);
	return new_pages;
}

/* It stays while a slot is logged: CLEAR protects huge mappings only under INITIALLY_SET. */
int dli_set_manual_protect(struct dl_log *log, bool clean)
{
	struct kvm_enable_cap enable = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 };
	uint32_t has = log->caps.has;
	int r;

	log->clear_in_chunks = log->initially_set = false;
	if (dli_log_is_ring(log) || !(has & DL_HAS_MANUAL_PROTECT))
		return 0;
	enable.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
	if (!clean && has & DL_HAS_INITIALLY_SET)
		enable.args[0] |= KVM_DIRTY_LOG_INITIALLY_SET;
	r = dli_os_ioctl(log->vm.os, log->vm.fd, KVM_ENABLE_CAP, &enable);
	if (r)
		return dli_log_fail(log, DLI_PROTECT_NOT_SET, DLI_NO_NUMBER, r);
	log->clear_in_chunks = true;
	log->initially_set = enable.args[0] & KVM_DIRTY_LOG_INITIALLY_SET;
	return 0;
}

int dli_reserve_bitmap(struct dl_log *log, uint64_t pages)
{
	if (dli_log_is_ring(log) && !log->caps.backup)
		return 0;
	return dli_bitmap_reserve(&log->buffer, log->vm.os, pages);
}
