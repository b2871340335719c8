/* SPDX-License-Identifier: MIT */
/*
 * The model against this machine's kernel: random scripts of raw operations, made from a seed, must
 * have the same answers on both. A script whose answers differ is shrunk and printed as C, and can
 * be run again with --kind NAME --seed N.
 */
#include <getopt.h>
#include <inttypes.h>
#include <time.h>

#include "differential.h"
#include "script.h"

static struct script_host host;
static struct script_tally tally;

static struct {
	uint64_t first_seed, scripts, seconds, seed;
	bool one;
} wanted = { .first_seed = 1, .scripts = 40 };

static const char *const kinds[SCRIPT_KINDS] = { "bitmap", "ring", "full", "broken", "kernel" };

static int probe_host(void **state)
{
	int r = look_at_host(state);

	host.options = options;
	if (!have_kvm)
		return r;
	host.emulates_kernel_mode = host_emulates_kernel_mode();
	printf("guests in kernel mode %s\n",
	       host.emulates_kernel_mode ? "are emulated in batches" : "run natively");
	return r;
}

static uint64_t now_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec;
}

/* Prints what is needed to reproduce the difference, then fails. */
static void report_difference(enum script_kind kind, uint64_t seed, struct script *script)
{
	uint32_t before = script->count, again;

	printf("%s: seed %" PRIu64 " differs; shrunk to:\n", kinds[kind], seed);
	script_shrink(script, &host);
	script_print(script);
	again = script_run(script, &host, NULL, SCRIPT_REPORT);
	printf("%u of %u operations; reproduce with --kind %s --seed %" PRIu64 "\n", script->count,
	       before, kinds[kind], seed);
	if (again == script->count)
		printf("the shrunk script does not differ when run again\n");
	fail_msg("the model and the kernel give different answers");
}

static void run_one(enum script_kind kind, uint64_t seed, enum script_verbosity verbosity)
{
	static struct script script;

	script_make(&script, kind, seed, &host);
	if (script_run(&script, &host, &tally, verbosity) != script.count)
		report_difference(kind, seed, &script);
}

static void progress(enum script_kind kind, uint64_t done)
{
	if (done % 100)
		return;
	machine_watchdog(kinds[kind], MACHINE_WATCHDOG_SECONDS);
	if (done % 1000)
		return;
	printf("%s: %" PRIu64 " scripts, all equal\n", kinds[kind], done);
}

static void print_tally(enum script_kind kind)
{
	printf("%s: %" PRIu64 " scripts, %" PRIu64 " operations (%" PRIu64 " refused), %" PRIu64
	       " stores (%" PRIu64 " found no memory), %" PRIu64 " entries, %" PRIu64
	       " full exits\n",
	       kinds[kind], tally.scripts, tally.ops, tally.refused_ops, tally.stores,
	       tally.lost_stores, tally.entries, tally.full_exits);
}

static void random_scripts(void **state)
{
	enum script_kind kind = *(const enum script_kind *)*state;
	uint64_t i, begin = now_seconds();

	need_host(kind == SCRIPT_BITMAP || kind == SCRIPT_KERNEL ? 0 : MODEL_HAS_RING_ACQ_REL);
	if (options.pml_entries && (kind == SCRIPT_FULL || kind == SCRIPT_BROKEN)) {
		print_message("skip: with PML it is not exact when a ring is full\n");
		skip();
	}
	memset(&tally, 0, sizeof(tally));
	if (wanted.one) {
		run_one(kind, wanted.seed, SCRIPT_TRACE);
		return;
	}
	for (i = 0; wanted.seconds ? now_seconds() - begin < wanted.seconds : i < wanted.scripts;
	     i++) {
		run_one(kind, wanted.first_seed + i, SCRIPT_REPORT);
		progress(kind, i + 1);
	}
	print_tally(kind);
}

/* A difference is found, is reproducible and shrinks, if the model has wrong options. */
static void a_wrong_model_is_found(void **state)
{
	static struct script script;
	struct script_host wrong = host;
	uint64_t seed;

	(void)state;
	need_host(0);
	/* A bitmap does not show that deleting a slot makes pages dirty twice; a ring does. */
	if (host.options.has & MODEL_HAS_RING_ACQ_REL)
		wrong.options.delete_unmaps_all = !wrong.options.delete_unmaps_all;
	else
		wrong.options.has ^= MODEL_HAS_INITIALLY_SET;
	for (seed = 1; seed <= 200; seed++) {
		script_make(&script, SCRIPT_KERNEL, seed, &host);
		if (script_run(&script, &wrong, NULL, SCRIPT_QUIET) != script.count)
			break;
	}
	assert_in_range(seed, 1, 200);
	script_shrink(&script, &wrong);
	assert_in_range(script.count, 1, 12);
	assert_int_equal(script_run(&script, &wrong, NULL, SCRIPT_QUIET), script.count - 1);
	assert_int_equal(script_run(&script, &host, NULL, SCRIPT_QUIET), script.count);
}

static int usage(void)
{
	fprintf(stderr, "options: --kind bitmap|ring|full|broken|kernel, --seed N (one script, "
			"traced),\n"
			"--first N, --scripts N or --seconds N (of each kind)\n");
	return 2;
}

static int read_options(int argc, char **argv)
{
	static const struct option known[] = { { "kind", required_argument, NULL, 'k' },
					       { "seed", required_argument, NULL, 's' },
					       { "first", required_argument, NULL, 'f' },
					       { "scripts", required_argument, NULL, 'n' },
					       { "seconds", required_argument, NULL, 't' },
					       { NULL, 0, NULL, 0 } };
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		uint64_t number = optarg ? strtoull(optarg, NULL, 0) : 0;

		if (c == 'k')
			cmocka_set_test_filter(optarg);
		else if (c == 's')
			wanted.seed = number, wanted.one = true;
		else if (c == 'f')
			wanted.first_seed = number;
		else if (c == 'n')
			wanted.scripts = number;
		else if (c == 't')
			wanted.seconds = number;
		else
			return -1;
	}
	return optind < argc ? -1 : 0;
}

/* Slow machines, such as emulated ones, run a fifth of the scripts. */
static void reduce_scripts(void)
{
	const char *patience = getenv("DIRTYLOG_PATIENCE");

	if (patience && atoi(patience) > 1)
		wanted.scripts /= 5;
}

int main(int argc, char **argv)
{
	static enum script_kind all[SCRIPT_KINDS];
	struct CMUnitTest tests[SCRIPT_KINDS + 1];
	uint32_t i;

	reduce_scripts();
	if (read_options(argc, argv))
		return usage();
	for (i = 0; i < SCRIPT_KINDS; i++) {
		all[i] = (enum script_kind)i;
		tests[i] = (struct CMUnitTest){ kinds[i], random_scripts, NULL, NULL, &all[i] };
	}
	tests[SCRIPT_KINDS] = (struct CMUnitTest)cmocka_unit_test(a_wrong_model_is_found);
	return cmocka_run_group_tests_name("model against kernel: random scripts", tests,
					   probe_host, NULL);
}
