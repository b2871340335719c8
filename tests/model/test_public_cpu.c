/* SPDX-License-Identifier: MIT */
/* The CPU clocks of dirtylog/model.h: a limited vCPU runs and pauses, in virtual time. */
#include "public.h"

#include <dirtylog/os.h>

#include <pthread.h>

#define MS     UINT64_C(1000000)
#define SECOND (1000 * MS)

enum { PAGES_PER_MS = 20, LIMIT = 5000 };

static const struct dlm_options virtual_clock = { .size = sizeof(virtual_clock),
						  .flags = DLM_VM_VIRTUAL_CLOCK };

static uint64_t resumes_ns, next_page;

static void open_rig(void)
{
	rig_open(&virtual_clock, DL_MODE_RING, DLM_RECEIVER_GPA);
	assert_int_equal(dlm_receiver_equalize(rig.receiver), 0);
	rig_join(DL_CURSOR_CLEAN);
	assert_int_equal(dlm_vcpu_thread(rig.vcpu), 0);
	resumes_ns = next_page = 0;
}

static int64_t clock_id(void)
{
	const struct dl_os *os = dlm_vm_os(rig.vm);
	int64_t id = -1;

	assert_int_equal(os->thread_clock(os->opaque, &id), 0);
	return id;
}

static uint64_t cpu_ns(int64_t id)
{
	const struct dl_os *os = dlm_vm_os(rig.vm);
	uint64_t ns = 0;

	assert_int_equal(os->thread_ns(os->opaque, id, &ns), 0);
	return ns;
}

/* How much of the next ns the vCPU has the CPU. */
static uint64_t runs_in(int64_t id, uint64_t ns)
{
	uint64_t before = cpu_ns(id);

	assert_int_equal(dlm_clock_advance(rig.vm, ns), 0);
	return cpu_ns(id) - before;
}

static void a_pause_is_no_cpu_time(void **state)
{
	int64_t id;

	open_rig();
	id = clock_id();
	assert_int_equal(runs_in(id, 5 * MS), 5 * MS);
	assert_int_equal(dlm_vcpu_pause(rig.vcpu, 3 * MS), 0);
	assert_int_equal(runs_in(id, 2 * MS), 0);
	assert_int_equal(runs_in(id, 2 * MS), 1 * MS);
	/* One that begins in another, and one that a kick ends. */
	assert_int_equal(dlm_vcpu_pause(rig.vcpu, 10 * MS), 0);
	assert_int_equal(runs_in(id, 4 * MS), 0);
	assert_int_equal(dlm_vcpu_pause(rig.vcpu, 2 * MS), 0);
	assert_int_equal(runs_in(id, 3 * MS), 1 * MS);
	assert_int_equal(dlm_vcpu_pause(rig.vcpu, UINT64_MAX), 0);
	assert_int_equal(runs_in(id, SECOND), 0);
	assert_int_equal(dlm_vcpu_pause(rig.vcpu, 0), 0);
	assert_int_equal(runs_in(id, 7 * MS), 7 * MS);
	rig_close();
}

static void *clock_of_thread(void *id)
{
	*(int64_t *)id = clock_id();
	return NULL;
}

static void each_vcpu_has_a_clock(void **state)
{
	struct dlm_vcpu *second;
	pthread_t thread;
	int64_t first_id, second_id, other;

	open_rig();
	assert_int_equal(dlm_vcpu_add(rig.vm, &second), 0);
	first_id = clock_id();
	assert_int_equal(dlm_vcpu_thread(second), 0);
	second_id = clock_id();
	assert_int_not_equal(first_id, second_id);
	assert_int_equal(dlm_vcpu_pause(rig.vcpu, SECOND), 0);
	assert_int_equal(runs_in(second_id, MS), MS);
	assert_int_equal(runs_in(first_id, MS), 0);
	/* A thread of no vCPU always runs. */
	assert_int_equal(pthread_create(&thread, NULL, clock_of_thread, &other), 0);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_not_equal(other, first_id);
	assert_int_not_equal(other, second_id);
	assert_int_equal(runs_in(other, MS), MS);
	rig_close();
	/* A thread that ran a vCPU of a closed VM runs no vCPU of the next VM. */
	rig_open(&virtual_clock, DL_MODE_RING, DLM_RECEIVER_GPA);
	assert_int_equal(clock_id(), other);
	rig_close();
}

/* The VMM: what a vCPU's thread does before KVM_RUN. Returns the pause that begins. */
static uint64_t enter(void)
{
	uint64_t pause_ns = 0;

	assert_int_equal(dl_vcpu_pause_due(rig.source, &pause_ns), 0);
	assert_int_equal(dlm_vcpu_exit(rig.vcpu, EXIT_INTR), 0);
	assert_int_equal(dlm_vcpu_pause(rig.vcpu, pause_ns), 0);
	resumes_ns = dlm_clock_ns(rig.vm) + pause_ns;
	return pause_ns;
}

static void serve(void)
{
	uint64_t cookies[4], left_ns;

	assert_int_equal(dlm_timer_left(rig.vm, dl_log_fd(rig.log), &left_ns), 0);
	if (left_ns)
		return;
	assert_int_equal(dl_log_reap(rig.log, 0, NULL), 0);
	if (dl_log_kicks(rig.log, cookies, 4) > 0)
		enter();
}

/* Returns how many pages the guest dirties. What is pending would not be new again: it is sent. */
static uint64_t run(uint64_t ms)
{
	uint64_t pages = 0;

	for (; ms; ms--) {
		if (resumes_ns <= dlm_clock_ns(rig.vm)) {
			rig_touch(next_page, PAGES_PER_MS);
			next_page = (next_page + PAGES_PER_MS) % (PAGES - PAGES_PER_MS);
			pages += PAGES_PER_MS;
		}
		rig_pass(0);
		assert_int_equal(dlm_clock_advance(rig.vm, MS), 0);
		serve();
	}
	return pages;
}

static struct dl_stats stats(void)
{
	struct dl_stats is = { .size = sizeof(is) };

	assert_int_equal(dl_vcpu_stats(rig.source, &is), 0);
	return is;
}

static void a_limited_vcpu_pauses_and_its_rate_is_of_running_time(void **state)
{
	const uint64_t full_bytes = UINT64_C(1000) * PAGES_PER_MS * PAGE;
	uint64_t before;
	int64_t id;

	open_rig();
	assert_true(dl_log_fd(rig.log) >= 0);
	enter();
	id = clock_id();
	assert_int_equal(run(1000), 1000 * PAGES_PER_MS);
	assert_int_equal(dl_vcpu_limit(rig.source, LIMIT * PAGE), 0);
	run(500);
	before = cpu_ns(id);
	assert_in_range(run(3000), 3 * LIMIT - LIMIT / 3, 3 * LIMIT + LIMIT / 3);
	/* It ran a quarter of the time, and dirtied as fast as ever while it did. */
	assert_in_range(cpu_ns(id) - before, 3 * SECOND / 5, 3 * SECOND / 3);
	assert_in_range(stats().dirty_bytes_per_s, full_bytes - full_bytes / 4,
			full_bytes + full_bytes / 4);
	assert_true(stats().paused_ns > SECOND);
	assert_int_equal(dl_vcpu_limit(rig.source, 0), 0);
	assert_int_equal(enter(), 0);
	assert_int_equal(run(100), 100 * PAGES_PER_MS);
	rig_finish();
	rig_expect_equal();
	rig_close();
}

/* Limits count pages; CPU time decides how they are spread. */
static void a_clock_that_fails_lifts_no_limit(void **state)
{
	static const uint32_t which[] = { DLM_CALL_THREAD_CLOCK, DLM_CALL_THREAD_NS };

	for (int i = 0; i < 2; i++) {
		const struct dlm_fault fault = { .size = sizeof(fault),
						 .call = which[i],
						 .error = EPERM };
		uint64_t times = 0;
		int number;

		open_rig();
		number = dlm_fault_add(rig.vm, &fault);
		assert_true(number >= 0);
		assert_true(dl_log_fd(rig.log) >= 0);
		assert_int_equal(dl_vcpu_limit(rig.source, LIMIT * PAGE), 0);
		enter();
		run(500);
		assert_in_range(run(2000), 2 * LIMIT - LIMIT / 3, 2 * LIMIT + LIMIT / 3);
		assert_int_equal(dlm_fault_injected(rig.vm, number, &times), 0);
		assert_true(times > 0);
		rig_finish();
		rig_expect_equal();
		rig_close();
	}
}

static void the_real_clock_has_real_cpu_clocks(void **state)
{
	uint64_t before, now = 0;
	int64_t id;

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	assert_int_equal(dlm_vcpu_thread(rig.vcpu), 0);
	id = clock_id();
	before = cpu_ns(id);
	while (now <= before)
		now = cpu_ns(id);
	expect_error(dlm_vcpu_pause(rig.vcpu, MS), EOPNOTSUPP, "real clock");
	rig_close();
}

static void refuses_misuse(void **state)
{
	const struct dl_os *os;
	uint64_t ns;

	rig_open(&virtual_clock, DL_MODE_RING, DLM_RECEIVER_GPA);
	os = dlm_vm_os(rig.vm);
	expect_error(dlm_vcpu_pause(rig.vcpu, MS), EBUSY, "dlm_vcpu_thread()");
	assert_int_equal(dlm_vcpu_thread(rig.vcpu), 0);
	assert_int_equal(dlm_vcpu_enter(rig.vcpu), 0);
	expect_error(dlm_vcpu_pause(rig.vcpu, MS), EBUSY, "vCPU 0 is in KVM_RUN");
	assert_int_equal(dlm_vcpu_pause(rig.vcpu, 0), 0);
	assert_int_equal(os->thread_ns(os->opaque, 5, &ns), -EINVAL);
	assert_int_equal(dlm_vcpu_thread(NULL), -EINVAL);
	assert_int_equal(dlm_vcpu_pause(NULL, 0), -EINVAL);
	rig_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_pause_is_no_cpu_time),
		cmocka_unit_test(each_vcpu_has_a_clock),
		cmocka_unit_test(a_limited_vcpu_pauses_and_its_rate_is_of_running_time),
		cmocka_unit_test(a_clock_that_fails_lifts_no_limit),
		cmocka_unit_test(the_real_clock_has_real_cpu_clocks),
		cmocka_unit_test(refuses_misuse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
