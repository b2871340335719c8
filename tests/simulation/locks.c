/* SPDX-License-Identifier: MIT */
/* Locks and grace periods between coroutines. */
#include "stand_ins.h"

#include <errno.h>

enum {
	MUTEX_MAGIC = 0x6d757465,
	RWLOCK_MAGIC = 0x72776c6f,
	COND_MAGIC = 0x636f6e64,
	HOST = 0xffff
};

static uint32_t me(void)
{
	return sim.current ? sim.current->id + 1 : HOST;
}

static void must_be(bool good, const char *what)
{
	if (!good)
		sim_fail(SIM_MISUSE, "%s", what);
}

int sim_mutex_init(struct sim_mutex *mutex)
{
	*mutex = (struct sim_mutex){ .magic = MUTEX_MAGIC };
	return 0;
}

void sim_mutex_destroy(struct sim_mutex *mutex)
{
	must_be(mutex->magic == MUTEX_MAGIC, "a mutex is destroyed that is not initialised");
	must_be(!mutex->owner && !mutex->waiters, "a mutex is destroyed while it is in use");
	mutex->magic = 0;
}

static bool mutex_is_free(const void *opaque)
{
	const struct sim_mutex *mutex = opaque;

	return !mutex->owner || mutex->magic != MUTEX_MAGIC;
}

/* site: NULL for a lock of the model, which is a point only if the task has to wait. */
void sim_mutex_lock(struct sim_mutex *mutex, const char *name, struct sim_site *site)
{
	if (site) {
		must_be(!sim.current->rcu_depth, "a lock is waited for inside a read section");
		sim_point(site);
	}
	must_be(mutex->magic == MUTEX_MAGIC, "a mutex is locked that is not initialised");
	must_be(mutex->owner != me(), "a mutex is locked by its owner");
	if (mutex->owner) {
		mutex->waiters++;
		sim_wait(mutex_is_free, mutex, name, site ? site : SIM_SITE("the model's lock"));
		must_be(mutex->magic == MUTEX_MAGIC,
			"a mutex is destroyed while a task waits for it");
		mutex->waiters--;
	}
	mutex->owner = me();
}

void sim_mutex_unlock(struct sim_mutex *mutex, struct sim_site *site)
{
	must_be(mutex->magic == MUTEX_MAGIC, "a mutex is unlocked that is not initialised");
	must_be(mutex->owner == me(), "a mutex is unlocked by a task that does not own it");
	mutex->owner = 0;
	if (mutex->waiters)
		sim_woken(site);
}

int sim_mutex_trylock(struct sim_mutex *mutex, struct sim_site *site)
{
	sim_point(site);
	must_be(mutex->magic == MUTEX_MAGIC, "a trylock of a mutex that is not initialised");
	if (mutex->owner)
		return EBUSY;
	mutex->owner = me();
	return 0;
}

int sim_cond_init(struct sim_cond *cond)
{
	*cond = (struct sim_cond){ .magic = COND_MAGIC };
	return 0;
}

void sim_cond_destroy(struct sim_cond *cond)
{
	must_be(cond->magic == COND_MAGIC, "a condition is destroyed that is not initialised");
	must_be(!cond->waiters, "a condition is destroyed while it has waiters");
	cond->magic = 0;
}

struct cond_wait {
	const struct sim_cond *cond;
	uint64_t broadcasts;
};

static bool was_broadcast(const void *opaque)
{
	const struct cond_wait *wait = opaque;

	return wait->cond->broadcasts != wait->broadcasts || wait->cond->magic != COND_MAGIC;
}

void sim_cond_wait(struct sim_cond *cond, struct sim_mutex *mutex, struct sim_site *site)
{
	struct cond_wait wait = { cond, cond->broadcasts };

	must_be(!sim.current->rcu_depth, "a condition is waited for inside a read section");
	must_be(mutex->owner == me(), "a condition is waited for without its lock");
	cond->waiters++;
	mutex->owner = 0;
	sim_wait(was_broadcast, &wait, "a condition", site);
	must_be(cond->magic == COND_MAGIC, "a condition is destroyed while a task waits for it");
	cond->waiters--;
	if (mutex->owner) {
		mutex->waiters++;
		sim_wait(mutex_is_free, mutex, "a condition's lock", site);
		mutex->waiters--;
	}
	mutex->owner = me();
}

void sim_cond_broadcast(struct sim_cond *cond, struct sim_site *site)
{
	must_be(cond->magic == COND_MAGIC, "a broadcast to a condition that is not initialised");
	cond->broadcasts++;
	if (cond->waiters)
		sim_woken(site);
}

int sim_rwlock_init(struct sim_rwlock *lock)
{
	*lock = (struct sim_rwlock){ .magic = RWLOCK_MAGIC };
	return 0;
}

void sim_rwlock_destroy(struct sim_rwlock *lock)
{
	must_be(!lock->writer && !lock->readers, "an rwlock is destroyed while it is in use");
	lock->magic = 0;
}

static bool may_read(const void *opaque)
{
	const struct sim_rwlock *lock = opaque;

	return !lock->writer && !lock->waiting_writers;
}

static bool may_write(const void *opaque)
{
	const struct sim_rwlock *lock = opaque;

	return !lock->writer && !lock->readers;
}

void sim_rwlock_read(struct sim_rwlock *lock, struct sim_site *site)
{
	sim_wait(may_read, lock, "a read lock", site);
	lock->readers++;
}

void sim_rwlock_write(struct sim_rwlock *lock, struct sim_site *site)
{
	lock->waiting_writers++;
	sim_wait(may_write, lock, "a write lock", site);
	lock->waiting_writers--;
	lock->writer = me();
}

void sim_rwlock_unlock(struct sim_rwlock *lock, struct sim_site *site)
{
	if (lock->writer)
		lock->writer = 0;
	else
		lock->readers--;
	sim_woken(site);
}

void sim_rcu_read_lock(struct sim_site *site)
{
	if (!sim.current->rcu_depth++)
		sim.current->rcu_sections++;
	sim_point(site);
}

void sim_rcu_read_unlock(struct sim_site *site)
{
	must_be(sim.current->rcu_depth, "a read section ends without a beginning");
	sim_point(site);
	sim.current->rcu_depth--;
}

/* The read sections that a grace period must wait for. */
struct readers {
	uint32_t n;
	struct {
		const struct sim_task *task;
		uint32_t section;
	} all[SIM_TASKS];
};

static bool readers_have_left(const void *opaque)
{
	const struct readers *readers = opaque;

	for (uint32_t i = 0; i < readers->n; i++)
		if (readers->all[i].task->rcu_depth &&
		    readers->all[i].task->rcu_sections == readers->all[i].section)
			return false;
	return true;
}

void sim_rcu_synchronize(struct sim_site *site)
{
	struct readers readers = { .n = 0 };

	must_be(!sim.current->rcu_depth, "a grace period is waited for inside a read section");
	sim_point(site);
	for (uint32_t i = 0; i < sim.task_count; i++) {
		struct sim_task *task = &sim.tasks[i];

		if (task->state == TASK_DONE || !task->rcu_depth)
			continue;
		readers.all[readers.n].task = task;
		readers.all[readers.n++].section = task->rcu_sections;
	}
	sim_wait(readers_have_left, &readers, "earlier readers", site);
}

int sim_clock_gettime(clockid_t clock, struct timespec *t)
{
	uint64_t ns = sim.now * sim.policy.point_ns;

	(void)clock;
	t->tv_sec = (time_t)(ns / 1000000000);
	t->tv_nsec = (long)(ns % 1000000000);
	return 0;
}
