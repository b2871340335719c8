/* SPDX-License-Identifier: MIT */
/*
 * Several consumers at once: a migration of all slots, a display of one, a dirty-rate meter that
 * begins clean, and one of the slots that the caller wants. Each must see every write.
 */
#include "every_mode.h"

#include <errno.h>
#include <string.h>

enum { PAGES = 80, BASE = 8192, WRITES = 100, DISPLAY_SLOT = 20 };

static struct migration migration;
static struct guest *guest;
static struct checker display, meter;
static struct dl_slot display_slot;
static struct guest_block *display_block;

static void map_all(struct checker *checker)
{
	for (unsigned int i = 0; i < migration.checker.by_gpa.slot_count; i++)
		checker_map(checker, &migration.checker.by_gpa.slots[i]);
}

/* A guest with a display, and two more receivers. Nobody has joined. */
static void begin(size_t mode, unsigned int vcpus)
{
	const struct guest_config config = config_of_mode(mode);

	migration_open(&migration, &config, vcpus);
	guest = &migration.guest;
	display_block = guest_memory(guest, PAGES);
	migration_add_blocks(&migration);
	display_slot = guest_slot(guest, DISPLAY_SLOT, BASE, display_block, 0, PAGES);
	migration_set(&migration, display_slot);
	migration_add_range(&migration, 0, BASE, PAGES);
	checker_init(&display, guest->log, guest->page_bytes, model_copy);
	checker_add(&display, display_block->memory, PAGES * guest->page_bytes);
	checker_map(&display, &display_slot);
	checker_init_guest(&meter, guest);
	map_all(&meter);
	if (mode % 2)
		checker_deliver_late(&meter, 7);
	else
		checker_deliver_late(&display, 8);
}

static void join_all(uint32_t flags)
{
	checker_equalize(&meter);
	migration_start(&migration, flags);
	assert_int_equal(checker_join_one(&display, DL_CURSOR_ONE_SLOT, DISPLAY_SLOT), 0);
	assert_int_equal(checker_join(&meter, DL_CURSOR_CLEAN), 0);
}

static void last_pass_of(struct checker *checker)
{
	assert_int_equal(checker_last_pass(checker, 1), 0);
	checker_expect_equal(checker);
}

static void end(void)
{
	migration_stop(&migration);
	guest_stop(guest);
	if (meter.cursor)
		last_pass_of(&meter);
	if (migration.checker.cursor)
		migration_finish(&migration);
	if (display.cursor)
		last_pass_of(&display);
	checker_free(&display);
	checker_free(&meter);
	migration_close(&migration);
}

static void pass_of(struct checker *checker, uint64_t turn)
{
	assert_int_equal(checker_pass(checker, 0, 1 + (unsigned int)(turn % 2)), 0);
}

static void all_see_every_write(void **state)
{
	FOR_EACH_MODE(i)
	{
		begin(i, 3);
		join_all(i % 2 ? DL_CURSOR_CLEAN : 0);
		migration.has_devices = true;
		migration_run(&migration);
		for (uint64_t turn = 0; turn < 12; turn++) {
			migration_wait(&migration, WRITES);
			if (turn % 2)
				pass_of(&display, turn);
			if (turn % 3)
				migration_pass(&migration);
			if (turn % 4 == 3)
				pass_of(&meter, turn);
		}
		end();
	}
}

/* Their passes overlap: the same pages are open in several of them. */
static void passes_overlap(void **state)
{
	FOR_EACH_MODE(i)
	{
		begin(i, 2);
		join_all(0);
		migration_run(&migration);
		for (int turn = 0; turn < 8; turn++) {
			struct dl_extent extents[3];
			int n;

			migration_wait(&migration, WRITES);
			assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
			n = dl_cursor_read(migration.checker.cursor, extents, 3);
			assert_true(n >= 0);
			migration_wait(&migration, WRITES / 4);
			assert_int_equal(dl_harvest(meter.cursor, 0, NULL), 0);
			pass_of(&display, 1);
			for (int e = 0; e < n; e++)
				checker_copy_run(&migration.checker, &extents[e]);
			assert_int_equal(
				dl_cursor_ack(migration.checker.cursor, extents, (uint32_t)n), 0);
			assert_int_equal(checker_finish_pass(&meter, 2), 0);
			assert_int_equal(checker_finish_pass(&migration.checker, 1), 0);
		}
		end();
	}
}

/*
 * One of them reads, which clears pages of the kernel's bitmap, between a write and the moment at
 * which another looks.
 */
static void a_clear_for_one_takes_nothing_from_another(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct guest_vcpu *vcpu;

		begin(i, 1);
		vcpu = &guest->vcpus[0];
		join_all(0);
		for (uint64_t turn = 0; turn < 40; turn++) {
			struct checker *reader =
				turn % 3 ? turn % 3 == 1 ? &meter : &display : &migration.checker;

			assert_int_equal(guest_write(guest, vcpu, 0, BASE + turn), 0);
			assert_int_equal(dl_harvest(reader->cursor, 0, NULL), 0);
			/* Neighbours in the bitmap, after its last GET and before the CLEAR. */
			assert_int_equal(guest_write(guest, vcpu, 0, BASE + turn + 1), 0);
			assert_int_equal(guest_write(guest, vcpu, 0, BASE + turn), 0);
			assert_int_equal(checker_finish_pass(reader, 1), 0);
		}
		end();
	}
}

static void consumers_join_and_leave_in_mid_migration(void **state)
{
	FOR_EACH_MODE(i)
	{
		begin(i, 2);
		migration_start(&migration, 0);
		migration_run(&migration);
		for (int turn = 0; turn < 8; turn++) {
			bool in_pass = turn % 2;

			migration_wait(&migration, WRITES);
			if (in_pass)
				assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
			if (display.cursor)
				checker_leave(&display);
			else
				assert_int_equal(checker_join_one(&display, DL_CURSOR_ONE_SLOT,
								  DISPLAY_SLOT),
						 0);
			if (turn % 3 == 0)
				checker_leave(&meter);
			if (turn % 3 == 1)
				assert_int_equal(checker_join(&meter, 0), 0);
			if (in_pass)
				assert_int_equal(checker_finish_pass(&migration.checker, 2), 0);
			if (display.cursor)
				pass_of(&display, 1);
			if (meter.cursor && turn % 3 == 2)
				pass_of(&meter, 1);
		}
		end();
	}
}

/* The display goes on for ever; migrations begin, are canceled, and begin again beside it. */
static void migrations_come_and_go_beside_a_display(void **state)
{
	FOR_EACH_MODE(i)
	{
		begin(i, 2);
		assert_int_equal(checker_join_one(&display, DL_CURSOR_ONE_SLOT, DISPLAY_SLOT), 0);
		migration_run(&migration);
		for (int turn = 0; turn < 5; turn++) {
			migration_wait(&migration, WRITES);
			pass_of(&display, 0);
			assert_int_equal(checker_join(&migration.checker, 0), 0);
			migration_passes(&migration, 2, WRITES);
			pass_of(&display, 1);
			if (turn == 4)
				break;
			if (turn % 2)
				assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
			checker_leave(&migration.checker);
		}
		end();
	}
}

/* A clean consumer that joins beside another, with no vCPU running, sees only later writes. */
static void a_meter_counts_what_is_written_after_it_joined(void **state)
{
	FOR_EACH_MODE(i)
	{
		uint64_t pages[PAGES];

		begin(i, 1);
		migration_start(&migration, 0);
		migration_pass(&migration);
		for (uint64_t page = 0; page < 30; page++)
			assert_int_equal(guest_write(guest, &guest->vcpus[0], 0, BASE + page), 0);
		guest_stop(guest);
		/* The migration has them protected again, or takes them for owed. */
		migration_pass(&migration);
		checker_equalize(&meter);
		assert_int_equal(checker_join(&meter, DL_CURSOR_CLEAN), 0);
		for (uint64_t page = 50; page < 57; page++)
			assert_int_equal(guest_write(guest, &guest->vcpus[0], 0, BASE + page), 0);
		assert_int_equal(guest_pass_of(guest, meter.cursor, 0, pages, PAGES), 7);
		assert_int_equal(pages[0], BASE + 50);
		migration_pass(&migration);
		assert_int_equal(guest_pass_of(guest, meter.cursor, 0, pages, PAGES), 0);
		checker_leave(&meter);
		end();
	}
}

static void failures_and_repairs_concern_all(void **state)
{
	FOR_EACH_MODE(i)
	{
		const bool ring = every_mode[i].mode == DL_MODE_RING;
		const struct model_fault fault = {
			.request = KVM_GET_DIRTY_LOG, .times = 1, .error = EFAULT, .after = true
		};

		uint64_t pending;

		begin(i, 1);
		join_all(0);
		migration_pass(&migration);
		pass_of(&display, 0);
		for (uint64_t page = 0; page < 20; page++)
			assert_int_equal(guest_write(guest, &guest->vcpus[0], 0, BASE + page), 0);
		if (ring) {
			for (uint64_t page = 0; page < 500; page++)
				assert_int_equal(model_vcpu_write_unchecked(
							 guest->model, guest->vcpus[0].fd, 0,
							 (16 + page % 250) * guest->page_bytes,
							 &page, 8),
						 0);
			assert_int_equal(guest_write(guest, &guest->vcpus[0], 0, BASE), 0);
			pass_of(&display, 0);
			assert_true(guest_stats(guest).overflows > 0);
		} else {
			assert_int_equal(model_fault(guest->model, &fault), 0);
			/* Fails the GET of the display's slot, the only one that it reads. */
			assert_int_equal(dl_harvest(display.cursor, 0, NULL), -EFAULT);
		}
		assert_int_equal(checker_harvest(&meter, 0, &pending), 0);
		assert_true(pending >= PAGES * guest->page_bytes);
		end();
	}
}

static void the_slot_of_a_display_comes_and_goes(void **state)
{
	FOR_EACH_MODE(i)
	{
		begin(i, 2);
		assert_int_equal(checker_slot_remove(&migration.checker, DISPLAY_SLOT, 0), 0);
		migration_start(&migration, 0);
		/* Before the slot exists. */
		assert_int_equal(checker_join_one(&display, DL_CURSOR_ONE_SLOT, DISPLAY_SLOT), 0);
		migration_run(&migration);
		for (int turn = 0; turn < 3; turn++) {
			assert_int_equal(dl_harvest(display.cursor, 0, NULL), -ENOENT);
			assert_int_equal(dl_cursor_end(display.cursor, 0), 0);
			migration_set(&migration, display_slot);
			migration_wait(&migration, WRITES);
			pass_of(&display, 0);
			migration_passes(&migration, 1, WRITES);
			assert_int_equal(dl_harvest(display.cursor, 0, NULL), 0);
			assert_int_equal(checker_slot_remove(&migration.checker, DISPLAY_SLOT, 0),
					 0);
			assert_int_equal(checker_finish_pass(&display, 1), 0);
		}
		migration_set(&migration, display_slot);
		end();
	}
}

/* DL_SLOT_WANTED is set and cleared while vCPUs write and other consumers read. */
static void slots_are_wanted_and_not(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct checker wanted;

		begin(i, 2);
		checker_init(&wanted, guest->log, guest->page_bytes, model_copy);
		checker_add(&wanted, display_block->memory, PAGES * guest->page_bytes);
		assert_int_equal(checker_join(&wanted, DL_CURSOR_WANTED), 0);
		if (i % 2)
			migration_start(&migration, 0);
		migration_run(&migration);
		for (int turn = 0; turn < 9; turn++) {
			bool in_pass = turn % 3 == 1;

			migration_wait(&migration, WRITES);
			if (in_pass)
				assert_int_equal(dl_harvest(wanted.cursor, 0, NULL), 0);
			display_slot.flags ^= DL_SLOT_WANTED;
			migration_set(&migration, display_slot);
			if (display_slot.flags & DL_SLOT_WANTED)
				checker_map(&wanted, &display_slot);
			else
				checker_unmap(&wanted, DISPLAY_SLOT);
			if (in_pass)
				assert_int_equal(checker_finish_pass(&wanted, 1), 0);
			if (migration.checker.cursor)
				migration_pass(&migration);
		}
		migration_wait(&migration, WRITES);
		assert_true(display_slot.flags & DL_SLOT_WANTED);
		migration_stop(&migration);
		guest_stop(guest);
		last_pass_of(&wanted);
		assert_true(atomic_load(&wanted.pages_sent) >= PAGES);
		checker_free(&wanted);
		end();
	}
}

/* A slot that the VMM has created, and the guest has written, is adopted. */
static void an_existing_slot_is_adopted(void **state)
{
	FOR_EACH_MODE(i)
	for (int in_pass = 0; in_pass < 2; in_pass++) {
		const struct dl_os *os;
		struct guest_block *block;
		struct dl_slot slot;

		begin(i, 1);
		os = model_os(guest->model);
		join_all(0);
		migration_pass(&migration);
		block = guest_memory(guest, PAGES);
		migration_add_blocks(&migration);
		checker_add(&meter, block->memory, PAGES * guest->page_bytes);
		slot = guest_slot(guest, 33, 2 * BASE, block, 0, PAGES);
		assert_int_equal(os->ioctl(os->opaque, guest->vm_fd, KVM_SET_USER_MEMORY_REGION,
					   &(struct kvm_userspace_memory_region){
						   .slot = slot.slot,
						   .guest_phys_addr = slot.gpa,
						   .memory_size = slot.bytes,
						   .userspace_addr = slot.hva }),
				 0);
		for (uint64_t page = 0; page < PAGES; page++)
			assert_int_equal(guest_write(guest, &guest->vcpus[0], 0, 2 * BASE + page),
					 0);
		if (in_pass)
			assert_int_equal(dl_harvest(migration.checker.cursor, 0, NULL), 0);
		slot.flags = DL_SLOT_EXISTS;
		migration_set(&migration, slot);
		checker_map(&meter, &slot);
		slot.flags = 0;
		migration_set(&migration, slot);
		if (in_pass)
			assert_int_equal(checker_finish_pass(&migration.checker, 1), 0);
		migration_pass(&migration);
		for (uint64_t page = 0; page < PAGES; page += 3)
			assert_int_equal(guest_write(guest, &guest->vcpus[0], 0, 2 * BASE + page),
					 0);
		end();
	}
}

/* The one way to notice a vCPU that was never added: its writes are in no ring. */
static void missing_vcpus_are_noticed(void **state)
{
	FOR_EACH_MODE(i)
	{
		struct dl_cursor_options options = { .size = sizeof(options), .vcpus = 3 };
		struct dl_cursor *cursor;
		bool ring = every_mode[i].mode == DL_MODE_RING;

		begin(i, 2);
		assert_int_equal(dl_cursor_new(guest->log, &options, &cursor), ring ? -EBUSY : 0);
		assert_int_equal(cursor == NULL, ring);
		dl_cursor_free(cursor);
		guest_vcpu(guest, true);
		assert_int_equal(dl_cursor_new(guest->log, &options, &cursor), 0);
		dl_cursor_free(cursor);
		/* A parked one counts: its ring is harvested. */
		dl_vcpu_remove(guest->vcpus[1].handle);
		guest->vcpus[1].handle = NULL;
		assert_int_equal(dl_cursor_new(guest->log, &options, &cursor), 0);
		dl_cursor_free(cursor);
		join_all(0);
		end();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		migration_test(all_see_every_write),
		migration_test(passes_overlap),
		migration_test(a_clear_for_one_takes_nothing_from_another),
		migration_test(consumers_join_and_leave_in_mid_migration),
		migration_test(migrations_come_and_go_beside_a_display),
		migration_test(a_meter_counts_what_is_written_after_it_joined),
		migration_test(failures_and_repairs_concern_all),
		migration_test(the_slot_of_a_display_comes_and_goes),
		migration_test(slots_are_wanted_and_not),
		migration_test(an_existing_slot_is_adopted),
		migration_test(missing_vcpus_are_noticed),
	};

	return RUN_TESTS("migrations beside other consumers", tests);
}
