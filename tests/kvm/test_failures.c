/* SPDX-License-Identifier: MIT */
/* Failing ioctls: every error is reported and loses no page. Also the order of the ioctls. */
#include "rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGES = 300 };

static struct spy spy; /* outlives a test that fails, as the rig does */

/* The request that fails, after how many successes, and how many times. */
static struct {
	unsigned long request;
	int error;
	unsigned int after, times;
	bool executed; /* the ioctl fails after the kernel has executed it */
} fault;

static bool fail_on_demand(struct spy *s, int fd, unsigned long request, void *arg, int *result)
{
	(void)s;
	if (request != fault.request || !fault.times)
		return false;
	if (fault.after) {
		fault.after--;
		return false;
	}
	fault.times--;
	if (fault.executed)
		spy_ioctl(fd, request, arg);
	*result = -fault.error;
	return true;
}

/* manual: the reported value of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, or -1 for the real one. */
static struct rig *open_rig_with(uint32_t mode, int manual)
{
	const struct rig_config config = { .mode = mode, .vcpus = 1, .spy = &spy };

	spy_init(&spy);
	if (manual >= 0)
		spy_pretend(&spy, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, manual);
	memset(&fault, 0, sizeof(fault));
	spy.intercept = fail_on_demand;
	return rig_new(&config);
}

static struct rig *open_rig(uint32_t mode)
{
	return open_rig_with(mode, -1);
}

static struct rig_range whole(const struct rig *rig, const struct rig_slot *slot)
{
	return (struct rig_range){ .slot = slot, .pages = slot->bytes / rig->page_bytes };
}

/*
 * Hazard 17 of doc/kernel.md: a GET that cannot write to its buffer clears the bits of the kernel
 * before it fails with EFAULT. The library must treat the whole slot as dirty.
 */
static void get_fails_with_efault(int manual)
{
	struct rig *rig = open_rig_with(DL_MODE_BITMAP, manual);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_slot *other = rig_slot(rig, 1, 4ull * GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, slot);
	struct rig_range part = { .slot = other, .first_page = 5, .pages = 20 };

	rig_join(rig, 0);
	rig_pass(rig, 0);
	for (uint64_t round = 0; round < 6; round++) {
		rig_write(rig, 0, &range, round);
		rig_write(rig, 0, &part, round);
		fault.request = KVM_GET_DIRTY_LOG;
		fault.error = EFAULT;
		fault.after = round % 2;
		fault.times = 1;
		fault.executed = true;
		assert_int_equal(checker_harvest(&rig->checker, 0, NULL), -EFAULT);
		rig_pass(rig, 0);
		checker_expect_equal(&rig->checker);
	}
	rig_finish(rig);
}

static void failing_get_that_cleared_loses_no_page(void **state)
{
	(void)state;
	get_fails_with_efault(0);
}

/* With manual protect, CLEAR does the clearing, and the failing GET has cleared nothing. */
static void failing_get_loses_no_page(void **state)
{
	(void)state;
	get_fails_with_efault(-1);
}

static void failing_get_in_the_final_pass_loses_no_page(void **state)
{
	struct rig *rig = open_rig_with(DL_MODE_BITMAP, 0);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);

	(void)state;
	rig_join(rig, 0);
	rig_count_all(rig, slot);
	rig_passes(rig, 2);
	rig_stop(rig);
	fault.request = KVM_GET_DIRTY_LOG;
	fault.error = ENOMEM;
	fault.times = 2;
	fault.executed = true;
	assert_int_equal(checker_harvest(&rig->checker, DL_HARVEST_PAUSED, NULL), -ENOMEM);
	assert_int_equal(checker_harvest(&rig->checker, DL_HARVEST_PAUSED, NULL), -ENOMEM);
	rig_finish(rig);
}

/* The pages of a failed CLEAR stay pending, and the next read tries again. */
static void failing_clear_keeps_its_pages(void **state)
{
	struct rig *rig = open_rig(DL_MODE_BITMAP);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, slot);

	(void)state;
	if (!(rig->log_config.has & DL_HAS_MANUAL_PROTECT))
		rig_skip("this kernel does not support KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
	rig_join(rig, 0);
	rig_pass(rig, 0);
	for (uint64_t round = 0; round < 6; round++) {
		struct dl_cursor *cursor;
		struct dl_extent run;

		rig_write(rig, 0, &range, 2 * round);
		cursor = rig->checker.cursor;
		assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
		fault.request = KVM_CLEAR_DIRTY_LOG;
		fault.error = ENOMEM;
		fault.times = 2;
		assert_int_equal(dl_cursor_read(cursor, &run, 1), -ENOMEM);
		assert_int_equal(dl_cursor_read(cursor, &run, 1), -ENOMEM);
		assert_int_equal(checker_pending(&rig->checker), slot->bytes);
		if (round % 2) {
			assert_int_equal(dl_cursor_read(cursor, &run, 1), 1);
			checker_copy_run(&rig->checker, &run);
			assert_int_equal(dl_cursor_ack(cursor, &run, 1), 0);
		}
		checker_end(&rig->checker, 0);
		rig_write(rig, 0, &range, 2 * round + 1);
		rig_pass(rig, 0);
		checker_expect_equal(&rig->checker);
	}
	rig_finish(rig);
}

/* Pages whose ring entries could not be reset are neither lost nor reported too early. */
static void failing_reset_loses_no_page(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, slot);
	uint64_t pages = 0;

	(void)state;
	rig_join(rig, 0);
	rig_pass(rig, 0);
	for (uint64_t round = 0; round < 8; round++) {
		rig_write(rig, 0, &range, 2 * round);
		fault.request = KVM_RESET_DIRTY_RINGS;
		fault.error = ENOMEM;
		fault.times = 2;
		fault.executed = round % 2;
		assert_int_equal(checker_harvest(&rig->checker, 0, NULL), -ENOMEM);
		if (round & 2)
			assert_int_equal(dl_vcpu_drain(rig->vcpus[0].log, 0), -ENOMEM);
		fault.times = 0;
		/* Without a harvest. */
		assert_int_equal(checker_take(&rig->checker, 0, 0, &pages), 0);
		rig_write(rig, 0, &range, 2 * round + 1);
		rig_pass(rig, 0);
		checker_expect_equal(&rig->checker);
	}
	rig_finish(rig);
}

/* One of three slots cannot be logged: start fails, names the slot, and leaves no slot logged. */
static void start_that_fails_at_a_slot(uint32_t mode)
{
	for (unsigned int at = 0; at < 3; at++) {
		struct rig *rig = open_rig(mode);
		char text[400];

		for (uint32_t i = 0; i < 3; i++)
			rig_slot(rig, i, GUEST_DATA_GPA * (1ull + i), PAGES);
		fault.request = KVM_SET_USER_MEMORY_REGION;
		fault.error = ENOMEM;
		fault.after = at;
		fault.times = 1;
		assert_int_equal(checker_join(&rig->checker, 0), -ENOMEM);
		assert_null(rig->checker.cursor);
		assert_true(dl_log_describe(rig->log, text, sizeof(text)) > 0);
		assert_non_null(strstr(text, "slot"));
		/* No slot is logged. */
		for (uint32_t i = 0; i < 3; i++) {
			uint64_t words[(PAGES + 63) / 64];
			struct kvm_dirty_log log = { .slot = i, .dirty_bitmap = words };
			int r = spy_ioctl(rig->machine.vm_fd, KVM_GET_DIRTY_LOG, &log);

			assert_int_equal(r, rig->log_config.mode == DL_MODE_RING &&
							    !rig->log_config.backup
						    ? -ENXIO
						    : -ENOENT);
		}
		rig_join(rig, 0);
		rig_count_all(rig, &rig->slots[at]);
		rig_passes(rig, 2);
		rig_finish(rig);
		rig_free(rig);
	}
}

static void ring_start_that_fails_at_a_slot(void **state)
{
	(void)state;
	start_that_fails_at_a_slot(DL_MODE_RING);
}

static void bitmap_start_that_fails_at_a_slot(void **state)
{
	(void)state;
	start_that_fails_at_a_slot(DL_MODE_BITMAP);
}

/* A slot that could not be switched off is logged for nobody, and the next start works. */
static void stop_that_fails_at_a_slot(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_slot *other = rig_slot(rig, 1, 4ull * GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, other);

	(void)state;
	for (unsigned int round = 0; round < 4; round++) {
		rig_join(rig, 0);
		rig_count_all(rig, slot);
		rig_passes(rig, 2);
		fault.request = KVM_SET_USER_MEMORY_REGION;
		fault.error = ENOMEM;
		fault.after = round % 2;
		fault.times = 1;
		rig_leave(rig);
		assert_int_equal(fault.times, 0);
		rig_stop(rig);
		rig_write(rig, 0, &range, round);
	}
	rig_join(rig, 0);
	rig_count_all(rig, slot);
	rig_passes(rig, 2);
	rig_finish(rig);
}

static void failing_slot_calls_change_nothing(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_slot *leaving = rig_slot(rig, 1, 4ull * GUEST_DATA_GPA, PAGES);
	struct rig_slot *new = rig_memory(rig, 2, 8ull * GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, leaving);
	struct rig_slot moved = *leaving;

	(void)state;
	rig_join(rig, 0);
	rig_count_all(rig, slot);
	fault.request = KVM_SET_USER_MEMORY_REGION;
	fault.error = ENOSPC;
	fault.times = 3;
	assert_int_equal(rig_slot_set(rig, new, 0, 0), -ENOSPC);
	assert_int_equal(rig_slot_remove(rig, leaving), -ENOSPC);
	moved.gpa *= 4;
	assert_int_equal(rig_slot_set(rig, &moved, 0, 0), -ENOSPC);
	assert_int_equal(fault.times, 0);
	assert_int_equal(dl_mark_slot(rig->log, 2, 0, 1), -ENOENT);
	assert_int_equal(dl_mark_gpa(rig->log, 0, moved.gpa, 1), -ENOENT);
	assert_int_equal(dl_mark_gpa(rig->log, 0, leaving->gpa, 1), 0);
	rig_passes(rig, 1);
	rig_stop(rig);
	rig_write(rig, 0, &range, 1);
	rig_pass(rig, 0);
	assert_int_equal(rig_slot_set(rig, new, 0, 0), 0);
	range = whole(rig, new);
	rig_write(rig, 0, &range, 2);
	rig_finish(rig);
}

static unsigned int last_reset, first_get, request_number;

static bool note_order(struct spy *s, int fd, unsigned long request, void *arg, int *result)
{
	(void)s;
	(void)fd;
	(void)arg;
	(void)result;
	request_number++;
	if (request == KVM_RESET_DIRTY_RINGS)
		last_reset = request_number;
	if (request == KVM_GET_DIRTY_LOG && !first_get)
		first_get = request_number;
	return false;
}

/*
 * Hazard 21 of doc/kernel.md: writers without a vCPU use the backup bitmap, and they are the last
 * to write. The library must read it in the final pass only, after the rings.
 */
static void backup_bitmap_is_read_after_the_rings(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);

	(void)state;
	if (!rig->log_config.backup)
		rig_skip("this kernel does not support the backup bitmap");
	spy.intercept = note_order;
	last_reset = first_get = request_number = 0;
	rig_join(rig, 0);
	rig_count_all(rig, slot);
	rig_passes(rig, 2);
	assert_int_equal(first_get, 0);
	rig_finish(rig);
	assert_true(first_get > 0);
	assert_true(last_reset < first_get);
}

/*
 * The VMM breaks its promise and replaces the slot by one whose bitmap is 16 times as large as the
 * library's buffer, which is a page. The harvest must fail, report the slot, and leave the memory
 * behind its buffer alone.
 */
static void a_slot_replaced_by_a_larger_one_fails_the_harvest(void **state)
{
	struct rig *rig = open_rig(DL_MODE_BITMAP);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	size_t bitmap_bytes = (size_t)16 * rig->page_bytes;
	size_t bytes = bitmap_bytes * 8 * rig->page_bytes;
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t pending_bytes;

	(void)state;
	assert_ptr_not_equal(memory, MAP_FAILED);
	rig_join(rig, DL_CURSOR_CLEAN);
	assert_int_equal(machine_set_region(&rig->machine, 0, 0, slot->gpa, 0, slot->memory), 0);
	assert_int_equal(machine_set_region(&rig->machine, 0, KVM_MEM_LOG_DIRTY_PAGES, slot->gpa,
					    bytes, memory),
			 0);
	assert_int_equal(checker_harvest(&rig->checker, 0, NULL), -EFAULT);
	/* As it was again. */
	assert_int_equal(machine_set_region(&rig->machine, 0, 0, slot->gpa, 0, memory), 0);
	assert_int_equal(machine_set_region(&rig->machine, 0, KVM_MEM_LOG_DIRTY_PAGES, slot->gpa,
					    slot->bytes, slot->memory),
			 0);
	assert_int_equal(checker_harvest(&rig->checker, 0, &pending_bytes), 0);
	assert_int_equal(pending_bytes, slot->bytes);
	munmap(memory, bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(failing_get_that_cleared_loses_no_page),
		rig_test(failing_get_loses_no_page),
		rig_test(failing_get_in_the_final_pass_loses_no_page),
		rig_test(failing_clear_keeps_its_pages),
		rig_test(failing_reset_loses_no_page),
		rig_test(ring_start_that_fails_at_a_slot),
		rig_test(bitmap_start_that_fails_at_a_slot),
		rig_test(stop_that_fails_at_a_slot),
		rig_test(failing_slot_calls_change_nothing),
		rig_test(backup_bitmap_is_read_after_the_rings),
		rig_test(a_slot_replaced_by_a_larger_one_fails_the_harvest),
	};

	return rig_run_tests("failures", tests);
}
