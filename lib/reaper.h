/* SPDX-License-Identifier: MIT */
#ifndef DLI_REAPER_H
#define DLI_REAPER_H

#include "kvm/os.h"

#include <pthread.h>
#include <stdatomic.h>

/*
 * When the rings are looked at next, and the timer descriptor that says so to an event loop.
 *
 * The interval between two looks doubles while no ring gets an entry, and returns to the least one
 * with the next entry or full exit. Entries that were there at the last look do not count: the
 * pages that even an idle guest writes again and again are in a ring once and stay there.
 */
struct dli_reaper {
	const struct dl_os *os;
	uint64_t least_ns, most_ns;   /* least_ns is 0 without rings: nothing to reap */
	pthread_mutex_t lock;	      /* of the fields below; innermost */
	int timer;		      /* -1: nobody has asked for the descriptor */
	uint64_t timer_at_ns;	      /* when it becomes, or became, readable; 0: never */
	uint64_t requests;	      /* calls of dli_reaper_soon() */
	uint64_t requested_at_ns;     /* when the last of them wants the next look */
	bool armed;		      /* logging is on */
	_Atomic bool announcing;      /* it is off, but kicks wait; also read without the lock */
	bool full_exit;		      /* since the last look, at a longer interval */
	_Atomic bool failed;	      /* the last drain; also read without the lock */
	_Atomic uint64_t interval_ns; /* also read without the lock */
	uint64_t quiet_since_ns;      /* no ring has got an entry since then */
	uint64_t activity;	      /* at the last look */
};

int dli_reaper_init(struct dli_reaper *reaper, const struct dl_os *os);
void dli_reaper_fini(struct dli_reaper *reaper);

/* Before anything else is called. ring_entries is 0 in bitmap mode; idle_ns is the caller's. */
void dli_reaper_configure(struct dli_reaper *reaper, uint32_t ring_entries, uint64_t idle_ns);

/* The descriptor, created at the first call; or a negative errno value. */
int dli_reaper_fd(struct dli_reaper *reaper);

/*
 * Logging is on, or off: then the descriptor is silent, after a last look if kicks wait. The errors
 * of setting the timer are ignored: dli_reaper_fd() has shown that the process may set it, and a
 * ring that nobody reaps loses nothing.
 */
void dli_reaper_arm(struct dli_reaper *reaper);
void dli_reaper_disarm(struct dli_reaper *reaper, bool kicks);

static inline bool dli_reaper_is_announcing(const struct dli_reaper *reaper)
{
	return atomic_load_explicit(&reaper->announcing, memory_order_relaxed);
}

/* Ends the announcement, at its look or when the log is closed. */
void dli_reaper_silence(struct dli_reaper *reaper);

/* A vCPU had a full exit. Makes a system call only if the interval is longer than the least. */
void dli_reaper_full_exit(struct dli_reaper *reaper);

/* The next look is to come from_now_ns from now, or sooner. Nothing while logging is off. */
void dli_reaper_soon(struct dli_reaper *reaper, uint64_t from_now_ns);

/* Called when a look begins: a call of dli_reaper_soon() from now on is for the look after it. */
uint64_t dli_reaper_requests(struct dli_reaper *reaper);

/* A look into the rings, and the drain before it. */
struct dli_reaped {
	uint64_t until_due_ns; /* of the first ring that fills */
	uint64_t activity;     /* differs from the last look's if something happened in between */
	bool overflowed;       /* some ring, at any time: no interval is longer than the least */
	bool failed;	       /* the drain */
	uint64_t limits_ns;    /* until limits want a look; UINT64_MAX: there are none */
	uint64_t requests;     /* dli_reaper_requests() when the look began */
};

/* Sets the timer for the next look. *again_ns is UINT64_MAX if logging is off. */
int dli_reaper_rearm(struct dli_reaper *reaper, const struct dli_reaped *reaped,
		     uint64_t *again_ns);

#endif
