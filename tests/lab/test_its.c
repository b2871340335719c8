/* SPDX-License-Identifier: MIT */
/*
 * The backup bitmap: the kernel writes the tables of an ITS to guest memory while no vCPU runs, so
 * no ring gets an entry for these pages. The VMM stops the vCPU, saves the ITS, and makes the final
 * harvest. It must report exactly the pages that changed, together with those of the rings, and
 * each page once.
 */
#include "its.h"
#include "rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
	DATA_PAGES = 100,
	GUEST_PAGES = 7, /* data pages that the guest writes */
	MAX_PAGES = 256,
};

/* Above the controller, and aligned as its tables require. */
#define TABLES_GPA (UINT64_C(1) << 30)

struct scene {
	struct rig *rig;
	struct rig_slot *tables;
	struct rig_slot *data;
	struct its its;
};

/* Number of pages: changed ones, reported ones, and the differences between these. */
struct outcome {
	unsigned int changed, reported, lost, twice, unchanged;
};

static struct scene open_scene(uint32_t mode, uint32_t backup, struct spy *spy)
{
	const struct rig_config config = { .mode = mode, .backup = backup, .vcpus = 1, .spy = spy };
	struct scene scene = { .rig = rig_new(&config) };
	struct rig *rig = scene.rig;
	int r;

	/* Slots smaller than a huge page; test_huge_pages.c covers huge ones. */
	scene.tables = rig_slot(rig, 0, TABLES_GPA, ITS_MEMORY_BYTES / rig->page_bytes);
	scene.data = rig_slot(rig, 1, GUEST_DATA_GPA, DATA_PAGES);
	r = its_create(&scene.its, rig->machine.vm_fd, TABLES_GPA, scene.tables->memory);
	if (r == -ENODEV)
		rig_skip("this kernel does not support a vgic-v3 with an ITS");
	assert_int_equal(r, 0);
	return scene;
}

static void close_scene(struct scene *scene)
{
	its_close(&scene->its);
	rig_free(scene->rig);
}

/* Sends all pending pages. From here on, only the test changes memory. */
static void settle(struct scene *scene)
{
	rig_pass(scene->rig, 0);
	assert_int_equal(rig_pass(scene->rig, 0), 0);
	checker_expect_equal(&scene->rig->checker);
}

/* The guest writes data and a page of the device table, which gets into both ring and bitmap. */
static void guest_writes(struct scene *scene)
{
	struct rig_range data = { .slot = scene->data, .first_page = 50, .pages = GUEST_PAGES };
	struct rig_range table = { .slot = scene->tables, .pages = 1 };

	table.first_page = ITS_DEVICES / scene->rig->page_bytes;
	rig_write(scene->rig, 0, &data, 0x1111);
	rig_write(scene->rig, 0, &table, 0x2222);
}

static bool page_differs(const struct rig *rig, const struct rig_slot *slot, size_t page)
{
	size_t at = page * rig->page_bytes;

	return memcmp(slot->memory + at, slot->block->copy + at, rig->page_bytes);
}

static void note_run(struct scene *scene, const struct dl_extent *run, unsigned char *times)
{
	struct rig *rig = scene->rig;
	uint64_t first = run->offset_bytes / rig->page_bytes;

	/* Number the pages of both slots consecutively. */
	if (run->slot == scene->data->slot)
		first += scene->tables->bytes / rig->page_bytes;
	for (uint64_t i = 0; i < run->bytes / rig->page_bytes; i++) {
		assert_in_range(first + i, 0, MAX_PAGES - 1);
		times[first + i]++;
	}
	assert_true(checker_copy_run(&rig->checker, run));
}

/* The final pass. Counts how many times each page is reported. */
static void final_pass(struct scene *scene, unsigned char *times)
{
	struct dl_extent runs[16];
	struct dl_cursor *cursor;
	int n;

	cursor = scene->rig->checker.cursor;
	assert_int_equal(dl_harvest(cursor, DL_HARVEST_PAUSED, NULL), 0);
	while ((n = dl_cursor_read(cursor, runs, 16)) > 0) {
		for (int i = 0; i < n; i++)
			note_run(scene, &runs[i], times);
		assert_int_equal(dl_cursor_ack(cursor, runs, (uint32_t)n), 0);
	}
	checker_end(&scene->rig->checker, 0);
	assert_int_equal(n, 0);
}

static void note_changes(const struct scene *scene, bool *changed)
{
	const struct rig_slot *slots[] = { scene->tables, scene->data };
	size_t n = 0;

	for (int s = 0; s < 2; s++) {
		size_t pages = slots[s]->bytes / scene->rig->page_bytes;

		assert_true(n + pages <= MAX_PAGES);
		for (size_t i = 0; i < pages; i++)
			changed[n++] = page_differs(scene->rig, slots[s], i);
	}
}

/* Makes the final pass and compares the reported pages with those that differ from the copy. */
static struct outcome finish(struct scene *scene)
{
	struct outcome outcome = { 0 };
	unsigned char times[MAX_PAGES] = { 0 };
	bool changed[MAX_PAGES] = { false };

	note_changes(scene, changed);
	final_pass(scene, times);
	for (int i = 0; i < MAX_PAGES; i++) {
		outcome.changed += changed[i];
		outcome.reported += times[i] > 0;
		outcome.twice += times[i] > 1;
		outcome.lost += changed[i] && !times[i];
		outcome.unchanged += !changed[i] && times[i];
	}
	printf("  %u pages changed, %u reported, %u lost, %u twice, %u unchanged\n",
	       outcome.changed, outcome.reported, outcome.lost, outcome.twice, outcome.unchanged);
	return outcome;
}

static void expect_exact(const struct scene *scene, const struct outcome *outcome)
{
	assert_int_equal(outcome->lost, 0);
	assert_int_equal(outcome->twice, 0);
	assert_int_equal(outcome->unchanged, 0);
	assert_int_equal(outcome->reported, outcome->changed);
	checker_expect_equal(&scene->rig->checker);
}

/* Everything before the final harvest. */
static void save(struct scene *scene)
{
	assert_int_equal(its_map(&scene->its), 0);
	rig_join(scene->rig, 0);
	settle(scene);
	guest_writes(scene);
	assert_int_equal(its_raise(&scene->its), 0);
	assert_int_equal(its_save_tables(&scene->its), 0);
	assert_int_equal(its_save_pending(&scene->its), 0);
	assert_true(its_is_pending(&scene->its, ITS_LPI_NEAR));
	assert_true(its_is_pending(&scene->its, ITS_LPI_B));
}

/*
 * The pages of a save: device table (one page was also written by the guest), collection table,
 * event tables of both devices, and pending LPIs. At least one page each; two if the entries, 32
 * KiB apart, lie in different pages.
 */
static void expect_all_tables(const struct outcome *outcome, const struct scene *scene)
{
	unsigned int pending_pages = scene->rig->page_bytes == 4096 ? 2 : 1;

	assert_int_equal(outcome->changed, GUEST_PAGES + 2 + 1 + 2 + 1 + pending_pages);
}

static void save_is_reported(uint32_t mode, uint32_t backup)
{
	struct scene scene = open_scene(mode, backup, NULL);
	struct outcome outcome;

	save(&scene);
	outcome = finish(&scene);
	expect_all_tables(&outcome, &scene);
	expect_exact(&scene, &outcome);
	/* A second final pass reports nothing. */
	outcome = finish(&scene);
	assert_int_equal(outcome.reported, 0);
	/* A second save writes the same contents: reporting these pages is harmless. */
	assert_int_equal(its_save_tables(&scene.its), 0);
	outcome = finish(&scene);
	assert_int_equal(outcome.lost, 0);
	close_scene(&scene);
}

static void ring_and_backup_report_a_save_once(void **state)
{
	(void)state;
	save_is_reported(DL_MODE_RING, DL_BACKUP_REQUIRED);
}

static void auto_reports_a_save_once(void **state)
{
	(void)state;
	save_is_reported(DL_MODE_AUTO, DL_BACKUP_REQUIRED);
}

static void bitmap_reports_a_save_once(void **state)
{
	(void)state;
	save_is_reported(DL_MODE_BITMAP, DL_BACKUP_AUTO);
}

/*
 * Hazard 19 of doc/kernel.md: the writes that the backup bitmap exists for. The library refuses
 * rings without it on this architecture, so it has to be told that this is another.
 */
static void without_backup_a_save_is_lost(void **state)
{
	static struct spy spy; /* outlives a test that fails, as the rig does */
	struct scene scene;
	struct outcome outcome;

	(void)state;
	spy_init(&spy);
	spy.os.arch = DL_OS_ARCH_RING_ALONE_SAFE;
	scene = open_scene(DL_MODE_RING, DL_BACKUP_OFF, &spy);
	save(&scene);
	outcome = finish(&scene);
	expect_all_tables(&outcome, &scene);
	/* Only the writes of the guest, to data and device table, are in the ring. */
	assert_int_equal(outcome.reported, GUEST_PAGES + 1);
	assert_int_equal(outcome.lost, outcome.changed - outcome.reported);
	assert_int_equal(checker_differing_pages(&scene.rig->checker), outcome.lost);
	close_scene(&scene);
}

/*
 * DL_BACKUP_REQUIRED without support by the kernel: ring mode fails with a reason, and automatic
 * mode selects bitmaps and loses no page.
 */
static void unsupported_backup_selects_bitmap_mode(void **state)
{
	static struct spy spy; /* outlives a test that fails, as the rig does */
	struct dl_options options = {
		.size = sizeof(options),
		.mode = DL_MODE_RING,
		.backup = DL_BACKUP_REQUIRED,
		.os = &spy.os,
	};
	struct scene scene;
	struct outcome outcome;
	struct dl_log *log;
	const char *reason;
	char why[200] = "";

	(void)state;
	spy_init(&spy);
	spy_pretend(&spy, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0);
	scene = open_scene(DL_MODE_AUTO, DL_BACKUP_REQUIRED, &spy);
	reason = machine_capability(&scene.rig->machine, KVM_CAP_DIRTY_LOG_RING_ACQ_REL) > 0
			 ? "backup bitmap"
			 : "no dirty rings";
	assert_int_equal(dl_log_open(scene.rig->machine.vm_fd, &options, &log, why, sizeof(why)),
			 -EOPNOTSUPP);
	assert_non_null(strstr(why, reason));
	assert_int_equal(scene.rig->log_config.mode, DL_MODE_BITMAP);
	assert_true(dl_log_describe(scene.rig->log, why, sizeof(why)) > 0);
	assert_non_null(strstr(why, reason));
	save(&scene);
	outcome = finish(&scene);
	expect_all_tables(&outcome, &scene);
	expect_exact(&scene, &outcome);
	close_scene(&scene);
}

/* Gives the destination the memory that the source has sent. */
static void receive(struct scene *to, const struct scene *from)
{
	memcpy(to->tables->memory, from->tables->block->copy, from->tables->bytes);
	memcpy(to->data->memory, from->data->block->copy, from->data->bytes);
	checker_equalize(&to->rig->checker);
}

/* The restore clears pending bits, which the log of the destination, already on, must report. */
static void across_a_migration(uint32_t mode)
{
	struct scene from = open_scene(mode, DL_BACKUP_REQUIRED, NULL);
	struct scene to = open_scene(mode, DL_BACKUP_REQUIRED, NULL);
	struct outcome outcome;

	save(&from);
	outcome = finish(&from);
	expect_exact(&from, &outcome);
	receive(&to, &from);
	rig_join(to.rig, DL_CURSOR_CLEAN);
	assert_int_equal(its_restore(&to.its, &from.its), 0);
	assert_false(its_is_pending(&to.its, ITS_LPI_NEAR));
	outcome = finish(&to);
	assert_true(outcome.changed > 0);
	expect_exact(&to, &outcome);
	/* The pending LPIs match the source's. */
	assert_int_equal(its_save_pending(&to.its), 0);
	assert_true(its_is_pending(&to.its, ITS_LPI_NEAR));
	assert_true(its_is_pending(&to.its, ITS_LPI_B));
	assert_false(its_is_pending(&to.its, ITS_LPI_FAR));
	outcome = finish(&to);
	assert_true(outcome.changed > 0);
	expect_exact(&to, &outcome);
	close_scene(&to);
	close_scene(&from);
}

static void ring_across_a_migration(void **state)
{
	(void)state;
	across_a_migration(DL_MODE_RING);
}

static void bitmap_across_a_migration(void **state)
{
	(void)state;
	across_a_migration(DL_MODE_BITMAP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(ring_and_backup_report_a_save_once),
		rig_test(auto_reports_a_save_once),
		rig_test(bitmap_reports_a_save_once),
		rig_test(without_backup_a_save_is_lost),
		rig_test(unsupported_backup_selects_bitmap_mode),
		rig_test(ring_across_a_migration),
		rig_test(bitmap_across_a_migration),
	};

	return rig_run_tests("its", tests);
}
