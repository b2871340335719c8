/* SPDX-License-Identifier: MIT */
/*
 * The reaper's descriptor on a real kernel: polled by a thread beside passes, and in step with the
 * guest, so that no result depends on how fast this machine is.
 */
#include "rig.h"

#include <errno.h>
#include <poll.h>

enum {
	ENTRIES = 1024,
	ROOM = 448,  /* a vCPU does not exit with fewer entries, not even with PML */
	CHUNK = 180, /* two and an eighth more fit */
	CHUNKS = 10,
	PAGES = CHUNK * CHUNKS,
	/* Virtual time. */
	MILLISECOND = 1000000,
	SECOND = 1000 * MILLISECOND,
};

static struct rig *ring_rig(enum guest_mode guest, unsigned int vcpus, struct spy *spy)
{
	const struct rig_config config = {
		.guest = guest,
		.mode = DL_MODE_RING,
		.ring_entries = ENTRIES,
		.vcpus = vcpus,
		.spy = spy,
	};

	return rig_new(&config);
}

/* True if the descriptor becomes readable within that time. */
static bool is_readable(const struct rig *rig, int timeout_ms)
{
	struct pollfd poll_fd = { .fd = dl_log_fd(rig->log), .events = POLLIN };
	int r;

	assert_true(poll_fd.fd >= 0);
	do
		r = poll(&poll_fd, 1, timeout_ms);
	while (r < 0 && errno == EINTR);
	assert_true(r >= 0);
	return r;
}

/* Writes so much between two looks that a ring which is not emptied is full at the third. */
static unsigned long long full_exits_in_step(bool reaping)
{
	struct rig *rig = ring_rig(GUEST_USER, 1, NULL);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	unsigned long long full_exits;

	rig_join(rig, 0);
	for (uint64_t i = 0; i < 5 * CHUNKS; i++) {
		struct rig_range range = { .slot = slot,
					   .first_page = i % CHUNKS * CHUNK,
					   .pages = CHUNK };

		rig_write(rig, 0, &range, i + 1);
		if (!reaping)
			continue;
		assert_true(is_readable(rig, -1));
		assert_int_equal(dl_log_reap(rig->log, 0, NULL), 0);
	}
	full_exits = rig->vcpus[0].machine->full_exits;
	assert_true(!reaping || rig_stats(rig).resets <= 5 * CHUNKS / 2);
	rig_finish(rig);
	rig_free(rig);
	return full_exits;
}

static void a_ring_that_is_reaped_in_time_never_fills(void **state)
{
	(void)state;
	assert_int_equal(full_exits_in_step(true), 0);
	assert_true(full_exits_in_step(false) > 5 * PAGES / ENTRIES);
}

/* Time passes only when the descriptor is waited for, which then takes no time. */
static struct {
	uint64_t now_ns, interval_ns;
} virtual;

static uint64_t virtual_now_ns(void *opaque)
{
	(void)opaque;
	return virtual.now_ns;
}

static int virtual_timer_set(void *opaque, int fd, uint64_t from_now_ns)
{
	virtual.interval_ns = from_now_ns;
	return dl_os_system()->timer_set(opaque, fd, from_now_ns ? 1 : 0);
}

static void make_virtual(struct spy *spy)
{
	virtual.now_ns = SECOND;
	spy_init(spy);
	spy->os.now_ns = virtual_now_ns;
	spy->os.timer_set = virtual_timer_set;
}

/* Serves the descriptor for that long. Returns how often it was readable. */
static unsigned int serve(struct rig *rig, uint64_t ns)
{
	uint64_t until_ns = virtual.now_ns + ns;
	unsigned int wakeups = 0;

	for (; virtual.now_ns < until_ns; wakeups++) {
		assert_true(is_readable(rig, -1));
		virtual.now_ns += virtual.interval_ns;
		assert_int_equal(dl_log_reap(rig->log, 0, NULL), 0);
	}
	return wakeups;
}

/* Ten times a second, although the pages that it wrote are in its ring. */
static void an_idle_guest_wakes_the_reaper_seldom(void **state)
{
	static struct spy spy; /* outlives a test that fails, as the rig does */
	struct rig *rig;
	struct rig_slot *slot;
	struct rig_range range;
	unsigned int resets;

	(void)state;
	make_virtual(&spy);
	rig = ring_rig(GUEST_USER, 2, &spy);
	slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	range = (struct rig_range){ .slot = slot, .pages = 50 };
	rig_join(rig, 0);
	rig_write(rig, 0, &range, 1);
	resets = spy.resets;
	assert_in_range(serve(rig, SECOND), 1, 20);
	assert_in_range(serve(rig, 10 * (uint64_t)SECOND), 99, 101);
	assert_int_equal(spy.resets, resets);
	/* It comes back soon when the guest does something. */
	range.first_page = 100;
	rig_write(rig, 1, &range, 2);
	serve(rig, 1);
	assert_int_equal(virtual.interval_ns, MILLISECOND);
	rig_finish(rig);
	rig_leave(rig);
	assert_false(is_readable(rig, 0));
	assert_int_equal(virtual.interval_ns, 0);
}

static int reaper_step(struct worker *worker)
{
	struct rig *rig = worker->opaque;
	struct pollfd poll_fd = { .fd = dl_log_fd(rig->log), .events = POLLIN };

	/* The timeout only lets the worker end. */
	return poll(&poll_fd, 1, 20) > 0 ? dl_log_reap(rig->log, 0, NULL) : 0;
}

/* The passes and the reaper share the rings; no page may be lost between them. */
static void reap_beside_passes(enum guest_mode guest)
{
	struct rig *rig = ring_rig(guest, 2, NULL);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct dl_stats stats;

	rig_join(rig, 0);
	rig_start_worker(rig, 0, reaper_step);
	rig_count_all(rig, slot);
	for (int pass = 0; pass < 5; pass++) {
		worker_wait(&rig->workers[0], 5);
		rig_passes(rig, 1);
	}
	/* The reaper goes on during the final pass. */
	rig_finish(rig);
	rig_end_workers(rig);
	stats = rig_stats(rig);
	print_message("%llu entries, %llu full exits, %llu overflows\n",
		      (unsigned long long)stats.entries, (unsigned long long)stats.full_exits,
		      (unsigned long long)stats.overflows);
}

static void a_reaper_beside_passes_loses_no_page_user_guest(void **state)
{
	(void)state;
	reap_beside_passes(GUEST_USER);
}

static void a_reaper_beside_passes_loses_no_page_kernel_guest(void **state)
{
	(void)state;
	reap_beside_passes(GUEST_KERNEL);
}

static void in_bitmap_mode_the_descriptor_is_silent(void **state)
{
	const struct rig_config config = { .mode = DL_MODE_BITMAP, .vcpus = 1 };
	struct rig *rig = rig_new(&config);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = { .slot = slot, .pages = PAGES };
	uint64_t again_ns = 0;

	(void)state;
	rig_join(rig, 0);
	rig_write(rig, 0, &range, 1);
	assert_int_equal(dl_log_reap(rig->log, DL_REAP_NOW, &again_ns), 0);
	assert_true(again_ns == UINT64_MAX);
	assert_false(is_readable(rig, 0));
	rig_finish(rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(a_ring_that_is_reaped_in_time_never_fills),
		rig_test(an_idle_guest_wakes_the_reaper_seldom),
		rig_test(a_reaper_beside_passes_loses_no_page_user_guest),
		rig_test(a_reaper_beside_passes_loses_no_page_kernel_guest),
		rig_test(in_bitmap_mode_the_descriptor_is_silent),
	};

	return rig_run_tests("reap", tests);
}
