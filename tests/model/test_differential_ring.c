/* SPDX-License-Identifier: MIT */
/* The model against this machine's kernel: rings. */
#include "differential.h"

#define MANY 100000

/* For scripts that need a ring of RING_ENTRIES that is full at an exact number of entries. */
static void need_exact_rings(void)
{
	need_host(MODEL_HAS_RING_ACQ_REL);
	if (options.pml_entries || options.ring_min_bytes > RING_BYTES) {
		print_message("skip: the smallest ring of this kernel has more than %u entries\n",
			      RING_ENTRIES);
		skip();
	}
}

static void entries(void **unused)
{
	static const struct op script[] = {
		{ OP_ENABLE, CAP_RING, 65536 },
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_VCPU },
		{ OP_REGION, 0, 0, 0, 200, HVA(0) },
		{ OP_REGION, 1, 0, 512, 100, HVA(1) },
		{ OP_WRITE, 0, 0, 200, 1, 1 },
		{ OP_TAKE, 0, MANY },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_REGION, 1, LOG, 512, 100, HVA(1) },
		{ OP_WRITE, 0, 0, 20, 7, 2 },
		{ OP_WRITE, 1, 7, 20, 9, 3 },
		{ OP_WRITE, 1, 512, 20, 5, 4 },
		{ OP_TAKE, 0, 5 },
		{ OP_RESET },
		{ OP_TAKE, 0, MANY },
		{ OP_TAKE, 1, MANY },
		{ OP_WRITE, 0, 0, 20, 7, 5 }, /* still writable: no entry */
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
		{ OP_WRITE, 0, 0, 20, 7, 6 },
		{ OP_TAKE, 0, MANY },
		{ OP_TAKE, 1, MANY },
		{ OP_RESET },
		{ OP_RESET },
		{ OP_GET, 0 }, /* no bitmap */
		{ OP_GET, 0xffff },
		{ OP_CLEAR, 0xffff, 1, 1 },
		{ OP_REGION, 0, 0, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 200, 1, 7 },
		{ OP_TAKE, 0, MANY },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 200, 1, 8 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
	};

	(void)unused;
	need_host(MODEL_HAS_RING_ACQ_REL);
	run(script, COUNT_OF(script));
}

static void full_ring(void **unused)
{
	static const struct op script[] = {
		{ OP_ENABLE, CAP_RING, RING_BYTES },
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_VCPU },
		{ OP_REGION, 0, LOG, 0, 512, HVA(0) },
		{ OP_WRITE, 0, 0, 500, 1, 1 },
		{ OP_CONTINUE, 0 },
		{ OP_WRITE, 1, 300, 10, 1, 2 }, /* the other vCPU is not affected */
		{ OP_REGION, 0, 0, 0, 512, HVA(0) },
		{ OP_CONTINUE, 0 }, /* logging off does not let it run */
		{ OP_REGION, 0, LOG, 0, 512, HVA(0) },
		{ OP_TAKE, 0, 1 },
		{ OP_CONTINUE, 0 }, /* nor does reading */
		{ OP_RESET },
		{ OP_CONTINUE, 0 }, /* one free cell, and full again */
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
		{ OP_CONTINUE, 0 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
		{ OP_CONTINUE, 0 },
		{ OP_TAKE, 0, MANY },
		{ OP_TAKE, 1, MANY },
		{ OP_RESET },
	};

	(void)unused;
	need_exact_rings();
	run(script, COUNT_OF(script));
}

/* Breaks the rules about flags on purpose. */
static void broken_flag_rules(void **unused)
{
	static const struct op gap[] = {
		{ OP_ENABLE, CAP_RING, RING_BYTES },
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_REGION, 0, LOG, 0, 512, HVA(0) },
		{ OP_WRITE, 0, 0, 4, 1, 1 },
		{ OP_FLAGS, 0, 1, 3 }, /* released while the first is not */
		{ OP_RESET_RAW },
		{ OP_FLAGS, 0, 0, 0xabcd0002 },
		{ OP_RESET_RAW },
		{ OP_SKIP, 0, 2 },
		{ OP_FLAGS, 0, 0, 0 }, /* cleared, not released: RESET stops before it */
		{ OP_FLAGS, 0, 1, 3 },
		{ OP_RESET_RAW },
	};
	static const struct op too_much[] = {
		{ OP_ENABLE, CAP_RING, RING_BYTES },
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_REGION, 0, LOG, 0, 512, HVA(0) },
		{ OP_FLAGS, 0, 0, 2 },
		{ OP_RESET_RAW },
		{ OP_WRITE, 0, 0, 1, 1, 1 },
		{ OP_FLAGS, 0, 0, 3 },
		{ OP_RESET_RAW },
		{ OP_FLAGS, 0, 1, 2 },
		{ OP_FLAGS, 0, 2, 2 },
		{ OP_RESET_RAW },
		{ OP_WRITE, 0, 5, 1, 1, 1 }, /* permanently full */
		{ OP_RESET_RAW },
		{ OP_CONTINUE, 0 },
	};

	(void)unused;
	need_exact_rings();
	run(gap, COUNT_OF(gap));
	run(too_much, COUNT_OF(too_much));
}

/* Entries outlive their slot; RESET still takes them. */
static void slots_that_change(void **unused)
{
	static const struct op script[] = {
		{ OP_ENABLE, CAP_RING, 65536 },
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 30, 2, 1 },
		{ OP_REGION, 0, 0, 0, 0, 0 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 100, 40, 2, 2 },
		{ OP_REGION, 0, 0, 0, 0, 0 },
		{ OP_REGION, 0, LOG, 0, 64, HVA(0) }, /* smaller: most entries are now outside */
		{ OP_WRITE, 0, 60, 4, 1, 3 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
		{ OP_WRITE, 0, 60, 4, 1, 4 },
		{ OP_TAKE, 0, MANY },
		{ OP_REGION, 0, LOG, 512, 64, HVA(0) }, /* moved before the reset */
		{ OP_WRITE, 0, 512 + 60, 4, 1, 5 },
		{ OP_RESET },
		{ OP_WRITE, 0, 512 + 60, 4, 1, 6 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
	};

	(void)unused;
	need_host(MODEL_HAS_RING_ACQ_REL);
	run(script, COUNT_OF(script));
}

/*
 * A slot is re-created smaller before its old entries are reset. Old and new entries form one
 * batch, part of which lies outside the slot, so the kernel protects none of it: later writes to
 * page 60 are not logged.
 */
static void entries_outside_a_slot_spoil_their_batch(void **unused)
{
	static const struct op script[] = {
		{ OP_ENABLE, CAP_RING, 65536 },
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 70, 4, 1, 1 },
		{ OP_REGION, 0, 0, 0, 0, 0 },
		{ OP_REGION, 0, LOG, 0, 64, HVA(0) },
		{ OP_WRITE, 0, 60, 1, 1, 2 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
		{ OP_WRITE, 0, 60, 1, 1, 3 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
	};

	(void)unused;
	need_host(MODEL_HAS_RING_ACQ_REL);
	run(script, COUNT_OF(script));
}

static void initially_set_with_a_ring(void **unused)
{
	static const struct op script[] = {
		{ OP_ENABLE, CAP_RING, 65536 },
		{ OP_GUEST },
		{ OP_VCPU },
		{ OP_ENABLE, CAP_MANUAL, 3 },
		{ OP_REGION, 0, 0, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 200, 1, 1 },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 50, 1, 2 },
		{ OP_TAKE, 0, MANY }, /* lost */
		{ OP_RESET },
		{ OP_REGION, 0, 0, 0, 200, HVA(0) },
		{ OP_ENABLE, CAP_MANUAL, 0 },
		{ OP_REGION, 0, LOG, 0, 200, HVA(0) },
		{ OP_WRITE, 0, 0, 50, 1, 3 },
		{ OP_TAKE, 0, MANY },
		{ OP_RESET },
	};

	(void)unused;
	need_host(MODEL_HAS_RING_ACQ_REL | MODEL_HAS_INITIALLY_SET);
	if (options.has & MODEL_HAS_BACKUP) {
		print_message("skip: this kernel has the backup bitmap\n");
		skip();
	}
	run(script, COUNT_OF(script));
}

static void mappings(void **unused)
{
	static const struct op script[] = {
		{ OP_ENABLE, CAP_RING, 65536 },
		{ OP_VCPU },
		{ OP_MMAP, 0, 64, 1, PROT_READ | PROT_WRITE, MAP_SHARED },
		{ OP_MMAP, 0, 64, 1, PROT_READ, MAP_SHARED },
		{ OP_MMAP, 0, 64, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE },
		{ OP_MMAP, 0, 63, 2, PROT_READ | PROT_WRITE, MAP_PRIVATE },
		{ OP_MMAP, 0, 0, 1, PROT_READ, MAP_SHARED },
		{ OP_MMAP, 0, 64, 1000, PROT_READ | PROT_WRITE, MAP_SHARED },  /* overlong */
		{ OP_MMAP, 0, 63, 1000, PROT_READ | PROT_WRITE, MAP_PRIVATE }, /* straddling */
		{ OP_MMAP, 0, 64, 0, PROT_READ, MAP_SHARED },
	};

	(void)unused;
	need_host(MODEL_HAS_RING_ACQ_REL);
	run(script, COUNT_OF(script));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(entries),
		cmocka_unit_test(full_ring),
		cmocka_unit_test(broken_flag_rules),
		cmocka_unit_test(slots_that_change),
		cmocka_unit_test(entries_outside_a_slot_spoil_their_batch),
		cmocka_unit_test(initially_set_with_a_ring),
		cmocka_unit_test(mappings),
	};

	return cmocka_run_group_tests_name("model against kernel: rings", tests, look_at_host,
					   NULL);
}
