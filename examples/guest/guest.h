/* SPDX-License-Identifier: MIT */
#ifndef GUEST_GUEST_H
#define GUEST_GUEST_H

/*
 * The interface between the host and the guest code: guest_x86.S, guest_arm64.S, and its equivalent
 * in C in machine_model.c. Included by assembly too.
 *
 * Each vCPU owns a share of the working set and loops over it forever: pick a page, check that it
 * holds what this vCPU last wrote there, write the next generation. The generation table holds a
 * second copy of each page's generation, so that the guest itself detects a page that did not reach
 * its copy: page and table disagree.
 *
 * A reader checks the pages of its share in order and reads all of their contents. It writes
 * nothing at all: what it remembers is in registers.
 */

/* Offsets in struct guest_control, for the assembly. */
#define GUEST_FIRST_ADDRESS 0
#define GUEST_GAP_AT	    8
#define GUEST_GAP_BYTES	    16
#define GUEST_PAGE_BYTES    24
#define GUEST_SHARE_PAGES   32
#define GUEST_HOT_PAGES	    40
#define GUEST_TABLE_ADDRESS 48
#define GUEST_VCPU	    56
#define GUEST_PATTERN	    64
#define GUEST_QUANTUM	    72
#define GUEST_NEXT_INDEX    80
#define GUEST_RANDOM	    88
#define GUEST_QUANTUM_LEFT  96
#define GUEST_RECORDS	    104
#define GUEST_BAD_ADDRESS   112
#define GUEST_BAD_EXPECTED  120
#define GUEST_BAD_FOUND	    128

/* Offsets in struct record. */
#define RECORD_ADDRESS	  0
#define RECORD_WRITER	  8
#define RECORD_GENERATION 16
#define RECORD_CHECKSUM	  24

#define RECORD_FACTOR 0x9e3779b97f4a7c15

/*
 * How a vCPU picks its pages. HOT: seven of eight picks are from a sixteenth of the share. READ: it
 * is a reader.
 */
#define GUEST_PATTERN_SEQUENTIAL 0
#define GUEST_PATTERN_RANDOM	 1
#define GUEST_PATTERN_HOT	 2
#define GUEST_PATTERN_READ	 3

/* Events that the guest writes to its doorbell: an I/O port on x86, an address on arm64. */
#define GUEST_DOORBELL_PORT    0x10
#define GUEST_DOORBELL_ADDRESS 0x01000000
#define GUEST_EVENT_QUANTUM    1 /* GUEST_QUANTUM records were written */
#define GUEST_EVENT_DAMAGE     2 /* a page does not hold what this vCPU last wrote */
#define GUEST_EVENT_READ       3 /* GUEST_QUANTUM pages were read */

#ifndef __ASSEMBLER__

#include <stddef.h>
#include <stdint.h>

/* The vCPU's control page: in guest memory, copied like any other page. */
struct guest_control {
	/* Set by the host while the vCPU is stopped. */
	uint64_t first_address; /* of the share */
	uint64_t gap_at;	/* the gap between two memslots begins here: */
	uint64_t gap_bytes;	/* add this to addresses from gap_at on */
	uint64_t page_bytes;
	uint64_t share_pages;
	uint64_t hot_pages;
	uint64_t table_address; /* generation table: 8 bytes per page of the share */
	uint64_t vcpu;
	uint64_t pattern;
	uint64_t quantum; /* records or reads between doorbells; 0: never ring */
	/* Updated by the guest. */
	uint64_t next_index;
	uint64_t random;
	uint64_t quantum_left;
	uint64_t records; /* written since boot */
	uint64_t bad_address;
	uint64_t bad_expected; /* generations */
	uint64_t bad_found;
};

/* At the start of each page of a writer. All zero: not written yet. */
struct record {
	uint64_t address;
	uint64_t writer;
	uint64_t generation;
	uint64_t checksum;
};

static inline uint64_t record_checksum(uint64_t address, uint64_t writer, uint64_t generation)
{
	uint64_t sum = ((address + writer) ^ generation) * RECORD_FACTOR;

	return sum ^ sum >> 32;
}

static inline struct record record_make(uint64_t address, uint64_t writer, uint64_t generation)
{
	struct record record = { address, writer, generation,
				 record_checksum(address, writer, generation) };

	return record;
}

#define GUEST_OFFSET(type, field, offset) \
	_Static_assert(offsetof(struct type, field) == (offset), #field " moved")
GUEST_OFFSET(guest_control, first_address, GUEST_FIRST_ADDRESS);
GUEST_OFFSET(guest_control, gap_at, GUEST_GAP_AT);
GUEST_OFFSET(guest_control, gap_bytes, GUEST_GAP_BYTES);
GUEST_OFFSET(guest_control, page_bytes, GUEST_PAGE_BYTES);
GUEST_OFFSET(guest_control, share_pages, GUEST_SHARE_PAGES);
GUEST_OFFSET(guest_control, hot_pages, GUEST_HOT_PAGES);
GUEST_OFFSET(guest_control, table_address, GUEST_TABLE_ADDRESS);
GUEST_OFFSET(guest_control, vcpu, GUEST_VCPU);
GUEST_OFFSET(guest_control, pattern, GUEST_PATTERN);
GUEST_OFFSET(guest_control, quantum, GUEST_QUANTUM);
GUEST_OFFSET(guest_control, next_index, GUEST_NEXT_INDEX);
GUEST_OFFSET(guest_control, random, GUEST_RANDOM);
GUEST_OFFSET(guest_control, quantum_left, GUEST_QUANTUM_LEFT);
GUEST_OFFSET(guest_control, records, GUEST_RECORDS);
GUEST_OFFSET(guest_control, bad_address, GUEST_BAD_ADDRESS);
GUEST_OFFSET(guest_control, bad_expected, GUEST_BAD_EXPECTED);
GUEST_OFFSET(guest_control, bad_found, GUEST_BAD_FOUND);
GUEST_OFFSET(record, address, RECORD_ADDRESS);
GUEST_OFFSET(record, writer, RECORD_WRITER);
GUEST_OFFSET(record, generation, RECORD_GENERATION);
GUEST_OFFSET(record, checksum, RECORD_CHECKSUM);
#undef GUEST_OFFSET

/* Guest code for this architecture: position independent, entered at its first byte. */
extern const unsigned char guest_code[], guest_code_end[];

#endif
#endif
