/* SPDX-License-Identifier: MIT */
/* R2 and dl_slot_remove(): the pages of a slot leave with it. */
#include "rules_guest.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>

enum { PAGES = 100, WORDS = 2, LAST_BITS = PAGES - 64 };

/* The third word is beyond what the slot has. */
static uint64_t words[WORDS + 1];

static int begin_words(void)
{
	memset(words, 0, sizeof(words));
	words[WORDS] = 77;
	return 0;
}

static void expect_words(uint64_t first, uint64_t second)
{
	assert_true(words[0] == first);
	assert_true(words[1] == second);
	assert_int_equal(words[WORDS], 77);
}

static int remove_into(uint32_t number, uint32_t flags)
{
	return dl_slot_remove(guest.log, number, flags, words, WORDS);
}

#define ALL_WORDS ~UINT64_C(0), (UINT64_C(1) << LAST_BITS) - 1

static void arguments_are_checked(void **state)
{
	set_slot(3, 0, PAGES, 0);
	begin_words();
	assert_int_equal(dl_slot_remove(NULL, 3, 0, NULL, 0), -EINVAL);
	assert_int_equal(dl_slot_remove(guest.log, 3, 2, NULL, 0), -EINVAL);
	assert_int_equal(dl_slot_remove(guest.log, 3, UINT32_MAX, NULL, 0), -EINVAL);
	assert_int_equal(dl_slot_remove(guest.log, 3, 0, words, WORDS - 1), -EINVAL);
	assert_int_equal(dl_slot_remove(guest.log, 3, 0, words, 0), -EINVAL);
	assert_int_equal(dl_slot_remove(guest.log, 3, 0, NULL, WORDS), -EINVAL);
	assert_int_equal(dl_slot_remove(guest.log, 4, 0, NULL, 0), -ENOENT);
	assert_int_equal(dl_slot_remove(guest.log, 1 << 16 | 3, 0, NULL, 0), -ENOENT);
	assert_int_equal(dl_slot_remove(guest.log, 0xffff, 0, NULL, 0), -ENOENT);
	assert_int_equal(dl_slot_remove(guest.log, UINT32_MAX, 0, NULL, 0), -ENOENT);
	expect_words(0, 0);
	assert_int_equal(dl_slot_remove(guest.log, 3, 0, NULL, 0), 0);
	assert_int_equal(dl_slot_remove(guest.log, 3, 0, NULL, 0), -ENOENT);
}

static void a_remove_that_the_kernel_refuses_changes_nothing(void **state)
{
	struct dl_cursor *cursor;

	begin_words();
	set_slot(3, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	mark_page(3, 5);
	mark_page(3, 7);
	begin_pass(cursor);
	expect_read(cursor, 5, 1);
	fail_calls(KVM_SET_USER_MEMORY_REGION, 0, 1, EIO);
	assert_int_equal(remove_into(3, 0), -EIO);
	expect_words(0, 0);
	/* The pass goes on. */
	expect_read(cursor, 7, 1);
	end_pass(cursor);
	assert_int_equal(pending_of(cursor), 2);
	write_page(9);
	assert_int_equal(remove_into(3, 0), 0);
}

/* A write between the last look and the delete is recorded nowhere. */
static void r2_without_paused_all_words_are_set(void **state)
{
	begin_words();
	set_slot(3, 0, PAGES, 0);
	join(DL_CURSOR_CLEAN);
	assert_int_equal(remove_into(3, 0), 0);
	expect_words(ALL_WORDS);
}

static void r2_words_hold_everything_that_some_cursor_had(void **state)
{
	struct dl_extent extents[2];
	struct dl_cursor *one, *two;

	begin_words();
	words[1] = 1;
	set_slot(3, 0, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	for (uint64_t page = 0; page < 10; page += 2)
		mark_page(3, page);
	/* The first has acknowledged 0, has 2 in flight, 4 read ahead, 20 in another word. */
	mark_page(3, 80);
	begin_pass(one);
	assert_int_equal(dl_cursor_read(one, extents, 2), 2);
	assert_int_equal(dl_cursor_ack(one, extents, 1), 0);
	/* The second has acknowledged all but page 6. */
	begin_pass(two);
	while (dl_cursor_read(two, extents, 1) == 1)
		if (extents[0].gpa != 6 * 4096)
			assert_int_equal(dl_cursor_ack(two, extents, 1), 0);
	end_pass(two);
	/* And this nobody knows yet. */
	mark_page(3, 40);
	assert_int_equal(remove_into(3, DL_REMOVE_PAUSED), 0);
	expect_words(UINT64_C(1) << 40 | 4 | 16 | 64 | 256, 1 | UINT64_C(1) << 16);
	expect_no_more(one);
	assert_int_equal(pending_of(one) + unacked_of(one) + pending_of(two), 0);
}

/* Pages that every cursor has acknowledged are known to the receivers. */
static void r2_words_hold_nothing_that_all_have_acknowledged(void **state)
{
	struct dl_cursor *cursor;

	begin_words();
	set_slot(3, 0, PAGES, 0);
	cursor = join(0);
	expect_pass(cursor, 0, PAGES);
	assert_int_equal(remove_into(3, DL_REMOVE_PAUSED), 0);
	expect_words(0, 0);
}

static void r2_paused_words_hold_what_rings_and_bitmap_say(void **state)
{
	struct dl_cursor *cursor;

	begin_words();
	set_slot(3, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(5);
	write_page(70);
	model_vcpu_exit(guest.model, vcpu->fd, KVM_EXIT_INTR);
	assert_int_equal(remove_into(3, DL_REMOVE_PAUSED), 0);
	expect_words(32, 64);
	expect_empty_pass(cursor);
}

static void r2_paused_words_hold_what_the_backup_says(void **state)
{
	begin_words();
	set_slot(3, 0, PAGES, 0);
	join(DL_CURSOR_CLEAN);
	write_page(5);
	guest_kernel_write(&guest, 70);
	assert_int_equal(remove_into(3, DL_REMOVE_PAUSED), 0);
	expect_words(32, 64);
}

static void r2_a_bitmap_that_cannot_be_read_is_wholly_dirty(void **state)
{
	begin_words();
	set_slot(3, 0, PAGES, 0);
	join(DL_CURSOR_CLEAN);
	write_page(5);
	fail_calls(KVM_GET_DIRTY_LOG, 0, 1, EFAULT);
	assert_int_equal(remove_into(3, DL_REMOVE_PAUSED), 0);
	expect_words(ALL_WORDS);
}

static void r2_rings_that_cannot_be_emptied_make_it_wholly_dirty(void **state)
{
	struct dl_cursor *cursor;

	begin_words();
	set_slot(3, 0, PAGES, 0);
	set_slot(4, 1000, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(5);
	write_page(1007);
	fail_calls(KVM_RESET_DIRTY_RINGS, 0, 1, EIO);
	assert_int_equal(remove_into(3, DL_REMOVE_PAUSED), 0);
	expect_words(ALL_WORDS);
	/* The other slot loses nothing. */
	assert_int_equal(guest_pass_of(&guest, cursor, 0, (uint64_t[PAGES]){ 0 }, PAGES) > 0, 1);
}

/* A ring that lost entries may have lost some of this slot. */
static void r2_after_an_overflow_it_is_wholly_dirty(void **state)
{
	begin_words();
	set_slot(3, 0, PAGES, 0);
	join(DL_CURSOR_CLEAN);
	for (uint64_t i = 0; i < 1100; i++)
		assert_int_equal(model_vcpu_write_unchecked(guest.model, vcpu->fd, 0,
							    i % PAGES * 4096, NULL, 8),
				 0);
	assert_int_equal(remove_into(3, DL_REMOVE_PAUSED), 0);
	expect_words(ALL_WORDS);
}

/*
 * A reset that clears an entry as the kernel stores it leaves the kernel one cell ahead of the
 * library, which finds nothing at its own cell.
 */
static void r2_an_entry_behind_a_clean_cell_makes_it_wholly_dirty(void **state)
{
	struct kvm_dirty_gfn *cells = NULL;

	begin_words();
	set_slot(3, 0, PAGES, 0);
	join(DL_CURSOR_CLEAN);
	assert_int_equal(guest.os.mmap(&guest, vcpu->fd, 64 * 4096, 4096, 3, 1, (void **)&cells),
			 0);
	write_page(5);
	write_page(70);
	assert_int_equal(__atomic_exchange_n(&cells[0].flags, 0, __ATOMIC_RELEASE),
			 KVM_DIRTY_GFN_F_DIRTY);
	guest.os.munmap(&guest, cells, 4096);
	assert_int_equal(remove_into(3, DL_REMOVE_PAUSED), 0);
	expect_words(ALL_WORDS);
}

static void r2_without_words_the_pages_are_dropped(void **state)
{
	static const uint32_t flags[] = { 0, DL_REMOVE_PAUSED };
	struct dl_cursor *cursor;

	set_slot(0, 1000, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	for (int i = 0; i < 2; i++) {
		set_slot(3, 0, PAGES, 0);
		write_page(5);
		mark_page(0, 9);
		assert_int_equal(dl_slot_remove(guest.log, 3, flags[i], NULL, 0), 0);
		expect_pass(cursor, 1009, 1);
	}
}

static void r2_without_words_no_bitmap_is_read(void **state)
{
	set_slot(3, 0, PAGES, 0);
	join(DL_CURSOR_CLEAN);
	assert_int_equal(dl_slot_remove(guest.log, 3, DL_REMOVE_PAUSED, NULL, 0), 0);
	assert_int_equal(guest.gets, 0);
}

/* Whether there is no cursor, or none that covers it. */
static void r2_words_are_untouched_where_nobody_covers_the_slot(void **state)
{
	begin_words();
	set_slot(3, 0, PAGES, 0);
	write_page(5);
	assert_int_equal(remove_into(3, 0), 0);
	expect_words(0, 0);
	set_slot(3, 0, PAGES, 0);
	join(DL_CURSOR_WANTED);
	join_slot(DL_CURSOR_ONE_SLOT, 9);
	write_page(5);
	assert_int_equal(remove_into(3, 0), 0);
	assert_int_equal(guest.gets, 0);
	expect_words(0, 0);
	set_slot(3, 0, PAGES, DL_SLOT_NO_LOG);
	join(0);
	assert_int_equal(remove_into(3, 0), 0);
	expect_words(0, 0);
}

/* One that could not be switched off has a bitmap, and nobody who wants it. */
static void r2_words_are_untouched_where_nobody_covers_it_any_more(void **state)
{
	struct dl_cursor *cursor;

	begin_words();
	set_slot(3, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(5);
	guest_fail_region(&guest, 3, 0, 1);
	leave(cursor);
	assert_int_equal(remove_into(3, DL_REMOVE_PAUSED), 0);
	assert_int_equal(guest.gets, 0);
	expect_words(0, 0);
}

/* As a VMM does whose receiver goes by memory blocks: flash that is mapped again elsewhere. */
static void r2_words_can_be_given_back_with_clean(void **state)
{
	struct guest_block *block = set_slot(3, 0, PAGES, 0);
	struct dl_cursor *cursor = join(DL_CURSOR_CLEAN);

	begin_words();
	write_page(5);
	write_page(70);
	assert_int_equal(remove_into(3, DL_REMOVE_PAUSED), 0);
	set_alias(3, 500, block, 0, PAGES, DL_SLOT_CLEAN);
	for (uint64_t page = 0; page < PAGES; page++)
		if (words[page / 64] >> page % 64 & 1)
			mark_page(3, page);
	begin_pass(cursor);
	expect_read(cursor, 505, 1);
	expect_read(cursor, 570, 1);
	expect_no_more(cursor);
	end_pass(cursor);
}

/* A guest toggles a BAR ten thousand times: memory stays bounded, and so does what is pending. */
static void r2_nothing_is_retained_of_a_removed_slot(void **state)
{
	struct guest_block *block = guest_memory(&guest, PAGES);
	struct dl_cursor *one, *two;
	int mappings = 0;

	set_slot(0, 1000, PAGES, 0);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	for (int i = 0; i < 300; i++) {
		set_alias(3, 0, block, 0, PAGES, 0);
		if (!i)
			mappings = atomic_load(&guest.mappings);
		assert_int_equal(atomic_load(&guest.mappings), mappings);
		write_page(i % PAGES);
		remove_slot(3);
	}
	assert_int_equal(pending_of(one) + pending_of(two), 0);
	expect_empty_pass(one);
	expect_empty_pass(two);
}

/* A ring entry names its slot by id, which another slot has by now. */
static void entries_of_a_removed_slot_mark_no_slot_that_reuses_its_id(void **state)
{
	struct dl_cursor *cursor;

	set_slot(3, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	for (uint64_t page = 0; page < PAGES; page++)
		write_page(page);
	remove_slot(3);
	set_slot(3, 5000, PAGES / 2, DL_SLOT_CLEAN);
	expect_empty_pass(cursor);
	write_page(5049);
	expect_pass(cursor, 5049, 1);
}

static struct {
	pthread_t thread;
	atomic_bool begun, done;
	bool was_done;
} remover;

static void *remove_thread(void *unused)
{
	atomic_store(&remover.begun, true);
	remove_slot(3);
	atomic_store(&remover.done, true);
	return NULL;
}

static bool remove_during_clear(struct guest *g, int fd, unsigned long request, void *arg,
				int *result)
{
	if (request != KVM_CLEAR_DIRTY_LOG || atomic_load(&remover.begun))
		return false;
	pthread_create(&remover.thread, NULL, remove_thread, NULL);
	while (!atomic_load(&remover.begun))
		sched_yield();
	for (int i = 0; i < 1000; i++)
		sched_yield();
	remover.was_done = atomic_load(&remover.done);
	return false;
}

/* The caller may free the memory after it: no reader gets it any more. */
static void r1_a_remove_waits_for_a_read_in_progress(void **state)
{
	struct dl_cursor *cursor;

	memset(&remover, 0, sizeof(remover));
	set_slot(3, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(5);
	begin_pass(cursor);
	guest.config.intercept = remove_during_clear;
	expect_read(cursor, 5, 1);
	pthread_join(remover.thread, NULL);
	guest.config.intercept = NULL;
	assert_true(atomic_load(&remover.done));
	assert_false(remover.was_done);
	expect_no_more(cursor);
	end_pass(cursor);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rule_test(ring, arguments_are_checked),
		rule_tests(a_remove_that_the_kernel_refuses_changes_nothing),
		rule_tests(r2_without_paused_all_words_are_set),
		rule_tests(r2_words_hold_everything_that_some_cursor_had),
		rule_tests(r2_words_hold_nothing_that_all_have_acknowledged),
		rule_tests(r2_paused_words_hold_what_rings_and_bitmap_say),
		rule_test(backup, r2_paused_words_hold_what_the_backup_says),
		rule_test(backup, r2_a_bitmap_that_cannot_be_read_is_wholly_dirty),
		rule_test(bitmap, r2_a_bitmap_that_cannot_be_read_is_wholly_dirty),
		rule_test(no_manual, r2_a_bitmap_that_cannot_be_read_is_wholly_dirty),
		rule_test(ring, r2_rings_that_cannot_be_emptied_make_it_wholly_dirty),
		rule_test(ring, r2_after_an_overflow_it_is_wholly_dirty),
		rule_test(ring, r2_an_entry_behind_a_clean_cell_makes_it_wholly_dirty),
		rule_tests(r2_without_words_the_pages_are_dropped),
		rule_test(backup, r2_without_words_no_bitmap_is_read),
		rule_test(bitmap, r2_without_words_no_bitmap_is_read),
		rule_tests(r2_words_are_untouched_where_nobody_covers_the_slot),
		rule_tests(r2_words_are_untouched_where_nobody_covers_it_any_more),
		rule_tests(r2_words_can_be_given_back_with_clean),
		rule_tests(r2_nothing_is_retained_of_a_removed_slot),
		rule_tests(entries_of_a_removed_slot_mark_no_slot_that_reuses_its_id),
		rule_test(bitmap, r1_a_remove_waits_for_a_read_in_progress),
	};

	return RUN_TESTS("rules, remove", tests);
}
