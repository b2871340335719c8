/* SPDX-License-Identifier: MIT */
#ifndef RACE_SENDERS_H
#define RACE_SENDERS_H

#include "guest_checker.h"

/*
 * One pass of a cursor by several senders, each on its own thread. Each extent that a sender copies
 * is acknowledged by another one, in halves. With lossy, some extents are neither copied nor
 * acknowledged, as if they could not be sent, and the last ones are not acknowledged either.
 * Returns 0, or -EBUSY if another thread has ended the pass; any other error ends the program.
 */
int senders_pass(struct checker *checker, struct dl_cursor *cursor, uint32_t flags, bool lossy,
		 uint64_t *pending_bytes);

#endif
