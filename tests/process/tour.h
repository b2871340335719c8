/* SPDX-License-Identifier: MIT */
#ifndef PROCESS_TOUR_H
#define PROCESS_TOUR_H

/*
 * The life of a log on the model kernel, in which every public call is made, one after the other on
 * one thread: what comes at which site is the same in every run. One site can fail. Around each call
 * is asked: does it tell the error, or is it one that may be swallowed? Is a lock still held, errno
 * or the signal mask another? Can it be made again? And after each pass: does the copy equal the
 * memory? At the end: is anything still held?
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
	TOUR_SLOT_MARK,
	TOUR_ITER_NEW,
	TOUR_ITER_READ,
	TOUR_ITER_ACK,
	TOUR_ITER_FREE,
	TOUR_CLOSE,
	TOUR_CALLS,
};

const char *tour_call_name(enum tour_call call);

/* A kernel, and what is asked of it. */
struct tour_mode {
	const char *name;
	struct model_options model;
	struct dl_options options;
	bool caller_regions; /* the VMM makes all slot ioctls itself */
};

enum { TOUR_MODES = 7 };

extern const struct tour_mode tour_modes[TOUR_MODES];

struct tour_result {
	uint32_t sites;
	bool hit; /* the site that should fail was reached */
	enum tour_call call;
	unsigned long request; /* of the site */
	bool returned;	       /* the call told it; else it was swallowed */
	unsigned int problems;
	uint32_t allocations[TOUR_CALLS]; /* made inside each call */
};

/* Whoever looks on. */
struct tour_watch {
	/* NULL, or called on the way into a public call and out of it. */
	void (*around)(enum tour_call call, bool in);
	/* NULL, or sites.cross. */
	void (*cross)(unsigned long request, bool there);
};

struct tour {
	const struct tour_mode *mode;
	struct tour_result *result;
	struct sites sites;
	struct guest guest;
	struct checker checker;
	struct dl_iter *iter;
	struct dl_slot slots[8];
	struct kvm_userspace_memory_region regions[8]; /* caller_regions: what KVM has */
	uint64_t written[64];			       /* pages of this phase */
	unsigned int written_count;
	bool on, recovering;
	bool disturbed; /* a call failed since */
	jmp_buf over;	/* the run cannot go on */
	struct tour_watch watch;
};

/* One run. fault and watch may be NULL. */
void tour_run(const struct tour_mode *mode, const struct site_fault *fault,
	      const struct tour_watch *watch, struct tour_result *result);

/* From here on for the script: tour_script.c. */

struct tour_attempt {
	enum tour_call call;
	unsigned int failures;
	uint32_t hits, allocations; /* before it */
};

void tour_begin(struct tour *tour, struct tour_attempt *attempt, enum tour_call call);
bool tour_again(struct tour *tour, struct tour_attempt *attempt, int r);
void tour_end(struct tour *tour, struct tour_attempt *attempt);

/* Makes a call, and makes it again where it failed because of the fault. */
#define TOUR(tour, call, expression)                              \
	do {                                                      \
		struct tour_attempt attempt_;                     \
		tour_begin(tour, &attempt_, call);                \
		while (tour_again(tour, &attempt_, (expression))) \
			;                                         \
		tour_end(tour, &attempt_);                        \
	} while (0)

/* The same for what returns nothing. */
#define TOUR_VOID(tour, call, expression) TOUR(tour, call, ((expression), 0))

/* The vCPU stores to a page; drains its ring where that is full. */
void tour_write(struct tour *tour, unsigned int vcpu, uint32_t as_id, uint64_t gpa_page);

/* What is pending goes to the copy. */
void tour_read(struct tour *tour);

/* After something went wrong: what is pending is read too early, and written once more. */
void tour_disturb(struct tour *tour);

void tour_problem(struct tour *tour, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The script. */
void tour_script(struct tour *tour);

#endif
