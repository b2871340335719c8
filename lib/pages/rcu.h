/* SPDX-License-Identifier: MIT */
#ifndef DLI_RCU_H
#define DLI_RCU_H

/*
 * liburcu's bp flavour, so that threads which the VMM made need not register. A read section waits
 * for no lock and makes no system call.
 *
 * Pointers are published and read with C11 atomics, which ThreadSanitizer understands. It cannot
 * see grace periods (liburcu before 0.15 is not annotated), so builds for it get two edges in their
 * place: everything before a grace period happens before later read sections, and every read
 * section that has ended happens before the end of a later grace period.
 */

#include "pages/tsan.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <urcu-bp.h>
/*
 * The read side is inlined: liburcu keeps these functions so short that its licence lets any
 * program do so, and called they would be a third of the cost of marking a page. Builds for
 * sanitizers call them (DLI_RCU_CALLED): liburcu 0.13 declares a structure as aligned to a cache
 * line and allocates it otherwise, which the undefined behaviour sanitizer reports in inlined code.
 * Only one word of it is accessed here, and that word is aligned.
 */
#ifndef DLI_RCU_CALLED
#include <urcu/static/urcu-bp.h>
#endif

#ifdef DLI_TSAN
extern atomic_uint dli_rcu_edge;
#define dli_rcu_edge_acquire() ((void)atomic_load_explicit(&dli_rcu_edge, memory_order_acquire))
#define dli_rcu_edge_release() \
	((void)atomic_fetch_add_explicit(&dli_rcu_edge, 1, memory_order_acq_rel))
#else
#define dli_rcu_edge_acquire() ((void)0)
#define dli_rcu_edge_release() ((void)0)
#endif

#ifdef DLI_RCU_CALLED

static inline void dli_rcu_enter(void)
{
	int before = errno;

	urcu_bp_read_lock();
	errno = before;
}

#define dli_rcu_leave() urcu_bp_read_unlock()

#else

/* Registers the thread. liburcu tries mremap() first, whose failure must not show in errno. */
static inline void dli_rcu_meet_thread(void)
{
	int before = errno;

	urcu_bp_register();
	errno = before;
}

static inline void dli_rcu_enter(void)
{
	if (__builtin_expect(!URCU_TLS(urcu_bp_reader), false))
		dli_rcu_meet_thread();
	_urcu_bp_read_lock();
}

#define dli_rcu_leave() _urcu_bp_read_unlock()

#endif

static inline void dli_rcu_read_lock(void)
{
	dli_rcu_enter();
	dli_rcu_edge_acquire();
}

static inline void dli_rcu_read_unlock(void)
{
	dli_rcu_edge_release();
	dli_rcu_leave();
}

static inline void dli_rcu_synchronize(void)
{
	int state;

	dli_rcu_edge_release();
	/* It may call poll(2), a cancellation point, with its own locks and the caller's held. */
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
	urcu_bp_synchronize_rcu();
	pthread_setcancelstate(state, NULL);
	dli_rcu_edge_acquire();
}

#endif
