/* SPDX-License-Identifier: MIT */
/* A child of fork(2) gets -EIO from every call, and cannot disturb the log of its parent. */
#include "cmocka_all.h"
#include "guest.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 40, ENTRIES = 256 };

static struct guest guest;
static struct guest_vcpu *vcpu;
static struct dl_plan *plan;
static struct dl_extent extent; /* handed out, in the open pass */

static void open_guest(uint32_t mode)
{
	guest_open(&guest,
		   &(struct guest_config){ .options = { .mode = mode, .ring_entries = ENTRIES } });
	guest_add_slot(&guest, 0, 0, PAGES);
	vcpu = guest_vcpu(&guest, true);
	guest_join(&guest, 0);
	assert_int_equal(dl_plan_new(guest.cursor, NULL, &plan), 0);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), 1);
}

/* The number of the first call that does not return -EIO, or 0. */
static int make_every_call(void)
{
	struct dl_config config = { .size = sizeof(config) };
	struct dl_stats stats = { .size = sizeof(stats) };
	struct dl_cursor_stats cursor_stats = { .size = sizeof(cursor_stats) };
	struct dl_slot slot = { .size = sizeof(slot), .bytes = guest.page_bytes };
	uint64_t words[PAGES / 64 + 1] = { 0 }, n_words = PAGES / 64 + 1, ns;
	const struct dl_bitmap bitmap = { .size = sizeof(bitmap),
					  .flags = DL_BITMAP_TAKE,
					  .bytes = guest.page_bytes,
					  .page_bytes = guest.page_bytes };
	struct dl_advice advice = { .size = sizeof(advice) };
	struct dl_cursor *added_cursor;
	struct dl_plan *added_plan;
	struct dl_extent other;
	struct dl_vcpu *added;
	char text[100];
	const int results[] = {
		dl_log_config(guest.log, &config),
		dl_log_describe(guest.log, NULL, 0),
		dl_log_stats(guest.log, &stats),
		dl_log_last_error(guest.log, text, sizeof(text)),
		dl_log_fd(guest.log),
		dl_log_reap(guest.log, 0, &ns),
		dl_log_reap(guest.log, DL_REAP_NOW, &ns),
		dl_mark_gpa(guest.log, 0, 0, 1),
		dl_mark_slot(guest.log, 0, 0, 1),
		dl_mark_hva(guest.log, &slot, 1),
		dl_mark_iov(guest.log, NULL, 0, 0, 0),
		dl_mark_bitmap(guest.log, &bitmap, words, n_words, &ns),
		dl_slot_set(guest.log, &slot),
		dl_slot_remove(guest.log, 0, 0, words, n_words),
		dl_slot_clear(guest.log, 0, 0, guest.page_bytes),
		dl_slot_watch(guest.log, 0, words, 0),
		dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &added),
		dl_vcpu_drain(vcpu->handle, 0),
		dl_vcpu_stats(vcpu->handle, &stats),
		dl_vcpu_limit(vcpu->handle, 4096),
		dl_vcpu_pause_due(vcpu->handle, &ns),
		dl_log_kicks(guest.log, &ns, 1),
		dl_plan_new(guest.cursor, NULL, &added_plan),
		dl_plan_sent(plan, 1, 1),
		dl_plan_next(plan, 0, &advice),
		dl_cursor_new(guest.log, NULL, &added_cursor),
		dl_cursor_stats(guest.cursor, &cursor_stats),
		dl_harvest(guest.cursor, 0, NULL),
		dl_harvest(guest.cursor, DL_HARVEST_PAUSED, NULL),
		dl_cursor_read(guest.cursor, &other, 1),
		dl_cursor_ack(guest.cursor, &extent, 1),
		dl_cursor_take(guest.cursor, 0, DL_TAKE_HARVEST, words, n_words, NULL),
		dl_cursor_end(guest.cursor, DL_END_COMMIT),
	};

	for (unsigned int i = 0; i < sizeof(results) / sizeof(results[0]); i++)
		if (results[i] != -EIO)
			return (int)i + 1;
	/* Out handles are NULL, and no words are the caller's. */
	return added || added_cursor || added_plan || words[0] ? 100 : 0;
}

/* Exit handlers and finalizers release what they have. */
static void release_everything(void)
{
	dl_plan_free(plan);
	dl_cursor_free(guest.cursor);
	dl_vcpu_remove(vcpu->handle);
	dl_log_close(guest.log);
}

static void a_child_cannot_disturb(uint32_t mode)
{
	struct dl_cursor_stats before, after;
	uint64_t pages[PAGES];
	int status;
	pid_t child;

	open_guest(mode);
	for (uint64_t page = 0; page < PAGES; page += 2)
		assert_int_equal(guest_write(&guest, vcpu, 0, page), 0);
	before = guest_cursor_stats(guest.cursor);
	child = fork();
	assert_true(child >= 0);
	if (!child) {
		int wrong = make_every_call();

		release_everything();
		_exit(wrong);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status))
		fail_msg("in a child, call %d did not return -EIO", WEXITSTATUS(status));
	after = guest_cursor_stats(guest.cursor);
	assert_memory_equal(&before, &after, sizeof(before));
	/* The pass that was open at the fork goes on. */
	assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), 0);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	assert_int_equal(guest_pass(&guest, 0, pages, PAGES), PAGES / 2);
	dl_plan_free(plan);
	guest_close(&guest);
}

static void ring_a_child_cannot_disturb(void **state)
{
	a_child_cannot_disturb(DL_MODE_RING);
}

static void bitmap_a_child_cannot_disturb(void **state)
{
	a_child_cannot_disturb(DL_MODE_BITMAP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ring_a_child_cannot_disturb),
		cmocka_unit_test(bitmap_a_child_cannot_disturb),
	};

	return RUN_TESTS("process: forks", tests);
}
