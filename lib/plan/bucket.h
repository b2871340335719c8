/* SPDX-License-Identifier: MIT */
#ifndef DLI_BUCKET_H
#define DLI_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

/*
 * How fast one vCPU may dirty memory: a bucket of pages, filled at the limit's rate and charged
 * with the pages that the vCPU dirties. While it is in debt the vCPU is to pause.
 *
 * Not for two threads at a time.
 */
struct dli_bucket {
	double pages;	/* below 0: debt */
	double deepest; /* debt: of the highest limit of the last second, and when that was */
	uint64_t deepest_at_ns;
	uint64_t charged_at_ns, charged_pages;
	uint64_t credited_ns;
	int64_t credit_ns; /* running time that no pause has used up; below 0: due to the vCPU */
	int64_t used_ns;   /* of it, by the last pause */
	uint64_t ended_ns; /* of pauses that ended early, without a moment of running between */
	uint64_t pause_begin_ns, pause_end_ns; /* of the last pause that began; 0: none */
	uint64_t rest_end_ns; /* then, after a moment of running, the next may begin */
	bool asleep;	      /* in that pause, or its thread has not asked since */
	uint64_t asleep_ran_ns;
};

struct dli_bucket_rule {
	double pages_per_ns;
	uint64_t longest_pause_ns;
	double least_run; /* of the vCPU's time, 0 to 1; 0: pauses need no running time */
};

/* Begins as after a quiet time: the first page is no debt. */
void dli_bucket_start(struct dli_bucket *bucket, const struct dli_bucket_rule *rule,
		      uint64_t now_ns, uint64_t pages, uint64_t ran_ns);

/* pages: dirtied, ran_ns: run, both since some beginning. */
void dli_bucket_charge(struct dli_bucket *bucket, const struct dli_bucket_rule *rule,
		       uint64_t now_ns, uint64_t pages, uint64_t ran_ns);

static inline void dli_bucket_take_debt(struct dli_bucket *bucket, const struct dli_bucket *from)
{
	bucket->pages = from->pages;
	bucket->deepest = from->deepest;
	bucket->deepest_at_ns = from->deepest_at_ns;
}

/* The bound that kept a pause shorter than the debt. */
enum dli_bucket_bound { BUCKET_UNBOUND, BUCKET_BOUND_BY_PAUSE, BUCKET_BOUND_BY_FLOOR };

/* The pause that the debt asks for; 0: none. */
uint64_t dli_bucket_pause_ns(const struct dli_bucket *bucket, const struct dli_bucket_rule *rule,
			     enum dli_bucket_bound *bound);

/* The pause begins. */
void dli_bucket_pause(struct dli_bucket *bucket, const struct dli_bucket_rule *rule,
		      uint64_t now_ns, uint64_t pause_ns);

/*
 * The pause ends early: running time pays only for what there was of it. The vCPU that comes for
 * this is not late, and owes what it did before.
 */
void dli_bucket_end(struct dli_bucket *bucket, double least_run, uint64_t now_ns);

/*
 * The vCPU's thread asks, after a charge. If it comes from a pause, and late, it gets its moment of
 * running all the same, and what it lost counts as pause.
 */
void dli_bucket_wake(struct dli_bucket *bucket, const struct dli_bucket_rule *rule,
		     uint64_t now_ns);

static inline bool dli_bucket_is_paused(const struct dli_bucket *bucket, uint64_t now_ns)
{
	return now_ns < bucket->pause_end_ns;
}

/* How much of the time between two moments, the second of which is now, was the last pause. */
static inline uint64_t dli_bucket_paused_ns(const struct dli_bucket *bucket, uint64_t from_ns,
					    uint64_t now_ns)
{
	uint64_t begin_ns = bucket->pause_begin_ns, end_ns = bucket->pause_end_ns;

	begin_ns = begin_ns > from_ns ? begin_ns : from_ns;
	end_ns = end_ns < now_ns ? end_ns : now_ns;
	return end_ns > begin_ns ? end_ns - begin_ns : 0;
}

static inline bool dli_bucket_is_resting(const struct dli_bucket *bucket, uint64_t now_ns)
{
	return now_ns < bucket->rest_end_ns;
}

#endif
