/* SPDX-License-Identifier: MIT */
/*
 * Every invalid argument and every call out of order fails with its documented error and changes
 * nothing. The calls are made in the middle of a migration, which must still succeed.
 */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum {
	PAGES = 512,
	SMALL_PAGES = 100, /* not a multiple of 64 */
};

struct scene {
	struct rig *rig;
	struct rig_slot *slot;
	struct rig_slot *small;
};

static struct scene scene_open(uint32_t mode)
{
	struct rig_config config = { .mode = mode, .vcpus = 1 };
	struct scene scene = { .rig = rig_new(&config) };

	scene.slot = rig_slot(scene.rig, 0, GUEST_DATA_GPA, PAGES);
	scene.small = rig_slot(scene.rig, 1, 2ull * GUEST_DATA_GPA, SMALL_PAGES);
	return scene;
}

static struct dl_slot description(const struct rig_slot *slot)
{
	return (struct dl_slot){
		.size = sizeof(struct dl_slot),
		.slot = slot->slot,
		.gpa = slot->gpa,
		.bytes = slot->bytes,
		.hva = (uintptr_t)slot->memory,
	};
}

static void expect_slot(struct dl_log *log, struct dl_slot slot, int expected)
{
	int r = dl_slot_set(log, &slot);

	if (r != expected)
		fail_msg("dl_slot_set of slot %x at %llx returned %d, expected %d", slot.slot,
			 (unsigned long long)slot.gpa, r, expected);
}

/* A valid slot whose number and gpa are free, so that only the field under test is invalid. */
static struct dl_slot free_slot(const struct scene *scene)
{
	struct dl_slot slot = description(scene->slot);

	slot.slot = 7;
	slot.gpa = 16ull * GUEST_DATA_GPA;
	return slot;
}

static void wrong_new_slots(const struct scene *scene)
{
	const struct dl_slot good = free_slot(scene);
	struct dl_log *log = scene->rig->log;
	struct dl_slot slot = good;

	slot.size = sizeof(slot) - 1;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.flags = 0x80;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.kvm_flags = KVM_MEM_LOG_DIRTY_PAGES;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.kvm_flags = 1u << 30;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.gpa += 1;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.hva += 512;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.bytes -= 1;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.bytes = 0;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.gpa = -(uint64_t)scene->rig->page_bytes;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.hva = -(uint64_t)scene->rig->page_bytes;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.slot = 0xffff;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.slot = 9u << 16 | 7;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.gpa = scene->slot->gpa;
	expect_slot(log, slot, -EEXIST);
	slot = good, slot.gpa = scene->slot->gpa + scene->slot->bytes - scene->rig->page_bytes;
	expect_slot(log, slot, -EEXIST);
	slot.flags = DL_SLOT_EXISTS;
	expect_slot(log, slot, -EEXIST);
	slot = good, slot.flags = DL_SLOT_EXISTS | DL_SLOT_CLEAN;
	expect_slot(log, slot, -EINVAL);
}

static void wrong_changes_of_a_slot(const struct scene *scene)
{
	const struct dl_slot good = description(scene->slot);
	struct dl_log *log = scene->rig->log;
	struct dl_slot slot = good;

	expect_slot(log, good, 0);
	slot.bytes -= scene->rig->page_bytes;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.hva += scene->rig->page_bytes;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.kvm_flags = KVM_MEM_READONLY;
	expect_slot(log, slot, -EINVAL);
	slot = good, slot.gpa = scene->small->gpa;
	expect_slot(log, slot, -EEXIST);
}

static void wrong_slots(const struct scene *scene)
{
	struct {
		struct dl_slot slot;
		uint64_t tail;
	} larger = { .slot = free_slot(scene), .tail = 1 };
	struct dl_slot slot = free_slot(scene);
	struct dl_log *log = scene->rig->log;

	larger.slot.size = sizeof(larger);
	assert_int_equal(dl_slot_set(log, &larger.slot), -E2BIG);
	assert_int_equal(dl_slot_set(log, NULL), -EINVAL);
	assert_int_equal(dl_slot_set(NULL, &slot), -EINVAL);
	assert_int_equal(dl_slot_remove(NULL, 0, 0, NULL, 0), -EINVAL);
	assert_int_equal(dl_slot_remove(log, 0, 0x80, NULL, 0), -EINVAL);
	assert_int_equal(dl_slot_remove(log, 0, DL_SLOT_CLEAN, NULL, 0), -EINVAL);
	assert_int_equal(dl_slot_remove(log, 7, 0, NULL, 0), -ENOENT);
	assert_int_equal(dl_slot_remove(log, 7, DL_REMOVE_PAUSED, NULL, 0), -ENOENT);
	assert_int_equal(dl_slot_remove(log, 7, 0, NULL, 1), -EINVAL);
	assert_int_equal(dl_slot_remove(log, 9u << 16, 0, NULL, 0), -ENOENT);
	wrong_new_slots(scene);
	wrong_changes_of_a_slot(scene);
}

static void wrong_marks(const struct scene *scene)
{
	struct dl_log *log = scene->rig->log;
	uint64_t gpa = scene->slot->gpa;

	assert_int_equal(dl_mark_gpa(NULL, 0, gpa, 1), -EINVAL);
	assert_int_equal(dl_mark_gpa(log, 0, gpa, UINT64_MAX), -EINVAL);
	assert_int_equal(dl_mark_gpa(log, 0, UINT64_MAX, 2), -EINVAL);
	assert_int_equal(dl_mark_gpa(log, 0, 1ull << 40, 1), -ENOENT);
	assert_int_equal(dl_mark_gpa(log, 9, gpa, 1), -ENOENT);
	assert_int_equal(dl_mark_gpa(log, 0, gpa, 0), 0);
	assert_int_equal(dl_mark_slot(NULL, 0, 0, 1), -EINVAL);
	assert_int_equal(dl_mark_slot(log, 0, 1, UINT64_MAX), -EINVAL);
	assert_int_equal(dl_mark_slot(log, 7, 0, 1), -ENOENT);
	assert_int_equal(dl_mark_slot(log, 0, scene->slot->bytes, 1), -ENOENT);
}

static void expect_no_vcpu(struct dl_log *log, int fd, int expected)
{
	struct dl_vcpu *vcpu = NULL;

	assert_int_equal(dl_vcpu_add(log, fd, 0, 0, &vcpu), expected);
	assert_null(vcpu);
}

static void wrong_vcpus(const struct scene *scene)
{
	struct rig *rig = scene->rig;
	struct dl_stats stats = { .size = 8 };
	int null = open("/dev/null", O_RDWR);
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	expect_no_vcpu(NULL, rig->machine.vcpus[0].fd, -EINVAL);
	assert_int_equal(dl_vcpu_add(rig->log, rig->machine.vcpus[0].fd, 0, 0, NULL), -EINVAL);
	expect_no_vcpu(rig->log, -1, -EBADF);
	expect_no_vcpu(rig->log, null, -EBADF);
	expect_no_vcpu(rig->log, ends[0], -EBADF);
	expect_no_vcpu(rig->log, rig->machine.kvm_fd, -EBADF);
	expect_no_vcpu(rig->log, rig->machine.vm_fd, -EBADF);
	assert_int_equal(dl_vcpu_drain(NULL, 0), -EINVAL);
	assert_int_equal(dl_vcpu_stats(NULL, &stats), -EINVAL);
	assert_int_equal(dl_vcpu_stats(rig->vcpus[0].log, NULL), -EINVAL);
	assert_int_equal(dl_vcpu_stats(rig->vcpus[0].log, &stats), -EINVAL);
	dl_vcpu_remove(NULL);
	close(null);
	close(ends[0]);
	close(ends[1]);
}

/* A vCPU cannot have two handles. */
static void vcpu_cannot_be_added_twice(void **state)
{
	struct scene scene = scene_open(DL_MODE_RING);

	(void)state;
	expect_no_vcpu(scene.rig->log, scene.rig->machine.vcpus[0].fd, -EEXIST);
	rig_join(scene.rig, 0);
	expect_no_vcpu(scene.rig->log, scene.rig->machine.vcpus[0].fd, -EEXIST);
}

static void wrong_log_arguments(const struct scene *scene)
{
	struct dl_log *log = scene->rig->log;
	struct dl_stats stats = { .size = 8 };
	uint64_t value;
	char text[100];

	assert_int_equal(dl_harvest(NULL, 0, &value), -EINVAL);
	assert_int_equal(dl_log_fd(NULL), -EINVAL);
	assert_int_equal(dl_log_reap(NULL, 0, &value), -EINVAL);
	assert_int_equal(dl_log_reap(log, 1, &value), -EINVAL);
	assert_int_equal(dl_log_describe(NULL, text, sizeof(text)), -EINVAL);
	assert_int_equal(dl_log_stats(NULL, &stats), -EINVAL);
	assert_int_equal(dl_log_stats(log, NULL), -EINVAL);
	assert_int_equal(dl_log_stats(log, &stats), -EINVAL);
}

static void expect_no_cursor(struct dl_log *log, struct dl_cursor_options options, int expected)
{
	struct dl_cursor *cursor = (struct dl_cursor *)&options;

	assert_int_equal(dl_cursor_new(log, &options, &cursor), expected);
	assert_null(cursor);
}

static void wrong_cursors(const struct scene *scene)
{
	const struct dl_cursor_options good = { .size = sizeof(good), .flags = DL_CURSOR_CLEAN };
	struct dl_cursor_options options = good;
	struct dl_log *log = scene->rig->log;

	expect_no_cursor(NULL, good, -EINVAL);
	assert_int_equal(dl_cursor_new(log, &good, NULL), -EINVAL);
	options.size--;
	expect_no_cursor(log, options, -EINVAL);
	options = good, options.flags |= 1;
	expect_no_cursor(log, options, -EINVAL);
	options = good, options.flags |= DL_CURSOR_WANTED | DL_CURSOR_ONE_SLOT;
	expect_no_cursor(log, options, -EINVAL);
	options = good, options.flags |= DL_CURSOR_ONE_SLOT, options.slot = 9u << 16;
	expect_no_cursor(log, options, -EINVAL);
	options = good, options.vcpus = 2;
	if (scene->rig->log_config.mode == DL_MODE_RING)
		expect_no_cursor(log, options, -EBUSY);
}

static void wrong_takes(struct dl_cursor *cursor)
{
	uint64_t words[PAGES / 64] = { 0 }, bytes;

	assert_int_equal(dl_cursor_take(NULL, 0, 0, words, PAGES / 64, &bytes), -EINVAL);
	assert_int_equal(dl_cursor_take(cursor, 0, 0x80, words, PAGES / 64, &bytes), -EINVAL);
	assert_int_equal(dl_cursor_take(cursor, 0, DL_TAKE_PAUSED, words, PAGES / 64, &bytes),
			 -EINVAL);
	assert_int_equal(dl_cursor_take(cursor, 0, 0, words, PAGES / 64 - 1, &bytes), -EINVAL);
	assert_int_equal(dl_cursor_take(cursor, 0, 0, NULL, PAGES / 64, &bytes), -EINVAL);
	assert_int_equal(dl_cursor_take(cursor, 7, 0, words, PAGES / 64, &bytes), -ENOENT);
	for (int i = 0; i < PAGES / 64; i++)
		assert_int_equal(words[i], 0);
}

static void wrong_passes(const struct scene *scene)
{
	struct dl_cursor *cursor = scene->rig->checker.cursor;
	struct dl_extent run;

	assert_int_equal(dl_cursor_read(cursor, &run, 1), -EBUSY);
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
	assert_int_equal(dl_cursor_end(cursor, 1), -EINVAL);
	assert_int_equal(dl_harvest(cursor, 0x80, NULL), -EINVAL);
	wrong_takes(cursor);
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	assert_int_equal(dl_harvest(cursor, 0, NULL), -EBUSY);
	wrong_takes(cursor);
	assert_int_equal(dl_cursor_read(NULL, &run, 1), -EINVAL);
	assert_int_equal(dl_cursor_read(cursor, NULL, 1), -EINVAL);
	assert_int_equal(dl_cursor_read(cursor, &run, 0), -EINVAL);
	assert_int_equal(dl_cursor_ack(NULL, &run, 1), -EINVAL);
	assert_int_equal(dl_cursor_ack(cursor, NULL, 1), -EINVAL);
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
	assert_int_equal(dl_cursor_end(NULL, 0), -EINVAL);
	dl_cursor_free(NULL);
}

/* Without a cursor nothing is recorded, and nothing is an error. */
static void calls_while_not_logging(const struct scene *scene)
{
	struct dl_log *log = scene->rig->log;
	uint64_t value;

	assert_int_equal(dl_log_reap(log, DL_REAP_NOW, &value), 0);
	assert_true(value == UINT64_MAX);
	assert_int_equal(dl_mark_gpa(log, 0, scene->slot->gpa, 1), 0);
	assert_int_equal(dl_mark_slot(log, 0, 0, 1), 0);
	assert_int_equal(dl_mark_slot(log, 77, 0, 1), 0);
	assert_int_equal(dl_mark_hva(log, log, 1), 0);
	assert_int_equal(dl_slot_clear(log, 0, 0, scene->slot->bytes), 0);
	assert_int_equal(dl_slot_clear(log, 0, 1, scene->slot->bytes), -EINVAL);
	assert_int_equal(dl_slot_clear(log, 7, 0, 1), -ENOENT);
	assert_int_equal(dl_vcpu_drain(scene->rig->vcpus[0].log, 0), 0);
}

static void all_wrong_calls(const struct scene *scene)
{
	errno = ENOTTY;
	wrong_slots(scene);
	wrong_log_arguments(scene);
	wrong_cursors(scene);
	assert_int_equal(errno, ENOTTY);
	wrong_vcpus(scene);
}

static void migration_survives_wrong_calls(uint32_t mode)
{
	struct scene scene = scene_open(mode);
	struct rig *rig = scene.rig;

	all_wrong_calls(&scene);
	calls_while_not_logging(&scene);
	rig_join(rig, 0);
	rig_count_all(rig, scene.slot);
	for (int pass = 0; pass < 5; pass++) {
		all_wrong_calls(&scene);
		wrong_marks(&scene);
		wrong_passes(&scene);
		rig_passes(rig, 1);
	}
	rig_finish(rig);
	all_wrong_calls(&scene);
	wrong_marks(&scene);
	rig_leave(rig);
	all_wrong_calls(&scene);
	calls_while_not_logging(&scene);
}

static void ring_migration_survives_wrong_calls(void **state)
{
	(void)state;
	migration_survives_wrong_calls(DL_MODE_RING);
}

static void bitmap_migration_survives_wrong_calls(void **state)
{
	(void)state;
	migration_survives_wrong_calls(DL_MODE_BITMAP);
}

static void wrong_acks_are_refused(uint32_t mode)
{
	struct scene scene = scene_open(mode);
	struct dl_extent runs[2], run;
	struct dl_cursor *cursor;

	rig_join(scene.rig, 0);
	cursor = scene.rig->checker.cursor;
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	run = (struct dl_extent){
		.gpa = scene.slot->gpa,
		.hva = (uintptr_t)scene.slot->memory,
		.bytes = scene.slot->bytes,
	};
	assert_int_equal(dl_cursor_ack(cursor, &run, 1), -EINVAL);
	assert_int_equal(dl_cursor_read(cursor, runs, 1), 1);
	run = runs[0], run.bytes = 0;
	assert_int_equal(dl_cursor_ack(cursor, &run, 1), -EINVAL);
	run = runs[0], run.bytes -= 1;
	assert_int_equal(dl_cursor_ack(cursor, &run, 1), -EINVAL);
	run = runs[0], run.offset_bytes += scene.rig->page_bytes;
	assert_int_equal(dl_cursor_ack(cursor, &run, 1), -EINVAL);
	run = runs[0], run.bytes += scene.rig->page_bytes;
	assert_int_equal(dl_cursor_ack(cursor, &run, 1), -EINVAL);
	run = runs[0], run.ticket += UINT64_C(1) << 60;
	assert_int_equal(dl_cursor_ack(cursor, &run, 1), -EINVAL);
	/* All are checked before any is committed. */
	runs[1] = runs[0], runs[1].bytes += scene.rig->page_bytes;
	assert_int_equal(dl_cursor_ack(cursor, runs, 2), -EINVAL);
	run = runs[0], run.slot = 7, run.gpa = 0;
	assert_int_equal(dl_cursor_ack(cursor, &run, 1), 0);
	assert_int_equal(dl_cursor_ack(cursor, runs, 1), -EINVAL);
	assert_int_equal(dl_cursor_ack(cursor, runs, 0), 0);
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
	/* An acknowledgement for an earlier pass is ignored. */
	assert_int_equal(dl_cursor_ack(cursor, runs, 1), 0);
}

static void ring_wrong_acks_are_refused(void **state)
{
	(void)state;
	wrong_acks_are_refused(DL_MODE_RING);
}

static void bitmap_wrong_acks_are_refused(void **state)
{
	(void)state;
	wrong_acks_are_refused(DL_MODE_BITMAP);
}

static void description_is_truncated_to_the_buffer(void **state)
{
	struct scene scene = scene_open(DL_MODE_AUTO);
	char text[400], shorter[10];
	int length;

	(void)state;
	length = dl_log_describe(scene.rig->log, text, sizeof(text));
	assert_in_range(length, 1, sizeof(text) - 1);
	assert_int_equal(strlen(text), length);
	assert_int_equal(dl_log_describe(scene.rig->log, shorter, sizeof(shorter)), length);
	assert_int_equal(strlen(shorter), sizeof(shorter) - 1);
	assert_memory_equal(shorter, text, sizeof(shorter) - 1);
	assert_int_equal(dl_log_describe(scene.rig->log, NULL, 0), length);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(ring_migration_survives_wrong_calls),
		rig_test(bitmap_migration_survives_wrong_calls),
		rig_test(vcpu_cannot_be_added_twice),
		rig_test(ring_wrong_acks_are_refused),
		rig_test(bitmap_wrong_acks_are_refused),
		rig_test(description_is_truncated_to_the_buffer),
	};

	return rig_run_tests("arguments", tests);
}
