/* SPDX-License-Identifier: MIT */
/* A sender that acknowledges while logging is stopped gets -ECANCELED and no other error. */
#include "cmocka_all.h"
#include "guest.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

enum { PAGES = 2000 };

static unsigned int rounds = 400;

static struct guest guest;
static struct dl_iter *iter;
static struct dl_run run;
static atomic_uint acknowledged;

/* Acknowledges page by page; returns the first error. */
static void *acknowledge(void *unused)
{
	struct dl_run page = run;

	for (unsigned int i = 0; i < PAGES; i++) {
		int r;

		page.offset_bytes = (uint64_t)i * guest.page_bytes;
		page.bytes = guest.page_bytes;
		r = dl_iter_ack(iter, &page, 1);
		if (r)
			return (void *)(intptr_t)r;
		atomic_store_explicit(&acknowledged, i + 1, memory_order_relaxed);
	}
	return NULL;
}

static void an_acknowledgement_that_meets_a_stop_is_canceled(void **state)
{
	const struct guest_config config = { .options = { .mode = DL_MODE_RING,
							  .ring_entries = 256 } };
	unsigned int canceled = 0;

	guest_open(&guest, &config);
	guest_add_slot(&guest, 0, 0, PAGES);
	for (unsigned int round = 0; round < rounds; round++) {
		pthread_t thread;
		void *result;

		assert_int_equal(dl_log_start(guest.log, 0), 0);
		assert_int_equal(dl_iter_new(guest.log, 0, &iter), 0);
		assert_int_equal(dl_iter_read(iter, &run, 1), 1);
		assert_int_equal(run.bytes, (uint64_t)PAGES * guest.page_bytes);
		atomic_store(&acknowledged, 0);
		assert_int_equal(pthread_create(&thread, NULL, acknowledge, NULL), 0);
		while (atomic_load_explicit(&acknowledged, memory_order_relaxed) <
		       round * 7919 % PAGES)
			sched_yield();
		assert_int_equal(dl_log_stop(guest.log), 0);
		pthread_join(thread, &result);
		if (result) {
			assert_int_equal((int)(intptr_t)result, -ECANCELED);
			canceled++;
		}
		dl_iter_free(iter);
	}
	print_message("%u of %u were canceled\n", canceled, rounds);
	guest_close(&guest);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_acknowledgement_that_meets_a_stop_is_canceled),
	};

	if (argc > 1 && atoi(argv[1]))
		rounds = (unsigned int)atoi(argv[1]);
	return RUN_TESTS("races: a stop during acknowledgements", tests);
}
