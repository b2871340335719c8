/* SPDX-License-Identifier: MIT */
/* Harvesting rings, against a loop that only reads and releases their cells. */
#include "../unit/random.h"
#include "bench.h"
#include "figures.h"
#include "kernel.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { VCPUS = 16, ENTRIES = 4096, FILLED = 4000, ALL = VCPUS * FILLED, MANY_VCPUS = 1024 };

/* The floor has rings of its own: the library would not find its released cells dirty. */
struct scene {
	struct kernel ours, floor;
	uint64_t pages[ALL]; /* contents of the rings */
	_Atomic uint64_t *bitmap;
};

static struct scene scene;

static void fill(struct kernel *kernel)
{
	for (uint32_t v = 0; v < VCPUS; v++)
		kernel_fill(kernel, v, scene.pages + v * FILLED, FILLED);
}

static void fill_ours(void *unused)
{
	(void)unused;
	kernel_empty(&scene.ours);
	fill(&scene.ours);
}

static void fill_floor(void *unused)
{
	(void)unused;
	fill(&scene.floor);
	if (scene.bitmap)
		for (uint32_t i = 0; i < ALL; i++)
			scene.bitmap[scene.pages[i] / 64] = 0;
}

static void harvest(void *unused)
{
	(void)unused;
	kernel_harvest(&scene.ours);
}

static inline uint64_t release_cell(struct kvm_dirty_gfn *cell)
{
	uint32_t flags = __atomic_load_n(&cell->flags, __ATOMIC_ACQUIRE);
	uint64_t sum = flags + cell->slot + cell->offset;

	__atomic_store_n(&cell->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	return sum;
}

static void only_release(void *unused)
{
	uint64_t sum = 0;

	(void)unused;
	for (uint32_t v = 0; v < VCPUS; v++) {
		struct kernel_ring *ring = &scene.floor.rings[v];

		for (uint32_t i = ring->next - FILLED; i != ring->next; i++)
			sum += release_cell(&ring->cells[i & (ENTRIES - 1)]);
	}
	bench_keep(sum);
}

static void release_and_set(void *unused)
{
	uint64_t sum = 0;

	(void)unused;
	for (uint32_t v = 0; v < VCPUS; v++) {
		struct kernel_ring *ring = &scene.floor.rings[v];

		for (uint32_t i = ring->next - FILLED; i != ring->next; i++) {
			struct kvm_dirty_gfn *cell = &ring->cells[i & (ENTRIES - 1)];
			uint64_t page = cell->slot * KERNEL_SLOT_PAGES + cell->offset;

			sum += release_cell(cell);
			atomic_fetch_or_explicit(&scene.bitmap[page / 64], UINT64_C(1) << page % 64,
						 memory_order_relaxed);
		}
	}
	bench_keep(sum);
}

static void harvest_figure(const char *name, uint64_t guest_pages, bool random)
{
	const struct bench_pair pair = {
		.name = name,
		.against = random ? "read and release each cell, an atomic OR into one bitmap"
				  : "read and release each cell",
		.unit = "entry",
		.units = ALL,
		.bar = random ? 1.5 : 2,
		.is_floor = true,
		.prepare = fill_ours,
		.measured = harvest,
		.prepare_other = fill_floor,
		.other = random ? release_and_set : only_release,
	};
	struct random generator = { 1 };

	if (!bench_wants(name))
		return;
	for (uint32_t i = 0; i < ALL; i++)
		scene.pages[i] = random ? random_below(&generator, guest_pages) : i;
	scene.bitmap = NULL;
	if (random)
		scene.bitmap = mmap(NULL, guest_pages / 8, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (scene.bitmap == MAP_FAILED)
		bench_die("mmap of a bitmap", errno);
	kernel_open(&scene.ours, VCPUS, ENTRIES, guest_pages);
	kernel_open(&scene.floor, VCPUS, ENTRIES, guest_pages);
	bench_compare(&pair);
	kernel_close(&scene.floor);
	kernel_close(&scene.ours);
	if (random)
		munmap(scene.bitmap, guest_pages / 8);
}

/*
 * A thread that harvests on request, so that its start and exit are not timed. Its cursor covers no
 * slot, so that it only helps with the rings, which belong to all cursors.
 */
static struct {
	struct dl_cursor *cursor;
	pthread_t thread;
	atomic_uint begun, ended; /* rounds */
	bool over;
} second;

static void wait_for(atomic_uint *round, unsigned int value)
{
	while (atomic_load_explicit(round, memory_order_acquire) != value)
		;
}

static void *harvest_too(void *unused)
{
	for (unsigned int round = 1;; round++) {
		wait_for(&second.begun, round);
		if (second.over)
			return NULL;
		bench_check(dl_harvest(second.cursor, 0, NULL), "dl_harvest");
		bench_check(dl_cursor_end(second.cursor, 0), "dl_cursor_end");
		atomic_store_explicit(&second.ended, round, memory_order_release);
	}
}

static unsigned int begin_second(void)
{
	return atomic_fetch_add_explicit(&second.begun, 1, memory_order_release) + 1;
}

static void harvest_by_two(void *unused)
{
	unsigned int round = begin_second();

	(void)unused;
	kernel_harvest(&scene.ours);
	wait_for(&second.ended, round);
}

/* Measures what sharing the rings of a pass between two threads saves. */
static void by_two_threads(uint64_t guest_pages)
{
	const struct bench_pair pair = {
		.name = "rings: harvest by 2 threads, random, 64 GiB",
		.against = "the same by one thread",
		.unit = "entry",
		.units = ALL,
		.prepare = fill_ours,
		.measured = harvest_by_two,
		.prepare_other = fill_ours,
		.other = harvest,
	};
	struct random generator = { 1 };

	if (!bench_wants(pair.name))
		return;
	for (uint32_t i = 0; i < ALL; i++)
		scene.pages[i] = random_below(&generator, guest_pages);
	scene.bitmap = NULL;
	kernel_open(&scene.ours, VCPUS, ENTRIES, guest_pages);
	second.cursor = kernel_add_cursor(&scene.ours, DL_CURSOR_WANTED);
	if (pthread_create(&second.thread, NULL, harvest_too, NULL))
		bench_die("pthread_create", 0);
	bench_compare(&pair);
	second.over = true;
	begin_second();
	pthread_join(second.thread, NULL);
	dl_cursor_free(second.cursor);
	kernel_close(&scene.ours);
}

static void end_pass(void *unused)
{
	(void)unused;
	bench_check(dl_cursor_end(scene.ours.cursor, 0), "dl_cursor_end");
}

static void touch_rings(void *unused)
{
	uint64_t sum = 0;

	(void)unused;
	for (uint32_t v = 0; v < MANY_VCPUS; v++)
		sum += __atomic_load_n(&scene.ours.rings[v].cells[0].flags, __ATOMIC_ACQUIRE);
	bench_keep(sum);
}

static void empty_rings(void)
{
	const struct bench_pair pair = {
		.name = "rings: harvest of 1024 empty rings",
		.against = "read one cell of each",
		.unit = "ring",
		.units = MANY_VCPUS,
		.bar = 1.5,
		.is_floor = true,
		.prepare = end_pass,
		.measured = harvest,
		.other = touch_rings,
	};

	if (!bench_wants(pair.name))
		return;
	kernel_open(&scene.ours, MANY_VCPUS, 256, 1 << 20);
	bench_compare(&pair);
	kernel_close(&scene.ours);
}

void rings_figures(void)
{
	harvest_figure("rings: harvest, pages in order", UINT64_C(1) << 24, false);
	harvest_figure("rings: harvest, random pages of 64 GiB", UINT64_C(1) << 24, true);
	harvest_figure("rings: harvest, random pages of 16 TiB", UINT64_C(1) << 32, true);
	by_two_threads(UINT64_C(1) << 24);
	empty_rings();
}
