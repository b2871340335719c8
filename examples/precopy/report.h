/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_REPORT_H
#define PRECOPY_REPORT_H

#include "machine.h"
#include "wire.h"

/* What the source tells: a table while it goes on, a summary, or all of it as JSON at the end. */

struct pass_row {
	bool final;
	uint64_t dirty_bytes; /* known to be dirty when the pass began */
	uint64_t sent_pages;  /* those of zeros included */
	uint64_t zero_pages;
	uint64_t wire_bytes;
	uint64_t ns;
	uint64_t remaining_bytes; /* dirty again at its end */
	uint64_t full_exits;
	uint64_t overflows;
};

struct report {
	const struct options *options;
	bool terminal;
	bool live; /* a line of progress is on the terminal */
	uint64_t progress_ns;
	char backend[16];
	char backend_note[160];
	char reason[512]; /* the mode's, in the library's words */
	struct dl_config config;
	struct layout layout;
	int destination_pid; /* 0: it is someone else's process */

	struct pass_row *rows;
	uint32_t row_count;
	uint64_t total_ns;
	uint64_t downtime_ns;
	uint64_t records; /* of the guest on the source */
	struct dl_stats stats;
	bool proved;
	struct wire_proof proof;
	bool has_result;
	struct wire_result result;

	char error[320]; /* empty: none */
	bool error_told;
	bool ran_on; /* the source's guest, after a failure */
	bool logging_off;
	struct machine_check run_on;
};

/* Returns 0 or -ENOMEM. */
int report_init(struct report *report, const struct options *options);
void report_free(struct report *report);

void report_begin(struct report *report); /* once mode and layout are known */
struct pass_row *report_next_row(struct report *report);
void report_progress(struct report *report, const struct pass_row *row);
void report_row(struct report *report, const struct pass_row *row);

/* The words between the rows. Nothing with --json. */
void report_say(struct report *report, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Tells the error, unless there is none or it was told already. */
void report_error(struct report *report);

/* Prints the summary, or the JSON object. Returns the exit status. */
int report_end(struct report *report);

#endif
