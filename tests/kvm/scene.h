/* SPDX-License-Identifier: MIT */
#ifndef KVM_SCENE_H
#define KVM_SCENE_H

/*
 * The guest that the tests of several consumers share: RAM, which is wanted, the memory of a
 * display, and scratch memory. vCPU 0 writes when it is told to, or all of them write all the time.
 */

#include "consumers.h"
#include "ways.h"

enum {
	RAM_PAGES = 300,
	SMALL_PAGES = 100, /* of the other two; not a multiple of 64 */
	RAM_SLOT = 0,
	DISPLAY_SLOT = 1,
	SCRATCH_SLOT = 2,
	SCENE_PARTS = 3,
};

extern struct rig *rig;
extern struct rig_slot *ram, *display, *scratch;

void scene_begin(const struct way *way, unsigned int vcpus);

/* A consumer that watches one slot. */
struct checker *scene_consumer(const struct rig_slot *slot);

/* Joins. With DL_CURSOR_CLEAN, the copies are made equal first. */
void scene_join(struct checker *consumer, uint32_t flags);
void scene_join_display(struct checker *consumer);

/* The rig's own consumer and this one join, and have read everything. */
void scene_join_both(struct checker *other);

/* vCPU 0 writes new values to these pages. */
void scene_write(const struct rig_slot *slot, uint64_t first, uint64_t pages);

/* A pass that hands out exactly these pages. */
void scene_expect(struct checker *consumer, const struct rig_slot *slot, uint64_t first,
		  uint64_t pages);

/*
 * Each vCPU counts in a part of a slot, the first in RAM, the next in the display: in another part
 * in the next turn, so that a write that is lost stays lost.
 */
void scene_run(unsigned int turn);

/* Waits until each vCPU has written its whole part once more. */
void scene_wait(void);

/* Ends the guest. Of these and of the rig's, who has joined must have copies of all memory. */
void scene_finish(struct checker *one, struct checker *two);

#endif
