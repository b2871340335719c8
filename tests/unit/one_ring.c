/* SPDX-License-Identifier: MIT */
#include "one_ring.h"

#include "pages/publish.h"
#include "words_of.h"

#include <string.h>

struct fake_rings kernel;
struct fake_ring *kernel_ring;
struct dli_reset reset_lock;
struct dli_ring *ring;
struct published published;

enum { SLOT = 5 };

struct dli_publish_result dli_publish(struct dli_slots *slots, const struct dli_dirty_word *words,
				      uint32_t n)
{
	uint32_t before = published.n;

	if (published.override) {
		published.override(words, n);
		return (struct dli_publish_result){ 0 };
	}
	assert_true(n > 0);
	/* A ring has room for one word a cell, so no word may be empty. */
	for (uint32_t i = 0; i < n; i++)
		assert_true(words[i].bits != 0);
	FOR_EACH_PAGE(words, n, slot, page)
	{
		assert_true(published.n < MAX_PUBLISHED);
		published.offsets[published.n] = page;
		published.slots[published.n++] = slot;
	}
	n = published.n - before;
	published.calls++;
	published.resets_before = kernel.resets;
	return (struct dli_publish_result){ .new_pages = n - 1,
					    .stale = n > 2,
					    .outside = published.outside };
}

void open_ring(void)
{
	assert_int_equal(dli_ring_new(&kernel.fake.os, FAKE_VCPU_FD, ENTRIES, &reset_lock, &ring),
			 0);
}

int setup_unopened(void **state)
{
	memset(&published, 0, sizeof(published));
	fake_rings_init(&kernel, ENTRIES, SOFT_LIMIT, 0);
	kernel_ring = &kernel.rings[0];
	ring = NULL;
	memset(&reset_lock, 0, sizeof(reset_lock));
	return dli_reset_init(&reset_lock, &kernel.fake.os, FAKE_VM_FD);
}

int setup(void **state)
{
	assert_int_equal(setup_unopened(state), 0);
	open_ring();
	return 0;
}

int teardown(void **state)
{
	dli_ring_free(ring);
	dli_reset_fini(&reset_lock);
	assert_int_equal(kernel.fake.maps_live, 0);
	fake_rings_free(&kernel);
	return 0;
}

void push(uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		fake_ring_push(&kernel, kernel_ring, SLOT, kernel_ring->pushed);
}

int drain(void)
{
	return dli_drain_ring(ring, &reset_lock, NULL);
}

const struct dli_ring_stats *stats(void)
{
	return dli_ring_stats(ring);
}

void expect_published(uint64_t first, uint32_t n)
{
	assert_int_equal(published.n, n);
	for (uint32_t i = 0; i < n; i++) {
		assert_int_equal(published.offsets[i], first + i);
		assert_int_equal(published.slots[i], SLOT);
	}
	assert_false(kernel.overshot);
}
