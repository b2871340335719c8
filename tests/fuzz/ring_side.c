/* SPDX-License-Identifier: MIT */
/*
 * The kernel's side of the fuzzed rings: which pages are protected, and the batches of a reset, on
 * top of unit/fake_rings.c. It is not the model kernel (tests/model), which has locks and threads:
 * a fuzzer runs many inputs a second, in one thread, and must repeat each of them exactly.
 */
#include "ring_world.h"

#include <errno.h>

static void protect_batch(struct world *w)
{
	struct batch *b = &w->batch;
	uint64_t last = b->mask ? 63 - (uint64_t)__builtin_clzll(b->mask) : 0;

	/* Nothing of a batch that has a page outside the slot in it. */
	if (b->mask && !b->slot && b->page + last >= b->page && b->page + last < PAGES)
		for (uint64_t bit = 0; bit <= last; bit++)
			if (b->mask >> bit & 1)
				w->is_protected[b->page + bit] = true;
	b->mask = 0;
}

static bool joins_batch(struct batch *b, uint32_t slot, uint64_t page)
{
	uint64_t back = b->page - page;

	if (!b->mask || slot != b->slot)
		return false;
	if (page - b->page < 64)
		return true;
	if (back >= 64 || b->mask << back >> back != b->mask)
		return false;
	b->page = page;
	b->mask <<= back;
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
	struct fake_ring *side = &w->kernel.rings[vcpu];

	w->memory[page]++;
	if (!w->is_protected[page] && !w->emulated)
		return;
	trace("  vCPU %d: page %u at %u\n", vcpu, page, side->dirty_index);
	/* The library may just be reading what was scribbled there. */
	if (w->scribbled[vcpu] && side->cells[side->dirty_index & (w->kernel.entries - 1)].flags)
		w->excused[page] = true;
	fake_ring_push(&w->kernel, side, 0, page);
	w->filled |= side->dirty_index - side->reset_index >= w->kernel.entries;
	w->is_protected[page] = false;
}

void side_stores(struct world *w, int vcpu, uint32_t page, uint32_t count, bool checked)
{
	struct fake_ring *side = &w->kernel.rings[vcpu];

	while (count-- && w->in_guest[vcpu] && !w->stopped) {
		store(w, vcpu, page++ % PAGES);
		if (checked || !count)
			w->in_guest[vcpu] = fake_ring_enter(&w->kernel, side);
	}
}

/* Whether the kernel has filled this cell and not yet taken it back. */
static bool is_in_use(const struct world *w, const struct fake_ring *side, uint32_t cell)
{
	uint32_t used = side->dirty_index - side->reset_index;

	return used > w->kernel.entries ||
	       ((cell - side->reset_index) & (w->kernel.entries - 1)) < used;
}

static uint32_t scribbled_flags(struct input *in)
{
	uint8_t byte = input_u8(in);

	return byte < 248 ? byte % 8 : (uint32_t)input_wild(in);
}

void side_scribble(struct world *w, int vcpu)
{
	struct fake_ring *side = &w->kernel.rings[vcpu];
	uint32_t at = input_u8(&w->in) % w->kernel.entries;
	struct kvm_dirty_gfn *cell = &side->cells[at];
	uint8_t what = input_u8(&w->in);

	uint32_t flags = what & 1 ? scribbled_flags(&w->in) : cell->flags;

	/* Flags that no side knows, and that the kernel does not take for a release, are seen. */
	if (is_in_use(w, side, at) && cell->offset < PAGES && !cell->slot &&
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
		side->run->exit_reason = what & 16 ? KVM_EXIT_DIRTY_RING_FULL : input_u8(&w->in);
}

void side_meanwhile(struct world *w)
{
	uint8_t what = input_u8(&w->in);
	int vcpu = what & 1;

	if (what < 160)
		return;
	if (what >= 250)
		side_scribble(w, vcpu);
	else
		side_stores(w, vcpu, input_u8(&w->in), (what >> 2 & 15) + 1, !(what & 2));
}

/* The vCPU whose drain this is stands still: its run is over. */
static void on_reset(struct fake_rings *rings, bool ends)
{
	side_meanwhile(rings->opaque);
}

static int any_fd_ioctl(struct fake_os *fake, int fd, unsigned long request, void *arg)
{
	return world.kernel_ioctl(fake, fd == FAKE_DUPLICATE_FD ? FAKE_VM_FD : fd, request, arg);
}

void side_misbehave(struct world *w)
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
	trace("%u resets fail, %u end after %u\n", w->kernel.reset_errors, w->kernel.short_resets,
	      w->kernel.short_entries);
}

void side_use_before(struct world *w, struct fake_ring *side)
{
	uint32_t pushed = input_u8(&w->in) % (w->kernel.soft_limit + 1);
	uint32_t released = input_u8(&w->in) % (pushed + 1);

	for (uint32_t i = 0; i < pushed; i++)
		fake_ring_push(&w->kernel, side, 0, i % PAGES);
	for (uint32_t i = 0; i < released; i++)
		side->cells[(side->reset_index + i) & (w->kernel.entries - 1)].flags = CELL_RESET;
	w->restarted = true;
}

void side_init(struct world *w, uint8_t shape, uint8_t habits)
{
	uint32_t entries = 16u << shape % 3;
	uint32_t reserved = 2 + (uint32_t)(shape >> 2) % (entries / 2 - 2);

	/* Indices that are about to wrap, too. */
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
