/* SPDX-License-Identifier: MIT */
/* The slot table: lookup by id and by address, replacement as a whole, readers meanwhile. */
#include "cmocka_all.h"
#include "fake_os.h"
#include "random.h"
#include "pages/rcu.h"
#include "pages/slot_table.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES UINT64_C(4096)

static struct fake_os fake;
static struct dli_slots slots;

static int setup(void **state)
{
	fake_os_init(&fake);
	memset(&slots, 0, sizeof(slots));
	return dli_slots_init(&slots);
}

static int teardown(void **state)
{
	dli_slots_fini(&slots);
	return fake.maps_live ? -1 : 0;
}

#define slots_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static struct dli_slot *slot_new(uint32_t number, uint64_t pages)
{
	struct dli_slot *slot = NULL;

	assert_int_equal(dli_slot_new(PAGE_BYTES, number, pages * PAGE_BYTES, &slot), 0);
	return slot;
}

static void publish(struct dli_slot *without, struct dli_slot *with, uint64_t gpa)
{
	struct dli_slot_table *table = dli_slots_prepare(&slots, without, with, gpa);

	assert_non_null(table);
	dli_slot_table_free(dli_slots_publish(&slots, table));
}

/* The slot of the first range of the address space that ends after gpa. */
static struct dli_slot *slot_at(const struct dli_slot_table *table, uint32_t as_id, uint64_t gpa)
{
	struct dli_slot_walk walk = dli_slot_walk_from(table, as_id, gpa);
	const struct dli_index_entry *range = dli_slot_next_range(&walk);

	return range && range->key.as_id == as_id ? range->slot : NULL;
}

static struct dli_slot *add(uint32_t number, uint64_t first_page, uint64_t pages)
{
	struct dli_slot *slot = slot_new(number, pages);

	publish(NULL, slot, first_page * PAGE_BYTES);
	return slot;
}

static void a_slot_begins_with_no_view_and_no_pages(void **state)
{
	struct dli_slot *slot = slot_new(3 << 16 | 7, 100);

	assert_int_equal(slot->slot, 3 << 16 | 7);
	assert_int_equal(slot->pages, 100);
	assert_int_equal(slot->bytes, 100 * PAGE_BYTES);
	assert_null(dli_slot_target(slot));
	assert_null(slot->views);
	assert_int_equal(fake.maps_live, 0);
	dli_slot_free(slot);
	dli_slot_free(NULL);
}

/* The fresh set, what is owed, and the aliases. */
static void a_slot_is_freed_with_what_it_has(void **state)
{
	struct dli_slot *slot = slot_new(7, 100);

	assert_int_equal(dli_page_set_new(&fake.os, 100, &slot->fresh), 0);
	assert_int_equal(dli_owed_init(&slot->owed, &fake.os, 100), 0);
	slot->aliases = malloc(64);
	assert_int_equal(fake.maps_live, 2);
	dli_slot_free(slot);
	assert_int_equal(fake.maps_live, 0);
}

static void an_empty_table_finds_nothing(void **state)
{
	const struct dli_slot_table *table = dli_slots_table(&slots);

	assert_int_equal(table->n, 0);
	assert_null(dli_slot_find(table, 0));
	assert_null(dli_slot_find(table, UINT32_MAX));
	assert_null(slot_at(table, 0, 0));
	assert_false(dli_slot_overlaps(table, NULL, 0, 0, PAGE_BYTES));
	assert_false(dli_slot_hva_overlaps(table, NULL, 0, UINT64_MAX));
}

static void address_spaces_are_separate(void **state)
{
	struct dli_slot *normal = add(5, 0, 10), *smm = add(1 << 16 | 5, 0, 10);
	const struct dli_slot_table *table = dli_slots_table(&slots);

	assert_ptr_equal(dli_slot_find(table, 5), normal);
	assert_ptr_equal(dli_slot_find(table, 1 << 16 | 5), smm);
	assert_null(dli_slot_find(table, 2 << 16 | 5));
	assert_null(dli_slot_find(table, 4));
	assert_ptr_equal(slot_at(table, 0, PAGE_BYTES), normal);
	assert_ptr_equal(slot_at(table, 1, PAGE_BYTES), smm);
	assert_null(slot_at(table, 0, 10 * PAGE_BYTES));
	assert_null(slot_at(table, 2, 0));
	assert_false(dli_slot_overlaps(table, smm, 1, 0, PAGE_BYTES));
	assert_true(dli_slot_overlaps(table, smm, 0, 0, PAGE_BYTES));
}

/* The last id of one address space is not the first of the next. */
static void ids_do_not_run_into_the_next_address_space(void **state)
{
	struct dli_slot *last = add(99, 0, 1), *first = add(1 << 16, 10, 1);
	const struct dli_slot_table *table = dli_slots_table(&slots);

	assert_ptr_equal(dli_slot_find(table, 99), last);
	assert_ptr_equal(dli_slot_find(table, 1 << 16), first);
	assert_null(dli_slot_find(table, 100));
	assert_null(dli_slot_find(table, 1 << 16 | 99));
	assert_null(dli_slot_find(table, 0xffff));
}

/* More ids than any kernel has today; slot numbers have room for them. */
static void ids_have_sixteen_bits(void **state)
{
	struct dli_slot *high = add(1 << 16 | 0xffff, 0, 1), *low = add(1 << 16 | 0x7fff, 5, 1);
	const struct dli_slot_table *table = dli_slots_table(&slots);

	assert_ptr_equal(dli_slot_find(table, 1 << 16 | 0xffff), high);
	assert_ptr_equal(dli_slot_find(table, 1 << 16 | 0x7fff), low);
	assert_null(dli_slot_find(table, 0xffff));
}

static void neighbours_do_not_overlap(void **state)
{
	struct dli_slot *low = add(0, 10, 10), *high = add(1, 30, 10);
	const struct dli_slot_table *table = dli_slots_table(&slots);

	assert_false(dli_slot_overlaps(table, NULL, 0, 20 * PAGE_BYTES, 10 * PAGE_BYTES));
	assert_true(dli_slot_overlaps(table, NULL, 0, 19 * PAGE_BYTES, 10 * PAGE_BYTES));
	assert_true(dli_slot_overlaps(table, NULL, 0, 21 * PAGE_BYTES, 10 * PAGE_BYTES));
	assert_true(dli_slot_overlaps(table, low, 0, 0, 100 * PAGE_BYTES));
	assert_false(dli_slot_overlaps(table, low, 0, 0, 30 * PAGE_BYTES));
	assert_false(dli_slot_overlaps(table, high, 0, 20 * PAGE_BYTES, UINT64_C(1) << 40));
}

static void a_prepared_table_that_is_abandoned_changes_nothing(void **state)
{
	struct dli_slot *here = add(0, 0, 1), *other = slot_new(1, 1);
	struct dli_slot_table *before = dli_slots_table(&slots);

	dli_slot_table_free(dli_slots_prepare(&slots, here, other, PAGE_BYTES));
	dli_slot_table_free(NULL);
	assert_ptr_equal(dli_slots_table(&slots), before);
	assert_ptr_equal(dli_slot_find(before, 0), here);
	assert_null(dli_slot_find(before, 1));
	dli_slot_free(other);
}

static void a_moved_slot_is_found_at_its_new_address(void **state)
{
	struct dli_slot *slot = add(0, 10, 10), *other = add(1, 30, 10);
	const struct dli_slot_table *table;
	const struct dli_index_entry *range;
	struct dli_slot_walk walk;

	publish(slot, slot, 50 * PAGE_BYTES);
	table = dli_slots_table(&slots);
	assert_int_equal(table->n, 2);
	walk = dli_slot_walk(table);
	assert_ptr_equal(dli_slot_next(&walk), other);
	range = dli_slot_next_range(&walk);
	assert_ptr_equal(range->slot, slot);
	assert_int_equal(range->key.address, 50 * PAGE_BYTES);
	assert_null(dli_slot_next(&walk));
	assert_null(dli_slot_next(&walk));
	assert_ptr_equal(dli_slot_find(table, 0), slot);
	assert_false(dli_slot_overlaps(table, NULL, 0, 10 * PAGE_BYTES, 10 * PAGE_BYTES));
	publish(slot, slot, 0);
	walk = dli_slot_walk(dli_slots_table(&slots));
	assert_ptr_equal(dli_slot_next(&walk), slot);
}

/* Its own gpa is the new one already, as when there was no memory for a table that says so. */
static void a_slot_is_removed_from_where_the_table_has_it(void **state)
{
	struct dli_slot *slot = add(0, 10, 10), *other = add(1, 30, 10);

	atomic_store(&slot->gpa, 50 * PAGE_BYTES);
	publish(slot, NULL, 0);
	assert_int_equal(dli_slots_table(&slots)->n, 1);
	assert_false(dli_slot_overlaps(dli_slots_table(&slots), other, 0, 0, 100 * PAGE_BYTES));
	dli_slot_free(slot);
}

static struct dli_slot *map(uint32_t number, uint64_t gpa_page, uint64_t hva_page, uint64_t pages)
{
	struct dli_slot *slot = slot_new(number, pages);

	slot->hva = hva_page * PAGE_BYTES;
	publish(NULL, slot, gpa_page * PAGE_BYTES);
	return slot;
}

/* Expects exactly these slots, by host address. */
static void expect_hva(uint64_t hva, uint64_t bytes, int n, struct dli_slot *const *expected)
{
	struct dli_slot_hva_walk walk = dli_slot_hva_walk(dli_slots_table(&slots), hva, bytes);

	for (int i = 0; i < n; i++)
		assert_ptr_equal(dli_slot_hva_next(&walk), expected[i]);
	assert_null(dli_slot_hva_next(&walk));
	assert_int_equal(dli_slot_hva_overlaps(dli_slots_table(&slots), NULL, hva, bytes), n > 0);
}

#define EXPECT_HVA(hva, bytes, ...)                                                \
	expect_hva(hva, bytes, sizeof((void *[]){ __VA_ARGS__ }) / sizeof(void *), \
		   (struct dli_slot *[]){ __VA_ARGS__ })

static void all_slots_that_map_host_memory_are_found(void **state)
{
	struct dli_slot *ram = map(0, 0, 100, 50), *smm = map(1 << 16, 7, 100, 50);
	struct dli_slot *part = map(1, 200, 120, 10), *over = map(2, 300, 140, 20);
	const struct dli_slot_table *table = dli_slots_table(&slots);

	EXPECT_HVA(100 * PAGE_BYTES, 1, ram, smm);
	EXPECT_HVA(125 * PAGE_BYTES, PAGE_BYTES, ram, smm, part);
	EXPECT_HVA(130 * PAGE_BYTES - 1, 1, ram, smm, part);
	EXPECT_HVA(130 * PAGE_BYTES, 1, ram, smm);
	EXPECT_HVA(150 * PAGE_BYTES - 1, 2, ram, smm, over);
	EXPECT_HVA(150 * PAGE_BYTES, 1, over);
	EXPECT_HVA(0, UINT64_MAX, ram, smm, part, over);
	expect_hva(100 * PAGE_BYTES - 1, 1, 0, NULL);
	expect_hva(160 * PAGE_BYTES, 100 * PAGE_BYTES, 0, NULL);
	assert_false(dli_slot_hva_overlaps(table, over, 150 * PAGE_BYTES, PAGE_BYTES));
	assert_true(dli_slot_hva_overlaps(table, ram, 100 * PAGE_BYTES, PAGE_BYTES));
	publish(ram, ram, 1000 * PAGE_BYTES);
	EXPECT_HVA(100 * PAGE_BYTES, 1, ram, smm);
	publish(ram, NULL, 0);
	EXPECT_HVA(100 * PAGE_BYTES, 1, smm);
	dli_slot_free(ram);
}

enum { IDS = 12, SPACES = 2, PLACES = 64 };

/* The slot of each page of guest memory, in a plain array. */
struct plain {
	struct dli_slot *at[SPACES][PLACES], *by_id[SPACES][IDS];
};

static void compare(const struct plain *plain)
{
	const struct dli_slot_table *table = dli_slots_table(&slots);

	for (uint32_t as_id = 0; as_id < SPACES; as_id++) {
		for (uint32_t id = 0; id < IDS; id++)
			assert_ptr_equal(dli_slot_find(table, as_id << 16 | id),
					 plain->by_id[as_id][id]);
		for (uint64_t page = 0; page < PLACES; page++) {
			uint64_t gpa = page * PAGE_BYTES;
			struct dli_slot_walk walk = dli_slot_walk_from(table, as_id, gpa);
			const struct dli_index_entry *range = dli_slot_next_range(&walk);
			bool covers =
				range && range->key.as_id == as_id && range->key.address <= gpa;

			assert_ptr_equal(covers ? range->slot : NULL, plain->at[as_id][page]);
			assert_int_equal(dli_slot_overlaps(table, NULL, as_id, gpa, PAGE_BYTES),
					 plain->at[as_id][page] != NULL);
		}
	}
}

static void put_in_place(struct plain *plain, uint32_t as_id, struct dli_slot *slot, uint64_t first)
{
	for (uint64_t page = 0; page < PLACES; page++)
		if (plain->at[as_id][page] == slot)
			plain->at[as_id][page] = NULL;
	for (uint64_t page = 0; slot && page < slot->pages; page++)
		plain->at[as_id][first + page] = slot;
}

static bool is_free(const struct plain *plain, uint32_t as_id, const struct dli_slot *self,
		    uint64_t first, uint64_t pages)
{
	for (uint64_t page = first; page < first + pages; page++)
		if (plain->at[as_id][page] && plain->at[as_id][page] != self)
			return false;
	return true;
}

static void random_change(struct plain *plain, struct random *random)
{
	uint32_t as_id = (uint32_t)random_below(random, SPACES);
	uint32_t id = (uint32_t)random_below(random, IDS);
	struct dli_slot *slot = plain->by_id[as_id][id];
	uint64_t pages = slot ? slot->pages : 1 + random_below(random, 8);
	uint64_t first = random_below(random, PLACES - pages + 1);

	if (slot && random_below(random, 2)) {
		publish(slot, NULL, 0);
		for (uint64_t page = 0; page < PLACES; page++)
			if (plain->at[as_id][page] == slot)
				plain->at[as_id][page] = NULL;
		plain->by_id[as_id][id] = NULL;
		dli_slot_free(slot);
		return;
	}
	if (!is_free(plain, as_id, slot, first, pages)) {
		assert_true(dli_slot_overlaps(dli_slots_table(&slots), slot, as_id,
					      first * PAGE_BYTES, pages * PAGE_BYTES));
		return;
	}
	if (slot) {
		publish(slot, slot, first * PAGE_BYTES);
	} else {
		slot = slot_new(as_id << 16 | id, pages);
		/* The set that readers mark. */
		assert_int_equal(dli_page_set_new(&fake.os, pages, &slot->fresh), 0);
		atomic_store(&slot->target, slot->fresh);
		publish(NULL, slot, first * PAGE_BYTES);
		plain->by_id[as_id][id] = slot;
	}
	put_in_place(plain, as_id, slot, first);
}

static void random_changes_match_a_plain_array(void **state)
{
	struct random random = { .state = 4711 };
	struct plain plain = { 0 };

	for (int i = 0; i < 1500; i++) {
		random_change(&plain, &random);
		compare(&plain);
	}
}

static atomic_bool readers_over;

/* The slots of a reader's table stay alive; sanitizers detect a use after free. */
static void *read_tables(void *unused)
{
	uint64_t sum = 0;

	while (!atomic_load(&readers_over)) {
		const struct dli_slot_table *table;

		dli_rcu_read_lock();
		table = dli_slots_table(&slots);
		for (uint32_t id = 0; id < IDS; id++) {
			struct dli_slot *slot = dli_slot_find(table, id);

			if (slot)
				sum += dli_page_set_mark_word(dli_slot_target(slot), 0, 1);
		}
		sum += dli_slot_overlaps(table, NULL, 0, 20 * PAGE_BYTES, 5 * PAGE_BYTES);
		sum += dli_slot_hva_overlaps(table, NULL, 0, PAGE_BYTES);
		dli_rcu_read_unlock();
	}
	return (void *)(uintptr_t)sum;
}

static void readers_never_see_a_freed_table(void **state)
{
	struct random random = { .state = 42 };
	struct plain plain = { 0 };
	pthread_t readers[2];

	atomic_store(&readers_over, false);
	for (int i = 0; i < 2; i++)
		pthread_create(&readers[i], NULL, read_tables, NULL);
	for (int i = 0; i < 400; i++)
		random_change(&plain, &random);
	atomic_store(&readers_over, true);
	for (int i = 0; i < 2; i++)
		pthread_join(readers[i], NULL);
	compare(&plain);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		slots_test(a_slot_begins_with_no_view_and_no_pages),
		slots_test(a_slot_is_freed_with_what_it_has),
		slots_test(an_empty_table_finds_nothing),
		slots_test(address_spaces_are_separate),
		slots_test(ids_do_not_run_into_the_next_address_space),
		slots_test(ids_have_sixteen_bits),
		slots_test(neighbours_do_not_overlap),
		slots_test(a_prepared_table_that_is_abandoned_changes_nothing),
		slots_test(a_moved_slot_is_found_at_its_new_address),
		slots_test(a_slot_is_removed_from_where_the_table_has_it),
		slots_test(all_slots_that_map_host_memory_are_found),
		slots_test(random_changes_match_a_plain_array),
		slots_test(readers_never_see_a_freed_table),
	};

	return RUN_TESTS("slots", tests);
}
