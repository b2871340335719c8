/* SPDX-License-Identifier: MIT */
/* The model's bitmaps and memslots: GET, CLEAR, flag changes, moves, deletions, backup bitmap. */
#include "fixture.h"

#include <endian.h>

#define LOG	   KVM_MEM_LOG_DIRTY_PAGES
#define WORDS	   (SLOT_PAGES / 64)
#define CAP_MANUAL KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
#define ALL_SET	   (~0ULL)

static const struct model_options with_backup = { .has = 31 };

static void get_clears_and_protects(void **unused)
{
	uint64_t bits[WORDS];
	struct world w;
	int vcpu;

	(void)unused;
	world_open(&w, NULL);
	vcpu = model_vcpu_create(w.model, w.vm);
	assert_int_equal(slot0(&w, 0), 0);
	assert_int_equal(touch(&w, vcpu, 3), 0); /* before logging: not recorded, writable */
	assert_int_equal(state(&w, 0, 3), 0);
	assert_int_equal(slot0(&w, LOG), 0);
	assert_int_equal(state(&w, 0, 3), MODEL_PAGE_PROTECTED);
	assert_int_equal(touch(&w, vcpu, 3), 0);
	assert_int_equal(touch(&w, vcpu, 100), 0);
	assert_int_equal(state(&w, 0, 3), MODEL_PAGE_IN_BITMAP);
	memset(bits, 0xff, sizeof(bits));
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_true(bits[0] == htole64(1 << 3) && bits[1] == htole64(1ULL << 36));
	assert_true(!bits[2] && !bits[7]);
	assert_int_equal(state(&w, 0, 3), MODEL_PAGE_PROTECTED);
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_true(!bits[0] && !bits[1]);
	world_close(&w);
}

static void manual_get_does_not_clear(void **unused)
{
	uint64_t bits[WORDS], wanted[1] = { htole64(1 << 3) };
	struct world w;
	int vcpu;

	(void)unused;
	world_open(&w, NULL);
	vcpu = model_vcpu_create(w.model, w.vm);
	assert_int_equal(enable(&w, CAP_MANUAL, 1, 0), 0);
	assert_int_equal(slot0(&w, LOG), 0);
	assert_int_equal(touch(&w, vcpu, 3), 0);
	assert_int_equal(touch(&w, vcpu, 4), 0);
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_true(bits[0] == htole64(0x18));
	assert_int_equal(state(&w, 0, 3), MODEL_PAGE_IN_BITMAP);
	assert_int_equal(clear_log(&w, 0, 0, 64, wanted), 0);
	assert_int_equal(state(&w, 0, 3), MODEL_PAGE_PROTECTED);
	assert_int_equal(state(&w, 0, 4), MODEL_PAGE_IN_BITMAP);
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_true(bits[0] == htole64(0x10));
	world_close(&w);
}

static void initially_set(void **unused)
{
	uint64_t bits[2], page_bits[2] = { htole64(1 << 9), ALL_SET };
	struct world w;
	int vcpu;

	(void)unused;
	world_open(&w, NULL);
	vcpu = model_vcpu_create(w.model, w.vm);
	assert_int_equal(enable(&w, CAP_MANUAL, 3, 0), 0);
	assert_int_equal(region(&w, 0, 0, SLOT_GPA, 100, w.memory), 0);
	assert_int_equal(touch(&w, vcpu, 9), 0);
	assert_int_equal(region(&w, 0, LOG, SLOT_GPA, 100, w.memory), 0);
	assert_int_equal(state(&w, 0, 9), MODEL_PAGE_IN_BITMAP); /* and still writable */
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_true(bits[0] == ALL_SET && bits[1] == htole64((1ULL << 36) - 1));
	assert_int_equal(clear_log(&w, 0, 0, 100, page_bits), 0);
	assert_int_equal(state(&w, 0, 9), MODEL_PAGE_PROTECTED);
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_true(bits[0] == htole64(~(1ULL << 9)) && bits[1] == 0);
	world_close(&w);
}

static void initially_set_with_a_ring_loses_writes(void **unused)
{
	struct consumer c;
	struct world w;

	(void)unused;
	world_open(&w, NULL);
	assert_int_equal(enable(&w, KVM_CAP_DIRTY_LOG_RING, RING_BYTES, 0), 0);
	assert_int_equal(enable(&w, CAP_MANUAL, 3, 0), 0);
	assert_int_equal(slot0(&w, 0), 0);
	consumer_open(&w, &c);
	assert_int_equal(touch(&w, c.vcpu, 9), 0);
	assert_int_equal(slot0(&w, LOG), 0);
	assert_int_equal(state(&w, 0, 9), 0);
	assert_int_equal(touch(&w, c.vcpu, 9), 0);
	assert_int_equal(consume_all(&c), 0);
	world_close_consumer(&w, &c);
}

struct clear_case {
	uint32_t slot, pages;
	uint64_t first;
	int result;
};

/* Slot 0 has 100 pages. */
static const struct clear_case clear_cases[] = {
	{ 0, 100, 0, 0 },
	{ 0, 64, 0, 0 },
	{ 0, 36, 64, 0 },
	{ 0, 0, 0, 0 },
	{ 0, 0, 64, 0 },
	{ 0, 64, 32, -EINVAL },
	{ 0, 99, 0, -EINVAL },
	{ 0, 1, 64, -EINVAL },
	{ 0, 128, 0, -EINVAL },
	{ 0, 64, 64, -EINVAL },
	{ 0, 0, 128, -EINVAL },
	{ 0, 64, ~63ULL, -EINVAL },
	{ 1, 64, 0, -ENOENT },
	{ 2, 64, 0, -ENOENT },
	{ 1, 64, 1, -EINVAL },
	{ 40000, 64, 0, -EINVAL },
	{ 2 << 16, 64, 0, -EINVAL },
	{ 1 << 16, 64, 0, -ENOENT },
};

static void clear_checks_its_arguments(void **unused)
{
	uint64_t bits[4] = { ALL_SET, ALL_SET, ALL_SET, ALL_SET };
	struct world w;
	size_t i;

	(void)unused;
	world_open(&w, NULL); /* CLEAR needs no manual protect */
	assert_int_equal(region(&w, 0, LOG, SLOT_GPA, 100, w.memory), 0);
	assert_int_equal(region(&w, 1, 0, SLOT_GPA + (1 << 20), 100, w.memory), 0);
	for (i = 0; i < sizeof(clear_cases) / sizeof(clear_cases[0]); i++) {
		const struct clear_case *c = &clear_cases[i];

		if (clear_log(&w, c->slot, c->first, c->pages, bits) != c->result)
			fail_msg("clear_cases[%zu]: the result is not %d", i, c->result);
	}
	assert_int_equal(clear_log(&w, 0, 0, 100, (void *)8), -EFAULT);
	assert_int_equal(get_log(&w, 1, bits), -ENOENT);
	assert_int_equal(get_log(&w, 7, bits), -ENOENT);
	assert_int_equal(get_log(&w, 40000, bits), -EINVAL);
	assert_int_equal(get_log(&w, 2 << 16, bits), -EINVAL);
	world_close(&w);
}

/* For 100 pages GET writes 16 bytes: not 13, and not more. */
static void get_writes_whole_words(void **unused)
{
	uint8_t bits[17];
	struct world w;

	(void)unused;
	world_open(&w, NULL);
	assert_int_equal(region(&w, 0, LOG, SLOT_GPA, 100, w.memory), 0);
	memset(bits, 0x55, sizeof(bits));
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_int_equal(bits[15], 0);
	assert_int_equal(bits[16], 0x55);
	world_close(&w);
}

static void a_failing_get_has_cleared(void **unused)
{
	const struct model_fault fault = {
		.request = KVM_GET_DIRTY_LOG, .times = 1, .error = EFAULT, .after = true
	};
	uint64_t bits[WORDS];
	struct world w;
	int vcpu, i;

	(void)unused;
	world_open(&w, NULL);
	vcpu = model_vcpu_create(w.model, w.vm);
	assert_int_equal(slot0(&w, LOG), 0);
	for (i = 0; i < 2; i++) {
		assert_int_equal(touch(&w, vcpu, 3), 0);
		if (i)
			assert_int_equal(model_fault(w.model, &fault), 0);
		assert_int_equal(get_log(&w, 0, i ? bits : (void *)8), -EFAULT);
		assert_int_equal(get_log(&w, 0, bits), 0);
		assert_true(!bits[0]);
	}
	world_close(&w);
}

static void ring_alone_has_no_bitmap(void **unused)
{
	uint64_t bits[WORDS], value = 1;
	struct consumer c;
	struct world w;

	(void)unused;
	world_open_consumer(&w, &with_backup, &c);
	assert_int_equal(get_log(&w, 0, bits), -ENXIO);
	assert_int_equal(get_log(&w, 77777, bits), -ENXIO);
	assert_int_equal(clear_log(&w, 77777, 1, 1, bits), -ENXIO);
	assert_int_equal(model_kernel_write(w.model, w.vm, 0, SLOT_GPA, &value, 8), 0);
	assert_int_equal(*(uint64_t *)w.memory, 1);
	assert_int_equal(consume_all(&c), 0); /* lost without an error */
	world_close_consumer(&w, &c);
}

static void backup_takes_writes_without_a_vcpu(void **unused)
{
	uint64_t bits[WORDS], value = 1;
	struct consumer c;
	struct world w;

	(void)unused;
	world_open_ring(&w, &with_backup, true);
	consumer_open(&w, &c);
	assert_int_equal(touch(&w, c.vcpu, 1), 0);
	assert_int_equal(model_kernel_write(w.model, w.vm, 0, SLOT_GPA + 2 * PAGE_BYTES, &value, 8),
			 0);
	assert_int_equal(model_kernel_write(w.model, w.vm, 0, SLOT_GPA + PAGE_BYTES, &value, 8), 0);
	assert_int_equal(state(&w, 0, 1), MODEL_PAGE_IN_RING | MODEL_PAGE_IN_BITMAP);
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_true(bits[0] == htole64(6));
	assert_int_equal(consume_all(&c), 1);
	assert_int_equal(model_kernel_write(w.model, w.vm, 1, SLOT_GPA, &value, 8), -EFAULT);
	world_close_consumer(&w, &c);
}

static void log_off_and_delete_drop_the_bitmap_move_keeps_it(void **unused)
{
	uint64_t bits[WORDS], gpa = SLOT_GPA + (64 << 20);
	struct world w;
	int vcpu;

	(void)unused;
	world_open(&w, NULL);
	vcpu = model_vcpu_create(w.model, w.vm);
	assert_int_equal(slot0(&w, LOG), 0);
	assert_int_equal(touch(&w, vcpu, 1), 0);
	assert_int_equal(slot0(&w, 0), 0);
	assert_int_equal(get_log(&w, 0, bits), -ENOENT);
	assert_int_equal(slot0(&w, LOG), 0);
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_true(!bits[0]);

	assert_int_equal(touch(&w, vcpu, 2), 0);
	assert_int_equal(region(&w, 0, LOG, gpa, SLOT_PAGES, w.memory), 0);
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_true(bits[0] == htole64(4));

	assert_int_equal(model_vcpu_write(w.model, vcpu, 0, gpa, NULL, 1), 0);
	assert_int_equal(region(&w, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(get_log(&w, 0, bits), -ENOENT);
	assert_int_equal(slot0(&w, LOG), 0);
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_true(!bits[0]);
	world_close(&w);
}

struct region_case {
	uint32_t slot, flags;
	uint64_t gpa, pages, hva_offset;
	int result;
};

/* Applied with slot 0, which logs, and slot 1 after it, read-only. */
static const struct region_case region_cases[] = {
	{ 0, LOG, SLOT_GPA, SLOT_PAGES, 0, 0 },		  /* no change */
	{ 0, LOG, SLOT_GPA, SLOT_PAGES - 1, 0, -EINVAL }, /* size */
	{ 0, LOG, SLOT_GPA, SLOT_PAGES, 4096, -EINVAL },  /* hva */
	{ 0, LOG | 2, SLOT_GPA, SLOT_PAGES, 0, -EINVAL }, /* READONLY */
	{ 0, 8, SLOT_GPA, SLOT_PAGES, 0, -EINVAL },	  /* unknown */
	{ 0, 4, SLOT_GPA, SLOT_PAGES, 0, -EINVAL },	  /* guest_memfd, first version */
	{ 0, LOG, SLOT_GPA + 1, SLOT_PAGES, 0, -EINVAL }, /* alignment */
	{ 2, 0, SLOT_GPA + 512, 1, 0, -EINVAL },
	{ 2, 0, SLOT_GPA, 1, 100, -EINVAL },
	{ 2, 0, SLOT_GPA, 1, 0, -EEXIST },
	{ 2, 0, SLOT_GPA - 4096, 2, 0, -EEXIST },
	{ 2, 0, SLOT_GPA - 4096, 1, 0, 0 },
	{ 2, 0, SLOT_GPA, 1, 0, -EEXIST }, /* a move onto slot 0 */
	{ 2, 0, SLOT_GPA - 8192, 1, 0, 0 },
	{ 2, 0, 0, 0, 0, 0 }, /* delete, twice */
	{ 2, 0, 0, 0, 0, -EINVAL },
	{ 1 << 16, 0, SLOT_GPA, 1, 0, 0 }, /* another address space */
	{ 2 << 16, 0, SLOT_GPA, 1, 0, -EINVAL },
	{ 32764, 0, 0, 1, 0, -EINVAL },
	{ 32763, 0, 0, 1, 0, 0 },
	{ 3, 0, ~0xfffULL, 1, 0, -EINVAL }, /* the end wraps to 0 */
	{ 3, 0, ~0xfffULL, 2, 0, -EINVAL },
	{ 3, 0, 1ULL << 45, 1ULL << 31, 0, -EINVAL },
	{ 1, LOG | 2, SLOT_GPA + SLOT_PAGES *PAGE_BYTES, 1, 0, 0 },
	{ 1, LOG, SLOT_GPA + SLOT_PAGES *PAGE_BYTES, 1, 0, -EINVAL },
};

static void regions(void **unused)
{
	struct world w;
	size_t i;

	(void)unused;
	world_open(&w, NULL);
	assert_int_equal(slot0(&w, LOG), 0);
	assert_int_equal(region(&w, 1, 2, SLOT_GPA + SLOT_PAGES * PAGE_BYTES, 1, w.memory), 0);
	for (i = 0; i < sizeof(region_cases) / sizeof(region_cases[0]); i++) {
		const struct region_case *c = &region_cases[i];

		if (region(&w, c->slot, c->flags, c->gpa, c->pages, w.memory + c->hva_offset) !=
		    c->result)
			fail_msg("region_cases[%zu]: the result is not %d", i, c->result);
	}
	world_close(&w);
}

static void guest_memfd(void **unused)
{
	const struct model_options options = { .has_guest_memfd = true };
	struct {
		uint32_t slot, flags;
		uint64_t gpa, bytes, hva, rest[16];
	} arg = { .slot = 1, .flags = 4, .gpa = 0, .bytes = PAGE_BYTES };
	unsigned long request = _IOC(_IOC_WRITE, KVMIO, 0x49, sizeof(arg));
	struct world w;

	(void)unused;
	world_open(&w, &options);
	arg.hva = (uintptr_t)w.memory;
	assert_int_equal(call(&w, w.vm, request, &arg), 0);
	assert_int_equal(call(&w, w.vm, request, &arg), -EINVAL); /* cannot be changed */
	arg.slot = 2;
	arg.gpa = SLOT_GPA;
	arg.flags = 4 | LOG;
	assert_int_equal(call(&w, w.vm, request, &arg), -EINVAL);
	arg.flags = LOG;
	assert_int_equal(call(&w, w.vm, request, &arg), 0);
	world_close(&w);
}

static void read_only_slots(void **unused)
{
	struct world w;
	int vcpu;

	(void)unused;
	world_open(&w, NULL);
	vcpu = model_vcpu_create(w.model, w.vm);
	assert_int_equal(slot0(&w, LOG | KVM_MEM_READONLY), 0);
	assert_int_equal(touch(&w, vcpu, 1), -EFAULT);
	assert_int_equal(model_kernel_write(w.model, w.vm, 0, SLOT_GPA, NULL, 1), -EFAULT);
	world_close(&w);
}

/* arm64: without the backup bitmap a huge page is mapped and logged as one page. */
static void a_ring_alone_logs_one_page_of_a_huge_page(void **unused)
{
	const struct model_options options = { .has = 31,
					       .arch = DL_OS_ARCH_RING_NEEDS_BACKUP,
					       .ring_alone_loses_huge_pages = true };
	int backup;

	(void)unused;
	for (backup = 0; backup < 2; backup++) {
		struct consumer c;
		struct world w;

		world_open_ring(&w, &options, backup);
		consumer_open(&w, &c);
		assert_int_equal(touch(&w, c.vcpu, 1), 0);
		assert_int_equal(touch(&w, c.vcpu, 2), 0);
		assert_int_equal(consume_all(&c), backup ? 2 : 1);
		assert_int_equal(reset(&w), backup ? 2 : 1);
		assert_int_equal(state(&w, 0, 2), MODEL_PAGE_PROTECTED);
		consumer_close(&w, &c);
		world_close(&w);
	}
}

/* Slots of 8 TiB without memory: the model keeps only state of touched pages. */
static void huge_slots_take_little_memory(void **unused)
{
	const struct model_options options = { .no_memory = true, .write_order = 0 };
	uint64_t pages = (1ULL << 31) - 1, page, slot;
	struct consumer c;
	struct world w;

	(void)unused;
	world_open(&w, &options);
	assert_int_equal(enable(&w, KVM_CAP_DIRTY_LOG_RING, RING_BYTES, 0), 0);
	for (slot = 0; slot < 3; slot++)
		assert_int_equal(region(&w, (uint32_t)slot, LOG, slot << 43, pages, NULL), 0);
	consumer_open(&w, &c);
	for (slot = 0; slot < 3; slot++)
		for (page = 0; page < 20; page++)
			assert_int_equal(
				model_vcpu_write(w.model, c.vcpu, 0,
						 (slot << 43) + page * 99999999 * PAGE_BYTES, "x",
						 1),
				0);
	assert_int_equal(consume_all(&c), 60);
	assert_int_equal(reset(&w), 60);
	assert_true(model_page_writes(w.model, w.vm, 2, 99999999) == 1);
	world_close_consumer(&w, &c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(get_clears_and_protects),
		cmocka_unit_test(manual_get_does_not_clear),
		cmocka_unit_test(initially_set),
		cmocka_unit_test(initially_set_with_a_ring_loses_writes),
		cmocka_unit_test(clear_checks_its_arguments),
		cmocka_unit_test(get_writes_whole_words),
		cmocka_unit_test(a_failing_get_has_cleared),
		cmocka_unit_test(ring_alone_has_no_bitmap),
		cmocka_unit_test(backup_takes_writes_without_a_vcpu),
		cmocka_unit_test(log_off_and_delete_drop_the_bitmap_move_keeps_it),
		cmocka_unit_test(regions),
		cmocka_unit_test(guest_memfd),
		cmocka_unit_test(read_only_slots),
		cmocka_unit_test(a_ring_alone_logs_one_page_of_a_huge_page),
		cmocka_unit_test(huge_slots_take_little_memory),
	};

	return cmocka_run_group_tests_name("model: bitmaps and slots", tests, NULL, NULL);
}
