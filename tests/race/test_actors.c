/* SPDX-License-Identifier: MIT */
/*
 * All actors at once, each on its own thread, with only the library and the model kernel between
 * them: vCPUs that write, are unplugged and plugged again, new vCPUs, devices that mark, a kernel
 * writer without a vCPU, harvesters, passes with several senders that acknowledge each other's
 * runs, slots that are set, moved and removed, cancels and restarts. A run ends when the writers
 * have made their writes; then the copy must equal the memory.
 *
 * The threads share no lock and no counter that would order them: it would hide a race from
 * ThreadSanitizer.
 */
#include "cmocka_all.h"
#include "random.h"
#include "senders.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum {
	VCPUS = 3,
	LATE_VCPUS = 3,
	DEVICES = 2,
	HARVESTERS = 2,
	MOST_THREADS = 16,
	PAGES = 260,
	QUIET_PAGES = 20,   /* of PAGES, never written: only a start makes them dirty */
	MOVING_PAGES = 130, /* slot 1 */
	GPA_PAGE = 16,
	MOVING_GPA_PAGE = 1024, /* or twice this */
};

/* Per writer, spread over so many passes: no writer may end before all threads run. */
static unsigned long writes = 6000, passes = 50;

static struct guest guest;
static struct checker checker;
static struct guest_block *block, *moving_block;

static struct actor {
	pthread_t thread;
	unsigned int number;
	struct random random;
} actors[MOST_THREADS];
static unsigned int actor_count;

/* Writers that have not finished. Always accessed relaxed. */
static atomic_uint writers_left;

/* Counts events, so that a run without them is noticed. */
static struct {
	atomic_ulong passes, canceled_passes, full_exits, absent, slot_changes, restarts, plugs;
} seen;

static void count(atomic_ulong *counter)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static unsigned long get(atomic_ulong *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

static bool is_over(void)
{
	return !atomic_load_explicit(&writers_left, memory_order_relaxed);
}

/* After so many writes, waits for the same share of the passes. */
static void pace(unsigned long made)
{
	while (get(&seen.passes) < made * passes / writes)
		sched_yield();
}

/* Waits for n more passes. */
static void wait_passes(unsigned long n)
{
	unsigned long until = get(&seen.passes) + n;

	while (!is_over() && get(&seen.passes) < until)
		sched_yield();
}

static void writer_done(void)
{
	atomic_fetch_sub_explicit(&writers_left, 1, memory_order_relaxed);
}

static void die(const char *what, int result)
{
	print_error("%s: %d\n", what, result);
	abort();
}

static void expect(int result, int also, const char *what)
{
	if (result && result != also)
		die(what, result);
}

/* A value that no other store uses; it also selects the place in the page. */
static uint64_t next_value(struct actor *actor, unsigned long i)
{
	return (uint64_t)(actor->number + 1) << 48 | i;
}

static uint64_t place_of(uint64_t value)
{
	return value * 8 * 37 % guest.page_bytes;
}

static uint64_t any_gpa(struct actor *actor)
{
	const uint64_t busy_pages = PAGES - QUIET_PAGES;
	uint64_t page = random_below(&actor->random, busy_pages + 2 * MOVING_PAGES);

	if (page < busy_pages)
		return (GPA_PAGE + page) * guest.page_bytes;
	page -= busy_pages;
	if (page >= MOVING_PAGES)
		page += MOVING_GPA_PAGE - MOVING_PAGES;
	return (MOVING_GPA_PAGE + page) * guest.page_bytes;
}

static void store(struct actor *actor, const struct guest_vcpu *vcpu, uint64_t value)
{
	uint64_t gpa = any_gpa(actor) + place_of(value);

	for (int exits = 0; exits < GUEST_MAX_EXITS; exits++) {
		int r = model_vcpu_write(guest.model, vcpu->fd, 0, gpa, &value, sizeof(value));

		if (r == -EFAULT)
			count(&seen.absent);
		if (r != KVM_EXIT_DIRTY_RING_FULL) {
			expect(r, -EFAULT, "a guest's store");
			return;
		}
		count(&seen.full_exits);
		expect(dl_vcpu_drain(vcpu->handle, 0), 0, "dl_vcpu_drain");
	}
	die("full exits of one store", GUEST_MAX_EXITS);
}

/* Removes the handle, which keeps the ring, and adds the vCPU again. */
static void plug_again(struct guest_vcpu *vcpu)
{
	model_vcpu_exit(guest.model, vcpu->fd, KVM_EXIT_INTR);
	dl_vcpu_remove(vcpu->handle);
	expect(dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &vcpu->handle), 0, "dl_vcpu_add");
	count(&seen.plugs);
}

static void run_guest(struct actor *actor, struct guest_vcpu *vcpu, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++) {
		if (!random_below(&actor->random, 256))
			plug_again(vcpu);
		store(actor, vcpu, next_value(actor, i));
		pace(i);
	}
	model_vcpu_exit(guest.model, vcpu->fd, KVM_EXIT_INTR);
}

static void *run_vcpu(void *opaque)
{
	struct actor *actor = opaque;

	run_guest(actor, &guest.vcpus[actor->number], writes);
	writer_done();
	return NULL;
}

/* vCPUs that are created later, one after another, and removed for good. */
static void *run_late_vcpus(void *opaque)
{
	struct actor *actor = opaque;

	for (unsigned long i = 0; i < LATE_VCPUS; i++) {
		struct guest_vcpu vcpu = { .fd = model_vcpu_create(guest.model, guest.vm_fd) };

		expect(dl_vcpu_add(guest.log, vcpu.fd, 0, 0, &vcpu.handle), 0, "dl_vcpu_add");
		actor->number += MOST_THREADS;
		run_guest(actor, &vcpu, writes / LATE_VCPUS);
		dl_vcpu_remove(vcpu.handle);
	}
	writer_done();
	return NULL;
}

/* Writes, then marks by address or by slot, even if there is no slot at the moment. */
static void *run_device(void *opaque)
{
	struct actor *actor = opaque;

	for (unsigned long i = 0; i < writes; i++) {
		bool moving = random_below(&actor->random, 2);
		struct guest_block *to = moving ? moving_block : block;
		uint64_t value = next_value(actor, i);
		uint64_t at =
			random_below(&actor->random, to->pages - QUIET_PAGES) * guest.page_bytes +
			place_of(value);
		int r;

		pace(i);
		model_copy(to->memory + at, &value, sizeof(value));
		if (i % 3 == 0)
			r = dl_mark_hva(guest.log, to->memory + at, sizeof(value));
		else if (moving || i % 3 == 1)
			r = dl_mark_slot(guest.log, moving, at, sizeof(value));
		else
			r = dl_mark_gpa(guest.log, 0, GPA_PAGE * guest.page_bytes + at,
					sizeof(value));
		/* Without the slot, or off: setting the slot and a start make all pages dirty. */
		expect(r, moving ? -ENOENT : 0, "a mark");
	}
	writer_done();
	return NULL;
}

static void *run_kernel_writer(void *opaque)
{
	struct actor *actor = opaque;

	for (unsigned long i = 0; i < writes; i++) {
		uint64_t value = next_value(actor, i), gpa = any_gpa(actor) + place_of(value);

		pace(i);
		expect(model_kernel_write(guest.model, guest.vm_fd, 0, gpa, &value, sizeof(value)),
		       -EFAULT, "a kernel's store");
	}
	writer_done();
	return NULL;
}

static void *run_harvester(void *opaque)
{
	while (!is_over()) {
		struct dl_stats stats = { .size = sizeof(stats) };
		uint64_t pending_bytes, due_ns;

		expect(dl_harvest(guest.log, 0, &pending_bytes), -ECANCELED, "dl_harvest");
		expect(dl_log_stats(guest.log, &stats), 0, "dl_log_stats");
		expect(dl_log_harvest_due(guest.log, &due_ns), -ECANCELED, "dl_log_harvest_due");
		expect(dl_log_reap(guest.log, seen.passes % 2 ? DL_REAP_NOW : 0, &due_ns), 0,
		       "dl_log_reap");
		/* Once per pass: otherwise no ring becomes full. */
		wait_passes(1);
	}
	return NULL;
}

/* Sets, moves and removes slot 1, always with the same memory. It exists at the end. */
static void *run_layout(void *opaque)
{
	struct actor *actor = opaque;
	struct dl_slot slot = guest_slot(&guest, 1, MOVING_GPA_PAGE, moving_block, 0, MOVING_PAGES);

	while (!is_over()) {
		uint32_t flags = random_below(&actor->random, 2) ? DL_SLOT_DISCARD : 0;

		slot.gpa =
			(1 + random_below(&actor->random, 2)) * MOVING_GPA_PAGE * guest.page_bytes;
		expect(dl_slot_set(guest.log, &slot), 0, "dl_slot_set");
		if (!random_below(&actor->random, 3)) {
			expect(dl_slot_remove(guest.log, 1, flags), 0, "dl_slot_remove");
			expect(dl_slot_set(guest.log, &slot), 0, "dl_slot_set");
		}
		count(&seen.slot_changes);
		wait_passes(1);
	}
	return NULL;
}

/* Cancels and restarts the migration. Not until the end: a start would cover every loss. */
static void *run_cancels(void *opaque)
{
	while (!is_over() && get(&seen.passes) < passes / 2) {
		wait_passes(2);
		expect(dl_log_stop(guest.log), 0, "dl_log_stop");
		expect(dl_log_start(guest.log, 0), 0, "dl_log_start");
		count(&seen.restarts);
	}
	return NULL;
}

static void *run_passes(void *opaque)
{
	while (!is_over()) {
		if (senders_pass(&checker, true))
			count(&seen.canceled_passes);
		count(&seen.passes);
	}
	return NULL;
}

static void begin(void *(*body)(void *), bool is_writer)
{
	struct actor *actor = &actors[actor_count];

	actor->number = actor_count++;
	actor->random.state = 1000003 * actor_count;
	if (is_writer)
		atomic_fetch_add_explicit(&writers_left, 1, memory_order_relaxed);
	assert_true(actor_count <= MOST_THREADS);
	assert_int_equal(pthread_create(&actor->thread, NULL, body, actor), 0);
}

static void open_all(const struct guest_config *config)
{
	memset(&seen, 0, sizeof(seen));
	actor_count = 0;
	guest_open(&guest, config);
	block = guest_add_slot(&guest, 0, GPA_PAGE, PAGES);
	moving_block = guest_add_slot(&guest, 1, MOVING_GPA_PAGE, MOVING_PAGES);
	for (int i = 0; i < VCPUS; i++)
		guest_vcpu(&guest, true);
	checker_init_guest(&checker, &guest);
	assert_int_equal(dl_log_start(guest.log, 0), 0);
}

static void run_all(bool has_kernel_writer)
{
	/* The vCPUs first: an actor's number is its vCPU's index. */
	for (int i = 0; i < VCPUS; i++)
		begin(run_vcpu, true);
	for (int i = 0; i < DEVICES; i++)
		begin(run_device, true);
	begin(run_late_vcpus, true);
	if (has_kernel_writer)
		begin(run_kernel_writer, true);
	for (int i = 0; i < HARVESTERS; i++)
		begin(run_harvester, false);
	begin(run_layout, false);
	begin(run_cancels, false);
	begin(run_passes, false);
	for (unsigned int i = 0; i < actor_count; i++)
		pthread_join(actors[i].thread, NULL);
}

/* The guest is stopped, and the last pass acknowledges every run. */
static void finish(void)
{
	guest_stop(&guest);
	assert_int_equal(dl_harvest(guest.log, DL_HARVEST_FINAL, NULL), 0);
	assert_int_equal(senders_pass(&checker, false), 0);
	checker_expect_equal(&checker);
	print_message(
		"%lu passes, %lu canceled; %lu restarts, %lu slot changes, %lu plugs, %lu full "
		"exits, %lu stores without a slot, %lu overflows\n",
		get(&seen.passes), get(&seen.canceled_passes), get(&seen.restarts),
		get(&seen.slot_changes), get(&seen.plugs), get(&seen.full_exits), get(&seen.absent),
		(unsigned long)guest_stats(&guest).overflows);
	assert_true(get(&seen.passes) && get(&seen.restarts) && get(&seen.slot_changes) &&
		    get(&seen.plugs));
	checker_free(&checker);
	guest_close(&guest);
}

static void migrate(const struct guest_config *config, bool has_kernel_writer)
{
	open_all(config);
	run_all(has_kernel_writer);
	finish();
}

static void rings_alone(void **state)
{
	migrate(&(struct guest_config){ .model = { .has = MODEL_HAS_RING_ACQ_REL,
						   .ring_first_index = 0xffffff00 },
					.options = { .mode = DL_MODE_RING, .ring_entries = 256 } },
		false);
}

static void rings_with_backup_logged_after_the_page_is_mapped(void **state)
{
	migrate(&(struct guest_config){ .model = { .has = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP,
						   .write_order = MODEL_MAP_THEN_LOG },
					.options = { .mode = DL_MODE_RING, .ring_entries = 256 } },
		true);
}

/* The kernel checks for a full ring only between batches, so rings overflow and are resynced. */
static void rings_that_overflow(void **state)
{
	migrate(&(struct guest_config){ .model = { .has = MODEL_HAS_RING_ACQ_REL,
						   .write_order = MODEL_STORE_THEN_LOG,
						   .batch_writes = 512 },
					.options = { .mode = DL_MODE_RING, .ring_entries = 256 } },
		false);
}

static void bitmaps_cleared_by_hand(void **state)
{
	migrate(&(struct guest_config){ .model = { .has = MODEL_HAS_MANUAL_PROTECT |
							  MODEL_HAS_INITIALLY_SET },
					.options = { .mode = DL_MODE_BITMAP } },
		true);
}

static void bitmaps_cleared_as_they_are_read(void **state)
{
	migrate(&(struct guest_config){ .model = { .has = MODEL_HAS_NOTHING },
					.options = { .mode = DL_MODE_BITMAP } },
		true);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rings_alone),
		cmocka_unit_test(rings_with_backup_logged_after_the_page_is_mapped),
		cmocka_unit_test(rings_that_overflow),
		cmocka_unit_test(bitmaps_cleared_by_hand),
		cmocka_unit_test(bitmaps_cleared_as_they_are_read),
	};

	if (argc > 1 && !strcmp(argv[1], "--long")) {
		writes = 400000;
		passes = 2000;
	}
	return RUN_TESTS("races: all actors at once", tests);
}
