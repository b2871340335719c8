/* SPDX-License-Identifier: MIT */
/*
 * The library's own share of a harvest on the real /dev/kvm: all time except that of RESET, GET and
 * CLEAR. With rings a harvest is dl_harvest(); with bitmaps it includes the rest of the pass, which
 * calls CLEAR.
 */
#include "bench.h"
#include "figures.h"
#include "guest.h"

#include <stdio.h>

static struct bench_guest guest;

static void one_harvest(uint32_t mode, bool random, bool with_other, double *own_ns, double *all_ns)
{
	uint64_t begin_ns, end_ns, pages = 0;

	guest_write_pages(&guest, random);
	if (with_other)
		guest_start_other(&guest);
	guest.system.ioctl_ns = 0;
	begin_ns = bench_now_ns();
	guest_harvest(&guest);
	if (mode == DL_MODE_BITMAP)
		pages = guest_iterate(&guest);
	end_ns = bench_now_ns();
	if (with_other)
		guest_stop_other(&guest);
	*all_ns = (double)(end_ns - begin_ns);
	*own_ns = *all_ns - (double)guest.system.ioctl_ns;
	if (mode == DL_MODE_RING)
		pages = guest_iterate(&guest);
	if (pages != GUEST_DIRTY_PAGES)
		bench_die("the harvest does not have the pages that the guest wrote", 0);
}

static void figure(const char *name, uint32_t mode, bool random, bool with_other)
{
	double own_ns[BENCH_MOST_RUNS], all_ns[BENCH_MOST_RUNS];
	const struct bench_pair pair = {
		.name = name,
		.against = mode == DL_MODE_RING ? "the whole harvest" : "the whole pass",
		.unit = "page",
		.units = GUEST_DIRTY_PAGES,
		.bar = 0.25,
		.is_floor = true,
	};
	const char *missing = guest_missing(mode);

	if (!bench_wants(name))
		return;
	if (missing) {
		bench_skip(name, missing);
		return;
	}
	guest_open(&guest, mode, true);
	one_harvest(mode, random, with_other, &own_ns[0], &all_ns[0]); /* warms caches and memory */
	for (size_t i = 0; i < bench_runs(); i++)
		one_harvest(mode, random, with_other, &own_ns[i], &all_ns[i]);
	bench_note(&pair, own_ns, all_ns, bench_runs());
	guest_close(&guest);
}

void share_figures(void)
{
	figure("share: ring, in order, vCPUs stopped", DL_MODE_RING, false, false);
	figure("share: ring, random, vCPUs stopped", DL_MODE_RING, true, false);
	figure("share: ring, in order, a vCPU runs", DL_MODE_RING, false, true);
	figure("share: ring, random, a vCPU runs", DL_MODE_RING, true, true);
	figure("share: bitmap, in order, vCPUs stopped", DL_MODE_BITMAP, false, false);
	figure("share: bitmap, random, vCPUs stopped", DL_MODE_BITMAP, true, false);
	figure("share: bitmap, random, a vCPU runs", DL_MODE_BITMAP, true, true);
}
