/* SPDX-License-Identifier: MIT */
/* A guest of 16 TiB that writes little: memory and work depend on what is written only. */
#include "cmocka_all.h"
#include "migration.h"
#include "random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TIB (UINT64_C(1) << 40)

/* Sanitizers keep shadow memory. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHADOW_FACTOR 32
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SHADOW_FACTOR 32
#endif
#endif
#ifndef SHADOW_FACTOR
#define SHADOW_FACTOR 1
#endif

enum {
	SLOTS = 4,
	WRITES = 40,
	MARKS = 40,
	ALL = WRITES + MARKS,
	PASSES = 3,
	/*
	 * Each page that lies this far from the others costs a page of bits and one of summaries,
	 * twice (pending and in flight), and two pages of the model. Bitmaps of the whole guest
	 * would take 1 GiB.
	 */
	RESIDENT_BYTES = SHADOW_FACTOR * (PASSES * ALL * 6 * 4096 + (2 << 20)),
};

static struct migration migration;

static uint64_t resident_bytes(void)
{
	unsigned long long total_pages, pages = 0;
	FILE *statm = fopen("/proc/self/statm", "re");

	assert_non_null(statm);
	assert_int_equal(fscanf(statm, "%llu %llu", &total_pages, &pages), 2);
	fclose(statm);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int by_value(const void *a, const void *b)
{
	uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;

	return (first > second) - (first < second);
}

static uint64_t distinct(uint64_t *pages, uint64_t n)
{
	uint64_t kept = 0;

	qsort(pages, n, sizeof(*pages), by_value);
	for (uint64_t i = 0; i < n; i++)
		if (!i || pages[i] != pages[i - 1])
			pages[kept++] = pages[i];
	return kept;
}

static void add_slots(struct guest *guest)
{
	for (uint32_t i = 0; i < SLOTS; i++) {
		struct dl_slot slot = { .size = sizeof(slot),
					.slot = i,
					.gpa = i * 4 * TIB,
					.bytes = 4 * TIB,
					.hva = 64 * TIB + i * 4 * TIB };

		assert_int_equal(dl_slot_set(guest->log, &slot), 0);
	}
}

/* Writes and marks random pages, and records them. */
static void touch(struct guest *guest, struct random *random, uint64_t *pages)
{
	for (int i = 0; i < ALL; i++) {
		uint64_t page = pages[i] = random_below(random, 16 * TIB / 4096);

		if (i < WRITES)
			assert_int_equal(guest_write(guest, &guest->vcpus[0], 0, page), 0);
		else
			assert_int_equal(dl_mark_gpa(guest->log, 0, page * 4096, 1), 0);
	}
}

static void sixteen_tib_take_a_few_mib(void **state)
{
	const struct guest_config config = { .model = { .no_memory = true },
					     .options = { .mode = DL_MODE_RING } };
	struct guest *guest = &migration.guest;
	struct random random = { .state = 16 };
	uint64_t touched[ALL], found[ALL + 1], before, n;

	guest_open(guest, &config);
	guest_vcpu(guest, true);
	before = resident_bytes();
	add_slots(guest);
	guest_join(guest, DL_CURSOR_CLEAN);
	for (int pass = 0; pass < PASSES; pass++) {
		int pages;

		touch(guest, &random, touched);
		n = distinct(touched, ALL);
		pages = guest_pass(guest, pass + 1 == PASSES ? DL_HARVEST_PAUSED : 0, found,
				   ALL + 1);
		assert_int_equal(pages, n);
		assert_int_equal(distinct(found, n), n);
		assert_memory_equal(found, touched, n * sizeof(found[0]));
	}
	assert_in_range(resident_bytes() - before, 0, RESIDENT_BYTES);
	assert_int_equal(guest_pass(guest, 0, found, 1), 0);
	guest_close(guest);
}

/* A wholly dirty slot has one run for each chunk. */
static void a_wholly_dirty_slot_has_one_run_per_chunk(void **state)
{
	const struct guest_config config = { .model = { .no_memory = true },
					     .options = { .mode = DL_MODE_RING } };
	struct guest *guest = &migration.guest;
	struct dl_slot slot = { .size = sizeof(slot), .bytes = TIB / 8, .hva = 64 * TIB };
	struct dl_cursor *cursor;
	struct dl_extent runs[64];
	uint64_t bytes = 0, count = 0;
	int n;

	guest_open(guest, &config);
	assert_int_equal(dl_slot_set(guest->log, &slot), 0);
	guest_join(guest, 0);
	cursor = guest->cursor;
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	while ((n = dl_cursor_read(cursor, runs, 64)) > 0) {
		for (int i = 0; i < n; i++) {
			assert_int_equal(runs[i].offset_bytes, bytes);
			bytes += runs[i].bytes;
		}
		count += (uint64_t)n;
		assert_int_equal(dl_cursor_ack(cursor, runs, (uint32_t)n), 0);
	}
	assert_int_equal(n, 0);
	assert_int_equal(bytes, TIB / 8);
	assert_int_equal(count, TIB / 8 / 4096 / 32768);
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
	assert_int_equal(guest_pending(guest) + guest_unacked(guest), 0);
	guest_close(guest);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sixteen_tib_take_a_few_mib),
		cmocka_unit_test(a_wholly_dirty_slot_has_one_run_per_chunk),
	};

	return RUN_TESTS("huge guests", tests);
}
