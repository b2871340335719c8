/* SPDX-License-Identifier: MIT */
/*
 * Sessions of a log: start, stop, restart, and close at any moment, for migrations that complete
 * and for those that are canceled; also fork and signals during a migration.
 */
#include "rig.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = 600 };

static struct rig *open_rig(uint32_t mode, enum guest_mode guest, unsigned int vcpus,
			    uint32_t entries)
{
	struct rig_config config = {
		.guest = guest,
		.mode = mode,
		.ring_entries = entries,
		.vcpus = vcpus,
	};

	return rig_new(&config);
}

static struct rig_range whole(const struct rig *rig, const struct rig_slot *slot)
{
	return (struct rig_range){ .slot = slot, .pages = slot->bytes / rig->page_bytes };
}

/* Entries of the smallest ring that this host may support. */
static uint32_t smallest_ring(void)
{
	return (uint32_t)((size_t)getpagesize() / sizeof(struct kvm_dirty_gfn));
}

/* Runs the vCPU until it exits for its full ring, and leaves the ring full. */
static void fill_ring(struct rig *rig, unsigned int vcpu, const struct rig_slot *slot)
{
	struct guest_job job = {
		.program = GUEST_WRITE,
		.mode = rig->config.guest,
		.gpa = slot->gpa + 8 * vcpu,
		.count = slot->bytes / rig->page_bytes,
		.stride_bytes = rig->page_bytes,
		.value = 1,
	};
	struct machine_vcpu *machine = rig->vcpus[vcpu].machine;
	int (*on_full)(void *) = machine->on_full;

	machine->on_full = NULL;
	assert_int_equal(machine_run(machine, &job), MACHINE_FULL);
	machine->on_full = on_full;
}

/*
 * Hazard 24 of doc/kernel.md: a canceled migration leaves full rings. Stop must drain them, because
 * a vCPU with a full ring cannot enter the guest even after the log flag is off.
 */
static void stop_drains_full_rings(void **state)
{
	const uint32_t entries = smallest_ring();
	struct rig *rig = open_rig(DL_MODE_RING, GUEST_USER, 2, entries);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, 4 * entries);

	(void)state;
	rig_join(rig, 0);
	fill_ring(rig, 0, slot);
	fill_ring(rig, 1, slot);
	rig_leave(rig);
	for (unsigned int i = 0; i < 2; i++) {
		rig->vcpus[i].machine->on_full = NULL;
		assert_int_equal(machine_continue(rig->vcpus[i].machine), MACHINE_DONE);
	}
}

/*
 * As above, with rings that may have overflowed. The vCPU then gets into the guest with the help of
 * its own drains.
 */
static void vcpus_run_again_after_a_stop_with_overflowed_rings(void **state)
{
	const uint32_t entries = smallest_ring();
	struct rig *rig = open_rig(DL_MODE_RING, GUEST_KERNEL, 2, entries);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, 4 * entries + 4096);
	struct rig_range range = whole(rig, slot);

	(void)state;
	for (int round = 0; round < 4; round++) {
		rig_join(rig, 0);
		fill_ring(rig, 0, slot);
		fill_ring(rig, 1, slot);
		if (round % 2)
			(void)rig_harvest(rig, 0);
		rig_leave(rig);
		assert_int_equal(machine_continue(rig->vcpus[0].machine), MACHINE_DONE);
		assert_int_equal(machine_continue(rig->vcpus[1].machine), MACHINE_DONE);
	}
	/* The rings work again. */
	rig_join(rig, 0);
	rig_count_all(rig, slot);
	rig_passes(rig, 3);
	rig_stop(rig);
	rig_pass(rig, 0);
	rig_write_mode(rig, 0, &range, 77, GUEST_USER);
	rig_finish(rig);
}

static void restart_after_cancel(uint32_t mode, enum guest_mode guest)
{
	struct rig *rig = open_rig(mode, guest, 2, mode == DL_MODE_RING ? 1024 : 0);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);

	rig_count_all(rig, slot);
	for (int session = 0; session < 4; session++) {
		rig_join(rig, 0);
		rig_passes(rig, 2);
		rig_leave(rig);
		rig_wait_rounds(rig, 0, 1);
	}
	/* A clean start: the copies are equal now, and only later writes are dirty. */
	rig_stop(rig);
	checker_equalize(&rig->checker);
	rig_join(rig, DL_CURSOR_CLEAN);
	assert_int_equal(checker_pending(&rig->checker), 0);
	rig_resume(rig);
	rig_passes(rig, 2);
	rig_finish(rig);
}

static void ring_restart_after_cancel_user(void **state)
{
	(void)state;
	restart_after_cancel(DL_MODE_RING, GUEST_USER);
}

static void ring_restart_after_cancel_kernel(void **state)
{
	(void)state;
	restart_after_cancel(DL_MODE_RING, GUEST_KERNEL);
}

static void bitmap_restart_after_cancel(void **state)
{
	(void)state;
	restart_after_cancel(DL_MODE_BITMAP, GUEST_USER);
}

/* A cursor of a closed log returns errors until it is freed. */
static void cursor_of_a_closed_log_is_canceled(void **state)
{
	struct rig *rig = open_rig(DL_MODE_AUTO, GUEST_USER, 1, 0);
	struct dl_extent extents[2];
	struct dl_cursor *cursor;

	rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	(void)state;
	assert_int_equal(dl_cursor_new(rig->log, NULL, &cursor), 0);
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(cursor, extents, 1), 1);
	dl_log_close(rig->log);
	rig->log = NULL;
	assert_int_equal(dl_cursor_read(cursor, extents + 1, 1), -ECANCELED);
	assert_int_equal(dl_cursor_ack(cursor, extents, 1), -ECANCELED);
	assert_int_equal(dl_harvest(cursor, 0, NULL), -ECANCELED);
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
	dl_cursor_free(cursor);
}

static void final_pass_can_be_repeated(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, GUEST_USER, 2, 1024);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);

	(void)state;
	rig_join(rig, 0);
	rig_count_all(rig, slot);
	for (int end = 0; end < 3; end++) {
		rig_passes(rig, 1);
		rig_finish(rig);
		assert_int_equal(rig_pass(rig, DL_HARVEST_PAUSED), 0);
		rig_resume(rig);
	}
	rig_passes(rig, 1);
	rig_finish(rig);
}

static void two_logs_of_two_vms_at_once(void **state)
{
	struct rig *ring = open_rig(DL_MODE_RING, GUEST_USER, 1, 1024);
	struct rig *bitmap = open_rig(DL_MODE_BITMAP, GUEST_KERNEL, 1, 0);
	struct rig *overflowing = open_rig(DL_MODE_RING, GUEST_KERNEL, 1, 1024);
	struct rig *const rigs[] = { ring, bitmap, overflowing };

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct rig_slot *slot = rig_slot(rigs[i], 0, GUEST_DATA_GPA, PAGES + 1000);

		rig_join(rigs[i], 0);
		rig_count_all(rigs[i], slot);
	}
	for (int pass = 0; pass < 4; pass++) {
		for (int i = 0; i < 3; i++)
			rig_passes(rigs[i], 1);
	}
	for (int i = 0; i < 3; i++)
		rig_finish(rigs[i]);
}

/* The log and its handles may be released in any order. */
static void handles_may_be_released_in_any_order(void **state)
{
	const char orders[][4] = { "lvi", "liv", "vli", "vil", "ilv", "ivl" };

	(void)state;
	for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
		struct rig *rig = open_rig(i % 2 ? DL_MODE_RING : DL_MODE_BITMAP, GUEST_USER, 1, 0);
		struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
		struct dl_cursor *cursor;
		struct dl_extent run;

		assert_int_equal(dl_cursor_new(rig->log, NULL, &cursor), 0);
		rig_count_all(rig, slot);
		rig_wait_rounds(rig, 0, 1);
		assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
		assert_int_equal(dl_cursor_read(cursor, &run, 1), 1);
		rig_stop(rig);
		for (const char *what = orders[i]; *what; what++) {
			if (*what == 'l') {
				dl_log_close(rig->log);
				rig->log = NULL;
			} else if (*what == 'v') {
				dl_vcpu_remove(rig->vcpus[0].log);
				rig->vcpus[0].log = NULL;
			} else {
				dl_cursor_free(cursor);
			}
		}
		rig_free(rig);
	}
}

static void handles_of_a_closed_log_return_canceled(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, GUEST_USER, 1, 1024);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct rig_range range = whole(rig, slot);
	struct dl_stats stats = { .size = sizeof(stats) };
	struct dl_cursor *cursor;
	struct dl_extent run;

	(void)state;
	assert_int_equal(dl_cursor_new(rig->log, NULL, &cursor), 0);
	rig_write(rig, 0, &range, 1);
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(cursor, &run, 1), 1);
	dl_log_close(rig->log);
	rig->log = NULL;
	assert_int_equal(dl_cursor_read(cursor, &run, 1), -ECANCELED);
	assert_int_equal(dl_cursor_ack(cursor, &run, 1), -ECANCELED);
	assert_int_equal(dl_vcpu_stats(rig->vcpus[0].log, &stats), -ECANCELED);
	assert_int_equal(dl_vcpu_drain(rig->vcpus[0].log, 0), 0);
	rig_write(rig, 0, &range, 2);
	dl_cursor_free(cursor);
}

/* Closes the log while the vCPUs write and some of their rings are full. */
static void close_while_vcpus_run(enum guest_mode guest, uint32_t mode)
{
	for (int round = 0; round < 4; round++) {
		struct rig *rig =
			open_rig(mode, guest, 2, mode == DL_MODE_RING ? smallest_ring() : 0);
		struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, 2 * PAGES);

		rig_join(rig, 0);
		rig_count_all(rig, slot);
		rig_passes(rig, (unsigned int)round % 3);
		dl_log_close(rig->log);
		rig->log = NULL;
		/* The guest keeps running, unlogged. */
		rig_wait_rounds(rig, 0, 2);
		rig_wait_rounds(rig, 1, 2);
		rig_stop(rig);
		rig_free(rig);
	}
}

static void ring_close_while_user_vcpus_run(void **state)
{
	(void)state;
	close_while_vcpus_run(GUEST_USER, DL_MODE_RING);
}

static void ring_close_while_kernel_vcpus_run(void **state)
{
	(void)state;
	close_while_vcpus_run(GUEST_KERNEL, DL_MODE_RING);
}

static void bitmap_close_while_vcpus_run(void **state)
{
	(void)state;
	close_while_vcpus_run(GUEST_USER, DL_MODE_BITMAP);
}

/* Hazard 28 of doc/kernel.md: ioctls of a child fail with EIO and do not affect the migration. */
static void a_fork_does_not_affect_the_migration(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, GUEST_USER, 2, 1024);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);

	(void)state;
	rig_join(rig, 0);
	rig_count_all(rig, slot);
	for (int pass = 0; pass < 4; pass++) {
		int status;
		pid_t child = fork();

		assert_true(child >= 0);
		if (!child) {
			int r = ioctl(rig->machine.vm_fd, KVM_RESET_DIRTY_RINGS, 0);

			_exit(r < 0 && errno == EIO ? 0 : 1);
		}
		rig_passes(rig, 1);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFEXITED(status));
		assert_int_equal(WEXITSTATUS(status), 0);
	}
	rig_finish(rig);
}

/* Hazard 28 of doc/kernel.md: a child cannot add a vCPU to the log of its parent. */
static void vcpu_add_in_a_child_fails_with_eio(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, GUEST_USER, 0, 0);
	struct rig_vcpu *vcpu = rig_vcpu(rig, false);
	struct dl_vcpu *added;
	int status;
	pid_t child;

	(void)state;
	child = fork();
	assert_true(child >= 0);
	if (!child)
		_exit(dl_vcpu_add(rig->log, vcpu->machine->fd, 0, 0, &added) == -EIO ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	rig_vcpu_add(rig, vcpu);
}

static pthread_t signalled_thread;

static int signal_step(struct worker *worker)
{
	(void)worker;
	return -pthread_kill(signalled_thread, machine_kick_signal());
}

/*
 * Hazards 6 to 8 of doc/kernel.md: since 6.17 a pending signal cuts a reset short, and the entries
 * collected until then are taken back without protecting their pages. The library must not abort
 * because of the count, must not rely on EINTR alone, and must not lose a page.
 */
static void signals_do_not_cut_a_reset_short(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, GUEST_USER, 1, 4096);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, 2 * PAGES);

	(void)state;
	rig_join(rig, 0);
	rig_count_all(rig, slot);
	signalled_thread = pthread_self();
	rig_start_worker(rig, 0, signal_step);
	rig_passes(rig, 20);
	rig_end_workers(rig);
	rig_passes(rig, 2);
	rig_finish(rig);
	assert_int_equal(rig_stats(rig).short_resets, 0);
	assert_int_equal(rig_stats(rig).overflows, 0);
}

/*
 * The number of the caller's descriptor may come to name another VM. That VM must not get this
 * one's slots, as it would by the ioctls that switch logging on and off.
 */
static void a_reused_descriptor_is_another_vms(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, GUEST_USER, 1, 4096);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, PAGES);
	struct kvm_dirty_log get = { .slot = 0, .dirty_bitmap = calloc(PAGES / 64, 8) };
	struct machine other;
	int r;

	(void)state;
	assert_non_null(get.dirty_bitmap);
	rig_join(rig, 0);
	rig_write(rig, 0, &(struct rig_range){ slot, 0, PAGES, false }, 1);
	assert_int_equal(machine_open(&other), 0);
	assert_int_equal(dup2(other.vm_fd, rig->machine.vm_fd), rig->machine.vm_fd);
	rig_passes(rig, 1);
	rig_leave(rig);
	r = ioctl(other.vm_fd, KVM_GET_DIRTY_LOG, &get);
	assert_true(r < 0 && errno == ENOENT);
	machine_close(&other);
	free(get.dirty_bitmap);
}

/* The C library has every other thread make the system call too, in a handler of its own signal. */
static int set_group_step(struct worker *worker)
{
	(void)worker;
	return setgid(getgid()) ? -errno : 0;
}

/*
 * The C library's own two signals cut a reset short as any other does, and it hides them from
 * masks.
 */
static void set_id_calls_do_not_cut_a_reset_short(void **state)
{
	struct rig *rig = open_rig(DL_MODE_RING, GUEST_USER, 1, 4096);
	struct rig_slot *slot = rig_slot(rig, 0, GUEST_DATA_GPA, 2 * PAGES);

	(void)state;
	rig_join(rig, 0);
	rig_count_all(rig, slot);
	rig_start_worker(rig, 0, set_group_step);
	while (atomic_load(&rig->workers[0].steps) < 3000)
		rig_passes(rig, 1);
	rig_end_workers(rig);
	rig_passes(rig, 2);
	rig_finish(rig);
	assert_int_equal(rig_stats(rig).short_resets, 0);
	assert_int_equal(rig_stats(rig).overflows, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		rig_test(stop_drains_full_rings),
		rig_test(vcpus_run_again_after_a_stop_with_overflowed_rings),
		rig_test(ring_restart_after_cancel_user),
		rig_test(ring_restart_after_cancel_kernel),
		rig_test(bitmap_restart_after_cancel),
		rig_test(cursor_of_a_closed_log_is_canceled),
		rig_test(final_pass_can_be_repeated),
		rig_test(two_logs_of_two_vms_at_once),
		rig_test(handles_may_be_released_in_any_order),
		rig_test(handles_of_a_closed_log_return_canceled),
		rig_test(ring_close_while_user_vcpus_run),
		rig_test(ring_close_while_kernel_vcpus_run),
		rig_test(bitmap_close_while_vcpus_run),
		rig_test(a_fork_does_not_affect_the_migration),
		rig_test(vcpu_add_in_a_child_fails_with_eio),
		rig_test(signals_do_not_cut_a_reset_short),
		rig_test(set_id_calls_do_not_cut_a_reset_short),
		rig_test(a_reused_descriptor_is_another_vms),
	};

	return rig_run_tests("session", tests);
}
