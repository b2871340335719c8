/* SPDX-License-Identifier: MIT */
#include "pass_guest.h"

struct guest guest;

struct dl_slot pass_slot(void)
{
	return (struct dl_slot){ .size = sizeof(struct dl_slot),
				 .slot = PASS_SLOT,
				 .gpa = PASS_GPA,
				 .bytes = PAGES * UINT64_C(4096),
				 .hva = PASS_HVA,
				 .cookie = 0x1234567890abcdef };
}

void pass_begin(uint32_t mode, const struct dl_cursor_options *options)
{
	const struct guest_config config = { .model = { .no_memory = true },
					     .options = { .mode = mode } };
	const struct dl_slot slot = pass_slot();

	guest_open(&guest, &config);

	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	assert_int_equal(dl_cursor_new(guest.log, options, &guest.cursor), 0);
}

static const struct dl_cursor_options clean = { .size = sizeof(clean), .flags = DL_CURSOR_CLEAN };

int setup_ring(void **state)
{
	pass_begin(DL_MODE_RING, &clean);
	return 0;
}

int setup_bitmap(void **state)
{
	pass_begin(DL_MODE_BITMAP, &clean);
	return 0;
}

int teardown(void **state)
{
	guest_close(&guest);
	return 0;
}

void mark(uint64_t page, uint64_t pages)
{
	assert_int_equal(dl_mark_slot(guest.log, PASS_SLOT, page * 4096, pages * 4096), 0);
}

void begin_pass(void)
{
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
}

void end_pass(void)
{
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
}

int read_extents(struct dl_extent *extents, uint32_t max_extents)
{
	return dl_cursor_read(guest.cursor, extents, max_extents);
}

void expect_extent(const struct dl_extent *extent, uint64_t page, uint64_t pages)
{
	assert_int_equal(extent->offset_bytes, page * 4096);
	assert_int_equal(extent->bytes, pages * 4096);
	assert_int_equal(extent->gpa, PASS_GPA + page * 4096);
	assert_int_equal(extent->hva, PASS_HVA + page * 4096);
	assert_int_equal(extent->cookie, pass_slot().cookie);
	assert_int_equal(extent->slot, PASS_SLOT);
	assert_int_equal(extent->reserved, 0);
}

void expect_pass_of(const struct wanted_extent *wanted, int n)
{
	struct dl_extent extent;

	begin_pass();
	for (int i = 0; i < n; i++) {
		assert_int_equal(read_extents(&extent, 1), 1);
		expect_extent(&extent, wanted[i].page, wanted[i].pages);
		assert_int_equal(extent.flags, wanted[i].flags);
		assert_int_equal(dl_cursor_ack(guest.cursor, &extent, 1), 0);
	}
	assert_int_equal(read_extents(&extent, 1), 0);
	end_pass();
}

uint64_t pending_pages(void)
{
	return guest_pending(&guest) / 4096;
}

uint64_t unacked_pages(void)
{
	return guest_unacked(&guest) / 4096;
}
