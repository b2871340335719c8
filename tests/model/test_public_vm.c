/* SPDX-License-Identifier: MIT */
/* The VM of dirtylog/model.h: options, memory, vCPUs, rings, writers, clock. */
#include "public.h"

#include <poll.h>

#define SIZE .size = sizeof(struct dlm_options)

static void refuses_options_and_says_why(void **state)
{
	static const struct {
		struct dlm_options options;
		const char *part;
	} wrong[] = {
		{ { .size = 8 }, "size" },
		{ { SIZE, .flags = 1 << 20 }, "flags" },
		{ { SIZE, .flags = DLM_VM_HUGE_PAGES }, "ARM64" },
		{ { SIZE, .has = 1 << 10 }, "has" },
		{ { SIZE, .has = DLM_HAS_NOTHING | DLM_HAS_RING_TSO }, "excludes" },
		{ { SIZE, .has = DLM_HAS_BACKUP }, "BACKUP" },
		{ { SIZE, .has = DLM_HAS_INITIALLY_SET }, "INITIALLY_SET" },
		{ { SIZE, .has = DLM_HAS_RING_TSO, .arch = DLM_ARCH_ARM64 }, "RING_TSO" },
		{ { SIZE, .arch = 2 }, "arch" },
		{ { SIZE, .write_order = 4 }, "write_order" },
		{ { SIZE, .page_bytes = 5000 }, "page_bytes" },
		{ { SIZE, .page_bytes = 2048 }, "page_bytes" },
		{ { SIZE, .page_bytes = 1 << 17 }, "page_bytes" },
		{ { SIZE, .ring_min_entries = 100 }, "ring_min_entries" },
		{ { SIZE, .ring_max_entries = 100 }, "ring_max_entries" },
		{ { SIZE, .ring_min_entries = 512, .ring_max_entries = 256 }, "more than" },
		{ { SIZE, .reserved_entries = 65536 }, "reserved_entries" },
		{ { SIZE, .pml_entries = 513 }, "pml_entries" },
		{ { SIZE, .slot_ids = 32768 }, "slot_ids" },
		{ { SIZE, .address_spaces = 17 }, "address_spaces" },
	};
	struct {
		struct dlm_options options;
		uint64_t later;
	} large = { .options.size = sizeof(large) };
	struct dlm_vm *vm = (void *)&vm;
	char why[100];

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		assert_int_equal(dlm_vm_new(&wrong[i].options, &vm, why, sizeof(why)), -EINVAL);
		assert_null(vm);
		if (!strstr(why, wrong[i].part))
			fail_msg("%zu: \"%s\" does not say \"%s\"", i, why, wrong[i].part);
	}
	assert_int_equal(dlm_vm_new(NULL, NULL, why, sizeof(why)), -EINVAL);
	assert_int_equal(dlm_vm_new(&wrong[0].options, &vm, NULL, 0), -EINVAL);
	assert_int_equal(dlm_vm_new(&large.options, &vm, why, sizeof(why)), 0);
	assert_string_equal(why, "");
	dlm_vm_free(vm);
	large.later = 1;
	assert_int_equal(dlm_vm_new(&large.options, &vm, why, sizeof(why)), -E2BIG);
	dlm_vm_free(NULL);
}

/* The library sees what the options say. */
static void has_the_capabilities_that_are_asked_for(void **state)
{
	static const struct {
		struct dlm_options options;
		uint32_t has, mode, backup, page_bytes, most;
	} kernels[] = {
		{ { SIZE }, 1 | 2 | 8 | 16 | 32, DL_MODE_RING, 0, 4096, 65536 },
		{ { SIZE, .arch = DLM_ARCH_ARM64 },
		  2 | 4 | 8 | 16 | 32,
		  DL_MODE_RING,
		  1,
		  4096,
		  65536 },
		{ { SIZE, .has = DLM_HAS_WATCH }, 32, DL_MODE_BITMAP, 0, 4096, 0 },
		{ { SIZE, .has = DLM_HAS_NOTHING }, 0, DL_MODE_BITMAP, 0, 4096, 0 },
		{ { SIZE, .has = DLM_HAS_RING_TSO, .ring_max_entries = 4096 },
		  1,
		  DL_MODE_RING,
		  0,
		  4096,
		  4096 },
		{ { SIZE, .has = DLM_HAS_MANUAL_PROTECT, .page_bytes = 65536 },
		  8,
		  DL_MODE_BITMAP,
		  0,
		  65536,
		  0 },
	};
	const struct dl_options nothing = { .size = sizeof(nothing) };

	for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++) {
		struct dl_config is = { .size = sizeof(is) };
		struct dl_options options = nothing;
		struct dlm_vm *vm;
		char why[200];

		assert_int_equal(dlm_vm_new(&kernels[i].options, &vm, why, sizeof(why)), 0);
		options.os = dlm_vm_os(vm);
		assert_int_equal(dl_probe(dlm_vm_system_fd(vm), &options, &is, why, sizeof(why)),
				 0);
		assert_int_equal(is.has, kernels[i].has);
		assert_int_equal(is.mode, kernels[i].mode);
		assert_int_equal(is.backup, kernels[i].backup);
		assert_int_equal(is.page_bytes, kernels[i].page_bytes);
		assert_int_equal(is.ring_max_entries, kernels[i].most);
		dlm_vm_free(vm);
	}
}

static void owns_memory(void **state)
{
	struct dlm_options large = { SIZE, .page_bytes = 65536 };
	struct dlm_vm *vm;
	void *memory;
	char why[100];

	rig_open(NULL, DL_MODE_AUTO, DLM_RECEIVER_GPA);
	expect_error(dlm_memory_new(rig.vm, 100, &memory), EINVAL, "bytes");
	assert_null(memory);
	expect_error(dlm_memory_new(rig.vm, 0, &memory), EINVAL, "bytes");
	expect_error(dlm_memory_new(rig.vm, PAGE, NULL), EINVAL, "memory");
	assert_int_equal(dlm_memory_new(NULL, PAGE, &memory), -EINVAL);
	expect_error(dlm_memory_new(rig.vm, UINT64_C(1) << 62, &memory), ENOMEM, "no memory");
	expect_error(dlm_memory_free(rig.vm, rig.memory), EBUSY, "slot");
	expect_error(dlm_memory_free(rig.vm, &memory), ENOENT, "dlm_memory_new()");
	assert_int_equal(dlm_memory_free(NULL, rig.memory), -EINVAL);
	assert_int_equal(dl_slot_remove(rig.log, SLOT, 0, NULL, 0), 0);
	assert_int_equal(dlm_memory_free(rig.vm, rig.memory), 0);
	expect_error(dlm_memory_free(rig.vm, rig.memory), ENOENT, "dlm_memory_new()");
	rig_close();

	assert_int_equal(dlm_vm_new(&large, &vm, why, sizeof(why)), 0);
	assert_int_equal(dlm_memory_new(vm, 65536, &memory), 0);
	assert_int_equal((uintptr_t)memory % 65536, 0);
	assert_int_equal(*(char *)memory, 0);
	dlm_vm_free(vm);
}

static void plugs_vcpus(void **state)
{
	struct dlm_vcpu *vcpu;
	struct dl_vcpu *source;

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	assert_int_equal(dlm_vcpu_add(rig.vm, &vcpu), 0);
	assert_int_equal(dlm_vcpu_index(rig.vcpu), 0);
	assert_int_equal(dlm_vcpu_index(vcpu), 1);
	assert_int_not_equal(dlm_vcpu_fd(vcpu), dlm_vcpu_fd(rig.vcpu));
	assert_int_equal(dl_vcpu_add(rig.log, dlm_vcpu_fd(vcpu), 0, 0, &source), 0);
	assert_int_equal(dlm_vcpu_write(vcpu, 0, GPA, NULL, 8, NULL), 0);
	assert_int_equal(dlm_vm_running(rig.vm), 1);
	expect_error(dlm_vcpu_remove(vcpu), EBUSY, "vCPU 1 is in KVM_RUN");
	assert_int_equal(dlm_vcpu_exit(vcpu, EXIT_INTR), 0);
	assert_int_equal(dlm_vcpu_exit_reason(vcpu), EXIT_INTR);
	/* Not in KVM_RUN: nothing happens. */
	assert_int_equal(dlm_vcpu_exit(vcpu, 2), 0);
	assert_int_equal(dlm_vcpu_exit_reason(vcpu), EXIT_INTR);
	expect_error(dlm_vcpu_add_again(vcpu), EBUSY, "plugged in");
	dl_vcpu_remove(source);
	assert_int_equal(dlm_vcpu_remove(vcpu), 0);
	expect_error(dlm_vcpu_remove(vcpu), EBUSY, "unplugged");
	expect_error(dlm_vcpu_write(vcpu, 0, GPA, NULL, 8, NULL), EBUSY, "vCPU 1 is unplugged");
	expect_error(dlm_vcpu_kernel_write(vcpu, 0, GPA, NULL, 8), EBUSY, "unplugged");
	expect_error(dlm_vcpu_enter(vcpu), EBUSY, "unplugged");
	expect_error(dlm_vcpu_fill_ring(vcpu, 0, GPA, BYTES), EBUSY, "unplugged");
	assert_int_equal(dlm_vcpu_add_again(vcpu), 0);
	assert_int_equal(dl_vcpu_add(rig.log, dlm_vcpu_fd(vcpu), 0, 0, &source), 0);
	assert_int_equal(dlm_vcpu_enter(vcpu), 0);
	assert_int_equal(dlm_vm_running(rig.vm), 1);
	dl_vcpu_remove(source);
	rig_close();
}

static void has_as_many_vcpus_as_linux(void **state)
{
	struct dlm_vcpu *vcpu;

	rig_open(NULL, DL_MODE_BITMAP, DLM_RECEIVER_GPA);
	for (int i = 1; i < 1024; i++)
		assert_int_equal(dlm_vcpu_add(rig.vm, &vcpu), 0);
	expect_error(dlm_vcpu_add(rig.vm, &vcpu), EMFILE, "1024");
	assert_null(vcpu);
	rig_close();
}

static void refuses_misuse(void **state)
{
	struct dlm_ring ring = { .size = 8 };
	uint64_t done = 9, left;
	uint8_t states[2];
	char text[10];

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	assert_int_equal(dlm_last_error(rig.vm, text, sizeof(text)), 0);
	expect_error(dlm_vcpu_add(rig.vm, NULL), EINVAL, "vcpu");
	expect_error(dlm_vcpu_write(rig.vcpu, 0, GPA, NULL, PAGE + 1, NULL), EINVAL, "done_bytes");
	expect_error(dlm_vcpu_write(rig.vcpu, 0, GPA, NULL, 8, &done), EINVAL, "*done_bytes");
	expect_error(dlm_vcpu_write(rig.vcpu, 0, UINT64_MAX, NULL, 8, NULL), EINVAL, "wraps");
	expect_error(dlm_vcpu_write(rig.vcpu, 0, 0, NULL, 8, NULL), EFAULT, " at 0 of");
	expect_error(dlm_vcpu_write(rig.vcpu, 7, GPA, NULL, 8, NULL), EFAULT, "space 7");
	expect_error(dlm_vcpu_kernel_write(rig.vcpu, 0, 0, NULL, 8), EFAULT, " at 0 of");
	expect_error(dlm_vcpu_fill_ring(rig.vcpu, 0, GPA + 1, BYTES), EINVAL, "gpa, bytes");
	expect_error(dlm_vcpu_fill_ring(rig.vcpu, 0, GPA, 0), EINVAL, "gpa, bytes");
	expect_error(dlm_vcpu_overflow_ring(rig.vcpu, 0, GPA, BYTES, 1), EINVAL, "not logged");
	expect_error(dlm_vcpu_ring(rig.vcpu, &ring), EINVAL, "ring.size");
	expect_error(dlm_kernel_write(rig.vm, 0, 0, NULL, 8), EFAULT, " at 0 of");
	expect_error(dlm_kernel_write(rig.vm, 0, UINT64_MAX, NULL, 8), EINVAL, "wraps");
	expect_error(dlm_vmm_write(rig.vm, NULL, 9, GPA, NULL, 8), EFAULT, "space 9");
	expect_error(dlm_vmm_write(rig.vm, NULL, 0, UINT64_MAX, NULL, 8), EINVAL, "wraps");
	expect_error(dlm_vmm_wrote(rig.vm, NULL, NULL, 8), EINVAL, "address");
	expect_error(dlm_vmm_wrote(rig.vm, NULL, rig.memory, UINT64_MAX), EINVAL, "wraps");
	expect_error(dlm_clock_advance(rig.vm, 1), EOPNOTSUPP, "DLM_VM_VIRTUAL_CLOCK");
	expect_error(dlm_timer_left(rig.vm, 3, &left), ENOENT, "no timer");
	expect_error(dlm_timer_left(rig.vm, 3, NULL), EINVAL, "left_ns");
	expect_error(dlm_page_states(rig.vm, 8, 0, 1, states), ENOENT, "slot 0x8");
	expect_error(dlm_page_states(rig.vm, SLOT, PAGES - 1, 2, states), ENOENT, "pages");
	expect_error(dlm_page_states(rig.vm, SLOT, 0, 1, NULL), EINVAL, "states");
	assert_true(dlm_last_error(rig.vm, NULL, 0) > 5);
	assert_int_equal(dlm_last_error(rig.vm, NULL, 1), -EINVAL);
	assert_int_equal(dlm_writes(rig.vm), 0);
	rig_close();
}

static void refuses_null(void **state)
{
	struct dlm_ring ring = { .size = sizeof(ring) };
	struct dlm_vcpu *vcpu;
	uint64_t done = 0;
	uint8_t page;
	char text[2];

	assert_int_equal(dlm_vm_fd(NULL), -EINVAL);
	assert_int_equal(dlm_vm_system_fd(NULL), -EINVAL);
	assert_null(dlm_vm_os(NULL));
	assert_int_equal(dlm_vm_running(NULL), -EINVAL);
	assert_int_equal(dlm_last_error(NULL, text, sizeof(text)), -EINVAL);
	assert_int_equal(dlm_page_states(NULL, 0, 0, 1, &page), -EINVAL);
	assert_int_equal(dlm_vcpu_add(NULL, &vcpu), -EINVAL);
	assert_int_equal(dlm_vcpu_remove(NULL), -EINVAL);
	assert_int_equal(dlm_vcpu_add_again(NULL), -EINVAL);
	assert_int_equal(dlm_vcpu_fd(NULL), -EINVAL);
	assert_int_equal(dlm_vcpu_index(NULL), UINT32_MAX);
	assert_int_equal(dlm_vcpu_exit_reason(NULL), 0);
	assert_int_equal(dlm_vcpu_write(NULL, 0, 0, NULL, 8, &done), -EINVAL);
	assert_int_equal(dlm_vcpu_kernel_write(NULL, 0, 0, NULL, 8), -EINVAL);
	assert_int_equal(dlm_vcpu_enter(NULL), -EINVAL);
	assert_int_equal(dlm_vcpu_exit(NULL, 0), -EINVAL);
	assert_int_equal(dlm_vcpu_fill_ring(NULL, 0, 0, PAGE), -EINVAL);
	assert_int_equal(dlm_vcpu_overflow_ring(NULL, 0, 0, PAGE, 1), -EINVAL);
	assert_int_equal(dlm_vcpu_ring(NULL, &ring), -EINVAL);
	assert_int_equal(dlm_kernel_write(NULL, 0, 0, NULL, 8), -EINVAL);
	assert_int_equal(dlm_vmm_write(NULL, NULL, 0, 0, NULL, 8), -EINVAL);
	assert_int_equal(dlm_vmm_wrote(NULL, NULL, text, 1), -EINVAL);
	assert_int_equal(dlm_writes(NULL), 0);
	assert_int_equal(dlm_clock_ns(NULL), 0);
	assert_int_equal(dlm_clock_advance(NULL, 1), -EINVAL);
	assert_int_equal(dlm_timer_left(NULL, 0, &done), -EINVAL);
	assert_int_equal(dlm_library_version(), DL_VERSION);
}

/* A write over several pages goes on behind a full ring, and does not begin again. */
static void a_full_ring_interrupts_a_write(void **state)
{
	struct dlm_ring ring = { .size = sizeof(ring) };
	uint64_t done = 0, first;

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	rig_join(0);
	assert_int_equal(dlm_vcpu_write(rig.vcpu, 0, GPA, NULL, BYTES, &done), DLM_RING_FULL);
	assert_int_equal(dlm_vcpu_exit_reason(rig.vcpu), EXIT_RING_FULL);
	assert_int_equal(dlm_vm_running(rig.vm), 0);
	first = done;
	assert_in_range(first / PAGE, 100, ENTRIES);
	assert_int_equal(dlm_vcpu_ring(rig.vcpu, &ring), 0);
	assert_int_equal(ring.entries, ENTRIES);
	assert_true(ring.used_entries >= ring.soft_limit_entries);
	assert_int_equal(dlm_vcpu_write(rig.vcpu, 0, GPA, NULL, BYTES, &done), DLM_RING_FULL);
	assert_int_equal(done, first);
	assert_int_equal(dlm_vcpu_enter(rig.vcpu), DLM_RING_FULL);
	while (dlm_vcpu_write(rig.vcpu, 0, GPA, NULL, BYTES, &done) == DLM_RING_FULL)
		assert_int_equal(dl_vcpu_drain(rig.source, 0), 0);
	assert_int_equal(done, BYTES);
	assert_int_equal(dlm_writes(rig.vm), PAGES);
	rig_finish();
	rig_expect_equal();
	rig_close();
}

static void fills_and_overflows_rings(void **state)
{
	const struct dlm_options pml = { SIZE, .pml_entries = 512 };
	struct dl_stats stats = { .size = sizeof(stats) };
	struct dlm_ring ring = { .size = sizeof(ring) };

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	assert_int_equal(dlm_vcpu_fill_ring(rig.vcpu, 0, GPA, BYTES), 0);
	rig_join(0);
	assert_int_equal(dlm_vcpu_fill_ring(rig.vcpu, 0, GPA, 10 * PAGE), 0);
	assert_int_equal(dlm_vcpu_fill_ring(rig.vcpu, 0, GPA, BYTES), DLM_RING_FULL);
	assert_int_equal(dl_vcpu_drain(rig.source, 0), 0);
	assert_int_equal(dlm_vcpu_overflow_ring(rig.vcpu, 0, GPA, BYTES, 0), 0);
	assert_int_equal(dlm_vcpu_overflow_ring(rig.vcpu, 0, GPA, BYTES, 5), 0);
	assert_int_equal(dlm_vcpu_ring(rig.vcpu, &ring), 0);
	assert_int_equal(ring.overwritten_entries, 5);
	rig_finish();
	rig_expect_equal();
	assert_int_equal(dl_log_stats(rig.log, &stats), 0);
	assert_true(stats.overflows > 0);
	rig_close();

	rig_open(&pml, DL_MODE_BITMAP, DLM_RECEIVER_GPA);
	rig_join(0);
	assert_int_equal(dlm_vcpu_fill_ring(rig.vcpu, 0, GPA, BYTES), 0);
	expect_error(dlm_vcpu_overflow_ring(rig.vcpu, 0, GPA, BYTES, 1), EOPNOTSUPP, "no ring");
	assert_int_equal(dlm_vcpu_ring(rig.vcpu, &ring), 0);
	assert_int_equal(ring.entries, 0);
	rig_close();
}

static uint8_t state_of(uint64_t page)
{
	uint8_t is = 0;

	assert_int_equal(dlm_page_states(rig.vm, SLOT, page, 1, &is), 0);
	return is;
}

static void reports_pages(void **state)
{
	const struct dlm_options pml = { SIZE, .pml_entries = 512 };

	rig_open(&pml, DL_MODE_RING, DLM_RECEIVER_GPA);
	rig_join(DL_CURSOR_CLEAN);
	assert_int_equal(state_of(2), DLM_PAGE_PROTECTED);
	rig_touch(2, 1);
	assert_int_equal(state_of(2), DLM_PAGE_IN_PML);
	assert_int_equal(dlm_vcpu_exit(rig.vcpu, EXIT_INTR), 0);
	assert_int_equal(state_of(2), DLM_PAGE_IN_RING);
	assert_int_equal(dl_harvest(rig.cursor, 0, NULL), 0);
	assert_int_equal(state_of(2), DLM_PAGE_PROTECTED);
	rig_close();
}

/* Data is stored as it is; without data every page gets a value that it did not have. */
static void stores_what_it_is_given(void **state)
{
	const char *memory;
	char before[8];
	uint64_t done = 0;

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	memory = rig.memory;
	assert_int_equal(dlm_vcpu_write(rig.vcpu, 0, GPA + PAGE - 2, "abcd", 4, &done), 0);
	assert_memory_equal(memory + PAGE - 2, "abcd", 4);
	assert_int_equal(dlm_vcpu_kernel_write(rig.vcpu, 0, GPA + PAGE - 1, "xy", 2), 0);
	assert_memory_equal(memory + PAGE - 2, "axyd", 4);
	assert_int_equal(dlm_kernel_write(rig.vm, 0, GPA + PAGE - 1, "BC", 2), 0);
	assert_memory_equal(memory + PAGE - 2, "aBCd", 4);
	assert_int_equal(dlm_vmm_write(rig.vm, "disk", 0, GPA + PAGE - 2, "1234", 4), 0);
	assert_memory_equal(memory + PAGE - 2, "1234", 4);
	assert_int_equal(dlm_writes(rig.vm), 8);
	for (int i = 0; i < 4; i++) {
		memcpy(before, memory, sizeof(before));
		rig_touch(0, 1);
		assert_memory_not_equal(memory, before, sizeof(before));
	}
	memcpy(before, memory, sizeof(before));
	assert_int_equal(dlm_vmm_write(rig.vm, NULL, 0, GPA, NULL, 1), 0);
	assert_memory_equal(memory + 1, before + 1, sizeof(before) - 1);
	rig_close();
}

static bool is_readable(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	return poll(&poll_fd, 1, 0) == 1;
}

static void moves_the_clock(void **state)
{
	const struct dlm_options clock = { SIZE, .flags = DLM_VM_VIRTUAL_CLOCK };
	uint64_t left_ns = 0, before;
	int fd;

	rig_open(&clock, DL_MODE_RING, DLM_RECEIVER_GPA);
	before = dlm_clock_ns(rig.vm);
	assert_int_equal(before, 1000000000);
	fd = dl_log_fd(rig.log);
	assert_true(fd >= 0);
	assert_int_equal(dlm_timer_left(rig.vm, fd, &left_ns), 0);
	assert_int_equal(left_ns, UINT64_MAX);
	rig_join(0);
	assert_int_equal(dl_log_reap(rig.log, 0, NULL), 0);
	assert_int_equal(dlm_timer_left(rig.vm, fd, &left_ns), 0);
	assert_in_range(left_ns, 1, 100000000);
	assert_int_equal(dlm_clock_advance(rig.vm, left_ns - 1), 0);
	assert_false(is_readable(fd));
	assert_int_equal(dlm_clock_advance(rig.vm, 1), 0);
	assert_true(is_readable(fd));
	assert_int_equal(dlm_clock_ns(rig.vm), before + left_ns);
	assert_int_equal(dlm_timer_left(rig.vm, fd, &left_ns), 0);
	assert_int_equal(left_ns, 0);
	assert_int_equal(dl_log_reap(rig.log, 0, NULL), 0);
	assert_false(is_readable(fd));
	rig_close();
}

/* With the real clock it is a timer of the system, which an event loop waits for. */
static void has_a_real_clock(void **state)
{
	struct pollfd timer = { .events = POLLIN };

	rig_open(NULL, DL_MODE_RING, DLM_RECEIVER_GPA);
	timer.fd = dl_log_fd(rig.log);
	assert_true(timer.fd >= 0);
	rig_join(0);
	assert_int_equal(dl_log_reap(rig.log, 0, NULL), 0);
	assert_int_equal(poll(&timer, 1, 60000), 1);
	assert_int_not_equal(dlm_clock_ns(rig.vm), 1000000000);
	rig_close();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_options_and_says_why),
		cmocka_unit_test(has_the_capabilities_that_are_asked_for),
		cmocka_unit_test(owns_memory),
		cmocka_unit_test(plugs_vcpus),
		cmocka_unit_test(has_as_many_vcpus_as_linux),
		cmocka_unit_test(refuses_misuse),
		cmocka_unit_test(refuses_null),
		cmocka_unit_test(a_full_ring_interrupts_a_write),
		cmocka_unit_test(fills_and_overflows_rings),
		cmocka_unit_test(reports_pages),
		cmocka_unit_test(stores_what_it_is_given),
		cmocka_unit_test(moves_the_clock),
		cmocka_unit_test(has_a_real_clock),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
