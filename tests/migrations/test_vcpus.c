/* SPDX-License-Identifier: MIT */
/* vCPUs that are added late, parked and added again; canceled migrations; full rings. */
#include "cmocka_all.h"
#include "migration.h"

#include <errno.h>
#include <string.h>

enum { WRITES = 150 };

static struct migration migration;
static struct guest *guest;

static void begin(uint32_t mode, unsigned int vcpus, uint32_t start_flags)
{
	const struct guest_config config = { .options = { .mode = mode, .ring_entries = 256 } };

	migration_open(&migration, &config, vcpus);
	guest = &migration.guest;
	migration_start(&migration, start_flags);
	migration_run(&migration);
}

static void end(void)
{
	migration_finish(&migration);
	assert_int_equal(migration_stats(&migration).overflows, 0);
	migration_close(&migration);
}

static void a_vcpu_is_added_late(void **state)
{
	for (uint32_t mode = DL_MODE_RING; mode <= DL_MODE_BITMAP; mode++) {
		begin(mode, 1, 0);
		migration_passes(&migration, 1, WRITES);
		for (int i = 0; i < 4; i++) {
			migration_run_vcpu(&migration, guest_vcpu(guest, true));
			migration_passes(&migration, 2, WRITES);
		}
		end();
	}
}

/* A vCPU is unplugged with its ring half full. KVM cannot delete it, so it may be added again. */
static void a_parked_vcpu_is_added_again(void **state)
{
	for (uint32_t mode = DL_MODE_RING; mode <= DL_MODE_BITMAP; mode++) {
		struct guest_vcpu *vcpu;

		begin(mode, 3, 0);
		vcpu = &guest->vcpus[1];
		for (int i = 0; i < 8; i++) {
			migration_wait(&migration, WRITES);
			migration_stop_vcpu(&migration, vcpu);
			dl_vcpu_remove(vcpu->handle);
			vcpu->handle = NULL;
			if (i % 2)
				migration_pass(&migration);
			guest_vcpu_add(guest, vcpu);
			migration_run_vcpu(&migration, vcpu);
			migration_passes(&migration, 1, WRITES);
		}
		end();
	}
}

static void a_parked_vcpu_is_not_added_again(void **state)
{
	struct guest_vcpu *vcpu;

	begin(DL_MODE_RING, 3, 0);
	vcpu = &guest->vcpus[2];
	migration_wait(&migration, WRITES);
	migration_stop_vcpu(&migration, vcpu);
	dl_vcpu_remove(vcpu->handle);
	vcpu->handle = NULL;
	migration_passes(&migration, 2, WRITES);
	end();
}

/* Adding a vCPU compares its ring with all others while they are harvested and filled. */
static void plugging_does_not_disturb_the_others(void **state)
{
	struct guest_vcpu *vcpu;

	begin(DL_MODE_RING, 3, 0);
	vcpu = &guest->vcpus[2];
	migration_stop(&migration);
	migration.has_harvester = true;
	migration_run(&migration);
	for (int i = 0; i < 200; i++) {
		migration_wait(&migration, 10);
		migration_stop_vcpu(&migration, vcpu);
		dl_vcpu_remove(vcpu->handle);
		guest_vcpu_add(guest, vcpu);
		migration_run_vcpu(&migration, vcpu);
		assert_int_equal(
			dl_vcpu_add(guest->log, vcpu->fd, 0, 0, &(struct dl_vcpu *){ NULL }),
			-EEXIST);
	}
	migration_pass(&migration);
	end();
}

/* After a cancel the guest runs on, and the next migration starts from scratch. */
static void a_canceled_migration_is_started_again(void **state)
{
	for (uint32_t mode = DL_MODE_RING; mode <= DL_MODE_BITMAP; mode++) {
		begin(mode, 2, 0);
		for (int i = 0; i < 5; i++) {
			migration_passes(&migration, 2, WRITES);
			checker_leave(&migration.checker);
			/* With logging off every vCPU makes progress. */
			migration_wait(&migration, WRITES);
			assert_int_equal(checker_join(&migration.checker, 0), 0);
		}
		migration_passes(&migration, 1, WRITES);
		end();
	}
}

static void a_clean_start_after_a_canceled_migration(void **state)
{
	for (uint32_t mode = DL_MODE_RING; mode <= DL_MODE_BITMAP; mode++) {
		begin(mode, 2, 0);
		migration_passes(&migration, 2, WRITES);
		migration_stop(&migration);
		checker_leave(&migration.checker);
		checker_equalize(&migration.checker);
		assert_int_equal(checker_join(&migration.checker, DL_CURSOR_CLEAN), 0);
		migration_run(&migration);
		migration_passes(&migration, 2, WRITES);
		end();
	}
}

/* An iteration that is freed half way loses nothing. */
static void abandoned_iterations_lose_nothing(void **state)
{
	struct dl_extent runs[3];
	struct dl_cursor *cursor;

	for (uint32_t mode = DL_MODE_RING; mode <= DL_MODE_BITMAP; mode++) {
		begin(mode, 2, 0);
		for (int i = 0; i < 10; i++) {
			migration_wait(&migration, WRITES);
			cursor = migration.checker.cursor;
			assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
			for (int n, turn = 0; turn < i; turn++) {
				n = dl_cursor_read(cursor, runs, 3);
				assert_true(n >= 0);
				/* Only the second of three runs is sent. */
				if (n < 2)
					break;
				checker_copy_run(&migration.checker, &runs[1]);
				assert_int_equal(dl_cursor_ack(cursor, &runs[1], 1), 0);
			}
			checker_end(&migration.checker, 0);
		}
		end();
	}
}

/* The guest resumes after a final pass, which then is not the last one. */
static void the_guest_resumes_after_a_final_pass(void **state)
{
	for (uint32_t mode = DL_MODE_RING; mode <= DL_MODE_BITMAP; mode++) {
		begin(mode, 2, 0);
		for (int i = 0; i < 4; i++) {
			migration_passes(&migration, 1, WRITES);
			migration_finish(&migration);
			migration_run(&migration);
		}
		end();
	}
}

/* No thread harvests; each vCPU depends on its own drains. */
static void full_rings_are_drained_by_their_vcpus(void **state)
{
	const struct guest_config config = {
		.model = { .write_order = MODEL_STORE_THEN_LOG },
		.options = { .mode = DL_MODE_RING, .ring_entries = 256 },
	};

	migration_open(&migration, &config, 3);
	guest = &migration.guest;
	migration_start(&migration, DL_CURSOR_CLEAN);
	migration_run(&migration);
	migration_wait(&migration, 2000);
	for (int i = 0; i < 3; i++)
		assert_true(atomic_load(&guest->vcpus[i].full_exits) > 0);
	end();
}

static void several_readers_share_an_iteration(void **state)
{
	for (uint32_t mode = DL_MODE_RING; mode <= DL_MODE_BITMAP; mode++) {
		begin(mode, 2, 0);
		migration.readers = 5;
		migration.checker.batch_runs = 1;
		migration_passes(&migration, 6, WRITES);
		end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		migration_test(a_vcpu_is_added_late),
		migration_test(a_parked_vcpu_is_added_again),
		migration_test(a_parked_vcpu_is_not_added_again),
		migration_test(plugging_does_not_disturb_the_others),
		migration_test(a_canceled_migration_is_started_again),
		migration_test(a_clean_start_after_a_canceled_migration),
		migration_test(abandoned_iterations_lose_nothing),
		migration_test(the_guest_resumes_after_a_final_pass),
		migration_test(full_rings_are_drained_by_their_vcpus),
		migration_test(several_readers_share_an_iteration),
	};

	return RUN_TESTS("migrations with vCPUs added and removed", tests);
}
