/* SPDX-License-Identifier: MIT */
/*
 * A sender acknowledges while its pass ends, its slot changes or its log closes. It takes no page
 * of the next pass, and gets no error but -ECANCELED. What it acknowledged in time stays so, and
 * the rest comes back.
 */
#include "cmocka_all.h"
#include "cursor.h"
#include "guest.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdlib.h>
#include <unistd.h>

enum { PAGES = 2000, OTHER_GPA_PAGE = 10000 };

static unsigned int rounds = 400;

static struct guest guest;
static struct guest_block *block;
static struct dl_cursor *cursor;
static struct dl_extent extent;
static atomic_uint acknowledged;

static uint64_t all_bytes(void)
{
	return (uint64_t)PAGES * guest.page_bytes;
}

static void open_guest(void)
{
	const struct guest_config config = { .options = { .mode = DL_MODE_RING,
							  .ring_entries = 256 } };

	guest_open(&guest, &config);
	block = guest_add_slot(&guest, 0, 0, PAGES);
	assert_int_equal(dl_cursor_new(guest.log, NULL, &cursor), 0);
}

static void close_guest(void)
{
	dl_cursor_free(cursor);
	guest_close(&guest);
}

static struct dl_cursor_stats stats_of(void)
{
	struct dl_cursor_stats stats = { .size = sizeof(stats) };

	assert_int_equal(dl_cursor_stats(cursor, &stats), 0);
	return stats;
}

static void begin_pass(void)
{
	assert_int_equal(dl_harvest(cursor, DL_HARVEST_ALL, NULL), 0);
	assert_int_equal(dl_cursor_read(cursor, &extent, 1), 1);
	assert_int_equal(extent.bytes, all_bytes());
}

/* Acknowledges page by page; returns the first error. */
static void *acknowledge(void *unused)
{
	struct dl_extent page = extent;

	for (unsigned int i = 0; i < PAGES; i++) {
		int r;

		page.offset_bytes = (uint64_t)i * guest.page_bytes;
		page.bytes = guest.page_bytes;
		r = dl_cursor_ack(cursor, &page, 1);
		if (r)
			return (void *)(intptr_t)r;
		atomic_store_explicit(&acknowledged, i + 1, memory_order_relaxed);
	}
	return NULL;
}

/* Reads all pages and begins to acknowledge them. Returns somewhere in the middle. */
static pthread_t begin_round(unsigned int round)
{
	pthread_t thread;

	begin_pass();
	atomic_store(&acknowledged, 0);
	assert_int_equal(pthread_create(&thread, NULL, acknowledge, NULL), 0);
	while (atomic_load_explicit(&acknowledged, memory_order_relaxed) < round * 7919 % PAGES)
		sched_yield();
	return thread;
}

static int end_round(pthread_t thread)
{
	void *result;

	assert_int_equal(pthread_join(thread, &result), 0);
	return (int)(intptr_t)result;
}

/* whole: all is pending after the interruption, whatever was acknowledged. */
static void interrupt_with(void (*interrupt)(unsigned int round), bool whole)
{
	unsigned int late = 0;

	open_guest();
	for (unsigned int round = 0; round < rounds; round++) {
		uint64_t before = stats_of().acked_bytes, acked_bytes;
		pthread_t thread = begin_round(round);
		struct dl_cursor_stats stats;

		interrupt(round);
		assert_int_equal(end_round(thread), 0);
		assert_int_equal(dl_cursor_end(cursor, 0), 0);
		stats = stats_of();
		acked_bytes = stats.acked_bytes - before;
		assert_int_equal(stats.unacked_bytes, 0);
		assert_int_equal(stats.pending_bytes, all_bytes() - (whole ? 0 : acked_bytes));
		late += acked_bytes != all_bytes();
	}
	print_message("%u of %u were interrupted\n", late, rounds);
	close_guest();
}

static void end_pass(unsigned int round)
{
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
}

static void an_acknowledgement_meets_the_end_of_its_pass(void **state)
{
	interrupt_with(end_pass, false);
}

/* The slot is wholly pending at its new place. */
static void move_slot(unsigned int round)
{
	const uint64_t gpa_page = round & 1 ? 0 : OTHER_GPA_PAGE;
	const struct dl_slot slot = guest_slot(&guest, 0, gpa_page, block, 0, PAGES);

	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
}

static void an_acknowledgement_meets_a_move_of_its_slot(void **state)
{
	interrupt_with(move_slot, true);
}

static void replace_slot(unsigned int round)
{
	const struct dl_slot slot = guest_slot(&guest, 0, 0, block, 0, PAGES);

	assert_int_equal(dl_slot_remove(guest.log, 0, 0, NULL, 0), 0);
	assert_int_equal(dl_slot_set(guest.log, &slot), 0);
}

static void an_acknowledgement_meets_the_removal_of_its_slot(void **state)
{
	interrupt_with(replace_slot, true);
}

static void an_acknowledgement_takes_no_page_of_the_next_pass(void **state)
{
	open_guest();
	for (unsigned int round = 0; round < rounds; round++) {
		pthread_t thread = begin_round(round);
		uint64_t handed_bytes = 0;
		struct dl_extent next;
		int n;

		assert_int_equal(dl_cursor_end(cursor, 0), 0);
		assert_int_equal(dl_harvest(cursor, DL_HARVEST_ALL, NULL), 0);
		while ((n = dl_cursor_read(cursor, &next, 1)) > 0)
			handed_bytes += next.bytes;
		assert_int_equal(n, 0);
		assert_int_equal(end_round(thread), 0);
		assert_int_equal(handed_bytes, all_bytes());
		assert_int_equal(stats_of().unacked_bytes, handed_bytes);
		assert_int_equal(dl_cursor_end(cursor, 0), 0);
	}
	close_guest();
}

static void an_acknowledgement_that_meets_a_close_is_canceled(void **state)
{
	unsigned int canceled = 0;

	for (unsigned int round = 0; round < rounds; round++) {
		pthread_t thread;
		int r;

		open_guest();
		thread = begin_round(round);
		dl_log_close(guest.log);
		guest.log = NULL;
		r = end_round(thread);
		canceled += r != 0;
		assert_true(!r || r == -ECANCELED);
		close_guest();
	}
	print_message("%u of %u were canceled\n", canceled, rounds);
}

/*
 * A moment that threads rarely hit: the slot moves when an acknowledgement has found it in the open
 * pass, and has not looked at its pages yet.
 */
static struct {
	atomic_bool armed; /* the other thread looks at it in each acknowledgement */
	sem_t found, gone;
	pthread_t thread;
} late;

static void *acknowledge_all(void *unused)
{
	return (void *)(intptr_t)dl_cursor_ack(cursor, &extent, 1);
}

void __real_dli_pass_restart_slot(struct dl_log *log, struct dli_slot *slot);
void __wrap_dli_pass_restart_slot(struct dl_log *log, struct dli_slot *slot);
void __real_dli_page_set_requeue(struct dli_page_set *set);
void __wrap_dli_page_set_requeue(struct dli_page_set *set);
bool __real_dli_page_set_in_flight(const struct dli_page_set *set, uint64_t first_page,
				   uint64_t pages);
bool __wrap_dli_page_set_in_flight(const struct dli_page_set *set, uint64_t first_page,
				   uint64_t pages);

void __wrap_dli_pass_restart_slot(struct dl_log *log, struct dli_slot *slot)
{
	if (late.armed) {
		assert_int_equal(pthread_create(&late.thread, NULL, acknowledge_all, NULL), 0);
		sem_wait(&late.found);
	}
	__real_dli_pass_restart_slot(log, slot);
}

void __wrap_dli_page_set_requeue(struct dli_page_set *set)
{
	__real_dli_page_set_requeue(set);
	if (late.armed)
		sem_post(&late.gone);
	late.armed = false;
}

bool __wrap_dli_page_set_in_flight(const struct dli_page_set *set, uint64_t first_page,
				   uint64_t pages)
{
	if (late.armed) {
		sem_post(&late.found);
		sem_wait(&late.gone);
	}
	return __real_dli_page_set_in_flight(set, first_page, pages);
}

static void pages_that_leave_the_pass_meanwhile_are_no_error(void **state)
{
	struct dl_extent twice[2];

	open_guest();
	begin_pass();
	sem_init(&late.found, 0, 0);
	sem_init(&late.gone, 0, 0);
	late.armed = true;
	move_slot(0);
	assert_false(late.armed);
	assert_int_equal(end_round(late.thread), 0);
	assert_int_equal(stats_of().acked_bytes, 0);
	assert_int_equal(dl_cursor_end(cursor, 0), 0);
	/* While the slot stays in the pass, what is not in flight is an error. */
	begin_pass();
	twice[0] = twice[1] = extent;
	assert_int_equal(dl_cursor_ack(cursor, twice, 2), 0);
	assert_int_equal(dl_cursor_ack(cursor, &extent, 1), -EINVAL);
	assert_int_equal(stats_of().acked_bytes, all_bytes());
	close_guest();
}

static void *end_slowly(void *unused)
{
	return (void *)(intptr_t)dl_cursor_end(cursor, 0);
}

/*
 * A thread is parked in an acknowledgement. Who ends that pass waits for it, but nobody else does:
 * the paused harvest of another consumer.
 */
static void an_end_that_waits_holds_up_no_other_harvest(void **state)
{
	struct dl_cursor *other;
	pthread_t end;

	open_guest();
	assert_int_equal(dl_cursor_new(guest.log, NULL, &other), 0);
	begin_pass();
	sem_init(&late.found, 0, 0);
	sem_init(&late.gone, 0, 0);
	late.armed = true;
	assert_int_equal(pthread_create(&late.thread, NULL, acknowledge_all, NULL), 0);
	sem_wait(&late.found);
	assert_int_equal(pthread_create(&end, NULL, end_slowly, NULL), 0);
	while (dli_cursor_pass(cursor))
		sched_yield();
	/* With the log's lock held, this would never return. */
	alarm(30);
	assert_int_equal(dl_harvest(other, DL_HARVEST_PAUSED, NULL), 0);
	alarm(0);
	late.armed = false;
	sem_post(&late.gone);
	assert_int_equal(end_round(late.thread), 0);
	assert_int_equal(end_round(end), 0);
	assert_int_equal(stats_of().unacked_bytes, 0);
	dl_cursor_free(other);
	close_guest();
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pages_that_leave_the_pass_meanwhile_are_no_error),
		cmocka_unit_test(an_end_that_waits_holds_up_no_other_harvest),
		cmocka_unit_test(an_acknowledgement_meets_the_end_of_its_pass),
		cmocka_unit_test(an_acknowledgement_meets_a_move_of_its_slot),
		cmocka_unit_test(an_acknowledgement_meets_the_removal_of_its_slot),
		cmocka_unit_test(an_acknowledgement_takes_no_page_of_the_next_pass),
		cmocka_unit_test(an_acknowledgement_that_meets_a_close_is_canceled),
	};

	if (argc > 1 && atoi(argv[1]))
		rounds = (unsigned int)atoi(argv[1]);
	return RUN_TESTS("races: acknowledgements that come too late", tests);
}
