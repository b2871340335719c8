/* SPDX-License-Identifier: MIT */
/*
 * A guest that does nothing, whose display is logged for ever: how often the log's descriptor wakes
 * the VMM. Each look sets the timer once, so the settings are counted, on a clock that only the
 * test moves.
 */
#include "../unit/cmocka_all.h"
#include "vmm.h"

#include <string.h>

#define SECOND UINT64_C(1000000000)

enum { MOST_A_SECOND = 10 };

static struct vmm vmm;
static struct dl_os os;
static unsigned long timer_sets, resets;
static int fd;

static int count_timer_set(void *opaque, int timer, uint64_t from_now_ns)
{
	timer_sets++;
	return model_os(opaque)->timer_set(opaque, timer, from_now_ns);
}

static int count_resets(void *opaque, int of, unsigned long request, void *arg)
{
	resets += request == KVM_RESET_DIRTY_RINGS;
	return model_os(opaque)->ioctl(opaque, of, request, arg);
}

/* The model is made by vmm_open(), and its table with it: a table of the same functions. */
static void override(struct model *model)
{
	os = *model_os(model);
	os.timer_set = count_timer_set;
	os.ioctl = count_resets;
}

static void open_with_counters(struct hv *hv, const struct model_options *options)
{
	hv_model.open(hv, options);
	override(hv->below);
	hv->os = &os;
}

static void open_vmm(bool shared)
{
	static struct hv_backend counting;
	const struct vmm_config config = {
		.backend = &counting,
		.model = { .virtual_clock = true },
		.mode = DL_MODE_RING,
		.shared = shared,
	};

	counting = hv_model;
	counting.open = open_with_counters;
	vmm_open(&vmm, &config);
	/* Only the display is left. */
	if (!shared) {
		dl_cursor_free(vmm.code.consumer.cursor);
		vmm.code.consumer.cursor = NULL;
	}
	fd = dl_log_fd(vmm.log);
	assert_true(fd >= 0);
}

/* The VMM's event loop, for one second of the clock. Returns how often it was woken. */
static unsigned long serve_for_a_second(void (*guest)(void))
{
	uint64_t left_ns = SECOND, wait_ns;
	unsigned long wakeups = 0;

	while ((wait_ns = model_timer_left(vmm.hv.below, fd)) <= left_ns) {
		model_advance(vmm.hv.below, wait_ns);
		left_ns -= wait_ns;
		if (guest)
			guest();
		assert_int_equal(dl_log_reap(vmm.log, 0, NULL), 0);
		wakeups++;
	}
	model_advance(vmm.hv.below, left_ns);
	return wakeups;
}

static int teardown(void **state)
{
	vmm_close(&vmm);
	return 0;
}

static void write_a_page(void)
{
	vmm_script_store(&vmm, 0, BAR_AT + MARKED_PAGE);
	/* The next store is logged again. */
	vmm_lock(&vmm);
	vmm_mirror_refresh(&vmm, &vmm.display);
	vmm_unlock(&vmm);
}

/* The interval has grown to the longest after a fraction of the first second. */
static void expect_rest(void)
{
	serve_for_a_second(NULL);
	for (int second = 0; second < 60; second++) {
		unsigned long sets = timer_sets, wakeups;

		resets = 0;
		wakeups = serve_for_a_second(NULL);
		assert_in_range(wakeups, 1, MOST_A_SECOND);
		assert_int_equal(timer_sets - sets, wakeups);
		assert_int_equal(resets, 0);
	}
}

static void an_idle_guest_is_looked_at_ten_times_a_second(void **state)
{
	open_vmm(false);
	expect_rest();
}

static void it_is_so_with_a_shared_cursor(void **state)
{
	open_vmm(true);
	expect_rest();
}

static void it_is_so_again_after_a_migration(void **state)
{
	open_vmm(false);
	for (int migration = 0; migration < 2; migration++) {
		vmm_migrate_start(&vmm);
		vmm_run(&vmm, 4);
		serve_for_a_second(write_a_page);
		vmm_migrate_round(&vmm);
		vmm_migrate_last(&vmm);
		assert_int_equal(vmm_differing_pages(&vmm), 0);
		vmm_migrate_end(&vmm);
		vmm_resume(&vmm);
		expect_rest();
	}
}

/* Shows that the count counts: a guest that writes is looked at much more often. */
static void a_guest_that_writes_is_looked_at_more_often(void **state)
{
	open_vmm(false);
	serve_for_a_second(NULL);
	assert_true(serve_for_a_second(write_a_page) > 10UL * MOST_A_SECOND);
	expect_rest();
}

static void a_guest_that_nobody_logs_wakes_nobody(void **state)
{
	unsigned long sets;

	open_vmm(false);
	serve_for_a_second(NULL);
	dl_cursor_free(vmm.display.consumer.cursor);
	vmm.display.consumer.cursor = NULL;
	sets = timer_sets;
	assert_int_equal(serve_for_a_second(NULL), 0);
	assert_int_equal(timer_sets, sets);
}

#define idle_test(f) cmocka_unit_test_teardown(f, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		idle_test(an_idle_guest_is_looked_at_ten_times_a_second),
		idle_test(it_is_so_with_a_shared_cursor),
		idle_test(it_is_so_again_after_a_migration),
		idle_test(a_guest_that_writes_is_looked_at_more_often),
		idle_test(a_guest_that_nobody_logs_wakes_nobody),
	};

	return RUN_TESTS("vmm idle", tests);
}
