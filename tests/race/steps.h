/* SPDX-License-Identifier: MIT */
#ifndef RACE_STEPS_H
#define RACE_STEPS_H

/*
 * Two consumers, a vCPU and a device, over two pages of one slot, the first of which another
 * address space may map too. Everything happens in steps on one thread, with the library itself and
 * the model kernel: a sequence of steps is one interleaving of what the actors do, and can be made
 * again. A step may contain another actor's: a store, or a mark, in the middle of an ioctl of the
 * library's.
 */

#include <stdbool.h>
#include <stdint.h>

#include "guest.h"

enum { STEPS_PAGES = 2, STEPS_CONSUMERS = 2, STEPS_EXTENTS = 8 };

enum step_kind {
	STEP_WRITE,	  /* a vCPU stores to a page */
	STEP_WRITE_ALIAS, /* to page 0, through the other address space */
	STEP_STORE,	  /* a device stores to a page ... */
	STEP_MARK,	  /* ... and marks it */
	STEP_JOIN,	  /* everything is pending */
	STEP_JOIN_CLEAN,  /* the consumer has the memory of now */
	STEP_FREE,
	STEP_HARVEST,
	STEP_READ, /* is handed an extent, whose contents are not copied yet */
	STEP_COPY, /* copies the contents of all it was handed, and acknowledges it */
	STEP_END,  /* what was not copied is pending again */
	STEP_COMMIT,
	STEP_TAKE,   /* harvests and takes; the pages are copied later */
	STEP_DEFER,  /* the same with DL_TAKE_NO_CLEAR: cleared, and copied, later */
	STEP_CLEAR,  /* dl_slot_clear() for what was deferred */
	STEP_REMOVE, /* the slot, with its words; not with what the alias has, too */
	STEP_REMOVE_PAUSED,
	STEP_RESTORE, /* the slot comes back clean, and the words are marked */
	STEP_REMOVE_ALIAS,
	STEP_RESTORE_ALIAS, /* clean */
	STEP_KINDS,
};

/* Events within a GET, CLEAR, RESET or region ioctl of a step. */
enum step_within {
	WITHIN_NOTHING,
	WITHIN_PROTECT, /* page 0 is written: pages are protected, and the TLB is not flushed yet */
	WITHIN_WRITE,	/* page 0 is written: the ioctl is over, its result not seen yet */
	WITHIN_MARK,	/* a device stores to page 0 and marks it then */
	WITHIN_FAILURE, /* the ioctl fails */
	WITHIN_LATE_FAILURE, /* it fails when its work is done */
	WITHIN_KINDS,
};

struct step {
	uint8_t kind;
	uint8_t who;	/* a page or a consumer */
	uint8_t within; /* ... in the ioctl after so many others: */
	uint8_t at;
};

struct consumer {
	struct dl_cursor *cursor; /* NULL: it has not joined */
	uint64_t copy[STEPS_PAGES];
	bool in_pass;
	uint32_t seen_in_pass;
	uint32_t handed;   /* by the open pass, to copy */
	uint32_t taken;	   /* to copy */
	uint32_t deferred; /* to clear, and then to copy */
	struct dl_extent extents[STEPS_EXTENTS];
	uint32_t n_extents;
};

struct steps {
	struct guest guest;
	struct guest_vcpu *vcpu;
	bool has_alias, slot_exists, alias_exists;
	bool is_new_to_some; /* a consumer that wants all has joined while it is away */
	struct consumer consumers[STEPS_CONSUMERS];
	int stored;	/* page that a device has written and not marked, or -1 */
	uint64_t words; /* of the removed slot */
	/* State of the step in progress. */
	struct step now;
	bool within_done;
	unsigned int ioctls;
	/* Results of all steps. */
	unsigned long withins, clears;
	const char *wrong; /* what was found wrong, or NULL */
};

const char *step_name(struct step step);

/* A step of which there is one, not one for each page or consumer. */
bool step_is_by_one(uint8_t kind);

/* Whether it makes sense that something happens within a step. */
bool step_can_contain(struct step step);

void steps_open(struct steps *steps, const struct guest_config *config, bool has_alias);
void steps_close(struct steps *steps);

/* Back to the beginning: the slots exist, and nobody has joined. */
void steps_reset(struct steps *steps);

/* Whether the step can be made now; within it, nothing happens. */
bool steps_can(const struct steps *steps, struct step step);

/* Makes a step; steps->ioctls is the number of ioctls that something could happen within. */
void steps_make(struct steps *steps, struct step step);

/*
 * Ends everything that has begun, and repeats the last pass to the end: the first consumer by
 * passes, the second one by takes. Then compares.
 */
void steps_finish(struct steps *steps, bool second_first);

/* The state, of library, kernel and consumers, that decides what can follow. */
enum { STEPS_STATE_BYTES = 96 };

void steps_state(struct steps *steps, uint8_t *state);

#endif
