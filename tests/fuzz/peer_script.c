/* SPDX-License-Identifier: MIT */
/* The peer's stream: valid and invalid frames. */
#include "peer.h"

#include "device.h"
#include "pages.h"

enum {
	PAGE_BYTES = 4096,
	HASHES = WIRE_MAX_HASHES,
	STATE_BYTES = sizeof(struct vcpu_state),
	MAX_STEPS = 100, /* some make the program read the whole memory */
};

static uint8_t payload[WIRE_MAX_BYTES + PAGE_BYTES];
static uint64_t control_hashes[VCPUS]; /* of the control pages that were sent; 0: none */

static void add(const void *from, size_t bytes)
{
	if (bytes > STREAM_BYTES - peer.bytes)
		bytes = STREAM_BYTES - peer.bytes;
	if (bytes)
		memcpy(peer.stream + peer.bytes, from, bytes);
	peer.bytes += bytes;
}

static void header(uint32_t type, uint64_t offset_bytes, uint32_t payload_bytes)
{
	struct wire_header header = { .magic = 0x706d4c44,
				      .type = type,
				      .payload_bytes = payload_bytes,
				      .offset_bytes = offset_bytes };

	add(&header, sizeof(header));
}

void peer_frame(uint32_t type, uint64_t offset_bytes, const void *from, uint32_t bytes)
{
	header(type, offset_bytes, bytes);
	add(from, bytes);
}

/* A number near a limit: the end of the guest's memory or of 64 bits; or any number. */
static uint64_t edge(struct input *in)
{
	uint8_t kind = input_u8(in);
	uint64_t pages = (uint64_t)(kind >> 4) * PAGE_BYTES;

	switch (kind % 8) {
	case 0 ... 1:
		return LAYOUT_MIN_BYTES + pages;
	case 2:
		return LAYOUT_MIN_BYTES - pages;
	case 3 ... 4:
		return 0 - pages;
	case 5:
		return MEMORY_LIMIT_BYTES + pages;
	case 6:
		return input_wild(in) * PAGE_BYTES;
	default:
		return input_wild(in);
	}
}

static void hello(struct input *in, bool spoiled)
{
	uint8_t shape = input_u8(in);
	struct wire_hello hello = { .version = WIRE_VERSION,
				    .machine = WIRE_MACHINE,
				    .backend = BACKEND_MODEL,
				    .guest_user = shape & 1,
				    .page_bytes = PAGE_BYTES,
				    .vcpus = VCPUS,
				    .memory_bytes = LAYOUT_MIN_BYTES,
				    .working_set_bytes = 64 << 10,
				    .channels = 1 };
	uint8_t *field = (uint8_t *)&hello;

	if (spoiled && shape & 64)
		hello.memory_bytes = edge(in);
	else if (spoiled && shape & 128)
		hello.working_set_bytes = edge(in);
	else if (spoiled)
		*(uint32_t *)(void *)(field + shape % 6 * 4u) = (uint32_t)input_wild(in);
	peer_frame(WIRE_HELLO, 0, &hello, sizeof(hello));
}

static void fill(struct input *in, size_t bytes)
{
	uint8_t with = input_u8(in);

	for (size_t i = 0; i < bytes; i++)
		payload[i] = with < 16 ? with : (uint8_t)(with * (i % 251));
}

static void pages(struct input *in, bool spoiled)
{
	uint64_t offset = input_number(in, 2) % 4096 * PAGE_BYTES;
	uint32_t bytes = (1 + input_u8(in) % 4u) * PAGE_BYTES, announced = bytes;

	if (spoiled) {
		offset = edge(in);
		announced = input_u8(in) & 1 ? (uint32_t)input_wild(in) : bytes;
		bytes = announced < sizeof(payload) ? announced : PAGE_BYTES;
	}
	fill(in, bytes);
	header(WIRE_PAGES, offset, announced);
	add(payload, bytes);
}

static void zeros(struct input *in, bool spoiled)
{
	uint64_t offset = input_number(in, 2) % 4096 * PAGE_BYTES;
	uint64_t bytes = (1 + input_number(in, 2) % 256) * PAGE_BYTES;

	if (spoiled) {
		offset = edge(in);
		bytes = edge(in);
	}
	peer_frame(WIRE_ZEROS, offset, &bytes, sizeof(bytes) - (spoiled ? input_u8(in) / 200 : 0));
}

static void state(struct input *in)
{
	uint64_t writes = input_wild(in);

	fill(in, VCPUS * STATE_BYTES);
	peer_frame(WIRE_VCPUS, 0, payload, VCPUS * STATE_BYTES);
	peer_frame(WIRE_DEVICE, 0, &writes, sizeof(writes));
}

/* The hashes of zero pages, except for the vCPUs' control pages that were sent. */
static void hashes(uint64_t first_page, uint64_t count)
{
	static const uint8_t page[PAGE_BYTES];
	static uint64_t zero_hash;
	uint64_t right[HASHES], first_control = layout_control_offset(peer.layout, 0) / PAGE_BYTES;

	if (!zero_hash)
		zero_hash = page_hash(page, PAGE_BYTES);
	while (count) {
		uint64_t n = count < HASHES ? count : HASHES;

		for (uint64_t i = 0; i < n; i++) {
			uint64_t vcpu = first_page + i - first_control;

			right[i] = vcpu < VCPUS && control_hashes[vcpu] ? control_hashes[vcpu]
									: zero_hash;
		}
		peer_frame(WIRE_HASHES, first_page * PAGE_BYTES, right, (uint32_t)n * 8);
		first_page += n;
		count -= n;
	}
}

/* Any number of bytes: too many or too few hashes, or a part of one. */
static void spoiled_hashes(struct input *in)
{
	uint64_t offset = input_u8(in) & 1 ? edge(in) : 0;

	peer_frame(WIRE_HASHES, offset, payload, (uint32_t)input_number(in, 2) % (4 * 8 * HASHES));
}

/* An address near a slot's begin or end; or any address. */
static uint64_t guest_address(struct input *in)
{
	uint8_t kind = input_u8(in);
	const struct layout_slot *slot = &peer.layout->slots[kind % LAYOUT_SLOTS];

	if (kind & 128)
		return input_wild(in);
	return slot->gpa + (kind & 64 ? slot->bytes : 0) + (kind >> 3 & 7) * 8 - 32;
}

/* The control page of a vCPU, with some words replaced. */
static void control(struct input *in)
{
	uint8_t how = input_u8(in), vcpu = how % VCPUS;
	struct guest_control *control = (void *)payload;
	uint64_t *words = (void *)payload;

	memset(payload, 0, PAGE_BYTES);
	layout_control(peer.layout, vcpu, control);
	for (int i = how >> 5; i; i--) {
		uint8_t word = input_u8(in) % (sizeof(*control) / 8);

		words[word] = guest_address(in);
	}
	control_hashes[vcpu] = page_hash(payload, PAGE_BYTES);
	peer_frame(WIRE_PAGES, layout_control_offset(peer.layout, vcpu), payload, PAGE_BYTES);
}

static void any_frame(struct input *in)
{
	uint32_t type = input_u8(in) % (WIRE_TYPES + 2), bytes = input_u8(in);

	header(type, input_wild(in), input_u8(in) & 1 ? (uint32_t)input_wild(in) : bytes);
	fill(in, bytes);
	add(payload, bytes);
}

static void raw(struct input *in)
{
	for (uint32_t n = input_u8(in) % 64; n; n--) {
		uint8_t byte = input_u8(in);

		add(&byte, 1);
	}
}

/* Flips a bit near the end of the stream so far. */
static void flip(struct input *in)
{
	size_t back = 1 + input_number(in, 2) % 256;

	if (back <= peer.bytes)
		peer.stream[peer.bytes - back] ^= (uint8_t)(1u << input_u8(in) % 8);
}

static void refused(struct input *in)
{
	uint32_t bytes = (uint32_t)input_number(in, 2) % (2 * WIRE_TEXT_BYTES);

	if (bytes > 2 * WIRE_TEXT_BYTES - 64)
		bytes = WIRE_TEXT_BYTES;

	for (uint32_t i = 0; i < bytes; i++)
		payload[i] = input_u8(in);
	peer_frame(WIRE_REFUSED, 0, payload, bytes);
}

static void add_for_destination(struct input *in)
{
	switch (input_u8(in) % 26) {
	case 0 ... 1:
		hello(in, false);
		break;
	case 2:
		hello(in, true);
		break;
	case 3 ... 5:
		pages(in, false);
		break;
	case 6:
		pages(in, true);
		break;
	case 7 ... 8:
		zeros(in, false);
		break;
	case 9:
		zeros(in, true);
		break;
	case 10:
		peer_frame(WIRE_PASS_END, 0, NULL, 0);
		break;
	case 11 ... 12:
		state(in);
		break;
	case 13 ... 14:
		hashes(0, LAYOUT_MIN_BYTES / PAGE_BYTES);
		break;
	case 15:
		hashes(input_wild(in), input_number(in, 2) % (4 * HASHES));
		break;
	case 16:
		peer_frame(WIRE_PROVE, 0, NULL, 0);
		break;
	case 17:
		peer_frame(WIRE_RUN, 0, NULL, 0);
		break;
	case 18 ... 20:
		control(in);
		break;
	case 21:
		any_frame(in);
		break;
	case 22:
		raw(in);
		break;
	case 23:
		flip(in);
		break;
	case 24:
		spoiled_hashes(in);
		break;
	case 25:
		refused(in);
		break;
	}
}

static void result(struct input *in)
{
	struct wire_result result = { .guest_healthy = input_u8(in) & 1,
				      .device_healthy = input_u8(in) & 1,
				      .checked_pages = input_wild(in),
				      .records = input_wild(in),
				      .ns = input_wild(in) };

	for (uint32_t n = input_u8(in), i = 0; i < n && i < WIRE_TEXT_BYTES; i++)
		result.why[i] = (char)input_u8(in);
	peer_frame(WIRE_RESULT, 0, &result, sizeof(result));
}

static void proof(struct input *in, uint64_t guest_pages)
{
	struct wire_proof proof = { .compared_pages = guest_pages };
	uint8_t how = input_u8(in);

	if (how & 1)
		proof.compared_pages = input_wild(in);
	if (how & 2)
		proof.differing_pages = input_wild(in);
	for (int i = 0; i < 4 && how & 4; i++)
		proof.first_differing[i] = input_wild(in);
	peer_frame(WIRE_PROOF, 0, &proof, sizeof(proof));
}

static void add_for_source(struct input *in)
{
	switch (input_u8(in) % 16) {
	case 0 ... 1:
		peer_frame(WIRE_WELCOME, 0, NULL, 0);
		break;
	case 2 ... 3:
		peer_frame(WIRE_PASS_DONE, input_wild(in), NULL, 0);
		break;
	case 4 ... 5:
		peer_frame(WIRE_READY, 0, NULL, 0);
		break;
	case 6 ... 7:
		proof(in, peer.layout->memory_bytes / PAGE_BYTES);
		break;
	case 8 ... 9:
		result(in);
		break;
	case 10:
		refused(in);
		break;
	case 11 ... 12:
		any_frame(in);
		break;
	case 13:
		raw(in);
		break;
	case 14 ... 15:
		flip(in);
		break;
	}
}

void peer_make_stream(struct input *in, bool to_source)
{
	memset(control_hashes, 0, sizeof(control_hashes));
	for (int i = 0; i < MAX_STEPS && in->left && peer.bytes < STREAM_BYTES; i++)
		if (to_source)
			add_for_source(in);
		else
			add_for_destination(in);
}
