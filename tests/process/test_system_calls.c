/* SPDX-License-Identifier: MIT */
/*
 * On the model kernel, the library makes exactly the system calls of the table in calls.c, and some
 * public calls never allocate. Argument: the document that contains the table.
 */
#include "recorder.h"
#include "sanitized.h"
#include "tour.h"

#include "cmocka_all.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *document;
static int recording; /* 0, or -errno if system calls cannot be recorded */

static const enum call_class class_of[TOUR_CALLS] = {
	[TOUR_OUTSIDE] = CLASS_OUTSIDE,
	[TOUR_PROBE] = CLASS_OPEN,
	[TOUR_OPEN] = CLASS_OPEN,
	[TOUR_CONFIG] = CLASS_QUERY,
	[TOUR_DESCRIBE] = CLASS_QUERY,
	[TOUR_LOG_STATS] = CLASS_QUERY,
	[TOUR_VCPU_STATS] = CLASS_QUERY,
	[TOUR_LAST_ERROR] = CLASS_QUERY,
	[TOUR_FD] = CLASS_DESCRIPTOR,
	[TOUR_REAP] = CLASS_REAP,
	[TOUR_SLOT_SET] = CLASS_SLOTS,
	[TOUR_SLOT_REMOVE] = CLASS_SLOTS,
	[TOUR_SLOT_CLEAR] = CLASS_READ,
	[TOUR_SLOT_WATCH] = CLASS_WATCH,
	[TOUR_VCPU_ADD] = CLASS_VCPUS,
	[TOUR_VCPU_REMOVE] = CLASS_VCPUS,
	[TOUR_CURSOR_NEW] = CLASS_CURSORS,
	[TOUR_CURSOR_FREE] = CLASS_CURSORS,
	[TOUR_CURSOR_STATS] = CLASS_QUERY,
	[TOUR_HARVEST] = CLASS_HARVEST,
	[TOUR_HARVEST_PAUSED] = CLASS_HARVEST,
	[TOUR_DRAIN] = CLASS_DRAIN,
	[TOUR_MARK] = CLASS_MARK,
	[TOUR_MARK_SLOT] = CLASS_MARK,
	[TOUR_MARK_HVA] = CLASS_MARK,
	[TOUR_MARK_IOV] = CLASS_MARK,
	[TOUR_MARK_BITMAP] = CLASS_MARK,
	[TOUR_READ] = CLASS_READ,
	[TOUR_ACK] = CLASS_MARK,
	[TOUR_END] = CLASS_END,
	[TOUR_TAKE] = CLASS_HARVEST,
	[TOUR_LIMIT] = CLASS_LIMIT,
	[TOUR_PAUSE_DUE] = CLASS_PAUSE,
	[TOUR_KICKS] = CLASS_MARK,
	[TOUR_PLAN_NEW] = CLASS_PLAN,
	[TOUR_PLAN_SENT] = CLASS_MARK,
	[TOUR_PLAN_NEXT] = CLASS_PLAN_NEXT,
	[TOUR_PLAN_FREE] = CLASS_PLAN,
	[TOUR_CLOSE] = CLASS_CLOSE,
};

static void need_recorder(void)
{
	if (!recording)
		return;
	printf("skip: this kernel or sandbox does not support seccomp listeners: %s\n",
	       strerror(-recording));
	skip();
}

static void around(enum tour_call call, bool in)
{
	recorder_enter(in ? class_of[call] : CLASS_OUTSIDE);
}

/* Inside struct dl_os the model makes the system calls: record the one that it stands for. */
static void cross(unsigned long request, bool entering)
{
	static enum call_class inside;

	if (!entering) {
		recorder_enter(inside);
		return;
	}
	if (request > SITE_ALLOCATION)
		recorder_note(SYS_ioctl, request);
	else if (request == SITE_MMAP_VCPU)
		recorder_note(SYS_mmap, 0);
	else if (request == SITE_DUP)
		recorder_note(SYS_fcntl, 0);
	else if (request == SITE_TIMER)
		recorder_note(SYS_timerfd_create, 0);
	else if (request == SITE_TIMER_SET)
		recorder_note(SYS_timerfd_settime, 0);
	else if (request == SITE_USERFAULTFD)
		recorder_note(SYS_userfaultfd, 0);
	else if (request == SITE_PAGEMAP)
		recorder_note(SYS_openat, 0);
	else if (request == SITE_CLOSE)
		recorder_note(SYS_close, 0);
	inside = recorder_enter(CLASS_OUTSIDE);
}

static const struct tour_watch watch = { .around = around, .cross = cross };

/* The recorder detects a call that is not in the table, even with all signals blocked. */
static void an_unlisted_call_is_detected(void **state)
{
	sigset_t all, before;

	need_recorder();
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	recorder_enter(CLASS_MARK);
	(void)getppid();
	recorder_enter(CLASS_OUTSIDE);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	assert_int_equal(recorder_unlisted(), 1);
	assert_int_equal(recorder_count(CLASS_MARK, SYS_getppid, 0), 1);
	recorder_clear();
	assert_int_equal(recorder_unlisted(), 0);
}

static void public_calls_make_only_listed_calls(void **state)
{
	struct tour_result result;

	need_recorder();
	/* Another test covers the first call of a thread. */
	tour_run(&tour_modes[0], NULL, NULL, &result);
	for (int i = 0; i < TOUR_MODES; i++) {
		tour_run(&tour_modes[i], NULL, &watch, &result);
		assert_int_equal(result.problems, 0);
	}
	assert_int_equal(recorder_unlisted(), 0);
}

struct shared {
	struct guest guest;
	pthread_barrier_t all_marked;
};

static void *mark_once(void *opaque)
{
	struct shared *shared = opaque;
	int r;

	recorder_enter(CLASS_FIRST);
	r = dl_mark_gpa(shared->guest.log, 0, 0, 1);
	recorder_enter(CLASS_OUTSIDE);
	/* Wait for the others, so that liburcu needs memory for all threads at once. */
	pthread_barrier_wait(&shared->all_marked);
	recorder_enter(CLASS_EXIT);
	return (void *)(intptr_t)r;
}

enum { THREADS = 48 };

static void first_calls_and_thread_exits_make_only_listed_calls(void **state)
{
	static struct shared shared;
	pthread_t threads[THREADS];

	need_recorder();
	guest_open(&shared.guest, NULL);
	guest_add_slot(&shared.guest, 0, 0, 4);
	guest_join(&shared.guest, 0);
	assert_int_equal(pthread_barrier_init(&shared.all_marked, NULL, THREADS), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, mark_once, &shared), 0);
	for (int i = 0; i < THREADS; i++) {
		void *result;

		assert_int_equal(pthread_join(threads[i], &result), 0);
		assert_null(result);
	}
	guest_close(&shared.guest);
	assert_true(recorder_count(CLASS_FIRST, SYS_rt_sigprocmask, 0) >= 2 * THREADS);
	assert_int_equal(recorder_unlisted(), 0);
}

/* Every call that the table lists as always made was recorded by the tests above. */
static void listed_calls_are_made(void **state)
{
	need_recorder();
	assert_int_equal(recorder_missing(), 0);
}

/* Calls that must work when memory is short use neither malloc() nor the memory system calls. */
static void steady_calls_allocate_nothing(void **state)
{
	static const long memory[] = { SYS_brk,	     SYS_mmap,	 SYS_mremap,
				       SYS_mprotect, SYS_munmap, SYS_madvise };
	static const enum tour_call steady[] = {
		TOUR_REAP,	 TOUR_FD,	   TOUR_HARVEST,    TOUR_HARVEST_PAUSED,
		TOUR_DRAIN,	 TOUR_MARK,	   TOUR_MARK_SLOT,  TOUR_MARK_HVA,
		TOUR_MARK_IOV,	 TOUR_MARK_BITMAP, TOUR_READ,	    TOUR_ACK,
		TOUR_END,	 TOUR_TAKE,	   TOUR_SLOT_CLEAR, TOUR_CONFIG,
		TOUR_DESCRIBE,	 TOUR_LOG_STATS,   TOUR_VCPU_STATS, TOUR_CURSOR_STATS,
		TOUR_LAST_ERROR, TOUR_LIMIT,	   TOUR_PAUSE_DUE,  TOUR_KICKS,
		TOUR_PLAN_SENT,	 TOUR_PLAN_NEXT,
	};

	for (size_t i = 0; i < sizeof(steady) / sizeof(steady[0]); i++)
		for (size_t j = 0; j < sizeof(memory) / sizeof(memory[0]); j++)
			assert_null(calls_find(class_of[steady[i]], memory[j], 0));
	for (int mode = 0; mode < TOUR_MODES; mode++) {
		struct tour_result result;

		tour_run(&tour_modes[mode], NULL, NULL, &result);
		assert_int_equal(result.problems, 0);
		assert_true(result.allocations[TOUR_CURSOR_NEW] > 0);
		for (size_t i = 0; i < sizeof(steady) / sizeof(steady[0]); i++)
			assert_int_equal(result.allocations[steady[i]], 0);
	}
}

static char *read_file(const char *path)
{
	FILE *file = fopen(path, "re");
	char *text = NULL;
	size_t room = 0;
	ssize_t n;

	assert_non_null(file);
	n = getdelim(&text, &room, 0, file);
	fclose(file);
	assert_true(n > 0);
	return text;
}

static void the_document_contains_the_table(void **state)
{
	char *text, *table = NULL;
	size_t bytes;
	FILE *to = open_memstream(&table, &bytes);

	assert_non_null(document);
	assert_non_null(to);
	calls_print(to);
	fclose(to);
	text = read_file(document);
	if (!strstr(text, table))
		fail_msg("%s does not contain the table:\n%s", document, table);
	free(text);
	free(table);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_unlisted_call_is_detected),
		cmocka_unit_test(public_calls_make_only_listed_calls),
		cmocka_unit_test(first_calls_and_thread_exits_make_only_listed_calls),
		cmocka_unit_test(listed_calls_are_made),
		cmocka_unit_test(steady_calls_allocate_nothing),
		cmocka_unit_test(the_document_contains_the_table),
	};

	if (argc > 1 && !strcmp(argv[1], "--table")) {
		calls_print(stdout);
		return 0;
	}
	if (SANITIZED) {
		printf("skip: a sanitizer makes system calls and allocations of its own\n");
		return 77;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	document = argc > 1 ? argv[1] : NULL;
	recording = recorder_start();
	return RUN_TESTS("system calls", tests);
}
