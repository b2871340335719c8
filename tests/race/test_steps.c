/* SPDX-License-Identifier: MIT */
/*
 * Every interleaving of two consumers, a vCPU and a device, up to a number of steps (see steps.h):
 * from each state that is reached, every step is made, with everything that can happen within it.
 * Two properties must hold. From every state the last passes, once they find nothing, have brought
 * each consumer a copy that equals the memory. And no page is cleared that some consumer neither
 * has pending nor has deferred.
 */
#include "cmocka_all.h"
#include "steps.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 32, MAX_AT = 2, TABLE_BITS = 22 };

static unsigned long limit = 1500; /* of states, in each test */

struct node {
	uint32_t before; /* index of the node that it was reached from */
	struct step step;
	uint8_t depth;
	uint64_t can; /* bit kind * 2 + who */
};

static struct steps steps;
static struct node *nodes;
static uint8_t (*states)[STEPS_STATE_BYTES];
static uint32_t *table; /* of indices of nodes, by hash; 0: empty */
static uint32_t n_nodes;

static uint32_t *entry_of(const uint8_t *state)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	uint32_t i;

	for (int n = 0; n < STEPS_STATE_BYTES; n++)
		hash = (hash ^ state[n]) * UINT64_C(0x100000001b3);
	i = (uint32_t)(hash >> (64 - TABLE_BITS));
	while (table[i] && memcmp(states[table[i]], state, STEPS_STATE_BYTES) != 0)
		i = (i + 1) & ((1u << TABLE_BITS) - 1);
	return &table[i];
}

static unsigned int path_to(uint32_t node, struct step *path)
{
	unsigned int n = nodes[node].depth;

	for (; nodes[node].depth; node = nodes[node].before)
		path[nodes[node].depth - 1] = nodes[node].step;
	return n;
}

static void print_path(uint32_t node, const struct step *last)
{
	struct step path[MAX_DEPTH];
	unsigned int n = path_to(node, path);

	for (unsigned int i = 0; i < n; i++)
		print_error("  %s\n", step_name(path[i]));
	if (last)
		print_error("  %s\n", step_name(*last));
}

static void check(uint32_t node, const struct step *last)
{
	if (!steps.wrong)
		return;
	print_path(node, last);
	fail_msg("%s", steps.wrong);
}

static void replay(uint32_t node)
{
	struct step path[MAX_DEPTH];
	unsigned int n = path_to(node, path);

	steps_reset(&steps);
	for (unsigned int i = 0; i < n; i++)
		steps_make(&steps, path[i]);
}

static uint64_t possible_steps(void)
{
	uint64_t can = 0;

	for (uint8_t kind = 0; kind < STEP_KINDS; kind++)
		for (uint8_t who = 0; who < (step_is_by_one(kind) ? 1 : 2); who++)
			if (steps_can(&steps, (struct step){ .kind = kind, .who = who }))
				can |= UINT64_C(1) << (kind * 2 + who);
	return can;
}

static void add(uint32_t from, struct step step, uint32_t *entry, const uint8_t *state)
{
	*entry = n_nodes;
	memcpy(states[n_nodes], state, STEPS_STATE_BYTES);
	nodes[n_nodes++] = (struct node){ .before = from,
					  .step = step,
					  .depth = (uint8_t)(nodes[from].depth + 1),
					  .can = possible_steps() };
}

/*
 * Makes a step from a node. Adds the node that it leads to, if that is new, and ends there. Returns
 * how many ioctls the step has made that something can happen within.
 */
static unsigned int make(uint32_t from, struct step step)
{
	uint8_t state[STEPS_STATE_BYTES];
	unsigned int ioctls;
	uint32_t *entry;

	replay(from);
	steps_make(&steps, step);
	check(from, &step);
	ioctls = steps.ioctls;
	steps_state(&steps, state);
	entry = entry_of(state);
	if (*entry || n_nodes > limit)
		return ioctls;
	add(from, step, entry, state);
	steps_finish(&steps, n_nodes % 2);
	check(from, &step);
	return ioctls;
}

static void make_all(uint32_t from, uint8_t kind, uint8_t who)
{
	struct step step = { .kind = kind, .who = who };
	unsigned int ioctls;

	if (!(nodes[from].can >> (kind * 2 + who) & 1))
		return;
	ioctls = make(from, step);
	for (; step.at < ioctls && step.at < MAX_AT; step.at++)
		for (step.within = 1; step.within < WITHIN_KINDS; step.within++)
			if (step_can_contain(step))
				make(from, step);
}

/* From the state on that the steps lead to. */
static void explore(const struct guest_config *config, bool has_alias, const struct step *begin,
		    unsigned int n_begin)
{
	unsigned int depth;

	nodes = calloc(limit + 2, sizeof(*nodes));
	states = calloc(limit + 2, sizeof(*states));
	table = calloc(1u << TABLE_BITS, sizeof(*table));
	assert_true(nodes && states && table);
	steps_open(&steps, config, has_alias);
	/* Node 1 is the beginning. */
	n_nodes = 2;
	nodes[1].can = possible_steps();
	for (unsigned int i = 0; i < n_begin; i++) {
		assert_true(nodes[n_nodes - 1].can >> (begin[i].kind * 2 + begin[i].who) & 1);
		make(n_nodes - 1, begin[i]);
		assert_int_equal(n_nodes, i + 3);
	}
	for (uint32_t at = n_nodes - 1; at < n_nodes && n_nodes <= limit; at++)
		for (uint8_t kind = 0; kind < STEP_KINDS; kind++)
			for (uint8_t who = 0; who < 2; who++)
				make_all(at, kind, who);
	depth = nodes[n_nodes - 1].depth - n_begin;
	print_message(
		"%u states within %u steps, %lu times something within an ioctl, %lu CLEARs\n",
		n_nodes - 1, depth, steps.withins, steps.clears);
	assert_true(depth >= 3 && steps.withins);
	steps_close(&steps);
	free(nodes);
	free(states);
	free(table);
}

#define EXPLORE(config, has_alias, begin) \
	explore(config, has_alias, begin, sizeof(begin) / sizeof((begin)[0]))

static const struct guest_config by_hand = {
	.model = { .has = MODEL_HAS_MANUAL_PROTECT },
	.options = { .mode = DL_MODE_BITMAP },
};
static const struct guest_config initially_set = {
	.model = { .has = MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET },
	.options = { .mode = DL_MODE_BITMAP },
};
static const struct guest_config cleared_by_reading = {
	.model = { .has = MODEL_HAS_NOTHING },
	.options = { .mode = DL_MODE_BITMAP },
};
static const struct guest_config rings = {
	.model = { .has = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP },
	.options = { .mode = DL_MODE_RING, .ring_entries = 256 },
};

static const struct step both_clean[] = { { STEP_JOIN_CLEAN, 0 }, { STEP_JOIN_CLEAN, 1 } };
static const struct step both_want_all[] = { { STEP_JOIN, 0 }, { STEP_JOIN, 1 } };
static const struct step alone[] = { { STEP_JOIN, 0 } };
/* The first consumer has all, and nothing is owed. */
static const struct step settled[] = {
	{ STEP_JOIN, 0 }, { STEP_HARVEST, 0 }, { STEP_READ, 0 }, { STEP_COPY, 0 }, { STEP_END, 0 },
};
/* The second one defers pages that both have pending. */
static const struct step deferred[] = {
	{ STEP_JOIN_CLEAN, 0 },
	{ STEP_JOIN_CLEAN, 1 },
	{ STEP_WRITE, 0 },
	{ STEP_DEFER, 1 },
};
/* Page 0 is at home in the alias, page 1 in the slot. */
static const struct step younger_than_its_alias[] = {
	{ STEP_REMOVE },
	{ STEP_RESTORE },
	{ STEP_JOIN_CLEAN, 0 },
	{ STEP_JOIN_CLEAN, 1 },
};
/* In the middle of a pass. */
static const struct step marked_in_a_pass[] = {
	{ STEP_REMOVE },     { STEP_RESTORE },	{ STEP_JOIN, 0 },
	{ STEP_HARVEST, 0 }, { STEP_STORE, 0 }, { STEP_MARK },
};

static void by_hand_both_clean(void **state)
{
	EXPLORE(&by_hand, false, both_clean);
}

static void by_hand_the_second_comes_later(void **state)
{
	EXPLORE(&by_hand, false, alone);
}

static void by_hand_deferred(void **state)
{
	EXPLORE(&by_hand, false, deferred);
}

static void initially_set_both_want_all(void **state)
{
	EXPLORE(&initially_set, false, both_want_all);
}

static void initially_set_settled(void **state)
{
	EXPLORE(&initially_set, false, settled);
}

static void by_hand_with_an_alias(void **state)
{
	EXPLORE(&by_hand, true, both_clean);
}

static void by_hand_younger_than_its_alias(void **state)
{
	EXPLORE(&by_hand, true, younger_than_its_alias);
}

static void by_hand_marked_in_a_pass(void **state)
{
	EXPLORE(&by_hand, true, marked_in_a_pass);
}

static void initially_set_with_an_alias(void **state)
{
	EXPLORE(&initially_set, true, alone);
}

static void cleared_as_they_are_read(void **state)
{
	EXPLORE(&cleared_by_reading, true, both_clean);
}

static void rings_with_an_alias(void **state)
{
	EXPLORE(&rings, true, both_clean);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(by_hand_both_clean),
		cmocka_unit_test(by_hand_the_second_comes_later),
		cmocka_unit_test(by_hand_deferred),
		cmocka_unit_test(initially_set_both_want_all),
		cmocka_unit_test(initially_set_settled),
		cmocka_unit_test(by_hand_with_an_alias),
		cmocka_unit_test(by_hand_younger_than_its_alias),
		cmocka_unit_test(by_hand_marked_in_a_pass),
		cmocka_unit_test(initially_set_with_an_alias),
		cmocka_unit_test(cleared_as_they_are_read),
		cmocka_unit_test(rings_with_an_alias),
	};

	if (argc > 1 && !strcmp(argv[1], "--long"))
		limit = 8000;
	return RUN_TESTS("races: every interleaving of two consumers", tests);
}
