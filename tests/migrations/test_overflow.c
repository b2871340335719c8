/* SPDX-License-Identifier: MIT */
/* Rings that overflow: the vCPU enters the guest again, and none of its writes is lost. */
#include "cmocka_all.h"
#include "migration.h"

#include <string.h>
#include <sys/ioctl.h>

enum { WRITES = 700 };

static struct migration migration;
static struct guest *guest;
static unsigned int passes = 8;

static const uint32_t has[] = {
	MODEL_HAS_RING_ACQ_REL,
	MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP,
};

static void begin(uint32_t i, uint32_t batch_writes, uint32_t write_order, uint32_t first_index,
		  unsigned int vcpus)
{
	const struct guest_config config = {
		.model = { .has = has[i],
			   .batch_writes = batch_writes,
			   .write_order = write_order,
			   .ring_first_index = first_index },
		.options = { .mode = DL_MODE_RING, .ring_entries = 256 },
	};

	migration_open(&migration, &config, vcpus);
	guest = &migration.guest;
}

static uint64_t overwritten(void)
{
	uint64_t entries = 0;

	for (unsigned int i = 0; i < guest->vcpu_count; i++) {
		struct model_ring ring;

		assert_int_equal(model_vcpu_ring(guest->model, guest->vcpus[i].fd, &ring), 0);
		entries += ring.overwritten_entries;
	}
	return entries;
}

/* The guest is emulated in batches, so the ring is checked only once in batch_writes stores. */
static void migrate(uint32_t i, uint32_t batch_writes, uint32_t write_order, unsigned int vcpus)
{
	begin(i, batch_writes, write_order, i ? 0xffffff00 : 0, vcpus);
	migration.has_devices = true;
	migration.has_harvester = batch_writes % 2;
	migration.readers = 2;
	migration_start(&migration, i ? DL_CURSOR_CLEAN : 0);
	migration_run(&migration);
	migration_passes(&migration, passes, WRITES);
	migration_finish(&migration);
	/* Frequent harvests may have prevented the overflow. */
	if (overwritten())
		assert_true(migration_stats(&migration).overflows > 0);
	migration_close(&migration);
}

static void stores_in_batches(void **state)
{
	static const uint32_t batches[] = { 65, 100, 257, 500, 1024, 1500 };

	for (size_t b = 0; b < sizeof(batches) / sizeof(batches[0]); b++)
		for (uint32_t i = 0; i < 2; i++)
			migrate(i, batches[b], MODEL_STORE_THEN_LOG, 1 + (unsigned int)b % 3);
}

static void faults_in_batches(void **state)
{
	static const uint32_t batches[] = { 70, 150, 300, 700 };

	for (size_t b = 0; b < sizeof(batches) / sizeof(batches[0]); b++)
		for (uint32_t order = MODEL_LOG_THEN_STORE; order <= MODEL_MAP_THEN_LOG; order++)
			migrate(b % 2, batches[b], order, 1 + (unsigned int)b % 2);
}

/* The ring was lapped; drains alone let its vCPU enter again. */
static void drains_alone_resync_a_lapped_ring(void **state)
{
	static const uint32_t extra[] = { 0, 1, 63, 64, 65, 200, 255, 256, 300, 511, 512, 2000 };

	for (size_t e = 0; e < sizeof(extra) / sizeof(extra[0]); e++) {
		struct guest_vcpu *vcpu;

		begin(e % 2, 1, MODEL_LOG_THEN_STORE, 0, 1);
		vcpu = &guest->vcpus[0];
		migration_start(&migration, DL_CURSOR_CLEAN);
		for (uint32_t i = 0; i < 256 + extra[e]; i++)
			assert_int_equal(model_vcpu_write_unchecked(guest->model, vcpu->fd, 0,
								    (16 + i % 300) * UINT64_C(4096),
								    &i, 4),
					 0);
		/* At most four full exits for each lap of the ring, and 16 more. */
		assert_int_equal(guest_write(guest, vcpu, 0, 20), 0);
		assert_in_range(atomic_load(&vcpu->full_exits), 1, 16 + 4 * (256 + extra[e]) / 256);
		assert_int_equal(guest_write(guest, vcpu, 0, 21), 0);
		migration_finish(&migration);
		assert_true(migration_stats(&migration).overflows > 0);
		migration_close(&migration);
	}
}

/* RESET never protects pages whose entries were overwritten; the repair does. */
static void pages_of_overwritten_entries_are_protected_again(void **state)
{
	struct guest_vcpu *vcpu;

	begin(0, 1000, MODEL_LOG_THEN_STORE, 0, 2);
	vcpu = &guest->vcpus[0];
	migration_start(&migration, DL_CURSOR_CLEAN);
	for (uint64_t page = 0; page < 390; page++)
		assert_int_equal(guest_write(guest, vcpu, 0, 16 + page), 0);
	assert_true(overwritten() > 0);
	migration_pass(&migration);
	assert_int_equal(checker_differing_pages(&migration.checker), 0);
	/* The other vCPU, whose ring is in sync, writes all pages again. */
	for (uint64_t page = 0; page < 390; page++)
		assert_int_equal(guest_write(guest, &guest->vcpus[1], 0, 16 + page), 0);
	migration_finish(&migration);
	migration_close(&migration);
}

/* Between repeated overflows each single write must show in the next pass. */
static void each_write_between_overflows_is_seen(void **state)
{
	struct guest_vcpu *vcpu;
	uint64_t pages[512];

	begin(0, 1, MODEL_LOG_THEN_STORE, 0, 1);
	vcpu = &guest->vcpus[0];
	migration_start(&migration, DL_CURSOR_CLEAN);
	for (uint64_t turn = 0; turn < 12; turn++) {
		for (uint32_t i = 0; i < 260 + turn * 50; i++)
			assert_int_equal(model_vcpu_write_unchecked(guest->model, vcpu->fd, 0,
								    (16 + i % 100) * UINT64_C(4096),
								    NULL, 8),
					 0);
		assert_int_equal(guest_write(guest, vcpu, 0, 16), 0);
		assert_int_not_equal(guest_pass_of(guest, migration.checker.cursor, 0, pages, 512),
				     0);
		assert_int_equal(guest_write(guest, vcpu, 0, 100 + turn), 0);
		assert_int_not_equal(guest_pass_of(guest, migration.checker.cursor, 0, pages, 512),
				     0);
		assert_int_equal(guest_write(guest, vcpu, 0, 200 + turn), 0);
		assert_int_equal(guest_pass_of(guest, migration.checker.cursor, 0, pages, 512), 1);
		assert_int_equal(pages[0], 200 + turn);
	}
	migration_close(&migration);
}

/* Stopping while a ring is out of sync does not harm the guest or the next migration. */
static void a_ring_out_of_sync_survives_stop_and_start(void **state)
{
	begin(0, 900, MODEL_STORE_THEN_LOG, 0, 2);
	migration_start(&migration, 0);
	migration_run(&migration);
	for (int i = 0; i < 6; i++) {
		migration_wait(&migration, WRITES);
		checker_leave(&migration.checker);
		migration_wait(&migration, WRITES);
		assert_int_equal(checker_join(&migration.checker, 0), 0);
		migration_passes(&migration, 1, WRITES);
	}
	migration_finish(&migration);
	migration_close(&migration);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		migration_test(stores_in_batches),
		migration_test(faults_in_batches),
		migration_test(drains_alone_resync_a_lapped_ring),
		migration_test(pages_of_overwritten_entries_are_protected_again),
		migration_test(each_write_between_overflows_is_seen),
		migration_test(a_ring_out_of_sync_survives_stop_and_start),
	};

	if (argc > 1 && !strcmp(argv[1], "--long"))
		passes = 200;
	return RUN_TESTS("migrations with rings that overflow", tests);
}
