/* SPDX-License-Identifier: MIT */
/* Migrations of a VMM with bitmaps of its own: it takes slots, and often clears and sends later. */
#include "every_mode.h"

#include <errno.h>
#include <string.h>

enum { PAGES = 150, BASE = 8192, WRITES = 100, SLOT = 20, WORDS = (PAGES + 63) / 64 };

static struct migration migration;
static struct guest *guest;
static struct guest_vcpu *vcpu;
static struct guest_block *block;
static struct checker_block *sent;
static struct dl_slot slot;

static void begin(size_t mode, unsigned int vcpus)
{
	const struct guest_config config = config_of_mode(mode);

	migration_open(&migration, &config, vcpus);
	guest = &migration.guest;
	vcpu = &guest->vcpus[0];
	block = guest_memory(guest, PAGES);
	migration_add_blocks(&migration);
	sent = &migration.checker.blocks[migration.checker.block_count - 1];
	slot = guest_slot(guest, SLOT, BASE, block, 0, PAGES);
	migration_set(&migration, slot);
	migration_add_range(&migration, 0, BASE, PAGES);
}

/* True if a page that was taken without being cleared can be written unseen. */
static bool is_deferred(size_t mode)
{
	return every_mode[mode].mode == DL_MODE_BITMAP &&
	       every_mode[mode].has & MODEL_HAS_MANUAL_PROTECT;
}

static void write_page(uint64_t page)
{
	assert_int_equal(guest_write(guest, vcpu, 0, BASE + page), 0);
}

static void take_all(uint32_t flags, uint64_t *pages)
{
	assert_int_equal(checker_take_all(&migration.checker, flags, pages), 0);
	checker_flush(&migration.checker);
}

/* The last takes, repeated until they say 0. */
static void finish_by_takes(uint32_t flags)
{
	uint64_t pages;
	int turns = 0;

	migration_stop(&migration);
	assert_int_equal(atomic_load(&migration.harvester_error), 0);
	guest_stop(guest);
	do {
		pages = 0;
		take_all(flags | DL_TAKE_PAUSED | DL_TAKE_HARVEST, &pages);
		assert_true(++turns < 10);
	} while (pages);
	checker_expect_equal(&migration.checker);
	migration_close(&migration);
}

static void migrate_by_takes(uint32_t flags)
{
	FOR_EACH_MODE(i)
	{
		uint64_t pages = 0;

		begin(i, 3);
		migration.has_devices = true;
		migration.has_harvester = i % 2;
		migration.has_kernel_writer = every_mode[i].has != MODEL_HAS_RING_ACQ_REL;
		migration_start(&migration, 0);
		migration_run(&migration);
		for (int turn = 0; turn < 8; turn++) {
			migration_wait(&migration, WRITES);
			/* Sometimes in an open pass of the same cursor. */
			if (turn % 3 == 2)
				assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
			assert_int_equal(checker_take_all(&migration.checker,
							  flags | DL_TAKE_HARVEST, &pages),
					 0);
			if (turn % 3 == 2)
				assert_int_equal(dl_cursor_end(migration.checker.cursor, 0), 0);
			checker_flush(&migration.checker);
		}
		finish_by_takes(flags);
	}
}

static void takes_lose_no_page(void **state)
{
	migrate_by_takes(0);
}

static void deferred_clears_lose_no_page(void **state)
{
	migrate_by_takes(DL_TAKE_NO_CLEAR);
}

static void words_in_kvms_byte_order(void **state)
{
	migrate_by_takes(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? DL_TAKE_LE : 0);
}

static uint64_t take(uint32_t flags, uint64_t *words)
{
	uint64_t bytes;

	memset(words, 0, WORDS * sizeof(*words));
	assert_int_equal(
		dl_cursor_take(migration.checker.cursor, SLOT, flags, words, WORDS, &bytes), 0);
	return bytes / guest->page_bytes;
}

/* Arrives at once: a version of the page that is sent later must not arrive earlier. */
static void send_page(uint64_t page)
{
	const struct dl_extent run = {
		.gpa = slot.gpa + page * guest->page_bytes,
		.hva = slot.hva + page * guest->page_bytes,
		.bytes = guest->page_bytes,
		.slot = SLOT,
	};

	assert_true(checker_copy_run(&migration.checker, &run));
	checker_flush(&migration.checker);
}

/* The caller's part of a deferred clear, done right and in two wrong ways. */
enum way { RIGHT, READ_TOO_EARLY, NEVER_CLEARED };

/* A page is written before and after it is sent. Returns how many pages differ in the end. */
static uint64_t send_one(size_t mode, enum way way, uint64_t *left)
{
	uint64_t words[WORDS], differing;

	begin(mode, 1);
	migration_start(&migration, 0);
	migration_pass(&migration);
	migration_pass(&migration);
	write_page(66);
	assert_int_equal(take(DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words), 1);
	assert_int_equal(words[1], 1 << 2);
	/* While it waits to be sent it is written again. */
	write_page(66);
	if (way == READ_TOO_EARLY) {
		send_page(66);
		write_page(66);
	}
	if (way != NEVER_CLEARED)
		assert_int_equal(dl_slot_clear(guest->log, SLOT, 66 * guest->page_bytes, 1), 0);
	if (way != READ_TOO_EARLY)
		send_page(66);
	if (way != READ_TOO_EARLY)
		write_page(66);
	guest_stop(guest);
	*left = take(DL_TAKE_HARVEST | DL_TAKE_PAUSED | DL_TAKE_NO_CLEAR, words);
	/* Nothing is written any more: what is reported is sent after this, and not again. */
	if (*left) {
		assert_int_equal(words[1], 1 << 2);
		if (way != NEVER_CLEARED)
			assert_int_equal(dl_slot_clear(guest->log, SLOT, 0, slot.bytes), 0);
		send_page(66);
		*left = take(DL_TAKE_HARVEST | DL_TAKE_PAUSED | DL_TAKE_NO_CLEAR, words);
	}
	checker_flush(&migration.checker);
	differing = checker_differing_pages(&migration.checker);
	migration_close(&migration);
	return differing;
}

static void a_deferred_clear_comes_before_the_read(void **state)
{
	FOR_EACH_MODE(i)
	{
		uint64_t left;

		assert_int_equal(send_one(i, RIGHT, &left), 0);
		assert_int_equal(left, 0);
		/* Elsewhere the page is protected anyway, and the write after the read is seen. */
		assert_int_equal(send_one(i, READ_TOO_EARLY, &left), is_deferred(i));
		/* Nothing is lost, but it never ends. */
		assert_int_equal(send_one(i, NEVER_CLEARED, &left), 0);
		assert_int_equal(left, is_deferred(i));
	}
}

/* Exactly the owed pages: a write that no harvest has reported stays in the kernel's bitmap. */
static void a_clear_takes_owed_pages_only(void **state)
{
	FOR_EACH_MODE(i)
	{
		uint64_t words[WORDS];

		begin(i, 1);
		migration_start(&migration, 0);
		migration_pass(&migration);
		migration_pass(&migration);
		write_page(64);
		assert_int_equal(take(DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words), 1);
		write_page(65);
		write_page(0);
		write_page(149);
		assert_int_equal(dl_slot_clear(guest->log, SLOT, 0, slot.bytes), 0);
		assert_int_equal(dl_slot_clear(guest->log, SLOT, 0, slot.bytes), 0);
		send_page(64);
		assert_int_equal(take(DL_TAKE_HARVEST, words), 3);
		assert_int_equal(words[0], 1);
		assert_int_equal(words[1], 1 << 1);
		assert_int_equal(words[2], 1 << 21);
		send_page(0);
		send_page(65);
		send_page(149);
		migration_finish(&migration);
		migration_close(&migration);
	}
}

/* A pass keeps the pages that it has handed out; a take gets those that it has not reached. */
static void a_take_leaves_the_open_pass_alone(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_extent extents[4];
		uint64_t words[WORDS];

		begin(i, 1);
		migration_start(&migration, 0);
		migration_pass(&migration);
		migration_pass(&migration);
		for (uint64_t page = 0; page < 20; page += 2)
			write_page(page);
		assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
		assert_int_equal(dl_cursor_read(migration.checker.cursor, extents, 4), 4);
		write_page(2);
		assert_true(take(DL_TAKE_HARVEST, words) >= 1);
		/* Written again after it was handed out. */
		assert_true(words[0] & 1 << 2);
		assert_false(words[0] & (1 << 0 | 1 << 4 | 1 << 6));
		assert_int_equal(checker_unacked(&migration.checker) >= 4 * guest->page_bytes,
				 true);
		for (uint64_t page = 0; page < 64; page++)
			if (words[0] >> page & 1)
				send_page(page);
		/* The pass gives the four back, and they come again. */
		assert_int_equal(checker_finish_pass(&migration.checker, 1), 0);
		assert_int_equal(checker_harvest(&migration.checker, 0, NULL), 0);
		assert_true(checker_pending(&migration.checker) >= 3 * guest->page_bytes);
		migration_finish(&migration);
		migration_close(&migration);
	}
}

/* After an error the words hold what is the caller's, and the rest is still pending. */
static void a_take_that_fails_is_made_again(void **state)
{
	static const unsigned long requests[] = { KVM_RESET_DIRTY_RINGS, KVM_GET_DIRTY_LOG,
						  KVM_CLEAR_DIRTY_LOG };

	FOR_EACH_MODE(i)
	for (int request = 0; request < 3; request++)
		for (int after = 0; after < 2; after++) {
			const struct model_fault fault = { .request = requests[request],
							   .times = 3,
							   .error = ENOMEM,
							   .after = after };
			uint64_t pages = 0;
			int failures = 0;

			begin(i, 1);
			migration_start(&migration, 0);
			for (uint64_t page = 0; page < PAGES; page += 3)
				write_page(page);
			guest_stop(guest);
			assert_int_equal(model_fault(guest->model, &fault), 0);
			while (checker_take(&migration.checker, SLOT,
					    DL_TAKE_HARVEST | DL_TAKE_PAUSED, &pages))
				assert_true(failures++ < 3);
			checker_flush(&migration.checker);
			model_faults_clear(guest->model);
			assert_true(pages >= PAGES);
			for (uint64_t page = 0; page < PAGES; page += 7)
				write_page(page);
			finish_by_takes(failures % 2 ? DL_TAKE_NO_CLEAR : 0);
		}
}

/* Two consumers: one takes and defers, the other reads, which clears what the first has taken. */
static void a_reader_beside_a_taker(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct checker reader;
		uint64_t pages = 0;

		begin(i, 2);
		checker_init_guest(&reader, guest);
		for (unsigned int n = 0; n < migration.checker.by_gpa.slot_count; n++)
			checker_map(&reader, &migration.checker.by_gpa.slots[n]);
		migration_start(&migration, 0);
		assert_int_equal(checker_join(&reader, 0), 0);
		migration_run(&migration);
		for (int turn = 0; turn < 10; turn++) {
			uint64_t words[WORDS];

			migration_wait(&migration, WRITES);
			(void)take(DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words);
			assert_int_equal(checker_pass(&reader, 0, 2), 0);
			migration_wait(&migration, WRITES / 4);
			assert_int_equal(dl_slot_clear(guest->log, SLOT, 0, slot.bytes), 0);
			for (uint64_t page = 0; page < PAGES; page++)
				if (words[page / 64] >> page % 64 & 1)
					send_page(page);
			take_all(DL_TAKE_HARVEST, &pages);
		}
		migration_stop(&migration);
		guest_stop(guest);
		assert_int_equal(checker_last_pass(&reader, 1), 0);
		checker_expect_equal(&reader);
		checker_free(&reader);
		finish_by_takes(DL_TAKE_NO_CLEAR);
	}
}

/* A slot goes while pages that were taken from it wait to be sent. */
static void a_slot_goes_between_take_and_clear(void **state)
{
	FOR_EACH_MODE(i)
	{
		uint64_t words[WORDS];

		begin(i, 1);
		migration_start(&migration, 0);
		migration_pass(&migration);
		for (uint64_t page = 0; page < 70; page += 5)
			write_page(page);
		guest_stop(guest);
		assert_int_equal(take(DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words) >= 14, true);
		write_page(71);
		assert_int_equal(checker_slot_remove(&migration.checker, SLOT, 0), 0);
		assert_int_equal(dl_slot_clear(guest->log, SLOT, 0, 1), -ENOENT);
		/* No vCPU can write it now. */
		for (uint64_t page = 0; page < PAGES; page++)
			if (words[page / 64] >> page % 64 & 1)
				send_page(page);
		slot.flags = i % 2 ? DL_SLOT_CLEAN : 0;
		migration_set(&migration, slot);
		write_page(72);
		finish_by_takes(0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		migration_test(takes_lose_no_page),
		migration_test(deferred_clears_lose_no_page),
		migration_test(words_in_kvms_byte_order),
		migration_test(a_deferred_clear_comes_before_the_read),
		migration_test(a_clear_takes_owed_pages_only),
		migration_test(a_take_leaves_the_open_pass_alone),
		migration_test(a_take_that_fails_is_made_again),
		migration_test(a_reader_beside_a_taker),
		migration_test(a_slot_goes_between_take_and_clear),
	};

	return RUN_TESTS("migrations by takes", tests);
}
