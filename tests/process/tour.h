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
	TOUR_DUE,
	TOUR_FD,
	TOUR_REAP,
	TOUR_SLOT_SET,
	TOUR_SLOT_REMOVE,
	TOUR_VCPU_ADD,
	TOUR_VCPU_REMOVE,
	TOUR_START,
	TOUR_STOP,
	TOUR_HARVEST,
	TOUR_HARVEST_FINAL,
	TOUR_DRAIN,
	TOUR_MARK,
	TOUR_MARK_SLOT,
	TOUR_MARK_HVA,
	TOUR_MARK_IOV,
	TOUR_ITER_NEW,
	TOUR_ITER_READ,
	TOUR_ITER_ACK,
	TOUR_ITER_FREE,
	TOUR_CLOSE,
	TOUR_CALLS,
};

const char *tour_call_name(enum tour_call call);

/* A kind of kernel, and the options of the log. */
struct tour_mode {
	const char *name;
	struct model_options model;
	struct dl_options options;
	bool caller_regions; /* the caller makes all slot ioctls */
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
	struct dl_iter *iter;
	struct dl_slot slots[8];
	struct kvm_userspace_memory_region regions[8]; /* caller_regions: the state of KVM */
	uint64_t written[64];			       /* pages written since the last pass */
	unsigned int written_count;
	bool logging, disturbing;
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

/* The same for a call without a result. */
#define TOUR_VOID(tour, call, expression) TOUR(tour, call, ((expression), 0))

/* The vCPU stores to a page, and drains its ring if it is full. */
void tour_write(struct tour *tour, unsigned int vcpu, uint32_t as_id, uint64_t gpa_page);

/* Copies and acknowledges all pending pages. */
void tour_read(struct tour *tour);

/*
 * After a failed call: reads the pending pages, then writes the pages of this phase again. If the
 * failure left one of them unprotected, the second write is lost, and the next pass shows it.
 */
void tour_disturb(struct tour *tour);

void tour_problem(struct tour *tour, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The script. */
void tour_script(struct tour *tour);

#endif
