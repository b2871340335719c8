/* SPDX-License-Identifier: MIT */
/*
 * Pauses of vCPUs: they wait outside the guest, a kick or a stop cuts that short, and the guest
 * goes on unharmed. Arguments: the backends to try, "model" and "kvm". Exits with 77 if there are
 * none.
 */
#include "clock.h"
#include "machine.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { VCPUS = 2, READER = 1 };

/* Longer than machine_pause() waits for a vCPU: a stop that did not cut it short fails. */
#define FOREVER_NS (1000 * NS_PER_S)

#define MEMORY_BYTES (UINT64_C(16) << 20)

static struct machine machine;
static _Atomic uint64_t pause_ns[VCPUS]; /* what each is told */
static _Atomic uint64_t asked[VCPUS];

static uint64_t pause_due(void *opaque, struct vcpu *vcpu)
{
	if (opaque != &machine)
		abort();
	asked[vcpu->id]++;
	return pause_ns[vcpu->id];
}

static void require(bool condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "failed: %s: %s\n", machine.kind->name, what);
	_exit(1);
}

static uint64_t progress(uint32_t id)
{
	return id == READER
		       ? machine_reads(&machine).pages
		       : __atomic_load_n(&machine_control(&machine, id)->records, __ATOMIC_RELAXED);
}

static void wait_for_progress(uint32_t id)
{
	uint64_t from = progress(id);

	while (progress(id) == from)
		sched_yield();
}

static struct vcpu_holds holds_of(uint32_t id)
{
	struct vcpu_holds holds;

	machine_holds(&machine, id, &holds);
	return holds;
}

/* It is out of the guest: nothing moves any more. */
static void wait_for_hold(uint32_t id)
{
	uint64_t count = holds_of(id).count;

	pause_ns[id] = FOREVER_NS;
	machine_kick(&machine, id);
	while (holds_of(id).count == count)
		sched_yield();
}

static void require_standing_still(uint32_t id)
{
	uint64_t from = progress(id), until_ns = clock_ns() + 5 * NS_PER_MS;

	do
		require(progress(id) == from, "a vCPU runs in its pause");
	while (clock_ns() < until_ns);
}

static void boot(const struct machine_kind *kind)
{
	struct layout layout;
	char why[320];

	require(!layout_make(&layout, MEMORY_BYTES, MEMORY_BYTES / 4, VCPUS,
			     (uint32_t)sysconf(_SC_PAGESIZE), why, sizeof(why)) &&
			!machine_open(&machine, kind, &layout, true),
		"the machine does not open");
	machine.readers = 1;
	require(!machine_plug(&machine, NULL) && !machine_boot(&machine, GUEST_PATTERN_RANDOM, 0) &&
			!machine_start(&machine),
		machine.why);
	for (uint32_t id = 0; id < VCPUS; id++)
		pause_ns[id] = asked[id] = 0;
	machine_set_pauses(&machine, pause_due, &machine);
	machine_resume(&machine);
}

/* A paused vCPU stands still, whoever else runs; a kick has it ask again. */
static void test_kick(void)
{
	for (uint32_t id = 0; id < VCPUS; id++) {
		wait_for_progress(id);
		wait_for_hold(id);
		require_standing_still(id);
		wait_for_progress(!id);
		pause_ns[id] = 0;
		machine_kick(&machine, id);
		wait_for_progress(id);
		require(holds_of(id).count == 1, "one pause was counted differently");
		require(holds_of(id).longest_ns >= 5 * NS_PER_MS, "the longest pause is too short");
		require(holds_of(id).held_ns >= holds_of(id).longest_ns, "the sum is too small");
		require(holds_of(id).held_ns < FOREVER_NS / 2, "a pause that was cut short counts");
	}
}

/* Kicks reach a vCPU in the guest, and none is lost. */
static void test_kicks_in_the_guest(void)
{
	for (uint32_t id = 0; id < VCPUS; id++)
		for (int i = 0; i < 200; i++) {
			uint64_t before = asked[id];

			machine_kick(&machine, id);
			while (asked[id] == before)
				sched_yield();
		}
}

static void test_stop(void)
{
	uint64_t counts[VCPUS];

	for (uint32_t id = 0; id < VCPUS; id++)
		wait_for_hold(id);
	require(!machine_pause(&machine), machine.why);
	require(!machine_failure(&machine, machine.why, sizeof(machine.why)), machine.why);
	/* Kicks of a stopped machine change nothing. */
	machine_kick(&machine, 0);
	require_standing_still(0);
	for (uint32_t id = 0; id < VCPUS; id++)
		counts[id] = holds_of(id).count;
	machine_resume(&machine);
	/* They are still to pause. */
	for (uint32_t id = 0; id < VCPUS; id++)
		while (holds_of(id).count == counts[id])
			sched_yield();
}

/* Nothing holds vCPUs any more. */
static void test_end(void)
{
	machine_set_pauses(&machine, NULL, NULL);
	for (uint32_t id = 0; id < VCPUS; id++)
		wait_for_progress(id);
}

/* Every page is as its vCPU left it; the reader is a reader again afterwards. */
static void test_health(void)
{
	struct machine_check check;

	require(!machine_pause(&machine), machine.why);
	machine_check(&machine, 100 * NS_PER_S, &check);
	require(check.healthy && !check.failure, check.why);
	machine_resume(&machine);
	wait_for_progress(READER);
	require(!machine_failure(&machine, machine.why, sizeof(machine.why)), machine.why);
}

/* A vCPU that never runs has found no damage, and yet its guest is not healthy. */
static void test_vcpu_that_never_runs(uint32_t id)
{
	struct machine_check check;
	char name[16];

	snprintf(name, sizeof(name), "vCPU %u", id);
	wait_for_hold(id);
	require(!machine_pause(&machine), machine.why);
	machine_check(&machine, NS_PER_S / 5, &check);
	require(check.records > 0, "the other vCPU has not run");
	require(!check.healthy && check.failure == -ETIMEDOUT, "half of a guest is healthy");
	require(strstr(check.why, name) != NULL, "the vCPU is not named");
	pause_ns[id] = 0;
	machine_resume(&machine);
	wait_for_progress(id);
}

/* A reader finds damage too. */
static void test_damage(void)
{
	uint64_t offset;

	require(!machine_pause(&machine), machine.why);
	offset = machine.layout.working_offset +
		 (READER * machine.layout.share_pages + 3) * machine.layout.page_bytes;
	machine.memory[offset + RECORD_GENERATION] ^= 1;
	machine_resume(&machine);
	while (!machine_failure(&machine, machine.why, sizeof(machine.why)))
		sched_yield();
	require(machine_failure(&machine, machine.why, sizeof(machine.why)) == -EBADMSG,
		"the reader failed otherwise");
}

static void run(const struct machine_kind *kind)
{
	boot(kind);
	test_kick();
	test_kicks_in_the_guest();
	test_vcpu_that_never_runs(0);
	test_vcpu_that_never_runs(READER);
	test_stop();
	test_end();
	test_health();
	test_damage();
	/* Closing does not wait for a pause either. */
	machine_set_pauses(&machine, pause_due, &machine);
	machine_close(&machine);
	printf("%s: ok\n", kind->name);
}

int main(int argc, char **argv)
{
	bool ran = false;
	char why[160];

	for (int i = 1; i < argc; i++) {
		bool model = !strcmp(argv[i], "model");
		const struct machine_kind *kind =
			machine_choose(model ? BACKEND_MODEL : BACKEND_KVM, why, sizeof(why));

		if (!kind) {
			printf("%s: skipped: %s\n", argv[i], why);
			continue;
		}
		run(kind);
		ran = true;
	}
	return ran ? 0 : 77;
}
