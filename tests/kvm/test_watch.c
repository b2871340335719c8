/* SPDX-License-Identifier: MIT */
/*
 * dl_slot_watch() on the real kernel: the VMM writes through a second mapping of the guest's memory
 * and marks nothing, or forgets some marks and is told which.
 */
#include "alias.h"

#include "kvm/uffd_uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 2048, SLOT = 3 };

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

struct scene {
	struct rig *rig;
	struct rig_slot *slot;
	uint8_t *alias;
	uint64_t page_bytes;
};

/* Without the kernel's part the call says so, and there is nothing more to test. */
static void need_watch(struct scene *scene)
{
	char why[300];

	if (scene->rig->log_config.has & DL_HAS_WATCH)
		return;
	assert_int_equal(dl_slot_watch(scene->rig->log, SLOT, scene->alias, 0), -EOPNOTSUPP);
	assert_in_range(dl_log_last_error(scene->rig->log, why, sizeof(why)), 1, sizeof(why));
	munmap(scene->alias, scene->slot->bytes);
	rig_skip("%s", why);
}

static struct scene open_scene(uint32_t mode)
{
	const struct rig_config config = { .mode = mode, .vcpus = 1 };
	struct scene scene = { .rig = rig_new(&config) };

	scene.page_bytes = scene.rig->page_bytes;
	scene.slot = rig_memory(scene.rig, SLOT, GUEST_DATA_GPA, PAGES);
	scene.alias = alias_new(scene.slot);
	assert_int_equal(rig_slot_set(scene.rig, scene.slot, 0, 0), 0);
	checker_equalize(&scene.rig->checker);
	need_watch(&scene);
	return scene;
}

static void close_scene(struct scene *scene)
{
	rig_free(scene->rig);
	munmap(scene->alias, PAGES * scene->page_bytes);
}

static int try_watch(const struct scene *scene, uint32_t flags)
{
	return dl_slot_watch(scene->rig->log, SLOT, scene->alias, flags);
}

static void watch(const struct scene *scene, uint32_t flags)
{
	assert_int_equal(try_watch(scene, flags), 0);
}

static volatile uint8_t *page_at(const struct scene *scene, uint64_t page)
{
	return scene->alias + page * scene->page_bytes;
}

static uint64_t watched(const struct scene *scene)
{
	return rig_stats(scene->rig).watched_bytes / scene->page_bytes;
}

static uint64_t missed(const struct scene *scene)
{
	return rig_stats(scene->rig).missed_bytes / scene->page_bytes;
}

/* read(2) into the alias: the kernel writes, for the VMM. */
static void kernel_writes(const struct scene *scene, uint64_t page, uint64_t pages)
{
	int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);

	assert_int_equal(read(fd, (void *)page_at(scene, page), pages * scene->page_bytes),
			 pages * scene->page_bytes);
	close(fd);
}

/* All of the VMM's and the kernel's, none of the guest's. */
static void find_what_the_vmm_writes(uint32_t mode)
{
	struct scene scene = open_scene(mode);
	const struct rig_range guests = { .slot = scene.slot, .pages = 1000 };

	watch(&scene, 0);
	rig_join(scene.rig, DL_CURSOR_CLEAN);
	rig_write(scene.rig, 0, &guests, 7);
	*page_at(&scene, 1500) = 1;
	*page_at(&scene, 3) = 1;
	kernel_writes(&scene, 1600, 2);
	assert_int_equal(rig_pass(scene.rig, 0) / scene.page_bytes, 1003);
	assert_int_equal(watched(&scene), 4);
	/* Loads are no writes, and what was found is protected again. */
	assert_int_equal(*page_at(&scene, 1500), 1);
	assert_int_equal(rig_pass(scene.rig, 0), 0);
	*page_at(&scene, 1500) = 2;
	assert_int_equal(rig_pass(scene.rig, 0) / scene.page_bytes, 1);
	assert_int_equal(watched(&scene), 5);
	rig_finish(scene.rig);
	close_scene(&scene);
}

static void a_watch_sees_the_vmm_and_not_the_guest(void **state)
{
	find_what_the_vmm_writes(DL_MODE_RING);
}

static void a_watch_sees_the_vmm_in_bitmap_mode(void **state)
{
	find_what_the_vmm_writes(DL_MODE_BITMAP);
}

/* A device that writes through the alias on a thread of its own. */
struct device {
	const struct scene *scene;
	bool marks;	  /* all pages but those that it forgets */
	uint64_t forgets; /* every so many pages; 0: none */
	uint64_t seed;
	atomic_ulong writes;
};

static struct device device;

static bool is_forgotten(uint64_t page)
{
	return device.forgets && page % device.forgets == 0;
}

/* Half of the pages are the guest's as well, in other words of them. */
static int device_step(struct worker *worker)
{
	const struct scene *scene = device.scene;
	uint64_t page;

	device.seed = device.seed * 6364136223846793005u + 1442695040888963407u;
	page = (device.seed >> 33) % PAGES;
	(*(volatile uint64_t *)page_at(scene, page))++;
	if (device.marks && !is_forgotten(page) &&
	    dl_mark_slot(scene->rig->log, SLOT, page * scene->page_bytes, 1))
		return -EIO;
	atomic_fetch_add(&device.writes, 1);
	return 0;
}

/* The device has made its next write, and the mark of the one before: two more are complete. */
static void wait_for_device(void)
{
	unsigned long from = atomic_load(&device.writes);

	while (atomic_load(&device.writes) < from + 2)
		sched_yield();
}

/* A whole migration while the guest and the device write. Returns how many pages are wrong. */
static uint64_t migrate(uint32_t mode, bool with_watch, uint32_t first)
{
	struct scene scene = open_scene(mode);
	const struct rig_range guests = { .slot = scene.slot, .pages = PAGES / 2 };
	uint64_t differing;

	device = (struct device){ .scene = &scene, .seed = mode };
	if (with_watch)
		watch(&scene, 0);
	rig_join(scene.rig, first);
	rig_count(scene.rig, 0, &guests);
	rig_start_worker(scene.rig, 0, device_step);
	for (int pass = 0; pass < 30; pass++) {
		wait_for_device();
		rig_pass(scene.rig, 0);
	}
	rig_end_workers(scene.rig);
	rig_stop(scene.rig);
	assert_int_equal(checker_last_pass(&scene.rig->checker, 1), 0);
	differing = checker_differing_pages(&scene.rig->checker) +
		    checker_differing_by_gpa(&scene.rig->checker);
	close_scene(&scene);
	return differing;
}

static void a_migration_without_a_mark_loses_nothing(void **state)
{
	assert_int_equal(migrate(DL_MODE_RING, true, DL_CURSOR_CLEAN), 0);
	assert_int_equal(migrate(DL_MODE_BITMAP, true, DL_CURSOR_CLEAN), 0);
	assert_int_equal(migrate(DL_MODE_BITMAP, true, 0), 0);
}

/* The proof that the test above can fail. */
static void without_the_watch_it_loses_pages(void **state)
{
	assert_true(migrate(DL_MODE_RING, false, DL_CURSOR_CLEAN) > 0);
	assert_true(migrate(DL_MODE_BITMAP, false, DL_CURSOR_CLEAN) > 0);
}

/* Reads a pass of the audit: every page must be one that the device forgets. */
static uint64_t read_audit(const struct scene *scene, struct dl_cursor *audit)
{
	struct dl_extent extents[16];
	uint64_t pages = 0;
	int n;

	assert_int_equal(dl_harvest(audit, 0, NULL), 0);
	while ((n = dl_cursor_read(audit, extents, 16)) > 0) {
		for (int i = 0; i < n; i++) {
			assert_int_equal(extents[i].bytes, scene->page_bytes);
			assert_true(is_forgotten(extents[i].offset_bytes / scene->page_bytes));
			pages++;
		}
	}
	assert_int_equal(n, 0);
	assert_int_equal(dl_cursor_end(audit, DL_END_COMMIT), 0);
	return pages;
}

/* With a migration beside it, or alone: the forgotten marks are found, and no others. */
static void audit_a_device(uint32_t mode, bool migrates)
{
	const struct dl_cursor_options options = { .size = sizeof(options),
						   .flags = DL_CURSOR_MISSED };
	struct scene scene = open_scene(mode);
	struct dl_cursor *audit;
	uint64_t pages = 0;

	device = (struct device){ .scene = &scene, .marks = true, .forgets = 16 };
	watch(&scene, DL_WATCH_AUDIT);
	assert_int_equal(dl_cursor_new(scene.rig->log, &options, &audit), 0);
	if (migrates)
		rig_join(scene.rig, DL_CURSOR_CLEAN);
	rig_start_worker(scene.rig, 0, device_step);
	for (int pass = 0; pass < 200 || (!pages && pass < 20000); pass++) {
		/* Between two scans every write that the first has seen gets its mark. */
		wait_for_device();
		if (migrates && pass % 2)
			rig_pass(scene.rig, 0);
		else
			pages += read_audit(&scene, audit);
	}
	rig_end_workers(scene.rig);
	for (int i = 0; i < 2; i++)
		pages += read_audit(&scene, audit);
	assert_true(pages > 0);
	/* A page that is missed twice before the audit's cursor reads it counts twice. */
	assert_in_range(missed(&scene), pages, migrates ? 3 * pages : pages);
	assert_int_equal(read_audit(&scene, audit), 0);
	dl_cursor_free(audit);
	if (migrates)
		rig_finish(scene.rig);
	close_scene(&scene);
}

static void an_audit_finds_forgotten_marks_and_no_others(void **state)
{
	audit_a_device(DL_MODE_RING, true);
	audit_a_device(DL_MODE_BITMAP, true);
}

static void an_audit_needs_no_migration(void **state)
{
	audit_a_device(DL_MODE_RING, false);
}

/* The mapping of a huge page is split when the watch begins, and stays split. */
static void a_write_to_a_huge_page_is_one_page(void **state)
{
	struct scene scene = open_scene(DL_MODE_RING);
	int collapsed = madvise(scene.alias, scene.slot->bytes, MADV_HUGEPAGE);

	if (!collapsed)
		collapsed = madvise(scene.alias, scene.slot->bytes, MADV_COLLAPSE);
	watch(&scene, DL_WATCH_AUDIT);
	rig_join(scene.rig, DL_CURSOR_CLEAN);
	for (int pass = 0; pass < 3; pass++) {
		*page_at(&scene, 1030) = (uint8_t)pass;
		assert_int_equal(rig_pass(scene.rig, 0) / scene.page_bytes, 1);
		(void)madvise(scene.alias, scene.slot->bytes, MADV_COLLAPSE);
	}
	rig_finish(scene.rig);
	close_scene(&scene);
	if (collapsed)
		rig_skip("this kernel makes no huge pages of shared memory");
}

/* Reserved and never touched, so that it needs no huge page to be there. */
static void memory_of_hugetlb_is_refused(void **state)
{
	struct scene scene = open_scene(DL_MODE_RING);
	int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
	void *huge = MAP_FAILED;

	if (fd >= 0 && !ftruncate(fd, (off_t)scene.slot->bytes))
		huge = mmap(NULL, scene.slot->bytes, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (huge != MAP_FAILED) {
		assert_int_equal(dl_slot_watch(scene.rig->log, SLOT, huge, 0), -EOPNOTSUPP);
		assert_int_equal(dl_slot_watch(scene.rig->log, SLOT, huge, DL_WATCH_AUDIT),
				 -EOPNOTSUPP);
		munmap(huge, scene.slot->bytes);
		watch(&scene, 0);
	}
	close(fd);
	close_scene(&scene);
	if (huge == MAP_FAILED)
		rig_skip("this kernel has no hugetlb memory");
}

static int other_userfaultfd(void *start, uint64_t bytes)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .range = { (uintptr_t)start, bytes },
					 .mode = UFFDIO_REGISTER_MODE_MISSING };
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	assert_true(fd >= 0);
	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	if (ioctl(fd, UFFDIO_REGISTER, &range)) {
		close(fd);
		return -errno;
	}
	return fd;
}

static void an_alias_of_post_copy_is_busy(void **state)
{
	struct scene scene = open_scene(DL_MODE_RING);
	int fd = other_userfaultfd(scene.alias, scene.slot->bytes);

	assert_true(fd >= 0);
	assert_int_equal(try_watch(&scene, 0), -EBUSY);
	close(fd);
	watch(&scene, 0);
	assert_int_equal(other_userfaultfd(scene.alias, scene.slot->bytes), -EBUSY);
	close_scene(&scene);
}

/* Each of the ways in which a watch ends leaves the alias to others. */
static void an_ended_watch_leaves_the_alias(void **state)
{
	for (int how = 0; how < 3; how++) {
		struct scene scene = open_scene(DL_MODE_RING);
		int fd;

		watch(&scene, how == 1 ? DL_WATCH_AUDIT : 0);
		if (how == 0)
			assert_int_equal(dl_slot_watch(scene.rig->log, SLOT, NULL, 0), 0);
		else if (how == 1)
			assert_int_equal(dl_slot_remove(scene.rig->log, SLOT, 0, NULL, 0), 0);
		else
			rig_free(scene.rig);
		fd = other_userfaultfd(scene.alias, PAGES * scene.page_bytes);
		assert_true(fd >= 0);
		close(fd);
		if (how < 2)
			rig_free(scene.rig);
		munmap(scene.alias, PAGES * scene.page_bytes);
	}
}

static void an_alias_with_a_hole_is_refused(void **state)
{
	struct scene scene = open_scene(DL_MODE_RING);
	int fd;

	munmap(scene.alias + 100 * scene.page_bytes, scene.page_bytes);
	assert_int_equal(try_watch(&scene, 0), -EINVAL);
	fd = other_userfaultfd(scene.alias, 100 * scene.page_bytes);
	assert_true(fd >= 0);
	close(fd);
	munmap(scene.alias, scene.slot->bytes);
	assert_int_equal(try_watch(&scene, 0), -EINVAL);
	close_scene(&scene);
}

/* Something else is mapped there now: the harvest fails, and everything is pending. */
static void an_alias_that_was_replaced_is_noticed(void **state)
{
	struct scene scene = open_scene(DL_MODE_RING);
	uint64_t pending;

	watch(&scene, 0);
	rig_join(scene.rig, DL_CURSOR_CLEAN);
	assert_ptr_equal(mmap(scene.alias + 100 * scene.page_bytes, scene.page_bytes, PROT_READ,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
			 scene.alias + 100 * scene.page_bytes);
	assert_int_equal(checker_harvest(&scene.rig->checker, 0, &pending), -EPERM);
	assert_int_equal(checker_pending(&scene.rig->checker), scene.slot->bytes);
	assert_int_equal(dl_slot_watch(scene.rig->log, SLOT, NULL, 0), 0);
	rig_pass(scene.rig, 0);
	rig_finish(scene.rig);
	close_scene(&scene);
}

/* A child's writes are its own page table's; the parent's watch goes on. */
static void a_fork_does_not_disturb_the_watch(void **state)
{
	struct scene scene = open_scene(DL_MODE_RING);
	int status;
	pid_t child;

	watch(&scene, 0);
	rig_join(scene.rig, DL_CURSOR_CLEAN);
	*page_at(&scene, 5) = 1;
	child = fork();
	if (!child)
		_exit(dl_slot_watch(scene.rig->log, SLOT, NULL, 0) == -EIO ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	*page_at(&scene, 6) = 1;
	assert_int_equal(rig_pass(scene.rig, 0) / scene.page_bytes, 2);
	assert_int_equal(watched(&scene), 2);
	*page_at(&scene, 6) = 2;
	assert_int_equal(rig_pass(scene.rig, 0) / scene.page_bytes, 1);
	close_scene(&scene);
}

/* Memory that nobody has touched is protected too. */
static void untouched_memory_is_watched(void **state)
{
	struct scene scene = open_scene(DL_MODE_RING);

	assert_int_equal(madvise(scene.alias, scene.slot->bytes, MADV_REMOVE), 0);
	watch(&scene, 0);
	rig_join(scene.rig, 0);
	rig_pass(scene.rig, 0);
	assert_int_equal(*page_at(&scene, 8), 0);
	*page_at(&scene, 9) = 1;
	assert_int_equal(rig_pass(scene.rig, 0) / scene.page_bytes, 1);
	rig_finish(scene.rig);
	close_scene(&scene);
}

/* A device writes and marks all the while: each write is found by a watch, or was marked. */
static void watches_come_and_go_while_a_device_writes(void **state)
{
	struct scene scene = open_scene(DL_MODE_RING);

	device = (struct device){ .scene = &scene, .marks = true };
	rig_join(scene.rig, DL_CURSOR_CLEAN);
	rig_start_worker(scene.rig, 0, device_step);
	rig_start_worker(scene.rig, 1, rig_harvest_step);
	for (int i = 0; i < 60; i++) {
		if (i % 4 == 3)
			assert_int_equal(dl_slot_watch(scene.rig->log, SLOT, NULL, 0), 0);
		else
			watch(&scene, i % 2 ? DL_WATCH_AUDIT : 0);
		rig_pass(scene.rig, 0);
	}
	rig_end_workers(scene.rig);
	rig_finish(scene.rig);
	close_scene(&scene);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		rig_test(a_watch_sees_the_vmm_and_not_the_guest),
		rig_test(a_watch_sees_the_vmm_in_bitmap_mode),
		rig_test(a_migration_without_a_mark_loses_nothing),
		rig_test(without_the_watch_it_loses_pages),
		rig_test(an_audit_finds_forgotten_marks_and_no_others),
		rig_test(an_audit_needs_no_migration),
		rig_test(a_write_to_a_huge_page_is_one_page),
		rig_test(memory_of_hugetlb_is_refused),
		rig_test(an_alias_of_post_copy_is_busy),
		rig_test(an_ended_watch_leaves_the_alias),
		rig_test(an_alias_with_a_hole_is_refused),
		rig_test(an_alias_that_was_replaced_is_noticed),
		rig_test(a_fork_does_not_disturb_the_watch),
		rig_test(untouched_memory_is_watched),
		rig_test(watches_come_and_go_while_a_device_writes),
	};

	return rig_run_tests("watch", tests);
}
