/* SPDX-License-Identifier: MIT */
#ifndef KVM_LIFE_ACTS_H
#define KVM_LIFE_ACTS_H

/* What may happen in the life of a VM. For life.c alone. */

#include "../unit/random.h"
#include "life.h"
#include "rig.h"

enum {
	AREAS = 4,
};

/* Pages of the areas of memory: more than the smallest rings take, and not multiples of 64. */
extern const uint64_t area_pages[AREAS];

struct area {
	struct rig_slot *slot;
	bool there;
};

struct work {
	unsigned int area;
	bool goes_on; /* the words that it counts in go up */
};

struct life {
	struct rig *rig;
	struct random random;
	struct life_tally *tally;
	enum guest_mode guests[2]; /* what vCPUs run as */
	struct area areas[AREAS];
	struct work work[GUEST_MAX_VCPUS];
	uint64_t generation;
	bool harvests_beside; /* a thread harvests all the time */
	bool logging;
};

uint64_t draw(struct life *life, uint64_t below);
bool one_in(struct life *life, uint64_t n);
enum guest_mode draw_guest(struct life *life);
unsigned int draw_vcpu_known(struct life *life); /* to the log, so that its ring can be drained */

/* Where an area's slot is; each has two places. */
uint64_t area_gpa(unsigned int area, uint64_t place);
void set_area(struct life *life, unsigned int index, uint64_t place);

void stop_vcpu(struct life *life, unsigned int vcpu);
void stop_vcpus(struct life *life);
void give_work(struct life *life, unsigned int vcpu);
void give_all_work(struct life *life); /* all but some */

/* Until each vCPU that can has gone once more through what it is to write. */
void wait_for_guests(struct life *life);

/* A stopped vCPU writes value to every page of an area. */
void write_area(struct life *life, unsigned int vcpu, unsigned int area, uint64_t value,
		enum guest_mode mode);

/* Reads a little; not all of that is copied and acknowledged. The iterator is still there. */
struct dl_iter *begin_iteration(struct life *life);

void change_slot(struct life *life);

/* One thing or another of all that may happen while the log is open. */
void act(struct life *life);

#endif
