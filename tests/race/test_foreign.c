/* SPDX-License-Identifier: MIT */
/*
 * Devices write memory and then set bits of a shared log, while threads take bits and mark their
 * pages, and a consumer copies what is pending. Every bit that was set is taken by exactly one
 * thread, and the copy is the memory in the end.
 */
#include "cmocka_all.h"
#include "guest.h"
#include "random.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum {
	PAGES = 1 << 14,
	WORDS = PAGES / 64,
	HOLE_PAGES = 64, /* after the slot: their bits stay in the log */
	DEVICES = 2,
	TAKERS = 2,
	CHECK_EACH = 4096, /* bits, between looks at the number that is set */
};

static uint64_t wanted_bits = 1000000;

static struct guest guest;
static struct {
	_Alignas(128) _Atomic uint64_t words[WORDS + HOLE_PAGES / 64];
	_Alignas(128) _Atomic uint32_t memory[PAGES];
	uint32_t copy[PAGES];
	_Alignas(128) atomic_bool devices_end;
	_Alignas(128) _Atomic uint64_t set, taken;
} shared;

/* As vhost does: a store, then a bit. A word has several in one go now and then. */
static uint64_t write_pages(struct random *random, unsigned int device)
{
	uint64_t page = random_below(random, PAGES / DEVICES) * DEVICES + device, bits = 0, before;
	uint64_t n = random_below(random, 4) ? 1 : 16;

	for (uint64_t i = 0; i < n && page / 64 == (page + DEVICES * i) / 64; i++) {
		uint64_t at = page + DEVICES * i;

		atomic_store_explicit(
			&shared.memory[at],
			atomic_load_explicit(&shared.memory[at], memory_order_relaxed) + 1,
			memory_order_relaxed);
		bits |= UINT64_C(1) << at % 64;
	}
	before = atomic_fetch_or_explicit(&shared.words[page / 64], bits, memory_order_release);
	return (uint64_t)__builtin_popcountll(bits & ~before);
}

static void *device(void *which)
{
	struct random random = { (uintptr_t)which + 1 };
	uint64_t set = 0;

	while (set < wanted_bits / DEVICES)
		for (int i = 0; i < CHECK_EACH; i++)
			set += write_pages(&random, (unsigned int)(uintptr_t)which);
	atomic_fetch_add(&shared.set, set);
	return NULL;
}

static uint64_t take_bits(int expected)
{
	const struct dl_bitmap bitmap = {
		.size = sizeof(bitmap),
		.flags = DL_BITMAP_TAKE,
		.bytes = (PAGES + HOLE_PAGES) * (uint64_t)guest.page_bytes,
		.page_bytes = guest.page_bytes,
	};
	uint64_t marked;

	/* Threads may not fail a test. */
	if (dl_mark_bitmap(guest.log, &bitmap, (uint64_t *)shared.words, WORDS + HOLE_PAGES / 64,
			   &marked) != expected)
		abort();
	return marked / guest.page_bytes;
}

static void *taker(void *unused)
{
	uint64_t taken = 0;

	(void)unused;
	while (!atomic_load(&shared.devices_end))
		taken += take_bits(-ENOENT);
	atomic_fetch_add(&shared.taken, taken);
	return NULL;
}

/* Copies what is pending. Contents are read after the take has returned. */
static uint64_t consume(void)
{
	uint64_t words[WORDS] = { 0 }, pages = 0;

	assert_int_equal(dl_cursor_take(guest.cursor, 0, 0, words, WORDS, NULL), 0);
	for (uint64_t i = 0; i < WORDS; i++)
		for (uint64_t bits = words[i]; bits; bits &= bits - 1, pages++) {
			uint64_t page = i * 64 + (uint64_t)__builtin_ctzll(bits);

			shared.copy[page] =
				atomic_load_explicit(&shared.memory[page], memory_order_relaxed);
		}
	return pages;
}

static void join_all(const pthread_t *threads, int n)
{
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
}

static bool copy_is_the_memory(void)
{
	for (uint64_t page = 0; page < PAGES; page++)
		if (shared.copy[page] != atomic_load(&shared.memory[page]))
			return false;
	return true;
}

static void *run_devices(void *unused)
{
	pthread_t devices[DEVICES];

	(void)unused;
	for (uintptr_t i = 0; i < DEVICES; i++)
		if (pthread_create(&devices[i], NULL, device, (void *)i))
			abort();
	join_all(devices, DEVICES);
	atomic_store(&shared.devices_end, true);
	return NULL;
}

static void no_bit_of_a_live_writer_is_lost(void **state)
{
	const struct guest_config config = { .options = { .mode = DL_MODE_RING } };
	pthread_t takers[TAKERS], devices;
	uint64_t consumed = 0;

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	guest_join(&guest, DL_CURSOR_CLEAN);
	atomic_store(&shared.words[WORDS], 5);
	for (int i = 0; i < TAKERS; i++)
		assert_int_equal(pthread_create(&takers[i], NULL, taker, NULL), 0);
	assert_int_equal(pthread_create(&devices, NULL, run_devices, NULL), 0);
	while (!atomic_load(&shared.devices_end)) {
		consumed += consume();
		sched_yield();
	}
	pthread_join(devices, NULL);
	join_all(takers, TAKERS);
	/* The devices are quiet: the last take, and then the last pass. */
	shared.taken += take_bits(-ENOENT);
	consumed += consume();
	assert_true(consumed > 0 && shared.set >= wanted_bits);
	assert_int_equal(shared.taken, shared.set);
	assert_true(copy_is_the_memory());
	assert_int_equal(shared.words[WORDS], 5);
	print_message("%llu bits set and taken, %llu pages copied\n",
		      (unsigned long long)shared.set, (unsigned long long)consumed);
	guest_close(&guest);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_bit_of_a_live_writer_is_lost),
	};

	if (argc > 1 && !strcmp(argv[1], "--long"))
		wanted_bits = 1000000000;
	return RUN_TESTS("races: a foreign log and its writers", tests);
}
