/* SPDX-License-Identifier: MIT */
/* Switching KVM_MEM_LOG_DIRTY_PAGES and marking all pages, and the state after a failure. */
#include "cmocka_all.h"
#include "guest.h"
#include "slot_logging.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum { SLOTS = 4, PAGES = 64 };

static struct guest guest;

/* Slots 0 to 3; slot 2 cannot be logged. Logging is on. */
static int setup(void **state)
{
	guest_open(&guest, NULL);
	for (uint32_t i = 0; i < SLOTS; i++) {
		struct dl_slot slot =
			guest_slot(&guest, i, i * 1000, guest_memory(&guest, PAGES), 0, PAGES);

		slot.flags = i == 2 ? DL_SLOT_NO_LOG : 0;
		assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	}
	guest_join(&guest, DL_CURSOR_CLEAN);
	return 0;
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define logging_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static bool is_logged(uint32_t number)
{
	return dli_slot_find(dli_slots_table(&guest.log->slots), number)->logged;
}

static void expect_logged(bool first, bool second, bool fourth)
{
	assert_int_equal(is_logged(0), first);
	assert_int_equal(is_logged(1), second);
	assert_false(is_logged(2));
	assert_int_equal(is_logged(3), fourth);
}

static void fail_slot(uint32_t number, uint32_t skip, uint32_t times)
{
	const struct model_fault fault = { .request = KVM_SET_USER_MEMORY_REGION,
					   .skip = skip,
					   .times = times,
					   .error = EIO,
					   .only_slot = true,
					   .slot = number };

	assert_int_equal(model_fault(guest.model, &fault), 0);
}

static uint64_t pending_pages(void)
{
	return guest_pending(&guest) / guest.page_bytes;
}

static struct dli_slot *slot_of(uint32_t number)
{
	return dli_slot_find(dli_slots_table(&guest.log->slots), number);
}

static void only_slots_that_nobody_covers_are_switched_off(void **state)
{
	unsigned int regions = guest.regions;

	expect_logged(true, true, true);
	assert_int_equal(dli_slot_logging_stop(guest.log), 0);
	assert_int_equal(guest.regions, regions);
	expect_logged(true, true, true);
	guest_leave(&guest);
	assert_int_equal(guest.regions, regions + 3);
	expect_logged(false, false, false);
}

/* As a failed ioctl left it. */
static void switching_off_continues_after_a_failure(void **state)
{
	guest_leave(&guest);
	for (uint32_t i = 0; i < SLOTS; i++)
		if (i != 2)
			assert_int_equal(dli_slot_logging_set(guest.log, slot_of(i), true), 0);
	fail_slot(1, 0, 1);
	assert_int_equal(dli_slot_logging_stop(guest.log), -EIO);
	expect_logged(false, true, false);
	assert_int_equal(dli_slot_logging_stop(guest.log), 0);
	expect_logged(false, false, false);
}

static void a_failure_is_noted_and_changes_nothing(void **state)
{
	char text[200];

	fail_slot(1, 0, 1);
	assert_int_equal(dli_slot_logging_set(guest.log, slot_of(1), false), -EIO);
	expect_logged(true, true, true);
	assert_true(dl_log_last_error(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "switched off (slot 1 of address space 0"));
	assert_int_equal(dli_slot_logging_set(guest.log, slot_of(1), false), 0);
	fail_slot(1, 0, 1);
	assert_int_equal(dli_slot_logging_set(guest.log, slot_of(1), true), -EIO);
	expect_logged(true, false, true);
	assert_true(dl_log_last_error(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "switched on (slot 1 of address space 0"));
}

static void fail_slot_afterwards(uint32_t number)
{
	const struct model_fault fault = { .request = KVM_SET_USER_MEMORY_REGION,
					   .times = 1,
					   .error = EIO,
					   .after = true,
					   .only_slot = true,
					   .slot = number };

	assert_int_equal(model_fault(guest.model, &fault), 0);
}

/* Slot 1 is at 1000; a write there must be in the next pass. */
static void expect_slot_1_logged(struct dl_cursor *cursor)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);
	uint64_t page;

	assert_int_equal(guest_pass_of(&guest, cursor, 0, NULL, 0), -1);
	assert_int_equal(guest_write(&guest, vcpu, 0, 1007), 0);
	assert_int_equal(guest_pass_of(&guest, cursor, 0, &page, 1), 1);
	assert_int_equal(page, 1007);
}

/* KVM has switched the slot off, and says that it failed. Nobody hears of it: a cursor is gone. */
static void a_slot_in_doubt_is_switched_on_for_another_cursor(void **state)
{
	struct dl_cursor *display, *later;

	guest_leave(&guest);
	assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_ONE_SLOT, 0, &display), 0);
	assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_ONE_SLOT, 1, &later), 0);
	fail_slot_afterwards(1);
	dl_cursor_free(later);
	assert_true(slot_of(1)->in_doubt);
	assert_int_equal(guest_new_cursor(&guest, 0, 0, &later), 0);
	expect_slot_1_logged(later);
	dl_cursor_free(later);
	dl_cursor_free(display);
}

/* The same, by DL_SLOT_WANTED. */
static void a_slot_in_doubt_is_switched_on_if_it_is_wanted_again(void **state)
{
	struct dl_slot wanted = guest_slot(&guest, 1, 1000, guest_memory(&guest, PAGES), 0, PAGES);
	struct dl_cursor *cursor;

	guest_leave(&guest);
	assert_int_equal(dl_slot_remove(guest.log, 1, 0, NULL, 0), 0);
	assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_WANTED, 0, &cursor), 0);
	wanted.flags = DL_SLOT_WANTED;
	assert_int_equal(dl_slot_set(guest.log, &wanted), 0);
	fail_slot_afterwards(1);
	wanted.flags = 0;
	assert_int_equal(dl_slot_set(guest.log, &wanted), 0);
	assert_true(slot_of(1)->in_doubt);
	wanted.flags = DL_SLOT_WANTED;
	assert_int_equal(dl_slot_set(guest.log, &wanted), 0);
	expect_slot_1_logged(cursor);
	/* And on, where that failed: the call says so, and leaves it off. */
	wanted.flags = 0;
	assert_int_equal(dl_slot_set(guest.log, &wanted), 0);
	wanted.flags = DL_SLOT_WANTED;
	fail_slot_afterwards(1);
	assert_int_equal(dl_slot_set(guest.log, &wanted), -EIO);
	assert_true(slot_of(1)->in_doubt);
	wanted.flags = 0;
	assert_int_equal(dl_slot_set(guest.log, &wanted), 0);
	assert_false(slot_of(1)->in_doubt);
	wanted.flags = DL_SLOT_WANTED;
	fail_slot_afterwards(1);
	assert_int_equal(dl_slot_set(guest.log, &wanted), -EIO);
	assert_int_equal(dl_slot_set(guest.log, &wanted), 0);
	expect_slot_1_logged(cursor);
	dl_cursor_free(cursor);
}

/* The pages were written, so they are writable. After the restart every write is seen. */
static void a_restart_protects_every_page(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);
	uint8_t pages[PAGES];

	for (uint64_t page = 0; page < PAGES; page++)
		assert_int_equal(guest_write(&guest, vcpu, 0, 1000 + page), 0);
	assert_int_equal(dli_slot_logging_restart(guest.log), 0);
	assert_int_equal(model_page_states(guest.model, guest.vm_fd, 1, 0, PAGES, pages), 0);
	for (uint64_t page = 0; page < PAGES; page++)
		assert_true(pages[page] & MODEL_PAGE_PROTECTED);
	expect_logged(true, true, true);
}

static void a_restart_switches_the_other_slots_on_if_one_fails(void **state)
{
	fail_slot(0, 0, 1);
	assert_int_equal(dli_slot_logging_restart(guest.log), -EIO);
	expect_logged(true, true, true);
	/* It does not switch off at all: it is logged still, and the others again. */
	fail_slot(0, 0, 0);
	assert_int_equal(dli_slot_logging_restart(guest.log), -EIO);
	expect_logged(true, true, true);
	model_faults_clear(guest.model);
	fail_slot(1, 1, 1);
	assert_int_equal(dli_slot_logging_restart(guest.log), -EIO);
	expect_logged(true, false, true);
}

static void a_second_restart_completes_one_that_failed(void **state)
{
	fail_slot(1, 1, 1);
	assert_int_equal(dli_slot_logging_restart(guest.log), -EIO);
	expect_logged(true, false, true);
	assert_int_equal(dli_slot_logging_restart(guest.log), 0);
	expect_logged(true, true, true);
}

static void mark_all_marks_every_covered_page(void **state)
{
	dli_mark_all_slots(guest.log);
	assert_int_equal(pending_pages(), 3 * PAGES);
	dli_mark_all_slots(guest.log);
	assert_int_equal(pending_pages(), 3 * PAGES);
}

/* KVM protects an owed page at CLEAR only; switched off and on, it has a new bitmap. */
static void what_is_owed_goes_with_the_bitmap(void **state)
{
	const struct guest_config config = { .options = { .mode = DL_MODE_BITMAP } };
	struct guest_vcpu *vcpu;

	guest_close(&guest);
	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	vcpu = guest_vcpu(&guest, true);
	guest_join(&guest, DL_CURSOR_CLEAN);
	assert_int_equal(guest_write(&guest, vcpu, 0, 7), 0);
	assert_int_equal(guest_harvest(&guest, 0), 0);
	assert_true(slot_of(0)->owed.any);
	dli_slot_logging_is(guest.log, slot_of(0), false);
	assert_false(slot_of(0)->owed.any);
	guest.log->initially_set = true;
	dli_slot_logging_is(guest.log, slot_of(0), true);
	assert_true(slot_of(0)->owed.words[0] == ~UINT64_C(0));
}

static void a_bitmap_is_reserved_only_where_bitmaps_are_read(void **state)
{
	const struct guest_config with_backup = {
		.model = { .has = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP },
		.options = { .mode = DL_MODE_RING },
	};

	assert_int_equal(dli_reserve_bitmap(guest.log, 1 << 20), 0);
	assert_int_equal(guest.log->buffer.bytes, 0);
	guest_close(&guest);
	guest_open(&guest, &with_backup);
	assert_int_equal(dli_reserve_bitmap(guest.log, 1 << 20), 0);
	assert_true(guest.log->buffer.bytes >= (1 << 20) / 8);
}

/* KVM refuses each change of a slot over guest_memfd, its flags included. */
static void adopt_guest_memfd(uint32_t mode)
{
	const struct guest_config config = {
		.model = { .has_guest_memfd = true },
		.options = { .mode = mode },
	};
	struct {
		uint32_t slot, flags;
		uint64_t gpa, bytes, hva, rest[16];
	} region = { .slot = 5, .flags = 4 };
	struct dl_slot slot;

	guest_open(&guest, &config);
	slot = guest_slot(&guest, 5, 1000, guest_memory(&guest, 64), 0, 64);
	slot.flags = DL_SLOT_EXISTS | DL_SLOT_NO_LOG;
	region.gpa = slot.gpa;
	region.bytes = slot.bytes;
	region.hva = slot.hva;
	/* KVM_SET_USER_MEMORY_REGION2, with KVM_MEM_GUEST_MEMFD */
	assert_int_equal(guest.os.ioctl(guest.os.opaque, guest.vm_fd,
					_IOC(_IOC_WRITE, KVMIO, 0x49, sizeof(region)), &region),
			 0);
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	slot.flags = DL_SLOT_NO_LOG;
	slot.cookie = 7;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
}

static void a_slot_that_kvm_never_changes_is_adopted(void **state)
{
	static const uint32_t modes[] = { DL_MODE_RING, DL_MODE_BITMAP };

	for (int i = 0; i < 2; i++) {
		guest_close(&guest);
		adopt_guest_memfd(modes[i]);
		guest_join(&guest, 0);
		/* A repair switches every slot off and on. */
		dli_reset_request_repair(&guest.log->reset);
		assert_int_equal(guest_harvest(&guest, 0), 0);
		guest_leave(&guest);
		assert_int_equal(dl_slot_remove(guest.log, 5, 0, NULL, 0), 0);
	}
}

static struct guest_vcpu *early_vcpu;

/* Before the last slot is switched on, a vCPU writes to the first and drains its ring. */
static bool drain_before_the_last_flag(struct guest *g, int fd, unsigned long request, void *arg,
				       int *result)
{
	const struct kvm_userspace_memory_region *region = arg;

	if (request != KVM_SET_USER_MEMORY_REGION || region->slot != SLOTS - 1)
		return false;
	g->config.intercept = NULL;
	assert_int_equal(guest_write(g, early_vcpu, 0, 7), 0);
	assert_int_equal(dl_vcpu_drain(early_vcpu->handle, 0), 0);
	return false;
}

static void entries_are_recorded_from_the_first_flag_on(void **state)
{
	uint64_t page;

	guest_leave(&guest);
	early_vcpu = guest_vcpu(&guest, true);
	guest.config.intercept = drain_before_the_last_flag;
	guest_join(&guest, DL_CURSOR_CLEAN);
	assert_null(guest.config.intercept);
	assert_int_equal(guest_pass(&guest, 0, &page, 1), 1);
	assert_int_equal(page, 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		logging_test(entries_are_recorded_from_the_first_flag_on),
		logging_test(only_slots_that_nobody_covers_are_switched_off),
		logging_test(switching_off_continues_after_a_failure),
		logging_test(a_failure_is_noted_and_changes_nothing),
		logging_test(a_slot_in_doubt_is_switched_on_for_another_cursor),
		logging_test(a_slot_in_doubt_is_switched_on_if_it_is_wanted_again),
		logging_test(a_restart_protects_every_page),
		logging_test(a_restart_switches_the_other_slots_on_if_one_fails),
		logging_test(a_second_restart_completes_one_that_failed),
		logging_test(mark_all_marks_every_covered_page),
		logging_test(what_is_owed_goes_with_the_bitmap),
		logging_test(a_bitmap_is_reserved_only_where_bitmaps_are_read),
		logging_test(a_slot_that_kvm_never_changes_is_adopted),
	};

	return RUN_TESTS("slot_logging", tests);
}
