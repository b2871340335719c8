/* SPDX-License-Identifier: MIT */
/* dl_plan_next(): what a look at the migration takes into account. */
#include "cmocka_all.h"
#include "guest.h"

enum { PAGES = 8192, PAGE = 4096, MILLISECOND = 1000000, ENTRIES = 1024 };

static struct guest guest;
static struct guest_vcpu *writer;
static struct dl_plan *plan;
static struct dl_advice advice;

static int setup(void **state)
{
	const struct guest_config config = {
		.model = { .virtual_clock = true },
		.options = { .mode = DL_MODE_RING, .ring_entries = ENTRIES },
	};

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	writer = guest_vcpu(&guest, true);
	(void)guest_vcpu(&guest, true);
	guest_join(&guest, 0);
	assert_int_equal(dl_plan_new(guest.cursor, NULL, &plan), 0);
	advice = (struct dl_advice){ .size = sizeof(advice) };
	return 0;
}

static int teardown(void **state)
{
	dl_plan_free(plan);
	guest_leave(&guest);
	guest_close(&guest);
	return 0;
}

static uint32_t look(void)
{
	model_advance(guest.model, 100 * MILLISECOND);
	assert_int_equal(dl_plan_next(plan, 0, &advice), 0);
	return advice.verdict;
}

static void take_all(void)
{
	uint64_t words[PAGES / 64] = { 0 };

	assert_int_equal(dl_cursor_take(guest.cursor, 0, 0, words, PAGES / 64, NULL), 0);
}

static void sent(uint64_t pages, uint64_t ms)
{
	assert_int_equal(dl_plan_sent(plan, pages * PAGE, ms * MILLISECOND), 0);
}

static void several_channels_are_one_wire(void **state)
{
	model_advance(guest.model, 100 * MILLISECOND);
	for (int channel = 0; channel < 4; channel++)
		sent(250, 100);
	assert_int_equal(dl_plan_next(plan, 0, &advice), 0);
	assert_int_equal(advice.wire_bytes_per_s, 10000 * PAGE);
}

/* As SMM's address space does: each page is sent once, and is no reason to wait for a switch. */
static void memory_that_two_slots_map_is_pending_once(void **state)
{
	struct dl_slot alias = guest_slot(&guest, 1 << 16, 0, &guest.blocks[0], 0, PAGES);

	assert_int_equal(dl_slot_set(guest.log, &alias), 0);
	look();
	assert_int_equal(advice.pending_bytes, PAGES * PAGE);
	take_all();
	look();
	assert_int_equal(advice.pending_bytes, 0);
	for (uint32_t as_id = 0; as_id < 2; as_id++)
		for (uint64_t page = 0; page < 100; page++)
			assert_int_equal(guest_write(&guest, writer, as_id, page), 0);
	look();
	assert_int_equal(advice.pending_bytes, 100 * PAGE);
}

/* Otherwise a wire of 5000 pages a second seems to take 25,000. */
static void a_piece_may_take_longer_than_a_look(void **state)
{
	for (int i = 1; i <= 20; i++) {
		if (i % 5 == 0)
			sent(2500, 500);
		look();
	}
	assert_int_equal(advice.wire_bytes_per_s, 5000 * PAGE);
}

/* The paused harvest repairs, and then all memory is to be sent. */
static void after_an_overflow_everything_is_pending(void **state)
{
	take_all();
	sent(1000, 100);
	assert_int_equal(look(), DL_VERDICT_SWITCHOVER);
	for (uint64_t page = 0; page < ENTRIES + 40; page++)
		assert_int_equal(model_vcpu_write_unchecked(guest.model, writer->fd, 0, page * PAGE,
							    NULL, 8),
				 0);
	assert_int_not_equal(look(), DL_VERDICT_SWITCHOVER);
	assert_int_equal(advice.pending_bytes, PAGES * PAGE);
	assert_int_equal(guest_stats(&guest).repairs, 1);
}

/* It writes forty times what the wire takes. */
static void write_fast(uint32_t looks)
{
	for (uint64_t i = 0; i < looks * UINT64_C(20); i++) {
		for (uint64_t page = 0; page < 400; page++)
			assert_int_equal(guest_write(&guest, writer, 0, (i * 400 + page) % PAGES),
					 0);
		take_all();
		model_advance(guest.model, 5 * MILLISECOND);
		if (i % 20 == 19) {
			sent(200, 100);
			assert_int_equal(dl_plan_next(plan, PAGES * PAGE, &advice), 0);
		}
	}
}

static void a_removed_vcpu_dirties_nothing(void **state)
{
	take_all();
	write_fast(30);
	assert_int_equal(advice.limited_vcpus, 1);
	dl_vcpu_remove(writer->handle);
	writer->handle = NULL;
	assert_int_equal(dl_plan_next(plan, PAGES * PAGE, &advice), 0);
	assert_int_equal(advice.limited_vcpus, 0);
}

static void add_to_plan(uint32_t slot, const struct guest_block *block, uint64_t pages)
{
	const struct dl_slot another = guest_slot(&guest, slot, slot * PAGES, block, 0, pages);

	dl_plan_free(plan);
	assert_int_equal(dl_slot_set(guest.log, &another), 0);
	assert_int_equal(dl_plan_new(guest.cursor, NULL, &plan), 0);
}

static void a_slot_that_leaves_is_not_of_the_first_pass(void **state)
{
	const uint64_t pages = 128;

	add_to_plan(1, guest_memory(&guest, pages), pages);
	take_all();
	sent(1000, 100);
	assert_int_equal(look(), DL_VERDICT_CONTINUE);
	assert_int_equal(advice.pending_bytes, pages * PAGE);
	assert_int_equal(dl_slot_remove(guest.log, 1, 0, NULL, 0), 0);
	assert_int_equal(look(), DL_VERDICT_SWITCHOVER);
}

static void memory_that_two_slots_map_is_sent_once(void **state)
{
	uint64_t words[PAGES / 64] = { 0 };

	add_to_plan(1, &guest.blocks[0], PAGES);
	take_all();
	sent(1000, 100);
	assert_int_equal(dl_cursor_take(guest.cursor, 1, 0, words, PAGES / 64, NULL), 0);
	assert_int_equal(look(), DL_VERDICT_SWITCHOVER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define look_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		look_test(several_channels_are_one_wire),
		look_test(a_piece_may_take_longer_than_a_look),
		look_test(memory_that_two_slots_map_is_pending_once),
		look_test(after_an_overflow_everything_is_pending),
		look_test(a_removed_vcpu_dirties_nothing),
		look_test(a_slot_that_leaves_is_not_of_the_first_pass),
		look_test(memory_that_two_slots_map_is_sent_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
