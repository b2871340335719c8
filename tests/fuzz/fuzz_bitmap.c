/* SPDX-License-Identifier: MIT */
/*
 * dl_mark_bitmap() against a naive model, for slots anywhere, some of them covered, host and
 * foreign pages of any size, and words of any bits. Both must mark the same pages, leave the same
 * words and return the same.
 */
#include "fuzz.h"

#include "model.h"
#include "naive_bitmap.h"

#include <sys/mman.h>

/* Slots must not share memory, which they would mark for each other. */
enum {
	MAX_STEPS = 40,
	MAX_WORDS = 16,
	SLOT_BYTES = NAIVE_SLOT_PAGES * 4096,
	ARENA_BYTES = NAIVE_SLOTS * SLOT_BYTES,
};

static struct naive naive;
static struct dl_log *dirty_log;
static struct dl_cursor *cursor;

static void *arena(void)
{
	static uint8_t *memory;

	/* Never touched. */
	if (!memory)
		memory = mmap(NULL, ARENA_BYTES + 65536, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	expect(memory != MAP_FAILED, "no memory");
	return (void *)(((uintptr_t)memory + 65535) & ~(uintptr_t)65535);
}

/* Slots one after the other, perhaps with holes between. */
static void add_slots(struct input *in)
{
	uint64_t page = input_number(in, 2);

	naive.n = 1 + input_u8(in) % NAIVE_SLOTS;
	for (uint32_t i = 0; i < naive.n; i++) {
		uint8_t how = input_u8(in);
		uint64_t hole = how & 1 ? input_number(in, how & 2 ? 2 : 1) : 0;
		uint64_t pages =
			1 + input_number(in, how & 4 ? 2 : 1) % (SLOT_BYTES / naive.page_bytes);
		struct dl_slot slot = { .size = sizeof(slot), .slot = i };

		page += hole;
		slot.gpa = page * naive.page_bytes;
		slot.bytes = pages * naive.page_bytes;
		slot.hva = (uintptr_t)arena() + (uint64_t)SLOT_BYTES * i;
		slot.flags = how & 8 ? 0 : DL_SLOT_WANTED;
		if (how & 16)
			slot.slot |= 1 << 16;
		expect(!dl_slot_set(dirty_log, &slot), "slot %u", i);
		naive.slots[i].as_id = slot.slot >> 16;
		naive.slots[i].gpa = slot.gpa;
		naive.slots[i].pages = pages;
		naive.slots[i].covered = !(how & 8);
		page += pages;
	}
}

static void choose(struct input *in, struct dl_bitmap *b)
{
	uint8_t how = input_u8(in), slot = input_u8(in);

	b->size = sizeof(*b);
	b->flags = 2 * (how % 4u);
	b->page_bytes = UINT64_C(512) << input_u8(in) % 22;
	b->gpa = naive.slots[slot % naive.n].gpa + input_number(in, 2) * 512;
	b->gpa -= input_number(in, 2) * 512 % (b->gpa + 1);
	b->gpa &= ~(b->page_bytes - 1);
	b->bytes = (1 + input_number(in, 2) % (MAX_WORDS * 64)) * b->page_bytes;
	if (how & 8)
		b->bytes -= input_number(in, 4) % b->page_bytes;
	b->as_id = naive.slots[slot % naive.n].as_id ^ (how >= 240);
}

static uint64_t choose_word(struct input *in)
{
	uint8_t how = input_u8(in);

	if (how < 64)
		return 0;
	return how < 96 ? input_number(in, 8) : input_wild(in);
}

static void step(struct input *in)
{
	uint64_t words[MAX_WORDS], expected[MAX_WORDS], marked = 1, expected_marked;
	struct dl_bitmap b = { 0 };
	int r, expected_r;

	choose(in, &b);
	for (int i = 0; i < MAX_WORDS; i++)
		words[i] = expected[i] = choose_word(in);
	expected_r = naive_mark(&naive, &b, expected, &expected_marked);
	r = dl_mark_bitmap(dirty_log, &b, words, MAX_WORDS, &marked);
	trace("%#llx bytes at %#llx, pages of %#llx, flags %u: %d\n", (unsigned long long)b.bytes,
	      (unsigned long long)b.gpa, (unsigned long long)b.page_bytes, b.flags, r);
	expect(r == expected_r, "%d, expected %d", r, expected_r);
	expect(marked == expected_marked, "%llu bytes, expected %llu", (unsigned long long)marked,
	       (unsigned long long)expected_marked);
	expect(!memcmp(words, expected, sizeof(words)), "wrong bits are taken");
	for (uint32_t i = 0; i < naive.n; i++)
		expect(naive_matches(&naive, i, cursor, naive.slots[i].as_id << 16 | i), "slot %u",
		       i);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	const struct dl_cursor_options options = { .size = sizeof(options),
						   .flags = DL_CURSOR_CLEAN | DL_CURSOR_WANTED };
	struct input in = { data, bytes };
	struct model_options kernel = { .page_bytes = 4096u << 2 * (input_u8(&in) % 3) };
	struct model *model = model_new(&kernel);
	struct dl_options open = { .size = sizeof(open), .os = model_os(model) };
	char why[200];

	memset(&naive, 0, sizeof(naive));
	naive.page_bytes = kernel.page_bytes;
	naive.logging = true;
	expect(!dl_log_open(model_vm_create(model), &open, &dirty_log, why, sizeof(why)), "%s",
	       why);
	add_slots(&in);
	expect(!dl_cursor_new(dirty_log, &options, &cursor), "no cursor");
	for (int i = 0; i < MAX_STEPS && in.left; i++)
		step(&in);
	dl_cursor_free(cursor);
	dl_log_close(dirty_log);
	model_free(model);
	return 0;
}
