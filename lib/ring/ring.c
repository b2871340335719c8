/* SPDX-License-Identifier: MIT */
/* One vCPU's ring: map, copy in order, release, settle. */

#include "pages/publish.h"
#include "ring/ring_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static int map_vcpu(struct dli_ring *ring, int vcpu_fd)
{
	uint32_t page_bytes = dli_os_page_bytes(ring->os);
	uint64_t ring_offset = (uint64_t)RING_PAGE_OFFSET * page_bytes;
	void *addr;
	int r = dli_os_map(ring->os, vcpu_fd, 0, page_bytes, PROT_READ | PROT_WRITE, &addr);

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

static int reset_released_cells(struct dli_reset *reset)
{
	int r = dli_reset_begin(reset);

	if (r)
		return r;
	r = dli_reset_rings(reset);
	dli_reset_end(reset);
	return r < 0 ? r : 0;
}

/* For dli_ring_pace(). A cell of a ring that is out of step says nothing. */
static void publish_oldest(struct dli_ring *ring)
{
	atomic_store_explicit(&ring->oldest, ring->state == RING_IN_SYNC ? ring->head : UINT64_MAX,
			      memory_order_relaxed);
}

/*
 * A ring that was never used is all zero, as the kernel allocated it. Of one that was, the index at
 * which the kernel goes on is not to be had from it until it has filled a cell.
 */
static int find_start(struct dli_ring *ring, struct dli_reset *reset)
{
	bool used = false, released = false;

	for (uint32_t i = 0; i < ring->entries; i++) {
		uint32_t flags = cell_load(cell_at(ring, i));
		struct kvm_dirty_gfn cell = cell_read(cell_at(ring, i));

		used |= flags || cell.slot || cell.offset;
		released |= flags == CELL_RESET;
	}
	ring->state = used ? RING_DESYNCED : RING_IN_SYNC;
	publish_oldest(ring);
	return released ? reset_released_cells(reset) : 0;
}

static struct dli_ring *allocate(const struct dl_os *os, struct dli_reset *reset, uint32_t entries)
{
	struct dli_ring *ring = dli_allocate(1, sizeof(*ring));

	if (!ring)
		return NULL;
	ring->os = os;
	ring->reset = reset;
	ring->entries = entries;
	ring->cells_bytes = entries * sizeof(*ring->cells);
	ring->words = dli_allocate(entries, sizeof(*ring->words));
	if (!ring->words || pthread_mutex_init(&ring->lock, NULL)) {
		free(ring->words);
		free(ring);
		return NULL;
	}
	/* Resident now, so that no harvest takes a page fault for it. */
	memset(ring->words, 0, entries * sizeof(*ring->words));
	return ring;
}

int dli_ring_new(const struct dl_os *os, int vcpu_fd, uint32_t entries, struct dli_reset *reset,
		 struct dli_ring **out)
{
	struct dli_ring *ring = allocate(os, reset, entries);
	int r;

	if (!ring)
		return -ENOMEM;
	r = map_vcpu(ring, vcpu_fd);
	if (!r)
		r = find_start(ring, reset);
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
	free(ring->words);
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
		before = cell_load(cell_at(b, 0)) & mark;
		flags = cell_load(cell_at(a, 0));
	} while (!cell_change(cell_at(a, 0), flags, flags | mark));
	after = cell_load(cell_at(b, 0)) & mark;
	cell_change(cell_at(a, 0), flags | mark, flags);
	return after && !before;
}

/*
 * Where the ring goes on, for who looks without the lock whether anything is in it; NULL while there
 * is more to know. Pairs with ring_is_quiet(): what was in the ring before is published by then.
 */
static void publish_head(struct dli_ring *ring, bool shown)
{
	if (ring->published_head)
		atomic_store_explicit(ring->published_head,
				      shown ? cell_at(ring, ring->head) : NULL,
				      memory_order_release);
}

void dli_ring_publish_head(struct dli_ring *ring, dli_ring_head *head)
{
	ring->published_head = head;
}

void dli_ring_lock(struct dli_ring *ring)
{
	pthread_mutex_lock(&ring->lock);
	publish_head(ring, false);
}

bool dli_ring_trylock(struct dli_ring *ring)
{
	if (pthread_mutex_trylock(&ring->lock))
		return false;
	publish_head(ring, false);
	return true;
}

void dli_ring_unlock(struct dli_ring *ring)
{
	bool settled =
		ring->state == RING_IN_SYNC && !ring->reset_pending && !ring->released_entries;
	uint64_t entries = atomic_load_explicit(&ring->stats.entries, memory_order_relaxed);
	uint64_t seen = atomic_load_explicit(&ring->entries_seen, memory_order_relaxed);

	/* Entries that a drain counted keep the head hidden until a harvest has seen them. */
	publish_head(ring, settled && entries == seen);
	publish_oldest(ring);
	pthread_mutex_unlock(&ring->lock);
}

/*
 * Reads dirty cells up to end. Those that follow each other in one word become one, written to *to, which
 * moves on. Returns the first cell that is not dirty, or end.
 */
static struct kvm_dirty_gfn *copy_cells(struct kvm_dirty_gfn *cell, struct kvm_dirty_gfn *end,
					struct dli_dirty_word **to)
{
	while (cell != end && cell_load(cell) == CELL_DIRTY) {
		struct kvm_dirty_gfn first = cell_read(cell);
		uint64_t word = first.offset / 64, bits = UINT64_C(1) << first.offset % 64;

		while (++cell != end && cell_load(cell) == CELL_DIRTY) {
			struct kvm_dirty_gfn entry = cell_read(cell);

			if (entry.offset / 64 != word || entry.slot != first.slot)
				break;
			bits |= UINT64_C(1) << entry.offset % 64;
		}
		*(*to)++ = (struct dli_dirty_word){ first.slot, 0, word, bits };
	}
	return cell;
}

/* The dirty cells from head on, room of them at most. Returns how many. */
static uint32_t copy_ring(const struct dli_ring *ring, uint32_t room, struct dli_dirty_word **to)
{
	struct kvm_dirty_gfn *first = cell_at(ring, ring->head), *stop;
	uint32_t before_turn = (uint32_t)(ring->cells + ring->entries - first);

	if (room <= before_turn)
		return (uint32_t)(copy_cells(first, first + room, to) - first);
	stop = copy_cells(first, first + before_turn, to);
	if (stop != first + before_turn)
		return (uint32_t)(stop - first);
	stop = copy_cells(ring->cells, ring->cells + room - before_turn, to);
	return before_turn + (uint32_t)(stop - ring->cells);
}

uint32_t dli_ring_copy(struct dli_ring *ring)
{
	struct dli_dirty_word *words = ring->words + ring->released_words, *to = words;
	uint32_t n;

	ring->copied = 0;
	if (ring->state != RING_IN_SYNC || cell_load(cell_at(ring, ring->head)) != CELL_DIRTY)
		return 0;
	ring->first_copied = cell_read(cell_at(ring, ring->head));
	n = copy_ring(ring, ring->entries - ring->released_entries, &to);
	ring->copied = n;
	ring->copied_words = (uint32_t)(to - words);
	if (n > atomic_load_explicit(&ring->stats.high_water_entries, memory_order_relaxed))
		atomic_store_explicit(&ring->stats.high_water_entries, n, memory_order_relaxed);
	return n;
}

int dli_ring_recover(struct dli_ring *ring, struct dli_reset *reset)
{
	int r;

	if (ring->state == RING_IN_SYNC)
		return 0;
	r = dli_ring_resync(ring, reset);
	dli_ring_copy(ring);
	return r;
}

/*
 * Whether the kernel had gone round the ring, onto cells that were just released over what it wrote
 * there. It fills in order, so then it had filled the cell before them, which nobody has released
 * since it was last clean.
 */
static bool lapped(struct dli_ring *ring)
{
	ring_barrier(ring);
	return cell_load(cell_at(ring, ring->before_released)) == CELL_DIRTY;
}

/*
 * The same, looked for before the release, as afterwards the cell is the kernel's: another page stands
 * where the first was copied. The cell before it does not tell where a reset was at that very cell, this
 * one not where the same page came again.
 */
static bool head_overwritten(struct dli_ring *ring)
{
	struct kvm_dirty_gfn now = cell_read(cell_at(ring, ring->head));

	return now.slot != ring->first_copied.slot || now.offset != ring->first_copied.offset;
}

static void release_cells(struct kvm_dirty_gfn *cell, struct kvm_dirty_gfn *end)
{
	for (; cell != end; cell++)
		cell_release(cell);
}

static void release_copied(struct dli_ring *ring)
{
	struct kvm_dirty_gfn *first = cell_at(ring, ring->head);
	struct kvm_dirty_gfn *turn = ring->cells + ring->entries;

	if (ring->copied <= turn - first) {
		release_cells(first, first + ring->copied);
	} else {
		release_cells(first, turn);
		release_cells(ring->cells, first + ring->copied - ring->entries);
	}
}

bool dli_ring_release(struct dli_ring *ring, struct dli_reset *reset)
{
	bool overwritten;

	if (!ring->copied)
		return ring->reset_pending;
	ring->first_released = ring->head;
	ring->before_released = ring->head - 1;
	overwritten = head_overwritten(ring);
	release_copied(ring);
	if (ring->copied == ring->entries || overwritten || lapped(ring)) {
		dli_ring_desync(ring, reset);
		return false;
	}
	ring_count(&ring->stats.entries, ring->copied);
	ring->head += ring->copied;
	ring->released_entries += ring->copied;
	ring->released_words += ring->copied_words;
	ring->copied = 0;
	ring->nudge_armed = false;
	ring->reset_pending = true;
	return true;
}

bool dli_ring_verify(struct dli_ring *ring, struct dli_reset *reset, bool retried)
{
	uint32_t last;

	if (!ring->reset_pending)
		return true;
	/*
	 * Cells are taken back in order, so the last tells for all; unless the kernel is out of step
	 * and began behind the first.
	 */
	last = cell_load(cell_at(ring, ring->head - 1));
	if (last == CELL_RESET && !retried) {
		/* Where the kernel stopped it may have dropped what it had gathered, unprotected.
		 */
		ring_request_repair(ring);
		ring_count(&ring->stats.short_resets, 1);
		ring_count(&reset->short_resets, 1);
		return false;
	}
	if (last != CELL_CLEAN || cell_load(cell_at(ring, ring->first_released)) == CELL_RESET) {
		dli_ring_desync(ring, reset);
		return true;
	}
	ring->reset_pending = false;
	/*
	 * The kernel may have come round just now, while it was taking back. A healthy one can fill
	 * that many cells during a reset, so this counts only where overflows are known to happen.
	 */
	if (cell_load(cell_at(ring, ring->before_released)) == CELL_DIRTY &&
	    atomic_load_explicit(&reset->overflowed, memory_order_relaxed))
		ring_request_repair(ring);
	return true;
}

bool dli_ring_reset_failed(struct dli_ring *ring)
{
	if (ring->reset_pending)
		ring_request_repair(ring);
	return ring->reset_pending;
}

void dli_ring_check_empty(struct dli_ring *ring)
{
	for (uint32_t i = 0; i < ring->entries; i++) {
		uint32_t flags = cell_load(cell_at(ring, i));

		/* What no kernel writes may have been an entry. */
		if (flags != CELL_CLEAN && flags != CELL_RESET) {
			ring_request_repair(ring);
			return;
		}
	}
}

void dli_ring_publish(struct dli_ring *ring, struct dli_slots *slots)
{
	struct dli_publish_result result;

	if (ring->reset_pending || !ring->released_entries)
		return;
	result = dli_publish(slots, ring->words, ring->released_words);
	ring->released_entries = ring->released_words = 0;
	ring_count(&ring->stats.new_pages, result.new_pages);
	ring_count(&ring->stats.stale, result.stale);
	if (result.outside)
		ring_request_repair(ring);
}

/* The kernel writes kvm_run before it returns to this vCPU's thread. */
static _Atomic uint32_t *exit_reason(struct dli_ring *ring)
{
	return (_Atomic uint32_t *)&ring->run->exit_reason;
}

bool dli_ring_exited_full(struct dli_ring *ring)
{
	return atomic_load_explicit(exit_reason(ring), memory_order_relaxed) ==
	       KVM_EXIT_DIRTY_RING_FULL;
}

bool dli_ring_found_little(const struct dli_ring *ring)
{
	return ring->copied < ring_nudge_entries(ring);
}

/*
 * The exit reason survives a KVM_RUN that does not reach the guest, so the next drain could take this
 * exit for another one. Only an exit that found little must be told apart; to the VMM it then looks
 * interrupted.
 */
void dli_ring_arm_nudge(struct dli_ring *ring)
{
	uint32_t full = KVM_EXIT_DIRTY_RING_FULL;

	/* Compare first: if the caller is not the vCPU's thread, another exit may have happened. */
	ring->nudge_armed =
		atomic_compare_exchange_strong_explicit(exit_reason(ring), &full, KVM_EXIT_INTR,
							memory_order_relaxed, memory_order_relaxed);
}

void dli_ring_disarm_nudge(struct dli_ring *ring)
{
	ring->nudge_armed = false;
}

bool dli_ring_nudge_armed(const struct dli_ring *ring)
{
	return ring->nudge_armed;
}

bool dli_ring_reset_pending(const struct dli_ring *ring)
{
	return ring->reset_pending;
}

struct dli_ring *dli_ring_next(const struct dli_ring *ring)
{
	return ring->next;
}

void dli_ring_set_next(struct dli_ring *ring, struct dli_ring *next)
{
	ring->next = next;
}

struct dli_ring_stats *dli_ring_stats(struct dli_ring *ring)
{
	return &ring->stats;
}

uint64_t dli_ring_take_recent(struct dli_ring *ring)
{
	uint64_t entries = atomic_load_explicit(&ring->stats.entries, memory_order_relaxed);
	uint64_t seen = atomic_load_explicit(&ring->entries_seen, memory_order_relaxed);

	atomic_store_explicit(&ring->entries_seen, entries, memory_order_relaxed);
	return entries - seen;
}

/* Cells are filled in order, so the first that is not dirty is found by halving. */
static uint32_t count_filled(struct dli_ring *ring)
{
	uint64_t oldest = atomic_load_explicit(&ring->oldest, memory_order_relaxed);
	uint32_t head = (uint32_t)oldest, low = 1, high = ring->entries;

	/* The first by itself: most rings are empty, and then one cell is enough. */
	if (oldest == UINT64_MAX || cell_load(cell_at(ring, head)) != CELL_DIRTY)
		return 0;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (cell_load(cell_at(ring, head + middle)) == CELL_DIRTY)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* A kernel keeps 64 entries free, and 512 more where it has PML: it takes no ring below 1024 then. */
static uint32_t usable_entries(const struct dli_ring *ring)
{
	uint32_t kept = ring->entries < 1024 ? 64 : 576;

	return ring->entries > kept ? ring->entries - kept : ring->entries / 4;
}

struct dli_ring_pace dli_ring_pace(struct dli_ring *ring)
{
	struct dli_ring_pace pace = { .filled = count_filled(ring), .room = usable_entries(ring) };
	uint64_t seen = atomic_load_explicit(&ring->entries_seen, memory_order_relaxed);
	uint64_t entries = atomic_load_explicit(&ring->stats.entries, memory_order_relaxed);

	pace.since = (entries > seen ? entries - seen : 0) + pace.filled;
	return pace;
}
