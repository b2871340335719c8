/* SPDX-License-Identifier: MIT */
#ifndef PRECOPY_WIRE_H
#define PRECOPY_WIRE_H

/*
 * The protocol between the two processes: frames of a header and a payload over a stream socket.
 *
 *	source                          destination
 *	HELLO                   ->
 *	                        <-      WELCOME                 (or REFUSED, with a reason)
 *	CHANNEL                 ->                              first on each further connection
 *	PAGES, ZEROS ...        ->
 *	PASS_END                ->
 *	                        <-      PASS_DONE               the whole pass is in place
 *	CHANNEL_END             ->                              last on each further connection
 *	VCPUS, DEVICE           ->                              after the final pass
 *	                        <-      READY
 *	HASHES ...              ->
 *	PROVE                   ->
 *	                        <-      PROOF
 *	RUN                     ->
 *	                        <-      RESULT
 *
 * PAGES to PASS_DONE go over every connection, the rest over the first one.
 *
 * The peer may be hostile or broken: every length is checked before anything is read or allocated,
 * and no frame is waited for longer than WIRE_TIMEOUT_NS. Numbers are little-endian, as every host
 * of KVM with dirty rings is in practice.
 */

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_VERSION	  3
#define WIRE_MAX_BYTES	  (UINT32_C(256) << 10) /* payload limit */
#define WIRE_TIMEOUT_NS	  (UINT64_C(30) * 1000000000)
#define WIRE_MAX_HASHES	  1024 /* per frame */
#define WIRE_MAX_CHANNELS 8
#define WIRE_TEXT_BYTES	  256

/* ELF machine numbers. */
#if defined(__x86_64__)
#define WIRE_MACHINE 62
#elif defined(__aarch64__)
#define WIRE_MACHINE 183
#else
#error "no guest code for this architecture"
#endif

enum wire_type {
	WIRE_HELLO = 1,
	WIRE_WELCOME,
	WIRE_REFUSED, /* payload: the reason as text; ends the connection */
	WIRE_PAGES,   /* payload: contents from offset on */
	WIRE_ZEROS,   /* payload: uint64_t number of zero bytes from offset on */
	WIRE_PASS_END,
	WIRE_PASS_DONE,
	WIRE_VCPUS,
	WIRE_DEVICE,
	WIRE_READY,
	WIRE_HASHES, /* payload: one uint64_t per page, from offset on */
	WIRE_PROVE,
	WIRE_PROOF,
	WIRE_RUN,
	WIRE_RESULT,
	WIRE_CHANNEL, /* payload: the token of the migration that the connection belongs to */
	WIRE_CHANNEL_END,
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
	uint32_t channels; /* connections, this one included */
	uint32_t reserved; /* 0 */
	uint64_t token;	   /* of this migration */
};

struct wire_proof {
	uint64_t compared_pages;
	uint64_t differing_pages;
	uint64_t first_differing[4]; /* offsets; min(differing_pages, 4) are valid */
};

struct wire_result {
	uint32_t guest_healthy;
	uint32_t device_healthy;
	uint64_t checked_pages; /* by the guest, since the switch-over */
	uint64_t records;	/* written by the guest, since the switch-over */
	uint64_t ns;
	char why[WIRE_TEXT_BYTES]; /* the damage, if any */
};

struct wire {
	int fd;
	/* Not NULL: once it is set, waiting ends with -EINTR. */
	const volatile sig_atomic_t *cancelled;
	uint64_t timeout_ns; /* WIRE_TIMEOUT_NS */
	uint64_t sent_bytes;
	uint64_t received_bytes;
	int failure;		   /* negative errno of the last failure */
	bool refused;		   /* the peer has sent a refusal */
	char why[WIRE_TEXT_BYTES]; /* the same failure as text */
};

void wire_init(struct wire *wire, int fd);

/* All return 0, or a negative errno value with the reason in wire->why. */

int wire_send(struct wire *wire, enum wire_type type, uint64_t offset_bytes, const void *payload,
	      size_t payload_bytes);

/* Receives and validates a header. A REFUSED frame is read to its end and gives -ECONNREFUSED. */
int wire_receive_header(struct wire *wire, struct wire_header *header);

/* Receives the payload of the last header, or the next bytes of it. */
int wire_receive_payload(struct wire *wire, void *payload, size_t bytes);

/* Receives a frame; any other type or payload length is an error. */
int wire_expect(struct wire *wire, enum wire_type type, void *payload, size_t payload_bytes);

/* How a new connection begins; nothing is consumed. */
enum wire_peek { WIRE_PEEK_NOTHING, WIRE_PEEK_WANTED, WIRE_PEEK_OTHER, WIRE_PEEK_CLOSED };

/* WANTED: a whole header of the type. */
enum wire_peek wire_peek(int fd, enum wire_type type);

/* Sends the peer the reason for closing the connection. Errors are ignored. */
void wire_refuse(struct wire *wire, const char *why);

/* After a lost connection: replaces the failure with the peer's refusal, if it sent one. */
void wire_read_refusal(struct wire *wire);

/* Replaces unprintable characters: text from the peer may end up on a terminal. */
void wire_sanitize(char *text);

/* Records the failure and its reason. Returns failure. */
int wire_fail(struct wire *wire, int failure, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
