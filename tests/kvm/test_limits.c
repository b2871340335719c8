/* SPDX-License-Identifier: MIT */
/*
 * Limits of vCPUs on a real kernel: what the rings say is charged, pauses are handed out, and no
 * page is lost for it. Time is virtual, so that no result depends on how fast this machine is.
 */
#include "rig.h"

#include <stdio.h>
#include <string.h>

enum {
	PAGES = 4096,
	CHUNK = 64, /* pages that the guest dirties in a millisecond: 64,000 a second */
	LIMIT = 10000,
	MILLISECOND = 1000000,
};

#define SECOND UINT64_C(1000000000)

/* The clock, and how long the only vCPU has run. */
static struct {
	uint64_t now_ns, ran_ns, wake_ns;
	int64_t next_page;
} virtual;

static uint64_t virtual_now_ns(void *opaque)
{
	(void)opaque;
	return virtual.now_ns;
}

static int virtual_thread_clock(void *opaque, int64_t *clock_id)
{
	(void)opaque;
	*clock_id = 1;
	return 0;
}

static int virtual_thread_ns(void *opaque, int64_t clock_id, uint64_t *ns)
{
	(void)opaque;
	(void)clock_id;
	*ns = virtual.ran_ns;
	return 0;
}

static struct rig *virtual_rig(enum guest_mode guest, struct spy *spy, struct rig_slot **slot)
{
	const struct rig_config config = {
		.guest = guest,
		.mode = DL_MODE_RING,
		.ring_entries = 1024,
		.vcpus = 1,
		.spy = spy,
	};
	struct rig *rig;

	memset(&virtual, 0, sizeof(virtual));
	virtual.now_ns = SECOND;
	spy_init(spy);
	spy->os.now_ns = virtual_now_ns;
	spy->os.thread_clock = virtual_thread_clock;
	spy->os.thread_ns = virtual_thread_ns;
	rig = rig_new(&config);
	*slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	rig_join(rig, 0);
	/* A first pass: afterwards each page that is written is new. */
	rig_pass(rig, 0);
	return rig;
}

/* The guest dirties the next pages; it takes a millisecond. */
static void run_guest(struct rig *rig, const struct rig_slot *slot)
{
	const struct rig_range range = {
		.slot = slot,
		.first_page = (uint64_t) virtual.next_page,
		.pages = CHUNK,
	};

	rig_write(rig, 0, &range, virtual.now_ns);
	virtual.next_page = (virtual.next_page + CHUNK) % PAGES;
	virtual.now_ns += MILLISECOND;
	virtual.ran_ns += MILLISECOND;
}

static void reap(struct rig *rig)
{
	uint64_t again_ns;

	if (virtual.now_ns < virtual.wake_ns)
		return;
	assert_int_equal(dl_log_reap(rig->log, 0, &again_ns), 0);
	virtual.wake_ns = virtual.now_ns + again_ns;
}

/* The vCPU is kicked if it must be, and pauses. Returns how long. */
static uint64_t pause_if_due(struct rig *rig)
{
	uint64_t cookies[2], pause_ns, paused_ns = 0;
	int n = dl_log_kicks(rig->log, cookies, 2);

	assert_in_range(n, 0, 1);
	while (n && !dl_vcpu_pause_due(rig->vcpus[0].log, &pause_ns) && pause_ns) {
		virtual.now_ns += pause_ns;
		paused_ns += pause_ns;
	}
	return paused_ns;
}

/* Runs the VM for a time. Returns how many pages the guest has dirtied. */
static uint64_t run(struct rig *rig, const struct rig_slot *slot, uint64_t ns, bool passes,
		    uint64_t *paused_ns)
{
	uint64_t until_ns = virtual.now_ns + ns, pages = 0;

	while (virtual.now_ns < until_ns) {
		run_guest(rig, slot);
		pages += CHUNK;
		reap(rig);
		*paused_ns += pause_if_due(rig);
		/* A page that is still pending does not count as new. */
		if (passes && pages % (PAGES / 4) == 0)
			rig_pass(rig, 0);
	}
	return pages;
}

static void keep_a_limit(enum guest_mode guest)
{
	static struct spy spy; /* outlives a test that fails, as the rig does */
	struct rig_slot *slot;
	struct rig *rig = virtual_rig(guest, &spy, &slot);
	uint64_t paused_ns = 0, pages;

	assert_int_equal(run(rig, slot, SECOND / 5, true, &paused_ns), 200 * CHUNK);
	assert_int_equal(paused_ns, 0);
	assert_int_equal(dl_vcpu_limit(rig->vcpus[0].log, (uint64_t)LIMIT * rig->page_bytes), 0);
	virtual.wake_ns = 0;
	run(rig, slot, SECOND / 2, true, &paused_ns);
	for (int second = 0; second < 3; second++) {
		pages = run(rig, slot, SECOND, true, &paused_ns);
		assert_in_range(pages, LIMIT - LIMIT / 10, LIMIT + LIMIT / 10);
	}
	assert_int_equal(rig_stats(rig).limited_vcpus, 1);
	assert_int_equal(rig_stats(rig).paused_ns, paused_ns);
	assert_int_equal(dl_vcpu_limit(rig->vcpus[0].log, 0), 0);
	paused_ns = 0;
	assert_int_equal(run(rig, slot, SECOND / 5, true, &paused_ns), 200 * CHUNK);
	assert_int_equal(paused_ns, 0);
	rig_finish(rig);
}

static void a_limit_holds_over_any_second(void **state)
{
	(void)state;
	keep_a_limit(GUEST_USER);
}

static void a_limit_holds_where_the_guest_is_emulated(void **state)
{
	(void)state;
	keep_a_limit(GUEST_KERNEL);
}

/* Writing the same pages again and again dirties no new memory. */
static void a_small_working_set_needs_no_pause(void **state)
{
	static struct spy spy;
	struct rig_slot *slot;
	struct rig *rig = virtual_rig(GUEST_USER, &spy, &slot);
	uint64_t paused_ns = 0;

	(void)state;
	assert_int_equal(dl_vcpu_limit(rig->vcpus[0].log, (uint64_t)LIMIT * rig->page_bytes), 0);
	for (int i = 0; i < 100; i++) {
		virtual.next_page = 0;
		run_guest(rig, slot);
		reap(rig);
		paused_ns += pause_if_due(rig);
	}
	assert_in_range(paused_ns, 0, CHUNK * SECOND / LIMIT);
	rig_finish(rig);
}

/*
 * What a pass has copied is sent while the guest runs on: 20 pages a millisecond, and the guest
 * dirties 64. Returns the plan's last verdict.
 */
static uint32_t send_pass(struct rig *rig, const struct rig_slot *slot, struct dl_plan *plan,
			  uint64_t *paused_ns)
{
	const uint64_t step = 2000 * rig->page_bytes;
	struct dl_advice advice = { .size = sizeof(advice) };
	uint64_t unsent_bytes = rig_pass(rig, 0);

	do {
		run(rig, slot, 100 * MILLISECOND, false, paused_ns);
		assert_int_equal(dl_plan_sent(plan, step, 100 * MILLISECOND), 0);
		unsent_bytes -= unsent_bytes < step ? unsent_bytes : step;
		assert_int_equal(dl_plan_next(plan, unsent_bytes, &advice), 0);
		virtual.wake_ns = 0;
	} while (unsent_bytes && advice.verdict != DL_VERDICT_SWITCHOVER);
	return advice.verdict;
}

/* The plan must hold the vCPU back; the copy still equals the memory. */
static void a_plan_ends_a_migration(void **state)
{
	static struct spy spy;
	struct rig_slot *slot;
	struct rig *rig = virtual_rig(GUEST_USER, &spy, &slot);
	const struct dl_goal goal = {
		.size = sizeof(goal),
		.downtime_ns = 100 * MILLISECOND,
		.total_ns = 20 * SECOND,
	};
	uint32_t verdict = DL_VERDICT_CONTINUE;
	uint64_t paused_ns = 0;
	struct dl_plan *plan;

	(void)state;
	assert_int_equal(dl_plan_new(rig->checker.cursor, &goal, &plan), 0);
	for (int i = 0; i < 100 && verdict != DL_VERDICT_SWITCHOVER; i++)
		verdict = send_pass(rig, slot, plan, &paused_ns);
	assert_int_equal(verdict, DL_VERDICT_SWITCHOVER);
	assert_true(paused_ns > 0);
	dl_plan_free(plan);
	rig_finish(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(a_limit_holds_over_any_second),
		rig_test(a_limit_holds_where_the_guest_is_emulated),
		rig_test(a_small_working_set_needs_no_pause),
		rig_test(a_plan_ends_a_migration),
	};

	return rig_run_tests("kvm-limits", tests);
}
