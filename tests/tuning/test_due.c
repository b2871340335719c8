/* SPDX-License-Identifier: MIT */
/*
 * A caller that harvests when dl_log_harvest_due() says so sees no full ring and harvests no more
 * often than necessary. All times are virtual (world.h) and the same in every run.
 */
#include "../unit/cmocka_all.h"
#include "../unit/random.h"
#include "policy.h"

#include <math.h>
#include <string.h>

enum { MOST_PAGES_PER_SECOND = 1000000 };

typedef void policy_function(struct world *world, uint64_t longest_ns, uint64_t until_ns);

struct crowd {
	uint32_t vcpus;
	double first, others; /* pages a second */
};

static const struct crowd crowds[] = {
	{ 1, 500e3, 0 }, { 8, 100e3, 100e3 }, { 8, 500e3, 1e3 },
	{ 8, 200e3, 0 }, { 4, 1e3, 1e3 },     { 48, 300e3, 200e3 },
};

static const struct {
	uint32_t entries, pml;
} rings[] = { { 1024, 0 }, { 4096, 0 }, { 4096, 512 }, { 16384, 0 }, { 16384, 512 } };

/* The fastest possible vCPU fills half a ring in this time, so the caller must look as often. */
static uint64_t look_every_ns(const struct world *world)
{
	return world->config.ring_entries / 2 * (WORLD_SECOND_NS / MOST_PAGES_PER_SECOND);
}

/* Harvests needed for that many pages of one vCPU, with a fourth of a ring in reserve. */
static double harvests_for(const struct world *world, double pages)
{
	uint32_t kept = world->config.ring_entries < 1024 ? 64 : 576;
	uint32_t half = (world->config.ring_entries - kept) / 2;

	return 1.25 * pages / half + 2;
}

static struct world *open_world(uint32_t vcpus, uint32_t ring_entries, uint32_t pml_entries)
{
	const struct world_config config = {
		.costs = world_costs,
		.vcpus = vcpus,
		.ring_entries = ring_entries,
		.pml_entries = pml_entries,
	};

	return world_new(&config);
}

static void set_rates(struct world *world, double first, double others)
{
	for (uint32_t i = 0; i < world->config.vcpus; i++)
		world_set_rate(world, i, i ? others : first);
}

/* Returns the number of harvests. */
static uint64_t run(struct world *world, policy_function *policy, uint64_t ns)
{
	uint64_t before = world->harvests;

	policy(world, look_every_ns(world), world->now_ns + ns);
	return world->harvests - before;
}

static void expect_steady(policy_function *policy, uint64_t times, const struct crowd *crowd,
			  uint32_t entries, uint32_t pml)
{
	struct world *world = open_world(crowd->vcpus, entries, pml);
	uint64_t begin_ns = world->now_ns, harvests;
	double most, seconds;

	set_rates(world, crowd->first, crowd->others);
	/* Fill a third of the fastest vCPU's ring, so that its rate is known. */
	world_sleep(world, (uint64_t)(entries / 3 / crowd->first * 1e9));
	world_harvest(world);
	policy(world, times * look_every_ns(world), world->now_ns + WORLD_SECOND_NS / 4);
	harvests = world->harvests;
	seconds = (double)(world->now_ns - begin_ns) / (double)WORLD_SECOND_NS;
	most = 1 + harvests_for(world, crowd->first * seconds);
	if (policy == policy_timer)
		most += seconds * 1e9 / (double)(times * look_every_ns(world));
	if (world_full_exits(world) || (double)harvests > most)
		fail_msg("%u entries, PML %u, %u vCPUs at %.0f and %.0f: %llu full exits, "
			 "%llu harvests of at most %.1f",
			 entries, pml, crowd->vcpus, crowd->first, crowd->others,
			 (unsigned long long)world_full_exits(world), (unsigned long long)harvests,
			 most);
	world_free(world);
}

/* Waits at most "times" times as long as look_every_ns() advises. */
static void for_all(policy_function *policy, uint64_t times)
{
	for (size_t i = 0; i < sizeof(rings) / sizeof(rings[0]); i++)
		for (size_t j = 0; j < sizeof(crowds) / sizeof(crowds[0]); j++)
			expect_steady(policy, times, &crowds[j], rings[i].entries, rings[i].pml);
}

/* A timer is set to the time that is due and harvests when it expires. */
static void a_timer_sees_no_full_ring(void **state)
{
	(void)state;
	for_all(policy_timer, 32);
}

/* The counter-check: without the rule, rings do fill. */
static void rings_fill_without_the_rule(void **state)
{
	struct world *world = open_world(1, 1024, 0);

	(void)state;
	set_rates(world, 500e3, 0);
	policy_interval(world, WORLD_SECOND_NS / 100, world->now_ns + WORLD_SECOND_NS / 10);
	assert_true(world_full_exits(world) > 10);
	assert_true(world_lost_share(world) > 0);
	world_free(world);
}

/* Harvesting only when the call returns 0 avoids full rings too. */
static void harvesting_when_due_sees_no_full_ring(void **state)
{
	(void)state;
	for_all(policy_ask, 32);
	for_all(policy_ask, 1);
}

static void a_paused_guest_is_not_harvested(void **state)
{
	struct world *world = open_world(8, 4096, 0);

	(void)state;
	assert_int_equal(run(world, policy_ask, WORLD_SECOND_NS), 0);
	for (int i = 0; i < 20; i++) {
		set_rates(world, i % 2 ? 0 : 500e3, 0);
		if (i % 2)
			assert_in_range(run(world, policy_ask, WORLD_SECOND_NS), 0, 1);
		else
			assert_in_range(run(world, policy_ask, WORLD_SECOND_NS / 100), 1, 5);
		assert_int_equal(world_full_exits(world), 0);
	}
	world_free(world);
}

/* The rate of each vCPU keeps changing. */
static void changing_rates_fill_no_ring(void **state)
{
	static const double rates[] = { 0, 0, 1e3, 20e3, 300e3, MOST_PAGES_PER_SECOND };
	struct random random = { 1 };

	(void)state;
	for (size_t i = 0; i < sizeof(rings) / sizeof(rings[0]); i++) {
		struct world *world = open_world(6, rings[i].entries, rings[i].pml);
		double most_pages = 0;

		for (int step = 0; step < 100; step++) {
			uint64_t ns = WORLD_SECOND_NS / 1000 * (1 + random_below(&random, 20));
			double fastest = 0;

			for (uint32_t vcpu = 0; vcpu < world->config.vcpus; vcpu++) {
				double rate = rates[random_below(&random, 6)];

				world_set_rate(world, vcpu, rate);
				fastest = rate > fastest ? rate : fastest;
			}
			run(world, policy_ask, ns);
			most_pages += fastest * (double)ns / (double)WORLD_SECOND_NS;
		}
		assert_int_equal(world_full_exits(world), 0);
		assert_true((double)world->harvests < harvests_for(world, most_pages));
		world_free(world);
	}
}

/* The rate used is the greater of those before and since the last harvest. */
static void the_greater_of_two_rates_counts(void **state)
{
	const uint64_t ms_ns = WORLD_SECOND_NS / 1000;
	/* 576 of the 4096 entries are reserved. */
	const double half = (4096 - 576) / 2;
	struct world *world = open_world(2, 4096, 0);

	(void)state;
	set_rates(world, 100e3, 1e3);
	world_sleep(world, 10 * ms_ns);
	world_harvest(world);
	assert_true(fabs((double)world_due(world) - half / 100e3 * 1e9) < (double)ms_ns / 2);
	set_rates(world, 200e3, 1e3);
	world_sleep(world, 5 * ms_ns);
	assert_true(fabs((double)world_due(world) - (half - 1000) / 200e3 * 1e9) <
		    (double)ms_ns / 2);
	/* A vCPU that pauses is expected to resume at its former rate. */
	set_rates(world, 0, 0);
	world_sleep(world, 5 * ms_ns);
	assert_true(fabs((double)world_due(world) - (half - 1000) / 100e3 * 1e9) <
		    (double)ms_ns / 2);
	world_free(world);
}

/* A start discards the rates measured before it. */
static void a_start_discards_old_rates(void **state)
{
	struct world *world = open_world(1, 4096, 0);

	(void)state;
	set_rates(world, 500e3, 0);
	run(world, policy_ask, WORLD_SECOND_NS / 10);
	set_rates(world, 0, 0);
	assert_int_equal(dl_log_stop(world->log), 0);
	assert_int_equal(dl_log_start(world->log, DL_START_CLEAN), 0);
	assert_true(world_due(world) == UINT64_MAX);
	world_sleep(world, WORLD_SECOND_NS);
	world_harvest(world);
	assert_true(world_due(world) == UINT64_MAX);
	world_free(world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_timer_sees_no_full_ring),
		cmocka_unit_test(rings_fill_without_the_rule),
		cmocka_unit_test(harvesting_when_due_sees_no_full_ring),
		cmocka_unit_test(a_paused_guest_is_not_harvested),
		cmocka_unit_test(changing_rates_fill_no_ring),
		cmocka_unit_test(the_greater_of_two_rates_counts),
		cmocka_unit_test(a_start_discards_old_rates),
	};

	return RUN_TESTS("tuning-due", tests);
}
