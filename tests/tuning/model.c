/* SPDX-License-Identifier: MIT */
/*
 * Full exits and stalls against ring size and harvest interval, in virtual time: the table is the
 * same on every machine. Writes tab-separated values to the standard output.
 *
 *	tuning-model [--quick]
 */

#include <stdio.h>
#include <string.h>

#include "policy.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

enum { REAP = 0 };

/* vCPUs and the pages that they dirty in a second. */
struct crowd {
	const char *name;
	uint32_t vcpus;
	double first, others;
};

static const struct crowd crowds[] = {
	{ "1x500k", 1, 500e3, 0 },	  { "64x10k", 64, 10e3, 10e3 },
	{ "64x100k", 64, 100e3, 100e3 },  { "64x500k", 64, 500e3, 500e3 },
	{ "1x1M+63x10k", 64, 1e6, 10e3 },
};

static const uint32_t pml_entries[] = { 0, 512 };
static const uint32_t intervals_ms[] = { REAP, 1, 3, 10, 30, 100, 300 };

static void print_head(void)
{
	printf("crowd\tpml\tring_entries\tinterval_ms\tfull_exits_per_second\tlost_share"
	       "\tlongest_stall_us\tharvests_per_second\tharvest_share\tresets_per_second"
	       "\tpages_per_second\n");
}

static void print(const struct crowd *crowd, const struct world *world, uint32_t interval_ms)
{
	double seconds = (double)(world->now_ns - world->began_ns) / (double)WORLD_SECOND_NS;
	uint64_t longest_ns = 0, pages = 0;

	for (uint32_t i = 0; i < crowd->vcpus; i++) {
		const struct world_vcpu *vcpu = &world->vcpus[i];

		pages += vcpu->pages;
		if (vcpu->longest_stall_ns > longest_ns)
			longest_ns = vcpu->longest_stall_ns;
	}
	printf("%s\t%u\t%u\t", crowd->name, world->config.pml_entries, world->config.ring_entries);
	if (interval_ms == REAP)
		printf("reap");
	else
		printf("%u", interval_ms);
	printf("\t%.1f\t%.6f\t%.0f\t%.1f\t%.4f\t%.1f\t%.0f\n",
	       (double)world_full_exits(world) / seconds, world_lost_share(world),
	       (double)longest_ns / 1e3, (double)world->harvests / seconds,
	       (double)world->harvest_ns / 1e9 / seconds, (double)world->resets / seconds,
	       (double)pages / seconds);
	fflush(stdout);
}

/* Rates vary by a fifth, so that not all rings fill at the same moment. */
static void set_rates(struct world *world, const struct crowd *crowd)
{
	world_set_rate(world, 0, crowd->first);
	for (uint32_t i = 1; i < crowd->vcpus; i++)
		world_set_rate(world, i, crowd->others * (0.8 + 0.4 * (i * 37 % 64) / 63));
}

static void measure(const struct crowd *crowd, uint32_t pml, uint32_t ring_entries,
		    uint32_t interval_ms, uint64_t for_ns)
{
	const struct world_config config = {
		.costs = world_costs,
		.vcpus = crowd->vcpus,
		.ring_entries = ring_entries,
		.pml_entries = pml,
	};
	struct world *world = world_new(&config);
	uint64_t until_ns = world->now_ns + for_ns;

	set_rates(world, crowd);
	if (interval_ms == REAP)
		policy_reap(world, 0, until_ns);
	else
		policy_interval(world, interval_ms * WORLD_SECOND_NS / 1000, until_ns);
	print(crowd, world, interval_ms);
	world_free(world);
}

int main(int argc, char **argv)
{
	bool quick = argc > 1 && !strcmp(argv[1], "--quick");
	uint64_t for_ns = WORLD_SECOND_NS / (quick ? 10 : 1);

	print_head();
	for (size_t c = 0; c < COUNT(crowds); c++)
		for (size_t p = 0; p < COUNT(pml_entries); p++)
			for (uint32_t entries = pml_entries[p] ? 1024 : 256; entries <= 65536;
			     entries *= 2)
				for (size_t i = 0; i < COUNT(intervals_ms); i++)
					measure(&crowds[c], pml_entries[p], entries,
						intervals_ms[i], for_ns);
	return 0;
}
