/* SPDX-License-Identifier: MIT */
#include "receive.h"
#include "pages.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

int receiver_check_range(struct receiver *receiver, uint64_t offset_bytes, uint64_t bytes)
{
	const struct layout *layout = &receiver->machine->layout;
	uint32_t page_bytes = layout->page_bytes;

	if (!bytes || offset_bytes % page_bytes || bytes % page_bytes ||
	    bytes > layout->memory_bytes || offset_bytes > layout->memory_bytes - bytes)
		return wire_fail(receiver->wire, -EPROTO,
				 "%" PRIu64 " bytes at offset %#" PRIx64
				 " are not whole pages of guest memory",
				 bytes, offset_bytes);
	receiver->pages += bytes / page_bytes;
	return 0;
}

static int receive_pages(struct receiver *receiver, const struct wire_header *header)
{
	int r = receiver_check_range(receiver, header->offset_bytes, header->payload_bytes);

	return r ? r
		 : wire_receive_payload(receiver->wire,
					receiver->machine->memory + header->offset_bytes,
					header->payload_bytes);
}

/* Does not write pages that are zero already: most were never touched, and stay unallocated. */
static int receive_zeros(struct receiver *receiver, const struct wire_header *header)
{
	uint32_t page_bytes = receiver->machine->layout.page_bytes;
	uint64_t bytes, at;
	uint8_t *memory;
	int r;

	if (header->payload_bytes != sizeof(bytes))
		return wire_fail(receiver->wire, -EPROTO,
				 "a ZEROS frame with a payload of %u bytes", header->payload_bytes);
	r = wire_receive_payload(receiver->wire, &bytes, sizeof(bytes));
	if (!r)
		r = receiver_check_range(receiver, header->offset_bytes, bytes);
	if (r)
		return r;
	memory = receiver->machine->memory + header->offset_bytes;
	for (at = 0; at < bytes; at += page_bytes)
		if (!page_is_zero(memory + at, page_bytes))
			memset(memory + at, 0, page_bytes);
	return 0;
}

int receiver_run(struct receiver *receiver, enum wire_type last, struct wire_header *header)
{
	struct wire *wire = receiver->wire;
	int r;

	for (;;) {
		r = wire_receive_header(wire, header);
		if (r || header->type == last)
			return r;
		if (header->type == WIRE_PAGES)
			r = receive_pages(receiver, header);
		else if (header->type == WIRE_ZEROS)
			r = receive_zeros(receiver, header);
		else if (header->type == WIRE_PASS_END && !header->payload_bytes)
			r = wire_send(wire, WIRE_PASS_DONE, ++receiver->passes, NULL, 0);
		else
			r = wire_fail(wire, -EPROTO, "unexpected frame %u", header->type);
		if (r)
			return r;
	}
}
