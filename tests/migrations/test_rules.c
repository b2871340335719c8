/* SPDX-License-Identifier: MIT */
/*
 * KVM's rules on the order of calls, on sizes and on states, one test each. Hazards are numbered as
 * in doc/kernel.md.
 */
#include "one_vcpu.h"

/* Hazard 20: KVM enables the backup only after the ring and before the first memslot. */
static void the_backup_is_enabled_before_the_first_slot(void **state)
{
	struct kvm_userspace_memory_region region = { .memory_size = 4096 };
	struct guest_config config = { .model = { .has = BACKUP } };
	const struct dl_os *os;

	guest = &migration.guest;
	guest_new(guest, &config);
	os = model_os(guest->model);
	region.userspace_addr = (uintptr_t)guest_memory(guest, 1)->memory;
	assert_int_equal(os->ioctl(os->opaque, guest->vm_fd, KVM_SET_USER_MEMORY_REGION, &region),
			 0);
	assert_int_equal(guest_open_log(guest), -EBUSY);
	region.memory_size = 0;
	assert_int_equal(os->ioctl(os->opaque, guest->vm_fd, KVM_SET_USER_MEMORY_REGION, &region),
			 0);
	guest_close(guest);
	/* In the right order it works, with the vCPU and the slots added right after. */
	begin(BACKUP, DL_MODE_AUTO, 0);
	migration_pass(&migration);
	guest_kernel_write(guest, FIRST_PAGE);
	write_pages(1, 1);
	end();
}

static bool write_during_reset;

static bool write_once_during_reset(struct guest *g, int fd, unsigned long request, void *arg,
				    int *result)
{
	if (request == KVM_RESET_DIRTY_RINGS && write_during_reset) {
		write_during_reset = false;
		guest_kernel_write(g, FIRST_PAGE + 9);
	}
	return false;
}

/* Hazard 21: a write during the reset of the rings is found, because the bitmap is read last. */
static void the_bitmap_is_read_after_the_reset(void **state)
{
	begin_with(&(struct guest_config){ .model = { .has = BACKUP },
					   .options = { .mode = DL_MODE_RING },
					   .intercept = write_once_during_reset },
		   0);
	migration_pass(&migration);
	write_pages(0, 1);
	write_during_reset = true;
	end();
	assert_false(write_during_reset);
}

/* Hazard 22: writes stay in the PML buffer until the vCPU leaves KVM_RUN. */
static void a_final_pass_after_the_stop_finds_buffered_writes(void **state)
{
	begin_with(
		&(struct guest_config){ .model = { .has = RING, .pml_entries = 512 },
					.options = { .mode = DL_MODE_RING, .ring_entries = 1024 } },
		DL_CURSOR_CLEAN);
	write_pages(0, 50);
	assert_int_equal(checker_harvest(&migration.checker, DL_HARVEST_PAUSED, NULL), 0);
	assert_int_equal(checker_pending(&migration.checker), 0);
	/* A final pass may be repeated, and this one follows the stop. */
	assert_int_equal(last_harvest(), 0);
	assert_int_equal(checker_pending(&migration.checker), 50 * 4096);
	end();
}

/* Hazard 23: the entries of a removed vCPU are still harvested. */
static void the_rings_of_removed_vcpus_are_harvested(void **state)
{
	begin(RING, DL_MODE_RING, DL_CURSOR_CLEAN);
	for (int i = 0; i < 3; i++) {
		struct guest_vcpu *other = guest_vcpu(guest, true);

		assert_int_equal(guest_write(guest, other, 0, FIRST_PAGE + 100 + (uint64_t)i), 0);
		dl_vcpu_remove(other->handle);
		other->handle = NULL;
	}
	assert_int_equal(checker_harvest(&migration.checker, 0, NULL), 0);
	assert_int_equal(checker_pending(&migration.checker), 3 * 4096);
	end();
}

/*
 * Hazard 24: switching logging off does not let a vCPU with a full ring enter the guest again;
 * emptying the ring does.
 */
static void a_canceled_migration_frees_vcpus_with_full_rings(void **state)
{
	uint64_t page = 0;

	begin(RING, DL_MODE_RING, DL_CURSOR_CLEAN);
	while (!model_vcpu_write(guest->model, vcpu->fd, 0, (FIRST_PAGE + page) * 4096, NULL, 8))
		page++;
	checker_leave(&migration.checker);
	assert_int_equal(model_vcpu_enter(guest->model, vcpu->fd), 0);
	migration_close(&migration);
	/* The stop fails to reset the rings; the vCPU drains its full ring itself. */
	begin(RING, DL_MODE_RING, DL_CURSOR_CLEAN);
	fail_once(KVM_RESET_DIRTY_RINGS, EIO, false);
	for (page = 0;
	     !model_vcpu_write(guest->model, vcpu->fd, 0, (FIRST_PAGE + page) * 4096, NULL, 8);)
		page++;
	checker_leave(&migration.checker);
	assert_int_equal(guest_write(guest, vcpu, 0, FIRST_PAGE), 0);
	migration_close(&migration);
}

/* Hazard 25: entries are overwritten when a batch of stores runs past the end of the ring. */
static void an_overflow_loses_no_page(void **state)
{
	begin_with(&(struct guest_config){ .model = { .has = RING,
						      .batch_writes = 1024,
						      .write_order = MODEL_STORE_THEN_LOG },
					   .options = { .mode = DL_MODE_RING,
							.ring_entries = ENTRIES } },
		   DL_CURSOR_CLEAN);
	for (int i = 0; i < 20; i++) {
		write_pages(0, 260);
		if (i % 4 == 3)
			migration_pass(&migration);
	}
	assert_true(guest_stats(guest).overflows > 0);
	end();
}

/* Hazard 26: a page may have many entries; rates and sizes count pages. */
static void a_page_with_many_entries_counts_once(void **state)
{
	begin_with(
		&(struct guest_config){
			.model = { .has = RING, .write_order = MODEL_STORE_THEN_LOG },
			.options = { .mode = DL_MODE_RING, .ring_entries = ENTRIES } },
		DL_CURSOR_CLEAN);
	for (int i = 0; i < 100; i++)
		write_pages(5, 1);
	assert_int_equal(checker_harvest(&migration.checker, 0, NULL), 0);
	assert_int_equal(guest_stats(guest).entries, 100);
	assert_int_equal(guest_stats(guest).new_pages, 1);
	assert_int_equal(guest_stats(guest).duplicates, 99);
	assert_int_equal(checker_pending(&migration.checker), 4096);
	end();
}

/* Hazard 27: with Intel's PML a ring has at least 1024 entries; the default must not be smaller. */
static void the_default_ring_is_large_enough_for_pml(void **state)
{
	struct guest_config config = {
		.model = { .has = RING, .ring_min_bytes = 16384, .pml_entries = 512 }
	};
	struct dl_config is = { .size = sizeof(is) };

	begin_with(&config, 0);
	assert_int_equal(dl_log_config(guest->log, &is), 0);
	assert_int_equal(is.mode, DL_MODE_RING);
	assert_true(is.ring_entries >= 1024);
	write_pages(0, 100);
	end();
	config.options.mode = DL_MODE_RING;
	config.options.ring_entries = ENTRIES;
	guest = &migration.guest;
	guest_new(guest, &config);
	assert_int_equal(guest_open_log(guest), -EINVAL);
	guest_close(guest);
}

/* Hazard 28: outside the process that created the VM every ioctl fails with EIO; callers see it. */
static void a_failing_reset_is_reported_by_each_call(void **state)
{
	const struct model_fault fault = { .request = KVM_RESET_DIRTY_RINGS, .error = EIO };

	begin(RING, DL_MODE_RING, DL_CURSOR_CLEAN);
	write_pages(0, 10);
	assert_int_equal(model_fault(guest->model, &fault), 0);
	assert_int_equal(checker_harvest(&migration.checker, 0, NULL), -EIO);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), -EIO);
	checker_leave(&migration.checker);
	assert_int_equal(checker_join(&migration.checker, 0), -EIO);
	model_faults_clear(guest->model);
	migration_start(&migration, 0);
	end();
}

/* Hazard 29: a CLEAR that ends before the end of the slot needs a multiple of 64 pages. */
static void the_last_pages_of_a_slot_are_cleared(void **state)
{
	static const uint64_t sizes[] = { 1, 63, 65, 100, 127, 129, 191 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		begin(INITIALLY_SET, DL_MODE_BITMAP, i % 2 ? DL_CURSOR_CLEAN : 0);
		migration_add_slot(&migration, 20, 20000, sizes[i]);
		migration_pass(&migration);
		assert_int_equal(guest_write(guest, vcpu, 0, 20000 + sizes[i] - 1), 0);
		assert_int_equal(guest_write(guest, vcpu, 0, 20000 + sizes[i] / 2), 0);
		migration_pass(&migration);
		end();
	}
}

/* Hazard 30: KVM truncates the size to 32 bits: 2^32 + 4096 bytes would make 256 entries. */
static void a_ring_size_beyond_32_bits_is_refused(void **state)
{
	static const uint32_t entries[] = { 1u << 28, 1u << 29, 1u << 31 };

	for (int i = 0; i < 3; i++) {
		struct guest_config config = { .options = { .mode = DL_MODE_RING,
							    .ring_entries = entries[i] } };

		guest = &migration.guest;
		guest_new(guest, &config);
		assert_int_equal(guest_open_log(guest), -E2BIG);
		assert_int_equal(guest->enables, 0);
		guest_close(guest);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		migration_test(the_backup_is_enabled_before_the_first_slot),
		migration_test(the_bitmap_is_read_after_the_reset),
		migration_test(a_final_pass_after_the_stop_finds_buffered_writes),
		migration_test(the_rings_of_removed_vcpus_are_harvested),
		migration_test(a_canceled_migration_frees_vcpus_with_full_rings),
		migration_test(an_overflow_loses_no_page),
		migration_test(a_page_with_many_entries_counts_once),
		migration_test(the_default_ring_is_large_enough_for_pml),
		migration_test(a_failing_reset_is_reported_by_each_call),
		migration_test(the_last_pages_of_a_slot_are_cleared),
		migration_test(a_ring_size_beyond_32_bits_is_refused),
	};

	return RUN_TESTS("migrations under KVM's rules", tests);
}
