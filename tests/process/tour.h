/* SPDX-License-Identifier: MIT */
#ifndef PROCESS_TOUR_H
#define PROCESS_TOUR_H

/*
 * A tour is the life of a log on the model kernel in which every public call is made, on one thread
 * and in the same order in every run, so that a site number always means the same site. One site
 * can be made to fail. After each call the tour checks that the error was returned, or may be
 * ignored; that no lock is held; that errno and the signal mask are unchanged; and that a failed
 * call can be retried. After each pass the copy must equal the memory. At the end the library must
 * not hold any resource.
 */

#include <setjmp.h>

#include "guest_checker.h"
#include "sites.h"

enum tour_call {
	TOUR_OUTSIDE, /* not in the library */
	TOUR_PROBE,
	TOUR_OPEN,
	TOUR_CONFIG,
	TOUR_DESCRIBE,
	TOUR_LOG_STATS,
	TOUR_VCPU_STATS,
	TOUR_LAST_ERROR,
	TOUR_FD,
	TOUR_REAP,
	TOUR_SLOT_SET,
	TOUR_SLOT_REMOVE,
	TOUR_SLOT_CLEAR,
	TOUR_SLOT_WATCH,
	TOUR_VCPU_ADD,
	TOUR_VCPU_REMOVE,
	TOUR_CURSOR_NEW,
	TOUR_CURSOR_FREE,
	TOUR_CURSOR_STATS,
	TOUR_HARVEST,
	TOUR_HARVEST_PAUSED,
	TOUR_DRAIN,
	TOUR_MARK,
	TOUR_MARK_SLOT,
	TOUR_MARK_HVA,
	TOUR_MARK_IOV,
	TOUR_MARK_BITMAP,
	TOUR_READ,
	TOUR_ACK,
	TOUR_END,
	TOUR_TAKE,
	TOUR_LIMIT,
	TOUR_PAUSE_DUE,
	TOUR_KICKS,
	TOUR_PLAN_NEW,
	TOUR_PLAN_SENT,
	TOUR_PLAN_NEXT,
	TOUR_PLAN_FREE,
	TOUR_CLOSE,
	TOUR_CALLS,
};

const char *tour_call_name(enum tour_call call);

/* A kind of kernel, and the options of the log. */
struct tour_mode {
	const char *name;
	struct model_options model;
	struct dl_options options;
	bool two_cursors; /* a second one takes what the first one reads */
};

enum { TOUR_MODES = 7 };

extern const struct tour_mode tour_modes[TOUR_MODES];

struct tour_result {
	uint32_t sites;
	bool hit; /* the site to fail was reached */
	enum tour_call call;
	unsigned long request; /* of the site */
	bool returned;	       /* the call returned the error; otherwise it was ignored */
	unsigned int problems;
	uint32_t allocations[TOUR_CALLS]; /* made inside each call */
};

/* Callbacks of the test. */
struct tour_watch {
	/* If not NULL, called before and after each public call. */
	void (*around)(enum tour_call call, bool in);
	/* If not NULL, used as sites.cross. */
	void (*cross)(unsigned long request, bool entering);
};

struct tour {
	const struct tour_mode *mode;
	struct tour_result *result;
	struct sites sites;
	struct guest guest;
	struct checker checker;
	struct dl_cursor *cursor, *second;
	struct dl_slot slots[8];
	bool exists[8];
	uint64_t written[64]; /* pages written since the last pass */
	unsigned int written_count;
	bool logging, in_pass, disturbing;
	bool disturbed;	 /* a call has failed, and tour_disturb() was called */
	jmp_buf abandon; /* where to continue if the run must be abandoned */
	struct tour_watch watch;
};

/* Makes one run. fault and watch may be NULL. */
void tour_run(const struct tour_mode *mode, const struct site_fault *fault,
	      const struct tour_watch *watch, struct tour_result *result);

/* The interface between tour.c and tour_script.c. */

struct tour_attempt {
	enum tour_call call;
	unsigned int failures;
	uint32_t hits, allocations; /* before the call */
};

void tour_begin(struct tour *tour, struct tour_attempt *attempt, enum tour_call call);
bool tour_again(struct tour *tour, struct tour_attempt *attempt, int r);
void tour_end(struct tour *tour, struct tour_attempt *attempt);

/* Makes a call, and retries it if it failed because of the fault. */
#define TOUR(tour, call, expression)                              \
	do {                                                      \
		struct tour_attempt attempt_;                     \
		tour_begin(tour, &attempt_, call);                \
		while (tour_again(tour, &attempt_, (expression))) \
			;                                         \
		tour_end(tour, &attempt_);                        \
	} while (0)

/* TOUR() for a call without a result. */
#define TOUR_VOID(tour, call, expression) TOUR(tour, call, ((expression), 0))

/* The vCPU stores to a page, and drains its ring if it is full. */
void tour_write(struct tour *tour, unsigned int vcpu, uint32_t as_id, uint64_t gpa_page);

/* Copies all pending pages, without a harvest. */
void tour_take(struct tour *tour);

/* Copies the pages of a slot that a bitmap names. */
void tour_copy_words(struct tour *tour, const struct dl_slot *slot, const uint64_t *words);

/* A pass of the first cursor, and its parts. After the whole pass the copy equals the memory. */
void tour_begin_pass(struct tour *tour, uint32_t flags);
void tour_read_pass(struct tour *tour);
void tour_end_pass(struct tour *tour);
void tour_pass(struct tour *tour, uint32_t flags);

/* The second cursor, if there is one, takes what the first one has had. */
void tour_take_second(struct tour *tour);

/* The slots of a tour, and their sizes. */
enum {
	BIG_PAGES = 76, /* more than a ring holds */
	SMALL_PAGES = 4,
	/* Slots. */
	BIG = 0,
	SMALL = 1,
	NEW = 2,
	CLEAN = 3,
	CALLERS = 4, /* the caller creates it */
	OTHER_SPACE = 5,
};

void tour_set_slot(struct tour *tour, unsigned int i, uint32_t flags);

/* Its pages are copied by the words that the removal has filled. */
void tour_remove_slot(struct tour *tour, unsigned int i, uint32_t flags);

/* Watches begin and end, between passes and with a slot. */
void tour_watches(struct tour *tour);
/* A plan's look at what is pending. */
void tour_look(struct tour *tour);

/* Where the kernel can, begins or ends the watch of a slot: tour.slots[i]. */
void tour_watch_slot(struct tour *tour, unsigned int i, bool begins, uint32_t flags);

/* The VMM writes through its own mapping, and marks the page only where no watch can be. */
void tour_device_writes(struct tour *tour, unsigned int i, uint64_t page);

/*
 * After a failed call: takes the pending pages, then writes the pages of this phase again. If the
 * failure left one of them unprotected, the second write is lost, and the next pass shows it.
 */
void tour_disturb(struct tour *tour);

void tour_problem(struct tour *tour, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The script. */
void tour_script(struct tour *tour);

#endif
