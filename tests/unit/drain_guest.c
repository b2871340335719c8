/* SPDX-License-Identifier: MIT */
#include "drain_guest.h"
#include "ring/ring_private.h"

#include <pthread.h>
#include <sched.h>

struct guest guest;
void (*before_reset)(void), (*after_reset)(void);
int reset_error;

static bool intercept(struct guest *g, int fd, unsigned long request, void *arg, int *result)
{
	void (*hook)(void) = before_reset;

	if (request != KVM_RESET_DIRTY_RINGS)
		return false;
	before_reset = NULL;
	if (hook)
		hook();
	if (after_reset) {
		const struct dl_os *os = model_os(g->model);

		*result = os->ioctl(os->opaque, fd, request, arg);
		after_reset();
		after_reset = NULL;
		return true;
	}
	*result = reset_error;
	reset_error = 0;
	return *result != 0;
}

int setup(void **state)
{
	const struct guest_config config = {
		.options = { .mode = DL_MODE_RING, .ring_entries = ENTRIES },
		.intercept = intercept,
	};

	before_reset = after_reset = NULL;
	reset_error = 0;
	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES * GUEST_VCPUS);
	for (int i = 0; i < GUEST_VCPUS; i++)
		guest_vcpu(&guest, true);
	guest_join(&guest, DL_CURSOR_CLEAN);
	return 0;
}

int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

struct dli_reset *reset(void)
{
	return &guest.log->reset;
}

struct dli_ring *ring_of(int vcpu)
{
	return guest.vcpus[vcpu].handle->ring;
}

void write_pages(int vcpu, uint64_t pages)
{
	for (uint64_t page = 0; page < pages; page++)
		assert_int_equal(
			guest_write(&guest, &guest.vcpus[vcpu], 0, (uint64_t)vcpu * PAGES + page),
			0);
}

uint64_t pending_pages(void)
{
	return guest_pending(&guest) / guest.page_bytes;
}

void harvest(void)
{
	assert_int_equal(guest_harvest(&guest, 0), 0);
}

void wait_for_requests(unsigned int requests)
{
	for (;;) {
		unsigned int n = 0;

		pthread_mutex_lock(&reset()->lock);
		for (struct dli_reset_request *r = reset()->queue; r; r = r->next)
			n++;
		pthread_mutex_unlock(&reset()->lock);
		if (n == requests)
			return;
		sched_yield();
	}
}

void desync_ring(int vcpu)
{
	struct dli_ring *ring = ring_of(vcpu);

	dli_ring_lock(ring);
	ring->state = RING_DESYNCED;
	dli_ring_unlock(ring);
}
