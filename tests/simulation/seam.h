/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_SEAM_H
#define SIMULATION_SEAM_H

/*
 * Force-included before every file of lib/ and of the model kernel, which are compiled a second
 * time for the simulation. It replaces what threads share, so that the generator can switch there:
 *   - C11 atomics: a point before each access. With one thread, a plain access is enough.
 *   - locks, liburcu: coroutines wait instead of threads.
 *   - memory: counted, poisoned when freed, gone with the run.
 *   - the model's files: plain memory, so that a run makes no system call.
 * SIMULATION_LIBRARY, SIMULATION_MODEL or SIMULATION_CELLS says what is compiled. In the model
 * only accesses to ring cells (SIMULATION_CELLS) and the hook are points; its other accesses are
 * not under test.
 */

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "stand_ins.h"

#undef pthread_mutex_t
#define pthread_mutex_t		 struct sim_mutex
#define pthread_mutex_init(m, a) sim_mutex_init(m)
#define pthread_mutex_destroy(m) sim_mutex_destroy(m)
#define pthread_mutex_unlock(m)	 sim_mutex_unlock(m, SIM_SITE("unlock " #m))
#define pthread_mutex_trylock(m) sim_mutex_trylock(m, SIM_SITE("try lock " #m))
#undef pthread_cond_t
#define pthread_cond_t		  struct sim_cond
#define pthread_cond_init(c, a)	  sim_cond_init(c)
#define pthread_cond_destroy(c)	  sim_cond_destroy(c)
#define pthread_cond_wait(c, m)	  sim_cond_wait(c, m, SIM_SITE("wait for " #c))
#define pthread_cond_broadcast(c) sim_cond_broadcast(c, SIM_SITE("broadcast " #c))
#define pthread_rwlock_t	  struct sim_rwlock
#define pthread_rwlock_init(l, a) sim_rwlock_init(l)
#define pthread_rwlock_destroy(l) sim_rwlock_destroy(l)
#define pthread_rwlock_rdlock(l)  sim_rwlock_read(l, SIM_SITE("read lock " #l))
#define pthread_rwlock_wrlock(l)  sim_rwlock_write(l, SIM_SITE("write lock " #l))
#define pthread_rwlock_unlock(l)  sim_rwlock_unlock(l, SIM_SITE("unlock " #l))
#define sysconf(name)		  ((void)(name), (long)SIM_PAGE_BYTES)
#define clock_gettime(clock, t)	  sim_clock_gettime(clock, t)
#define realloc(memory, bytes)	  sim_reallocate(memory, bytes)
#define free(memory)		  sim_free(memory)

#ifdef SIMULATION_LIBRARY

#include <urcu-bp.h>
#include <urcu/static/urcu-bp.h>

/* Every thread is registered. */
#undef URCU_TLS
#define URCU_TLS(name)		  true
#define urcu_bp_register()	  ((void)0)
#define _urcu_bp_read_lock()	  sim_rcu_read_lock(SIM_SITE("rcu_read_lock"))
#define urcu_bp_read_lock()	  sim_rcu_read_lock(SIM_SITE("rcu_read_lock"))
#define _urcu_bp_read_unlock()	  sim_rcu_read_unlock(SIM_SITE("rcu_read_unlock"))
#define urcu_bp_read_unlock()	  sim_rcu_read_unlock(SIM_SITE("rcu_read_unlock"))
#define urcu_bp_synchronize_rcu() sim_rcu_synchronize(SIM_SITE("synchronize_rcu"))

#define malloc(bytes)		sim_allocate(bytes, true)
#define calloc(n, bytes)	sim_allocate((n) * (bytes), true)
#define pthread_mutex_lock(m)	sim_mutex_lock(m, #m, SIM_SITE("lock " #m))
#define sim_access(kind, place) sim_point(SIM_SITE(kind " " place))

#else

#define malloc(bytes)		sim_allocate(bytes, false)
#define calloc(n, bytes)	sim_allocate((n) * (bytes), false)
#define pthread_mutex_lock(m)	sim_mutex_lock(m, #m, NULL)
#define sim_access(kind, place) ((void)0)

#endif

/* Atomics. The memory order is ignored. */

/* The type that p points to, without _Atomic. */
#define sim_plain(p) __typeof__((void)0, *(p))

#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_exchange_explicit
#undef atomic_fetch_add_explicit
#undef atomic_fetch_sub_explicit
#undef atomic_fetch_or_explicit
#undef atomic_fetch_and_explicit
#undef atomic_compare_exchange_strong_explicit
#undef atomic_compare_exchange_strong
#undef atomic_thread_fence
#undef atomic_exchange
#undef atomic_fetch_or
#undef atomic_fetch_and

#define atomic_load_explicit(p, order) (sim_access("load", #p), *(p))

#define atomic_store_explicit(p, value, order)   \
	__extension__({                          \
		__auto_type sim_p = (p);         \
		__auto_type sim_value = (value); \
		sim_access("store", #p);         \
		*sim_p = sim_value;              \
		(void)0;                         \
	})

#define sim_change(kind, p, value, expression)     \
	__extension__({                            \
		__auto_type sim_p = (p);           \
		__auto_type sim_value = (value);   \
		sim_access(kind, #p);              \
		sim_plain(sim_p) sim_old = *sim_p; \
		*sim_p = (expression);             \
		sim_old;                           \
	})

#define atomic_exchange_explicit(p, value, order) sim_change("exchange", p, value, sim_value)
#define atomic_fetch_add_explicit(p, value, order) \
	sim_change("fetch_add", p, value, sim_old + (__typeof__(sim_old))sim_value)
#define atomic_fetch_sub_explicit(p, value, order) \
	sim_change("fetch_sub", p, value, sim_old - (__typeof__(sim_old))sim_value)
#define atomic_fetch_or_explicit(p, value, order) \
	sim_change("fetch_or", p, value, sim_old | sim_value)
#define atomic_fetch_and_explicit(p, value, order) \
	sim_change("fetch_and", p, value, sim_old &sim_value)

#define atomic_exchange(p, value)  atomic_exchange_explicit(p, value, 0)
#define atomic_fetch_or(p, value)  atomic_fetch_or_explicit(p, value, 0)
#define atomic_fetch_and(p, value) atomic_fetch_and_explicit(p, value, 0)

#define atomic_compare_exchange_strong(p, expected, desired) \
	__extension__({                                      \
		__auto_type sim_p = (p);                     \
		__auto_type sim_expected = (expected);       \
		__auto_type sim_desired = (desired);         \
		sim_access("compare_exchange", #p);          \
		sim_plain(sim_p) sim_old = *sim_p;           \
		bool sim_same = sim_old == *sim_expected;    \
		if (sim_same)                                \
			*sim_p = sim_desired;                \
		else                                         \
			*sim_expected = sim_old;             \
		sim_same;                                    \
	})
#define atomic_compare_exchange_strong_explicit(p, expected, desired, success, failure) \
	atomic_compare_exchange_strong(p, expected, desired)

#define atomic_thread_fence(order) sim_access("fence", "")

#ifdef SIMULATION_MODEL /* files and mappings */

#define memfd_create(name, flags) ((void)(name), sim_file_new())
#define ftruncate(file, bytes)	  sim_file_resize(file, (size_t)(bytes))
#define close(file)		  sim_file_close(file)
#define mmap(address, bytes, protection, flags, file, offset) \
	((void)(protection), (void)(flags), sim_file_map(file, bytes, (size_t)(offset)))
#define munmap(memory, bytes)		  ((void)(bytes), sim_file_unmap(memory))
#define madvise(memory, bytes, advice)	  sim_no_advice()
#define mprotect(memory, bytes, prot)	  sim_no_advice()
#define pread(file, to, bytes, offset)	  sim_file_read(file, to, bytes, (size_t)(offset))
#define pwrite(file, from, bytes, offset) sim_file_write(file, from, bytes, (size_t)(offset))

#endif

#ifdef SIMULATION_CELLS /* the kernel's side of the rings */

#define __atomic_load_n(p, order)                         \
	__extension__({                                   \
		sim_point(SIM_SITE("kernel load " #p));   \
		__auto_type sim_loaded = *(p);            \
		sim_cell_loaded(p, sim_loaded, __func__); \
		sim_loaded;                               \
	})
#define __atomic_store_n(p, value, order)                \
	__extension__({                                  \
		sim_point(SIM_SITE("kernel store " #p)); \
		sim_cell_storing(p, __func__);           \
		*(p) = (value);                          \
		sim_cell_stored(p, __func__);            \
	})

#endif

#endif
