/* SPDX-License-Identifier: MIT */
#ifndef KVM_JUDGE_H
#define KVM_JUDGE_H

/*
 * A judge of the log that knows every store. Each vCPU stores 1, 2, 3, ... to the words of its
 * table in turn, so what was written since the last stop follows from the numbers in memory and the
 * table; the log has to have reported exactly that. It shares no code with the other checkers.
 */

#include "rig.h"

enum {
	JUDGE_SLOTS = 2,
	JUDGE_VCPUS = 2,
	JUDGE_PAGES = 1600, /* of all slots */
};

/* The addresses that a vCPU goes through. */
enum judge_pattern {
	JUDGE_RANDOM, /* pages of all slots, some of them often */
	JUDGE_BURST,  /* three pages, over and over */
	JUDGE_SWEEP,  /* all pages in order */
};

/* Mistakes that the judge has to find. */
enum judge_mistake {
	JUDGE_NO_MISTAKE,
	JUDGE_DROP,	  /* one page of a stopped pass is overlooked */
	JUDGE_READ_EARLY, /* one page's contents are from before its harvest */
};

struct judge_options {
	enum judge_pattern pattern;
	bool huge;  /* memory in huge pages where the host has them */
	bool clean; /* a clean start */
	unsigned int iterations;
	enum judge_mistake mistake;
};

/* The judge's findings against the log, in pages over all iterations. */
struct judge_verdict {
	uint64_t written;
	uint64_t missing; /* written, and not reported */
	uint64_t extra;	  /* reported, and not written */
	uint64_t stale;	  /* whose copy differs from the memory with all vCPUs stopped */
	uint64_t repairs; /* iterations with one; what it adds is not extra */
};

/* Runs the vCPUs of a new rig without slots, and judges. The rig is freed afterwards. */
struct judge_verdict judge_run(struct rig *rig, const struct judge_options *options);

#endif
