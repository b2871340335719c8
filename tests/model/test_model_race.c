/* SPDX-License-Identifier: MIT */
/*
 * Small migrations on the model without the library, with vCPUs as threads: every write that the
 * model admits must be recorded, or the copy differs. Meant to be run under ThreadSanitizer too.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "fixture.h"

#define LOG	   KVM_MEM_LOG_DIRTY_PAGES
#define WORDS	   (SLOT_PAGES / 64)
#define VCPUS	   3
#define STORES	   20000
#define CAP_MANUAL KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2

struct migration {
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
	struct migration *migration;
	struct consumer *consumer;
	uint32_t number;
};

static void note_bits(struct migration *m, const uint64_t *bits)
{
	uint64_t page;

	for (page = 0; page < SLOT_PAGES; page++)
		if (bits[page / 64] >> page % 64 & 1)
			m->pending[page] = 1;
}

static void harvest_ring(struct migration *m, struct consumer *c)
{
	uint32_t slot;
	uint64_t page;

	while (consume(c, &slot, &page))
		if (slot == 0)
			m->pending[page] = 1;
}

/* What is pending afterwards is protected: its contents may be read. */
static void harvest(struct migration *m)
{
	uint64_t bits[WORDS];
	uint32_t i;

	pthread_mutex_lock(&m->lock);
	if (m->rings) {
		for (i = 0; i < m->vcpus; i++)
			harvest_ring(m, &m->consumers[i]);
		assert_true(reset(&m->w) >= 0);
	} else {
		assert_int_equal(get_log(&m->w, 0, bits), 0);
		if (m->manual)
			assert_int_equal(clear_log(&m->w, 0, 0, SLOT_PAGES, bits), 0);
		note_bits(m, bits);
	}
	pthread_mutex_unlock(&m->lock);
}

static void copy_pending(struct migration *m)
{
	uint8_t pending[SLOT_PAGES];
	uint64_t page;

	pthread_mutex_lock(&m->lock);
	memcpy(pending, m->pending, sizeof(pending));
	memset(m->pending, 0, sizeof(m->pending));
	pthread_mutex_unlock(&m->lock);
	for (page = 0; page < SLOT_PAGES; page++)
		if (pending[page])
			model_copy(m->copy + page * PAGE_BYTES, m->w.memory + page * PAGE_BYTES,
				   PAGE_BYTES);
}

static void *run_vcpu(void *opaque)
{
	struct writer *writer = opaque;
	struct migration *m = writer->migration;
	uint64_t i, page, value, random = writer->number + 1;
	int result;

	for (i = 0; i < STORES; i++) {
		random = random * 6364136223846793005ULL + 1442695040888963407ULL;
		page = (random >> 33) % SLOT_PAGES;
		value = i << 8 | writer->number;
		do {
			result = model_vcpu_write(m->w.model, writer->consumer->vcpu, 0,
						  SLOT_GPA + page * PAGE_BYTES + writer->number * 8,
						  &value, sizeof(value));
			if (result == KVM_EXIT_DIRTY_RING_FULL) {
				m->full_exits++;
				harvest(m);
			}
		} while (result == KVM_EXIT_DIRTY_RING_FULL);
		if (result)
			break;
	}
	model_vcpu_exit(m->w.model, writer->consumer->vcpu, KVM_EXIT_INTR);
	m->running--;
	return (void *)(intptr_t)result;
}

/* Another slot comes, moves and goes all the while. */
static void *change_slots(void *opaque)
{
	struct migration *m = opaque;
	int result = 0;

	while (m->running && !result) {
		result = region(&m->w, 1, LOG, 0, 4, m->w.memory);
		result = result ? result : region(&m->w, 1, LOG, 1 << 20, 4, m->w.memory);
		result = result ? result : region(&m->w, 1, 0, 1 << 20, 4, m->w.memory);
		result = result ? result : region(&m->w, 1, 0, 0, 0, NULL);
	}
	return (void *)(intptr_t)result;
}

static void migrate(struct migration *m)
{
	struct writer writers[VCPUS];
	pthread_t changer;
	void *result;
	uint32_t i;

	m->running = m->vcpus;
	for (i = 0; i < m->vcpus; i++) {
		writers[i] = (struct writer){ .migration = m,
					      .consumer = &m->consumers[i],
					      .number = i };
		assert_int_equal(pthread_create(&writers[i].thread, NULL, run_vcpu, &writers[i]),
				 0);
	}
	assert_int_equal(pthread_create(&changer, NULL, change_slots, m), 0);
	while (m->running) {
		harvest(m);
		copy_pending(m);
	}
	for (i = 0; i < m->vcpus; i++) {
		pthread_join(writers[i].thread, &result);
		assert_null(result);
	}
	pthread_join(changer, &result);
	assert_null(result);
	harvest(m);
	copy_pending(m);
	assert_memory_equal(m->copy, m->w.memory, m->w.memory_bytes);
	for (i = 0; i < VCPUS * 8; i += 8)
		assert_int_not_equal(*(uint64_t *)(void *)(m->copy + i), 0);
}

static void with_options(const struct model_options *options, bool rings, bool manual)
{
	struct migration m = { .vcpus = VCPUS, .rings = rings, .manual = manual };
	uint32_t i;

	if (rings)
		world_open_ring(&m.w, options, false);
	else
		world_open(&m.w, options);
	if (manual)
		assert_int_equal(enable(&m.w, CAP_MANUAL, 1, 0), 0);
	if (!rings)
		assert_int_equal(slot0(&m.w, LOG), 0);
	m.copy = calloc(1, m.w.memory_bytes);
	assert_non_null(m.copy);
	pthread_mutex_init(&m.lock, NULL);
	for (i = 0; i < VCPUS; i++) {
		if (rings)
			consumer_open(&m.w, &m.consumers[i]);
		else
			m.consumers[i].vcpu = model_vcpu_create(m.w.model, m.w.vm);
		m.consumers[i].head = options ? options->ring_first_index : 0;
	}
	migrate(&m);
	if (rings)
		print_message("full exits: %u\n", m.full_exits);
	for (i = 0; i < VCPUS && rings; i++)
		consumer_close(&m.w, &m.consumers[i]);
	pthread_mutex_destroy(&m.lock);
	free(m.copy);
	world_close(&m.w);
}

static void rings_log_then_store(void **unused)
{
	(void)unused;
	with_options(NULL, true, false);
}

static void rings_map_then_log(void **unused)
{
	const struct model_options options = { .write_order = MODEL_MAP_THEN_LOG,
					       .ring_first_index = 0xfffffff0 };

	(void)unused;
	with_options(&options, true, false);
}

static void rings_store_then_log(void **unused)
{
	const struct model_options options = { .write_order = MODEL_STORE_THEN_LOG };

	(void)unused;
	with_options(&options, true, false);
}

static void rings_with_pml(void **unused)
{
	const struct model_options options = { .pml_entries = 32 };

	(void)unused;
	with_options(&options, true, false);
}

static void bitmap_automatic(void **unused)
{
	(void)unused;
	with_options(NULL, false, false);
}

static void bitmap_manual(void **unused)
{
	const struct model_options options = { .pml_entries = 32 };

	(void)unused;
	with_options(&options, false, true);
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
