/* SPDX-License-Identifier: MIT */
/* The limit of one vCPU. */

#include "plan/bucket.h"

/* A burst of this length at the limit's rate needs no pause. */
#define DEPTH_NS 20e6
/* More debt than this is forgiven: it dates from before the limit could act. */
#define DEBT_NS 1e9

#define FIRST_CREDIT_NS INT64_C(100000000)
#define MOST_CREDIT_NS	INT64_C(250000000)

/* A shorter pause costs more than it holds back. */
#define SHORTEST_PAUSE_NS UINT64_C(200000)

/*
 * A debt that one pause did not pay is asked for again so soon after it. Waiting for the next look
 * at all vCPUs instead would let a fast one dirty as much as it has paid for.
 */
#define REST_NS UINT64_C(1500000)

/* A page at least, or a slow limit would never let one through. */
static double depth(const struct dli_bucket_rule *rule)
{
	double pages = rule->pages_per_ns * DEPTH_NS;

	return pages > 1 ? pages : 1;
}

void dli_bucket_start(struct dli_bucket *bucket, const struct dli_bucket_rule *rule,
		      uint64_t now_ns, uint64_t pages, uint64_t ran_ns)
{
	*bucket = (struct dli_bucket){
		.pages = depth(rule),
		.charged_at_ns = now_ns,
		.charged_pages = pages,
		.credit_ns = FIRST_CREDIT_NS,
		.credited_ns = ran_ns,
	};
}

static double clamp(double value, double least, double most)
{
	return value < least ? least : value > most ? most : value;
}

void dli_bucket_charge(struct dli_bucket *bucket, const struct dli_bucket_rule *rule,
		       uint64_t now_ns, uint64_t pages, uint64_t ran_ns)
{
	double rate = rule->pages_per_ns;
	/* The clock of another thread may be read a little earlier. */
	uint64_t passed_ns = now_ns > bucket->charged_at_ns ? now_ns - bucket->charged_at_ns : 0;

	bucket->pages += rate * (double)passed_ns - (double)(pages - bucket->charged_pages);
	bucket->charged_at_ns += passed_ns;
	/* A limit that is lowered and raised all the time must not forgive anything. */
	if (rate * DEBT_NS + 1 >= bucket->deepest ||
	    bucket->charged_at_ns - bucket->deepest_at_ns >= (uint64_t)DEBT_NS) {
		bucket->deepest = rate * DEBT_NS + 1;
		bucket->deepest_at_ns = bucket->charged_at_ns;
	}
	bucket->pages = clamp(bucket->pages, -bucket->deepest, depth(rule));
	bucket->charged_pages = pages;
	bucket->credit_ns += (int64_t)(ran_ns - bucket->credited_ns);
	bucket->credited_ns = ran_ns;
	if (bucket->credit_ns > MOST_CREDIT_NS)
		bucket->credit_ns = MOST_CREDIT_NS;
}

/* Running time pays for pauses, so that the vCPU runs for at least this share of its time. */
static double pauses_per_run(double least_run)
{
	return (1 - least_run) / least_run;
}

uint64_t dli_bucket_pause_ns(const struct dli_bucket *bucket, const struct dli_bucket_rule *rule,
			     enum dli_bucket_bound *bound)
{
	double ns;

	*bound = BUCKET_UNBOUND;
	if (bucket->pages >= 0)
		return 0;
	ns = -bucket->pages / rule->pages_per_ns;
	if (ns > (double)rule->longest_pause_ns) {
		ns = (double)rule->longest_pause_ns;
		*bound = BUCKET_BOUND_BY_PAUSE;
	}
	if (rule->least_run > 0) {
		double most_ns = (double)bucket->credit_ns * pauses_per_run(rule->least_run);

		if (ns > most_ns) {
			ns = most_ns;
			*bound = BUCKET_BOUND_BY_FLOOR;
		}
	}
	return ns < (double)SHORTEST_PAUSE_NS ? 0 : (uint64_t)ns;
}

static void use_up(struct dli_bucket *bucket, const struct dli_bucket_rule *rule, uint64_t pause_ns)
{
	if (rule->least_run > 0) {
		double used_ns = (double)pause_ns / pauses_per_run(rule->least_run);
		double left_ns = (double)bucket->credit_ns - used_ns;

		bucket->credit_ns =
			left_ns > (double)-MOST_CREDIT_NS ? (int64_t)left_ns : -MOST_CREDIT_NS;
	}
}

void dli_bucket_pause(struct dli_bucket *bucket, const struct dli_bucket_rule *rule,
		      uint64_t now_ns, uint64_t pause_ns)
{
	int64_t before_ns = bucket->credit_ns;

	use_up(bucket, rule, pause_ns);
	bucket->used_ns = before_ns - bucket->credit_ns;
	bucket->pause_begin_ns = now_ns;
	bucket->pause_end_ns = now_ns + pause_ns;
	bucket->rest_end_ns = bucket->pause_end_ns + REST_NS;
	bucket->asleep = true;
	bucket->asleep_ran_ns = bucket->credited_ns;
}

static void give_back(struct dli_bucket *bucket, double least_run, uint64_t pause_ns)
{
	double back_ns;

	if (!(least_run > 0 && least_run < 1))
		return;
	back_ns = (double)pause_ns / pauses_per_run(least_run);
	bucket->credit_ns += back_ns < (double)bucket->used_ns ? (int64_t)back_ns : bucket->used_ns;
}

void dli_bucket_end(struct dli_bucket *bucket, double least_run, uint64_t now_ns)
{
	give_back(bucket, least_run, bucket->pause_end_ns - now_ns);
	bucket->ended_ns += now_ns - bucket->pause_begin_ns;
	bucket->pause_end_ns = bucket->rest_end_ns = now_ns;
	bucket->asleep = false;
	/* Pauses that end early and begin anew are as one: after a second the vCPU runs. */
	if (bucket->ended_ns >= (uint64_t)DEBT_NS) {
		bucket->ended_ns = 0;
		bucket->rest_end_ns += REST_NS;
	}
}

void dli_bucket_wake(struct dli_bucket *bucket, const struct dli_bucket_rule *rule, uint64_t now_ns)
{
	uint64_t over_ns, ran_ns = bucket->credited_ns - bucket->asleep_ran_ns;

	if (!bucket->asleep || now_ns < bucket->pause_end_ns)
		return;
	bucket->asleep = false;
	bucket->ended_ns = 0;
	over_ns = now_ns - bucket->pause_end_ns;
	/* One that did not ask when it woke up has run in the meantime. */
	if (ran_ns >= over_ns)
		return;
	use_up(bucket, rule, over_ns - ran_ns);
	if (ran_ns < REST_NS)
		bucket->rest_end_ns = now_ns + REST_NS - ran_ns;
}
