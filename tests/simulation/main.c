/* SPDX-License-Identifier: MIT */
/* The command line: runs many seeds, or one. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "run.h"

static const char usage[] =
	"Usage: simulation [option]...\n"
	"\n"
	"Runs the library against the model kernel, with all actors as coroutines on one thread.\n"
	"A seed determines the schedule and the faults. After each run the copy must equal the\n"
	"memory.\n"
	"\n"
	"  --seed N       one run: prints its plan, its schedule and its result\n"
	"  --first N      the first seed of many; default 1\n"
	"  --schedules N  number of runs; default 20000, or no limit with --seconds\n"
	"  --seconds N    stop after this time\n"
	"  --jobs N       number of processes; default 1\n"
	"  --keep-going   report every failing seed, not only the first\n"
	"  --shrink       reduce the failure before it is reported\n"
	"  --help         this text\n"
	"\n"
	"Exit status: 0 if no run failed, 1 if one did, 2 for a wrong option.\n";

struct arguments {
	bool one, shrink, keep_going;
	uint64_t seed, first, schedules, seconds, jobs;
};

/* Totals of all processes. */
struct shared {
	uint64_t schedules, failures, first_failing, points, switches;
	uint64_t with_overflow, with_faults, with_torn, excused, sessions, passes, full_exits, late,
		inexact, pauses, looks;
};

static struct shared *shared;
static struct plan plan;

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void add(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

static void count(const struct world_counts *counts)
{
	add(&shared->schedules, 1);
	add(&shared->points, counts->points);
	add(&shared->switches, counts->switches);
	add(&shared->with_overflow, counts->overwritten != 0);
	add(&shared->with_faults, counts->faults != 0);
	add(&shared->with_torn, counts->torn != 0);
	add(&shared->excused, counts->excused != 0);
	add(&shared->sessions, counts->sessions);
	add(&shared->passes, counts->passes);
	add(&shared->full_exits, counts->full_exits);
	add(&shared->late, counts->late);
	add(&shared->inexact, counts->inexact);
	add(&shared->pauses, counts->pauses);
	add(&shared->looks, counts->looks);
}

static void report_failure(uint64_t seed, const struct outcome *outcome)
{
	printf("seed %lu: %s: %s\n", (unsigned long)seed, failure_names[outcome->failure],
	       outcome->text);
	fflush(stdout);
}

/* Runs every jobs-th seed. */
static void run_many(const struct arguments *a, uint64_t job)
{
	uint64_t end_ms = a->seconds ? now_ms() + a->seconds * 1000 : UINT64_MAX;

	for (uint64_t i = job; i < a->schedules && now_ms() < end_ms; i += a->jobs) {
		struct outcome outcome;

		if (!a->keep_going && __atomic_load_n(&shared->failures, __ATOMIC_RELAXED))
			return;
		plan_make(&plan, a->first + i);
		run_plan(&plan, NULL, NULL, &outcome);
		count(&outcome.counts);
		if (!outcome.failure)
			continue;
		if (!__atomic_fetch_add(&shared->failures, 1, __ATOMIC_RELAXED))
			shared->first_failing = a->first + i;
		report_failure(a->first + i, &outcome);
	}
}

static void run_jobs(const struct arguments *a)
{
	int status;

	for (uint64_t job = 1; job < a->jobs; job++) {
		pid_t child = fork();

		if (child < 0) {
			perror("fork");
			exit(1);
		}
		if (!child) {
			run_many(a, job);
			_exit(0);
		}
	}
	run_many(a, 0);
	while (wait(&status) > 0)
		if (status)
			add(&shared->failures, 1);
}

static int run_one(const struct arguments *a)
{
	struct outcome outcome;

	plan_make(&plan, a->seed);
	plan_print(&plan, stdout);
	run_plan(&plan, NULL, stdout, &outcome);
	report_failure(a->seed, &outcome);
	if (outcome.failure && a->shrink)
		shrink_and_report(&plan, &outcome, a->seconds ? (uint32_t)a->seconds : 60);
	return outcome.failure ? 1 : 0;
}

static int run_all(const struct arguments *a)
{
	uint64_t begin_ms = now_ms(), ms;
	struct arguments one = *a;

	run_jobs(a);
	ms = now_ms() - begin_ms + 1;
	printf("%lu schedules in %lu.%lu s, %lu a minute; %lu points and %lu switches each\n",
	       (unsigned long)shared->schedules, (unsigned long)(ms / 1000),
	       (unsigned long)(ms / 100 % 10), (unsigned long)(shared->schedules * 60000 / ms),
	       (unsigned long)(shared->points / (shared->schedules + !shared->schedules)),
	       (unsigned long)(shared->switches / (shared->schedules + !shared->schedules)));
	printf("%lu with cells overwritten, %lu with faults, %lu with a torn cell (%lu excused); "
	       "%lu sessions, %lu passes, %lu pages sent late, "
	       "%lu takes during a change, %lu full exits, %lu pauses, %lu looks of plans\n",
	       (unsigned long)shared->with_overflow, (unsigned long)shared->with_faults,
	       (unsigned long)shared->with_torn, (unsigned long)shared->excused,
	       (unsigned long)shared->sessions, (unsigned long)shared->passes,
	       (unsigned long)shared->late, (unsigned long)shared->inexact,
	       (unsigned long)shared->full_exits, (unsigned long)shared->pauses,
	       (unsigned long)shared->looks);
	printf("%lu failed\n", (unsigned long)shared->failures);
	if (!shared->failures)
		return 0;
	printf("to repeat it with its schedule: --seed %lu\n",
	       (unsigned long)shared->first_failing);
	if (a->shrink) {
		one.seed = shared->first_failing;
		one.seconds = 0;
		(void)run_one(&one);
	}
	return 1;
}

static uint64_t number(char **argv, int *i)
{
	char *end;
	uint64_t n;

	if (!argv[*i + 1]) {
		fprintf(stderr, "simulation: %s needs a number; see --help\n", argv[*i]);
		exit(2);
	}
	++*i;
	n = strtoull(argv[*i], &end, 0);
	if (*end || end == argv[*i]) {
		fprintf(stderr, "simulation: %s is not a number; see --help\n", argv[*i]);
		exit(2);
	}
	return n;
}

static void read_arguments(int argc, char **argv, struct arguments *a)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--seed")) {
			a->one = true;
			a->seed = number(argv, &i);
		} else if (!strcmp(argv[i], "--first")) {
			a->first = number(argv, &i);
		} else if (!strcmp(argv[i], "--schedules")) {
			a->schedules = number(argv, &i);
		} else if (!strcmp(argv[i], "--seconds")) {
			a->seconds = number(argv, &i);
		} else if (!strcmp(argv[i], "--jobs")) {
			a->jobs = number(argv, &i);
		} else if (!strcmp(argv[i], "--keep-going")) {
			a->keep_going = true;
		} else if (!strcmp(argv[i], "--shrink")) {
			a->shrink = true;
		} else if (!strcmp(argv[i], "--help")) {
			fputs(usage, stdout);
			exit(0);
		} else {
			fprintf(stderr, "simulation: unknown option %s; see --help\n", argv[i]);
			exit(2);
		}
	}
	if (!a->jobs)
		a->jobs = 1;
	if (!a->schedules)
		a->schedules = a->seconds ? UINT64_MAX : 20000;
}

int main(int argc, char **argv)
{
	struct arguments a = { .first = 1 };

	read_arguments(argc, argv, &a);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED)
		return 1;
	return a.one ? run_one(&a) : run_all(&a);
}
