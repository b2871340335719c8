/* SPDX-License-Identifier: MIT */
#include "migration.h"

#include "cmocka_all.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* The open migration, for the teardown. */
static struct migration *live;

static uint64_t any_page(struct migration_writer *writer, const struct migration_range **range)
{
	struct migration *m = writer->migration;
	uint64_t n;

	*range = &m->ranges[random_below(&writer->random, m->range_count)];
	n = (*range)->pages;
	/* A third of the writes go to the hot first pages, or through the range in order. */
	if (random_below(&writer->random, 3))
		return (*range)->gpa_page + random_below(&writer->random, n);
	return (*range)->gpa_page + (random_below(&writer->random, 2)
					     ? atomic_load(&writer->writes) % n
					     : random_below(&writer->random, 1 + n / 16));
}

/* Waits for more writes to be granted. Returns false when the writer is to stop. */
static bool may_go_on(struct migration_writer *writer)
{
	struct migration *m = writer->migration;
	bool stopped;

	pthread_mutex_lock(&m->lock);
	while (!(stopped = atomic_load(&writer->stop)) &&
	       atomic_load(&writer->writes) >= m->granted)
		pthread_cond_wait(&m->changed, &m->lock);
	pthread_mutex_unlock(&m->lock);
	return !stopped;
}

static void *run_vcpu(void *opaque)
{
	struct migration_writer *writer = opaque;
	struct guest *guest = &writer->migration->guest;

	while (may_go_on(writer)) {
		const struct migration_range *range;
		uint64_t page = any_page(writer, &range);
		int r = guest_write(guest, writer->vcpu, range->as_id, page);

		/* -EFAULT: no slot covers the page at the moment. */
		if (r && r != -EFAULT)
			abort();
		atomic_fetch_add(&writer->writes, 1);
	}
	model_vcpu_exit(guest->model, writer->vcpu->fd, KVM_EXIT_INTR);
	return NULL;
}

static void *run_device(void *opaque)
{
	struct migration_writer *writer = opaque;
	struct migration *m = writer->migration;

	while (may_go_on(writer)) {
		uint64_t page = random_below(&writer->random, m->guest.blocks[0].pages);

		guest_device_write(&m->guest, &m->guest.blocks[0], page,
				   m->ranges[0].gpa_page + page);
		atomic_fetch_add(&writer->writes, 1);
	}
	return NULL;
}

static void *run_kernel_writer(void *opaque)
{
	struct migration_writer *writer = opaque;

	while (may_go_on(writer)) {
		const struct migration_range *range;
		uint64_t page = any_page(writer, &range);

		guest_kernel_write(&writer->migration->guest, page);
		atomic_fetch_add(&writer->writes, 1);
	}
	return NULL;
}

/* A pass of another consumer, or a look of a reaper at every ring. */
static int disturb(struct migration *m, struct dl_cursor *cursor, bool harvest)
{
	int r;

	if (!harvest)
		return dl_log_reap(m->guest.log, DL_REAP_NOW, NULL);
	r = dl_harvest(cursor, 0, NULL);
	return r ? r : dl_cursor_end(cursor, DL_END_COMMIT);
}

/* Joins, harvests beside the migration's own cursor, and leaves. */
static void *run_harvester(void *opaque)
{
	const struct dl_cursor_options clean = { .size = sizeof(clean), .flags = DL_CURSOR_CLEAN };
	struct migration_writer *writer = opaque;
	struct migration *m = writer->migration;
	struct dl_cursor *cursor;
	int r = dl_cursor_new(m->guest.log, &clean, &cursor);

	for (unsigned int turn = 0; may_go_on(writer); turn++) {
		r = r ? r : disturb(m, cursor, turn % 2);
		atomic_fetch_add(&writer->writes, 8);
		sched_yield();
	}
	if (r)
		atomic_store(&m->harvester_error, r);
	dl_cursor_free(cursor);
	return NULL;
}

static void run(struct migration *m, struct guest_vcpu *vcpu, void *(*body)(void *))
{
	struct migration_writer *writer = NULL;

	for (unsigned int i = 0; i < m->writer_count; i++)
		if (vcpu && m->writers[i].vcpu == vcpu)
			writer = &m->writers[i];
	if (!writer)
		writer = &m->writers[m->writer_count++];
	assert_true(m->writer_count <= MIGRATION_THREADS);
	writer->migration = m;
	writer->vcpu = vcpu;
	writer->random.state = 1000003 * m->writer_count + m->granted;
	/* A writer that starts late does not catch up on earlier grants. */
	atomic_store(&writer->writes, m->granted);
	atomic_store(&writer->stop, false);
	atomic_store(&writer->running, true);
	assert_int_equal(pthread_create(&writer->thread, NULL, body, writer), 0);
}

void migration_run_vcpu(struct migration *m, struct guest_vcpu *vcpu)
{
	run(m, vcpu, run_vcpu);
}

void migration_run(struct migration *m)
{
	m->writer_count = 0;
	for (unsigned int i = 0; i < m->guest.vcpu_count; i++)
		migration_run_vcpu(m, &m->guest.vcpus[i]);
	if (m->has_devices)
		run(m, NULL, run_device);
	if (m->has_kernel_writer)
		run(m, NULL, run_kernel_writer);
	if (m->has_harvester)
		run(m, NULL, run_harvester);
}

static void stop(struct migration_writer *writer)
{
	if (!atomic_load(&writer->running))
		return;
	pthread_mutex_lock(&writer->migration->lock);
	atomic_store(&writer->stop, true);
	pthread_cond_broadcast(&writer->migration->changed);
	pthread_mutex_unlock(&writer->migration->lock);
	pthread_join(writer->thread, NULL);
	atomic_store(&writer->running, false);
}

void migration_stop_vcpu(struct migration *m, struct guest_vcpu *vcpu)
{
	for (unsigned int i = 0; i < m->writer_count; i++)
		if (m->writers[i].vcpu == vcpu)
			stop(&m->writers[i]);
}

void migration_stop(struct migration *m)
{
	for (unsigned int i = 0; i < m->writer_count; i++)
		stop(&m->writers[i]);
}

void migration_wait(struct migration *m, unsigned long writes)
{
	unsigned long target;

	pthread_mutex_lock(&m->lock);
	target = m->granted + writes;
	m->granted += 2 * writes;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	for (unsigned int i = 0; i < m->writer_count; i++)
		while (atomic_load(&m->writers[i].running) &&
		       atomic_load(&m->writers[i].writes) < target)
			sched_yield();
}

void migration_add_blocks(struct migration *m)
{
	checker_add_guest(&m->checker, &m->guest);
}

void migration_set(struct migration *m, struct dl_slot slot)
{
	assert_int_equal(checker_slot_set(&m->checker, &slot), 0);
}

struct guest_block *migration_add_slot(struct migration *m, uint32_t number, uint64_t gpa_page,
				       uint64_t pages)
{
	struct guest_block *block = guest_memory(&m->guest, pages);

	migration_add_blocks(m);
	migration_set(m, guest_slot(&m->guest, number, gpa_page, block, 0, pages));
	return block;
}

void migration_add_range(struct migration *m, uint32_t as_id, uint64_t gpa_page, uint64_t pages)
{
	assert_true(m->range_count < MIGRATION_RANGES);
	m->ranges[m->range_count++] = (struct migration_range){ as_id, gpa_page, pages };
}

void migration_open(struct migration *m, const struct guest_config *config, unsigned int vcpus)
{
	static const struct {
		uint32_t number;
		uint64_t gpa_page, pages;
	} slots[] = { { 0, 16, 260 }, { 7, 276, 130 }, { 3, 4096, 60 } };
	static uint64_t turn;

	memset(m, 0, sizeof(*m));
	live = m;
	m->readers = 1;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->changed, NULL);
	guest_open(&m->guest, config);
	checker_init_guest(&m->checker, &m->guest);
	if (++turn % 2)
		checker_deliver_late(&m->checker, turn);
	for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
		migration_add_slot(m, slots[i].number, slots[i].gpa_page, slots[i].pages);
		migration_add_range(m, 0, slots[i].gpa_page, slots[i].pages);
	}
	for (unsigned int i = 0; i < vcpus; i++)
		guest_vcpu(&m->guest, true);
}

void migration_close(struct migration *m)
{
	migration_stop(m);
	checker_free(&m->checker);
	guest_close(&m->guest);
	pthread_mutex_destroy(&m->lock);
	pthread_cond_destroy(&m->changed);
	live = NULL;
}

int migration_teardown(void **state)
{
	if (live)
		migration_close(live);
	return 0;
}

void migration_start(struct migration *m, uint32_t flags)
{
	if (flags & DL_CURSOR_CLEAN)
		checker_equalize(&m->checker);
	assert_int_equal(checker_join(&m->checker, flags), 0);
}

void migration_pass(struct migration *m)
{
	assert_int_equal(checker_pass(&m->checker, 0, m->readers), 0);
}

void migration_passes(struct migration *m, unsigned int passes, unsigned long writes)
{
	for (unsigned int i = 0; i < passes; i++) {
		migration_wait(m, writes);
		migration_pass(m);
	}
}

unsigned int migration_pass_again(struct migration *m, uint32_t flags, unsigned int most)
{
	unsigned int failures = 0;

	while (checker_pass(&m->checker, flags, m->readers)) {
		failures++;
		assert_true(failures <= most);
	}
	return failures;
}

void migration_finish(struct migration *m)
{
	migration_stop(m);
	assert_int_equal(atomic_load(&m->harvester_error), 0);
	guest_stop(&m->guest);
	assert_int_equal(checker_last_pass(&m->checker, m->readers), 0);
	checker_expect_equal(&m->checker);
}

struct dl_stats migration_stats(const struct migration *m)
{
	return guest_stats(&m->guest);
}
