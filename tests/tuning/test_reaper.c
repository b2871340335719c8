/* SPDX-License-Identifier: MIT */
/*
 * A thread that serves the log's descriptor keeps rings from filling, and empties them no more
 * often than necessary. All times are virtual (world.h) and the same in every run.
 */
#include "../unit/cmocka_all.h"
#include "../unit/random.h"
#include "policy.h"

#include <math.h>

enum { MOST_PAGES_PER_SECOND = 1000000, MICROSECOND_NS = 1000 };

struct crowd {
	uint32_t vcpus;
	double first, others; /* pages a second */
};

static const struct crowd crowds[] = {
	{ 1, 500e3, 0 }, { 8, 100e3, 100e3 }, { 8, 500e3, 1e3 },
	{ 8, 200e3, 0 }, { 4, 1e3, 1e3 },     { 48, 300e3, 200e3 },
};

static const struct ring {
	uint32_t entries, pml;
} rings[] = { { 4096, 0 }, { 4096, 512 }, { 16384, 0 }, { 16384, 512 } };

enum { RINGS = sizeof(rings) / sizeof(rings[0]), CROWDS = sizeof(crowds) / sizeof(crowds[0]) };

/* The fastest possible vCPU fills half a ring in this time: the least interval between looks. */
static uint64_t least_ns(uint32_t entries)
{
	return entries / 2 * (WORLD_SECOND_NS / MOST_PAGES_PER_SECOND);
}

/* 576 entries are reserved. */
static double half(uint32_t entries)
{
	return (entries - 576) / 2;
}

/* Times to empty rings for that many pages of one vCPU, with a fourth of a ring in reserve. */
static double harvests_for(uint32_t entries, double pages)
{
	return 1.25 * pages / half(entries) + 2;
}

static struct world *open_world(uint32_t vcpus, const struct ring *ring, uint64_t idle_ns)
{
	const struct world_config config = {
		.costs = world_costs,
		.vcpus = vcpus,
		.ring_entries = ring->entries,
		.pml_entries = ring->pml,
		.idle_ns = idle_ns,
	};

	return world_new(&config);
}

static void set_rates(struct world *world, double first, double others)
{
	for (uint32_t i = 0; i < world->config.vcpus; i++)
		world_set_rate(world, i, i ? others : first);
}

static void expect_steady(const struct crowd *crowd, const struct ring *ring, uint64_t late_ns)
{
	struct world *world = open_world(crowd->vcpus, ring, 0);
	uint64_t begin_ns = world->now_ns;
	double most, looks, seconds;

	set_rates(world, crowd->first, crowd->others);
	policy_reap(world, late_ns, world->now_ns + WORLD_SECOND_NS / 4);
	seconds = (double)(world->now_ns - begin_ns) / (double)WORLD_SECOND_NS;
	most = harvests_for(ring->entries, crowd->first * seconds);
	/* Each time that a ring is due takes a look or two after the last, and the look itself. */
	looks = 4 * most + seconds * 1e9 / (double)least_ns(ring->entries);
	if (world_full_exits(world) || (double)world->harvests > most ||
	    (double)world->looks > looks)
		fail_msg("%u entries, PML %u, %u vCPUs at %.0f and %.0f: %llu full exits, rings "
			 "emptied %llu times of at most %.1f, %llu looks of %.1f",
			 ring->entries, ring->pml, crowd->vcpus, crowd->first, crowd->others,
			 (unsigned long long)world_full_exits(world),
			 (unsigned long long)world->harvests, most,
			 (unsigned long long)world->looks, looks);
	world_free(world);
}

static void rings_do_not_fill_and_are_emptied_no_more_than_necessary(void **state)
{
	for (size_t i = 0; i < RINGS; i++)
		for (size_t j = 0; j < CROWDS; j++)
			expect_steady(&crowds[j], &rings[i], 0);
}

/* Emptying all their rings takes so long that the first are half full again at the end of it. */
static void many_fast_vcpus_fill_no_ring(void **state)
{
	for (size_t i = 0; i < RINGS; i += 2) {
		struct world *world = open_world(64, &rings[i], 0);

		for (uint32_t vcpu = 0; vcpu < 64; vcpu++)
			world_set_rate(world, vcpu, 400e3 + 200e3 * (vcpu * 37 % 64) / 63);
		policy_reap(world, 0, world->now_ns + WORLD_SECOND_NS);
		assert_int_equal(world_full_exits(world), 0);
		world_free(world);
	}
}

/* As the rule of doc/tuning.md allows it: half a ring is for what comes before the thread does. */
static void a_thread_may_be_late(void **state)
{
	for (size_t i = 0; i < RINGS; i++)
		expect_steady(&crowds[2], &rings[i],
			      (uint64_t)(half(rings[i].entries) / 500e3 * 1e9 / 2));
}

/* The counter-check: without the rule, rings do fill. */
static void rings_fill_without_a_reaper(void **state)
{
	static const struct ring small = { 1024, 0 };
	struct world *world = open_world(1, &small, 0);

	set_rates(world, 500e3, 0);
	policy_interval(world, WORLD_SECOND_NS / 100, world->now_ns + WORLD_SECOND_NS / 10);
	assert_true(world_full_exits(world) > 10);
	assert_true(world_lost_share(world) > 0);
	world_free(world);
}

static void an_idle_guest_is_left_alone(void **state)
{
	struct world *world = open_world(8, &rings[0], 0);

	policy_reap(world, 0, world->now_ns + WORLD_SECOND_NS);
	assert_int_equal(world->harvests, 0);
	assert_int_equal(world_reap(world, 0), WORLD_SECOND_NS / 10);
	world_free(world);
}

/*
 * Looks at an idle guest are rare, so a burst may fill a ring before the next: one full exit then
 * makes them frequent again.
 */
static void a_burst_after_idleness_has_one_full_exit(void **state)
{
	struct world *world = open_world(4, &rings[0], 0);

	for (int burst = 1; burst <= 5; burst++) {
		set_rates(world, 0, 0);
		policy_reap(world, 0, world->now_ns + WORLD_SECOND_NS);
		set_rates(world, 500e3, 0);
		/* The thread sleeps for a tenth of a second, but for the exit. */
		world_sleep(world, WORLD_SECOND_NS / 100);
		policy_reap(world, 0, world->now_ns + WORLD_SECOND_NS / 10);
		assert_in_range(world_full_exits(world), 1, 2 * burst);
	}
	world_free(world);
}

/*
 * A vCPU that pauses leaves its ring up to half full. Looks as frequent as these keep any burst
 * from filling the rest.
 */
static void changing_rates_fill_no_ring_that_is_looked_at(void **state)
{
	static const double rates[] = { 0, 0, 1e3, 20e3, 300e3, MOST_PAGES_PER_SECOND };
	struct random random = { 1 };

	for (size_t i = 0; i < RINGS; i++) {
		struct world *world =
			open_world(6, &rings[i], (uint64_t)(half(rings[i].entries) * 700));
		double most_pages = 0;

		for (int step = 0; step < 100; step++) {
			uint64_t ns = WORLD_SECOND_NS / 1000 * (1 + random_below(&random, 20));
			uint64_t begin_ns = world->now_ns;
			double fastest = 0;

			for (uint32_t vcpu = 0; vcpu < world->config.vcpus; vcpu++) {
				double rate = rates[random_below(&random, 6)];

				world_set_rate(world, vcpu, rate);
				fastest = rate > fastest ? rate : fastest;
			}
			policy_reap(world, 0, world->now_ns + ns);
			most_pages += fastest * (double)(world->now_ns - begin_ns) /
				      (double)WORLD_SECOND_NS;
		}
		assert_int_equal(world_full_exits(world), 0);
		assert_true((double)world->harvests < harvests_for(rings[i].entries, most_pages));
		world_free(world);
	}
}

static void expect_again(struct world *world, double pages, double per_second)
{
	double expected_ns = pages / per_second * 1e9, again_ns = (double)world_reap(world, 0);

	if (fabs(again_ns - expected_ns) > 100 * MICROSECOND_NS)
		fail_msg("%.0f pages at %.0f/s: %.0f ns, not %.0f", pages, per_second, again_ns,
			 expected_ns);
}

/* The rate used is the greater of those before and since the rings were emptied. */
static void the_greater_of_two_rates_counts(void **state)
{
	const uint64_t ms_ns = WORLD_SECOND_NS / 1000;
	const double may_fill = half(4096);
	struct world *world = open_world(2, &rings[0], 0);

	set_rates(world, 1e6, 1e3);
	world_sleep(world, ms_ns);
	world_reap(world, DL_REAP_NOW);
	/* A few pages, so that the next look is not a quiet one. */
	world_sleep(world, 20 * MICROSECOND_NS);
	expect_again(world, may_fill, 1e6);
	set_rates(world, 2e6, 1e3);
	world_sleep(world, ms_ns / 2);
	expect_again(world, may_fill - 1070, 2e6);
	/* A vCPU that pauses is expected to resume at its former rate. */
	set_rates(world, 10e3, 0);
	world_sleep(world, 2 * ms_ns);
	expect_again(world, may_fill - 1090, 1e6);
	world_free(world);
}

static void a_new_cursor_forgets_old_rates(void **state)
{
	struct world *world = open_world(1, &rings[0], 0);

	set_rates(world, 1e6, 0);
	policy_reap(world, 0, world->now_ns + WORLD_SECOND_NS / 100);
	world_reap(world, DL_REAP_NOW);
	set_rates(world, 0, 0);
	world_renew_cursor(world);
	/* A page, so that the look does not count as quiet. */
	set_rates(world, 10e3, 0);
	world_sleep(world, WORLD_SECOND_NS / 10000);
	assert_int_equal(world_reap(world, 0), least_ns(4096));
	world_free(world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rings_do_not_fill_and_are_emptied_no_more_than_necessary),
		cmocka_unit_test(many_fast_vcpus_fill_no_ring),
		cmocka_unit_test(a_thread_may_be_late),
		cmocka_unit_test(rings_fill_without_a_reaper),
		cmocka_unit_test(an_idle_guest_is_left_alone),
		cmocka_unit_test(a_burst_after_idleness_has_one_full_exit),
		cmocka_unit_test(changing_rates_fill_no_ring_that_is_looked_at),
		cmocka_unit_test(the_greater_of_two_rates_counts),
		cmocka_unit_test(a_new_cursor_forgets_old_rates),
	};

	return RUN_TESTS("tuning-reaper", tests);
}
