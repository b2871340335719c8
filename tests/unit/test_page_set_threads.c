/* SPDX-License-Identifier: MIT */
/* Markers run beside a taker and acknowledgers: no mark is lost, and no count drifts. */
#include "cmocka_all.h"
#include "fake_os.h"
#include "pages/page_set.h"
#include "random.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
	PAGES = 70000, /* three chunks, so that summaries are emptied and filled all the time */
	MARKERS = 3,
	ROUNDS = 60000,
	QUEUE = 256,
};

static struct {
	struct dli_page_set *set;
	/* The contents of each page, and those that the taker has read. */
	_Atomic uint32_t memory[PAGES];
	uint32_t copy[PAGES];
	atomic_uint markers_left;
	struct dli_batch batch;
	/* Batches that are still to be acknowledged. */
	struct dli_batch queue[QUEUE];
	atomic_uint put, got;
	atomic_bool over;
} shared;

static struct fake_os fake;

/* Few pages in the same words, so that marks collide. */
static uint64_t page_of(struct random *random)
{
	return random_below(random, 8) * 8750 + random_below(random, 96);
}

static void write_page(uint64_t page)
{
	atomic_fetch_add_explicit(&shared.memory[page], 1, memory_order_relaxed);
}

/* Writes the memory first, then marks it. */
static void *mark(void *seed)
{
	struct random random = { .state = (uintptr_t)seed };

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t page = page_of(&random);

		write_page(page);
		if (i % 4) {
			dli_page_set_count(shared.set,
					   dli_page_set_mark_word(shared.set, page / 64,
								  UINT64_C(1) << page % 64));
		} else {
			write_page(page + 1);
			dli_page_set_mark_range(shared.set, page, 2);
		}
	}
	atomic_fetch_sub(&shared.markers_left, 1);
	return NULL;
}

static bool ack_pages(uint64_t first_page, uint64_t pages)
{
	uint64_t gone = 0;
	bool taken = dli_page_set_ack(shared.set, first_page, pages, &gone);

	dli_page_set_count_acked(shared.set, gone);
	return taken;
}

static void copy_batch(const struct dli_batch *batch)
{
	for (uint32_t i = 0; i < batch->n; i++) {
		for (uint64_t bits = batch->bits[i]; bits; bits &= bits - 1) {
			uint64_t page =
				batch->word[i] * UINT64_C(64) + (uint64_t)__builtin_ctzll(bits);

			shared.copy[page] =
				atomic_load_explicit(&shared.memory[page], memory_order_relaxed);
		}
	}
}

static void ack_batch(const struct dli_batch *batch)
{
	for (uint32_t i = 0; i < batch->n; i++) {
		for (uint64_t bits = batch->bits[i]; bits; bits &= bits - 1) {
			uint64_t page =
				batch->word[i] * UINT64_C(64) + (uint64_t)__builtin_ctzll(bits);

			if (!ack_pages(page, 1))
				abort();
		}
	}
}

static void *acknowledge(void *unused)
{
	unsigned int got = 0;

	for (;;) {
		bool over = atomic_load(&shared.over);

		if (got == atomic_load_explicit(&shared.put, memory_order_acquire)) {
			if (over)
				return NULL;
			sched_yield();
			continue;
		}
		ack_batch(&shared.queue[got % QUEUE]);
		atomic_store_explicit(&shared.got, ++got, memory_order_release);
	}
}

/* One pass over the set. Batches go to the acknowledger, are unclaimed, or await a requeue. */
static void pass(struct random *random, bool requeue)
{
	bool one_chunk = random_below(random, 2);

	for (uint64_t at = 0; dli_page_set_take(shared.set, &at, one_chunk, &shared.batch);) {
		unsigned int put = atomic_load(&shared.put);

		copy_batch(&shared.batch);
		if (requeue)
			continue;
		if (!random_below(random, 8)) {
			dli_page_set_unclaim(shared.set, &shared.batch);
			continue;
		}
		shared.queue[put % QUEUE] = shared.batch;
		atomic_store_explicit(&shared.put, put + 1, memory_order_release);
	}
	/* An iteration ends once all its batches are acknowledged. */
	while (atomic_load_explicit(&shared.got, memory_order_acquire) != atomic_load(&shared.put))
		sched_yield();
	if (requeue)
		dli_page_set_requeue(shared.set);
}

static void no_mark_is_lost(void **state)
{
	pthread_t markers[MARKERS], acknowledger;
	struct random random = { .state = 77 };

	fake_os_init(&fake);
	assert_int_equal(dli_page_set_new(&fake.os, PAGES, &shared.set), 0);
	atomic_store(&shared.markers_left, MARKERS);
	pthread_create(&acknowledger, NULL, acknowledge, NULL);
	for (uintptr_t i = 0; i < MARKERS; i++)
		pthread_create(&markers[i], NULL, mark, (void *)(i * 1299709 + 1));
	while (atomic_load(&shared.markers_left))
		pass(&random, !random_below(&random, 3));
	for (int i = 0; i < MARKERS; i++)
		pthread_join(markers[i], NULL);
	while (dli_page_set_pending_pages(shared.set))
		pass(&random, false);
	atomic_store(&shared.over, true);
	pthread_join(acknowledger, NULL);

	for (uint64_t page = 0; page < PAGES; page++)
		if (shared.copy[page] != atomic_load(&shared.memory[page]))
			fail_msg("page %lu: a mark was lost", (unsigned long)page);
	assert_int_equal(dli_page_set_pending_pages(shared.set), 0);
	assert_int_equal(dli_page_set_in_flight_pages(shared.set), 0);
	dli_page_set_free(shared.set);
}

/* Pages set by one thread and taken by another: none twice in a pass, none forgotten. */
static void *mark_all(void *unused)
{
	for (uint64_t first = 0; first < PAGES; first += 7) {
		write_page(first);
		dli_page_set_mark_range(shared.set, first, first + 7 <= PAGES ? 7 : PAGES - first);
	}
	atomic_fetch_sub(&shared.markers_left, 1);
	return NULL;
}

static void counts_are_exact_once_all_threads_are_done(void **state)
{
	struct dli_batch *batch = &shared.batch;
	pthread_t marker;
	uint64_t taken = 0;
	bool over;

	fake_os_init(&fake);
	assert_int_equal(dli_page_set_new(&fake.os, PAGES, &shared.set), 0);
	atomic_store(&shared.markers_left, 1);
	pthread_create(&marker, NULL, mark_all, NULL);
	do {
		over = !atomic_load(&shared.markers_left);
		for (uint64_t at = 0; dli_page_set_take(shared.set, &at, false, batch);)
			for (uint32_t i = 0; i < batch->n; i++)
				taken += (uint64_t)__builtin_popcountll(batch->bits[i]);
	} while (!over);
	pthread_join(marker, NULL);
	assert_int_equal(taken, PAGES);
	assert_int_equal(dli_page_set_pending_pages(shared.set), 0);
	assert_int_equal(dli_page_set_in_flight_pages(shared.set), PAGES);
	assert_true(ack_pages(0, PAGES));
	assert_int_equal(dli_page_set_in_flight_pages(shared.set), 0);
	dli_page_set_free(shared.set);
}

/* Both sides spin less than SPINS, found by trial: a faulty set loses about 1 round in 40,000. */
enum { LITMUS_PAGE = 4100, BALLAST_LINES = 64, LINE_WORDS = 16, SPINS = 800 };

static unsigned int litmus_rounds = 20000;

static struct {
	atomic_uint started, ended; /* rounds */
	_Alignas(128) _Atomic uint32_t memory;
	/* Stores to it that wait for the other's cache line delay the store to memory. */
	_Alignas(128) _Atomic uint32_t ballast[BALLAST_LINES][LINE_WORDS];
} litmus;

static void store_ballast(uint32_t value)
{
	for (int i = 0; i < BALLAST_LINES; i++)
		atomic_store_explicit(&litmus.ballast[i][0], value, memory_order_relaxed);
}

static void wait_for(atomic_uint *counter, unsigned int round)
{
	unsigned int spins = 0;

	while (atomic_load_explicit(counter, memory_order_acquire) < round)
		if (++spins % 4096 == 0)
			sched_yield();
}

static void spin(uint64_t n)
{
	for (volatile uint64_t i = 0; i < n; i++)
		;
}

/* A plain store, as a VMM makes it, then the mark, with nothing else in between. */
static void *write_and_mark(void *unused)
{
	struct random random = { .state = 12 };

	for (unsigned int round = 1; round <= litmus_rounds; round++) {
		wait_for(&litmus.started, round);
		spin(random_below(&random, SPINS));
		store_ballast(round);
		atomic_store_explicit(&litmus.memory, round, memory_order_relaxed);
		dli_page_set_count(shared.set,
				   dli_page_set_mark_word(shared.set, LITMUS_PAGE / 64,
							  UINT64_C(1) << LITMUS_PAGE % 64));
		atomic_store_explicit(&litmus.ended, round, memory_order_release);
	}
	return NULL;
}

static bool take_litmus(uint32_t *copy)
{
	uint64_t at = 0;

	if (!dli_page_set_take(shared.set, &at, false, &shared.batch))
		return false;
	*copy = atomic_load_explicit(&litmus.memory, memory_order_relaxed);
	return ack_pages(LITMUS_PAGE, 1);
}

/*
 * The page is already pending when it is written and marked again, and is taken at that moment. If
 * the mark only tested whether it is needed, the taker could read the memory before the write.
 */
static void marking_a_pending_page_still_orders_the_write(void **state)
{
	struct random random = { .state = 13 };
	pthread_t marker;

	fake_os_init(&fake);
	assert_int_equal(dli_page_set_new(&fake.os, PAGES, &shared.set), 0);
	pthread_create(&marker, NULL, write_and_mark, NULL);
	for (unsigned int round = 1; round <= litmus_rounds; round++) {
		uint32_t copy = 0;

		dli_page_set_mark_range(shared.set, LITMUS_PAGE, 1);
		store_ballast(0);
		atomic_store_explicit(&litmus.started, round, memory_order_release);
		spin(random_below(&random, SPINS));
		take_litmus(&copy);
		wait_for(&litmus.ended, round);
		take_litmus(&copy);
		if (copy != round)
			fail_msg("round %u: expected a copy of this round, got one of round %u",
				 round, copy);
	}
	pthread_join(marker, NULL);
	assert_int_equal(dli_page_set_pending_pages(shared.set), 0);
	dli_page_set_free(shared.set);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_mark_is_lost),
		cmocka_unit_test(marking_a_pending_page_still_orders_the_write),
		cmocka_unit_test(counts_are_exact_once_all_threads_are_done),
	};

	if (argc > 1 && !strcmp(argv[1], "--long"))
		litmus_rounds = 1000000;
	return RUN_TESTS("page_set, threads", tests);
}
