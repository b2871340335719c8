/* SPDX-License-Identifier: MIT */
/*
 * Drains and harvests by several threads at once. Each vCPU writes the pages of a slot of its own,
 * each page once per round; its thread drains when the ring is full and harvests now and then, and
 * other threads harvest all the time. A harvest may leave a ring to the thread that holds it, or
 * skip it as quiet, but when it returns, every page written before it began must be pending. Each
 * vCPU's thread checks that for its own pages and with a cursor of its own, which covers its slot
 * alone or all slots. A round ends with a pass of each cursor that must find every page.
 *
 * Within a round the threads share only the library and the model kernel.
 */
#include "cmocka_all.h"
#include "guest.h"
#include "log.h"
#include "pages/view.h"
#include "random.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { VCPUS = 4, HARVESTERS = 2, PAGES = 1000, RING_ENTRIES = 256 };

static unsigned int rounds = 10;

/* Average writes of a vCPU per harvest and per drain; harvests of the others per round. */
static unsigned int writes_a_harvest, writes_a_drain, harvests_a_round;
/* After an overflow, pages that were not written are pending too. */
static bool overflows;
/* Every cursor covers every slot, so pages reach them by way of the slots' fresh sets. */
static bool shared;
static struct guest guest;

static struct vcpu {
	pthread_t thread;
	unsigned int number;
	struct dl_cursor *cursor;
	struct dli_view *view; /* of the own slot, as the own cursor sees it */
	struct random random;
	uint64_t value; /* last one stored */
	unsigned long harvests;
} vcpus[VCPUS];

/* They have no slot of their own: they only empty the rings. */
static struct harvester {
	pthread_t thread;
	struct dl_cursor *cursor;
	unsigned long harvests;
} harvesters[HARVESTERS];

/* Per-round counters that keep the threads in step. Relaxed: they must not order the threads. */
static atomic_uint vcpus_at_work;
static atomic_ulong writes, harvests;

static unsigned long get(const atomic_ulong *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static void count(atomic_ulong *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static bool is_over(void)
{
	return !atomic_load_explicit(&vcpus_at_work, memory_order_relaxed);
}

/* Harvests that there should be by now. */
static unsigned long harvests_due(void)
{
	return get(&writes) * harvests_a_round / (VCPUS * PAGES);
}

static void die(const char *what, unsigned long is, unsigned long should)
{
	print_error("%s: %lu, expected %lu\n", what, is, should);
	abort();
}

static void harvest(struct dl_cursor *cursor)
{
	int r = dl_harvest(cursor, 0, NULL);

	if (r)
		die("dl_harvest", (unsigned long)-r, 0);
}

static void end(struct dl_cursor *cursor)
{
	int r = dl_cursor_end(cursor, 0);

	if (r)
		die("dl_cursor_end", (unsigned long)-r, 0);
}

/* Only this vCPU's writes make pages of its slot pending, and none are claimed during a round. */
static void harvest_and_check(struct vcpu *vcpu, unsigned long written)
{
	unsigned long pending;

	harvest(vcpu->cursor);
	vcpu->harvests++;
	pending = dli_view_pending_pages(vcpu->view);
	end(vcpu->cursor);
	if (pending < written || (pending > written && !overflows))
		die("pending after a harvest", pending, written);
}

static void drain(const struct vcpu *vcpu)
{
	int r = dl_vcpu_drain(guest.vcpus[vcpu->number].handle, 0);

	if (r)
		die("dl_vcpu_drain", (unsigned long)-r, 0);
}

static void write_page(struct vcpu *vcpu, uint64_t page)
{
	int fd = guest.vcpus[vcpu->number].fd;
	uint64_t gpa = (vcpu->number * PAGES + page) * guest.page_bytes, value = ++vcpu->value;

	for (int exits = 0; exits < GUEST_MAX_EXITS; exits++) {
		int r = model_vcpu_write(guest.model, fd, 0, gpa, &value, sizeof(value));

		if (!r)
			return;
		if (r != KVM_EXIT_DIRTY_RING_FULL)
			die("a guest's store", (unsigned long)r, 0);
		drain(vcpu);
	}
	die("full exits of one store", GUEST_MAX_EXITS, 1);
}

static void *run_vcpu(void *opaque)
{
	struct vcpu *vcpu = opaque;
	/* Coprime with PAGES: another order in each round, and rarely neighbouring pages. */
	unsigned long step = 7 + 10 * random_below(&vcpu->random, 90);

	for (unsigned long i = 0; i < PAGES; i++) {
		write_page(vcpu, i * step % PAGES);
		count(&writes);
		if (!random_below(&vcpu->random, writes_a_drain))
			drain(vcpu);
		while (get(&harvests) < harvests_due())
			sched_yield();
		if (!random_below(&vcpu->random, writes_a_harvest))
			harvest_and_check(vcpu, i + 1);
	}
	harvest_and_check(vcpu, PAGES);
	atomic_fetch_sub_explicit(&vcpus_at_work, 1, memory_order_relaxed);
	return NULL;
}

static void *run_harvester(void *opaque)
{
	struct harvester *harvester = opaque;

	while (!is_over()) {
		harvest(harvester->cursor);
		end(harvester->cursor);
		harvester->harvests++;
		count(&harvests);
		while (!is_over() && get(&harvests) > harvests_due())
			sched_yield();
	}
	return NULL;
}

/* A pass of one cursor. Returns the number of its pages. */
static uint64_t read_pages(struct dl_cursor *cursor)
{
	struct dl_extent extents[16];
	uint64_t bytes = 0;
	int n;

	harvest(cursor);
	while ((n = dl_cursor_read(cursor, extents, 16)) > 0)
		for (int i = 0; i < n; i++)
			bytes += extents[i].bytes;
	assert_int_equal(n, 0);
	assert_int_equal(dl_cursor_end(cursor, DL_END_COMMIT), 0);
	return bytes / guest.page_bytes;
}

static void run_round(void)
{
	atomic_store(&vcpus_at_work, VCPUS);
	atomic_store(&writes, 0);
	atomic_store(&harvests, 0);
	for (int i = 0; i < VCPUS; i++)
		assert_int_equal(pthread_create(&vcpus[i].thread, NULL, run_vcpu, &vcpus[i]), 0);
	for (int i = 0; i < HARVESTERS; i++)
		assert_int_equal(
			pthread_create(&harvesters[i].thread, NULL, run_harvester, &harvesters[i]),
			0);
	for (int i = 0; i < VCPUS; i++)
		pthread_join(vcpus[i].thread, NULL);
	for (int i = 0; i < HARVESTERS; i++)
		pthread_join(harvesters[i].thread, NULL);
	for (int i = 0; i < VCPUS; i++)
		assert_int_equal(read_pages(vcpus[i].cursor), shared ? VCPUS * PAGES : PAGES);
	/* A repair makes the harvesters' page pending too. */
	for (int i = 0; i < HARVESTERS; i++)
		assert_true(read_pages(harvesters[i].cursor) ==
				    (shared ? (uint64_t)VCPUS * PAGES : 0) ||
			    overflows);
}

/* A clean cursor: of one slot, or of all. The harvesters' slot has one page and no writer. */
static struct dl_cursor *new_cursor(uint32_t slot)
{
	const struct dl_cursor_options options = {
		.size = sizeof(options),
		.flags = DL_CURSOR_CLEAN | (shared ? 0 : (uint32_t)DL_CURSOR_ONE_SLOT),
		.slot = slot,
	};
	struct dl_cursor *cursor;

	assert_int_equal(dl_cursor_new(guest.log, &options, &cursor), 0);
	return cursor;
}

static void open_guest(const struct guest_config *config)
{
	guest_open(&guest, config);
	memset(vcpus, 0, sizeof(vcpus));
	memset(harvesters, 0, sizeof(harvesters));
	for (unsigned int i = 0; i < VCPUS; i++) {
		struct vcpu *vcpu = &vcpus[i];

		guest_add_slot(&guest, i, i * PAGES, PAGES);
		guest_vcpu(&guest, true);
		vcpu->number = i;
		vcpu->random.state = 7919 * (i + 1);
	}
	guest_add_slot(&guest, VCPUS, VCPUS * PAGES, 1);
	for (unsigned int i = 0; i < VCPUS; i++) {
		const struct dli_slot *slot = dli_slot_find(dli_slots_table(&guest.log->slots), i);

		vcpus[i].cursor = new_cursor(i);
		vcpus[i].view = dli_slot_view(slot, vcpus[i].cursor);
	}
	for (unsigned int i = 0; i < HARVESTERS; i++)
		harvesters[i].cursor = new_cursor(VCPUS);
}

/* Each of the drains that share a reset counts it. */
static void report(void)
{
	unsigned long full_exits = 0, requested = 0, own = 0, others = 0;

	for (int i = 0; i < VCPUS; i++) {
		struct dl_stats stats = { .size = sizeof(stats) };

		assert_int_equal(dl_vcpu_stats(guest.vcpus[i].handle, &stats), 0);
		requested += stats.resets;
		full_exits += stats.full_exits;
		own += vcpus[i].harvests;
	}
	for (int i = 0; i < HARVESTERS; i++)
		others += harvesters[i].harvests;
	print_message(
		"%lu harvests by vCPUs' threads, %lu by others; %lu full exits; %lu resets, %lu "
		"requested by drains; %lu overflows\n",
		own, others, full_exits, (unsigned long)guest_stats(&guest).resets, requested,
		(unsigned long)guest_stats(&guest).overflows);
	assert_true((requested || guest.config.options.mode == DL_MODE_BITMAP) && others);
}

static void run(const struct model_options *model)
{
	bool is_ring = model->has & MODEL_HAS_RING_ACQ_REL;

	open_guest(&(struct guest_config){
		.model = *model,
		.options = { .mode = is_ring ? DL_MODE_RING : DL_MODE_BITMAP,
			     .ring_entries = is_ring ? RING_ENTRIES : 0 } });
	for (unsigned int i = 0; i < rounds; i++)
		run_round();
	report();
	for (unsigned int i = 0; i < VCPUS; i++)
		dl_cursor_free(vcpus[i].cursor);
	for (unsigned int i = 0; i < HARVESTERS; i++)
		dl_cursor_free(harvesters[i].cursor);
	guest_close(&guest);
}

static void harvests_race_with_drains(void **state)
{
	writes_a_harvest = 100;
	writes_a_drain = 25;
	harvests_a_round = 200;
	overflows = shared = false;
	run(&(struct model_options){ .has = MODEL_HAS_RING_ACQ_REL,
				     .ring_first_index = 0xffffff00 });
}

static void harvests_race_with_full_rings(void **state)
{
	writes_a_harvest = 500;
	writes_a_drain = 1000;
	harvests_a_round = 10;
	overflows = shared = false;
	run(&(struct model_options){ .has = MODEL_HAS_RING_ACQ_REL });
}

/* A harvest that finds a repair requested repairs, whichever thread requested it. */
static void harvests_race_with_overflows(void **state)
{
	writes_a_harvest = 500;
	writes_a_drain = 1000;
	harvests_a_round = 10;
	overflows = true;
	shared = false;
	run(&(struct model_options){ .has = MODEL_HAS_RING_ACQ_REL,
				     .write_order = MODEL_STORE_THEN_LOG,
				     .batch_writes = 512 });
}

static void harvests_of_cursors_that_share_all_slots(void **state)
{
	writes_a_harvest = 100;
	writes_a_drain = 100;
	harvests_a_round = 100;
	overflows = false;
	shared = true;
	run(&(struct model_options){ .has = MODEL_HAS_RING_ACQ_REL });
}

static void harvests_of_cursors_that_share_all_slots_of_bitmaps(void **state)
{
	writes_a_harvest = 100;
	writes_a_drain = 100;
	harvests_a_round = 100;
	overflows = false;
	shared = true;
	run(&(struct model_options){ .has = MODEL_HAS_MANUAL_PROTECT });
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(harvests_race_with_drains),
		cmocka_unit_test(harvests_race_with_full_rings),
		cmocka_unit_test(harvests_race_with_overflows),
		cmocka_unit_test(harvests_of_cursors_that_share_all_slots),
		cmocka_unit_test(harvests_of_cursors_that_share_all_slots_of_bitmaps),
	};

	if (argc > 1 && !strcmp(argv[1], "--long"))
		rounds = 600;
	return RUN_TESTS("races: drains and harvests", tests);
}
