/* SPDX-License-Identifier: MIT */
#include "rules_guest.h"

#include <string.h>

struct guest guest;
struct guest_vcpu *vcpu;

enum { SLOTS = 16, CURSORS = 8 };

static struct dl_slot slots[SLOTS];
static unsigned int n_slots;
static struct dl_cursor *cursors[CURSORS];

static int begin(uint32_t mode, uint32_t has, bool no_memory)
{
	const struct guest_config config = {
		.model = { .has = has, .no_memory = no_memory },
		.options = { .mode = mode, .ring_entries = 1024 },
	};

	n_slots = 0;
	memset(cursors, 0, sizeof(cursors));
	guest_open(&guest, &config);
	vcpu = guest_vcpu(&guest, true);
	return 0;
}

int setup_ring(void **state)
{
	return begin(DL_MODE_RING, 0, false);
}

int setup_backup(void **state)
{
	return begin(DL_MODE_RING, MODEL_HAS_RING_ACQ_REL | MODEL_HAS_BACKUP, false);
}

int setup_bitmap(void **state)
{
	return begin(DL_MODE_BITMAP, 0, false);
}

int setup_no_manual(void **state)
{
	return begin(DL_MODE_BITMAP, MODEL_HAS_NOTHING | MODEL_HAS_WATCH, false);
}

int setup_oldest(void **state)
{
	return begin(DL_MODE_BITMAP, MODEL_HAS_NOTHING, false);
}

int setup_sparse(void **state)
{
	return begin(DL_MODE_BITMAP, 0, true);
}

void leave(struct dl_cursor *cursor)
{
	for (int i = 0; i < CURSORS; i++)
		if (cursors[i] == cursor)
			cursors[i] = NULL;
	dl_cursor_free(cursor);
}

int teardown(void **state)
{
	for (int i = 0; i < CURSORS; i++)
		dl_cursor_free(cursors[i]);
	guest_close(&guest);
	return 0;
}

/* The record of a slot; a new one for a number that is not known. */
static struct dl_slot *record_of(uint32_t number)
{
	for (unsigned int i = 0; i < n_slots; i++)
		if (slots[i].slot == number)
			return &slots[i];
	assert_true(n_slots < SLOTS);
	slots[n_slots].slot = number;
	return &slots[n_slots++];
}

struct dl_slot slot_of(uint32_t number)
{
	return *record_of(number);
}

void set_alias(uint32_t number, uint64_t gpa_page, const struct guest_block *block,
	       uint64_t first_page, uint64_t pages, uint32_t flags)
{
	struct dl_slot *slot = record_of(number);

	*slot = guest_slot(&guest, number, gpa_page, block, first_page, pages);
	slot->flags = flags;
	assert_int_equal(dl_slot_set(guest.log, slot), 0);
}

struct guest_block *set_slot(uint32_t number, uint64_t gpa_page, uint64_t pages, uint32_t flags)
{
	struct guest_block *block = guest_memory(&guest, pages);

	set_alias(number, gpa_page, block, 0, pages, flags);
	return block;
}

int reset_slot(uint32_t number, uint64_t gpa_page, uint32_t flags)
{
	struct dl_slot *slot = record_of(number), changed = *slot;
	int r;

	changed.gpa = gpa_page * guest.page_bytes;
	changed.flags = flags;
	r = dl_slot_set(guest.log, &changed);
	if (!r)
		*slot = changed;
	return r;
}

void remove_slot(uint32_t number)
{
	assert_int_equal(dl_slot_remove(guest.log, number, 0, NULL, 0), 0);
}

struct dl_cursor *join_slot(uint32_t flags, uint32_t slot)
{
	int i = 0;

	while (i < CURSORS && cursors[i])
		i++;
	assert_true(i < CURSORS);
	assert_int_equal(guest_new_cursor(&guest, flags, slot, &cursors[i]), 0);
	return cursors[i];
}

struct dl_cursor *join(uint32_t flags)
{
	return join_slot(flags, 0);
}

void write_page(uint64_t gpa_page)
{
	assert_int_equal(guest_write(&guest, vcpu, 0, gpa_page), 0);
}

void mark_page(uint32_t slot, uint64_t page)
{
	assert_int_equal(dl_mark_slot(guest.log, slot, page * guest.page_bytes, 1), 0);
}

void begin_pass(struct dl_cursor *cursor)
{
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
}

void end_pass(struct dl_cursor *cursor)
{
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
}

struct dl_extent expect_read(struct dl_cursor *cursor, uint64_t gpa_page, uint64_t pages)
{
	struct dl_extent extent;

	assert_int_equal(dl_cursor_read(cursor, &extent, 1), 1);
	assert_int_equal(extent.gpa, gpa_page * guest.page_bytes);
	assert_int_equal(extent.bytes, pages * guest.page_bytes);
	return extent;
}

void expect_no_more(struct dl_cursor *cursor)
{
	assert_int_equal(dl_cursor_read(cursor, &(struct dl_extent){ 0 }, 1), 0);
}

void expect_pass(struct dl_cursor *cursor, uint64_t gpa_page, int n)
{
	uint64_t pages[MOST_PAGES];

	assert_int_equal(guest_pass_of(&guest, cursor, 0, pages, MOST_PAGES), n);
	for (int i = 0; i < n; i++)
		assert_int_equal(pages[i], gpa_page + (uint64_t)i);
}

void expect_empty_pass(struct dl_cursor *cursor)
{
	expect_pass(cursor, 0, 0);
}

struct four_words take(struct dl_cursor *cursor, uint32_t slot, uint32_t flags)
{
	struct four_words taken = { .bytes = UINT64_MAX };

	taken.result = dl_cursor_take(cursor, slot, flags, taken.w, 4, &taken.bytes);
	return taken;
}

uint64_t pending_of(const struct dl_cursor *cursor)
{
	return guest_cursor_stats(cursor).pending_bytes / guest.page_bytes;
}

uint64_t unacked_of(const struct dl_cursor *cursor)
{
	return guest_cursor_stats(cursor).unacked_bytes / guest.page_bytes;
}

uint8_t state_of(uint32_t slot, uint64_t page)
{
	uint8_t state = 0;

	assert_int_equal(model_page_states(guest.model, guest.vm_fd, slot, page, 1, &state), 0);
	return state;
}

bool is_protected(uint32_t slot, uint64_t page)
{
	return (state_of(slot, page) & (MODEL_PAGE_PROTECTED | MODEL_PAGE_STALE_TLB)) ==
	       MODEL_PAGE_PROTECTED;
}

void fail_calls(unsigned long request, uint32_t skip, uint32_t times, int error)
{
	const struct model_fault fault = {
		.request = request, .skip = skip, .times = times, .error = error
	};

	assert_int_equal(model_fault(guest.model, &fault), 0);
}
