/* SPDX-License-Identifier: MIT */
/*
 * Which system calls the library makes, on the model kernel: those of the table in calls.c, all of
 * them, and no other; and what allocates nothing. Argument: the document that shows the table.
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
static int recording; /* or why not: a negative errno value */

static const enum call_class class_of[TOUR_CALLS] = {
	[TOUR_OUTSIDE] = CLASS_OUTSIDE,	    [TOUR_PROBE] = CLASS_OPEN,
	[TOUR_OPEN] = CLASS_OPEN,	    [TOUR_CONFIG] = CLASS_ASK,
	[TOUR_DESCRIBE] = CLASS_ASK,	    [TOUR_LOG_STATS] = CLASS_ASK,
	[TOUR_VCPU_STATS] = CLASS_ASK,	    [TOUR_DUE] = CLASS_ASK,
	[TOUR_SLOT_SET] = CLASS_SLOTS,	    [TOUR_SLOT_REMOVE] = CLASS_SLOTS,
	[TOUR_VCPU_ADD] = CLASS_VCPUS,	    [TOUR_VCPU_REMOVE] = CLASS_VCPUS,
	[TOUR_START] = CLASS_SESSION,	    [TOUR_STOP] = CLASS_SESSION,
	[TOUR_HARVEST] = CLASS_HARVEST,	    [TOUR_HARVEST_FINAL] = CLASS_HARVEST,
	[TOUR_DRAIN] = CLASS_DRAIN,	    [TOUR_MARK] = CLASS_MARK,
	[TOUR_SLOT_MARK] = CLASS_MARK,	    [TOUR_ITER_NEW] = CLASS_ITERATION,
	[TOUR_ITER_READ] = CLASS_READ,	    [TOUR_ITER_ACK] = CLASS_MARK,
	[TOUR_ITER_FREE] = CLASS_ITERATION, [TOUR_CLOSE] = CLASS_CLOSE,
};

static void need_recorder(void)
{
	if (!recording)
		return;
	printf("skip: this kernel or sandbox has no seccomp listeners: %s\n", strerror(-recording));
	skip();
}

static void around(enum tour_call call, bool in)
{
	recorder_enter(in ? class_of[call] : CLASS_OUTSIDE);
}

/* On the other side it is the model that makes system calls. */
static void cross(unsigned long request, bool there)
{
	static enum call_class inside;

	if (!there) {
		recorder_enter(inside);
		return;
	}
	if (request > SITE_ALLOCATION)
		recorder_note(SYS_ioctl, request);
	else if (request == SITE_MMAP_VCPU)
		recorder_note(SYS_mmap, 0);
	else if (request == SITE_DUP)
		recorder_note(SYS_fcntl, 0);
	else if (request == SITE_CLOSE)
		recorder_note(SYS_close, 0);
	inside = recorder_enter(CLASS_OUTSIDE);
}

static const struct tour_watch watch = { .around = around, .cross = cross };

/* The recorder sees what is not in the table, also where every signal is blocked. */
static void a_foreign_call_is_noticed(void **state)
{
	sigset_t all, before;

	need_recorder();
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	recorder_enter(CLASS_MARK);
	(void)getppid();
	recorder_enter(CLASS_OUTSIDE);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	assert_int_equal(recorder_check(), 1);
	assert_int_equal(recorder_count(CLASS_MARK, SYS_getppid, 0), 1);
	recorder_clear();
	assert_int_equal(recorder_check(), 0);
}

static void every_call_in_every_mode(void **state)
{
	struct tour_result result;

	need_recorder();
	/* A thread's first call is another test's. */
	tour_run(&tour_modes[0], NULL, NULL, &result);
	for (int i = 0; i < TOUR_MODES; i++) {
		tour_run(&tour_modes[i], NULL, &watch, &result);
		assert_int_equal(result.problems, 0);
	}
	assert_int_equal(recorder_check(), 0);
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
	r = dl_mark(shared->guest.log, 0, 0, 1);
	recorder_enter(CLASS_OUTSIDE);
	/* Together, so that liburcu needs room for all at once. */
	pthread_barrier_wait(&shared->all_marked);
	recorder_enter(CLASS_EXIT);
	return (void *)(intptr_t)r;
}

enum { THREADS = 48 };

static void threads_begin_and_end(void **state)
{
	static struct shared shared;
	pthread_t threads[THREADS];

	need_recorder();
	guest_open(&shared.guest, NULL);
	guest_add_slot(&shared.guest, 0, 0, 4);
	assert_int_equal(dl_log_start(shared.guest.log, 0), 0);
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
	assert_int_equal(recorder_check(), 0);
}

/* Nothing stands in the table that is not true. */
static void the_table_has_no_more_than_is_made(void **state)
{
	need_recorder();
	assert_int_equal(recorder_check_seen(), 0);
}

/* What must go on when memory is short: neither malloc() nor the system is asked. */
static void steady_calls_allocate_nothing(void **state)
{
	static const long memory[] = { SYS_brk,	     SYS_mmap,	 SYS_mremap,
				       SYS_mprotect, SYS_munmap, SYS_madvise };
	static const enum tour_call steady[] = {
		TOUR_HARVEST,	TOUR_HARVEST_FINAL, TOUR_DRAIN,	     TOUR_MARK,
		TOUR_SLOT_MARK, TOUR_ITER_READ,	    TOUR_ITER_ACK,   TOUR_CONFIG,
		TOUR_DESCRIBE,	TOUR_LOG_STATS,	    TOUR_VCPU_STATS, TOUR_DUE,
	};

	for (size_t i = 0; i < sizeof(steady) / sizeof(steady[0]); i++)
		for (size_t j = 0; j < sizeof(memory) / sizeof(memory[0]); j++)
			assert_null(calls_find(class_of[steady[i]], memory[j], 0));
	for (int mode = 0; mode < TOUR_MODES; mode++) {
		struct tour_result result;

		tour_run(&tour_modes[mode], NULL, NULL, &result);
		assert_int_equal(result.problems, 0);
		assert_true(result.allocations[TOUR_ITER_NEW] > 0);
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

static void the_document_shows_the_table(void **state)
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
		fail_msg("the table is to be:\n%s", table);
	free(text);
	free(table);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_foreign_call_is_noticed),
		cmocka_unit_test(every_call_in_every_mode),
		cmocka_unit_test(threads_begin_and_end),
		cmocka_unit_test(the_table_has_no_more_than_is_made),
		cmocka_unit_test(steady_calls_allocate_nothing),
		cmocka_unit_test(the_document_shows_the_table),
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
