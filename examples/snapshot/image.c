/* SPDX-License-Identifier: MIT */
#include "image.h"
#include "crc32.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { WORD_PAGES = 64 };

int image_init(struct image *image, uint8_t *memory, const struct snap_header *header)
{
	uint64_t pages = header->memory_bytes / header->page_bytes;

	*image = (struct image){ .memory = memory,
				 .bytes = header->memory_bytes,
				 .page_bytes = header->page_bytes };
	image->written = calloc(pages / WORD_PAGES + 1, sizeof(*image->written));
	return image->written ? 0 : -ENOMEM;
}

void image_free(struct image *image)
{
	free(image->written);
	memset(image, 0, sizeof(*image));
}

static void set_written(struct image *image, uint64_t image_bytes, uint64_t bytes)
{
	uint64_t page = image_bytes / image->page_bytes;

	for (uint64_t end = page + bytes / image->page_bytes; page < end; page++)
		image->written[page / WORD_PAGES] |= UINT64_C(1) << page % WORD_PAGES;
}

/* The first page from here on that is written, or is not; or the end. Skips whole words. */
static uint64_t next_page(const struct image *image, uint64_t page, uint64_t end, bool written)
{
	while (page < end) {
		uint64_t word = image->written[page / WORD_PAGES];

		word = (written ? word : ~word) >> page % WORD_PAGES;
		if (word) {
			page += (uint64_t)__builtin_ctzll(word);
			break;
		}
		page += WORD_PAGES - page % WORD_PAGES;
	}
	return page < end ? page : end;
}

static void apply_zeros(struct image *image, uint64_t image_bytes, uint64_t bytes)
{
	uint64_t page = image_bytes / image->page_bytes, end = page + bytes / image->page_bytes;

	while ((page = next_page(image, page, end, true)) < end) {
		memset(image->memory + page * image->page_bytes, 0, image->page_bytes);
		page++;
	}
}

int image_apply(struct image *image, struct reader *reader)
{
	for (uint64_t i = 0; i < reader->footer.extents; i++) {
		const struct snap_extent *extent = &reader->extents[i];
		int r;

		if (extent->flags) {
			apply_zeros(image, extent->image_bytes, extent->bytes);
			continue;
		}
		r = reader_load(reader, extent);
		if (r)
			return r;
		memcpy(image->memory + extent->image_bytes, reader->contents, extent->bytes);
		set_written(image, extent->image_bytes, extent->bytes);
	}
	return 0;
}

bool image_matches(const struct image *image, const struct reader *reader)
{
	uint64_t page = 0, end = image->bytes / image->page_bytes, from;
	uint32_t crc = 0;

	if (!(reader->footer.flags & SNAP_HAS_MEMORY_CRC))
		return true;
	while (page < end) {
		from = next_page(image, page, end, true);
		crc = crc32_add_zeros(crc, (from - page) * image->page_bytes);
		page = next_page(image, from, end, false);
		crc = crc32_add(crc, image->memory + from * image->page_bytes,
				(page - from) * image->page_bytes);
	}
	return crc == reader->footer.memory_crc;
}

int image_replay(struct chain *chain, const struct point *point, struct image *image,
		 struct snap_state *state)
{
	const struct point **path;
	uint32_t n;
	int r = chain_path(chain, point, &path, &n);

	for (uint32_t i = 0; !r && i < n; i++) {
		struct reader reader;

		r = chain_read(chain, path[i], &reader);
		if (!r) {
			r = image_apply(image, &reader);
			if (!r && i + 1 == n && !image_matches(image, &reader)) {
				snprintf(reader.why, sizeof(reader.why),
					 "the memory is not what it was at this point");
				r = -EBADMSG;
			}
			if (r)
				snprintf(chain->why, sizeof(chain->why), "point %" PRIu64 ": %s",
					 path[i]->number, reader.why);
			*state = reader.state;
		}
		reader_close(&reader);
	}
	free(path);
	return r;
}

int image_restore(struct chain *chain, const struct point *point, uint8_t *memory,
		  struct snap_state *state)
{
	struct image image;
	int r = image_init(&image, memory, &point->header);

	if (r)
		snprintf(chain->why, sizeof(chain->why), "no memory to restore");
	else
		r = image_replay(chain, point, &image, state);
	image_free(&image);
	return r;
}

uint8_t *image_map(uint64_t bytes)
{
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	(void)madvise(memory, bytes, MADV_HUGEPAGE);
	return memory;
}

void image_unmap(uint8_t *memory, uint64_t bytes)
{
	if (memory)
		munmap(memory, bytes);
}
