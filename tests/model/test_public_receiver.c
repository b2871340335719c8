/* SPDX-License-Identifier: MIT */
/* The oracle of dirtylog/model.h: it finds each kind of lost write, and nothing else. */
#include "public.h"

static const struct dlm_options kernels[] = {
	{ .size = sizeof(struct dlm_options) },
	{ .size = sizeof(struct dlm_options), .pml_entries = 512 },
	{ .size = sizeof(struct dlm_options), .arch = DLM_ARCH_ARM64 },
	{ .size = sizeof(struct dlm_options), .write_order = DLM_ORDER_STORE_THEN_LOG },
	{ .size = sizeof(struct dlm_options), .has = DLM_HAS_NOTHING },
	{ .size = sizeof(struct dlm_options), .has = DLM_HAS_MANUAL_PROTECT },
	{ .size = sizeof(struct dlm_options),
	  .has = DLM_HAS_MANUAL_PROTECT | DLM_HAS_INITIALLY_SET },
};

enum { KERNELS = sizeof(kernels) / sizeof(kernels[0]) };

static void migrate(const struct dlm_options *kernel, uint32_t kind)
{
	struct dlm_stale stale = { .size = sizeof(stale) };
	uint64_t given, kept;

	rig_open(kernel, DL_MODE_AUTO, kind);
	rig_join(0);
	rig_touch(0, PAGES);
	assert_int_equal(rig_pass(0), PAGES);
	for (unsigned int i = 1; i < 5; i++) {
		rig_touch(i * 7, 300 / i);
		assert_int_equal(dlm_vmm_write(rig.vm, "disk", 0, GPA + i * PAGE, NULL, 8), 0);
		assert_int_equal(dl_mark_gpa(rig.log, 0, GPA + i * PAGE, 8), 0);
		assert_int_not_equal(rig_pass(0), 0);
		assert_int_equal(dlm_receiver_check(rig.receiver, &stale), 0);
	}
	rig_touch(11, 3);
	assert_int_equal(dlm_receiver_compare(rig.receiver, NULL), 1);
	rig_finish();
	rig_expect_equal();
	assert_int_equal(dlm_receiver_pages(rig.receiver, &given, &kept), 0);
	assert_int_equal(kept, PAGES);
	assert_true(given > kept + 300);
	rig_close();
}

static void finds_nothing_where_nothing_is_lost(void **state)
{
	for (size_t i = 0; i < KERNELS; i++) {
		migrate(&kernels[i], DLM_RECEIVER_GPA);
		migrate(&kernels[i], DLM_RECEIVER_MEMORY);
	}
}

/* More pages than its first tables have room for: writers and copies of all are remembered. */
static void remembers_many_pages(void **state)
{
	enum { MANY = 5000 };
	const uint64_t gpa = GPA + UINT64_C(0x40000000);
	uint64_t kept;
	void *memory;

	rig_open(NULL, DL_MODE_BITMAP, DLM_RECEIVER_MEMORY);
	assert_int_equal(dlm_memory_new(rig.vm, MANY * PAGE, &memory), 0);
	rig_set_slot(SLOT + 1, gpa, memory, MANY * PAGE, 0);
	rig_join(DL_CURSOR_CLEAN);
	assert_int_equal(dlm_receiver_equalize(rig.receiver), 0);
	assert_int_equal(dlm_receiver_pages(rig.receiver, NULL, &kept), 0);
	assert_int_equal(kept, MANY + PAGES);
	rig_expect_equal();
	assert_int_equal(dlm_vmm_write(rig.vm, "disk", 0, gpa, NULL, MANY * PAGE), 0);
	for (uint64_t page = 0; page < MANY; page += 499) {
		struct dlm_stale stale = rig_stale();

		assert_int_equal(stale.offset_bytes, page * PAGE);
		assert_int_equal(stale.pages, MANY - page);
		assert_int_equal(stale.flags & DLM_STALE_NEVER_COPIED, 0);
		assert_int_equal(stale.writer, DLM_WRITER_VMM);
		assert_string_equal(stale.who, "disk");
		for (uint64_t i = page; i < page + 499 && i < MANY; i++)
			assert_int_equal(dlm_receiver_put_memory(rig.receiver,
								 (char *)memory + i * PAGE,
								 (char *)memory + i * PAGE, PAGE),
					 0);
	}
	rig_expect_equal();
	rig_close();
}

static void names_a_device_that_does_not_mark(void **state)
{
	struct dlm_stale stale = { .size = sizeof(stale) };

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	rig_join(0);
	rig_pass(0);
	rig_touch(3, 1);
	assert_int_equal(dlm_vmm_write(rig.vm, "virtio-net", 0, GPA + 7 * PAGE + 100, "x", 1), 0);
	rig_pass(0);
	assert_int_equal(dlm_receiver_check(rig.receiver, &stale), 1);
	assert_int_equal(stale.pages, 1);
	rig_finish();
	stale = rig_stale();
	assert_int_equal(stale.pages, 1);
	assert_int_equal(stale.slot, SLOT);
	assert_int_equal(stale.gpa, GPA + 7 * PAGE);
	assert_int_equal(stale.hva, (uintptr_t)rig.memory + 7 * PAGE);
	assert_int_equal(stale.offset_bytes, 7 * PAGE);
	assert_int_equal(stale.at_byte, 100);
	assert_int_equal(stale.page_bytes, PAGE);
	assert_int_equal(stale.writer, DLM_WRITER_VMM);
	assert_string_equal(stale.who, "virtio-net");
	assert_int_equal(stale.write, 2);
	assert_int_equal(stale.copied_after, 0);
	assert_int_equal(stale.flags, 0);
	expect_says(&stale, "guest address 0x1007000 (slot 0:1, offset 0x7000)");
	expect_says(&stale, "from byte 100 on");
	expect_says(&stale, "the VMM (virtio-net)");
	expect_says(&stale, "was it marked?");
	/* The mark comes late, and helps all the same. */
	assert_int_equal(dl_mark_gpa(rig.log, 0, stale.gpa, 1), 0);
	rig_finish();
	rig_expect_equal();
	rig_close();
}

static void names_a_writer_that_is_not_announced(void **state)
{
	struct dlm_stale stale;
	char *bytes;

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_MEMORY);
	rig_join(0);
	rig_touch(5, 1);
	rig_finish();
	bytes = rig.memory;
	bytes[5 * PAGE + 4095] = 1;
	stale = rig_stale();
	assert_int_equal(stale.writer, DLM_WRITER_UNKNOWN);
	assert_int_equal(stale.write, 0);
	assert_int_equal(stale.at_byte, 4095);
	expect_says(&stale, "nobody that the model knows");
	assert_int_equal(dlm_vmm_wrote(rig.vm, NULL, bytes + 5 * PAGE + 4095, 1), 0);
	stale = rig_stale();
	assert_int_equal(stale.writer, DLM_WRITER_VMM);
	assert_null(stale.who);
	rig_close();
}

static void names_contents_that_are_read_too_early(void **state)
{
	static unsigned char early[PAGE];
	struct dl_extent extent;
	struct dlm_stale stale;

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	rig_join(0);
	rig_pass(0);
	rig_touch(9, 1);
	assert_int_equal(dlm_receiver_pass(rig.receiver), 0);
	assert_int_equal(dl_harvest(rig.cursor, 0, NULL), 0);
	dlm_copy(early, (char *)rig.memory + 9 * PAGE, PAGE);
	rig_touch(9, 1);
	assert_int_equal(dl_cursor_read(rig.cursor, &extent, 1), 1);
	assert_int_equal(dlm_receiver_put_gpa(rig.receiver, 0, extent.gpa, early, PAGE), 0);
	assert_int_equal(dl_cursor_end(rig.cursor, DL_END_COMMIT), 0);
	stale = rig_stale();
	assert_int_equal(stale.flags & DLM_STALE_OLD_CONTENTS, DLM_STALE_OLD_CONTENTS);
	assert_int_equal(stale.writer, DLM_WRITER_VCPU);
	assert_int_equal(stale.vcpu, 0);
	expect_says(&stale, "by vCPU 0");
	expect_says(&stale, "had been read before it");
	rig_close();
}

static void names_a_harvest_that_is_missing(void **state)
{
	const struct dlm_options arm64 = { .size = sizeof(arm64), .arch = DLM_ARCH_ARM64 };
	struct dlm_stale stale;

	rig_open(&arm64, DL_MODE_RING, DLM_RECEIVER_GPA);
	rig_join(0);
	rig_finish();
	assert_int_equal(dlm_kernel_write(rig.vm, 0, GPA + 20 * PAGE, NULL, 8), 0);
	rig_touch(30, 1);
	stale = rig_stale();
	assert_int_equal(stale.pages, 2);
	assert_int_equal(stale.writer, DLM_WRITER_KERNEL);
	assert_int_equal(stale.flags, DLM_STALE_RECORDED);
	assert_int_equal(stale.states & DLM_PAGE_IN_BITMAP, DLM_PAGE_IN_BITMAP);
	expect_says(&stale, "the kernel (no vCPU)");
	expect_says(&stale, "recorded in the bitmap: a harvest is missing");
	expect_says(&stale, "2 pages are stale in all");
	rig_finish();
	rig_expect_equal();
	rig_close();
}

static void names_an_its_write_that_nothing_records(void **state)
{
	struct dlm_stale stale;

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	rig_join(0);
	rig_finish();
	assert_int_equal(dlm_kernel_write(rig.vm, 0, GPA, "ab", 2), 0);
	rig_finish();
	stale = rig_stale();
	assert_int_equal(stale.writer, DLM_WRITER_KERNEL);
	assert_int_equal(stale.flags, 0);
	expect_says(&stale, "KVM has no record of it.");
	rig_close();
}

static void knows_what_was_never_copied(void **state)
{
	struct dlm_stale stale;

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	stale = rig_stale();
	assert_int_equal(stale.pages, PAGES);
	assert_int_equal(stale.flags, DLM_STALE_NEVER_COPIED);
	expect_says(&stale, "was never given to the receiver");
	assert_int_equal(dlm_receiver_equalize(rig.receiver), 0);
	rig_expect_equal();
	rig_join(DL_CURSOR_CLEAN);
	rig_touch(1, 2);
	assert_int_equal(rig_pass(0), 2);
	rig_expect_equal();
	rig_close();
}

/* A receiver by address needs a slot's pages again when the slot moves; one by memory does not. */
static void tells_the_two_kinds_apart(void **state)
{
	for (uint32_t kind = DLM_RECEIVER_GPA; kind <= DLM_RECEIVER_MEMORY; kind++) {
		rig_open(NULL, DL_MODE_RING, kind);
		rig_join(0);
		rig_finish();
		rig_set_slot(SLOT, 4 * GPA, rig.memory, BYTES, 0);
		assert_int_equal(dlm_receiver_compare(rig.receiver, NULL),
				 kind == DLM_RECEIVER_GPA);
		assert_int_equal(dlm_receiver_check(rig.receiver, NULL), 0);
		rig_finish();
		rig_expect_equal();
		rig_close();
	}
}

static void takes_aliases_as_one_memory(void **state)
{
	for (uint32_t kind = DLM_RECEIVER_GPA; kind <= DLM_RECEIVER_MEMORY; kind++) {
		rig_open(NULL, DL_MODE_RING, kind);
		rig_set_slot(9, 8 * GPA, (char *)rig.memory + 4 * PAGE, 8 * PAGE, 0);
		rig_join(0);
		rig_pass(0);
		assert_int_equal(dlm_vcpu_write(rig.vcpu, 0, 8 * GPA, NULL, 8, NULL), 0);
		assert_int_equal(rig_stale().gpa, GPA + 4 * PAGE);
		rig_finish();
		rig_expect_equal();
		rig_close();
	}
}

static void counts_a_page_that_comes_twice(void **state)
{
	struct dl_extent extent;
	char page[PAGE] = { 0 };

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_MEMORY);
	rig_join(0);
	assert_int_equal(dlm_receiver_pass(rig.receiver), 0);
	assert_int_equal(dl_harvest(rig.cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(rig.cursor, &extent, 1), 1);
	assert_int_equal(dlm_receiver_put(rig.receiver, &extent, 1), 0);
	expect_error(dlm_receiver_put(rig.receiver, &extent, 1), EEXIST, "twice");
	expect_error(dlm_receiver_put_memory(rig.receiver, rig.memory, page, PAGE), EEXIST,
		     "twice");
	assert_int_equal(dlm_receiver_pass(rig.receiver), 0);
	assert_int_equal(dlm_receiver_put(rig.receiver, &extent, 1), 0);
	rig_close();
}

static void refuses_misuse(void **state)
{
	struct dlm_stale stale = { .size = 4 };
	struct dl_extent extent = { .slot = SLOT, .bytes = PAGE };
	struct dlm_receiver *receiver;
	char page[PAGE] = { 0 };

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	expect_error(dlm_receiver_check(rig.receiver, NULL), EBUSY, "dlm_receiver_pass()");
	expect_error(dlm_receiver_compare(rig.receiver, &stale), EINVAL, "stale.size");
	expect_error(dlm_receiver_new(rig.vm, 3, &receiver), EINVAL, "kind");
	assert_null(receiver);
	expect_error(dlm_receiver_new(rig.vm, DLM_RECEIVER_GPA, NULL), EINVAL, "receiver");
	extent.gpa = GPA + PAGE;
	extent.hva = (uintptr_t)rig.memory;
	expect_error(dlm_receiver_put(rig.receiver, &extent, 1), EFAULT, "extent");
	extent.gpa = GPA;
	extent.slot = 2;
	expect_error(dlm_receiver_put(rig.receiver, &extent, 1), EFAULT, "no slot 0x2");
	extent.slot = SLOT;
	extent.bytes = 100;
	expect_error(dlm_receiver_put(rig.receiver, &extent, 1), EINVAL, "not made of pages");
	extent.bytes = BYTES + PAGE;
	expect_error(dlm_receiver_put(rig.receiver, &extent, 1), EFAULT, "extent");
	expect_error(dlm_receiver_put(rig.receiver, NULL, 1), EINVAL, "extents");
	expect_error(dlm_receiver_put_memory(rig.receiver, rig.memory, page, PAGE), EBUSY,
		     "other kind");
	expect_error(dlm_receiver_put_gpa(rig.receiver, 0, GPA + 8, page, PAGE), EINVAL, "pages");
	expect_error(dlm_receiver_put_gpa(rig.receiver, 0, GPA, NULL, PAGE), EINVAL, "pages");
	expect_error(dlm_receiver_put_gpa(rig.receiver, 9, GPA, page, PAGE), EINVAL, "as_id");
	assert_int_equal(dlm_receiver_put(NULL, &extent, 1), -EINVAL);
	assert_int_equal(dlm_receiver_put_gpa(NULL, 0, GPA, page, PAGE), -EINVAL);
	assert_int_equal(dlm_receiver_put_memory(NULL, rig.memory, page, PAGE), -EINVAL);
	assert_int_equal(dlm_receiver_pass(NULL), -EINVAL);
	assert_int_equal(dlm_receiver_equalize(NULL), -EINVAL);
	assert_int_equal(dlm_receiver_compare(NULL, NULL), -EINVAL);
	assert_int_equal(dlm_receiver_pages(NULL, NULL, NULL), -EINVAL);
	assert_int_equal(dlm_stale_describe(NULL, page, PAGE), -EINVAL);
	assert_int_equal(dlm_stale_describe(&stale, page, PAGE), -EINVAL);
	dlm_receiver_free(NULL);
	rig_close();
}

/* A struct of a later release: its tail is looked at, and only the known part is written. */
static void takes_larger_structs(void **state)
{
	struct {
		struct dlm_stale stale;
		uint64_t later;
	} large = { .stale.size = sizeof(large) };
	char text[4];
	int length;

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	assert_int_equal(dlm_receiver_compare(rig.receiver, &large.stale), 1);
	assert_int_equal(large.stale.size, sizeof(large));
	length = dlm_stale_describe(&large.stale, NULL, 0);
	assert_true(length > 40);
	assert_int_equal(dlm_stale_describe(&large.stale, text, sizeof(text)), length);
	assert_string_equal(text, "The");
	large.later = 1;
	expect_error(dlm_receiver_compare(rig.receiver, &large.stale), E2BIG, "stale");
	assert_int_equal(dlm_stale_describe(&large.stale, text, sizeof(text)), -E2BIG);
	rig_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_nothing_where_nothing_is_lost),
		cmocka_unit_test(remembers_many_pages),
		cmocka_unit_test(names_a_device_that_does_not_mark),
		cmocka_unit_test(names_a_writer_that_is_not_announced),
		cmocka_unit_test(names_contents_that_are_read_too_early),
		cmocka_unit_test(names_a_harvest_that_is_missing),
		cmocka_unit_test(names_an_its_write_that_nothing_records),
		cmocka_unit_test(knows_what_was_never_copied),
		cmocka_unit_test(tells_the_two_kinds_apart),
		cmocka_unit_test(takes_aliases_as_one_memory),
		cmocka_unit_test(counts_a_page_that_comes_twice),
		cmocka_unit_test(refuses_misuse),
		cmocka_unit_test(takes_larger_structs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
