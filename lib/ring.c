/* SPDX-License-Identifier: MIT */
/* One vCPU's ring: map, copy in order, release, settle. */

#include "ring_cells.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Resets that make no headway before a ring is suspected. */
#define MAX_IDLE_RESETS 2
/* Resets at all: a kernel that is cut short again and again still moves. */
#define MAX_RESETS 64

static void count(_Atomic uint64_t *counter, uint64_t n)
{
	if (n)
		atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static int map_vcpu(struct dli_ring *ring, int vcpu_fd)
{
	uint32_t page_bytes = dli_os_page_bytes(ring->os);
	uint64_t ring_offset = (uint64_t)KVM_DIRTY_LOG_PAGE_OFFSET * page_bytes;
	void *addr;
	int r = dli_os_map(ring->os, vcpu_fd, 0, page_bytes, PROT_READ, &addr);

	if (r)
		return r;
	ring->run = addr;
	ring->run_bytes = page_bytes;
	r = dli_os_map(ring->os, vcpu_fd, ring_offset, ring->cells_bytes, PROT_READ | PROT_WRITE,
		       &addr);
	if (r)
		return r;
	ring->cells = addr;
	return 0;
}

/*
 * A ring that was never used is all zero, as the kernel allocated it. Of one that was, the index at
 * which the kernel goes on is not to be had from it until it has filled a cell.
 */
static int find_beginning(struct dli_ring *ring, struct dli_reset *reset)
{
	bool used = false, released = false;

	for (uint32_t i = 0; i < ring->entries; i++) {
		uint32_t flags = cell_load(ring, i);

		used |= flags || ring->cells[i].slot || ring->cells[i].offset;
		released |= flags == CELL_RESET;
	}
	if (released) {
		int r = dli_reset_rings(reset);

		if (r < 0)
			return r;
	}
	ring_set_state(ring, used ? RING_SEEKING : RING_IN_STEP);
	return 0;
}

static struct dli_ring *allocate(const struct dl_os *os, uint32_t entries)
{
	struct dli_ring *ring = calloc(1, sizeof(*ring));

	if (!ring)
		return NULL;
	ring->os = os;
	ring->entries = entries;
	ring->cells_bytes = entries * sizeof(*ring->cells);
	/* What a harvest released and has not settled, and as much again that a drain finds then.
	 */
	ring->batch_capacity = 2 * entries;
	ring->batch = malloc(ring->batch_capacity * sizeof(*ring->batch));
	if (!ring->batch || pthread_mutex_init(&ring->lock, NULL)) {
		free(ring->batch);
		free(ring);
		return NULL;
	}
	/* Resident now, so that no harvest takes a page fault for it. */
	memset(ring->batch, 0, ring->batch_capacity * sizeof(*ring->batch));
	return ring;
}

int dli_ring_new(const struct dl_os *os, int vcpu_fd, uint32_t entries, struct dli_reset *reset,
		 struct dli_ring **out)
{
	struct dli_ring *ring = allocate(os, entries);
	int r;

	if (!ring)
		return -ENOMEM;
	r = map_vcpu(ring, vcpu_fd);
	if (!r)
		r = find_beginning(ring, reset);
	if (r) {
		dli_ring_free(ring);
		return r;
	}
	*out = ring;
	return 0;
}

void dli_ring_free(struct dli_ring *ring)
{
	if (!ring)
		return;
	dli_os_unmap(ring->os, ring->cells, ring->cells_bytes);
	dli_os_unmap(ring->os, ring->run, ring->run_bytes);
	pthread_mutex_destroy(&ring->lock);
	free(ring->batch);
	free(ring);
}

/*
 * A bit of the flags that neither side uses is set through one mapping and looked for through the
 * other. Only by compare-and-exchange, so that nothing that the kernel writes is overwritten.
 */
bool dli_ring_same(struct dli_ring *a, struct dli_ring *b)
{
	const uint32_t mark = 4;
	bool before, after;
	uint32_t flags;

	do {
		before = cell_load(b, 0) & mark;
		flags = cell_load(a, 0);
	} while (!cell_change(a, 0, flags, flags | mark));
	after = cell_load(b, 0) & mark;
	cell_change(a, 0, flags | mark, flags);
	return after && !before;
}

bool ring_seek(struct dli_ring *ring)
{
	bool before = cell_load(ring, ring->entries - 1) == CELL_DIRTY;

	for (uint32_t i = 0; i < ring->entries; i++) {
		bool dirty = cell_load(ring, i) == CELL_DIRTY;

		if (dirty && !before) {
			ring->head = i;
			ring_set_state(ring, RING_IN_STEP);
			return true;
		}
		before = dirty;
	}
	if (before)
		ring_suspect(ring);
	return false;
}

/* Whether head is where to read from. */
static bool find_head(struct dli_ring *ring, bool last)
{
	switch (ring->state) {
	case RING_IN_STEP:
		if (!last || ring->proven || cell_load(ring, ring->head) == CELL_DIRTY)
			return true;
		return ring_seek(ring);
	case RING_SEEKING:
		return ring_seek(ring);
	case RING_REJOINING:
		return ring_rejoin(ring);
	case RING_SUSPECT:
		break;
	}
	return false;
}

/* Copies the dirty cells from head on behind the batch. Returns their number. */
static uint32_t copy_cells(struct dli_ring *ring)
{
	uint32_t room = ring->batch_capacity - ring->batch_entries;
	struct kvm_dirty_gfn *to = ring->batch + ring->batch_entries;
	uint32_t n = 0;

	if (room > ring->entries)
		room = ring->entries;
	while (n < room && cell_load(ring, ring->head + n) == CELL_DIRTY) {
		to[n] = ring->cells[(ring->head + n) & (ring->entries - 1)];
		n++;
	}
	return n;
}

/* Returns how many entries were added to the batch and released. Ring lock held. */
static uint32_t collect(struct dli_ring *ring, bool last)
{
	uint32_t n;

	if (!find_head(ring, last))
		return 0;
	n = copy_cells(ring);
	if (n > atomic_load_explicit(&ring->stats.high_water_entries, memory_order_relaxed))
		atomic_store_explicit(&ring->stats.high_water_entries, n, memory_order_relaxed);
	if (n == ring->entries) {
		/* The kernel stops a vCPU before this: the ring went round, who knows how often. */
		ring_suspect(ring);
		return 0;
	}
	for (uint32_t i = 0; i < n; i++)
		cell_release(ring, ring->head + i);
	if (n) {
		ring->head += n;
		ring->batch_entries += n;
		ring->proven = ring->owed = true;
		ring->held = false;
	}
	count(&ring->stats.entries, n);
	return n;
}

void dli_ring_collect(struct dli_ring *ring, bool last)
{
	pthread_mutex_lock(&ring->lock);
	collect(ring, last);
	pthread_mutex_unlock(&ring->lock);
}

static void sink_batch(struct dli_ring *ring, dli_ring_sink *sink, void *opaque)
{
	struct dli_sunk sunk;

	ring->owed = false;
	if (!ring->batch_entries)
		return;
	sunk = sink(opaque, ring->batch, ring->batch_entries);
	ring->batch_entries = 0;
	count(&ring->stats.new_pages, sunk.new_pages);
	count(&ring->stats.stale, sunk.stale);
}

/*
 * The kernel takes cells back in order, so the last one tells for all. Dirty again it can only be
 * after the kernel went round the whole ring: it does not on its own account before it stops the
 * vCPU.
 */
static bool settle(struct dli_ring *ring, dli_ring_sink *sink, void *opaque)
{
	uint32_t last;

	if (!ring->owed)
		return true;
	last = cell_load(ring, ring->head - 1);
	if (last == CELL_RESET)
		return false;
	if (last != CELL_CLEAN)
		ring_suspect(ring);
	sink_batch(ring, sink, opaque);
	return true;
}

static void note_short_reset(struct dli_ring *ring)
{
	count(&ring->stats.short_resets, 1);
	/* The batch at which the kernel stopped may have been taken back without protection. */
	ring_note_trouble(ring);
}

bool dli_ring_settle(struct dli_ring *ring, dli_ring_sink *sink, void *opaque)
{
	bool settled;

	pthread_mutex_lock(&ring->lock);
	settled = settle(ring, sink, opaque);
	if (!settled)
		note_short_reset(ring);
	pthread_mutex_unlock(&ring->lock);
	return settled;
}

void dli_ring_give_up(struct dli_ring *ring, dli_ring_sink *sink, void *opaque)
{
	pthread_mutex_lock(&ring->lock);
	if (ring->owed) {
		ring_suspect(ring);
		sink_batch(ring, sink, opaque);
	}
	pthread_mutex_unlock(&ring->lock);
}

static int reset_until_settled(struct dli_ring *ring, struct dli_reset *reset, dli_ring_sink *sink,
			       void *opaque)
{
	for (int resets = 0, idle = 0; ring->owed; resets++) {
		int r = dli_reset_rings(reset);

		if (r < 0)
			return r;
		count(&ring->stats.resets, 1);
		if (settle(ring, sink, opaque))
			break;
		note_short_reset(ring);
		idle = r ? 0 : idle + 1;
		if (idle == MAX_IDLE_RESETS || resets == MAX_RESETS) {
			ring_suspect(ring);
			sink_batch(ring, sink, opaque);
		}
	}
	return 0;
}

/* The kernel writes kvm_run before it returns to this vCPU's thread, which is the one that asks. */
static bool came_out_full(const struct dli_ring *ring)
{
	return atomic_load_explicit((_Atomic uint32_t *)&ring->run->exit_reason,
				    memory_order_relaxed) == KVM_EXIT_DIRTY_RING_FULL;
}

static int drain(struct dli_ring *ring, struct dli_reset *reset, dli_ring_sink *sink, void *opaque)
{
	enum ring_state was = ring->state;
	bool was_held = ring->held;
	uint32_t taken = collect(ring, false);
	int r = reset_until_settled(ring, reset, sink, opaque);

	if (r < 0 || !came_out_full(ring))
		return r;
	count(&ring->stats.full_exits, 1);
	return ring_answer_full(ring, reset, was, taken, was_held);
}

int dli_ring_drain(struct dli_ring *ring, struct dli_reset *reset, dli_ring_sink *sink,
		   void *opaque)
{
	int r;

	pthread_mutex_lock(&ring->lock);
	r = drain(ring, reset, sink, opaque);
	pthread_mutex_unlock(&ring->lock);
	return r;
}

bool dli_ring_wants_repair(struct dli_ring *ring)
{
	bool out_of_step = atomic_load_explicit(&ring->out_of_step, memory_order_acquire);

	ring->troubles_seen = atomic_load_explicit(&ring->troubles, memory_order_acquire);
	return out_of_step || ring->troubles_seen != ring->troubles_repaired;
}

void dli_ring_repaired(struct dli_ring *ring)
{
	ring->troubles_repaired = ring->troubles_seen;
}

struct dli_ring_stats *dli_ring_stats(struct dli_ring *ring)
{
	return &ring->stats;
}

uint64_t dli_ring_take_recent(struct dli_ring *ring)
{
	uint64_t entries = atomic_load_explicit(&ring->stats.entries, memory_order_relaxed);
	uint64_t recent = entries - ring->entries_seen;

	ring->entries_seen = entries;
	return recent;
}
