/* SPDX-License-Identifier: MIT */
/* Draws a run from its seed. Rings and slots are small, so that much happens in every run. */
#include "plan.h"

#include <string.h>

#include <dirtylog/dirtylog.h>

#include "faults.h"
#include "model.h"

struct draft {
	struct plan *plan;
	uint64_t state;
	uint32_t favourite; /* the place that is written most often */
};

static uint32_t below(struct draft *d, uint32_t n)
{
	return sim_below(&d->state, n);
}

static bool one_in(struct draft *d, uint32_t n)
{
	return !below(d, n);
}

static uint32_t between(struct draft *d, uint32_t low, uint32_t high)
{
	return low + below(d, high - low + 1);
}

static void draw_policy(struct draft *d)
{
	static const uint32_t gaps[] = { 0, 1, 2, 4, 8, 16, 40, 100, 300 };
	static const uint32_t shares[] = { 6, 15, 40 };
	struct sim_policy *policy = &d->plan->policy;

	policy->seed = sim_random(&d->state);
	policy->point_ns = 1000;
	policy->kind = below(d, 20) < 11 ? POLICY_WALK : POLICY_PRIORITY;
	policy->gap_points = gaps[below(d, 9)];
	policy->changes = below(d, 16);
	policy->span_points = 3000;
	policy->hot_share = one_in(d, 2) ? 0 : shares[below(d, 3)];
	policy->stall_points = 1 << between(d, 4, 11);
}

static void draw_ring(struct draft *d)
{
	struct plan *plan = d->plan;

	plan->is_focused = one_in(d, 4);
	plan->ring_entries = one_in(d, 3) && !plan->is_focused ? (one_in(d, 2) ? 64 : 32) : 16;
	plan->overflows = plan->is_focused || below(d, 100) < 45;
	plan->batch_writes = 1;
	plan->write_order = below(d, 3);
	if (plan->write_order != MODEL_STORE_THEN_LOG && one_in(d, 5))
		plan->pml_entries = between(d, 1, 4);
	/* Never less than a quarter of the ring, as on every known kernel. */
	plan->soft_limit_entries =
		between(d, plan->ring_entries / 4, plan->ring_entries - 2 - plan->pml_entries);
	if (plan->overflows && !one_in(d, 3))
		plan->batch_writes = between(d, 2, 2 * plan->ring_entries);
	/* The kernel starts at 0, or shortly before the index wraps: the same cells. */
	plan->ring_first_index = one_in(d, 2) ? 0 : 0 - plan->ring_entries * between(d, 1, 4);
}

static void draw_kernel(struct draft *d)
{
	struct plan *plan = d->plan;
	uint32_t manual = MODEL_HAS_MANUAL_PROTECT, initially = MODEL_HAS_INITIALLY_SET;
	uint32_t mode;

	draw_ring(d);
	mode = below(d, plan->is_focused ? 14 : 20);
	plan->delete_unmaps_all = one_in(d, 2);
	plan->looks_at_ring_on_entry = one_in(d, 3);
	plan->protects_ranges = one_in(d, 3);
	plan->mode = DL_MODE_RING;
	if (mode < 9)
		plan->has = MODEL_HAS_RING_ACQ_REL | manual | initially;
	else if (mode < 14)
		plan->has = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP | manual | initially;
	else if (mode < 16)
		plan->has = manual | initially;
	else if (mode < 18)
		plan->has = manual;
	else
		plan->has = MODEL_HAS_NOTHING;
	plan->backup = plan->has & MODEL_HAS_BACKUP;
	if (!(plan->has & MODEL_HAS_RING_ACQ_REL)) {
		plan->mode = DL_MODE_BITMAP;
		plan->overflows = false;
	}
	plan->sends_late = !one_in(d, 6);
	plan->keeps_words = one_in(d, 2);
	plan->starts_clean = one_in(d, 3);
	plan->closes_early = one_in(d, 10);
	plan->faults_in_end = one_in(d, 3);
	plan->slow_calls = one_in(d, 3);
}

static const uint16_t slot_ids[PLAN_SLOTS] = { 0, 7, 3, 1, 9, 12, 2, 5 };

static struct place *add_place(struct draft *d, uint32_t slot, uint32_t block, uint32_t first,
			       uint32_t pages)
{
	struct plan *plan = d->plan;
	struct place *place = &plan->places[plan->place_count];

	place->slot = slot;
	place->block = (uint8_t)block;
	place->first_page = (uint16_t)first;
	place->pages = (uint16_t)pages;
	/* Each place has two windows of guest memory of its own; some touch a neighbour. */
	place->gpa_pages[0] = 16 + 512 * plan->place_count + below(d, 3) * 8;
	place->gpa_pages[1] = place->gpa_pages[0] + 256 - below(d, 2) * 8;
	plan->place_count++;
	return place;
}

static uint32_t add_block(struct draft *d)
{
	struct plan *plan = d->plan;
	uint32_t pages = one_in(d, 3) ? between(d, 60, 80) : between(d, 2, 24);

	/* Large enough for a bitmap of several words. */
	if (one_in(d, 25))
		pages = between(d, 130, PLAN_BLOCK_PAGES);

	plan->block_pages[plan->block_count] = (uint16_t)pages;
	return plan->block_count++;
}

/*
 * Two slots of a slotter, which come and go over one block: two halves, all of it twice, or two
 * parts that overlap. Sometimes both have the same id and exist in turn.
 */
static void add_pair(struct draft *d, uint32_t owner)
{
	struct plan *plan = d->plan;
	uint32_t block = add_block(d), pages = plan->block_pages[block];
	uint32_t first_ends = pages, second_begins = 0, second_pages;
	struct place *first, *second;
	bool same;

	switch (below(d, 4)) {
	case 0:
	case 1:
		first_ends = second_begins = pages / 2;
		break;
	case 2:
		first_ends = pages - pages / 4;
		second_begins = pages / 4;
		break;
	}
	first = add_place(d, slot_ids[plan->place_count], block, 0, first_ends);
	first->owner = (uint8_t)owner;
	same = one_in(d, 3);
	second_pages = pages - second_begins;
	second = add_place(d, same ? first->slot : slot_ids[plan->place_count], block,
			   second_begins, same ? 1 + below(d, second_pages) : second_pages);
	second->owner = (uint8_t)owner;
	/* And sometimes one can move to where the other was. */
	if (one_in(d, 3))
		second->gpa_pages[1] = first->gpa_pages[0];
}

static void draw_memory(struct draft *d, uint32_t slotters)
{
	struct plan *plan = d->plan;
	uint32_t stable = between(d, 1, 2), block = 0;

	for (uint32_t i = 0; i < stable; i++) {
		block = add_block(d);
		add_place(d, slot_ids[plan->place_count], block, 0, plan->block_pages[block])
			->is_stable = true;
	}
	/* The last block, mapped in another address space too. */
	if (one_in(d, 4))
		add_place(d, 1 << 16 | slot_ids[1], block, 0, plan->block_pages[block])->is_stable =
			true;
	for (uint32_t i = 0; i < slotters; i++)
		add_pair(d, i);
	d->favourite = below(d, plan->place_count);
}

/* A display needs a slot all of whose memory it sees: none of another number maps it. */
static bool suits_one_slot(const struct plan *plan, const struct place *place)
{
	for (uint32_t i = 0; i < plan->place_count; i++) {
		const struct place *other = &plan->places[i];

		if (other->slot != place->slot && other->block == place->block &&
		    other->first_page < place->first_page + place->pages &&
		    place->first_page < other->first_page + other->pages)
			return false;
	}
	return true;
}

static void draw_consumer(struct draft *d, struct wish *wish)
{
	const struct plan *plan = d->plan;
	uint32_t what = below(d, 8);

	wish->takes = one_in(d, 2);
	wish->takes_too = one_in(d, 4);
	wish->starts_late = one_in(d, 4);
	if (one_in(d, 3))
		wish->coalesce_pages = between(d, 1, 6);
	if (one_in(d, 4))
		wish->max_pages = between(d, 1, 5);
	wish->place = (uint8_t)below(d, plan->place_count);
	if (what < 2)
		wish->flags = DL_CURSOR_WANTED;
	else if (what < 4 && suits_one_slot(plan, &plan->places[wish->place]))
		wish->flags = DL_CURSOR_ONE_SLOT;
}

/* Mostly, the first reads all slots. */
static void draw_consumers(struct draft *d)
{
	static const uint8_t counts[] = { 1, 1, 2, 2, 2, 3, 3, 4 };
	struct plan *plan = d->plan;

	/* Few other actors where rings overflow. */
	plan->consumer_count = counts[below(d, plan->is_focused ? 5 : 8)];
	for (uint32_t i = 0; i < plan->consumer_count; i++)
		draw_consumer(d, &plan->wishes[i]);
	if (one_in(d, 4))
		return;
	plan->wishes[0] = (struct wish){ .starts_late = one_in(d, 8), .takes_too = one_in(d, 4) };
}

/* All slots over one block are wanted, or none is. */
static void draw_wanted(struct draft *d)
{
	struct plan *plan = d->plan;
	uint32_t wanted = (uint32_t)sim_random(&d->state);

	for (uint32_t i = 0; i < plan->place_count; i++)
		plan->places[i].is_wanted = wanted >> plan->places[i].block & 1;
}

static struct op *add_op(struct draft *d, uint8_t code)
{
	struct plan *plan = d->plan;
	struct op *op = &plan->ops[plan->op_count];

	if (plan->op_count == PLAN_OPS)
		return &plan->ops[PLAN_OPS - 1];
	plan->op_count++;
	plan->actors[plan->actor_count - 1].ops++;
	op->code = code;
	op->number = (uint32_t)sim_random(&d->state);
	return op;
}

static bool add_actor(struct draft *d, uint8_t kind, uint32_t number)
{
	struct plan *plan = d->plan;
	struct actor *actor = &plan->actors[plan->actor_count];

	if (plan->actor_count == PLAN_ACTORS)
		return false;
	plan->actor_count++;
	actor->kind = kind;
	actor->number = (uint8_t)number;
	actor->first_op = (uint16_t)plan->op_count;
	return true;
}

/* Chooses what a writer writes: mostly a few pages of one place, so that pages repeat. */
static void aim(struct draft *d, struct op *op)
{
	const struct plan *plan = d->plan;
	uint32_t pages;

	op->slot = (uint8_t)(one_in(d, 3) ? below(d, plan->place_count) : d->favourite);
	pages = plan->places[op->slot].pages;
	op->page = (uint16_t)below(d, one_in(d, 2) ? pages : 1 + pages / 4);
	op->count = (uint8_t)(one_in(d, 2) ? 1 : between(d, 1, 6));
	if (one_in(d, 6))
		op->count = (uint8_t)between(d, 1, plan->ring_entries + 4);
	op->flags = (uint16_t)one_in(d, 4);
}

static void draw_vcpu(struct draft *d, uint32_t number)
{
	if (!add_actor(d, ACTOR_VCPU, number))
		return;
	for (uint32_t n = between(d, 4, 22); n; n--) {
		uint32_t what = below(d, 100);
		struct op *op;

		if (what < 60 || (what < 84 && !d->plan->overflows)) {
			aim(d, add_op(d, OP_WRITE));
		} else if (what < 84) {
			op = add_op(d, OP_UNCHECKED);
			aim(d, op);
			op->count = (uint8_t)between(d, 1, 3 * d->plan->ring_entries);
		} else if (what < 88) {
			add_op(d, OP_EXIT);
		} else if (what < 93) {
			add_op(d, OP_DRAIN);
		} else if (what < 96) {
			add_op(d, OP_REPLUG);
		} else {
			add_op(d, OP_IDLE);
		}
	}
}

static void draw_writers(struct draft *d)
{
	const struct plan *plan = d->plan;

	for (uint32_t i = below(d, 3); i; i--) {
		if (!add_actor(d, ACTOR_DEVICE, i))
			return;
		for (uint32_t n = between(d, 2, 12); n; n--)
			aim(d, add_op(d, one_in(d, 4) ? OP_NOISE_MARK : OP_MARK));
	}
	/* A ring without a backup bitmap does not log its writes. */
	if ((plan->mode == DL_MODE_BITMAP || plan->backup) && !one_in(d, 3) &&
	    add_actor(d, ACTOR_KERNEL_WRITER, 0))
		for (uint32_t n = between(d, 2, 12); n; n--)
			aim(d, add_op(d, OP_WRITE));
}

static void draw_slotter(struct draft *d, uint32_t number)
{
	const struct plan *plan = d->plan;

	if (!add_actor(d, ACTOR_SLOTTER, number))
		return;
	for (uint32_t n = between(d, 2, one_in(d, 3) ? 30 : 14); n; n--) {
		static const uint8_t codes[] = { OP_REMOVE, OP_REMOVE, OP_SET,
						 OP_SET,    OP_SET,    OP_WANT };
		struct op *op = add_op(d, codes[below(d, 6)]);
		uint32_t place = below(d, plan->place_count);

		while ((plan->places[place].is_stable && op->code != OP_WANT) ||
		       plan->places[place].owner != number)
			place = (place + 1) % plan->place_count;
		op->slot = (uint8_t)place;
	}
}

static void draw_takers(struct draft *d)
{
	const struct plan *plan = d->plan;

	for (uint32_t i = plan->is_focused ? 2 : below(d, 3); i; i--) {
		if (!add_actor(d, ACTOR_HARVESTER, i))
			return;
		for (uint32_t n = between(d, 2, 10); n; n--)
			add_op(d, OP_HARVEST)->slot = (uint8_t)below(d, plan->consumer_count);
	}
	for (uint32_t i = between(d, 1, 2 + plan->consumer_count / 2); i; i--) {
		if (!add_actor(d, ACTOR_SENDER, i))
			return;
		for (uint32_t n = between(d, 2, 7); n; n--)
			add_op(d, OP_PASS)->slot = (uint8_t)below(d, plan->consumer_count);
	}
}

static void draw_faults(struct draft *d)
{
	static const uint8_t weighted[] = {
		FAULT_RESET_ERROR,
		FAULT_RESET_ERROR,
		FAULT_RESET_SHORT,
		FAULT_RESET_SHORT,
		FAULT_RESET_LOST_BATCH,
		FAULT_RESET_LOST_BATCH,
		FAULT_RESET_LOST_BATCH,
		FAULT_RESET_LATE_FLUSH,
		FAULT_RESET_LATE_FLUSH,
		FAULT_GET,
		FAULT_GET,
		FAULT_CLEAR,
		FAULT_CLEAR,
		FAULT_REGION,
		FAULT_REGION,
		FAULT_ENABLE_CAP,
		FAULT_MMAP,
		FAULT_VCPU_FD,
		FAULT_ALLOCATION,
	};

	uint32_t kind = one_in(d, 4) ? below(d, FAULT_KINDS) : FAULT_KINDS;

	if (one_in(d, 2) || !add_actor(d, ACTOR_FAULTS, 0))
		return;
	for (uint32_t n = between(d, 1, 7); n; n--) {
		struct op *op = add_op(d, OP_FAULT);

		op->flags = weighted[below(d, sizeof(weighted))];
		/* All of one kind. */
		if (kind < FAULT_KINDS)
			op->flags = (uint16_t)kind;
		op->page = (uint16_t)below(d, 4); /* calls that succeed first */
		op->count = (uint8_t)(one_in(d, 3) ? between(d, 2, 4) : 1); /* calls that fail */
	}
}

static bool any_starts_late(const struct plan *plan)
{
	for (uint32_t i = 0; i < plan->consumer_count; i++)
		if (plan->wishes[i].starts_late)
			return true;
	return false;
}

static void draw_canceller(struct draft *d, uint32_t number)
{
	const struct plan *plan = d->plan;

	if (!add_actor(d, ACTOR_CANCELLER, number))
		return;
	for (uint32_t i = 0; i < plan->consumer_count; i++)
		if (plan->wishes[i].starts_late)
			add_op(d, OP_START)->slot = (uint8_t)i;
	/* Sometimes consumers come and go all the time. */
	for (uint32_t n = one_in(d, 4) ? between(d, 6, 12) : between(d, 1, 3); n; n--) {
		uint8_t consumer = (uint8_t)below(d, plan->consumer_count);

		add_op(d, OP_STOP)->slot = consumer;
		if (n > 1 || one_in(d, 2))
			add_op(d, OP_START)->slot = consumer;
	}
}

static void draw_rest(struct draft *d)
{
	struct plan *plan = d->plan;

	if (any_starts_late(plan) || below(d, 100) < 40)
		draw_canceller(d, 0);
	if (plan->consumer_count > 1 && one_in(d, 3))
		draw_canceller(d, 1);
	if (one_in(d, 4) && add_actor(d, ACTOR_WATCHER, 0))
		for (uint32_t n = between(d, 2, 8); n; n--)
			add_op(d, OP_WATCH);
	if (plan->closes_early && add_actor(d, ACTOR_CLOSER, 0))
		add_op(d, OP_CLOSE);
	else
		plan->closes_early = false;
}

/* Last, so that the rest of the plan does not depend on it. */
static void draw_limits(struct draft *d)
{
	struct plan *plan = d->plan;

	plan->limits = one_in(d, 4) && add_actor(d, ACTOR_THROTTLER, 0);
	if (!plan->limits)
		return;
	/* Limits need milliseconds to seconds to have an effect. */
	plan->policy.point_ns = between(d, 5, 100) * 1000;
	for (uint32_t n = between(d, 8, 40); n && plan->op_count < PLAN_OPS; n--) {
		static const uint8_t codes[] = { OP_LIMIT, OP_MIGRATE, OP_LOOK,
						 OP_LOOK,  OP_LOOK,    OP_KICKS };
		struct op *op = add_op(d, codes[below(d, 6)]);

		op->slot = (uint8_t)below(d, plan->consumer_count);
		op->count = (uint8_t)below(d, plan->vcpus);
	}
}

void plan_make(struct plan *plan, uint64_t seed)
{
	struct draft d = { .plan = plan, .state = seed * UINT64_C(0xd1342543de82ef95) + 1 };
	uint32_t slotters;

	memset(plan, 0, sizeof(*plan));
	plan->seed = seed;
	draw_policy(&d);
	draw_kernel(&d);
	slotters = plan->is_focused || one_in(&d, 2) ? 0 : between(&d, 1, 2);
	draw_memory(&d, slotters);
	draw_wanted(&d);
	draw_consumers(&d);
	plan->vcpus = between(&d, 1, PLAN_VCPUS - 1);
	for (uint32_t i = 0; i < plan->vcpus; i++)
		draw_vcpu(&d, i);
	if (!plan->is_focused)
		draw_writers(&d);
	for (uint32_t i = 0; i < slotters; i++)
		draw_slotter(&d, i);
	draw_takers(&d);
	draw_faults(&d);
	draw_rest(&d);
	draw_limits(&d);
}
