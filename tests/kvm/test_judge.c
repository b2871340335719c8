/* SPDX-License-Identifier: MIT */
/*
 * Every store has a number of its own, and with the vCPUs stopped the log must have reported
 * exactly the pages that were written: in every mode, with all ring sizes, from both kinds of
 * guest, in tight bursts, and from huge pages.
 */
#include "judge.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ITERATIONS = 8, SLOW_ITERATIONS = 3, LONG_ITERATIONS = 25, MAX_CASES = 200 };

struct judge_case {
	char name[64];
	struct rig_config config;
	int manual_protect; /* what the kernel pretends to have; -1: the truth */
	struct judge_options options;
};

static struct judge_case cases[MAX_CASES];
static struct CMUnitTest tests[MAX_CASES + 2];
static size_t case_count;
static unsigned int iterations = ITERATIONS;
static struct spy spy; /* outlives a test that fails, as the rig does */

static struct judge_verdict run(const struct judge_case *c)
{
	struct rig_config config = c->config;
	struct rig *rig;

	spy_init(&spy);
	if (c->manual_protect >= 0) {
		spy_pretend(&spy, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, c->manual_protect);
		config.spy = &spy;
	}
	rig = rig_new(&config);
	if (c->manual_protect >
	    machine_capability(&rig->machine, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2))
		rig_skip("this kernel does not support manual protect of kind %d",
			 c->manual_protect);
	return judge_run(rig, &c->options);
}

static void judge(void **state)
{
	const struct judge_verdict verdict = run(*state);

	print_message("%" PRIu64 " pages written, %" PRIu64 " repairs\n", verdict.written,
		      verdict.repairs);
	assert_true(verdict.written >= iterations);
	assert_int_equal(verdict.missing, 0);
	assert_int_equal(verdict.stale, 0);
	assert_int_equal(verdict.extra, 0);
}

static const struct judge_case faulty = {
	.config = { .guest = GUEST_USER, .vcpus = 1 },
	.manual_protect = -1,
	.options = { .clean = true, .iterations = 1 },
};

static void a_dropped_page_is_missing(void **state)
{
	struct judge_case c = faulty;
	struct judge_verdict verdict;

	c.options.mistake = JUDGE_DROP;
	verdict = run(&c);
	assert_int_equal(verdict.missing, 1);
	assert_int_equal(verdict.stale, 1);
	assert_int_equal(verdict.extra, 0);
}

static void a_page_that_is_read_early_is_stale(void **state)
{
	struct judge_case c = faulty;
	struct judge_verdict verdict;

	c.options.mistake = JUDGE_READ_EARLY;
	verdict = run(&c);
	assert_int_equal(verdict.stale, 1);
	assert_int_equal(verdict.missing + verdict.extra, 0);
}

static void add_case(const char *mode, const struct judge_case *like, unsigned int i)
{
	static const char *const patterns[] = { "random", "burst", "sweep" };
	struct judge_case *c = &cases[case_count];

	if (case_count == MAX_CASES)
		return;
	*c = *like;
	c->config.guest = i & 1 ? GUEST_KERNEL : GUEST_USER;
	c->config.vcpus = 1 + (i / 2 + case_count) % JUDGE_VCPUS;
	c->options = (struct judge_options){
		.pattern = (enum judge_pattern)(i / 2),
		.huge = i / 2 != JUDGE_BURST,
		.clean = case_count % 3 != 0,
		.iterations = iterations,
	};
	snprintf(c->name, sizeof(c->name), "%s_%s_%s_guest_%u_vcpus", mode, patterns[i / 2],
		 i & 1 ? "kernel" : "user", c->config.vcpus);
	tests[case_count++] = (struct CMUnitTest){
		.name = c->name,
		.test_func = judge,
		.teardown_func = rig_teardown,
		.initial_state = c,
	};
}

static void add_cases(const char *mode, const struct judge_case *like)
{
	for (unsigned int i = 0; i < 6; i++)
		add_case(mode, like, i);
}

static void add_all_cases(void)
{
	static const uint32_t entries[] = { 256, 512, 1024, 4096, 65536 };
	static const char *const bitmaps[] = { "cleared_by_get", "manual_protect", NULL,
					       "initially_set" };
	struct judge_case like = { .manual_protect = -1 };

	add_cases("auto", &like);
	like.config.backup = DL_BACKUP_OFF;
	add_cases("auto_without_backup", &like);
	like.config.backup = DL_BACKUP_AUTO;
	like.config.mode = DL_MODE_RING;
	for (size_t i = 0; i < sizeof(entries) / sizeof(entries[0]); i++) {
		char name[32];

		snprintf(name, sizeof(name), "ring_%u", entries[i]);
		like.config.ring_entries = entries[i];
		add_cases(name, &like);
	}
	like.config = (struct rig_config){ .mode = DL_MODE_BITMAP };
	for (like.manual_protect = 0; like.manual_protect <= 3; like.manual_protect++)
		if (bitmaps[like.manual_protect])
			add_cases(bitmaps[like.manual_protect], &like);
}

int main(int argc, char **argv)
{
	/* Set where a processor is emulated. */
	if (getenv("DIRTYLOG_PATIENCE"))
		iterations = SLOW_ITERATIONS;
	if (argc > 1 && !strcmp(argv[1], "--long"))
		iterations = LONG_ITERATIONS;
	add_all_cases();
	tests[case_count] = (struct CMUnitTest)rig_test(a_dropped_page_is_missing);
	tests[case_count + 1] = (struct CMUnitTest)rig_test(a_page_that_is_read_early_is_stale);
	return rig_run("judge", tests, case_count + 2);
}
