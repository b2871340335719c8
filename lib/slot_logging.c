/* SPDX-License-Identifier: MIT */
/* Switches KVM_MEM_LOG_DIRTY_PAGES of slots, and marks whole slots. */

#include "slot_logging.h"

#include "kvm/memslot.h"
#include "kvm/uapi.h"

bool dli_slot_is_loggable(const struct dli_slot *slot)
{
	return !(slot->flags & DL_SLOT_NO_LOG);
}

static int set_flags(struct dl_log *log, const struct dli_slot *slot, uint32_t kvm_flags)
{
	const struct dli_memslot memslot = {
		.slot = slot->slot,
		.kvm_flags = kvm_flags,
		.gpa = atomic_load_explicit(&slot->gpa, memory_order_relaxed),
		.bytes = slot->bytes,
		.hva = slot->hva,
	};

	return dli_memslot_set(&log->vm, &memslot);
}

/* Cancellation is disabled in the callback, because locks are held. */
static int set_flags_by_caller(struct dl_log *log, const struct dli_slot *slot, uint32_t kvm_flags)
{
	unsigned int tries = 0;
	int r, state;

	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	do
		r = log->set_region(log->opaque, slot->slot, kvm_flags);
	while (dli_os_again(&r, &tries));
	pthread_setcancelstate(state, NULL);
	return r;
}

int dli_slot_logging_set(struct dl_log *log, struct dli_slot *slot, bool on)
{
	uint32_t kvm_flags = slot->kvm_flags | (on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
	int r = log->set_region ? set_flags_by_caller(log, slot, kvm_flags)
				: set_flags(log, slot, kvm_flags);

	if (r < 0) {
		dli_log_note_failure(log,
				     on ? "logging could not be switched on"
					: "logging could not be switched off",
				     slot->slot, r);
		return r;
	}
	slot->logged = on;
	return 0;
}

int dli_slot_logging_set_all(struct dl_log *log, bool on)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	struct dli_slot *slot;
	int first = 0;

	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));) {
		int r;

		if (slot->logged == on || slot->deleted || !dli_slot_is_loggable(slot))
			continue;
		r = dli_slot_logging_set(log, slot, on);
		if (r && on)
			return r;
		if (r && !first)
			first = r;
	}
	return first;
}

int dli_slot_logging_restart(struct dl_log *log)
{
	int r = dli_slot_logging_set_all(log, false);

	/* Even if a slot failed to switch off, the others must not stay off. */
	int on = dli_slot_logging_set_all(log, true);

	return r ? r : on;
}

int dli_slot_logging_resume(struct dl_log *log)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	struct dli_slot *slot;

	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));) {
		int r;

		if (slot->logged || slot->deleted || !dli_slot_is_loggable(slot))
			continue;
		r = dli_slot_logging_set(log, slot, true);
		if (r)
			return r;
		dli_page_set_mark_all(slot->set);
	}
	return 0;
}

/* Whether a logged slot of a lower address space already covers this memory. */
static bool is_alias(const struct dli_slot_table *table, const struct dli_slot *slot)
{
	const struct dli_slot *other;

	for (struct dli_slot_walk walk = dli_slot_walk(table); (other = dli_slot_next(&walk));) {
		if (other->slot >> 16 >= slot->slot >> 16)
			return false;
		if (other->logged && other->hva <= slot->hva &&
		    slot->hva + slot->bytes <= other->hva + other->bytes)
			return true;
	}
	return false;
}

void dli_mark_all_slots(struct dl_log *log)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	struct dli_slot *slot;

	for (struct dli_slot_walk walk = dli_slot_walk(table); (slot = dli_slot_next(&walk));)
		if (slot->logged && !is_alias(table, slot))
			dli_page_set_mark_all(slot->set);
}
