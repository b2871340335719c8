/* SPDX-License-Identifier: MIT */
/* Runs migrations in virtual time and prints what they came to. */

#include "run.h"

#include <stdlib.h>
#include <string.h>

static const char usage[] =
	"Usage: convergence [--loads A-B] [--laws NAME,...] [--seeds A-B] [--trace FILE]\n"
	"\n"
	"Migrates guests in virtual time with the library's real code, and prints a line\n"
	"of figures for each run, separated by tabs. Loads: 1 to 18, as in loads.c. Laws:\n"
	"none, auto-converge, aggressive, dirty-limit, equal-quota, plan, plan-skip,\n"
	"plan-bitmap.\n"
	"--mistake NAME makes the caller of the plan wrong: zero, unsent.\n"
	"--trace writes how each run went, as some hundred lines.\n";

struct range {
	uint64_t first, last;
};

struct request {
	struct range loads, seeds;
	bool laws[LAWS];
	enum mistake mistake;
	FILE *trace;
};

static void fail(const char *what, const char *value)
{
	fprintf(stderr, "convergence: %s %s; see --help\n", what, value);
	exit(2);
}

static struct range parse_range(const char *text, uint64_t most)
{
	struct range range;
	char *end;

	range.first = range.last = strtoull(text, &end, 10);
	if (*end == '-')
		range.last = strtoull(end + 1, &end, 10);
	if (*end || !range.first || range.last < range.first || range.last > most)
		fail("not a range:", text);
	return range;
}

static void parse_laws(char *text, bool *laws)
{
	memset(laws, 0, LAWS * sizeof(*laws));
	for (char *name = strtok(text, ","); name; name = strtok(NULL, ",")) {
		int law = 0;

		while (law < LAWS && strcmp(name, law_names[law]))
			law++;
		if (law == LAWS)
			fail("no such law:", name);
		laws[law] = true;
	}
}

static enum mistake parse_mistake(const char *name)
{
	int mistake = 0;

	while (mistake < MISTAKES && strcmp(name, mistake_names[mistake]))
		mistake++;
	if (mistake == MISTAKES)
		fail("no such mistake:", name);
	return (enum mistake)mistake;
}

static void parse(int argc, char **argv, struct request *request)
{
	for (int i = 1; i < argc; i += 2) {
		char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (!strcmp(argv[i], "--help")) {
			fputs(usage, stdout);
			exit(0);
		}
		if (!value)
			fail("no value for", argv[i]);
		if (!strcmp(argv[i], "--loads"))
			request->loads = parse_range(value, LOADS);
		else if (!strcmp(argv[i], "--seeds"))
			request->seeds = parse_range(value, UINT32_MAX);
		else if (!strcmp(argv[i], "--laws"))
			parse_laws(value, request->laws);
		else if (!strcmp(argv[i], "--mistake"))
			request->mistake = parse_mistake(value);
		else if (strcmp(argv[i], "--trace") || !(request->trace = fopen(value, "w")))
			fail("unknown option, or no such file:", argv[i]);
	}
}

static void print_head(void)
{
	printf("law\tload\tseed\tended\tseconds\tbudget\tdowntime\tdowntime_limit\tcopied"
	       "\tlost_writers\tlost_readers\tlongest_pause\tworst_writer\tworst_reader"
	       "\tvariation\tleast_run\tpasses\tlimited\tdiverging\tlost_pages\tmust_end"
	       "\tmay_break\n");
}

static void print(const struct run_options *options, const struct outcome *outcome)
{
	printf("%s\t%u\t%llu\t%d\t%.3f\t%.0f\t%.4f\t%.3f\t%.4f\t%.4f\t%.4f\t%.4f\t%.4f\t%.4f"
	       "\t%.4f\t%.4f\t%llu\t%.2f\t%.2f\t%llu\t%d\t%.2f\n",
	       law_names[options->law], options->load, (unsigned long long)options->seed,
	       outcome->ended, outcome->seconds, outcome->budget_s, outcome->downtime_s,
	       outcome->downtime_limit_s, outcome->copied, outcome->lost_s[0], outcome->lost_s[1],
	       outcome->longest_pause_s, outcome->worst_second[0], outcome->worst_second[1],
	       outcome->variation, outcome->least_run, (unsigned long long)outcome->passes,
	       outcome->limited_s, outcome->diverging_s, (unsigned long long)outcome->lost_pages,
	       load_find(options->load)->must_end, load_find(options->load)->broken_share);
	fflush(stdout);
}

static void run_all(const struct request *request, struct run_options *options)
{
	struct outcome outcome;

	for (uint64_t load = request->loads.first; load <= request->loads.last; load++)
		for (uint64_t seed = request->seeds.first; seed <= request->seeds.last; seed++) {
			options->load = (uint32_t)load;
			options->seed = seed;
			run_migration(options, &outcome);
			print(options, &outcome);
		}
}

int main(int argc, char **argv)
{
	struct request request = { .loads = { 1, LOADS }, .seeds = { 1, 1 } };
	struct run_options options = { 0 };

	memset(request.laws, true, sizeof(request.laws));
	parse(argc, argv, &request);
	options.trace = request.trace;
	options.mistake = request.mistake;
	if (request.trace)
		measure_trace_head(request.trace);
	print_head();
	for (int law = 0; law < LAWS; law++) {
		options.law = (enum law)law;
		if (request.laws[law])
			run_all(&request, &options);
	}
	if (request.trace && fclose(request.trace))
		return 1;
	return 0;
}
