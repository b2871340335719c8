/* SPDX-License-Identifier: MIT */
/* dl_mark_bitmap(): page sizes, alignments, what is taken and what stays, and bad input. */
#include "cmocka_all.h"
#include "guest.h"
#include "naive_bitmap.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static struct guest guest;
static struct naive naive;

/* Page numbers; as_id << 16 | id is the slot's number. Only WANTED ones are covered. */
static const struct {
	uint32_t number, as_id;
	uint64_t first, pages;
	bool wanted;
} layout[] = {
	{ 5, 0, 2, 3, true },	     { 6, 0, 5, 2, false },   { 7, 0, 8, 3, true },
	{ 8, 0, 11, 5, true },	     { 9, 0, 64, 200, true }, { 1 << 16 | 5, 1, 1, 4, true },
	{ 10, 0, 1000, 1100, true },
};
enum { SLOTS = sizeof(layout) / sizeof(layout[0]) };

static void add_slot(uint32_t i)
{
	struct guest_block *block = guest_memory(&guest, layout[i].pages);
	struct dl_slot slot =
		guest_slot(&guest, layout[i].number, layout[i].first, block, 0, layout[i].pages);

	slot.flags = layout[i].wanted ? DL_SLOT_WANTED : 0;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	naive.slots[i] = (struct naive_slot){ .as_id = layout[i].as_id,
					      .gpa = slot.gpa,
					      .pages = layout[i].pages,
					      .covered = layout[i].wanted };
}

static void open_guest(uint32_t page_bytes)
{
	const struct guest_config config = { .model = { .page_bytes = page_bytes } };

	guest_open(&guest, &config);
	memset(&naive, 0, sizeof(naive));
	naive.page_bytes = page_bytes;
	naive.n = SLOTS;
	for (uint32_t i = 0; i < SLOTS; i++)
		add_slot(i);
}

static void join(void)
{
	guest_join(&guest, DL_CURSOR_CLEAN | DL_CURSOR_WANTED);
	naive.logging = true;
}

static int setup(void **state)
{
	open_guest(4096);
	join();
	return 0;
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define bitmap_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static struct dl_bitmap bitmap_of(uint64_t gpa, uint64_t bytes, uint64_t page_bytes, uint32_t flags)
{
	return (struct dl_bitmap){ .size = sizeof(struct dl_bitmap),
				   .flags = flags,
				   .gpa = gpa,
				   .bytes = bytes,
				   .page_bytes = page_bytes };
}

static int mark(const struct dl_bitmap *bitmap, uint64_t *words, uint64_t n_words, uint64_t *marked)
{
	return dl_mark_bitmap(guest.log, bitmap, words, n_words, marked);
}

/* Expects that the library and the naive model do the same, to words and to every slot. */
static void expect_as_naive(const struct dl_bitmap *b, uint64_t *words, uint64_t n_words)
{
	uint64_t expected[64], marked = 1, expected_marked;
	int r, expected_r;

	assert_true(n_words <= 64);
	memcpy(expected, words, n_words * sizeof(*words));
	expected_r = naive_mark(&naive, b, expected, &expected_marked);
	r = mark(b, words, n_words, &marked);
	if (r != expected_r || marked != expected_marked ||
	    memcmp(words, expected, n_words * sizeof(*words)))
		fail_msg("%#llx bytes at %#llx, pages of %#llx, flags %u, word %#llx: %d, not %d",
			 (unsigned long long)b->bytes, (unsigned long long)b->gpa,
			 (unsigned long long)b->page_bytes, b->flags,
			 (unsigned long long)expected[0], r, expected_r);
	if (!naive.logging)
		return;
	for (uint32_t i = 0; i < SLOTS; i++)
		if (!naive_matches(&naive, i, guest.cursor, layout[i].number))
			fail_msg("%#llx bytes at %#llx, pages of %#llx, flags %u: slot %u",
				 (unsigned long long)b->bytes, (unsigned long long)b->gpa,
				 (unsigned long long)b->page_bytes, b->flags, layout[i].number);
}

/* Every word of bits bits, at each alignment up to the end of the small slots. */
static void try_all_words(uint64_t page_bytes, uint32_t bits, uint32_t flags)
{
	uint64_t end = 17 * (uint64_t)guest.page_bytes;

	for (uint64_t gpa = 0; gpa < end; gpa += page_bytes) {
		struct dl_bitmap b = bitmap_of(gpa, bits * page_bytes, page_bytes, flags);

		for (uint64_t word = 0; word < UINT64_C(1) << bits; word++) {
			/* The bit after the last one is not the call's. */
			uint64_t words[2] = { word | UINT64_C(1) << bits, ~UINT64_C(0) };

			expect_as_naive(&b, words, 2);
		}
	}
}

static void every_small_bitmap_is_marked_as_by_the_naive_model(void **state)
{
	static const uint32_t flags[] = { 0, DL_BITMAP_TAKE, DL_BITMAP_TAKE | DL_BITMAP_LE };

	for (int i = 0; i < 3; i++) {
		try_all_words(guest.page_bytes / 4, 7, flags[i]);
		try_all_words(guest.page_bytes / 2, 7, flags[i]);
		try_all_words(guest.page_bytes, 9, flags[i]);
		try_all_words(2 * guest.page_bytes, 7, flags[i]);
		try_all_words(4 * guest.page_bytes, 5, flags[i]);
		try_all_words(32 * guest.page_bytes, 3, flags[i]);
	}
}

static uint64_t some_number(void)
{
	static uint64_t x = 88172645463325252;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x;
}

static uint64_t some_word(void)
{
	switch (some_number() % 4) {
	case 0:
		return 0;
	case 1:
		return UINT64_C(1) << some_number() % 64;
	case 2:
		return ~UINT64_C(0);
	default:
		return some_number() & some_number();
	}
}

/* gpa is any multiple of the foreign page size, so that words of both sides meet anyhow. */
static void try_some_bitmap(uint64_t page_bytes)
{
	uint64_t most = 2100 * (uint64_t)guest.page_bytes / page_bytes + 2, words[64];
	uint64_t bits = 1 + some_number() % (most < 64 * 64 ? most : 64 * 64);
	struct dl_bitmap b = bitmap_of(some_number() % most * page_bytes, bits * page_bytes,
				       page_bytes, 2 * (some_number() % 4));

	b.bytes -= some_number() % 2 * (some_number() % page_bytes);
	b.as_id = some_number() % 8 == 0;
	for (int i = 0; i < 64; i++)
		words[i] = some_word();
	expect_as_naive(&b, words, 64);
}

static void any_page_size_meets_any_host_page_size(void **state)
{
	static const uint32_t sizes[] = { 4096, 16384, 65536 };

	for (int i = 0; i < 3; i++) {
		open_guest(sizes[i]);
		join();
		for (uint64_t bytes = 512; bytes <= 1 << 30; bytes *= 2)
			for (int n = 0; n < 40; n++)
				try_some_bitmap(bytes);
		guest_close(&guest);
	}
}

static void little_endian_words_are_read_as_such(void **state)
{
	struct dl_bitmap b = bitmap_of(64 * 4096, 64 * 4096, 4096, DL_BITMAP_LE | DL_BITMAP_TAKE);
	uint64_t word = htole64(UINT64_C(1) << 3 | UINT64_C(1) << 60), marked = 0, pages[8];

	assert_int_equal(mark(&b, &word, 1, &marked), 0);
	assert_int_equal(marked, 2 * 4096);
	assert_int_equal(word, 0);
	assert_int_equal(guest_pass(&guest, 0, pages, 8), 2);
	assert_int_equal(pages[0], 64 + 3);
	assert_int_equal(pages[1], 64 + 60);
}

static void words_are_only_read_without_take(void **state)
{
	struct dl_bitmap b = bitmap_of(64 * 4096, 128 * 4096, 4096, 0);
	uint64_t *words =
		mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(words != MAP_FAILED);
	words[0] = 3;
	words[1] = 1;
	assert_int_equal(mprotect(words, 4096, PROT_READ), 0);
	assert_int_equal(mark(&b, words, 2, NULL), 0);
	assert_int_equal(guest_pending(&guest), 3 * 4096);
	munmap(words, 4096);
}

static void nothing_is_taken_while_nothing_is_logged(void **state)
{
	struct dl_bitmap b = bitmap_of(0, 128 * 4096, 4096, DL_BITMAP_TAKE);
	uint64_t words[2] = { ~UINT64_C(0), 1 }, marked = 5;

	guest_leave(&guest);
	assert_int_equal(mark(&b, words, 2, &marked), 0);
	assert_int_equal(marked, 0);
	assert_true(words[0] == ~UINT64_C(0) && words[1] == 1);
	join();
	assert_int_equal(mark(&b, words, 2, &marked), -ENOENT);
	assert_int_equal(marked, 12 * 4096);
	assert_int_equal(words[1], 0);
	/* Cursors cover pages 2 to 4 and 8 to 15, but not 5 and 6. The rest is a hole. */
	assert_int_equal(words[0], ~UINT64_C(0xff1c));
}

static void holes_are_counted_and_named_as_failed_marks(void **state)
{
	struct dl_bitmap b = bitmap_of(0, 64 * 4096, 4096, DL_BITMAP_TAKE);
	uint64_t word = 1 | 1 << 2, failed = guest_stats(&guest).failed_marks;
	char text[200];

	assert_int_equal(mark(&b, &word, 1, NULL), -ENOENT);
	assert_int_equal(word, 1);
	assert_int_equal(guest_pending(&guest), 4096);
	assert_int_equal(guest_stats(&guest).failed_marks, failed + 1);
	assert_true(dl_log_last_error(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "outside of every slot"));
}

static void memory_that_no_cursor_covers_keeps_its_bits(void **state)
{
	struct dl_bitmap b = bitmap_of(4 * 4096, 4 * 4096, 4096, DL_BITMAP_TAKE);
	uint64_t word = 0x7;

	assert_int_equal(mark(&b, &word, 1, NULL), 0);
	assert_int_equal(word, 0x6);
	assert_int_equal(guest_pending(&guest), 4096);
}

/* A page of 16 KiB over a covered page, two that are not, and a hole: one of these is enough. */
static void a_large_page_is_taken_if_some_of_it_is_covered(void **state)
{
	struct dl_bitmap b = bitmap_of(4 * 4096, 4 * 4096, 16384, DL_BITMAP_TAKE);
	uint64_t word = 1, marked;

	assert_int_equal(mark(&b, &word, 1, &marked), 0);
	assert_int_equal(word, 0);
	assert_int_equal(marked, 4096);
	assert_int_equal(guest_pending(&guest), 4096);
}

/* The bitmap says that 1 byte more than a page is covered: its last page counts whole. */
static void a_page_partly_inside_bytes_counts_whole(void **state)
{
	struct dl_bitmap b = bitmap_of(64 * 4096, 16384 + 1, 16384, DL_BITMAP_TAKE);
	uint64_t word = 7, marked;

	assert_int_equal(mark(&b, &word, 1, &marked), 0);
	assert_int_equal(word, 4);
	assert_int_equal(marked, 8 * 4096);
}

static void a_host_page_counts_once(void **state)
{
	struct dl_bitmap b = bitmap_of(64 * 4096 + 512, 600 * 512, 512, 0);
	uint64_t words[10], marked;

	memset(words, 0xff, sizeof(words));
	assert_int_equal(mark(&b, words, 10, &marked), 0);
	assert_int_equal(marked, 76 * 4096);
	assert_int_equal(guest_pending(&guest), marked);
}

static void an_empty_bitmap_needs_no_words(void **state)
{
	struct dl_bitmap b = bitmap_of(4096, 0, 4096, DL_BITMAP_TAKE);
	uint64_t marked = 1;

	assert_int_equal(mark(&b, NULL, 0, &marked), 0);
	assert_int_equal(marked, 0);
}

static void a_bitmap_may_reach_the_end_of_the_address_space(void **state)
{
	struct dl_bitmap b = bitmap_of(-(UINT64_C(1) << 30), (UINT64_C(1) << 30) - 1,
				       UINT64_C(1) << 30, DL_BITMAP_TAKE);
	uint64_t word = 1;

	assert_int_equal(mark(&b, &word, 1, NULL), -ENOENT);
	assert_int_equal(word, 1);
	b = bitmap_of(0, UINT64_MAX, UINT64_C(1) << 30, 0);
	assert_int_equal(mark(&b, &word, 1, NULL), -EINVAL);
}

/* More words than one chunk, and a slot's pages spread over all of them. */
static void long_bitmaps_go_chunk_by_chunk(void **state)
{
	enum { WORDS = 3000 };
	uint64_t *words = calloc(WORDS, sizeof(*words)), marked;
	struct dl_bitmap b = bitmap_of(0, UINT64_C(512) * 64 * WORDS, 512, DL_BITMAP_TAKE);

	assert_non_null(words);
	for (uint64_t page = 1000; page < 2100; page++)
		words[page * 8 / 64] |= UINT64_C(1) << page * 8 % 64;
	words[2999] = 1;
	assert_int_equal(mark(&b, words, WORDS, &marked), -ENOENT);
	assert_int_equal(marked, 1100 * 4096);
	assert_int_equal(guest_pending(&guest), 1100 * 4096);
	for (int i = 0; i < WORDS; i++)
		assert_int_equal(words[i], i == 2999);
	free(words);
}

static void marks_of_a_paused_pass_are_late(void **state)
{
	struct dl_bitmap b = bitmap_of(64 * 4096, 64 * 4096, 4096, 0);
	uint64_t word = 0xf, late = guest_stats(&guest).late_marks;

	assert_int_equal(mark(&b, &word, 1, NULL), 0);
	assert_int_equal(guest_stats(&guest).late_marks, late);
	assert_int_equal(dl_harvest(guest.cursor, DL_HARVEST_PAUSED, NULL), 0);
	assert_int_equal(mark(&b, &word, 1, NULL), 0);
	assert_int_equal(guest_stats(&guest).late_marks, late + 4);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
}

static void every_cursor_that_covers_a_page_gets_it(void **state)
{
	struct dl_bitmap b = bitmap_of(0, 64 * 4096, 4096, DL_BITMAP_TAKE);
	uint64_t word = 1 << 3 | 1 << 6, marked;
	struct dl_cursor *all;

	assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_CLEAN, 0, &all), 0);
	assert_int_equal(mark(&b, &word, 1, &marked), 0);
	assert_int_equal(word, 0);
	assert_int_equal(marked, 2 * 4096);
	assert_int_equal(dl_harvest(all, 0, NULL), 0);
	assert_int_equal(guest_cursor_stats(all).pending_bytes, 2 * 4096);
	assert_int_equal(dl_cursor_end(all, 0), 0);
	assert_int_equal(guest_pass(&guest, 0, &marked, 1), 1);
	assert_int_equal(marked, 3);
	dl_cursor_free(all);
}

static void expect_refused(const struct dl_bitmap *b, uint64_t *words, uint64_t n_words, int error,
			   const char *named)
{
	uint64_t marked = 77;
	char text[200];

	assert_int_equal(mark(b, words, n_words, &marked), -error);
	assert_int_equal(marked, 77);
	assert_int_equal(guest_pending(&guest), 0);
	assert_true(dl_log_last_error(guest.log, text, sizeof(text)) > 0);
	if (!strstr(text, named))
		fail_msg("\"%s\" does not name %s", text, named);
}

static void bad_input_changes_nothing_and_is_named(void **state)
{
	const struct dl_bitmap good = bitmap_of(64 * 4096, 65 * 4096, 4096, DL_BITMAP_TAKE);
	uint64_t words[3] = { ~UINT64_C(0), 1, 0 };
	struct dl_bitmap b;
	struct {
		struct dl_bitmap known;
		uint64_t more;
	} larger = { good, 1 };

#define REFUSE(change, error, named)                        \
	do {                                                \
		b = good;                                   \
		change;                                     \
		expect_refused(&b, words, 2, error, named); \
	} while (0)
	REFUSE(b.size--, EINVAL, "a struct whose size");
	REFUSE(b.size = 0, EINVAL, "a struct whose size");
	REFUSE(b.flags = 1, EINVAL, "flags");
	REFUSE(b.flags = 8, EINVAL, "flags");
	REFUSE(b.reserved = 1, EINVAL, "dl_bitmap.reserved");
	REFUSE(b.page_bytes = 0, EINVAL, "dl_bitmap.page_bytes");
	REFUSE(b.page_bytes = 256, EINVAL, "dl_bitmap.page_bytes");
	REFUSE(b.page_bytes = 4097, EINVAL, "dl_bitmap.page_bytes");
	REFUSE(b.page_bytes = 12288, EINVAL, "dl_bitmap.page_bytes");
	REFUSE(b.page_bytes = UINT64_C(1) << 31, EINVAL, "dl_bitmap.page_bytes");
	REFUSE(b.gpa += 2048, EINVAL, "dl_bitmap.gpa");
	REFUSE(b.page_bytes = 1 << 20, EINVAL, "dl_bitmap.gpa");
	REFUSE(b.bytes = -b.gpa, EINVAL, "dl_bitmap.bytes");
	REFUSE(b.bytes = UINT64_MAX, EINVAL, "dl_bitmap.bytes");
	REFUSE(b.bytes = 128 * 4096 + 1, EINVAL, "n_words");
#undef REFUSE
	larger.known.size = sizeof(larger);
	expect_refused(&larger.known, words, 2, E2BIG, "a struct whose size");
	expect_refused(&good, words, 1, EINVAL, "n_words");
	expect_refused(&good, words, 0, EINVAL, "n_words");
	expect_refused(&good, NULL, 2, EINVAL, "NULL");
	expect_refused(NULL, words, 2, EINVAL, "NULL");
	expect_refused(&good, (uint64_t *)((uintptr_t)words + 4), 2, EINVAL, "aligned");
	assert_int_equal(dl_mark_bitmap(NULL, &good, words, 2, NULL), -EINVAL);
	assert_true(words[0] == ~UINT64_C(0) && words[1] == 1);
	larger.more = 0;
	assert_int_equal(mark(&larger.known, words, 2, NULL), 0);
	assert_int_equal(guest_pending(&guest), 65 * 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		bitmap_test(every_small_bitmap_is_marked_as_by_the_naive_model),
		cmocka_unit_test(any_page_size_meets_any_host_page_size),
		bitmap_test(little_endian_words_are_read_as_such),
		bitmap_test(words_are_only_read_without_take),
		bitmap_test(nothing_is_taken_while_nothing_is_logged),
		bitmap_test(holes_are_counted_and_named_as_failed_marks),
		bitmap_test(memory_that_no_cursor_covers_keeps_its_bits),
		bitmap_test(a_large_page_is_taken_if_some_of_it_is_covered),
		bitmap_test(a_page_partly_inside_bytes_counts_whole),
		bitmap_test(a_host_page_counts_once),
		bitmap_test(an_empty_bitmap_needs_no_words),
		bitmap_test(a_bitmap_may_reach_the_end_of_the_address_space),
		bitmap_test(long_bitmaps_go_chunk_by_chunk),
		bitmap_test(marks_of_a_paused_pass_are_late),
		bitmap_test(every_cursor_that_covers_a_page_gets_it),
		bitmap_test(bad_input_changes_nothing_and_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
