/* SPDX-License-Identifier: MIT */
/* What is told of a ring to who does not hold its lock: how full it is, and how fast it fills. */
#include "cmocka_all.h"
#include "ring/drain.h"
#include "pages/publish.h"
#include "fake_rings.h"
#include "ring/ring_private.h"

#include <string.h>

enum { ENTRIES = 256, SOFT_LIMIT = 192 };

static struct fake_rings kernel;
static struct fake_ring *side;
static struct dli_reset reset_lock;
static struct dli_ring *ring;

struct dli_publish_result dli_publish(struct dli_slots *slots, const struct dli_dirty_word *words,
				      uint32_t n)
{
	return (struct dli_publish_result){ 0 };
}

static void begin(uint32_t entries)
{
	fake_rings_init(&kernel, entries, entries * 3 / 4, 0);
	side = &kernel.rings[0];
	memset(&reset_lock, 0, sizeof(reset_lock));
	assert_int_equal(dli_reset_init(&reset_lock, &kernel.fake.os, FAKE_VM_FD), 0);
}

static void open_ring(void)
{
	assert_int_equal(
		dli_ring_new(&kernel.fake.os, FAKE_VCPU_FD, kernel.entries, &reset_lock, &ring), 0);
}

static void end(void)
{
	dli_ring_free(ring);
	dli_reset_fini(&reset_lock);
	fake_rings_free(&kernel);
}

static int setup(void **state)
{
	begin(ENTRIES);
	open_ring();
	return 0;
}

static int teardown(void **state)
{
	end();
	return 0;
}

#define pace_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static void push(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		fake_ring_push(&kernel, side, 0, side->pushed);
}

static void drain(void)
{
	assert_int_equal(dli_drain_ring(ring, &reset_lock, NULL), 0);
}

static void expect_pace(uint32_t filled, uint64_t since)
{
	const struct dli_ring_pace pace = dli_ring_pace(ring);

	assert_int_equal(pace.filled, filled);
	assert_int_equal(pace.since, since);
}

/* With the beginning at every place, so that some runs go over the ring's end. */
static void what_is_in_the_ring_is_counted(void **state)
{
	uint64_t drained = 0;

	for (uint32_t n = 0; n <= SOFT_LIMIT; n++) {
		expect_pace(0, drained);
		push(n);
		drained += n;
		expect_pace(n, drained);
		drain();
	}
	push(ENTRIES);
	expect_pace(ENTRIES, drained + ENTRIES);
}

static void who_asks_for_what_is_recent_begins_anew(void **state)
{
	push(50);
	drain();
	push(7);
	expect_pace(7, 57);
	assert_int_equal(dli_ring_take_recent(ring), 50);
	expect_pace(7, 7);
	drain();
	assert_int_equal(dli_ring_take_recent(ring), 7);
	expect_pace(0, 0);
}

/* The cell at which it was before says nothing then. */
static void of_a_ring_that_is_out_of_step_nothing_is_known(void **state)
{
	push(ENTRIES + 10);
	drain();
	push(20);
	expect_pace(0, 0);
	drain();
	push(30);
	expect_pace(30, 50);
}

static void of_a_used_ring_nothing_is_known_at_first(void **state)
{
	end();
	begin(ENTRIES);
	push(20);
	open_ring();
	expect_pace(0, 0);
	drain();
	push(30);
	expect_pace(30, 50);
}

/*
 * What every kernel lets into a ring before it wants it emptied; the smallest ring is one of tests.
 */
static void the_room_is_what_every_kernel_lets_in(void **state)
{
	static const struct {
		uint32_t entries, room;
	} rings[] = {
		{ 64, 16 },    { 128, 64 },    { 256, 192 },   { 512, 448 },
		{ 1024, 448 }, { 2048, 1472 }, { 4096, 3520 }, { 65536, 64960 },
	};

	for (size_t i = 0; i < sizeof(rings) / sizeof(rings[0]); i++) {
		end();
		begin(rings[i].entries);
		open_ring();
		assert_int_equal(dli_ring_pace(ring).room, rings[i].room);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		pace_test(what_is_in_the_ring_is_counted),
		pace_test(who_asks_for_what_is_recent_begins_anew),
		pace_test(of_a_ring_that_is_out_of_step_nothing_is_known),
		pace_test(of_a_used_ring_nothing_is_known_at_first),
		pace_test(the_room_is_what_every_kernel_lets_in),
	};

	return RUN_TESTS("ring_pace", tests);
}
