/* SPDX-License-Identifier: MIT */
/* dlm_memory_alias() of dirtylog/model.h: what the VMM writes through it, watches find. */
#include "public.h"

static bool finds(uint64_t page)
{
	uint64_t words[PAGES / 64] = { 0 };

	assert_int_equal(dl_cursor_take(rig.cursor, SLOT, DL_TAKE_HARVEST, words, PAGES / 64, NULL),
			 0);
	return words[page / 64] >> page % 64 & 1;
}

/* A second mapping of the memory, which the VMM's writes take, and its own if it tells. */
static void maps_memory_twice(void **state)
{
	char text[] = "a device wrote this";
	void *alias, *other;
	char *own;

	rig_open(NULL, DL_MODE_AUTO, DLM_RECEIVER_GPA);
	expect_error(dlm_memory_alias(rig.vm, &rig, &alias), ENOENT, "dlm_memory_new()");
	assert_null(alias);
	expect_error(dlm_memory_alias(rig.vm, rig.memory, NULL), EINVAL, "alias");
	rig_join(DL_CURSOR_CLEAN);
	assert_int_equal(dlm_vmm_write(rig.vm, "nic", 0, GPA, text, sizeof(text)), 0);
	assert_false(finds(0));
	assert_int_equal(dlm_memory_alias(rig.vm, rig.memory, &alias), 0);
	assert_int_equal(dlm_memory_alias(rig.vm, rig.memory, &other), 0);
	assert_ptr_equal(alias, other);
	assert_string_equal(alias, text);
	assert_int_equal(dl_slot_watch(rig.log, SLOT, alias, 0), 0);
	assert_int_equal(dlm_vmm_write(rig.vm, "nic", 0, GPA + 5 * PAGE, text, sizeof(text)), 0);
	assert_true(finds(5));
	assert_string_equal((char *)rig.memory + 5 * PAGE, text);
	rig_touch(6, 1);
	assert_true(finds(6));
	/* The program's own store, which nobody sees before it tells. */
	own = (char *)alias + 7 * PAGE;
	memcpy(own, text, sizeof(text));
	assert_false(finds(7));
	assert_int_equal(dlm_vmm_wrote(rig.vm, "disk", own, sizeof(text)), 0);
	assert_true(finds(7));
	rig_close();
}

/* The oracle knows the page by its first address. */
static void names_who_wrote_through_an_alias(void **state)
{
	void *alias;

	rig_open(NULL, DL_MODE_AUTO, DLM_RECEIVER_MEMORY);
	rig_join(DL_CURSOR_CLEAN);
	assert_int_equal(dlm_receiver_equalize(rig.receiver), 0);
	assert_int_equal(dlm_memory_alias(rig.vm, rig.memory, &alias), 0);
	*((char *)alias + 3 * PAGE) = 1;
	assert_int_equal(dlm_vmm_wrote(rig.vm, "disk", (char *)alias + 3 * PAGE, 1), 0);
	rig_finish();
	assert_int_equal(rig_stale().hva, (uintptr_t)rig.memory + 3 * PAGE);
	assert_string_equal(rig_stale().who, "disk");
	rig_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(maps_memory_twice),
		cmocka_unit_test(names_who_wrote_through_an_alias),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
