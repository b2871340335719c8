/* SPDX-License-Identifier: MIT */
/*
 * The kernel's side of the fuzzed rings: protected pages and the batches of a reset, on top of
 * unit/fake_rings.c. The model kernel (tests/model) has locks and threads, but a fuzzer runs many
 * inputs a second, in one thread, and must be able to repeat each one exactly.
 */
#include "ring_world.h"

#include <errno.h>

static void protect_batch(struct world *w)
{
	struct batch *batch = &w->batch;
	uint64_t last = batch->mask ? 63 - (uint64_t)__builtin_clzll(batch->mask) : 0;

	/* A batch with a page outside the slot protects nothing. */
	if (batch->mask && !batch->slot && batch->page + last >= batch->page &&
	    batch->page + last < PAGES)
		for (uint64_t bit = 0; bit <= last; bit++)
			if (batch->mask >> bit & 1)
				w->is_protected[batch->page + bit] = true;
	batch->mask = 0;
}

static bool joins_batch(struct batch *batch, uint32_t slot, uint64_t page)
{
	uint64_t back = batch->page - page;

	if (!batch->mask || slot != batch->slot)
		return false;
	if (page - batch->page < 64)
		return true;
	if (back >= 64 || batch->mask << back >> back != batch->mask)
		return false;
	batch->page = page;
	batch->mask <<= back;
	return true;
}

static void on_consumed(struct fake_rings *rings, uint32_t slot, uint64_t offset)
{
	struct world *w = rings->opaque;

	if (!joins_batch(&w->batch, slot, offset)) {
		protect_batch(w);
		w->batch = (struct batch){ .slot = slot, .page = offset };
	}
	w->batch.mask |= UINT64_C(1) << (offset - w->batch.page);
}

static void on_protect(struct fake_rings *rings, bool ends_early)
{
	struct world *w = rings->opaque;

	trace("  reset: up to %u and %u%s\n", rings->rings[0].reset_index,
	      rings->rings[1].reset_index, ends_early ? ", ends early" : "");
	if (ends_early)
		w->batch.mask = 0;
	protect_batch(w);
}

static void store(struct world *w, int vcpu, uint32_t page)
{
	struct fake_ring *kernel_ring = &w->kernel.rings[vcpu];

	w->memory[page]++;
	if (!w->is_protected[page] && !w->emulated)
		return;
	trace("  vCPU %d: page %u at %u\n", vcpu, page, kernel_ring->dirty_index);
	/* The library may be reading the scribbled cell right now, and release the new entry. */
	if (w->scribbled[vcpu] &&
	    kernel_ring->cells[kernel_ring->dirty_index & (w->kernel.entries - 1)].flags)
		w->excused[page] = true;
	fake_ring_push(&w->kernel, kernel_ring, 0, page);
	w->filled |= kernel_ring->dirty_index - kernel_ring->reset_index >= w->kernel.entries;
	w->is_protected[page] = false;
}

void kernel_stores(struct world *w, int vcpu, uint32_t page, uint32_t count, bool exit_at_full)
{
	struct fake_ring *kernel_ring = &w->kernel.rings[vcpu];

	while (count-- && w->in_guest[vcpu] && !w->stopped) {
		store(w, vcpu, page++ % PAGES);
		if (exit_at_full || !count)
			w->in_guest[vcpu] = fake_ring_enter(&w->kernel, kernel_ring);
	}
}

/* True if the kernel has filled this cell and not reset it yet. */
static bool is_in_use(const struct world *w, const struct fake_ring *kernel_ring, uint32_t cell)
{
	uint32_t used = kernel_ring->dirty_index - kernel_ring->reset_index;

	return used > w->kernel.entries ||
	       ((cell - kernel_ring->reset_index) & (w->kernel.entries - 1)) < used;
}

static uint32_t scribbled_flags(struct input *in)
{
	uint8_t byte = input_u8(in);

	return byte < 248 ? byte % 8 : (uint32_t)input_wild(in);
}

void kernel_scribble(struct world *w, int vcpu)
{
	struct fake_ring *kernel_ring = &w->kernel.rings[vcpu];
	uint32_t at = input_u8(&w->in) % w->kernel.entries;
	struct kvm_dirty_gfn *cell = &kernel_ring->cells[at];
	uint8_t what = input_u8(&w->in);

	uint32_t flags = what & 1 ? scribbled_flags(&w->in) : cell->flags;

	/* The library notices unknown flags, unless the kernel reads them as a release. */
	if (is_in_use(w, kernel_ring, at) && cell->offset < PAGES && !cell->slot &&
	    (!(flags & ~(uint32_t)3) || flags & CELL_RESET))
		w->excused[cell->offset] = true;
	w->scribbled[vcpu] = true;
	w->tainted |= w->inside;
	if (what & 1)
		__atomic_store_n(&cell->flags, flags, __ATOMIC_RELEASE);
	if (what & 2)
		cell->slot = (uint32_t)input_wild(&w->in);
	if (what & 4)
		cell->offset = input_wild(&w->in);
	trace("  scribbled on cell %u of ring %d: %#x %u %#llx\n", at, vcpu, cell->flags,
	      cell->slot, (unsigned long long)cell->offset);
	if (what & 8)
		kernel_ring->run->exit_reason =
			what & 16 ? KVM_EXIT_DIRTY_RING_FULL : input_u8(&w->in);
}

void kernel_interleave(struct world *w)
{
	uint8_t what = input_u8(&w->in);
	int vcpu = what & 1;

	if (what < 160)
		return;
	if (what >= 250)
		kernel_scribble(w, vcpu);
	else
		kernel_stores(w, vcpu, input_u8(&w->in), (what >> 2 & 15) + 1, !(what & 2));
}

/* A vCPU that drains is outside the guest, so it stores nothing. */
static void on_reset(struct fake_rings *rings, bool ends)
{
	kernel_interleave(rings->opaque);
}

static int any_fd_ioctl(struct fake_os *fake, int fd, unsigned long request, void *arg)
{
	return world.kernel_ioctl(fake, fd == FAKE_DUPLICATE_FD ? FAKE_VM_FD : fd, request, arg);
}

void kernel_misbehave(struct world *w)
{
	uint8_t what = input_u8(&w->in);

	w->misbehaved = true;
	if (what & 1) {
		w->kernel.reset_errors = 1 + (what >> 1) % 3;
		w->kernel.reset_error = -EIO;
	} else {
		w->kernel.short_resets = 1 + (what >> 1) % 3;
		w->kernel.short_entries = what >> 3;
	}
	trace("%u resets fail, %u end after %u cells\n", w->kernel.reset_errors,
	      w->kernel.short_resets, w->kernel.short_entries);
}

void kernel_use_ring(struct world *w, struct fake_ring *kernel_ring)
{
	uint32_t pushed = input_u8(&w->in) % (w->kernel.soft_limit + 1);
	uint32_t released = input_u8(&w->in) % (pushed + 1);

	for (uint32_t i = 0; i < pushed; i++)
		fake_ring_push(&w->kernel, kernel_ring, 0, i % PAGES);
	for (uint32_t i = 0; i < released; i++)
		kernel_ring->cells[(kernel_ring->reset_index + i) & (w->kernel.entries - 1)].flags =
			CELL_RESET;
	w->restarted = true;
}

void kernel_init(struct world *w, uint8_t shape, uint8_t habits)
{
	uint32_t entries = 16u << shape % 3;
	uint32_t reserved = 2 + (uint32_t)(shape >> 2) % (entries / 2 - 2);

	/* Some indices begin just below 2^32. */
	fake_rings_init(&w->kernel, entries, entries - reserved, 0u - entries * (habits % 4));
	w->emulated = habits & 4;
	w->kernel.no_request = habits & 8;
	w->kernel.on_consumed = on_consumed;
	w->kernel.on_protect = on_protect;
	w->kernel.on_reset = on_reset;
	w->kernel.opaque = w;
	w->kernel_ioctl = w->kernel.fake.ioctl;
	w->kernel.fake.ioctl = any_fd_ioctl;
}
