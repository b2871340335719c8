/* SPDX-License-Identifier: MIT */
/*
 * VMMs pause vCPUs by parking their threads in a signal handler. A thread that is parked so,
 * whatever call of the library the signal met, must not keep another thread's final harvest
 * waiting.
 */
#include "cmocka_all.h"
#include "guest.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>

enum { PAGES = 200, ENTRIES = 256 };

static struct guest guest;
static struct guest_vcpu *vcpu;
static unsigned long signalled_request;
static _Thread_local bool may_be_parked;
static atomic_bool parked, released;
static atomic_uint signals;

static void park(int signal)
{
	atomic_store(&parked, true);
	while (!atomic_load(&released))
		sched_yield();
}

/* The thread signals itself in the middle of the call: in the ioctl, with locks held. */
static bool signal_in_ioctl(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	if (may_be_parked && request == signalled_request && !atomic_fetch_add(&signals, 1))
		pthread_kill(pthread_self(), SIGUSR1);
	return false;
}

static void open_guest(unsigned long request)
{
	const struct sigaction action = { .sa_handler = park };

	assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
	guest_open(&guest, &(struct guest_config){
				   .options = { .mode = DL_MODE_RING, .ring_entries = ENTRIES } });
	guest_add_slot(&guest, 0, 0, PAGES);
	guest_add_slot(&guest, 1, 1000, 1);
	vcpu = guest_vcpu(&guest, true);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	for (uint64_t page = 0; page < 20; page++)
		assert_int_equal(guest_write(&guest, vcpu, 0, page), 0);
	signalled_request = request;
	atomic_store(&parked, false);
	atomic_store(&released, false);
	atomic_store(&signals, 0);
	guest.config.intercept = signal_in_ioctl;
}

/* Hangs, and ends by the test's time limit, if the parked thread holds a lock. */
static void expect_no_wait(void *(*call)(void *unused))
{
	uint64_t pages[PAGES];
	pthread_t thread;

	assert_int_equal(pthread_create(&thread, NULL, call, NULL), 0);
	while (!atomic_load(&parked))
		sched_yield();
	assert_int_equal(guest_pass(&guest, DL_HARVEST_FINAL, pages, PAGES), 20);
	atomic_store(&released, true);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(atomic_load(&signals) > 0);
	guest_close(&guest);
}

static void *drain(void *unused)
{
	may_be_parked = true;
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	return NULL;
}

static void *remove_slot(void *unused)
{
	may_be_parked = true;
	assert_int_equal(dl_slot_remove(guest.log, 1, DL_SLOT_DISCARD), 0);
	return NULL;
}

static void *harvest(void *unused)
{
	may_be_parked = true;
	assert_int_equal(dl_harvest(guest.log, 0, NULL), 0);
	return NULL;
}

static void a_thread_parked_in_a_drain_holds_no_lock(void **state)
{
	open_guest(KVM_RESET_DIRTY_RINGS);
	expect_no_wait(drain);
}

static void a_thread_parked_in_a_harvest_holds_no_lock(void **state)
{
	open_guest(KVM_RESET_DIRTY_RINGS);
	expect_no_wait(harvest);
}

static void a_thread_parked_in_a_slot_change_holds_no_lock(void **state)
{
	open_guest(KVM_SET_USER_MEMORY_REGION);
	expect_no_wait(remove_slot);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_thread_parked_in_a_drain_holds_no_lock),
		cmocka_unit_test(a_thread_parked_in_a_harvest_holds_no_lock),
		cmocka_unit_test(a_thread_parked_in_a_slot_change_holds_no_lock),
	};

	return RUN_TESTS("process: parked threads", tests);
}
