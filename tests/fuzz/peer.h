/* SPDX-License-Identifier: MIT */
#ifndef FUZZ_PEER_H
#define FUZZ_PEER_H

/*
 * The other side of precopy's connection, and the system around it, for fuzz_wire.c: what it says
 * is a stream made of the input beforehand; the program's socket calls, its clock, its mappings and
 * allocations come to the __wrap_ functions of peer.c.
 */

#include "fuzz.h"

#include "layout.h"
#include "wire.h"

enum {
	PEER_FD = 1 << 28,
	MEMORY_LIMIT_BYTES = 20 << 20, /* of a guest, that the destination was told to accept */
	STREAM_BYTES = 2 << 20,
	SENT_BYTES = 1 << 18,
	VCPUS = 2,
};

/* How the stream ends. */
enum peer_end { PEER_CLOSES, PEER_RESETS, PEER_FALLS_SILENT, PEER_REPEATS };

struct peer {
	uint8_t stream[STREAM_BYTES];
	size_t bytes, at;
	size_t chunk_bytes; /* given at once */
	enum peer_end end;
	uint64_t repeated_bytes;
	unsigned int moods; /* interrupted and empty calls, from time to time */
	/* What it was told. */
	uint8_t sent[SENT_BYTES];
	size_t sent_bytes;
	size_t gone_after_bytes; /* nothing more is taken then */
	/* What the program took of the system. */
	uint64_t mapped_bytes, allocated_bytes;
	uint64_t passed_ns;
	unsigned int guests;	     /* whose memory is guarded */
	const struct layout *layout; /* of the guest that it knows */
};

extern struct peer peer;

/* peer_script.c: the whole stream. */
void peer_say(struct input *in, bool to_source);
void peer_frame(uint32_t type, uint64_t offset_bytes, const void *payload, uint32_t bytes);

#endif
