/* SPDX-License-Identifier: MIT */
/*
 * Each public call must hold the locks that the functions need which it calls. A forgotten lock
 * always shows here; whether the locks suffice is for the tests with threads.
 */
#include "lock_watch.h"

#include <string.h>

enum { PAGES = 100 };

static void begin(uint32_t mode)
{
	const struct guest_config config = {
		.model = { .has = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP |
				  MODEL_HAS_MANUAL_PROTECT },
		.options = { .mode = mode, .ring_entries = 256 },
		.intercept = watch_ioctl,
	};

	memset(&seen, 0, sizeof(seen));
	guest_open(&guest, &config);
	watch_os(&guest);
}

static int setup_ring(void **state)
{
	begin(DL_MODE_RING);
	return 0;
}

static int setup_bitmap(void **state)
{
	begin(DL_MODE_BITMAP);
	return 0;
}

static int teardown(void **state)
{
	for (unsigned int i = 0; i < guest.vcpu_count; i++) {
		dl_vcpu_remove(guest.vcpus[i].handle);
		guest.vcpus[i].handle = NULL;
	}
	guest_leave(&guest);
	seen.locked = 0;
	dl_log_close(guest.log);
	guest.log = NULL;
	note(seen.locked == (CHANGES | LOG | VCPUS), "dl_log_close");
	guest_close(&guest);
	if (seen.wrong)
		print_error("called without its lock or read section: %s\n", seen.wrong);
	return seen.wrong ? -1 : 0;
}

#define ring_test(f)   cmocka_unit_test_setup_teardown(f, setup_ring, teardown)
#define bitmap_test(f) cmocka_unit_test_setup_teardown(f, setup_bitmap, teardown)

static void expect_all_free(void)
{
	if (seen.wrong)
		fail_msg("called without its lock or read section: %s", seen.wrong);
	assert_int_equal(seen.depth, 0);
	assert_false(is_held(&guest.log->lock));
	assert_false(is_held(&guest.log->changes));
	assert_false(is_any_cursor_held(guest.log));
	assert_false(is_held(&guest.log->reset.lock) || guest.log->reset.busy);
	assert_false(is_held(&guest.log->vcpus.lock));
	for (struct dl_vcpu *v = NULL; (v = dli_vcpu_list_next(&guest.log->vcpus, v));)
		assert_false(is_held(&v->ring->lock));
}

/* Expects that the preceding calls took these locks of the log. */
static void expect_locked(unsigned int locks)
{
	assert_int_equal(seen.locked, locks);
	expect_all_free();
	seen.locked = 0;
}

/* Makes every public call, in an order in which each has work to do. */
static void every_call_holds_what_it_needs(void **state)
{
	uint64_t pending_bytes, words[(PAGES + 63) / 64];
	unsigned int vcpus = dli_log_is_ring(guest.log) ? VCPUS : 0;
	struct dl_cursor *second;
	struct dl_extent extent;
	struct dl_slot slot;
	char text[300];

	guest_add_slot(&guest, 0, 0, PAGES);
	expect_locked(CHANGES | LOG);
	vcpu = guest_vcpu(&guest, true);
	guest_vcpu_add(&guest, guest_vcpu(&guest, false));
	expect_locked(vcpus);
	dl_vcpu_remove(guest.vcpus[1].handle);
	guest.vcpus[1].handle = NULL;
	expect_locked(vcpus);
	guest_join(&guest, 0);
	expect_locked(CHANGES | LOG);
	assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_CLEAN, 0, &second), 0);
	expect_locked(CHANGES | LOG);
	slot = guest_slot(&guest, 1, 1000, guest_memory(&guest, PAGES), 0, PAGES);
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	expect_locked(CHANGES | CURSOR | LOG);
	slot.gpa += PAGES * 4096;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	expect_locked(CHANGES | CURSOR | LOG);
	assert_int_equal(guest_write(&guest, vcpu, 0, 5), 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 7 * 4096, 1), 0);
	assert_int_equal(dl_mark_slot(guest.log, 0, 9 * 4096, 1), 0);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_true(dl_log_fd(guest.log) >= 0);
	assert_int_equal(guest_write(&guest, vcpu, 0, 4), 0);
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
	expect_locked(0);
	assert_int_equal(guest_write(&guest, vcpu, 0, 6), 0);
	assert_int_equal(dl_harvest(guest.cursor, DL_HARVEST_PAUSED, &pending_bytes), 0);
	expect_locked(CURSOR | LOG);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), 1);
	expect_locked(CURSOR | LOG);
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), 0);
	guest_unacked(&guest);
	expect_locked(0);
	assert_int_equal(dl_cursor_take(second, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR, words,
					(PAGES + 63) / 64, NULL),
			 0);
	expect_locked(CURSOR | LOG);
	assert_int_equal(dl_slot_clear(guest.log, 0, 0, PAGES * 4096), 0);
	expect_locked(LOG);
	assert_int_equal(dl_slot_remove(guest.log, 1, 0, NULL, 0), 0);
	expect_locked(CHANGES | CURSOR | LOG);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	expect_locked(CURSOR | LOG);
	dl_cursor_free(second);
	expect_locked(CHANGES | LOG);
	assert_int_equal(guest_stats(&guest).full_exits, 0);
	assert_true(dl_log_describe(guest.log, NULL, 0) > 0);
	(void)!dl_log_last_error(guest.log, text, sizeof(text));
	expect_locked(0);
	guest_leave(&guest);
	expect_locked(CHANGES | LOG);
	assert_true(seen.table_looks > 10 && seen.takes >= 1 && seen.grace_periods >= 4);
	assert_true(!dli_log_is_ring(guest.log) || (seen.resets > 0 && seen.rings > 0));
}

/* A slot is freed after a grace period, so a mark must be a read section. */
static void a_mark_is_a_read_section(void **state)
{
	guest_add_slot(&guest, 0, 0, PAGES);
	guest_join(&guest, 0);
	seen.sections = 0;
	assert_int_equal(dl_mark_gpa(guest.log, 0, 4096, 1), 0);
	assert_int_equal(seen.sections, 1);
	assert_int_equal(dl_mark_slot(guest.log, 0, 4096, 1), 0);
	assert_int_equal(seen.sections, 2);
}

/* A cursor that goes waits for marks that have found its sets. */
static void changes_of_slots_and_cursors_wait_for_readers(void **state)
{
	struct dl_slot slot = guest_slot(&guest, 1, 0, guest_memory(&guest, PAGES), 0, PAGES);
	struct dl_cursor *second;

	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	guest_join(&guest, 0);
	seen.grace_periods = 0;
	slot.gpa = 4096000;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	assert_int_equal(seen.grace_periods, 1);
	/* A second view changes where marks go. */
	assert_int_equal(guest_new_cursor(&guest, 0, 0, &second), 0);
	assert_int_equal(seen.grace_periods, 2);
	dl_cursor_free(second);
	assert_int_equal(seen.grace_periods, 3);
	/* Out of the table, and then its views. */
	assert_int_equal(dl_slot_remove(guest.log, 1, 0, NULL, 0), 0);
	assert_int_equal(seen.grace_periods, 5);
	slot.flags = DL_SLOT_CLEAN;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	seen.grace_periods = 0;
	guest_leave(&guest);
	assert_int_equal(seen.grace_periods, 1);
}

/* One of the new views has a neighbour, the other has none. */
static void a_cursor_waits_for_markers_of_any_slot_that_it_shares(void **state)
{
	struct dl_cursor *one;

	guest_add_slot(&guest, 0, 0, PAGES);
	guest_add_slot(&guest, 1, 1000, PAGES);
	for (uint32_t slot = 0; slot < 2; slot++) {
		assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_ONE_SLOT, slot, &one), 0);
		seen.grace_periods = 0;
		guest_join(&guest, 0);
		assert_int_equal(seen.grace_periods, 1);
		guest_leave(&guest);
		dl_cursor_free(one);
	}
}

/* Late marks in the shared set move to a set that other markers already use. */
static void late_marks_are_distributed_with_atomics(void **state)
{
	struct dl_cursor *second;

	guest_add_slot(&guest, 0, 0, PAGES);
	guest_join(&guest, DL_CURSOR_CLEAN);
	assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_CLEAN, 0, &second), 0);
	assert_int_equal(dl_mark_slot(guest.log, 0, 4096, 1), 0);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	seen.late = dli_slot_find(dli_slots_table(&guest.log->slots), 0)->fresh;
	assert_non_null(seen.late);
	dl_cursor_free(second);
	assert_null(seen.late);
	assert_int_equal(guest_pending(&guest), 2 * 4096);
}

/* Its pages are cleared before the pass is over, or it would forget some of the next one. */
static void the_end_of_a_pass_waits_for_acknowledgements(void **state)
{
	guest_add_slot(&guest, 0, 0, PAGES);
	guest_join(&guest, 0);
	for (uint32_t acks = 0; acks < 2; acks++) {
		assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
		seen.grace_periods = 0;
		atomic_fetch_add(&guest.cursor->acks, acks);
		assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
		atomic_fetch_sub(&guest.cursor->acks, acks);
		assert_int_equal(seen.grace_periods, acks);
	}
}

/* A thread's first read section takes a lock in liburcu, so these calls enter one early. */
static void open_and_add_register_their_thread(void **state)
{
	assert_true(seen.sections > 0);
	seen.sections = 0;
	guest_vcpu(&guest, true);
	assert_true(seen.sections > 0);
}

/* A vCPU with a full ring waits only for its own ring and the reset. */
static void a_drain_takes_only_two_locks(void **state)
{
	struct dli_ring *others;

	vcpu = guest_vcpu(&guest, true);
	others = guest_vcpu(&guest, true)->handle->ring;
	guest_add_slot(&guest, 0, 0, PAGES);
	guest_join(&guest, 0);
	assert_int_equal(guest_write(&guest, vcpu, 0, 5), 0);
	/* Hold all other locks; a drain that took one would deadlock. */
	pthread_mutex_lock(&guest.log->changes);
	pthread_mutex_lock(&guest.cursor->lock);
	pthread_mutex_lock(&guest.log->lock);
	pthread_mutex_lock(&guest.log->vcpus.lock);
	pthread_mutex_lock(&others->lock);
	seen.test_holds = true;
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	seen.test_holds = false;
	pthread_mutex_unlock(&others->lock);
	pthread_mutex_unlock(&guest.log->vcpus.lock);
	pthread_mutex_unlock(&guest.log->lock);
	pthread_mutex_unlock(&guest.cursor->lock);
	pthread_mutex_unlock(&guest.log->changes);
	expect_all_free();
	assert_int_equal(guest_stats(&guest).entries, 1);
}

static void the_reset_section_is_left_under_its_lock(void **state)
{
	assert_int_equal(dli_reset_begin(&guest.log->reset), 0);
	dli_reset_end(&guest.log->reset);
	expect_all_free();
}

/* A reset continues with the file descriptor that it began with. */
static void a_reset_is_closed_under_its_lock(void **state)
{
	struct dli_reset reset = { 0 };

	assert_int_equal(dli_reset_init(&reset, &guest.os, guest.vm_fd), 0);
	seen.closing = &reset;
	dli_reset_close(&reset, false);
	seen.closing = NULL;
	assert_true(seen.open_at_lock && seen.closed_at_unlock);
	dli_reset_fini(&reset);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ring_test(every_call_holds_what_it_needs),
		bitmap_test(every_call_holds_what_it_needs),
		ring_test(a_mark_is_a_read_section),
		ring_test(changes_of_slots_and_cursors_wait_for_readers),
		ring_test(a_cursor_waits_for_markers_of_any_slot_that_it_shares),
		ring_test(late_marks_are_distributed_with_atomics),
		ring_test(the_end_of_a_pass_waits_for_acknowledgements),
		ring_test(open_and_add_register_their_thread),
		ring_test(a_drain_takes_only_two_locks),
		ring_test(the_reset_section_is_left_under_its_lock),
		ring_test(a_reset_is_closed_under_its_lock),
	};

	return RUN_TESTS("locks", tests);
}
