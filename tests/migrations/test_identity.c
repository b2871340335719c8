/* SPDX-License-Identifier: MIT */
/* Slots that change in the middle of a pass: what the pass hands out, and what a later one does. */
#include "every_mode.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>

enum { PAGES = 128, HERE = 8192, THERE = 16384, HALF = PAGES / 2 };

static struct migration migration;
static struct guest *guest;
static struct guest_vcpu *vcpu;
static struct dl_cursor *cursor;
static struct dl_slot slot; /* 20, over block[0] at HERE */
static struct guest_block *blocks[2];
static struct checker_block *sent[2]; /* what the checker knows of them */

/* Every second page of the slot is dirty, and nothing else. */
static void begin(size_t mode)
{
	const struct guest_config config = config_of_mode(mode);

	migration_open(&migration, &config, 1);
	guest = &migration.guest;
	vcpu = &guest->vcpus[0];
	for (int i = 0; i < 2; i++) {
		blocks[i] = guest_memory(guest, PAGES);
		migration_add_blocks(&migration);
		sent[i] = &migration.checker.blocks[migration.checker.block_count - 1];
	}
	/* Until a slot maps it. */
	sent[1]->ignored = true;
	slot = guest_slot(guest, 20, HERE, blocks[0], 0, PAGES);
	migration_set(&migration, slot);
	migration_start(&migration, 0);
	cursor = migration.checker.cursor;
	migration_pass(&migration);
	migration_pass(&migration);
	for (uint64_t page = 0; page < PAGES; page += 2)
		assert_int_equal(guest_write(guest, vcpu, 0, HERE + page), 0);
	guest_stop(guest);
}

static void end(void)
{
	migration_finish(&migration);
	migration_close(&migration);
}

/* Opens a pass, and sends and acknowledges the first ten pages of the slot. */
static void read_some(struct dl_extent *extents)
{
	assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
	assert_int_equal(dl_cursor_read(cursor, extents, 10), 10);
	for (int i = 0; i < 10; i++)
		checker_copy_run(&migration.checker, &extents[i]);
	assert_int_equal(dl_cursor_ack(cursor, extents, 6), 0);
}

/* Reads the rest of the pass, in which the slot's number must not occur. */
static void expect_no_more(void)
{
	struct dl_extent extent;

	assert_int_equal(dl_cursor_read(cursor, &extent, 1), 0);
	checker_end(&migration.checker, 0);
}

static void set(struct dl_slot s)
{
	if (s.slot == 21)
		sent[1]->ignored = false;
	migration_set(&migration, s);
}

static void remove_slot(void)
{
	assert_int_equal(checker_slot_remove(&migration.checker, 20, 0), 0);
}

static struct dl_slot successor(uint32_t flags)
{
	struct dl_slot other = guest_slot(guest, 21, HERE, blocks[1], 0, PAGES);

	other.flags = flags;
	return other;
}

/* Late deliveries to the receiver by gpa must not come from the slot that was there before. */
static void another_slot_takes_the_address(void **state)
{
	FOR_EACH_MODE(i)
	for (uint32_t clean = 0; clean <= DL_SLOT_CLEAN; clean += DL_SLOT_CLEAN) {
		struct dl_extent extents[10];

		begin(i);
		read_some(extents);
		remove_slot();
		/* A receiver can not have its contents, whatever the caller says. */
		set(successor(clean));
		expect_no_more();
		assert_int_equal(atomic_load(&sent[1]->pages_sent), 0);
		migration_pass(&migration);
		assert_int_equal(atomic_load(&sent[1]->pages_sent), PAGES);
		end();
	}
}

/* After the pass, with everything flushed, the caller's word counts. */
static void a_clean_successor_is_not_sent(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_slot other;

		begin(i);
		migration_pass(&migration);
		assert_int_equal(checker_slot_drop(&migration.checker, 20, 0), 0);
		sent[0]->ignored = true;
		other = successor(DL_SLOT_CLEAN | DL_SLOT_PAUSED);
		checker_equalize_slot(&migration.checker, &other);
		set(other);
		migration_pass(&migration);
		assert_int_equal(atomic_load(&sent[1]->pages_sent), 0);
		assert_int_equal(guest_write(guest, vcpu, 0, HERE + 7), 0);
		end();
	}
}

/* Made again over the same memory: it is not in the pass twice, so no version overtakes another. */
static void the_same_memory_is_in_a_pass_once(void **state)
{
	FOR_EACH_MODE(i)
	for (uint32_t clean = 0; clean <= DL_SLOT_CLEAN; clean += DL_SLOT_CLEAN) {
		struct dl_extent extents[10];
		uint64_t pending;

		begin(i);
		read_some(extents);
		remove_slot();
		slot.flags = clean;
		set(slot);
		assert_int_equal(guest_write(guest, vcpu, 0, HERE), 0);
		assert_int_equal(guest_write(guest, vcpu, 0, HERE + 90), 0);
		/* These are extents of the removed slot. */
		assert_int_equal(dl_cursor_ack(cursor, extents + 6, 4), 0);
		expect_no_more();
		assert_int_equal(checker_harvest(&migration.checker, 0, &pending), 0);
		assert_int_equal(pending, PAGES * guest->page_bytes);
		end();
	}
}

static void a_moved_slot_leaves_the_pass(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_extent extents[10];
		uint64_t pages[PAGES], pending;

		begin(i);
		read_some(extents);
		slot.gpa = THERE * (uint64_t)guest->page_bytes;
		slot.flags = DL_SLOT_CLEAN; /* ignored for a move */
		set(slot);
		assert_int_equal(dl_cursor_ack(cursor, extents + 6, 4), 0);
		expect_no_more();
		assert_int_equal(checker_harvest(&migration.checker, 0, &pending), 0);
		assert_int_equal(pending, PAGES * guest->page_bytes);
		assert_int_equal(guest_pass_of(guest, cursor, 0, pages, PAGES), PAGES);
		assert_int_equal(pages[0], THERE);
		assert_int_equal(pages[PAGES - 1], THERE + PAGES - 1);
		migration_close(&migration);
		/* Again, and to the end. */
		begin(i);
		read_some(extents);
		slot.gpa = THERE * (uint64_t)guest->page_bytes;
		set(slot);
		assert_int_equal(guest_write(guest, vcpu, 0, THERE + 1), 0);
		expect_no_more();
		end();
	}
}

/* Two slots change places while both are half read. */
static void slots_swap_their_addresses(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_extent extents[10];
		struct dl_slot other;

		begin(i);
		other = successor(0);
		other.gpa = THERE * (uint64_t)guest->page_bytes;
		set(other);
		read_some(extents);
		slot.gpa = 3 * HERE * (uint64_t)guest->page_bytes;
		set(slot);
		other.gpa = HERE * (uint64_t)guest->page_bytes;
		set(other);
		slot.gpa = THERE * (uint64_t)guest->page_bytes;
		set(slot);
		assert_int_equal(guest_write(guest, vcpu, 0, THERE + 2), 0);
		assert_int_equal(guest_write(guest, vcpu, 0, HERE + 2), 0);
		expect_no_more();
		end();
	}
}

static void a_new_slot_waits_for_the_next_pass(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_extent extents[HALF];
		struct dl_slot other;

		begin(i);
		read_some(extents);
		other = successor(0);
		other.gpa = THERE * (uint64_t)guest->page_bytes;
		set(other);
		assert_int_equal(dl_cursor_read(cursor, extents, HALF), HALF - 10);
		for (int n = 0; n < HALF - 10; n++) {
			assert_int_equal(extents[n].slot, 20);
			checker_copy_run(&migration.checker, &extents[n]);
		}
		checker_end(&migration.checker, DL_END_COMMIT);
		end();
	}
}

static void what_is_marked_behind_waits(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_extent extents[HALF];
		struct dl_slot named = { 0 };
		int n;

		begin(i);
		named = slot;
		named.cookie = 99;
		read_some(extents);
		set(named);
		assert_int_equal(dl_mark_slot(guest->log, 20, 0, 1), 0);
		n = dl_cursor_read(cursor, extents, HALF);
		assert_int_equal(n, HALF - 10);
		for (int e = 0; e < n; e++) {
			assert_int_equal(extents[e].offset_bytes, (20 + 2 * e) * guest->page_bytes);
			assert_int_equal(extents[e].cookie, 0);
			checker_copy_run(&migration.checker, &extents[e]);
		}
		checker_end(&migration.checker, DL_END_COMMIT);
		assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
		assert_int_equal(dl_cursor_read(cursor, extents, HALF), 1);
		assert_int_equal(extents[0].offset_bytes, 0);
		assert_int_equal(extents[0].cookie, 99);
		checker_end(&migration.checker, 0);
		end();
	}
}

static int mark_here, mark_there;

/* Marks never wait, so they look at the slots while one is being changed. */
static bool look_while_moving(struct guest *g, int fd, unsigned long request, void *arg,
			      int *result)
{
	const struct kvm_userspace_memory_region *region = arg;

	if (request != KVM_SET_USER_MEMORY_REGION ||
	    region->guest_phys_addr != THERE * (uint64_t)g->page_bytes)
		return false;
	mark_here = dl_mark_gpa(g->log, 0, HERE * (uint64_t)g->page_bytes, 1);
	mark_there = dl_mark_gpa(g->log, 0, THERE * (uint64_t)g->page_bytes, 1);
	*result = -ENOMEM;
	return true;
}

static void a_refused_move_is_never_visible(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_extent extents[10];
		struct dl_slot moved;

		begin(i);
		read_some(extents);
		moved = slot;
		moved.gpa = THERE * (uint64_t)guest->page_bytes;
		mark_here = mark_there = 1;
		guest->config.intercept = look_while_moving;
		assert_int_equal(dl_slot_set(guest->log, &moved), -ENOMEM);
		guest->config.intercept = NULL;
		assert_int_equal(mark_here, 0);
		assert_int_equal(mark_there, -ENOENT);
		assert_int_equal(dl_mark_gpa(guest->log, 0, moved.gpa, 1), -ENOENT);
		assert_int_equal(dl_cursor_read(cursor, extents, 1), 1);
		assert_int_equal(extents[0].gpa, (HERE + 20) * (uint64_t)guest->page_bytes);
		checker_end(&migration.checker, 0);
		end();
	}
}

/* Nothing that switches logging makes it again: that would be a create. */
static void a_removed_slot_does_not_come_back(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_cursor *other;
		uint8_t page_state;

		begin(i);
		assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
		remove_slot();
		checker_end(&migration.checker, 0);
		if (every_mode[i].mode == DL_MODE_RING) {
			/* Overflow a ring, so that the next harvest repairs. */
			for (uint64_t page = 0; page < 600; page++)
				assert_int_equal(model_vcpu_write_unchecked(
							 guest->model, vcpu->fd, 0,
							 (16 + page % 300) * guest->page_bytes,
							 NULL, 8),
						 0);
			assert_int_equal(guest_write(guest, vcpu, 0, 16), 0);
			migration_pass(&migration);
			assert_true(guest_stats(guest).repairs > 0);
		}
		assert_int_equal(guest_new_cursor(guest, 0, 0, &other), 0);
		checker_leave(&migration.checker);
		dl_cursor_free(other);
		assert_int_equal(
			model_page_states(guest->model, guest->vm_fd, 20, 0, 1, &page_state),
			-ENOENT);
		assert_int_equal(guest_write(guest, vcpu, 0, HERE), -EFAULT);
		migration_close(&migration);
	}
}

/* A removal that fails leaves the slot as it was, and logged; so does what follows. */
static void a_removal_that_fails_changes_nothing(void **state)
{
	const struct model_fault fault = { .request = KVM_SET_USER_MEMORY_REGION,
					   .times = 2,
					   .error = ENOMEM,
					   .only_slot = true,
					   .slot = 20 };

	FOR_EACH_MODE(i)
	{
		struct dl_extent extents[10];

		begin(i);
		read_some(extents);
		assert_int_equal(model_fault(guest->model, &fault), 0);
		assert_int_equal(checker_slot_remove(&migration.checker, 20, 0), -ENOMEM);
		assert_int_equal(checker_slot_remove(&migration.checker, 20, DL_REMOVE_PAUSED),
				 -ENOMEM);
		set(slot);
		assert_int_equal(guest_write(guest, vcpu, 0, HERE + 1), 0);
		guest_stop(guest);
		assert_int_equal(checker_finish_pass(&migration.checker, 1), 0);
		migration_pass(&migration);
		remove_slot();
		set(slot);
		migration_pass(&migration);
		assert_int_equal(guest_write(guest, vcpu, 0, HERE + 3), 0);
		end();
	}
}

struct watcher {
	pthread_t thread;
	atomic_bool stop;
	atomic_uint too_old, reads;
	atomic_uint_fast64_t oldest; /* cookie that a read may return from now on */
};

static void *watch(void *opaque)
{
	struct watcher *watcher = opaque;

	while (!atomic_load(&watcher->stop)) {
		uint64_t oldest = atomic_load(&watcher->oldest);
		struct dl_extent extents[4];
		int n = dl_cursor_read(cursor, extents, 4);

		for (int i = 0; i < n; i++)
			if (extents[i].slot == 20 && extents[i].cookie < oldest)
				atomic_fetch_add(&watcher->too_old, 1);
		atomic_fetch_add(&watcher->reads, n > 0 ? (unsigned int)n : 0);
		sched_yield();
	}
	return NULL;
}

/* When a change has returned, no read returns an extent of the slot as it was. */
static void no_read_returns_a_slot_that_has_changed(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct watcher watchers[2] = { 0 };

		begin(i);
		for (int w = 0; w < 2; w++)
			assert_int_equal(
				pthread_create(&watchers[w].thread, NULL, watch, &watchers[w]), 0);
		for (uint64_t turn = 1; turn < 150; turn++) {
			assert_int_equal(dl_harvest(cursor, 0, NULL), 0);
			sched_yield();
			slot.cookie = turn;
			if (turn % 2) {
				assert_int_equal(dl_slot_remove(guest->log, 20, 0, NULL, 0), 0);
				for (int w = 0; w < 2; w++)
					atomic_store(&watchers[w].oldest, turn);
			}
			slot.gpa = (turn % 2 ? HERE : THERE) * (uint64_t)guest->page_bytes;
			assert_int_equal(dl_slot_set(guest->log, &slot), 0);
			for (int w = 0; w < 2; w++)
				atomic_store(&watchers[w].oldest, turn);
			sched_yield();
			assert_int_equal(dl_cursor_end(cursor, 0), 0);
		}
		for (int w = 0; w < 2; w++) {
			atomic_store(&watchers[w].stop, true);
			pthread_join(watchers[w].thread, NULL);
			assert_int_equal(atomic_load(&watchers[w].too_old), 0);
		}
		migration_close(&migration);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		migration_test(another_slot_takes_the_address),
		migration_test(a_clean_successor_is_not_sent),
		migration_test(the_same_memory_is_in_a_pass_once),
		migration_test(a_moved_slot_leaves_the_pass),
		migration_test(slots_swap_their_addresses),
		migration_test(a_new_slot_waits_for_the_next_pass),
		migration_test(what_is_marked_behind_waits),
		migration_test(a_refused_move_is_never_visible),
		migration_test(a_removed_slot_does_not_come_back),
		migration_test(a_removal_that_fails_changes_nothing),
		migration_test(no_read_returns_a_slot_that_has_changed),
	};

	return RUN_TESTS("migrations with slots that change in a pass", tests);
}
