/* SPDX-License-Identifier: MIT */
/*
 * Rings whose kernel side the input drives: pushes, overflows, resets that fail or end early, any
 * bytes in any cell, between any two steps of the library. A small migration over them, as in
 * test_ring_recovery.c, shows that
 *   - no page is lost: the copy equals the memory after repairs. The only excuse is an entry that
 *     was destroyed in its cell before the library could read it;
 *   - a vCPU enters the guest again unless its ring was scribbled on;
 *   - a ring that was not reopened requests a repair only after an overflow, a reset that
 *     misbehaved, or scribbling.
 */
#include "ring_world.h"
#include "ring/drain.h"
#include "pages/publish.h"
#include "../unit/words_of.h"

#include <errno.h>

struct world world;

struct dli_publish_result dli_publish(struct dli_slots *slots, const struct dli_dirty_word *words,
				      uint32_t n)
{
	struct dli_publish_result result = { 0 };
	struct world *w = &world;

	expect(n && n <= w->kernel.entries, "%u words", n);
	FOR_EACH_PAGE(words, n, slot, page)
	{
		if (slot || page >= PAGES) {
			result.stale++;
			result.outside |= !slot;
			continue;
		}
		result.new_pages += !w->pending[page];
		w->pending[page] = true;
		trace("  published: page %llu\n", (unsigned long long)page);
	}
	return result;
}

static void protect_and_mark_all(struct world *w)
{
	memset(w->is_protected, true, sizeof(w->is_protected));
	memset(w->excused, false, sizeof(w->excused));
	w->tainted = false;
	kernel_interleave(w);
	memset(w->pending, true, sizeof(w->pending));
}

static void repair(struct world *w)
{
	trace("repair\n");
	w->repairs++;
	protect_and_mark_all(w);
	dli_reset_repaired(&w->reset);
}

static void for_all_rings(struct world *w, void (*step)(struct dli_ring *ring))
{
	for (int i = 0; i < FAKE_RINGS; i++)
		step(w->rings[i]);
	kernel_interleave(w);
}

/* The batch of a harvest, as in lib/ring/drain.c. */
static int reset_in_steps(struct world *w)
{
	bool needed = false, retried = false;

	for (int i = 0; i < FAKE_RINGS; i++)
		dli_ring_recover(w->rings[i], &w->reset);
	kernel_interleave(w);
	for (int i = 0; i < FAKE_RINGS; i++)
		needed |= dli_ring_release(w->rings[i], &w->reset);
	kernel_interleave(w);
	while (needed) {
		int r = dli_reset_rings(&w->reset);

		for (int i = 0; i < FAKE_RINGS && r < 0; i++)
			dli_ring_reset_failed(w->rings[i]);
		if (r < 0)
			return r;
		needed = false;
		for (int i = 0; i < FAKE_RINGS; i++)
			needed |= !dli_ring_verify(w->rings[i], &w->reset, retried);
		expect(!needed || !retried, "a second reset left released cells");
		retried = true;
		kernel_interleave(w);
	}
	return 0;
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

/* dli_drain_all(), with the kernel's side running between all steps. */
static int drain_step_by_step(struct world *w)
{
	int r;

	for_all_rings(w, dli_ring_lock);
	for_all_rings(w, copy_ring);
	r = dli_reset_begin(&w->reset);
	if (!r) {
		r = reset_in_steps(w);
		dli_reset_end(&w->reset);
	}
	for_all_rings(w, publish);
	return r;
}

/* True if the harvest succeeded. */
static bool harvest(struct world *w, bool in_steps)
{
	int r;

	trace("harvest%s\n", in_steps ? " in steps" : "");
	w->inside = true;
	r = in_steps ? drain_step_by_step(w)
		     : dli_drain_all(&w->vcpus, &w->reset, w->stopped, NULL);
	w->inside = false;
	expect(r == 0 || r == -EIO || (r == -ECANCELED && w->closed), "%d", r);
	if (!r && !w->closed && dli_reset_repair_needed(&w->reset))
		repair(w);
	return !r;
}

static void copy_pending(struct world *w)
{
	trace("copy\n");
	for (uint32_t page = 0; page < PAGES; page++) {
		if (!w->pending[page])
			continue;
		w->pending[page] = false;
		w->copy[page] = w->memory[page];
	}
}

static void drain(struct world *w, int vcpu)
{
	int r;

	trace("drain of %d, head %u, state %d\n", vcpu, w->rings[vcpu]->head,
	      w->rings[vcpu]->state);
	w->inside = true;
	r = dli_drain_ring(w->rings[vcpu], &w->reset, NULL);
	w->inside = false;
	expect(r == 0 || r == -EIO || (r == -ECANCELED && w->closed), "%d", r);
}

/* Enters the guest, with a drain after each full exit. */
static void run(struct world *w, int vcpu)
{
	struct fake_ring *kernel_ring = &w->kernel.rings[vcpu];

	if (w->dead[vcpu] || w->in_guest[vcpu])
		return;
	for (int exits = 0; !(w->in_guest[vcpu] = fake_ring_enter(&w->kernel, kernel_ring));
	     exits++) {
		if (exits == MAX_EXITS) {
			expect(w->scribbled[vcpu], "vCPU %d cannot enter the guest", vcpu);
			w->dead[vcpu] = true;
			return;
		}
		drain(w, vcpu);
	}
}

static void add_ring(struct world *w, int i)
{
	int r = -EIO;

	for (int tries = 0; r && tries < FINAL_TRIES; tries++)
		r = dli_ring_new(&w->kernel.fake.os, FAKE_VCPU_FD + i, w->kernel.entries, &w->reset,
				 &w->rings[i]);
	expect(!r, "%d", r);
	w->list[i].ring = w->rings[i];
}

/* A log is closed and another one opened: the rings stay as they are, all pages are dirty. */
static void restart(struct world *w)
{
	if (w->closed)
		return;
	trace("restart\n");
	w->restarted = true;
	w->kernel.short_resets = w->kernel.reset_errors = 0;
	for (int i = 0; i < FAKE_RINGS; i++) {
		dli_ring_free(w->rings[i]);
		add_ring(w, i);
		atomic_store(&w->vcpus.first.heads[i], NULL);
		dli_ring_publish_head(w->rings[i], &w->vcpus.first.heads[i]);
	}
	(void)harvest(w, false);
	protect_and_mark_all(w);
}

/* Entries are lost from now on; the vCPUs continue. */
static void close_log(struct world *w, bool needed)
{
	if (w->closed)
		return;
	w->closed = true;
	dli_reset_close(&w->reset, needed);
	for (int i = 0; i < FAKE_RINGS && !needed; i++)
		w->dead[i] = true;
}

static void step(struct world *w)
{
	uint8_t what = input_u8(&w->in);
	int vcpu = what & 1;

	switch (what >> 1 & 31) {
	case 0 ... 7:
		kernel_stores(w, vcpu, input_u8(&w->in), 1 + (what >> 6) * 5u, true);
		break;
	case 8 ... 9:
		kernel_stores(w, vcpu, input_u8(&w->in), input_u8(&w->in), true);
		break;
	case 10:
		kernel_stores(w, vcpu, input_u8(&w->in), input_u8(&w->in), false);
		break;
	case 11 ... 14:
		run(w, vcpu);
		break;
	case 15:
		drain(w, vcpu);
		break;
	case 16 ... 18:
		(void)harvest(w, false);
		break;
	case 19 ... 23:
		(void)harvest(w, true);
		break;
	case 24 ... 27:
		copy_pending(w);
		break;
	case 28:
		kernel_misbehave(w);
		break;
	case 29:
		kernel_scribble(w, vcpu);
		break;
	case 30:
		if (input_u8(&w->in) == 0x5a)
			restart(w);
		break;
	case 31:
		if (input_u8(&w->in) == 0xa5)
			close_log(w, vcpu);
		break;
	}
}

static void begin(struct world *w)
{
	uint8_t shape = input_u8(&w->in), habits = input_u8(&w->in);

	kernel_init(w, shape, habits);
	expect(!dli_reset_init(&w->reset, &w->kernel.fake.os, FAKE_VM_FD), "no lock");
	expect(!dli_vcpu_list_init(&w->vcpus), "no lock");
	if (habits & 16)
		kernel_use_ring(w, &w->kernel.rings[0]);
	for (int i = 0; i < 8 && habits & 32; i++)
		kernel_scribble(w, i & 1);
	for (int i = 0; i < FAKE_RINGS; i++) {
		add_ring(w, i);
		expect(!dli_vcpu_list_append(&w->vcpus, &w->list[i]), "no memory");
	}
	protect_and_mark_all(w);
}

static void end(struct world *w)
{
	for (int i = 0; i < FAKE_RINGS; i++)
		dli_ring_free(w->rings[i]);
	pthread_mutex_destroy(&w->vcpus.lock);
	dli_reset_fini(&w->reset);
	expect(!w->kernel.fake.maps_live, "%ld mappings leaked", w->kernel.fake.maps_live);
	expect(!w->kernel.fake.duplicates, "a duplicate of a descriptor leaked");
	fake_rings_free(&w->kernel);
}

static void expect_nothing_lost(struct world *w)
{
	bool scribbled = w->scribbled[0] || w->scribbled[1];

	for (uint32_t page = 0; page < PAGES && !w->tainted; page++)
		expect(w->copy[page] == w->memory[page] || w->excused[page],
		       "page %u differs from the copy", page);
	if (scribbled || w->restarted)
		return;
	expect(!w->kernel.overshot, "a reset consumed a cell that the kernel had not filled");
	expect(!w->repairs || w->filled || w->misbehaved,
	       "a repair, though no ring overflowed and no reset misbehaved");
}

static void finish(struct world *w)
{
	int tries = 0;

	w->in.left = 0;
	/* Every vCPU that can run does so once more, before all stop. */
	for (int i = 0; i < FAKE_RINGS; i++)
		run(w, i);
	w->stopped = true;
	w->kernel.reset_errors = w->kernel.short_resets = 0;
	if (w->closed)
		return;
	while (!harvest(w, false))
		expect(++tries < FINAL_TRIES, "the final harvest fails");
	copy_pending(w);
	expect_nothing_lost(w);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct world *w = &world;

	memset(w, 0, sizeof(*w));
	w->in = (struct input){ data, bytes };
	begin(w);
	for (int i = 0; i < MAX_STEPS && w->in.left; i++)
		step(w);
	finish(w);
	end(w);
	return 0;
}
