/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_REPORT_H
#define PRECOPY_REPORT_H

#include "machine.h"
#include "options.h"
#include "wire.h"

/* The source's report: a table of passes and a summary, or one JSON object at the end. */

struct pass_row {
	bool final;	      /* all paused passes together */
	bool complete;	      /* it was not cut short by a failure */
	uint64_t dirty_bytes; /* what the pass could hand out */
	uint64_t sent_pages;  /* including zero pages */
	uint64_t zero_pages;
	uint64_t wire_bytes;
	uint64_t start_ns;	  /* since the start of the migration */
	uint64_t ns;		  /* of sending */
	uint64_t remaining_bytes; /* pending when it ended */
	uint64_t full_exits;
	uint64_t overflows;
	uint64_t logged_pages; /* by the device process, found when the pass ended */
	uint32_t limited;      /* vCPUs that were held back: a bit each */
	uint32_t run_percent;  /* how much these were free to run */
	uint32_t verdict;      /* enum dl_verdict, with --throttle plan */
};

struct verdict_change {
	uint64_t ns; /* since the start of the migration */
	uint32_t verdict, bound_by, limited_vcpus;
};

enum { REPORT_VERDICTS = 64 };

/* Pages that the readers read, in a second, and in a second of CPU time. */
struct reading_speed {
	double per_s, per_cpu_s;
};

/* Effects of --throttle until the guest was stopped. */
struct throttling {
	uint64_t ns;
	uint32_t writers, readers; /* vCPUs */
	uint64_t writers_held_ns, readers_held_ns, longest_pause_ns;
	struct reading_speed before, during;
	uint32_t ever_limited; /* a bit a vCPU */
	struct verdict_change verdicts[REPORT_VERDICTS];
	uint32_t verdict_count;
	bool said_late;
};

/* Why the guest was stopped for the final passes. */
enum stop_reason {
	STOP_NEVER,
	STOP_FITS,	  /* what was left fitted the downtime limit */
	STOP_NO_PROGRESS, /* several passes in a row left no less than the one before them */
	STOP_PASSES,	  /* --passes */
	STOP_BUDGET,	  /* twice --budget was over */
	STOP_DIVERGING,	  /* the plan sees no end */
};

/* The parts of the downtime. */
struct stop_times {
	uint64_t vcpus_ns;   /* until the vCPUs stand still */
	uint64_t devices_ns; /* until the devices do, and are saved */
	uint64_t harvest_ns; /* of the paused passes */
	uint64_t send_ns;    /* of the paused passes */
	uint64_t state_ns;   /* the rest: state of the vCPUs and devices, until it has arrived */
};

/* Progress of the current pass over all connections; several threads add to it. */
struct pass_progress {
	uint64_t dirty_bytes;
	_Atomic uint64_t sent_pages, wire_bytes;
};

enum { REPORT_MISSED = 8 };

/* Pages that the device wrote and nobody marked; the first ones. */
struct missed_marks {
	uint64_t pages, gpas[REPORT_MISSED];
};

/* Counters of the device process, and of its log. */
struct process_report {
	int pid;			 /* 0: there is none */
	bool runs;			 /* the guest has stayed, and the device goes on */
	uint64_t writes, stopped_writes; /* in all; when it was stopped for the last pass */
	uint64_t takes;			 /* looks at its log */
	uint64_t logged_pages;		 /* found there, and marked */
	uint64_t dropped_pages;		 /* found there, and not marked: --sabotage log */
	uint64_t row_pages;		 /* logged_pages of the current pass */
};

struct report {
	const struct options *options;
	bool terminal;
	bool has_progress; /* the terminal shows a progress line */
	uint64_t progress_ns;
	char backend[16];
	char backend_note[160];
	char reason[512]; /* for the choice of mode, from the library */
	struct dl_config config;
	struct layout layout;
	bool guest_user;
	int destination_pid; /* 0: not started by this process */

	struct pass_row *rows;
	uint32_t row_count;
	uint64_t start_ns; /* the clock's */
	uint64_t total_ns;
	uint64_t downtime_ns;
	uint64_t stop_ns; /* when the guest was stopped, since the start */
	struct stop_times stop;
	uint64_t fits_bytes; /* what could be sent within the downtime limit, at the last look */
	enum stop_reason stop_reason;
	uint64_t left_bytes; /* pending when the guest was stopped */
	uint64_t records;    /* written by the guest on the source */
	struct throttling throttling;
	struct dl_stats stats;
	uint64_t reaps;
	uint64_t slot_changes;
	struct missed_marks missed;
	struct process_report process;
	bool proved;
	struct wire_proof proof;
	bool has_result;
	bool unknown; /* whether the guest ran at the destination */
	struct wire_result result;

	char error[320]; /* empty: no error */
	bool error_printed;
	bool resumed; /* after a failure, the guest was resumed on the source */
	bool logging_off;
	bool unwritten; /* the page of --report is lost */
	struct machine_check resumed_check;
};

/* Returns 0 or -ENOMEM. */
int report_init(struct report *report, const struct options *options);
void report_free(struct report *report);

void report_begin(struct report *report); /* once mode and layout are known */
struct pass_row *report_next_row(struct report *report);
void report_progress(struct report *report, const struct pass_progress *progress, uint64_t ns);
void report_row(struct report *report, const struct pass_row *row);

/* Prints a line, unless --json is given. */
void report_line(struct report *report, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Prints a label and its text, wrapped to the width of the report, unless --json is given. */
void report_field(struct report *report, const char *label, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* Prints an error to stderr, wrapped to the width of the report. */
void report_print_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

/*
 * Prints an error of before there is a report, with --json as an object too. Returns the status.
 */
int report_early_failure(const struct options *options, int status, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* The last such error, or "". */
const char *report_early_error(void);

/* Prints report->error once, if there is one. */
void report_error(struct report *report);

/* The exit status that the migration has earned. */
int report_status(const struct report *report);

/* Prints the summary, or the JSON object. Returns the exit status. */
int report_end(struct report *report);

#endif
