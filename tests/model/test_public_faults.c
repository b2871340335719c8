/* SPDX-License-Identifier: MIT */
/* The faults of dirtylog/model.h: each is injected and counted, and the library loses nothing. */
#include "public.h"

enum { EVERY_CALL = DLM_CALL_THREAD_NS };

static uint64_t injected(int fault)
{
	uint64_t times = 0;

	assert_int_equal(dlm_fault_injected(rig.vm, fault, &times), 0);
	return times;
}

static uint64_t calls(uint32_t call)
{
	uint64_t times = 0;

	assert_int_equal(dlm_calls(rig.vm, call, &times), 0);
	return times;
}

static int add(uint32_t call, uint32_t kind, uint32_t skip, uint32_t times, int error)
{
	const uint32_t short_of = kind == DLM_FAULT_RESET_LOSES ? 5 : 0;
	const struct dlm_fault fault = { .size = sizeof(fault),
					 .call = call,
					 .kind = kind,
					 .skip = skip,
					 .times = times,
					 .error = error,
					 .entries = short_of };
	int number = dlm_fault_add(rig.vm, &fault);

	assert_true(number >= 0);
	return number;
}

/*
 * All that a VMM does, in a log of its own: every system call of the library is made. Returns the
 * first error, and goes on where the library allows it.
 */
struct life {
	struct dl_log *log;
	struct dl_vcpu *source;
	struct dl_cursor *cursor;
	int error;
	bool is_watched;
	bool is_stale; /* after its last pass */
};

static void step(struct life *life, int result)
{
	if (result < 0 && !life->error)
		life->error = result;
}

static void guest_writes(struct life *life)
{
	uint64_t done = 0;
	int tries = 0;

	while (dlm_vcpu_write(rig.vcpu, 0, GPA, NULL, BYTES, &done) == DLM_RING_FULL &&
	       life->source && tries++ < 20)
		step(life, dl_vcpu_drain(life->source, 0));
}

/* Through the second mapping, and marked only where that is not watched. */
static void device_writes(struct life *life)
{
	const uint64_t gpa = GPA + 7 * PAGE;

	assert_int_equal(dlm_vmm_write(rig.vm, "device", 0, gpa, NULL, PAGE), 0);
	if (!life->is_watched)
		step(life, dl_mark_gpa(life->log, 0, gpa, PAGE));
}

static void watch(struct life *life)
{
	void *alias;
	int tries;

	assert_int_equal(dlm_memory_alias(rig.vm, rig.memory, &alias), 0);
	for (tries = 0; !life->is_watched && tries < 3; tries++) {
		int result = dl_slot_watch(life->log, SLOT, alias, 0);

		step(life, result);
		life->is_watched = !result;
	}
	assert_true(life->is_watched);
}

/* The vCPU's thread asks for its pause; there are limits with rings only. */
static void ask(struct life *life, uint32_t mode)
{
	uint64_t pause_ns;

	if (mode == DL_MODE_RING)
		step(life, dl_vcpu_limit(life->source, BYTES));
	for (int i = 0; i < 4; i++)
		step(life, dl_vcpu_pause_due(life->source, &pause_ns));
}

static void passes(struct life *life)
{
	struct dl_extent extents[8];
	uint64_t pending;
	int n = 0, tries = 0;

	assert_int_equal(dlm_vcpu_exit(rig.vcpu, EXIT_INTR), 0);
	do {
		pending = 1;
		assert_int_equal(dlm_receiver_pass(rig.receiver), 0);
		step(life, dl_harvest(life->cursor, DL_HARVEST_PAUSED, &pending));
		while ((n = dl_cursor_read(life->cursor, extents, 8)) > 0)
			assert_int_equal(dlm_receiver_put(rig.receiver, extents, (uint32_t)n), 0);
		if (n != -EBUSY)
			step(life, n);
		dl_cursor_end(life->cursor, DL_END_COMMIT);
	} while ((pending || n) && tries++ < 20);
	assert_true(tries < 20);
}

static void live(struct life *life, uint32_t mode)
{
	struct dl_options options = { .size = sizeof(options), .mode = mode };
	struct dl_slot slot = { .size = sizeof(slot), .slot = SLOT, .gpa = GPA, .bytes = BYTES };
	char why[200];
	int tries;

	memset(life, 0, sizeof(*life));
	options.os = dlm_vm_os(rig.vm);
	options.ring_entries = mode == DL_MODE_RING ? ENTRIES : 0;
	slot.hva = (uintptr_t)rig.memory;
	for (tries = 0; !life->log && tries < 3; tries++)
		step(life, dl_log_open(dlm_vm_fd(rig.vm), &options, &life->log, why, sizeof(why)));
	/* Once rings are on they stay on, and no log can be opened any more. */
	if (!life->log)
		return;
	for (tries = 0; dl_slot_set(life->log, &slot) && tries < 3; tries++)
		step(life, -EIO);
	assert_int_equal(dlm_vcpu_add(rig.vm, &rig.vcpu), 0);
	for (tries = 0; !life->source && tries < 3; tries++)
		step(life, dl_vcpu_add(life->log, dlm_vcpu_fd(rig.vcpu), 0, 0, &life->source));
	assert_non_null(life->source);
	step(life, dl_log_fd(life->log));
	for (tries = 0; !life->cursor && tries < 3; tries++)
		step(life, dl_cursor_new(life->log, NULL, &life->cursor));
	assert_non_null(life->cursor);
	step(life, dl_log_reap(life->log, DL_REAP_NOW, NULL));
	guest_writes(life);
	ask(life, mode);
	device_writes(life);
	passes(life);
	watch(life);
	guest_writes(life);
	passes(life);
	device_writes(life);
	passes(life);
	life->is_stale = dlm_receiver_compare(rig.receiver, NULL);
	dl_cursor_free(life->cursor);
	step(life, dl_slot_remove(life->log, SLOT, 0, NULL, 0));
	dl_vcpu_remove(life->source);
	dl_log_close(life->log);
}

static void vm_open(uint32_t has)
{
	const struct dlm_options kernel = { .size = sizeof(kernel), .has = has };
	char why[100];

	memset(&rig, 0, sizeof(rig));
	assert_int_equal(dlm_vm_new(&kernel, &rig.vm, why, sizeof(why)), 0);
	assert_int_equal(dlm_memory_new(rig.vm, BYTES, &rig.memory), 0);
	assert_int_equal(dlm_receiver_new(rig.vm, DLM_RECEIVER_GPA, &rig.receiver), 0);
}

static void vm_close(void)
{
	dlm_receiver_free(rig.receiver);
	dlm_vm_free(rig.vm);
}

/* Whether a mode makes the call at all. */
static bool is_made(uint32_t call, uint32_t mode)
{
	struct life life;
	bool made;

	vm_open(0);
	live(&life, mode);
	assert_int_equal(life.error, 0);
	assert_false(life.is_stale);
	assert_int_equal(injected(DLM_ALL_FAULTS), 0);
	made = calls(call) > 0;
	vm_close();
	return made;
}

/* Fails a call once, the first time or later. */
static void fail_call(uint32_t call, uint32_t kind, uint32_t mode, uint32_t skip)
{
	struct life life;
	int fault;

	vm_open(0);
	fault = add(call, kind, skip, 1, ENOMEM);
	live(&life, mode);
	assert_false(life.is_stale);
	if (calls(call) > skip && injected(fault) != 1)
		fail_msg("call %u, skip %u: made %llu times, and not failed", call, skip,
			 (unsigned long long)calls(call));
	assert_int_equal(injected(DLM_ALL_FAULTS), injected(fault));
	vm_close();
}

static void every_call_fails_and_is_counted(void **state)
{
	static const uint32_t modes[] = { DL_MODE_RING, DL_MODE_BITMAP };

	for (uint32_t call = 1; call <= EVERY_CALL; call++) {
		unsigned int made = 0;

		for (int m = 0; m < 2; m++) {
			if (!is_made(call, modes[m]))
				continue;
			made++;
			for (uint32_t skip = 0; skip < 3; skip++)
				fail_call(call, DLM_FAULT_ERROR, modes[m], skip);
			if (call >= DLM_CALL_SET_USER_MEMORY_REGION &&
			    call <= DLM_CALL_CLEAR_DIRTY_LOG)
				fail_call(call, DLM_FAULT_ERROR_AFTER, modes[m], 1);
			/* The first ones are questions, and those of the watch's beginning. */
			for (uint32_t skip = 3; call == DLM_CALL_PAGEMAP_SCAN && skip < 9; skip++) {
				fail_call(call, DLM_FAULT_ERROR, modes[m], skip);
				fail_call(call, DLM_FAULT_ERROR_AFTER, modes[m], skip);
			}
		}
		if (!made)
			fail_msg("the library never makes call %u", call);
	}
}

static void resets_misbehave_and_are_counted(void **state)
{
	for (uint32_t kind = DLM_FAULT_RESET_SHORT; kind <= DLM_FAULT_RESET_LATE_FLUSH; kind++) {
		struct life life;
		int fault;

		vm_open(0);
		fault = add(DLM_CALL_RESET_DIRTY_RINGS, kind, 0, 3, 0);
		live(&life, DL_MODE_RING);
		assert_true(injected(fault) > 0);
		/* A kernel that returns too early loses writes that nobody can know of. */
		assert_int_equal(life.is_stale, kind == DLM_FAULT_RESET_LATE_FLUSH);
		assert_int_equal(injected(DLM_ALL_FAULTS), injected(fault));
		vm_close();
	}
}

static void only_one_slot_or_capability(void **state)
{
	struct dlm_fault fault = { .size = sizeof(fault),
				   .flags = DLM_FAULT_ONLY,
				   .call = DLM_CALL_SET_USER_MEMORY_REGION,
				   .error = ENOSPC,
				   .only = 5 };
	struct dl_slot slot = { .size = sizeof(slot), .slot = 5, .gpa = 64 * GPA, .bytes = PAGE };
	int number;

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	number = dlm_fault_add(rig.vm, &fault);
	rig_join(0);
	assert_int_equal(injected(number), 0);
	slot.hva = (uintptr_t)rig.memory;
	assert_int_equal(dl_slot_set(rig.log, &slot), -ENOSPC);
	assert_int_equal(injected(number), 1);
	dlm_faults_clear(rig.vm);
	assert_int_equal(dl_slot_set(rig.log, &slot), 0);
	assert_int_equal(injected(DLM_ALL_FAULTS), 1);
	expect_error(dlm_fault_injected(rig.vm, number, &(uint64_t){ 0 }), ENOENT, "no fault");
	rig_close();
}

static void skip_and_times_are_kept(void **state)
{
	const int first = 0;
	int fault, reap;

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	rig_join(0);
	fault = add(DLM_CALL_SIGNAL_MASK, DLM_FAULT_ERROR, 1000000, 1, EIO);
	assert_int_equal(fault, first);
	reap = add(DLM_CALL_RESET_DIRTY_RINGS, DLM_FAULT_ERROR, 1, 2, EIO);
	for (int i = 0; i < 5; i++) {
		rig_touch(0, 10);
		assert_int_equal(dl_log_reap(rig.log, DL_REAP_NOW, NULL),
				 i == 1 || i == 2 ? -EIO : 0);
	}
	assert_int_equal(injected(reap), 2);
	assert_int_equal(injected(fault), 0);
	rig_finish();
	rig_expect_equal();
	rig_close();
}

static void refuses_misuse(void **state)
{
	const struct dlm_fault right = { .size = sizeof(right),
					 .call = DLM_CALL_MMAP,
					 .error = ENOMEM };
	static const struct {
		struct dlm_fault fault;
		const char *part;
	} wrong[] = {
		{ { .size = 8 }, "fault.size" },
		{ { .call = 0, .error = 1 }, "fault.call" },
		{ { .call = EVERY_CALL + 1, .error = 1 }, "fault.call" },
		{ { .call = 1, .flags = 2, .error = 1 }, "fault.flags" },
		{ { .call = DLM_CALL_MMAP, .flags = 1, .error = 1 }, "neither slot" },
		{ { .call = 1, .error = 1, .reserved = 1 }, "reserved" },
		{ { .call = 1 }, "fault.error" },
		{ { .call = 1, .error = -5 }, "fault.error" },
		{ { .call = 1, .error = 5000 }, "fault.error" },
		{ { .call = 1, .error = 1, .entries = 1 }, "fault.entries" },
		{ { .call = DLM_CALL_MMAP, .kind = 1, .error = 1 }, "ERROR_AFTER" },
		{ { .call = 1, .kind = 5 }, "fault.kind" },
		{ { .call = 1, .kind = DLM_FAULT_RESET_SHORT }, "RESET_DIRTY_RINGS only" },
		{ { .call = 7, .kind = DLM_FAULT_RESET_SHORT, .error = 1 }, "does not fail" },
		{ { .call = 7, .kind = DLM_FAULT_RESET_LATE_FLUSH, .entries = 1 }, "entries" },
		{ { .call = 7, .kind = DLM_FAULT_RESET_LOSES }, "takes one" },
	};
	uint64_t times;

	vm_open(0);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct dlm_fault fault = wrong[i].fault;

		fault.size = fault.size ? fault.size : sizeof(fault);
		expect_error(dlm_fault_add(rig.vm, &fault), EINVAL, wrong[i].part);
	}
	expect_error(dlm_fault_add(rig.vm, NULL), EINVAL, "fault is NULL");
	for (int i = 0; i < 16; i++)
		assert_int_equal(dlm_fault_add(rig.vm, &right), i);
	expect_error(dlm_fault_add(rig.vm, &right), ENOSPC, "dlm_faults_clear()");
	assert_true(add(DLM_CALL_RESET_DIRTY_RINGS, DLM_FAULT_RESET_SHORT, 0, 1, 0) >= 16);
	expect_error(dlm_fault_add(rig.vm, &(struct dlm_fault){ .size = sizeof(right),
								.call = DLM_CALL_RESET_DIRTY_RINGS,
								.kind = DLM_FAULT_RESET_SHORT }),
		     ENOSPC, "dlm_faults_clear()");
	expect_error(dlm_calls(rig.vm, 0, &times), EINVAL, "call");
	expect_error(dlm_calls(rig.vm, 1, NULL), EINVAL, "times");
	expect_error(dlm_fault_injected(rig.vm, 0, NULL), EINVAL, "times");
	assert_int_equal(dlm_fault_add(NULL, &right), -EINVAL);
	assert_int_equal(dlm_fault_injected(NULL, 0, &times), -EINVAL);
	assert_int_equal(dlm_calls(NULL, 1, &times), -EINVAL);
	dlm_faults_clear(NULL);
	vm_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_call_fails_and_is_counted),
		cmocka_unit_test(resets_misbehave_and_are_counted),
		cmocka_unit_test(only_one_slot_or_capability),
		cmocka_unit_test(skip_and_times_are_kept),
		cmocka_unit_test(refuses_misuse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
