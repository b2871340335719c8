/* SPDX-License-Identifier: MIT */
/*
 * The library in an inconvenient process: constant signals, short-lived threads, thread
 * cancellation, fork, and locked memory.
 */
#include "pages/rcu.h"
#include "sanitized.h"
#include "tour.h"

#include "cmocka_all.h"
#include "migration.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static atomic_uint signals_taken;

static void count_signal(int number)
{
	atomic_fetch_add_explicit(&signals_taken, 1, memory_order_relaxed);
}

/* 20,000 signals per second, to any thread that does not block them, without SA_RESTART. */
static void signal_storm(bool on)
{
	const struct itimerval every = { .it_interval = { .tv_usec = 50 * on },
					 .it_value = { .tv_usec = 50 * on } };
	const struct sigaction action = { .sa_handler = count_signal };

	assert_int_equal(sigaction(SIGALRM, &action, NULL), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &every, NULL), 0);
	if (on)
		atomic_store(&signals_taken, 0);
}

/* In every mode, no call reports a signal, and no signal cuts a reset short. */
static void signals_do_not_affect_any_call(void **state)
{
	const unsigned int wanted = SANITIZED ? 300 : 1500;

	for (int i = 0; i < TOUR_MODES; i++) {
		struct tour_result result;

		signal_storm(true);
		while (atomic_load(&signals_taken) < wanted) {
			tour_run(&tour_modes[i], NULL, NULL, &result);
			assert_int_equal(result.problems, 0);
		}
		signal_storm(false);
	}
}

static struct migration migration;

/* Likewise in a migration with many threads: vCPUs, devices, two harvesters, readers. */
static void signals_do_not_affect_a_migration(void **state)
{
	static const uint32_t modes[] = { DL_MODE_RING, DL_MODE_BITMAP };

	for (int i = 0; i < 2; i++) {
		const struct guest_config config = {
			.model = { .has_signal_short_reset = true },
			.options = { .mode = modes[i], .ring_entries = 256 },
		};

		migration_open(&migration, &config, 2);
		migration.has_devices = migration.has_harvester = true;
		migration.readers = 2;
		migration_start(&migration, 0);
		migration_run(&migration);
		signal_storm(true);
		migration_passes(&migration, 8, 200);
		while (atomic_load(&signals_taken) < 1000)
			migration_pass(&migration);
		signal_storm(false);
		migration_finish(&migration);
		assert_int_equal(migration_stats(&migration).short_resets, 0);
		migration_close(&migration);
	}
}

static struct guest guest;

static void open_guest(void)
{
	guest_open(&guest, NULL);
	guest_add_slot(&guest, 0, 0, 8);
	guest_join(&guest, 0);
}

static void *mark_once(void *opaque)
{
	int r;

	errno = EXDEV;
	r = dl_mark_gpa(guest.log, 0, 0, 1);
	return (void *)(intptr_t)(r || errno != EXDEV);
}

static void mark_by_threads(unsigned int count)
{
	while (count--) {
		pthread_t thread;
		void *failed;

		assert_int_equal(pthread_create(&thread, NULL, mark_once, NULL), 0);
		assert_int_equal(pthread_join(thread, &failed), 0);
		assert_null(failed);
	}
}

static unsigned long pages_mapped(void)
{
	unsigned long pages = 0;
	FILE *statm = fopen("/proc/self/statm", "re");

	assert_non_null(statm);
	assert_int_equal(fscanf(statm, "%lu", &pages), 1);
	fclose(statm);
	return pages;
}

/* A thread's resources from its first call are released when it ends. */
static void short_lived_threads_leak_nothing(void **state)
{
	const unsigned int count = SANITIZED ? 500 : 10000;
	unsigned long before, after;

	open_guest();
	mark_by_threads(100);
	before = pages_mapped();
	mark_by_threads(count);
	after = pages_mapped();
	guest_close(&guest);
	/* A leak of one page per thread would exceed this by far. */
	if (after > before + (SANITIZED ? 4096 : 64))
		fail_msg("%u threads leaked %lu pages", count, after - before);
}

static pthread_barrier_t all_marked;

static void *mark_and_stay(void *opaque)
{
	void *failed = mark_once(opaque);

	pthread_barrier_wait(&all_marked);
	return failed;
}

/* errno is unchanged even in first calls that make liburcu allocate memory. */
static void many_first_calls_at_once_keep_errno(void **state)
{
	enum { THREADS = 300 };
	pthread_t threads[THREADS];
	pthread_attr_t attributes;

	open_guest();
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 256 * 1024);
	assert_int_equal(pthread_barrier_init(&all_marked, NULL, THREADS), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], &attributes, mark_and_stay, NULL), 0);
	for (int i = 0; i < THREADS; i++) {
		void *failed;

		assert_int_equal(pthread_join(threads[i], &failed), 0);
		assert_null(failed);
	}
	pthread_barrier_destroy(&all_marked);
	guest_close(&guest);
}

/*
 * Replaces poll(2), which liburcu calls. Like the real one, it is a cancellation point. It does not
 * sleep, and it makes read_until_polled() leave its read section.
 */
static atomic_uint polls;

int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
	const struct timespec timeout = { .tv_sec = timeout_ms / 1000,
					  .tv_nsec = timeout_ms % 1000 * 1000000L };

	pthread_testcancel();
	atomic_fetch_add(&polls, 1);
	if (!count)
		return sched_yield();
	return ppoll(fds, count, timeout_ms < 0 ? NULL : &timeout, NULL);
}

static atomic_bool reading, in_read_section;

/* Stays in each read section until a grace period has to poll for its end. */
static void *read_until_polled(void *opaque)
{
	while (atomic_load(&reading)) {
		unsigned int before = atomic_load(&polls);

		dli_rcu_read_lock();
		atomic_store(&in_read_section, true);
		while (atomic_load(&polls) == before && atomic_load(&reading))
			sched_yield();
		dli_rcu_read_unlock();
	}
	return NULL;
}

/* The call that the thread is in: it can be canceled only inside the library. */
static enum tour_call canceled_in;

static void set_cancelable(bool cancelable)
{
	pthread_setcancelstate(cancelable ? PTHREAD_CANCEL_ENABLE : PTHREAD_CANCEL_DISABLE, NULL);
}

static void around(enum tour_call call, bool in)
{
	canceled_in = call;
	set_cancelable(in);
}

static void cross(unsigned long request, bool entering)
{
	static int before;

	if (!entering) {
		pthread_setcancelstate(before, NULL);
		return;
	}
	/* The callback of the caller may have cancellation points. */
	if (request == SITE_SET_REGION)
		pthread_testcancel();
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
}

static const struct tour_watch watch = { .around = around, .cross = cross };

/* A tour with a pending cancellation, which would take effect at the first cancellation point. */
static void *tour_while_canceled(void *opaque)
{
	struct tour_result result;

	set_cancelable(false);
	while (!atomic_load(&in_read_section))
		sched_yield();
	pthread_cancel(pthread_self());
	tour_run(opaque, NULL, &watch, &result);
	return (void *)(intptr_t)(result.problems + 1);
}

static void no_call_is_a_cancellation_point(void **state)
{
	for (int i = 0; i < TOUR_MODES; i++) {
		pthread_t thread, reader;
		void *result;

		atomic_store(&polls, 0);
		atomic_store(&in_read_section, false);
		atomic_store(&reading, true);
		assert_int_equal(pthread_create(&reader, NULL, read_until_polled, NULL), 0);
		assert_int_equal(pthread_create(&thread, NULL, tour_while_canceled,
						(void *)(uintptr_t)&tour_modes[i]),
				 0);
		assert_int_equal(pthread_join(thread, &result), 0);
		if (result == PTHREAD_CANCELED) {
			/* The locks and the read section of the thread stay taken: do not go on. */
			print_error("%s: canceled in %s\n", tour_modes[i].name,
				    tour_call_name(canceled_in));
			abort();
		}
		atomic_store(&reading, false);
		assert_int_equal(pthread_join(reader, NULL), 0);
		assert_int_equal((intptr_t)result, 1);
		/* A grace period had to wait. */
		assert_true(atomic_load(&polls) > 0);
	}
}

static void expect_success(pid_t child)
{
	int status;

	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("child ended with wait status %#x, expected 0", (unsigned int)status);
}

/*
 * Forks in the middle of a migration, whatever locks other threads hold at that moment. The
 * children can exec or exit in any way, and the migration of the parent is not affected.
 */
static void children_do_not_affect_a_migration(void **state)
{
	const int count = SANITIZED ? 4 : 30;

	migration_open(&migration, NULL, 2);
	migration.has_devices = migration.has_harvester = true;
	migration_start(&migration, 0);
	migration_run(&migration);
	for (int i = 0; i < count; i++) {
		pid_t child;

		migration_passes(&migration, 1, 50);
		fflush(NULL);
		child = fork();
		if (!child) {
			alarm(20);
			if (i % 3 == 0)
				execl("/proc/self/exe", "child", "--child", NULL);
			if (i % 3 == 1 && !SANITIZED)
				exit(0);
			_exit(0);
		}
		migration_passes(&migration, 1, 50);
		expect_success(child);
	}
	migration_finish(&migration);
	migration_close(&migration);
}

/*
 * The bitmaps for this slot exceed RLIMIT_MEMLOCK, and mmap(2) fails with EAGAIN. Returns a status.
 */
static int log_a_slot_beyond_the_limit(void)
{
	const struct guest_config config = { .model = { .no_memory = true } };
	const uint64_t bytes = UINT64_C(1) << 42;
	struct dl_slot slot = { .size = sizeof(slot), .bytes = bytes, .hva = bytes };
	struct dl_cursor *cursor;
	struct rlimit limit;

	guest_open(&guest, &config);
	if (getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur > bytes / 4096 / 4 ||
	    (!geteuid() && setresuid(65534, 65534, 65534)) || mlockall(MCL_FUTURE))
		return 77;
	if (dl_slot_set(guest.log, &slot))
		return 1;
	return dl_cursor_new(guest.log, NULL, &cursor) == -ENOMEM && !cursor ? 0 : 1;
}

static void memory_lock_limit_is_reported_as_enomem(void **state)
{
	int status;
	pid_t child;

	if (SANITIZED) {
		printf("skip: a sanitizer uses too much memory to lock\n");
		skip();
	}
	fflush(NULL);
	child = fork();
	if (!child)
		_exit(log_a_slot_beyond_the_limit());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77) {
		printf("skip: this process may not lock memory\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(signals_do_not_affect_a_migration, migration_teardown),
		cmocka_unit_test(signals_do_not_affect_any_call),
		cmocka_unit_test(short_lived_threads_leak_nothing),
		cmocka_unit_test(many_first_calls_at_once_keep_errno),
		cmocka_unit_test(no_call_is_a_cancellation_point),
		cmocka_unit_test_teardown(children_do_not_affect_a_migration, migration_teardown),
		cmocka_unit_test(memory_lock_limit_is_reported_as_enomem),
	};

	if (argc > 1 && !strcmp(argv[1], "--child"))
		return 0;
	setvbuf(stdout, NULL, _IOLBF, 0);
	return RUN_TESTS("host", tests);
}
