/* SPDX-License-Identifier: MIT */
/*
 * All actors at once, each on its own thread, with only the library and the model kernel between
 * them: vCPUs that write, are unplugged and plugged again, new vCPUs, devices that mark, a kernel
 * writer without a vCPU, slots that are set, moved and removed. Consumers are a migration, whose
 * passes have several senders that acknowledge each other's extents and are sometimes ended by
 * another thread; a backup, which takes slot by slot; and visitors, cursors that come, read a
 * little and go. A run ends when the writers have made their writes; then the copies of the
 * migration and of the backup must equal the memory.
 *
 * The threads share no lock and no counter that would order them: it would hide a race from
 * ThreadSanitizer.
 */
#include "actors.h"
#include "cmocka_all.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

static struct actor actors[MOST_THREADS];
static unsigned int actor_count;

static unsigned long get(atomic_ulong *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
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
	const struct dl_cursor_options clean = { .size = sizeof(clean), .flags = DL_CURSOR_CLEAN };

	memset(&seen, 0, sizeof(seen));
	actor_count = 0;
	guest_open(&guest, config);
	block = guest_add_slot(&guest, 0, GPA_PAGE, PAGES);
	moving_block = guest_add_slot(&guest, 1, MOVING_GPA_PAGE, MOVING_PAGES);
	for (int i = 0; i < VCPUS; i++)
		guest_vcpu(&guest, true);
	checker_init_guest(&sent, &guest);
	checker_init_guest(&backed_up, &guest);
	assert_int_equal(dl_cursor_new(guest.log, NULL, &migration), 0);
	assert_int_equal(dl_cursor_new(guest.log, &clean, &backup), 0);
	/* No writer runs yet. */
	checker_equalize(&backed_up);
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
	for (int i = 0; i < VISITORS; i++)
		begin(run_visitor, false);
	begin(run_layout, false);
	begin(run_backup, false);
	begin(run_ends, false);
	begin(run_passes, false);
	for (unsigned int i = 0; i < actor_count; i++)
		pthread_join(actors[i].thread, NULL);
}

/* The guest is stopped. The last pass is repeated until nothing is pending. */
static void finish_migration(void)
{
	uint64_t pending_bytes;

	do
		assert_int_equal(
			senders_pass(&sent, migration, DL_HARVEST_PAUSED, false, &pending_bytes),
			0);
	while (pending_bytes);
	checker_expect_equal(&sent);
}

static void finish_backup(void)
{
	uint64_t taken_bytes;

	do {
		taken_bytes = take_slot(0, DL_TAKE_HARVEST | DL_TAKE_PAUSED | DL_TAKE_NO_CLEAR);
		taken_bytes += take_slot(1, DL_TAKE_HARVEST | DL_TAKE_PAUSED);
	} while (taken_bytes);
	checker_expect_equal(&backed_up);
}

static void finish(void)
{
	guest_stop(&guest);
	finish_migration();
	finish_backup();
	print_message("%lu passes, %lu ended in the middle; %lu takes, %lu deferred; %lu visits, "
		      "%lu slot changes, %lu plugs, %lu full exits, %lu stores without a slot, "
		      "%lu overflows\n",
		      get(&seen.passes), get(&seen.ended_passes), get(&seen.takes),
		      get(&seen.deferred), get(&seen.visits), get(&seen.slot_changes),
		      get(&seen.plugs), get(&seen.full_exits), get(&seen.absent),
		      (unsigned long)guest_stats(&guest).overflows);
	assert_true(get(&seen.passes) && get(&seen.ends) && get(&seen.takes) &&
		    get(&seen.deferred) && get(&seen.visits) && get(&seen.slot_changes) &&
		    get(&seen.plugs));
	dl_cursor_free(backup);
	dl_cursor_free(migration);
	checker_free(&sent);
	checker_free(&backed_up);
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
