/* SPDX-License-Identifier: MIT */
/* dli_ring_pace(): how full a ring is and how fast it fills, read without the ring's lock. */
#include "cmocka_all.h"
#include "ring/drain.h"
#include "pages/publish.h"
#include "fake_rings.h"
#include "ring/ring_private.h"

#include <string.h>

enum { ENTRIES = 256, SOFT_LIMIT = 192 };

static struct fake_rings kernel;
static struct fake_ring *kernel_ring;
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
	kernel_ring = &kernel.rings[0];
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
		fake_ring_push(&kernel, kernel_ring, 0, kernel_ring->pushed);
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

/* The runs begin at varying cells, so that some of them wrap. */
static void entries_in_the_ring_are_counted(void **state)
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

/* Whether a drain takes it or not, each entry counts once. */
static void the_total_changes_only_with_an_entry(void **state)
{
	push(50);
	assert_int_equal(dli_ring_pace(ring).total, 50);
	drain();
	assert_int_equal(dli_ring_pace(ring).total, 50);
	assert_int_equal(dli_ring_take_recent(ring), 50);
	push(1);
	assert_int_equal(dli_ring_pace(ring).total, 51);
}

static void dli_ring_take_recent_restarts_the_count(void **state)
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

/* The cell at the previous head says nothing then. */
static void a_desynced_ring_reports_no_pace(void **state)
{
	push(ENTRIES + 10);
	drain();
	push(20);
	expect_pace(0, 0);
	drain();
	push(30);
	expect_pace(30, 50);
}

static void a_used_ring_reports_no_pace_before_its_first_drain(void **state)
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

/* The entries that every kernel accepts before a full exit. Only tests use a ring of 64. */
static void room_is_what_every_kernel_accepts(void **state)
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
		pace_test(entries_in_the_ring_are_counted),
		pace_test(the_total_changes_only_with_an_entry),
		pace_test(dli_ring_take_recent_restarts_the_count),
		pace_test(a_desynced_ring_reports_no_pace),
		pace_test(a_used_ring_reports_no_pace_before_its_first_drain),
		pace_test(room_is_what_every_kernel_accepts),
	};

	return RUN_TESTS("ring_pace", tests);
}
