/* SPDX-License-Identifier: MIT */
/* For architectures without a guest in tests/kvm. */
#include "bench.h"
#include "figures.h"

void share_figures(void)
{
	if (bench_wants("share"))
		bench_skip("share", "no guest for this architecture");
}
