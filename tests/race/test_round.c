/* SPDX-License-Identifier: MIT */
/*
 * Litmus test of ring_barrier(): a cell is released at the moment at which an overflowing kernel
 * laps the ring and writes it. Even on x86 a store can be delayed past the next load, so without
 * the barrier the kernel's entry is released unread, unnoticed. Seeing that takes two processors
 * that run at the same time; ThreadSanitizer cannot report it.
 */
#include "cmocka_all.h"
#include "random.h"
#include "ring/ring_private.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum {
	ENTRIES = 64,
	HEAD = 32,
	BEFORE = HEAD - 1, /* in a different cache line */
	BALLAST_LINES = 64,
	LINE_WORDS = 16,
	SPINS = 800,
};

static unsigned int rounds = 10000;

static struct {
	_Alignas(128) atomic_uint started;
	_Alignas(128) atomic_uint ended; /* both in rounds */
	/* Stores to it wait for the other's cache, and delay the store to the cell that follows. */
	_Alignas(128) _Atomic uint32_t ballast[BALLAST_LINES][LINE_WORDS];
	_Alignas(128) struct kvm_dirty_gfn cells[ENTRIES];
} shared;

static struct dli_dirty_word words[ENTRIES];

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

static void store_ballast(uint32_t value)
{
	for (int i = 0; i < BALLAST_LINES; i++)
		atomic_store_explicit(&shared.ballast[i][0], value, memory_order_relaxed);
}

static void push(unsigned int index)
{
	__atomic_store_n(&shared.cells[index].flags, CELL_DIRTY, __ATOMIC_RELEASE);
}

static void *overflow(void *unused)
{
	struct random random = { .state = 12 };

	for (unsigned int round = 1; round <= rounds; round++) {
		store_ballast(0);
		wait_for(&shared.started, round);
		spin(random_below(&random, SPINS));
		push(BEFORE);
		push(HEAD);
		atomic_store_explicit(&shared.ended, round, memory_order_release);
	}
	return NULL;
}

/* One entry that was copied, in the cell after a clean one. */
static void prepare(struct dli_ring *ring, struct dli_reset *reset)
{
	memset(shared.cells, 0, sizeof(shared.cells));
	shared.cells[HEAD].flags = CELL_DIRTY;
	*ring = (struct dli_ring){ .cells = shared.cells,
				   .entries = ENTRIES,
				   .head = HEAD,
				   .copied = 1,
				   .words = words,
				   .reset = reset };
}

static void an_entry_is_not_released_unread(void **state)
{
	struct random random = { .state = 13 };
	struct dli_reset reset = { .vm_fd = -1 };
	unsigned int noticed = 0, later = 0;
	struct dli_ring ring;
	pthread_t kernel;

	assert_int_equal(pthread_create(&kernel, NULL, overflow, NULL), 0);
	for (unsigned int round = 1; round <= rounds; round++) {
		bool released;

		prepare(&ring, &reset);
		atomic_store_explicit(&shared.started, round, memory_order_release);
		spin(random_below(&random, SPINS));
		store_ballast(round);
		released = dli_ring_release(&ring, &reset);
		wait_for(&shared.ended, round);
		noticed += !released;
		/* The kernel's store came last: the next drain will find it. */
		later += released && cell_load(cell_at(&ring, HEAD)) == CELL_DIRTY;
		if (released && cell_load(cell_at(&ring, HEAD)) == CELL_RESET)
			fail_msg("round %u: the kernel's entry was released unread", round);
	}
	pthread_join(kernel, NULL);
	print_message("%u rounds: %u noticed the entry, %u found it later\n", rounds, noticed,
		      later);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_entry_is_not_released_unread),
	};

	if (argc > 1 && !strcmp(argv[1], "--long"))
		rounds = 2000000;
	return RUN_TESTS("races: the kernel laps the ring", tests);
}
