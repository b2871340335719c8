/* SPDX-License-Identifier: MIT */
/*
 * The fixture itself, with raw ioctls and without the library: guests write what their job says,
 * and the kernel logs it. If these tests fail, the results of the others mean nothing.
 */
#include "rig.h"

#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum {
	PAGES = 1000, /* not a multiple of 64 */
	SLOT = 0,
};

struct bench {
	struct machine machine;
	struct machine_vcpu *vcpu;
	uint8_t *memory;
	size_t bytes;
	uint64_t bitmap[(PAGES + 63) / 64];
};

/* Static, because teardown() needs it after a test has failed. */
static struct bench bench = { .machine = { .kvm_fd = -1, .vm_fd = -1 } };

static void bench_open(uint32_t kvm_flags)
{
	assert_int_equal(machine_open(&bench.machine), 0);
	assert_int_equal(machine_load_guest(&bench.machine), 0);
	bench.bytes = PAGES * bench.machine.page_bytes;
	bench.memory =
		mmap(NULL, bench.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(bench.memory, MAP_FAILED);
	assert_int_equal(machine_set_region(&bench.machine, SLOT, kvm_flags, GUEST_DATA_GPA,
					    bench.bytes, bench.memory),
			 0);
	assert_int_equal(machine_add_vcpu(&bench.machine, &bench.vcpu), 0);
}

static int teardown(void **state)
{
	machine_close(&bench.machine);
	if (bench.memory)
		munmap(bench.memory, bench.bytes);
	bench.memory = NULL;
	return rig_teardown(state);
}

static volatile uint64_t *word(uint64_t page)
{
	return (volatile uint64_t *)(bench.memory + page * bench.machine.page_bytes);
}

static unsigned int dirty_pages(void)
{
	struct kvm_dirty_log log = { .slot = SLOT, .dirty_bitmap = bench.bitmap };
	unsigned int pages = 0;

	memset(bench.bitmap, 0, sizeof(bench.bitmap));
	assert_int_equal(ioctl(bench.machine.vm_fd, KVM_GET_DIRTY_LOG, &log), 0);
	for (size_t i = 0; i < sizeof(bench.bitmap) / sizeof(bench.bitmap[0]); i++)
		pages += (unsigned int)__builtin_popcountll(bench.bitmap[i]);
	return pages;
}

static bool is_dirty(uint64_t page)
{
	return bench.bitmap[page / 64] >> (page % 64) & 1;
}

static void writes_in_sequence(enum guest_mode mode)
{
	struct guest_job job = { .program = GUEST_WRITE, .mode = mode, .count = PAGES / 2 };

	bench_open(KVM_MEM_LOG_DIRTY_PAGES);
	job.gpa = GUEST_DATA_GPA;
	job.stride_bytes = 2 * bench.machine.page_bytes;
	for (job.value = 7; job.value < 10; job.value++) {
		assert_int_equal(machine_run(bench.vcpu, &job), MACHINE_DONE);
		assert_int_equal(dirty_pages(), PAGES / 2);
		for (uint64_t page = 0; page < PAGES; page++) {
			assert_int_equal(*word(page), page % 2 ? 0 : job.value);
			assert_int_equal(is_dirty(page), page % 2 ? 0 : 1);
		}
	}
	assert_int_equal(dirty_pages(), 0);
}

static void writes_from_a_table(enum guest_mode mode)
{
	struct guest_job job = {
		.program = GUEST_WRITE_TABLE, .mode = mode, .count = 3, .value = 5
	};
	const uint64_t pages[] = { 999, 0, 64 };

	bench_open(KVM_MEM_LOG_DIRTY_PAGES);
	job.gpa = guest_table_gpa(bench.vcpu->index);
	for (int i = 0; i < 3; i++)
		machine_table(bench.vcpu)[i] = GUEST_DATA_GPA + pages[i] * bench.machine.page_bytes;
	assert_int_equal(machine_run(bench.vcpu, &job), MACHINE_DONE);
	assert_int_equal(dirty_pages(), 3);
	for (int i = 0; i < 3; i++) {
		assert_true(is_dirty(pages[i]));
		assert_int_equal(*word(pages[i]), 5);
	}
}

static void wait_for(uint64_t page, uint64_t value)
{
	while (*word(page) < value) {
		assert_int_equal(atomic_load(&bench.vcpu->end), MACHINE_RUNNING);
		sched_yield();
	}
}

static void counts_until_stopped_and_can_be_resumed(enum guest_mode mode)
{
	struct guest_job job = { .program = GUEST_COUNT, .mode = mode, .count = PAGES };
	uint64_t reached;

	bench_open(KVM_MEM_LOG_DIRTY_PAGES);
	job.gpa = GUEST_DATA_GPA;
	job.stride_bytes = bench.machine.page_bytes;
	assert_int_equal(machine_go(bench.vcpu, &job), 0);
	for (int round = 0; round < 3; round++) {
		wait_for(PAGES - 1, *word(PAGES - 1) + 2);
		assert_int_equal(machine_stop(bench.vcpu), MACHINE_STOPPED);
		reached = *word(0);
		assert_in_range(*word(PAGES - 1), reached - 1, reached);
		assert_int_equal(dirty_pages(), PAGES);
		assert_int_equal(machine_go(bench.vcpu, NULL), 0);
	}
	assert_int_equal(machine_stop(bench.vcpu), MACHINE_STOPPED);
}

static void user_guest_writes_in_sequence(void **state)
{
	(void)state;
	writes_in_sequence(GUEST_USER);
}

static void kernel_guest_writes_in_sequence(void **state)
{
	(void)state;
	writes_in_sequence(GUEST_KERNEL);
}

static void user_guest_writes_from_a_table(void **state)
{
	(void)state;
	writes_from_a_table(GUEST_USER);
}

static void kernel_guest_writes_from_a_table(void **state)
{
	(void)state;
	writes_from_a_table(GUEST_KERNEL);
}

static void user_guest_counts_until_stopped_and_can_be_resumed(void **state)
{
	(void)state;
	counts_until_stopped_and_can_be_resumed(GUEST_USER);
}

static void kernel_guest_counts_until_stopped_and_can_be_resumed(void **state)
{
	(void)state;
	counts_until_stopped_and_can_be_resumed(GUEST_KERNEL);
}

/* Stores to a read-only slot, and to no slot at all, exit to the VMM and change nothing. */
static void stores_without_memory_are_counted(void **state)
{
	struct guest_job job = { .program = GUEST_WRITE, .count = PAGES, .value = 1 };

	(void)state;
	bench_open(KVM_MEM_READONLY);
	job.stride_bytes = bench.machine.page_bytes;
	job.gpa = GUEST_DATA_GPA;
	assert_int_equal(machine_run(bench.vcpu, &job), MACHINE_DONE);
	assert_int_equal(bench.vcpu->lost_accesses, PAGES);
	job.gpa = GUEST_DATA_GPA + bench.bytes;
	assert_int_equal(machine_run(bench.vcpu, &job), MACHINE_DONE);
	assert_int_equal(bench.vcpu->lost_accesses, 2 * PAGES);
	for (uint64_t page = 0; page < PAGES; page++)
		assert_int_equal(*word(page), 0);
}

/* A guest that faults ends its run with an error instead of hanging the test. */
static void a_fault_of_the_guest_is_reported(void **state)
{
#if defined(__x86_64__)
	struct guest_job job = { .program = GUEST_WRITE, .count = 1, .gpa = 1ull << 63 };

	(void)state;
	bench_open(0);
	assert_in_range(-machine_run(bench.vcpu, &job), 1, 4095);
#else
	(void)state;
	rig_skip("only the x86 guest ends on a fault");
#endif
}

#define guest_test(function) cmocka_unit_test_teardown(function, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		guest_test(user_guest_writes_in_sequence),
		guest_test(kernel_guest_writes_in_sequence),
		guest_test(user_guest_writes_from_a_table),
		guest_test(kernel_guest_writes_from_a_table),
		guest_test(user_guest_counts_until_stopped_and_can_be_resumed),
		guest_test(kernel_guest_counts_until_stopped_and_can_be_resumed),
		guest_test(stores_without_memory_are_counted),
		guest_test(a_fault_of_the_guest_is_reported),
	};

	return rig_run_tests("guest", tests);
}
