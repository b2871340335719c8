/* SPDX-License-Identifier: MIT */
/* dl_log_last_error(): each call that refuses something says what, and -EINVAL names the field. */
#include "rules_guest.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>

enum { PAGES = 100 };

static struct dl_cursor *cursor, *other;
static struct dl_slot slot;
static struct dl_extent extent;
static uint64_t words[2];

/* Slot 0, two cursors, and an open pass of one that has read one extent. */
static void begin(void)
{
	set_slot(0, 0, PAGES, 0);
	cursor = join(0);
	other = join(0);
	begin_pass(cursor);
	extent = expect_read(cursor, 0, PAGES);
	slot = slot_of(0);
}

static void expect_error(const char *wanted, int error)
{
	char text[256];

	assert_true(dl_log_last_error(guest.log, text, sizeof(text)) > 0);
	if (strncmp(text, wanted, strlen(wanted)))
		fail_msg("\"%s\" is not \"%s\"", text, wanted);
	if (!strstr(text, strerror(error)))
		fail_msg("\"%s\" says nothing of \"%s\"", text, strerror(error));
}

/* A call that must fail. */
#define FAILS(call, error, words_of_it)           \
	do {                                      \
		assert_int_equal(call, -(error)); \
		expect_error(words_of_it, error); \
	} while (0)

static void nothing_has_failed_at_first(void **state)
{
	char text[8] = "x";

	assert_int_equal(dl_log_last_error(guest.log, text, sizeof(text)), 0);
	assert_string_equal(text, "");
	assert_int_equal(dl_log_last_error(NULL, text, sizeof(text)), -EINVAL);
	assert_int_equal(dl_log_last_error(guest.log, NULL, 0), 0);
	FAILS(dl_log_last_error(guest.log, NULL, 1), EINVAL, "a pointer that is NULL");
}

static int set(uint64_t gpa, uint64_t bytes, uint64_t hva, uint32_t number)
{
	struct dl_slot s = { .size = sizeof(s), .gpa = gpa, .bytes = bytes, .hva = hva };

	s.slot = number;
	return dl_slot_set(guest.log, &s);
}

static void a_refused_slot_names_its_field(void **state)
{
	struct dl_slot s;

	begin();
#define REFUSE(change, error, text)                             \
	do {                                                    \
		s = slot;                                       \
		change;                                         \
		FAILS(dl_slot_set(guest.log, &s), error, text); \
	} while (0)
	REFUSE(s.size--, EINVAL, "a struct whose size");
	REFUSE(s.flags = 32, EINVAL, "unknown flags");
	REFUSE(s.flags = DL_SLOT_CLEAN | DL_SLOT_EXISTS, EINVAL, "DL_SLOT_EXISTS with");
	REFUSE(s.kvm_flags = KVM_MEM_LOG_DIRTY_PAGES, EINVAL, "kvm_flags with");
	REFUSE(s.bytes += 4096, EINVAL, "a new size, hva");
	REFUSE(s.hva += 4096, EINVAL, "a new size, hva");
	REFUSE(s.flags = DL_SLOT_NO_LOG, EINVAL, "a new size, hva");
	REFUSE(s.kvm_flags = KVM_MEM_READONLY, EINVAL, "a new size, hva, KVM_MEM_READONLY");
#undef REFUSE
	FAILS(set(1 << 20, 4096, 4096, 0xffff), EINVAL, "a slot number beyond");
	expect_error("a slot number beyond the kernel's limit (slot 65535 of address space 0)",
		     EINVAL);
	FAILS(set(1 << 20, 0, 4096, 5), EINVAL, "a slot of no bytes");
	FAILS(set(1 << 20, UINT64_C(4096) << 31, 4096, 5), EINVAL, "a slot of no bytes");
	FAILS(set(1, 4096, 4096, 5), EINVAL, "gpa, hva, bytes");
	FAILS(set(1 << 20, 4096, 1, 5), EINVAL, "gpa, hva, bytes");
	FAILS(set(0 - UINT64_C(4096), 4096, 4096, 5), EINVAL, "a range that wraps");
	FAILS(set(4096, 4096, 4096, 5), EEXIST, "the range overlaps another slot");
	FAILS(dl_slot_set(guest.log, NULL), EINVAL, "a pointer that is NULL");
}

static void a_refused_remove_or_clear_names_its_field(void **state)
{
	begin();
	FAILS(dl_slot_remove(guest.log, 0, 2, NULL, 0), EINVAL, "unknown flags");
	FAILS(dl_slot_remove(guest.log, 0, 0, words, 1), EINVAL, "n_words");
	FAILS(dl_slot_remove(guest.log, 0, 0, NULL, 2), EINVAL, "n_words");
	FAILS(dl_slot_remove(guest.log, 7, 0, NULL, 0), ENOENT, "there is no such slot");
	expect_error("there is no such slot (slot 7 of address space 0)", ENOENT);
	FAILS(dl_slot_clear(guest.log, 7, 0, 4096), ENOENT, "there is no such slot");
	FAILS(dl_slot_clear(guest.log, 0, 0, PAGES * 4096 + 1), EINVAL, "a range that leaves");
	FAILS(dl_slot_clear(guest.log, 0, 1, UINT64_MAX), EINVAL, "a range that wraps");
}

static void a_refused_cursor_names_its_field(void **state)
{
	struct dl_cursor_options o = { .size = sizeof(o) };
	struct dl_cursor *none;

	begin();
	FAILS(dl_cursor_new(guest.log, NULL, NULL), EINVAL, "a pointer that is NULL");
	o.vcpus = 2;
	FAILS(dl_cursor_new(guest.log, &o, &none), EBUSY,
	      "dl_cursor_options.vcpus is more than were added");
	expect_error("dl_cursor_options.vcpus is more than were added, by 1", EBUSY);
	o.flags = 1;
	FAILS(dl_cursor_new(guest.log, &o, &none), EINVAL, "unknown flags");
	o.flags = DL_CURSOR_ONE_SLOT | DL_CURSOR_WANTED;
	FAILS(dl_cursor_new(guest.log, &o, &none), EINVAL, "unknown flags");
	o.flags = DL_CURSOR_ONE_SLOT;
	o.slot = 0xffff;
	FAILS(dl_cursor_new(guest.log, &o, &none), EINVAL, "a slot number beyond");
	o.size--;
	FAILS(dl_cursor_new(guest.log, &o, &none), EINVAL, "a struct whose size");
	FAILS(dl_cursor_stats(cursor, NULL), EINVAL, "a pointer that is NULL");
}

static void a_refused_call_on_a_pass_names_its_field(void **state)
{
	struct dl_extent bad;

	begin();
	FAILS(dl_harvest(cursor, 4, NULL), EINVAL, "unknown flags");
	FAILS(dl_harvest(cursor, 0, NULL), EBUSY, "the cursor's pass is still open");
	FAILS(dl_cursor_read(other, &bad, 1), EBUSY, "the cursor has no open pass");
	FAILS(dl_cursor_read(cursor, NULL, 1), EINVAL, "a pointer that is NULL");
	FAILS(dl_cursor_read(cursor, &bad, 0), EINVAL, "a pointer that is NULL");
	FAILS(dl_cursor_end(cursor, 1), EINVAL, "unknown flags");
	FAILS(dl_cursor_ack(cursor, NULL, 1), EINVAL, "a pointer that is NULL");
	FAILS(dl_cursor_ack(other, &extent, 1), EINVAL, "an extent of another cursor");
	bad = extent;
	bad.bytes = 1;
	FAILS(dl_cursor_ack(cursor, &bad, 1), EINVAL, "gpa, hva, bytes");
	bad.bytes = 0;
	FAILS(dl_cursor_ack(cursor, &bad, 1), EINVAL, "an extent that is not handed out");
	assert_int_equal(dl_cursor_ack(cursor, &extent, 1), 0);
	FAILS(dl_cursor_ack(cursor, &extent, 1), EINVAL, "an extent that is not handed out");
	FAILS(dl_harvest(join_slot(DL_CURSOR_ONE_SLOT, 9), 0, NULL), ENOENT,
	      "there is no such slot (slot 9");
}

static void a_refused_take_names_its_field(void **state)
{
	begin();
	FAILS(dl_cursor_take(cursor, 0, 16, words, 2, NULL), EINVAL, "unknown flags");
	FAILS(dl_cursor_take(cursor, 0, DL_TAKE_PAUSED, words, 2, NULL), EINVAL,
	      "DL_TAKE_PAUSED without DL_TAKE_HARVEST");
	FAILS(dl_cursor_take(cursor, 0, 0, NULL, 2, NULL), EINVAL, "a pointer that is NULL");
	FAILS(dl_cursor_take(cursor, 0, 0, words, 1, NULL), EINVAL, "n_words");
	FAILS(dl_cursor_take(cursor, 9, 0, words, 2, NULL), ENOENT, "there is no such slot");
}

static void a_refused_mark_is_named(void **state)
{
	begin();
	FAILS(dl_mark_gpa(guest.log, 0, 1 << 30, 1), ENOENT, "a mark outside of every slot");
	FAILS(dl_mark_gpa(guest.log, 0, 1, UINT64_MAX), EINVAL, "a range that wraps");
	FAILS(dl_mark_slot(guest.log, 9, 0, 1), ENOENT, "a mark outside of every slot");
	FAILS(dl_mark_slot(guest.log, 0, 1, UINT64_MAX), EINVAL, "a range that wraps");
	FAILS(dl_mark_iov(guest.log, NULL, 1, 0, 1), EINVAL, "a pointer that is NULL");
}

static void a_failed_system_call_names_its_slot(void **state)
{
	begin();
	end_pass(cursor);
	fail_calls(KVM_SET_USER_MEMORY_REGION, 0, 1, ENOSPC);
	FAILS(set(1 << 20, 4096, 4096, 5), ENOSPC, "the memory region could not be set (slot 5");
	fail_calls(KVM_SET_USER_MEMORY_REGION, 0, 1, EIO);
	FAILS(dl_slot_remove(guest.log, 0, 0, NULL, 0), EIO,
	      "the memory region could not be deleted (slot 0");
	fail_calls(KVM_GET_DIRTY_LOG, 0, 1, EFAULT);
	FAILS(dl_harvest(cursor, 0, NULL), EFAULT, "the bitmap could not be read (slot 0");
	write_page(5);
	begin_pass(cursor);
	fail_calls(KVM_CLEAR_DIRTY_LOG, 0, 1, EIO);
	FAILS(dl_cursor_read(cursor, &extent, 1), EIO, "the bitmap could not be cleared (slot 0");
	fail_calls(MODEL_CALL_MMAP, 0, 1, ENOMEM);
	FAILS(set(1 << 20, 4096, 4096, 5), ENOMEM, "no memory for the pages (slot 5");
}

static void a_failed_reset_is_named(void **state)
{
	uint64_t again_ns;

	set_slot(0, 0, PAGES, 0);
	cursor = join(DL_CURSOR_CLEAN);
	write_page(5);
	fail_calls(KVM_RESET_DIRTY_RINGS, 0, 1, EFAULT);
	FAILS(dl_harvest(cursor, 0, NULL), EFAULT, "the rings could not be reset");
	fail_calls(KVM_RESET_DIRTY_RINGS, 0, 1, ENOSPC);
	FAILS(dl_vcpu_drain(vcpu->handle, 0), ENOSPC, "the rings could not be reset");
	fail_calls(KVM_RESET_DIRTY_RINGS, 0, 1, EFAULT);
	FAILS(dl_log_reap(guest.log, DL_REAP_NOW, &again_ns), EFAULT,
	      "the rings could not be reset");
}

static void a_refused_vcpu_names_its_field(void **state)
{
	struct dl_stats stats = { .size = 4 };
	struct dl_vcpu *none;

	FAILS(dl_vcpu_add(guest.log, vcpu->fd, 0, 1, &none), EINVAL, "unknown flags");
	FAILS(dl_vcpu_add(guest.log, vcpu->fd, 0, 0, NULL), EINVAL, "a pointer that is NULL");
	FAILS(dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &none), EEXIST, "this vCPU was added already");
	FAILS(dl_vcpu_add(guest.log, guest.vm_fd, 0, 0, &none), EBADF,
	      "vcpu_fd is not a vCPU's descriptor");
	FAILS(dl_vcpu_drain(vcpu->handle, 1), EINVAL, "unknown flags");
	FAILS(dl_vcpu_stats(vcpu->handle, NULL), EINVAL, "a pointer that is NULL");
	FAILS(dl_vcpu_stats(vcpu->handle, &stats), EINVAL, "a struct whose size");
}

static void a_refused_look_names_its_field(void **state)
{
	struct dl_stats stats = { .size = 4 };
	struct dl_config config = { .size = 4 };

	FAILS(dl_log_reap(guest.log, 1, NULL), EINVAL, "unknown flags");
	FAILS(dl_log_config(guest.log, NULL), EINVAL, "a pointer that is NULL");
	FAILS(dl_log_config(guest.log, &config), EINVAL, "a struct whose size");
	FAILS(dl_log_stats(guest.log, NULL), EINVAL, "a pointer that is NULL");
	FAILS(dl_log_stats(guest.log, &stats), EINVAL, "a struct whose size");
	fail_calls(MODEL_CALL_TIMER, 0, 1, EMFILE);
	FAILS(dl_log_fd(guest.log), EMFILE, "the descriptor's timer");
	fail_calls(MODEL_CALL_SIGMASK, 0, 1, EPERM);
	FAILS(dl_log_fd(guest.log), EPERM, "signals could not be blocked");
}

static void *fail_in_a_thread(void *unused)
{
	(void)dl_cursor_end(cursor, 1);
	return NULL;
}

/* The log keeps the last failure of itself or any handle, on any thread, until the next one. */
static void the_last_failure_is_the_logs(void **state)
{
	pthread_t thread;
	char text[256];

	begin();
	FAILS(dl_slot_clear(guest.log, 7, 0, 4096), ENOENT, "there is no such slot");
	pthread_create(&thread, NULL, fail_in_a_thread, NULL);
	pthread_join(thread, NULL);
	expect_error("unknown flags", EINVAL);
	/* A call that succeeds leaves it. */
	end_pass(cursor);
	expect_error("unknown flags", EINVAL);
	assert_true(dl_log_describe(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "last failure: unknown flags"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rule_test(ring, nothing_has_failed_at_first),
		rule_test(bitmap, a_refused_slot_names_its_field),
		rule_test(bitmap, a_refused_remove_or_clear_names_its_field),
		rule_test(ring, a_refused_cursor_names_its_field),
		rule_test(ring, a_refused_call_on_a_pass_names_its_field),
		rule_test(ring, a_refused_take_names_its_field),
		rule_test(ring, a_refused_mark_is_named),
		rule_test(bitmap, a_failed_system_call_names_its_slot),
		rule_test(ring, a_failed_reset_is_named),
		rule_test(ring, a_refused_vcpu_names_its_field),
		rule_test(ring, a_refused_look_names_its_field),
		rule_test(ring, the_last_failure_is_the_logs),
	};

	return RUN_TESTS("last_error", tests);
}
