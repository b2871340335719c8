/* SPDX-License-Identifier: MIT */
/* One migration in every mode, with every page size and every order of storing and logging. */
#include "cmocka_all.h"
#include "migration.h"

#include <string.h>

enum {
	TSO = MODEL_HAS_RING_TSO,
	ACQ_REL = MODEL_HAS_RING_TSO | MODEL_HAS_RING_ACQ_REL,
	BACKUP = MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP,
	MANUAL = MODEL_HAS_MANUAL_PROTECT,
	INITIALLY_SET = MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET,
};

static bool is_long;
static unsigned int passes = 5;
static unsigned long writes = 300;

static struct migration migration;

struct mode {
	uint32_t has, arch, mode, backup;
	uint32_t is; /* the mode that must result */
	bool is_with_backup, has_kernel_writer;
};

/* Rings of one page fill repeatedly. */
static void migrate(const struct mode *mode, uint32_t page_bytes, uint32_t write_order,
		    uint32_t start_flags)
{
	const struct guest_config config = {
		.model = { .has = mode->has,
			   .arch = mode->arch,
			   .page_bytes = page_bytes,
			   .write_order = write_order },
		.options = { .mode = mode->mode,
			     .backup = mode->backup,
			     .ring_entries = page_bytes / 16 },
	};
	struct dl_config is = { .size = sizeof(is) };

	migration_open(&migration, &config, 3);
	assert_int_equal(dl_log_config(migration.guest.log, &is), 0);
	assert_int_equal(is.mode, mode->is);
	assert_int_equal(is.backup, mode->is_with_backup);
	migration.has_devices = true;
	migration.has_harvester = true;
	migration.readers = 2;
	migration.has_kernel_writer = mode->has_kernel_writer;
	migration_start(&migration, start_flags);
	migration_run(&migration);
	migration_passes(&migration, passes, writes);
	migration_finish(&migration);
	if (is.mode == DL_MODE_RING)
		assert_int_equal(migration_stats(&migration).overflows, 0);
	assert_int_equal(migration_stats(&migration).short_resets, 0);
	migration_close(&migration);
}

/* Three of the nine combinations, different ones for each mode; --long runs all. */
static void migrate_combinations(const struct mode *mode)
{
	static const uint32_t page_sizes[] = { 4096, 16384, 65536 };
	static uint32_t turn;

	for (uint32_t i = 0; i < 3; i++)
		for (uint32_t order = MODEL_LOG_THEN_STORE; order <= MODEL_STORE_THEN_LOG; order++)
			if (is_long || (i + order + turn) % 3 == 0)
				migrate(mode, page_sizes[i], order,
					order == i ? DL_CURSOR_CLEAN : 0);
	turn++;
}

static void ring_tso(void **state)
{
	migrate_combinations(
		&(struct mode){ .has = TSO, .mode = DL_MODE_AUTO, .is = DL_MODE_RING });
}

static void ring_acquire_release(void **state)
{
	migrate_combinations(
		&(struct mode){ .has = ACQ_REL, .mode = DL_MODE_RING, .is = DL_MODE_RING });
}

static void ring_with_backup_and_kernel_writer(void **state)
{
	migrate_combinations(&(struct mode){ .has = BACKUP,
					     .arch = DL_OS_ARCH_RING_NEEDS_BACKUP,
					     .backup = DL_BACKUP_REQUIRED,
					     .is = DL_MODE_RING,
					     .is_with_backup = true,
					     .has_kernel_writer = true });
}

static void ring_with_manual_protect(void **state)
{
	migrate_combinations(&(struct mode){ .has = BACKUP | INITIALLY_SET,
					     .is = DL_MODE_RING,
					     .is_with_backup = true,
					     .has_kernel_writer = true });
}

static void auto_takes_the_bitmap_if_a_ring_alone_is_not_safe(void **state)
{
	migrate_combinations(&(struct mode){ .has = ACQ_REL | INITIALLY_SET,
					     .arch = DL_OS_ARCH_RING_NEEDS_BACKUP,
					     .is = DL_MODE_BITMAP,
					     .has_kernel_writer = true });
}

static void auto_takes_the_bitmap_if_backup_is_required(void **state)
{
	migrate_combinations(&(struct mode){ .has = ACQ_REL | MANUAL,
					     .backup = DL_BACKUP_REQUIRED,
					     .is = DL_MODE_BITMAP,
					     .has_kernel_writer = true });
}

static void bitmap_initially_set(void **state)
{
	migrate_combinations(&(struct mode){ .has = INITIALLY_SET,
					     .mode = DL_MODE_BITMAP,
					     .is = DL_MODE_BITMAP,
					     .has_kernel_writer = true });
}

static void bitmap_with_manual_protect(void **state)
{
	migrate_combinations(&(struct mode){ .has = MANUAL,
					     .mode = DL_MODE_BITMAP,
					     .is = DL_MODE_BITMAP,
					     .has_kernel_writer = true });
}

static void bitmap_cleared_by_get(void **state)
{
	migrate_combinations(&(struct mode){
		.has = MODEL_HAS_NOTHING, .is = DL_MODE_BITMAP, .has_kernel_writer = true });
}

/* Writes stay in the PML buffer until the vCPU leaves the guest. */
static void ring_and_bitmap_with_pml(void **state)
{
	static const uint32_t modes[] = { DL_MODE_RING, DL_MODE_BITMAP };

	for (int i = 0; i < 2; i++) {
		const struct guest_config config = {
			.model = { .pml_entries = 512 },
			.options = { .mode = modes[i], .ring_entries = 1024 },
		};

		migration_open(&migration, &config, 2);
		migration_start(&migration, 0);
		migration_run(&migration);
		migration_passes(&migration, passes, 4 * writes);
		migration_finish(&migration);
		assert_int_equal(migration_stats(&migration).overflows, 0);
		migration_close(&migration);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		migration_test(ring_tso),
		migration_test(ring_acquire_release),
		migration_test(ring_with_backup_and_kernel_writer),
		migration_test(ring_with_manual_protect),
		migration_test(auto_takes_the_bitmap_if_a_ring_alone_is_not_safe),
		migration_test(auto_takes_the_bitmap_if_backup_is_required),
		migration_test(bitmap_initially_set),
		migration_test(bitmap_with_manual_protect),
		migration_test(bitmap_cleared_by_get),
		migration_test(ring_and_bitmap_with_pml),
	};

	if (argc > 1 && !strcmp(argv[1], "--long")) {
		is_long = true;
		passes = 12;
		writes = 1500;
	}
	return RUN_TESTS("migrations in every mode", tests);
}
