/* SPDX-License-Identifier: MIT */
/*
 * Proves that the checker can fail: it catches a library that omits a step, which is imitated by
 * swallowing a system call. Where a test runs twice, the copy is right with the step and wrong
 * without it.
 *
 * tests/kvm/test_sabotage.c does the same on the real kernel;
 * precopy --sabotage breaks the caller's part in a whole migration between two processes.
 */
#include "cmocka_all.h"
#include "migration.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { PAGE = 20, BACKUP = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP };

static struct migration migration;
static bool broken; /* the step is omitted from now on */
static struct kvm_dirty_gfn *cells;
static struct kvm_clear_dirty_log late_clear;
static uint64_t late_words[1024];

static void open_guest(uint32_t has, uint32_t mode, guest_intercept *intercept)
{
	const struct guest_config config = { .model = { .has = has },
					     .options = { .mode = mode, .ring_entries = 256 },
					     .intercept = intercept };

	broken = false;
	migration_open(&migration, &config, 1);
}

static void write_page(void)
{
	assert_int_equal(guest_write(&migration.guest, &migration.guest.vcpus[0], 0, PAGE), 0);
}

static void final_pass(void)
{
	guest_stop(&migration.guest);
	assert_int_equal(checker_pass(&migration.checker, DL_HARVEST_PAUSED, 1), 0);
}

/* Both receivers miss the same. */
static uint64_t differing(void)
{
	uint64_t pages = checker_differing_pages(&migration.checker);

	assert_int_equal(checker_differing_by_gpa(&migration.checker), pages);
	return pages;
}

/* Takes the cells back and protects no page. */
static bool no_reset(struct guest *guest, int fd, unsigned long request, void *arg, int *result)
{
	if (request != KVM_RESET_DIRTY_RINGS || !broken)
		return false;
	*result = 0;
	for (uint32_t i = 0; i < 256; i++)
		if (__atomic_load_n(&cells[i].flags, __ATOMIC_ACQUIRE) & 2) {
			__atomic_store_n(&cells[i].flags, 0, __ATOMIC_RELEASE);
			++*result;
		}
	return true;
}

/* Writes a page before, between and after two passes. Returns how many pages differ at the end. */
static uint64_t migrate_with_rings(bool without_reset)
{
	struct guest *guest = &migration.guest;
	uint64_t pages;

	open_guest(0, DL_MODE_RING, no_reset);
	assert_int_equal(guest->os.mmap(guest, guest->vcpus[0].fd, 64 * 4096, 4096,
					PROT_READ | PROT_WRITE, MAP_SHARED, (void **)&cells),
			 0);
	migration_start(&migration, DL_CURSOR_CLEAN);
	broken = without_reset;
	write_page();
	migration_pass(&migration);
	assert_int_equal(differing(), 0);
	write_page();
	final_pass();
	pages = differing();
	guest->os.munmap(guest, cells, 4096);
	migration_close(&migration);
	return pages;
}

static void an_omitted_reset_is_detected(void **state)
{
	assert_int_equal(migrate_with_rings(false), 0);
	assert_int_equal(migrate_with_rings(true), 1);
}

/* The kernel itself takes an entry back and does not protect its page. */
static void an_unprotected_batch_is_detected(void **state)
{
	const struct model_reset_fault fault = { .drop_batch = true };

	open_guest(0, DL_MODE_RING, NULL);
	migration_start(&migration, DL_CURSOR_CLEAN);
	model_reset_fault(migration.guest.model, &fault);
	write_page();
	migration_pass(&migration);
	write_page();
	final_pass();
	assert_int_equal(differing(), 1);
	migration_close(&migration);
}

static bool no_get(struct guest *guest, int fd, unsigned long request, void *arg, int *result)
{
	const struct kvm_dirty_log *log = arg;

	if (request != KVM_GET_DIRTY_LOG || !broken)
		return false;
	memset(log->dirty_bitmap, 0, 8);
	*result = 0;
	return true;
}

static uint64_t migrate_with_kernel_writer(uint32_t has, uint32_t mode, bool without_get)
{
	uint64_t pages;

	open_guest(has, mode, no_get);
	migration_start(&migration, DL_CURSOR_CLEAN);
	migration_pass(&migration);
	guest_kernel_write(&migration.guest, PAGE);
	broken = without_get;
	final_pass();
	pages = differing();
	migration_close(&migration);
	return pages;
}

static void an_unread_backup_is_detected(void **state)
{
	assert_int_equal(migrate_with_kernel_writer(BACKUP, DL_MODE_RING, false), 0);
	assert_int_equal(migrate_with_kernel_writer(BACKUP, DL_MODE_RING, true), 1);
}

static void an_unread_bitmap_is_detected(void **state)
{
	assert_int_equal(migrate_with_kernel_writer(0, DL_MODE_BITMAP, false), 0);
	assert_int_equal(migrate_with_kernel_writer(0, DL_MODE_BITMAP, true), 1);
}

/* Defers CLEAR until the page has been read, as a library would that clears after publishing. */
static bool clear_late(struct guest *guest, int fd, unsigned long request, void *arg, int *result)
{
	if (request != KVM_CLEAR_DIRTY_LOG || !broken)
		return false;
	memcpy(&late_clear, arg, sizeof(late_clear));
	memcpy(late_words, late_clear.dirty_bitmap, (late_clear.num_pages + 63) / 64 * 8);
	late_clear.dirty_bitmap = late_words;
	*result = 0;
	return true;
}

static uint64_t migrate_with_clear(bool too_late)
{
	struct guest *guest = &migration.guest;
	const struct dl_os *os;
	struct dl_extent runs[4];
	struct dl_cursor *cursor;
	uint64_t pages;

	open_guest(0, DL_MODE_BITMAP, clear_late);
	os = model_os(guest->model);
	migration_start(&migration, DL_CURSOR_CLEAN);
	write_page();
	broken = too_late;
	cursor = migration.checker.cursor;
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(cursor, runs, 4), 1);
	checker_copy_run(&migration.checker, &runs[0]);
	write_page();
	if (too_late)
		assert_int_equal(
			os->ioctl(os->opaque, guest->vm_fd, KVM_CLEAR_DIRTY_LOG, &late_clear), 0);
	assert_int_equal(dl_cursor_ack(cursor, runs, 1), 0);
	checker_end(&migration.checker, 0);
	broken = false;
	final_pass();
	pages = differing();
	migration_close(&migration);
	return pages;
}

static void a_clear_after_the_read_is_detected(void **state)
{
	assert_int_equal(migrate_with_clear(false), 0);
	assert_int_equal(migrate_with_clear(true), 1);
}

static bool no_clear(struct guest *guest, int fd, unsigned long request, void *arg, int *result)
{
	*result = 0;
	return request == KVM_CLEAR_DIRTY_LOG;
}

/* Loses nothing, because the kernel keeps reporting the page, but never converges. */
static void an_omitted_clear_is_detected(void **state)
{
	uint64_t pages[4];

	open_guest(0, DL_MODE_BITMAP, no_clear);
	migration_start(&migration, DL_CURSOR_CLEAN);
	write_page();
	for (int i = 0; i < 3; i++)
		assert_int_equal(
			guest_pass_of(&migration.guest, migration.checker.cursor, 0, pages, 4), 1);
	migration_close(&migration);
}

static bool no_flag(struct guest *guest, int fd, unsigned long request, void *arg, int *result)
{
	const struct kvm_userspace_memory_region *region = arg;

	if (request != KVM_SET_USER_MEMORY_REGION || !(region->flags & KVM_MEM_LOG_DIRTY_PAGES))
		return false;
	*result = 0;
	return true;
}

static void logging_left_off_is_detected(void **state)
{
	open_guest(0, DL_MODE_RING, no_flag);
	migration_start(&migration, 0);
	migration_pass(&migration);
	write_page();
	final_pass();
	assert_int_equal(differing(), 1);
	migration_close(&migration);
}

/* A pass hands out one page, and the copy omits it. */
static void an_uncopied_run_is_detected(void **state)
{
	struct dl_extent runs[4];
	struct dl_cursor *cursor;

	open_guest(0, DL_MODE_RING, NULL);
	migration_start(&migration, DL_CURSOR_CLEAN);
	write_page();
	cursor = migration.checker.cursor;
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(cursor, runs, 4), 1);
	assert_int_equal(dl_cursor_ack(cursor, runs, 1), 0);
	checker_end(&migration.checker, 0);
	final_pass();
	assert_int_equal(differing(), 1);
	migration_close(&migration);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		migration_test(an_omitted_reset_is_detected),
		migration_test(an_unprotected_batch_is_detected),
		migration_test(an_unread_backup_is_detected),
		migration_test(an_unread_bitmap_is_detected),
		migration_test(a_clear_after_the_read_is_detected),
		migration_test(an_omitted_clear_is_detected),
		migration_test(logging_left_off_is_detected),
		migration_test(an_uncopied_run_is_detected),
	};

	return RUN_TESTS("the checker", tests);
}
