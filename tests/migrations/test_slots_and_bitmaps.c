/* SPDX-License-Identifier: MIT */
/*
 * Slots, page sizes and bitmaps, and what a ring alone does not see, one test each. Hazards are
 * numbered as in doc/kernel.md. Slots that change while vCPUs write are in test_slots.c.
 */
#include "one_vcpu.h"

#include <sys/mman.h>
#include <unistd.h>

/* Hazard 12: entries of a slot that is deleted before they are read are dropped. */
static void entries_of_a_deleted_slot_are_dropped(void **state)
{
	begin(RING, DL_MODE_RING, 0);
	migration_pass(&migration);
	write_pages(0, 100);
	fail_once(KVM_RESET_DIRTY_RINGS, EIO, false);
	assert_int_equal(checker_slot_drop(&migration.checker, 0, 0), 0);
	migration.checker.blocks[0].ignored = true;
	/* Its id now belongs to a smaller slot. */
	migration_add_slot(&migration, 0, 20000, 10);
	migration_pass(&migration);
	assert_true(guest_stats(guest).stale_entries >= 90);
	assert_int_equal(guest_write(guest, vcpu, 0, 20003), 0);
	end();
}

/* Hazard 13: an entry's slot field holds the address space too. */
static void address_spaces_are_kept_apart(void **state)
{
	struct guest_block *block;
	struct dl_extent runs[4];
	struct dl_cursor *cursor;
	struct dl_slot smm;

	begin(RING, DL_MODE_RING, DL_CURSOR_CLEAN);
	block = guest_memory(guest, 100);
	migration_add_blocks(&migration);
	/* A slot of equal id and address in the other address space, with other memory. */
	smm = guest_slot(guest, 1 << 16, FIRST_PAGE, block, 0, 100);
	migration_set(&migration, smm);
	migration_pass(&migration);
	assert_int_equal(guest_write(guest, vcpu, 1, FIRST_PAGE + 5), 0);
	cursor = migration.checker.cursor;
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(cursor, runs, 4), 1);
	assert_int_equal(runs[0].slot, 1 << 16);
	assert_int_equal(runs[0].hva, (uintptr_t)block->memory + 5 * 4096);
	checker_end(&migration.checker, 0);
	end();
}

/* Hazard 14: the kernel's ring indices are 32 bits and wrap. */
static void ring_indices_wrap(void **state)
{
	struct model_ring ring;

	begin_with(&(struct guest_config){ .model = { .has = RING, .ring_first_index = 0xffffff00 },
					   .options = { .mode = DL_MODE_RING,
							.ring_entries = ENTRIES } },
		   DL_CURSOR_CLEAN);
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

/* Hazard 15: the ring is mapped at an offset of 64 host pages, whatever their size. */
static void the_ring_is_mapped_at_64_host_pages(void **state)
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
		migration_start(&migration, DL_CURSOR_CLEAN);
		write_pages(3, 1);
		assert_int_equal(checker_harvest(&migration.checker, 0, NULL), 0);
		assert_int_equal(checker_pending(&migration.checker), sizes[i]);
		end();
	}
}

/* Places each anonymous mapping so that the byte after its end is not accessible. */
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

/* The mappings are leaked: map_guarded() returns addresses that are not page-aligned. */
static int unmap_nothing(void *opaque, void *addr, size_t bytes)
{
	return 0;
}

/* Hazard 16: GET and CLEAR access the bitmap in whole 64-bit words. */
static void bitmap_buffers_have_whole_words(void **state)
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
		guest_join(guest, 0);
		assert_int_equal(guest_pass(guest, 0, NULL, 0), -1);
		write_pages(sizes[i] - 1, 1);
		assert_int_equal(guest_pass(guest, 0, NULL, 0), -1);
		guest_close(guest);
	}
}

/* Hazard 17: GET clears the bits and protects the pages before it fails to copy the bitmap out. */
static void a_get_that_fails_after_clearing_loses_nothing(void **state)
{
	static const uint32_t has[] = { MODEL_HAS_NOTHING, MANUAL, INITIALLY_SET, BACKUP };

	for (int i = 0; i < 4; i++) {
		begin(has[i], has[i] == BACKUP ? DL_MODE_RING : DL_MODE_BITMAP, DL_CURSOR_CLEAN);
		write_pages(0, 40);
		guest_kernel_write(guest, FIRST_PAGE + 100);
		fail_once(KVM_GET_DIRTY_LOG, EFAULT, true);
		assert_int_equal(last_harvest(), -EFAULT);
		end();
	}
}

/*
 * Hazard 18: with "initially set", starting to log protects no page, as CLEAR is expected to do it.
 * A ring alone has no CLEAR, so pages that were written before would stay writable.
 */
static void initially_set_with_a_ring_loses_nothing(void **state)
{
	struct guest_config config = { .model = { .has = RING | INITIALLY_SET },
				       .options = { .mode = DL_MODE_RING } };
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { 3 } };
	const struct dl_os *os;

	guest = &migration.guest;
	guest_new(guest, &config);
	os = model_os(guest->model);
	/* Enabled before the library opens the VM. */
	assert_int_equal(os->ioctl(os->opaque, guest->vm_fd, KVM_ENABLE_CAP, &cap), 0);
	assert_int_equal(guest_open_log(guest), 0);
	guest_add_slot(guest, 0, FIRST_PAGE, 100);
	vcpu = guest_vcpu(guest, true);
	write_pages(0, 100);
	guest_join(guest, DL_CURSOR_CLEAN);
	write_pages(0, 100);
	assert_int_equal(guest_harvest(guest, 0), 0);
	assert_int_equal(guest_pending(guest), 100 * 4096);
	guest_close(guest);
}

/*
 * Hazard 19: an ITS saves its tables without a vCPU. A ring alone does not record that, so it is
 * not used when the caller requires the backup.
 */
static void a_writer_without_vcpu_needs_the_backup(void **state)
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
	/* Without the requirement the write is lost, and the checker sees it. */
	begin(RING, DL_MODE_RING, 0);
	migration_pass(&migration);
	guest_kernel_write(guest, FIRST_PAGE + 3);
	guest_stop(guest);
	assert_int_equal(checker_last_pass(&migration.checker, 1), 0);
	assert_int_equal(checker_differing_pages(&migration.checker), 1);
	assert_int_equal(checker_differing_by_gpa(&migration.checker), 1);
	migration_close(&migration);
}

/* Measured on arm64: without the backup a fault maps a huge page writable and logs one page. */
static void auto_avoids_a_ring_that_loses_huge_pages(void **state)
{
	struct guest_config config = { .model = { .has = BACKUP,
						  .arch = DL_OS_ARCH_RING_NEEDS_BACKUP,
						  .ring_alone_loses_huge_pages = true },
				       .options = { .mode = DL_MODE_AUTO } };

	begin_with(&config, DL_CURSOR_CLEAN);
	write_pages(0, 200);
	end();
	config.model.has = RING | INITIALLY_SET;
	begin_with(&config, DL_CURSOR_CLEAN);
	write_pages(0, 200);
	end();
	/* This says that there is no in-kernel writer, and no more. */
	config.model.has = BACKUP;
	config.options.backup = DL_BACKUP_OFF;
	begin_with(&config, DL_CURSOR_CLEAN);
	write_pages(0, 200);
	end();
	/* With a false claim about the architecture pages are lost, and the checker sees it. */
	config.model.arch = DL_OS_ARCH_RING_ALONE_SAFE;
	config.options.mode = DL_MODE_RING;
	begin_with(&config, DL_CURSOR_CLEAN);
	write_pages(0, 200);
	guest_stop(guest);
	assert_int_equal(checker_last_pass(&migration.checker, 1), 0);
	assert_true(checker_differing_pages(&migration.checker) > 100);
	migration_close(&migration);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		migration_test(entries_of_a_deleted_slot_are_dropped),
		migration_test(address_spaces_are_kept_apart),
		migration_test(ring_indices_wrap),
		migration_test(the_ring_is_mapped_at_64_host_pages),
		migration_test(bitmap_buffers_have_whole_words),
		migration_test(a_get_that_fails_after_clearing_loses_nothing),
		migration_test(initially_set_with_a_ring_loses_nothing),
		migration_test(a_writer_without_vcpu_needs_the_backup),
		migration_test(auto_avoids_a_ring_that_loses_huge_pages),
	};

	return RUN_TESTS("migrations with slots and bitmaps", tests);
}
