/* SPDX-License-Identifier: MIT */
/* The law of convergence: what it says of one look after another. */
#include "cmocka_all.h"

#include "plan/law.h"

#include <math.h>

#define MIB 1048576.0

static struct dli_law law;
static struct dli_law_look look;

/* A wire of 100 MiB/s, and 0.3 s of downtime. */
static void start(double budget)
{
	const struct dli_law_goal goal = { .downtime = 0.3, .budget = budget, .least_run = 0.01 };

	dli_law_start(&law, &goal);
	dli_wire_note(&law.wire, 100 * MIB, 1);
	look = (struct dli_law_look){ .pending = 1000 * MIB, .passes = 2 };
}

static int no_budget(void **state)
{
	start(INFINITY);
	return 0;
}

static struct dli_law_advice at(double seconds)
{
	look.over = seconds - look.at;
	look.at = seconds;
	return dli_law_look(&law, &look);
}

static double fits_at(double seconds)
{
	(void)at(seconds);
	return dli_law_fits(&law);
}

/* Looks every 100 ms up to the time. */
static struct dli_law_advice until(double seconds)
{
	struct dli_law_advice advice = { 0 };

	for (int i = 1; i <= seconds * 10 + 0.5; i++)
		advice = at(i / 10.0);
	return advice;
}

static bool near(double is, double should_be)
{
	return fabs(is - should_be) <= 0.02 * fabs(should_be) + 1e-6;
}

static void the_wire_is_what_it_takes_while_busy(void **state)
{
	struct dli_wire wire = { 0 };

	dli_wire_note(&wire, 5 * MIB, 0);
	assert_true(wire.slow == 0);
	dli_wire_note(&wire, 10 * MIB, 0.1);
	assert_true(near(wire.fast, 100 * MIB) && near(wire.slow, 100 * MIB));
	/* A wire that slows down is known to the fast average first. */
	for (int i = 0; i < 10; i++)
		dli_wire_note(&wire, MIB, 0.1);
	assert_true(near(wire.fast, 10 * MIB + 90 * MIB * exp(-4)));
	assert_true(near(wire.slow, 10 * MIB + 90 * MIB * exp(-1 / 3.0)));
	/* A long time of being busy counts for all of it. */
	dli_wire_note(&wire, 5000 * MIB, 100);
	assert_true(near(wire.fast, 50 * MIB) && near(wire.slow, 50 * MIB));
}

static void a_wire_that_takes_nothing_at_first_is_not_known_yet(void **state)
{
	struct dli_wire wire = { 0 };

	dli_wire_note(&wire, 0, 0.1);
	assert_true(wire.slow == 0 && wire.roughness == 0);
	dli_wire_note(&wire, 10 * MIB, 0.1);
	assert_true(near(wire.fast, 100 * MIB) && near(wire.slow, 100 * MIB));
	assert_true(wire.roughness == 0);
	/* It stands still for so long that nothing else is remembered. */
	dli_wire_note(&wire, 0, 100);
	dli_wire_note(&wire, 0, 1);
	assert_true(wire.slow == 0);
	for (int i = 0; i < 300; i++)
		dli_wire_note(&wire, 10 * MIB, 0.1);
	assert_true(near(wire.slow, 100 * MIB) && wire.roughness < 0.01);
}

/* However long it stood still, while its sender went on to report. */
static void a_wire_that_stood_still_is_smooth_again_soon(void **state)
{
	struct dli_wire wire = { 0 };

	dli_wire_note(&wire, 100 * MIB, 1);
	for (int i = 0; i < 3600; i++)
		dli_wire_note(&wire, 0, 1);
	for (int i = 0; i < 15; i++)
		dli_wire_note(&wire, 100 * MIB, 1);
	assert_true(wire.roughness < 0.1);
}

static void demand_is_per_second_of_running(void **state)
{
	struct dli_demand demand = { 0 };

	for (int i = 0; i < 30; i++)
		dli_demand_note(&demand, MIB, 3 * MIB, 0.01, 0.1);
	assert_true(near(demand.new_bytes, 100 * MIB));
	assert_true(near(demand.entry_bytes, 300 * MIB));
	/* A vCPU that is stopped keeps what it is known for. */
	for (int i = 0; i < 100; i++)
		dli_demand_note(&demand, 0, 0, 0, 0.1);
	assert_true(near(demand.new_bytes, 100 * MIB));
	dli_demand_note(&demand, MIB, MIB, 0.1, 0);
	assert_true(near(demand.new_bytes, 100 * MIB));
}

static void what_fits_the_downtime_is_switched_over(void **state)
{
	look.pending = 27.1 * MIB;
	assert_int_equal(at(1).verdict, DL_VERDICT_CONTINUE);
	look.pending = 26.9 * MIB;
	assert_int_equal(at(1.1).verdict, DL_VERDICT_SWITCHOVER);
	assert_true(near(at(1.2).downtime, 0.269));
}

static void the_first_pass_is_sent_to_its_end(void **state)
{
	look.first_pass = true;
	look.pending = MIB;
	assert_int_equal(at(1).verdict, DL_VERDICT_CONTINUE);
	look.demand = 500 * MIB;
	assert_true(isinf(until(20).allowed));
}

static void device_state_is_part_of_the_downtime(void **state)
{
	law.goal.fixed = 0.2;
	look.pending = 9.1 * MIB;
	assert_int_equal(at(1).verdict, DL_VERDICT_CONTINUE);
	look.pending = 8.9 * MIB;
	assert_int_equal(at(2).verdict, DL_VERDICT_SWITCHOVER);
	assert_true(near(at(3).downtime, 0.289));
	law.goal.fixed = 0.4;
	look.pending = 4096;
	assert_int_equal(at(4).verdict, DL_VERDICT_CONTINUE);
}

static void a_wire_that_varies_is_relied_on_less(void **state)
{
	double steady = fits_at(1);

	for (int i = 0; i < 300; i++)
		dli_wire_note(&law.wire, i % 2 ? 6 * MIB : 14 * MIB, 0.1);
	assert_true(near(law.wire.slow, 100 * MIB));
	assert_true(fabs(law.wire.roughness - 0.4) < 0.02);
	assert_true(fits_at(2) < 0.75 * steady);
	/* It settles, and counts again. */
	for (int i = 0; i < 200; i++)
		dli_wire_note(&law.wire, 10 * MIB, 0.1);
	assert_true(near(fits_at(3), steady));
	/* A wire that is broken most of the time is still one. */
	law.wire.roughness = 5;
	assert_true(near(fits_at(4), 0.5 * 0.3 * 100 * MIB));
}

static void a_wire_that_slows_down_is_believed_at_once(void **state)
{
	for (int i = 0; i < 10; i++)
		dli_wire_note(&law.wire, MIB, 0.1);
	assert_true(law.wire.fast < 0.2 * law.wire.slow);
	assert_true(fits_at(1) <= 0.9 * 0.3 * law.wire.fast);
	assert_true(at(2).downtime > look.pending / law.wire.slow);
}

static void a_wire_that_speeds_up_is_not_believed_at_once(void **state)
{
	for (int i = 0; i < 10; i++)
		dli_wire_note(&law.wire, 100 * MIB, 0.1);
	assert_true(law.wire.fast > 1.5 * law.wire.slow);
	assert_true(fits_at(1) <= 0.9 * 0.3 * law.wire.slow);
}

static void an_unknown_wire_fits_nothing(void **state)
{
	law.wire = (struct dli_wire){ 0 };
	look.demand = MIB;
	assert_int_equal(until(20).verdict, DL_VERDICT_CONTINUE);
	assert_true(isinf(until(20).allowed));
	assert_true(isinf(at(30).remaining));
	look.pending = 0;
	assert_int_equal(at(31).verdict, DL_VERDICT_SWITCHOVER);
}

static void a_guest_that_converges_is_left_alone(void **state)
{
	look.demand = 80 * MIB;
	for (int i = 1; i < 300; i++) {
		look.pending -= 2 * MIB;
		assert_true(isinf(at(i / 10.0).allowed));
	}
	assert_int_equal(law.limiting, DL_BOUND_NONE);
	assert_true(near(at(30).remaining, (look.pending - 27 * MIB) / (20 * MIB)));
}

static void a_demand_beyond_the_wire_is_limited_after_half_a_second(void **state)
{
	look.demand = 91 * MIB;
	at(0);
	assert_true(isinf(at(0.4).allowed));
	assert_true(near(at(0.6).allowed, 20 * MIB));
	assert_int_equal(law.limiting, DL_BOUND_STALL);
	/* And stays limited: a limit that came and went would swing. */
	look.demand = 10 * MIB;
	assert_true(near(at(5).allowed, 90 * MIB));
}

static void a_guest_whose_demand_wavers_is_limited_hard(void **state)
{
	look.demand = 91 * MIB;
	at(0);
	at(1);
	look.demand = 89 * MIB;
	assert_true(near(at(2.9).allowed, 20 * MIB));
	assert_true(near(at(3.1).allowed, 90 * MIB));
	look.demand = 91 * MIB;
	assert_true(near(at(3.2).allowed, 20 * MIB));
	look.demand = 89 * MIB;
	assert_true(near(at(5.1).allowed, 20 * MIB));
}

static void a_backlog_that_does_not_shrink_is_limited_after_five_seconds(void **state)
{
	look.demand = 80 * MIB;
	assert_true(isinf(until(4.9).allowed));
	assert_true(near(until(5.2).allowed, 90 * MIB));
	assert_int_equal(law.limiting, DL_BOUND_STALL);
	/* Hard, if that does not help: devices may dirty the rest. */
	assert_true(near(until(14).allowed, 90 * MIB));
	assert_true(near(until(15.2).allowed, 20 * MIB));
	look.pending *= 0.96;
	assert_true(near(at(15.3).allowed, 90 * MIB));
}

static void the_budget_limits_in_time(void **state)
{
	start(60.0);
	look.demand = 80 * MIB;
	/* 1.3 * 973 / 50 + 1 = 26.3 s before the end, less the downtime. */
	for (int i = 1; i < 330; i++) {
		look.pending *= i % 40 ? 1 : 0.89;
		if (i % 40 == 0)
			look.pending /= 0.89;
		law.progress_at = i / 10.0;
		assert_true(isinf(at(i / 10.0).allowed));
	}
	law.progress_at = 34;
	assert_true(isfinite(at(34).allowed));
	assert_int_equal(law.limiting, DL_BOUND_DEADLINE);
}

static void the_limit_gets_harder_as_time_runs_out(void **state)
{
	start(30.0);
	look.demand = 80 * MIB;
	at(0);
	/* 100 - 973 / (0.95 * 25.7 - 0.2) */
	assert_true(near(at(4).allowed, 59.82 * MIB));
	/* 100 - 973 / (0.95 * 14.7 - 0.2); it has just got further. */
	law.best_at = 15;
	assert_true(near(at(15).allowed, 29.32 * MIB));
	assert_true(near(at(20).allowed, 10 * MIB));
	assert_true(near(at(40).allowed, 10 * MIB));
	assert_int_equal(at(41).verdict, DL_VERDICT_LATE);
}

static void a_hot_guest_has_a_deadline_too(void **state)
{
	start(30.0);
	look.demand = 500 * MIB;
	at(0);
	assert_true(near(at(1).allowed, 20 * MIB));
	/* 100 - 973 / (0.95 * 11.85 - 0.2) */
	assert_true(near(at(17.85).allowed, 12.0 * MIB));
}

static void a_guest_at_its_floor_diverges(void **state)
{
	look.demand = look.written = 9000 * MIB;
	look.new_bytes = 9.2 * MIB;
	for (int i = 1; i <= 200; i++) {
		look.passes = 2 + (uint64_t)i / 200;
		assert_int_not_equal(at(i / 10.0).verdict, DL_VERDICT_DIVERGING);
	}
	look.passes = 6;
	for (int i = 201; i <= 219; i++)
		assert_int_not_equal(at(i / 10.0).verdict, DL_VERDICT_DIVERGING);
	(void)at(22.0);
	assert_int_equal(at(22.1).verdict, DL_VERDICT_DIVERGING);
	/* Progress is worth waiting for. */
	look.pending *= 0.9;
	assert_int_equal(at(22.2).verdict, DL_VERDICT_CONTINUE);
}

static void expect_that_it_never_diverges(void)
{
	look.new_bytes = 9.2 * MIB;
	for (int i = 1; i <= 400; i++) {
		look.passes = 2 + (uint64_t)i / 10;
		assert_int_not_equal(at(i / 10.0).verdict, DL_VERDICT_DIVERGING);
	}
}

static void a_guest_above_its_floor_does_not_diverge(void **state)
{
	look.demand = look.written = 7900 * MIB;
	expect_that_it_never_diverges();
}

/* Some 27 MiB fit the downtime: one moment of a faster wire ends it. */
static void a_guest_that_is_near_its_switch_does_not_diverge(void **state)
{
	look.demand = look.written = 9000 * MIB;
	look.pending = 50 * MIB;
	expect_that_it_never_diverges();
}

/* Its caller waits for something else than memory. What is pending cannot fall below nothing. */
static void a_guest_that_could_switch_is_not_limited(void **state)
{
	look.demand = look.written = 95 * MIB;
	look.pending = 0.1 * MIB;
	for (int i = 1; i <= 600; i++) {
		struct dli_law_advice advice;

		look.new_bytes = 9.5 * MIB;
		look.pending = i % 2 ? 0.1 * MIB : MIB;
		advice = at(i / 10.0);
		assert_int_equal(advice.verdict, DL_VERDICT_SWITCHOVER);
		assert_true(isinf(advice.allowed));
	}
}

static void the_budget_has_room_for_the_whole_downtime(void **state)
{
	const struct dli_law_goal goal = {
		.downtime = 5, .fixed = 4.5, .budget = 10, .least_run = 0.01
	};

	start(INFINITY);
	dli_law_start(&law, &goal);
	dli_wire_note(&law.wire, 100 * MIB, 1);
	assert_int_not_equal(until(4.9).verdict, DL_VERDICT_LATE);
	assert_int_equal(at(5.1).verdict, DL_VERDICT_LATE);
}

/* An overflow: all is pending at once, and falls from there. */
static void a_jump_is_no_stall(void **state)
{
	look.pending = 100 * MIB;
	(void)until(1);
	look.pending = 4000 * MIB;
	for (int i = 11; i <= 200; i++) {
		assert_true(isinf(at(i / 10.0).allowed));
		look.pending -= 10 * MIB;
	}
}

/* One piece took the wire twelve seconds; it is not known yet how fast it is again. */
static void a_wire_that_stood_still_is_no_reason_to_give_up(void **state)
{
	law.goal.least_run = 0.9;
	look.demand = look.written = 120 * MIB;
	look.new_bytes = 10 * MIB;
	(void)until(20);
	look.passes += 3;
	for (int i = 201; i <= 219; i++) {
		assert_int_not_equal(at(i / 10.0).verdict, DL_VERDICT_DIVERGING);
		/* Of late it is as fast as before. */
		if (i == 210)
			law.wire.slow *= 2;
		else if (i == 211)
			law.wire.slow /= 2;
	}
	for (int i = 220; i <= 230; i++)
		assert_int_not_equal(at(i / 10.0).verdict, DL_VERDICT_DIVERGING);
	assert_int_equal(at(23.2).verdict, DL_VERDICT_DIVERGING);
}

/* It has been quiet, and near its switch, since its limits began. */
static void a_guest_that_gets_worse_diverges(void **state)
{
	int diverging = 0;

	for (int i = 1; i <= 1000; i++) {
		bool quiet = i >= 50 && i < 100;

		look.passes = 2 + (uint64_t)i / 50;
		if (i < 100)
			look.pending = (quiet ? 20 : 1000) * MIB;
		else if (look.pending < 4000 * MIB)
			look.pending += 5 * MIB;
		look.demand = look.written = (i < 50 ? 200 : quiet ? 10 : 15000) * MIB;
		look.new_bytes = look.entry_bytes = (i < 100 ? 1 : 15) * MIB;
		diverging += at(i / 10.0).verdict == DL_VERDICT_DIVERGING;
	}
	assert_true(law.limiting);
	assert_true(diverging > 0);
}

/* A device is asked once a second: what it wrote is pending at once, and no vCPU wrote it. */
static struct dli_law_advice with_a_device(double vcpus, double wire, double device, int seconds,
					   int *diverging)
{
	struct dli_law_advice advice = { .allowed = INFINITY };

	for (int i = 1; i <= 10 * seconds; i++) {
		look.new_bytes = look.entry_bytes = vcpus;
		look.pending += vcpus - wire;
		if (i % 10 == 0) {
			look.pending += device;
			look.passes++;
		}
		advice = at(i / 10.0);
		*diverging += advice.verdict == DL_VERDICT_DIVERGING;
	}
	return advice;
}

static void the_jumps_of_a_device_do_not_hide_a_stall(void **state)
{
	int diverging = 0;

	look.pending = 90 * MIB;
	look.demand = look.written = 70 * MIB;
	assert_false(isinf(with_a_device(7 * MIB, 10 * MIB, 30 * MIB, 60, &diverging).allowed));
}

static void the_jumps_of_a_device_do_not_hide_that_nothing_helps(void **state)
{
	int diverging = 0;

	look.pending = 150 * MIB;
	look.demand = 500 * MIB;
	look.written = 20000 * MIB;
	(void)with_a_device(9.5 * MIB, 14 * MIB, 45 * MIB, 60, &diverging);
	assert_true(diverging > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(the_jumps_of_a_device_do_not_hide_a_stall, no_budget),
		cmocka_unit_test_setup(the_jumps_of_a_device_do_not_hide_that_nothing_helps,
				       no_budget),
		cmocka_unit_test_setup(the_wire_is_what_it_takes_while_busy, no_budget),
		cmocka_unit_test_setup(a_wire_that_takes_nothing_at_first_is_not_known_yet,
				       no_budget),
		cmocka_unit_test(a_wire_that_stood_still_is_smooth_again_soon),
		cmocka_unit_test_setup(demand_is_per_second_of_running, no_budget),
		cmocka_unit_test_setup(what_fits_the_downtime_is_switched_over, no_budget),
		cmocka_unit_test_setup(the_first_pass_is_sent_to_its_end, no_budget),
		cmocka_unit_test_setup(device_state_is_part_of_the_downtime, no_budget),
		cmocka_unit_test_setup(a_wire_that_varies_is_relied_on_less, no_budget),
		cmocka_unit_test_setup(a_wire_that_slows_down_is_believed_at_once, no_budget),
		cmocka_unit_test_setup(a_wire_that_speeds_up_is_not_believed_at_once, no_budget),
		cmocka_unit_test_setup(an_unknown_wire_fits_nothing, no_budget),
		cmocka_unit_test_setup(a_guest_that_converges_is_left_alone, no_budget),
		cmocka_unit_test_setup(a_guest_whose_demand_wavers_is_limited_hard, no_budget),
		cmocka_unit_test_setup(a_hot_guest_has_a_deadline_too, no_budget),
		cmocka_unit_test_setup(a_demand_beyond_the_wire_is_limited_after_half_a_second,
				       no_budget),
		cmocka_unit_test_setup(a_backlog_that_does_not_shrink_is_limited_after_five_seconds,
				       no_budget),
		cmocka_unit_test_setup(the_budget_limits_in_time, no_budget),
		cmocka_unit_test_setup(the_limit_gets_harder_as_time_runs_out, no_budget),
		cmocka_unit_test_setup(a_guest_at_its_floor_diverges, no_budget),
		cmocka_unit_test_setup(a_guest_above_its_floor_does_not_diverge, no_budget),
		cmocka_unit_test_setup(a_guest_that_gets_worse_diverges, no_budget),
		cmocka_unit_test_setup(a_guest_that_is_near_its_switch_does_not_diverge, no_budget),
		cmocka_unit_test_setup(a_guest_that_could_switch_is_not_limited, no_budget),
		cmocka_unit_test(the_budget_has_room_for_the_whole_downtime),
		cmocka_unit_test_setup(a_jump_is_no_stall, no_budget),
		cmocka_unit_test_setup(a_wire_that_stood_still_is_no_reason_to_give_up, no_budget),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
