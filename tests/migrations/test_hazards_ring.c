/* SPDX-License-Identifier: MIT */
/*
 * What can go wrong between a ring and its reader, one test each; the numbers are those of the list
 * of hazards in the notes on the kernel.
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
	migration_start(&migration, DL_START_CLEAN);
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

/* Another look at the vCPU's ring. */
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

/* Only even pages are written; an odd one would be what a torn or early read made of an entry. */
static void hazard_01_flags_that_are_not_atomic(void **state)
{
	struct dl_run runs[16];
	struct dl_iter *iter;

	begin(2);
	migration.range_count = 0;
	for (uint64_t page = 0; page < MIGRATION_RANGES; page++)
		migration_add_range(&migration, 0, FIRST_PAGE + 2 * page, 1);
	migration_run(&migration);
	for (int pass = 0; pass < 60; pass++) {
		int n;

		migration_wait(&migration, 10);
		assert_int_equal(dl_harvest(guest->log, 0, NULL), 0);
		assert_int_equal(dl_iter_new(guest->log, 0, &iter), 0);
		while ((n = dl_iter_read(iter, runs, 16)) > 0) {
			for (int i = 0; i < n; i++) {
				assert_int_equal(runs[i].bytes, 4096);
				assert_int_equal(runs[i].gpa / 4096 % 2, 0);
				checker_copy_run(&migration.checker, &runs[i]);
			}
			assert_int_equal(dl_iter_ack(iter, runs, (uint32_t)n), 0);
		}
		dl_iter_free(iter);
	}
	end();
}

/* RESET halts at an entry that was skipped: after the last harvest nothing may be left. */
static void hazard_02_entries_that_are_skipped(void **state)
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

static void look_for_underflows(void *opaque, const struct model_event *event)
{
	if (event->point != MODEL_AFTER_CALL || event->request != KVM_RESET_DIRTY_RINGS)
		return;
	for (unsigned int i = 0; i < guest->vcpu_count; i++) {
		struct model_ring ring;
		uint32_t reset;

		/* First the one that stays behind: the vCPU may go on between the two. */
		model_vcpu_ring(guest->model, guest->vcpus[i].fd, &ring);
		reset = ring.reset_index;
		model_vcpu_ring(guest->model, guest->vcpus[i].fd, &ring);
		if (ring.dirty_index - reset > ENTRIES)
			atomic_fetch_add(&underflows, 1);
	}
}

/* An entry that was never there, given back: the kernel's count goes below zero, for ever. */
static void hazard_03_entries_that_were_never_there(void **state)
{
	atomic_store(&underflows, 0);
	begin_with((struct model_options){ .hook = look_for_underflows }, 3);
	migration.has_harvester = true;
	migration_run(&migration);
	migration_passes(&migration, 6, 400);
	assert_int_equal(atomic_load(&underflows), 0);
	end();
}

static struct kvm_dirty_gfn *watched_cells;
static unsigned int cells_seen[4], odd_cells;

static void look_at_cells(void *opaque, const struct model_event *event)
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

/* A cell that says both is taken back by the kernel, and looks dirty to who tests one bit. */
static void hazard_04_cells_that_are_dirty_and_released(void **state)
{
	const struct model_reset_fault stuck = { .times = 1, .stop = true };

	begin_with((struct model_options){ .hook = look_at_cells }, 1);
	memset(cells_seen, 0, sizeof(cells_seen));
	watched_cells = map_ring();
	write_pages(0, 50);
	model_reset_fault(guest->model, &stuck);
	migration_pass(&migration);
	assert_int_equal(guest_stats(guest).entries, 50);
	assert_int_equal(cells_seen[2], 2 * 50);
	assert_int_equal(cells_seen[3] + odd_cells, 0);
	/* Written by whoever: not an entry. */
	write_pages(100, 3);
	__atomic_store_n(&watched_cells[51].flags, 3, __ATOMIC_RELEASE);
	assert_int_equal(dl_harvest(guest->log, 0, NULL), 0);
	assert_int_equal(guest_stats(guest).entries, 51);
	assert_int_equal(__atomic_load_n(&watched_cells[52].flags, __ATOMIC_ACQUIRE), 1);
	unmap_ring(watched_cells);
	watched_cells = NULL;
	migration_close(&migration);
}

static int early_pages;
static struct dl_iter *open_iter;

static void *read_early(void *opaque)
{
	struct dl_run run;

	early_pages = dl_iter_read(open_iter, &run, 1);
	return NULL;
}

static void read_before_the_reset(void *opaque, const struct model_event *event)
{
	pthread_t reader;

	if (event->request != KVM_RESET_DIRTY_RINGS || event->point != MODEL_BEFORE_CALL ||
	    !open_iter)
		return;
	if (!pthread_create(&reader, NULL, read_early, NULL))
		pthread_join(reader, NULL);
}

/* Until RESET has returned the page can be written unseen, so nobody may read it. */
static void hazard_05_pages_that_are_read_before_the_reset(void **state)
{
	struct dl_run run;

	begin_with((struct model_options){ .hook = read_before_the_reset }, 1);
	write_pages(7, 1);
	assert_int_equal(dl_iter_new(guest->log, 0, &open_iter), 0);
	early_pages = -1;
	assert_int_equal(dl_vcpu_drain(vcpu->handle), 0);
	assert_int_equal(early_pages, 0);
	dl_iter_free(open_iter);
	open_iter = NULL;
	assert_int_equal(dl_iter_new(guest->log, 0, &open_iter), 0);
	assert_int_equal(dl_iter_read(open_iter, &run, 1), 1);
	assert_int_equal(run.gpa, (FIRST_PAGE + 7) * 4096);
	dl_iter_free(open_iter);
	open_iter = NULL;
	end();
}

/* Handed out is protected: nothing stale, nothing writable. */
static void hazard_05_every_page_is_handed_out_protected(void **state)
{
	struct dl_run runs[8];
	struct dl_iter *iter;
	uint8_t page_states[64];
	int n;

	begin(1);
	write_pages(0, 250);
	assert_int_equal(dl_harvest(guest->log, 0, NULL), 0);
	assert_int_equal(dl_iter_new(guest->log, 0, &iter), 0);
	while ((n = dl_iter_read(iter, runs, 1)) > 0) {
		assert_int_equal(model_page_states(guest->model, guest->vm_fd, runs[0].slot,
						   runs[0].offset_bytes / 4096, 1, page_states),
				 0);
		assert_int_equal(page_states[0], MODEL_PAGE_PROTECTED);
		checker_copy_run(&migration.checker, &runs[0]);
		assert_int_equal(dl_iter_ack(iter, runs, 1), 0);
	}
	dl_iter_free(iter);
	end();
}

/* Since 6.17 a reset may return less than was given back, or 0, and no error. */
static void hazard_06_counts_that_do_not_match(void **state)
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

static void hazard_07_resets_that_end_early_without_an_error(void **state)
{
	const struct model_reset_fault cut = { .times = 1, .stop = true };

	begin(1);
	write_pages(0, SOFT_LIMIT - 1);
	model_reset_fault(guest->model, &cut);
	assert_int_equal(dl_vcpu_drain(vcpu->handle), 0);
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

/* A signal that is pending makes the kernel forget to protect what it has taken back. */
static void hazard_08_signals_during_a_reset(void **state)
{
	with_signals();
	for (int i = 0; i < 5; i++) {
		write_pages(0, 100);
		migration_pass(&migration);
	}
	assert_int_equal(guest_stats(guest).short_resets, 0);
	write_pages(0, 100);
	end();
	/* Not blocked: the same test would have seen it. */
	with_signals();
	guest->os.signal_mask = no_mask;
	write_pages(0, 100);
	migration_pass(&migration);
	assert_true(guest_stats(guest).short_resets > 0);
	/* And what was forgotten is protected by the repair. */
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

static void count_stale(const struct dl_run *run)
{
	uint8_t state;

	for (uint64_t at = 0; at < run->bytes; at += 4096) {
		model_page_states(guest->model, guest->vm_fd, run->slot,
				  (run->offset_bytes + at) / 4096, 1, &state);
		if (state & MODEL_PAGE_STALE_TLB)
			atomic_fetch_add(&second.stale_pages, 1);
	}
}

/* The second vCPU drains its ring, and what came of it is looked at. */
static void *drain_and_look(void *opaque)
{
	struct dl_run runs[8];
	struct dl_iter *iter;
	int n;

	is_second = true;
	if (dl_vcpu_drain(guest->vcpus[1].handle) || dl_iter_new(guest->log, 0, &iter))
		return opaque;
	while ((n = dl_iter_read(iter, runs, 8)) > 0)
		for (int i = 0; i < n; i++)
			count_stale(&runs[i]);
	dl_iter_free(iter);
	atomic_store(&second.is_over, true);
	return NULL;
}

/* Time enough for one that does not wait; one that does can only go on after this. */
static void wait_a_while(atomic_bool *condition)
{
	for (int i = 0; i < 20000 && !atomic_load(condition); i++)
		sched_yield();
}

/*
 * Were it not for the lock, the second one could release its cells before the first one's RESET,
 * which takes them too; be told by its own RESET that nothing is left; and tell of pages before the
 * first one's RESET has flushed the TLBs.
 */
static void let_a_second_one_in(void *opaque, const struct model_event *event)
{
	bool begins = event->point == MODEL_BEFORE_CALL && event->request == KVM_RESET_DIRTY_RINGS;

	if (begins && is_second) {
		atomic_store(&second.arrived, true);
		while (!atomic_load(&second.first_took_all))
			sched_yield();
	}
	if (begins && !is_second && second.armed) {
		second.armed = false;
		pthread_create(&second.other, NULL, drain_and_look, &second);
		wait_a_while(&second.arrived);
	}
	if (event->point == MODEL_RESET_UNLOCKED && !is_second) {
		atomic_store(&second.first_took_all, true);
		wait_a_while(&second.is_over);
	}
}

static void hazard_09_two_that_reset(void **state)
{
	void *failed = NULL;

	begin_with((struct model_options){ .hook = let_a_second_one_in }, 2);
	write_pages(0, 50);
	for (uint64_t page = 50; page < 90; page++)
		assert_int_equal(guest_write(guest, &guest->vcpus[1], 0, FIRST_PAGE + page), 0);
	atomic_store(&second.arrived, false);
	atomic_store(&second.is_over, false);
	atomic_store(&second.first_took_all, false);
	atomic_store(&second.stale_pages, 0);
	second.armed = true;
	assert_int_equal(dl_vcpu_drain(vcpu->handle), 0);
	assert_false(second.armed);
	pthread_join(second.other, &failed);
	assert_null(failed);
	assert_int_equal(atomic_load(&second.stale_pages), 0);
	end();
}

/* Released by one and reset by another, unordered, shows as a reset that leaves cells behind. */
static void hazard_10_harvests_and_drains_that_race(void **state)
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

/* The kernel reads them once more when it takes the cell back. */
static void hazard_11_slot_and_offset_are_the_kernels(void **state)
{
	struct kvm_dirty_gfn before[ENTRIES], *cells;

	begin(1);
	cells = map_ring();
	for (int round = 0; round < 5; round++) {
		write_pages((uint64_t)round * 20, 150);
		memcpy(before, cells, sizeof(before));
		if (round % 2)
			assert_int_equal(dl_vcpu_drain(vcpu->handle), 0);
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
		migration_test(hazard_01_flags_that_are_not_atomic),
		migration_test(hazard_02_entries_that_are_skipped),
		migration_test(hazard_03_entries_that_were_never_there),
		migration_test(hazard_04_cells_that_are_dirty_and_released),
		migration_test(hazard_05_pages_that_are_read_before_the_reset),
		migration_test(hazard_05_every_page_is_handed_out_protected),
		migration_test(hazard_06_counts_that_do_not_match),
		migration_test(hazard_07_resets_that_end_early_without_an_error),
		migration_test(hazard_08_signals_during_a_reset),
		migration_test(hazard_09_two_that_reset),
		migration_test(hazard_10_harvests_and_drains_that_race),
		migration_test(hazard_11_slot_and_offset_are_the_kernels),
	};

	return RUN_TESTS("hazards of rings", tests);
}
