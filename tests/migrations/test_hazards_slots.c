/* SPDX-License-Identifier: MIT */
/*
 * What can go wrong with slots, pages and bitmaps, one test each; the numbers are those of the
 * list of hazards in the notes on the kernel.
 */
#include "hazard.h"

#include <sys/mman.h>
#include <unistd.h>

/* Entries of a slot that is deleted before anybody could read them. */
static void hazard_12_entries_of_a_deleted_slot(void **state)
{
	begin(RING, DL_MODE_RING, 0);
	migration_pass(&migration);
	write_pages(0, 100);
	fail_once(KVM_RESET_DIRTY_RINGS, EIO, false);
	assert_int_equal(dl_slot_remove(guest->log, 0, 0), 0);
	/* Its number is another, smaller slot's now. */
	assert_int_equal(dl_slot_set(guest->log, &(struct dl_slot){ 0 }), -EINVAL);
	guest_add_slot(guest, 0, 20000, 10);
	migration_add_blocks(&migration);
	migration_pass(&migration);
	assert_true(guest_stats(guest).stale_entries >= 90);
	assert_int_equal(guest_write(guest, vcpu, 0, 20003), 0);
	end();
}

static void hazard_13_address_spaces_that_are_mixed_up(void **state)
{
	struct guest_block *block;
	struct dl_run runs[4];
	struct dl_iter *iter;
	struct dl_slot smm;

	begin(RING, DL_MODE_RING, DL_START_CLEAN);
	block = guest_memory(guest, 100);
	migration_add_blocks(&migration);
	/* The same number, the same place, other memory. */
	smm = guest_slot(guest, 1 << 16, FIRST_PAGE, block, 0, 100);
	assert_int_equal(dl_slot_set(guest->log, &smm), 0);
	migration_pass(&migration);
	assert_int_equal(guest_write(guest, vcpu, 1, FIRST_PAGE + 5), 0);
	assert_int_equal(dl_harvest(guest->log, 0, NULL), 0);
	assert_int_equal(dl_iter_new(guest->log, 0, &iter), 0);
	assert_int_equal(dl_iter_read(iter, runs, 4), 1);
	assert_int_equal(runs[0].slot, 1 << 16);
	assert_int_equal(runs[0].hva, (uintptr_t)block->memory + 5 * 4096);
	dl_iter_free(iter);
	end();
}

static void hazard_14_indices_that_wrap(void **state)
{
	struct model_ring ring;

	begin_with(&(struct guest_config){ .model = { .has = RING, .ring_first_index = 0xffffff00 },
					   .options = { .mode = DL_MODE_RING,
							.ring_entries = ENTRIES } },
		   DL_START_CLEAN);
	for (int i = 0; i < 8; i++) {
		write_pages(0, 130);
		migration_pass(&migration);
	}
	assert_int_equal(model_vcpu_ring(guest->model, vcpu->fd, &ring), 0);
	assert_int_equal(ring.dirty_index, 8 * 130 - ENTRIES);
	assert_int_equal(guest_stats(guest).entries, 8 * 130);
	end();
}

static struct {
	uint64_t offset_bytes[4];
	size_t bytes[4];
	unsigned int n;
} maps;

static int watch_maps(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot,
		      int flags, void **addr)
{
	const struct dl_os *below = model_os(((struct guest *)opaque)->model);

	if (fd >= 0 && maps.n < 4) {
		maps.offset_bytes[maps.n] = offset_bytes;
		maps.bytes[maps.n++] = bytes;
	}
	return below->mmap(below->opaque, fd, offset_bytes, bytes, prot, flags, addr);
}

/* The ring lies behind 64 pages of the host, whatever their size. */
static void hazard_15_pages_that_are_not_4096_bytes(void **state)
{
	static const uint32_t sizes[] = { 4096, 16384, 65536 };

	for (int i = 0; i < 3; i++) {
		struct guest_config config = { .model = { .has = RING, .page_bytes = sizes[i] },
					       .options = { .mode = DL_MODE_RING,
							    .ring_entries = 4096 } };

		maps.n = 0;
		migration_open(&migration, &config, 0);
		guest = &migration.guest;
		guest->os.mmap = watch_maps;
		vcpu = guest_vcpu(guest, true);
		assert_true(maps.n >= 2);
		assert_int_equal(maps.offset_bytes[maps.n - 1], UINT64_C(64) * sizes[i]);
		assert_int_equal(maps.bytes[maps.n - 1], 65536);
		migration_start(&migration, DL_START_CLEAN);
		write_pages(3, 1);
		assert_int_equal(dl_harvest(guest->log, 0, NULL), 0);
		assert_int_equal(guest_stats(guest).pending_bytes, sizes[i]);
		end();
	}
}

/* Every mapping ends where it was asked to end: the next byte is not there. */
static int map_guarded(void *opaque, int fd, uint64_t offset_bytes, size_t bytes, int prot,
		       int flags, void **addr)
{
	size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
	size_t room = (bytes + page_bytes - 1) / page_bytes * page_bytes;
	char *begin;

	if (fd >= 0)
		return watch_maps(opaque, fd, offset_bytes, bytes, prot, flags, addr);
	begin = mmap(NULL, room + page_bytes, prot, flags, -1, 0);
	if (begin == MAP_FAILED || mprotect(begin + room, page_bytes, PROT_NONE))
		return -ENOMEM;
	*addr = begin + room - bytes;
	return 0;
}

/* Kept to the end: what was mapped here does not begin on a page. */
static int unmap_nothing(void *opaque, void *addr, size_t bytes)
{
	return 0;
}

static void hazard_16_buffers_of_half_a_word(void **state)
{
	static const uint64_t sizes[] = { 1, 31, 32, 33, 63, 64, 65, 100 };
	struct guest_config config = { .model = { .has = INITIALLY_SET },
				       .options = { .mode = DL_MODE_BITMAP } };

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		guest = &migration.guest;
		guest_new(guest, &config);
		guest->os.mmap = map_guarded;
		guest->os.munmap = unmap_nothing;
		assert_int_equal(guest_open_log(guest), 0);
		guest_add_slot(guest, 0, FIRST_PAGE, sizes[i]);
		vcpu = guest_vcpu(guest, true);
		assert_int_equal(dl_log_start(guest->log, 0), 0);
		assert_int_equal(guest_pass(guest, 0, NULL, 0), -1);
		write_pages(sizes[i] - 1, 1);
		assert_int_equal(guest_pass(guest, 0, NULL, 0), -1);
		guest_close(guest);
	}
}

/* GET has taken the bits and protected the pages before it finds that it cannot deliver. */
static void hazard_17_a_get_that_fails_after_it_cleared(void **state)
{
	static const uint32_t has[] = { MODEL_HAS_NOTHING, MANUAL, INITIALLY_SET, BACKUP };

	for (int i = 0; i < 4; i++) {
		begin(has[i], has[i] == BACKUP ? DL_MODE_RING : DL_MODE_BITMAP, DL_START_CLEAN);
		write_pages(0, 40);
		guest_kernel_write(guest, FIRST_PAGE + 100);
		fail_once(KVM_GET_DIRTY_LOG, EFAULT, true);
		assert_int_equal(final_harvest(), -EFAULT);
		end();
	}
}

/* With a ring, pages that were written before would stay writable: CLEAR would have to protect. */
static void hazard_18_initially_set_beside_a_ring(void **state)
{
	struct guest_config config = { .model = { .has = RING | INITIALLY_SET },
				       .options = { .mode = DL_MODE_RING } };
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { 3 } };
	const struct dl_os *os;

	guest = &migration.guest;
	guest_new(guest, &config);
	os = model_os(guest->model);
	/* Somebody asked for it before. */
	assert_int_equal(os->ioctl(os->opaque, guest->vm_fd, KVM_ENABLE_CAP, &cap), 0);
	assert_int_equal(guest_open_log(guest), 0);
	guest_add_slot(guest, 0, FIRST_PAGE, 100);
	vcpu = guest_vcpu(guest, true);
	write_pages(0, 100);
	assert_int_equal(dl_log_start(guest->log, DL_START_CLEAN), 0);
	write_pages(0, 100);
	assert_int_equal(dl_harvest(guest->log, 0, NULL), 0);
	assert_int_equal(guest_stats(guest).pending_bytes, 100 * 4096);
	guest_close(guest);
}

/* An ITS saves its tables without a vCPU. A ring alone does not see that, so nobody may get one. */
static void hazard_19_a_writer_without_vcpu_and_no_backup(void **state)
{
	struct guest_config config = { .model = { .has = RING | INITIALLY_SET },
				       .options = { .mode = DL_MODE_RING,
						    .backup = DL_BACKUP_REQUIRED } };

	guest = &migration.guest;
	guest_new(guest, &config);
	assert_int_equal(guest_open_log(guest), -EOPNOTSUPP);
	guest_close(guest);
	config.options.mode = DL_MODE_AUTO;
	begin_with(&config, 0);
	migration_pass(&migration);
	guest_kernel_write(guest, FIRST_PAGE + 3);
	end();
	/* What it would be without the request: lost, and this check sees it. */
	begin(RING, DL_MODE_RING, 0);
	migration_pass(&migration);
	guest_kernel_write(guest, FIRST_PAGE + 3);
	assert_int_equal(final_harvest(), 0);
	assert_int_equal(checker_drain(&migration.checker, 1), 0);
	assert_int_equal(checker_differing_pages(&migration.checker), 1);
	migration_close(&migration);
}

/* Measured on arm64: without the backup a fault makes a whole huge page writable and logs one. */
static void huge_pages_that_a_ring_alone_loses(void **state)
{
	struct guest_config config = { .model = { .has = BACKUP,
						  .arch = DL_OS_ARCH_RING_NEEDS_BACKUP,
						  .ring_alone_loses_huge_pages = true },
				       .options = { .mode = DL_MODE_AUTO } };

	begin_with(&config, DL_START_CLEAN);
	write_pages(0, 200);
	end();
	config.model.has = RING | INITIALLY_SET;
	begin_with(&config, DL_START_CLEAN);
	write_pages(0, 200);
	end();
	/* Who insists has been warned; and this check sees it. */
	config.options.mode = DL_MODE_RING;
	config.options.backup = DL_BACKUP_OFF;
	begin_with(&config, DL_START_CLEAN);
	write_pages(0, 200);
	assert_int_equal(final_harvest(), 0);
	assert_int_equal(checker_drain(&migration.checker, 1), 0);
	assert_true(checker_differing_pages(&migration.checker) > 100);
	migration_close(&migration);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		migration_test(hazard_12_entries_of_a_deleted_slot),
		migration_test(hazard_13_address_spaces_that_are_mixed_up),
		migration_test(hazard_14_indices_that_wrap),
		migration_test(hazard_15_pages_that_are_not_4096_bytes),
		migration_test(hazard_16_buffers_of_half_a_word),
		migration_test(hazard_17_a_get_that_fails_after_it_cleared),
		migration_test(hazard_18_initially_set_beside_a_ring),
		migration_test(hazard_19_a_writer_without_vcpu_and_no_backup),
		migration_test(huge_pages_that_a_ring_alone_loses),
	};

	return RUN_TESTS("hazards of slots and bitmaps", tests);
}
