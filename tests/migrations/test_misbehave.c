/* SPDX-License-Identifier: MIT */
/*
 * A kernel that fails or misbehaves now and then: either the copy still equals the memory, or a
 * call has returned an error and repeating it makes the copy equal.
 */
#include "cmocka_all.h"
#include "migration.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

enum { WRITES = 40, MOST_FAILURES = 12 };

static struct migration migration;
static struct guest *guest;
static unsigned int seeds = 6;

struct mode {
	uint32_t has, mode;
};

static const struct mode modes[] = {
	{ MODEL_HAS_RING_ACQ_REL, DL_MODE_RING },
	{ MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP | MODEL_HAS_MANUAL_PROTECT, DL_MODE_RING },
	{ MODEL_HAS_MANUAL_PROTECT | MODEL_HAS_INITIALLY_SET, DL_MODE_BITMAP },
	{ MODEL_HAS_MANUAL_PROTECT, DL_MODE_BITMAP },
	{ MODEL_HAS_NOTHING, DL_MODE_BITMAP },
};

enum { MODES = sizeof(modes) / sizeof(modes[0]) };

static void begin(const struct mode *mode)
{
	const struct guest_config config = { .model = { .has = mode->has },
					     .options = { .mode = mode->mode,
							  .ring_entries = 256 } };

	migration_open(&migration, &config, 3);
	guest = &migration.guest;
	migration.readers = 2;
}

static void finish_retrying(void)
{
	migration_stop(&migration);
	guest_stop(guest);
	migration_pass_again(&migration, DL_HARVEST_PAUSED, MOST_FAILURES);
	checker_expect_equal(&migration.checker);
	migration_close(&migration);
}

/* Each pass must succeed in spite of the fault. */
static void misbehave_in_resets(const struct model_reset_fault *fault)
{
	for (int i = 0; i < 2; i++) {
		begin(&modes[i]);
		migration_start(&migration, i ? DL_CURSOR_CLEAN : 0);
		migration_run(&migration);
		for (int pass = 0; pass < 12; pass++) {
			migration_wait(&migration, WRITES);
			if (pass % 2)
				model_reset_fault(guest->model, fault);
			migration_pass(&migration);
		}
		model_faults_clear(guest->model);
		assert_true(model_faults_injected(guest->model) > 0);
		finish_retrying();
	}
}

static void resets_may_end_early(void **state)
{
	for (uint32_t after = 0; after < 70; after += 23)
		misbehave_in_resets(&(struct model_reset_fault){
			.times = 1, .stop = true, .stop_after_entries = after });
}

static void resets_may_end_early_and_lose_their_batch(void **state)
{
	for (uint32_t after = 0; after < 70; after += 23)
		misbehave_in_resets(&(struct model_reset_fault){ .times = 1,
								 .stop = true,
								 .stop_after_entries = after,
								 .drop_batch = true });
}

static void resets_may_end_early_repeatedly(void **state)
{
	misbehave_in_resets(&(struct model_reset_fault){
		.times = 5, .stop = true, .stop_after_entries = 7, .drop_batch = true });
	misbehave_in_resets(&(struct model_reset_fault){ .times = 3, .stop = true });
}

struct failure {
	unsigned long request;
	int error;
	bool after;
};

static const struct failure failures[] = {
	{ KVM_RESET_DIRTY_RINGS, EIO, false },	       { KVM_RESET_DIRTY_RINGS, ENOMEM, true },
	{ KVM_GET_DIRTY_LOG, EFAULT, true },	       { KVM_GET_DIRTY_LOG, ENOMEM, false },
	{ KVM_CLEAR_DIRTY_LOG, EFAULT, false },	       { KVM_CLEAR_DIRTY_LOG, EIO, true },
	{ KVM_SET_USER_MEMORY_REGION, ENOMEM, false }, { KVM_SET_USER_MEMORY_REGION, EIO, true },
};

enum { FAILURES = sizeof(failures) / sizeof(failures[0]) };

static void inject(struct random *random, const struct failure *failure)
{
	const struct model_fault fault = { .request = failure->request,
					   .skip = (uint32_t)random_below(random, 4),
					   .times = 1,
					   .error = failure->error,
					   .after = failure->after };

	(void)model_fault(guest->model, &fault);
}

/* Repeats the start until it succeeds. */
static void start_retrying(uint32_t flags)
{
	int tries = 0;

	if (flags & DL_CURSOR_CLEAN)
		checker_equalize(&migration.checker);
	while (checker_join(&migration.checker, flags)) {
		assert_null(migration.checker.cursor);
		assert_true(++tries <= MOST_FAILURES);
	}
}

static void set_slot_retrying(struct dl_slot slot)
{
	for (int tries = 0; checker_slot_set(&migration.checker, &slot); tries++)
		assert_true(tries < MOST_FAILURES);
}

static void remove_slot_retrying(uint32_t number)
{
	for (int tries = 0; checker_slot_drop(&migration.checker, number, 0); tries++)
		assert_true(tries < MOST_FAILURES);
}

/* Whether a log of this mode makes the call at all. */
static bool makes_call(const struct mode *mode, unsigned long request)
{
	bool bitmap = mode->mode == DL_MODE_BITMAP;

	switch (request) {
	case KVM_RESET_DIRTY_RINGS:
		return !bitmap;
	case KVM_GET_DIRTY_LOG:
		return bitmap || mode->has & MODEL_HAS_BACKUP;
	case KVM_CLEAR_DIRTY_LOG:
		return bitmap && mode->has & MODEL_HAS_MANUAL_PROTECT;
	default:
		return true;
	}
}

/* One kind of failure in one mode, injected into every phase of a migration. */
static void migrate_with_failures(const struct mode *mode, const struct failure *failure,
				  uint64_t seed)
{
	struct random random = { .state = seed * 7919 + 1 };
	bool is_region = failure->request == KVM_SET_USER_MEMORY_REGION;
	/* If the ioctl changes a slot and then fails, no caller can know the slot's state. */
	bool slots_change = !is_region || !failure->after;
	struct dl_slot slot;

	begin(mode);
	if (slots_change) {
		slot = guest_slot(guest, 20, 8192, guest_memory(guest, 30), 0, 30);
		migration_add_blocks(&migration);
		migration_add_range(&migration, 0, 8192, 30);
	}
	inject(&random, failure);
	start_retrying(seed % 2 ? DL_CURSOR_CLEAN : 0);
	migration_run(&migration);
	for (int pass = 0; pass < 8; pass++) {
		migration_wait(&migration, WRITES);
		inject(&random, failure);
		migration_pass_again(&migration, 0, MOST_FAILURES);
		if (slots_change && pass % 3 == 1)
			set_slot_retrying(slot);
		if (slots_change && pass % 3 == 2)
			remove_slot_retrying(20);
		if (pass == 5) {
			migration_stop(&migration);
			checker_leave(&migration.checker);
			start_retrying(0);
			migration_run(&migration);
		}
	}
	inject(&random, failure);
	migration_stop(&migration);
	guest_stop(guest);
	migration_pass_again(&migration, DL_HARVEST_PAUSED, MOST_FAILURES);
	if (makes_call(mode, failure->request))
		assert_true(model_faults_injected(guest->model) > 0);
	else
		assert_int_equal(model_faults_injected(guest->model), 0);
	finish_retrying();
}

static void any_call_may_fail(void **state)
{
	for (uint64_t seed = 0; seed < seeds; seed++)
		for (uint32_t i = 0; i < MODES * FAILURES; i++)
			migrate_with_failures(&modes[i / FAILURES], &failures[i % FAILURES], seed);
}

/* All kinds of failures mixed, with resets that lose their batches. */
static void calls_and_resets_fail_together(void **state)
{
	unsigned int lives = 0; /* in which some fault was met */

	for (uint64_t seed = 0; seed < seeds; seed++) {
		struct random random = { .state = seed + 99 };
		const struct model_reset_fault lost = { .skip = 2,
							.times = 1,
							.stop = true,
							.stop_after_entries =
								(uint32_t)(seed % 6) * 5,
							.drop_batch = true };

		begin(&modes[seed % 2]);
		start_retrying(0);
		migration_run(&migration);
		for (int pass = 0; pass < 10; pass++) {
			migration_wait(&migration, WRITES);
			model_faults_clear(guest->model);
			model_reset_fault(guest->model, &lost);
			for (int i = 0; i < 3; i++)
				inject(&random, &failures[random_below(&random, FAILURES)]);
			migration_pass_again(&migration, 0, MOST_FAILURES);
		}
		model_faults_clear(guest->model);
		lives += model_faults_injected(guest->model) > 0;
		finish_retrying();
	}
	/* A fault may wait for a call that does not come. */
	assert_true(lives >= seeds / 2);
}

/* Each pass reports a permanent failure, and no write is lost once it is gone. */
static void each_pass_reports_a_permanent_failure(void **state)
{
	const struct model_fault fault = { .request = KVM_RESET_DIRTY_RINGS, .error = EIO };

	begin(&modes[0]);
	migration_start(&migration, 0);
	for (uint64_t page = 0; page < 100; page++)
		assert_int_equal(guest_write(guest, &guest->vcpus[0], 0, 16 + page), 0);
	assert_int_equal(model_fault(guest->model, &fault), 0);
	for (int i = 0; i < 20; i++)
		assert_int_equal(checker_pass(&migration.checker, 0, 1), -EIO);
	model_faults_clear(guest->model);
	finish_retrying();
}

static unsigned long positive_request;

static bool return_positive_errno(struct guest *g, int fd, unsigned long request, void *arg,
				  int *result)
{
	if (request != positive_request)
		return false;
	positive_request = 0;
	*result = ENOMEM;
	return true;
}

/* A table of system calls that returns errno instead of -errno: its failures are no successes. */
static void positive_results_are_errors(void **state)
{
	for (int i = 0; i < MODES; i++) {
		const bool bitmap = modes[i].mode == DL_MODE_BITMAP;

		begin(&modes[i]);
		guest->config.intercept = return_positive_errno;
		if (bitmap && modes[i].has & MODEL_HAS_MANUAL_PROTECT) {
			positive_request = KVM_ENABLE_CAP;
			assert_int_equal(checker_join(&migration.checker, 0), -EIO);
		}
		positive_request = KVM_SET_USER_MEMORY_REGION;
		assert_int_equal(checker_join(&migration.checker, 0), -EIO);
		migration_start(&migration, 0);
		migration_pass(&migration);
		assert_int_equal(guest_write(guest, &guest->vcpus[0], 0, 20), 0);
		guest_stop(guest);
		positive_request = KVM_GET_DIRTY_LOG;
		assert_int_equal(checker_pass(&migration.checker, DL_HARVEST_PAUSED, 1),
				 bitmap || modes[i].has & MODEL_HAS_BACKUP ? -EIO : 0);
		positive_request = KVM_CLEAR_DIRTY_LOG;
		assert_int_equal(checker_pass(&migration.checker, 0, 1),
				 bitmap && modes[i].has & MODEL_HAS_MANUAL_PROTECT ? -EIO : 0);
		positive_request = 0;
		finish_retrying();
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		migration_test(resets_may_end_early),
		migration_test(resets_may_end_early_and_lose_their_batch),
		migration_test(resets_may_end_early_repeatedly),
		migration_test(any_call_may_fail),
		migration_test(calls_and_resets_fail_together),
		migration_test(each_pass_reports_a_permanent_failure),
		migration_test(positive_results_are_errors),
	};

	if (argc > 1 && !strcmp(argv[1], "--long"))
		seeds = 60;
	return RUN_TESTS("migrations on a failing kernel", tests);
}
