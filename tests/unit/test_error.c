/* SPDX-License-Identifier: MIT */
/* The last failure in words: one for each field, with the slot and the reason. */
#include "cmocka_all.h"
#include "error.h"

#include <errno.h>
#include <string.h>

static struct dli_error last;

static const char *text_of(enum dli_failure failure, uint32_t slot, int error)
{
	static char text[256];
	int n;

	assert_int_equal(dli_error_note(&last, failure, slot, error), error);
	n = dli_last_error_text(&last, text, sizeof(text));
	assert_int_equal(n, strlen(text));
	return text;
}

static void nothing_has_failed_at_first(void **state)
{
	const struct dli_error none = { 0 };
	char text[4] = "xyz";

	assert_int_equal(dli_last_error_text(&none, text, sizeof(text)), 0);
	assert_string_equal(text, "");
	assert_int_equal(dli_last_error_text(&none, NULL, 0), 0);
}

static void every_failure_has_words_of_its_own(void **state)
{
	char texts[DLI_FAILURES][256];

	for (int i = 1; i < DLI_FAILURES; i++) {
		strcpy(texts[i], text_of(i, DLI_NO_NUMBER, -EINVAL));
		assert_true(strlen(texts[i]) > strlen(": Invalid argument"));
		for (int j = 1; j < i; j++)
			assert_string_not_equal(texts[i], texts[j]);
	}
}

static void the_slot_and_the_reason_are_named(void **state)
{
	assert_string_equal(text_of(DLI_BAD_WORDS, 3, -EINVAL),
			    "n_words does not fit the slot (slot 3 of address space 0): "
			    "Invalid argument");
	assert_string_equal(text_of(DLI_LOGGING_NOT_ON, 1 << 16 | 0xffff, -ENOMEM),
			    "logging could not be switched on (slot 65535 of address space 1): "
			    "Cannot allocate memory");
	assert_string_equal(text_of(DLI_NO_PASS, DLI_NO_NUMBER, -EBUSY),
			    "the cursor has no open pass: Device or resource busy");
}

static void the_last_one_counts(void **state)
{
	text_of(DLI_OVERLAP, 5, -EEXIST);
	assert_string_equal(text_of(DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED),
			    "the log is closed: Operation canceled");
}

/* The largest of each part of the number in which a failure is kept. */
static void the_parts_of_a_failure_do_not_mix(void **state)
{
	assert_non_null(strstr(text_of(DLI_FAILURES - 1, UINT32_MAX - 1, -4095),
			       "(slot 65534 of address space 65535)"));
	assert_non_null(strstr(text_of(DLI_BAD_FLAGS, 0, -1), "(slot 0 of address space 0)"));
}

static void a_text_is_cut_as_snprintf_does(void **state)
{
	char text[8];
	int n = (int)strlen(text_of(DLI_CLOSED, DLI_NO_NUMBER, -ECANCELED));

	memset(text, 'x', sizeof(text));
	assert_int_equal(dli_last_error_text(&last, text, 7), n);
	assert_memory_equal(text, "the lo\0x", 8);
	assert_int_equal(dli_last_error_text(&last, NULL, 0), n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_has_failed_at_first),
		cmocka_unit_test(every_failure_has_words_of_its_own),
		cmocka_unit_test(the_slot_and_the_reason_are_named),
		cmocka_unit_test(the_last_one_counts),
		cmocka_unit_test(the_parts_of_a_failure_do_not_mix),
		cmocka_unit_test(a_text_is_cut_as_snprintf_does),
	};

	return RUN_TESTS("error", tests);
}
