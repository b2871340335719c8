/* SPDX-License-Identifier: MIT */
/* The two-scan rule: which of the pages that scans find were never marked. */
#include "pages/audit.h"

#include "cmocka_all.h"
#include "fake_os.h"

#include <stdbool.h>

/*
 * Every interleaving of two writers of one page with five scans. A scan begins, takes the page,
 * and ends, or fails; between any two of these steps a writer may write, and later mark.
 */
enum { SCANS = 5, STEPS = 3 * SCANS, PLACES = STEPS + 1, NEVER = PLACES, PAGE = 70, PAGES = 100 };

/* Steps before which a writer writes, and marks. */
struct writer {
	int writes, marks;
};

struct schedule {
	struct writer writers[2];
	unsigned int failed; /* a bit a scan; the first always is, as that which arms */
};

static struct fake_os fake;

static struct dli_audit *new_audit(uint64_t pages)
{
	struct dli_audit *audit;

	fake_os_init(&fake);
	assert_int_equal(dli_audit_new(&fake.os, pages, &audit), 0);
	return audit;
}

static void free_audit(struct dli_audit *audit)
{
	dli_audit_free(audit);
	assert_int_equal(fake.maps_live, 0);
}

static bool fails(const struct schedule *schedule, int scan)
{
	return schedule->failed >> scan & 1;
}

/* Forgets an earlier schedule, without the cost of a new mapping. */
static void reset(struct dli_audit *audit)
{
	struct dli_audit_cell *cell = &audit->cells[PAGE / 64];

	atomic_store(&cell->marked, 0);
	cell->before = cell->found = cell->waiting = 0;
	audit->failed = false;
}

/* Runs the schedule. Returns how often the page was missed. */
static int run(struct dli_audit *audit, const struct schedule *schedule)
{
	bool written = false;
	int missed = 0;

	reset(audit);
	for (int step = 0; step < STEPS; step++) {
		for (int w = 0; w < 2; w++) {
			written |= schedule->writers[w].writes == step;
			if (schedule->writers[w].marks == step)
				dli_audit_mark(audit, PAGE, 1);
		}
		if (step % 3 == 0) {
			dli_audit_begin(audit);
		} else if (step % 3 == 1) {
			if (written)
				dli_audit_found(audit, PAGE, 1);
			written = false;
		} else if (fails(schedule, step / 3)) {
			dli_audit_abandon(audit);
		} else {
			missed += dli_audit_judge(audit, PAGE / 64) != 0;
		}
	}
	return missed;
}

/* The last scan before this one that did not fail, or -1; the next one, or SCANS. */
static int scan_before(const struct schedule *schedule, int scan)
{
	do
		scan--;
	while (scan >= 0 && fails(schedule, scan));
	return scan;
}

static int scan_after(const struct schedule *schedule, int scan)
{
	do
		scan++;
	while (scan < SCANS && fails(schedule, scan));
	return scan;
}

/* True if something marks after step from has begun, and before step to. */
static bool is_marked(const struct schedule *schedule, int from, int to)
{
	for (int w = 0; w < 2; w++)
		if (schedule->writers[w].marks > from && schedule->writers[w].marks <= to)
			return true;
	return false;
}

/* True if this scan finds the page: it was written since the scan before had taken it. */
static bool finds(const struct schedule *schedule, int scan)
{
	int from = scan ? 3 * (scan - 1) + 1 : -1, to = 3 * scan + 1;

	for (int w = 0; w < 2; w++)
		if (schedule->writers[w].writes > from && schedule->writers[w].writes <= to)
			return true;
	return false;
}

/* The rule, as audit.h words it. */
static int expected(const struct schedule *schedule)
{
	int missed = 0;

	for (int scan = 1; scan < SCANS; scan++) {
		int before = scan_before(schedule, scan), after = scan_after(schedule, scan);

		if (fails(schedule, scan) || after == SCANS || !finds(schedule, scan))
			continue;
		missed += !is_marked(schedule, before < 0 ? -1 : 3 * before, 3 * after + 2);
	}
	return missed;
}

static void check(struct dli_audit *audit, const struct schedule *schedule)
{
	int missed = run(audit, schedule);

	if (missed != expected(schedule))
		fail_msg("writes before %d and %d, marks before %d and %d, failed %#x: %d, not %d",
			 schedule->writers[0].writes, schedule->writers[1].writes,
			 schedule->writers[0].marks, schedule->writers[1].marks, schedule->failed,
			 missed, expected(schedule));
}

/* The next writer: every pair of a write and a mark after it, or no mark. False: all were. */
static bool next_writer(struct writer *writer)
{
	if (++writer->marks <= NEVER)
		return true;
	writer->marks = ++writer->writes;
	return writer->writes < PLACES;
}

static void every_interleaving_obeys_the_rule(void **state)
{
	struct dli_audit *audit = new_audit(PAGES);
	struct schedule schedule = { 0 };
	unsigned long schedules = 0, missed = 0;

	for (schedule.failed = 1; schedule.failed < 1 << SCANS; schedule.failed += 2) {
		schedule.writers[0] = (struct writer){ 0, 0 };
		do {
			schedule.writers[1] = schedule.writers[0];
			do {
				check(audit, &schedule);
				missed += expected(&schedule) != 0;
				schedules++;
			} while (next_writer(&schedule.writers[1]));
		} while (next_writer(&schedule.writers[0]));
	}
	assert_in_range(schedules, 100000, UINT32_MAX);
	assert_in_range(missed, 1000, schedules);
	free_audit(audit);
}

/* Whatever the order: who marks before the scan after the one that finds it is never accused. */
static void a_writer_that_marks_in_time_is_never_accused(void **state)
{
	struct dli_audit *audit = new_audit(PAGES);
	struct schedule schedule = { .failed = 1 };
	unsigned long schedules = 0;

	do {
		int found = (schedule.writers[0].writes + 1) / 3;

		/* Its scan, and the end of the next one. */
		schedule.writers[1].writes = schedule.writers[1].marks = NEVER;
		if (schedule.writers[0].marks > 3 * (found + 1) + 2)
			continue;
		assert_int_equal(run(audit, &schedule), 0);
		schedules++;
	} while (next_writer(&schedule.writers[0]));
	assert_in_range(schedules, 50, 1000);
	free_audit(audit);
}

/* And who never marks is accused of each scan that has a successor. */
static void a_writer_that_never_marks_is_accused_once(void **state)
{
	struct dli_audit *audit = new_audit(PAGES);
	struct schedule schedule = { .failed = 1, .writers[1] = { NEVER, NEVER } };

	for (int at = 2; at <= 3 * (SCANS - 1) - 2; at++) {
		schedule.writers[0] = (struct writer){ at, NEVER };
		assert_int_equal(run(audit, &schedule), 1);
	}
	free_audit(audit);
}

static void ranges_reach_over_cells(void **state)
{
	struct dli_audit *audit = new_audit(200);

	dli_audit_begin(audit);
	dli_audit_abandon(audit);
	dli_audit_begin(audit);
	dli_audit_found(audit, 60, 140);
	for (uint64_t cell = 0; cell < audit->n; cell++)
		assert_int_equal(dli_audit_judge(audit, cell), 0);
	dli_audit_mark(audit, 62, 70);
	dli_audit_begin(audit);
	assert_int_equal(audit->n, 4);
	assert_int_equal(dli_audit_judge(audit, 0), UINT64_C(3) << 60);
	assert_int_equal(dli_audit_judge(audit, 1), 0);
	assert_int_equal(dli_audit_judge(audit, 2), ~UINT64_C(0) << 4);
	assert_int_equal(dli_audit_judge(audit, 3), 0xff);
	free_audit(audit);
}

static void without_memory_there_is_no_audit(void **state)
{
	struct dli_audit *audit = NULL;

	fake_os_init(&fake);
	fake.map_error = -12;
	assert_int_equal(dli_audit_new(&fake.os, PAGES, &audit), -12);
	assert_null(audit);
	dli_audit_free(NULL);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_interleaving_obeys_the_rule),
		cmocka_unit_test(a_writer_that_marks_in_time_is_never_accused),
		cmocka_unit_test(a_writer_that_never_marks_is_accused_once),
		cmocka_unit_test(ranges_reach_over_cells),
		cmocka_unit_test(without_memory_there_is_no_audit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
