/* SPDX-License-Identifier: MIT */
/* dl_harvest(): its ioctls, their order, and the state after a failure. */
#include "cmocka_all.h"
#include "guest.h"
#include "random.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
	PAGES = 300,
	OTHER_PAGE = 1000,
	MAX_CALLS = 64,
	BACKUP = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP,
};

static struct guest guest;
static struct guest_vcpu *vcpus[2];
static struct {
	unsigned long requests[MAX_CALLS];
	uint32_t slots[MAX_CALLS];
	uint64_t pending_bytes[MAX_CALLS];
	unsigned int n;
} seen;

static bool watch(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	bool has_slot = request == KVM_GET_DIRTY_LOG || request == KVM_SET_USER_MEMORY_REGION;

	if (seen.n == MAX_CALLS || !(has_slot || request == KVM_RESET_DIRTY_RINGS))
		return false;
	seen.requests[seen.n] = request;
	seen.pending_bytes[seen.n] = guest_pending(g);
	seen.slots[seen.n++] = has_slot ? *(const uint32_t *)arg : 0;
	return false;
}

static void begin(uint32_t has, uint32_t mode, uint32_t ring_entries)
{
	const struct guest_config config = {
		.model = { .has = has },
		.options = { .mode = mode, .ring_entries = ring_entries },
		.intercept = watch,
	};

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	guest_add_slot(&guest, 1, OTHER_PAGE, PAGES);
	for (int i = 0; i < 2; i++)
		vcpus[i] = guest_vcpu(&guest, true);
	guest_join(&guest, DL_CURSOR_CLEAN);
	seen.n = 0;
}

static void write_pages(int vcpu, uint64_t first, uint64_t n)
{
	for (uint64_t page = first; page < first + n; page++)
		assert_int_equal(guest_write(&guest, vcpus[vcpu], 0, page), 0);
}

static void fail_once(unsigned long request, int error, bool after)
{
	const struct model_fault fault = {
		.request = request, .times = 1, .error = error, .after = after
	};

	assert_int_equal(model_fault(guest.model, &fault), 0);
}

static void expect_pass(uint32_t flags, uint64_t first, int n)
{
	uint64_t pages[2 * PAGES];

	assert_int_equal(guest_pass(&guest, flags, pages, 2 * PAGES), n);
	for (int i = 0; i < n; i++)
		assert_int_equal(pages[i], first + (uint64_t)i);
}

static uint64_t pending_pages(void)
{
	return guest_pending(&guest) / guest.page_bytes;
}

static void arguments_are_checked(void **state)
{
	begin(0, DL_MODE_RING, 0);
	assert_int_equal(dl_harvest(NULL, 0, NULL), -EINVAL);
	assert_int_equal(dl_harvest(guest.cursor, 4, NULL), -EINVAL);
	assert_int_equal(dl_harvest(guest.cursor, UINT32_MAX, NULL), -EINVAL);
	/* None of them has opened a pass. */
	assert_int_equal(dl_cursor_read(guest.cursor, &(struct dl_extent){ 0 }, 1), -EBUSY);
	guest_close(&guest);
}

static void an_open_pass_refuses_a_harvest_and_collects_nothing(void **state)
{
	uint64_t pending_bytes = 7;

	begin(0, DL_MODE_RING, 0);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	write_pages(0, 0, 3);
	seen.n = 0;
	assert_int_equal(dl_harvest(guest.cursor, 0, &pending_bytes), -EBUSY);
	assert_int_equal(pending_bytes, 7);
	assert_int_equal(seen.n, 0);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	expect_pass(0, 0, 3);
	guest_close(&guest);
}

/* One that finds nothing opens a pass too. */
static void a_harvest_opens_a_pass_unless_it_fails(void **state)
{
	struct dl_extent extent;
	uint64_t pending_bytes = 7;

	begin(0, DL_MODE_RING, 0);
	assert_int_equal(dl_harvest(guest.cursor, 0, &pending_bytes), 0);
	assert_int_equal(pending_bytes, 0);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), 0);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), -EBUSY);
	write_pages(0, 0, 3);
	fail_once(KVM_RESET_DIRTY_RINGS, EIO, false);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), -EIO);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), -EBUSY);
	assert_int_equal(guest_cursor_stats(guest.cursor).passes, 1);
	guest_close(&guest);
}

/* A full copy, with what is dirty and protected first. */
static void a_harvest_of_all_makes_everything_pending(void **state)
{
	static const uint32_t modes[] = { DL_MODE_RING, DL_MODE_BITMAP };
	uint64_t pending_bytes = 0;

	for (int i = 0; i < 2; i++) {
		begin(0, modes[i], 0);
		write_pages(0, 0, 3);
		assert_int_equal(dl_harvest(guest.cursor, DL_HARVEST_ALL, &pending_bytes), 0);
		assert_int_equal(pending_bytes, 2 * PAGES * 4096);
		assert_int_equal(guest_finish_pass(&guest, guest.cursor, NULL, 0), -1);
		write_pages(0, 1, 1);
		expect_pass(DL_HARVEST_PAUSED, 1, 1);
		guest_close(&guest);
	}
}

static void one_reset_serves_all_rings(void **state)
{
	begin(0, DL_MODE_RING, 0);
	write_pages(0, 0, 100);
	write_pages(1, 100, 50);
	expect_pass(0, 0, 150);
	assert_int_equal(seen.n, 1);
	assert_int_equal(seen.requests[0], KVM_RESET_DIRTY_RINGS);
	guest_close(&guest);
}

static void a_harvest_returns_the_pending_bytes(void **state)
{
	uint64_t pending_bytes = 7;

	begin(0, DL_MODE_RING, 0);
	write_pages(0, 0, 10);
	write_pages(1, 5, 10);
	assert_int_equal(dl_harvest(guest.cursor, 0, &pending_bytes), 0);
	assert_int_equal(pending_bytes, 15 * 4096);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	/* It goes with all its pages. */
	assert_int_equal(dl_mark_slot(guest.log, 1, 0, 4096), 0);
	assert_int_equal(guest_pending(&guest), 16 * 4096);
	assert_int_equal(dl_slot_remove(guest.log, 1, 0, NULL, 0), 0);
	assert_int_equal(dl_harvest(guest.cursor, 0, &pending_bytes), 0);
	assert_int_equal(pending_bytes, 15 * 4096);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	fail_once(KVM_RESET_DIRTY_RINGS, EIO, false);
	write_pages(0, 20, 1);
	pending_bytes = 7;
	assert_int_equal(dl_harvest(guest.cursor, 0, &pending_bytes), -EIO);
	assert_int_equal(pending_bytes, 7);
	guest_close(&guest);
}

static void the_backup_is_read_last_and_only_while_paused(void **state)
{
	begin(BACKUP, DL_MODE_RING, 0);
	write_pages(0, 0, 10);
	guest_kernel_write(&guest, 20);
	guest_kernel_write(&guest, OTHER_PAGE + 20);
	expect_pass(0, 0, 10);
	assert_int_equal(seen.n, 1);
	write_pages(1, 5, 1);
	seen.n = 0;
	assert_int_equal(guest_harvest(&guest, DL_HARVEST_PAUSED), 0);
	assert_int_equal(seen.n, 3);
	assert_int_equal(seen.requests[0], KVM_RESET_DIRTY_RINGS);
	assert_int_equal(seen.requests[1], KVM_GET_DIRTY_LOG);
	assert_int_equal(seen.slots[1], 0);
	assert_int_equal(seen.requests[2], KVM_GET_DIRTY_LOG);
	assert_int_equal(seen.slots[2], 1);
	assert_int_equal(pending_pages(), 3);
	/* It can be repeated. */
	guest_kernel_write(&guest, 21);
	assert_int_equal(guest_harvest(&guest, DL_HARVEST_PAUSED), 0);
	assert_int_equal(pending_pages(), 4);
	guest_close(&guest);
}

static void without_backup_there_is_no_bitmap_to_read(void **state)
{
	begin(MODEL_HAS_RING_ACQ_REL, DL_MODE_RING, 0);
	expect_pass(DL_HARVEST_PAUSED, 0, 0);
	assert_int_equal(guest.gets, 0);
	guest_close(&guest);
}

static void in_bitmap_mode_every_slot_is_read(void **state)
{
	begin(0, DL_MODE_BITMAP, 0);
	write_pages(0, 64, 10);
	write_pages(1, 70, 20);
	assert_int_equal(guest_harvest(&guest, 0), 0);
	assert_int_equal(seen.n, 2);
	assert_int_equal(seen.requests[0] | seen.requests[1], KVM_GET_DIRTY_LOG);
	assert_int_equal(pending_pages(), 26);
	expect_pass(DL_HARVEST_PAUSED, 64, 26);
	guest_close(&guest);
}

/* In words that are tested by the cache line, and in the rest after them. */
static void a_page_is_found_anywhere_in_a_bitmap(void **state)
{
	enum { FIRST = 5000, WORDS = 17 };

	begin(0, DL_MODE_BITMAP, 0);
	guest_add_slot(&guest, 2, FIRST, WORDS * 64);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
	for (uint64_t word = 0; word < WORDS; word++) {
		write_pages(0, FIRST + word * 65, 1);
		expect_pass(0, FIRST + word * 65, 1);
	}
	guest_close(&guest);
}

/* A slot with a bitmap that the test invents. */
enum { WORDS = 1300, MERGED_PAGES = WORDS * 64 - 27 };
static uint64_t given[WORDS], merged[WORDS];

static bool give(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	struct kvm_dirty_log *log = arg;

	if (request != KVM_GET_DIRTY_LOG)
		return false;
	for (int i = 0; i < WORDS; i++)
		((uint64_t *)log->dirty_bitmap)[i] = htole64(given[i]);
	*result = 0;
	return true;
}

static void begin_merged(void)
{
	const struct guest_config config = {
		.model = { .no_memory = true },
		.options = { .mode = DL_MODE_BITMAP },
		.intercept = give,
	};
	struct dl_slot slot = { .size = sizeof(slot),
				.bytes = MERGED_PAGES * UINT64_C(4096),
				.hva = UINT64_C(1) << 40 };

	guest_open(&guest, &config);
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	guest_join(&guest, DL_CURSOR_CLEAN);
}

/* Takes all pending pages into merged. */
static void collect(void)
{
	struct dl_extent run;

	memset(merged, 0, sizeof(merged));
	while (dl_cursor_read(guest.cursor, &run, 1) == 1) {
		uint64_t first = run.offset_bytes / 4096, end = first + run.bytes / 4096;

		for (uint64_t page = first; page < end; page++)
			merged[page / 64] |= UINT64_C(1) << page % 64;
		assert_int_equal(dl_cursor_ack(guest.cursor, &run, 1), 0);
	}
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
}

/* Fills a bitmap: share in 64 words are random, the others clean. */
static void expect_merged(uint64_t share, uint64_t always)
{
	struct random random = { share + 1 };

	for (int i = 0; i < WORDS; i++)
		given[i] = random_below(&random, 64) < share ? random_next(&random) | always : 0;
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	collect();
	given[WORDS - 1] &= ~UINT64_C(0) >> 27;
	assert_memory_equal(merged, given, sizeof(given));
}

/* More words than one batch holds, and bits past the slot's end, which are ignored. */
static void a_bitmap_is_merged_whole(void **state)
{
	begin_merged();
	for (uint64_t share = 0; share <= 64; share += 4)
		expect_merged(share, 0);
	expect_merged(64, ~UINT64_C(0));
	guest_close(&guest);
}

static void a_failed_reset_keeps_its_entries(void **state)
{
	begin(0, DL_MODE_RING, 0);
	write_pages(0, 0, 30);
	write_pages(1, 30, 30);
	fail_once(KVM_RESET_DIRTY_RINGS, EIO, false);
	assert_int_equal(guest_harvest(&guest, 0), -EIO);
	/* They are not protected yet, so they must not be handed out. */
	assert_int_equal(pending_pages(), 0);
	assert_int_equal(guest_harvest(&guest, 0), 0);
	assert_true(pending_pages() >= 60);
	write_pages(0, 0, 1);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
	guest_close(&guest);
}

/* KVM clears its bits before it finds that it cannot copy them out. */
static void a_failed_get_counts_as_a_whole_slot(void **state)
{
	static const uint32_t has[] = { 0, MODEL_HAS_NOTHING };
	char text[600];

	for (int i = 0; i < 2; i++) {
		begin(has[i], DL_MODE_BITMAP, 0);
		write_pages(0, 5, 3);
		write_pages(0, OTHER_PAGE, 1);
		fail_once(KVM_GET_DIRTY_LOG, EFAULT, true);
		assert_int_equal(guest_harvest(&guest, 0), -EFAULT);
		assert_int_equal(pending_pages(), PAGES + 1);
		assert_true(dl_log_describe(guest.log, text, sizeof(text)) > 0);
		assert_non_null(strstr(text, "bitmap could not be read (slot 0"));
		assert_int_equal(guest_harvest(&guest, 0), 0);
		assert_int_equal(pending_pages(), PAGES + 1);
		guest_close(&guest);
	}
}

static void a_failed_get_of_the_backup_does_not_stop_the_others(void **state)
{
	begin(BACKUP, DL_MODE_RING, 0);
	guest_kernel_write(&guest, 3);
	guest_kernel_write(&guest, OTHER_PAGE + 3);
	fail_once(KVM_GET_DIRTY_LOG, EFAULT, true);
	assert_int_equal(guest_harvest(&guest, DL_HARVEST_PAUSED), -EFAULT);
	assert_int_equal(pending_pages(), PAGES + 1);
	assert_int_equal(guest_harvest(&guest, DL_HARVEST_PAUSED), 0);
	guest_close(&guest);
}

/* Overflows the ring, because the vCPU is not drained in between. */
static void overflow(int vcpu)
{
	for (uint64_t i = 0; i < 300; i++)
		assert_int_equal(model_vcpu_write_unchecked(guest.model, vcpus[vcpu]->fd, 0,
							    i % PAGES * 4096, NULL, 8),
				 0);
}

static void an_overflow_protects_all_pages_and_then_marks_them(void **state)
{
	begin(0, DL_MODE_RING, 256);
	write_pages(0, OTHER_PAGE, 20);
	overflow(0);
	assert_int_equal(guest_harvest(&guest, 0), 0);
	assert_int_equal(pending_pages(), 2 * PAGES);
	assert_int_equal(guest_stats(&guest).overflows, 1);
	/* Off and on of two slots. */
	assert_int_equal(seen.n, 4);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(seen.requests[i], KVM_SET_USER_MEMORY_REGION);
		assert_int_equal(seen.slots[i], i % 2);
		assert_int_equal(seen.pending_bytes[i], 0);
	}
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
	/* No second repair follows. */
	seen.n = 0;
	expect_pass(0, 0, 0);
	assert_int_equal(seen.n, 0);
	guest_close(&guest);
}

/* Nothing writes during a paused pass, but the guest may be resumed. */
static void a_paused_pass_protects_all_pages_too(void **state)
{
	begin(BACKUP, DL_MODE_RING, 256);
	write_pages(1, OTHER_PAGE, 20);
	overflow(0);
	guest_kernel_write(&guest, 3);
	assert_int_equal(guest_harvest(&guest, DL_HARVEST_PAUSED), 0);
	assert_int_equal(pending_pages(), 2 * PAGES);
	assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
	write_pages(1, OTHER_PAGE, 20);
	expect_pass(0, OTHER_PAGE, 20);
	guest_close(&guest);
}

/* Whichever step of a repair fails, the next harvest completes it. */
static void a_failed_repair_is_retried(void **state)
{
	for (uint32_t slot = 0; slot < 2; slot++) {
		for (uint32_t skip = 0; skip < 2; skip++) {
			begin(BACKUP, DL_MODE_RING, 256);
			overflow(0);
			guest_kernel_write(&guest, 3);
			guest_fail_region(&guest, slot, skip, 1);
			assert_int_equal(guest_harvest(&guest, 0), -ENOMEM);
			guest_kernel_write(&guest, OTHER_PAGE + 3);
			assert_int_equal(guest_harvest(&guest, 0), 0);
			assert_int_equal(pending_pages(), 2 * PAGES);
			assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
			write_pages(1, 7, 1);
			expect_pass(0, 7, 1);
			guest_close(&guest);
		}
	}
}

/* Pages are written after it, and lost: switching on what is on would not protect them. */
static void a_repair_whose_failed_call_did_its_work_is_repeated_whole(void **state)
{
	for (uint32_t skip = 0; skip < 4; skip++) {
		const struct model_fault fault = { .request = KVM_SET_USER_MEMORY_REGION,
						   .skip = skip,
						   .times = 1,
						   .error = ENOMEM,
						   .after = true };

		begin(0, DL_MODE_RING, 256);
		overflow(0);
		assert_int_equal(model_fault(guest.model, &fault), 0);
		assert_int_equal(guest_harvest(&guest, 0), -ENOMEM);
		write_pages(1, OTHER_PAGE + 7, 1);
		overflow(1);
		assert_int_equal(guest_harvest(&guest, 0), 0);
		assert_int_equal(guest_pass(&guest, 0, NULL, 0), -1);
		for (uint64_t page = 7; page <= OTHER_PAGE + 7; page += OTHER_PAGE) {
			write_pages(0, page, 1);
			expect_pass(0, page, 1);
		}
		guest_close(&guest);
	}
}

static void a_slot_that_stays_off_fails_every_harvest(void **state)
{
	begin(0, DL_MODE_RING, 256);
	overflow(0);
	guest_fail_region(&guest, 1, 1, 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(guest_harvest(&guest, i ? DL_HARVEST_PAUSED : 0), -ENOMEM);
	model_faults_clear(guest.model);
	assert_int_equal(guest_harvest(&guest, DL_HARVEST_PAUSED), 0);
	assert_int_equal(pending_pages(), 2 * PAGES);
	guest_close(&guest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arguments_are_checked),
		cmocka_unit_test(an_open_pass_refuses_a_harvest_and_collects_nothing),
		cmocka_unit_test(a_harvest_opens_a_pass_unless_it_fails),
		cmocka_unit_test(a_harvest_of_all_makes_everything_pending),
		cmocka_unit_test(one_reset_serves_all_rings),
		cmocka_unit_test(a_harvest_returns_the_pending_bytes),
		cmocka_unit_test(the_backup_is_read_last_and_only_while_paused),
		cmocka_unit_test(without_backup_there_is_no_bitmap_to_read),
		cmocka_unit_test(in_bitmap_mode_every_slot_is_read),
		cmocka_unit_test(a_page_is_found_anywhere_in_a_bitmap),
		cmocka_unit_test(a_bitmap_is_merged_whole),
		cmocka_unit_test(a_failed_reset_keeps_its_entries),
		cmocka_unit_test(a_failed_get_counts_as_a_whole_slot),
		cmocka_unit_test(a_failed_get_of_the_backup_does_not_stop_the_others),
		cmocka_unit_test(an_overflow_protects_all_pages_and_then_marks_them),
		cmocka_unit_test(a_paused_pass_protects_all_pages_too),
		cmocka_unit_test(a_failed_repair_is_retried),
		cmocka_unit_test(a_repair_whose_failed_call_did_its_work_is_repeated_whole),
		cmocka_unit_test(a_slot_that_stays_off_fails_every_harvest),
	};

	return RUN_TESTS("harvest", tests);
}
