/* SPDX-License-Identifier: MIT */
/* The examples of dl_plan_new(3) and dl_vcpu_limit(3), on the model kernel. */
#include "../unit/cmocka_all.h"
#include "../model/model.h"

#include <dirtylog/dirtylog.h>

#include <stdlib.h>
#include <string.h>

enum { PAGE_BYTES = 4096, PAGES = 2000, MILLISECOND = 1000000 };

/* As in the pages. */
int converge(struct dl_log *log, struct dl_cursor *cursor, struct dl_plan **plan);
int enter_guest(struct dl_vcpu *vcpu);
/* Functions that the pages leave to the caller. */
int send_for(struct dl_cursor *cursor, struct dl_plan *plan, uint64_t ns);
void kick(uint64_t vcpu);
void sleep_or_kick(uint64_t ns);
int kvm_run(void);

static struct {
	struct model *model;
	struct dl_log *log;
	struct dl_vcpu *vcpu;
	int vcpu_fd;
	uint64_t next_page, kicks, slept_ns, runs;
	uint64_t value;
	bool in_pass;
} vm;

static void write_pages(int n)
{
	for (; n; n--, vm.next_page++) {
		uint64_t gpa = vm.next_page % PAGES * PAGE_BYTES;

		vm.value++;
		while (model_vcpu_write(vm.model, vm.vcpu_fd, 0, gpa, &vm.value, 8))
			assert_int_equal(dl_vcpu_drain(vm.vcpu, 0), 0);
	}
}

/* The guest runs for a millisecond and dirties 30 pages. */
int kvm_run(void)
{
	vm.runs++;
	write_pages(30);
	model_advance(vm.model, MILLISECOND);
	return 7;
}

void sleep_or_kick(uint64_t ns)
{
	vm.slept_ns += ns;
	model_advance(vm.model, ns);
}

void kick(uint64_t vcpu)
{
	assert_int_equal(vcpu, 5);
	vm.kicks++;
}

/* The wire takes 20 pages a millisecond, also while the vCPU is in a pause. */
int send_for(struct dl_cursor *cursor, struct dl_plan *plan, uint64_t ns)
{
	struct dl_extent extent;
	uint64_t before_ns = vm.slept_ns, sent = 0, room, ran_ns = 0;
	uint64_t cookie;
	int n = 1;

	while (ran_ns + vm.slept_ns - before_ns < ns) {
		assert_int_equal(enter_guest(vm.vcpu), 7);
		ran_ns += MILLISECOND;
		assert_int_equal(dl_log_reap(vm.log, 0, NULL), 0);
		while (dl_log_kicks(vm.log, &cookie, 1) == 1)
			kick(cookie);
		room = (ran_ns + vm.slept_ns - before_ns) / MILLISECOND * 20;
		if (!vm.in_pass)
			assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
		vm.in_pass = true;
		while (sent < room && (n = dl_cursor_read(cursor, &extent, 1)) == 1) {
			assert_int_equal(dl_cursor_ack(cursor, &extent, 1), 0);
			sent += extent.bytes / PAGE_BYTES;
		}
		if (!n)
			assert_int_equal(dl_cursor_end(cursor, 0), 0);
		vm.in_pass = n;
		n = 1;
	}
	return dl_plan_sent(plan, sent * PAGE_BYTES, sent * MILLISECOND / 20);
}

static int open_vm(void **state)
{
	const struct model_options kernel = { .virtual_clock = true };
	struct dl_options options = { .size = sizeof(options), .ring_entries = 256 };
	struct dl_slot slot = { .size = sizeof(slot), .bytes = (uint64_t)PAGES * PAGE_BYTES };
	int vm_fd;

	memset(&vm, 0, sizeof(vm));
	vm.model = model_new(&kernel);
	vm_fd = model_vm_create(vm.model);
	options.os = model_os(vm.model);
	slot.hva = (uintptr_t)aligned_alloc(PAGE_BYTES, slot.bytes);
	memset((void *)(uintptr_t)slot.hva, 0, slot.bytes);
	*state = (void *)(uintptr_t)slot.hva;
	assert_int_equal(dl_log_open(vm_fd, &options, &vm.log, NULL, 0), 0);
	assert_int_equal(dl_slot_set(vm.log, &slot), 0);
	vm.vcpu_fd = model_vcpu_create(vm.model, vm_fd);
	assert_int_equal(dl_vcpu_add(vm.log, vm.vcpu_fd, 5, 0, &vm.vcpu), 0);
	return 0;
}

static int close_vm(void **state)
{
	dl_vcpu_remove(vm.vcpu);
	dl_log_close(vm.log);
	model_free(vm.model);
	free(*state);
	return 0;
}

static void a_guest_that_outruns_the_wire_converges(void **state)
{
	const struct dl_cursor_options options = { .size = sizeof(options),
						   .max_extent_bytes = PAGE_BYTES };
	struct dl_cursor *cursor;
	struct dl_plan *plan;

	assert_int_equal(dl_cursor_new(vm.log, &options, &cursor), 0);
	assert_int_equal(converge(vm.log, cursor, &plan), DL_VERDICT_SWITCHOVER);
	dl_plan_free(plan);
	dl_cursor_free(cursor);
}

static void a_limited_vcpu_sleeps_before_it_runs(void **state)
{
	struct dl_cursor *cursor;
	uint64_t cookie;

	assert_int_equal(dl_cursor_new(vm.log, NULL, &cursor), 0);
	assert_int_equal(enter_guest(vm.vcpu), 7);
	assert_int_equal(vm.slept_ns, 0);
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_end(cursor, DL_END_COMMIT), 0);
	for (int i = 0; i < 20; i++) {
		struct dl_extent extents[8];

		assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
		while (dl_cursor_read(cursor, extents, 8) > 0)
			;
		assert_int_equal(dl_cursor_end(cursor, DL_END_COMMIT), 0);
		assert_int_equal(dl_vcpu_limit(vm.vcpu, (uint64_t)1000 * PAGE_BYTES), 0);
		assert_int_equal(enter_guest(vm.vcpu), 7);
		assert_int_equal(dl_log_reap(vm.log, DL_REAP_NOW, NULL), 0);
		vm.kicks += dl_log_kicks(vm.log, &cookie, 1) == 1;
	}
	assert_true(vm.kicks > 0 && vm.slept_ns > 100 * (uint64_t)MILLISECOND);
	dl_cursor_free(cursor);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_guest_that_outruns_the_wire_converges, open_vm,
						close_vm),
		cmocka_unit_test_setup_teardown(a_limited_vcpu_sleeps_before_it_runs, open_vm,
						close_vm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
