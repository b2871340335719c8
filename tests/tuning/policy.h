/* SPDX-License-Identifier: MIT */
#ifndef TUNING_POLICY_H
#define TUNING_POLICY_H

/* Policies of the harvesting thread: when to harvest. */

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

/* A harvest when dl_log_harvest_due() is due, or after longest_ns if that is sooner. */
static inline void policy_timer(struct world *world, uint64_t longest_ns, uint64_t until_ns)
{
	while (world->now_ns < until_ns) {
		uint64_t due_ns = world_due(world);

		world_sleep(world, due_ns < longest_ns ? due_ns : longest_ns);
		world_harvest(world);
	}
}

/* A harvest when dl_log_harvest_due() returns 0; called again after at most longest_ns. */
static inline void policy_ask(struct world *world, uint64_t longest_ns, uint64_t until_ns)
{
	while (world->now_ns < until_ns) {
		uint64_t due_ns = world_due(world);

		if (due_ns)
			world_sleep(world, due_ns < longest_ns ? due_ns : longest_ns);
		else
			world_harvest(world);
	}
}

#endif
