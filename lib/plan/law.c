/* SPDX-License-Identifier: MIT */
/* The law that makes migrations end. */

#include "plan/law.h"

#include <math.h>

#define WIRE_FAST_S 0.25
#define WIRE_SLOW_S 3.0
#define DEMAND_S    0.25
#define FLOW_S	    2.0

/* The share of an estimated bandwidth that is relied on. */
#define SAFE_SHARE	 0.9
#define ROUGH_SHARE	 0.75 /* of a roughness of the wire; so much less is relied on */
#define LEAST_SAFE_SHARE 0.5

/* When limits begin. */
#define HOT_SHARE   0.9 /* of the wire */
#define HOT_S	    0.5
#define STALL_SHARE 0.9 /* of the best so far */
#define STALL_S	    5.0
#define LATE_FACTOR 1.3
#define LATE_SHARE  0.5 /* of the wire, to send what is pending in time */
#define LATE_S	    1.0

/* How much of the wire a limited guest may use up with new pages. */
#define FREE_SHARE   HOT_SHARE /* one that has wanted no more for a while */
#define FREE_S	     2.0
#define HARD_SHARE   0.2
#define LEAST_SHARE  0.1
#define BUDGET_SHARE 0.95 /* of the time that is left */
#define BUDGET_S     0.2

/* When a limited guest does not converge. */
#define FLOOR_SHARE  0.8
#define BETTER_SHARE 0.97
#define JUMP_SHARE   0.25
#define NEVER_S	     10.0
#define JUMPS_S	     (2 * NEVER_S)
#define NEVER_PASSES 2u
#define NEAR_FACTOR  2.0 /* of what fits: a moment of a faster wire is enough to switch */
#define SURELY_S     2.0 /* it looks so: a wire that stood still is known again by then */

/* The weight of the newest value in an average over tau: 1 - exp(-t / tau), without libm. */
static double weight(double t, double tau)
{
	double x = t / tau;

	/* The quotient has its peak there, and the exponential is nearly gone. */
	return x < 3.4 ? x / (1 + x / 2 + x * x / 12) : 1;
}

static void average(double *mean, double value, double t, double tau)
{
	*mean += weight(t, tau) * (value - *mean);
}

void dli_wire_note(struct dli_wire *wire, double bytes, double busy)
{
	double rate, deviation;

	if (!(busy > 0))
		return;
	rate = bytes / busy;
	/* Nothing is known of a wire that has taken nothing yet. */
	if (!(wire->slow > 0) && !(rate > 0))
		return;
	if (!(wire->slow > 0))
		wire->fast = wire->slow = rate;
	deviation = fabs(rate - wire->slow) / wire->slow;
	/* More than all of it would make a wire that stood still rough for as long again. */
	average(&wire->roughness, deviation < 1 ? deviation : 1, busy, WIRE_SLOW_S);
	average(&wire->fast, rate, busy, WIRE_FAST_S);
	average(&wire->slow, rate, busy, WIRE_SLOW_S);
}

static double careful(const struct dli_wire *wire)
{
	return wire->fast < wire->slow ? wire->fast : wire->slow;
}

/* While the last pages are sent, the bandwidth may vary as much as it did before. */
static double safe_share(const struct dli_wire *wire)
{
	double share = SAFE_SHARE - ROUGH_SHARE * wire->roughness;

	return share > LEAST_SAFE_SHARE ? share : LEAST_SAFE_SHARE;
}

void dli_demand_note(struct dli_demand *demand, double new_bytes, double entry_bytes, double run,
		     double over)
{
	/* Averaged apart: the mean of quotients would be ruled by moments of hardly any running. */
	const double least_run = 1e-4;

	if (!(over > 0))
		return;
	average(&demand->new_rate, new_bytes / over, over, DEMAND_S);
	average(&demand->entry_rate, entry_bytes / over, over, DEMAND_S);
	average(&demand->run_rate, run / over, over, DEMAND_S);
	/* A vCPU that does not run keeps what it is known for. */
	if (demand->run_rate < least_run)
		return;
	demand->new_bytes = demand->new_rate / demand->run_rate;
	demand->entry_bytes = demand->entry_rate / demand->run_rate;
}

void dli_law_start(struct dli_law *law, const struct dli_law_goal *goal)
{
	*law = (struct dli_law){
		.goal = *goal,
		.least_pending = INFINITY,
		.progress = INFINITY,
		.hot_at = -INFINITY,
		.jumped_at = -INFINITY,
		.last_pending = INFINITY,
		.best = INFINITY,
	};
}

/* Until the switch must begin, which takes the whole downtime. */
static double time_left(const struct dli_law *law)
{
	return law->goal.budget - law->at - law->goal.downtime;
}

static double excess(const struct dli_law_look *look, double fits)
{
	return look->pending > fits ? look->pending - fits : 0;
}

/* Whether to begin with limits, and why. */
static enum dl_bound reason_to_limit(struct dli_law *law, const struct dli_law_look *look,
				     double fits)
{
	double needed = excess(look, fits) / (LATE_SHARE * law->wire.slow);

	if (look->pending < STALL_SHARE * law->progress) {
		law->progress = look->pending;
		law->progress_at = law->at;
	}
	if (look->demand <= HOT_SHARE * law->wire.slow)
		law->fits_at = law->at;
	if (time_left(law) <= LATE_FACTOR * needed + LATE_S)
		return DL_BOUND_DEADLINE;
	if (law->at - law->fits_at >= HOT_S || law->at - law->progress_at >= STALL_S)
		return DL_BOUND_STALL;
	return DL_BOUND_NONE;
}

/* Limited, and not getting anywhere: others than vCPUs may dirty memory, too. */
static bool is_stuck(const struct dli_law *law)
{
	return law->limiting && law->at - law->best_at >= NEVER_S;
}

/*
 * Without a deadline. Nobody is held back for whom the wire suffices. Above that, what vCPUs are
 * allowed to dirty costs more work later, as the limits last longer, than it saves now.
 */
static double best_share(const struct dli_law *law)
{
	return law->at - law->hot_at < FREE_S || is_stuck(law) ? HARD_SHARE : FREE_SHARE;
}

/* New memory a second that leaves the wire enough for what is pending to be sent in time. */
static double allowed(const struct dli_law *law, const struct dli_law_look *look, double fits)
{
	double wire = law->wire.slow, least = LEAST_SHARE * wire;
	double most = best_share(law) * wire;
	double left = BUDGET_SHARE * time_left(law) - BUDGET_S;
	double in_time = left > 0 ? wire - excess(look, fits) / left : least;

	return in_time < least ? least : in_time < most ? in_time : most;
}

/* Whether a guest that is limited as hard as it may be still dirties what the wire takes. */
static bool never_ends(struct dli_law *law, const struct dli_law_look *look, double fits)
{
	double wire = law->wire.slow;

	/* A guest of which all that is pending fits the downtime gets no further. */
	if (!law->limiting || look->pending < BETTER_SHARE * law->best || look->pending <= fits) {
		law->best = look->pending;
		law->best_at = law->at;
		law->best_pass = look->passes;
	}
	if (!is_stuck(law) || look->passes - law->best_pass < NEVER_PASSES || !(wire > 0) ||
	    look->pending <= NEAR_FACTOR * fits || law->new_rate < SAFE_SHARE * wire ||
	    law->goal.least_run * look->written < FLOOR_SHARE * wire)
		law->ending_at = law->at;
	return law->at - law->ending_at >= SURELY_S;
}

/*
 * After an overflow everything is pending at once, and a new slot is wholly so: what was reached
 * before says nothing any more. A rise of less than twice the new pages is no such jump, as some of
 * those of the look before may be found late.
 */
static void note_jump(struct dli_law *law, const struct dli_law_look *look)
{
	double rise = look->pending - law->last_pending;

	/* Devices whose logs are marked now and then make such jumps for ever. */
	if (rise > 2 * look->new_bytes && rise > JUMP_SHARE * look->pending &&
	    law->at - law->jumped_at >= JUMPS_S) {
		law->jumped_at = law->at;
		law->progress = law->best = INFINITY;
		law->progress_at = law->best_at = law->at;
	}
	law->last_pending = look->pending;
}

static void note_flow(struct dli_law *law, const struct dli_law_look *look)
{
	law->at = look->at;
	if (!(look->over > 0))
		return;
	average(&law->new_rate, look->new_bytes / look->over, look->over, FLOW_S);
	average(&law->entry_rate, look->entry_bytes / look->over, look->over, FLOW_S);
}

static double remaining(const struct dli_law *law, const struct dli_law_look *look, double fits,
			double allowed_rate)
{
	double net = law->wire.slow - (look->demand < allowed_rate ? look->demand : allowed_rate);

	if (!(excess(look, fits) > 0))
		return 0;
	return net > 0 ? excess(look, fits) / net : INFINITY;
}

static enum dl_verdict verdict(const struct dli_law *law, const struct dli_law_look *look,
			       double fits)
{
	if (!look->first_pass && look->pending <= fits)
		return DL_VERDICT_SWITCHOVER;
	if (law->diverging)
		return DL_VERDICT_DIVERGING;
	if (time_left(law) < 0)
		return DL_VERDICT_LATE;
	return DL_VERDICT_CONTINUE;
}

double dli_law_fits(const struct dli_law *law)
{
	double memory = law->goal.downtime - law->goal.fixed;

	return memory > 0 ? safe_share(&law->wire) * careful(&law->wire) * memory : 0;
}

struct dli_law_advice dli_law_look(struct dli_law *law, const struct dli_law_look *look)
{
	double wire = careful(&law->wire), fits = dli_law_fits(law);
	struct dli_law_advice advice = { .allowed = INFINITY };

	note_flow(law, look);
	if (look->pending < law->least_pending)
		law->least_pending = look->pending;
	advice.downtime = law->goal.fixed;
	if (look->pending > 0)
		advice.downtime += wire > 0 ? look->pending / wire : INFINITY;
	note_jump(law, look);
	/* Nothing is wrong with a guest that could be switched over. */
	if (look->first_pass || !(wire > 0) || look->pending <= fits) {
		law->progress = INFINITY;
		law->progress_at = law->fits_at = law->at;
	} else if (!law->limiting) {
		law->limiting = reason_to_limit(law, look, fits);
	}
	if (look->demand > FREE_SHARE * law->wire.slow)
		law->hot_at = law->at;
	law->diverging = never_ends(law, look, fits);
	if (law->limiting)
		advice.allowed = allowed(law, look, fits);
	advice.remaining = wire > 0 ? remaining(law, look, fits, advice.allowed) : INFINITY;
	advice.verdict = verdict(law, look, fits);
	return advice;
}
