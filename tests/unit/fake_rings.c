/* SPDX-License-Identifier: MIT */
#include "fake_rings.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t load_flags(struct kvm_dirty_gfn *cell)
{
	return __atomic_load_n(&cell->flags, __ATOMIC_ACQUIRE);
}

static struct kvm_dirty_gfn *cell_at(struct fake_rings *rings, struct fake_ring *ring,
				     uint32_t index)
{
	return &ring->cells[index & (rings->entries - 1)];
}

/* True if the reset ends early here. */
static bool reset_cells(struct fake_rings *rings, struct fake_ring *ring, bool is_short,
			uint32_t *consumed)
{
	for (;;) {
		struct kvm_dirty_gfn *cell = cell_at(rings, ring, ring->reset_index);

		if (is_short && *consumed == rings->short_entries)
			return true;
		if (!(load_flags(cell) & CELL_RESET))
			return false;
		if (ring->reset_index == ring->dirty_index)
			rings->overshot = true;
		ring->reset_index++;
		++*consumed;
		if (rings->on_consumed)
			rings->on_consumed(rings, cell->slot, cell->offset);
		__atomic_store_n(&cell->flags, 0, __ATOMIC_RELEASE);
	}
}

/* Released cells that a complete reset would consume. */
static uint32_t count_released(struct fake_rings *rings)
{
	uint32_t n = 0;

	for (int i = 0; i < FAKE_RINGS; i++) {
		struct fake_ring *ring = &rings->rings[i];

		for (uint32_t at = 0; at < rings->entries; at++, n++)
			if (!(load_flags(cell_at(rings, ring, ring->reset_index + at)) &
			      CELL_RESET))
				break;
	}
	return n;
}

static int reset_rings(struct fake_rings *rings)
{
	uint32_t consumed = 0;
	bool is_short, ended = false;

	rings->resets++;
	if (rings->reset_errors) {
		rings->reset_errors--;
		return rings->reset_error;
	}
	is_short = rings->short_resets && count_released(rings) > rings->short_entries;
	if (rings->short_resets)
		rings->short_resets--;
	if (rings->on_reset)
		rings->on_reset(rings, false);
	for (int i = 0; i < FAKE_RINGS && !ended; i++) {
		ended = reset_cells(rings, &rings->rings[i], is_short, &consumed);
		if (rings->on_protect)
			rings->on_protect(rings, ended);
	}
	if (rings->on_reset)
		rings->on_reset(rings, true);
	return (int)consumed;
}

static int rings_ioctl(struct fake_os *fake, int fd, unsigned long request, void *arg)
{
	struct fake_rings *rings = fake->opaque;

	if (fd != FAKE_VM_FD || request != KVM_RESET_DIRTY_RINGS)
		return -ENOTTY;
	return reset_rings(rings);
}

static int rings_map(struct fake_os *fake, int fd, uint64_t offset_bytes, size_t bytes, void **addr)
{
	struct fake_rings *rings = fake->opaque;
	struct fake_ring *ring;

	if (fd < FAKE_VCPU_FD || fd >= FAKE_VCPU_FD + FAKE_RINGS)
		return -EBADF;
	ring = &rings->rings[fd - FAKE_VCPU_FD];
	if (!offset_bytes && bytes == fake->os.page_bytes)
		*addr = ring->run;
	else if (offset_bytes == 64 * (uint64_t)fake->os.page_bytes &&
		 bytes == rings->entries * sizeof(struct kvm_dirty_gfn))
		*addr = ring->cells;
	else
		return -EINVAL;
	return 0;
}

static bool rings_unmap(struct fake_os *fake, void *addr)
{
	struct fake_rings *rings = fake->opaque;

	for (int i = 0; i < FAKE_RINGS; i++)
		if (addr == rings->rings[i].cells || addr == rings->rings[i].run)
			return true;
	return false;
}

void fake_rings_init(struct fake_rings *rings, uint32_t entries, uint32_t soft_limit,
		     uint32_t first_index)
{
	memset(rings, 0, sizeof(*rings));
	fake_os_init(&rings->fake);
	rings->fake.opaque = rings;
	rings->fake.ioctl = rings_ioctl;
	rings->fake.map = rings_map;
	rings->fake.unmap = rings_unmap;
	rings->entries = entries;
	rings->soft_limit = soft_limit;
	for (int i = 0; i < FAKE_RINGS; i++) {
		struct fake_ring *ring = &rings->rings[i];

		ring->cells = calloc(entries, sizeof(*ring->cells));
		ring->run = calloc(1, sizeof(*ring->run));
		if (!ring->cells || !ring->run)
			abort();
		ring->dirty_index = first_index;
		ring->reset_index = first_index;
	}
}

void fake_rings_free(struct fake_rings *rings)
{
	for (int i = 0; i < FAKE_RINGS; i++) {
		free(rings->rings[i].cells);
		free(rings->rings[i].run);
	}
}

static bool is_full(const struct fake_rings *rings, const struct fake_ring *ring)
{
	return ring->dirty_index - ring->reset_index >= rings->soft_limit;
}

void fake_ring_push(struct fake_rings *rings, struct fake_ring *ring, uint32_t slot,
		    uint64_t offset)
{
	struct kvm_dirty_gfn *cell = cell_at(rings, ring, ring->dirty_index);

	if (load_flags(cell))
		ring->overwritten++;
	cell->slot = slot;
	cell->offset = offset;
	__atomic_store_n(&cell->flags, CELL_DIRTY, __ATOMIC_RELEASE);
	ring->dirty_index++;
	ring->pushed++;
	if (is_full(rings, ring))
		ring->request = true;
}

bool fake_ring_enter(struct fake_rings *rings, struct fake_ring *ring)
{
	bool checked = rings->no_request || ring->request;

	if (checked && is_full(rings, ring)) {
		__atomic_store_n(&ring->run->exit_reason, KVM_EXIT_DIRTY_RING_FULL,
				 __ATOMIC_RELAXED);
		return false;
	}
	ring->request = false;
	__atomic_store_n(&ring->run->exit_reason, KVM_EXIT_UNKNOWN, __ATOMIC_RELAXED);
	return true;
}
