/* SPDX-License-Identifier: MIT */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

/*
 * Measurement. Each figure is a ratio of two times that were taken in turn in the same run: the
 * measured side and the other. Both do the same number of units (entries, pages, ...). The median
 * of the ratios counts; the least and the greatest are shown with it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BENCH_MOST_RUNS = 101 };

struct bench_pair {
	const char *name;    /* of the figure */
	const char *against; /* what the other side does, in words */
	const char *unit;    /* of the times: "entry", "pass" */
	uint64_t units;	     /* per run */
	double bar;	     /* the ratio to meet; 0: none */
	bool is_floor;	     /* the ratio must be at most the bar; otherwise at least */
	/* prepare functions are not timed and may be NULL. */
	void (*prepare)(void *opaque);
	void (*measured)(void *opaque);
	void (*prepare_other)(void *opaque);
	void (*other)(void *opaque);
	void *opaque;
};

/* Parses --help, --json FILE, --runs N and --only NAME. */
void bench_begin(int argc, char **argv, const char *what);

/* Whether figures whose names begin with name are selected. */
bool bench_wants(const char *name);

/* Times both sides in turn; records measured / other if is_floor, otherwise the inverse. */
void bench_compare(const struct bench_pair *pair);

/* Runs one side once; internal. */
void bench_run_measured(const struct bench_pair *pair);
void bench_run_other(const struct bench_pair *pair);

/* Records a figure whose times, each of pair->units, were measured elsewhere. */
void bench_note(const struct bench_pair *pair, const double *measured, const double *other,
		size_t n);

/* Sets the remark of the figure recorded last. */
void bench_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Measured time per unit of the figure recorded last. */
double bench_last_ns(void);

/* Records that a figure cannot be measured here. */
void bench_skip(const char *name, const char *reason);

/* Prints the table and writes the JSON. Returns the exit status. */
int bench_end(void);

size_t bench_runs(void);
double bench_median(double *values, size_t n);
uint64_t bench_now_ns(void);

/* Keeps a value from being optimised away. */
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
