/* SPDX-License-Identifier: MIT */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

/*
 * Measuring. Each figure is a ratio of two times that were taken in turn in the same run: what is
 * measured, and what it is held against. Both do the same number of units (entries, pages, ...);
 * the median of the ratios counts, the least and the greatest are shown beside it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BENCH_MOST_RUNS = 101 };

struct bench_pair {
	const char *name;    /* of the figure */
	const char *against; /* what it is held against, in words */
	const char *unit;    /* what the times are of: "entry", "pass" */
	uint64_t units;	     /* in one time */
	double bar;	     /* the ratio that is to be met */
	bool is_floor;	     /* the ratio has to be the bar at most; else at least */
	/* Before each time, and not timed; may be NULL. Then the time. */
	void (*prepare)(void *opaque);
	void (*measured)(void *opaque);
	void (*prepare_other)(void *opaque);
	void (*other)(void *opaque);
	void *opaque;
};

/* Reads --help, --json FILE, --runs N and --only NAME. */
void bench_begin(int argc, char **argv, const char *what);

/* Whether the figures whose names begin so are wanted. */
bool bench_wants(const char *name);

/* Times both sides in turn, and notes the ratio measured / other (of is_floor), or the inverse. */
void bench_compare(const struct bench_pair *pair);

/* One side, once; not for callers. */
void bench_run_measured(const struct bench_pair *pair);
void bench_run_other(const struct bench_pair *pair);

/* Notes a figure whose pairs of values came from elsewhere. Their times are of pair->units. */
void bench_note(const struct bench_pair *pair, const double *measured, const double *other,
		size_t n);

/* What is to be said of the figure noted last, beside its ratio. */
void bench_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What was measured of it, of a unit. */
double bench_last_ns(void);

/* Notes that a figure is not to be had here. */
void bench_skip(const char *name, const char *reason);

/* Prints the table, writes the JSON. The exit status. */
int bench_end(void);

size_t bench_runs(void);
double bench_median(double *values, size_t n);
uint64_t bench_now_ns(void);

/* What must not be optimised away. */
static inline void bench_keep(uint64_t value)
{
	__asm__ volatile("" : : "r"(value) : "memory");
}

_Noreturn void bench_die(const char *what, int error);

static inline void bench_check(int r, const char *what)
{
	if (r < 0)
		bench_die(what, -r);
}

#endif
