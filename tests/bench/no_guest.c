/* SPDX-License-Identifier: MIT */
/* An architecture for which there is no guest in tests/kvm. */
#include "bench.h"
#include "figures.h"

void share_figures(void)
{
	if (bench_wants("share"))
		bench_skip("share", "no guest for this architecture");
}
