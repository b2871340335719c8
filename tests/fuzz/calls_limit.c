/* SPDX-License-Identifier: MIT */
/* For fuzz_calls.c: limits of vCPUs, their pauses and kicks, and plans. */
#include "calls.h"

#include <errno.h>

#define SECOND_NS      UINT64_C(1000000000)
#define DOWNTIME_NS    UINT64_C(300000000) /* of a goal that says nothing */
#define LEAST_RUN_PPM  10000u
#define MILLION	       1000000u
#define LONGEST_OWN_NS SECOND_NS			   /* of pauses for dl_vcpu_limit() */
#define NEVER_NS       (UINT64_C(10000000000) * SECOND_NS) /* centuries are reported as never */

struct long_goal {
	struct dl_goal goal;
	uint8_t tail[TAIL_BYTES];
};

static uint64_t now(const struct world *w)
{
	const struct dl_os *os = model_os(w->model);

	return os->now_ns(os->opaque);
}

static bool plan_limits(const struct world *w)
{
	return w->plan.works && w->plan.limits && now(w) < w->plan.lapses_ns;
}

static void set_limit(struct world *w, int i)
{
	uint64_t limit = input_wild(&w->in);
	int r = dl_vcpu_limit(w->vcpus[i], limit);

	trace("limit %d to %llu: %d\n", i, (unsigned long long)limit, r);
	expect(r == (w->config.mode == DL_MODE_RING ? 0 : -EOPNOTSUPP), "%d", r);
	if (r)
		return;
	w->limits[i].own = limit;
	w->limits[i].kick_allowed |= limit != 0;
}

/* The longest pause that the vCPU may be told to make now. */
static uint64_t longest_pause_ns(const struct world *w, int i)
{
	const struct limit *limit = &w->limits[i];
	uint64_t longest_ns = limit->own ? LONGEST_OWN_NS : 0;

	if (plan_limits(w) && longest_ns < w->plan.longest_pause_ns)
		longest_ns = w->plan.longest_pause_ns;
	/* The rest of a pause that began under another limit. */
	if (longest_ns && limit->pause_end_ns > now(w) && longest_ns < limit->pause_end_ns - now(w))
		longest_ns = limit->pause_end_ns - now(w);
	return longest_ns;
}

static uint64_t paused_ns(const struct world *w, int i)
{
	struct dl_stats stats = { .size = sizeof(stats) };

	expect(!dl_vcpu_stats(w->vcpus[i], &stats), "stats");
	return stats.paused_ns;
}

static void ask(struct world *w, int i, bool obeys)
{
	uint64_t longest_ns = longest_pause_ns(w, i), before_ns = paused_ns(w, i), pause_ns = 1,
		 again_ns = 1, began_ns;

	model_vcpu_thread(w->model, w->vcpu_fds[i]);
	expect(!dl_vcpu_pause_due(w->vcpus[i], &pause_ns), "pause_due");
	trace("pause of %d: %llu ns\n", i, (unsigned long long)pause_ns);
	expect(pause_ns <= longest_ns, "%llu ns, %llu at most", (unsigned long long)pause_ns,
	       (unsigned long long)longest_ns);
	began_ns = paused_ns(w, i) - before_ns;
	expect(!began_ns || began_ns == pause_ns, "%llu ns are counted, of a pause of %llu ns",
	       (unsigned long long)began_ns, (unsigned long long)pause_ns);
	expect(!dl_vcpu_pause_due(w->vcpus[i], &again_ns) && again_ns == pause_ns,
	       "%llu ns, then %llu ns", (unsigned long long)pause_ns, (unsigned long long)again_ns);
	w->limits[i].pause_end_ns = now(w) + pause_ns;
	if (obeys)
		model_vcpu_pause(w->model, w->vcpu_fds[i], pause_ns);
}

/* Once its pauses are over, nobody kicks a vCPU without a limit. */
static void forbid_kicks(struct world *w)
{
	for (int i = 0; i < VCPUS; i++)
		w->limits[i].kick_allowed =
			w->limits[i].own || plan_limits(w) || w->limits[i].pause_end_ns > now(w);
}

static void take_kicks(struct world *w, uint8_t how)
{
	uint64_t cookies[VCPUS + 2] = { 0 };
	uint32_t room = how % (VCPUS + 2);
	int n = dl_log_kicks(w->log, cookies, room);

	trace("kicks, at most %u: %d\n", room, n);
	if (!room) {
		expect(n == -EINVAL, "%d", n);
		return;
	}
	expect(n >= 0 && n <= (int)room && n <= VCPUS, "%d", n);
	for (int k = 0; k < n; k++) {
		uint64_t i = cookies[k] - FIRST_COOKIE;

		expect(i < VCPUS, "a kick of %#llx, which is no vCPU",
		       (unsigned long long)cookies[k]);
		expect(w->limits[i].kick_allowed, "a kick of vCPU %d, which had no limit", (int)i);
	}
	if (n < (int)room)
		forbid_kicks(w);
}

static void choose_goal(struct world *w, struct long_goal *any)
{
	struct input *in = &w->in;
	uint8_t how = input_u8(in);

	*any = (struct long_goal){ .goal = { .size = sizeof(any->goal) } };
	any->goal.flags = how & 1 ? DL_GOAL_ADVISE : 0;
	any->goal.downtime_ns = input_wild(in);
	any->goal.fixed_ns = how & 2 ? input_wild(in) : 0;
	any->goal.total_ns = how & 4 ? input_wild(in) : 0;
	any->goal.longest_pause_ns = how & 8 ? input_wild(in) : 0;
	if (how & 16)
		any->goal.least_run_ppm = (uint32_t)input_number(in, 3) % (MILLION + MILLION / 8);
	if (how & 32)
		any->goal.reserved = input_u8(in);
	if (how & 64)
		any->goal.flags = (uint32_t)input_wild(in);
	if (how & 128) {
		any->goal.size = input_u8(in) % (sizeof(*any) + 1);
		any->tail[input_u8(in) % TAIL_BYTES] = input_u8(in);
	}
}

/* Of a downtime nothing is left for memory. */
static bool is_hopeless(const struct dl_goal *goal)
{
	return goal->fixed_ns >= (goal->downtime_ns ? goal->downtime_ns : 300000000);
}

static int expected_plan(const struct world *w, const struct long_goal *any)
{
	static const uint8_t zeros[TAIL_BYTES];
	const struct dl_goal *goal = &any->goal;

	if (!w->cursor || goal->size < sizeof(*goal))
		return -EINVAL;
	if (memcmp(any->tail, zeros, goal->size - sizeof(*goal)))
		return -E2BIG;
	if (goal->flags & ~(uint32_t)DL_GOAL_ADVISE || goal->least_run_ppm > MILLION ||
	    goal->reserved || is_hopeless(goal))
		return -EINVAL;
	return w->plan.works ? -EBUSY : 0;
}

static void plan_new(struct world *w)
{
	struct long_goal any;
	struct dl_plan *plan;
	const struct dl_goal *goal = &any.goal;
	int expected, r;

	choose_goal(w, &any);
	expected = expected_plan(w, &any);
	r = dl_plan_new(w->cursor, goal, &plan);
	trace("plan, downtime %llu ns: %d\n", (unsigned long long)goal->downtime_ns, r);
	expect(r == expected && !plan == !!r, "%d, expected %d", r, expected);
	if (r)
		return;
	/* The one of a cursor that is gone: that changes nothing for the new one. */
	dl_plan_free(w->plan.handle);
	w->plan = (struct plan){
		.handle = plan,
		.works = true,
		.limits = w->config.mode == DL_MODE_RING && !goal->flags,
		.downtime_ns = goal->downtime_ns ? goal->downtime_ns : DOWNTIME_NS,
		.least_run_ppm = goal->least_run_ppm ? goal->least_run_ppm : LEAST_RUN_PPM,
	};
	w->plan.longest_pause_ns =
		goal->longest_pause_ns ? goal->longest_pause_ns : w->plan.downtime_ns;
}

static void check_advice(const struct world *w, const struct dl_advice *advice, uint64_t unsent)
{
	expect(advice->verdict <= DL_VERDICT_DIVERGING && advice->bound_by <= DL_BOUND_IGNORED,
	       "verdict %u, bound by %u", advice->verdict, advice->bound_by);
	expect(advice->again_ns && !advice->reserved, "%llu", (unsigned long long)advice->again_ns);
	/* Numbers of this size lose their last digits on the way. */
	expect(advice->pending_bytes >= unsent - (unsent >> 50) &&
		       advice->least_pending_bytes <= advice->pending_bytes,
	       "%llu bytes are pending, %llu unsent", (unsigned long long)advice->pending_bytes,
	       (unsigned long long)unsent);
	expect(advice->verdict != DL_VERDICT_SWITCHOVER || !advice->pending_bytes ||
		       advice->downtime_ns <= w->plan.downtime_ns ||
		       w->plan.downtime_ns >= NEVER_NS,
	       "a switch with a downtime of %llu ns", (unsigned long long)advice->downtime_ns);
	expect(advice->run_ppm <= MILLION &&
		       advice->run_ppm >= (w->plan.limits ? MILLION : w->plan.least_run_ppm),
	       "%u ppm", advice->run_ppm);
	expect(advice->limited_vcpus <= (w->plan.limits ? VCPUS : 0u), "%u vCPUs are limited",
	       advice->limited_vcpus);
}

static void plan_next(struct world *w)
{
	uint8_t how = input_u8(&w->in);
	uint64_t unsent = how & 1 ? input_wild(&w->in) : 0;
	struct dl_advice advice = { .size = how < 240 ? sizeof(advice) : how - 240u };
	int expected = 0, r;

	if (!w->plan.handle || how >= 240)
		expected = -EINVAL;
	else if (!w->plan.works)
		expected = -ECANCELED;
	r = dl_plan_next(w->plan.handle, unsent, &advice);
	trace("next: %d, verdict %u, %llu bytes, limits %u\n", r, advice.verdict,
	      (unsigned long long)advice.pending_bytes, advice.limited_vcpus);
	expect(r == expected, "%d, expected %d", r, expected);
	if (r)
		return;
	check_advice(w, &advice, unsent);
	w->plan.lapses_ns = now(w) + 10 * advice.again_ns;
	for (int i = 0; i < VCPUS; i++)
		w->limits[i].kick_allowed |= w->plan.limits;
}

static void plan_sent(struct world *w)
{
	uint64_t bytes = input_wild(&w->in), busy_ns = input_wild(&w->in);
	int r = dl_plan_sent(w->plan.handle, bytes, busy_ns);

	trace("sent %llu in %llu ns: %d\n", (unsigned long long)bytes, (unsigned long long)busy_ns,
	      r);
	expect(r == (w->plan.handle ? 0 : -EINVAL), "%d", r);
}

void plan_free(struct world *w)
{
	trace("plan is freed\n");
	dl_plan_free(w->plan.handle);
	w->plan = (struct plan){ 0 };
}

void limits_closed(struct world *w)
{
	struct dl_advice advice = { .size = sizeof(advice) };

	for (int i = 0; i < VCPUS; i++) {
		uint64_t pause_ns = 1;

		expect(!dl_vcpu_pause_due(w->vcpus[i], &pause_ns) && !pause_ns, "pause_due");
		expect(dl_vcpu_limit(w->vcpus[i], 1) == -ECANCELED, "limit");
	}
	if (!w->plan.handle)
		return;
	expect(dl_plan_next(w->plan.handle, 0, &advice) == -ECANCELED, "next");
	expect(!dl_plan_sent(w->plan.handle, 1, 1), "sent");
}

void limits(struct world *w)
{
	uint8_t how = input_u8(&w->in);
	int i = how >> 3 & 1;

	switch (how % 8) {
	case 0:
		set_limit(w, i);
		break;
	case 1:
		model_advance(w->model, (uint64_t)input_u8(&w->in) << 20);
		break;
	case 2:
		ask(w, i, how & 16);
		break;
	case 3:
		take_kicks(w, how >> 3);
		break;
	case 4:
		plan_new(w);
		break;
	case 5:
		plan_sent(w);
		break;
	case 6:
		plan_next(w);
		break;
	case 7:
		if (how & 8)
			plan_free(w);
		break;
	}
}
