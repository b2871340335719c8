/* SPDX-License-Identifier: MIT */
/*
 * Several cursors on one running guest: a migration of all slots, a display of one, a consumer of
 * the wanted ones, a meter that only harvests. Each must have a copy of the memory at its end.
 */
#include "scene.h"

static void consumers_come_and_go_while_vcpus_write(void **state)
{
	struct checker *screen, *wanted, *meter;
	uint64_t most = RAM_PAGES + 2 * SMALL_PAGES;

	scene_begin(*state, 2);
	screen = scene_consumer(display);
	wanted = scene_consumer(ram);
	meter = consumer_of_all(rig);
	scene_join(meter, DL_CURSOR_CLEAN);
	for (unsigned int turn = 0; turn < 10; turn++) {
		if (turn % 2 == 0)
			scene_run(turn / 2);
		scene_wait();
		if (turn == 1)
			scene_join_display(screen);
		if (turn == 2)
			rig_join(rig, 0);
		if (turn == 4)
			scene_join(wanted, DL_CURSOR_WANTED);
		if (turn == 6)
			checker_leave(screen);
		if (turn == 7)
			rig_leave(rig);
		if (turn == 8)
			scene_join_display(screen);
		if (turn == 9)
			rig_join(rig, 0);
		assert_in_range(consumer_measure(meter), 1, most);
		if (screen->cursor)
			consumer_pass(screen, 1);
		if (rig->checker.cursor && turn % 2)
			rig_pass(rig, 0);
		if (wanted->cursor)
			consumer_pass(wanted, 1 + turn % 2);
	}
	rig_stop(rig);
	/* The meter began clean and has read nothing since: its only pass is the last one. */
	consumer_finish(meter);
	scene_finish(screen, wanted);
}

/* Passes overlap: the same pages are in flight for several consumers. */
static void a_pass_of_one_is_open_in_a_pass_of_another(void **state)
{
	struct checker *screen, *other;

	scene_begin(*state, 2);
	screen = scene_consumer(display);
	other = consumer_of_all(rig);
	rig_join(rig, 0);
	scene_join(other, 0);
	scene_join_display(screen);
	for (unsigned int turn = 0; turn < 6; turn++) {
		struct dl_extent extents[3];
		int n;

		scene_run(turn);
		assert_int_equal(dl_harvest(rig->checker.cursor, 0, NULL), 0);
		n = dl_cursor_read(rig->checker.cursor, extents, 3);
		assert_in_range(n, 1, 3);
		scene_wait();
		assert_int_equal(dl_harvest(other->cursor, 0, NULL), 0);
		consumer_pass(screen, 1);
		for (int i = 0; i < n; i++)
			assert_true(checker_copy_run(&rig->checker, &extents[i]));
		assert_int_equal(dl_cursor_ack(rig->checker.cursor, extents, (uint32_t)n), 0);
		assert_int_equal(checker_finish_pass(other, 2), 0);
		assert_int_equal(checker_finish_pass(&rig->checker, 1), 0);
	}
	scene_finish(screen, other);
}

static int mark_step(struct worker *worker)
{
	uint64_t page = atomic_load(&worker->steps) * 37 % SMALL_PAGES;
	volatile uint8_t *byte = scratch->memory + page * rig->page_bytes + 4000;

	++*byte;
	return dl_mark_gpa(rig->log, 0, scratch->gpa + page * rig->page_bytes, 1);
}

/* C2: beside vCPUs, and beside cursors that come and go. */
static void marks_are_seen_while_cursors_come_and_go(void **state)
{
	struct checker *other;

	scene_begin(*state, 2);
	other = consumer_of_all(rig);
	rig_join(rig, 0);
	rig_start_worker(rig, 0, mark_step);
	for (unsigned int turn = 0; turn < 9; turn++) {
		scene_run(turn);
		worker_wait(&rig->workers[0], 5);
		if (turn % 3 == 0)
			scene_join(other, 0);
		consumer_pass(other, 1);
		rig_pass(rig, 0);
		if (turn % 3 == 2)
			checker_leave(other);
	}
	rig_end_workers(rig);
	scene_finish(other, NULL);
}

int main(void)
{
	const struct way_test tests[] = {
		way_test(consumers_come_and_go_while_vcpus_write),
		way_test(a_pass_of_one_is_open_in_a_pass_of_another),
		way_test(marks_are_seen_while_cursors_come_and_go),
	};

	return ways_run_tests("cursors", tests);
}
