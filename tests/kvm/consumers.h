/* SPDX-License-Identifier: MIT */
#ifndef KVM_CONSUMERS_H
#define KVM_CONSUMERS_H

/* More consumers of a rig's memory, each with a cursor and receivers of its own. */

#include "rig.h"

enum { CONSUMERS_MAX = 4 };

/* A consumer that has not joined and knows no memory. Every other one gets its pages late. */
struct checker *consumer_new(struct rig *rig);

/* Lets a consumer watch a slot, with a copy that differs from it. */
void consumer_watch(struct checker *consumer, const struct rig_slot *slot);

/* As consumer_watch(), for every slot that the rig has now. */
struct checker *consumer_of_all(struct rig *rig);

/* rig_slot_set() and a removal, which all consumers that watch the memory learn of. */
void consumers_set(struct rig *rig, const struct rig_slot *slot, uint32_t flags);
void consumers_remove(struct rig *rig, const struct rig_slot *slot, uint32_t flags);

/* A pass that must succeed. Returns the pages that it could hand out. */
uint64_t consumer_pass(struct checker *consumer, unsigned int readers);

/* A harvest and an end, and nothing between. Returns the pending pages. */
uint64_t consumer_measure(struct checker *consumer);

/* With the vCPUs stopped: the last pass, after which its copies must equal the memory. */
void consumer_finish(struct checker *consumer);

/* The pages of a pass, ascending by guest address, without duplicates in it. All are sent. */
unsigned int consumer_pages(struct checker *consumer, uint64_t *gpas, unsigned int room);

/* A pass that hands out exactly one range. */
void consumer_expect(struct checker *consumer, const struct rig_range *range);

/* Frees all of them. */
void consumers_free(void);

#endif
