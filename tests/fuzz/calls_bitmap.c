/* SPDX-License-Identifier: MIT */
/* dl_mark_bitmap() of bitmaps that a device has filled, with any fields. */
#include "calls.h"

#include <endian.h>
#include <errno.h>

enum { MAX_WORDS = 4 };

struct call {
	struct dl_bitmap bitmap;
	uint64_t words[MAX_WORDS], expected[MAX_WORDS], n_words;
	bool covered; /* a set bit's page is, in part */
	int result;
};

static void choose_bitmap(struct world *w, const struct dl_slot *slot, struct call *call)
{
	struct input *in = &w->in;
	struct dl_bitmap *b = &call->bitmap;
	uint8_t how = input_u8(in);

	b->size = sizeof(*b);
	b->flags = 2 * (how % 4u);
	b->page_bytes = UINT64_C(512) << input_u8(in) % 22;
	b->bytes = (1 + input_u8(in)) * b->page_bytes - (how & 4 ? input_number(in, 2) : 0);
	if (slot) {
		b->as_id = slot->slot >> 16;
		b->gpa = (slot->gpa + input_number(in, 2) * 512) & ~(b->page_bytes - 1);
	}
	if (how & 8)
		b->gpa = input_wild(in) & (how & 16 ? ~UINT64_C(0) : ~(b->page_bytes - 1));
	if (how & 32)
		b->bytes = input_wild(in);
	switch (how < 240 ? 0 : how % 16) {
	case 1:
		b->size = (uint32_t)input_wild(in) % sizeof(*b);
		break;
	case 2:
		b->flags = (uint32_t)input_wild(in);
		break;
	case 3:
		b->reserved = input_u8(in);
		break;
	case 4:
		b->page_bytes = input_wild(in);
		break;
	case 5:
		b->as_id = (uint32_t)input_wild(in);
		break;
	}
}

static uint64_t bits_of(const struct dl_bitmap *b)
{
	return b->bytes / b->page_bytes + (b->bytes % b->page_bytes != 0);
}

static bool is_valid(const struct call *call)
{
	const struct dl_bitmap *b = &call->bitmap;
	uint64_t size = b->page_bytes;

	return b->size == sizeof(*b) && !(b->flags & ~6u) && !b->reserved && size >= 512 &&
	       size <= 1 << 30 && !(size & (size - 1)) && !(b->gpa % size) &&
	       b->gpa + b->bytes >= b->gpa && bits_of(b) <= call->n_words * 64;
}

/* Makes the device's write for a bit, and predicts what the call does to words. */
static void expect_bit(struct world *w, struct call *call, uint64_t bit)
{
	const struct dl_bitmap *b = &call->bitmap;
	uint64_t gpa = b->gpa + bit * b->page_bytes, last = gpa + (b->page_bytes - 1);
	bool any = false, covered = false;

	for (unsigned int i = 0; i < w->slot_count; i++) {
		const struct dl_slot *slot = &w->slots[i];

		if (slot->slot >> 16 != b->as_id || slot->gpa > last ||
		    slot->gpa + (slot->bytes - 1) < gpa)
			continue;
		any = true;
		covered |= !(slot->flags & DL_SLOT_NO_LOG);
	}
	if (!any)
		call->result = -ENOENT;
	if (!covered)
		return;
	call->covered = true;
	slots_device_writes(w, b->as_id, gpa, b->page_bytes);
	if (b->flags & DL_BITMAP_TAKE)
		call->expected[bit / 64] &= ~(UINT64_C(1) << bit % 64);
}

static uint64_t swapped(const struct dl_bitmap *b, uint64_t word)
{
	return b->flags & DL_BITMAP_LE ? htole64(word) : word;
}

void slots_mark_bitmap(struct world *w, const struct dl_slot *slot)
{
	uint64_t marked = 1;
	struct call call = { 0 };
	int r;

	choose_bitmap(w, slot, &call);
	call.n_words = input_u8(&w->in) % (MAX_WORDS + 1);
	for (uint64_t i = 0; i < MAX_WORDS; i++)
		call.words[i] = call.expected[i] = input_wild(&w->in);
	if (!is_valid(&call)) {
		call.result = -EINVAL;
	} else if (w->cursor) {
		for (uint64_t bit = 0; bit < bits_of(&call.bitmap); bit++)
			if (call.words[bit / 64] >> bit % 64 & 1)
				expect_bit(w, &call, bit);
	}
	for (uint64_t i = 0; i < MAX_WORDS; i++) {
		call.words[i] = swapped(&call.bitmap, call.words[i]);
		call.expected[i] = swapped(&call.bitmap, call.expected[i]);
	}
	r = dl_mark_bitmap(w->log, &call.bitmap, call.words, call.n_words, &marked);
	trace("mark bitmap %#llx %#llx %#llx: %d\n", (unsigned long long)call.bitmap.gpa,
	      (unsigned long long)call.bitmap.bytes, (unsigned long long)call.bitmap.page_bytes, r);
	expect(r == call.result, "%d, expected %d", r, call.result);
	expect(!memcmp(call.words, call.expected, sizeof(call.words)), "wrong bits are taken");
	expect(r == -EINVAL ? marked == 1 : (marked != 0) == call.covered, "%llu bytes are marked",
	       (unsigned long long)marked);
}
