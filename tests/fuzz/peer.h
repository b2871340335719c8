/* SPDX-License-Identifier: MIT */
#ifndef FUZZ_PEER_H
#define FUZZ_PEER_H

/*
 * The peer at the other end of precopy's connection, for fuzz_wire.c. It sends a stream that is
 * made from the input in advance. The __wrap_ functions of peer.c replace the program's socket
 * calls, clock, mappings and allocations.
 */

#include "fuzz.h"

#include "layout.h"
#include "wire.h"

enum {
	PEER_FD = 1 << 28,
	MEMORY_LIMIT_BYTES = 20 << 20, /* largest guest that the destination accepts */
	STREAM_BYTES = 2 << 20,
	SENT_BYTES = 1 << 18,
	VCPUS = 2,
};

/* How the stream ends. */
enum peer_end { PEER_CLOSES, PEER_RESETS, PEER_FALLS_SILENT, PEER_REPEATS };

struct peer {
	uint8_t stream[STREAM_BYTES];
	size_t bytes, at;
	size_t chunk_bytes; /* at most, in one call */
	enum peer_end end;
	uint64_t repeated_bytes;
	unsigned int flaws; /* how often calls fail, and with which errno */
	/* Data that the program sent. */
	uint8_t sent[SENT_BYTES];
	size_t sent_bytes;
	size_t gone_after_bytes; /* sends fail after that many bytes */
	/* System resources that the program used. */
	uint64_t mapped_bytes, allocated_bytes;
	uint64_t passed_ns;
	unsigned int guests;	     /* with guarded memory */
	const struct layout *layout; /* of the peer's guest */
};

extern struct peer peer;

/* peer_script.c: makes the whole stream. */
void peer_make_stream(struct input *in, bool to_source);
void peer_frame(uint32_t type, uint64_t offset_bytes, const void *payload, uint32_t bytes);

#endif
