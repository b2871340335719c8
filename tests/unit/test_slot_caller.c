/* SPDX-License-Identifier: MIT */
/* VMMs that make the slot ioctls themselves, and slots that are removed while they are read. */
#include "cmocka_all.h"
#include "guest.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum { PAGES = 100, GPA_PAGE = 1000, MAX_REGIONS = 32 };

static struct guest guest;
static struct guest_block *block;
static struct dl_slot slot;

/* The VMM's own region calls: the requests to set_region, and the slots that the VMM knows. */
static struct {
	struct dl_slot slots[8];
	struct {
		uint32_t slot, kvm_flags;
	} asked[MAX_REGIONS];
	unsigned int n;
	int error; /* of the next call */
} vmm;

static int region(const struct dl_slot *s, uint32_t kvm_flags, uint64_t bytes)
{
	struct kvm_userspace_memory_region arg = { .slot = s->slot,
						   .flags = kvm_flags,
						   .guest_phys_addr = s->gpa,
						   .memory_size = bytes,
						   .userspace_addr = s->hva };
	const struct dl_os *os = model_os(guest.model);

	return os->ioctl(os->opaque, guest.vm_fd, KVM_SET_USER_MEMORY_REGION, &arg);
}

static int set_region(void *opaque, uint32_t number, uint32_t kvm_flags)
{
	int r = vmm.error;

	assert_ptr_equal(opaque, &vmm);
	assert_true(vmm.n < MAX_REGIONS);
	vmm.asked[vmm.n].slot = number;
	vmm.asked[vmm.n++].kvm_flags = kvm_flags;
	vmm.error = 0;
	return r ? r : region(&vmm.slots[number], kvm_flags, vmm.slots[number].bytes);
}

/* The VMM creates or changes the slot, then notifies the log. */
static int set(const struct dl_slot *wanted)
{
	struct dl_slot s = *wanted;

	vmm.slots[s.slot] = s;
	assert_int_equal(region(&s, s.kvm_flags, s.bytes), 0);
	s.flags |= DL_SLOT_CALLER_IOCTL;
	return dl_slot_set(guest.log, &s);
}

static void begin(uint32_t mode, bool caller)
{
	struct guest_config config = { .options = { .mode = mode } };

	memset(&vmm, 0, sizeof(vmm));
	if (caller) {
		config.options.set_region = set_region;
		config.options.opaque = &vmm;
	}
	guest_open(&guest, &config);
	block = guest_memory(&guest, PAGES);
	slot = guest_slot(&guest, 3, GPA_PAGE, block, 0, PAGES);
}

static int setup_ring(void **state)
{
	begin(DL_MODE_RING, true);
	return 0;
}

static int setup_bitmap(void **state)
{
	begin(DL_MODE_BITMAP, true);
	return 0;
}

static int setup_library(void **state)
{
	begin(DL_MODE_RING, false);
	return 0;
}

static int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

#define ring_test(f)	cmocka_unit_test_setup_teardown(f, setup_ring, teardown)
#define bitmap_test(f)	cmocka_unit_test_setup_teardown(f, setup_bitmap, teardown)
#define library_test(f) cmocka_unit_test_setup_teardown(f, setup_library, teardown)

static void expect_asked(unsigned int i, uint32_t number, uint32_t kvm_flags)
{
	assert_true(i < vmm.n);
	assert_int_equal(vmm.asked[i].slot, number);
	assert_int_equal(vmm.asked[i].kvm_flags, kvm_flags);
}

static void expect_pass(uint64_t gpa_page, int n)
{
	uint64_t pages[2 * PAGES];

	assert_int_equal(guest_pass(&guest, 0, pages, 2 * PAGES), n);
	for (int i = 0; i < n; i++)
		assert_int_equal(pages[i], gpa_page + (uint64_t)i);
}

static void every_flag_goes_through_the_vmm(void **state)
{
	slot.kvm_flags = KVM_MEM_READONLY;
	assert_int_equal(set(&slot), 0);
	assert_int_equal(vmm.n, 0);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(vmm.n, 1);
	expect_asked(0, 3, KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES);
	assert_int_equal(dl_log_stop(guest.log), 0);
	expect_asked(1, 3, KVM_MEM_READONLY);
	/* The library makes no region call of its own. */
	assert_int_equal(guest.regions, 0);
}

static void a_new_slot_is_logged_and_pending(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);

	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	assert_int_equal(set(&slot), 0);
	expect_asked(0, 3, KVM_MEM_LOG_DIRTY_PAGES);
	expect_pass(GPA_PAGE, PAGES);
	assert_int_equal(guest_write(&guest, vcpu, 0, GPA_PAGE + 4), 0);
	expect_pass(GPA_PAGE + 4, 1);
}

static void a_new_slot_that_cannot_be_logged_is_refused(void **state)
{
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	vmm.error = -ENOMEM;
	assert_int_equal(set(&slot), -ENOMEM);
	assert_int_equal(dl_mark_slot(guest.log, 3, 0, 1), -ENOENT);
	assert_int_equal(dl_harvest(guest.log, 0, NULL), 0);
	slot.flags = DL_SLOT_CALLER_IOCTL;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	expect_pass(GPA_PAGE, PAGES);
}

/* The VMM's call carried no logging flag, so logging was off for a moment. */
static void a_changed_slot_is_switched_on_again_and_pending(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);

	assert_int_equal(set(&slot), 0);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	slot.gpa = 0;
	slot.flags = DL_SLOT_CLEAN;
	assert_int_equal(set(&slot), 0);
	expect_asked(1, 3, KVM_MEM_LOG_DIRTY_PAGES);
	expect_pass(0, PAGES);
	assert_int_equal(guest_write(&guest, vcpu, 0, 4), 0);
	expect_pass(4, 1);
}

/* Nothing changed for the log, but the VMM's call carried no logging flag here either. */
static void a_slot_set_unchanged_is_switched_on_again(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);

	assert_int_equal(set(&slot), 0);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	assert_int_equal(set(&slot), 0);
	expect_asked(1, 3, KVM_MEM_LOG_DIRTY_PAGES);
	expect_pass(GPA_PAGE, PAGES);
	assert_int_equal(guest_write(&guest, vcpu, 0, GPA_PAGE + 4), 0);
	expect_pass(GPA_PAGE + 4, 1);
}

/* No write may go unseen, whatever the error means for the slot. */
static void a_changed_slot_that_cannot_be_switched_on_loses_nothing(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);

	assert_int_equal(set(&slot), 0);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	slot.gpa = 0;
	vmm.error = -ENOMEM;
	assert_int_equal(set(&slot), -ENOMEM);
	/* The slot is at its new address in the guest already. */
	assert_int_equal(dl_mark_gpa(guest.log, 0, 0, 1), 0);
	assert_int_equal(dl_mark_gpa(guest.log, 0, GPA_PAGE * 4096, 1), -ENOENT);
	assert_int_equal(guest_write(&guest, vcpu, 0, 4), 0);
	slot.flags = DL_SLOT_CALLER_IOCTL;
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	expect_pass(0, PAGES);
	assert_int_equal(guest_write(&guest, vcpu, 0, 4), 0);
	expect_pass(4, 1);
}

static void a_slot_that_the_vmm_removed_is_handed_out_once_more(void **state)
{
	assert_int_equal(set(&slot), 0);
	assert_int_equal(dl_log_start(guest.log, DL_START_CLEAN), 0);
	assert_int_equal(region(&slot, 0, 0), 0);
	assert_int_equal(dl_slot_remove(guest.log, 3, DL_SLOT_CALLER_IOCTL), 0);
	assert_int_equal(guest.regions, 0);
	expect_pass(GPA_PAGE, PAGES);
}

static void a_start_that_the_vmm_refuses_is_undone(void **state)
{
	struct dl_slot other = guest_slot(&guest, 4, 0, block, 0, 10);
	char text[600];

	assert_int_equal(set(&slot), 0);
	assert_int_equal(set(&other), 0);
	/* In the order of addresses: 4, then 3. */
	vmm.error = -EPERM;
	assert_int_equal(dl_log_start(guest.log, 0), -EPERM);
	assert_int_equal(vmm.n, 1);
	assert_true(dl_log_describe(guest.log, text, sizeof(text)) > 0);
	assert_non_null(strstr(text, "slot 4"));
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	expect_asked(1, 4, KVM_MEM_LOG_DIRTY_PAGES);
	expect_asked(2, 3, KVM_MEM_LOG_DIRTY_PAGES);
}

/* DL_SLOT_CALLER_IOCTL without set_region: the library makes the flag changes. */
static void without_a_callback_the_library_switches_logging(void **state)
{
	assert_int_equal(set(&slot), 0);
	assert_int_equal(guest.regions, 0);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
	assert_int_equal(guest.regions, 1);
	expect_pass(GPA_PAGE, PAGES);
}

static void start_with_slot(void)
{
	struct dl_slot copy = slot;

	assert_int_equal(dl_slot_set(guest.log, &copy), 0);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
}

static void a_slot_removed_while_it_is_read_is_read_to_its_end(void **state)
{
	struct dl_iter *iter;
	struct dl_run run, part;

	start_with_slot();
	assert_int_equal(dl_iter_new(guest.log, 0, &iter), 0);
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	assert_int_equal(run.bytes, slot.bytes);
	assert_int_equal(dl_slot_remove(guest.log, 3, 0), 0);
	/* Its runs can still be acknowledged; pages that were handed out are pending again too. */
	part = run;
	part.bytes = guest.page_bytes;
	assert_int_equal(dl_iter_ack(iter, &part, 1), 0);
	dl_iter_free(iter);
	assert_int_equal(guest_stats(&guest).unacked_bytes, 0);
	expect_pass(GPA_PAGE, PAGES);
	assert_int_equal(guest_stats(&guest).pending_bytes, 0);
}

static void a_slot_discarded_while_it_is_read_is_read_no_further(void **state)
{
	struct dl_slot two = guest_slot(&guest, 4, 0, block, 0, 2);
	struct dl_iter *iter;
	struct dl_run run;

	start_with_slot();
	assert_int_equal(dl_mark_slot(guest.log, 3, 0, slot.bytes), 0);
	assert_int_equal(dl_slot_set(guest.log, &two), 0);
	assert_int_equal(dl_iter_new(guest.log, 0, &iter), 0);
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	assert_int_equal(run.slot, 4);
	assert_int_equal(dl_slot_remove(guest.log, 3, DL_SLOT_DISCARD), 0);
	assert_int_equal(dl_iter_read(iter, &run, 1), 0);
	dl_iter_free(iter);
	expect_pass(0, 2);
}

static void a_half_read_chunk_is_discarded_with_its_slot(void **state)
{
	struct dl_iter *iter;
	struct dl_run run;

	start_with_slot();
	assert_int_equal(guest_drain(&guest, NULL, 0), -1);
	for (uint64_t page = 0; page < PAGES; page += 2)
		assert_int_equal(dl_mark_slot(guest.log, 3, page * guest.page_bytes, 1), 0);
	assert_int_equal(dl_iter_new(guest.log, 0, &iter), 0);
	assert_int_equal(dl_iter_read(iter, &run, 1), 1);
	assert_int_equal(dl_slot_remove(guest.log, 3, DL_SLOT_DISCARD), 0);
	assert_int_equal(dl_iter_read(iter, &run, 1), 0);
	assert_int_equal(dl_iter_read(iter, &run, 1), 0);
	dl_iter_free(iter);
	expect_pass(0, 0);
}

/* A ring entry names its slot by id, which another slot has by now. */
static void entries_of_a_removed_slot_mark_no_slot_that_reuses_its_id(void **state)
{
	struct guest_vcpu *vcpu = guest_vcpu(&guest, true);
	struct dl_slot next = guest_slot(&guest, 3, 5000, guest_memory(&guest, 50), 0, 50);

	start_with_slot();
	assert_int_equal(guest_drain(&guest, NULL, 0), -1);
	for (uint64_t page = 0; page < PAGES; page++)
		assert_int_equal(guest_write(&guest, vcpu, 0, GPA_PAGE + page), 0);
	assert_int_equal(dl_slot_remove(guest.log, 3, 0), 0);
	next.flags = DL_SLOT_CLEAN;
	assert_int_equal(dl_slot_set(guest.log, &next), 0);
	expect_pass(GPA_PAGE, PAGES);
	assert_int_equal(guest_write(&guest, vcpu, 0, 5049), 0);
	expect_pass(5049, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		ring_test(every_flag_goes_through_the_vmm),
		bitmap_test(every_flag_goes_through_the_vmm),
		ring_test(a_new_slot_is_logged_and_pending),
		bitmap_test(a_new_slot_is_logged_and_pending),
		ring_test(a_new_slot_that_cannot_be_logged_is_refused),
		ring_test(a_changed_slot_is_switched_on_again_and_pending),
		bitmap_test(a_changed_slot_is_switched_on_again_and_pending),
		ring_test(a_slot_set_unchanged_is_switched_on_again),
		bitmap_test(a_slot_set_unchanged_is_switched_on_again),
		ring_test(a_changed_slot_that_cannot_be_switched_on_loses_nothing),
		bitmap_test(a_changed_slot_that_cannot_be_switched_on_loses_nothing),
		ring_test(a_slot_that_the_vmm_removed_is_handed_out_once_more),
		ring_test(a_start_that_the_vmm_refuses_is_undone),
		library_test(without_a_callback_the_library_switches_logging),
		library_test(a_slot_removed_while_it_is_read_is_read_to_its_end),
		library_test(a_slot_discarded_while_it_is_read_is_read_no_further),
		library_test(a_half_read_chunk_is_discarded_with_its_slot),
		library_test(entries_of_a_removed_slot_mark_no_slot_that_reuses_its_id),
	};

	return RUN_TESTS("layout by the caller", tests);
}
