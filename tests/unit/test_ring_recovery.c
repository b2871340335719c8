/* SPDX-License-Identifier: MIT */
/*
 * Small migrations over two rings that overflow, with guest stores between all steps of a harvest.
 * No page is lost: each is published or covered by a repair. Every vCPU enters the guest again. A
 * healthy ring never requests a repair.
 */
#include "cmocka_all.h"
#include "ring/drain.h"
#include "pages/publish.h"
#include "fake_rings.h"
#include "random.h"
#include "ring/ring_private.h"
#include "ring/vcpu_list.h"
#include "words_of.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PAGES = 96, MAX_EXITS = 100, MAX_CONSUMED = 4096 };

struct world {
	struct fake_rings kernel;
	struct dli_reset reset;
	struct dli_ring *rings[FAKE_RINGS];
	struct dl_vcpu list[FAKE_RINGS];
	struct dli_vcpu_list vcpus;
	bool in_guest[FAKE_RINGS];
	struct random random;
	uint32_t batch;	  /* stores between checks for a full ring; > 1: it may overflow */
	bool misbehaving; /* resets fail or end early */
	bool emulated;	  /* stores are logged even if the page is not protected */
	bool stopped;

	uint32_t memory[PAGES], copy[PAGES];
	bool is_protected[PAGES], pending[PAGES];
	uint32_t consumed[MAX_CONSUMED], n_consumed; /* by this reset, not yet protected */
	unsigned int repairs;
};

static struct world world;
/* There is one thread only, so ThreadSanitizer finds nothing and takes twenty times as long. */
#ifdef __SANITIZE_THREAD__
static uint64_t seeds = 100;
#else
static uint64_t seeds = 1500;
#endif

static void store(struct world *w, int vcpu)
{
	uint32_t page = (uint32_t)random_below(&w->random, PAGES);

	w->memory[page]++;
	if (!w->is_protected[page] && !w->emulated)
		return;
	fake_ring_push(&w->kernel, &w->kernel.rings[vcpu], 0, page);
	w->is_protected[page] = false;
}

/* The guest runs between any two steps of a harvest. */
static void guest(struct world *w)
{
	for (int vcpu = 0; vcpu < FAKE_RINGS; vcpu++) {
		uint32_t stores = (uint32_t)random_below(&w->random, w->batch + 1);

		if (w->stopped || !w->in_guest[vcpu])
			continue;
		if (w->batch == 1)
			stores = (uint32_t)random_below(&w->random, 4);
		for (uint32_t i = 0; i < stores && w->in_guest[vcpu]; i++) {
			store(w, vcpu);
			if (w->batch == 1 || i + 1 == stores)
				w->in_guest[vcpu] =
					fake_ring_enter(&w->kernel, &w->kernel.rings[vcpu]);
		}
	}
}

static void on_consumed(struct fake_rings *rings, uint32_t slot, uint64_t offset)
{
	struct world *w = rings->opaque;

	assert_true(w->n_consumed < MAX_CONSUMED && offset < PAGES);
	w->consumed[w->n_consumed++] = (uint32_t)offset;
	/* The guest runs during the reset, and may lap the ring. */
	if (w->batch > 1 && !random_below(&w->random, 8))
		guest(w);
}

static void on_protect(struct fake_rings *rings, bool ends_early)
{
	struct world *w = rings->opaque;
	uint32_t lost = ends_early ? 5 : 0;

	for (uint32_t i = 0; i + lost < w->n_consumed; i++)
		w->is_protected[w->consumed[i]] = true;
	w->n_consumed = 0;
}

/* A vCPU that drains is outside the guest, so guest() skips it. */
static void on_reset(struct fake_rings *rings, bool ends)
{
	guest(rings->opaque);
}

struct dli_publish_result dli_publish(struct dli_slots *slots, const struct dli_dirty_word *words,
				      uint32_t n)
{
	FOR_EACH_PAGE(words, n, slot, page)
	world.pending[page] = true;
	return (struct dli_publish_result){ 0 };
}

static void repair(struct world *w)
{
	w->repairs++;
	if (!w->stopped)
		memset(w->is_protected, true, sizeof(w->is_protected));
	guest(w);
	memset(w->pending, true, sizeof(w->pending));
	dli_reset_repaired(&w->reset);
}

static void for_all_rings(struct world *w, void (*step)(struct dli_ring *ring))
{
	for (int i = 0; i < FAKE_RINGS; i++)
		step(w->rings[i]);
	guest(w);
}

static void reset_step_by_step(struct world *w)
{
	bool needed = false, retried = false;

	assert_int_equal(dli_reset_begin(&w->reset), 0);
	for (int i = 0; i < FAKE_RINGS; i++)
		dli_ring_recover(w->rings[i], &w->reset);
	guest(w);
	for (int i = 0; i < FAKE_RINGS; i++)
		needed |= dli_ring_release(w->rings[i], &w->reset);
	guest(w);
	while (needed) {
		assert_true(dli_reset_rings(&w->reset) >= 0);
		needed = false;
		for (int i = 0; i < FAKE_RINGS; i++)
			needed |= !dli_ring_verify(w->rings[i], &w->reset, retried);
		retried = true;
		guest(w);
	}
	dli_reset_end(&w->reset);
}

static void publish(struct dli_ring *ring)
{
	if (world.stopped)
		dli_ring_check_empty(ring, &world.reset);
	dli_ring_publish(ring, NULL);
	dli_ring_unlock(ring);
}

static void copy_ring(struct dli_ring *ring)
{
	dli_ring_copy(ring);
}

/* dli_drain_all(), with the guest running between all steps. */
static void drain_step_by_step(struct world *w)
{
	for_all_rings(w, dli_ring_lock);
	for_all_rings(w, copy_ring);
	reset_step_by_step(w);
	for_all_rings(w, publish);
}

static void harvest(struct world *w)
{
	int r = 0;

	if (w->misbehaving || random_below(&w->random, 4) == 0)
		r = dli_drain_all(&w->vcpus, &w->reset, w->stopped, NULL);
	else
		drain_step_by_step(w);
	/* A harvest that failed is retried later. */
	if (!r && dli_reset_repair_needed(&w->reset))
		repair(w);
	assert_true(r == 0 || r == -EIO);
}

static void copy_pending(struct world *w)
{
	for (uint32_t page = 0; page < PAGES; page++) {
		if (!w->pending[page])
			continue;
		w->pending[page] = false;
		w->copy[page] = w->memory[page];
		if (page % 16 == 0)
			guest(w);
	}
}

/* Enters the guest, with a drain after each full exit. */
static void run(struct world *w, int vcpu)
{
	struct fake_ring *kernel_ring = &w->kernel.rings[vcpu];

	for (int exits = 0; !(w->in_guest[vcpu] = fake_ring_enter(&w->kernel, kernel_ring));
	     exits++) {
		int r;

		assert_true(exits < MAX_EXITS);
		r = dli_drain_ring(w->rings[vcpu], &w->reset, NULL);
		assert_true(r == 0 || r == -EIO);
		if (!random_below(&w->random, 8))
			harvest(w);
	}
}

static void add_vcpus(struct world *w)
{
	assert_int_equal(dli_vcpu_list_init(&w->vcpus), 0);
	for (int i = 0; i < FAKE_RINGS; i++) {
		w->list[i].ring = w->rings[i];
		assert_int_equal(dli_vcpu_list_append(&w->vcpus, &w->list[i]), 0);
	}
}

static void begin(struct world *w, uint64_t seed, bool overflowing, bool misbehaving)
{
	/* A full ring holds more than a quarter of its cells; Intel's of 1024 holds 448. */
	static const uint32_t sizes[] = { 16, 32, 64 };
	uint32_t entries, reserved;

	memset(w, 0, sizeof(*w));
	w->random.state = seed * 0x9e3779b97f4a7c15 + 1;
	entries = sizes[random_below(&w->random, 3)];
	reserved = 2 + (uint32_t)random_below(&w->random, entries * 3 / 4 - 2);
	w->misbehaving = misbehaving;
	w->batch = 1;
	if (overflowing)
		w->batch = 2 + (uint32_t)random_below(&w->random, 2 * entries);
	/* A healthy kernel reserves cells for the entries until the vCPU exits; here none come. */
	w->emulated = random_below(&w->random, 2);
	fake_rings_init(&w->kernel, entries, entries - reserved, 0);
	w->kernel.no_request = random_below(&w->random, 2);
	w->kernel.on_consumed = on_consumed;
	w->kernel.on_protect = on_protect;
	w->kernel.on_reset = on_reset;
	w->kernel.opaque = w;
	assert_int_equal(dli_reset_init(&w->reset, &w->kernel.fake.os, FAKE_VM_FD), 0);
	for (int i = 0; i < FAKE_RINGS; i++)
		assert_int_equal(dli_ring_new(&w->kernel.fake.os, FAKE_VCPU_FD + i, entries,
					      &w->reset, &w->rings[i]),
				 0);
	add_vcpus(w);
	memset(w->is_protected, true, sizeof(w->is_protected));
	memset(w->pending, true, sizeof(w->pending));
}

static void end(struct world *w)
{
	for (int i = 0; i < FAKE_RINGS; i++)
		dli_ring_free(w->rings[i]);
	pthread_mutex_destroy(&w->vcpus.lock);
	dli_reset_fini(&w->reset);
	fake_rings_free(&w->kernel);
}

static void misbehave(struct world *w)
{
	switch (random_below(&w->random, 20)) {
	case 0:
		w->kernel.short_resets = 1 + (uint32_t)random_below(&w->random, 3);
		w->kernel.short_entries = (uint32_t)random_below(&w->random, 12);
		break;
	case 1:
		w->kernel.reset_errors = 1 + (uint32_t)random_below(&w->random, 2);
		w->kernel.reset_error = -EIO;
		break;
	}
}

static void expect_equal(struct world *w, uint64_t seed)
{
	for (uint32_t page = 0; page < PAGES; page++)
		if (w->copy[page] != w->memory[page])
			fail_msg("seed %lu: page %u differs from the copy", (unsigned long)seed,
				 page);
	if (w->kernel.overshot)
		fail_msg("seed %lu: a reset consumed a cell that the kernel had not filled",
			 (unsigned long)seed);
}

static void finish(struct world *w)
{
	w->stopped = true;
	w->kernel.reset_errors = w->kernel.short_resets = 0;
	harvest(w);
	copy_pending(w);
}

/* Returns the number of overwritten cells. */
static uint64_t migrate(uint64_t seed, bool overflowing, bool misbehaving)
{
	struct world *w = &world;
	uint64_t overwritten;

	begin(w, seed, overflowing, misbehaving);
	for (uint64_t i = 5 + random_below(&w->random, 60); i; i--) {
		for (int vcpu = 0; vcpu < FAKE_RINGS; vcpu++)
			if (!w->in_guest[vcpu])
				run(w, vcpu);
		guest(w);
		if (misbehaving)
			misbehave(w);
		if (!random_below(&w->random, 3))
			harvest(w);
		if (!random_below(&w->random, 3))
			copy_pending(w);
	}
	finish(w);
	expect_equal(w, seed);
	overwritten = w->kernel.rings[0].overwritten + w->kernel.rings[1].overwritten;
	if (!overflowing && !misbehaving && w->repairs)
		fail_msg("seed %lu: a repair, though no ring overflowed", (unsigned long)seed);
	end(w);
	return overwritten;
}

static void healthy_rings_request_no_repair(void **state)
{
	for (uint64_t seed = 1; seed <= seeds; seed++)
		assert_int_equal(migrate(seed, false, false), 0);
}

static void failed_and_short_resets_lose_nothing(void **state)
{
	for (uint64_t seed = 1; seed <= seeds; seed++)
		migrate(seed, false, true);
}

/*
 * A harvest releases the cells of both rings, and its reset fails. The next reset, for the first
 * ring's own drain, consumes all of the first ring, and part of the second without protecting it.
 */
static void a_short_reset_after_a_failed_one_requests_a_repair(void **state)
{
	struct world *w = &world;

	begin(w, 1, false, true);
	w->stopped = true;
	for (uint32_t page = 0; page < 6; page++)
		fake_ring_push(&w->kernel, &w->kernel.rings[page / 3], 0, page);
	memset(w->is_protected, false, 6 * sizeof(w->is_protected[0]));
	w->kernel.reset_errors = 1;
	w->kernel.reset_error = -EIO;
	assert_int_equal(dli_drain_all(&w->vcpus, &w->reset, false, NULL), -EIO);
	w->kernel.short_resets = 1;
	w->kernel.short_entries = 5;
	assert_int_equal(dli_drain_ring(w->rings[0], &w->reset, NULL), 0);
	assert_int_equal(dli_drain_all(&w->vcpus, &w->reset, false, NULL), 0);
	assert_false(w->is_protected[4]);
	assert_true(dli_reset_repair_needed(&w->reset));
	end(w);
}

static void overflows_lose_nothing(void **state)
{
	uint64_t overwritten = 0;

	for (uint64_t seed = 1; seed <= 2 * seeds; seed++)
		overwritten += migrate(seed, true, false);
	assert_true(overwritten > 20 * seeds);
}

static void overflows_with_failed_and_short_resets_lose_nothing(void **state)
{
	for (uint64_t seed = 1; seed <= seeds; seed++)
		migrate(seed, true, true);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(healthy_rings_request_no_repair),
		cmocka_unit_test(failed_and_short_resets_lose_nothing),
		cmocka_unit_test(a_short_reset_after_a_failed_one_requests_a_repair),
		cmocka_unit_test(overflows_lose_nothing),
		cmocka_unit_test(overflows_with_failed_and_short_resets_lose_nothing),
	};

	if (argc > 1 && !strcmp(argv[1], "--long"))
		seeds = 50000;
	return RUN_TESTS("ring recovery", tests);
}
