/* SPDX-License-Identifier: MIT */
/*
 * KVM_RESET_DIRTY_RINGS: called by one thread at a time, with signals blocked, not after close.
 * Requests that wait are completed together.
 */
#include "cmocka_all.h"
#include "fake_os.h"
#include "ring/reset.h"
#include "kvm/uapi.h"

#include <errno.h>
#include <sched.h>

enum { VM_FD = 9, THREADS = 3, ROUNDS = 2000 };

static struct fake_os fake;
static struct dli_reset reset;
static int answer, wanted_fd;
static atomic_int inside;
static bool masked, overlapped;

static int mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	masked = how == SIG_BLOCK;
	if (how == SIG_BLOCK) {
		assert_int_equal(sigismember(set, SIGUSR1) & sigismember(set, SIGRTMAX), 1);
		sigemptyset(old);
		sigaddset(old, SIGWINCH);
	} else {
		assert_int_equal(how, SIG_SETMASK);
		assert_int_equal(sigismember(set, SIGWINCH), 1);
		assert_int_equal(sigismember(set, SIGUSR1), 0);
	}
	return 0;
}

static int kernel(struct fake_os *os, int fd, unsigned long request, void *arg)
{
	if (fd != wanted_fd || request != KVM_RESET_DIRTY_RINGS || arg || !masked)
		return -ENOTTY;
	if (atomic_fetch_add(&inside, 1))
		overlapped = true;
	sched_yield();
	atomic_fetch_sub(&inside, 1);
	return answer;
}

static int setup(void **state)
{
	fake_os_init(&fake);
	fake.ioctl = kernel;
	fake.os.signal_mask = mask;
	reset = (struct dli_reset){ 0 };
	answer = 0;
	wanted_fd = VM_FD;
	masked = overlapped = false;
	return dli_reset_init(&reset, &fake.os, VM_FD);
}

static int teardown(void **state)
{
	dli_reset_fini(&reset);
	return fake.duplicates ? -1 : 0;
}

#define reset_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static void signals_are_blocked_during_a_reset(void **state)
{
	answer = 17;
	assert_int_equal(dli_reset_begin(&reset), 0);
	assert_int_equal(dli_reset_rings(&reset), 17);
	dli_reset_end(&reset);
	assert_false(masked);
}

static void a_failed_reset_restores_signals_and_is_returned(void **state)
{
	answer = -EIO;
	assert_int_equal(dli_reset_begin(&reset), 0);
	assert_int_equal(dli_reset_rings(&reset), -EIO);
	dli_reset_end(&reset);
	assert_false(masked);
	assert_int_equal(dli_reset_begin(&reset), 0);
	dli_reset_end(&reset);
}

static void resets_are_counted(void **state)
{
	assert_int_equal(dli_reset_begin(&reset), 0);
	for (int i = 0; i < 5; i++)
		dli_reset_rings(&reset);
	dli_reset_end(&reset);
	assert_int_equal(reset.resets, 5);
}

static void after_close_the_section_cannot_be_entered(void **state)
{
	dli_reset_close(&reset, false);
	assert_int_equal(dli_reset_begin(&reset), -ECANCELED);
	/* The failed call has not occupied the section. */
	assert_int_equal(dli_reset_begin(&reset), -ECANCELED);
	assert_int_equal(fake.ioctls, 0);
}

/* A vCPU may still exit with a full ring. */
static void after_close_the_section_can_be_entered_if_needed(void **state)
{
	dli_reset_close(&reset, true);
	answer = 3;
	assert_int_equal(dli_reset_begin(&reset), 0);
	assert_int_equal(dli_reset_rings(&reset), 3);
	dli_reset_end(&reset);
}

static void *reset_often(void *unused)
{
	for (int i = 0; i < ROUNDS; i++) {
		if (dli_reset_begin(&reset))
			continue;
		(void)dli_reset_rings(&reset);
		dli_reset_end(&reset);
	}
	return NULL;
}

static void one_thread_at_a_time_is_in_the_section(void **state)
{
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, reset_often, NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_false(overlapped);
	assert_int_equal(reset.resets, THREADS * ROUNDS);
}

/* Requests that arrive while a thread is in the section. */
enum { WAITERS = 3 };

static struct dli_reset_request waiters[WAITERS];
static unsigned int batches, requests_done;
static atomic_int running;

/* Causes a spurious wakeup of the waiters. */
static void run_batch(struct dli_reset_request *batch)
{
	atomic_fetch_add(&running, 1);
	batches++;
	for (struct dli_reset_request *request = batch; request; request = request->next) {
		request->result = 7;
		requests_done++;
	}
	pthread_cond_broadcast(&reset.changed);
	for (int i = 0; i < 1000; i++)
		sched_yield();
	atomic_fetch_sub(&running, 1);
}

static int submit(struct dli_reset_request *request)
{
	struct dli_reset_request *batch = dli_reset_submit(&reset, request);

	if (batch) {
		run_batch(batch);
		dli_reset_complete(&reset, batch);
	}
	return request->result;
}

/* The wait must not act on the pending cancellation: the caller has rings locked. */
static void *submit_while_cancelled(void *request)
{
	int r;

	pthread_cancel(pthread_self());
	r = submit(request);
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	if (atomic_load(&running))
		overlapped = true;
	return (void *)(intptr_t)r;
}

/* Starts the waiters one by one, each when the one before waits. */
static void start_waiters(pthread_t *threads)
{
	batches = requests_done = 0;
	assert_int_equal(dli_reset_begin(&reset), 0);
	for (int i = 0; i < WAITERS; i++) {
		const struct dli_reset_request *last = NULL;

		waiters[i] = (struct dli_reset_request){ 0 };
		pthread_create(&threads[i], NULL, submit_while_cancelled, &waiters[i]);
		while (last != &waiters[i]) {
			sched_yield();
			pthread_mutex_lock(&reset.lock);
			last = reset.queue;
			pthread_mutex_unlock(&reset.lock);
		}
	}
}

static void expect_all_join(pthread_t *threads, int result)
{
	for (int i = 0; i < WAITERS; i++) {
		void *r;

		pthread_join(threads[i], &r);
		assert_ptr_not_equal(r, PTHREAD_CANCELED);
		assert_int_equal((intptr_t)r, result);
	}
	assert_null(reset.queue);
	assert_false(reset.busy);
}

static void waiting_requests_are_completed_in_one_batch(void **state)
{
	pthread_t threads[WAITERS];

	start_waiters(threads);
	dli_reset_end(&reset);
	expect_all_join(threads, 7);
	assert_int_equal(batches, 1);
	assert_int_equal(requests_done, WAITERS);
	assert_false(overlapped);
}

static void waiting_requests_are_cancelled_by_close(void **state)
{
	pthread_t threads[WAITERS];

	start_waiters(threads);
	/* dli_reset_close() would wait here. */
	pthread_mutex_lock(&reset.lock);
	reset.closed = true;
	pthread_mutex_unlock(&reset.lock);
	dli_reset_end(&reset);
	expect_all_join(threads, -ECANCELED);
	assert_int_equal(batches, 0);
}

static void a_lone_request_is_completed_at_once(void **state)
{
	struct dli_reset_request request = { 0 };

	batches = requests_done = 0;
	assert_int_equal(submit(&request), 7);
	assert_int_equal(submit(&request), 7);
	assert_int_equal(batches, 2);
	assert_int_equal(requests_done, 2);
	assert_false(reset.busy);
}

static atomic_bool closing;

static void *close_reset(void *unused)
{
	atomic_store(&closing, true);
	dli_reset_close(&reset, false);
	return NULL;
}

/* A thread in the section uses the file descriptor until it leaves. */
static void close_waits_for_the_thread_in_the_section(void **state)
{
	pthread_t thread;
	bool closed = false;

	atomic_store(&closing, false);
	assert_int_equal(dli_reset_begin(&reset), 0);
	pthread_create(&thread, NULL, close_reset, NULL);
	while (!atomic_load(&closing))
		sched_yield();
	for (int i = 0; i < 1000; i++) {
		pthread_mutex_lock(&reset.lock);
		closed |= reset.closed;
		/* A spurious wakeup. */
		pthread_cond_broadcast(&reset.changed);
		pthread_mutex_unlock(&reset.lock);
		sched_yield();
	}
	assert_false(closed);
	dli_reset_end(&reset);
	pthread_join(thread, NULL);
	assert_true(reset.closed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		reset_test(signals_are_blocked_during_a_reset),
		reset_test(a_failed_reset_restores_signals_and_is_returned),
		reset_test(resets_are_counted),
		reset_test(after_close_the_section_cannot_be_entered),
		reset_test(after_close_the_section_can_be_entered_if_needed),
		reset_test(one_thread_at_a_time_is_in_the_section),
		reset_test(waiting_requests_are_completed_in_one_batch),
		reset_test(waiting_requests_are_cancelled_by_close),
		reset_test(a_lone_request_is_completed_at_once),
		reset_test(close_waits_for_the_thread_in_the_section),
	};

	return RUN_TESTS("reset", tests);
}
