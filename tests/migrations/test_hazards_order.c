/* SPDX-License-Identifier: MIT */
/*
 * What can go wrong with order, sizes and states, one test each; the numbers are those of the
 * list of hazards in the notes on the kernel.
 */
#include "hazard.h"

/* KVM allows the backup only between the rings and the first memslot. */
static void hazard_20_a_backup_that_comes_late(void **state)
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
	/* In the right order, with vCPU and slot at once afterwards. */
	begin(BACKUP, DL_MODE_AUTO, 0);
	migration_pass(&migration);
	guest_kernel_write(guest, FIRST_PAGE);
	write_pages(1, 1);
	end();
}

static bool write_at_the_reset;

static bool write_between(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	if (request == KVM_RESET_DIRTY_RINGS && write_at_the_reset) {
		write_at_the_reset = false;
		guest_kernel_write(g, FIRST_PAGE + 9);
	}
	return false;
}

/* The bitmap is read after all else: what is written as late as the rings' reset is in it. */
static void hazard_21_a_bitmap_that_is_read_too_early(void **state)
{
	begin_with(&(struct guest_config){ .model = { .has = BACKUP },
					   .options = { .mode = DL_MODE_RING },
					   .intercept = write_between },
		   0);
	migration_pass(&migration);
	write_pages(0, 1);
	write_at_the_reset = true;
	end();
	assert_false(write_at_the_reset);
}

/* Writes wait in the vCPU's buffer until it leaves the guest: stopped is not merely paused. */
static void hazard_22_a_final_pass_while_a_vcpu_runs(void **state)
{
	begin_with(
		&(struct guest_config){ .model = { .has = RING, .pml_entries = 512 },
					.options = { .mode = DL_MODE_RING, .ring_entries = 1024 } },
		DL_START_CLEAN);
	write_pages(0, 50);
	assert_int_equal(dl_harvest(guest->log, DL_HARVEST_FINAL, NULL), 0);
	assert_int_equal(guest_stats(guest).pending_bytes, 0);
	/* The final pass can be made again, and this time it is one. */
	assert_int_equal(final_harvest(), 0);
	assert_int_equal(guest_stats(guest).pending_bytes, 50 * 4096);
	end();
}

static void hazard_23_vcpus_that_are_not_harvested(void **state)
{
	begin(RING, DL_MODE_RING, DL_START_CLEAN);
	for (int i = 0; i < 3; i++) {
		struct guest_vcpu *other = guest_vcpu(guest, true);

		assert_int_equal(guest_write(guest, other, 0, FIRST_PAGE + 100 + (uint64_t)i), 0);
		dl_vcpu_remove(other->handle);
		other->handle = NULL;
	}
	assert_int_equal(dl_harvest(guest->log, 0, NULL), 0);
	assert_int_equal(guest_stats(guest).pending_bytes, 3 * 4096);
	end();
}

/* Logging off does not let a vCPU with a full ring in again; emptying the ring does. */
static void hazard_24_a_canceled_migration_with_full_rings(void **state)
{
	uint64_t page = 0;

	begin(RING, DL_MODE_RING, DL_START_CLEAN);
	while (!model_vcpu_write(guest->model, vcpu->fd, 0, (FIRST_PAGE + page) * 4096, NULL, 8))
		page++;
	assert_int_equal(dl_log_stop(guest->log), 0);
	assert_int_equal(model_vcpu_enter(guest->model, vcpu->fd), 0);
	migration_close(&migration);
	/* And the other way round: the ring filled while the log was being stopped. */
	begin(RING, DL_MODE_RING, DL_START_CLEAN);
	fail_once(KVM_RESET_DIRTY_RINGS, EIO, false);
	for (page = 0;
	     !model_vcpu_write(guest->model, vcpu->fd, 0, (FIRST_PAGE + page) * 4096, NULL, 8);)
		page++;
	assert_int_equal(dl_log_stop(guest->log), -EIO);
	assert_int_equal(guest_write(guest, vcpu, 0, FIRST_PAGE), 0);
	migration_close(&migration);
}

static void hazard_25_a_ring_that_runs_over(void **state)
{
	begin_with(&(struct guest_config){ .model = { .has = RING,
						      .batch_writes = 1024,
						      .write_order = MODEL_STORE_THEN_LOG },
					   .options = { .mode = DL_MODE_RING,
							.ring_entries = ENTRIES } },
		   DL_START_CLEAN);
	for (int i = 0; i < 20; i++) {
		write_pages(0, 260);
		if (i % 4 == 3)
			migration_pass(&migration);
	}
	assert_true(guest_stats(guest).overflows > 0);
	end();
}

/* One page, many entries: the rate of the guest is in pages. */
static void hazard_26_entries_that_are_not_pages(void **state)
{
	begin_with(
		&(struct guest_config){
			.model = { .has = RING, .write_order = MODEL_STORE_THEN_LOG },
			.options = { .mode = DL_MODE_RING, .ring_entries = ENTRIES } },
		DL_START_CLEAN);
	for (int i = 0; i < 100; i++)
		write_pages(5, 1);
	assert_int_equal(dl_harvest(guest->log, 0, NULL), 0);
	assert_int_equal(guest_stats(guest).entries, 100);
	assert_int_equal(guest_stats(guest).new_pages, 1);
	assert_int_equal(guest_stats(guest).duplicates, 99);
	assert_int_equal(guest_stats(guest).pending_bytes, 4096);
	end();
}

/* With Intel's PML a ring has 1024 entries at least; what is chosen by itself is above that. */
static void hazard_27_a_minimum_that_only_some_hosts_have(void **state)
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

/* In another process than the VM's every ioctl says EIO: told, not swallowed. */
static void hazard_28_a_vm_of_another_process(void **state)
{
	const struct model_fault fault = { .request = KVM_RESET_DIRTY_RINGS, .error = EIO };

	begin(RING, DL_MODE_RING, DL_START_CLEAN);
	write_pages(0, 10);
	assert_int_equal(model_fault(guest->model, &fault), 0);
	assert_int_equal(dl_harvest(guest->log, 0, NULL), -EIO);
	assert_int_equal(dl_vcpu_drain(vcpu->handle), -EIO);
	assert_int_equal(dl_log_stop(guest->log), -EIO);
	model_faults_clear(guest->model);
	assert_int_equal(dl_log_stop(guest->log), 0);
	migration_start(&migration, 0);
	end();
}

/* A CLEAR that does not end with the slot wants multiples of 64. */
static void hazard_29_a_clear_of_the_last_pages(void **state)
{
	static const uint64_t sizes[] = { 1, 63, 65, 100, 127, 129, 191 };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		begin(INITIALLY_SET, DL_MODE_BITMAP, i % 2 ? DL_START_CLEAN : 0);
		guest_add_slot(guest, 20, 20000, sizes[i]);
		migration_add_blocks(&migration);
		migration_pass(&migration);
		assert_int_equal(guest_write(guest, vcpu, 0, 20000 + sizes[i] - 1), 0);
		assert_int_equal(guest_write(guest, vcpu, 0, 20000 + sizes[i] / 2), 0);
		migration_pass(&migration);
		end();
	}
}

/* KVM cuts the size to 32 bits: 2^32 + 4096 bytes would be a ring of 256 entries. */
static void hazard_30_a_size_beyond_32_bits(void **state)
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
		migration_test(hazard_20_a_backup_that_comes_late),
		migration_test(hazard_21_a_bitmap_that_is_read_too_early),
		migration_test(hazard_22_a_final_pass_while_a_vcpu_runs),
		migration_test(hazard_23_vcpus_that_are_not_harvested),
		migration_test(hazard_24_a_canceled_migration_with_full_rings),
		migration_test(hazard_25_a_ring_that_runs_over),
		migration_test(hazard_26_entries_that_are_not_pages),
		migration_test(hazard_27_a_minimum_that_only_some_hosts_have),
		migration_test(hazard_28_a_vm_of_another_process),
		migration_test(hazard_29_a_clear_of_the_last_pages),
		migration_test(hazard_30_a_size_beyond_32_bits),
	};

	return RUN_TESTS("hazards of order and size", tests);
}
