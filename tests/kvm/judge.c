/* SPDX-License-Identifier: MIT */
#include "judge.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
	FIRST_SLOT_PAGES = 1500,
	GAP_PAGES = 700,
	TABLE_ENTRIES = 4000,
	BURST_ENTRIES = 3,
	MAX_LIVE_PASSES = 3,
	EXTENTS = 16,
	WORD_STEP_BYTES = 64,
};

#define ALIGNMENT (UINT64_C(2) << 20)

/* A page of memory, over all slots. */
struct page {
	bool reported;		      /* since the last stop */
	uint64_t judged[JUDGE_VCPUS]; /* its words at the last stop */
	uint64_t copied[JUDGE_VCPUS];
};

struct judge {
	struct rig *rig;
	const struct judge_options *options;
	struct dl_cursor *cursor;
	uint8_t *mapping, *memory;
	size_t mapping_bytes;
	uint64_t first_page[JUDGE_SLOTS]; /* index of the slot's first page */
	uint64_t gpa[JUDGE_SLOTS];
	struct page pages[JUDGE_PAGES];
	uint32_t table[JUDGE_VCPUS][TABLE_ENTRIES]; /* pages */
	uint32_t entries;
	uint64_t last[JUDGE_VCPUS]; /* number at the last stop */
	unsigned int seed;
	bool mistake_made;
	struct judge_verdict verdict;
};

static uint32_t below(struct judge *judge, uint32_t limit)
{
	return (uint32_t)rand_r(&judge->seed) % limit;
}

static volatile uint64_t *word_of(const struct judge *judge, uint64_t page, unsigned int vcpu)
{
	uint8_t *at = judge->memory + page * judge->rig->page_bytes + vcpu * WORD_STEP_BYTES;

	return (volatile uint64_t *)(void *)at;
}

static uint64_t gpa_of(const struct judge *judge, uint64_t page, unsigned int vcpu)
{
	unsigned int slot = page >= judge->first_page[1];

	return judge->gpa[slot] + (page - judge->first_page[slot]) * judge->rig->page_bytes +
	       vcpu * WORD_STEP_BYTES;
}

/* Guest memory in two slots. Huge pages need gpa and hva to agree modulo their size. */
static void add_memory(struct judge *judge)
{
	size_t page_bytes = judge->rig->page_bytes, bytes = JUDGE_PAGES * page_bytes;
	const uint64_t ends[JUDGE_SLOTS] = { FIRST_SLOT_PAGES, JUDGE_PAGES };

	judge->mapping_bytes = bytes + ALIGNMENT;
	judge->mapping = mmap(NULL, judge->mapping_bytes, PROT_READ | PROT_WRITE,
			      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(judge->mapping, MAP_FAILED);
	judge->memory = (uint8_t *)(((uintptr_t)judge->mapping + ALIGNMENT - 1) & ~(ALIGNMENT - 1));
	/* A kernel without huge pages refuses. */
	(void)madvise(judge->memory, bytes, judge->options->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	memset(judge->memory, 0, bytes);
	judge->first_page[1] = FIRST_SLOT_PAGES;
	judge->gpa[0] = GUEST_DATA_GPA;
	judge->gpa[1] = GUEST_DATA_GPA + (FIRST_SLOT_PAGES + GAP_PAGES) * page_bytes;
	for (uint32_t i = 0; i < JUDGE_SLOTS; i++) {
		const struct dl_slot slot = {
			.size = sizeof(slot),
			.slot = i,
			.gpa = judge->gpa[i],
			.bytes = (ends[i] - judge->first_page[i]) * page_bytes,
			.hva = (uintptr_t)judge->memory + judge->first_page[i] * page_bytes,
			.cookie = judge->first_page[i],
		};

		assert_int_equal(dl_slot_set(judge->rig->log, &slot), 0);
	}
}

static uint32_t choose_page(struct judge *judge, uint32_t entry)
{
	switch (judge->options->pattern) {
	case JUDGE_SWEEP:
		return entry;
	case JUDGE_BURST:
		/* The slots' last and first pages are among them. */
		return (FIRST_SLOT_PAGES - 1 + entry * 7) % JUDGE_PAGES;
	default:
		/* Every fourth is one of few. */
		return below(judge, below(judge, 4) ? JUDGE_PAGES : 50);
	}
}

/* Starts a vCPU on its table. */
static void start(struct judge *judge, unsigned int vcpu)
{
	struct machine_vcpu *machine = judge->rig->vcpus[vcpu].machine;
	const struct guest_job job = {
		.program = GUEST_NUMBER_TABLE,
		.mode = judge->rig->config.guest,
		.gpa = guest_table_gpa(machine->index),
		.count = judge->entries,
		.value = 1,
	};

	for (uint32_t i = 0; i < judge->entries; i++) {
		judge->table[vcpu][i] = choose_page(judge, i);
		machine_table(machine)[i] = gpa_of(judge, judge->table[vcpu][i], vcpu);
	}
	assert_int_equal(machine_go(machine, &job), 0);
}

static void resume(struct judge *judge, bool first)
{
	if (!first) {
		rig_resume(judge->rig);
		return;
	}
	for (unsigned int vcpu = 0; vcpu < judge->rig->vcpu_count; vcpu++)
		start(judge, vcpu);
}

/* Waits until each vCPU has come by a place of its table that is chosen at random. */
static void wait_for_stores(struct judge *judge)
{
	for (unsigned int vcpu = 0; vcpu < judge->rig->vcpu_count; vcpu++) {
		uint32_t entry = below(judge, judge->entries);
		volatile uint64_t *word = word_of(judge, judge->table[vcpu][entry], vcpu);
		uint64_t before = *word;

		while (*word == before) {
			assert_int_equal(atomic_load(&judge->rig->vcpus[vcpu].machine->end),
					 MACHINE_RUNNING);
			sched_yield();
		}
	}
}

static void copy_page(struct judge *judge, uint64_t page)
{
	for (unsigned int vcpu = 0; vcpu < JUDGE_VCPUS; vcpu++)
		judge->pages[page].copied[vcpu] = *word_of(judge, page, vcpu);
}

/* True if this page is the one that the mistake is made with. */
static bool is_mistake(struct judge *judge, enum judge_mistake mistake)
{
	bool now = judge->options->mistake == mistake && !judge->mistake_made;

	judge->mistake_made |= now;
	return now;
}

static void take_extent(struct judge *judge, const struct dl_extent *extent, bool stopped)
{
	size_t page_bytes = judge->rig->page_bytes;
	uint64_t first = extent->cookie + extent->offset_bytes / page_bytes;

	assert_int_equal(extent->bytes % page_bytes, 0);
	assert_true(first + extent->bytes / page_bytes <= JUDGE_PAGES);
	assert_int_equal(extent->hva, (uintptr_t)judge->memory + first * page_bytes);
	assert_int_equal(extent->gpa, gpa_of(judge, first, 0));
	for (uint64_t i = 0; i < extent->bytes / page_bytes; i++) {
		if (stopped && is_mistake(judge, JUDGE_DROP))
			continue;
		judge->pages[first + i].reported = true;
		if (!stopped || !is_mistake(judge, JUDGE_READ_EARLY))
			copy_page(judge, first + i);
	}
}

/* Returns how much was pending. */
static uint64_t pass(struct judge *judge, bool stopped)
{
	struct dl_extent extents[EXTENTS];
	uint64_t pending_bytes;
	int n;

	assert_int_equal(dl_harvest(judge->cursor, stopped ? DL_HARVEST_PAUSED : 0, &pending_bytes),
			 0);
	while ((n = dl_cursor_read(judge->cursor, extents, EXTENTS)) > 0) {
		for (int i = 0; i < n; i++)
			take_extent(judge, &extents[i], stopped);
		assert_int_equal(dl_cursor_ack(judge->cursor, extents, (uint32_t)n), 0);
	}
	assert_int_equal(n, 0);
	assert_int_equal(dl_cursor_end(judge->cursor, 0), 0);
	return pending_bytes;
}

/* The last number that a vCPU has stored: the greatest of all its words. */
static uint64_t last_number(const struct judge *judge, unsigned int vcpu)
{
	uint64_t last = 0;

	for (uint64_t page = 0; page < JUDGE_PAGES; page++)
		if (*word_of(judge, page, vcpu) > last)
			last = *word_of(judge, page, vcpu);
	return last;
}

/* Marks what a vCPU has stored since the last stop, and the page that it stores to next. */
static void find_written(struct judge *judge, unsigned int vcpu, bool *written, bool *next)
{
	uint64_t last = last_number(judge, vcpu);

	assert_true(last >= judge->last[vcpu]);
	for (uint64_t number = judge->last[vcpu] + 1; number <= last; number++)
		written[judge->table[vcpu][(number - 1) % judge->entries]] = true;
	/* A fault logs a page before the store is made, and a kick may come between the two. */
	next[judge->table[vcpu][last % judge->entries]] = true;
	judge->last[vcpu] = last;
}

/* With all vCPUs stopped, after the last pass. */
static void judge_iteration(struct judge *judge, bool repaired)
{
	static bool written[JUDGE_PAGES], next[JUDGE_PAGES];
	struct judge_verdict *verdict = &judge->verdict;

	memset(written, 0, sizeof(written));
	memset(next, 0, sizeof(next));
	for (unsigned int vcpu = 0; vcpu < judge->rig->vcpu_count; vcpu++)
		find_written(judge, vcpu, written, next);
	for (uint64_t i = 0; i < JUDGE_PAGES; i++) {
		struct page *page = &judge->pages[i];

		verdict->written += written[i];
		verdict->missing += written[i] && !page->reported;
		verdict->extra += page->reported && !written[i] && !next[i] && !repaired;
		for (unsigned int vcpu = 0; vcpu < JUDGE_VCPUS; vcpu++) {
			uint64_t number = *word_of(judge, i, vcpu);

			/* The memory itself is as the numbers say. */
			assert_true(written[i] || number == page->judged[vcpu]);
			page->judged[vcpu] = number;
			verdict->stale += page->copied[vcpu] != number;
		}
		page->reported = false;
	}
	verdict->repairs += repaired;
}

static void iterate(struct judge *judge, unsigned int iteration)
{
	uint64_t repairs = rig_stats(judge->rig).repairs;
	bool repaired = !iteration && !judge->options->clean;

	resume(judge, !iteration);
	wait_for_stores(judge);
	for (uint32_t i = iteration % 2 ? below(judge, MAX_LIVE_PASSES) : 0; i; i--) {
		pass(judge, false);
		wait_for_stores(judge);
	}
	rig_stop(judge->rig);
	while (pass(judge, true))
		;
	judge_iteration(judge, repaired || rig_stats(judge->rig).repairs != repairs);
}

struct judge_verdict judge_run(struct rig *rig, const struct judge_options *options)
{
	static struct judge judge;
	const struct dl_cursor_options cursor = {
		.size = sizeof(cursor),
		.flags = options->clean ? DL_CURSOR_CLEAN : 0,
		.vcpus = rig->vcpu_count,
	};

	judge = (struct judge){ .rig = rig, .options = options, .seed = options->iterations };
	judge.entries = options->pattern == JUDGE_BURST	  ? BURST_ENTRIES
			: options->pattern == JUDGE_SWEEP ? JUDGE_PAGES
							  : TABLE_ENTRIES;
	add_memory(&judge);
	assert_int_equal(dl_cursor_new(rig->log, &cursor, &judge.cursor), 0);
	for (unsigned int i = 0; i < options->iterations; i++)
		iterate(&judge, i);
	dl_cursor_free(judge.cursor);
	rig_free(rig);
	munmap(judge.mapping, judge.mapping_bytes);
	return judge.verdict;
}
