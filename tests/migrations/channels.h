/* SPDX-License-Identifier: MIT */
#ifndef MIGRATIONS_CHANNELS_H
#define MIGRATIONS_CHANNELS_H

/*
 * Two connections to a receiver that deliver late: nothing before a flush, and then the two in any
 * order, each its own messages in theirs. Contents are those of the moment of sending.
 */

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include <dirtylog/dirtylog.h>

#include "../unit/random.h"

struct channel_message {
	struct channel_message *next;
	struct dl_extent extent;
	uint64_t pass;
	uint8_t data[];
};

struct channels {
	pthread_mutex_t lock;
	struct random random;
	struct {
		struct channel_message *first, **end;
	} channel[2];
};

void channels_init(struct channels *channels, uint64_t seed);

/* Drops what has not been delivered. */
void channels_free(struct channels *channels);

/* [T] A message for an extent; the caller fills its data, and sends it. */
struct channel_message *channels_message(const struct dl_extent *extent, uint64_t pass);
void channels_send(struct channels *channels, struct channel_message *message);

/* Delivers everything. */
void channels_flush(struct channels *channels,
		    void (*deliver)(void *opaque, const struct channel_message *message),
		    void *opaque);

#endif
