/* SPDX-License-Identifier: MIT */
/* Calls that run at the same time, a log that is closed meanwhile, and a child of fork(2). */
#include "emulated.h"
#include "log.h"
#include "rules_guest.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 100, READERS = 4 };

static struct dl_cursor *cursor;

/* A second thread, begun inside an ioctl of the first. */
static struct {
	unsigned long request;
	void (*call)(void);
	pthread_t thread;
	atomic_bool begun, done;
	bool was_done; /* before the ioctl of the first returned */
} second;

static void *second_thread(void *unused)
{
	atomic_store(&second.begun, true);
	second.call();
	atomic_store(&second.done, true);
	return NULL;
}

static bool begin_second(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	if (request != second.request || atomic_load(&second.begun))
		return false;
	pthread_create(&second.thread, NULL, second_thread, NULL);
	while (!atomic_load(&second.begun))
		sched_yield();
	for (int i = 0; i < 1000; i++)
		sched_yield();
	second.was_done = atomic_load(&second.done);
	return false;
}

static void during(unsigned long request, void (*call)(void))
{
	memset(&second, 0, sizeof(second));
	second.request = request;
	second.call = call;
	guest.config.intercept = begin_second;
}

static void expect_waited(void)
{
	assert_true(atomic_load(&second.begun));
	pthread_join(second.thread, NULL);
	guest.config.intercept = NULL;
	assert_false(second.was_done);
}

static void begin(uint32_t flags)
{
	set_slot(0, 0, PAGES, 0);
	cursor = join(flags);
	write_page(5);
}

static void close_log(void)
{
	dl_log_close(guest.log);
}

/* Its pages can no longer be read, but the harvest itself completes. */
static void a_close_waits_for_a_harvest(void **state)
{
	uint64_t pending_bytes = 0;

	begin(DL_CURSOR_CLEAN);
	during(guest.log->caps.mode == DL_MODE_RING ? KVM_RESET_DIRTY_RINGS : KVM_GET_DIRTY_LOG,
	       close_log);
	assert_int_equal(dl_harvest(cursor, 0, &pending_bytes), 0);
	assert_int_equal(pending_bytes, 4096);
	expect_waited();
	guest.log = NULL;
	assert_int_equal(dl_cursor_read(cursor, &(struct dl_extent){ 0 }, 1), -ECANCELED);
	assert_int_equal(dl_harvest(cursor, 0, NULL), -ECANCELED);
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
}

static void a_close_waits_for_a_read(void **state)
{
	begin(DL_CURSOR_CLEAN);
	begin_pass(cursor);
	during(KVM_CLEAR_DIRTY_LOG, close_log);
	expect_read(cursor, 5, 1);
	expect_waited();
	guest.log = NULL;
	assert_int_equal(dl_cursor_read(cursor, &(struct dl_extent){ 0 }, 1), -ECANCELED);
}

static void end_the_pass(void)
{
	(void)dl_cursor_end(cursor, 0);
}

static void an_end_waits_for_a_read_in_progress(void **state)
{
	begin(DL_CURSOR_CLEAN);
	begin_pass(cursor);
	during(KVM_CLEAR_DIRTY_LOG, end_the_pass);
	expect_read(cursor, 5, 1);
	expect_waited();
	assert_int_equal(unacked_of(cursor), 0);
	assert_int_equal(pending_of(cursor), 1);
	assert_int_equal(dl_cursor_read(cursor, &(struct dl_extent){ 0 }, 1), -EBUSY);
}

static struct dl_slot moved;

static void move_the_slot(void)
{
	if (dl_slot_set(guest.log, &moved))
		abort();
}

/* When it returns, no read returns extents of the old place. */
static void r1_a_move_waits_for_a_read_in_progress(void **state)
{
	begin(DL_CURSOR_CLEAN);
	begin_pass(cursor);
	moved = slot_of(0);
	moved.gpa = 500 * 4096;
	during(KVM_CLEAR_DIRTY_LOG, move_the_slot);
	expect_read(cursor, 5, 1);
	expect_waited();
	expect_no_more(cursor);
	end_pass(cursor);
	expect_pass(cursor, 500, PAGES);
}

static struct {
	atomic_uint seen[PAGES];
	atomic_int errors;
} readers;

static void *read_all(void *unused)
{
	struct dl_extent extents[2];
	int n;

	while ((n = dl_cursor_read(cursor, extents, 2)) > 0) {
		for (int i = 0; i < n; i++)
			for (uint64_t at = 0; at < extents[i].bytes; at += 4096)
				atomic_fetch_add(
					&readers.seen[(extents[i].offset_bytes + at) / 4096], 1);
		if (dl_cursor_ack(cursor, extents, (uint32_t)n))
			atomic_fetch_add(&readers.errors, 1);
	}
	if (n)
		atomic_fetch_add(&readers.errors, 1);
	return NULL;
}

/* With small extents, so that a batch has several readers. */
static void readers_of_small_extents_get_each_page_once(void **state)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.coalesce_bytes = 4096,
		.max_extent_bytes = 3 * 4096,
	};
	pthread_t threads[READERS];

	set_slot(0, 0, PAGES, 0);
	assert_int_equal(dl_cursor_new(guest.log, &options, &cursor), 0);
	memset(&readers, 0, sizeof(readers));
	begin_pass(cursor);
	for (int i = 0; i < READERS; i++)
		pthread_create(&threads[i], NULL, read_all, NULL);
	for (int i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(readers.errors, 0);
	for (int page = 0; page < PAGES; page++)
		assert_int_equal(readers.seen[page], 1);
	end_pass(cursor);
	assert_int_equal(pending_of(cursor), 0);
	dl_cursor_free(cursor);
}

enum { OTHERS = 200 };

static atomic_bool over;

static void *churn(void *unused)
{
	for (int i = 0; i < OTHERS; i++) {
		struct dl_cursor *other;

		if (guest_new_cursor(&guest, DL_CURSOR_CLEAN, 0, &other))
			abort();
		sched_yield();
		dl_cursor_free(other);
	}
	atomic_store(&over, true);
	return NULL;
}

static void write_or_mark(uint64_t page)
{
	if (page % 2)
		mark_page(0, page);
	else
		write_page(page);
	sched_yield();
}

/* Cursors come and go beside it: the set that is marked changes each time. */
static void no_mark_is_lost_while_cursors_come_and_go(void **state)
{
	pthread_t thread;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	atomic_store(&over, false);
	pthread_create(&thread, NULL, churn, NULL);
	while (!atomic_load(&over)) {
		for (uint64_t page = 10; page < 30; page++)
			write_or_mark(page);
		expect_pass(cursor, 10, 20);
	}
	pthread_join(thread, NULL);
}

/* Out handles are NULL, and no call changes anything. */
static int calls_of_a_child(void)
{
	struct dl_cursor_stats stats = { .size = sizeof(stats) };
	struct dl_slot slot = slot_of(0);
	struct dl_cursor *made = cursor;
	struct dl_extent extent;
	uint64_t words[2] = { 0 };
	char text[8];
	const int results[] = {
		dl_cursor_new(guest.log, NULL, &made),
		dl_harvest(cursor, 0, NULL),
		dl_cursor_read(cursor, &extent, 1),
		dl_cursor_ack(cursor, &extent, 1),
		dl_cursor_end(cursor, 0),
		dl_cursor_take(cursor, 0, 0, words, 2, NULL),
		dl_cursor_stats(cursor, &stats),
		dl_slot_set(guest.log, &slot),
		dl_slot_remove(guest.log, 0, 0, words, 2),
		dl_slot_clear(guest.log, 0, 0, 4096),
		dl_mark_slot(guest.log, 0, 0, 1),
		dl_log_last_error(guest.log, text, sizeof(text)),
	};

	for (unsigned int i = 0; i < sizeof(results) / sizeof(results[0]); i++)
		if (results[i] != -EIO)
			return (int)i + 1;
	if (made || words[0] | words[1])
		return 100;
	dl_cursor_free(cursor);
	dl_vcpu_remove(vcpu->handle);
	dl_log_close(guest.log);
	return 0;
}

static void a_child_of_fork_can_do_nothing(void **state)
{
	int status;
	pid_t child;

	skip_if_emulated("MADV_WIPEONFORK");
	begin(DL_CURSOR_CLEAN);
	begin_pass(cursor);
	child = fork();
	if (!child)
		_exit(calls_of_a_child());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	expect_read(cursor, 5, 1);
	end_pass(cursor);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rule_tests(a_close_waits_for_a_harvest),
		rule_test(bitmap, a_close_waits_for_a_read),
		rule_test(bitmap, an_end_waits_for_a_read_in_progress),
		rule_test(bitmap, r1_a_move_waits_for_a_read_in_progress),
		rule_tests(readers_of_small_extents_get_each_page_once),
		rule_tests(no_mark_is_lost_while_cursors_come_and_go),
		rule_tests(a_child_of_fork_can_do_nothing),
	};

	return RUN_TESTS("rules, calls", tests);
}
