/* SPDX-License-Identifier: MIT */
/* Cursors come and go: the ioctls, their order, and the state after a failure. */
#include "cmocka_all.h"
#include "guest.h"
#include "log.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum { SLOTS = 3, PAGES = 100, MAX_CALLS = 64 };

static struct guest guest;

/* The ioctls that change something, and their results. */
static struct {
	struct {
		unsigned long request;
		uint32_t first, flags;
		uint64_t value;
	} calls[MAX_CALLS];
	unsigned int n;
} seen;

static bool watch(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	const struct kvm_userspace_memory_region *region = arg;
	const struct kvm_enable_cap *cap = arg;

	if (seen.n == MAX_CALLS)
		return false;
	seen.calls[seen.n].request = request;
	if (request == KVM_SET_USER_MEMORY_REGION) {
		seen.calls[seen.n].first = region->slot;
		seen.calls[seen.n].flags = region->flags;
		seen.calls[seen.n++].value = region->memory_size;
	} else if (request == KVM_ENABLE_CAP) {
		seen.calls[seen.n].first = cap->cap;
		seen.calls[seen.n++].value = cap->args[0];
	} else if (request == KVM_GET_DIRTY_LOG ||
		   (request == KVM_RESET_DIRTY_RINGS && g->log && dli_log_is_ring(g->log))) {
		/* In bitmap mode a reset only asks whether rings are on. */
		seen.n++;
	}
	return false;
}

static void begin(uint32_t has, uint32_t mode)
{
	const struct guest_config config = { .model = { .has = has },
					     .options = { .mode = mode },
					     .intercept = watch };

	guest_open(&guest, &config);
	for (uint32_t i = 0; i < SLOTS; i++)
		guest_add_slot(&guest, i, 1000 * i, PAGES);
	seen.n = 0;
}

static void begin_ring(void)
{
	begin(0, DL_MODE_RING);
}

/* Whether the model logs the slot: a kernel write appears in the bitmap, otherwise GET fails. */
static bool is_logged(uint32_t slot)
{
	uint64_t words[2];
	struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = words };
	const struct dl_os *os = model_os(guest.model);

	return os->ioctl(os->opaque, guest.vm_fd, KVM_GET_DIRTY_LOG, &log) != -ENOENT;
}

static void expect_refused(const struct dl_cursor_options *options, int result)
{
	struct dl_cursor *cursor = (struct dl_cursor *)&guest;

	assert_int_equal(dl_cursor_new(guest.log, options, &cursor), result);
	assert_null(cursor);
	assert_int_equal(seen.n, 0);
}

static void arguments_are_checked(void **state)
{
	struct dl_cursor_options options = { .size = sizeof(options) };
	struct dl_cursor *cursor = (struct dl_cursor *)&guest;
	struct dl_cursor_stats stats = { .size = sizeof(stats) };

	begin_ring();
	assert_int_equal(dl_cursor_new(NULL, NULL, &cursor), -EINVAL);
	assert_null(cursor);
	assert_int_equal(dl_cursor_new(guest.log, NULL, NULL), -EINVAL);
#define REFUSE(change)                                                           \
	do {                                                                     \
		options = (struct dl_cursor_options){ .size = sizeof(options) }; \
		change;                                                          \
		expect_refused(&options, -EINVAL);                               \
	} while (0)
	REFUSE(options.size = sizeof(options) - 1);
	REFUSE(options.size = 0);
	REFUSE(options.flags = 1);
	REFUSE(options.flags = 64);
	REFUSE(options.flags = DL_CURSOR_MISSED | DL_CURSOR_WANTED);
	REFUSE(options.flags = DL_CURSOR_ONE_SLOT | DL_CURSOR_WANTED);
	REFUSE(options.flags = DL_CURSOR_ONE_SLOT; options.slot = 32764);
	REFUSE(options.flags = DL_CURSOR_ONE_SLOT; options.slot = 2 << 16);
#undef REFUSE
	/* Without ONE_SLOT, slot is not looked at. */
	options = (struct dl_cursor_options){ .size = sizeof(options), .slot = 2 << 16 };
	assert_int_equal(dl_cursor_new(guest.log, &options, &guest.cursor), 0);
	assert_int_equal(dl_cursor_stats(NULL, &stats), -EINVAL);
	assert_int_equal(dl_cursor_stats(guest.cursor, NULL), -EINVAL);
	stats.size--;
	assert_int_equal(dl_cursor_stats(guest.cursor, &stats), -EINVAL);
	dl_cursor_free(NULL);
	guest_close(&guest);
}

static void options_may_be_of_another_release(void **state)
{
	struct {
		struct dl_cursor_options known;
		uint64_t tail;
	} options = { .known = { .size = sizeof(options) } };

	begin_ring();
	options.tail = 1;
	expect_refused(&options.known, -E2BIG);
	options.tail = 0;
	assert_int_equal(dl_cursor_new(guest.log, &options.known, &guest.cursor), 0);
	guest_close(&guest);
}

/* A vCPU that nobody added writes unseen. */
static void fewer_vcpus_than_expected_are_refused(void **state)
{
	struct dl_cursor_options options = { .size = sizeof(options), .vcpus = 2 };

	begin_ring();
	guest_vcpu(&guest, true);
	seen.n = 0;
	expect_refused(&options, -EBUSY);
	guest_vcpu(&guest, true);
	assert_int_equal(dl_cursor_new(guest.log, &options, &guest.cursor), 0);
	guest_close(&guest);
	/* The bitmap sees all of them. */
	begin(0, DL_MODE_BITMAP);
	assert_int_equal(dl_cursor_new(guest.log, &options, &guest.cursor), 0);
	guest_close(&guest);
}

static void every_page_is_pending_for_a_new_cursor(void **state)
{
	uint64_t pages[SLOTS * PAGES];

	begin_ring();
	guest_join(&guest, 0);
	assert_int_equal(guest_pending(&guest), SLOTS * PAGES * 4096);
	assert_int_equal(guest_pass(&guest, 0, pages, SLOTS * PAGES), SLOTS * PAGES);
	for (uint64_t i = 0; i < SLOTS * PAGES; i++)
		assert_int_equal(pages[i], i / PAGES * 1000 + i % PAGES);
	guest_close(&guest);
}

static void no_page_is_pending_for_a_clean_cursor(void **state)
{
	static const uint32_t modes[] = { DL_MODE_RING, DL_MODE_BITMAP };
	uint64_t page;

	for (int i = 0; i < 2; i++) {
		struct guest_vcpu *vcpu;

		begin(0, modes[i]);
		vcpu = guest_vcpu(&guest, true);
		/* Written pages are mapped writable when logging begins. */
		assert_int_equal(guest_write(&guest, vcpu, 0, 1005), 0);
		guest_join(&guest, DL_CURSOR_CLEAN);
		assert_int_equal(guest_pass(&guest, 0, &page, 1), 0);
		assert_int_equal(guest_write(&guest, vcpu, 0, 1005), 0);
		assert_int_equal(guest_pass(&guest, 0, &page, 1), 1);
		assert_int_equal(page, 1005);
		guest_close(&guest);
	}
}

/* Each slot once, in any order. */
static void expect_flags(unsigned int first, uint32_t flags)
{
	uint32_t slots = 0;

	assert_int_equal(seen.n, first + SLOTS);
	for (unsigned int i = first; i < seen.n; i++) {
		slots |= 1u << seen.calls[i].first;
		assert_int_equal(seen.calls[i].flags, flags);
		assert_int_equal(seen.calls[i].value, PAGES * 4096);
	}
	assert_int_equal(slots, (1u << SLOTS) - 1);
}

static void each_slot_gets_its_flag_and_loses_it(void **state)
{
	begin_ring();
	guest_join(&guest, 0);
	expect_flags(0, KVM_MEM_LOG_DIRTY_PAGES);
	guest_leave(&guest);
	expect_flags(SLOTS, 0);
	guest_close(&guest);
}

/* INITIALLY_SET reports every page, so only a cursor that begins with all of them uses it. */
static void manual_protect_is_chosen_before_any_flag(void **state)
{
	begin(0, DL_MODE_BITMAP);
	guest_join(&guest, 0);
	assert_int_equal(seen.calls[0].request, KVM_ENABLE_CAP);
	assert_int_equal(seen.calls[0].first, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	assert_int_equal(seen.calls[0].value, 3);
	assert_int_equal(seen.n, 1 + SLOTS);
	guest_leave(&guest);
	seen.n = 0;
	guest_join(&guest, DL_CURSOR_CLEAN);
	assert_int_equal(seen.calls[0].request, KVM_ENABLE_CAP);
	assert_int_equal(seen.calls[0].value, 1);
	guest_close(&guest);
	begin(MODEL_HAS_MANUAL_PROTECT, DL_MODE_BITMAP);
	guest_join(&guest, 0);
	assert_int_equal(seen.calls[0].value, 1);
	guest_close(&guest);
	begin(MODEL_HAS_NOTHING, DL_MODE_BITMAP);
	guest_join(&guest, 0);
	assert_int_equal(seen.n, SLOTS);
	guest_close(&guest);
}

static void manual_protect_that_fails_leaves_logging_off(void **state)
{
	const struct model_fault fault = { .request = KVM_ENABLE_CAP, .times = 1, .error = EPERM };

	begin(0, DL_MODE_BITMAP);
	model_fault(guest.model, &fault);
	assert_int_equal(guest_try_join(&guest, 0), -EPERM);
	assert_null(guest.cursor);
	guest_join(&guest, 0);
	guest_close(&guest);
}

static void a_failed_slot_is_named_and_the_others_are_switched_off_again(void **state)
{
	char text[600];

	begin(0, DL_MODE_BITMAP);
	guest_fail_region(&guest, 1, 0, 1);
	assert_int_equal(guest_try_join(&guest, 0), -ENOMEM);
	for (uint32_t i = 0; i < SLOTS; i++)
		assert_false(is_logged(i));
	assert_true(dl_log_describe(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "slot 1 of address space 0"));
	assert_non_null(strstr(text, "Cannot allocate memory"));
	assert_null(guest.cursor);
	/* Nothing is recorded for it. */
	assert_int_equal(dl_mark_slot(guest.log, 77, 0, 1), 0);
	guest_join(&guest, DL_CURSOR_CLEAN);
	guest_close(&guest);
}

static void a_slot_that_cannot_be_switched_off_is_tried_again(void **state)
{
	char text[600];

	begin(0, DL_MODE_BITMAP);
	guest_join(&guest, 0);
	guest_fail_region(&guest, 0, 0, 1);
	guest_leave(&guest);
	assert_true(is_logged(0));
	assert_false(is_logged(1));
	assert_false(is_logged(2));
	assert_true(dl_log_last_error(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "switched off (slot 0"));
	/* The next first cursor begins with it, or the slot's old bitmap would stay. */
	seen.n = 0;
	guest_join(&guest, 0);
	assert_int_equal(seen.calls[0].request, KVM_SET_USER_MEMORY_REGION);
	assert_int_equal(seen.calls[0].first, 0);
	assert_int_equal(seen.calls[0].flags, 0);
	assert_int_equal(seen.calls[1].request, KVM_ENABLE_CAP);
	assert_int_equal(seen.n, 2 + SLOTS);
	guest_close(&guest);
}

static void no_cursor_comes_while_a_slot_cannot_be_switched_off(void **state)
{
	begin(0, DL_MODE_BITMAP);
	guest_join(&guest, 0);
	guest_fail_region(&guest, 2, 0, 2);
	guest_leave(&guest);
	assert_int_equal(guest_try_join(&guest, 0), -ENOMEM);
	guest_join(&guest, 0);
	guest_close(&guest);
}

static void pages_of_a_cursor_go_with_it(void **state)
{
	uint64_t page;

	begin_ring();
	guest_join(&guest, 0);
	guest_leave(&guest);
	guest_join(&guest, DL_CURSOR_CLEAN);
	assert_int_equal(guest_pass(&guest, 0, &page, 1), 0);
	guest_close(&guest);
}

/* An old entry neither dirties a page of a clean cursor nor stays in the ring. */
static void rings_are_emptied_by_the_last_and_by_the_first_cursor(void **state)
{
	struct guest_vcpu *vcpu;
	struct model_ring ring;
	uint64_t page;

	begin_ring();
	vcpu = guest_vcpu(&guest, true);
	guest_join(&guest, DL_CURSOR_CLEAN);
	for (uint64_t i = 0; i < 50; i++)
		assert_int_equal(guest_write(&guest, vcpu, 0, i), 0);
	guest_leave(&guest);
	model_vcpu_ring(guest.model, vcpu->fd, &ring);
	assert_int_equal(ring.dirty_index, 50);
	assert_int_equal(ring.reset_index, 50);
	guest_join(&guest, DL_CURSOR_CLEAN);
	assert_int_equal(guest_pass(&guest, 0, &page, 1), 0);
	guest_close(&guest);
}

static struct guest_vcpu *late_vcpu;

/* The guest writes at the last moment at which a write is recorded. */
static bool write_before_the_flag_goes(struct guest *g, int fd, unsigned long request, void *arg,
				       int *result)
{
	const struct kvm_userspace_memory_region *region = arg;

	if (request == KVM_SET_USER_MEMORY_REGION && !region->flags && late_vcpu)
		assert_int_equal(guest_write(g, late_vcpu, 0, region->guest_phys_addr / 4096), 0);
	return false;
}

/* Otherwise the rings would fill up some day, because nothing drains them any more. */
static void rings_do_not_fill_after_the_drain_of_the_last_cursor(void **state)
{
	struct model_ring ring;

	begin_ring();
	guest.config.intercept = write_before_the_flag_goes;
	late_vcpu = guest_vcpu(&guest, true);
	guest_join(&guest, DL_CURSOR_CLEAN);
	guest_leave(&guest);
	model_vcpu_ring(guest.model, late_vcpu->fd, &ring);
	assert_int_equal(ring.dirty_index, SLOTS);
	assert_int_equal(ring.reset_index, SLOTS);
	late_vcpu = NULL;
	guest_close(&guest);
}

/* It requeues nothing in what comes after it. */
static void a_cursor_with_an_open_pass_can_go(void **state)
{
	struct dl_extent extent;

	begin_ring();
	guest_join(&guest, 0);
	assert_int_equal(dl_harvest(guest.cursor, DL_HARVEST_PAUSED, NULL), 0);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), 1);
	guest_leave(&guest);
	guest_join(&guest, DL_CURSOR_CLEAN);
	assert_int_equal(guest_pending(&guest), 0);
	/* A tale of its paused pass would be that every mark is late. */
	assert_int_equal(dl_mark_slot(guest.log, 0, 0, 1), 0);
	assert_int_equal(guest_stats(&guest).late_marks, 0);
	guest_close(&guest);
}

static void a_reset_that_fails_fails_the_first_cursor(void **state)
{
	const struct model_fault fault = { .request = KVM_RESET_DIRTY_RINGS,
					   .times = 1,
					   .error = EIO };
	struct guest_vcpu *vcpu;
	uint64_t page;

	begin_ring();
	vcpu = guest_vcpu(&guest, true);
	guest_join(&guest, DL_CURSOR_CLEAN);
	assert_int_equal(guest_write(&guest, vcpu, 0, 7), 0);
	model_fault(guest.model, &fault);
	guest_leave(&guest);
	model_fault(guest.model, &fault);
	assert_int_equal(guest_try_join(&guest, DL_CURSOR_CLEAN), -EIO);
	guest_join(&guest, DL_CURSOR_CLEAN);
	/* More pages than were written may be reported, never fewer. */
	assert_int_equal(guest_write(&guest, vcpu, 0, 7), 0);
	assert_int_not_equal(guest_pass(&guest, 0, &page, 1), 0);
	guest_close(&guest);
}

/* Switching logging on protects every page, which is what a repair is for. */
static void a_first_cursor_serves_a_repair_requested_before(void **state)
{
	begin_ring();
	dli_reset_request_repair(&guest.log->reset);
	guest_join(&guest, DL_CURSOR_CLEAN);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), 0);
	guest_close(&guest);
}

static int refuse_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	return -EPERM;
}

/* A thread that could be parked in a handler while it holds a lock must not take one. */
static void calls_fail_if_signals_cannot_be_blocked(void **state)
{
	int (*mask)(void *, int, const sigset_t *, sigset_t *);
	struct guest_vcpu *added, *other;
	struct dl_cursor *second;
	struct dl_extent extent;
	struct dl_slot slot;
	uint64_t words[2];

	begin_ring();
	added = guest_vcpu(&guest, true);
	other = guest_vcpu(&guest, false);
	slot = guest_slot(&guest, 7, 7000, &guest.blocks[0], 0, 1);
	guest_join(&guest, 0);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	mask = guest.os.signal_mask;
	guest.os.signal_mask = refuse_mask;
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), -EPERM);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), -EPERM);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), -EPERM);
	assert_int_equal(dl_cursor_take(guest.cursor, 0, 0, words, 2, NULL), -EPERM);
	assert_int_equal(guest_new_cursor(&guest, 0, 0, &second), -EPERM);
	assert_null(second);
	assert_int_equal(dl_slot_set(guest.log, &slot), -EPERM);
	assert_int_equal(dl_slot_clear(guest.log, 0, 0, 4096), -EPERM);
	assert_int_equal(dl_slot_remove(guest.log, 0, 0, NULL, 0), -EPERM);
	assert_int_equal(dl_vcpu_add(guest.log, other->fd, 0, 0, &other->handle), -EPERM);
	assert_null(other->handle);
	assert_int_equal(dl_vcpu_drain(added->handle, 0), -EPERM);
	guest.os.signal_mask = mask;
	/* The pass is still open. */
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), 1);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
	guest_close(&guest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arguments_are_checked),
		cmocka_unit_test(options_may_be_of_another_release),
		cmocka_unit_test(fewer_vcpus_than_expected_are_refused),
		cmocka_unit_test(every_page_is_pending_for_a_new_cursor),
		cmocka_unit_test(no_page_is_pending_for_a_clean_cursor),
		cmocka_unit_test(each_slot_gets_its_flag_and_loses_it),
		cmocka_unit_test(manual_protect_is_chosen_before_any_flag),
		cmocka_unit_test(manual_protect_that_fails_leaves_logging_off),
		cmocka_unit_test(a_failed_slot_is_named_and_the_others_are_switched_off_again),
		cmocka_unit_test(a_slot_that_cannot_be_switched_off_is_tried_again),
		cmocka_unit_test(no_cursor_comes_while_a_slot_cannot_be_switched_off),
		cmocka_unit_test(pages_of_a_cursor_go_with_it),
		cmocka_unit_test(rings_are_emptied_by_the_last_and_by_the_first_cursor),
		cmocka_unit_test(rings_do_not_fill_after_the_drain_of_the_last_cursor),
		cmocka_unit_test(a_cursor_with_an_open_pass_can_go),
		cmocka_unit_test(a_reset_that_fails_fails_the_first_cursor),
		cmocka_unit_test(a_first_cursor_serves_a_repair_requested_before),
		cmocka_unit_test(calls_fail_if_signals_cannot_be_blocked),
	};

	return RUN_TESTS("join", tests);
}
