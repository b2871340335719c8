/* SPDX-License-Identifier: MIT */
/* Counters: each counts what its name says, and a log's are the sums of its vCPUs' counters. */
#include "cmocka_all.h"
#include "guest.h"
#include "kvm/os.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum { PAGES = 600, SOFT_LIMIT = 192 };

static struct guest guest;
static struct guest_vcpu *vcpus[2];

static void begin(uint32_t has, uint32_t mode)
{
	const struct guest_config config = { .model = { .has = has },
					     .options = { .mode = mode, .ring_entries = 256 } };

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	for (int i = 0; i < 2; i++)
		vcpus[i] = guest_vcpu(&guest, true);
	guest_join(&guest, DL_CURSOR_CLEAN);
}

static int setup(void **state)
{
	begin(0, DL_MODE_RING);
	return 0;
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define stats_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static struct dl_stats of_vcpu(int i)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	assert_int_equal(dl_vcpu_stats(vcpus[i]->handle, &stats), 0);
	return stats;
}

static void write_pages(int vcpu, uint64_t first, uint64_t n)
{
	for (uint64_t page = first; page < first + n; page++)
		assert_int_equal(guest_write(&guest, vcpus[vcpu], 0, page), 0);
}

static void harvest(void)
{
	assert_int_equal(guest_harvest(&guest, 0), 0);
}

static void all_is_zero_at_first(void **state)
{
	const struct dl_stats zero = { .size = sizeof(zero) };
	struct dl_stats stats = guest_stats(&guest), vcpu = of_vcpu(0);

	stats.ioctl_ns = 0;
	assert_memory_equal(&stats, &zero, sizeof(zero));
	assert_memory_equal(&vcpu, &zero, sizeof(zero));
}

static void entries_are_new_pages_or_duplicates(void **state)
{
	struct dl_stats stats;

	write_pages(0, 0, 100);
	harvest();
	/* The pages are still pending, because no pass handed them out. */
	write_pages(0, 50, 100);
	write_pages(1, 0, 10);
	harvest();
	stats = guest_stats(&guest);
	assert_int_equal(stats.entries, 210);
	assert_int_equal(stats.new_pages, 150);
	assert_int_equal(stats.duplicates, 60);
	assert_int_equal(stats.stale_entries, 0);
	assert_int_equal(guest_pending(&guest), 150 * 4096);
	assert_int_equal(stats.resets, 2);
	assert_int_equal(stats.high_water_entries, 100);
	assert_int_equal(of_vcpu(0).entries, 200);
	assert_int_equal(of_vcpu(1).entries, 10);
}

static void a_log_sums_its_vcpus_and_has_the_highest_high_water(void **state)
{
	write_pages(0, 0, 30);
	write_pages(1, 100, 70);
	harvest();
	assert_int_equal(of_vcpu(0).entries, 30);
	assert_int_equal(of_vcpu(1).entries, 70);
	assert_int_equal(of_vcpu(0).high_water_entries, 30);
	assert_int_equal(guest_stats(&guest).entries, 100);
	assert_int_equal(guest_stats(&guest).high_water_entries, 70);
}

static void full_exits_are_counted_per_vcpu(void **state)
{
	write_pages(1, 0, 3 * SOFT_LIMIT);
	assert_int_equal(of_vcpu(0).full_exits, 0);
	assert_true(of_vcpu(1).full_exits >= 2);
	assert_int_equal(of_vcpu(1).full_exits, vcpus[1]->full_exits);
	assert_int_equal(guest_stats(&guest).full_exits, of_vcpu(1).full_exits);
	assert_int_equal(of_vcpu(1).resets, of_vcpu(1).full_exits);
	assert_int_equal(guest_stats(&guest).resets, of_vcpu(1).resets);
	assert_int_equal(guest_stats(&guest).overflows, 0);
}

/* Writes entries of a slot that no longer exists into the ring's memory. */
static void stale_entries_are_counted_and_skipped(void **state)
{
	struct kvm_dirty_gfn *cells = NULL;

	assert_int_equal(
		guest.os.mmap(&guest, vcpus[0]->fd, 64 * 4096, 4096, 3, 1, (void **)&cells), 0);
	write_pages(0, 0, 3);
	__atomic_store_n(&cells[1].slot, 77, __ATOMIC_RELAXED);
	harvest();
	assert_int_equal(guest_stats(&guest).stale_entries, 1);
	assert_int_equal(guest_stats(&guest).new_pages, 2);
	assert_int_equal(guest_stats(&guest).duplicates, 0);
	assert_int_equal(guest_stats(&guest).entries, 3);
	guest.os.munmap(&guest, cells, 4096);
}

static void short_resets_are_counted(void **state)
{
	const struct model_reset_fault fault = { .times = 1,
						 .stop = true,
						 .stop_after_entries = 4 };

	write_pages(0, 0, 10);
	model_reset_fault(guest.model, &fault);
	harvest();
	assert_int_equal(guest_stats(&guest).short_resets, 1);
	assert_int_equal(guest_stats(&guest).resets, 2);
	assert_int_equal(guest_stats(&guest).entries, 10);
}

static void overflows_are_counted(void **state)
{
	for (uint64_t i = 0; i < 300; i++)
		assert_int_equal(
			model_vcpu_write_unchecked(guest.model, vcpus[0]->fd, 0, i * 4096, NULL, 8),
			0);
	harvest();
	assert_int_equal(guest_stats(&guest).overflows, 1);
	assert_int_equal(of_vcpu(0).overflows, 1);
	assert_int_equal(of_vcpu(1).overflows, 0);
}

static void pages_handed_out_are_unacked(void **state)
{
	struct dl_extent run;

	write_pages(0, 10, 20);
	harvest();
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(guest.cursor, &run, 1), 1);
	assert_int_equal(guest_pending(&guest), 0);
	assert_int_equal(guest_unacked(&guest), 20 * 4096);
	run.bytes = 5 * 4096;
	assert_int_equal(dl_cursor_ack(guest.cursor, &run, 1), 0);
	assert_int_equal(guest_unacked(&guest), 15 * 4096);
	dl_cursor_end(guest.cursor, 0);
	assert_int_equal(guest_pending(&guest), 15 * 4096);
}

static void a_bitmap_has_pages_and_no_entries(void **state)
{
	uint64_t before_ns, begin_ns;

	begin(0, DL_MODE_BITMAP);
	write_pages(0, 10, 20);
	before_ns = guest_stats(&guest).ioctl_ns;
	begin_ns = dli_os_now_ns(&guest.os);
	harvest();
	harvest();
	assert_int_equal(guest_stats(&guest).new_pages, 20);
	assert_int_equal(guest_stats(&guest).entries, 0);
	assert_int_equal(guest_stats(&guest).resets, 0);
	assert_true(guest_stats(&guest).ioctl_ns > before_ns);
	assert_true(guest_stats(&guest).ioctl_ns - before_ns <=
		    dli_os_now_ns(&guest.os) - begin_ns);
	guest_close(&guest);
}

static void time_in_ioctls_grows(void **state)
{
	uint64_t before_ns = guest_stats(&guest).ioctl_ns;

	assert_true(before_ns > 0);
	write_pages(0, 10, 20);
	harvest();
	assert_true(guest_stats(&guest).ioctl_ns > before_ns);
}

/* RESET in ring mode; GET, CLEAR and the slot ioctls in bitmap mode. */
static void time_in_ioctls_is_part_of_the_time_of_the_calls(void **state)
{
	static const uint32_t modes[] = { DL_MODE_RING, DL_MODE_BITMAP };

	for (int i = 0; i < 2; i++) {
		uint64_t begin_ns = dli_os_now_ns(&guest.os), ioctl_ns;

		begin(0, modes[i]);
		write_pages(0, 10, 20);
		harvest();
		assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
		ioctl_ns = guest_stats(&guest).ioctl_ns;
		assert_true(ioctl_ns > 0);
		assert_true(ioctl_ns <= dli_os_now_ns(&guest.os) - begin_ns);
		guest_close(&guest);
	}
}

static void structs_may_be_of_another_release(void **state)
{
	struct {
		struct dl_stats known;
		uint64_t tail;
	} stats = { .known = { .size = sizeof(stats) }, .tail = 5 };
	struct dl_stats small = { .size = sizeof(small) - 8 };

	assert_int_equal(dl_log_stats(guest.log, &stats.known), 0);
	assert_int_equal(stats.tail, 0);
	assert_int_equal(stats.known.size, sizeof(stats));
	assert_int_equal(dl_log_stats(guest.log, &small), -EINVAL);
	assert_int_equal(dl_log_stats(NULL, &small), -EINVAL);
	assert_int_equal(dl_log_stats(guest.log, NULL), -EINVAL);
	assert_int_equal(dl_vcpu_stats(vcpus[0]->handle, &small), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		stats_test(all_is_zero_at_first),
		stats_test(entries_are_new_pages_or_duplicates),
		stats_test(a_log_sums_its_vcpus_and_has_the_highest_high_water),
		stats_test(full_exits_are_counted_per_vcpu),
		stats_test(stale_entries_are_counted_and_skipped),
		stats_test(short_resets_are_counted),
		stats_test(overflows_are_counted),
		stats_test(pages_handed_out_are_unacked),
		cmocka_unit_test(a_bitmap_has_pages_and_no_entries),
		stats_test(time_in_ioctls_grows),
		cmocka_unit_test(time_in_ioctls_is_part_of_the_time_of_the_calls),
		stats_test(structs_may_be_of_another_release),
	};

	return RUN_TESTS("stats", tests);
}
