/* SPDX-License-Identifier: MIT */
#ifndef KVM_LIFE_ACTS_H
#define KVM_LIFE_ACTS_H

/* The actions that life.c draws from. Internal to life.c and life_acts.c. */

#include "../unit/random.h"
#include "life.h"
#include "rig.h"

enum {
	AREAS = 4,
};

/* Sizes of the memory areas: two exceed the smallest ring, and none is a multiple of 64. */
extern const uint64_t area_pages[AREAS];

struct area {
	struct rig_slot *slot;
	bool present;
};

struct work {
	unsigned int area;
	bool running; /* the vCPU increments its words */
};

struct life {
	struct rig *rig;
	struct random random;
	struct life_tally *tally;
	enum guest_mode guests[2]; /* modes that vCPUs may run in */
	struct area areas[AREAS];
	struct work work[GUEST_MAX_VCPUS];
	uint64_t generation;
	bool has_harvester; /* a thread harvests continuously */
	bool logging;
};

uint64_t draw(struct life *life, uint64_t below);
bool one_in(struct life *life, uint64_t n);
enum guest_mode draw_guest(struct life *life);
unsigned int draw_vcpu_in_log(struct life *life); /* one whose ring can be drained */

/* Each area has two positions, 0 and 1, in the guest physical address space. */
uint64_t area_gpa(unsigned int area, uint64_t position);
void set_area(struct life *life, unsigned int index, uint64_t position);

void stop_vcpu(struct life *life, unsigned int vcpu);
void stop_vcpus(struct life *life);
void give_work(struct life *life, unsigned int vcpu);
void give_all_work(struct life *life); /* to a random subset of the vCPUs */

/* Waits until each running vCPU has made another round through its range. */
void wait_for_guests(struct life *life);

/* A stopped vCPU writes value to every page of an area. */
void write_area(struct life *life, unsigned int vcpu, unsigned int area, uint64_t value,
		enum guest_mode mode);

/* Opens a pass, reads some runs, copies and acknowledges some of them. */
void begin_pass(struct life *life);

void change_slot(struct life *life);

/* Performs a random action. */
void act(struct life *life);

#endif
