/* SPDX-License-Identifier: MIT */
/* Errors in words. Built twice: with the C library's constant texts, and as if it had none. */
#include "cmocka_all.h"
#include "kvm/error_text.h"

#include <errno.h>
#include <string.h>

static void errors_have_words(void **state)
{
	char buffer[ERROR_TEXT_BYTES];

	assert_string_equal(dli_error_text(-EIO, buffer), "Input/output error");
	assert_string_equal(dli_error_text(-ENOMEM, buffer), "Cannot allocate memory");
	/* A long one is not cut. */
	assert_string_equal(dli_error_text(-EOVERFLOW, buffer),
			    "Value too large for defined data type");
}

static void an_unknown_error_has_its_number(void **state)
{
	char buffer[ERROR_TEXT_BYTES];

	memset(buffer, 'x', sizeof(buffer));
	assert_string_equal(dli_error_text(-12345, buffer), "error -12345");
	assert_string_equal(dli_error_text(7777, buffer), "error 7777");
}

static void two_texts_do_not_share_memory(void **state)
{
	char one[ERROR_TEXT_BYTES], two[ERROR_TEXT_BYTES];
	const char *first = dli_error_text(-EIO, one);
	const char *second = dli_error_text(-ENOENT, two);

	assert_string_equal(first, "Input/output error");
	assert_string_equal(second, "No such file or directory");
}

static void errno_is_untouched(void **state)
{
	char buffer[ERROR_TEXT_BYTES];

	errno = 1234;
	dli_error_text(-EIO, buffer);
	dli_error_text(-12345, buffer);
	assert_int_equal(errno, 1234);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(errors_have_words),
		cmocka_unit_test(an_unknown_error_has_its_number),
		cmocka_unit_test(two_texts_do_not_share_memory),
		cmocka_unit_test(errno_is_untouched),
	};

	return RUN_TESTS("error_text", tests);
}
