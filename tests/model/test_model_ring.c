/* SPDX-License-Identifier: MIT */
/* The model's rings: the life of an entry, full rings, overflow. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture.h"

static struct model_ring ring_of(struct world *w, const struct consumer *c)
{
	struct model_ring ring;

	assert_int_equal(model_vcpu_ring(w->model, c->vcpu, &ring), 0);
	return ring;
}

static void life_of_an_entry(void **unused)
{
	struct consumer c;
	struct world w;
	uint32_t slot;
	uint64_t page;

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	assert_int_equal(state(&w, 0, 7), MODEL_PAGE_PROTECTED);
	assert_int_equal(touch(&w, c.vcpu, 7), 0);
	assert_int_equal(*(uint64_t *)(w.memory + 7 * PAGE_BYTES), 7);
	assert_true(model_page_writes(w.model, w.vm, 0, 7) == 1);
	assert_int_equal(state(&w, 0, 7), MODEL_PAGE_IN_RING);
	assert_int_equal(touch(&w, c.vcpu, 7), 0); /* now writable: no second entry */
	assert_int_equal(ring_of(&w, &c).pushed_entries, 1);
	assert_true(consume(&c, &slot, &page));
	assert_int_equal(slot, 0);
	assert_true(page == 7);
	assert_int_equal(state(&w, 0, 7), MODEL_PAGE_RELEASED);
	assert_false(consume(&c, &slot, &page));
	assert_int_equal(reset(&w), 1);
	assert_int_equal(c.cells[0].flags, 0);
	assert_int_equal(state(&w, 0, 7), MODEL_PAGE_PROTECTED);
	assert_int_equal(reset(&w), 0);
	assert_int_equal(touch(&w, c.vcpu, 7), 0);
	assert_int_equal(c.cells[1].flags, KVM_DIRTY_GFN_F_DIRTY);
	world_close_consumer(&w, &c);
}

static uint32_t fill(struct world *w, struct consumer *c)
{
	uint64_t page;

	for (page = 0; page < SLOT_PAGES; page++)
		if (touch(w, c->vcpu, page) == KVM_EXIT_DIRTY_RING_FULL)
			return (uint32_t)page;
	return SLOT_PAGES;
}

static void the_soft_limit_ends_the_run(void **unused)
{
	struct consumer c;
	struct world w;
	struct kvm_run *run;

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	assert_int_equal(w.os->mmap(w.os->opaque, c.vcpu, 0, PAGE_BYTES, PROT_READ, MAP_SHARED,
				    (void **)&run),
			 0);
	/* The entry that fills the ring precedes its store, which is not made. */
	assert_int_equal(fill(&w, &c), SOFT_LIMIT - 1);
	assert_int_equal(c.cells[SOFT_LIMIT - 1].offset, SOFT_LIMIT - 1);
	assert_true(model_page_writes(w.model, w.vm, 0, SOFT_LIMIT - 1) == 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(touch(&w, c.vcpu, 1), KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(model_vcpu_enter(w.model, c.vcpu), KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(slot0(&w, 0), 0); /* logging off does not let it run */
	assert_int_equal(touch(&w, c.vcpu, 1), KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(consume_all(&c), SOFT_LIMIT);
	assert_int_equal(touch(&w, c.vcpu, 1), KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(reset(&w), SOFT_LIMIT);
	assert_int_equal(run->exit_reason, KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(touch(&w, c.vcpu, 1), 0);
	assert_int_equal(run->exit_reason, KVM_EXIT_UNKNOWN);
	assert_int_equal(w.os->munmap(w.os->opaque, run, PAGE_BYTES), 0);
	world_close_consumer(&w, &c);
}

/*
 * A reset index that is too far keeps the vCPU out of the guest: before 6.2 at once, since then
 * from the next push on.
 */
static void a_reset_index_too_far_stops_entry_before_6_2(void **unused)
{
	struct model_options options = { 0 };
	struct consumer c;
	struct world w;

	(void)unused;
	for (int is_old = 0; is_old < 2; is_old++) {
		options.looks_at_ring_on_entry = is_old;
		world_open_ring(&w, &options, false);
		consumer_open(&w, &c);
		c.cells[0].flags = KVM_DIRTY_GFN_F_RESET;
		assert_int_equal(reset(&w), 1);
		assert_int_equal(touch(&w, c.vcpu, 1), is_old ? KVM_EXIT_DIRTY_RING_FULL : 0);
		consumer_close(&w, &c);
		world_close(&w);
	}
}

static void without_a_ring_no_vcpu_is_stopped(void **unused)
{
	const struct model_options options = { .looks_at_ring_on_entry = true };
	struct world w;

	(void)unused;
	world_open(&w, &options);
	assert_int_equal(slot0(&w, 0), 0);
	assert_int_equal(touch(&w, model_vcpu_create(w.model, w.vm), 1), 0);
	world_close(&w);
}

static void write_orders(void **unused)
{
	const enum model_point points[] = { MODEL_GUEST_LOGGED, MODEL_GUEST_MAPPED,
					    MODEL_GUEST_STORED };
	struct model_options options = { 0 };
	struct event_count counter = { .count = 0 };
	uint32_t order;

	(void)unused;
	for (order = MODEL_LOG_THEN_STORE; order <= MODEL_STORE_THEN_LOG; order++) {
		struct consumer c;
		struct world w;

		options.write_order = order;
		world_open_ring(&w, &options, false);
		consumer_open(&w, &c);
		counter = (struct event_count){ .point = points[order] };
		model_hook(w.model, count_event, &counter);
		assert_int_equal(touch(&w, c.vcpu, 9), 0);
		assert_int_equal(touch(&w, c.vcpu, 9), 0);
		/* An emulated store is logged every time, and leaves the page protected. */
		assert_int_equal(counter.count, order == MODEL_STORE_THEN_LOG ? 2 : 1);
		assert_int_equal(consume_all(&c), order == MODEL_STORE_THEN_LOG ? 2 : 1);
		assert_int_equal(state(&w, 0, 9) & MODEL_PAGE_PROTECTED,
				 order == MODEL_STORE_THEN_LOG);
		consumer_close(&w, &c);
		world_close(&w);
	}
}

static void indices_wrap(void **unused)
{
	const struct model_options options = { .ring_first_index = 0xfffffff0 };
	struct consumer c;
	struct world w;
	uint32_t round;
	uint64_t page;

	(void)unused;
	world_open_consumer(&w, &options, &c);
	c.head = 0xfffffff0;
	for (round = 0; round < 5; round++) {
		for (page = 0; page < 100; page++)
			assert_int_equal(touch(&w, c.vcpu, page), 0);
		assert_int_equal(consume_all(&c), 100);
		assert_int_equal(reset(&w), 100);
	}
	assert_int_equal(ring_of(&w, &c).dirty_index, 0xfffffff0 + 500);
	assert_int_equal(fill(&w, &c), SOFT_LIMIT - 1);
	world_close_consumer(&w, &c);
}

static void overflow_by_the_kernel(void **unused)
{
	struct consumer c;
	struct world w;
	uint64_t page;

	(void)unused;
	world_open_consumer(&w, NULL, &c);
	for (page = 0; page < RING_ENTRIES + 10; page++)
		assert_int_equal(touch_unchecked(&w, c.vcpu, page), 0);
	assert_int_equal(ring_of(&w, &c).overwritten_entries, 10);
	assert_int_equal(c.cells[0].offset, RING_ENTRIES);
	assert_int_equal(touch(&w, c.vcpu, 0), KVM_EXIT_DIRTY_RING_FULL);
	assert_int_equal(consume_all(&c), RING_ENTRIES);
	assert_int_equal(reset(&w), RING_ENTRIES);
	assert_int_equal(touch(&w, c.vcpu, 0), 0);
	assert_int_equal(consume_all(&c), 0); /* out of sync: the entry is 10 cells further */
	world_close_consumer(&w, &c);
}

/* As on hosts that emulate in batches: full is noticed late, cells are overwritten, pages lost. */
static void overflow_by_batches(void **unused)
{
	const struct model_options options = { .batch_writes = 400 };
	struct consumer c;
	struct world w;
	uint32_t lost = 0;
	uint64_t page;

	(void)unused;
	world_open_consumer(&w, &options, &c);
	assert_int_equal(fill(&w, &c), 399);
	assert_int_equal(ring_of(&w, &c).overwritten_entries, 400 - RING_ENTRIES);
	for (page = 0; page < 400; page++)
		lost += !(state(&w, 0, page) & (MODEL_PAGE_PROTECTED | MODEL_PAGE_RECORDED));
	assert_int_equal(lost, 400 - RING_ENTRIES);
	world_close_consumer(&w, &c);
}

/* With PML the writes of a running vCPU reach the ring when it exits. */
static void pml_entries_reach_the_ring_at_the_exit(void **unused)
{
	const struct model_options options = { .pml_entries = 16, .reserved_entries = 64 };
	struct consumer c;
	struct world w;
	uint64_t page;

	(void)unused;
	world_open_consumer(&w, &options, &c);
	for (page = 0; page < 10; page++)
		assert_int_equal(touch(&w, c.vcpu, page), 0);
	assert_int_equal(state(&w, 0, 5), MODEL_PAGE_IN_PML);
	assert_int_equal(consume_all(&c), 0);
	model_vcpu_exit(w.model, c.vcpu, KVM_EXIT_INTR);
	assert_int_equal(consume_all(&c), 10);
	for (; page < 26; page++)
		assert_int_equal(touch(&w, c.vcpu, page), 0);
	assert_int_equal(consume_all(&c), 16);
	assert_int_equal(reset(&w), 26);
	world_close_consumer(&w, &c);
}

/* GET kicks the vCPUs and does not wait; the next GET returns the buffered writes. */
static void get_kicks_vcpus_to_flush_pml(void **unused)
{
	const struct model_options options = { .pml_entries = 16 };
	uint64_t bits[SLOT_PAGES / 64];
	struct world w;
	int vcpu;

	(void)unused;
	world_open(&w, &options);
	vcpu = model_vcpu_create(w.model, w.vm);
	assert_int_equal(slot0(&w, KVM_MEM_LOG_DIRTY_PAGES), 0);
	assert_int_equal(touch(&w, vcpu, 5), 0);
	assert_int_equal(get_log(&w, 0, bits), 0);
	assert_true(!bits[0]);
	assert_int_equal(touch(&w, vcpu, 6), 0);
	assert_int_equal(state(&w, 0, 5), MODEL_PAGE_IN_BITMAP);
	assert_int_equal(state(&w, 0, 6), MODEL_PAGE_IN_PML);
	world_close(&w);
}

/* At the offset of the ring on a 4 KiB host, a 16 KiB host maps nothing. */
static void the_ring_is_at_64_host_pages(void **unused)
{
	const struct model_options options = { .page_bytes = 16384 };
	volatile uint32_t *cells;
	struct world w;
	int vcpu, status;
	pid_t child;

	(void)unused;
	world_open(&w, &options);
	assert_int_equal(enable(&w, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, 16384, 0), 0);
	vcpu = model_vcpu_create(w.model, w.vm);
	assert_int_equal(w.os->mmap(w.os->opaque, vcpu, 64 * 4096, 16384, PROT_READ, MAP_SHARED,
				    (void **)&cells),
			 0);
	child = fork();
	if (!child) {
		signal(SIGBUS, SIG_DFL);
		_exit((int)*cells);
	}
	assert_true(waitpid(child, &status, 0) == child);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
	assert_int_equal(w.os->munmap(w.os->opaque, (void *)(uintptr_t)cells, 16384), 0);
	world_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(life_of_an_entry),
		cmocka_unit_test(the_soft_limit_ends_the_run),
		cmocka_unit_test(a_reset_index_too_far_stops_entry_before_6_2),
		cmocka_unit_test(without_a_ring_no_vcpu_is_stopped),
		cmocka_unit_test(write_orders),
		cmocka_unit_test(indices_wrap),
		cmocka_unit_test(overflow_by_the_kernel),
		cmocka_unit_test(overflow_by_batches),
		cmocka_unit_test(pml_entries_reach_the_ring_at_the_exit),
		cmocka_unit_test(get_kicks_vcpus_to_flush_pml),
		cmocka_unit_test(the_ring_is_at_64_host_pages),
	};

	return cmocka_run_group_tests_name("model: rings", tests, NULL, NULL);
}
