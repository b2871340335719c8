/* SPDX-License-Identifier: MIT */
/*
 * The page set against plain bitmaps: marking, taking, acknowledging, unclaiming, requeueing and
 * clearing pages must give the same result in both, step by step, in sets of up to 2^38 pages. The
 * input chooses a few windows of the set; pages outside them are never marked and must not appear.
 */
#include "fuzz.h"

#include "fake_os.h"
#include "pages/page_set.h"

enum {
	WINDOWS = 4,
	WINDOW_WORDS = 3 * PAGE_SET_CHUNK_WORDS + 5,
	READERS = 3,
	BLOCK_WORDS = 64, /* taken all or none */
	MAX_STEPS = 600,
	HUGE_WALKS = 3, /* of summaries of megabytes, which are slow */
};

#ifdef FUZZ_TSAN
#define MOST_PAGES (UINT64_C(1) << 31)
#else
#define MOST_PAGES (UINT64_C(1) << 38)
#endif

/* The part [first_word, first_word + words) of a plain bitmap. */
struct window {
	uint64_t first_word, words;
	uint64_t pending[WINDOW_WORDS], in_flight[WINDOW_WORDS];
};

struct reader {
	uint64_t cursor; /* in blocks */
	bool holds;
	struct dli_batch batch;
};

static struct fake_os fake;
static struct dli_page_set *set;
static uint64_t pages, uncounted;
static struct window windows[WINDOWS];
static unsigned int window_count, walks_left;
static struct reader readers[READERS];

static uint64_t choose_pages(struct input *in)
{
	static const uint64_t sizes[] = {
		1,
		63,
		64,
		65,
		4095,
		PAGE_SET_CHUNK_PAGES - 1,
		PAGE_SET_CHUNK_PAGES,
		PAGE_SET_CHUNK_PAGES + 1,
		64 * PAGE_SET_CHUNK_PAGES,
		64 * PAGE_SET_CHUNK_PAGES + 1,
		100001,
		(UINT64_C(1) << 31) - 1,
		UINT64_C(1) << 34,
		MOST_PAGES,
	};
	uint8_t choice = input_u8(in);

	if (choice < sizeof(sizes) / sizeof(sizes[0]))
		return sizes[choice] < MOST_PAGES ? sizes[choice] : MOST_PAGES;
	return 1 + input_number(in, 4) % (1u << 24);
}

static uint64_t set_words(void)
{
	return (pages + 63) / 64;
}

static void add_window(uint64_t first_word)
{
	struct window *window = &windows[window_count];
	uint64_t from = window_count ? window[-1].first_word + window[-1].words : 0;

	if (first_word < from)
		first_word = from;
	if (first_word >= set_words())
		return;
	window->first_word = first_word;
	window->words = set_words() - first_word;
	if (window->words > WINDOW_WORDS)
		window->words = WINDOW_WORDS;
	memset(window->pending, 0, sizeof(window->pending));
	memset(window->in_flight, 0, sizeof(window->in_flight));
	window_count++;
}

/* Windows in ascending order; the last one at the end of the set. */
static void choose_windows(struct input *in)
{
	uint64_t words = set_words(), at = 0;

	window_count = 0;
	add_window(0);
	for (int i = 0; i < WINDOWS - 2; i++) {
		at += input_number(in, 5) % words;
		add_window(at);
	}
	add_window(words > WINDOW_WORDS ? words - WINDOW_WORDS : 0);
}

static struct window *window_of(uint64_t word)
{
	for (unsigned int i = 0; i < window_count; i++)
		if (word - windows[i].first_word < windows[i].words)
			return &windows[i];
	return NULL;
}

/* The bits of a word that have pages in the set. */
static uint64_t valid_bits(uint64_t word)
{
	return word == pages / 64 ? (UINT64_C(1) << pages % 64) - 1 : ~UINT64_C(0);
}

/* A word in some window. */
static uint64_t choose_word(struct input *in)
{
	const struct window *window = &windows[input_u8(in) % window_count];

	return window->first_word + input_number(in, 2) % window->words;
}

/* A range inside one window, possibly empty. */
static void choose_range(struct input *in, uint64_t *first_page, uint64_t *count)
{
	uint64_t word = choose_word(in), end_page;
	const struct window *window = window_of(word);

	*first_page = word * 64 + input_u8(in) % 64;
	*count = input_number(in, 2);
	/* Mostly short. */
	if (!(*count & 0x8000))
		*count &= 0xff;
	end_page = (window->first_word + window->words) * 64;
	if (end_page > pages)
		end_page = pages;
	if (*first_page >= end_page)
		*first_page = end_page - 1;
	if (*count > end_page - *first_page)
		*count = end_page - *first_page;
}

static uint64_t count_bits(bool in_flight)
{
	uint64_t bits = 0;

	for (unsigned int i = 0; i < window_count; i++)
		for (uint64_t word = 0; word < windows[i].words; word++)
			bits += (uint64_t)__builtin_popcountll(
				in_flight ? windows[i].in_flight[word] : windows[i].pending[word]);
	return bits;
}

static void expect_counts(void)
{
	uint64_t pending = count_bits(false);
	uint64_t counted = pending > uncounted ? pending - uncounted : 0;

	expect(dli_page_set_pending_pages(set) == counted, "%llu pages are pending, expected %llu",
	       (unsigned long long)dli_page_set_pending_pages(set), (unsigned long long)counted);
	expect(dli_page_set_in_flight_pages(set) == count_bits(true), "%llu pages are in flight",
	       (unsigned long long)dli_page_set_in_flight_pages(set));
}

/* Returns the number of new pages. */
static uint64_t plain_mark(uint64_t word, uint64_t bits)
{
	struct window *window = window_of(word);
	uint64_t *at = &window->pending[word - window->first_word];
	uint64_t new_bits = bits & ~*at;

	*at |= bits;
	return (uint64_t)__builtin_popcountll(new_bits);
}

static uint64_t bits_between(uint64_t word, uint64_t first_page, uint64_t end_page)
{
	uint64_t bits = 0;

	for (unsigned int bit = 0; bit < 64; bit++)
		if (word * 64 + bit >= first_page && word * 64 + bit < end_page)
			bits |= UINT64_C(1) << bit;
	return bits;
}

static void mark_word(struct input *in)
{
	uint64_t word = choose_word(in), bits = input_wild(in) & valid_bits(word);
	uint32_t new_pages;

	if (!bits)
		return;
	new_pages = dli_page_set_mark_word(set, word, bits);
	expect(new_pages == plain_mark(word, bits), "%u pages are new", new_pages);
	uncounted += new_pages;
}

/* Markers count their new pages in batches. */
static void count_marks(void)
{
	dli_page_set_count(set, uncounted);
	uncounted = 0;
}

static void mark_range(struct input *in)
{
	uint64_t first_page, count, new_pages = 0;

	choose_range(in, &first_page, &count);
	for (uint64_t word = first_page / 64; word * 64 < first_page + count; word++)
		new_pages += plain_mark(word, bits_between(word, first_page, first_page + count));
	expect(dli_page_set_mark_range(set, first_page, count) == new_pages,
	       "expected %llu new pages", (unsigned long long)new_pages);
}

static void mark_all(void)
{
	uint64_t new_pages = 0;

	/* Only possible if one window covers the whole set. */
	if (windows[0].words != set_words())
		return;
	for (uint64_t word = 0; word < set_words(); word++)
		new_pages += plain_mark(word, valid_bits(word));
	expect(dli_page_set_mark_all(set) == new_pages, "expected %llu new pages",
	       (unsigned long long)new_pages);
}

static bool may_walk(void)
{
	if (pages <= UINT64_C(1) << 32)
		return true;
	if (!walks_left)
		return false;
	walks_left--;
	return true;
}

/* True if a page is pending in words [from, end). */
static bool is_pending(uint64_t from, uint64_t end)
{
	for (unsigned int i = 0; i < window_count; i++)
		for (uint64_t at = 0; at < windows[i].words; at++)
			if (windows[i].pending[at] && windows[i].first_word + at >= from &&
			    windows[i].first_word + at < end)
				return true;
	return false;
}

/* The batch must be exactly the pages pending in its words; moves them to in_flight. */
static void expect_and_take(const struct dli_batch *batch)
{
	expect(batch->n && batch->n <= PAGE_SET_CHUNK_WORDS, "a batch of %u words", batch->n);
	for (uint32_t i = 0; i < batch->n; i++) {
		uint64_t word = batch->word[i], at;
		struct window *window = window_of(word);

		expect(window, "word %llu is in no window", (unsigned long long)word);
		expect(!i || word > batch->word[i - 1], "words out of order");
		at = word - window->first_word;
		expect(batch->bits[i] && batch->bits[i] == window->pending[at],
		       "word %llu: %#llx is not what was pending", (unsigned long long)word,
		       (unsigned long long)batch->bits[i]);
		window->pending[at] = 0;
		window->in_flight[at] |= batch->bits[i];
	}
}

static uint64_t first_word_of(uint64_t block)
{
	return block > UINT64_MAX / BLOCK_WORDS ? UINT64_MAX : block * BLOCK_WORDS;
}

static void take(struct reader *reader, bool one_chunk)
{
	const struct dli_batch *batch = &reader->batch;
	uint64_t from = first_word_of(reader->cursor), until, last;
	bool any = is_pending(from, UINT64_MAX);

	if (!may_walk())
		return;
	reader->holds = dli_page_set_take(set, &reader->cursor, one_chunk, &reader->batch);
	expect(reader->holds == any, "dli_page_set_take() returned %d", reader->holds);
	if (!any) {
		reader->cursor = 0;
		return;
	}
	expect_and_take(batch);
	last = batch->word[batch->n - 1];
	until = first_word_of(reader->cursor);
	expect(batch->word[0] >= from && last < until, "words outside the requested range");
	/* All of the chunk; or all that is pending, unless the batch has no room for a block. */
	if (one_chunk) {
		expect(batch->word[0] / PAGE_SET_CHUNK_WORDS == last / PAGE_SET_CHUNK_WORDS,
		       "the words are of two chunks");
		until = (last / PAGE_SET_CHUNK_WORDS + 1) * PAGE_SET_CHUNK_WORDS;
	} else if (batch->n <= PAGE_SET_CHUNK_WORDS - BLOCK_WORDS) {
		until = UINT64_MAX;
	}
	expect(!is_pending(from, until), "pending words were skipped");
}

static void unclaim(struct reader *reader)
{
	const struct dli_batch *batch = &reader->batch;

	if (!reader->holds)
		return;
	dli_page_set_unclaim(set, batch);
	for (uint32_t i = 0; i < batch->n; i++) {
		struct window *window = window_of(batch->word[i]);

		plain_mark(batch->word[i], batch->bits[i]);
		window->in_flight[batch->word[i] - window->first_word] &= ~batch->bits[i];
	}
	reader->holds = false;
	reader->cursor = batch->word[0] / BLOCK_WORDS;
}

static void ack_pages(uint64_t first_page, uint64_t count)
{
	uint64_t end_page = first_page + count, word, acked = 0;
	bool all = true;

	for (word = first_page / 64; word * 64 < end_page; word++)
		all &= !(bits_between(word, first_page, end_page) &
			 ~window_of(word)->in_flight[word - window_of(word)->first_word]);
	expect(dli_page_set_ack(set, first_page, count, &acked) == all,
	       "an acknowledgement did not return %d", all);
	expect(acked == (all ? count : 0), "%llu pages were acknowledged",
	       (unsigned long long)acked);
	dli_page_set_count_acked(set, acked);
	for (word = first_page / 64; all && word * 64 < end_page; word++)
		window_of(word)->in_flight[word - window_of(word)->first_word] &=
			~bits_between(word, first_page, end_page);
}

/* Acknowledges the first run in one word of the reader's batch. */
static void ack_word(struct reader *reader, struct input *in)
{
	const struct dli_batch *batch = &reader->batch;
	uint32_t i = input_u8(in), bit = 0;
	uint64_t rest;

	if (!reader->holds)
		return;
	i %= batch->n;
	bit = (uint32_t)__builtin_ctzll(batch->bits[i]);
	rest = ~(batch->bits[i] >> bit);
	ack_pages(batch->word[i] * UINT64_C(64) + bit, rest ? (uint64_t)__builtin_ctzll(rest) : 64);
}

static void mark_batch(struct input *in)
{
	uint64_t word = choose_word(in), new_pages = 0;
	static struct dli_batch batch;

	batch.n = 0;
	for (uint32_t n = input_u8(in); n && window_of(word); n--, word += 1 + input_u8(in) % 80) {
		uint64_t bits = input_number(in, 8) & valid_bits(word);

		if (!bits)
			continue;
		batch.word[batch.n] = (uint32_t)word;
		batch.bits[batch.n++] = bits;
		new_pages += plain_mark(word, bits);
	}
	expect(dli_page_set_mark_batch(set, &batch) == new_pages, "expected %llu new pages",
	       (unsigned long long)new_pages);
}

static void ack_range(struct input *in)
{
	uint64_t first_page, count;

	choose_range(in, &first_page, &count);
	ack_pages(first_page, count);
}

static void requeue(void)
{
	if (!may_walk())
		return;
	dli_page_set_requeue(set);
	for (unsigned int i = 0; i < window_count; i++)
		for (uint64_t word = 0; word < windows[i].words; word++) {
			windows[i].pending[word] |= windows[i].in_flight[word];
			windows[i].in_flight[word] = 0;
		}
}

static void clear(void)
{
	if (!may_walk())
		return;
	count_marks();
	dli_page_set_clear(set);
	for (unsigned int i = 0; i < window_count; i++) {
		memset(windows[i].pending, 0, sizeof(windows[i].pending));
		memset(windows[i].in_flight, 0, sizeof(windows[i].in_flight));
	}
}

static void step(struct input *in)
{
	uint8_t what = input_u8(in);
	struct reader *reader = &readers[what / 32 % READERS];

	switch (what % 32) {
	case 0 ... 3:
		mark_word(in);
		break;
	case 4 ... 5:
		mark_batch(in);
		break;
	case 6 ... 11:
		mark_range(in);
		break;
	case 12 ... 17:
		take(reader, what % 2);
		break;
	case 18 ... 21:
		ack_word(reader, in);
		break;
	case 22 ... 23:
		ack_range(in);
		break;
	case 24:
		unclaim(reader);
		break;
	case 25 ... 26:
		requeue();
		break;
	case 27:
		mark_all();
		break;
	case 28:
		clear();
		break;
	case 29:
		count_marks();
		break;
	case 30:
		reader->cursor = input_wild(in);
		break;
	case 31:
		expect_counts();
		break;
	}
}

/* All remaining pages are taken, each once, and no others. */
static void take_the_rest(void)
{
	count_marks();
	walks_left = WINDOWS * WINDOW_WORDS;
	requeue();
	readers[0].cursor = 0;
	do
		take(&readers[0], false);
	while (readers[0].holds);
	expect(!is_pending(0, UINT64_MAX), "pages are still pending");
	expect_counts();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct input in = { data, bytes };

	fake_os_init(&fake);
	pages = choose_pages(&in);
	choose_windows(&in);
	memset(readers, 0, sizeof(readers));
	uncounted = 0;
	walks_left = HUGE_WALKS;
	if (dli_page_set_new(&fake.os, pages, &set))
		return 0; /* not enough address space */
	for (int i = 0; i < MAX_STEPS && in.left; i++)
		step(&in);
	expect_counts();
	take_the_rest();
	dli_page_set_free(set);
	expect(!fake.maps_live, "%ld mappings leaked", fake.maps_live);
	return 0;
}
