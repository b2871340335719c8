/* SPDX-License-Identifier: MIT */
/*
 * A second dl_log_open() of a VM is refused, and finds that out by a reset, at any moment. The
 * kernel flushes the TLBs after it has taken cells back and let go of its lock: the first log's
 * reset then finds nothing left, while pages that it hands out are writable still. And a reset that
 * a stop or task work cuts short has taken cells that it never protects.
 */
#include "cmocka_all.h"
#include "guest.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <linux/kvm.h>

enum { PAGES = 256, HOT = 20 };

static struct guest guest;
static struct guest_vcpu *vcpu;

enum { CUT_AFTER = 5 };

static struct {
	bool armed, cut;
	pthread_t thread;
	sem_t taken, flush;
	int result, taken_cells;
	bool signals_open;
} second;

static _Thread_local bool is_second;

static void *open_second(void *unused)
{
	struct dl_options options = { .size = sizeof(options), .os = &guest.os };
	struct dl_log *log;
	char why[200];

	is_second = true;
	second.result = dl_log_open(guest.vm_fd, &options, &log, why, sizeof(why));
	return unused;
}

/* The second log's reset has taken its cells, and has yet to flush. */
static void begin_second(void)
{
	second.armed = false;
	assert_int_equal(pthread_create(&second.thread, NULL, open_second, NULL), 0);
	sem_wait(&second.taken);
}

static void end_second(void)
{
	sem_post(&second.flush);
	pthread_join(second.thread, NULL);
	assert_int_equal(second.result, -EBUSY);
	assert_false(second.signals_open);
}

/* The second log is refused before the first one's reset begins; its own ended early. */
static void cut_second(void)
{
	const struct model_reset_fault fault = {
		.times = 1,
		.stop = true,
		.stop_after_entries = CUT_AFTER,
		.drop_batch = true,
	};

	second.armed = false;
	model_reset_fault(guest.model, &fault);
	assert_int_equal(pthread_create(&second.thread, NULL, open_second, NULL), 0);
	pthread_join(second.thread, NULL);
	assert_int_equal(second.result, -EBUSY);
	assert_int_equal(second.taken_cells, CUT_AFTER);
}

static bool intercept(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	const struct dl_os *below = model_os(g->model);
	sigset_t mask;

	if (request != KVM_RESET_DIRTY_RINGS)
		return false;
	if (second.armed) {
		/* The first log has released its cells. */
		if (second.cut)
			cut_second();
		else
			begin_second();
		return false;
	}
	if (!is_second)
		return false;
	*result = second.taken_cells = below->ioctl(below->opaque, fd, request, arg);
	if (second.cut)
		return true;
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	second.signals_open = !sigismember(&mask, SIGUSR1);
	sem_post(&second.taken);
	sem_wait(&second.flush);
	return true;
}

static int setup(void **state)
{
	const struct guest_config config = {
		.options = { .mode = DL_MODE_RING },
		.intercept = intercept,
	};

	memset(&second, 0, sizeof(second));
	assert_int_equal(sem_init(&second.taken, 0, 0), 0);
	assert_int_equal(sem_init(&second.flush, 0, 0), 0);
	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	vcpu = guest_vcpu(&guest, true);
	guest_join(&guest, 0);
	assert_int_equal(guest_pass(&guest, 0, (uint64_t[PAGES]){ 0 }, PAGES), PAGES);
	return 0;
}

static int teardown(void **state)
{
	guest_leave(&guest);
	guest_close(&guest);
	sem_destroy(&second.taken);
	sem_destroy(&second.flush);
	return 0;
}

static void write_some(void)
{
	for (uint64_t page = 0; page < HOT; page++)
		assert_int_equal(guest_write(&guest, vcpu, 0, page), 0);
}

static void what_a_second_log_took_is_repaired(void **state)
{
	write_some();
	second.armed = true;
	assert_int_equal(guest_harvest(&guest, 0), 0);
	assert_false(second.armed);
	assert_int_equal(guest_stats(&guest).repairs, 1);
	assert_int_equal(guest_pending(&guest), PAGES * guest.page_bytes);
	end_second();
}

/* So is a vCPU's own drain, at the next harvest. */
static void what_it_took_from_a_drain_is_repaired(void **state)
{
	write_some();
	second.armed = true;
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_false(second.armed);
	end_second();
	assert_int_equal(guest_harvest(&guest, 0), 0);
	assert_int_equal(guest_stats(&guest).repairs, 1);
}

static void a_second_log_that_takes_nothing_costs_nothing(void **state)
{
	begin_second();
	write_some();
	assert_int_equal(guest_harvest(&guest, 0), 0);
	assert_int_equal(guest_pending(&guest), HOT * guest.page_bytes);
	end_second();
	write_some();
	assert_int_equal(guest_harvest(&guest, 0), 0);
	assert_int_equal(guest_stats(&guest).repairs, 0);
}

/* Nothing else shows it: no cell is left behind, and the second log is gone by then. */
static void what_a_reset_that_was_cut_short_took_is_repaired(void **state)
{
	uint64_t pages[PAGES];

	write_some();
	second.armed = second.cut = true;
	(void)guest_pass(&guest, 0, pages, PAGES);
	assert_false(second.armed);
	assert_int_equal(guest_stats(&guest).short_resets, 0);
	assert_int_equal(guest_stats(&guest).repairs, 1);
	write_some();
	assert_int_equal(guest_pass(&guest, DL_HARVEST_PAUSED, pages, PAGES), HOT);
}

static void what_it_took_from_a_drain_is_repaired_too(void **state)
{
	uint64_t pages[PAGES];

	write_some();
	second.armed = second.cut = true;
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_false(second.armed);
	(void)guest_pass(&guest, 0, pages, PAGES);
	assert_int_equal(guest_stats(&guest).repairs, 1);
	write_some();
	assert_int_equal(guest_pass(&guest, DL_HARVEST_PAUSED, pages, PAGES), HOT);
}

/* The bitmap of such a VM goes on to answer, and has only what no vCPU wrote. */
static void rings_that_a_second_log_switches_on_are_noticed(void **state)
{
	const struct guest_config config = {
		.model = { .has = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP },
		.options = { .mode = DL_MODE_BITMAP },
	};
	struct dl_options options = { .size = sizeof(options), .mode = DL_MODE_RING };
	struct dl_log *log;
	char text[200];

	options.os = &guest.os;
	guest_open(&guest, &config);
	guest_join(&guest, 0);
	guest_leave(&guest);
	assert_int_equal(dl_log_open(guest.vm_fd, &options, &log, text, sizeof(text)), 0);
	guest_add_slot(&guest, 0, 0, PAGES);
	guest_vcpu(&guest, true);
	assert_int_equal(guest_try_join(&guest, 0), -EBUSY);
	assert_true(dl_log_last_error(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "another log has switched rings on"));
	dl_log_close(log);
	assert_int_equal(guest_try_join(&guest, DL_CURSOR_CLEAN), -EBUSY);
	guest_close(&guest);
}

/* -EINVAL of a reset means that the rings are off; of the mask, that there was no reset. */
static void without_the_signal_mask_nothing_is_known_of_rings(void **state)
{
	struct model_fault fault = { .request = MODEL_CALL_SIGMASK, .error = EINVAL };

	guest_new(&guest, NULL);
	model_fault(guest.model, &fault);
	assert_int_equal(guest_open_log(&guest), -EINVAL);
	assert_non_null(strstr(guest.why, "no reset answers"));
	guest_close(&guest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define second_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		second_test(what_a_second_log_took_is_repaired),
		second_test(what_it_took_from_a_drain_is_repaired),
		second_test(a_second_log_that_takes_nothing_costs_nothing),
		second_test(what_a_reset_that_was_cut_short_took_is_repaired),
		second_test(what_it_took_from_a_drain_is_repaired_too),
		cmocka_unit_test(rings_that_a_second_log_switches_on_are_noticed),
		cmocka_unit_test(without_the_signal_mask_nothing_is_known_of_rings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
