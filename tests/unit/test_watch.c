/* SPDX-License-Identifier: MIT */
/* dl_slot_watch(): the VMM's own writes, found through its second mapping. */
#include "watch_guest.h"

#include <sys/ioctl.h>

/* ---- What a watch finds ---- */

static void a_write_through_the_alias_needs_no_mark(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	watch(0);
	cursor = join(DL_CURSOR_CLEAN);
	expect_empty_pass(cursor);
	device_writes(5);
	device_writes(6);
	expect_pass(cursor, 5, 2);
	expect_empty_pass(cursor);
	device_writes(5);
	write_page(6);
	expect_pass(cursor, 5, 2);
	expect_empty_pass(cursor);
	assert_int_equal(watched(), 3);
	assert_int_equal(missed(), 0);
}

static void what_was_written_before_the_watch_is_not_found(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	device_writes(5);
	watch(0);
	cursor = join(DL_CURSOR_CLEAN);
	expect_empty_pass(cursor);
	assert_int_equal(watched(), 0);
}

static void every_cursor_gets_what_one_has_scanned(void **state)
{
	struct dl_cursor *one, *two;

	set_slot(0, 0, PAGES, 0);
	watch(0);
	one = join(DL_CURSOR_CLEAN);
	two = join(DL_CURSOR_CLEAN);
	device_writes(5);
	expect_pass(one, 5, 1);
	expect_pass(two, 5, 1);
	expect_empty_pass(one);
}

/* What a device wrote is part of the last pass, which must fit the downtime. */
static void a_plan_knows_what_a_device_wrote(void **state)
{
	struct dl_advice advice = { .size = sizeof(advice) };
	struct dl_cursor *cursor;
	struct dl_plan *plan;

	set_slot(0, 0, PAGES, 0);
	watch(0);
	cursor = join(DL_CURSOR_CLEAN);
	assert_int_equal(dl_plan_new(cursor, NULL, &plan), 0);
	device_writes(5);
	assert_int_equal(dl_plan_next(plan, 0, &advice), 0);
	assert_true(advice.pending_bytes > 0);
	dl_plan_free(plan);
	expect_pass(cursor, 5, 1);
}

/* A harvest of a cursor that does not cover the slot leaves it alone. */
static void only_slots_that_the_cursor_covers_are_scanned(void **state)
{
	struct dl_cursor *other;
	uint64_t scans;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, 1000, PAGES, 0);
	watch(0);
	other = join_slot(DL_CURSOR_CLEAN | DL_CURSOR_ONE_SLOT, 1);
	scans = model_calls(guest.model, MODEL_PAGEMAP_SCAN);
	expect_empty_pass(other);
	assert_int_equal(model_calls(guest.model, MODEL_PAGEMAP_SCAN), scans);
	join(DL_CURSOR_CLEAN);
	expect_empty_pass(other);
	assert_int_equal(model_calls(guest.model, MODEL_PAGEMAP_SCAN), scans);
}

static void a_take_scans_if_it_harvests(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	watch(0);
	cursor = join(DL_CURSOR_CLEAN);
	device_writes(3);
	assert_int_equal(take(cursor, 0, 0).w[0], 0);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST).w[0], 8);
}

/* More regions than one call can report. */
static void a_scan_goes_on_where_it_stopped(void **state)
{
	struct dl_cursor *cursor;
	uint64_t pages[3100];

	set_slot(0, 0, 6200, 0);
	watch(0);
	cursor = join(DL_CURSOR_CLEAN);
	for (uint64_t page = 0; page < 6200; page += 2)
		device_writes(page);
	assert_int_equal(guest_pass_of(&guest, cursor, 0, pages, 3100), 3100);
	for (uint64_t i = 0; i < 3100; i++)
		assert_int_equal(pages[i], 2 * i);
	expect_empty_pass(cursor);
}

static void two_slots_share_one_mapping(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, 1000, PAGES, 0);
	watch(0);
	assert_int_equal(watch_at(1, ALIAS + PAGES * guest.page_bytes, 0), 0);
	cursor = join(DL_CURSOR_CLEAN);
	device_writes(PAGES + 7);
	expect_pass(cursor, 1007, 1);
	device_writes(PAGES - 1);
	expect_pass(cursor, PAGES - 1, 1);
}

/* Its pages move home, as marks do. */
static void a_younger_slot_over_the_memory_can_be_the_watched_one(void **state)
{
	struct guest_block *block = set_slot(0, 0, PAGES, 0);
	struct dl_cursor *cursor;

	set_alias(1, 1000, block, 10, 20, 0);
	assert_int_equal(watch_at(1, ALIAS, 0), 0);
	cursor = join(DL_CURSOR_CLEAN);
	device_writes(3);
	expect_pass(cursor, 13, 1);
	expect_empty_pass(cursor);
	device_writes(4);
	assert_int_equal(take(cursor, 0, DL_TAKE_HARVEST).w[0], 1 << 14);
}

/* ---- It ends ---- */

static void what_was_written_before_the_end_is_pending(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	watch(0);
	cursor = join(DL_CURSOR_CLEAN);
	device_writes(5);
	assert_int_equal(watch_at(0, NULL, 0), 0);
	device_writes(6);
	expect_pass(cursor, 5, 1);
	assert_int_equal(model_watch_descriptors(guest.model), 0);
	/* Without a watch there is nothing to end. */
	assert_int_equal(watch_at(0, NULL, 0), 0);
	watch(0);
	device_writes(7);
	expect_pass(cursor, 7, 1);
}

static void descriptors_close_with_the_last_watch(void **state)
{
	set_slot(0, 0, PAGES, 0);
	set_slot(1, 1000, PAGES, 0);
	assert_int_equal(model_watch_descriptors(guest.model), 0);
	watch(0);
	assert_int_equal(watch_at(1, ALIAS + PAGES * guest.page_bytes, 0), 0);
	assert_int_equal(model_watch_descriptors(guest.model), 2);
	remove_slot(0);
	assert_int_equal(model_watch_descriptors(guest.model), 2);
	remove_slot(1);
	assert_int_equal(model_watch_descriptors(guest.model), 0);
	assert_int_equal(model_calls(guest.model, UFFDIO_UNREGISTER), 2);
}

static void a_closed_log_has_unregistered_all(void **state)
{
	struct dl_log *log = guest.log;
	long mappings;

	set_slot(0, 0, PAGES, 0);
	set_slot(1, 1000, PAGES, 0);
	watch(DL_WATCH_AUDIT);
	assert_int_equal(watch_at(1, ALIAS + PAGES * guest.page_bytes, 0), 0);
	join(DL_CURSOR_MISSED);
	dl_log_close(log);
	guest.log = NULL;
	mappings = atomic_load(&guest.mappings);
	assert_int_equal(model_watch_descriptors(guest.model), 0);
	assert_int_equal(model_calls(guest.model, UFFDIO_UNREGISTER), 2);
	assert_true(mappings >= 0);
}

/* With no vCPU running the words of a removal have what the watch finds, and no more. */
static void a_removed_slot_takes_its_pages_along(void **state)
{
	uint64_t words[4] = { 0 };

	set_slot(0, 0, PAGES, 0);
	watch(0);
	join(DL_CURSOR_CLEAN);
	device_writes(66);
	guest_stop(&guest);
	assert_int_equal(dl_slot_remove(guest.log, 0, DL_REMOVE_PAUSED, words, 4), 0);
	assert_int_equal(words[0] | words[2] | words[3], 0);
	assert_int_equal(words[1], 4);
}

static void a_moved_slot_stays_watched(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	watch(0);
	cursor = join(DL_CURSOR_CLEAN);
	assert_int_equal(reset_slot(0, 5000, 0), 0);
	expect_pass(cursor, 5000, PAGES);
	device_writes(5);
	expect_pass(cursor, 5005, 1);
}

/* ---- What is refused ---- */

static void wrong_arguments(void **state)
{
	struct guest_block *block = set_slot(0, 0, PAGES, 0);

	assert_int_equal(dl_slot_watch(NULL, 0, ALIAS, 0), -EINVAL);
	assert_int_equal(watch_at(0, ALIAS, 1), -EINVAL);
	assert_int_equal(watch_at(0, ALIAS, 4), -EINVAL);
	expect_error("flags");
	assert_int_equal(watch_at(0, NULL, DL_WATCH_AUDIT), -EINVAL);
	assert_int_equal(watch_at(7, ALIAS, 0), -ENOENT);
	assert_int_equal(watch_at(7, NULL, 0), -ENOENT);
	assert_int_equal(watch_at(0, ALIAS + 8, 0), -EINVAL);
	expect_error("alias");
	assert_int_equal(watch_at(0, (char *)(-(uintptr_t)guest.page_bytes), 0), -EINVAL);
	/* The guest's own mapping, and a part of it. */
	assert_int_equal(watch_at(0, (char *)block->memory, 0), -EINVAL);
	assert_int_equal(watch_at(0, (char *)block->memory - guest.page_bytes, 0), -EINVAL);
	expect_error("alias");
	assert_int_equal(model_watch_descriptors(guest.model), 0);
}

static void memory_that_kvm_cannot_log_is_not_watched(void **state)
{
	set_slot(0, 0, PAGES, DL_SLOT_NO_LOG);
	assert_int_equal(watch_at(0, ALIAS, 0), -EINVAL);
	expect_error("NO_LOG");
}

static void an_alias_is_of_one_slot(void **state)
{
	set_slot(0, 0, PAGES, 0);
	set_slot(1, 1000, PAGES, 0);
	watch(0);
	assert_int_equal(watch_at(1, ALIAS, 0), -EEXIST);
	assert_int_equal(watch_at(1, ALIAS + (PAGES - 1) * guest.page_bytes, 0), -EEXIST);
	expect_error("another slot");
	assert_int_equal(watch_at(0, ALIAS + guest.page_bytes, 0), -EBUSY);
	expect_error("end that watch first");
	/* Repeating the call changes nothing. */
	watch(0);
	assert_int_equal(model_calls(guest.model, UFFDIO_REGISTER), 1);
}

/* Memory of hugetlb is the one kind that the kernel registers without UFFDIO_ZEROPAGE. */
static bool register_as_hugetlb(struct guest *g, int fd, unsigned long request, void *arg,
				int *result)
{
	const struct dl_os *below = model_os(g->model);
	struct uffdio_register *range = arg;

	if (request != UFFDIO_REGISTER)
		return false;
	*result = below->ioctl(below->opaque, fd, request, arg);
	range->ioctls &= ~(UINT64_C(1) << _UFFDIO_ZEROPAGE);
	return true;
}

static void memory_of_hugetlb_is_refused(void **state)
{
	set_slot(0, 0, PAGES, 0);
	guest.config.intercept = register_as_hugetlb;
	for (uint32_t flags = 0; flags <= DL_WATCH_AUDIT; flags += DL_WATCH_AUDIT) {
		assert_int_equal(watch_at(0, ALIAS, flags), -EOPNOTSUPP);
		expect_error("hugetlb");
		assert_int_equal(model_watch_descriptors(guest.model), 0);
	}
	guest.config.intercept = NULL;
	watch(0);
}

/* Each system call fails once: nothing is left behind, and the next call succeeds. */
static void a_failure_leaves_nothing(void **state)
{
	static const struct {
		unsigned long request;
		int error, result;
		const char *says;
	} calls[] = {
		{ MODEL_CALL_USERFAULTFD, ENOSYS, -EOPNOTSUPP, "userfaultfd(2)" },
		{ MODEL_CALL_USERFAULTFD, EPERM, -EOPNOTSUPP, "userfaultfd(2)" },
		{ MODEL_CALL_USERFAULTFD, EMFILE, -EMFILE, "userfaultfd(2)" },
		{ UFFDIO_API, EINVAL, -EOPNOTSUPP, "asynchronous" },
		{ MODEL_CALL_PAGEMAP, ENOENT, -EOPNOTSUPP, "PAGEMAP_SCAN" },
		{ MODEL_CALL_PAGEMAP, EACCES, -EOPNOTSUPP, "PAGEMAP_SCAN" },
		{ MODEL_PAGEMAP_SCAN, ENOTTY, -EOPNOTSUPP, "PAGEMAP_SCAN" },
		{ MODEL_CALL_MMAP, ENOMEM, -ENOMEM, "memory" },
		{ UFFDIO_REGISTER, EBUSY, -EBUSY, "post-copy" },
		{ UFFDIO_REGISTER, EINVAL, -EINVAL, "alias" },
		{ UFFDIO_REGISTER, ENOMEM, -ENOMEM, "alias" },
	};
	long mappings = 0;

	set_slot(0, 0, PAGES, 0);
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		fail_calls(calls[i].request, 0, 1, calls[i].error);
		mappings = atomic_load(&guest.mappings);
		assert_int_equal(watch_at(0, ALIAS, DL_WATCH_AUDIT), calls[i].result);
		expect_error(calls[i].says);
		assert_int_equal(model_watch_descriptors(guest.model), 0);
		assert_int_equal(atomic_load(&guest.mappings), mappings);
		assert_int_equal(model_faults_injected(guest.model), i + 1);
		model_faults_clear(guest.model);
	}
	watch(DL_WATCH_AUDIT);
}

/* The first scan is that of the check, then the alias, then two for each part of it. */
static void a_failure_while_it_is_armed_leaves_nothing(void **state)
{
	long mappings;

	set_slot(0, 0, PAGES, 0);
	mappings = atomic_load(&guest.mappings);
	for (uint32_t skip = 1; skip < 4; skip++) {
		fail_calls(MODEL_PAGEMAP_SCAN, skip, 1, EFAULT);
		assert_int_equal(watch_at(0, ALIAS, DL_WATCH_AUDIT), -EFAULT);
		assert_int_equal(model_faults_injected(guest.model), skip);
		model_faults_clear(guest.model);
		assert_int_equal(model_watch_descriptors(guest.model), 0);
		assert_int_equal(atomic_load(&guest.mappings), mappings);
		assert_int_equal(model_calls(guest.model, UFFDIO_UNREGISTER), skip);
	}
	/* Marks are not recorded any more. */
	assert_int_equal(dl_mark_gpa(guest.log, 0, UINT64_C(1) << 40, 1), 0);
}

/* The kernel may have protected pages that it did not report. */
static void a_failed_scan_makes_everything_pending(void **state)
{
	struct dl_cursor *cursor;

	set_slot(0, 0, PAGES, 0);
	watch(0);
	cursor = join(DL_CURSOR_CLEAN);
	device_writes(5);
	assert_int_equal(
		model_fault(guest.model, &(struct model_fault){ .request = MODEL_PAGEMAP_SCAN,
								.times = 1,
								.error = EPERM,
								.after = true }),
		0);
	assert_int_equal(dl_harvest(cursor, 0, NULL), -EPERM);
	expect_error("scanned");
	expect_pass(cursor, 0, PAGES);
	expect_empty_pass(cursor);
}

/* ---- Kernels without it ---- */

static void before_linux_6_7_nothing_is_watched(void **state)
{
	struct dl_config is = { .size = sizeof(is) };

	assert_int_equal(dl_log_config(guest.log, &is), 0);
	assert_int_equal(is.has, 0);
	set_slot(0, 0, PAGES, 0);
	assert_int_equal(watch_at(0, ALIAS, 0), -EOPNOTSUPP);
	expect_error("6.7");
	/* Where the scan is missing, userfaultfd(2) is not called at all. */
	assert_int_equal(model_calls(guest.model, MODEL_CALL_USERFAULTFD), 0);
}

static void the_kernel_says_what_it_has(void **state)
{
	struct dl_config is = { .size = sizeof(is) }, would_be = { .size = sizeof(would_be) };
	struct dl_os os = *model_os(guest.model);
	const struct dl_options options = { .size = sizeof(options), .os = &os };

	assert_int_equal(dl_log_config(guest.log, &is), 0);
	assert_int_equal(is.has & DL_HAS_WATCH, DL_HAS_WATCH);
	assert_int_equal(dl_probe(guest.vm_fd, &options, &would_be, NULL, 0), 0);
	assert_int_equal(would_be.has & DL_HAS_WATCH, DL_HAS_WATCH);
	assert_int_equal(model_watch_descriptors(guest.model), 0);
	os.userfaultfd = NULL;
	assert_int_equal(dl_probe(guest.vm_fd, &options, &would_be, NULL, 0), 0);
	assert_int_equal(would_be.has & DL_HAS_WATCH, 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		rule_tests(a_write_through_the_alias_needs_no_mark),
		rule_tests(what_was_written_before_the_watch_is_not_found),
		rule_tests(every_cursor_gets_what_one_has_scanned),
		rule_test(ring, a_plan_knows_what_a_device_wrote),
		rule_tests(only_slots_that_the_cursor_covers_are_scanned),
		rule_tests(a_take_scans_if_it_harvests),
		rule_test(ring, a_scan_goes_on_where_it_stopped),
		rule_tests(two_slots_share_one_mapping),
		rule_tests(a_younger_slot_over_the_memory_can_be_the_watched_one),
		rule_tests(what_was_written_before_the_end_is_pending),
		rule_test(ring, descriptors_close_with_the_last_watch),
		rule_test(ring, a_closed_log_has_unregistered_all),
		rule_tests(a_removed_slot_takes_its_pages_along),
		rule_tests(a_moved_slot_stays_watched),
		rule_test(ring, wrong_arguments),
		rule_test(ring, memory_that_kvm_cannot_log_is_not_watched),
		rule_test(ring, an_alias_is_of_one_slot),
		rule_test(ring, memory_of_hugetlb_is_refused),
		rule_test(ring, a_failure_leaves_nothing),
		rule_test(ring, a_failure_while_it_is_armed_leaves_nothing),
		rule_tests(a_failed_scan_makes_everything_pending),
		rule_test(oldest, before_linux_6_7_nothing_is_watched),
		rule_test(ring, the_kernel_says_what_it_has),
	};

	if (reserve_alias())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
