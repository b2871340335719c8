/* SPDX-License-Identifier: MIT */
/* dl_mark_bitmap(): pages that the dirty log of somebody else names. */

#include "api/abi.h"
#include "api/mark.h"
#include "pages/bits.h"
#include "pages/foreign.h"
#include "pages/rcu.h"

#include <errno.h>

#define BITMAP_FLAGS (uint32_t)(DL_BITMAP_TAKE | DL_BITMAP_LE)

#define BITMAP_FIRST_BYTES sizeof(struct dl_bitmap)

#define LEAST_PAGE_BYTES (UINT64_C(1) << 9)
#define MOST_PAGE_BYTES	 (UINT64_C(1) << 30)

/* One read section: others wait for its end. Few words name much memory if their pages are huge. */
enum { CHUNK_WORDS = 512, CHUNK_PAGES = 1 << 22 };

/* 0, or the field that is wrong. */
static enum dli_failure check_bitmap(const struct dl_bitmap *b)
{
	if (b->flags & ~BITMAP_FLAGS)
		return DLI_BAD_FLAGS;
	if (b->reserved)
		return DLI_BAD_RESERVED;
	if (b->page_bytes < LEAST_PAGE_BYTES || b->page_bytes > MOST_PAGE_BYTES ||
	    b->page_bytes & (b->page_bytes - 1))
		return DLI_BAD_FOREIGN_PAGE;
	if (b->gpa & (b->page_bytes - 1))
		return DLI_BAD_FOREIGN_GPA;
	if (b->gpa + b->bytes < b->gpa)
		return DLI_BAD_FOREIGN_BYTES;
	return DLI_FAILED_NOTHING;
}

static enum dli_failure check_words(const struct dl_bitmap *b, const uint64_t *words,
				    uint64_t n_words)
{
	if (b->bytes && !words)
		return DLI_BAD_COUNT;
	if ((uintptr_t)words % sizeof(uint64_t))
		return DLI_BAD_WORD_ALIGNMENT;
	if (n_words < divide_up(divide_up(b->bytes, b->page_bytes), 64))
		return DLI_FEW_WORDS;
	return DLI_FAILED_NOTHING;
}

static struct dli_foreign foreign_of(const struct dl_log *log, const struct dl_bitmap *b,
				     uint64_t *words)
{
	return (struct dli_foreign){
		/* Compilers give both types one representation. */
		.words = (_Atomic uint64_t *)words,
		.bits = divide_up(b->bytes, b->page_bytes),
		.gpa = b->gpa,
		.as_id = b->as_id,
		.foreign_shift = (uint32_t)__builtin_ctzll(b->page_bytes),
		.host_shift = (uint32_t)__builtin_ctz(log->caps.page_bytes),
		.take = b->flags & DL_BITMAP_TAKE,
		.little_endian = b->flags & DL_BITMAP_LE,
	};
}

static uint64_t chunk_words(const struct dli_foreign *foreign)
{
	uint32_t shift = 6; /* log2 of the host pages that a word names, at least */

	if (foreign->foreign_shift > foreign->host_shift)
		shift += foreign->foreign_shift - foreign->host_shift;
	if (CHUNK_PAGES >> shift >= CHUNK_WORDS)
		return CHUNK_WORDS;
	return CHUNK_PAGES >> shift ? CHUNK_PAGES >> shift : 1;
}

/* False if nothing is logged or audited (any more). */
static bool mark_chunk(struct dl_log *log, const struct dli_foreign *foreign, uint64_t word,
		       uint64_t end, struct dli_foreign_result *result)
{
	bool on;

	dli_rcu_read_lock();
	on = dli_log_wants_marks(log);
	if (on)
		dli_foreign_mark(foreign, dli_slots_table(&log->slots), word, end, result);
	dli_rcu_read_unlock();
	return on;
}

static void mark_chunks(struct dl_log *log, const struct dli_foreign *foreign,
			struct dli_foreign_result *result)
{
	uint64_t n = divide_up(foreign->bits, 64), size = chunk_words(foreign), end;

	for (uint64_t word = dli_foreign_next(foreign, 0); word < n;
	     word = dli_foreign_next(foreign, end)) {
		end = n - word < size ? n : word + size;
		if (!mark_chunk(log, foreign, word, end, result))
			return;
	}
}

int dl_mark_bitmap(struct dl_log *log, const struct dl_bitmap *bitmap, uint64_t *words,
		   uint64_t n_words, uint64_t *marked_bytes)
{
	struct dli_foreign_result result = { 0 };
	struct dli_foreign foreign;
	enum dli_failure wrong;
	struct dl_bitmap b;
	int r;

	if (!log)
		return -EINVAL;
	if (!bitmap)
		return dli_log_fail(log, DLI_BAD_COUNT, DLI_NO_NUMBER, -EINVAL);
	r = dli_abi_read(&b, sizeof(b), BITMAP_FIRST_BYTES, bitmap);
	if (r)
		return dli_log_fail(log, DLI_BAD_STRUCT, DLI_NO_NUMBER, r);
	wrong = check_bitmap(&b);
	if (!wrong)
		wrong = check_words(&b, words, n_words);
	if (wrong)
		return dli_log_fail(log, wrong, DLI_NO_NUMBER, -EINVAL);
	if (dli_log_in_child(log))
		return -EIO;
	foreign = foreign_of(log, &b, words);
	mark_chunks(log, &foreign, &result);
	if (result.pages)
		dli_mark_note_late(log, result.pages);
	if (marked_bytes)
		*marked_bytes = result.pages << foreign.host_shift;
	return dli_mark_finish(log, result.outside ? -ENOENT : 0);
}
