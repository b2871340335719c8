/* SPDX-License-Identifier: MIT */
/*
 * What a process does around the library: signals that never end, threads that come and go, threads
 * that are cancelled, children.
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

static void take_signal(int number)
{
	atomic_fetch_add_explicit(&signals_taken, 1, memory_order_relaxed);
}

/* 20,000 a second, to whichever thread has them unblocked. No SA_RESTART. */
static void storm(bool on)
{
	const struct itimerval every = { .it_interval = { .tv_usec = 50 * on },
					 .it_value = { .tv_usec = 50 * on } };
	const struct sigaction action = { .sa_handler = take_signal };

	assert_int_equal(sigaction(SIGALRM, &action, NULL), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &every, NULL), 0);
	if (on)
		atomic_store(&signals_taken, 0);
}

/* Nobody is told of a signal, and no reset is cut short by one: every call in every mode. */
static void signals_during_every_call(void **state)
{
	const unsigned int most = SANITIZED ? 300 : 1500;

	for (int i = 0; i < TOUR_MODES; i++) {
		struct tour_result result;

		storm(true);
		while (atomic_load(&signals_taken) < most) {
			tour_run(&tour_modes[i], NULL, NULL, &result);
			assert_int_equal(result.problems, 0);
		}
		storm(false);
	}
}

static struct migration migration;

/* The same with threads: vCPUs, devices, two harvesters, readers. */
static void signals_during_migrations(void **state)
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
		storm(true);
		migration_passes(&migration, 8, 200);
		while (atomic_load(&signals_taken) < 1000)
			migration_pass(&migration);
		storm(false);
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
	assert_int_equal(dl_log_start(guest.log, 0), 0);
}

static void *mark_once(void *opaque)
{
	int r;

	errno = EXDEV;
	r = dl_mark(guest.log, 0, 0, 1);
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

/* What a thread's first call took is given back at its end. */
static void threads_that_come_and_go(void **state)
{
	const unsigned int count = SANITIZED ? 500 : 10000;
	unsigned long before, after;

	open_guest();
	mark_by_threads(100);
	before = pages_mapped();
	mark_by_threads(count);
	after = pages_mapped();
	guest_close(&guest);
	/* A page a thread would be all of them. */
	if (after > before + (SANITIZED ? 4096 : 64))
		fail_msg("%lu pages more than before", after - before);
}

static pthread_barrier_t all_marked;

static void *mark_and_stay(void *opaque)
{
	void *failed = mark_once(opaque);

	pthread_barrier_wait(&all_marked);
	return failed;
}

/* errno stays what it was, also in first calls, where liburcu looks for more room. */
static void many_threads_at_once(void **state)
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
 * liburcu's poll(2) comes here. As the real one it is a cancellation point; it does not sleep, and
 * ends what it waits for.
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

static atomic_bool reading, in_section;

/* Stays in a read section until somebody waits for it so long that it polls. */
static void *read_for_long(void *opaque)
{
	while (atomic_load(&reading)) {
		unsigned int before = atomic_load(&polls);

		dli_rcu_read_lock();
		atomic_store(&in_section, true);
		while (atomic_load(&polls) == before && atomic_load(&reading))
			sched_yield();
		dli_rcu_read_unlock();
	}
	return NULL;
}

/* Only inside the library can this thread be cancelled. */
static enum tour_call cancelled_in;

static void be_cancellable(bool yes)
{
	pthread_setcancelstate(yes ? PTHREAD_CANCEL_ENABLE : PTHREAD_CANCEL_DISABLE, NULL);
}

static void around(enum tour_call call, bool in)
{
	cancelled_in = call;
	be_cancellable(in);
}

static void cross(unsigned long request, bool there)
{
	static int before;

	if (!there) {
		pthread_setcancelstate(before, NULL);
		return;
	}
	/* The caller's own function has cancellation points. */
	if (request == SITE_SET_REGION)
		pthread_testcancel();
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
}

static const struct tour_watch watch = { .around = around, .cross = cross };

/* Everything, with a cancellation pending that the first cancellation point would act upon. */
static void *tour_while_cancelled(void *opaque)
{
	struct tour_result result;

	be_cancellable(false);
	while (!atomic_load(&in_section))
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
		atomic_store(&in_section, false);
		atomic_store(&reading, true);
		assert_int_equal(pthread_create(&reader, NULL, read_for_long, NULL), 0);
		assert_int_equal(pthread_create(&thread, NULL, tour_while_cancelled,
						(void *)(uintptr_t)&tour_modes[i]),
				 0);
		assert_int_equal(pthread_join(thread, &result), 0);
		if (result == PTHREAD_CANCELED) {
			/* With what it held, every grace period of this process waits for ever. */
			print_error("%s: cancelled in %s\n", tour_modes[i].name,
				    tour_call_name(cancelled_in));
			abort();
		}
		atomic_store(&reading, false);
		assert_int_equal(pthread_join(reader, NULL), 0);
		assert_int_equal((intptr_t)result, 1);
		/* There was something to wait for. */
		assert_true(atomic_load(&polls) > 0);
	}
}

static void expect_success(pid_t child)
{
	int status;

	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("the child ended with status %#x", (unsigned int)status);
}

/*
 * Children of a process in mid-migration, whatever its other threads hold at that moment: each may
 * end, in every way, and the parent does not notice.
 */
static void children_in_mid_migration(void **state)
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

/* Reserved memory of this slot's pages is more than may be locked: EAGAIN, says mmap(2). */
static int set_slot_beyond_the_limit(void)
{
	const struct guest_config config = { .model = { .no_memory = true } };
	const uint64_t bytes = UINT64_C(1) << 42;
	struct dl_slot slot = { .size = sizeof(slot), .bytes = bytes, .hva = bytes };
	struct rlimit limit;

	guest_open(&guest, &config);
	if (getrlimit(RLIMIT_MEMLOCK, &limit) || limit.rlim_cur > bytes / 4096 / 4 ||
	    (!geteuid() && setresuid(65534, 65534, 65534)) || mlockall(MCL_FUTURE))
		return 77;
	return dl_slot_set(guest.log, &slot) == -ENOMEM ? 0 : 1;
}

static void locked_memory(void **state)
{
	int status;
	pid_t child;

	if (SANITIZED) {
		printf("skip: a sanitizer has too much memory to lock\n");
		skip();
	}
	fflush(NULL);
	child = fork();
	if (!child)
		_exit(set_slot_beyond_the_limit());
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
		cmocka_unit_test_teardown(signals_during_migrations, migration_teardown),
		cmocka_unit_test(signals_during_every_call),
		cmocka_unit_test(threads_that_come_and_go),
		cmocka_unit_test(many_threads_at_once),
		cmocka_unit_test(no_call_is_a_cancellation_point),
		cmocka_unit_test_teardown(children_in_mid_migration, migration_teardown),
		cmocka_unit_test(locked_memory),
	};

	if (argc > 1 && !strcmp(argv[1], "--child"))
		return 0;
	setvbuf(stdout, NULL, _IOLBF, 0);
	return RUN_TESTS("host", tests);
}
