/* SPDX-License-Identifier: MIT */
/* The build option check_vcpus: no cursor comes while a vCPU of the process is not added. */
#include "machine.h"

#include <dirtylog/dirtylog.h>
#include <dirtylog/os.h>

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmocka.h>

static struct vm {
	struct machine machine;
	struct dl_log *log;
	struct dl_vcpu *added[GUEST_MAX_VCPUS];
} one, two;

static struct dl_os table;

/* The line is of the form that tests/run.sh collects. */
static void skip_with(const char *why)
{
	printf("skip: %s\n", why);
	skip();
}

static void open_vm(struct vm *vm, uint32_t mode)
{
	struct dl_options options = { .size = sizeof(options), .mode = mode, .os = &table };
	int r;

	assert_int_equal(machine_open(&vm->machine), 0);
	r = dl_log_open(vm->machine.vm_fd, &options, &vm->log, NULL, 0);
	if (r == -EOPNOTSUPP)
		skip_with("this kernel has no dirty rings");
	assert_int_equal(r, 0);
}

static void add(struct vm *vm, unsigned int index)
{
	int fd = vm->machine.vcpus[index].fd;

	errno = ENOTTY;
	assert_int_equal(dl_vcpu_add(vm->log, fd, 0, 0, &vm->added[index]), 0);
	assert_int_equal(errno, ENOTTY);
}

static void new_vcpu(struct vm *vm, bool with_add)
{
	struct machine_vcpu *vcpu;

	assert_int_equal(machine_add_vcpu(&vm->machine, &vcpu), 0);
	if (with_add)
		add(vm, vcpu->index);
}

static void close_log(struct vm *vm)
{
	for (unsigned int i = 0; i < GUEST_MAX_VCPUS; i++)
		dl_vcpu_remove(vm->added[i]);
	memset(vm->added, 0, sizeof(vm->added));
	dl_log_close(vm->log);
	vm->log = NULL;
}

static int setup(void **state)
{
	one.machine = two.machine = (struct machine){ .kvm_fd = -1, .vm_fd = -1 };
	table = *dl_os_system();
	return 0;
}

static int teardown(void **state)
{
	close_log(&one);
	close_log(&two);
	machine_close(&one.machine);
	machine_close(&two.machine);
	return 0;
}

static struct dl_cursor *expect_cursor(struct vm *vm)
{
	struct dl_cursor *cursor;

	errno = ENOTTY;
	assert_int_equal(dl_cursor_new(vm->log, NULL, &cursor), 0);
	assert_int_equal(errno, ENOTTY);
	return cursor;
}

static void expect_start(struct vm *vm)
{
	dl_cursor_free(expect_cursor(vm));
}

static void expect_missing(struct vm *vm, const char *ids)
{
	struct dl_cursor *cursor = (struct dl_cursor *)vm;
	char text[300], whole[600], wanted[300];

	snprintf(wanted, sizeof(wanted),
		 "vCPUs of this process were added to no log (ids %s): Device or resource busy",
		 ids);
	errno = ENOTTY;
	assert_int_equal(dl_cursor_new(vm->log, NULL, &cursor), -EBUSY);
	assert_int_equal(errno, ENOTTY);
	assert_null(cursor);
	assert_int_equal(dl_log_last_error(vm->log, text, sizeof(text)), strlen(wanted));
	assert_string_equal(text, wanted);
	assert_true(dl_log_describe(vm->log, whole, sizeof(whole)) > 0);
	assert_non_null(strstr(whole, wanted));
}

static void the_first_cursor_waits_for_every_vcpu(void **state)
{
	open_vm(&one, DL_MODE_RING);
	expect_start(&one);
	new_vcpu(&one, true);
	expect_start(&one);
	new_vcpu(&one, false);
	new_vcpu(&one, true);
	expect_missing(&one, "1");
	add(&one, 1);
	expect_start(&one);
}

static void a_later_cursor_waits_and_the_first_goes_on(void **state)
{
	struct dl_cursor *first;
	uint64_t bytes;

	open_vm(&one, DL_MODE_RING);
	new_vcpu(&one, true);
	first = expect_cursor(&one);
	expect_start(&one);
	new_vcpu(&one, false);
	expect_missing(&one, "1");
	assert_int_equal(dl_harvest(first, 0, &bytes), 0);
	assert_int_equal(dl_cursor_end(first, 0), 0);
	add(&one, 1);
	expect_start(&one);
	dl_cursor_free(first);
}

static void all_missing_ids_are_named(void **state)
{
	open_vm(&one, DL_MODE_RING);
	for (unsigned int i = 0; i < GUEST_MAX_VCPUS; i++)
		new_vcpu(&one, i == 0 || i == 3);
	expect_missing(&one, "1, 2, 4, 5, 6, 7");
	add(&one, 1);
	add(&one, 6);
	expect_missing(&one, "2, 4, 5, 7");
}

static int new_vcpu_with_id(struct vm *vm, unsigned long id)
{
	int fd = ioctl(vm->machine.vm_fd, KVM_CREATE_VCPU, id);

	if (fd < 0)
		skip_with("this kernel refuses such a vCPU id");
	return fd;
}

/* The number that names them has room for 16 ids after the lowest. */
static void ids_far_above_the_lowest_are_named_later(void **state)
{
	int low, high, higher;

	open_vm(&one, DL_MODE_RING);
	higher = new_vcpu_with_id(&one, 21);
	high = new_vcpu_with_id(&one, 20);
	low = new_vcpu_with_id(&one, 4);
	expect_missing(&one, "4, 20");
	assert_int_equal(dl_vcpu_add(one.log, low, 0, 0, &one.added[0]), 0);
	expect_missing(&one, "20, 21");
	close(high);
	expect_missing(&one, "21");
	close(low);
	close(higher);
	expect_start(&one);
}

static void a_duplicate_is_no_second_vcpu(void **state)
{
	int copy;

	open_vm(&one, DL_MODE_RING);
	new_vcpu(&one, true);
	copy = fcntl(one.machine.vcpus[0].fd, F_DUPFD_CLOEXEC, 0);
	assert_true(copy >= 0);
	expect_start(&one);
	close(copy);
}

/* Its ring is still harvested. */
static void a_removed_vcpu_is_not_missing(void **state)
{
	open_vm(&one, DL_MODE_RING);
	new_vcpu(&one, true);
	dl_vcpu_remove(one.added[0]);
	one.added[0] = NULL;
	expect_start(&one);
	add(&one, 0);
	/* It counts once, or the vCPU 0 of another VM could hide behind it. */
	open_vm(&two, DL_MODE_RING);
	new_vcpu(&two, false);
	expect_missing(&one, "0");
}

static void vcpus_of_the_same_id_are_counted_over_all_vms(void **state)
{
	open_vm(&one, DL_MODE_RING);
	open_vm(&two, DL_MODE_RING);
	new_vcpu(&one, true);
	new_vcpu(&two, false);
	expect_missing(&one, "0");
	expect_missing(&two, "0");
	add(&two, 0);
	expect_start(&one);
	expect_start(&two);
	close_log(&two);
	expect_missing(&one, "0");
	machine_close(&two.machine);
	expect_start(&one);
}

/* There KVM_GET_DIRTY_LOG has the writes of every vCPU. */
static void bitmap_mode_needs_no_vcpus(void **state)
{
	open_vm(&one, DL_MODE_BITMAP);
	new_vcpu(&one, false);
	expect_start(&one);
	new_vcpu(&one, true);
	open_vm(&two, DL_MODE_RING);
	expect_missing(&two, "0");
	add(&one, 0);
	expect_start(&two);
	dl_vcpu_remove(one.added[1]);
	one.added[1] = NULL;
	expect_missing(&two, "1");
}

enum { OTHER_NUMBER = 1 << 20 };

static struct {
	unsigned int ioctls;
	int vcpu_fd; /* the table's users call it OTHER_NUMBER */
} own;

static int own_ioctl(void *opaque, int fd, unsigned long request, void *arg)
{
	own.ioctls++;
	return dl_os_system()->ioctl(NULL, fd == OTHER_NUMBER ? own.vcpu_fd : fd, request, arg);
}

static int own_mmap(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot, int flags,
		    void **addr)
{
	return dl_os_system()->mmap(NULL, fd == OTHER_NUMBER ? own.vcpu_fd : fd, offset_bytes,
				    bytes, prot, flags, addr);
}

static void the_check_needs_no_table(void **state)
{
	unsigned int before;

	table.ioctl = own_ioctl;
	table.mmap = own_mmap;
	open_vm(&one, DL_MODE_RING);
	new_vcpu(&one, true);
	new_vcpu(&one, false);
	before = own.ioctls;
	assert_true(before > 0);
	expect_missing(&one, "1");
	assert_int_equal(own.ioctls, before);
	/* A descriptor that only the table knows has no name, so it is not counted. */
	own.vcpu_fd = one.machine.vcpus[1].fd;
	errno = ENOTTY;
	assert_int_equal(dl_vcpu_add(one.log, OTHER_NUMBER, 0, 0, &one.added[1]), 0);
	assert_int_equal(errno, ENOTTY);
	expect_missing(&one, "1");
	dl_vcpu_remove(one.added[1]);
	add(&one, 1);
	expect_start(&one);
}

int main(void)
{
#define check_test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		check_test(the_first_cursor_waits_for_every_vcpu),
		check_test(a_later_cursor_waits_and_the_first_goes_on),
		check_test(all_missing_ids_are_named),
		check_test(ids_far_above_the_lowest_are_named_later),
		check_test(a_duplicate_is_no_second_vcpu),
		check_test(a_removed_vcpu_is_not_missing),
		check_test(vcpus_of_the_same_id_are_counted_over_all_vms),
		check_test(bitmap_mode_needs_no_vcpus),
		check_test(the_check_needs_no_table),
	};

	if (machine_available()) {
		puts("skip: /dev/kvm cannot be opened");
		return 77;
	}
	return cmocka_run_group_tests_name("vcpu check", tests, NULL, NULL);
}
