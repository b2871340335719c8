/* SPDX-License-Identifier: MIT */
/* dl_slot_set(): creates memslots, moves them, and changes what they are to cursors. */

#include "aliases.h"
#include "api/abi.h"
#include "call.h"
#include "clear.h"
#include "coverage.h"
#include "kvm/memslot.h"
#include "kvm/uapi.h"
#include "missed.h"
#include "slot_logging.h"

/* KVM's own limit: a page number of a slot fits 31 bits. */
#define MAX_SLOT_PAGES ((UINT64_C(1) << 31) - 1)

#define STATE_FLAGS (uint32_t)(DL_SLOT_NO_LOG | DL_SLOT_WANTED)
#define SET_FLAGS   (STATE_FLAGS | DL_SLOT_PAUSED | DL_SLOT_CLEAN | DL_SLOT_EXISTS)

/* 0, or the field that is wrong. */
static enum dli_failure check_slot(const struct dl_log *log, const struct dl_slot *s)
{
	uint64_t page_mask = log->caps.page_bytes - 1;

	if (s->flags & ~SET_FLAGS)
		return DLI_BAD_FLAGS;
	if (s->flags & DL_SLOT_EXISTS && s->flags & DL_SLOT_CLEAN)
		return DLI_BAD_EXISTS;
	if (s->kvm_flags & KVM_MEM_LOG_DIRTY_PAGES)
		return DLI_BAD_KVM_FLAGS;
	if (s->slot >> 16 >= log->caps.address_spaces || (s->slot & 0xffff) >= log->caps.slot_ids)
		return DLI_BAD_NUMBER;
	if (!s->bytes || s->bytes / log->caps.page_bytes > MAX_SLOT_PAGES)
		return DLI_BAD_SIZE;
	if ((s->gpa | s->bytes | s->hva) & page_mask)
		return DLI_BAD_ALIGNMENT;
	/* Neither may end at 2^64: KVM allows no such slot, and an end in the table would be 0. */
	if (s->gpa + s->bytes < s->gpa || s->hva + s->bytes < s->hva)
		return DLI_BAD_RANGE;
	return DLI_FAILED_NOTHING;
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

	return r < 0 ? dli_log_fail(log, DLI_REGION_NOT_SET, s->slot, r) : 0;
}

/* Prepares views for the cursors that will cover the slot and do not yet. */
static int prepare_views(struct dl_log *log, struct dli_slot *slot, uint32_t flags,
			 struct dli_views *views)
{
	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next) {
		int r;

		if (!dli_cursor_covers(cursor, slot->slot, flags) || dli_slot_view(slot, cursor))
			continue;
		r = dli_views_prepare(views, cursor, slot);
		if (r)
			return r;
	}
	return 0;
}

static struct dli_slot *slot_of(struct dl_log *log, const struct dl_slot *s)
{
	struct dli_slot *slot;

	if (dli_slot_new(log->caps.page_bytes, s->slot, s->bytes, &slot))
		return NULL;
	slot->flags = s->flags & STATE_FLAGS;
	slot->kvm_flags = s->kvm_flags;
	slot->hva = s->hva;
	slot->cookie = s->cookie;
	slot->age = log->next_age++;
	atomic_init(&slot->gpa, s->gpa);
	return slot;
}

static int create_in_kvm(struct dl_log *log, const struct dl_slot *s, struct dli_slot *slot)
{
	bool logging = slot->views;
	int r;

	if (s->flags & DL_SLOT_EXISTS) {
		/* KVM refuses any change of one that it cannot log, and it is never switched on. */
		slot->in_doubt = !(s->flags & DL_SLOT_NO_LOG);
		return logging ? dli_slot_logging_on(log, slot) : 0;
	}
	r = set_in_kvm(log, s, logging);
	if (!r)
		dli_slot_logging_is(log, slot, logging);
	return r;
}

/* The table gets the slot before KVM does; otherwise its first ring entries could be stale. */
static int create_in_table(struct dl_log *log, const struct dl_slot *s, struct dli_slot *slot,
			   struct dli_slot_table *table)
{
	struct dli_slot_table *old = dli_slots_publish(&log->slots, table);
	int r = create_in_kvm(log, s, slot);

	if (r)
		old = dli_slots_publish(&log->slots, old);
	else
		dli_aliases_add(log, slot);
	dli_slot_table_free(old);
	return r;
}

/*
 * Makes a new slot pending, unless every receiver has its contents. While a pass is open nobody can
 * know that. Under INITIALLY_SET a page that is not pending must be cleared, which erases a write
 * unless no vCPU runs.
 */
static void set_new_pending(struct dl_log *log, const struct dl_slot *s, struct dli_slot *slot)
{
	bool clean = s->flags & DL_SLOT_CLEAN && !dli_any_pass_open(log);

	if (clean && slot->owed.any)
		clean = s->flags & DL_SLOT_PAUSED && !dli_clear_range(log, slot, 0, slot->pages);
	if (!clean)
		(void)dli_slot_mark_all(slot);
}

static int create(struct dl_log *log, const struct dl_slot *s)
{
	struct dli_slot *slot = slot_of(log, s);
	struct dli_views views = { 0 };
	struct dli_slot_table *table = NULL;
	int r;

	if (!slot)
		return dli_log_fail(log, DLI_NO_MEMORY, s->slot, -ENOMEM);
	r = dli_aliases_find(log, slot);
	if (!r)
		r = prepare_views(log, slot, slot->flags, &views);
	if (!r && !(table = dli_slots_prepare(&log->slots, NULL, slot, s->gpa)))
		r = -ENOMEM;
	if (r) {
		dli_views_abandon(&views);
		dli_slot_free(slot);
		return dli_log_fail(log, DLI_NO_MEMORY, s->slot, r);
	}
	dli_views_install(&views, false);
	r = create_in_table(log, s, slot, table);
	if (r) {
		dli_views_drop(&views);
		dli_slot_free(slot);
		return r;
	}
	set_new_pending(log, s, slot);
	return 0;
}

/* KVM can change only the flags and the guest address of a slot. */
static bool can_change_to(const struct dli_slot *slot, const struct dl_slot *s)
{
	uint32_t differ = slot->kvm_flags ^ s->kvm_flags;

	return slot->bytes == s->bytes && slot->hva == s->hva && !(differ & KVM_MEM_READONLY) &&
	       !((slot->flags ^ s->flags) & DL_SLOT_NO_LOG);
}

/*
 * Everything counts as dirty, DL_SLOT_CLEAN or not: receivers that go by gpa have nothing there
 * yet, and a vCPU's PML buffer may still hold guest addresses of its old place, which no slot
 * covers any more.
 */
static void finish_move(struct dl_log *log, struct dli_slot *slot, struct dli_slot_table *table)
{
	dli_slot_table_free(dli_slots_publish(&log->slots, table));
	dli_pass_restart_slot(log, slot);
	dli_missed_restart(log, slot);
}

static void set_views_pending(struct dl_log *log, const struct dl_slot *s,
			      const struct dli_views *views)
{
	bool clean = s->flags & DL_SLOT_CLEAN && !dli_any_pass_open(log);

	for (struct dli_view *view = views->first; view; view = view->link)
		if (clean)
			dli_owed_mark(&view->slot->owed, view->set);
		else
			dli_page_set_mark_all(view->set);
}

/* Drops the views of cursors that cover the slot no more, and its logging with the last one. */
static void uncover(struct dl_log *log, struct dli_slot *slot)
{
	struct dli_views views = { 0 };

	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next) {
		struct dli_view *view = dli_slot_view(slot, cursor);

		if (!view || dli_cursor_covers(cursor, slot->slot, slot->flags))
			continue;
		dli_pass_leave(cursor, view);
		dli_aliases_uncover(log, cursor, slot);
		dli_aliases_inherit(cursor, slot, false);
		dli_views_collect(&views, cursor, slot);
	}
	dli_views_drop(&views);
	/* A failure is noted. Until it is switched off its writes are recorded for nobody. */
	if (!slot->views)
		(void)dli_slot_logging_off(log, slot);
}

/* One ioctl for all that KVM must know, unless it is not known what KVM has. */
static int change_in_kvm(struct dl_log *log, const struct dl_slot *s, struct dli_slot *slot,
			 bool moved)
{
	int r = slot->in_doubt ? dli_slot_logging_off(log, slot) : 0;
	bool logging = slot->logged || slot->views;

	if (r || (!moved && slot->kvm_flags == s->kvm_flags && logging == slot->logged))
		return r;
	r = set_in_kvm(log, s, logging);
	if (logging == slot->logged)
		return r;
	if (r)
		slot->in_doubt = true;
	else
		dli_slot_logging_is(log, slot, logging);
	return r;
}

static int change(struct dl_log *log, const struct dl_slot *s, struct dli_slot *slot)
{
	bool moved = atomic_load_explicit(&slot->gpa, memory_order_relaxed) != s->gpa;
	struct dli_slot_table *table = NULL;
	struct dli_views views = { 0 };
	int r = prepare_views(log, slot, s->flags & STATE_FLAGS, &views);

	if (!r && moved && !(table = dli_slots_prepare(&log->slots, slot, slot, s->gpa)))
		r = -ENOMEM;
	if (r) {
		dli_views_abandon(&views);
		return dli_log_fail(log, DLI_NO_MEMORY, s->slot, r);
	}
	dli_views_install(&views, true);
	r = change_in_kvm(log, s, slot, moved);
	if (r) {
		dli_views_drop(&views);
		dli_slot_table_free(table);
		return r;
	}
	slot->flags = s->flags & STATE_FLAGS;
	slot->kvm_flags = s->kvm_flags;
	slot->cookie = s->cookie;
	/* After the ioctl: a refused move is never visible. */
	atomic_store_explicit(&slot->gpa, s->gpa, memory_order_relaxed);
	set_views_pending(log, s, &views);
	uncover(log, slot);
	if (moved)
		finish_move(log, slot, table);
	return 0;
}

static int set(struct dl_log *log, const struct dl_slot *s)
{
	const struct dli_slot_table *table = dli_slots_table(&log->slots);
	struct dli_slot *slot = dli_slot_find(table, s->slot);

	if (dli_log_is_closed(log))
		return dli_log_fail(log, DLI_CLOSED, s->slot, -ECANCELED);
	if (dli_slot_overlaps(table, slot, s->slot >> 16, s->gpa, s->bytes))
		return dli_log_fail(log, DLI_OVERLAP, s->slot, -EEXIST);
	if (!slot)
		return create(log, s);
	if (!can_change_to(slot, s))
		return dli_log_fail(log, DLI_BAD_CHANGE, s->slot, -EINVAL);
	return change(log, s, slot);
}

int dl_slot_set(struct dl_log *log, const struct dl_slot *slot)
{
	enum dli_failure wrong;
	struct dli_call call;
	struct dl_slot s;
	int r;

	if (!log)
		return -EINVAL;
	if (!slot)
		return dli_log_fail(log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	r = dli_abi_read(&s, sizeof(s), sizeof(s), slot);
	if (r)
		return dli_log_fail(log, DLI_BAD_STRUCT, DLI_NO_NUMBER, r);
	wrong = check_slot(log, &s);
	if (wrong)
		return dli_log_fail(log, wrong, s.slot, -EINVAL);
	r = dli_call_begin(&call, log);
	if (r)
		return r;
	dli_changes_begin(log);
	r = set(log, &s);
	dli_changes_end(log);
	dli_call_end(&call);
	return r;
}
