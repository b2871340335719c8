/* SPDX-License-Identifier: MIT */
/* Draining by several threads at once: who is served with whom, what is passed over, who waits for what. */
#include "cmocka_all.h"
#include "drain.h"
#include "guest.h"
#include "log.h"
#include "publish.h"
#include "ring_cells.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>

enum { PAGES = 4096, ENTRIES = 4096, FILLED = 3000, DRAINS = 3 };

static struct guest guest;
/* Called before the next reset, and behind it. */
static void (*in_reset)(void), (*after_reset)(void);
static int reset_error; /* of the next one */

static bool intercept(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	void (*now)(void) = in_reset;

	if (request != KVM_RESET_DIRTY_RINGS)
		return false;
	in_reset = NULL;
	if (now)
		now();
	if (after_reset) {
		const struct dl_os *os = model_os(g->model);

		*result = os->ioctl(os->opaque, fd, request, arg);
		after_reset();
		after_reset = NULL;
		return true;
	}
	*result = reset_error;
	reset_error = 0;
	return *result != 0;
}

static int setup(void **state)
{
	const struct guest_config config = {
		.options = { .mode = DL_MODE_RING, .ring_entries = ENTRIES },
		.intercept = intercept,
	};

	in_reset = after_reset = NULL;
	reset_error = 0;
	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES * GUEST_VCPUS);
	for (int i = 0; i < GUEST_VCPUS; i++)
		guest_vcpu(&guest, true);
	return dl_log_start(guest.log, DL_START_CLEAN);
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define drain_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static struct dli_reset *reset(void)
{
	return &guest.log->reset;
}

static struct dli_ring *ring_of(int vcpu)
{
	return guest.vcpus[vcpu].handle->ring;
}

/* Each vCPU has pages of its own. */
static void write_pages(int vcpu, uint64_t pages)
{
	for (uint64_t page = 0; page < pages; page++)
		assert_int_equal(
			guest_write(&guest, &guest.vcpus[vcpu], 0, (uint64_t)vcpu * PAGES + page),
			0);
}

static uint64_t pending_pages(void)
{
	return guest_stats(&guest).pending_bytes / guest.page_bytes;
}

static void harvest(void)
{
	assert_int_equal(dl_harvest(guest.log, 0, NULL), 0);
}

static void *drain_thread(void *vcpu)
{
	return (void *)(intptr_t)dl_vcpu_drain(vcpu);
}

/* Until so many parties wait for the section. */
static void wait_for_parties(unsigned int parties)
{
	for (;;) {
		unsigned int n = 0;

		pthread_mutex_lock(&reset()->lock);
		for (struct dli_party *party = reset()->waiting; party; party = party->next)
			n++;
		pthread_mutex_unlock(&reset()->lock);
		if (n == parties)
			return;
		sched_yield();
	}
}

static void let_drains_meet(pthread_t *threads)
{
	assert_int_equal(dli_reset_begin(reset()), 0);
	for (int i = 0; i < DRAINS; i++) {
		write_pages(i, 10);
		assert_int_equal(
			pthread_create(&threads[i], NULL, drain_thread, guest.vcpus[i].handle), 0);
	}
	wait_for_parties(DRAINS);
	dli_reset_end(reset());
}

static void expect_all_return(pthread_t *threads, int result)
{
	void *r;

	for (int i = 0; i < DRAINS; i++) {
		assert_int_equal(pthread_join(threads[i], &r), 0);
		assert_int_equal((intptr_t)r, result);
	}
}

static void drains_that_meet_share_a_reset(void **state)
{
	uint64_t resets = guest_stats(&guest).resets;
	pthread_t threads[DRAINS];

	let_drains_meet(threads);
	expect_all_return(threads, 0);
	assert_int_equal(guest_stats(&guest).resets, resets + 1);
	assert_int_equal(pending_pages(), 10 * DRAINS);
}

/* As after an overflow, but what the ring has is sound: both sides only have to find each other. */
static void put_out_of_step(int vcpu)
{
	struct dli_ring *ring = ring_of(vcpu);

	dli_ring_lock(ring);
	ring->state = RING_SUSPECT;
	dli_ring_unlock(ring);
}

static void a_harvest_brings_every_ring_into_step(void **state)
{
	for (int i = 0; i < DRAINS; i++) {
		write_pages(i, 10);
		put_out_of_step(i);
	}
	harvest();
	assert_int_equal(pending_pages(), 10 * DRAINS);
}

/* Who passes by looks at no more than that. */
static void a_ring_that_somebody_has_or_that_is_out_of_step_is_not_quiet(void **state)
{
	struct dl_vcpu *vcpu = guest.vcpus[0].handle;
	const dli_ring_head *head = &vcpu->group->heads[vcpu->index];

	harvest();
	dli_ring_lock(ring_of(0));
	assert_false(ring_is_quiet(head));
	dli_ring_unlock(ring_of(0));
	assert_true(ring_is_quiet(head));
	assert_true(dli_ring_trylock(ring_of(0)));
	assert_false(ring_is_quiet(head));
	dli_ring_unlock(ring_of(0));
	put_out_of_step(0);
	assert_false(ring_is_quiet(head));
}

static struct kvm_dirty_gfn *watched;
static bool was_released;

static void look_at_cell(void)
{
	was_released = cell_load(watched) == CELL_RESET;
}

/* The drains of two vCPUs, of which first comes first. The next reset is watched. */
static void let_two_meet(int first)
{
	const int order[] = { first, !first };
	pthread_t threads[2];

	assert_int_equal(dli_reset_begin(reset()), 0);
	for (unsigned int i = 0; i < 2; i++) {
		struct dl_vcpu *vcpu = guest.vcpus[order[i]].handle;

		assert_int_equal(pthread_create(&threads[i], NULL, drain_thread, vcpu), 0);
		wait_for_parties(i + 1);
	}
	in_reset = look_at_cell;
	dli_reset_end(reset());
	for (int i = 0; i < 2; i++) {
		void *r;

		assert_int_equal(pthread_join(threads[i], &r), 0);
		assert_null(r);
	}
}

/* A reset for that may be cut short, and nobody looks then what it has left or dropped of others. */
static void parties_get_into_step_before_any_is_released(void **state)
{
	for (int first = 0; first < 2; first++) {
		write_pages(0, 10);
		write_pages(1, 10);
		put_out_of_step(0);
		watched = cell_at(ring_of(1), ring_of(1)->head);
		was_released = false;
		let_two_meet(first);
		assert_null(in_reset);
		assert_false(was_released);
		assert_int_equal(guest_stats(&guest).entries, 20 * (first + 1));
	}
}

static void a_shared_failure_is_everybodys(void **state)
{
	pthread_t threads[DRAINS];

	reset_error = -EIO;
	let_drains_meet(threads);
	expect_all_return(threads, -EIO);
	/* The harvest takes it up again, and repairs for what the failed one may have dropped. */
	harvest();
	assert_int_equal(pending_pages(), PAGES * GUEST_VCPUS);
}

static void one_with_nothing_is_not_told_of_a_failure(void **state)
{
	pthread_t threads[2];
	void *r;

	reset_error = -EIO;
	assert_int_equal(dli_reset_begin(reset()), 0);
	write_pages(0, 10);
	for (int i = 0; i < 2; i++)
		assert_int_equal(
			pthread_create(&threads[i], NULL, drain_thread, guest.vcpus[i].handle), 0);
	wait_for_parties(2);
	dli_reset_end(reset());
	assert_int_equal(pthread_join(threads[0], &r), 0);
	assert_int_equal((intptr_t)r, -EIO);
	assert_int_equal(pthread_join(threads[1], &r), 0);
	assert_int_equal((intptr_t)r, 0);
}

static void expect_not_quiet(void)
{
	struct dl_vcpu *vcpu = guest.vcpus[0].handle;

	assert_false(ring_is_quiet(&vcpu->group->heads[vcpu->index]));
}

/* What is on its way to the sets is not in the ring any more. */
static void a_ring_that_is_drained_is_not_quiet(void **state)
{
	struct dl_vcpu *vcpu = guest.vcpus[0].handle;
	const dli_ring_head *head = &vcpu->group->heads[vcpu->index];

	harvest();
	assert_true(ring_is_quiet(head));
	write_pages(0, 10);
	assert_false(ring_is_quiet(head));
	after_reset = expect_not_quiet;
	assert_int_equal(dl_vcpu_drain(vcpu), 0);
	assert_null(after_reset);
	/* A harvest is to count what the drain found. */
	assert_false(ring_is_quiet(head));
	harvest();
	assert_true(ring_is_quiet(head));
}

/* As by a vCPU's own drain, so by a harvest: another harvest must not pass over it. */
static void a_ring_that_is_harvested_is_not_quiet(void **state)
{
	harvest();
	write_pages(0, 10);
	after_reset = expect_not_quiet;
	harvest();
	assert_null(after_reset);
	assert_int_equal(pending_pages(), 10);
}

/* A dirty cell behind a clean one is no sign while vCPUs run. In the final pass it is. */
static void the_final_pass_looks_through_quiet_rings(void **state)
{
	struct dli_ring *ring = ring_of(2);

	harvest();
	cell_change(cell_at(ring, ring->head + 5), CELL_CLEAN, CELL_DIRTY);
	harvest();
	assert_int_equal(pending_pages(), 0);
	assert_int_equal(dl_harvest(guest.log, DL_HARVEST_FINAL, NULL), 0);
	assert_int_equal(pending_pages(), PAGES * GUEST_VCPUS);
}

/* One that a failed reset left with released cells, and with pages that are still to be told. */
static void a_ring_that_owes_something_is_not_quiet(void **state)
{
	struct dl_vcpu *vcpu = guest.vcpus[0].handle;
	const dli_ring_head *head = &vcpu->group->heads[vcpu->index];

	harvest();
	write_pages(0, 10);
	reset_error = -EIO;
	assert_int_equal(dl_harvest(guest.log, 0, NULL), -EIO);
	assert_false(ring_is_quiet(head));
	harvest();
	assert_true(ring_is_quiet(head));
	assert_true(pending_pages() >= 10);
}

static void *harvest_thread(void *unused)
{
	return (void *)(intptr_t)dl_harvest(guest.log, 0, NULL);
}

static pthread_t second;

static void expect_second_returns(void)
{
	void *r;

	assert_int_equal(pthread_join(second, &r), 0);
	assert_int_equal((intptr_t)r, 0);
}

/* Somebody has them all the while: a harvest that wanted one would not come back. */
static void quiet_rings_are_passed_over(void **state)
{
	harvest();
	for (int i = 1; i < GUEST_VCPUS; i++)
		pthread_mutex_lock(&ring_of(i)->lock);
	write_pages(0, 5);
	assert_int_equal(pthread_create(&second, NULL, harvest_thread, NULL), 0);
	expect_second_returns();
	for (int i = 1; i < GUEST_VCPUS; i++)
		pthread_mutex_unlock(&ring_of(i)->lock);
	assert_int_equal(pending_pages(), 5);
}

/* The first rings of a harvest are free again while it has the last ones reset. */
static unsigned int free_rings;

static void count_free_rings(void)
{
	for (int i = 0; i < GUEST_VCPUS; i++) {
		if (pthread_mutex_trylock(&ring_of(i)->lock))
			continue;
		pthread_mutex_unlock(&ring_of(i)->lock);
		free_rings++;
	}
}

static void count_in_the_next(void)
{
	in_reset = count_free_rings;
}

static void a_harvest_lets_go_of_what_it_has_done(void **state)
{
	uint64_t resets = guest_stats(&guest).resets;

	for (int i = 0; i < GUEST_VCPUS; i++)
		write_pages(i, FILLED);
	free_rings = 0;
	in_reset = count_in_the_next;
	harvest();
	/* Three rings are enough for one reset. */
	assert_int_equal(guest_stats(&guest).resets, resets + 3);
	assert_int_equal(free_rings, GUEST_VCPUS - 3);
	assert_int_equal(pending_pages(), FILLED * GUEST_VCPUS);
}

static void begin_second_harvest(void)
{
	assert_int_equal(pthread_create(&second, NULL, harvest_thread, NULL), 0);
	/* It has gathered what the first does not have, and wants it handed back. */
	wait_for_parties(1);
	assert_non_null(reset()->waiting->first);
}

static void two_harvests_share_the_rings(void **state)
{
	for (int i = 0; i < GUEST_VCPUS; i++)
		write_pages(i, FILLED);
	in_reset = begin_second_harvest;
	harvest();
	expect_second_returns();
	assert_int_equal(pending_pages(), FILLED * GUEST_VCPUS);
	assert_int_equal(guest_stats(&guest).entries, FILLED * GUEST_VCPUS);
}

static atomic_bool published;

static void *harvest_and_look(void *unused)
{
	assert_int_equal(dl_harvest(guest.log, 0, NULL), 0);
	return (void *)(intptr_t)atomic_load(&published);
}

/* All of a drain but its end. */
static void begin_drain(struct dli_ring *ring)
{
	/* Not waited for, as another is held already. */
	assert_true(dli_ring_trylock(ring));
	dli_ring_copy(ring);
	assert_int_equal(dli_reset_begin(reset()), 0);
	assert_true(dli_ring_release(ring, reset()));
	assert_true(dli_reset_rings(reset()) > 0);
	assert_true(dli_ring_verify(ring, reset(), false));
	dli_reset_end(reset());
}

static void end_drain(struct dli_ring *ring)
{
	dli_ring_publish(ring, dli_publish, guest.log);
	dli_ring_unlock(ring);
}

/* What drains have was in their rings when the harvest began. */
static void expect_wait_for(int vcpu, int other)
{
	void *late;

	harvest();
	write_pages(vcpu, 10);
	write_pages(other, 10);
	write_pages(1, 20);
	atomic_store(&published, false);
	begin_drain(ring_of(vcpu));
	begin_drain(ring_of(other));
	assert_int_equal(pthread_create(&second, NULL, harvest_and_look, NULL), 0);
	/* It takes what it can get. Then it could return, if it did not wait. */
	while (atomic_load(&dli_ring_stats(ring_of(1))->new_pages) < 20)
		sched_yield();
	end_drain(ring_of(vcpu));
	for (int i = 0; i < 1000; i++)
		sched_yield();
	atomic_store(&published, true);
	end_drain(ring_of(other));
	assert_int_equal(pthread_join(second, &late), 0);
	assert_non_null(late);
	assert_int_equal(pending_pages(), 40);
}

static void a_harvest_waits_for_drains(void **state)
{
	expect_wait_for(0, GUEST_VCPUS - 1);
}

static void a_harvest_waits_for_drains_of_any_ring(void **state)
{
	expect_wait_for(3, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		drain_test(drains_that_meet_share_a_reset),
		drain_test(a_ring_that_somebody_has_or_that_is_out_of_step_is_not_quiet),
		drain_test(a_harvest_brings_every_ring_into_step),
		drain_test(parties_get_into_step_before_any_is_released),
		drain_test(a_shared_failure_is_everybodys),
		drain_test(one_with_nothing_is_not_told_of_a_failure),
		drain_test(a_ring_that_is_drained_is_not_quiet),
		drain_test(a_ring_that_is_harvested_is_not_quiet),
		drain_test(the_final_pass_looks_through_quiet_rings),
		drain_test(a_ring_that_owes_something_is_not_quiet),
		drain_test(quiet_rings_are_passed_over),
		drain_test(a_harvest_lets_go_of_what_it_has_done),
		drain_test(two_harvests_share_the_rings),
		drain_test(a_harvest_waits_for_drains),
		drain_test(a_harvest_waits_for_drains_of_any_ring),
	};

	return RUN_TESTS("drain", tests);
}
