/* SPDX-License-Identifier: MIT */
/* One vCPU's ring: map, copy, release, verify, publish. */

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
	/*
	 * KVM maps any offset and refuses at the first touch. A vCPU of a VM whose rings are
	 * smaller, or of one without rings, is no vCPU of this VM. Before Linux 5.14 this advice is
	 * -EINVAL.
	 */
	r = dli_os_advise(ring->os, ring->cells, ring->cells_bytes, MADV_POPULATE_READ);
	if (r == -EFAULT)
		return -EBADF;
	/* A child that kept them would keep the VM from being destroyed. */
	(void)dli_os_advise(ring->os, ring->run, ring->run_bytes, MADV_DONTFORK);
	(void)dli_os_advise(ring->os, ring->cells, ring->cells_bytes, MADV_DONTFORK);
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

/* For dli_ring_pace(). The cells of a ring that is out of sync say nothing. */
static void publish_oldest(struct dli_ring *ring)
{
	atomic_store_explicit(&ring->oldest, ring->state == RING_IN_SYNC ? ring->head : UINT64_MAX,
			      memory_order_relaxed);
}

/*
 * A ring that was never used is all zero, as the kernel allocated it. A used one does not show
 * where the kernel continues until the kernel has filled a cell.
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

void dli_ring_set_cookie(struct dli_ring *ring, uint64_t cookie)
{
	atomic_store_explicit(&ring->cookie, cookie, memory_order_relaxed);
}

uint64_t dli_ring_cookie(const struct dli_ring *ring)
{
	return atomic_load_explicit(&ring->cookie, memory_order_relaxed);
}

/*
 * Sets a flag bit that neither side uses through one mapping and looks for it through the other. By
 * compare-and-exchange, so that it overwrites nothing that the kernel writes.
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
 * Publishes the head for lockless readers, or hides it (NULL) while the cell alone does not tell.
 * Pairs with ring_is_quiet(): the entries that were in the ring before are published by then.
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
 * Copies dirty cells up to end. Consecutive cells of one word of pages become one dirty word at
 * *to, which moves on. Returns the first cell that is not dirty, or end.
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

/* Copies the dirty cells from head on, at most room of them. Returns how many. */
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
 * True if the kernel has lapped the ring and filled cells that were released just now, so that the
 * release destroyed its entries. It fills in order: before them it filled the cell in front, which
 * nobody has released since it was last clean.
 */
static bool lapped(struct dli_ring *ring)
{
	ring_barrier(ring);
	return cell_load(cell_at(ring, ring->before_released)) == CELL_DIRTY;
}

/*
 * True if the kernel has lapped the ring before the release: the first copied cell holds another
 * page now. After the release that cell is the kernel's. lapped() misses the case in which a reset
 * is at the cell in front at that moment; this misses the same page again. Hence both.
 */
static bool head_overwritten(struct dli_ring *ring)
{
	struct kvm_dirty_gfn now = cell_read(cell_at(ring, ring->head));

	return now.slot != ring->first_copied.slot || now.offset != ring->first_copied.offset;
}

/* True if the page of a cell is in the word, or in the next one, which *word then points to. */
static bool is_copied(const struct kvm_dirty_gfn *cell, const struct dli_dirty_word **word,
		      const struct dli_dirty_word *end)
{
	for (int tries = 0; tries < 2 && *word != end; tries++) {
		if (cell->slot == (*word)->slot && cell->offset / 64 == (*word)->word &&
		    (*word)->bits >> cell->offset % 64 & 1)
			return true;
		++*word;
	}
	return false;
}

/*
 * True if a released cell holds a page that was not copied. After a resync the run of dirty cells
 * may hold entries of two laps, if the kernel lapped the ring during the wipe. The kernel continues
 * somewhere inside, so that neither head_overwritten() nor lapped() notices. The repair covers the
 * older entries, but not those that overwrite them. Called after lapped(), for its barrier: a page
 * that is stored later makes its cell dirty again after the release, which dli_ring_verify() finds.
 */
static bool copy_overwritten(struct dli_ring *ring)
{
	const struct dli_dirty_word *word = ring->words + ring->released_words;
	const struct dli_dirty_word *end = word + ring->copied_words;

	if (!ring->doubtful_entries)
		return false;
	ring->doubtful_entries -=
		ring->copied < ring->doubtful_entries ? ring->copied : ring->doubtful_entries;
	for (uint32_t i = 0; i < ring->copied; i++) {
		const struct kvm_dirty_gfn cell = cell_read(cell_at(ring, ring->head + i));

		if (!is_copied(&cell, &word, end))
			return true;
	}
	return false;
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

	if (ring->copied <= (size_t)(turn - first)) {
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
	if (ring->copied == ring->entries || overwritten || lapped(ring) ||
	    copy_overwritten(ring)) {
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
	 * Cells are taken back in order, so the last one tells for all; unless the kernel's index
	 * was out of sync and began after the first one.
	 */
	last = cell_load(cell_at(ring, ring->head - 1));
	if (last == CELL_RESET && !retried) {
		/* Where it stopped, the kernel may have dropped a batch, unprotected. */
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
	/* Resets for other rings may have taken its cells, and one been cut short unseen. */
	if (ring->reset_has_failed)
		ring_request_repair(ring);
	ring->reset_has_failed = false;
	/*
	 * The kernel may have lapped the ring just now, during the reset. A healthy kernel can fill
	 * that many cells in the meantime, so this counts only if overflows are known to happen. A
	 * repair alone is not enough: the reset may have cleaned a cell that the kernel had just
	 * filled, and that cell would hide from the next drain that the kernel laps on.
	 */
	if (cell_load(cell_at(ring, ring->before_released)) == CELL_DIRTY &&
	    atomic_load_explicit(&reset->overflowed, memory_order_relaxed))
		dli_ring_desync(ring, reset);
	return true;
}

bool dli_ring_reset_failed(struct dli_ring *ring)
{
	if (ring->reset_pending)
		ring_request_repair(ring);
	ring->reset_has_failed |= ring->reset_pending;
	return ring->reset_pending;
}

/*
 * The ring was taken to be in sync, and is not. It is wiped, so that the next harvest does not find
 * the same cells again: harvests of a stopped guest are repeated until nothing is pending.
 */
static void give_up(struct dli_ring *ring, struct dli_reset *reset)
{
	if (ring->state == RING_IN_SYNC && !ring->reset_pending)
		dli_ring_desync(ring, reset);
	else
		ring_request_repair(ring);
}

void dli_ring_check_empty(struct dli_ring *ring, struct dli_reset *reset)
{
	for (uint32_t i = 0; i < ring->entries; i++) {
		uint32_t flags = cell_load(cell_at(ring, i));

		/* Flags that no kernel writes may stand where an entry was. */
		if (flags != CELL_CLEAN && flags != CELL_RESET) {
			give_up(ring, reset);
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

bool dli_ring_reset_pending(const struct dli_ring *ring)
{
	return ring->reset_pending;
}

uint32_t dli_ring_released(const struct dli_ring *ring)
{
	return ring->released_entries;
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
