/* SPDX-License-Identifier: MIT */
#ifndef MIGRATIONS_GPA_RECEIVER_H
#define MIGRATIONS_GPA_RECEIVER_H

/*
 * The destination of a migration that knows guest addresses only: it stores what it gets at
 * (address space, guest address), and keeps what it once got there. At the end the memory of every
 * slot must be found at the slot's address. Memory that several slots map is found at the address
 * of the oldest of them, as the destination maps aliases as the source does.
 *
 * Every function may be called by several threads.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <dirtylog/dirtylog.h>

enum { GPA_RECEIVER_SLOTS = 40 };

struct gpa_page;

struct gpa_receiver {
	pthread_mutex_t lock;
	size_t page_bytes;
	struct gpa_page *pages; /* a hash table */
	size_t room, count;
	/* The source's slots, the oldest first. */
	struct dl_slot slots[GPA_RECEIVER_SLOTS];
	unsigned int slot_count;
};

void gpa_receiver_init(struct gpa_receiver *receiver, size_t page_bytes);
void gpa_receiver_free(struct gpa_receiver *receiver);

/*
 * Stores pages. pass numbers the pass that handed them out: false if it has handed out one of them
 * already. 0: in no pass.
 */
bool gpa_receiver_put(struct gpa_receiver *receiver, uint32_t as_id, uint64_t gpa, uint64_t bytes,
		      const uint8_t *data, uint64_t pass);

/* The source has set a slot: a new one, or one that it has moved. Stores nothing. */
void gpa_receiver_map(struct gpa_receiver *receiver, const struct dl_slot *slot);
void gpa_receiver_unmap(struct gpa_receiver *receiver, uint32_t slot);

/* Copies a slot of the source, or returns false. */
bool gpa_receiver_find(struct gpa_receiver *receiver, uint32_t number, struct dl_slot *slot);

/* Gives the receiver the memory of all slots as it is now. */
void gpa_receiver_equalize(struct gpa_receiver *receiver,
			   void (*copy)(void *to, const void *from, size_t bytes));

/*
 * Counts pages of the source's slots that are not found at their address, and prints the first
 * ones. is_ignored says whether memory at a host address does not count.
 */
uint64_t gpa_receiver_differing(struct gpa_receiver *receiver, bool print,
				bool (*is_ignored)(void *opaque, uint64_t hva), void *opaque);

#endif
