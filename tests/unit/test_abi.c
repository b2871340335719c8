/* SPDX-License-Identifier: MIT */
/* Structs of callers that are older or newer than the library are read and written correctly. */
#include "api/abi.h"
#include "cmocka_all.h"

struct own {
	uint32_t size, a, b, c;
};

enum { FIRST_BYTES = 8 };

/* Not inlined: the compiler would check the sizes that the library reads at run time. */
static __attribute__((noinline)) int read_struct(struct own *own, const void *theirs)
{
	return dli_abi_read(own, sizeof(*own), FIRST_BYTES, theirs);
}

static __attribute__((noinline)) int write_struct(void *theirs, const struct own *own)
{
	return dli_abi_write(theirs, FIRST_BYTES, own, sizeof(*own));
}

static void a_struct_of_the_same_size_is_copied(void **state)
{
	const struct own theirs = { sizeof(theirs), 1, 2, 3 };
	struct own own = { 0 };

	assert_int_equal(read_struct(&own, &theirs), 0);
	assert_memory_equal(&own, &theirs, sizeof(own));
}

static void missing_fields_of_a_smaller_struct_read_as_zeros(void **state)
{
	const struct own theirs = { FIRST_BYTES, 1, 2, 3 };
	struct own own = { 0 };

	memset(&own, 0xff, sizeof(own));
	assert_int_equal(read_struct(&own, &theirs), 0);
	assert_int_equal(own.a, 1);
	assert_int_equal(own.b | own.c, 0);
}

static void a_struct_smaller_than_the_first_release_is_refused(void **state)
{
	struct own theirs = { FIRST_BYTES - 1, 1, 2, 3 }, own = { 0 };

	assert_int_equal(read_struct(&own, &theirs), -EINVAL);
	assert_int_equal(write_struct(&theirs, &own), -EINVAL);
	assert_int_equal(theirs.a, 1);
	theirs.size = 0;
	assert_int_equal(read_struct(&own, &theirs), -EINVAL);
}

static void a_larger_struct_must_end_in_zeros(void **state)
{
	struct {
		struct own known;
		uint8_t tail[5];
	} theirs = { .known = { sizeof(theirs), 1, 2, 3 } };
	struct own own = { 0 };

	assert_int_equal(read_struct(&own, &theirs), 0);
	assert_int_equal(own.c, 3);
	for (size_t i = 0; i < sizeof(theirs.tail); i++) {
		memset(theirs.tail, 0, sizeof(theirs.tail));
		theirs.tail[i] = 0x80;
		assert_int_equal(read_struct(&own, &theirs), -E2BIG);
	}
}

static void output_fills_the_known_fields_and_zeros_the_rest(void **state)
{
	const struct own own = { sizeof(own), 1, 2, 3 };
	struct {
		struct own known;
		uint32_t tail, guard;
	} theirs;

	memset(&theirs, 0xff, sizeof(theirs));
	theirs.known.size = 12;
	assert_int_equal(write_struct(&theirs, &own), 0);
	assert_int_equal(theirs.known.size, 12);
	assert_int_equal(theirs.known.b, 2);
	assert_int_equal(theirs.known.c, UINT32_MAX);

	theirs.known.size = sizeof(own) + sizeof(theirs.tail);
	assert_int_equal(write_struct(&theirs, &own), 0);
	assert_int_equal(theirs.known.size, sizeof(own) + sizeof(theirs.tail));
	assert_int_equal(theirs.known.c, 3);
	assert_int_equal(theirs.tail, 0);
	assert_int_equal(theirs.guard, UINT32_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_struct_of_the_same_size_is_copied),
		cmocka_unit_test(missing_fields_of_a_smaller_struct_read_as_zeros),
		cmocka_unit_test(a_struct_smaller_than_the_first_release_is_refused),
		cmocka_unit_test(a_larger_struct_must_end_in_zeros),
		cmocka_unit_test(output_fills_the_known_fields_and_zeros_the_rest),
	};

	return RUN_TESTS("abi", tests);
}
