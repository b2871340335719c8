/* SPDX-License-Identifier: MIT */
/* Switching KVM_MEM_LOG_DIRTY_PAGES and marking all pages, and the state after a failure. */
#include "cmocka_all.h"
#include "guest.h"
#include "slot_logging.h"

#include <errno.h>
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
	return dl_log_start(guest.log, DL_START_CLEAN);
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define protect_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

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
	return guest_stats(&guest).pending_bytes / guest.page_bytes;
}

static void only_slots_in_the_other_state_are_switched(void **state)
{
	unsigned int regions = guest.regions;

	expect_logged(true, true, true);
	assert_int_equal(dli_slot_logging_set_all(guest.log, true), 0);
	assert_int_equal(guest.regions, regions);
	assert_int_equal(dli_slot_logging_set_all(guest.log, false), 0);
	assert_int_equal(guest.regions, regions + 3);
	expect_logged(false, false, false);
}

static void switching_on_stops_at_the_first_failure(void **state)
{
	assert_int_equal(dli_slot_logging_set_all(guest.log, false), 0);
	fail_slot(1, 0, 1);
	assert_int_equal(dli_slot_logging_set_all(guest.log, true), -EIO);
	expect_logged(true, false, false);
}

static void switching_off_continues_after_a_failure(void **state)
{
	fail_slot(1, 0, 1);
	assert_int_equal(dli_slot_logging_set_all(guest.log, false), -EIO);
	expect_logged(false, true, false);
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
	model_faults_clear(guest.model);
	fail_slot(1, 1, 1);
	assert_int_equal(dli_slot_logging_restart(guest.log), -EIO);
	expect_logged(true, false, false);
}

static void resume_switches_missing_slots_on_and_marks_them(void **state)
{
	fail_slot(1, 1, 1);
	assert_int_equal(dli_slot_logging_restart(guest.log), -EIO);
	assert_int_equal(dli_slot_logging_resume(guest.log), 0);
	expect_logged(true, true, true);
	assert_int_equal(pending_pages(), 2 * PAGES);
	assert_int_equal(dli_slot_logging_resume(guest.log), 0);
	assert_int_equal(pending_pages(), 2 * PAGES);
}

static void mark_all_marks_every_logged_page(void **state)
{
	dli_mark_all_slots(guest.log);
	assert_int_equal(pending_pages(), 3 * PAGES);
	dli_mark_all_slots(guest.log);
	assert_int_equal(pending_pages(), 3 * PAGES);
}

/* An alias is skipped only if a lower address space logs all of its memory. */
static void an_alias_is_marked_unless_a_lower_address_space_covers_it(void **state)
{
	struct dl_slot part = guest_slot(&guest, 1 << 16, 0, &guest.blocks[0], 1, PAGES - 1);
	struct dl_slot unlogged = guest_slot(&guest, 1 << 16 | 1, 5000, &guest.blocks[2], 0, 8);

	part.flags = unlogged.flags = DL_SLOT_CLEAN;
	assert_int_equal(dl_slot_set(guest.log, &part), 0);
	assert_int_equal(dl_slot_set(guest.log, &unlogged), 0);
	dli_mark_all_slots(guest.log);
	assert_int_equal(pending_pages(), 3 * PAGES + 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		protect_test(only_slots_in_the_other_state_are_switched),
		protect_test(switching_on_stops_at_the_first_failure),
		protect_test(switching_off_continues_after_a_failure),
		protect_test(a_restart_protects_every_page),
		protect_test(a_restart_switches_the_other_slots_on_if_one_fails),
		protect_test(resume_switches_missing_slots_on_and_marks_them),
		protect_test(mark_all_marks_every_logged_page),
		protect_test(an_alias_is_marked_unless_a_lower_address_space_covers_it),
	};

	return RUN_TESTS("protect", tests);
}
