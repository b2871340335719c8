/* SPDX-License-Identifier: MIT */
#include "steps.h"

#include "cmocka_all.h"
#include "cursor.h"
#include "pages/page_set_maps.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

enum { ALIAS = 1 << 16 };

static const char *const names[STEP_KINDS] = {
	"write",
	"write through the alias",
	"store",
	"mark",
	"join",
	"join clean",
	"free",
	"harvest",
	"read",
	"copy",
	"end",
	"commit",
	"take",
	"take without clear",
	"clear",
	"remove",
	"remove paused",
	"restore",
	"remove the alias",
	"restore the alias",
};

static const char *const withins[WITHIN_KINDS] = {
	"",
	" + a write while it protects",
	" + a write at its end",
	" + a mark at its end",
	" + a failure",
	" + a late failure",
};

const char *step_name(struct step step)
{
	static char text[80];

	snprintf(text, sizeof(text), "%s %u%s (%u)", names[step.kind], step.who,
		 withins[step.within], step.at);
	return text;
}

static void expect(struct steps *steps, bool is_right, const char *what)
{
	if (!is_right && !steps->wrong)
		steps->wrong = what;
}

static uint64_t *memory(const struct steps *steps, uint32_t page)
{
	const struct guest_block *block = &steps->guest.blocks[0];

	return (uint64_t *)(void *)(block->memory + page * steps->guest.page_bytes);
}

static uint64_t next_value(struct steps *steps)
{
	return atomic_fetch_add(&steps->guest.value, 1) + 1;
}

static void write_page(struct steps *steps, uint32_t as_id, uint32_t page)
{
	struct guest *guest = &steps->guest;
	uint64_t value = next_value(steps);
	int r;

	while ((r = model_vcpu_write(guest->model, steps->vcpu->fd, as_id, page * guest->page_bytes,
				     &value, sizeof(value))) == KVM_EXIT_DIRTY_RING_FULL)
		expect(steps, !dl_vcpu_drain(steps->vcpu->handle, 0), "a drain fails");
	expect(steps, !r || r == -EFAULT, "a write fails");
}

static void mark(struct steps *steps, uint32_t page)
{
	int r = dl_mark_slot(steps->guest.log, 0, page * steps->guest.page_bytes + 9, 1);

	expect(steps, !r || r == -ENOENT, "a mark fails");
	/* Without the slot, the page is among those that are given back. */
	if (r)
		steps->words |= UINT64_C(1) << page;
}

static void store_and_mark(struct steps *steps, uint32_t page)
{
	*memory(steps, page) = next_value(steps);
	mark(steps, page);
}

static uint32_t pages_of(const struct dli_page_set *set, bool in_flight)
{
	if (!set)
		return 0;
	return (uint32_t)atomic_load_explicit(
		leaf_of(in_flight ? &set->in_flight : &set->pending, 0), memory_order_relaxed);
}

static struct dli_slot *slot_of(const struct steps *steps, uint32_t number)
{
	return dli_slot_find(dli_slots_table(&steps->guest.log->slots), number);
}

/*
 * A page may be cleared only if every consumer has it pending or deferred: the bit of a write that
 * is not reported yet would be erased. The consumer that reads or takes has it in its hands.
 */
static void check_clear(struct steps *steps, const struct kvm_clear_dirty_log *clear)
{
	const struct dli_slot *slot = slot_of(steps, clear->slot);
	uint32_t pages = ((const uint32_t *)clear->dirty_bitmap)[0];
	bool by_hand = steps->now.kind == STEP_CLEAR;

	steps->clears++;
	if (!slot || steps->now.kind == STEP_RESTORE || steps->now.kind == STEP_RESTORE_ALIAS)
		return;
	for (uint32_t i = 0; i < STEPS_CONSUMERS; i++) {
		const struct consumer *consumer = &steps->consumers[i];
		const struct dli_view *view =
			consumer->cursor ? dli_slot_view(slot, consumer->cursor) : NULL;
		uint32_t sees;

		if (!view || (i == steps->now.who && !by_hand))
			continue;
		sees = pages_of(view->set, false) | pages_of(slot->fresh, false) |
		       consumer->deferred;
		expect(steps, !(pages & ~sees), "CLEAR of a page that a consumer has not pending");
	}
}

static bool can_contain(unsigned long request)
{
	return request == KVM_GET_DIRTY_LOG || request == KVM_CLEAR_DIRTY_LOG ||
	       request == KVM_RESET_DIRTY_RINGS || request == KVM_SET_USER_MEMORY_REGION;
}

static void happen_after(struct steps *steps, int *result)
{
	switch (steps->now.within) {
	case WITHIN_WRITE:
		write_page(steps, 0, 0);
		break;
	case WITHIN_MARK:
		store_and_mark(steps, 0);
		break;
	case WITHIN_LATE_FAILURE:
		*result = -EFAULT;
		break;
	}
}

static bool is_now(struct steps *steps)
{
	if (steps->within_done || steps->ioctls != steps->now.at + 1u)
		return false;
	steps->within_done = true;
	steps->withins++;
	return true;
}

/* The guest is the first member. */
static bool watch_ioctl(struct guest *guest, int fd, unsigned long request, void *arg, int *result)
{
	struct steps *steps = (struct steps *)guest;
	const struct dl_os *os = model_os(guest->model);
	uint8_t within = steps->now.within;

	if (request == KVM_CLEAR_DIRTY_LOG)
		check_clear(steps, arg);
	if (!can_contain(request))
		return false;
	steps->ioctls++;
	if (!within || within == WITHIN_PROTECT ||
	    (within == WITHIN_LATE_FAILURE && request == KVM_SET_USER_MEMORY_REGION) ||
	    !is_now(steps))
		return false;
	*result = -ENOMEM;
	if (within != WITHIN_FAILURE) {
		*result = os->ioctl(os->opaque, fd, request, arg);
		happen_after(steps, result);
	}
	return true;
}

static void watch_protection(void *opaque, const struct model_event *event)
{
	struct steps *steps = opaque;

	if (steps->now.within == WITHIN_PROTECT &&
	    (event->point == MODEL_BITMAP_PROTECTED || event->point == MODEL_RESET_PROTECTED) &&
	    is_now(steps))
		write_page(steps, 0, 0);
}

/* Results: a failure is allowed where one was injected. */
static bool succeeds(struct steps *steps, int r)
{
	expect(steps, r >= 0 || steps->now.within >= WITHIN_FAILURE, "a call fails");
	return r >= 0;
}

static void join(struct steps *steps, struct consumer *consumer, uint32_t flags)
{
	struct dl_cursor_options options = { .size = sizeof(options), .flags = flags };

	/* One of them reads page by page, so that pages are read ahead. */
	options.max_extent_bytes = consumer == &steps->consumers[1] ? steps->guest.page_bytes : 0;
	memset(consumer, 0, sizeof(*consumer));
	if (!succeeds(steps, dl_cursor_new(steps->guest.log, &options, &consumer->cursor)))
		return;
	for (uint32_t page = 0; page < STEPS_PAGES; page++)
		consumer->copy[page] = *memory(steps, page) ^ (flags ? 0 : UINT64_MAX);
	steps->is_new_to_some |= !flags && !steps->slot_exists;
}

static void harvest(struct steps *steps, struct consumer *consumer)
{
	if (!succeeds(steps, dl_harvest(consumer->cursor, 0, NULL)))
		return;
	consumer->in_pass = true;
	consumer->seen_in_pass = consumer->n_extents = 0;
}

static uint32_t pages_of_extent(const struct steps *steps, const struct dl_extent *extent)
{
	uint64_t from = (uintptr_t)memory(steps, 0), page_bytes = steps->guest.page_bytes;

	return (uint32_t)(((UINT64_C(1) << extent->bytes / page_bytes) - 1)
			  << (extent->hva - from) / page_bytes);
}

static int read_extent(struct steps *steps, struct consumer *consumer)
{
	struct dl_extent *extent = &consumer->extents[consumer->n_extents];
	int n = dl_cursor_read(consumer->cursor, extent, 1);
	uint32_t pages;

	if (!succeeds(steps, n) || !n)
		return n;
	pages = pages_of_extent(steps, extent);
	expect(steps, !(pages & consumer->seen_in_pass), "a pass hands out a page twice");
	expect(steps, extent->slot ? steps->alias_exists : steps->slot_exists,
	       "a slot that is gone is handed out");
	consumer->seen_in_pass |= pages;
	consumer->handed |= pages;
	consumer->n_extents++;
	return n;
}

static void copy(struct steps *steps, struct consumer *consumer)
{
	uint32_t pages = consumer->handed | consumer->taken;

	for (uint32_t page = 0; page < STEPS_PAGES; page++)
		if (pages >> page & 1)
			consumer->copy[page] = *memory(steps, page);
	expect(steps, !dl_cursor_ack(consumer->cursor, consumer->extents, consumer->n_extents),
	       "an acknowledgement fails");
	consumer->handed = consumer->taken = consumer->n_extents = 0;
}

static void end(struct steps *steps, struct consumer *consumer, uint32_t flags)
{
	expect(steps, !dl_cursor_end(consumer->cursor, flags), "an end fails");
	consumer->in_pass = false;
	consumer->handed = consumer->n_extents = 0;
}

/* Returns the bytes taken. */
static uint64_t take(struct steps *steps, struct consumer *consumer, uint32_t slot, uint32_t flags)
{
	uint64_t word = 0, bytes = 0;

	(void)succeeds(steps, dl_cursor_take(consumer->cursor, slot, flags, &word, 1, &bytes));
	expect(steps, bytes == (uint64_t)__builtin_popcountll(word) * steps->guest.page_bytes,
	       "the bytes taken are not those of the words");
	if (flags & DL_TAKE_NO_CLEAR)
		consumer->deferred |= (uint32_t)word;
	else
		consumer->taken |= (uint32_t)word;
	return bytes;
}

static void clear(struct steps *steps, struct consumer *consumer)
{
	const uint64_t bytes = STEPS_PAGES * steps->guest.page_bytes;

	if (!succeeds(steps, dl_slot_clear(steps->guest.log, 0, 0, bytes)))
		return;
	consumer->taken |= consumer->deferred;
	consumer->deferred = 0;
}

static struct dl_slot slot_at(const struct steps *steps, uint32_t number, uint32_t flags)
{
	struct dl_slot slot = guest_slot(&steps->guest, number, 0, &steps->guest.blocks[0], 0,
					 number == ALIAS ? 1 : STEPS_PAGES);

	slot.flags = flags;
	return slot;
}

/* The guest can no longer write what consumers have deferred, or it is pending in the alias. */
static void remove_slot(struct steps *steps, uint32_t flags)
{
	uint64_t word = 0;

	if (flags)
		model_vcpu_exit(steps->guest.model, steps->vcpu->fd, KVM_EXIT_INTR);
	if (!succeeds(steps, dl_slot_remove(steps->guest.log, 0, flags, &word, 1)))
		return;
	/* Page 0 is wholly pending in the alias. */
	if (steps->alias_exists)
		word &= ~UINT64_C(1);
	steps->slot_exists = false;
	steps->words |= word;
	for (uint32_t i = 0; i < STEPS_CONSUMERS; i++) {
		steps->consumers[i].taken |= steps->consumers[i].deferred;
		steps->consumers[i].deferred = 0;
	}
}

static uint32_t clean_flag(const struct steps *steps)
{
	return steps->is_new_to_some ? 0 : DL_SLOT_CLEAN;
}

static void restore_slot(struct steps *steps)
{
	const struct dl_slot slot = slot_at(steps, 0, clean_flag(steps));

	if (!succeeds(steps, dl_slot_set(steps->guest.log, &slot)))
		return;
	steps->slot_exists = true;
	steps->is_new_to_some = false;
	for (uint32_t page = 0; page < STEPS_PAGES; page++)
		if (steps->words >> page & 1)
			mark(steps, page);
	steps->words = 0;
}

/* While the memory is in the slot as well, the words of its alias are not needed. */
static void remove_alias(struct steps *steps)
{
	uint64_t word = 0, *words = steps->slot_exists ? NULL : &word;

	if (!succeeds(steps, dl_slot_remove(steps->guest.log, ALIAS, 0, words, words ? 1 : 0)))
		return;
	steps->alias_exists = false;
	steps->words |= word;
}

static void restore_alias(struct steps *steps)
{
	const struct dl_slot slot = slot_at(steps, ALIAS, clean_flag(steps));

	steps->alias_exists = succeeds(steps, dl_slot_set(steps->guest.log, &slot));
}

static void free_consumer(struct consumer *consumer)
{
	dl_cursor_free(consumer->cursor);
	memset(consumer, 0, sizeof(*consumer));
}

static void make_by_consumer(struct steps *steps, struct consumer *consumer, uint8_t kind)
{
	switch (kind) {
	case STEP_JOIN:
		join(steps, consumer, 0);
		break;
	case STEP_JOIN_CLEAN:
		join(steps, consumer, DL_CURSOR_CLEAN);
		break;
	case STEP_FREE:
		free_consumer(consumer);
		break;
	case STEP_HARVEST:
		harvest(steps, consumer);
		break;
	case STEP_READ:
		read_extent(steps, consumer);
		break;
	case STEP_COPY:
		copy(steps, consumer);
		break;
	case STEP_END:
		end(steps, consumer, 0);
		break;
	case STEP_COMMIT:
		end(steps, consumer, DL_END_COMMIT);
		break;
	case STEP_TAKE:
		take(steps, consumer, 0, DL_TAKE_HARVEST);
		break;
	case STEP_DEFER:
		take(steps, consumer, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR);
		break;
	case STEP_CLEAR:
		clear(steps, consumer);
		break;
	}
}

void steps_make(struct steps *steps, struct step step)
{
	steps->now = step;
	steps->within_done = false;
	steps->ioctls = 0;
	switch (step.kind) {
	case STEP_WRITE:
		write_page(steps, 0, step.who);
		break;
	case STEP_WRITE_ALIAS:
		write_page(steps, 1, step.who);
		break;
	case STEP_STORE:
		*memory(steps, step.who) = next_value(steps);
		steps->stored = step.who;
		break;
	case STEP_MARK:
		mark(steps, (uint32_t)steps->stored);
		steps->stored = -1;
		break;
	case STEP_REMOVE:
	case STEP_REMOVE_PAUSED:
		remove_slot(steps, step.kind == STEP_REMOVE_PAUSED ? DL_REMOVE_PAUSED : 0);
		break;
	case STEP_RESTORE:
		restore_slot(steps);
		break;
	case STEP_REMOVE_ALIAS:
		remove_alias(steps);
		break;
	case STEP_RESTORE_ALIAS:
		restore_alias(steps);
		break;
	default:
		make_by_consumer(steps, &steps->consumers[step.who], step.kind);
	}
	steps->now = (struct step){ 0 };
}

void steps_open(struct steps *steps, const struct guest_config *config, bool has_alias)
{
	struct guest_config watched = *config;

	memset(steps, 0, sizeof(*steps));
	watched.intercept = watch_ioctl;
	guest_open(&steps->guest, &watched);
	model_hook(steps->guest.model, watch_protection, steps);
	guest_memory(&steps->guest, STEPS_PAGES);
	steps->vcpu = guest_vcpu(&steps->guest, true);
	steps->has_alias = has_alias;
	steps_reset(steps);
}

void steps_close(struct steps *steps)
{
	for (uint32_t i = 0; i < STEPS_CONSUMERS; i++)
		free_consumer(&steps->consumers[i]);
	guest_close(&steps->guest);
}

static void reset_slot(struct steps *steps, uint32_t number, bool exists)
{
	const struct dl_slot slot = slot_at(steps, number, 0);

	if (exists)
		assert_int_equal(dl_slot_remove(steps->guest.log, number, 0, NULL, 0), 0);
	assert_int_equal(dl_slot_set(steps->guest.log, &slot), 0);
}

void steps_reset(struct steps *steps)
{
	for (uint32_t i = 0; i < STEPS_CONSUMERS; i++)
		free_consumer(&steps->consumers[i]);
	model_vcpu_exit(steps->guest.model, steps->vcpu->fd, KVM_EXIT_INTR);
	reset_slot(steps, 0, steps->slot_exists);
	steps->slot_exists = true;
	if (steps->has_alias)
		reset_slot(steps, ALIAS, steps->alias_exists);
	steps->alias_exists = steps->has_alias;
	steps->stored = -1;
	steps->words = 0;
	steps->is_new_to_some = false;
	steps->wrong = NULL;
}
