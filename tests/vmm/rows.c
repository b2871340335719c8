/* SPDX-License-Identifier: MIT */
#include "rows.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static struct row rows[ROWS];
static unsigned int n_rows;

struct row *row_add(const struct scene *scene, const struct vmm_config *config, const char *name)
{
	struct row *row = &rows[n_rows++];

	if (n_rows > ROWS)
		abort();
	row->scene = scene;
	row->config = *config;
	snprintf(row->name, sizeof(row->name), "%s (%s)", scene->name, name);
	return row;
}

static void print(const struct verdict *verdict)
{
	print_message("%" PRIu64 " pages wrong, %" PRIu64 " words stale, %" PRIu64
		      " pages not counted%s%s\n",
		      verdict->wrong_pages, verdict->stale_words, verdict->missed_pages,
		      verdict->endless ? ", the last pass has no end" : "",
		      verdict->counted_too_few ? ", the meter says too little" : "");
}

static void run_row(void **state)
{
	const struct row *row = *state;
	struct verdict verdict;

	if (row->before)
		row->before(row);
	verdict = scene_verdict(row->scene, &row->config);
	if (verdict_is_good(&verdict) != !row->config.misuse)
		print(&verdict);
	assert_int_equal(verdict_is_good(&verdict), !row->config.misuse);
	assert_true(verdict.pages_sent > 0);
	assert_true(verdict.refreshes > 0);
	if (row->after)
		row->after(row);
}

int rows_run(const char *name)
{
	struct CMUnitTest *tests = calloc(n_rows, sizeof(*tests));
	int failures;

	if (!tests)
		return 1;
	cmocka_set_test_filter(getenv("VMM_TESTS"));
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (unsigned int i = 0; i < n_rows; i++)
		tests[i] = (struct CMUnitTest){ .name = rows[i].name,
						.test_func = run_row,
						.initial_state = &rows[i] };
	failures = _cmocka_run_group_tests(name, tests, n_rows, NULL, NULL);
	free(tests);
	return failures;
}
