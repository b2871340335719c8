/* SPDX-License-Identifier: MIT */
/* Words from rings become pending pages: the hot path of a harvest. */

#include "pages/publish.h"

#include "pages/rcu.h"

/* Prefetch distance, in words: random pages miss every cache. */
#define PREFETCH_WORDS 16u

struct publisher {
	const struct dli_slots *slots;
	const struct dli_slot_table *table;
	uint32_t slot_number;	       /* of the last word; the fields below are this slot's */
	struct dli_slot *slot;	       /* NULL if it is gone */
	uint64_t whole_words;	       /* 0 if it is gone */
	struct dli_page_set *target;   /* NULL if no cursor covers the slot */
	struct dli_page_set *planned;  /* NULL: the target knows what is new */
	struct dli_page_set *direct;   /* the target if it knows what is new, else NULL */
	uint64_t slot_new, slot_known; /* pages that are not counted in the target yet */
	struct dli_publish_result result;
};

static void leave_slot(struct publisher *p)
{
	if (p->target)
		dli_page_set_count(p->target, p->slot_new + p->slot_known);
	if (p->slot_new && dli_slots_count_new(p->slots, p->slot))
		p->result.new_pages += (uint32_t)p->slot_new;
	p->slot_new = p->slot_known = 0;
}

static void enter_slot(struct publisher *p, uint32_t slot_number)
{
	leave_slot(p);
	p->slot_number = slot_number;
	p->slot = dli_slot_find(p->table, slot_number);
	p->target = p->slot ? dli_slot_target(p->slot) : NULL;
	p->whole_words = p->slot ? p->slot->pages / 64 : 0;
	p->planned = p->target ? dli_slot_planned(p->slot, p->target) : NULL;
	p->direct = p->planned ? NULL : p->target;
}

/* The bits that are pages of the slot; the others are noted. */
static __attribute__((noinline)) uint64_t check_bits(struct publisher *p,
						     const struct dli_dirty_word *word)
{
	uint64_t inside = word->bits;

	if (!p->slot || word->word > p->whole_words)
		inside = 0;
	else
		inside &= ~(~UINT64_C(0) << p->slot->pages % 64);
	if (inside != word->bits) {
		p->result.stale += (uint32_t)__builtin_popcountll(word->bits & ~inside);
		p->result.outside |= p->slot != NULL;
	}
	return inside;
}

/*
 * Counts pages that wait for the plan's cursor as known. Out of line: few logs have a plan beside
 * another cursor.
 */
static __attribute__((noinline)) void mark_indirectly(struct publisher *p, uint64_t word,
						      uint64_t bits)
{
	uint64_t known;

	if (!p->target)
		return;
	known = bits & dli_page_set_pending_bits(p->planned, word);
	if (known)
		p->slot_known += dli_page_set_mark_word(p->target, word, known);
	if (bits & ~known)
		p->slot_new += dli_page_set_mark_word(p->target, word, bits & ~known);
}

static inline void publish_word(struct publisher *p, const struct dli_dirty_word *word)
{
	uint64_t bits = word->bits;

	if (word->slot != p->slot_number)
		enter_slot(p, word->slot);
	if (word->word >= p->whole_words)
		bits = check_bits(p, word);
	if (!bits)
		return;
	if (p->direct)
		p->slot_new += dli_page_set_mark_word(p->direct, word->word, bits);
	else
		mark_indirectly(p, word->word, bits);
}

static inline void prefetch_word(const struct publisher *p, const struct dli_dirty_word *word)
{
	const struct dli_slot *slot = p->slot;
	const struct dli_page_set *target = p->target;

	if (word->slot != p->slot_number) {
		slot = dli_slot_find(p->table, word->slot);
		target = slot ? dli_slot_target(slot) : NULL;
	}
	if (target && word->word < slot->pages / 64)
		dli_page_set_prefetch(target, word->word);
}

static void publish_words(struct publisher *p, const struct dli_dirty_word *words, uint32_t n)
{
	enter_slot(p, words[0].slot);
	for (uint32_t i = 0; i < n; i++) {
		if (i + PREFETCH_WORDS < n)
			prefetch_word(p, &words[i + PREFETCH_WORDS]);
		publish_word(p, &words[i]);
	}
	leave_slot(p);
}

struct dli_publish_result dli_publish(struct dli_slots *slots, const struct dli_dirty_word *words,
				      uint32_t n)
{
	struct publisher p = { .slots = slots };

	dli_rcu_read_lock();
	/*
	 * Inside the read section: whoever replaces a slot's target waits for it. Without a cursor
	 * nothing is recorded; entries from before its beginning do not matter to it.
	 */
	if (dli_slots_are_logging(slots)) {
		p.table = dli_slots_table(slots);
		publish_words(&p, words, n);
	}
	dli_rcu_read_unlock();
	return p.result;
}
