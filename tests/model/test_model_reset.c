/* SPDX-License-Identifier: MIT */
/* The model's KVM_RESET_DIRTY_RINGS: what it takes, protects and flushes. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "fixture.h"
#include "internal.h"

#define LOG KVM_MEM_LOG_DIRTY_PAGES

static void reset_takes_the_entries_of_all_vcpus(void **unused)
{
	struct consumer a, b;
	struct world w;

	(void)unused;
	world_open_ring(&w, NULL, false);
	consumer_open(&w, &a);
	consumer_open(&w, &b);
	assert_int_equal(touch(&w, a.vcpu, 1), 0);
	assert_int_equal(touch(&w, a.vcpu, 2), 0);
	assert_int_equal(touch(&w, b.vcpu, 2), 0); /* writable for all vCPUs since a's write */
	assert_int_equal(touch(&w, b.vcpu, 3), 0);
	assert_int_equal(consume_all(&a), 2);
	assert_int_equal(consume_all(&b), 1);
	assert_int_equal(reset(&w), 3);
	consumer_close(&w, &a);
	consumer_close(&w, &b);
	world_close(&w);
}

/* Writes and releases the pages. Returns the number of batches that RESET protects. */
static unsigned int batches_of(const uint64_t *pages, size_t count)
{
	struct event_count counter = { .point = MODEL_RESET_PROTECTED };
	struct consumer c;
	struct world w;
	size_t i;

	world_open_consumer(&w, NULL, &c);
	for (i = 0; i < count; i++)
		assert_int_equal(touch(&w, c.vcpu, pages[i]), 0);
	model_hook(w.model, count_event, &counter);
	assert_int_equal(consume_all(&c), count);
	assert_int_equal(reset(&w), count);
	for (i = 0; i < count; i++)
		assert_int_equal(state(&w, 0, pages[i]), MODEL_PAGE_PROTECTED);
	world_close_consumer(&w, &c);
	return counter.count;
}

static void reset_merges_entries_into_batches(void **unused)
{
	const uint64_t backwards[] = { 100, 99, 90, 37 };
	const uint64_t too_far_back[] = { 100, 36 };
	const uint64_t over_the_width[] = { 10, 73, 9 };
	const uint64_t apart[] = { 10, 74, 300, 10 + 64 };
	const uint64_t unaligned[] = { 60, 70, 123, 64 };
	uint64_t row[65];
	uint64_t i;

	(void)unused;
	for (i = 0; i < 65; i++)
		row[i] = i + 3;
	assert_int_equal(batches_of(row, 64), 1);
	assert_int_equal(batches_of(row, 65), 2);
	assert_int_equal(batches_of(backwards, 4), 1);
	assert_int_equal(batches_of(too_far_back, 2), 2);
	assert_int_equal(batches_of(over_the_width, 3), 2);
	assert_int_equal(batches_of(apart, 3), 3);
	assert_int_equal(batches_of(unaligned, 4), 1);
}

/* arm64: a batch also protects the pages between its own, even if their entries are unread. */
static void batches_protect_ranges(void **unused)
{
	for (int ranges = 0; ranges < 2; ranges++) {
		const struct model_options options = { .protects_ranges = ranges };
		struct consumer a, b;
		struct world w;

		world_open_ring(&w, &options, false);
		consumer_open(&w, &a);
		consumer_open(&w, &b);
		assert_int_equal(touch(&w, a.vcpu, 4), 0);
		assert_int_equal(touch(&w, b.vcpu, 5), 0);
		assert_int_equal(touch(&w, a.vcpu, 7), 0);
		assert_int_equal(touch(&w, b.vcpu, 8), 0);
		assert_int_equal(consume_all(&a), 2);
		assert_int_equal(reset(&w), 2);
		assert_int_equal(state(&w, 0, 5),
				 MODEL_PAGE_IN_RING | (ranges ? MODEL_PAGE_PROTECTED : 0));
		assert_int_equal(state(&w, 0, 8), MODEL_PAGE_IN_RING);
		consumer_close(&w, &a);
		consumer_close(&w, &b);
		world_close(&w);
	}
	(void)unused;
}

struct at_flush {
	struct world *world;
	int vcpu;
	int other_reset;
	uint8_t state;
};

static void write_before_flush(void *opaque, const struct model_event *event)
{
	struct at_flush *at = opaque;

	if (event->point != MODEL_RESET_UNLOCKED || at->state)
		return;
	at->state = state(at->world, 0, 1);
	assert_int_equal(touch(at->world, at->vcpu, 1), 0);
	at->other_reset = reset(at->world);
}

/* Between protection and flush a vCPU still writes unlogged, and a second RESET returns 0. */
static void writes_go_unlogged_until_the_flush(void **unused)
{
	const struct model_reset_fault late = { .times = 1, .late_flush = true };
	struct at_flush at = { .other_reset = -1 };
	struct consumer c;
	struct world w;

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	at.world = &w;
	at.vcpu = c.vcpu;
	assert_int_equal(touch(&w, c.vcpu, 1), 0);
	assert_int_equal(consume_all(&c), 1);
	model_hook(w.model, write_before_flush, &at);
	assert_int_equal(reset(&w), 1);
	model_hook(w.model, NULL, NULL);
	assert_int_equal(at.state, MODEL_PAGE_PROTECTED | MODEL_PAGE_STALE_TLB);
	assert_int_equal(at.other_reset, 0);
	assert_int_equal(consume_all(&c), 0);
	assert_int_equal(state(&w, 0, 1), MODEL_PAGE_PROTECTED);

	assert_int_equal(touch(&w, c.vcpu, 2), 0);
	assert_int_equal(consume_all(&c), 1);
	model_reset_fault(w.model, &late);
	assert_int_equal(reset(&w), 1);
	assert_int_equal(touch(&w, c.vcpu, 2), 0);
	assert_int_equal(consume_all(&c), 0);
	model_flush_tlb(w.model, w.vm);
	assert_int_equal(touch(&w, c.vcpu, 2), 0);
	assert_int_equal(consume_all(&c), 1);
	world_close_consumer(&w, &c);
}

static void release(struct consumer *c, uint32_t index, uint32_t flags)
{
	__atomic_store_n(&c->cells[index & (c->entries - 1)].flags, flags, __ATOMIC_RELEASE);
}

/* RESET stops at a skipped entry; any flags with bit 1 set release a cell. */
static void reset_stops_at_a_gap(void **unused)
{
	struct consumer c;
	struct world w;

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	assert_int_equal(touch(&w, c.vcpu, 1), 0);
	assert_int_equal(touch(&w, c.vcpu, 2), 0);
	release(&c, 1, 3);
	assert_int_equal(reset(&w), 0);
	release(&c, 0, 0xabcd0002);
	assert_int_equal(reset(&w), 2);
	world_close_consumer(&w, &c);
}

/* Releasing cells that hold no entry moves the reset index past the dirty index. */
static void releasing_too_many_cells_fills_the_ring(void **unused)
{
	struct consumer c;
	struct world w;

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	release(&c, 0, 2);
	assert_int_equal(reset(&w), 1);
	assert_int_equal(touch(&w, c.vcpu, 1), 0);
	release(&c, 0, 3);
	assert_int_equal(reset(&w), 0); /* one too far: RESET does not look at the entry */
	release(&c, 1, 2);
	release(&c, 2, 2);
	assert_int_equal(reset(&w), 2);
	assert_int_equal(touch(&w, c.vcpu, 2), KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(reset(&w), 0); /* two too far: permanently full */
	assert_int_equal(touch(&w, c.vcpu, 3), KVM_EXIT_DIRTY_RING_FULL);
	world_close_consumer(&w, &c);
}

/* RESET takes and counts entries of deleted slots and pages outside, and ignores them. */
static void stale_entries_are_ignored(void **unused)
{
	struct consumer c;
	struct world w;

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	assert_int_equal(touch(&w, c.vcpu, 1), 0);
	assert_int_equal(touch(&w, c.vcpu, 2), 0);
	assert_int_equal(consume_all(&c), 2);
	assert_int_equal(region(&w, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(touch(&w, c.vcpu, 1), -EFAULT);
	assert_int_equal(reset(&w), 2);

	/* A batch with one page outside the slot is not protected at all. */
	assert_int_equal(slot0(&w, LOG), 0);
	assert_int_equal(touch(&w, c.vcpu, SLOT_PAGES - 1), 0);
	assert_int_equal(touch(&w, c.vcpu, 3), 0);
	c.cells[3].offset = SLOT_PAGES;
	assert_int_equal(consume_all(&c), 2);
	assert_int_equal(reset(&w), 2);
	assert_int_equal(state(&w, 0, SLOT_PAGES - 1), 0);
	c.cells[4].slot = 1 << 16 | 99;
	c.cells[4].offset = ~0ULL;
	release(&c, 4, 2);
	c.cells[5].slot = 0xffffffff;
	release(&c, 5, 2);
	assert_int_equal(reset(&w), 2);
	world_close_consumer(&w, &c);
}

static void a_moved_slot_is_protected_at_its_new_place(void **unused)
{
	struct consumer c;
	struct world w;
	uint64_t gpa = SLOT_GPA + (64 << 20);

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	assert_int_equal(touch(&w, c.vcpu, 1), 0);
	assert_int_equal(region(&w, 0, LOG, gpa, SLOT_PAGES, w.memory), 0);
	assert_int_equal(state(&w, 0, 1), MODEL_PAGE_PROTECTED | MODEL_PAGE_IN_RING);
	assert_int_equal(touch(&w, c.vcpu, 1), -EFAULT);
	assert_int_equal(model_vcpu_write(w.model, c.vcpu, 0, gpa + PAGE_BYTES, &gpa, sizeof(gpa)),
			 0);
	assert_int_equal(consume_all(&c), 2);
	assert_int_equal(reset(&w), 2);
	assert_int_equal(state(&w, 0, 1), MODEL_PAGE_PROTECTED);
	world_close_consumer(&w, &c);
}

/* Deleting a slot flushes the TLBs, so no later flush refers to it. */
static void deleting_a_slot_flushes(void **unused)
{
	const struct model_reset_fault late = { .late_flush = true };
	struct consumer c;
	struct world w;

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	assert_int_equal(touch(&w, c.vcpu, 1), 0);
	assert_int_equal(consume_all(&c), 1);
	model_reset_fault(w.model, &late);
	assert_int_equal(reset(&w), 1);
	assert_int_equal(state(&w, 0, 1), MODEL_PAGE_PROTECTED | MODEL_PAGE_STALE_TLB);
	assert_int_equal(mk_find_vm(w.model, w.vm)->stale_count, 1);
	assert_int_equal(region(&w, 0, 0, 0, 0, NULL), 0);
	assert_int_equal(mk_find_vm(w.model, w.vm)->stale_count, 0);
	model_flush_tlb(w.model, w.vm);
	world_close_consumer(&w, &c);
}

struct resetter {
	struct world *world;
	_Atomic pid_t tid;
	_Atomic bool done;
};

static void *run_reset(void *opaque)
{
	struct resetter *resetter = opaque;
	int result;

	resetter->tid = gettid();
	result = reset(resetter->world);
	resetter->done = true;
	return (void *)(intptr_t)result;
}

static bool sleeps(pid_t tid)
{
	char path[64], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	file = fopen(path, "r");
	if (!file)
		return false;
	if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(file);
	return state == 'S';
}

/* A flush waits for a store through a stale TLB entry; RESET does not return before. */
static void a_flush_waits_for_a_store(void **unused)
{
	struct resetter resetter = { .done = false };
	struct model_vcpu *vcpu;
	struct consumer c;
	struct world w;
	pthread_t thread;
	void *result;

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	resetter.world = &w;
	assert_int_equal(touch(&w, c.vcpu, 1), 0);
	assert_int_equal(consume_all(&c), 1);
	vcpu = mk_find_vcpu(w.model, c.vcpu);
	pthread_mutex_lock(&vcpu->guest_lock); /* as if in the middle of a store */
	assert_int_equal(pthread_create(&thread, NULL, run_reset, &resetter), 0);
	while (!resetter.done && !(resetter.tid && sleeps(resetter.tid)))
		;
	assert_false(resetter.done);
	pthread_mutex_unlock(&vcpu->guest_lock);
	pthread_join(thread, &result);
	assert_int_equal((intptr_t)result, 1);
	world_close_consumer(&w, &c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reset_takes_the_entries_of_all_vcpus),
		cmocka_unit_test(reset_merges_entries_into_batches),
		cmocka_unit_test(batches_protect_ranges),
		cmocka_unit_test(writes_go_unlogged_until_the_flush),
		cmocka_unit_test(reset_stops_at_a_gap),
		cmocka_unit_test(releasing_too_many_cells_fills_the_ring),
		cmocka_unit_test(stale_entries_are_ignored),
		cmocka_unit_test(a_moved_slot_is_protected_at_its_new_place),
		cmocka_unit_test(deleting_a_slot_flushes),
		cmocka_unit_test(a_flush_waits_for_a_store),
	};

	return cmocka_run_group_tests_name("model: reset", tests, NULL, NULL);
}
