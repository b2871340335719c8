/* SPDX-License-Identifier: MIT */
/* The beginning and the end of a sequence of steps, and the state in the middle. */
#include "steps.h"

#include "cmocka_all.h"
#include "cursor.h"
#include "pages/page_set_maps.h"

#include <string.h>

enum { ALIAS = 1 << 16, MAX_ROUNDS = 12 };

bool step_is_by_one(uint8_t kind)
{
	return kind == STEP_WRITE_ALIAS || kind == STEP_MARK || kind >= STEP_REMOVE;
}

/* Nothing can fail in a free; beside a paused removal there is no vCPU. */
bool step_can_contain(struct step step)
{
	if (step.kind == STEP_FREE)
		return step.within < WITHIN_FAILURE;
	if (step.kind == STEP_REMOVE_PAUSED)
		return step.within != WITHIN_PROTECT && step.within != WITHIN_WRITE;
	return true;
}

static bool consumer_can(const struct steps *steps, const struct consumer *consumer, uint8_t kind)
{
	if (kind == STEP_JOIN || kind == STEP_JOIN_CLEAN)
		return !consumer->cursor;
	if (!consumer->cursor)
		return false;
	switch (kind) {
	case STEP_HARVEST:
		return !consumer->in_pass;
	case STEP_READ:
		return consumer->in_pass && consumer->n_extents < STEPS_EXTENTS;
	case STEP_COPY:
		return consumer->handed | consumer->taken;
	case STEP_END:
		return consumer->in_pass;
	case STEP_COMMIT:
		return consumer->in_pass && consumer->seen_in_pass && !consumer->handed;
	case STEP_TAKE:
	case STEP_DEFER:
		return steps->slot_exists;
	case STEP_CLEAR:
		return steps->slot_exists && consumer->deferred;
	}
	return true;
}

bool steps_can(const struct steps *steps, struct step step)
{
	switch (step.kind) {
	case STEP_WRITE:
	case STEP_REMOVE:
	case STEP_REMOVE_PAUSED:
		return steps->slot_exists;
	case STEP_STORE:
		return steps->slot_exists && steps->stored < 0;
	case STEP_MARK:
		return steps->stored >= 0;
	case STEP_RESTORE:
		return !steps->slot_exists;
	case STEP_WRITE_ALIAS:
	case STEP_REMOVE_ALIAS:
		return steps->alias_exists;
	case STEP_RESTORE_ALIAS:
		return steps->has_alias && !steps->alias_exists;
	}
	return consumer_can(steps, &steps->consumers[step.who], step.kind);
}

static void put_back(struct steps *steps, uint8_t kind)
{
	const struct step step = { .kind = kind };

	if (steps_can(steps, step))
		steps_make(steps, step);
}

/* Copies, acknowledges and ends whatever the consumer has begun. */
static void settle(struct steps *steps, uint8_t who)
{
	static const uint8_t kinds[] = { STEP_CLEAR, STEP_COPY, STEP_END };

	for (unsigned int i = 0; i < sizeof(kinds); i++) {
		const struct step step = { .kind = kinds[i], .who = who };

		if (steps_can(steps, step))
			steps_make(steps, step);
	}
}

static void found_wrong(struct steps *steps, const char *what)
{
	if (!steps->wrong)
		steps->wrong = what;
}

/* The first consumer ends by passes, the second one by takes. Return what was pending. */
static uint64_t last_pass(struct steps *steps)
{
	struct consumer *consumer = &steps->consumers[0];
	const struct step read = { .kind = STEP_READ };
	uint64_t pending_bytes = 0;

	if (!consumer->cursor)
		return 0;
	if (dl_harvest(consumer->cursor, DL_HARVEST_PAUSED, &pending_bytes))
		found_wrong(steps, "the last harvest fails");
	consumer->in_pass = true;
	consumer->seen_in_pass = consumer->n_extents = 0;
	for (uint32_t n = 0; n <= STEPS_PAGES; n++)
		steps_make(steps, read);
	settle(steps, 0);
	return pending_bytes;
}

static uint64_t last_take(struct steps *steps, uint32_t slot)
{
	struct consumer *consumer = &steps->consumers[1];
	const uint32_t flags = DL_TAKE_HARVEST | DL_TAKE_PAUSED;
	uint64_t word = 0, bytes = 0;

	if (!consumer->cursor)
		return 0;
	steps->now = (struct step){ .kind = STEP_TAKE, .who = 1 };
	if (dl_cursor_take(consumer->cursor, slot, flags, &word, 1, &bytes))
		found_wrong(steps, "the last take fails");
	consumer->taken |= (uint32_t)word;
	settle(steps, 1);
	return bytes;
}

static void compare(struct steps *steps, uint32_t i)
{
	const struct consumer *consumer = &steps->consumers[i];

	for (uint32_t page = 0; page < STEPS_PAGES && consumer->cursor; page++)
		if (memcmp(steps->guest.blocks[0].memory + page * steps->guest.page_bytes,
			   &consumer->copy[page], sizeof(consumer->copy[page])) != 0)
			found_wrong(steps, i ? "a write is lost for the second consumer"
					     : "a write is lost for the first consumer");
}

static void finish_consumer(struct steps *steps, uint8_t i)
{
	int rounds = 0;
	uint64_t bytes;

	settle(steps, i);
	do {
		bytes = i ? last_take(steps, 0) : last_pass(steps);
		if (i && steps->alias_exists)
			bytes += last_take(steps, ALIAS);
		if (++rounds > MAX_ROUNDS)
			found_wrong(steps, "the last pass does not come to an end");
	} while (bytes && !steps->wrong);
	compare(steps, i);
}

void steps_finish(struct steps *steps, bool second_first)
{
	put_back(steps, STEP_MARK);
	model_vcpu_exit(steps->guest.model, steps->vcpu->fd, KVM_EXIT_INTR);
	put_back(steps, STEP_RESTORE);
	finish_consumer(steps, second_first);
	finish_consumer(steps, !second_first);
}

struct packer {
	uint8_t *at, *end;
};

static void pack(struct packer *to, uint64_t value)
{
	assert_true(to->at < to->end);
	*to->at++ = (uint8_t)value;
}

static uint64_t leaf(const struct dli_page_set *set, bool in_flight)
{
	if (!set)
		return 0;
	return atomic_load_explicit(leaf_of(in_flight ? &set->in_flight : &set->pending, 0),
				    memory_order_relaxed);
}

static void pack_view(struct packer *to, const struct dli_view *view)
{
	pack(to, view ? leaf(view->set, false) | leaf(view->set, true) << 2 |
				 (uint64_t)(atomic_load(&view->pass) != 0) << 4
		      : 0xff);
}

static void pack_slot(struct packer *to, struct steps *steps, uint32_t number)
{
	const struct dli_slot *slot =
		dli_slot_find(dli_slots_table(&steps->guest.log->slots), number);
	uint8_t pages[STEPS_PAGES] = { 0 };

	pack(to, slot ? 1 + slot->logged * 2u + (slot->n_aliases != 0) * 4u : 0);
	if (!slot)
		return;
	(void)model_page_states(steps->guest.model, steps->guest.vm_fd, number, 0, STEPS_PAGES,
				pages);
	for (uint32_t page = 0; page < STEPS_PAGES; page++)
		pack(to, pages[page]);
	pack(to, slot->owed.words ? slot->owed.words[0] : 0);
	pack(to, leaf(slot->fresh, false) | (uint64_t)(slot->views && slot->views->next) << 2);
	for (uint32_t i = 0; i < STEPS_CONSUMERS; i++) {
		const struct dl_cursor *cursor = steps->consumers[i].cursor;

		pack_view(to, cursor ? dli_slot_view(slot, cursor) : NULL);
	}
}

/* Packs the pages that the cursor has read ahead of those it has handed out. */
static void pack_cursor(struct packer *to, const struct dl_cursor *cursor)
{
	pack(to, (uint64_t)(dli_cursor_pass(cursor) != 0) | cursor->at << 1 | cursor->n_order << 4 |
			 cursor->next_block << 7);
	pack(to, cursor->word < cursor->batch.n ? cursor->batch.bits[cursor->word] : 0);
	pack(to, cursor->held.pages | cursor->held.first_page << 4);
}

static void pack_consumer(struct packer *to, const struct steps *steps,
			  const struct consumer *consumer)
{
	pack(to, consumer->cursor ? 1 + consumer->in_pass * 2u + consumer->n_extents * 4 : 0);
	if (!consumer->cursor)
		return;
	pack_cursor(to, consumer->cursor);
	pack(to, consumer->seen_in_pass | consumer->handed << 2 | consumer->taken << 4 |
			 consumer->deferred << 6);
	for (uint32_t page = 0; page < STEPS_PAGES; page++)
		pack(to, !memcmp(steps->guest.blocks[0].memory + page * steps->guest.page_bytes,
				 &consumer->copy[page], sizeof(consumer->copy[page])));
}

void steps_state(struct steps *steps, uint8_t *state)
{
	struct packer to = { state, state + STEPS_STATE_BYTES };

	memset(state, 0, STEPS_STATE_BYTES);
	pack(&to, (uint64_t)(steps->stored + 1));
	pack(&to, steps->words);
	pack(&to, steps->is_new_to_some | steps->guest.log->initially_set * 2u);
	pack_slot(&to, steps, 0);
	pack_slot(&to, steps, ALIAS);
	for (uint32_t i = 0; i < STEPS_CONSUMERS; i++)
		pack_consumer(&to, steps, &steps->consumers[i]);
}
