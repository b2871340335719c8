/* SPDX-License-Identifier: MIT */
/*
 * A program for tracing.py: it passes every probe at least once, and prints what the library's own
 * counters say.
 */
#include "guest.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

enum { PAGES = 512, ENTRIES = 256 };

static struct guest guest;

static void overflow(struct guest_vcpu *vcpu)
{
	for (uint64_t i = 0; i < ENTRIES + 40; i++)
		assert_int_equal(
			model_vcpu_write_unchecked(guest.model, vcpu->fd, 0, i * 4096, NULL, 8), 0);
}

static void passes_every_probe(void **state)
{
	const struct guest_config config = { .options = { .mode = DL_MODE_RING,
							  .ring_entries = ENTRIES } };
	struct guest_vcpu *vcpu;
	struct dl_stats stats;

	guest_open(&guest, &config);
	guest_add_slot(&guest, 7, 0, PAGES);
	vcpu = guest_vcpu(&guest, true);
	guest_join(&guest, 0);
	for (uint64_t page = 0; page < PAGES; page++)
		guest_write(&guest, vcpu, 0, page);
	assert_int_equal(guest_harvest(&guest, 0), 0);
	assert_int_equal(dl_cursor_end(guest.cursor, 0), 0);
	overflow(vcpu);
	assert_int_equal(guest_harvest(&guest, DL_HARVEST_PAUSED), 0);
	guest_leave(&guest);
	stats = guest_stats(&guest);
	assert_true(stats.full_exits && stats.overflows && stats.repairs);
	printf("ring_full %" PRIu64 "\nring_overflow %" PRIu64 "\nrepair %" PRIu64
	       "\nreset %" PRIu64 "\nslot_change %u\npasses 2\n",
	       stats.full_exits, stats.overflows, stats.repairs, stats.resets, guest.regions);
	fflush(stdout);
	guest_close(&guest);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(passes_every_probe) };

	return cmocka_run_group_tests_name("traced", tests, NULL, NULL);
}
