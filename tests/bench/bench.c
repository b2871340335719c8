/* SPDX-License-Identifier: MIT */
/* Times, medians, the table and the JSON. */
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_ROWS = 64, MAX_RUNS = 101, LEAST_RUNS = 7 };

struct row {
	char name[80], against[80], unit[24];
	double bar, ratio, least, greatest, measured_ns, other_ns;
	bool is_floor, skipped;
	char reason[100];
};

static struct {
	struct row rows[MAX_ROWS];
	size_t n, runs;
	const char *json, *only, *what;
} bench = { .runs = 9 };

_Noreturn void bench_die(const char *what, int error)
{
	fprintf(stderr, "bench: %s: %s\n", what, strerror(error));
	exit(2);
}

uint64_t bench_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

size_t bench_runs(void)
{
	return bench.runs;
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_median(double *values, size_t n)
{
	qsort(values, n, sizeof(values[0]), by_size);
	return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static _Noreturn void usage(int status)
{
	fprintf(status ? stderr : stdout,
		"Usage: %s [--runs N] [--only NAME] [--json FILE] [--help]\n\n"
		"Measures the library against what the machine can do, and prints a table of ratios:\n"
		"the median of N runs (7 to 101, default 9), the least and the greatest.\n\n"
		"  --only NAME  only figures whose names begin with NAME\n"
		"  --json FILE  write the figures there too\n",
		bench.what);
	exit(status);
}

void bench_begin(int argc, char **argv, const char *what)
{
	bench.what = what;
	for (int i = 1; i < argc; i += 2) {
		const char *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (!strcmp(argv[i], "--help"))
			usage(0);
		if (!value)
			usage(2);
		if (!strcmp(argv[i], "--json"))
			bench.json = value;
		else if (!strcmp(argv[i], "--only"))
			bench.only = value;
		else if (!strcmp(argv[i], "--runs"))
			bench.runs = (size_t)strtoul(value, NULL, 10);
		else
			usage(2);
	}
	if (bench.runs < LEAST_RUNS || bench.runs > MAX_RUNS)
		usage(2);
}

bool bench_wants(const char *name)
{
	return !bench.only || !strncmp(name, bench.only, strlen(bench.only));
}

static struct row *new_row(const char *name, const char *against)
{
	struct row *row = &bench.rows[bench.n++];

	if (bench.n > MAX_ROWS)
		bench_die("too many figures", ENOSPC);
	snprintf(row->name, sizeof(row->name), "%s", name);
	snprintf(row->against, sizeof(row->against), "%s", against);
	fprintf(stderr, "%s\n", name);
	return row;
}

static void note(struct row *row, double bar, bool is_floor, double *ratios, size_t n)
{
	row->bar = bar;
	row->is_floor = is_floor;
	row->ratio = bench_median(ratios, n);
	row->least = ratios[0];
	row->greatest = ratios[n - 1];
}

static double time_of(void (*prepare)(void *), void (*work)(void *), void *opaque)
{
	uint64_t begin_ns;

	if (prepare)
		prepare(opaque);
	begin_ns = bench_now_ns();
	work(opaque);
	return (double)(bench_now_ns() - begin_ns);
}

void bench_compare(const struct bench_pair *pair)
{
	double ratios[MAX_RUNS], measured[MAX_RUNS], other[MAX_RUNS];
	struct row *row;

	if (!bench_wants(pair->name))
		return;
	row = new_row(pair->name, pair->against);
	/* The first of each warms caches and memory. */
	(void)time_of(pair->prepare, pair->measured, pair->opaque);
	(void)time_of(pair->prepare_other, pair->other, pair->opaque);
	for (size_t i = 0; i < bench.runs; i++) {
		measured[i] = time_of(pair->prepare, pair->measured, pair->opaque);
		other[i] = time_of(pair->prepare_other, pair->other, pair->opaque);
		ratios[i] = pair->is_floor ? measured[i] / other[i] : other[i] / measured[i];
	}
	note(row, pair->bar, pair->is_floor, ratios, bench.runs);
	snprintf(row->unit, sizeof(row->unit), "%s", pair->unit);
	row->measured_ns = bench_median(measured, bench.runs) / (double)pair->units;
	row->other_ns = bench_median(other, bench.runs) / (double)pair->units;
}

void bench_note(const char *name, const char *against, double bar, bool is_floor, double *ratios,
		size_t n)
{
	note(new_row(name, against), bar, is_floor, ratios, n);
}

void bench_skip(const char *name, const char *reason)
{
	struct row *row = new_row(name, "");

	row->skipped = true;
	snprintf(row->reason, sizeof(row->reason), "%s", reason);
}

static const char *verdict(const struct row *row)
{
	bool met = row->is_floor ? row->ratio <= row->bar : row->ratio >= row->bar;

	return row->skipped ? "skipped" : !row->bar ? "" : met ? "met" : "missed";
}

static void print_row(const struct row *row)
{
	char bar[24] = "", times[48] = "";

	if (row->skipped) {
		printf("%-46s skipped: %s\n", row->name, row->reason);
		return;
	}
	if (row->bar)
		snprintf(bar, sizeof(bar), "%s %g", row->is_floor ? "<=" : ">=", row->bar);
	if (row->measured_ns)
		snprintf(times, sizeof(times), "%.3g / %.3g ns", row->measured_ns, row->other_ns);
	printf("%-46s %8.2f  %7.2f - %-7.2f %-7s %-6s %s\n", row->name, row->ratio, row->least,
	       row->greatest, bar, verdict(row), times);
}

static void write_json(void)
{
	FILE *out = fopen(bench.json, "w");

	if (!out)
		bench_die(bench.json, errno);
	fprintf(out, "[");
	for (size_t i = 0; i < bench.n; i++) {
		const struct row *row = &bench.rows[i];

		fprintf(out, "%s\n {\"name\": \"%s\", \"against\": \"%s\", \"verdict\": \"%s\"",
			i ? "," : "", row->name, row->against, verdict(row));
		if (row->skipped)
			fprintf(out, ", \"reason\": \"%s\"}", row->reason);
		else
			fprintf(out,
				", \"ratio\": %.4g, \"least\": %.4g, \"greatest\": %.4g, \"bar\": %g, "
				"\"bar_is\": \"%s\", \"unit\": \"%s\", \"measured_ns\": %.6g, "
				"\"other_ns\": %.6g}",
				row->ratio, row->least, row->greatest, row->bar,
				row->is_floor ? "most" : "least", row->unit, row->measured_ns,
				row->other_ns);
	}
	fprintf(out, "\n]\n");
	if (fclose(out))
		bench_die(bench.json, errno);
}

int bench_end(void)
{
	printf("%-46s %8s  %7s - %-7s %-7s\n", "figure", "median", "least", "most", "bar");
	for (size_t i = 0; i < bench.n; i++)
		print_row(&bench.rows[i]);
	if (bench.json)
		write_json();
	return 0;
}
