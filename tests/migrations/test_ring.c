/* SPDX-License-Identifier: MIT */
/*
 * The protocol between a ring and its reader, one test for each way to break it. Hazards are
 * numbered as in doc/kernel.md.
 */
#include "cmocka_all.h"
#include "migration.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { ENTRIES = 256, SOFT_LIMIT = 192, FIRST_PAGE = 16 };

static struct migration migration;
static struct guest *guest;
static struct guest_vcpu *vcpu;

static void begin_with(struct model_options model, unsigned int vcpus)
{
	const struct guest_config config = {
		.model = model, .options = { .mode = DL_MODE_RING, .ring_entries = ENTRIES }
	};

	migration_open(&migration, &config, vcpus);
	guest = &migration.guest;
	vcpu = &guest->vcpus[0];
	migration_start(&migration, DL_CURSOR_CLEAN);
}

static void begin(unsigned int vcpus)
{
	begin_with((struct model_options){ 0 }, vcpus);
}

static void end(void)
{
	migration_finish(&migration);
	migration_close(&migration);
}

static void write_pages(uint64_t first, uint64_t n)
{
	for (uint64_t page = first; page < first + n; page++)
		assert_int_equal(guest_write(guest, vcpu, 0, FIRST_PAGE + page), 0);
}

static struct model_ring ring_of(unsigned int i)
{
	struct model_ring ring;

	assert_int_equal(model_vcpu_ring(guest->model, guest->vcpus[i].fd, &ring), 0);
	return ring;
}

/* A second mapping of the vCPU's ring. */
static struct kvm_dirty_gfn *map_ring(void)
{
	const struct dl_os *os = model_os(guest->model);
	void *cells = NULL;

	assert_int_equal(os->mmap(os->opaque, vcpu->fd, UINT64_C(64) * guest->page_bytes,
				  ENTRIES * 16, PROT_READ | PROT_WRITE, MAP_SHARED, &cells),
			 0);
	return cells;
}

static void unmap_ring(struct kvm_dirty_gfn *cells)
{
	const struct dl_os *os = model_os(guest->model);

	os->munmap(os->opaque, cells, ENTRIES * 16);
}

/* Hazard 1: only even pages are written; an odd one comes from a torn or early read. */
static void entries_are_never_torn(void **state)
{
	struct dl_extent runs[16];
	struct dl_cursor *cursor;

	begin(2);
	migration.range_count = 0;
	for (uint64_t page = 0; page < MIGRATION_RANGES; page++)
		migration_add_range(&migration, 0, FIRST_PAGE + 2 * page, 1);
	migration_run(&migration);
	for (int pass = 0; pass < 60; pass++) {
		int n;

		migration_wait(&migration, 10);
		cursor = migration.checker.cursor;
		assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
		while ((n = dl_cursor_read(cursor, runs, 16)) > 0) {
			for (int i = 0; i < n; i++) {
				assert_int_equal(runs[i].bytes, 4096);
				assert_int_equal(runs[i].gpa / 4096 % 2, 0);
				checker_copy_run(&migration.checker, &runs[i]);
			}
			assert_int_equal(dl_cursor_ack(cursor, runs, (uint32_t)n), 0);
		}
		checker_end(&migration.checker, 0);
	}
	end();
}

/* Hazard 2: RESET stops at a skipped entry, so after the last harvest no entry may be left. */
static void no_entry_is_skipped(void **state)
{
	begin(3);
	migration.has_harvester = true;
	migration_run(&migration);
	migration_passes(&migration, 6, 400);
	migration_stop(&migration);
	migration_pass(&migration);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(ring_of(i).reset_index, ring_of(i).dirty_index);
	end();
}

static atomic_uint underflows;

static void count_underflows(void *opaque, const struct model_event *event)
{
	if (event->point != MODEL_AFTER_CALL || event->request != KVM_RESET_DIRTY_RINGS)
		return;
	for (unsigned int i = 0; i < guest->vcpu_count; i++) {
		struct model_ring ring;
		uint32_t reset;

		/* Read the reset index first: the vCPU may push entries between the two reads. */
		model_vcpu_ring(guest->model, guest->vcpus[i].fd, &ring);
		reset = ring.reset_index;
		model_vcpu_ring(guest->model, guest->vcpus[i].fd, &ring);
		if (ring.dirty_index - reset > ENTRIES)
			atomic_fetch_add(&underflows, 1);
	}
}

/* Hazard 3: releasing a cell that holds no entry makes the kernel's count of entries underflow. */
static void only_entries_are_released(void **state)
{
	atomic_store(&underflows, 0);
	begin_with((struct model_options){ .hook = count_underflows }, 3);
	migration.has_harvester = true;
	migration_run(&migration);
	migration_passes(&migration, 6, 400);
	assert_int_equal(atomic_load(&underflows), 0);
	end();
}

static struct kvm_dirty_gfn *watched_cells;
static unsigned int cells_seen[4], odd_cells;

static void count_flags(void *opaque, const struct model_event *event)
{
	if (event->point != MODEL_BEFORE_CALL || event->request != KVM_RESET_DIRTY_RINGS ||
	    !watched_cells)
		return;
	for (int i = 0; i < ENTRIES; i++) {
		uint32_t flags = __atomic_load_n(&watched_cells[i].flags, __ATOMIC_ACQUIRE);

		if (flags < 4)
			cells_seen[flags]++;
		else
			odd_cells++;
	}
}

/*
 * Hazard 4: the kernel takes back a cell with both flags set, while a reader that tests only the
 * dirty bit reads it as an entry.
 */
static void no_cell_is_both_dirty_and_released(void **state)
{
	const struct model_reset_fault stuck = { .times = 1, .stop = true };

	begin_with((struct model_options){ .hook = count_flags }, 1);
	memset(cells_seen, 0, sizeof(cells_seen));
	watched_cells = map_ring();
	write_pages(0, 50);
	model_reset_fault(guest->model, &stuck);
	migration_pass(&migration);
	assert_int_equal(guest_stats(guest).entries, 50);
	assert_int_equal(cells_seen[2], 2 * 50);
	assert_int_equal(cells_seen[3] + odd_cells, 0);
	/* A cell with both flags set is not an entry. */
	write_pages(100, 3);
	__atomic_store_n(&watched_cells[51].flags, 3, __ATOMIC_RELEASE);
	assert_int_equal(checker_harvest(&migration.checker, 0, NULL), 0);
	assert_int_equal(guest_stats(guest).entries, 51);
	assert_int_equal(__atomic_load_n(&watched_cells[52].flags, __ATOMIC_ACQUIRE), 1);
	unmap_ring(watched_cells);
	watched_cells = NULL;
	migration_close(&migration);
}

static int early_pages;
static struct dl_cursor *open_cursor;

static void *read_early(void *opaque)
{
	struct dl_extent run;

	early_pages = dl_cursor_read(open_cursor, &run, 1);
	return NULL;
}

static void read_before_the_reset(void *opaque, const struct model_event *event)
{
	pthread_t reader;

	if (event->request != KVM_RESET_DIRTY_RINGS || event->point != MODEL_BEFORE_CALL ||
	    !open_cursor)
		return;
	if (!pthread_create(&reader, NULL, read_early, NULL))
		pthread_join(reader, NULL);
}

/* Hazard 5: until RESET returns, the page can be written unlogged, so it must not be read. */
static void no_page_is_handed_out_before_the_reset(void **state)
{
	struct dl_extent run;

	begin_with((struct model_options){ .hook = read_before_the_reset }, 1);
	assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
	open_cursor = migration.checker.cursor;
	write_pages(7, 1);
	early_pages = -1;
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_int_equal(early_pages, 0);
	open_cursor = NULL;
	checker_end(&migration.checker, 0);
	assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(migration.checker.cursor, &run, 1), 1);
	assert_int_equal(run.gpa, (FIRST_PAGE + 7) * 4096);
	checker_end(&migration.checker, 0);
	end();
}

/* Hazard 5: a page that is handed out is neither writable nor in a stale TLB entry. */
static void every_page_is_handed_out_protected(void **state)
{
	struct dl_extent runs[8];
	struct dl_cursor *cursor;
	uint8_t page_states[64];
	int n;

	begin(1);
	write_pages(0, 250);
	cursor = migration.checker.cursor;
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	while ((n = dl_cursor_read(cursor, runs, 1)) > 0) {
		assert_int_equal(model_page_states(guest->model, guest->vm_fd, runs[0].slot,
						   runs[0].offset_bytes / 4096, 1, page_states),
				 0);
		assert_int_equal(page_states[0], MODEL_PAGE_PROTECTED);
		checker_copy_run(&migration.checker, &runs[0]);
		assert_int_equal(dl_cursor_ack(cursor, runs, 1), 0);
	}
	checker_end(&migration.checker, 0);
	end();
}

/* Hazard 6: since 6.17 a reset may return less than was released, or 0, without an error. */
static void a_short_reset_is_completed(void **state)
{
	for (uint32_t after = 0; after < 40; after += 13) {
		const struct model_reset_fault cut = { .times = 1,
						       .stop = true,
						       .stop_after_entries = after };

		begin(1);
		write_pages(0, 40);
		model_reset_fault(guest->model, &cut);
		migration_pass(&migration);
		assert_int_equal(guest_stats(guest).short_resets, 1);
		assert_int_equal(ring_of(0).reset_index, 40);
		end();
	}
}

/* Hazard 7: a drain repeats a reset that took nothing, before it lets the vCPU go on. */
static void a_drain_completes_a_reset_that_took_nothing(void **state)
{
	const struct model_reset_fault cut = { .times = 1, .stop = true };

	begin(1);
	write_pages(0, SOFT_LIMIT - 1);
	model_reset_fault(guest->model, &cut);
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_int_equal(ring_of(0).reset_index, SOFT_LIMIT - 1);
	write_pages(0, SOFT_LIMIT - 1);
	end();
}

static void signal_during_a_reset(void *opaque, const struct model_event *event)
{
	if (event->point == MODEL_RESET_INVALIDATED)
		pthread_kill(pthread_self(), SIGUSR1);
}

static void no_handler(int number)
{
}

static int no_mask(void *opaque, int how, const sigset_t *set, sigset_t *old)
{
	if (old)
		sigemptyset(old);
	return 0;
}

static void with_signals(void)
{
	const struct sigaction action = { .sa_handler = no_handler };

	assert_int_equal(sigaction(SIGUSR1, &action, NULL), 0);
	begin_with((struct model_options){ .hook = signal_during_a_reset,
					   .has_signal_short_reset = true },
		   1);
}

/* Hazard 8: with a signal pending, RESET takes entries back but does not protect their pages. */
static void signals_do_not_shorten_a_reset(void **state)
{
	with_signals();
	for (int i = 0; i < 5; i++) {
		write_pages(0, 100);
		migration_pass(&migration);
	}
	assert_int_equal(guest_stats(guest).short_resets, 0);
	write_pages(0, 100);
	end();
	/* Without the mask the short resets are seen. */
	with_signals();
	guest->os.signal_mask = no_mask;
	write_pages(0, 100);
	migration_pass(&migration);
	assert_true(guest_stats(guest).short_resets > 0);
	/* The repair protects the pages that the kernel did not. */
	write_pages(0, 100);
	end();
}

static struct {
	pthread_t other;
	bool armed;
	atomic_bool arrived, is_over, first_took_all;
	atomic_int stale_pages;
} second;

static _Thread_local bool is_second;

static void count_stale(const struct dl_extent *run)
{
	uint8_t state;

	for (uint64_t at = 0; at < run->bytes; at += 4096) {
		model_page_states(guest->model, guest->vm_fd, run->slot,
				  (run->offset_bytes + at) / 4096, 1, &state);
		if (state & MODEL_PAGE_STALE_TLB)
			atomic_fetch_add(&second.stale_pages, 1);
	}
}

/* Drains the second vCPU's ring and counts the stale pages that this adds to the open pass. */
static void *drain_second(void *opaque)
{
	struct dl_extent runs[8];
	int n;

	is_second = true;
	if (dl_vcpu_drain(guest->vcpus[1].handle, 0))
		return opaque;
	while ((n = dl_cursor_read(migration.checker.cursor, runs, 8)) > 0)
		for (int i = 0; i < n; i++)
			count_stale(&runs[i]);
	atomic_store(&second.is_over, true);
	return NULL;
}

/*
 * Gives a second reset that does not wait the time to get here. One that does wait can only go on
 * after this returns.
 */
static void wait_a_while(atomic_bool *condition)
{
	for (int i = 0; i < 20000 && !atomic_load(condition); i++)
		sched_yield();
}

/*
 * Without the lock, the second thread could release its cells before the first thread's RESET,
 * which would take them too. Its own RESET would then return 0, and it would publish pages before
 * the first RESET has flushed the TLBs.
 */
static void let_a_second_reset_in(void *opaque, const struct model_event *event)
{
	bool begins = event->point == MODEL_BEFORE_CALL && event->request == KVM_RESET_DIRTY_RINGS;

	if (begins && is_second) {
		atomic_store(&second.arrived, true);
		while (!atomic_load(&second.first_took_all))
			sched_yield();
	}
	if (begins && !is_second && second.armed) {
		second.armed = false;
		pthread_create(&second.other, NULL, drain_second, &second);
		wait_a_while(&second.arrived);
	}
	if (event->point == MODEL_RESET_UNLOCKED && !is_second) {
		atomic_store(&second.first_took_all, true);
		wait_a_while(&second.is_over);
	}
}

/* Hazard 9: two threads reset at the same time. */
static void a_second_reset_waits_for_the_first(void **state)
{
	void *failed = NULL;

	begin_with((struct model_options){ .hook = let_a_second_reset_in }, 2);
	assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
	write_pages(0, 50);
	for (uint64_t page = 50; page < 90; page++)
		assert_int_equal(guest_write(guest, &guest->vcpus[1], 0, FIRST_PAGE + page), 0);
	atomic_store(&second.arrived, false);
	atomic_store(&second.is_over, false);
	atomic_store(&second.first_took_all, false);
	atomic_store(&second.stale_pages, 0);
	second.armed = true;
	assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
	assert_false(second.armed);
	pthread_join(second.other, &failed);
	assert_null(failed);
	checker_end(&migration.checker, 0);
	assert_int_equal(atomic_load(&second.stale_pages), 0);
	end();
}

/*
 * Hazard 10: if one thread releases cells while another resets, the reset leaves cells behind and
 * is counted as short.
 */
static void racing_harvests_and_drains_leave_no_cell_behind(void **state)
{
	begin(4);
	migration.has_harvester = true;
	migration_run(&migration);
	migration_passes(&migration, 10, 500);
	migration_stop(&migration);
	assert_int_equal(guest_stats(guest).short_resets, 0);
	assert_int_equal(guest_stats(guest).overflows, 0);
	end();
}

/* Hazard 11: the kernel reads slot and offset again when it takes the cell back. */
static void slot_and_offset_of_a_cell_stay(void **state)
{
	struct kvm_dirty_gfn before[ENTRIES], *cells;

	begin(1);
	cells = map_ring();
	for (int round = 0; round < 5; round++) {
		write_pages((uint64_t)round * 20, 150);
		memcpy(before, cells, sizeof(before));
		if (round % 2)
			assert_int_equal(dl_vcpu_drain(vcpu->handle, 0), 0);
		else
			migration_pass(&migration);
		for (int i = 0; i < ENTRIES; i++) {
			assert_int_equal(cells[i].slot, before[i].slot);
			assert_int_equal(cells[i].offset, before[i].offset);
		}
	}
	unmap_ring(cells);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		migration_test(entries_are_never_torn),
		migration_test(no_entry_is_skipped),
		migration_test(only_entries_are_released),
		migration_test(no_cell_is_both_dirty_and_released),
		migration_test(no_page_is_handed_out_before_the_reset),
		migration_test(every_page_is_handed_out_protected),
		migration_test(a_short_reset_is_completed),
		migration_test(a_drain_completes_a_reset_that_took_nothing),
		migration_test(signals_do_not_shorten_a_reset),
		migration_test(a_second_reset_waits_for_the_first),
		migration_test(racing_harvests_and_drains_leave_no_cell_behind),
		migration_test(slot_and_offset_of_a_cell_stay),
	};

	return RUN_TESTS("migrations and the ring protocol", tests);
}
