/* SPDX-License-Identifier: MIT */
/*
 * Proves that the tests of this directory can fail. Each test breaks one thing on the real kernel:
 * either an ioctl of the library, through the spy, or the caller's part of a pass. The
 * checker, or the library itself, must notice.
 *
 * Two other suites do the same elsewhere. tests/migrations/test_broken.c leaves out the steps of
 * the library one by one on the model kernel. precopy --sabotage breaks
 * the caller's part in a whole migration between two processes, which proves that precopy detects a
 * corrupt destination.
 */
#include "rig.h"

#include <errno.h>
#include <string.h>

enum { PAGES = 300 };

static struct spy spy; /* outlives a test that fails, as the rig does */

static struct rig *open_rig(uint32_t mode, spy_intercept *intercept)
{
	const struct rig_config config = { .mode = mode, .vcpus = 1, .spy = &spy };

	spy_init(&spy);
	spy.intercept = intercept;
	return rig_new(&config);
}

static struct rig_range whole(const struct rig *rig, const struct rig_slot *slot)
{
	return (struct rig_range){ .slot = slot, .pages = slot->bytes / rig->page_bytes };
}

/* Passes with a write before each. Returns the number of pages that differ at the end. */
static uint64_t migrate(struct rig *rig, struct rig_slot *slot)
{
	struct rig_range range = whole(rig, slot);
	uint64_t value;

	for (value = 1; value < 4; value++) {
		rig_write(rig, 0, &range, value);
		rig_pass(rig, 0);
	}
	rig_write(rig, 0, &range, value);
	rig_pass(rig, DL_HARVEST_PAUSED);
	return checker_differing_pages(&rig->checker);
}

/* Control: with a spy that breaks nothing, no page is lost. */
static void spy_alone_loses_no_page(void **state)
{
	const uint32_t modes[] = { DL_MODE_RING, DL_MODE_BITMAP };

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct rig *rig = open_rig(modes[i], NULL);
		struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);

		rig_join(rig, 0);
		assert_int_equal(migrate(rig, slot), 0);
		rig_free(rig);
	}
}

/* Consumes the released cells as the kernel would, but protects no page. */
static bool reset_without_protection(struct spy *s, int fd, unsigned long request, void *arg,
				     int *result)
{
	(void)fd;
	(void)arg;
	if (request != KVM_RESET_DIRTY_RINGS || !s->ring_count)
		return false;
	*result = 0;
	for (unsigned int ring = 0; ring < s->ring_count; ring++) {
		struct spy_ring *r = &s->rings[ring];

		for (uint32_t i = 0; i < r->entries; i++) {
			if (__atomic_load_n(&r->cells[i].flags, __ATOMIC_ACQUIRE) !=
			    KVM_DIRTY_GFN_F_RESET)
				continue;
			__atomic_store_n(&r->cells[i].flags, 0, __ATOMIC_RELEASE);
			++*result;
		}
	}
	return true;
}

static void reset_that_protects_nothing_loses_pages(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, reset_without_protection);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);

	(void)state;
	rig_join(rig, 0);
	assert_int_equal(migrate(rig, slot), PAGES);
}

static bool reset_without_effect(struct spy *s, int fd, unsigned long request, void *arg,
				 int *result)
{
	(void)fd;
	(void)arg;
	if (request != KVM_RESET_DIRTY_RINGS || !s->ring_count)
		return false;
	*result = 0;
	return true;
}

/* The library detects this itself: it counts a short reset and treats every page as dirty. */
static void reset_without_effect_is_detected(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, reset_without_effect);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct dl_stats stats;
	uint64_t differing;

	(void)state;
	rig_join(rig, 0);
	differing = migrate(rig, slot);
	stats = rig_stats(rig);
	assert_true(differing || stats.short_resets || stats.overflows);
	assert_true(stats.short_resets > 0);
}

static bool get_nothing(struct spy *s, int fd, unsigned long request, void *arg, int *result)
{
	const struct kvm_dirty_log *log = arg;

	(void)s;
	(void)fd;
	if (request != KVM_GET_DIRTY_LOG)
		return false;
	memset(log->dirty_bitmap, 0, (PAGES + 63) / 64 * 8);
	*result = 0;
	return true;
}

static void swallowed_get_loses_pages(void **state)
{
	struct rig *rig = open_rig(DL_MODE_BITMAP, get_nothing);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);

	(void)state;
	rig_join(rig, 0);
	assert_int_equal(migrate(rig, slot), PAGES);
}

static uint64_t late_words[(PAGES + 63) / 64];
static struct kvm_clear_dirty_log late;

/* Delays CLEAR until the next GET, that is, until after the pages were copied. */
static bool clear_too_late(struct spy *s, int fd, unsigned long request, void *arg, int *result)
{
	const struct kvm_clear_dirty_log *clear = arg;

	(void)s;
	if (request == KVM_CLEAR_DIRTY_LOG) {
		late = *clear;
		memset(late_words, 0, sizeof(late_words));
		memcpy(late_words, clear->dirty_bitmap, (clear->num_pages + 63) / 64 * 8);
		late.dirty_bitmap = late_words;
		*result = 0;
		return true;
	}
	if (request == KVM_GET_DIRTY_LOG && late.num_pages) {
		spy_ioctl(fd, KVM_CLEAR_DIRTY_LOG, &late);
		late.num_pages = 0;
	}
	return false;
}

static void need_manual_protect(const struct rig *rig)
{
	if (!(rig->log_config.has & DL_HAS_MANUAL_PROTECT))
		rig_skip("this kernel does not support KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
}

static void clear_after_the_copy_loses_pages(void **state)
{
	struct rig *rig = open_rig(DL_MODE_BITMAP, clear_too_late);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);

	(void)state;
	late.num_pages = 0;
	need_manual_protect(rig);
	rig_join(rig, 0);
	assert_true(migrate(rig, slot) > 0);
}

static bool clear_nothing(struct spy *s, int fd, unsigned long request, void *arg, int *result)
{
	(void)s;
	(void)fd;
	(void)arg;
	*result = 0;
	return request == KVM_CLEAR_DIRTY_LOG;
}

/* The bits of the kernel stay set: no page is lost, but every pass reports all of them. */
static void swallowed_clear_reports_pages_forever(void **state)
{
	struct rig *rig = open_rig(DL_MODE_BITMAP, clear_nothing);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);

	(void)state;
	need_manual_protect(rig);
	rig_join(rig, 0);
	assert_int_equal(migrate(rig, slot), 0);
	for (int pass = 0; pass < 3; pass++)
		assert_int_equal(rig_pass(rig, 0), PAGES * rig->page_bytes);
	spy.intercept = NULL;
	rig_pass(rig, 0);
	assert_int_equal(rig_pass(rig, 0), 0);
}

static bool regions_without_logging(struct spy *s, int fd, unsigned long request, void *arg,
				    int *result)
{
	const struct kvm_userspace_memory_region *region = arg;

	(void)s;
	(void)fd;
	*result = 0;
	return request == KVM_SET_USER_MEMORY_REGION && region->flags & KVM_MEM_LOG_DIRTY_PAGES;
}

static void missing_log_flag_loses_pages(void **state)
{
	/* With the backup bitmap, GET_DIRTY_LOG would fail in the final pass. */
	const struct rig_config config = {
		.mode = DL_MODE_RING,
		.backup = DL_BACKUP_OFF,
		.vcpus = 1,
		.spy = &spy,
	};
	struct rig_slot *slot;
	struct rig *rig;

	(void)state;
	spy_init(&spy);
	spy.os.arch = DL_OS_ARCH_RING_ALONE_SAFE; /* otherwise refused on arm64 */
	spy.intercept = regions_without_logging;
	rig = rig_new(&config);
	slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	rig_join(rig, 0);
	rig_pass(rig, 0);
	assert_int_equal(migrate(rig, slot), PAGES);
}

/* The caller's part. */

static void missing_final_pass_loses_pages(void **state)
{
	struct rig *rig = open_rig(DL_MODE_AUTO, NULL);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, slot);

	(void)state;
	rig_join(rig, 0);
	rig_pass(rig, 0);
	rig_write(rig, 0, &range, 1);
	assert_int_equal(checker_differing_pages(&rig->checker), PAGES);
	rig_finish(rig);
}

static void ack_without_sending_loses_pages(void **state)
{
	struct rig *rig = open_rig(DL_MODE_AUTO, NULL);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = { .slot = slot, .first_page = 70, .pages = 7 };
	struct dl_cursor *cursor;
	struct dl_extent run;

	(void)state;
	rig_join(rig, 0);
	rig_pass(rig, 0);
	rig_write(rig, 0, &range, 1);
	cursor = rig->checker.cursor;
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(cursor, &run, 1), 1);
	assert_int_equal(dl_cursor_ack(cursor, &run, 1), 0);
	checker_end(&rig->checker, 0);
	rig_pass(rig, DL_HARVEST_PAUSED);
	assert_int_equal(checker_differing_pages(&rig->checker), 7);
}

static void contents_read_before_the_harvest_are_stale(void **state)
{
	struct rig *rig = open_rig(DL_MODE_AUTO, NULL);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, slot);
	struct dl_extent runs[CHECKER_MAX_RUNS];
	struct dl_cursor *cursor;
	int n;

	(void)state;
	rig_join(rig, 0);
	checker_equalize(&rig->checker);
	rig_write(rig, 0, &range, 1);
	cursor = rig->checker.cursor;
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	while ((n = dl_cursor_read(cursor, runs, CHECKER_MAX_RUNS)) > 0)
		assert_int_equal(dl_cursor_ack(cursor, runs, (uint32_t)n), 0);
	checker_end(&rig->checker, 0);
	rig_pass(rig, DL_HARVEST_PAUSED);
	assert_int_equal(checker_differing_pages(&rig->checker), PAGES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(spy_alone_loses_no_page),
		rig_test(reset_that_protects_nothing_loses_pages),
		rig_test(reset_without_effect_is_detected),
		rig_test(swallowed_get_loses_pages),
		rig_test(clear_after_the_copy_loses_pages),
		rig_test(swallowed_clear_reports_pages_forever),
		rig_test(missing_log_flag_loses_pages),
		rig_test(missing_final_pass_loses_pages),
		rig_test(ack_without_sending_loses_pages),
		rig_test(contents_read_before_the_harvest_are_stale),
	};

	return rig_run_tests("sabotage", tests);
}
