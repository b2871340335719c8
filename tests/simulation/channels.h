/* SPDX-License-Identifier: MIT */
#ifndef SIMULATION_CHANNELS_H
#define SIMULATION_CHANNELS_H

/*
 * The way from a consumer to its receivers: two channels. Each delivers in order, and holds back as
 * it likes until it is flushed; between the two there is no order. The caller flushes both between
 * two passes of the consumer, and between two takes that could have the same page.
 */

#include <stdbool.h>
#include <stdint.h>

#include "plan.h"
#include "stand_ins.h"

enum { CONSUMERS = PLAN_CONSUMERS, CHANNELS = 2, CHANNEL_MESSAGES = 24 };

struct message {
	uint8_t block;
	uint16_t page;
	uint32_t gpa_page;
	uint8_t bytes[SIM_PAGE_BYTES];
};

struct channel {
	uint32_t first, n;
	struct message queue[CHANNEL_MESSAGES];
};

struct consumer {
	uint32_t number;
	const struct wish *wish;
	struct dl_cursor *cursor; /* NULL: it is not there */
	uint64_t epoch;		  /* changes with each start and stop */
	uint64_t began_at;
	bool is_starting, is_stopping;
	bool sends_all; /* a clean start: all memory, which no slot must replace meanwhile */
	bool pass_open, pass_making;
	bool is_taking;	     /* its only sender takes; no other may join */
	bool all_is_sent;    /* all that was read in the pass */
	uint32_t pass_users; /* senders in the pass */
	uint32_t takers;
	uint32_t planners; /* calls of dl_plan_new() that use the cursor */
	/* Pages that the pass has handed out. */
	bool handed[PLAN_BLOCKS][PLAN_BLOCK_PAGES];
	struct channel channels[CHANNELS];
};

/* Reads a page of the guest's memory, in pieces, and sends it. */
void channels_send(struct consumer *consumer, const struct place *place, uint32_t page,
		   uint64_t gpa_page);

/* Returns when all that was sent is delivered; then, perhaps, sends what was kept. */
void channels_flush(struct consumer *consumer);
void channels_send_kept(struct consumer *consumer);

#endif
