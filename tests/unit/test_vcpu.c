/* SPDX-License-Identifier: MIT */
/* vCPUs that are parked, added again, and drained in every state. */
#include "cmocka_all.h"
#include "ring/drain.h"
#include "guest.h"
#include "log.h"
#include "pages/publish.h"
#include "pages/tsan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { PAGES = 600, SOFT_LIMIT = 192, ENTRIES = 256 };

static struct guest guest;

static void begin(uint32_t mode)
{
	const struct guest_config config = { .options = { .mode = mode, .ring_entries = ENTRIES } };

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
}

static int setup_ring(void **state)
{
	begin(DL_MODE_RING);
	return guest_try_join(&guest, DL_CURSOR_CLEAN);
}

static int setup_bitmap(void **state)
{
	begin(DL_MODE_BITMAP);
	return guest_try_join(&guest, DL_CURSOR_CLEAN);
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define ring_test(f)   cmocka_unit_test_setup_teardown(f, setup_ring, teardown)
#define bitmap_test(f) cmocka_unit_test_setup_teardown(f, setup_bitmap, teardown)

static void fail_once(unsigned long request, uint32_t skip, int error)
{
	const struct model_fault fault = {
		.request = request, .skip = skip, .times = 1, .error = error
	};

	assert_int_equal(model_fault(guest.model, &fault), 0);
}

static void write_pages(struct guest_vcpu *vcpu, uint64_t first, uint64_t n)
{
	for (uint64_t page = first; page < first + n; page++)
		assert_int_equal(guest_write(&guest, vcpu, 0, page), 0);
}

/* Writes until the ring is full. */
static void fill(struct guest_vcpu *vcpu)
{
	uint64_t page = 0;

	while (!model_vcpu_write(guest.model, vcpu->fd, 0, page * 4096, &page, 8))
		page++;
	assert_true(page == SOFT_LIMIT || page == SOFT_LIMIT - 1);
}

static struct model_ring ring_of(const struct guest_vcpu *vcpu)
{
	struct model_ring ring;

	assert_int_equal(model_vcpu_ring(guest.model, vcpu->fd, &ring), 0);
	return ring;
}

static struct dl_stats stats_of(const struct guest_vcpu *vcpu)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	assert_int_equal(dl_vcpu_stats(vcpu->handle, &stats), 0);
	return stats;
}

static void a_removed_vcpu_is_still_harvested(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);
	uint64_t pages[4];

	write_pages(vcpu, 7, 1);
	dl_vcpu_remove(vcpu->handle);
	vcpu->handle = NULL;
	assert_int_equal(guest_pass(&guest, 0, pages, 4), 1);
	assert_int_equal(pages[0], 7);
	write_pages(vcpu, 9, 1);
	assert_int_equal(guest_pass(&guest, DL_HARVEST_PAUSED, pages, 4), 1);
	assert_int_equal(pages[0], 9);
}

static void a_vcpu_added_again_continues_with_its_ring(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true), *other = guest_vcpu(&guest, true);
	uint64_t pages[80];

	for (uint64_t round = 0; round < 20; round++) {
		write_pages(vcpu, 20 * round, 20);
		write_pages(other, 20 * round + 5, 20);
		dl_vcpu_remove(vcpu->handle);
		vcpu->handle = NULL;
		if (round % 3 == 0)
			assert_int_equal(guest_pass(&guest, 0, pages, 80), 25);
		guest_vcpu_add(&guest, vcpu);
		assert_int_equal(
			dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &(struct dl_vcpu *){ NULL }),
			-EEXIST);
		if (round % 3)
			assert_int_equal(guest_pass(&guest, 0, pages, 80), 25);
	}
	assert_int_equal(guest_stats(&guest).overflows, 0);
	assert_int_equal(stats_of(vcpu).entries + stats_of(other).entries,
			 guest_stats(&guest).entries);
}

static void a_full_ring_is_drained_and_the_vcpu_runs(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);

	fill(vcpu);
	assert_int_equal(model_vcpu_enter(guest.model, vcpu->fd), KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_int_equal(model_vcpu_enter(guest.model, vcpu->fd), 0);
	assert_int_equal(ring_of(vcpu).reset_index, SOFT_LIMIT);
	assert_int_equal(stats_of(vcpu).full_exits, 1);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
}

/* A drain resets its own entries and touches no other ring. */
static void a_drain_touches_one_ring_only(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true), *other = guest_vcpu(&guest, true);

	write_pages(vcpu, 0, 10);
	write_pages(other, 10, 10);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_int_equal(ring_of(vcpu).reset_index, 10);
	assert_int_equal(ring_of(other).reset_index, 0);
	assert_int_equal(guest_pending(&guest), 10 * 4096);
}

static void a_failed_reset_is_reported_and_loses_nothing(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);
	uint64_t pages[PAGES];

	write_pages(vcpu, 0, 10);
	fail_once(KVM_RESET_DIRTY_RINGS, 0, EIO);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), -EIO);
	assert_int_equal(guest_pending(&guest), 0);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_true(guest_pass(&guest, 0, pages, PAGES) >= 10);
}

static void a_full_ring_is_drained_when_logging_is_off(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);

	fill(vcpu);
	guest_leave(&guest);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_int_equal(model_vcpu_enter(guest.model, vcpu->fd), 0);
	guest_join(&guest, DL_CURSOR_CLEAN);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), 0);
}

static void a_closed_log_lets_its_vcpus_run(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);
	struct dl_stats stats = { .size = sizeof(stats) };

	fill(vcpu);
	dl_log_close(guest.log);
	guest.log = NULL;
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_int_equal(model_vcpu_enter(guest.model, vcpu->fd), 0);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_int_equal(dl_vcpu_stats(vcpu->handle, &stats), -ECANCELED);
	dl_vcpu_remove(vcpu->handle);
	vcpu->handle = NULL;
	/* The cursor is the last handle. */
	assert_int_equal(guest.duplicates, 1);
	guest_leave(&guest);
	assert_int_equal(guest.duplicates, 0);
}

/* A vCPU whose ring is out of sync when the log is closed must still enter the guest again. */
static void close_while_out_of_sync(struct guest_vcpu *vcpu)
{
	for (uint64_t i = 0; i < 400; i++)
		assert_int_equal(
			model_vcpu_write_unchecked(guest.model, vcpu->fd, 0, i * 4096, NULL, 8), 0);
	assert_int_equal(model_vcpu_enter(guest.model, vcpu->fd), KVM_EXIT_DIRTY_RING_FULL);
	dl_log_close(guest.log);
	guest.log = NULL;
	guest_leave(&guest);
	assert_int_equal(guest.duplicates, 1);
	/* Aborts if the vCPU never enters the guest. */
	assert_int_equal(guest_write(&guest, vcpu, 0, 5), 0);
	dl_vcpu_remove(vcpu->handle);
	vcpu->handle = NULL;
	assert_int_equal(guest.duplicates, 0);
}

static void a_closed_log_resynchronises_its_vcpus(void **state)
{
	close_while_out_of_sync(guest_vcpu(&guest, true));
}

static void vcpus_removed_before_a_close_do_not_end_the_drains_of_others(void **state)
{
	struct guest_vcpu *first = guest_vcpu(&guest, true), *left = guest_vcpu(&guest, true);
	struct guest_vcpu *last = guest_vcpu(&guest, true);

	dl_vcpu_remove(first->handle);
	dl_vcpu_remove(last->handle);
	first->handle = last->handle = NULL;
	close_while_out_of_sync(left);
}

static void a_close_without_vcpus_closes_the_vm(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);

	dl_vcpu_remove(vcpu->handle);
	vcpu->handle = NULL;
	guest_leave(&guest);
	dl_log_close(guest.log);
	guest.log = NULL;
	assert_int_equal(guest.duplicates, 0);
}

/* The kernel walks the rings in the order of the vCPUs, the harvest in reverse. */
static void a_reset_that_skips_another_ring_is_repeated(void **state)
{
	const struct model_reset_fault cut = { .times = 1, .stop = true, .stop_after_entries = 10 };
	struct guest_vcpu *first = guest_vcpu(&guest, true), *second = guest_vcpu(&guest, true);
	uint64_t pending_bytes;

	write_pages(first, 0, 10);
	write_pages(second, 100, 10);
	model_reset_fault(guest.model, &cut);
	assert_int_equal(dl_harvest(guest.cursor, 0, &pending_bytes), 0);
	assert_int_equal(guest_stats(&guest).short_resets, 1);
	assert_int_equal(guest_stats(&guest).entries, 20);
	/* The dropped batch caused a repair, which reports all pages. */
	assert_int_equal(pending_bytes, PAGES * 4096);
	assert_int_equal(guest_stats(&guest).new_pages, 20);
}

/*
 * A resync makes a reset, which may be cut short. No other ring's cells may be released by then, or
 * they would be consumed unprotected, and unnoticed.
 */
static void a_resync_consumes_no_cells_of_other_rings(void **state)
{
	const struct model_reset_fault cut = {
		.times = 1, .stop = true, .stop_after_entries = 1, .drop_batch = true
	};
	struct guest_vcpu *healthy = guest_vcpu(&guest, true), *other = guest_vcpu(&guest, true);
	uint64_t pages[PAGES];
	int n;

	for (uint64_t i = 0; i <= ENTRIES; i++) {
		assert_int_equal(
			model_vcpu_write_unchecked(guest.model, other->fd, 0, i * 4096, NULL, 8),
			0);
		if (i + 1 == ENTRIES)
			assert_int_equal(guest_pass(&guest, 0, pages, PAGES), PAGES);
	}
	write_pages(healthy, 7, 1);
	model_reset_fault(guest.model, &cut);
	assert_true(guest_pass(&guest, 0, pages, PAGES) > 0);
	write_pages(healthy, 7, 1);
	n = guest_pass(&guest, 0, pages, PAGES);
	while (n > 0 && pages[n - 1] != 7)
		n--;
	assert_true(n > 0);
}

static void a_vcpu_that_is_left_keeps_the_vm_open(void **state)
{
	struct guest_vcpu *removed = guest_vcpu(&guest, true), *left = guest_vcpu(&guest, true);

	dl_vcpu_remove(removed->handle);
	guest_leave(&guest);
	dl_log_close(guest.log);
	guest.log = NULL;
	assert_int_equal(guest.duplicates, 1);
	dl_vcpu_remove(left->handle);
	removed->handle = left->handle = NULL;
	assert_int_equal(guest.duplicates, 0);
}

static void handles_may_be_released_in_any_order(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true), *other = guest_vcpu(&guest, true);

	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	dl_vcpu_remove(other->handle);
	dl_log_close(guest.log);
	dl_cursor_end(guest.cursor, 0);
	dl_vcpu_remove(vcpu->handle);
	guest.log = NULL;
	vcpu->handle = other->handle = NULL;
}

static void expect_all_pages(uint32_t flags, int n)
{
	uint64_t pages[PAGES];

	assert_int_equal(guest_pass(&guest, flags, pages, PAGES), n);
	for (int i = 0; i < n; i++)
		assert_int_equal(pages[i], i);
}

/* More vCPUs than one group of the list holds. */
__attribute__((unused)) static void many_vcpus_are_harvested_together(void **state)
{
	enum { MANY = 2 * VCPU_GROUP + 3 };
	static const uint32_t flags[] = { 0, 0, DL_HARVEST_PAUSED };
	static struct guest_vcpu many[MANY];
	struct dl_vcpu *again = NULL;

	for (int i = 0; i < MANY; i++) {
		many[i].fd = model_vcpu_create(guest.model, guest.vm_fd);
		guest_vcpu_add(&guest, &many[i]);
	}
	for (int pass = 0; pass < 3; pass++) {
		for (int i = 0; i < MANY; i++)
			write_pages(&many[i], (uint64_t)i, 1);
		expect_all_pages(flags[pass], MANY);
	}
	assert_int_equal(guest_stats(&guest).entries, 3 * MANY);
	assert_int_equal(stats_of(&many[MANY - 1]).entries, 3);
	for (int i = 0; i < MANY; i++)
		assert_int_equal(dl_vcpu_add(guest.log, many[i].fd, 0, 0, &again), -EEXIST);
	for (int i = 0; i < MANY; i++)
		dl_vcpu_remove(many[i].handle);
	/* Includes parked vCPUs. */
	write_pages(&many[MANY - 1], 0, 1);
	expect_all_pages(0, 1);
}

static void a_drain_does_nothing_in_bitmap_mode(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);
	unsigned int resets = guest.resets;

	write_pages(vcpu, 0, 400);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_int_equal(guest.resets, resets);
	assert_int_equal(stats_of(vcpu).entries, 0);
	dl_vcpu_remove(vcpu->handle);
	guest_vcpu_add(&guest, vcpu);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
}

/* More vCPUs than a group holds, added while others are harvested. */
static void the_list_of_vcpus_grows_while_it_is_harvested(void **state)
{
	enum { MANY = 3 * VCPU_GROUP + 1 };
	static struct dl_vcpu list[MANY];
	struct dli_vcpu_list vcpus = { 0 };
	struct dl_vcpu *vcpu = NULL;
	int n = 0;

	guest_vcpu(&guest, true);
	guest_vcpu(&guest, true);
	assert_int_equal(dli_vcpu_list_init(&vcpus), 0);
	memset(list, 0, sizeof(list));
	for (int i = 0; i < MANY; i++) {
		list[i].ring = guest.vcpus[i + 1 == MANY].handle->ring;
		assert_int_equal(dli_vcpu_list_append(&vcpus, &list[i]), 0);
	}
	while ((vcpu = dli_vcpu_list_next(&vcpus, vcpu)))
		assert_ptr_equal(vcpu, &list[n++]);
	assert_int_equal(n, MANY);
	write_pages(&guest.vcpus[1], 0, 10);
	assert_int_equal(dli_drain_all(&vcpus, &guest.log->reset, false, &guest.log->slots), 0);
	assert_int_equal(guest_pending(&guest) / guest.page_bytes, 10);
	for (struct dli_vcpu_group *group = dli_vcpu_group_next(&vcpus.first), *next; group;
	     group = next) {
		next = dli_vcpu_group_next(group);
		free(group);
	}
	dli_ring_publish_head(guest.vcpus[0].handle->ring, NULL);
	dli_ring_publish_head(guest.vcpus[1].handle->ring, NULL);
	pthread_mutex_destroy(&vcpus.lock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ring_test(a_removed_vcpu_is_still_harvested),
		ring_test(a_vcpu_added_again_continues_with_its_ring),
		ring_test(a_full_ring_is_drained_and_the_vcpu_runs),
		ring_test(a_drain_touches_one_ring_only),
		ring_test(a_failed_reset_is_reported_and_loses_nothing),
		ring_test(a_full_ring_is_drained_when_logging_is_off),
		ring_test(a_closed_log_lets_its_vcpus_run),
		ring_test(a_closed_log_resynchronises_its_vcpus),
		ring_test(vcpus_removed_before_a_close_do_not_end_the_drains_of_others),
		ring_test(a_close_without_vcpus_closes_the_vm),
		ring_test(a_reset_that_skips_another_ring_is_repeated),
		ring_test(a_resync_consumes_no_cells_of_other_rings),
		ring_test(a_vcpu_that_is_left_keeps_the_vm_open),
		ring_test(handles_may_be_released_in_any_order),
		bitmap_test(handles_may_be_released_in_any_order),
		ring_test(the_list_of_vcpus_grows_while_it_is_harvested),
#ifndef DLI_TSAN /* ThreadSanitizer aborts if one thread holds more than 64 locks */
		ring_test(many_vcpus_are_harvested_together),
#endif
		bitmap_test(a_drain_does_nothing_in_bitmap_mode),
	};

	return RUN_TESTS("vcpus", tests);
}
