/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_WIRE_H
#define PRECOPY_WIRE_H

/*
 * The protocol between the two processes: frames of a header and a payload over a stream socket.
 *
 *	source                          destination
 *	HELLO                   ->
 *	                        <-      WELCOME                 (or REFUSED, with a text)
 *	PAGES, ZEROS ...        ->
 *	PASS_END                ->
 *	                        <-      PASS_DONE               once a pass: all of it is in place
 *	VCPUS, DEVICE           ->                              after the final pass
 *	                        <-      READY
 *	HASHES ...              ->
 *	PROVE                   ->
 *	                        <-      PROOF
 *	RUN                     ->
 *	                        <-      RESULT
 *
 * Whoever is on the other side may be hostile or broken: a length is looked at before anything is
 * read or allocated, and nothing is waited for longer than WIRE_PATIENCE_NS a frame.
 * Numbers are little-endian, which all hosts of KVM with dirty rings are in practice.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_VERSION	 1
#define WIRE_MAX_BYTES	 (UINT32_C(256) << 10) /* of a payload */
#define WIRE_PATIENCE_NS (UINT64_C(30) * 1000000000)
#define WIRE_MAX_HASHES	 1024 /* in one frame */
#define WIRE_TEXT_BYTES	 256

/* The ELF machine numbers. */
#if defined(__x86_64__)
#define WIRE_MACHINE 62
#elif defined(__aarch64__)
#define WIRE_MACHINE 183
#else
#error "there is no guest for this architecture"
#endif

enum wire_type {
	WIRE_HELLO = 1,
	WIRE_WELCOME,
	WIRE_REFUSED, /* payload: why, in words; the connection ends */
	WIRE_PAGES,   /* payload: contents from offset on */
	WIRE_ZEROS,   /* payload: a uint64_t, how many bytes from offset on are zero */
	WIRE_PASS_END,
	WIRE_PASS_DONE,
	WIRE_VCPUS,
	WIRE_DEVICE,
	WIRE_READY,
	WIRE_HASHES, /* payload: uint64_t each page; offset is that of the first */
	WIRE_PROVE,
	WIRE_PROOF,
	WIRE_RUN,
	WIRE_RESULT,
	WIRE_TYPES
};

struct wire_header {
	uint32_t magic;
	uint32_t type;
	uint32_t payload_bytes;
	uint32_t reserved; /* 0 */
	uint64_t offset_bytes;
};

struct wire_hello {
	uint32_t version;
	uint32_t machine; /* WIRE_MACHINE */
	uint32_t backend;
	uint32_t guest_user;
	uint32_t page_bytes;
	uint32_t vcpus;
	uint64_t memory_bytes;
	uint64_t working_set_bytes;
};

struct wire_proof {
	uint64_t compared_pages;
	uint64_t differing_pages;
	uint64_t first_differing[4]; /* offsets; as many as differ */
};

struct wire_result {
	uint32_t guest_healthy;
	uint32_t device_healthy;
	uint64_t checked_pages; /* looked at by the guest after the switch-over */
	uint64_t records;	/* written by it then */
	uint64_t ns;
	char why[WIRE_TEXT_BYTES]; /* where unhealthy */
};

struct wire {
	int fd;
	uint64_t sent_bytes;
	uint64_t received_bytes;
	int failure;		   /* the last one, a negative errno value ... */
	char why[WIRE_TEXT_BYTES]; /* ... and in words */
};

void wire_init(struct wire *wire, int fd);

/* All return 0 or a negative errno value, and set why then. */

int wire_send(struct wire *wire, enum wire_type type, uint64_t offset_bytes, const void *payload,
	      size_t payload_bytes);

/* A header that is sound in itself. REFUSED is read to its end and is -ECONNREFUSED. */
int wire_receive_header(struct wire *wire, struct wire_header *header);

/* The payload of that header, or as much of it as is asked for. */
int wire_receive_payload(struct wire *wire, void *payload, size_t bytes);

/* A frame of just this type and payload length. */
int wire_expect(struct wire *wire, enum wire_type type, void *payload, size_t payload_bytes);

/* Tells the other side why the connection ends. Failures are of no interest any more. */
void wire_refuse(struct wire *wire, const char *why);

/*
 * After the connection broke: puts what the other side said before it went, if it did, in place of
 * the failure.
 */
void wire_last_words(struct wire *wire);

/* Text that came from the other side: what is not printable must not reach a terminal. */
void wire_clean_text(char *text);

/* Sets failure and why; returns failure. */
int wire_fail(struct wire *wire, int failure, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
