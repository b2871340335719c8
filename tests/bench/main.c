/* SPDX-License-Identifier: MIT */
#include "bench.h"
#include "figures.h"

int main(int argc, char **argv)
{
	bench_begin(argc, argv, "bench");
	rings_figures();
	scale_figures();
	memory_figures();
	pass_figures();
	bitmap_figures();
	iterator_figures();
	mark_figures();
	foreign_figures();
	watch_figures();
	cursor_figures();
	take_figures();
	share_figures();
	slots_figures();
	many_slots_figures();
	return bench_end();
}
