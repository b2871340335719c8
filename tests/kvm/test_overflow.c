/* SPDX-License-Identifier: MIT */
/*
 * Rings that overflow (hazard 25 of doc/kernel.md). On hosts that emulate kernel-mode guests in
 * batches, a vCPU may push past the end of a nearly full ring: entries are lost, kernel and library
 * disagree about the indices, and pages stay writable without being logged. On other hosts these
 * tests are ordinary migrations.
 */
#include "rig.h"

#include <unistd.h>

enum {
	AREA_PAGES = 3000,
	CANARY_PAGES = 200,
	ROUNDS = 10,
};

struct scene {
	struct rig *rig;
	struct rig_slot *canary; /* written in user mode, natively: missed unless protected */
	struct rig_slot *area;	 /* written in kernel mode, to overflow the ring */
};

static struct scene open_scene(uint32_t entries, unsigned int vcpus, struct spy *spy)
{
	const struct rig_config config = {
		.mode = DL_MODE_RING,
		.guest = GUEST_KERNEL,
		.vcpus = vcpus,
		.ring_entries = entries,
		.spy = spy,
	};
	struct scene scene = { .rig = rig_new(&config) };

	scene.canary = rig_slot(scene.rig, 0, GUEST_DATA_GPA, CANARY_PAGES);
	scene.area = rig_slot(scene.rig, 1, 4ull * GUEST_DATA_GPA, AREA_PAGES);
	return scene;
}

static struct rig_range whole(const struct rig *rig, const struct rig_slot *slot)
{
	return (struct rig_range){ .slot = slot, .pages = slot->bytes / rig->page_bytes };
}

static void write_canary(const struct scene *scene, unsigned int vcpu, uint64_t value)
{
	struct rig_range range = whole(scene->rig, scene->canary);

	rig_write_mode(scene->rig, vcpu, &range, value, GUEST_USER);
}

static void write_area(const struct scene *scene, unsigned int vcpu, uint64_t value)
{
	struct rig_range range = whole(scene->rig, scene->area);

	rig_write_mode(scene->rig, vcpu, &range, value, GUEST_KERNEL);
}

static void expect_equal(const struct scene *scene)
{
	checker_expect_equal(&scene->rig->checker);
}

/* After a recovery, native writes must be reported every time. */
static void pages_are_protected_after_an_overflow(void **state)
{
	struct scene scene = open_scene(1024, 1, NULL);
	struct rig *rig = scene.rig;
	uint64_t value = 1;

	(void)state;
	rig_join(rig, 0);
	rig_pass(rig, 0);
	for (int round = 0; round < ROUNDS; round++) {
		/* These entries are still in the ring when it overflows. */
		write_canary(&scene, 0, value++);
		write_area(&scene, 0, value++);
		rig_pass(rig, 0);
		rig_pass(rig, 0);
		expect_equal(&scene);
		for (int again = 0; again < 2; again++) {
			write_canary(&scene, 0, value++);
			rig_pass(rig, 0);
			expect_equal(&scene);
		}
	}
	rig_finish(rig);
}

/* The vCPU must get back into the guest after each overflow, with every ring size. */
static void recovery_lets_the_vcpu_run(void **state)
{
	static const uint32_t entries[] = { 256, 512, 1024, 2048, 4096 };

	(void)state;
	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		struct scene scene;
		uint64_t value = 1;

		if (entries[i] * sizeof(struct kvm_dirty_gfn) < (size_t)sysconf(_SC_PAGESIZE))
			continue;
		scene = open_scene(entries[i], 1, NULL);
		rig_join(scene.rig, 0);
		for (int round = 0; round < ROUNDS; round++) {
			/* Vary the number of overflows before the harvest. */
			for (int writes = 0; writes <= round % 4; writes++)
				write_area(&scene, 0, value++);
			rig_pass(scene.rig, 0);
		}
		write_canary(&scene, 0, value);
		rig_finish(scene.rig);
		rig_free(scene.rig);
	}
}

/* One vCPU overflows its ring, the other writes natively and never does. */
static void overflow_does_not_affect_other_rings(void **state)
{
	struct scene scene = open_scene(256, 2, NULL);
	struct rig *rig = scene.rig;
	struct rig_range range = whole(rig, scene.area);
	struct dl_stats healthy = { .size = sizeof(healthy) };
	uint64_t value = 1;

	(void)state;
	rig_join(rig, 0);
	rig_count(rig, 0, &range);
	for (int round = 0; round < ROUNDS; round++) {
		write_canary(&scene, 1, value++);
		rig_passes(rig, 1);
	}
	rig_stop(rig);
	rig_pass(rig, 0);
	write_canary(&scene, 1, value++);
	rig_finish(rig);
	assert_int_equal(dl_vcpu_stats(rig->vcpus[1].log, &healthy), 0);
	assert_int_equal(healthy.overflows, 0);
}

/* A final pass while a ring is out of sync loses no page. */
static void final_pass_during_an_overflow_loses_no_page(void **state)
{
	struct scene scene = open_scene(256, 2, NULL);
	struct rig *rig = scene.rig;

	(void)state;
	rig_join(rig, 0);
	rig_count_all(rig, scene.area);
	for (int round = 0; round < ROUNDS; round++) {
		rig_wait_rounds(rig, 0, 1);
		rig_finish(rig);
		/* As if the destination had failed: the guest resumes here. */
		rig_resume(rig);
	}
	rig_passes(rig, 2);
	rig_finish(rig);
}

/* Swallows the ioctls that protect all pages again: the log flag off, then on. */
static bool without_reprotection(struct spy *spy, int fd, unsigned long request, void *arg,
				 int *result)
{
	(void)spy;
	(void)fd;
	(void)arg;
	*result = 0;
	return request == KVM_SET_USER_MEMORY_REGION;
}

/* Proves that the first test above can fail: marking every page is not enough. */
static void without_reprotection_pages_are_lost(void **state)
{
	static struct spy spy; /* outlives a test that fails, as the rig does */
	struct scene scene;
	uint64_t value = 1, differing = 0;

	(void)state;
	spy_init(&spy);
	scene = open_scene(1024, 1, &spy);
	rig_join(scene.rig, 0);
	spy.intercept = without_reprotection;
	rig_pass(scene.rig, 0);
	for (int round = 0; round < 20 * ROUNDS && !differing; round++) {
		write_canary(&scene, 0, value++);
		write_area(&scene, 0, value++);
		rig_pass(scene.rig, 0);
		rig_pass(scene.rig, 0);
		if (!rig_stats(scene.rig).overflows)
			rig_skip("rings do not overflow on this host");
		write_canary(&scene, 0, value++);
		rig_pass(scene.rig, 0);
		differing = checker_differing_pages(&scene.rig->checker);
		if (round == ROUNDS && !rig_stats(scene.rig).overflows)
			rig_skip("rings do not overflow on this host");
	}
	assert_true(differing > 0);
}

/* Tells whether rings overflow on this host, that is, how much the other tests prove. */
static void overflows_are_detected(void **state)
{
	struct scene scene = open_scene(256, 1, NULL);
	struct rig *rig = scene.rig;
	uint64_t entries;

	(void)state;
	rig_join(rig, DL_CURSOR_CLEAN);
	write_area(&scene, 0, 1);
	(void)rig_harvest(rig, 0);
	entries = rig_stats(rig).entries;
	if (entries >= AREA_PAGES && !rig_stats(rig).overflows)
		rig_skip("rings do not overflow on this host");
	assert_true(rig_stats(rig).overflows > 0);
	assert_int_equal(checker_pending(&rig->checker),
			 (AREA_PAGES + CANARY_PAGES) * rig->page_bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(pages_are_protected_after_an_overflow),
		rig_test(recovery_lets_the_vcpu_run),
		rig_test(overflow_does_not_affect_other_rings),
		rig_test(final_pass_during_an_overflow_loses_no_page),
		rig_test(without_reprotection_pages_are_lost),
		rig_test(overflows_are_detected),
	};

	return rig_run_tests("overflow", tests);
}
