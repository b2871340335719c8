/* SPDX-License-Identifier: MIT */
#ifndef CONVERGENCE_SENDER_H
#define CONVERGENCE_SENDER_H

/* The consumer: passes of a cursor, put on the wire page by page. */

#include "kernel.h"

/* On the wire, a zero page is a mark. */
#define SENDER_ZERO_PAGE (1.0 / 400)

enum { SENDER_EXTENTS = 16 };

struct sender {
	struct kernel *kernel;
	struct dl_cursor *cursor;
	struct dl_extent extents[SENDER_EXTENTS];
	/* Extents that were read, were acknowledged, and the one that is being sent. */
	uint32_t count, acknowledged, at;
	bool in_pass;
	uint64_t passes;   /* that are complete */
	double wire_pages; /* what the wire took: zero pages count as what they are there */
	uint64_t sent_pages;
	/* A caller that takes all that is pending at once, and sends it later. */
	bool takes_all;
	uint64_t *taken; /* a bit a page */
	uint64_t taken_pages, taken_word;
};

void sender_init(struct sender *sender, struct kernel *kernel, struct dl_cursor *cursor,
		 bool takes_all);
void sender_fini(struct sender *sender);

/*
 * Sends until the wire has taken more than *room pages. What it took is subtracted from *room; what
 * is left of it, the wire was idle. True: a pass has ended.
 */
bool sender_send(struct sender *sender, double *room);

/* The guest stands still: sends everything. Returns the pages on the wire. */
double sender_finish(struct sender *sender);

/* Pages that the caller has taken, and not sent. */
uint64_t sender_unsent_pages(const struct sender *sender);

/* Ends the run with a message if r is an error. Returns r. */
int check(int r, const char *what);

#endif
