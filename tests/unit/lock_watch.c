/* SPDX-License-Identifier: MIT */
#include "lock_watch.h"

#include <signal.h>
#include <sys/ioctl.h>

struct guest guest;
struct guest_vcpu *vcpu;
struct lock_watch seen;

void note(bool is_right, const char *where)
{
	if (!is_right && !seen.wrong)
		seen.wrong = where;
}

/* A log without handles needs no locks. */
static bool is_alive(const struct dl_log *log)
{
	return atomic_load(&log->references);
}

static bool is_any_ring_held(void)
{
	for (struct dl_vcpu *v = NULL; (v = dli_vcpu_list_next(&guest.log->vcpus, v));)
		if (is_held(&v->ring->lock))
			return true;
	return false;
}

bool is_any_cursor_held(const struct dl_log *log)
{
	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next)
		if (is_held(&cursor->lock))
			return true;
	return false;
}

static void note_cursor_lock(const struct dl_log *log, const pthread_mutex_t *lock)
{
	for (struct dl_cursor *cursor = log->cursors; cursor; cursor = cursor->next) {
		if (lock != &cursor->lock)
			continue;
		seen.locked |= CURSOR;
		note(!is_held(&log->lock), "a cursor's lock after the log's");
		note(is_held(&log->changes) || !is_any_cursor_held(log),
		     "two cursors' locks without that of changes");
	}
}

/* Lock order: changes, cursors', the log's, a ring's, the reset's; the reaper's after any. */
static void note_lock(const pthread_mutex_t *lock)
{
	const struct dl_log *log = guest.log;

	seen.locked |= lock == &log->changes ? CHANGES : 0;
	seen.locked |= lock == &log->lock ? LOG : 0;
	seen.locked |= lock == &log->vcpus.lock ? VCPUS : 0;
	note_cursor_lock(log, lock);
	if (lock == &log->changes)
		note(!is_held(&log->lock) && !is_any_cursor_held(log), "changes after another");
	if (lock == &log->changes || lock == &log->lock || lock == &log->reset.lock)
		note(!is_held(&log->reaper.lock), "a lock after the reaper's");
	if (lock == &log->changes || lock == &log->lock) {
		note(!is_any_ring_held(), "a ring's lock after the log's");
		note(!is_held(&log->reset.lock), "the reset's lock after the log's");
	}
	for (struct dl_vcpu *v = NULL; (v = dli_vcpu_list_next(&log->vcpus, v));)
		if (lock == &v->ring->lock)
			note(!is_held(&log->reset.lock), "the reset's lock after a ring's");
}

int __real_pthread_mutex_lock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock)
{
	if (seen.closing && lock == &seen.closing->lock)
		seen.open_at_lock = !seen.closing->closed;
	if (guest.log && is_alive(guest.log))
		note_lock(lock);
	return __real_pthread_mutex_lock(lock);
}

int __real_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock)
{
	if (seen.closing && lock == &seen.closing->lock)
		seen.closed_at_unlock = seen.closing->closed;
	return __real_pthread_mutex_unlock(lock);
}

/* A waiter tests its condition under the lock; without it, the wakeup could be missed. */
int __real_pthread_cond_broadcast(pthread_cond_t *changed);
int __wrap_pthread_cond_broadcast(pthread_cond_t *changed);
int __wrap_pthread_cond_broadcast(pthread_cond_t *changed)
{
	if (guest.log && changed == &guest.log->reset.changed)
		note(is_held(&guest.log->reset.lock), __func__);
	return __real_pthread_cond_broadcast(changed);
}

bool is_held(const pthread_mutex_t *lock)
{
	if (pthread_mutex_trylock((pthread_mutex_t *)lock))
		return true;
	pthread_mutex_unlock((pthread_mutex_t *)lock);
	return false;
}

static int (*signal_mask_below)(void *opaque, int how, const sigset_t *set, sigset_t *old);
static int (*timer_below)(void *opaque);

/* A thread that a signal handler parks must hold no lock. */
static int watched_signal_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	const struct dl_log *log = guest.log;

	if (!seen.test_holds && log && is_alive(log) && how == SIG_SETMASK && set &&
	    !sigismember(set, SIGUSR1))
		note(!is_held(&log->changes) && !is_held(&log->lock) && !is_any_ring_held() &&
			     !is_held(&log->vcpus.lock) && !is_held(&log->reaper.lock) &&
			     !is_any_cursor_held(log),
		     "signals are let in with a lock held");
	return signal_mask_below(opaque, how, set, old);
}

static int watched_timer(void *opaque)
{
	note(is_held(&guest.log->reaper.lock), "two threads make the timer");
	return timer_below(opaque);
}

void watch_os(struct guest *g)
{
	signal_mask_below = g->os.signal_mask;
	timer_below = g->os.timer;
	g->os.signal_mask = watched_signal_mask;
	g->os.timer = watched_timer;
}

static struct dl_log *log_of(const struct dli_slots *slots)
{
	return (struct dl_log *)((char *)slots - offsetof(struct dl_log, slots));
}

void watched_read_lock(void)
{
	seen.depth++;
	seen.sections++;
	urcu_bp_read_lock();
}

void watched_read_unlock(void)
{
	note(seen.depth > 0, __func__);
	seen.depth--;
	urcu_bp_read_unlock();
}

void __real_urcu_bp_synchronize_rcu(void);
void __wrap_urcu_bp_synchronize_rcu(void);
void __wrap_urcu_bp_synchronize_rcu(void)
{
	note(seen.depth == 0, __func__);
	seen.grace_periods++;
	if (seen.late)
		dli_page_set_mark_range(seen.late, 0, 1);
	seen.late = NULL;
	__real_urcu_bp_synchronize_rcu();
}

void __real_dli_page_set_mark_alone(struct dli_page_set *set, const struct dli_batch *batch);
void __wrap_dli_page_set_mark_alone(struct dli_page_set *set, const struct dli_batch *batch);
void __wrap_dli_page_set_mark_alone(struct dli_page_set *set, const struct dli_batch *batch)
{
	struct dli_slot_walk walk = dli_slot_walk(dli_slots_table(&guest.log->slots));
	struct dli_slot *slot;

	/* Markers take no lock. */
	while ((slot = dli_slot_next(&walk)))
		note(set != dli_slot_target(slot), __func__);
	__real_dli_page_set_mark_alone(set, batch);
}

struct dli_slot_table *watched_slots_table(const struct dli_slots *slots)
{
	const struct dl_log *log = log_of(slots);

	seen.table_looks++;
	note(seen.depth || !is_alive(log) || is_held(&log->lock), __func__);
	return dli_slots_table(slots);
}

struct dli_slot_table *__real_dli_slots_prepare(const struct dli_slots *slots, struct dli_slot *r,
						struct dli_slot *add, uint64_t gpa);
struct dli_slot_table *__wrap_dli_slots_prepare(const struct dli_slots *slots, struct dli_slot *r,
						struct dli_slot *add, uint64_t gpa);
struct dli_slot_table *__wrap_dli_slots_prepare(const struct dli_slots *slots, struct dli_slot *r,
						struct dli_slot *add, uint64_t gpa)
{
	note(is_held(&log_of(slots)->lock), __func__);
	return __real_dli_slots_prepare(slots, r, add, gpa);
}

struct dli_slot_table *__real_dli_slots_publish(struct dli_slots *slots, struct dli_slot_table *t);
struct dli_slot_table *__wrap_dli_slots_publish(struct dli_slots *slots, struct dli_slot_table *t);
struct dli_slot_table *__wrap_dli_slots_publish(struct dli_slots *slots, struct dli_slot_table *t)
{
	note(is_held(&log_of(slots)->lock), __func__);
	return __real_dli_slots_publish(slots, t);
}

int __real_dli_reset_rings(struct dli_reset *reset);
int __wrap_dli_reset_rings(struct dli_reset *reset);
int __wrap_dli_reset_rings(struct dli_reset *reset)
{
	seen.resets++;
	note(reset->busy, __func__);
	note(seen.depth == 0, __func__);
	return __real_dli_reset_rings(reset);
}

static void expect_ring_held(const struct dli_ring *ring)
{
	seen.rings++;
	note(is_held(&ring->lock), __func__);
}

uint32_t __real_dli_ring_copy(struct dli_ring *ring);
uint32_t __wrap_dli_ring_copy(struct dli_ring *ring);
uint32_t __wrap_dli_ring_copy(struct dli_ring *ring)
{
	expect_ring_held(ring);
	return __real_dli_ring_copy(ring);
}

bool __real_dli_ring_release(struct dli_ring *ring, struct dli_reset *reset);
bool __wrap_dli_ring_release(struct dli_ring *ring, struct dli_reset *reset);
bool __wrap_dli_ring_release(struct dli_ring *ring, struct dli_reset *reset)
{
	expect_ring_held(ring);
	note(reset->busy, __func__);
	return __real_dli_ring_release(ring, reset);
}

bool __real_dli_ring_verify(struct dli_ring *ring, struct dli_reset *reset, bool again);
bool __wrap_dli_ring_verify(struct dli_ring *ring, struct dli_reset *reset, bool again);
bool __wrap_dli_ring_verify(struct dli_ring *ring, struct dli_reset *reset, bool again)
{
	expect_ring_held(ring);
	note(reset->busy, __func__);
	return __real_dli_ring_verify(ring, reset, again);
}

void __real_dli_ring_publish(struct dli_ring *ring, struct dli_slots *slots);
void __wrap_dli_ring_publish(struct dli_ring *ring, struct dli_slots *slots);
void __wrap_dli_ring_publish(struct dli_ring *ring, struct dli_slots *slots)
{
	expect_ring_held(ring);
	/* Publishing must not delay resets of other rings. */
	note(!guest.log->reset.busy, __func__);
	__real_dli_ring_publish(ring, slots);
}

bool __real_dli_ring_same(struct dli_ring *a, struct dli_ring *b);
bool __wrap_dli_ring_same(struct dli_ring *a, struct dli_ring *b);
bool __wrap_dli_ring_same(struct dli_ring *a, struct dli_ring *b)
{
	/* It marks ring a, which may be any ring. */
	for (struct dl_vcpu *v = NULL; (v = dli_vcpu_list_next(&guest.log->vcpus, v));)
		expect_ring_held(v->ring);
	note(is_held(&guest.log->vcpus.lock), __func__);
	return __real_dli_ring_same(a, b);
}

bool __real_dli_page_set_take(struct dli_page_set *set, uint64_t *block, bool one_chunk,
			      struct dli_batch *batch);
bool __wrap_dli_page_set_take(struct dli_page_set *set, uint64_t *block, bool one_chunk,
			      struct dli_batch *batch);
bool __wrap_dli_page_set_take(struct dli_page_set *set, uint64_t *block, bool one_chunk,
			      struct dli_batch *batch)
{
	seen.takes++;
	note(is_any_cursor_held(guest.log), __func__);
	note(is_held(&guest.log->lock), __func__);
	return __real_dli_page_set_take(set, block, one_chunk, batch);
}

void __real_dli_page_set_requeue(struct dli_page_set *set);
void __wrap_dli_page_set_requeue(struct dli_page_set *set);
void __wrap_dli_page_set_requeue(struct dli_page_set *set)
{
	seen.takes++;
	note(is_any_cursor_held(guest.log), __func__);
	note(is_held(&guest.log->lock), __func__);
	__real_dli_page_set_requeue(set);
}

/* Every slot ioctl is made under the log's lock; no ioctl is made inside a read section. */
bool watch_ioctl(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	note(seen.depth == 0, __func__);
	if (!g->log)
		return false;
	switch (request) {
	case KVM_SET_USER_MEMORY_REGION:
	case KVM_GET_DIRTY_LOG:
	case KVM_CLEAR_DIRTY_LOG:
	case KVM_ENABLE_CAP:
		note(is_held(&g->log->lock), __func__);
		break;
	case KVM_RESET_DIRTY_RINGS:
		/* In bitmap mode it only asks whether rings are on. */
		if (!dli_log_is_ring(g->log))
			break;
		note(g->log->reset.busy, __func__);
		note(is_held(&vcpu->handle->ring->lock), __func__);
		break;
	}
	return false;
}
