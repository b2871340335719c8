/* SPDX-License-Identifier: MIT */
#include "ways.h"

#include <stdio.h>
#include <stdlib.h>

#include "consumers.h"

enum { NAME_BYTES = 128 };

static const struct way ways[] = {
	{ "ring_user", DL_MODE_RING, GUEST_USER, 0 },
	{ "ring_kernel", DL_MODE_RING, GUEST_KERNEL, 0 },
	{ "initially_set_user", DL_MODE_BITMAP, GUEST_USER, 3 },
	{ "initially_set_kernel", DL_MODE_BITMAP, GUEST_KERNEL, 3 },
	{ "manual_protect_user", DL_MODE_BITMAP, GUEST_USER, 1 },
	{ "manual_protect_kernel", DL_MODE_BITMAP, GUEST_KERNEL, 1 },
	{ "cleared_by_get_user", DL_MODE_BITMAP, GUEST_USER, 0 },
	{ "cleared_by_get_kernel", DL_MODE_BITMAP, GUEST_KERNEL, 0 },
};

enum { WAYS = sizeof(ways) / sizeof(ways[0]) };

static struct spy spy; /* outlives a test that fails, as the rig does */

struct spy *ways_spy(void)
{
	return &spy;
}

bool way_has_rings(const struct way *way)
{
	return way->mode == DL_MODE_RING;
}

bool way_has_bitmap(const struct way *way)
{
	return way->mode == DL_MODE_BITMAP;
}

bool way_clears(const struct way *way)
{
	return way_has_bitmap(way) && way->manual_protect;
}

bool way_is_user(const struct way *way)
{
	return way->guest == GUEST_USER;
}

static void skip_unless_supported(const struct way *way, const struct rig *rig)
{
	int has = machine_capability(&rig->machine, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);

	if (way_has_bitmap(way) && (way->manual_protect & has) != way->manual_protect)
		rig_skip("this kernel's KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 is %d", has);
}

struct rig *way_rig_of(const struct way *way, unsigned int vcpus, uint32_t ring_entries)
{
	const struct rig_config config = {
		.guest = way->guest,
		.mode = way->mode,
		.ring_entries = ring_entries,
		.vcpus = vcpus,
		.spy = &spy,
	};
	struct rig *rig;

	spy_init(&spy);
	if (way_has_bitmap(way))
		spy_pretend(&spy, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, way->manual_protect);
	rig = rig_new(&config);
	skip_unless_supported(way, rig);
	return rig;
}

struct rig *way_rig(const struct way *way, unsigned int vcpus)
{
	return way_rig_of(way, vcpus, 0);
}

static int teardown(void **state)
{
	consumers_free();
	return rig_teardown(state);
}

int ways_run(const char *group, const struct way_test *tests, size_t count)
{
	struct CMUnitTest *all = calloc(count * WAYS, sizeof(*all));
	char(*names)[NAME_BYTES] = calloc(count * WAYS, sizeof(*names));
	size_t n = 0;
	int failures;

	if (!all || !names)
		abort();
	for (size_t i = 0; i < count * WAYS; i++) {
		const struct way_test *test = &tests[i / WAYS];
		const struct way *way = &ways[i % WAYS];

		if (test->concerns && !test->concerns(way))
			continue;
		snprintf(names[n], sizeof(names[n]), "%s_%s", way->name, test->name);
		all[n] = (struct CMUnitTest){
			.name = names[n],
			.test_func = test->run,
			.teardown_func = teardown,
			.initial_state = (void *)(uintptr_t)way,
		};
		n++;
	}
	failures = rig_run(group, all, n);
	free(names);
	free(all);
	return failures;
}
