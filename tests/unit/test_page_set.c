/* SPDX-License-Identifier: MIT */
/* A page set's pending and in-flight pages, compared with two plain arrays. */
#include "cmocka_all.h"
#include "emulated.h"
#include "fake_os.h"
#include "pages/page_set_maps.h"
#include "random.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK_PAGES = 64 * 64 };

/* A set, and its expected contents with a byte per page. */
struct subject {
	struct dli_page_set *set;
	uint64_t pages;
	uint8_t *pending, *in_flight;
	struct random random;
	struct dli_batch batch;
};

static struct fake_os fake;

static void begin(struct subject *s, uint64_t pages, uint64_t seed)
{
	fake_os_init(&fake);
	s->pages = pages;
	s->random.state = seed;
	s->pending = calloc(pages, 1);
	s->in_flight = calloc(pages, 1);
	assert_non_null(s->pending);
	assert_non_null(s->in_flight);
	assert_int_equal(dli_page_set_new(&fake.os, pages, &s->set), 0);
}

static void end(struct subject *s)
{
	dli_page_set_free(s->set);
	free(s->pending);
	free(s->in_flight);
	assert_int_equal(fake.maps_live, 0);
}

static uint64_t sum(const uint8_t *map, uint64_t pages)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i < pages; i++)
		n += map[i];
	return n;
}

static void check_counts(const struct subject *s)
{
	assert_int_equal(dli_page_set_pending_pages(s->set), sum(s->pending, s->pages));
	assert_int_equal(dli_page_set_in_flight_pages(s->set), sum(s->in_flight, s->pages));
}

static void mark_word(struct subject *s)
{
	uint64_t words = (s->pages + 63) / 64, word = random_below(&s->random, words);
	uint64_t bits = random_next(&s->random) & random_next(&s->random);
	uint32_t expected = 0, is_new;

	if (word == words - 1 && s->pages % 64)
		bits &= (UINT64_C(1) << s->pages % 64) - 1;
	for (uint64_t bit = 0; bit < 64; bit++) {
		if (!(bits >> bit & 1))
			continue;
		expected += !s->pending[word * 64 + bit];
		s->pending[word * 64 + bit] = 1;
	}
	is_new = dli_page_set_mark_word(s->set, word, bits);
	assert_int_equal(is_new, expected);
	dli_page_set_count(s->set, is_new);
}

static void mark_range(struct subject *s)
{
	uint64_t first = random_below(&s->random, s->pages);
	uint64_t most = random_below(&s->random, 3) ? 200 : 5000;
	uint64_t n = random_below(&s->random, most), expected = 0;

	if (n > s->pages - first)
		n = s->pages - first;
	for (uint64_t i = first; i < first + n; i++) {
		expected += !s->pending[i];
		s->pending[i] = 1;
	}
	assert_int_equal(dli_page_set_mark_range(s->set, first, n), expected);
}

static void mark_batch(struct subject *s)
{
	uint64_t words = (s->pages + 63) / 64, expected = 0;
	uint64_t word = random_below(&s->random, words);

	/* Sometimes so many that they reach into other blocks. */
	for (s->batch.n = 0; s->batch.n < 100 && word < words; s->batch.n++) {
		uint64_t bits = random_next(&s->random);

		if (word == words - 1 && s->pages % 64)
			bits &= (UINT64_C(1) << s->pages % 64) - 1;
		if (!bits)
			break;
		s->batch.word[s->batch.n] = (uint32_t)word;
		s->batch.bits[s->batch.n] = bits;
		for (uint64_t bit = 0; bit < 64; bit++) {
			if (!(bits >> bit & 1))
				continue;
			expected += !s->pending[word * 64 + bit];
			s->pending[word * 64 + bit] = 1;
		}
		word += 1 + random_below(&s->random, random_below(&s->random, 4) ? 5 : 100);
	}
	assert_int_equal(dli_page_set_mark_batch(s->set, &s->batch), expected);
}

/* Moves the batch's pages in the arrays, where all of them must be pending. */
static void move_batch(struct subject *s)
{
	for (uint32_t i = 0; i < s->batch.n; i++) {
		assert_true(s->batch.bits[i] != 0);
		if (i)
			assert_true(s->batch.word[i] > s->batch.word[i - 1]);
		for (uint64_t bit = 0; bit < 64; bit++) {
			uint64_t page = s->batch.word[i] * UINT64_C(64) + bit;

			if (!(s->batch.bits[i] >> bit & 1))
				continue;
			assert_true(page < s->pages && s->pending[page]);
			s->pending[page] = 0;
			s->in_flight[page] = 1;
		}
	}
}

static uint64_t pending_between(const struct subject *s, uint64_t first, uint64_t end)
{
	end = end < s->pages ? end : s->pages;
	return first < end ? sum(s->pending + first, end - first) : 0;
}

/* Takes one batch from *block on, and checks its pages. */
static bool take_from(struct subject *s, uint64_t *block, bool one_chunk)
{
	uint64_t from = *block * BLOCK_PAGES, behind, chunk_end;

	if (!dli_page_set_take(s->set, block, one_chunk, &s->batch)) {
		assert_int_equal(pending_between(s, from, s->pages), 0);
		return false;
	}
	assert_in_range(s->batch.n, 1, PAGE_SET_CHUNK_WORDS);
	move_batch(s);
	behind = *block * BLOCK_PAGES;
	assert_true(s->batch.word[0] * UINT64_C(64) >= from);
	assert_true(s->batch.word[s->batch.n - 1] * UINT64_C(64) < behind);
	assert_int_equal(pending_between(s, from, behind), 0);
	chunk_end = (s->batch.word[0] / PAGE_SET_CHUNK_WORDS + 1) * (uint64_t)PAGE_SET_CHUNK_PAGES;
	if (one_chunk) {
		assert_true(s->batch.word[s->batch.n - 1] * UINT64_C(64) < chunk_end);
		assert_int_equal(pending_between(s, from, chunk_end), 0);
	} else if (s->batch.n <= PAGE_SET_CHUNK_WORDS - BLOCK_PAGES / 64) {
		/* The batch had room for more. */
		assert_int_equal(pending_between(s, from, s->pages), 0);
	}
	return true;
}

static bool take(struct subject *s)
{
	uint64_t blocks = (s->pages + BLOCK_PAGES - 1) / BLOCK_PAGES;
	uint64_t block = random_below(&s->random, blocks + 1);

	return take_from(s, &block, random_below(&s->random, 2));
}

/* Takes all pages from the first on, batch by batch. */
static void take_all(struct subject *s)
{
	bool one_chunk = random_below(&s->random, 2);

	for (uint64_t block = 0; take_from(s, &block, one_chunk);)
		;
	assert_int_equal(sum(s->pending, s->pages), 0);
}

static void take_and_unclaim(struct subject *s)
{
	if (!take(s))
		return;
	dli_page_set_unclaim(s->set, &s->batch);
	for (uint32_t i = 0; i < s->batch.n; i++) {
		for (uint64_t bit = 0; bit < 64; bit++) {
			uint64_t page = s->batch.word[i] * UINT64_C(64) + bit;

			if (!(s->batch.bits[i] >> bit & 1))
				continue;
			s->in_flight[page] = 0;
			s->pending[page] = 1;
		}
	}
}

/* Acknowledges and counts pages. False if they are not all in flight. */
static bool ack_pages(struct dli_page_set *set, uint64_t first, uint64_t n)
{
	uint64_t gone = 0;
	bool acked = dli_page_set_ack(set, first, n, &gone);

	assert_int_equal(gone, acked ? n : 0);
	dli_page_set_count_acked(set, gone);
	return acked;
}

static void ack(struct subject *s)
{
	uint64_t first = random_below(&s->random, s->pages), n = 0;
	uint64_t most = 1 + random_below(&s->random, 300);

	while (first < s->pages && !s->in_flight[first])
		first++;
	while (first + n < s->pages && n < most && s->in_flight[first + n])
		n++;
	if (!n)
		return;
	/* A range that ends with a page not in flight is refused as a whole. */
	if (first + n < s->pages && !s->in_flight[first + n])
		assert_false(ack_pages(s->set, first, n + 1));
	assert_true(ack_pages(s->set, first, n));
	memset(s->in_flight + first, 0, n);
	assert_false(ack_pages(s->set, first, n));
}

static void requeue(struct subject *s)
{
	dli_page_set_requeue(s->set);
	for (uint64_t i = 0; i < s->pages; i++)
		s->pending[i] |= s->in_flight[i];
	memset(s->in_flight, 0, s->pages);
}

static void clear(struct subject *s)
{
	dli_page_set_clear(s->set);
	memset(s->pending, 0, s->pages);
	memset(s->in_flight, 0, s->pages);
}

static void step(struct subject *s)
{
	switch (random_below(&s->random, 32)) {
	case 0:
		requeue(s);
		break;
	case 1:
		if (!random_below(&s->random, 4))
			clear(s);
		break;
	case 2 ... 5:
		take_and_unclaim(s);
		break;
	case 6 ... 11:
		take(s);
		break;
	case 12 ... 17:
		ack(s);
		break;
	case 18 ... 23:
		mark_range(s);
		break;
	case 24 ... 26:
		mark_batch(s);
		break;
	default:
		mark_word(s);
	}
}

static void behave_at_random(uint64_t pages, unsigned int steps)
{
	struct subject s;

	begin(&s, pages, 0x9e3779b97f4a7c15 + pages);
	for (unsigned int i = 0; i < steps; i++) {
		step(&s);
		if (i % 16 == 0)
			check_counts(&s);
	}
	requeue(&s);
	check_counts(&s);
	end(&s);
}

static void random_operations_match_plain_arrays(void **state)
{
	static const uint64_t sizes[] = { 1,	63,    64,    65,    100,    4095,
					  4096, 32767, 32768, 32769, 100003, 2097153 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		behave_at_random(sizes[i], sizes[i] > 1000000 ? 60 : 2000);
}

static void a_new_set_is_empty(void **state)
{
	struct subject s;
	uint64_t block = 0;

	begin(&s, 1000, 1);
	check_counts(&s);
	assert_false(dli_page_set_take(s.set, &block, false, &s.batch));
	assert_false(dli_page_set_take(s.set, &block, true, &s.batch));
	dli_page_set_requeue(s.set);
	assert_false(ack_pages(s.set, 0, 1));
	check_counts(&s);
	end(&s);
}

/* A marker that a taker overtook sets its summary when the page is gone already. */
static void a_summary_that_leads_to_nothing_is_passed(void **state)
{
	const uint64_t page = 2 * PAGE_SET_CHUNK_PAGES;

	for (int one_chunk = 0; one_chunk < 2; one_chunk++) {
		struct subject s;
		uint64_t block = 0;

		begin(&s, page + 1, 1);
		set_block_summary(&s.set->pending, 0);
		dli_page_set_mark_range(s.set, page, 1);
		assert_true(dli_page_set_take(s.set, &block, one_chunk, &s.batch));
		assert_int_equal(s.batch.n, 1);
		assert_int_equal(s.batch.word[0], page / 64);
		end(&s);
	}
}

/* At every border where a summary enters another bit or word. */
static void a_range_marks_exactly_its_pages(void **state)
{
	static const uint64_t borders[] = { 64, 4096, 32768, 32768 * 64 };
	struct subject s;

	for (size_t i = 0; i < sizeof(borders) / sizeof(borders[0]); i++) {
		begin(&s, borders[i] + 200, 1);
		for (uint64_t before = 0; before < 3; before++) {
			for (uint64_t n = 0; n < 5; n++) {
				uint64_t first = borders[i] - before;

				assert_int_equal(dli_page_set_mark_range(s.set, first, n), n);
				memset(s.pending + first, 1, n);
				check_counts(&s);
				take_all(&s);
				check_counts(&s);
				clear(&s);
			}
		}
		end(&s);
	}
}

static void mark_all_marks_every_page_and_none_past_the_end(void **state)
{
	static const uint64_t sizes[] = { 1, 64, 100, 40000 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct subject s;

		begin(&s, sizes[i], 1);
		assert_int_equal(dli_page_set_mark_all(s.set), sizes[i]);
		assert_int_equal(dli_page_set_mark_all(s.set), 0);
		memset(s.pending, 1, s.pages);
		take_all(&s);
		check_counts(&s);
		assert_true(ack_pages(s.set, 0, sizes[i]));
		assert_int_equal(dli_page_set_in_flight_pages(s.set), 0);
		end(&s);
	}
}

/* A page written again while it is in flight is pending too, and counted in both. */
static void a_page_can_be_pending_and_in_flight(void **state)
{
	struct subject s;
	uint64_t block = 0;

	begin(&s, 128, 1);
	dli_page_set_mark_range(s.set, 70, 1);
	assert_true(dli_page_set_take(s.set, &block, false, &s.batch));
	dli_page_set_mark_range(s.set, 70, 1);
	assert_int_equal(dli_page_set_pending_pages(s.set), 1);
	assert_int_equal(dli_page_set_in_flight_pages(s.set), 1);
	assert_true(ack_pages(s.set, 70, 1));
	assert_int_equal(dli_page_set_pending_pages(s.set), 1);
	assert_int_equal(dli_page_set_in_flight_pages(s.set), 0);
	end(&s);
}

/* For a set that nobody else marks. */
static void a_batch_marked_alone_can_be_taken(void **state)
{
	static const uint64_t pages[] = { 3, 70, 64 * 64 + 5, 3 * 64 * 64, 200000 };
	struct dli_batch batch = { .n = 5 };
	struct subject s;

	begin(&s, 200001, 1);
	for (uint32_t i = 0; i < 5; i++) {
		batch.word[i] = (uint32_t)(pages[i] / 64);
		batch.bits[i] = UINT64_C(1) << pages[i] % 64;
		s.pending[pages[i]] = 1;
	}
	dli_page_set_mark_alone(s.set, &batch);
	check_counts(&s);
	take_all(&s);
	check_counts(&s);
	end(&s);
}

static void a_range_with_a_gap_is_not_acknowledged(void **state)
{
	static const uint64_t gaps[] = { 0, 63, 64, 130, 191, 192, 255 };

	for (size_t i = 0; i < sizeof(gaps) / sizeof(gaps[0]); i++) {
		struct subject s;
		uint64_t block = 0;

		begin(&s, 256, 1);
		dli_page_set_mark_all(s.set);
		assert_true(dli_page_set_take(s.set, &block, false, &s.batch));
		assert_true(ack_pages(s.set, gaps[i], 1));
		assert_false(dli_page_set_in_flight(s.set, 0, 256));
		assert_false(ack_pages(s.set, 0, 256));
		assert_int_equal(dli_page_set_in_flight_pages(s.set), 255);
		end(&s);
	}
}

static void a_failed_allocation_is_an_error(void **state)
{
	struct dli_page_set *set = NULL;

	fake_os_init(&fake);
	fake.map_error = -ENOMEM;
	assert_int_equal(dli_page_set_new(&fake.os, 1000, &set), -ENOMEM);
	assert_null(set);
	assert_int_equal(fake.maps_live, 0);
	dli_page_set_free(NULL);
}

/* The pages of eight of KVM's largest slots, 64 TiB: memory grows with the marked pages. */
static void a_sparse_set_is_small(void **state)
{
	enum { MARKS = 64 };
	const uint64_t pages = (UINT64_C(1) << 31) - 1;
	struct dli_batch *out = malloc(sizeof(*out));
	struct dli_page_set *sets[8];
	uint64_t before = resident_bytes(), found = 0;

	skip_if_emulated("a resident size of the program alone");
	assert_non_null(out);
	fake_os_init(&fake);
	for (size_t i = 0; i < 8; i++)
		assert_int_equal(dli_page_set_new(&fake.os, pages, &sets[i]), 0);
	for (uint64_t i = 0; i < MARKS; i++)
		dli_page_set_mark_range(sets[i % 8], i * (pages / MARKS), 1);
	dli_page_set_mark_range(sets[0], pages - 1, 1);
	for (size_t i = 0; i < 8; i++)
		for (uint64_t block = 0; dli_page_set_take(sets[i], &block, i % 2, out);)
			found += out->n;
	assert_int_equal(found, MARKS + 1);
	for (size_t i = 0; i < 8; i++)
		dli_page_set_requeue(sets[i]);
	assert_true(before > 0);
	/* In both bitmaps a leaf and a mid page per mark, and the top summaries. */
	assert_in_range(resident_bytes() - before, 0, 8 << 20);
	for (size_t i = 0; i < 8; i++)
		dli_page_set_free(sets[i]);
	free(out);
	assert_int_equal(fake.maps_live, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_summary_that_leads_to_nothing_is_passed),
		cmocka_unit_test(a_new_set_is_empty),
		cmocka_unit_test(a_range_marks_exactly_its_pages),
		cmocka_unit_test(mark_all_marks_every_page_and_none_past_the_end),
		cmocka_unit_test(a_page_can_be_pending_and_in_flight),
		cmocka_unit_test(a_batch_marked_alone_can_be_taken),
		cmocka_unit_test(a_range_with_a_gap_is_not_acknowledged),
		cmocka_unit_test(random_operations_match_plain_arrays),
		cmocka_unit_test(a_failed_allocation_is_an_error),
		cmocka_unit_test(a_sparse_set_is_small),
	};

	return RUN_TESTS("page_set", tests);
}
