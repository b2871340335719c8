/* SPDX-License-Identifier: MIT */
/*
 * Files of points from hostile hands, for the reader of examples/snapshot. The input describes a
 * file that is mostly right, with sums that are right, so that what a field says is believed. A
 * file that is accepted is applied to memory, which must become what the extents say, and nothing
 * beside it.
 */
#include "fuzz.h"

#include "crc32.h"
#include "image.h"
#include "reader.h"

#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, MAX_PAGES = 12, MAX_EXTENTS = 12, MAX_FILE = 1 << 18 };

static uint8_t contents[MAX_FILE], expected[MAX_PAGES * PAGE];
static struct snap_extent extents[MAX_EXTENTS];
static int memfd;

/* Changes a value as the input says: usually not at all. */
static uint64_t bend(struct input *in, uint64_t value)
{
	switch (input_u8(in)) {
	case 1:
		return value + 1;
	case 2:
		return value - 1;
	case 3:
		return value ^ UINT64_C(1) << input_u8(in) % 64;
	case 4:
		return value * PAGE;
	case 5:
		return UINT64_MAX - input_u8(in);
	case 6:
		return 0;
	case 7:
		return value + PAGE;
	default:
		return value;
	}
}

static void make_header(struct input *in, struct snap_header *header)
{
	memset(header, 0, sizeof(*header));
	memcpy(header->magic, SNAP_MAGIC, sizeof(header->magic));
	header->version = (uint32_t)bend(in, SNAP_VERSION);
	header->header_bytes = (uint32_t)bend(in, sizeof(*header));
	header->id[0] = 1;
	header->number = bend(in, 1);
	header->memory_bytes = bend(in, (1 + input_u8(in) % MAX_PAGES) * PAGE);
	header->page_bytes = (uint32_t)bend(in, PAGE);
	header->vcpus = (uint32_t)bend(in, 1 + input_u8(in) % 2);
	header->guest_user = (uint32_t)bend(in, 1);
	header->working_set_bytes = bend(in, PAGE);
	header->reserved = (uint32_t)bend(in, 0);
	snap_seal_header(header);
}

/* Returns where the data end in the file. */
static uint64_t make_extents(struct input *in, const struct snap_header *header, uint32_t n)
{
	uint64_t at = sizeof(*header), pages = header->memory_bytes / PAGE % 1024;

	for (uint32_t i = 0; i < n; i++) {
		struct snap_extent *extent = &extents[i];
		uint64_t bytes = (1 + input_u8(in) % 4) * PAGE;
		bool zero = input_u8(in) & 1;

		memset(extent, 0, sizeof(*extent));
		extent->image_bytes = bend(in, pages ? input_u8(in) % pages * PAGE : 0);
		extent->bytes = bend(in, bytes);
		extent->flags = (uint32_t)bend(in, zero);
		extent->file_bytes = bend(in, zero ? 0 : at);
		if (zero || at + bytes > MAX_FILE / 2)
			continue;
		memset(contents + at, input_u8(in), bytes);
		extent->crc = (uint32_t)bend(in, crc32_add(0, contents + at, bytes));
		at += bytes;
	}
	return at;
}

/* Returns the size of the file. */
static uint64_t make_file(struct input *in)
{
	uint32_t n = input_u8(in) % (MAX_EXTENTS + 1);
	uint64_t at, index_bytes = n * sizeof(*extents), pages = 0, zeros = 0;
	struct snap_footer footer = { .magic = SNAP_END_MAGIC };
	struct snap_header header;

	make_header(in, &header);
	at = make_extents(in, &header, n);
	for (uint32_t i = 0; i < n; i++)
		*(extents[i].flags ? &zeros : &pages) += extents[i].bytes / PAGE;
	memcpy(contents, &header, sizeof(header));
	memcpy(contents + at, extents, index_bytes);
	footer.index_bytes = bend(in, at);
	footer.extents = bend(in, n);
	footer.state_bytes = bend(in, snap_state_bytes(header.vcpus & 7));
	footer.data_pages = bend(in, pages);
	footer.zero_pages = bend(in, zeros);
	footer.index_crc = (uint32_t)bend(in, crc32_add(0, extents, index_bytes));
	at += index_bytes;
	memset(contents + at, 0, snap_state_bytes(8));
	footer.state_crc =
		(uint32_t)bend(in, crc32_add(0, contents + at, snap_state_bytes(header.vcpus & 7)));
	at += snap_state_bytes(header.vcpus & 7);
	footer.file_bytes = bend(in, at + sizeof(footer));
	footer.flags = (uint32_t)bend(in, 0);
	memcpy(footer.id, header.id, sizeof(footer.id));
	snap_seal_footer(&footer);
	memcpy(contents + at, &footer, sizeof(footer));
	at += sizeof(footer);
	/* A change that the checksums do not include. */
	if (input_u8(in) == 1)
		contents[input_number(in, 3) % at] ^= input_u8(in);
	return bend(in, at) % MAX_FILE;
}

static void check_memory(const struct reader *reader, uint8_t *memory)
{
	uint64_t at = sizeof(reader->header);

	for (uint64_t i = 0; i < reader->footer.extents; i++) {
		const struct snap_extent *extent = &reader->extents[i];

		expect(extent->image_bytes <= reader->header.memory_bytes &&
			       extent->bytes <= reader->header.memory_bytes - extent->image_bytes,
		       "extent %u is outside", (unsigned int)i);
		if (extent->flags) {
			memset(expected + extent->image_bytes, 0, extent->bytes);
			continue;
		}
		expect(extent->file_bytes == at, "bytes before extent %u have no sum",
		       (unsigned int)i);
		at += extent->bytes;
		memcpy(expected + extent->image_bytes, contents + extent->file_bytes,
		       extent->bytes);
	}
	expect(at == reader->footer.index_bytes, "bytes before the index have no sum");
	expect(!memcmp(memory, expected, reader->header.memory_bytes), "another memory");
}

static void apply(struct reader *reader)
{
	uint64_t bytes = reader->header.memory_bytes;
	struct image image;
	uint8_t *memory;

	/* Memory of terabytes is no finding, and is not made here. */
	if (bytes > sizeof(expected))
		return;
	memory = malloc(bytes);
	expect(memory, "no memory");
	expect(!image_init(&image, memory, &reader->header), "no memory");
	/* As if an earlier file had written all of it. */
	memset(image.written, 0xff, (bytes / PAGE / 64 + 1) * sizeof(*image.written));
	memset(memory, 0x5a, bytes);
	memset(expected, 0x5a, bytes);
	if (!image_apply(&image, reader))
		check_memory(reader, memory);
	image_free(&image);
	free(memory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	memfd = memfd_create("point", MFD_CLOEXEC);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	uint64_t bytes;
	struct reader reader;
	int r;

	bytes = make_file(&in);
	if (memfd < 0 || ftruncate(memfd, 0) || pwrite(memfd, contents, bytes, 0) != (ssize_t)bytes)
		abort();
	r = reader_open(&reader, dup(memfd));
	trace("%llu bytes: %s\n", (unsigned long long)bytes, r ? reader.why : "accepted");
	if (!r && !reader_verify(&reader))
		apply(&reader);
	else if (!r)
		expect(*reader.why, "no reason");
	reader_close(&reader);
	return 0;
}
