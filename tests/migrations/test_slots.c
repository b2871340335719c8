/* SPDX-License-Identifier: MIT */
/* Slots are added, moved, removed and re-created while vCPUs write to them. */
#include "every_mode.h"

#include <errno.h>
#include <string.h>

enum { PAGES = 64, BASE = 8192, WRITES = 120 };

static struct migration migration;
static struct guest *guest;

static void begin(size_t mode, uint32_t start_flags)
{
	const struct guest_config config = config_of_mode(mode);

	migration_open(&migration, &config, 2);
	guest = &migration.guest;
	migration_add_range(&migration, 0, BASE, PAGES);
	migration_start(&migration, start_flags);
	migration_run(&migration);
}

static void end(void)
{
	migration_finish(&migration);
	migration_close(&migration);
}

/* Allocates memory that the checker compares, without a slot. */
static struct guest_block *new_block(void)
{
	struct guest_block *block = guest_memory(guest, PAGES);

	migration_add_blocks(&migration);
	return block;
}

static struct dl_slot slot_over(const struct guest_block *block, uint32_t number, uint64_t gpa_page)
{
	return guest_slot(guest, number, gpa_page, block, 0, PAGES);
}

static void set(struct dl_slot slot)
{
	migration_set(&migration, slot);
}

/* Keeps the pages that are not sent yet. */
static void remove_slot(uint32_t number, uint32_t flags)
{
	assert_int_equal(checker_slot_remove(&migration.checker, number, flags), 0);
}

static void pass_and_wait(void)
{
	migration_wait(&migration, WRITES);
	migration_pass(&migration);
}

static void a_slot_is_added(void **state)
{
	FOR_EACH_MODE(i)
	{
		begin(i, 0);
		pass_and_wait();
		set(slot_over(new_block(), 20, BASE));
		pass_and_wait();
		pass_and_wait();
		end();
	}
}

/* Both receivers already have the slot's contents; only later writes are pending. */
static void a_clean_slot_is_added(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_slot slot;

		begin(i, 0);
		pass_and_wait();
		slot = slot_over(new_block(), 20, BASE);
		slot.flags = DL_SLOT_CLEAN;
		checker_equalize_slot(&migration.checker, &slot);
		set(slot);
		pass_and_wait();
		end();
	}
}

/* The receiver by blocks gets them at the end; no slot has the memory then. */
static void the_pages_of_a_removed_slot_are_in_its_words(void **state)
{
	FOR_EACH_MODE(i)
	{
		begin(i, 0);
		set(slot_over(new_block(), 20, BASE));
		pass_and_wait();
		migration_wait(&migration, WRITES);
		remove_slot(20, 0);
		pass_and_wait();
		end();
	}
}

/* With the vCPUs stopped the words are only what was written since the last pass. */
static void words_of_a_paused_removal_are_exact(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct checker_block *block;

		begin(i, 0);
		set(slot_over(new_block(), 20, BASE));
		block = &migration.checker.blocks[migration.checker.block_count - 1];
		pass_and_wait();
		migration_stop(&migration);
		migration_pass(&migration);
		guest_stop(guest);
		for (uint64_t page = 3; page < 60; page += 7)
			assert_int_equal(guest_write(guest, &guest->vcpus[0], 0, BASE + page), 0);
		guest_stop(guest);
		remove_slot(20, DL_REMOVE_PAUSED);
		assert_int_equal(block->kept[0], UINT64_C(0x0810204081020408));
		end();
	}
}

static void a_slot_moves(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_slot slot;

		begin(i, 0);
		migration_add_range(&migration, 0, 2 * BASE, PAGES);
		slot = slot_over(new_block(), 20, BASE);
		for (int turn = 0; turn < 6; turn++) {
			slot.flags = turn % 3 ? DL_SLOT_CLEAN : 0;
			slot.gpa = (turn % 2 ? 2 * BASE : BASE) * guest->page_bytes;
			if (!turn)
				slot.flags = 0;
			set(slot);
			pass_and_wait();
		}
		end();
	}
}

/* KVM can change neither a slot's size nor its hva, so VMMs delete and re-create it. */
static void a_slot_is_recreated_over_the_same_memory(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct guest_block *block;

		begin(i, 0);
		block = new_block();
		set(slot_over(block, 20, BASE));
		for (uint32_t turn = 1; turn <= 4; turn++) {
			migration_wait(&migration, WRITES);
			remove_slot(20, 0);
			/* A smaller size each time; the guest cannot write the pages left out. */
			set(guest_slot(guest, 20, BASE, block, 0, PAGES / turn));
			if (turn % 2)
				pass_and_wait();
		}
		end();
	}
}

/* The toggle of a flash or a PAM region: only what is not sent yet is pending afterwards. */
static void a_slot_comes_back_clean_with_its_words(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_slot slot;

		begin(i, 0);
		slot = slot_over(new_block(), 20, BASE);
		set(slot);
		slot.flags = DL_SLOT_CLEAN | DL_SLOT_PAUSED;
		for (int turn = 0; turn < 8; turn++) {
			pass_and_wait();
			migration_wait(&migration, WRITES);
			/* Sometimes running vCPUs, sometimes in the middle of a pass. */
			if (turn % 2)
				migration_stop(&migration);
			if (turn % 4 > 1)
				assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
			remove_slot(20, turn % 2 ? DL_REMOVE_PAUSED : 0);
			if (!(turn % 2))
				slot.flags &= ~(uint32_t)DL_SLOT_PAUSED;
			set(slot);
			slot.flags |= DL_SLOT_PAUSED;
			if (turn % 4 > 1)
				assert_int_equal(checker_finish_pass(&migration.checker, 1), 0);
			if (turn % 2)
				migration_run(&migration);
		}
		end();
	}
}

static void only_unsent_pages_are_pending_after_a_toggle(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_slot slot;
		uint64_t pending;

		begin(i, 0);
		migration_stop(&migration);
		slot = slot_over(new_block(), 20, BASE);
		set(slot);
		migration_pass(&migration);
		migration_pass(&migration);
		assert_int_equal(guest_write(guest, &guest->vcpus[0], 0, BASE + 9), 0);
		guest_stop(guest);
		remove_slot(20, DL_REMOVE_PAUSED);
		slot.flags = DL_SLOT_CLEAN | DL_SLOT_PAUSED;
		set(slot);
		assert_int_equal(checker_harvest(&migration.checker, 0, &pending), 0);
		assert_int_equal(pending, guest->page_bytes);
		end();
	}
}

/* An id is reused for another slot before the last entries of the old one are read. */
static void an_id_is_reused_at_another_address(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct guest_block *blocks[2];

		begin(i, 0);
		migration_add_range(&migration, 0, 2 * BASE, PAGES);
		blocks[0] = new_block();
		blocks[1] = new_block();
		set(slot_over(blocks[0], 20, BASE));
		for (int turn = 1; turn < 6; turn++) {
			migration_wait(&migration, WRITES);
			remove_slot(20, 0);
			set(slot_over(blocks[turn % 2], 20, turn % 2 ? 2 * BASE : BASE));
			if (turn % 2)
				pass_and_wait();
		}
		end();
	}
}

static void a_slot_removed_without_words_is_not_sent(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct checker_block *block;
		unsigned long sent;

		begin(i, 0);
		set(slot_over(new_block(), 20, BASE));
		block = &migration.checker.blocks[migration.checker.block_count - 1];
		pass_and_wait();
		migration_wait(&migration, WRITES);
		assert_int_equal(checker_slot_drop(&migration.checker, 20, 0), 0);
		sent = atomic_load(&block->pages_sent);
		pass_and_wait();
		block->ignored = true;
		migration_finish(&migration);
		assert_int_equal(atomic_load(&block->pages_sent), sent);
		migration_close(&migration);
	}
}

/* Two address spaces map the same memory, as on x86 with SMM, and both are written. */
static void two_address_spaces_over_the_same_memory(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_slot normal, smm;

		begin(i, 0);
		migration_stop(&migration);
		migration_add_range(&migration, 1, BASE, PAGES);
		normal = slot_over(new_block(), 20, BASE);
		smm = normal;
		smm.slot = 1 << 16 | 20;
		set(normal);
		set(smm);
		checker_leave(&migration.checker);
		assert_int_equal(checker_join(&migration.checker, 0), 0);
		migration_run(&migration);
		for (int turn = 0; turn < 3; turn++)
			pass_and_wait();
		end();
	}
}

static void random_adds_moves_and_removals(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct random random = { .state = 31 + i };
		struct guest_block *block;
		bool present = false;

		begin(i, i % 2 ? DL_CURSOR_CLEAN : 0);
		block = new_block();
		for (int turn = 0; turn < 40; turn++) {
			bool in_pass = random_below(&random, 2);

			migration_wait(&migration, 20);
			if (in_pass)
				assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
			if (present && random_below(&random, 2)) {
				remove_slot(20, 0);
				present = false;
			} else {
				set(slot_over(block, 20, BASE + random_below(&random, 4)));
				present = true;
			}
			if (in_pass)
				assert_int_equal(checker_finish_pass(&migration.checker, 1), 0);
			else if (!random_below(&random, 3))
				migration_pass(&migration);
		}
		end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		migration_test(a_slot_is_added),
		migration_test(a_clean_slot_is_added),
		migration_test(the_pages_of_a_removed_slot_are_in_its_words),
		migration_test(words_of_a_paused_removal_are_exact),
		migration_test(a_slot_moves),
		migration_test(a_slot_is_recreated_over_the_same_memory),
		migration_test(a_slot_comes_back_clean_with_its_words),
		migration_test(only_unsent_pages_are_pending_after_a_toggle),
		migration_test(an_id_is_reused_at_another_address),
		migration_test(a_slot_removed_without_words_is_not_sent),
		migration_test(two_address_spaces_over_the_same_memory),
		migration_test(random_adds_moves_and_removals),
	};

	return RUN_TESTS("migrations with changing slots", tests);
}
