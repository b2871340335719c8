/* SPDX-License-Identifier: MIT */
#include "image.h"
#include "crc32.h"
#include "pages.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Does not write pages that are zero already: most were never touched, and stay unallocated. */
static void apply_zeros(uint8_t *memory, uint64_t bytes, uint32_t page_bytes)
{
	for (uint64_t at = 0; at < bytes; at += page_bytes)
		if (!page_is_zero(memory + at, page_bytes))
			memset(memory + at, 0, page_bytes);
}

int image_apply(uint8_t *memory, struct reader *reader)
{
	for (uint64_t i = 0; i < reader->footer.extents; i++) {
		const struct snap_extent *extent = &reader->extents[i];
		uint8_t *to = memory + extent->image_bytes;
		int r;

		if (extent->flags) {
			apply_zeros(to, extent->bytes, reader->header.page_bytes);
			continue;
		}
		r = reader_load(reader, extent);
		if (r)
			return r;
		memcpy(to, reader->contents, extent->bytes);
	}
	return 0;
}

bool image_matches(const uint8_t *memory, const struct reader *reader)
{
	return !(reader->footer.flags & SNAP_HAS_MEMORY_CRC) ||
	       crc32_add(0, memory, reader->header.memory_bytes) == reader->footer.memory_crc;
}

int image_restore(struct chain *chain, const struct point *point, uint8_t *memory,
		  struct snap_state *state)
{
	const struct point **path;
	uint32_t n;
	int r = chain_path(chain, point, &path, &n);

	for (uint32_t i = 0; !r && i < n; i++) {
		struct reader reader;

		r = chain_read(chain, path[i], &reader);
		if (!r) {
			r = image_apply(memory, &reader);
			if (!r && i + 1 == n && !image_matches(memory, &reader)) {
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
