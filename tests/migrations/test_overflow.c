/* SPDX-License-Identifier: MIT */
/* Rings that run over: the vCPU gets into the guest again, and nothing that it wrote is lost. */
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

/* Emulated in batches: the ring is looked at only now and then. */
static void migrate(uint32_t i, uint32_t batch_writes, uint32_t write_order, unsigned int vcpus)
{
	begin(i, batch_writes, write_order, i ? 0xffffff00 : 0, vcpus);
	migration.has_devices = true;
	migration.has_harvester = batch_writes % 2;
	migration.readers = 2;
	migration_start(&migration, i ? DL_START_CLEAN : 0);
	migration_run(&migration);
	migration_passes(&migration, passes, WRITES);
	migration_finish(&migration);
	/* Harvests in between may have kept the rings empty enough, but then all is well. */
	if (overwritten())
		assert_true(migration_stats(&migration).overflows > 0);
	migration_close(&migration);
}

static void batches_of_stores(void **state)
{
	static const uint32_t batches[] = { 65, 100, 257, 500, 1024, 1500 };

	for (size_t b = 0; b < sizeof(batches) / sizeof(batches[0]); b++)
		for (uint32_t i = 0; i < 2; i++)
			migrate(i, batches[b], MODEL_STORE_THEN_LOG, 1 + (unsigned int)b % 3);
}

static void batches_of_faults(void **state)
{
	static const uint32_t batches[] = { 70, 150, 300, 700 };

	for (size_t b = 0; b < sizeof(batches) / sizeof(batches[0]); b++)
		for (uint32_t order = MODEL_LOG_THEN_STORE; order <= MODEL_MAP_THEN_LOG; order++)
			migrate(b % 2, batches[b], order, 1 + (unsigned int)b % 2);
}

/* The ring was full, and went round; its vCPU comes back, by drains alone. */
static void a_vcpu_comes_back_by_its_own_drains(void **state)
{
	static const uint32_t extra[] = { 0, 1, 63, 64, 65, 200, 255, 256, 300, 511, 512, 2000 };

	for (size_t e = 0; e < sizeof(extra) / sizeof(extra[0]); e++) {
		struct guest_vcpu *vcpu;

		begin(e % 2, 1, MODEL_LOG_THEN_STORE, 0, 1);
		vcpu = &guest->vcpus[0];
		migration_start(&migration, DL_START_CLEAN);
		for (uint32_t i = 0; i < 256 + extra[e]; i++)
			assert_int_equal(model_vcpu_write_unchecked(guest->model, vcpu->fd, 0,
								    (16 + i % 300) * UINT64_C(4096),
								    &i, 4),
					 0);
		/* As many exits as there are pieces of the ring to offer, and a few. */
		assert_int_equal(guest_write(guest, vcpu, 0, 20), 0);
		assert_in_range(atomic_load(&vcpu->full_exits), 1, 16 + 4 * (256 + extra[e]) / 256);
		assert_int_equal(guest_write(guest, vcpu, 0, 21), 0);
		migration_finish(&migration);
		assert_true(migration_stats(&migration).overflows > 0);
		migration_close(&migration);
	}
}

/* Pages whose entries were overwritten were never protected again: after the repair they are. */
static void what_was_overwritten_is_protected_again(void **state)
{
	struct guest_vcpu *vcpu;

	begin(0, 1000, MODEL_LOG_THEN_STORE, 0, 2);
	vcpu = &guest->vcpus[0];
	migration_start(&migration, DL_START_CLEAN);
	for (uint64_t page = 0; page < 390; page++)
		assert_int_equal(guest_write(guest, vcpu, 0, 16 + page), 0);
	assert_true(overwritten() > 0);
	migration_pass(&migration);
	assert_int_equal(checker_differing_pages(&migration.checker), 0);
	/* The other vCPU, whose ring is in step, writes all of them once more. */
	for (uint64_t page = 0; page < 390; page++)
		assert_int_equal(guest_write(guest, &guest->vcpus[1], 0, 16 + page), 0);
	migration_finish(&migration);
	migration_close(&migration);
}

/* Runs over again and again, and between that a page at a time must be seen at once. */
static void between_overflows_each_write_is_seen(void **state)
{
	struct guest_vcpu *vcpu;
	uint64_t pages[512];

	begin(0, 1, MODEL_LOG_THEN_STORE, 0, 1);
	vcpu = &guest->vcpus[0];
	migration_start(&migration, DL_START_CLEAN);
	for (uint64_t turn = 0; turn < 12; turn++) {
		for (uint32_t i = 0; i < 260 + turn * 50; i++)
			assert_int_equal(model_vcpu_write_unchecked(guest->model, vcpu->fd, 0,
								    (16 + i % 100) * UINT64_C(4096),
								    NULL, 8),
					 0);
		assert_int_equal(guest_write(guest, vcpu, 0, 16), 0);
		assert_int_not_equal(guest_pass(guest, 0, pages, 512), 0);
		assert_int_equal(guest_write(guest, vcpu, 0, 100 + turn), 0);
		assert_int_not_equal(guest_pass(guest, 0, pages, 512), 0);
		assert_int_equal(guest_write(guest, vcpu, 0, 200 + turn), 0);
		assert_int_equal(guest_pass(guest, 0, pages, 512), 1);
		assert_int_equal(pages[0], 200 + turn);
	}
	migration_close(&migration);
}

/* Stopped while its ring is out of step: the guest goes on, the next migration is sound. */
static void a_stop_and_a_start_out_of_step(void **state)
{
	begin(0, 900, MODEL_STORE_THEN_LOG, 0, 2);
	migration_start(&migration, 0);
	migration_run(&migration);
	for (int i = 0; i < 6; i++) {
		migration_wait(&migration, WRITES);
		assert_int_equal(dl_log_stop(guest->log), 0);
		migration_wait(&migration, WRITES);
		assert_int_equal(dl_log_start(guest->log, 0), 0);
		migration_passes(&migration, 1, WRITES);
	}
	migration_finish(&migration);
	migration_close(&migration);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		migration_test(batches_of_stores),
		migration_test(batches_of_faults),
		migration_test(a_vcpu_comes_back_by_its_own_drains),
		migration_test(what_was_overwritten_is_protected_again),
		migration_test(between_overflows_each_write_is_seen),
		migration_test(a_stop_and_a_start_out_of_step),
	};

	if (argc > 1 && !strcmp(argv[1], "--long"))
		passes = 200;
	return RUN_TESTS("migrations with rings that run over", tests);
}
