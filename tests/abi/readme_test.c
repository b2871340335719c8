/* SPDX-License-Identifier: MIT */
/* Runs the program of README.md unchanged: it migrates a guest of the model kernel. */
#include "model.h"

#include <dirtylog/dirtylog.h>
#include <dirtylog/os.h>

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

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

/* migrate() is the README's; the others are the parts that it leaves to the caller. */
int migrate(struct dl_log *log, uint32_t vcpus, uint64_t fits_bytes, int passes);
int send_extents(const struct dl_extent *extents, int n);
int flush_channels(void);
int stop_vcpus_and_save_devices(void);

static struct {
	struct model *model;
	struct dl_log *log;
	struct dl_vcpu *vcpu;
	struct dl_os os;
	int vm_fd, vcpu_fd, timer_fd;
	pthread_t migrating;
	sem_t timer_sets; /* by the other thread */
	unsigned char *memory, *copy;
	uint64_t value; /* of the last store */
	bool stopped;
	uint32_t writes; /* during the next send */
	int sends;	 /* while the guest ran */
	int unflushed;	 /* since the last flush */
	int passes;	 /* that ended with a flush */
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

/* The model's descriptors are numbers that cannot be polled, so the timer is a real one. */
static int timer_new(void *opaque)
{
	guest.timer_fd = dl_os_system()->timer(NULL);
	return guest.timer_fd;
}

static int timer_set(void *opaque, int fd, uint64_t from_now_ns)
{
	int r = dl_os_system()->timer_set(NULL, fd, from_now_ns);

	if (!pthread_equal(pthread_self(), guest.migrating))
		sem_post(&guest.timer_sets);
	return r;
}

static int close_fd(void *opaque, int fd)
{
	return fd == guest.timer_fd ? close(fd) : model_os(guest.model)->close(opaque, fd);
}

/* During each send the guest writes, half as much each time, and so does a device. */
int send_extents(const struct dl_extent *extents, int n)
{
	if (guest.error)
		return guest.error;
	for (int i = 0; i < n; i++)
		model_copy(guest.copy + extents[i].offset_bytes, (void *)(uintptr_t)extents[i].hva,
			   extents[i].bytes);
	guest.unflushed++;
	/* The descriptor is made, and served once. */
	for (int i = 0; !guest.sends && !guest.stopped && i < 2; i++)
		while (sem_wait(&guest.timer_sets))
			;
	if (guest.stopped)
		return 0;
	for (uint32_t i = 0; i < guest.writes; i++)
		guest_write(i * 31 % MEMORY_PAGES);
	device_write();
	guest.writes /= 2;
	guest.sends++;
	return 0;
}

int flush_channels(void)
{
	guest.unflushed = 0;
	guest.passes++;
	return 0;
}

/* Only a paused harvest sees the write by the kernel. */
int stop_vcpus_and_save_devices(void)
{
	uint64_t gpa = GUEST_GPA + KERNEL_PAGE * PAGE_BYTES;

	assert_int_equal(guest.unflushed, 0);
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
	guest.os = *model_os(guest.model);
	guest.os.timer = timer_new;
	guest.os.timer_set = timer_set;
	guest.os.close = close_fd;
	guest.timer_fd = -1;
	guest.migrating = pthread_self();
	sem_init(&guest.timer_sets, 0, 0);
	options.os = &guest.os;
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
	sem_destroy(&guest.timer_sets);
	munmap(guest.memory, MEMORY_BYTES);
	munmap(guest.copy, MEMORY_BYTES);
	return 0;
}

static void the_copy_equals_the_memory(void **state)
{
	for (uint32_t page = 0; page < MEMORY_PAGES; page++)
		guest_write(page);
	assert_int_equal(migrate(guest.log, 1, FITS_BYTES, PASSES), 0);
	assert_memory_equal(guest.copy, guest.memory, MEMORY_BYTES);
	assert_true(guest.stopped);
	assert_int_equal(guest.unflushed, 0);
	/* The last pass had nothing to send. */
	assert_int_equal(guest.passes, guest.sends + 2);
	assert_in_range(guest.sends, 3, PASSES - 1);
}

static void passes_are_limited(void **state)
{
	assert_int_equal(migrate(guest.log, 1, 0, 2), 0);
	assert_memory_equal(guest.copy, guest.memory, MEMORY_BYTES);
	assert_int_equal(guest.sends, 2);
}

static void a_vcpu_that_is_missing_is_noticed(void **state)
{
	assert_int_equal(migrate(guest.log, 2, FITS_BYTES, PASSES), -EBUSY);
	assert_int_equal(guest.passes, 0);
}

static void a_failing_send_ends_the_migration_with_logging_off(void **state)
{
	uint64_t again_ns = 0;

	guest.error = -EIO;
	assert_int_equal(migrate(guest.log, 1, FITS_BYTES, PASSES), -EIO);
	assert_false(guest.stopped);
	assert_int_equal(guest.passes, 0);
	assert_int_equal(dl_log_reap(guest.log, 0, &again_ns), 0);
	assert_true(again_ns == UINT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_copy_equals_the_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(passes_are_limited, setup, teardown),
		cmocka_unit_test_setup_teardown(a_vcpu_that_is_missing_is_noticed, setup, teardown),
		cmocka_unit_test_setup_teardown(a_failing_send_ends_the_migration_with_logging_off,
						setup, teardown),
	};

	return cmocka_run_group_tests_name("README", tests, NULL, NULL);
}
