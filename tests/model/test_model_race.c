/* SPDX-License-Identifier: MIT */
/*
 * Raw copy loops on the model without the library, with vCPUs as threads: the model must record
 * every write that it allows, or the copy differs. They are also run under ThreadSanitizer.
 */
#include <endian.h>
#include <pthread.h>
#include <stdatomic.h>

#include "fixture.h"

#define LOG	   KVM_MEM_LOG_DIRTY_PAGES
#define WORDS	   (SLOT_PAGES / 64)
#define VCPUS	   3
#define STORES	   20000
#define CAP_MANUAL KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2

struct copy_loop {
	struct world w;
	struct consumer consumers[VCPUS];
	uint32_t vcpus;
	bool rings, manual;
	char *copy;
	pthread_mutex_t lock; /* around harvest and reset */
	uint8_t pending[SLOT_PAGES];
	_Atomic uint32_t running;
	_Atomic uint32_t full_exits;
};

struct writer {
	pthread_t thread;
	struct copy_loop *loop;
	struct consumer *consumer;
	uint32_t number;
};

static void add_pending(struct copy_loop *loop, const uint64_t *bits)
{
	uint64_t page;

	for (page = 0; page < SLOT_PAGES; page++)
		if (le64toh(bits[page / 64]) >> page % 64 & 1)
			loop->pending[page] = 1;
}

static void harvest_ring(struct copy_loop *loop, struct consumer *c)
{
	uint32_t slot;
	uint64_t page;

	while (consume(c, &slot, &page))
		if (slot == 0)
			loop->pending[page] = 1;
}

/* All pending pages are then protected, so that their contents may be read. */
static void harvest(struct copy_loop *loop)
{
	uint64_t bits[WORDS];
	uint32_t i;

	pthread_mutex_lock(&loop->lock);
	if (loop->rings) {
		for (i = 0; i < loop->vcpus; i++)
			harvest_ring(loop, &loop->consumers[i]);
		assert_true(reset(&loop->w) >= 0);
	} else {
		assert_int_equal(get_log(&loop->w, 0, bits), 0);
		if (loop->manual)
			assert_int_equal(clear_log(&loop->w, 0, 0, SLOT_PAGES, bits), 0);
		add_pending(loop, bits);
	}
	pthread_mutex_unlock(&loop->lock);
}

static void copy_pending(struct copy_loop *loop)
{
	uint8_t pending[SLOT_PAGES];
	uint64_t page;

	pthread_mutex_lock(&loop->lock);
	memcpy(pending, loop->pending, sizeof(pending));
	memset(loop->pending, 0, sizeof(loop->pending));
	pthread_mutex_unlock(&loop->lock);
	for (page = 0; page < SLOT_PAGES; page++)
		if (pending[page])
			model_copy(loop->copy + page * PAGE_BYTES,
				   loop->w.memory + page * PAGE_BYTES, PAGE_BYTES);
}

static void *run_vcpu(void *opaque)
{
	struct writer *writer = opaque;
	struct copy_loop *loop = writer->loop;
	uint64_t i, page, value, random = writer->number + 1;
	int result;

	for (i = 0; i < STORES; i++) {
		random = random * 6364136223846793005ULL + 1442695040888963407ULL;
		page = (random >> 33) % SLOT_PAGES;
		value = i << 8 | writer->number;
		do {
			result = model_vcpu_write(loop->w.model, writer->consumer->vcpu, 0,
						  SLOT_GPA + page * PAGE_BYTES + writer->number * 8,
						  &value, sizeof(value));
			if (result == KVM_EXIT_DIRTY_RING_FULL) {
				loop->full_exits++;
				harvest(loop);
			}
		} while (result == KVM_EXIT_DIRTY_RING_FULL);
		if (result)
			break;
	}
	model_vcpu_exit(loop->w.model, writer->consumer->vcpu, KVM_EXIT_INTR);
	loop->running--;
	return (void *)(intptr_t)result;
}

/* Adds, moves and deletes another slot, in a loop. */
static void *change_slots(void *opaque)
{
	struct copy_loop *loop = opaque;
	int result = 0;

	while (loop->running && !result) {
		result = region(&loop->w, 1, LOG, 0, 4, loop->w.memory);
		result = result ? result : region(&loop->w, 1, LOG, 1 << 20, 4, loop->w.memory);
		result = result ? result : region(&loop->w, 1, 0, 1 << 20, 4, loop->w.memory);
		result = result ? result : region(&loop->w, 1, 0, 0, 0, NULL);
	}
	return (void *)(intptr_t)result;
}

static void run_copy_loop(struct copy_loop *loop)
{
	struct writer writers[VCPUS];
	pthread_t changer;
	void *result;
	uint32_t i;

	loop->running = loop->vcpus;
	for (i = 0; i < loop->vcpus; i++) {
		writers[i] = (struct writer){ .loop = loop,
					      .consumer = &loop->consumers[i],
					      .number = i };
		assert_int_equal(pthread_create(&writers[i].thread, NULL, run_vcpu, &writers[i]),
				 0);
	}
	assert_int_equal(pthread_create(&changer, NULL, change_slots, loop), 0);
	while (loop->running) {
		harvest(loop);
		copy_pending(loop);
	}
	for (i = 0; i < loop->vcpus; i++) {
		pthread_join(writers[i].thread, &result);
		assert_null(result);
	}
	pthread_join(changer, &result);
	assert_null(result);
	harvest(loop);
	copy_pending(loop);
	assert_memory_equal(loop->copy, loop->w.memory, loop->w.memory_bytes);
	for (i = 0; i < VCPUS * 8; i += 8)
		assert_int_not_equal(*(uint64_t *)(void *)(loop->copy + i), 0);
}

static void test_copy_loop(const struct model_options *options, bool rings, bool manual)
{
	struct copy_loop loop = { .vcpus = VCPUS, .rings = rings, .manual = manual };
	uint32_t i;

	if (rings)
		world_open_ring(&loop.w, options, false);
	else
		world_open(&loop.w, options);
	if (manual)
		assert_int_equal(enable(&loop.w, CAP_MANUAL, 1, 0), 0);
	if (!rings)
		assert_int_equal(slot0(&loop.w, LOG), 0);
	loop.copy = calloc(1, loop.w.memory_bytes);
	assert_non_null(loop.copy);
	pthread_mutex_init(&loop.lock, NULL);
	for (i = 0; i < VCPUS; i++) {
		if (rings)
			consumer_open(&loop.w, &loop.consumers[i]);
		else
			loop.consumers[i].vcpu = model_vcpu_create(loop.w.model, loop.w.vm);
		loop.consumers[i].head = options ? options->ring_first_index : 0;
	}
	run_copy_loop(&loop);
	if (rings)
		print_message("full exits: %u\n", loop.full_exits);
	for (i = 0; i < VCPUS && rings; i++)
		consumer_close(&loop.w, &loop.consumers[i]);
	pthread_mutex_destroy(&loop.lock);
	free(loop.copy);
	world_close(&loop.w);
}

static void rings_log_then_store(void **unused)
{
	(void)unused;
	test_copy_loop(NULL, true, false);
}

static void rings_map_then_log(void **unused)
{
	const struct model_options options = { .write_order = MODEL_MAP_THEN_LOG,
					       .ring_first_index = 0xfffffff0 };

	(void)unused;
	test_copy_loop(&options, true, false);
}

static void rings_store_then_log(void **unused)
{
	const struct model_options options = { .write_order = MODEL_STORE_THEN_LOG };

	(void)unused;
	test_copy_loop(&options, true, false);
}

static void rings_with_pml(void **unused)
{
	const struct model_options options = { .pml_entries = 32 };

	(void)unused;
	test_copy_loop(&options, true, false);
}

static void bitmap_automatic(void **unused)
{
	(void)unused;
	test_copy_loop(NULL, false, false);
}

static void bitmap_manual(void **unused)
{
	const struct model_options options = { .pml_entries = 32 };

	(void)unused;
	test_copy_loop(&options, false, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rings_log_then_store), cmocka_unit_test(rings_map_then_log),
		cmocka_unit_test(rings_store_then_log), cmocka_unit_test(rings_with_pml),
		cmocka_unit_test(bitmap_automatic),	cmocka_unit_test(bitmap_manual),
	};

	return cmocka_run_group_tests_name("model: races", tests, NULL, NULL);
}
