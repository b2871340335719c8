/* SPDX-License-Identifier: MIT */
#ifndef MODEL_FIXTURE_H
#define MODEL_FIXTURE_H

/* Common to the tests of the model: one VM, short forms of its calls, a raw ring consumer. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "model.h"

#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225
#endif

#define PAGE_BYTES   4096ULL
#define SLOT_PAGES   512ULL
#define SLOT_GPA     0x1000000ULL
#define RING_ENTRIES 256U
#define RING_BYTES   (RING_ENTRIES * 16U)
#define SOFT_LIMIT   (RING_ENTRIES - 64U)

struct world {
	struct model *model;
	const struct dl_os *os;
	int vm;
	char *memory; /* of slot 0 */
	uint64_t memory_bytes;
};

/* A ring as user space sees it. */
struct consumer {
	int vcpu;
	struct kvm_dirty_gfn *cells;
	uint32_t head, entries;
};

static inline int call(struct world *w, int fd, unsigned long request, void *arg)
{
	return w->os->ioctl(w->os->opaque, fd, request, arg);
}

static inline int enable(struct world *w, uint32_t cap, uint64_t value, uint32_t flags)
{
	struct kvm_enable_cap arg = { .cap = cap, .flags = flags, .args = { value } };

	return call(w, w->vm, KVM_ENABLE_CAP, &arg);
}

static inline int check(struct world *w, int fd, uintptr_t cap)
{
	return call(w, fd, KVM_CHECK_EXTENSION, (void *)cap);
}

static inline int region(struct world *w, uint32_t slot, uint32_t flags, uint64_t gpa,
			 uint64_t pages, void *hva)
{
	struct kvm_userspace_memory_region arg = { .slot = slot,
						   .flags = flags,
						   .guest_phys_addr = gpa,
						   .memory_size = pages * w->os->page_bytes,
						   .userspace_addr = (uintptr_t)hva };

	return call(w, w->vm, KVM_SET_USER_MEMORY_REGION, &arg);
}

/* Slot 0, SLOT_PAGES at SLOT_GPA. */
static inline int slot0(struct world *w, uint32_t flags)
{
	return region(w, 0, flags, SLOT_GPA, SLOT_PAGES, w->memory);
}

static inline int get_log(struct world *w, uint32_t slot, void *bitmap)
{
	struct kvm_dirty_log arg = { .slot = slot, .dirty_bitmap = bitmap };

	return call(w, w->vm, KVM_GET_DIRTY_LOG, &arg);
}

static inline int clear_log(struct world *w, uint32_t slot, uint64_t first, uint32_t pages,
			    void *bitmap)
{
	struct kvm_clear_dirty_log arg = {
		.slot = slot, .first_page = first, .num_pages = pages, .dirty_bitmap = bitmap
	};

	return call(w, w->vm, KVM_CLEAR_DIRTY_LOG, &arg);
}

static inline int reset(struct world *w)
{
	return call(w, w->vm, KVM_RESET_DIRTY_RINGS, NULL);
}

/* The guest writes the page's number to the page, in slot 0. */
static inline int touch(struct world *w, int vcpu, uint64_t page)
{
	uint64_t value = page;

	return model_vcpu_write(w->model, vcpu, 0, SLOT_GPA + page * w->os->page_bytes, &value,
				sizeof(value));
}

static inline int touch_unchecked(struct world *w, int vcpu, uint64_t page)
{
	return model_vcpu_write_unchecked(w->model, vcpu, 0, SLOT_GPA + page * w->os->page_bytes,
					  &page, sizeof(page));
}

static inline uint8_t state(struct world *w, uint32_t slot, uint64_t page)
{
	uint8_t value = 0;

	assert_int_equal(model_page_states(w->model, w->vm, slot, page, 1, &value), 0);
	return value;
}

static inline void world_open(struct world *w, const struct model_options *options)
{
	uint32_t page_bytes;

	memset(w, 0, sizeof(*w));
	w->model = model_new(options);
	assert_non_null(w->model);
	w->os = model_os(w->model);
	w->vm = model_vm_create(w->model);
	assert_true(w->vm >= 1 << 24);
	page_bytes = w->os->page_bytes;
	w->memory_bytes = SLOT_PAGES * page_bytes;
	assert_int_equal(w->os->mmap(w->os->opaque, -1, 0, w->memory_bytes, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, (void **)&w->memory),
			 0);
}

static inline void world_close(struct world *w)
{
	assert_int_equal(w->os->munmap(w->os->opaque, w->memory, w->memory_bytes), 0);
	model_free(w->model);
}

/* Opens a VM with a ring of RING_ENTRIES, with or without backup, and slot 0 logging. */
static inline void world_open_ring(struct world *w, const struct model_options *options,
				   bool backup)
{
	world_open(w, options);
	assert_int_equal(enable(w, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, RING_BYTES, 0), 0);
	if (backup)
		assert_int_equal(enable(w, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0, 0), 0);
	assert_int_equal(slot0(w, 0), 0);
	assert_int_equal(slot0(w, KVM_MEM_LOG_DIRTY_PAGES), 0);
}

static inline void consumer_open(struct world *w, struct consumer *c)
{
	memset(c, 0, sizeof(*c));
	c->vcpu = model_vcpu_create(w->model, w->vm);
	assert_true(c->vcpu >= 1 << 24);
	c->entries = RING_ENTRIES;
	assert_int_equal(w->os->mmap(w->os->opaque, c->vcpu, 64ULL * w->os->page_bytes, RING_BYTES,
				     PROT_READ | PROT_WRITE, MAP_SHARED, (void **)&c->cells),
			 0);
}

static inline void consumer_close(struct world *w, struct consumer *c)
{
	assert_int_equal(w->os->munmap(w->os->opaque, c->cells, RING_BYTES), 0);
}

/* A VM with a ring and no backup, and one vCPU whose ring is consumed. */
static inline void world_open_consumer(struct world *w, const struct model_options *options,
				       struct consumer *c)
{
	world_open_ring(w, options, false);
	consumer_open(w, c);
}

static inline void world_close_consumer(struct world *w, struct consumer *c)
{
	consumer_close(w, c);
	world_close(w);
}

/* Reads and releases one entry. Returns false if there is none. */
static inline bool consume(struct consumer *c, uint32_t *slot, uint64_t *page)
{
	struct kvm_dirty_gfn *cell = &c->cells[c->head & (c->entries - 1)];

	if (__atomic_load_n(&cell->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
		return false;
	*slot = cell->slot;
	*page = cell->offset;
	__atomic_store_n(&cell->flags, KVM_DIRTY_GFN_F_DIRTY | KVM_DIRTY_GFN_F_RESET,
			 __ATOMIC_RELEASE);
	c->head++;
	return true;
}

static inline uint32_t consume_all(struct consumer *c)
{
	uint32_t slot, count = 0;
	uint64_t page;

	while (consume(c, &slot, &page))
		count++;
	return count;
}

/* Counts events at one point. */
struct event_count {
	enum model_point point;
	unsigned int count;
};

static inline void count_event(void *opaque, const struct model_event *event)
{
	struct event_count *counter = opaque;

	if (event->point == counter->point)
		counter->count++;
}

#endif
