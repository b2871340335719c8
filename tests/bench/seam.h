/* SPDX-License-Identifier: MIT */
#ifndef BENCH_SEAM_H
#define BENCH_SEAM_H

/*
 * Force-included before every file of lib/ in a second build of the library for the figures in
 * virtual time, with the locks and the clock of actors.h.
 */

#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <urcu-bp.h>

#include "actors.h"

#undef pthread_mutex_t
#define pthread_mutex_t		 struct actor_mutex
#define pthread_mutex_init(m, a) (*(m) = (struct actor_mutex){ .owner = NULL }, 0)
#define pthread_mutex_destroy(m) ((void)(m))
#define pthread_mutex_lock(m)	 actor_mutex_lock(m, #m)
#define pthread_mutex_trylock(m) actor_mutex_trylock(m)
#define pthread_mutex_unlock(m)	 actor_mutex_unlock(m)
#undef pthread_cond_t
#define pthread_cond_t		  struct actor_condition
#define pthread_cond_init(c, a)	  (*(c) = (struct actor_condition){ .waiters = { NULL, NULL } }, 0)
#define pthread_cond_destroy(c)	  ((void)(c))
#define pthread_cond_wait(c, m)	  actor_condition_wait(c, m, #c)
#define pthread_cond_signal(c)	  actor_condition_wake(c, false)
#define pthread_cond_broadcast(c) actor_condition_wake(c, true)
#define clock_gettime(clock, t)	  actor_clock_gettime(clock, t)

#endif
