/* SPDX-License-Identifier: MIT */
/* Runs the program of doc/integrate.md unchanged: it migrates a guest of the model kernel. */
#include "model.h"

#include <dirtylog/dirtylog.h>
#include <dirtylog/os.h>

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

enum { PAGE_BYTES = 4096, PAGES = 300, MEMORY_BYTES = PAGES * PAGE_BYTES, ENTRIES = 256 };

#define GPA 0x100000u

/* As in the document. */
struct vm {
	int fd;
	struct dl_log *log;
	struct dl_cursor *migration;
};

struct vcpu {
	struct vm *vm;
	int fd;
	uint64_t number;
	struct kvm_run *run;
	struct dl_vcpu *log;
};

int vm_open_log(struct vm *vm, const struct dl_options *options);
int vm_set_slot(struct vm *vm, uint32_t number, uint64_t gpa, void *memory, uint64_t bytes);
int vm_remove_slot(struct vm *vm, uint32_t number);
int vcpu_add(struct vcpu *vcpu);
int vcpu_handle_log_exit(struct vcpu *vcpu);
void vm_serve_log(struct vm *vm);
int vm_write(struct vm *vm, void *at, uint64_t gpa, const void *data, size_t bytes);
int migration_begin(struct vm *vm, uint32_t vcpus);
int migration_live_passes(struct vm *vm, uint64_t fits_bytes, int most);
int migration_finish(struct vm *vm);
void migration_end(struct vm *vm);
int vcpu_enter(struct vcpu *vcpu);
void vm_serve_kicks(struct vm *vm);
int migration_is_small_enough(struct vm *vm, struct dl_plan *plan);
int vm_sync_slot(struct vm *vm, uint32_t number, uint64_t *words, uint64_t n_words,
		 uint64_t *dirty_bytes);
/* Functions that the page leaves to the caller. */
int send_extents(const struct dl_extent *extents, int n);
int flush_channels(void);
int stop_vcpus_and_devices(struct vm *vm);
void kick_vcpu(struct vm *vm, uint64_t number);
int must_stop(const struct vcpu *vcpu);
void sleep_until_kicked(struct vcpu *vcpu, uint64_t ns);

static struct vm vm;
static struct vcpu vcpu;
static struct model *model;
static unsigned char *memory, *copy;
static struct kvm_run run;
static uint64_t value;
static int full_exits, sends;
static bool stopped;
static uint64_t kicks, slept_ns;

/* The guest stores; a full ring is handled as the document says. */
static void guest_write(uint32_t page)
{
	value++;
	while ((run.exit_reason = (uint32_t)model_vcpu_write(model, vcpu.fd, 0,
							     GPA + page * PAGE_BYTES, &value, 8))) {
		assert_int_equal(vcpu_handle_log_exit(&vcpu), 0);
		full_exits++;
	}
	run.exit_reason = KVM_EXIT_INTR;
	assert_int_equal(vcpu_handle_log_exit(&vcpu), 1);
}

static void device_write(uint32_t page)
{
	uint64_t offset = page * PAGE_BYTES + 64;

	value++;
	assert_int_equal(vm_write(&vm, memory + offset, GPA + offset, &value, 8), 0);
}

int send_extents(const struct dl_extent *extents, int n)
{
	for (int i = 0; i < n; i++)
		memcpy(copy + extents[i].offset_bytes, (void *)(uintptr_t)extents[i].hva,
		       extents[i].bytes);
	if (stopped)
		return 0;
	/* Meanwhile the guest and a device go on, less each time. */
	sends++;
	for (int page = 0; page < 100 / sends; page++)
		guest_write((uint32_t)(page * 7 % PAGES));
	device_write(3);
	vm_serve_log(&vm);
	return 0;
}

int flush_channels(void)
{
	return 0;
}

int stop_vcpus_and_devices(struct vm *of)
{
	guest_write(PAGES - 1);
	device_write(5);
	model_vcpu_exit(model, vcpu.fd, KVM_EXIT_INTR);
	stopped = true;
	return of == &vm ? 0 : -1;
}

void kick_vcpu(struct vm *of, uint64_t number)
{
	assert_ptr_equal(of, &vm);
	assert_int_equal(number, vcpu.number);
	kicks++;
}

int must_stop(const struct vcpu *of)
{
	assert_ptr_equal(of, &vcpu);
	return stopped;
}

void sleep_until_kicked(struct vcpu *of, uint64_t ns)
{
	assert_ptr_equal(of, &vcpu);
	slept_ns += ns;
	model_advance(model, ns);
}

static unsigned char *map(void)
{
	void *mapping = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(mapping, MAP_FAILED);
	return mapping;
}

static int setup(void **state)
{
	const struct model_options kernel = { .has = MODEL_HAS_RING_ACQ_REL,
					      .virtual_clock = true };
	struct dl_options options = { .size = sizeof(options), .ring_entries = ENTRIES };

	full_exits = sends = 0;
	kicks = slept_ns = 0;
	stopped = false;
	memory = map();
	copy = map();
	model = model_new(&kernel);
	options.os = model_os(model);
	vm = (struct vm){ .fd = model_vm_create(model) };
	assert_int_equal(vm_open_log(&vm, &options), 0);
	assert_int_equal(vm_set_slot(&vm, 0, GPA, memory, MEMORY_BYTES), 0);
	vcpu = (struct vcpu){
		.vm = &vm, .fd = model_vcpu_create(model, vm.fd), .number = 3, .run = &run
	};
	assert_int_equal(vcpu_add(&vcpu), 0);
	return 0;
}

static int teardown(void **state)
{
	dl_vcpu_remove(vcpu.log);
	assert_int_equal(vm_remove_slot(&vm, 0), 0);
	dl_log_close(vm.log);
	model_free(model);
	munmap(memory, MEMORY_BYTES);
	munmap(copy, MEMORY_BYTES);
	return 0;
}

static void the_copy_equals_the_memory(void **state)
{
	for (uint32_t page = 0; page < PAGES; page++)
		guest_write(page);
	assert_int_equal(migration_begin(&vm, 1), 0);
	/* More than a ring holds. */
	for (uint32_t page = 0; page < PAGES; page++)
		guest_write(page);
	assert_true(full_exits > 0);
	assert_int_equal(migration_live_passes(&vm, 10 * PAGE_BYTES, 20), 0);
	assert_int_equal(migration_finish(&vm), 0);
	migration_end(&vm);
	assert_memory_equal(copy, memory, MEMORY_BYTES);
}

/* A wire of 2 pages a millisecond; the guest dirties 30. Looks are between two passes. */
static void a_plan_holds_a_fast_vcpu_back(void **state)
{
	const struct dl_goal goal = { .size = sizeof(goal),
				      .downtime_ns = 10000000,
				      .longest_pause_ns = 300000000 };
	struct dl_plan *plan;
	uint64_t now_ms, pass_at_ms = 20, look_at_ms = 110;
	int r = 0;

	assert_int_equal(migration_begin(&vm, 1), 0);
	assert_int_equal(dl_plan_new(vm.migration, &goal, &plan), 0);
	for (int ms = 0; !r && ms < 20000; ms++) {
		assert_int_equal(vcpu_enter(&vcpu), 0);
		for (uint32_t page = 0; page < 30; page++)
			guest_write((uint32_t)(ms * 30 + (int)page) % PAGES);
		model_advance(model, 1000000);
		vm_serve_log(&vm);
		vm_serve_kicks(&vm);
		now_ms = (uint64_t)ms + slept_ns / 1000000;
		if (now_ms >= pass_at_ms) {
			pass_at_ms = now_ms + 20;
			assert_int_equal(migration_live_passes(&vm, 0, 1), 0);
		}
		assert_int_equal(dl_plan_sent(plan, 2 * PAGE_BYTES, 1000000), 0);
		if (now_ms >= look_at_ms) {
			look_at_ms = now_ms + 100;
			r = migration_is_small_enough(&vm, plan);
		}
	}
	assert_int_equal(r, 1);
	assert_true(kicks > 0 && slept_ns > 0);
	dl_plan_free(plan);
	assert_int_equal(migration_finish(&vm), 0);
	migration_end(&vm);
	assert_memory_equal(copy, memory, MEMORY_BYTES);
}

static void a_vcpu_that_is_missing_is_noticed(void **state)
{
	assert_int_equal(migration_begin(&vm, 2), -EBUSY);
	assert_null(vm.migration);
}

static void a_sync_fills_a_bitmap(void **state)
{
	uint64_t words[(PAGES + 63) / 64] = { 0 }, dirty_bytes;

	assert_int_equal(migration_begin(&vm, 1), 0);
	assert_int_equal(vm_sync_slot(&vm, 0, words, 5, &dirty_bytes), 0);
	assert_int_equal(dirty_bytes, MEMORY_BYTES);
	assert_true(words[0] == UINT64_MAX);
	memset(words, 0, sizeof(words));
	guest_write(70);
	assert_int_equal(vm_sync_slot(&vm, 0, words, 5, &dirty_bytes), 0);
	assert_int_equal(dirty_bytes, PAGE_BYTES);
	assert_true(!words[0] && words[1] == 1 << 6);
	migration_end(&vm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_copy_equals_the_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(a_plan_holds_a_fast_vcpu_back, setup, teardown),
		cmocka_unit_test_setup_teardown(a_vcpu_that_is_missing_is_noticed, setup, teardown),
		cmocka_unit_test_setup_teardown(a_sync_fills_a_bitmap, setup, teardown),
	};

	return cmocka_run_group_tests_name("doc/integrate.md", tests, NULL, NULL);
}
