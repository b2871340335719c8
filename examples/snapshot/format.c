/* SPDX-License-Identifier: MIT */
#include "format.h"
#include "crc32.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool all_zero(const uint8_t *bytes, size_t n)
{
	while (n--)
		if (bytes[n])
			return false;
	return true;
}

bool snap_id_is_none(const uint8_t *id)
{
	return all_zero(id, SNAP_ID_BYTES);
}

static uint32_t header_crc(const struct snap_header *header)
{
	return crc32_add(0, header, offsetof(struct snap_header, crc));
}

static uint32_t footer_crc(const struct snap_footer *footer)
{
	return crc32_add(0, footer, offsetof(struct snap_footer, crc));
}

void snap_seal_header(struct snap_header *header)
{
	header->crc = header_crc(header);
}

void snap_seal_footer(struct snap_footer *footer)
{
	footer->crc = footer_crc(footer);
}

static bool is_page_size(uint32_t bytes)
{
	return bytes >= 4096 && bytes <= 65536 && !(bytes & (bytes - 1));
}

const char *snap_check_header(const struct snap_header *header)
{
	if (memcmp(header->magic, SNAP_MAGIC, sizeof(header->magic)))
		return "no point's file";
	if (header->crc != header_crc(header))
		return "the header is damaged";
	if (header->version != SNAP_VERSION || header->header_bytes != sizeof(*header))
		return "another version of the format";
	if (header->reserved || !all_zero(header->zeros, sizeof(header->zeros)))
		return "the header has what this version does not know";
	if (!header->number || header->number > SNAP_MAX_NUMBER || snap_id_is_none(header->id))
		return "the header has no number or no identity";
	if (!is_page_size(header->page_bytes) || !header->vcpus ||
	    header->vcpus > LAYOUT_MAX_VCPUS || !header->memory_bytes ||
	    header->memory_bytes > LAYOUT_MAX_BYTES || header->memory_bytes % header->page_bytes ||
	    header->working_set_bytes > header->memory_bytes || header->guest_user > 1)
		return "the header describes no guest";
	return NULL;
}

const char *snap_check_footer(const struct snap_footer *footer, const struct snap_header *header,
			      uint64_t file_bytes)
{
	uint64_t fixed = sizeof(*header) + sizeof(*footer) + snap_state_bytes(header->vcpus);
	uint64_t index_bytes;

	if (memcmp(footer->magic, SNAP_END_MAGIC, sizeof(footer->magic)))
		return "it is not complete";
	if (footer->crc != footer_crc(footer))
		return "the footer is damaged";
	if (memcmp(footer->id, header->id, sizeof(footer->id)))
		return "the footer is another point's";
	if (footer->flags & ~(uint32_t)SNAP_HAS_MEMORY_CRC ||
	    !all_zero(footer->zeros, sizeof(footer->zeros)))
		return "the footer has what this version does not know";
	if (footer->file_bytes != file_bytes || file_bytes < fixed)
		return "its size is wrong";
	/* An upper bound: as many extents as fit beside the fixed parts. */
	index_bytes = (file_bytes - fixed) / sizeof(struct snap_extent);
	if (footer->state_bytes != snap_state_bytes(header->vcpus) ||
	    footer->extents > index_bytes ||
	    footer->index_bytes != file_bytes - (fixed - sizeof(*header)) -
					   footer->extents * sizeof(struct snap_extent))
		return "the footer contradicts itself";
	return NULL;
}

void snap_name(char *name, uint64_t number)
{
	/* No number is larger; the remainder says so to the compiler. */
	snprintf(name, SNAP_NAME_BYTES, "%06u.snap",
		 (unsigned int)(number % (SNAP_MAX_NUMBER + 1)));
}

uint64_t snap_number(const char *name)
{
	char same[SNAP_NAME_BYTES];
	unsigned long number = strtoul(name, NULL, 10);

	if (!number || number > SNAP_MAX_NUMBER)
		return 0;
	snap_name(same, number);
	return strcmp(same, name) ? 0 : number;
}

const char *snap_short_id(char *text, const uint8_t *id)
{
	snprintf(text, SNAP_SHORT_ID_BYTES, "%02x%02x%02x%02x", id[0], id[1], id[2], id[3]);
	return text;
}
