/* SPDX-License-Identifier: MIT */
/* Pages that leave a page set, and pages that come in flight without being marked. */
#include "cmocka_all.h"
#include "fake_os.h"
#include "pages/page_set.h"

#include <string.h>

enum { PAGES = PAGE_SET_CHUNK_PAGES + 1000, WORDS = (PAGES + 63) / 64 };

static struct fake_os fake;
static struct dli_page_set *set;
static struct dli_batch batch;
static uint64_t words[WORDS + 1];

static int setup(void **state)
{
	fake_os_init(&fake);
	memset(words, 0, sizeof(words));
	return dli_page_set_new(&fake.os, PAGES, &set);
}

static int teardown(void **state)
{
	dli_page_set_free(set);
	return fake.maps_live ? -1 : 0;
}

#define moves_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static void expect_counts(uint64_t pending, uint64_t in_flight)
{
	assert_int_equal(dli_page_set_pending_pages(set), pending);
	assert_int_equal(dli_page_set_in_flight_pages(set), in_flight);
}

/* Takes everything that is pending. */
static void take_all(void)
{
	uint64_t block = 0;

	while (dli_page_set_take(set, &block, false, &batch))
		;
}

static void extracted_pages_are_in_no_state(void **state)
{
	uint64_t block = 0;

	dli_page_set_mark_range(set, 60, 10);
	assert_true(dli_page_set_extract(set, &block, false, &batch));
	assert_int_equal(batch.n, 2);
	assert_int_equal(batch.word[0], 0);
	assert_true(batch.bits[0] == UINT64_C(15) << 60);
	assert_int_equal(batch.word[1], 1);
	assert_int_equal(batch.bits[1], 63);
	expect_counts(0, 0);
	assert_false(dli_page_set_in_flight(set, 60, 1));
	assert_false(dli_page_set_extract(set, &block, false, &batch));
	block = 0;
	assert_false(dli_page_set_take(set, &block, false, &batch));
}

static void pages_in_flight_are_not_extracted(void **state)
{
	uint64_t block = 0;

	dli_page_set_mark_range(set, 60, 10);
	take_all();
	dli_page_set_mark_range(set, 62, 1);
	assert_true(dli_page_set_extract(set, &block, false, &batch));
	assert_int_equal(batch.n, 1);
	assert_true(batch.bits[0] == UINT64_C(1) << 62);
	expect_counts(0, 10);
	assert_true(dli_page_set_in_flight(set, 60, 10));
}

static void an_extract_of_a_chunk_stays_in_it(void **state)
{
	uint64_t block = 0;

	dli_page_set_mark_range(set, PAGE_SET_CHUNK_PAGES - 64, 128);
	assert_true(dli_page_set_extract(set, &block, true, &batch));
	assert_int_equal(batch.n, 1);
	assert_int_equal(batch.word[0], PAGE_SET_CHUNK_WORDS - 1);
	expect_counts(64, 0);
	assert_true(dli_page_set_extract(set, &block, true, &batch));
	assert_int_equal(batch.word[0], PAGE_SET_CHUNK_WORDS);
	expect_counts(0, 0);
}

static void an_extracted_batch_can_be_put_back(void **state)
{
	uint64_t block = 0;

	dli_page_set_mark_range(set, 60, 10);
	assert_true(dli_page_set_extract(set, &block, false, &batch));
	dli_page_set_mark_range(set, 60, 1);
	assert_int_equal(dli_page_set_mark_batch(set, &batch), 9);
	expect_counts(10, 0);
}

/* The result is that of marking beside other markers. */
static void a_lone_marker_counts_only_new_pages(void **state)
{
	uint64_t block = 0;

	dli_page_set_mark_range(set, 60, 10);
	dli_page_set_mark_range(set, PAGES - 1, 1);
	assert_true(dli_page_set_extract(set, &block, false, &batch));
	dli_page_set_mark_range(set, 61, 2);
	dli_page_set_mark_range(set, 3, 1);
	dli_page_set_mark_alone(set, &batch);
	expect_counts(12, 0);
	dli_page_set_mark_alone(set, &batch);
	expect_counts(12, 0);
	/* Through the summaries, which it must have set. */
	take_all();
	expect_counts(0, 12);
	assert_true(dli_page_set_in_flight(set, 3, 1));
	assert_true(dli_page_set_in_flight(set, 60, 10));
	assert_true(dli_page_set_in_flight(set, PAGES - 1, 1));
}

/* Every page of n words is pending but one, of word k: the lone marker has only that to mark. */
static void mark_the_only_new_page(uint32_t n, uint32_t k)
{
	uint64_t page = 3 * 64 * k + 7;

	batch.n = n;
	for (uint32_t i = 0; i < n; i++) {
		batch.word[i] = 3 * i;
		batch.bits[i] = 0x81;
		dli_page_set_mark_and_count(set, 3 * i, i == k ? 1 : 0x81);
	}
	dli_page_set_mark_alone(set, &batch);
	expect_counts(2 * n, 0);
	take_all();
	assert_true(dli_page_set_in_flight(set, page, 1));
	dli_page_set_commit(set);
}

static void a_lone_marker_finds_the_only_new_page(void **state)
{
	for (uint32_t n = 1; n <= 41; n++)
		for (uint32_t k = 0; k < n; k++)
			mark_the_only_new_page(n, k);
}

/* They are new, so none of them counts as marked again. */
static void a_lone_marker_marks_a_batch_that_is_all_new(void **state)
{
	assert_int_equal(dli_page_set_watch(set), 0);
	for (uint32_t n = 1; n <= 41; n++) {
		batch.n = n;
		for (uint32_t i = 0; i < n; i++) {
			batch.word[i] = 3 * i;
			batch.bits[i] = 0x81;
		}
		dli_page_set_mark_alone(set, &batch);
		expect_counts(2 * n, 0);
		assert_true(dli_page_set_take(set, &(uint64_t){ 0 }, false, &batch));
		dli_page_set_skip_rewritten(set, &batch);
		expect_counts(0, 2 * n);
		dli_page_set_commit(set);
	}
}

/* Only the second word's page is pending; the word behind the end is none of the batch's. */
static void a_lone_marker_notes_what_is_marked_again(void **state)
{
	assert_int_equal(dli_page_set_watch(set), 0);
	dli_page_set_mark_range(set, 2 * 64 + 1, 1);
	dli_page_set_mark_range(set, 9 * 64 + 1, 1);
	batch.n = 2;
	batch.word[0] = 1;
	batch.word[1] = 2;
	batch.word[2] = 9;
	batch.bits[0] = batch.bits[1] = batch.bits[2] = 2;
	dli_page_set_mark_alone(set, &batch);
	assert_true(dli_page_set_take(set, &(uint64_t){ 0 }, false, &batch));
	assert_int_equal(batch.n, 3);
	dli_page_set_skip_rewritten(set, &batch);
	assert_int_equal(batch.n, 2);
	assert_int_equal(batch.word[0], 1);
	assert_int_equal(batch.word[1], 9);
	expect_counts(1, 2);
}

static void a_page_alone_in_its_block_is_taken_from_any_word(void **state)
{
	for (uint32_t word = 0; word < 130; word++) {
		uint64_t block = 0;

		dli_page_set_mark_range(set, UINT64_C(64) * word + word % 64, 1);
		assert_true(dli_page_set_extract(set, &block, false, &batch));
		assert_int_equal(batch.n, 1);
		assert_int_equal(batch.word[0], word);
		assert_true(batch.bits[0] == UINT64_C(1) << word % 64);
		expect_counts(0, 0);
	}
}

static void the_words_of_a_block_are_taken_in_order(void **state)
{
	uint64_t block = 0;
	uint32_t n = 0;

	for (uint32_t word = 0; word < 128; word++)
		if (word * 7 % 5 < 2)
			dli_page_set_mark_range(set, UINT64_C(64) * word + word % 64, 1);
	assert_true(dli_page_set_extract(set, &block, false, &batch));
	for (uint32_t word = 0; word < 128; word++) {
		if (word * 7 % 5 >= 2)
			continue;
		assert_int_equal(batch.word[n], word);
		assert_true(batch.bits[n++] == UINT64_C(1) << word % 64);
	}
	assert_int_equal(batch.n, n);
}

static void pages_in_flight_are_found_in_any_word(void **state)
{
	dli_page_set_mark_range(set, 60, 200);
	take_all();
	assert_true(dli_page_set_in_flight(set, 60, 200));
	assert_true(dli_page_set_in_flight(set, 128, 64));
	assert_false(dli_page_set_in_flight(set, 59, 2));
	assert_false(dli_page_set_in_flight(set, 60, 201));
	/* The first and the last word do not decide it. */
	assert_true(dli_page_set_ack(set, 150, 1, &(uint64_t){ 0 }));
	assert_false(dli_page_set_in_flight(set, 60, 200));
}

static void padding_is_in_flight_and_not_pending(void **state)
{
	uint64_t acked = 0;

	dli_page_set_mark_range(set, 60, 1);
	dli_page_set_mark_range(set, 70, 1);
	take_all();
	dli_page_set_pad(set, 61, 9);
	expect_counts(0, 11);
	assert_true(dli_page_set_in_flight(set, 60, 11));
	assert_true(dli_page_set_ack(set, 60, 11, &acked));
	dli_page_set_count_acked(set, acked);
	expect_counts(0, 0);
}

static void padding_at_the_end_is_no_more_than_asked_for(void **state)
{
	uint64_t acked = 0;

	dli_page_set_pad(set, PAGES - 70, 70);
	expect_counts(0, 70);
	assert_false(dli_page_set_in_flight(set, PAGES - 71, 1));
	assert_true(dli_page_set_ack(set, PAGES - 70, 70, &acked));
	assert_int_equal(acked, 70);
}

/* They stay pending, whatever becomes of what is in flight. */
static void rewritten_pages_leave_the_batch(void **state)
{
	assert_int_equal(dli_page_set_watch(set), 0);
	dli_page_set_mark_range(set, 60, 70);
	/* All of the first word's, some of the second's, none of the third's. */
	for (uint64_t page = 60; page < 70; page++)
		dli_page_set_mark_word(set, page / 64, UINT64_C(1) << page % 64);
	assert_true(dli_page_set_take(set, &(uint64_t){ 0 }, false, &batch));
	assert_int_equal(batch.n, 3);
	/* Entries behind the end of the batch do not belong to it. */
	batch.word[3] = 2;
	batch.bits[3] = 2;
	dli_page_set_skip_rewritten(set, &batch);
	assert_int_equal(batch.n, 2);
	assert_int_equal(batch.word[0], 1);
	assert_true(batch.bits[0] == ~UINT64_C(0) << 6);
	assert_int_equal(batch.word[1], 2);
	assert_int_equal(batch.bits[1], 3);
	expect_counts(10, 60);
	assert_false(dli_page_set_in_flight(set, 69, 1));
	dli_page_set_commit(set);
	expect_counts(10, 0);
}

static void a_commit_forgets_what_is_in_flight_only(void **state)
{
	dli_page_set_mark_range(set, 60, 10);
	dli_page_set_mark_range(set, PAGES - 10, 10);
	take_all();
	dli_page_set_mark_range(set, 65, 10);
	dli_page_set_commit(set);
	expect_counts(10, 0);
	dli_page_set_requeue(set);
	expect_counts(10, 0);
}

static void moved_words_hold_what_is_pending_and_in_flight(void **state)
{
	dli_page_set_mark_range(set, 60, 10);
	take_all();
	dli_page_set_mark_range(set, PAGES - 1, 1);
	words[0] = 1;
	words[5] = 2;
	words[WORDS] = 77;
	dli_page_set_move_to_words(set, words);
	assert_true(words[0] == (1 | UINT64_C(15) << 60));
	assert_int_equal(words[1], 63);
	assert_int_equal(words[5], 2);
	assert_true(words[WORDS - 1] == UINT64_C(1) << (PAGES - 1) % 64);
	assert_int_equal(words[WORDS], 77);
	expect_counts(0, 0);
	take_all();
	expect_counts(0, 0);
}

/* More words than one batch has room for, of either state. */
static void all_words_are_moved(void **state)
{
	dli_page_set_mark_all(set);
	take_all();
	dli_page_set_mark_all(set);
	dli_page_set_move_to_words(set, words);
	for (uint64_t word = 0; word < PAGES / 64; word++)
		assert_true(words[word] == UINT64_MAX);
	memset(words, 0, sizeof(words));
	dli_page_set_mark_all(set);
	dli_page_set_move_to_words(set, words);
	for (uint64_t word = 0; word < PAGES / 64; word++)
		assert_true(words[word] == UINT64_MAX);
	dli_page_set_mark_all(set);
	take_all();
	memset(words, 0, sizeof(words));
	dli_page_set_move_to_words(set, words);
	for (uint64_t word = 0; word < PAGES / 64; word++)
		assert_true(words[word] == UINT64_MAX);
	expect_counts(0, 0);
}

static void a_clear_forgets_everything(void **state)
{
	dli_page_set_mark_range(set, 60, 10);
	take_all();
	dli_page_set_mark_range(set, 65, 10);
	dli_page_set_clear(set);
	expect_counts(0, 0);
	assert_false(dli_page_set_in_flight(set, 60, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		moves_test(extracted_pages_are_in_no_state),
		moves_test(pages_in_flight_are_not_extracted),
		moves_test(an_extract_of_a_chunk_stays_in_it),
		moves_test(an_extracted_batch_can_be_put_back),
		moves_test(a_lone_marker_counts_only_new_pages),
		moves_test(a_lone_marker_finds_the_only_new_page),
		moves_test(a_lone_marker_marks_a_batch_that_is_all_new),
		moves_test(a_lone_marker_notes_what_is_marked_again),
		moves_test(a_page_alone_in_its_block_is_taken_from_any_word),
		moves_test(the_words_of_a_block_are_taken_in_order),
		moves_test(pages_in_flight_are_found_in_any_word),
		moves_test(padding_is_in_flight_and_not_pending),
		moves_test(padding_at_the_end_is_no_more_than_asked_for),
		moves_test(rewritten_pages_leave_the_batch),
		moves_test(a_commit_forgets_what_is_in_flight_only),
		moves_test(moved_words_hold_what_is_pending_and_in_flight),
		moves_test(all_words_are_moved),
		moves_test(a_clear_forgets_everything),
	};

	return RUN_TESTS("page_set, moves", tests);
}
