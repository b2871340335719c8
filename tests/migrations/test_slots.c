/* SPDX-License-Identifier: MIT */
/* Slots are added, moved, removed and re-created while vCPUs write to them. */
#include "cmocka_all.h"
#include "migration.h"

#include <errno.h>
#include <string.h>

enum { PAGES = 64, BASE = 8192, WRITES = 120 };

static struct migration migration;
static struct guest *guest;

static void begin(uint32_t has, uint32_t mode, uint32_t start_flags)
{
	const struct guest_config config = { .model = { .has = has },
					     .options = { .mode = mode, .ring_entries = 256 } };

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

/* Every test runs in every mode. */
static const struct {
	uint32_t has, mode;
} modes[] = {
	{ MODEL_HAS_RING_ACQ_REL, DL_MODE_RING },
	{ MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP, DL_MODE_RING },
	{ MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET, DL_MODE_BITMAP },
	{ MODEL_HAS_MANUAL_PROTECT, DL_MODE_BITMAP },
	{ MODEL_HAS_NOTHING, DL_MODE_BITMAP },
};

#define FOR_EACH_MODE(i) for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)

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
	assert_int_equal(dl_slot_set(guest->log, &slot), 0);
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
		begin(modes[i].has, modes[i].mode, 0);
		pass_and_wait();
		set(slot_over(new_block(), 20, BASE));
		pass_and_wait();
		pass_and_wait();
		end();
	}
}

/* The destination already has the slot's contents; only later writes are pending. */
static void a_clean_slot_is_added(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_slot slot;

		begin(modes[i].has, modes[i].mode, 0);
		pass_and_wait();
		slot = slot_over(new_block(), 20, BASE);
		slot.flags = DL_SLOT_CLEAN;
		checker_equalize(&migration.checker);
		/* Equalizing other blocks is harmless: writes to them stay pending. */
		set(slot);
		pass_and_wait();
		end();
	}
}

static void a_removed_slot_is_sent_once_more(void **state)
{
	FOR_EACH_MODE(i)
	{
		begin(modes[i].has, modes[i].mode, 0);
		set(slot_over(new_block(), 20, BASE));
		pass_and_wait();
		migration_wait(&migration, WRITES);
		assert_int_equal(dl_slot_remove(guest->log, 20, 0), 0);
		pass_and_wait();
		end();
	}
}

static void a_slot_moves(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_slot slot;

		begin(modes[i].has, modes[i].mode, 0);
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
		struct dl_slot slot;

		begin(modes[i].has, modes[i].mode, 0);
		block = new_block();
		set(slot_over(block, 20, BASE));
		for (uint32_t turn = 1; turn <= 4; turn++) {
			migration_wait(&migration, WRITES);
			assert_int_equal(dl_slot_remove(guest->log, 20, 0), 0);
			/* A smaller size each time; the guest cannot write the pages left out. */
			slot = guest_slot(guest, 20, BASE, block, 0, PAGES / turn);
			set(slot);
			if (turn % 2)
				pass_and_wait();
		}
		end();
	}
}

/* An id is reused for another slot before the last entries of the old one are read. */
static void an_id_is_reused_at_another_address(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct guest_block *blocks[2];

		begin(modes[i].has, modes[i].mode, 0);
		migration_add_range(&migration, 0, 2 * BASE, PAGES);
		blocks[0] = new_block();
		blocks[1] = new_block();
		set(slot_over(blocks[0], 20, BASE));
		for (int turn = 1; turn < 6; turn++) {
			migration_wait(&migration, WRITES);
			assert_int_equal(dl_slot_remove(guest->log, 20, 0), 0);
			set(slot_over(blocks[turn % 2], 20, turn % 2 ? 2 * BASE : BASE));
			if (turn % 2)
				pass_and_wait();
		}
		end();
	}
}

static void a_discarded_slot_is_not_sent(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct guest_block *block;
		unsigned int number;

		begin(modes[i].has, modes[i].mode, 0);
		block = new_block();
		number = (unsigned int)(block - guest->blocks);
		set(slot_over(block, 20, BASE));
		pass_and_wait();
		assert_int_equal(dl_slot_remove(guest->log, 20, DL_SLOT_DISCARD), 0);
		pass_and_wait();
		migration_stop(&migration);
		guest_stop(guest);
		assert_int_equal(checker_pass(&migration.checker, DL_HARVEST_FINAL, 1), 0);
		migration.checker.blocks[number].ignored = true;
		assert_int_equal(checker_differing_pages(&migration.checker), 0);
		migration_close(&migration);
	}
}

/* Two address spaces map the same memory, as on x86 with SMM, and both are written. */
static void two_address_spaces_over_the_same_memory(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_slot normal, smm;

		begin(modes[i].has, modes[i].mode, 0);
		migration_stop(&migration);
		migration_add_range(&migration, 1, BASE, PAGES);
		normal = slot_over(new_block(), 20, BASE);
		smm = normal;
		smm.slot = 1 << 16 | 20;
		set(normal);
		set(smm);
		assert_int_equal(dl_log_stop(guest->log), 0);
		assert_int_equal(dl_log_start(guest->log, 0), 0);
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
		bool is_there = false;

		begin(modes[i].has, modes[i].mode, i % 2 ? DL_START_CLEAN : 0);
		block = new_block();
		if (i % 2)
			checker_equalize(&migration.checker);
		for (int turn = 0; turn < 25; turn++) {
			struct dl_slot slot = slot_over(block, 20, BASE);

			migration_wait(&migration, 20);
			if (is_there && random_below(&random, 2)) {
				assert_int_equal(dl_slot_remove(guest->log, 20, 0), 0);
				is_there = false;
			} else {
				slot.gpa += random_below(&random, 4) * guest->page_bytes;
				set(slot);
				is_there = true;
			}
			if (!random_below(&random, 3))
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
		migration_test(a_removed_slot_is_sent_once_more),
		migration_test(a_slot_moves),
		migration_test(a_slot_is_recreated_over_the_same_memory),
		migration_test(an_id_is_reused_at_another_address),
		migration_test(a_discarded_slot_is_not_sent),
		migration_test(two_address_spaces_over_the_same_memory),
		migration_test(random_adds_moves_and_removals),
	};

	return RUN_TESTS("migrations with slots that change", tests);
}
