/* SPDX-License-Identifier: MIT */
/*
 * Tables of many slots, whose leaves split and join: random changes, changes that are undone or
 * abandoned, and changes without memory, against a plain array. The program is linked with --wrap,
 * so that the library's allocations come here.
 */
#include "cmocka_all.h"
#include "fake_os.h"
#include "random.h"
#include "pages/slot_table.h"

#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES UINT64_C(4096)

/* Host addresses are so few that most slots share memory with others. */
enum {
	IDS = 900,
	SPACES = 2,
	GPA_PAGES = 8192,
	HVA_PAGES = 4096,
	MOST_PAGES = 4,
	LONG_PAGES = 900
};

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void __real_free(void *block);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void __wrap_free(void *block);

static struct {
	long live;
	unsigned int until_failure; /* 0: none fails */
} memory;

static bool fails(void)
{
	return memory.until_failure && !--memory.until_failure;
}

void *__wrap_malloc(size_t bytes)
{
	void *block = fails() ? NULL : __real_malloc(bytes);

	memory.live += block != NULL;
	return block;
}

void *__wrap_calloc(size_t n, size_t bytes)
{
	void *block = fails() ? NULL : __real_calloc(n, bytes);

	memory.live += block != NULL;
	return block;
}

void __wrap_free(void *block)
{
	memory.live -= block != NULL;
	__real_free(block);
}

struct plain {
	struct dli_slot *slot;
	uint64_t gpa;
};

static struct fake_os fake;
static struct dli_slots slots;
static struct plain plain[SPACES * IDS];
static struct random rnd;
static uint32_t count;

static int setup(void **state)
{
	fake_os_init(&fake);
	memset(&memory, 0, sizeof(memory));
	memset(&slots, 0, sizeof(slots));
	memset(plain, 0, sizeof(plain));
	count = 0;
	rnd.state = 4711;
	return dli_slots_init(&slots);
}

/* Leaks of a table's parts show here. */
static int teardown(void **state)
{
	dli_slots_fini(&slots);
	return fake.maps_live || memory.live ? -1 : 0;
}

#define slots_test(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

static uint32_t number_of(const struct plain *at)
{
	uint32_t i = (uint32_t)(at - plain);

	return i / IDS << 16 | i % IDS;
}

static struct dli_slot *new_slot(uint32_t number, uint64_t pages)
{
	struct dli_slot *slot;

	assert_int_equal(dli_slot_new(PAGE_BYTES, number, pages * PAGE_BYTES, &slot), 0);
	return slot;
}

static struct dli_slot *any_slot(uint32_t number)
{
	bool is_long = random_below(&rnd, 100) == 0;
	uint64_t pages = 1 + random_below(&rnd, is_long ? LONG_PAGES : MOST_PAGES);
	struct dli_slot *slot = new_slot(number, pages);

	slot->hva = random_below(&rnd, HVA_PAGES) * PAGE_BYTES;
	return slot;
}

static bool plain_overlap(const struct dli_slot *except, uint32_t as_id, uint64_t gpa,
			  uint64_t bytes)
{
	for (uint32_t i = as_id * IDS; i < (as_id + 1) * IDS; i++) {
		const struct dli_slot *slot = plain[i].slot;

		if (slot && slot != except && plain[i].gpa < gpa + bytes &&
		    gpa < plain[i].gpa + slot->bytes)
			return true;
	}
	return false;
}

static bool maps(const struct dli_slot *slot, uint64_t hva, uint64_t bytes)
{
	return slot && slot->hva < hva + bytes && hva < slot->hva + slot->bytes;
}

/* Every slot that maps any of it is found once, by address, and no other. */
static void check_hva(uint64_t hva, uint64_t bytes)
{
	struct dli_slot_hva_walk walk = dli_slot_hva_walk(dli_slots_table(&slots), hva, bytes);
	const struct dli_slot *slot, *last = NULL, *one = NULL;
	uint32_t found = 0, expected = 0;

	for (; (slot = dli_slot_hva_next(&walk)); last = slot, found++) {
		assert_true(maps(slot, hva, bytes));
		assert_true(!last || last->hva < slot->hva ||
			    (last->hva == slot->hva && last->slot < slot->slot));
	}
	for (uint32_t i = 0; i < SPACES * IDS; i++) {
		if (!maps(plain[i].slot, hva, bytes))
			continue;
		one = plain[i].slot;
		expected++;
	}
	assert_int_equal(found, expected);
	assert_int_equal(dli_slot_hva_overlaps(dli_slots_table(&slots), NULL, hva, bytes),
			 expected > 0);
	assert_int_equal(dli_slot_hva_overlaps(dli_slots_table(&slots), one, hva, bytes),
			 expected > 1);
}

static void check_somewhere(void)
{
	const struct dli_slot_table *table = dli_slots_table(&slots);
	const struct plain *at = &plain[random_below(&rnd, SPACES * IDS)];
	uint32_t as_id = (uint32_t)random_below(&rnd, SPACES);
	uint64_t gpa = random_below(&rnd, GPA_PAGES) * PAGE_BYTES;
	uint64_t bytes = (1 + random_below(&rnd, 5)) * PAGE_BYTES;

	assert_int_equal(table->n, count);
	assert_ptr_equal(dli_slot_find(table, number_of(at)), at->slot);
	assert_int_equal(dli_slot_overlaps(table, NULL, as_id, gpa, bytes),
			 plain_overlap(NULL, as_id, gpa, bytes));
	if (at->slot)
		assert_int_equal(dli_slot_overlaps(table, at->slot, as_id, at->gpa, bytes),
				 plain_overlap(at->slot, as_id, at->gpa, bytes));
	check_hva(random_below(&rnd, (HVA_PAGES + 100) * PAGE_BYTES),
		  1 + random_below(&rnd, bytes));
}

/* From any address on, the walk has every slot that ends after it, in order. */
static void check_walk(uint32_t as_id, uint64_t gpa)
{
	struct dli_slot_walk walk = dli_slot_walk_from(dli_slots_table(&slots), as_id, gpa);
	const struct dli_index_entry *range;
	uint64_t reached = gpa;
	uint32_t space = as_id, n = 0;

	while ((range = dli_slot_next_range(&walk))) {
		const struct plain *at =
			&plain[range->key.as_id * IDS + (range->slot->slot & 0xffff)];

		assert_ptr_equal(at->slot, range->slot);
		assert_int_equal(at->gpa, range->key.address);
		assert_int_equal(at->gpa + at->slot->bytes, range->end);
		assert_true(range->key.as_id >= space);
		reached = range->key.as_id > space ? 0 : reached;
		assert_true(range->end > reached);
		assert_true(n == 0 || range->key.address >= reached);
		space = range->key.as_id;
		reached = range->end;
		n++;
	}
	for (uint32_t i = as_id * IDS; i < SPACES * IDS; i++)
		if (plain[i].slot && (i / IDS > as_id || plain[i].gpa + plain[i].slot->bytes > gpa))
			n--;
	assert_int_equal(n, 0);
}

/* Checks the order, and how far the entries before one reach: searches rely on both. */
static void check_index(const struct dli_index *index)
{
	const struct dli_index_key *last = NULL;
	uint64_t reach = 0;

	for (uint32_t i = 0; i < index->n; i++) {
		const struct dli_index_branch *branch = &index->branches[i];
		const struct dli_index_leaf *leaf = branch->leaf;
		uint64_t leaf_reach = 0;

		assert_in_range(leaf->n, 1, DLI_INDEX_LEAF);
		assert_memory_equal(&branch->first, &leaf->entries[0].key, sizeof(*last));
		for (uint32_t k = 0; k < leaf->n; k++) {
			const struct dli_index_entry *entry = &leaf->entries[k];

			if (last && last->as_id == entry->key.as_id)
				assert_true(last->address <= entry->key.address);
			last = &entry->key;
			leaf_reach = leaf_reach > entry->end ? leaf_reach : entry->end;
			assert_int_equal(entry->reach, leaf_reach);
		}
		reach = reach > leaf_reach ? reach : leaf_reach;
		assert_int_equal(branch->leaf_reach, leaf_reach);
		assert_int_equal(branch->reach, reach);
	}
}

static void check_everything(void)
{
	const struct dli_slot_table *table = dli_slots_table(&slots);

	check_index(&table->by_gpa);
	check_index(&table->by_hva);
	check_walk(0, 0);
	check_walk((uint32_t)random_below(&rnd, SPACES),
		   random_below(&rnd, GPA_PAGES) * PAGE_BYTES);
	for (uint32_t i = 0; i < SPACES * IDS; i++)
		assert_ptr_equal(dli_slot_find(table, number_of(&plain[i])), plain[i].slot);
	for (uint64_t page = 0; page < HVA_PAGES; page += 37)
		check_hva(page * PAGE_BYTES, 37 * PAGE_BYTES);
}

/* Now and then, fails each allocation of the change in turn; then undoes or abandons it. */
static void change(struct dli_slot *remove, struct dli_slot *add, uint64_t gpa)
{
	bool without_memory = random_below(&rnd, 8) == 0;
	uint64_t fate = random_below(&rnd, 8);
	struct dli_slot_table *table = NULL, *old;
	long live = memory.live;

	for (unsigned int n = 1; without_memory && !table; n++) {
		memory.until_failure = n;
		table = dli_slots_prepare(&slots, remove, add, gpa);
		without_memory = !memory.until_failure;
		memory.until_failure = 0;
		if (!without_memory)
			break;
		assert_null(table);
		assert_int_equal(memory.live, live);
		check_somewhere();
	}
	if (!table)
		table = dli_slots_prepare(&slots, remove, add, gpa);
	assert_non_null(table);
	if (fate == 0) {
		dli_slot_table_free(table);
		assert_int_equal(memory.live, live);
		check_somewhere();
		table = dli_slots_prepare(&slots, remove, add, gpa);
		assert_non_null(table);
	}
	old = dli_slots_publish(&slots, table);
	if (fate <= 1) {
		dli_slot_table_free(dli_slots_publish(&slots, old));
		assert_int_equal(memory.live, live);
		check_somewhere();
		table = dli_slots_prepare(&slots, remove, add, gpa);
		assert_non_null(table);
		old = dli_slots_publish(&slots, table);
	}
	dli_slot_table_free(old);
}

static void add_or_move(struct plain *at)
{
	struct dli_slot *slot = at->slot ? at->slot : any_slot(number_of(at));
	uint64_t gpa = random_below(&rnd, GPA_PAGES - slot->pages + 1) * PAGE_BYTES;
	bool overlaps = plain_overlap(slot, slot->slot >> 16, gpa, slot->bytes);

	assert_int_equal(dli_slot_overlaps(dli_slots_table(&slots), slot, slot->slot >> 16, gpa,
					   slot->bytes),
			 overlaps);
	if (!overlaps) {
		change(at->slot, slot, gpa);
		count += !at->slot;
		*at = (struct plain){ slot, gpa };
	} else if (!at->slot) {
		dli_slot_free(slot);
	}
}

static void take_out(struct plain *at)
{
	struct dli_slot *slot = at->slot, *replacement;

	/* A slot of the same number in its place, in one change. */
	if (random_below(&rnd, 4) == 0) {
		replacement = any_slot(slot->slot);
		if (!plain_overlap(slot, slot->slot >> 16, at->gpa, replacement->bytes)) {
			change(slot, replacement, at->gpa);
			at->slot = replacement;
			dli_slot_free(slot);
			return;
		}
		dli_slot_free(replacement);
	}
	change(slot, NULL, 0);
	*at = (struct plain){ 0 };
	count--;
	dli_slot_free(slot);
}

/* Removals in percent of the changes of slots that exist. */
static void change_many(unsigned int n, unsigned int removals)
{
	for (unsigned int i = 0; i < n; i++) {
		struct plain *at = &plain[random_below(&rnd, SPACES * IDS)];

		if (at->slot && random_below(&rnd, 100) < removals)
			take_out(at);
		else if (removals < 100)
			add_or_move(at);
		check_somewhere();
		if (i % 100 == 0)
			check_everything();
	}
}

static void random_changes_match_a_plain_array(void **state)
{
	change_many(6000, 10);
	assert_true(count > 2 * DLI_INDEX_LEAF && dli_slots_table(&slots)->by_hva.n > 4);
	change_many(3000, 70);
	change_many(12000, 100);
	assert_true(count < 20);
	change_many(1500, 10);
	check_everything();
	/* Some are replaced first. */
	for (uint32_t i = 0; i < SPACES * IDS; i++)
		while (plain[i].slot)
			take_out(&plain[i]);
	assert_int_equal(dli_slots_table(&slots)->n, 0);
	assert_int_equal(dli_slots_table(&slots)->by_gpa.n, 0);
	assert_int_equal(dli_slots_table(&slots)->by_hva.n, 0);
	/* The table itself, its array of ids and those of its two indexes. */
	assert_int_equal(memory.live, 4);
}

/* As a VMM does: each slot above the last. Leaves are full then, and thin ones are joined. */
static void leaves_are_full_and_thin_ones_are_joined(void **state)
{
	const struct dli_slot_table *table;

	for (uint32_t i = 0; i < IDS; i++) {
		struct dli_slot *slot = any_slot(i);

		slot->hva = i * LONG_PAGES * PAGE_BYTES;
		plain[i] = (struct plain){ slot, i * LONG_PAGES * PAGE_BYTES };
		change(NULL, slot, plain[i].gpa);
		count++;
	}
	table = dli_slots_table(&slots);
	assert_int_equal(table->by_gpa.n, (IDS + DLI_INDEX_LEAF - 1) / DLI_INDEX_LEAF);
	assert_int_equal(table->by_hva.n, table->by_gpa.n);
	/* A search does not begin before the first leaf that it needs. */
	for (uint32_t i = 0; i + 1 < IDS; i++) {
		const struct dli_slot *slot = plain[i].slot;
		uint64_t end = slot->hva + slot->bytes;

		assert_int_equal(dli_index_search(&table->by_hva, end - 1, end).at.branch,
				 i / DLI_INDEX_LEAF);
		assert_int_equal(dli_index_search(&table->by_hva, end, end + 1).at.branch,
				 (i + 1) / DLI_INDEX_LEAF);
	}
	check_everything();
	for (uint32_t i = 0; i < IDS; i++) {
		if (i % 16 == 0)
			continue;
		change(plain[i].slot, NULL, 0);
		dli_slot_free(plain[i].slot);
		plain[i].slot = NULL;
		count--;
	}
	table = dli_slots_table(&slots);
	/* Two neighbours have more than half a leaf together. */
	assert_true(table->by_gpa.n <= 2 * (count / (DLI_INDEX_LEAF / 2) + 1));
	check_everything();
}

static void remove_plain(uint32_t i)
{
	struct dli_slot *slot = plain[i].slot;

	dli_slot_table_free(dli_slots_publish(&slots, dli_slots_prepare(&slots, slot, NULL, 0)));
	plain[i].slot = NULL;
	count--;
	dli_slot_free(slot);
}

/* The first slot maps the memory of all others, so every entry reaches as far. */
static void a_join_keeps_how_far_the_lower_leaf_reaches(void **state)
{
	const uint32_t n = DLI_INDEX_LEAF + 40;

	for (uint32_t i = 0; i < n; i++) {
		plain[i].slot = new_slot(i, i ? 1 : n);
		plain[i].slot->hva = i * PAGE_BYTES;
		plain[i].gpa = i * n * PAGE_BYTES;
		dli_slot_table_free(dli_slots_publish(
			&slots, dli_slots_prepare(&slots, NULL, plain[i].slot, plain[i].gpa)));
		count++;
	}
	assert_int_equal(dli_slots_table(&slots)->by_hva.n, 2);
	for (uint32_t i = 30; i < DLI_INDEX_LEAF; i++)
		remove_plain(i);
	for (uint32_t i = n - 1; dli_slots_table(&slots)->by_hva.n == 2; i--)
		remove_plain(i);
	assert_in_range(count, 31, DLI_INDEX_LEAF / 2);
	check_everything();
}

/* A change copies some leaves and one array of pointers for each index, not the table. */
static void a_change_shares_all_other_leaves(void **state)
{
	const struct dli_slot_table *table;
	struct dli_slot_table *next;
	uint32_t shared = 0;

	for (uint32_t i = 0; i < IDS; i++) {
		plain[i].slot = any_slot(i);
		plain[i].gpa = i * LONG_PAGES * PAGE_BYTES;
		dli_slot_table_free(dli_slots_publish(
			&slots, dli_slots_prepare(&slots, NULL, plain[i].slot, plain[i].gpa)));
	}
	table = dli_slots_table(&slots);
	next = dli_slots_prepare(&slots, plain[IDS / 2].slot, NULL, 0);
	assert_non_null(next);
	assert_int_equal(next->by_gpa.n, table->by_gpa.n);
	for (uint32_t i = 0; i < next->by_gpa.n; i++)
		shared += next->by_gpa.branches[i].leaf == table->by_gpa.branches[i].leaf;
	assert_int_equal(shared, table->by_gpa.n - 1);
	shared = 0;
	for (uint32_t i = 0; i < next->id_blocks; i++)
		shared += next->by_id[i] == table->by_id[i];
	assert_int_equal(shared, table->id_blocks - 1);
	dli_slot_table_free(next);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		slots_test(random_changes_match_a_plain_array),
		slots_test(leaves_are_full_and_thin_ones_are_joined),
		slots_test(a_join_keeps_how_far_the_lower_leaf_reaches),
		slots_test(a_change_shares_all_other_leaves),
	};

	return RUN_TESTS("many_slots", tests);
}
