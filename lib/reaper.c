/* SPDX-License-Identifier: MIT */
/* The interval between two looks into the rings, and the descriptor's timer. */

#include "reaper.h"

/* A ring that was empty is half full after the least interval at a million pages a second. */
#define LEAST_NS_PER_ENTRY 500u
#define LEAST_NS	   UINT64_C(1000000) /* no timer is much more precise */
#define IDLE_NS		   UINT64_C(100000000)

int dli_reaper_init(struct dli_reaper *reaper, const struct dl_os *os)
{
	reaper->os = os;
	reaper->timer = -1;
	return -pthread_mutex_init(&reaper->lock, NULL);
}

void dli_reaper_fini(struct dli_reaper *reaper)
{
	if (reaper->timer >= 0)
		dli_os_close(reaper->os, reaper->timer);
	pthread_mutex_destroy(&reaper->lock);
}

static uint64_t interval_of(const struct dli_reaper *reaper)
{
	return atomic_load_explicit(&reaper->interval_ns, memory_order_relaxed);
}

static void set_interval(struct dli_reaper *reaper, uint64_t ns)
{
	atomic_store_explicit(&reaper->interval_ns, ns, memory_order_relaxed);
}

static void set_announcing(struct dli_reaper *reaper, bool announcing)
{
	atomic_store_explicit(&reaper->announcing, announcing, memory_order_relaxed);
}

void dli_reaper_configure(struct dli_reaper *reaper, uint32_t ring_entries, uint64_t idle_ns)
{
	uint64_t least_ns = (uint64_t)ring_entries * LEAST_NS_PER_ENTRY;

	if (!ring_entries)
		return;
	if (least_ns < LEAST_NS)
		least_ns = LEAST_NS;
	reaper->most_ns = idle_ns ? idle_ns : IDLE_NS;
	/* Centuries; a moment that far from now must not wrap. */
	if (reaper->most_ns > UINT64_MAX / 4)
		reaper->most_ns = UINT64_MAX / 4;
	reaper->least_ns = least_ns < reaper->most_ns ? least_ns : reaper->most_ns;
	set_interval(reaper, reaper->least_ns);
}

/* Called with the lock held, as are the functions below. 0: the descriptor is silent. */
static int set_timer(struct dli_reaper *reaper, uint64_t from_now_ns)
{
	reaper->timer_at_ns = from_now_ns ? dli_os_now_ns(reaper->os) + from_now_ns : 0;
	return reaper->timer < 0 ? 0 : dli_os_timer_set(reaper->os, reaper->timer, from_now_ns);
}

/* At least 1: 0 would disarm the timer. */
static uint64_t until(const struct dli_reaper *reaper, uint64_t at_ns)
{
	uint64_t now_ns = dli_os_now_ns(reaper->os);

	return at_ns > now_ns ? at_ns - now_ns : 1;
}

static int create_timer(struct dli_reaper *reaper)
{
	int r = dli_os_timer(reaper->os);

	if (r < 0)
		return r;
	reaper->timer = r;
	/* Whatever the next look is for, limits too. */
	r = set_timer(reaper, reaper->armed ? until(reaper, reaper->timer_at_ns)
					    : dli_reaper_is_announcing(reaper));
	if (!r)
		return 0;
	dli_os_close(reaper->os, reaper->timer);
	reaper->timer = -1;
	return r;
}

int dli_reaper_fd(struct dli_reaper *reaper)
{
	int r = 0;

	pthread_mutex_lock(&reaper->lock);
	if (reaper->timer < 0)
		r = create_timer(reaper);
	if (!r)
		r = reaper->timer;
	pthread_mutex_unlock(&reaper->lock);
	return r;
}

void dli_reaper_arm(struct dli_reaper *reaper)
{
	if (!reaper->least_ns)
		return;
	pthread_mutex_lock(&reaper->lock);
	reaper->armed = true;
	set_announcing(reaper, false);
	reaper->full_exit = false;
	reaper->quiet_since_ns = dli_os_now_ns(reaper->os);
	(void)set_timer(reaper, reaper->least_ns);
	pthread_mutex_unlock(&reaper->lock);
}

void dli_reaper_disarm(struct dli_reaper *reaper, bool kicks)
{
	if (!reaper->least_ns)
		return;
	pthread_mutex_lock(&reaper->lock);
	if (reaper->armed) {
		set_announcing(reaper, kicks);
		(void)set_timer(reaper, kicks);
	}
	reaper->armed = false;
	atomic_store_explicit(&reaper->failed, false, memory_order_relaxed);
	set_interval(reaper, reaper->least_ns);
	pthread_mutex_unlock(&reaper->lock);
}

static void silence(struct dli_reaper *reaper)
{
	if (dli_reaper_is_announcing(reaper))
		(void)set_timer(reaper, 0);
	set_announcing(reaper, false);
}

void dli_reaper_silence(struct dli_reaper *reaper)
{
	/* No ordering: whoever still sees it comes again, as the descriptor stays readable. */
	if (!dli_reaper_is_announcing(reaper))
		return;
	pthread_mutex_lock(&reaper->lock);
	silence(reaper);
	pthread_mutex_unlock(&reaper->lock);
}

void dli_reaper_full_exit(struct dli_reaper *reaper)
{
	/*
	 * No ordering: the interval that this misses is one that a look doubles for the first time
	 * at this moment, and the next look sees the exit.
	 */
	if (interval_of(reaper) <= reaper->least_ns)
		return;
	pthread_mutex_lock(&reaper->lock);
	if (reaper->armed) {
		reaper->full_exit = true;
		set_interval(reaper, reaper->least_ns);
		if (until(reaper, reaper->timer_at_ns) > reaper->least_ns)
			(void)set_timer(reaper, reaper->least_ns);
	}
	pthread_mutex_unlock(&reaper->lock);
}

void dli_reaper_soon(struct dli_reaper *reaper, uint64_t from_now_ns)
{
	if (!reaper->least_ns)
		return;
	pthread_mutex_lock(&reaper->lock);
	reaper->requests++;
	reaper->requested_at_ns = dli_os_now_ns(reaper->os) + from_now_ns;
	/* A look that is due earlier stays due, however often limits change. */
	if (reaper->armed &&
	    (!reaper->timer_at_ns || reaper->requested_at_ns < reaper->timer_at_ns))
		(void)set_timer(reaper, from_now_ns);
	pthread_mutex_unlock(&reaper->lock);
}

uint64_t dli_reaper_requests(struct dli_reaper *reaper)
{
	uint64_t requests;

	pthread_mutex_lock(&reaper->lock);
	requests = reaper->requests;
	pthread_mutex_unlock(&reaper->lock);
	return requests;
}

/*
 * Returns when the last request wants a look if it came while this look was in progress, which may
 * not have seen the limit behind it. UINT64_MAX: none came.
 */
static uint64_t until_requested(const struct dli_reaper *reaper, uint64_t requests)
{
	return requests == reaper->requests ? UINT64_MAX : until(reaper, reaper->requested_at_ns);
}

static uint64_t doubled(const struct dli_reaper *reaper)
{
	uint64_t ns = interval_of(reaper);

	return ns < reaper->most_ns / 2 ? 2 * ns : reaper->most_ns;
}

/* Returns the time until the next look. */
static uint64_t next_look(struct dli_reaper *reaper, const struct dli_reaped *reaped)
{
	bool quiet = reaped->activity == reaper->activity && !reaper->full_exit;
	uint64_t now_ns = dli_os_now_ns(reaper->os);

	reaper->activity = reaped->activity;
	reaper->full_exit = false;
	atomic_store_explicit(&reaper->failed, reaped->failed, memory_order_relaxed);
	if (reaped->failed) {
		/* The kernel does not get better by haste. */
		set_interval(reaper, doubled(reaper));
		reaper->quiet_since_ns = now_ns;
		return interval_of(reaper);
	}
	if (!quiet || reaped->overflowed) {
		set_interval(reaper, reaper->least_ns);
		reaper->quiet_since_ns = now_ns;
		if (reaped->until_due_ns >= reaper->least_ns)
			return reaper->least_ns;
		/* 0 would disarm the timer. */
		return reaped->until_due_ns ? reaped->until_due_ns : 1;
	}
	/* A caller that looks more often than it must does not make the interval longer. */
	if (now_ns - reaper->quiet_since_ns >= interval_of(reaper)) {
		set_interval(reaper, doubled(reaper));
		reaper->quiet_since_ns = now_ns;
	}
	return interval_of(reaper);
}

int dli_reaper_rearm(struct dli_reaper *reaper, const struct dli_reaped *reaped, uint64_t *again_ns)
{
	uint64_t requested_ns;
	int r = 0;

	*again_ns = UINT64_MAX;
	pthread_mutex_lock(&reaper->lock);
	/* Logging may have been switched off in the meantime, and the timer with it. */
	if (reaper->armed) {
		*again_ns = next_look(reaper, reaped);
		if (reaped->limits_ns < *again_ns)
			*again_ns = reaped->limits_ns ? reaped->limits_ns : 1;
		requested_ns = until_requested(reaper, reaped->requests);
		if (requested_ns < *again_ns)
			*again_ns = requested_ns;
		r = set_timer(reaper, *again_ns);
	} else {
		silence(reaper);
	}
	pthread_mutex_unlock(&reaper->lock);
	return r;
}
