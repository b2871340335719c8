/* SPDX-License-Identifier: MIT */
/* dl_mark_*(): pages that the VMM writes are reported like those of the guest. */
#include "rig.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

enum {
	PAGES = 300,
	SMALL_PAGES = 100,
};

/* Two slots side by side in guest memory, then a hole, then a third. */
struct scene {
	struct rig *rig;
	struct rig_slot *low, *high, *far;
};

static struct scene open_scene(uint32_t mode, struct spy *spy)
{
	const struct rig_config config = { .mode = mode, .vcpus = 1, .spy = spy };
	struct scene scene = { .rig = rig_new(&config) };
	const uint64_t page_bytes = scene.rig->page_bytes;

	scene.low = rig_slot(scene.rig, 4, GUEST_DATA_GPA, PAGES);
	scene.high = rig_slot(scene.rig, 2, GUEST_DATA_GPA + PAGES * page_bytes, SMALL_PAGES);
	scene.far = rig_slot(scene.rig, 9, GUEST_DATA_GPA + (PAGES + 2 * SMALL_PAGES) * page_bytes,
			     SMALL_PAGES);
	checker_equalize(&scene.rig->checker);
	rig_join(scene.rig, DL_CURSOR_CLEAN);
	return scene;
}

static uint64_t pending_pages(const struct scene *scene)
{
	return checker_pending(&scene->rig->checker) / scene->rig->page_bytes;
}

/* Marks a range, sends it, and returns the number of pages that became pending. */
static uint64_t mark(const struct scene *scene, uint64_t gpa, uint64_t bytes, int expected)
{
	uint64_t pages;

	assert_int_equal(dl_mark_gpa(scene->rig->log, 0, gpa, bytes), expected);
	pages = pending_pages(scene);
	rig_pass(scene->rig, 0);
	return pages;
}

static uint64_t slot_mark(const struct scene *scene, uint32_t slot, uint64_t offset, uint64_t bytes,
			  int expected)
{
	uint64_t pages;

	assert_int_equal(dl_mark_slot(scene->rig->log, slot, offset, bytes), expected);
	pages = pending_pages(scene);
	rig_pass(scene->rig, 0);
	return pages;
}

static void marks_cover_whole_pages(const struct scene *scene)
{
	const uint64_t page_bytes = scene->rig->page_bytes;
	const uint64_t gpa = scene->low->gpa;

	assert_int_equal(mark(scene, gpa, 1, 0), 1);
	assert_int_equal(mark(scene, gpa + page_bytes - 1, 1, 0), 1);
	assert_int_equal(mark(scene, gpa + page_bytes - 1, 2, 0), 2);
	assert_int_equal(mark(scene, gpa + 5, 3 * page_bytes, 0), 4);
	assert_int_equal(mark(scene, gpa, scene->low->bytes, 0), PAGES);
	assert_int_equal(mark(scene, gpa, 0, 0), 0);
	assert_int_equal(slot_mark(scene, 4, 63 * page_bytes, 2 * page_bytes, 0), 2);
	assert_int_equal(slot_mark(scene, 4, scene->low->bytes - 1, 1, 0), 1);
	assert_int_equal(slot_mark(scene, 4, 0, 0, 0), 0);
}

static void the_part_inside_a_slot_is_marked(const struct scene *scene)
{
	const uint64_t page_bytes = scene->rig->page_bytes;
	const uint64_t end = scene->high->gpa + scene->high->bytes;

	/* Across two adjacent slots. */
	assert_int_equal(mark(scene, scene->high->gpa - page_bytes, 2 * page_bytes, 0), 2);
	/* Partly outside of any slot: at either end, and in the middle. */
	assert_int_equal(mark(scene, end - page_bytes, 2 * page_bytes, -ENOENT), 1);
	assert_int_equal(mark(scene, GUEST_DATA_GPA - 1, 2, -ENOENT), 1);
	assert_int_equal(mark(scene, 0, 1ull << 36, -ENOENT), PAGES + 2 * SMALL_PAGES);
	assert_int_equal(mark(scene, end, page_bytes, -ENOENT), 0);
	assert_int_equal(mark(scene, end - 1, scene->far->gpa - end + 2, -ENOENT), 2);
	assert_int_equal(slot_mark(scene, 2, scene->high->bytes - 1, 2, -ENOENT), 1);
	assert_int_equal(slot_mark(scene, 2, scene->high->bytes, 1, -ENOENT), 0);
	assert_int_equal(slot_mark(scene, 77, 0, 1, -ENOENT), 0);
	assert_int_equal(mark(scene, UINT64_MAX, 2, -EINVAL), 0);
}

/* By pointers into the memory that the slots map, which lies apart from each other's. */
static void host_memory_is_marked(const struct scene *scene)
{
	struct dl_log *log = scene->rig->log;
	const uint64_t page_bytes = scene->rig->page_bytes;
	const struct iovec iov[] = {
		{ scene->far->memory + page_bytes - 1, 3 },
		{ scene->low->memory + 10 * page_bytes, 5 * page_bytes },
	};

	memset(scene->high->memory + 3 * page_bytes, 0x77, 2 * page_bytes);
	assert_int_equal(dl_mark_hva(log, scene->high->memory + 3 * page_bytes, 2 * page_bytes), 0);
	assert_int_equal(pending_pages(scene), 2);
	rig_pass(scene->rig, 0);
	assert_int_equal(dl_mark_hva(log, scene, sizeof(*scene)), -ENOENT);
	memset(iov[0].iov_base, 0x78, iov[0].iov_len);
	memset(iov[1].iov_base, 0x78, page_bytes);
	assert_int_equal(dl_mark_iov(log, iov, 2, 0, 3 + page_bytes), 0);
	assert_int_equal(pending_pages(scene), 3);
	rig_pass(scene->rig, 0);
	/* The rest of the vectors, in a second call; then more than they hold. */
	memset(scene->low->memory + 11 * page_bytes, 0x79, 4 * page_bytes);
	assert_int_equal(dl_mark_iov(log, iov, 2, 3 + page_bytes, 4 * page_bytes), 0);
	assert_int_equal(pending_pages(scene), 4);
	rig_pass(scene->rig, 0);
	assert_int_equal(dl_mark_iov(log, iov, 2, 3 + 4 * page_bytes, 4 * page_bytes), -ENOENT);
	assert_int_equal(pending_pages(scene), 1);
	rig_pass(scene->rig, 0);
}

static void marks_report_pages(uint32_t mode)
{
	struct scene scene = open_scene(mode, NULL);

	marks_cover_whole_pages(&scene);
	the_part_inside_a_slot_is_marked(&scene);
	host_memory_is_marked(&scene);
	rig_finish(scene.rig);
}

static void ring_marks_report_pages(void **state)
{
	(void)state;
	marks_report_pages(DL_MODE_RING);
}

static void bitmap_marks_report_pages(void **state)
{
	(void)state;
	marks_report_pages(DL_MODE_BITMAP);
}

static void unmarked_device_writes_are_not_reported(void **state)
{
	struct scene scene = open_scene(DL_MODE_AUTO, NULL);

	(void)state;
	memset(scene.low->memory, 0x77, scene.rig->page_bytes);
	rig_pass(scene.rig, DL_HARVEST_PAUSED);
	assert_int_equal(checker_differing_pages(&scene.rig->checker), 1);
	assert_int_equal(dl_mark_gpa(scene.rig->log, 0, scene.low->gpa, 1), 0);
	rig_finish(scene.rig);
}

/* Writes a byte of one page after the other, and marks it. */
static int device_step(struct worker *worker)
{
	const struct rig *rig = worker->opaque;
	const struct rig_slot *low = &rig->slots[0];
	unsigned int step = atomic_load(&worker->steps);
	uint64_t offset = step * 7 % PAGES * rig->page_bytes + worker->index;

	low->memory[offset]++;
	if (step % 3 == 1)
		return dl_mark_gpa(rig->log, 0, low->gpa + offset, 1);
	if (step % 3 == 2)
		return dl_mark_hva(rig->log, low->memory + offset, 1);
	return dl_mark_slot(rig->log, low->slot, offset, 1);
}

/* Device threads and vCPUs write to the same pages while passes run. */
static void devices_beside_vcpus(uint32_t mode)
{
	struct scene scene = open_scene(mode, NULL);

	rig_count_all(scene.rig, scene.low);
	rig_start_worker(scene.rig, 0, device_step);
	rig_start_worker(scene.rig, 1, device_step);
	for (int pass = 0; pass < 10; pass++) {
		rig_passes(scene.rig, 1);
		worker_wait(&scene.rig->workers[pass % 2], PAGES / 4);
	}
	rig_end_workers(scene.rig);
	rig_finish(scene.rig);
}

static void ring_devices_beside_vcpus(void **state)
{
	(void)state;
	devices_beside_vcpus(DL_MODE_RING);
}

static void bitmap_devices_beside_vcpus(void **state)
{
	(void)state;
	devices_beside_vcpus(DL_MODE_BITMAP);
}

/* The log of devices, as vhost has it: half a host page a bit, from the low slot on. */
static _Atomic uint64_t device_log[(2 * (PAGES + 2) + 63) / 64];

/* Writes a byte, then sets its bit. */
static int logging_device_step(struct worker *worker)
{
	const struct rig *rig = worker->opaque;
	const struct rig_slot *low = &rig->slots[0];
	uint64_t offset = atomic_load(&worker->steps) * 7 % PAGES * rig->page_bytes + worker->index;
	uint64_t bit = offset / (rig->page_bytes / 2);

	low->memory[offset]++;
	atomic_fetch_or_explicit(&device_log[bit / 64], UINT64_C(1) << bit % 64,
				 memory_order_release);
	return 0;
}

static uint64_t take_device_log(const struct scene *scene)
{
	const struct dl_bitmap bitmap = {
		.size = sizeof(bitmap),
		.flags = DL_BITMAP_TAKE,
		.gpa = scene->low->gpa,
		.bytes = PAGES * scene->rig->page_bytes,
		.page_bytes = scene->rig->page_bytes / 2,
	};
	uint64_t marked;

	assert_int_equal(dl_mark_bitmap(scene->rig->log, &bitmap, (uint64_t *)device_log,
					sizeof(device_log) / sizeof(device_log[0]), &marked),
			 0);
	return marked / scene->rig->page_bytes;
}

/*
 * Devices set bits of a log while it is taken. vCPUs write to another slot: their own writes would
 * hide a bit that is lost.
 */
static void logging_devices_beside_vcpus(uint32_t mode)
{
	struct scene scene = open_scene(mode, NULL);
	uint64_t taken = 0;

	memset((void *)device_log, 0, sizeof(device_log));
	rig_count_all(scene.rig, scene.high);
	rig_start_worker(scene.rig, 0, logging_device_step);
	rig_start_worker(scene.rig, 1, logging_device_step);
	for (int pass = 0; pass < 10; pass++) {
		taken += take_device_log(&scene);
		rig_passes(scene.rig, 1);
		worker_wait(&scene.rig->workers[pass % 2], PAGES / 4);
	}
	rig_end_workers(scene.rig);
	taken += take_device_log(&scene);
	assert_true(taken >= PAGES);
	rig_finish(scene.rig);
}

static void ring_logging_devices_beside_vcpus(void **state)
{
	(void)state;
	logging_devices_beside_vcpus(DL_MODE_RING);
}

static void bitmap_logging_devices_beside_vcpus(void **state)
{
	(void)state;
	logging_devices_beside_vcpus(DL_MODE_BITMAP);
}

/* A write whose bit nobody takes is not reported, and no bit is lost before a cursor exists. */
static void a_log_keeps_its_bits_until_a_cursor_exists(void **state)
{
	struct scene scene = open_scene(DL_MODE_AUTO, NULL);

	(void)state;
	memset((void *)device_log, 0, sizeof(device_log));
	rig_leave(scene.rig);
	memset(scene.low->memory + 3 * scene.rig->page_bytes, 0x77, 1);
	device_log[0] = 1 << 6;
	assert_int_equal(take_device_log(&scene), 0);
	assert_int_equal(device_log[0], 1 << 6);
	rig_join(scene.rig, DL_CURSOR_CLEAN);
	assert_int_equal(checker_differing_pages(&scene.rig->checker), 1);
	assert_int_equal(take_device_log(&scene), 1);
	assert_int_equal(device_log[0], 0);
	rig_finish(scene.rig);
}

/* Emulates a second address space: its ioctls succeed, and the kernel does not see them. */
static bool emulate_second_space(struct spy *spy, int fd, unsigned long request, void *arg,
				 int *result)
{
	const struct kvm_userspace_memory_region *region = arg;
	const struct kvm_dirty_log *log = arg;

	(void)spy;
	(void)fd;
	*result = 0;
	if (request == KVM_SET_USER_MEMORY_REGION)
		return region->slot >> 16 == 1;
	if (request != KVM_GET_DIRTY_LOG || log->slot >> 16 != 1)
		return false;
	memset(log->dirty_bitmap, 0, (SMALL_PAGES + 63) / 64 * 8);
	return true;
}

/*
 * Hazard 13 of doc/kernel.md: two address spaces with the same guest addresses and slot numbers.
 * The second one is emulated, so that this runs on every kernel.
 */
static void marks_reach_the_right_address_space(void **state)
{
	static struct spy spy; /* outlives a test that fails, as the rig does */
	struct scene scene;
	struct rig_slot *smm;
	uint64_t sent;

	(void)state;
	spy_init(&spy);
	spy_pretend(&spy, KVM_CAP_MULTI_ADDRESS_SPACE, 2);
	spy.intercept = emulate_second_space;
	scene = open_scene(DL_MODE_RING, &spy);
	smm = rig_memory(scene.rig, 1u << 16 | 4, scene.low->gpa, SMALL_PAGES);
	assert_int_equal(rig_slot_set(scene.rig, smm, 0, 0), 0);
	rig_pass(scene.rig, 0); /* a new slot is wholly pending */
	assert_int_equal(smm->block->pages_sent, SMALL_PAGES);
	memset(smm->memory, 1, scene.rig->page_bytes);
	sent = scene.low->block->pages_sent;
	assert_int_equal(dl_mark_gpa(scene.rig->log, 1, smm->gpa, 1), 0);
	rig_pass(scene.rig, 0);
	assert_int_equal(smm->block->pages_sent, SMALL_PAGES + 1);
	assert_int_equal(scene.low->block->pages_sent, sent);
	memset(scene.low->memory, 1, scene.rig->page_bytes);
	assert_int_equal(dl_mark_slot(scene.rig->log, 4, 0, 1), 0);
	assert_int_equal(dl_mark_gpa(scene.rig->log, 1, scene.high->gpa, 1), -ENOENT);
	rig_pass(scene.rig, 0);
	assert_int_equal(scene.low->block->pages_sent, sent + 1);
	assert_int_equal(smm->block->pages_sent, SMALL_PAGES + 1);
	rig_finish(scene.rig);
}

/* Memory that is mapped in two address spaces is sent once after a start, not twice. */
static void an_alias_is_sent_once(void **state)
{
	static struct spy spy;
	struct rig_slot alias;
	struct scene scene;
	uint64_t sent;

	(void)state;
	spy_init(&spy);
	spy_pretend(&spy, KVM_CAP_MULTI_ADDRESS_SPACE, 2);
	spy.intercept = emulate_second_space;
	scene = open_scene(DL_MODE_RING, &spy);
	rig_leave(scene.rig);
	alias = *scene.high;
	alias.slot |= 1u << 16;
	assert_int_equal(rig_slot_set(scene.rig, &alias, 0, 0), 0);
	rig_join(scene.rig, 0);
	sent = scene.high->block->pages_sent;
	rig_pass(scene.rig, 0);
	assert_int_equal(scene.high->block->pages_sent, sent + SMALL_PAGES);
	/* A mark through the alias reports the page, too. */
	memset(scene.high->memory, 1, 1);
	assert_int_equal(dl_mark_gpa(scene.rig->log, 1, alias.gpa, 1), 0);
	assert_int_equal(pending_pages(&scene), 1);
	rig_pass(scene.rig, 0);
	/* A mark by host address is one in each of the two slots. */
	memset(scene.high->memory, 2, 1);
	assert_int_equal(dl_mark_hva(scene.rig->log, scene.high->memory, 1), 0);
	assert_int_equal(pending_pages(&scene), 2);
	rig_finish(scene.rig);
}

/* Hazard 13 of doc/kernel.md: entries of a vCPU in the second address space carry as_id 1. */
static void entries_reach_the_right_address_space(void **state)
{
	struct scene scene = open_scene(DL_MODE_RING, NULL);
	struct rig *rig = scene.rig;
	struct rig_slot *smm;
	struct rig_range range;

	(void)state;
	if (machine_capability(&rig->machine, KVM_CAP_MULTI_ADDRESS_SPACE) < 2)
		rig_skip("this kernel supports only one address space");
	smm = rig_memory(rig, 1u << 16 | 4, scene.low->gpa, SMALL_PAGES);
	assert_int_equal(rig_slot_set(rig, smm, 0, 0), 0);
	assert_int_equal(machine_set_region(&rig->machine, 1u << 16 | MACHINE_GUEST_SLOT, 0, 0,
					    GUEST_SLOT_BYTES, rig->machine.guest_memory),
			 0);
	rig_pass(rig, 0);
	if (guest_enter_second_space(rig->vcpus[0].machine->fd) < 0)
		rig_skip("this kernel does not let a vCPU enter the second address space");
	range = (struct rig_range){ .slot = smm, .pages = SMALL_PAGES };
	for (uint64_t round = 0; round < 4; round++) {
		uint64_t low = scene.low->block->pages_sent, sent = smm->block->pages_sent;

		rig_write(rig, 0, &range, round);
		rig_pass(rig, 0);
		assert_true(smm->block->pages_sent >= sent + SMALL_PAGES);
		assert_int_equal(scene.low->block->pages_sent, low);
	}
	rig_finish(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(ring_marks_report_pages),
		rig_test(bitmap_marks_report_pages),
		rig_test(unmarked_device_writes_are_not_reported),
		rig_test(ring_devices_beside_vcpus),
		rig_test(bitmap_devices_beside_vcpus),
		rig_test(ring_logging_devices_beside_vcpus),
		rig_test(bitmap_logging_devices_beside_vcpus),
		rig_test(a_log_keeps_its_bits_until_a_cursor_exists),
		rig_test(marks_reach_the_right_address_space),
		rig_test(an_alias_is_sent_once),
		rig_test(entries_reach_the_right_address_space),
	};

	return rig_run_tests("marks", tests);
}
