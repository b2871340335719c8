/* SPDX-License-Identifier: MIT */
#ifndef UNIT_RANDOM_H
#define UNIT_RANDOM_H

/* Pseudo-random numbers; the same in every run, so that failures can be reproduced. */

#include <stdint.h>

struct random {
	uint64_t state; /* not 0 */
};

static inline uint64_t random_next(struct random *random)
{
	random->state ^= random->state << 13;
	random->state ^= random->state >> 7;
	random->state ^= random->state << 17;
	return random->state * UINT64_C(0x2545f4914f6cdd1d);
}

/* A number from 0 to below - 1. */
static inline uint64_t random_below(struct random *random, uint64_t below)
{
	return (random_next(random) >> 11) % below;
}

#endif
