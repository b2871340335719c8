/* SPDX-License-Identifier: MIT */
/* dl_plan_*(): a migration in the model's time, with two vCPUs. */
#include "cmocka_all.h"
#include "guest.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

enum { PAGES = 8192, PAGE = 4096, MILLISECOND = 1000000, ENTRIES = 1024 };

#define SECOND	  UINT64_C(1000000000)
#define WIRE_MS	  20u /* pages a millisecond */
#define MOST_READ 64u

/* A VMM: one vCPU that writes, one that only runs, a wire and a reaper. */
static struct {
	struct guest guest;
	struct guest_vcpu *writer, *reader;
	struct dl_plan *plan;
	struct dl_advice advice;
	uint64_t next_page, written;
	uint64_t writer_resumes_ns, reader_resumes_ns;
	uint64_t writer_paused_ns, reader_paused_ns, longest_ns;
	uint64_t reap_at_ns, plan_at_ns;
	uint64_t sent;
	bool in_pass;
} vmm;

static uint64_t now(void)
{
	return vmm.guest.os.now_ns(vmm.guest.os.opaque);
}

static void open_vmm(uint32_t mode, const struct dl_goal *goal)
{
	const struct guest_config config = {
		.model = { .virtual_clock = true },
		.options = { .mode = mode, .ring_entries = mode == DL_MODE_RING ? ENTRIES : 0 },
	};

	memset(&vmm, 0, sizeof(vmm));
	guest_open(&vmm.guest, &config);
	guest_add_slot(&vmm.guest, 0, 0, PAGES);
	vmm.writer = guest_vcpu(&vmm.guest, true);
	vmm.reader = guest_vcpu(&vmm.guest, true);
	guest_join(&vmm.guest, 0);
	assert_int_equal(dl_plan_new(vmm.guest.cursor, goal, &vmm.plan), 0);
	vmm.advice.size = sizeof(vmm.advice);
	vmm.reap_at_ns = vmm.plan_at_ns = now();
}

static int open_ring(void **state)
{
	open_vmm(DL_MODE_RING, NULL);
	return 0;
}

static int open_bitmap(void **state)
{
	open_vmm(DL_MODE_BITMAP, NULL);
	return 0;
}

static int close_vmm(void **state)
{
	dl_plan_free(vmm.plan);
	guest_leave(&vmm.guest);
	guest_close(&vmm.guest);
	return 0;
}

static void enter(struct guest_vcpu *vcpu, uint64_t *resumes_ns, uint64_t *paused_ns)
{
	uint64_t pause_ns;

	assert_int_equal(dl_vcpu_pause_due(vcpu->handle, &pause_ns), 0);
	if (pause_ns && *resumes_ns <= now()) {
		*paused_ns += pause_ns;
		vmm.longest_ns = pause_ns > vmm.longest_ns ? pause_ns : vmm.longest_ns;
	}
	*resumes_ns = now() + pause_ns;
}

static void serve_kicks(void)
{
	uint64_t cookies[4];
	int n = dl_log_kicks(vmm.guest.log, cookies, 4);

	assert_true(n >= 0);
	if (!n)
		return;
	enter(vmm.writer, &vmm.writer_resumes_ns, &vmm.writer_paused_ns);
	enter(vmm.reader, &vmm.reader_resumes_ns, &vmm.reader_paused_ns);
}

static void reap(void)
{
	uint64_t again_ns;

	if (now() < vmm.reap_at_ns)
		return;
	assert_int_equal(dl_log_reap(vmm.guest.log, 0, &again_ns), 0);
	vmm.reap_at_ns = again_ns == UINT64_MAX ? UINT64_MAX : now() + again_ns;
	serve_kicks();
}

static void ask_plan(void)
{
	if (now() < vmm.plan_at_ns)
		return;
	assert_int_equal(dl_plan_next(vmm.plan, 0, &vmm.advice), 0);
	vmm.plan_at_ns = now() + vmm.advice.again_ns;
	vmm.reap_at_ns = now();
	serve_kicks();
}

/* Sends what the wire takes in a millisecond. */
static void send(void)
{
	uint32_t room = WIRE_MS;

	while (room) {
		struct dl_extent extent[1];
		int n;

		if (!vmm.in_pass)
			assert_int_equal(dl_harvest(vmm.guest.cursor, 0, NULL), 0);
		vmm.in_pass = true;
		n = dl_cursor_read(vmm.guest.cursor, extent, 1);
		assert_true(n >= 0);
		if (!n) {
			assert_int_equal(dl_cursor_end(vmm.guest.cursor, 0), 0);
			vmm.in_pass = false;
			break;
		}
		assert_int_equal(dl_cursor_ack(vmm.guest.cursor, extent, 1), 0);
		assert_true(extent->bytes <= PAGE);
		room--;
		vmm.sent++;
	}
	if (room < WIRE_MS)
		assert_int_equal(dl_plan_sent(vmm.plan, (WIRE_MS - room) * PAGE,
					      (WIRE_MS - room) * MILLISECOND / WIRE_MS),
				 0);
}

/* One page at a time, so that the wire has its rate. */
static void use_small_extents(void)
{
	const struct dl_cursor_options options = { .size = sizeof(options),
						   .max_extent_bytes = PAGE };

	dl_plan_free(vmm.plan);
	dl_cursor_free(vmm.guest.cursor);
	assert_int_equal(dl_cursor_new(vmm.guest.log, &options, &vmm.guest.cursor), 0);
}

static void replan(const struct dl_goal *goal)
{
	use_small_extents();
	assert_int_equal(dl_plan_new(vmm.guest.cursor, goal, &vmm.plan), 0);
}

static void write_some(uint64_t n)
{
	for (; n; n--) {
		assert_int_equal(guest_write(&vmm.guest, vmm.writer, 0, vmm.next_page), 0);
		vmm.next_page = (vmm.next_page + 1) % PAGES;
		vmm.written++;
	}
}

/* Returns the verdict that ended it, or that of the time's end. */
static uint32_t migrate(uint64_t ms, uint64_t pages_per_ms)
{
	for (; ms && vmm.advice.verdict != DL_VERDICT_SWITCHOVER; ms--) {
		if (vmm.writer_resumes_ns <= now())
			write_some(pages_per_ms);
		send();
		model_advance(vmm.guest.model, MILLISECOND);
		reap();
		ask_plan();
	}
	return vmm.advice.verdict;
}

static void a_quiet_guest_is_never_limited(void **state)
{
	replan(NULL);
	assert_int_equal(migrate(3000, 1), DL_VERDICT_SWITCHOVER);
	assert_int_equal(vmm.writer_paused_ns + vmm.reader_paused_ns, 0);
	assert_int_equal(vmm.advice.limited_vcpus, 0);
	assert_in_range(vmm.advice.wire_bytes_per_s / PAGE, 19000, 21000);
}

static void a_guest_that_writes_faster_than_the_wire_ends(void **state)
{
	const struct dl_goal goal = { .size = sizeof(goal),
				      .downtime_ns = 20 * MILLISECOND,
				      .total_ns = 10 * SECOND };

	replan(&goal);
	assert_int_equal(migrate(10000, 30), DL_VERDICT_SWITCHOVER);
	assert_true(vmm.writer_paused_ns > 0);
	assert_int_equal(vmm.reader_paused_ns, 0);
	assert_true(vmm.longest_ns <= goal.downtime_ns);
	assert_true(vmm.advice.pending_bytes <= 20 * WIRE_MS * PAGE);
	assert_int_equal(guest_stats(&vmm.guest).paused_ns, vmm.writer_paused_ns);
}

static void the_same_guest_does_not_end_without_limits(void **state)
{
	const struct dl_goal goal = { .size = sizeof(goal),
				      .flags = DL_GOAL_ADVISE,
				      .downtime_ns = 20 * MILLISECOND };

	replan(&goal);
	assert_int_not_equal(migrate(10000, 30), DL_VERDICT_SWITCHOVER);
	assert_int_equal(vmm.writer_paused_ns, 0);
	assert_int_equal(vmm.advice.limited_vcpus, 0);
	/* But the caller is told how far it should hold back all vCPUs alike. */
	assert_in_range(vmm.advice.run_ppm, 100000, 600000);
	assert_int_equal(vmm.advice.bound_by, DL_BOUND_STALL);
}

static void throttle(void)
{
	const struct dl_goal goal = { .size = sizeof(goal),
				      .downtime_ns = 2 * MILLISECOND,
				      .longest_pause_ns = 300 * MILLISECOND };

	replan(&goal);
	for (int i = 0; i < 100 && !vmm.writer_paused_ns; i++)
		migrate(100, 30);
	assert_int_equal(vmm.advice.verdict, DL_VERDICT_THROTTLED);
	assert_int_equal(vmm.advice.limited_vcpus, 1);
	assert_int_equal(guest_stats(&vmm.guest).limited_vcpus, 1);
}

static void a_forgotten_plan_lapses(void **state)
{
	uint64_t pause_ns;

	throttle();
	model_advance(vmm.guest.model, 10 * vmm.advice.again_ns);
	reap();
	/* Enough pages for a debt under any limit. */
	write_some(500);
	model_advance(vmm.guest.model, 5 * MILLISECOND);
	reap();
	assert_int_equal(dl_vcpu_pause_due(vmm.writer->handle, &pause_ns), 0);
	assert_int_equal(pause_ns, 0);
	assert_int_equal(guest_stats(&vmm.guest).limited_vcpus, 0);
}

static void the_lower_of_two_limits_holds(void **state)
{
	uint64_t before;

	throttle();
	before = vmm.written;
	assert_int_equal(dl_vcpu_limit(vmm.writer->handle, 100 * PAGE), 0);
	for (int ms = 0; ms < 3000; ms++) {
		vmm.advice.verdict = DL_VERDICT_CONTINUE;
		migrate(1, 30);
	}
	/* The plan never asks for less than 2000 a second. */
	assert_in_range(vmm.written - before, 100, 1000);
}

static void a_removed_vcpu_has_no_limit_of_the_plan(void **state)
{
	uint64_t words[PAGES / 64] = { 0 }, cookies[4], again_ns;

	throttle();
	model_advance(vmm.guest.model, 400 * MILLISECOND);
	assert_int_equal(dl_log_reap(vmm.guest.log, DL_REAP_NOW, &again_ns), 0);
	/* Pages that are written after this take are new. */
	assert_int_equal(dl_cursor_take(vmm.guest.cursor, 0, 0, words, PAGES / 64, NULL), 0);
	assert_true(dl_log_kicks(vmm.guest.log, cookies, 4) >= 0);
	/* Far more than the plan allows in that time. */
	write_some(900);
	dl_vcpu_remove(vmm.writer->handle);
	vmm.writer->handle = NULL;
	model_advance(vmm.guest.model, 10 * MILLISECOND);
	assert_int_equal(dl_log_reap(vmm.guest.log, DL_REAP_NOW, &again_ns), 0);
	assert_int_equal(dl_log_kicks(vmm.guest.log, cookies, 4), 0);
}

static void a_plan_that_ends_lets_its_vcpus_go(void **state)
{
	uint64_t pause_ns, cookies[4];

	throttle();
	for (int i = 0; i < 1000 && vmm.writer_resumes_ns <= now(); i++)
		migrate(1, 30);
	assert_true(vmm.writer_resumes_ns > now());
	dl_plan_free(vmm.plan);
	vmm.plan = NULL;
	assert_int_equal(dl_log_kicks(vmm.guest.log, cookies, 4), 1);
	assert_int_equal(dl_vcpu_pause_due(vmm.writer->handle, &pause_ns), 0);
	assert_int_equal(pause_ns, 0);
	assert_int_equal(dl_plan_new(vmm.guest.cursor, NULL, &vmm.plan), 0);
}

static void a_cursor_takes_the_limits_of_its_plan_with_it(void **state)
{
	uint64_t pause_ns;
	char text[200];

	throttle();
	dl_cursor_free(vmm.guest.cursor);
	vmm.guest.cursor = NULL;
	assert_int_equal(dl_vcpu_pause_due(vmm.writer->handle, &pause_ns), 0);
	assert_int_equal(pause_ns, 0);
	assert_int_equal(dl_plan_next(vmm.plan, 0, &vmm.advice), -ECANCELED);
	assert_true(dl_log_last_error(vmm.guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "cursor"));
	assert_int_equal(dl_plan_sent(vmm.plan, 1, 1), 0);
}

static void a_vcpu_that_never_asks_is_told(void **state)
{
	const struct dl_goal goal = { .size = sizeof(goal), .downtime_ns = 2 * MILLISECOND };

	replan(&goal);
	for (int i = 0; i < 9000; i++) {
		write_some(30);
		send();
		model_advance(vmm.guest.model, MILLISECOND);
		if (now() >= vmm.plan_at_ns) {
			assert_int_equal(dl_plan_next(vmm.plan, 0, &vmm.advice), 0);
			vmm.plan_at_ns = now() + vmm.advice.again_ns;
		}
	}
	assert_int_equal(vmm.advice.bound_by, DL_BOUND_IGNORED);
}

/* Pages that are taken but not sent are missing at the destination. */
static void unsent_memory_counts(void **state)
{
	uint64_t words[PAGES / 64] = { 0 }, taken_bytes;

	assert_int_equal(dl_cursor_take(vmm.guest.cursor, 0, DL_TAKE_HARVEST, words, PAGES / 64,
					&taken_bytes),
			 0);
	assert_int_equal(taken_bytes, (uint64_t)PAGES * PAGE);
	model_advance(vmm.guest.model, 100 * MILLISECOND);
	assert_int_equal(dl_plan_sent(vmm.plan, 1000 * PAGE, 50 * MILLISECOND), 0);
	assert_int_equal(dl_plan_next(vmm.plan, 7192 * PAGE, &vmm.advice), 0);
	assert_int_equal(vmm.advice.pending_bytes, 7192 * PAGE);
	assert_int_equal(vmm.advice.verdict, DL_VERDICT_CONTINUE);
	assert_int_equal(dl_plan_next(vmm.plan, 1 * PAGE, &vmm.advice), 0);
	assert_int_equal(vmm.advice.verdict, DL_VERDICT_CONTINUE);
	assert_int_equal(dl_plan_next(vmm.plan, 0, &vmm.advice), 0);
	assert_int_equal(vmm.advice.verdict, DL_VERDICT_SWITCHOVER);
	assert_int_equal(vmm.advice.pending_bytes, 0);
}

static void numbers_beyond_64_bits_are_cut(void **state)
{
	model_advance(vmm.guest.model, 100 * MILLISECOND);
	assert_int_equal(dl_plan_sent(vmm.plan, UINT64_MAX, 1), 0);
	assert_int_equal(dl_plan_next(vmm.plan, UINT64_MAX, &vmm.advice), 0);
	assert_int_equal(vmm.advice.verdict, DL_VERDICT_CONTINUE);
	assert_true(vmm.advice.pending_bytes == UINT64_MAX);
	assert_true(vmm.advice.wire_bytes_per_s == UINT64_MAX);
}

/* A consumer reads everything, ends its pass, and sends afterwards. */
static void a_first_pass_that_ended_unsent_is_not_over(void **state)
{
	const struct dl_goal goal = { .size = sizeof(goal), .total_ns = MILLISECOND };
	struct dl_extent extent;

	replan(&goal);
	assert_int_equal(dl_harvest(vmm.guest.cursor, 0, NULL), 0);
	while (dl_cursor_read(vmm.guest.cursor, &extent, 1))
		assert_int_equal(dl_cursor_ack(vmm.guest.cursor, &extent, 1), 0);
	assert_int_equal(dl_cursor_end(vmm.guest.cursor, 0), 0);
	model_advance(vmm.guest.model, 100 * MILLISECOND);
	assert_int_equal(dl_plan_sent(vmm.plan, 2000 * PAGE, 100 * MILLISECOND), 0);
	/* Late already, and yet nothing to limit before it is known what comes back. */
	assert_int_equal(dl_plan_next(vmm.plan, 6000 * PAGE, &vmm.advice), 0);
	assert_int_equal(vmm.advice.bound_by, DL_BOUND_NONE);
	write_some(PAGES);
	assert_int_equal(dl_plan_next(vmm.plan, 0, &vmm.advice), 0);
	assert_int_equal(vmm.advice.bound_by, DL_BOUND_DEADLINE);
}

static void bitmap_mode_advises_how_much_to_run(void **state)
{
	const struct dl_goal goal = { .size = sizeof(goal), .downtime_ns = 2 * MILLISECOND };

	replan(&goal);
	for (int i = 0; i < 100 && vmm.advice.verdict != DL_VERDICT_THROTTLED; i++)
		migrate(100, 60);
	assert_int_equal(vmm.advice.verdict, DL_VERDICT_THROTTLED);
	assert_in_range(vmm.advice.run_ppm, 100000, 900000);
	assert_int_equal(vmm.advice.limited_vcpus, 0);
	assert_int_equal(vmm.writer_paused_ns, 0);
}

/* Bitmaps are read now and then, but not only then before the guest is paused. */
static void bitmap_mode_misses_nothing_before_the_switch(void **state)
{
	const struct dl_goal goal = { .size = sizeof(goal), .downtime_ns = 20 * MILLISECOND };

	replan(&goal);
	assert_int_equal(migrate(3000, 1), DL_VERDICT_SWITCHOVER);
	write_some(1000);
	model_advance(vmm.guest.model, MILLISECOND);
	assert_int_equal(dl_plan_next(vmm.plan, 0, &vmm.advice), 0);
	assert_true(vmm.advice.pending_bytes >= 1000 * PAGE);
	assert_int_not_equal(vmm.advice.verdict, DL_VERDICT_SWITCHOVER);
}

static void a_log_has_one_plan(void **state)
{
	struct dl_plan *second = vmm.plan;

	assert_int_equal(dl_plan_new(vmm.guest.cursor, NULL, &second), -EBUSY);
	assert_null(second);
}

static void bad_goals_are_refused(void **state)
{
	static const struct dl_goal bad[] = {
		{ .size = 4 },
		{ .size = sizeof(bad[0]), .flags = 1 },
		{ .size = sizeof(bad[0]), .least_run_ppm = 1000001 },
		{ .size = sizeof(bad[0]), .reserved = 1 },
		{ .size = sizeof(bad[0]), .fixed_ns = 300000000 },
		{ .size = sizeof(bad[0]), .downtime_ns = 1000000, .fixed_ns = 1000000 },
	};
	struct dl_plan *plan;

	dl_plan_free(vmm.plan);
	vmm.plan = NULL;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(dl_plan_new(vmm.guest.cursor, &bad[i], &plan), -EINVAL);
	assert_int_equal(dl_plan_new(NULL, NULL, &plan), -EINVAL);
	assert_int_equal(dl_plan_new(vmm.guest.cursor, NULL, NULL), -EINVAL);
	assert_int_equal(dl_plan_sent(NULL, 1, 1), -EINVAL);
	assert_int_equal(dl_plan_next(NULL, 0, &vmm.advice), -EINVAL);
	assert_int_equal(dl_plan_new(vmm.guest.cursor, NULL, &vmm.plan), 0);
	assert_int_equal(dl_plan_next(vmm.plan, 0, NULL), -EINVAL);
	vmm.advice.size = 8;
	assert_int_equal(dl_plan_next(vmm.plan, 0, &vmm.advice), -EINVAL);
	dl_plan_free(NULL);
}

static void a_failing_reset_leaves_the_limits(void **state)
{
	const struct model_fault fault = { .request = KVM_RESET_DIRTY_RINGS,
					   .times = 1,
					   .error = ENOMEM };

	throttle();
	vmm.writer_resumes_ns = 0;
	write_some(10);
	assert_int_equal(model_fault(vmm.guest.model, &fault), 0);
	assert_int_equal(dl_plan_next(vmm.plan, 0, &vmm.advice), -ENOMEM);
	assert_int_equal(guest_stats(&vmm.guest).limited_vcpus, 1);
	assert_int_equal(dl_plan_next(vmm.plan, 0, &vmm.advice), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define ring_test(f)   cmocka_unit_test_setup_teardown(f, open_ring, close_vmm)
#define bitmap_test(f) cmocka_unit_test_setup_teardown(f, open_bitmap, close_vmm)
		ring_test(a_quiet_guest_is_never_limited),
		ring_test(a_guest_that_writes_faster_than_the_wire_ends),
		ring_test(the_same_guest_does_not_end_without_limits),
		ring_test(a_forgotten_plan_lapses),
		ring_test(the_lower_of_two_limits_holds),
		ring_test(a_removed_vcpu_has_no_limit_of_the_plan),
		ring_test(a_plan_that_ends_lets_its_vcpus_go),
		ring_test(a_cursor_takes_the_limits_of_its_plan_with_it),
		ring_test(a_vcpu_that_never_asks_is_told),
		ring_test(unsent_memory_counts),
		ring_test(numbers_beyond_64_bits_are_cut),
		ring_test(a_first_pass_that_ended_unsent_is_not_over),
		bitmap_test(bitmap_mode_advises_how_much_to_run),
		bitmap_test(bitmap_mode_misses_nothing_before_the_switch),
		ring_test(a_log_has_one_plan),
		ring_test(bad_goals_are_refused),
		ring_test(a_failing_reset_leaves_the_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
