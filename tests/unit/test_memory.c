/* SPDX-License-Identifier: MIT */
/*
 * Failing allocations, calls that must not allocate, and leaks. The program is linked with --wrap,
 * so that the allocations of the library, the model and the test itself come here.
 */
#include "cmocka_all.h"
#include "guest.h"
#include "pages/tsan.h"
#include "ring/vcpu_list.h"

#include <errno.h>
#include <stdlib.h>

enum { PAGES = 300, MOST_ALLOCATIONS = 40 };

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
void __real_free(void *memory);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t n, size_t bytes);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void __wrap_free(void *memory);

static struct {
	atomic_bool counting;
	atomic_uint calls;
	unsigned int fail_at; /* the n-th allocation fails; 0: none */
	atomic_long live;
} memory;

/* The model uses the same functions; its allocations are not the library's. */
static _Thread_local int inside_model;

static void watch(void *opaque, const struct model_event *event)
{
	if (event->point == MODEL_BEFORE_CALL)
		inside_model++;
	else if (event->point == MODEL_AFTER_CALL)
		inside_model--;
}

static bool fails(void)
{
	return atomic_load(&memory.counting) && !inside_model &&
	       atomic_fetch_add(&memory.calls, 1) + 1 == memory.fail_at;
}

static void *count(void *block)
{
	if (block)
		atomic_fetch_add(&memory.live, 1);
	return block;
}

void *__wrap_malloc(size_t bytes)
{
	return fails() ? NULL : count(__real_malloc(bytes));
}

void *__wrap_calloc(size_t n, size_t bytes)
{
	return fails() ? NULL : count(__real_calloc(n, bytes));
}

void *__wrap_realloc(void *old, size_t bytes)
{
	return old ? __real_realloc(old, bytes) : count(__real_realloc(NULL, bytes));
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
	return count(__real_aligned_alloc(alignment, bytes));
}

void __wrap_free(void *block)
{
	if (block)
		atomic_fetch_sub(&memory.live, 1);
	__real_free(block);
}

static struct guest guest;
static struct guest_vcpu *vcpu;
static struct dl_slot slot;

static void begin_at(unsigned int n)
{
	atomic_store(&memory.calls, 0);
	memory.fail_at = n;
	atomic_store(&memory.counting, true);
}

static void end(void)
{
	atomic_store(&memory.counting, false);
}

static void open_guest(uint32_t mode)
{
	const struct guest_config config = { .model = { .has = MODEL_HAS_RING_ACQ_REL |
							       MODEL_HAS_BACKUP |
							       MODEL_HAS_MANUAL_PROTECT,
							.hook = watch },
					     .options = { .mode = mode, .ring_entries = 256 } };

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	vcpu = guest_vcpu(&guest, true);
	slot = guest_slot(&guest, 1, 1000, guest_memory(&guest, PAGES), 0, PAGES);
	guest_join(&guest, 0);
}

/*
 * Repeats call() with its first, then its second, ... allocation failing, until it succeeds.
 * Returns the number of its allocations.
 */
static unsigned int exhaust(int (*call)(void))
{
	for (unsigned int n = 1; n < MOST_ALLOCATIONS; n++) {
		int r;

		begin_at(n);
		r = call();
		end();
		if (!r) {
			assert_true(atomic_load(&memory.calls) < n);
			return n - 1;
		}
		assert_int_equal(r, -ENOMEM);
	}
	fail_msg("expected the call to succeed once no allocation fails");
	return 0;
}

static int open_log(void)
{
	return guest_open_log(&guest);
}

static int add_vcpu(void)
{
	return dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &vcpu->handle);
}

static int set_slot(void)
{
	return dl_slot_set(guest.log, &slot);
}

static int move_slot(void)
{
	slot.gpa += PAGES * 4096;
	if (!dl_slot_set(guest.log, &slot))
		return 0;
	slot.gpa -= PAGES * 4096;
	return -ENOMEM;
}

static int remove_slot(void)
{
	return dl_slot_remove(guest.log, 1, 0, NULL, 0);
}

static int join(void)
{
	return guest_try_join(&guest, 0);
}

static struct dl_cursor *second;

static int join_second(void)
{
	return guest_new_cursor(&guest, DL_CURSOR_CLEAN, 0, &second);
}

/* A WANTED cursor gets the slot that it did not cover. */
static int want_slot(void)
{
	int r;

	slot.flags |= DL_SLOT_WANTED;
	r = dl_slot_set(guest.log, &slot);
	if (r)
		slot.flags &= ~(uint32_t)DL_SLOT_WANTED;
	return r;
}

static void an_open_without_memory_fails(void **state)
{
	const struct guest_config config = { .model = { .hook = watch } };

	guest_new(&guest, &config);
	assert_true(exhaust(open_log) > 0);
	assert_non_null(guest.log);
	guest_close(&guest);
}

/* A VM's rings stay enabled, so a lack of memory must show before they are enabled. */
static void an_open_without_memory_can_be_retried(void **state)
{
	const struct guest_config config = { .model = { .hook = watch } };

	guest_new(&guest, &config);
	begin_at(1);
	assert_int_equal(guest_open_log(&guest), -ENOMEM);
	end();
	assert_int_equal(guest.enables, 0);
	guest_close(&guest);
}

static void slots_and_vcpus_without_memory_fail(void **state)
{
	open_guest(DL_MODE_RING);
	dl_vcpu_remove(vcpu->handle);
	vcpu = guest_vcpu(&guest, false);
	assert_true(exhaust(add_vcpu) > 1);
	assert_true(exhaust(set_slot) > 1);
	assert_true(exhaust(move_slot) > 1);
	assert_true(exhaust(remove_slot) > 1);
	guest.vcpus[0].handle = NULL;
	guest_close(&guest);
}

/* The new slot shows the memory of another. */
static void an_alias_without_memory_fails(void **state)
{
	open_guest(DL_MODE_RING);
	slot.hva = (uintptr_t)guest.blocks[0].memory;
	assert_true(exhaust(set_slot) > 2);
	assert_true(exhaust(remove_slot) > 1);
	guest_close(&guest);
}

static void write_by(struct guest_vcpu *writers, int n)
{
	for (int i = 0; i < n; i++)
		assert_int_equal(guest_write(&guest, &writers[i], 0, (uint64_t)i), 0);
}

/* Returns the number of allocations of the last call. */
static unsigned int fill_first_group(struct guest_vcpu *vcpus)
{
	for (int i = 1; i < VCPU_GROUP; i++) {
		begin_at(0);
		guest_vcpu_add(&guest, &vcpus[i]);
		end();
	}
	return atomic_load(&memory.calls);
}

/* Makes the call with its n-th allocation failing. */
static void add_without_memory(struct guest_vcpu *added, unsigned int n)
{
	int mappings = atomic_load(&guest.mappings);
	long live = atomic_load(&memory.live);

	begin_at(n);
	assert_int_equal(dl_vcpu_add(guest.log, added->fd, 0, 0, &added->handle), -ENOMEM);
	end();
	assert_int_equal(atomic_load(&memory.calls), n);
	assert_null(added->handle);
	assert_int_equal(atomic_load(&guest.mappings), mappings);
	assert_int_equal(atomic_load(&memory.live), live);
}

/* The list's first group is full, so the next vCPU needs an extra block. */
__attribute__((unused)) static void a_full_list_of_vcpus_without_memory(void **state)
{
	static struct guest_vcpu many[VCPU_GROUP + 1];
	struct guest_vcpu *last = &many[VCPU_GROUP];
	uint64_t pages[PAGES];
	unsigned int allocations;

	open_guest(DL_MODE_RING);
	many[0] = *vcpu;
	for (int i = 1; i <= VCPU_GROUP; i++)
		many[i] = (struct guest_vcpu){ .fd = model_vcpu_create(guest.model, guest.vm_fd) };
	allocations = fill_first_group(many);
	assert_int_equal(guest_pass(&guest, 0, pages, PAGES), PAGES);
	add_without_memory(last, allocations + 1);
	write_by(many, VCPU_GROUP);
	assert_int_equal(guest_pass(&guest, 0, pages, PAGES), VCPU_GROUP);
	guest_vcpu_add(&guest, last);
	write_by(many, VCPU_GROUP + 1);
	assert_int_equal(guest_pass(&guest, 0, pages, PAGES), VCPU_GROUP + 1);
	for (int i = 1; i <= VCPU_GROUP; i++)
		dl_vcpu_remove(many[i].handle);
	guest_close(&guest);
}

static void a_vcpu_in_bitmap_mode_without_memory_fails(void **state)
{
	open_guest(DL_MODE_BITMAP);
	dl_vcpu_remove(vcpu->handle);
	assert_int_equal(exhaust(add_vcpu), 1);
	guest_close(&guest);
}

/* Each call that failed has left everything as it was: the last cursor sees the next write. */
static void cursors_without_memory_do_not_come(void **state)
{
	static const uint32_t modes[] = { DL_MODE_RING, DL_MODE_BITMAP };
	uint64_t pages[3 * PAGES];

	for (int i = 0; i < 2; i++) {
		open_guest(modes[i]);
		guest_leave(&guest);
		/* A failure at the second slot gives back what the first one got. */
		guest_add_slot(&guest, 2, 5000, 10);
		assert_true(exhaust(join) > 2);
		assert_int_equal(guest_pass(&guest, 0, pages, 2 * PAGES), PAGES + 10);
		/* Its slots get a set that the cursors share. */
		assert_true(exhaust(join_second) > 2);
		assert_int_equal(guest_write(&guest, vcpu, 0, 7), 0);
		assert_int_equal(guest_pass(&guest, 0, pages, PAGES), 1);
		assert_int_equal(guest_pass_of(&guest, second, 0, pages, PAGES), 1);
		assert_true(exhaust(set_slot) > 3);
		assert_int_equal(guest_pass(&guest, 0, pages, PAGES), PAGES);
		assert_int_equal(guest_pass_of(&guest, second, 0, pages, PAGES), PAGES);
		dl_cursor_free(second);
		assert_int_equal(guest_new_cursor(&guest, DL_CURSOR_WANTED, 0, &second), 0);
		assert_int_equal(guest_pass_of(&guest, second, 0, pages, PAGES), 0);
		assert_true(exhaust(want_slot) > 1);
		assert_int_equal(guest_pass_of(&guest, second, 0, pages, PAGES), PAGES);
		assert_int_equal(guest_pass(&guest, 0, pages, PAGES), 0);
		dl_cursor_free(second);
		slot.flags = 0;
		guest_close(&guest);
	}
}

/* The list of what it shares is the slot's. */
static void an_alias_without_memory_is_refused(void **state)
{
	open_guest(DL_MODE_RING);
	slot = guest_slot(&guest, 1, 1000, &guest.blocks[0], 0, PAGES);
	assert_true(exhaust(set_slot) > 1);
	assert_int_equal(guest_pass(&guest, 0, (uint64_t[PAGES]){ 0 }, PAGES), PAGES);
	guest_close(&guest);
}

/* Only the mmaps of the page sets, the bitmap and the cursor fail. */
static void cursors_and_slots_without_mappings_do_not_come(void **state)
{
	struct model_fault fault = { .request = MODEL_CALL_MMAP, .times = 1, .error = ENOMEM };
	uint64_t pages[2 * PAGES];

	open_guest(DL_MODE_BITMAP);
	for (fault.skip = 0;; fault.skip++) {
		int r;

		model_fault(guest.model, &fault);
		r = join_second();
		model_faults_clear(guest.model);
		if (!r)
			break;
		assert_int_equal(r, -ENOMEM);
		assert_null(second);
	}
	/* The cursor's own, the set that is shared, and the view's. */
	assert_true(fault.skip >= 3);
	for (fault.skip = 0;; fault.skip++) {
		int r;

		model_fault(guest.model, &fault);
		r = set_slot();
		model_faults_clear(guest.model);
		if (!r)
			break;
		assert_int_equal(r, -ENOMEM);
	}
	/* The shared set, two of the views, and what is owed. */
	assert_true(fault.skip >= 4);
	assert_int_equal(guest_pass(&guest, 0, pages, 2 * PAGES), 2 * PAGES);
	dl_cursor_free(second);
	guest_close(&guest);
}

static void write_all(void)
{
	for (uint64_t page = 0; page < PAGES; page++)
		assert_int_equal(guest_write(&guest, vcpu, 0, page), 0);
}

/* These calls must go on when memory is short. */
static void harvesting_and_reading_allocate_nothing(void **state)
{
	static const uint32_t modes[] = { DL_MODE_RING, DL_MODE_BITMAP };
	struct dl_extent extents[4];
	uint64_t words[(PAGES + 63) / 64];

	for (int i = 0; i < 2; i++) {
		int n;

		open_guest(modes[i]);
		assert_int_equal(guest_new_cursor(&guest, 0, 0, &second), 0);
		/* liburcu registers threads when they mark for the first time. */
		assert_int_equal(dl_mark_gpa(guest.log, 0, 0, 1), 0);
		write_all();
		begin_at(0);
		assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
		assert_int_equal(dl_log_reap(guest.log, DL_REAP_NOW, NULL), 0);
		assert_int_equal(dl_harvest(guest.cursor, DL_HARVEST_PAUSED, NULL), 0);
		assert_int_equal(dl_mark_gpa(guest.log, 0, 4096, 1 << 20), 0);
		while ((n = dl_cursor_read(guest.cursor, extents, 4)) > 0)
			assert_int_equal(dl_cursor_ack(guest.cursor, extents, (uint32_t)n), 0);
		assert_int_equal(dl_cursor_end(guest.cursor, DL_END_COMMIT), 0);
		assert_int_equal(dl_cursor_take(second, 0, DL_TAKE_HARVEST | DL_TAKE_NO_CLEAR,
						words, (PAGES + 63) / 64, NULL),
				 0);
		assert_int_equal(dl_slot_clear(guest.log, 0, 0, PAGES * 4096), 0);
		end();
		assert_int_equal(atomic_load(&memory.calls), 0);
		assert_int_equal(n, 0);
		dl_cursor_free(second);
		guest_close(&guest);
	}
}

/* Calls that succeed, and calls that fail after they have begun. */
static void calls_that_fail_early_leak_nothing(void **state)
{
	struct dl_cursor_options options = { .size = sizeof(options), .vcpus = 2 };
	struct dl_vcpu *again;
	struct dl_extent extent;

	open_guest(DL_MODE_RING);
	assert_int_equal(dl_slot_remove(guest.log, 77, 0, NULL, 0), -ENOENT);
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
	slot.hva += 4096;
	assert_int_equal(dl_slot_set(guest.log, &slot), -EINVAL);
	assert_int_equal(dl_slot_remove(guest.log, 1, 0, NULL, 0), 0);
	assert_int_equal(dl_vcpu_add(guest.log, vcpu->fd, 0, 0, &again), -EEXIST);
	assert_int_equal(dl_vcpu_add(guest.log, guest.vm_fd, 0, 0, &again), -EBADF);
	assert_int_equal(dl_cursor_new(guest.log, &options, &second), -EBUSY);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), 0);
	assert_int_equal(dl_harvest(guest.cursor, 0, NULL), -EBUSY);
	assert_int_equal(dl_cursor_read(guest.cursor, &extent, 1), 1);
	guest_close(&guest);
}

static int setup(void **state)
{
	atomic_store(&memory.live, 0);
	return 0;
}

static int all_memory_is_freed(void **state)
{
	return atomic_load(&memory.live) ? -1 : 0;
}

#define memory_test(f) cmocka_unit_test_setup_teardown(f, setup, all_memory_is_freed)

int main(void)
{
	const struct CMUnitTest tests[] = {
		memory_test(an_open_without_memory_fails),
		memory_test(an_open_without_memory_can_be_retried),
		memory_test(slots_and_vcpus_without_memory_fail),
		memory_test(an_alias_without_memory_fails),
#ifndef DLI_TSAN /* ThreadSanitizer aborts if one thread holds more than 64 locks */
		memory_test(a_full_list_of_vcpus_without_memory),
#endif
		memory_test(a_vcpu_in_bitmap_mode_without_memory_fails),
		memory_test(cursors_without_memory_do_not_come),
		memory_test(an_alias_without_memory_is_refused),
		memory_test(cursors_and_slots_without_mappings_do_not_come),
		memory_test(harvesting_and_reading_allocate_nothing),
		memory_test(calls_that_fail_early_leak_nothing),
	};

	return RUN_TESTS("memory", tests);
}
