/* SPDX-License-Identifier: MIT */
/* Memory that several slots map, in one address space and in two: rule by rule. */
#include "every_mode.h"

#include <errno.h>
#include <string.h>

enum { PAGES = 100, LOW = 8192, HIGH = 16384, BOTH = 2, WRITES = 120 };

static struct migration migration;
static struct guest *guest;
static struct guest_vcpu *vcpu;
static struct guest_block *block;
static struct dl_slot low, high; /* over the same block; the low one is older */

/* The second slot is in the same address space, or in the other one at the same address. */
static void begin(size_t mode, bool two_spaces)
{
	const struct guest_config config = config_of_mode(mode);

	migration_open(&migration, &config, 2);
	guest = &migration.guest;
	vcpu = &guest->vcpus[0];
	block = guest_memory(guest, PAGES);
	migration_add_blocks(&migration);
	low = guest_slot(guest, 20, LOW, block, 0, PAGES);
	high = low;
	high.slot = two_spaces ? 1 << 16 | 20 : 21;
	if (!two_spaces)
		high.gpa = (uint64_t)HIGH * guest->page_bytes;
}

static void end(void)
{
	migration_finish(&migration);
	migration_close(&migration);
}

static void write_by(const struct dl_slot *slot, uint64_t page)
{
	assert_int_equal(
		guest_write(guest, vcpu, slot->slot >> 16, slot->gpa / guest->page_bytes + page),
		0);
}

#define FOR_EACH_WAY(i, two) \
	FOR_EACH_MODE(i)     \
	for (int two = 0; two < 2; two++)

/* Whatever the order of slots and cursor. */
static void shared_pages_are_pending_once(void **state)
{
	FOR_EACH_WAY(i, two)
	{
		uint64_t others, pending;

		begin(i, two);
		migration_start(&migration, 0);
		assert_int_equal(checker_harvest(&migration.checker, 0, &others), 0);
		migration_set(&migration, low);
		migration_set(&migration, high);
		assert_int_equal(checker_harvest(&migration.checker, 0, &pending), 0);
		assert_int_equal(pending - others, PAGES * guest->page_bytes);
		checker_leave(&migration.checker);
		migration_start(&migration, 0);
		assert_int_equal(checker_harvest(&migration.checker, 0, &pending), 0);
		assert_int_equal(pending - others, PAGES * guest->page_bytes);
		end();
	}
}

/* A store through either of them is found in the older one, once. */
static void writes_are_found_at_home(void **state)
{
	uint64_t pages[BOTH * PAGES];

	FOR_EACH_WAY(i, two)
	{
		begin(i, two);
		migration_set(&migration, low);
		migration_set(&migration, high);
		migration_start(&migration, 0);
		migration_pass(&migration);
		migration_pass(&migration);
		write_by(&high, 5);
		write_by(&low, 5);
		write_by(&high, 70);
		write_by(&low, 99);
		assert_int_equal(
			guest_pass_of(guest, migration.checker.cursor, 0, pages, BOTH * PAGES), 3);
		assert_int_equal(pages[0], LOW + 5);
		assert_int_equal(pages[1], LOW + 70);
		assert_int_equal(pages[2], LOW + 99);
		migration_close(&migration);
	}
}

static void slots_may_share_a_part(void **state)
{
	FOR_EACH_WAY(i, two)
	{
		begin(i, two);
		low.bytes = 70 * (uint64_t)guest->page_bytes;
		high.hva += 30 * guest->page_bytes;
		high.bytes = 70 * (uint64_t)guest->page_bytes;
		migration_set(&migration, low);
		migration_set(&migration, high);
		migration_add_range(&migration, 0, LOW, 70);
		migration_add_range(&migration, two, two ? LOW : HIGH, 70);
		migration_start(&migration, 0);
		migration_run(&migration);
		migration_passes(&migration, 5, WRITES);
		end();
	}
}

static void running_vcpus_write_through_both(void **state)
{
	FOR_EACH_WAY(i, two)
	{
		begin(i, two);
		migration.has_harvester = i % 2;
		migration_add_range(&migration, 0, LOW, PAGES);
		migration_add_range(&migration, two, two ? LOW : HIGH, PAGES);
		migration_set(&migration, low);
		migration_start(&migration, 0);
		migration_run(&migration);
		migration_passes(&migration, 2, WRITES);
		migration_set(&migration, high);
		migration_passes(&migration, 4, WRITES);
		end();
	}
}

/* The younger slot leaves with stores that nobody has read: the memory is still the older's. */
static void the_younger_leaves_its_writes_at_home(void **state)
{
	FOR_EACH_WAY(i, two)
	for (int way = 0; way < 6; way++) {
		const uint32_t flags = way % 2 ? DL_REMOVE_PAUSED : 0;

		begin(i, two);
		migration_set(&migration, low);
		migration_set(&migration, high);
		migration_start(&migration, 0);
		migration_pass(&migration);
		migration_pass(&migration);
		if (way > 3)
			assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
		write_by(&high, 5);
		write_by(&high, 64);
		guest_stop(guest);
		if (way == 2 || way == 3)
			assert_int_equal(checker_harvest(&migration.checker, 0, NULL), 0);
		assert_int_equal(checker_slot_drop(&migration.checker, high.slot, flags), 0);
		if (way > 3)
			assert_int_equal(checker_finish_pass(&migration.checker, 1), 0);
		end();
	}
}

/* With the vCPUs stopped, nothing but those stores. */
static void the_stores_of_a_paused_removal_are_exact(void **state)
{
	FOR_EACH_WAY(i, two)
	{
		uint64_t pending;

		begin(i, two);
		high.hva += 10 * guest->page_bytes;
		high.bytes -= 10 * guest->page_bytes;
		migration_set(&migration, low);
		migration_set(&migration, high);
		migration_start(&migration, 0);
		migration_pass(&migration);
		migration_pass(&migration);
		write_by(&high, 5);
		write_by(&high, 64);
		guest_stop(guest);
		assert_int_equal(checker_slot_drop(&migration.checker, high.slot, DL_REMOVE_PAUSED),
				 0);
		assert_int_equal(checker_harvest(&migration.checker, 0, &pending), 0);
		assert_int_equal(pending, 2 * guest->page_bytes);
		end();
	}
}

/* Also for a consumer of wanted slots that does not want the younger one any more. */
static void an_unwanted_younger_leaves_its_writes_at_home(void **state)
{
	FOR_EACH_WAY(i, two)
	for (int harvested = 0; harvested < 2; harvested++) {
		begin(i, two);
		low.flags = high.flags = DL_SLOT_WANTED;
		migration_set(&migration, low);
		migration_set(&migration, high);
		migration_start(&migration, DL_CURSOR_WANTED);
		migration_pass(&migration);
		migration_pass(&migration);
		write_by(&high, 33);
		guest_stop(guest);
		if (harvested)
			assert_int_equal(checker_harvest(&migration.checker, 0, NULL), 0);
		high.flags = 0;
		migration_set(&migration, high);
		checker_unmap(&migration.checker, high.slot);
		assert_int_equal(checker_last_pass(&migration.checker, 1), 0);
		assert_memory_equal(block->memory,
				    migration.checker.blocks[block - guest->blocks].copy,
				    PAGES * guest->page_bytes);
		migration_close(&migration);
	}
}

/* When the home goes, the next is wholly pending: nothing was ever sent to its address. */
static void the_next_becomes_home(void **state)
{
	FOR_EACH_WAY(i, two)
	for (int in_pass = 0; in_pass < 2; in_pass++) {
		uint64_t pending;

		begin(i, two);
		migration_set(&migration, low);
		migration_set(&migration, high);
		migration_start(&migration, 0);
		migration_pass(&migration);
		migration_pass(&migration);
		if (in_pass)
			assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
		write_by(&low, 3);
		write_by(&high, 4);
		assert_int_equal(checker_slot_drop(&migration.checker, low.slot, 0), 0);
		if (in_pass)
			assert_int_equal(checker_finish_pass(&migration.checker, 1), 0);
		assert_int_equal(checker_harvest(&migration.checker, 0, &pending), 0);
		assert_true(pending >= PAGES * guest->page_bytes);
		end();
	}
}

/* With takes, as a VMM with bitmaps of its own: the older slot has the bits. */
static void takes_find_the_bits_at_home(void **state)
{
	FOR_EACH_WAY(i, two)
	for (int harvest = 0; harvest < 2; harvest++) {
		const uint32_t flags =
			harvest ? DL_TAKE_HARVEST : DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR;
		uint64_t pages = 0;

		begin(i, two);
		migration_set(&migration, low);
		migration_set(&migration, high);
		migration_start(&migration, 0);
		assert_int_equal(checker_take(&migration.checker, high.slot, flags, &pages), 0);
		assert_int_equal(pages, 0);
		assert_int_equal(checker_take(&migration.checker, low.slot, flags, &pages), 0);
		assert_int_equal(pages, PAGES);
		checker_flush(&migration.checker);
		write_by(&high, 42);
		pages = 0;
		/* It reads the bitmap of its own slot; the bit goes home. */
		assert_int_equal(checker_take(&migration.checker, high.slot, flags, &pages), 0);
		assert_int_equal(pages, 0);
		assert_int_equal(checker_take(&migration.checker, low.slot, flags, &pages), 0);
		assert_int_equal(pages, 1);
		end();
	}
}

/* A consumer of the younger one only has its home there. */
static void a_display_may_be_an_alias(void **state)
{
	uint64_t pages[PAGES];

	FOR_EACH_WAY(i, two)
	{
		struct dl_cursor *display;

		begin(i, two);
		migration_set(&migration, low);
		migration_set(&migration, high);
		migration_start(&migration, 0);
		assert_int_equal(guest_new_cursor(guest, DL_CURSOR_ONE_SLOT, high.slot, &display),
				 0);
		assert_int_equal(guest_pass_of(guest, display, 0, pages, PAGES), PAGES);
		write_by(&high, 17);
		assert_int_equal(guest_pass_of(guest, display, 0, pages, PAGES), 1);
		assert_int_equal(pages[0], high.gpa / guest->page_bytes + 17);
		dl_cursor_free(display);
		end();
	}
}

/* Slots over one block come and go while vCPUs write through them. */
static void random_aliases(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct random random = { .state = 77 + i };
		bool present[4] = { false };

		begin(i, false);
		migration.has_harvester = i % 2;
		for (uint32_t n = 0; n < 4; n++)
			migration_add_range(&migration, n / 2, LOW + n % 2 * HIGH, PAGES);
		migration_start(&migration, 0);
		migration_run(&migration);
		for (int turn = 0; turn < 60; turn++) {
			uint32_t n = (uint32_t)random_below(&random, 4);
			uint64_t first = random_below(&random, 2) * 37;
			uint32_t number = n / 2 << 16 | (30 + n % 2);
			bool in_pass = random_below(&random, 2);

			migration_wait(&migration, 15);
			if (in_pass)
				assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
			if (present[n])
				assert_int_equal(checker_slot_remove(&migration.checker, number, 0),
						 0);
			else
				migration_set(&migration,
					      guest_slot(guest, number, LOW + n % 2 * HIGH, block,
							 first, PAGES - first));
			present[n] = !present[n];
			if (in_pass)
				assert_int_equal(checker_finish_pass(&migration.checker, 1), 0);
		}
		end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		migration_test(shared_pages_are_pending_once),
		migration_test(writes_are_found_at_home),
		migration_test(slots_may_share_a_part),
		migration_test(running_vcpus_write_through_both),
		migration_test(the_younger_leaves_its_writes_at_home),
		migration_test(the_stores_of_a_paused_removal_are_exact),
		migration_test(an_unwanted_younger_leaves_its_writes_at_home),
		migration_test(the_next_becomes_home),
		migration_test(takes_find_the_bits_at_home),
		migration_test(a_display_may_be_an_alias),
		migration_test(random_aliases),
	};

	return RUN_TESTS("migrations with memory in several slots", tests);
}
