/* SPDX-License-Identifier: MIT */
/*
 * Verifies the model: the same operations on it and on this machine's kernel, with a real guest,
 * must have the same results, errno values, bitmaps, ring entries and memory.
 */
#include "differential.h"

static void capabilities(void **unused)
{
	static const struct op script[] = {
		{ OP_CHECK, CAP_TSO },
		{ OP_CHECK, CAP_TSO, 1 },
		{ OP_CHECK, CAP_RING },
		{ OP_CHECK, CAP_RING, 1 },
		{ OP_CHECK, CAP_BACKUP },
		{ OP_CHECK, CAP_BACKUP, 1 },
		{ OP_CHECK, CAP_MANUAL },
		{ OP_CHECK, CAP_MANUAL, 1 },
		{ OP_CHECK, KVM_CAP_NR_MEMSLOTS },
		{ OP_CHECK, KVM_CAP_USER_MEMORY },
		{ OP_CHECK, KVM_CAP_READONLY_MEM },
		{ OP_IOCTL, 0, KVM_GET_API_VERSION },
		{ OP_IOCTL, 1, KVM_GET_API_VERSION },
		{ OP_IOCTL, 0, _IO('T', 1) },
		{ OP_IOCTL, 1, _IO('T', 1) },
		{ OP_VCPU },
		{ OP_IOCTL, 2, _IO('T', 1) },
		{ OP_IOCTL, 2, KVM_CHECK_EXTENSION },
		{ OP_IOCTL, 2, KVM_RESET_DIRTY_RINGS },
		{ OP_RESET_RAW },
		{ OP_ENABLE, 99999 },
	};

	(void)unused;
	need_host(0);
	run(script, COUNT_OF(script));
}

/* Each size on a new VM. */
static void ring_sizes(void **unused)
{
	static const uint64_t sizes[] = {
		0,	 1,	  16,	   1024,       2048,	   4096,
		4097,	 6144,	  8192,	   16384,      32768,	   65536,
		1 << 20, 2 << 20, 3 << 20, 1ULL << 31, 1ULL << 32, (1ULL << 32) + 65536
	};
	static const uint32_t capabilities_tried[] = { CAP_TSO, CAP_RING };
	size_t i, c;

	(void)unused;
	need_host(0);
	for (c = 0; c < COUNT_OF(capabilities_tried); c++) {
		for (i = 0; i < COUNT_OF(sizes); i++) {
			const struct op script[] = {
				{ OP_ENABLE, capabilities_tried[c], sizes[i], i % 2 },
				{ OP_RESET_RAW },
				{ OP_ENABLE, capabilities_tried[c], 65536 },
				{ OP_ENABLE, capabilities_tried[c], sizes[i] },
			};

			run(script, COUNT_OF(script));
		}
	}
}

static void enable_order(void **unused)
{
	static const struct op slot_first[] = {
		{ OP_ENABLE, CAP_BACKUP },	 { OP_REGION, 0, 0, 0, 100 },
		{ OP_ENABLE, CAP_RING, 65536 },	 { OP_ENABLE, CAP_BACKUP },
		{ OP_ENABLE, CAP_BACKUP, 0, 1 }, { OP_REGION, 0, 0, 0, 0 },
		{ OP_ENABLE, CAP_BACKUP, 0, 1 }, { OP_ENABLE, CAP_BACKUP },
		{ OP_ENABLE, CAP_BACKUP },	 { OP_RESET_RAW },
	};
	static const struct op vcpu_first[] = {
		{ OP_VCPU },
		{ OP_ENABLE, CAP_RING, 65536 },
		{ OP_ENABLE, CAP_TSO, 65536 },
		{ OP_ENABLE, CAP_BACKUP },
		{ OP_RESET_RAW },
	};
	static const struct op manual[] = {
		{ OP_ENABLE, CAP_MANUAL, 2 },	{ OP_ENABLE, CAP_MANUAL, 1, 1 },
		{ OP_ENABLE, CAP_MANUAL, 4 },	{ OP_ENABLE, CAP_MANUAL, 5 },
		{ OP_ENABLE, CAP_MANUAL, 3 },	{ OP_ENABLE, CAP_MANUAL, 0 },
		{ OP_ENABLE, CAP_MANUAL, 1 },	{ OP_ENABLE, CAP_MANUAL, 1ULL << 32 },
		{ OP_ENABLE, CAP_RING, 65536 }, { OP_ENABLE, CAP_MANUAL, 3 },
	};

	(void)unused;
	need_host(0);
	run(slot_first, COUNT_OF(slot_first));
	run(vcpu_first, COUNT_OF(vcpu_first));
	run(manual, COUNT_OF(manual));
}

static void regions(void **unused)
{
	static const struct op script[] = {
		{ OP_REGION, 0, LOG, 0, 100, HVA(0) },
		{ OP_REGION, 0, LOG, 0, 100, HVA(0) },
		{ OP_REGION, 0, LOG, 0, 99, HVA(0) },
		{ OP_REGION, 0, LOG, 0, 100, HVA(0) + 1 },
		{ OP_REGION, 0, LOG | 2, 0, 100, HVA(0) },
		{ OP_REGION, 0, 2, 0, 100, HVA(0) },
		{ OP_REGION, 0, 4, 0, 100, HVA(0) },
		{ OP_REGION, 0, 16, 0, 100, HVA(0) },
		{ OP_REGION, 1, 0, 99, 1, HVA(1) },
		{ OP_REGION, 1, 0, 100, 1, HVA(1) },
		{ OP_REGION, 1, 0, 99, 1, HVA(1) },
		{ OP_REGION, 1, LOG, 102, 1, HVA(1) },
		{ OP_GET, 1 },
		{ OP_REGION, 1, 2, 102, 1, HVA(1) },
		{ OP_REGION, 1, 0, 0, 0, 0 },
		{ OP_REGION, 1, 0, 0, 0, 0 },
		{ OP_REGION, 1, LOG | 2, 200, 64, HVA(1) },
		{ OP_GET, 1 },
		{ OP_REGION, 1, 2, 200, 64, HVA(1) },
		{ OP_GET, 1 },
		{ OP_REGION, 2, 0, 0, ALL >> 12, HVA(2) },
		{ OP_REGION, 2, 0, 1 << 20, 1ULL << 31, HVA(2) },
		{ OP_REGION, 9 << 16, 0, 0, 1, HVA(2) },
		{ OP_REGION, 0xffff, 0, 300, 1, HVA(2) },
		{ OP_REGION, 0, 0, 0, 0, 0 },
		{ OP_GET, 0 },
		{ OP_REGION, 0, LOG, 500, 100, HVA(0) },
		{ OP_GET, 0 },
		{ OP_GET, 0xffff },
		{ OP_GET, 9 << 16 },
		{ OP_CLEAR, 0, 0, 100, ALL },
		{ OP_CLEAR, 0, 0, 64, ALL },
		{ OP_CLEAR, 0, 64, 36, ALL },
		{ OP_CLEAR, 0, 64, 35, ALL },
		{ OP_CLEAR, 0, 32, 64, ALL },
		{ OP_CLEAR, 0, 0, 0, ALL },
		{ OP_CLEAR, 0, 128, 0, ALL },
		{ OP_CLEAR, 0, 64, 64, ALL },
		{ OP_CLEAR, 0, 0, 99, ALL },
		{ OP_CLEAR, 2, 0, 64, ALL },
		{ OP_CLEAR, 2, 1, 64, ALL },
		{ OP_CLEAR, 0xffff, 1, 64, ALL },
		{ OP_CLEAR, 1, 0, 64, ALL },
	};

	(void)unused;
	need_host(MODEL_HAS_MANUAL_PROTECT);
	run(script, COUNT_OF(script));
}

/* In the second address space the same range is free. */
static void address_spaces(void **unused)
{
	static const struct op script[] = {
		{ OP_REGION, 0, LOG, 0, 100, HVA(0) },
		{ OP_REGION, 1 << 16, LOG, 0, 100, HVA(0) },
		{ OP_REGION, 1 << 16 | 1, LOG, 50, 100, HVA(1) },
		{ OP_GET, 1 << 16 },
		{ OP_REGION, 2 << 16, LOG, 0, 100, HVA(0) },
		{ OP_GET, 2 << 16 },
	};

	(void)unused;
	need_host(0);
	run(script, COUNT_OF(script));
}

static void bitmap_automatic(void **unused)
{
	static const struct op script[] = {
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_REGION, 0, 0, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 200, 1, 1 },
		{ OP_GET, 0 },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 3, 50, 3, 2 },
		{ OP_GET, 0 },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 4, 50, 3, 3 },
		{ OP_GET, 0, 1 }, /* fails after clearing */
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 0, 10, 1, 4 },
		{ OP_CLEAR, 0, 0, 64, 0x0f },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 0, 70, 1, 5 },
		{ OP_REGION, 0, LOG, 512, 200, HVA(0) }, /* a move keeps the bits */
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 512, 7, 9, 6 },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 512, 7, 9, 7 },
		{ OP_REGION, 0, 0, 512, 200, HVA(0) },
		{ OP_GET, 0 },
		{ OP_REGION, 0, LOG, 512, 200, HVA(0) },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 512, 7, 9, 8 },
		{ OP_REGION, 0, 0, 0, 0, 0 },
		{ OP_REGION, 0, LOG, 512, 200, HVA(0) },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 712 - 1, 1, 1, 9 },
		{ OP_GET, 0 },
	};

	(void)unused;
	need_host(0);
	run(script, COUNT_OF(script));
}

static void bitmap_manual(void **unused)
{
	static const struct op script[] = {
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_ENABLE, CAP_MANUAL, 1 },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 200, 1, 1 },
		{ OP_GET, 0 },
		{ OP_GET, 0 },
		{ OP_CLEAR, 0, 64, 64, 0x5555 },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 64, 8, 1, 2 },
		{ OP_GET, 0 },
		{ OP_CLEAR, 0, 0, 200, ALL },
		{ OP_GET, 0 },
		{ OP_GET, 0, 1 },
		{ OP_WRITE, 0, 100, 8, 2, 3 },
		{ OP_ENABLE, CAP_MANUAL, 0 }, /* back to automatic, live */
		{ OP_GET, 0 },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 0, 8, 2, 4 },
		{ OP_GET, 0 },
	};

	(void)unused;
	need_host(MODEL_HAS_MANUAL_PROTECT);
	run(script, COUNT_OF(script));
}

static void bitmap_initially_set(void **unused)
{
	static const struct op script[] = {
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_ENABLE, CAP_MANUAL, 3 },
		{ OP_REGION, 0, 0, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 200, 1, 1 },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_GET, 0 },
		{ OP_CLEAR, 0, 0, 64, 0xff },
		{ OP_WRITE, 0, 0, 4, 1, 2 },
		{ OP_GET, 0 },
		{ OP_CLEAR, 0, 0, 200, ALL },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 50, 100, 1, 3 },
		{ OP_GET, 0 },
		{ OP_REGION, 0, 0, 0, 200, HVA(0) },
		{ OP_ENABLE, CAP_MANUAL, 0 },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 50, 3, 1, 4 },
		{ OP_GET, 0 },
	};

	(void)unused;
	need_host(MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET);
	run(script, COUNT_OF(script));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(capabilities),	  cmocka_unit_test(ring_sizes),
		cmocka_unit_test(enable_order),	  cmocka_unit_test(regions),
		cmocka_unit_test(address_spaces), cmocka_unit_test(bitmap_automatic),
		cmocka_unit_test(bitmap_manual),  cmocka_unit_test(bitmap_initially_set),
	};

	return cmocka_run_group_tests_name("model against kernel", tests, look_at_host, NULL);
}
