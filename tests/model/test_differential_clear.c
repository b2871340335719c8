/* SPDX-License-Identifier: MIT */
/* The model against this machine's kernel: a CLEAR of some bits, and slots over the same memory. */
#include "differential.h"

#define MANY  100000
#define HOLES 0x8000000000000105ULL
#define BOTH  (LOG | KVM_MEM_READONLY)

/* Only these bits are cleared, and a store to one of these pages sets its bit again. */
static void clear_of_some_bits(void **unused)
{
	static const struct op script[] = {
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_ENABLE, CAP_MANUAL, 1 },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 200, 1, 1 },
		{ OP_CLEAR, 0, 0, 200, HOLES },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 0, 3, 2, 2 }, /* cleared, cleared, not cleared */
		{ OP_GET, 0 },
		{ OP_CLEAR, 0, 64, 64, HOLES }, /* clean already, all of them */
		{ OP_GET, 0 },
		{ OP_CLEAR, 0, 0, 128, 0x00ff00ff00ff00ffULL, ALL },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 0, 128, 1, 3 },
		{ OP_GET, 0 },
		{ OP_CLEAR, 0, 0, 200, 0, ALL }, /* the second and the last, partial word */
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 64, 2, 1, 4 },
		{ OP_WRITE, 0, 199, 1, 1, 5 },
		{ OP_GET, 0 },
		{ OP_CLEAR, 0, 192, 8, 1ULL << 7 | 1ULL << 40 }, /* one past the end of the slot */
		{ OP_GET, 0 },
		{ OP_CLEAR, 0, 0, 0, ALL },
		{ OP_CLEAR, 0, 64, 128, 0 },
		{ OP_GET, 0 },
		{ OP_CLEAR, 0, 0, 200, ALL },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 0, 200, 1, 6 }, /* all of them were protected */
		{ OP_GET, 0 },
	};

	(void)unused;
	need_host(MODEL_HAS_MANUAL_PROTECT);
	run(script, COUNT_OF(script));
}

/* Without manual protect a CLEAR may come before a GET, which then clears the rest. */
static void clear_of_some_bits_before_a_get(void **unused)
{
	static const struct op script[] = {
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 150, 1, 1 },
		{ OP_CLEAR, 0, 0, 200, HOLES, 0xf0 },
		{ OP_WRITE, 0, 0, 1, 1, 2 },
		{ OP_GET, 0 },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 2, 100, 1, 3 },
		{ OP_CLEAR, 0, 64, 128, HOLES, HOLES },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 0, 200, 1, 4 },
		{ OP_GET, 0 },
	};

	(void)unused;
	need_host(0);
	run(script, COUNT_OF(script));
}

static void clear_of_some_bits_that_were_initially_set(void **unused)
{
	static const struct op script[] = {
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_ENABLE, CAP_MANUAL, 3 },
		{ OP_REGION, 0, 0, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 200, 1, 1 },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 100, 1, 2 },
		{ OP_CLEAR, 0, 0, 200, HOLES, 0x3c },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 0, 70, 1, 3 },
		{ OP_GET, 0 },
		{ OP_CLEAR, 0, 0, 200, ~HOLES, 0x3c },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 1, 90, 2, 4 },
		{ OP_GET, 0 },
	};

	(void)unused;
	need_host(MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET);
	run(script, COUNT_OF(script));
}

/* A ring shows which pages a CLEAR has protected, as the bits that it left do not. */
static void a_ring_shows_what_a_clear_protects(void **unused)
{
	static const struct op script[] = {
		{ OP_ENABLE, CAP_RING, 65536 },
		{ OP_ENABLE, CAP_BACKUP },
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_ENABLE, CAP_MANUAL, 3 },
		{ OP_REGION, 0, 0, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 200, 1, 1 },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 200, 1, 2 },
		{ OP_TAKE, 0, MANY },
		{ OP_CLEAR, 0, 0, 200, HOLES, 0x3c },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 0, 200, 1, 3 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
		{ OP_CLEAR, 0, 0, 200, ALL },
		{ OP_WRITE, 0, 0, 200, 1, 4 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
	};

	(void)unused;
	need_host(MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP | MODEL_HAS_INITIALLY_SET);
	run(script, COUNT_OF(script));
}

/* A store sets the bit of the slot that it went through, and no other. */
static void aliases_with_manual_protect(void **unused)
{
	static const struct op script[] = {
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_VCPU },
		{ OP_ENABLE, CAP_MANUAL, 1 },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_REGION, 1, LOG, 512, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 10, 1, 1 },
		{ OP_GET, 0 },
		{ OP_GET, 1 },
		{ OP_WRITE, 1, 512 + 5, 10, 1, 2 },
		{ OP_GET, 0 },
		{ OP_GET, 1 },
		{ OP_CLEAR, 0, 0, 200, ALL },
		{ OP_GET, 1 }, /* the other's bits stay */
		{ OP_WRITE, 1, 512 + 5, 5, 1, 3 },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 5, 5, 1, 4 },
		{ OP_GET, 0 },
		{ OP_CLEAR, 1, 0, 200, 0x3e0 },
		{ OP_GET, 0 },
		{ OP_GET, 1 },
		{ OP_WRITE, 0, 0, 20, 1, 5 },
		{ OP_GET, 1 },
		{ OP_WRITE, 0, 512, 20, 1, 6 },
		{ OP_GET, 1 },
	};

	(void)unused;
	need_host(MODEL_HAS_MANUAL_PROTECT);
	run(script, COUNT_OF(script));
}

static void aliases_cleared_by_get(void **unused)
{
	static const struct op script[] = {
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_REGION, 1, LOG, 512, 150, HVA(0) + 50 }, /* a part of it */
		{ OP_WRITE, 0, 40, 20, 1, 1 },
		{ OP_WRITE, 0, 512, 20, 1, 2 },
		{ OP_GET, 0 }, /* protects the pages of this slot only */
		{ OP_WRITE, 0, 512, 30, 1, 3 },
		{ OP_WRITE, 0, 50, 2, 1, 4 },
		{ OP_GET, 1 },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 512, 3, 1, 5 },
		{ OP_GET, 0 },
		{ OP_GET, 1 },
	};

	(void)unused;
	need_host(0);
	run(script, COUNT_OF(script));
}

/* An alias comes, is not logged, is read-only, moves, and goes. */
static void aliases_that_change(void **unused)
{
	static const struct op script[] = {
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 200, 1, 1 },
		{ OP_REGION, 1, 0, 512, 200, HVA(0) }, /* not logged: recorded nowhere */
		{ OP_WRITE, 0, 512, 20, 1, 2 },
		{ OP_GET, 0 },
		{ OP_WRITE, 0, 512, 20, 1, 3 },
		{ OP_GET, 0 },
		{ OP_GET, 1 },
		{ OP_REGION, 1, LOG, 512, 200, HVA(0) },
		{ OP_WRITE, 0, 512, 20, 1, 4 },
		{ OP_GET, 1 },
		{ OP_WRITE, 0, 512 + 7, 7, 1, 5 },
		{ OP_REGION, 1, LOG, 1024, 200, HVA(0) }, /* a move keeps its bits */
		{ OP_WRITE, 0, 1024 + 30, 7, 1, 6 },
		{ OP_WRITE, 0, 3, 7, 1, 7 },
		{ OP_GET, 0 },
		{ OP_GET, 1 },
		{ OP_WRITE, 0, 1024, 20, 1, 8 },
		{ OP_REGION, 0, 0, 0, 0, 0 }, /* the older goes: the bits of the other stay */
		{ OP_GET, 0 },
		{ OP_GET, 1 },
		{ OP_WRITE, 0, 1024, 20, 1, 9 },
		{ OP_GET, 1 },
		{ OP_REGION, 0, BOTH, 0, 200, HVA(0) }, /* read-only, over writable memory */
		{ OP_WRITE, 0, 0, 5, 1, 10 },
		{ OP_GET, 0 },
		{ OP_GET, 1 },
		{ OP_REGION, 1, 0, 0, 0, 0 },
		{ OP_GET, 1 },
	};

	(void)unused;
	need_host(0);
	run(script, COUNT_OF(script));
}

/* An entry names the slot of its store, and RESET protects the pages of that slot only. */
static void aliases_with_a_ring(void **unused)
{
	static const struct op script[] = {
		{ OP_ENABLE, CAP_RING, 65536 },
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_VCPU },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_REGION, 1, LOG, 512, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 10, 1, 1 },
		{ OP_WRITE, 0, 512, 10, 1, 2 },
		{ OP_TAKE, 0, 10 },
		{ OP_RESET },
		{ OP_WRITE, 0, 0, 10, 1, 3 },	/* protected again */
		{ OP_WRITE, 0, 512, 10, 1, 4 }, /* still writable */
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
		{ OP_WRITE, 0, 5, 5, 1, 5 },
		{ OP_WRITE, 1, 512 + 5, 5, 1, 6 }, /* the same memory, in the other ring */
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
		{ OP_WRITE, 0, 512 + 5, 5, 1, 7 },
		{ OP_TAKE, 0, MANY },
		{ OP_TAKE, 1, MANY },
		{ OP_RESET },
		{ OP_WRITE, 0, 512, 20, 1, 8 },
		{ OP_REGION, 0, 0, 0, 0, 0 }, /* on x86, the pages of all slots are unmapped */
		{ OP_WRITE, 0, 512, 20, 1, 9 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 20, 1, 10 },
		{ OP_WRITE, 0, 512, 20, 1, 11 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
		{ OP_REGION, 1, 0, 512, 200, HVA(0) }, /* the alias is not logged any more */
		{ OP_WRITE, 0, 512, 20, 1, 12 },
		{ OP_TAKE, 0, MANY },
		{ OP_WRITE, 0, 10, 20, 1, 13 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
	};

	(void)unused;
	need_host(MODEL_HAS_RING_ACQ_REL);
	run(script, COUNT_OF(script));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clear_of_some_bits),
		cmocka_unit_test(clear_of_some_bits_before_a_get),
		cmocka_unit_test(clear_of_some_bits_that_were_initially_set),
		cmocka_unit_test(a_ring_shows_what_a_clear_protects),
		cmocka_unit_test(aliases_with_manual_protect),
		cmocka_unit_test(aliases_cleared_by_get),
		cmocka_unit_test(aliases_that_change),
		cmocka_unit_test(aliases_with_a_ring),
	};

	return cmocka_run_group_tests_name("model against kernel: clears and aliases", tests,
					   look_at_host, NULL);
}
