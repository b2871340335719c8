/* SPDX-License-Identifier: MIT */
#ifndef CONVERGENCE_RANDOM_H
#define CONVERGENCE_RANDOM_H

/* Random numbers that a seed repeats on every machine. */

#include <stdint.h>

struct random {
	uint64_t state;
};

static inline uint64_t random_next(struct random *random)
{
	random->state ^= random->state << 13;
	random->state ^= random->state >> 7;
	random->state ^= random->state << 17;
	return random->state;
}

static inline struct random random_new(uint64_t seed)
{
	struct random random = { UINT64_C(88172645463325252) ^
				 (seed + 1) * UINT64_C(0x9E3779B97F4A7C15) };

	for (int i = 0; i < 20; i++)
		random_next(&random);
	return random;
}

/* From 0 to 1, without 1. */
static inline double random_unit(struct random *random)
{
	return (double)(random_next(random) >> 11) * (1.0 / 9007199254740992.0);
}

static inline double random_between(struct random *random, double from, double to)
{
	return from + (to - from) * random_unit(random);
}

/* A mean of 0, a deviation of 1. */
static inline double random_gauss(struct random *random)
{
	double sum = 0;

	for (int i = 0; i < 12; i++)
		sum += random_unit(random);
	return sum - 6;
}

#endif
