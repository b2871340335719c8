/* SPDX-License-Identifier: MIT */
/*
 * Memory that two slots map, in one address space or in two, and that the guest writes through
 * both: each page is handed out once, at its home, which is the older slot.
 */
#include "consumers.h"
#include "ways.h"

#include <stdlib.h>
#include <string.h>

enum { PAGES = 200, LOW_SLOT = 10, HIGH_SLOT = 11, OTHER_SLOT = 12, TURNS = 6 };

static const uint64_t LOW = GUEST_DATA_GPA;
static const uint64_t HIGH = 8ull * GUEST_DATA_GPA;

static struct rig *rig;
static struct rig_slot *low, *other;
static struct rig_slot high; /* over the memory of low; vCPU 1 writes through it */
static uint64_t value;

/* The slots are not set, except other. */
static void begin(const struct way *way)
{
	rig = way_rig(way, 2);
	low = rig_memory(rig, LOW_SLOT, LOW, PAGES);
	other = rig_slot(rig, OTHER_SLOT, 16ull * GUEST_DATA_GPA, PAGES);
	high = *low;
	high.slot = HIGH_SLOT;
	high.gpa = HIGH;
}

/* vCPU 1 enters the second address space, where the memory has the same address. */
static void begin_in_two_spaces(const struct way *way)
{
	begin(way);
	if (machine_capability(&rig->machine, KVM_CAP_MULTI_ADDRESS_SPACE) < 2)
		rig_skip("this kernel supports only one address space");
	high.slot = 1u << 16 | LOW_SLOT;
	high.gpa = LOW;
	assert_int_equal(machine_set_region(&rig->machine, 1u << 16 | MACHINE_GUEST_SLOT, 0, 0,
					    GUEST_SLOT_BYTES, rig->machine.guest_memory),
			 0);
	if (guest_enter_second_space(rig->vcpus[1].machine->fd) < 0)
		rig_skip("this kernel does not let a vCPU enter the second address space");
}

typedef void beginning(const struct way *way);

static void set_both(void)
{
	consumers_set(rig, low, 0);
	consumers_set(rig, &high, 0);
}

static void write_by(const struct rig_slot *slot, uint64_t first, uint64_t pages)
{
	const struct rig_range range = { .slot = slot, .first_page = first, .pages = pages };

	rig_write(rig, slot == &high, &range, ++value);
}

/* A pass that hands out exactly this range. */
static void expect(struct checker *consumer, const struct rig_slot *slot, uint64_t first,
		   uint64_t pages)
{
	const struct rig_range range = { .slot = slot, .first_page = first, .pages = pages };

	consumer_expect(consumer, &range);
}

/* Both vCPUs write the memory, each through its slot, in a part that changes with the turn. */
static void run_both(unsigned int turn)
{
	struct rig_range range = { .slot = low, .pages = PAGES / 4, .shuffled = turn % 2 };

	rig_stop(rig);
	range.first_page = turn % 4 * range.pages;
	rig_count(rig, 0, &range);
	range.slot = &high;
	rig_count(rig, 1, &range);
	rig_wait_rounds(rig, 0, 1);
	rig_wait_rounds(rig, 1, 1);
}

static void join_and_read(void)
{
	rig_join(rig, 0);
	rig_pass(rig, 0);
	rig_pass(rig, 0);
}

static void stores_are_found_once_at_home(beginning *begins, void **state)
{
	begins(*state);
	set_both();
	rig_join(rig, 0);
	assert_int_equal(rig_harvest(rig, 0), 2 * PAGES * rig->page_bytes);
	rig_pass(rig, 0);
	for (unsigned int turn = 0; turn < TURNS; turn++) {
		uint64_t first = 31 * turn;

		write_by(&high, first, 4);
		expect(&rig->checker, low, first, 4);
		write_by(&high, first, 4);
		write_by(low, first + 2, 4);
		expect(&rig->checker, low, first, 6);
		expect(&rig->checker, low, first, 0);
	}
	rig_finish(rig);
}

static void running_vcpus_write_through_both(beginning *begins, void **state)
{
	struct checker *second;

	begins(*state);
	set_both();
	second = consumer_of_all(rig);
	consumer_watch(second, &high);
	rig_join(rig, 0);
	for (unsigned int turn = 0; turn < TURNS; turn++) {
		run_both(turn);
		if (turn == 2)
			assert_int_equal(checker_join(second, 0), 0);
		rig_pass(rig, 0);
		rig_wait_rounds(rig, 1, 1);
		if (turn > 2)
			consumer_pass(second, 2);
	}
	rig_finish(rig);
	consumer_finish(second);
}

/* With takes: the older slot has the bits of both. */
static void takes_find_the_bits_at_home(beginning *begins, void **state)
{
	begins(*state);
	set_both();
	rig_join(rig, 0);
	for (unsigned int turn = 0; turn < TURNS; turn++) {
		const uint32_t flags = DL_TAKE_HARVEST | (turn % 2 ? DL_TAKE_NO_CLEAR : 0);
		uint64_t pages = 0;

		write_by(&high, 17 * turn, 3);
		/* A take of the home looks into the alias's bitmap as well. */
		if (turn % 3 == 0)
			assert_int_equal(checker_take(&rig->checker, high.slot, flags, &pages), 0);
		assert_int_equal(pages, 0);
		assert_int_equal(checker_take(&rig->checker, low->slot, flags, &pages), 0);
		assert_int_equal(pages, turn ? 3 : PAGES);
		assert_int_equal(checker_take(&rig->checker, other->slot, DL_TAKE_HARVEST, &pages),
				 0);
		checker_flush(&rig->checker);
	}
	run_both(0);
	rig_stop(rig);
	rig_finish(rig);
}

/* The older is removed, with words and without: its alias is the home, and wholly pending. */
static void the_alias_becomes_home(beginning *begins, void **state)
{
	begins(*state);
	set_both();
	join_and_read();
	for (unsigned int way = 0; way < 8; way++) {
		const uint32_t flags = way & 1 ? DL_REMOVE_PAUSED : 0;

		write_by(low, 3, 5);
		write_by(&high, 90, 5);
		if (way & 4)
			assert_int_equal(dl_harvest(rig->checker.cursor, 0, NULL), 0);
		if (way & 2)
			consumers_remove(rig, low, flags);
		else
			assert_int_equal(checker_slot_drop(&rig->checker, LOW_SLOT, flags), 0);
		if (way & 4)
			assert_int_equal(checker_finish_pass(&rig->checker, 1), 0);
		write_by(&high, 150, 5);
		expect(&rig->checker, &high, 0, PAGES);
		write_by(&high, 7, 2);
		expect(&rig->checker, &high, 7, 2);
		/* The older one returns as the younger, and both begin again. */
		consumers_set(rig, low, 0);
		write_by(low, 9, 2);
		expect(&rig->checker, &high, 0, PAGES);
		write_by(low, 9, 2);
		expect(&rig->checker, &high, 9, 2);
		consumers_remove(rig, &high, flags);
		expect(&rig->checker, low, 0, PAGES);
		consumers_set(rig, &high, 0);
		rig_pass(rig, 0);
		rig_pass(rig, 0);
	}
	rig_finish(rig);
}

/* While the other vCPU writes through the alias. */
static void the_older_goes_beneath_a_running_vcpu(beginning *begins, void **state)
{
	begins(*state);
	set_both();
	join_and_read();
	for (unsigned int turn = 0; turn < TURNS; turn++) {
		struct rig_range range = { .slot = &high, .pages = PAGES / 4 };

		rig_stop(rig);
		write_by(low, 3 * turn, 50);
		range.first_page = turn % 4 * range.pages;
		rig_count(rig, 1, &range);
		rig_wait_rounds(rig, 1, 1);
		if (turn % 2)
			assert_int_equal(dl_harvest(rig->checker.cursor, 0, NULL), 0);
		if (turn & 2)
			consumers_remove(rig, low, 0);
		else
			assert_int_equal(checker_slot_drop(&rig->checker, LOW_SLOT, 0), 0);
		rig_wait_rounds(rig, 1, 1);
		if (turn % 2)
			assert_int_equal(checker_finish_pass(&rig->checker, 2), 0);
		rig_pass(rig, 0);
		consumers_set(rig, low, 0);
		rig_wait_rounds(rig, 1, 1);
		rig_pass(rig, 0);
	}
	rig_finish(rig);
}

/* The alias is removed: what was written through it is still the guest's memory. */
static void an_alias_leaves_its_stores_at_home(beginning *begins, void **state)
{
	begins(*state);
	set_both();
	join_and_read();
	for (unsigned int way = 0; way < 12; way++) {
		const uint32_t flags = way % 2 ? DL_REMOVE_PAUSED : 0;

		write_by(&high, 5, 3);
		if (way / 4 == 1)
			(void)rig_harvest(rig, 0);
		if (way / 4 == 2)
			assert_int_equal(dl_harvest(rig->checker.cursor, 0, NULL), 0);
		write_by(&high, 64, 3);
		if (way & 2)
			consumers_remove(rig, &high, flags);
		else
			assert_int_equal(checker_slot_drop(&rig->checker, high.slot, flags), 0);
		if (way / 4 == 2)
			assert_int_equal(checker_finish_pass(&rig->checker, 1), 0);
		rig_pass(rig, 0);
		assert_int_equal(checker_differing_pages(&rig->checker), 0);
		assert_int_equal(checker_differing_by_gpa(&rig->checker), 0);
		consumers_set(rig, &high, 0);
		rig_pass(rig, 0);
		rig_pass(rig, 0);
	}
	rig_finish(rig);
}

/* With the vCPUs stopped, nothing but these stores. */
static void a_paused_removal_leaves_exactly_its_stores(beginning *begins, void **state)
{
	begins(*state);
	set_both();
	join_and_read();
	for (unsigned int turn = 0; turn < 4; turn++) {
		write_by(&high, 60, 9);
		if (turn % 2)
			(void)rig_harvest(rig, 0);
		assert_int_equal(checker_slot_drop(&rig->checker, high.slot, DL_REMOVE_PAUSED), 0);
		expect(&rig->checker, low, 60, 9);
		write_by(low, 1, 1);
		expect(&rig->checker, low, 1, 1);
		consumers_set(rig, &high, 0);
		rig_pass(rig, 0);
	}
	rig_finish(rig);
}

/* The alias maps the second half and some of the first. */
static void slots_may_share_a_part(beginning *begins, void **state)
{
	begins(*state);
	high.memory += PAGES / 2 * rig->page_bytes;
	high.bytes /= 2;
	set_both();
	join_and_read();
	write_by(&high, 0, 3);
	expect(&rig->checker, low, PAGES / 2, 3);
	write_by(&high, 30, 7);
	expect(&rig->checker, low, PAGES / 2 + 30, 7);
	write_by(low, PAGES - 1, 1);
	expect(&rig->checker, low, PAGES - 1, 1);
	write_by(&high, 1, 1);
	assert_int_equal(checker_slot_drop(&rig->checker, LOW_SLOT, 0), 0);
	expect(&rig->checker, &high, 0, PAGES / 2);
	consumers_set(rig, low, 0);
	rig_pass(rig, 0);
	/* Half of the new slot is at home in it, the rest in the older one. */
	write_by(low, PAGES / 2 - 2, 2);
	expect(&rig->checker, low, PAGES / 2 - 2, 2);
	write_by(low, PAGES / 2, 2);
	expect(&rig->checker, &high, 0, 2);
	rig_finish(rig);
}

/* An alias moves: the receiver by gpa has the memory at its home, which stays. */
static void an_alias_moves(beginning *begins, void **state)
{
	begins(*state);
	set_both();
	rig_join(rig, 0);
	for (unsigned int turn = 0; turn < TURNS; turn++) {
		struct rig_slot *moved = turn % 2 ? low : &high;

		run_both(turn);
		rig_pass(rig, 0);
		rig_stop(rig);
		moved->gpa += 2ull * GUEST_DATA_GPA;
		consumers_set(rig, moved, 0);
		write_by(moved, 11, 1);
		if (turn % 3)
			rig_pass(rig, 0);
	}
	rig_finish(rig);
}

/* A display of the younger slot has its home there, beside a migration of both. */
static void a_display_may_be_an_alias(beginning *begins, void **state)
{
	struct checker *screen;

	begins(*state);
	set_both();
	join_and_read();
	screen = consumer_new(rig);
	consumer_watch(screen, &high);
	assert_int_equal(checker_join_one(screen, DL_CURSOR_ONE_SLOT, high.slot), 0);
	expect(screen, &high, 0, PAGES);
	for (unsigned int turn = 0; turn < TURNS; turn++) {
		write_by(&high, 20 * turn, 6);
		if (turn % 2)
			expect(&rig->checker, low, 20 * turn, 6);
		expect(screen, &high, 20 * turn, 6);
		if (!(turn % 2))
			expect(&rig->checker, low, 20 * turn, 6);
	}
	rig_finish(rig);
	consumer_finish(screen);
}

/* Set and cleared, on either slot: the stores through who is not wanted any more stay wanted. */
static void an_unwanted_alias_leaves_its_stores_at_home(beginning *begins, void **state)
{
	struct checker *wanted;

	begins(*state);
	consumers_set(rig, low, DL_SLOT_WANTED);
	consumers_set(rig, &high, DL_SLOT_WANTED);
	wanted = consumer_new(rig);
	consumer_watch(wanted, low);
	consumer_watch(wanted, &high);
	assert_int_equal(checker_join(wanted, DL_CURSOR_WANTED), 0);
	for (unsigned int turn = 0; turn < 4; turn++) {
		struct rig_slot *unwanted = turn % 2 ? low : &high;

		rig_stop(rig);
		consumer_pass(wanted, 1);
		consumer_pass(wanted, 1);
		write_by(unwanted, 33, 5);
		if (turn & 2)
			(void)consumer_measure(wanted);
		consumers_set(rig, unwanted, 0);
		checker_unmap(wanted, unwanted->slot);
		consumer_finish(wanted);
		/* The receiver too goes by the slots' age. */
		checker_unmap(wanted, high.slot);
		consumers_set(rig, unwanted, DL_SLOT_WANTED);
		checker_unmap(wanted, high.slot);
		consumer_watch(wanted, low);
		consumer_watch(wanted, &high);
		run_both(turn);
	}
	rig_stop(rig);
	consumer_finish(wanted);
}

/* The last declaration is there for the semicolon after the macro. */
#define alias_test(name)                               \
	static void name##_in_one_space(void **state)  \
	{                                              \
		name(begin, state);                    \
	}                                              \
	static void name##_in_two_spaces(void **state) \
	{                                              \
		name(begin_in_two_spaces, state);      \
	}                                              \
	static void name##_in_one_space(void **state)

alias_test(stores_are_found_once_at_home);
alias_test(running_vcpus_write_through_both);
alias_test(takes_find_the_bits_at_home);
alias_test(the_alias_becomes_home);
alias_test(the_older_goes_beneath_a_running_vcpu);
alias_test(an_alias_leaves_its_stores_at_home);
alias_test(a_paused_removal_leaves_exactly_its_stores);
alias_test(slots_may_share_a_part);
alias_test(an_alias_moves);
alias_test(a_display_may_be_an_alias);
alias_test(an_unwanted_alias_leaves_its_stores_at_home);

#define both_tests(name) \
	way_test(name##_in_one_space), way_test_of(way_is_user, name##_in_two_spaces)

int main(void)
{
	const struct way_test tests[] = {
		both_tests(stores_are_found_once_at_home),
		both_tests(running_vcpus_write_through_both),
		both_tests(takes_find_the_bits_at_home),
		both_tests(the_alias_becomes_home),
		both_tests(the_older_goes_beneath_a_running_vcpu),
		both_tests(an_alias_leaves_its_stores_at_home),
		both_tests(a_paused_removal_leaves_exactly_its_stores),
		both_tests(slots_may_share_a_part),
		both_tests(an_alias_moves),
		both_tests(a_display_may_be_an_alias),
		both_tests(an_unwanted_alias_leaves_its_stores_at_home),
	};

	return ways_run_tests("aliases", tests);
}
