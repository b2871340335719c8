/* SPDX-License-Identifier: MIT */
/* Proves on the model kernel that the scenes can fail. */
#include <stdio.h>

#include "misuses.h"

int main(void)
{
	for (int kind = 0; kind < FEW_KINDS; kind++)
		for (unsigned int i = 0; i < n_scenes; i++)
			if (!scenes[i].needs_threads)
				add_misuses(&scenes[i], &few_kinds[kind], &hv_model, NULL);
	return rows_run("vmm sabotage");
}
