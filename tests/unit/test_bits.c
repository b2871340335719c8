/* SPDX-License-Identifier: MIT */
/* Bit arithmetic on words, against counting bit by bit. */
#include "cmocka_all.h"
#include "pages/bits.h"
#include "random.h"

static uint32_t count_one_by_one(uint64_t bits)
{
	uint32_t n = 0;

	for (int i = 0; i < 64; i++)
		n += bits >> i & 1;
	return n;
}

static void bits_are_counted(void **state)
{
	struct random random = { .state = 3 };

	assert_int_equal(count_bits(0), 0);
	assert_int_equal(count_bits(~UINT64_C(0)), 64);
	for (int i = 0; i < 64; i++) {
		assert_int_equal(count_bits(UINT64_C(1) << i), 1);
		assert_int_equal(count_bits(~(UINT64_C(1) << i)), 63);
		assert_int_equal(count_bits(~UINT64_C(0) >> i), 64 - i);
	}
	for (int i = 0; i < 10000; i++) {
		uint64_t bits = random_next(&random);

		/* About half of the bits, few, and most. */
		assert_int_equal(count_bits(bits), count_one_by_one(bits));
		bits &= random_next(&random) & random_next(&random);
		assert_int_equal(count_bits(bits), count_one_by_one(bits));
		assert_int_equal(count_bits(~bits), count_one_by_one(~bits));
	}
}

static void division_rounds_up(void **state)
{
	assert_int_equal(divide_up(0, 64), 0);
	assert_int_equal(divide_up(1, 64), 1);
	assert_int_equal(divide_up(63, 64), 1);
	assert_int_equal(divide_up(64, 64), 1);
	assert_int_equal(divide_up(65, 64), 2);
	/* n + by - 1 would overflow. */
	assert_true(divide_up(UINT64_MAX, 64) == UINT64_C(1) << 58);
}

static void expect_range(uint64_t word, uint64_t first_page, uint64_t end_page)
{
	uint64_t expected = 0;

	for (uint64_t i = 0; i < 64; i++)
		if (word * 64 + i >= first_page && word * 64 + i < end_page)
			expected |= UINT64_C(1) << i;
	assert_true(range_bits(word, first_page, end_page) == expected);
}

/* Callers only ask for words that contain pages of the range. */
static void range_bits_are_exactly_the_pages_of_the_range(void **state)
{
	for (uint64_t first = 128; first < 320; first++)
		for (uint64_t end = first + 1; end <= 320; end++)
			for (uint64_t word = first / 64; word * 64 < end; word++)
				expect_range(word, first, end);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bits_are_counted),
		cmocka_unit_test(division_rounds_up),
		cmocka_unit_test(range_bits_are_exactly_the_pages_of_the_range),
	};

	return RUN_TESTS("bits", tests);
}
