/* SPDX-License-Identifier: MIT */
/*
 * Watches the functions of the library that need a lock or a read section (with --wrap, or with
 * locks_seam.h if they are in headers): each public call must hold the locks that they need. There
 * is one thread: a lock that is held is its own. A forgotten lock always shows here; whether the
 * locks suffice is for the tests with threads.
 */
#include "cmocka_all.h"
#include "guest.h"
#define LOCKS_WATCHER
#include "locks_seam.h"
#include "log.h"
#include "ring/ring_private.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum { PAGES = 100, READING = 1, LOG = 2, VCPUS = 4 };

static struct guest guest;
static struct guest_vcpu *vcpu;
static struct {
	unsigned int depth, sections, grace_periods, table_looks, resets, rings, takes;
	unsigned int locked; /* locks of the log that were taken since the last expect_locked() */
	const struct dli_reset *closing;
	bool open_at_lock, closed_at_unlock;
	const char *wrong; /* the first function that was called without its locks */
} seen;

/* A failure is reported later: a jump out of the library would leave its locks held. */
static void note(bool is_right, const char *where)
{
	if (!is_right && !seen.wrong)
		seen.wrong = where;
}

static bool is_held(const pthread_mutex_t *lock);

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

/* Lock order: reading, the log's, a ring's, the reset's; the reaper's after any. */
static void note_lock(const pthread_mutex_t *lock)
{
	const struct dl_log *log = guest.log;

	seen.locked |= lock == &log->reading ? READING : 0;
	seen.locked |= lock == &log->lock ? LOG : 0;
	seen.locked |= lock == &log->vcpus.lock ? VCPUS : 0;
	if (lock == &log->reading)
		note(!is_held(&log->lock), "lock after reading");
	if (lock == &log->reading || lock == &log->lock || lock == &log->reset.lock)
		note(!is_held(&log->reaper.lock), "a lock after the reaper's");
	if (lock == &log->reading || lock == &log->lock) {
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

static bool is_held(const pthread_mutex_t *lock)
{
	if (pthread_mutex_trylock((pthread_mutex_t *)lock))
		return true;
	pthread_mutex_unlock((pthread_mutex_t *)lock);
	return false;
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
	__real_urcu_bp_synchronize_rcu();
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

void __real_dli_slots_sweep(struct dli_slots *slots, bool all);
void __wrap_dli_slots_sweep(struct dli_slots *slots, bool all);
void __wrap_dli_slots_sweep(struct dli_slots *slots, bool all)
{
	note(!is_alive(log_of(slots)) || is_held(&log_of(slots)->lock), __func__);
	__real_dli_slots_sweep(slots, all);
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
	note(is_held(&guest.log->reading), __func__);
	note(is_held(&guest.log->lock), __func__);
	return __real_dli_page_set_take(set, block, one_chunk, batch);
}

void __real_dli_page_set_requeue(struct dli_page_set *set);
void __wrap_dli_page_set_requeue(struct dli_page_set *set);
void __wrap_dli_page_set_requeue(struct dli_page_set *set)
{
	seen.takes++;
	note(is_held(&guest.log->reading), __func__);
	note(is_held(&guest.log->lock), __func__);
	__real_dli_page_set_requeue(set);
}

/* Every slot ioctl is made under the log's lock; no ioctl is made inside a read section. */
static bool watch_ioctl(struct guest *g, int fd, unsigned long request, void *arg, int *result)
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
		note(g->log->reset.busy, __func__);
		note(is_held(&vcpu->handle->ring->lock), __func__);
		break;
	}
	return false;
}

static void begin(uint32_t mode)
{
	const struct guest_config config = {
		.model = { .has = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP |
				  MODEL_HAS_MANUAL_PROTECT },
		.options = { .mode = mode, .ring_entries = 256 },
		.intercept = watch_ioctl,
	};

	memset(&seen, 0, sizeof(seen));
	guest_open(&guest, &config);
}

static int setup_ring(void **state)
{
	begin(DL_MODE_RING);
	return 0;
}

static int setup_bitmap(void **state)
{
	begin(DL_MODE_BITMAP);
	return 0;
}

static int teardown(void **state)
{
	for (unsigned int i = 0; i < guest.vcpu_count; i++) {
		dl_vcpu_remove(guest.vcpus[i].handle);
		guest.vcpus[i].handle = NULL;
	}
	seen.locked = 0;
	dl_log_close(guest.log);
	guest.log = NULL;
	note(seen.locked == (READING | LOG | VCPUS), "dl_log_close");
	guest_close(&guest);
	if (seen.wrong)
		print_error("called without its lock or read section: %s\n", seen.wrong);
	return seen.wrong ? -1 : 0;
}

#define ring_test(f)   cmocka_unit_test_setup_teardown(f, setup_ring, teardown)
#define bitmap_test(f) cmocka_unit_test_setup_teardown(f, setup_bitmap, teardown)

static void expect_all_free(void)
{
	if (seen.wrong)
		fail_msg("called without its lock or read section: %s", seen.wrong);
	assert_int_equal(seen.depth, 0);
	assert_false(is_held(&guest.log->lock));
	assert_false(is_held(&guest.log->reading));
	assert_false(is_held(&guest.log->reset.lock) || guest.log->reset.busy);
	assert_false(is_held(&guest.log->vcpus.lock));
	for (struct dl_vcpu *v = NULL; (v = dli_vcpu_list_next(&guest.log->vcpus, v));)
		assert_false(is_held(&v->ring->lock));
}

/* Expects that the preceding calls took these locks of the log. */
static void expect_locked(unsigned int locks)
{
	assert_int_equal(seen.locked, locks);
	expect_all_free();
	seen.locked = 0;
}

/* Makes every public call, in an order in which each has work to do. */
static void every_call_holds_what_it_needs(void **state)
{
	struct dl_iter *iter;
	struct dl_slot slot;
	struct dl_run run;
	uint64_t pending_bytes;
	unsigned int vcpus = dli_log_is_ring(guest.log) ? VCPUS : 0;

	guest_add_slot(&guest, 0, 0, PAGES);
	expect_locked(LOG);
	vcpu = guest_vcpu(&guest, true);
	guest_vcpu_add(&guest, guest_vcpu(&guest, false));
	expect_locked(vcpus);
	dl_vcpu_remove(guest.vcpus[1].handle);
	guest.vcpus[1].handle = NULL;
	expect_locked(vcpus);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	expect_locked(LOG);
	slot = guest_slot(&guest, 1, 1000, guest_memory(&guest, PAGES), 0, PAGES);
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	slot.gpa += PAGES * 4096;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	expect_locked(LOG);
	assert_int_equal(guest_write(&guest, vcpu, 0, 5), 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 7 * 4096, 1), 0);
	assert_int_equal(dl_mark_slot(guest.log, 0, 9 * 4096, 1), 0);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_true(dl_log_fd(guest.log) >= 0);
	assert_int_equal(guest_write(&guest, vcpu, 0, 4), 0);
	assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
	expect_locked(0);
	assert_int_equal(guest_write(&guest, vcpu, 0, 6), 0);
	assert_int_equal(dl_harvest(guest.log, DL_HARVEST_FINAL, &pending_bytes), 0);
	expect_locked(LOG);
	assert_int_equal(dl_iter_new(guest.log, 0, &iter), 0);
	expect_locked(READING | LOG);
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	expect_locked(READING | LOG);
	assert_int_equal(dl_iter_ack(iter, &run, 1), 0);
	expect_locked(0);
	assert_int_equal(dl_slot_remove(guest.log, 1, 0), 0);
	expect_locked(READING | LOG);
	dl_iter_free(iter);
	expect_locked(READING | LOG);
	assert_int_equal(guest_stats(&guest).full_exits, 0);
	expect_locked(LOG);
	assert_true(dl_log_describe(guest.log, NULL, 0) > 0);
	expect_locked(LOG);
	assert_int_equal(dl_log_stop(guest.log), 0);
	expect_locked(READING | LOG);
	assert_true(seen.table_looks > 10 && seen.takes >= 2 && seen.grace_periods >= 4);
	assert_true(!dli_log_is_ring(guest.log) || (seen.resets > 0 && seen.rings > 0));
}

/* A slot is freed after a grace period, so a mark must be a read section. */
static void a_mark_is_a_read_section(void **state)
{
	guest_add_slot(&guest, 0, 0, PAGES);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	seen.sections = 0;
	assert_int_equal(dl_mark_gpa(guest.log, 0, 4096, 1), 0);
	assert_int_equal(seen.sections, 1);
	assert_int_equal(dl_mark_slot(guest.log, 0, 4096, 1), 0);
	assert_int_equal(seen.sections, 2);
}

/* A stop waits for marks that saw logging on; otherwise it could leave their pages behind. */
static void changes_of_slots_and_stops_wait_for_readers(void **state)
{
	struct dl_slot slot = guest_slot(&guest, 1, 0, guest_memory(&guest, PAGES), 0, PAGES);

	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	seen.grace_periods = 0;
	slot.gpa = 4096000;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	assert_int_equal(seen.grace_periods, 1);
	assert_int_equal(dl_slot_remove(guest.log, 1, 0), 0);
	assert_int_equal(seen.grace_periods, 2);
	assert_int_equal(dl_log_stop(guest.log), 0);
	assert_int_equal(seen.grace_periods, 3);
}

/* A thread's first read section takes a lock in liburcu, so these calls enter one early. */
static void open_and_add_register_their_thread(void **state)
{
	assert_true(seen.sections > 0);
	seen.sections = 0;
	guest_vcpu(&guest, true);
	assert_true(seen.sections > 0);
}

/* A vCPU with a full ring waits only for its own ring and the reset. */
static void a_drain_takes_only_two_locks(void **state)
{
	struct dli_ring *others;

	vcpu = guest_vcpu(&guest, true);
	others = guest_vcpu(&guest, true)->handle->ring;
	guest_add_slot(&guest, 0, 0, PAGES);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(guest_write(&guest, vcpu, 0, 5), 0);
	/* Hold all other locks; a drain that took one would deadlock. */
	pthread_mutex_lock(&guest.log->reading);
	pthread_mutex_lock(&guest.log->lock);
	pthread_mutex_lock(&guest.log->vcpus.lock);
	pthread_mutex_lock(&others->lock);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	pthread_mutex_unlock(&others->lock);
	pthread_mutex_unlock(&guest.log->vcpus.lock);
	pthread_mutex_unlock(&guest.log->lock);
	pthread_mutex_unlock(&guest.log->reading);
	expect_all_free();
	assert_int_equal(guest_stats(&guest).entries, 1);
}

static void the_reset_section_is_left_under_its_lock(void **state)
{
	assert_int_equal(dli_reset_begin(&guest.log->reset), 0);
	dli_reset_end(&guest.log->reset);
	expect_all_free();
}

/* A reset continues with the file descriptor that it began with. */
static void a_reset_is_closed_under_its_lock(void **state)
{
	struct dli_reset reset = { 0 };

	assert_int_equal(dli_reset_init(&reset, &guest.os, guest.vm_fd), 0);
	seen.closing = &reset;
	dli_reset_close(&reset, false);
	seen.closing = NULL;
	assert_true(seen.open_at_lock && seen.closed_at_unlock);
	dli_reset_fini(&reset);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ring_test(every_call_holds_what_it_needs),
		bitmap_test(every_call_holds_what_it_needs),
		ring_test(a_mark_is_a_read_section),
		ring_test(changes_of_slots_and_stops_wait_for_readers),
		ring_test(open_and_add_register_their_thread),
		ring_test(a_drain_takes_only_two_locks),
		ring_test(the_reset_section_is_left_under_its_lock),
		ring_test(a_reset_is_closed_under_its_lock),
	};

	return RUN_TESTS("locks", tests);
}
