/* SPDX-License-Identifier: MIT */
/* Runs the program of README.md unchanged: it migrates a guest of the model kernel. */
#include "model.h"

#include <dirtylog/dirtylog.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define PAGE_BYTES   4096u
#define MEMORY_PAGES 512u
#define MEMORY_BYTES (MEMORY_PAGES * PAGE_BYTES)
#define GUEST_GPA    0x100000u
#define FIRST_WRITES 256u
#define PASSES	     20
#define FITS_BYTES   (8 * PAGE_BYTES)
#define DEVICE_PAGE  3u
#define KERNEL_PAGE  5u

/* migrate() is the README's; the other two are the parts that it leaves to the caller. */
int migrate(struct dl_log *log, uint64_t fits_bytes, int passes);
int send_runs(const struct dl_run *runs, int n_runs);
int stop_vcpus_and_save_devices(void);

static struct {
	struct model *model;
	struct dl_log *log;
	struct dl_vcpu *vcpu;
	int vm_fd, vcpu_fd;
	unsigned char *memory, *copy;
	uint64_t value; /* of the last store */
	bool stopped;
	uint32_t writes; /* during the next send */
	int sends;	 /* while the guest ran */
	int error;	 /* to return from the next send */
} guest;

static void guest_write(uint32_t page)
{
	uint64_t gpa = GUEST_GPA + page * PAGE_BYTES + page % 512 * 8;

	guest.value++;
	while (model_vcpu_write(guest.model, guest.vcpu_fd, 0, gpa, &guest.value, 8))
		assert_int_equal(dl_vcpu_drain(guest.vcpu, 0), 0);
}

static void device_write(void)
{
	uint64_t offset_bytes = DEVICE_PAGE * PAGE_BYTES;

	guest.value++;
	model_copy(guest.memory + offset_bytes, &guest.value, 8);
	assert_int_equal(dl_mark_gpa(guest.log, 0, GUEST_GPA + offset_bytes, 8), 0);
}

/* During each send the guest writes, half as much each time, and so does a device. */
int send_runs(const struct dl_run *runs, int n_runs)
{
	if (guest.error)
		return guest.error;
	for (int i = 0; i < n_runs; i++)
		model_copy(guest.copy + runs[i].offset_bytes, (void *)(uintptr_t)runs[i].hva,
			   runs[i].bytes);
	if (guest.stopped)
		return 0;
	for (uint32_t i = 0; i < guest.writes; i++)
		guest_write(i * 31 % MEMORY_PAGES);
	device_write();
	guest.writes /= 2;
	guest.sends++;
	return 0;
}

/* Only a final harvest sees the write by the kernel. */
int stop_vcpus_and_save_devices(void)
{
	uint64_t gpa = GUEST_GPA + KERNEL_PAGE * PAGE_BYTES;

	guest_write(MEMORY_PAGES - 1);
	device_write();
	model_vcpu_exit(guest.model, guest.vcpu_fd, KVM_EXIT_INTR);
	assert_int_equal(model_kernel_write(guest.model, guest.vm_fd, 0, gpa, &guest.value, 8), 0);
	guest.stopped = true;
	return 0;
}

static void *memory_new(void)
{
	void *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);

	assert_true(memory != MAP_FAILED);
	return memory;
}

static int setup(void **state)
{
	struct dl_options options = { .size = sizeof(options) };
	struct dl_slot slot = { .size = sizeof(slot), .gpa = GUEST_GPA, .bytes = MEMORY_BYTES };
	const struct model_options kernel = {
		.has = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP,
	};

	memset(&guest, 0, sizeof(guest));
	guest.writes = FIRST_WRITES;
	guest.memory = memory_new();
	guest.copy = memory_new();
	guest.model = model_new(&kernel);
	options.os = model_os(guest.model);
	guest.vm_fd = model_vm_create(guest.model);
	assert_int_equal(dl_log_open(guest.vm_fd, &options, &guest.log, NULL, 0), 0);
	slot.hva = (uintptr_t)guest.memory;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	guest.vcpu_fd = model_vcpu_create(guest.model, guest.vm_fd);
	assert_int_equal(dl_vcpu_add(guest.log, guest.vcpu_fd, 0, 0, &guest.vcpu), 0);
	return 0;
}

static int teardown(void **state)
{
	dl_vcpu_remove(guest.vcpu);
	dl_log_close(guest.log);
	model_free(guest.model);
	munmap(guest.memory, MEMORY_BYTES);
	munmap(guest.copy, MEMORY_BYTES);
	return 0;
}

static void the_copy_equals_the_memory(void **state)
{
	for (uint32_t page = 0; page < MEMORY_PAGES; page++)
		guest_write(page);
	assert_int_equal(migrate(guest.log, FITS_BYTES, PASSES), 0);
	assert_memory_equal(guest.copy, guest.memory, MEMORY_BYTES);
	assert_true(guest.stopped);
	assert_in_range(guest.sends, 3, PASSES - 1);
}

static void passes_are_limited(void **state)
{
	assert_int_equal(migrate(guest.log, 0, 2), 0);
	assert_memory_equal(guest.copy, guest.memory, MEMORY_BYTES);
	assert_int_equal(guest.sends, 2);
}

static void a_failing_send_ends_the_migration_with_logging_off(void **state)
{
	guest.error = -EIO;
	assert_int_equal(migrate(guest.log, FITS_BYTES, PASSES), -EIO);
	assert_false(guest.stopped);
	assert_int_equal(dl_harvest(guest.log, 0, NULL), -ECANCELED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_copy_equals_the_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(passes_are_limited, setup, teardown),
		cmocka_unit_test_setup_teardown(a_failing_send_ends_the_migration_with_logging_off,
						setup, teardown),
	};

	return cmocka_run_group_tests_name("README", tests, NULL, NULL);
}
