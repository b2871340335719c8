/* SPDX-License-Identifier: MIT */
/*
 * Fails every system call and every allocation in the life of a log, one at a time, each in a tour
 * of its own: with ENOMEM and with a second errno value that varies from site to site. --long uses
 * every possible errno value, and also fails each request twice in a row, and after it was
 * executed.
 */
#include "sanitized.h"
#include "tour.h"

#include "cmocka_all.h"
#include "../model/uffd_scan.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* A test that hangs has left a lock held. */
enum { MAX_SECONDS = 300 };

static const int ioctl_errors[] = {
	EINTR, EAGAIN, EFAULT, ENOMEM, EIO, ENOENT, EINVAL, EBADF, ENOTTY, EPERM, ENOSPC, EBUSY,
};
static const int map_errors[] = { EAGAIN, ENOMEM, EPERM, EINVAL, ENODEV, EACCES };
static const int few_errors[] = { EINVAL, ENOMEM, EPERM };
static const int no_memory[] = { ENOMEM };

struct errors {
	const int *values;
	unsigned int count;
};

#define ERRORS(array) ((struct errors){ array, sizeof(array) / sizeof((array)[0]) })

static struct errors errors_of(unsigned long request)
{
	switch (request) {
	case SITE_ALLOCATION:
		return ERRORS(no_memory);
	case SITE_MMAP:
	case SITE_MMAP_VCPU:
		return ERRORS(map_errors);
	case SITE_MUNMAP:
	case SITE_SIGNAL_MASK:
	case SITE_DUP:
	case SITE_MADVISE:
	case SITE_MPROTECT:
	case SITE_CLOSE:
	case SITE_TIMER:
	case SITE_TIMER_SET:
	case SITE_USERFAULTFD:
	case SITE_PAGEMAP:
		return ERRORS(few_errors);
	default:
		return ERRORS(ioctl_errors);
	}
}

/* Number of tours by call and request, for the table. */
struct row {
	enum tour_call call;
	unsigned long request;
	unsigned int sites, runs, returned, swallowed;
};

enum { ROWS = 128 };

static struct row rows[ROWS];
static unsigned int row_count;
static uint32_t times = 1;
static bool executed;
static bool exhaustive;
static unsigned int tours;

static struct row *row_of(enum tour_call call, unsigned long request)
{
	for (unsigned int i = 0; i < row_count; i++)
		if (rows[i].call == call && rows[i].request == request)
			return &rows[i];
	assert_true(row_count < ROWS);
	rows[row_count] = (struct row){ .call = call, .request = request };
	return &rows[row_count++];
}

static void note(const struct tour_result *result, bool first)
{
	struct row *row = row_of(result->call, result->request);

	row->sites += first;
	row->runs++;
	row->returned += result->returned;
	row->swallowed += !result->returned;
}

/* True if the kernel can fail this request after executing it. */
static bool can_fail_when_executed(unsigned long request)
{
	return request == KVM_GET_DIRTY_LOG || request == KVM_CLEAR_DIRTY_LOG ||
	       request == KVM_RESET_DIRTY_RINGS || request == MODEL_PAGEMAP_SCAN;
}

/* Returns the number of problems. Sets *more to false if there is no such site. */
static unsigned int fail_site(const struct tour_mode *mode, uint32_t site, bool *more)
{
	struct site_fault fault = { .at = site, .times = 1, .error = ENOMEM };
	struct tour_result result;
	unsigned int problems;
	struct errors errors;

	/* The first failure tells which request this is. */
	tours++;
	tour_run(mode, &fault, NULL, &result);
	*more = result.hit;
	if (!result.hit || (executed && !can_fail_when_executed(result.request)))
		return result.problems;
	problems = result.problems;
	note(&result, true);
	errors = errors_of(result.request);
	fault.times = times;
	fault.executed = executed;
	for (unsigned int i = 0; i < errors.count; i++) {
		fault.error = errors.values[i];
		if (exhaustive ? fault.error == ENOMEM && times == 1 && !executed
			       : i != site % errors.count)
			continue;
		tours++;
		tour_run(mode, &fault, NULL, &result);
		assert_true(result.hit);
		note(&result, false);
		problems += result.problems;
	}
	return problems;
}

static void fail_every_site(const struct tour_mode *mode)
{
	struct tour_result clean;
	unsigned int problems = 0;
	bool more = true;

	tour_run(mode, NULL, NULL, &clean);
	assert_int_equal(clean.problems, 0);
	assert_true(clean.sites > 100);
	/* Sanitizers are slow, so they test only some of the sites. */
	for (uint32_t site = 1; more; site += SANITIZED ? 11 : 1)
		problems += fail_site(mode, site, &more);
	assert_int_equal(problems, 0);
}

static void a_fault_at_any_site_is_handled(void **state)
{
	fail_every_site(*state);
}

static void print_table(void)
{
	unsigned int sites = 0, runs = 0;

	printf("%-20s %-24s %6s %6s %9s %10s\n", "call", "site", "sites", "runs", "returned",
	       "swallowed");
	for (int call = 0; call < TOUR_CALLS; call++)
		for (unsigned int i = 0; i < row_count; i++) {
			const struct row *row = &rows[i];

			if (row->call != (enum tour_call)call)
				continue;
			printf("%-20s %-24s %6u %6u %9u %10u\n", tour_call_name(row->call),
			       sites_request_name(row->request), row->sites, row->runs,
			       row->returned, row->swallowed);
			sites += row->sites;
			runs += row->runs;
		}
	printf("%-20s %-24s %6u %6u\n", "all", "", sites, runs);
}

int main(int argc, char **argv)
{
	struct CMUnitTest tests[TOUR_MODES];
	int failures = 0;

	for (int i = 0; i < TOUR_MODES; i++)
		tests[i] =
			(struct CMUnitTest){ .name = tour_modes[i].name,
					     .test_func = a_fault_at_any_site_is_handled,
					     .initial_state = (void *)(uintptr_t)&tour_modes[i] };
	if (SANITIZED_THREADS) {
		printf("skip: a single thread, of no use with ThreadSanitizer\n");
		return 77;
	}
	/* Do not return memory to the system after each tour. */
	mallopt(M_MMAP_THRESHOLD, 1 << 24);
	mallopt(M_TRIM_THRESHOLD, 1 << 26);
	alarm(MAX_SECONDS);
	exhaustive = argc > 1 && !strcmp(argv[1], "--long");
	failures += RUN_TESTS("faults", tests);
	if (exhaustive) {
		print_table();
		times = 2;
		failures += RUN_TESTS("faults twice in a row", tests);
		times = 1;
		executed = true;
		failures += RUN_TESTS("faults after execution", tests);
	}
	printf("%u tours with a fault\n", tours);
	return failures;
}
