/* SPDX-License-Identifier: MIT */
/* Times, medians, the table and the JSON. */
#include "bench.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_ROWS = 64 };

struct row {
	char name[80], against[80], unit[24];
	double bar, ratio, least, greatest, measured_ns, other_ns, units;
	size_t runs;
	bool is_floor, skipped;
	char remark[160]; /* reason for skipping, or detail */
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
		"Measures the library against what the machine can do, and prints a table of\n"
		"ratios: the median of N runs (default 9), the least and the greatest. Use fewer\n"
		"than 7 only to count instructions.\n\n"
		"  --only NAME  measure only figures whose names begin with NAME\n"
		"  --json FILE  also write the figures to FILE\n",
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
	if (!bench.runs || bench.runs > BENCH_MOST_RUNS)
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

void bench_note(const struct bench_pair *pair, const double *measured, const double *other,
		size_t n)
{
	struct row *row = new_row(pair->name, pair->against);
	double ratios[BENCH_MOST_RUNS], sorted[BENCH_MOST_RUNS];

	for (size_t i = 0; i < n; i++)
		ratios[i] = pair->is_floor ? measured[i] / other[i] : other[i] / measured[i];
	row->bar = pair->bar;
	row->runs = n;
	row->units = (double)pair->units;
	row->is_floor = pair->is_floor;
	row->ratio = bench_median(ratios, n);
	row->least = ratios[0];
	row->greatest = ratios[n - 1];
	snprintf(row->unit, sizeof(row->unit), "%s", pair->unit);
	memcpy(sorted, measured, n * sizeof(sorted[0]));
	row->measured_ns = bench_median(sorted, n) / (double)pair->units;
	memcpy(sorted, other, n * sizeof(sorted[0]));
	row->other_ns = bench_median(sorted, n) / (double)pair->units;
}

/* Separate functions, whose names instructions.py passes to callgrind. */
__attribute__((noinline)) void bench_run_measured(const struct bench_pair *pair)
{
	pair->measured(pair->opaque);
	bench_keep(0);
}

__attribute__((noinline)) void bench_run_other(const struct bench_pair *pair)
{
	pair->other(pair->opaque);
	bench_keep(0);
}

static double time_measured(const struct bench_pair *pair)
{
	uint64_t begin_ns;

	if (pair->prepare)
		pair->prepare(pair->opaque);
	begin_ns = bench_now_ns();
	bench_run_measured(pair);
	return (double)(bench_now_ns() - begin_ns);
}

static double time_other(const struct bench_pair *pair)
{
	uint64_t begin_ns;

	if (pair->prepare_other)
		pair->prepare_other(pair->opaque);
	begin_ns = bench_now_ns();
	bench_run_other(pair);
	return (double)(bench_now_ns() - begin_ns);
}

void bench_compare(const struct bench_pair *pair)
{
	double measured[BENCH_MOST_RUNS], other[BENCH_MOST_RUNS];

	if (!bench_wants(pair->name))
		return;
	/* The first run of each side warms caches and memory. */
	(void)time_measured(pair);
	(void)time_other(pair);
	for (size_t i = 0; i < bench.runs; i++) {
		measured[i] = time_measured(pair);
		other[i] = time_other(pair);
	}
	bench_note(pair, measured, other, bench.runs);
}

void bench_skip(const char *name, const char *reason)
{
	struct row *row = new_row(name, "");

	row->skipped = true;
	snprintf(row->remark, sizeof(row->remark), "%s", reason);
}

double bench_last_ns(void)
{
	return bench.rows[bench.n - 1].measured_ns;
}

void bench_say(const char *format, ...)
{
	struct row *row = &bench.rows[bench.n - 1];
	va_list args;

	va_start(args, format);
	vsnprintf(row->remark, sizeof(row->remark), format, args);
	va_end(args);
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
		printf("%-44s skipped: %s\n", row->name, row->remark);
		return;
	}
	if (row->bar)
		snprintf(bar, sizeof(bar), "%s %g", row->is_floor ? "<=" : ">=", row->bar);
	if (row->measured_ns && row->unit[0])
		snprintf(times, sizeof(times), "%.3g / %.3g", row->measured_ns, row->other_ns);
	printf("%-44s %6.2f %6.2f -%6.2f %-7s %-6s %s\n", row->name, row->ratio, row->least,
	       row->greatest, bar, verdict(row), times);
	if (row->remark[0])
		printf("    %s\n", row->remark);
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
		fprintf(out, ", \"remark\": \"%s\"", row->remark);
		if (row->skipped)
			fprintf(out, "}");
		else
			fprintf(out,
				", \"ratio\": %.4g, \"least\": %.4g, \"greatest\": %.4g, "
				"\"bar\": %g, \"bar_is\": \"%s\", \"unit\": \"%s\", "
				"\"measured_ns\": %.6g, \"other_ns\": %.6g, \"units\": %.0f, "
				"\"runs\": %zu}",
				row->ratio, row->least, row->greatest, row->bar,
				row->is_floor ? "most" : "least", row->unit, row->measured_ns,
				row->other_ns, row->units, row->runs);
	}
	fprintf(out, "\n]\n");
	if (fclose(out))
		bench_die(bench.json, errno);
}

int bench_end(void)
{
	printf("%-44s %6s %6s -%6s %-7s %6s %s\n", "figure", "median", "least", "most", "bar", "",
	       "ns per unit");
	for (size_t i = 0; i < bench.n; i++)
		print_row(&bench.rows[i]);
	if (bench.json)
		write_json();
	return 0;
}
