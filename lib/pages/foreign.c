/* SPDX-License-Identifier: MIT */
/* Words of a foreign dirty log become pending pages. */

#include "pages/foreign.h"

#include "pages/bits.h"

#include <endian.h>

/* Guest memory of one slot, or between two slots. */
struct region {
	uint64_t first, last;	     /* addresses; a region may end with the address space */
	bool is_slot;		     /* it begins with the slot then */
	struct dli_page_set *target; /* NULL: a hole, or a slot that no cursor covers */
	struct dli_audit *audit;     /* NULL: marks of the slot are not audited */
};

/* A bit is taken only for a cursor: an audit alone just hears of it. */
static inline bool wants_bits(const struct region *region)
{
	return region->target || region->audit;
}

struct marker {
	const struct dli_foreign *foreign;
	const struct dli_slot_table *table;
	struct dli_foreign_result *result;
	struct region region; /* of the last address */
	uint64_t word, bits;  /* of the region's target, to be marked */
	uint64_t new_pages;   /* not counted in the target yet */
};

static inline uint64_t load_relaxed(const struct dli_foreign *foreign, uint64_t word)
{
	return atomic_load_explicit(&foreign->words[word], memory_order_relaxed);
}

enum { LINE = 8 };

/* Written out: the loads of a clean log are all that there is to do. */
static inline uint64_t load_line(const struct dli_foreign *foreign, uint64_t word)
{
	uint64_t first = load_relaxed(foreign, word) | load_relaxed(foreign, word + 1) |
			 load_relaxed(foreign, word + 2) | load_relaxed(foreign, word + 3);

	return first | load_relaxed(foreign, word + 4) | load_relaxed(foreign, word + 5) |
	       load_relaxed(foreign, word + 6) | load_relaxed(foreign, word + 7);
}

uint64_t dli_foreign_next(const struct dli_foreign *foreign, uint64_t word)
{
	uint64_t n = divide_up(foreign->bits, 64);

	/* Most of a log is clean: look at it by the cache line. */
	while (word + LINE <= n && !load_line(foreign, word))
		word += LINE;
	while (word < n && !load_relaxed(foreign, word))
		word++;
	return word;
}

static inline uint64_t swap(const struct dli_foreign *foreign, uint64_t word)
{
	return foreign->little_endian ? le64toh(word) : word;
}

/*
 * Takes bits of a word, or looks at them. The writer changes guest memory and then sets the bit;
 * acquiring that here, before the page is marked, makes its contents visible to whoever takes the
 * page from the set. If a page were marked before its bit is taken, a consumer could read it, the
 * device write it again and find its bit set, and then the bit would vanish: a lost write.
 */
static inline uint64_t get_bits(const struct dli_foreign *foreign, uint64_t word, uint64_t mask,
				bool take)
{
	_Atomic uint64_t *at = &foreign->words[word];

	if (!foreign->take || !take)
		return swap(foreign, atomic_load_explicit(at, memory_order_acquire)) & mask;
	return swap(foreign,
		    atomic_fetch_and_explicit(at, swap(foreign, ~mask), memory_order_acquire)) &
	       mask;
}

static void flush(struct marker *m)
{
	struct dli_foreign_result *result = m->result;
	uint64_t first, end, bits = m->bits;

	if (!bits)
		return;
	m->bits = 0;
	if (m->region.audit)
		dli_audit_mark_bits(m->region.audit, m->word, bits);
	if (!m->region.target)
		return;
	m->new_pages += dli_page_set_mark_word(m->region.target, m->word, bits);
	first = m->region.first +
		((m->word * 64 + (uint32_t)__builtin_ctzll(bits)) << m->foreign->host_shift);
	end = m->region.first +
	      ((m->word * 64 + 64 - (uint32_t)__builtin_clzll(bits)) << m->foreign->host_shift);
	/* The last page of a chunk may be the first of the next: it has bits in both. */
	result->pages += count_bits(bits) - (first < result->end);
	result->end = end;
}

static inline void add_bits(struct marker *m, uint64_t word, uint64_t bits)
{
	if (word != m->word) {
		flush(m);
		m->word = word;
	}
	m->bits |= bits;
}

static void leave_region(struct marker *m)
{
	flush(m);
	if (m->new_pages)
		dli_page_set_count(m->region.target, m->new_pages);
	m->new_pages = 0;
}

/* Finds the region of an address. */
static void enter_region(struct marker *m, uint64_t gpa)
{
	uint32_t as_id = m->foreign->as_id;
	struct dli_slot_walk walk = dli_slot_walk_from(m->table, as_id, gpa);
	const struct dli_index_entry *range = dli_slot_next_range(&walk);
	bool any = range && range->key.as_id == as_id;

	leave_region(m);
	if (any && range->key.address <= gpa)
		m->region = (struct region){ .first = range->key.address,
					     .last = range->end - 1,
					     .is_slot = true,
					     .target = dli_slot_target(range->slot),
					     .audit = dli_slot_audit(range->slot) };
	else
		m->region = (struct region){ .first = gpa,
					     .last = any ? range->key.address - 1 : UINT64_MAX };
}

/* Adds host pages [first, last] of the region's slot. */
static void add_pages(struct marker *m, uint64_t first, uint64_t last)
{
	for (uint64_t word = first / 64; word <= last / 64; word++)
		add_bits(m, word, range_bits(word, first, last + 1));
}

/* Foreign pages are host pages. gpa: of bit 0, perhaps before the slot. */
static void add_same_pages(struct marker *m, uint64_t gpa, uint64_t bits)
{
	uint32_t shift = m->foreign->host_shift, low = (uint32_t)__builtin_ctzll(bits);
	uint64_t page = (gpa + ((uint64_t)low << shift) - m->region.first) >> shift;
	uint64_t from_low = bits >> low, carry;

	add_bits(m, page / 64, from_low << page % 64);
	carry = page % 64 ? from_low >> (64 - page % 64) : 0;
	if (carry)
		add_bits(m, page / 64 + 1, carry);
}

/* Foreign pages are smaller than a host page, or larger. */
static void add_other_pages(struct marker *m, uint64_t gpa, uint64_t bits)
{
	uint32_t shift = m->foreign->host_shift;

	while (bits) {
		uint32_t bit = (uint32_t)__builtin_ctzll(bits);
		uint64_t begin = gpa + ((uint64_t)bit << m->foreign->foreign_shift);
		uint64_t last = begin + ((UINT64_C(1) << m->foreign->foreign_shift) - 1);

		add_pages(m, (begin - m->region.first) >> shift, (last - m->region.first) >> shift);
		bits &= bits - 1;
	}
}

/* Marks the set bits of mask, whose pages lie in the region. */
static void mark_inside(struct marker *m, uint64_t word, uint64_t mask, uint64_t gpa)
{
	uint64_t bits;

	if (!wants_bits(&m->region)) {
		m->result->outside |= !m->region.is_slot;
		return;
	}
	bits = get_bits(m->foreign, word, mask, m->region.target);
	if (!bits)
		return;
	if (m->foreign->foreign_shift == m->foreign->host_shift)
		add_same_pages(m, gpa, bits);
	else
		add_other_pages(m, gpa, bits);
}

enum parts { NO_PART, AUDITED_PART, COVERED_PART };

/* Marks the parts of [gpa, last] that somebody wants. With only_look it says who does. */
static enum parts mark_parts(struct marker *m, uint64_t gpa, uint64_t last, bool only_look)
{
	uint32_t shift = m->foreign->host_shift;
	enum parts any = NO_PART;

	for (;;) {
		uint64_t end;

		enter_region(m, gpa);
		end = m->region.last < last ? m->region.last : last;
		if (m->region.target)
			any = COVERED_PART;
		else if (m->region.audit && !any)
			any = AUDITED_PART;
		if (wants_bits(&m->region) && !only_look)
			add_pages(m, (gpa - m->region.first) >> shift,
				  (end - m->region.first) >> shift);
		if (end == last)
			return any;
		gpa = end + 1;
	}
}

/* Marks a bit whose page, [gpa, last], lies in several regions: some part of it is in a slot. */
static void mark_split(struct marker *m, uint64_t word, uint64_t bit, uint64_t gpa, uint64_t last)
{
	enum parts any = mark_parts(m, gpa, last, true);

	if (any && get_bits(m->foreign, word, bit, any == COVERED_PART))
		mark_parts(m, gpa, last, false);
}

/* The bits from bit on whose pages, of 1 << shift bytes, lie in [gpa, last]. At least one does. */
static inline uint64_t bits_up_to(uint32_t bit, uint64_t gpa, uint64_t last, uint32_t shift)
{
	uint64_t n = ((last - gpa - ((UINT64_C(1) << shift) - 1)) >> shift) + 1;
	uint64_t from = ~UINT64_C(0) << bit;

	return n >= 64 - bit ? from : from & ~(~UINT64_C(0) << (bit + n));
}

static void mark_word(struct marker *m, uint64_t word)
{
	const struct dli_foreign *foreign = m->foreign;
	uint32_t shift = foreign->foreign_shift;
	uint64_t valid = range_bits(word, 0, foreign->bits),
		 gpa = foreign->gpa + (word * 64 << shift);
	uint64_t left = swap(foreign, load_relaxed(foreign, word)) & valid;

	while (left) {
		uint32_t bit = (uint32_t)__builtin_ctzll(left);
		uint64_t at = gpa + ((uint64_t)bit << shift);
		uint64_t last = at + ((UINT64_C(1) << shift) - 1), mask = UINT64_C(1) << bit;

		if (at < m->region.first || at > m->region.last)
			enter_region(m, at);
		if (last > m->region.last) {
			mark_split(m, word, mask, at, last);
		} else {
			mask = bits_up_to(bit, at, m->region.last, shift) & valid;
			mark_inside(m, word, mask, gpa);
		}
		left &= ~mask;
	}
}

void dli_foreign_mark(const struct dli_foreign *foreign, const struct dli_slot_table *table,
		      uint64_t word, uint64_t end, struct dli_foreign_result *result)
{
	struct marker m = {
		.foreign = foreign,
		.table = table,
		.result = result,
		.region = { .first = 1, .last = 0 },
	};

	for (; word < end; word++)
		if (load_relaxed(foreign, word))
			mark_word(&m, word);
	leave_region(&m);
}
