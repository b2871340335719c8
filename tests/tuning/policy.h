/* SPDX-License-Identifier: MIT */
#ifndef TUNING_POLICY_H
#define TUNING_POLICY_H

/* Policies of the thread that empties the rings. */

#include "world.h"

/* A harvest in each interval, however long one takes. */
static inline void policy_interval(struct world *world, uint64_t interval_ns, uint64_t until_ns)
{
	uint64_t next_ns = world->now_ns + interval_ns;

	while (world->now_ns < until_ns) {
		if (next_ns > world->now_ns)
			world_sleep(world, next_ns - world->now_ns);
		world_harvest(world);
		next_ns = next_ns + interval_ns > world->now_ns ? next_ns + interval_ns
								: world->now_ns;
	}
}

/* The log's descriptor, served late_ns after it has become readable. */
static inline void policy_reap(struct world *world, uint64_t late_ns, uint64_t until_ns)
{
	while (world->now_ns < until_ns)
		world_sleep(world, world_reap(world, 0) + late_ns);
}

#endif
