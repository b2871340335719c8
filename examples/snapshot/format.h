/* SPDX-License-Identifier: MIT */
#ifndef SNAPSHOT_FORMAT_H
#define SNAPSHOT_FORMAT_H

/*
 * The format of a point's file, described in doc/snapshots.md:
 *
 *	header	4096 bytes	the guest, the point, and the point it is relative to
 *	data	whole pages	contents of the data extents, in the order of the index
 *	index	32 bytes each	extents of the image; later ones replace earlier ones
 *	state			vCPUs and devices
 *	footer	128 bytes	where those are, their sums
 *
 * Every byte is covered by a CRC-32. Numbers are little-endian, as the hosts of KVM with dirty
 * rings are. A writer needs no seek; a file is complete if its footer is.
 */

#include "device.h"

#include <stdint.h>

#define SNAP_MAGIC	"DLSNAP1\n"
#define SNAP_END_MAGIC	"DLSNEND\n"
#define SNAP_VERSION	1
#define SNAP_MAX_NUMBER 999999

enum {
	SNAP_NAME_BYTES = 16,	    /* 000012.snap */
	SNAP_ID_BYTES = 16,	    /* of a point, drawn at random */
	SNAP_EXTENT_BYTES = 1 << 20 /* of a data extent, at most */
};

/* ELF machine numbers. */
#if defined(__x86_64__)
#define SNAP_MACHINE 62
#elif defined(__aarch64__)
#define SNAP_MACHINE 183
#else
#error "no guest code for this architecture"
#endif

struct snap_header {
	char magic[8];
	uint32_t version;
	uint32_t header_bytes;
	uint8_t id[SNAP_ID_BYTES];
	uint8_t parent[SNAP_ID_BYTES]; /* all zero: a base, which has all pages */
	uint64_t number;
	uint64_t memory_bytes; /* of the image */
	uint32_t page_bytes;
	uint32_t vcpus;
	uint32_t machine; /* SNAP_MACHINE */
	uint32_t backend; /* enum backend */
	uint32_t guest_user;
	uint32_t reserved;
	uint64_t working_set_bytes;
	uint64_t quantum_ns;
	uint64_t taken_ns; /* when the point was begun, since 1970: its pause is later */
	uint8_t zeros[3980];
	uint32_t crc; /* of what is before it */
};

enum { SNAP_EXTENT_ZERO = 1 };

struct snap_extent {
	uint64_t image_bytes; /* offset in the image: dl_extent.cookie + offset_bytes */
	uint64_t bytes;
	uint64_t file_bytes; /* offset in the file; 0 for zeros, which it does not contain */
	uint32_t flags;	     /* SNAP_EXTENT_ZERO or 0 */
	uint32_t crc;	     /* of the contents; 0 for zeros */
};

enum { SNAP_HAS_MEMORY_CRC = 1 };

struct snap_footer {
	char magic[8];
	uint8_t id[SNAP_ID_BYTES]; /* the header's */
	uint64_t index_bytes;	   /* offset in the file */
	uint64_t extents;
	uint64_t state_bytes; /* size; the state follows the index */
	uint64_t data_pages;
	uint64_t zero_pages;
	uint64_t file_bytes; /* size of the file */
	uint32_t index_crc;
	uint32_t state_crc;
	uint32_t memory_crc; /* of the whole image at this point, if it was asked for */
	uint32_t flags;
	uint8_t zeros[36];
	uint32_t crc; /* of what is before it */
};

/* The state: this for the devices, then a struct vcpu_state for each vCPU. */
struct snap_state {
	struct device_state device;
	uint64_t reserved[6];
	struct vcpu_state vcpus[LAYOUT_MAX_VCPUS];
};

_Static_assert(sizeof(struct snap_header) == 4096, "the header's size is part of the format");
_Static_assert(sizeof(struct snap_extent) == 32, "an extent's size is part of the format");
_Static_assert(sizeof(struct snap_footer) == 128, "the footer's size is part of the format");

static inline uint64_t snap_state_bytes(uint32_t vcpus)
{
	return offsetof(struct snap_state, vcpus) + vcpus * sizeof(struct vcpu_state);
}

bool snap_id_is_none(const uint8_t *id);

/* Sets the sums of a header and a footer that are otherwise complete. */
void snap_seal_header(struct snap_header *header);
void snap_seal_footer(struct snap_footer *footer);

/*
 * What is wrong with them, or NULL. They may come from anywhere: what this accepts can be computed
 * with.
 */
const char *snap_check_header(const struct snap_header *header);
const char *snap_check_footer(const struct snap_footer *footer, const struct snap_header *header,
			      uint64_t file_bytes);

/* Writes the name of a point's file. */
void snap_name(char *name, uint64_t number);

/* The number in a name, or 0: no file of a point. Numbers begin at 1. */
uint64_t snap_number(const char *name);

/* Writes the first four bytes of an identity in hexadecimal. */
#define SNAP_SHORT_ID_BYTES 9
const char *snap_short_id(char *text, const uint8_t *id);

#endif
