/* SPDX-License-Identifier: MIT */
/*
 * Whole migrations in every mode: vCPUs write as fast as they can while passes run, the host writes
 * and marks, and at the end the copy equals the memory. --long runs more cases, with more passes.
 */
#include "rig.h"

#include <stdio.h>
#include <string.h>

enum {
	PAGES = 1100,	   /* more than a ring of 1024 entries holds */
	SMALL_PAGES = 100, /* not a multiple of 64 */
	FAST_PASSES = 4,
	LONG_PASSES = 10,
	MAX_CASES = 200,
};

enum bitmap_kind {
	NOT_PRETENDED,
	INITIALLY_SET,	/* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 with all its options */
	MANUAL_PROTECT, /* without KVM_DIRTY_LOG_INITIALLY_SET, like kernels before 5.7 */
	CLEARED_BY_GET, /* without manual protect, like kernels before 4.20 */
};

struct migration_case {
	char name[64];
	struct rig_config config;
	enum bitmap_kind bitmap;
	uint32_t start_flags;
};

static struct migration_case cases[MAX_CASES];
static struct CMUnitTest tests[MAX_CASES];
static size_t case_count;
static unsigned int passes = FAST_PASSES;
static struct spy spy; /* outlives a test that fails, as the rig does */

/* Checks that the library used the ioctls of this kind of bitmap. */
static void check_calls(const struct rig *rig, unsigned int resets_before, enum bitmap_kind bitmap)
{
	if (bitmap == NOT_PRETENDED)
		return;
	/* Where there are rings, the first cursor asks whether they are on. */
	assert_int_equal(spy.resets, resets_before + (rig->log_config.ring_max_entries != 0));
	assert_true(spy.gets > 0);
	if (bitmap == CLEARED_BY_GET)
		assert_int_equal(spy.clears, 0);
	else
		assert_true(spy.clears > 0);
}

static void pretend(enum bitmap_kind bitmap)
{
	int value = bitmap == INITIALLY_SET ? 3 : bitmap == MANUAL_PROTECT ? 1 : 0;

	spy_init(&spy);
	if (bitmap != NOT_PRETENDED)
		spy_pretend(&spy, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, value);
}

static void skip_unless_supported(const struct rig *rig, enum bitmap_kind bitmap)
{
	int has = machine_capability(&rig->machine, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);

	if (bitmap == INITIALLY_SET && !(has & 2))
		rig_skip("this kernel does not support KVM_DIRTY_LOG_INITIALLY_SET");
	if (bitmap == MANUAL_PROTECT && !(has & 1))
		rig_skip("this kernel does not support KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2");
}

/* A device writes to a page, then marks it. */
static void device_writes(struct rig *rig, const struct rig_slot *slot, unsigned int round)
{
	uint64_t page = (round * 37u) % (slot->bytes / rig->page_bytes);
	uint64_t offset = page * rig->page_bytes;

	memset(slot->memory + offset, (int)round, 8);
	assert_int_equal(dl_mark_gpa(rig->log, slot->slot >> 16, slot->gpa + offset + 1, 2), 0);
}

static void migrate(void **state)
{
	const struct migration_case *c = *state;
	struct rig_config config = c->config;
	struct rig_slot *slot, *small;
	unsigned int resets;
	struct rig *rig;

	pretend(c->bitmap);
	config.spy = c->bitmap == NOT_PRETENDED ? NULL : &spy;
	rig = rig_new(&config);
	skip_unless_supported(rig, c->bitmap);
	resets = spy.resets;
	slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	small = rig_slot(rig, 1, 8ull * GUEST_DATA_GPA, SMALL_PAGES);
	if (c->start_flags & DL_CURSOR_CLEAN)
		checker_equalize(&rig->checker);
	rig_join(rig, c->start_flags);
	rig_count_all(rig, slot);
	for (unsigned int pass = 0; pass < passes; pass++) {
		device_writes(rig, small, pass);
		rig_passes(rig, 1);
	}
	rig_finish(rig);
	/* Every page was written, and the last page of a round after each pass. */
	assert_true(slot->block->pages_sent >= PAGES);
	if (!c->start_flags)
		assert_true(slot->block->pages_sent >= PAGES + passes);
	check_calls(rig, resets, c->bitmap);
	rig_leave(rig);
}

static struct migration_case *add_case(const char *name)
{
	struct migration_case *c = &cases[case_count];

	if (case_count == MAX_CASES)
		return NULL;
	snprintf(c->name, sizeof(c->name), "%s", name);
	tests[case_count] = (struct CMUnitTest){
		.name = c->name,
		.test_func = migrate,
		.teardown_func = rig_teardown,
		.initial_state = c,
	};
	case_count++;
	return c;
}

/*
 * Adds the cases of one mode: both guests, 1, 2 and 4 vCPUs, dirty and clean start. The long run
 * makes all 12 of them; the fast run makes 4, which cover each of the values.
 */
static void add_cases(const char *mode_name, const struct migration_case *like)
{
	const unsigned int fast = 1 << 0 | 1 << 7 | 1 << 9 | 1 << 10;

	for (unsigned int i = 0; i < 12; i++) {
		const unsigned int vcpus = 1u << (i / 4);
		const enum guest_mode guest = i & 1 ? GUEST_KERNEL : GUEST_USER;
		const uint32_t start = i & 2 ? DL_CURSOR_CLEAN : 0;
		struct migration_case *c;
		char name[64];

		if (passes == FAST_PASSES && !(fast >> i & 1))
			continue;
		snprintf(name, sizeof(name), "%s_%s_guest_%u_vcpus_%s", mode_name,
			 guest == GUEST_USER ? "user" : "kernel", vcpus, start ? "clean" : "dirty");
		c = add_case(name);
		if (!c)
			return;
		c->config = like->config;
		c->config.guest = guest;
		c->config.vcpus = vcpus;
		c->bitmap = like->bitmap;
		c->start_flags = start;
	}
}

static void add_all_cases(void)
{
	static const uint32_t entries[] = { 256, 512, 1024, 4096, 65536 };
	static const char *const kinds[] = {
		[INITIALLY_SET] = "bitmap_initially_set",
		[MANUAL_PROTECT] = "bitmap_manual_protect",
		[CLEARED_BY_GET] = "bitmap_cleared_by_get",
	};
	struct migration_case like = { .config = { .mode = DL_MODE_AUTO } };

	add_cases("auto", &like);
	like.config.mode = DL_MODE_RING;
	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		char name[32];

		snprintf(name, sizeof(name), "ring_%u", entries[i]);
		like.config.ring_entries = entries[i];
		add_cases(name, &like);
	}
	like.config = (struct rig_config){ .mode = DL_MODE_BITMAP };
	for (like.bitmap = INITIALLY_SET; like.bitmap <= CLEARED_BY_GET; like.bitmap++)
		add_cases(kinds[like.bitmap], &like);
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--long"))
		passes = LONG_PASSES;
	add_all_cases();
	return rig_run("migrate", tests, case_count);
}
