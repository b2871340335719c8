/* SPDX-License-Identifier: MIT */
/*
 * Random lives of VMs (life.h), one after the other: no migration may lose a page, and the memory,
 * mappings and descriptors of the process may not grow.
 *
 * The default is 30 migrations. --migrations N, --seconds N or --minutes N set another length,
 * --seed N selects other lives, and --life M together with it runs only that life.
 */
#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "life.h"
#include "rig.h"
#include "usage.h"

enum {
	PROGRESS_SECONDS = 10,
	WARM_LIVES = 6, /* enough to have seen every kind of VM and about the most threads */
	/*
	 * Allowed variation between lives: thread stacks that the C library caches, with a few
	 * touched pages and two mappings each, and small free chunks that malloc caches and counts
	 * as in use. A leak in every life exceeds this in time.
	 */
	SLACK_RESIDENT_BYTES = 256 << 10,
	SLACK_HEAP_BYTES = 4 << 10,
	SLACK_MAPPINGS = 16,
};

static struct {
	uint64_t seed, migrations, seconds, life;
	bool one_life;
} wanted = { .seed = 1, .migrations = 30 };

static char repeat_options[80]; /* options that repeat the current life */

static void keep_maximum(struct usage *most, const struct usage *now)
{
	if (now->resident_bytes > most->resident_bytes)
		most->resident_bytes = now->resident_bytes;
	if (now->heap_bytes > most->heap_bytes)
		most->heap_bytes = now->heap_bytes;
	if (now->mappings > most->mappings)
		most->mappings = now->mappings;
	if (now->fds > most->fds)
		most->fds = now->fds;
}

static void expect_no_growth(const struct usage *warm, const struct usage *now)
{
	assert_int_equal(now->fds, warm->fds);
	if (USAGE_KEEPS_MEMORY)
		return;
	if (now->resident_bytes > warm->resident_bytes + SLACK_RESIDENT_BYTES)
		fail_msg("%" PRIu64 " KiB resident, expected about %" PRIu64,
			 now->resident_bytes >> 10, warm->resident_bytes >> 10);
	if (now->heap_bytes > warm->heap_bytes + SLACK_HEAP_BYTES)
		fail_msg("%" PRIu64 " bytes of heap, expected about %" PRIu64, now->heap_bytes,
			 warm->heap_bytes);
	if (now->mappings > warm->mappings + SLACK_MAPPINGS)
		fail_msg("%u mappings, expected about %u", now->mappings, warm->mappings);
}

static uint64_t now_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec;
}

static void print_progress(uint64_t seconds, const struct life_tally *t, const struct usage *now)
{
	printf("%" PRIu64 " s: %" PRIu64 " VMs, %" PRIu64 " migrations: %" PRIu64
	       " to the end, %" PRIu64 " stopped, %" PRIu64 " closed (%" PRIu64
	       " logs opened again)\n"
	       "  %" PRIu64 " passes, %" PRIu64 " pages written by generation, %" PRIu64
	       " sent, %" PRIu64 " compared; %" PRIu64 " slot changes; vCPUs: %" PRIu64
	       " added, %" PRIu64 " parked; %" PRIu64 " full exits, %" PRIu64 " overflows\n"
	       "  %" PRIu64 " KiB resident, %" PRIu64 " bytes of heap, %u mappings, %u fds\n",
	       seconds, t->lives, t->migrations, t->completed, t->stopped, t->closed, t->reopened,
	       t->passes, t->pages_written, t->pages_sent, t->pages_compared, t->slot_changes,
	       t->vcpus_added, t->vcpus_parked, t->full_exits, t->overflows,
	       now->resident_bytes >> 10, now->heap_bytes, now->mappings, now->fds);
}

static bool is_enough(const struct life_tally *tally, uint64_t seconds)
{
	if (wanted.one_life)
		return tally->lives == 1;
	if (wanted.seconds)
		return seconds >= wanted.seconds;
	return tally->migrations >= wanted.migrations;
}

static void lives_lose_no_page_and_leak_nothing(void **state)
{
	struct life_tally tally = { 0 };
	struct usage warm = { 0 }, now = { 0 };
	uint64_t begin = now_seconds(), printed = begin, seconds = 0, life;

	(void)state;
	while (!is_enough(&tally, seconds)) {
		uint64_t left = wanted.seconds || wanted.one_life
					? UINT64_MAX
					: wanted.migrations - tally.migrations;

		life = wanted.one_life ? wanted.life : tally.lives;
		snprintf(repeat_options, sizeof(repeat_options),
			 "--seed %" PRIu64 " --life %" PRIu64, wanted.seed, life);
		machine_watchdog(repeat_options, MACHINE_WATCHDOG_SECONDS);
		life_run(wanted.seed * 1000003 + life, left, &tally);
		now = usage_measure();
		if (tally.lives <= WARM_LIVES)
			keep_maximum(&warm, &now);
		else
			expect_no_growth(&warm, &now);
		seconds = now_seconds() - begin;
		if (now_seconds() - printed >= PROGRESS_SECONDS) {
			print_progress(seconds, &tally, &now);
			printed = now_seconds();
		}
	}
	print_progress(seconds, &tally, &now);
	assert_true(tally.pages_compared > 0 || wanted.one_life);
}

static int read_options(int argc, char **argv)
{
	static const struct option known[] = { { "seed", required_argument, NULL, 's' },
					       { "life", required_argument, NULL, 'l' },
					       { "migrations", required_argument, NULL, 'n' },
					       { "seconds", required_argument, NULL, 't' },
					       { "minutes", required_argument, NULL, 'm' },
					       { NULL, 0, NULL, 0 } };
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		uint64_t number = optarg ? strtoull(optarg, NULL, 0) : 0;

		if (c == 's')
			wanted.seed = number;
		else if (c == 'l')
			wanted.life = number, wanted.one_life = true;
		else if (c == 'n')
			wanted.migrations = number;
		else if (c == 't')
			wanted.seconds = number;
		else if (c == 'm')
			wanted.seconds = 60 * number;
		else
			return -1;
	}
	return optind < argc ? -1 : 0;
}

/* Chunks in the malloc cache of a thread count as in use, and the caches keep growing for hours. */
static void start_without_malloc_caches(char **argv)
{
	if (getenv("GLIBC_TUNABLES"))
		return;
	setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0", 1);
	execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		rig_test(lives_lose_no_page_and_leak_nothing),
	};
	int failures;

	start_without_malloc_caches(argv);
	if (read_options(argc, argv)) {
		fprintf(stderr, "options: --seed N, --life N, --migrations N, --seconds N, "
				"--minutes N\n");
		return 2;
	}
	/* A single arena for all threads, so that malloc returns memory to the system. */
	mallopt(M_ARENA_MAX, 1);
	failures = rig_run_tests("endurance", tests);
	if (failures)
		printf("repeat with: %s\n", repeat_options);
	return failures;
}
