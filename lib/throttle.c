/* SPDX-License-Identifier: MIT */
/* The limits of all vCPUs. */

#include "throttle.h"

/* The time between two looks at a limited vCPU. */
#define TICK_NS	      UINT64_C(5000000)
#define SHORT_TICK_NS UINT64_C(2000000)
/* Between two drains for limits: each interrupts every vCPU that has dirtied something. */
#define DRAIN_NS UINT64_C(2000000)

/* A kick may get lost between a VMM's look at its vCPU and KVM_RUN. */
#define KICK_AGAIN_NS UINT64_C(10000000)
#define IGNORED_NS    UINT64_C(1000000000)

/* A vCPU that has paused since then is held back. */
#define LATELY_NS UINT64_C(1000000000)

#ifndef TAKE_TRIES /* tests have other schedulers */
#define TAKE_TRIES 1000u
#endif

/* Limits without a plan may pause for as long as a bucket remembers debt. */
#define OWN_LONGEST_PAUSE_NS UINT64_C(1000000000)

/* Loads and stores of words that order nothing else. */
#define LOAD(word)	   atomic_load_explicit(word, memory_order_relaxed)
#define STORE(word, value) atomic_store_explicit(word, value, memory_order_relaxed)

/* The limits that are set for a vCPU: its own, a plan's, or both. */
struct rules {
	struct dli_bucket_rule strict; /* of the stricter limit */
	/* A plan's pauses are shorter: the own limit stays in force beside a stricter one. */
	struct dli_bucket_rule own;
	bool by_plan; /* the stricter limit is a plan's */
	bool has_two;
	bool has_plan;
};

/* False: there is no limit. */
static bool rules_of(const struct dl_log *log, const struct dli_limit *limit, uint64_t now_ns,
		     struct rules *rules)
{
	double own = LOAD(&limit->own), planned = LOAD(&limit->planned);

	if (LOAD(&limit->removed))
		return false;
	if (now_ns >= LOAD(&log->limits.plan_until_ns))
		planned = 0;
	*rules = (struct rules){
		.strict = { planned, LOAD(&log->limits.longest_pause_ns),
			    LOAD(&log->limits.least_run) },
		.own = { own, OWN_LONGEST_PAUSE_NS, 0 },
		.by_plan = planned > 0 && !(own > 0 && own <= planned),
		.has_plan = planned > 0,
	};
	rules->has_two = rules->by_plan && own > 0;
	if (!rules->by_plan)
		rules->strict = rules->own;
	return rules->strict.pages_per_ns > 0;
}

/* Another thread may have looked at the vCPU a little later than now. */
static uint64_t since(uint64_t then_ns, uint64_t now_ns)
{
	return now_ns > then_ns ? now_ns - then_ns : 0;
}

/* The vCPU must leave KVM_RUN, or its sleep, and ask again. */
static void want_kick(struct dl_log *log, struct dli_limit *limit)
{
	STORE(&limit->kick, true);
	/*
	 * Pairs with dli_limits_take_kicks(): the vCPU's flag is set before. A plain store would
	 * hide the flags of vCPUs whose kicks are wanted already.
	 */
	(void)atomic_exchange_explicit(&log->limits.kicks, true, memory_order_release);
}

/*
 * Adds what the vCPU ran since the last time: the CPU time of the thread that asks for its pauses.
 * That thread may have ended, or its clock may be refused.
 */
static void measure_run(const struct dl_log *log, struct dli_limit *limit, uint64_t now_ns)
{
	/* Pairs with note_clock(). */
	bool has_clock = atomic_load_explicit(&limit->has_clock, memory_order_acquire);
	int64_t clock = LOAD(&limit->clock);
	uint64_t cpu_ns, ran_ns = 0;

	if (!has_clock || dli_os_thread_ns(log->vm.os, clock, &cpu_ns)) {
		ran_ns = dli_limit_unpaused_ns(limit, now_ns);
		limit->clock_failed = true;
	} else {
		if (clock == limit->last_clock && !limit->clock_failed &&
		    cpu_ns > limit->last_cpu_ns)
			ran_ns = cpu_ns - limit->last_cpu_ns;
		limit->last_clock = clock;
		limit->last_cpu_ns = cpu_ns;
		limit->clock_failed = false;
	}
	if (now_ns > limit->last_wall_ns)
		limit->last_wall_ns = now_ns;
	STORE(&limit->ran_ns, LOAD(&limit->ran_ns) + ran_ns);
}

static void measure(const struct dl_log *log, struct dl_vcpu *vcpu, uint64_t now_ns, bool drained)
{
	struct dli_limit *limit = &vcpu->limit;
	const struct dli_ring_stats *stats = dli_ring_stats(vcpu->ring);
	const struct dli_sample sample = {
		.at_ns = now_ns,
		.ran_ns = LOAD(&limit->ran_ns),
		.new_pages = LOAD(&stats->new_pages),
		.entries = LOAD(&stats->entries),
	};

	/* Entries still in the ring belong to the time before the drain that finds them. */
	if (drained || dli_ring_pace(vcpu->ring).total == sample.entries)
		dli_window_add(&limit->window, &sample);
}

/* The debt that is left, if there is a limit still, asks for a pause of its own. */
static void end_pause(struct dl_log *log, struct dli_limit *limit, uint64_t now_ns)
{
	struct dli_bucket *bucket = &limit->bucket;

	STORE(&limit->eased, false);
	/* The pause may have begun a little later than this look. */
	if (now_ns < bucket->pause_begin_ns)
		now_ns = bucket->pause_begin_ns;
	if (!dli_bucket_is_paused(bucket, now_ns))
		return;
	atomic_fetch_sub_explicit(&limit->paused_ns, bucket->pause_end_ns - now_ns,
				  memory_order_relaxed);
	dli_bucket_end(bucket, limit->by_plan ? LOAD(&log->limits.least_run) : 0, now_ns);
	STORE(&limit->pauses_until_ns, 0);
	want_kick(log, limit);
}

static void lift(struct dl_log *log, struct dli_limit *limit, uint64_t now_ns)
{
	if (limit->limited)
		end_pause(log, limit, now_ns);
	limit->limited = limit->has_two = limit->by_plan = false;
	STORE(&limit->due_since_ns, 0);
	limit->bucket.pause_end_ns = 0;
	STORE(&limit->pauses_until_ns, 0);
	STORE(&limit->ignored, false);
}

static bool may_pause(const struct dli_limit *limit, uint64_t now_ns)
{
	return !dli_bucket_is_paused(&limit->bucket, now_ns) &&
	       !dli_bucket_is_resting(&limit->bucket, now_ns);
}

/* The longer of the pauses that the two limits ask for. */
static uint64_t pause_ns_of(const struct dli_limit *limit, const struct rules *rules,
			    enum dli_bucket_bound *bound)
{
	uint64_t ns = dli_bucket_pause_ns(&limit->bucket, &rules->strict, bound), own_ns = 0;
	enum dli_bucket_bound own_bound;

	if (rules->has_two)
		own_ns = dli_bucket_pause_ns(&limit->own_bucket, &rules->own, &own_bound);
	return own_ns > ns ? own_ns : ns;
}

/* Decides whether the vCPU must pause. */
static void decide(struct dl_log *log, struct dli_limit *limit, const struct rules *rules,
		   uint64_t now_ns)
{
	enum dli_bucket_bound bound;

	if (!may_pause(limit, now_ns))
		return;
	if (!pause_ns_of(limit, rules, &bound)) {
		STORE(&limit->due_since_ns, 0);
		return;
	}
	if (!LOAD(&limit->due_since_ns))
		STORE(&limit->due_since_ns, now_ns);
	else if (since(limit->kicked_at_ns, now_ns) < KICK_AGAIN_NS)
		return;
	if (since(LOAD(&limit->due_since_ns), now_ns) >= IGNORED_NS)
		STORE(&limit->ignored, true);
	limit->kicked_at_ns = now_ns;
	want_kick(log, limit);
}

/* Pages that were written before the limit are found by the next drain, and are not charged. */
static uint64_t pages_to_charge(struct dli_limit *limit, uint64_t pages, bool drained)
{
	uint64_t found = pages - limit->counted;
	uint64_t old = found < limit->forgiven ? found : limit->forgiven;

	limit->counted = pages;
	limit->forgave += old;
	limit->forgiven = drained ? 0 : limit->forgiven - old;
	return pages - limit->forgave;
}

/* Begins with a limit, or with the second, or ends the second. The pages are those to charge. */
static void start(struct dli_limit *limit, const struct rules *rules, uint64_t pages,
		  uint64_t now_ns)
{
	uint64_t ran_ns = LOAD(&limit->ran_ns);

	if (!limit->limited)
		dli_bucket_start(&limit->bucket, &rules->strict, now_ns, pages, ran_ns);
	/* Each limit keeps its debt when the buckets change roles. */
	if (rules->has_two && limit->limited && !limit->by_plan)
		limit->own_bucket = limit->bucket;
	else if (rules->has_two)
		dli_bucket_start(&limit->own_bucket, &rules->own, now_ns, pages, ran_ns);
	else if (limit->has_two && !rules->by_plan &&
		 (!rules->has_plan || limit->own_bucket.pages < limit->bucket.pages))
		dli_bucket_take_debt(&limit->bucket, &limit->own_bucket);
	limit->limited = true;
	limit->has_two = rules->has_two;
}

/* Charges the vCPU, whose state is taken. False: it has no limit. */
static bool settle(struct dl_log *log, struct dl_vcpu *vcpu, struct rules *rules, uint64_t now_ns,
		   bool drained)
{
	struct dli_limit *limit = &vcpu->limit;
	uint64_t pages = LOAD(&dli_ring_stats(vcpu->ring)->new_pages);

	measure_run(log, limit, now_ns);
	if (!rules_of(log, limit, now_ns, rules)) {
		lift(log, limit, now_ns);
		return false;
	}
	if (!limit->limited) {
		limit->forgiven = dli_ring_pace(vcpu->ring).filled;
		limit->counted = pages;
		limit->began_ns = now_ns;
	}
	/* A drain that came before the limit has not found what was in the ring then. */
	drained = drained && LOAD(&log->pace.drained_at_ns) >= limit->began_ns;
	pages = pages_to_charge(limit, pages, drained);
	if (!limit->limited || limit->has_two != rules->has_two)
		start(limit, rules, pages, now_ns);
	/* A pause of a plan that is gone ends as one of an own limit that was raised. */
	if (LOAD(&limit->eased) || (limit->by_plan && !rules->by_plan))
		end_pause(log, limit, now_ns);
	limit->by_plan = rules->by_plan;
	dli_bucket_charge(&limit->bucket, &rules->strict, now_ns, pages, LOAD(&limit->ran_ns));
	if (rules->has_two)
		dli_bucket_charge(&limit->own_bucket, &rules->own, now_ns, pages,
				  LOAD(&limit->ran_ns));
	return true;
}

/* How long until a limited vCPU is worth a look. */
static uint64_t until_next(const struct dli_limit *limit, const struct dli_bucket_rule *rule,
			   uint64_t now_ns)
{
	double excess = dli_window_new_per_s(&limit->window) / 1e9 - rule->pages_per_ns;
	uint64_t ns = TICK_NS;

	if (!may_pause(limit, now_ns))
		ns = limit->bucket.rest_end_ns - now_ns;
	else if (excess > 0 && limit->bucket.pages < excess * (double)TICK_NS)
		ns = SHORT_TICK_NS;
	return ns < TICK_NS ? ns : TICK_NS;
}

/* Returns the time until the next look at this vCPU; UINT64_MAX: it has no limit. */
static uint64_t look_at(struct dl_log *log, struct dl_vcpu *vcpu, uint64_t now_ns, bool drained)
{
	struct rules rules;
	uint64_t next_ns = UINT64_MAX;

	/* The vCPU's own thread has it: nothing is late. */
	if (!dli_limit_try(&vcpu->limit))
		return SHORT_TICK_NS;
	if (settle(log, vcpu, &rules, now_ns, drained)) {
		decide(log, &vcpu->limit, &rules, now_ns);
		next_ns = until_next(&vcpu->limit, &rules.strict, now_ns);
	}
	measure(log, vcpu, now_ns, drained);
	dli_limit_leave(&vcpu->limit);
	return next_ns;
}

static uint64_t look_at_all(struct dl_log *log, bool drained)
{
	uint64_t now_ns = dli_os_now_ns(log->vm.os), next_ns = UINT64_MAX;

	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));) {
		uint64_t ns = look_at(log, vcpu, now_ns, drained);

		next_ns = ns < next_ns ? ns : next_ns;
	}
	STORE(&log->limits.looked_at_ns, now_ns);
	if (drained)
		STORE(&log->limits.sampled_at_ns, now_ns);
	return next_ns;
}

uint64_t dli_limits_look(struct dl_log *log, bool drained)
{
	uint64_t next_ns, last_ns = drained ? LOAD(&log->limits.sampled_at_ns)
					    : LOAD(&log->limits.looked_at_ns);

	/* Without limits only the rates of the last second are kept. */
	if (!LOAD(&log->limits.active) && dli_os_now_ns(log->vm.os) - last_ns < WINDOW_SPACING_NS)
		return UINT64_MAX;
	next_ns = look_at_all(log, drained);
	if (next_ns != UINT64_MAX || !LOAD(&log->limits.active))
		return next_ns;
	/*
	 * A limit that is set meanwhile is seen by the second look, or sets the flag again. Pairs
	 * with apply(): the exchange reads the flag that came with the limit, so the second look
	 * cannot come before.
	 */
	(void)atomic_exchange_explicit(&log->limits.active, false, memory_order_acquire);
	next_ns = look_at_all(log, drained);
	if (next_ns != UINT64_MAX)
		(void)atomic_exchange_explicit(&log->limits.active, true, memory_order_relaxed);
	return next_ns;
}

bool dli_limits_are_due(const struct dl_log *log)
{
	return LOAD(&log->limits.active) &&
	       dli_os_now_ns(log->vm.os) - LOAD(&log->pace.drained_at_ns) >= DRAIN_NS;
}

/* The thread that runs the vCPU is known by its CPU clock. */
static void note_clock(const struct dl_log *log, struct dli_limit *limit)
{
	int64_t clock;

	if (dli_os_thread_clock(log->vm.os, &clock))
		return;
	if (LOAD(&limit->has_clock) && LOAD(&limit->clock) == clock)
		return;
	STORE(&limit->clock, clock);
	/* Pairs with measure_run(), which must not read the clock 0. */
	atomic_store_explicit(&limit->has_clock, true, memory_order_release);
}

/* Begins the pause that is due, if one is; or returns what is left of one. */
static uint64_t begin_pause(struct dli_limit *limit, const struct rules *rules, uint64_t now_ns)
{
	enum dli_bucket_bound bound = BUCKET_UNBOUND;
	uint64_t pause_ns = 0;

	if (dli_bucket_is_paused(&limit->bucket, now_ns))
		return limit->bucket.pause_end_ns - now_ns;
	if (!LOAD(&limit->due_since_ns))
		return 0;
	/* A look may have found a pause due before this thread woke up from the last one. */
	if (!dli_bucket_is_resting(&limit->bucket, now_ns))
		pause_ns = pause_ns_of(limit, rules, &bound);
	if (pause_ns) {
		dli_bucket_pause(&limit->bucket, &rules->strict, now_ns, pause_ns);
		STORE(&limit->pauses_until_ns, now_ns + pause_ns);
	}
	if (rules->by_plan && bound > LOAD(&limit->bound))
		STORE(&limit->bound, bound);
	atomic_fetch_add_explicit(&limit->paused_ns, pause_ns, memory_order_relaxed);
	STORE(&limit->due_since_ns, 0);
	STORE(&limit->kick, false);
	return pause_ns;
}

/* Whoever has the state holds it for a moment only, unless it is preempted. */
static bool take_soon(struct dli_limit *limit)
{
	for (uint32_t i = 0; i < TAKE_TRIES; i++)
		if (dli_limit_try(limit))
			return true;
	return false;
}

uint64_t dli_limits_ask(struct dl_log *log, struct dl_vcpu *vcpu)
{
	struct dli_limit *limit = &vcpu->limit;
	struct rules rules;
	uint64_t pause_ns = 0, now_ns;

	note_clock(log, limit);
	/* Pairs with dli_limits_set_own() and dli_limits_set_plan(). */
	if (!atomic_load_explicit(&log->limits.active, memory_order_acquire))
		return 0;
	/* Otherwise a pause that is due stays due, with another kick; one that began goes on. */
	if (!take_soon(limit))
		return since(dli_os_now_ns(log->vm.os), LOAD(&limit->pauses_until_ns));
	now_ns = dli_os_now_ns(log->vm.os);
	if (settle(log, vcpu, &rules, now_ns, false)) {
		dli_bucket_wake(&limit->bucket, &rules.strict, now_ns);
		decide(log, limit, &rules, now_ns);
		pause_ns = begin_pause(limit, &rules, now_ns);
		STORE(&limit->ignored, false);
	}
	dli_limit_leave(limit);
	return pause_ns;
}

bool dli_limits_may_kick(const struct dl_log *log)
{
	return LOAD(&log->limits.kicks) || LOAD(&log->limits.active);
}

uint32_t dli_limits_take_kicks(struct dl_log *log, uint64_t *cookies, uint32_t max_cookies)
{
	uint32_t n = 0;

	/* Pairs with want_kick(). */
	if (!atomic_exchange_explicit(&log->limits.kicks, false, memory_order_acquire))
		return 0;
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));) {
		/*
		 * The caller may have freed what the cookie of a removed vCPU stands for. Pairs
		 * with admit() in vcpu.c.
		 */
		if (!LOAD(&vcpu->limit.kick) ||
		    atomic_load_explicit(&vcpu->limit.removed, memory_order_acquire))
			continue;
		if (n == max_cookies) {
			/* Not a store: the next taker must still meet want_kick() in it. */
			(void)atomic_exchange_explicit(&log->limits.kicks, true,
						       memory_order_relaxed);
			break;
		}
		STORE(&vcpu->limit.kick, false);
		cookies[n++] = dli_ring_cookie(vcpu->ring);
	}
	return n;
}

/* The limits are in force, or lifted, before this returns. */
static void apply(struct dl_log *log)
{
	uint64_t next_ns;

	/* Pairs with dli_limits_ask(), and with dli_limits_look() on another thread. */
	(void)atomic_exchange_explicit(&log->limits.active, true, memory_order_release);
	next_ns = dli_limits_look(log, false);
	/* A VMM that serves the descriptor takes the kicks after its next reap. */
	if (LOAD(&log->limits.kicks))
		next_ns = 1;
	if (next_ns != UINT64_MAX)
		dli_reaper_soon(&log->reaper, next_ns);
}

void dli_limits_begin(struct dl_log *log)
{
	if (LOAD(&log->limits.active))
		dli_reaper_soon(&log->reaper, TICK_NS);
}

void dli_limits_set_own(struct dl_log *log, struct dl_vcpu *vcpu, double pages_per_ns)
{
	double before =
		atomic_exchange_explicit(&vcpu->limit.own, pages_per_ns, memory_order_relaxed);

	if (before > 0 && !(pages_per_ns > 0 && pages_per_ns <= before))
		STORE(&vcpu->limit.eased, true);
	apply(log);
}

void dli_limits_set_plan(struct dl_log *log, const struct dli_plan_terms *terms)
{
	STORE(&log->limits.longest_pause_ns, terms->longest_pause_ns);
	STORE(&log->limits.least_run, terms->least_run);
	STORE(&log->limits.plan_until_ns, terms->until_ns);
	if (terms->until_ns || LOAD(&log->limits.active))
		apply(log);
}

bool dli_limits_are_ignored(const struct dl_log *log)
{
	for (struct dl_vcpu *vcpu = NULL; (vcpu = dli_vcpu_list_next(&log->vcpus, vcpu));)
		if (LOAD(&vcpu->limit.ignored))
			return true;
	return false;
}

bool dli_limits_hold(const struct dl_log *log, const struct dl_vcpu *vcpu)
{
	const struct dli_limit *limit = &vcpu->limit;
	uint64_t now_ns = dli_os_now_ns(log->vm.os);

	if (LOAD(&limit->removed))
		return false;
	if (LOAD(&limit->held) && now_ns < LOAD(&log->limits.plan_until_ns))
		return true;
	/* Its demand without the limit is unknown, so recent pauses tell. */
	return LOAD(&limit->own) > 0 && (LOAD(&limit->due_since_ns) ||
					 since(LOAD(&limit->pauses_until_ns), now_ns) < LATELY_NS);
}
