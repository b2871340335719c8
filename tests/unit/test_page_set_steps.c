/* SPDX-License-Identifier: MIT */
/*
 * A marker and a taker in every order of their steps; a step is an access to shared memory. The
 * page set is compiled in here, and its accesses first let the other side run as far as the
 * schedule says. All orders are sequentially consistent; a machine's reordering is tested by
 * test_page_set_threads.c.
 */
#include "cmocka_all.h"
#include "fake_os.h"
#include "../simulation/switch.h"

#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static void step(const _Atomic uint64_t *word);

static uint64_t stepped_or(_Atomic uint64_t *word, uint64_t bits)
{
	step(word);
	return atomic_fetch_or(word, bits);
}

static uint64_t stepped_and(_Atomic uint64_t *word, uint64_t bits)
{
	step(word);
	return atomic_fetch_and(word, bits);
}

static uint64_t stepped_exchange(_Atomic uint64_t *word, uint64_t bits)
{
	step(word);
	return atomic_exchange(word, bits);
}

static int64_t stepped_add(_Atomic int64_t *count, int64_t n)
{
	step(NULL);
	return atomic_fetch_add(count, n);
}

static uint64_t stepped_load(const _Atomic uint64_t *word)
{
	step(word);
	return atomic_load(word);
}

static int64_t stepped_load_signed(const _Atomic int64_t *count)
{
	step(NULL);
	return atomic_load(count);
}

static void stepped_store(_Atomic uint64_t *word, uint64_t bits)
{
	step(word);
	atomic_store(word, bits);
}

#undef atomic_fetch_or_explicit
#undef atomic_fetch_and_explicit
#undef atomic_exchange_explicit
#undef atomic_fetch_add_explicit
#undef atomic_load_explicit
#undef atomic_store_explicit
#define atomic_fetch_or_explicit(word, bits, order)  stepped_or(word, bits)
#define atomic_fetch_and_explicit(word, bits, order) stepped_and(word, bits)
#define atomic_exchange_explicit(word, bits, order)  stepped_exchange(word, bits)
#define atomic_store_explicit(word, bits, order)     stepped_store(word, bits)
#define atomic_fetch_add_explicit(count, n, order)   stepped_add(count, n)
/* clang-format off */
#define atomic_load_explicit(word, order) \
	_Generic((word), _Atomic uint64_t *: stepped_load, const _Atomic uint64_t *: stepped_load, \
		 default: stepped_load_signed)(word)
/* clang-format on */

#include "pages/page_set.c"
#include "pages/page_set_take.c"

enum {
	MID_PAGES = BLOCK_WORDS * 64 * 64,
	TOP_PAGES = MID_PAGES * 64,
	/* In the second word of the top summary: its index is not that of the first. */
	FIRST = TOP_PAGES,
	PAGES = FIRST + 70000,
	PAGE = FIRST + 4164,
	MARKER_STEPS = 5
};

static struct fake_os fake;
static struct dli_page_set *set;
static struct dli_batch batch;

/* The marker is a coroutine: half a million hand-overs between threads would take a minute. */
static struct {
	struct sim_context taker, marker;
	bool in_marker, is_done;
} turns;

static enum { NOBODY, TAKER } watched; /* whose steps the schedule counts */
static unsigned int taker_steps;       /* so far */
static unsigned int
	schedule[MARKER_STEPS]; /* the marker's n-th step precedes this step of the taker */
static unsigned int next_marker_step;

static uint32_t memory, copy;
static void (*mark)(void);

enum { EARLY_PAGE = 7, LATE_PAGE = 2 * PAGE_SET_CHUNK_PAGES + 5 };
static unsigned int steps_to_early; /* until EARLY_PAGE is marked, by a marker that is quick */

static void run_marker(void)
{
	turns.in_marker = true;
	sim_context_switch(&turns.taker, &turns.marker);
}

static void leave_marker(void)
{
	turns.in_marker = false;
	sim_context_switch(&turns.marker, &turns.taker);
}

/* Lets the marker make one step and stop before its next one. */
static void let_marker_step(void)
{
	if (!turns.is_done)
		run_marker();
	next_marker_step++;
}

/* Whether both sides access the word: a word of the pending map that concerns the page. */
static bool is_shared(const _Atomic uint64_t *word)
{
	return word == leaf_of(&set->pending, PAGE / 64) ||
	       word == &set->pending.mid[PAGE / MID_PAGES] ||
	       word == &set->pending.top[PAGE / TOP_PAGES];
}

static void step(const _Atomic uint64_t *word)
{
	if (steps_to_early && !--steps_to_early)
		dli_page_set_mark_word(set, EARLY_PAGE / 64, UINT64_C(1) << EARLY_PAGE % 64);
	if (!is_shared(word))
		return;
	if (turns.in_marker) {
		leave_marker();
		return;
	}
	if (watched != TAKER)
		return;
	while (next_marker_step < MARKER_STEPS && schedule[next_marker_step] <= taker_steps)
		let_marker_step();
	taker_steps++;
}

static void marker_main(void)
{
	for (;;) {
		mark();
		turns.is_done = true;
		leave_marker();
	}
}

/* Runs it up to its first step, where it waits. */
static void start_marker(void)
{
	next_marker_step = 0;
	turns.is_done = false;
	run_marker();
}

static void finish_marker(void)
{
	while (!turns.is_done)
		let_marker_step();
}

static void mark_a_word(void)
{
	dli_page_set_mark_word(set, PAGE / 64, UINT64_C(1) << PAGE % 64);
}

/* Marks another word of the block first, which the taker does not contend for. */
static void mark_a_batch(void)
{
	static const struct dli_batch marked = {
		.n = 2,
		.word = { PAGE / 64 - 1, PAGE / 64 },
		.bits = { 1, UINT64_C(1) << PAGE % 64 },
	};

	dli_page_set_mark_batch(set, &marked);
}

static void mark_a_range(void)
{
	uint64_t word = PAGE / 64;

	mark_in_block(&set->pending, word, word + 1, PAGE, PAGE + 1);
}

/* Takes all pending pages, and reads the memory if the page is among them. */
static void take_all(void)
{
	for (uint64_t at = 0; dli_page_set_take(set, &at, false, &batch);)
		for (uint32_t i = 0; i < batch.n; i++)
			if (batch.word[i] == PAGE / 64 && batch.bits[i] >> PAGE % 64 & 1)
				copy = memory;
}

/* Initially pending: nothing, the page, or a page of its word, its mid word or its chunk. */
static const uint64_t before[] = { PAGES, PAGE, PAGE + 1, PAGE + 70, PAGE + 4096, FIRST };
enum { ALL_BEFORE = sizeof(before) / sizeof(before[0]) };

static void run_schedule(uint64_t pending)
{
	dli_page_set_clear(set);
	if (pending < PAGES)
		dli_page_set_mark_range(set, pending, 1);
	memory = copy = 0;
	taker_steps = 0;
	/* The memory is written before the mark; reads from here on see the new value. */
	memory = 1;
	start_marker();
	watched = TAKER;
	take_all();
	watched = NOBODY;
	finish_marker();
	take_all();
}

static void expect_page(uint64_t pending)
{
	if (copy != memory)
		fail_msg("a mark is lost: pending %lu, marker's steps before %u, %u, %u, %u, %u",
			 (unsigned long)pending, schedule[0], schedule[1], schedule[2], schedule[3],
			 schedule[4]);
}

/*
 * The next schedule; the first is all zero. All places after the taker's last step are equivalent.
 * False if all were tried.
 */
static bool next_schedule(void)
{
	for (unsigned int i = MARKER_STEPS; i--;) {
		if (schedule[i] > taker_steps)
			continue;
		schedule[i]++;
		for (unsigned int rest = i + 1; rest < MARKER_STEPS; rest++)
			schedule[rest] = schedule[i];
		return true;
	}
	return false;
}

static unsigned int try_schedules(uint64_t pending)
{
	unsigned int tried = 0;

	memset(schedule, 0, sizeof(schedule));
	do {
		run_schedule(pending);
		expect_page(pending);
		tried++;
	} while (next_schedule());
	return tried;
}

/* With every initial state. */
static void try_all(void (*how)(void))
{
	unsigned int tried = 0;

	mark = how;
	for (size_t i = 0; i < ALL_BEFORE; i++)
		tried += try_schedules(before[i]);
	assert_true(tried > 500);
}

static int setup(void **state)
{
	fake_os_init(&fake);
	return dli_page_set_new(&fake.os, PAGES, &set);
}

static int teardown(void **state)
{
	dli_page_set_free(set);
	return 0;
}

static void a_word_is_marked_in_every_order(void **state)
{
	try_all(mark_a_word);
}

static void a_batch_is_marked_in_every_order(void **state)
{
	try_all(mark_a_batch);
}

static void a_range_is_marked_in_every_order(void **state)
{
	try_all(mark_a_range);
}

/*
 * Another marker has half marked the page: it has set the leaf bit, but no summary yet. A second
 * mark finds the page already marked; once it returns, a taker must still find the page.
 */
static void a_mark_does_not_rely_on_another_unfinished_mark(void **state)
{
	mark = mark_a_word;
	memory = copy = 0;
	start_marker();
	let_marker_step();
	memory = 1;
	mark_a_word();
	take_all();
	finish_marker();
	assert_int_equal(copy, memory);
}

/* Buffers that a batch of one chunk goes through are a chunk long. */
static void expect_one_chunk(void)
{
	assert_int_equal(batch.word[0] / PAGE_SET_CHUNK_WORDS,
			 batch.word[batch.n - 1] / PAGE_SET_CHUNK_WORDS);
}

static uint32_t extract_all(void)
{
	uint64_t block = 0;
	uint32_t words = 0;

	while (dli_page_set_extract(set, &block, true, &batch)) {
		expect_one_chunk();
		words += batch.n;
	}
	return words;
}

static void a_mark_in_an_earlier_chunk_does_not_widen_a_batch(void **state)
{
	unsigned int tried = 0;
	bool marked;

	do {
		uint32_t words;

		dli_page_set_clear(set);
		dli_page_set_mark_range(set, LATE_PAGE, 1);
		steps_to_early = ++tried;
		words = extract_all();
		marked = !steps_to_early;
		steps_to_early = 0;
		assert_int_equal(words + extract_all(), marked ? 2 : 1);
	} while (marked);
	assert_true(tried > 20);
}

int main(void)
{
	static _Alignas(64) char stack[1 << 16];
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_word_is_marked_in_every_order, setup, teardown),
		cmocka_unit_test_setup_teardown(a_mark_does_not_rely_on_another_unfinished_mark,
						setup, teardown),
		cmocka_unit_test_setup_teardown(a_batch_is_marked_in_every_order, setup, teardown),
		cmocka_unit_test_setup_teardown(a_range_is_marked_in_every_order, setup, teardown),
		cmocka_unit_test_setup_teardown(a_mark_in_an_earlier_chunk_does_not_widen_a_batch,
						setup, teardown),
	};

	sim_context_make(&turns.marker, stack, sizeof(stack), marker_main);
	return RUN_TESTS("page_set, step by step", tests);
}
