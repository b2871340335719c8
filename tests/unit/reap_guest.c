/* SPDX-License-Identifier: MIT */
#include "reap_guest.h"

struct guest guest;
struct guest_vcpu *vcpu;
int fd;

void open_guest(uint32_t mode, uint32_t entries, uint64_t idle_ns)
{
	const struct guest_config config = {
		.model = { .virtual_clock = true, .thread_clocks = true },
		.options = { .mode = mode, .ring_entries = entries, .idle_ns = idle_ns },
	};

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	vcpu = guest_vcpu(&guest, true);
	guest_vcpu(&guest, true);
}

void start(void)
{
	guest_join(&guest, DL_CURSOR_CLEAN);
}

void stop(void)
{
	guest_leave(&guest);
}

uint64_t harvest(void)
{
	uint64_t pending_bytes;

	assert_int_equal(dl_harvest(guest.cursor, 0, &pending_bytes), 0);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	return pending_bytes;
}

int setup(void **state)
{
	open_guest(DL_MODE_RING, ENTRIES, 0);
	start();
	fd = dl_log_fd(guest.log);
	assert_true(fd >= 0);
	return 0;
}

int teardown(void **state)
{
	stop();
	guest_close(&guest);
	return 0;
}

void write_pages(uint64_t first, uint64_t n)
{
	for (uint64_t page = first; page < first + n; page++)
		assert_int_equal(guest_write(&guest, vcpu, 0, page), 0);
}

/* Writes past a full ring. */
void overflow(void)
{
	for (uint64_t page = 0; page < ENTRIES + 40; page++)
		assert_int_equal(
			model_vcpu_write_unchecked(guest.model, vcpu->fd, 0, page * 4096, NULL, 8),
			0);
}

/* Nanoseconds until the descriptor is readable, or UINT64_MAX. */
uint64_t left(void)
{
	return model_timer_left(guest.model, fd);
}

/* The descriptor is set to what the call returns. */
uint64_t reap_with(uint32_t flags, int result)
{
	uint64_t again_ns = 1;

	assert_int_equal(dl_log_reap(guest.log, flags, &again_ns), result);
	assert_int_equal(left(), again_ns);
	return again_ns;
}

uint64_t reap(void)
{
	return reap_with(0, 0);
}

/* Waits until the descriptor is readable. */
uint64_t wait_and_reap(void)
{
	assert_true(left() != UINT64_MAX);
	model_advance(guest.model, left());
	assert_int_equal(left(), 0);
	return reap();
}

void back_off(unsigned int times)
{
	for (unsigned int i = 0; i < times; i++)
		wait_and_reap();
}

void fail_call(unsigned long request, uint32_t times, int error)
{
	const struct model_fault fault = { .request = request, .times = times, .error = error };

	assert_int_equal(model_fault(guest.model, &fault), 0);
}
