/* SPDX-License-Identifier: MIT */
/*
 * The model against this machine's kernel, by chance: scripts of every kind of raw operation, made
 * from a seed, and the same answers wanted. A script whose answers differ is made small, printed as
 * C, and made again by --kind NAME --seed N.
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

static int look(void **state)
{
	int r = look_at_host(state);

	host.options = options;
	if (!have_kvm)
		return r;
	host.emulates_kernel_mode = host_emulates_kernel_mode();
	printf("guests in kernel mode %s\n",
	       host.emulates_kernel_mode ? "are emulated in batches" : "run as others do");
	return r;
}

static uint64_t now_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec;
}

/* Prints all that is needed to look at it again, then fails. */
static void differs(enum script_kind kind, uint64_t seed, struct script *script)
{
	uint32_t before = script->count, again;

	printf("%s: seed %" PRIu64 " differs; made smaller:\n", kinds[kind], seed);
	script_shrink(script, &host);
	script_print(script);
	again = script_run(script, &host, NULL, SCRIPT_TELL);
	printf("%u of %u operations; again: --kind %s --seed %" PRIu64 "\n", script->count, before,
	       kinds[kind], seed);
	if (again == script->count)
		printf("the same script has given the same answers just now\n");
	fail_msg("the model and the kernel differ");
}

static void run_one(enum script_kind kind, uint64_t seed, enum script_talk talk)
{
	static struct script script;

	script_make(&script, kind, seed, &host);
	if (script_run(&script, &host, &tally, talk) != script.count)
		differs(kind, seed, &script);
}

static void progress(enum script_kind kind, uint64_t done)
{
	if (done % 100)
		return;
	machine_watchdog(kinds[kind], MACHINE_WATCHDOG_SECONDS);
	if (done % 1000)
		return;
	printf("%s: %" PRIu64 " scripts, all the same\n", kinds[kind], done);
}

static void tell_tally(enum script_kind kind)
{
	printf("%s: %" PRIu64 " scripts, %" PRIu64 " operations (%" PRIu64 " refused), %" PRIu64
	       " stores (%" PRIu64 " found no memory), %" PRIu64 " entries, %" PRIu64
	       " full exits\n",
	       kinds[kind], tally.scripts, tally.ops, tally.refused_ops, tally.stores,
	       tally.lost_stores, tally.entries, tally.full_exits);
}

static void by_chance(void **state)
{
	enum script_kind kind = *(const enum script_kind *)*state;
	uint64_t i, begin = now_seconds();

	need_host(kind == SCRIPT_BITMAP || kind == SCRIPT_KERNEL ? 0 : MODEL_HAS_RING_ACQ_REL);
	if (options.pml_entries && (kind == SCRIPT_FULL || kind == SCRIPT_BROKEN)) {
		print_message("skip: when a ring is full here is a matter of a buffer\n");
		skip();
	}
	memset(&tally, 0, sizeof(tally));
	if (wanted.one) {
		run_one(kind, wanted.seed, SCRIPT_TRACE);
		return;
	}
	for (i = 0; wanted.seconds ? now_seconds() - begin < wanted.seconds : i < wanted.scripts;
	     i++) {
		run_one(kind, wanted.first_seed + i, SCRIPT_TELL);
		progress(kind, i + 1);
	}
	tell_tally(kind);
}

/* That a difference is found, comes back and becomes small: with a model that is told wrong. */
static void a_wrong_model_is_found(void **state)
{
	static struct script script;
	struct script_host wrong = host;
	uint64_t seed;

	(void)state;
	need_host(0);
	/* In a bitmap a page that was written twice shows as one that was written once. */
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
	fprintf(stderr,
		"options: --kind bitmap|ring|full|broken|kernel, --seed N (one script, told "
		"step by step),\n"
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

/* Where everything takes long, on an emulated machine, say, a fifth has to do. */
static void be_patient(void)
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

	be_patient();
	if (read_options(argc, argv))
		return usage();
	for (i = 0; i < SCRIPT_KINDS; i++) {
		all[i] = (enum script_kind)i;
		tests[i] = (struct CMUnitTest){ kinds[i], by_chance, NULL, NULL, &all[i] };
	}
	tests[SCRIPT_KINDS] = (struct CMUnitTest)cmocka_unit_test(a_wrong_model_is_found);
	return cmocka_run_group_tests_name("model against kernel: by chance", tests, look, NULL);
}
