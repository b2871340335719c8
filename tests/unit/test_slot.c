/* SPDX-License-Identifier: MIT */
/* dl_slot_set(): arguments, errors, and what is pending. */
#include "cmocka_all.h"
#include "guest.h"
#include "log.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum { PAGES = 100, GPA_PAGE = 1000 };

static struct guest guest;
static struct guest_block *block;
static struct dl_slot slot; /* set: all of block at GPA_PAGE */

static void begin(uint32_t has, uint32_t mode, bool join)
{
	const struct guest_config config = { .model = { .has = has }, .options = { .mode = mode } };

	guest_open(&guest, &config);
	block = guest_memory(&guest, PAGES);
	slot = guest_slot(&guest, 3, GPA_PAGE, block, 0, PAGES);
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	if (join)
		guest_join(&guest, DL_CURSOR_CLEAN);
}

static int setup_off(void **state)
{
	begin(0, DL_MODE_RING, false);
	return 0;
}

static int setup_ring(void **state)
{
	begin(0, DL_MODE_RING, true);
	return 0;
}

static int setup_backup(void **state)
{
	begin(MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP, DL_MODE_RING, true);
	return 0;
}

static int setup_bitmap(void **state)
{
	begin(0, DL_MODE_BITMAP, true);
	return 0;
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define off_test(f)    cmocka_unit_test_setup_teardown(f, setup_off, teardown)
#define ring_test(f)   cmocka_unit_test_setup_teardown(f, setup_ring, teardown)
#define backup_test(f) cmocka_unit_test_setup_teardown(f, setup_backup, teardown)
#define bitmap_test(f) cmocka_unit_test_setup_teardown(f, setup_bitmap, teardown)

static void fail_once(unsigned long request, int error)
{
	const struct model_fault fault = { .request = request, .times = 1, .error = error };

	assert_int_equal(model_fault(guest.model, &fault), 0);
}

static uint64_t pending_pages(void)
{
	return guest_pending(&guest) / guest.page_bytes;
}

/* Expects that a pass hands out the n pages from gpa_page on, in order. */
static void expect_pass(uint64_t gpa_page, int n)
{
	uint64_t pages[2 * PAGES];

	assert_int_equal(guest_pass(&guest, 0, pages, 2 * PAGES), n);
	for (int i = 0; i < n; i++)
		assert_int_equal(pages[i], gpa_page + (uint64_t)i);
}

static void expect_set(const struct dl_slot *wanted, int result)
{
	struct dl_slot copy = *wanted;
	unsigned int regions = guest.regions;

	assert_int_equal(dl_slot_set(guest.log, &copy), result);
	assert_memory_equal(&copy, wanted, sizeof(copy));
	/* Arguments that the library refuses do not reach the kernel. */
	if (result == -EINVAL || result == -EEXIST || result == -E2BIG)
		assert_int_equal(guest.regions, regions);
}

static void set_refuses_invalid_slots(void **state)
{
	struct dl_slot s;

#define REFUSE(change)                   \
	do {                             \
		s = slot;                \
		s.slot = 4;              \
		s.gpa += slot.bytes;     \
		change;                  \
		expect_set(&s, -EINVAL); \
	} while (0)
	REFUSE(s.gpa += 512);
	REFUSE(s.hva += 512);
	REFUSE(s.bytes -= 512);
	REFUSE(s.bytes = 0);
	REFUSE(s.gpa = UINT64_MAX - 8191);
	REFUSE(s.hva = UINT64_MAX - 8191);
	REFUSE(s.flags = 32);
	REFUSE(s.flags = UINT32_MAX);
	REFUSE(s.flags = DL_SLOT_EXISTS | DL_SLOT_CLEAN);
	REFUSE(s.kvm_flags = KVM_MEM_LOG_DIRTY_PAGES);
	REFUSE(s.slot = 32764);
	REFUSE(s.slot = 0xffff);
	REFUSE(s.slot = 2 << 16);
	REFUSE(s.bytes = UINT64_C(4096) << 31);
	REFUSE(s.size = sizeof(s) - 1);
#undef REFUSE
	assert_int_equal(dl_slot_set(NULL, &slot), -EINVAL);
	assert_int_equal(dl_slot_set(guest.log, NULL), -EINVAL);
}

/* KVM allows no such slot, and the table, sorted by ends, could not find it by address. */
static void no_slot_ends_where_addresses_end(void **state)
{
	struct dl_slot s = slot;

	s.slot = 4;
	s.gpa = s.hva = 0 - s.bytes;
	assert_int_equal(dl_slot_set(guest.log, &s), -EINVAL);
	s.gpa -= s.bytes;
	s.hva -= s.bytes;
	s.flags = DL_SLOT_EXISTS;
	assert_int_equal(dl_slot_set(guest.log, &s), 0);
	/* KVM has no such slot to delete. */
	assert_int_equal(dl_slot_remove(guest.log, 4, 0, NULL, 0), -EINVAL);
}

static void set_reads_a_longer_struct(void **state)
{
	struct {
		struct dl_slot known;
		uint64_t tail;
	} longer = { .known = slot };

	longer.known.size = sizeof(longer);
	assert_int_equal(dl_slot_set(guest.log, &longer.known), 0);
	longer.tail = 1;
	assert_int_equal(dl_slot_set(guest.log, &longer.known), -E2BIG);
}

static void set_refuses_overlapping_slots(void **state)
{
	struct dl_slot other = guest_slot(&guest, 4, GPA_PAGE + PAGES - 1, block, 0, 2);

	expect_set(&other, -EEXIST);
	other.slot = 1 << 16 | 3;
	expect_set(&other, 0);
	other = guest_slot(&guest, 5, GPA_PAGE + PAGES, block, 0, 1);
	expect_set(&other, 0);
	/* A move onto another slot is refused too; an overlap with itself is allowed. */
	other = slot;
	other.gpa += guest.page_bytes;
	expect_set(&other, -EEXIST);
	other.gpa = slot.gpa - guest.page_bytes;
	expect_set(&other, 0);
}

static void set_refuses_changes_that_kvm_cannot_make(void **state)
{
	struct dl_slot other = slot;

	other.bytes -= guest.page_bytes;
	expect_set(&other, -EINVAL);
	other = slot;
	other.hva += guest.page_bytes;
	expect_set(&other, -EINVAL);
	other = slot;
	other.kvm_flags = KVM_MEM_READONLY;
	expect_set(&other, -EINVAL);
	other = slot;
	other.flags = DL_SLOT_NO_LOG;
	expect_set(&other, -EINVAL);
}

static void setting_a_slot_unchanged_does_nothing(void **state)
{
	unsigned int regions = guest.regions;

	expect_set(&slot, 0);
	assert_int_equal(guest.regions, regions);
	assert_int_equal(pending_pages(), 0);
}

static void a_kernel_that_refuses_a_slot_leaves_the_log_as_it_was(void **state)
{
	struct dl_slot other = guest_slot(&guest, 4, 0, block, 0, 1);
	char text[600];

	fail_once(KVM_SET_USER_MEMORY_REGION, ENOSPC);
	expect_set(&other, -ENOSPC);
	assert_true(dl_log_last_error(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "could not be set (slot 4 of address space 0"));
	assert_int_equal(dl_mark_slot(guest.log, 4, 0, 1), -ENOENT);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 0, 1), -ENOENT);
	other.slot = 1 << 16 | 4;
	fail_once(KVM_SET_USER_MEMORY_REGION, ENOSPC);
	expect_set(&other, -ENOSPC);
	assert_true(dl_log_last_error(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "could not be set (slot 4 of address space 1"));
	other.slot = 4;
	expect_set(&other, 0);
	assert_int_equal(pending_pages(), 1);
}

static void a_kernel_that_refuses_a_move_leaves_the_slot_in_place(void **state)
{
	struct dl_slot moved = slot;
	unsigned int regions;

	moved.gpa = 0;
	moved.kvm_flags = 1u << 5;
	fail_once(KVM_SET_USER_MEMORY_REGION, ENOMEM);
	expect_set(&moved, -ENOMEM);
	assert_int_equal(dl_mark_gpa(guest.log, 0, 0, 1), -ENOENT);
	assert_int_equal(dl_mark_gpa(guest.log, 0, slot.gpa, 1), 0);
	expect_pass(GPA_PAGE, 1);
	regions = guest.regions;
	expect_set(&slot, 0);
	assert_int_equal(guest.regions, regions); /* it has these flags already */
}

static void a_page_set_without_memory_is_an_error(void **state)
{
	struct dl_slot other = guest_slot(&guest, 4, 0, block, 0, 1);
	unsigned int regions = guest.regions;

	fail_once(MODEL_CALL_MMAP, ENOMEM);
	assert_int_equal(dl_slot_set(guest.log, &other), -ENOMEM);
	assert_int_equal(guest.regions, regions);
	expect_set(&other, 0);
}

/* The bitmap needs a larger buffer, without which a GET would lose bits: the slot is refused. */
static void a_bitmap_without_memory_is_an_error(void **state)
{
	const struct model_fault second = {
		.request = MODEL_CALL_MMAP, .skip = 1, .times = 1, .error = ENOMEM
	};
	struct dl_slot other = guest_slot(&guest, 4, 2000, guest_memory(&guest, 40000), 0, 40000);
	unsigned int regions = guest.regions;

	model_fault(guest.model, &second);
	assert_int_equal(dl_slot_set(guest.log, &other), -ENOMEM);
	assert_int_equal(guest.regions, regions);
	assert_int_equal(dl_mark_slot(guest.log, 4, 0, 1), -ENOENT);
	expect_set(&other, 0);
	assert_int_equal(pending_pages(), 40000);
}

static void a_new_slot_is_wholly_pending_unless_clean(void **state)
{
	struct guest_block *own = guest_memory(&guest, 20);
	struct dl_slot first = guest_slot(&guest, 4, 0, own, 0, 10);
	struct dl_slot second = guest_slot(&guest, 5, 10, own, 10, 10);

	second.flags = DL_SLOT_CLEAN;
	expect_set(&first, 0);
	assert_int_equal(pending_pages(), 10);
	expect_pass(0, 10);
	expect_set(&second, 0);
	assert_int_equal(pending_pages(), 0);
}

static bool known_when_created;

static bool look_up(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	if (request == KVM_SET_USER_MEMORY_REGION && *(const uint32_t *)arg == 4)
		known_when_created = dli_slot_find(dli_slots_table(&g->log->slots), 4);
	return false;
}

/* The guest can write, and a drain meet the entry, as soon as KVM has the slot. */
static void a_new_slot_is_in_the_table_before_kvm_has_it(void **state)
{
	struct dl_slot other = guest_slot(&guest, 4, 0, block, 0, 1);

	known_when_created = false;
	guest.config.intercept = look_up;
	expect_set(&other, 0);
	assert_true(known_when_created);
}

static void a_slot_set_before_a_clean_cursor_is_not_pending(void **state)
{
	guest_join(&guest, DL_CURSOR_CLEAN);
	expect_pass(0, 0);
}

/* Otherwise a clean slot would lose its first writes. */
static void a_new_slot_is_created_with_its_flag(void **state)
{
	struct dl_slot other = guest_slot(&guest, 4, 0, guest_memory(&guest, 10), 0, 10);
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);

	other.flags = DL_SLOT_CLEAN;
	expect_set(&other, 0);
	assert_int_equal(guest_write(&guest, vcpu, 0, 7), 0);
	expect_pass(7, 1);
}

static void a_moved_slot_is_pending_at_its_new_address(void **state)
{
	struct dl_slot moved = slot;

	moved.gpa = 0;
	expect_set(&moved, 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, slot.gpa, 1), -ENOENT);
	expect_pass(0, PAGES);
}

static void a_move_makes_a_slot_pending_even_if_clean(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);
	struct dl_slot moved = slot;

	assert_int_equal(guest_write(&guest, vcpu, 0, GPA_PAGE + 9), 0);
	moved.gpa = 0;
	moved.flags = DL_SLOT_CLEAN;
	expect_set(&moved, 0);
	expect_pass(0, PAGES);
	assert_int_equal(guest_write(&guest, vcpu, 0, 9), 0);
	assert_int_equal(guest_write(&guest, vcpu, 0, GPA_PAGE + 9), -EFAULT);
	expect_pass(9, 1);
}

static void memory_that_cannot_be_logged_is_left_alone(void **state)
{
	struct dl_slot other = guest_slot(&guest, 4, 0, block, 0, 10);
	unsigned int regions;

	other.flags = DL_SLOT_NO_LOG;
	expect_set(&other, 0);
	guest_leave(&guest);
	regions = guest.regions;
	guest_join(&guest, 0);
	/* Only the other slot's pages. */
	assert_int_equal(guest.regions, regions + 1);
	assert_int_equal(pending_pages(), PAGES);
	expect_pass(GPA_PAGE, PAGES);
	other.gpa = 50 * (uint64_t)guest.page_bytes;
	expect_set(&other, 0);
	assert_int_equal(pending_pages(), 0);
	assert_int_equal(dl_slot_remove(guest.log, 4, 0, NULL, 0), 0);
	assert_int_equal(pending_pages(), 0);
}

/* The ioctls of a slot that the caller created. */
static int create_in_kvm(const struct dl_slot *s, uint32_t kvm_flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = s->slot,
		.flags = s->kvm_flags | kvm_flags,
		.guest_phys_addr = s->gpa,
		.memory_size = s->bytes,
		.userspace_addr = s->hva,
	};
	const struct dl_os *os = model_os(guest.model);

	return os->ioctl(os->opaque, guest.vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

/* Created before the log was opened, or by a library of the VMM. */
static void a_slot_that_exists_is_adopted(void **state)
{
	struct dl_slot other = guest_slot(&guest, 4, 0, guest_memory(&guest, 10), 0, 10);
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);
	unsigned int regions = guest.regions;

	assert_int_equal(create_in_kvm(&other, 0), 0);
	other.flags = DL_SLOT_EXISTS;
	expect_set(&other, 0);
	/* The flag, and nothing else: off, as nobody knows what it was, and on. */
	assert_int_equal(guest.regions, regions + 2);
	expect_pass(0, 10);
	assert_int_equal(guest_write(&guest, vcpu, 0, 7), 0);
	expect_pass(7, 1);
	/* Once: it is a slot like any other now. */
	other.flags = 0;
	expect_set(&other, 0);
	assert_int_equal(guest.regions, regions + 2);
	assert_int_equal(dl_slot_remove(guest.log, 4, 0, NULL, 0), 0);
	assert_int_equal(guest_write(&guest, vcpu, 0, 7), -EFAULT);
}

static void a_slot_that_exists_needs_no_ioctl_while_nothing_is_logged(void **state)
{
	struct dl_slot other = guest_slot(&guest, 4, 0, block, 0, 10);
	unsigned int regions = guest.regions;

	assert_int_equal(create_in_kvm(&other, 0), 0);
	other.flags = DL_SLOT_EXISTS;
	expect_set(&other, 0);
	assert_int_equal(guest.regions, regions);
	guest_join(&guest, 0);
	assert_int_equal(guest.regions, regions + 3);
}

static void a_slot_that_exists_and_cannot_be_logged_is_refused(void **state)
{
	struct dl_slot other = guest_slot(&guest, 4, 0, guest_memory(&guest, 10), 0, 10);

	assert_int_equal(create_in_kvm(&other, 0), 0);
	other.flags = DL_SLOT_EXISTS;
	fail_once(KVM_SET_USER_MEMORY_REGION, EINVAL);
	assert_int_equal(dl_slot_set(guest.log, &other), -EINVAL);
	assert_int_equal(dl_mark_slot(guest.log, 4, 0, 1), -ENOENT);
	expect_set(&other, 0);
	expect_pass(0, 10);
}

static void a_new_cookie_needs_no_system_call(void **state)
{
	struct dl_slot s = slot;
	unsigned int regions = guest.regions;

	s.cookie = 5;
	expect_set(&s, 0);
	assert_int_equal(guest.regions, regions);
	expect_pass(0, 0);
}

/* A log that is closed has no slots to set. */
static void a_closed_log_refuses_slots(void **state)
{
	struct dl_log *log = guest.log;
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);

	dl_log_close(log);
	assert_int_equal(dl_slot_set(log, &slot), -ECANCELED);
	assert_int_equal(dl_slot_remove(log, 3, 0, NULL, 0), -ECANCELED);
	assert_int_equal(dl_slot_clear(log, 3, 0, 4096), -ECANCELED);
	dl_vcpu_remove(vcpu->handle);
	vcpu->handle = NULL;
	guest.log = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		off_test(set_refuses_invalid_slots),
		off_test(no_slot_ends_where_addresses_end),
		off_test(set_reads_a_longer_struct),
		off_test(set_refuses_overlapping_slots),
		off_test(set_refuses_changes_that_kvm_cannot_make),
		ring_test(setting_a_slot_unchanged_does_nothing),
		ring_test(a_kernel_that_refuses_a_slot_leaves_the_log_as_it_was),
		ring_test(a_kernel_that_refuses_a_move_leaves_the_slot_in_place),
		ring_test(a_page_set_without_memory_is_an_error),
		bitmap_test(a_bitmap_without_memory_is_an_error),
		backup_test(a_bitmap_without_memory_is_an_error),
		ring_test(a_new_slot_is_wholly_pending_unless_clean),
		bitmap_test(a_new_slot_is_wholly_pending_unless_clean),
		ring_test(a_new_slot_is_in_the_table_before_kvm_has_it),
		bitmap_test(a_new_slot_is_in_the_table_before_kvm_has_it),
		ring_test(a_new_slot_is_created_with_its_flag),
		bitmap_test(a_new_slot_is_created_with_its_flag),
		ring_test(a_moved_slot_is_pending_at_its_new_address),
		bitmap_test(a_moved_slot_is_pending_at_its_new_address),
		ring_test(a_move_makes_a_slot_pending_even_if_clean),
		bitmap_test(a_move_makes_a_slot_pending_even_if_clean),
		ring_test(memory_that_cannot_be_logged_is_left_alone),
		bitmap_test(memory_that_cannot_be_logged_is_left_alone),
		off_test(a_slot_set_before_a_clean_cursor_is_not_pending),
		ring_test(a_slot_that_exists_is_adopted),
		bitmap_test(a_slot_that_exists_is_adopted),
		off_test(a_slot_that_exists_needs_no_ioctl_while_nothing_is_logged),
		ring_test(a_slot_that_exists_and_cannot_be_logged_is_refused),
		ring_test(a_new_cookie_needs_no_system_call),
		ring_test(a_closed_log_refuses_slots),
	};

	return RUN_TESTS("slot", tests);
}
